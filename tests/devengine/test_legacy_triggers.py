"""Old triggers that a function takes as observers: ``legacy_trigger_type`` (§16.2, ``legacy`` of §16.3)."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from anyio import fail_after

from iii_anyio import InitOptions, InvocationError, Observer, ObserveRejection, open_worker
from iii_anyio.devengine import Listener, Rbac, open_engine
from iii_anyio.devengine._access import Grants
from tests.devengine.peers import REGISTER, Hub, Peer
from tests.heard import Heard

FEATURES = ["observe.v1"]
TICKS = {"delivery": "owner", "legacy_trigger_type": "tick"}


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def owner(hub: Hub) -> Peer:
    return hub.join("owner", features=FEATURES)


@pytest.fixture
def worker(hub: Hub) -> Peer:
    """One of 0.23, that knows nothing of observers."""
    peer = hub.join("worker")
    peer.function("f")
    return peer


def ack(owner: Peer, message: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Acknowledge an ``observeradded``."""
    fields = {key: message[key] for key in ("function_id", "namespace", "revision")}
    return owner.send({"type": "observerack", **fields, "id": message["observer"]["id"], **more})


def bind(owner: Peer, worker: Peer, **fields: Any) -> str:
    """Have the owner take a trigger; returns the observer's id."""
    worker.trigger("t", "tick", **fields)
    added = owner.take_one()
    ack(owner, added)
    assert worker.take() == []
    return added["observer"]["id"]


def emit(owner: Peer, *observers: str, event: Any = "tick!", function_id: str = "ticks") -> None:
    item = {
        "function_id": function_id, "namespace": "default", "invocation_id": "i", "matched": list(observers),
        "status": "success", "input": event, "started_at_ms": 1, "duration_ms": 0,
    }  # fmt: skip
    owner.post({"type": "invocationsobserved", "items": [item]})


def test_a_trigger_becomes_an_observer_and_its_function_gets_the_bare_event(owner: Peer, worker: Peer) -> None:
    owner.function("ticks", observe={**TICKS, "args_format": {"type": "object", "required": ["every"]}})
    worker.trigger("t", "tick", config={"every": 5}, metadata={"team": "a"})
    added = owner.take_one()
    assert (added["type"], added["function_id"]) == ("observeradded", "ticks")
    observer = added["observer"]
    assert observer["legacy"] == {"trigger_type": "tick", "config": {"every": 5}}
    assert (observer["target"], observer["args"], observer["filters"]) == ("f", {}, {})
    ack(owner, added)
    assert worker.take() == []  # P-137: it has not said that it knows observers; success is silent, as ever (§9.1)
    emit(owner, observer["id"], event={"at": 1})
    call = worker.take_one()
    assert (call["function_id"], call["data"], call["metadata"]) == ("f", {"at": 1}, {"team": "a"})
    assert "caller" not in call
    shown = worker.ask("engine::observers::get", {"id": observer["id"]})
    assert (shown["state"], shown["legacy"]) == ("active", observer["legacy"])
    assert shown["worker_id"] == worker.worker_id


def test_triggers_wait_for_the_function_that_takes_them(owner: Peer, worker: Peer) -> None:
    """As for a provider (§9.2); a null config stays null (§16.3)."""
    worker.trigger("t", "tick", config=None)
    worker.trigger("other", "tock")
    confirmed, added = owner.function("ticks", observe=TICKS)
    assert (confirmed["type"], confirmed["observers"]) == ("functionregistered", [])
    assert added["observer"]["legacy"] == {"trigger_type": "tick", "config": None}


def test_a_removed_trigger_removes_its_observer(owner: Peer, worker: Peer) -> None:
    owner.function("ticks", observe=TICKS)
    observer_id = bind(owner, worker)
    worker.send({"type": "unregistertrigger", "id": "t", "trigger_type": "tick"})
    assert owner.take_one()["type"] == "observerremoved"
    emit(owner, observer_id)
    assert worker.take() == []


def test_the_triggers_of_a_worker_that_leaves_go_at_once(hub: Hub, owner: Peer, worker: Peer) -> None:
    """They are triggers (§9.4), and not kept for 30 s as observers are: whoever comes back sends them again."""
    owner.function("ticks", observe=TICKS)
    bind(owner, worker)
    worker.leave()
    assert owner.take_one()["type"] == "observerremoved"
    assert len(hub.router.observers) == 0


