"""The engine with I/O: listeners, connections, built-in workers, timers. ``open_engine`` is its lifetime.

Tasks (all end with the ``async with`` block):

    engine group
    ├─ built-in workers        each a worker on a DirectWire; ends first, so that triggers stop firing
    ├─ HTTP server             the ``http`` trigger's ASGI application
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
from ._asgi_server import serve_asgi
from ._channels import CHANNEL_PATH, Channels
from ._connection import EngineConnection
from ._router import Router
from .builtins.http import HttpOptions, HttpTrigger

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ..abc import ChannelWire, Connector, Wire
    from ._builtin import Timer

__all__ = ("Engine", "open_engine")

logger: Final = logging.getLogger("iii_anyio.devengine")

HTTP_TRIGGER_TYPE: Final = {"id": "http", "description": "HTTP API trigger"}
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Engine(AsyncContextManagerMixin):
    """A development engine; runs for as long as its ``async with`` block lasts. Made by ``open_engine``."""

    def __init__(
        self, *, host: str, port: int | None, http_port: int | None, grace: float, http: HttpOptions | None
    ) -> None:
        self._router = Router(lambda: time.time_ns() // 1_000_000, version=__version__)
        self._channels = Channels(self._router.channels)
        self._host = host
        self._port = port
        self._http_port = http_port
        self._grace = grace
        self._http = http
        self._connections: dict[EngineSession, EngineConnection] = {}
        self._group: TaskGroup | None = None
        self._is_announcing = False
        self.url: str = ""
        """WebSocket URL for workers; empty when nothing listens."""
        self.http_url: str = ""
        """Base URL of the routes that ``http`` triggers make; empty when nothing listens."""

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
            listener = http_socket = None
            if self._port is not None:
                listener = await stack.enter_async_context(await _listen(self._host, self._port))
                self.url = f"ws://{_bracketed(self._host)}:{listener.extra(SocketAttribute.local_port)}"
            if self._http_port is not None:
                http_socket = stack.enter_context(_bind(self._host, self._http_port))
                self.http_url = f"http://{_bracketed(self._host)}:{http_socket.getsockname()[1]}"
            with unwrap_single():
                async with create_task_group() as group:
                    await group.start(self._run_connections, listener, name="engine connections")
                    try:
                        async with (
                            self._builtin("iii-http", "Expose functions as HTTP endpoints") as worker,
                            create_task_group() as servers,
                        ):
                            trigger = HttpTrigger(
                                worker,
                                options=self._http,
                                create_channel=self._router.create_channel,
                                channels=self._channels,
                            )
                            worker.register_trigger_type(HTTP_TRIGGER_TYPE, trigger)
                            await worker.wait_ready()
                            if http_socket is not None:
                                await servers.start(_serve_http, trigger, http_socket, name="engine HTTP server")
                            yield self
                            servers.cancel_scope.cancel()
                    finally:
                        self._channels.close()
                    group.cancel_scope.cancel()

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

    def _builtin(self, name: str, description: str) -> AbstractAsyncContextManager[Worker]:
        """A built-in is a worker like any other, but for its wire."""
        options = InitOptions(
            worker_name=name,
            worker_description=description,
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
    http_port: int | None = 3111,
    stream_port: int | None = 3112,
    allow_remote: bool = False,
    namespace_grace: float | None = None,
    http: HttpOptions | None = None,
) -> Engine:
    """Make a development engine; ``async with`` runs it.

    Args:
        host: Address to listen on.
        port: For workers; 0 takes a free one, None does not listen.
        http_port: For the routes of ``http`` triggers; 0 and None likewise.
        stream_port: Reserved for stream subscribers; nothing listens there yet.
        allow_remote: Needed for a host other than loopback: this engine checks no credentials.
        namespace_grace: Seconds a worker may take to name its namespace; default ``III_NAMESPACE_GRACE_MS``, else 5.
        http: Timeouts, CORS and global middleware of the ``http`` trigger.

    Raises:
        ValueError: A host that others can reach, without ``allow_remote``.
        OSError: On entering: a port is taken.
    """
    if host not in LOOPBACK and not allow_remote:
        raise ValueError(
            f"host {host!r} can be reached by others, and this engine checks no credentials; "
            "pass allow_remote=True (--allow-remote) if that is what you want"
        )
    del stream_port
    grace = namespace_grace if namespace_grace is not None else _grace_from_environment()
    return Engine(host=host, port=port, http_port=http_port, grace=grace, http=http)


async def _listen(host: str, port: int) -> SocketListener:
    try:
        listener = (await anyio.create_tcp_listener(local_host=host, local_port=port)).listeners[0]
    except OSError as exc:
        raise _not_bound(exc, host, port, "port") from exc
    assert isinstance(listener, SocketListener)
    return listener


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise _not_bound(exc, host, port, "http_port") from exc
    return sock


def _not_bound(exc: OSError, host: str, port: int, parameter: str) -> OSError:
    return OSError(exc.errno, f"{parameter} {port} on {host}: {os.strerror(exc.errno or 0)}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _grace_from_environment() -> float:
    text = os.environ.get("III_NAMESPACE_GRACE_MS", "")
    return int(text) / 1000 if text.isdecimal() else 5.0


async def _serve_http(
    trigger: HttpTrigger, sock: socket.socket, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED
) -> None:
    await serve_asgi(trigger, sock, shutdown_timeout=1.0, task_status=task_status)
