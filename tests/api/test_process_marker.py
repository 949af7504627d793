"""The marker of a running worker (A.20)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from anyio import fail_after, to_thread

from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import open_engine

pytestmark = pytest.mark.anyio


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".iii" / "run"


def markers(run: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in run.glob("worker-*.json")] if run.exists() else []


async def test_a_worker_that_connects_is_marked_while_it_runs(run: Path) -> None:
    with fail_after(20):
        async with open_engine(port=0, http_port=None, stream_port=None) as engine:
            async with open_worker(engine.url, InitOptions(worker_name="orders")) as iii:
                await iii.wait_ready()
                [marker] = await to_thread.run_sync(markers, run)
                assert (marker["name"], marker["url"], marker["sdk"]) == ("orders", engine.url, "python")
            assert await to_thread.run_sync(markers, run) == []


async def test_an_option_leaves_the_marker_out(run: Path) -> None:
    with fail_after(20):
        async with (
            open_engine(port=0, http_port=None, stream_port=None) as engine,
            open_worker(engine.url, InitOptions(process_marker=False)) as iii,
        ):
            await iii.wait_ready()
            assert await to_thread.run_sync(markers, run) == []


async def test_a_worker_of_an_engine_in_this_process_is_not_marked(run: Path) -> None:
    with fail_after(20):
        async with open_engine(port=None) as engine, open_worker(connector=engine.connector()) as iii:
            await iii.wait_ready()
            assert await to_thread.run_sync(markers, run) == []
