"""Registering functions and calling them."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from anyio import create_task_group

from iii_anyio import EncodeError, InvocationError, InvocationTimeoutError, TriggerAction
from tests.contract.targets import Target

pytestmark = pytest.mark.anyio

CALLER = "_caller_worker_id"


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


# -- payloads and results --------------------------------------------------------------------------------------------


async def test_an_async_and_a_sync_handler_serve_calls_of_another_worker_and_of_their_own(target: Target) -> None:
    """P-38, P-120, §7.1."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):

        async def add(data: Any) -> Any:
            return data["a"] + data["b"]

        def double(data: Any) -> Any:
            return data * 2

        callee.register_function(engine.id("add"), add)
        callee.register_function(engine.id("double"), double)
        await callee.wait_ready()
        for iii in (caller, callee):
            assert await iii.trigger_async(engine.id("add"), {"a": 1, "b": 2}) == 3
            assert await iii.trigger_async(engine.id("double"), "ab") == "abab"


VALUES = [
    True,
    0,
    -(2**63),
    2**64 - 1,
    0.5,
    -1.25e300,
    "",
    'käse 東京 😀 \u2028 \x00 \\ "quoted"',
    [],
    [1, [2, [None, {"": ""}]]],
    {"b": 1, "a": {"ключ": ["значение"]}},
]


async def test_every_kind_of_json_arrives_as_it_was_sent(target: Target) -> None:
    """§4, P-27: integers of 64 bits are exact, text is any text; of an object only the order of keys is lost (G-6)."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        seen: list[Any] = []

        def echo(data: Any) -> Any:
            seen.append(data)
            return [data]

        callee.register_function(engine.id("echo"), echo)
        await callee.wait_ready()
        for value in VALUES:
            sent = {"value": value}
            answer = await caller.trigger_async(engine.id("echo"), [sent])
            assert answer == [[sent]]
            assert seen.pop() == [sent]


async def test_a_null_payload_arrives_and_a_null_result_comes_back(target: Target) -> None:
    """P-27, P-30, P-42, G-1, G-18."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        seen: list[Any] = []
        callee.register_function(engine.id("note"), seen.append)
        await callee.wait_ready()
        assert await caller.trigger_async(engine.id("note"), None) is None
        assert await caller.trigger_async({"function_id": engine.id("note")}) is None
        assert seen == [None, None]


async def test_an_object_payload_names_its_caller_and_other_payloads_do_not(target: Target) -> None:
    """P-119, G-4, G-23: whatever the caller put there."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        answer = await caller.trigger_async(engine.id("echo"), {"x": 1})
        if CALLER not in answer:
            target.skip_outside("it does not name the caller (G-23)")
        assert answer == {"x": 1, CALLER: caller.worker_id}
        assert await caller.trigger_async(engine.id("echo"), {CALLER: "me"}) == {CALLER: caller.worker_id}
        assert await caller.trigger_async(engine.id("echo"), [{"x": 1}]) == [{"x": 1}]


async def test_metadata_arrives_beside_the_payload_and_only_when_it_was_given(target: Target) -> None:
    """P-37, P-43, P-118."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        callee.register_function(engine.id("second"), lambda data, metadata: [data, metadata])

        async def by_keyword(data: Any, *, metadata: Any) -> Any:
            return [data, metadata]

        callee.register_function(engine.id("keyword"), by_keyword)
        callee.register_function(engine.id("none"), lambda data: data)
        await callee.wait_ready()
        for name in ("second", "keyword"):
            call = {"function_id": engine.id(name), "payload": [1], "metadata": {"tenant": "acme"}}
            assert await caller.trigger_async(call) == [[1], {"tenant": "acme"}]
            assert await caller.trigger_async(engine.id(name), [1]) == [[1], None]
        assert await caller.trigger_async(engine.id("none"), [1], metadata={"tenant": "acme"}) == [1]


