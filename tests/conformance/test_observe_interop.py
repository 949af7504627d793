"""The official ``iii-sdk`` 0.25 and this package observe each other's functions through one embedded engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from anyio import fail_after

from iii_anyio import ObserveRejection, Worker
from iii_anyio.devengine import open_engine
from tests.conformance.judging import TAG, official, ours
from tests.heard import Heard
from tests.proxy import open_tcp_proxy

pytest.importorskip("iii")
pytestmark = pytest.mark.anyio

PROGRAM = [sys.executable, str(Path(__file__).with_name("official_observer.py"))]
OURS = f"{TAG}::ours"
OFFICIAL = f"{TAG}::official"
ALL = ["input", "output", "error", "caller", "metadata"]


def without_facts(envelope: dict[str, Any]) -> dict[str, Any]:
    """An envelope without what differs from event to event."""
    facts = {"activation_id", "invocation_id", "started_at_ms", "duration_ms"}
    assert facts < envelope.keys()
    return {key: value for key, value in envelope.items() if key not in facts}


async def test_the_official_sdk_observes_and_is_observed_with_both_deliveries(tmp_path: Path) -> None:
    """A-47, A-49, A-54; P-137 to P-140."""
    heard = Heard("seen")
    with fail_after(50):
        async with open_engine(port=0, http_port=None) as engine, ours(engine.url) as iii:

            async def double(data: Any) -> Any:
                return data * 2

            iii.register_function(f"{OURS}::note", heard.hear)
            iii.register_function(f"{OURS}::double", double)
            await iii.wait_ready()
            async with official([*PROGRAM, engine.url, TAG], tmp_path) as other:
                # Auto delivery: it observes ours, called by itself; we observe its function.
                source = {"function_id": f"{OURS}::double", "filters": {"input": {"$gt": 1}}}
                assert "ready" in await other.ask(observe=[source, f"{OFFICIAL}::note", {"id": "theirs"}])
                for number in (1, 2):
                    call = {"function_id": f"{OURS}::double", "payload": number}
                    assert await other.ask(trigger=call) == {"result": number * 2}
                (event,) = (await other.ask(heard=1))["heard"]
                workers = (await iii.trigger_async("engine::workers::list", {"search": OFFICIAL}))["workers"]
                assert without_facts(event) == {
                    "observer_id": "theirs",
                    "function_id": f"{OURS}::double",
                    "namespace": "default",
                    "status": "success",
                    "input": 2,
                    "output": 4,
                    "caller": {"worker_id": workers[0]["id"], "worker_name": OFFICIAL},
                }
                # Routed by the engine, or run within the official SDK: the envelopes are the same.
                source = {"function_id": f"{OFFICIAL}::double", "capture": ALL, "on": "complete"}
                handle = iii.observe(source, f"{OURS}::note", {"metadata": {"m": 1}})
                await handle.ready_async()
                for payload in (4, {"n": 1}):  # the second cannot be doubled
                    envelopes: list[dict[str, Any]] = []
                    for dispatch in ("remote", "auto"):
                        request = {
                            "function_id": f"{OFFICIAL}::double",
                            "payload": payload,
                            "metadata": {"tenant": "a"},
                        }
                        await other.ask(trigger=request | {"dispatch": dispatch})
                        envelopes.append(without_facts(await heard.take()))
                        envelopes[-1].get("error", {}).pop("stacktrace", None)
                    assert envelopes[0] == envelopes[1]
                    assert envelopes[0]["status"] == ("success" if payload == 4 else "error")
                assert heard.metadata == [{"m": 1}] * 4
                # Owner delivery by the official SDK.
                source = {"function_id": f"{OFFICIAL}::tick", "args": {"every": "x"}}
                with pytest.raises(ObserveRejection, match="INVALID_ARGS"):
                    await iii.observe(source, f"{OURS}::note").ready_async()
                with pytest.raises(ObserveRejection, match="TOO_OFTEN: every must be positive"):
                    await iii.observe(source | {"args": {"every": 0}}, f"{OURS}::note").ready_async()
                ticks = iii.observe(source | {"args": {"every": 5}, "deliver": "input"}, f"{OURS}::note")
                await ticks.ready_async()
                assert await other.ask(emit={"at": 1}) == {"emitted": 1}
                assert await heard.take() == {"at": 1}
                assert await other.ask(ask={"at": 2}) == {"result": "seen"}
                assert await heard.take() == {"at": 2}
                await ticks.dispose_async()
                await iii.trigger_async(f"{OFFICIAL}::note", None)
                assert await other.ask(emit={"at": 3}) == {"emitted": 0}
            assert not heard.has_more


async def identity(iii: Worker) -> str | None:
    """The id of the official worker's connection, if it has one and its functions are there."""
    found = await iii.trigger_async("engine::workers::list", {"search": OFFICIAL})
    rows = [row["id"] for row in found["workers"] if row["function_count"]]
    return rows[0] if rows else None


async def test_observers_of_the_official_sdk_survive_its_reconnect(tmp_path: Path) -> None:
    """P-60, P-138, P-139."""
    heard = Heard()
    with fail_after(50):
        async with open_engine(port=0, http_port=None) as engine, ours(engine.url) as iii:
            iii.register_function(f"{OURS}::note", heard.hear)
            await iii.wait_ready()
            _, _, port = engine.url.rpartition(":")
            async with (
                open_tcp_proxy("127.0.0.1", int(port)) as proxy,
                official([*PROGRAM, f"ws://127.0.0.1:{proxy.port}", TAG], tmp_path) as other,
            ):
                source = {"function_id": f"{OFFICIAL}::double", "deliver": "output"}
                mine = iii.observe(source, f"{OURS}::note")
                await mine.ready_async()
                assert "ready" in await other.ask(observe=[source, f"{OFFICIAL}::note", {"id": "theirs"}])
                for tell_engine in (True, False):
                    before = await identity(iii)
                    proxy.cut(tell_engine=tell_engine)
                    while await identity(iii) in (None, before):
                        pass
                    assert await other.ask(trigger={"function_id": f"{OFFICIAL}::double", "payload": 2}) == {
                        "result": 4
                    }
                    assert await heard.take() == 4
                    assert await other.ask(heard=1) == {"heard": [4]}
                    assert await other.ask(state="theirs") == {"state": ["active", None]}
                await other.ask(dispose="theirs")
                assert await other.ask(trigger={"function_id": f"{OFFICIAL}::double", "payload": 3}) == {"result": 6}
                assert await heard.take() == 6
