"""What a broken or hostile peer sends ends in an error for that peer; two workers beside it go on working.

Each case is bytes on a socket of its own. How the layers below refuse is tested with them (``tests/protocol``,
``tests/wire``, ``test_asgi_server``); here it is the whole engine, on its real ports.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio import EndOfStream, fail_after
from anyio.abc import SocketStream
from websockets.frames import Close, Frame, Opcode

from iii_anyio import InitOptions, Worker, open_worker
from iii_anyio._protocol.framing import Framing
from iii_anyio.devengine import Engine, open_engine

pytestmark = pytest.mark.anyio

KEY = base64.b64encode(b"0123456789abcdef").decode()
UPGRADE = (
    f"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13"
)
CALL_ID = "00000000-0000-4000-8000-000000000001"


class Attack:
    """An engine under attack, and two workers that must not notice."""

    def __init__(self, engine: Engine, caller: Worker) -> None:
        self.engine = engine
        self._caller = caller
        self._calls = 0

    async def others_work(self) -> None:
        """Have one worker call the other."""
        self._calls += 1
        with fail_after(20):
            assert await self._caller.trigger_async("alive", {"n": self._calls}) == self._calls

    async def http(self, request: bytes, *, url: str = "") -> bytes:
        """Send bytes to the worker listener, or to another port, and return all that comes back."""
        async with await connect(url or self.engine.url) as stream:
            await stream.send(request)
            return await read_all(stream)

    @asynccontextmanager
    async def socket(self) -> AsyncGenerator[Peer]:
        """A WebSocket after the engine's first message."""
        async with await connect(self.engine.url) as stream:
            await stream.send(f"GET / HTTP/1.1\r\n{UPGRADE}\r\n\r\n".encode())
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, rest = data.partition(b"\r\n\r\n")
            assert b" 101 " in head
            peer = Peer(stream, rest)
            assert (await peer.message())["type"] == "workerregistered"
            yield peer


class Peer:
    """A WebSocket client that sends what it is told."""

    def __init__(self, stream: SocketStream, leading: bytes) -> None:
        self.stream = stream
        self._framing = Framing(is_client=True)
        self._messages = self._framing.receive(leading) if leading else []

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def message(self) -> dict[str, Any]:
        """The next message."""
        while not self._messages:
            self._messages += self._framing.receive(await self.stream.receive())
        return json.loads(self._messages.pop(0))

    async def close_code(self) -> int:
        """Read to the end; 1006 for none."""
        try:
            while self._framing.closed is None:
                self._framing.receive(await self.stream.receive())
        except (EndOfStream, anyio.BrokenResourceError):
            return 1006
        return self._framing.closed[0]


async def connect(url: str) -> SocketStream:
    parts = urlsplit(url)
    return await anyio.connect_tcp(parts.hostname or "", parts.port or 0)


async def read_all(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (EndOfStream, anyio.BrokenResourceError):
        return data


@asynccontextmanager
async def attack(prepare: Callable[[Worker], None] = lambda _: None) -> AsyncGenerator[Attack]:
    with fail_after(20):
        async with (
            open_engine(port=0) as engine,
            open_worker(engine.url, InitOptions(worker_name="caller", handle_signals=False)) as caller,
            open_worker(engine.url, InitOptions(worker_name="callee", handle_signals=False)) as callee,
        ):
            callee.register_function("alive", lambda data: data["n"])
            prepare(callee)
            await callee.wait_ready()
            await caller.wait_ready()
            it = Attack(engine, caller)
            yield it
            await it.others_work()


def text(payload: bytes | str) -> bytes:
    data = payload if isinstance(payload, bytes) else payload.encode()
    return Frame(Opcode.TEXT, data).serialize(mask=True)


# -- frames ----------------------------------------------------------------------------------------------------------

MASK = b"\x01\x02\x03\x04"
BROKEN_FRAMES: dict[str, tuple[bytes, int]] = {
    "text that is not UTF-8": (text(b'{"type":"ping","a":"\xff"}'), 1007),
    "half a character": (text(b'{"a":"\xc3'), 1007),
    "a surrogate": (text(b"\xed\xa0\x80"), 1007),
    "unmasked": (Frame(Opcode.TEXT, b"{}").serialize(mask=False), 1002),
    "reserved bit": (b"\xc1\x80" + MASK, 1002),
    "reserved opcode": (b"\x83\x80" + MASK, 1002),
    "reserved control opcode": (b"\x8b\x80" + MASK, 1002),
    "long ping": (b"\x89\xfe" + struct.pack("!H", 126) + MASK + bytes(126), 1002),
    "fragmented ping": (b"\x09\x80" + MASK, 1002),
    "continuation of nothing": (b"\x80\x80" + MASK, 1002),
    "text inside a message": (Frame(Opcode.TEXT, b"{", fin=False).serialize(mask=True) + text("{}"), 1002),
    "17 MiB announced": (b"\x81\xff" + struct.pack("!Q", 17 * 1024 * 1024) + MASK, 1009),
    "8 EiB announced": (b"\x81\xff" + struct.pack("!Q", 2**63 - 1) + MASK, 1009),
    "negative length": (b"\x81\xff" + struct.pack("!Q", 2**64 - 1) + MASK, 1009),
    "close with half a code": (Frame(Opcode.CLOSE, b"\x03").serialize(mask=True), 1002),
    "close with a code that is none": (Frame(Opcode.CLOSE, struct.pack("!H", 999)).serialize(mask=True), 1002),
    "close reason that is not UTF-8": (
        Frame(Opcode.CLOSE, struct.pack("!H", 1000) + b"\xff").serialize(mask=True),
        1007,
    ),
}


async def test_a_broken_frame_closes_its_connection_with_a_code() -> None:
    """RFC 6455 §5, §7.4.1, §8.1; P-102."""
    async with attack() as it:
        for name, (data, code) in BROKEN_FRAMES.items():
            async with it.socket() as peer:
                await peer.send(data)
                assert (name, await peer.close_code()) == (name, code)
            await it.others_work()


async def test_a_connection_that_ends_in_the_middle_of_something_is_forgotten() -> None:
    async with attack() as it:
        for data in (b"\x81", text("{}")[:3], b"\x81\xff" + struct.pack("!Q", 10_000_000) + MASK + bytes(1000)):
            async with it.socket() as peer:
                await peer.send(data)
            await it.others_work()
        async with it.socket() as peer:
            await peer.send(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=True))
            assert await peer.close_code() == 1000


