"""The engine without I/O: connections, identities, registrations, and the way of every message between workers.

Below: ``_protocol`` (one ``EngineSession`` per connection), ``_functions``, ``_triggers``, ``_invocations``. Above: the
tasks of ``_connection``, which feed ``receive`` and write what ``take_dirty`` names.

Every public method runs to its end without waiting, and never raises because of what a worker sent. What is to be
done afterwards is in the sessions of ``take_dirty`` and the wishes of ``take_timers``.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._protocol.calls import new_id as new_uuid
from .._protocol.codec import decode
from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession, Phase, clean_label
from .._protocol.messages import (
    InvocationResult,
    InvokeFunction,
    Message,
    Ping,
    Pong,
    Reattach,
    RegistrationRejected,
    TriggerRegistrationResult,
    Unknown,
    WorkerRegistered,
)
from ..errors import DecodeError, EncodeError, InvocationError, PayloadTooLargeError
from ._builtin import Deferred, Timer
from ._engine_functions import MAX_BUFFER, PROVIDER_TIMEOUT, Channel, engine_builtins
from ._errors import shorten
from ._functions import FunctionTable
from ._guard import Guard
from ._introspection import FUNCTIONS_CHANGED_SCHEMA, WORKERS_CHANGED_SCHEMA, introspection_builtins
from ._invocations import Invocations
from ._observability_functions import observability_builtins
from ._observer_owners import FEATURES
from ._observer_reports import observe_handlers, observer_builtins
from ._observers import Observers
from ._registrations import registration_handlers
from ._rows import function_row
from ._telemetry import PREFIXES, Telemetry
from ._triggers import FUNCTIONS_AVAILABLE, WORKERS_AVAILABLE, TriggerTable

if TYPE_CHECKING:
    from ._access import Grants
    from ._listeners import Listener

__all__ = ("Router",)

logger = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
_BRACE: Final = ord("{")
"""What nearly every message begins with, and no telemetry frame."""
MAX_NAMES: Final = 100
"""Names one connection may take by registering again; it keeps them all until it ends (§6.2)."""


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
        self._on_event = on_event
        self._max_outgoing = max_outgoing
        self._max_held = max_held
        self._names: dict[tuple[str, str], EngineSession] = {}
        self._dirty: dict[EngineSession, None] = {}
        self._condemned: list[EngineSession] = []
        self._timers: list[Timer] = []
        self.functions: FunctionTable = FunctionTable()
        self.triggers: TriggerTable = TriggerTable(self._try_send, max_parked=max_parked)
        guards: dict[EngineSession, Guard] = {}
        self.observers: Observers = Observers(
            self.functions, guards, self._try_send, call_later=self.call_later, new_id=new_id
        )
        self.invocations: Invocations = Invocations(
            self.functions,
            self._send,
            self._try_send,
            new_id=new_id,
            inject_caller_id=inject_caller_id,
            max_in_flight=max_in_flight,
            telemetry=self.telemetry,
            observers=self.observers,
            now_ms=now_ms,
        )
        self.guards = self.invocations.guards = guards
        self.observers.activations.invocations = self.invocations
        self.functions.put, self.functions.gone = self.observers.function_put, self.observers.function_gone
        self.triggers.add_engine_type(WORKERS_AVAILABLE, "A worker came, changed or left", WORKERS_CHANGED_SCHEMA)
        self.triggers.add_engine_type(FUNCTIONS_AVAILABLE, "The set of functions changed", FUNCTIONS_CHANGED_SCHEMA)
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
            InvocationResult: self.invocations.result,
            TriggerRegistrationResult: self.triggers.answer,
            **registration_handlers(
                self.functions,
                self.triggers,
                self._try_send,
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
            f"triggers={len(self.triggers.bindings)} invocations={len(self.invocations)}>"
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
                send=self._try_send,
                overflow=lambda guarded: self._condemn(guarded, 1008, "too many messages behind a registration"),
                max_bytes=self._max_outgoing,
            )
        self._send(session, WorkerRegistered(session.worker_id, session.reattach_token, list(FEATURES)))
        self._workers_changed("worker_connected", session)
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
            self.invocations.undecodable(session, text, str(error))
        else:
            if session.must_hold(message) or (
                session.phase is Phase.HELD and type(message) in self._observe_handlers  # what it declares is unknown
            ):
                self._hold(session, message, len(text))
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
        self._dirty.pop(session, None)
        self._reap()

    def grace_expired(self, session: EngineSession) -> None:
        """Put a connection that has not named its namespace in time into ``default``, for good (P-109)."""
        if session.phase is Phase.HELD:
            guard = self.guards.get(session)
            if guard is None or guard.keeps_held:
                self._fix_namespace(session, DEFAULT_NAMESPACE)
            else:
                session.drop_held()
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
        dirty, self._dirty = list(self._dirty), {}
        return dirty

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
        if not self.functions.take_changed():
            return False
        if self._on_event is not None or self.triggers.types[DEFAULT_NAMESPACE, FUNCTIONS_AVAILABLE].bindings:
            rows = [function_row(function) for function in self.functions]  # of thousands, so not for nobody
            self._fire(FUNCTIONS_AVAILABLE, {"event": "functions_changed", "functions": rows})
        self._reap()
        return True

    # -- sending -------------------------------------------------------------------------------------------------

    def _send(self, session: EngineSession, message: Message) -> bool:
        """Send, unless the connection is over.

        Raises:
            EncodeError: The message holds what JSON cannot carry.
            PayloadTooLargeError: It is over 64 MiB.
        """
        if not session.is_live:
            return False
        session.send(message)
        self._dirty[session] = None
        if session.outgoing_bytes > self._max_outgoing:
            logger.warning(
                "worker %s dropped: it does not read, and %d bytes wait for it", session.label, session.outgoing_bytes
            )
            self._condemn(session, 1008, "the worker does not read", abort=True)
        return True

    def _try_send(self, session: EngineSession, message: Message) -> bool:
        """Send what nobody waits for."""
        try:
            return self._send(session, message)
        except (EncodeError, PayloadTooLargeError) as error:
            logger.warning("message %s to worker %s lost: %s", message.type, session.label, error)
            return False

    def _condemn(self, session: EngineSession, code: int | None, reason: str, *, abort: bool = False) -> None:
        """End a connection from the engine's side. What it holds goes at the end of the current public method."""
        if not session.is_live:
            return
        session.end(code, reason, abort=abort)
        self._dirty[session] = None
        self._condemned.append(session)

    def _reap(self) -> None:
        while self._condemned:
            self._tear_down(self._condemned.pop())

    def _tear_down(self, session: EngineSession) -> None:
        """Release what a connection holds, in the order of §7.5."""
        self.sessions.pop(session.worker_id, None)
        self.guards.pop(session, None)
        self.functions.release_all(session)
        self.invocations.release(session)
        self.triggers.release(session)
        self.observers.release(session)
        for key in session.names:
            del self._names[key]
        session.names.clear()
        session.services.clear()
        self._workers_changed("worker_disconnected", session)

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
        self._send(session, Pong())

    def _ignore(self, session: EngineSession, message: Message) -> None:
        pass

    def _reattach(self, session: EngineSession, message: Reattach) -> None:
        """Evict the connection that the worker had before, completely, before its next frame is read (§6.5, P-112)."""
        previous = self.sessions.get(message.previous_worker_id)
        if previous is None or previous is session:
            return
        if not hmac.compare_digest(previous.reattach_token.encode(), (message.reattach_token or "").encode()):
            return
        previous.end(None, "evicted by a reattach", abort=True)
        self._dirty[previous] = None
        self._tear_down(previous)

    # -- identity ------------------------------------------------------------------------------------------------

    def _hold(self, session: EngineSession, message: Message, size: int) -> None:
        session.hold(message, size)
        if len(session.held) > self._max_held or session.held_bytes > self._max_outgoing:
            logger.warning("worker %s dropped: too many registrations before its register call", session.label)
            self._condemn(session, 1008, "too many registrations before engine::workers::register")

    def _too_many_registrations(self, session: EngineSession) -> None:
        logger.warning("worker %s dropped: it has %d registrations", session.label, session.registrations)
        self._condemn(session, 1008, "too many registrations")

    def _fix_namespace(self, session: EngineSession, namespace: str) -> None:
        guard = self.guards.get(session)
        for message in session.fix_namespace(namespace):
            if guard is None:
                self._handle(session, message)
            else:
                guard.receive(message, 0)

    def register_worker(self, session: EngineSession, data: dict[str, Any]) -> object:
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
        self.observers.worker_registered(session)
        self._workers_changed("worker_metadata_updated", session)
        guard = self.guards.get(session)
        if guard is None:
            return self._when_triggers_work(session, {"success": True})
        deferred = Deferred()
        if guard.when_idle(lambda: deferred.follow(self._when_triggers_work(session, {"success": True}))):
            return deferred  # registration hooks are being asked
        return self._when_triggers_work(session, {"success": True})

    def _when_triggers_work(self, session: EngineSession, answer: dict[str, Any]) -> object:
        deferred = Deferred()
        if not self.triggers.when_answered(session, lambda: deferred.settle(answer)):
            return answer

        def overdue() -> None:
            if not deferred.is_settled:
                logger.warning(
                    "triggers of worker %s still wait for their provider; its register call not", session.label
                )
                deferred.settle(answer)

        self.call_later(PROVIDER_TIMEOUT, overdue)
        return deferred

    def _reject_name(self, session: EngineSession, namespace: str, name: str, owner: EngineSession) -> None:
        """Refuse a name that a live worker has: the rejection, then a close frame without status (P-110)."""
        owner_id = "" if owner.is_in_process else owner.worker_id
        self._try_send(
            session,
            RegistrationRejected("WORKER_NAMESPACE_CONFLICT", namespace, worker_name=name, owner_worker_id=owner_id),
        )
        logger.warning("worker %s refused: %s is a live worker in %s", session.label, shorten(name), shorten(namespace))
        if session.is_live:
            self._condemn(session, None, "")

    def create_channel(self, buffer_size: int = 64) -> tuple[dict[str, str], dict[str, str]]:
        """Make a channel; returns the references to its writing and its reading end (§12.1, E-39)."""
        size = min(max(buffer_size, 1), MAX_BUFFER)
        channel = Channel(self.new_id(), self.new_id(), size, self.now_ms())
        self.channels[channel.channel_id] = channel
        return channel.ref("write"), channel.ref("read")

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Wish for a timer."""
        self._timers.append(Timer(seconds, callback))

    # -- events --------------------------------------------------------------------------------------------------

    def _workers_changed(self, event: str, session: EngineSession) -> None:
        """Fire ``engine::workers-available``; in-process workers are no event (E-50, P-129)."""
        if not session.is_in_process:
            self.telemetry.worker_changed(event)
            self._fire(WORKERS_AVAILABLE, {"event": event, "worker_id": session.worker_id})

    def _fire(self, type_id: str, payload: dict[str, Any]) -> None:
        """Tell the listener, and call every bound function without caring for its answer (E-51)."""
        if self._on_event is not None:
            try:
                self._on_event(type_id, payload)
            except Exception:  # the boundary of a callback
                logger.exception("on_event failed")
        for binding in list(self.triggers.types[DEFAULT_NAMESPACE, type_id].bindings.values()):
            self.invocations.fire(binding.namespace, binding.function_id, payload, binding.metadata)
