"""Calls from tasks, threads and foreign loops, and what they come to."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after, to_thread
from anyio.from_thread import start_blocking_portal

from iii_anyio import (
    EncodeError,
    IIIClient,
    InitOptions,
    InvocationError,
    InvocationTimeoutError,
    PayloadTooLargeError,
    ReconnectionConfig,
    TriggerAction,
    WorkerStateError,
    open_worker,
    register_worker,
)
from iii_anyio.devengine import open_engine


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_engine(port=0, http_port=None)) as engine,
    ):
        yield engine.url


@pytest.fixture(params=["asyncio", "trio"])
def client(request: pytest.FixtureRequest, engine_url: str) -> Iterator[IIIClient]:
    """The portal face on each backend, with a few functions."""
    with register_worker(
        engine_url, InitOptions(worker_name=f"portal-{request.param}", shutdown_timeout=0.1), backend=request.param
    ) as iii:
        iii.register_function(f"{request.param}::echo", lambda data: data)

        async def hang(_: Any) -> None:
            await anyio.sleep_forever()

        iii.register_function(f"{request.param}::hang", hang)
        iii.wait_ready(30)
        iii.prefix = request.param  # type: ignore[attr-defined]
        yield iii


def echo(iii: IIIClient) -> str:
    return f"{iii.prefix}::echo"  # type: ignore[attr-defined]


def test_a_script_calls_and_gets_results_and_typed_errors(client: IIIClient) -> None:
    assert client.trigger({"function_id": echo(client), "payload": {"a": [1, None, "é"]}})["a"] == [1, None, "é"]
    assert client.trigger(echo(client)) is None
    with pytest.raises(InvocationError) as caught:
        client.trigger("no::such", {})
    assert caught.value.code == "function_not_found"
    assert caught.value.function_id == "no::such"
    assert caught.value.invocation_id is not None
    with pytest.raises(InvocationTimeoutError) as timeout:
        client.trigger(echo(client).replace("echo", "hang"), {}, timeout_ms=20)
    assert timeout.value.code == "TIMEOUT"
    assert isinstance(timeout.value, TimeoutError)


def test_mistakes_are_raised_at_their_caller_and_nothing_is_sent(client: IIIClient) -> None:
    for payload in (float("nan"), "\ud800", object()):
        with pytest.raises(EncodeError):
            client.trigger(echo(client), payload)
    with pytest.raises(PayloadTooLargeError):
        client.trigger(echo(client), "x" * 67_108_864, dispatch="remote")
    with pytest.raises(ValueError, match="namespace"):
        client.trigger(echo(client), {}, namespace=" ")
    assert client.trigger(echo(client), 1) == 1


def test_void_returns_none_and_enqueue_into_an_unknown_queue_says_what_is_missing(client: IIIClient) -> None:
    assert client.trigger({"function_id": echo(client), "action": TriggerAction.Void()}) is None
    with pytest.raises(InvocationError) as caught:
        client.trigger({"function_id": echo(client), "action": TriggerAction.Enqueue(queue="jobs")})
    assert caught.value.code == "enqueue_error"
    assert "queue 'jobs' is not defined" in caught.value.message


def test_64_threads_call_at_once(client: IIIClient) -> None:
    results: list[int] = []

    def call(n: int) -> None:
        results.extend(client.trigger(echo(client), n * 100 + i) for i in range(10))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [n * 100 + i for n in range(64) for i in range(10)]


@pytest.mark.anyio
async def test_trigger_async_works_on_any_loop(client: IIIClient) -> None:
    with fail_after(20):
        results: list[int] = []

        async def call(n: int) -> None:
            results.append(await client.trigger_async(echo(client), n))

        async with create_task_group() as tasks:
            for n in range(100):
                tasks.start_soon(call, n)
        assert sorted(results) == list(range(100))
        with pytest.raises(InvocationError):
            await client.trigger_async("no::such", {})
        with anyio.move_on_after(0.02) as scope:
            await client.trigger_async(echo(client).replace("echo", "hang"), {})
        assert scope.cancelled_caught
        assert await client.trigger_async({"function_id": echo(client), "action": {"type": "void"}}) is None
        assert await to_thread.run_sync(client.trigger, echo(client), 5) == 5


@pytest.mark.anyio
async def test_trigger_on_the_loop_of_the_worker_names_the_method_to_use() -> None:
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):
            with pytest.raises(WorkerStateError, match="trigger_async"):
                iii.trigger("f", {})
            with pytest.raises(RuntimeError, match="shutdown_async"):
                iii.shutdown()
            iii.register_function("echo", lambda data: data)
            await iii.wait_ready()
            assert await to_thread.run_sync(iii.trigger, "echo", 1) == 1
            await to_thread.run_sync(iii.shutdown)


def test_a_refused_client_raises_and_leaves_no_thread(engine_url: str) -> None:
    from iii_anyio import RegistrationRejectedError

    with register_worker(engine_url, InitOptions(worker_name="same")), pytest.raises(RegistrationRejectedError):
        register_worker(engine_url, InitOptions(worker_name="same"))


def test_exhausted_retries_raise_at_once_and_leave_no_thread() -> None:
    """A.25, 3: upstream sleeps 30 s and leaks the thread."""
    config = ReconnectionConfig(initial_delay_ms=1, max_retries=1)
    with pytest.raises(ConnectionError, match="refused"):
        register_worker("ws://127.0.0.1:9", InitOptions(reconnection_config=config))


def test_two_clients_of_one_process_get_names_of_their_own(engine_url: str) -> None:
    """G-10."""
    with register_worker(engine_url) as one, register_worker(engine_url) as two:
        listed = one.trigger("engine::workers::list", {})
        names = {row["name"] for row in listed["workers"] if row["id"] in {one.worker_id, two.worker_id}}
        assert len(names) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_a_clear_error(client: IIIClient) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                client.trigger(echo(client), 1)
            except WorkerStateError as exc:
                status = 0 if "fork" in str(exc) else 2
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


INSIDE_A_LOOP = """
    import asyncio
    from iii_anyio import InitOptions, register_worker

    async def main():
        iii = register_worker(options=InitOptions(worker_name="in-main"))
        iii.register_function("main::double", lambda n: n * 2)
        iii.wait_ready()
        print(await asyncio.to_thread(iii.trigger, "main::double", 4), await iii.trigger_async("main::double", 5))
        iii.shutdown()

    asyncio.run(main())
"""


def test_a_client_made_inside_a_running_loop_works(engine_url: str) -> None:
    """The 0.8-style program: ``register_worker`` in ``async def main``; it blocks that loop while it connects."""
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INSIDE_A_LOOP)],
        env={**os.environ, "III_URL": engine_url}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (program.stdout, program.stderr, program.returncode) == ("8 10\n", "", 0)
