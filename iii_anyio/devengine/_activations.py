"""Events on their way to the targets of observers: what a target gets, how many at once, how deep (§16.6, §16.7).

Below: ``_forwarding`` and ``_invocations`` make the calls. Above: ``_observers`` says which observer an event is for.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from .._protocol.codec import to_json
from .._protocol.engine_session import EngineSession
from .._protocol.messages import ABSENT, InvokeFunction
from ..errors import EncodeError, PayloadTooLargeError
from ..filter import CompiledFilter
from ._errors import shorten
from ._observer_specs import PARTS, ObserverSpec

if TYPE_CHECKING:
    from ._answers import Answers
    from ._forwarding import Forwarding
    from ._functions import FunctionTable
    from ._invocations import Invocations

__all__ = ("MAX_DEPTH", "Activations", "Event", "Observer", "clean_caller", "stamped_caller")

logger = logging.getLogger(__name__)

MAX_DEPTH: Final = 8
"""Hops from event to target to event that are delivered (§16.6)."""
MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""Of one observer, while ``max_in_flight`` are at its target."""
ENGINE_NAME: Final = "iii-engine"
_NAMES: Final = ("worker_id", "worker_name", "function_id", "invocation_id")

DropReason: TypeAlias = Literal["LOOP_GUARD", "INACTIVE", "BUFFER_FULL", "TOO_LARGE"]


def clean_caller(value: object) -> dict[str, Any]:
    """What of a ``caller`` from a worker is passed on: the four names, and of ``parent`` the same; one level (§5.3)."""
    if not isinstance(value, dict):
        return {}
    fields = cast("dict[str, Any]", value)
    caller: dict[str, Any] = {name: fields[name] for name in _NAMES if isinstance(fields.get(name), str)}
    parent = fields.get("parent")
    if isinstance(parent, dict):
        parent = cast("dict[str, Any]", parent)
        kept = {name: parent[name] for name in _NAMES if isinstance(parent.get(name), str)}
        if kept:
            caller["parent"] = kept
    return caller


def stamped_caller(session: EngineSession, claimed: object) -> dict[str, Any]:
    """Who calls: what a worker says of its handler, and what the engine knows of the worker (P-140)."""
    caller = {} if claimed is None else clean_caller(claimed)
    for name in ("worker_id", "worker_name"):
        caller.pop(name, None)
    if not session.is_in_process:  # those have no id outside
        caller["worker_id"] = session.worker_id
    if session.identity.name is not None:
        caller["worker_name"] = session.identity.name
    return caller


@dataclass(slots=True)
class Event:
    """One invocation of an observed function that is over, or what its owner has handed out."""

    function_id: str
    namespace: str
    invocation_id: str
    parts: dict[str, Any]
    """Of ``input output error caller metadata`` those that exist."""
    is_success: bool
    started_at_ms: int
    duration_ms: float
    depth: int = 0
    traceparent: str | None = None
    baggage: str | None = None


@dataclass(slots=True, eq=False)
class Observer:
    """One observer. ``_observer_table`` has the rules of its states."""

    id: str
    spec: ObserverSpec
    filter: CompiledFilter
    session: EngineSession | None
    """Whose it is; None while that worker is away."""
    state: str = "pending"
    reason: dict[str, str] | None = None
    refusal: dict[str, str] | None = None
    """Why the owner, or what its function declares, does not allow it."""
    is_acked: bool = False
    was_active: bool = False
    revision: int = 0
    """It was last announced with."""
    departure: int = 0
    """Number of the time its worker has left."""
    fires: int = 0
    in_flight: int = 0
    waiting: deque[Waiting] = field(default_factory=deque["Waiting"])
    waiting_bytes: int = 0
    is_draining: bool = False
    dropped: Counter[str] = field(default_factory=Counter[str])
    judged: Callable[[Observer], None] | None = None
    """Of one that stands for an old trigger: told each time its state has been judged, in place of the worker."""

    @property
    def is_wanted(self) -> bool:
        """Whether the one who has asked for it is there."""
        return self.session is not None or self.judged is not None

    @property
    def is_open(self) -> bool:
        """Whether it is to get events that belong to it."""
        return self.is_wanted and self.refusal is None and self.state != "disposed"

    def may_be_changed_by(self, session: EngineSession) -> bool:
        """Whether a worker may announce it again, or remove it: its own, or one whose worker is away."""
        return self.judged is None and self.session in (session, None)


