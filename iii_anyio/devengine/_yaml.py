"""YAML text to JSON values that know the line they came from: what ``_config`` reads. No files.

Below: ruamel.yaml, which reads YAML 1.2 as upstream's engine does (``yes`` and ``on`` are text). Above: ``_config``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

__all__ = ("Document", "Path", "expand", "read_yaml")

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the root to a value."""

_VARIABLE: Final = re.compile(r"\$\{([^}:]+)(?::([^}]*))?\}")
_TAG: Final = "tag:yaml.org,2002:"
_FLOATS: Final = {".inf": "inf", "-.inf": "-inf", "+.inf": "inf", ".nan": "nan"}


@dataclass(slots=True)
class Document:
    """A value, where it was read, and the line of each part. Without text there are no lines."""

    value: Any
    source: str = "configuration"
    lines: dict[Path, int] = field(default_factory=dict[Path, int])

    def problem(self, path: Path, text: str) -> ValueError:
        """An error that says where: file, line and key."""
        return ValueError(f"{self.place(path)}: {text}")

    def place(self, path: Path) -> str:
        """``config.yaml:12: workers[0].config.port``, with the line of the closest part that has one."""
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        for length in range(len(path), -1, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return f"{self.source}:{line}: {key}" if key else f"{self.source}:{line}"
        return f"{self.source}: {key}" if key else self.source


def expand(text: str, source: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace ``${NAME}`` and ``${NAME:default}`` everywhere, comments included (EC-3).

    Raises:
        ValueError: A variable has neither value nor default.
    """
    known = os.environ if environment is None else environment

    def replacement(match: re.Match[str]) -> str:
        default: str | None = match.group(2)
        value = known.get(match[1], default)
        if value is None:
            line = text.count("\n", 0, match.start()) + 1
            raise ValueError(
                f"{source}:{line}: environment variable {match[1]} is not set; "
                f"set it, or give a default: ${{{match[1]}:value}}"
            )
        return value

    return _VARIABLE.sub(replacement, text)


def read_yaml(text: str, source: str) -> Document:
    """Read one YAML document; an empty one is None.

    Raises:
        ImportError: The extra ``engine`` is not installed.
        ValueError: It is not YAML; the message names the line.
    """
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
    except ImportError as exc:
        raise ImportError("configuration files need ruamel.yaml: pip install 'iii-anyio[engine]'") from exc

    yaml: Any = YAML(typ="safe", pure=True)
    try:
        root: Any = yaml.compose(text)
    except MarkedYAMLError as exc:
        error: Any = exc  # its attributes have no types
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ValueError(f"{source}{line}: not YAML: {error.problem or error.context}") from exc
    except (YAMLError, RecursionError) as exc:
        reason = "too deep" if isinstance(exc, RecursionError) else str(exc).partition("\n")[0]
        raise ValueError(f"{source}: not YAML: {reason}") from exc
    document = Document(None, source)
    if root is not None:
        document.value = _Reader(document).read(root, ())
    return document


class _Reader:
    """Nodes to values. An alias is its anchor's value, read once: repeating it costs nothing."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()

    def read(self, node: Any, path: Path) -> Any:
        self._document.lines[path] = node.start_mark.line + 1
        key = id(node)
        if key in self._done:
            return self._done[key]
        if key in self._open:
            raise self._document.problem(path, "an alias of a value inside itself")
        self._open.add(key)
        match node.id:
            case "mapping":
                value: Any = self._mapping(node, path)
            case "sequence":
                value = [self.read(entry, (*path, index)) for index, entry in enumerate(node.value)]
            case _:
                value = self._scalar(node, path)
        self._open.remove(key)
        self._done[key] = value
        return value

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in node.value:
            if key.id != "scalar":
                raise self._document.problem(path, "a key that is no text")
            name: str = key.value
            at = (*path, name)
            self._document.lines[at] = line = key.start_mark.line + 1
            if name in fields:
                raise self._document.problem(at, "the key is there twice")
            fields[name] = self.read(value, at)
            self._document.lines[at] = line
        return fields

    def _scalar(self, node: Any, path: Path) -> Any:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self._integer(text, path)
            case "float":
                plain = text.replace("_", "").lower()
                return float(_FLOATS.get(plain, plain))
            case _:  # dates, too, are text to the engine
                return text

    def _integer(self, text: str, path: Path) -> int:
        plain = text.replace("_", "")
        try:
            return int(plain, 10 if plain.lstrip("+-").isdecimal() else 0)
        except ValueError:
            raise self._document.problem(path, f"{text} is no number") from None
