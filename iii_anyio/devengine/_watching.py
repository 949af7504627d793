"""Calls that somebody observes: what is known when one begins, the event when it is over (§16.6).

For the calls that the engine routes; what an owner runs within its process comes as a report (``_observer_reports``).

Below: ``_observers`` says who watches a function, ``_activations`` delivers. Above: ``_forwarding`` and
``_invocations`` begin, ``_answers`` ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._protocol.messages import ABSENT
from ._activations import Event, Observer
from ._observer_specs import Key

if TYPE_CHECKING:
    from ._answers import Invocation
    from ._functions import Function
    from ._observers import Observers
    from ._telemetry import Telemetry

__all__ = ("Watch", "Watching")


@dataclass(slots=True, eq=False)
class Watch:
    """What is known of an observed invocation when it begins, and who watches it then (P-64)."""

    observers: tuple[Observer, ...]
    key: Key
    parts: dict[str, Any]
    started_at_ms: int
    started_ns: int


class Watching:
    """Begins and ends watches.

    Args:
        observers: Of all functions.
        telemetry: Has the clock that measures.
        new_id: Makes ids, for invocations that have none.
        now_ms: Wall-clock milliseconds.
    """

    def __init__(
        self, observers: Observers, telemetry: Telemetry, *, new_id: Callable[[], str], now_ms: Callable[[], int]
    ) -> None:
        self._observers = observers
        self._sources = observers.table.sources
        self._telemetry = telemetry
        self._new_id = new_id
        self._now_ms = now_ms

    def begin(self, function: Function, invocation: Invocation, data: Any, metadata: Any) -> None:
        """An invocation begins: set its ``watch`` if somebody observes the function."""
        if not self._sources:
            return
        observers = self._observers.watching(function)
        if not observers:
            return
        parts: dict[str, Any] = {"input": data}
        if invocation.lineage is not None:
            parts["caller"] = invocation.lineage
        if metadata is not ABSENT and metadata is not None:
            parts["metadata"] = metadata
        key = function.namespace, function.id
        invocation.watch = Watch(observers, key, parts, self._now_ms(), self._telemetry.now_ns())

    def end(self, invocation: Invocation, result: Any, error: dict[str, Any] | None) -> None:
        """A watched invocation is over, and its caller has been answered."""
        watch, invocation.watch = invocation.watch, None
        if watch is None:
            return
        outcome = {"output": None if result is ABSENT else result} if error is None else {"error": error}
        namespace, function_id = watch.key
        event = Event(
            function_id,
            namespace,
            invocation.id or self._new_id(),
            watch.parts | outcome,
            error is None,
            watch.started_at_ms,
            max(0, self._telemetry.now_ns() - watch.started_ns) / 1e6,
            invocation.depth,
            invocation.traceparent,
            invocation.baggage,
        )
        self._observers.finished(watch.observers, event)
