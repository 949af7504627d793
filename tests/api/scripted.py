"""An engine that says what a test wants it to say, on a ``DirectWire`` in the worker's own loop, for either face."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

import anyio
from anyio import create_task_group, fail_after

from iii_anyio import IIIClient, InitOptions, ReconnectionConfig, Worker, open_worker
from iii_anyio import client as client_module
from iii_anyio._runtime.mailbox import Mailbox
from iii_anyio._wire.direct import direct_pair
from iii_anyio.errors import LinkClosed
from iii_anyio.worker import run_worker

OBSERVE = ("observe.v1", "local-dispatch.v1")
REGISTER = "engine::workers::register"


class ScriptedEngine:
    """Answers the register call, confirms functions when it knows observers, and keeps what it gets.

    ``local`` and ``observers`` (by function id) are what it says of functions; ``answers`` (by function id) turns a
    call into the fields of its result.
    """

    def __init__(self, features: tuple[str, ...] | None = OBSERVE) -> None:
        self.features = features
        self.local = True
        self.confirms = True
        self.observers: dict[str, list[dict[str, Any]]] = {}
        self.answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        self.revision = 0
        self.links = 0
        self.received: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._said: deque[str] = deque()
        self._mailbox: Mailbox | None = None
        self._wake = anyio.Event()
        self._arrived = anyio.Event()
        self._wire: Any = None
        self._back: anyio.Event | None = None

    # -- the wire ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connector(self) -> AsyncGenerator[Any]:
        if self._back is not None:
            await self._back.wait()
        near, far = direct_pair()
        self._mailbox, self._wire, self._wake = Mailbox(), far, anyio.Event()
        self._said.clear()
        self.links += 1
        async with create_task_group() as tasks:
            tasks.start_soon(self._read, far)
            tasks.start_soon(self._write, far)
            yield near
            tasks.cancel_scope.cancel()

    async def _read(self, wire: Any) -> None:
        try:
            while True:
                for text in await wire.receive():
                    self._take(json.loads(text))
        except LinkClosed:
            pass

    async def _write(self, wire: Any) -> None:
        try:
            while True:
                while self._said:
                    await wire.send([self._said.popleft().encode()])
                self._wake = anyio.Event()
                if not self._said:
                    await self._wake.wait()
        except LinkClosed:
            pass

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            self.received.append(message)
            self._changed.notify_all()
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()
        kind = message["type"]
        if kind == "invokefunction" and message["function_id"] == REGISTER:
            features = {} if self.features is None else {"features": list(self.features)}
            self.say("workerregistered", worker_id=f"w-{self.links}", reattach_token="t", **features)
            self.answer(message, result={"success": True})
        elif kind == "invokefunction" and message["function_id"] in self.answers:
            self.answer(message, **self.answers[message["function_id"]](message))
        elif kind == "registerfunction" and self.features is not None and self.confirms:
            self.confirm(message["id"])

    async def drop(self) -> None:
        """Lose the link."""
        await self._wire.abort()

    async def leave(self, iii: Worker) -> None:
        """Lose the link, take no other until ``come_back``, and wait until the worker has noticed."""
        self._back = anyio.Event()
        lost = anyio.Event()
        remove = iii.add_connection_state_listener(lambda state: lost.set() if state != "connected" else None)
        await self.drop()
        await lost.wait()
        remove()

    def come_back(self) -> None:
        """Take connections again."""
        assert self._back is not None
        self._back.set()

    # -- what it says, from any thread -------------------------------------------------------------------------------

    def say(self, type: str, **fields: Any) -> None:
        self._said.append(json.dumps({"type": type, **fields}))
        if self._mailbox is not None:
            self._mailbox.post(lambda: self._wake.set())

    def answer(self, call: dict[str, Any], **outcome: Any) -> None:
        if "invocation_id" in call:
            self.say(
                "invocationresult", invocation_id=call["invocation_id"], function_id=call["function_id"], **outcome
            )

    def next(self) -> int:
        self.revision += 1
        return self.revision

    def confirm(self, function_id: str, **fields: Any) -> None:
        whole = {
            "id": function_id, "namespace": "default", "revision": self.next(), "local_dispatch": self.local,
            "observers": self.observers.get(function_id, []),
        }  # fmt: skip
        self.say("functionregistered", **(whole | fields))

    def add(self, function_id: str, observer_id: str, **observer: Any) -> None:
        self.say(
            "observeradded", function_id=function_id, namespace="default", revision=self.next(),
            observer={"id": observer_id, "target": "t::x", **observer},
        )  # fmt: skip

    def remove(self, function_id: str, observer_id: str) -> None:
        self.say("observerremoved", function_id=function_id, namespace="default", revision=self.next(), id=observer_id)

    def invoke(self, function_id: str, data: Any, **fields: Any) -> str:
        invocation_id = f"00000000-0000-4000-8000-{self.next():012}"
        self.say("invokefunction", function_id=function_id, data=data, invocation_id=invocation_id, **fields)
        return invocation_id

    # -- what it got -------------------------------------------------------------------------------------------------

    def got(self, type: str, **fields: Any) -> list[dict[str, Any]]:
        """Messages with these fields, oldest first."""
        return [
            message
            for message in list(self.received)
            if message["type"] == type and all(message.get(name) == value for name, value in fields.items())
        ]

    async def wait(self, type: str, number: int = 1, **fields: Any) -> dict[str, Any]:
        """The n-th of such messages, on the worker's loop."""
        with fail_after(20):
            while len(found := self.got(type, **fields)) < number:
                await self._arrived.wait()
        return found[number - 1]

    def wait_blocking(self, type: str, number: int = 1, **fields: Any) -> dict[str, Any]:
        """The n-th of such messages, on any thread but the loop's."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got(type, **fields)) >= number, 30), self.received
        return self.got(type, **fields)[number - 1]

    def calls(self) -> list[dict[str, Any]]:
        """Invocations that reached the wire, the register calls aside."""
        return [call for call in self.got("invokefunction") if call["function_id"] != REGISTER]


@asynccontextmanager
async def native(engine: ScriptedEngine, *, patience: float | None = 20, **options: Any) -> AsyncGenerator[Worker]:
    """A worker in the test's own loop. In virtual time it needs endless ``patience``: threads take no time there."""
    with fail_after(patience):
        async with open_worker(
            connector=engine.connector,
            options=InitOptions(worker_name="w", reconnection_config=ReconnectionConfig(initial_delay_ms=1), **options),
        ) as iii:
            yield iii


@contextmanager
def portal(engine: ScriptedEngine, **options: Any) -> Iterator[IIIClient]:
    """A worker in a thread of its own."""

    @asynccontextmanager
    async def run(address: Any, given: Any, _connector: Any) -> AsyncGenerator[Any]:
        async with run_worker(address, given, engine.connector) as running:
            yield running

    with mock.patch.object(client_module, "run_worker", run):
        iii = IIIClient("ws://scripted", InitOptions(worker_name="w", handle_signals=False, **options))
    with iii:
        iii.wait_ready(30)
        yield iii
