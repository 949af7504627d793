"""Who listens to which group of which stream: requests of subscribers read, and found again by what changes. No I/O.

Below: JSON. Above: ``_stream_server``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from .._protocol.codec import from_json
from ..errors import DecodeError

__all__ = ("Request", "Subscriptions", "auth_input", "join_event", "read_request")

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Request:
    """``join`` or ``leave``, as the subscriber sent it. A join is also the subscription that it makes."""

    is_join: bool
    subscription_id: str
    stream_name: str
    group_id: str
    item_id: str | None
    """Only this item; None for all of the group."""


def read_request(text: bytes) -> Request | str:
    """Read a message of a subscriber; or say why it is to be ignored (SR-27)."""
    try:
        message = from_json(text)
    except DecodeError as error:
        return str(error)
    if not isinstance(message, dict):
        return "no JSON object"
    kind, data = (cast("dict[str, Any]", message).get(key) for key in ("type", "data"))
    if kind not in {"join", "leave"}:
        return "its type is neither join nor leave"
    if not isinstance(data, dict):
        return "data is no object"
    fields = cast("dict[str, Any]", data)
    subscription_id, stream_name, group_id = (fields.get(key) for key in ("subscriptionId", "streamName", "groupId"))
    if not (isinstance(subscription_id, str) and isinstance(stream_name, str) and isinstance(group_id, str)):
        return "data needs subscriptionId, streamName and groupId, all strings"
    item_id = fields.get("id")
    if item_id is not None and not isinstance(item_id, str):
        return "id is no string"
    return Request(kind == "join", subscription_id, stream_name, group_id, item_id)


def join_event(request: Request, context: Any) -> dict[str, Any]:
    """What ``stream:join`` and ``stream:leave`` triggers get (§3.3)."""
    return {
        "subscription_id": request.subscription_id,
        "stream_name": request.stream_name,
        "group_id": request.group_id,
        "id": request.item_id,
        "context": context,
    }


def auth_input(headers: Mapping[str, str], path: str, query: str, addr: str) -> dict[str, Any]:
    """What the auth function gets (SR-29). What is no text is left out of the headers and replaced in the query."""
    parameters: dict[str, list[str]] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = (_legible(part) for part in pair.partition("="))
        parameters.setdefault(name, []).append(value)
    return {
        "headers": {name: value for name, value in headers.items() if value.isascii()},
        "path": path,
        "query_params": parameters,
        "addr": addr,
    }


def _legible(text: str) -> str:
    """Bytes above ASCII come as lone surrogates, which no message carries."""
    return text.encode("ascii", "surrogateescape").decode("utf-8", "replace")


class Subscriptions(Generic[S]):
    """Who is subscribed to what, by stream and group. ``S`` is a subscriber; it names its subscriptions."""

    def __init__(self) -> None:
        self._by_group: dict[tuple[str, str], dict[tuple[S, str], Request]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_group.values()))

    def add(self, subscriber: S, request: Request) -> None:
        """Record a subscription; the id is not in use (SR-24: its owner replaces it)."""
        group = self._by_group.setdefault((request.stream_name, request.group_id), {})
        group[subscriber, request.subscription_id] = request

    def remove(self, subscriber: S, request: Request) -> None:
        """Remove a subscription that was added."""
        place = (request.stream_name, request.group_id)
        group = self._by_group[place]
        del group[subscriber, request.subscription_id]
        if not group:
            del self._by_group[place]

    def to(self, stream_name: str, group_id: str, item_id: str | None) -> Iterator[S]:
        """Whom a message concerns, once for each subscription that it matches (SR-25, SR-26)."""
        for (subscriber, _), request in self._by_group.get((stream_name, group_id), {}).items():
            if request.item_id is None or request.item_id == item_id:
                yield subscriber
