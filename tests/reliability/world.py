"""A worker behind faults, a peer of it, and an engine that can be stopped: the world of ``test_model``."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio
from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup, TaskStatus

from iii_anyio import (
    ConnectError,
    HeartbeatOptions,
    InitOptions,
    InvocationError,
    ReconnectionConfig,
    Worker,
    open_worker,
)
from iii_anyio.abc import Wire
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.testing import FaultConnector, FaultProxy
from iii_anyio.trigger import TriggerConfig, TriggerHandler

Kind = Literal["wire", "socket"]

NAME: Final = "model"
CODES: Final = frozenset(
    {
        "CONNECTION_LOST", "MINE", "OFFLINE_QUEUE_FULL", "TIMEOUT", "function_not_found", "invocation_cancelled",
        "invocation_failed", "invocation_stopped", "worker_shutting_down",
    }
)  # fmt: skip
"""What a call may come to besides its result."""


@dataclass(eq=False)
class Call:
    """One call as the model knows it."""

    n: int
    how: str
    by: str
    is_remote: bool = False
    """Whether it went over the link with faults, and an answer has to come back over it."""
    scope: CancelScope = field(default_factory=CancelScope)
    outcomes: list[Any] = field(default_factory=list)


class Provider(TriggerHandler[Any]):
    """Takes every trigger."""

    async def register_trigger(self, config: TriggerConfig[Any]) -> None: ...

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None: ...


class World:
    """What there is, and what has happened."""

    def __init__(self, kind: Kind, tasks: TaskGroup) -> None:
        self.kind = kind
        self.engine: Engine | None = None
        self.faults: FaultConnector | FaultProxy
        self.iii: Worker
        self.peer: Worker
        self.calls: list[Call] = []
        self.pending: list[Call] = []
        self.ran: Counter[int] = Counter()
        self.gates: dict[int, anyio.Event] = {}
        self.functions: dict[str, Any] = {}
        self.triggers: dict[str, Any] = {}
        self.types: dict[str, Any] = {}
        self.is_in_doubt = False
        """Whether something was done to the link since it was quiet."""
        self._tasks = tasks
        self._one_ended = anyio.Event()
        self._stop: CancelScope | None = None
        self._stopped = anyio.Event()
        self._port = 0

    # -- the engine ----------------------------------------------------------------------------------------------

    async def start_engine(self) -> None:
        self._stopped = anyio.Event()
        await self._tasks.start(self._run_engine)

    async def _run_engine(self, *, task_status: TaskStatus[None]) -> None:
        port = self._port if self.kind == "socket" else None
        async with open_engine(port=port, http_port=None, stream_port=None) as engine:
            with CancelScope() as self._stop:
                self.engine = engine
                if self.kind == "socket":
                    self._port = int(engine.url.rpartition(":")[2])
                task_status.started()
                await anyio.sleep_forever()
            self.engine = None
        self._stopped.set()

    async def stop_engine(self) -> None:
        assert self._stop is not None
        self._stop.cancel()
        await self._stopped.wait()

    @asynccontextmanager
    async def direct(self) -> AsyncGenerator[Wire]:
        """A way to whatever engine there is."""
        if self.engine is None:
            raise ConnectError("the engine", "it is not there")
        async with self.engine.connector()() as wire:
            yield wire

    @asynccontextmanager
    async def workers(self) -> AsyncGenerator[None]:
        """Open the worker behind the faults, and its peer beside them."""
        reconnection = ReconnectionConfig(initial_delay_ms=5, max_delay_ms=200)
        patience = 0.1 if self.kind == "wire" else 1.0  # a slow machine must not look like a dead link
        async with AsyncExitStack() as stack:
            peer_options = InitOptions("peer", reconnection_config=reconnection, handle_signals=False)
            options = InitOptions(
                NAME,
                reconnection_config=reconnection,
                handle_signals=False,
                heartbeat=HeartbeatOptions(interval=0.1, pong_timeout=patience, idle_timeout=5 * patience),
                connect_timeout=5 * patience,
            )
            self.peer = await stack.enter_async_context(open_worker(options=peer_options, connector=self.direct))
            if self.kind == "wire":
                faults = await stack.enter_async_context(FaultConnector(self.direct))
                opened = open_worker(options=options, connector=faults)
                self.faults = faults
            else:
                proxy = await stack.enter_async_context(FaultProxy(f"ws://127.0.0.1:{self._port}"))
                opened = open_worker(proxy.url, options)
                self.faults = proxy
            self.iii = await stack.enter_async_context(opened)
            for name in ("peer::f", "peer::g"):
                self.peer.register_function(name, self.serve)
            yield

    # -- calls ---------------------------------------------------------------------------------------------------

    async def serve(self, data: dict[str, Any]) -> Any:
        """The handler of every function."""
        n, how = data["n"], data["how"]
        self.ran[n] += 1
        match how:
            case "fail":
                raise InvocationError("MINE", "as asked")
            case "hold":
                await self.gates.setdefault(n, anyio.Event()).wait()
            case "nested":
                await self.iii.trigger_async("peer::g", {"n": -n, "how": "echo"}, timeout_ms=1000)
            case _:
                pass
        return n

    def call(self, by: str, function_id: str, how: str, timeout_ms: int) -> None:
        """Start a call."""
        call = Call(len(self.calls) + 1, how, by, by == "worker" and function_id.startswith("peer::"))
        self.calls.append(call)
        self.pending.append(call)
        self._tasks.start_soon(self._call, call, function_id, timeout_ms)

    async def _call(self, call: Call, function_id: str, timeout_ms: int) -> None:
        worker = self.iii if call.by == "worker" else self.peer
        payload = {"n": call.n, "how": call.how}
        with call.scope:
            try:
                call.outcomes.append(
                    ("result", await worker.trigger_async(function_id, payload, timeout_ms=timeout_ms))
                )
            except InvocationError as exc:
                call.outcomes.append(exc.code)
        if call.scope.cancelled_caught:
            call.outcomes.append("cancelled")
        self.pending.remove(call)
        self._one_ended.set()

    async def ended(self) -> None:
        """Wait until no call is pending."""
        while self.pending:
            self._one_ended = anyio.Event()
            await self._one_ended.wait()

    def check_call(self, call: Call) -> None:
        """It has ended once, and with something that can be."""
        assert len(call.outcomes) == 1, call
        (outcome,) = call.outcomes
        if isinstance(outcome, tuple):
            assert outcome == ("result", call.n)
            assert call.how != "fail"
            assert self.ran[call.n] == 1
        else:
            assert outcome == "cancelled" or outcome in CODES, call

    # -- quiet ---------------------------------------------------------------------------------------------------

    async def calm(self) -> None:
        """An engine, no faults, and everything confirmed."""
        if self.engine is None:
            await self.start_engine()
        self.faults.calm()
        sent = [call for call in self.pending if self.is_in_doubt and call.is_remote and self.ran[call.n]]
        if self.is_in_doubt and self.iii.get_connection_state() == "connected":
            # What was done to the link may not have reached the worker yet; after this there is a new one.
            lost = anyio.Event()
            remove = self.iii.add_connection_state_listener(lambda now: lost.set() if now != "connected" else None)
            self.faults.eof()
            await lost.wait()
            remove()
        self.is_in_doubt = False
        await self.peer.wait_ready()
        await self.iii.wait_ready()
        assert not [call for call in sent if call in self.pending], "a call outlived its link"

    async def picture(self) -> tuple[set[str], set[str], set[str]]:
        """What the engine knows of the worker, behind all that the worker has told it so far."""
        ask = self.iii.trigger_async
        functions = (await ask("engine::functions::list", {"include_internal": True}))["functions"]
        bindings = (await ask("engine::registered-triggers::list", {"trigger_type": "subscribe"}))[
            "registered_triggers"
        ]
        types = (await ask("engine::triggers::list", {"include_internal": True}))["triggers"]
        return (
            {row["function_id"] for row in functions if row["worker_name"] == NAME},
            {row["id"] for row in bindings},
            {row["id"] for row in types if row["worker_name"] == NAME},
        )


@asynccontextmanager
async def world(kind: Kind) -> AsyncGenerator[World]:
    """Everything up, until the block ends."""
    async with create_task_group() as tasks:
        made = World(kind, tasks)
        await made.start_engine()
        async with made.workers():
            yield made
        tasks.cancel_scope.cancel()
