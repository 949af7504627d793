"""The capacity model of ``docs/scaling.md``: what costs predict, checked against one measured point.

    python -m benchmarks.simulate [--calls 30000]

The model is a closed queueing network: so many calls in flight go round between a caller's core, the engine's core and
a callee's core, each of which takes one at a time, first come first served. The point that is measured has two cores, a
caller of ours and the stand-in engine that answers itself. From the same costs follows what more workers need.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import deque
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import anyio

from iii_anyio import InitOptions, open_worker

from .end_to_end import standin
from .peer import Stopwatch, drive, gather_anyio

IN_FLIGHT = 64
SIZE = 180
ENGINE_CALLS = 50_000
"""Calls a second at which the real engine has a core busy (a figure of its documentation and our measurements)."""


@dataclass(frozen=True)
class Measured:
    """One point: what the two cores took, and what came of it."""

    rate: float
    caller_us: float
    engine_us: float


async def _measure(url: str, calls: int) -> Measured:
    async with open_worker(url, InitOptions(handle_signals=False)) as iii:
        await iii.wait_ready()
        await drive(iii.trigger_async, calls // 10, IN_FLIGHT, SIZE, gather_anyio)
        before = await iii.trigger_async("bench::cpu")
        with Stopwatch() as watch:
            await drive(iii.trigger_async, calls, IN_FLIGHT, SIZE, gather_anyio)
        engine = await iii.trigger_async("bench::cpu") - before
    return Measured(calls / watch.wall, watch.cpu / calls * 1e6, engine / calls * 1e6)


def simulate(services_us: list[float], in_flight: int, calls: int = 50_000) -> float:
    """Calls a second of a closed network of single servers, visited in this order."""
    waiting: list[deque[int]] = [deque() for _ in services_us]
    is_busy = [False] * len(services_us)
    events: list[tuple[float, int, int, int]] = []  # time, order, station, call
    order = count()
    now, done = 0.0, 0

    def arrive(station: int, call: int) -> None:
        if is_busy[station]:
            waiting[station].append(call)
        else:
            is_busy[station] = True
            heapq.heappush(events, (now + services_us[station], next(order), station, call))

    for call in range(in_flight):
        arrive(0, call)
    while done < calls:
        now, _, station, call = heapq.heappop(events)
        is_busy[station] = False
        if waiting[station]:
            arrive(station, waiting[station].popleft())
        if station == len(services_us) - 1:
            done += 1
        arrive((station + 1) % len(services_us), call)
    return done / now * 1e6


def carried(worker_us: float, workers: int, calls: float) -> dict[str, Any]:
    """What so many workers and calls a second need; each call costs a caller and a callee."""
    return {
        "workers": workers,
        "calls a second": calls,
        "cores for the SDK, callers and callees together": round(2 * calls * worker_us / 1e6, 1),
        "share of a core for each worker": round(2 * calls * worker_us / 1e6 / workers, 4),
        "engine cores": round(calls / ENGINE_CALLS, 1),
    }


def main() -> None:
    """Measure, simulate, carry over, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=30_000)
    options = parser.parse_args()
    with standin() as url:
        points = [
            anyio.run(_measure, url, options.calls, backend_options={"use_uvloop": True})  # each a fresh connection
            for _ in range(5)
        ]
    point = sorted(points, key=lambda each: each.rate)[2]
    found = {
        "measured": {
            "rate": round(point.rate),
            "caller_us": round(point.caller_us, 1),
            "engine_us": round(point.engine_us, 1),
        },
        "simulated rate": round(simulate([point.caller_us, point.engine_us], IN_FLIGHT)),
        "simulated rate, one in flight": round(simulate([point.caller_us, point.engine_us], 1)),
        "carried": [carried(point.caller_us, *step) for step in ((100, 10_000), (1_000, 100_000), (10_000, 1_000_000))],
    }
    print(json.dumps(found, indent=1))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "capacity.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    publish(found)


def publish(found: dict[str, Any]) -> None:
    """Put the figures into ``docs/scaling.md``."""
    measured = found["measured"]
    lines = [
        "| | |",
        "|---|---:|",
        f"| a call, caller's CPU (64 in flight, 200 bytes, uvloop) | {measured['caller_us']} µs |",
        f"| a call, the stand-in engine's CPU | {measured['engine_us']} µs |",
        f"| measured: calls a second through both | {measured['rate']:,} |",
        f"| simulated from the two costs | {found['simulated rate']:,} |",
        "",
        "| workers | calls a second | cores for all workers | of a core for each worker | cores for engines |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['workers']:,} | {row['calls a second']:,} | {row['cores for the SDK, callers and callees together']} "
        f"| {100 * row['share of a core for each worker']:.2f} % | {row['engine cores']} |"
        for row in found["carried"]
    ]
    page = Path(__file__).parents[1] / "docs" / "scaling.md"
    before, _, rest = page.read_text("utf-8").partition("<!-- capacity -->")
    after = rest.partition("<!-- /capacity -->")[2]
    table = "\n".join(lines)
    page.write_text(f"{before}<!-- capacity -->\n{table}\n<!-- /capacity -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