async def test_function_ids_are_any_text(target: Target) -> None:
    """§4.2."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        for name in ("größe/ 東京::😀", "a b\nc", "x" * 500):
            callee.register_function(engine.id(name), lambda data: data)
            await callee.wait_ready()
            assert await caller.trigger_async(engine.id(name), [name]) == [name]


async def test_payloads_that_json_cannot_carry_are_refused_at_once_and_the_connection_stays(target: Target) -> None:
    """§4, G-2: upstream would drop the message and the call would never be answered."""
    async with target.open() as engine, engine.worker() as iii:
        iii.register_function(engine.id("echo"), lambda data: data)
        await iii.wait_ready()
        identity = iii.worker_id
        for value in (math.nan, math.inf, "\ud800", object()):
            with pytest.raises(EncodeError):
                await iii.trigger_async(engine.id("echo"), [value])
        assert await iii.trigger_async(engine.id("echo"), [1]) == [1]
        assert iii.worker_id == identity


async def test_126_nested_arrays_pass_and_127_are_refused_at_once(target: Target) -> None:
    """§4: 127 levels with the message itself."""
    async with target.open() as engine, engine.worker() as iii:
        iii.register_function(engine.id("echo"), lambda data: data)
        await iii.wait_ready()
        assert await iii.trigger_async(engine.id("echo"), nested(126)) == nested(126)
        with pytest.raises(EncodeError):
            await iii.trigger_async(engine.id("echo"), nested(127))
        assert await iii.trigger_async(engine.id("echo"), [1]) == [1]


# -- errors ----------------------------------------------------------------------------------------------------------


async def test_an_exception_of_a_handler_reaches_the_caller_with_its_traceback(target: Target) -> None:
    """P-32, P-40, §4.4."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):

        async def buy(_data: Any) -> None:
            raise LookupError("out of stock")

        def sell(_data: Any) -> None:
            raise LookupError("out of money")

        callee.register_function(engine.id("buy"), buy)
        callee.register_function(engine.id("sell"), sell)
        await callee.wait_ready()
        for name, text in (("buy", "out of stock"), ("sell", "out of money")):
            with pytest.raises(InvocationError) as caught:
                await caller.trigger_async(engine.id(name), {})
            error = caught.value
            assert (error.code, error.message, error.function_id) == ("invocation_failed", text, engine.id(name))
            assert error.invocation_id is not None
            assert error.stacktrace is not None
            assert f"LookupError: {text}" in error.stacktrace
            assert f"in {name}" in error.stacktrace
            assert "Traceback" not in str(error)


async def test_an_invocation_error_of_a_handler_keeps_its_code_through_nested_calls(target: Target) -> None:
    """R-1."""
    async with target.open() as engine, engine.workers("a", "b") as (first, second):

        async def inner(_data: Any) -> None:
            raise InvocationError("unknown_sku", "no gold here")

        async def outer(data: Any) -> Any:
            return await second.trigger_async(engine.id("inner"), data)

        def outer_in_a_thread(data: Any) -> Any:
            return second.trigger(engine.id("inner"), data)

        first.register_function(engine.id("inner"), inner)
        second.register_function(engine.id("outer"), outer)
        second.register_function(engine.id("thread"), outer_in_a_thread)
        await first.wait_ready()
        await second.wait_ready()
        for name in ("inner", "outer", "thread"):
            with pytest.raises(InvocationError) as caught:
                await first.trigger_async(engine.id(name), {})
            assert (caught.value.code, caught.value.message) == ("unknown_sku", "no gold here")


async def test_a_call_of_a_function_that_is_nowhere_is_answered_function_not_found(target: Target) -> None:
    """P-117, §8: only the code is fixed."""
    async with target.open() as engine, engine.worker() as iii:
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async(engine.id("nowhere"), {})
        assert caught.value.code == "function_not_found"
        assert caught.value.function_id == engine.id("nowhere")


async def test_a_result_that_json_cannot_carry_is_an_error_for_its_caller(target: Target) -> None:
    """P-44, R-2."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        results: list[Any] = [math.nan, {"a": object()}, "\udc00", nested(200)]
        callee.register_function(engine.id("odd"), lambda index: results[index])
        await callee.wait_ready()
        for index in range(len(results)):
            with pytest.raises(InvocationError) as caught:
                await caller.trigger_async(engine.id("odd"), index)
            assert caught.value.code == "invocation_failed"


async def test_a_handler_that_exits_answers_and_the_worker_goes_on(target: Target) -> None:
    """P-40."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):

        async def leave(_data: Any) -> None:
            raise SystemExit(3)

        callee.register_function(engine.id("leave"), leave)
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async(engine.id("leave"), {})
        assert caught.value.code == "invocation_failed"
        assert await caller.trigger_async(engine.id("echo"), 1) == 1


