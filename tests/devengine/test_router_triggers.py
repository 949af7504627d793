"""Trigger types and bindings (§9)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.devengine.peers import REGISTER, Hub, Peer

REGISTER_TRIGGER = "engine::register_trigger"
UNREGISTER_TRIGGER = "engine::unregister_trigger"
REFUSAL = {"code": "trigger_registration_failed", "message": "cannot bind"}


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def provider(hub: Hub) -> Peer:
    worker = hub.join("rec-tt")
    worker.trigger_type("rec-custom")
    return worker


@pytest.fixture
def registrant(hub: Hub) -> Peer:
    return hub.join("rec-tt2")


def listed(peer: Peer) -> list[str]:
    """Ids of the triggers that count as live."""
    return [row["id"] for row in peer.ask("engine::registered-triggers::list")["registered_triggers"]]


# -- forwarding --------------------------------------------------------------------------------------------------


def test_a_trigger_is_forwarded_to_the_provider_and_success_is_silent(provider: Peer, registrant: Peer) -> None:
    """P-127, T-1, transcript `trigger-type`."""
    assert registrant.trigger("3d61", "rec-custom", "rec::tt", config={"a": 1}, metadata={"m": 1}) == []
    assert provider.take_one() == {
        "type": "registertrigger",
        "id": "3d61",
        "trigger_type": "rec-custom",
        "function_id": "rec::tt",
        "config": {"a": 1},
        "metadata": {"m": 1},
    }
    assert provider.accept("3d61", trigger_type="rec-custom", function_id="rec::tt") == []
    assert registrant.take() == []
    assert listed(registrant) == ["3d61"]


def test_a_refused_trigger_is_reported_to_the_registrant_only_and_parked(
    hub: Hub, provider: Peer, registrant: Peer
) -> None:
    """P-127, T-2, E-24, transcript `trigger-type`."""
    other = hub.join("other")
    registrant.trigger("b6a3", "rec-custom", "rec::tt")
    provider.take()
    assert listed(registrant) == ["b6a3"]  # live before the answer (§9.1 step 5)
    assert provider.accept("b6a3", error=REFUSAL) == []
    assert registrant.take_one() == {
        "type": "triggerregistrationresult",
        "id": "b6a3",
        "trigger_type": "rec-custom",
        "function_id": "rec::tt",
        "error": REFUSAL,
    }
    assert other.take() == []
    assert listed(registrant) == []


def test_an_answer_is_taken_from_the_provider_only(hub: Hub, provider: Peer, registrant: Peer) -> None:
    """P-127."""
    registrant.trigger("1", "rec-custom")
    provider.take()
    hub.join("third").accept("1", error=REFUSAL)
    assert registrant.accept("1", error=REFUSAL) == []
    assert provider.accept("unknown", error=REFUSAL) == []
    assert listed(registrant) == ["1"]


def test_namespaces_are_forwarded_unless_they_are_default(hub: Hub, registrant: Peer) -> None:
    """P-127, §9.1 step 3."""
    provider = hub.join("p", namespace="orders")
    provider.trigger_type("t")
    registrant.trigger("1", "t", namespace="blue", trigger_namespace="orders")
    forwarded = provider.take_one()
    assert (forwarded["namespace"], forwarded["trigger_namespace"]) == ("blue", "orders")
    registrant.trigger("2", "t", namespace="default", trigger_namespace="orders")
    assert "namespace" not in provider.take_one()


def test_a_registrants_own_namespace_is_not_its_triggers(hub: Hub, provider: Peer) -> None:
    """T-10: the target is looked up in the message's namespace, else in default."""
    hub.join("r", namespace="blue").trigger("1", "rec-custom")
    assert "namespace" not in provider.take_one()


@pytest.mark.parametrize("field", ["namespace", "trigger_namespace"])
def test_a_blank_namespace_is_refused(provider: Peer, registrant: Peer, field: str) -> None:
    """§8."""
    (result,) = registrant.trigger("1", "rec-custom", **{field: " "})
    assert (result["type"], result["error"]["code"]) == ("triggerregistrationresult", "INVALID_NAMESPACE")
    assert provider.take() == []


