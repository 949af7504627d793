"""Named queues, durable topics and their dead letters, through an engine and its workers (Q-…, T-…)."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, current_time, fail_after

from iii_anyio import InitOptions, InvocationError, TriggerAction, Worker, open_worker
from iii_anyio.context import running_invocation
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.devengine._storage import Storage
from iii_anyio.errors import TriggerRegistrationError

pytestmark = pytest.mark.anyio

LIST, STATS = "engine::queue::list_topics", "engine::queue::topic_stats"
DLQ_TOPICS, DLQ_MESSAGES = "engine::queue::dlq_topics", "engine::queue::dlq_messages"
REDRIVE, REDRIVE_ONE, DISCARD = "iii::queue::redrive", "iii::queue::redrive_message", "iii::queue::discard_message"
DAY = 86_400
"""Of virtual time, which jumps while a thread works."""
virtual = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)


class Handler:
    """Keeps what it gets, and when; fails as often as it is told."""

    def __init__(self, failures: int = 0, *, code: str = "busy") -> None:
        self.got: list[Any] = []
        self.times: list[float] = []
        self.baggage: list[str | None] = []
        self.failures = failures
        self.begun = current_time()
        self._code = code
        self._changed = anyio.Event()

    async def __call__(self, data: Any, metadata: Any) -> str:
        assert metadata is None, "neither jobs nor messages have any (Q-23, Q-28)"
        invocation = running_invocation()
        assert invocation is not None
        self.baggage.append(invocation.baggage)
        self.got.append(data)
        self.times.append(round(current_time() - self.begun, 3))
        self._changed.set()
        self._changed = anyio.Event()
        if len(self.got) <= self.failures:
            raise InvocationError(self._code, "not now")
        return "nobody gets this"

    async def wait(self, count: int) -> list[Any]:
        while len(self.got) < count:
            await self._changed.wait()
        return self.got


class Gate:
    """A handler that waits inside until it is let go on."""

    def __init__(self) -> None:
        self.inside: list[Any] = []
        self.most = 0
        self.done: list[Any] = []
        self._waiting: dict[str, anyio.Event] = {}
        self._changed = anyio.Event()

    async def __call__(self, data: Any) -> None:
        event = self._waiting[str(data)] = anyio.Event()
        self.inside.append(data)
        self.most = max(self.most, len(self.inside))
        self._notify()
        await event.wait()
        self.inside.remove(data)
        self.done.append(data)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def let(self, data: Any) -> None:
        self._waiting.pop(str(data)).set()

    async def wait_inside(self, data: Any) -> None:
        while data not in self.inside:
            await self._changed.wait()

    async def wait_done(self, data: Any) -> None:
        while data not in self.done:
            await self._changed.wait()


@asynccontextmanager
async def working(
    queues: dict[str, Any] | None = None, *, seconds: float = 20, **options: Any
) -> AsyncGenerator[tuple[Engine, Worker]]:
    with fail_after(seconds):
        async with (
            open_engine(port=None, workers={"iii-queue": {"queue_configs": queues or {}}}, **options) as engine,
            joined(engine) as iii,
        ):
            yield engine, iii


@asynccontextmanager
async def joined(engine: Engine, name: str = "w", **options: Any) -> AsyncGenerator[Worker]:
    async with open_worker(connector=engine.connector(), options=InitOptions(worker_name=name, **options)) as iii:
        yield iii


async def enqueue(iii: Worker, function_id: str, data: Any, queue: str = "default", **more: Any) -> str:
    request = {"function_id": function_id, "payload": data, "action": TriggerAction.Enqueue(queue=queue), **more}
    answer = await iii.trigger_async(request)
    assert list(answer) == ["messageReceiptId"]
    receipt: str = answer["messageReceiptId"]
    return receipt


async def publish(iii: Worker, topic: str, data: Any) -> None:
    assert await iii.trigger_async("iii::durable::publish", {"topic": topic, "data": data}) is None


async def until(iii: Worker, name: str, key: str, number: int) -> None:
    """Wait until this is in the statistics."""
    while (await iii.trigger_async(STATS, {"topic": name}))[key] != number:  # noqa: ASYNC110 - no event tells
        await anyio.sleep(0.02)  # and a checkpoint would not let virtual time go on


async def dead(iii: Worker, name: str, count: int = 1) -> list[dict[str, Any]]:
    """The dead messages of a queue or topic, once there are so many."""
    await until(iii, name, "dlq_depth", count)
    rows: list[dict[str, Any]] = await iii.trigger_async(DLQ_MESSAGES, {"topic": name})
    return rows


async def depth(iii: Worker, name: str) -> int:
    return int((await iii.trigger_async(STATS, {"topic": name}))["depth"])


# -- named queues ----------------------------------------------------------------------------------------------------


async def test_an_enqueued_call_runs_with_its_data_alone() -> None:
    """Q-5, Q-6, Q-8, Q-14, Q-23: the default queue needs no configuration."""
    async with working() as (engine, iii), joined(engine, "o", namespace="orders") as other:
        here, there = Handler(), Handler()
        iii.register_function("f", here)
        other.register_function("f", there)
        await iii.wait_ready()
        await other.wait_ready()
        for data in ({"x": 1}, None, [1], "text"):
            await enqueue(iii, "f", data, metadata={"lost": True})
        assert sorted(await here.wait(4), key=str) == sorted([{"x": 1}, None, [1], "text"], key=str)
        await enqueue(other, "f", 5)
        await enqueue(iii, "f", 6, namespace="orders")
        assert sorted(await there.wait(2)) == [5, 6]
        assert len(here.got) == 4


@virtual
async def test_a_failing_job_is_tried_again_later_and_later_until_it_is_dead() -> None:
    """Q-20, Q-21, Q-24, Q-40: and its handler can see which attempt it is."""
    async with working({"jobs": {"max_retries": 4, "backoff_ms": 500}}, seconds=DAY) as (_, iii):
        handler = Handler(99)
        iii.register_function("f", handler)
        await iii.wait_ready()
        handler.begun = current_time()
        receipt = await enqueue(iii, "f", {"n": 1}, "jobs")
        (row,) = await dead(iii, "jobs")
        assert handler.times == [0.0, 0.5, 1.5, 3.5]
        size = row.pop("size_bytes")
        failed_at = row.pop("failed_at")
        assert row == {"id": receipt, "payload": {"n": 1}, "error": "busy: not now", "retries": 4}
        assert size > len('{"n":1}')
        assert isinstance(failed_at, int)
        for number, baggage in enumerate(handler.baggage, 1):
            assert baggage is not None
            entries = dict(entry.split("=") for entry in baggage.split(","))
            assert entries == {
                "iii.function.id": "f",
                "iii.queue.message_id": receipt,
                "iii.queue.attempt": str(number),
            }


@virtual
@pytest.mark.parametrize("max_retries", [0, 1])
async def test_no_retries_and_one_both_mean_one_attempt(max_retries: int) -> None:
    """Q-20."""
    async with working({"jobs": {"max_retries": max_retries}}, seconds=DAY) as (_, iii):
        handler = Handler(99)
        iii.register_function("f", handler)
        await iii.wait_ready()
        await enqueue(iii, "f", 1, "jobs")
        (row,) = await dead(iii, "jobs")
        assert (len(handler.got), row["retries"]) == (1, 1)


async def test_so_many_jobs_of_a_queue_run_at_once_and_no_more() -> None:
    """Q-18, Q-38."""
    async with working({"jobs": {"concurrency": 2}}) as (_, iii):
        gate = Gate()
        iii.register_function("f", gate)
        await iii.wait_ready()
        for number in range(5):
            await enqueue(iii, "f", number, "jobs")
        for number in range(5):
            await gate.wait_inside(number)
            await until(iii, "jobs", "depth", 5 - number)
            gate.let(number)
            await gate.wait_done(number)
        assert gate.most == 2


@virtual
async def test_jobs_of_one_group_run_one_after_the_other_and_groups_side_by_side() -> None:
    """Q-18, Q-22: a retry holds up its own group only."""
    fifo = {"type": "fifo", "message_group_field": "user", "backoff_ms": 1000, "concurrency": 2}
    async with working({"jobs": fifo}, seconds=DAY) as (_, iii):
        order: list[tuple[Any, int]] = []
        running: set[Any] = set()
        done = anyio.Event()

        async def handle(job: Any) -> None:
            assert job["user"] not in running
            running.add(job["user"])
            order.append((job["user"], job["n"]))
            await anyio.sleep(0.1)
            running.discard(job["user"])
            if order.count(("a", 1)) == 1 and job == {"user": "a", "n": 1}:
                raise InvocationError("busy", "once")
            if len(order) == 7:
                done.set()

        iii.register_function("f", handle)
        await iii.wait_ready()
        for user, number in (("a", 1), ("a", 2), (7, 1), ("a", 3), (7, 2), ("b", 1)):
            await enqueue(iii, "f", {"user": user, "n": number}, "jobs")
        await done.wait()
        assert [entry for entry in order if entry[0] == "a"] == [("a", 1), ("a", 1), ("a", 2), ("a", 3)]
        assert [entry for entry in order if entry[0] == 7] == [(7, 1), (7, 2)]
        assert order.index(("b", 1)) < order.index(("a", 2))


async def test_a_job_without_a_group_is_refused_by_a_grouped_queue() -> None:
    """Q-19."""
    async with working({"jobs": {"type": "fifo", "message_group_field": "user"}}) as (_, iii):
        data: Any
        for data in ({}, {"user": None}, {"user": ""}, {"user": True}, {"user": [1]}, None, "a"):
            with pytest.raises(InvocationError, match="user") as caught:
                await enqueue(iii, "f", data, "jobs")
            assert caught.value.code == "enqueue_error"
        assert await depth(iii, "jobs") == 0


async def test_a_queue_must_be_defined_and_can_be_by_a_worker() -> None:
    """Q-10, Q-17."""
    async with working() as (_, iii):
        handler = Handler()
        iii.register_function("f", handler)
        await iii.wait_ready()
        with pytest.raises(InvocationError, match="queue 'jobs' is not defined: call queue::define") as caught:
            await enqueue(iii, "f", 1, "jobs")
        assert (caught.value.code, handler.got) == ("enqueue_error", [])
        for config, is_changed in (({"concurrency": 3}, True), ({"concurrency": 3}, False), ({}, True)):
            definition = {"queue": "jobs", "config": config}
            assert await iii.trigger_async("queue::define", definition) == {"queue": "jobs", "changed": is_changed}
        await enqueue(iii, "f", 2, "jobs")
        assert await handler.wait(1) == [2]
        with pytest.raises(InvocationError, match=r"iii-queue: config\.type must be 'standard' or 'fifo', not 'x'"):
            await iii.trigger_async("queue::define", {"queue": "jobs", "config": {"type": "x"}})
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async("queue::define", {"queue": ""})
        assert caught.value.code == "queue_not_set"


@virtual
async def test_a_job_waits_for_its_function_without_spending_attempts(caplog: pytest.LogCaptureFixture) -> None:
    """Q-7, Q-23 (standalone)."""
    async with working({"jobs": {"max_retries": 1, "concurrency": 1}}, seconds=DAY) as (_, iii):
        handler, other = Handler(), Handler()
        iii.register_function("other", other)
        await iii.wait_ready()
        for _ in range(2):
            await enqueue(iii, "later", 1, "jobs")
        await enqueue(iii, "other", 2, "jobs")
        assert await other.wait(1) == [2]
        await anyio.sleep(10)
        assert await depth(iii, "jobs") == 2
        function = iii.register_function("later", handler)
        assert await handler.wait(2) == [1, 1]
        function.unregister()
        await enqueue(iii, "later", 3, "jobs")
        assert await depth(iii, "jobs") == 1
    assert caplog.text.count("wait for function 'later' in namespace 'default', which no worker has registered") == 2


@virtual
async def test_a_function_that_goes_while_it_is_called_costs_no_attempt_either() -> None:
    """Q-23 (standalone)."""
    async with working({"jobs": {"max_retries": 1}}, seconds=DAY) as (_, iii):
        handler = Handler()

        async def vanish(_data: Any) -> None:
            functions.pop().unregister()
            raise InvocationError("function_not_found", "as a worker says that does not know it any more")

        functions = [iii.register_function("f", vanish)]
        await iii.wait_ready()
        await enqueue(iii, "f", 1, "jobs")
        await anyio.sleep(10)
        iii.register_function("f", handler)
        assert await handler.wait(1) == [1]
        assert await iii.trigger_async(DLQ_MESSAGES, {"topic": "jobs"}) == []


@virtual
async def test_a_job_whose_worker_leaves_runs_again() -> None:
    """Q-23, Q-34: at least once."""
    async with working({"jobs": {"backoff_ms": 100}}, seconds=DAY) as (engine, iii):
        gate, handler = Gate(), Handler()
        async with joined(engine, "leaves", shutdown_timeout=0) as leaving:
            leaving.register_function("f", gate)
            await leaving.wait_ready()
            receipt = await enqueue(iii, "f", 1, "jobs")
            await gate.wait_inside(1)
        iii.register_function("f", handler)
        await iii.wait_ready()
        assert await handler.wait(1) == [1]
        assert handler.baggage[0] is not None
        assert f"iii.queue.message_id={receipt},iii.queue.attempt=2" in handler.baggage[0]


@virtual
async def test_an_attempt_that_takes_too_long_has_failed() -> None:
    """Q-23 (standalone): 30 minutes unless configured."""
    async with working({"jobs": {"timeout_ms": 2000, "max_retries": 1}, "patient": {}}, seconds=DAY) as (_, iii):
        gate = Gate()
        iii.register_function("f", gate)
        await iii.wait_ready()
        await enqueue(iii, "f", 1, "jobs")
        await enqueue(iii, "f", 2, "patient")
        (row,) = await dead(iii, "jobs")
        assert row["error"].startswith("TIMEOUT: ")
        await anyio.sleep(1700)
        assert await iii.trigger_async(DLQ_MESSAGES, {"topic": "patient"}) == []
        assert await depth(iii, "patient") == 1
        gate.let(1)
        gate.let(2)


async def test_the_provider_can_be_called_directly() -> None:
    """Q-2: but every message needs an id of its own."""
    async with working() as (_, iii):
        gate = Gate()
        iii.register_function("f", gate)
        await iii.wait_ready()
        job = {"queue": "default", "function_id": "f", "data": 1, "messageReceiptId": "mine"}
        assert await iii.trigger_async("engine::queue::enqueue", job) == {"messageReceiptId": "mine"}
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async("engine::queue::enqueue", job)
        assert caught.value.code == "duplicate_message"
        await gate.wait_inside(1)
        gate.let(1)


@virtual
async def test_a_job_that_cannot_be_called_is_a_failed_one() -> None:
    async with working({"jobs": {"max_retries": 1}}, seconds=DAY) as (_, iii):
        iii.register_trigger("durable:subscriber", "f", {"topic": "t", "condition_function_id": " "})
        await iii.wait_ready()
        await publish(iii, "t", 1)
        (row,) = await dead(iii, "t")
        assert row["error"] == "Condition function error: invocation_failed: function_id is blank"


async def test_another_queue_worker_can_take_the_place_of_this_one() -> None:
    """P-122, §7.4, Q-2: an engine that is configured without it."""
    with fail_after(20):
        async with (
            open_engine(port=None, config={"workers": []}) as engine,
            joined(engine, "queue") as provider,
            joined(engine, namespace="n") as iii,
        ):
            with pytest.raises(InvocationError, match="No queue provider is installed"):
                await enqueue(iii, "job", 1)
            jobs: list[Any] = []
            provider.register_function("engine::queue::enqueue", jobs.append)
            await provider.wait_ready()
            receipt = await enqueue(iii, "job", {"x": 1}, "q1", metadata={"m": 1})
            (job,) = jobs
            assert job["messageReceiptId"] == receipt
            assert (job["queue"], job["function_id"], job["data"]) == ("q1", "job", {"x": 1})
            assert job["namespace"] == "n"
            assert "metadata" not in job


# -- durable topics --------------------------------------------------------------------------------------------------


async def test_every_function_gets_a_message_once_however_often_it_subscribes() -> None:
    """Q-26, Q-27, Q-28, Q-37, Q-38."""
    async with working() as (engine, iii), joined(engine, "o", namespace="orders") as other:
        f, g, elsewhere, star = Handler(), Handler(), Handler(), Handler()
        for name, handler in (("f", f), ("g", g), ("star", star)):
            iii.register_function(name, handler)
        other.register_function("f", elsewhere)
        for name in ("f", "f", "g"):
            iii.register_trigger("durable:subscriber", name, {"topic": "t.x"}, {"not": "delivered"})
        iii.register_trigger("durable:subscriber", "star", {"topic": "t.*"})
        other.register_trigger("durable:subscriber", "f", {"topic": "t.x"})
        await iii.wait_ready()
        await other.wait_ready()
        for data in (None, {"n": 1}):
            await publish(iii, "t.x", data)
        await publish(iii, "t.*", "end")
        assert await star.wait(1) == ["end"]
        for handler in (f, g, elsewhere):
            assert sorted(await handler.wait(2), key=str) == sorted([None, {"n": 1}], key=str)
        rows = await iii.trigger_async(LIST, {})
        assert {"name": "t.x", "broker_type": "builtin", "subscriber_count": 4} in rows
        assert {"name": "default", "broker_type": "builtin", "subscriber_count": 10} in rows
        stats = await iii.trigger_async(STATS, {"queue": "t.x"})
        assert stats["consumer_count"] == 4


@virtual
@pytest.mark.parametrize(
    ("tuning", "times"),
    [
        ({}, [0.0, 1.0, 3.0]),
        ({"queue_config": {"maxRetries": 1, "backoffDelayMs": 100}}, [0.0, 0.1]),
        ({"queue_config": {"maxRetries": 0}}, [0.0]),
        ({"max_retries": 2, "backoff_ms": 200}, [0.0, 0.2]),
        ({"max_retries": 9, "queue_config": {"maxRetries": 1}}, [0.0, 1.0]),
    ],
)
async def test_a_failing_message_is_tried_this_often(tuning: dict[str, Any], times: list[float]) -> None:
    """Q-21, Q-30; the keys in snake case are the standalone worker's (Q-25)."""
    async with working(seconds=DAY) as (_, iii):
        handler = Handler(99)
        iii.register_function("f", handler)
        iii.register_trigger("durable:subscriber", "f", {"topic": "t", **tuning})
        await iii.wait_ready()
        handler.begun = current_time()
        await publish(iii, "t", 1)
        (row,) = await dead(iii, "t")
        assert handler.times == times
        assert (row["retries"], row["error"]) == (len(times), "busy: not now")


