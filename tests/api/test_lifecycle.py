"""What a worker promises when links drop, engines stop, and workers end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import CancelScope, create_task_group, fail_after
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from iii_anyio import (
    ConnectError,
    ConnectionLostError,
    InitOptions,
    InvocationError,
    Limits,
    OfflineQueueFullError,
    ReconnectionConfig,
    RegistrationRejectedError,
    ShutdownError,
    Worker,
    open_worker,
)
from iii_anyio.abc import Wire
from iii_anyio.devengine import Engine, open_engine

pytestmark = pytest.mark.anyio

FAST = ReconnectionConfig(initial_delay_ms=1, max_delay_ms=10)


def options(name: str, **more: Any) -> InitOptions:
    return InitOptions(worker_name=name, reconnection_config=FAST, **more)


class Cable:
    """A connector to an engine that a test can cut, and plug in again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.wires: list[Wire] = []
        self.is_unplugged = False

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Wire]:
        if self.is_unplugged:
            raise ConnectError("the engine", "unplugged")
        async with self.engine.connector()() as wire:
            self.wires.append(wire)
            yield wire

    async def cut(self) -> None:
        await self.wires[-1].abort()


async def until(iii: Worker, state: str) -> None:
    reached = anyio.Event()
    remove = iii.add_connection_state_listener(lambda now: reached.set() if now == state else None)
    await reached.wait()
    remove()


@asynccontextmanager
async def an_engine() -> AsyncIterator[Engine]:
    async with open_engine(port=None, http_port=None) as engine:
        yield engine


# -- a lost link -----------------------------------------------------------------------------------------------------


async def test_100_pending_calls_fail_at_once_when_the_link_is_reset_and_the_worker_comes_back() -> None:
    with fail_after(20):
        async with (
            an_engine() as engine,
            open_worker(connector=engine.connector(), options=options("callee")) as callee,
        ):
            never = anyio.Event()
            running = 0
            all_running = anyio.Event()

            async def hang(_: Any) -> None:
                nonlocal running
                running += 1
                if running == 100:
                    all_running.set()
                await never.wait()

            callee.register_function("hang", hang)
            callee.register_function("echo", lambda data: data)
            await callee.wait_ready()
            cable = Cable(engine)
            async with open_worker(connector=cable, options=options("caller")) as iii:
                calls: list[str] = []
                iii.register_function("ours", lambda data: data)
                iii.register_trigger("engine::workers-available", "ours", {})
                await iii.wait_ready()
                first_id = iii.worker_id
                failures: list[InvocationError] = []

                async def call() -> None:
                    with pytest.raises(ConnectionLostError) as caught:
                        await iii.trigger_async("hang", {}, timeout_ms=60_000)
                    failures.append(caught.value)

                iii.add_connection_state_listener(calls.append)
                async with create_task_group() as tasks:
                    for _ in range(100):
                        tasks.start_soon(call)
                    await all_running.wait()
                    await cable.cut()
                assert [(error.code, error.may_have_run) for error in failures] == [("CONNECTION_LOST", True)] * 100  # type: ignore[attr-defined]
                await iii.wait_ready()
                assert iii.worker_id != first_id
                assert calls == ["connected", "disconnected", "reconnecting", "connected"]
                assert await iii.trigger_async("echo", 7) == 7
                assert await callee.trigger_async("ours", 8) == 8
                listed = await iii.trigger_async("engine::functions::list", {"prefix": "ours"})
                assert [row["function_id"] for row in listed["functions"]] == ["ours"]
                triggers = await iii.trigger_async("engine::registered-triggers::list", {"function_id": "ours"})
                assert len(triggers["registered_triggers"]) == 1
                never.set()


