"""What the engine tells about functions, workers and triggers."""

from __future__ import annotations

from typing import Any

import pytest

from iii_anyio import InvocationError, Worker
from tests.contract.providers import Bindings
from tests.contract.targets import EngineUnderTest, Target

pytestmark = pytest.mark.anyio

REQUEST = {"type": "object", "properties": {"a": {"type": "integer"}}}
RESPONSE = {"type": "integer"}


async def code_of(iii: Worker, function_id: str, data: Any) -> str:
    with pytest.raises(InvocationError) as caught:
        await iii.trigger_async(function_id, data)
    return caught.value.code


async def function_ids(iii: Worker, **filters: Any) -> list[str]:
    """Of ``engine::functions::list``, without the test's tag."""
    listed = await iii.trigger_async("engine::functions::list", filters)
    return [row["function_id"].partition("::")[2] for row in listed["functions"]]


def echo(data: Any) -> Any:
    return data


# -- functions -------------------------------------------------------------------------------------------------------


async def test_a_listed_function_has_what_was_given_and_nothing_else(target: Target) -> None:
    """E-9, E-5, §5.1."""
    async with target.open() as engine, engine.worker("w") as iii:
        iii.register_function(engine.id("plain"), echo)
        iii.register_function(
            engine.id("told"), echo, description="Tells", metadata={"public": True}, request_format=REQUEST
        )
        await iii.wait_ready()
        listed = await iii.trigger_async("engine::functions::list", {"prefix": engine.tag})
        owned = {"namespace": "default", "worker_name": engine.id("w")}
        assert listed == {
            "functions": [
                {"function_id": engine.id("plain"), **owned},
                {"function_id": engine.id("told"), "description": "Tells", "metadata": {"public": True}, **owned},
            ]
        }


async def test_a_function_is_described_with_its_schemas_and_active_triggers(target: Target) -> None:
    """E-17, E-18, E-24."""
    async with target.open() as engine, engine.worker("w") as iii:
        bindings = Bindings()
        iii.register_trigger_type(engine.id("type"), "d", bindings)
        iii.register_function(engine.id("plain"), echo)
        iii.register_function(engine.id("told"), echo, request_format=REQUEST, response_format=RESPONSE)
        trigger = iii.register_trigger(engine.id("type"), engine.id("told"), {"a": 1})
        iii.register_trigger(engine.id("unknown"), engine.id("told"), {"a": 2})
        await iii.wait_ready()
        await bindings.expect("bind", trigger.id)
        told = await iii.trigger_async("engine::functions::info", {"function_id": engine.id("told")})
        assert (told["request_schema"], told["response_schema"]) == (REQUEST, RESPONSE)
        assert told["registered_triggers"] == [
            {"id": trigger.id, "trigger_type": engine.id("type"), "config": {"a": 1}}
        ]
        plain = await iii.trigger_async("engine::functions::info", {"function_id": engine.id("plain")})
        assert plain == {
            "function_id": engine.id("plain"),
            "namespace": "default",
            "worker_name": engine.id("w"),
            "registered_triggers": [],
        }


async def test_functions_are_found_by_prefix_worker_and_text(target: Target) -> None:
    """E-7, E-10, E-11, E-12."""
    async with (
        target.open() as engine,
        engine.worker("one") as one,
        engine.worker("two", namespace=engine.id("blue")) as two,
    ):
        for iii, names in ((one, ("order::create", "order::drop", "x")), (two, ("order::create", "reorder"))):
            for name in names:
                iii.register_function(engine.id(name), echo, description=f"{name} of {engine.tag}")
            await iii.wait_ready()
        tag, create = engine.tag, engine.id("order::create")
        everything = ["order::create", "order::create", "order::drop", "reorder", "x"]
        assert await function_ids(one, prefix=tag) == everything
        assert await function_ids(one, prefix=tag.upper()) == []
        assert await function_ids(one, search=tag.upper()) == everything
        assert await function_ids(one, prefix=tag, search="") == everything
        assert await function_ids(one, worker=engine.id("two")) == ["order::create", "reorder"]
        assert await function_ids(one, workers=[engine.id("one"), engine.id("two")]) == everything
        assert await function_ids(one, prefix=create, worker=engine.id("one")) == ["order::create"]
        # A segment that equals the text goes before text that only contains it.
        ranked = await function_ids(one, prefix=tag, search="order")
        assert ranked == ["order::create", "order::create", "order::drop", "reorder"]
        listed = await one.trigger_async("engine::functions::list", {"prefix": create})
        assert {row["namespace"] for row in listed["functions"]} == {"default", engine.id("blue")}


