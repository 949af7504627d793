"""The items of the built-in streams: by stream, group and item, in the order in which they were first set. No I/O.

Below: a table of the storage, which holds the same values by one key each. Above: ``builtins/stream``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._protocol.codec import from_json, to_json
from .._protocol.messages import ABSENT

if TYPE_CHECKING:
    from ._storage import Table

__all__ = ("StreamItems",)


class StreamItems:
    """Finds items and groups without a look at the others. Values are replaced, never changed in place.

    Groups stay when their last item goes, until a restart (SR-4, as ST-6).

    Args:
        table: Where the items are kept, and were kept before.
        strict: List groups as the real engine does, which takes a colon in a name for the end of it (SR-4).
    """

    def __init__(self, table: Table, *, strict: bool = False) -> None:
        self._table = table
        self._strict = strict
        self._streams: dict[str, dict[str, dict[str, Any]]] = {}
        for key in table:
            stream_name, group_id, item_id = from_json(key.encode())
            self._group(stream_name, group_id)[item_id] = table.get(key)

    def __repr__(self) -> str:
        return f"<StreamItems {len(self._streams)} streams, {len(self._table)} items>"

    def get(self, stream_name: str, group_id: str, item_id: str) -> Any:
        """An item, or ``ABSENT``."""
        return self._streams.get(stream_name, {}).get(group_id, {}).get(item_id, ABSENT)

    def in_group(self, stream_name: str, group_id: str) -> list[Any]:
        """The items of a group (ST-5)."""
        return list(self._streams.get(stream_name, {}).get(group_id, {}).values())

    def put(self, stream_name: str, group_id: str, item_id: str, value: Any) -> Any:
        """Set an item; returns what it was before, or ``ABSENT``. One that was there keeps its place (ST-5).

        Raises:
            StorageError: Nothing can be stored any more; nothing was changed.
        """
        self._table.put(_key(stream_name, group_id, item_id), value)
        group = self._group(stream_name, group_id)
        old_value = group.get(item_id, ABSENT)
        group[item_id] = value
        return old_value

    def delete(self, stream_name: str, group_id: str, item_id: str) -> Any:
        """Remove an item; returns what it was, or ``ABSENT``.

        Raises:
            StorageError: As for ``put``.
        """
        self._table.delete(_key(stream_name, group_id, item_id))
        return self._streams.get(stream_name, {}).get(group_id, {}).pop(item_id, ABSENT)

    def groups(self, stream_name: str) -> list[str]:
        """The groups of a stream."""
        if not self._strict:
            return list(self._streams.get(stream_name, ()))
        start = f"{stream_name}:"
        return list(dict.fromkeys(path.removeprefix(start) for path in self._paths() if path.startswith(start)))

    def all(self) -> list[dict[str, Any]]:
        """Every stream and its groups, both in order (SR-5)."""
        streams: dict[str, set[str]] = {}
        if self._strict:
            for path in self._paths():
                name, group_id, *_ = path.split(":")
                streams.setdefault(name, set()).add(group_id)
        else:
            streams = {name: set(groups) for name, groups in self._streams.items()}
        return [{"id": name, "groups": sorted(groups)} for name, groups in sorted(streams.items())]

    def _paths(self) -> list[str]:
        """Groups in the form in which the real engine keeps them."""
        return [f"{name}:{group_id}" for name, groups in self._streams.items() for group_id in groups]

    def _group(self, stream_name: str, group_id: str) -> dict[str, Any]:
        return self._streams.setdefault(stream_name, {}).setdefault(group_id, {})


def _key(stream_name: str, group_id: str, item_id: str) -> str:
    """Names may hold any character, so no separator tells them apart."""
    return to_json([stream_name, group_id, item_id]).decode()
