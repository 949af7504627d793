"""The variables that name and place an application's worker leave the engine alone, which runs in the same process."""

from __future__ import annotations

import pytest
from anyio import fail_after

from iii_anyio import open_worker
from iii_anyio.devengine import open_engine

pytestmark = pytest.mark.anyio


async def test_an_engine_starts_where_the_environment_names_and_places_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A-22: the name of the environment goes first, for workers of applications."""
    monkeypatch.setenv("III_WORKER_NAME", "shop")
    monkeypatch.setenv("III_NAMESPACE", "sales")
    with fail_after(5):
        async with open_engine(port=None) as engine, open_worker(connector=engine.connector()) as iii:
            await iii.wait_ready()
            workers = {worker.name: worker.namespace for worker in await iii.list_workers_async()}
            value = {"scope": "tea", "key": "green", "value": 1}
            await iii.trigger_async({"function_id": "state::set", "payload": value, "namespace": "default"})
    assert workers["shop"] == "sales"
