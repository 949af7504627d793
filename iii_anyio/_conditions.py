"""What a filter asks of a value, as closures, and how it sees host values: through the JSON they become (§18).

Owns the meaning of the operators. Below: pydantic, which says what JSON a host value is. Above: ``filter.py``, which
has the grammar and passes literals that are checked.

A ``Condition`` gets a value that is *seen*: ``None``, a bool, a str, a finite float for every number, a dict, a list or
a tuple, or ``ABSENT``. What is inside the containers is seen when a path or a literal gets there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ._protocol.messages import ABSENT

__all__ = (
    "ARRAY",
    "OBJECT",
    "PLAIN",
    "Condition",
    "Read",
    "any_element",
    "applied",
    "both",
    "either",
    "equals",
    "exists",
    "negated",
    "one_of",
    "ordered",
    "reader",
    "seen",
    "starts_with",
)

Condition: TypeAlias = Callable[[Any], bool]
Read: TypeAlias = Callable[[Any], Any]

OBJECT: Final[type[Any]] = dict
ARRAY: Final = cast("tuple[type[Any], ...]", (list, tuple))
PLAIN: Final[frozenset[Any]] = frozenset({dict, list, tuple, str, bool, type(None), ABSENT.__class__})
"""Classes whose values are seen as they are."""


# ---------------------------------------------------------------- conditions


def both(conditions: list[Condition]) -> Condition:
    """All of them, however many."""
    if len(conditions) == 1:
        return conditions[0]

    def holds(value: Any) -> bool:
        for condition in conditions:  # noqa: SIM110 - a generator costs twice as much
            if not condition(value):
                return False
        return True

    return holds


def either(conditions: list[Condition]) -> Condition:
    """One of them at least."""

    def holds(value: Any) -> bool:
        for condition in conditions:  # noqa: SIM110 - a generator costs twice as much
            if condition(value):
                return True
        return False

    return holds


def negated(condition: Condition) -> Condition:
    """Also true of what is absent, so ``$ne`` and ``$nin`` are (§18)."""
    return lambda value: not condition(value)


def applied(read: Read, condition: Condition) -> Condition:
    """A condition on what is read of a document, as one on the document."""
    return lambda document: condition(read(document))


def exists(value: Any) -> bool:
    """``null`` is present."""
    return value is not ABSENT


def starts_with(prefix: str) -> Condition:
    """``$prefix``: strings only."""
    return lambda value: value.__class__ is str and value.startswith(prefix)


def ordered(operator: str, literal: float | str) -> Condition:
    """Number with number, string with string by code point, which is Python's order; otherwise false (§18)."""
    kind = literal.__class__
    limit: Any = literal
    if operator == "$gt":
        return lambda value: value.__class__ is kind and value > limit
    if operator == "$gte":
        return lambda value: value.__class__ is kind and value >= limit
    if operator == "$lt":
        return lambda value: value.__class__ is kind and value < limit
    return lambda value: value.__class__ is kind and value <= limit


def any_element(condition: Condition) -> Condition:
    """``$any``: of arrays only, and never of an empty one."""

    def holds(value: Any) -> bool:
        if isinstance(value, ARRAY):
            for item in value:
                if condition(_seen_element(item)):
                    return True
        return False

    return holds


def equals(literal: Any) -> Condition:
    """JSON deep equality: numbers as doubles, a boolean is no number, the order of keys is nothing (§18)."""
    if literal is None or isinstance(literal, bool):
        return lambda value: value is literal
    if isinstance(literal, str):
        return lambda value: value.__class__ is str and value == literal
    if isinstance(literal, int | float):
        number = float(literal)
        return lambda value: value.__class__ is float and value == number
    if isinstance(literal, OBJECT):
        return _equals_object([(_getter(key), equals(member)) for key, member in literal.items()])
    return _equals_array([equals(item) for item in literal])


def one_of(literals: list[Any]) -> Condition:
    """``$in``: a look-up for strings and numbers."""
    strings = frozenset(item for item in literals if isinstance(item, str))
    numbers = frozenset(float(item) for item in literals if item.__class__ in {int, float})
    others = either([equals(item) for item in literals if item.__class__ not in {str, int, float}])

    def holds(value: Any) -> bool:
        if value.__class__ is str:
            return value in strings
        if value.__class__ is float:
            return value in numbers
        return others(value)

    return holds


