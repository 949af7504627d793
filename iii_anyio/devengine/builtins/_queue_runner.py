"""Runs the jobs of queues: each calls its function, and what comes of it goes back to ``Jobs``.

Tasks, in the group of the built-in worker and cancelled with it: one per running job, and one timer that ends back-offs
and looks for the functions that held jobs wait for. A cancelled job is as one that never began. Above: ``queue``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import anyio
from anyio import current_time, move_on_after

from ..._protocol.jsontext import to_json
from ..._runtime.context import Invocation, current
from ...errors import InvocationError
from .._errors import shorten

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ...worker import Worker
    from .._queue_core import Jobs
    from .._queue_lines import Job, Line, Queue
    from .._services import Host

__all__ = ("JobRunner",)

logger: Final = logging.getLogger("iii_anyio.devengine.queue")

POLL: Final = 0.1
"""Seconds between looks for missing functions; upstream's interval for everything."""


class JobRunner:
    """Runs what may run."""

    def __init__(self, iii: Worker, host: Host, jobs: Jobs, group: TaskGroup) -> None:
        self._iii = iii
        self._host = host
        self._jobs = jobs
        self._group = group
        self._rearm = anyio.Event()

    def pump(self, lines: Iterable[Line]) -> None:
        """Start every job that may run."""
        for line in lines:
            while (job := line.take()) is not None:
                if not self._hold_if_missing(job):
                    self._group.start_soon(self._attempt, job, name=f"engine job of {line.queue.name}")

    def _hold_if_missing(self, job: Job) -> bool:
        """Put a job of a named queue aside whose function does not exist (Q-23, standalone).

        A topic's function that is missing has failed: messages wait for subscriptions, not for functions.
        """
        queue = job.line.queue
        if queue.is_topic or self._exists(job.namespace, job.function_id):
            return False
        if self._jobs.hold(job):
            self._rearm.set()
            logger.warning(
                "jobs of queue %s wait for function %s in namespace %s, which no worker has registered",
                shorten(queue.name), shorten(job.function_id), shorten(job.namespace),
            )  # fmt: skip
        return True

    def _exists(self, namespace: str, function_id: str) -> bool:
        return self._host.router.functions.get(namespace, function_id) is not None

    async def _attempt(self, job: Job) -> None:
        """Run a job once."""
        line = job.line
        # The calls below continue the trace of who enqueued. `self` as owner: they are not nested in any handler.
        current.set(Invocation(self, "", None, None, job.traceparent, _attempt_baggage(job)))
        error: str | None = None
        asked = ""
        try:
            condition = line.condition_function_id
            goes_on = True
            if condition is not None:
                asked = "Condition function error: "  # Q-36, T-18
                goes_on = await self._call(condition, job) is not False  # T-16
                asked = ""
            if goes_on:
                await self._call(job.function_id, job)
        except InvocationError as exc:
            if exc.code == "function_not_found" and self._hold_if_missing(job):  # it went while the call was made
                self.pump((line,))
                return
            error = asked + self._error_text(exc, line.queue)
        except Exception as exc:  # the boundary of a job: whatever is wrong with it must not end the others
            logger.exception("job %s of %s could not be run", shorten(job.id), shorten(line.queue.name))
            error = f"{asked}invocation_failed: {exc}"
        if error is None:
            self._jobs.done(job)
        else:
            self._failed(job, error)
        self.pump((line,))

    async def _call(self, function_id: str, job: Job) -> Any:
        """Call with the data as payload and no metadata (Q-23, Q-28)."""
        timeout_ms = math.ceil(job.line.settings.timeout * 1000)
        return await self._iii.trigger_async(
            {"function_id": function_id, "payload": job.data, "namespace": job.namespace, "timeout_ms": timeout_ms}
        )

    def _error_text(self, error: InvocationError, queue: Queue) -> str:
        if not self._host.strict_upstream:
            return str(error)
        if not queue.is_topic:
            return "function call failed"
        code, message = _quoted(error.code), _quoted(error.message)
        return f"ErrorBody {{ code: {code}, message: {message}, stacktrace: None }}"

    def _failed(self, job: Job, error: str) -> None:
        queue, total = job.line.queue, max(job.line.settings.attempts, 1)
        delay = self._jobs.failed(job, error, now=current_time(), wall_clock=self._host.router.now_ms() // 1000)
        function = shorten(job.function_id)
        what = f"job {shorten(job.id)} of {shorten(queue.name)}, {function}, failed attempt {job.attempts} of {total}"
        if delay is None:
            logger.warning("%s; it is kept as dead: %s", what, shorten(error))
        else:
            logger.info("%s, again in %g s: %s", what, delay, shorten(error))
            self._rearm.set()

    async def run_timer(self) -> None:
        """End back-offs, and release the jobs whose function has appeared, until cancelled."""
        while True:
            self._rearm = anyio.Event()
            due = self._jobs.next_due
            seconds = math.inf if due is None else due - current_time()
            held = self._jobs.held()
            with move_on_after(min(seconds, POLL) if held else seconds):
                await self._rearm.wait()
            for function in held:
                if self._exists(*function):
                    self.pump(self._jobs.release(function))
            self.pump(self._jobs.wake(current_time()))


def _attempt_baggage(job: Job) -> str:
    """The baggage of whoever enqueued, with the message's id and which attempt this is.

    The handler gets neither envelope nor metadata (Q-23, Q-28), so this is where it can see a redelivery.
    """
    own = {"iii.queue.message_id": quote(job.id, safe=""), "iii.queue.attempt": str(job.attempts + 1)}
    entries = [entry.strip() for entry in (job.baggage or "").split(",")]
    kept = [entry for entry in entries if entry and entry.partition("=")[0].strip() not in own]
    return ",".join([*kept, *(f"{key}={value}" for key, value in own.items())])


def _quoted(text: str) -> str:
    return to_json(text).decode()
