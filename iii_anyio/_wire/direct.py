"""Two wires joined in one process, without sockets: how the development engine reaches its built-ins.

Below: nothing but memory. Above: the link of a worker on one end, the engine's connection on the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..errors import LinkClosed

__all__ = ("DirectWire", "direct_pair")

_PONGS_KEPT = 64


class _Pipe:
    """One direction: what was sent and not yet received, and whether its ends are open."""

    __slots__ = ("closed", "items", "limit", "readable", "writable")

    def __init__(self, limit: int) -> None:
        self.items: deque[bytes] = deque()
        self.limit = limit
        self.closed: tuple[int, str] | None = None
        self.readable: anyio.Event | None = None  # made by the reader when it waits
        self.writable: anyio.Event | None = None  # made by the first sender that waits

    def wake(self) -> None:
        """Let both sides look again."""
        self.wake_reader()
        self.wake_writer()

    def wake_reader(self) -> None:
        if self.readable is not None:
            self.readable.set()
            self.readable = None

    def wake_writer(self) -> None:
        if self.writable is not None:
            self.writable.set()
            self.writable = None


class DirectWire:
    """One end of a pair made by ``direct_pair``.

    It carries the encoded text as it is, not the values: encoding and decoding is the fastest deep copy that is right,
    so neither side can see the other change a payload, and what JSON cannot carry fails here as it does on a socket.
    """

    def __init__(self, inbox: _Pipe, outbox: _Pipe) -> None:
        self.pongs: list[bytes] = []
        self._inbox = inbox
        self._outbox = outbox
        self._has_pong = False
        self._closed: tuple[int, str] | None = None

    def __repr__(self) -> str:
        over = self._closed or self._outbox.closed
        return f"<DirectWire {'open' if over is None else f'closed {over[0]}'}>"

    async def receive(self) -> list[bytes]:
        """Return everything sent so far, or wait for it. See ``Wire.receive``."""
        inbox = self._inbox
        if inbox.items:
            await checkpoint()  # a reader that always finds something must not starve the loop
        while True:
            if self._closed is not None:
                raise LinkClosed(*self._closed)
            if inbox.items or self._has_pong:
                self._has_pong = False
                messages = list(inbox.items)
                inbox.items.clear()
                inbox.wake_writer()
                return messages
            if inbox.closed is not None:
                raise LinkClosed(*inbox.closed)
            inbox.readable = anyio.Event()
            await inbox.readable.wait()

    async def send(self, batch: Sequence[bytes]) -> None:
        """Hand over these messages in order, waiting while the peer's inbox is full.

        Unlike on a socket, the wire stays usable when this is cancelled: every message went whole or not at all.
        """
        await checkpoint_if_cancelled()
        outbox = self._outbox
        for message in batch:
            while outbox.closed is None and len(outbox.items) >= outbox.limit:
                if outbox.writable is None:
                    outbox.writable = anyio.Event()
                await outbox.writable.wait()
            self._check_open()
            outbox.items.append(message)
            outbox.wake_reader()

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        """Hand over messages if the peer's inbox has room. See ``Wire.send_now``."""
        outbox = self._outbox
        if self._closed is not None or outbox.closed is not None or len(outbox.items) >= outbox.limit:
            return False
        outbox.items.extend(take())
        outbox.wake_reader()
        return True

    @property
    def has_rest(self) -> bool:
        """Never: messages go whole."""
        return False

    async def ping(self, payload: bytes) -> None:
        """Answered at once: there is no network that could be slow or gone."""
        await checkpoint_if_cancelled()
        self._check_open()
        self.pongs.append(payload)
        del self.pongs[:-_PONGS_KEPT]
        self._has_pong = True
        self._inbox.wake_reader()  # the pong is seen when ``receive`` returns

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Close at once. The peer still receives what was sent, then ``LinkClosed`` with this code. Idempotent."""
        self._close(code, reason)

    async def abort(self) -> None:
        """Close as a lost connection would: what is on its way is lost, and the peer sees 1006. Idempotent."""
        if self._closed is None and self._outbox.closed is None:
            self._outbox.items.clear()
        self._close(1006, "aborted")

    def _close(self, code: int, reason: str) -> None:
        if self._closed is not None:
            return
        # A peer that closed first has said why; as on a socket, that is what later calls report.
        self._closed = self._inbox.closed or (code, reason)
        for pipe in (self._inbox, self._outbox):
            pipe.closed = self._closed
            pipe.wake()
        self._inbox.items.clear()

    def _check_open(self) -> None:
        over = self._closed or self._outbox.closed
        if over is not None:
            raise LinkClosed(*over)


def direct_pair(*, buffer: int = 1024) -> tuple[DirectWire, DirectWire]:
    """Make two joined wires, both for use in the same event loop.

    Args:
        buffer: Messages that may wait in each direction; then ``send`` waits.
    """
    there, back = _Pipe(buffer), _Pipe(buffer)
    return DirectWire(back, there), DirectWire(there, back)
