"""Triggers that the engine fires itself (§9.3, P-129)."""

from __future__ import annotations

from typing import Any

import pytest

from iii_anyio._protocol.engine_session import EngineSession
from iii_anyio.devengine._router import Router
from tests.devengine.peers import REGISTER, Hub, Peer

WORKERS = "engine::workers-available"
FUNCTIONS = "engine::functions-available"


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def watcher(hub: Hub) -> Peer:
    worker = hub.join("watcher")
    worker.function("on")
    worker.trigger("1", WORKERS, "on", metadata={"m": 1})
    worker.trigger("2", FUNCTIONS, "on")
    hub.router.fire_functions_available()
    hub.events.clear()
    for message in worker.take():
        worker.answer(message)
    return worker


def test_workers_coming_and_going_are_events(hub: Hub, watcher: Peer) -> None:
    """P-129, E-50: before and after the identity is known, and after the clean-up."""
    worker = hub.open()
    worker.invoke(REGISTER, {"name": "w"})
    worker.leave()
    fired = watcher.take()
    assert [(message["function_id"], message["metadata"]) for message in fired] == [("on", {"m": 1})] * 3
    events = ["worker_connected", "worker_metadata_updated", "worker_disconnected"]
    payloads = [{"event": event, "worker_id": worker.worker_id} for event in events]
    assert [message["data"] for message in fired] == payloads  # no `_caller_worker_id` (T-15)
    assert hub.events == [(WORKERS, payload) for payload in payloads]


def test_the_answers_to_events_are_ignored(hub: Hub, watcher: Peer) -> None:
    """E-51."""
    hub.open()
    assert watcher.answer(watcher.take_one(), error={"code": "c", "message": "m"}) == []
    assert "invocations=0" in repr(hub.router)


def test_in_process_workers_are_no_event(hub: Hub, watcher: Peer) -> None:
    """E-50."""
    hub.join("iii-state", in_process=True).leave()
    assert watcher.take() == []
    assert hub.events == []


def disconnects(hub: Hub) -> list[str]:
    return [payload["worker_id"] for _, payload in hub.events if payload["event"] == "worker_disconnected"]


def test_an_evicted_worker_has_left_once(hub: Hub) -> None:
    """P-129: when it is evicted, not again when its socket ends."""
    old, new = hub.join("w"), hub.open()
    message = {"previous_worker_id": old.worker_id, "reattach_token": old.session.reattach_token}
    new.send({"type": "reattach", **message})
    assert disconnects(hub) == [old.worker_id]
    old.leave()
    assert disconnects(hub) == [old.worker_id]


def test_a_rejected_worker_has_left_once(hub: Hub) -> None:
    """P-129."""
    hub.join("w")
    rejected = hub.open()
    rejected.invoke(REGISTER, {"name": "w"})
    assert disconnects(hub) == [rejected.worker_id]
    rejected.leave()
    assert disconnects(hub) == [rejected.worker_id]


def test_the_target_of_an_event_is_looked_up_in_the_triggers_namespace(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """E-51, T-10; a missing target is logged."""
    blue = hub.join("b", namespace="blue")
    blue.function("on")
    blue.trigger("1", WORKERS, "on", namespace="blue")
    blue.trigger("2", WORKERS, "on")
    blue.trigger("3", WORKERS, "engine::log::info")
    hub.open()
    assert len(blue.take()) == 1
    assert "Function on not found in namespace default" in caplog.text
    assert "engine::log::info cannot be called by the engine itself" in caplog.text


def test_functions_coming_and_going_are_an_event(hub: Hub, watcher: Peer) -> None:
    """E-48, E-49: one for any number of changes, with internal functions."""
    worker = hub.join("w")
    watcher.take()
    assert not hub.router.functions_changed
    worker.function("secret", metadata={"internal": True}, description="d")
    worker.function("other")
    assert hub.router.functions_changed
    assert hub.router.fire_functions_available()
    payload = watcher.take_one()["data"]
    assert payload["event"] == "functions_changed"
    rows = {row["function_id"]: row for row in payload["functions"]}
    assert rows["secret"] == {
        "function_id": "secret",
        "namespace": "default",
        "worker_name": "w",
        "description": "d",
        "metadata": {"internal": True},
    }
    assert {"other", "on", "engine::functions::list"} <= set(rows)
    assert hub.events[-1] == (FUNCTIONS, payload)
    worker.leave()
    assert hub.router.functions_changed
    assert hub.router.fire_functions_available()
    assert "secret" not in {row["function_id"] for row in watcher.take()[-1]["data"]["functions"]}


def test_the_same_set_of_functions_is_no_event(hub: Hub, watcher: Peer) -> None:
    """E-48: neither a function registered again nor one that came and went."""
    watcher.function("on", description="new")
    assert not hub.router.functions_changed
    watcher.function("brief")
    watcher.send({"type": "unregisterfunction", "id": "brief"})
    assert hub.router.functions_changed
    assert not hub.router.fire_functions_available()
    assert not hub.router.functions_changed
    assert watcher.take() == []


def test_binding_brings_no_snapshot(hub: Hub) -> None:
    """E-48."""
    worker = hub.join("w")
    worker.trigger("1", FUNCTIONS, "on")
    assert worker.take() == []
    assert not hub.router.fire_functions_available()


def test_a_failing_listener_does_not_end_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_name: str, _payload: dict[str, Any]) -> None:
        raise RuntimeError("listener")

    hub = Hub(on_event=fail)
    hub.join("w")
    assert "on_event failed" in caplog.text


def test_an_engine_needs_no_listener() -> None:
    router = Router(lambda: 0)
    session = router.connect()
    assert isinstance(session, EngineSession)
    assert len(session.outgoing) == 1
