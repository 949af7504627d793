"""Observers, as the engine has them: states, announcements, events, calls of owners (§16, §17)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from iii_anyio.devengine import Listener, Rbac, _activations, _observer_table
from iii_anyio.devengine._access import Grants
from tests.devengine.peers import REGISTER, Hub, Peer

FEATURES = ["observe.v1", "local-dispatch.v1", "large-messages.v1"]
VOID = {"action": {"type": "void"}}


@pytest.fixture
def hub() -> Hub:
    return Hub()


def join(hub: Hub, name: str, *functions: str, **more: Any) -> Peer:
    """A worker of 0.25 with these functions; it has read what confirms them."""
    peer = hub.join(name, features=FEATURES, **more)
    for function_id in functions:
        peer.function(function_id)
    return peer


@pytest.fixture
def owner(hub: Hub) -> Peer:
    return join(hub, "owner", "pay")


@pytest.fixture
def watcher(hub: Hub) -> Peer:
    return join(hub, "watcher", "alert")


@pytest.fixture
def caller(hub: Hub) -> Peer:
    return join(hub, "caller")


def observe(peer: Peer, observer_id: str = "o", source: Any = "pay", target: Any = "alert", **more: Any) -> Any:
    """Send an ``observe``; returns what this worker gets."""
    source = {"function_id": source} if isinstance(source, str) else source
    target = {"function_id": target} if isinstance(target, str) else target
    return peer.send({"type": "observe", "id": observer_id, "source": source, "target": target, **more})


def ack(owner: Peer, message: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Acknowledge an ``observeradded``."""
    fields = {key: message[key] for key in ("function_id", "namespace", "revision")}
    return owner.send({"type": "observerack", **fields, "id": message["observer"]["id"], **more})


def active(owner: Peer, watcher: Peer, observer_id: str = "o", **more: Any) -> None:
    """Make an observer, and have its owner acknowledge it."""
    assert observe(watcher, observer_id, **more)[0]["state"] == "pending"
    ack(owner, owner.take_one())
    assert watcher.take_one()["state"] == "active"


def states(messages: list[dict[str, Any]]) -> list[Any]:
    """State, and code of the reason."""
    return [
        (message["state"], (message.get("reason") or message.get("error") or {}).get("code"))
        for message in messages
        if message["type"] in ("observeresult", "observerstatechanged")
    ]


def run(caller: Peer, owner: Peer, data: Any = None, function_id: str = "pay", **outcome: Any) -> str:
    """Have a function called and answered; returns the invocation's id."""
    invocation_id = caller.invoke(function_id, data)
    owner.answer(owner.take_one(), **(outcome or {"result": "done"}))
    caller.take()
    return invocation_id


def expire(hub: Hub, seconds: float) -> None:
    """Let timers of exactly this length end."""
    timers = [timer for timer in hub.router.take_timers() if timer.seconds == seconds]
    assert timers
    for timer in timers:
        hub.router.timer_expired(timer)
    hub.flush()


def report(owner: Peer, *matched: str, **fields: Any) -> None:
    item = {
        "function_id": "pay",
        "namespace": "default",
        "invocation_id": "i-1",
        "matched": list(matched),
        "status": "success",
        "started_at_ms": 5,
        "duration_ms": 2.5,
        "observe_depth": 0,
        **fields,
    }
    owner.post({"type": "invocationsobserved", "items": [item]})


# -- who is told what --------------------------------------------------------------------------------------------


def test_a_registered_function_is_confirmed_to_workers_that_know_observers_only(hub: Hub) -> None:
    """P-137, P-138, §17: with permission for local calls where the worker declared that."""
    assert hub.join("old").function("a") == []
    new = hub.join("new", features=FEATURES, namespace="orders")
    (first,) = new.function("f")
    assert first == {
        "type": "functionregistered",
        "id": "f",
        "namespace": "orders",
        "revision": first["revision"],
        "local_dispatch": True,
        "observers": [],
    }
    (again,) = new.function("f")
    assert again["revision"] > first["revision"]
    (shy,) = hub.join("shy", features=["observe.v1"]).function("g")
    assert shy["local_dispatch"] is False
    assert [message["type"] for message in new.function("engine::f")] == ["registrationrejected"]


def test_functions_sent_before_the_register_call_are_confirmed_after_it(hub: Hub) -> None:
    """P-108, P-137; and those that the grace put into ``default``."""
    peer = hub.open()
    peer.take()
    assert peer.function("early") == []
    peer.invoke("engine::workers::register", {"name": "w", "features": FEATURES})
    assert [message["type"] for message in peer.take()] == ["functionregistered", "invocationresult"]
    late = hub.open()
    late.take()
    late.function("graced")
    hub.router.grace_expired(late.session)
    assert late.take() == []
    late.invoke("engine::workers::register", {"name": "l", "features": FEATURES})
    assert [message.get("id") for message in late.take()] == ["graced", None]


