"""``state::*``, update operations and the trigger type ``state``, as a client sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anyio import Event, create_task_group

from iii_anyio import InvocationError, TriggerRegistrationError, Worker
from tests.contract.targets import EngineUnderTest, Target, until
from tests.heard import Heard

pytestmark = pytest.mark.anyio


class Bucket:
    """The functions of state on one scope of the test."""

    def __init__(self, iii: Worker, scope: str) -> None:
        self.iii = iii
        self.scope = scope

    async def call(self, name: str, key: str | None = None, **more: Any) -> Any:
        place = {"scope": self.scope} | ({} if key is None else {"key": key})
        return await self.iii.trigger_async(f"state::{name}", place | more, namespace="default")

    async def code_of(self, name: str, key: str | None = None, **more: Any) -> str:
        with pytest.raises(InvocationError) as caught:
            await self.call(name, key, **more)
        assert f"state::{name}" in caught.value.message
        return caught.value.code


@asynccontextmanager
async def bucket(target: Target) -> AsyncGenerator[tuple[EngineUnderTest, Worker, Bucket]]:
    async with target.open() as engine, engine.worker() as iii:
        await engine.needs_trigger_type(iii, "state")
        yield engine, iii, Bucket(iii, engine.id("scope"))


async def bound(
    engine: EngineUnderTest, iii: Worker, config: dict[str, Any], name: str = "on-change", **more: Any
) -> Heard:
    """A handler of this worker for ``state`` triggers that work already."""
    heard = Heard()
    iii.register_function(engine.id(name), heard.hear)
    iii.register_trigger("state", engine.id(name), config, **more)
    await iii.wait_ready()
    return heard


# -- functions -------------------------------------------------------------------------------------------------------


async def test_a_value_is_set_read_overwritten_and_deleted(target: Target) -> None:
    """ST-1, ST-2, C-5."""
    async with bucket(target) as (_, _, state):
        assert await state.call("get", "k") is None
        assert await state.call("set", "k", value={"n": 1}) == {"old_value": None, "new_value": {"n": 1}}
        assert await state.call("get", "k") == {"n": 1}
        assert await state.call("set", "k", data=[2]) == {"old_value": {"n": 1}, "new_value": [2]}
        assert await state.call("delete", "k") == [2]
        assert await state.call("delete", "k") is None
        assert await state.call("get", "k") is None


async def test_scope_and_key_are_any_strings_and_required(target: Target) -> None:
    """ST-3, C-2, C-3."""
    async with bucket(target) as (_, iii, state):
        for key in ("", " ", "a.b", "ä/東", "x" * 1000):
            await state.call("set", key, value=key, unknown="ignored")
            assert await state.call("get", key) == key
        assert await state.code_of("set", "k") == "deserialization_error"
        assert await state.code_of("set", "k", value=1, data=1) == "deserialization_error"
        assert await state.code_of("set", value=1) == "deserialization_error"
        assert await state.code_of("get", key=None) == "deserialization_error"
        refused: list[Any] = [None, 1, []]
        for data in refused:
            with pytest.raises(InvocationError) as caught:
                await iii.trigger_async("state::list_groups", data, namespace="default")
            assert caught.value.code == "deserialization_error"


async def test_a_stored_null_is_there(target: Target) -> None:
    """ST-4, C-3, UO-5."""
    async with bucket(target) as (_, _, state):
        assert await state.call("set", "k", value=None) == {"old_value": None, "new_value": None}
        assert await state.call("list") == [None]
        ops = [{"type": "increment", "path": "", "by": 1}]
        assert (await state.call("update", "k", ops=ops))["errors"][0]["code"] == "increment.not_number"


async def test_values_are_listed_in_the_order_in_which_their_keys_came(target: Target) -> None:
    """ST-5."""
    async with bucket(target) as (_, _, state):
        assert await state.call("list") == []
        for key in ("b", "a", "c"):
            await state.call("set", key, value=key)
        await state.call("set", "b", value="B")
        assert await state.call("list") == ["B", "a", "c"]
        await state.call("delete", "b")
        await state.call("set", "b", value="last")
        assert await state.call("list") == ["a", "c", "last"]


async def test_scopes_are_listed_sorted_and_stay_when_they_are_empty(target: Target) -> None:
    """ST-6."""
    async with bucket(target) as (engine, iii, _):
        mine = [engine.id(name) for name in ("b", "a")]
        for scope in mine:
            await Bucket(iii, scope).call("set", "k", value=1)
        await Bucket(iii, mine[0]).call("delete", "k")
        await Bucket(iii, engine.id("only read")).call("get", "k")
        await Bucket(iii, engine.id("only read")).call("delete", "k")
        groups = (await iii.trigger_async("state::list_groups", {}, namespace="default"))["groups"]
        assert groups == sorted(set(groups))
        assert [group for group in groups if group.startswith(engine.tag)] == sorted(mine)


async def test_an_update_of_an_absent_key_creates_it_whatever_its_operations_come_to(target: Target) -> None:
    """ST-7, UO-7."""
    async with bucket(target) as (_, _, state):
        answer = await state.call("update", "k", ops=[{"type": "set", "path": "__proto__", "value": 1}])
        assert (answer["old_value"], answer["new_value"]) == (None, {})
        (error,) = answer["errors"]
        assert error.keys() == {"op_index", "code", "message", "doc_url"}
        assert (error["op_index"], error["code"]) == (0, "set.path.proto_polluted")
        assert await state.call("list") == [{}]


async def test_operations_are_applied_in_order_and_a_failed_one_is_passed_over(target: Target) -> None:
    """ST-8, UO-7."""
    async with bucket(target) as (_, _, state):
        await state.call("set", "k", value={"n": 1, "tags": ["a"], "gone": 1, "text": "x"})
        ops = [
            {"type": "increment", "path": "n", "by": 2},
            {"type": "append", "path": "tags", "value": "b"},
            {"type": "decrement", "path": "text", "by": 1},
            {"type": "remove", "path": "gone"},
            {"type": "append", "path": "text", "value": "y"},
            {"type": "merge", "path": ["deep", "er"], "value": {"a": 1}},
        ]
        answer = await state.call("update", "k", ops=ops)
        assert answer["new_value"] == {"n": 3, "tags": ["a", "b"], "text": "xy", "deep": {"er": {"a": 1}}}
        assert [(error["op_index"], error["code"]) for error in answer["errors"]] == [(2, "decrement.not_number")]
        answer = await state.call("update", "k", ops=[{"type": "set", "path": "n", "value": 0}])
        assert "errors" not in answer


async def test_operations_that_cannot_be_read_fail_the_call_and_change_nothing(target: Target) -> None:
    """UO-1, UO-3, UO-4."""
    async with bucket(target) as (_, _, state):
        first = {"type": "set", "path": "a", "value": 1}
        for op in (
            {"type": "increment", "path": "n", "by": 1.5},
            {"type": "set", "path": ["a"], "value": 1},
            {"type": "append", "path": "a"},
            {"type": "upsert", "path": "a", "value": 1},
        ):
            assert await state.code_of("update", "k", ops=[first, op]) == "deserialization_error"
        assert await state.call("list") == []


async def test_updates_of_many_callers_lose_nothing(target: Target) -> None:
    """ST-7."""
    async with bucket(target) as (_, _, state), create_task_group() as group:
        for _ in range(50):
            group.start_soon(lambda: state.call("update", "n", ops=[{"type": "increment", "path": "", "by": 1}]))
        await until(lambda: _is(state, "n", 50))


async def _is(state: Bucket, key: str, value: Any) -> bool:
    return await state.call("get", key) == value


async def test_state_is_in_default_whatever_the_namespace_of_the_caller(target: Target) -> None:
    """C-1."""
    async with bucket(target) as (engine, _, state), engine.worker("other", namespace=engine.id("ns")) as other:
        await Bucket(other, state.scope).call("set", "k", value=1)
        assert await state.call("get", "k") == 1
        with pytest.raises(InvocationError) as caught:
            await other.trigger_async("state::get", {"scope": state.scope, "key": "k"})
        assert caught.value.code == "function_not_found"
        assert engine.id("ns") in caught.value.message


# -- the trigger type ------------------------------------------------------------------------------------------------


async def test_each_kind_of_change_has_its_event(target: Target) -> None:
    """ST-4, ST-10, ST-11."""
    async with bucket(target) as (engine, iii, state):
        heard = await bound(engine, iii, {"scope": state.scope})
        told = {"type": "state", "scope": state.scope, "key": "k"}

        async def expect(event_type: str, old_value: Any, new_value: Any) -> None:
            event = await heard.take()
            event.pop("_caller_worker_id", None)
            assert event == told | {
                "event_type": f"state:{event_type}", "old_value": old_value, "new_value": new_value
            }  # fmt: skip

        await state.call("set", "k", value={"n": 1})
        await expect("created", None, {"n": 1})
        await state.call("set", "k", value={"n": 1})
        await expect("updated", {"n": 1}, {"n": 1})
        await state.call("update", "k", ops=[{"type": "increment", "path": "n", "by": 1}])
        await expect("updated", {"n": 1}, {"n": 2})
        await state.call("delete", "k")
        await expect("deleted", {"n": 2}, None)
        await state.call("delete", "k")
        await expect("deleted", None, None)
        await state.call("update", "k", ops=[])
        await expect("created", None, {})
        await state.call("set", "k", value=None)
        await expect("updated", {}, None)
        await state.call("set", "k", value=1)
        await expect("updated", None, 1)


async def test_filters_are_exact_and_what_is_not_given_matches_all(target: Target) -> None:
    """ST-12."""
    async with bucket(target) as (engine, iii, state):
        both = await bound(engine, iii, {"scope": state.scope, "key": "k"}, "both")
        scope = await bound(engine, iii, {"scope": state.scope, "key": None, "other": 1}, "scope-only")
        key = await bound(engine, iii, {"key": engine.id("key")}, "key-only")
        await state.call("set", "k", value=1)
        await state.call("set", "kk", value=2)
        await Bucket(iii, state.scope + "x").call("set", engine.id("key"), value=3)
        await state.call("set", "k", value=4)
        assert sorted(event["new_value"] for event in await both.take_all(2)) == [1, 4]  # in no order (ST-13)
        assert sorted(event["new_value"] for event in await scope.take_all(3)) == [1, 2, 4]
        assert (await key.take())["new_value"] == 3
        assert not any(heard.has_more for heard in (both, scope, key))


async def test_metadata_comes_beside_the_event(target: Target) -> None:
    """C-7."""
    async with bucket(target) as (engine, iii, state):
        heard = await bound(engine, iii, {"scope": state.scope}, metadata={"tenant": 7})
        await state.call("set", "k", value=1)
        await heard.take()
        assert heard.metadata == [{"tenant": 7}]


async def test_only_false_and_an_error_of_the_condition_keep_the_handler_from_being_called(target: Target) -> None:
    """C-8."""
    async with bucket(target) as (engine, iii, state):
        asked: list[Any] = []

        async def condition(event: Any) -> Any:
            asked.append(event["new_value"])
            if event["new_value"] == "error":
                raise InvocationError("nope", "nope")
            return event["new_value"]

        iii.register_function(engine.id("condition"), condition)
        config = {"scope": state.scope, "condition_function_id": engine.id("condition")}
        heard = await bound(engine, iii, config)
        await state.call("set", "k", value=False)
        await state.call("set", "k", value="error")
        allowed: list[Any] = [None, 0, "false", {}]
        for value in allowed:
            await state.call("set", "k", value=value)
            assert (await heard.take())["new_value"] == value
        assert not heard.has_more
        assert len(asked) == 6


async def test_a_write_does_not_wait_for_handlers_and_a_failing_one_stops_no_other(target: Target) -> None:
    """ST-13."""
    async with bucket(target) as (engine, iii, state):
        release, entered = Event(), Event()

        async def slow(_event: Any) -> None:
            entered.set()
            await release.wait()

        async def failing(_event: Any) -> None:
            raise ValueError("as a test wants it")

        for name, function in (("slow", slow), ("failing", failing)):
            iii.register_function(engine.id(name), function)
            iii.register_trigger("state", engine.id(name), {"scope": state.scope})
        heard = await bound(engine, iii, {"scope": state.scope})
        await state.call("set", "k", value=1)
        await entered.wait()
        release.set()
        assert (await heard.take())["new_value"] == 1


async def test_a_config_that_does_not_parse_is_refused(target: Target) -> None:
    """ST-15, T-2."""
    async with bucket(target) as (engine, iii, _):
        iii.register_function(engine.id("f"), lambda data: data)
        refused: list[Any] = [None, [], {"scope": 1}, {"key": ["k"]}, {"condition_function_id": 1}]
        for config in refused:
            trigger = iii.register_trigger("state", engine.id("f"), config)
            with pytest.raises(TriggerRegistrationError) as caught:
                await iii.wait_ready()
            assert caught.value.code == "trigger_registration_failed"
            trigger.unregister()


async def test_an_unregistered_trigger_is_silent(target: Target) -> None:
    """T-6, ST-13."""
    async with bucket(target) as (engine, iii, state):
        stays = await bound(engine, iii, {"scope": state.scope}, "stays")
        goes = Heard()
        iii.register_function(engine.id("goes"), goes.hear)
        trigger = iii.register_trigger("state", engine.id("goes"), {"scope": state.scope})
        await iii.wait_ready()
        await state.call("set", "k", value=1)
        await goes.take()
        trigger.unregister()
        await until(lambda: _is_gone(iii, trigger.id))
        await stays.take()
        await state.call("set", "k", value=2)
        await stays.take()
        assert not goes.has_more


async def _is_gone(iii: Worker, trigger_id: str) -> bool:
    listed = await iii.trigger_async("engine::registered-triggers::list", {"trigger_type": "state"})
    return trigger_id not in [row["id"] for row in listed["registered_triggers"]]
