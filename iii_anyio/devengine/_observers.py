"""What is said about observers: by the workers that want them, by owners, and by functions that come and go (§16).

The engine itself watches the calls that it routes. What an owner runs within its process it watches itself, and
reports. Where there is nobody to acknowledge (the engine's own functions, HTTP functions, workers without
``observe.v1``) the engine sees every call anyway, and needs no acknowledgement.

Below: ``_observer_table`` keeps the observers and judges their states, ``_observer_specs`` reads what is asked for,
``_observer_owners`` tells owners. Above: ``_router`` hands messages over, ``_functions`` tells what comes and goes,
``_watching`` asks who watches a call. Plain functions, nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._protocol.messages import ABSENT, InvokeFunction, Message, Observe, ObserverAck, ObserveResult, Unobserve
from ..errors import ObserveRejection
from ._activations import Activations, Event, Observer
from ._observer_owners import Owners, knows_observers
from ._observer_specs import Key, read_spec
from ._observer_table import ObserverTable

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._functions import Function, FunctionTable
    from ._guard import Guard

__all__ = ("Observers",)


class Observers:
    """The way of every message about observers.

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
        self.table: ObserverTable = ObserverTable(functions, self._owners, send, call_later=call_later, new_id=new_id)
        self.activations: Activations = self.table.activations

    def __len__(self) -> int:
        return len(self.table.by_id)

    def may_see(self, session: EngineSession, observer: Observer) -> bool:
        """Whether a worker may know of an observer: one behind a guarded listener of its own."""
        return session not in self._guards or observer.session is session

    # -- what workers say about their observers ------------------------------------------------------------------

    def observe(self, session: EngineSession, message: Observe) -> None:
        """Make an observer, or go on with one that is announced again; answered in any case (§16.5)."""
        table = self.table
        known = table.by_id.get(message.id)
        try:
            if known is not None and not known.may_be_changed_by(session):
                raise ObserveRejection("FORBIDDEN", "this observer id is that of another worker's observer")
            spec, compiled = read_spec(message)
            spec = self._owners.allowed(session, spec, self._functions)
            if known is None or not known.spec.is_same(spec):
                table.check_number(session, spec)
        except ObserveRejection as refusal:
            if known is not None and known.may_be_changed_by(session):
                table.remove(known)
            self._result(session, message.id, "error", {"code": refusal.code, "message": refusal.message})
            return
        if known is not None and not known.spec.is_same(spec):
            table.remove(known)  # another observer under the same id
            known = None
        if known is None:
            known = Observer(message.id, spec, compiled, session)
            table.add(known)
        table.belongs_to(session, known)
        if known.state == "disposed":  # while its worker was away
            table.forget(known)
        else:
            table.judge(known, tells=False)
        function = self._functions.get(*spec.source)
        warnings = [] if function is None else function.observability.warnings(spec)
        self._result(session, known.id, known.state, known.reason, warnings)

    def unobserve(self, session: EngineSession, message: Unobserve) -> None:
        """Remove an observer of this worker; also one that it made on an earlier connection (P-60)."""
        observer = self.table.by_id.get(message.id)
        if observer is None or not observer.may_be_changed_by(session):
            return
        if observer.state == "disposed":  # while its worker was away
            self.table.forget(observer)
            return
        observer.session = session
        self.table.dispose(observer, "UNOBSERVED", "removed by its worker")

    def _result(
        self,
        session: EngineSession,
        observer_id: str,
        state: str,
        reason: dict[str, str] | None,
        warnings: list[str] | None = None,
    ) -> None:
        self._send(session, ObserveResult(observer_id, state, warnings or None, reason))

    # -- what owners say -----------------------------------------------------------------------------------------

    def ack(self, session: EngineSession, message: ObserverAck) -> None:
        """Take an owner's word for one observer; ``error`` refuses it, early or late (§16.4)."""
        key = self._owners.functions(session).get(message.function_id)
        observer = self.table.get(message.id)
        if observer is None or observer.spec.source != key:
            return
        if observer.refusal is not None or message.revision < observer.revision:
            return  # of an announcement that another one has followed
        if message.error is ABSENT:
            observer.is_acked = True
        else:
            observer.refusal = {"code": message.error["code"], "message": message.error["message"]}
            observer.is_acked = False
            self.table.withdraw(observer)  # its "removed" hook may run now
        self.table.judge(observer)

    def reported(self, session: EngineSession, key: Key, matched: list[str], event: Event) -> None:
        """Deliver what an owner has observed, to those of its observers that it says it matches (§16.8)."""
        for observer_id in dict.fromkeys(matched):
            observer = self.table.by_id.get(observer_id)
            if observer is not None and observer.spec.source == key and observer.is_acked:
                self.activations.deliver(observer, event)

    def confirmed(self, session: EngineSession, own_id: str) -> Key | None:
        """The function of this worker that it knows by this id, if its registration was confirmed."""
        return self._owners.functions(session).get(own_id)

    def call(self, session: EngineSession, observer_id: str, message: InvokeFunction, reply_id: str | None) -> None:
        """Route an owner's call to the target of one of its observers (§16.7)."""
        observer = self.table.get(observer_id)
        source = None if observer is None else self.table.sources.get(observer.spec.source)
        if observer is None or source is None or source.acker is not session or observer.state != "active":
            self.activations.refuse(session, message, reply_id, observer_id)
        else:
            self.activations.call(observer, session, message, reply_id)

    # -- what the engine sees itself -----------------------------------------------------------------------------

    def watching(self, function: Function) -> tuple[Observer, ...]:
        """Who gets the calls of a function that the engine routes."""
        source = self.table.sources.get((function.namespace, function.id))
        if source is None or function.observability.is_owner_delivered:
            return ()
        if source.watching is None:
            source.watching = tuple(observer for observer in source.observers.values() if observer.state == "active")
        return source.watching

    def finished(self, observers: tuple[Observer, ...], event: Event) -> None:
        """A call that these have watched is over."""
        status = "success" if event.is_success else "error"
        for observer in observers:
            if observer.spec.on in (status, "complete") and observer.filter.matches(event.parts):
                self.activations.deliver(observer, event)

    # -- functions that come and go ------------------------------------------------------------------------------

    def function_put(self, function: Function) -> None:
        """A function has been registered, perhaps again: confirm it with its observers (P-138)."""
        key = function.namespace, function.id
        source = self.table.sources.get(key)
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
        self.table.judge_all(key)

    def function_gone(self, function: Function) -> None:
        """A function is registered no more."""
        key = function.namespace, function.id
        self._owners.forget(function)
        if (source := self.table.sources.get(key)) is not None:
            source.acker = None
            for observer in source.observers.values():
                observer.is_acked, observer.refusal = False, None
        self.table.judge_all(key)

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
        """A connection is over. Its functions have gone before."""
        self._owners.release(session)
        self.table.release(session)
