"""A link over a wire that a test controls: what is written at the end, and when a silent peer counts as dead."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint

from iii_anyio import HeartbeatOptions, InitOptions, ReconnectionConfig, Worker, open_worker
from iii_anyio.errors import LinkClosed

pytestmark = pytest.mark.anyio


class ScriptedWire:
    """An engine on the other end of a wire: confirms identities, and does what the test says."""

    def __init__(self) -> None:
        self.pongs: list[bytes] = []
        self.sent: list[dict[str, Any]] = []
        self.pings: list[bytes] = []
        self.closed_with: int | None = None
        self.gate = anyio.Event()
        self.gate.set()
        self.answers_pings = True
        self.accepts = True
        self._inbox: list[bytes] = []
        self._filled = anyio.Event()

    def push(self, **message: Any) -> None:
        self._inbox.append(json.dumps(message).encode())
        self._filled.set()

    async def receive(self) -> list[bytes]:
        while not self._inbox and not self.pongs:
            if self.closed_with is not None:
                raise LinkClosed(self.closed_with)
            self._filled = anyio.Event()
            await self._filled.wait()
        await checkpoint()
        texts, self._inbox = self._inbox, []
        return texts

    has_rest = False

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        return False

    async def send(self, batch: Sequence[bytes]) -> None:
        await self.gate.wait()
        for text in batch:
            message = json.loads(text)
            self.sent.append(message)
            if message.get("function_id") == "engine::workers::register" and self.accepts:
                self.push(type="workerregistered", worker_id="w-1", reattach_token="t-1")
                self.push(
                    type="invocationresult", invocation_id=message["invocation_id"],
                    function_id=message["function_id"], result={"success": True},
                )  # fmt: skip

    async def ping(self, payload: bytes) -> None:
        self.pings.append(payload)
        if self.answers_pings:
            self.pongs += [payload, payload]  # the engine answers each ping twice (P-09)
            self._filled.set()
        await checkpoint()

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        self.closed_with = code if self.closed_with is None else self.closed_with
        self._filled.set()
        await checkpoint()

    async def abort(self) -> None:
        await self.aclose(1006)


class Wires:
    """Hands out scripted wires, one a connection attempt."""

    def __init__(self, *wires: ScriptedWire) -> None:
        self.wires = list(wires)
        self.opened = 0
        self._another = anyio.Event()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[ScriptedWire]:
        wire = self.wires[self.opened]
        self.opened += 1
        self._another.set()
        self._another = anyio.Event()
        yield wire

    async def wait_another(self) -> float:
        """Wait for the next attempt and return its time."""
        await self._another.wait()
        return anyio.current_time()


async def until(iii: Worker, state: str) -> None:
    reached = anyio.Event()
    remove = iii.add_connection_state_listener(lambda now: reached.set() if now == state else None)
    await reached.wait()
    remove()


def options(**more: Any) -> InitOptions:
    return InitOptions(worker_name="w", reconnection_config=ReconnectionConfig(initial_delay_ms=1), **more)


async def test_what_is_being_written_when_the_worker_ends_is_written_before_the_close_frame() -> None:
    wire = ScriptedWire()
    with fail_after(20):
        async with open_worker(connector=Wires(wire), options=options()) as iii:
            iii.register_function("f", lambda _: "done", execution="async")
            await iii.wait_ready()
            wire.gate = anyio.Event()
            wire.push(type="invokefunction", invocation_id="i-1", function_id="f", data=None)
            await anyio.wait_all_tasks_blocked()
            async with create_task_group() as tasks:
                tasks.start_soon(iii.shutdown_async)
                await anyio.wait_all_tasks_blocked()
                assert wire.closed_with is None, "the writer is in the middle of a write"
                wire.gate.set()
    assert wire.sent[-1] == {"type": "invocationresult", "invocation_id": "i-1", "function_id": "f", "result": "done"}
    assert wire.closed_with == 1000


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_ping_that_stays_unanswered_for_10_seconds_ends_the_link() -> None:
    """P-09, half-open: nothing but our timers can notice."""
    dead, alive = ScriptedWire(), ScriptedWire()
    dead.answers_pings = False
    wires = Wires(dead, alive)
    async with open_worker(connector=wires, options=options()) as iii:
        await iii.wait_ready()
        start = anyio.current_time()
        assert 30 <= await wires.wait_another() - start < 31, "20 s to the ping, 10 s to its pong"
        assert len(dead.pings) == 1
        await iii.wait_ready()
        assert alive.sent[0] == {"type": "reattach", "previous_worker_id": "w-1", "reattach_token": "t-1"}


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_an_idle_link_with_answered_pings_stays_up() -> None:
    wire = ScriptedWire()
    async with open_worker(connector=Wires(wire), options=options()) as iii:
        await iii.wait_ready()
        await anyio.sleep(3600)
        assert iii.get_connection_state() == "connected"
        assert len(wire.pings) in {179, 180}


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_heartbeat_times_are_options() -> None:
    dead, alive = ScriptedWire(), ScriptedWire()
    dead.answers_pings = False
    wires = Wires(dead, alive)
    heartbeat = HeartbeatOptions(interval=2, pong_timeout=1)
    async with open_worker(connector=wires, options=options(heartbeat=heartbeat)) as iii:
        await iii.wait_ready()
        start = anyio.current_time()
        assert 3 <= await wires.wait_another() - start < 3.1


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_an_engine_that_does_not_accept_the_identity_in_time_is_left() -> None:
    """P-11 counts for the socket; an engine that is silent after it must not hold the worker either."""
    silent, alive = ScriptedWire(), ScriptedWire()
    silent.accepts = False
    wires = Wires(silent, alive)
    async with open_worker(connector=wires, options=options()) as iii:
        start = anyio.current_time()
        await iii.wait_ready()
        assert wires.opened == 2
        assert 10 <= anyio.current_time() - start < 11
        assert silent.closed_with == 1000


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_delays_between_attempts_double_and_are_reset_by_a_complete_set_up_only() -> None:
    """P-23; without jitter, so that the times are exact."""
    times: list[float] = []
    wire = ScriptedWire()

    @asynccontextmanager
    async def connector() -> AsyncIterator[ScriptedWire]:
        times.append(anyio.current_time())
        if len(times) in {1, 2, 3, 4}:
            raise LinkClosed(1006, "no")
        wire.closed_with = None
        yield wire

    config = ReconnectionConfig(jitter_factor=0)
    async with open_worker(
        connector=connector, options=InitOptions(worker_name="w", reconnection_config=config)
    ) as iii:
        await iii.wait_ready()
        gaps = [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]
        assert gaps == [1, 2, 4, 8]
        closed = anyio.current_time()
        await wire.aclose(1001)
        await until(iii, "reconnecting")
        await iii.wait_ready()
        assert 1 <= times[5] - closed < 1.5


async def test_undecodable_and_unknown_messages_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """P-10."""
    wire = ScriptedWire()
    with fail_after(20):
        async with open_worker(connector=Wires(wire), options=options()) as iii:
            iii.register_function("f", lambda _: 1, execution="async")
            await iii.wait_ready()
            wire._inbox += [b"not json", b"[]", b"\xff", b"   ", b'{"type": "invokefunction"}']
            wire.push(type="from_the_future", x=1)
            wire.push(type="invocationresult", invocation_id="nobody's", function_id="f", result=1)
            wire.push(type="invokefunction", invocation_id="i-1", function_id="f", data=None, later=True)
            while wire.sent[-1].get("invocation_id") != "i-1":
                await checkpoint()
            assert wire.sent[-1]["result"] == 1
    assert caplog.text.count("undecodable") == 4
