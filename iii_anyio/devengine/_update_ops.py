"""Update operations on a JSON value: read, applied in order, what failed reported. Pure; shared by state and streams.

Below: errors. Above: ``builtins/state`` and the streams. A call has two kinds of failure: operations that cannot be
read fail it as a whole (``read_updates``); one that does not fit the value is passed over and reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from .._protocol.messages import ABSENT
from ._builtin import kind_of, unreadable

Container = TypeVar("Container", "dict[str, Any]", "list[object]")

__all__ = ("UPDATES_SCHEMA", "Update", "Updated", "apply_updates", "read_updates")

MAX_SEGMENTS: Final = 32
MAX_SEGMENT_BYTES: Final = 256
MAX_MERGE_KEYS: Final = 1024
MAX_MERGE_DEPTH: Final = 16
MAX_DEPTH: Final = 125
"""Levels of a stored value: of the 127 on the wire, an event's message and payload object take two."""
FORBIDDEN: Final = frozenset({"__proto__", "constructor", "prototype"})
DOC_URL: Final = "https://iii.dev/docs/workers/iii-state#error-codes"

_FIELD_OPS: Final = frozenset({"set", "increment", "decrement", "remove"})
_PATH_OPS: Final = frozenset({"merge", "append"})

UPDATES_SCHEMA: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "type": {"enum": ["set", "merge", "increment", "decrement", "append", "remove"]},
            "path": {"type": ["string", "array", "null"], "items": {"type": "string"}},
            "value": {},
            "by": {"type": "integer"},
        },
        "required": ["type"],
    },
}
"""The JSON Schema of ``ops``, for discovery."""


@dataclass(frozen=True, slots=True)
class Update:
    """One operation that could be read. No segments are the root (UO-1, UO-2)."""

    type: str
    segments: tuple[str, ...]
    value: Any = None
    by: int = 0


@dataclass(slots=True)
class Updated:
    """What became of a value. ``errors`` has an entry for each operation that was passed over (UO-7)."""

    new_value: Any
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def answer(self, old_value: Any) -> dict[str, Any]:
        """The result of ``state::update`` and ``stream::update``; no old value is null (ST-8)."""
        answer = {"old_value": None if old_value is ABSENT else old_value, "new_value": self.new_value}
        return answer | {"errors": self.errors} if self.errors else answer


# -- reading ---------------------------------------------------------------------------------------------------------


def read_updates(function_id: str, ops: object) -> list[Update]:
    """Read the ``ops`` of a call.

    Raises:
        InvocationError: ``deserialization_error`` for the whole call (UO-1 to UO-4).
    """
    if not isinstance(ops, list):
        raise unreadable(function_id, f"field `ops`: invalid type: {kind_of(ops)}, expected an array")
    return [_read(function_id, f"ops[{index}]", op) for index, op in enumerate(cast("list[object]", ops))]


def _read(function_id: str, place: str, op: object) -> Update:
    if not isinstance(op, dict):
        raise unreadable(function_id, f"{place}: invalid type: {kind_of(op)}, expected an object")
    fields = cast("dict[str, Any]", op)
    kind = fields.get("type", ABSENT)
    if kind is ABSENT:
        raise unreadable(function_id, f"{place}: missing field `type`")
    if not isinstance(kind, str) or not (kind in _FIELD_OPS or kind in _PATH_OPS):
        known = "`set`, `merge`, `increment`, `decrement`, `append`, `remove`"
        raise unreadable(function_id, f"{place}: unknown variant `{kind}`, expected one of {known}")
    path = fields.get("path", ABSENT)
    if kind in _PATH_OPS:
        segments = _segments(path)
        if segments is None:
            reason = f"{place}: field `path`: expected a string or an array of strings"
            raise unreadable(function_id, reason)
        if "value" not in fields:
            raise unreadable(function_id, f"{place}: missing field `value`")
        return Update(kind, segments, fields["value"])
    if path is ABSENT:
        raise unreadable(function_id, f"{place}: missing field `path`")
    if not isinstance(path, str):
        raise unreadable(function_id, f"{place}: field `path`: invalid type: {kind_of(path)}, expected a string")
    segments = (path,) if path else ()
    if kind == "set" or kind == "remove":
        return Update(kind, segments, fields.get("value"))
    return Update(kind, segments, by=_by(function_id, place, fields))