async def test_malformed_input_of_an_engine_function_is_a_deserialization_error(target: Target) -> None:
    """P-132, C-6, §8."""
    async with target.open() as engine, engine.worker() as iii:
        for payload in (None, 5, {"function_id": 5}):
            with pytest.raises(InvocationError) as caught:
                await iii.trigger_async("engine::functions::info", payload)
            assert caught.value.code == "deserialization_error"
            assert "engine::functions::info" in caught.value.message
            assert caught.value.stacktrace is None


# -- other ways of calling -------------------------------------------------------------------------------------------


async def test_a_void_call_returns_before_the_function_has_run(target: Target) -> None:
    """P-28, P-34, P-38, P-118, P-121."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        may_go_on, has_run = anyio.Event(), anyio.Event()
        seen: list[Any] = []

        async def slow(data: Any) -> str:
            await may_go_on.wait()
            seen.append(data)
            has_run.set()
            return "nobody waits for this"

        callee.register_function(engine.id("slow"), slow)
        await callee.wait_ready()
        assert await caller.trigger_async(engine.id("slow"), [1], action=TriggerAction.Void()) is None
        assert seen == []
        may_go_on.set()
        await has_run.wait()
        assert seen == [[1]]


async def test_void_calls_that_fail_fail_in_silence(target: Target) -> None:
    """P-121, P-33."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):

        async def fail(_data: Any) -> None:
            raise ValueError("nobody hears this")

        callee.register_function(engine.id("fail"), fail)
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        for name in ("fail", "nowhere"):
            assert await caller.trigger_async(engine.id(name), {}, action={"type": "void"}) is None
        assert await caller.trigger_async(engine.id("echo"), 1) == 1


async def test_a_job_for_a_queue_that_nobody_defined_is_refused(target: Target) -> None:
    """P-122."""
    async with target.open() as engine, engine.worker() as iii:
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async(engine.id("job"), {}, action=TriggerAction.Enqueue(queue=engine.id("q")))
        assert caught.value.code == "enqueue_error"


# -- time ------------------------------------------------------------------------------------------------------------


async def test_a_call_times_out_at_its_caller_and_the_late_answer_is_ignored(target: Target) -> None:
    """P-29, P-33, P-124, G-5."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        may_go_on, has_run = anyio.Event(), anyio.Event()

        async def slow(_data: Any) -> str:
            await may_go_on.wait()
            has_run.set()
            return "late"

        callee.register_function(engine.id("slow"), slow)
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        with pytest.raises(InvocationTimeoutError) as caught:
            await caller.trigger_async(engine.id("slow"), {}, timeout_ms=50)
        assert caught.value.code == "TIMEOUT"
        may_go_on.set()
        await has_run.wait()
        # The late answer is on its way before these, on the same connections.
        assert await callee.trigger_async(engine.id("echo"), 1) == 1
        assert await caller.trigger_async(engine.id("echo"), 2) == 2


async def test_the_worker_s_own_timeout_holds_for_calls_that_give_none(target: Target) -> None:
    """P-29."""
    async with target.open() as engine, engine.worker(invocation_timeout_ms=50) as iii:
        may_go_on = anyio.Event()

        async def slow(_data: Any) -> str:
            await may_go_on.wait()
            return "done"

        iii.register_function(engine.id("slow"), slow)
        await iii.wait_ready()
        with pytest.raises(InvocationTimeoutError):
            await iii.trigger_async(engine.id("slow"), {})
        async with create_task_group() as tasks:

            async def call() -> None:
                assert await iii.trigger_async(engine.id("slow"), {}, timeout_ms=8000) == "done"

            tasks.start_soon(call)
            may_go_on.set()


async def test_a_cancelled_caller_leaves_the_function_running_and_the_worker_usable(target: Target) -> None:
    """R-3, G-5."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        started, may_go_on, has_run = anyio.Event(), anyio.Event(), anyio.Event()

        async def slow(_data: Any) -> None:
            started.set()
            await may_go_on.wait()
            has_run.set()

        callee.register_function(engine.id("slow"), slow)
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        async with create_task_group() as tasks:
            tasks.start_soon(caller.trigger_async, {"function_id": engine.id("slow")})
            await started.wait()
            tasks.cancel_scope.cancel()
        may_go_on.set()
        await has_run.wait()
        assert await caller.trigger_async(engine.id("echo"), 1) == 1


# -- concurrency and order -------------------------------------------------------------------------------------------


