"""Who may call what through a guarded listener (§6.3, §6.4): rules, grants and the decision. No I/O, no waiting.

Below: nothing but JSON values. Above: ``_guard``, which asks for each message, and ``_config``, which reads the rules.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast

from .._protocol.engine_session import DEFAULT_NAMESPACE
from .._protocol.messages import ABSENT

__all__ = ("INFRASTRUCTURE", "Decision", "Grants", "Rule", "decide", "is_glob_match", "read_match")

INFRASTRUCTURE: Final = frozenset(
    {
        "engine::channels::create",
        "engine::workers::register",
        *(f"engine::log::{level}" for level in ("info", "warn", "error", "debug", "trace")),
        *(f"engine::baggage::{name}" for name in ("get", "set", "get_all")),
    }
)
"""What every worker needs, whatever is exposed (§6.4 step 4)."""


class Decision(enum.Enum):
    """What is decided about a call."""

    ALLOWED = enum.auto()
    FORBIDDEN = enum.auto()
    """The session's grants forbid it."""
    NOT_EXPOSED = enum.auto()
    """Nothing allows it."""


def is_glob_match(pattern: str, text: str) -> bool:
    """Whether a pattern covers all of a text; ``*`` is any run of characters, nothing else is special (RB-11).

    The time is linear in the text, whatever the pattern: the text comes from workers.
    """
    head, *parts = pattern.split("*")
    if not parts:
        return text == pattern
    tail = parts.pop()
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    at, end = len(head), len(text) - len(tail)
    for part in parts:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def read_match(text: str) -> str | None:
    """The pattern in ``match("…")`` or ``match('…')``; None for any other text (RB-10)."""
    text = text.strip()
    if not (text.startswith("match(") and text.endswith(")")):
        return None
    quoted = text[6:-1].strip()
    if len(quoted) >= 2 and quoted[0] == quoted[-1] and quoted[0] in "\"'" and quoted[0] not in quoted[1:-1]:
        return quoted[1:-1]
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of ``expose_functions``. Exactly one of ``pattern`` and ``metadata`` is set."""

    pattern: str | None = None
    metadata: Mapping[str, Any] | None = None
    namespace: str = DEFAULT_NAMESPACE
    """A rule without one covers ``default`` only (RB-12)."""

    @classmethod
    def read(cls, entry: object) -> Self:
        """Read an entry as the configuration file has it (RB-10).

        Raises:
            ValueError: It has another form; the message says which forms there are.
        """
        if isinstance(entry, str):
            quoted = read_match(entry)
            if quoted is None:
                raise ValueError(f'{entry!r} is no rule; write match("{entry}"), a bare id is not one')
            return cls(quoted)
        if not isinstance(entry, Mapping):
            raise ValueError(f'{entry!r} is no rule; write match("api::*"), or a mapping with `match` or `metadata`')
        fields = dict(cast("Mapping[object, object]", entry))
        pattern, metadata = fields.pop("match", None), fields.pop("metadata", None)
        namespace = fields.pop("namespace", None)
        if fields:
            raise ValueError(f"unknown key {next(iter(fields))!r}; a rule has `match` or `metadata`, and `namespace`")
        if (pattern is None) == (metadata is None):
            raise ValueError("a rule has exactly one of `match` and `metadata`")
        if pattern is not None and not isinstance(pattern, str):
            raise ValueError(f"`match` is a pattern such as orders::*, not {pattern!r}")
        if metadata is not None and (not isinstance(metadata, Mapping) or not metadata):
            raise ValueError(f"`metadata` is a mapping of at least one key, not {metadata!r}")
        if namespace is not None and (not isinstance(namespace, str) or not namespace.strip()):
            raise ValueError(f"`namespace` is the name of one, not {namespace!r}")
        return cls(pattern, cast("Mapping[str, Any] | None", metadata), namespace or DEFAULT_NAMESPACE)

    def covers(self, function_id: str, namespace: str, metadata: object) -> bool:
        """Whether it exposes a function. ``metadata`` is ``ABSENT`` for one without, or that does not exist (RB-13)."""
        if namespace != self.namespace:
            return False
        if self.pattern is not None:
            return is_glob_match(self.pattern, function_id)
        if not isinstance(metadata, Mapping) or self.metadata is None:
            return False
        actual = cast("Mapping[str, Any]", metadata)
        return all(key in actual and _is_value_match(wanted, actual[key]) for key, wanted in self.metadata.items())


def _is_value_match(wanted: object, actual: object) -> bool:
    if isinstance(wanted, str) and isinstance(actual, str) and (pattern := read_match(wanted)) is not None:
        return is_glob_match(pattern, actual)
    return _is_equal(wanted, actual)


def _is_equal(one: object, other: object) -> bool:
    """Equality of JSON values, where ``true`` is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        left, right = cast("Mapping[str, Any]", one), cast("Mapping[str, Any]", other)
        return left.keys() == right.keys() and all(_is_equal(left[key], right[key]) for key in left)
    if isinstance(one, list) and isinstance(other, list):
        first, second = cast("list[object]", one), cast("list[object]", other)
        return len(first) == len(second) and all(map(_is_equal, first, second))
    return one == other


