"""The ``cron`` trigger on virtual time, through an engine and its workers (CR-…, T-…)."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint

from iii_anyio import InitOptions, InvocationError, Worker, open_worker
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.devengine.builtins.cron import Cron
from iii_anyio.trigger import TriggerConfig

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)]

EVERY_SECOND = {"expression": "* * * * * *"}
YEAR = 365 * 86_400


@asynccontextmanager
async def working(**options: Any) -> AsyncGenerator[tuple[Engine, Worker]]:
    """An engine and a worker, for less than a (virtual) year."""
    with fail_after(YEAR):
        async with (
            open_engine(port=None, **options) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="w", namespace="here")) as iii,
        ):
            yield engine, iii


class Ticks:
    """A handler that keeps what it got, and tells when it has enough."""

    def __init__(self, enough: int, *, lasting: float = 0.0, raising: bool = False) -> None:
        self.payloads: list[Any] = []
        self.metadata: list[Any] = []
        self.running = 0
        self.most_running = 0
        self.done = anyio.Event()
        self._enough = enough
        self._lasting = lasting
        self._raising = raising

    async def __call__(self, data: Any, metadata: Any) -> Any:
        self.payloads.append(data)
        self.metadata.append(metadata)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await anyio.sleep(self._lasting)
        self.running -= 1
        if len(self.payloads) >= self._enough:
            self.done.set()
        if self._raising:
            raise RuntimeError("no good")

    @property
    def times(self) -> list[datetime]:
        return [datetime.fromisoformat(payload["scheduled_time"]) for payload in self.payloads]

    @property
    def steps(self) -> list[float]:
        """Seconds between the ticks."""
        return [(late - early).total_seconds() for early, late in zip(self.times, self.times[1:], strict=False)]


async def test_a_tick_calls_with_these_four_keys_and_the_metadata_of_the_trigger() -> None:
    """CR-1, CR-8, T-12, T-15."""
    async with working() as (_engine, iii):
        ticks = Ticks(2)
        iii.register_function("tick", ticks)
        trigger = iii.register_trigger("cron", "tick", EVERY_SECOND, {"team": "a"})
        await iii.wait_ready()
        await ticks.done.wait()
        payload = ticks.payloads[0]
        assert payload.keys() == {"trigger", "job_id", "scheduled_time", "actual_time"}
        assert (payload["trigger"], payload["job_id"]) == ("cron", trigger.id)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", payload["scheduled_time"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", payload["actual_time"])
        assert datetime.fromisoformat(payload["actual_time"]) >= ticks.times[0]
        assert ticks.metadata[:2] == [{"team": "a"}] * 2
        assert ticks.steps[0] == 1


async def test_an_hourly_job_fires_each_hour_at_its_time() -> None:
    """CR-2, CR-8."""
    async with working() as (_engine, iii):
        ticks = Ticks(3)
        iii.register_function("tick", ticks)
        iii.register_trigger("cron", "tick", {"expression": "15 30 * ? * *"})
        await ticks.done.wait()
        assert {time.strftime("%M:%S") for time in ticks.times} == {"30:15"}
        assert ticks.steps == [3600, 3600]


async def test_ticks_that_pass_while_the_handler_runs_are_skipped() -> None:
    """CR-9: every second, but the handler takes 2.5 s."""
    async with working() as (_engine, iii):
        ticks = Ticks(4, lasting=2.5)
        iii.register_function("tick", ticks)
        iii.register_trigger("cron", "tick", EVERY_SECOND)
        await ticks.done.wait()
        assert ticks.steps == [3, 3, 3]
        assert ticks.most_running == 1


async def test_a_handler_may_take_longer_than_any_timeout() -> None:
    """CR-9, P-124."""
    async with working() as (_engine, iii):
        ticks = Ticks(2, lasting=100.5)
        iii.register_function("tick", ticks)
        iii.register_trigger("cron", "tick", EVERY_SECOND)
        await ticks.done.wait()
        assert ticks.steps == [101]


async def test_a_slow_job_keeps_no_other_waiting() -> None:
    async with working() as (_engine, iii):
        slow, quick = Ticks(1, lasting=1000), Ticks(5)
        iii.register_function("slow", slow)
        iii.register_function("quick", quick)
        iii.register_trigger("cron", "slow", EVERY_SECOND)
        iii.register_trigger("cron", "quick", EVERY_SECOND)
        await quick.done.wait()
        assert quick.steps == [1, 1, 1, 1]
        assert not slow.done.is_set()


@pytest.mark.parametrize("is_missing", [False, True])
async def test_a_tick_that_fails_is_logged_and_the_next_one_comes(
    is_missing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """CR-10, T-4."""
    async with working() as (_engine, iii):
        ticks = Ticks(3, raising=not is_missing)
        iii.register_trigger("cron", "tick", EVERY_SECOND)
        if is_missing:
            await iii.wait_ready()
            await anyio.sleep(2.5)
        iii.register_function("tick", ticks)
        await ticks.done.wait()
        assert ticks.steps == [1, 1]
    wanted = "function_not_found" if is_missing else "no good"
    assert any(wanted in record.getMessage() for record in caplog.records if record.name.endswith("devengine.cron"))


@pytest.mark.parametrize(("answer", "is_called"), [(False, False), (None, True), (0, True), ("false", True)])
async def test_only_a_condition_that_says_false_drops_the_tick(answer: Any, is_called: bool) -> None:
    """CR-14, T-13, T-16, T-17."""
    async with working() as (_engine, iii):
        asked: list[Any] = []
        enough = anyio.Event()

        async def condition(data: Any, metadata: Any) -> Any:
            asked.append((data, metadata))
            if len(asked) == 3:
                enough.set()
            await checkpoint()
            return answer

        ticks = Ticks(1)
        iii.register_function("tick", ticks)
        iii.register_function("condition", condition)
        iii.register_trigger("cron", "tick", {**EVERY_SECOND, "condition_function_id": "condition"}, {"m": 1})
        await enough.wait()
        assert bool(ticks.payloads) is is_called
        assert [metadata for _, metadata in asked] == [None] * 3
        if is_called:
            assert ticks.payloads[0] == asked[0][0]


async def test_a_condition_that_fails_or_is_missing_drops_the_tick(caplog: pytest.LogCaptureFixture) -> None:
    """CR-14, T-18."""
    async with working() as (_engine, iii):

        async def condition(_data: Any) -> Any:
            raise RuntimeError("no idea")

        ticks = Ticks(1)
        iii.register_function("tick", ticks)
        iii.register_function("condition", condition)
        for name in ("condition", "missing"):
            iii.register_trigger("cron", "tick", {**EVERY_SECOND, "condition_function_id": name})
        await iii.wait_ready()
        await anyio.sleep(3)
        assert ticks.payloads == []
    assert "no idea" in caplog.text
    assert "function_not_found" in caplog.text


async def test_an_unregistered_job_stops_and_its_call_goes_on() -> None:
    """CR-13."""
    async with working() as (_engine, iii):
        started, ended = anyio.Event(), anyio.Event()

        async def slow(_data: Any) -> None:
            started.set()
            await anyio.sleep(10)
            ended.set()

        iii.register_function("slow", slow)
        trigger = iii.register_trigger("cron", "slow", EVERY_SECOND)
        await started.wait()
        trigger.unregister()
        await iii.wait_ready()
        started = anyio.Event()
        await ended.wait()
        await anyio.sleep(10)
        assert not started.is_set()


async def test_jobs_end_with_their_worker_unless_made_by_function() -> None:
    """T-7, T-8."""
    async with working() as (engine, iii):
        ticks, durable = Ticks(10_000), Ticks(3)
        iii.register_function("tick", ticks)
        async with open_worker(connector=engine.connector(), options=InitOptions(worker_name="other")) as other:
            other.register_function("tick2", durable)
            other.register_trigger("cron", "tick", EVERY_SECOND, namespace="here")
            made = {"trigger_type": "cron", "function_id": "keeps", "config": EVERY_SECOND}
            await other.trigger_async("engine::register_trigger", made)
            await anyio.sleep(2)
        assert ticks.payloads
        await anyio.sleep(2)
        ticks.payloads.clear()
        async with open_worker(connector=engine.connector(), options=InitOptions(worker_name="third")) as third:
            third.register_function("keeps", durable)
            await durable.done.wait()
        assert ticks.payloads == []


@pytest.mark.parametrize("config", [{}, None, {"expression": ""}, {"expression": 5}, {"expression": None}])
async def test_a_trigger_without_expression_is_refused(config: Any) -> None:
    """CR-11."""
    async with working() as (_engine, iii):
        with pytest.raises(InvocationError, match="Cron expression is required") as caught:
            trigger = {"trigger_type": "cron", "function_id": "f", "config": config}
            await iii.trigger_async("engine::register_trigger", trigger)
        assert caught.value.code == "trigger_registration_failed"


async def test_a_trigger_with_a_bad_expression_is_refused() -> None:
    """CR-2, CR-11."""
    async with working() as (_engine, iii):
        with pytest.raises(InvocationError) as caught:
            trigger = {"trigger_type": "cron", "function_id": "f", "config": {"expression": "* * * * *"}}
            await iii.trigger_async("engine::register_trigger", trigger)
        assert caught.value.code == "trigger_registration_failed"
        assert caught.value.message.startswith("Invalid cron expression '* * * * *': ")


async def test_an_expression_without_a_later_time_registers_and_never_fires(caplog: pytest.LogCaptureFixture) -> None:
    """CR-10."""
    async with working() as (_engine, iii):
        trigger = {"trigger_type": "cron", "function_id": "f", "config": {"expression": "0 0 0 31 2 *"}}
        assert "id" in await iii.trigger_async("engine::register_trigger", trigger)
        await anyio.sleep(1)
    assert "does not fire any more" in caplog.text


# -- its configuration -----------------------------------------------------------------------------------------------


async def test_adapters_and_unknown_keys_of_a_real_engines_file_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    config = {"adapter": {"name": "redis", "config": {"redis_url": "redis://h"}}, "zone": "UTC"}
    async with working(workers={"iii-cron": config}):
        pass
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("'redis'" in message for message in messages)
    assert any("'zone'" in message for message in messages)


@pytest.mark.parametrize("config", [{"adapter": {"name": "etcd"}}, {"adapter": "kv"}, {"adapter": {"name": 1}}])
async def test_a_wrong_adapter_is_an_error(config: Any) -> None:
    with pytest.raises(ValueError, match=r"iii-cron: adapter"):
        async with working(workers={"iii-cron": config}):
            pass


# -- a clock that is set ---------------------------------------------------------------------------------------------


class Calls:
    """Takes the calls of a ``Cron`` that has no engine, so that its clock can be set."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.on_call: Callable[[], None] = lambda: None

    def trigger(self, request: Any) -> Any:
        raise AssertionError("blocks the loop")

    async def trigger_async(self, request: Any) -> Any:
        self.payloads.append(request["payload"])
        self.on_call()
        await checkpoint()


NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@asynccontextmanager
async def jobs(now: Callable[[], float]) -> AsyncGenerator[tuple[Calls, Cron]]:
    calls = Calls()
    async with create_task_group() as group:
        yield calls, Cron(calls, group, now)
        group.cancel_scope.cancel()


def job(id: str, expression: str) -> TriggerConfig[Any]:
    return TriggerConfig(id=id, function_id="f", config={"expression": expression})


async def test_a_clock_that_is_set_back_repeats_no_tick() -> None:
    offset = 0.0
    async with jobs(lambda: NOON + anyio.current_time() - start + offset) as (calls, cron):
        start = anyio.current_time()

        def set_back() -> None:
            nonlocal offset
            offset = -30

        calls.on_call = set_back
        await cron.register_trigger(job("j", "0 * * * * *"))
        await anyio.sleep(160)
        assert [payload["scheduled_time"][11:19] for payload in calls.payloads] == ["12:01:00", "12:02:00"]


async def test_a_tick_is_never_earlier_than_its_time_though_the_clock_goes_back_a_little() -> None:
    """CR-8: the time of a day and that of the loop are not read at the same instant, which shows as a jump."""
    newest = 0

    def now() -> float:
        nonlocal newest
        reading = NOON + 0.5 + anyio.current_time() - start
        if int(reading) > newest:
            newest = int(reading)
            return reading
        has_just_begun = reading % 1 < 0.1
        return reading - 0.01 if has_just_begun else reading  # once it has been seen

    async with jobs(now) as (calls, cron):
        start = anyio.current_time()
        await cron.register_trigger(job("j", "* * * * * *"))
        await anyio.sleep(2)
        payload = calls.payloads[0]
        assert datetime.fromisoformat(payload["actual_time"]) >= datetime.fromisoformat(payload["scheduled_time"])