async def test_internal_functions_are_listed_only_when_asked_for(target: Target) -> None:
    """E-1, E-4."""
    async with target.open() as engine, engine.worker("w") as iii:
        iii.register_function(engine.id("hidden"), echo, metadata={"internal": True})
        iii.register_function(engine.id("shown"), echo, metadata={"internal": "true"})
        await iii.wait_ready()
        assert await function_ids(iii, prefix=engine.tag) == ["shown"]
        assert await function_ids(iii, prefix=engine.tag, include_internal=True) == ["hidden", "shown"]
        assert await function_ids(iii, prefix="engine::functions::") == []
        assert await function_ids(iii, prefix="engine::functions::", include_internal=True) == [
            "functions::info",
            "functions::list",
        ]
        info = await iii.trigger_async("engine::functions::info", {"function_id": "engine::functions::list"})
        assert info["function_id"] == "engine::functions::list"


async def test_functions_are_described_in_default_or_where_they_are_alone(target: Target) -> None:
    """E-15, E-16."""
    async with (
        target.open() as engine,
        engine.worker("blue", namespace=engine.id("blue")) as blue,
        engine.worker("red", namespace=engine.id("red")) as red,
        engine.worker("plain") as plain,
    ):
        for iii, names in ((blue, ("a", "b", "c")), (red, ("b",)), (plain, ("c",))):
            for name in names:
                iii.register_function(engine.id(name), echo)
            await iii.wait_ready()
        info = "engine::functions::info"

        async def namespace_of(name: str) -> str:
            return (await plain.trigger_async(info, {"function_id": engine.id(name)}))["namespace"]

        assert await namespace_of("a") == engine.id("blue")
        assert await namespace_of("c") == "default"
        for namespace in (engine.id("blue"), engine.id("red")):
            found = await plain.trigger_async(info, {"function_id": engine.id("b"), "namespace": namespace})
            assert found["namespace"] == namespace
        with pytest.raises(InvocationError) as caught:
            await plain.trigger_async(info, {"function_id": engine.id("b")})
        assert caught.value.code == "NOT_FOUND"
        assert engine.id("blue") in caught.value.message
        assert engine.id("red") in caught.value.message
        assert await code_of(plain, info, {"function_id": engine.id("a"), "namespace": "default"}) == "NOT_FOUND"
        assert await code_of(plain, info, {"function_id": engine.id("none")}) == "NOT_FOUND"


async def test_many_functions_can_be_described_at_once_and_an_unknown_one_does_not_fail_the_call(
    target: Target,
) -> None:
    """E-14."""
    async with target.open() as engine, engine.worker("w") as iii:
        for name in "ab":
            iii.register_function(engine.id(name), echo)
        await iii.wait_ready()
        info = "engine::functions::info"
        wanted = [engine.id("b"), engine.id("none"), engine.id("a"), engine.id("b")]
        found = (await iii.trigger_async(info, {"function_ids": wanted}))["functions"]
        assert [row["function_id"] for row in found] == wanted[:3]
        assert found[1] == {"function_id": engine.id("none"), "error": "not_found"}
        many = [engine.id(str(number)) for number in range(33)]
        assert len((await iii.trigger_async(info, {"function_ids": many[:32]}))["functions"]) == 32
        wrong: list[dict[str, Any]] = [
            {},
            {"function_id": "x", "function_ids": ["x"]},
            {"function_ids": []},
            {"function_ids": many},
        ]
        for bad in wrong:
            assert await code_of(iii, info, bad) == "INVALID_ARGUMENTS"


