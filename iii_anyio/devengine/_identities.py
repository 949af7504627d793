"""Who a worker is: its namespace and names, what it registers before they are known (§6.2), who may evict it (§6.5).

    connected ──► held ──► live       registrations are held until `engine::workers::register`, or the grace, says where

Below: the sessions; ``_outgoing`` ends those that are refused. Above: ``_router`` gives it what it receives,
``_engine_functions`` the register call.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession, Phase, clean_label
from .._protocol.messages import Message, Reattach, RegistrationRejected
from ..errors import InvocationError
from ._builtin import Deferred
from ._engine_functions import PROVIDER_TIMEOUT
from ._errors import shorten

if TYPE_CHECKING:
    from ._engine_events import EngineEvents
    from ._guard import Guard
    from ._observers import Observers
    from ._outgoing import Outgoing
    from ._triggers import TriggerTable

__all__ = ("Identities",)

logger = logging.getLogger(__name__)

MAX_NAMES: Final = 100
"""Names one connection may take by registering again; it keeps them all until it ends (§6.2)."""


class Identities:
    """Names and namespaces of all connections.

    Args:
        guards: Of the connections of guarded listeners.
        outgoing: Ends connections.
        triggers: Say when those of a connection work.
        observers: Told that a worker has registered.
        events: Told that it has changed.
        perform: Carries out a message that was held.
        call_later: Wishes for a timer.
        max_held: Registrations one connection may send before its namespace is known.
    """

    def __init__(
        self,
        guards: dict[EngineSession, Guard],
        outgoing: Outgoing,
        triggers: TriggerTable,
        observers: Observers,
        events: EngineEvents,
        *,
        perform: Callable[[EngineSession, Message], None],
        call_later: Callable[[float, Callable[[], None]], None],
        max_held: int,
    ) -> None:
        self._guards = guards
        self._outgoing = outgoing
        self._triggers = triggers
        self._observers = observers
        self._events = events
        self._perform = perform
        self._call_later = call_later
        self._max_held = max_held
        self._names: dict[tuple[str, str], EngineSession] = {}

    # -- before the namespace is known ---------------------------------------------------------------------------

    def hold(self, session: EngineSession, message: Message, size: int) -> None:
        """Keep a message of ``size`` bytes until the namespace is known."""
        session.hold(message, size)
        if len(session.held) > self._max_held or session.held_bytes > self._outgoing.max_bytes:
            logger.warning("worker %s dropped: too many registrations before its register call", session.label)
            self._outgoing.condemn(session, 1008, "too many registrations before engine::workers::register")

    def grace_expired(self, session: EngineSession) -> None:
        """Put a connection that has not named its namespace in time into ``default``, for good (P-109)."""
        if session.phase is Phase.HELD:
            guard = self._guards.get(session)
            if guard is None or guard.keeps_held:
                self._fix_namespace(session, DEFAULT_NAMESPACE)
            else:
                session.drop_held()

    def _fix_namespace(self, session: EngineSession, namespace: str) -> None:
        guard = self._guards.get(session)
        for message in session.fix_namespace(namespace):
            if guard is None:
                self._perform(session, message)
            else:
                guard.receive(message, 0)

    # -- the register call ---------------------------------------------------------------------------------------

    def register(self, session: EngineSession, data: dict[str, Any]) -> object:
        """Take ``engine::workers::register``: identity, name, namespace, held registrations (E-32 to E-37, P-108).

        Returns:
            The answer. It is held back until every in-process provider has answered for the triggers registered so
            far, so whoever awaits it knows that they work. Providers that are workers do not hold it back.

        Raises:
            InvocationError: ``INVALID_NAMESPACE``.
        """
        named: str | None = data.get("namespace")
        if named is not None and not named.strip():
            raise InvocationError("INVALID_NAMESPACE", "namespace must not be blank; leave it out for `default`")
        # Fixed by the first success or by the grace; another one later is ignored (§6.2, E-36).
        namespace = session.namespace or named or DEFAULT_NAMESPACE
        name = clean_label(data.get("name"))
        if name is not None:
            owner = self._names.setdefault((namespace, name), session)
            if owner is not session:
                self._reject_name(session, namespace, name, owner)
                return None
            if (namespace, name) not in session.names:
                if len(session.names) >= MAX_NAMES:
                    del self._names[namespace, name]
                    raise InvocationError("INVALID_ARGUMENTS", f"this worker has had {MAX_NAMES} names; keep to one")
                session.names.append((namespace, name))
        session.identity.update(data)
        if session.phase is Phase.HELD:
            self._fix_namespace(session, namespace)
        self._observers.worker_registered(session)
        self._events.worker_changed("worker_metadata_updated", session)
        guard = self._guards.get(session)
        if guard is None:
            return self._when_triggers_work(session, {"success": True})
        deferred = Deferred()
        if guard.when_idle(lambda: deferred.follow(self._when_triggers_work(session, {"success": True}))):
            return deferred  # registration hooks are being asked
        return self._when_triggers_work(session, {"success": True})

    def _when_triggers_work(self, session: EngineSession, answer: dict[str, Any]) -> object:
        deferred = Deferred()
        if not self._triggers.when_answered(session, lambda: deferred.settle(answer)):
            return answer

        def overdue() -> None:
            if not deferred.is_settled:
                logger.warning(
                    "triggers of worker %s still wait for their provider; its register call not", session.label
                )
                deferred.settle(answer)

        self._call_later(PROVIDER_TIMEOUT, overdue)
        return deferred

    def _reject_name(self, session: EngineSession, namespace: str, name: str, owner: EngineSession) -> None:
        """Refuse a name that a live worker has: the rejection, then a close frame without status (P-110)."""
        owner_id = "" if owner.is_in_process else owner.worker_id
        self._outgoing.try_send(
            session,
            RegistrationRejected("WORKER_NAMESPACE_CONFLICT", namespace, worker_name=name, owner_worker_id=owner_id),
        )
        logger.warning("worker %s refused: %s is a live worker in %s", session.label, shorten(name), shorten(namespace))
        self._outgoing.condemn(session, None, "")

    # -- the end, or another connection of the same worker ---------------------------------------------------------

    def release(self, session: EngineSession) -> None:
        """Free the names of a connection that is over."""
        for key in session.names:
            del self._names[key]
        session.names.clear()


def may_evict(previous: EngineSession, message: Reattach) -> bool:
    """Whether a ``reattach`` comes from the worker that had the previous connection (§6.5)."""
    return hmac.compare_digest(previous.reattach_token.encode(), (message.reattach_token or "").encode())