def test_messages_of_the_family_wait_for_the_register_call_and_need_its_declaration(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """P-137, §16.1."""
    early = hub.open()
    early.take()
    assert observe(early) == []
    early.invoke("engine::workers::register", {"name": "w", "features": FEATURES})
    assert early.take()[0]["type"] == "observeresult"
    old = hub.join("old")
    assert observe(old, "p") == []
    assert "has not declared observe.v1" in caplog.text


def test_an_observer_is_announced_and_active_when_its_owner_has_acknowledged(owner: Peer, watcher: Peer) -> None:
    """P-139, §16.3, §16.4: filters in normal form, defaults filled in."""
    filters = {"input.n": {"$gte": 2}, "$and": [{"caller.worker_name": {"$eq": "c"}}, {"$and": [{}]}]}
    (result,) = observe(watcher, source={"function_id": "pay", "filters": filters})
    assert result == {"type": "observeresult", "id": "o", "state": "pending"}
    added = owner.take_one()
    assert added == {
        "type": "observeradded",
        "function_id": "pay",
        "namespace": "default",
        "revision": added["revision"],
        "observer": {
            "id": "o",
            "args": {},
            "filters": {"$and": [{"input.n": {"$gte": 2}}, {"caller.worker_name": {"$eq": "c"}}]},
            "target": "alert",
            "capture": ["input", "output", "caller"],
            "on": "success",
        },
    }
    ack(owner, added)
    assert watcher.take_one() == {"type": "observerstatechanged", "id": "o", "state": "active", "fires": 0}
    assert ack(owner, added) == []
    assert watcher.take() == []


def test_an_acknowledgement_of_an_earlier_announcement_does_not_count(owner: Peer, watcher: Peer) -> None:
    """§16.4, G-23."""
    observe(watcher)
    added = owner.take_one()
    (confirmed,) = owner.function("pay")
    assert [observer["id"] for observer in confirmed["observers"]] == ["o"]
    ack(owner, added)
    assert watcher.take() == []
    ack(owner, added | {"revision": confirmed["revision"]})
    assert states(watcher.take()) == [("active", None)]


def test_an_observer_waits_for_its_owner_and_for_its_target(hub: Hub) -> None:
    """P-139, §16.5."""
    watcher = join(hub, "watcher")
    assert states(observe(watcher)) == [("pending", None)]
    owner = join(hub, "owner")
    (confirmed,) = owner.function("pay")
    ack(owner, confirmed | {"function_id": "pay", "observer": confirmed["observers"][0]})
    assert watcher.take() == []
    assert states(watcher.function("alert")) == [("active", None)]


def test_a_target_that_goes_suspends_and_one_that_comes_activates(owner: Peer, watcher: Peer) -> None:
    """§16.5."""
    active(owner, watcher)
    (lost,) = watcher.send({"type": "unregisterfunction", "id": "alert"})
    assert states([lost]) == [("suspended", "OBSERVER_DISCONNECTED")]
    assert "alert" in lost["reason"]["message"]
    messages = watcher.function("alert")
    assert states(messages) == [("active", None)]
    assert owner.take() == []


def test_a_source_whose_owner_needs_no_acknowledgement_is_active_at_once(hub: Hub, watcher: Peer) -> None:
    """The engine sees every call of a worker without observe.v1, and of its own functions."""
    hub.join("old").function("old::f")
    assert states(observe(watcher, "a", "old::f")) == [("active", None)]
    assert states(observe(watcher, "b", "engine::functions::list")) == [("active", None)]


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"source": {"function_id": "pay", "filters": {"input.a": 1}}}, "INVALID_FILTER"),
        ({"source": {"function_id": "pay", "filters": {"$or": []}}}, "INVALID_FILTER"),
        ({"source": {"function_id": "pay", "filters": [1]}}, "INVALID_FILTER"),
        ({"source": {"function_id": "pay", "filters": ""}}, "INVALID_FILTER"),
        ({"target": "pay"}, "SELF_TARGET"),
        ({"target": {"function_id": "pay", "namespace": "default"}}, "SELF_TARGET"),
        ({"source": {"function_id": "pay", "namespace": " "}}, "INVALID_NAMESPACE"),
        ({"source": {"function_id": "pay", "args": [1]}}, "INVALID_ARGS"),
        ({"source": {"function_id": "pay", "capture": ["inputs"]}}, "INVALID_ARGS"),
        ({"source": {"function_id": "pay", "capture": [[]]}}, "INVALID_ARGS"),
        ({"source": {"function_id": "pay", "on": "failure"}}, "INVALID_ARGS"),
        ({"source": {"function_id": "pay", "on": {}}}, "INVALID_ARGS"),
        ({"source": {"function_id": "pay", "deliver": "error"}}, "INVALID_ARGS"),
        ({"max_fires": 0}, "INVALID_ARGS"),
        ({"max_in_flight": 0}, "INVALID_ARGS"),
    ],
)
def test_what_can_never_work_is_refused(owner: Peer, watcher: Peer, changes: dict[str, Any], code: str) -> None:
    """§16.5, §16.9; the owner hears nothing of it."""
    (result,) = observe(watcher, **changes)
    assert (result["state"], result["error"]["code"]) == ("error", code)
    assert result["error"]["message"]
    assert owner.take() == []
    assert watcher.refusal("engine::observers::get", {"id": "o"})["code"] == "NOT_FOUND"


def test_a_function_of_another_namespace_is_no_self_target(owner: Peer, watcher: Peer) -> None:
    assert states(observe(watcher, target={"function_id": "pay", "namespace": "orders"})) == [("pending", None)]


def test_an_owner_can_forbid_observers(hub: Hub, watcher: Peer) -> None:
    """§16.2, and allow them later."""
    assert states(observe(watcher)) == [("pending", None)]
    owner = join(hub, "owner")
    (confirmed,) = owner.function("pay", observe={"allow": False})
    assert confirmed["observers"] == []
    assert states(watcher.take()) == [("error", "NOT_OBSERVABLE")]
    assert states(observe(watcher, "p")) == [("error", "NOT_OBSERVABLE")]
    (confirmed,) = owner.function("pay")
    assert [observer["id"] for observer in confirmed["observers"]] == ["o", "p"]
    assert states(watcher.take()) == [("pending", None), ("pending", None)]


