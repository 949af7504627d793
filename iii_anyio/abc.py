"""The seams between the layers, as protocols: what a link needs of a wire, and a helper of a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

__all__ = ("Connector", "Invoker", "Wire")


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


class Invoker(Protocol):
    """What helpers such as state or queues need: somebody who can call functions."""

    def trigger(self, request: Any, /) -> Any:
        """Call and wait, blocking this thread."""
        ...

    async def trigger_async(self, request: Any, /) -> Any:
        """Call and wait."""
        ...
