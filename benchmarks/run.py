"""Every benchmark in one run: one table, ``results/*.json``, and the pictures of the docs.

    python -m benchmarks.run [--repeats 5] [--quick] [--engine-url WS_URL]

Ends with status 1 when a ratio of ours to the bare client, measured in this run, is beyond what any of our changes may
cost (``GUARD``): a guard that does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import channel, codec, dispatch, end_to_end, framing, growth, portal, session, telemetry
from ._timing import Row, show

RESULTS = Path(__file__).parent / "results"
LAYERS = (codec, framing, session, dispatch, portal, channel)
GUARD = {
    "64 in flight": 2.5,
    "callee, 64 in flight": 3.0,
    "10 KB, 16 in flight": 3.5,
    "1 MB, 4 in flight": 3.0,
    "10 MB": 3.0,
}
"""CPU of ours on uvloop, at most so many times that of the bare client."""


def environment() -> dict[str, Any]:
    """Where and with what this ran."""
    packages = ("iii-anyio", "iii-sdk", "anyio", "trio", "uvloop", "orjson", "pydantic", "websockets", "picows")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in packages} | {"iii-sdk (Node)": "0.22.1"},
    }


def write(name: str, found: Any) -> None:
    """Keep a result."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(
        {"environment": environment(), "command": "make bench", name: found}, indent=1, ensure_ascii=False
    )
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def tables(
    figures: dict[str, dict[str, end_to_end.Report]],
    traced: telemetry.Found,
    verdicts: list[dict[str, Any]],
    grown: dict[str, Any],
) -> str:
    """The figures of ``docs/performance.md``."""
    where = environment()
    lines = [
        f"Measured {where['when'][:10]} with Python {where['python']} on {where['system']}, {where['cpus']} CPUs.",
        "",
    ]
    kinds = ("iii-sdk", "node", "bare", "asyncio", "uvloop", "trio")
    lines += ["| work | " + " | ".join(kinds) + " |", "|---|" + "---:|" * len(kinds)]
    for case, found in figures.items():
        cells = [
            f"{found[kind]['rate']:,.0f}/s, {found[kind]['cpu_us']:,.1f} µs" if kind in found else "" for kind in kinds
        ]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    lines += ["", *telemetry.table(traced)]
    lines += ["", "| target | bound | measured | |", "|---|---:|---:|---|"]
    for verdict in verdicts:
        mark = "met" if verdict["is_met"] else "**missed**"
        lines.append(
            f"| {verdict['case']}: {verdict['target']} | {verdict['bound']:g} | {verdict['value']:,g} | {mark} |"
        )
    lines += ["", "| | |", "|---|---:|"]
    lines += [f"| memory of a {name} | {value:,.0f} bytes |" for name, value in grown["bytes"].items()]
    lines += [f"| {name} | {value:.2f} |" for name, value in grown["imports"].items()]
    for name, kinds in grown["copies"].items():
        most = ", ".join(f"{kind} {value:.1f}" for kind, value in kinds.items())
        lines.append(f"| copies in memory of 60 MiB {name} | {most} |")
    return "\n".join(lines)


def publish(text: str) -> None:
    """Put the tables into the page."""
    page = Path(__file__).parents[1] / "docs" / "performance.md"
    before, _, rest = page.read_text("utf-8").partition("<!-- figures -->")
    after = rest.partition("<!-- /figures -->")[2]
    page.write_text(f"{before}<!-- figures -->\n{text}\n<!-- /figures -->{after}", encoding="utf-8")


def guarded(figures: dict[str, dict[str, end_to_end.Report]]) -> bool:
    """Whether every ratio is within its bound; prints those that are not."""
    is_fine = True
    for case, bound in GUARD.items():
        kinds = figures.get(case, {})
        if "bare" not in kinds or "uvloop" not in kinds:
            continue
        ratio = kinds["uvloop"]["cpu_us"] / kinds["bare"]["cpu_us"]
        if ratio > bound:
            is_fine = False
            print(f"GUARD {case}: {ratio:.1f} times the bare client's CPU, more than {bound}", file=sys.stderr)
    return is_fine


def main() -> None:
    """Measure, print, keep, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one repeat, no growth, nothing kept")
    parser.add_argument("--engine-url", help="a real engine for the end-to-end part")
    options = parser.parse_args()
    figures = end_to_end.measure(1 if options.quick else options.repeats, options.engine_url)
    verdicts = end_to_end.verdicts(figures)
    print()
    for verdict in verdicts:
        print(
            f"{'met   ' if verdict['is_met'] else 'MISSED'} {verdict['case']}: {verdict['target']}: {verdict['value']}"
        )
    if options.engine_url is None:
        rows: list[Row] = [row for layer in LAYERS for row in layer.measure()]
        print()
        show(rows)
        traced = telemetry.measure(1 if options.quick else options.repeats)
        telemetry.show(traced)
        if not options.quick:
            grown = growth.measure()
            growth.show(grown)
            verdicts += growth.verdicts(grown)
            write("layers", [row.as_json() for row in rows])
            write("growth", grown)
            write("end_to_end", {"figures": figures, "targets": verdicts})
            write("telemetry", {**asdict(traced), "targets": telemetry.verdicts(traced)})
            publish(tables(figures, traced, verdicts + telemetry.verdicts(traced), grown))
            from .plots import draw

            draw(figures, grown)
    if not guarded(figures):
        sys.exit(1)


if __name__ == "__main__":
    main()
