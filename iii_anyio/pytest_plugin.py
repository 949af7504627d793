"""Fixtures for tests of programs that use this package. pytest loads it by itself; nothing happens without a fixture.

They need the extra ``engine``. Async ones run on anyio's own pytest plugin: a test that asks for one runs on the
backends of ``anyio_backend``, marked or not. Below: ``iii_anyio.testing`` and the development engine, imported by the
fixtures.

Tasks: one per worker of ``iii_worker``, which ends before the engine does.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from .app import App
    from .devengine import Engine
    from .options import InitOptions
    from .testing import CronDriver, HttpDriver, QueueDriver, StateDriver
    from .worker import Worker

__all__ = (
    "WorkerFactory",
    "iii_cron",
    "iii_engine",
    "iii_http",
    "iii_http_url",
    "iii_queue",
    "iii_server",
    "iii_state",
    "iii_url",
    "iii_worker",
)

WorkerFactory: TypeAlias = "Callable[..., Awaitable[Worker]]"
"""Type of ``iii_worker``: ``await iii_worker(app_or_name, options=..., connector=...)``."""

_SHUTDOWN_TIMEOUT = 1.0
"""Seconds that handlers still running get at the end of a test, unless its options say otherwise."""


@pytest.fixture
async def iii_engine(anyio_backend: Any, request: pytest.FixtureRequest) -> AsyncGenerator[Engine]:
    """A development engine in the test's own event loop, without ports, new for each test.

    Workers join it with ``iii_worker``, or ``open_worker(connector=iii_engine.connector())``.
    """
    from .devengine import open_engine

    if not inspect.iscoroutinefunction(getattr(request, "function", None)):
        pytest.fail("iii_engine runs in the event loop of an async test; in a sync test use iii_url", pytrace=False)
    async with open_engine(port=None, http_port=None, stream_port=None) as engine:
        yield engine


@pytest.fixture
async def iii_worker(iii_engine: Engine) -> AsyncGenerator[WorkerFactory]:
    """Makes workers of ``iii_engine``, as many as a test needs.

    ``iii = await iii_worker()``. The argument is a name, or an ``App``, which then is attached and confirmed.
    ``options`` are ``InitOptions``, ``connector`` another way to the engine, such as a ``FaultConnector``. What ends a
    worker before the test does is raised when the test is over.
    """
    import anyio

    from .options import InitOptions
    from .worker import open_worker

    over = anyio.Event()
    failures: list[Exception] = []

    async def host(
        app: App | None, opened: AbstractAsyncContextManager[Worker], *, task_status: TaskStatus[Worker]
    ) -> None:
        is_started = False
        try:
            async with AsyncExitStack() as stack:
                worker = await stack.enter_async_context(opened)
                if app is not None:
                    await stack.enter_async_context(app.attach(worker))
                    await worker.wait_ready()
                is_started = True
                task_status.started(worker)
                await over.wait()
        except Exception as exc:
            if not is_started:
                raise
            failures.append(exc)

    async with anyio.create_task_group() as tasks:

        async def make(
            target: App | str | None = None, *, options: InitOptions | None = None, connector: Any = None
        ) -> Worker:
            app = target if target is not None and not isinstance(target, str) else None
            if options is None:
                given = app.options if app is not None else None
                options = replace(given or InitOptions(), handle_signals=False, shutdown_timeout=_SHUTDOWN_TIMEOUT)
            if isinstance(target, str):
                options = replace(options, worker_name=target)
            opened = open_worker(options=options, connector=connector or iii_engine.connector())
            worker: Worker = await tasks.start(host, app, opened)
            return worker

        yield make
        over.set()
    if failures:
        raise failures[0]


# -- drivers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def iii_http(iii_engine: Engine) -> HttpDriver:
    """Makes requests to ``http`` triggers of ``iii_engine``, without a socket."""
    from .testing import HttpDriver

    return HttpDriver(iii_engine)


@pytest.fixture
async def iii_cron(iii_worker: WorkerFactory) -> CronDriver:
    """Fires ``cron`` triggers of ``iii_engine``."""
    from .testing import CronDriver

    return CronDriver(await iii_worker("iii-testing-cron"))


@pytest.fixture
async def iii_queue(iii_worker: WorkerFactory) -> QueueDriver:
    """Waits for queues of ``iii_engine``."""
    from .testing import QueueDriver

    return QueueDriver(await iii_worker("iii-testing-queue"))


@pytest.fixture
async def iii_state(iii_worker: WorkerFactory) -> StateDriver:
    """``State`` of ``iii_engine``, and what changes in it."""
    from .testing import StateDriver

    return StateDriver(await iii_worker("iii-testing-state"))


# -- behind sockets --------------------------------------------------------------------------------------------------


@pytest.fixture
def iii_server() -> Generator[Engine]:
    """A development engine in a thread of its own, on free ports of this machine: for sync tests and other processes.

    It is another one than ``iii_engine``. Use its ``url``, ``http_url`` and ``stream_url``; its other methods belong to
    its thread.
    """
    from anyio.from_thread import start_blocking_portal

    from .devengine import open_engine

    opened = open_engine(port=0, http_port=0, stream_port=0)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as engine:
        yield engine


@pytest.fixture
def iii_url(iii_server: Engine) -> str:
    """WebSocket URL of ``iii_server``, for ``register_worker`` and ``open_worker``."""
    return iii_server.url


@pytest.fixture
def iii_http_url(iii_server: Engine) -> str:
    """Base URL of the ``http`` triggers of ``iii_server``."""
    return iii_server.http_url
