"""Functions, trigger types, triggers and workers as the introspection functions show them (E-5, E-6, E-9 to E-27).

Below: the router's tables. Above: ``_introspection`` selects, sorts and answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._protocol.codec import to_json
from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import ABSENT
from ._builtin import ENGINE_FUNCTIONS, OBSERVABILITY

if TYPE_CHECKING:
    from ._functions import Function
    from ._router import Router
    from ._triggers import Binding, TriggerType

__all__ = (
    "ENGINE_WORKERS",
    "active_bindings",
    "binding_row",
    "engine_worker_row",
    "function_detail",
    "function_row",
    "is_owned",
    "type_detail",
    "type_row",
    "worker_row",
)

MAX_SUMMARY: Final = 80
WORKER_MANAGER: Final = "iii-worker-manager"

ENGINE_WORKERS: Final = {
    ENGINE_FUNCTIONS: "Core engine functions: identity, triggers, channels, introspection",
    OBSERVABILITY: "Traces, metrics and logs",
    WORKER_MANAGER: "The listener that workers connect to",
}
"""In-process workers that have no connection of their own. One that connects under such a name is shown instead."""

TYPE_OWNERS: Final = {
    "http": "iii-http",
    "cron": "iii-cron",
    "subscribe": "iii-pubsub",
    "state": "iii-state",
    "durable:subscriber": "queue",
    "stream": "iii-stream",
    "stream:join": "iii-stream",
    "stream:leave": "iii-stream",
    "log": OBSERVABILITY,
    "trace": OBSERVABILITY,
    "configuration": "configuration",
}


def function_row(function: Function) -> dict[str, Any]:
    """One function as lists show it (E-9)."""
    row: dict[str, Any] = {
        "function_id": function.id,
        "namespace": function.namespace,
        "worker_name": function.worker_name,
    }
    if function.description is not None:
        row["description"] = function.description
    if function.metadata is not ABSENT and function.metadata is not None:
        row["metadata"] = function.metadata
    return row


def function_detail(router: Router, function: Function) -> dict[str, Any]:
    """One function with its schemas and triggers (E-17, E-18)."""
    detail = function_row(function)
    for name, schema in (("request_schema", function.request_format), ("response_schema", function.response_format)):
        if schema is not ABSENT and schema is not None:
            detail[name] = schema
    detail["registered_triggers"] = [
        {"id": binding.id, "trigger_type": binding.type_id, "config": binding.config}
        for binding in active_bindings(router)
        if binding.function_id == function.id and binding.namespace == function.namespace
    ]
    return detail


def type_row(trigger_type: TriggerType) -> dict[str, Any]:
    """One trigger type as lists show it."""
    return {
        "id": trigger_type.id,
        "namespace": trigger_type.namespace,
        "worker_name": _type_owner(trigger_type),
        "description": trigger_type.description,
    }


def type_detail(router: Router, trigger_type: TriggerType) -> dict[str, Any]:
    """One trigger type with its schemas and how often it is bound, in all namespaces (E-20, E-21)."""
    detail = type_row(trigger_type)
    for name, schema in (
        ("configuration_schema", trigger_type.trigger_request_format),
        ("request_schema", trigger_type.call_request_format),
    ):
        if schema is not ABSENT and schema is not None:
            detail[name] = schema
    detail["instance_count"] = sum(
        len(other.bindings) for other in router.triggers.types.values() if other.id == trigger_type.id
    )
    return detail


def binding_row(router: Router, binding: Binding) -> dict[str, Any]:
    """One trigger as lists show it (E-23)."""
    summary = to_json(binding.config).decode()
    return {
        "id": binding.id,
        "trigger_type": binding.type_id,
        "function_id": binding.function_id,
        "worker_name": _target_owner(router, binding),
        "config": binding.config,
        "config_summary": summary if len(summary) <= MAX_SUMMARY else f"{summary[:MAX_SUMMARY]}…",
    }


def worker_row(router: Router, session: EngineSession) -> dict[str, Any]:
    """One connection as lists show it: every key is there (E-25, E-27)."""
    identity = session.identity
    row: dict[str, Any] = {
        "id": session.worker_id,
        "name": identity.name,
        "namespace": session.namespace or DEFAULT_NAMESPACE,
        "description": identity.description,
        "version": identity.version,
        "runtime": identity.runtime,
        "os": identity.os,
        "status": "connected",
        "function_count": len(session.functions),
        "connected_at_ms": session.connected_at_ms,
        "active_invocations": len(session.calls) + len(session.executing),
        "isolation": identity.isolation,
        "ip_address": session.ip_address,
    }
    if session.is_in_process:
        owned = [function for function in router.functions if is_owned(function, session, identity.name)]
        row |= _in_process(router, identity.name or session.worker_id, len(owned))
        row["description"] = identity.description or ENGINE_WORKERS.get(identity.name or "")
    return row


def engine_worker_row(router: Router, name: str) -> dict[str, Any]:
    owned = [function for function in router.functions if is_owned(function, None, name)]
    return {
        "name": name,
        "namespace": DEFAULT_NAMESPACE,
        "description": ENGINE_WORKERS[name],
        "connected_at_ms": router.started_at_ms,
        "active_invocations": 0,
        **_in_process(router, name, len(owned)),
    }


def _in_process(router: Router, name: str, function_count: int) -> dict[str, Any]:
    return {
        "id": name,
        "version": router.version,
        "runtime": "engine",
        "os": None,
        "status": "available",
        "function_count": function_count,
        "isolation": "in-process",
        "ip_address": None,
    }


# -- owners ------------------------------------------------------------------------------------------------------


def is_owned(function: Function, session: EngineSession | None, name: str | None) -> bool:
    """Whether a function is that connection's, or the engine's own under that name."""
    if function.builtin is not None:
        return function.builtin.worker_name == name and (session is None or session.is_in_process)
    return function.owner is session


def _type_owner(trigger_type: TriggerType) -> str:
    """The worker shown as a type's owner (E-6)."""
    name = trigger_type.provider.identity.name if trigger_type.provider is not None else None
    return name or TYPE_OWNERS.get(trigger_type.id) or trigger_type.id.partition("::")[0]


def _target_owner(router: Router, binding: Binding) -> str:
    function = router.functions.get(binding.namespace, binding.function_id)
    return function.worker_name if function is not None else binding.function_id.partition("::")[0]


def active_bindings(router: Router) -> list[Binding]:
    """Triggers that are not parked (E-24), by id."""
    active = (binding for binding in router.triggers.bindings.values() if binding.type is not None)
    return sorted(active, key=lambda binding: binding.id)
