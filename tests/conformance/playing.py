"""Speaking the recorded clients' part to an engine, and listening to what our own workers say to it."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any
from uuid import uuid4

import anyio
from anyio import create_task_group
from anyio.abc import SocketStream

from iii_anyio._wire.connect import websocket_connector
from iii_anyio.abc import ChannelConnector, ChannelWire, Connector, Wire
from iii_anyio.channel import build_channel_url
from iii_anyio.devengine import Engine
from iii_anyio.errors import LinkClosed
from tests.conformance.recordings import ENGINE, Entry, Ids, Texts, differences
from tests.wire.servers import raw_serving, read_head

__all__ = ("Tap", "external", "replay", "request")

REGISTER = "engine::workers::register"


# -- the client's part -----------------------------------------------------------------------------------------------


class _End:
    """One end of a data channel."""

    def __init__(self, wire: ChannelWire) -> None:
        self._wire = wire
        self._received: deque[dict[str, Any]] = deque()

    async def say(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "binary":
                await self._wire.send_binary([base64.b64decode(message["data"])])
            case "note":
                await self._wire.send([message["data"].encode()])
            case "close":
                await self._wire.aclose(message["code"])

    async def hear(self) -> dict[str, Any]:
        while not self._received:
            try:
                self._received += [_item(is_text, data) for is_text, data in await self._wire.receive_typed()]
            except LinkClosed as exc:
                return {"type": "close", "code": exc.code}
        return self._received.popleft()


def _item(is_text: bool, data: bytes) -> dict[str, Any]:
    if is_text:
        return {"type": "note", "data": data.decode()}
    return {"type": "binary", "data": base64.b64encode(data).decode()}


class _Peer:
    """One raw connection to the engine."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.received: deque[dict[str, Any]] = deque()
        self.early: list[dict[str, Any]] = []
        """What came before its turn."""
        self.is_closed = False
        self.identity: dict[str, Any] = {}
        """As whom it has registered."""
        self.is_binding = False
        """Whether a trigger may not be bound yet."""

    async def read(self) -> dict[str, Any]:
        """The next message of the engine, or its close frame."""
        while not self.received:
            try:
                self.received += [json.loads(text) for text in await self.wire.receive()]
            except LinkClosed as exc:
                self.is_closed = True
                self.received.append({"type": "close", "code": exc.code})
        return self.received.popleft()

    async def send(self, message: dict[str, Any]) -> None:
        await self.wire.send([json.dumps(message, ensure_ascii=False).encode()])

    async def wait_read(self) -> None:
        """Wait until the engine has dealt with all that was sent here."""
        if self.is_closed:
            await anyio.wait_all_tasks_blocked()
        else:
            await self._ask({"type": "ping"}, type="pong")

    async def wait_bound(self) -> None:
        """Wait until also the engine's own providers have."""
        mark = str(uuid4())
        question = {"type": "invokefunction", "function_id": REGISTER, "data": self.identity, "invocation_id": mark}
        self.is_binding = False
        await self._ask(question, type="invocationresult", invocation_id=mark)

    async def _ask(self, question: dict[str, Any], **answer: str) -> None:
        """Ask and wait for the answer; what comes before it stays to be read."""
        await self.send(question)
        before: list[dict[str, Any]] = []
        while not answer.items() <= (message := await self.read()).items():
            before.append(message)
            if self.is_closed:
                break
        self.received += before


