"""Methods of earlier releases that are still there (B.4)."""

from __future__ import annotations

from typing import Any

import pytest
from anyio import to_thread

from iii_anyio import EncodeError, ShutdownError
from iii_anyio.introspection import RegisterServiceInput
from tests.api.scripted import ScriptedEngine, native

pytestmark = pytest.mark.anyio


async def test_a_service_is_declared_in_every_form_and_again_on_each_link() -> None:
    engine = ScriptedEngine()
    async with native(engine) as iii:
        await iii.wait_ready()
        iii.register_service("a")
        iii.register_service("b", "of b", "a")
        iii.register_service({"id": "c", "name": "C", "description": "of c"})
        iii.register_service(RegisterServiceInput(id="d", parent_service_id="a"))
        expected = [
            {"type": "registerservice", "id": "a", "name": "a"},
            {"type": "registerservice", "id": "b", "name": "b", "description": "of b", "parent_service_id": "a"},
            {"type": "registerservice", "id": "c", "name": "C", "description": "of c"},
            {"type": "registerservice", "id": "d", "name": "d", "parent_service_id": "a"},
        ]
        await engine.wait("registerservice", 4)
        assert engine.got("registerservice") == expected
        await engine.drop()
        await engine.wait("registerservice", 8)
        assert engine.got("registerservice")[4:] == expected
        iii.register_service("a", "anew")
        assert (await engine.wait("registerservice", 9))["description"] == "anew"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(({},), ValueError), ((5,), TypeError), (({"id": "a"}, "description"), TypeError), ((), TypeError)],
)
async def test_a_service_that_is_none_is_refused(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    async with native(ScriptedEngine()) as iii:
        with pytest.raises(error):
            iii.register_service(*arguments)


async def test_a_void_call_by_its_old_names_works_on_the_loop_and_on_threads() -> None:
    engine = ScriptedEngine()
    async with native(engine) as iii:
        await iii.wait_ready()
        iii.trigger_void("f", {"n": 1})
        await to_thread.run_sync(iii.call_void, "f")
        await engine.wait("invokefunction", 2, function_id="f")
        wanted = {"type": "invokefunction", "function_id": "f", "action": {"type": "void"}}
        assert engine.calls() == [wanted | {"data": {"n": 1}}, wanted | {"data": None}]
        with pytest.raises(EncodeError):
            iii.trigger_void("f", object())
    with pytest.raises(ShutdownError):
        iii.trigger_void("f")


async def test_a_void_call_of_a_function_in_this_worker_stays_here() -> None:
    """A.11."""
    engine = ScriptedEngine()
    seen: list[Any] = []
    async with native(engine) as iii:
        iii.register_function("f", seen.append)
        await iii.wait_ready()
        iii.trigger_void("f", [1])
    assert (seen, engine.calls()) == ([[1]], [])


async def test_connecting_by_hand_is_harmless() -> None:
    """``connect_async``: on any loop, as often as you like, but not after the end."""
    async with native(ScriptedEngine()) as iii:
        await iii.connect_async()
        await iii.wait_ready()
        await iii.connect_async()
    with pytest.raises(ShutdownError):
        await iii.connect_async()
