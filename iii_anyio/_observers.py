"""Making observers: the part of ``WorkerMethods`` that listens to what other functions do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ._protocol.calls import new_id
from ._protocol.codec import from_json, to_json
from ._protocol.messages import Observe
from ._runtime.calling import effective_namespace
from ._runtime.observing import ObserverHandle  # noqa: TC001 - public annotations resolve
from .errors import EncodeError
from .invocation_context import InvocationContext, current_invocation
from .observe_types import ObserverOptions, ObserveSource, Target  # noqa: TC001 - public annotations resolve

if TYPE_CHECKING:
    from ._runtime.supervisor import Supervisor

__all__ = ("Observers",)

_SOURCE = ("args", "filters", "capture", "on", "deliver")
_OPTIONS = ("metadata", "max_fires", "expires_in_ms", "max_in_flight")


class Observers:
    """What a worker observes. Needs ``_supervisor`` and ``_namespace``."""

    _supervisor: Supervisor
    _namespace: str | None

    def observe(
        self,
        source: ObserveSource | dict[str, Any],
        target: Target | dict[str, Any],
        options: ObserverOptions | dict[str, Any] | None = None,
    ) -> ObserverHandle:
        """Have a function called with what another function does, wherever the two live.

        Returns at once, and may be used before connecting: the engine learns of the observer on every connection.

        Args:
            source: What is observed: ``{"function_id": "payments::charge", "filters": …, "on": "error", …}``.
            target: Id of the function to be called, or ``{"function_id", "namespace"}``.
            options: Of the observer itself: ``{"id", "max_fires", "expires_in_ms", "max_in_flight", "metadata"}``.

        Returns:
            A handle that knows the observer's state and ends it. ``await handle.ready_async()`` waits until it is
            active; on engines before 0.25 that raises ``ObserveRejection`` ``UNSUPPORTED``.

        Raises:
            TypeError: An argument of a wrong type, or one that is not JSON.
            ValueError: No function id, a blank namespace, or an id that another observer of this worker has.

        Wire: Observe → ObserveResult.   Upstream: III.observe.
        """
        self._supervisor.caller.check_usable()
        source_of = _snapshot("source", source)
        target_of = {"function_id": target} if isinstance(target, str) else _snapshot("target", target)
        settings = {} if options is None else _snapshot("options", options)
        observer_id = settings.get("id")
        if observer_id is None:
            observer_id = new_id()
        elif not isinstance(observer_id, str):
            raise TypeError(f"options['id'] must be str, got {type(observer_id).__name__}")
        elif not observer_id.strip():
            raise ValueError("options['id'] is blank; leave it out for a random one")
        message = Observe(
            observer_id,
            self._end("ObserveSource", source_of) | {name: source_of[name] for name in _SOURCE if name in source_of},
            self._end("Target", target_of),
            **{name: settings[name] for name in _OPTIONS if name in settings},
        )
        return self._supervisor.observing.observe(message)

    def _end(self, what: str, end: dict[str, Any]) -> dict[str, Any]:
        """Function and namespace of a source or a target, as on the wire."""
        function_id, namespace = end.get("function_id"), end.get("namespace")
        if function_id is not None and not isinstance(function_id, str):
            raise TypeError(f"{what}.function_id must be str, got {type(function_id).__name__}")
        if not function_id or not function_id.strip():
            raise ValueError(f"{what}.function_id is missing or blank")
        if namespace is not None and not isinstance(namespace, str):
            raise TypeError(f"{what}.namespace must be str, got {type(namespace).__name__}")
        if namespace is not None and not namespace.strip():
            raise ValueError(f"{what}.namespace is blank; leave it out for the worker's namespace")
        namespace = effective_namespace(namespace, function_id, self._namespace)
        return {"function_id": function_id} | ({} if namespace is None else {"namespace": namespace})

    def current_invocation(self) -> InvocationContext | None:
        """Return the invocation this code runs in, or None outside a handler; as ``iii_anyio.current_invocation``."""
        return current_invocation()


def _snapshot(what: str, value: Any) -> dict[str, Any]:
    """A copy in JSON, without what is null: later changes have no effect (A.12)."""
    if not isinstance(value, Mapping):
        raise TypeError(f"observe: {what} must be a dict, got {type(value).__name__}")
    try:
        copy: dict[str, Any] = from_json(to_json(dict(cast("Mapping[str, Any]", value))))
    except EncodeError as exc:
        raise TypeError(f"observe: {what} must be JSON: {exc}") from None
    return {name: member for name, member in copy.items() if member is not None}