# -- triggers --------------------------------------------------------------------------------------------------------


async def provide(engine: EngineUnderTest, iii: Worker, type_id: str) -> Bindings:
    bindings = Bindings()
    iii.register_trigger_type(
        type_id, "Of a test", bindings, trigger_request_format=REQUEST, call_request_format=RESPONSE
    )
    await iii.wait_ready()
    return bindings


async def test_a_trigger_type_is_listed_and_described(target: Target) -> None:
    """E-6, E-7, E-19, E-20, E-21, E-22."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = await provide(engine, provider, engine.id("type"))
        row = {
            "id": engine.id("type"),
            "namespace": "default",
            "worker_name": engine.id("provider"),
            "description": "Of a test",
        }
        for filters in ({"prefix": engine.tag}, {"search": engine.tag.upper()}, {"worker": engine.id("provider")}):
            assert await registrant.trigger_async("engine::triggers::list", filters) == {"triggers": [row]}
        for number in range(2):
            trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), {"a": number})
            await bindings.expect("bind", trigger.id)
        info = await registrant.trigger_async("engine::triggers::info", {"id": engine.id("type")})
        assert info == {**row, "configuration_schema": REQUEST, "request_schema": RESPONSE, "instance_count": 2}
        missing = {"id": engine.id("type"), "namespace": engine.id("blue")}
        assert await code_of(registrant, "engine::triggers::info", missing) == "NOT_FOUND"
        assert await code_of(registrant, "engine::triggers::info", {"id": engine.id("none")}) == "NOT_FOUND"


async def test_trigger_types_of_the_engine_are_listed_only_when_asked_for(target: Target) -> None:
    """E-2, P-129."""
    async with target.open() as engine, engine.worker() as iii:
        assert (await iii.trigger_async("engine::triggers::list", {"prefix": "engine::"}))["triggers"] == []
        listed = await iii.trigger_async("engine::triggers::list", {"prefix": "engine::", "include_internal": True})
        ids = {row["id"] for row in listed["triggers"]}
        assert {"engine::functions-available", "engine::workers-available"} <= ids


async def test_a_registered_trigger_is_listed_and_described(target: Target) -> None:
    """E-23, E-24, T-14."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = await provide(engine, provider, engine.id("type"))
        registrant.register_function(engine.id("f"), echo)
        config = {"path": "x" * 100}
        trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), config, {"m": 1})
        await bindings.expect("bind", trigger.id)
        row = {
            "id": trigger.id,
            "trigger_type": engine.id("type"),
            "function_id": engine.id("f"),
            "worker_name": engine.id("registrant"),
            "config": config,
        }
        for filters in (
            {"trigger_type": engine.id("type")},
            {"function_id": engine.id("f")},
            {"worker": engine.id("registrant")},
            {"search": engine.id("f").upper()},
        ):
            listed = await registrant.trigger_async("engine::registered-triggers::list", filters)
            (found,) = listed["registered_triggers"]
            summary = found.pop("config_summary")
            assert found == row
            assert (len(summary), summary[:10], summary[-1]) == (81, '{"path":"x', "…")
        info = await registrant.trigger_async("engine::registered-triggers::info", {"id": trigger.id})
        assert {key: info[key] for key in row} == row
        assert "config_summary" not in info
        assert info["metadata"] == {"m": 1}
        assert info["trigger"]["id"] == engine.id("type")
        assert info["function"]["function_id"] == engine.id("f")
        trigger.unregister()
        assert await code_of(registrant, "engine::registered-triggers::info", {"id": trigger.id}) == "NOT_FOUND"


