"""What went wrong once: each of these ended a worker, a caller or a process that should have gone on."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio import CancelScope, create_task_group, fail_after, to_thread

from iii_anyio import InitOptions, InvocationError, Limits, WorkerStateError, open_worker
from iii_anyio.devengine import open_engine
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("limits", [Limits(), Limits(max_concurrency=1)], ids=["own limit", "worker's limit"])
async def test_variables_of_a_handler_do_not_reach_the_one_that_waited_for_its_place(limits: Limits) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen: list[str] = []
    async with two_workers(limits=limits) as (caller, callee):

        async def work(name: str) -> None:
            seen.append(tenant.get())
            tenant.set(name)
            await anyio.lowlevel.checkpoint()

        callee.register_function("work", work, concurrency=1 if limits.max_concurrency > 1 else None)
        await callee.wait_ready()
        async with create_task_group() as tasks:
            for name in "abcd":
                tasks.start_soon(caller.trigger_async, "work", name)
    assert seen == ["nobody"] * 4


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "make",
    [
        lambda: InvocationError("code", ValueError("not a str")),  # type: ignore[arg-type]
        lambda: InvocationError("co\ud800de", "mess\ud800age"),
        Broken,
        lambda: InvocationError(None, None),  # type: ignore[arg-type]
    ],
    ids=["message is an exception", "surrogates", "__str__ raises", "nothing"],
)
async def test_an_exception_whose_text_cannot_be_sent_is_answered_and_ends_nobody(
    make: Callable[[], Exception],
) -> None:
    async with two_workers() as (caller, callee):

        @callee.function("fail")
        async def fail(_: Any) -> None:
            raise make()

        callee.register_function("fine", lambda data: data)
        await callee.wait_ready()
        with pytest.raises(InvocationError):
            await caller.trigger_async("fail", {})
        assert await caller.trigger_async("fine", 1) == 1


async def test_an_unregistered_function_still_serves_or_answers_what_waited_for_it() -> None:
    async with two_workers(shutdown_timeout=0.05) as (caller, callee):
        started = anyio.Event()

        async def hold(_: Any) -> None:
            started.set()
            await anyio.sleep_forever()

        ref = callee.register_function("hold", hold, concurrency=1)
        await callee.wait_ready()
        codes: list[str] = []

        async def call() -> None:
            with pytest.raises(InvocationError) as caught:
                await caller.trigger_async("hold", {})
            codes.append(caught.value.code)

        async with create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(call)
            await started.wait()
            await anyio.wait_all_tasks_blocked()
            ref.unregister()
            await callee.shutdown_async()
        assert sorted(codes) == ["invocation_cancelled", "worker_shutting_down"]


async def test_a_function_with_a_queue_of_its_own_does_not_starve_the_others() -> None:
    async with two_workers(limits=Limits(max_concurrency=2)) as (caller, callee):
        done = False

        async def busy(_: Any) -> None:
            await anyio.lowlevel.checkpoint()

        callee.register_function("busy", busy, concurrency=2)
        callee.register_function("other", lambda data: data, execution="async")
        await callee.wait_ready()

        async def hammer() -> None:
            while not done:
                await caller.trigger_async("busy", {})

        async with create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(hammer)
            assert await caller.trigger_async("other", 1, timeout_ms=5000) == 1
            done = True


async def test_handlers_that_call_their_own_worker_do_not_use_up_its_places() -> None:
    async with two_workers(limits=Limits(max_concurrency=2)) as (caller, callee):

        @callee.function("outer")
        async def outer(n: int) -> int:
            return await callee.trigger_async("inner", n, timeout_ms=5000) + 1

        callee.register_function("inner", lambda n: n, execution="async")
        await callee.wait_ready()
        results: list[int] = []

        async def call(n: int) -> None:
            results.append(await caller.trigger_async("outer", n))

        async with create_task_group() as tasks:
            for n in range(6):
                tasks.start_soon(call, n)
        assert sorted(results) == [1, 2, 3, 4, 5, 6]


async def test_an_exception_raised_on_the_way_out_of_a_cancelled_block_is_not_lost() -> None:
    with fail_after(20):
        async with open_engine(port=None, http_port=None) as engine:
            with pytest.raises(ValueError, match="cleaning up"), CancelScope() as scope:
                async with open_worker(connector=engine.connector()):
                    try:
                        scope.cancel()
                        await anyio.sleep_forever()
                    finally:
                        raise ValueError("cleaning up")


async def test_a_foreign_loop_that_gives_up_on_a_shutdown_does_not_disturb_it() -> None:
    async with two_workers() as (caller, callee):
        started, go = anyio.Event(), anyio.Event()

        @callee.function("slow")
        async def slow(_: Any) -> str:
            started.set()
            await go.wait()
            return "done"

        await callee.wait_ready()
        results: list[Any] = []

        async def call() -> None:
            results.append(await caller.trigger_async("slow", {}))

        def give_up() -> None:
            async def wait_briefly() -> None:
                with anyio.move_on_after(0.05):
                    await callee.shutdown_async()

            asyncio.run(wait_briefly())

        async with create_task_group() as tasks:
            tasks.start_soon(call)
            await started.wait()
            await to_thread.run_sync(give_up)
            go.set()
        assert results == ["done"]
        await callee.shutdown_async()


async def test_after_its_end_a_worker_refuses_every_call_from_threads_again_and_again() -> None:
    with fail_after(20):
        async with open_engine(port=None, http_port=None) as engine:
            async with open_worker(connector=engine.connector()) as iii:
                await iii.wait_ready()
            for _ in range(3):
                with pytest.raises((InvocationError, WorkerStateError)):
                    await to_thread.run_sync(iii.trigger, "f", {})
                await to_thread.run_sync(iii.shutdown)


def test_shutdown_of_a_client_any_number_of_times() -> None:
    for backend in ("asyncio", "trio"):
        iii = register_worker_without_engine(backend)
        for _ in range(4):
            iii.shutdown()


def register_worker_without_engine(backend: Any) -> Any:
    from iii_anyio import IIIClient

    return IIIClient("ws://127.0.0.1:9", backend=backend)


def test_refusals_are_fresh_exceptions_each_time() -> None:
    async def main() -> None:
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="one")) as one,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="two")) as two,
        ):
            for iii in (one, two):
                for function_id in ("f", "g"):
                    iii.register_function(function_id, lambda _: None)
                if iii is one:
                    await one.wait_ready()
            notes = []
            for _ in range(3):
                with pytest.raises(Exception, match="FUNCTION_NAMESPACE_CONFLICT") as caught:
                    await two.wait_ready()
                notes.append(len(caught.value.__notes__))
            assert notes == [1, 1, 1]

    anyio.run(main)


EXIT_IN_A_TASK = """
    import asyncio, sys
    from iii_anyio import open_worker
    from iii_anyio.devengine import open_engine

    async def background():
        sys.exit(3)

    async def main():
        async with open_engine(port=None, http_port=None) as engine, open_worker(connector=engine.connector()) as iii:
            await iii.wait_ready()
            task = asyncio.create_task(background())
            await asyncio.sleep(60)

    asyncio.run(main())
