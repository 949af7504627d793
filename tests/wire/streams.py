"""Byte streams for tests: joined in memory, watched, and broken on request."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from anyio import BrokenResourceError, ClosedResourceError, Condition, EndOfStream
from anyio.lowlevel import checkpoint

from iii_anyio._protocol.framing import Framing
from iii_anyio._wire.websocket import WebSocketWire


class Pipe:
    """One direction."""

    def __init__(self, buffer: float) -> None:
        self.buffer = buffer
        self.chunks: deque[bytes] = deque()
        self.changed = Condition()
        self.is_reader_gone = False
        self.is_writer_gone = False


class MemoryStream:
    """One end. ``writes`` has what was written, write by write."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.writes: list[bytes] = []
        self.is_closed = False
        self.read_error: Exception | None = None
        self.write_error: Exception | None = None

    @property
    def unread(self) -> list[bytes]:
        return list(self._incoming.chunks)

    async def receive(self, max_bytes: int, /) -> bytes:
        if self.read_error is not None:
            raise BrokenResourceError from self.read_error
        pipe = self._incoming
        await checkpoint()
        async with pipe.changed:
            while not pipe.chunks:
                if self.is_closed:
                    raise ClosedResourceError
                if pipe.is_writer_gone:
                    raise EndOfStream
                await pipe.changed.wait()
            chunk = pipe.chunks.popleft()
            if len(chunk) > max_bytes:
                pipe.chunks.appendleft(chunk[max_bytes:])
                chunk = chunk[:max_bytes]
            pipe.changed.notify_all()
            return chunk

    async def send(self, item: Any, /) -> None:
        """Return when at most ``buffer`` writes are waiting to be read."""
        if self.write_error is not None:
            raise BrokenResourceError from self.write_error
        pipe = self._outgoing
        await checkpoint()
        async with pipe.changed:
            if self.is_closed:
                raise ClosedResourceError
            chunk = bytes(item)
            pipe.chunks.append(chunk)
            pipe.changed.notify_all()
            while len(pipe.chunks) > pipe.buffer:
                if self.is_closed:
                    raise ClosedResourceError
                if pipe.is_reader_gone:
                    raise BrokenResourceError
                await pipe.changed.wait()
            self.writes.append(chunk)

    async def aclose(self) -> None:
        self.is_closed = True
        self._incoming.is_reader_gone = self._outgoing.is_writer_gone = True
        for pipe in (self._incoming, self._outgoing):
            async with pipe.changed:
                pipe.changed.notify_all()


def memory_streams(buffer: float = math.inf) -> tuple[MemoryStream, MemoryStream]:
    """Two joined ends; in each direction ``buffer`` writes may wait to be read."""
    there, back = Pipe(buffer), Pipe(buffer)
    return MemoryStream(back, there), MemoryStream(there, back)


def wire_pair(buffer: float = math.inf) -> tuple[WebSocketWire, WebSocketWire, MemoryStream, MemoryStream]:
    """A client's wire, an engine's, and the streams below them."""
    near, far = memory_streams(buffer)
    return WebSocketWire(near, Framing(is_client=True)), WebSocketWire(far, Framing(is_client=False)), near, far
