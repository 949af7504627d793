"""The built-in ``iii-state``: values by scope and key, and the trigger type ``state``.

Each scope is a table of the storage, so one that lost its last key is listed until a restart (ST-6). A change is made
at once, between two awaits, and answered when it is on disk; then its event is fired.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from anyio import create_task_group

from ..._protocol.codec import to_json
from ..._protocol.messages import ABSENT
from ...errors import InvocationError
from ...trigger import TriggerConfig, TriggerHandler
from .._builtin import Input, unreadable
from .._settings import Section, check_adapter
from .._storage import Storage, StorageError, Table
from .._update_ops import UPDATES_SCHEMA, apply_updates, read_updates
from ._config_entry import keep_entry
from ._fan_out import Binding, Bindings, FanOut, filter_text, filters_of

if TYPE_CHECKING:
    from ...worker import Worker
    from .._services import Host

__all__ = ("State", "serve_state")

logger: Final = logging.getLogger("iii_anyio.devengine")

NAME: Final = "iii-state"
PREFIX: Final = "state:"

_PLACE: Final = Input(scope="string!", key="string!")
_SET: Final = Input(scope="string!", key="string!", value="any", data="any")
_UPDATE: Final = Input(scope="string!", key="string!", ops="any!")
_LIST: Final = Input(scope="string!")
_NOTHING: Final = Input()

_STRING: Final = {"type": "string"}
_OPTIONAL: Final = {"type": ["string", "null"]}
_SET_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"scope": _STRING, "key": _STRING, "value": {}},
    "required": ["key", "scope", "value"],
}
_UPDATE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"scope": _STRING, "key": _STRING, "ops": UPDATES_SCHEMA},
    "required": ["key", "ops", "scope"],
}
_WRITTEN_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"old_value": {}, "new_value": {}},
    "required": ["new_value"],
}
_UPDATED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"old_value": {}, "new_value": {}, "errors": {"type": "array", "items": {"type": "object"}}},
    "required": ["new_value"],
}
_GROUPS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"groups": {"type": "array", "items": _STRING}},
    "required": ["groups"],
}
TRIGGER_TYPE: Final[dict[str, Any]] = {
    "id": "state",
    "description": "State trigger",
    "trigger_request_format": {
        "type": "object",
        "properties": {"scope": _OPTIONAL, "key": _OPTIONAL, "condition_function_id": _OPTIONAL},
    },
    "call_request_format": {
        "type": "object",
        "properties": {
            "type": {"const": "state"},
            "event_type": {"enum": ["state:created", "state:updated", "state:deleted"]},
            "scope": _STRING,
            "key": _STRING,
            "old_value": {},
            "new_value": {},
        },
        "required": ["event_type", "key", "new_value", "old_value", "scope", "type"],
    },
}
CONFIG_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "adapter": {"type": ["object", "null"]},
        "triggers_enabled": {"type": ["boolean", "null"]},
        "max_value_bytes": {"type": ["integer", "null"], "minimum": 1},
        "save_interval_ms": {"type": ["integer", "null"], "minimum": 100, "maximum": 3_600_000},
    },
}


class State(TriggerHandler[Any]):
    """The functions ``state::*``, and who is told of what they change."""

    def __init__(self, storage: Storage, fan_out: FanOut) -> None:
        self._storage = storage
        self._fan_out = fan_out
        self._bindings = Bindings()  # by scope and key
        self._triggers_enabled = True
        self._max_value_bytes: int | None = None

    def __repr__(self) -> str:
        return f"<State {len(self._storage.names(PREFIX))} scopes, {len(self._bindings)} triggers>"

    def configure(self, config: object) -> None:
        """Take a configuration (§2.4); at any time.

        Raises:
            ValueError: It is none; the one before stays.
        """
        root = Section(NAME, {} if config is None else config)
        check_adapter(root, "kv", "redis", "bridge")
        triggers_enabled = root.flag("triggers_enabled", True)
        max_value_bytes = root.integer("max_value_bytes", 2**63, 1, 2**63)
        root.integer("save_interval_ms", 5000, 100, 3_600_000)  # each change is written before it is answered
        root.end()
        self._triggers_enabled, self._max_value_bytes = triggers_enabled, max_value_bytes

    # -- functions -----------------------------------------------------------------------------------------------

    async def set_value(self, data: Any) -> dict[str, Any]:
        """Store a value."""
        fields = _SET.check("state::set", data)
        given = [name for name in ("value", "data") if name in data]
        if len(given) != 1:
            raise unreadable("state::set", "duplicate field `value`" if given else "missing field `value`")  # ST-3
        scope, key, value = fields["scope"], fields["key"], data[given[0]]
        if self._max_value_bytes is not None and (size := len(to_json(value))) > self._max_value_bytes:
            reason = f"the value has {size} bytes as JSON; max_value_bytes allows {self._max_value_bytes}"
            raise InvocationError("VALUE_TOO_LARGE", reason)
        old_value = await self._write("SET_ERROR", scope, key, value)
        return {"old_value": None if old_value is ABSENT else old_value, "new_value": value}

    def get_value(self, data: Any) -> Any:
        """Read a value; None when there is none."""
        fields = _PLACE.check("state::get", data)
        table = self._table(fields["scope"])
        return None if table is None else table.get(fields["key"])

    async def delete_value(self, data: Any) -> Any:
        """Remove a value and return what it was (ST-2)."""
        fields = _PLACE.check("state::delete", data)
        old_value = await self._write("DELETE_ERROR", fields["scope"], fields["key"], ABSENT)
        return None if old_value is ABSENT else old_value

    async def update_value(self, data: Any) -> dict[str, Any]:
        """Apply operations, at once and in order; the result is stored whatever they come to (ST-7)."""
        fields = _UPDATE.check("state::update", data)
        updates = read_updates("state::update", fields["ops"])
        scope, key = fields["scope"], fields["key"]
        table = self._table(scope)
        updated = apply_updates(ABSENT if table is None else table.get(key, ABSENT), updates)
        old_value = await self._write("UPDATE_ERROR", scope, key, updated.new_value)
        return updated.answer(old_value)

    def list_scope(self, data: Any) -> list[Any]:
        """The values of a scope, without their keys (ST-5)."""
        table = self._table(_LIST.check("state::list", data)["scope"])
        return [] if table is None else table.values()

    def list_scopes(self, data: Any) -> dict[str, Any]:
        """The scopes, sorted."""
        _NOTHING.check("state::list_groups", data)
        return {"groups": sorted(name.removeprefix(PREFIX) for name in self._storage.names(PREFIX))}

    def _table(self, scope: str) -> Table | None:
        """What a scope holds; reading makes none."""
        return self._storage.table(PREFIX + scope) if PREFIX + scope in self._storage else None

    async def _write(self, code: str, scope: str, key: str, value: Any) -> Any:
        """Set a value, or remove it (``ABSENT``); returns what was there before.

        No await comes before the change, so that what the caller has read of it still holds (ST-7).
        """
        bindings = self._matching(scope, key) if self._triggers_enabled else []
        self._fan_out.check_room(code, bindings)
        try:
            if value is ABSENT:
                table = self._table(scope)
                old_value = ABSENT if table is None else table.get(key, ABSENT)
                if table is not None:
                    table.delete(key)
            else:
                table = self._storage.table(PREFIX + scope)
                old_value = table.get(key, ABSENT)
                table.put(key, value)
            await self._storage.flush()
        except StorageError as error:
            raise InvocationError(code, str(error)) from error
        self._fan_out.start(bindings, _event(scope, key, old_value, value))
        return old_value

    # -- the trigger type ----------------------------------------------------------------------------------------

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Bind a function; a trigger id in use is bound anew.

        Raises:
            ValueError: The config does not parse (ST-15).
        """
        filters, binding = filters_of(config), Binding.of(config)
        place = filter_text(filters, "scope"), filter_text(filters, "key")
        self._bindings.put(binding, place)

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Stop calling the function."""
        self._bindings.remove(config.id)

    def _matching(self, scope: str, key: str) -> list[Binding]:
        """ST-12: exact, and what is not given matches all."""
        return self._bindings.at((scope, key), (scope, None), (None, key), (None, None))


def _event(scope: str, key: str, old_value: Any, new_value: Any) -> dict[str, Any]:
    """What handlers get (ST-10, ST-11)."""
    if new_value is ABSENT:
        event_type, new_value = "state:deleted", None
    else:
        event_type = "state:created" if old_value is ABSENT else "state:updated"
    return {
        "type": "state",
        "event_type": event_type,
        "scope": scope,
        "key": key,
        "old_value": None if old_value is ABSENT else old_value,
        "new_value": new_value,
    }


@asynccontextmanager
async def serve_state(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[State]:
    """Run the built-in ``iii-state``."""
    async with create_task_group() as group:
        state = State(host.storage, FanOut(iii, group))
        state.configure(config)
        if not host.storage.is_durable and _wants_files(config):
            logger.warning(
                "%s: store_method 'file_based' needs a data directory: --data DIR, open_engine(data=DIR)", NAME
            )
        _register_functions(iii, state)
        iii.register_trigger_type(**TRIGGER_TYPE, handler=state)
        await keep_entry(iii, host, NAME, "State", CONFIG_SCHEMA, config, state.configure)
        yield state
        group.cancel_scope.cancel()


def _wants_files(config: Mapping[str, Any]) -> bool:
    adapter = cast("Mapping[str, Any]", config.get("adapter") or {})
    options: object = adapter.get("config")
    return isinstance(options, dict) and cast("dict[str, Any]", options).get("store_method") == "file_based"


def _register_functions(iii: Worker, state: State) -> None:
    iii.register_function(
        "state::set", state.set_value, description="Set a value in state",
        request_format=_SET_SCHEMA, response_format=_WRITTEN_SCHEMA, validate=False,
    )  # fmt: skip
    iii.register_function(
        "state::get", state.get_value, description="Get a value from state", execution="async",
        request_format=_PLACE.schema, validate=False,
    )  # fmt: skip
    iii.register_function(
        "state::delete", state.delete_value, description="Delete a value from state",
        request_format=_PLACE.schema, validate=False,
    )  # fmt: skip
    iii.register_function(
        "state::update", state.update_value, description="Update a value in state",
        request_format=_UPDATE_SCHEMA, response_format=_UPDATED_SCHEMA, validate=False,
    )  # fmt: skip
    iii.register_function(
        "state::list", state.list_scope, description="List the values of a scope", execution="async",
        request_format=_LIST.schema, validate=False,
    )  # fmt: skip
    iii.register_function(
        "state::list_groups", state.list_scopes, description="List the scopes", execution="async",
        request_format=_NOTHING.schema, response_format=_GROUPS_SCHEMA, validate=False,
    )  # fmt: skip
