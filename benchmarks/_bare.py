"""Ids for the bare client: canonical UUIDv4, many from one ``os.urandom``."""

from __future__ import annotations

import os
from collections.abc import Iterator


def uuids() -> Iterator[str]:
    """UUIDv4 strings without end."""
    while True:
        pool = os.urandom(16 * 256).hex()
        for at in range(0, len(pool), 32):
            text = pool[at : at + 32]
            yield f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"
