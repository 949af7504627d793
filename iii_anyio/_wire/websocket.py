"""A WebSocket as a ``Wire``: a byte stream and its framing, with coalesced writes.

Owns one open connection after its handshake. Below: ``_protocol/framing`` and a byte stream, which ``connect.py`` or
``listen.py`` made. Above: the link's reader, writer and heartbeat. No tasks of its own.

Who writes what
    Every write happens with ``_writing`` held, and ``send`` holds it for its whole batch: nothing can come into a frame
    or between the messages of a batch, and of the fragments of a long message only control frames come between (P-08).
    Pings, pongs and the answer to a close frame never wait for the peer. They go out at once when nobody is writing and
    the socket has room; otherwise whoever is writing takes them along behind its current frame, or the reader tries
    again. A reader that waited to write could keep two peers waiting for each other for ever, and a heartbeat that
    waited could not notice that the peer is dead.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import anyio
from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    TypedAttributeLookupError,
    TypedAttributeProvider,
    WouldBlock,
    move_on_after,
)
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..errors import LinkClosed

if TYPE_CHECKING:
    from .._protocol.framing import Data, Framing

__all__ = ("ByteStream", "HasFileno", "WebSocketWire", "raw_socket")

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for the closing handshake, and for a reader to find out why a write failed."""
_CONTROL_RETRY: Final = 0.1
"""Seconds between looks whether the socket has room again for a control frame. Hardly ever needed."""
_CONTROL_KEPT: Final = 32
"""Control frames that wait at most. A peer that pings and does not read may miss pongs (RFC 6455 5.5.3)."""
_CHUNK: Final = 65_536
_LARGE_CHUNK: Final = 1_048_576

_STREAM_ERRORS = (BrokenResourceError, ClosedResourceError, EndOfStream, OSError)


class ByteStream(Protocol):
    """What a wire needs of a stream; anyio's are such. Failures are anyio's resource errors or ``OSError``."""

    async def receive(self, max_bytes: int, /) -> bytes:
        """Return what arrived; ``b""`` or ``EndOfStream`` at the end."""
        ...

    async def send(self, item: Any, /) -> None:
        """Write all of ``item``: ``bytes`` or a ``memoryview``."""
        ...

    async def aclose(self) -> None:
        """Close without waiting for the peer."""
        ...


class HasFileno(Protocol):
    """A socket of whatever kind."""

    def fileno(self) -> int:
        """Return the descriptor, -1 when closed."""
        ...