def test_args_are_checked_against_the_format_of_an_owner_delivered_function(hub: Hub, watcher: Peer) -> None:
    """§16.5: before the owner hears of it, whoever comes first."""
    schema = {"type": "object", "required": ["expression"], "properties": {"expression": {"type": "string"}}}
    observe(watcher, "early", {"function_id": "tick", "args": {"expression": 1}})
    owner = join(hub, "owner")
    (confirmed,) = owner.function("tick", observe={"delivery": "owner", "args_format": schema})
    assert confirmed["observers"] == []
    assert states(watcher.take()) == [("error", "INVALID_ARGS")]
    (result,) = observe(watcher, "late", {"function_id": "tick"})
    assert result["error"] == {"code": "INVALID_ARGS", "message": "args: $: 'expression' is a required property"}
    args = {"expression": "*/5"}
    assert states(observe(watcher, "good", {"function_id": "tick", "args": args})) == [("pending", None)]
    assert owner.take_one()["observer"]["args"] == args


def test_what_has_no_effect_is_a_warning(hub: Hub, owner: Peer, watcher: Peer) -> None:
    (result,) = observe(watcher, source={"function_id": "pay", "args": {"a": 1}})
    assert result["warnings"] == ["args: nobody looks at them, for the function has auto delivery"]
    owner.function("tick", observe={"delivery": "owner"})
    (result,) = observe(watcher, "p", {"function_id": "tick", "on": "error"})
    assert "on: " in result["warnings"][0]


def test_an_owner_refuses_early_and_late(owner: Peer, watcher: Peer) -> None:
    """§16.4: and the observer is taken from it; a registration of the function starts over."""
    observe(watcher)
    added = owner.take_one()
    error = {"code": "INVALID_CRON_EXPRESSION", "message": "bad day"}
    (removed,) = ack(owner, added, error=error)
    assert (removed["type"], removed["id"]) == ("observerremoved", "o")
    assert removed["revision"] > added["revision"]
    assert watcher.take_one() == {
        "type": "observerstatechanged", "id": "o", "state": "error", "fires": 0, "reason": error,
    }  # fmt: skip
    assert ack(owner, added, error=error) == []
    (confirmed,) = owner.function("pay")
    assert states(watcher.take()) == [("pending", None)]
    again = {"function_id": "pay", "namespace": "default", "revision": confirmed["revision"], "observer": {"id": "o"}}
    ack(owner, again)
    assert states(watcher.take()) == [("active", None)]
    assert ack(owner, again, error=error)[0]["type"] == "observerremoved"
    assert states(watcher.take()) == [("error", "INVALID_CRON_EXPRESSION")]


def test_only_the_owner_acknowledges(hub: Hub, owner: Peer, watcher: Peer) -> None:
    observe(watcher)
    added = owner.take_one()
    stranger = join(hub, "stranger", "other")
    ack(stranger, added)
    ack(stranger, added | {"function_id": "other"})
    ack(owner, added | {"observer": {"id": "nobody"}})
    assert watcher.take() == []


# -- events that the engine sees ---------------------------------------------------------------------------------


def test_a_call_that_matches_becomes_an_activation(hub: Hub, owner: Peer, watcher: Peer, caller: Peer) -> None:
    """§16.6: after the caller's answer, with the data as it was sent."""
    active(owner, watcher, source={"function_id": "pay", "filters": {"input.n": {"$gte": 2}}}, metadata={"team": "a"})
    run(caller, owner, {"n": 1})
    assert watcher.take() == []
    invocation_id = run(caller, owner, {"n": 2}, result={"ok": True})
    activation = watcher.take_one()
    envelope = activation["data"]
    assert activation == {
        "type": "invokefunction",
        "function_id": "alert",
        "invocation_id": activation["invocation_id"],
        "data": envelope,
        "metadata": {"team": "a"},
        "caller": {"worker_name": "iii-engine", "function_id": "pay", "invocation_id": invocation_id},
        "observe_depth": 1,
        "activation": {"observer_id": "o", "activation_id": envelope["activation_id"]},
    }
    assert envelope == {
        "observer_id": "o",
        "activation_id": envelope["activation_id"],
        "function_id": "pay",
        "namespace": "default",
        "invocation_id": invocation_id,
        "status": "success",
        "started_at_ms": envelope["started_at_ms"],
        "duration_ms": envelope["duration_ms"],
        "input": {"n": 2},
        "output": {"ok": True},
        "caller": {"worker_id": caller.worker_id, "worker_name": "caller"},
    }
    assert envelope["duration_ms"] >= 0
    assert hub.clock - 100 < envelope["started_at_ms"] <= hub.clock
    assert watcher.answer(activation, result=None) == []


def test_a_void_call_is_observed_and_null_is_a_value(owner: Peer, watcher: Peer, caller: Peer) -> None:
    active(owner, watcher, source={"function_id": "pay", "capture": ["output", "metadata"]})
    caller.invoke("pay", None, **VOID)
    owner.answer(owner.take_one())
    assert watcher.take_one()["data"]["output"] is None


