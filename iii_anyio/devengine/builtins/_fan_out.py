"""Bound functions called one after another for one event, while the write that made it has been answered (ST-13, CF-9).

Tasks: one per event that has bindings, in the group of the built-in worker; they end with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from ...errors import EncodeError, InvocationError
from .._errors import shorten

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ...abc import Invoker
    from ...trigger import TriggerConfig

__all__ = ("Binding", "Bindings", "FanOut", "filter_text", "filters_of")

logger: Final = logging.getLogger("iii_anyio.devengine.triggers")

MAX_EVENTS: Final = 10_000
"""So many may wait for their handlers; more writes are refused until there is room."""
_HANDLER_LIMIT_MS: Final = 3_600_000
"""Ours: upstream waits without end. A handler that is lost with its worker fails at once."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A function to be called, as its trigger was registered (P-49)."""

    trigger_id: str
    function_id: str
    namespace: str
    metadata: Any
    condition_function_id: str | None

    @classmethod
    def of(cls, trigger: TriggerConfig[Any]) -> Binding:
        """The binding of a trigger.

        Raises:
            ValueError: Its config is no object, or the condition no id.
        """
        condition = filter_text(filters_of(trigger), "condition_function_id")
        if condition is not None and not condition.strip():
            raise ValueError("condition_function_id is blank; leave it out for no condition")
        namespace = trigger.namespace if trigger.namespace is not None else "default"  # §9.3
        return cls(trigger.id, trigger.function_id, namespace, trigger.metadata, condition)


class Bindings:
    """Bindings by the place that their filters name: who is to be called for a change is looked up, not searched."""

    def __init__(self) -> None:
        self._at: dict[tuple[str | None, ...], dict[str, Binding]] = {}
        self._place_of: dict[str, tuple[str | None, ...]] = {}

    def __len__(self) -> int:
        return len(self._place_of)

    def put(self, binding: Binding, place: tuple[str | None, ...]) -> None:
        """Keep it there; a trigger id in use is bound anew."""
        self.remove(binding.trigger_id)
        self._at.setdefault(place, {})[binding.trigger_id] = binding
        self._place_of[binding.trigger_id] = place

    def remove(self, trigger_id: str) -> None:
        """Forget it, if it is there."""
        place = self._place_of.pop(trigger_id, None)
        if place is not None:
            there = self._at[place]
            del there[trigger_id]
            if not there:
                del self._at[place]

    def at(self, *places: tuple[str | None, ...]) -> list[Binding]:
        """Those of any of these places."""
        return [binding for place in places for binding in self._at.get(place, {}).values()]


def filters_of(trigger: TriggerConfig[Any]) -> dict[str, Any]:
    """The config of a trigger.

    Raises:
        ValueError: It is no object (ST-15).
    """
    config: object = trigger.config
    if not isinstance(config, dict):
        raise ValueError("the trigger's config must be an object; {} is for every event")
    return cast("dict[str, Any]", config)


def filter_text(filters: dict[str, Any], key: str) -> str | None:
    """A string of a trigger's config; null is not given.

    Raises:
        ValueError: It is something else (ST-15).
    """
    value = filters.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} of the trigger's config must be a string, not {value!r:.100}")
    return value


class FanOut:
    """Calls the functions bound to events."""

    def __init__(self, iii: Invoker, group: TaskGroup, max_events: int = MAX_EVENTS) -> None:
        self._iii = iii
        self._group = group
        self._max_events = max_events
        self._events = 0

    def __repr__(self) -> str:
        return f"<FanOut {self._events} events>"

    def check_room(self, code: str, bindings: Sequence[Binding]) -> None:
        """Refuse a write whose event could not be told; before it is made.

        Raises:
            InvocationError: With this code.
        """
        if bindings and self._events >= self._max_events:
            raise InvocationError(code, f"{self._events} events wait for their trigger handlers; nothing was changed")

    def start(self, bindings: Sequence[Binding], payload: dict[str, Any]) -> None:
        """Call these functions, and wait for none."""
        if bindings:
            self._events += 1
            self._group.start_soon(self._run, bindings, payload, name="engine trigger handlers")

    async def _run(self, bindings: Sequence[Binding], payload: dict[str, Any]) -> None:
        # The task has the context of the write, and with it the trace that the calls carry on.
        try:
            for binding in bindings:
                await self._fire(binding, payload)
        finally:
            self._events -= 1

    async def _fire(self, binding: Binding, payload: dict[str, Any]) -> None:
        condition = binding.condition_function_id
        try:
            # Only the literal false blocks, and an error (C-8, T-16).
            if condition is None or await self._call(condition, payload, binding.namespace) is not False:
                await self._call(binding.function_id, payload, binding.namespace, binding.metadata)
        except (InvocationError, EncodeError) as error:  # the next one is called all the same
            logger.warning(
                "trigger %s of %s failed: %s", shorten(binding.trigger_id), shorten(binding.function_id), error
            )

    async def _call(self, function_id: str, payload: object, namespace: str, metadata: Any = None) -> Any:
        request = {
            "function_id": function_id,
            "payload": payload,
            "namespace": namespace,
            "timeout_ms": _HANDLER_LIMIT_MS,
        }
        if metadata is not None:
            request["metadata"] = metadata
        return await self._iii.trigger_async(request)