def test_null_metadata_is_none(provider: Peer, registrant: Peer) -> None:
    """§4.1; a null config is a value."""
    registrant.trigger("1", "rec-custom", metadata=None, config=None)
    forwarded = provider.take_one()
    assert "metadata" not in forwarded
    assert forwarded["config"] is None


def test_registering_an_id_again_replaces_the_binding(hub: Hub, provider: Peer, registrant: Peer) -> None:
    """T-9 is a leak upstream; here the provider hears of both ends."""
    registrant.trigger("1", "rec-custom", "old")
    provider.accept("1")
    other = hub.join("other")
    other.trigger("1", "rec-custom", "new")
    assert [(message["type"], message.get("function_id")) for message in provider.take()] == [
        ("unregistertrigger", None),
        ("registertrigger", "new"),
    ]
    registrant.leave()
    assert provider.take() == []
    assert listed(other) == ["1"]


def test_the_last_answer_counts_when_a_binding_was_replaced_before_the_first(provider: Peer, registrant: Peer) -> None:
    """P-50: the provider answers for the refused one and then for the one that took its place."""
    registrant.trigger("1", "rec-custom", "bad")
    registrant.trigger("1", "rec-custom", "good")
    provider.accept("1", error=REFUSAL)
    assert len(registrant.take()) == 1
    provider.accept("1")
    assert listed(registrant) == ["1"]
    registrant.send({"type": "unregistertrigger", "id": "1"})
    assert provider.take()[-1]["type"] == "unregistertrigger"


def test_a_late_acceptance_by_a_former_provider_is_ignored(provider: Peer, registrant: Peer) -> None:
    registrant.trigger("1", "rec-custom")
    provider.accept("1", error=REFUSAL)
    registrant.take()
    provider.send({"type": "unregistertriggertype", "id": "rec-custom"})
    provider.accept("1")
    assert listed(registrant) == []


# -- unregistering -----------------------------------------------------------------------------------------------


def test_unregistering_tells_the_provider_id_and_type_only(provider: Peer, registrant: Peer) -> None:
    """P-128, T-6, G-21, transcript `trigger-type`: the type sent is not looked at."""
    registrant.trigger("1", "rec-custom")
    provider.take()
    assert registrant.send({"type": "unregistertrigger", "id": "1", "trigger_type": "other"}) == []
    assert provider.take() == [{"type": "unregistertrigger", "id": "1", "trigger_type": "rec-custom"}]
    assert registrant.send({"type": "unregistertrigger", "id": "1"}) == []
    assert provider.take() == []


def test_any_worker_may_remove_any_trigger(hub: Hub, provider: Peer, registrant: Peer) -> None:
    """G-20."""
    registrant.trigger("1", "rec-custom")
    provider.take()
    hub.join("other").send({"type": "unregistertrigger", "id": "1"})
    assert provider.take_one()["type"] == "unregistertrigger"
    registrant.leave()
    assert provider.take() == []


def test_a_registrants_triggers_end_with_its_connection(provider: Peer, registrant: Peer) -> None:
    """P-128, T-7, §9.4; parked ones are dropped."""
    registrant.trigger("1", "rec-custom")
    registrant.trigger("2", "rec-custom")
    registrant.trigger("3", "nobody's")
    assert len(provider.accept("2", error=REFUSAL)) == 2
    registrant.leave()
    assert provider.take() == [{"type": "unregistertrigger", "id": "1", "trigger_type": "rec-custom"}]
    provider.trigger_type("nobody's")
    provider.trigger_type("rec-custom")
    assert provider.take() == []


def test_a_provider_that_is_its_own_registrant_leaves_quietly(hub: Hub, provider: Peer) -> None:
    provider.trigger("1", "rec-custom")
    provider.take()
    provider.leave()
    assert provider.received == []
    assert "triggers=0" in repr(hub.router)


# -- lookup and parking ------------------------------------------------------------------------------------------


def test_a_trigger_without_provider_is_parked_in_silence_and_delivered_later(hub: Hub, registrant: Peer) -> None:
    """P-126, T-3, E-24."""
    assert registrant.trigger("1", "late") == []
    assert listed(registrant) == []
    provider = hub.join("p")
    (forwarded,) = provider.trigger_type("late")
    assert forwarded["id"] == "1"
    assert listed(registrant) == ["1"]


