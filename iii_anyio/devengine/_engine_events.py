"""The events that the engine fires itself: workers that come and go, functions that come and go (E-48 to E-51).

Below: ``_triggers`` has the bindings, ``_forwarding`` calls what is bound. Above: ``_router``, ``_identities``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._protocol.engine_session import DEFAULT_NAMESPACE
from ._introspection import FUNCTIONS_CHANGED_SCHEMA, WORKERS_CHANGED_SCHEMA
from ._rows import function_row
from ._triggers import FUNCTIONS_AVAILABLE, WORKERS_AVAILABLE, TriggerTable

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._forwarding import Forwarding
    from ._functions import FunctionTable
    from ._telemetry import Telemetry

__all__ = ("EngineEvents",)

logger = logging.getLogger(__name__)


class EngineEvents:
    """Fires them.

    Args:
        functions: The table of functions, which knows when it has changed.
        triggers: The table of triggers; it gets the two types.
        forwarding: Calls the functions that are bound.
        telemetry: Counts workers.
        on_event: Told every event: type, payload.
    """

    def __init__(
        self,
        functions: FunctionTable,
        triggers: TriggerTable,
        forwarding: Forwarding,
        telemetry: Telemetry,
        on_event: Callable[[str, dict[str, Any]], None] | None,
    ) -> None:
        self._functions = functions
        self._triggers = triggers
        self._forwarding = forwarding
        self._telemetry = telemetry
        self._on_event = on_event
        triggers.add_engine_type(WORKERS_AVAILABLE, "A worker came, changed or left", WORKERS_CHANGED_SCHEMA)
        triggers.add_engine_type(FUNCTIONS_AVAILABLE, "The set of functions changed", FUNCTIONS_CHANGED_SCHEMA)

    def worker_changed(self, event: str, session: EngineSession) -> None:
        """Fire ``engine::workers-available``; in-process workers are no event (E-50, P-129)."""
        if not session.is_in_process:
            self._telemetry.worker_changed(event)
            self._fire(WORKERS_AVAILABLE, {"event": event, "worker_id": session.worker_id})

    def functions_available(self) -> bool:
        """Fire ``engine::functions-available`` if the set of functions differs from the last time's (E-48, E-49)."""
        if not self._functions.take_changed():
            return False
        if self._on_event is not None or self._triggers.types[DEFAULT_NAMESPACE, FUNCTIONS_AVAILABLE].bindings:
            rows = [function_row(function) for function in self._functions]  # of thousands, so not for nobody
            self._fire(FUNCTIONS_AVAILABLE, {"event": "functions_changed", "functions": rows})
        return True

    def _fire(self, type_id: str, payload: dict[str, Any]) -> None:
        """Tell the listener, and call every bound function without caring for its answer (E-51)."""
        if self._on_event is not None:
            try:
                self._on_event(type_id, payload)
            except Exception:  # the boundary of a callback
                logger.exception("on_event failed")
        for binding in list(self._triggers.types[DEFAULT_NAMESPACE, type_id].bindings.values()):
            self._forwarding.fire(binding.namespace, binding.function_id, payload, binding.metadata)