class RunningEngine:
    """An engine in a task of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._scope = CancelScope()
        self._ended = anyio.Event()

    async def run(self, port: int, *, task_status: TaskStatus[RunningEngine]) -> None:
        async with open_engine(port=port, http_port=None, stream_port=None) as engine:
            with self._scope:
                self.url = engine.url
                task_status.started(self)
                await anyio.sleep_forever()
        self._ended.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()


async def test_pending_calls_fail_when_the_engine_stops_and_calls_work_again_when_it_is_back() -> None:
    with fail_after(20):
        async with create_task_group() as engines:
            engine = await engines.start(RunningEngine().run, 0)
            async with open_worker(engine.url, options("w")) as iii:
                running, all_running = 0, anyio.Event()

                async def never(_: Any) -> None:
                    nonlocal running
                    running += 1
                    if running == 100:
                        all_running.set()
                    await anyio.sleep_forever()

                iii.register_function("never", never, on_disconnect="cancel")
                iii.register_function("double", lambda n: n * 2)
                await iii.wait_ready()
                codes: list[str] = []

                async def call() -> None:
                    with pytest.raises(InvocationError) as caught:
                        await iii.trigger_async("never", {}, dispatch="remote")
                    codes.append(caught.value.code)

                async with create_task_group() as calls:
                    for _ in range(100):
                        calls.start_soon(call)
                    await all_running.wait()
                    await engine.stop()
                assert codes == ["CONNECTION_LOST"] * 100
                engine = await engines.start(RunningEngine().run, int(engine.url.rpartition(":")[2]))
                await iii.wait_ready()
                assert await iii.trigger_async("double", 4) == 8
            await engine.stop()


async def test_a_call_made_while_offline_waits_for_the_link_and_an_abandoned_one_is_never_sent() -> None:
    with fail_after(20):
        async with an_engine() as engine:
            seen: list[Any] = []
            async with open_worker(connector=engine.connector(), options=options("callee")) as callee:
                callee.register_function("note", seen.append)
                await callee.wait_ready()
                cable = Cable(engine)
                async with open_worker(connector=cable, options=options("caller")) as iii:
                    await iii.wait_ready()
                    cable.is_unplugged = True
                    await cable.cut()
                    await until(iii, "reconnecting")
                    async with create_task_group() as tasks:
                        tasks.start_soon(iii.trigger_async, "note", "kept")
                        with anyio.move_on_after(0.02):
                            await iii.trigger_async("note", "given up")
                        with pytest.raises(TimeoutError):
                            await iii.trigger_async("note", "timed out", timeout_ms=10)
                        cable.is_unplugged = False
                    assert await iii.trigger_async("note", "after") is None
            assert seen == ["kept", "after"]


async def test_the_offline_queue_refuses_when_it_is_full_instead_of_dropping() -> None:
    with fail_after(20):
        async with an_engine() as engine:
            cable = Cable(engine)
            cable.is_unplugged = True
            async with open_worker(connector=cable, options=options("w", limits=Limits(offline_queue=2))) as iii:
                async with create_task_group() as tasks:
                    tasks.start_soon(iii.trigger_async, {"function_id": "f", "action": {"type": "void"}})
                    tasks.start_soon(iii.trigger_async, {"function_id": "f", "action": {"type": "void"}})
                with pytest.raises(OfflineQueueFullError) as caught:
                    await iii.trigger_async("f", {})
                assert caught.value.code == "OFFLINE_QUEUE_FULL"


async def test_a_void_call_of_another_thread_or_loop_is_refused_where_it_was_made_too() -> None:
    with fail_after(20):
        async with an_engine() as engine:
            cable = Cable(engine)
            cable.is_unplugged = True
            async with open_worker(connector=cable, options=options("w", limits=Limits(offline_queue=2))) as iii:
                void = {"function_id": "f", "action": {"type": "void"}}

                def call_from_a_thread_and_from_its_loop() -> None:
                    iii.trigger(void)
                    anyio.run(iii.trigger_async, void)
                    with pytest.raises(OfflineQueueFullError):
                        iii.trigger(void)
                    with pytest.raises(OfflineQueueFullError):
                        anyio.run(iii.trigger_async, void)

                await anyio.to_thread.run_sync(call_from_a_thread_and_from_its_loop)


async def test_running_handlers_finish_when_the_link_drops_unless_told_to_be_cancelled() -> None:
    with fail_after(20):
        async with an_engine() as engine:
            cable = Cable(engine)
            ended: list[str] = []
            go = anyio.Event()
            async with (
                open_worker(connector=engine.connector(), options=options("caller")) as caller,
                open_worker(connector=cable, options=options("callee")) as iii,
            ):
                both = anyio.Event()
                started: list[str] = []

                def handler(name: str) -> Callable[[Any], Any]:
                    async def run(_: Any) -> None:
                        started.append(name)
                        if len(started) == 2:
                            both.set()
                        try:
                            await go.wait()
                            ended.append(f"{name} finished")
                        except BaseException:
                            ended.append(f"{name} cancelled")
                            raise

                    return run

                iii.register_function("finish", handler("finish"))
                iii.register_function("cancel", handler("cancel"), on_disconnect="cancel")
                await iii.wait_ready()
                async with create_task_group() as tasks:

                    async def call(function_id: str) -> None:
                        with pytest.raises(InvocationError) as caught:
                            await caller.trigger_async(function_id, {})
                        assert caught.value.code == "invocation_stopped"

                    tasks.start_soon(call, "finish")
                    tasks.start_soon(call, "cancel")
                    await both.wait()
                    await cable.cut()
                await iii.wait_ready()
                go.set()
            assert ended == ["cancel cancelled", "finish finished"]


# -- refusals --------------------------------------------------------------------------------------------------------


async def test_a_refused_name_ends_the_block_with_the_plain_rejection() -> None:
    with fail_after(20):
        async with an_engine() as engine, open_worker(connector=engine.connector(), options=options("one")) as first:
            await first.wait_ready()
            attempts = Cable(engine)
            with pytest.raises(RegistrationRejectedError) as caught:
                async with open_worker(connector=attempts, options=options("one")) as second:
                    with pytest.raises(RegistrationRejectedError):
                        await second.trigger_async("f", {})
                    await anyio.sleep_forever()
            assert caught.value.code == "WORKER_NAMESPACE_CONFLICT"
            assert caught.value.owner_worker_id == first.worker_id
            assert len(attempts.wires) == 1, "a refused worker does not try again"


async def test_exhausted_retries_end_the_block_with_a_connection_error() -> None:
    with fail_after(20):
        config = ReconnectionConfig(initial_delay_ms=1, max_retries=3)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
            url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ConnectError, match="refused") as caught:
                async with open_worker(url, InitOptions(worker_name="w", reconnection_config=config)) as iii:
                    await iii.serve()
            assert isinstance(caught.value, ConnectionError)


async def test_an_exception_of_the_block_leaves_it_as_it_is() -> None:
    class Mine(Exception): ...

    with fail_after(20):
        async with an_engine() as engine:
            mine = Mine()
            with pytest.raises(Mine) as caught:
                async with open_worker(connector=engine.connector(), options=options("w")) as iii:
                    await iii.wait_ready()
                    raise mine
            assert caught.value is mine
            group = ExceptionGroup("theirs", [Mine()])
            with pytest.raises(ExceptionGroup) as grouped:
                async with open_worker(connector=engine.connector(), options=options("w")):
                    raise group
            assert grouped.value is group, "a group of one that is the user's own stays a group"


# -- shutdown --------------------------------------------------------------------------------------------------------


async def test_shutdown_delivers_the_results_of_running_handlers() -> None:
    with fail_after(20):
        async with (
            an_engine() as engine,
            open_worker(connector=engine.connector(), options=options("caller")) as caller,
        ):
            started, go = anyio.Event(), anyio.Event()
            results: list[Any] = []
            async with open_worker(connector=engine.connector(), options=options("callee")) as iii:

                @iii.function("slow")
                async def slow(n: int) -> int:
                    started.set()
                    await go.wait()
                    return n * 2

                await iii.wait_ready()
                async with create_task_group() as tasks:

                    async def call() -> None:
                        results.append(await caller.trigger_async("slow", 21))

                    tasks.start_soon(call)
                    await started.wait()
                    tasks.start_soon(iii.shutdown_async)
                    await anyio.wait_all_tasks_blocked()
                    with pytest.raises(InvocationError) as refused:
                        await caller.trigger_async("slow", 1)
                    assert refused.value.code == "worker_shutting_down"
                    go.set()
                assert results == [42]
                assert iii.get_connection_state() == "disconnected"


async def test_handlers_that_outlast_the_deadline_are_cancelled_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    with fail_after(20):
        async with (
            an_engine() as engine,
            open_worker(connector=engine.connector(), options=options("caller")) as caller,
        ):
            started = anyio.Event()
            async with (
                create_task_group() as tasks,
                open_worker(connector=engine.connector(), options=options("callee", shutdown_timeout=0.01)) as iii,
            ):

                @iii.function("stuck")
                async def stuck(_: Any) -> None:
                    started.set()
                    await anyio.sleep_forever()

                await iii.wait_ready()

                async def call() -> None:
                    with pytest.raises(InvocationError) as caught:
                        await caller.trigger_async("stuck", {})
                    assert caught.value.code == "invocation_cancelled"

                tasks.start_soon(call)
                await started.wait()
            assert "1 handlers did not finish in time and are cancelled: stuck (1)" in caplog.text


async def test_after_shutdown_every_method_raises_or_returns_at_once() -> None:
    with fail_after(20):
        async with an_engine() as engine:
            async with open_worker(connector=engine.connector(), options=options("w")) as iii:
                ref = iii.register_function("f", lambda _: None)
                await iii.wait_ready()
                await iii.shutdown_async()
                await iii.shutdown_async()
                with pytest.raises(ShutdownError):
                    await iii.trigger_async("f", {})
                with pytest.raises(ShutdownError):
                    await iii.wait_ready()
                with pytest.raises(ShutdownError):
                    iii.register_function("g", lambda _: None)
                with pytest.raises(ShutdownError):
                    iii.register_trigger("http", "f", {"api_path": "f"})
                ref.unregister()
                await iii.serve()
            await iii.shutdown_async()


async def test_shutdown_from_a_handler_only_starts_it() -> None:
    with fail_after(20):
        async with (
            an_engine() as engine,
            open_worker(connector=engine.connector(), options=options("caller")) as caller,
            open_worker(connector=engine.connector(), options=options("callee")) as iii,
        ):

            @iii.function("stop_in_thread")
            def stop_in_thread(_: Any) -> str:
                iii.shutdown()
                return "stopping"

            await iii.wait_ready()
            assert await caller.trigger_async("stop_in_thread", {}) == "stopping"
            await iii.serve()
        async with an_engine() as engine, open_worker(connector=engine.connector(), options=options("w")) as iii:

            @iii.function("stop")
            async def stop(_: Any) -> str:
                await iii.shutdown_async()
                return "stopping"

            await iii.wait_ready()
            assert await iii.trigger_async("stop", {}) == "stopping"
            await iii.serve()


async def test_shutdown_while_the_engine_is_away_does_not_wait_for_it() -> None:
    slow = InitOptions(reconnection_config=ReconnectionConfig(initial_delay_ms=60_000))
    with fail_after(20):
        async with an_engine() as engine:
            cable = Cable(engine)
            cable.is_unplugged = True
            async with open_worker(connector=cable, options=slow) as iii, create_task_group() as tasks:

                async def call() -> None:
                    with pytest.raises(ShutdownError):
                        await iii.trigger_async("f", {})

                tasks.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                await iii.shutdown_async()


# -- cancellation ----------------------------------------------------------------------------------------------------


async def count_steps(scenario: Callable[[], Any]) -> int:
    """Run a scenario to its end and count how often it was suspended on the way."""
    steps = 0

    async def counting() -> None:
        nonlocal steps
        while True:
            await checkpoint()
            steps += 1

    async with create_task_group() as tasks:
        tasks.start_soon(counting)
        await scenario()
        tasks.cancel_scope.cancel()
    return steps


async def test_cancelling_a_worker_at_any_step_leaves_nothing_behind() -> None:
    """Connect, replay, call and close over a real socket, cancelled after each scheduler pass in turn."""
    with fail_after(50):
        async with open_engine(port=0, http_port=None) as engine:

            async def scenario() -> None:
                async with open_worker(engine.url, options("w", shutdown_timeout=0.5)) as iii:
                    iii.register_function("double", lambda_free)
                    iii.register_trigger("engine::workers-available", "double", {})
                    await iii.wait_ready()
                    assert await iii.trigger_async("double", 2) == 4

            await scenario()
            before = open_sockets()
            steps = await count_steps(scenario)
            assert steps > 5
            cancelled = 0
            for step in range(0, steps, 1 + steps // 300):  # waiting for a thread or the kernel counts passes, too
                with CancelScope() as scope:
                    async with create_task_group() as tasks:
                        tasks.start_soon(cancel_after, step, scope)
                        await scenario()
                        tasks.cancel_scope.cancel()
                cancelled += scope.cancelled_caught
                # The name is free again: no connection of it is left at the engine.
                await settle(engine)
            assert cancelled > 5
            gc.collect()
            assert open_sockets() <= before


async def lambda_free(n: Any) -> Any:
    return n * 2 if isinstance(n, int) else None


async def cancel_after(steps: int, scope: CancelScope) -> None:
    for _ in range(steps):
        await checkpoint()
    scope.cancel()


async def settle(engine: Engine) -> None:
    while engine.connections:
        await checkpoint()


def open_sockets() -> int:
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        except OSError:
            continue
    return count


# -- signals ---------------------------------------------------------------------------------------------------------

NATIVE = """
    import anyio, sys
    from iii_anyio import InitOptions, open_worker

    async def main():
        async with open_worker(options=InitOptions(worker_name="victim")) as iii:
            started = anyio.Event()

            async def slow(n):
                print("started", flush=True)
                await anyio.sleep(0.3)
                return n * 2

            iii.register_function("slow", slow)
            await iii.wait_ready()
            print("ready", flush=True)
            await iii.serve()
        print("drained", flush=True)

    anyio.run(main, backend=sys.argv[1])
