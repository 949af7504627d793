"""A worker that looks after itself: how late its event loop is, what blocks it, an HTTP endpoint that says how it is.

Tasks, as services of the supervisor:

    loop watch     a regular beat; with ``blocked_after`` a thread that looks whether it still comes
    health         accepts connections; one task each

Above: ``iii_anyio.health`` has the report, and says what the endpoint answers.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CapacityLimiter, EndOfStream, create_task_group, move_on_after, to_thread
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from anyio.abc import SocketStream

    from ..options import HealthOptions

__all__ = ("HealthServer", "LoopWatch")

logger: Final = logging.getLogger("iii_anyio")

REQUEST_TIMEOUT: Final = 5.0
MAX_REQUEST: Final = 8192
MAX_CONNECTIONS: Final = 16
MAX_STACK: Final = 12
"""Innermost frames shown of what blocks the loop."""


class LoopWatch:
    """Measures how late the loop wakes who asked for it, and reports what blocks it. A ``Service``."""

    name: str = "loop watch"

    def __init__(self, options: HealthOptions) -> None:
        self._blocked_after = options.blocked_after
        self._step = options.interval if options.blocked_after is None else options.blocked_after / 4
        self._beat: float | None = None
        self._worst = 0.0
        self._stop = threading.Event()
        self.lag: float | None = None
        """Seconds that the last wake-up was late."""
        self.blocked: int = 0
        """How often the loop was found blocked."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Beat until cancelled."""
        ready()
        try:
            async with create_task_group() as tasks:
                if self._blocked_after is not None:
                    tasks.start_soon(self._run_thread, threading.get_ident(), name="iii loop watch thread")
                await self._run_beat()
        finally:
            self._beat = None
            self._stop.set()

    async def finish(self) -> None:
        """Nothing is left to do."""

    async def _run_beat(self) -> None:
        while True:
            self._beat = time.monotonic()
            due = anyio.current_time() + self._step
            await anyio.sleep_until(due)
            self.lag = max(0.0, anyio.current_time() - due)
            self._worst = max(self._worst, self.lag)

    def take_worst(self) -> float:
        """The longest lag since this was last asked; for a gauge."""
        worst, self._worst = self._worst, 0.0
        return worst

    @property
    def is_blocked(self) -> bool:
        """Whether the loop has not had a turn for too long. For other threads: the loop's own cannot ask."""
        beat, limit = self._beat, self._blocked_after
        return beat is not None and limit is not None and time.monotonic() - beat > limit + self._step

    async def _run_thread(self, loop_thread: int) -> None:
        await to_thread.run_sync(self._watch, loop_thread, abandon_on_cancel=True, limiter=CapacityLimiter(1))

    def _watch(self, loop_thread: int) -> None:
        has_reported = False
        while not self._stop.wait(self._step):
            if not self.is_blocked:
                has_reported = False
            elif not has_reported:
                has_reported = True
                self.blocked += 1
                frame = sys._current_frames().get(loop_thread)  # pyright: ignore[reportPrivateUsage] - documented
                stack = "".join(traceback.format_stack(frame, MAX_STACK)) if frame is not None else "it is gone"
                logger.warning("the event loop has been blocked for %.2f s by:\n%s", self._blocked_after, stack)


class HealthServer:
    """Answers HTTP requests with what ``check(path)`` says: status and JSON, or None for a path that is none."""

    name: str = "health endpoint"

    def __init__(self, options: HealthOptions, check: Callable[[str], tuple[int, bytes] | None]) -> None:
        assert options.port is not None
        self._host = options.host
        self._asked_port = options.port
        self._check = check
        self._places = CapacityLimiter(MAX_CONNECTIONS)
        self.port: int | None = None
        """Where it listens."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        listener = await anyio.create_tcp_listener(local_host=self._host, local_port=self._asked_port)
        async with listener:
            self.port = listener.extra(SocketAttribute.local_port)
            ready()
            try:
                await listener.serve(self._serve)
            finally:
                self.port = None

    async def finish(self) -> None:
        """Nothing is left to do: it answers to the end."""

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            with move_on_after(REQUEST_TIMEOUT):
                async with self._places:
                    try:
                        await self._answer(stream)
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError, EndOfStream, OSError) as exc:
                        logger.debug("a client of the health endpoint left: %s", exc)
                    except Exception:  # the boundary: one request must not end the endpoint
                        logger.exception("the health endpoint could not answer")

    async def _answer(self, stream: SocketStream) -> None:
        import h11

        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        status, body, allow = 400, b'{"error":"not an HTTP request"}', False
        head_only = False
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await stream.receive(MAX_REQUEST))
        except h11.RemoteProtocolError as exc:
            status = exc.error_status_hint
        else:
            if isinstance(event, h11.Request):
                head_only = event.method == b"HEAD"
                path = event.target.decode("ascii", "replace").partition("?")[0]
                answer = self._check(path)
                if answer is None:
                    status, body = 404, b'{"error":"ask for /livez or /readyz"}'
                elif event.method not in (b"GET", b"HEAD"):
                    status, body, allow = 405, b'{"error":"use GET"}', True
                else:
                    status, body = answer
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
            *([("allow", "GET, HEAD")] if allow else []),
        ]
        answer_bytes = (
            connection.send(h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)) or b""
        )
        if not head_only:
            answer_bytes += connection.send(h11.Data(data=body)) or b""
        await stream.send(answer_bytes)
