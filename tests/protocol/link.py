"""A wire without I/O between a ``WorkerSession`` and an engine: texts move when a test says so, and can get lost.

The engine's end is the ``Router`` of the development engine, or a ``Script`` that says what a test wants in raw JSON.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Protocol

from iii_anyio._protocol.engine_session import EngineSession
from iii_anyio._protocol.messages import Message
from iii_anyio._protocol.worker_session import WorkerSession
from iii_anyio.devengine._router import Router

REGISTER = "engine::workers::register"


class EngineEnd(Protocol):
    """What a link needs of the engine's side of one connection."""

    def receive(self, text: bytes) -> None: ...

    def take_outgoing(self) -> list[bytes]: ...

    def ended(self) -> None: ...


class RouterEnd:
    """One connection of a router."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.session: EngineSession = router.connect(ip_address="127.0.0.1")

    def receive(self, text: bytes) -> None:
        self.router.receive(self.session, text)

    def take_outgoing(self) -> list[bytes]:
        return self.session.take_outgoing()

    def ended(self) -> None:
        self.router.disconnect(self.session)


class Script:
    """An engine that says nothing by itself."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self._outgoing: list[bytes] = []

    def receive(self, text: bytes) -> None:
        self.received.append(json.loads(text))

    def take_outgoing(self) -> list[bytes]:
        texts, self._outgoing = self._outgoing, []
        return texts

    def ended(self) -> None:
        pass

    def say(self, type: str, **fields: Any) -> None:
        """Send a message."""
        self.say_text(json.dumps({"type": type, **fields}))

    def say_text(self, text: str) -> None:
        """Send what may be no message."""
        self._outgoing.append(text.encode())

    def answer(self, call: dict[str, Any], **outcome: Any) -> None:
        """Answer a call that the worker has written."""
        fields = {name: call[name] for name in ("invocation_id", "function_id")}
        self.say("invocationresult", **fields, **outcome)


class FakeLink:
    """One link, from ``link_up`` to ``drop``: what the worker wrote on it, and what has reached the worker."""

    def __init__(self, worker: WorkerSession, engine: EngineEnd, now: float = 0.0) -> None:
        self.worker = worker
        self.engine = engine
        self.to_engine: deque[bytes] = deque()
        self.to_worker: deque[bytes] = deque()
        self.written: list[dict[str, Any]] = []
        self.delivered: list[dict[str, Any]] = []
        self.acted: list[Message] = []
        """What the session handed to the runtime."""
        self.is_up = True
        worker.link_up(now)
        self.number = worker.link

    def write(self) -> list[dict[str, Any]]:
        """Take everything the worker has to say, and return it. From here on the worker cannot take it back."""
        texts = self.worker.take_outgoing()
        messages: list[dict[str, Any]] = [json.loads(text) for text in texts]
        self.to_engine += texts
        self.written += messages
        return messages

    def carry_to_engine(self, count: int | None = None) -> None:
        """Let ``count`` texts arrive at the engine, oldest first; by default all that are on their way."""
        for _ in range(len(self.to_engine) if count is None else min(count, len(self.to_engine))):
            self.engine.receive(self.to_engine.popleft())

    def carry_to_worker(self, count: int | None = None) -> None:
        """Let ``count`` texts arrive at the worker, oldest first; by default all that the engine has sent."""
        self.to_worker += self.engine.take_outgoing()
        for _ in range(len(self.to_worker) if count is None else min(count, len(self.to_worker))):
            text = self.to_worker.popleft()
            self.delivered.append(json.loads(text))
            message = self.worker.receive(text)
            if message is not None:
                self.acted.append(message)

    def carry(self) -> None:
        """Write and deliver in both directions until nobody has anything to say."""
        while True:
            self.write()
            self.to_worker += self.engine.take_outgoing()
            if not self.to_engine and not self.to_worker:
                return
            self.carry_to_engine()
            self.carry_to_worker()

    def drop(self, stray: int = 0) -> int:
        """Lose the link as the worker sees it. ``stray`` texts still arrive at the engine, which sees nothing.

        Returns:
            What ``link_down`` returns.
        """
        self.is_up = False
        self.carry_to_engine(stray)
        self.to_engine.clear()
        self.to_worker.clear()
        return self.worker.link_down()

    def close(self) -> int:
        """Lose the link on both sides."""
        dropped = self.drop()
        self.engine.ended()
        return dropped