@dataclass(slots=True)
class Waiting:
    """An activation that ``max_in_flight`` holds back."""

    size: int
    start: Callable[[], None]
    give_up: Callable[[], None]


class Activations:
    """Delivers events to targets.

    Args:
        functions: Where targets are found.
        new_id: Makes ids of activations.
        used_up: Told of an observer that has fired ``max_fires`` times.
    """

    def __init__(
        self, functions: FunctionTable, *, new_id: Callable[[], str], used_up: Callable[[Observer], None]
    ) -> None:
        self._functions = functions
        self._new_id = new_id
        self._used_up = used_up
        self._invocations: Invocations
        self._forwarding: Forwarding
        self._answers: Answers

    def connect(self, invocations: Invocations, forwarding: Forwarding, answers: Answers) -> None:
        """Say who makes the calls; they in turn ask who observes what."""
        self._invocations, self._forwarding, self._answers = invocations, forwarding, answers

    # -- events --------------------------------------------------------------------------------------------------

    def deliver(self, observer: Observer, event: Event) -> None:
        """Give an event to the target of an observer, now or when there is room; otherwise count it as dropped."""
        if not observer.is_open:
            self._drop(observer, "INACTIVE")
        elif event.depth >= MAX_DEPTH:
            self._drop(observer, "LOOP_GUARD")
        elif self._has_room(observer):
            self._start(observer, event)
        else:
            self._wait(
                observer,
                event.parts,
                lambda: self._start(observer, event),
                lambda: self._drop(observer, "INACTIVE"),
            )

    def _start(self, observer: Observer, event: Event) -> None:
        spec = observer.spec
        target = self._functions.get(*spec.target)
        if target is None or (target.builtin is not None and observer.session is None):
            self._drop(observer, "INACTIVE")
            return
        activation_id = self._new_id()
        observer.fires += 1
        if target.builtin is not None and observer.session is not None:
            # It ends before anything else begins, so nothing is in flight.
            call = InvokeFunction(target.id, _data(observer, event, activation_id), traceparent=event.traceparent)
            self._invocations.run_void(observer.session, target.builtin, call)
        else:
            limited = spec.max_in_flight is not None
            observer.in_flight += limited
            is_sent = self._forwarding.activate(
                target,
                _data(observer, event, activation_id),
                ABSENT if spec.metadata is None else spec.metadata,
                {"worker_name": ENGINE_NAME, "function_id": event.function_id, "invocation_id": event.invocation_id},
                event.depth + 1,
                {"observer_id": observer.id, "activation_id": activation_id},
                (event.traceparent, event.baggage),
                (lambda: self.ended(observer)) if limited else None,
            )
            if not is_sent:
                observer.in_flight -= limited
                observer.fires -= 1
                self._drop(observer, "TOO_LARGE")
                return
        if spec.max_fires is not None and observer.fires >= spec.max_fires:
            self._used_up(observer)

    # -- calls of the owner --------------------------------------------------------------------------------------

    def refuse(self, session: EngineSession, message: InvokeFunction, reply_id: str | None, observer_id: str) -> None:
        """Tell an owner that an observer gets no calls."""
        problem = f"this worker has no active observer {shorten(observer_id)}"
        self._answers.refuse(session, message, reply_id, "OBSERVER_NOT_ACTIVE", problem)

    def call(self, observer: Observer, session: EngineSession, message: InvokeFunction, reply_id: str | None) -> None:
        """Relay an owner's call to the target, and the answer to the owner (§16.7)."""
        refuse = self._answers.refuse
        spec = observer.spec
        depth = (message.observe_depth or 0) + 1
        if depth > MAX_DEPTH:
            self._drop(observer, "LOOP_GUARD")
            problem = f"observers have called each other {MAX_DEPTH} times in a row"
            refuse(session, message, reply_id, "LOOP_GUARD", problem)
            return

        def give_up() -> None:
            refuse(session, message, reply_id, "OBSERVER_NOT_ACTIVE", f"observer {observer.id} is not active any more")

        def start() -> None:
            target = self._functions.get(*spec.target)
            if target is None or not observer.is_open:
                give_up()
                return
            if target.builtin is not None:
                problem = f"{target.id} is the engine's own; an owner can only call a worker's function"
                refuse(session, message, reply_id, "function_not_invokable", problem)
                return
            limited = spec.max_in_flight is not None
            observer.fires += 1
            observer.in_flight += limited
            asked = clean_caller(message.caller).get("invocation_id") or reply_id or self._new_id()
            is_sent = self._invocations.relay(
                session,
                message,
                reply_id,
                target,
                ABSENT if spec.metadata is None else spec.metadata,
                {"worker_name": ENGINE_NAME, "function_id": spec.source[1], "invocation_id": asked},
                depth,
                {"observer_id": observer.id, "activation_id": self._new_id()},
                (lambda: self.ended(observer)) if limited else None,
            )
            if not is_sent:
                observer.fires -= 1
                observer.in_flight -= limited
            elif spec.max_fires is not None and observer.fires >= spec.max_fires:
                self._used_up(observer)

        if self._has_room(observer):
            start()
        elif not self._wait(observer, message.data, start, give_up):
            problem = f"too many calls wait for the target of observer {observer.id}"
            refuse(session, message, reply_id, "BUFFER_FULL", problem)

    # -- max_in_flight -------------------------------------------------------------------------------------------

    def ended(self, observer: Observer) -> None:
        """The target has answered, or will not; the next one may go."""
        observer.in_flight -= 1
        if observer.is_draining:
            return  # a target that answers at once; the loop below goes on
        observer.is_draining = True
        while observer.waiting and self._has_room(observer):
            waiting = observer.waiting.popleft()
            observer.waiting_bytes -= waiting.size
            waiting.start()
        observer.is_draining = False

    def give_up(self, observer: Observer) -> None:
        """The observer is no more: nothing waits for it."""
        waiting, observer.waiting = observer.waiting, deque()
        observer.waiting_bytes = 0
        for entry in waiting:
            entry.give_up()

    @staticmethod
    def _has_room(observer: Observer) -> bool:
        limit = observer.spec.max_in_flight
        return limit is None or observer.in_flight < limit

    def _wait(self, observer: Observer, data: Any, start: Callable[[], None], give_up: Callable[[], None]) -> bool:
        try:
            size = len(to_json(data))
        except (EncodeError, PayloadTooLargeError):
            size = MAX_WAITING_BYTES + 1
        if len(observer.waiting) >= MAX_WAITING or observer.waiting_bytes + size > MAX_WAITING_BYTES:
            self._drop(observer, "BUFFER_FULL")
            return False
        observer.waiting.append(Waiting(size, start, give_up))
        observer.waiting_bytes += size
        return True

    @staticmethod
    def _drop(observer: Observer, reason: DropReason) -> None:
        observer.dropped[reason] += 1
        if observer.dropped[reason] == 1:  # the others are counted
            logger.warning("an event for observer %s was dropped: %s", shorten(observer.id), reason)


def _data(observer: Observer, event: Event, activation_id: str) -> Any:
    """What the target gets: an envelope with the captured parts that exist, or one part bare (§16.6)."""
    spec = observer.spec
    if spec.deliver != "envelope":
        return event.parts.get(spec.deliver)
    envelope: dict[str, Any] = {
        "observer_id": observer.id,
        "activation_id": activation_id,
        "function_id": event.function_id,
        "namespace": event.namespace,
        "invocation_id": event.invocation_id,
        "status": "success" if event.is_success else "error",
        "started_at_ms": event.started_at_ms,
        "duration_ms": event.duration_ms,
    }
    return envelope | {part: event.parts[part] for part in PARTS if part in spec.capture and part in event.parts}
