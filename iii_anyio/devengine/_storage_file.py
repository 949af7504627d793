"""One SQLite file with the rows of all tables. Blocking: every method runs in a worker thread, one at a time.

Write-ahead log with a sync per commit: what was committed survives kill -9 of the process, and the loss of power too.
The lock on the file is held while it is open and ends with the process, however that ends. Above: ``_storage``.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._protocol.codec import from_json, to_json
from ..errors import DecodeError, IIIError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("Batch", "Change", "StorageError", "StorageFile")

FILE_NAME: Final = "iii.sqlite3"
APPLICATION_ID: Final = 0x1111A710
FORMAT: Final = 1


class StorageError(IIIError, OSError):
    """Durable data cannot be read or written.

    Attributes:
        path: The file or directory.
        reason: What is wrong, and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"the data in {self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of one row."""

    value: Any
    is_deletion: bool = False
    is_new_row: bool = False
    """It was deleted and set again: it goes behind the rows there are."""


Batch: TypeAlias = dict[tuple[str, str], Change]
"""Changes by table and key, in the order in which new rows are inserted."""


class StorageFile:
    """The file of one directory. ``open`` first, ``close`` in any case."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / FILE_NAME
        self._connection: sqlite3.Connection | None = None

    def __str__(self) -> str:
        return str(self._path)

    def open(self) -> list[tuple[str, str, Any]]:
        """Make or lock the file and return its rows: table, key and value, in the order in which they came.

        Raises:
            StorageError: It cannot be used. It was not changed.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"the directory cannot be made: {error.strerror or error}"
            raise StorageError(str(self._directory), reason) from error
        try:
            return self._open()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                reason = "another engine uses it; stop that one, or give this one a directory of its own"
            else:
                reason = f"it cannot be opened: {error}"
            raise StorageError(str(self), reason) from error
        except sqlite3.DatabaseError as error:
            reason = f"it is damaged or no SQLite file ({error}); put a copy back, or move it away to start empty"
            raise StorageError(str(self), reason) from error

    def _open(self) -> list[tuple[str, str, Any]]:
        # Transactions are ours (isolation_level), the thread is whichever the pool gives.
        self._connection = connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN IMMEDIATE")  # reads the header, and takes the lock that is never given back
        application_id = self._number("PRAGMA application_id")
        version = self._number("PRAGMA user_version")
        is_new = self._number("SELECT count(*) FROM sqlite_master") == 0 and not application_id
        if not is_new and application_id != APPLICATION_ID:
            raise StorageError(str(self), "it belongs to another program; give the engine a directory of its own")
        if not is_new and version != FORMAT:
            raise StorageError(str(self), f"it has format {version}; this version reads {FORMAT}")
        if is_new:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute(
                'CREATE TABLE entries ("row" INTEGER PRIMARY KEY, "table" TEXT NOT NULL, "key" TEXT NOT NULL,'
                ' "value" BLOB NOT NULL, UNIQUE ("table", "key"))'
            )
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StorageError(str(self), f"it is damaged ({verdict}); put a copy back, or move it away to start empty")
        return [
            self._row(*row) for row in connection.execute('SELECT "table", "key", "value" FROM entries ORDER BY "row"')
        ]

    def _number(self, statement: str) -> int:
        assert self._connection is not None, "opened before"
        (number,) = self._connection.execute(statement).fetchone()
        return int(number)

    def _row(self, table: str, key: str, value: bytes) -> tuple[str, str, Any]:
        try:
            return table, key, from_json(value)
        except DecodeError as error:
            reason = f"the value of {key!r} in {table!r} is damaged ({error}); put a copy back, or move the file away"
            raise StorageError(str(self), reason) from error

    def commit(self, batch: Batch) -> None:
        """Make all of these changes, or none, and wait until the disk has them.

        Raises:
            StorageError: It could not.
        """
        assert self._connection is not None, "opened before"
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for (table, key), change in batch.items():
                if change.is_deletion or change.is_new_row:
                    connection.execute('DELETE FROM entries WHERE "table" = ? AND "key" = ?', (table, key))
                if not change.is_deletion:
                    connection.execute(_PUT, (table, key, to_json(change.value)))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(str(self), f"it cannot be written: {error}") from error

    def close(self) -> None:
        """Release the file. What was not committed is not in it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_PUT: Final = (
    'INSERT INTO entries ("table", "key", "value") VALUES (?, ?, ?)'
    ' ON CONFLICT ("table", "key") DO UPDATE SET "value" = excluded."value"'
)
