"""The fields of each message on the wire, and what they may be: the table by which the codec above reads and writes.

The rules are the engine's (§4.1): it drops a message with a required field missing, or with one of a wrong type.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeGuard, cast

from .messages import (
    ABSENT,
    ErrorMessage,
    FunctionRegistered,
    InvocationResult,
    InvocationsObserved,
    InvokeFunction,
    LocalInvocationStats,
    Observe,
    ObserverAck,
    ObserverAdded,
    ObserveResult,
    ObserverRemoved,
    ObserverStateChanged,
    Ping,
    Pong,
    Reattach,
    RegisterFunction,
    RegisterService,
    RegisterTrigger,
    RegisterTriggerType,
    RegistrationRejected,
    TriggerRegistrationResult,
    Unobserve,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
    WorkerRegistered,
)

__all__ = ("ERROR", "FIELDS", "Field", "is_error_body", "is_text", "wrong")


def is_error_body(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is an error as the engine reads it: ``code``, ``message``, perhaps ``stacktrace`` (§4.4)."""
    if not isinstance(value, dict):
        return False
    body = cast("dict[str, Any]", value)
    return (
        isinstance(body.get("code"), str)
        and isinstance(body.get("message"), str)
        and _is_none_or_text(body.get("stacktrace"))
    )


def is_text(value: object) -> bool:
    """Whether it is a string."""
    return isinstance(value, str)


def _is_none_or_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(is_text, cast("list[object]", value)))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_objects(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_object, cast("list[object]", value)))


def _is_function(value: object) -> bool:
    """One end of an observer (§16.5)."""
    if not isinstance(value, dict):
        return False
    end = cast("dict[str, object]", value)
    return isinstance(end.get("function_id"), str) and _is_none_or_text(end.get("namespace"))


def _is_present(value: object) -> bool:
    return value is not ABSENT


def _is_action(value: Any) -> bool:
    """§5.3: any other tag makes the frame undecodable."""
    if not isinstance(value, dict):
        return False
    action = cast("dict[str, object]", value)
    kind = action.get("type")
    return kind == "void" or (kind == "enqueue" and isinstance(action.get("queue"), str))


_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_AUTH_KEYS: Final = {"hmac": ("secret_key",), "bearer": ("token_key",), "api_key": ("header", "value_key")}


def _is_http(value: object) -> bool:
    """§10. ``headers`` and ``method`` may be absent but not null (§4.1)."""
    if not isinstance(value, dict):
        return False
    http = cast("dict[str, Any]", value)
    headers, timeout, auth = http.get("headers", {}), http.get("timeout_ms"), http.get("auth")
    return (
        isinstance(http.get("url"), str)
        and http.get("method", "POST") in _METHODS
        and isinstance(headers, dict)
        and all(isinstance(header, str) for header in cast("dict[str, Any]", headers).values())
        and (timeout is None or _is_count(timeout))
        and (auth is None or _is_auth(auth))
    )


