"""What the engine tells about functions, workers and triggers (§14.2, E-1 to E-31).

Plain functions over the router's tables: each takes the checked input and returns the JSON value. Below: ``_rows``.
Above: ``_router`` puts ``introspection_builtins`` into its table of functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import ABSENT
from ..errors import InvocationError
from ._builtin import ENGINE_FUNCTIONS, Builtin, Input
from ._rows import (
    ENGINE_WORKERS,
    active_bindings,
    binding_row,
    engine_worker_row,
    function_detail,
    function_row,
    is_owned,
    type_detail,
    type_row,
    worker_row,
)

if TYPE_CHECKING:
    from ._functions import Function
    from ._router import Router

__all__ = ("FUNCTIONS_CHANGED_SCHEMA", "WORKERS_CHANGED_SCHEMA", "introspection_builtins")

MAX_BATCH: Final = 32
INTERNAL_PREFIX: Final = "engine::"

MANDATORY: Final = frozenset({*ENGINE_WORKERS, "configuration", "iii-telemetry"})

_EVENT: Final[dict[str, Any]] = {"type": "object", "required": ["event"]}
WORKERS_CHANGED_SCHEMA: Final = _EVENT | {
    "properties": {
        "event": {"enum": ["worker_connected", "worker_metadata_updated", "worker_disconnected"]},
        "worker_id": {"type": "string"},
    }
}
FUNCTIONS_CHANGED_SCHEMA: Final = _EVENT | {
    "properties": {"event": {"const": "functions_changed"}, "functions": {"type": "array", "items": {"type": "object"}}}
}


# -- functions ---------------------------------------------------------------------------------------------------


def list_functions(router: Router, session: EngineSession, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::functions::list`` (E-1, E-8 to E-13)."""
    guard = router.guards.get(session)
    needle = _needle(data)
    prefix: str = data.get("prefix", "")
    workers = {*data.get("workers", ()), *([data["worker"]] if "worker" in data else ())}
    found: list[tuple[int, str, str, Function]] = []
    for function in router.functions:
        if not function.id.startswith(prefix) or (workers and function.worker_name not in workers):
            continue
        if not data.get("include_internal", False) and _is_internal(function):
            continue
        if guard is not None and not guard.is_visible(function):
            continue
        if (rank := _rank(function, needle)) is not None:
            found.append((rank, function.id, function.namespace, function))
    found.sort(key=lambda entry: entry[:3])
    return {"functions": [function_row(entry[3]) for entry in found]}


def _is_internal(function: Function) -> bool:
    if function.id.startswith(INTERNAL_PREFIX) and not function.id.startswith("engine::queue::"):
        return True
    metadata = function.metadata
    return isinstance(metadata, dict) and cast("dict[str, Any]", metadata).get("internal") is True


def _rank(function: Function, needle: str) -> int | None:
    """How well a function matches a search, 0 best, None not at all (E-12)."""
    if not needle:
        return 0
    function_id = function.id.lower()
    if function_id.startswith(needle) or needle in function_id.split("::"):
        return 0
    if needle in function_id:
        return 1
    return 2 if needle in (function.description or "").lower() else None


