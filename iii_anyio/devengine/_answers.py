"""Invocations that are open, and how each comes to its one answer (§7).

An invocation is open from the moment it is forwarded until the callee answers, the callee leaves
(``invocation_stopped``), or the caller leaves (forgotten; the callee is told nothing). There is no time limit (P-124).

Below: sessions and messages; ``_watching`` is told what was observed. Above: ``_forwarding`` opens invocations,
``_invocations`` refuses calls, ``_router`` hands over what callees answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._protocol.codec import canonical_uuid, is_uuid
from .._protocol.engine_session import EngineSession
from .._protocol.messages import ABSENT, InvocationResult, InvokeFunction, Message
from ..errors import EncodeError, PayloadTooLargeError
from ._errors import INVALID_MESSAGE, error_body, has_error, shorten, to_body
from ._salvage import salvage
from ._telemetry import EngineSpan
from ._watching import Watch

if TYPE_CHECKING:
    from ._telemetry import Telemetry
    from ._watching import Watching

__all__ = ("Answers", "Invocation", "Settle", "unsendable")

logger = logging.getLogger(__name__)

MAX_ECHO: Final = 1000

Settle: TypeAlias = "Callable[[Any, dict[str, Any] | None], None]"
"""Takes the result, or the error body, of an invocation that the engine made itself."""


@dataclass(slots=True, eq=False)
class Invocation:
    """One invocation. Without caller and ``settle`` nobody waits for the answer."""

    id: str
    function_id: str
    caller: EngineSession | None = None
    callee: EngineSession | None = None
    settle: Settle | None = None
    traceparent: str | None = None
    baggage: str | None = None
    span: EngineSpan | None = None
    """When the engine itself executes it."""
    lineage: dict[str, Any] | None = None
    """Who calls: ``caller`` of the message to the callee (§5.3)."""
    depth: int = 0
    """Observers that have led to it (§16.6)."""
    activation: dict[str, Any] | None = None
    watch: Watch | None = None
    """Set when somebody observes the function."""
    on_close: Callable[[], None] | None = None


def unsendable(error: EncodeError | PayloadTooLargeError) -> dict[str, Any]:
    """The error body for a message that cannot be sent."""
    if isinstance(error, PayloadTooLargeError):
        return to_body(error)
    return {"code": "serialization_error", "message": str(error)}


class Answers:
    """Every open invocation by id.

    Args:
        watching: Told when a watched invocation is over.
        telemetry: Closes spans.
        send: Sends to a worker; raises what cannot be sent.
        try_send: The same; logs what cannot be sent.
        max_in_flight: Invocations one callee may have that nobody waits for.
    """

    def __init__(
        self,
        watching: Watching,
        telemetry: Telemetry,
        send: Callable[[EngineSession, Message], bool],
        try_send: Callable[[EngineSession, Message], bool],
        *,
        max_in_flight: int,
    ) -> None:
        self._watching = watching
        self._telemetry = telemetry
        self._send = send
        self._try_send = try_send
        self._max_in_flight = max_in_flight
        self.open: dict[str, Invocation] = {}
        """By id."""

    # -- what is open --------------------------------------------------------------------------------------------

    def is_open(self, invocation: Invocation) -> bool:
        """Whether its answer is still to come."""
        return self.open.get(invocation.id) is invocation

    def keep(self, invocation: Invocation, callee: EngineSession | None) -> None:
        """Open an invocation. ``callee`` is None where the engine itself runs it."""
        invocation.callee = callee
        self.open[invocation.id] = invocation
        if callee is not None:
            callee.executing[invocation.id] = None
        if invocation.caller is not None:
            invocation.caller.calls[invocation.id] = None

    def close(self, invocation: Invocation) -> None:
        """Forget an open invocation."""
        del self.open[invocation.id]
        if invocation.caller is not None:
            del invocation.caller.calls[invocation.id]
        if invocation.callee is not None:
            del invocation.callee.executing[invocation.id]
        if invocation.on_close is not None:
            invocation.on_close()

    def end_span(self, invocation: Invocation, error: str | None) -> None:
        """Note in the traces that the engine has executed it."""
        span, invocation.span = invocation.span, None
        if span is not None:
            self._telemetry.close_call(span, error)

    def release(self, session: EngineSession) -> None:
        """End every invocation a lost connection takes part in (§7.5, P-123)."""
        for invocation_id in list(session.calls):
            invocation = self.open[invocation_id]
            if invocation.watch is not None and self._may_outlive(invocation):
                del session.calls[invocation_id]  # its observers still want to know what it comes to
                invocation.caller = invocation.settle = None
                continue
            self.close(invocation)
            self.end_span(invocation, "the caller has left")
        for invocation_id in list(session.executing):
            invocation = self.open[invocation_id]
            self.close(invocation)
            self.deliver(invocation, None, {"code": "invocation_stopped", "message": "Invocation stopped"})

    def _may_outlive(self, invocation: Invocation) -> bool:
        """Whether the engine keeps an invocation whose caller has left; their number is bounded by the callee's."""
        callee = invocation.callee
        return callee is None or (callee is not invocation.caller and len(callee.executing) < self._max_in_flight)

    # -- what callees say ----------------------------------------------------------------------------------------

    def result(self, session: EngineSession, message: InvocationResult) -> None:
        """Take a callee's answer. Unknown ids are ignored, and so are answers for somebody else's call (P-125)."""
        invocation = self._find(session, message.invocation_id)
        if invocation is None:
            return
        error = None
        if has_error(message.error):
            error = error_body(message.error)
            if error["code"] == "UNKNOWN":
                logger.warning(
                    "worker %s answered %s with an error that has no code; upstream would drop the message",
                    session.label,
                    shorten(invocation.function_id),
                )
        self.close(invocation)
        self.deliver(invocation, message.result, error)

    def undecodable(self, session: EngineSession, text: bytes, reason: str) -> None:
        """Answer a call, or settle an invocation, whose message cannot be decoded, when its id can be read.

        Upstream drops such a message, and somebody waits until a timeout (G-2).
        """
        kind, invocation_id, function_id, is_void = salvage(text)
        if invocation_id is None:
            return
        if kind == InvokeFunction.type and not is_void:
            problem = f"the engine cannot read this message, upstream's would drop it: {reason}"
            message = InvokeFunction(function_id, None)
            if is_uuid(invocation_id):
                invocation_id = canonical_uuid(invocation_id)
            self.refuse(session, message, invocation_id, INVALID_MESSAGE, problem)
        elif kind == InvocationResult.type and (invocation := self._find(session, invocation_id)) is not None:
            problem = f"the engine cannot read the answer of worker {session.label}: {reason}"
            self.close(invocation)
            self.deliver(invocation, None, {"code": INVALID_MESSAGE, "message": problem})

    def _find(self, session: EngineSession, invocation_id: str) -> Invocation | None:
        invocation = self.open.get(invocation_id)
        if invocation is None and is_uuid(invocation_id):
            invocation = self.open.get(canonical_uuid(invocation_id))
        if invocation is None or invocation.callee is not session:
            logger.debug("worker %s answered %s, which is not open", session.label, shorten(invocation_id))
            return None
        return invocation

    # -- what callers are told -----------------------------------------------------------------------------------

    def deliver(self, invocation: Invocation, result: Any, error: dict[str, Any] | None) -> None:
        """Give an outcome to whoever waits for it, then to the observers. The invocation has been closed."""
        if invocation.span is not None:
            self.end_span(invocation, None if error is None else error["message"])
        if invocation.settle is not None:
            invocation.settle(result, error)
        elif invocation.caller is not None:
            self.answer(invocation.caller, invocation, invocation.id, result, error)
        if invocation.watch is not None:
            self._watching.end(invocation, result, error)

    def refuse(
        self, session: EngineSession, message: InvokeFunction, reply_id: str | None, code: str, problem: str
    ) -> None:
        """Answer a call with an error, or log it when nobody waits for an answer."""
        if reply_id is not None:
            self.answer(session, message, reply_id, None, {"code": code, "message": problem})
        else:  # nothing on the wire says so, which is how mistakes stay hidden
            what = f"call of {shorten(message.function_id)} without reply"
            logger.warning("%s by worker %s failed: %s: %s", what, session.label, code, shorten(problem))

    def answer(
        self,
        session: EngineSession,
        call: InvokeFunction | Invocation,
        invocation_id: str,
        result: Any,
        error: dict[str, Any] | None = None,
    ) -> None:
        """Answer the caller, with its own trace context (§5.4, P-120); a null result is left out, as upstream does."""
        if error is not None:
            message = InvocationResult(invocation_id, call.function_id, error=error)
        else:
            message = InvocationResult(invocation_id, call.function_id, ABSENT if result is None else result)
        message.traceparent, message.baggage = call.traceparent, call.baggage
        try:
            self._send(session, message)
        except (EncodeError, PayloadTooLargeError) as failure:
            function_id = call.function_id[:MAX_ECHO]  # it may be the id that is too large
            self._try_send(session, InvocationResult(invocation_id, function_id, error=unsendable(failure)))
