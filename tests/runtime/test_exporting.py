"""The exporter and its buffer: batching, bounds, connections that end, the deadline. On virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group, current_time, fail_after, wait_all_tasks_blocked

from iii_anyio._protocol.backoff import Backoff
from iii_anyio._runtime.exporting import Exporter, TelemetryWire
from iii_anyio._runtime.telemetry_buffer import LOGS, METRICS, SPANS, TelemetryBuffer
from iii_anyio.errors import ConnectError, LinkClosed
from iii_anyio.options import HeartbeatOptions

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)]


class Wire:
    """Keeps what is sent; ``cut`` ends it."""

    def __init__(self, arrived: Callable[[bytes], None]) -> None:
        self.pongs: list[bytes] = []
        self.answers_pings = True
        self.reads = True
        self.pings: list[float] = []
        self.closed_with: int | None = None
        self._arrived = arrived
        self._cut = anyio.Event()
        self._stir = anyio.Event()

    def cut(self) -> None:
        self._cut.set()
        self._stir.set()

    async def receive_typed(self) -> list[tuple[bool, bytes]]:
        await self._stir.wait()
        self._stir = anyio.Event()
        if self._cut.is_set():
            raise LinkClosed(1006, "cut")
        return []

    async def send_binary(self, batch: Any) -> None:
        if not self.reads:
            await anyio.sleep_forever()
        if self._cut.is_set():
            raise LinkClosed(1006, "cut")
        for frame in batch:
            self._arrived(frame)

    async def ping(self, payload: bytes) -> None:
        self.pings.append(current_time())
        if self.answers_pings:
            self.pongs.append(payload)
            self._stir.set()

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        self.closed_with = code
        self.cut()


class Engine:
    """Where an exporter connects to."""

    def __init__(self) -> None:
        self.is_up = True
        self.wires: list[Wire] = []
        self.attempts: list[float] = []
        self.frames: list[tuple[float, bytes]] = []
        self.connected = anyio.Event()
        self.new_wire_reads = True

    def open(self) -> AbstractAsyncContextManager[TelemetryWire]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[TelemetryWire]:
        self.attempts.append(current_time())
        await anyio.lowlevel.checkpoint()
        if not self.is_up:
            raise ConnectError("ws://engine/otel", "it is down")
        wire = Wire(lambda frame: self.frames.append((current_time(), frame)))
        wire.reads = self.new_wire_reads
        self.wires.append(wire)
        self.connected.set()
        yield wire


def buffer(**more: Any) -> TelemetryBuffer:
    settings: dict[str, Any] = {
        "max_bytes": 10_000,
        "delays": {SPANS: 0.1, LOGS: 0.1},
        "batches": {SPANS: 3, LOGS: 1},
    } | more
    return TelemetryBuffer(**settings)


@asynccontextmanager
async def exporting(kept: TelemetryBuffer, engine: Engine, **more: Any) -> AsyncGenerator[Exporter]:
    settings: dict[str, Any] = {
        "is_sink": False,
        "backoff": Backoff(1, 30, 2, 0),
        "heartbeat": HeartbeatOptions(),
        "deadline": 2.0,
        "collect": None,
        "collect_interval": 60.0,
    }
    exporter = Exporter(engine.open, kept, **(settings | more))
    with fail_after(1e8):
        async with create_task_group() as tasks:
            tasks.start_soon(exporter.run)
            await wait_all_tasks_blocked()
            yield exporter
            tasks.cancel_scope.cancel()


def put(kept: TelemetryBuffer, record: bytes, signal: bytes = SPANS) -> None:
    kept.put(signal + b"[", b"]", record)


async def test_spans_wait_for_others_until_the_delay_or_the_batch_is_full() -> None:
    kept, engine = buffer(), Engine()
    async with exporting(kept, engine):
        began = current_time()
        put(kept, b"1")
        put(kept, b"2")
        await anyio.sleep(1)
        for record in (b"3", b"4", b"5"):
            put(kept, record)
        await wait_all_tasks_blocked()
        put(kept, b"6", LOGS)
        await anyio.sleep(1)
    assert [(round(at - began, 2), frame) for at, frame in engine.frames] == [
        (0.1, b"OTLP[1,2]"),
        (1.0, b"OTLP[3,4,5]"),
        (1.0, b"LOGS[6]"),
    ]


async def test_what_came_before_the_connection_is_sent_first_and_a_cut_one_loses_nothing() -> None:
    kept, engine = buffer(), Engine()
    engine.is_up = False
    put(kept, b"1")
    async with exporting(kept, engine):
        await anyio.sleep(10)
        assert engine.attempts == [0, 1, 3, 7]  # growing pauses
        engine.is_up = True
        await engine.connected.wait()
        await wait_all_tasks_blocked()
        assert [frame for _, frame in engine.frames] == [b"OTLP[1]"]
        engine.wires[0].cut()
        put(kept, b"2")
        await anyio.sleep(5)
    assert [frame for _, frame in engine.frames] == [b"OTLP[1]", b"OTLP[2]"]
    assert len(engine.wires) == 2
    assert engine.attempts[-1] - engine.attempts[-2] < 6  # the pauses begin anew


async def test_a_full_buffer_drops_what_comes_and_says_how_much(caplog: pytest.LogCaptureFixture) -> None:
    kept, engine = buffer(max_bytes=10), Engine()
    for _ in range(5):
        put(kept, b"1234")
    assert (len(kept), kept.dropped) == (2, 3)
    async with exporting(kept, engine):
        await wait_all_tasks_blocked()
        put(kept, b"9999")
        await anyio.sleep(1)
    assert [frame for _, frame in engine.frames] == [b"OTLP[1234,1234]", b"OTLP[9999]"]
    assert "3 records of telemetry were dropped" in caplog.text


async def test_long_batches_are_sent_in_several_frames() -> None:
    kept = TelemetryBuffer(10_000_000, {}, {})
    for _ in range(3):
        put(kept, b"x" * 600_000)
    put(kept, b"y" * 3_000_000, METRICS)
    assert [len(frame) for frame in kept.take()] == [600_006, 600_006, 600_006, 3_000_006]
    assert kept.is_empty
    assert kept.take() == []


async def test_the_end_sends_what_is_left_collects_once_more_and_closes() -> None:
    kept, engine = buffer(delays={SPANS: 60.0}), Engine()
    collected: list[float] = []

    def collect() -> None:
        collected.append(len(collected))
        put(kept, str(len(collected)).encode(), METRICS)

    # Virtual time passes while a thread collects.
    async with exporting(kept, engine, collect=collect, collect_interval=1e9, deadline=1e7) as exporter:
        await anyio.sleep(1)
        put(kept, b"last")
        await exporter.finish()
        assert sorted(frame for _, frame in engine.frames) == [b"MTRC[1]", b"OTLP[last]"]
        assert engine.wires[0].closed_with == 1000


async def test_an_engine_that_is_gone_or_does_not_read_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for is_up in (False, True):
        kept, engine = buffer(), Engine()
        engine.is_up, engine.new_wire_reads = is_up, False
        put(kept, b"1")
        async with exporting(kept, engine) as exporter:
            await anyio.sleep(0.5)
            began = current_time()
            await exporter.finish()
            assert current_time() - began <= 2.0
    assert caplog.text.count("1 records of telemetry were not delivered") == 2


async def test_flush_waits_until_everything_has_been_sent() -> None:
    kept, engine = buffer(delays={SPANS: 60.0}), Engine()
    async with exporting(kept, engine) as exporter:
        put(kept, b"1")
        await exporter.flush(5)
        assert [frame for _, frame in engine.frames] == [b"OTLP[1]"]
        engine.wires[0].reads = False
        put(kept, b"2")
        began = current_time()
        await exporter.flush(5)
        assert current_time() - began == 5


async def test_a_silent_engine_is_noticed_and_left(caplog: pytest.LogCaptureFixture) -> None:
    kept, engine = buffer(), Engine()
    caplog.set_level(logging.WARNING)
    async with exporting(kept, engine):
        await anyio.sleep(100)
        assert len(engine.wires) == 1  # pings are answered
        assert len(engine.wires[0].pings) >= 4
        engine.wires[0].answers_pings = False
        await anyio.sleep(60)
        assert len(engine.wires) == 2
        engine.wires[1].reads = False
        put(kept, b"1")
        await anyio.sleep(60)
        assert len(engine.wires) == 3
    assert [frame for _, frame in engine.frames] == [b"OTLP[1]"]
    assert "no pong within" in caplog.text
    assert "does not read" in caplog.text


async def test_records_from_threads_wake_the_exporter() -> None:
    kept, engine = buffer(), Engine()
    async with exporting(kept, engine):
        await anyio.to_thread.run_sync(put, kept, b"1", LOGS)
        while not engine.frames:  # noqa: ASYNC110 - virtual time
            await anyio.sleep(0.01)
    assert engine.frames[0][1] == b"LOGS[1]"
