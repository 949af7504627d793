"""What the functions and trigger types of streams take and give, as discovery shows it.

Above: ``builtins/stream``.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ._builtin import Input
from ._update_ops import UPDATES_SCHEMA

__all__ = ("CONFIG_SCHEMA", "FUNCTIONS", "JOIN_EVENT_SCHEMA", "STREAM_CONFIG_SCHEMA", "STREAM_EVENT_SCHEMA")

_ITEM: Final = {"stream_name": "string!", "group_id": "string!", "item_id": "string!"}
_GROUP: Final = {"stream_name": "string!", "group_id": "string!"}


_WRITTEN: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"old_value": {}, "new_value": {}},
    "required": ["new_value"],
}
_STRINGS: Final = {"type": "array", "items": {"type": "string"}}


class _Function(NamedTuple):
    description: str
    input: Input
    response_format: dict[str, Any] | None = None
    """None for those that return raw JSON (E-17)."""

    @property
    def request_format(self) -> dict[str, Any]:
        schema = self.input.schema
        if "ops" in schema["properties"]:
            schema["properties"]["ops"] = UPDATES_SCHEMA
        return schema


FUNCTIONS: Final = {
    "set": _Function("Set an item of a stream", Input(**_ITEM, data="any!"), _WRITTEN),
    "get": _Function("Get an item of a stream", Input(**_ITEM)),
    "delete": _Function(
        "Delete an item of a stream", Input(**_ITEM), {"type": "object", "properties": {"old_value": {}}}
    ),
    "update": _Function(
        "Change an item of a stream in place, all operations at once",
        Input(**_ITEM, ops="any!"),
        {**_WRITTEN, "properties": {**_WRITTEN["properties"], "errors": {"type": "array"}}},
    ),
    "list": _Function("List the items of a group of a stream", Input(**_GROUP)),
    "list_groups": _Function("List the groups of a stream", Input(stream_name="string!"), _STRINGS),
    "list_all": _Function(
        "List all streams and their groups",
        Input(),
        {
            "type": "object",
            "properties": {
                "stream": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"id": {"type": "string"}, "groups": _STRINGS}},
                },
                "count": {"type": "integer"},
            },
            "required": ["count", "stream"],
        },
    ),
    "send": _Function(
        "Send a message to a group of a stream without storing it",
        Input(**_GROUP, type="string!", data="any!", id="string"),
    ),
}


CONFIG_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "port": {"type": ["integer", "null"], "minimum": 0, "maximum": 65_535},
        "host": {"type": ["string", "null"]},
        "auth_function": {"type": ["string", "null"]},
        "adapter": {"type": ["object", "null"]},
    },
}

# -- trigger types ---------------------------------------------------------------------------------------------------

_STRING: Final = {"type": "string"}
_OPTIONAL: Final = {"type": ["string", "null"]}

STREAM_CONFIG_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "stream_name": _STRING,
        "group_id": _OPTIONAL,
        "item_id": _OPTIONAL,
        "condition_function_id": _OPTIONAL,
    },
    "required": ["stream_name"],
}
STREAM_EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "type": {"const": "stream"},
        "timestamp": {"type": "integer"},
        "streamName": _STRING,
        "groupId": _STRING,
        "id": _OPTIONAL,
        "event": {
            "type": "object",
            "properties": {
                "type": {"enum": ["create", "update", "delete", "event"]},
                "data": {},
                "event": {"type": "object", "properties": {"type": _STRING, "data": {}}},
            },
            "required": ["type"],
        },
    },
    "required": ["event", "groupId", "id", "streamName", "timestamp", "type"],
}
"""Of what is sent. Upstream publishes snake case and ``event_type``, which nobody gets (SR-10)."""
JOIN_EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "subscription_id": _STRING,
        "stream_name": _STRING,
        "group_id": _STRING,
        "id": _OPTIONAL,
        "context": {},
    },
    "required": ["context", "group_id", "id", "stream_name", "subscription_id"],
}
