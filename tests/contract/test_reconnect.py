"""Lost connections, and how a worker comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group

from iii_anyio import ConnectionLostError, InvocationError, Worker
from tests.contract.providers import Bindings
from tests.contract.targets import Target, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def passing(iii: Worker, *states: str) -> AsyncGenerator[None]:
    """At the block's end, wait until the worker has been in these states, in this order."""
    left = list(states)
    done = anyio.Event()

    def listen(state: str) -> None:
        if left and state == left[0]:
            left.pop(0)
        if not left:
            done.set()

    remove = iii.add_connection_state_listener(listen)
    try:
        yield
        await done.wait()
    finally:
        remove()


@pytest.mark.parametrize("tell_engine", [True, False], ids=["reset", "half-open"])
async def test_a_worker_whose_link_was_lost_comes_back_with_all_it_had(target: Target, tell_engine: bool) -> None:
    """P-12, P-13, P-22, P-112, G-11, §6.5: also when the engine still believes in the old connection."""
    async with (
        target.open() as engine,
        engine.line() as line,
        engine.worker("other") as other,
        engine.worker("lost", line=line) as iii,
    ):
        iii.register_function(engine.id("f"), lambda data: data)
        iii.register_function(engine.id("events"), lambda data: data)
        trigger = iii.register_trigger("engine::workers-available", engine.id("events"), {})
        gone = iii.register_function(engine.id("gone"), lambda data: data)
        await iii.wait_ready()
        gone.unregister()
        first_id = iii.worker_id
        async with passing(iii, "disconnected", "reconnecting", "connected"):
            line.cut(tell_engine=tell_engine)
        await iii.wait_ready()
        assert iii.worker_id not in (None, first_id)
        assert await other.trigger_async(engine.id("f"), 1) == 1
        assert await iii.trigger_async(engine.id("f"), 2) == 2
        workers = await other.trigger_async("engine::workers::list", {"search": engine.id("lost")})
        assert [row["id"] for row in workers["workers"]] == [iii.worker_id]
        triggers = await other.trigger_async("engine::registered-triggers::list", {"function_id": engine.id("events")})
        assert [row["id"] for row in triggers["registered_triggers"]] == [trigger.id]
        assert not await engine.has_function(other, engine.id("gone"))


async def test_a_worker_survives_many_losses(target: Target) -> None:
    """P-12, P-22, P-23."""
    async with target.open() as engine, engine.line() as line, engine.worker(line=line) as iii:
        iii.register_function(engine.id("f"), lambda data: data)
        await iii.wait_ready()
        seen = {iii.worker_id}
        for number in range(5):
            async with passing(iii, "disconnected", "connected"):
                line.cut(tell_engine=number % 2 == 0)
            assert await iii.trigger_async(engine.id("f"), number) == number
            seen.add(iii.worker_id)
        assert len(seen) == 6


async def test_registrations_made_while_the_link_is_down_are_there_when_it_is_back(target: Target) -> None:
    """P-13, R-6."""
    async with target.open() as engine, engine.line() as line, engine.worker(line=line) as iii:
        ref = iii.register_function(engine.id("before"), lambda data: data)
        await iii.wait_ready()
        async with passing(iii, "disconnected"):
            line.cut()
        ref.unregister()
        iii.register_function(engine.id("while"), lambda data: data)
        await iii.wait_ready()
        assert await engine.has_function(iii, engine.id("while"))
        assert not await engine.has_function(iii, engine.id("before"))


async def test_pending_calls_fail_at_once_when_the_link_is_lost(target: Target) -> None:
    """R-7, §7.5."""
    async with target.open() as engine, engine.line() as line, engine.worker("callee") as callee:
        started, done = anyio.Event(), anyio.Event()

        async def hang(_data: Any) -> None:
            started.set()
            await done.wait()

        callee.register_function(engine.id("hang"), hang)
        await callee.wait_ready()
        async with engine.worker("caller", line=line) as caller:
            failures: list[ConnectionLostError] = []

            async def call() -> None:
                with pytest.raises(ConnectionLostError) as caught:
                    await caller.trigger_async(engine.id("hang"), {}, timeout_ms=60_000)
                failures.append(caught.value)

            async with create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(call)
                await started.wait()
                line.cut()
            assert [(error.code, error.may_have_run) for error in failures] == [("CONNECTION_LOST", True)] * 10
            done.set()


async def test_a_call_made_while_the_link_is_down_is_answered_when_it_is_back(target: Target) -> None:
    """P-36, R-6."""
    async with target.open() as engine, engine.line() as line, engine.worker("callee") as callee:
        callee.register_function(engine.id("echo"), lambda data: data)
        await callee.wait_ready()
        async with engine.worker("caller", line=line) as caller:
            await caller.wait_ready()
            async with passing(caller, "disconnected"):
                line.cut()
            assert caller.get_connection_state() != "connected"
            assert await caller.trigger_async(engine.id("echo"), 7) == 7


