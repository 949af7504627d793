"""A built-in worker's entry in ``configuration``: seeded at the start, followed while it runs (CF-13, CF-14).

Above: the built-in workers that can be configured while they run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ...errors import InvocationError

if TYPE_CHECKING:
    from ...worker import Worker
    from .._services import Host

__all__ = ("ADAPTER_SCHEMA", "keep_entry")

logger: Final = logging.getLogger("iii_anyio.devengine")

ADAPTER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "adapter": {
            "type": ["object", "null"],
            "properties": {"name": {"type": "string"}, "config": {"type": ["object", "null"]}},
        }
    },
}
"""Of a built-in that has nothing to configure but its adapter."""


async def keep_entry(
    iii: Worker,
    host: Host,
    name: str,
    title: str,
    schema: dict[str, Any],
    config: Mapping[str, Any],
    configure: Callable[[object], None],
) -> None:
    """Register the entry of this built-in, and call ``configure`` with its value now and after each change.

    The configuration file wins over what is stored, when it says anything; upstream does it the other way round, and
    so does this engine with ``strict_upstream``. A stored value that ``configure`` refuses is reported and passed over.

    Args:
        iii: The built-in's worker.
        host: Its engine.
        name: Of the built-in, and id of the entry.
        title: The entry's name, for people.
        schema: JSON Schema of the value.
        config: What the configuration file has for it.
        configure: Takes a configuration, or raises ``ValueError`` and keeps the one before.
    """
    entry: dict[str, Any] = {
        "id": name,
        "name": title,
        "description": f"Configuration of {name}",
        "schema": schema,
    }
    is_stored = await _is_stored(iii, name)
    if not is_stored or (config and not host.strict_upstream):
        entry["initial_value"] = dict(config)
    await iii.trigger_async("configuration::register", entry)

    async def follow(_data: Any = None) -> None:
        # The entry is read again: of two changes the payload of the first may come last (CF-14).
        try:
            configure((await iii.trigger_async("configuration::get", {"id": name}))["value"])
        except (InvocationError, ValueError) as error:
            logger.warning("%s: its configuration entry is passed over: %s", name, error)

    if is_stored:
        await follow()
    function_id = f"{name}::on-config-change"
    iii.register_function(
        function_id, follow, description=f"Follow the configuration entry of {name}", metadata={"internal": True}
    )
    iii.register_trigger("configuration", function_id, {"configuration_id": name})


async def _is_stored(iii: Worker, name: str) -> bool:
    try:
        value = (await iii.trigger_async("configuration::get", {"id": name, "raw": True}))["value"]
    except InvocationError as error:
        if error.code != "NOT_FOUND":
            raise
        return False
    return value is not None
