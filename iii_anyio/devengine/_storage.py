"""What outlives the engine: tables of JSON values, in memory, and on disk when the engine has a data directory.

Reads come from memory. A change is made at once and recorded in order; ``flush`` returns when everything recorded
before is on disk, so whoever acknowledges a change awaits it first. A crash loses a suffix of what was not flushed,
nothing else.

Task: one writer per directory, ended by ``open_storage``. It commits what was recorded while the last commit ran, so
many changes share one. A change of a key that waits already replaces it there; what waits is no more than the tables
hold. Below: ``_storage_file``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anyio import CancelScope, CapacityLimiter, Event, create_task_group, to_thread
from anyio.lowlevel import checkpoint

from .._runtime.cleanup import last_words, unwrap_single
from ._storage_file import Batch, Change, StorageError, StorageFile

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("Storage", "StorageError", "Table", "open_storage")

logger: Final = logging.getLogger("iii_anyio.devengine.storage")

Record: TypeAlias = "Callable[[str, str, Any, bool], None]"


class Table:
    """JSON values by key. Values belong to the table: replace them, never change them in place."""

    def __init__(self, name: str, record: Record | None = None) -> None:
        self.name = name
        self._rows: dict[str, Any] = {}
        self._record = record

    def __repr__(self) -> str:
        return f"<Table {self.name} {len(self._rows)} rows>"

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order in which they were first put."""
        return iter(self._rows)

    def values(self) -> list[Any]:
        """The values, in the order of the keys."""
        return list(self._rows.values())

    def get(self, key: str, default: Any = None) -> Any:
        """The value under ``key``."""
        return self._rows.get(key, default)

    def put(self, key: str, value: Any) -> None:
        """Set the value under ``key``.

        Raises:
            StorageError: An earlier change could not be written, so this one is not made.
        """
        if self._record is not None:
            self._record(self.name, key, value, False)
        self._rows[key] = value

    def delete(self, key: str) -> None:
        """Remove ``key``. One that is not there changes nothing.

        Raises:
            StorageError: As for ``put``.
        """
        if key not in self._rows:
            return
        if self._record is not None:
            self._record(self.name, key, None, True)
        del self._rows[key]

    def load(self, key: str, value: Any) -> None:
        """Set what is on disk already."""
        self._rows[key] = value


class Storage:
    """The tables of one engine. Without a file, as made here, they live and die with it."""

    def __init__(self, file: StorageFile | None = None) -> None:
        self._file = file
        self._tables: dict[str, Table] = {}
        self._failure: StorageError | None = None
        # Each batch has an event for those who wait for it: the one being collected, and the one being written.
        self._batch: Batch = {}
        self._written = Event() if file is not None else None
        self._being_written: Event | None = None
        self._wake = Event() if file is not None else None
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<Storage {self._file if self._file is not None else 'in memory'} {len(self._tables)} tables>"

    @property
    def is_durable(self) -> bool:
        """Whether it is on disk."""
        return self._file is not None

    def table(self, name: str) -> Table:
        """The table of that name, with what was stored before; made when it is new."""
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Table(name, None if self._file is None else self._record)
        return table

    def __contains__(self, name: str) -> bool:
        """Whether a table of that name had rows when the engine started, or was asked for since."""
        return name in self._tables

    def names(self, prefix: str = "") -> list[str]:
        """The tables whose names start so: those that had rows when the engine started, and those asked for since."""
        return [name for name in self._tables if name.startswith(prefix)]

    async def flush(self) -> None:
        """Wait until every change made so far is on disk. Cancelled, the changes are written all the same.

        Raises:
            StorageError: It could not be written.
        """
        event = self._written if self._batch else self._being_written
        if event is None:
            await checkpoint()
        else:
            await event.wait()
        if self._failure is not None:
            raise self._failure

    # -- writing -------------------------------------------------------------------------------------------------

    def _record(self, table: str, key: str, value: Any, is_deletion: bool) -> None:
        if self._failure is not None:
            raise self._failure
        place = (table, key)
        waiting = self._batch.get(place)
        if is_deletion:
            self._batch[place] = Change(None, is_deletion=True)
        elif waiting is None:
            self._batch[place] = Change(value)
        elif waiting.is_deletion or waiting.is_new_row:
            if waiting.is_deletion:
                del self._batch[place]  # so that it is inserted behind what has come since
            self._batch[place] = Change(value, is_new_row=True)
        else:
            self._batch[place] = Change(value)
        if self._wake is not None:
            self._wake.set()

    async def write(self) -> None:
        """Commit batch after batch until ``close``."""
        assert self._file is not None, "only what has a file is written"
        assert self._wake is not None, "made with the file"
        limiter = CapacityLimiter(1)
        while self._failure is None:
            if not self._batch:
                if self._is_closing:
                    break
                self._wake = Event()
                await self._wake.wait()
                continue
            batch, self._batch = self._batch, {}
            written = self._being_written = self._written
            self._written = Event()
            try:
                await to_thread.run_sync(self._file.commit, batch, limiter=limiter)
            except Exception as error:  # noqa: BLE001 - whatever it was, nothing after it may be acknowledged
                self._fail(error)
            finally:
                self._being_written = None
                assert written is not None, "made with the file"
                written.set()
        if self._failure is None:
            self._failure = StorageError(str(self._file), "it is closed")
        await to_thread.run_sync(self._file.close, limiter=limiter)

    def _fail(self, error: Exception) -> None:
        """No change from now on: those in memory that are not on disk are lost with this engine."""
        assert self._file is not None, "only what has a file fails"
        failure = error if isinstance(error, StorageError) else StorageError(str(self._file), str(error))
        self._failure = failure
        self._batch = {}
        assert self._written is not None, "made with the file"
        self._written.set()
        logger.critical("data is no longer written, and every change is refused until a restart: %s", failure)

    def close(self) -> None:
        """Have ``write`` end when it has written what is recorded."""
        self._is_closing = True
        if self._wake is not None:
            self._wake.set()


@asynccontextmanager
async def open_storage(directory: Path | None) -> AsyncGenerator[Storage]:
    """Have the tables of this directory, which no other engine may use meanwhile; None is in memory.

    Raises:
        StorageError: The directory cannot be used: another engine does, or what is there cannot be read.
    """
    if directory is None:
        yield Storage()
        return
    file = StorageFile(directory)
    try:
        rows = await to_thread.run_sync(file.open)
    except BaseException:
        with last_words(5.0):
            await to_thread.run_sync(file.close)
        raise
    storage = Storage(file)
    for name, key, value in rows:
        storage.table(name).load(key, value)
    with unwrap_single():
        async with create_task_group() as group:
            # Shielded: what was recorded is written although the engine is cancelled.
            group.start_soon(_write_shielded, storage, name="engine storage")
            try:
                yield storage
            finally:
                storage.close()


async def _write_shielded(storage: Storage) -> None:
    with CancelScope(shield=True):
        await storage.write()
