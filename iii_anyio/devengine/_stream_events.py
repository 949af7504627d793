"""What is said of streams: the message of a change, and the order in which changes are told. No I/O.

Below: ``builtins/_fan_out``. Above: ``builtins/stream``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from .._protocol.messages import ABSENT
from .builtins._fan_out import Binding

__all__ = ("Announcement", "Announcements", "stream_message", "written")


def stream_message(
    timestamp: int, stream_name: str, group_id: str, item_id: str | None, event: dict[str, Any]
) -> dict[str, Any]:
    """What triggers and subscribers get (§3.2)."""
    return {
        "type": "stream",
        "timestamp": timestamp,
        "streamName": stream_name,
        "groupId": group_id,
        "id": item_id,
        "event": event,
    }


def written(old_value: Any, new_value: Any) -> dict[str, Any]:
    """The event of a set or an update; ``ABSENT`` is no old value (SR-8)."""
    return {"type": "create" if old_value is ABSENT else "update", "data": new_value}


# -- order -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Announcement:
    """A change that is to be told, once it is known to last."""

    message: dict[str, Any]
    bindings: Sequence[Binding]
    """Of the triggers it concerns."""
    context: Context = field(default_factory=copy_context)
    """Of the call that made it: its trace goes on."""
    is_ready: bool = False


class Announcements:
    """Changes in the order in which they were made, whichever is on disk first.

    They are told by whoever can: ``confirm`` and ``withdraw`` return those whose turn it is.
    """

    def __init__(self) -> None:
        self._waiting: deque[Announcement] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: dict[str, Any], bindings: Sequence[Binding]) -> Announcement:
        """Give a change its place, at the moment it is made."""
        announcement = Announcement(message, bindings)
        self._waiting.append(announcement)
        return announcement

    def confirm(self, announcement: Announcement) -> list[Announcement]:
        """The change lasts."""
        announcement.is_ready = True
        return self._take()

    def withdraw(self, announcement: Announcement) -> list[Announcement]:
        """The change has failed: it is not told."""
        self._waiting.remove(announcement)
        return self._take()

    def _take(self) -> list[Announcement]:
        ready: list[Announcement] = []
        while self._waiting and self._waiting[0].is_ready:
            ready.append(self._waiting.popleft())
        return ready
