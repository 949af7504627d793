"""``configuration::*`` and the trigger type ``configuration``, as a client sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iii_anyio import InvocationError, TriggerRegistrationError, Worker
from tests.contract.targets import EngineUnderTest, Target
from tests.heard import Heard

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"port": {"type": "integer"}}, "required": ["port"]}


class Entry:
    """The functions of configuration on one entry of the test."""

    def __init__(self, iii: Worker, id: str) -> None:
        self.iii = iii
        self.id = id

    async def call(self, operation: str, /, **more: Any) -> Any:
        return await self.iii.trigger_async(f"configuration::{operation}", {"id": self.id} | more)

    async def register(self, **more: Any) -> Any:
        return await self.call("register", **({"name": "N", "description": "D", "schema": SCHEMA} | more))

    async def code_of(self, operation: str, /, **more: Any) -> str:
        with pytest.raises(InvocationError) as caught:
            await (self.register(**more) if operation == "register" else self.call(operation, **more))
        return caught.value.code


@asynccontextmanager
async def entry(target: Target) -> AsyncGenerator[tuple[EngineUnderTest, Worker, Entry]]:
    async with target.open() as engine, engine.worker() as iii:
        await engine.needs_trigger_type(iii, "configuration")
        yield engine, iii, Entry(iii, f"{engine.tag}-svc")


async def test_an_entry_is_registered_set_read_and_listed(target: Target) -> None:
    """CF-2, CF-4, CF-5."""
    async with entry(target) as (engine, iii, svc):
        shown = {"id": svc.id, "name": "N", "description": "D", "schema": SCHEMA}
        assert await svc.register(initial_value={"port": 1}) == shown | {"value": {"port": 1}}
        assert await svc.call("get") == {"id": svc.id, "value": {"port": 1}}
        answer = await svc.call("set", value={"port": 2, "more": True})
        assert answer == {"old_value": {"port": 1}, "new_value": {"port": 2, "more": True}}
        assert await svc.call("get", raw=True) == {"id": svc.id, "value": {"port": 2, "more": True}}
        assert await svc.call("schema") == shown
        other = Entry(iii, f"{engine.tag}-a")
        await other.register(metadata={"m": 1}, initial_value={"port": 3})
        listed = (await iii.trigger_async("configuration::list", {}))["configurations"]
        assert [row["id"] for row in listed] == sorted(row["id"] for row in listed)
        assert [row for row in listed if row["id"].startswith(engine.tag)] == [
            shown | {"id": other.id, "metadata": {"m": 1}},
            shown,
        ]


async def test_registering_again_keeps_the_value_unless_another_is_given(target: Target) -> None:
    """CF-2."""
    async with entry(target) as (_, _, svc):
        assert (await svc.register())["value"] is None
        await svc.register(initial_value={"port": 1}, metadata=[1])
        answer = await svc.register(name="other", schema={"type": "string"}, initial_value=None)
        assert (answer["name"], answer["value"], "metadata" in answer) == ("other", {"port": 1}, False)
        assert (await svc.register(schema=True, initial_value="text"))["value"] == "text"


async def test_what_cannot_be_done_has_a_code(target: Target) -> None:
    """CF-1, CF-3, CF-4, CF-5, C-2, C-3."""
    async with entry(target) as (_, iii, svc):
        for name in ("get", "schema"):
            assert await svc.code_of(name) == "NOT_FOUND"
        assert await svc.code_of("set", value=1) == "NOT_REGISTERED"
        for id in ("", "A", "a b", "a::b", "x" * 65, "ü"):
            assert await Entry(iii, id).code_of("register") == "INVALID_ID"
            assert await Entry(iii, id).code_of("set", value=1) == "INVALID_ID"
        assert await svc.code_of("register", initial_value={"port": "1"}) == "SCHEMA_INVALID"
        assert await svc.code_of("register", schema={"type": 5}, initial_value={}) == "SCHEMA_INVALID"
        await svc.register(initial_value={"port": 1})
        assert await svc.code_of("set", value={}) == "SCHEMA_INVALID"
        assert await svc.code_of("set") == "deserialization_error"
        assert await svc.code_of("get", raw="yes") == "deserialization_error"
        assert (await svc.call("get"))["value"] == {"port": 1}


async def test_placeholders_are_stored_as_they_are_and_replaced_when_read(target: Target) -> None:
    """CF-3, CF-5, CF-6."""
    async with entry(target) as (engine, _, svc):
        unset = f"III_TEST_{engine.tag.upper()}"
        value = {
            "port": f"${{{unset}:80}}",
            "text": f"a-${{{unset}:b:c}}-${{{unset}:}}!",
            "list": [f" ${{{unset}:true}} ", f"${{{unset}:}}", 7],
            f"${{{unset}:k}}": None,
        }
        assert (await svc.register(initial_value=value))["value"] == value
        assert (await svc.call("get", raw=True))["value"] == value
        assert (await svc.call("get"))["value"] == {
            "port": 80,
            "text": "a-b:c-!",
            "list": [True, "", 7],
            f"${{{unset}:k}}": None,
        }
        assert (await svc.call("set", value={"port": f"${{{unset}}}"}))["new_value"] == {"port": f"${{{unset}}}"}
        assert await svc.code_of("get") == "EXPAND_FAILED"
        await svc.call("get", raw=True)
        await svc.call("set", value={"port": 1})
        await svc.register(schema={"type": "string"})
        assert await svc.code_of("get") == "SCHEMA_INVALID"


async def test_changes_have_events_with_values_as_they_are_read(target: Target) -> None:
    """CF-7, CF-8, CF-9, C-7."""
    async with entry(target) as (engine, iii, svc):
        heard, only_updated = Heard(), Heard()
        iii.register_function(engine.id("f"), heard.hear)
        iii.register_function(engine.id("g"), only_updated.hear)
        config = {"configuration_id": svc.id}
        iii.register_trigger("configuration", engine.id("f"), config, {"tenant": 7})
        iii.register_trigger("configuration", engine.id("g"), config | {"event_types": ["configuration:updated"]})
        await iii.wait_ready()
        unset = f"${{III_TEST_{engine.tag.upper()}}}"
        told = {"type": "configuration", "id": svc.id, "name": "N", "description": "D", "schema": SCHEMA}

        async def expect(heard: Heard, event_type: str, old_value: Any, new_value: Any, **more: Any) -> None:
            event = await heard.take()
            event.pop("_caller_worker_id", None)
            changed = {"event_type": f"configuration:{event_type}", "old_value": old_value, "new_value": new_value}
            assert event == told | changed | more

        await svc.register(metadata={"m": 1})
        await expect(heard, "registered", None, None, metadata={"m": 1})
        await svc.register()
        await expect(heard, "updated", None, None)
        await svc.call("set", value={"port": "${III_TEST_UNSET_:80}"})
        await expect(heard, "updated", None, {"port": 80})
        await svc.call("set", value={"port": unset})
        await expect(heard, "updated", {"port": 80}, {"port": unset})
        await svc.call("get", raw=True)
        assert sorted([(await only_updated.take())["event_type"] for _ in range(3)]) == ["configuration:updated"] * 3
        assert not heard.has_more
        assert not only_updated.has_more
        assert heard.metadata[0] == {"tenant": 7}


async def test_a_condition_can_keep_a_handler_from_being_called(target: Target) -> None:
    """C-8, CF-9."""
    async with entry(target) as (engine, iii, svc):
        heard = Heard()
        iii.register_function(engine.id("f"), heard.hear)
        iii.register_function(engine.id("condition"), lambda event: event["new_value"] != {"port": 1})
        config = {"configuration_id": svc.id, "condition_function_id": engine.id("condition")}
        iii.register_trigger("configuration", engine.id("f"), config)
        await iii.wait_ready()
        await svc.register(initial_value={"port": 1})
        await svc.call("set", value={"port": 2})
        assert (await heard.take())["new_value"] == {"port": 2}
        assert not heard.has_more


async def test_a_config_that_does_not_parse_is_refused(target: Target) -> None:
    """T-2, CF-9."""
    async with entry(target) as (engine, iii, _):
        iii.register_function(engine.id("f"), lambda data: data)
        for config in (None, {"configuration_id": 1}, {"event_types": "all"}, {"event_types": [1]}):
            trigger = iii.register_trigger("configuration", engine.id("f"), config)
            with pytest.raises(TriggerRegistrationError) as caught:
                await iii.wait_ready()
            assert caught.value.code == "trigger_registration_failed"
            trigger.unregister()
