"""What runs around handlers: in which order, what it sees, and what it may do."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from anyio import Event, fail_after
from pydantic import BaseModel

from iii_anyio import ApiResponse, App, InvocationError, Router
from iii_anyio.app import CallNext, Middleware, MiddlewareInvocation
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    qty: int


def noting(log: list[str], name: str) -> Middleware:
    async def middleware(call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
        log.append(f"> {name}")
        try:
            return await call_next(invocation)
        finally:
            log.append(f"< {name}")

    return middleware


async def test_middleware_runs_from_the_worker_over_app_and_router_to_the_function() -> None:
    log: list[str] = []
    router = Router("r::", middleware=[noting(log, "router")])
    app = App("shop", middleware=[noting(log, "app 1"), noting(log, "app 2")])
    app.include(router)

    @router.function(middleware=[noting(log, "function")])
    def handler(data: Any) -> None:
        log.append("handler")

    async with two_workers() as (caller, iii), app.attach(iii):
        iii.middleware(noting(log, "worker"))  # later than the function, and around it all the same
        await iii.wait_ready()
        await caller.trigger_async("r::handler")
    names = ["worker", "app 1", "app 2", "router", "function"]
    assert log == [*(f"> {name}" for name in names), "handler", *(f"< {name}" for name in reversed(names))]


async def test_a_workers_middleware_is_around_functions_registered_before_and_after_it() -> None:
    log: list[str] = []
    async with two_workers() as (caller, iii):

        @iii.function()
        async def before(data: Any) -> None: ...

        iii.middleware(noting(log, "worker"))

        @iii.function()
        async def after(data: Any) -> None: ...

        await iii.wait_ready()
        await caller.trigger_async("before")
        await caller.trigger_async("after")
    assert log == ["> worker", "< worker"] * 2


async def test_it_sees_the_raw_payload_and_the_result_on_the_loop_and_may_change_both() -> None:
    seen: list[Any] = []
    async with two_workers() as (caller, iii):

        @iii.middleware
        async def twice(call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
            seen.append((invocation.function_id, invocation.payload["qty"], invocation.metadata))
            seen.append(threading.current_thread())
            changed = {**invocation.payload, "qty": invocation.payload["qty"] * 2}
            result = await call_next(replace(invocation, payload=changed))
            seen.append(result)
            return {"wrapped": result}

        @iii.function()
        def handler(order: Order, metadata: Any) -> dict[str, Any]:
            assert threading.current_thread() is not seen[1]
            return {"qty": order.qty, "metadata": metadata}

        await iii.wait_ready()
        answer = await caller.trigger_async("handler", {"qty": 2}, metadata={"m": 1})
    assert answer == {"wrapped": {"qty": 4, "metadata": {"m": 1}}}
    assert seen == [("handler", 2, {"m": 1}), threading.current_thread(), {"qty": 4, "metadata": {"m": 1}}]


async def test_it_may_answer_itself_refuse_or_turn_an_error_into_an_answer() -> None:
    async with two_workers() as (caller, iii):

        async def guard(call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
            match invocation.payload:
                case {"key": "none"}:
                    raise InvocationError("forbidden", "no key")
                case {"key": "cached"}:
                    return ApiResponse(status_code=304)
                case _:
                    try:
                        return await call_next(invocation)
                    except ZeroDivisionError as exc:
                        return f"caught {exc}"

        @iii.function(middleware=[guard])
        async def handler(data: dict[str, Any]) -> float:
            return 1 / data["by"]

        await iii.wait_ready()
        with pytest.raises(InvocationError, match="no key") as caught:
            await caller.trigger_async("handler", {"key": "none"})
        assert caught.value.code == "forbidden"
        assert (await caller.trigger_async("handler", {"key": "cached"}))["status_code"] == 304  # H-37
        assert await caller.trigger_async("handler", {"by": 0}) == "caught division by zero"
        assert await caller.trigger_async("handler", {"by": 2}) == 0.5


async def test_a_payload_that_does_not_fit_is_an_error_for_callers_and_an_answer_for_http() -> None:
    """H-42: an HTTP client's mistake is no failure of the function."""
    seen: list[Any] = []
    async with two_workers() as (caller, iii):

        @iii.middleware
        async def note(call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
            try:
                result = await call_next(invocation)
            except InvocationError as exc:
                seen.append(exc.code)
                raise
            seen.append(result["status_code"])
            return result

        @iii.function()
        async def handler(order: Order) -> None: ...

        await iii.wait_ready()
        with pytest.raises(InvocationError, match="qty"):
            await caller.trigger_async("handler", {})
        answer = await caller.trigger_async("handler", {"trigger": {"type": "http"}})
    assert answer["status_code"] == 400
    assert seen == ["invalid_payload", 400]


async def test_a_cancelled_handler_leaves_its_middleware_too() -> None:
    started = Event()
    left: list[str] = []
    async with two_workers(shutdown_timeout=0) as (caller, iii):

        @iii.function(middleware=[noting(left, "middleware")])
        async def handler(data: Any) -> None:
            started.set()
            await Event().wait()

        await iii.wait_ready()
        await caller.trigger_async("handler", action={"type": "void"})
        with fail_after(20):
            await started.wait()
            await iii.shutdown_async()
    assert left == ["> middleware", "< middleware"]


async def test_what_is_no_middleware_is_refused() -> None:
    def sync(call_next: Any, invocation: Any) -> Any: ...

    async with two_workers() as (_, iii):
        for refused in (sync, "no"):
            with pytest.raises(TypeError, match="a middleware is 'async def middleware"):
                iii.middleware(refused)  # type: ignore[type-var]
            with pytest.raises(TypeError, match="a middleware is 'async def middleware"):
                App("shop", middleware=[refused])  # type: ignore[list-item]
            with pytest.raises(TypeError, match="a middleware is 'async def middleware"):
                iii.register_function("f", print, middleware=[refused])  # type: ignore[list-item]
