"""What outlives the engine: tables of JSON values, in memory.

Reads come from memory. A change is made at once and recorded in order; ``flush`` returns when everything recorded
before is on disk, so whoever acknowledges a change awaits it first. A crash loses a suffix of what was not flushed,
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anyio.lowlevel import checkpoint

__all__ = ("Storage", "Table")


class Table:
    """JSON values by key. Values belong to the table: replace them, never change them in place."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order in which they were first put."""
        return iter(self._rows)

    def get(self, key: str, default: Any = None) -> Any:
        """The value under ``key``."""
        return self._rows.get(key, default)

    def put(self, key: str, value: Any) -> None:
        """Set the value under ``key``."""
        self._rows[key] = value

    def delete(self, key: str) -> None:
        """Remove ``key``. One that is not there changes nothing."""
        self._rows.pop(key, None)


class Storage:
    """The tables of one engine."""

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}

    def table(self, name: str) -> Table:
        """The table of that name, with what was stored before; made when it is new."""
        if name not in self._tables:
            self._tables[name] = Table(name)
        return self._tables[name]

    async def flush(self) -> None:
        """Wait until every change made so far is on disk.

        Raises:
            StorageError: It could not be written.
        """
        await checkpoint()
