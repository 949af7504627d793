"""Which telemetry the running code belongs to: that of the handler's worker, else the process's."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final

from .._runtime.context import running_invocation

if TYPE_CHECKING:
    from ._pipeline import Pipeline

__all__ = ("add", "current_pipeline", "ids_of_invocation", "process_pipeline", "remove", "set_process_pipeline")

_lock: Final = threading.Lock()
_alive: Final[list[Pipeline]] = []
_by_worker: Final[weakref.WeakKeyDictionary[object, Pipeline]] = weakref.WeakKeyDictionary()
_process: Pipeline | None = None


def add(pipeline: Pipeline, worker: object | None = None) -> None:
    """A pipeline is in use from now on, by this worker if one is given."""
    with _lock:
        _alive.append(pipeline)
        if worker is not None:
            _by_worker[worker] = pipeline


def remove(pipeline: Pipeline) -> None:
    """It is no longer. Twice is fine."""
    global _process
    with _lock:
        if pipeline in _alive:
            _alive.remove(pipeline)
        if _process is pipeline:
            _process = None
        for worker in [worker for worker, its in _by_worker.items() if its is pipeline]:
            del _by_worker[worker]


def process_pipeline() -> Pipeline | None:
    """The one of ``init_otel`` or ``set_global``."""
    return _process


def set_process_pipeline(pipeline: Pipeline) -> None:
    """Have everything use it that has none of its own."""
    global _process
    _process = pipeline


def current_pipeline() -> Pipeline | None:
    """In a handler its worker's, else the process's; outside of handlers also the only one there is.

    Among several that belong to workers, code outside of their handlers has none: nothing says which.
    """
    if not _alive:
        return None
    invocation = running_invocation()
    if invocation is not None:
        return _by_worker.get(invocation.worker, _process)
    if _process is not None:
        return _process
    return _alive[0] if len(_alive) == 1 else None


def ids_of_invocation() -> tuple[str | None, str | None]:
    """Trace and span id that the running invocation came with."""
    invocation = running_invocation()
    parts = invocation.traceparent.split("-") if invocation is not None and invocation.traceparent else []
    return (parts[1], parts[2]) if len(parts) >= 4 else (None, None)
