"""More than a worker can take: it stays within its bounds, says so, and goes on with everything else.

How fast and how large is measured by ``benchmarks/soak.py``; here it is counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from iii_anyio import InvocationError, Limits, Worker
from tests.api.workers import two_workers
from tests.reliability.links import linked

pytestmark = pytest.mark.anyio


async def outcomes(caller: Worker, function_id: str, payloads: range, **options: Any) -> Counter[str]:
    """Make all of these calls at once; count what they came to."""
    counted: Counter[str] = Counter()

    async def call(n: int) -> None:
        try:
            assert await caller.trigger_async(function_id, n, **options) == n
            counted["ok"] += 1
        except InvocationError as exc:
            counted[exc.code] += 1

    async with create_task_group() as tasks:
        for n in payloads:
            tasks.start_soon(call, n)
    return counted


async def test_10_000_calls_pending_at_once_each_get_their_own_answer() -> None:
    async with two_workers(limits=Limits(max_concurrency=10_000)) as (caller, callee):
        go, running = anyio.Event(), 0

        async def hold(n: int) -> int:
            nonlocal running
            running += 1
            if running == 10_000:
                go.set()
            await go.wait()
            return n

        callee.register_function("hold", hold, validate=False)
        await callee.wait_ready()
        await caller.wait_ready()
        assert await outcomes(caller, "hold", range(10_000), timeout_ms=100_000) == {"ok": 10_000}


async def test_a_burst_of_calls_of_a_sync_handler_with_few_threads() -> None:
    async with two_workers(limits=Limits(max_threads=4)) as (caller, callee):
        callee.register_function("same", lambda n: n)
        await callee.wait_ready()
        await caller.wait_ready()
        assert await outcomes(caller, "same", range(3000)) == {"ok": 3000}


async def test_sync_handlers_nested_200_deep_need_no_more_threads_than_the_limit_lets_them_lend() -> None:
    async with two_workers(limits=Limits(max_threads=2)) as (caller, callee):

        def deeper(n: int) -> int:
            return 0 if n == 0 else 1 + callee.trigger("deeper", n - 1, dispatch="remote")

        callee.register_function("deeper", deeper)
        await callee.wait_ready()
        await caller.wait_ready()
        assert await caller.trigger_async("deeper", 200) == 200


async def test_a_flood_is_answered_overloaded_beyond_the_backlog_and_other_functions_go_on() -> None:
    limits = Limits(max_concurrency=8, backlog=100)
    async with two_workers(limits=limits) as (caller, callee):
        go, most, running = anyio.Event(), 0, 0

        async def slow(n: int) -> int:
            nonlocal most, running
            running += 1
            most = max(most, running)
            await go.wait()
            running -= 1
            return n

        callee.register_function("slow", slow, validate=False)
        caller.register_function("beside", lambda data: data)
        await callee.wait_ready()
        await caller.wait_ready()
        counted: list[Counter[str]] = []
        async with create_task_group() as tasks:

            async def flood() -> None:
                counted.append(await outcomes(caller, "slow", range(5000)))

            tasks.start_soon(flood)
            await anyio.wait_all_tasks_blocked()
            assert await callee.trigger_async("beside", "yes") == "yes"
            with pytest.raises(InvocationError) as caught:
                await caller.trigger_async("slow", 0)
            assert caught.value.code == "worker_overloaded"
            go.set()
        assert counted == [{"ok": 108, "worker_overloaded": 4892}]
        assert most == 8
        assert await caller.trigger_async("slow", 7) == 7


async def test_a_handler_that_floods_its_own_worker_gets_every_answer_and_blocks_nobody() -> None:
    async with two_workers(limits=Limits(max_concurrency=4, backlog=50)) as (caller, callee):

        async def work(n: int) -> int:
            await checkpoint()
            return n

        async def flood(n: int) -> dict[str, int]:
            return dict(await outcomes(callee, "work", range(n), dispatch="remote"))

        callee.register_function("work", work, validate=False)
        callee.register_function("flood", flood, validate=False)
        await callee.wait_ready()
        await caller.wait_ready()
        counted = await caller.trigger_async("flood", 2000)
        assert sum(counted.values()) == 2000
        assert set(counted) <= {"ok", "worker_overloaded"}
        assert await caller.trigger_async("work", 1) == 1


async def test_a_handler_that_calls_many_at_once_lends_only_its_own_place() -> None:
    async with two_workers(limits=Limits(max_concurrency=4)) as (caller, callee):
        running = most = 0

        async def work(n: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(0.001)
            running -= 1
            return n

        async def flood(n: int) -> int:
            return (await outcomes(callee, "work", range(n), dispatch="remote"))["ok"]

        callee.register_function("work", work, validate=False)
        callee.register_function("flood", flood, validate=False)
        await callee.wait_ready()
        await caller.wait_ready()
        assert await caller.trigger_async("flood", 100) == 100
        assert most <= 4


async def test_a_handler_that_never_returns_costs_one_place_and_its_caller_a_timeout() -> None:
    async with two_workers(limits=Limits(max_concurrency=2), shutdown_timeout=0.05) as (caller, callee):
        callee.register_function("never", lambda _: anyio.sleep_forever(), execution="async")
        callee.register_function("same", lambda n: n, execution="async")
        await callee.wait_ready()
        await caller.wait_ready()
        with pytest.raises(InvocationError) as caught:
            await caller.trigger_async("never", {}, timeout_ms=20)
        assert caught.value.code == "TIMEOUT"
        assert await outcomes(caller, "same", range(100)) == {"ok": 100}


async def test_an_engine_that_reads_slowly_makes_calls_wait_and_loses_none() -> None:
    async with linked("socket", seconds=30) as there:
        there.faults.bytes_per_second = 20_000_000
        text = "x" * 100_000
        done = 0

        async def call(n: int) -> None:
            nonlocal done
            assert await there.iii.trigger_async("other::echo", f"{n}{text}") == f"{n}{text}"
            done += 1

        async with create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(call, n)
        assert done == 50
        assert there.faults.accepted == 1


async def test_calls_made_while_offline_go_out_in_their_order_and_those_that_expired_never() -> None:
    async with linked("wire") as there:
        sent: list[int] = []
        codes: Counter[str] = Counter()

        async def note(n: int) -> None:
            sent.append(n)

        async def call(n: int) -> None:
            try:
                await there.iii.trigger_async("note", n, timeout_ms=10 if n % 2 else 10_000)
            except InvocationError as exc:
                codes[exc.code] += 1

        there.other.register_function("note", note, validate=False, concurrency=1)
        await there.other.wait_ready()
        there.faults.refuse()
        there.faults.eof()
        await there.lost()
        async with create_task_group() as tasks:
            for n in range(200):
                tasks.start_soon(call, n)
                await checkpoint()  # each in its turn
            while codes.total() < 100:
                await checkpoint()
            there.faults.accept()
        assert codes == {"TIMEOUT": 100}
        assert sent == list(range(0, 200, 2))
