"""A TCP proxy that does what networks do.

Tasks, in the proxy's group: the listener; per connection one that ends it, and two each way, one that reads and one
that writes when it is time.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import anyio
from anyio import (
    AsyncContextManagerMixin,
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
    create_task_group,
)
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup

from ._faults import Ending, Faults, OnConnect
from ._frames import Frames, close_frame, cut_point

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

__all__ = ("FaultProxy",)

CHUNK: Final = 65_536
ON_THE_WAY: Final = 256
"""Chunks that wait for their time, each way; then the reader waits."""
LAST_READ: Final = 1.0
"""Seconds for the worker's answer to a close frame."""
NO_SERVICE: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_GONE: Final = (EndOfStream, BrokenResourceError, ClosedResourceError)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST instead of FIN."""


class FaultProxy(Faults, AsyncContextManagerMixin):
    """Forwards connections from a port of this machine to an engine, and breaks them as told.

    ::

        async with FaultProxy(engine.url) as proxy, open_worker(proxy.url) as iii:
            ...
            proxy.close(1012)

    Args:
        url: WebSocket URL of the engine, without TLS.
        seed: Of the jitter.

    Attributes:
        url: Where workers connect; known once the block has been entered.
    """

    def __init__(self, url: str, *, seed: int = 0) -> None:
        super().__init__(seed)
        parts = urlsplit(url)
        if parts.scheme != "ws" or parts.hostname is None:
            raise ValueError(f"a FaultProxy forwards to a ws:// URL, not to {url!r}")
        self._engine = parts.hostname, parts.port or 80
        self._parts = parts
        self._port = 0
        self._open: set[_Connection] = set()
        self._listening: CancelScope | None = None
        self._is_refusing = False
        self._accept_again = anyio.Event()
        self.url: str = ""

    def __repr__(self) -> str:
        return f"<FaultProxy {self.url} {len(self._open)} open>"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def refuse(self) -> None:
        """Refuse connections from now on, until ``accept``; the present ones stay."""
        self._is_refusing = True
        if self._listening is not None:
            self._listening.cancel()

    def accept(self) -> None:
        """Accept connections again."""
        self._is_refusing = False
        self._accept_again.set()

    def calm(self) -> None:
        """Leave everything alone from now on; see ``Faults.calm``."""
        super().calm()
        self.accept()

    def cut_frame(self) -> None:
        """End each connection in the middle of the next frame that the engine sends."""
        for connection in self._open:
            connection.is_to_be_cut = True

    def _end_all(self, ending: Ending) -> None:
        for connection in self._open:
            connection.end(ending)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        listener = await self._listen()
        self._port = listener.extra(SocketAttribute.local_port)
        self.url = self._parts._replace(netloc=f"127.0.0.1:{self._port}").geturl()
        async with create_task_group() as tasks:
            tasks.start_soon(self._run_listener, listener, tasks, name="fault proxy listener")
            yield self
            tasks.cancel_scope.cancel()

    async def _listen(self) -> SocketListener:
        made = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self._port)
        listener = made.listeners[0]
        assert isinstance(listener, SocketListener)
        return listener

    async def _run_listener(self, listener: SocketListener, tasks: TaskGroup) -> None:
        while True:
            async with listener:
                with CancelScope() as self._listening:
                    if not self._is_refusing:
                        await listener.serve(self._serve, tasks)
            while self._is_refusing:
                self._accept_again = anyio.Event()
                await self._accept_again.wait()
            listener = await self._listen()

    async def _serve(self, worker: SocketStream) -> None:
        with suppress(*_GONE, OSError):
            async with AsyncExitStack() as stack:
                stack.push_async_callback(worker.aclose)
                await self._treat(worker, self._next_connection(), stack)

    async def _treat(self, worker: SocketStream, what: OnConnect, stack: AsyncExitStack) -> None:
        match what:
            case "eof":
                return
            case "reset" | "refuse":
                _reset_on_close(worker)
                return
            case "http_503":
                head = Frames()
                while not head.has_head:
                    head.feed(await worker.receive(CHUNK))
                await worker.send(NO_SERVICE)
                return
            case "black_hole":
                await self._hold()
                return
            case _:
                pass
        engine = await anyio.connect_tcp(*self._engine)
        stack.push_async_callback(engine.aclose)
        connection = _Connection(self, worker, engine, ends_with_head=what == "eof_after_101")
        self._open.add(connection)
        try:
            ending = await connection.run()
        finally:
            self._open.discard(connection)
        await self._finish(worker, engine, ending)

    async def _finish(self, worker: SocketStream, engine: SocketStream, ending: Ending) -> None:
        if ending.kind == "black_hole":
            await self._hold()
            return
        if ending.kind == "reset":
            _reset_on_close(worker)
            if ending.is_engine_told:
                _reset_on_close(engine)
        if ending.kind == "close":
            await worker.send(close_frame(ending.code, ending.reason))
            with anyio.move_on_after(LAST_READ):  # what is unread would turn the close into a reset
                with suppress(*_GONE):
                    while True:
                        await worker.receive(CHUNK)
        if not ending.is_engine_told:
            await worker.aclose()
            await self._hold()


class _Connection:
    """One worker's connection while it works."""

    def __init__(self, faults: Faults, worker: SocketStream, engine: SocketStream, *, ends_with_head: bool) -> None:
        self.is_to_be_cut = False
        self._faults = faults
        self._worker = worker
        self._engine = engine
        self._ends_with_head = ends_with_head
        self._scope = CancelScope()
        self._ending: Ending | None = None
        self._frames = Frames()
        """Those on their way to the worker."""

    def end(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
        if ending.kind != "close" or self._frames.is_between:
            self._scope.cancel()
        # Otherwise the frame that is under way is completed first.

    async def run(self) -> Ending:
        with self._scope:
            async with create_task_group() as tasks:
                tasks.start_soon(self._pump, self._worker, self._engine, tasks)
                tasks.start_soon(self._pump, self._engine, self._worker, tasks)
        return self._ending or Ending("eof")

    async def _pump(self, source: SocketStream, target: SocketStream, tasks: TaskGroup) -> None:
        send, receive = anyio.create_memory_object_stream[tuple[float, bytes]](ON_THE_WAY)
        tasks.start_soon(self._write, receive, target)
        async with send:
            with suppress(*_GONE):
                while True:
                    data = await source.receive(CHUNK)
                    try:
                        send.send_nowait((self._faults.due(), data))
                    except WouldBlock:
                        await send.send((self._faults.due(), data))

    async def _write(self, receive: MemoryObjectReceiveStream[tuple[float, bytes]], target: SocketStream) -> None:
        async with receive:
            with suppress(*_GONE):
                async for due, data in receive:
                    await anyio.sleep_until(due)
                    if target is self._worker:
                        await self._to_worker(data)
                    else:
                        await target.send(data)
                    if (rate := self._faults.bytes_per_second) is not None:
                        await anyio.sleep(len(data) / rate)
        self._scope.cancel()

    async def _to_worker(self, data: bytes) -> None:
        was_between = self._frames.is_between
        ends = self._frames.feed(data)
        if self._ends_with_head and self._frames.has_head:
            await self._stop_with(data[: ends[0]], Ending("eof"))
        elif self.is_to_be_cut:
            await self._stop_with(data[: cut_point(len(data), was_between, ends)], Ending("eof"))
        elif self._ending is not None and ends:  # a close frame waits for its place
            await self._stop_with(data[: ends[0]], self._ending)
        else:
            await self._worker.send(data)

    async def _stop_with(self, data: bytes, ending: Ending) -> None:
        await self._worker.send(data)
        self._ending = ending
        self._scope.cancel()


def _reset_on_close(stream: SocketStream) -> None:
    with suppress(OSError, anyio.TypedAttributeLookupError):
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