async def test_a_trigger_for_a_function_of_the_engine_is_listed_only_when_asked_for(target: Target) -> None:
    """E-3."""
    async with target.open() as engine, engine.worker() as iii:
        bindings = await provide(engine, iii, engine.id("type"))
        trigger = iii.register_trigger(engine.id("type"), "engine::log::info", {})
        await bindings.expect("bind", trigger.id)
        search = {"trigger_type": engine.id("type")}
        for more, count in (({}, 0), ({"include_internal": True}, 1)):
            listed = await iii.trigger_async("engine::registered-triggers::list", search | more)
            assert len(listed["registered_triggers"]) == count


# -- workers ---------------------------------------------------------------------------------------------------------


async def test_a_worker_is_described_with_all_it_has(target: Target) -> None:
    """E-29, E-30, E-31."""
    async with (
        target.open() as engine,
        engine.worker("same", namespace=engine.id("blue")) as blue,
        engine.worker("same", namespace=engine.id("red")) as red,
    ):
        bindings = await provide(engine, blue, engine.id("type"))
        blue.register_function(engine.id("f"), echo)
        trigger = blue.register_trigger(engine.id("type"), engine.id("f"), {})
        await bindings.expect("bind", trigger.id)
        await red.wait_ready()
        info, name = "engine::workers::info", engine.id("same")
        found = await red.trigger_async(info, {"name": name, "namespace": engine.id("blue")})
        assert found["worker"]["id"] == blue.worker_id
        assert found["worker"]["internal"] is False
        assert [row["function_id"] for row in found["functions"]] == [engine.id("f")]
        assert [row["id"] for row in found["trigger_types"]] == [engine.id("type")]
        assert [row["id"] for row in found["registered_triggers"]] == [trigger.id]
        with pytest.raises(InvocationError) as caught:
            await red.trigger_async(info, {"name": name})
        assert caught.value.code == "NOT_FOUND"
        assert engine.id("blue") in caught.value.message
        assert await code_of(red, info, {"name": name, "namespace": "default"}) == "NOT_FOUND"
        assert await code_of(red, info, {}) == "deserialization_error"


async def test_workers_of_the_engine_are_listed_as_in_process(target: Target) -> None:
    """E-25, E-26, E-27, E-28, E-30."""
    async with target.open() as engine, engine.worker("w") as iii:
        await iii.wait_ready()
        listed = (await iii.trigger_async("engine::workers::list", {}))["workers"]
        own = next(row for row in listed if row["name"] == engine.id("w"))
        assert all(row.keys() == own.keys() for row in listed)
        engines = next(row for row in listed if row["name"] == "iii-engine-functions")
        keys = ("id", "runtime", "status", "isolation", "ip_address", "namespace")
        assert {key: engines[key] for key in keys} == {
            "id": "iii-engine-functions",
            "runtime": "engine",
            "status": "available",
            "isolation": "in-process",
            "ip_address": None,
            "namespace": "default",
        }
        order = [(row["name"] or row["id"], row["id"]) for row in listed]
        assert order == sorted(order)
        found = await iii.trigger_async("engine::workers::list", {"runtime": "engine", "status": "available"})
        assert {row["isolation"] for row in found["workers"]} == {"in-process"}
        info = await iii.trigger_async("engine::workers::info", {"name": "iii-engine-functions"})
        assert info["worker"]["internal"] is True
        assert "engine::functions::list" in [row["function_id"] for row in info["functions"]]


async def test_calls_a_worker_has_open_and_is_running_are_counted(target: Target) -> None:
    """E-27."""
    async with target.open() as engine, engine.workers("callee", "caller") as (callee, caller):
        counted: list[dict[str, int]] = []

        async def look(_data: Any) -> None:
            rows = (await callee.trigger_async("engine::workers::list", {"search": engine.tag}))["workers"]
            counted.append({row["name"]: row["active_invocations"] for row in rows})

        callee.register_function(engine.id("look"), look)
        await callee.wait_ready()
        await caller.trigger_async(engine.id("look"), {})
        # The callee runs one and has one open, that very question.
        assert counted == [{engine.id("callee"): 2, engine.id("caller"): 1}]
