"""Jobs of named queues and messages of durable topics run at least once, and can be found when they are dead."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from iii_anyio import InvocationError, TriggerAction, Worker
from tests.contract.targets import EngineUnderTest, Target, until

pytestmark = pytest.mark.anyio

QUEUE = "the queue worker that serves TriggerAction.Enqueue has no queue of its own accord"


class Inbox:
    """A handler that keeps what it gets, and fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.got: list[Any] = []
        self._failures = failures
        self._arrived = anyio.Event()

    async def __call__(self, data: Any, metadata: Any) -> str:
        assert metadata is None
        self.got.append(data)
        self._arrived.set()
        self._arrived = anyio.Event()
        if len(self.got) <= self._failures:
            raise InvocationError("busy", "not now")
        return "lost"

    async def wait(self, count: int) -> list[Any]:
        while len(self.got) < count:
            await self._arrived.wait()
        return self.got


@asynccontextmanager
async def queueing(target: Target) -> AsyncGenerator[tuple[EngineUnderTest, Worker]]:
    async with target.open() as engine, engine.worker() as iii:
        await engine.needs_trigger_type(iii, "durable:subscriber")
        yield engine, iii


def subscribe(engine: EngineUnderTest, iii: Worker, name: str, topic: str, **more: Any) -> Any:
    config = {"topic": engine.id(topic), "queue_config": {"backoffDelayMs": 1}, **more}
    return iii.register_trigger("durable:subscriber", engine.id(name), config, {"not": "delivered"})


async def publish(engine: EngineUnderTest, iii: Worker, topic: str, data: Any) -> Any:
    payload = {"topic": engine.id(topic), "data": data}
    return await iii.trigger_async({"function_id": "iii::durable::publish", "payload": payload, "namespace": "default"})


async def count(iii: Worker, topic: str, key: str) -> int:
    return int((await iii.trigger_async("engine::queue::topic_stats", {"topic": topic}))[key])


async def dead(iii: Worker, topic: str) -> dict[str, Any]:
    """The one dead message of a topic, once there is one."""

    async def is_dead() -> bool:
        return await count(iii, topic, "dlq_depth") == 1

    await until(is_dead)
    (row,) = await iii.trigger_async("engine::queue::dlq_messages", {"topic": topic})
    found: dict[str, Any] = row
    return found


# -- named queues ----------------------------------------------------------------------------------------------------


async def test_an_enqueued_call_is_answered_with_a_receipt_and_runs_with_its_data_alone(target: Target) -> None:
    """P-122, §7.4, G-22, Q-5, Q-6, Q-8, Q-14, Q-23."""
    target.skip_outside(QUEUE)
    async with target.open() as engine, engine.worker() as iii, engine.worker("o", namespace=engine.id("n")) as other:
        here, there = Inbox(), Inbox()
        iii.register_function(engine.id("job"), here)
        other.register_function(engine.id("job"), there)
        await iii.wait_ready()
        await other.wait_ready()
        action = TriggerAction.Enqueue(queue="default")
        receipts = [
            (await worker.trigger_async(engine.id("job"), {"n": 1}, action=action, metadata={"m": 1}))
            for worker in (iii, other)
        ]
        assert [list(receipt) for receipt in receipts] == [["messageReceiptId"]] * 2
        assert await here.wait(1) == [{"n": 1}]
        assert await there.wait(1) == [{"n": 1}]


async def test_a_job_waits_for_its_function(target: Target) -> None:
    """Q-7, Q-23."""
    target.skip_outside(QUEUE)
    async with target.open() as engine, engine.worker() as iii:
        inbox = Inbox()
        action = TriggerAction.Enqueue(queue="default")
        await iii.trigger_async(engine.id("later"), 1, action=action)
        iii.register_function(engine.id("later"), inbox)
        assert await inbox.wait(1) == [1]


# -- durable topics --------------------------------------------------------------------------------------------------


async def test_every_subscribed_function_gets_a_message_once_and_nothing_but_its_data(target: Target) -> None:
    """Q-26, Q-27, Q-28, Q-37, Q-42, T-12."""
    async with queueing(target) as (engine, iii):
        one, two, star = Inbox(), Inbox(), Inbox()
        for name, inbox in (("one", one), ("two", two), ("star", star)):
            iii.register_function(engine.id(name), inbox)
        for name, topic in (("one", "t"), ("one", "t"), ("two", "t"), ("star", "*")):
            subscribe(engine, iii, name, topic)
        await iii.wait_ready()
        for data in ({"n": 1}, None, "text"):
            assert await publish(engine, iii, "t", data) is None
        for inbox in (one, two):
            assert sorted(await inbox.wait(3), key=str) == [None, "text", {"n": 1}]
        await publish(engine, iii, "*", "end")
        assert await star.wait(1) == ["end"]
        rows = await iii.trigger_async("engine::queue::list_topics", {})
        (row,) = [row for row in rows if row["name"] == engine.id("t")]
        assert row == {"name": engine.id("t"), "broker_type": "builtin", "subscriber_count": 3}
        assert await count(iii, engine.id("t"), "consumer_count") == 3