@pytest.mark.parametrize(
    ("on", "expected"),
    [(None, ["success"]), ("success", ["success"]), ("error", ["error"]), ("complete", ["success", "error"])],
)
def test_an_observer_wants_successes_errors_or_both(
    owner: Peer, watcher: Peer, caller: Peer, on: str | None, expected: list[str]
) -> None:
    """§16.5."""
    active(owner, watcher, source={"function_id": "pay", "capture": ["error", "output"], "on": on})
    run(caller, owner, result=1)
    run(caller, owner, error={"code": "c", "message": "m"})
    envelopes = [message["data"] for message in watcher.take()]
    assert [envelope["status"] for envelope in envelopes] == expected
    for envelope in envelopes:
        part = {"error": {"code": "c", "message": "m"}} if envelope["status"] == "error" else {"output": 1}
        assert {key: envelope[key] for key in ("input", "output", "error", "caller") if key in envelope} == part


@pytest.mark.parametrize(("deliver", "data"), [("input", {"n": 1}), ("output", "done")])
def test_a_part_can_be_delivered_bare(owner: Peer, watcher: Peer, caller: Peer, deliver: str, data: Any) -> None:
    """§16.6: an owner that reports must capture it, whatever else it captures."""
    observe(watcher, source={"function_id": "pay", "deliver": deliver, "capture": []})
    added = owner.take_one()
    assert added["observer"]["capture"] == [deliver]
    ack(owner, added)
    watcher.take()
    run(caller, owner, {"n": 1})
    activation = watcher.take_one()
    assert activation["data"] == data
    assert activation["activation"]["observer_id"] == "o"


def test_a_worker_that_does_not_know_observers_can_own_and_be_a_target(hub: Hub, watcher: Peer, caller: Peer) -> None:
    """§16.1: it gets no field of the family."""
    old = hub.join("old")
    old.function("old::source")
    old.function("old::target")
    observe(watcher, source="old::source", target="old::target")
    caller.post(
        {"type": "invokefunction", "function_id": "old::source", "data": 1, "observe_depth": 2, "caller": {}, **VOID}
    )
    call = old.take_one()
    assert call.keys() == {"type", "function_id", "invocation_id", "data"}
    (activation,) = old.answer(call, result=2)
    assert activation.keys() == {"type", "function_id", "invocation_id", "data"}
    assert activation["data"]["output"] == 2


def test_the_engine_says_who_calls_and_passes_on_what_led_to_it(owner: Peer, caller: Peer) -> None:
    """P-140, §5.3: what a worker claims to be is not believed; ``parent`` is one level."""
    claimed = {
        "function_id": "run",
        "invocation_id": "i",
        "worker_id": "forged",
        "more": 1,
        "parent": {"function_id": "p", "worker_id": "w", "parent": {"function_id": "pp"}},
    }
    caller.invoke("pay", 1, caller=claimed, observe_depth=3, activation=None)
    call = owner.take_one()
    assert call["caller"] == {
        "worker_id": caller.worker_id,
        "worker_name": "caller",
        "function_id": "run",
        "invocation_id": "i",
        "parent": {"function_id": "p", "worker_id": "w"},
    }
    assert call["observe_depth"] == 3
    assert "activation" not in call
    caller.invoke("pay", 1)
    call = owner.take_one()
    assert call["caller"] == {"worker_id": caller.worker_id, "worker_name": "caller"}
    assert "observe_depth" not in call


def test_the_ninth_hop_is_dropped(owner: Peer, watcher: Peer, caller: Peer) -> None:
    """P-140, §16.6."""
    active(owner, watcher)
    for depth in (7, 8):
        caller.invoke("pay", depth, observe_depth=depth)
        owner.answer(owner.take_one(), result=None)
    caller.take()
    assert [message["observe_depth"] for message in watcher.take()] == [8]
    assert watcher.ask("engine::observers::get", {"id": "o"})["dropped"] == {"LOOP_GUARD": 1}


def test_observers_of_targets_get_activations_as_events(hub: Hub, owner: Peer, watcher: Peer, caller: Peer) -> None:
    """§16: every function can be observed."""
    second = join(hub, "second", "second")
    active(owner, watcher)
    active(watcher, second, "p", source="alert", target="second")
    invocation_id = run(caller, owner, 1)
    activation = watcher.take_one()
    watcher.answer(activation, result="seen")
    event = second.take_one()
    assert event["observe_depth"] == 2
    assert event["data"]["input"]["invocation_id"] == invocation_id
    assert event["data"]["caller"] == activation["caller"]


def test_the_set_that_was_active_when_the_call_began_counts(owner: Peer, watcher: Peer, caller: Peer) -> None:
    """P-64; but one that has been removed meanwhile gets nothing."""
    active(owner, watcher, "gone")
    caller.invoke("pay", 1)
    call = owner.take_one()
    active(owner, watcher, "late")
    watcher.send({"type": "unobserve", "id": "gone"})
    owner.take()
    owner.answer(call, result=1)
    assert watcher.take() == []


def test_what_becomes_of_a_call_whose_caller_or_callee_leaves_is_observed(
    hub: Hub, owner: Peer, watcher: Peer, caller: Peer
) -> None:
    """§7.5: the callee is told nothing, so there is an answer."""
    active(owner, watcher, source={"function_id": "pay", "on": "complete", "capture": ["output", "error"]})
    caller.invoke("pay", 1)
    call = owner.take_one()
    caller.leave()
    owner.answer(call, result="late")
    assert watcher.take_one()["data"]["output"] == "late"
    join(hub, "again").invoke("pay", 1)
    owner.leave()
    lost, event = watcher.take()
    assert states([lost]) == [("suspended", "OBSERVER_DISCONNECTED")]
    assert event["data"]["error"]["code"] == "invocation_stopped"
    assert len(hub.router.answers.open) == 2  # what the target has not answered


