"""Recorded conversations: reading them, comparing messages with them, and speaking the client's part to an engine.

A difference is one line of text: where it is and what it is. ``unexplained`` holds a list of them against a table of
patterns with reasons; what is in only one of both is a failure.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
from anyio import EndOfStream, create_task_group
from anyio.abc import TaskGroup

from iii_anyio.abc import Connector, Wire
from iii_anyio.devengine import Engine
from iii_anyio.errors import LinkClosed

__all__ = ("Entry", "Ids", "Tap", "Texts", "compare_clients", "load", "replay", "request", "unexplained")

FOLDER = Path(__file__).with_name("transcripts")
CLIENT, ENGINE = "c>e", "e>c"
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|00-[0-9a-f]{32}-[0-9a-f]{16}-01")
"""UUIDs, and W3C trace parents."""
ROW_KEYS = ("function_id", "id", "name")
"""What rows of a list are told apart by, best first."""
REGISTER = "engine::workers::register"

Texts = dict[int, list[dict[str, Any]]]
"""What each connection said, in order. A close frame is ``{"type": "close", "code": …}``."""


@dataclass(frozen=True)
class Entry:
    """One line of a recording."""

    where: str
    conn: int
    direction: str
    message: dict[str, Any]
    """As in ``Texts``; of an HTTP request its text."""


def load(name: str) -> list[Entry]:
    """Read a recording."""
    entries: list[Entry] = []
    for number, line in enumerate((FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines(), 1):
        fields = json.loads(line)
        where = f"{name}:{number}"
        if "http" in fields:
            entries.append(Entry(where, 0, "http", {"type": "http", "text": fields["http"]}))
        else:
            message = fields["text"] if "text" in fields else {"type": "close", "code": fields["close"]}
            entries.append(Entry(where, fields["conn"], fields["dir"], message))
    return entries


def requests(entries: Iterable[Entry]) -> list[str]:
    """The HTTP requests of a recording."""
    return [entry.message["text"] for entry in entries if entry.direction == "http"]


# -- comparing -------------------------------------------------------------------------------------------------------


class Ids:
    """Which of our ids stands for which recorded one. Who made an id is free to choose it, but only once."""

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}

    def same(self, recorded: str, ours: str) -> bool:
        """Whether both are ids, and the same as far as is known."""
        if not ID.fullmatch(recorded) or not ID.fullmatch(ours) or len(recorded) != len(ours):
            return False
        return self._ours.setdefault(recorded, ours) == ours

    def is_other(self, recorded: str, ours: str) -> bool:
        """Whether the recorded id is known to be another of ours."""
        return self._ours.get(recorded, ours) != ours

    def keep(self, recorded: Any) -> None:
        """The ids in a message that is sent as it was recorded are the same on both sides."""
        for text in _strings(recorded):
            if ID.fullmatch(text):
                self._ours.setdefault(text, text)

    def translate(self, recorded: Any) -> Any:
        """A recorded message with our ids."""
        if isinstance(recorded, dict):
            return {key: self.translate(value) for key, value in recorded.items()}
        if isinstance(recorded, list):
            return [self.translate(value) for value in recorded]
        return self._ours.get(recorded, recorded) if isinstance(recorded, str) else recorded


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def differences(recorded: Any, ours: Any, ids: Ids, path: str = "") -> Iterator[str]:
    """What is not alike in two values, a line each; ids, times, stack traces and the order of keys aside."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        for key in sorted(recorded.keys() | ours.keys()):
            here = f"{path}/{key}"
            if key not in ours:
                yield f"{here} is missing"
            elif key not in recorded:
                yield f"{here} is added"
            elif key == "stacktrace":
                if not isinstance(ours[key], str):
                    yield f"{here} is no text"
            elif key == "connected_at_ms":
                if not isinstance(ours[key], int):
                    yield f"{here} is no time"
            else:
                yield from differences(recorded[key], ours[key], ids, here)
    elif isinstance(recorded, list) and isinstance(ours, list):
        rows = _by_key(recorded), _by_key(ours)
        if rows[0] and rows[1]:
            yield from differences(*rows, ids, path)
        elif len(recorded) != len(ours):
            yield f"{path} has {len(ours)} items, not {len(recorded)}"
        else:
            for number, (left, right) in enumerate(zip(recorded, ours, strict=True)):
                yield from differences(left, right, ids, f"{path}/{number}")
    elif recorded != ours or type(recorded) is not type(ours):
        if not (isinstance(recorded, str) and isinstance(ours, str) and ids.same(recorded, ours)):
            yield f"{path}: {json.dumps(ours, ensure_ascii=False)}, not {json.dumps(recorded, ensure_ascii=False)}"


def _by_key(rows: list[Any]) -> dict[str, Any] | None:
    """The rows of a list of objects by their name; ids are no names. None when that does not tell them apart."""
    named: dict[str, Any] = {}
    for row in rows:
        if not isinstance(row, dict):
            return None
        names = [row[key] for key in ROW_KEYS if isinstance(row.get(key), str) and not ID.fullmatch(row[key])]
        if not names or names[0] in named:
            return None
        named[names[0]] = row
    return named


