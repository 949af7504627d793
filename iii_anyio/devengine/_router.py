"""The engine without I/O: one message in, what it leads to out. Its parts are made and joined here.

    a message ─► held until the namespace is known (``_identities``) ─► ``_guard``, on a guarded listener
              ├─ a registration            ``_registrations`` ─► ``_functions``, ``_triggers``
              ├─ a call                    ``_invocations`` ─► ``_forwarding`` ─► the callee
              ├─ a result                  ``_answers`` ─► the caller
              └─ about observers           ``_observer_reports`` ─► ``_observers``
    what is sent                           ``_outgoing``

Below: ``_protocol`` (one ``EngineSession`` per connection), and the parts. Above: the tasks of ``_connection``, which
feed ``receive`` and write what ``take_dirty`` names.

Every public method runs to its end without waiting, and never raises because of what a worker sent. What is to be
done afterwards is in the sessions of ``take_dirty`` and the wishes of ``take_timers``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._protocol.calls import new_id as new_uuid
from .._protocol.codec import decode
from .._protocol.engine_session import EngineSession, Phase
from .._protocol.messages import (
    InvocationResult,
    InvokeFunction,
    Message,
    Ping,
    Pong,
    Reattach,
    TriggerRegistrationResult,
    Unknown,
    WorkerRegistered,
)
from ..errors import DecodeError, InvocationError
from ._answers import Answers
from ._builtin import Deferred, Timer
from ._engine_events import EngineEvents
from ._engine_functions import MAX_BUFFER, Channel, engine_builtins
from ._errors import shorten
from ._forwarding import Forwarding
from ._functions import FunctionTable
from ._guard import Guard
from ._identities import Identities, may_evict
from ._introspection import introspection_builtins
from ._invocations import Invocations
from ._legacy_triggers import LegacyTriggers
from ._observability_functions import observability_builtins
from ._observer_owners import FEATURES
from ._observer_reports import observe_handlers, observer_builtins
from ._observers import Observers
from ._outgoing import Outgoing
from ._registrations import registration_handlers
from ._telemetry import PREFIXES, Telemetry
from ._triggers import TriggerTable
from ._watching import Watching

if TYPE_CHECKING:
    from ._access import Grants
    from ._listeners import Listener

__all__ = ("Router",)

logger = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
_BRACE: Final = ord("{")
"""What nearly every message begins with, and no telemetry frame."""


class Router:
    """Routes between sessions. Not thread-safe, and not re-entrant: ``on_event`` must not call back.

    Args:
        now_ms: Wall-clock milliseconds.
        new_id: Makes canonical UUIDv4 strings.
        on_event: Told every ``engine::workers-available`` and ``engine::functions-available`` event: type, payload.
        version: Shown as the version of in-process workers.
        telemetry: Where telemetry goes, by default to a new one with the system's clock.
        inject_caller_id: Put ``_caller_worker_id`` into object data of worker calls, as upstream does (P-119).
        max_outgoing: Bytes that may wait for one worker; one that reads too slowly is dropped.
        max_held: Registrations one connection may send before its namespace is known.
        max_registrations: Functions, triggers, trigger types and services that one connection may have.
        max_parked: Triggers without a provider that one connection may have.
        max_in_flight: Calls one connection may have open.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        new_id: Callable[[], str] = new_uuid,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        version: str = "0.23.0",
        telemetry: Telemetry | None = None,
        inject_caller_id: bool = True,
        max_outgoing: int = 256 * MIB,
        max_held: int = 10_000,
        max_registrations: int = 100_000,
        max_parked: int = 10_000,
        max_in_flight: int = 50_000,
    ) -> None:
        self.now_ms = now_ms
        self.new_id = new_id
        self.version = version
        self.started_at_ms: int = now_ms()
        self.sessions: dict[str, EngineSession] = {}
        """Live connections by worker id."""
        self.channels: dict[str, Channel] = {}
        """Channels made by ``engine::channels::create``, by id. Whoever serves them also removes them."""
        self.telemetry: Telemetry = telemetry if telemetry is not None else Telemetry(version=version)
        self._timers: list[Timer] = []
        self._outgoing = Outgoing(max_bytes=max_outgoing)
        send, try_send = self._outgoing.send, self._outgoing.try_send
        self.functions: FunctionTable = FunctionTable()
        self.triggers: TriggerTable = TriggerTable(try_send, max_parked=max_parked)
        self.guards: dict[EngineSession, Guard] = {}
        """Of the connections that came in by a guarded listener."""
        self.observers: Observers = Observers(
            self.functions, self.guards, try_send, call_later=self.call_later, new_id=new_id
        )
        watching = Watching(self.observers, self.telemetry, new_id=new_id, now_ms=now_ms)
        self.answers: Answers = Answers(watching, self.telemetry, send, try_send, max_in_flight=max_in_flight)
        self.forwarding: Forwarding = Forwarding(
            self.functions, self.guards, self.answers, watching, self.telemetry, send,
            new_id=new_id, max_in_flight=max_in_flight,
        )  # fmt: skip
        self.invocations: Invocations = Invocations(
            self.functions, self.guards, self.answers, self.forwarding, watching, self.observers, self.telemetry,
            new_id=new_id, inject_caller_id=inject_caller_id, max_in_flight=max_in_flight,
        )  # fmt: skip
        self.observers.activations.connect(self.invocations, self.forwarding, self.answers)
        legacy = LegacyTriggers(self.triggers, self.observers.table, self.guards, new_id=new_id)
        self.functions.told += (self.observers, legacy)
        self.events: EngineEvents = EngineEvents(
            self.functions, self.triggers, self.forwarding, self.telemetry, on_event
        )
        self.identities: Identities = Identities(
            self.guards, self._outgoing, self.triggers, self.observers, self.events,
            perform=self._handle, call_later=self.call_later, max_held=max_held,
        )  # fmt: skip
        for builtin in (
            *engine_builtins(self),
            *introspection_builtins(self),
            *observability_builtins(self),
            *observer_builtins(self.observers),
        ):
            self.functions.add_builtin(builtin)
        self.functions.take_changed()
        self._observe_handlers = observe_handlers(self.observers, self.telemetry)
        self._handlers: dict[type[Any], Callable[[EngineSession, Any], None]] = {
            InvokeFunction: self.invocations.invoke,
            InvocationResult: self.answers.result,
            TriggerRegistrationResult: self.triggers.answer,
            **registration_handlers(
                self.functions,
                self.triggers,
                try_send,
                max_registrations=max_registrations,
                overflow=self._too_many_registrations,
            ),
            **self._observe_handlers,
            Reattach: self._reattach,
            Ping: self._ping,
            Pong: self._ignore,
        }

    def __repr__(self) -> str:
        return (
            f"<Router sessions={len(self.sessions)} functions={len(self.functions)} "
            f"triggers={len(self.triggers.bindings)} invocations={len(self.answers.open)}>"
        )

    # -- what the runtime calls ----------------------------------------------------------------------------------

    def connect(
        self,
        *,
        ip_address: str | None = None,
        in_process: bool = False,
        access: tuple[Listener, Grants] | None = None,
    ) -> EngineSession:
        """Take a new connection; its first frame waits in ``outgoing`` (P-107).

        Args:
            ip_address: Of the worker.
            in_process: Whether it is one of the engine's own.
            access: The guarded listener it came in by, and what it may do there.
        """
        session = EngineSession(
            self.new_id(),
            self.new_id(),
            connected_at_ms=self.now_ms(),
            ip_address=ip_address,
            is_in_process=in_process,
        )
        self.sessions[session.worker_id] = session
        if access is not None:
            self.guards[session] = Guard(
                self,
                session,
                *access,
                perform=self._handle,
                send=self._outgoing.try_send,
                overflow=lambda guarded: self._outgoing.condemn(
                    guarded, 1008, "too many messages behind a registration"
                ),
                max_bytes=self._outgoing.max_bytes,
            )
        self._outgoing.send(session, WorkerRegistered(session.worker_id, session.reattach_token, list(FEATURES)))
        self.events.worker_changed("worker_connected", session)
        self._reap()
        return session

    def receive(self, session: EngineSession, text: bytes) -> None:
        """Take one message. Blank text is ignored; what cannot be decoded is logged, answered if possible (P-103)."""
        if not session.is_live or not text or text.isspace():
            return
        if text[0] != _BRACE and text[:4] in PREFIXES:  # P-105
            self.telemetry.receive(text, f"worker {session.label}")
            return
        try:
            message = decode(text)
        except DecodeError as error:
            logger.warning("message of worker %s dropped: %s", session.label, error)
            self.answers.undecodable(session, text, str(error))
        else:
            if session.must_hold(message) or (
                session.phase is Phase.HELD and type(message) in self._observe_handlers  # what it declares is unknown
            ):
                self.identities.hold(session, message, len(text))
            elif (guard := self.guards.get(session)) is not None:
                guard.receive(message, len(text))
            else:
                self._handle(session, message)
        self._reap()

    def disconnect(self, session: EngineSession) -> None:
        """Note that the socket has ended, and take down what the connection held (§7.5). Idempotent."""
        was_live = session.is_live
        session.ended()
        if was_live:
            self._tear_down(session)
        self._outgoing.forget(session)
        self._reap()

    def grace_expired(self, session: EngineSession) -> None:
        """Put a connection that has not named its namespace in time into ``default``, for good (P-109)."""
        self.identities.grace_expired(session)
        self._reap()

    def timer_expired(self, timer: Timer) -> None:
        """Carry out what was to happen after ``timer.seconds``."""
        timer.callback()
        self._reap()

    def settle(self, deferred: Deferred, result: Any = None, error: InvocationError | None = None) -> None:
        """Deliver what a call came to that the engine makes outside the router."""
        deferred.settle(result, error)
        self._reap()

    def take_dirty(self) -> list[EngineSession]:
        """Sessions whose ``outgoing``, ``close`` or ``abort`` changed since the last call."""
        return self._outgoing.take_dirty()

    def take_timers(self) -> list[Timer]:
        """Timers wished for since the last call."""
        timers, self._timers = self._timers, []
        return timers

    @property
    def functions_changed(self) -> bool:
        """Whether functions came or went since ``fire_functions_available`` last ran."""
        return self.functions.has_changed

    def fire_functions_available(self) -> bool:
        """Fire ``engine::functions-available`` if the set of functions differs from the last time's (E-48, E-49)."""
        has_changed = self.events.functions_available()
        self._reap()
        return has_changed

    # -- ends of connections -------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while self._outgoing.condemned:
            self._tear_down(self._outgoing.condemned.pop())

    def _tear_down(self, session: EngineSession) -> None:
        """Release what a connection holds, in the order of §7.5."""
        self.sessions.pop(session.worker_id, None)
        self.guards.pop(session, None)
        self.functions.release_all(session)
        self.answers.release(session)
        self.triggers.release(session)
        self.observers.release(session)
        self.identities.release(session)
        session.services.clear()
        self.events.worker_changed("worker_disconnected", session)

    # -- dispatch ------------------------------------------------------------------------------------------------

    def _handle(self, session: EngineSession, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(session, message)
        else:
            known = "does not know" if isinstance(message, Unknown) else "only sends"
            logger.warning(
                "message of worker %s dropped: this engine %s type %s", session.label, known, shorten(message.type)
            )

    def _ping(self, session: EngineSession, _message: Ping) -> None:
        self._outgoing.send(session, Pong())

    def _ignore(self, session: EngineSession, message: Message) -> None:
        pass

    def _reattach(self, session: EngineSession, message: Reattach) -> None:
        """Evict the connection that the worker had before, completely, before its next frame is read (§6.5, P-112)."""
        previous = self.sessions.get(message.previous_worker_id)
        if previous is None or previous is session:
            return
        if may_evict(previous, message):
            self._outgoing.end(previous, None, "evicted by a reattach", abort=True)
            self._tear_down(previous)

    def _too_many_registrations(self, session: EngineSession) -> None:
        logger.warning("worker %s dropped: it has %d registrations", session.label, session.registrations)
        self._outgoing.condemn(session, 1008, "too many registrations")

    # -- what the parts ask for ----------------------------------------------------------------------------------

    def create_channel(self, buffer_size: int = 64) -> tuple[dict[str, str], dict[str, str]]:
        """Make a channel; returns the references to its writing and its reading end (§12.1, E-39)."""
        size = min(max(buffer_size, 1), MAX_BUFFER)
        channel = Channel(self.new_id(), self.new_id(), size, self.now_ms())
        self.channels[channel.channel_id] = channel
        return channel.ref("write"), channel.ref("read")

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Wish for a timer."""
        self._timers.append(Timer(seconds, callback))
