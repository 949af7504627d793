"""Calls of this worker's own functions that stay in this process (§17, A.11).

Below: the codec. Above: ``calling`` makes them and waits for them, ``dispatch`` runs them.

A local call goes the way of an invocation that the engine sent, without the wire: the same limits, backlog, threads
and refusals hold, its handler runs as a task of the handlers group on the worker's loop, whichever loop or thread
calls, and the drain waits for it. So its caller may give up or be cancelled while the handler runs to its end, as with
a remote one. (Upstream runs async handlers on the calling loop; there nobody could wait for one whose caller is gone.)

Payload, metadata and result pass through JSON: that is the copy, and both ends see what they would see of a remote call
(upstream hands over deep copies, so that models arrive where dicts do remotely: A.25, 12).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from .._protocol.calls import Call, new_id
from .._protocol.codec import from_json, to_json
from .._protocol.messages import ABSENT, InvokeFunction
from .context import current, lineage

if TYPE_CHECKING:
    from .._protocol.owning import ObserverRecord
    from .._protocol.worker_session import WorkerSession
    from .dispatch import Function

__all__ = ("LocalCall", "copied", "local_function", "make_local")

MAX_DEPTH: Final = 64
"""Local calls nested in each other; a deeper one goes through the engine (P-67)."""


class LocalCall(Call):
    """A call that its own worker answers."""

    is_local: ClassVar[bool] = True

    __slots__ = ("began", "began_at_ms", "depth", "function", "given", "message", "observers")

    def __init__(self, function: Function, message: InvokeFunction, timeout: float | None, *, is_void: bool) -> None:
        super().__init__(function.function_id, None if is_void else message.invocation_id, b"", timeout)
        self.function: Function = function
        self.message: InvokeFunction = message
        self.depth: int = 1
        self.observers: tuple[ObserverRecord, ...] = ()
        """Those that were active when the call began; they alone are asked at its end (P-64)."""
        self.given: bytes = b""
        """Payload and metadata as they were given, when observers may want to see them."""
        self.began: float = time.perf_counter()
        self.began_at_ms: int = time.time_ns() // 1_000_000


def local_function(
    session: WorkerSession, function_id: str, action: dict[str, Any] | None, namespace: str | None
) -> Function | None:
    """The function that a call may run in this process; None when it has to go through the engine (P-67)."""
    registration = session.registry.functions.get(function_id)
    if registration is None:
        return None
    function: Function = registration.target
    observed = function.observed
    if (
        observed is None
        or not observed.local_dispatch
        or (action is not None and action["type"] == "enqueue")
        or (namespace is not None and namespace != observed.namespace)
    ):
        return None
    invocation = current.get()
    return None if invocation is not None and invocation.local_depth >= MAX_DEPTH else function


def make_local(
    session: WorkerSession,
    function: Function,
    payload: Any,
    action: dict[str, Any] | None,
    timeout: float | None,
    metadata: Any,
) -> LocalCall:
    """Copy what a call hands over, and note where it comes from. On the caller's thread.

    Raises:
        EncodeError: Payload or metadata are not JSON.
    """
    handed: dict[str, Any] = {"data": payload}
    if metadata is not ABSENT:
        handed["metadata"] = metadata
    text = to_json(handed)
    handed = from_json(text)
    message = InvokeFunction(function.function_id, handed["data"], new_id(), handed.get("metadata", ABSENT))
    message.caller = session.whoami()
    invocation = current.get()
    if invocation is not None:
        message.traceparent, message.baggage = invocation.traceparent, invocation.baggage
        message.caller |= lineage(invocation)
        message.observe_depth = invocation.observe_depth
    call = LocalCall(function, message, timeout, is_void=action is not None)
    if invocation is not None:
        call.depth = invocation.local_depth + 1
    observed = function.observed
    if observed is not None and observed.delivery == "auto" and observed.active:
        call.observers, call.given = observed.active, text
    return call


def copied(result: Any) -> Any:
    """A result as its caller would have it from the wire.

    Raises:
        EncodeError: It is not JSON.
    """
    return from_json(to_json({"result": result}))["result"]
