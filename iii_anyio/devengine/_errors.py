"""Error bodies of the wire as the router reads and makes them, and ids as it logs them (§4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from .._protocol.codec import to_json
from .._protocol.messages import ABSENT

if TYPE_CHECKING:
    from ..errors import InvocationError

__all__ = ("INVALID_MESSAGE", "error_body", "has_error", "shorten", "to_body")

INVALID_MESSAGE: Final = "invalid_message"


def has_error(error: object) -> bool:
    """Whether the ``error`` field of a result says failure; a missing or empty one is success (§5.4)."""
    return error is not ABSENT and error is not None and error != {}


def error_body(error: object, code: str = "UNKNOWN") -> dict[str, Any]:
    """Make a proper ErrorBody of whatever a worker sent; upstream drops the frame and lets the caller wait.

    Args:
        error: The value of the ``error`` field.
        code: Used when the value has no code of its own.
    """
    if not isinstance(error, dict):
        return {"code": code, "message": error if isinstance(error, str) else to_json(error).decode()}
    fields = cast("dict[str, Any]", error)
    sent, message, stacktrace = fields.get("code"), fields.get("message"), fields.get("stacktrace")
    body: dict[str, Any] = {
        "code": sent if isinstance(sent, str) else code,
        "message": message if isinstance(message, str) else to_json(fields).decode(),
    }
    if isinstance(stacktrace, str):
        body["stacktrace"] = stacktrace
    return body


def to_body(error: InvocationError) -> dict[str, Any]:
    """The ErrorBody of an error of our own; built-in functions send no stack trace (C-6)."""
    return {"code": error.code, "message": error.message}


def shorten(text: str) -> str:
    """An id or message for a log line: quoted, escaped, not longer than a line."""
    return repr(text if len(text) <= 200 else f"{text[:200]}…")
