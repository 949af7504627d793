"""Whole programs against the stand-in engine, ours beside others, in one run.

    python -m benchmarks.end_to_end [--repeats 5] [--engine-url WS_URL] [--only NAME]

Each measurement is a process of its own (``peer.py``, ``node/peer.mjs``). Kinds take turns, so that what disturbs the
machine disturbs all of them; a figure is the median of the repeats. With ``--engine-url`` a real engine takes the place
of the stand-in: then a worker of ours serves ``bench::echo``, and callees are not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
OURS = ("asyncio", "uvloop", "trio")
Report = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One kind of work."""

    name: str
    role: str
    calls: int
    in_flight: int
    size: int
    kinds: tuple[str, ...]


PEERS = ("bare", "iii-sdk", "node", *OURS)
CASES = (
    Case("one after another", "caller", 3_000, 1, 180, PEERS),
    Case("64 in flight", "caller", 30_000, 64, 180, PEERS),
    Case("callee, 64 in flight", "callee", 30_000, 64, 180, PEERS),
    Case("10 KB, 16 in flight", "caller", 5_000, 16, 10_000, PEERS),
    Case("1 MB, 4 in flight", "caller", 150, 4, 1_000_000, PEERS),
    Case("10 MB", "caller", 12, 1, 10_000_000, ("bare", "iii-sdk", *OURS)),
    Case("foreign loop, 1 in flight", "foreign", 2_000, 1, 180, ("iii-sdk", *OURS)),
    Case("foreign loop, 64 in flight", "foreign", 15_000, 64, 180, ("iii-sdk", *OURS)),
    Case("sync trigger, 1 thread", "threads", 2_000, 1, 180, ("iii-sdk", *OURS)),
    Case("sync trigger, 16 threads", "threads", 10_000, 16, 180, ("iii-sdk", *OURS)),
)


@dataclass(frozen=True)
class Target:
    """What ``docs/performance.md`` promises: a ratio of rates to another kind, or CPU microseconds a call."""

    case: str
    text: str
    holds: Callable[[dict[str, Report]], float]
    bound: float
    is_at_least: bool = True

    def verdict(self, figures: dict[str, dict[str, Report]]) -> dict[str, Any]:
        """Whether it holds, and by what figure."""
        value = self.holds(figures[self.case])
        is_met = value >= self.bound if self.is_at_least else value <= self.bound
        return {"case": self.case, "target": self.text, "bound": self.bound, "value": round(value, 2), "is_met": is_met}


def rate_to(other: str, kinds: tuple[str, ...] = OURS) -> Callable[[dict[str, Report]], float]:
    """The best of ours, as a multiple of another's rate."""
    return lambda kind: max(kind[name]["rate"] for name in kinds if name in kind) / kind[other]["rate"]


def worst_cpu(*kinds: str) -> Callable[[dict[str, Report]], float]:
    """CPU microseconds a call."""
    return lambda kind: max(kind[name]["cpu_us"] for name in kinds)


def spread(kind: dict[str, Report]) -> float:
    """The slowest of our backends as a multiple of the CPU of the best."""
    used = [kind[name]["cpu_us"] for name in OURS]
    return max(used) / min(used)


TARGETS = (
    Target("one after another", "rate ≥ 2.4 × iii-sdk", rate_to("iii-sdk"), 2.4),
    Target("64 in flight", "rate ≥ 6 × iii-sdk", rate_to("iii-sdk"), 6),
    Target("64 in flight", "rate ahead of the bare client", rate_to("bare"), 1),
    Target("64 in flight", "rate ahead of Node", rate_to("node"), 1),
    Target("64 in flight", "caller CPU ≤ 15 µs on asyncio and uvloop", worst_cpu("asyncio", "uvloop"), 15, False),
    Target("64 in flight", "caller CPU ≤ 20 µs on trio", worst_cpu("trio"), 20, False),
    Target("callee, 64 in flight", "callee CPU ≤ 13 µs", worst_cpu(*OURS), 13, False),
    Target("10 KB, 16 in flight", "rate ≥ 4 × iii-sdk", rate_to("iii-sdk"), 4),
    Target("1 MB, 4 in flight", "rate ≥ 2.8 × iii-sdk", rate_to("iii-sdk"), 2.8),
    Target("10 MB", "CPU ≤ 22 ms a call", worst_cpu(*OURS), 22_000, False),
    Target("foreign loop, 1 in flight", "rate ≥ 1.7 × iii-sdk", rate_to("iii-sdk"), 1.7),
    Target("foreign loop, 64 in flight", "rate ≥ 5 × iii-sdk", rate_to("iii-sdk"), 5),
    Target("sync trigger, 1 thread", "rate ≥ 1.7 × iii-sdk", rate_to("iii-sdk"), 1.7),
    Target("sync trigger, 16 threads", "rate ≥ 3.5 × iii-sdk", rate_to("iii-sdk"), 3.5),
    Target("64 in flight", "no backend over 1.5 × the best", spread, 1.5, False),
    Target("callee, 64 in flight", "no backend over 1.5 × the best", spread, 1.5, False),
)


