"""What is published reaches every subscription of its topic, once and without waiting."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from iii_anyio import InvocationError, Worker
from tests.contract.targets import EngineUnderTest, Target

pytestmark = pytest.mark.anyio


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self._arrived = anyio.Event()

    async def __call__(self, data: Any, metadata: Any) -> None:
        self.got.append(data if metadata is None else (data, metadata))
        self._arrived.set()
        self._arrived = anyio.Event()
        await checkpoint()

    async def wait(self, count: int) -> list[Any]:
        while len(self.got) < count:
            await self._arrived.wait()
        return self.got


@asynccontextmanager
async def publishing(target: Target) -> AsyncGenerator[tuple[EngineUnderTest, Worker]]:
    async with target.open() as engine, engine.worker() as iii:
        await engine.needs_trigger_type(iii, "subscribe")
        yield engine, iii


def subscribe(engine: EngineUnderTest, iii: Worker, name: str, topic: str, **more: Any) -> Any:
    config = {"topic": engine.id(topic)}
    return iii.register_trigger("subscribe", engine.id(name), config, **more)


async def publish(engine: EngineUnderTest, iii: Worker, topic: str, data: Any) -> Any:
    payload = {"topic": engine.id(topic), "data": data, "extra": 1}
    return await iii.trigger_async({"function_id": "publish", "payload": payload, "namespace": "default"})


async def test_every_subscription_of_the_exact_topic_gets_the_value_as_it_is(target: Target) -> None:
    """S-1, S-2, S-4, S-6, S-9."""
    async with publishing(target) as (engine, iii):
        one, two, star = Inbox(), Inbox(), Inbox()
        for name, inbox in (("one", one), ("two", two), ("star", star)):
            iii.register_function(engine.id(name), inbox)
        subscribe(engine, iii, "one", "t.x")
        subscribe(engine, iii, "two", "t.x")
        subscribe(engine, iii, "two", "t.x")  # two triggers, two calls
        subscribe(engine, iii, "star", "t.*")
        await iii.wait_ready()
        for value in ({"id": 7}, "text", None, [1, {"a": None}], 0):
            before = len(one.got), len(two.got)
            assert await publish(engine, iii, "t.x", value) is None
            assert (await one.wait(before[0] + 1))[-1:] == [value]
            assert (await two.wait(before[1] + 2))[-2:] == [value, value]
        await publish(engine, iii, "t.*", "star")
        assert await star.wait(1) == ["star"]


async def test_the_metadata_of_a_subscription_is_not_sent(target: Target) -> None:
    """S-4, S-8, T-12."""
    async with publishing(target) as (engine, iii):
        inbox = Inbox()
        iii.register_function(engine.id("f"), inbox)
        subscribe(engine, iii, "f", "t", metadata={"m": 1})
        await iii.wait_ready()
        await publish(engine, iii, "t", {"x": 1})
        assert await inbox.wait(1) == [{"x": 1}]


async def test_publishing_waits_for_nobody_and_fails_for_nobody(target: Target) -> None:
    """S-2, S-5."""
    async with publishing(target) as (engine, iii):
        started, release, ended = anyio.Event(), anyio.Event(), anyio.Event()

        async def slow(_data: Any) -> None:
            started.set()
            await release.wait()
            ended.set()

        async def broken(_data: Any) -> None:
            raise RuntimeError("no good")

        iii.register_function(engine.id("slow"), slow)
        iii.register_function(engine.id("broken"), broken)
        for name in ("broken", "slow", "missing"):
            subscribe(engine, iii, name, "t")
        await iii.wait_ready()
        assert await publish(engine, iii, "t", 1) is None
        await started.wait()
        assert await publish(engine, iii, "nobody", 1) is None
        release.set()
        await ended.wait()


async def test_what_publish_does_not_take_is_an_error(target: Target) -> None:
    """S-1, S-3."""
    async with publishing(target) as (engine, iii):
        for payload, code in (
            ({"topic": "", "data": 1}, "topic_not_set"),
            ({"data": 1}, "deserialization_error"),
            ({"topic": 5, "data": 1}, "deserialization_error"),
            ({"topic": engine.id("t")}, "deserialization_error"),
            ("text", "deserialization_error"),
        ):
            with pytest.raises(InvocationError) as caught:
                await iii.trigger_async("publish", payload)
            assert caught.value.code == code


async def test_a_subscription_may_call_a_function_of_another_namespace(target: Target) -> None:
    """S-11, T-10."""
    async with publishing(target) as (engine, iii), engine.worker("other", namespace=engine.id("ns")) as other:
        here, there = Inbox(), Inbox()
        iii.register_function(engine.id("f"), here)
        other.register_function(engine.id("f"), there)
        await other.wait_ready()
        subscribe(engine, iii, "f", "t", namespace=engine.id("ns"))
        await iii.wait_ready()
        await publish(engine, iii, "t", 1)
        assert await there.wait(1) == [1]
        assert here.got == []


async def test_a_subscription_ends_alone(target: Target) -> None:
    """S-10: upstream's local adapter drops the whole topic with it. T-7 for the worker that leaves."""
    target.skip_outside("it drops the whole topic")
    async with publishing(target) as (engine, iii):
        stays, goes = Inbox(), Inbox()
        iii.register_function(engine.id("stays"), stays)
        iii.register_function(engine.id("goes"), goes)
        subscribe(engine, iii, "stays", "t")
        subscription = subscribe(engine, iii, "goes", "t")
        async with engine.worker("leaves") as leaving:
            subscribe(engine, leaving, "goes", "t")
            await leaving.wait_ready()
            await iii.wait_ready()
            await publish(engine, iii, "t", 1)
            await stays.wait(1)
            assert await goes.wait(2) == [1, 1]
            subscription.unregister()
            await iii.wait_ready()
            await publish(engine, iii, "t", 2)
            await stays.wait(2)
            assert await goes.wait(3) == [1, 1, 2]
        await publish(engine, iii, "t", 3)
        assert await stays.wait(3) == [1, 2, 3]
        assert goes.got == [1, 1, 2]
