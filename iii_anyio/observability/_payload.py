"""What of a payload is shown in a trace: secrets out, length bounded (A.17)."""

from __future__ import annotations

import json
import os
from typing import Any, Final, cast

__all__ = ("REDACTED_PLACEHOLDER", "redact", "redact_and_truncate", "resolve_max_bytes_from_env", "shows_payloads")

REDACTED_PLACEHOLDER: Final = "[REDACTED]"
_MARKER: Final = '..."[TRUNCATED]"'
_SENSITIVE: Final = (
    *("api_key", "apikey", "api-key", "password", "secret", "credential", "authorization", "auth_token"),
    *("access_token", "refresh_token", "bearer", "private_key", "client_secret"),
)
_TOO_DEEP: Final = 200


def _is_sensitive(key: object) -> bool:
    name = str(key).lower()
    # "token" alone is part of too many harmless words.
    return name == "token" or name.endswith(("_token", "-token")) or any(part in name for part in _SENSITIVE)


def redact(value: Any) -> Any:
    """Copy dicts, lists and tuples; what stands under a key that names a secret becomes ``[REDACTED]``.

    Upstream: iii_helpers.observability.redact.
    """
    return _redact(value, 0)


def _redact(value: Any, depth: int) -> Any:
    if depth > _TOO_DEEP:  # deeper than JSON from the wire can be: it contains itself
        return REDACTED_PLACEHOLDER
    if isinstance(value, dict):
        entries = cast("dict[object, Any]", value)
        return {
            key: REDACTED_PLACEHOLDER if _is_sensitive(key) else _redact(item, depth + 1)
            for key, item in entries.items()
        }
    if isinstance(value, list):
        return [_redact(item, depth + 1) for item in cast("list[object]", value)]
    if isinstance(value, tuple):
        return tuple(_redact(item, depth + 1) for item in cast("tuple[object, ...]", value))
    return value


def redact_and_truncate(value: Any, max_bytes: int | None = None) -> tuple[str, bool]:
    """Redact, write as JSON, and cut to at most ``max_bytes`` of UTF-8; None or 0 cuts nothing.

    Returns:
        The JSON, and whether it was cut; then it ends in a marker. ``"null"`` for what cannot be written.

    Upstream: iii_helpers.observability.redact_and_truncate.
    """
    try:
        text = json.dumps(redact(value), default=str, ensure_ascii=False)
    except Exception:  # noqa: BLE001 - `str` of the user's objects may raise anything
        text = "null"
    if max_bytes is None or max_bytes <= 0:
        return text, False
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return text, False
    if max_bytes <= len(_MARKER):
        return _MARKER[:max_bytes], True
    return data[: max_bytes - len(_MARKER)].decode("utf-8", "ignore") + _MARKER, True


def resolve_max_bytes_from_env() -> int | None:
    """``III_TRACE_PAYLOAD_MAX_BYTES``; None for no limit: unset, blank, ``unlimited``, no number, 0 or less.

    Upstream: iii_helpers.observability.resolve_max_bytes_from_env.
    """
    try:
        limit = int(os.environ.get("III_TRACE_PAYLOAD_MAX_BYTES", ""))
    except ValueError:
        return None
    return limit if limit > 0 else None


def shows_payloads() -> bool:
    """Whether payloads are to be seen in traces: unless ``III_DISABLE_TRACE_PAYLOADS`` is ``1`` or ``true``."""
    return os.environ.get("III_DISABLE_TRACE_PAYLOADS", "").strip().lower() not in {"1", "true"}