@contextmanager
def standin() -> Iterator[str]:
    """The stand-in engine; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.standin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


def node_peer() -> list[str] | None:
    """How the Node SDK's program is started; installs the SDK beside it. None without Node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        print("no node and npm here: the Node SDK is left out", file=sys.stderr)
        return None
    folder = HERE / "node"
    if not (folder / "node_modules" / "iii-sdk").exists():
        subprocess.run(
            [npm, "install", "--no-package-lock", "--no-fund", "--no-audit", "--silent"], cwd=folder, check=True
        )
    return [node, str(folder / "peer.mjs")]


def measure_one(case: Case, kind: str, url: str, node: list[str] | None) -> Report | None:
    """One process."""
    numbers = [str(case.calls), str(case.in_flight), str(case.size)]
    if kind == "node":
        if node is None:
            return None
        command = [*node, case.role, url, *numbers]
    else:
        command = [sys.executable, "-m", "benchmarks.peer", case.role, kind, url, *numbers]
    return reported(command, {**os.environ, "OTEL_ENABLED": "false"})


def reported(command: list[str], environment: dict[str, str]) -> Report:
    """What a process says in its last line, which is JSON."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    try:
        report: Report = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}") from None
    return report


def measure(repeats: int, url: str | None = None, only: str = "") -> dict[str, dict[str, Report]]:
    """Medians, by case and kind."""
    node = node_peer()
    figures: dict[str, dict[str, Report]] = {}
    for case in CASES:
        if only not in case.name or (url is not None and case.role == "callee"):
            continue
        reports: dict[str, list[Report]] = {}
        with standin() if url is None else serving(url) as address:
            for _ in range(repeats):
                for kind in case.kinds:
                    if url is not None and kind == "bare":
                        continue  # it does not register as a real engine wants it
                    report = measure_one(case, kind, address, node)
                    if report is not None:
                        reports.setdefault(kind, []).append(report)
        figures[case.name] = {
            kind: {name: median(report[name] for report in several) for name in several[0]}
            for kind, several in reports.items()
        }
        show(case.name, figures[case.name])
    return figures


@contextmanager
def serving(url: str) -> Iterator[str]:
    """A worker of ours that serves ``bench::echo`` to a real engine."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.echo", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield url
    finally:
        process.communicate("")


def show(case: str, kinds: dict[str, Report]) -> None:
    """A table of one case."""
    print(f"\n{case}")
    base = kinds.get("iii-sdk")
    for kind, report in kinds.items():
        ratio = f"{report['rate'] / base['rate']:6.2f} x" if base is not None else ""
        errors = f"  {report['errors']:.0f} errors" if report["errors"] else ""
        print(f"  {kind:10}{report['rate']:10.0f} /s {ratio}{report['cpu_us']:10.1f} µs CPU a call{errors}")


def verdicts(figures: dict[str, dict[str, Report]]) -> list[dict[str, Any]]:
    """Each target whose figures are there."""
    found: list[dict[str, Any]] = []
    for target in TARGETS:
        try:
            found.append(target.verdict(figures))
        except KeyError:
            continue
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engine-url")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    for verdict in verdicts(measure(options.repeats, options.engine_url, options.only)):
        print(
            f"{'met   ' if verdict['is_met'] else 'MISSED'} {verdict['case']}: {verdict['target']}: {verdict['value']}"
        )


if __name__ == "__main__":
    main()
