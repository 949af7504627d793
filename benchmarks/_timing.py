"""Timing a piece of work inside this process, and one shape for what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    layer: str
    work: str
    value: float
    unit: str = "µs"

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


def per_call(function: Callable[[], object], *, seconds: float = 0.2, repeats: int = 5) -> float:
    """CPU microseconds of one call: the best of some repeats, for what disturbs only ever adds."""
    count = 1
    while True:
        took = cpu_of(function, count)
        if took > seconds / 10:
            break
        count *= 4
    count = max(1, int(count * seconds / repeats / took))
    return min(cpu_of(function, count) for _ in range(repeats)) / count * 1e6


def cpu_of(function: Callable[[], object], count: int) -> float:
    """CPU seconds of so many calls."""
    start = time.process_time()
    for _ in range(count):
        function()
    return time.process_time() - start


def show(rows: list[Row]) -> None:
    """Print figures, one a line."""
    for row in rows:
        print(f"{row.layer:9} {row.work:52} {row.value:12.2f} {row.unit}")


def text(size: int) -> str:
    """So many characters."""
    return "x" * size
