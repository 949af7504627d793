"""Ways from workers to an engine that a test can cut: over TCP on loopback, and in one process.

A cut is what a broken network does: no close frame, and the worker sees 1006. The engine sees the same, or, with
``tell_engine=False``, nothing: its end of the connection stays open, as after a crash of the worker's host.

Tasks: one per direction of each connection. All end with the ``async with`` block.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Protocol

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream, create_task_group
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

from iii_anyio._wire.direct import DirectWire, direct_pair
from iii_anyio.abc import Connector, Wire
from iii_anyio.errors import LinkClosed

__all__ = ("DirectProxy", "Line", "TcpProxy", "open_direct_proxy", "open_tcp_proxy")

MAX_CONNECTIONS = 64
CHUNK = 65_536
LINGER_RESET = struct.pack("ii", 1, 0)
"""Close sends RST instead of FIN."""


class Line(Protocol):
    """What both proxies are to a test."""

    def cut(self, *, tell_engine: bool = True) -> None:
        """Break every connection there is; the next one works."""
        ...


class _Cuttable:
    """One connection: two pumps in a scope, and whether the engine's end outlives them."""

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.is_cut = False
        self.is_engine_told = True

    def cut(self, tell_engine: bool) -> None:
        self.is_cut = True
        self.is_engine_told = tell_engine
        self.scope.cancel()

    async def run(self, *pumps: Callable[[], Awaitable[None]]) -> None:
        """Pump until one side has ended, or the test cuts."""

        async def run(pump: Callable[[], Awaitable[None]]) -> None:
            await pump()
            self.scope.cancel()

        with self.scope:
            async with create_task_group() as tasks:
                for pump in pumps:
                    tasks.start_soon(run, pump)


class _Connections:
    """Those of one proxy; ``cut`` is the same for both kinds."""

    def __init__(self) -> None:
        self._open: set[_Cuttable] = set()

    def cut(self, *, tell_engine: bool = True) -> None:
        """See ``Line``."""
        for connection in self._open:
            connection.cut(tell_engine)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[_Cuttable]:
        assert len(self._open) < MAX_CONNECTIONS, "a worker reconnects without end"
        connection = _Cuttable()
        self._open.add(connection)
        try:
            yield connection
        finally:
            self._open.discard(connection)


# -- TCP -------------------------------------------------------------------------------------------------------------


class TcpProxy(_Connections):
    """Forwards TCP connections from a port on loopback to one address. Made by ``open_tcp_proxy``."""

    def __init__(self, host: str, port: int, own_port: int) -> None:
        super().__init__()
        self.port = own_port
        self._host = host
        self._port = port

    async def serve(self, worker: SocketStream) -> None:
        """Forward one connection."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_close, worker)
            try:
                engine = await stack.enter_async_context(await anyio.connect_tcp(self._host, self._port))
            except OSError:
                return
            async with self._connection() as connection:
                await connection.run(lambda: _copy(worker, engine), lambda: _copy(engine, worker))
                if connection.is_cut:
                    _reset_on_close(worker)
                    if connection.is_engine_told:
                        _reset_on_close(engine)
            if not connection.is_engine_told:
                await worker.aclose()
                await anyio.sleep_forever()  # holds the engine's end until the proxy ends


@asynccontextmanager
async def open_tcp_proxy(host: str, port: int) -> AsyncGenerator[TcpProxy]:
    """Listen on a free port of loopback for as long as the block lasts."""
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    proxy = TcpProxy(host, port, listener.extra(SocketAttribute.local_port))
    async with listener, create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.serve, tasks)
        yield proxy
        tasks.cancel_scope.cancel()


async def _copy(source: SocketStream, target: SocketStream) -> None:
    with suppress(EndOfStream, BrokenResourceError, ClosedResourceError):
        while True:
            await target.send(await source.receive(CHUNK))


def _reset_on_close(stream: SocketStream) -> None:
    with suppress(OSError):
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


async def _close(stream: SocketStream) -> None:
    await stream.aclose()


# -- in one process --------------------------------------------------------------------------------------------------


class DirectProxy(_Connections):
    """Joins workers to a connector by two wires instead of one. Made by ``open_direct_proxy``."""

    def __init__(self, connector: Connector, tasks: TaskGroup) -> None:
        super().__init__()
        self._connector = connector
        self._tasks = tasks

    def connector(self) -> Connector:
        """For ``open_worker(connector=...)``."""

        def connect() -> AbstractAsyncContextManager[Wire]:
            return self._connect()

        return connect

    @asynccontextmanager
    async def _connect(self) -> AsyncGenerator[Wire]:
        ours, theirs = direct_pair()
        self._tasks.start_soon(self._serve, theirs)
        try:
            yield ours
        finally:
            await ours.aclose()

    async def _serve(self, worker: DirectWire) -> None:
        async with self._connector() as engine, self._connection() as connection:
            await connection.run(lambda: _carry(worker, engine), lambda: _carry(engine, worker))
            if connection.is_cut:
                await worker.abort()
                if connection.is_engine_told:
                    await engine.abort()
                else:
                    await anyio.sleep_forever()  # holds the engine's end until the proxy ends


@asynccontextmanager
async def open_direct_proxy(connector: Connector) -> AsyncGenerator[DirectProxy]:
    """Carry messages for as long as the block lasts."""
    async with create_task_group() as tasks:
        yield DirectProxy(connector, tasks)
        tasks.cancel_scope.cancel()


async def _carry(source: Wire, target: Wire) -> None:
    try:
        while True:
            batch = await source.receive()
            source.pongs.clear()
            await target.send(batch)
    except LinkClosed as exc:
        await source.aclose(exc.code, exc.reason)
        await target.aclose(exc.code, exc.reason)
