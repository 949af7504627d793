"""The keeper of child processes: who is started again, who is killed, and with which exit code it ends."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.abc import SocketAttribute

from iii_anyio._protocol.backoff import Backoff
from iii_anyio.cli import _processes as processes
from iii_anyio.cli._processes import Child, Keeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

STUBBORN = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
time.sleep(60)
"""


def child(program: str, *arguments: str) -> Child:
    return Child("child", [sys.executable, "-I", "-S", "-c", program, *arguments], dict(os.environ))


def ends(code: int) -> Child:
    return child(f"raise SystemExit({code})")


class Heard:
    """Things that happen, one after the other."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []
        self._more = anyio.Event()

    def put(self, thing: Any) -> None:
        self._waiting.append(thing)
        self._more.set()

    async def next(self) -> Any:
        while not self._waiting:
            self._more = anyio.Event()
            await self._more.wait()
        return self._waiting.pop(0)


class Told(Heard):
    """What a keeper tells."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __call__(self, event: str, _text: str, **facts: Any) -> None:
        self.events.append(event)
        self.put((event, facts))


@asynccontextmanager
async def starts() -> AsyncIterator[tuple[str, Heard]]:
    """A port for children to knock at, and the knocks."""
    knocks = Heard()

    async def knocked(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            knocks.put(None)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, create_task_group() as tasks:
        tasks.start_soon(listener.serve, knocked)
        yield str(listener.extra(SocketAttribute.local_port)), knocks
        tasks.cancel_scope.cancel()


async def test_one_that_has_done_its_work_is_not_started_again() -> None:
    told = Told()
    with fail_after(50):
        assert await Keeper([ends(0), ends(0)], tell=told).run() == 0
    assert told.events == []


async def test_one_that_is_used_wrongly_ends_all() -> None:
    told = Told()
    with fail_after(50):
        assert await Keeper([child("import time; time.sleep(60)"), ends(2)], tell=told).run() == 2
    assert told.events == []


async def test_one_that_crashes_is_started_again_after_growing_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_BACKOFF", Backoff(0.001, 0.004, 2.0, 0.0))
    told, crashes = Told(), []
    with fail_after(50):
        async with create_task_group() as tasks:
            tasks.start_soon(Keeper([ends(7)], tell=told).run)
            crashes.extend([await told.next() for _ in range(4)])
            tasks.cancel_scope.cancel()
    assert crashes == [("restarting", {"code": 7, "delay": delay}) for delay in (0.001, 0.002, 0.004, 0.004)]


async def test_one_that_does_not_drain_in_time_is_killed_and_replaced() -> None:
    """A change of files asks it to end; its patience is over before it does."""
    told, changed = Told(), anyio.Event()

    async def changes() -> AsyncIterator[set[Any]]:
        await changed.wait()
        yield {(1, "app.py")}

    with fail_after(50):
        async with starts() as (port, knocks), create_task_group() as tasks:
            tasks.start_soon(Keeper([child(STUBBORN, port)], tell=told, changes=changes, patience=0.01).run)
            await knocks.next()
            changed.set()
            await knocks.next()
            tasks.cancel_scope.cancel()
    assert told.events == ["reloading", "killed"]


async def test_a_second_signal_kills_what_does_not_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_HURRY", 0.01)
    told, codes = Told(), list[int]()

    async def run(keeper: Keeper) -> None:
        codes.append(await keeper.run())

    with fail_after(50):
        async with starts() as (port, knocks), create_task_group() as tasks:
            tasks.start_soon(run, Keeper([child(STUBBORN, port)], tell=told))
            await knocks.next()
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGINT)
    assert codes == [128 + signal.SIGINT]
    assert told.events == ["killed"]


async def test_a_cancelled_keeper_leaves_no_process() -> None:
    kept, pids = child(STUBBORN), []
    with fail_after(50):
        async with starts() as (port, knocks):
            kept.command.append(port)
            async with create_task_group() as tasks:
                tasks.start_soon(Keeper([kept], tell=Told()).run)
                await knocks.next()
                assert kept.process is not None
                pids.append(kept.process.pid)
                tasks.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