@virtual
async def test_a_fifo_subscription_retries_in_place() -> None:
    """Q-31."""
    async with working(seconds=DAY) as (_, iii):
        handler = Handler(2)
        iii.register_function("f", handler)
        config = {"type": "fifo", "concurrency": 5}
        iii.register_trigger("durable:subscriber", "f", {"topic": "t", "queue_config": config})
        await iii.wait_ready()
        for number in range(3):
            await publish(iii, "t", number)
        assert await handler.wait(5) == [0, 0, 0, 1, 2]


async def test_the_last_subscription_of_a_function_tells_how_it_is_worked_off() -> None:
    """Q-35, §4.5: a concurrency of 0 pauses."""
    async with working() as (_, iii):
        handler = Handler()
        iii.register_function("f", handler)
        paused = {"topic": "t", "queue_config": {"concurrency": 0}}
        iii.register_trigger("durable:subscriber", "f", {"topic": "t"})
        pause = iii.register_trigger("durable:subscriber", "f", paused)
        await iii.wait_ready()
        await publish(iii, "t", 1)
        assert await depth(iii, "t") == 1
        assert handler.got == []
        pause.unregister()
        assert await handler.wait(1) == [1]


@virtual
async def test_only_false_of_a_condition_takes_a_message_away() -> None:
    """Q-36, T-13, T-16, T-18."""
    async with working(seconds=DAY) as (_, iii):
        answers: list[Any] = [False, None, 0, "false", {}]
        asked, handler = Handler(), Handler()

        async def check(data: Any, metadata: Any) -> Any:
            await asked(data, metadata)
            return answers[data]

        iii.register_function("check", check)
        iii.register_function("f", handler)
        once = {"maxRetries": 0}
        iii.register_trigger(
            "durable:subscriber", "f", {"topic": "t", "condition_function_id": "check", "queue_config": once}, {"m": 1}
        )
        await iii.wait_ready()
        for number in range(6):
            await publish(iii, "t", number)
        (row,) = await dead(iii, "t")
        assert sorted(await handler.wait(4)) == [1, 2, 3, 4]
        assert row["payload"] == 5
        assert row["error"].startswith("Condition function error: invocation_failed: ")
        assert await depth(iii, "t") == 0


