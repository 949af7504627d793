"""Every spelling of a call, a trigger or a trigger type, brought into the one shape the worker works with.

Below: the models of ``trigger.py``. Above: the worker's methods, which pass on what users wrote.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, Final, cast, get_origin

from pydantic import BaseModel

from ._protocol.messages import ABSENT
from ._runtime.calling import CallRequest
from ._runtime.formats import as_format
from .introspection import RegisterServiceInput
from .options import RetryPolicy
from .trigger import RegisterTriggerInput, RegisterTriggerTypeInput
from .triggers import TypedTrigger

__all__ = (
    "CallRequest",
    "normalise_call",
    "normalise_service",
    "normalise_trigger",
    "normalise_trigger_type",
)


_NOTHING: Final[Mapping[str, Any]] = {}


def normalise_call(*args: Any, **kwargs: Any) -> CallRequest:
    """Bring a call into one shape: ``({...})``, ``(TriggerRequest)`` or ``(function_id, payload, ...)`` (A.4, B.8).

    Keys of a dict that are not known are ignored, as upstream does.

    Raises:
        KeyError: No ``function_id``, or an enqueue without ``queue``.
        TypeError: A value of the wrong type, or both forms at once.
        ValueError: A blank namespace, a negative timeout, an action or dispatch that does not exist, a void call that
            is to be repeated.
    """
    if len(args) == 1 and not kwargs and args[0].__class__ is dict:  # most calls, and a fraction of the time
        request: dict[str, Any] = args[0]
        function_id, timeout_ms = request["function_id"], request.get("timeout_ms")
        usual = 2 if timeout_ms is None else 3
        if len(request) == usual and "payload" in request and function_id.__class__ is str and function_id.strip():
            return CallRequest(
                function_id, request["payload"], None, None if timeout_ms is None else _seconds(timeout_ms)
            )
        return _of_mapping(request)
    return _of_arguments(*args, **kwargs)


def _of_mapping(request: Mapping[str, Any]) -> CallRequest:
    get = request.get
    return _call(
        request["function_id"],
        get("payload"),
        get("action"),
        get("timeout_ms"),
        get("metadata"),
        get("namespace"),
        get("dispatch"),
    )


def _of_arguments(
    request: Any = ABSENT,
    payload: Any = ABSENT,
    *,
    function_id: Any = ABSENT,
    action: Any = None,
    timeout_ms: Any = None,
    metadata: Any = None,
    namespace: Any = None,
    dispatch: Any = None,
    retry: Any = None,
) -> CallRequest:
    if retry is not None:
        wanted = normalise_call(
            request, payload, function_id=function_id, action=action, timeout_ms=timeout_ms, metadata=metadata,
            namespace=namespace, dispatch=dispatch,
        )  # fmt: skip
        return _repeated(wanted, retry)
    if request is ABSENT:
        if function_id is ABSENT:
            raise KeyError("function_id")
        request, function_id = function_id, ABSENT
    if isinstance(request, str):
        if function_id is not ABSENT:
            raise TypeError(f"the function id is given twice: {request!r} and {function_id!r}")
        return _call(request, None if payload is ABSENT else payload, action, timeout_ms, metadata, namespace, dispatch)

    if (
        payload is not ABSENT
        or function_id is not ABSENT
        or not (action is timeout_ms is metadata is namespace is dispatch is None)
    ):
        raise TypeError("give a call as one request, or as function id, payload and keyword arguments; not as both")
    if isinstance(request, Mapping):
        return _of_mapping(cast("Mapping[str, Any]", request))
    if hasattr(request, "function_id"):
        # Ours or upstream's model. Attributes, not `model_dump()`: that would dump the payload without its aliases.
        return _call(
            request.function_id,
            request.payload,
            request.action,
            request.timeout_ms,
            request.metadata,
            getattr(request, "namespace", None),
            getattr(request, "dispatch", None),
        )
    raise TypeError(f"a call is a dict, a TriggerRequest or a function id, not {type(request).__name__}")


def _call(
    function_id: Any, payload: Any, action: Any, timeout_ms: Any, metadata: Any, namespace: Any, dispatch: Any
) -> CallRequest:
    if not isinstance(function_id, str):
        raise TypeError(f"function_id must be str, got {type(function_id).__name__}")
    if not function_id.strip():
        raise ValueError("function_id is blank")
    if dispatch is None:
        dispatch = "auto"
    elif dispatch not in ("auto", "remote"):
        raise ValueError(f"dispatch must be 'auto' or 'remote', got {dispatch!r}")
    return CallRequest(
        function_id,
        payload,
        None if action is None else _action(action),
        None if timeout_ms is None else _seconds(timeout_ms),
        ABSENT if metadata is None else metadata,
        None if namespace is None else _namespace("TriggerRequest.namespace", namespace),
        dispatch,
    )


def _repeated(wanted: CallRequest, policy: Any) -> CallRequest:
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry must be a RetryPolicy, got {type(policy).__name__}")
    if wanted.action is not None and wanted.action["type"] == "void":
        raise ValueError("a void call has no answer, so there is nothing to repeat it for")
    wanted.retry = policy
    return wanted


def _action(action: Any) -> dict[str, Any]:
    """An action as on the wire. Upstream runs what it does not know as a plain call (A.25, 14)."""
    fields: Mapping[str, Any]
    if isinstance(action, Mapping):
        fields = cast("Mapping[str, Any]", action)
    elif isinstance(action, BaseModel):
        fields = action.model_dump()
    else:
        raise TypeError(f"{_ACTIONS}, not {type(action).__name__}")
    kind = fields.get("type")
    if kind == "void":
        return {"type": "void"}
    if kind != "enqueue":
        raise ValueError(f"{_ACTIONS}, not one of type {kind!r}")
    queue = fields["queue"]
    if not isinstance(queue, str):
        raise TypeError(f"queue must be str, got {type(queue).__name__}")
    return {"type": "enqueue", "queue": queue}


_ACTIONS: Final = "an action is TriggerAction.Enqueue(queue=...) or TriggerAction.Void(), or the same as a dict"


def _seconds(timeout_ms: Any) -> float | None:
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int | float):
        raise TypeError(f"timeout_ms must be a number of milliseconds, got {type(timeout_ms).__name__}")
    if not math.isfinite(timeout_ms) or timeout_ms < 0:
        raise ValueError(f"timeout_ms must be positive, or 0 for the worker's default, got {timeout_ms}")
    return timeout_ms / 1000 if timeout_ms else None


def _namespace(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{field} must be str, got {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{field} is blank; leave it out for the worker's namespace")
    return value


def normalise_trigger(
    trigger: Any = ABSENT,
    function_id: Any = ABSENT,
    config: Any = ABSENT,
    metadata: Any = ABSENT,
    *,
    type: Any = ABSENT,
    namespace: Any = None,
    trigger_namespace: Any = None,
) -> RegisterTriggerInput:
    """Bring a trigger into one shape: ``({...})``, ``(RegisterTriggerInput)`` or ``(type, function_id, config, ...)``.

    A ``TypedTrigger`` stands for type and config.

    The caller's object is left alone. A model given as ``config`` becomes JSON here, by alias: the provider reads it,
    often one in another language, and aliases are the names it knows. Upstream's typed handle dumps by field name,
    unlike its every other path.

    Raises:
        pydantic.ValidationError: A field is missing or of the wrong type. It is a ``ValueError``.
        TypeError: Both forms at once, or neither.
        ValueError: A blank namespace.
    """
    if trigger is ABSENT:
        trigger, type = type, ABSENT
    if isinstance(trigger, TypedTrigger):
        if config is not ABSENT:
            raise TypeError(f"a {trigger.__class__.__name__} is a config already; another one was given with it")
        trigger, config = trigger.trigger_type, trigger
    if isinstance(trigger, str):
        if type is not ABSENT or function_id is ABSENT:
            raise TypeError("a trigger is given as type, function_id and config, or as one request")
        return _trigger(
            {
                "type": trigger,
                "function_id": function_id,
                "config": None if config is ABSENT else config,
                "metadata": None if metadata is ABSENT else metadata,
                "namespace": namespace,
                "trigger_namespace": trigger_namespace,
            }
        )
    if not (function_id is config is metadata is type is ABSENT and namespace is trigger_namespace is None):
        raise TypeError("give a trigger as one request, or as type, function_id and config; not as both")
    if isinstance(trigger, Mapping):
        return _trigger(cast("Mapping[str, Any]", trigger))
    if isinstance(trigger, BaseModel):
        return _trigger(_attributes(trigger))
    raise TypeError(f"a trigger is a dict, a RegisterTriggerInput or a type's id, not {trigger.__class__.__name__}")


def normalise_trigger_type(*args: Any, **kwargs: Any) -> tuple[RegisterTriggerTypeInput, Any]:
    """Bring a trigger type into one shape: ``({...} or model, handler)`` or ``(id, description, handler, *, formats)``.

    Types given as formats become JSON Schema; everything else passes as it is.

    Returns:
        The trigger type, and its handler as it was given.

    Raises:
        pydantic.ValidationError: A field is missing or of the wrong type. It is a ``ValueError``.
        TypeError: Both forms at once, or neither.
    """
    is_id = isinstance(args[0] if args else kwargs.get("id"), str)
    fields, handler = (_type_of_parts if is_id else _type_of_request)(*args, **kwargs)
    wanted = RegisterTriggerTypeInput.model_validate(fields)
    wanted.trigger_request_format = _schema(wanted.trigger_request_format)
    wanted.call_request_format = _schema(wanted.call_request_format)
    return wanted, handler


def _type_of_parts(id: str, description: str, handler: Any, **formats: Any) -> tuple[dict[str, Any], Any]:
    unknown = set(formats) - {"trigger_request_format", "call_request_format"}
    if unknown:
        raise TypeError(f"register_trigger_type has no parameter {min(unknown)!r}")
    return {"id": id, "description": description, **formats}, handler


def _type_of_request(trigger_type: Any, handler: Any) -> tuple[dict[str, Any], Any]:
    if isinstance(trigger_type, BaseModel):
        return _attributes(trigger_type), handler
    if isinstance(trigger_type, Mapping):
        return dict(cast("Mapping[str, Any]", trigger_type)), handler
    raise TypeError(f"a trigger type is a dict, a RegisterTriggerTypeInput or an id, not {type(trigger_type).__name__}")


def normalise_service(*args: Any, **kwargs: Any) -> RegisterServiceInput:
    """Bring a service into one shape: ``({...})``, ``(RegisterServiceInput)`` or ``(id, description, parent_id)``.

    Raises:
        pydantic.ValidationError: A field is missing or of the wrong type. It is a ``ValueError``.
        TypeError: Both forms at once, or neither.
    """
    is_id = isinstance(args[0] if args else kwargs.get("id"), str)
    return RegisterServiceInput.model_validate((_service_of_parts if is_id else _service_of_request)(*args, **kwargs))


def _service_of_parts(id: str, description: str | None = None, parent_id: str | None = None) -> dict[str, Any]:
    return {"id": id, "description": description, "parent_service_id": parent_id}


def _service_of_request(service: Any) -> dict[str, Any]:
    if isinstance(service, BaseModel):
        return _attributes(service)
    if isinstance(service, Mapping):
        return dict(cast("Mapping[str, Any]", service))
    raise TypeError(f"a service is a dict, a RegisterServiceInput or an id, not {type(service).__name__}")


def _trigger(fields: Mapping[str, Any]) -> RegisterTriggerInput:
    wanted = RegisterTriggerInput.model_validate(dict(fields))
    if wanted.namespace is not None:
        _namespace("RegisterTriggerInput.namespace", wanted.namespace)
    if isinstance(wanted.config, BaseModel):
        wanted.config = wanted.config.model_dump(mode="json", by_alias=True)
    return wanted


def _attributes(model: BaseModel) -> dict[str, Any]:
    """Fields as they are. ``model_dump()`` would dump models inside, and without their aliases."""
    return {name: getattr(model, name) for name in type(model).model_fields}


def _schema(value: Any) -> Any:
    return as_format(value) if inspect.isclass(value) or get_origin(value) is not None else value