async def replay(
    engine: Engine, *recordings: list[Entry], is_ordered: bool = True, names: Mapping[str, str] | None = None
) -> list[str]:
    """Say to an engine what the clients of these recordings said, one recording after the other.

    Args:
        engine: Listens, if they have more than worker connections.
        recordings: As ``load`` gives them.
        is_ordered: Whether its messages must come in the recorded order.
        names: Of what is called otherwise here, by its recorded name.

    Returns:
        What the engine answered differently.
    """
    found: list[str] = []
    ids = Ids()
    for name, ours in (names or {}).items():
        ids.call(name, ours)
    async with AsyncExitStack() as stack, create_task_group() as tasks:
        for entries in recordings:
            peers: dict[int, _Peer] = {}
            ends: dict[int, _End] = {}
            speaker: _Peer | None = None
            for entry in entries:
                if entry.direction == "http":
                    for peer in peers.values():
                        await peer.wait_bound()
                    tasks.start_soon(request, engine, entry.message["text"])
                    continue
                if entry.direction == "otel":
                    await _export(engine, entry.message["text"])
                    continue
                if entry.message["type"] == "channel":
                    end = ids.translate(entry.message)
                    url = build_channel_url(engine.url, end["id"], end["key"], end["dir"])
                    ends[entry.conn] = _End(await stack.enter_async_context(websocket_connector(url)()))
                    continue
                if entry.conn in ends:
                    if entry.direction == ENGINE:
                        found += differences(entry.message, await ends[entry.conn].hear(), ids, entry.where)
                    else:
                        await ends[entry.conn].say(entry.message)
                    continue
                if entry.conn not in peers:
                    wire = await stack.enter_async_context(engine.connector()())
                    peers[entry.conn] = _Peer(wire)
                peer = peers[entry.conn]
                if entry.direction == ENGINE:
                    found += await _hear(peer, entry, ids, is_ordered)
                    continue
                if speaker is not None and speaker is not peer:
                    await speaker.wait_read()  # connections are read side by side, but the recorded ones took turns
                speaker = peer
                await _say(peer, entry.message, ids)
            for conn, peer in peers.items():
                if not peer.is_closed:
                    await peer.wait_bound()
                rest = [*peer.early, *peer.received]
                found += [f"{entries[-1].where} conn {conn}: {_kind(message)} is added" for message in rest]
    return found


async def _export(engine: Engine, frame: str) -> None:
    """Send a telemetry frame, and wait until it is read."""
    async with websocket_connector(f"{engine.url}/otel")() as wire:
        await wire.send_binary([frame.encode()])
        await wire.ping(b"read")
        while not wire.pongs:
            await wire.receive()
    await anyio.wait_all_tasks_blocked()


async def _say(peer: _Peer, message: dict[str, Any], ids: Ids) -> None:
    if message["type"] == "close":
        peer.is_closed = True
        await peer.wire.aclose(message["code"])
        return
    if message["type"] == "invokefunction" and peer.is_binding:
        await peer.wait_bound()
    peer.is_binding |= message["type"] == "registertrigger"
    if message.get("function_id") == REGISTER:
        peer.identity = message["data"]
    if message["type"] in ("invokefunction", "registertrigger"):
        ids.keep(message)
    await peer.send(ids.translate(message))


async def _hear(peer: _Peer, entry: Entry, ids: Ids, is_ordered: bool) -> list[str]:
    """Wait for the recorded message; returns what is different about it, and what must not come before it."""
    found: list[str] = []
    for message in peer.early:
        if _is_meant(entry.message, message, ids):
            peer.early.remove(message)
            return [f"{entry.where}{line}" for line in differences(entry.message, message, ids)]
    while not _is_meant(entry.message, message := await peer.read(), ids):
        if is_ordered or peer.is_closed:
            found.append(f"{entry.where} {_kind(message)} is added")
        else:
            peer.early.append(message)
        if peer.is_closed:
            return [*found, f"{entry.where} {_kind(entry.message)} is missing"]
    return [*found, *(f"{entry.where}{line}" for line in differences(entry.message, message, ids))]


def _is_meant(recorded: dict[str, Any], ours: dict[str, Any], ids: Ids) -> bool:
    if any(recorded.get(key) != ours.get(key) for key in ("type", "function_id")):
        return False
    return not any(ids.is_other(recorded[key], ours.get(key, "")) for key in ("id", "invocation_id") if key in recorded)


def _kind(message: dict[str, Any]) -> str:
    error = message.get("error")
    words = [message["type"], message.get("function_id") or message.get("id"), error and error.get("code")]
    return " ".join(word for word in words if isinstance(word, str))


