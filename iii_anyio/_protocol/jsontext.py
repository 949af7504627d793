"""Values ↔ JSON text: the one JSON of the project, with the engine's limits. Knows no messages; the codec above does.

orjson does the work. What it cannot do (models, dataclasses, dates, Decimal, bytes, sets, keys that are no strings,
integers beyond 64 bits) pydantic-core does, for the whole value and with the same text for what both can do.

The engine drops what it cannot read without a word (§4, G-2), so it is refused here: NaN and Infinity (orjson would
write null), lone surrogates, integers no double can hold, more than 127 levels. What is wrong is only looked for in a
text that may hold it: one with a null, or with more than 127 opening brackets.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast

import orjson
import pydantic_core

from ..errors import DecodeError, EncodeError

__all__ = ("MAX_DEPTH", "from_json", "to_json")

MAX_DEPTH: Final = 127
"""Levels of nesting the engine reads, the message object included (§4)."""

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""pydantic-core writes both otherwise (``Z``, aliases), and a value has one text."""

_loads: Final = orjson.loads

_SHALLOW: Final = 2 * MAX_DEPTH
"""Bytes in which there is no room for more than 127 levels."""

_SCANNED: Final = 600
"""Bytes from which a scan of the text costs more than it takes to see that a value has few parts."""

_LARGE: Final = 2048
"""Bytes from which it matters which library decodes a long string."""

_FEW: Final = 64
"""Parts of a value that has few."""

_TO_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))
_HUGE_INTEGER: Final = re.compile(rb"[0-9]{309}")


def to_json(value: object, nulls: int = 0) -> bytes:
    """Encode to compact UTF-8, keys in the order given.

    Args:
        value: What JSON has, or what pydantic can turn into it; models by alias.
        nulls: How many ``None`` the value is known to hold; with no more nulls in the text, none of them was a NaN.

    Raises:
        EncodeError: JSON, as the engine reads it, cannot carry the value. The text says which part, and why.
    """
    try:
        text = orjson.dumps(value, None, _OPTIONS)
    except TypeError:
        text = _to_json_by_pydantic(value)
    else:
        if len(text) > _SCANNED and _is_small_and_plain(value):
            return text  # the scans below would take longer than this look at the value
        # orjson writes null for NaN and Infinity, pydantic-core their names: the texts are the same if there are none.
        # (rfind takes half the time of find and in)
        if text.rfind(b"null") >= 0 and text.count(b"null") > nulls:
            fault = None if _is_written_alike(value, text) else _find_fault(value)
            if fault is not None:
                raise EncodeError(fault)
    if len(text) > _SHALLOW and _may_be_deep(text) and _is_too_deep(text):
        raise EncodeError(_find_fault(value) or f"the value is nested deeper than {MAX_DEPTH} levels")
    return text


