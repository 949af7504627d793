"""When the engine is told of local invocations and emitted events: the clock beside ``_protocol/reporting``.

Tasks: one, ``run``, asleep until something has to be sent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
from anyio import CancelScope, current_time

from .._protocol.codec import from_json
from .._protocol.messages import ABSENT, InvocationResult
from .._protocol.reporting import Reporter, ReportLimits

if TYPE_CHECKING:
    from .._protocol.worker_session import WorkerSession
    from .local import LocalCall
    from .outbox import Outbox

__all__ = ("Reports",)

NEVER: Final = math.inf


class Reports:
    """Reports and counters of one worker."""

    def __init__(
        self, session: WorkerSession, outbox: Outbox, now: Callable[[], float], limits: ReportLimits | None = None
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._now = now
        self.reporter: Reporter = Reporter(lambda: session.outgoing_bytes, limits)
        self.is_flush_posted: bool = False
        """Whether another thread has asked for ``flush_soon``: once is enough."""
        self._flush_at = NEVER
        self._counts_at = NEVER
        self._counting_since = 0.0
        self._rearm = anyio.Event()

    # -- what happened, on the loop ----------------------------------------------------------------------------------

    def finished(self, call: LocalCall, answer: InvocationResult) -> None:
        """Count a local invocation that has run, and report it when an observer wants to hear of it."""
        milliseconds = (time.perf_counter() - call.began) * 1000
        is_success = answer.error is ABSENT
        self.reporter.count(call.function_id, milliseconds, is_success=is_success)
        self._count_soon()
        if call.observers:
            self._report(call, answer, milliseconds, is_success)

    def _report(self, call: LocalCall, answer: InvocationResult, milliseconds: float, is_success: bool) -> None:
        message, observed = call.message, call.function.observed
        handed = from_json(call.given)  # as it was given, not what the handler has made of it
        values: dict[str, Any] = {"input": handed["data"], "caller": message.caller}
        if "metadata" in handed:
            values["metadata"] = handed["metadata"]
        values |= {"output": answer.result} if is_success else {"error": answer.error}
        matched = [observer for observer in call.observers if observer.wants(values, is_success=is_success)]
        if not matched or observed is None:
            return
        fields: dict[str, Any] = {
            "function_id": call.function_id,
            "namespace": observed.namespace,
            "invocation_id": message.invocation_id,
            "matched": [observer.id for observer in matched],
            "status": "success" if is_success else "error",
            "started_at_ms": call.began_at_ms,
            "duration_ms": milliseconds,
            "observe_depth": message.observe_depth or 0,
        }
        self._add_trace(fields, message.traceparent, message.baggage)
        captured = {part for observer in matched for part in observer.capture}
        self.reporter.add(fields, values, captured)
        self.flush_soon()

    def emitted(
        self,
        fields: dict[str, Any],
        values: dict[str, Any],
        captured: Iterable[str],
        event: object,
        context: object,
        trace: tuple[str | None, str | None],
    ) -> None:
        """Report an event for one observer; from any thread, whose caller then has ``flush_soon`` run on the loop."""
        fields = fields | {"status": "success", "started_at_ms": time.time_ns() // 1_000_000, "duration_ms": 0}
        self._add_trace(fields, *trace)
        self.reporter.add_emitted(fields, values, captured, event, context)

    @staticmethod
    def _add_trace(fields: dict[str, Any], traceparent: str | None, baggage: str | None) -> None:
        if traceparent is not None:
            fields["traceparent"] = traceparent
        if baggage is not None:
            fields["baggage"] = baggage

    # -- when it is sent ---------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what waits when enough does, or a moment later."""
        self.is_flush_posted = False
        linger = 0.0 if self.reporter.is_batch else self.reporter.limits.linger
        at = self._now() + linger
        if at < self._flush_at:
            self._flush_at = at
            self._rearm.set()
        self._count_soon()  # what was dropped is counted, too

    def _count_soon(self) -> None:
        if self._counts_at == NEVER and self.reporter.has_counts:
            self._counting_since = self._now()
            self._counts_at = self._counting_since + self.reporter.limits.interval
            self._rearm.set()

    async def run(self) -> None:
        """Send reports and counts when it is their time."""
        while True:
            self._rearm = anyio.Event()
            with CancelScope(deadline=min(self._flush_at, self._counts_at)):
                await self._rearm.wait()
            now = current_time()
            if now >= self._flush_at:
                self.flush()
            if now >= self._counts_at:
                self._counts_at = NEVER if self.send_counts() else now + self.reporter.limits.interval

    def flush(self) -> None:
        """Send now what this link takes; the rest waits for the acknowledgement of its function's observers."""
        self._flush_at = NEVER
        if not len(self.reporter) or not self._session.takes_observers:
            return
        for frame in self.reporter.take(self._fate):
            self._session.put_keepsake(frame.text, partial(self.reporter.put_back, frame))
        self._outbox.flush()
        self._count_soon()

    def _fate(self, function_id: str) -> Literal["send", "wait", "drop"]:
        registration = self._session.registry.functions.get(function_id)
        if registration is None:
            return "drop"
        fate: Literal["send", "wait", "drop"] = registration.target.observed.reports(self._session.link)
        return fate

    def send_counts(self) -> bool:
        """Send the counters when there is anything in them; False when they have to wait for a link."""
        if not self.reporter.has_counts:
            return True
        if not self._session.takes_observers:
            return False
        text, put_back = self.reporter.take_counts(self._now() - self._counting_since)
        self._session.put_keepsake(text, put_back)
        self._outbox.flush()
        return True

    def settled(self, takes_observers: bool) -> None:
        """A link has joined, and the engine has said what it knows."""
        if not takes_observers:
            self.reporter.clear()
        else:
            self.flush()
            self._count_soon()  # counts that a lost link has given back

    def last_words(self) -> None:
        """Send what there is before the worker closes its link (§6.8)."""
        self.flush()
        self.send_counts()