async def test_a_flood_of_pings_and_empty_fragments_takes_no_room() -> None:
    async with attack() as it, it.socket() as peer:
        flood = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 2000
        flood += Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True)
        flood += Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * 5000
        flood += Frame(Opcode.CONT, b'{"type":"ping"}').serialize(mask=True)
        await peer.send(flood)
        assert (await peer.message())["type"] == "pong"


# -- messages --------------------------------------------------------------------------------------------------------


def call(data: str) -> str:
    return f'{{"type":"invokefunction","invocation_id":"{CALL_ID}","function_id":"alive","data":{data}}}'


UNREADABLE = {
    "deep": call("[" * 128 + "]" * 128),
    "very deep": call("[" * 200_000 + "]" * 200_000),
    "deep objects": call('{"a":' * 5000 + "1" + "}" * 5000),
    "never closed": call("[" * 100_000)[:-1],
    "NaN": call("NaN"),
    "lone surrogate": call('"\\ud800"'),
    "too large a number": call("1e999"),
    "digits": call("9" * 100_000),
}
NO_MESSAGES = [
    "[]",
    "7",
    "null",
    '"text"',
    "{",
    "{}",
    '{"type":7}',
    '{"type":"launch"}',
    '{"type":"registerfunction"}',
    '{"type":"registerfunction","id":7}',
    '{"type":"invokefunction"}',
    '{"type":"invocationresult","invocation_id":"x"}',
    '{"type":"workerregistered","worker_id":"x"}',
    '{"type":"reattach","previous_worker_id":"x","reattach_token":"y"}',
    '{"type":"unregistertrigger","id":"none"}',
    '{"type":"triggerregistrationresult","id":"none","trigger_type":"a","function_id":"b"}',
    "[" * 1_000_000,
    '{"type":' * 100_000,
]


async def test_a_message_that_cannot_be_read_costs_its_call_and_nothing_else() -> None:
    """P-103, §4: upstream drops it, and the caller waits; this engine answers where it can read the id."""
    async with attack() as it, it.socket() as peer:
        for name, message in UNREADABLE.items():
            await peer.send(text(message))
            await peer.send(text('{"type":"ping"}'))
            answer = await peer.message()
            if answer["type"] != "pong":  # digits are a number, which the function does not expect
                assert (name, answer["invocation_id"], "error" in answer) == (name, CALL_ID, True)
                assert (name, (await peer.message())["type"]) == (name, "pong")
            await it.others_work()


async def test_what_is_no_message_is_dropped() -> None:
    """P-103."""
    async with attack() as it, it.socket() as peer:
        for message in NO_MESSAGES:
            await peer.send(text(message))
            await peer.send(Frame(Opcode.BINARY, message.encode()).serialize(mask=True))
        await peer.send(text('{"type":"ping"}'))
        while (answer := await peer.message())["type"] != "pong":
            assert answer["type"] in ("invocationresult", "registrationrejected"), answer


# -- handshakes ------------------------------------------------------------------------------------------------------

