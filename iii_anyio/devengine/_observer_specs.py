"""What a worker asks of an observer, and what an owner allows: read, checked, and as it is announced (§16.2, §16.5).

No state: ``_observers`` keeps the observers themselves. Below: the filter language, JSON Schema.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from .._protocol.codec import to_json
from .._protocol.engine_session import DEFAULT_NAMESPACE
from ..errors import ObserveRejection
from ..filter import CompiledFilter, FilterError, compile_filter
from ._errors import shorten

if TYPE_CHECKING:
    from .._protocol.messages import Observe
    from ._schemas import Schema

__all__ = ("PARTS", "Descriptor", "Key", "ObserverSpec", "legacy_spec", "normal_form", "read_spec")

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str]
"""Namespace and id of a function."""
Part: TypeAlias = Literal["input", "output", "error", "caller", "metadata"]

PARTS: Final = ("input", "output", "error", "caller", "metadata")
DEFAULT_CAPTURE: Final = ("input", "output", "caller")
ON: Final = ("success", "error", "complete")
DELIVER: Final = ("envelope", "input", "output")
MAX_EXPIRY: Final = 366 * 24 * 3600 * 1000
"""Milliseconds; an observer that is to live longer lives for ever."""
INVALID_ARGS: Final = "INVALID_ARGS"


@dataclass(slots=True, frozen=True)
class ObserverSpec:
    """One observer as its worker wants it. Equal ones are the same observer, announced again (§16.5)."""

    source: Key
    target: Key
    args: dict[str, Any]
    filters: dict[str, Any]
    """In normal form."""
    capture: tuple[str, ...]
    on: str
    deliver: str
    metadata: Any
    max_fires: int | None
    expires_in_ms: int | None
    max_in_flight: int | None
    legacy: dict[str, Any] | None = None
    """Type and config of the old trigger that it stands for."""

    def announced(self, observer_id: str) -> dict[str, Any]:
        """What the owner is told of it (§16.3). What is to be delivered bare must be captured, too."""
        capture = self.capture
        if self.deliver != "envelope" and self.deliver not in capture:
            capture = (*capture, self.deliver)
        announced: dict[str, Any] = {
            "id": observer_id,
            "args": self.args,
            "filters": self.filters,
            "target": self.target[1],
            "capture": list(capture),
            "on": self.on,
        }
        return announced if self.legacy is None else announced | {"legacy": self.legacy}

    def is_same(self, other: ObserverSpec) -> bool:
        """Whether both ask for the same, in JSON's terms: for Python ``True`` equals 1."""
        return self == other and to_json(self.announced("")) == to_json(other.announced(""))

    @property
    def is_for_ever(self) -> bool:
        """Whether no time ends it."""
        return self.expires_in_ms is None or self.expires_in_ms > MAX_EXPIRY


def read_spec(message: Observe) -> tuple[ObserverSpec, CompiledFilter]:
    """Check what an ``observe`` asks for, as far as that does not depend on the owner.

    Raises:
        ObserveRejection: ``INVALID_ARGS``, ``INVALID_FILTER``, ``INVALID_NAMESPACE`` or ``SELF_TARGET``.
    """
    source: dict[str, Any] = message.source
    source_key, target_key = _key(source, "source"), _key(message.target, "target")
    if source_key == target_key:
        raise ObserveRejection("SELF_TARGET", f"{source_key[1]} is source and target; it would call itself for ever")
    args = source.get("args")
    if args is not None and not isinstance(args, dict):
        raise ObserveRejection(INVALID_ARGS, "source.args must be an object")
    capture = source.get("capture")
    if capture is None:
        capture = list(DEFAULT_CAPTURE)
    if not isinstance(capture, list) or any(part not in PARTS for part in cast("list[object]", capture)):
        raise ObserveRejection(INVALID_ARGS, f"source.capture must be a list of {', '.join(PARTS)}")
    for name in ("max_fires", "max_in_flight"):
        if getattr(message, name) == 0:
            raise ObserveRejection(INVALID_ARGS, f"{name} is 0, and nothing would be delivered; leave it out or say 1")
    filters = source.get("filters")
    try:
        compiled = compile_filter({} if filters is None else filters)
    except FilterError as error:
        raise ObserveRejection("INVALID_FILTER", error.message) from None
    spec = ObserverSpec(
        source_key,
        target_key,
        cast("dict[str, Any]", args or {}),
        normal_form(compiled.source),
        tuple(dict.fromkeys(cast("list[str]", capture))),
        _one_of(source, "on", ON),
        _one_of(source, "deliver", DELIVER),
        message.metadata,
        message.max_fires,
        message.expires_in_ms,
        message.max_in_flight,
    )
    return spec, compiled