async def test_a_slow_handler_holds_up_neither_other_calls_nor_its_own_later_ones(target: Target) -> None:
    """P-41, P-106."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        release = anyio.Event()

        async def first_waits(number: int) -> int:
            if number == 0:
                await release.wait()
            return number

        callee.register_function(engine.id("f"), first_waits)
        await callee.wait_ready()
        order: list[int] = []

        async def call(number: int) -> None:
            order.append(await caller.trigger_async(engine.id("f"), number))

        async with create_task_group() as tasks:
            tasks.start_soon(call, 0)
            for number in (1, 2, 3):
                await call(number)
            release.set()
        assert order == [1, 2, 3, 0]


async def test_1000_calls_in_flight_at_once_each_get_their_own_result(target: Target) -> None:
    """P-41, P-28, P-120."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        running = 0
        all_running = anyio.Event()

        async def square(number: int) -> int:
            nonlocal running
            running += 1
            if running == 1000:
                all_running.set()
            await all_running.wait()
            return number * number

        callee.register_function(engine.id("square"), square)
        await callee.wait_ready()
        results: dict[int, int] = {}

        async def call(number: int) -> None:
            results[number] = await caller.trigger_async(engine.id("square"), number)

        async with create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(call, number)
        assert results == {number: number * number for number in range(1000)}


async def test_a_function_can_be_called_right_after_it_was_registered_on_the_same_connection(target: Target) -> None:
    """P-106, §3.4: and right before the worker has connected, the call waits for that (G-8)."""
    async with target.open() as engine, engine.worker() as iii:
        iii.register_function(engine.id("early"), lambda data: data)
        assert await iii.trigger_async(engine.id("early"), 1) == 1
        for number in range(20):
            iii.register_function(engine.id(f"late{number}"), lambda data: data)
            assert await iii.trigger_async(engine.id(f"late{number}"), number) == number


# -- taking functions back -------------------------------------------------------------------------------------------


async def test_an_unregistered_function_is_gone_and_can_be_registered_again(target: Target) -> None:
    """P-115, §5.2, P-20."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        first = callee.register_function(engine.id("f"), lambda _data: "first")
        with pytest.raises(ValueError, match="already registered"):
            callee.register_function(engine.id("f"), lambda _data: "twin")
        await callee.wait_ready()
        assert await caller.trigger_async(engine.id("f"), {}) == "first"
        first.unregister()
        first.unregister()
        with pytest.raises(InvocationError) as caught:
            await callee.trigger_async(engine.id("f"), {})
        assert caught.value.code == "function_not_found"
        callee.register_function(engine.id("f"), lambda _data: "second")
        await callee.wait_ready()
        assert await caller.trigger_async(engine.id("f"), {}) == "second"
        first.unregister()  # it has been taken back; this one is another
        assert await callee.trigger_async(engine.id("f"), {}) == "second"


async def test_a_function_taken_back_and_registered_in_one_breath_has_the_new_handler(target: Target) -> None:
    """P-106, P-115."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        ref = callee.register_function(engine.id("f"), lambda _data: -1)
        await callee.wait_ready()
        for number in range(10):
            ref.unregister()
            ref = callee.register_function(engine.id("f"), lambda _data, number=number: number)
        await callee.wait_ready()
        assert await caller.trigger_async(engine.id("f"), {}) == 9


async def test_a_running_handler_finishes_although_its_function_was_taken_back(target: Target) -> None:
    """§5.2."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        started, may_go_on = anyio.Event(), anyio.Event()

        async def slow(_data: Any) -> str:
            started.set()
            await may_go_on.wait()
            return "done"

        ref = callee.register_function(engine.id("slow"), slow)
        await callee.wait_ready()
        async with create_task_group() as tasks:

            async def call() -> None:
                assert await caller.trigger_async(engine.id("slow"), {}) == "done"

            tasks.start_soon(call)
            await started.wait()
            ref.unregister()
            may_go_on.set()


async def test_functions_can_be_registered_and_called_from_threads(target: Target) -> None:
    """R-4."""
    async with target.open() as engine, engine.worker() as iii:

        def in_a_thread() -> list[Any]:
            refs = [iii.register_function(engine.id(f"f{number}"), lambda data: data) for number in range(5)]
            answers = [iii.trigger(ref.id, number) for number, ref in enumerate(refs)]
            refs[0].unregister()
            return answers

        assert await anyio.to_thread.run_sync(in_a_thread) == [0, 1, 2, 3, 4]
        await iii.wait_ready()
        assert not await engine.has_function(iii, engine.id("f0"))
        assert await engine.has_function(iii, engine.id("f1"))
