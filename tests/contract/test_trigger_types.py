"""Trigger types of workers: who is told of a binding, and when."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from iii_anyio import InvocationError, TriggerRegistrationError, Worker
from iii_anyio.trigger import TriggerTypeRef
from tests.contract.providers import Bindings
from tests.contract.targets import EngineUnderTest, Target, until

pytestmark = pytest.mark.anyio

REGISTER = "engine::register_trigger"
UNREGISTER = "engine::unregister_trigger"


def provide(engine: EngineUnderTest, iii: Worker, bindings: Bindings) -> TriggerTypeRef[Any, Any]:
    return iii.register_trigger_type(engine.id("type"), "A test's", bindings)


# -- binding and firing ----------------------------------------------------------------------------------------------


async def test_a_provider_learns_all_of_a_binding_and_can_fire_it(target: Target) -> None:
    """P-46, P-47, P-48, P-49, P-127, T-1."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        fired: list[Any] = []

        def note(data: Any, metadata: Any) -> str:
            fired.append((data, metadata))
            return "done"

        registrant.register_function(engine.id("f"), note)
        asked = {"path": "/ü", "n": [1, None]}
        trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), asked, {"tenant": "acme"})
        await registrant.wait_ready()
        config = await bindings.expect("bind", trigger.id)
        assert config.function_id == engine.id("f")
        assert config.config == {"path": "/ü", "n": [1, None]}
        assert config.metadata == {"tenant": "acme"}
        assert config.namespace is None
        assert await bindings.fire(provider, trigger.id, [1]) == "done"
        assert fired == [([1], {"tenant": "acme"})]


async def test_a_config_may_be_null_and_metadata_may_be_missing(target: Target) -> None:
    """P-46, G-1."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        trigger = registrant.register_trigger(engine.id("type"), engine.id("f"))
        config = await bindings.expect("bind", trigger.id)
        assert (config.config, config.metadata) == (None, None)


async def test_a_worker_can_provide_a_type_and_bind_its_own_functions_to_it(target: Target) -> None:
    """P-46, P-126."""
    async with target.open() as engine, engine.worker() as iii:
        bindings = Bindings()
        ref = provide(engine, iii, bindings)
        iii.register_function(engine.id("f"), lambda data: data)
        with pytest.warns(DeprecationWarning, match="register_trigger"):  # A.23
            trigger = ref.register_trigger(engine.id("f"), {"a": 1}, {"m": 1})
        await bindings.expect("bind", trigger.id)
        assert await bindings.fire(iii, trigger.id, 5) == 5


async def test_the_bound_function_need_not_exist_before_it_is_fired(target: Target) -> None:
    """T-4."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        trigger = registrant.register_trigger(engine.id("type"), engine.id("later"), {})
        await bindings.expect("bind", trigger.id)
        with pytest.raises(InvocationError) as caught:
            await bindings.fire(provider, trigger.id, {})
        assert caught.value.code == "function_not_found"
        registrant.register_function(engine.id("later"), lambda data: data)
        await registrant.wait_ready()
        assert await bindings.fire(provider, trigger.id, 1) == 1


async def test_a_refusal_of_the_provider_reaches_the_registrant_and_the_rest_is_served(target: Target) -> None:
    """P-47, P-51, P-127, T-2, G-7."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        registrant.register_function(engine.id("f"), lambda data: data)
        await registrant.wait_ready()
        for refusal, code in (
            (ValueError("path taken"), "trigger_registration_failed"),
            (InvocationError("no_such_table", "path taken"), "no_such_table"),
        ):
            bindings.refusal = refusal
            trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
            await bindings.expect("bind", trigger.id)
            # The refusal is before this call on both connections.
            assert await provider.trigger_async(engine.id("f"), 1) == 1
            with pytest.raises(TriggerRegistrationError) as caught:
                await registrant.wait_ready()
            error = caught.value
            assert (error.code, error.message) == (code, "path taken")
            assert (error.trigger_id, error.trigger_type) == (trigger.id, engine.id("type"))
            assert error.function_id == engine.id("f")
            trigger.unregister()
            await registrant.wait_ready()


async def test_unregistering_a_trigger_unbinds_it_once_at_its_provider(target: Target) -> None:
    """P-48, P-128, T-6, G-21: the provider's handler gets all it was given when it was bound."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), {"a": 1}, {"m": 1})
        bound = await bindings.expect("bind", trigger.id)
        trigger.unregister()
        trigger.unregister()
        assert await bindings.expect("unbind", trigger.id) == bound
        other = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
        await bindings.expect("bind", other.id)
        assert not bindings.has_more


