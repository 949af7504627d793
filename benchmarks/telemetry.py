"""What telemetry costs: calls a second and CPU of a call, beside iii-sdk's; and what its hooks cost that are off.

    python -m benchmarks.telemetry [--repeats 5]

Kinds take turns, each measurement is a process of its own with a stand-in engine of its own, figures are medians. "API
only" is a program that has imported OpenTelemetry's API and set no provider. What is on exports to the stand-in, which
counts the spans that arrive; the flush of the last ones is part of the time.

"Without hooks" is this package compiled without them (``_hookless``), in the same process as the package as it is: both
take turns, 500 calls each, and the figure is the median of the ratios. Instructions are counted, not timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from types import FrameType
from typing import Any

import anyio

from . import peer
from ._hookless import Copy
from .end_to_end import reported

ROLES = ("caller", "callee")
KINDS = ("iii-sdk, off", "iii-sdk, on", "off", "API only", "SDK, batching")
CALLS = 10_000
IN_FLIGHT = 64
SIZE = 180
BOUND = 1.03
"""What hooks that are off may cost, as a multiple of none."""

Report = dict[str, float]


@dataclass(frozen=True)
class Found:
    """All figures: by role and kind, and the ratios to what has no hooks."""

    kinds: dict[str, dict[str, Report]]
    hooks: Report


# -- one process each ------------------------------------------------------------------------------------------------


async def ours(kind: str, role: str, url: str) -> Report:
    """Ours, on asyncio."""
    from iii_anyio import InitOptions, OtelConfig, open_worker

    if kind == "API only":
        import_module("opentelemetry.trace")
    is_on = kind == "SDK, batching"
    async with open_worker(url, InitOptions(otel=OtelConfig() if is_on else None)) as iii:
        iii.register_function("bench::serve", peer.serve)
        await iii.wait_ready()
        flush = import_module("iii_anyio.observability").flush_otel if is_on else None
        return await measured(iii.trigger_async, role, peer.gather_anyio, flush)


def theirs(kind: str, role: str, url: str) -> Report:
    """iii-sdk, in its own loop."""
    import iii  # type: ignore[import-untyped]

    is_on = kind == "iii-sdk, on"
    client: Any = iii.register_worker(url, iii.InitOptions(otel={"enabled": is_on}))
    try:
        client.register_function("bench::serve", peer.serve)
        flush = import_module("iii_helpers.observability").flush_otel if is_on else None
        work = measured(client.trigger_async, role, peer.gather_asyncio, flush)
        return asyncio.run_coroutine_threadsafe(work, client._loop).result()
    finally:
        client.shutdown()


async def measured(call: peer.Call, role: str, gather: Any, flush: Callable[[], Awaitable[None]] | None) -> Report:
    """Warm up, then measure, with what it takes to get rid of the last records."""

    async def work(count: int) -> int:
        if role == "caller":
            return await peer.drive(call, count, IN_FLIGHT, SIZE, gather)
        answer: dict[str, int] = await call(peer.flood(count, IN_FLIGHT, SIZE))
        return answer["errors"]

    await work(CALLS // 10)
    with peer.Stopwatch() as watch:
        errors = await work(CALLS)
        if flush is not None:
            await flush()
    return watch.report(CALLS, errors)


async def counting_standin() -> None:
    """The stand-in engine; at its end it prints how many spans have come."""
    from picows import WSFrame, WSMsgType, WSTransport, ws_create_server

    from . import standin

    spans = 0

    class Connection(standin.Connection):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            nonlocal spans
            if frame.msg_type == WSMsgType.BINARY:
                spans += frame.get_payload_as_bytes().count(b'"endTimeUnixNano"')
            super().on_ws_frame(transport, frame)

    factory: Callable[[object], Connection] = lambda _request: Connection()  # noqa: E731
    server = await ws_create_server(factory, "127.0.0.1", 0, max_frame_size=standin.MAX)
    print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
    print(spans)


# -- with hooks and without ------------------------------------------------------------------------------------------

ROUNDS = 80
IN_A_ROUND = 500
COUNTED = 200


async def with_and_without() -> Report:
    """Ratios of as it is to without hooks: CPU, and instructions of Python, of a call and of an invocation."""
    copies = (Copy(has_hooks=True), Copy(has_hooks=False))
    works: list[dict[str, Callable[[int], Awaitable[None]]]] = []
    async with AsyncExitStack() as stack:
        for copy in copies:
            package, script = copy.module("iii_anyio"), copy.module("benchmarks._scripted")
            with copy.imported():
                opened = package.open_worker(
                    "direct", package.InitOptions(handle_signals=False), connector=script.ScriptedEngine()
                )
                iii = await stack.enter_async_context(opened)
                iii.register_function("bench::serve", peer.serve)
                await iii.wait_ready()
                work = works_of(iii)
                for one in work.values():
                    await one(IN_A_ROUND)  # what is imported late, is now
            works.append(work)
        found: Report = {}
        for name in works[0]:
            hooked, bare = (work[name] for work in works)
            ratios: list[float] = []
            for turn in range(ROUNDS):
                if turn % 2:
                    with_hooks, without = await seconds(hooked), await seconds(bare)
                else:
                    without, with_hooks = await seconds(bare), await seconds(hooked)
                ratios.append(with_hooks / without)
            found[f"CPU of {name}"] = median(ratios)
            found[f"Python instructions of {name}"] = await instructions(hooked) / await instructions(bare)
    return found


def works_of(iii: Any) -> dict[str, Callable[[int], Awaitable[None]]]:
    """So many calls, and so many invocations."""

    async def calls(count: int) -> None:
        await peer.drive(iii.trigger_async, count, IN_FLIGHT, SIZE, peer.gather_anyio)

    async def invocations(count: int) -> None:
        await iii.trigger_async(peer.flood(count, IN_FLIGHT, SIZE))

    return {"a call": calls, "an invocation": invocations}


async def seconds(work: Callable[[int], Awaitable[None]]) -> float:
    """CPU seconds of one round."""
    start = time.process_time()
    await work(IN_A_ROUND)
    return time.process_time() - start


async def instructions(work: Callable[[int], Awaitable[None]]) -> int:
    """Instructions of Python that a few calls take, those of this benchmark aside."""
    count = 0

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_globals.get("__name__", "").partition(".")[0] in {"benchmarks", "__main__"}:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    def step(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "opcode"
        return step

    sys.settrace(enter)
    try:
        await work(COUNTED)
    finally:
        sys.settrace(None)
    return count


# -- all of them -----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Report:
    """One measurement in a process of its own. What the environment says of telemetry does not count."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "III_"))}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.telemetry", "--one", *arguments]
    return reported(command, environment)


