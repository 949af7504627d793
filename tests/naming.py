"""Names of parametrized cases that are the same in every process, as a run on several processes needs them."""

from __future__ import annotations

import re


def shown(value: object) -> str:
    """``repr`` in ASCII, without addresses."""
    return re.sub(r" at 0x[0-9a-f]+| id='[0-9]+'", "", ascii(value))