REFUSED_HEADS: dict[str, tuple[bytes, int]] = {
    "a long head": (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
    "a long path": (b"GET /" + b"a" * 70_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 5000 + b"\r\n", 431),
    "no colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
    "folded": (f"GET / HTTP/1.1\r\n{UPGRADE}\r\nX: a\r\n b\r\n\r\n".encode(), 400),
    "space before the colon": (f"GET / HTTP/1.1\r\n{UPGRADE}\r\nX : a\r\n\r\n".encode(), 400),
    "zero byte": (f"GET / HTTP/1.1\r\n{UPGRADE}\r\nX: a\0b\r\n\r\n".encode(), 400),
    "bare line feed in a value": (f"GET / HTTP/1.1\r\n{UPGRADE}\r\nX: a\nY: b\r\n\r\n".encode(), 400),
    "another method": (f"POST / HTTP/1.1\r\n{UPGRADE}\r\n\r\n".encode(), 405),
    "an old version": (f"GET / HTTP/1.0\r\n{UPGRADE}\r\n\r\n".encode(), 505),
    "a newer protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no WebSocket": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
    "a body": (f"GET / HTTP/1.1\r\n{UPGRADE}\r\nContent-Length: 5\r\n\r\nhello".encode(), 400),
    "a short key": (f"GET / HTTP/1.1\r\n{UPGRADE.replace(KEY, 'abc')}\r\n\r\n".encode(), 400),
}

OTHER_PATHS = [
    "//",
    "/./",
    "/../",
    "/%2e%2e/",
    "/%2F",
    "/x",
    "/otel/../ws/channels/x",
    "/ws/channels",
    "/ws/channels/",
    "/ws/channels/none?key=k&dir=read",
    "/ws/channels/../..?key=k&dir=read",
    "/ws/channels/%00?key=k&dir=write",
    "http://x/",
    "*",
]


async def test_a_head_that_is_no_handshake_is_refused_with_a_status() -> None:
    """§2.3, P-101: nothing is guessed about where a header ends."""
    async with attack() as it:
        for name, (request, status) in REFUSED_HEADS.items():
            answer = await it.http(request)
            assert (name, answer.partition(b"\r\n")[0].split()[1:2]) == (name, [str(status).encode()])
            await it.others_work()


async def test_only_the_paths_of_the_engine_are_served_as_they_are_written() -> None:
    """P-101: no dots, no escapes, no other hosts; the ids of channels are looked up, not opened."""
    async with attack() as it:
        for path in OTHER_PATHS:
            answer = await it.http(f"GET {path} HTTP/1.1\r\n{UPGRADE}\r\n\r\n".encode())
            assert (path, answer.split()[1] in (b"404", b"400")) == (path, True), answer[:200]
        await it.others_work()


# -- HTTP routes -----------------------------------------------------------------------------------------------------

SMUGGLED = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
BROKEN_REQUESTS: dict[str, tuple[bytes, set[int]]] = {
    "two lengths": (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\n" + SMUGGLED,
        {400},
    ),
    "length and chunks": (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + SMUGGLED,
        {400},
    ),
    "negative length": (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", {400}),
    "unknown coding": (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", {400, 501}),
    "bad chunk": (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", {400}),
    "a long head": (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", {431}),
    "no host": (b"GET /echo HTTP/1.1\r\n\r\n", {400}),
    "zero byte": (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", {400}),
    "folded": (b"GET /echo HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n", {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    "dots": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {404}),
    "escaped dots": (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {404}),
}


async def _answer(answer: Awaitable[bytes]) -> int:
    return int((await answer).split()[1])


def routes(callee: Worker) -> None:
    """One route that echoes, and one whose answers try to add headers."""

    def injecting(request: Any) -> Any:
        return {
            "status_code": 200,
            "headers": {"x-a": "1\r\nx-injected: 1", "x-b\r\nx-injected": "2", "x-c": "3\nx-injected: 3", "x-ok": "4"},
            "body": request["body"],
        }

    callee.register_function("echo", lambda request: {"status_code": 200, "body": request["body"]})
    callee.register_function("inject", injecting)
    for name in ("echo", "inject"):
        for method in ("GET", "POST"):
            callee.register_trigger("http", name, {"api_path": name, "http_method": method})


async def test_a_broken_request_gets_a_status_and_nothing_behind_it_is_believed() -> None:
    async with attack(routes) as it:
        for name, (request, statuses) in BROKEN_REQUESTS.items():
            answer = await it.http(request, url=it.engine.http_url)
            assert (name, int(answer.split()[1]) in statuses) == (name, True), answer[:200]
            assert (name, answer.count(b"HTTP/1.1 ")) == (name, 1)
        await it.others_work()


async def test_bodies_that_nest_too_deep_or_are_no_text_harm_nobody() -> None:
    async with attack(routes) as it:
        for body in (b"[" * 100_000, b"[" * 1000 + b"]" * 1000, b'"\xff"', b"1e999", b'{"a":' * 50_000, b'"\\ud800"'):
            head = (
                f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            )
            answer = it.http(f"{head}Connection: close\r\n\r\n".encode() + body, url=it.engine.http_url)
            assert (body[:20], await _answer(answer) in (200, 400, 500)) == (body[:20], True)
            await it.others_work()


async def test_a_functions_answer_cannot_add_headers_to_the_response() -> None:
    async with attack(routes) as it:
        request = b"GET /inject HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await it.http(request, url=it.engine.http_url)
        names = [line.partition(b":")[0].lower() for line in answer.partition(b"\r\n\r\n")[0].split(b"\n")]
        assert b"x-injected" not in names
