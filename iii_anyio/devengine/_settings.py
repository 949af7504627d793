"""The ``config`` of a built-in worker, as the real engine's configuration file has it: read key by key.

A wrong value is a ``ValueError`` that names the worker, the key and what is allowed. Keys that nobody asked for are
reported by ``end``: the real engine rejects them, an engine for development goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

__all__ = ("Section", "check_adapter")

logger: Final = logging.getLogger("iii_anyio.devengine")


class Section:
    """One mapping of a configuration. A key that is null is not given."""

    def __init__(self, worker: str, values: object, path: str = "") -> None:
        self.worker = worker
        self._path = path
        self._known: set[str] = set()
        if not isinstance(values, Mapping):
            raise ValueError(f"{worker}: {path.rstrip('.') or 'its configuration'} must be a mapping, not {values!r}")
        self._values = cast("Mapping[str, Any]", values)

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._take(key, default)
        return value if isinstance(value, str) else self.refuse(key, value, "a string")

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """An integer within bounds."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(key, value, f"an integer from {low} to {high}")
        return value

    def share(self, key: str, default: float) -> float:
        """A number, put between 0 and 1."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, value, "a number from 0 to 1")
        return min(max(float(value), 0.0), 1.0)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._take(key, default)
        return value if isinstance(value, bool) else self.refuse(key, value, "true or false")

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        given = self._take(key, None)
        if given is None:
            return []
        return self._texts(key, given)

    def section(self, key: str) -> Section | None:
        """A mapping below this one; None when it is not given."""
        value = self._take(key, None)
        return None if value is None else Section(self.worker, value, f"{self._path}{key}.")

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A mapping of names that people choose; empty when it is not given."""
        value = self._take(key, None)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(key, value, "a mapping")
        return cast("Mapping[str, Any]", value or {})

    def sections(self, key: str) -> list[Section]:
        """A list of mappings."""
        value = self._take(key, ())
        if value == ():
            return []
        if not isinstance(value, list):
            self.refuse(key, value, "a list of mappings")
        items = cast("list[object]", value)
        return [Section(self.worker, item, f"{self._path}{key}[{index}].") for index, item in enumerate(items)]

    def ignore(self, *keys: str) -> None:
        """Know these keys without using them."""
        self._known.update(keys)

    def end(self) -> None:
        """Report the keys that nobody asked for."""
        for key in self._values:
            if key not in self._known:
                known = ", ".join(sorted(self._known)) or "none"
                logger.warning(
                    "%s: unknown key %r is ignored, the real engine rejects it; the keys are %s",
                    self.worker, f"{self._path}{key}", known,
                )  # fmt: skip

    def refuse(self, key: str, value: object, allowed: str) -> NoReturn:
        """Raise the error for a wrong value."""
        raise ValueError(f"{self.worker}: {self._path}{key} must be {allowed}, not {value!r}")

    def _texts(self, key: str, given: object) -> list[str]:
        items = cast("list[object]", given) if isinstance(given, list) else [None]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) != len(items):
            self.refuse(key, items if isinstance(given, list) else given, "a list of strings")
        return texts

    def _take(self, key: str, default: object) -> object:
        self._known.add(key)
        value = self._values.get(key)
        return default if value is None else value


def check_adapter(root: Section, own: str, *others: str) -> None:
    """Read the key ``adapter``: this engine has none of upstream's adapters, and does its work in the process."""
    adapter = root.section("adapter")
    if adapter is None:
        return
    adapter.ignore("config")  # how an adapter stores and locks cannot be seen from outside
    name = adapter.text("name", own)
    if name in others:
        logger.warning("%s: adapter %r is the real engine's; this one works in its own process", root.worker, name)
    elif name != own:
        adapter.refuse("name", name, " or ".join(repr(each) for each in (own, *others)))
    adapter.end()
