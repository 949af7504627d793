"""The trigger types of streams: which functions a change, a join or a leave calls. No I/O.

Below: ``_fan_out``. Above: ``stream``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from ...trigger import TriggerHandler
from ._fan_out import Binding, Bindings, filter_text, filters_of

if TYPE_CHECKING:
    from ...trigger import TriggerConfig

__all__ = ("JoinTriggers", "StreamTriggers")

logger: Final = logging.getLogger("iii_anyio.devengine.stream")


class StreamTriggers(TriggerHandler[Any]):
    """Provider of ``stream``: bindings by stream, group and item, the last two None for all."""

    def __init__(self) -> None:
        self._bindings = Bindings()

    def __len__(self) -> int:
        return len(self._bindings)

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Bind a function; a trigger id in use is bound anew.

        Raises:
            ValueError: The config names no stream, or does not parse (SR-11).
        """
        filters, binding = filters_of(config), Binding.of(config)
        stream_name = filter_text(filters, "stream_name")
        if stream_name is None:
            raise ValueError("a stream trigger needs stream_name in its config: the stream whose changes call it")
        # "" is unset (SR-12)
        place = stream_name, filter_text(filters, "group_id") or None, filter_text(filters, "item_id") or None
        self._bindings.put(binding, place)

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Stop calling the function."""
        self._bindings.remove(config.id)

    def matching(self, stream_name: str, group_id: str, item_id: str | None) -> list[Binding]:
        """The bindings that a change calls. One without an item is for no item's triggers (SR-12)."""
        places: list[tuple[str | None, ...]] = [(stream_name, group_id, None), (stream_name, None, None)]
        if item_id is not None:
            places += [(stream_name, group_id, item_id), (stream_name, None, item_id)]
        return self._bindings.at(*places)


class JoinTriggers(TriggerHandler[Any]):
    """Provider of ``stream:join`` or ``stream:leave``: every binding is called each time (SR-14)."""

    def __init__(self, type_id: str) -> None:
        self._type_id = type_id
        self._bindings: dict[str, Binding] = {}

    def __len__(self) -> int:
        return len(self._bindings)

    def all(self) -> list[Binding]:
        """The bindings."""
        return list(self._bindings.values())

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Bind a function, whatever the config says."""
        if config.config:  # upstream's documentation has filters and a condition
            logger.warning(
                "the config of a %s trigger has no effect: %s is called for every subscriber",
                self._type_id, config.function_id,
            )  # fmt: skip
        namespace = config.namespace if config.namespace is not None else "default"  # §9.3
        self._bindings[config.id] = Binding(config.id, config.function_id, namespace, config.metadata, None)

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Stop calling the function."""
        self._bindings.pop(config.id, None)