@dataclass(frozen=True, slots=True)
class Grants:
    """What a connection may do: the checked answer of the auth function (RB-7)."""

    namespaces: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    allowed_functions: frozenset[str] = frozenset()
    forbidden_functions: frozenset[str] = frozenset()
    allowed_trigger_types: frozenset[str] | None = None
    """None is all."""
    allow_trigger_type_registration: bool = True
    """Of a listener without auth function (RB-8); an auth function that does not mention it says False."""
    allow_function_registration: bool = True
    function_registration_prefix: str | None = None
    context: Any = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, result: object) -> Self:
        """Read what an auth function returned.

        Raises:
            ValueError: It has another shape, which refuses the connection (RB-6, RB-7).
        """
        if not isinstance(result, dict):
            raise ValueError("the auth function returned no object")
        fields = cast("dict[str, Any]", result)
        namespaces: object = fields.get("namespaces", {})
        if not isinstance(namespaces, dict):
            raise ValueError("`namespaces` of the auth function's result is no object")
        prefix = fields.get("function_registration_prefix")
        if prefix is not None and not isinstance(prefix, str):
            raise ValueError("`function_registration_prefix` of the auth function's result is no string")
        types: object = fields.get("allowed_trigger_types")
        return cls(
            {name: _strings(grants, "namespaces") for name, grants in cast("dict[str, Any]", namespaces).items()},
            frozenset(_strings(fields.get("allowed_functions", []), "allowed_functions")),
            frozenset(_strings(fields.get("forbidden_functions", []), "forbidden_functions")),
            None if types is None else frozenset(_strings(types, "allowed_trigger_types")),
            _boolean(fields, "allow_trigger_type_registration", default=False),
            _boolean(fields, "allow_function_registration", default=True),
            prefix or None,
            fields.get("context", {}),
        )

    def may_declare(self, namespace: str) -> bool:
        """Whether the connection may register as a worker of this namespace (RB-15)."""
        return not self.namespaces or namespace in self.namespaces

    def covers(self, function_id: str, namespace: str) -> bool:
        """Whether the grants allow a call by themselves (§6.4 steps 2 and 3)."""
        for grant in self.namespaces.get(namespace, ()):
            pattern = read_match(grant)
            if is_glob_match(grant if pattern is None else pattern, function_id):
                return True
        return namespace == DEFAULT_NAMESPACE and function_id in self.allowed_functions


def decide(
    grants: Grants, rules: Sequence[Rule] | None, function_id: str, namespace: str, metadata: object = ABSENT
) -> Decision:
    """Decide about a call, in the order of §6.4.

    Args:
        grants: Of the connection.
        rules: Of its listener; None when that has no ``rbac``.
        function_id: What is called.
        namespace: Where it is looked up.
        metadata: What the function was registered with; ``ABSENT`` when nothing, or it does not exist.
    """
    if function_id in grants.forbidden_functions:
        return Decision.FORBIDDEN
    if grants.covers(function_id, namespace) or function_id in INFRASTRUCTURE or rules is None:
        return Decision.ALLOWED
    if any(rule.covers(function_id, namespace, metadata) for rule in rules):
        return Decision.ALLOWED
    return Decision.NOT_EXPOSED


def _strings(value: object, name: str) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"`{name}` of the auth function's result is no list")
    entries = cast("list[object]", value)
    if not all(isinstance(entry, str) for entry in entries):
        raise ValueError(f"`{name}` of the auth function's result holds something else than strings")
    return cast("list[str]", entries)


def _boolean(fields: dict[str, Any], name: str, *, default: bool) -> bool:
    value: object = fields.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` of the auth function's result is no boolean")
    return value
