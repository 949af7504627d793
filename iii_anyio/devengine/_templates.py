"""Placeholders in configuration values: ``${NAME}`` and ``${NAME:default}``, replaced by environment variables. Pure.

Above: ``builtins/configuration``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

__all__ = ("UnresolvedError", "expand")

ENGINE_VERSION: Final = "__III_ENGINE_VERSION__"
"""As a default it stands for the engine's version."""

_PLACEHOLDER: Final = re.compile(r"\$\{([^{}:]+)(?::([^}]*))?\}")
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "~": None, "null": None, "Null": None, "NULL": None,
}  # fmt: skip


class UnresolvedError(Exception):
    """A placeholder has neither a value nor a default.

    Attributes:
        name: Of the environment variable.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the environment variable {self.name} is not set, and its placeholder has no default"


def expand(value: Any, environment: Mapping[str, str], version: str, *, is_lenient: bool = False) -> Any:
    """Replace the placeholders in every string of a value; keys stay as they are (CF-6).

    Args:
        value: JSON; not changed.
        environment: Values by name.
        version: What the default ``__III_ENGINE_VERSION__`` stands for.
        is_lenient: Leave what cannot be resolved as it is.

    Raises:
        UnresolvedError: Otherwise.
    """

    def resolve(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = environment.get(name)
        if found is not None:
            return found
        if default is None:
            if is_lenient:
                return match[0]
            raise UnresolvedError(name)
        return version if default == ENGINE_VERSION else default

    return _walk(value, resolve)


def _walk(value: Any, resolve: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(value, str):
        return _expand_text(value, resolve) if "${" in value else value
    if isinstance(value, dict):
        return {key: _walk(member, resolve) for key, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_walk(item, resolve) for item in cast("list[object]", value)]
    return value


def _expand_text(text: str, resolve: Callable[[re.Match[str]], str]) -> Any:
    only = _PLACEHOLDER.fullmatch(text.strip())
    if only is None:
        return _PLACEHOLDER.sub(resolve, text)
    found = resolve(only)
    return text if found == only[0] else _scalar(found)


def _scalar(text: str) -> Any:
    """A YAML scalar; what is none, or empty, stays a string (CF-6). Leading zeros make no number."""
    plain = text.strip()
    if plain in _WORDS:
        return _WORDS[plain]
    if _INTEGER.fullmatch(plain):
        sign, digits = ("-", plain[1:]) if plain[0] == "-" else ("", plain.lstrip("+"))
        return int(sign + digits, 0)
    if _FLOAT.fullmatch(plain) and math.isfinite(float(plain)):
        return float(plain)
    if len(plain) >= 2 and plain[0] == plain[-1] and plain[0] in "'\"":
        return plain[1:-1]
    return text
