"""Durable tables: what was flushed is there again, also after kill -9; what cannot be kept is not acknowledged."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from iii_anyio import InitOptions, InvocationError, open_worker, register_worker
from iii_anyio.devengine import open_engine
from iii_anyio.devengine._storage import Storage, StorageError, Table, open_storage
from iii_anyio.devengine._storage_file import FILE_NAME, Batch, StorageFile
from tests.devengine.killed_writer import COUNTERS

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
KILLS = 25


def rows(table: Table) -> list[tuple[str, Any]]:
    return [(key, table.get(key)) for key in table]


# -- tables ----------------------------------------------------------------------------------------------------------


async def test_without_a_directory_everything_is_in_memory() -> None:
    with fail_after(20):
        async with open_storage(None) as storage:
            table = storage.table("t")
            table.put("a", 1)
            table.put("b", 2)
            table.delete("a")
            table.delete("never there")
            await storage.flush()
            assert not storage.is_durable
            assert (rows(table), len(table), "a" in table, table.get("a", "none")) == ([("b", 2)], 1, False, "none")
            assert storage.table("t") is table
            assert ("t" in storage, "u" in storage) == (True, False)


async def test_what_was_put_is_there_again_in_the_same_order(tmp_path: Path) -> None:
    """ST-5: an overwritten key keeps its place, one deleted and set again goes to the end."""
    directory = tmp_path / "made" / "when missing"
    value = {"z": [1, 2.5, None, True], "ä": "\0", "big": 2**64 - 1}
    with fail_after(20):
        async with open_storage(directory) as storage:
            table = storage.table("t")
            for key in ("b", "a", "", "ü\0x", "c"):
                table.put(key, key)
            await storage.flush()
            table.put("b", value)
            table.delete("a")
            table.put("d", None)
            table.put("a", "again")
            storage.table("other").put("x", 1)
            storage.table("emptied").put("x", 1)
            storage.table("emptied").delete("x")
            await storage.flush()
            expected = rows(table)
            assert [key for key, _ in expected] == ["b", "", "ü\0x", "c", "d", "a"]
        async with open_storage(directory) as storage:
            assert rows(storage.table("t")) == expected
            assert storage.table("t").get("b") == value
            assert sorted(storage.names()) == ["other", "t"]
            assert storage.names("ot") == ["other"]


async def test_what_was_recorded_is_written_although_the_engine_is_cancelled(tmp_path: Path) -> None:
    with fail_after(20):
        with anyio.CancelScope() as scope:
            async with open_storage(tmp_path) as storage:
                storage.table("t").put("a", 1)
                scope.cancel()
                await checkpoint()
        assert scope.cancelled_caught
        async with open_storage(tmp_path) as storage:
            assert rows(storage.table("t")) == [("a", 1)]


async def test_what_is_put_after_the_end_is_refused(tmp_path: Path) -> None:
    with fail_after(20):
        async with open_storage(tmp_path) as storage:
            table = storage.table("t")
        with pytest.raises(StorageError, match="closed"):
            table.put("a", 1)
        assert "a" not in table


changes = st.lists(
    st.tuples(st.sampled_from(["put", "put", "delete", "flush"]), st.sampled_from("abcd"), st.integers(0, 9)),
    max_size=25,
)


@settings(max_examples=25)
@given(changes)
def test_any_sequence_of_changes_is_on_disk_as_it_is_in_memory(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, int]]
) -> None:
    directory = tmp_path_factory.mktemp("data")

    async def change() -> list[tuple[str, Any]]:
        async with open_storage(directory) as storage:
            table = storage.table("t")
            for kind, key, value in changes:
                match kind:
                    case "put":
                        table.put(key, value)
                    case "delete":
                        table.delete(key)
                    case _:
                        await storage.flush()
            return rows(table)

    async def look() -> list[tuple[str, Any]]:
        async with open_storage(directory) as storage:
            return rows(storage.table("t"))

    assert anyio.run(change) == anyio.run(look)


# -- flushing --------------------------------------------------------------------------------------------------------


class Gate:
    """Lets commits through one by one, or fails them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Semaphore(0)
        self.error: Exception | None = None
        self.batches: list[Batch] = []
        commit = StorageFile.commit

        def gated(file: StorageFile, batch: Batch) -> None:
            self.batches.append(batch)
            assert self.open.acquire(timeout=30)
            if self.error is not None:
                raise self.error
            commit(file, batch)

        monkeypatch.setattr(StorageFile, "commit", gated)