def info_functions(router: Router, session: EngineSession, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::functions::info``, one or a batch (E-14 to E-18)."""
    one, many = data.get("function_id"), data.get("function_ids")
    if (one is None) == (many is None):
        raise InvocationError("INVALID_ARGUMENTS", "give exactly one of `function_id` and `function_ids`")
    namespace: str | None = data.get("namespace")
    if one is not None:
        return function_detail(router, _find_function(router, session, one, namespace))
    function_ids: list[str] = list(dict.fromkeys(many or ()))
    if not 1 <= len(function_ids) <= MAX_BATCH:
        raise InvocationError("INVALID_ARGUMENTS", f"`function_ids` takes 1 to {MAX_BATCH} different ids")
    functions: list[dict[str, Any]] = []
    for function_id in function_ids:
        try:
            functions.append(function_detail(router, _find_function(router, session, function_id, namespace)))
        except InvocationError as error:  # one bad id never fails the batch
            reason = "forbidden" if error.code == "FORBIDDEN" else "not_found"
            functions.append({"function_id": function_id, "error": reason})
    return {"functions": functions}


def _find_function(router: Router, session: EngineSession, function_id: str, namespace: str | None) -> Function:
    chosen = _choose(f"Function {function_id}", router.functions.namespaces(function_id), namespace)
    function = router.functions.get(chosen, function_id)
    assert function is not None
    guard = router.guards.get(session)
    if guard is not None and not guard.is_visible(function):
        raise InvocationError("FORBIDDEN", f"Function {function_id} is not exposed to this worker.")
    return function


def _choose(what: str, namespaces: list[str], named: str | None) -> str:
    """Choose a namespace: the named one only; else ``default``, else the only one (E-15, E-29)."""
    wanted = DEFAULT_NAMESPACE if named is None else named
    if wanted in namespaces:
        return wanted
    listed = ", ".join(namespaces)
    if named is not None:
        hint = f" It is registered in namespace(s): {listed}." if namespaces else ""
        raise InvocationError("NOT_FOUND", f"{what} not found in namespace {named}.{hint}")
    match namespaces:
        case []:
            raise InvocationError("NOT_FOUND", f"{what} not found.")
        case [only]:
            return only
        case _:
            raise InvocationError("NOT_FOUND", f"{what} is in several namespaces: {listed}. Name one of them.")


# -- triggers ----------------------------------------------------------------------------------------------------


def list_triggers(router: Router, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::triggers::list``: trigger types (E-2, E-22)."""
    needle = _needle(data)
    rows = [
        row
        for trigger_type in router.triggers.types.values()
        if (row := type_row(trigger_type))
        and row["id"].startswith(data.get("prefix", ""))
        and data.get("worker", row["worker_name"]) == row["worker_name"]
        and (data.get("include_internal", False) or not row["id"].startswith(INTERNAL_PREFIX))
        and (needle in row["id"].lower() or needle in row["description"].lower())
    ]
    return {"triggers": sorted(rows, key=lambda row: (row["id"], row["namespace"]))}


def info_trigger(router: Router, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::triggers::info`` (E-19 to E-21)."""
    namespace = data.get("namespace", DEFAULT_NAMESPACE)
    trigger_type = router.triggers.types.get((namespace, data["id"]))
    if trigger_type is None:
        raise InvocationError("NOT_FOUND", f"Trigger type {data['id']} not found in namespace {namespace}.")
    return type_detail(router, trigger_type)


def list_registered_triggers(router: Router, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::registered-triggers::list`` (E-3, E-23, E-24)."""
    needle = _needle(data)
    rows = [
        row
        for binding in active_bindings(router)
        if (row := binding_row(router, binding))
        and data.get("trigger_type", binding.type_id) == binding.type_id
        and data.get("function_id", binding.function_id) == binding.function_id
        and data.get("worker", row["worker_name"]) == row["worker_name"]
        and (data.get("include_internal", False) or not binding.function_id.startswith(INTERNAL_PREFIX))
        and any(needle in text.lower() for text in (binding.id, binding.type_id, binding.function_id))
    ]
    return {"registered_triggers": rows}


def info_registered_trigger(router: Router, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::registered-triggers::info``."""
    binding = router.triggers.bindings.get(data["id"])
    if binding is None or binding.type is None:
        raise InvocationError("NOT_FOUND", f"Trigger {data['id']} not found.")
    detail = binding_row(router, binding)
    del detail["config_summary"]
    if binding.metadata is not ABSENT and binding.metadata is not None:
        detail["metadata"] = binding.metadata
    function = router.functions.get(binding.namespace, binding.function_id)
    detail["trigger"] = type_detail(router, binding.type)
    detail["function"] = function_detail(router, function) if function is not None else None
    return detail


# -- workers -----------------------------------------------------------------------------------------------------


def list_workers(router: Router, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::workers::list`` (E-25 to E-28, P-114)."""
    needle = _needle(data)
    sessions = router.sessions.values()
    rows = [
        worker_row(router, session)
        for session in sessions
        if (session.identity.name if session.is_in_process else session.identity.pid) is not None
    ]
    shown = {row["name"] for row in rows if row["isolation"] == "in-process"}
    rows += [engine_worker_row(router, name) for name in ENGINE_WORKERS if name not in shown]
    rows = [
        row
        for row in rows
        if needle in (row["name"] or "").lower()
        and data.get("runtime", row["runtime"]) == row["runtime"]
        and data.get("status", row["status"]) == row["status"]
    ]
    return {"workers": sorted(rows, key=lambda row: (row["name"] or row["id"], row["id"]))}


def info_worker(router: Router, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::workers::info`` (E-29 to E-31)."""
    name: str = data["name"]
    named: dict[str, EngineSession | None] = {}
    if name in ENGINE_WORKERS:
        named[DEFAULT_NAMESPACE] = None
    for session in router.sessions.values():
        if session.identity.name == name and session.namespace is not None:
            named[session.namespace] = session
    found = named[_choose(f"Worker {name}", sorted(named), data.get("namespace"))]
    worker = engine_worker_row(router, name) if found is None else worker_row(router, found)
    if found is not None and not found.is_in_process and found.identity.pid is not None:
        worker["pid"] = found.identity.pid
    metrics = router.telemetry.latest_metrics(found.worker_id) if found is not None else None
    if metrics is not None:
        worker["latest_metrics"] = metrics | {"runtime": worker["runtime"]}  # upstream: "node", whatever it is
    worker["internal"] = worker["isolation"] == "in-process" and name in MANDATORY
    functions = [function for function in router.functions if is_owned(function, found, name)]
    keys = {(function.namespace, function.id) for function in functions}
    functions.sort(key=lambda function: (function.id, function.namespace))
    types = [
        trigger_type
        for trigger_type in router.triggers.types.values()
        if trigger_type.provider is found and (found is not None or name == ENGINE_FUNCTIONS)
    ]
    return {
        "worker": worker,
        "functions": [function_row(function) for function in functions],
        "trigger_types": [type_row(trigger_type) for trigger_type in sorted(types, key=lambda entry: entry.id)],
        "registered_triggers": [
            binding_row(router, binding)
            for binding in active_bindings(router)
            if (binding.namespace, binding.function_id) in keys
        ],
    }


def _needle(data: dict[str, Any]) -> str:
    """What to search for, ignoring case; empty finds everything (E-7)."""
    search: str = data.get("search", "")
    return search.lower()


# -- table -------------------------------------------------------------------------------------------------------


def introspection_builtins(router: Router) -> list[Builtin]:
    """The eight functions, ready for the router's table."""

    def builtin(
        function_id: str, function: Callable[[Router, dict[str, Any]], dict[str, Any]], description: str, fields: Input
    ) -> Builtin:
        return Builtin(function_id, lambda _session, data: function(router, data), fields, description)

    return [
        Builtin(
            "engine::functions::list",
            partial(list_functions, router),
            Input(search="string", prefix="string", worker="string", workers="strings", include_internal="boolean"),
            "List registered functions",
        ),
        Builtin(
            "engine::functions::info",
            partial(info_functions, router),
            Input(function_id="string", function_ids="strings", namespace="string"),
            "Describe one function, or up to 32",
        ),
        builtin(
            "engine::workers::list",
            list_workers,
            "List connected workers",
            Input(search="string", runtime="string", status="string"),
        ),
        builtin(
            "engine::workers::info",
            info_worker,
            "Describe one worker",
            Input(name="string!", namespace="string"),
        ),
        builtin(
            "engine::triggers::list",
            list_triggers,
            "List trigger types",
            Input(search="string", prefix="string", worker="string", include_internal="boolean"),
        ),
        builtin(
            "engine::triggers::info",
            info_trigger,
            "Describe one trigger type",
            Input(id="string!", namespace="string"),
        ),
        builtin(
            "engine::registered-triggers::list",
            list_registered_triggers,
            "List registered triggers",
            Input(
                search="string",
                trigger_type="string",
                function_id="string",
                worker="string",
                include_internal="boolean",
            ),
        ),
        builtin(
            "engine::registered-triggers::info",
            info_registered_trigger,
            "Describe one registered trigger",
            Input(id="string!"),
        ),
    ]
