"""What handlers get by annotation, where it comes from, and what is refused when they are registered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from anyio import Event, create_task_group, fail_after
from anyio.lowlevel import checkpoint
from pydantic import BaseModel

from iii_anyio import (
    App,
    Context,
    IIIClient,
    Invocation,
    InvocationContext,
    InvocationError,
    Logger,
    Router,
    State,
    Stream,
    Worker,
)
from iii_anyio.worker import WorkerMethods
from tests.api.workers import two_workers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    qty: int


@dataclass
class Settings:
    name: str = "test"


class Pool:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_open = True


async def test_a_handler_of_any_worker_gets_the_built_in_ones_by_annotation() -> None:
    seen: dict[str, Any] = {}
    async with two_workers() as (caller, iii):

        @iii.function("f")
        async def everything(
            state: State,
            order: Order,
            chat: Annotated[Stream, "chat"],
            logger: Logger,
            context: Context,
            invocation: Invocation,
            caller_of: InvocationContext,
            worker: Worker,
            methods: WorkerMethods,
            *,
            metadata: Any,
            limit: int = 7,
        ) -> int:
            await state.set_async("orders", "last", order.qty)
            seen.update(locals())
            return order.qty + limit

        await iii.wait_ready()
        answer = await caller.trigger_async("f", {"qty": 3}, metadata={"m": 1})
        stored = await State(caller).get_async("orders", "last")
    assert (answer, stored) == (10, 3)
    assert seen["chat"].name == "chat"
    assert seen["logger"].service_name == "f"
    assert seen["context"].invocation_id == seen["invocation"].invocation_id is not None
    assert seen["caller_of"].function_id == "f"
    assert seen["worker"] is seen["methods"] is iii
    assert seen["metadata"] == {"m": 1}


async def test_a_sync_handler_and_one_without_payload_get_them_too() -> None:
    async with two_workers() as (caller, iii):

        @iii.function()
        def put(state: State, value: Any) -> None:
            state.set("s", "k", value)

        @iii.function()
        def take(*, state: State) -> Any:
            return state.get("s", "k")

        @iii.function()
        def only_by_position(value: Any, /, state: State, *rest: Any, **more: Any) -> Any:
            return [value, isinstance(state, State), rest, more]

        await iii.wait_ready()
        await caller.trigger_async("put", {"a": 1})
        # The engine adds the caller to what is an object.
        assert (await caller.trigger_async("take", "ignored"))["a"] == 1
        assert await caller.trigger_async("only_by_position", 5) == [5, True, [], {}]


async def test_what_a_partial_has_bound_is_left_alone() -> None:
    async with two_workers() as (caller, iii):

        def describe(value: int, logger: Logger) -> Any:
            return [value, logger.service_name]

        iii.register_function("f", partial(describe, logger=Logger(service_name="mine")))
        await iii.wait_ready()
        assert await caller.trigger_async("f", 1) == [1, "mine"]


def takes_too_much(order: Order, pool: Pool) -> None: ...
def takes_a_stream(order: Order, chat: Stream) -> None: ...
def takes_a_client(order: Order, iii: IIIClient) -> None: ...
def takes_what_is_not_there(order: Order, path: Path) -> None: ...


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (takes_too_much, "nothing provides the parameter 'pool' of the handler of 'f'"),
        (takes_a_stream, r"Annotated\[Stream, 'name of the stream'\]"),
        (takes_a_client, "asks for IIIClient, but is served by Worker"),
        (takes_what_is_not_there, "'path'.*do not resolve: import their types at run time"),
    ],
)
async def test_a_parameter_that_nothing_provides_is_refused_at_registration(handler: Any, says: str) -> None:
    async with two_workers() as (_, iii):
        with pytest.raises(TypeError, match=says):
            iii.register_function("f", handler)


async def test_providers_of_every_kind_are_made_once_per_invocation_and_left_in_reverse() -> None:
    app = App("shop")
    log: list[str] = []

    class A: ...

    class B: ...

    class C: ...

    class D:
        def __init__(self, a: A, b: B) -> None:
            log.append("D")
            self.parts = (a, b)

    @app.dependency
    async def make_a() -> AsyncIterator[A]:
        log.append("A")
        yield A()
        log.append("a")

    @app.dependency
    def make_b(a: A) -> Iterator[B]:
        log.append("B")
        yield B()
        log.append("b")

    @app.dependency()
    async def make_c() -> C:
        await checkpoint()
        log.append("C")
        return C()

    app.dependency(D)
    app.dependency(Settings("given"))

    @app.function("f")
    def handler(qty: int, d: D, a: A, c: C, settings: Settings) -> Any:
        log.append("handler")
        return [d.parts[0] is a, isinstance(c, C), settings.name]

    async with two_workers() as (caller, iii), app.attach(iii):
        await iii.wait_ready()
        for _ in range(2):
            log.clear()
            assert await caller.trigger_async("f", 1) == [True, True, "given"]
            assert log == ["A", "B", "D", "C", "handler", "b", "a"]


async def test_what_fails_in_a_handler_reaches_its_dependencies_before_the_caller() -> None:
    app = App("shop")
    log: list[str] = []

    class Transaction: ...

    class Mute: ...

    @app.dependency
    async def transaction() -> AsyncIterator[Transaction]:
        try:
            yield Transaction()
        except ValueError:
            log.append("rolled back")
            raise

    @app.dependency
    def mute() -> Iterator[Mute]:
        with suppress(ValueError):
            yield Mute()

    @app.function("fails")
    async def fails(data: Any, transaction: Transaction) -> None:
        raise ValueError("no stock")

    @app.function("hushed")
    async def hushed(data: Any, mute: Mute) -> None:
        raise ValueError("no stock")

    async with two_workers() as (caller, iii), app.attach(iii):
        await iii.wait_ready()
        with pytest.raises(InvocationError, match="no stock"):
            await caller.trigger_async("fails")
        assert log == ["rolled back"]
        with pytest.raises(InvocationError, match="swallowed the exception of its handler"):
            await caller.trigger_async("hushed")


async def test_what_lives_as_long_as_the_app_is_made_once_and_left_when_its_handlers_have_ended() -> None:
    log: list[str] = []
    running, go_on = Event(), Event()
    app = App("shop")
    router = Router("r::")
    app.include(router)

    @app.dependency(scope="app")
    async def pool(settings: Settings) -> AsyncIterator[Pool]:
        log.append("open")
        pool = Pool(settings)
        yield pool
        pool.is_open = False
        log.append("close")

    app.dependency(scope="app")(Settings)  # declared later, made earlier

    @router.function("f")
    async def handler(data: Any, pool: Pool) -> Any:
        running.set()
        await go_on.wait()
        return [pool.is_open, pool.settings.name]

    async with two_workers() as (caller, iii), create_task_group() as tasks:

        async def call() -> None:
            log.append(str(await caller.trigger_async("r::f")))

        async with app.attach(iii):
            await iii.wait_ready()
            assert log == ["open"]
            tasks.start_soon(call)
            with fail_after(20):
                await running.wait()
            tasks.start_soon(_set_soon, go_on)
        assert log[:1] + log[-1:] == ["open", "close"]
        with fail_after(20):
            while len(log) < 3:
                await checkpoint()
        assert "[True, 'test']" in log


async def _set_soon(event: Event) -> None:
    for _ in range(20):
        await checkpoint()
    event.set()


async def test_two_values_of_one_type_are_told_apart_by_annotated() -> None:
    app = App("shop")

    @app.dependency
    def reading() -> Annotated[Settings, "read"]:
        return Settings("reader")

    @app.dependency
    def writing() -> Annotated[Settings, "write"]:
        return Settings("writer")

    app.dependency({"a": 1}, provides=Annotated[dict, "limits"])

    @app.function("f")
    def handler(
        r: Annotated[Settings, "read"], w: Annotated[Settings, "write"], limits: Annotated[dict, "limits"]
    ) -> Any:
        return [r.name, w.name, limits]

    async with two_workers() as (caller, iii), app.attach(iii):
        await iii.wait_ready()
        assert await caller.trigger_async("f") == ["reader", "writer", {"a": 1}]


async def test_a_router_sees_its_own_dependencies_and_those_of_its_app_and_not_the_other_way_round() -> None:
    class Inner:
        def __init__(self, settings: Settings) -> None:
            self.name = settings.name

    router = Router("r::", dependencies=[Inner])
    app = App("shop", dependencies=[Settings])
    app.include(router)

    @router.function()
    def both(inner: Inner, settings: Settings) -> Any:
        return [inner.name, settings.name]

    async with two_workers() as (caller, iii):
        async with app.attach(iii):
            await iii.wait_ready()
            assert await caller.trigger_async("r::both") == ["test", "test"]

        @app.function()
        def outer(data: Any, inner: Inner) -> None: ...

        with pytest.raises(TypeError, match="nothing provides the parameter 'inner' of the handler of 'shop::outer'"):
            async with app.attach(iii):
                pytest.fail("attached")
        assert "r::both" not in {info.function_id for info in await iii.list_functions_async()}


class First:
    def __init__(self, second: Second) -> None: ...


class Second:
    def __init__(self, first: First) -> None: ...


@asynccontextmanager
async def lost_settings(path: Any) -> AsyncIterator[Settings]:
    yield Settings()


def _asks_first(data: Any, first: First) -> None: ...


def needs(scope_of_pool: str) -> Callable[[App], None]:
    def declare(app: App) -> None:
        app.dependency(Settings)
        app.dependency(Pool, scope=scope_of_pool)  # type: ignore[call-overload]

    return declare


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda app: app.dependency(lambda: 1), "does not say what it provides"),
        (lambda app: app.dependency({"a": 1}), "which a payload could be as well"),
        (lambda app: app.dependency(lost_settings, provides=dict[str, int]), "which a payload could be as well"),
        (lambda app: app.dependency(Settings) and app.dependency(Settings()), "provides .* already"),
        (lambda app: app.dependency(Settings, scope="request"), "'invocation' or 'app', got 'request'"),
        (needs("app"), "Pool lives as long as the app, but its parameter 'settings' is made for each invocation"),
    ],
)
async def test_a_dependency_that_cannot_work_is_refused(declare: Any, says: str) -> None:
    app = App("shop")
    async with two_workers() as (_, iii):
        with pytest.raises((TypeError, ValueError), match=says):
            declare(app)
            async with app.attach(iii):
                pytest.fail("attached")


async def test_dependencies_in_a_circle_or_without_their_own_are_refused() -> None:
    for providers, says in (
        ([First, Second], "depends on itself"),
        ([lost_settings], "nothing provides the parameter 'path' of lost_settings"),
    ):
        app = App("shop", dependencies=providers)
        app.function()(_asks_first if First in providers else _asks_settings)
        async with two_workers() as (_, iii):
            with pytest.raises(TypeError, match=says) as caught:
                async with app.attach(iii):
                    pytest.fail("attached")
            assert "of the handler of 'shop::" in caught.value.__notes__[0]


def _asks_settings(data: Any, settings: Settings) -> None: ...
