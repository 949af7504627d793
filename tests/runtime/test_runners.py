"""Reused tasks: order, isolation, and that nobody is held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, TypeAlias

import anyio
import pytest
from anyio import create_task_group, fail_after, get_current_task
from anyio.lowlevel import checkpoint, current_token

from iii_anyio._runtime.runners import Runners
from iii_anyio._wire.backend import backend_of

pytestmark = pytest.mark.anyio

Job: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
seen: ContextVar[str] = ContextVar("seen", default="opener")


@asynccontextmanager
async def running() -> AsyncGenerator[Runners[Job]]:
    async def run(job: Job) -> None:
        await job()

    with fail_after(20):
        async with create_task_group() as group:
            runners: Runners[Job] = Runners(backend_of(current_token()), run, lambda: None)
            runners.open(group, copy_context())
            yield runners
            runners.close()
            group.cancel_scope.cancel()


async def test_jobs_that_do_not_wait_share_a_task_and_keep_their_order() -> None:
    order: list[int] = []
    tasks: set[int] = set()
    done = anyio.Event()

    def job(number: int) -> Job:
        async def run() -> None:
            order.append(number)
            tasks.add(get_current_task().id)
            if number == 199:
                done.set()

        return run

    async with running() as runners:
        for number in range(200):
            runners.put(job(number))
        await done.wait()
    assert order == list(range(200))
    assert len(tasks) == 1


async def test_a_job_that_waits_holds_up_nobody() -> None:
    go_on, second = anyio.Event(), anyio.Event()
    ended: list[str] = []

    async def waits() -> None:
        await go_on.wait()
        ended.append("first")

    async def follows() -> None:
        ended.append("second")
        second.set()

    async with running() as runners:
        runners.put(waits)
        runners.put(follows)
        await second.wait()
        go_on.set()
        await anyio.wait_all_tasks_blocked()
        assert ended == ["second", "first"]


async def test_what_a_job_sets_in_its_context_is_gone_with_it() -> None:
    values: list[str] = []
    done = anyio.Event()

    async def first() -> None:
        values.append(seen.get())
        seen.set("first")
        await checkpoint()
        values.append(seen.get())
        done.set()

    async with running() as runners:
        for _ in range(2):
            done = anyio.Event()
            runners.put(first)
            await done.wait()
    assert values == ["opener", "first"] * 2
    assert seen.get() == "opener"


async def test_tasks_that_a_job_starts_see_its_context() -> None:
    values: list[str] = []
    done = anyio.Event()

    async def child() -> None:
        values.append(seen.get())

    async def parent() -> None:
        seen.set("parent")
        async with create_task_group() as group:
            group.start_soon(child)
        await anyio.to_thread.run_sync(lambda: values.append(seen.get()))
        done.set()

    async with running() as runners:
        runners.put(parent)
        await done.wait()
    assert values == ["parent", "parent"]


async def test_jobs_that_never_wait_do_not_starve_the_loop() -> None:
    ran = 0
    is_stopped = False

    async with running() as runners:

        async def again() -> None:
            nonlocal ran
            ran += 1
            if not is_stopped:
                runners.put(again)

        runners.put(again)
        for _ in range(5):
            await checkpoint()
        assert ran > 5
        is_stopped = True


async def test_scopes_and_exceptions_stay_inside_a_job() -> None:
    results: list[object] = []
    done = anyio.Event()

    async def limited() -> None:
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        results.append(scope.cancelled_caught)
        try:
            with fail_after(0):
                await anyio.sleep_forever()
        except TimeoutError:
            results.append("timeout")
        done.set()

    async with running() as runners:
        for _ in range(2):
            done = anyio.Event()
            runners.put(limited)
            await done.wait()
    assert results == [True, "timeout"] * 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_job_that_leaves_its_task_cancelled_takes_only_its_runner_with_it() -> None:
    """asyncio counts cancellations of a task; one that nobody took back would hit the next job's timeouts."""
    counts: list[int] = []
    done = anyio.Event()

    async def spoils() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

    async def follows() -> None:
        task = asyncio.current_task()
        assert task is not None
        counts.append(task.cancelling())
        done.set()

    async with running() as runners:
        for _ in range(3):
            done = anyio.Event()
            runners.put(spoils)
            runners.put(follows)
            await done.wait()
    assert counts == [0, 0, 0]


async def test_what_has_not_begun_is_given_back() -> None:
    async def never() -> None:
        raise AssertionError

    with fail_after(20):
        async with create_task_group() as group:

            async def run(job: Job) -> None:
                await job()

            runners: Runners[Job] = Runners(backend_of(current_token()), run, lambda: None)
            runners.open(group, copy_context())
            runners.put(never)
            runners.put(never)
            assert runners.close() == [never, never]
            await checkpoint()


async def test_many_jobs_at_once_leave_few_idle_tasks() -> None:
    gate = anyio.Event()
    left = 500
    done = anyio.Event()

    async def waits() -> None:
        nonlocal left
        await gate.wait()
        left -= 1
        if not left:
            done.set()

    async with running() as runners:
        before = len(anyio.get_running_tasks())
        for _ in range(500):
            runners.put(waits)
        await anyio.wait_all_tasks_blocked()
        assert len(anyio.get_running_tasks()) - before == 500
        gate.set()
        await done.wait()
        await anyio.wait_all_tasks_blocked()
        assert len(anyio.get_running_tasks()) - before <= 64