def test_functions_of_the_engine_are_observed(watcher: Peer, caller: Peer) -> None:
    observe(watcher, source={"function_id": "engine::channels::create", "on": "complete"})
    result = caller.ask("engine::channels::create", {"buffer_size": 2})
    event = watcher.take_one()["data"]
    assert (event["input"], event["output"]) == ({"buffer_size": 2}, result)
    caller.refusal("engine::channels::create", {"buffer_size": "x"})
    assert watcher.take_one()["data"]["status"] == "error"


def test_a_function_of_the_engine_can_be_a_target(hub: Hub, owner: Peer, watcher: Peer, caller: Peer) -> None:
    active(owner, watcher, source={"function_id": "pay", "deliver": "input"}, target="engine::log::info", max_fires=1)
    run(caller, owner, {"message": "paid"})
    assert states(watcher.take()) == [("disposed", "MAX_FIRES")]
    (log,) = watcher.ask("engine::logs::list")["logs"]
    assert log["body"] == "paid"


# -- limits ------------------------------------------------------------------------------------------------------


def test_an_observer_ends_after_max_fires(owner: Peer, watcher: Peer, caller: Peer) -> None:
    """§16.9: the owner may forget it."""
    active(owner, watcher, max_fires=2)
    run(caller, owner, 1)
    assert watcher.take_one()["type"] == "invokefunction"
    caller.invoke("pay", 2)
    (removed,) = owner.answer(owner.take_one(), result=1)
    last, disposed = watcher.take()
    assert last["type"] == "invokefunction"
    assert (disposed["state"], disposed["fires"], disposed["reason"]["code"]) == ("disposed", 2, "MAX_FIRES")
    assert removed["type"] == "observerremoved"
    run(caller, owner, 3)
    assert watcher.take() == []


def test_an_observer_expires(hub: Hub, owner: Peer, watcher: Peer) -> None:
    """§16.9; announced again, it does not live longer."""
    active(owner, watcher, expires_in_ms=600_000)
    observe(watcher, expires_in_ms=600_000)
    expire(hub, 600.0)
    assert states(watcher.take()) == [("disposed", "EXPIRED")]
    assert owner.take_one()["type"] == "observerremoved"
    observe(watcher, "q", expires_in_ms=10**15)
    assert hub.router.take_timers() == []


