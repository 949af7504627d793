"""Apps and routers: what they declare, and what happens when they are attached, served and taken back."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from anyio import Event, create_task_group, fail_after, sleep_forever, to_thread
from pydantic import BaseModel

from iii_anyio import (
    ApiRequest,
    ApiResponse,
    App,
    ConnectError,
    IIIClient,
    InitOptions,
    InvocationError,
    ReconnectionConfig,
    Router,
    State,
    Worker,
    WorkerStateError,
    open_worker,
    register_worker,
)
from iii_anyio.devengine import open_engine
from iii_anyio.state import StateEventData
from iii_anyio.worker import WorkerMethods
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    qty: int


class Receipt(BaseModel):
    id: str
    qty: int


class Pool:
    is_open = True


# -- declaring -------------------------------------------------------------------------------------------------------


def handler(data: Any) -> None: ...
def other(data: Any) -> None: ...


def test_ids_come_from_names_prefixes_and_what_is_given() -> None:
    app = App("orders")
    shop, refunds = Router("shop::"), Router()
    app.function()(handler)
    app.function("given")(handler)
    shop.function()(handler)
    shop.function("given")(other)
    app.include(shop)
    app.include(shop, prefix="second::")
    shop.include(refunds, prefix="refunds::")
    refunds.cron("@hourly")(other)  # declared after it was included
    assert app.functions == {
        "orders::handler": handler,
        "given": handler,
        "shop::handler": handler,
        "shop::given": other,
        "shop::refunds::other": other,
        "second::shop::handler": handler,
        "second::shop::given": other,
        "second::shop::refunds::other": other,
    }


def test_declarations_that_contradict_each_other_are_refused() -> None:
    app, first, second = App("orders"), Router(), Router()
    first.include(second)
    with pytest.raises(ValueError, match="it includes"):
        second.include(first)
    with pytest.raises(ValueError, match="it includes"):
        first.include(first)
    with pytest.raises(TypeError, match="is an app"):
        first.include(app)
    with pytest.raises(ValueError, match="an app needs a name"):
        App(" ")
    with pytest.raises(TypeError, match="a handler must be callable"):
        app.function("f")(5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="has no name"):
        app.function()(partial(handler, 1))
    app.function("f")(handler)
    first.function("f")(other)
    app.include(first)
    with pytest.raises(ValueError, match="two handlers for 'f'"):
        assert app.functions


# -- attaching -------------------------------------------------------------------------------------------------------


async def test_a_declared_app_serves_routes_and_hears_of_state() -> None:
    app = App("orders")
    changed = Event()

    @app.http("POST", "/orders/:id")
    async def create(request: ApiRequest[Order], state: State) -> ApiResponse[Receipt]:
        receipt = Receipt(id=request.path_params["id"], qty=request.body.qty)
        await state.set_async("orders", receipt.id, receipt)
        return ApiResponse(status_code=201, body=receipt)

    @app.on_state("orders")
    async def stored(event: StateEventData[Receipt]) -> None:
        assert event.new_value is not None
        assert event.new_value.qty == 2
        changed.set()

    with fail_after(20):
        async with (
            open_engine(port=None, http_port=0) as engine,
            open_worker(connector=engine.connector()) as iii,
            app.attach(iii),
            httpx.AsyncClient(base_url=str(engine.http_url), timeout=None) as client,
        ):
            await iii.wait_ready()
            created = await client.post("/orders/7", json={"qty": 2})
            assert (created.status_code, created.json()) == (201, {"id": "7", "qty": 2})
            assert (await client.post("/orders/7", json={"qty": "two"})).status_code == 400
            with fail_after(20):
                await changed.wait()


async def test_leaving_takes_everything_back_and_the_app_can_be_attached_again() -> None:
    app = App("orders")

    @app.subscribe("news")
    async def hear(data: Any) -> str:
        return "heard"

    async with two_workers() as (caller, iii):
        for _ in range(2):
            async with app.attach(iii) as attached:
                assert attached is iii
                await iii.wait_ready()
                assert await caller.trigger_async("orders::hear") == "heard"
            with pytest.raises(InvocationError) as caught:
                await caller.trigger_async("orders::hear")
            assert caught.value.code == "function_not_found"
            assert [info for info in await iii.list_triggers_async() if info.function_id == "orders::hear"] == []


async def test_one_app_may_serve_several_workers_at_once_each_with_its_own_lifespan() -> None:
    pools: list[Pool] = []

    async def lifespan() -> AsyncIterator[Pool]:
        pools.append(Pool())
        yield pools[-1]

    app = App("orders", lifespan=lifespan)

    @app.function("which")
    def which(data: Any, pool: Pool) -> int:
        return pools.index(pool)

    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(namespace="a")) as first,
            open_worker(connector=engine.connector(), options=InitOptions(namespace="b")) as second,
            app.attach(first),
            app.attach(second),
        ):
            await first.wait_ready()
            await second.wait_ready()
            assert [await iii.trigger_async("which") for iii in (first, second)] == [0, 1]


@pytest.mark.parametrize("is_decorated", [True, False])
async def test_the_lifespan_begins_before_the_first_handler_and_ends_after_the_last(is_decorated: bool) -> None:
    log: list[Any] = []
    running, leaving = Event(), Event()

    async def lifespan(app: App, iii: Worker) -> AsyncIterator[Pool]:
        log.append((app.name, isinstance(iii, Worker)))
        pool = Pool()
        yield pool
        pool.is_open = False
        log.append("closed")

    app = App("orders", lifespan=asynccontextmanager(lifespan) if is_decorated else lifespan)

    @app.function("f")
    async def slow(data: Any, pool: Pool) -> None:
        running.set()
        await leaving.wait()
        log.append(pool.is_open)

    async with two_workers() as (caller, iii), create_task_group() as tasks, app.attach(iii):
        assert log == [("orders", True)]
        await iii.wait_ready()
        await caller.trigger_async("f", action={"type": "void"})
        with fail_after(20):
            await running.wait()
        tasks.start_soon(set_when_gone, caller, leaving)
    assert log == [("orders", True), True, "closed"]


async def set_when_gone(caller: Worker, event: Event) -> None:
    while await caller.list_functions_async(prefix="f"):
        pass
    event.set()


class Broken(Exception):
    pass


async def fails_at_start() -> AsyncIterator[None]:
    raise Broken("no database")
    yield


async def yields_a_payload() -> AsyncIterator[dict[str, int]]:
    yield {"a": 1}


async def is_no_generator() -> None: ...


async def wants_too_much(pool: Pool) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("lifespan", "error", "says"),
    [
        (fails_at_start, Broken, "no database"),
        (yields_a_payload, TypeError, "yields a dict, which a payload could be as well"),
        (is_no_generator, TypeError, "is no async generator"),
        (wants_too_much, TypeError, "nothing provides the parameter 'pool' of wants_too_much"),
    ],
)
async def test_a_lifespan_that_cannot_begin_leaves_nothing_registered(
    lifespan: Any, error: type[Exception], says: str
) -> None:
    app = App("orders", lifespan=lifespan)
    app.function()(handler)
    async with two_workers() as (caller, iii):
        with pytest.raises(error, match=says):
            async with app.attach(iii):
                pytest.fail("attached")
        await iii.wait_ready()
        with pytest.raises(InvocationError, match="orders::handler"):
            await caller.trigger_async("orders::handler")


async def test_a_taken_id_takes_back_what_was_registered_before_it() -> None:
    app = App("orders")
    app.function("first")(handler)
    app.function("taken")(handler)
    async with two_workers() as (caller, iii):
        iii.register_function("taken", handler)
        with pytest.raises(ValueError, match="taken"):
            async with app.attach(iii):
                pytest.fail("attached")
        await iii.wait_ready()
        assert await caller.trigger_async("taken") is None
        with pytest.raises(InvocationError, match="first"):
            await caller.trigger_async("first")


async def test_an_app_is_attached_where_its_worker_runs() -> None:
    app = App("orders")
    async with two_workers() as (_, iii):

        def elsewhere() -> None:
            async def main() -> None:
                async with app.attach(iii):
                    pytest.fail("attached")

            with pytest.raises(WorkerStateError, match="in the event loop that the worker runs in"):
                anyio.run(main)

        await to_thread.run_sync(elsewhere)
    with pytest.raises(TypeError, match="a Worker or an IIIClient, not to 'x'"):
        app.attach("x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


# -- serving ---------------------------------------------------------------------------------------------------------


async def test_serve_opens_a_worker_serves_until_it_is_shut_down_and_cleans_up() -> None:
    log: list[Any] = []
    workers: list[Worker] = []

    async def lifespan(iii: Worker) -> AsyncIterator[None]:
        workers.append(iii)
        yield
        log.append(iii.get_connection_state())

    app = App("orders", lifespan=lifespan, options=InitOptions(handle_signals=False))
    app.function()(handler)
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector()) as caller,
            create_task_group() as tasks,
        ):
            tasks.start_soon(partial(app.serve, connector=engine.connector()))
            await caller.wait_ready()
            found: list[Any] = []
            while not found:
                found = await caller.list_functions_async(prefix="orders::")
            assert await caller.trigger_async("orders::handler") is None
            await workers[0].shutdown_async()
    assert log == ["disconnected"]


async def test_run_serves_in_an_event_loop_of_its_own(anyio_backend_name: str) -> None:
    backend: Any = anyio_backend_name
    log: list[str] = []

    async def lifespan(iii: Worker) -> AsyncIterator[None]:
        await iii.wait_ready()
        to_stop.append(iii)
        yield
        log.append(str(iii.get_connection_state()))

    to_stop: list[Worker] = []
    app = App("orders", lifespan=lifespan)

    @app.function("stop")
    async def stop(data: Any) -> None:
        await to_stop[0].shutdown_async()

    with fail_after(20):
        async with (
            open_engine(port=0, http_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
            create_task_group() as tasks,
        ):
            tasks.start_soon(to_thread.run_sync, partial(app.run, engine.url, backend=backend))
            while not await iii.list_functions_async(prefix="stop"):
                pass
            await iii.trigger_async("stop")
    assert log == ["disconnected"]


async def test_a_cancelled_app_is_cleaned_up_after_its_handlers() -> None:
    log: list[str] = []
    running = Event()

    async def lifespan() -> AsyncIterator[Pool]:
        try:
            yield Pool()
        finally:
            log.append("cleaned up")

    app = App("orders", lifespan=lifespan)

    @app.function("f")
    async def slow(data: Any, pool: Pool) -> None:
        running.set()
        try:
            await sleep_forever()
        finally:
            log.append("handler left")

    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
            create_task_group() as tasks,
        ):
            tasks.start_soon(partial(app.serve, connector=engine.connector()))
            await iii.wait_ready()
            while not await iii.list_functions_async(prefix="f"):
                pass
            await iii.trigger_async("f", action={"type": "void"})
            await running.wait()
            tasks.cancel_scope.cancel()
    assert log == ["handler left", "cleaned up"]


# -- the portal face -------------------------------------------------------------------------------------------------


async def test_an_app_is_attached_to_a_client_in_the_clients_loop(anyio_backend_name: str) -> None:
    log: list[Any] = []

    async def lifespan(iii: WorkerMethods) -> AsyncIterator[Pool]:
        log.append(threading.current_thread().name)
        yield Pool()
        log.append("closed")

    app = App("orders", lifespan=lifespan)

    @app.function("f")
    async def f(data: Any, pool: Pool) -> bool:
        return pool.is_open

    def script(url: str) -> None:
        backend: Any = anyio_backend_name
        with register_worker(url, backend=backend) as client:
            with app.attach(client) as attached:
                assert attached is client
                client.wait_ready(30)
                assert client.trigger("f") is True
            assert log == ["iii-anyio worker", "closed"]
            with app.attach(client):
                client.shutdown()  # the app ends with its client
            assert log[3:] == ["closed"]

        broken = App("orders", lifespan=fails_at_start)
        with register_worker(url, backend=backend) as client:
            with pytest.raises(Broken), broken.attach(client):
                pytest.fail("attached")
            with pytest.raises(TypeError, match="asks for Worker"), App("w", lifespan=wants_a_worker).attach(client):
                pytest.fail("attached")

    with fail_after(30):
        async with open_engine(port=0, http_port=None) as engine:
            await to_thread.run_sync(script, engine.url)


async def test_the_app_of_a_client_that_fails_is_cleaned_up_and_the_failure_is_what_is_raised(
    anyio_backend_name: str, unused_url: str
) -> None:
    backend: Any = anyio_backend_name
    log: list[str] = []

    async def lifespan() -> AsyncIterator[Pool]:
        try:
            yield Pool()
        finally:
            log.append("closed")

    def script() -> None:
        once = InitOptions(reconnection_config=ReconnectionConfig(initial_delay_ms=300, max_retries=1))
        client = IIIClient(unused_url, once, backend=backend)
        with pytest.raises(ConnectError), App("orders", lifespan=lifespan).attach(client):
            client.serve()
        client.shutdown()

    with fail_after(20):
        await to_thread.run_sync(script)
    assert log == ["closed"]


@pytest.fixture
def unused_url() -> Iterator[str]:
    with socket.socket() as sock:  # bound, not listening: connections are refused
        sock.bind(("127.0.0.1", 0))
        yield f"ws://127.0.0.1:{sock.getsockname()[1]}"


async def wants_a_worker(iii: Worker) -> AsyncIterator[None]:
    yield