def _segments(path: object) -> tuple[str, ...] | None:
    """The segments of a ``merge`` or ``append`` path; None for what is none."""
    if path is ABSENT or path is None or path == "":
        return ()
    if isinstance(path, str):
        return (path,)
    if isinstance(path, list):
        items = cast("list[object]", path)
        if all(isinstance(item, str) for item in items):
            return tuple(cast("list[str]", items))
    return None


def _by(function_id: str, place: str, fields: dict[str, Any]) -> int:
    by: Any = fields.get("by", ABSENT)
    if by is ABSENT:
        raise unreadable(function_id, f"{place}: missing field `by`")
    if type(by) is not int or not -(2**63) <= by < 2**63:
        reason = f"{place}: field `by`: invalid type: {kind_of(by)}, expected an integer of 64 bits with its sign"
        raise unreadable(function_id, reason)
    return by


# -- applying --------------------------------------------------------------------------------------------------------


def apply_updates(value: Any, updates: Sequence[Update]) -> Updated:
    """Apply operations in order; ``value`` stays as it is.

    Args:
        value: The stored value; ``ABSENT`` if there is none, which starts as ``{}`` (UO-5).
        updates: What ``read_updates`` returned.
    """
    document = _Document({} if value is ABSENT else value, value is ABSENT)
    updated = Updated(None)
    for index, update in enumerate(updates):
        try:
            _check_path(update)
            _APPLY[update.type](document, update)
        except _Refused as refused:
            code = f"{update.type}.{refused.reason}"
            entry = {"op_index": index, "code": code, "message": refused.message, "doc_url": DOC_URL}
            updated.errors.append(entry)
    updated.new_value = document.root
    return updated