async def test_a_flush_waits_for_the_commit_of_its_own_change_and_many_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, done = Gate(monkeypatch), []

    async def change(storage: Storage, key: str) -> None:
        storage.table("t").put(key, 1)
        await storage.flush()
        done.append(key)

    with fail_after(20):
        async with open_storage(tmp_path) as storage, create_task_group() as group:
            group.start_soon(change, storage, "first")
            while not gate.batches:
                await checkpoint()
            for n in range(20):
                group.start_soon(change, storage, f"later {n}")
            await wait_all_tasks_blocked()
            assert done == []
            gate.open.release()
            while len(gate.batches) < 2:
                await checkpoint()
            await wait_all_tasks_blocked()
            assert done == ["first"]
            gate.open.release()
        assert len(done) == 21
        assert [len(batch) for batch in gate.batches] == [1, 20]


async def test_changes_of_one_key_that_wait_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the disk is bounded by what the tables hold."""
    gate = Gate(monkeypatch)
    with fail_after(20):
        async with open_storage(tmp_path) as storage:
            table = storage.table("t")
            for n in range(1000):
                table.put("a", n)
            gate.open.release()
            await storage.flush()
        assert [len(batch) for batch in gate.batches] == [1]
        async with open_storage(tmp_path) as storage:
            assert rows(storage.table("t")) == [("a", 999)]


async def test_a_failed_write_fails_all_who_wait_and_all_who_come_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate, failures = Gate(monkeypatch), []

    async def change(storage: Storage, key: str) -> None:
        storage.table("t").put(key, 1)
        try:
            await storage.flush()
        except StorageError as error:
            failures.append(str(error))

    with fail_after(20), caplog.at_level(logging.CRITICAL, "iii_anyio.devengine.storage"):
        async with open_storage(tmp_path) as storage:
            table = storage.table("t")
            table.put("kept", 1)
            gate.open.release()
            await storage.flush()
            gate.error = sqlite3.OperationalError("database or disk is full")
            async with create_task_group() as group:
                group.start_soon(change, storage, "a")
                while len(gate.batches) < 2:
                    await checkpoint()
                group.start_soon(change, storage, "b")
                await wait_all_tasks_blocked()
                gate.open.release()
            assert len(failures) == 2
            assert all("disk is full" in failure for failure in failures)
            for refused in (lambda: table.put("c", 1), lambda: table.delete("kept")):
                with pytest.raises(StorageError, match="disk is full"):
                    refused()
            with pytest.raises(StorageError):
                await storage.flush()
            assert table.get("kept") == 1
            assert "c" not in table
        assert "no longer written" in caplog.text
        async with open_storage(tmp_path) as storage:
            assert rows(storage.table("t")) == [("kept", 1)]


async def test_an_engine_that_cannot_write_refuses_changes_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ST-9."""
    place = {"scope": "s", "key": "k"}
    with fail_after(20):
        async with open_engine(port=None, data=tmp_path) as engine, open_worker(connector=engine.connector()) as iii:
            await iii.trigger_async("state::set", place | {"value": 1})

            def commit(file: StorageFile, batch: Batch) -> None:
                raise sqlite3.OperationalError("disk I/O error")

            monkeypatch.setattr(StorageFile, "commit", commit)
            for function_id, more, code in (
                ("state::set", {"value": 2}, "SET_ERROR"),
                ("state::update", {"ops": []}, "UPDATE_ERROR"),
                ("state::delete", {}, "DELETE_ERROR"),
                ("configuration::set", {"id": "iii-state", "value": {}}, "ADAPTER_ERROR"),
            ):
                with pytest.raises(InvocationError, match="disk I/O error") as caught:
                    await iii.trigger_async(function_id, place | more)
                assert caught.value.code == code
            assert await iii.trigger_async("state::get", place) is not None


