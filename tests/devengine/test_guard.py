"""A guarded connection on the bare router: what is refused, renamed, asked about, and what waits meanwhile (§6)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iii_anyio.devengine import Listener, Rbac
from iii_anyio.devengine import _hooks as module
from iii_anyio.devengine._access import Grants
from tests.devengine.peers import REGISTER, Hub, Peer

VOID = {"type": "void"}
HOOKS = Rbac(
    expose_functions=['match("*")'],
    on_function_registration_function_id="hook::function",
    on_trigger_registration_function_id="hook::trigger",
    on_trigger_type_registration_function_id="hook::type",
)


def guard(hub: Hub, rbac: Rbac | None = None, *, middleware: str | None = None, **grants: Any) -> Peer:
    """A connection through a guarded listener that has said nothing yet."""
    listener = Listener(rbac=rbac, middleware_function_id=middleware)
    session = hub.router.connect(ip_address="127.0.0.1", access=(listener, Grants(**grants)))
    peer = hub.peers[session] = Peer(hub, session)
    peer.take()
    return peer


def join(hub: Hub, rbac: Rbac | None = None, **options: Any) -> Peer:
    """The same, registered."""
    peer = guard(hub, rbac, **options)
    assert peer.ask(REGISTER, {"pid": 1}) == {"success": True}
    return peer


def exposing(*rules: Any) -> Rbac:
    return Rbac(expose_functions=rules)


def called(peer: Peer) -> dict[str, Any]:
    """The one invocation that has arrived."""
    message = peer.take_one()
    assert message["type"] == "invokefunction"
    return message


# -- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_that_nothing_allows_is_forbidden_and_so_is_one_of_no_function() -> None:
    """RB-14: the message names the function and the key of the configuration."""
    hub = Hub()
    owner = hub.join("owner")
    for function_id in ("public::f", "private::f"):
        owner.function(function_id)
    guest = join(hub, exposing('match("public::*")'), forbidden_functions=frozenset({"public::no"}))
    assert guest.refusal("private::f") == {
        "code": "FORBIDDEN",
        "message": "function 'private::f' not allowed (add to rbac.expose_functions)",
    }
    assert guest.refusal("nobody::has")["code"] == "FORBIDDEN"
    assert guest.refusal("public::nobody")["code"] == "function_not_found"
    assert "remove from rbac.forbidden_functions" in guest.refusal("public::no")["message"]
    assert guest.refusal("engine::functions::list", {})["code"] == "FORBIDDEN"
    assert guest.refusal("public::f", namespace="orders")["code"] == "FORBIDDEN"
    assert owner.take() == []
    guest.invoke("public::f", {"a": 1})
    assert called(owner)["data"] == {"a": 1, "_caller_worker_id": guest.worker_id}


@pytest.mark.parametrize("action", [VOID, {"type": "enqueue", "queue": "q"}])
def test_a_forbidden_call_without_reply_is_answered_under_an_unknown_id(action: dict[str, Any]) -> None:
    """RB-14, G-12."""
    guest = join(Hub(), exposing())
    guest.post({"type": "invokefunction", "function_id": "f", "data": None, "action": action})
    answer = guest.take_one()
    assert (answer["type"], answer["function_id"]) == ("invocationresult", "f")
    assert answer["error"]["code"] == "FORBIDDEN"
    assert len(answer["invocation_id"]) == 36


def test_a_rule_on_metadata_looks_at_what_the_function_was_registered_with() -> None:
    """RB-13."""
    hub = Hub()
    owner = hub.join("owner")
    owner.function("shown", metadata={"public": True})
    owner.function("hidden", metadata={"public": False})
    guest = join(hub, exposing({"metadata": {"public": True}}))
    assert guest.refusal("hidden")["code"] == "FORBIDDEN"
    guest.invoke("shown")
    assert called(owner)["function_id"] == "shown"


def test_a_blank_namespace_is_told_before_anything_is_decided() -> None:
    """§7.1 step 1."""
    assert join(Hub(), exposing()).refusal("f", namespace=" ")["code"] == "INVALID_NAMESPACE"


def test_infrastructure_is_always_there_and_nothing_more() -> None:
    """§6.4 step 4."""
    guest = join(Hub(), exposing())
    assert set(guest.ask("engine::channels::create")) == {"writer", "reader"}
    assert guest.ask("engine::baggage::get_all") == {"baggage": {}}
    assert guest.refusal("engine::workers::list", {})["code"] == "FORBIDDEN"


def test_a_worker_sees_the_functions_it_may_call() -> None:
    """E-8, E-16."""
    hub = Hub()
    owner = hub.join("owner")
    for function_id in ("public::f", "private::f"):
        owner.function(function_id)
    guest = join(hub, exposing('match("public::*")', 'match("engine::functions::*")'))
    rows = guest.ask("engine::functions::list", {"include_internal": True})["functions"]
    assert {"public::f", "engine::log::info"} < {row["function_id"] for row in rows}
    assert not {"private::f", "engine::workers::list"} & {row["function_id"] for row in rows}
    assert guest.refusal("engine::functions::info", {"function_id": "private::f"})["code"] == "FORBIDDEN"
    batch = guest.ask("engine::functions::info", {"function_ids": ["private::f", "public::f", "none"]})["functions"]
    assert [row.get("error") for row in batch] == ["forbidden", None, "not_found"]
    assert "private::f" in {row["function_id"] for row in hub.join("w").ask("engine::functions::list")["functions"]}


# -- identity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [None, VOID])
def test_a_namespace_that_is_not_granted_cannot_be_declared(action: dict[str, Any] | None) -> None:
    """RB-15: also a void call is answered. The connection stays, and may register with a good one."""
    hub = Hub()
    guest = guard(hub, exposing(), namespaces={"orders": ["*"]})
    guest.function("mine")
    more = {} if action is None else {"action": action}
    for data in ({"namespace": "other"}, {}, {"namespace": None}):
        guest.invoke(REGISTER, data, **more)
        assert guest.take_one()["error"]["code"] == "FORBIDDEN"
    assert guest.refusal(REGISTER, {"namespace": " "})["code"] == "INVALID_NAMESPACE"
    assert guest.ask(REGISTER, {"namespace": "orders"}) == {"success": True}
    guest.invoke("mine", namespace="orders")
    assert called(guest)["function_id"] == "mine"


def test_what_a_refused_worker_registered_does_not_end_up_in_default() -> None:
    """G-26: unlike upstream's."""
    hub = Hub()
    guest = guard(hub, exposing(), namespaces={"orders": []})
    guest.function("mine")
    hub.router.grace_expired(guest.session)
    assert hub.router.functions.get("default", "mine") is None
    guest.function("later")
    assert guest.ask(REGISTER, {"namespace": "orders"}) == {"success": True}
    assert hub.router.functions.get("orders", "later") is not None
    assert hub.router.functions.get("orders", "mine") is None


