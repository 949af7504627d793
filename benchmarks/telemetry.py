"""What telemetry adds to a call and an invocation: off, passing contexts on, and on.

    python -m benchmarks.telemetry

As ``benchmarks.dispatch``, on asyncio; what the script on the other side takes is in it. "ambient" is a process that
has OpenTelemetry's API imported and no provider.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import anyio

from iii_anyio import InitOptions, OtelConfig, open_worker

from ._scripted import ScriptedEngine
from ._timing import Row, show
from .dispatch import SIZE, plain

CALLS = 4000
ROUNDS = 6


class Engine(ScriptedEngine):
    """Takes telemetry as well."""

    def take_telemetry(self, frame: bytes) -> None:
        pass


async def costs(otel: Any) -> tuple[float, float]:
    """CPU microseconds of a call, and of an invocation, 64 in flight."""
    call = invocation = float("inf")
    async with open_worker("direct", InitOptions(handle_signals=False, otel=otel), connector=Engine()) as iii:
        iii.register_function("bench::serve", plain)
        await iii.wait_ready()
        flood = {"calls": CALLS, "in_flight": 64, "size": SIZE}
        request = {"function_id": "bench::echo", "payload": {"text": "x" * SIZE}}
        for _ in range(ROUNDS):
            start = time.process_time()
            await iii.trigger_async({"function_id": "bench::flood", "payload": flood, "timeout_ms": 120_000})
            invocation = min(invocation, (time.process_time() - start) / CALLS * 1e6)
            left = CALLS

            async def one() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await iii.trigger_async(request)

            start = time.process_time()
            async with anyio.create_task_group() as group:
                for _ in range(64):
                    group.start_soon(one)
            call = min(call, (time.process_time() - start) / CALLS * 1e6)
    return call, invocation


def measure() -> list[Row]:
    """Off first: what follows imports OpenTelemetry."""
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    for name, otel in (("off", None), ("ambient", None), ("on", OtelConfig(metrics_enabled=False))):
        if name == "ambient":
            __import__("opentelemetry.trace")
        elif name == "off":
            assert "opentelemetry.trace" not in sys.modules
        call, invocation = anyio.run(costs, otel)
        rows += [Row("telemetry", f"call, {name}", call), Row("telemetry", f"invocation, {name}", invocation)]
    return rows


if __name__ == "__main__":
    show(measure())