def _is_auth(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    auth = cast("dict[str, object]", value)
    kind = auth.get("type")
    keys = _AUTH_KEYS.get(kind) if isinstance(kind, str) else None
    return keys is not None and all(isinstance(auth.get(key), str) for key in keys)


def _never(value: object) -> bool:
    return False


def _is_none(value: object) -> bool:
    return value is None


class Field(NamedTuple):
    """One field of a message on the wire."""

    name: str
    accepts: Callable[[Any], bool]
    expected: str
    """What it accepts, for the sentence of an error."""
    required: bool = False
    absent: Any = None
    """What stands in the message for a field that is not on the wire."""
    is_empty: Callable[[Any], bool] = _is_none
    """Which values of the wire mean the same as none."""


def _required(name: str) -> Field:
    return Field(name, is_text, "a string", required=True, is_empty=_never)


def _text(name: str) -> Field:
    return Field(name, is_text, "a string")


def _object(name: str) -> Field:
    return Field(name, _is_object, "an object")


def _value(name: str, *, required: bool = False) -> Field:
    """Any JSON, where null is a value."""
    return Field(name, _is_present, "present", required, absent=ABSENT, is_empty=_never)


def _count(name: str) -> Field:
    return Field(name, _is_count, "an integer, not negative")


def _defaulted(field: Field) -> Field:
    """One that is always written, and when it is not read has the default of its class."""
    return field._replace(absent=ABSENT)


def _list(name: str, *, required: bool = False) -> Field:
    return Field(
        name, _is_objects, "a list of objects", required, absent=ABSENT, is_empty=_never if required else _is_none
    )


def _end(name: str) -> Field:
    return Field(name, _is_function, "an object with the string function_id", required=True, is_empty=_never)


ERROR: Final = Field("error", is_error_body, 'an object with the strings "code" and "message"')

FIELDS: Final[dict[type[Any], tuple[Field, ...]]] = {
    WorkerRegistered: (
        _required("worker_id"),
        _text("reattach_token"),
        Field("features", _is_texts, "a list of strings"),
    ),
    RegistrationRejected: (
        _required("code"),
        _text("namespace"),
        _text("worker_name"),
        _text("function_id"),
        _text("owner_worker_id"),
    ),
    ErrorMessage: (ERROR._replace(required=True, is_empty=_never),),
    Reattach: (_required("previous_worker_id"), _text("reattach_token")),
    RegisterFunction: (
        _required("id"),
        _text("description"),
        _value("request_format"),
        _value("response_format"),
        _value("metadata"),
        Field("invocation", _is_http, "an HTTP function: url, and perhaps method, headers, timeout_ms, auth"),
        _object("observe"),
    ),
    UnregisterFunction: (_required("id"),),
    RegisterTriggerType: (
        _required("id"),
        _required("description"),
        _value("trigger_request_format"),
        _value("call_request_format"),
        _text("namespace"),
    ),
    UnregisterTriggerType: (_required("id"), _text("namespace")),
    RegisterTrigger: (
        _required("id"),
        _required("trigger_type"),
        _required("function_id"),
        _value("config", required=True),
        _value("metadata"),
        _text("namespace"),
        _text("trigger_namespace"),
    ),
    UnregisterTrigger: (_required("id"), _text("trigger_type")),
    TriggerRegistrationResult: (
        _required("id"),
        _text("trigger_type"),
        _text("function_id"),
        ERROR._replace(absent=ABSENT, is_empty=operator.not_),
    ),
    RegisterService: (
        _required("id"),
        _text("name")._replace(is_empty=_never),  # §4.1: absent, but not null
        _text("description"),
        _text("parent_service_id"),
    ),
    InvokeFunction: (
        _required("function_id"),
        _value("data", required=True),
        _text("invocation_id"),
        _value("metadata"),
        _text("traceparent"),
        _text("baggage"),
        Field("action", _is_action, '{"type": "void"} or {"type": "enqueue", "queue": a string}'),
        _text("namespace"),
        _object("caller"),
        _count("observe_depth"),
        _object("activation"),
    ),
    InvocationResult: (
        _required("invocation_id"),
        _required("function_id"),
        _value("result"),
        # A malformed one is the caller's to report (P-31); ``_check`` refuses ours.
        Field("error", _is_present, "present", absent=ABSENT, is_empty=operator.not_),
        _text("traceparent"),
        _text("baggage"),
    ),
    FunctionRegistered: (
        _required("id"),
        _text("namespace"),
        _defaulted(_count("revision")),
        _defaulted(Field("local_dispatch", _is_bool, "true or false")),
        _list("observers"),
    ),
    ObserverAdded: (
        _required("function_id"),
        _object("observer")._replace(required=True, is_empty=_never),
        _text("namespace"),
        _defaulted(_count("revision")),
    ),
    ObserverRemoved: (
        _required("function_id"),
        _required("id"),
        _text("namespace"),
        _defaulted(_count("revision")),
    ),
    ObserverAck: (
        _required("function_id"),
        _required("id"),
        _text("namespace"),
        _defaulted(_count("revision")),
        ERROR._replace(absent=ABSENT, is_empty=operator.not_),
    ),
    Observe: (
        _required("id"),
        _end("source"),
        _end("target"),
        Field("metadata", _is_present, "present"),
        _count("max_fires"),
        _count("expires_in_ms"),
        _count("max_in_flight"),
    ),
    Unobserve: (_required("id"),),
    ObserveResult: (
        _required("id"),
        _required("state"),
        Field("warnings", _is_texts, "a list of strings"),
        _object("error"),
    ),
    ObserverStateChanged: (
        _required("id"),
        _required("state"),
        _defaulted(_count("fires")),
        _object("reason"),
    ),
    InvocationsObserved: (_list("items", required=True),),
    LocalInvocationStats: (
        _count("window_ms")._replace(required=True, is_empty=_never),
        _list("functions", required=True),
        _list("dropped_reports", required=True),
    ),
    Ping: (),
    Pong: (),
}


def wrong(kind: str, field: Field, value: object) -> str:
    """The sentence for a value that a field does not accept."""
    if value is ABSENT:
        return f"{kind}: {field.name} is missing"
    return f"{kind}: {field.name} must be {field.expected}; this {type(value).__name__} is not"
