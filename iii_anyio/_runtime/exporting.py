"""Telemetry to the engine: frames over a socket of their own, ``/otel`` (§15).

Tasks, all ended by ``finish`` or a cancellation of ``run``:

    links      one connection after the other, with growing pauses
      sender     buffer → wire; what could not be sent goes first on the next connection
      reader     answers pings, and notices the end
      heartbeat  notices a peer that is gone without a word
    metrics    collects them in a thread, every so often

Below: a wire, the ``TelemetryBuffer``. Above: the supervisor runs it as a service of the worker.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import anyio
from anyio import CancelScope, create_task_group, current_time, from_thread, move_on_after, to_thread
from anyio.lowlevel import EventLoopToken, current_token

from .._protocol.liveness import Liveness
from ..errors import ConnectError, LinkClosed, WorkerStateError
from .cleanup import last_words
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .._protocol.backoff import Backoff
    from ..options import HeartbeatOptions
    from .telemetry_buffer import TelemetryBuffer

__all__ = ("Exporter", "OpenTelemetryWire", "TelemetryWire")

logger: Final = logging.getLogger("iii_anyio.telemetry")

SEND_TIMEOUT: Final = 20.0
"""Seconds for one frame; an engine that does not read for so long is as good as gone."""
CLOSE_TIMEOUT: Final = 1.0


class TelemetryWire(Protocol):
    """What an exporter needs of a connection."""

    pongs: list[bytes]

    async def receive_typed(self) -> list[tuple[bool, bytes]]: ...

    async def send_binary(self, batch: Sequence[bytes]) -> None: ...

    async def ping(self, payload: bytes) -> None: ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None: ...


OpenTelemetryWire: TypeAlias = Callable[[], AbstractAsyncContextManager[TelemetryWire]]


def _nothing() -> None:
    pass


class Exporter:
    """Sends what comes into a buffer, until it is told to finish. A ``Service``."""

    name: str = "telemetry"

    def __init__(
        self,
        target: OpenTelemetryWire | Callable[[bytes], None],
        buffer: TelemetryBuffer,
        *,
        is_sink: bool,
        backoff: Backoff,
        heartbeat: HeartbeatOptions,
        deadline: float,
        collect: Callable[[], None] | None,
        collect_interval: float,
    ) -> None:
        """Make it; ``run`` starts it.

        Args:
            target: Opens connections; or, with ``is_sink``, takes a frame in this process.
            buffer: Where the records come in.
            is_sink: What ``target`` is.
            backoff: Pauses between connections.
            heartbeat: When a silent connection counts as dead.
            deadline: Seconds that ``finish`` takes at most.
            collect: Puts metrics into the buffer; called in a thread.
            collect_interval: Seconds between two calls of it.
        """
        self._target: Callable[..., object] = target
        self._buffer = buffer
        self._is_sink = is_sink
        self._backoff = backoff
        self._heartbeat = heartbeat
        self._deadline = deadline
        self._collect = collect
        self._collect_interval = collect_interval
        self._unsent: deque[bytes] = deque()
        self._filled = anyio.Event()
        self._urgent = anyio.Event()
        self._pause = CancelScope()
        self._ended = anyio.Event()
        self._is_finishing = False
        self._flushes: list[anyio.Event] = []
        self._reported = 0
        self._token: EventLoopToken | None = None
        self.connections: int = 0
        """How often a connection was made."""

    # -- lifetime ------------------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None] = _nothing) -> None:
        """Export until ``finish`` has been obeyed, or cancelled."""
        self._token = current_token()
        mailbox = Mailbox()

        def filled(is_urgent: bool) -> None:
            with suppress(WorkerStateError):  # the loop has ended: it stays in the buffer
                mailbox.post(self._wake, is_urgent)

        try:
            async with create_task_group() as tasks:
                self._buffer.listen(filled)
                ready()
                if self._collect is not None:
                    tasks.start_soon(self._run_metrics, name="iii metrics")
                await (self._run_sink() if self._is_sink else self._run_links())
                tasks.cancel_scope.cancel()
        finally:
            self._buffer.listen(None)
            mailbox.close()
            self._ended.set()
            self._flushed()

    async def finish(self) -> None:
        """Deliver what is left, within the deadline, and end ``run``."""
        with move_on_after(self._deadline):
            await self._collect_now()
            self._is_finishing = True
            self._pause.cancel()
            self._wake(True)
            await self._ended.wait()
        left = len(self._buffer) + len(self._unsent)
        if left:
            logger.warning("%d records of telemetry were not delivered before the worker's end", left)
        self._report_dropped()

    async def flush(self, seconds: float) -> None:
        """Wait until what has been recorded so far is delivered, at most so long. On any loop."""
        token = self._token
        if token is None:
            return
        if current_token().native_token is not token.native_token:
            await to_thread.run_sync(self._flush_blocking, seconds, token, abandon_on_cancel=True)
            return
        with move_on_after(seconds):
            await self._flush()

    def _flush_blocking(self, seconds: float, token: EventLoopToken) -> None:
        try:
            from_thread.run(self.flush, seconds, token=token)
        except RuntimeError as exc:  # that loop has ended, with everything delivered or reported
            logger.debug("nothing to flush: %s", exc)

    async def _flush(self) -> None:
        await self._collect_now()
        if self._ended.is_set():
            return
        done = anyio.Event()
        self._flushes.append(done)
        self._wake(True)
        await done.wait()

    def _flushed(self) -> None:
        for event in self._flushes:
            event.set()
        self._flushes.clear()

    def _wake(self, is_urgent: bool) -> None:
        self._filled.set()
        if is_urgent:
            self._urgent.set()

    def _report_dropped(self) -> None:
        dropped = self._buffer.dropped
        if dropped > self._reported:
            logger.warning(
                "%d records of telemetry were dropped: too many wait for the engine", dropped - self._reported
            )
            self._reported = dropped

    # -- metrics -------------------------------------------------------------------------------------------------

    async def _run_metrics(self) -> None:
        while True:
            await anyio.sleep(self._collect_interval)
            await self._collect_now()

    async def _collect_now(self) -> None:
        if self._collect is not None:
            try:
                await to_thread.run_sync(self._collect)  # it reads files of the system
            except Exception:
                logger.exception("metrics could not be collected")

    # -- sending -------------------------------------------------------------------------------------------------

    async def _take(self) -> bool:
        """Have frames in ``_unsent``, waiting for records if need be; False when there will be no more."""
        while not self._unsent:
            self._filled, self._urgent = anyio.Event(), anyio.Event()
            self._unsent.extend(self._buffer.take())
            self._report_dropped()
            if self._unsent:
                break
            if self._is_finishing:
                return False
            self._flushed()
            await self._filled.wait()
            with move_on_after(self._buffer.delay()):
                await self._urgent.wait()
        return True

    async def _run_sink(self) -> None:
        while await self._take():
            while self._unsent:
                self._target(self._unsent.popleft())

    async def _run_links(self) -> None:
        attempt = 0
        while True:
            problem: Exception | None = None
            made = self.connections
            try:
                context: AbstractAsyncContextManager[TelemetryWire] = self._target()  # type: ignore[assignment]
                async with context as wire:
                    self.connections += 1
                    problem = await self._serve(wire)
            except (ConnectError, LinkClosed) as exc:
                problem = exc
            except Exception as exc:
                logger.exception("an unexpected error ended the telemetry connection")
                problem = exc
            if self._is_finishing and (problem is None or self.connections == made):
                return  # done, or no way to get it done
            if self.connections > made:
                attempt = 0
            delay = 0.0 if self._is_finishing else self._backoff.delay(attempt, random.random())
            logger.log(
                logging.DEBUG if attempt else logging.WARNING,
                "telemetry is not delivered: %s; connecting again in %.1f s", problem, delay,
            )  # fmt: skip
            attempt += 1
            self._pause = CancelScope()
            with self._pause:
                await anyio.sleep(delay)

    async def _serve(self, wire: TelemetryWire) -> Exception | None:
        """Use one connection until it ends; returns why, or None when everything has been sent."""
        problem: Exception | None = None
        scope = CancelScope()
        now = current_time()
        liveness = Liveness(
            now,
            interval=self._heartbeat.interval,
            pong_timeout=self._heartbeat.pong_timeout,
            idle_timeout=self._heartbeat.idle_timeout,
        )

        async def part(work: Callable[[TelemetryWire, Liveness], Awaitable[None]]) -> None:
            nonlocal problem
            try:
                await work(wire, liveness)
            except LinkClosed as exc:
                problem = problem or exc
            finally:
                scope.cancel()

        try:
            with scope:
                async with create_task_group() as tasks:
                    for work in (self._send, self._receive, self._beat):
                        tasks.start_soon(part, work, name=f"iii telemetry {work.__name__.strip('_')}")
        finally:
            with last_words(CLOSE_TIMEOUT):
                await wire.aclose(1000)
        return problem

    async def _send(self, wire: TelemetryWire, _liveness: Liveness) -> None:
        while await self._take():
            while self._unsent:
                with move_on_after(SEND_TIMEOUT) as scope:
                    await wire.send_binary([self._unsent[0]])
                if scope.cancelled_caught:
                    raise LinkClosed(1006, "the engine does not read telemetry")
                self._unsent.popleft()

    async def _receive(self, wire: TelemetryWire, liveness: Liveness) -> None:
        while True:
            await wire.receive_typed()  # there is nothing to read but control frames
            now = current_time()
            liveness.received(now)
            for payload in wire.pongs:
                liveness.pong(payload, now)
            wire.pongs.clear()

    async def _beat(self, wire: TelemetryWire, liveness: Liveness) -> None:
        while True:
            now = current_time()
            if (death := liveness.death(now)) is not None:
                raise LinkClosed(1006, death)
            if liveness.is_ping_due(now):
                await wire.ping(liveness.ping(now))
            await anyio.sleep_until(max(liveness.next_check(), now + 0.01))