async def test_the_callers_of_a_lost_worker_are_answered_invocation_stopped(target: Target) -> None:
    """P-123, P-45, §7.5."""
    async with target.open() as engine, engine.line() as line, engine.worker("caller") as caller:
        started, may_go_on, has_run = anyio.Event(), anyio.Event(), anyio.Event()

        async def hang(_data: Any) -> str:
            started.set()
            await may_go_on.wait()
            has_run.set()
            return "late"

        async with engine.worker("callee", line=line) as callee:
            callee.register_function(engine.id("hang"), hang)
            callee.register_function(engine.id("echo"), lambda data: data)
            await callee.wait_ready()
            async with create_task_group() as tasks, passing(callee, "disconnected", "connected"):

                async def call() -> None:
                    with pytest.raises(InvocationError) as caught:
                        await caller.trigger_async(engine.id("hang"), {}, timeout_ms=60_000)
                    assert caught.value.code == "invocation_stopped"

                tasks.start_soon(call)
                await started.wait()
                line.cut()
            # The handler finishes; its result belongs to the lost link and is sent on no other.
            may_go_on.set()
            await has_run.wait()
            assert await caller.trigger_async(engine.id("echo"), 1) == 1


async def test_a_handler_whose_caller_was_lost_finishes_and_its_worker_goes_on(target: Target) -> None:
    """P-123, G-5, E-27: the engine forgets the call."""
    async with target.open() as engine, engine.line() as line, engine.worker("callee") as callee:
        started, may_go_on, has_run = anyio.Event(), anyio.Event(), anyio.Event()

        async def slow(_data: Any) -> None:
            started.set()
            await may_go_on.wait()
            has_run.set()

        callee.register_function(engine.id("slow"), slow)
        await callee.wait_ready()
        async with engine.worker("caller", line=line) as caller:
            async with create_task_group() as tasks:

                async def call() -> None:
                    with pytest.raises(ConnectionLostError):
                        await caller.trigger_async(engine.id("slow"), {})

                tasks.start_soon(call)
                await started.wait()
                line.cut()

            async def is_forgotten() -> bool:
                listed = await callee.trigger_async("engine::workers::list", {"search": engine.id("callee")})
                return listed["workers"][0]["active_invocations"] == 1  # this question

            await until(is_forgotten)
            may_go_on.set()
            await has_run.wait()
            assert await caller.trigger_async(engine.id("slow"), {}) is None


async def test_a_worker_that_leaves_in_order_delivers_the_results_of_running_handlers(target: Target) -> None:
    """R-8, §6.8."""
    async with target.open() as engine, engine.worker("caller") as caller:
        started, may_go_on = anyio.Event(), anyio.Event()

        async def slow(_data: Any) -> str:
            started.set()
            await may_go_on.wait()
            return "done"

        async with create_task_group() as tasks:

            async def call() -> None:
                assert await caller.trigger_async(engine.id("slow"), {}) == "done"

            async with engine.worker("callee") as callee:
                callee.register_function(engine.id("slow"), slow)
                await callee.wait_ready()
                tasks.start_soon(call)
                await started.wait()
                tasks.start_soon(callee.shutdown_async)
                may_go_on.set()


async def test_a_provider_that_comes_back_is_given_its_bindings_again(target: Target) -> None:
    """P-50, P-126, §9.4."""
    bindings = Bindings()
    async with (
        target.open() as engine,
        engine.line() as line,
        engine.worker("registrant") as registrant,
        engine.worker("provider", line=line) as provider,
    ):
        provider.register_trigger_type(engine.id("type"), "d", bindings)
        await provider.wait_ready()
        trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
        await bindings.expect("bind", trigger.id)
        line.cut()
        await bindings.expect("bind", trigger.id)
        trigger.unregister()
        await bindings.expect("unbind", trigger.id)


async def test_the_triggers_of_a_lost_registrant_are_unbound_and_bound_again_when_it_is_back(target: Target) -> None:
    """P-13, P-128, T-7, §9.4."""
    bindings = Bindings()
    async with target.open() as engine, engine.line() as line, engine.worker("provider") as provider:
        provider.register_trigger_type(engine.id("type"), "d", bindings)
        await provider.wait_ready()
        async with engine.worker("registrant", line=line) as registrant:
            trigger = registrant.register_trigger(engine.id("type"), engine.id("f"), {})
            await bindings.expect("bind", trigger.id)
            line.cut()
            await bindings.expect("unbind", trigger.id)
            await bindings.expect("bind", trigger.id)
        await bindings.expect("unbind", trigger.id)
