"""JSON Schema of values from outside: what in a value a schema does not allow. jsonschema does it.

Above: ``builtins/configuration``.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import jsonschema_specifications  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from .._protocol.codec import from_json, to_json
from ..errors import EncodeError

__all__ = ("Schema",)

library: Final[Any] = jsonschema
specifications: Final[Any] = jsonschema_specifications

_SHOWN: Final = 10
"""Violations that a message lists."""


class Schema:
    """One schema, read when it is first needed. Of the draft it names, else 2020-12; ``format`` is not checked."""

    def __init__(self, json: Any) -> None:
        self.json: Any = json
        self._validator: Any = None

    def violations(self, value: Any) -> list[str]:
        """What is wrong with the value, or with the schema; the first ones. Empty when nothing is."""
        try:
            if self._validator is None:
                self._validator = _make_validator(self.json)
            errors: list[Any] = list(islice(self._validator.iter_errors(value), _SHOWN))
        except Exception as error:  # noqa: BLE001 - a schema from outside can be wrong in any way
            return [f"the schema cannot be used: {str(error).partition(chr(10))[0] or type(error).__name__}"]
        return [f"{error.json_path}: {error.message:.300}" for error in errors]


def _make_validator(schema: Any) -> Any:
    try:
        return _made_validator(to_json(schema))
    except EncodeError:  # no JSON; what is wrong with it the library says
        return _new_validator(schema)


@lru_cache(maxsize=64)
def _made_validator(text: bytes) -> Any:
    """Checking a schema takes milliseconds, and each engine of a process has the same ones."""
    return _new_validator(from_json(text))


def _new_validator(schema: Any) -> Any:
    kind: Any = library.validators.validator_for(schema, default=library.Draft202012Validator)
    kind.check_schema(schema)
    # With a registry of its own it looks nothing up in the network.
    return kind(schema, registry=specifications.REGISTRY)