class WebSocketWire:
    """One open WebSocket.

    Args:
        stream: Owned by the wire from now on.
        framing: A new one.
        socket: Below ``stream``, to see whether it has room. Without it control frames are taken to always have some.
        leading: What was read behind the handshake.
    """

    def __init__(
        self, stream: ByteStream, framing: Framing, *, socket: HasFileno | None = None, leading: bytes = b""
    ) -> None:
        self.pongs: list[bytes] = framing.pongs
        self._stream = stream
        self._framing = framing
        self._socket = socket
        self._leading = leading
        self._chunk = _CHUNK
        self._writing = anyio.Lock(fast_acquire=True)
        self._control: list[bytes] = []
        self._write_now: Callable[[bytes], int] | None = getattr(stream, "write_now", None)
        self._rest = b""
        """What ``send_now`` could not write."""
        self._is_reading = False
        self._read: anyio.Event | None = None  # made by who waits for the reader
        self._closing: tuple[int, str] | None = None
        self._lost: tuple[int, str] | None = None

    def __repr__(self) -> str:
        over = self._over()
        return f"<WebSocketWire {'open' if over is None else f'closed {over[0]}'}>"

    # Reading

    async def receive(self) -> list[bytes]:
        """Wait for bytes; return the messages they complete, text and binary alike. See ``Wire.receive``."""
        messages = self._framing.receive(await self._read_some())
        if not messages or self._framing.has_data_to_send:
            await self._after_reading(has_messages=bool(messages))
        return messages

    async def receive_typed(self) -> list[tuple[bool, bytes]]:
        """Like ``receive``, with whether the message is text in front of each."""
        messages = self._framing.receive_typed(await self._read_some())
        await self._after_reading(has_messages=bool(messages))
        return messages

    async def _read_some(self) -> bytes:
        self._check_open()
        if self._leading:
            await checkpoint()
            data, self._leading = self._leading, b""
            return data
        self._is_reading = True
        try:
            while self._control:
                with move_on_after(_CONTROL_RETRY):
                    return await self._stream.receive(self._chunk)
                await self._write_control()
            data = await self._stream.receive(self._chunk)
            if len(data) == self._chunk:
                # More was there: large messages are read in few calls, small ones do not pay for a large buffer.
                self._chunk = _LARGE_CHUNK
            return data
        except EndOfStream:
            return b""
        except _STREAM_ERRORS as exc:
            self._lost = (1006, f"reading failed: {_reason(exc)}")
            return b""
        finally:
            self._is_reading = False
            if self._read is not None:
                self._read.set()
                self._read = None

    async def _wait_read(self) -> None:
        """Wait until the reader's current read is over. Only who holds ``_writing``, or had it for the last time."""
        self._read = anyio.Event()
        await self._read.wait()

    async def _after_reading(self, *, has_messages: bool) -> None:
        control = self._framing.data_to_send()
        if control:
            self._control += control
            await self._write_control()
        if not has_messages and self._framing.closed is not None:
            self._raise_closed()

    # Writing

    async def send(self, batch: Sequence[bytes]) -> None:
        """Write text messages in order, in as few writes as possible. See ``Wire.send``."""
        await self._send(self._framing.send, batch)

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        """Write small messages without waiting. See ``Wire.send_now``."""
        if (
            self._write_now is None or self._rest or self._control or self._writing.locked()
            or self._lost is not None or self._closing is not None or self._framing.is_over
        ):  # fmt: skip
            return False
        data = b"".join([part for run in self._framing.send(take()) for part in run])
        written = self._write_now(data)
        if written < len(data):
            self._rest = data[written:]
        return True

    @property
    def has_rest(self) -> bool:
        """Whether a write is to be completed by ``send``."""
        return bool(self._rest)

    async def send_binary(self, batch: Sequence[bytes]) -> None:
        """Like ``send``, as binary messages."""
        await self._send(self._framing.send_binary, batch)

    async def _send(self, frame: Callable[[Sequence[bytes]], Iterator[Iterable[Data]]], batch: Sequence[bytes]) -> None:
        writing = self._writing
        try:
            writing.acquire_nowait()
        except WouldBlock:
            await writing.acquire()
        has_begun = False
        try:
            self._check_open()
            # P-08: cancelled before the first byte, the connection stays good.
            await checkpoint_if_cancelled()
            if self._rest:
                has_begun = True
                rest, self._rest = self._rest, b""
                await self._stream.send(rest)
            for run in frame(batch):
                # A close frame may have gone out behind the last run; nothing may follow it.
                self._framing.check_open()
                has_begun = True
                for part in run:
                    await self._stream.send(part)
                if self._control:
                    await self._flush_control()
        except LinkClosed:
            raise
        except _STREAM_ERRORS as exc:
            await self._find_out(exc)
        except BaseException:
            if has_begun and self._lost is None:
                self._lost = (1006, "a cancelled write left a message incomplete")
            raise
        finally:
            writing.release()

    async def _find_out(self, exc: Exception) -> NoReturn:
        """Writing failed. What the peer said before it went may still be unread, so let the reader come to the end."""
        with move_on_after(CLOSE_TIMEOUT):
            while self._is_reading and self._over() is None:
                await self._wait_read()
        if self._over() is None:
            self._lost = (1006, f"writing failed: {_reason(exc)}")
        self._raise_closed(exc)

    async def ping(self, payload: bytes) -> None:
        """Send a ping of at most 125 bytes without waiting for the peer: if it does not read, the ping waits."""
        self._check_open()
        self._framing.ping(payload)
        self._control += self._framing.data_to_send()
        await self._write_control()

    async def _write_control(self) -> None:
        """Write the waiting control frames if that will not wait; else the writer or the reader does it later."""
        del self._control[:-_CONTROL_KEPT]
        if self._writing.locked() or self._rest or self._lost is not None or not _has_room(self._socket):
            return
        self._writing.acquire_nowait()
        try:
            # There is room, so this does not wait for the peer; nor may it be cancelled, which would break the wire and
            # lose the messages that came with the ping. An error shows in the next read, behind the peer's last words.
            with move_on_after(CLOSE_TIMEOUT, shield=True) as scope, suppress(*_STREAM_ERRORS):
                await self._flush_control()
        finally:
            self._writing.release()
        if scope.cancelled_caught:
            self._lost = (1006, "the peer stopped reading")

    async def _flush_control(self) -> None:
        """With ``_writing`` held."""
        data = b"".join([self._rest, *self._control])
        self._rest = b""
        self._control.clear()
        await self._stream.send(data)

    # Ending

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame, wait at most a second for the peer's, then close. Idempotent.

        Cancellation does not shorten it: without the wait, the peer could lose what was sent last. Messages that
        arrive meanwhile are dropped.
        """
        if self._closing is not None:
            return
        self._closing = self._over() or (code, reason)
        try:
            if self._lost is None:
                with move_on_after(CLOSE_TIMEOUT, shield=True), suppress(*_STREAM_ERRORS):
                    await self._say_goodbye(code, reason)
        finally:
            await self._close_stream()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        framing = self._framing
        if self._leading:  # the peer's close frame may have come with the handshake
            framing.receive(self._leading)
            self._leading = b""
        async with self._writing:
            framing.close(code, reason)
            self._control += framing.data_to_send()
            if self._control:
                await self._flush_control()
        # Closing a socket with unread data resets it, and a reset may overtake what was written.
        while not framing.is_finished:
            if self._is_reading:
                await self._wait_read()
            else:
                try:
                    framing.receive(await self._stream.receive(self._chunk))
                except EndOfStream:
                    framing.receive(b"")

    async def abort(self) -> None:
        """Close the stream at once, without a close frame. Idempotent. The peer sees 1006."""
        if self._lost is None:
            self._lost = (1006, "aborted")
        self._closing = self._closing or self._lost
        await self._close_stream()

    async def _close_stream(self) -> None:
        with move_on_after(CLOSE_TIMEOUT, shield=True):
            with suppress(*_STREAM_ERRORS):
                await self._stream.aclose()

    def _over(self) -> tuple[int, str] | None:
        """Code and reason of the end, if it has come: what the peer said, or else what came first."""
        closed = self._framing.closed
        if closed is not None and closed[0] != 1006:
            return closed
        return self._lost or self._closing or closed

    def _check_open(self) -> None:
        if self._lost is not None or self._closing is not None or self._framing.closed is not None:
            self._raise_closed()

    def _raise_closed(self, cause: Exception | None = None) -> NoReturn:
        raise LinkClosed(*(self._over() or (1006, ""))) from cause


def _reason(exc: BaseException) -> str:
    """What the system said, below the exceptions that wrap it."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return str(exc) or type(exc).__name__


def raw_socket(stream: TypedAttributeProvider) -> HasFileno | None:
    """The socket below a stream of anyio's; ``None`` when there is none, or it is closed already."""
    try:
        return stream.extra(SocketAttribute.raw_socket)
    except (OSError, ValueError, TypedAttributeLookupError):
        # anyio asks for the peer's address first, which a socket that was reset does not have.
        return None


def _has_room(socket: HasFileno | None) -> bool:
    """Whether the socket takes a few hundred bytes at once. The system says no long before the buffer is full."""
    if socket is None:
        return True
    try:
        if sys.platform == "win32":
            return bool(select.select([], [socket], [], 0)[1])
        poll = select.poll()
        poll.register(socket, select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True  # closed: the write will tell
