"""What a worker's process and its event loop are at: figures, and the gauges that export them (A.18)."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

__all__ = (
    "Figure",
    "WorkerMetrics",
    "WorkerMetricsCollector",
    "process_figures",
    "register_figures",
    "register_worker_gauges",
    "stop_worker_gauges",
)


@dataclass
class WorkerMetrics:
    """What one look at the process found. Bytes, microseconds of CPU, percent of one CPU."""

    memory_rss: int
    memory_vms: int
    cpu_percent: float
    uptime_seconds: float
    timestamp_ms: int
    memory_heap_used: int = 0
    """What ``tracemalloc`` sees, while it runs."""
    memory_heap_total: int = 0
    memory_external: int = 0
    cpu_user_micros: int = 0
    cpu_system_micros: int = 0
    runtime: str = "python"


class WorkerMetricsCollector:
    """Looks at this process."""

    CACHE_TTL_SECONDS: float = 0.5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = self._at = time.monotonic()
        self._busy = sum(_cpu_seconds())
        self._cached: tuple[float, WorkerMetrics] | None = None

    def collect_cached(self) -> WorkerMetrics:
        """Return what was found within the last half second, else look."""
        cached = self._cached
        if cached is None or time.monotonic() - cached[0] >= self.CACHE_TTL_SECONDS:
            cached = self._cached = (time.monotonic(), self.collect())
        return cached[1]

    def collect(self) -> WorkerMetrics:
        """Look: CPU since the last look, memory now. Reads a file of the system."""
        user, system = _cpu_seconds()
        with self._lock:
            now = time.monotonic()
            elapsed, busy = now - self._at, user + system - self._busy
            self._at, self._busy = now, user + system
        rss, vms = _memory()
        heap = 0
        if (tracemalloc := sys.modules.get("tracemalloc")) is not None:
            heap = tracemalloc.get_traced_memory()[0]
        return WorkerMetrics(
            memory_rss=rss,
            memory_vms=vms,
            cpu_percent=min(100.0, max(0.0, busy / elapsed * 100)) if elapsed > 0 else 0.0,
            uptime_seconds=now - self._started,
            timestamp_ms=time.time_ns() // 1_000_000,
            memory_heap_used=heap,
            cpu_user_micros=int(user * 1e6),
            cpu_system_micros=int(system * 1e6),
        )


def _cpu_seconds() -> tuple[float, float]:
    """User and system time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.children_user, times.system + times.children_system


def _memory() -> tuple[int, int]:
    """Resident and virtual bytes; 0 for what the system does not say."""
    if sys.platform == "linux":
        try:
            status = Path("/proc/self/status").read_text("ascii", "replace")
            found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            return tuple(int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmSize"))  # type: ignore[return-value]
        except (OSError, ValueError, KeyError, IndexError):
            pass
    try:
        import resource
    except ImportError:  # Windows
        return 0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024, 0


# -- gauges ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One gauge: name, unit, what it is, and how to read it; None when there is nothing to report."""

    name: str
    unit: str
    description: str
    read: Callable[[], float | int | None]


def process_figures(collector: WorkerMetricsCollector) -> Iterable[Figure]:
    """The nine that upstream names."""
    look = collector.collect_cached
    return (
        Figure("iii.worker.cpu.percent", "%", "CPU in use, of one processor", lambda: look().cpu_percent),
        Figure("iii.worker.cpu.user_micros", "us", "CPU time in user mode", lambda: look().cpu_user_micros),
        Figure("iii.worker.cpu.system_micros", "us", "CPU time in the kernel", lambda: look().cpu_system_micros),
        Figure("iii.worker.memory.rss", "By", "Resident memory", lambda: look().memory_rss),
        Figure("iii.worker.memory.vms", "By", "Virtual memory", lambda: look().memory_vms),
        Figure("iii.worker.memory.heap_used", "By", "Memory that tracemalloc sees", lambda: look().memory_heap_used),
        Figure("iii.worker.memory.heap_total", "By", "Not known in Python", lambda: look().memory_heap_total),
        Figure("iii.worker.memory.external", "By", "Not known in Python", lambda: look().memory_external),
        Figure("iii.worker.uptime_seconds", "s", "Since the worker began", lambda: look().uptime_seconds),
    )


def register_figures(meter: Meter, figures: Iterable[Figure], attributes: Callable[[], dict[str, Any]]) -> None:
    """Make a gauge of each figure; its attributes are asked for at each reading."""
    from opentelemetry.metrics import CallbackOptions, Observation

    for figure in figures:

        def observe(_options: CallbackOptions, figure: Figure = figure) -> Iterable[Observation]:
            value = figure.read()
            return () if value is None else (Observation(value, attributes()),)

        meter.create_observable_gauge(figure.name, [observe], figure.unit, figure.description)


_lock: Final = threading.Lock()
_registered: dict[str, Any] | None = None


def register_worker_gauges(meter: Meter, worker_id: str, worker_name: str | None = None) -> None:
    """Make the nine gauges of this process with a meter of your own; until ``stop_worker_gauges`` again does nothing.

    A worker with telemetry on exports them by itself.
    """
    global _registered
    attributes = {"worker.id": worker_id} | ({"worker.name": worker_name} if worker_name else {})
    with _lock:
        if _registered is not None:
            return
        _registered = attributes

    def read(figure: Figure) -> Callable[[], float | int | None]:
        return lambda: figure.read() if _registered is attributes else None

    figures = [
        Figure(figure.name, figure.unit, figure.description, read(figure))
        for figure in process_figures(WorkerMetricsCollector())
    ]
    register_figures(meter, figures, lambda: attributes)


def stop_worker_gauges() -> None:
    """Have the gauges of ``register_worker_gauges`` report nothing more."""
    global _registered
    with _lock:
        _registered = None
