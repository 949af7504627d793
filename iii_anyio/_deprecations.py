"""The ``DeprecationWarning`` that upstream 0.25 raises at its users, for its spellings only (A.23).

Our own spellings do not warn: the trigger types of http, cron and queue have no successor upstream yet. For the same
reason nothing is logged. Above: ``trigger.py`` and the worker.
"""

from __future__ import annotations

import warnings
from typing import Final, Literal

__all__ = ("warn_deprecated",)

_GUIDE: Final = "Migration guide: https://iii.dev/docs/upgrading/from-0-24-x"
_REPLACEMENTS: Final = {
    "register_trigger": f"Use iii.observe(source, target) instead. {_GUIDE}",
    "register_trigger_type": (
        "Register a function with an observe descriptor (register_function(id, handler, observe=ObserveHooks(...))) "
        f"instead. {_GUIDE}"
    ),
    "unregister_trigger_type": f"Trigger types are replaced by functions with an observe descriptor. {_GUIDE}",
    "TriggerTypeRef.register_function": (
        f"Use iii.register_function and iii.observe(source, target) instead. {_GUIDE}"
    ),
}
"""Upstream's words, which its tests compare (A-26)."""

Api = Literal[
    "register_trigger", "register_trigger_type", "unregister_trigger_type", "TriggerTypeRef.register_function"
]


def warn_deprecated(api: Api) -> None:
    """Warn at the line that called the method that calls this."""
    message = f"{api} is deprecated and will be removed in a future release. {_REPLACEMENTS[api]}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