@pytest.mark.parametrize("is_late", [False, True])
def test_the_registrant_is_told_that_the_owner_refuses(owner: Peer, worker: Peer, is_late: bool) -> None:
    """§16.4: early, or late. The trigger then waits, as one that a provider has refused (§9.4)."""
    owner.function("ticks", observe=TICKS)
    worker.trigger("t", "tick")
    added = owner.take_one()
    if is_late:
        ack(owner, added)
    (removed,) = ack(owner, added, error={"code": "BAD", "message": "every 5 what?"})
    assert removed["type"] == "observerremoved"
    assert worker.take_one() == {
        "type": "triggerregistrationresult", "id": "t", "trigger_type": "tick", "function_id": "f",
        "error": {"code": "BAD", "message": "every 5 what?"},
    }  # fmt: skip
    messages = owner.function("ticks", observe=TICKS)
    assert [message["type"] for message in messages] == ["functionregistered", "observeradded"]


@pytest.mark.parametrize(
    ("observe", "target", "code"),
    [({"allow": False}, "f", "NOT_OBSERVABLE"), ({}, "ticks", "SELF_TARGET")],
)
def test_what_the_engine_refuses_is_told_as_well(
    owner: Peer, worker: Peer, observe: Any, target: str, code: str
) -> None:
    owner.function("ticks", observe=TICKS | observe)
    (refusal,) = worker.trigger("t", "tick", target)
    assert (refusal["type"], refusal["error"]["code"]) == ("triggerregistrationresult", code)
    assert owner.take() == []


def test_a_function_registered_again_keeps_its_triggers(owner: Peer, worker: Peer) -> None:
    """P-138: they are in the set that confirms it, and stay active meanwhile."""
    owner.function("ticks", observe=TICKS)
    observer_id = bind(owner, worker)
    (confirmed,) = owner.function("ticks", observe=TICKS)
    assert [observer["id"] for observer in confirmed["observers"]] == [observer_id]
    emit(owner, observer_id)
    assert worker.take_one()["data"] == "tick!"


def test_a_provider_of_the_type_goes_before_such_a_function(hub: Hub, owner: Peer, worker: Peer) -> None:
    owner.function("ticks", observe=TICKS)
    bind(owner, worker)
    provider = hub.join("provider")
    (forwarded,) = provider.trigger_type("tick")
    assert (forwarded["type"], forwarded["id"]) == ("registertrigger", "t")
    assert owner.take_one()["type"] == "observerremoved"
    provider.leave()
    assert owner.take_one()["type"] == "observeradded"


def test_the_next_function_takes_the_triggers_of_one_that_goes(hub: Hub, owner: Peer, worker: Peer) -> None:
    owner.function("ticks", observe=TICKS)
    second = hub.join("second", features=FEATURES)
    second.function("more", observe=TICKS)
    bind(owner, worker)
    assert second.take() == []
    owner.function("ticks")  # takes none any more
    (added,) = second.take()
    assert (added["type"], added["function_id"]) == ("observeradded", "more")
    second.leave()
    third = hub.join("third", features=FEATURES)
    assert third.function("again", observe=TICKS)[1]["type"] == "observeradded"  # it has waited


def test_namespaces_are_those_of_triggers(hub: Hub, owner: Peer, worker: Peer) -> None:
    """§9.2: the registrant's own namespace before ``default``, also when it comes later."""
    owner.function("ticks", observe=TICKS)
    client = hub.join("client", namespace="shop")
    client.function("f")
    client.trigger("t2", "tick", namespace="shop")
    ack(owner, owner.take_one())
    near = hub.join("near", namespace="shop", features=FEATURES)
    (_, added) = near.function("own", observe=TICKS)
    assert owner.take_one()["type"] == "observerremoved"
    ack(near, added)
    item = {"function_id": "own", "invocation_id": "i", "matched": [added["observer"]["id"]], "input": 1}
    near.post({"type": "invocationsobserved", "items": [item]})
    assert client.take_one()["data"] == 1


def test_an_owner_without_observers_has_its_calls_watched_by_the_engine(hub: Hub, worker: Peer) -> None:
    """§16.1: a worker that does not know the family is sent none of it; ``auto`` delivery works without."""
    old = hub.join("old")
    old.function("sell", observe={"legacy_trigger_type": "sold"})
    worker.trigger("t", "sold")
    hub.join("caller").invoke("sell", {"n": 1})
    (call,) = old.take()
    old.answer(call, result=None)
    assert worker.take_one()["data"]["n"] == 1


