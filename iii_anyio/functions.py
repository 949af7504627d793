"""What a function registration is made of. Owns the models and the handle; the schemas come from ``_runtime/formats``.

Below: pydantic, ``http.py``. Above: the worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from ._runtime.formats import extract_request_format, extract_response_format, python_type_to_format
from .http import HttpInvocationConfig

__all__ = (
    "FunctionRef",
    "RegisterFunctionFormat",
    "RegisterFunctionInput",
    "extract_request_format",
    "extract_response_format",
    "python_type_to_format",
)


class RegisterFunctionFormat(BaseModel):
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


class RegisterFunctionInput(BaseModel):
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


@dataclass
class FunctionRef:
    """A registered function.

    Attributes:
        id: Its id.
        unregister: Takes it back; from any thread, as often as you like.
    """

    id: str
    unregister: Callable[[], None] = field(repr=False)
