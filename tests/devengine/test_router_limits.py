"""Bounds: what one connection may make the engine keep, and that nothing it sends can make the engine fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio._protocol.codec import decode
from iii_anyio._protocol.engine_session import Phase
from tests.devengine.peers import REGISTER, Hub, Peer, limit_messages, make_uuid

VOID = {"action": {"type": "void"}}
BLANK = {"namespace": " "}
ID = make_uuid(7)

# -- bounds ------------------------------------------------------------------------------------------------------


def test_a_connection_that_never_says_who_it_is_may_hold_so_many_registrations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub(max_held=3)
    worker = hub.open()
    for number in range(3):
        worker.function(f"f{number}")
    assert worker.session.is_live
    worker.function("one more")
    assert worker.session.phase is Phase.CLOSING
    assert worker.session.close is not None
    assert worker.session.close[0] == 1008
    assert not worker.session.abort
    assert worker.session.held == []
    assert "too many registrations" in caplog.text


def test_a_connection_that_never_says_who_it_is_may_hold_so_many_bytes() -> None:
    hub = Hub(max_outgoing=10_000)
    worker = hub.open()
    worker.function("f", description="x" * 20_000)
    assert worker.session.phase is Phase.CLOSING


@pytest.mark.parametrize("kind", ["functions", "triggers", "types", "services"])
def test_a_connection_may_have_so_many_registrations(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(max_registrations=3)
    worker = hub.join("greedy")

    def register(number: int) -> None:
        if kind == "functions":
            worker.function(f"f{number}")
        elif kind == "triggers":
            worker.trigger(f"t{number}", "engine::functions-available")
        elif kind == "types":
            worker.trigger_type(f"t{number}")
        else:
            worker.send({"type": "registerservice", "id": f"s{number}"})

    for number in (0, 1, 2, 2, 2):  # again is not more
        register(number)
    assert worker.session.is_live
    register(3)
    assert worker.session.close == (1008, "too many registrations")
    assert "'greedy'" in caplog.text
    assert hub.router.functions.get("default", "f0") is None


def test_a_connection_with_too_many_held_registrations_ends_once() -> None:
    hub = Hub(max_registrations=2)
    worker = hub.open()
    for number in range(9):
        worker.function(f"f{number}")
    worker.invoke(REGISTER, {"name": "greedy"})
    left = [payload for _, payload in hub.events if payload["event"] == "worker_disconnected"]
    assert left == [{"event": "worker_disconnected", "worker_id": worker.worker_id}]
    assert hub.router.functions.get("default", "f0") is None


def test_a_connection_may_take_so_many_names() -> None:
    """It keeps all of them (§6.2). One too many is free for others."""
    hub = Hub()
    worker = hub.join("name 0")
    for number in range(1, 100):
        assert worker.ask(REGISTER, {"name": f"name {number}"}) == {"success": True}
    assert worker.refusal(REGISTER, {"name": "name 100"})["code"] == "INVALID_ARGUMENTS"
    assert worker.ask(REGISTER, {"name": "name 7"}) == {"success": True}
    hub.join("name 100")


def test_a_worker_that_does_not_read_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """§3.4: it must not make the engine keep everything for it; the rest is served."""
    hub = Hub(max_outgoing=5000)
    slow, caller = hub.join("slow"), hub.join("caller")
    slow.function("f")
    del hub.peers[slow.session]  # nobody takes what waits for it
    invocation_ids = [caller.invoke("f", "x" * 1000) for _ in range(4)]
    assert slow.session.is_live
    invocation_ids.append(caller.invoke("f", "x" * 1000))
    assert (slow.session.phase, slow.session.abort) == (Phase.CLOSING, True)
    assert slow.session.outgoing == []
    assert "'slow'" in caplog.text
    answers = caller.take()
    assert [answer["invocation_id"] for answer in answers] == invocation_ids
    assert {answer["error"]["code"] for answer in answers} == {"invocation_stopped"}
    assert caller.refusal("f")["code"] == "function_not_found"


def test_reading_makes_room_again() -> None:
    hub = Hub(max_outgoing=5000)
    worker, caller = hub.join("w"), hub.join("caller")
    worker.function("f")
    for _ in range(20):
        caller.invoke("f", "x" * 1000, **VOID)
    assert worker.session.is_live
    assert len(worker.take()) == 20


def test_dropping_one_worker_may_drop_the_next() -> None:
    """Its callers are told, and one of them does not read either."""
    hub = Hub(max_outgoing=2500)
    slow, caller, other = hub.join("slow"), hub.join("caller"), hub.join("other")
    slow.function("f")
    for peer in (slow, caller):
        del hub.peers[peer.session]
    for _ in range(9):
        caller.invoke("f", "x" * 100)
    other.invoke("f", "x" * 2500)
    assert slow.session.phase is Phase.CLOSING
    assert other.take_one()["error"]["code"] == "invocation_stopped"
    for _ in range(9):
        caller.invoke("missing", "x")
    assert caller.session.phase is Phase.CLOSING
    assert "sessions=1" in repr(hub.router)


def test_a_worker_that_is_dropped_while_its_registrations_are_applied_keeps_none() -> None:
    hub = Hub(max_outgoing=1000)
    owner, worker = hub.join("owner"), hub.open()
    owner.function("taken")
    worker.take()
    for _ in range(20):
        worker.post({"type": "registerfunction", "id": "taken"})
    worker.post({"type": "registerfunction", "id": "last"})
    del hub.peers[worker.session]
    worker.invoke(REGISTER, {"name": "w"})
    assert (worker.session.phase, worker.session.abort) == (Phase.CLOSING, True)
    assert owner.refusal("last")["code"] == "function_not_found"
    assert hub.join("w").session.is_live


def test_a_worker_that_is_rejected_while_it_does_not_read_is_dropped_once() -> None:
    hub = Hub(max_outgoing=250)
    hub.join("same")
    worker = hub.open()
    del hub.peers[worker.session]
    worker.invoke(REGISTER, {"name": "same"})
    assert (worker.session.phase, worker.session.abort) == (Phase.CLOSING, True)
    left = [payload for _, payload in hub.events if payload["event"] == "worker_disconnected"]
    assert left == [{"event": "worker_disconnected", "worker_id": worker.worker_id}]


def test_an_event_too_large_for_its_listener_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    worker = hub.join("w")
    worker.function("on")
    worker.trigger("1", "engine::workers-available", "on", metadata="x" * 3000)
    limit_messages(monkeypatch, 2000)
    hub.open()
    assert worker.take() == []
    assert "payload_too_large" in caplog.text


def test_a_connection_may_have_so_many_parked_triggers() -> None:
    hub = Hub(max_parked=2)
    worker, other = hub.join("w"), hub.join("o")
    for number in range(2):
        assert worker.trigger(str(number), "nobody's") == []
    (result,) = worker.trigger("2", "nobody's")
    assert (result["id"], result["error"]["code"]) == ("2", "trigger_registration_failed")
    assert other.trigger("3", "nobody's") == []
    worker.send({"type": "unregistertrigger", "id": "0"})
    assert worker.trigger("2", "nobody's") == []
    assert [message["id"] for message in hub.join("p").trigger_type("nobody's")] == ["1", "3", "2"]


def test_refused_triggers_count_as_parked() -> None:
    hub = Hub(max_parked=2)
    worker, provider = hub.join("w"), hub.join("p")
    provider.trigger_type("t")
    for number in range(4):
        worker.trigger(str(number), "t")
        provider.accept(str(number), error={"code": "c", "message": "m"})
        assert worker.take_one()["type"] == "triggerregistrationresult"
    assert "triggers=2" in repr(hub.router)


def test_durable_triggers_without_provider_are_bounded_too() -> None:
    hub = Hub(max_parked=1)
    worker = hub.join("w")
    data = {"trigger_type": "nobody's", "function_id": "f"}
    worker.ask("engine::register_trigger", data)
    assert worker.refusal("engine::register_trigger", data)["code"] == "trigger_registration_failed"


def test_a_connection_may_have_so_many_calls_in_flight() -> None:
    hub = Hub(max_in_flight=2)
    worker, caller = hub.join("w"), hub.join("c")
    worker.function("f")
    for _ in range(2):
        caller.invoke("f")
    error = caller.refusal("f")
    assert error["code"] == "invocation_error"
    assert "2 calls in flight" in error["message"]
    first, second = worker.take()
    worker.answer(first, result=1)
    assert len(caller.take()) == 1
    caller.invoke("f")
    assert caller.take() == []
    worker.answer(second, result=1)
    assert len(caller.take()) == 1


def test_void_calls_that_are_never_answered_do_not_pile_up() -> None:
    """§7.3: the engine keeps bookkeeping for each; here not without end, and calls with an answer still work."""
    hub = Hub(max_in_flight=2)
    worker, caller = hub.join("w"), hub.join("c")
    worker.function("f")
    for _ in range(5):
        caller.invoke("f", **VOID)
    assert len(worker.take()) == 5
    assert "invocations=2" in repr(hub.router)
    caller.invoke("f")
    worker.answer(worker.take_one(), result=1)
    assert caller.take_one()["result"] == 1


def test_nothing_is_left_of_workers_that_left() -> None:
    hub = Hub()
    empty = repr(hub.router)
    provider, worker, caller = hub.join("p"), hub.join("w", namespace="blue"), hub.join("c")
    provider.trigger_type("t")
    worker.function("f")
    worker.trigger("1", "t")
    worker.trigger("2", "nobody's")
    caller.trigger("3", "t")
    provider.accept("3", error={"code": "c", "message": "m"})
    caller.invoke("f", namespace="blue")
    caller.invoke("f", namespace="blue", **VOID)
    for peer in (provider, worker, caller):
        peer.leave()
    assert repr(hub.router) == empty
    hub.join("p")
    hub.join("w", namespace="blue")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "invokefunction", "function_id": "x" * 3000, "data": 1, "invocation_id": ID},
        {"type": "invokefunction", "function_id": "f", "data": 1, "invocation_id": "x" * 3000},
        {"type": "invokefunction", "function_id": "f", "data": 1, "invocation_id": "x" * 3000, "namespace": 1},
        {"type": "invokefunction", "function_id": "x" * 3000, "data": 1, **VOID},
        {"type": "registerfunction", "id": "engine::" + "x" * 3000},
        {"type": "registertrigger", "id": "x" * 3000, "trigger_type": "t", "function_id": "f", "config": 1},
        {"type": "registertrigger", "id": "1", "trigger_type": "t", "function_id": "x" * 3000, "config": 1},
        {
            "type": "registertrigger",
            "id": "x" * 3000,
            "trigger_type": "",
            "function_id": "f",
            "config": 1,
            "namespace": "",
        },
        {"type": "unregistertrigger", "id": "x" * 3000},
        {"type": "x" * 3000},
        {"type": "reattach", "previous_worker_id": "x" * 3000, "reattach_token": "x" * 3000},
        {
            "type": "invokefunction",
            "function_id": REGISTER,
            "data": {"name": "x" * 3000},
            "invocation_id": ID,
        },
        {
            "type": "invokefunction",
            "function_id": REGISTER,
            "data": {"name": "taken", "namespace": "x" * 3000},
            "invocation_id": ID,
        },
    ],
    ids=lambda message: message["type"][:30],
)
def test_huge_ids_make_no_message_too_large_and_no_long_log_line(
    message: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever echoes an id can itself grow over 64 MiB; here the limit is 2000 bytes."""
    hub = Hub()
    provider, worker = hub.join("p"), hub.join("w", namespace="blue")
    provider.trigger_type("t")
    hub.join("taken", namespace="x" * 3000)
    unnamed = hub.open()
    unnamed.take()
    limit_messages(monkeypatch, 2000)
    for peer in (worker, unnamed):
        for answer in peer.send(message):
            assert len(json.dumps(answer)) <= 2000
    assert worker.send({"type": "ping"}) == [{"type": "pong"}]
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)


