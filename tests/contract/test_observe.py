"""Observers of functions, between workers of this package: what any engine with ``observe.v1`` must do."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from iii_anyio import InvocationError, ObserveRejection
from tests.contract.targets import Target
from tests.heard import Heard

pytestmark = pytest.mark.anyio

OLD = "that of 0.23 has no observers"


async def double(data: Any) -> Any:
    return data * 2


async def test_calls_that_match_reach_the_target_wherever_they_ran(target: Target) -> None:
    """§16.6, P-137, P-138: local ones are reported by their worker, others the engine sees itself."""
    target.skip_outside(OLD)
    async with target.open() as engine, engine.workers("owner", "watcher") as (owner, watcher):
        heard = Heard()
        owner.register_function(engine.id("double"), double)
        watcher.register_function(engine.id("note"), heard.hear)
        await owner.wait_ready()
        source = {"function_id": engine.id("double"), "filters": {"input": {"$gt": 1}}, "deliver": "output"}
        await watcher.observe(source, engine.id("note"), {"metadata": {"m": 1}}).ready_async()
        for caller in (owner, watcher):
            for number in (1, 2):
                await caller.trigger_async(engine.id("double"), number)
            assert await heard.take() == 4
        assert heard.metadata == [{"m": 1}, {"m": 1}]


async def test_a_local_call_goes_on_without_a_link_and_is_observed_when_it_is_back(target: Target) -> None:
    """§17, P-138, P-139."""
    target.skip_outside(OLD)
    async with (
        target.open() as engine,
        engine.line() as line,
        engine.worker("owner", line=line) as owner,
        engine.worker("watcher") as watcher,
    ):
        heard = Heard()
        owner.register_function(engine.id("double"), double)
        watcher.register_function(engine.id("note"), heard.hear)
        await owner.wait_ready()
        source = {"function_id": engine.id("double"), "deliver": "output"}
        await watcher.observe(source, engine.id("note")).ready_async()
        lost = anyio.Event()
        owner.add_connection_state_listener(lambda state: lost.set() if state == "disconnected" else None)
        line.cut()
        await lost.wait()  # a report that was written to a dying link is lost with it
        assert await owner.trigger_async(engine.id("double"), 2) == 4
        assert await heard.take() == 4


async def test_an_observer_is_not_active_without_target_and_refused_when_it_cannot_work(target: Target) -> None:
    """P-139, §16.9."""
    target.skip_outside(OLD)
    async with target.open() as engine, engine.worker() as iii:
        iii.register_function(engine.id("f"), double)
        await iii.wait_ready()
        source = {"function_id": engine.id("f")}
        handle = iii.observe(source, engine.id("later"))
        await iii.trigger_async("engine::functions::list", {})
        assert handle.state == "pending"
        iii.register_function(engine.id("later"), double)
        await handle.ready_async()
        for changes, to, code in (
            ({"filters": {"input.a": 1}}, "later", "INVALID_FILTER"),
            ({}, "f", "SELF_TARGET"),
        ):
            with pytest.raises(ObserveRejection, match=code):
                await iii.observe(source | changes, engine.id(to)).ready_async()


async def test_who_calls_is_known_and_loops_end(target: Target) -> None:
    """P-140: after eight hops."""
    target.skip_outside(OLD)
    async with target.open() as engine, engine.workers("owner", "watcher") as (owner, watcher):
        seen: list[tuple[int, Any]] = []

        async def note(_data: Any) -> None:
            invocation = watcher.current_invocation()
            assert invocation is not None
            seen.append((invocation.observe_depth, (invocation.caller or {}).get("function_id")))
            await watcher.trigger_async(engine.id("f"), 1)

        async def who(_data: Any) -> Any:
            invocation = owner.current_invocation()
            return None if invocation is None else invocation.caller

        owner.register_function(engine.id("f"), double)
        owner.register_function(engine.id("who"), who)
        watcher.register_function(engine.id("note"), note)
        await owner.wait_ready()
        caller = await watcher.trigger_async(engine.id("who"), None)
        assert caller == {"worker_id": watcher.worker_id, "worker_name": engine.id("watcher")}
        handle = watcher.observe({"function_id": engine.id("f")}, engine.id("note"))
        await handle.ready_async()
        await watcher.trigger_async(engine.id("f"), 1)
        while (found := await watcher.trigger_async("engine::observers::get", {"id": handle.id}))["dropped"] == {}:
            pass
        assert (found["fires"], found["dropped"]) == (8, {"LOOP_GUARD": 1})
        assert seen == [(hop, engine.id("f")) for hop in range(1, 9)]


async def test_an_owner_calls_the_target_of_an_active_observer_only(target: Target) -> None:
    """§16.7, P-139."""
    target.skip_outside(OLD)
    async with target.open() as engine, engine.workers("owner", "watcher") as (owner, watcher):
        tick = owner.register_function(engine.id("tick"), double, observe={"delivery": "owner"})
        watcher.register_function(engine.id("note"), double)
        await owner.wait_ready()
        handle = watcher.observe({"function_id": engine.id("tick")}, engine.id("note"))
        await handle.ready_async()
        (observer,) = tick.observers()
        assert await observer.call_async(2) == 4
        await handle.dispose_async()
        await watcher.trigger_async("engine::functions::list", {})
        with pytest.raises(InvocationError) as caught:
            await observer.call_async(2)
        assert caught.value.code == "OBSERVER_NOT_ACTIVE"