async def test_after_a_sleep_of_the_computer_a_job_fires_once_and_late() -> None:
    """CR-10: no catch-up."""
    offset = 0.0
    async with jobs(lambda: NOON + anyio.current_time() - start + offset) as (calls, cron):
        start = anyio.current_time()
        await cron.register_trigger(job("j", "0 */10 * * * *"))
        await anyio.sleep(1)
        offset = 3 * 3600.0
        await anyio.sleep(120)
        (payload,) = calls.payloads
        assert payload["scheduled_time"] == "2026-11-23T12:10:00+00:00"
        assert payload["actual_time"].startswith("2026-11-23T15:01:")
        await anyio.sleep(600)
        assert [payload["scheduled_time"][11:19] for payload in calls.payloads] == ["12:10:00", "15:10:00"]


async def test_a_trigger_id_in_use_gets_the_new_schedule() -> None:
    """CR-12: upstream refuses it; here it is as with every other type (P-50)."""
    async with jobs(lambda: NOON + anyio.current_time() - start) as (calls, cron):
        start = anyio.current_time()
        await cron.register_trigger(job("j", "* * * * * *"))
        await cron.register_trigger(job("j", "30 * * * * *"))
        assert repr(cron) == "<Cron 1 jobs>"
        await anyio.sleep(90.5)
        assert [payload["scheduled_time"][11:19] for payload in calls.payloads] == ["12:00:30", "12:01:30"]
        await cron.unregister_trigger(job("j", "30 * * * * *"))
        await cron.unregister_trigger(job("unknown", "30 * * * * *"))
        assert repr(cron) == "<Cron 0 jobs>"
