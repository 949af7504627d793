"""A provider of a trigger type that tells what it was told."""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio

from iii_anyio import Worker
from iii_anyio.trigger import TriggerConfig, TriggerHandler

__all__ = ("Bindings",)


class Bindings(TriggerHandler[Any]):
    """Handler of a trigger type: keeps every bind and unbind until the test takes it."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        """Raised instead of accepting."""
        self.live: dict[str, TriggerConfig[Any]] = {}
        self._told: deque[tuple[str, TriggerConfig[Any]]] = deque()
        self._changed = anyio.Event()

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        self._tell("bind", config)
        if self.refusal is not None:
            raise self.refusal
        self.live[config.id] = config

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        self.live.pop(config.id, None)
        self._tell("unbind", config)

    def _tell(self, what: str, config: TriggerConfig[Any]) -> None:
        self._told.append((what, config))
        self._changed.set()

    async def take(self) -> tuple[str, TriggerConfig[Any]]:
        """Wait for what was told next: ``bind`` or ``unbind``, and of what."""
        while not self._told:
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._told.popleft()

    async def expect(self, what: str, trigger_id: str) -> TriggerConfig[Any]:
        """Wait for what was told next; it must be this."""
        told, config = await self.take()
        assert (told, config.id) == (what, trigger_id)
        return config

    @property
    def has_more(self) -> bool:
        """Whether something was told that the test has not taken."""
        return bool(self._told)

    async def fire(self, iii: Worker, trigger_id: str, payload: Any) -> Any:
        """Call the function bound by this trigger, as a provider must (P-49)."""
        config = self.live[trigger_id]
        call: dict[str, Any] = {
            "function_id": config.function_id,
            "payload": payload,
            "namespace": config.namespace or "default",
        }
        if config.metadata is not None:
            call["metadata"] = config.metadata
        return await iii.trigger_async(call)