def from_json(data: bytes | bytearray | memoryview | str) -> Any:
    """Decode JSON text. Of duplicate keys the last wins; integers beyond 64 bits become floats, as in the engine.

    Raises:
        DecodeError: Not JSON, not UTF-8, a number no double can hold, or more than 127 levels.
    """
    if not isinstance(data, bytes):
        data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    size = len(data)
    try:
        value = _loads(data) if size < _LARGE else _from_large_json(data)
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from error
    if (
        size > _SHALLOW
        and not (size > _SCANNED and _is_small_and_plain(value))
        and _may_be_deep(data)
        and _is_too_deep(data)
    ):
        raise DecodeError(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _to_json_by_pydantic(value: object) -> bytes:
    """Encode what orjson refused."""
    try:
        text = pydantic_core.to_json(value)
    except Exception as error:
        raise EncodeError(_find_fault(value) or f"the value cannot be written as JSON: {error}") from error
    # A model writes null for NaN, a Decimal "NaN", the rest NaN; an integer may be too long for the engine.
    if b"null" in text or b"NaN" in text or b"Infinity" in text or _HUGE_INTEGER.search(text):
        fault = _find_fault(value)
        if fault is not None:
            raise EncodeError(fault)
        try:
            orjson.loads(text)
        except ValueError as error:  # from an iterator, which is used up, or from a serializer of the user's
            raise EncodeError(f"the value holds a number that JSON cannot carry: {error}") from error
    return text


def _is_written_alike(value: object, text: bytes) -> bool:
    try:
        return pydantic_core.to_json(value) == text
    except ValueError:  # what only orjson takes
        return False


def _from_large_json(text: bytes) -> Any:
    """Decode, faster where the bulk is a few long strings: pydantic-core reads plain ASCII at four times the speed."""
    if text.isascii() and b"\\" not in text and not _has_more_than(_FEW - 1, text, b","):
        try:
            value = pydantic_core.from_json(text, allow_inf_nan=False, cache_strings="keys")
        except ValueError:
            pass  # orjson says it in its own words
        else:
            # It reads 1e999 as infinity and keeps integers beyond 64 bits.
            if _is_small_and_plain(value):
                return value
    return orjson.loads(text)


def _is_small_and_plain(value: object) -> bool:
    """Whether it has few parts, each of them what both libraries write and read alike. Never true of a NaN."""
    left = _FEW
    todo: list[Any] = [(value,)]
    for node in todo:  # grows while it is read
        left -= len(node)
        if left < 0:
            return False
        parts: Iterable[Any] = node.values() if node.__class__ is dict else node
        for part in parts:
            kind = part.__class__
            if kind is str or part is None or kind is bool:
                continue
            if kind is dict or kind is list or kind is tuple:
                todo.append(part)
            elif kind is int:
                if not -(2**63) <= part < 2**64:
                    return False
            elif kind is not float or not math.isfinite(part):
                return False
    return True


def _has_more_than(limit: int, text: bytes, *marks: bytes) -> bool:
    """Whether these single bytes occur more often than ``limit`` in a large text; reads no further than it must."""
    for mark in marks:
        at = text.find(mark)
        while at >= 0:
            limit -= 1
            if limit < 0:
                return True
            at = text.find(mark, at + 1)
    return False


def _may_be_deep(text: bytes) -> bool:
    """Whether there are brackets enough for more than 127 levels."""
    size = len(text)
    if size < _LARGE:
        return text.count(b"[") + text.count(b"{") > MAX_DEPTH
    return _has_more_than(MAX_DEPTH, text, b"[", b"{")


def _is_too_deep(text: bytes) -> bool:
    """Whether valid JSON has more than 127 levels. Takes about as long as to write it."""
    # Brackets inside strings are told by the number of quotes before them, once no quote is escaped.
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    text = text.translate(_TO_SQUARE, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in text:
        text = b"".join(text.split(b'"')[::2])
    for _ in range(MAX_DEPTH):
        if not text:
            return False
        text = text.replace(b"[]", b"")  # the innermost level
    return bool(text)


@dataclasses.dataclass(slots=True)
class _Place:
    """A part of a value, and the way to it."""

    value: Any
    name: str = ""
    parent: _Place | None = None
    depth: int = 0
    """Containers around it."""

    def __str__(self) -> str:
        names: list[str] = []
        place: _Place | None = self
        while place is not None:
            names.append(place.name)
            place = place.parent
        path = "".join(reversed(names)).removeprefix(".")
        if len(path) > 200:
            path = path[:200] + "…"
        return path or "the value"


def _find_fault(value: object) -> str | None:
    """Say what in a value JSON cannot carry, where it is, and what to do; ``None`` when nothing is found."""
    todo = [_Place(value)]
    while todo:
        place = todo.pop()
        try:
            node: Any = _unwrapped(place.value)
        except Exception as error:  # noqa: BLE001 - a serializer of the user's; the sentence carries it
            return f"{place} cannot be serialized: {error}"
        parts: Iterable[tuple[str, Any]]
        if isinstance(node, dict):
            members = cast("dict[object, Any]", node)
            for key in members:
                fault = _fault_of_key(key)
                if fault is not None:
                    return f"a key of {place} {fault}"
            parts = [(_key_name(key), part) for key, part in members.items()]
        elif isinstance(node, (list, tuple, set, frozenset, deque)):
            items = cast("Iterable[Any]", node)
            parts = [(f"[{index}]", part) for index, part in enumerate(items)]
        else:
            fault = _fault_of_scalar(node)
            if fault is not None:
                return f"{place} {fault}"
            continue
        if place.depth >= MAX_DEPTH:
            way = [place, *_ancestors(place)]
            times = Counter(id(step.value) for step in way)
            for step in reversed(way):
                if times[id(step.value)] > 1:
                    return f"{step} contains itself; JSON has no references"
            return (
                f"{place} is nested too deep: the engine drops a message of more than {MAX_DEPTH} levels, "
                "itself included. Flatten the value, or send a part of it as a string"
            )
        todo += [_Place(part, name, place, place.depth + 1) for name, part in parts]
    return None


def _fault_of_scalar(value: Any) -> str | None:
    if isinstance(value, str):
        return _fault_of_text(value)
    if isinstance(value, float | Decimal):
        finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
        return None if finite else f"is {value}; JSON has no NaN or Infinity. Send null or a string instead"
    if isinstance(value, int):
        try:
            float(value)
        except OverflowError:
            return "is an integer that no double can hold, and the engine reads it as one. Send it as a string"
    elif _is_refused_by_pydantic(value):
        return (
            f"is of type {_type_name(value)}, which JSON cannot carry as it is. "
            "Make it of dicts, lists, strings and numbers"
        )
    return None


def _fault_of_key(key: object) -> str | None:
    if isinstance(key, str):
        return _fault_of_text(key)
    if _is_refused_by_pydantic({key: None}):
        return f"is of type {_type_name(key)}, which no JSON key can be made of"
    return None


def _fault_of_text(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which UTF-8 cannot carry. Replace it: text.encode(errors='replace').decode()"
    return None


def _unwrapped(value: Any) -> Any:
    """The plain value of an enum member, model or dataclass; others as they are."""
    if isinstance(value, Enum):
        return value.value
    # Models and pydantic's dataclasses, without importing pydantic.
    serializer = getattr(value.__class__, "__pydantic_serializer__", None)
    if isinstance(serializer, pydantic_core.SchemaSerializer):
        return serializer.to_python(value, by_alias=True, warnings=False)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _is_refused_by_pydantic(value: object) -> bool:
    try:
        pydantic_core.to_json(value)
    except Exception:  # noqa: BLE001 - whatever the reason, here it is
        return True
    return False


def _ancestors(place: _Place) -> Iterator[_Place]:
    parent = place.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def _key_name(key: object) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
