"""Trigger types, the bindings of functions to them, and who is told what about them (§9).

Below: nothing but messages and sessions. Above: ``_router``, which gives the function that sends.

A binding is in one of three places:

    parked     no provider, or refused by it: in no list, waiting for a provider to register (§9.2, E-24)
    awaiting   forwarded to the provider, which has not answered; counts as live (§9.1 step 5)
    live       accepted, or of a type the engine fires itself

Whatever moves a binding also answers those who wait for it: nobody waits for a provider that is no longer asked.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import (
    ABSENT,
    Message,
    RegisterTrigger,
    RegisterTriggerType,
    TriggerRegistrationResult,
    UnregisterTrigger,
    UnregisterTriggerType,
)
from ._errors import error_body, has_error, shorten

__all__ = (
    "FUNCTIONS_AVAILABLE",
    "REGISTRATION_FAILED",
    "WORKERS_AVAILABLE",
    "Binding",
    "StandIn",
    "TriggerTable",
    "TriggerType",
)

logger = logging.getLogger(__name__)

WORKERS_AVAILABLE: Final = "engine::workers-available"
FUNCTIONS_AVAILABLE: Final = "engine::functions-available"
REGISTRATION_FAILED: Final = "trigger_registration_failed"

Waiter: TypeAlias = "Callable[[dict[str, Any] | None], None]"
"""Called once with the provider's error, or ``None`` for success and for any end of the wait."""


class StandIn(Protocol):
    """Takes the bindings of a type in its provider's place (``_legacy_triggers``)."""

    def add(self, binding: Binding) -> None:
        """A binding is to be served from now on; ``TriggerTable.answered`` says what came of it."""
        ...

    def remove(self, binding: Binding) -> None:
        """A binding is no more, or not served here."""
        ...


@dataclass(slots=True, eq=False)
class TriggerType:
    """A trigger type. Without a provider the engine fires it itself."""

    id: str
    namespace: str
    description: str
    provider: EngineSession | None = None
    trigger_request_format: Any = ABSENT
    call_request_format: Any = ABSENT
    bindings: dict[str, Binding] = field(default_factory=dict[str, "Binding"])
    stand_in: StandIn | None = None
    """Set when the provider is told nothing, but one of its functions serves the bindings as observers."""

    @property
    def is_builtin(self) -> bool:
        """Whether the engine itself or one of its built-in workers provides it."""
        return self.provider is None or self.provider.is_in_process


@dataclass(slots=True, eq=False)
class Binding:
    """A function bound to a trigger type. Without a registrant it is durable (§9.5)."""

    id: str
    type_id: str
    function_id: str
    config: Any
    metadata: Any
    namespace: str
    trigger_namespace: str | None
    registrant: EngineSession | None
    type: TriggerType | None = None
    is_awaiting: bool = False
    refused_by: TriggerType | None = None
    waiters: list[Waiter] = field(default_factory=list[Waiter])

    @property
    def is_for_builtin(self) -> bool:
        """Whether the engine itself or one of its built-in workers provides its type."""
        return self.type is not None and self.type.is_builtin

    def candidates(self) -> list[tuple[str, str]]:
        """Keys of the types that may serve it, best first (§9.2, T-11)."""
        if self.trigger_namespace is not None:
            return [(self.trigger_namespace, self.type_id)]
        own = self.registrant.namespace if self.registrant is not None else None
        keys = [(DEFAULT_NAMESPACE, self.type_id)]
        return keys if own is None or own == DEFAULT_NAMESPACE else [(own, self.type_id), *keys]


