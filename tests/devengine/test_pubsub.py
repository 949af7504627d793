"""``publish`` and the ``subscribe`` trigger, through an engine and its workers (S-…, T-…)."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from iii_anyio import InitOptions, InvocationError, Worker, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.devengine.builtins.pubsub import PubSub
from iii_anyio.trigger import TriggerConfig

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def working(**options: Any) -> AsyncGenerator[Worker]:
    with fail_after(20):
        async with (
            open_engine(port=None, **options) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="w")) as iii,
        ):
            yield iii


@pytest.mark.parametrize("topic", [None, "", 5, ["t"]])
async def test_a_trigger_without_topic_is_accepted_and_never_fires(
    topic: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """S-7: but the log says so."""
    async with working() as iii:
        got: list[Any] = []
        iii.register_function("f", got.append)
        iii.register_trigger("subscribe", "f", {} if topic is None else {"topic": topic})
        last = anyio.Event()

        async def called(_data: Any) -> None:
            last.set()
            await checkpoint()

        iii.register_function("last", called)
        iii.register_trigger("subscribe", "last", {"topic": "t"})
        await iii.wait_ready()
        await iii.trigger_async("publish", {"topic": "t", "data": 1})
        await last.wait()
        assert got == []
    assert "never fires: its config has no `topic`" in caplog.text


async def test_conditions_and_metadata_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """S-8, T-12, T-19."""
    async with working() as iii:
        asked: list[Any] = []
        got: list[Any] = []
        called = anyio.Event()

        async def handler(data: Any, metadata: Any) -> None:
            got.append((data, metadata))
            called.set()
            await checkpoint()

        iii.register_function("condition", asked.append)
        iii.register_function("f", handler)
        config = {"topic": "t", "condition_function_id": "condition"}
        iii.register_trigger("subscribe", "f", config, {"m": 1})
        await iii.wait_ready()
        await iii.trigger_async("publish", {"topic": "t", "data": {"x": 1}})
        await called.wait()
        assert got == [({"x": 1}, None)]
        assert asked == []
    assert "`subscribe` triggers call no condition" in caplog.text


async def test_a_missing_function_is_logged_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """S-5, T-4."""
    async with working() as iii:
        called = anyio.Event()

        async def handler(_data: Any) -> None:
            called.set()
            await checkpoint()

        iii.register_function("f", handler)
        for function_id in ("missing", "f"):
            iii.register_trigger("subscribe", function_id, {"topic": "t"})
        await iii.wait_ready()
        assert await iii.trigger_async("publish", {"topic": "t", "data": 1}) is None
        await called.wait()
    assert "Function missing not found" in caplog.text


async def test_publish_takes_both_fields_and_tells_what_is_wrong() -> None:
    """S-1, S-3."""
    async with working() as iii:
        for payload, problem in (
            ({"data": 1}, "missing field `topic`"),
            ({"topic": "t"}, "missing field `data`"),
            ({"topic": None, "data": 1}, "field `topic`"),
            (None, "expected an object"),
            ([], "expected an object"),
        ):
            with pytest.raises(InvocationError, match=problem) as caught:
                await iii.trigger_async("publish", payload)
            assert caught.value.code == "deserialization_error"
            assert caught.value.message.startswith("Failed to deserialize input for publish: ")


async def test_the_configuration_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    adapter = {"name": "redis", "config": {"redis_url": "redis://h"}}
    async with working(workers={"iii-pubsub": {"adapter": adapter, "x": 1}}):
        pass
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("'redis'" in message for message in messages)
    assert any("'x'" in message for message in messages)
    with pytest.raises(ValueError, match=r"iii-pubsub: adapter\.name must be 'local' or 'redis', not 'kafka'"):
        async with working(workers={"iii-pubsub": {"adapter": {"name": "kafka"}}}):
            pass


class Calls:
    """Takes the calls of a ``PubSub`` without an engine."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.on_call: Any = None

    def trigger(self, request: Any) -> Any:
        raise AssertionError("blocks the loop")

    async def trigger_async(self, request: Any) -> Any:
        self.called.append(request["function_id"])
        if self.on_call is not None:
            await self.on_call()
        await checkpoint()


def trigger(id: str, function_id: str, topic: str) -> TriggerConfig[Any]:
    return TriggerConfig(id=id, function_id=function_id, config={"topic": topic})


async def test_a_trigger_id_in_use_moves_to_its_new_topic() -> None:
    """S-9: upstream leaks the old subscription."""
    calls = Calls()
    pubsub = PubSub(calls)
    await pubsub.register_trigger(trigger("id", "f", "a"))
    await pubsub.register_trigger(trigger("id", "g", "b"))
    await pubsub.publish({"topic": "a", "data": 1})
    await pubsub.publish({"topic": "b", "data": 1})
    assert calls.called == ["g"]
    await pubsub.unregister_trigger(trigger("id", "", ""))
    await pubsub.unregister_trigger(trigger("unknown", "", ""))
    await pubsub.publish({"topic": "b", "data": 1})
    assert calls.called == ["g"]
    assert repr(pubsub) == "<PubSub 0 topics, 0 subscriptions>"


async def test_a_subscription_that_ends_while_a_value_is_published_is_not_told_any_more() -> None:
    calls = Calls()
    pubsub = PubSub(calls)

    async def unsubscribe() -> None:
        calls.on_call = None
        await pubsub.unregister_trigger(trigger("2", "g", "t"))

    calls.on_call = unsubscribe
    await pubsub.register_trigger(trigger("1", "f", "t"))
    await pubsub.register_trigger(trigger("2", "g", "t"))
    await pubsub.publish({"topic": "t", "data": 1})
    assert calls.called == ["f"]


async def test_one_call_that_cannot_be_sent_keeps_no_other_subscription_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = Calls()
    pubsub = PubSub(calls)

    async def fail() -> None:
        calls.on_call = None
        await checkpoint()
        raise InvocationError("OFFLINE_QUEUE_FULL", "full")

    calls.on_call = fail
    await pubsub.register_trigger(trigger("1", "f", "t"))
    await pubsub.register_trigger(trigger("2", "g", "t"))
    await pubsub.publish({"topic": "t", "data": 1})
    assert calls.called == ["f", "g"]
    assert "OFFLINE_QUEUE_FULL" in caplog.text
