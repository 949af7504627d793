"""Whole programs: a second signal, several clients, a restart before the engine has noticed the end of the first.

One signal: ``tests/api/test_lifecycle.py``. ``run`` with its children: ``tests/cli/test_run_signals.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after
from anyio.abc import Process

from iii_anyio import InitOptions, InvocationError, Worker, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.testing import FaultProxy

pytestmark = pytest.mark.anyio

NATIVE = """
    import anyio, sys
    from iii_anyio import InitOptions, open_worker

    async def main():
        async with open_worker(options=InitOptions("victim", shutdown_timeout=60)) as iii:

            async def hang(_):
                print("running", flush=True)
                await anyio.sleep_forever()

            iii.register_function("hang", hang)
            await iii.wait_ready()
            print("ready", flush=True)
            await iii.serve()

    anyio.run(main, backend=sys.argv[1])
"""

SCRIPT = """
    import sys, threading
    from iii_anyio import InitOptions, register_worker

    iii = register_worker(options=InitOptions("victim", shutdown_timeout=60), backend=sys.argv[1])

    async def hang(_):
        import anyio
        print("running", flush=True)
        await anyio.sleep_forever()

    iii.register_function("hang", hang)
    iii.wait_ready()
    print("ready", flush=True)
"""

SERVING = SCRIPT + "    iii.serve()\n"

CLIENTS = """
    import sys
    from iii_anyio import InitOptions, register_worker

    with register_worker(backend=sys.argv[1]) as one, register_worker(backend=sys.argv[1]) as two:
        one.register_function("one::double", lambda n: n * 2)
        two.register_function("two::double", lambda n: n * 2)
        one.wait_ready()
        two.wait_ready()
        print(one.trigger("two::double", 1), two.trigger("one::double", 2), flush=True)
"""


@asynccontextmanager
async def program(text: str, url: str, backend: str) -> AsyncGenerator[Process]:
    """A program that runs, and is killed when it does not end."""
    async with await anyio.open_process(
        [sys.executable, "-c", textwrap.dedent(text), backend],
        env={**os.environ, "III_URL": url},
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def said(process: Process, line: str) -> None:
    assert process.stdout is not None
    heard = b""
    while not heard.endswith(b"\n"):
        heard += await process.stdout.receive()
    assert heard.decode().strip() == line


async def errors_of(process: Process) -> list[str]:
    assert process.stderr is not None
    return b"".join([chunk async for chunk in process.stderr]).decode().splitlines()


async def code_of_call(iii: Worker, codes: list[Any]) -> None:
    try:
        codes.append(await iii.trigger_async("hang", {}))
    except InvocationError as exc:
        codes.append(exc.code)


@pytest.mark.parametrize("text", [NATIVE, SERVING, SCRIPT], ids=["native", "serving", "ended"])
async def test_a_second_signal_does_not_wait_for_handlers_that_never_end(text: str, anyio_backend_name: str) -> None:
    """A native program goes on behind ``serve()``; in a script it ends the process at once."""
    codes: list[Any] = []
    errors: list[str] = []
    code = None
    with fail_after(60):
        async with (
            open_engine(port=0, http_port=None, stream_port=None) as engine,
            open_worker(engine.url, InitOptions("caller", handle_signals=False)) as caller,
            program(text, engine.url, anyio_backend_name) as process,
        ):
            await said(process, "ready")
            async with create_task_group() as tasks:
                tasks.start_soon(code_of_call, caller, codes)
                await said(process, "running")
                process.send_signal(signal.SIGTERM)
                # A worker that drains refuses what is new; that is how the first signal is known to have arrived.
                while True:
                    probe: list[Any] = []
                    with anyio.move_on_after(1):
                        await code_of_call(caller, probe)
                    if probe == ["worker_shutting_down"]:
                        break
                process.send_signal(signal.SIGINT)
                errors = await errors_of(process)
                code = await process.wait()
    if text == NATIVE:
        assert code == 0
        assert codes == ["invocation_cancelled"]
        assert [line for line in errors if "did not finish in time" not in line] == []
    else:
        assert code == 128 + signal.SIGINT
        assert codes == ["invocation_stopped"]
        assert errors == []


async def test_two_clients_of_one_process_have_names_of_their_own(anyio_backend_name: str) -> None:
    with fail_after(60):
        async with (
            open_engine(port=0, http_port=None, stream_port=None) as engine,
            program(CLIENTS, engine.url, anyio_backend_name) as process,
        ):
            await said(process, "2 4")
            assert (await process.wait(), await errors_of(process)) == (0, [])


async def test_a_program_that_is_started_again_too_early_says_whose_name_it_is_and_does_not_insist(
    anyio_backend_name: str,
) -> None:
    """Killed, and the engine has not noticed: nothing tells it that the next process is the same program."""
    with fail_after(60):
        async with (
            open_engine(port=0, http_port=None, stream_port=None) as engine,
            FaultProxy(engine.url) as proxy,
        ):
            async with program(SCRIPT, proxy.url, anyio_backend_name) as first:
                await said(first, "ready")
                proxy.reset(tell_engine=False)
                first.kill()
                await first.wait()
            attempts = proxy.accepted
            async with program(SCRIPT, proxy.url, anyio_backend_name) as second:
                errors = await errors_of(second)
                assert await second.wait() == 1
            assert "WORKER_NAMESPACE_CONFLICT" in errors[-1]
            assert "worker_name" in errors[-1], "what to do"
            assert proxy.accepted == attempts + 1
            proxy.calm()  # and the engine notices
            async with program(SCRIPT, proxy.url, anyio_backend_name) as third:
                await said(third, "ready")