# -- anything goes -----------------------------------------------------------------------------------------------

TYPES = [
    "invokefunction",
    "invocationresult",
    "registerfunction",
    "unregisterfunction",
    "registertriggertype",
    "unregistertriggertype",
    "registertrigger",
    "unregistertrigger",
    "triggerregistrationresult",
    "registerservice",
    "reattach",
    "ping",
    "pong",
    "workerregistered",
    "observe",
]

words = st.sampled_from(["f", "g", "t", "1", "default", "blue", "", " ", "\x00", "engine::workers-available"])
functions = st.sampled_from(
    [
        "f",
        "g",
        REGISTER,
        "engine::queue::enqueue",
        "engine::register_trigger",
        "engine::workers::info",
        "engine::log::info",
    ]
)
invocation_ids = st.one_of(st.sampled_from([make_uuid(900), make_uuid(901), make_uuid(902).upper()]), words)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
actions = st.sampled_from([{"type": "void"}, {"type": "enqueue", "queue": "q"}, {"type": "later"}])
payloads = st.one_of(
    anything,
    st.fixed_dictionaries(
        {},
        optional={
            "name": words,
            "namespace": words,
            "pid": st.integers(-1, 5),
            "id": words,
            "trigger_type": words,
            "function_id": functions,
            "message": words,
            "key": words,
        },
    ),
)
plausible: dict[str, st.SearchStrategy[Any]] = {
    "id": words,
    "function_id": functions,
    "trigger_type": words,
    "namespace": words,
    "trigger_namespace": words,
    "invocation_id": invocation_ids,
    "data": payloads,
    "config": anything,
    "metadata": anything,
    "description": words,
    "result": anything,
    "error": st.one_of(anything, st.just({"code": "c", "message": "m"})),
    "action": actions,
    "traceparent": words,
    "baggage": words,
    "previous_worker_id": st.sampled_from([make_uuid(1), make_uuid(3), make_uuid(5)]),
    "reattach_token": st.sampled_from([make_uuid(2), make_uuid(4), make_uuid(6)]),
    "invocation": st.one_of(anything, st.just({"url": "u"})),
    "name": words,
}
messages = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(TYPES)}, optional=plausible),
    st.fixed_dictionaries({"type": st.sampled_from(TYPES), **{key: plausible[key] for key in ("id", "function_id")}}),
    st.fixed_dictionaries(
        {
            "type": st.just("invokefunction"),
            **{key: plausible[key] for key in ("function_id", "data", "invocation_id")},
        },
        optional={key: plausible[key] for key in ("action", "namespace", "traceparent", "metadata")},
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("registertrigger"),
            **{key: plausible[key] for key in ("id", "trigger_type", "function_id", "config")},
        },
        optional={key: plausible[key] for key in ("namespace", "trigger_namespace")},
    ),
    st.fixed_dictionaries({"type": st.just("registertriggertype"), "id": words, "description": words}),
    st.fixed_dictionaries({"type": st.just("registerfunction"), "id": functions}),
    st.dictionaries(st.sampled_from(["type", *plausible]), anything),
)
steps = st.one_of(
    messages,
    st.binary(max_size=50),
    st.sampled_from(["answer", "accept", "leave", "grace", "timers", "fire", "open", "open in process"]),
)


