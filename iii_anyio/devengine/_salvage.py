"""What can still be read of a message that cannot be decoded, so that nobody waits for an answer to it (G-2)."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from .._protocol.codec import from_json
from ..errors import DecodeError

__all__ = ("salvage",)

_TYPE_FIELD: Final = re.compile(rb'"type"\s*:\s*"(invokefunction|invocationresult)"')
_ID_FIELD: Final = re.compile(rb'"invocation_id"\s*:\s*"([^"\\]{1,100})"')
_FUNCTION_FIELD: Final = re.compile(rb'"function_id"\s*:\s*"([^"\\]{1,1000})"')
_VOID_FIELD: Final = re.compile(rb'"action"\s*:\s*\{\s*"type"\s*:\s*"void"')


def salvage(text: bytes) -> tuple[str | None, str | None, str, bool]:
    """Type, invocation id, function id and voidness of a message that cannot be decoded, as far as they can be read."""
    try:
        fields: Any = from_json(text)
    except DecodeError:
        fields = None
    if isinstance(fields, dict):
        known = cast("dict[str, Any]", fields)
        kind, invocation_id, function_id, action = (
            known.get(key) for key in ("type", "invocation_id", "function_id", "action")
        )
        return (
            kind if isinstance(kind, str) else None,
            invocation_id if isinstance(invocation_id, str) else None,
            function_id if isinstance(function_id, str) else "",
            isinstance(action, dict) and cast("dict[str, Any]", action).get("type") == "void",
        )
    # Not even JSON (NaN, a lone surrogate, too deep). A field that occurs once is the envelope's, not the payload's.
    kinds, ids, function_ids = (pattern.findall(text) for pattern in (_TYPE_FIELD, _ID_FIELD, _FUNCTION_FIELD))
    if len(kinds) != 1 or len(ids) != 1:
        return None, None, "", False
    function_id = function_ids[0].decode("utf-8", "replace") if len(function_ids) == 1 else ""
    return kinds[0].decode(), ids[0].decode("utf-8", "replace"), function_id, _VOID_FIELD.search(text) is not None
