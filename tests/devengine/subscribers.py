"""Clients of the stream server, over real sockets."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iii_anyio._wire.connect import websocket_connector
from iii_anyio._wire.websocket import WebSocketWire
from iii_anyio.devengine import Engine
from iii_anyio.errors import LinkClosed

__all__ = ("Subscriber", "subscribing")


class Subscriber:
    """One connection."""

    def __init__(self, wire: WebSocketWire) -> None:
        self.wire = wire
        self._unread: deque[dict[str, Any]] = deque()

    async def say(self, *messages: Any) -> None:
        """Send JSON, or bytes as they are."""
        await self.wire.send([m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages])

    async def join(
        self, stream_name: str = "s", group_id: str = "g", item_id: str | None = None, *, name: str = "sub"
    ) -> Any:
        """Join and return the event of the answer, unless something else comes before."""
        await self.say(join(stream_name, group_id, item_id, name=name))
        message = await self.take()
        assert (message["streamName"], message["groupId"], message["id"]) == (stream_name, group_id, item_id)
        return message["event"]

    async def leave(self, name: str = "sub", stream_name: str = "s", group_id: str = "g") -> None:
        await self.say(
            {"type": "leave", "data": {"subscriptionId": name, "streamName": stream_name, "groupId": group_id}}
        )

    async def take(self) -> dict[str, Any]:
        """Wait for the next message."""
        while not self._unread:
            self._unread += [json.loads(text) for text in await self.wire.receive()]
        return self._unread.popleft()

    async def take_event(self) -> tuple[str | None, Any]:
        """Item and event of the next message."""
        message = await self.take()
        return message["id"], message["event"]

    async def end(self) -> LinkClosed:
        """Wait for the server to close; what it sends before is passed over."""
        with pytest.raises(LinkClosed) as caught:
            while True:
                await self.wire.receive()
        return caught.value


def join(stream_name: str = "s", group_id: str = "g", item_id: str | None = None, *, name: str = "sub") -> Any:
    """The message of a join."""
    data = {"subscriptionId": name, "streamName": stream_name, "groupId": group_id}
    return {"type": "join", "data": data if item_id is None else {**data, "id": item_id}}


@asynccontextmanager
async def subscribing(
    engine: Engine, path: str = "", headers: dict[str, str] | None = None
) -> AsyncGenerator[Subscriber]:
    """Connect to the stream server."""
    async with websocket_connector(engine.stream_url + path, headers=headers)() as wire:
        yield Subscriber(wire)
