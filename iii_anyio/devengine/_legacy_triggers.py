"""Old triggers as observers: a function can say that it takes the triggers of a type (``legacy_trigger_type``, §16.2).

    registertrigger ─► _triggers: nobody provides the type, but a function stands in ─► an observer of that function
    the owner emits ─► the target gets the bare event, as from a trigger; the owner finds the config in ``legacy``

A provider of the type goes before such a function, also one that comes later. Of several functions the first serves,
until it goes. What the owner refuses is refused to the registrant, in a ``triggerregistrationresult``; the worker that
has registered the trigger need not know of observers, and is told nothing else. What this engine does is what the SDKs
leave room for: no page or transcript shows it (§16.3 names the field).

Below: ``_triggers`` finds who serves a binding, ``_observer_table`` keeps the observers. Above: ``_functions`` tells
what comes and goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._protocol.messages import ABSENT
from ..errors import ObserveRejection
from ..filter import compile_filter
from ._activations import Observer
from ._errors import shorten
from ._observer_specs import Key, legacy_spec
from ._observer_table import ObserverTable
from ._triggers import Binding, TriggerTable, TriggerType

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from ._functions import Function
    from ._guard import Guard

__all__ = ("LegacyTriggers",)

logger = logging.getLogger(__name__)


class LegacyTriggers:
    """The functions that take old triggers, by the type that each takes.

    Args:
        triggers: Says which bindings there are.
        table: Keeps the observers.
        guards: Of the connections of guarded listeners, which have no such functions: whether they may provide types
            is asked about the types that they register.
        new_id: Makes ids of observers.
    """

    def __init__(
        self,
        triggers: TriggerTable,
        table: ObserverTable,
        guards: dict[EngineSession, Guard],
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._triggers = triggers
        self._table = table
        self._guards = guards
        self._new_id = new_id
        self._types: dict[Key, TriggerType] = {}
        self._by_type: dict[Key, dict[Key, TriggerType]] = {}

    def function_put(self, function: Function) -> None:
        """A function has been registered, perhaps again, perhaps for another type."""
        key = function.namespace, function.id
        type_id, owner = function.observability.legacy_trigger_type, function.owner
        known = self._types.get(key)
        if known is not None and (known.id != type_id or known.provider is not owner):
            self.function_gone(function)
            known = None
        if type_id is None or owner is None:
            return
        if owner in self._guards:
            logger.warning(
                "function %s of worker %s takes no triggers of type %s: it is behind a guarded listener",
                shorten(function.id), owner.label, shorten(type_id),
            )  # fmt: skip
            return
        if known is None:
            stand_in = _StandIn(key, self._triggers, self._table, self._new_id, {})
            known = TriggerType(type_id, function.namespace, f"Observers of {function.id}", owner, stand_in=stand_in)
            self._types[key] = known
            self._by_type.setdefault((function.namespace, type_id), {})[key] = known
            provided = self._triggers.types.get((function.namespace, type_id))
            if provided is not None and provided.is_builtin:
                logger.warning(
                    "function %s of worker %s takes no triggers of type %s: the engine provides it",
                    shorten(function.id), owner.label, shorten(type_id),
                )  # fmt: skip
        self._serve((function.namespace, type_id))

    def function_gone(self, function: Function) -> None:
        """A function is registered no more; the next one of its type serves."""
        key = function.namespace, function.id
        gone = self._types.pop(key, None)
        if gone is None:
            return
        type_key = gone.namespace, gone.id
        others = self._by_type[type_key]
        del others[key]
        if not others:
            del self._by_type[type_key]
        self._triggers.stand_out(gone)
        self._serve(type_key)

    def _serve(self, type_key: Key) -> None:
        functions = self._by_type.get(type_key)
        if functions:
            self._triggers.stand_in(next(iter(functions.values())))


@dataclass(slots=True, eq=False)
class _StandIn:
    """One function in the place of a provider."""

    source: Key
    triggers: TriggerTable
    table: ObserverTable
    new_id: Callable[[], str]
    observers: dict[str, Observer]
    """By the binding's id."""

    def add(self, binding: Binding) -> None:
        """Make an observer for a binding."""
        target = binding.namespace, binding.function_id
        metadata = None if binding.metadata is ABSENT else binding.metadata
        spec = legacy_spec(self.source, target, binding.type_id, binding.config, metadata)
        try:
            if target == self.source:
                raise ObserveRejection("SELF_TARGET", f"{target[1][:1000]} would call itself for ever")
            self.table.check_number(None, spec)
        except ObserveRejection as refusal:
            self.triggers.answered(binding, {"code": refusal.code, "message": refusal.message})
            return
        observer = Observer(self.new_id(), spec, compile_filter({}), binding.registrant)
        observer.judged = lambda judged: self._judged(binding, judged)
        self.observers[binding.id] = observer
        self.table.add(observer)
        self.table.judge(observer)

    def remove(self, binding: Binding) -> None:
        """Remove the observer of a binding."""
        observer = self.observers.pop(binding.id, None)
        if observer is not None:
            self.table.remove(observer)

    def _judged(self, binding: Binding, observer: Observer) -> None:
        if observer.refusal is not None:
            self.triggers.answered(binding, observer.refusal)
        elif observer.is_acked and binding.is_awaiting:
            self.triggers.answered(binding, None)
