"""What type checkers see of apps, decorators, typed triggers and stubs; the assertions are theirs.

Running it only shows that the code is real.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, assert_type

from pydantic import BaseModel

from iii_anyio import (
    ApiRequest,
    ApiResponse,
    App,
    IIIClient,
    Remote,
    RetryPolicy,
    Router,
    State,
    Worker,
    remote,
)
from iii_anyio.app import CallNext, MiddlewareInvocation
from iii_anyio.state import StateEventData
from iii_anyio.trigger import Trigger
from iii_anyio.triggers import CronEvent, CronTrigger, LogTrigger, QueueConfig


class Order(BaseModel):
    qty: int


class Receipt(BaseModel):
    total: float


class Pool: ...


async def lifespan() -> AsyncIterator[Pool]:
    yield Pool()


def test_a_decorated_function_keeps_its_type() -> None:
    app, router = App("orders", lifespan=lifespan), Router("shop::")

    @app.http("POST", "/orders/:id")
    @app.function("orders::create", concurrency=5, description="Takes an order", validate=True)
    async def create(request: ApiRequest[Order], state: State) -> ApiResponse[Receipt]:
        assert_type(request.body, Order)
        assert_type(request.body.qty, int)
        return ApiResponse(status_code=201)

    @router.on_state("orders")
    def stored(event: StateEventData[Receipt]) -> None:
        assert_type(event.new_value, Receipt | None)

    @app.cron("@hourly", execution="process")
    def tick(event: CronEvent) -> int:
        return 1

    @app.queue("mails", queue_config=QueueConfig(type="fifo", max_retries=2))
    def send(mail: str) -> str:
        return mail

    async def use() -> None:
        assert_type(await create(ApiRequest[Order](body=Order(qty=1)), State(app)), ApiResponse[Receipt])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert callable(use)
    assert_type(tick(CronEvent.model_construct()), int)
    assert_type(send("x"), str)
    assert callable(stored)


def test_wrong_declarations_are_seen() -> None:
    def use(app: App) -> None:
        app.http("TRACE", "/x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        app.cron("@hourly", concurency=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        app.function("f", execution="fork")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        app.on_trigger("cron")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        app.queue("mails", queue_config={"type": "fifo"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert callable(use)


def test_middleware_and_dependencies_keep_their_types() -> None:
    app = App("orders")

    @app.middleware
    async def log(call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
        assert_type(invocation.function_id, str)
        assert_type(invocation.payload, Any)
        return await call_next(invocation)

    @app.dependency
    async def pool() -> Pool:
        return Pool()

    @app.dependency(scope="app")
    def number() -> Order:
        return Order(qty=1)

    assert_type(number(), Order)
    assert_type(Router().dependency(Pool), type[Pool])
    assert callable(log)
    assert callable(pool)


def test_an_app_is_attached_with_async_with_or_with() -> None:
    def use(app: App, worker: Worker, client: IIIClient) -> None:
        assert_type(app.attach(worker), AbstractAsyncContextManager[Worker])
        assert_type(app.attach(client), AbstractContextManager[IIIClient])

    assert callable(use)


def test_triggers_are_registered_in_three_ways() -> None:
    def use(iii: Worker) -> None:
        assert_type(iii.register_trigger(CronTrigger(expression="@hourly"), "f", metadata={"m": 1}), Trigger)
        assert_type(iii.register_trigger("cron", "f", {"expression": "@hourly"}), Trigger)
        assert_type(iii.register_trigger({"type": "cron", "function_id": "f", "config": {}}), Trigger)
        iii.register_trigger(LogTrigger(), "f", {"level": "all"})  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

    assert callable(use)


def test_a_stub_has_the_types_of_its_function() -> None:
    price = remote("price", Order, Receipt, retry=RetryPolicy())
    assert_type(price, Remote[Order, Receipt])
    assert_type(remote("price"), Remote[Any, Any])
    assert_type(remote("price", Order, int | None), Remote[Any, Any])

    async def use(iii: Worker, client: IIIClient) -> None:
        assert_type(await price.on(iii)(Order(qty=1)), Receipt)
        assert_type(price.on(client).sync(Order(qty=1)), Receipt)
        assert_type(iii.remote("total", list[Order], float), Remote[list[Order], float])
        assert_type(await iii.trigger_async("f", 1, retry=RetryPolicy()), Any)
        assert_type(client.trigger({"function_id": "f"}, retry=RetryPolicy()), Any)
        await price.on(iii)("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert callable(use)
