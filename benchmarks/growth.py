"""How costs grow: calls in flight, registered functions, payloads, threads; memory of each; import time.

    python -m benchmarks.growth

Linear or flat is what is wanted; ``run.py`` plots it.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import anyio

from iii_anyio import InitOptions, Limits, open_worker

from ._scripted import ScriptedEngine
from .end_to_end import Case, measure_one, standin

IN_FLIGHT = (1, 4, 16, 64, 256, 1_000, 4_000, 10_000)
FUNCTIONS = (1, 100, 1_000, 5_000, 20_000)
PAYLOADS = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 60_000_000)
THREADS = (1, 2, 4, 8, 16, 32, 64)

Curve = list[tuple[float, float]]


def cpu_by_calls_in_flight(url: str) -> Curve:
    """CPU microseconds of a call."""
    return [
        (float(count), cpu(Case("", "caller", max(5_000, 10 * count), count, 180, ()), "uvloop", url))
        for count in IN_FLIGHT
    ]


def cpu_by_payload(url: str) -> Curve:
    """CPU microseconds of a call, by bytes."""
    return [
        (float(size), cpu(Case("", "caller", max(3, min(2_000, 20_000_000 // size)), 4, size, ()), "uvloop", url))
        for size in PAYLOADS
    ]


def cpu_by_threads(url: str) -> Curve:
    """CPU microseconds of a blocking call."""
    return [(float(count), cpu(Case("", "threads", 3_200, count, 180, ()), "asyncio", url)) for count in THREADS]


def cpu(case: Case, kind: str, url: str) -> float:
    """The better of two."""
    reports = [measure_one(case, kind, url, None) for _ in range(2)]
    return min(report["cpu_us"] for report in reports if report is not None)


async def _serving(functions: int) -> tuple[float, float]:
    """CPU microseconds of an invocation, and bytes of each function."""

    async def handler(data: Any) -> Any:
        return data

    options = InitOptions(handle_signals=False)
    async with open_worker("direct", options, connector=ScriptedEngine()) as iii:
        await iii.wait_ready()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(functions - 1):
            iii.register_function(f"bench::other-{number}", handler)
        iii.register_function("bench::serve", handler)
        await iii.wait_ready()
        gc.collect()
        size = (tracemalloc.get_traced_memory()[0] - before) / functions
        tracemalloc.stop()
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            payload = {"calls": 5_000, "in_flight": 64, "size": 180}
            await iii.trigger_async({"function_id": "bench::flood", "payload": payload, "timeout_ms": 60_000})
            best = min(best, (time.process_time() - start) / 5_000 * 1e6)
        return best, size


def by_functions() -> tuple[Curve, Curve]:
    """CPU microseconds of an invocation, both sides of the script included; bytes of a function."""
    found = [(count, anyio.run(_serving, count)) for count in FUNCTIONS]
    return [(float(count), cost) for count, (cost, _) in found], [(float(count), size) for count, (_, size) in found]


async def _pending(count: int) -> float:
    """Bytes of a call that waits."""
    options = InitOptions(handle_signals=False, limits=Limits(offline_queue=20_000))
    async with open_worker("direct", options, connector=ScriptedEngine()) as iii:
        await iii.wait_ready()
        request = {"function_id": "bench::never", "payload": {"text": "x" * 180}, "timeout_ms": 600_000}
        size = 0.0
        async with anyio.create_task_group() as group:
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(count):
                group.start_soon(iii.trigger_async, request)
            await anyio.wait_all_tasks_blocked()
            gc.collect()
            size = (tracemalloc.get_traced_memory()[0] - before) / count
            tracemalloc.stop()
            group.cancel_scope.cancel()
        return size


async def _idle(count: int) -> float:
    """Bytes of a worker that does nothing, its end of the script included."""
    size = 0.0
    async with anyio.create_task_group() as group:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]

        async def run(number: int, *, task_status: Any) -> None:
            options = InitOptions(handle_signals=False, worker_name=f"idle-{number}")
            async with open_worker("direct", options, connector=ScriptedEngine()) as iii:
                await iii.wait_ready()
                task_status.started()
                await anyio.sleep_forever()

        for number in range(count):
            await group.start(run, number)
        gc.collect()
        size = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        group.cancel_scope.cancel()
    return size


def memory() -> dict[str, float]:
    """Bytes, as Python counts them: buffers of the system are not in it."""
    return {
        "pending call (its task included)": anyio.run(_pending, 10_000),
        "registered function": anyio.run(_serving, 5_000)[1],
        "idle worker": anyio.run(_idle, 50),
    }


def imports() -> dict[str, float]:
    """Seconds to import, the median of five, and megabytes resident after connecting."""
    found: dict[str, float] = {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    took: dict[str, list[float]] = {"iii_anyio": [], "iii": []}
    for _ in range(6):
        for name, several in took.items():
            code = f"import time; t = time.process_time(); import {name}; print(time.process_time() - t)"
            output = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
            several.append(float(output))
    for name, several in took.items():
        found[f"CPU of import {name}, s"] = statistics.median(several[1:])  # the first may compile
    with standin() as url:
        for kind, name in (("asyncio", "iii_anyio"), ("iii-sdk", "iii-sdk")):
            report = measure_one(Case("", "caller", 1, 1, 10, ()), kind, url, None)
            assert report is not None
            found[f"RSS of {name} after connecting, MB"] = report["rss_mb"]
    return found


def measure() -> dict[str, Any]:
    """Everything."""
    with standin() as url:
        curves: dict[str, Curve] = {
            "calls in flight": cpu_by_calls_in_flight(url),
            "payload, bytes": cpu_by_payload(url),
            "threads": cpu_by_threads(url),
        }
    curves["registered functions"], sizes = by_functions()
    return {"cpu_us": curves, "bytes per function": sizes, "bytes": memory(), "imports": imports()}


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    for name, curve in found["cpu_us"].items():
        print(f"\nCPU µs a call, by {name}")
        for at, value in curve:
            print(f"  {at:12,.0f} {value:12,.1f}")
    print()
    for name, value in found["bytes"].items():
        print(f"{name:40} {value:10,.0f} bytes")
    for name, value in found["imports"].items():
        print(f"{name:40} {value:10.3f}")


if __name__ == "__main__":
    show(measure())
