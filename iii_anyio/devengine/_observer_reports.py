"""What owners tell of calls that the engine has not seen, and what the engine tells of observers (§16.8, §14.2).

Below: ``_observers``, ``_telemetry``. Above: ``_router``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from .._protocol.messages import InvocationsObserved, LocalInvocationStats, Message, Observe, ObserverAck, Unobserve
from ..errors import InvocationError
from ._activations import Event, clean_caller
from ._builtin import Builtin, Input
from ._errors import has_error, shorten
from ._observer_owners import FEATURE_OBSERVE, knows_observers
from ._observer_specs import PARTS

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._observers import Observers
    from ._telemetry import Telemetry

__all__ = ("observe_handlers", "observer_builtins")

logger = logging.getLogger(__name__)

MAX_COUNT: Final = 2**53


def observe_handlers(
    observers: Observers, telemetry: Telemetry
) -> dict[type[Any], Callable[[EngineSession, Any], None]]:
    """What to do with each message of the family; those of workers that have not declared it are dropped (P-137).

    The engine counts local calls like those it forwards (OB-14).
    """

    def declared(handle: Callable[[EngineSession, Any], None]) -> Callable[[EngineSession, Any], None]:
        def handle_declared(session: EngineSession, message: Message) -> None:
            if knows_observers(session):
                handle(session, message)
            else:
                logger.warning(
                    "%s of worker %s dropped: it has not declared %s", message.type, session.label, FEATURE_OBSERVE
                )

        return handle_declared

    def take_reports(session: EngineSession, message: InvocationsObserved) -> None:
        for item in message.items:
            own_id = item.get("function_id")
            key = observers.confirmed(session, own_id) if isinstance(own_id, str) else None
            event = None if key is None else _read_event(*key, item)
            if key is None or event is None:
                logger.warning("report of worker %s dropped: no report about a function of its own", session.label)
                continue
            matched: object = item.get("matched")
            if isinstance(matched, list):
                ids = [value for value in cast("list[object]", matched) if isinstance(value, str)]
                observers.reported(session, key, ids, event)

    def take_counts(session: EngineSession, message: LocalInvocationStats) -> None:
        for row in message.functions:
            key = observers.confirmed(session, own_id) if isinstance(own_id := row.get("function_id"), str) else None
            if key is not None and (number := _count(row.get("count"))):
                _add_calls(telemetry, key[1], number)
        for row in message.dropped_reports:
            logger.warning(
                "worker %s has dropped %d reports about %s: %s",
                session.label,
                _count(row.get("count")),
                shorten(str(row.get("function_id"))),
                shorten(str(row.get("reason"))),
            )

    return {
        Observe: declared(observers.observe),
        Unobserve: declared(observers.unobserve),
        ObserverAck: declared(observers.ack),
        InvocationsObserved: declared(take_reports),
        LocalInvocationStats: declared(take_counts),
    }


def _add_calls(telemetry: Telemetry, function_id: str, number: int) -> None:
    if telemetry.options.metrics_enabled:
        calls = telemetry.calls
        calls.deferred += number
        calls.count(function_id)
        if function_id in calls.by_function:
            calls.by_function[function_id] += number - 1


def _read_event(namespace: str, function_id: str, item: dict[str, Any]) -> Event | None:
    """An event as its owner has written it; a part that is there may be null. None without an id."""
    invocation_id = item.get("invocation_id")
    if not isinstance(invocation_id, str):
        return None
    parts: dict[str, Any] = {part: item[part] for part in PARTS if part in item}
    if "caller" in parts:
        parts["caller"] = clean_caller(parts["caller"])
    status, traceparent, baggage = item.get("status"), item.get("traceparent"), item.get("baggage")
    return Event(
        function_id,
        namespace,
        invocation_id,
        parts,
        is_success=status != "error" if isinstance(status, str) else not has_error(item.get("error")),
        started_at_ms=int(_number(item.get("started_at_ms"))),
        duration_ms=_number(item.get("duration_ms")),
        depth=_count(item.get("observe_depth")),
        traceparent=traceparent if isinstance(traceparent, str) else None,
        baggage=baggage if isinstance(baggage, str) else None,
    )


def _number(value: object) -> int | float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _count(value: object) -> int:
    return min(max(value, 0), MAX_COUNT) if isinstance(value, int) and not isinstance(value, bool) else 0


def observer_builtins(observers: Observers) -> list[Builtin]:
    """``engine::observers::get`` (§14.2)."""

    def get(session: EngineSession, data: dict[str, Any]) -> dict[str, Any]:
        observer = observers.table.get(data["id"])
        if observer is None or not observers.may_see(session, observer):
            raise InvocationError("NOT_FOUND", f"there is no observer {shorten(data['id'])}")
        spec = observer.spec
        return {
            **spec.announced(observer.id),
            "source": {"namespace": spec.source[0], "function_id": spec.source[1]},
            "target": {"namespace": spec.target[0], "function_id": spec.target[1]},
            "deliver": spec.deliver,
            "state": observer.state,
            "reason": observer.reason,
            "fires": observer.fires,
            "worker_id": None if observer.session is None else observer.session.worker_id,
            "dropped": dict(observer.dropped),
        }

    return [Builtin("engine::observers::get", get, Input(id="string!"), "One observer: its state and what it dropped")]
