"""Calls that may be repeated: after what, how often, until when."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import Event, create_task_group, fail_after, to_thread

from iii_anyio import InvocationError, InvocationTimeoutError, RetryPolicy, TriggerAction, TriggerRequest, open_worker
from iii_anyio._runtime.retrying import retry
from tests.api.test_lifecycle import Cable, an_engine, options
from tests.api.workers import two_workers
from tests.timing import pass_time

pytestmark = pytest.mark.anyio
virtual = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
STEADY = RetryPolicy(attempts=5, initial_delay=0.5, multiplier=2, jitter=0)


class Flaky:
    """A handler that fails with these codes, one after the other, and then answers."""

    def __init__(self, *codes: str) -> None:
        self.codes = list(codes)
        self.times: list[float] = []

    async def __call__(self, data: Any) -> Any:
        self.times.append(anyio.current_time())
        if self.codes:
            raise InvocationError(self.codes.pop(0), "not now")
        return data


@virtual
async def test_pauses_grow_until_the_call_succeeds_and_each_attempt_gets_what_is_left_of_the_time() -> None:
    flaky = Flaky("worker_overloaded", "invocation_stopped", "worker_shutting_down")
    left: list[float] = []

    async def call(seconds: float) -> Any:
        left.append(seconds)
        return await flaky("done")

    start = anyio.current_time()
    assert await retry(STEADY, 10, call) == "done"
    assert [round(time - start, 3) for time in flaky.times] == [0, 0.5, 1.5, 3.5]
    assert [round(seconds, 3) for seconds in left] == [10, 9.5, 8.5, 6.5]


@virtual
async def test_no_attempt_is_made_that_would_begin_after_the_deadline() -> None:
    flaky = Flaky(*["worker_overloaded"] * 99)
    start = anyio.current_time()
    with pytest.raises(InvocationError) as caught:  # pauses of 0.5 and 1 s fit into 3 s, the one of 2 s does not
        await retry(STEADY, 3, flaky)
    assert caught.value.__notes__ == ["after 3 attempts"]
    assert anyio.current_time() - start == pytest.approx(1.5)


async def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    async with two_workers() as (caller, iii):
        iii.register_function("f", Flaky(*["worker_overloaded"] * 99))
        await iii.wait_ready()
        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async({"function_id": "f"}, retry=RetryPolicy(attempts=5, initial_delay=0))
        assert (caught.value.code, caught.value.__notes__) == ("worker_overloaded", ["after 5 attempts"])


async def test_other_errors_are_raised_at_once() -> None:
    flaky = Flaky("out_of_stock", "custom")
    async with two_workers() as (caller, iii):
        iii.register_function("f", flaky)
        await iii.wait_ready()
        with pytest.raises(InvocationError, match="out_of_stock"):
            await caller.trigger_async(TriggerRequest(function_id="f"), retry=RetryPolicy())
        assert await caller.trigger_async("f", 1, retry=RetryPolicy(on={"custom"}, initial_delay=0)) == 1
        assert len(flaky.times) == 3


@pytest.mark.parametrize("anyio_backend", ["held"], indirect=True)
async def test_a_slow_attempt_is_given_up_and_repeated_only_when_it_has_a_timeout_of_its_own() -> None:
    calls = 0

    async def slow_at_first(data: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2:
            pass_time(1)
            await anyio.sleep_forever()
        return data

    async with two_workers(shutdown_timeout=0) as (caller, iii):
        iii.register_function("f", slow_at_first)
        await iii.wait_ready()
        assert await caller.trigger_async("f", 1, retry=RetryPolicy(attempt_timeout=1, initial_delay=0)) == 1
        with pytest.raises(InvocationTimeoutError):
            await caller.trigger_async("f", 1, timeout_ms=1000, retry=RetryPolicy())
        assert calls == 3


async def test_a_call_whose_link_is_lost_is_made_again_on_the_next_one() -> None:
    with fail_after(20):
        async with (
            an_engine() as engine,
            open_worker(connector=engine.connector(), options=options("callee", shutdown_timeout=0)) as callee,
        ):
            cable = Cable(engine)
            running, calls = Event(), 0

            async def hang_once(data: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == 1:
                    running.set()
                    await Event().wait()
                return data

            callee.register_function("f", hang_once)
            await callee.wait_ready()
            answers: list[Any] = []
            async with open_worker(connector=cable, options=options("caller")) as caller, create_task_group() as tasks:
                await caller.wait_ready()

                async def call() -> None:
                    answers.append(await caller.trigger_async("f", 1, retry=RetryPolicy(initial_delay=0)))

                tasks.start_soon(call)
                await running.wait()
                await cable.cut()
            assert (answers, calls) == ([1], 2)


async def test_blocking_calls_and_stubs_are_repeated_too() -> None:
    flaky = Flaky("worker_overloaded", "worker_overloaded")
    policy = RetryPolicy(initial_delay=0.001)
    async with two_workers() as (caller, iii):
        iii.register_function("f", flaky)
        await iii.wait_ready()
        assert await to_thread.run_sync(lambda: caller.trigger("f", 1, retry=policy)) == 1
        flaky.codes = ["worker_overloaded"]
        assert await caller.remote("f", int, int, retry=policy)(2) == 2
        flaky.codes = ["worker_overloaded"] * 9
        with pytest.raises(InvocationError) as caught:
            await to_thread.run_sync(lambda: caller.trigger({"function_id": "f"}, retry=policy))
        assert caught.value.__notes__ == ["after 3 attempts"]


async def test_what_cannot_be_repeated_is_refused() -> None:
    async with two_workers() as (caller, _):
        with pytest.raises(ValueError, match="a void call has no answer"):
            await caller.trigger_async("f", action=TriggerAction.Void(), retry=RetryPolicy())
        with pytest.raises(TypeError, match="retry must be a RetryPolicy, got int"):
            await caller.trigger_async("f", retry=3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"attempts": 0}, "at least 1"),
        ({"on": "TIMEOUT"}, "a collection of codes"),
        ({"attempt_timeout": 0}, "positive"),
        ({"jitter": 2}, "between 0 and 1"),
        ({"initial_delay": -1}, "not negative"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        RetryPolicy(**given)
