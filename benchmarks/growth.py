"""How costs grow: calls in flight, registered functions, payloads, threads; memory of each; import time.

    python -m benchmarks.growth

Linear or flat is what is wanted; ``run.py`` plots it.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sysconfig
import time
import tracemalloc
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import anyio
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from iii_anyio import InitOptions, Limits, open_worker

from . import large
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


class Kept:
    """Bytes that a block allocates and keeps, for each of so many."""

    def __init__(self, count: int) -> None:
        self.size = 0.0
        self._count = count

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self.size = (tracemalloc.get_traced_memory()[0] - self._before) / self._count
        tracemalloc.stop()


async def _serving(functions: int) -> tuple[float, float]:
    """CPU microseconds of an invocation, and bytes of each function."""

    async def handler(data: Any) -> Any:
        return data

    options = InitOptions(handle_signals=False)
    async with open_worker("direct", options, connector=ScriptedEngine()) as iii:
        await iii.wait_ready()
        with Kept(functions) as kept:
            for number in range(functions - 1):
                iii.register_function(f"bench::other-{number}", handler)
            iii.register_function("bench::serve", handler)
            await iii.wait_ready()
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            payload = {"calls": 5_000, "in_flight": 64, "size": 180}
            await iii.trigger_async({"function_id": "bench::flood", "payload": payload, "timeout_ms": 60_000})
            best = min(best, (time.process_time() - start) / 5_000 * 1e6)
        return best, kept.size


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
        kept = Kept(count)
        async with anyio.create_task_group() as group:
            with kept:
                for _ in range(count):
                    group.start_soon(iii.trigger_async, request)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        return kept.size


async def _waiting(count: int) -> float:
    """Bytes of a task that waits for nothing: the part of a pending call's that is not ours."""
    kept = Kept(count)
    async with anyio.create_task_group() as group:
        with kept:
            for _ in range(count):
                group.start_soon(anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    return kept.size


async def _idle(count: int) -> float:
    """Bytes of a worker that does nothing, its end of the script included."""
    kept = Kept(count)
    async with anyio.create_task_group() as group:

        async def run(number: int, *, task_status: Any) -> None:
            options = InitOptions(handle_signals=False, worker_name=f"idle-{number}")
            async with open_worker("direct", options, connector=ScriptedEngine()) as iii:
                await iii.wait_ready()
                task_status.started()
                await anyio.sleep_forever()

        with kept:
            for number in range(count):
                await group.start(run, number)
        group.cancel_scope.cancel()
    return kept.size


def memory() -> dict[str, float]:
    """Bytes, as Python counts them: buffers of the system are not in it."""
    return {
        "pending call (its task included)": anyio.run(_pending, 10_000),
        "task that only sleeps, beside it": anyio.run(_waiting, 10_000),
        "registered function": anyio.run(_serving, 5_000)[1],
        "idle worker": anyio.run(_idle, 50),
    }


def required(name: str) -> dict[str, Distribution]:
    """A distribution and what it asks for, extras left out."""
    found: dict[str, Distribution] = {}
    todo = [name]
    for wanted in todo:  # grows while it is read
        if canonicalize_name(wanted) not in found:
            found[canonicalize_name(wanted)] = known = distribution(wanted)
            asked = map(Requirement, known.requires or ())
            todo += [entry.name for entry in asked if entry.marker is None or entry.marker.evaluate({"extra": ""})]
    return found


@contextmanager
def clean(name: str) -> Iterator[str]:
    """A Python with nothing but one SDK installed; yields its path.

    httpx imports rich, click, pygments and trio where they are installed, so all that the SDKs do not ask for is left
    out, the same way for both.
    """
    with TemporaryDirectory() as folder:
        venv.create(folder, symlinks=True)
        where = {"base": folder, "platbase": folder}
        packages = Path(sysconfig.get_path("purelib", "venv", where))
        for known in required(name).values():
            for path in known.files or ():
                if path.parts[0] != ".." and path.suffix != ".pth":  # commands, and editable installs
                    (packages / path).parent.mkdir(parents=True, exist_ok=True)
                    (packages / path).symlink_to(path.locate())
        (packages / "here.pth").write_text(f"{Path(__file__).parents[1]}\n")
        yield str(Path(sysconfig.get_path("scripts", "venv", where), "python"))


def imports() -> dict[str, float]:
    """Seconds to import, and megabytes resident after connecting and one call; medians, both in clean environments."""
    found: dict[str, float] = {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["OTEL_ENABLED"] = "false"
    sdks = {"iii-anyio": ("iii_anyio", "asyncio"), "iii-sdk": ("iii", "iii-sdk")}
    with clean("iii-anyio") as ours, clean("iii-sdk") as theirs, standin() as url:
        took: dict[str, list[float]] = {name: [] for name in sdks}
        resident: dict[str, list[float]] = {name: [] for name in sdks}
        for _ in range(6):
            for (name, (module, kind)), python in zip(sdks.items(), (ours, theirs), strict=True):
                code = f"import time; t = time.process_time(); import {module}; print(time.process_time() - t)"
                took[name].append(float(subprocess.check_output([python, "-c", code], text=True, env=environment)))
                peer = [python, "-m", "benchmarks.peer", "caller", kind, url, "1", "1", "10"]
                report = json.loads(subprocess.check_output(peer, text=True, env=environment).splitlines()[-1])
                resident[name].append(report["rss_mb"])
    for name, (module, _) in sdks.items():
        found[f"CPU of import {module}, s"] = statistics.median(took[name][1:])  # the first may compile
    for name in sdks:
        found[f"RSS of {name} after connecting, MB"] = statistics.median(resident[name][1:])
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
    return {
        "cpu_us": curves,
        "bytes per function": sizes,
        "bytes": memory(),
        "imports": imports(),
        "copies": large.measure(),
    }


def verdicts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets for memory and import, as ``end_to_end.Target.verdict`` has them."""
    imported, most = found["imports"], [value for kinds in found["copies"].values() for value in kinds.values()]
    rows = [
        ("import", "CPU ≤ 0.25 s", 0.25, imported["CPU of import iii_anyio, s"]),
        ("connected", "RSS ≤ 45 MB, nothing else installed", 45, imported["RSS of iii-anyio after connecting, MB"]),
    ]
    if most:
        rows.append(("60 MiB", "at most 3 copies in memory", 3, round(max(most), 1)))
    return [
        {"case": case, "target": target, "bound": bound, "value": round(value, 2), "is_met": value <= bound}
        for case, target, bound, value in rows
    ]


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
    large.show(found["copies"])


if __name__ == "__main__":
    show(measure())
