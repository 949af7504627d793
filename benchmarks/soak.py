"""Minutes of calls through a network that breaks at random, and an engine that is killed now and then.

    make soak ARGS="10"              ten minutes with a fresh seed
    make soak ARGS="1 --seed 7"      one minute, again the same faults

Two workers call each other's functions, each over a ``FaultProxy`` of its own. Counted is what was called and what came
of it; at the end, when everything is calm, the engine must know both workers as they are, and nothing may be left over:
calls, tasks, threads, handles, memory. Then come 100,000 invocations of a worker with room for 110 (``--flood 0``
leaves them out). Prints a table, writes ``benchmarks/results/soak.json``, and exits with 1 when something was lost.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import anyio
from anyio import CancelScope, create_task_group
from anyio.abc import Process, TaskStatus
from anyio.streams.text import TextReceiveStream

from iii_anyio import (
    HeartbeatOptions,
    InitOptions,
    InvocationError,
    Limits,
    ReconnectionConfig,
    Worker,
    open_worker,
)
from iii_anyio.devengine import open_engine
from iii_anyio.testing import FaultProxy

RESULT = Path(__file__).parent / "results" / "soak.json"
CALLERS = 10
"""Tasks that call, of each worker."""
WARM_UP = 10.0
"""Seconds until the first look at memory and handles, at most a tenth of the whole."""
REMEMBERED = 100_000
"""Invocations whose ids are kept, to notice one that runs twice."""

ENGINE = """
import anyio, logging, sys
from iii_anyio.devengine import open_engine

async def main():
    async with open_engine(port=int(sys.argv[1]), http_port=None, stream_port=None):
        print("up", flush=True)
        await anyio.sleep_forever()

logging.disable()
anyio.run(main)
"""


class Engine:
    """An engine in a process of its own, which can be killed."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.kills = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._process = await anyio.open_process([sys.executable, "-c", ENGINE, str(self.port)], stderr=None)
        assert self._process.stdout is not None
        try:
            await TextReceiveStream(self._process.stdout).receive()
        except anyio.EndOfStream:
            raise SystemExit("the engine did not start; its process says why") from None

    async def kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(ProcessLookupError):
                process.kill()
            await process.aclose()


class Counts:
    """What was called, and what came of it."""

    def __init__(self) -> None:
        self.made = 0
        self.answered = 0
        self.wrong = 0
        self.failed: Counter[str] = Counter()
        self.ran = 0
        self.ran_twice = 0
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    @property
    def lost(self) -> int:
        """Calls that have not ended, when all have had the time to."""
        return self.made - self.answered - self.wrong - sum(self.failed.values())

    def note_run(self, n: int) -> None:
        self.ran += 1
        self.ran_twice += n in self._seen
        self._seen.add(n)
        self._order.append(n)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())


def register(iii: Worker, name: str, counts: Counts) -> None:
    """Functions of every kind."""

    async def echo(data: dict[str, Any]) -> Any:
        counts.note_run(data["n"])
        return data["n"]

    async def slow(data: dict[str, Any]) -> Any:
        counts.note_run(data["n"])
        await anyio.sleep(0.02)
        return data["n"]

    async def fail(data: dict[str, Any]) -> None:
        counts.note_run(data["n"])
        raise InvocationError("AS_ASKED", "a failure of the handler")

    def blocking(data: dict[str, Any]) -> Any:
        return data["n"]

    for function in (echo, slow, fail, blocking):
        iii.register_function(f"{name}::{function.__name__}", function)


async def call_on(iii: Worker, other: str, counts: Counts, source: random.Random, over: anyio.Event) -> None:
    """Call one function after the other until it is over."""
    while not over.is_set():
        counts.made += 1
        n = counts.made
        function = source.choice(["echo", "echo", "echo", "slow", "blocking", "fail"])
        payload = {"n": n, "pad": "x" * source.choice([10, 10, 1000, 50_000])}
        try:
            answer = await iii.trigger_async(f"{other}::{function}", payload, timeout_ms=2000)
        except InvocationError as exc:
            counts.failed[exc.code] += 1
        else:
            counts.answered += answer == n
            counts.wrong += answer != n
        await anyio.sleep(source.random() * 0.1)


def look() -> dict[str, float]:
    """What this process holds."""
    gc.collect()
    held: dict[str, float] = {"threads": threading.active_count()}
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held["memory_mib"] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
        held["handles"] = len(list(Path("/proc/self/fd").iterdir()))
    return held


@asynccontextmanager
async def connected(engine: Engine, counts: Counts, seed: int) -> AsyncIterator[tuple[list[Worker], list[FaultProxy]]]:
    """Both workers, each behind a proxy."""
    async with AsyncExitStack() as stack:
        workers: list[Worker] = []
        proxies: list[FaultProxy] = []
        for number, name in enumerate(("left", "right")):
            proxy = await stack.enter_async_context(FaultProxy(engine.url, seed=seed + number))
            options = InitOptions(
                name,
                handle_signals=False,
                reconnection_config=ReconnectionConfig(initial_delay_ms=50, max_delay_ms=1000),
                heartbeat=HeartbeatOptions(interval=1.0, pong_timeout=1.0, idle_timeout=5.0),
                connect_timeout=2.0,
            )
            iii = await stack.enter_async_context(open_worker(proxy.url, options))
            register(iii, name, counts)
            workers.append(iii)
            proxies.append(proxy)
        yield workers, proxies