def test_the_grace_puts_a_worker_that_may_be_there_into_default() -> None:
    """P-109."""
    hub = Hub()
    guest = guard(hub, exposing('match("*")'))
    guest.function("mine")
    hub.router.grace_expired(guest.session)
    guest.invoke("mine")
    assert called(guest)["function_id"] == "mine"


# -- registrations ---------------------------------------------------------------------------------------------------


def test_registrations_that_are_not_allowed_are_dropped_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """RB-16, RB-18: silent on the wire; the log says it."""
    hub = Hub()
    guest = join(
        hub,
        exposing('match("*")'),
        allow_function_registration=False,
        allow_trigger_type_registration=False,
        allowed_trigger_types=frozenset({"cron"}),
    )
    assert guest.function("f") == guest.trigger_type("mine") == guest.trigger("t", "http") == []
    assert len(hub.router.triggers.bindings) == 0
    assert ("default", "mine") not in hub.router.triggers.types
    assert guest.refusal("f")["code"] == "function_not_found"
    assert len([line for line in caplog.messages if "not registered" in line]) == 3
    assert guest.trigger("t", "cron") == []
    assert len(hub.router.triggers.bindings) == 1


def test_a_durable_trigger_has_an_allowed_type_and_a_prefixed_target() -> None:
    """E-46: neither the hook nor the rules about its target are asked."""
    hub = Hub()
    guest = join(
        hub,
        Rbac(
            expose_functions=['match("engine::register_trigger")'], on_trigger_registration_function_id="hook::trigger"
        ),
        function_registration_prefix="p",
        allowed_trigger_types=frozenset({"mine"}),
    )
    config: dict[str, Any] = {"function_id": "f", "config": {}}
    refusal = guest.refusal("engine::register_trigger", {"trigger_type": "http", **config})
    assert refusal["code"] == "FORBIDDEN"
    assert "allowed_trigger_types" in refusal["message"]
    binding = hub.router.triggers.bindings[
        guest.ask("engine::register_trigger", {"trigger_type": "mine", **config})["id"]
    ]
    assert (binding.function_id, binding.registrant) == ("p::f", None)


