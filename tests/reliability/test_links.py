"""However a link ends, and whenever: the worker comes back, with all it had, once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint

from iii_anyio import (
    ConnectionLostError,
    HeartbeatOptions,
    InitOptions,
    InvocationError,
    RegistrationRejectedError,
    Worker,
    open_worker,
)
from iii_anyio.abc import Connector, Wire
from iii_anyio.devengine import open_engine
from iii_anyio.errors import LinkClosed
from iii_anyio.testing import FaultConnector, FaultProxy
from tests.reliability.links import FAST, KINDS, Kind, linked, until
from tests.runtime.test_link import ScriptedWire, Wires

pytestmark = pytest.mark.anyio

VIRTUAL = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
Faults = FaultConnector | FaultProxy


def close(code: int) -> Callable[[Faults], None]:
    return lambda faults: faults.close(code, "as told")


ENDS: dict[str, Callable[[Faults], None]] = {
    **{f"close frame {code}": close(code) for code in (1000, 1001, 1005, 1011, 1012, 3000, 4999)},
    "reset": lambda faults: faults.reset(),
    "eof": lambda faults: faults.eof(),
    "cut in a frame": lambda faults: faults.cut_frame(),
    "reset that the engine does not hear of": lambda faults: faults.reset(tell_engine=False),
    "close frame that the engine does not hear of": lambda faults: faults.close(1012, tell_engine=False),
}


@KINDS
@pytest.mark.parametrize("end", ENDS)
async def test_whatever_ends_a_link_the_worker_comes_back_with_all_it_had_once(end: str, kind: Kind) -> None:
    """P-22, P-25, P-12."""
    async with linked(kind) as there:
        before = there.iii.worker_id
        ENDS[end](there.faults)
        if end == "cut in a frame":
            with pytest.raises(ConnectionLostError):  # its answer is the frame
                await there.iii.trigger_async("other::echo", 1)
        await there.back(before)
        assert there.faults.accepted == 2
        assert await there.registered() == (["echo"], 1)
        assert await there.other.trigger_async("echo", 5) == 5
        assert await there.iii.trigger_async("other::echo", 6) == 6


@KINDS
async def test_attempts_that_fail_in_any_way_are_followed_by_the_next(kind: Kind) -> None:
    async with linked(kind, seconds=30, connect_timeout=2) as there:
        before = there.iii.worker_id
        there.faults.plan("refuse", "reset", "eof", "eof_after_101", "http_503", "black_hole")
        there.faults.eof()
        await there.back(before)
        assert there.faults.accepted == 8
        assert await there.registered() == (["echo"], 1)


async def test_a_port_where_nobody_listens_for_a_while() -> None:
    async with linked("socket") as there:
        before = there.iii.worker_id
        assert isinstance(there.faults, FaultProxy)
        there.faults.refuse()
        there.faults.eof()
        await there.lost()
        there.faults.accept()
        await there.back(before)
        assert await there.registered() == (["echo"], 1)


@VIRTUAL
async def test_failing_attempts_wait_longer_and_longer() -> None:
    """P-23: 1, 2, 4 … 30 s ± 30 %."""
    async with linked("wire", seconds=600, reconnection_config=None) as there:
        there.faults.always("http_503")
        start, before = anyio.current_time(), there.faults.accepted
        there.faults.eof()
        await anyio.sleep(300)
        attempts = there.faults.accepted - before
        assert anyio.current_time() - start >= 300
        assert 10 <= attempts <= 18, "1 + 2 + 4 + 8 + 16 s, then every 30 s or so"


class Breaking:
    """Ends its first connection after so many messages, in both directions together."""

    def __init__(self, connector: Connector, after: int) -> None:
        self.left = after
        self.connections = 0
        self._connector = connector

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Wire]:
        self.connections += 1
        async with self._connector() as wire:
            yield _Counted(wire, self) if self.connections == 1 else wire


class _Counted:
    def __init__(self, inner: Wire, owner: Breaking) -> None:
        self.pongs = inner.pongs
        self.has_rest = False
        self._inner = inner
        self._owner = owner

    async def receive(self) -> list[bytes]:
        batch = await self._inner.receive()
        await self._count(len(batch))
        return batch

    async def send(self, batch: Sequence[bytes]) -> None:
        for text in batch:
            await self._count(1)
            await self._inner.send([text])

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        return False

    async def _count(self, messages: int) -> None:
        self._owner.left -= messages
        if self._owner.left < 0:
            await self._inner.abort()
            raise LinkClosed(1006, "broken")

    async def ping(self, payload: bytes) -> None:
        await self._inner.ping(payload)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await self._inner.aclose(code, reason)

    async def abort(self) -> None:
        await self._inner.abort()


@pytest.mark.parametrize("after", range(8))
async def test_a_link_that_ends_within_the_set_up_is_made_anew(after: int) -> None:
    """P-12, P-13: nothing is lost of what was registered, and nothing is there twice."""
    with fail_after(10):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            breaking = Breaking(engine.connector(), after)
            options = InitOptions("w", reconnection_config=FAST, handle_signals=False)
            async with open_worker(options=options, connector=breaking) as iii:
                for n in range(3):
                    iii.register_function(f"ours::{n}", lambda data: data)
                iii.register_trigger("subscribe", "ours::0", {"topic": "t"})
                await iii.wait_ready()
                rows = (await iii.trigger_async("engine::functions::list", {"prefix": "ours"}))["functions"]
                assert sorted(row["function_id"] for row in rows) == [f"ours::{n}" for n in range(3)]
                bound = await iii.trigger_async("engine::registered-triggers::list", {"function_id": "ours::0"})
                assert len(bound["registered_triggers"]) == 1
            assert breaking.connections == 2


# -- a name that is still held ----------------------------------------------------------------------------------------


class Deaf:
    """Nothing that the engine says on the first connection arrives; what the worker says does."""

    def __init__(self, faults: FaultConnector) -> None:
        self.faults = faults
        self.is_over = anyio.Event()

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Wire]:
        is_first = self.faults.accepted == 0
        async with self.faults() as wire:
            yield _Deaf(wire, self.is_over) if is_first else wire


class _Deaf:
    def __init__(self, inner: Wire, is_over: anyio.Event) -> None:
        self.pongs: list[bytes] = []
        self.has_rest = False
        self.send, self.ping, self.aclose, self.abort = inner.send, inner.ping, inner.aclose, inner.abort
        self._is_over = is_over

    async def receive(self) -> list[bytes]:
        await self._is_over.wait()
        raise LinkClosed(1006, "gone silent")

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        return False


@asynccontextmanager
async def a_ghost() -> AsyncGenerator[tuple[Worker, FaultConnector, Worker]]:
    """A worker whose first link went silent within the set-up: the engine holds its name, it does not know whose."""
    async with (
        open_engine(port=None, http_port=None, stream_port=None) as engine,
        open_worker(options=InitOptions("other", handle_signals=False), connector=engine.connector()) as other,
        FaultConnector(engine.connector()) as faults,
    ):
        deaf = Deaf(faults)
        options = InitOptions("w", reconnection_config=FAST, handle_signals=False)
        async with open_worker(options=options, connector=deaf) as iii:
            iii.register_function("ours", lambda data: data)
            while "w" not in await names(other):
                await checkpoint()
            faults.reset(tell_engine=False)
            deaf.is_over.set()
            yield iii, faults, other


async def names(iii: Worker) -> list[str]:
    return [row["name"] for row in (await iii.trigger_async("engine::workers::list", {}))["workers"]]


async def test_a_name_held_by_a_link_that_died_within_the_set_up_is_asked_for_until_the_engine_notices() -> None:
    with fail_after(10):
        async with a_ghost() as (iii, faults, other):
            while faults.accepted < 3:  # twice refused
                await checkpoint()
            assert iii.get_connection_state() in {"connecting", "reconnecting", "disconnected"}
            faults.calm()  # and the engine notices
            await iii.wait_ready()
            assert (await names(other)).count("w") == 1
            assert await other.trigger_async("ours", 7) == 7


async def test_a_name_that_is_held_for_good_is_asked_for_ten_times() -> None:
    with fail_after(10), pytest.raises(RegistrationRejectedError) as caught:
        async with a_ghost() as (iii, faults, _):
            while iii.get_connection_state() != "failed":
                await checkpoint()
            assert faults.accepted == 1 + 10 + 1
            await anyio.sleep_forever()
    assert caught.value.code == "WORKER_NAMESPACE_CONFLICT"


# -- half-open links -------------------------------------------------------------------------------------------------


@VIRTUAL
async def test_a_half_open_link_is_noticed_within_a_ping_and_its_patience() -> None:
    """P-27: 20 s until the next ping, 10 s for its pong."""
    async with linked("wire", seconds=120) as there:
        start, before = anyio.current_time(), there.iii.worker_id
        there.faults.black_hole()
        with pytest.raises(ConnectionLostError) as caught:
            await there.iii.trigger_async("other::echo", 1, timeout_ms=100_000)
        assert caught.value.may_have_run
        assert anyio.current_time() - start <= 30.1
        await there.back(before)
        assert await there.registered() == (["echo"], 1)


@VIRTUAL
async def test_a_link_that_died_in_silence_is_left_without_a_goodbye() -> None:
    """Waiting for the answer to a close frame would take another second, and calls would wait with it."""
    goodbyes: list[int] = []

    class Wire(ScriptedWire):
        def __init__(self) -> None:
            super().__init__()
            self.answers_pings = False

        async def aclose(self, code: int = 1000, reason: str = "") -> None:
            goodbyes.append(code)
            await super().aclose(code, reason)

    async with open_worker(connector=Wires(Wire(), ScriptedWire()), options=InitOptions("w")) as iii:
        await iii.wait_ready()
        await until(iii, lambda state: state != "connected")
        assert goodbyes == [1006], "aborted"


async def test_a_half_open_socket_is_noticed_and_void_calls_into_it_do_not_block() -> None:
    heartbeat = HeartbeatOptions(interval=0.1, pong_timeout=1)
    async with linked("socket", seconds=30, heartbeat=heartbeat) as there:
        before = there.iii.worker_id
        there.faults.black_hole()
        for n in range(100):
            await there.iii.trigger_async({"function_id": "other::echo", "payload": n, "action": {"type": "void"}})
        with pytest.raises(ConnectionLostError):
            await there.iii.trigger_async("other::echo", 1)
        await there.back(before)
        assert await there.registered() == (["echo"], 1)


@VIRTUAL
async def test_an_engine_that_takes_nothing_any_more_holds_up_no_call_beyond_its_timeout() -> None:
    async with linked("wire", seconds=300) as there:
        there.faults.bytes_per_second = 1.0
        outcomes: list[str] = []

        async def call(n: int) -> None:
            with pytest.raises(InvocationError) as caught:
                await there.iii.trigger_async("other::echo", "x" * 1000, timeout_ms=5000)
            outcomes.append(caught.value.code)

        start = anyio.current_time()
        async with create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(call, n)
        assert anyio.current_time() - start <= 5.1
        assert outcomes == ["TIMEOUT"] * 50


# -- many links ------------------------------------------------------------------------------------------------------


@KINDS
async def test_a_storm_of_faults_passes_and_everything_is_there(kind: Kind) -> None:
    heartbeat = HeartbeatOptions(interval=0.05, pong_timeout=0.5)
    async with linked(kind, seconds=50, heartbeat=heartbeat, connect_timeout=0.5) as there:
        ended: list[str] = []

        async def calls(caller: Worker, function_id: str) -> None:
            while not calm.is_set():
                try:
                    ended.append(await caller.trigger_async(function_id, "ok", timeout_ms=200))
                except InvocationError as exc:
                    ended.append(exc.code)
                await anyio.sleep(0.001)

        calm = anyio.Event()
        async with create_task_group() as tasks:
            tasks.start_soon(calls, there.iii, "other::echo")
            tasks.start_soon(calls, there.other, "echo")
            with anyio.move_on_after(1):
                await there.faults.storm(seed=7, every=0.05)
            calm.set()
        there.faults.calm()
        there.faults.eof()
        while True:
            try:
                await there.iii.wait_ready()
                registered = await there.registered()
                break
            except InvocationError:
                continue
        assert registered == (["echo"], 1)
        assert there.faults.log
        known = {"ok", "CONNECTION_LOST", "TIMEOUT", "function_not_found", "invocation_stopped", "OFFLINE_QUEUE_FULL"}
        assert set(ended) <= known


async def test_the_same_seed_is_the_same_storm() -> None:
    logs: list[list[str]] = []
    for _ in range(2):
        faults = FaultConnector(lambda: None)  # type: ignore[arg-type,return-value]
        with anyio.move_on_after(0.2):
            await faults.storm(seed=3, every=0.002)
        logs.append(faults.log)
    length = min(map(len, logs))
    assert length
    assert logs[0][:length] == logs[1][:length]
