"""The same accidents for iii-sdk and for us, side by side; run by hand, about six minutes.

    python -m tests.reliability.side_by_side                 all of it
    python -m tests.reliability.side_by_side half_open nan   only these; the other rows stay as they were

Each client is a process of its own (``sides/either_client``: the same program, only the import differs) with the
default options, behind a ``FaultProxy``; the engine is the embedded one. What is seen is written down, no more; what
takes too long by nature is cut off and says so. Writes ``benchmarks/results/side_by_side.json`` and the table of
``docs/reliability.md``. Needs the extra ``dev``.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import version
from typing import Any, Final

import anyio
from anyio import create_task_group, fail_after

from iii_anyio import ConnectionLostError
from tests.reliability.sides import endings, links, load
from tests.reliability.sides.surroundings import ROOT, SCENARIOS, surroundings

PAGE: Final = ROOT / "docs" / "reliability.md"
RESULT: Final = ROOT / "benchmarks" / "results" / "side_by_side.json"
BEGIN: Final = "<!-- side by side -->"
END: Final = "<!-- end of side by side -->"
KINDS: Final = ("iii-sdk", "asyncio", "trio")

PARTS: Final = [part.__name__ for part in (links, endings, load)]

LONG = ("half_open_idle", "half_open", "blocks", "refused_name")
"""They wait most of the time, so they run beside each other; the rest one after the other, three clients at once."""
ALONE = ("nested", "burst", "flood", "many_pending", "large", "bomb", "secrets")
"""Memory and time of one client at a time."""


async def tried(name: str, kind: str, results: dict[str, dict[str, Any]]) -> None:
    _, function = SCENARIOS[name]
    began = time.monotonic()
    try:
        with fail_after(120):
            async with surroundings(kind) as there:
                text, figures = await function(there)
    except (ConnectionLostError, TimeoutError) as exc:
        text, figures = f"not found out ({type(exc).__name__})", {}
    results.setdefault(name, {})[kind] = {"text": text, **figures}
    print(f"{name:22} {kind:8} {time.monotonic() - began:5.1f} s  {text}", flush=True)


async def run(names: list[str]) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    async with create_task_group() as tasks:
        for name in names:
            if name in LONG:
                for kind in KINDS:
                    tasks.start_soon(tried, name, kind, results)
    for name in names:
        if name in ALONE:
            for kind in KINDS:
                await tried(name, kind, results)
        elif name not in LONG:
            async with create_task_group() as tasks:
                for kind in KINDS:
                    tasks.start_soon(tried, name, kind, results)
    return {name: {kind: results[name][kind] for kind in KINDS} for name in in_order() if name in results}


def in_order() -> list[str]:
    return sorted(SCENARIOS, key=lambda name: PARTS.index(SCENARIOS[name][1].__module__))


def table(results: dict[str, dict[str, Any]]) -> str:
    rows = [
        f"| what happens | iii-sdk {version('iii-sdk')} | iii_anyio, asyncio | iii_anyio, trio |",
        "|---|---|---|---|",
    ]
    for name, seen in results.items():
        rows.append(" | ".join([f"| {SCENARIOS[name][0]}", *(seen[kind]["text"] for kind in KINDS)]) + " |")
    return "\n".join(rows)


def write(results: dict[str, dict[str, Any]]) -> None:
    kept: dict[str, Any] = json.loads(RESULT.read_text("utf-8"))["scenarios"] if RESULT.exists() else {}
    seen = {name: results.get(name) or kept.get(name) for name in in_order()}
    scenarios = {name: {**found, "title": SCENARIOS[name][0]} for name, found in seen.items() if found}
    told = {"python": platform.python_version(), "iii-sdk": version("iii-sdk"), "scenarios": scenarios}
    RESULT.write_text(json.dumps(told, indent=2, default=dict) + "\n", "utf-8")
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(scenarios)}\n\n{END}{after}", "utf-8")


def main() -> int:
    names = sys.argv[1:] or in_order()
    if unknown := set(names) - set(SCENARIOS):
        print(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(in_order())}")
        return 2
    write(anyio.run(run, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
