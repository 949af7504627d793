"""Streams: their functions, the trigger type, and streams that a worker provides."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iii_anyio import InvocationError, TriggerRegistrationError, Worker
from tests.contract.targets import EngineUnderTest, Target, until
from tests.heard import Heard

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def streams(target: Target) -> AsyncGenerator[tuple[EngineUnderTest, Worker, Stream]]:
    async with target.open() as engine, engine.worker() as iii:
        await iii.wait_ready()
        await engine.needs_trigger_type(iii, "stream")
        yield engine, iii, Stream(iii, engine.id("chat").replace("::", "-"))


class Stream:
    """Calls of the functions for one stream, as they are on the wire."""

    def __init__(self, iii: Worker, name: str) -> None:
        self.iii = iii
        self.name = name

    async def call(self, operation: str, /, **payload: Any) -> Any:
        return await self.iii.trigger_async(f"stream::{operation}", {"stream_name": self.name, **payload})

    async def set(self, item_id: str, data: Any, group_id: str = "g") -> Any:
        return await self.call("set", group_id=group_id, item_id=item_id, data=data)

    async def get(self, item_id: str, group_id: str = "g") -> Any:
        return await self.call("get", group_id=group_id, item_id=item_id)

    async def delete(self, item_id: str, group_id: str = "g") -> Any:
        return await self.call("delete", group_id=group_id, item_id=item_id)

    async def list(self, group_id: str = "g") -> Any:
        return await self.call("list", group_id=group_id)

    async def update(self, item_id: str, *ops: Any) -> Any:
        return await self.call("update", group_id="g", item_id=item_id, ops=list(ops))

    def provide(self, operation: str, handler: Any) -> None:
        self.iii.register_function(f"stream::{operation}({self.name})", handler)

    def listen(self, heard: Heard, function_id: str, **config: Any) -> None:
        self.iii.register_function(function_id, heard.hear)
        self.iii.register_trigger("stream", function_id, {"stream_name": self.name, **config})


# -- functions -------------------------------------------------------------------------------------------------------


async def test_an_item_is_set_read_replaced_and_deleted(target: Target) -> None:
    """C-3, C-5, SR-1, SR-2."""
    async with streams(target) as (_, _, stream):
        assert await stream.set("a", {"n": 1}) == {"old_value": None, "new_value": {"n": 1}}
        assert await stream.get("a") == {"n": 1}
        assert await stream.set("a", [2]) == {"old_value": {"n": 1}, "new_value": [2]}
        assert await stream.delete("a") == {"old_value": [2]}
        assert await stream.get("a") is None
        assert await stream.delete("a") == {"old_value": None}
        # Names may be empty, and null is a value.
        assert await stream.set("", None, group_id="") == {"old_value": None, "new_value": None}
        assert await stream.list("") == [None]


async def test_items_are_listed_in_the_order_in_which_they_were_first_set_and_streams_by_name(target: Target) -> None:
    """SR-2, SR-5, ST-5."""
    async with streams(target) as (_, iii, stream):
        for item_id in "bac":
            await stream.set(item_id, item_id)
        await stream.set("b", "B")
        await stream.set("other", "x", group_id="h")
        assert await stream.list() == ["B", "a", "c"]
        await stream.delete("b")
        await stream.set("b", "b")
        assert await stream.list() == ["a", "c", "b"]
        assert await stream.list("unknown") == []
        assert sorted(await stream.call("list_groups")) == ["g", "h"]
        found = await iii.trigger_async("stream::list_all", {})
        assert {"id": stream.name, "groups": ["g", "h"]} in found["stream"]
        assert [row["id"] for row in found["stream"]] == sorted(row["id"] for row in found["stream"])
        assert found["count"] == len(found["stream"])


async def test_an_update_applies_its_operations_and_reports_those_that_do_not_fit(target: Target) -> None:
    """SR-3, ST-7, UO-7."""
    async with streams(target) as (_, _, stream):
        await stream.set("i", {"n": 1, "s": "x"})
        ops = [{"type": "increment", "path": "s", "by": 1}, {"type": "increment", "path": "n", "by": 2}]
        answer = await stream.update("i", *ops)
        assert (answer["old_value"], answer["new_value"]) == ({"n": 1, "s": "x"}, {"n": 3, "s": "x"})
        assert [(error["op_index"], error["code"]) for error in answer["errors"]] == [(0, "increment.not_number")]
        assert await stream.get("i") == {"n": 3, "s": "x"}
        assert await stream.update("new") == {"old_value": None, "new_value": {}}
        assert await stream.get("new") == {}


UNREADABLE: list[tuple[str, Any, str]] = [
    ("stream::get", None, "stream::get"),
    ("stream::get", {"stream_name": "s"}, "group_id"),
    ("stream::set", {"stream_name": "s", "group_id": "g", "item_id": "i"}, "data"),
    ("stream::set", {"stream_name": "s", "group_id": 5, "item_id": "i", "data": 1}, "stream::set"),
    ("stream::update", {"stream_name": "s", "group_id": "g", "item_id": "i", "ops": [{"type": "no"}]}, "no"),
    ("stream::send", {"stream_name": "s", "group_id": "g", "data": 1}, "type"),
    ("stream::list_all", [], "stream::list_all"),
]


async def test_a_payload_that_cannot_be_read_is_refused(target: Target) -> None:
    """C-2, C-3."""
    async with streams(target) as (_, iii, _):
        for function_id, payload, reason in UNREADABLE:
            with pytest.raises(InvocationError, match=reason) as caught:
                await iii.trigger_async(function_id, payload)
            assert caught.value.code == "deserialization_error"


async def test_streams_are_in_namespace_default_only(target: Target) -> None:
    """C-1."""
    async with target.open() as engine, engine.worker(namespace=engine.id("ns")) as iii:
        await engine.needs_trigger_type(iii, "stream")
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async("stream::list_all", {})
        assert caught.value.code == "function_not_found"
        found = await iii.trigger_async({"function_id": "stream::list_all", "payload": {}, "namespace": "default"})
        assert "stream" in found


# -- the trigger type ------------------------------------------------------------------------------------------------


async def test_every_change_calls_the_triggers_of_its_stream(target: Target) -> None:
    """SR-6, SR-8, SR-9, SR-10, SR-13."""
    async with streams(target) as (engine, iii, stream):
        heard = Heard()
        stream.listen(heard, engine.id("f"))
        await iii.wait_ready()
        events: list[Any] = []

        async def take() -> None:
            message = await heard.take()
            assert (message["type"], message["streamName"], message["groupId"]) == ("stream", stream.name, "g")
            assert message["timestamp"] > 1_600_000_000_000
            assert set(message) == {"type", "timestamp", "streamName", "groupId", "id", "event"}
            events.append((message["id"], message["event"]))

        await stream.delete("i")  # of nothing: says nothing
        for make in (
            lambda: stream.set("i", {"n": 1}),
            lambda: stream.update("i", {"type": "increment", "path": "n", "by": 1}),
            lambda: stream.set("i", None),
            lambda: stream.delete("i"),
            lambda: stream.call("send", group_id="g", type="typing", data={"by": "ann"}),
            lambda: stream.call("send", group_id="g", type="typing", data=None, id="i"),
        ):
            await make()
            await take()
        assert events == [
            ("i", {"type": "create", "data": {"n": 1}}),
            ("i", {"type": "update", "data": {"n": 2}}),
            ("i", {"type": "update", "data": None}),
            ("i", {"type": "delete", "data": None}),
            (None, {"type": "event", "event": {"type": "typing", "data": {"by": "ann"}}}),
            ("i", {"type": "event", "event": {"type": "typing", "data": None}}),
        ]
        assert await stream.list() == []
        assert not heard.has_more


async def test_a_trigger_hears_what_its_config_names(target: Target) -> None:
    """SR-12."""
    async with streams(target) as (engine, iii, stream):
        group, item, empty, everything = Heard(), Heard(), Heard(), Heard()
        stream.listen(group, engine.id("group"), group_id="g")
        stream.listen(item, engine.id("item"), item_id="a")
        stream.listen(empty, engine.id("empty"), group_id="", item_id="")
        stream.listen(everything, engine.id("everything"))
        await iii.wait_ready()
        await stream.set("a", 1)
        await stream.set("b", 2)
        await stream.set("a", 3, group_id="h")
        await stream.call("send", group_id="h", type="t", data=4)

        def data(messages: list[Any]) -> list[Any]:
            return sorted(m["event"].get("data") or m["event"]["event"]["data"] for m in messages)

        assert data(await everything.take_all(4)) == [1, 2, 3, 4]
        assert data(await empty.take_all(4)) == [1, 2, 3, 4]
        assert data(await group.take_all(2)) == [1, 2]
        assert data(await item.take_all(2)) == [1, 3]
        assert not any(heard.has_more for heard in (group, item, empty, everything))


async def test_a_condition_blocks_by_false_or_by_failing(target: Target) -> None:
    """C-7, C-8, SR-12."""
    async with streams(target) as (engine, iii, stream):
        heard, skipped, verdict = Heard(), Heard(), Heard()
        iii.register_function(engine.id("condition"), verdict.hear)
        iii.register_function(engine.id("f"), heard.hear)
        iii.register_function(engine.id("skipped"), skipped.hear)
        config = {"stream_name": stream.name, "condition_function_id": engine.id("condition")}
        iii.register_trigger("stream", engine.id("f"), config, {"tenant": "acme"})
        iii.register_trigger("stream", engine.id("skipped"), {**config, "condition_function_id": engine.id("none")})
        await iii.wait_ready()
        for answer in (False, None):
            verdict.answer = answer
            await stream.set("i", str(answer))
            assert (await verdict.take())["event"]["data"] == str(answer)
        assert (await heard.take())["event"]["data"] == "None"
        assert (heard.metadata, verdict.metadata) == ([{"tenant": "acme"}], [None, None])
        verdict.error = ValueError("no verdict")
        await stream.set("i", "x")
        await verdict.take()
        verdict.error = None
        await stream.set("i", "y")
        assert (await heard.take())["event"]["data"] == "y"
        assert not skipped.has_more


async def test_a_trigger_whose_config_names_no_stream_is_refused(target: Target) -> None:
    """SR-11."""
    target.skip_outside("upstream's dies of it")
    async with streams(target) as (engine, iii, _):
        iii.register_function(engine.id("f"), Heard().hear)
        for config in (None, {}, {"stream_name": 5}, {"stream_name": "s", "group_id": 5}):
            trigger = iii.register_trigger("stream", engine.id("f"), config)
            with pytest.raises(TriggerRegistrationError) as caught:
                await iii.wait_ready()
            assert caught.value.code == "trigger_registration_failed"
            trigger.unregister()


async def test_a_trigger_taken_back_hears_no_more(target: Target) -> None:
    """SR-13."""
    async with streams(target) as (engine, iii, stream):
        gone, stays = Heard(), Heard()
        iii.register_function(engine.id("gone"), gone.hear)
        trigger = iii.register_trigger("stream", engine.id("gone"), {"stream_name": stream.name})
        stream.listen(stays, engine.id("stays"))
        await iii.wait_ready()
        await stream.set("i", 1)
        await gone.take()
        await stays.take()
        trigger.unregister()

        async def is_silent() -> bool:  # nobody says when the provider has heard
            await stream.set("i", 2)
            await stays.take()
            heard = gone.has_more
            if heard:
                await gone.take()
            return not heard

        await until(is_silent)


# -- streams of workers ----------------------------------------------------------------------------------------------


async def test_a_provider_is_asked_instead_of_the_store(target: Target) -> None:
    """SR-18, SR-20."""
    async with streams(target) as (_, iii, stream):
        asked = {operation: Heard() for operation in ("get", "set", "delete", "list", "list_groups", "update")}
        answers = {"old_value": 1, "new_value": 2}
        for operation, heard in asked.items():
            heard.answer = answers if operation in {"set", "delete", "update"} else [operation]
            stream.provide(operation, heard.hear)
        await iii.wait_ready()
        ops = [{"type": "append", "value": 1}]
        assert await stream.get("i") == ["get"]
        assert await stream.list() == ["list"]
        assert await stream.call("list_groups") == ["list_groups"]
        assert await stream.set("i", {"n": 1}) == answers
        assert await stream.delete("i") == {"old_value": 1}
        assert await stream.update("i", *ops) == answers
        group = {"stream_name": stream.name, "group_id": "g"}
        item = {**group, "item_id": "i"}
        assert await asked["get"].take() == item
        assert await asked["list"].take() == group
        assert await asked["list_groups"].take() == {"stream_name": stream.name}
        assert await asked["set"].take() == {**item, "data": {"n": 1}}
        assert await asked["delete"].take() == item
        assert (await asked["update"].take())["ops"][0]["value"] == 1


async def test_what_is_not_provided_in_default_is_done_by_the_store(target: Target) -> None:
    """SR-18, SR-19."""
    async with streams(target) as (engine, iii, stream), engine.worker("other", namespace=engine.id("ns")) as other:
        other.register_function(f"stream::list({stream.name})", Heard("of no account").hear)
        await other.wait_ready()
        stream.provide("get", Heard("provided").hear)
        await iii.wait_ready()
        await stream.update("i", {"type": "set", "path": "n", "value": 1})
        assert await stream.get("i") == "provided"
        assert await stream.list() == [{"n": 1}]


async def test_a_failing_provider_fails_the_call(target: Target) -> None:
    """SR-20, SR-21."""
    async with streams(target) as (_, iii, stream):
        heard = Heard()
        for operation in ("get", "set", "delete", "update"):
            stream.provide(operation, heard.hear)
        await iii.wait_ready()
        heard.error = InvocationError("SOLD_OUT", "nothing left")
        with pytest.raises(InvocationError, match="nothing left") as caught:
            await stream.get("i")
        assert caught.value.code == "SOLD_OUT"
        calls = {
            "STREAM_SET_ERROR": lambda: stream.set("i", 1),
            "STREAM_DELETE_ERROR": lambda: stream.delete("i"),
            "STREAM_UPDATE_ERROR": lambda: stream.update("i"),
        }
        for code, call in calls.items():
            heard.error = InvocationError("SOLD_OUT", "nothing left")
            with pytest.raises(InvocationError, match="nothing left") as caught:
                await call()
            assert caught.value.code == code
            heard.error, heard.answer = None, None
            with pytest.raises(InvocationError) as caught:
                await call()
            assert caught.value.code == code
        for answer in ("text", {"old_value": 1}):
            heard.answer = answer
            with pytest.raises(InvocationError) as caught:
                await stream.set("i", 1)
            assert caught.value.code == "JSON_ERROR"


async def test_the_engine_tells_what_a_provider_has_changed(target: Target) -> None:
    """SR-22."""
    async with streams(target) as (engine, iii, stream):
        heard, provider = Heard(), Heard()
        stream.listen(heard, engine.id("f"))
        for operation in ("set", "delete", "update"):
            stream.provide(operation, provider.hear)
        await iii.wait_ready()
        told: list[Any] = []
        for call, answer in (
            (lambda: stream.set("i", 1), {"new_value": 10}),
            (lambda: stream.set("i", 1), {"old_value": 10, "new_value": 11}),
            (lambda: stream.delete("i"), {"old_value": None}),  # not told
            (lambda: stream.update("i"), {"old_value": None, "new_value": 12}),
            (lambda: stream.delete("i"), {"old_value": 12}),
        ):
            provider.answer = answer
            await call()
            if answer != {"old_value": None}:
                told.append((await heard.take())["event"])
        assert told == [
            {"type": "create", "data": 10},
            {"type": "update", "data": 11},
            {"type": "create", "data": 12},
            {"type": "delete", "data": 12},
        ]