async def test_the_triggers_of_a_registrant_that_leaves_are_unbound(target: Target) -> None:
    """P-128, T-7, §9.4."""
    async with target.open() as engine, engine.worker("provider") as provider:
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        async with engine.worker("registrant") as registrant:
            triggers = {registrant.register_trigger(engine.id("type"), engine.id("f"), n).id for n in range(3)}
            assert {(await bindings.take())[1].id for _ in range(3)} == triggers
        gone = [await bindings.take() for _ in range(3)]
        assert {what for what, _ in gone} == {"unbind"}
        assert {config.id for _, config in gone} == triggers
        assert bindings.live == {}


# -- which provider --------------------------------------------------------------------------------------------------


async def test_a_trigger_of_an_unknown_type_waits_for_its_provider(target: Target) -> None:
    """P-126, T-3, E-24, §9.2."""
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        kept = registrant.register_trigger(engine.id("type"), engine.id("f"), {"a": 1})
        dropped = registrant.register_trigger(engine.id("type"), engine.id("f"), {"a": 2})
        await registrant.wait_ready()
        dropped.unregister()
        search = {"trigger_type": engine.id("type")}
        listed = await registrant.trigger_async("engine::registered-triggers::list", search)
        assert listed["registered_triggers"] == []
        bindings = Bindings()
        provide(engine, provider, bindings)
        config = await bindings.expect("bind", kept.id)
        assert config.config == {"a": 1}
        listed = await registrant.trigger_async("engine::registered-triggers::list", search)
        assert [row["id"] for row in listed["registered_triggers"]] == [kept.id]


async def test_a_new_provider_gets_the_bindings_of_the_one_that_left_also_those_it_refused(target: Target) -> None:
    """P-126, §9.4."""
    async with target.open() as engine, engine.worker("registrant") as registrant:
        first, second = Bindings(), Bindings()
        registrant.register_function(engine.id("f"), lambda data: data)
        async with engine.worker("provider") as provider:
            provide(engine, provider, first)
            await provider.wait_ready()
            taken = registrant.register_trigger(engine.id("type"), engine.id("f"), "taken")
            await first.expect("bind", taken.id)
            first.refusal = ValueError("no")
            refused = registrant.register_trigger(engine.id("type"), engine.id("f"), "refused")
            await first.expect("bind", refused.id)
        async with engine.worker("provider") as provider:
            provide(engine, provider, second)
            bound = {(await second.take())[1].id for _ in range(2)}
            assert bound == {taken.id, refused.id}
            assert await second.fire(provider, refused.id, 1) == 1


async def test_a_provider_that_registers_its_type_again_is_given_its_bindings_again(target: Target) -> None:
    """P-50, P-126, §9.1; another worker that does becomes the provider."""
    async with target.open() as engine, engine.workers("provider", "rival", "registrant") as (first, rival, registrant):
        old, new, other = Bindings(), Bindings(), Bindings()
        provide(engine, first, old)
        await first.wait_ready()
        registrant.register_function(engine.id("f"), lambda data: data)
        trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), {"a": 1}, {"m": 1})
        bound = await old.expect("bind", trigger.id)
        provide(engine, first, new)
        assert await new.expect("bind", trigger.id) == bound
        assert not old.has_more
        provide(engine, rival, other)
        assert await other.expect("bind", trigger.id) == bound
        assert await other.fire(rival, trigger.id, 1) == 1
        trigger.unregister()
        await other.expect("unbind", trigger.id)


async def test_a_provider_that_takes_its_type_back_is_asked_no_more(target: Target) -> None:
    """§5.9, P-126."""
    target.skip_outside("that of 0.23 does not know unregistertriggertype")
    async with target.open() as engine, engine.workers("provider", "registrant") as (provider, registrant):
        bindings = Bindings()
        ref = provide(engine, provider, bindings)
        await provider.wait_ready()
        before = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
        await bindings.expect("bind", before.id)
        ref.unregister()
        with pytest.raises(InvocationError) as caught:
            await provider.trigger_async("engine::triggers::info", {"id": engine.id("type")})
        assert caught.value.code == "NOT_FOUND"
        after = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
        await registrant.wait_ready()
        other = Bindings()
        provide(engine, provider, other)
        assert {(await other.take())[1].id for _ in range(2)} == {before.id, after.id}