async def test_a_failing_message_is_tried_three_times_and_can_be_run_again_when_dead(target: Target) -> None:
    """Q-30, Q-37, Q-40, Q-41."""
    async with queueing(target) as (engine, iii):
        inbox, topic = Inbox(3), engine.id("t")
        iii.register_function(engine.id("f"), inbox)
        subscribe(engine, iii, "f", "t")
        await iii.wait_ready()
        await publish(engine, iii, "t", {"n": 1})
        row = await dead(iii, topic)
        assert inbox.got == [{"n": 1}] * 3
        assert (row["payload"], row["retries"]) == ({"n": 1}, 3)
        assert "busy" in row["error"]
        assert "not now" in row["error"]
        assert row.keys() == {"id", "payload", "error", "failed_at", "retries", "size_bytes"}
        listed = await iii.trigger_async("engine::queue::dlq_topics", {})
        assert {"topic": topic, "broker_type": "builtin", "message_count": 1} in listed
        assert await iii.trigger_async("iii::queue::redrive", {"queue": topic}) == {"queue": topic, "redriven": 1}
        assert await inbox.wait(4) == [{"n": 1}] * 4


async def test_a_fifo_subscription_handles_one_message_at_a_time_and_retries_in_place(target: Target) -> None:
    """Q-31."""
    async with queueing(target) as (engine, iii):
        inbox = Inbox(1)
        iii.register_function(engine.id("f"), inbox)
        subscribe(engine, iii, "f", "t", queue_config={"type": "fifo", "backoffDelayMs": 1})
        await iii.wait_ready()
        for number in range(3):
            await publish(engine, iii, "t", number)
        assert await inbox.wait(4) == [0, 0, 1, 2]


async def test_a_condition_takes_messages_away_only_by_false(target: Target) -> None:
    """Q-36, T-16, T-18."""
    async with queueing(target) as (engine, iii):
        inbox, answers = Inbox(), [False, None, 0]
        iii.register_function(engine.id("check"), lambda data: answers[data])
        iii.register_function(engine.id("f"), inbox)
        once = {"maxRetries": 0}
        subscribe(engine, iii, "f", "t", condition_function_id=engine.id("check"), queue_config=once)
        await iii.wait_ready()
        for number in range(4):
            await publish(engine, iii, "t", number)
        row = await dead(iii, engine.id("t"))
        assert row["payload"] == 3
        assert row["error"].startswith("Condition function error: ")
        assert sorted(await inbox.wait(2)) == [1, 2]


async def test_a_message_whose_worker_leaves_is_delivered_again(target: Target) -> None:
    """Q-33, Q-34."""
    async with queueing(target) as (engine, iii), engine.line() as line:
        started, inbox = anyio.Event(), Inbox()

        async def hang(_data: Any) -> None:
            started.set()
            await anyio.sleep_forever()

        async with engine.worker("leaves", line=line, shutdown_timeout=0) as leaving:
            leaving.register_function(engine.id("f"), hang)
            subscribe(engine, leaving, "f", "t")
            await leaving.wait_ready()
            await publish(engine, iii, "t", 1)
            await started.wait()
        iii.register_function(engine.id("f"), inbox)
        subscribe(engine, iii, "f", "t")
        assert await inbox.wait(1) == [1]


async def test_one_dead_message_can_be_run_again_or_discarded(target: Target) -> None:
    """Q-41, P-132."""
    async with queueing(target) as (engine, iii):
        inbox, topic = Inbox(2), engine.id("t")
        iii.register_function(engine.id("f"), inbox)
        subscribe(engine, iii, "f", "t", queue_config={"maxRetries": 0})
        await iii.wait_ready()
        await publish(engine, iii, "t", 1)
        row = await dead(iii, topic)
        one = {"queue": topic, "message_id": row["id"]}
        assert await iii.trigger_async("iii::queue::redrive_message", one) == {**one, "redriven": 1}
        await inbox.wait(2)
        assert (await dead(iii, topic))["id"] == row["id"]
        for redriven in (1, 0):
            answer = await iii.trigger_async("iii::queue::discard_message", one)
            assert answer == {**one, "redriven": redriven}
        for function_id, payload, code in (
            ("iii::queue::discard_message", {**one, "message_id": ""}, "message_id_not_set"),
            ("iii::queue::redrive", {"queue": ""}, "queue_not_set"),
            ("iii::durable::publish", {"topic": "", "data": 1}, "topic_not_set"),
            ("iii::durable::publish", {"topic": topic}, "deserialization_error"),
            ("engine::queue::topic_stats", {"topic": ""}, "topic_required"),
        ):
            with pytest.raises(InvocationError) as caught:
                await iii.trigger_async(function_id, payload)
            assert caught.value.code == code
