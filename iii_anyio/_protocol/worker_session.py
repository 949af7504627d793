"""The worker's side of the conversation, across all its links, without I/O.

Owns the registry, our calls, the identity the engine gave us and what must be sent. Below: ``codec``, ``calls``,
``registry``. Above: ``_runtime/link`` feeds ``receive`` and writes ``take_outgoing``.

Phases, one at a time:

    OFFLINE ──link_up──► JOINING ──register answered──► JOINED
       ▲                    │                             │
       └────── link_down ───┴──────────── link_down ──────┘
    REFUSED: the engine refused this worker for good; from any phase, never left.

On link_up the outgoing order is reattach (only with an identity of an earlier link, G-11), trigger types, functions,
triggers, then ``engine::workers::register`` *with* an invocation id: its answer says that everything before it has been
applied (§6.2), which makes it the barrier behind ``is_ready``. Calls wait for that answer, because until then our own
functions cannot be found (G-8); registrations made meanwhile do not.

What belongs to observers is *settled* once per link, when it has joined and the engine has said on it what it knows:
with ``observe.v1`` our observers follow, without it they fail and nothing of the family is sent (§16.1, §16.10).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..errors import (
    AuthenticationError,
    ConnectionLostError,
    IIIError,
    InvocationError,
    RegistrationRejectedError,
    TriggerRegistrationError,
)
from .calls import Call, CallTable, new_id
from .codec import encode, parse, read
from .messages import (
    ABSENT,
    ErrorMessage,
    FunctionRegistered,
    InvocationResult,
    InvokeFunction,
    Message,
    ObserverAdded,
    ObserveResult,
    ObserverRemoved,
    ObserverStateChanged,
    Ping,
    Pong,
    Reattach,
    RegistrationRejected,
    TriggerRegistrationResult,
    UnregisterTrigger,
    WorkerRegistered,
)
from .messages import RegisterTrigger as RegisterTriggerMessage
from .observing import Observation, Observations
from .registry import Registration, Registry

__all__ = ("Keepsake", "Phase", "WorkerSession")

REGISTER_WORKER = "engine::workers::register"
FEATURE_OBSERVE = "observe.v1"


class Phase(enum.Enum):
    """Where the conversation with the engine stands."""

    OFFLINE = enum.auto()
    JOINING = enum.auto()
    JOINED = enum.auto()
    REFUSED = enum.auto()


class Keepsake:
    """A text that is not lost with its link: when it was not written, ``unwritten`` is called."""

    __slots__ = ("text", "unwritten")

    def __init__(self, text: bytes, unwritten: Callable[[], None]) -> None:
        self.text: bytes = text
        self.unwritten: Callable[[], None] = unwritten


NAME_CONFLICT: Final = "WORKER_NAMESPACE_CONFLICT"
MAX_CONFLICTS: Final = 10
"""Refusals of our name that may be due to a lost connection of our own; about three minutes with the usual delays."""

_JOINING: Final = Phase.JOINING
_JOINED: Final = Phase.JOINED
"""Members looked up once: an enumeration finds its members by a function each time."""


class WorkerSession:
    """See the module's rules. Not thread-safe: everything here runs on the loop.

    Raises:
        EncodeError: The identity is not JSON.
    """

    def __init__(self, identity: dict[str, Any], *, max_queued: int) -> None:
        encode(InvokeFunction(REGISTER_WORKER, identity))  # or else ``link_up`` would fail, half-way, on every link
        self.phase: Phase = Phase.OFFLINE
        self.registry: Registry = Registry()
        self.calls: CallTable = CallTable(max_queued=max_queued)
        self.observations: Observations = Observations()
        self.worker_id: str | None = None
        self.features: list[str] = []
        self.knows_observers: bool = False
        """Whether the engine does, as far as it has said last. Calls say then where they come from (P-58)."""
        self.settled: Callable[[bool], None] | None = None
        """Called when a link is settled, with whether it takes what belongs to observers."""
        self.link: int = 0
        """Number of the current or last link; an invocation belongs to one and its result is sent on no other."""
        self.revision: int = 0
        """Grows whenever phase, identity, readiness or refusals change."""
        self.fatal: RegistrationRejectedError | None = None
        self._greeted_link = 0  # on which the engine has last said who we are
        self._may_have_ghost = False
        self._conflicts = 0
        self.refused_credentials: AuthenticationError | None = None
        self.outgoing_bytes: int = 0
        self._outgoing: list[bytes | Call | Keepsake] = []
        self._identity = identity
        self._reattach_token: str | None = None
        self._announced = 0  # registrations put out on this link
        self._confirmed = -1  # how many of them the engine has confirmed
        self._barrier: Call | None = None
        self._features_link = 0  # on which the engine has said what it knows

    # -- links ---------------------------------------------------------------------------------------------------

    def link_up(self, now: float) -> None:
        """Start the conversation on a new link. Not for a worker that was refused."""
        self.phase = Phase.JOINING
        self.link += 1
        self.revision += 1
        self.refused_credentials = None
        self._announced, self._confirmed = 0, -1
        if self.worker_id is not None:
            self._put(encode(Reattach(self.worker_id, self._reattach_token)))
        for registration in self.registry.replay():
            self.announce(registration)
        self._open_barrier(now)

    def link_down(self) -> int:
        """End the link: written calls fail, unwritten ones wait for the next link, everything else is dropped.

        Returns:
            How many messages were dropped: registrations, which the next link replays, and results of invocations,
            whose caller can no longer be reached (P-45).
        """
        unwritten = [item for item in self._outgoing if isinstance(item, Call)]
        keepsakes = [item for item in self._outgoing if isinstance(item, Keepsake)]
        dropped = len(self._outgoing) - len(unwritten) - len(keepsakes)
        self._outgoing, self.outgoing_bytes = [], 0
        for keepsake in reversed(keepsakes):  # each goes to the front of what waits
            keepsake.unwritten()
        self._drop_barrier()
        self.calls.requeue(unwritten)
        if self.phase is _JOINING and self._greeted_link != self.link:
            # The engine may have taken the register call on a link that has gone silent. It does not notice (§3.2), and
            # without its greeting there is nothing to reattach to: it will hold our name against us (§6.5).
            self._may_have_ghost = True
        if self.phase is not Phase.REFUSED:
            self.phase = Phase.OFFLINE
        self._confirmed = -1
        self.revision += 1
        self.calls.fail_sent(
            lambda call: ConnectionLostError(
                "CONNECTION_LOST",
                "the connection to the engine was lost before the answer came; the function may have run",
                call.function_id,
                None,
                call.invocation_id,
            )
        )
        return dropped

    # -- what goes out -------------------------------------------------------------------------------------------

    def _put(self, item: bytes) -> None:
        self._outgoing.append(item)
        self.outgoing_bytes += len(item)

    @property
    def has_outgoing(self) -> bool:
        """Whether ``take_outgoing`` has something."""
        return bool(self._outgoing)

    def take_outgoing(self) -> list[bytes]:
        """Hand over what must be written now, in order; from here on a call counts as sent."""
        items, self._outgoing, self.outgoing_bytes = self._outgoing, [], 0
        texts: list[bytes] = []
        for item in items:
            if isinstance(item, Call):
                if not item.is_done:  # a call whose caller gave up is never sent
                    texts.append(item.text)
                    item.is_sent = True
                    if item.invocation_id is None:
                        item.end()
                    else:
                        item.text = b""
            elif isinstance(item, Keepsake):
                texts.append(item.text)
            else:
                texts.append(item)
        return texts

    def submit(self, call: Call, now: float) -> None:
        """Send a call, or let it wait for a link. A call that is refused here was never made: it ends by no other way.

        Raises:
            RegistrationRejectedError: The engine has refused this worker (P-17).
            OfflineQueueFullError: There is no link, and too many calls wait for one.
        """
        if self.phase is _JOINED:
            self._outgoing.append(call)
            self.outgoing_bytes += len(call.text)
        elif self.fatal is not None:
            raise self.fatal
        else:
            self.calls.queue(call)
        self.calls.open(call, now)

    def answer(self, link: int, text: bytes) -> bool:
        """Send the result of an invocation that came on ``link``; False when that link is gone."""
        if link != self.link or (self.phase is not _JOINED and self.phase is not _JOINING):
            return False
        self._outgoing.append(text)
        self.outgoing_bytes += len(text)
        return True

    def put_keepsake(self, text: bytes, unwritten: Callable[[], None]) -> None:
        """Send a text on the current link, and have it back when it was not written."""
        self._outgoing.append(Keepsake(text, unwritten))
        self.outgoing_bytes += len(text)

    def send(self, message: Message) -> None:
        """Send any other message on the current link."""
        self._put(encode(message))

    def announce(self, registration: Registration) -> None:
        """Send a registration, once per link (P-13); while offline the replay will.

        Other threads change the registry first and have this called later, so it may be out of date by now.
        """
        if self.phase not in {Phase.JOINING, Phase.JOINED} or registration.link == self.link:
            return
        if self.registry.current(registration) is not registration:
            return
        registration.link = self.link
        registration.refusal = None
        self._announced += 1
        self._put(registration.register)
        self.revision += 1

    def withdraw(self, registration: Registration) -> None:
        """Send the withdrawal of a registration, unless a successor has replaced it at the engine (§5.1) already.

        It names only the id, and the engine ignores one that it does not know. So it is sent even if this registration
        was never announced: one that it replaced may have been.
        """
        if self.phase not in {Phase.JOINING, Phase.JOINED}:
            return
        current = self.registry.current(registration)
        if current is None or current is registration or current.link != self.link:
            self._put(registration.unregister)

    def whoami(self) -> dict[str, Any]:
        """This worker as the engine would stamp it on a call (§5.3)."""
        name = self._identity.get("name")
        caller: dict[str, Any] = {} if self.worker_id is None else {"worker_id": self.worker_id}
        return caller if name is None else caller | {"worker_name": name}

    # -- observers -------------------------------------------------------------------------------------------------

    @property
    def takes_observers(self) -> bool:
        """Whether this link takes what belongs to observers."""
        return self.phase is Phase.JOINED and self._features_link == self.link and self.knows_observers

    def observe(self, observation: Observation) -> None:
        """Send an observer of ours that was added, now or when a link can carry it."""
        if self.observations.is_live(observation) and observation.link != self.link:
            self._settle_observers()

    def unobserve(self, observation: Observation) -> None:
        """Forget an observer of ours, and tell the engine now or on the next link that can carry it (P-60)."""
        if self.observations.dispose(observation):
            self.observations.withdraw_later(observation.withdrawal)
            self._settle_observers()

    def _settle_observers(self) -> None:
        """Bring a link that has joined up to date about our observers, once the engine has said what it knows."""
        if self.phase is not Phase.JOINED or self._features_link != self.link:
            return
        if not self.knows_observers:
            self.observations.refuse()
            return
        withdrawals, texts = self.observations.to_send(self.link)
        for text in withdrawals:
            self.put_keepsake(text, partial(self.observations.withdraw_later, text))
        for text in texts:
            self._put(text)

    def _joined_or_informed(self) -> None:
        if self.phase is Phase.JOINED and self._features_link == self.link:
            self._settle_observers()
            if self.settled is not None:
                self.settled(self.knows_observers)

    # -- readiness -----------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether the engine has confirmed every registration made so far, on this link."""
        return self.phase is Phase.JOINED and self._confirmed >= self._announced

    def confirm(self, now: float) -> None:
        """Ask the engine to confirm what was registered since the last barrier, unless that is under way."""
        if self.phase is Phase.JOINED and self._barrier is None and not self.is_ready:
            self._open_barrier(now)

    def _open_barrier(self, now: float) -> None:
        mark = self._announced
        invocation_id = new_id()
        text = encode(InvokeFunction(REGISTER_WORKER, self._identity, invocation_id))
        call = Call(REGISTER_WORKER, invocation_id, text, None)  # the link's end is its timeout
        call.wake = lambda: self._barrier_ended(call, mark)
        self._barrier = call
        self.calls.open(call, now)
        self._outgoing.append(call)
        self.outgoing_bytes += len(text)

    def _barrier_ended(self, call: Call, mark: int) -> None:
        """The engine has answered; whatever else ends a barrier drops it first."""
        self._barrier = None
        self.revision += 1
        if isinstance(call.error, InvocationError) and self.phase is Phase.JOINING:
            # FORBIDDEN, INVALID_NAMESPACE (§6.2): asking again cannot help.
            refusal = RegistrationRejectedError(
                call.error.code, self._identity.get("namespace"), self._identity.get("name"), None
            )
            refusal.__cause__ = call.error  # what the engine said about it
            self._refuse(refusal)
            return
        # Once the namespace is known, an error confirms as well: registrations are handled in order, before the
        # invocations that follow them (§3.4).
        self._confirmed = max(self._confirmed, mark)
        if self.phase is Phase.JOINING:
            self.phase = Phase.JOINED
            self._may_have_ghost, self._conflicts = False, 0
            for queued in self.calls.take_queued():
                self._outgoing.append(queued)
                self.outgoing_bytes += len(queued.text)
            self._joined_or_informed()

    def _drop_barrier(self) -> None:
        barrier, self._barrier = self._barrier, None
        if barrier is not None:
            self.calls.abandon(barrier)

    def _refuse(self, error: RegistrationRejectedError) -> None:
        self.phase = Phase.REFUSED
        self.fatal = error
        self.fail(error)

    # -- what comes in -------------------------------------------------------------------------------------------

    def receive(self, text: bytes) -> Message | None:
        """Take one message. Returns it when the runtime has to act on it (or may want to log it), else None.

        Raises:
            DecodeError: Not a message; the caller logs it and reads on (P-10).
        """
        fields = parse(text)
        if len(fields) == 4 and self._take_result(fields):
            return None
        message = read(fields)
        if isinstance(message, InvocationResult):
            error = None
            if message.error is not ABSENT:
                error = InvocationError.from_wire(
                    message.error,
                    call.function_id if (call := self.calls.get(message.invocation_id)) else message.function_id,
                    message.invocation_id,
                )
            result = None if message.result is ABSENT else message.result
            self.calls.settle(message.invocation_id, result, error)
            return None
        if isinstance(message, InvokeFunction | RegisterTriggerMessage | UnregisterTrigger):
            return message
        if isinstance(message, FunctionRegistered | ObserverAdded | ObserverRemoved):
            return message
        if isinstance(message, ObserveResult | ObserverStateChanged):
            self.observations.take(message)
            return message
        if isinstance(message, WorkerRegistered):
            self._greeted_link = self.link
            self.worker_id = message.worker_id
            self._reattach_token = message.reattach_token
            self.features = message.features or []
            self.knows_observers = FEATURE_OBSERVE in self.features
            self._features_link = self.link
            self.revision += 1
            self._joined_or_informed()
            return None
        if isinstance(message, RegistrationRejected):
            self._rejected(message)
            return message
        if isinstance(message, TriggerRegistrationResult):
            return self._trigger_result(message)
        if isinstance(message, ErrorMessage):
            error = InvocationError.from_wire(message.error)
            self.refused_credentials = AuthenticationError(error.code, error.message)
            self.revision += 1
            return message
        if isinstance(message, Ping):
            self.send(Pong())
        return None

    def _take_result(self, fields: dict[str, Any]) -> bool:
        """End a call by a result that has nothing but the result, as most of what comes to a caller."""
        invocation_id: Any = fields.get("invocation_id")
        if (
            fields["type"] != "invocationresult" or "result" not in fields
            or invocation_id.__class__ is not str or fields.get("function_id").__class__ is not str
        ):  # fmt: skip
            return False
        self.calls.settle(invocation_id, fields["result"], None)
        return True

    def _rejected(self, message: RegistrationRejected) -> None:
        error = RegistrationRejectedError(
            message.code, message.namespace, message.worker_name, message.owner_worker_id, message.function_id
        )
        self.revision += 1
        if message.code == NAME_CONFLICT and self._may_have_ghost and self._conflicts < MAX_CONFLICTS:
            self._conflicts += 1
            self._drop_barrier()  # nothing will confirm this link: the engine closes it, and the next one tries again
        elif message.code != "FUNCTION_NAMESPACE_CONFLICT":  # P-17: any other code is fatal
            self._refuse(error)
        elif (function := self.registry.functions.get(message.function_id or "")) is not None:
            function.refusal = error

    def _trigger_result(self, message: TriggerRegistrationResult) -> Message | None:
        if message.error is ABSENT:
            return None
        error = InvocationError.from_wire(message.error)
        if (trigger := self.registry.triggers.get(message.id)) is not None:
            trigger.refusal = TriggerRegistrationError(
                error.code, error.message, message.id, message.trigger_type, message.function_id
            )
            self.revision += 1
        return message

    def fail(self, error: IIIError) -> None:
        """End every call: the worker is over (P-35)."""
        self._drop_barrier()
        self.calls.fail_all(lambda _call: error)
        for item in self._outgoing:
            if isinstance(item, Call):
                item.end(error=error)  # a void call on its way to the writer: in no table any more