def check(hub: Hub, peers: list[Peer], number: int, step: Any) -> None:
    """Let one peer do one thing, and see that all that anybody receives can be read."""
    peer = peers[number % len(peers)]
    router = hub.router
    match step:
        case "answer":
            for message in [entry for entry in peer.received if entry["type"] == "invokefunction"]:
                fields = {key: message[key] for key in ("invocation_id", "function_id")}
                peer.post({"type": "invocationresult", **fields, "result": 1})
        case "accept":
            for message in [entry for entry in peer.received if entry["type"] == "registertrigger"]:
                peer.post({"type": "triggerregistrationresult", "id": message["id"]})
        case "leave":
            peer.leave()
        case "grace":
            router.grace_expired(peer.session)
        case "timers":
            for timer in router.take_timers():
                router.timer_expired(timer)
        case "fire":
            router.fire_functions_available()
        case "open" | "open in process":
            peers.append(hub.open(in_process=step != "open"))
        case bytes():
            peer.post(step)
        case _:
            peer.post(json.dumps(step))
    for session in router.take_dirty():
        texts = session.take_outgoing()
        for text in texts:
            decode(text)
        if session in hub.peers:
            hub.peers[session].received += map(json.loads, texts)


@given(st.lists(st.tuples(st.integers(0, 5), steps), max_size=40))
def test_nothing_a_worker_sends_makes_the_engine_fail_or_forget_to_forget(script: list[tuple[int, Any]]) -> None:
    """P-103, §7.5."""
    hub = Hub(max_outgoing=20_000, max_held=5, max_parked=3, max_in_flight=5)
    empty = repr(hub.router)
    peers = [hub.open(), hub.open(), hub.open()]
    for peer in peers[:2]:
        peer.invoke(REGISTER, {})
    for number, step in script:
        check(hub, peers, number, step)
    for peer in peers:
        peer.leave()
        assert peer.session.phase is Phase.GONE
    for trigger_id in list(hub.router.triggers.bindings):
        assert hub.router.triggers.unregister(trigger_id)  # durable ones belong to nobody
    for timer in hub.router.take_timers():
        hub.router.timer_expired(timer)
    assert repr(hub.router) == empty
    assert hub.router.take_dirty() == []


@given(st.binary(max_size=200))
def test_no_bytes_make_the_engine_fail(text: bytes) -> None:
    """P-103."""
    hub = Hub()
    worker = hub.join("w")
    worker.post(text)
    worker.take()
    assert worker.send({"type": "ping"}) == [{"type": "pong"}]


@pytest.mark.parametrize("depth", [126, 127, 128, 5000, 200_000])
def test_deep_nesting_is_answered_and_harmless(depth: int) -> None:
    """§4: 126 nested arrays in `data` pass."""
    hub = Hub()
    worker = hub.join("w")
    worker.function("f")
    data = "[" * depth + "]" * depth
    invocation_id = make_uuid(999)
    text = f'{{"type": "invokefunction", "function_id": "f", "invocation_id": "{invocation_id}", "data": {data}}}'
    (message,) = worker.send(text)
    assert message["invocation_id"] == invocation_id
    assert ("error" in message) == (depth > 126)
    assert worker.send({"type": "ping"}) == [{"type": "pong"}]
