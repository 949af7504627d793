"""A worker whose link a test can break: in process, and over TCP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import pytest
from anyio import fail_after

from iii_anyio import InitOptions, ReconnectionConfig, Worker, open_worker
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.testing import FaultConnector, FaultProxy

Kind = Literal["wire", "socket"]

KINDS = pytest.mark.parametrize("kind", ["wire", "socket"])
FAST = ReconnectionConfig(initial_delay_ms=1, max_delay_ms=10)


@dataclass
class Linked:
    """An engine, a worker behind faults with a function ``echo`` and a trigger, and another worker beside it."""

    engine: Engine
    faults: FaultConnector | FaultProxy
    iii: Worker
    other: Worker

    async def lost(self) -> None:
        """Wait until the worker has no link."""
        await until(self.iii, lambda state: state != "connected")

    async def back(self, before: str | None) -> None:
        """Wait until it has another link than the one it was called ``before`` on, confirmed."""
        while self.iii.worker_id == before:
            await changed(self.iii)
        await self.iii.wait_ready()

    async def registered(self) -> tuple[list[str], int]:
        """What the engine has of the worker: its functions, and how many triggers of them."""
        listed = await self.iii.trigger_async("engine::functions::list", {"prefix": "echo"})
        bindings = await self.iii.trigger_async("engine::registered-triggers::list", {"function_id": "echo"})
        return [row["function_id"] for row in listed["functions"]], len(bindings["registered_triggers"])


async def changed(iii: Worker) -> None:
    """Wait for the next change of state."""
    event, before = anyio.Event(), iii.get_connection_state()
    remove = iii.add_connection_state_listener(lambda now: event.set() if now != before else None)
    await event.wait()
    remove()


async def until(iii: Worker, wanted: Any) -> None:
    """Wait for a state of the connection."""
    event = anyio.Event()
    remove = iii.add_connection_state_listener(lambda now: event.set() if wanted(now) else None)
    await event.wait()
    remove()


@asynccontextmanager
async def linked(kind: Kind, *, seconds: float = 10, **options: Any) -> AsyncGenerator[Linked]:
    options = {"reconnection_config": FAST, "handle_signals": False, **options}
    port = 0 if kind == "socket" else None
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(port=port, http_port=None, stream_port=None))
        beside = open_worker(options=InitOptions("other", handle_signals=False), connector=engine.connector())
        other = await stack.enter_async_context(beside)
        faults: FaultConnector | FaultProxy
        if kind == "wire":
            faults = await stack.enter_async_context(FaultConnector(engine.connector()))
            opened = open_worker(options=InitOptions("linked", **options), connector=faults)
        else:
            faults = await stack.enter_async_context(FaultProxy(engine.url))
            opened = open_worker(faults.url, InitOptions("linked", **options))
        iii = await stack.enter_async_context(opened)

        async def echo(data: Any) -> Any:
            return data

        iii.register_function("echo", echo)
        iii.register_trigger("subscribe", "echo", {"topic": "t"})
        other.register_function("other::echo", echo)
        await iii.wait_ready()
        await other.wait_ready()
        # Setting up waits for threads, and virtual time does not.
        with fail_after(seconds):
            yield Linked(engine, faults, iii, other)
