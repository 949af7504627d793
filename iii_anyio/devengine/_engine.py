"""The engine's lifetime: what starts, in which order, and what ends when. ``open_engine`` makes one.

Tasks (all end with the ``async with`` block):

    storage writer              with a data directory; ends last
    engine group
    ├─ built-in workers        each a worker on a DirectWire with the tasks of its service, such as the HTTP server;
    │                          they end first, so that triggers stop firing
    └─ connections             ``_connections`` has its tasks
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio
from anyio import AsyncContextManagerMixin, create_task_group
from anyio.abc import SocketAttribute, SocketListener, TaskGroup

from .._runtime.cleanup import unwrap_single
from .._version import __version__
from ..options import InitOptions, Limits, TelemetryOptions
from ..worker import Worker, run_worker
from ._channels import Channels
from ._config import AS_CONFIGURED, Address, Arguments, Settings, load_config, read_config, settle
from ._connections import Connections
from ._console import DESCRIPTION, NAME, browser_url, read_files, serve_console
from ._router import Router
from ._services import SERVICES, Host
from ._sockets import bind, bracketed, listen
from ._storage import Storage, open_storage
from ._yaml import Document
from .builtins.http import HttpTrigger

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ..abc import Connector
    from ._asgi_server import ASGIApp
    from ._listeners import Listener
    from .builtins.http import HttpOptions

__all__ = ("Engine", "open_engine")


class Engine(AsyncContextManagerMixin):
    """A development engine; runs for as long as its ``async with`` block lasts. Made by ``open_engine``."""

    def __init__(
        self,
        *,
        arguments: Arguments,
        config: str | os.PathLike[str] | Mapping[str, Any] | None,
        strict_upstream: bool,
        data: Path | None,
        console_port: int | None,
    ) -> None:
        self._router = Router(lambda: time.time_ns() // 1_000_000, version=__version__)
        self._channels = Channels(self._router.channels)
        self._arguments = arguments
        self._config_path = config if isinstance(config, str | os.PathLike) else None
        self._settings: Settings | None = None
        if not isinstance(config, str | os.PathLike):  # a file is read on entering, in a thread
            self._settings = settle(arguments, None if config is None else read_config(Document(config)))
        self._strict_upstream = strict_upstream
        self._data = data
        self._console_port = console_port
        self._connections = Connections(self._router, self._channels)
        self.url: str = ""
        """WebSocket URL for workers, of the first listener; empty when nothing listens."""
        self.urls: tuple[str, ...] = ()
        """The same of every listener."""
        self.http_url: str = ""
        """Base URL of the routes that ``http`` triggers make; empty when nothing listens."""
        self.http_app: ASGIApp | None = None
        """The same routes as an ASGI application, for tests without sockets; None before entering, and without http."""
        self.stream_url: str = ""
        """WebSocket URL for stream subscribers; empty when nothing listens."""
        self.console_url: str = ""
        """Where a browser finds the console; empty without one."""

    def __repr__(self) -> str:
        return f"<Engine {self.url or 'in process'} {self._router!r}>"

    @property
    def connections(self) -> int:
        """How many workers are connected, not counting the built-in ones."""
        return self._connections.workers

    def connector(self) -> Connector:
        """A way to this engine without sockets: ``open_worker(connector=engine.connector())``."""
        return self._connections.connector()

    # -- lifetime ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with AsyncExitStack() as stack:
            # First in, last out: what the built-in workers change in their last moments is written, too.
            storage = await stack.enter_async_context(open_storage(self._data))
            settings = self._settings = await self._settle()
            listeners: list[tuple[SocketListener, Listener]] = []
            for options in settings.listeners:
                sockets = await stack.enter_async_context(await listen(options.host, options.port))
                listeners.append((sockets, options))
                self.urls += (f"ws://{bracketed(options.host)}:{sockets.extra(SocketAttribute.local_port)}",)
            self.url = self.urls[0] if self.urls else ""
            http_socket, origin = bind(stack, settings.http_address, "http_port")
            self.http_url = origin and f"http://{origin}"
            stream_socket, origin = bind(stack, settings.stream_address, "stream_port")
            self.stream_url = origin and f"ws://{origin}"
            console_address = None if self._console_port is None else Address(self._console_port)
            if console_address is not None and not self.url:
                raise ValueError("the console is a worker in a browser, which needs a port for workers to connect to")
            console_socket, origin = bind(stack, console_address, "console_port")
            self.console_url = origin and f"http://{origin}"
            if settings.config is not None:
                settings.config.warn_unserved({service.name for service in SERVICES}, self.url)
            host = Host(
                storage=storage,
                router=self._router,
                channels=self._channels,
                http=settings.http,
                http_socket=http_socket,
                stream_socket=stream_socket,
                strict_upstream=self._strict_upstream,
                origins=settings.origins,
                routed=self._connections.routed,
            )
            with unwrap_single():
                async with create_task_group() as group:
                    await group.start(self._connections.run, listeners, settings.grace, name="engine connections")
                    try:
                        async with AsyncExitStack() as services:
                            for service in SERVICES:
                                if not settings.has_service(service.name):
                                    continue
                                builtin = self._builtin(service.name, service.description)
                                worker = await services.enter_async_context(builtin)
                                config = settings.workers.get(service.name, {})
                                with _placed(settings, service.name), unwrap_single():
                                    served = await services.enter_async_context(service.serve(worker, host, config))
                                if isinstance(served, HttpTrigger):
                                    self.http_app = served
                                await worker.wait_ready()
                            if console_socket is not None:
                                await self._serve_console(services, group, storage, console_socket)
                            yield self
                    finally:
                        self._channels.close()
                    group.cancel_scope.cancel()

    async def _serve_console(
        self, services: AsyncExitStack, group: TaskGroup, storage: Storage, console_socket: socket.socket
    ) -> None:
        pages = await anyio.to_thread.run_sync(read_files)
        worker = await services.enter_async_context(self._builtin(NAME, DESCRIPTION))
        assert self._settings is not None
        # A browser cannot send the headers that a guarded listener may ask for.
        places = zip(self._settings.listeners, self.urls, strict=True)
        open_url = next((url for listener, url in places if not listener.is_guarded), self.url)
        url, stream_url, http_url = (browser_url(url) for url in (open_url, self.stream_url, self.http_url))
        console = serve_console(
            worker, storage, console_socket, group, pages, url=url, stream_url=stream_url, http_url=http_url
        )
        await services.enter_async_context(console)
        await worker.wait_ready()

    async def _settle(self) -> Settings:
        if self._config_path is None:
            assert self._settings is not None
            return self._settings
        return settle(self._arguments, await anyio.to_thread.run_sync(load_config, self._config_path))

    @asynccontextmanager
    async def _builtin(self, name: str, description: str) -> AsyncGenerator[Worker]:
        """A built-in is a worker like any other, but for its wire."""
        options = InitOptions(
            worker_name=name,
            worker_description=description,
            telemetry=TelemetryOptions(project_name="iii"),
            handle_signals=False,
            shutdown_timeout=1.0,
            limits=Limits(max_concurrency=10_000, offline_queue=10_000),
            otel=False,
        )
        connect = self._connections.connector(is_builtin=True)
        async with run_worker("direct", options, connect, is_builtin=True) as (supervisor, namespace):
            yield Worker(supervisor, namespace)


def open_engine(
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    host: str | None = None,
    port: int | None = AS_CONFIGURED,
    http_port: int | None = AS_CONFIGURED,
    stream_port: int | None = AS_CONFIGURED,
    listeners: Sequence[Listener] | None = None,
    allow_remote: bool = False,
    namespace_grace: float | None = None,
    http: HttpOptions | None = None,
    workers: Mapping[str, Mapping[str, Any]] | None = None,
    strict_upstream: bool = False,
    data: Path | str | None = None,
    console_port: int | None = None,
    allowed_origins: Sequence[str] = (),
) -> Engine:
    """Make a development engine; ``async with`` runs it.

    Args:
        config: The real engine's configuration file, or the same as a mapping. Then the built-in workers that it lists
            are started, and no others. The other arguments replace what it says.
        host: Address to listen on; by default that of the configuration, else 127.0.0.1.
        port: For workers, of the first listener; by default that of the configuration, else 49134. 0 takes a free one
            for each listener, None does not listen.
        http_port: For the routes of ``http`` triggers; 0 and None likewise. By default that of the configuration, else
            3111, but 0 or None when ``port`` is.
        stream_port: For stream subscribers, likewise; by default 3112.
        listeners: Where workers connect, when there is to be more than one, or access control.
        allow_remote: Needed for a host other than loopback where no ``rbac`` checks credentials.
        namespace_grace: Seconds a worker may take to name its namespace; default ``III_NAMESPACE_GRACE_MS``, else 5.
        http: Timeouts, CORS and global middleware of the ``http`` trigger.
        workers: What the built-in workers are configured with, by their names, with the keys of the real engine's
            configuration file: ``{"iii-queue": {"queue_configs": {...}}}``.
        strict_upstream: Copy the real engine's known defects where a client could rely on them.
        data: Directory of durable data, made when it is missing. What a function of the engine has acknowledged is
            found there by the next engine, also after kill -9. By default everything is in memory.
        console_port: For the console, a page to look into the engine, on 127.0.0.1; usually 3113, 0 takes a free one.
            None, the default, has none.
        allowed_origins: Web pages that may connect as workers and subscribe to streams, besides those of this machine:
            ``["https://shop.example"]``, or ``["*"]`` for all. A listener with ``rbac`` decides itself.

    Raises:
        ValueError: A host that others can reach, without ``rbac`` and ``allow_remote``; a configuration that is wrong.
            Of a configuration file on entering.
        OSError: On entering: the configuration file cannot be read; a port is taken; as ``StorageError``, the data
            directory cannot be used.
    """
    return Engine(
        arguments=Arguments(
            host=host,
            port=port,
            http_port=http_port,
            stream_port=stream_port,
            listeners=listeners,
            allow_remote=allow_remote,
            namespace_grace=namespace_grace,
            http=http,
            workers=workers,
            allowed_origins=allowed_origins,
        ),
        config=config,
        strict_upstream=strict_upstream,
        data=Path(data) if data is not None else None,
        console_port=console_port,
    )


@contextmanager
def _placed(settings: Settings, name: str) -> Generator[None]:
    """Have what is wrong with a worker's ``config`` say where that is."""
    try:
        yield
    except ValueError as exc:
        place = settings.config.place_of(name) if settings.config is not None else None
        if place is None or name in settings.given:
            raise
        raise ValueError(f"{place}: {exc}") from exc