async def request(engine: Engine, text: str) -> bytes:
    """Send an HTTP request as it is and read the response to its end."""
    host, _, port = engine.http_url.rpartition("/")[2].rpartition(":")
    response = b""
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(text.encode())
        async for chunk in stream:
            response += chunk
    return response


@asynccontextmanager
async def external() -> AsyncGenerator[str]:
    """The server behind the recorded external function: it answers with what it got. Yields the URL."""

    async def answer(stream: SocketStream) -> None:
        head, _, body = (await read_head(stream)).partition("\r\n\r\n")
        (length,) = [int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        while len(body) < length:
            body += (await stream.receive()).decode()
        text = json.dumps({"got": json.loads(body)})
        await stream.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

    async with raw_serving(answer) as port:
        yield f"http://127.0.0.1:{port}/x"


# -- what our worker says --------------------------------------------------------------------------------------------


class Tap:
    """Connectors to an engine that keep what their workers say."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.texts: Texts = {}
        self.wires: dict[int, Wire] = {}
        self._channels = count(3)  # behind the workers of every recording that has channels

    def connector(self, conn: int) -> Connector:
        """For one worker; its connections are ``conn``, then ``conn + 10``, …"""
        return _TappedConnector(self, iter(range(conn, conn + 1000, 10)))

    @asynccontextmanager
    async def connect(self, number: int) -> AsyncGenerator[Wire]:
        async with self.engine.connector()() as wire:
            self.wires[number] = wire
            yield _Tapped(wire, self.texts.setdefault(number, []))

    @asynccontextmanager
    async def channel(self, channel_id: str, access_key: str, direction: str) -> AsyncGenerator[ChannelWire]:
        connector = self.engine.connector()
        assert isinstance(connector, ChannelConnector)
        texts = self.texts.setdefault(next(self._channels), [])
        texts.append({"type": "channel", "id": channel_id, "key": access_key, "dir": direction})
        async with connector.channel(channel_id, access_key, direction) as wire:
            yield _TappedEnd(wire, texts)


class _TappedConnector:
    def __init__(self, tap: Tap, numbers: Iterator[int]) -> None:
        self._tap = tap
        self._numbers = numbers
        self.channel = tap.channel

    def __call__(self) -> AbstractAsyncContextManager[Wire]:
        return self._tap.connect(next(self._numbers))


class _TappedEnd:
    """An end of a channel that notes what is sent."""

    def __init__(self, wire: ChannelWire, texts: list[dict[str, Any]]) -> None:
        self.receive_typed = wire.receive_typed
        self.abort = wire.abort
        self._wire = wire
        self._texts = texts

    async def send(self, batch: Sequence[bytes]) -> None:
        self._texts += [_item(True, data) for data in batch]
        await self._wire.send(batch)

    async def send_binary(self, batch: Sequence[bytes]) -> None:
        self._texts += [_item(False, data) for data in batch]
        await self._wire.send_binary(batch)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        self._texts.append({"type": "close", "code": code})
        await self._wire.aclose(code, reason)


class _Tapped:
    """A wire that notes what is sent."""

    def __init__(self, wire: Wire, texts: list[dict[str, Any]]) -> None:
        self.pongs = wire.pongs
        self._wire = wire
        self._texts = texts
        self._is_lost = False

    async def receive(self) -> list[bytes]:
        try:
            return await self._wire.receive()
        except LinkClosed as exc:
            self._is_lost = exc.code == 1006
            raise

    has_rest = False

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        return False

    async def send(self, batch: Sequence[bytes]) -> None:
        self._texts += [json.loads(text) for text in batch]
        await self._wire.send(batch)

    async def ping(self, payload: bytes) -> None:
        await self._wire.ping(payload)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        if not self._is_lost:
            self._texts.append({"type": "close", "code": code})
        await self._wire.aclose(code, reason)

    async def abort(self) -> None:
        await self._wire.abort()
