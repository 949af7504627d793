"""How a worker is, for its own code and for probes: `health()`, `/livez`, `/readyz`, and what blocks its loop."""

from __future__ import annotations

import json
import logging
import threading
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from anyio import create_task_group, fail_after, move_on_after, wait_all_tasks_blocked

from iii_anyio import HealthOptions, InitOptions, Limits, ReconnectionConfig, open_worker, register_worker
from iii_anyio._runtime import health
from iii_anyio._runtime.health import LoopWatch
from iii_anyio.devengine import open_engine
from tests.api.workers import two_workers
from tests.wire.servers import raw_serving

pytestmark = pytest.mark.anyio


async def test_a_worker_is_ready_once_all_is_confirmed_and_until_it_drains() -> None:
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None, stream_port=None) as engine,
            open_worker(connector=engine.connector()) as iii,
        ):
            assert iii.health().is_live
            assert not iii.health().is_ready
            await iii.wait_ready()
            found = iii.health()
            assert (found.is_live, found.is_ready, found.reason, found.state) == (True, True, None, "connected")
            assert found.worker_id == iii.worker_id
            iii.register_function("f", lambda _: None)
            assert iii.health().reason == "the engine has not confirmed every registration"
            await iii.wait_ready()
            await iii.shutdown_async()
            found = iii.health()
            assert (found.is_live, found.is_ready, found.reason) == (False, False, "the worker has shut down")


async def test_a_worker_without_an_engine_is_alive_and_says_why_it_is_not_ready() -> None:
    async def hangs_up(_: Any) -> None:
        pass

    with fail_after(20):
        async with raw_serving(hangs_up) as port:
            options = InitOptions(reconnection_config=ReconnectionConfig(initial_delay_ms=60_000))
            async with open_worker(f"ws://127.0.0.1:{port}", options) as iii:
                changed = anyio.Event()
                iii.add_connection_state_listener(lambda state: changed.set() if state == "reconnecting" else None)
                await changed.wait()
                found = iii.health()
    assert (found.is_live, found.is_ready) == (True, False)
    assert found.reason == "no connection to the engine: reconnecting"
    assert found.reconnects == 1


async def test_what_runs_and_what_waits_is_counted() -> None:
    async with two_workers(limits=Limits(max_concurrency=1)) as (caller, callee):
        go = anyio.Event()

        @callee.function("f")
        async def f(_: Any) -> None:
            await go.wait()

        await callee.wait_ready()
        async with create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(caller.trigger_async, "f")
            await wait_all_tasks_blocked()
            theirs, ours = callee.health(), caller.health()
            assert (theirs.running, theirs.waiting) == (1, 2)
            assert (ours.calls, ours.calls_queued) == (3, 0)
            go.set()


async def test_the_endpoint_answers_probes() -> None:
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None, stream_port=None) as engine,
            httpx.AsyncClient(timeout=None) as client,
        ):
            options = InitOptions(health=HealthOptions(port=0))
            async with open_worker(connector=engine.connector(), options=options) as iii:
                url = f"http://127.0.0.1:{iii.health().port}"
                await iii.wait_ready()
                live, ready = await client.get(f"{url}/livez"), await client.get(f"{url}/readyz?verbose")
                assert (live.status_code, ready.status_code) == (200, 200)
                assert ready.json()["state"] == "connected"
                assert ready.headers["cache-control"] == "no-store"
                head = await client.head(f"{url}/readyz")
                assert (head.status_code, head.content) == (200, b"")
                assert (await client.post(f"{url}/livez")).status_code == 405
                assert (await client.get(f"{url}/other")).status_code == 404
                release = anyio.Event()

                @iii.function("f")
                async def f(_: Any) -> None:
                    await release.wait()

                await iii.wait_ready()
                async with create_task_group() as tasks:
                    tasks.start_soon(iii.trigger_async, "f")
                    await wait_all_tasks_blocked()
                    tasks.start_soon(iii.shutdown_async)
                    await wait_all_tasks_blocked()
                    live, ready = await client.get(f"{url}/livez"), await client.get(f"{url}/readyz")
                    release.set()
    assert (live.status_code, ready.status_code) == (200, 503)
    assert ready.json()["reason"] == "the worker is shutting down"


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"\x16\x03\x01\x00\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: h\r\nX: %s" % (b"x" * 20_000), 431)],
)
async def test_the_endpoint_outlives_what_is_no_request(sent: bytes, status: int) -> None:
    with fail_after(20):
        async with open_engine(port=None, http_port=None, stream_port=None) as engine:
            options = InitOptions(health=HealthOptions(port=0))
            async with open_worker(connector=engine.connector(), options=options) as iii:
                port = iii.health().port
                assert port
                async with await anyio.connect_tcp("127.0.0.1", port) as gone:
                    await gone.send(b"GET /li")
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(sent)
                    answer = await stream.receive()
                assert answer.startswith(b"HTTP/1.1 %d " % status)
                async with httpx.AsyncClient(timeout=None) as client:
                    assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200