def legacy_spec(source: Key, target: Key, trigger_type: str, config: Any, metadata: Any) -> ObserverSpec:
    """What an old ``registertrigger`` asks for: the bare event, as a trigger's function gets it (§16.3).

    How its owner is to deal with ``config`` only the owner knows; it is no ``args``.
    """
    legacy = {"trigger_type": trigger_type, "config": config}
    return ObserverSpec(source, target, {}, {}, DEFAULT_CAPTURE, ON[0], "input", metadata, None, None, None, legacy)


def _key(end: dict[str, Any], what: str) -> Key:
    """Resolved like a call's: the worker names its own namespace if it wants it (§4.3, §7.1)."""
    namespace: str | None = end.get("namespace")
    if namespace is not None and not namespace.strip():
        problem = f"the namespace of {what} must not be blank; leave it out for `default`"
        raise ObserveRejection("INVALID_NAMESPACE", problem)
    return namespace or DEFAULT_NAMESPACE, end["function_id"]


def _one_of(source: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = source.get(name)
    if value is None:
        return allowed[0]
    if value not in allowed:
        raise ObserveRejection(INVALID_ARGS, f"source.{name} must be one of {', '.join(allowed)}")
    return cast("str", value)


def normal_form(filters: dict[str, Any]) -> dict[str, Any]:
    """Write a valid filter as ``{}`` or as one ``$and`` of entries that are no ``$and`` themselves (§16.3)."""
    entries = list(_entries(filters))
    return {"$and": entries} if entries else {}


def _entries(filters: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for key, body in filters.items():
        if key == "$and":
            for part in body:
                entries += _entries(part)
        else:
            entries.append({key: body})
    return entries


class Descriptor:
    """``registerfunction.observe``: how a function may be observed. Read leniently (§16.1, §16.2)."""

    def __init__(self, function_id: str, fields: dict[str, Any] | None) -> None:
        fields = fields or {}
        self.is_owner_delivered: bool = fields.get("delivery") == "owner"
        self.is_allowed: bool = fields.get("allow") is not False
        self._function_id = function_id
        legacy = fields.get("legacy_trigger_type")
        self.legacy_trigger_type: str | None = legacy if isinstance(legacy, str) and legacy.strip() else None
        """Type of the old triggers that it takes."""
        self._args_format: Any = fields.get("args_format")

    def refusal(self, spec: ObserverSpec) -> dict[str, str] | None:
        """Why this function may not be observed so; None when it may."""
        if not self.is_allowed:
            return {"code": "NOT_OBSERVABLE", "message": f"{self._function_id[:1000]} does not allow observers"}
        if not self.is_owner_delivered or spec.legacy is not None or self._schema is None:
            return None
        problems = self._schema.violations(spec.args)
        return {"code": INVALID_ARGS, "message": "args: " + "; ".join(problems)} if problems else None

    def warnings(self, spec: ObserverSpec) -> list[str]:
        """What of an observer has no effect here."""
        if self.is_owner_delivered:
            return ["on: a function with owner delivery has successes only"] if spec.on == "error" else []
        return ["args: nobody looks at them, for the function has auto delivery"] if spec.args else []

    @cached_property
    def _schema(self) -> Schema | None:
        if self._args_format is None:
            return None
        try:
            from ._schemas import Schema  # of an extra, and few functions have one
        except ImportError:
            logger.warning(
                "the args of observers of %s are not checked: install iii-anyio[engine] for jsonschema",
                shorten(self._function_id),
            )
            return None
        return Schema(self._args_format)
