"""Handlers in processes of their own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after

from iii_anyio import InvocationError, Limits
from tests.api import crunching
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


async def test_a_handler_in_a_process_gets_its_model_and_metadata_and_answers_as_any_other() -> None:
    async with two_workers(limits=Limits(max_processes=1)) as (caller, iii):
        iii.register_function("divide", crunching.divide, execution="process")
        iii.register_function("die", crunching.die, execution="process")
        iii.register_function("interrupts", crunching.interrupts, execution="process")
        await iii.wait_ready()

        answer = await caller.trigger_async("divide", {"of": 6, "by": 3}, metadata={"m": 1})
        assert (answer["result"], answer["metadata"]) == (2, {"m": 1})
        assert answer["pid"] != os.getpid()
        again = await caller.trigger_async("divide", {"of": 1})
        assert again["pid"] == answer["pid"]  # kept for the next call

        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async("divide", {"of": "six"})
        assert caught.value.code == "invalid_payload"
        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async("divide", {"of": 6, "by": -1})
        assert (caught.value.code, caught.value.message) == ("negative", "by is below 0")
        with pytest.raises(InvocationError, match="division by zero"):
            await caller.trigger_async("divide", {"of": 6, "by": 0})
        assert await caller.trigger_async("interrupts") == "went on"  # Ctrl-C drains: what runs is to finish
        with pytest.raises(InvocationError, match="the process of 'die' ended before it had a result"):
            await caller.trigger_async("die")
        assert (await caller.trigger_async("divide", {"of": 6}))["result"] == 6


async def test_a_cancelled_handlers_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    async with two_workers(shutdown_timeout=0) as (caller, iii), create_task_group() as tasks:
        iii.register_function("sleep", crunching.sleep, execution="process")
        await iii.wait_ready()

        async def call() -> None:
            with pytest.raises(InvocationError):
                await caller.trigger_async("sleep", str(path))

        tasks.start_soon(call)
        with fail_after(20):
            while not (path.exists() and path.read_text("utf-8")):  # noqa: ASYNC110 - another process sets it
                await anyio.sleep(0.02)
            await iii.shutdown_async()
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text("utf-8")), 0)


class Callable:
    def __call__(self, data: Any) -> None: ...


def locally() -> Any:
    return lambda data: data


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (lambda data: data, "cannot be imported"),
        (locally(), "cannot be imported"),
        (type("Local", (Callable,), {})(), "cannot be imported"),
        (crunching.asks, "there is no worker"),
        (crunching.waits, "is async and cannot run in a process"),
    ],
)
async def test_a_handler_that_no_process_can_run_is_refused_at_registration(handler: Any, says: str) -> None:
    async with two_workers() as (_, iii):
        with pytest.raises(TypeError, match=says):
            iii.register_function("f", handler, execution="process")


async def test_what_can_be_imported_is_taken() -> None:
    async with two_workers() as (_, iii):
        iii.register_function("partial", partial(crunching.divide, metadata=None), execution="process")
        iii.function("decorated", execution="process")(crunching.divide)
        with pytest.raises(ValueError, match="'async', 'thread' or 'process'"):
            iii.register_function("f", crunching.divide, execution="fork")  # type: ignore[arg-type]
