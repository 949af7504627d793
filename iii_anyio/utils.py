"""Upstream's small functions: schemas of annotations, channel references, text of anything.

Below: ``functions.py``, ``_refs.py``. Above: applications.
"""

from __future__ import annotations

import json
from typing import Any

from ._refs import is_channel_ref
from .functions import extract_request_format, extract_response_format, python_type_to_format

__all__ = (
    "extract_request_format",
    "extract_response_format",
    "is_channel_ref",
    "python_type_to_format",
    "safe_stringify",
)


def safe_stringify(value: Any) -> str:
    """Show a value as JSON, for logs: what JSON cannot carry as ``str()``, what has no end as ``[unserializable]``."""
    try:
        # Not the codec's: text to be read, with upstream's spaces, and nothing is refused.
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return "[unserializable]"