def test_events_wait_while_max_in_flight_are_at_the_target(
    owner: Peer, watcher: Peer, caller: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """§16.5: a bounded number of them; the newest is dropped and counted."""
    monkeypatch.setattr(_activations, "MAX_WAITING", 2)
    active(owner, watcher, max_in_flight=1, source={"function_id": "pay", "deliver": "input"})
    for number in range(5):
        run(caller, owner, number)
    first = watcher.take_one()
    assert first["data"] == 0
    assert watcher.ask("engine::observers::get", {"id": "o"})["dropped"] == {"BUFFER_FULL": 2}
    assert caplog.text.count("BUFFER_FULL") == 1
    (second,) = watcher.answer(first, error={"code": "c", "message": "m"})
    assert second["data"] == 1
    (third,) = watcher.answer(second, result=1)
    assert third["data"] == 2
    assert watcher.answer(third, result=1) == []


def test_large_events_do_not_wait(owner: Peer, watcher: Peer, caller: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_activations, "MAX_WAITING_BYTES", 100)
    active(owner, watcher, max_in_flight=1)
    run(caller, owner, 1)
    run(caller, owner, "x" * 100)
    first = watcher.take_one()
    assert watcher.answer(first, result=1) == []
    assert watcher.ask("engine::observers::get", {"id": "o"})["dropped"] == {"BUFFER_FULL": 1}


def test_what_a_lost_target_had_in_flight_makes_room(hub: Hub, owner: Peer, watcher: Peer, caller: Peer) -> None:
    target = join(hub, "target", "there")
    active(owner, watcher, target="there", max_in_flight=1)
    run(caller, owner, 1)
    target.leave()
    join(hub, "target", "there")
    watcher.take()
    run(caller, owner, 2)
    assert watcher.ask("engine::observers::get", {"id": "o"})["fires"] == 2


def test_a_worker_may_have_so_many_observers(owner: Peer, watcher: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_observer_table, "MAX_OF_WORKER", 2)
    for name in ("a", "b"):
        assert states(observe(watcher, name)) == [("pending", None)]
    (result,) = observe(watcher, "c")
    assert result["error"] == {"code": "FORBIDDEN", "message": "this worker has 2 observers; dispose of some"}
    assert states(observe(watcher, "b")) == [("pending", None)]
    watcher.send({"type": "unobserve", "id": "a"})
    assert states(observe(watcher, "c")) == [("pending", None)]


# -- observers that are announced again --------------------------------------------------------------------------


def test_an_observer_announced_again_is_the_same_one(owner: Peer, watcher: Peer) -> None:
    """§16.5."""
    active(owner, watcher)
    assert states(observe(watcher)) == [("active", None)]
    assert owner.take() == []


def test_another_observer_under_the_same_id_takes_its_place(owner: Peer, watcher: Peer) -> None:
    active(owner, watcher)
    assert states(observe(watcher, source={"function_id": "pay", "on": "error"})) == [("pending", None)]
    removed, added = owner.take()
    assert (removed["type"], added["type"]) == ("observerremoved", "observeradded")
    assert removed["revision"] < added["revision"]
    (result,) = observe(watcher, target="pay")  # and one that is refused ends it
    assert result["error"]["code"] == "SELF_TARGET"
    assert owner.take_one()["type"] == "observerremoved"


def test_true_is_not_1_and_no_more_than_that_is_compared(owner: Peer, watcher: Peer) -> None:
    for value, expected in ((1, ["observeradded"]), (1, []), (True, ["observerremoved", "observeradded"])):
        observe(watcher, source={"function_id": "pay", "args": {"a": value}})
        assert [message["type"] for message in owner.take()] == expected


def test_an_observer_is_its_workers(hub: Hub, owner: Peer, watcher: Peer) -> None:
    active(owner, watcher)
    stranger = join(hub, "stranger")
    (result,) = observe(stranger)
    assert result["error"]["code"] == "FORBIDDEN"
    assert stranger.send({"type": "unobserve", "id": "o"}) == []
    assert stranger.send({"type": "unobserve", "id": "unknown"}) == []
    assert watcher.ask("engine::observers::get", {"id": "o"})["state"] == "active"


def test_unobserve_ends_an_observer(owner: Peer, watcher: Peer) -> None:
    """§16.9."""
    active(owner, watcher)
    (message,) = watcher.send({"type": "unobserve", "id": "o"})
    assert states([message]) == [("disposed", "UNOBSERVED")]
    assert owner.take_one()["type"] == "observerremoved"


def test_a_worker_that_comes_back_goes_on_with_its_observers(
    hub: Hub, owner: Peer, watcher: Peer, caller: Peer
) -> None:
    """P-139: its owner notices nothing; what happens meanwhile is not delivered."""
    active(owner, watcher, max_fires=2)
    run(caller, owner, 1)
    watcher.leave()
    run(caller, owner, "meanwhile")
    assert owner.take() == []
    back = join(hub, "watcher", "alert")
    (result,) = observe(back, max_fires=2)
    assert states([result]) == [("active", None)]
    caller.invoke("pay", 2)
    owner.answer(owner.take_one(), result=2)
    activation, disposed = back.take()
    assert activation["data"]["input"] == 2
    assert disposed["fires"] == 2
    hub.router.take_timers()


def test_after_30_seconds_the_observers_of_a_lost_worker_are_gone(hub: Hub, owner: Peer, watcher: Peer) -> None:
    """P-139."""
    active(owner, watcher)
    watcher.leave()
    assert owner.take() == []
    expire(hub, 30.0)
    assert owner.take_one()["type"] == "observerremoved"
    assert len(hub.router.observers) == 0


def test_the_30_seconds_of_an_earlier_departure_do_not_count(hub: Hub, owner: Peer, watcher: Peer) -> None:
    active(owner, watcher)
    watcher.leave()
    first = hub.router.take_timers()
    back = join(hub, "watcher", "alert")
    observe(back)
    back.leave()
    for timer in first:
        hub.router.timer_expired(timer)
    assert owner.take() == []
    expire(hub, 30.0)
    assert owner.take_one()["type"] == "observerremoved"


def test_one_that_ended_while_its_worker_was_away_is_reported_once(hub: Hub, owner: Peer, watcher: Peer) -> None:
    active(owner, watcher, expires_in_ms=1000)
    watcher.leave()
    expire(hub, 1.0)
    assert owner.take_one()["type"] == "observerremoved"
    back = join(hub, "watcher", "alert")
    assert states(observe(back, expires_in_ms=1000)) == [("disposed", "EXPIRED")]
    assert states(observe(back, expires_in_ms=1000)) == [("pending", None)]
    back.leave()
    expire(hub, 1.0)
    last = join(hub, "watcher")
    assert last.send({"type": "unobserve", "id": "o"}) == []
    assert len(hub.router.observers) == 0


def test_an_observer_disposed_offline_is_removed_by_the_next_connection(hub: Hub, owner: Peer, watcher: Peer) -> None:
    """P-60."""
    active(owner, watcher)
    watcher.leave()
    back = join(hub, "watcher")
    back.send({"type": "unobserve", "id": "o"})
    assert owner.take_one()["type"] == "observerremoved"
    assert len(hub.router.observers) == 0


def test_an_owner_that_comes_back_is_asked_again(hub: Hub, owner: Peer, watcher: Peer, caller: Peer) -> None:
    """P-138, P-139."""
    active(owner, watcher)
    owner.leave()
    (lost,) = watcher.take()
    assert states([lost]) == [("suspended", "OBSERVER_DISCONNECTED")]
    back = hub.join("owner", features=FEATURES)
    (confirmed,) = back.function("pay")
    assert [observer["id"] for observer in confirmed["observers"]] == ["o"]
    run(caller, back, "before the acknowledgement")
    assert watcher.take() == []
    ack(
        back, {"function_id": "pay", "namespace": "default", "revision": confirmed["revision"], "observer": {"id": "o"}}
    )
    assert states(watcher.take()) == [("active", None)]
    run(caller, back, 1)
    assert watcher.take_one()["data"]["input"] == 1


# -- reports of owners -------------------------------------------------------------------------------------------


def test_reported_invocations_become_activations(owner: Peer, watcher: Peer) -> None:
    """§16.8: an envelope like that of a routed call, of the parts that each observer captures."""
    active(owner, watcher, "a", source={"function_id": "pay", "capture": ["input"]})
    active(owner, watcher, "b", source={"function_id": "pay", "capture": ["input", "output", "error", "metadata"]})
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    report(owner, "a", "b", "b", "unknown", input={"n": 1}, output=None, observe_depth=2, **trace)
    one, two = watcher.take()
    assert one["data"] == {
        "observer_id": "a",
        "activation_id": one["activation"]["activation_id"],
        "function_id": "pay",
        "namespace": "default",
        "invocation_id": "i-1",
        "status": "success",
        "started_at_ms": 5,
        "duration_ms": 2.5,
        "input": {"n": 1},
    }
    assert two["data"]["output"] is None
    assert one["observe_depth"] == two["observe_depth"] == 3
    assert one["caller"] == {"worker_name": "iii-engine", "function_id": "pay", "invocation_id": "i-1"}
    assert one["traceparent"] == trace["traceparent"]


def test_events_of_an_owner_are_delivered_and_its_calls_are_none(hub: Hub, watcher: Peer, caller: Peer) -> None:
    """§16.2, §16.7."""
    owner = join(hub, "owner")
    owner.function("pay", observe={"delivery": "owner"})
    active(owner, watcher)
    run(caller, owner, 1)
    assert watcher.take() == []
    report(owner, "o", input="tick", duration_ms=0)
    assert watcher.take_one()["data"]["input"] == "tick"


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"function_id": 1},
        {"function_id": "other", "invocation_id": "i", "matched": ["o"]},
        {"function_id": "pay", "matched": ["o"]},
        {"function_id": "pay", "invocation_id": "i", "matched": "o"},
        {"function_id": "pay", "invocation_id": "i", "matched": [["o"], 1]},
    ],
)
def test_a_report_that_cannot_be_read_is_dropped_alone(owner: Peer, watcher: Peer, item: dict[str, Any]) -> None:
    active(owner, watcher)
    good = {"function_id": "pay", "invocation_id": "good", "matched": ["o"], "caller": 7, "duration_ms": "x"}
    owner.post({"type": "invocationsobserved", "items": [item, good]})
    assert watcher.take_one()["data"]["invocation_id"] == "good"