def run_counting(kind: str, role: str) -> Report:
    """One measurement, with the spans that came of each call."""
    command = [sys.executable, "-m", "benchmarks.telemetry", "--one", "standin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as standin:
        assert standin.stdout is not None
        report = run(kind, role, standin.stdout.readline().strip())
        spans = int(standin.communicate("")[0])
    return report | {"spans": spans / (CALLS + CALLS // 10)}


def measure(repeats: int) -> Found:
    """Medians."""
    reports: dict[str, dict[str, list[Report]]] = {role: {kind: [] for kind in KINDS} for role in ROLES}
    hooks: list[Report] = []
    for _ in range(repeats):
        hooks.append(run("hooks"))
        for role in ROLES:
            for kind in KINDS:
                reports[role][kind].append(run_counting(kind, role))
    return Found(
        {role: {kind: medians(several) for kind, several in kinds.items()} for role, kinds in reports.items()},
        medians(hooks),
    )


def medians(several: list[Report]) -> Report:
    """Of each figure."""
    return {name: median(report[name] for report in several) for name in several[0]}


def verdicts(found: Found) -> list[dict[str, Any]]:
    """Whether hooks that are off cost no more than they may."""
    return [
        {
            "case": "telemetry off",
            "target": f"{name} ≤ {BOUND:g} × without hooks",
            "bound": BOUND,
            "value": round(ratio, 3),
            "is_met": ratio <= BOUND,
        }
        for name, ratio in found.hooks.items()
    ]


def table(found: Found) -> list[str]:
    """The lines of the page."""
    lines = [f"| telemetry, {IN_FLIGHT} in flight | {' | '.join(KINDS)} |", "|---|" + "---:|" * len(KINDS)]
    for role, kinds in found.kinds.items():
        cells = [
            f"{report['rate']:,.0f}/s, {report['cpu_us']:,.1f} µs, {report['spans']:.2g} spans"
            for report in (kinds[kind] for kind in KINDS)
        ]
        lines.append(f"| {role} | {' | '.join(cells)} |")
    return lines


def show(found: Found) -> None:
    """Print all of it."""
    for role, kinds in found.kinds.items():
        print(f"\ntelemetry, {role}")
        for kind, report in kinds.items():
            errors = f"  {report['errors']:.0f} errors" if report["errors"] else ""
            print(
                f"  {kind:14}{report['rate']:10.0f} /s{report['cpu_us']:10.1f} µs CPU a call"
                f"{report['spans']:8.2f} spans a call{errors}"
            )
    print()
    for verdict in verdicts(found):
        print(f"{'met   ' if verdict['is_met'] else 'MISSED'} telemetry off: {verdict['target']}: {verdict['value']}")


def main() -> None:
    """Measure and print, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.one:
        case None:
            show(measure(options.repeats))
        case ["standin"]:
            import uvloop

            uvloop.run(counting_standin())
        case ["hooks"]:
            print(json.dumps(anyio.run(with_and_without)))
        case [kind, role, url]:
            report = theirs(kind, role, url) if kind.startswith("iii-sdk") else anyio.run(ours, kind, role, url)
            print(json.dumps(report))
        case unknown:
            parser.error(f"--one {unknown}")


if __name__ == "__main__":
    main()
