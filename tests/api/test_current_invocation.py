"""``current_invocation()`` and what calls made inside a handler say about it (A.12, §5.3, P-58, P-66)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread

import iii_anyio
from iii_anyio import InvocationContext, current_invocation
from tests.api.scripted import ScriptedEngine, native, portal

pytestmark = pytest.mark.anyio

CALLER = {
    "worker_id": "w-9", "worker_name": "shop", "function_id": "a::b", "invocation_id": "i-1",
    "parent": {"worker_name": "front"},
}  # fmt: skip
ACTIVATION = {"observer_id": "o1", "activation_id": "a-1"}


async def test_async_and_sync_handlers_know_their_invocation() -> None:
    engine = ScriptedEngine()
    seen: list[InvocationContext | None] = []

    async def on_loop(data: Any) -> None:
        seen.append(current_invocation())

    def in_thread(data: Any) -> None:
        seen.append(iii.current_invocation())

    async with native(engine) as iii:
        for handler in (on_loop, in_thread):
            iii.register_function(handler.__name__, handler)
        await iii.wait_ready()
        for name in ("on_loop", "in_thread"):
            invocation_id = engine.invoke(name, {}, caller=CALLER, observe_depth=2, activation=ACTIVATION)
            await engine.wait("invocationresult", invocation_id=invocation_id)
            assert seen.pop() == InvocationContext(name, invocation_id, 2, CALLER, ACTIVATION)
        assert current_invocation() is None


async def test_a_call_made_in_a_handler_says_where_it_comes_from() -> None:
    engine = ScriptedEngine()
    engine.answers["other"] = lambda call: {"result": 1}

    async def handler(data: Any) -> None:
        await iii.trigger_async("other", 1)

    async with native(engine) as iii:
        iii.register_function("f", handler)
        await iii.wait_ready()
        first = engine.invoke("f", {}, caller=CALLER, observe_depth=3)
        call = await engine.wait("invokefunction", function_id="other")
        parent = {name: value for name, value in CALLER.items() if name != "parent"}  # one level only
        assert call["caller"] == {"function_id": "f", "invocation_id": first, "parent": parent}
        assert call["observe_depth"] == 3
        second = engine.invoke("f", {})
        call = await engine.wait("invokefunction", 2, function_id="other")
        assert call["caller"] == {"function_id": "f", "invocation_id": second}
        assert "observe_depth" not in call
        await engine.wait("invocationresult", invocation_id=second)


async def test_calls_outside_handlers_and_to_old_engines_say_nothing() -> None:
    engine = ScriptedEngine(features=None)
    engine.answers["other"] = lambda call: {"result": 1}

    async def handler(data: Any) -> None:
        await iii.trigger_async("other", 1)

    async with native(engine) as iii:
        iii.register_function("f", handler)
        await iii.wait_ready()
        engine.invoke("f", {}, caller=CALLER, observe_depth=3)
        call = await engine.wait("invokefunction", function_id="other")
        assert not {"caller", "observe_depth"} & set(call)
    engine = ScriptedEngine()
    engine.answers["other"] = lambda call: {"result": 1}
    async with native(engine) as iii:
        await iii.wait_ready()
        await iii.trigger_async("other", 1)
        assert not {"caller", "observe_depth"} & set(engine.calls()[0])


async def test_tasks_that_a_handler_starts_know_its_invocation() -> None:
    engine = ScriptedEngine()
    seen: list[InvocationContext | None] = []

    async def note() -> None:
        seen.append(iii_anyio.current_invocation())
        await to_thread.run_sync(lambda: seen.append(iii_anyio.current_invocation()))

    async def handler(data: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note)

    async with native(engine) as iii:
        iii.register_function("f", handler)
        await iii.wait_ready()
        invocation_id = engine.invoke("f", {})
        with fail_after(20):
            await engine.wait("invocationresult", invocation_id=invocation_id)
    assert [context and context.invocation_id for context in seen] == [invocation_id] * 2


def test_a_portal_workers_handlers_know_their_invocation() -> None:
    engine = ScriptedEngine()
    engine.answers["other"] = lambda call: {"result": {"n": 1}}

    def handler(data: Any) -> Any:
        context = iii.current_invocation()
        assert context is not None
        return [context.invocation_id, iii.trigger("other", 1)]

    with portal(engine) as iii:
        iii.register_function("f", handler)
        iii.wait_ready(30)
        invocation_id = engine.invoke("f", {}, observe_depth=1)
        answer = engine.wait_blocking("invocationresult", invocation_id=invocation_id)
        assert answer["result"] == [invocation_id, {"n": 1}]
        assert engine.calls()[0]["caller"] == {"function_id": "f", "invocation_id": invocation_id}
        assert engine.calls()[0]["observe_depth"] == 1