async def kill_now_and_then(engine: Engine, seed: int, every: float) -> None:
    source = random.Random(seed)
    while True:
        await anyio.sleep(source.expovariate(1 / every))
        with CancelScope(shield=True):  # never half-way
            await engine.kill()
            engine.kills += 1
            await anyio.sleep(source.random())
            await engine.start()


async def soak(minutes: float, seed: int) -> dict[str, Any]:
    engine, counts, over = Engine(), Counts(), anyio.Event()
    seconds = minutes * 60
    await engine.start()
    try:
        async with connected(engine, counts, seed) as (workers, proxies):
            for iii in workers:
                await iii.wait_ready()
            source, start = random.Random(seed), look()
            async with create_task_group() as callers:
                for iii, other in zip(workers, ("right", "left"), strict=True):
                    for _ in range(CALLERS):
                        callers.start_soon(call_on, iii, other, counts, random.Random(source.random()), over)
                await anyio.sleep(min(WARM_UP, seconds / 10))
                start = look()
                async with create_task_group() as faults:
                    for number, proxy in enumerate(proxies):
                        faults.start_soon(_storm, proxy, seed + number)
                    faults.start_soon(kill_now_and_then, engine, seed, 30.0)
                    await anyio.sleep(seconds)
                    faults.cancel_scope.cancel()
                for proxy in proxies:
                    proxy.calm()
                await anyio.sleep(3)  # with the last faults noticed and behind us
                over.set()
            for iii in workers:
                await iii.wait_ready()
            known = await workers[0].trigger_async("engine::functions::list", {})
            names = sorted(row["function_id"] for row in known["functions"])
            names = [name for name in names if name.startswith(("left::", "right::"))]
            end = look()
            reconnects = sum(proxy.accepted for proxy in proxies) - len(proxies)
            log = Counter(fault.partition(" ")[0] for proxy in proxies for fault in proxy.log)
    finally:
        with CancelScope(shield=True):
            await engine.kill()
    return {
        "seed": seed,
        "minutes": minutes,
        "calls": {
            "made": counts.made,
            "answered": counts.answered,
            "answered_wrongly": counts.wrong,
            "failed": dict(sorted(counts.failed.items())),
            "lost": counts.lost,
        },
        "invocations": {"ran": counts.ran, "ran_twice": counts.ran_twice},
        "faults": {**dict(sorted(log.items())), "engine killed": engine.kills},
        "reconnects": reconnects,
        "functions_known_at_the_end": len(names),
        "functions_registered": 8,
        "start": start,
        "end": end,
    }


async def _storm(proxy: FaultProxy, seed: int) -> None:
    await proxy.storm(seed=seed, every=2.0)


async def flood(calls: int) -> dict[str, Any]:
    """Far more invocations at once than a worker takes."""
    before, counted, most = look(), Counter[str](), 0.0
    limits = Limits(max_concurrency=10, backlog=100)
    running = peak = 0
    async with (
        open_engine(port=None, http_port=None, stream_port=None) as engine,
        open_worker(options=InitOptions("caller"), connector=engine.connector()) as caller,
        open_worker(options=InitOptions("callee", limits=limits), connector=engine.connector()) as callee,
    ):

        async def work(_: Any) -> None:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await anyio.sleep(0.001)
            running -= 1

        async def call(times: int) -> None:
            for _ in range(times):
                try:
                    await caller.trigger_async("work", {})
                    counted["answered"] += 1
                except InvocationError as exc:
                    counted[exc.code] += 1

        async def watch(*, task_status: TaskStatus[None]) -> None:
            nonlocal most
            task_status.started()
            while True:
                most = max(most, look().get("memory_mib", 0.0))
                await anyio.sleep(0.5)

        callee.register_function("work", work)
        await callee.wait_ready()
        await caller.wait_ready()
        began = time.monotonic()
        async with create_task_group() as tasks:
            await tasks.start(watch)
            async with create_task_group() as callers:
                for _ in range(1000):
                    callers.start_soon(call, calls // 1000)
            tasks.cancel_scope.cancel()
        took = time.monotonic() - began
    return {
        "calls": calls // 1000 * 1000,
        "outcomes": dict(counted),
        "handlers_at_once": peak,
        "seconds": round(took, 1),
        "memory_mib_before": before.get("memory_mib"),
        "memory_mib_most": most or None,
    }


def show(result: dict[str, Any], indent: str = "") -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent + name:44} {value}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description="Minutes of calls through a network that breaks.")
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--flood", type=int, default=100_000, metavar="CALLS")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    backend: Literal["asyncio", "trio"] = given.backend
    logging.getLogger("iii_anyio").setLevel(logging.ERROR)
    print(f"seed {given.seed}, {given.minutes:g} minutes, {backend}", flush=True)
    result = {"backend": backend, **anyio.run(soak, given.minutes, given.seed, backend=backend)}
    if given.flood:
        result["flood"] = anyio.run(flood, given.flood, backend=backend)
    show(result)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    calls = result["calls"]
    is_sound = (
        calls["lost"] == calls["answered_wrongly"] == result["invocations"]["ran_twice"] == 0
        and result["functions_known_at_the_end"] == result["functions_registered"]
    )
    print("sound" if is_sound else "NOT SOUND")
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