def test_the_registrants_namespace_comes_before_default(hub: Hub, provider: Peer) -> None:
    """§9.2, T-11."""
    own = hub.join("own", namespace="blue")
    own.trigger_type("rec-custom")
    registrant = hub.join("r", namespace="blue")
    registrant.trigger("1", "rec-custom")
    assert own.take_one()["trigger_namespace"] == "blue"
    assert provider.take() == []


def test_a_named_provider_namespace_is_strict(hub: Hub, provider: Peer, registrant: Peer) -> None:
    """§9.2, T-11: that namespace or nothing."""
    assert registrant.trigger("1", "rec-custom", trigger_namespace="blue") == []
    assert provider.take() == []
    assert provider.trigger_type("rec-custom") == []
    late = hub.join("late", namespace="blue")
    assert len(late.trigger_type("rec-custom")) == 1


def test_a_type_may_be_registered_in_a_namespace_of_its_own(hub: Hub, registrant: Peer) -> None:
    """§5.9."""
    provider = hub.join("p")
    provider.trigger_type("t", namespace="orders")
    registrant.trigger("1", "t")
    assert provider.take() == []
    registrant.trigger("2", "t", trigger_namespace="orders")
    assert provider.take_one()["id"] == "2"


def test_a_provider_in_the_registrants_namespace_takes_over_from_default(hub: Hub, provider: Peer) -> None:
    """P-126, §9.2: the old provider is told."""
    registrant, outsider = hub.join("r", namespace="blue"), hub.join("o", namespace="red")
    registrant.trigger("1", "rec-custom")
    registrant.trigger("2", "rec-custom", trigger_namespace="default")
    outsider.trigger("3", "rec-custom")
    provider.take()
    own = hub.join("own", namespace="blue")
    assert [message["id"] for message in own.trigger_type("rec-custom")] == ["1"]
    assert provider.take() == [{"type": "unregistertrigger", "id": "1", "trigger_type": "rec-custom"}]


def test_when_a_provider_leaves_its_bindings_fall_back_or_are_parked(hub: Hub, provider: Peer) -> None:
    """P-126, §9.4: silently for the registrant."""
    registrant, own = hub.join("r", namespace="blue"), hub.join("own", namespace="blue")
    own.trigger_type("rec-custom")
    own.trigger_type("only-here")
    registrant.trigger("1", "rec-custom")
    registrant.trigger("2", "only-here")
    own.leave()
    assert provider.take_one()["id"] == "1"
    assert registrant.take() == []
    assert listed(registrant) == ["1"]
    again = hub.join("own", namespace="blue")
    assert [message["id"] for message in again.trigger_type("only-here")] == ["2"]


def test_a_provider_that_withdraws_a_type_is_not_told_of_the_fall_back(hub: Hub, provider: Peer) -> None:
    registrant, own = hub.join("r", namespace="blue"), hub.join("own", namespace="blue")
    own.trigger_type("rec-custom")
    registrant.trigger("1", "rec-custom")
    own.take()
    assert own.send({"type": "unregistertriggertype", "id": "rec-custom"}) == []
    assert provider.take_one()["id"] == "1"


def test_a_returning_type_gets_all_its_bindings_rejected_ones_included(
    hub: Hub, provider: Peer, registrant: Peer
) -> None:
    """P-126, §9.4."""
    registrant.trigger("1", "rec-custom")
    registrant.trigger("2", "rec-custom")
    provider.accept("1")
    provider.accept("2", error=REFUSAL)
    registrant.take()
    provider.leave()
    back = hub.join("back")
    assert [message["id"] for message in back.trigger_type("rec-custom")] == ["2", "1"]
    back.accept("2")
    assert listed(registrant) == ["1", "2"]
    assert registrant.take() == []


