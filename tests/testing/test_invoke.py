"""``invoke``: a handler without an engine."""

from __future__ import annotations

import anyio
import pytest
from anyio import create_task_group, fail_after
from pydantic import BaseModel

from iii_anyio import ApiRequest, ApiResponse, InvocationError, Logger, State, Worker, WorkerStateError, get_context
from iii_anyio.context import Context
from iii_anyio.testing import FakeCall, FakeWorker, http_request, invoke

pytestmark = pytest.mark.anyio


class Person(BaseModel):
    name: str


class Order(BaseModel):
    item: str
    qty: int = 1


async def greet(who: Person) -> dict[str, str]:
    return {"message": f"Hello, {who.name}!"}


async def test_a_handler_is_tested_in_three_lines() -> None:
    result = await invoke(greet, {"name": "Ada"})
    assert result == {"message": "Hello, Ada!"}


async def test_sync_handlers_partials_and_objects_are_handlers_too() -> None:
    class Doubler:
        def __call__(self, n: int) -> int:
            return n * 2

    assert await invoke(lambda data: data["n"] + 1, {"n": 1}) == 2
    assert await invoke(Doubler(), 4) == 8


async def test_payload_and_result_pass_through_json_and_the_annotations() -> None:
    async def order(payload: Order) -> Order:
        assert isinstance(payload, Order)
        return payload

    assert await invoke(order, Order(item="tea")) == {"item": "tea", "qty": 1}
    with pytest.raises(InvocationError, match="qty") as caught:
        await invoke(order, {"item": "tea", "qty": "many"})
    assert caught.value.code == "invalid_payload"
    assert await invoke(order, {"item": "tea", "qty": 2}, validate=True) == {"item": "tea", "qty": 2}


async def test_an_exception_of_the_handler_is_raised_as_it_is() -> None:
    class Mine(Exception): ...

    async def fail(_: object) -> None:
        raise Mine

    with pytest.raises(Mine):
        await invoke(fail)


async def test_a_handler_behind_http_gets_the_request_of_the_engine_and_answers_with_status_code() -> None:
    """H-18, H-37, H-42."""

    async def create(request: ApiRequest[Order]) -> ApiResponse:
        assert (request.method, request.path_params, request.headers) == ("POST", {"id": "7"}, {"x-one": "1"})
        return ApiResponse(status_code=201, body={"item": request.body.item})

    made = http_request("post", "orders/:id", {"item": "tea"}, path_params={"id": "7"}, headers={"X-One": "1"})
    assert await invoke(create, made) == {"status_code": 201, "body": {"item": "tea"}, "headers": {}}
    refused = await invoke(create, http_request("POST", "orders/:id", {"qty": 1}))
    assert refused["status_code"] == 400


async def test_the_context_is_that_of_an_invocation() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def look(_: object, context: Context, logger: Logger, metadata: object) -> list[object]:
        here = get_context()
        assert isinstance(logger, Logger)
        assert here.function_id == context.function_id
        return [here.function_id, here.invocation_id, here.trace, metadata]

    seen = await invoke(
        look, {}, function_id="shop::look", invocation_id="i-1", traceparent=trace, metadata={"tenant": 7}
    )
    assert seen == ["shop::look", "i-1", trace, {"tenant": 7}]
    assert get_context().function_id is None


async def test_calls_of_the_handler_are_answered_from_a_table_and_remembered() -> None:
    async def restock(item: str, iii: Worker) -> int:
        stock = await iii.trigger_async("stock::of", {"item": item})
        await iii.trigger_async({"function_id": "audit", "payload": item, "action": {"type": "void"}})
        receipt = await iii.trigger_async(
            {"function_id": "buy", "payload": item, "action": {"type": "enqueue", "queue": "default"}}
        )
        assert receipt["messageReceiptId"]
        return stock + 1

    worker = FakeWorker({"stock::of": lambda data: len(data["item"])})
    assert await invoke(restock, "tea", iii=worker) == 4
    assert worker.calls[0] == FakeCall("stock::of", {"item": "tea"})
    assert [call.function_id for call in worker.calls] == ["stock::of", "audit", "buy"]


async def test_a_sync_handler_calls_with_trigger_and_answers_may_be_errors() -> None:
    def total(_: object, iii: Worker) -> int:
        return iii.trigger("sum", [1, 2]) + iii.call("sum", [3])

    assert await invoke(total, answers={"sum": sum}) == 6
    for answer in (InvocationError("EMPTY", "no sum"), lambda _: InvocationError("EMPTY", "no sum")):
        with pytest.raises(InvocationError, match="no sum"):
            await invoke(total, answers={"sum": answer})
    with pytest.raises(InvocationError, match="the test gives no answer") as caught:
        await invoke(total)
    assert caught.value.code == "function_not_found"


async def test_state_works_on_answers() -> None:
    async def visits(_: object, state: State) -> int:
        return (await state.get_async("shop", "visits") or 0) + 1

    assert await invoke(visits, answers={"state::get": 41}) == 42


async def test_dependencies_are_values_classes_or_functions_by_annotation() -> None:
    class Database:
        name = "real"

    class FakeDatabase:
        name = "fake"

    class Session:
        def __init__(self, database: Database) -> None:
            self.database = database

    async def query(_: object, session: Session) -> str:
        return session.database.name

    assert await invoke(query, dependencies={Database: FakeDatabase(), Session: Session}) == "fake"
    with pytest.raises(TypeError, match="nothing provides the parameter 'session'"):
        await invoke(query)


async def test_middleware_is_around_the_handler() -> None:
    async def loud(call_next, invocation):
        result = await call_next(invocation)
        return {"message": result["message"].upper()}

    assert await invoke(greet, {"name": "Ada"}, middleware=[loud]) == {"message": "HELLO, ADA!"}


async def test_what_needs_an_engine_says_so() -> None:
    async def register(_: object, iii: Worker) -> None:
        iii.register_function("late", greet)

    with pytest.raises(WorkerStateError, match="iii_worker"):
        await invoke(register)
    with pytest.raises(TypeError, match="answers"):
        await invoke(register, iii=FakeWorker(), answers={})
    assert not hasattr(FakeWorker(), "no_such_thing")


async def test_cancelling_the_test_cancels_the_handler() -> None:
    ended: list[str] = []
    begun = anyio.Event()

    async def hang(_: object) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    with fail_after(20):
        async with create_task_group() as tasks:
            tasks.start_soon(invoke, hang)
            await begun.wait()
            tasks.cancel_scope.cancel()
    assert ended == ["cancelled"]