async def test_a_trigger_goes_to_the_provider_of_its_namespace_then_to_that_of_default(target: Target) -> None:
    """P-126, T-11, §9.2: a provider in the registrant's namespace takes over what had settled on ``default``."""
    async with (
        target.open() as engine,
        engine.worker("default") as default_provider,
        engine.worker("registrant", namespace=engine.id("blue")) as registrant,
    ):
        in_default, in_blue = Bindings(), Bindings()
        provide(engine, default_provider, in_default)
        await default_provider.wait_ready()
        trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
        pinned = registrant.register_trigger(engine.id("type"), engine.id("f"), {}, trigger_namespace="default")
        assert {(await in_default.take())[1].id for _ in range(2)} == {trigger.id, pinned.id}
        async with engine.worker("blue", namespace=engine.id("blue")) as blue_provider:
            provide(engine, blue_provider, in_blue)
            await in_blue.expect("bind", trigger.id)
            await in_default.expect("unbind", trigger.id)
        await in_default.expect("bind", trigger.id)
        assert not in_default.has_more


async def test_a_namespace_named_for_the_provider_is_the_only_one_looked_at(target: Target) -> None:
    """P-126, T-11."""
    async with (
        target.open() as engine,
        engine.worker("default") as default_provider,
        engine.worker("registrant") as registrant,
    ):
        in_default, in_blue = Bindings(), Bindings()
        provide(engine, default_provider, in_default)
        await default_provider.wait_ready()
        named = registrant.register_trigger(engine.id("type"), engine.id("f"), {}, trigger_namespace=engine.id("blue"))
        plain = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
        await in_default.expect("bind", plain.id)
        async with engine.worker("blue", namespace=engine.id("blue")) as blue_provider:
            provide(engine, blue_provider, in_blue)
            await in_blue.expect("bind", named.id)


async def test_a_trigger_calls_its_function_in_the_namespace_of_its_registrant(target: Target) -> None:
    """P-21, P-49, T-10, G-21: also when the provider lives in another."""
    async with (
        target.open() as engine,
        engine.worker("provider") as provider,
        engine.worker("blue", namespace=engine.id("blue")) as blue,
        engine.worker("plain") as plain,
    ):
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        for iii, name in ((blue, "blue"), (plain, "plain")):
            iii.register_function(engine.id("who"), lambda _data, name=name: name)
            await iii.wait_ready()
        own = blue.register_trigger(engine.id("type"), engine.id("who"), {})
        config = await bindings.expect("bind", own.id)
        assert config.namespace == engine.id("blue")
        assert await bindings.fire(provider, own.id, {}) == "blue"
        other = blue.register_trigger(engine.id("type"), engine.id("who"), {}, namespace="default")
        await bindings.expect("bind", other.id)
        assert await bindings.fire(provider, other.id, {}) == "plain"


# -- by function -----------------------------------------------------------------------------------------------------


async def test_a_trigger_made_by_function_outlives_its_maker_until_it_is_removed(target: Target) -> None:
    """P-130, T-7, T-8, E-44, E-45, E-47, §9.5."""
    async with target.open() as engine, engine.worker("provider") as provider:
        bindings = Bindings()
        provide(engine, provider, bindings)
        await provider.wait_ready()
        wanted = {
            "trigger_type": engine.id("type"),
            "function_id": engine.id("f"),
            "config": {"a": 1},
            "metadata": {"m": 1},
        }
        async with engine.worker("maker", namespace=engine.id("blue")) as maker:
            trigger_id = (await maker.trigger_async(REGISTER, wanted))["id"]
        config = await bindings.expect("bind", trigger_id)
        assert (config.function_id, config.config, config.metadata) == (engine.id("f"), {"a": 1}, {"m": 1})
        assert config.namespace is None

        async def maker_is_gone() -> bool:
            return not (await provider.trigger_async("engine::workers::list", {"search": engine.id("maker")}))[
                "workers"
            ]

        await until(maker_is_gone)
        assert not bindings.has_more
        assert await provider.trigger_async(UNREGISTER, {"id": trigger_id}) == {"removed": True}
        await bindings.expect("unbind", trigger_id)
        assert await provider.trigger_async(UNREGISTER, {"id": trigger_id}) == {"removed": False}