def test_a_trigger_for_a_function_that_may_not_be_called_is_forbidden() -> None:
    """RB-17: its own function as well."""
    hub = Hub()
    guest = join(hub, exposing('match("public::*")'))
    guest.function("own")
    (refusal,) = guest.trigger("t", "http", "own")
    assert (refusal["type"], refusal["id"], refusal["function_id"]) == ("triggerregistrationresult", "t", "own")
    assert refusal["error"]["code"] == "FORBIDDEN"
    assert guest.trigger("t", "http", "public::f") == []
    assert len(hub.router.triggers.bindings) == 1
    (refusal,) = guest.trigger("t2", "http", "public::f", namespace=" ")
    assert refusal["error"]["code"] == "INVALID_NAMESPACE"


def test_triggers_of_others_are_out_of_reach() -> None:
    """Unlike upstream's engine (G-20), for which any worker may take them away."""
    hub = Hub()
    owner = hub.join("owner")
    owner.trigger("theirs", "http", "f")
    guest = join(hub, exposing('match("*")'))
    (refusal,) = guest.trigger("theirs", "http", "g")
    assert refusal["error"]["code"] == "trigger_registration_failed"
    guest.send({"type": "unregistertrigger", "id": "theirs"})
    assert hub.router.triggers.bindings["theirs"].function_id == "f"
    guest.trigger("own", "http", "g")
    guest.send({"type": "unregistertrigger", "id": "own"})
    assert "own" not in hub.router.triggers.bindings


def test_a_prefix_is_put_before_functions_and_targets_and_taken_off_when_they_are_called() -> None:
    """RB-23."""
    hub = Hub()
    provider = hub.join("provider")
    provider.trigger_type("hooked")
    guest = join(hub, exposing('match("*")'), function_registration_prefix="tenant")
    guest.function("f")
    guest.trigger("t", "hooked", "f")
    forwarded = provider.take_one()
    assert forwarded["function_id"] == "tenant::f"
    provider.invoke(forwarded["function_id"], {"n": 1})
    arrived = called(guest)
    assert arrived["function_id"] == "f"
    guest.answer(arrived, result=2)
    assert provider.take_one()["function_id"] == "tenant::f"  # the id that the caller used
    assert guest.refusal("f")["code"] == "function_not_found"  # its own calls are not prefixed
    guest.send({"type": "unregisterfunction", "id": "f"})
    assert provider.refusal("tenant::f")["code"] == "function_not_found"


def test_reserved_ids_stay_reserved_behind_no_prefix() -> None:
    """RB-22."""
    guest = guard(Hub(), exposing(), namespaces={"n": []})
    assert guest.ask(REGISTER, {"namespace": "n"}) == {"success": True}
    assert guest.function("engine::mine")[0]["type"] == "registrationrejected"


def test_a_worker_cannot_take_the_function_that_decides_about_it(caplog: pytest.LogCaptureFixture) -> None:
    """Upstream lets it, once the worker that has it is away (RB-18)."""
    hub = Hub()
    guest = join(hub, Rbac(auth_function_id="auth"), middleware="middle")
    for function_id in ("auth", "middle"):
        assert guest.function(function_id) == []
        assert hub.router.functions.get("default", function_id) is None
    assert "guards its listener" in caplog.text
    prefixed = join(hub, Rbac(auth_function_id="auth"), function_registration_prefix="p")
    prefixed.function("auth")
    assert hub.router.functions.get("default", "p::auth") is not None
    without = join(hub, middleware="middle")
    without.function("middle")
    assert hub.router.functions.get("default", "middle") is not None


