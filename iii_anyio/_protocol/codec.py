"""Text ↔ ``Message``: the shape of every message on the wire, from one table. Below it: JSON text; above: the session.

Both directions keep the same rules (§4.1): what ``decode`` would refuse of a peer, ``encode`` refuses of us, as the
engine drops it without a word (G-2). The exception is the error of an invocation's result: a malformed one still ends
the call it belongs to (P-31), so ``decode`` takes it.

The two messages of an invocation are written and read by hand, the others by the table.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeGuard, cast

from ..errors import MAX_MESSAGE_BYTES, DecodeError, EncodeError, payload_too_large
from .jsontext import from_json, to_json
from .messages import (
    ABSENT,
    ErrorMessage,
    InvocationResult,
    InvokeFunction,
    Message,
    Ping,
    Pong,
    Reattach,
    RegisterFunction,
    RegisterService,
    RegisterTrigger,
    RegisterTriggerType,
    RegistrationRejected,
    TriggerRegistrationResult,
    Unknown,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
    WorkerRegistered,
)

__all__ = ("canonical_uuid", "decode", "encode", "from_json", "is_error_body", "is_uuid", "to_json")


def encode(message: Message) -> bytes:
    """Write a message as compact UTF-8 JSON: ``type``, then its fields in the order of the class, then ``extra``.

    Left out are fields that are ``ABSENT``, and optional ones of a fixed type that are ``None``. Of a result with an
    error only the error is written; an empty error (``{}``, ``None``) is none.

    Raises:
        EncodeError: A payload or field that the engine could not read. The text names it.
        PayloadTooLargeError: More than 64 MiB, envelope included (P-06).
    """
    if isinstance(message, InvokeFunction):
        fields = _write_invoke(message)
        text = to_json(fields, message.data is None)
    elif isinstance(message, InvocationResult):
        fields = _write_result(message)
        text = to_json(fields, "result" in fields and message.result is None)
    elif isinstance(message, Unknown):
        text = to_json({"type": message.type, **message.fields, "type": message.type})
    else:
        text = to_json(_write(message))
    if len(text) > MAX_MESSAGE_BYTES:
        if isinstance(message, InvokeFunction | InvocationResult):
            raise payload_too_large(len(text), message.function_id, message.invocation_id)
        raise payload_too_large(len(text))
    return text


def decode(text: bytes | bytearray | memoryview) -> Message:
    """Read one message. Fields of the wire that its class does not have are kept in ``extra``.

    Raises:
        DecodeError: No JSON object with a ``type``, a field missing or of a wrong type, or more than 127 levels.
    """
    fields = from_json(text)
    if type(fields) is not dict:
        raise DecodeError("not a message: JSON, but no object")
    kind: object = fields.pop("type", None)
    if kind == "invokefunction":
        return _read_invoke(fields)
    if kind == "invocationresult":
        return _read_result(fields)
    if not isinstance(kind, str):
        raise DecodeError("not a message: it has no type")
    cls = _CLASSES.get(kind)
    return Unknown(kind, fields) if cls is None else _read(cls, fields)


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


_UUID: Final = re.compile(
    r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)


def is_uuid(text: str) -> bool:
    """Whether the engine takes it for an invocation id: a UUID, hyphens and lower case not required (§4.2)."""
    return _UUID.fullmatch(text) is not None


def canonical_uuid(text: str) -> str:
    """Lower case with hyphens, as the engine echoes an invocation id (§4.2, G-19).

    Raises:
        DecodeError: Not a UUID.
    """
    match = _UUID.fullmatch(text)
    if match is None:
        raise DecodeError("not a UUID")
    text = text.lower()
    if match[1]:
        return text
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# ---------------------------------------------------------------- what a field may be


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_none_or_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, cast("list[object]", value)))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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


def _never(value: object) -> bool:  # noqa: ARG001
    return False


def _is_none(value: object) -> bool:
    return value is None


class _Field(NamedTuple):
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


def _required(name: str) -> _Field:
    return _Field(name, _is_text, "a string", required=True, is_empty=_never)


def _text(name: str) -> _Field:
    return _Field(name, _is_text, "a string")


def _object(name: str) -> _Field:
    return _Field(name, _is_object, "an object")


def _value(name: str, *, required: bool = False) -> _Field:
    """Any JSON, where null is a value."""
    return _Field(name, _is_present, "present", required, absent=ABSENT, is_empty=_never)


_ERROR: Final = _Field("error", is_error_body, 'an object with the strings "code" and "message"')

_FIELDS: Final[dict[type[Any], tuple[_Field, ...]]] = {
    WorkerRegistered: (
        _required("worker_id"),
        _text("reattach_token"),
        _Field("features", _is_texts, "a list of strings"),
    ),
    RegistrationRejected: (
        _required("code"),
        _text("namespace"),
        _text("worker_name"),
        _text("function_id"),
        _text("owner_worker_id"),
    ),
    ErrorMessage: (_ERROR._replace(required=True, is_empty=_never),),
    Reattach: (_required("previous_worker_id"), _text("reattach_token")),
    RegisterFunction: (
        _required("id"),
        _text("description"),
        _value("request_format"),
        _value("response_format"),
        _value("metadata"),
        _Field("invocation", _is_http, "an HTTP function: url, and perhaps method, headers, timeout_ms, auth"),
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
        _ERROR._replace(absent=ABSENT, is_empty=operator.not_),
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
        _Field("action", _is_action, '{"type": "void"} or {"type": "enqueue", "queue": a string}'),
        _text("namespace"),
        _object("caller"),
        _Field("observe_depth", _is_count, "an integer, not negative"),
        _object("activation"),
    ),
    InvocationResult: (
        _required("invocation_id"),
        _required("function_id"),
        _value("result"),
        # A malformed one is the caller's to report (P-31); ``_check`` refuses ours.
        _Field("error", _is_present, "present", absent=ABSENT, is_empty=operator.not_),
        _text("traceparent"),
        _text("baggage"),
    ),
    Ping: (),
    Pong: (),
}

_CLASSES: Final[dict[str, type[Any]]] = {cls.type: cls for cls in _FIELDS}


# ---------------------------------------------------------------- by the table


def _write(message: Any) -> dict[str, Any]:
    """The fields of a message as they go on the wire."""
    return _add({"type": message.type}, message, _FIELDS[type(message)])


def _add(fields: dict[str, Any], message: Any, described: Iterable[_Field]) -> dict[str, Any]:
    """Write these fields of a message, and those it carries unknown."""
    for field in described:
        value = getattr(message, field.name)
        if not field.required and (value is field.absent or field.is_empty(value)):
            continue
        if not field.accepts(value):
            raise EncodeError(_wrong(message.type, field, value))
        fields[field.name] = value
    if message.extra:
        for name, value in message.extra.items():
            fields.setdefault(name, value)
    return fields


def _read(cls: type[Any], fields: dict[str, Any]) -> Message:
    """Make a message of the fields on the wire; takes them out."""
    values: dict[str, Any] = {}
    for field in _FIELDS[cls]:
        value = fields.pop(field.name, ABSENT)
        if value is ABSENT and not field.required:
            continue
        if not field.is_empty(value):
            if not field.accepts(value):
                raise DecodeError(_wrong(cls.type, field, value))
            values[field.name] = value
    message: Message = cls(**values, extra=fields or None)
    return message


def _wrong(kind: str, field: _Field, value: object) -> str:
    if value is ABSENT:
        return f"{kind}: {field.name} is missing"
    return f"{kind}: {field.name} must be {field.expected}; this {type(value).__name__} is not"


# ---------------------------------------------------------------- by hand

_BY_NAME: Final = {cls: {field.name: field for field in _FIELDS[cls]} for cls in (InvokeFunction, InvocationResult)}
_RARE: Final = _FIELDS[InvokeFunction][6:]
_TEXT_OR_NONE: Final = (str, type(None))


def _write_invoke(message: InvokeFunction) -> dict[str, Any]:
    function_id = message.function_id
    fields: dict[str, Any] = {"type": "invokefunction", "function_id": function_id, "data": message.data}
    plain = type(function_id) is str
    if (text := message.invocation_id) is not None:
        fields["invocation_id"] = text
        plain &= type(text) is str
    if message.metadata is not ABSENT:
        fields["metadata"] = message.metadata
    if (text := message.traceparent) is not None:
        fields["traceparent"] = text
        plain &= type(text) is str
    if (text := message.baggage) is not None:
        fields["baggage"] = text
        plain &= type(text) is str
    if not plain:
        _check(message, fields)
    if (
        message.action is None
        and message.namespace is None
        and message.caller is None
        and message.observe_depth is None
        and message.activation is None
        and not message.extra
    ):
        return fields
    return _add(fields, message, _RARE)


def _write_result(message: InvocationResult) -> dict[str, Any]:
    invocation_id, function_id, error = message.invocation_id, message.function_id, message.error
    fields: dict[str, Any] = {"type": "invocationresult", "invocation_id": invocation_id, "function_id": function_id}
    plain = type(invocation_id) is str and type(function_id) is str
    if error is not ABSENT and error:
        fields["error"] = error
        plain = False
    elif message.result is not ABSENT:
        fields["result"] = message.result  # null is a value (P-42)
    if (text := message.traceparent) is not None:
        fields["traceparent"] = text
        plain &= type(text) is str
    if (text := message.baggage) is not None:
        fields["baggage"] = text
        plain &= type(text) is str
    if not plain:
        _check(message, fields)
    return _add(fields, message, ()) if message.extra else fields


def _check(message: InvokeFunction | InvocationResult, fields: dict[str, Any]) -> None:
    """Refuse fields of a wrong type."""
    by_name = _BY_NAME[type(message)]
    for name, value in fields.items():
        field = _ERROR if name == "error" else by_name.get(name)
        if field is not None and not field.accepts(value):
            raise EncodeError(_wrong(message.type, field, value))


def _read_invoke(fields: dict[str, Any]) -> Message:
    pop = fields.pop
    function_id, data, invocation_id = pop("function_id", ABSENT), pop("data", ABSENT), pop("invocation_id", None)
    if type(function_id) is not str or data is ABSENT or type(invocation_id) not in _TEXT_OR_NONE:
        return _read(InvokeFunction, {"function_id": function_id, "data": data, "invocation_id": invocation_id})
    message = InvokeFunction(function_id, data, invocation_id)
    if fields:
        _read_rest(message, fields)
    return message


def _read_result(fields: dict[str, Any]) -> Message:
    pop = fields.pop
    invocation_id, function_id = pop("invocation_id", ABSENT), pop("function_id", ABSENT)
    if type(invocation_id) is not str or type(function_id) is not str:
        return _read(InvocationResult, {"invocation_id": invocation_id, "function_id": function_id})
    message = InvocationResult(invocation_id, function_id, pop("result", ABSENT))
    error = pop("error", None)
    if error:
        message.error, message.result = error, ABSENT  # the error wins (P-30)
    if fields:
        _read_rest(message, fields)
    return message


def _read_rest(message: InvokeFunction | InvocationResult, fields: dict[str, Any]) -> None:
    """Add the optional and the unknown fields."""
    by_name = _BY_NAME[type(message)]
    extra: dict[str, Any] = {}
    for name, value in fields.items():
        field = by_name.get(name)
        if field is None:
            extra[name] = value
        elif not field.is_empty(value):
            if not field.accepts(value):
                raise DecodeError(_wrong(message.type, field, value))
            setattr(message, name, value)
    if extra:
        message.extra = extra