@virtual
async def test_a_missing_function_or_condition_is_a_failed_attempt_of_a_message() -> None:
    """T-4, T-18, Q-23."""
    async with working(seconds=DAY) as (_, iii):
        once = {"maxRetries": 0}
        iii.register_function("there", Handler())
        iii.register_trigger("durable:subscriber", "missing", {"topic": "t", "queue_config": once})
        with_condition = {"topic": "c", "condition_function_id": "missing", "queue_config": once}
        iii.register_trigger("durable:subscriber", "there", with_condition)
        await iii.wait_ready()
        for topic, prefix in (("t", ""), ("c", "Condition function error: ")):
            await publish(iii, topic, 1)
            (row,) = await dead(iii, topic)
            assert row["error"].startswith(f"{prefix}function_not_found: Function missing not found")


async def test_a_subscription_without_topic_is_accepted_and_never_fires(caplog: pytest.LogCaptureFixture) -> None:
    """Q-25: but the log says so."""
    configs: list[Any] = [None, {}, {"topic": ""}, {"topic": 5}, "t", []]
    async with working() as (_, iii):
        for config in configs:
            iii.register_trigger("durable:subscriber", "f", config)
        await iii.wait_ready()
        rows = await iii.trigger_async(LIST, {})
        assert [row["name"] for row in rows] == ["default"]
    assert caplog.text.count("names no topic and never fires") == len(configs)