# -- hooks -----------------------------------------------------------------------------------------------------------


def hooked(hub: Hub) -> Peer:
    """A trusted worker with all hooks."""
    trusted = hub.join("trusted")
    for kind in ("function", "trigger", "type"):
        trusted.function(f"hook::{kind}")
    return trusted


def test_a_hook_is_asked_and_may_change_a_function() -> None:
    """RB-19, RB-20: the id as sent; the worker is called by the id it knows (§5.3)."""
    hub = Hub()
    trusted = hooked(hub)
    guest = join(hub, HOOKS, context={"user": 7}, function_registration_prefix="p")
    guest.function("f", description="mine", metadata={"a": 1})
    asked = called(trusted)
    assert (asked["function_id"], asked["data"]) == (
        "hook::function",
        {
            "function_id": "f",
            "description": "mine",
            "metadata": {"a": 1},
            "namespace": "default",
            "context": {"user": 7},
        },
    )
    trusted.answer(asked, result={"function_id": "g", "description": 3, "metadata": None})
    function = hub.router.functions.get("default", "p::g")
    assert function is not None
    assert (function.description, function.metadata) == ("mine", None)
    trusted.invoke("p::g")
    assert called(guest)["function_id"] == "f"
    guest.send({"type": "unregisterfunction", "id": "f"})
    assert hub.router.functions.get("default", "p::g") is None


