"""A router with workers that speak raw JSON: what a worker sends goes in as text, what it gets comes out as dicts."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from iii_anyio._protocol import engine_session
from iii_anyio._protocol.codec import encode
from iii_anyio._protocol.engine_session import EngineSession
from iii_anyio._protocol.messages import Message
from iii_anyio.devengine._router import Router
from iii_anyio.errors import payload_too_large

REGISTER = "engine::workers::register"


def make_uuid(number: int) -> str:
    """A valid UUIDv4 that tests can predict."""
    return f"00000000-0000-4000-8000-{number:012x}"


class Peer:
    """One connection. Everything it receives is kept in ``received`` until somebody reads it."""

    def __init__(self, hub: Hub, session: EngineSession) -> None:
        self.hub = hub
        self.session = session
        self.received: list[dict[str, Any]] = []

    @property
    def worker_id(self) -> str:
        return self.session.worker_id

    def post(self, message: dict[str, Any] | str | bytes) -> None:
        """Send one message."""
        text = message if isinstance(message, str | bytes) else json.dumps(message)
        self.hub.router.receive(self.session, text.encode() if isinstance(text, str) else text)
        self.hub.flush()

    def send(self, message: dict[str, Any] | str | bytes) -> list[dict[str, Any]]:
        """Send one message and return what this peer has received since it last read."""
        self.post(message)
        return self.take()

    def take(self) -> list[dict[str, Any]]:
        """Return what has been received and not been read yet."""
        self.hub.flush()
        received, self.received = self.received, []
        return received

    def take_one(self) -> dict[str, Any]:
        """Return the one message that has been received."""
        received = self.take()
        assert len(received) == 1, received
        return received[0]

    def invoke(self, function_id: str, data: Any = None, **fields: Any) -> str:
        """Call a function and return the id of the call; void when ``action`` says so."""
        invocation_id = self.hub.uuid()
        if fields.get("action") != {"type": "void"}:
            fields.setdefault("invocation_id", invocation_id)
        self.post({"type": "invokefunction", "function_id": function_id, "data": data, **fields})
        return fields.get("invocation_id", invocation_id)

    def call(self, function_id: str, data: Any = None, **fields: Any) -> dict[str, Any]:
        """Call a function of the engine and return its answer, the only message received."""
        invocation_id = self.invoke(function_id, data, **fields)
        answer = self.take_one()
        assert answer["type"] == "invocationresult"
        assert answer["invocation_id"] == invocation_id
        return answer

    def ask(self, function_id: str, data: Any = None) -> Any:
        """Call a function of the engine and return its result."""
        answer = self.call(function_id, {} if data is None else data)
        assert "error" not in answer, answer
        return answer.get("result")

    def refusal(self, function_id: str, data: Any = None, **fields: Any) -> dict[str, Any]:
        """Call a function and return the error it is answered with."""
        answer = self.call(function_id, data, **fields)
        assert "result" not in answer, answer
        return answer["error"]

    def answer(self, invocation: dict[str, Any], **outcome: Any) -> list[dict[str, Any]]:
        """Answer an invocation that this peer has received."""
        fields = {key: invocation[key] for key in ("invocation_id", "function_id")}
        return self.send({"type": "invocationresult", **fields, **outcome})

    def function(self, function_id: str, **fields: Any) -> list[dict[str, Any]]:
        return self.send({"type": "registerfunction", "id": function_id, **fields})

    def trigger_type(self, type_id: str, **fields: Any) -> list[dict[str, Any]]:
        return self.send({"type": "registertriggertype", "id": type_id, "description": "d", **fields})

    def trigger(self, trigger_id: str, type_id: str, function_id: str = "f", **fields: Any) -> list[dict[str, Any]]:
        message = {"id": trigger_id, "trigger_type": type_id, "function_id": function_id, "config": {}, **fields}
        return self.send({"type": "registertrigger", **message})

    def accept(self, trigger_id: str, **outcome: Any) -> list[dict[str, Any]]:
        """Answer a forwarded ``registertrigger``; with ``error`` it is refused."""
        return self.send({"type": "triggerregistrationresult", "id": trigger_id, **outcome})

    def leave(self) -> None:
        """End the socket from this side."""
        self.hub.router.disconnect(self.session)
        self.hub.flush()


class Hub:
    """A router under test, with ids and a clock that tests can predict."""

    def __init__(self, **options: Any) -> None:
        self.numbers = itertools.count(1)
        self.clock = 1_760_000_000_000
        self.events: list[tuple[str, dict[str, Any]]] = []
        options.setdefault("on_event", lambda name, payload: self.events.append((name, payload)))
        self.router = Router(self.now_ms, new_id=self.uuid, **options)
        self.peers: dict[EngineSession, Peer] = {}

    def uuid(self) -> str:
        return make_uuid(next(self.numbers))

    def now_ms(self) -> int:
        self.clock += 1
        return self.clock

    def flush(self) -> None:
        """Do the runtime's part: hand over what waits for each connection, then close it if that is wanted."""
        for session in self.router.take_dirty():
            peer = self.peers.get(session)
            if peer is not None:
                peer.received += [json.loads(text) for text in session.take_outgoing()]

    def open(self, *, in_process: bool = False) -> Peer:
        """Connect without saying who one is, and without reading anything."""
        session = self.router.connect(ip_address=None if in_process else "127.0.0.1", in_process=in_process)
        peer = self.peers[session] = Peer(self, session)
        return peer

    def join(self, name: str | None = None, *, in_process: bool = False, **identity: Any) -> Peer:
        """Connect and register; the peer has nothing unread then."""
        peer = self.open(in_process=in_process)
        peer.take()
        data = {"name": name, "pid": 4242, "runtime": "python", **identity}
        assert peer.ask(REGISTER, data) == {"success": True}
        return peer


def limit_messages(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Have the engine's sessions refuse messages over ``limit`` bytes as the codec refuses those over 64 MiB."""

    def limited(message: Message) -> bytes:
        text = encode(message)
        if len(text) > limit:
            raise payload_too_large(len(text))
        return text

    monkeypatch.setattr(engine_session, "encode", limited)