class _Refused(Exception):
    """An operation that does not fit."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


class _Document:
    """A value on its way to the next: containers are copied before they are first changed."""

    __slots__ = ("_own", "is_missing", "root")

    def __init__(self, root: Any, is_missing: bool) -> None:
        self.root: Any = root
        self.is_missing = is_missing
        """No operation was applied yet to a value that was not there."""
        self._own: dict[int, Any] = {}  # by id; holds them, so that an id stays theirs

    def replace(self, value: Any) -> None:
        """Set the root."""
        self.root = value
        self.is_missing = False

    def root_object(self, update: Update) -> dict[str, Any]:
        """The root, to be changed."""
        root = _members(self.root)
        if root is None:
            raise _Refused(
                "target_not_object", f"{_place(update)} is a field, but the value is {_named(self.root)}, not an object"
            )
        root = self.own(root)
        self.replace(root)
        return root

    def own(self, container: Container) -> Container:
        """A container to be changed: the same one, once it is a copy."""
        if id(container) in self._own:
            return container
        copy = container.copy()
        self._own[id(copy)] = copy
        return copy

    def walk(self, segments: Sequence[str]) -> dict[str, Any]:
        """The object at this path, to be changed. What is none on the way, the root too, becomes one (UO-10)."""
        node = self.own(_members(self.root) or {})
        self.replace(node)
        for segment in segments:
            inner = self.own(_members(node.get(segment)) or {})
            node[segment] = inner
            node = inner
        return node


def _set(document: _Document, update: Update) -> None:
    if update.segments:
        document.root_object(update)[update.segments[0]] = update.value
    else:
        document.replace(update.value)


def _remove(document: _Document, update: Update) -> None:
    if update.segments:
        document.root_object(update).pop(update.segments[0], None)
    else:
        document.replace(None)


def _merge(document: _Document, update: Update) -> None:
    value = _merged_value(update.value)
    if update.segments:
        document.walk(update.segments).update(value)
    elif _members(document.root) is not None:  # else nothing happens, and no error tells (UO-10)
        document.root_object(update).update(value)


def _add(document: _Document, update: Update) -> None:
    by = update.by if update.type == "increment" else -update.by
    if not update.segments:
        document.replace(by if document.is_missing else _sum(document.root, by, update))
        return
    key = update.segments[0]
    old: Any = (_members(document.root) or {}).get(key, ABSENT)
    new = by if old is ABSENT else _sum(old, by, update)
    document.root_object(update)[key] = new


def _append(document: _Document, update: Update) -> None:
    value, segments = update.value, update.segments
    # Ours: it could be stored, and no message could carry it. Upstream sends what its clients cannot read.
    if len(segments) + 1 + _depth(value) > MAX_DEPTH:
        raise _Refused("value.too_deep", f"appended to {_place(update)} the value would nest deeper than {MAX_DEPTH}")
    if not segments:
        document.replace(_appended(document, None if document.is_missing else document.root, update))
        return
    root = document.root_object(update)
    *parents, leaf = segments
    node = document.walk(parents) if parents else root
    if leaf in node:
        node[leaf] = _appended(document, node[leaf], update)
    else:
        node[leaf] = [value] if parents else _first(value)  # also for a string, when nested (UO-15)


_APPLY: Final[dict[str, Callable[[_Document, Update], None]]] = {
    "set": _set,
    "merge": _merge,
    "increment": _add,
    "decrement": _add,
    "append": _append,
    "remove": _remove,
}


# -- the rules -------------------------------------------------------------------------------------------------------


def _check_path(update: Update) -> None:
    """UO-6, in its order."""
    if len(update.segments) > MAX_SEGMENTS:
        raise _Refused("path.too_deep", f"the path has {len(update.segments)} segments; {MAX_SEGMENTS} are allowed")
    for segment in update.segments:
        if not segment:
            raise _Refused("path.empty_segment", "a segment of the path is empty")
        size = len(segment.encode())
        if size > MAX_SEGMENT_BYTES:
            raise _Refused(
                "path.segment_too_long", f"a segment of the path has {size} bytes; {MAX_SEGMENT_BYTES} are allowed"
            )
        if segment in FORBIDDEN:
            raise _Refused("path.proto_polluted", f"{segment!r} is not allowed in a path: it pollutes prototypes")


def _merged_value(value: object) -> dict[str, Any]:
    """UO-9, in its order."""
    if not isinstance(value, dict):
        raise _Refused("value.not_an_object", f"only an object can be merged, not {_named(value)}")
    members = cast("dict[str, Any]", value)
    if len(members) > MAX_MERGE_KEYS:
        raise _Refused("value.too_many_keys", f"the object has {len(members)} keys; {MAX_MERGE_KEYS} are allowed")
    forbidden = sorted(FORBIDDEN & members.keys())
    if forbidden:
        raise _Refused("value.proto_polluted", f"the key {forbidden[0]!r} is not allowed: it pollutes prototypes")
    depth = _depth(members)
    if depth > MAX_MERGE_DEPTH:
        raise _Refused("value.too_deep", f"the object is nested {depth} levels deep; {MAX_MERGE_DEPTH} are allowed")
    return members


def _sum(number: object, by: int, update: Update) -> int | float:
    """Integers exact over i64 and u64, floats as they are (UO-13)."""
    if type(number) is int:
        total = number + by
        if -(2**63) <= total < 2**64:
            return total
        raise _Refused("not_number", f"{_place(update)} would be {total}, which takes more than 64 bits")
    if type(number) is float:
        result = number + by
        if math.isfinite(result):
            return result
        raise _Refused("not_number", f"{_place(update)} would not be a finite number")
    raise _Refused("not_number", f"{_place(update)} is {_named(number)}, not a number")


def _first(value: Any) -> Any:
    """What appending makes of nothing (UO-14)."""
    return value if isinstance(value, str) else [value]


def _appended(document: _Document, target: object, update: Update) -> Any:
    value = update.value
    if target is None:
        return _first(value)
    if isinstance(target, list):
        items = document.own(cast("list[object]", target))
        items.append(value)
        return items
    if not isinstance(target, str):
        reason = f"{_place(update)} is {_named(target)}; only an array, a string or null can be appended to"
        raise _Refused("type_mismatch", reason)
    if not isinstance(value, str):
        raise _Refused("type_mismatch", f"{_place(update)} is a string; {_named(value)} cannot be appended to it")
    return target + value


def _members(value: object) -> dict[str, Any] | None:
    """An object, or None for what is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _depth(value: Any) -> int:
    """Levels of nesting; what is no container has none. As deep as a message at most."""
    if isinstance(value, dict):
        return 1 + max(map(_depth, cast("dict[str, object]", value).values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, cast("list[object]", value)), default=0)
    return 0


def _place(update: Update) -> str:
    """The path as a message names it; segments are literal, so never with dots (UO-1)."""
    if not update.segments:
        return "the root"
    return repr(update.segments[0] if len(update.segments) == 1 else list(update.segments))


def _named(value: object) -> str:
    kind = kind_of(value).partition(" ")[0]
    return kind if kind == "null" else f"{'an' if kind[0] in 'ao' else 'a'} {kind}"
