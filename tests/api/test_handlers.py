"""How handlers run: every exit is answered, limits hold, threads cannot run out."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio import create_task_group, to_thread
from pydantic import BaseModel

from iii_anyio import InvocationError, Limits, running_invocation
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    sku: str
    quantity: int


class Peculiar(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda: ValueError("no good"), "invocation_failed", "no good"),
        (lambda: InvocationError("out_of_stock", "none left"), "out_of_stock", "none left"),
        (lambda: SystemExit(3), "invocation_failed", "SystemExit: 3"),
        (lambda: Peculiar("odd"), "invocation_failed", "Peculiar: odd"),
        (lambda: ValueError("lone \ud800 surrogate"), "invocation_failed", "lone ? surrogate"),
        (lambda: StopIteration(1), "invocation_failed", None),
    ],
    ids=["exception", "own code", "SystemExit", "BaseException", "unencodable", "StopIteration"],
)
async def test_whatever_a_handler_raises_is_answered_and_the_worker_goes_on(
    kind: str, make: Callable[[], BaseException], code: str, message: str | None
) -> None:
    """P-40, A.10; an InvocationError keeps its code (A.25, 10)."""

    async def fail(_: Any) -> None:
        raise make()

    def fail_sync(_: Any) -> None:
        raise make()

    async with two_workers() as (caller, callee):
        callee.register_function("fail", fail if kind == "async" else fail_sync)
        callee.register_function("fine", lambda data: data)
        await callee.wait_ready()
        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async("fail", {})
        assert caught.value.code == code
        if message is not None:
            assert caught.value.message == message
        if code == "invocation_failed":
            assert caught.value.stacktrace is not None
            assert "test_handlers.py" in caught.value.stacktrace
            if message is not None:  # a StopIteration is only the cause of what is raised
                assert "_runtime" not in caught.value.stacktrace, "the trace starts at the handler"
        assert await caller.trigger_async("fine", 1) == 1


async def test_a_result_that_cannot_be_encoded_is_answered_with_an_error() -> None:
    """P-44."""
    async with two_workers() as (caller, callee):
        callee.register_function("nan", lambda _: float("nan"))
        callee.register_function("object", lambda _: object())
        callee.register_function("huge", lambda _: "x" * 67_108_864)
        callee.register_function("coroutine", lambda _: anyio.sleep(1))
        await callee.wait_ready()
        for function_id, code in [
            ("nan", "invocation_failed"),
            ("object", "invocation_failed"),
            ("huge", "payload_too_large"),
            ("coroutine", "invocation_failed"),
        ]:
            with pytest.raises(InvocationError) as caught:
                await caller.trigger_async(function_id, {})
            assert caught.value.code == code, function_id


async def test_a_handler_cancelled_by_its_own_scope_is_answered_and_others_go_on() -> None:
    async with two_workers() as (caller, callee):

        @callee.function("give_up")
        async def give_up(_: Any) -> str:
            with anyio.move_on_after(0):
                await anyio.sleep_forever()
            return "gave up"

        await callee.wait_ready()
        assert await caller.trigger_async("give_up", {}) == "gave up"


async def test_at_most_max_concurrency_handlers_run_and_one_beyond_the_backlog_is_refused() -> None:
    async with two_workers(limits=Limits(max_concurrency=2, backlog=3)) as (caller, callee):
        go, full = anyio.Event(), anyio.Event()
        running = peak = 0

        @callee.function("hold")
        async def hold(n: int) -> int:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            if running == 2:
                full.set()
            await go.wait()
            running -= 1
            return n

        await callee.wait_ready()
        results: list[int] = []

        async def call(n: int) -> None:
            results.append(await caller.trigger_async("hold", n))

        async with create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(call, n)
            await full.wait()
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(InvocationError) as refused:
                await caller.trigger_async("hold", 5)
            assert refused.value.code == "worker_overloaded"
            go.set()
        assert sorted(results) == [0, 1, 2, 3, 4]
        assert peak == 2


async def test_a_function_s_own_concurrency_does_not_hold_up_others() -> None:
    async with two_workers() as (caller, callee):
        go, order = anyio.Event(), []

        async def one_by_one(n: int) -> None:
            order.append(f"start {n}")
            await go.wait()
            order.append(f"end {n}")

        callee.register_function("serial", one_by_one, concurrency=1)
        callee.register_function("free", lambda data: data)
        await callee.wait_ready()
        async with create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(caller.trigger_async, "serial", n)
            assert await caller.trigger_async("free", 1) == 1
            await anyio.wait_all_tasks_blocked()
            go.set()
        steps = [step.split()[0] for step in order]
        assert steps == ["start", "end"] * 3


async def test_sync_handlers_nested_50_deep_do_not_run_out_of_2_threads() -> None:
    async with two_workers(limits=Limits(max_threads=2)) as (caller, callee):

        @callee.function("descend")
        def descend(n: int) -> int:
            return 0 if n == 0 else 1 + callee.trigger("descend", n - 1)

        await callee.wait_ready()
        assert await caller.trigger_async("descend", 50) == 50


async def test_max_threads_sync_handlers_run_at_once() -> None:
    async with two_workers(limits=Limits(max_threads=3)) as (caller, callee):
        running = peak = 0
        lock = threading.Lock()
        three = threading.Barrier(3)

        @callee.function("work")
        def work(_: Any) -> None:
            nonlocal running, peak
            with lock:
                running += 1
                peak = max(peak, running)
            three.wait(30)  # passes only if three run at the same time
            with lock:
                running -= 1

        await callee.wait_ready()
        async with create_task_group() as tasks:
            for _ in range(9):
                tasks.start_soon(caller.trigger_async, "work", {})
        assert peak == 3


async def test_metadata_reaches_only_handlers_that_ask_for_it() -> None:
    """P-43."""
    async with two_workers() as (caller, callee):
        callee.register_function("with", lambda data, metadata: [data, metadata])
        callee.register_function("without", lambda data: data)
        await callee.wait_ready()
        assert await caller.trigger_async("with", 1, metadata={"tenant": "a"}) == [1, {"tenant": "a"}]
        assert await caller.trigger_async("without", 1, metadata={"tenant": "a"}) == 1


async def test_the_running_invocation_is_known_in_tasks_and_threads_and_nowhere_else() -> None:
    async with two_workers() as (caller, callee):

        def who() -> str | None:
            invocation = running_invocation()
            return invocation.function_id if invocation is not None else None

        @callee.function("async")
        async def as_task(_: Any) -> list[str | None]:
            return [who(), await to_thread.run_sync(who)]

        callee.register_function("sync", lambda _: who())
        await callee.wait_ready()
        assert await caller.trigger_async("async", {}) == ["async", "async"]
        assert await caller.trigger_async("sync", {}) == "sync"
        assert who() is None


async def test_context_variables_of_one_handler_do_not_leak_into_the_next() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    async with two_workers() as (caller, callee):

        @callee.function("set")
        async def set_it(n: int) -> int:
            before = variable.get()
            variable.set(n)
            return before

        await callee.wait_ready()
        assert [await caller.trigger_async("set", n) for n in (1, 2, 3)] == [0, 0, 0]


async def test_nested_calls_carry_the_trace_context_of_the_invocation() -> None:
    """§7.6: without an instrument the trace stays joined."""
    async with two_workers() as (caller, callee):
        seen: list[tuple[str | None, str | None]] = []

        def note() -> None:
            invocation = running_invocation()
            assert invocation is not None
            seen.append((invocation.traceparent, invocation.baggage))

        @callee.function("outer")
        async def outer(_: Any) -> None:
            note()
            await callee.trigger_async("inner", {})

        @callee.function("inner")
        async def inner(_: Any) -> None:
            note()

        await callee.wait_ready()
        await caller.trigger_async("outer", {})
        assert seen[0][0] == seen[1][0]


async def test_an_invalid_payload_names_the_fields_and_never_reaches_the_handler() -> None:
    async with two_workers() as (caller, callee):
        ran = False

        @callee.function("order")
        async def order(order: Order) -> int:
            nonlocal ran
            ran = True
            return order.quantity

        await callee.wait_ready()
        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async("order", {"sku": "a", "quantity": "many"})
        assert caught.value.code == "invalid_payload"
        assert "quantity" in caught.value.message
        assert not ran
        assert await caller.trigger_async("order", {"sku": "a", "quantity": 2}) == 2
        info = await caller.trigger_async("engine::functions::info", {"function_id": "order"})
        assert info["request_schema"]["properties"].keys() == {"sku", "quantity"}


async def test_failures_are_logged_where_the_handler_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "iii_anyio")
    async with two_workers() as (caller, callee):

        @callee.function("bug")
        async def bug(_: Any) -> None:
            raise ZeroDivisionError("oops")

        await callee.wait_ready()
        await caller.trigger_async({"function_id": "bug", "payload": {}, "action": {"type": "void"}})
        while "'bug' failed" not in caplog.text:
            await anyio.lowlevel.checkpoint()
        assert "ZeroDivisionError" in caplog.text
