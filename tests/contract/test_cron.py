"""Functions bound to ``cron`` triggers. What takes longer than a second is in ``tests/devengine/test_cron.py``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest

from iii_anyio import InvocationError
from tests.contract.targets import Target

pytestmark = pytest.mark.anyio


async def test_a_tick_tells_when_it_was_due_and_when_it_came(target: Target) -> None:
    """CR-1, CR-2, CR-8, T-12, T-15."""
    async with target.open() as engine, engine.worker() as iii:
        await engine.needs_trigger_type(iii, "cron")
        got: list[Any] = []
        came = anyio.Event()

        async def tick(data: Any, metadata: Any) -> None:
            got.append((data, metadata))
            came.set()

        iii.register_function(engine.id("tick"), tick)
        trigger = iii.register_trigger("cron", engine.id("tick"), {"expression": "* * * * * *"}, {"team": "a"})
        await came.wait()
        payload, metadata = got[0]
        assert payload.keys() == {"trigger", "job_id", "scheduled_time", "actual_time"}
        assert (payload["trigger"], payload["job_id"], metadata) == ("cron", trigger.id, {"team": "a"})
        due, actual = (datetime.fromisoformat(payload[key]) for key in ("scheduled_time", "actual_time"))
        assert due.utcoffset() == actual.utcoffset() == timedelta(0)
        assert due.microsecond == 0
        assert due <= actual
        assert "." not in payload["scheduled_time"]
        assert "." in payload["actual_time"]


REFUSED = (
    "* * * * *",
    "nonsense",
    "60 * * * * *",
    "* * * * * 0",
    "* * * * * 8",
    "* * * L * *",
    "5-1 * * * * *",
    "*/0 * * * * *",
    "@annually",
    "",
    None,
)
ACCEPTED = (
    "0 0 0 31 2 *",
    "0 0 0 1 1 ? 2001",
    "  0 0   0 1-5/2 JAN,february sun-sat/2 2099-2100 ",
    "@yearly",
)


async def test_an_expression_outside_the_grammar_refuses_the_trigger(target: Target) -> None:
    """CR-2, CR-3, CR-4, CR-5, CR-6, CR-11, T-8."""
    async with target.open() as engine, engine.worker() as iii:
        await engine.needs_trigger_type(iii, "cron")
        for expression in REFUSED:
            trigger = {"trigger_type": "cron", "function_id": engine.id("f"), "config": {"expression": expression}}
            with pytest.raises(InvocationError) as caught:
                await iii.trigger_async("engine::register_trigger", trigger)
            assert caught.value.code == "trigger_registration_failed"
            if expression:
                assert f"Invalid cron expression '{expression}'" in caught.value.message
            else:
                assert "required" in caught.value.message


async def test_an_expression_of_the_grammar_is_accepted(target: Target) -> None:
    """CR-4, CR-5, CR-6, CR-7, CR-10, T-8: also one that has no later time."""
    async with target.open() as engine, engine.worker() as iii:
        await engine.needs_trigger_type(iii, "cron")
        for expression in ACCEPTED:
            trigger = {"trigger_type": "cron", "function_id": engine.id("f"), "config": {"expression": expression}}
            made = await iii.trigger_async("engine::register_trigger", trigger)
            assert await iii.trigger_async("engine::unregister_trigger", {"id": made["id"]}) == {"removed": True}
