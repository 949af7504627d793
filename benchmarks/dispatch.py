"""Dispatch and calls without a socket: what one invocation, and one call, costs a worker.

    python -m benchmarks.dispatch

The other side is a script in the same process; what it takes itself is measured alone and taken off.
"""

from __future__ import annotations

import time
from typing import Any

import anyio

from iii_anyio import InitOptions, open_worker

from ._scripted import ScriptedEngine, cost_of_script
from ._timing import Row, show

CALLS = 10_000
SIZE = 180
BACKENDS = ("asyncio", "uvloop", "trio")


async def plain(data: Any) -> Any:
    """An async handler that does not wait."""
    return data


def in_thread(data: Any) -> Any:
    """A sync handler."""
    return data


async def flood(handler: Any, in_flight: int, calls: int) -> float:
    """CPU microseconds an invocation."""
    options = InitOptions(handle_signals=False)
    async with open_worker("direct", options, connector=ScriptedEngine()) as iii:
        iii.register_function("bench::serve", handler)
        await iii.wait_ready()
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            payload = {"calls": calls, "in_flight": in_flight, "size": SIZE}
            await iii.trigger_async({"function_id": "bench::flood", "payload": payload, "timeout_ms": 120_000})
            best = min(best, time.process_time() - start)
        return best / calls * 1e6


async def calling(in_flight: int, calls: int) -> float:
    """CPU microseconds a call."""
    async with open_worker("direct", InitOptions(handle_signals=False), connector=ScriptedEngine()) as iii:
        await iii.wait_ready()
        request = {"function_id": "bench::echo", "payload": {"text": "x" * SIZE}}
        best = float("inf")
        for _ in range(3):
            left = calls

            async def one() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await iii.trigger_async(request)

            start = time.process_time()
            async with anyio.create_task_group() as group:
                for _ in range(in_flight):
                    group.start_soon(one)
            best = min(best, time.process_time() - start)
        return best / calls * 1e6


def measure() -> list[Row]:
    """On each loop."""
    rows: list[Row] = []
    script = cost_of_script(SIZE)
    for kind in BACKENDS:
        backend = "trio" if kind == "trio" else "asyncio"
        options = {"use_uvloop": True} if kind == "uvloop" else {}

        def run(function: Any, *args: Any, backend: str = backend, options: dict[str, Any] = options) -> float:
            return anyio.run(function, *args, backend=backend, backend_options=options)

        rows += [
            Row("dispatch", f"call, 64 in flight, {kind}", run(calling, 64, CALLS) - script),
            Row("dispatch", f"call, one after another, {kind}", run(calling, 1, CALLS // 4) - script),
            Row("dispatch", f"invocation, 64 in flight, {kind}", run(flood, plain, 64, CALLS) - script),
            Row("dispatch", f"invocation, one after another, {kind}", run(flood, plain, 1, CALLS // 4) - script),
            Row(
                "dispatch", f"invocation of a sync handler, 16, {kind}", run(flood, in_thread, 16, CALLS // 4) - script
            ),
        ]
    return rows


if __name__ == "__main__":
    show(measure())