def test_registering_a_type_again_sends_its_bindings_again(provider: Peer, registrant: Peer) -> None:
    """§9.1 step 1, P-126: rejected ones included, and nothing is unregistered in between."""
    registrant.trigger("1", "rec-custom")
    registrant.trigger("2", "rec-custom")
    provider.accept("2", error=REFUSAL)
    provider.take()
    again = provider.trigger_type("rec-custom")
    assert [(message["type"], message["id"]) for message in again] == [
        ("registertrigger", "1"),
        ("registertrigger", "2"),
    ]


def test_another_connection_replaces_the_provider(hub: Hub, provider: Peer, registrant: Peer) -> None:
    """§9.1 step 1: the replaced one is told to stop, and does not take the type along when it leaves."""
    registrant.trigger("1", "rec-custom")
    provider.take()
    second = hub.join("second")
    assert [message["id"] for message in second.trigger_type("rec-custom")] == ["1"]
    assert provider.take() == [{"type": "unregistertrigger", "id": "1", "trigger_type": "rec-custom"}]
    provider.send({"type": "unregistertriggertype", "id": "rec-custom"})
    provider.leave()
    assert listed(registrant) == ["1"]
    assert second.take() == []


def test_a_withdrawn_type_parks_its_bindings(hub: Hub, provider: Peer, registrant: Peer) -> None:
    """§5.9, transcript `trigger-type`: only its provider can withdraw it."""
    registrant.trigger("1", "rec-custom")
    provider.take()
    registrant.send({"type": "unregistertriggertype", "id": "rec-custom"})
    provider.send({"type": "unregistertriggertype", "id": "rec-custom", "namespace": "blue"})
    assert listed(registrant) == ["1"]
    provider.send({"type": "unregistertriggertype", "id": "rec-custom"})
    assert listed(registrant) == []
    assert [message["id"] for message in hub.join("p").trigger_type("rec-custom")] == ["1"]


