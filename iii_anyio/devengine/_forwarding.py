"""A call on its way to the worker that runs the function, and the calls that the engine makes itself (§7.2, §7.3).

Below: ``_answers`` keeps what is open. Above: ``_invocations`` brings calls of workers; guards, triggers, observers
and listeners call on behalf of the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from .._protocol.messages import ABSENT, InvokeFunction
from ..errors import EncodeError, PayloadTooLargeError
from ._answers import Answers, Invocation, Settle, unsendable
from ._errors import shorten, to_body
from ._observer_owners import knows_observers

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from .._protocol.messages import Message
    from ..errors import InvocationError
    from ._functions import Endpoint, Function, FunctionTable
    from ._guard import Guard
    from ._telemetry import Telemetry
    from ._watching import Watching

__all__ = ("Forwarding", "name_in_baggage")

logger = logging.getLogger(__name__)

BAGGAGE_KEY: Final = "iii.function.id"
_BAGGAGE_SAFE: Final = "!#$&'()*+-./:<=>?@[]^_`{|}~"


def name_in_baggage(baggage: str | None, function_id: str) -> str:
    """Rewrite baggage so that ``iii.function.id`` names the function invoked, keeping other entries (§7.6)."""
    entries = [] if baggage is None else [entry.strip() for entry in baggage.split(",")]
    kept = [entry for entry in entries if entry and entry.partition("=")[0].strip() != BAGGAGE_KEY]
    return ",".join([*kept, f"{BAGGAGE_KEY}={quote(function_id, safe=_BAGGAGE_SAFE, errors='replace')}"])


class Forwarding:
    """Gives invocations to callees.

    Args:
        functions: Where functions are found.
        guards: Of the connections of guarded listeners.
        answers: Keeps the invocations.
        watching: Looks whether a function is observed.
        telemetry: Opens the spans of built-in workers.
        send: Sends to a worker; raises what cannot be sent.
        new_id: Makes ids of invocations.
        max_in_flight: Invocations one callee may have that nobody waits for.
    """

    def __init__(
        self,
        functions: FunctionTable,
        guards: dict[EngineSession, Guard],
        answers: Answers,
        watching: Watching,
        telemetry: Telemetry,
        send: Callable[[EngineSession, Message], bool],
        *,
        new_id: Callable[[], str],
        max_in_flight: int,
    ) -> None:
        self._functions = functions
        self._guards = guards
        self._answers = answers
        self._watching = watching
        self._telemetry = telemetry
        self._send = send
        self._new_id = new_id
        self._max_in_flight = max_in_flight

    # -- to a callee ---------------------------------------------------------------------------------------------

    def forward(self, function: Function, invocation: Invocation, data: Any, metadata: Any) -> None:
        """Send an invocation to the worker that owns the function.

        Raises:
            EncodeError: It holds what JSON cannot carry.
            PayloadTooLargeError: It is over 64 MiB.
        """
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
        guard = self._guards.get(callee)
        called = function.id if guard is None else guard.own_id(function.id)  # without prefix (RB-23)
        message = InvokeFunction(called, data, invocation.id, metadata, traceparent, baggage)
        if knows_observers(callee):  # §16.1
            message.caller, message.observe_depth = invocation.lineage, invocation.depth or None
            message.activation = invocation.activation
        self._send(callee, message)
        is_awaited = invocation.caller is not None or invocation.settle is not None or invocation.on_close is not None
        if is_awaited or len(callee.executing) < self._max_in_flight:  # void calls a worker never answers pile up
            self._answers.keep(invocation, callee)

    def fetch(self, endpoint: Endpoint, invocation: Invocation, data: Any) -> None:
        """Call an external HTTP function. It runs to its end, also without its caller (§7.5, §10)."""
        self._answers.keep(invocation, None)
        endpoint(data).listen(lambda result, error: self._fetched(invocation, result, error))

    def _fetched(self, invocation: Invocation, result: Any, error: InvocationError | None) -> None:
        if not self._answers.is_open(invocation):
            return  # the caller has left
        self._answers.close(invocation)
        body = None if error is None else to_body(error)
        if body is not None and invocation.settle is None and invocation.caller is None:
            _settle(None, invocation.function_id, body)
        self._answers.deliver(invocation, result, body)

    # -- calls of the engine itself ------------------------------------------------------------------------------

    def call(self, function: Function, invocation: Invocation, data: Any, metadata: Any = ABSENT) -> bool:
        """Begin a call; False when it cannot begin, which ``settle`` or the log says."""
        if function.owner is None:
            problem = f"{function.id} cannot be called by the engine itself: no worker runs it"
            _settle(invocation.settle, function.id, {"code": "function_not_invokable", "message": problem})
            return False
        self._watching.begin(function, invocation, data, metadata)
        if function.endpoint is not None:
            self.fetch(function.endpoint, invocation, data)
            return True
        try:
            self.forward(function, invocation, data, metadata)
        except (EncodeError, PayloadTooLargeError) as error:
            _settle(invocation.settle, function.id, unsendable(error))
            return False
        return True

    def fire(self, namespace: str, function_id: str, data: Any, metadata: Any) -> None:
        """Call a function without interest in what it comes to (T-15, E-51)."""
        function = self._functions.get(namespace, function_id)
        if function is None:
            problem = self._functions.not_found(namespace, function_id)
            _settle(None, function_id, {"code": "function_not_found", "message": problem})
        else:
            self.call(function, Invocation(self._new_id(), function_id), data, metadata)

    def ask(self, namespace: str, function_id: str, data: Any, settle: Settle) -> Invocation:
        """Call a function; ``settle`` gets the answer, perhaps at once (§6.2, §6.5)."""
        invocation = Invocation(self._new_id(), function_id, settle=settle)
        function = self._functions.get(namespace, function_id)
        if function is None:
            problem = self._functions.not_found(namespace, function_id)
            settle(None, {"code": "function_not_found", "message": problem})
        else:
            self.call(function, invocation, data)
        return invocation

    def abandon(self, invocation: Invocation) -> None:
        """Forget a call made by ``ask``; nothing if it is over. The callee is told nothing (§7.5)."""
        if self._answers.is_open(invocation):
            self._answers.close(invocation)

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
        """Call the target of an observer; False when the call cannot be sent (§16.6).

        ``on_close`` is called when it is over, whatever it has come to, unless False is returned.
        """
        invocation = Invocation(self._new_id(), function.id, None, None, None, *trace)
        invocation.lineage, invocation.depth, invocation.activation = lineage, depth, activation
        invocation.on_close = on_close
        return self.call(function, invocation, data, metadata)


def _settle(settle: Settle | None, function_id: str, error: dict[str, Any]) -> None:
    if settle is not None:
        settle(None, error)
    else:
        problem = f"{error['code']}: {error['message']}"
        logger.warning("the engine could not call %s: %s", shorten(function_id), shorten(problem))