class TriggerTable:
    """Every trigger type, keyed by (namespace, id), and every binding, keyed by its id, which is global (G-20)."""

    def __init__(self, send: Callable[[EngineSession, Message], bool], *, max_parked: int) -> None:
        self.types: dict[tuple[str, str], TriggerType] = {}
        self.bindings: dict[str, Binding] = {}
        self._stand_ins: dict[tuple[str, str], TriggerType] = {}
        self._parked: dict[str, dict[str, Binding]] = {}
        self._parked_count: Counter[EngineSession | None] = Counter()
        self._send = send
        self._max_parked = max_parked

    def add_engine_type(self, type_id: str, description: str, call_request_format: Any) -> None:
        """Add a type that the engine fires itself."""
        trigger_type = TriggerType(type_id, DEFAULT_NAMESPACE, description, call_request_format=call_request_format)
        self.types[DEFAULT_NAMESPACE, type_id] = trigger_type

    # -- types ---------------------------------------------------------------------------------------------------

    def register_type(self, session: EngineSession, namespace: str, message: RegisterTriggerType) -> None:
        """Make a connection the provider of a type, and give it every binding it serves from now on (§9.1, P-126)."""
        key = (namespace, message.id)
        previous = self.types.get(key)
        if previous is not None and previous.is_builtin and not session.is_in_process:
            # The protocol has no answer to a refused type; upstream would replace the built-in provider.
            logger.warning(
                "trigger type %s of worker %s ignored: the engine provides it; choose another id or namespace",
                shorten(message.id),
                session.label,
            )
            return
        trigger_type = TriggerType(
            message.id,
            namespace,
            message.description,
            session,
            message.trigger_request_format,
            message.call_request_format,
        )
        self.types[key] = trigger_type
        session.trigger_types[key] = None
        moving: list[Binding] = []
        if previous is not None:
            moving += previous.bindings.values()
            if previous.provider is not None and previous.provider is not session:
                previous.provider.trigger_types.pop(key, None)
        self._take_over(trigger_type, moving)

    def unregister_type(self, session: EngineSession, namespace: str, message: UnregisterTriggerType) -> None:
        """Withdraw a type; ignored unless this connection provides it."""
        key = (namespace, message.id)
        if key in session.trigger_types:
            self._drop_type(session, key)

    def _drop_type(self, session: EngineSession, key: tuple[str, str]) -> None:
        del session.trigger_types[key]
        self._leave(self.types.pop(key))

    def _leave(self, trigger_type: TriggerType) -> None:
        """Find another place for the bindings of a type that is gone."""
        for binding in list(trigger_type.bindings.values()):
            other = self._resolve(binding)
            if other is None:
                self._park(binding)
            else:
                self._settle_on(binding, other, tell_previous=False)

    def stand_in(self, trigger_type: TriggerType) -> None:
        """Have a function of the provider serve a type, as long as nobody provides it (§16.2).

        Again for the same type: those that were refused are tried again.
        """
        self._stand_ins[trigger_type.namespace, trigger_type.id] = trigger_type
        self._take_over(trigger_type, [])

    def stand_out(self, trigger_type: TriggerType) -> None:
        """The function that served a type is gone."""
        if self._stand_ins.get(key := (trigger_type.namespace, trigger_type.id)) is trigger_type:
            del self._stand_ins[key]
            self._leave(trigger_type)

    def _take_over(self, trigger_type: TriggerType, moving: list[Binding]) -> None:
        """Give a type that has come every binding it serves from now on, besides those that are moving anyway."""
        default = (DEFAULT_NAMESPACE, trigger_type.id)
        own = self._stand_ins.get((trigger_type.namespace, trigger_type.id))
        # A provider in the registrant's own namespace takes over what had settled on `default` (§9.2).
        for other in dict.fromkeys((own, self.types.get(default), self._stand_ins.get(default))):
            if other is not None and other is not trigger_type:
                moving += [binding for binding in other.bindings.values() if self._resolve(binding) is trigger_type]
        moving += [
            binding
            for binding in self._parked.get(trigger_type.id, {}).values()
            if self._resolve(binding) is trigger_type  # also those rejected earlier (§9.4)
        ]
        for binding in moving:
            self._settle_on(binding, trigger_type)

    # -- bindings ------------------------------------------------------------------------------------------------

    def register(self, registrant: EngineSession | None, message: RegisterTrigger) -> Binding | None:
        """Bind a function, replacing the binding that had this id; park it when nobody provides the type (T-3).

        Returns:
            The binding, or None when the registrant has too many parked ones.
        """
        self.unregister(message.id)
        binding = Binding(
            message.id,
            message.trigger_type,
            message.function_id,
            message.config,
            ABSENT if message.metadata is None else message.metadata,
            message.namespace if message.namespace is not None else DEFAULT_NAMESPACE,
            message.trigger_namespace,
            registrant,
        )
        trigger_type = self._resolve(binding)
        if trigger_type is None and self._parked_count[registrant] >= self._max_parked:
            return None
        self.bindings[binding.id] = binding
        if registrant is not None:
            registrant.triggers[binding.id] = None
        if trigger_type is None:
            logger.warning(
                "trigger %s for function %s waits: nobody provides type %s here, so it does not fire (yet)",
                shorten(message.id), shorten(message.function_id), shorten(message.trigger_type),
            )  # fmt: skip
            self._park(binding)
        else:
            self._settle_on(binding, trigger_type)
        return binding

    def unregister(self, trigger_id: str) -> bool:
        """Remove a binding, whoever asks (G-20), and tell its provider (P-128)."""
        binding = self.bindings.pop(trigger_id, None)
        if binding is None:
            return False
        if binding.registrant is not None:
            binding.registrant.triggers.pop(trigger_id, None)
        self._detach(binding, tell_provider=True)
        self._unpark(binding)
        self._answer_waiters(binding, None)
        return True

    def answer(self, session: EngineSession, message: TriggerRegistrationResult) -> None:
        """Take a provider's answer; only the provider that serves the binding is listened to (P-127)."""
        binding = self.bindings.get(message.id)
        if binding is None:
            return
        refused = has_error(message.error)
        if binding.type is not None and binding.type.provider is session:
            self.answered(binding, error_body(message.error, REGISTRATION_FAILED) if refused else None)
        elif (
            not refused
            and (former := binding.refused_by) is not None
            and former.provider is session
            and self._resolve(binding) is former
        ):
            # Registered again while the refusal of its predecessor was under way: the last word counts.
            self._unpark(binding)
            self._attach(binding, former)

    def answered(self, binding: Binding, error: dict[str, Any] | None) -> None:
        """Who serves a binding has taken it, or refuses it."""
        binding.is_awaiting = False
        if error is not None and binding.type is not None:
            self._refused(binding, binding.type, error)
        self._answer_waiters(binding, error)

    def when_answered(self, session: EngineSession, callback: Callable[[], None]) -> bool:
        """Call back when the in-process providers have answered for the triggers that a connection has now.

        Returns:
            Whether there is something to wait for; if not, nothing is called.
        """
        bindings = [self.bindings[trigger_id] for trigger_id in session.triggers]
        waiting = [binding for binding in bindings if binding.is_awaiting and binding.is_for_builtin]
        left = len(waiting)

        def answered(_error: dict[str, Any] | None) -> None:
            nonlocal left
            left -= 1
            if not left:
                callback()

        for binding in waiting:
            binding.waiters.append(answered)
        return bool(waiting)

    def release(self, session: EngineSession) -> None:
        """Forget a connection: its bindings at their providers, then its types (§9.4)."""
        for trigger_id in list(session.triggers):
            self.unregister(trigger_id)
        for key in list(session.trigger_types):
            self._drop_type(session, key)

    # -- moves ---------------------------------------------------------------------------------------------------

    def _resolve(self, binding: Binding) -> TriggerType | None:
        for key in binding.candidates():
            if (trigger_type := self.types.get(key) or self._stand_ins.get(key)) is not None:
                return trigger_type
        return None

    def _settle_on(self, binding: Binding, trigger_type: TriggerType, *, tell_previous: bool = True) -> None:
        """Move a binding to a type and forward it to the provider, again if it has it already (P-50)."""
        previous = binding.type
        same_provider = previous is not None and previous.provider is trigger_type.provider
        self._detach(binding, tell_provider=tell_previous and not same_provider)
        self._unpark(binding)
        self._answer_waiters(binding, None)
        self._attach(binding, trigger_type)
        if trigger_type.provider is None:
            return
        binding.is_awaiting = True
        if trigger_type.stand_in is not None:
            trigger_type.stand_in.add(binding)
            return
        self._send(
            trigger_type.provider,
            RegisterTrigger(
                binding.id,
                binding.type_id,
                binding.function_id,
                binding.config,
                binding.metadata,
                binding.namespace if binding.namespace != DEFAULT_NAMESPACE else None,
                trigger_type.namespace if trigger_type.namespace != DEFAULT_NAMESPACE else None,
            ),
        )

    def _attach(self, binding: Binding, trigger_type: TriggerType) -> None:
        binding.type = trigger_type
        trigger_type.bindings[binding.id] = binding

    def _detach(self, binding: Binding, *, tell_provider: bool) -> None:
        trigger_type, binding.type, binding.is_awaiting = binding.type, None, False
        if trigger_type is None:
            return
        trigger_type.bindings.pop(binding.id, None)
        if trigger_type.stand_in is not None:
            trigger_type.stand_in.remove(binding)
        elif tell_provider and trigger_type.provider is not None:
            self._send(trigger_type.provider, UnregisterTrigger(binding.id, binding.type_id))

    def _park(self, binding: Binding) -> None:
        self._detach(binding, tell_provider=False)
        self._parked.setdefault(binding.type_id, {})[binding.id] = binding
        self._parked_count[binding.registrant] += 1
        self._answer_waiters(binding, None)

    def _unpark(self, binding: Binding) -> None:
        binding.refused_by = None
        parked = self._parked.get(binding.type_id)
        if parked is None or parked.get(binding.id) is not binding:
            return
        del parked[binding.id]
        if not parked:
            del self._parked[binding.type_id]
        self._parked_count[binding.registrant] -= 1
        if not self._parked_count[binding.registrant]:
            del self._parked_count[binding.registrant]

    def _refused(self, binding: Binding, trigger_type: TriggerType, error: dict[str, Any]) -> None:
        """Park what the provider refused and tell the registrant, who hears of failures only (§9.1 step 5)."""
        waiters, binding.waiters = binding.waiters, []
        self._park(binding)
        binding.waiters = waiters
        binding.refused_by = trigger_type
        if binding.registrant is not None:
            self._send(
                binding.registrant,
                TriggerRegistrationResult(binding.id, binding.type_id, binding.function_id, error),
            )
            if self._parked_count[binding.registrant] > self._max_parked:
                self.unregister(binding.id)

    def _answer_waiters(self, binding: Binding, error: dict[str, Any] | None) -> None:
        waiters, binding.waiters = binding.waiters, []
        for waiter in waiters:
            waiter(error)
