"""Plain TCP streams with less between the socket and the wire than anyio's own have.

anyio's streams go through its portable primitives at each read and write: an event, one or two checkpoints, on asyncio
two system calls that stop and restart reading. That is most of what a single small message costs. ``direct_stream``
takes the connection over from such a stream; what it cannot take over, TLS above all, stays as it is.

Below: the transport of asyncio or uvloop, or the socket of trio. Above: ``websocket``, which says what a stream is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint, current_token

from .backend import backend_of

if TYPE_CHECKING:
    import socket

    from anyio.abc import ByteStream

    from .backend import Backend, Slot

__all__ = ("SocketStream", "TransportStream", "direct_stream")

MAX_UNREAD: Final = 1_048_576
"""Bytes that may wait for the reader before the transport stops reading."""
_TURN: Final = 8
"""Reads or writes that need not wait, after which others of the loop have their turn."""


def direct_stream(stream: ByteStream) -> ByteStream | TransportStream | SocketStream:
    """Take a TCP stream of anyio's over; from here on only the result may be used. Others are returned as they are."""
    backend = backend_of(current_token())
    if backend.name == "trio":
        raw = stream.extra(SocketAttribute.raw_socket, None)
        return stream if raw is None else SocketStream(stream, raw, backend)
    # anyio has no public way to the transport. Without these attributes its stream serves as well, only slower.
    transport, protocol = getattr(stream, "_transport", None), getattr(stream, "_protocol", None)
    if not hasattr(transport, "set_protocol") or not hasattr(protocol, "read_queue"):
        return stream
    return TransportStream(transport, protocol, backend)


class TransportStream:
    """On asyncio and uvloop: the transport's protocol is the stream."""

    def __init__(self, transport: Any, previous: Any, backend: Backend) -> None:
        self._transport = transport
        self._backend = backend
        # What was read before, and what has happened.
        self._chunks: deque[bytes] = deque(previous.read_queue)
        self._unread = sum(map(len, self._chunks))
        self._is_over: bool = previous.is_at_eof
        self._error: BaseException | None = previous.exception
        self._is_closed = transport.is_closing()
        self._is_paused = False
        self._has_room = True
        self._reader: Slot | None = None
        self._writer: Slot | None = None
        self._turn = self._write_turn = _TURN
        if not self._is_closed:
            transport.set_protocol(self)
            transport.resume_reading()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """Keep it for the reader."""
        self._chunks.append(data)
        self._unread += len(data)
        if self._unread > MAX_UNREAD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        if self._reader is not None:
            self._reader.wake()

    def eof_received(self) -> bool:
        """Nothing more comes; writing goes on."""
        self._is_over = True
        self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._is_over = self._is_closed = True
        self._error = self._error or exc
        self._wake()

    def pause_writing(self) -> None:
        """The peer reads slower than we write."""
        self._has_room = False

    def resume_writing(self) -> None:
        """It has caught up."""
        self._has_room = True
        if self._writer is not None:
            self._writer.wake()

    def _wake(self) -> None:
        for slot in (self._reader, self._writer):
            if slot is not None:
                slot.wake()

    # The stream

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Return what arrived first."""
        if not self._chunks:
            self._turn = _TURN
            while not self._chunks:
                if self._error is not None:
                    raise BrokenResourceError from self._error
                if self._is_over:
                    raise ClosedResourceError if self._is_closed else EndOfStream
                self._reader = self._backend.new_slot()
                try:
                    await self._reader.wait()
                finally:
                    self._reader = None
        else:
            self._turn -= 1
            if not self._turn:
                self._turn = _TURN
                await checkpoint()
        data = self._chunks.popleft()
        if len(data) > max_bytes:
            self._chunks.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._unread -= len(data)
        if self._is_paused and self._unread <= MAX_UNREAD // 2:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    async def send(self, item: Any) -> None:
        """Write all of ``item``; wait while the peer does not read."""
        await self._wait_room()
        self._transport.write(item)
        if not self._has_room:
            await self._wait_room()
        else:
            self._write_turn -= 1
            if not self._write_turn:
                self._write_turn = _TURN
                await checkpoint()

    async def _wait_room(self) -> None:
        while True:
            if self._is_closed:
                raise ClosedResourceError if self._error is None else BrokenResourceError from self._error
            # A transport that failed to write is closing; `connection_lost`, which says why, comes a little later.
            if self._has_room and not self._transport.is_closing():
                return
            self._writer = self._backend.new_slot()
            try:
                await self._writer.wait()
            finally:
                self._writer = None

    def write_now(self, data: bytes) -> int:
        """Write, and return how many bytes were; the rest is to be written by ``send``."""
        transport = self._transport
        if self._is_closed or not self._has_room or transport.is_closing() or transport.get_write_buffer_size():
            return 0
        transport.write(data)
        return len(data)

    async def aclose(self) -> None:
        """Close without waiting for the peer."""
        self._is_closed = self._is_over = True
        self._transport.abort()
        self._wake()
        await checkpoint()


class SocketStream:
    """On trio: the socket itself, without the two passes of the scheduler that a read of trio's own takes."""

    def __init__(self, stream: ByteStream, sock: socket.socket, backend: Backend) -> None:
        self._stream = stream  # closes the socket, and tells those who wait for it
        self._socket = sock
        self._backend = backend
        self._is_drained = True
        self._turn = _TURN

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Return what has arrived."""
        while True:
            if self._is_drained:  # nothing to be had without waiting, as far as the last read tells
                self._turn = _TURN
                await self._backend.wait_readable(self._socket)
            else:
                self._turn -= 1
                if not self._turn:
                    self._turn = _TURN
                    await checkpoint()
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                self._is_drained = True
            except OSError as exc:
                raise self._error(exc) from exc
            else:
                if not data:
                    raise EndOfStream
                self._is_drained = len(data) < max_bytes
                return data

    async def send(self, item: Any) -> None:
        """Write all of ``item``; wait while the peer does not read."""
        with memoryview(item) as view:
            at = 0
            while at < len(view):
                try:
                    at += self._socket.send(view[at:])
                except BlockingIOError:
                    await self._backend.wait_writable(self._socket)
                except OSError as exc:
                    raise self._error(exc) from exc

    def write_now(self, data: bytes) -> int:
        """Write, and return how many bytes were; the rest is to be written by ``send``."""
        try:
            return self._socket.send(data)
        except OSError:  # full, or broken: ``send`` finds out
            return 0

    def _error(self, exc: OSError) -> Exception:
        return ClosedResourceError() if self._socket.fileno() < 0 else BrokenResourceError(str(exc))

    async def aclose(self) -> None:
        """Close without waiting for the peer."""
        await self._stream.aclose()