"""


def test_an_event_loop_that_is_torn_down_ends_the_worker_with_it() -> None:
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(EXIT_IN_A_TASK)], capture_output=True, timeout=60, check=False
    )
    assert program.returncode == 3


INTERRUPTED_AGAIN = """
    import os, signal
    from iii_anyio import IIIClient
    from iii_anyio.client import _install_signal_handlers

    iii = IIIClient("ws://127.0.0.1:9")
    _install_signal_handlers()
    iii.shutdown()
    for _ in range(2):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            print("caught")
"""


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="needs signal.pause")
def test_with_the_last_client_gone_signals_are_the_program_s_own_again() -> None:
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED_AGAIN)],
        env={**os.environ}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (program.stdout, program.returncode) == ("caught\ncaught\n", 0)


def test_a_large_result_is_not_kept_after_its_caller_took_it() -> None:
    from iii_anyio._protocol.calls import Call, CallTable

    table = CallTable(max_queued=10)
    call = Call("f", "i", b"{}", 30.0)
    table.open(call, 0.0)
    table.settle("i", ["large"], None)
    assert call.value() == ["large"]
    assert call.result is None, "the deadline's entry lives on for a while"


def test_threads_are_really_gone() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name == "iii-anyio worker"]


async def test_wrong_arguments_are_refused_with_what_is_allowed() -> None:
    with fail_after(20):
        async with open_engine(port=None, http_port=None) as engine:
            async with open_worker(connector=engine.connector()) as iii:
                for wrong, word in [
                    ({"execution": "threads"}, "'thread'"),
                    ({"on_disconnect": "stop"}, "'cancel'"),
                    ({"concurrency": 0}, "at least 1"),
                    ({"concurrency": "2"}, "at least 1"),
                ]:
                    with pytest.raises(ValueError, match=word):
                        iii.register_function("f", lambda _: None, **wrong)  # type: ignore[arg-type]
                with pytest.raises(TypeError, match="must be str"):
                    iii.register_function(1, lambda _: None)  # type: ignore[arg-type]
                with pytest.raises(ValueError, match="blank"):
                    iii.register_function("  ", lambda _: None)
            with pytest.raises(TypeError, match="options come second"):
                async with open_worker(InitOptions()):  # type: ignore[arg-type]
                    pass
            with pytest.raises(TypeError, match="InitOptions"):
                async with open_worker(options={}):  # type: ignore[arg-type]
                    pass


async def test_a_taken_port_is_named() -> None:
    with fail_after(20):
        async with open_engine(port=0, http_port=0) as engine:
            port = int(engine.url.rpartition(":")[2])
            with pytest.raises(OSError, match=f"port {port} on 127.0.0.1: Address already in use"):
                async with open_engine(port=port, http_port=None, stream_port=None):
                    pass


async def test_a_trigger_nobody_provides_is_said_in_the_engine_s_log(caplog: pytest.LogCaptureFixture) -> None:
    async with two_workers() as (_, callee):
        callee.register_function("f", lambda _: None)
        callee.register_trigger("htp", "f", {"api_path": "f"})
        await callee.wait_ready()
    assert "nobody provides type 'htp' here" in caplog.text
