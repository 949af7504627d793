"""Many calls at once from an event loop that is not the worker's: they go over together, and none is left behind."""

from __future__ import annotations

import select
import socket
import threading
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, from_thread, to_thread
from anyio.lowlevel import checkpoint

from iii_anyio import InitOptions, InvocationError, Worker, open_worker
from iii_anyio.devengine import open_engine
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio

OTHERS = pytest.mark.parametrize("other", ["asyncio", "trio"])


def options(name: str) -> InitOptions:
    return InitOptions(worker_name=name, shutdown_timeout=0.1)


@OTHERS
async def test_each_of_many_tasks_gets_its_own_answer(other: str) -> None:
    async with two_workers() as (iii, callee):

        async def answer(data: int) -> int:
            return -data

        callee.register_function("negate", answer)
        await callee.wait_ready()
        got: dict[int, int] = {}

        async def call(number: int) -> None:
            for turn in range(3):
                got[1000 * turn + number] = await iii.trigger_async("negate", 1000 * turn + number)

        async def main() -> None:
            async with create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(call, number)

        await to_thread.run_sync(lambda: anyio.run(main, backend=other))
        assert got == {1000 * turn + number: -1000 * turn - number for turn in range(3) for number in range(100)}


@OTHERS
async def test_calls_cancelled_before_the_worker_came_to_them_are_never_sent(other: str) -> None:
    async with two_workers() as (iii, callee):
        seen: list[int] = []

        async def keep(data: int) -> None:
            seen.append(data)

        callee.register_function("keep", keep)
        await callee.wait_ready()
        is_blocked = threading.Event()
        may_go_on, goes_on = socket.socketpair()

        async def main() -> None:
            is_blocked.wait()
            async with create_task_group() as cancelled:
                for number in range(9):
                    cancelled.start_soon(iii.trigger_async, "keep", number)
                for _ in range(5):
                    await checkpoint()  # they wait for their answers, all of them handed over
                cancelled.cancel_scope.cancel()
            goes_on.send(b"!")
            await iii.trigger_async("keep", 99)

        has_thread = anyio.Event()

        def run() -> None:
            from_thread.run_sync(has_thread.set)
            anyio.run(main, backend=other)

        with may_go_on, goes_on:
            async with create_task_group() as tasks:
                tasks.start_soon(to_thread.run_sync, run)
                await has_thread.wait()
                is_blocked.set()
                select.select([may_go_on], [], [], 15)  # this loop, the worker's, has no turn meanwhile
        assert seen[-1] == 99
        assert len(seen) <= 2, "the first was alone when it was made, so it was written as soon as it arrived"


@OTHERS
async def test_the_end_of_the_worker_ends_every_call_that_waits_on_another_loop(other: str) -> None:
    with fail_after(20):
        async with (
            open_engine(port=None) as engine,
            open_worker(connector=engine.connector(), options=options("callee")) as callee,
        ):
            running = anyio.Semaphore(0)

            async def hang(_: Any) -> None:
                running.release()
                await anyio.sleep_forever()

            callee.register_function("hang", hang)
            await callee.wait_ready()
            errors: list[str] = []

            async def call(iii: Worker) -> None:
                try:
                    await iii.trigger_async("hang", None)
                except InvocationError as exc:
                    errors.append(exc.code)

            async def main(iii: Worker) -> None:
                async with create_task_group() as tasks:
                    for _ in range(50):
                        tasks.start_soon(call, iii)

            async with (
                create_task_group() as tasks,
                open_worker(connector=engine.connector(), options=options("caller")) as iii,
            ):
                tasks.start_soon(to_thread.run_sync, lambda: anyio.run(main, iii, backend=other))
                for _ in range(50):
                    await running.acquire()
            assert errors == ["CONNECTION_LOST"] * 50
