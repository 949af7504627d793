"""The filter language of observers: which invocations one of them wants to hear of (protocol §18).

Owns the grammar and its limits; a filter becomes closures once and is evaluated many times. Below: ``_conditions.py``,
which has the meaning of the operators, and the project's JSON. Above: whoever holds observers. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from ._conditions import (
    ARRAY,
    OBJECT,
    PLAIN,
    Condition,
    Read,
    any_element,
    applied,
    both,
    either,
    equals,
    exists,
    negated,
    one_of,
    ordered,
    reader,
    seen,
    starts_with,
)
from ._protocol.codec import to_json
from ._protocol.messages import ABSENT
from .errors import IIIError

__all__ = ("MATCH_ALL", "CompiledFilter", "FilterError", "FilterErrorCode", "compile_filter")

FilterErrorCode: TypeAlias = Literal["INVALID_FILTER", "INVALID_FILTER_PATH"]
"""Codes for a filter that is refused. This package says ``INVALID_FILTER`` whichever rule is broken."""

_MAX_DEPTH: Final = 8
_MAX_NODES: Final = 64
_MAX_ITEMS: Final = 256
_MAX_SEGMENTS: Final = 16
_MAX_BYTES: Final = 8192
_MAX_NUMBER: Final = 2**53
_MAX_LITERAL_NESTING: Final = 32
_MAX_NESTING: Final = 120

_ROOTS: Final = ("input", "output", "error", "caller", "metadata")
_ORDERINGS: Final = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS: Final = frozenset({"$eq", "$ne", "$in", "$nin", *_ORDERINGS, "$exists", "$prefix", "$any"})


class FilterError(IIIError, ValueError):
    """A filter that the language does not allow.

    Attributes:
        code: ``INVALID_FILTER``.
        message: Where the filter is wrong, which rule that breaks, and what to write instead.
        path: The path of the document, or the place in the filter, that the rule is about; ``None`` is all of it.
    """

    def __init__(self, code: FilterErrorCode, message: str, path: str | None = None) -> None:
        super().__init__(code, message, path)
        self.code: FilterErrorCode = code
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return self.message


def compile_filter(src: dict[str, Any], *, trusted: bool = False) -> CompiledFilter:
    """Check a filter and make it ready to be evaluated.

    Args:
        src: Plain JSON, e.g. ``{"input.amount": {"$gte": 500}}``. It is copied: later changes to it have no effect.
        trusted: The engine has checked it. Its normal form may be longer than the 8192 bytes allowed to users.

    Raises:
        FilterError: The grammar or one of the limits is violated.

    Upstream: iii.filter.compile_filter.
    """
    return CompiledFilter(src, trusted)


def compile_observers_filter(src: dict[str, Any]) -> CompiledFilter:
    """Compile a filter that the engine has announced, in its own normal form."""
    return compile_filter(src, trusted=True)


class CompiledFilter:
    """A filter ready to be evaluated; ``compile_filter`` makes one. It never changes, and may be used by any thread.

    Attributes:
        source: The filter as JSON has it.
        match_all: It has no conditions, so it matches every document.
        roots: Those parts of a document that its paths start at: of ``input output error caller metadata``.
    """

    __slots__ = ("_test", "match_all", "roots", "source")

    def __init__(self, src: dict[str, Any], trusted: bool = False) -> None:
        source: Any = _copied(src, "", 1)
        compiler = _Compiler()
        conditions = compiler.of_filter(source, None, 1, is_element=False)
        if not trusted and (size := len(to_json(source))) > _MAX_BYTES:
            raise _invalid(
                None,
                f"the filter is {size} bytes of JSON, and the limit is {_MAX_BYTES}",
                "Use shorter or fewer literals, or several observers",
            )
        self._test = both(conditions)
        self.source: dict[str, Any] = source
        self.match_all: bool = not conditions
        self.roots: frozenset[str] = frozenset(compiler.roots)

    def matches(self, doc: Mapping[str, Any]) -> bool:
        """Say whether a document matches. Never raises: where the evaluation fails, the document does not match.

        Args:
            doc: Of ``input output error caller metadata`` those that exist: a missing one is absent, ``None`` is null.
                The values are read as the JSON they become: a model by its aliases and without members that are
                ``None``; a ``Decimal`` as a number; a date, enum, UUID or dataclass as pydantic writes it. What has no
                JSON is absent. So is an iterator, because reading it would use it up.
        """
        if self.match_all:
            return True
        parts: Any = doc
        try:
            if parts.__class__ is not dict:
                parts = dict(doc) if isinstance(parts, Mapping) else {}
            for root in self.roots:
                value = parts.get(root, ABSENT)
                if value.__class__ not in PLAIN:  # once, however many paths start here: a model is costly to dump
                    parts = {**parts, root: seen(value)}
            return self._test(parts)
        except Exception:  # noqa: BLE001 - "evaluation never raises; an internal failure is a non-match" (§18)
            return False

    def __repr__(self) -> str:
        return f"CompiledFilter({self.source!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledFilter, (self.source, True)


# ---------------------------------------------------------------- what is wrong


def _invalid(path: str | None, problem: str, remedy: str) -> FilterError:
    if path is not None:
        problem = f"`{_short(path)}`: {problem}"
    return FilterError("INVALID_FILTER", f"{problem}. {remedy}", path)


def _short(text: str) -> str:
    """A name for a message: not too long, and of nothing that cannot be printed or sent."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 200 else f"{text[:200]}…"