async def test_a_wrong_value_in_a_subscription_is_refused_by_name() -> None:
    """T-2."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"queue_config": {"maxRetries": "5"}}, "queue_config.maxRetries must be an integer"),
        ({"queue_config": {"concurrency": -1}}, "queue_config.concurrency must be an integer"),
        ({"queue_config": {"type": 1}}, "queue_config.type must be a string"),
        ({"queue_config": []}, "queue_config must be a mapping"),
        ({"condition_function_id": 5}, "condition_function_id must be a string"),
        ({"backoff_ms": 0.5}, "backoff_ms must be an integer"),
    ]
    async with working() as (_, iii):
        for tuning, problem in wrong:
            trigger = iii.register_trigger("durable:subscriber", "f", {"topic": "t", "unknown": 1, **tuning})
            with pytest.raises(TriggerRegistrationError) as caught:
                await iii.wait_ready()
            assert caught.value.message.startswith(f"durable:subscriber: {problem}")
            trigger.unregister()


async def test_the_alias_of_a_topic_is_understood() -> None:
    """Q-25."""
    async with working() as (_, iii):
        handler = Handler()
        iii.register_function("f", handler)
        iii.register_trigger("durable:subscriber", "f", {"queue": "t"})
        await iii.wait_ready()
        assert await iii.trigger_async("iii::durable::publish", {"queue": "t", "data": 1}) is None
        assert await handler.wait(1) == [1]


async def test_what_nobody_subscribed_to_goes_to_the_first_who_does() -> None:
    """Q-32: upstream never delivers it."""
    async with working() as (_, iii):
        f, g = Handler(), Handler()
        iii.register_function("f", f)
        iii.register_function("g", g)
        for number in range(3):
            await publish(iii, "t", number)
        assert await depth(iii, "t") == 3
        for name in ("f", "g"):
            iii.register_trigger("durable:subscriber", name, {"topic": "t"})
            await iii.wait_ready()
        assert sorted(await f.wait(3)) == [0, 1, 2]
        await publish(iii, "t", 3)
        assert await g.wait(1) == [3]


async def test_a_strict_engine_loses_what_nobody_subscribed_to() -> None:
    """Q-32."""
    async with working(strict_upstream=True) as (_, iii):
        handler = Handler()
        iii.register_function("f", handler)
        await publish(iii, "t", "lost")
        iii.register_trigger("durable:subscriber", "f", {"topic": "t"})
        await iii.wait_ready()
        await publish(iii, "t", "seen")
        assert await handler.wait(1) == ["seen"]
        assert (await iii.trigger_async(STATS, {"topic": "t"}))["depth"] >= 1


async def test_messages_accepted_for_a_function_wait_until_it_subscribes_again() -> None:
    """Q-33: also when its worker left and another function goes on."""
    async with working() as (engine, iii):
        g, gate, later = Handler(), Gate(), Handler()
        iii.register_function("g", g)
        iii.register_trigger("durable:subscriber", "g", {"topic": "t"})
        await iii.wait_ready()
        config = {"topic": "t", "queue_config": {"type": "fifo", "backoffDelayMs": 0}}
        async with joined(engine, "leaves", shutdown_timeout=0) as leaving:
            leaving.register_function("f", gate)
            leaving.register_trigger("durable:subscriber", "f", config)
            await leaving.wait_ready()
            for number in range(3):
                await publish(iii, "t", number)
            await gate.wait_inside(0)
        await publish(iii, "t", 3)
        assert sorted(await g.wait(4)) == [0, 1, 2, 3]
        iii.register_function("f", later)
        iii.register_trigger("durable:subscriber", "f", config)
        assert await later.wait(3) == [0, 1, 2]  # 3 was for those who were there


async def test_a_trigger_id_in_use_moves_to_its_new_topic() -> None:
    """T-9: upstream leaks the earlier binding."""
    async with working() as (engine, iii):
        handler = Handler()
        iii.register_function("f", handler)
        await iii.wait_ready()
        async with engine.connector()() as wire:
            for topic in ("old", "new"):
                await wire.send(
                    [
                        b'{"type":"registertrigger","id":"t1","trigger_type":"durable:subscriber","function_id":"f",'
                        b'"config":{"topic":"%s"}}' % topic.encode(),
                        b'{"type":"invokefunction","function_id":"engine::workers::register","data":{}}',
                    ]
                )
            await until(iii, "new", "consumer_count", 1)
            assert (await iii.trigger_async(STATS, {"topic": "old"}))["consumer_count"] == 0


# -- dead letters ----------------------------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("kind", ["queue", "topic"])
async def test_dead_messages_are_shown_run_again_and_discarded(kind: str) -> None:
    """Q-37, Q-39, Q-40, Q-41; §4.6."""
    async with working({"jobs": {"max_retries": 1}}, seconds=DAY) as (_, iii):
        handler = Handler(4)
        iii.register_function("f", handler)
        name = "jobs" if kind == "queue" else "mail"
        if kind == "topic":
            iii.register_trigger("durable:subscriber", "f", {"topic": name, "queue_config": {"maxRetries": 0}})
        await iii.wait_ready()
        for number in range(1, 4):
            if kind == "queue":
                await enqueue(iii, "f", number, name)
            else:
                await publish(iii, name, number)
            await until(iii, name, "dlq_depth", number)
        rows = await dead(iii, name, 3)
        newest, middle, oldest = rows
        assert [row["payload"] for row in rows] == [3, 2, 1]
        paged = await iii.trigger_async(DLQ_MESSAGES, {"queue": name, "offset": 1, "limit": 1})
        assert paged == [middle]
        assert (await iii.trigger_async(STATS, {"topic": name}))["dlq_depth"] == 3
        listed = await iii.trigger_async(DLQ_TOPICS, None)
        broker_type = "function_queue" if kind == "queue" else "builtin"
        assert {"topic": name, "broker_type": broker_type, "message_count": 3} in listed
        assert len({row["topic"] for row in listed}) == len(listed)

        one = {"queue": name, "message_id": oldest["id"]}
        assert await iii.trigger_async(REDRIVE_ONE, one) == {**one, "redriven": 1}
        await handler.wait(4)  # it fails for a last time, and dies under the same id
        rows = await dead(iii, name, 3)
        assert [row["id"] for row in rows] == [oldest["id"], newest["id"], middle["id"]]
        assert rows[0]["retries"] == 1

        one = {"queue": name, "message_id": newest["id"]}
        assert await iii.trigger_async(DISCARD, {"topic": name, "message_id": newest["id"]}) == {**one, "redriven": 1}
        for function_id in (DISCARD, REDRIVE_ONE):
            assert await iii.trigger_async(function_id, one) == {**one, "redriven": 0}

        assert await iii.trigger_async(REDRIVE, {"topic": name}) == {"queue": name, "redriven": 2}
        assert sorted((await handler.wait(6))[4:]) == [1, 2]
        assert await iii.trigger_async(REDRIVE, {"queue": name}) == {"queue": name, "redriven": 0}
        assert await iii.trigger_async(DLQ_MESSAGES, {"topic": name}) == []


async def test_unknown_names_hold_nothing() -> None:
    """§4.6."""
    async with working() as (_, iii):
        assert await iii.trigger_async(REDRIVE, {"queue": "x"}) == {"queue": "x", "redriven": 0}
        empty = {"depth": 0, "consumer_count": 0, "dlq_depth": 0, "config": None}
        assert await iii.trigger_async(STATS, {"topic": "x"}) == empty
        assert await iii.trigger_async(DLQ_MESSAGES, {"topic": "x"}) == []
        assert await iii.trigger_async(DISCARD, {"queue": "x", "message_id": "y"}) == {
            "queue": "x",
            "message_id": "y",
            "redriven": 0,
        }


async def test_wrong_input_is_answered_with_these_codes() -> None:
    """§4.6, C-2, C-3, Q-42."""
    cases: list[tuple[str, Any, str]] = [
        ("iii::durable::publish", {"topic": "", "data": 1}, "topic_not_set"),
        ("iii::durable::publish", {"topic": "t"}, "deserialization_error"),
        ("iii::durable::publish", {"data": 1}, "deserialization_error"),
        ("iii::durable::publish", {"topic": 1, "data": 1}, "deserialization_error"),
        ("iii::durable::publish", "t", "deserialization_error"),
        (REDRIVE, {"queue": ""}, "queue_not_set"),
        (REDRIVE, {}, "deserialization_error"),
        (REDRIVE_ONE, {"queue": "", "message_id": "x"}, "queue_not_set"),
        (REDRIVE_ONE, {"queue": "q", "message_id": ""}, "message_id_not_set"),
        (REDRIVE_ONE, {"queue": "q"}, "deserialization_error"),
        (DISCARD, {"queue": "q", "message_id": ""}, "message_id_not_set"),
        (STATS, {"topic": ""}, "topic_required"),
        (STATS, {}, "deserialization_error"),
        (DLQ_MESSAGES, {"topic": ""}, "topic_required"),
        (DLQ_MESSAGES, {"topic": "t", "limit": -1}, "deserialization_error"),
        ("engine::queue::enqueue", {"queue": "default", "function_id": "f"}, "deserialization_error"),
    ]
    async with working() as (_, iii):
        for function_id, data, code in cases:
            with pytest.raises(InvocationError) as caught:
                await iii.trigger_async(function_id, data)
            assert (function_id, data, caught.value.code) == (function_id, data, code)
            if code == "deserialization_error":
                assert function_id in caught.value.message
        for function_id in (LIST, DLQ_TOPICS):
            anything: Any
            for anything in (None, [], "x", {"a": 1}):
                assert isinstance(await iii.trigger_async(function_id, anything), list)


@virtual
async def test_a_strict_engine_shows_dead_letters_as_upstream_does() -> None:
    """Q-24, Q-39, Q-40."""
    async with working({"jobs": {"max_retries": 1}}, strict_upstream=True, seconds=DAY) as (_, iii):
        iii.register_function("f", Handler(99, code='a"b'))
        iii.register_trigger("durable:subscriber", "f", {"topic": "t", "queue_config": {"maxRetries": 0}})
        await iii.wait_ready()
        await publish(iii, "t", 1)
        await enqueue(iii, "f", 1, "jobs")
        (message,) = await dead(iii, "t")
        assert message["error"] == 'ErrorBody { code: "a\\"b", message: "not now", stacktrace: None }'
        (job,) = await dead(iii, "__fn_queue::jobs")
        assert job["error"] == "function call failed"
        rows = [row["topic"] for row in await iii.trigger_async(DLQ_TOPICS, {})]
        assert rows == ["t", "__fn_queue::default", "default", "__fn_queue::jobs", "jobs"]


@virtual
async def test_a_payload_too_deep_to_be_shown_does_not_hide_the_other_dead_messages() -> None:
    async with working({"jobs": {"max_retries": 1}}, seconds=DAY) as (_, iii):
        iii.register_function("f", Handler(99))
        await iii.wait_ready()
        deep: Any = 1
        for _ in range(125):  # one more than fits into the answer
            deep = [deep]
        await enqueue(iii, "f", "flat", "jobs")
        await enqueue(iii, "f", deep, "jobs")
        rows = await dead(iii, "jobs", 2)
        assert {str(row["payload"]) for row in rows} == {"flat", "None"}


# -- storage ---------------------------------------------------------------------------------------------------------


async def test_an_answer_comes_when_the_change_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Q-6."""
    async with working() as (_, iii):
        answered: list[str] = []
        for call in ("enqueue", "publish"):
            stored, flushing = anyio.Event(), anyio.Event()
            is_stored = stored.wait

            async def flush(storage: Storage, flushing: anyio.Event = flushing, wait: Any = is_stored) -> None:
                assert len(storage.table("queue-jobs")) > 0
                flushing.set()
                await wait()

            async def ask(call: str = call) -> None:
                await (enqueue(iii, "later", 1) if call == "enqueue" else publish(iii, "t", 1))
                answered.append(call)

            monkeypatch.setattr(Storage, "flush", flush)
            async with create_task_group() as tasks:
                tasks.start_soon(ask)
                await flushing.wait()
                await iii.trigger_async(LIST, {})  # an answer that was on its way would be here
                assert call not in answered
                stored.set()
            assert call in answered


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    """Q-33, Q-41; design: jobs are put before they are acknowledged, attempts are recorded."""
    async with working(data=tmp_path) as (_, iii):
        config = {"max_retries": 2, "backoff_ms": 600_000}  # which a new start does away with
        assert (await iii.trigger_async("queue::define", {"queue": "jobs", "config": config}))["changed"]
        failing = Handler(99)
        iii.register_function("f", failing)
        iii.register_trigger("durable:subscriber", "f", {"topic": "t", "queue_config": {"maxRetries": 0}})
        await iii.wait_ready()
        await publish(iii, "t", "dead")
        await dead(iii, "t")
        await publish(iii, "unheard", "kept")
        held = await enqueue(iii, "later", "held", "jobs")
        once = await enqueue(iii, "f", "once", "jobs")
        await failing.wait(2)
        await until(iii, "jobs", "depth", 1)  # the failure is recorded
    async with working(data=tmp_path) as (_, iii):
        f, later = Handler(1), Handler()
        iii.register_function("f", f)
        iii.register_function("later", later)
        iii.register_trigger("durable:subscriber", "later", {"topic": "unheard"})
        await iii.wait_ready()
        assert sorted(await later.wait(2)) == ["held", "kept"]
        rows = await dead(iii, "jobs")
        assert [(row["id"], row["retries"]) for row in rows] == [(once, 2)]
        assert [row["payload"] for row in await dead(iii, "t")] == ["dead"]
        assert await iii.trigger_async(REDRIVE, {"queue": "t"}) == {"queue": "t", "redriven": 1}
        assert await depth(iii, "t") == 1
        iii.register_trigger("durable:subscriber", "f", {"topic": "t"})
        assert await f.wait(2) == ["once", "dead"]
        assert f"iii.queue.message_id={held},iii.queue.attempt=1" in str(later.baggage)


