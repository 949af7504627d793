"""The observers of the engine: who has asked for them, whose functions they watch, what their states are (§16).

    pending ──► active ◄──► suspended     an observer that has been active once is suspended and not pending again
       └──► error ◄──┘                    the owner, or what its function declares, does not allow it
    any ──► disposed                      its worker, MAX_FIRES, EXPIRED, or 30 s without its worker

    active      its worker is there, a worker has the source and has acknowledged it, the target is there (P-139)

The engine itself watches the calls that it routes. What an owner runs within its process it watches itself, and
reports. Where there is nobody to acknowledge (the engine's own functions, HTTP functions, workers without
``observe.v1``) the engine sees every call anyway, and needs no acknowledgement.

Below: ``_observer_specs``, ``_observer_owners``, ``_activations``. Above: ``_router`` hands messages over,
``_functions`` tells what comes and goes, ``_invocations`` asks who watches a call. Plain functions, nothing waits.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .._protocol.messages import (
    ABSENT,
    InvokeFunction,
    Message,
    Observe,
    ObserverAck,
    ObserveResult,
    ObserverStateChanged,
    Unobserve,
)
from ..errors import ObserveRejection
from ._activations import Activations, Event, Observer, Watch
from ._errors import shorten
from ._observer_owners import Owners, knows_observers
from ._observer_specs import Key, ObserverSpec, read_spec

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._functions import Function, FunctionTable
    from ._guard import Guard

__all__ = ("Observers",)

logger = logging.getLogger(__name__)

KEPT: Final = 30.0
"""Seconds that the observers of a lost worker are kept (P-139)."""
MAX_OF_WORKER: Final = 10_000
MAX_OBSERVERS: Final = 100_000
"""Also of those that wait for the end of their time."""
DISCONNECTED: Final = "OBSERVER_DISCONNECTED"


class _Source:
    """The observers of one function, and whom they are announced to."""

    __slots__ = ("acker", "observers", "watching")

    def __init__(self) -> None:
        self.observers: dict[str, Observer] = {}
        self.acker: EngineSession | None = None
        self.watching: tuple[Observer, ...] | None = None
        """Those that the engine gives the calls it routes to; None until somebody asks."""


class Observers:
    """Every observer.

    Args:
        functions: The table of functions; tells what comes and goes.
        guards: Of the connections of guarded listeners.
        send: Sends to a worker.
        call_later: Wishes for a timer.
        new_id: Makes ids.
    """

    def __init__(
        self,
        functions: FunctionTable,
        guards: dict[EngineSession, Guard],
        send: Callable[[EngineSession, Message], bool],
        *,
        call_later: Callable[[float, Callable[[], None]], None],
        new_id: Callable[[], str],
    ) -> None:
        self._functions = functions
        self._guards = guards
        self._send = send
        self._owners = Owners(guards, send)
        self._call_later = call_later
        self.activations: Activations = Activations(functions, new_id=new_id, used_up=self._used_up)
        self._observers: dict[str, Observer] = {}
        self._of: dict[EngineSession, dict[str, Observer]] = {}
        self._sources: dict[Key, _Source] = {}
        self._targets: dict[Key, dict[str, Observer]] = {}
        self._departures = itertools.count(1)
        self._expiries = 0

    def __len__(self) -> int:
        return len(self._observers)

    def get(self, observer_id: str) -> Observer | None:
        """Find one that is not disposed."""
        observer = self._observers.get(observer_id)
        return None if observer is None or observer.state == "disposed" else observer

    def may_see(self, session: EngineSession, observer: Observer) -> bool:
        """Whether a worker may know of an observer: one behind a guarded listener of its own."""
        return session not in self._guards or observer.session is session

    # -- what workers say about their observers ------------------------------------------------------------------

    def observe(self, session: EngineSession, message: Observe) -> None:
        """Make an observer, or go on with one that is announced again; answered in any case (§16.5)."""
        known = self._observers.get(message.id)
        try:
            if known is not None and known.session is not None and known.session is not session:
                raise ObserveRejection("FORBIDDEN", "this observer id is that of another worker's observer")
            spec, compiled = read_spec(message)
            spec = self._owners.allowed(session, spec, self._functions)
            if known is None or not known.spec.is_same(spec):
                self._check_number(session, spec)
        except ObserveRejection as refusal:
            if known is not None and known.session in (session, None):
                self._remove(known)
            self._result(session, message.id, "error", {"code": refusal.code, "message": refusal.message})
            return
        if known is not None and not known.spec.is_same(spec):
            self._remove(known)  # another observer under the same id
            known = None
        if known is None:
            known = Observer(message.id, spec, compiled, session)
            self._add(known)
        self._of.setdefault(session, {})[known.id] = known
        known.session = session
        if known.state == "disposed":  # while its worker was away
            self._forget(known)
        else:
            self._judge(known, tells=False)
        function = self._functions.get(*spec.source)
        warnings = [] if function is None else function.observability.warnings(spec)
        self._result(session, known.id, known.state, known.reason, warnings)

    def unobserve(self, session: EngineSession, message: Unobserve) -> None:
        """Remove an observer of this worker; also one that it made on an earlier connection (P-60)."""
        observer = self._observers.get(message.id)
        if observer is None or observer.session not in (session, None):
            return
        if observer.state == "disposed":  # while its worker was away
            self._forget(observer)
            return
        observer.session = session
        self._dispose(observer, "UNOBSERVED", "removed by its worker")

    def _result(
        self,
        session: EngineSession,
        observer_id: str,
        state: str,
        reason: dict[str, str] | None,
        warnings: list[str] | None = None,
    ) -> None:
        self._send(session, ObserveResult(observer_id, state, warnings or None, reason))

    def _check_number(self, session: EngineSession, spec: ObserverSpec) -> None:
        number = len(self._of.get(session, ()))
        if number >= MAX_OF_WORKER:
            raise ObserveRejection("FORBIDDEN", f"this worker has {number} observers; dispose of some")
        if len(self._observers) >= MAX_OBSERVERS or (not spec.is_for_ever and self._expiries >= MAX_OBSERVERS):
            raise ObserveRejection("FORBIDDEN", "the engine has too many observers")

    # -- what owners say -----------------------------------------------------------------------------------------

    def ack(self, session: EngineSession, message: ObserverAck) -> None:
        """Take an owner's word for one observer; ``error`` refuses it, early or late (§16.4)."""
        key = self._owners.functions(session).get(message.function_id)
        observer = self._observers.get(message.id)
        if observer is None or observer.spec.source != key or observer.state == "disposed":
            return
        if observer.refusal is not None or message.revision < observer.revision:
            return  # of an announcement that another one has followed
        if message.error is ABSENT:
            observer.is_acked = True
        else:
            observer.refusal = {"code": message.error["code"], "message": message.error["message"]}
            observer.is_acked = False
            self._withdraw(observer)  # its "removed" hook may run now
        self._judge(observer)

    def reported(self, session: EngineSession, key: Key, matched: list[str], event: Event) -> None:
        """Deliver what an owner has observed, to those of its observers that it says it matches (§16.8)."""
        for observer_id in dict.fromkeys(matched):
            observer = self._observers.get(observer_id)
            if observer is not None and observer.spec.source == key and observer.is_acked:
                self.activations.deliver(observer, event)

    def confirmed(self, session: EngineSession, own_id: str) -> Key | None:
        """The function of this worker that it knows by this id, if its registration was confirmed."""
        return self._owners.functions(session).get(own_id)

    def call(self, session: EngineSession, observer_id: str, message: InvokeFunction, reply_id: str | None) -> None:
        """Route an owner's call to the target of one of its observers (§16.7)."""
        observer = self.get(observer_id)
        source = None if observer is None else self._sources.get(observer.spec.source)
        if observer is None or source is None or source.acker is not session or observer.state != "active":
            problem = f"this worker has no active observer {shorten(observer_id)}"
            self.activations.invocations.refuse(session, message, reply_id, "OBSERVER_NOT_ACTIVE", problem)
        else:
            self.activations.call(observer, session, message, reply_id)

    # -- what the engine sees itself -----------------------------------------------------------------------------

    def watching(self, function: Function) -> tuple[Observer, ...]:
        """Who gets the calls of a function that the engine routes."""
        if not self._sources:
            return ()
        source = self._sources.get((function.namespace, function.id))
        if source is None or function.observability.is_owner_delivered:
            return ()
        if source.watching is None:
            source.watching = tuple(observer for observer in source.observers.values() if observer.state == "active")
        return source.watching

    def finished(self, watch: Watch, event: Event) -> None:
        """A call that was watched is over."""
        status = "success" if event.is_success else "error"
        for observer in watch.observers:
            if observer.spec.on in (status, "complete") and observer.filter.matches(event.parts):
                self.activations.deliver(observer, event)

    # -- functions that come and go ------------------------------------------------------------------------------

    def function_put(self, function: Function) -> None:
        """A function has been registered, perhaps again: confirm it with its observers (P-138)."""
        key = function.namespace, function.id
        source = self._sources.get(key)
        acker = self._owners.acker(function)
        revision = self._owners.next_revision()
        announced: list[dict[str, Any]] = []
        observers: list[Observer] = [] if source is None else list(source.observers.values())
        for observer in observers:
            # Registered again by the same worker, it stays active until its owner refuses it.
            was_acked = observer.is_acked and source is not None and source.acker is acker
            observer.refusal = function.observability.refusal(observer.spec)
            if observer.refusal is not None:
                observer.is_acked = False
            elif acker is None:
                observer.is_acked = True
            else:
                observer.is_acked, observer.revision = was_acked, revision
                announced.append(observer.spec.announced(observer.id))
        if source is not None:
            source.acker = acker
        self._owners.confirm(function, revision, announced)
        self._judge_all(key)

    def function_gone(self, function: Function) -> None:
        """A function is registered no more."""
        key = function.namespace, function.id
        self._owners.forget(function)
        if (source := self._sources.get(key)) is not None:
            source.acker = None
            for observer in source.observers.values():
                observer.is_acked, observer.refusal = False, None
        self._judge_all(key)

    def worker_registered(self, session: EngineSession) -> None:
        """Confirm functions that were registered before the worker had said that it wants to know (P-137)."""
        if not knows_observers(session) or session.namespace is None:
            return
        confirmed = set(self._owners.functions(session).values())
        for function_id in session.functions:
            function = self._functions.get(session.namespace, function_id)
            if function is not None and (function.namespace, function.id) not in confirmed:
                self.function_put(function)

    def release(self, session: EngineSession) -> None:
        """A connection is over: its observers are kept for a while (P-139). Its functions have gone before."""
        self._owners.release(session)
        observers = list(self._of.pop(session, {}).values())
        if not observers:
            return
        departure = next(self._departures)
        for observer in observers:
            observer.session, observer.departure = None, departure
            self._judge(observer)
        self._call_later(KEPT, partial(self._remove_departed, observers, departure))

    def _remove_departed(self, observers: list[Observer], departure: int) -> None:
        for observer in observers:
            if observer.session is None and observer.departure == departure:
                self._remove(observer)

    # -- states --------------------------------------------------------------------------------------------------

    def _judge_all(self, key: Key) -> None:
        if (source := self._sources.get(key)) is not None:
            for observer in list(source.observers.values()):
                self._judge(observer)
        for observer in list(self._targets.get(key, {}).values()):
            self._judge(observer)

    def _judge(self, observer: Observer, *, tells: bool = True) -> None:
        """Find the state that an observer is in now, and tell its worker if it is another one."""
        if observer.state == "disposed":
            return
        spec = observer.spec
        missing: str | None = None
        reason: dict[str, str] | None = None
        if observer.session is None:
            missing = "its worker is away"
        elif self._functions.get(*spec.source) is None:
            missing = f"nobody has its source {spec.source[1][:1000]} now"
        elif not observer.is_acked:
            missing = "the owner of its source has not acknowledged it yet"
        elif self._functions.get(*spec.target) is None:
            missing = f"nobody has its target {spec.target[1][:1000]} now"
        if observer.refusal is not None:
            state, reason = "error", observer.refusal
        elif missing is None:
            state, observer.was_active = "active", True
        elif observer.was_active:
            state, reason = "suspended", {"code": DISCONNECTED, "message": missing}
        else:
            state = "pending"
        has_changed = observer.state != state
        observer.state, observer.reason = state, reason
        if has_changed:
            self._sources[spec.source].watching = None
            if tells:
                self._tell(observer)

    def _tell(self, observer: Observer) -> None:
        if observer.session is not None:
            self._send(
                observer.session,
                ObserverStateChanged(observer.id, observer.state, observer.fires, observer.reason),
            )

    # -- coming and going ----------------------------------------------------------------------------------------

    def _add(self, observer: Observer) -> None:
        spec = observer.spec
        self._observers[observer.id] = observer
        self._targets.setdefault(spec.target, {})[observer.id] = observer
        source = self._sources.setdefault(spec.source, _Source())
        source.observers[observer.id] = observer
        function = self._functions.get(*spec.source)
        if function is not None:
            source.acker = self._owners.acker(function)
            observer.refusal = function.observability.refusal(spec)
            if observer.refusal is None:
                if source.acker is None:
                    observer.is_acked = True
                else:
                    self._owners.announce(source.acker, observer)
        if spec.expires_in_ms is not None and not spec.is_for_ever:
            self._expiries += 1
            self._call_later(spec.expires_in_ms / 1000, partial(self._expire, observer))

    def _expire(self, observer: Observer) -> None:
        self._expiries -= 1
        self._dispose(observer, "EXPIRED", "its time is over")

    def _used_up(self, observer: Observer) -> None:
        self._dispose(observer, "MAX_FIRES", f"it has fired {observer.fires} times")

    def _dispose(self, observer: Observer, code: str, text: str) -> None:
        """End an observer and tell its worker. One that is away is told when it comes back."""
        if self._observers.get(observer.id) is not observer or observer.state == "disposed":
            return
        session = observer.session
        self._remove(observer)
        observer.reason = {"code": code, "message": text}
        if session is None:
            self._observers[observer.id] = observer  # until its worker is back, or is given up
        else:
            self._tell(observer)

    def _remove(self, observer: Observer) -> None:
        if observer.state != "disposed":
            spec = observer.spec
            is_announced = observer.revision > 0 and observer.refusal is None
            observer.state = "disposed"
            source = self._sources[spec.source]
            del source.observers[observer.id]
            source.watching = None
            if is_announced:
                self._withdraw(observer)
            if not source.observers:
                del self._sources[spec.source]
            targets = self._targets[spec.target]
            del targets[observer.id]
            if not targets:
                del self._targets[spec.target]
            self.activations.give_up(observer)
        self._forget(observer)

    def _forget(self, observer: Observer) -> None:
        self._observers.pop(observer.id, None)
        if observer.session is not None:
            self._of.get(observer.session, {}).pop(observer.id, None)

    def _withdraw(self, observer: Observer) -> None:
        """Tell the owner that an observer is no more, if it knows of it."""
        source = self._sources.get(observer.spec.source)
        if source is not None and source.acker is not None:
            self._owners.withdraw(source.acker, observer)
