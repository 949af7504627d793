"""The seams between the layers, as protocols: what a link needs of a wire, and a helper of a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

__all__ = (
    "Background",
    "ChannelConnector",
    "ChannelWire",
    "Connector",
    "Invoker",
    "OpenChannel",
    "TelemetryConnector",
    "Wire",
)


class Wire(Protocol):
    """One connection that carries whole messages as UTF-8 JSON text.

    Used by one reader and one writer task at a time. Every method that waits is cancellable; a ``send`` that was
    cancelled half-way leaves the wire unusable, and it knows: the next ``send`` or ``receive`` raises ``LinkClosed``.
    """

    pongs: list[bytes]
    """Payloads of the pongs received since somebody last cleared the list."""

    async def receive(self) -> list[bytes]:
        """Wait for the peer and return every complete message that arrived, oldest first.

        Empty when only control frames or a part of a message came.

        Raises:
            LinkClosed: The connection ended, whatever the reason; ``code`` tells.
        """
        ...

    async def send(self, batch: Sequence[bytes]) -> None:
        """Write these messages in order, in as few writes as possible.

        Raises:
            LinkClosed: The connection ended.
        """
        ...

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        """Send the messages that ``take`` returns without waiting; False if that cannot be, then it is not called.

        Some of it may be left to the next ``send``, which then has to come: ``has_rest`` says so. Never raises.
        """
        ...

    @property
    def has_rest(self) -> bool:
        """Whether ``send`` is to be called, be it with nothing."""
        ...

    async def ping(self, payload: bytes) -> None:
        """Send a ping; its pong appears in ``pongs``."""
        ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame (1005: one without status), wait briefly for the peer's, then close. Idempotent."""
        ...

    async def abort(self) -> None:
        """Close at once, without a close frame; the peer sees 1006. Idempotent."""
        ...


Connector: TypeAlias = Callable[[], AbstractAsyncContextManager[Wire]]
"""Opens a wire for as long as the ``async with`` lasts. Leaving it releases the socket in any case."""


class ChannelWire(Protocol):
    """One connection to an end of a data channel: text and binary items (§12.3). Used as a ``Wire``."""

    async def receive_typed(self) -> list[tuple[bool, bytes]]:
        """Like ``Wire.receive``, with whether the item is text in front of each. Text is not checked for UTF-8."""
        ...

    async def send(self, batch: Sequence[bytes]) -> None:
        """Write these text items; see ``Wire.send``."""
        ...

    async def send_binary(self, batch: Sequence[bytes]) -> None:
        """Write these binary items; see ``Wire.send``."""
        ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """See ``Wire.aclose``."""
        ...

    async def abort(self) -> None:
        """See ``Wire.abort``."""
        ...


OpenChannel: TypeAlias = Callable[[str, str, str], AbstractAsyncContextManager[ChannelWire]]
"""Opens one end of a channel: channel id, access key, ``read`` or ``write``. Raises ``ConnectError``."""


@runtime_checkable
class ChannelConnector(Protocol):
    """A ``Connector`` that does not go by the worker's URL and opens channels in its own way."""

    def channel(self, channel_id: str, access_key: str, direction: str, /) -> AbstractAsyncContextManager[ChannelWire]:
        """See ``OpenChannel``."""
        ...


@runtime_checkable
class TelemetryConnector(Protocol):
    """A ``Connector`` that does not go by the worker's URL and takes telemetry in its own way."""

    def take_telemetry(self, frame: bytes, /) -> None:
        """Take one frame (§15). Never waits, never raises."""
        ...


class Invoker(Protocol):
    """What helpers such as state or queues need: somebody who can call functions."""

    def trigger(self, request: Any, /) -> Any:
        """Call and wait, blocking this thread."""
        ...

    async def trigger_async(self, request: Any, /) -> Any:
        """Call and wait."""
        ...


class Background(Protocol):
    """Who runs what is written to a data channel without waiting: a worker."""

    def is_on_loop(self) -> bool:
        """Whether this is the thread of the worker's loop."""
        ...

    def start_background(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Run an async function as a task of the worker, from any thread.

        Raises:
            ShutdownError: The worker has shut down.
        """
        ...