async def test_a_trigger_made_by_function_may_be_refused(target: Target) -> None:
    """P-130, T-8, E-45: code and message of the provider are in the message; nothing stays behind."""
    async with target.open() as engine, engine.worker() as iii:
        bindings = Bindings()
        bindings.refusal = InvocationError("path_taken", "by somebody")
        provide(engine, iii, bindings)
        await iii.wait_ready()
        with pytest.raises(InvocationError) as caught:
            await iii.trigger_async(REGISTER, {"trigger_type": engine.id("type"), "function_id": engine.id("f")})
        assert caught.value.code == "trigger_registration_failed"
        assert "path_taken: by somebody" in caught.value.message
        search = {"trigger_type": engine.id("type")}
        listed = await iii.trigger_async("engine::registered-triggers::list", search)
        assert listed["registered_triggers"] == []


async def test_a_trigger_of_an_unknown_type_can_be_made_by_function_and_waits(target: Target) -> None:
    """P-130, E-45, E-47."""
    async with target.open() as engine, engine.worker() as iii:
        wanted = {"trigger_type": engine.id("type"), "function_id": engine.id("f"), "config": 1}
        waiting = (await iii.trigger_async(REGISTER, wanted))["id"]
        dropped = (await iii.trigger_async(REGISTER, wanted))["id"]
        assert await iii.trigger_async(UNREGISTER, {"id": dropped}) == {"removed": True}
        bindings = Bindings()
        provide(engine, iii, bindings)
        config = await bindings.expect("bind", waiting)
        assert config.config == 1
        assert await iii.trigger_async(UNREGISTER, {"id": waiting}) == {"removed": True}
        await bindings.expect("unbind", waiting)


# -- the engine's own ------------------------------------------------------------------------------------------------


async def test_workers_that_come_and_go_are_events(target: Target) -> None:
    """P-129, E-50, G-6."""
    async with target.open() as engine, engine.worker("watcher", namespace=engine.id("blue")) as watcher:
        await engine.needs_trigger_type(watcher, "engine::workers-available")
        events: list[tuple[str, str]] = []
        changed = anyio.Event()

        async def on_event(data: Any, metadata: Any) -> None:
            nonlocal changed
            assert metadata == {"m": 1}
            events.append((data["event"], data["worker_id"]))
            changed.set()
            changed = anyio.Event()

        watcher.register_function(engine.id("on"), on_event)
        watcher.register_trigger("engine::workers-available", engine.id("on"), {}, {"m": 1})
        await watcher.wait_ready()
        async with engine.worker("visitor") as visitor:
            await visitor.wait_ready()
            visitor_id = visitor.worker_id
            assert visitor_id is not None
        # In any order: calls are not ordered (G-6).
        wanted = {"worker_connected", "worker_metadata_updated", "worker_disconnected"}
        while {event for event, worker_id in events if worker_id == visitor_id} != wanted:
            await changed.wait()
        assert len([event for event, worker_id in events if worker_id == visitor_id]) == 3


async def test_functions_that_come_and_go_are_an_event(target: Target) -> None:
    """P-129, E-48, E-49."""
    async with target.open(seconds=50) as engine, engine.worker("watcher") as watcher:
        await engine.needs_trigger_type(watcher, "engine::functions-available")
        events: list[Any] = []
        changed = anyio.Event()

        async def on_event(data: Any) -> None:
            nonlocal changed
            events.append(data)
            changed.set()
            changed = anyio.Event()

        async def listed(is_wanted: bool) -> None:
            while not events or (new in [row["function_id"] for row in events[-1]["functions"]]) is not is_wanted:
                await changed.wait()

        watcher.register_function(engine.id("on"), on_event)
        watcher.register_trigger("engine::functions-available", engine.id("on"), {})
        await watcher.wait_ready()
        new = engine.id("new")
        ref = watcher.register_function(new, lambda data: data)
        await listed(True)
        assert events[-1]["event"] == "functions_changed"
        ids = [row["function_id"] for row in events[-1]["functions"]]
        assert "engine::functions::list" in ids
        ref.unregister()
        await listed(False)
