"""``bench``: how fast an engine carries calls. Below: ``_connection``.

One task for each call that is open at a time; all end with ``_measure``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from .._requests import normalise_call
from ..errors import ConnectionLostError, InvocationError, ShutdownError
from ._calls import FUNCTION_ID, Namespace, read_payload
from ._connection import Json, Url, connected
from ._console import Output, execute, reported
from ._errors import usage_errors

if TYPE_CHECKING:
    from ..worker import Worker

__all__ = ("bench", "summary")

_WARM_UP: Final = 50
"""Calls that do not count: the first ones wait for imports and caches."""


def bench(
    function_id: Annotated[str | None, FUNCTION_ID] = None,
    data: Annotated[str, typer.Option(metavar="JSON|@FILE|-", help="The payload of each call.")] = "{}",
    *,
    url: Url = None,
    namespace: Namespace = None,
    seconds: Annotated[float, typer.Option("--seconds", "-s", min=0.05, max=3600, help="How long.")] = 3.0,
    calls: Annotated[
        int | None, typer.Option("--calls", min=1, help="End after this many calls, if sooner.", show_default=False)
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=10_000, help="Calls at once.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that one call may take.")] = 30.0,
    json: Json = False,
) -> None:
    """Measure calls per second and their latency, through the engine.

    Without a function it is an echo in this process, so the numbers are those of engine, network and SDK. A function
    is called many times at once: name only one that may be. Exit code 1 when a call failed.
    """
    target = function_id if function_id is not None else f"iii-cli::bench::{os.getpid()}"
    with reported(Output(as_json=json)), usage_errors():
        request = {
            "function_id": target, "payload": read_payload([data]), "dispatch": "remote", "namespace": namespace,
            "timeout_ms": max(1, int(timeout * 1000)),
        }  # fmt: skip
        normalise_call(request)

    async def command(output: Output) -> None:
        async with AsyncExitStack() as stack:
            iii = await stack.enter_async_context(connected(url, "bench"))
            if function_id is None:
                callee = await stack.enter_async_context(connected(url, "bench-echo"))
                callee.register_function(target, _echo, metadata={"internal": True}, validate=False)
                await callee.wait_ready()
            with output.progress(f"{target}, {concurrency} at once", seconds) as advance:
                await _measure(iii, request, 60.0, _WARM_UP, min(concurrency, _WARM_UP), lambda _: None)
                took, latencies, failures = await _measure(iii, request, seconds, calls, concurrency, advance)
        result = summary(took, latencies, failures) | {"function_id": target, "concurrency": concurrency}
        if json:
            output.document(result)
        else:
            _show(output, result)
        if failures:
            raise typer.Exit(1)

    execute(command, as_json=json)


async def _echo(data: Any) -> Any:
    return data


async def _measure(
    iii: Worker,
    request: dict[str, Any],
    seconds: float,
    calls: int | None,
    concurrency: int,
    advance: Callable[[float], None],
) -> tuple[float, list[float], dict[str, int]]:
    """Call until time or calls are used up; returns seconds, each call's seconds, and failures by code."""
    latencies: list[float] = []
    failures: dict[str, int] = {}
    lost: list[InvocationError] = []
    left = calls if calls is not None else -1
    started = perf_counter()
    until = started + seconds

    async def caller() -> None:
        nonlocal left
        while left and perf_counter() < until:
            left -= 1
            before = perf_counter()
            try:
                await iii.trigger_async(request)
            except (ConnectionLostError, ShutdownError) as exc:
                lost.append(exc)
                callers.cancel_scope.cancel()
                return
            except InvocationError as exc:
                failures[exc.code] = failures.get(exc.code, 0) + 1
                await checkpoint()
            latencies.append(perf_counter() - before)
            if not len(latencies) % 256:
                advance(perf_counter() - started)

    async with create_task_group() as callers:
        for _ in range(concurrency):
            callers.start_soon(caller, name="iii-cli bench caller")
    if lost:
        raise lost[0]
    return perf_counter() - started, latencies, failures


def summary(took: float, latencies: list[float], failures: dict[str, int]) -> dict[str, Any]:
    """Calls per second, and percentiles in milliseconds: the least value that so many percent do not exceed."""
    ordered = sorted(latencies)

    def percentile(share: float) -> float:
        return round(ordered[max(0, ceil(len(ordered) * share) - 1)] * 1000, 3)

    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {
        "calls": len(ordered),
        "failed": sum(failures.values()),
        "failures": failures,
        "seconds": round(took, 3),
        "calls_per_second": round(len(ordered) / took, 1) if took > 0 else 0.0,
        "latency_ms": {name: percentile(share) for name, share in shares.items()} if ordered else {},
    }


def _show(output: Output, result: dict[str, Any]) -> None:
    output.line(f"{result['calls_per_second']:,.0f} calls/s", "bold green")
    rows = [("calls", f"{result['calls']:,} in {result['seconds']} s, {result['concurrency']} at once")]
    rows += [(name, f"{value:.3f} ms") for name, value in result["latency_ms"].items()]
    rows += [(f"failed: {code}", f"{number:,}") for code, number in result["failures"].items()]
    output.facts(rows)