# -- files that cannot be used ---------------------------------------------------------------------------------------


async def test_two_engines_cannot_share_a_directory(tmp_path: Path) -> None:
    with fail_after(20):
        async with open_engine(port=None, data=tmp_path):
            with pytest.raises(StorageError, match="another engine uses it"):
                async with open_engine(port=None, data=str(tmp_path)):
                    pytest.fail("it started")
        async with open_engine(port=None, data=tmp_path):
            pass


def damage_header(path: Path) -> None:
    path.write_bytes(b"this is no database, but long enough to be looked at" * 100)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def damage_value(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET value = '{'")
    connection.close()


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()


def of_a_later_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_header, "damaged or no SQLite file"),
        (damage_pages, "damaged"),
        (damage_value, "the value of 'a' in 't' is damaged"),
        (of_another_program, "belongs to another program"),
        (of_a_later_version, "format 99"),
        (replaced_by_a_directory, "cannot be opened"),
    ],
)
async def test_a_file_that_cannot_be_read_is_named_and_left_alone(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    with fail_after(20):
        async with open_storage(tmp_path) as storage:
            storage.table("t").put("a", 1)
        path = tmp_path / FILE_NAME
        damage(path)
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(StorageError, match=reason) as caught:
            async with open_storage(tmp_path):
                pytest.fail("it opened")
        assert str(path) in str(caught.value)
        assert before is None or path.read_bytes() == before


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="the directory cannot be made") as caught:
        async with open_engine(port=None, data=tmp_path / "file" / "data"):
            pytest.fail("it started")
    assert str(tmp_path) in str(caught.value)


# -- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_the_engine_of_the_command_line_keeps_its_data_when_it_is_killed_and_when_it_is_ended(tmp_path: Path) -> None:
    """Over a socket, with the synchronous client."""
    command = [sys.executable, "-m", "iii_anyio", "dev", "--data", str(tmp_path)]
    ports = ["--port", "0", "--http-port", "0", "--stream-port", "0"]
    for round_, how in enumerate((signal.SIGKILL, signal.SIGTERM)):
        with subprocess.Popen([*command, *ports], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().split()[-1]
                with register_worker(url, InitOptions(worker_name="writer", handle_signals=False)) as iii:
                    assert iii.trigger("state::list", {"scope": "s"}) == list(range(round_))
                    iii.trigger("state::set", {"scope": "s", "key": str(round_), "value": round_})
                    process.send_signal(how)
                    assert process.wait(30) == (0 if how == signal.SIGTERM else -how)
            finally:
                process.kill()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        found = connection.execute('SELECT key, value FROM entries WHERE "table" = \'state:s\' ORDER BY "row"')
        assert found.fetchall() == [("0", b"0"), ("1", b"1")]
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="rounds are forked")
@pytest.mark.timeout(120)
def test_nothing_acknowledged_is_lost_when_the_engine_is_killed_in_the_middle_of_writes(tmp_path: Path) -> None:
    """Each counter is at what was acknowledged, or at the one write that was under way. Nothing else is possible."""
    moments = random.Random(KILLS)
    command = [sys.executable, "-m", "tests.devengine.killed_writer", str(tmp_path)]
    acknowledged = [0] * COUNTERS
    total = 0
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def read() -> Any:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the writer has ended"
            return json.loads(line)

        for _ in range(KILLS + 1):
            process.stdin.write(b"next\n")
            pid, found = read()["pid"], read()
            for kept, told in zip(found, acknowledged, strict=True):
                assert (kept or 0) - told in {0, 1}
            acknowledged = [kept or 0 for kept in found]
            for left in range(moments.randrange(30), -1, -1):
                counter, number = read()
                assert number == acknowledged[counter] + 1
                acknowledged[counter] = number
                total += 1
                if left == 0:
                    os.kill(pid, signal.SIGKILL)
            while not isinstance(line := read(), dict):
                counter, number = line  # told before it was killed
                acknowledged[counter] = number
                total += 1
        process.stdin.close()
        assert process.wait(30) == 0
    assert total > KILLS