@pytest.mark.parametrize("kind", ["registertriggertype", "unregistertriggertype"])
def test_a_type_in_a_blank_namespace_is_ignored(
    provider: Peer, registrant: Peer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """§8: the protocol has no answer for it."""
    provider.send({"type": kind, "id": "rec-custom", "description": "d", "namespace": " "})
    assert "its namespace is blank" in caplog.text
    registrant.trigger("1", "rec-custom")
    assert len(provider.take()) == 1


@pytest.mark.parametrize("type_id", ["http", "engine::workers-available"])
def test_a_type_the_engine_provides_cannot_be_replaced(
    hub: Hub, registrant: Peer, type_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Upstream would hand it over."""
    http = hub.join("iii-http", in_process=True)
    http.trigger_type("http")
    intruder = hub.join("intruder")
    assert intruder.trigger_type(type_id) == []
    assert "'intruder'" in caplog.text
    registrant.trigger("1", type_id)
    assert [message for message in intruder.take() if message["type"] == "registertrigger"] == []
    assert intruder.trigger_type(type_id, namespace="blue") == []


def test_an_in_process_worker_may_replace_another(hub: Hub, registrant: Peer) -> None:
    hub.join("iii-http", in_process=True).trigger_type("http")
    registrant.trigger("1", "http")
    assert len(hub.join("iii-http-2", in_process=True).trigger_type("http")) == 1


# -- the register call as a barrier ------------------------------------------------------------------------------


@pytest.fixture
def http(hub: Hub) -> Peer:
    worker = hub.join("iii-http", in_process=True)
    worker.trigger_type("http")
    return worker


def test_an_awaited_register_call_waits_for_in_process_providers(hub: Hub, http: Peer, provider: Peer) -> None:
    """§6.2: whoever awaits it knows that its triggers work. Providers that are workers do not hold it back."""
    worker = hub.open()
    worker.take()
    worker.trigger("1", "http")
    worker.trigger("2", "http")
    worker.trigger("3", "rec-custom")
    worker.invoke(REGISTER, {"name": "w"})
    assert worker.take() == []
    http.accept("2")
    assert worker.take() == []
    http.accept("1")
    assert worker.take_one()["result"] == {"success": True}
    assert len(provider.take()) == 1


def test_a_refusal_arrives_before_the_answer_of_the_register_call(hub: Hub, http: Peer) -> None:
    """P-51: so that it belongs to this barrier."""
    worker = hub.join("w")
    worker.trigger("1", "http")
    worker.invoke(REGISTER, {})
    http.accept("1", error=REFUSAL)
    assert [message["type"] for message in worker.take()] == ["triggerregistrationresult", "invocationresult"]


@pytest.mark.parametrize("end", ["unregistered", "replaced", "provider leaves", "provider withdraws", "overdue"])
def test_a_register_call_does_not_wait_for_an_answer_that_cannot_come(hub: Hub, http: Peer, end: str) -> None:
    worker = hub.join("w")
    worker.trigger("1", "http")
    worker.invoke(REGISTER, {})
    assert worker.take() == []
    (timer,) = hub.router.take_timers()
    assert timer.seconds == 10
    match end:
        case "unregistered":
            worker.post({"type": "unregistertrigger", "id": "1"})
        case "replaced":
            parked = {"type": "registertrigger", "id": "1", "trigger_type": "t", "function_id": "f", "config": 1}
            worker.post(parked)
        case "provider leaves":
            http.leave()
        case "provider withdraws":
            http.post({"type": "unregistertriggertype", "id": "http"})
        case _:
            hub.router.timer_expired(timer)
    assert worker.take_one()["result"] == {"success": True}
    hub.router.timer_expired(timer)
    assert worker.take() == []


def test_a_register_call_does_not_wait_for_a_worker_that_takes_over(hub: Hub, http: Peer) -> None:
    """Only providers that are part of the engine hold it back."""
    worker, own = hub.join("w", namespace="blue"), hub.join("own", namespace="blue")
    worker.trigger("1", "http")
    worker.invoke(REGISTER, {})
    assert worker.take() == []
    assert len(own.trigger_type("http")) == 1
    assert worker.take_one()["result"] == {"success": True}


def test_a_register_call_does_not_wait_for_what_was_answered_before(hub: Hub, http: Peer) -> None:
    worker = hub.join("w")
    worker.trigger("1", "http")
    http.accept("1")
    assert worker.ask(REGISTER, {}) == {"success": True}


def test_a_worker_that_leaves_while_its_register_call_waits_is_forgotten(hub: Hub, http: Peer) -> None:
    worker = hub.join("w")
    worker.trigger("1", "http")
    worker.invoke(REGISTER, {})
    worker.leave()
    assert worker.received == []
    assert "triggers=0 invocations=0" in repr(hub.router)
    http.accept("1")


def test_a_void_register_call_waits_for_nobody(hub: Hub, http: Peer) -> None:
    worker = hub.join("w")
    worker.trigger("1", "http")
    worker.invoke(REGISTER, {}, action={"type": "void"})
    http.accept("1")
    assert worker.take() == []


# -- the function path -------------------------------------------------------------------------------------------


def test_a_durable_trigger_is_forwarded_and_answered_with_its_id(provider: Peer, registrant: Peer) -> None:
    """P-130, E-44, E-45, T-8."""
    data = {"trigger_type": "rec-custom", "function_id": "app::f", "config": {"a": 1}, "metadata": {"m": 1}}
    registrant.invoke(REGISTER_TRIGGER, data)
    assert registrant.take() == []
    forwarded = provider.take_one()
    trigger_id = forwarded.pop("id")
    assert forwarded == {"type": "registertrigger", **data}
    provider.accept(trigger_id)
    assert registrant.take_one()["result"] == {"id": trigger_id}


def test_a_durable_trigger_outlives_the_caller(hub: Hub, provider: Peer, registrant: Peer) -> None:
    """E-44, T-7: only `engine::unregister_trigger` removes it, whoever calls (E-47)."""
    registrant.invoke(REGISTER_TRIGGER, {"trigger_type": "rec-custom", "function_id": "app::f"})
    forwarded = provider.take_one()
    assert forwarded["config"] is None
    provider.accept(forwarded["id"])
    registrant.leave()
    assert provider.take() == []
    other = hub.join("other")
    assert other.ask(UNREGISTER_TRIGGER, {"id": forwarded["id"]}) == {"removed": True}
    assert provider.take_one()["type"] == "unregistertrigger"
    assert other.ask(UNREGISTER_TRIGGER, {"id": forwarded["id"], "trigger_type": None}) == {"removed": False}


def test_a_durable_trigger_of_an_unknown_type_is_parked(hub: Hub, registrant: Peer) -> None:
    """E-45, E-47."""
    trigger_id = registrant.ask(REGISTER_TRIGGER, {"trigger_type": "late", "function_id": "f"})["id"]
    (forwarded,) = hub.join("p").trigger_type("late")
    assert forwarded["id"] == trigger_id
    parked = registrant.ask(REGISTER_TRIGGER, {"trigger_type": "later", "function_id": "f"})["id"]
    assert registrant.ask(UNREGISTER_TRIGGER, {"id": parked}) == {"removed": True}


@pytest.mark.parametrize(("in_process", "text"), [(True, "cannot bind"), (False, "path_taken: cannot bind")])
def test_a_refused_durable_trigger_fails_the_call_and_is_not_kept(
    hub: Hub, registrant: Peer, in_process: bool, text: str
) -> None:
    """E-45; the words: T-8 for in-process providers, §9.5 for workers."""
    provider = hub.join("p", in_process=in_process)
    provider.trigger_type("t")
    registrant.invoke(REGISTER_TRIGGER, {"trigger_type": "t", "function_id": "f"})
    provider.accept(provider.take_one()["id"], error={"code": "path_taken", "message": "cannot bind"})
    assert registrant.take_one()["error"] == {"code": "trigger_registration_failed", "message": text}
    assert provider.trigger_type("t") == []
    assert "triggers=0" in repr(hub.router)


def test_a_provider_that_does_not_answer_counts_as_success_after_ten_seconds(
    hub: Hub, provider: Peer, registrant: Peer
) -> None:
    """E-45, §9.5; a refusal after that parks the binding."""
    registrant.invoke(REGISTER_TRIGGER, {"trigger_type": "rec-custom", "function_id": "f"})
    (timer,) = hub.router.take_timers()
    assert timer.seconds == 10
    assert hub.router.take_timers() == []
    hub.router.timer_expired(timer)
    trigger_id = registrant.take_one()["result"]["id"]
    provider.accept(trigger_id, error=REFUSAL)
    assert registrant.take() == []
    assert listed(registrant) == []
    assert registrant.ask(UNREGISTER_TRIGGER, {"id": trigger_id}) == {"removed": True}


def test_a_durable_trigger_of_the_engine_is_answered_at_once(hub: Hub, registrant: Peer) -> None:
    registrant.function("f")
    registrant.ask(REGISTER_TRIGGER, {"trigger_type": "engine::workers-available", "function_id": "f"})
    hub.open()
    assert registrant.take_one()["data"]["event"] == "worker_connected"


def test_a_durable_trigger_in_a_namespace(hub: Hub, registrant: Peer) -> None:
    """E-44: the provider in `trigger_namespace`, the target in `default`."""
    provider = hub.join("p", namespace="blue")
    provider.trigger_type("t")
    registrant.invoke(REGISTER_TRIGGER, {"trigger_type": "t", "function_id": "f", "trigger_namespace": "blue"})
    forwarded = provider.take_one()
    assert forwarded["trigger_namespace"] == "blue"
    assert "namespace" not in forwarded
    error = registrant.refusal(REGISTER_TRIGGER, {"trigger_type": "t", "function_id": "f", "trigger_namespace": " "})
    assert error["code"] == "INVALID_NAMESPACE"


@pytest.mark.parametrize(
    ("function_id", "data", "reason"),
    [
        (REGISTER_TRIGGER, {"function_id": "f"}, "missing field `trigger_type`"),
        (REGISTER_TRIGGER, {"trigger_type": "t", "function_id": None}, "field `function_id`: invalid type: null"),
        (UNREGISTER_TRIGGER, {}, "missing field `id`"),
        (UNREGISTER_TRIGGER, "x", "invalid type: string, expected an object"),
    ],
)
def test_unreadable_input_is_answered(registrant: Peer, function_id: str, data: Any, reason: str) -> None:
    """P-132, C-2, C-3."""
    error = registrant.refusal(function_id, data)
    assert error["code"] == "deserialization_error"
    assert error["message"].startswith(f"Failed to deserialize input for {function_id}: {reason}")