def test_reports_are_taken_from_the_owner_only(hub: Hub, owner: Peer, watcher: Peer) -> None:
    active(owner, watcher)
    report(join(hub, "stranger", "other"), "o")
    report(join(hub, "stranger-2", "other-2"), "o", function_id="other-2")
    assert watcher.take() == []


def test_local_calls_are_counted_like_others(hub: Hub, owner: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """§16.8: and what the owner dropped is logged."""
    rows = [{"function_id": "pay", "count": 37, "errors": 2, "duration_ms_sum": 15.5}, {"function_id": "other"}, {}]
    dropped = [{"function_id": "pay", "reason": "BUFFER_FULL", "count": 12}, {}]
    owner.post({"type": "localinvocationstats", "window_ms": 1, "functions": rows, "dropped_reports": dropped})
    assert hub.router.telemetry.calls.by_function["pay"] == 37
    assert hub.router.telemetry.calls.deferred == 37
    assert "has dropped 12 reports about 'pay': 'BUFFER_FULL'" in caplog.text


# -- calls of owners ---------------------------------------------------------------------------------------------


@pytest.fixture
def ticker(hub: Hub, watcher: Peer) -> Peer:
    """The owner of ``tick``, observed by ``o``, whose target is in a namespace of its own."""
    owner = join(hub, "ticker")
    owner.function("tick", observe={"delivery": "owner"})
    target = hub.join("far", features=FEATURES, namespace="far")
    target.function("alert")
    hub.far = target  # type: ignore[attr-defined]
    where = {"function_id": "alert", "namespace": "far"}
    active(owner, watcher, source="tick", target=where, metadata={"team": "a"})
    return owner


def test_an_owner_calls_the_target_of_an_observer(hub: Hub, ticker: Peer, watcher: Peer) -> None:
    """§16.7: without namespace; the answer is the owner's."""
    far: Peer = hub.far  # type: ignore[attr-defined]
    invocation_id = ticker.invoke(
        "alert", {"n": 1}, activation={"observer_id": "o"}, caller={"function_id": "tick", "invocation_id": "i"}
    )
    call = far.take_one()
    assert call == {
        "type": "invokefunction",
        "function_id": "alert",
        "invocation_id": invocation_id,
        "data": {"n": 1},
        "metadata": {"team": "a"},
        "caller": {"worker_name": "iii-engine", "function_id": "tick", "invocation_id": "i"},
        "observe_depth": 1,
        "activation": {"observer_id": "o", "activation_id": call["activation"]["activation_id"]},
    }
    far.answer(call, result="yes")
    assert ticker.take_one()["result"] == "yes"
    ticker.invoke("alert", 1, activation={"observer_id": "o"})
    far.answer(far.take_one(), error={"code": "sold_out", "message": "m"})
    assert ticker.take_one()["error"] == {"code": "sold_out", "message": "m"}
    assert watcher.ask("engine::observers::get", {"id": "o"})["fires"] == 2


def test_a_call_for_an_observer_that_is_not_active_is_answered(hub: Hub, ticker: Peer, watcher: Peer) -> None:
    """§16.7."""
    for observer_id in ("unknown", 7, None):
        error = ticker.refusal("alert", 1, activation={"observer_id": observer_id})
        assert error["code"] == "OBSERVER_NOT_ACTIVE"
    assert watcher.refusal("alert", 1, activation={"observer_id": "o"})["code"] == "OBSERVER_NOT_ACTIVE"
    assert ticker.refusal("alert", 1, activation={"observer_id": "o"}, observe_depth=8)["code"] == "LOOP_GUARD"
    hub.far.leave()  # type: ignore[attr-defined]
    assert ticker.refusal("alert", 1, activation={"observer_id": "o"})["code"] == "OBSERVER_NOT_ACTIVE"


def test_calls_wait_too_and_are_answered_when_the_observer_ends(hub: Hub, watcher: Peer) -> None:
    """Nobody waits for ever."""
    owner = join(hub, "ticker")
    owner.function("tick", observe={"delivery": "owner"})
    active(owner, watcher, source="tick", max_in_flight=1)
    first = owner.invoke("alert", 1, activation={"observer_id": "o"})
    second = owner.invoke("alert", 2, activation={"observer_id": "o"})
    third = owner.invoke("alert", 3, activation={"observer_id": "o"})
    (next_call,) = watcher.answer(watcher.take_one(), result="a")
    assert owner.take_one()["invocation_id"] == first
    assert (next_call["invocation_id"], next_call["data"]) == (second, 2)
    watcher.send({"type": "unobserve", "id": "o"})
    removed, refused = owner.take()
    assert removed["type"] == "observerremoved"
    assert (refused["invocation_id"], refused["error"]["code"]) == (third, "OBSERVER_NOT_ACTIVE")
    watcher.answer(next_call, result="b")
    assert owner.take_one()["result"] == "b"


# -- what nobody must lose ---------------------------------------------------------------------------------------


def test_nothing_is_kept_of_observers_and_workers_that_have_gone(hub: Hub, owner: Peer, watcher: Peer) -> None:
    active(owner, watcher, "a")
    active(owner, watcher, "b", max_in_flight=1)
    report(owner, "a", "b")
    for peer in (watcher, owner):
        peer.leave()
    expire(hub, 30.0)
    left = {name: len(value) for name, value in vars(hub.router.observers.table).items() if isinstance(value, dict)}
    assert set(left.values()) == {0}, left
    assert len(hub.router.answers.open) == 0


def test_log_lines_stay_short(owner: Peer, watcher: Peer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    report(owner, "o", function_id="x" * 100_000)
    owner.post(
        {
            "type": "localinvocationstats",
            "window_ms": 1,
            "functions": [],
            "dropped_reports": [{"function_id": "y" * 100_000, "reason": "z" * 100_000, "count": True}],
        }
    )
    assert caplog.records
    assert max(len(record.getMessage()) for record in caplog.records) < 1000


# -- behind a guarded listener -----------------------------------------------------------------------------------


@pytest.fixture
def guest(hub: Hub) -> Peer:
    """A worker whose functions get a prefix that it does not know of."""
    listener = Listener(rbac=Rbac(expose_functions=['match("open::*")']))
    grants = Grants(function_registration_prefix="tenant")
    session = hub.router.connect(ip_address="127.0.0.1", access=(listener, grants))
    peer = hub.peers[session] = Peer(hub, session)
    peer.take()
    assert peer.ask(REGISTER, {"name": "guest", "features": FEATURES}) == {"success": True}
    return peer


def test_a_guarded_owner_is_spoken_to_in_its_own_ids(hub: Hub, guest: Peer, watcher: Peer, caller: Peer) -> None:
    """RB-23; its calls all go through the engine, where they are guarded."""
    (confirmed,) = guest.function("f")
    assert (confirmed["id"], confirmed["local_dispatch"]) == ("f", False)
    observe(watcher, source="tenant::f")
    added = guest.take_one()
    assert added["function_id"] == "f"
    ack(guest, added)
    assert states(watcher.take()) == [("active", None)]
    run(caller, guest, 1, "tenant::f")
    assert watcher.take_one()["data"]["function_id"] == "tenant::f"
    report(guest, "o", function_id="f", input=2)
    assert watcher.take_one()["data"]["input"] == 2
    watcher.send({"type": "unobserve", "id": "o"})
    assert guest.take_one()["function_id"] == "f"


def test_a_guest_observes_what_it_may_call_with_a_function_of_its_own(hub: Hub, guest: Peer, caller: Peer) -> None:
    """§16.9: not the engine's own functions, whose answers hold keys."""
    owner = join(hub, "owner", "open::f", "secret::f")
    for function_id in ("note", "mine"):
        guest.function(function_id)
    for source, target in (
        ("secret::f", "note"),
        ("open::f", "secret::f"),
        ("engine::channels::create", "note"),
        ("nobody::has", "note"),
    ):
        assert states(observe(guest, "x", source, target)) == [("error", "FORBIDDEN")]
    assert states(observe(guest, "x", "mine", "note")[-1:]) == [("pending", None)]
    assert states(observe(guest, "s", "mine", "tenant::mine")) == [("error", "SELF_TARGET")]
    active(owner, guest, source="open::f", target="note")
    run(caller, owner, 1, "open::f")
    activation = guest.take_one()
    assert (activation["function_id"], activation["data"]["function_id"]) == ("note", "open::f")
    assert guest.refusal("engine::observers::get", {"id": "o"})["code"] == "FORBIDDEN"
