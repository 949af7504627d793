"""What owners are told: that a function is registered, whether its calls may stay local, who observes it (§16.3, §17).

Owners know their functions by ids of their own, which differ where a guarded listener puts a prefix before them.

Below: the messages. Above: ``_observers`` says which observers there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from .._protocol.messages import FunctionRegistered, Message, ObserverAdded, ObserverRemoved
from ..errors import ObserveRejection
from ._access import INFRASTRUCTURE
from ._functions import Function

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._activations import Observer
    from ._functions import FunctionTable
    from ._guard import Guard
    from ._observer_specs import Key, ObserverSpec

__all__ = ("FEATURES", "FEATURE_OBSERVE", "Owners", "knows_observers")

FEATURE_OBSERVE: Final = "observe.v1"
FEATURE_LOCAL_DISPATCH: Final = "local-dispatch.v1"
FEATURES: Final = (FEATURE_OBSERVE, FEATURE_LOCAL_DISPATCH)
"""What this engine declares in ``workerregistered`` (§5.5)."""


def knows_observers(session: EngineSession) -> bool:
    """Whether a worker has declared that it takes messages about observers (§16.1)."""
    return FEATURE_OBSERVE in session.identity.features


class Owners:
    """The workers whose functions are confirmed, and the way to them."""

    def __init__(self, guards: dict[EngineSession, Guard], send: Callable[[EngineSession, Message], bool]) -> None:
        self._guards = guards
        self._send = send
        self._confirmed: dict[EngineSession, dict[str, Key]] = {}
        self._own_ids: dict[Key, str] = {}
        self._revisions = itertools.count(1)

    def functions(self, session: EngineSession) -> Mapping[str, Key]:
        """The confirmed functions of a worker, by the ids it knows."""
        return self._confirmed.get(session, {})

    def next_revision(self) -> int:
        """Rises with every announcement, whatever the function (P-138)."""
        return next(self._revisions)

    @staticmethod
    def acker(function: Function) -> EngineSession | None:
        """Who acknowledges the observers of a function; None where the engine sees every call itself."""
        owner = function.owner
        return owner if owner is not None and function.endpoint is None and knows_observers(owner) else None

    def confirm(self, function: Function, revision: int, announced: list[dict[str, Any]]) -> None:
        """Tell the owner that its function is registered, if it wants to know."""
        owner = function.owner
        if owner is None or not knows_observers(owner):
            return
        guard = self._guards.get(owner)
        own_id = function.id if guard is None else guard.own_id(function.id)
        key = function.namespace, function.id
        self._confirmed.setdefault(owner, {})[own_id] = key
        self._own_ids[key] = own_id
        # Calls within a process pass by what guards a listener, and by the traces of built-in workers.
        is_local = (
            function.endpoint is None
            and guard is None
            and not owner.is_in_process
            and FEATURE_LOCAL_DISPATCH in owner.identity.features
        )
        self._send(owner, FunctionRegistered(own_id, function.namespace, revision, is_local, announced))

    def announce(self, acker: EngineSession, observer: Observer) -> None:
        """Tell an owner of one observer more."""
        key = observer.spec.source
        observer.revision = self.next_revision()
        announced = observer.spec.announced(observer.id)
        self._send(acker, ObserverAdded(self._own_ids.get(key, key[1]), announced, key[0], observer.revision))

    def withdraw(self, acker: EngineSession, observer: Observer) -> None:
        """Tell an owner that an observer is no more."""
        key = observer.spec.source
        self._send(acker, ObserverRemoved(self._own_ids.get(key, key[1]), observer.id, key[0], self.next_revision()))

    def forget(self, function: Function) -> None:
        """A function is registered no more."""
        own_id = self._own_ids.pop((function.namespace, function.id), None)
        if own_id is not None and function.owner is not None:
            self._confirmed.get(function.owner, {}).pop(own_id, None)

    def release(self, session: EngineSession) -> None:
        """A connection is over; its functions have gone before."""
        self._confirmed.pop(session, None)

    def allowed(self, session: EngineSession, spec: ObserverSpec, functions: FunctionTable) -> ObserverSpec:
        """Let a worker of a guarded listener observe what it may call, the engine's own functions aside.

        Their inputs and outputs hold access keys and other workers' identities. Its own functions go by the ids it
        knows, as those of its triggers do (RB-23).

        Raises:
            ObserveRejection: ``FORBIDDEN`` or ``SELF_TARGET``.
        """
        guard = self._guards.get(session)
        if guard is None:
            return spec
        own = self.functions(session)

        def resolve(key: Key) -> Key:
            return own.get(key[1], key) if key[0] == session.namespace else key

        source, target = resolve(spec.source), resolve(spec.target)
        for what, key in (("source", source), ("target", target)):
            function = functions.get(*key) or Function(key[1], key[0])
            is_reserved = what == "source" and (function.builtin is not None or function.id in INFRASTRUCTURE)
            if is_reserved or not (function.owner is session or guard.is_visible(function)):
                raise ObserveRejection("FORBIDDEN", f"{what} {key[1][:1000]} is not allowed for this worker")
        if source == target:
            raise ObserveRejection("SELF_TARGET", f"{source[1][:1000]} is source and target")
        return replace(spec, source=source, target=target)
