"""An example of a value that a JSON Schema describes, for ``describe``. Plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

__all__ = ("sample",)

_DEPTH: Final = 6
"""Levels of an example; a schema may refer to itself."""
_FORMATS: Final = {
    "date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "time": "12:00:00Z", "email": "ada@example.com",
    "uri": "https://example.com", "uuid": "00000000-0000-4000-8000-000000000000",
}  # fmt: skip
_PLAIN: Final[dict[str, Any]] = {"integer": 1, "number": 1.5, "boolean": True, "null": None, "string": "text"}


def sample(schema: Any) -> Any:
    """A value that fits, as far as types, required properties, bounds and enumerations go; ``{}`` when nothing is said.

    Values that the schema itself gives as example, default or constant go first; optional properties are left out.
    """
    return _sample(schema, cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}, 0)


def _sample(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEPTH:
        return {}
    known = cast("dict[str, Any]", schema)
    if "const" in known:
        return known["const"]
    for key in ("examples", "enum"):
        if values := _list(known.get(key)):
            return values[0]
    for key in ("example", "default"):
        if known.get(key) is not None:
            return known[key]
    if isinstance(reference := known.get("$ref"), str):
        return _sample(_resolve(reference, root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if choices := _list(known.get(key)):
            return _sample(_chosen(choices), root, depth + 1)
    kinds: Any = known.get("type")
    if isinstance(kinds, list):
        kinds = next((kind for kind in _list(known["type"]) if kind != "null"), "null")
    match kinds:
        case "array":
            return [_sample(known["items"], root, depth + 1)] if isinstance(known.get("items"), dict) else []
        case "string":
            return _FORMATS.get(str(known.get("format")), "text".ljust(_whole(known.get("minLength")), "t"))
        case "integer" | "number" if isinstance(known.get("minimum"), int | float):
            return known["minimum"]
        case str() if kinds in _PLAIN:
            return _PLAIN[kinds]
        case _:
            return _object(known, root, depth)


def _object(schema: dict[str, Any], root: dict[str, Any], depth: int) -> dict[str, Any]:
    properties: Any = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    names = _list(schema.get("required"))
    return {
        name: _sample(inner, root, depth + 1)
        for name, inner in cast("dict[str, Any]", properties).items()
        if name in names
    }


def _chosen(choices: list[Any]) -> Any:
    def is_null(choice: Any) -> bool:
        return isinstance(choice, dict) and cast("dict[str, Any]", choice).get("type") == "null"

    return next((choice for choice in choices if not is_null(choice)), choices[0])


def _resolve(reference: str, root: dict[str, Any]) -> Any:
    """Within the same document, as pydantic and upstream write them."""
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:] if reference.startswith("#") else [""]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
    return found


def _list(value: Any) -> list[Any]:
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else []


def _whole(value: Any) -> int:
    return min(value, 80) if isinstance(value, int) else 0