@pytest.mark.parametrize("outcome", [{"result": None}, {}, {"result": True}, {"error": {"code": "no", "message": "x"}}])
def test_anything_but_an_object_denies_in_silence(outcome: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """§6.5."""
    hub = Hub()
    trusted = hooked(hub)
    guest = join(hub, HOOKS)
    for register in (
        lambda: guest.function("f"),
        lambda: guest.trigger("t", "http", "f"),
        lambda: guest.trigger_type("mine"),
    ):
        register()
        trusted.answer(called(trusted), **outcome)
    assert guest.take() == []
    assert hub.router.functions.get("default", "f") is None
    assert hub.router.triggers.bindings == {}
    assert ("default", "mine") not in hub.router.triggers.types
    assert len([line for line in caplog.messages if "not registered" in line]) == 3


def test_an_empty_object_allows_a_trigger_unchanged_and_a_null_config_wipes_it() -> None:
    """RB-20, RB-21."""
    hub = Hub()
    trusted = hooked(hub)
    guest = join(hub, HOOKS, context=None)
    guest.trigger("t", "cron", "f", config={"expression": "*"}, metadata={"m": 1})
    asked = called(trusted)
    assert asked["data"] == {
        "trigger_id": "t",
        "trigger_type": "cron",
        "function_id": "f",
        "config": {"expression": "*"},
        "metadata": {"m": 1},
        "namespace": "default",
        "context": None,
    }
    trusted.answer(asked, result={})
    assert hub.router.triggers.bindings["t"].config == {"expression": "*"}
    guest.trigger("t2", "cron", "f", config={"expression": "*"})
    trusted.answer(
        called(trusted), result={"trigger_id": "u", "trigger_type": "http", "function_id": "g", "config": None}
    )
    binding = hub.router.triggers.bindings["u"]
    assert (binding.type_id, binding.function_id, binding.config) == ("http", "g", None)
    guest.send({"type": "unregistertrigger", "id": "t2"})  # the id that the worker knows
    assert "u" not in hub.router.triggers.bindings


def test_a_trigger_type_may_be_renamed_and_withdrawn() -> None:
    """§6.5."""
    hub = Hub()
    trusted = hooked(hub)
    guest = join(hub, HOOKS)
    guest.trigger_type("mine")
    asked = called(trusted)
    assert asked["data"] == {"trigger_type_id": "mine", "description": "d", "context": {}}
    trusted.answer(asked, result={"trigger_type_id": "theirs", "description": "other"})
    assert hub.router.triggers.types["default", "theirs"].description == "other"
    guest.send({"type": "unregistertriggertype", "id": "mine"})
    assert ("default", "theirs") not in hub.router.triggers.types


def test_what_follows_a_registration_waits_for_its_hook_in_order() -> None:
    """§3.4: a registration is seen by a later call. Answers do not wait, or a hook could wait for itself."""
    hub = Hub()
    trusted = hooked(hub)
    trusted.function("other")
    guest = guard(hub, HOOKS)
    for function_id in ("f", "g"):
        guest.function(function_id)
    registering = guest.invoke(REGISTER, {"name": "guest"})
    first = called(trusted)
    calling = guest.invoke("g")
    guest.post({"type": "ping"})
    assert [message["type"] for message in guest.take()] == ["pong"]
    (second,) = trusted.answer(first, result={})
    assert (second["data"]["function_id"], guest.take()) == ("g", [])
    trusted.answer(second, result={})
    answer, invocation = guest.take()
    assert (answer["invocation_id"], answer["result"]) == (registering, {"success": True})
    assert (invocation["function_id"], invocation["invocation_id"]) == ("g", calling)


def test_a_hook_that_nobody_has_denies_at_once_however_many_registrations_wait() -> None:
    hub = Hub()
    guest = guard(hub, HOOKS)
    for number in range(3000):
        guest.post({"type": "registerfunction", "id": f"f{number}"})
    assert guest.ask(REGISTER, {}) == {"success": True}
    assert len(hub.router.functions.namespaces("f0")) == 0


def test_a_hook_that_does_not_answer_denies_after_its_time(caplog: pytest.LogCaptureFixture) -> None:
    """Upstream waits for ever, and with it everything the worker sends."""
    hub = Hub()
    trusted = hooked(hub)
    guest = join(hub, HOOKS)
    hub.router.take_timers()
    guest.function("f")
    guest.function("g")
    trusted.take()
    (timer,) = hub.router.take_timers()
    assert timer.seconds == module.HOOK_TIMEOUT
    hub.router.timer_expired(timer)
    assert "did not answer" in caplog.text
    late = called(trusted)  # the next one is asked, and has its own time
    (timer,) = hub.router.take_timers()
    trusted.answer(late, result={})
    assert hub.router.functions.get("default", "g") is not None
    assert hub.router.functions.get("default", "f") is None
    guest.function("h")
    hub.router.timer_expired(timer)  # that of g: h gets a new one
    (timer,) = hub.router.take_timers()
    trusted.answer(called(trusted), result={})
    hub.router.timer_expired(timer)
    assert hub.router.take_timers() == []
    assert len(hub.router.answers.open) == 0


def test_a_worker_that_leaves_while_a_hook_is_asked_leaves_nothing_behind() -> None:
    """RB-28."""
    hub = Hub()
    trusted = hooked(hub)
    guest = join(hub, HOOKS)
    guest.function("f")
    guest.function("g")
    asked = called(trusted)
    guest.leave()
    trusted.answer(asked, result={})
    assert hub.router.functions.get("default", "f") is None
    assert trusted.take() == []
    assert hub.router.guards == {}


def test_a_hook_whose_worker_leaves_denies() -> None:
    hub = Hub()
    trusted = hooked(hub)
    guest = join(hub, HOOKS)
    guest.function("f")
    trusted.leave()
    assert hub.router.functions.get("default", "f") is None
    assert guest.ask("engine::baggage::get_all") == {"baggage": {}}


@pytest.mark.parametrize("limit", ["messages", "bytes"])
def test_what_may_wait_for_a_hook_is_bounded(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5 if limit == "messages" else 1000)
    hub = Hub(max_outgoing=10_000)
    hooked(hub)
    guest = join(hub, HOOKS)
    guest.function("f")
    data = "x" * (3000 if limit == "bytes" else 1)
    for _ in range(6):
        guest.post({"type": "invokefunction", "function_id": "f", "data": data})
    assert guest.session.close == (1008, "too many messages behind a registration")
    assert hub.join("other").ask("engine::baggage::get_all") == {"baggage": {}}


# -- middleware ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [None, VOID, {"type": "enqueue", "queue": "q"}])
def test_a_middleware_stands_in_for_every_permitted_call(action: dict[str, Any] | None) -> None:
    """RB-24, RB-25, RB-27: also for void and enqueue calls, whose answer comes under an unknown id."""
    hub = Hub()
    trusted = hub.join("trusted")
    trusted.function("middle")
    guest = join(hub, exposing('match("pub::*")'), middleware="middle", context={"u": 1})
    guest.post(
        {"type": "invokefunction", "function_id": "pub::f", "data": {"a": 1}, "action": action, "metadata": {"m": 2}}
    )
    asked = called(trusted)
    assert (asked["function_id"], asked["metadata"]) == ("middle", {"m": 2})
    assert asked["data"] == {
        "function_id": "pub::f",
        "payload": {"a": 1},
        "action": action,
        "context": {"u": 1},
        "namespace": "default",
    }
    trusted.answer(asked, result={"done": True})
    expected = {"type": "invocationresult", "function_id": "pub::f", "result": {"done": True}}
    assert expected.items() <= guest.take_one().items()
    assert guest.refusal("private::f")["code"] == "FORBIDDEN"
    assert trusted.take() == []


def test_a_middleware_error_is_the_callers_and_the_ids_are_the_callers_own() -> None:
    """RB-27."""
    hub = Hub()
    trusted = hub.join("trusted")
    trusted.function("middle")
    guest = join(hub, middleware="middle")  # without rbac
    call = guest.invoke("anything", [1])
    error = {"code": "rate_limited", "message": "later", "stacktrace": "at x"}
    trusted.answer(called(trusted), error=error)
    answer = guest.take_one()
    assert (answer["invocation_id"], answer["function_id"], answer["error"]) == (call, "anything", error)


def test_a_middleware_does_not_see_the_engines_own_functions() -> None:
    """RB-24."""
    hub = Hub()
    trusted = hub.join("trusted")
    trusted.function("middle")
    trusted.function("engine::queue::enqueue")
    guest = join(hub, middleware="middle")
    assert "functions" in guest.ask("engine::functions::list")
    guest.invoke("engine::queue::enqueue", {})  # a worker's, for all its name
    assert called(trusted)["function_id"] == "middle"


def test_a_middleware_is_looked_up_where_the_call_goes() -> None:
    """RB-26."""
    hub = Hub()
    hub.join("trusted").function("middle")
    guest = join(hub, middleware="middle")
    refusal = guest.refusal("f", namespace="orders")
    assert refusal["code"] == "function_not_found"
    assert "middle not found in namespace orders" in refusal["message"]


def test_calls_through_a_middleware_end_with_either_side() -> None:
    """§7.5."""
    hub = Hub()
    trusted = hub.join("trusted")
    trusted.function("middle")
    guest = join(hub, middleware="middle")
    guest.invoke("f")
    guest.leave()
    assert trusted.answer(called(trusted), result=1) == []
    other = join(hub, middleware="middle")
    other.invoke("f")
    trusted.leave()
    assert other.take_one()["error"]["code"] == "invocation_stopped"
    assert len(hub.router.answers.open) == 0


def test_void_calls_through_a_middleware_count_among_those_in_flight() -> None:
    """Each is to be answered, so each is remembered."""
    hub = Hub(max_in_flight=2)
    hub.join("trusted").function("middle")
    guest = join(hub, middleware="middle")
    for _ in range(3):
        guest.post({"type": "invokefunction", "function_id": "f", "data": None, "action": VOID})
    assert guest.take_one()["error"]["code"] == "invocation_error"


def test_everything_that_is_sent_can_be_read() -> None:
    """An id that JSON has to escape comes back as it was."""
    guest = join(Hub(), exposing())
    function_id = 'q"\\\u2028'
    assert guest.call(function_id)["function_id"] == function_id
    assert json.dumps(guest.refusal(function_id))