def test_a_durable_trigger_is_taken_too(hub: Hub, owner: Peer, worker: Peer) -> None:
    """§9.5: it has no registrant, and outlives who has asked for it."""
    owner.function("ticks", observe=TICKS)
    asker = hub.join("asker")
    asker.invoke("engine::register_trigger", {"trigger_type": "tick", "function_id": "f", "config": {}})
    added = owner.take_one()
    ack(owner, added)
    assert "id" in asker.take_one()["result"]
    asker.leave()
    emit(owner, added["observer"]["id"])
    assert worker.take_one()["data"] == "tick!"


def test_nobody_else_can_change_such_an_observer(hub: Hub, owner: Peer, worker: Peer) -> None:
    owner.function("ticks", observe=TICKS)
    observer_id = bind(owner, worker)
    other = hub.join("other", features=FEATURES)
    other.function("g")
    source, target = {"function_id": "ticks"}, {"function_id": "g"}
    (refused,) = other.send({"type": "observe", "id": observer_id, "source": source, "target": target})
    assert refused["error"]["code"] == "FORBIDDEN"
    other.post({"type": "unobserve", "id": observer_id})
    assert owner.take() == []
    emit(owner, observer_id)
    assert worker.take_one()["data"] == "tick!"


def test_behind_a_guarded_listener_functions_take_no_triggers(
    hub: Hub, worker: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    """RB-18: whether a worker may provide a type is asked of the types that it registers, and only there."""
    session = hub.router.connect(access=(Listener(rbac=Rbac()), Grants()))
    guest = hub.peers[session] = Peer(hub, session)
    guest.take()
    guest.ask(REGISTER, {"name": "guest", "pid": 1, "features": FEATURES})
    guest.function("ticks", observe=TICKS)
    worker.trigger("t", "tick")
    assert guest.take() == []
    assert "takes no triggers of type 'tick': it is behind a guarded listener" in caplog.text


def test_a_type_of_the_engine_stays_with_the_engine(
    hub: Hub, owner: Peer, worker: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    owner.function("watch", observe={"delivery": "owner", "legacy_trigger_type": "engine::functions-available"})
    worker.trigger("t", "engine::functions-available")
    assert owner.take() == []
    assert "takes no triggers of type 'engine::functions-available': the engine provides it" in caplog.text


def test_nothing_is_kept_of_what_has_gone(hub: Hub, owner: Peer, worker: Peer) -> None:
    owner.function("ticks", observe=TICKS)
    bind(owner, worker)
    owner.leave()
    assert len(hub.router.observers) == 0
    assert worker.take() == []
    worker.leave()
    assert "triggers=0" in repr(hub.router)


@pytest.mark.anyio
async def test_a_worker_of_this_package_serves_triggers_of_old_workers() -> None:
    """§16.7: it emits to the observers whose config it likes, and asks the function of one."""
    taken: list[Observer] = []
    is_taken = anyio.Event()

    async def added(observer: Observer) -> None:
        assert observer.legacy is not None
        if "every" not in observer.legacy["config"]:
            raise ObserveRejection("NO_INTERVAL", "say every how many seconds")
        taken.append(observer)
        is_taken.set()

    heard = Heard("heard")
    with fail_after(5):
        async with (
            open_engine(port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="owner")) as owner,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="old")) as old,
        ):
            hooks = {"delivery": "owner", "legacy_trigger_type": "tick", "on_observer_added": added}
            owner.register_function("ticks", no_call, observe=hooks)
            await owner.wait_ready()
            old.register_function("hear", heard.hear)
            old.register_trigger("tick", "hear", {"every": 5})
            await is_taken.wait()
            durable = {"trigger_type": "tick", "function_id": "hear", "config": {}}
            with pytest.raises(InvocationError, match="say every how many seconds"):
                await old.trigger_async("engine::register_trigger", durable)  # its answer is behind the first one's ack
            (observer,) = taken
            assert observer.emit("tick")
            assert await heard.take() == "tick"
            assert await observer.call_async("now?") == "heard"
            assert await heard.take() == "now?"


async def no_call(_data: Any) -> None:
    raise AssertionError("it only hands out events")
