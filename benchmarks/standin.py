"""A stand-in for the engine, made for measuring: C-speed framing (picows), orjson, uvloop, answers joined per read.

It answers every call itself. ``bench::echo`` returns its payload, which measures a caller. ``bench::flood`` with
``{"calls", "in_flight", "size"}`` calls the caller's own function ``bench::serve`` so many times, so many at once, and
answers when all have come back, which measures a callee. ``bench::cpu`` is answered with the CPU seconds this process
has used, ``bench::never`` not at all, everything else ``null``.

    python -m benchmarks.standin        prints its URL and runs until its standard input ends
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

MAX = 128 * 1024 * 1024
PIECE = 16 * 1024 * 1024


def framed(text: bytes) -> bytes:
    """A server's text frame, or several for a text that is too long for one."""
    if len(text) <= PIECE:
        return header(0x81, len(text)) + text
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    first, *middle, last = pieces
    return b"".join(
        [header(0x01, len(first)), first]
        + [part for piece in middle for part in (header(0x00, len(piece)), piece)]
        + [header(0x80, len(last)), last]
    )


def header(head: int, length: int) -> bytes:
    """The header of an unmasked frame."""
    if length < 126:
        return bytes((head, length))
    if length < 65536:
        return struct.pack("!BBH", head, 126, length)
    return struct.pack("!BBQ", head, 127, length)


class Connection(WSListener):
    """One worker."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Greet it."""
        self.raw = transport.underlying_transport
        self.parts: list[bytes] = []
        self.out: list[bytes] = []
        self.flood: Flood | None = None
        self.numbers = 0
        token = str(uuid4())
        self.raw.write(framed(orjson.dumps({"type": "workerregistered", "worker_id": token, "reattach_token": token})))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take one frame, and write what a whole read brought forth."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close()
            transport.disconnect()
            return
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            if not frame.fin:
                self.parts.append(frame.get_payload_as_bytes())
            elif self.parts:
                self.message(orjson.loads(b"".join([*self.parts, frame.get_payload_as_bytes()])))
                self.parts.clear()
            else:
                self.message(orjson.loads(frame.get_payload_as_memoryview()))
        if frame.last_in_buffer and self.out:
            self.raw.write(b"".join(self.out) if len(self.out) > 1 else self.out[0])
            self.out.clear()

    def message(self, message: dict[str, Any]) -> None:
        """Answer a call, or count an answer."""
        kind = message["type"]
        if kind == "invocationresult":
            if self.flood is not None:
                self.flood.answered(message)
            return
        if kind != "invokefunction" or message.get("invocation_id") is None:
            return
        function_id: str = message["function_id"]
        data: Any = message.get("data")
        if function_id == "bench::flood":
            self.flood = Flood(self, message["invocation_id"], **data)
            return
        if function_id == "bench::never":
            return
        result = data if function_id == "bench::echo" else time.process_time() if function_id == "bench::cpu" else None
        self.answer(message["invocation_id"], function_id, result)

    def answer(self, invocation_id: str, function_id: str, result: object) -> None:
        """Send a result."""
        message = {
            "type": "invocationresult",
            "invocation_id": invocation_id,
            "function_id": function_id,
            "result": result,
        }
        self.out.append(framed(orjson.dumps(message)))


class Flood:
    """Calls one worker until it has answered often enough."""

    def __init__(self, to: Connection, invocation_id: str, *, calls: int, in_flight: int, size: int) -> None:
        self.to = to
        self.invocation_id = invocation_id
        self.left = calls
        self.waiting = 0
        self.errors = 0
        self.data = {"text": "x" * size}
        for _ in range(min(in_flight, calls)):
            self.call()

    def call(self) -> None:
        """One more."""
        self.left -= 1
        self.waiting += 1
        message = {
            "type": "invokefunction",
            "invocation_id": str(uuid4()),
            "function_id": "bench::serve",
            "data": self.data,
        }
        self.to.out.append(framed(orjson.dumps(message)))

    def answered(self, message: dict[str, Any]) -> None:
        """One less."""
        self.waiting -= 1
        if message.get("error") is not None:
            self.errors += 1
        if self.left:
            self.call()
        elif not self.waiting:
            self.to.answer(self.invocation_id, "bench::flood", {"errors": self.errors})
            self.to.flood = None


async def main() -> None:
    """Serve until standard input ends."""
    factory: Callable[[object], Connection] = lambda _request: Connection()  # noqa: E731
    server = await ws_create_server(
        factory, "127.0.0.1", 0, max_frame_size=MAX, read_buffer_init_size=262_144, websocket_handshake_timeout=10
    )
    print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
