"""Text ↔ ``Message``. Below: the table of fields, and JSON text; above: the session.

Both directions keep the same rules (§4.1): what ``decode`` would refuse of a peer, ``encode`` refuses of us, as the
engine drops it without a word (G-2). The exception is the error of an invocation's result: a malformed one still ends
the call it belongs to (P-31), so ``decode`` takes it.

The two messages of an invocation are written and read by hand, the others by the table, to the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from ..errors import MAX_MESSAGE_BYTES, DecodeError, EncodeError, payload_too_large
from .fields import ERROR, FIELDS, Field, is_error_body, is_text, wrong
from .jsontext import from_json, to_json
from .messages import ABSENT, InvocationResult, InvokeFunction, Message, Unknown

__all__ = (
    "canonical_uuid",
    "decode",
    "encode",
    "encode_call",
    "encode_reports",
    "from_json",
    "is_error_body",
    "is_uuid",
    "parse",
    "read",
    "to_json",
)


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
        text = to_json({"type": message.type} | message.fields | {"type": message.type})
    else:
        text = to_json(_write(message))
    if len(text) > MAX_MESSAGE_BYTES:
        if isinstance(message, InvokeFunction | InvocationResult):
            raise payload_too_large(len(text), message.function_id, message.invocation_id)
        raise payload_too_large(len(text))
    return text


def encode_call(function_id: str, data: Any, invocation_id: str) -> bytes:
    """Write an ``InvokeFunction`` of these fields only, as most are, without making one. Raises as ``encode``."""
    fields = {"type": "invokefunction", "function_id": function_id, "data": data, "invocation_id": invocation_id}
    text = to_json(fields, data is None)
    if len(text) > MAX_MESSAGE_BYTES:
        raise payload_too_large(len(text), function_id, invocation_id)
    return text


def decode(text: bytes | bytearray | memoryview) -> Message:
    """Read one message. Fields of the wire that its class does not have are kept in ``extra``.

    Raises:
        DecodeError: No JSON object with a ``type``, a field missing or of a wrong type, or more than 127 levels.
    """
    return read(parse(text))


def parse(text: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The fields of a message, the first half of ``decode``."""
    fields: Any = from_json(text)
    if fields.__class__ is not dict:
        raise DecodeError("not a message: JSON, but no object")
    if fields.get("type").__class__ is not str:
        raise DecodeError("not a message: it has no type")
    return cast("dict[str, Any]", fields)


def read(fields: dict[str, Any]) -> Message:
    """The message of these fields, the second half of ``decode``. Takes the fields out."""
    kind: str = fields.pop("type")
    if kind == "invokefunction":
        return _read_invoke(fields)
    if kind == "invocationresult":
        return _read_result(fields)
    cls = _CLASSES.get(kind)
    return Unknown(kind, fields) if cls is None else _read(cls, fields)


def encode_reports(items: Sequence[bytes]) -> bytes:
    """Write ``invocationsobserved`` of items that are JSON already: each was encoded once, to know its size (§16.8)."""
    return b'{"type":"invocationsobserved","items":[' + b",".join(items) + b"]}"


_UUID: Final = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE)


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


_CLASSES: Final[dict[str, type[Any]]] = {cls.type: cls for cls in FIELDS}


# ---------------------------------------------------------------- by the table


def _write(message: Any) -> dict[str, Any]:
    """The fields of a message as they go on the wire."""
    return _add({"type": message.type}, message, FIELDS[type(message)])


def _add(fields: dict[str, Any], message: Any, described: Iterable[Field]) -> dict[str, Any]:
    """Write these fields of a message, and those it carries unknown."""
    for field in described:
        value = getattr(message, field.name)
        if not field.required and (value is field.absent or field.is_empty(value)):
            continue
        if not field.accepts(value):
            raise EncodeError(wrong(message.type, field, value))
        fields[field.name] = value
    if message.extra:
        for name, value in message.extra.items():
            fields.setdefault(name, value)
    return fields


def _read(cls: type[Any], fields: dict[str, Any]) -> Message:
    """Make a message of the fields on the wire; takes them out."""
    values: dict[str, Any] = {}
    for field in FIELDS[cls]:
        value = fields.pop(field.name, ABSENT)
        if value is ABSENT and not field.required:
            continue
        if not field.is_empty(value):
            if not field.accepts(value):
                raise DecodeError(wrong(cls.type, field, value))
            values[field.name] = value
    message: Message = cls(**values, extra=fields or None)
    return message


# ---------------------------------------------------------------- by hand

_BY_NAME: Final = {cls: {field.name: field for field in FIELDS[cls]} for cls in (InvokeFunction, InvocationResult)}
_RARE: Final = FIELDS[InvokeFunction][6:]
_TEXT_OR_NONE: Final = (str, type(None))


def _write_invoke(message: InvokeFunction) -> dict[str, Any]:
    function_id = message.function_id
    fields: dict[str, Any] = {"type": "invokefunction", "function_id": function_id, "data": message.data}
    plain = type(function_id) is str and message.data is not ABSENT
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
        field = ERROR if name == "error" else by_name.get(name)
        if field is not None and not field.accepts(value):
            raise EncodeError(wrong(message.type, field, value))


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
        elif type(value) is str and field.accepts is is_text:
            setattr(message, name, value)
        elif not field.is_empty(value):
            if not field.accepts(value):
                raise DecodeError(wrong(message.type, field, value))
            setattr(message, name, value)
    if extra:
        message.extra = extra
