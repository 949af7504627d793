"""One connection's life: reader, writer and heartbeat. Read this file first.

Tasks (style: the first to end ends the three, the cause is kept):

    reader     wire → session → dispatcher; ends with the wire
    writer     outbox → wire; ends when asked to and everything is written
    heartbeat  pings, and declares a silent link dead

Below: a ``Wire`` and the ``WorkerSession``. Above: ``connection.py`` opens the next link when this one has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CancelScope, create_task_group
from anyio.lowlevel import current_token

from .._protocol.liveness import Liveness
from .._protocol.worker_session import Phase, WorkerSession
from .._wire.backend import backend_of
from ..errors import DecodeError, LinkClosed
from .cleanup import last_words

if TYPE_CHECKING:
    from .._protocol.messages import Message
    from ..abc import Wire
    from ..options import HeartbeatOptions
    from .outbox import Outbox

__all__ = ("Link",)

logger: Final = logging.getLogger("iii_anyio")

CLOSE_TIMEOUT: Final = 2.0

_reported = float("-inf")  # when a blocked loop was last reported


class Link:
    """Runs one wire until it ends; ``cause`` says why it did."""

    def __init__(
        self,
        wire: Wire,
        session: WorkerSession,
        outbox: Outbox,
        *,
        heartbeat: HeartbeatOptions,
        join_timeout: float,
        act: Callable[[Message], None],
        changed: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._session = session
        self._outbox = outbox
        self._act = act
        self._changed = changed
        self._scope = CancelScope()
        self._is_finishing = False
        self._is_writing = False
        self._is_silent = False
        self._read_last: list[bytes] = []
        """Kept until the next beat. When large messages are freed at once, the allocator gives the memory back to the
        system, and to get it again made calls of 10 MB half as dear again."""
        self.cause: LinkClosed | None = None
        self.has_joined = False
        self._now: Callable[[], float] = backend_of(current_token()).now
        self._join_deadline = self._now() + join_timeout
        self._patience = heartbeat.pong_timeout / 2
        """Seconds that the heartbeat may be woken late, until it takes the loop to have been blocked."""
        self.liveness = Liveness(
            self._now(),
            interval=heartbeat.interval,
            pong_timeout=heartbeat.pong_timeout,
            idle_timeout=heartbeat.idle_timeout,
        )

    def finish(self) -> None:
        """Write what is in the outbox, then close. Returns at once."""
        self._is_finishing = True
        self._end_if_written()

    def _end_if_written(self) -> None:
        if self._is_finishing and not self._is_writing and not self._session.has_outgoing:
            self._scope.cancel()

    async def run(self) -> None:
        """Serve the link until it ends by itself, by ``finish`` or by cancellation; then close the wire."""
        try:
            with self._scope:
                async with create_task_group() as tasks:
                    for part in (self._read, self._write, self._beat):
                        tasks.start_soon(self._run_part, part, name=f"iii link {part.__name__.strip('_')}")
        finally:
            self._outbox.detach()
            with last_words(CLOSE_TIMEOUT):
                if self._is_silent:  # nobody would answer a close frame
                    await self._wire.abort()
                else:
                    await self._wire.aclose(1000)

    async def _run_part(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except LinkClosed as exc:
            if self.cause is None:
                self.cause = exc
        finally:
            self._scope.cancel()

    async def _read(self) -> None:
        session, wire = self._session, self._wire
        revision = session.revision
        while True:
            texts = await wire.receive()
            self._take(texts)
            self._read_last = texts
            del texts
            self._outbox.flush()
            if session.revision != revision:
                revision = session.revision
                self.has_joined = self.has_joined or session.phase is Phase.JOINED
                self._changed()
                if session.phase is Phase.REFUSED:
                    raise LinkClosed(1008, "the engine refused this worker")

    def _take(self, texts: list[bytes]) -> None:
        """A function of its own: a reader that waits holds on to no message, which may be of 64 MiB."""
        session, pongs, act = self._session, self._wire.pongs, self._act
        now = self._now()
        self.liveness.received(now)
        if pongs:
            for payload in pongs:
                self.liveness.pong(payload, now)
            pongs.clear()
        for text in texts:
            try:
                message = session.receive(text)
            except DecodeError as exc:  # P-10: log it and read on
                if text.strip():
                    logger.warning("ignored an undecodable message of %d bytes from the engine: %s", len(text), exc)
                continue
            if message is not None:
                act(message)

    async def _write(self) -> None:
        while True:
            texts = await self._outbox.take(self._write_now)
            self._is_writing = True
            await self._wire.send(texts)
            del texts  # the next may be long in coming
            self._is_writing = False
            self._end_if_written()

    def _write_now(self) -> bool:
        """Write what there is without the writer's task; called while that waits."""
        if not self._wire.send_now(self._outbox.take_now):
            return False
        if self._wire.has_rest:
            return False  # the writer completes it
        self._end_if_written()
        return True

    async def _beat(self) -> None:
        liveness = self.liveness
        due = self._now()
        while True:
            self._read_last = []
            now = self._now()
            if (late := now - due) > self._patience:
                await self._forgive(now, late)
            is_joining = self._session.phase is Phase.JOINING
            if is_joining and now >= self._join_deadline:
                raise LinkClosed(1006, "the engine did not accept this worker's identity in time")
            if (death := liveness.death(now)) is not None:
                self._is_silent = True
                raise LinkClosed(1006, death)
            if liveness.is_ping_due(now):
                await self._wire.ping(liveness.ping(now))
            check = liveness.next_check()
            due = max(min(check, self._join_deadline) if is_joining else check, now + 0.01)
            await anyio.sleep_until(due)

    async def _forgive(self, now: float, late: float) -> None:
        """Start to wait anew: while the loop had no turn nobody read, so the silence says nothing about the engine."""
        _report_blocked(late)
        self._join_deadline += late
        self.liveness.received(now)
        await self._wire.ping(self.liveness.ping(now))


def _report_blocked(late: float) -> None:
    """Log it, once for all the workers of a loop."""
    global _reported
    now = time.monotonic()
    if now - _reported > late:
        _reported = now
        logger.warning(
            "the event loop was blocked for %.1f s or longer; InitOptions(health=HealthOptions(blocked_after=...)) "
            "shows in the log by what",
            late,
        )
