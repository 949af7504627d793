"""The observers there are, found by id, worker, source and target, and the state that each is in (§16.5).

    pending ──► active ◄──► suspended     an observer that has been active once is suspended and not pending again
       └──► error ◄──┘                    the owner, or what its function declares, does not allow it
    any ──► disposed                      its worker, MAX_FIRES, EXPIRED, or 30 s without its worker

    active      its worker is there, a worker has the source and has acknowledged it, the target is there (P-139)

Below: ``_observer_owners`` tells owners, ``_activations`` holds what waits for a target. Above: ``_observers`` brings
what workers say and functions that come and go; ``_legacy_triggers`` has observers of its own here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from .._protocol.messages import Message, ObserverStateChanged
from ..errors import ObserveRejection
from ._activations import Activations, Observer

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._functions import FunctionTable
    from ._observer_owners import Owners
    from ._observer_specs import Key, ObserverSpec

__all__ = ("ObserverTable", "Source")

KEPT: Final = 30.0
"""Seconds that the observers of a lost worker are kept (P-139)."""
MAX_OF_WORKER: Final = 10_000
MAX_OBSERVERS: Final = 100_000
"""Also of those that wait for the end of their time."""
DISCONNECTED: Final = "OBSERVER_DISCONNECTED"


class Source:
    """The observers of one function, and whom they are announced to."""

    __slots__ = ("acker", "observers", "watching")

    def __init__(self) -> None:
        self.observers: dict[str, Observer] = {}
        self.acker: EngineSession | None = None
        self.watching: tuple[Observer, ...] | None = None
        """Those that the engine gives the calls it routes to; None until somebody asks."""


class ObserverTable:
    """Every observer.

    Args:
        functions: Where sources and targets are looked up.
        owners: The way to owners.
        send: Sends to a worker.
        call_later: Wishes for a timer.
        new_id: Makes ids of activations.
    """

    def __init__(
        self,
        functions: FunctionTable,
        owners: Owners,
        send: Callable[[EngineSession, Message], bool],
        *,
        call_later: Callable[[float, Callable[[], None]], None],
        new_id: Callable[[], str],
    ) -> None:
        self._functions = functions
        self._owners = owners
        self._send = send
        self._call_later = call_later
        self.activations: Activations = Activations(functions, new_id=new_id, used_up=self._used_up)
        self.by_id: dict[str, Observer] = {}
        self.sources: dict[Key, Source] = {}
        self._of: dict[EngineSession, dict[str, Observer]] = {}
        self._targets: dict[Key, dict[str, Observer]] = {}
        self._departures = itertools.count(1)
        self._expiries = 0

    def get(self, observer_id: str) -> Observer | None:
        """Find one that is not disposed."""
        observer = self.by_id.get(observer_id)
        return None if observer is None or observer.state == "disposed" else observer

    # -- coming --------------------------------------------------------------------------------------------------

    def check_number(self, session: EngineSession | None, spec: ObserverSpec) -> None:
        """Check that there may be one more.

        Raises:
            ObserveRejection: ``FORBIDDEN``.
        """
        number = 0 if session is None else len(self._of.get(session, ()))
        if number >= MAX_OF_WORKER:
            raise ObserveRejection("FORBIDDEN", f"this worker has {number} observers; dispose of some")
        if len(self.by_id) >= MAX_OBSERVERS or (not spec.is_for_ever and self._expiries >= MAX_OBSERVERS):
            raise ObserveRejection("FORBIDDEN", "the engine has too many observers")

    def add(self, observer: Observer) -> None:
        """Take a new one, and announce it to the owner of its source. Its state is still to be judged."""
        spec = observer.spec
        self.by_id[observer.id] = observer
        self._targets.setdefault(spec.target, {})[observer.id] = observer
        source = self.sources.setdefault(spec.source, Source())
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

    def belongs_to(self, session: EngineSession, observer: Observer) -> None:
        """Make it this worker's, who has asked for it, perhaps on a new connection."""
        self._of.setdefault(session, {})[observer.id] = observer
        observer.session = session

    # -- states --------------------------------------------------------------------------------------------------

    def judge_all(self, key: Key) -> None:
        """Find the states of all that have this function as source or target."""
        if (source := self.sources.get(key)) is not None:
            for observer in list(source.observers.values()):
                self.judge(observer)
        for observer in list(self._targets.get(key, {}).values()):
            self.judge(observer)

    def judge(self, observer: Observer, *, tells: bool = True) -> None:
        """Find the state that an observer is in now, and tell its worker if it is another one."""
        if observer.state == "disposed":
            return
        spec = observer.spec
        missing: str | None = None
        reason: dict[str, str] | None = None
        if not observer.is_wanted:
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
            self.sources[spec.source].watching = None
        if observer.judged is not None:
            observer.judged(observer)
        elif has_changed and tells:
            self._tell(observer)

    def _tell(self, observer: Observer) -> None:
        if observer.session is not None and observer.judged is None:
            self._send(
                observer.session,
                ObserverStateChanged(observer.id, observer.state, observer.fires, observer.reason),
            )

    # -- going ---------------------------------------------------------------------------------------------------

    def release(self, session: EngineSession) -> None:
        """A connection is over: its observers are kept for a while (P-139)."""
        observers = list(self._of.pop(session, {}).values())
        if not observers:
            return
        departure = next(self._departures)
        for observer in observers:
            observer.session, observer.departure = None, departure
            self.judge(observer)
        self._call_later(KEPT, partial(self._remove_departed, observers, departure))

    def _remove_departed(self, observers: list[Observer], departure: int) -> None:
        for observer in observers:
            if observer.session is None and observer.departure == departure:
                self.remove(observer)

    def _expire(self, observer: Observer) -> None:
        self._expiries -= 1
        self.dispose(observer, "EXPIRED", "its time is over")

    def _used_up(self, observer: Observer) -> None:
        self.dispose(observer, "MAX_FIRES", f"it has fired {observer.fires} times")

    def dispose(self, observer: Observer, code: str, text: str) -> None:
        """End an observer and tell its worker. One that is away is told when it comes back."""
        if self.by_id.get(observer.id) is not observer or observer.state == "disposed":
            return
        session = observer.session
        self.remove(observer)
        observer.reason = {"code": code, "message": text}
        if session is None:
            self.by_id[observer.id] = observer  # until its worker is back, or is given up
        else:
            self._tell(observer)

    def remove(self, observer: Observer) -> None:
        """End an observer without a word to its worker, and forget it."""
        if observer.state != "disposed":
            spec = observer.spec
            is_announced = observer.revision > 0 and observer.refusal is None
            observer.state = "disposed"
            source = self.sources[spec.source]
            del source.observers[observer.id]
            source.watching = None
            if is_announced:
                self.withdraw(observer)
            if not source.observers:
                del self.sources[spec.source]
            targets = self._targets[spec.target]
            del targets[observer.id]
            if not targets:
                del self._targets[spec.target]
            self.activations.give_up(observer)
        self.forget(observer)

    def forget(self, observer: Observer) -> None:
        """Forget a disposed observer."""
        self.by_id.pop(observer.id, None)
        if observer.session is not None:
            self._of.get(observer.session, {}).pop(observer.id, None)

    def withdraw(self, observer: Observer) -> None:
        """Tell the owner that an observer is no more, if it knows of it."""
        source = self.sources.get(observer.spec.source)
        if source is not None and source.acker is not None:
            self._owners.withdraw(source.acker, observer)
