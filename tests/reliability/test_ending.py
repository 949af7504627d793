"""A worker can be ended whatever its engine does, within the deadlines it was given."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint

from iii_anyio import InitOptions, InvocationError, ShutdownError, open_worker, register_worker
from iii_anyio.devengine import open_engine
from iii_anyio.testing import FaultConnector, FaultProxy
from tests.reliability.links import FAST, KINDS, Kind, linked
from tests.wire.servers import raw_serving

pytestmark = pytest.mark.anyio

VIRTUAL = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)


@pytest.mark.parametrize("steps", [0, 1, 5, 20, 100])
async def test_shutdown_while_it_connects_to_a_peer_that_says_nothing(steps: int) -> None:
    async def silence(_: Any) -> None:
        await anyio.sleep_forever()

    options = InitOptions("w", handle_signals=False)
    with fail_after(5):
        async with raw_serving(silence) as port, open_worker(f"ws://127.0.0.1:{port}", options) as iii:
            failures: list[str] = []

            async def call() -> None:
                with pytest.raises(ShutdownError) as caught:
                    await iii.trigger_async("f", {})
                failures.append(caught.value.code)

            async with create_task_group() as tasks:
                tasks.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                for _ in range(steps):
                    await checkpoint()
                await iii.shutdown_async()
            assert failures == ["SHUTDOWN"]


@KINDS
async def test_shutdown_between_two_attempts(kind: Kind) -> None:
    async with linked(kind, reconnection_config=None) as there:
        there.faults.always("http_503")
        there.faults.eof()
        while there.iii.get_connection_state() != "reconnecting":
            await checkpoint()
        with fail_after(0.9):  # the next attempt would come in a second
            await there.iii.shutdown_async()


@VIRTUAL
async def test_shutdown_over_a_half_open_link_is_over_in_seconds() -> None:
    async with linked("wire", seconds=100) as there:
        running = anyio.Event()

        async def hang(_: Any) -> None:
            running.set()
            await anyio.sleep_forever()

        there.iii.register_function("hang", hang)
        await there.iii.wait_ready()
        async with create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises(InvocationError):
                    await there.other.trigger_async("hang", {}, timeout_ms=60_000)

            tasks.start_soon(call)
            await running.wait()
            there.faults.black_hole()
            start = anyio.current_time()
            await there.iii.shutdown_async()
            assert anyio.current_time() - start <= 10 + 2 + 2 + 0.1, "drain, cancelled handlers, last messages"


@VIRTUAL
async def test_shutdown_while_the_engine_takes_nothing_and_much_waits_to_be_written() -> None:
    async with linked("wire", seconds=100) as there:
        there.faults.bytes_per_second = 1.0
        for _ in range(100):
            with anyio.move_on_after(1):
                await there.iii.trigger_async(
                    {"function_id": "other::echo", "payload": "x" * 1_000_000, "action": {"type": "void"}}
                )
        start = anyio.current_time()
        await there.iii.shutdown_async()
        assert anyio.current_time() - start <= 4.1


async def test_shutdown_from_many_tasks_and_again_is_one_shutdown() -> None:
    async with linked("wire") as there:
        states: list[str] = []
        there.iii.add_connection_state_listener(states.append)
        async with create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(there.iii.shutdown_async)
        await there.iii.shutdown_async()
        assert states == ["connected", "disconnected"]


async def test_a_block_that_is_left_by_an_error_is_left_at_once_while_the_link_is_half_open() -> None:
    class Mine(Exception): ...

    async with linked("socket") as there:
        assert isinstance(there.faults, FaultProxy)
        with pytest.raises(Mine):
            async with open_worker(there.faults.url, InitOptions("second", reconnection_config=FAST)) as iii:
                await iii.wait_ready()
                there.faults.black_hole()
                raise Mine


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_script_ends_although_its_link_is_half_open(backend: Any) -> None:
    opened = open_engine(port=0, http_port=None, stream_port=None)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(opened) as engine,
        portal.wrap_async_context_manager(FaultProxy(engine.url)) as proxy,
    ):
        options = InitOptions("script", handle_signals=False, shutdown_timeout=0.1)
        with register_worker(proxy.url, options, backend=backend) as iii:
            portal.call(proxy.black_hole)
            iii.trigger({"function_id": "f", "action": {"type": "void"}})
        with pytest.raises(ShutdownError):
            iii.trigger("f", {})


async def test_a_worker_whose_host_crashed_has_its_name_back_as_soon_as_it_comes_back() -> None:
    """P-16: it says who it was, so the engine does not wait for the old connection to die."""
    async with linked("wire") as there:
        assert isinstance(there.faults, FaultConnector)
        for _ in range(5):
            before = there.iii.worker_id
            there.faults.reset(tell_engine=False)
            await there.back(before)
        assert await there.registered() == (["echo"], 1)
        assert await there.other.trigger_async("echo", 1) == 1
        listed = await there.other.trigger_async("engine::workers::list", {})
        assert [row["name"] for row in listed["workers"]].count("linked") == 1
