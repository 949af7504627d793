"""Which way a worker's call takes: to another worker, a URL, the queue, a function of the engine, or a refusal (§7.1).

Below: ``_functions`` finds the function, ``_forwarding`` takes the call to its callee, ``_answers`` brings the answer.
Above: ``_router`` hands over the messages; a guard may step in between (``Guard.intercept``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from .._protocol.codec import canonical_uuid, is_uuid
from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from ..errors import EncodeError, InvocationError, PayloadTooLargeError
from ._activations import stamped_caller
from ._answers import Answers, Invocation, unsendable
from ._builtin import OBSERVABILITY, Builtin, Deferred
from ._errors import INVALID_MESSAGE, shorten, to_body
from ._forwarding import Forwarding, name_in_baggage

if TYPE_CHECKING:
    from .._protocol.messages import InvokeFunction
    from ._functions import Function, FunctionTable
    from ._guard import Guard
    from ._observers import Observers
    from ._telemetry import Telemetry
    from ._watching import Watching

__all__ = ("Invocations",)

logger = logging.getLogger(__name__)

ENQUEUE: Final = "engine::queue::enqueue"
CALLER_KEY: Final = "_caller_worker_id"
_NO_QUEUE: Final = (
    "No queue provider is installed. `TriggerAction::Enqueue` routes through the `engine::queue::enqueue` provider, "
    "which the standalone queue worker registers. Add it with `iii worker add queue`. (underlying: "
)


class Invocations:
    """Routes the calls of workers.

    Args:
        functions: Where functions are found.
        guards: Of the connections of guarded listeners.
        answers: Keeps what is open; refuses.
        forwarding: Takes calls to their callees.
        watching: Looks whether a function is observed.
        observers: Route what owners call.
        telemetry: Opens the spans of the engine's own functions.
        new_id: Makes ids of invocations.
        inject_caller_id: Put ``_caller_worker_id`` into object data.
        max_in_flight: Calls one connection may have open.
    """

    def __init__(
        self,
        functions: FunctionTable,
        guards: dict[EngineSession, Guard],
        answers: Answers,
        forwarding: Forwarding,
        watching: Watching,
        observers: Observers,
        telemetry: Telemetry,
        *,
        new_id: Callable[[], str],
        inject_caller_id: bool,
        max_in_flight: int,
    ) -> None:
        self._functions = functions
        self._guards = guards
        self._answers = answers
        self._forwarding = forwarding
        self._watching = watching
        self._observers = observers
        self._telemetry = telemetry
        self._new_id = new_id
        self._inject_caller_id = inject_caller_id
        self._max_in_flight = max_in_flight
        self.running: InvokeFunction | None = None
        """The call whose built-in function is being executed."""

    def invoke(self, session: EngineSession, message: InvokeFunction) -> None:
        """Route a worker's call (§7.1)."""
        kind = None if message.action is None else message.action["type"]
        wanted_id = message.invocation_id
        reply_id = wanted_id if kind != "void" else None  # void is never answered, even with an id (§7.1, P-121)
        refuse = self._answers.refuse
        if wanted_id is not None:
            if not is_uuid(wanted_id):
                problem = f"invocation_id {shorten(wanted_id)} is not a UUID"
                refuse(session, message, reply_id, INVALID_MESSAGE, problem)
                return
            wanted_id = canonical_uuid(wanted_id)  # echoed in this form (§4.2, G-19)
            reply_id = wanted_id if reply_id is not None else None
        namespace = DEFAULT_NAMESPACE if message.namespace is None else message.namespace
        if not namespace.strip():
            refuse(session, message, reply_id, "INVALID_NAMESPACE", "namespace must not be blank")
            return
        if reply_id is not None and len(session.calls) >= self._max_in_flight:
            self._refuse_more(session, message, reply_id)
            return
        if message.activation is not None and kind != "enqueue" and reply_id not in self._answers.open:
            # An owner's call: its target is the observer's, and whether that is allowed was decided there (§16.7).
            self._observers.call(session, str(message.activation.get("observer_id")), message, reply_id)
            return
        guard = self._guards.get(session)
        if guard is not None and guard.intercept(message, reply_id, namespace):
            return
        if kind == "enqueue":
            self._enqueue(session, message, reply_id, namespace)
            return
        function = self._functions.get(namespace, message.function_id)
        if function is None:
            problem = self._functions.not_found(namespace, message.function_id)
            refuse(session, message, reply_id, "function_not_found", problem)
        elif reply_id is not None and reply_id in self._answers.open:
            problem = f"invocation_id {reply_id} is that of another call in flight; give each call a fresh UUID"
            refuse(session, message, reply_id, "invocation_error", problem)
        elif function.builtin is not None:
            self._run(session, function, function.builtin, message, reply_id)
        elif function.endpoint is not None:
            invocation = self._begin(session, message, reply_id)
            self._trace_back(session, invocation, message)
            self._watching.begin(function, invocation, message.data, message.metadata)
            self._forwarding.fetch(function.endpoint, invocation, self._with_caller(session, message.data))
        else:
            if wanted_id is None or wanted_id in self._answers.open:
                wanted_id = self._new_id()  # the callee always gets an id (P-118, G-3)
            caller = session if reply_id is not None else None
            invocation = Invocation(
                wanted_id, message.function_id, caller, None, None, message.traceparent, message.baggage
            )
            self._trace_back(session, invocation, message)
            self._watching.begin(function, invocation, message.data, message.metadata)
            data = self._with_caller(session, message.data)
            self._forward(session, message, reply_id, function, invocation, data, message.metadata)

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
            self._answers.refuse(session, message, answer_id, "function_not_found", problem)
            return
        if len(session.calls) >= self._max_in_flight:  # void calls count, for they wait for an answer here
            self._refuse_more(session, message, answer_id)
            return

        def settle(result: Any, error: dict[str, Any] | None) -> None:
            self._answers.answer(session, message, answer_id, result, error)

        invocation = Invocation(
            self._new_id(), function_id, session, None, settle, message.traceparent, message.baggage
        )
        self._trace_back(session, invocation, message)
        self._forwarding.call(function, invocation, data, message.metadata)

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
        """Call the target of an observer for an owner, who gets the answer; False if it cannot be sent (§16.7).

        ``on_close`` is called when it is over, whatever it has come to, unless False is returned.
        """
        invocation = self._begin(session, message, reply_id)
        invocation.lineage, invocation.depth, invocation.activation = lineage, depth, activation
        invocation.on_close = on_close
        if function.endpoint is not None:
            return self._forwarding.call(function, invocation, message.data, metadata)
        self._watching.begin(function, invocation, message.data, metadata)
        return self._forward(session, message, reply_id, function, invocation, message.data, metadata)

    def run_void(self, session: EngineSession, builtin: Builtin, message: InvokeFunction) -> None:
        """Run a function of the engine on behalf of a worker, who does not wait for it."""
        function = self._functions.get(DEFAULT_NAMESPACE, builtin.id)
        if function is not None:
            self._run(session, function, builtin, message, None)

    # -- each way ------------------------------------------------------------------------------------------------

    def _forward(
        self,
        session: EngineSession,
        message: InvokeFunction,
        reply_id: str | None,
        function: Function,
        invocation: Invocation,
        data: Any,
        metadata: Any,
    ) -> bool:
        """To the worker that owns the function; False, and the caller has been told, when it cannot be sent."""
        try:
            self._forwarding.forward(function, invocation, data, metadata)
        except (EncodeError, PayloadTooLargeError) as error:
            body = unsendable(error)
            self._answers.refuse(session, message, reply_id, body["code"], body["message"])
            return False
        return True

    def _enqueue(self, session: EngineSession, message: InvokeFunction, reply_id: str | None, namespace: str) -> None:
        """To the queue provider, and answer with a receipt (§7.4, Q-5 to Q-12)."""
        refuse = self._answers.refuse
        function = self._functions.get(DEFAULT_NAMESPACE, ENQUEUE)
        if function is None:
            underlying = self._functions.not_found(DEFAULT_NAMESPACE, ENQUEUE)
            refuse(session, message, reply_id, "enqueue_error", f"{_NO_QUEUE}{underlying.rstrip('.')})")
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
                refuse(session, message, reply_id, "enqueue_error", problem)
            elif reply_id is not None:
                self._answers.answer(session, message, reply_id, {"messageReceiptId": receipt_id})

        caller = session if reply_id is not None else None
        invocation = Invocation(self._new_id(), ENQUEUE, caller, None, settle, message.traceparent, message.baggage)
        self._forwarding.call(function, invocation, job)

    def _run(
        self,
        session: EngineSession,
        function: Function,
        builtin: Builtin,
        message: InvokeFunction,
        reply_id: str | None,
    ) -> None:
        """To a function of the engine itself; it may answer later."""
        invocation = Invocation(reply_id or "", builtin.id, session)
        self._trace_back(session, invocation, message)
        self._watching.begin(function, invocation, message.data, message.metadata)
        answers = self._answers
        if reply_id is not None:
            answers.keep(invocation, None)
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
            answers.end_span(invocation, None if error is None else error.message)
            if reply_id is not None:
                if not answers.is_open(invocation):
                    return  # the caller has left
                answers.close(invocation)
            if error is not None:
                answers.refuse(session, message, reply_id, error.code, error.message)
            elif reply_id is not None:
                answers.answer(session, message, reply_id, result)
            self._watching.end(invocation, result, None if error is None else to_body(error))

        outcome.listen(settled)

    # -- what they share -----------------------------------------------------------------------------------------

    def _begin(self, session: EngineSession, message: InvokeFunction, reply_id: str | None) -> Invocation:
        """An invocation under the caller's id, if it waits for the answer."""
        invocation_id, caller = (self._new_id(), None) if reply_id is None else (reply_id, session)
        return Invocation(invocation_id, message.function_id, caller, None, None, message.traceparent, message.baggage)

    def _trace_back(self, session: EngineSession, invocation: Invocation, message: InvokeFunction) -> None:
        invocation.lineage, invocation.depth = stamped_caller(session, message.caller), message.observe_depth or 0

    def _with_caller(self, session: EngineSession, data: Any) -> Any:
        """Name the calling worker in object data (C-4, T-15, P-119)."""
        if self._inject_caller_id and not session.is_in_process and isinstance(data, dict):
            return cast("dict[str, Any]", data) | {CALLER_KEY: session.worker_id}
        return data

    def _refuse_more(self, session: EngineSession, message: InvokeFunction, reply_id: str) -> None:
        problem = f"this worker has {len(session.calls)} calls in flight, the engine takes no more"
        self._answers.refuse(session, message, reply_id, "invocation_error", problem)
