"""The built-in ``configuration``: entries with a schema and a value, and the trigger type ``configuration``.

What is stored of an entry is all but its schema, which its owner registers again after a restart (CF-4, CF-11).
Placeholders are kept as they are and replaced at each reading (CF-6).

Tasks: one per entry that lost its last trigger, when entries have a time to live (CF-10); they end with the worker.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from anyio import CancelScope, create_task_group, sleep

from ..._version import __version__
from ...errors import InvocationError
from ...trigger import TriggerConfig, TriggerHandler
from .._builtin import Input
from .._schemas import Schema
from .._settings import Section, check_adapter
from .._storage import StorageError
from .._templates import UnresolvedError, expand
from ._fan_out import Binding, FanOut, filter_text, filters_of

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ...worker import Worker
    from .._services import Host
    from .._storage import Storage

__all__ = ("Configuration", "serve_configuration")

NAME: Final = "configuration"
UPDATED: Final = "configuration:updated"
REGISTERED: Final = "configuration:registered"
DELETED: Final = "configuration:deleted"

_ID: Final = re.compile(r"[a-z0-9_-]{1,64}")
_REGISTER: Final = Input(
    id="string!", name="string!", description="string!", schema="any!", initial_value="any", metadata="any"
)
_SET: Final = Input(id="string!", value="any!")
_GET: Final = Input(id="string!", raw="boolean")
_SCHEMA: Final = Input(id="string!")
_LIST: Final = Input()

_STRING: Final = {"type": "string"}
_OPTIONAL: Final = {"type": ["string", "null"]}
_ROW_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"id": _STRING, "name": _STRING, "description": _STRING, "schema": {}, "metadata": {}},
    "required": ["description", "id", "name", "schema"],
}
TRIGGER_TYPE: Final[dict[str, Any]] = {
    "id": "configuration",
    "description": "Configuration trigger",
    "trigger_request_format": {
        "type": "object",
        "properties": {
            "configuration_id": _OPTIONAL,
            "event_types": {"type": ["array", "null"], "items": {"enum": [REGISTERED, UPDATED, DELETED]}},
            "condition_function_id": _OPTIONAL,
        },
    },
    "call_request_format": {
        "type": "object",
        "properties": {
            "type": {"const": "configuration"},
            "event_type": {"enum": [REGISTERED, UPDATED, DELETED]},
            "id": _STRING,
            "name": _STRING,
            "description": _STRING,
            "schema": {},
            "old_value": {},
            "new_value": {},
            "metadata": {},
        },
        "required": ["description", "event_type", "id", "name", "new_value", "old_value", "schema", "type"],
    },
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One configuration. Never changed; replaced."""

    id: str
    name: str
    description: str
    value: Any
    metadata: Any = None
    schema: Schema | None = None
    """None until its owner has registered it again (CF-4)."""

    def row(self, **more: Any) -> dict[str, Any]:
        """What discovery shows, and ``more``."""
        schema = None if self.schema is None else self.schema.json
        row = {"id": self.id, "name": self.name, "description": self.description, "schema": schema, **more}
        return row if self.metadata is None else row | {"metadata": self.metadata}

    def stored(self) -> dict[str, Any]:
        """What outlives the engine (CF-11)."""
        stored = {"name": self.name, "description": self.description, "value": self.value}
        return stored if self.metadata is None else stored | {"metadata": self.metadata}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a binding is called for; None is all."""

    binding: Binding
    configuration_id: str | None
    event_types: frozenset[str] | None


class Configuration(TriggerHandler[Any]):
    """The functions ``configuration::*``, and who is told of what they change."""

    def __init__(self, storage: Storage, fan_out: FanOut, group: TaskGroup, ttl_seconds: int = 0) -> None:
        self._storage = storage
        self._table = storage.table(NAME)
        self._fan_out = fan_out
        self._group = group
        self._ttl_seconds = ttl_seconds
        self._entries = {id: Entry(id=id, **self._table.get(id)) for id in self._table}
        self._filters: dict[str | None, dict[str, Filter]] = {}  # by configuration id, then trigger
        self._id_of: dict[str, str | None] = {}
        self._expiring: dict[str, CancelScope] = {}

    def __repr__(self) -> str:
        return f"<Configuration {len(self._entries)} entries, {len(self._id_of)} triggers>"

    # -- functions -----------------------------------------------------------------------------------------------

    async def register(self, data: Any) -> dict[str, Any]:
        """Add an entry, or replace all but its value (CF-2)."""
        fields = _REGISTER.check("configuration::register", data)
        id = _checked_id(fields["id"])
        known = self._entries.get(id)
        schema = Schema(fields["schema"])
        value = fields.get("initial_value")
        if value is not None:
            _validate_new(schema, value)
        elif known is not None:
            value = known.value
        entry = Entry(id, fields["name"], fields["description"], value, fields.get("metadata"), schema)
        await self._write(REGISTERED if known is None else UPDATED, entry)
        return entry.row(value=value)

    async def set_value(self, data: Any) -> dict[str, Any]:
        """Replace a value (CF-4)."""
        fields = _SET.check("configuration::set", data)
        id = _checked_id(fields["id"])
        entry, value = self._entries.get(id), fields["value"]
        if entry is None:
            raise InvocationError("NOT_REGISTERED", f"there is no configuration {id!r}; call configuration::register")
        if entry.schema is None:
            reason = f"the schema of {id!r} is not known until its owner has called configuration::register again"
            raise InvocationError("SCHEMA_UNAVAILABLE", reason)
        _validate_new(entry.schema, value)
        new = Entry(id, entry.name, entry.description, value, entry.metadata, entry.schema)
        await self._write(UPDATED, new)
        return {"old_value": entry.value, "new_value": value}

    def get_value(self, data: Any) -> dict[str, Any]:
        """Read a value, with its placeholders replaced unless it is asked for raw (CF-5)."""
        fields = _GET.check("configuration::get", data)
        entry = self._found(fields["id"])
        if fields.get("raw"):
            return {"id": entry.id, "value": entry.value}
        try:
            value = expand(entry.value, os.environ, __version__)
        except UnresolvedError as error:
            raise InvocationError("EXPAND_FAILED", f"configuration {entry.id!r}: {error}") from error
        if entry.schema is not None:
            _validate(entry.schema, value)
        return {"id": entry.id, "value": value}

    def list_entries(self, data: Any) -> dict[str, Any]:
        """All entries by id, without their values."""
        _LIST.check("configuration::list", data)
        return {"configurations": [self._entries[id].row() for id in sorted(self._entries)]}

    def get_schema(self, data: Any) -> dict[str, Any]:
        """One entry, without its value."""
        return self._found(_SCHEMA.check("configuration::schema", data)["id"]).row()

    def _found(self, id: str) -> Entry:
        entry = self._entries.get(id)
        if entry is None:
            raise InvocationError("NOT_FOUND", f"there is no configuration {id!r}")
        return entry

    async def _write(self, event_type: str, entry: Entry) -> None:
        """Keep an entry, then tell of it."""
        old = self._entries.get(entry.id)
        matching = self._matching(event_type, entry.id)
        self._fan_out.check_room("ADAPTER_ERROR", matching)
        try:
            self._table.put(entry.id, entry.stored())
            self._entries[entry.id] = entry
            await self._storage.flush()
        except StorageError as error:
            raise InvocationError("ADAPTER_ERROR", str(error)) from error
        self._tell(event_type, entry, None if old is None else old.value, entry.value, matching)

    def _tell(self, event_type: str, entry: Entry, old_value: Any, new_value: Any, matching: list[Binding]) -> None:
        if matching:
            old_value = expand(old_value, os.environ, __version__, is_lenient=True)  # CF-8
            new_value = expand(new_value, os.environ, __version__, is_lenient=True)
            payload = {"type": "configuration", "event_type": event_type}
            self._fan_out.start(matching, payload | entry.row(old_value=old_value, new_value=new_value))

    # -- the trigger type ----------------------------------------------------------------------------------------

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Bind a function; a trigger id in use is bound anew.

        Raises:
            ValueError: The config does not parse.
        """
        filters = filters_of(config)
        configuration_id = filter_text(filters, "configuration_id")
        added = Filter(Binding.of(config), configuration_id, _event_types(filters))
        self._remove(config.id)
        self._filters.setdefault(configuration_id, {})[config.id] = added
        self._id_of[config.id] = configuration_id
        if configuration_id in self._expiring:
            self._expiring.pop(configuration_id).cancel()

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Stop calling the function."""
        self._remove(config.id)

    def _remove(self, trigger_id: str) -> None:
        configuration_id = self._id_of.pop(trigger_id, None)
        filters = self._filters.get(configuration_id)
        if filters is None or filters.pop(trigger_id, None) is None or filters:
            return
        del self._filters[configuration_id]
        if self._ttl_seconds and configuration_id in self._entries:
            scope = self._expiring[configuration_id] = CancelScope()
            self._group.start_soon(self._expire, configuration_id, scope, name="engine configuration expiry")

    def _matching(self, event_type: str, id: str) -> list[Binding]:
        found = [*self._filters.get(id, {}).values(), *self._filters.get(None, {}).values()]
        return [each.binding for each in found if each.event_types is None or event_type in each.event_types]

    async def _expire(self, id: str, scope: CancelScope) -> None:
        """Delete an entry, unless a trigger is bound to it meanwhile (CF-10)."""
        with scope:
            await sleep(self._ttl_seconds)
        if scope.cancel_called:
            return
        del self._expiring[id]
        entry = self._entries.pop(id)
        try:
            self._table.delete(id)
            await self._storage.flush()
        except StorageError:
            return  # the storage has said so
        self._tell(DELETED, entry, entry.value, None, self._matching(DELETED, id))


def _checked_id(id: str) -> str:
    if _ID.fullmatch(id) is None:
        reason = f"{id!r:.100} is no configuration id: 1 to 64 of a-z, 0-9, '_' and '-' (CF-1)"
        raise InvocationError("INVALID_ID", reason)
    return id


def _validate_new(schema: Schema, value: Any) -> None:
    """Check a value that is to be stored; one that cannot be expanded yet is not checked (CF-3)."""
    try:
        expanded = expand(value, os.environ, __version__)
    except UnresolvedError:
        return
    _validate(schema, expanded)


def _validate(schema: Schema, value: Any) -> None:
    violations = schema.violations(value)
    if violations:
        raise InvocationError("SCHEMA_INVALID", "; ".join(violations))


def _event_types(filters: dict[str, Any]) -> frozenset[str] | None:
    value: object = filters.get("event_types")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
        raise ValueError(f"event_types of the trigger's config must be an array of strings, not {value!r:.100}")
    return frozenset(cast("list[str]", value))


@asynccontextmanager
async def serve_configuration(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[Configuration]:
    """Run the built-in ``configuration``."""
    root = Section(NAME, config)
    check_adapter(root, "fs", "bridge")
    ttl_seconds = root.integer("ttl_seconds", 0, 0, 2**31)
    root.end()
    async with create_task_group() as group:
        configuration = Configuration(host.storage, FanOut(iii, group), group, ttl_seconds)
        _register_functions(iii, configuration)
        iii.register_trigger_type(**TRIGGER_TYPE, handler=configuration)
        yield configuration
        group.cancel_scope.cancel()


def _register_functions(iii: Worker, configuration: Configuration) -> None:
    def register(
        name: str, handler: Callable[..., Any], request: Input, response: dict[str, Any], description: str
    ) -> None:
        iii.register_function(
            f"configuration::{name}", handler, description=description, validate=False,
            request_format=request.schema, response_format=response,
            execution="async" if name in {"get", "list", "schema"} else None,
        )  # fmt: skip

    entry: dict[str, Any] = {**_ROW_SCHEMA, "properties": {**_ROW_SCHEMA["properties"], "value": {}}}
    rows = {"type": "object", "properties": {"configurations": {"type": "array", "items": _ROW_SCHEMA}}}
    written: dict[str, Any] = {"type": "object", "properties": {"old_value": {}, "new_value": {}}}
    value: dict[str, Any] = {"type": "object", "properties": {"id": _STRING, "value": {}}}
    register("register", configuration.register, _REGISTER, entry, "Register a configuration entry")
    register("set", configuration.set_value, _SET, written, "Set the value of a configuration entry")
    register("get", configuration.get_value, _GET, value, "Get the value of a configuration entry")
    register("list", configuration.list_entries, _LIST, rows, "List configuration entries")
    register("schema", configuration.get_schema, _SCHEMA, _ROW_SCHEMA, "Get the schema of a configuration entry")