"""

ENDED_SCRIPT = """
    import sys, time
    from iii_anyio import InitOptions, client, register_worker

    iii = register_worker(options=InitOptions(worker_name="victim"), backend=sys.argv[1])

    def slow(n):
        while not client._is_joining:  # until the main thread waits for the worker
            time.sleep(0.01)
        print("started", flush=True)
        time.sleep(0.3)
        return n * 2

    iii.register_function("slow", slow)
    iii.wait_ready()
    print("ready", flush=True)
"""

SERVING_SCRIPT = (
    ENDED_SCRIPT
    + """
    iii.serve()
    print("drained", flush=True)
"""
)


@pytest.mark.parametrize("program", [NATIVE, SERVING_SCRIPT, ENDED_SCRIPT], ids=["native", "serving", "ended"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_a_signal_drains_and_ends_the_process(
    program: str, number: signal.Signals, anyio_backend_name: str
) -> None:
    with fail_after(50):
        async with (
            open_engine(port=0, http_port=None) as engine,
            open_worker(engine.url, options("caller")) as caller,
        ):
            async with await anyio.open_process(
                [sys.executable, "-c", textwrap.dedent(program), anyio_backend_name],
                env={**os.environ, "III_URL": engine.url},
                stderr=subprocess.PIPE,
            ) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                lines = Lines(process.stdout)
                assert await lines.next() == "ready"
                async with create_task_group() as tasks:

                    async def call() -> None:
                        assert await caller.trigger_async("slow", 21) == 42

                    tasks.start_soon(call)
                    assert await lines.next() == "started"
                    process.send_signal(number)
                if program is not ENDED_SCRIPT:
                    assert await lines.next() == "drained"
                errors = b"".join([chunk async for chunk in process.stderr])
                code = await process.wait()
            assert (code, errors) == (-number if program is ENDED_SCRIPT else 0, b"")


class Lines:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._buffer = b""

    async def next(self) -> str:
        while b"\n" not in self._buffer:
            self._buffer += await self._stream.receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode().strip()


def test_the_log_is_named_after_the_package() -> None:
    assert logging.getLogger("iii_anyio").name == "iii_anyio"
