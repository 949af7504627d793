"""Calls from one connection to a function of another or of the engine, from the call to its one answer (§7).

Below: ``_functions`` finds the function. Above: ``_router``, which gives the function that sends.

An invocation is open from the moment it is forwarded until the callee answers, the callee leaves
(``invocation_stopped``), or the caller leaves (forgotten; the callee is told nothing). There is no time limit (P-124).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import quote

from .._protocol.codec import canonical_uuid, is_uuid
from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import ABSENT, InvocationResult, InvokeFunction, Message
from ..errors import EncodeError, InvocationError, PayloadTooLargeError
from ._activations import Event, Watch, stamped_caller
from ._builtin import OBSERVABILITY, Builtin, Deferred
from ._errors import INVALID_MESSAGE, error_body, has_error, shorten, to_body
from ._observer_owners import knows_observers
from ._salvage import salvage
from ._telemetry import EngineSpan

if TYPE_CHECKING:
    from ._functions import Endpoint, Function, FunctionTable
    from ._guard import Guard
    from ._observers import Observers
    from ._telemetry import Telemetry

__all__ = ("Invocations", "name_in_baggage")

logger = logging.getLogger(__name__)

ENQUEUE: Final = "engine::queue::enqueue"
CALLER_KEY: Final = "_caller_worker_id"
MAX_ECHO: Final = 1000
BAGGAGE_KEY: Final = "iii.function.id"
_BAGGAGE_SAFE: Final = "!#$&'()*+-./:<=>?@[]^_`{|}~"
_NO_QUEUE: Final = (
    "No queue provider is installed. `TriggerAction::Enqueue` routes through the `engine::queue::enqueue` provider, "
    "which the standalone queue worker registers. Add it with `iii worker add queue`. (underlying: "
)

Settle: TypeAlias = "Callable[[Any, dict[str, Any] | None], None]"
"""Takes the result, or the error body, of an invocation that the engine made itself."""


@dataclass(slots=True, eq=False)
class Invocation:
    """One open invocation. Without caller and ``settle`` nobody waits for the answer."""

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


def name_in_baggage(baggage: str | None, function_id: str) -> str:
    """Rewrite baggage so that ``iii.function.id`` names the function invoked, keeping other entries (§7.6)."""
    entries = [] if baggage is None else [entry.strip() for entry in baggage.split(",")]
    kept = [entry for entry in entries if entry and entry.partition("=")[0].strip() != BAGGAGE_KEY]
    return ",".join([*kept, f"{BAGGAGE_KEY}={quote(function_id, safe=_BAGGAGE_SAFE, errors='replace')}"])


class Invocations:
    """Every open invocation by id, and the way of each message about them."""

    def __init__(
        self,
        functions: FunctionTable,
        send: Callable[[EngineSession, Message], bool],
        try_send: Callable[[EngineSession, Message], bool],
        *,
        new_id: Callable[[], str],
        inject_caller_id: bool,
        max_in_flight: int,
        telemetry: Telemetry,
        observers: Observers,
        now_ms: Callable[[], int],
    ) -> None:
        self._functions = functions
        self._observers = observers
        self._now_ms = now_ms
        self._telemetry = telemetry
        self._send = send
        self._try_send = try_send
        self._new_id = new_id
        self._inject_caller_id = inject_caller_id
        self._max_in_flight = max_in_flight
        self._open: dict[str, Invocation] = {}
        self.guards: dict[EngineSession, Guard] = {}
        """Of the connections that came in by a guarded listener."""
        self.running: InvokeFunction | None = None
        """The call whose built-in function is being executed."""

    def __len__(self) -> int:
        return len(self._open)

    # -- calls ---------------------------------------------------------------------------------------------------

    def invoke(self, session: EngineSession, message: InvokeFunction) -> None:
        """Route a worker's call (§7.1)."""
        kind = None if message.action is None else message.action["type"]
        wanted_id = message.invocation_id
        reply_id = wanted_id if kind != "void" else None  # void is never answered, even with an id (§7.1, P-121)
        if wanted_id is not None:
            if not is_uuid(wanted_id):
                problem = f"invocation_id {shorten(wanted_id)} is not a UUID"
                self.refuse(session, message, reply_id, INVALID_MESSAGE, problem)
                return
            wanted_id = canonical_uuid(wanted_id)  # echoed in this form (§4.2, G-19)
            reply_id = wanted_id if reply_id is not None else None
        namespace = DEFAULT_NAMESPACE if message.namespace is None else message.namespace
        if not namespace.strip():
            self.refuse(session, message, reply_id, "INVALID_NAMESPACE", "namespace must not be blank")
            return
        if reply_id is not None and len(session.calls) >= self._max_in_flight:
            problem = f"this worker has {len(session.calls)} calls in flight, the engine takes no more"
            self.refuse(session, message, reply_id, "invocation_error", problem)
            return
        if message.activation is not None and kind != "enqueue" and reply_id not in self._open:
            # An owner's call: its target is the observer's, and whether that is allowed was decided there (§16.7).
            self._observers.call(session, str(message.activation.get("observer_id")), message, reply_id)
            return
        guard = self.guards.get(session)
        if guard is not None and guard.intercept(message, reply_id, namespace):
            return
        if kind == "enqueue":
            self._enqueue(session, message, reply_id, namespace)
            return
        function = self._functions.get(namespace, message.function_id)
        if function is None:
            problem = self._functions.not_found(namespace, message.function_id)
            self.refuse(session, message, reply_id, "function_not_found", problem)
        elif reply_id is not None and reply_id in self._open:
            problem = f"invocation_id {reply_id} is that of another call in flight; give each call a fresh UUID"
            self.refuse(session, message, reply_id, "invocation_error", problem)
        elif function.builtin is not None:
            self._run(session, function, function.builtin, message, reply_id)
        elif function.endpoint is not None:
            self._fetch(session, function, function.endpoint, message, reply_id)
        else:
            if wanted_id is None or wanted_id in self._open:
                wanted_id = self._new_id()  # the callee always gets an id (P-118, G-3)
            data = self._with_caller(session, message.data)
            caller = session if reply_id is not None else None
            invocation = Invocation(
                wanted_id, message.function_id, caller, None, None, message.traceparent, message.baggage
            )
            self._trace_back(session, invocation, message)
            self._watch(function, invocation, message.data, message.metadata)
            try:
                self._forward(function, invocation, data, message.metadata)
            except (EncodeError, PayloadTooLargeError) as error:
                body = _unsendable(error)
                self.refuse(session, message, reply_id, body["code"], body["message"])

    def fire(self, namespace: str, function_id: str, data: Any, metadata: Any) -> None:
        """Call a function on behalf of the engine itself, without interest in what it comes to (T-15, E-51)."""
        function = self._functions.get(namespace, function_id)
        if function is None:
            problem = self._functions.not_found(namespace, function_id)
            _settle(None, function_id, {"code": "function_not_found", "message": problem})
        else:
            self._call(function, Invocation(self._new_id(), function_id), data, metadata)

    def ask(self, namespace: str, function_id: str, data: Any, settle: Settle) -> Invocation:
        """Call a function on behalf of the engine itself; ``settle`` gets the answer, perhaps at once (§6.2, §6.5)."""
        invocation = Invocation(self._new_id(), function_id, settle=settle)
        function = self._functions.get(namespace, function_id)
        if function is None:
            problem = self._functions.not_found(namespace, function_id)
            settle(None, {"code": "function_not_found", "message": problem})
        else:
            self._call(function, invocation, data)
        return invocation

    def abandon(self, invocation: Invocation) -> None:
        """Forget a call made by ``ask``; nothing if it is over. The callee is told nothing (§7.5)."""
        if self._open.get(invocation.id) is invocation:
            self._close(invocation)

    def redirect(
        self,
        session: EngineSession,
        message: InvokeFunction,
        reply_id: str | None,
        namespace: str,
        function_id: str,
        data: Any,
    ) -> None:
        """Give a worker's call to another function, whose answer is the caller's (RB-24 to RB-27)."""
        answer_id = reply_id if reply_id is not None else self._new_id()  # void calls are answered as well (G-12)
        function = self._functions.get(namespace, function_id)
        if function is None:
            problem = self._functions.not_found(namespace, function_id)
            self.refuse(session, message, answer_id, "function_not_found", problem)
            return
        if len(session.calls) >= self._max_in_flight:  # void calls count, for they wait for an answer here
            problem = f"this worker has {len(session.calls)} calls in flight, the engine takes no more"
            self.refuse(session, message, answer_id, "invocation_error", problem)
            return

        def settle(result: Any, error: dict[str, Any] | None) -> None:
            self._answer(session, message, answer_id, result, error)

        invocation = Invocation(
            self._new_id(), function_id, session, None, settle, message.traceparent, message.baggage
        )
        self._trace_back(session, invocation, message)
        self._call(function, invocation, data, message.metadata)

    def activate(
        self,
        function: Function,
        data: Any,
        metadata: Any,
        lineage: dict[str, Any],
        depth: int,
        activation: dict[str, Any],
        trace: tuple[str | None, str | None],
        on_close: Callable[[], None] | None,
    ) -> bool:
        """Call the target of an observer on behalf of the engine; False when the call cannot be sent (§16.6).

        ``on_close`` is called when it is over, whatever it has come to, unless False is returned.
        """
        invocation = Invocation(self._new_id(), function.id, None, None, None, *trace)
        invocation.lineage, invocation.depth, invocation.activation = lineage, depth, activation
        invocation.on_close = on_close
        return self._call(function, invocation, data, metadata)

    def relay(
        self,
        session: EngineSession,
        message: InvokeFunction,
        reply_id: str | None,
        function: Function,
        metadata: Any,
        lineage: dict[str, Any],
        depth: int,
        activation: dict[str, Any],
        on_close: Callable[[], None] | None,
    ) -> bool:
        """Call the target of an observer on behalf of an owner, who gets the answer (§16.7); else as ``activate``."""
        invocation = Invocation(
            reply_id if reply_id is not None else self._new_id(),
            message.function_id,
            session if reply_id is not None else None,
            traceparent=message.traceparent,
            baggage=message.baggage,
        )
        invocation.lineage, invocation.depth, invocation.activation = lineage, depth, activation
        invocation.on_close = on_close
        if function.endpoint is None:
            self._watch(function, invocation, message.data, metadata)
            try:
                self._forward(function, invocation, message.data, metadata)
            except (EncodeError, PayloadTooLargeError) as error:
                body = _unsendable(error)
                self.refuse(session, message, reply_id, body["code"], body["message"])
                return False
            return True
        return self._call(function, invocation, message.data, metadata)

    def run_void(self, session: EngineSession, builtin: Builtin, message: InvokeFunction) -> None:
        """Run a function of the engine on behalf of a worker, who does not wait for it."""
        function = self._functions.get(DEFAULT_NAMESPACE, builtin.id)
        if function is not None:
            self._run(session, function, builtin, message, None)

    def _trace_back(self, session: EngineSession, invocation: Invocation, message: InvokeFunction) -> None:
        invocation.lineage, invocation.depth = stamped_caller(session, message.caller), message.observe_depth or 0

    # -- what is observed ----------------------------------------------------------------------------------------

    def _watch(self, function: Function, invocation: Invocation, data: Any, metadata: Any) -> None:
        observers = self._observers.watching(function)
        if observers:
            parts: dict[str, Any] = {"input": data}
            if invocation.lineage is not None:
                parts["caller"] = invocation.lineage
            if metadata is not ABSENT and metadata is not None:
                parts["metadata"] = metadata
            key = function.namespace, function.id
            invocation.watch = Watch(observers, key, parts, self._now_ms(), self._telemetry.now_ns())

    def _tell_observers(self, invocation: Invocation, result: Any, error: dict[str, Any] | None) -> None:
        """An invocation that was watched is over; its caller has been answered."""
        watch, invocation.watch = invocation.watch, None
        if watch is None:
            return
        parts, milliseconds = watch.ended(result, error, self._telemetry.now_ns())
        namespace, function_id = watch.key
        event = Event(
            function_id,
            namespace,
            invocation.id or self._new_id(),
            parts,
            error is None,
            watch.started_at_ms,
            milliseconds,
            invocation.depth,
            invocation.traceparent,
            invocation.baggage,
        )
        self._observers.finished(watch, event)

    def _call(self, function: Function, invocation: Invocation, data: Any, metadata: Any = ABSENT) -> bool:
        """Begin a call; False when it cannot begin, which ``settle`` or the log says."""
        if function.owner is None:
            problem = f"{function.id} cannot be called by the engine itself: no worker runs it"
            _settle(invocation.settle, function.id, {"code": "function_not_invokable", "message": problem})
            return False
        self._watch(function, invocation, data, metadata)
        if function.endpoint is not None:
            self._track(invocation, None)
            function.endpoint(data).listen(lambda result, error: self._fetched(invocation, result, error))
            return True
        try:
            self._forward(function, invocation, data, metadata)
        except (EncodeError, PayloadTooLargeError) as error:
            _settle(invocation.settle, function.id, _unsendable(error))
            return False
        return True

    def _forward(self, function: Function, invocation: Invocation, data: Any, metadata: Any) -> None:
        callee = function.owner
        assert callee is not None
        traceparent, baggage = invocation.traceparent, invocation.baggage
        if callee.is_in_process:
            invocation.span = self._telemetry.open_call(function.id, traceparent)
            traceparent = invocation.span.traceparent or traceparent  # §7.6
        else:
            self._telemetry.call_forwarded(function.id)
        is_fire = invocation.caller is not None and invocation.caller.is_in_process
        # §7.6: nothing is forwarded when neither is known. The recorded fires of built-ins carry no baggage.
        if baggage is not None or (traceparent is not None and not is_fire):
            baggage = name_in_baggage(baggage, function.id)
        if metadata is None:
            metadata = ABSENT  # null is none (§4.1)
        guard = self.guards.get(callee)
        called = function.id if guard is None else guard.own_id(function.id)  # without prefix (RB-23)
        message = InvokeFunction(called, data, invocation.id, metadata, traceparent, baggage)
        if knows_observers(callee):  # §16.1
            message.caller, message.observe_depth = invocation.lineage, invocation.depth or None
            message.activation = invocation.activation
        self._send(callee, message)
        is_awaited = invocation.caller is not None or invocation.settle is not None or invocation.on_close is not None
        if is_awaited or len(callee.executing) < self._max_in_flight:  # void calls a worker never answers pile up
            self._track(invocation, callee)

    def _track(self, invocation: Invocation, callee: EngineSession | None) -> None:
        invocation.callee = callee
        self._open[invocation.id] = invocation
        if callee is not None:
            callee.executing[invocation.id] = None
        if invocation.caller is not None:
            invocation.caller.calls[invocation.id] = None

    def _enqueue(self, session: EngineSession, message: InvokeFunction, reply_id: str | None, namespace: str) -> None:
        """Hand a call to the queue provider and answer with a receipt (§7.4, Q-5 to Q-12)."""
        function = self._functions.get(DEFAULT_NAMESPACE, ENQUEUE)
        if function is None:
            underlying = self._functions.not_found(DEFAULT_NAMESPACE, ENQUEUE)
            self.refuse(session, message, reply_id, "enqueue_error", f"{_NO_QUEUE}{underlying.rstrip('.')})")
            return
        receipt_id = self._new_id()
        job: dict[str, Any] = {
            "queue": (message.action or {})["queue"],
            "function_id": message.function_id,  # not checked
            "data": message.data,
            "messageReceiptId": receipt_id,
            "traceparent": message.traceparent,
            "baggage": name_in_baggage(message.baggage, message.function_id),
        }
        if namespace != DEFAULT_NAMESPACE:
            job["namespace"] = namespace

        def settle(_result: Any, error: dict[str, Any] | None) -> None:
            if error is not None:
                problem = f"{error['code']}: {error['message']}"
                self.refuse(session, message, reply_id, "enqueue_error", problem)
            elif reply_id is not None:
                self._answer(session, message, reply_id, {"messageReceiptId": receipt_id})

        invocation = Invocation(
            self._new_id(),
            ENQUEUE,
            session if reply_id is not None else None,
            None,
            settle,
            message.traceparent,
            message.baggage,
        )
        self._call(function, invocation, job)

    def _with_caller(self, session: EngineSession, data: Any) -> Any:
        """Name the calling worker in object data (C-4, T-15, P-119)."""
        if self._inject_caller_id and not session.is_in_process and isinstance(data, dict):
            return cast("dict[str, Any]", data) | {CALLER_KEY: session.worker_id}
        return data

    def _fetch(
        self,
        session: EngineSession,
        function: Function,
        endpoint: Endpoint,
        message: InvokeFunction,
        reply_id: str | None,
    ) -> None:
        """Call an external HTTP function. It runs to its end, also without its caller (§7.5, §10)."""
        invocation = Invocation(
            reply_id if reply_id is not None else self._new_id(),
            message.function_id,
            session if reply_id is not None else None,
            traceparent=message.traceparent,
            baggage=message.baggage,
        )
        self._trace_back(session, invocation, message)
        self._watch(function, invocation, message.data, message.metadata)
        self._track(invocation, None)
        data = self._with_caller(session, message.data)
        endpoint(data).listen(lambda result, error: self._fetched(invocation, result, error))

    def _fetched(self, invocation: Invocation, result: Any, error: InvocationError | None) -> None:
        if self._open.get(invocation.id) is not invocation:
            return  # the caller has left
        self._close(invocation)
        if error is not None and invocation.settle is None and invocation.caller is None:
            _settle(None, invocation.function_id, to_body(error))
        self._deliver(invocation, result, None if error is None else to_body(error))

    def _run(
        self,
        session: EngineSession,
        function: Function,
        builtin: Builtin,
        message: InvokeFunction,
        reply_id: str | None,
    ) -> None:
        """Run a function of the engine itself; it may answer later."""
        invocation = Invocation(reply_id or "", builtin.id, session)
        self._trace_back(session, invocation, message)
        self._watch(function, invocation, message.data, message.metadata)
        if reply_id is not None:
            self._track(invocation, None)
        if builtin.worker_name != OBSERVABILITY:  # which never shows up in what it shows (§5.3)
            invocation.span = self._telemetry.open_call(builtin.id, message.traceparent)
        outcome = Deferred()
        self.running = message
        try:
            result = builtin(session, message.data)
        except InvocationError as error:
            outcome.settle(error=error)
        except Exception:  # the boundary of a handler: one broken function must not end the engine
            logger.exception("built-in function %s failed", builtin.id)
            problem = f"{builtin.id} failed inside the engine; its log says how"
            outcome.settle(error=InvocationError("invocation_failed", problem))
        else:
            if isinstance(result, Deferred):
                outcome = result
            else:
                outcome.settle(result)
        finally:
            self.running = None

        def settled(result: Any, error: InvocationError | None) -> None:
            self._end_span(invocation, None if error is None else error.message)
            if reply_id is not None:
                if self._open.get(reply_id) is not invocation:
                    return  # the caller has left
                self._close(invocation)
            if error is not None:
                self.refuse(session, message, reply_id, error.code, error.message)
            elif reply_id is not None:
                self._answer(session, message, reply_id, result)
            self._tell_observers(invocation, result, None if error is None else to_body(error))

        outcome.listen(settled)

    # -- answers -------------------------------------------------------------------------------------------------

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
        self._close(invocation)
        self._deliver(invocation, message.result, error)

    def _find(self, session: EngineSession, invocation_id: str) -> Invocation | None:
        invocation = self._open.get(invocation_id)
        if invocation is None and is_uuid(invocation_id):
            invocation = self._open.get(canonical_uuid(invocation_id))
        if invocation is None or invocation.callee is not session:
            logger.debug("worker %s answered %s, which is not open", session.label, shorten(invocation_id))
            return None
        return invocation

    def release(self, session: EngineSession) -> None:
        """End every invocation a lost connection takes part in (§7.5, P-123)."""
        for invocation_id in list(session.calls):
            invocation = self._open[invocation_id]
            if invocation.watch is not None and self._may_outlive(invocation):
                del session.calls[invocation_id]  # its observers still want to know what it comes to
                invocation.caller = invocation.settle = None
                continue
            self._close(invocation)
            self._end_span(invocation, "the caller has left")
        for invocation_id in list(session.executing):
            invocation = self._open[invocation_id]
            self._close(invocation)
            self._deliver(invocation, None, {"code": "invocation_stopped", "message": "Invocation stopped"})

    def _may_outlive(self, invocation: Invocation) -> bool:
        """Whether the engine keeps an invocation whose caller has left; their number is bounded by the callee's."""
        callee = invocation.callee
        return callee is None or (callee is not invocation.caller and len(callee.executing) < self._max_in_flight)

    def _close(self, invocation: Invocation) -> None:
        del self._open[invocation.id]
        if invocation.caller is not None:
            del invocation.caller.calls[invocation.id]
        if invocation.callee is not None:
            del invocation.callee.executing[invocation.id]
        if invocation.on_close is not None:
            invocation.on_close()

    def _end_span(self, invocation: Invocation, error: str | None) -> None:
        span, invocation.span = invocation.span, None
        if span is not None:
            self._telemetry.close_call(span, error)

    def _deliver(self, invocation: Invocation, result: Any, error: dict[str, Any] | None) -> None:
        self._end_span(invocation, None if error is None else error["message"])
        if invocation.settle is not None:
            invocation.settle(result, error)
        elif invocation.caller is not None:
            self._answer(invocation.caller, invocation, invocation.id, result, error)
        self._tell_observers(invocation, result, error)

    def refuse(
        self, session: EngineSession, message: InvokeFunction, reply_id: str | None, code: str, problem: str
    ) -> None:
        """Answer a call with an error, or log it when nobody waits for an answer."""
        if reply_id is not None:
            self._answer(session, message, reply_id, None, {"code": code, "message": problem})
        else:  # nothing on the wire says so, which is how mistakes stay hidden
            what = f"call of {shorten(message.function_id)} without reply"
            logger.warning("%s by worker %s failed: %s: %s", what, session.label, code, shorten(problem))

    def _answer(
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
            self._try_send(session, InvocationResult(invocation_id, function_id, error=_unsendable(failure)))

    # -- what cannot be decoded ----------------------------------------------------------------------------------

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
            self._close(invocation)
            self._deliver(invocation, None, {"code": INVALID_MESSAGE, "message": problem})


def _settle(settle: Settle | None, function_id: str, error: dict[str, Any]) -> None:
    if settle is not None:
        settle(None, error)
    else:
        problem = f"{error['code']}: {error['message']}"
        logger.warning("the engine could not call %s: %s", shorten(function_id), shorten(problem))


def _unsendable(error: EncodeError | PayloadTooLargeError) -> dict[str, Any]:
    if isinstance(error, PayloadTooLargeError):
        return to_body(error)
    return {"code": "serialization_error", "message": str(error)}