def unexplained(found: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Differences without a reason, and reasons without a difference."""
    lines = list(found)
    explained = {pattern: [line for line in lines if fnmatchcase(line, pattern)] for pattern in known}
    hit = {line for hits in explained.values() for line in hits}
    return [
        *(f"not listed: {line}" for line in lines if line not in hit),
        *(f"does not occur: {pattern}" for pattern, hits in explained.items() if not hits),
    ]


# -- the client's part -----------------------------------------------------------------------------------------------


class _Peer:
    """One raw connection to the engine."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.received: deque[dict[str, Any]] = deque()
        self.is_closed = False

    async def read(self) -> dict[str, Any]:
        """The next message of the engine, or its close frame."""
        while not self.received:
            try:
                self.received += [json.loads(text) for text in await self.wire.receive()]
            except LinkClosed as exc:
                self.is_closed = True
                return {"type": "close", "code": exc.code}
        return self.received.popleft()

    async def send(self, message: dict[str, Any]) -> None:
        await self.wire.send([json.dumps(message, ensure_ascii=False).encode()])

    async def settle(self) -> list[dict[str, Any]]:
        """Wait until the engine has dealt with all that was sent; returns what came before it said so."""
        mark = str(uuid4())
        await self.send({"type": "invokefunction", "function_id": REGISTER, "data": {}, "invocation_id": mark})
        before: list[dict[str, Any]] = []
        while (message := await self.read()).get("invocation_id") != mark:
            before.append(message)
        return before


async def replay(engine: Engine, *recordings: list[Entry]) -> list[str]:
    """Say to an engine what the clients of these recordings said, one recording after the other.

    Returns:
        What the engine answered differently.
    """
    found: list[str] = []
    ids = Ids()
    async with AsyncExitStack() as stack, create_task_group() as tasks:
        for entries in recordings:
            peers: dict[int, _Peer] = {}
            for entry in entries:
                if entry.direction == "http":
                    for peer in peers.values():
                        peer.received += await peer.settle()
                    tasks.start_soon(request, engine, entry.message["text"])
                    continue
                if entry.conn not in peers:
                    wire = await stack.enter_async_context(engine.connector()())
                    peers[entry.conn] = _Peer(wire)
                peer = peers[entry.conn]
                if entry.direction == CLIENT:
                    await _say(peer, entry.message, ids)
                else:
                    found += await _hear(peer, entry, ids)
            for conn, peer in peers.items():
                if not peer.is_closed:
                    extra = [*peer.received, *(await peer.settle())]
                    found += [f"{entries[-1].where} conn {conn}: {_kind(message)} is added" for message in extra]
    return found


async def _say(peer: _Peer, message: dict[str, Any], ids: Ids) -> None:
    if message["type"] == "close":
        peer.is_closed = True
        await peer.wire.aclose(message["code"])
        return
    if message["type"] in ("invokefunction", "registertrigger"):
        ids.keep(message)
    await peer.send(ids.translate(message))


async def _hear(peer: _Peer, entry: Entry, ids: Ids) -> list[str]:
    """Wait for the recorded message; returns what is different about it, and what came before it."""
    found: list[str] = []
    while not _is_meant(entry.message, message := await peer.read(), ids):
        found.append(f"{entry.where} {_kind(message)} is added")
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
        try:
            while True:
                response += await stream.receive()
        except EndOfStream:
            return response


# -- what our worker says --------------------------------------------------------------------------------------------


class Tap:
    """Connectors to an engine that keep what their workers say."""

    def __init__(self, engine: Engine, tasks: TaskGroup) -> None:
        self.engine = engine
        self.tasks = tasks
        self.texts: Texts = {}
        self.wires: dict[int, Wire] = {}

    def connector(self, conn: int) -> Connector:
        """For one worker; its connections are ``conn``, then ``conn + 10``, …"""
        numbers = iter(range(conn, conn + 100, 10))

        @asynccontextmanager
        async def connect() -> AsyncGenerator[Wire]:
            number = next(numbers)
            async with self.engine.connector()() as wire:
                self.wires[number] = wire
                yield _Tapped(wire, self.texts.setdefault(number, []))

        return connect


class _Tapped:
    """A wire that notes what is sent."""

    def __init__(self, wire: Wire, texts: list[dict[str, Any]]) -> None:
        self.pongs = wire.pongs
        self._wire = wire
        self._texts = texts

    async def receive(self) -> list[bytes]:
        return await self._wire.receive()

    async def send(self, batch: Sequence[bytes]) -> None:
        self._texts += [json.loads(text) for text in batch]
        await self._wire.send(batch)

    async def ping(self, payload: bytes) -> None:
        await self._wire.ping(payload)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        self._texts.append({"type": "close", "code": code})
        await self._wire.aclose(code, reason)

    async def abort(self) -> None:
        await self._wire.abort()


def said(entries: Iterable[Entry]) -> Texts:
    """What the clients of a recording said."""
    texts: Texts = {}
    for entry in entries:
        if entry.direction == CLIENT:
            texts.setdefault(entry.conn, []).append(entry.message)
    return texts


def compare_clients(recorded: Texts, ours: Texts) -> list[str]:
    """What our workers said differently, connection by connection."""
    found: list[str] = []
    ids = Ids()
    for conn in sorted(recorded.keys() | ours.keys()):
        theirs, mine = _numbered(recorded.get(conn, [])), _numbered(ours.get(conn, []))
        for name in [*theirs, *(name for name in mine if name not in theirs)]:
            where = f"conn {conn} {name}"
            if name not in mine:
                found.append(f"{where} is missing")
            elif name not in theirs:
                found.append(f"{where} is added")
            else:
                found += [f"{where}{line}" for line in differences(theirs[name], mine[name], ids)]
        common = [name for name in theirs if name in mine]
        if common != (order := [name for name in mine if name in theirs]):
            found.append(f"conn {conn} in another order: {', '.join(order)}")
    return found


def _numbered(messages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Messages by what they are about, and which of that it is."""
    named: dict[str, dict[str, Any]] = {}
    for message in messages:
        about = [message.get(key) for key in ("trigger_type", "function_id", "id")]
        base = " ".join([message["type"], *(word for word in about if word and not ID.fullmatch(word))])
        number = 1
        while (name := f"{base} #{number}") in named:
            number += 1
        named[name] = message
    return named