async def test_a_port_that_is_taken_is_logged_and_the_worker_works(caplog: pytest.LogCaptureFixture) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as taken:
        port = taken.extra(anyio.abc.SocketAttribute.local_port)
        with fail_after(20):
            async with open_engine(port=None, http_port=None, stream_port=None) as engine:
                options = InitOptions(health=HealthOptions(port=port))
                async with open_worker(connector=engine.connector(), options=options) as iii:
                    await iii.wait_ready()
                    assert iii.health().is_ready
    assert "health endpoint failed; the worker goes on without it" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
async def test_what_blocks_the_loop_is_in_the_log_while_it_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watch has a clock of the test's own, for which a slow machine does not block anything."""
    now = 1000.0
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: now))
    reported = threading.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has been blocked" in record.getMessage():
                reported.set()

    told = Told()
    logging.getLogger("iii_anyio").addHandler(told)
    try:
        with fail_after(20):
            async with open_engine(port=None, http_port=None, stream_port=None) as engine:
                options = InitOptions(health=HealthOptions(blocked_after=0.05))
                async with open_worker(connector=engine.connector(), options=options) as iii:

                    @iii.function("blocks")
                    async def blocks(_: Any) -> list[Any]:
                        nonlocal now
                        now += 60
                        turns = 0
                        while not reported.is_set() and turns < 10**9:  # a busy loop, for nothing else is allowed here
                            turns += 1
                        return [iii.health().is_live]

                    await iii.wait_ready()
                    while iii.health().loop_lag is None:  # noqa: ASYNC110 - until the first beat
                        await anyio.sleep(0.01)
                    assert await iii.trigger_async("blocks") == [False]
                    while not (found := iii.health()).is_live:  # noqa: ASYNC110 - until the next beat
                        await anyio.sleep(0.01)
                    assert found.loop_blocked == 1
    finally:
        logging.getLogger("iii_anyio").removeHandler(told)
    (message,) = [record.getMessage() for record in caplog.records if "has been blocked" in record.getMessage()]
    assert ", in blocks\n" in message


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_a_loop_with_time_has_no_lag() -> None:
    watch = LoopWatch(HealthOptions(interval=1.0))
    async with create_task_group() as tasks:
        tasks.start_soon(watch.run, lambda: None)
        await anyio.sleep(10)
        assert (watch.lag, watch.take_worst(), watch.is_blocked) == (0.0, 0.0, False)
        tasks.cancel_scope.cancel()


async def test_a_worker_with_services_that_is_cancelled_while_it_starts_ends() -> None:
    """Wherever that hits it: a service is neither left behind nor waited for."""
    with fail_after(20):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            for step in range(25):
                options = InitOptions(worker_name=f"w{step}", otel=True, health=HealthOptions(port=0, blocked_after=5))
                with move_on_after(step / 2000):
                    async with open_worker(engine.url, options):
                        await anyio.sleep_forever()


async def test_the_portal_face_has_the_same_from_any_thread() -> None:
    def script(url: str) -> Any:
        with register_worker(url, InitOptions(handle_signals=False, process_marker=False)) as iii:
            iii.wait_ready(30)
            return iii.health()

    with fail_after(20):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            assert engine.url
            found = await anyio.to_thread.run_sync(script, engine.url)
    assert found.is_ready
    assert json.dumps(found.reason) == "null"