def _equals_array(conditions: list[Condition]) -> Condition:
    def holds(value: Any) -> bool:
        if not isinstance(value, ARRAY) or len(value) != len(conditions):
            return False
        return all(condition(_seen_element(item)) for condition, item in zip(conditions, value, strict=True))

    return holds


def _equals_object(members: list[tuple[Read, Condition]]) -> Condition:
    def holds(value: Any) -> bool:
        if not isinstance(value, OBJECT) or len(value) < len(members):
            return False
        if not all(condition(seen(get(value))) for get, condition in members):
            return False
        # What is there on top must be what JSON does not have.
        return len(value) == len(members) or _size(value) == len(members)

    return holds


# ---------------------------------------------------------------- host values


def seen(value: Any) -> Any:
    """A host value as JSON shows it; ``ABSENT`` if it has no JSON. Members of a container stay as they are."""
    if value.__class__ in PLAIN:
        return value
    if isinstance(value, int | float | Decimal):
        try:
            number = float(value)
        except (OverflowError, ValueError):  # an integer too large, a signalling NaN
            return None
        return number if math.isfinite(number) else None
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (OBJECT, *ARRAY)):
        return value
    if isinstance(value, Iterator):
        return ABSENT  # reading it would use it up
    try:
        if isinstance(value, BaseModel):
            json = value.model_dump(mode="json", by_alias=True, exclude_none=True, warnings=False)
        else:
            json = to_jsonable_python(value)
    except Exception:  # noqa: BLE001 - code of the value; it has no JSON then
        return ABSENT
    return seen(json)


def _seen_element(item: Any) -> Any:
    """An element of an array: what has no JSON is null there."""
    value = seen(item)
    return None if value is ABSENT else value


def reader(root: str | None, segments: list[str]) -> Read:
    """Read a path, of a document whose roots are seen already or (no root) of an element. The result is seen."""
    steps = [(_getter(segment), _index(segment)) for segment in segments]

    def read(document: Any) -> Any:
        value = document if root is None else document.get(root, ABSENT)
        for get, index in steps:
            if isinstance(value, OBJECT):
                value = get(value)
                if value.__class__ not in PLAIN:
                    value = seen(value)
            elif index is not None and isinstance(value, ARRAY):
                value = _seen_element(value[index]) if index < len(value) else ABSENT
            else:
                return ABSENT
        return value

    return read


_CANONICAL: Final = re.compile(r"0|[1-9][0-9]{0,17}")


def _index(segment: str) -> int | None:
    """The index that a segment is in an array: canonical decimals only, and none that no array is long enough for."""
    return int(segment) if _CANONICAL.fullmatch(segment) else None


_NAMES: Final[dict[str, Any]] = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}


def _getter(name: str) -> Read:
    """Find a member of a dict by what its key is in JSON; of keys that are one in JSON the last has it (A.13)."""
    if name == "NaN":
        return lambda members: _last(members, name)  # no look-up finds a key that is not equal to itself
    twin = _twin(name)
    if twin is ABSENT:
        return lambda members: members.get(name, ABSENT)
    # Few dicts have a key that equals the twin; in the others the name stands for itself.
    return lambda members: _last(members, name) if twin in members else members.get(name, ABSENT)


def _twin(name: str) -> Any:
    """The key, other than the name itself, that JSON may write as this name; ``ABSENT`` if there is none."""
    if name in _NAMES:
        return _NAMES[name]
    for kind in (int, float):
        try:
            number = kind(name)
            if repr(number) == name:
                return number
        except ValueError:
            pass
    return ABSENT


def _last(members: dict[Any, Any], name: str) -> Any:
    found: Any = ABSENT
    for key, value in members.items():
        if _key(key) == name:
            found = value
    return found


def _size(members: dict[Any, Any]) -> int:
    """How many members JSON has of a dict."""
    last = {_key(key): value for key, value in members.items()}
    last.pop(None, None)
    return sum(seen(value) is not ABSENT for value in last.values())


def _key(key: Any) -> str | None:
    """A key as ``json.dumps`` writes it; ``None`` if it cannot."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, float):
        if math.isfinite(key):
            return float.__repr__(key)
        return "NaN" if math.isnan(key) else "Infinity" if key > 0 else "-Infinity"
    if isinstance(key, int):
        try:
            return int.__repr__(key)
        except ValueError:  # more digits than Python writes
            return None
    return None