async def test_jobs_of_a_queue_that_is_no_longer_configured_wait_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with working({"old": {}}, data=tmp_path) as (_, iii):
        await enqueue(iii, "f", 1, "old")
    caplog.clear()
    async with working(data=tmp_path) as (_, iii):
        handler = Handler()
        iii.register_function("f", handler)
        await iii.wait_ready()
        assert "1 jobs wait in queue 'old', which is not defined any more" in caplog.text
        assert handler.got == []
        await iii.trigger_async("queue::define", {"queue": "old"})
        assert await handler.wait(1) == [1]


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"queue_configs": []}, "queue_configs must be a mapping"),
        ({"queue_configs": {"q": 5}}, "queue_configs.q must be a mapping"),
        ({"queue_configs": {"q": {"type": "lifo"}}}, "queue_configs.q.type must be 'standard' or 'fifo'"),
        ({"queue_configs": {"q": {"type": "fifo"}}}, "queue_configs.q.message_group_field must be the field"),
        ({"queue_configs": {"q": {"concurrency": 0}}}, "queue_configs.q.concurrency must be an integer from 1"),
        ({"queue_configs": {"q": {"max_priority": 0}}}, "queue_configs.q.max_priority must be an integer from 1"),
        ({"queue_configs": {"q": {"max_retries": True}}}, "queue_configs.q.max_retries must be an integer"),
        ({"adapter": {"name": "kafka"}}, "adapter.name must be 'builtin'"),
    ],
)
async def test_a_wrong_configuration_is_refused_by_name(config: dict[str, Any], problem: str) -> None:
    """Q-15."""
    with pytest.raises(ValueError, match="iii-queue: ") as caught:
        async with open_engine(port=None, workers={"iii-queue": config}):
            pass
    assert str(caught.value).startswith(f"iii-queue: {problem}")


async def test_unknown_keys_of_the_configuration_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """§4.3."""
    caplog.set_level(logging.WARNING)
    config = {"adapter": {"name": "builtin", "config": {"x": 1}}, "queue_configs": {"q": {"retries": 1}, "p": None}}
    async with open_engine(port=None, workers={"iii-queue": {**config, "color": "red"}}):
        pass
    assert "'color' is ignored" in caplog.text
    assert "'queue_configs.q.retries' is ignored" in caplog.text
