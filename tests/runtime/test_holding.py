"""Who waits holds on to no message and no payload: one may be of 64 MiB, and the wait long."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from collections.abc import Sequence

import pytest
from anyio import create_task_group, fail_after, sleep, wait_all_tasks_blocked

from iii_anyio import HeartbeatOptions, InitOptions, open_worker
from tests.runtime.test_link import ScriptedWire, Wires, options

pytestmark = pytest.mark.anyio

OPTIONS = InitOptions(handle_signals=False)


class Remembering(ScriptedWire):
    """Keeps the last texts of both directions, and one that nobody else has."""

    def __init__(self) -> None:
        super().__init__()
        self.received = self.written = b""
        self.own = json.dumps({"type": "pong"}).encode()

    async def receive(self) -> list[bytes]:
        texts = await super().receive()
        self.received = texts[-1] if texts else self.received
        return texts

    async def send(self, batch: Sequence[bytes]) -> None:
        self.written = batch[-1]
        await super().send(batch)


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_link_that_waits_holds_on_to_no_message_it_wrote_and_to_none_it_read_beyond_a_beat() -> None:
    wire = Remembering()
    heartbeat = HeartbeatOptions(interval=1, pong_timeout=10)
    async with open_worker("direct", options(heartbeat=heartbeat), connector=Wires(wire)) as iii:
        await iii.wait_ready()
        await sleep(0.5)
        assert sys.getrefcount(wire.written) == sys.getrefcount(wire.own)
        await sleep(1)
        assert sys.getrefcount(wire.received) == sys.getrefcount(wire.own)


class Payload(dict[str, int]):
    """A payload that can be watched."""


async def test_a_caller_that_waits_holds_on_to_no_payload() -> None:
    with fail_after(5):
        async with open_worker("direct", OPTIONS, connector=Wires(ScriptedWire())) as iii, create_task_group() as tasks:
            await iii.wait_ready()
            watched: list[weakref.ref[Payload]] = []

            def payload() -> Payload:
                made = Payload(stars=3)
                watched.append(weakref.ref(made))
                return made

            async def call() -> None:
                await iii.trigger_async({"function_id": "shop::rate", "payload": payload()})

            async def call_by_name() -> None:
                await iii.trigger_async("shop::rate", payload())

            tasks.start_soon(call)
            tasks.start_soon(call_by_name)
            await wait_all_tasks_blocked()
            gc.collect()
            assert [one() for one in watched] == [None, None]
            tasks.cancel_scope.cancel()
