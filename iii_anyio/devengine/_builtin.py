"""What a function of the engine itself is made of: its entry in the table, its input, an answer that comes later.

Below: errors. Above: ``_engine_functions`` and ``_introspection`` fill the table, ``_router`` runs what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from ..errors import InvocationError

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession

__all__ = ("ENGINE_FUNCTIONS", "OBSERVABILITY", "Builtin", "Deferred", "Input", "Timer", "kind_of", "unreadable")

ENGINE_FUNCTIONS: Final = "iii-engine-functions"
OBSERVABILITY: Final = "iii-observability"
"""Names of upstream's in-process workers that own the functions of the table."""

Handler: TypeAlias = "Callable[[EngineSession, dict[str, Any]], object]"
"""Takes the calling connection and the checked input; returns a JSON value, ``None`` for none, or a ``Deferred``."""


class Deferred:
    """The answer of a built-in function that comes later. The first outcome counts."""

    __slots__ = ("_error", "_listener", "_result", "is_settled")

    def __init__(self) -> None:
        self.is_settled: bool = False
        self._result: Any = None
        self._error: InvocationError | None = None
        self._listener: Callable[[Any, InvocationError | None], None] | None = None

    def settle(self, result: Any = None, error: InvocationError | None = None) -> None:
        """Answer with a result, or with an error."""
        if self.is_settled:
            return
        self.is_settled, self._result, self._error = True, result, error
        if self._listener is not None:
            self._listener(result, error)

    def follow(self, answer: object) -> None:
        """Answer with a value, or as another ``Deferred`` does."""
        if isinstance(answer, Deferred):
            answer.listen(self.settle)
        else:
            self.settle(answer)

    def listen(self, listener: Callable[[Any, InvocationError | None], None]) -> None:
        """Have the outcome delivered, at once when it is there already."""
        self._listener = listener
        if self.is_settled:
            listener(self._result, self._error)


@dataclass(slots=True, eq=False)
class Timer:
    """A wish for ``Router.timer_expired(self)`` after so many seconds; late or for nothing does no harm."""

    seconds: float
    callback: Callable[[], None]


def _is_pair(value: object) -> bool:
    if not isinstance(value, list):
        return False
    items = cast("list[object]", value)
    return len(items) == 2 and all(isinstance(item, str) for item in items)


_KINDS: Final[dict[str, tuple[Callable[[Any], bool], dict[str, Any]]]] = {
    "string": (lambda value: isinstance(value, str), {"type": "string"}),
    "boolean": (lambda value: isinstance(value, bool), {"type": "boolean"}),
    "unsigned": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        {"type": "integer", "minimum": 0},
    ),
    "object": (lambda value: isinstance(value, dict), {"type": "object"}),
    "strings": (
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in cast("list[object]", value)),
        {"type": "array", "items": {"type": "string"}},
    ),
    "number": (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        {"type": "number"},
    ),
    "pairs": (
        lambda value: isinstance(value, list) and all(map(_is_pair, cast("list[object]", value))),
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}},
    ),
    "any": (lambda _value: True, {}),
}
_ARTICLE: Final = {
    "unsigned": "an integer, 0 or more",
    "object": "an object",
    "strings": "an array of strings",
    "pairs": "an array of pairs of strings",
}


class Input:
    """The fields a built-in function takes: by name, one of ``_KINDS``, with ``!`` when required (C-2, C-3)."""

    def __init__(self, **fields: str) -> None:
        self._required = frozenset(name for name, kind in fields.items() if kind.endswith("!"))
        self._fields: Mapping[str, str] = {name: kind.rstrip("!") for name, kind in fields.items()}

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the input, for discovery."""
        properties: dict[str, Any] = {}
        for name, kind in self._fields.items():
            schema = dict(_KINDS[kind][1])
            if name not in self._required and "type" in schema:
                schema["type"] = [schema["type"], "null"]
            properties[name] = schema
        schema = {"type": "object", "properties": properties}
        return schema | {"required": sorted(self._required)} if self._required else schema

    def check(self, function_id: str, data: object) -> dict[str, Any]:
        """Return the known fields that are given; a null optional field is not given (C-3).

        Raises:
            InvocationError: ``deserialization_error``, naming the function and what is wrong (C-2, P-132).
        """
        if not isinstance(data, dict):
            raise unreadable(function_id, f"invalid type: {kind_of(data)}, expected an object")
        fields = cast("dict[str, Any]", data)
        given: dict[str, Any] = {}
        for name, kind in self._fields.items():
            if name not in fields:
                if name in self._required:
                    raise unreadable(function_id, f"missing field `{name}`")
                continue
            value = fields[name]
            if value is None and name not in self._required:
                continue
            if not _KINDS[kind][0](value):
                expected = _ARTICLE.get(kind, f"a {kind}")
                raise unreadable(function_id, f"field `{name}`: invalid type: {kind_of(value)}, expected {expected}")
            given[name] = value
        return given


@dataclass(slots=True, frozen=True, eq=False)
class Builtin:
    """One function of the engine itself. ``worker_name`` is the in-process worker it is listed under."""

    id: str
    handler: Handler
    input: Input
    description: str
    worker_name: str = ENGINE_FUNCTIONS

    def __call__(self, session: EngineSession, data: object) -> object:
        """Check the input and run.

        Raises:
            InvocationError: What the caller is to be answered.
        """
        return self.handler(session, self.input.check(self.id, data))


def unreadable(function_id: str, reason: str) -> InvocationError:
    return InvocationError("deserialization_error", f"Failed to deserialize input for {function_id}: {reason}")


def kind_of(value: object) -> str:
    """Name a JSON value's kind as an error message does."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return f"number {value}" if abs(value) < 1e18 else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
