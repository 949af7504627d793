"""The pytest plugin: its fixtures, here and in a project of somebody else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after

from iii_anyio import (
    ApiRequest,
    ApiResponse,
    App,
    InitOptions,
    InvocationError,
    RegistrationRejectedError,
    register_worker,
)
from iii_anyio.devengine import Engine
from iii_anyio.pytest_plugin import WorkerFactory
from iii_anyio.testing import CronDriver, FaultConnector, HttpDriver, QueueDriver, StateDriver

pytestmark = pytest.mark.anyio


async def greet(who: dict[str, Any]) -> dict[str, str]:
    return {"message": f"Hello, {who['name']}!"}


app = App("shop")


@app.http("POST", "/orders/:id")
async def order(request: ApiRequest) -> ApiResponse:
    return ApiResponse(
        status_code=201,
        body={"id": request.path_params["id"], "order": request.body, "query": request.query_params},
        headers={"X-One": "1"},
    )


async def test_a_handler_is_tested_in_five_lines_with_an_engine(iii_worker: WorkerFactory) -> None:
    iii = await iii_worker()
    iii.register_function("greet", greet)
    await iii.wait_ready()
    assert await iii.trigger_async("greet", {"name": "Ada"}) == {"message": "Hello, Ada!"}


async def test_workers_of_one_test_share_an_engine_that_has_no_ports(
    iii_worker: WorkerFactory, iii_engine: Engine
) -> None:
    callee, caller = (
        await iii_worker("callee"),
        await iii_worker("caller", options=InitOptions(invocation_timeout_ms=9)),
    )
    callee.register_function("greet", greet)
    await callee.wait_ready()
    await caller.wait_ready()
    assert await caller.trigger_async("greet", {"name": "Bob"}, timeout_ms=5000) == {"message": "Hello, Bob!"}
    assert iii_engine.connections == 2
    assert (iii_engine.url, iii_engine.http_url, iii_engine.stream_url) == ("", "", "")


async def test_an_app_is_attached_and_ready(iii_worker: WorkerFactory, iii_http: HttpDriver) -> None:
    await iii_worker(app)
    answer = await iii_http.post("/orders/7?a=1", {"item": "tea"}, query={"b": "x y"}, headers={"Accept": "*/*"})
    assert answer.status_code == 201
    assert answer.json() == {"id": "7", "order": {"item": "tea"}, "query": {"a": "1", "b": "x y"}}
    assert answer.headers["x-one"] == "1"
    assert (await iii_http.get("/nowhere")).status_code == 404
    assert (await iii_http.delete("/orders/7")).status_code == 405
    assert (await iii_http.put("/orders/7", {})).text == ""


async def test_a_worker_may_be_made_inside_a_deadline_that_is_over_before_it(iii_worker: WorkerFactory) -> None:
    with fail_after(20):
        iii = await iii_worker()
        await iii.wait_ready()
    assert iii.get_connection_state() == "connected"


async def test_a_cron_trigger_is_fired_whatever_the_time_is(iii_worker: WorkerFactory, iii_cron: CronDriver) -> None:
    iii = await iii_worker()
    seen: list[Any] = []

    async def tick(event: dict[str, Any], metadata: Any) -> str:
        seen.append((event["trigger"], event["scheduled_time"], metadata))
        return "done"

    iii.register_function("tick", tick)
    iii.register_function("allow", lambda event: "2026" in event["scheduled_time"])
    iii.register_trigger("cron", "tick", {"expression": "0 0 0 1 1 *", "condition_function_id": "allow"}, {"n": 1})
    await iii.wait_ready()
    from datetime import UTC, datetime

    assert await iii_cron.fire("tick", at=datetime(2026, 1, 1, tzinfo=UTC)) == "done"
    assert await iii_cron.fire("tick", at=datetime(2027, 1, 1, tzinfo=UTC)) is None
    assert seen == [("cron", "2026-01-01T00:00:00+00:00", {"n": 1})]
    with pytest.raises(LookupError, match="there are 0"):
        await iii_cron.fire("allow")


async def test_a_queue_is_drained(iii_worker: WorkerFactory, iii_queue: QueueDriver) -> None:
    iii = await iii_worker()
    done: list[int] = []

    async def work(data: dict[str, int]) -> None:
        if data["n"] == 3:
            raise InvocationError("NO", "not this one")
        done.append(data["n"])

    iii.register_function("work", work)
    await iii.wait_ready()
    await iii.trigger_async("queue::define", {"queue": "jobs", "config": {"max_retries": 0}})
    for n in range(5):
        await iii.trigger_async(
            {"function_id": "work", "payload": {"n": n}, "action": {"type": "enqueue", "queue": "jobs"}}
        )
    await iii_queue.drain("jobs")
    assert sorted(done) == [0, 1, 2, 4]
    (dead,) = await iii_queue.dead("jobs")
    assert dead["payload"]["n"] == 3
    with pytest.raises(LookupError, match="'jobz'"):
        await iii_queue.drain("jobz")


async def test_a_queue_that_is_not_drained_in_time_says_how_much_is_left(
    iii_worker: WorkerFactory, iii_queue: QueueDriver
) -> None:
    iii = await iii_worker()
    go = anyio.Event()
    iii.register_function("wait", lambda _: go.wait(), execution="async")
    await iii.wait_ready()
    await iii.trigger_async({"function_id": "wait", "payload": 1, "action": {"type": "enqueue", "queue": "default"}})
    with pytest.raises(TimeoutError, match="1 jobs are left in queue 'default'"):
        await iii_queue.drain(timeout=0.05)
    go.set()


async def test_changes_of_state_are_seen_one_by_one(iii_worker: WorkerFactory, iii_state: StateDriver) -> None:
    iii = await iii_worker()
    changes = await iii_state.changes("orders")
    await iii.trigger_async("state::set", {"scope": "orders", "key": "7", "value": {"n": 1}})
    await iii.trigger_async("state::set", {"scope": "others", "key": "7", "value": {"n": 1}})
    await iii.trigger_async("state::set", {"scope": "orders", "key": "7", "value": {"n": 2}})
    first, second = await changes.next(), await changes.next()
    assert (first.event_type, first.new_value) == ("state:created", {"n": 1})
    assert (second.event_type, second.old_value, second.new_value) == ("state:updated", {"n": 1}, {"n": 2})
    assert await iii_state.get_async("orders", "7") == {"n": 2}
    with pytest.raises(TimeoutError, match="2 came before"):
        await changes.next(timeout=0.01)


async def test_a_worker_can_be_given_another_way_to_the_engine(iii_worker: WorkerFactory, iii_engine: Engine) -> None:
    async with FaultConnector(iii_engine.connector()) as faults:
        iii = await iii_worker(connector=faults)
        await iii.wait_ready()
        assert faults.accepted == 1
        await iii.shutdown_async()


async def test_what_cannot_be_made_is_raised_where_it_was_asked_for(iii_worker: WorkerFactory) -> None:
    broken = App("broken")

    @broken.function()
    async def handler(_: dict[str, Any], database: StateDriver) -> None: ...

    with pytest.raises(TypeError, match="nothing provides"):
        await iii_worker(broken)


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_hours_pass_in_no_time_with_virtual_time(iii_worker: WorkerFactory) -> None:
    iii = await iii_worker()
    ticks: list[str] = []

    async def tick(event: dict[str, Any]) -> None:
        ticks.append(event["scheduled_time"])

    iii.register_function("tick", tick)
    iii.register_trigger("cron", "tick", {"expression": "0 0 * * * *"})
    await iii.wait_ready()
    await anyio.sleep(5 * 3600)
    assert len(ticks) == 5


def test_a_sync_test_uses_a_real_socket(iii_url: str) -> None:
    with register_worker(iii_url, InitOptions(worker_name="script")) as iii:
        iii.register_function("greet", greet)
        iii.wait_ready(30)
        assert iii.trigger("greet", {"name": "Ada"}) == {"message": "Hello, Ada!"}


# -- in a project of somebody else -----------------------------------------------------------------------------------


def test_pytest_finds_the_plugin_by_itself() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    assert 'iii_anyio = "iii_anyio.pytest_plugin"' in pyproject
    assert "iii_anyio.pytest_plugin" in [entry.value for entry in entry_points(group="pytest11")]


def run_pytest(folder: Path, program: str, *options: str) -> str:
    (folder / "test_theirs.py").write_text(textwrap.dedent(program), "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return done.stdout + done.stderr


def test_a_project_needs_no_import_no_marker_and_no_conftest(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
        async def test_greet(iii_worker, iii_http):
            iii = await iii_worker()
            iii.register_function("greet", lambda request: {"status_code": 200, "body": "hi"})
            iii.register_trigger("http", "greet", {"api_path": "greet", "http_method": "GET"})
            await iii.wait_ready()
            assert (await iii_http.get("/greet")).json() == "hi"

        def test_sync(iii_url):
            assert iii_url.startswith("ws://127.0.0.1:")

        def test_wrong(iii_engine):
            pass
        """,
    )
    assert "in a sync test use iii_url" in output
    assert "3 passed, 2 errors" in output, output


def test_a_project_that_uses_no_fixture_is_not_disturbed(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
        import sys

        def test_nothing_is_loaded_or_run(request):
            assert not {"iii_anyio.devengine", "iii_anyio.testing"} & set(sys.modules)
            assert not [name for name in request.fixturenames if name.startswith("iii")]
        """,
    )
    assert "1 passed" in output, output


def test_a_worker_that_ends_by_itself_is_an_error_of_its_test(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
        import anyio, pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_two_of_one_name(iii_worker):
            first, second = await iii_worker("same"), await iii_worker("same")
            with anyio.move_on_after(30):
                while second.fatal_error is None and first.fatal_error is None:
                    await anyio.sleep(0.01)
        """,
    )
    assert RegistrationRejectedError.__name__ in output
    assert "1 passed, 1 error" in output, output