def _name(value: object) -> str:
    """The type of a value in JSON's words, or in Python's where JSON has none."""
    if value is None:
        return "null"
    if isinstance(value, ARRAY):
        return "an array" if value else "an empty array"
    for kind, name in ((bool, "a boolean"), ((int, float), "a number"), (str, "a string"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return type(value).__qualname__


def _copied(value: Any, place: str, nesting: int) -> Any:
    """Copy a part of a filter in JSON's own types; refuse what JSON, or every implementation of it, has not."""
    where = place or None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not _is_unicode(value):
            raise _invalid(where, "a string holds a lone surrogate", "Write whole characters")
        return str.__str__(value)
    if isinstance(value, int | float):
        if not abs(value) <= _MAX_NUMBER:  # false of NaN as well
            raise _invalid(where, "a number is not within ±2^53", "Compare with a smaller one, or with a string")
        return int.__pos__(value) if isinstance(value, int) else float.__pos__(value)
    is_object = isinstance(value, OBJECT)
    if not is_object and not isinstance(value, ARRAY):
        raise _invalid(where, f"{_name(value)} is no JSON", "Make it a string, a number, a list or a dict")
    if nesting > _MAX_NESTING:
        raise _invalid(None, f"the filter nests more than {_MAX_NESTING} arrays and objects", "Flatten it")
    if not is_object:
        return [_copied(item, place, nesting + 1) for item in value]
    copy: dict[str, Any] = {}
    for key, member in value.items():
        if not isinstance(key, str):
            raise _invalid(where, f"a key is {_name(key)}", "Keys are strings")
        inner = f"{place}.{key}" if place else key
        if not _is_unicode(key):
            raise _invalid(inner, "the key holds a lone surrogate", "Write whole characters")
        copy[str.__str__(key)] = _copied(member, inner, nesting + 1)
    return copy


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nesting(literal: Any) -> int:
    """How many arrays and objects are around its innermost part."""
    if isinstance(literal, OBJECT):
        literal = list(literal.values())
    return 1 + max(map(_nesting, literal), default=0) if isinstance(literal, ARRAY) else 0


# ---------------------------------------------------------------- the grammar


class _Compiler:
    """One compilation: counts nodes and collects roots while it makes the conditions."""

    def __init__(self) -> None:
        self.nodes = 0
        self.roots: set[str] = set()

    def of_filter(self, source: Any, path: str | None, depth: int, *, is_element: bool) -> list[Condition]:
        """The conditions of a filter, all of which must hold of a document; ``$and`` adds to them.

        Args:
            path: Where the filter stands in the whole one.
            is_element: It is inside ``$any``: its paths start at ``@``, and its conditions are on the element.
        """
        if not isinstance(source, OBJECT):
            raise _invalid(path, f"a filter is an object, not {_name(source)}", 'Write {"<path>": {"$eq": ...}}')
        self._check_depth(depth)
        conditions: list[Condition] = []
        for key, body in source.items():
            if key == "$and":
                for part in _parts(key, body):
                    conditions += self.of_filter(part, key, depth, is_element=is_element)
            elif key == "$or":
                self._count()
                parts = _parts(key, body)
                conditions.append(
                    either([both(self.of_filter(part, key, depth + 1, is_element=is_element)) for part in parts])
                )
            elif key == "$not":
                self._count()
                conditions.append(negated(both(self.of_filter(body, key, depth + 1, is_element=is_element))))
            elif key in _OPERATORS:
                raise _invalid(key, "an operator needs a path", f'Write {{"<path>": {{"{key}": ...}}}}')
            elif key.startswith("$"):
                raise _invalid(key, "unknown operator", "A filter holds paths, $and, $or and $not")
            else:
                read = self._reader(key, is_element)
                conditions.append(applied(read, both(self.of_operators(body, key, depth))))
        return conditions

    def _reader(self, path: str, is_element: bool) -> Read:
        root, *steps = _segments(path)
        if is_element and root != "@":
            raise _invalid(path, "inside $any a path starts at the element", 'Write "@" or "@.<member>"')
        if not is_element and root == "@":
            raise _invalid(path, "@ is the element of an array", "Use it inside $any")
        if not is_element and root not in _ROOTS:
            raise _invalid(path, f"unknown root `{_short(root)}`", f"Start the path with one of {', '.join(_ROOTS)}")
        if len(steps) > _MAX_SEGMENTS:
            raise _invalid(path, f"{len(steps)} segments after the root", f"The limit is {_MAX_SEGMENTS}")
        if not is_element:
            self.roots.add(root)
        return reader(None if is_element else root, steps)

    def of_operators(self, body: Any, path: str, depth: int) -> list[Condition]:
        """The conditions of an operator object, all of which must hold of a value."""
        if not isinstance(body, OBJECT):
            raise _invalid(path, f"needs an operator object, not {_name(body)}", 'Write {"$eq": ...} for a literal')
        if not body:
            raise _invalid(path, "the operator object is empty", 'Write {"$exists": true} if any value will do')
        conditions: list[Condition] = []
        for operator, operand in body.items():
            if operator not in _OPERATORS:
                if not operator.startswith("$"):
                    raise _invalid(path, f"`{_short(operator)}` is no operator", 'Write {"$eq": ...} for a literal')
                if operator in {"$and", "$or", "$not"}:
                    raise _invalid(path, f"{operator} combines filters", f'Write {{"{operator}": ...}} around the path')
                raise _invalid(path, f"unknown operator `{_short(operator)}`", f"Use one of {_OPERATOR_NAMES}")
            self._count()
            conditions.append(self._of_operator(operator, operand, path, depth))
        return conditions

    def _of_operator(self, operator: str, operand: Any, path: str, depth: int) -> Condition:
        if operator in {"$eq", "$ne"}:
            _check_literal(operand, operator, path)
            condition = equals(operand)
            return condition if operator == "$eq" else negated(condition)
        if operator in {"$in", "$nin"}:
            if not isinstance(operand, ARRAY):
                raise _takes(path, operator, "a list", operand)
            if len(operand) > _MAX_ITEMS:
                raise _invalid(path, f"{operator} has {len(operand)} items", f"The limit is {_MAX_ITEMS}")
            for item in operand:
                _check_literal(item, operator, path)
            condition = one_of(operand)
            return condition if operator == "$in" else negated(condition)
        if operator in _ORDERINGS:
            if isinstance(operand, bool) or not isinstance(operand, int | float | str):
                raise _takes(path, operator, "a number or a string", operand)
            return ordered(operator, operand if isinstance(operand, str) else float(operand))
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise _takes(path, operator, "true or false", operand)
            return exists if operand else negated(exists)
        if operator == "$prefix":
            if not isinstance(operand, str):
                raise _takes(path, operator, "a string", operand)
            return starts_with(operand)
        if not isinstance(operand, OBJECT):
            raise _takes(path, operator, "operators, or a filter whose paths start at @", operand)
        self._check_depth(depth + 1)
        inner = f"{path}.$any"
        if operand and _OPERATORS.issuperset(operand):
            return any_element(both(self.of_operators(operand, inner, depth + 1)))
        return any_element(both(self.of_filter(operand, inner, depth + 1, is_element=True)))

    def _count(self) -> None:
        """Count an operator, ``$or`` or ``$not``."""
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise _invalid(
                None,
                f"the filter has more than {_MAX_NODES} operators, $or and $not",
                "Use $in in place of many $eq, or several observers",
            )

    def _check_depth(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise _invalid(None, f"$or, $not and $any nest deeper than {_MAX_DEPTH} levels", "Flatten the filter")


_EXAMPLES: Final = {
    "$and": '{"$and": [{"<path>": {"$exists": true}}, ...]}, or leave it out',
    "$or": '{"$or": [{"<path>": {"$exists": true}}, ...]}, or leave it out',
    "$in": '{"$in": [1, 2]}',
    "$nin": '{"$nin": [1, 2]}',
    "$gt": '{"$gt": 5} or {"$gt": "m"}',
    "$gte": '{"$gte": 5} or {"$gte": "m"}',
    "$lt": '{"$lt": 5} or {"$lt": "m"}',
    "$lte": '{"$lte": 5} or {"$lte": "m"}',
    "$exists": '{"$exists": true}',
    "$prefix": '{"$prefix": "order-"}',
    "$any": '{"$any": {"$eq": 1}} or {"$any": {"@.id": {"$eq": 1}}}',
}
_OPERATOR_NAMES: Final = ", ".join(sorted(_OPERATORS))


def _parts(operator: str, body: Any) -> Any:
    if not isinstance(body, ARRAY) or not body:
        raise _takes(operator, operator, "a list of filters with one at least", body)
    return body


def _takes(path: str, operator: str, wanted: str, operand: object) -> FilterError:
    return _invalid(path, f"{operator} takes {wanted}, not {_name(operand)}", f"Write {_EXAMPLES[operator]}")


def _check_literal(literal: object, operator: str, path: str) -> None:
    if _nesting(literal) > _MAX_LITERAL_NESTING:
        raise _invalid(
            path,
            f"a literal of {operator} nests more than {_MAX_LITERAL_NESTING} arrays and objects",
            "Compare the parts that matter by paths of their own",
        )


def _segments(path: str) -> list[str]:
    r"""Split a path at its dots. ``\.`` and ``\\`` stand for the character alone; no other escape is valid (§18)."""
    segments = [""]
    characters = iter(path)
    for character in characters:
        if character == ".":
            segments.append("")
            continue
        if character == "\\":
            character = next(characters, "")
            if character not in {".", "\\"}:
                raise _invalid(path, f"invalid escape `\\{character}`", "Only \\. and \\\\ are escapes")
        segments[-1] += character
    if "" in segments:
        raise _invalid(path, "a segment is empty", "Write <root>.<segment>, and \\. for a dot inside a segment")
    return segments


MATCH_ALL: Final = compile_filter({})
"""The filter of an observer that wants everything."""
