"""What a function registration is made of. Owns the models and the handle; the schemas come from ``_runtime/formats``.

Below: pydantic, ``http.py``. Above: the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from ._runtime.formats import extract_request_format, extract_response_format, python_type_to_format
from ._runtime.owning import Observer
from ._runtime.wrapping import Middleware  # noqa: TC001 - annotations of the public API resolve
from .http import HttpInvocationConfig
from .observe_types import ObserveHooks  # noqa: TC001 - annotations of the public API resolve

__all__ = (
    "FunctionOptions",
    "FunctionRef",
    "RegisterFunctionFormat",
    "RegisterFunctionInput",
    "extract_request_format",
    "extract_response_format",
    "python_type_to_format",
)


class RegisterFunctionFormat(BaseModel, defer_build=True):
    """A value described in upstream's own small schema language.

    Attributes:
        name: Of the field.
        type: string, number, boolean, object, array, null or map.
        description: For people.
        body: The fields of an object.
        items: What an array or map holds.
        required: Whether the field must be there.
    """

    name: str
    type: str
    description: str | None = None
    body: list[RegisterFunctionFormat] | None = None
    items: RegisterFunctionFormat | None = None
    required: bool = False


class RegisterFunctionInput(BaseModel, defer_build=True):
    """A registration as one value. ``register_function`` takes its parts, not this.

    Attributes:
        id: Of the function, e.g. ``shop::create``.
        description: For people.
        request_format: Of the payload.
        response_format: Of the result.
        metadata: Any JSON; ``{"internal": true}`` hides the function from default discovery.
        invocation: For a function that lives behind a URL.
    """

    id: str
    description: str | None = None
    request_format: RegisterFunctionFormat | dict[str, Any] | None = None
    response_format: RegisterFunctionFormat | dict[str, Any] | None = None
    metadata: Any = None
    invocation: HttpInvocationConfig | None = None


class FunctionOptions(TypedDict, total=False):
    """What the decorators pass on to ``register_function``, which explains it."""

    description: str | None
    request_format: Any
    response_format: Any
    validate: bool | None
    execution: Literal["async", "thread", "process"] | None
    concurrency: int | None
    on_disconnect: Literal["finish", "cancel"] | None
    middleware: Sequence[Middleware]
    observe: ObserveHooks | dict[str, Any] | None
    local_dispatch: bool


def _nobody() -> list[Observer]:
    return []


@dataclass
class FunctionRef:
    """A registered function.

    Attributes:
        id: Its id.
        unregister: Takes it back; from any thread, as often as you like.
    """

    id: str
    unregister: Callable[[], None] = field(repr=False)
    _observers: Callable[[], list[Observer]] = field(default=_nobody, repr=False, compare=False)

    def observers(self) -> list[Observer]:
        """Return the observers that are active now."""
        return self._observers()

    def is_observed(self) -> bool:
        """Whether somebody wants to hear of it now."""
        return bool(self._observers())
