"""The engine with I/O: listeners, connections, built-in workers, timers. ``open_engine`` is its lifetime.

Tasks (all end with the ``async with`` block):

    engine group
    ├─ built-in workers        each a worker on a DirectWire with the tasks of its service, such as the HTTP server;
    │                          they end first, so that triggers stop firing
    └─ connections group
       ├─ worker listener      one task per WebSocket
       │                       (data channels: ``_channels``)
       ├─ in-process workers   one task per DirectWire
       ├─ channel sweeps
       └─ timers
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, Self

import anyio
from anyio import TASK_STATUS_IGNORED, AsyncContextManagerMixin, create_task_group
from anyio.abc import SocketAttribute, SocketListener, TaskGroup, TaskStatus

from .._runtime.cleanup import last_words, unwrap_single
from .._version import __version__
from .._wire.direct import direct_pair
from .._wire.listen import Accepted, serve_websockets
from ..errors import ConnectError
from ..options import InitOptions, Limits
from ..worker import Worker, open_worker
from ._channels import CHANNEL_PATH, Channels
from ._connection import EngineConnection
from ._router import Router
from ._services import SERVICES, Host, Service
from ._storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .._protocol.engine_session import EngineSession
    from ..abc import ChannelWire, Connector, Wire
    from ._builtin import Timer
    from .builtins.http import HttpOptions

__all__ = ("Engine", "open_engine")

logger: Final = logging.getLogger("iii_anyio.devengine")

AS_PORT: Final = -1
"""What a port is by default: free when the port for workers is, none when there is none."""
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Engine(AsyncContextManagerMixin):
    """A development engine; runs for as long as its ``async with`` block lasts. Made by ``open_engine``."""

    def __init__(
        self,
        *,
        host: str,
        port: int | None,
        http_port: int | None,
        stream_port: int | None,
        grace: float,
        http: HttpOptions | None,
        workers: Mapping[str, Mapping[str, Any]],
        strict_upstream: bool,
    ) -> None:
        self._router = Router(lambda: time.time_ns() // 1_000_000, version=__version__)
        self._channels = Channels(self._router.channels)
        self._host = host
        self._port = port
        self._http_port = http_port
        self._stream_port = stream_port
        self._grace = grace
        self._http = http
        self._workers = workers
        self._strict_upstream = strict_upstream
        self._connections: dict[EngineSession, EngineConnection] = {}
        self._group: TaskGroup | None = None
        self._is_announcing = False
        self.url: str = ""
        """WebSocket URL for workers; empty when nothing listens."""
        self.http_url: str = ""
        """Base URL of the routes that ``http`` triggers make; empty when nothing listens."""
        self.stream_url: str = ""
        """WebSocket URL for stream subscribers; empty when nothing listens."""

    def __repr__(self) -> str:
        return f"<Engine {self.url or 'in process'} {self._router!r}>"

    @property
    def connections(self) -> int:
        """How many workers are connected, not counting the built-in ones."""
        return sum(not session.is_in_process for session in self._connections)

    def connector(self) -> Connector:
        """A way to this engine without sockets: ``open_worker(connector=engine.connector())``."""
        return _DirectConnector(lambda: self._connect_direct(is_builtin=False), self._channels)

    # -- connections ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connect_direct(self, *, is_builtin: bool) -> AsyncGenerator[Wire]:
        if self._group is None:
            raise ConnectError("the in-process engine", "it has ended")
        ours, theirs = direct_pair()
        session = self._router.connect(ip_address=None if is_builtin else "127.0.0.1", in_process=is_builtin)
        self._group.start_soon(self._serve, theirs, session, name="engine in-process connection")
        try:
            yield ours
        finally:
            with last_words(1.0):
                await ours.aclose()

    async def _accept(self, accepted: Accepted) -> None:
        if accepted.path.startswith(CHANNEL_PATH):
            await self._channels.serve(accepted)
            return
        if accepted.path != "/":
            await accepted.reject(404, "Not found")
            return
        wire = await accepted.accept()
        await self._serve(wire, self._router.connect(ip_address=accepted.peer))

    async def _serve(self, wire: Wire, session: EngineSession) -> None:
        connection = EngineConnection(wire, self._router, session, grace=self._grace, routed=self._routed)
        self._connections[session] = connection
        self._routed()
        try:
            await connection.run()
        finally:
            del self._connections[session]

    def _routed(self) -> None:
        """After the router took messages: wake the writers it has work for, start the timers it wants."""
        for session in self._router.take_dirty():
            if (connection := self._connections.get(session)) is not None:
                connection.wake()
        if self._group is None:
            return  # the engine is ending, and with it all that is to come
        for timer in self._router.take_timers():
            self._group.start_soon(self._run_timer, timer, name="engine timer")
        if self._router.functions_changed and not self._is_announcing:
            self._is_announcing = True
            self._group.start_soon(self._announce_functions, name="engine functions-available")

    async def _run_timer(self, timer: Timer) -> None:
        await anyio.sleep(timer.seconds)
        self._router.timer_expired(timer)
        self._routed()

    async def _announce_functions(self) -> None:
        await anyio.sleep(0.05)  # one event for the many changes of a connecting worker (upstream: a poll of 5 s)
        self._is_announcing = False
        self._router.fire_functions_available()
        self._routed()

    # -- lifetime ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with AsyncExitStack() as stack:
            listener = None
            if self._port is not None:
                listener = await stack.enter_async_context(await _listen(self._host, self._port))
                self.url = f"ws://{_bracketed(self._host)}:{listener.extra(SocketAttribute.local_port)}"
            http_socket = self._bound(stack, self._http_port, "http_port")
            if http_socket is not None:
                self.http_url = f"http://{_bracketed(self._host)}:{http_socket.getsockname()[1]}"
            stream_socket = self._bound(stack, self._stream_port, "stream_port")
            if stream_socket is not None:
                self.stream_url = f"ws://{_bracketed(self._host)}:{stream_socket.getsockname()[1]}"
            host = Host(
                storage=Storage(),
                router=self._router,
                channels=self._channels,
                http=self._http,
                http_socket=http_socket,
                stream_socket=stream_socket,
                strict_upstream=self._strict_upstream,
            )
            with unwrap_single():
                async with create_task_group() as group:
                    await group.start(self._run_connections, listener, name="engine connections")
                    try:
                        async with AsyncExitStack() as services:
                            for service in SERVICES:
                                worker = await services.enter_async_context(self._builtin(service))
                                config = self._workers.get(service.name, {})
                                await services.enter_async_context(service.serve(worker, host, config))
                                await worker.wait_ready()
                            yield self
                    finally:
                        self._channels.close()
                    group.cancel_scope.cancel()

    def _bound(self, stack: AsyncExitStack, port: int | None, parameter: str) -> socket.socket | None:
        return None if port is None else stack.enter_context(_bind(self._host, port, parameter))

    async def _run_connections(
        self, listener: SocketListener | None, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED
    ) -> None:
        async with create_task_group() as group:
            self._group = group
            if listener is not None:
                group.start_soon(serve_websockets, listener, self._accept, name="engine worker listener")
            self._channels.start()
            task_status.started()
            try:
                await self._channels.run_sweeps()
            finally:
                self._group = None  # nothing is started in a group that is about to end

    def _builtin(self, service: Service) -> AbstractAsyncContextManager[Worker]:
        """A built-in is a worker like any other, but for its wire."""
        options = InitOptions(
            worker_name=service.name,
            worker_description=service.description,
            handle_signals=False,
            shutdown_timeout=1.0,
            limits=Limits(max_concurrency=10_000, offline_queue=10_000),
        )
        return open_worker(
            "direct", options, connector=_DirectConnector(lambda: self._connect_direct(is_builtin=True), self._channels)
        )


class _DirectConnector:
    """Both ways into an engine of this process: for workers, and for the ends of their data channels."""

    def __init__(self, connect: Connector, channels: Channels) -> None:
        self._connect = connect
        self._channels = channels

    def __call__(self) -> AbstractAsyncContextManager[Wire]:
        return self._connect()

    def channel(self, channel_id: str, access_key: str, direction: str) -> AbstractAsyncContextManager[ChannelWire]:
        return self._channels.open(channel_id, access_key, direction)


def open_engine(
    *,
    host: str = "127.0.0.1",
    port: int | None = 49134,
    http_port: int | None = AS_PORT,
    stream_port: int | None = AS_PORT,
    allow_remote: bool = False,
    namespace_grace: float | None = None,
    http: HttpOptions | None = None,
    workers: Mapping[str, Mapping[str, Any]] | None = None,
    strict_upstream: bool = False,
) -> Engine:
    """Make a development engine; ``async with`` runs it.

    Args:
        host: Address to listen on.
        port: For workers; 0 takes a free one, None does not listen.
        http_port: For the routes of ``http`` triggers; 0 and None likewise. By default 3111, but 0 or None when
            ``port`` is.
        stream_port: For stream subscribers, likewise; by default 3112.
        allow_remote: Needed for a host other than loopback: this engine checks no credentials.
        namespace_grace: Seconds a worker may take to name its namespace; default ``III_NAMESPACE_GRACE_MS``, else 5.
        http: Timeouts, CORS and global middleware of the ``http`` trigger.
        workers: What the built-in workers are configured with, by their names, with the keys of the real engine's
            configuration file: ``{"iii-queue": {"queue_configs": {...}}}``.
        strict_upstream: Copy the real engine's known defects where a client could rely on them.

    Raises:
        ValueError: A host that others can reach, without ``allow_remote``.
        OSError: On entering: a port is taken.
    """
    if host not in LOOPBACK and not allow_remote:
        raise ValueError(
            f"host {host!r} can be reached by others, and this engine checks no credentials; "
            "pass allow_remote=True (--allow-remote) if that is what you want"
        )
    grace = namespace_grace if namespace_grace is not None else _grace_from_environment()
    return Engine(
        host=host,
        port=port,
        http_port=_port_beside(port, http_port, 3111),
        stream_port=_port_beside(port, stream_port, 3112),
        grace=grace,
        http=http,
        workers=workers if workers is not None else {},
        strict_upstream=strict_upstream,
    )


async def _listen(host: str, port: int) -> SocketListener:
    try:
        listener = (await anyio.create_tcp_listener(local_host=host, local_port=port)).listeners[0]
    except OSError as exc:
        raise _not_bound(exc, host, port, "port") from exc
    assert isinstance(listener, SocketListener)
    return listener


def _bind(host: str, port: int, parameter: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise _not_bound(exc, host, port, parameter) from exc
    return sock


def _not_bound(exc: OSError, host: str, port: int, parameter: str) -> OSError:
    return OSError(exc.errno, f"{parameter} {port} on {host}: {os.strerror(exc.errno or 0)}")


def _port_beside(port: int | None, wanted: int | None, default: int) -> int | None:
    if wanted != AS_PORT:
        return wanted
    return default if port else port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _grace_from_environment() -> float:
    text = os.environ.get("III_NAMESPACE_GRACE_MS", "")
    return int(text) / 1000 if text.isdecimal() else 5.0
