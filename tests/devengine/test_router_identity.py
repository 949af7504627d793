"""Connections: handshake, register call, grace, names, reattach, disconnect, what cannot be read."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from iii_anyio._protocol.engine_session import Phase
from tests.devengine.peers import REGISTER, Hub

VOID = {"action": {"type": "void"}}


@pytest.fixture
def hub() -> Hub:
    return Hub()


# -- handshake ---------------------------------------------------------------------------------------------------


def test_the_first_frame_gives_the_connection_its_identity(hub: Hub) -> None:
    """P-107, P-137, transcript `invoke` (where it has no `features` yet)."""
    first, second = hub.open().take_one(), hub.open().take_one()
    assert set(first) == {"type", "worker_id", "reattach_token", "features"}
    assert first["type"] == "workerregistered"
    assert first["features"] == ["observe.v1", "local-dispatch.v1"]
    assert len({first["worker_id"], first["reattach_token"], second["worker_id"], second["reattach_token"]}) == 4


def test_ids_are_canonical_uuids_by_default() -> None:
    """§4.2."""
    import uuid

    from iii_anyio.devengine._router import Router

    session = Router(lambda: 0).connect()
    for made in (session.worker_id, session.reattach_token):
        assert str(uuid.UUID(made)) == made
        assert uuid.UUID(made).version == 4


def test_a_connection_knows_where_and_when_it_came_from(hub: Hub) -> None:
    session = hub.router.connect(ip_address="10.1.2.3")
    assert (session.ip_address, session.connected_at_ms) == ("10.1.2.3", hub.clock)


# -- register call -----------------------------------------------------------------------------------------------


def test_a_void_register_call_is_not_answered(hub: Hub) -> None:
    """§6.2, transcript `invoke`: what every SDK sends."""
    worker = hub.open()
    worker.take()
    worker.invoke(REGISTER, {"name": "rec-callee", "namespace": None, "isolation": None, "telemetry": None}, **VOID)
    assert worker.take() == []
    assert worker.session.phase is Phase.SERVING
    assert worker.session.namespace == "default"


def test_an_awaited_register_call_is_answered_after_the_held_registrations(hub: Hub) -> None:
    """P-108: the answer says that they have been applied."""
    worker, caller = hub.open(), hub.join("caller")
    worker.take()
    worker.function("a")
    assert caller.refusal("a")["code"] == "function_not_found"
    assert worker.ask(REGISTER, {"name": "w"}) == {"success": True}
    caller.invoke("a")
    assert worker.take_one()["function_id"] == "a"


def test_held_registrations_are_applied_in_arrival_order(hub: Hub) -> None:
    """P-108: the six messages, and `unregistertriggertype`."""
    worker = hub.open()
    worker.function("a")
    worker.function("b")
    worker.send({"type": "unregisterfunction", "id": "a"})
    worker.trigger_type("t1")
    worker.trigger_type("t2")
    worker.send({"type": "unregistertriggertype", "id": "t2"})
    worker.trigger("1", "t1")
    worker.trigger("2", "t1")
    worker.send({"type": "unregistertrigger", "id": "2"})
    worker.send({"type": "registerservice", "id": "s"})
    worker.take()
    worker.invoke(REGISTER, {"name": "w"})
    received = worker.take()
    assert [message["type"] for message in received] == [
        "registertrigger",
        "registertrigger",
        "unregistertrigger",
        "invocationresult",
    ]
    assert [row["function_id"] for row in worker.ask("engine::functions::list", {"worker": "w"})["functions"]] == ["b"]
    assert [row["id"] for row in worker.ask("engine::triggers::list", {"worker": "w"})["triggers"]] == ["t1"]
    assert list(worker.session.services) == ["s"]


def test_a_call_before_the_register_call_is_handled_at_once(hub: Hub) -> None:
    """§6.3: one's own function is not there yet."""
    worker = hub.open()
    worker.take()
    worker.function("own")
    assert worker.refusal("own")["code"] == "function_not_found"


def test_the_namespace_is_where_functions_land(hub: Hub) -> None:
    """§6.2, transcript `namespace`."""
    worker, caller = hub.join("w", namespace="blue"), hub.join("c")
    worker.function("rec::ns")
    message = "Function rec::ns not found in namespace default. It is registered in namespace(s): blue."
    assert caller.refusal("rec::ns", {}) == {"code": "function_not_found", "message": message}
    caller.invoke("rec::ns", {}, namespace="blue")
    assert "namespace" not in worker.take_one()


@pytest.mark.parametrize("namespace", ["", "  "])
def test_a_blank_namespace_is_refused_and_the_connection_may_try_again(hub: Hub, namespace: str) -> None:
    """P-113, E-33."""
    worker = hub.open()
    worker.take()
    worker.function("f")
    assert worker.refusal(REGISTER, {"name": "w", "namespace": namespace})["code"] == "INVALID_NAMESPACE"
    assert worker.session.phase is Phase.HELD
    assert worker.session.identity.name is None
    assert worker.ask(REGISTER, {"name": "w", "namespace": "blue"}) == {"success": True}
    assert worker.session.namespace == "blue"


def test_a_refused_void_register_call_is_logged(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing on the wire says so (P-121)."""
    worker = hub.open()
    worker.take()
    worker.invoke(REGISTER, {"namespace": " "}, **VOID)
    assert worker.take() == []
    assert "INVALID_NAMESPACE" in caplog.text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "invalid type: null, expected an object"),
        ([], "invalid type: array, expected an object"),
        ({"pid": "1"}, "field `pid`: invalid type: string, expected an integer, 0 or more"),
        ({"pid": -1}, "field `pid`: invalid type: number -1, expected an integer, 0 or more"),
        ({"pid": True}, "field `pid`: invalid type: boolean, expected an integer, 0 or more"),
        ({"name": 7}, "field `name`: invalid type: number 7, expected a string"),
        ({"telemetry": "x"}, "field `telemetry`: invalid type: string, expected an object"),
        ({"features": ["a", 1]}, "field `features`: invalid type: array, expected an array of strings"),
        ({"namespace": {}}, "field `namespace`: invalid type: object, expected a string"),
    ],
)
def test_an_unreadable_register_call_leaves_the_worker_unregistered(hub: Hub, data: Any, reason: str) -> None:
    """§6.2, P-132, C-2."""
    worker = hub.open()
    worker.take()
    message = f"Failed to deserialize input for {REGISTER}: {reason}"
    assert worker.refusal(REGISTER, data) == {"code": "deserialization_error", "message": message}
    assert worker.session.phase is Phase.HELD


def test_registering_again_updates_the_identity_and_not_the_namespace(hub: Hub) -> None:
    """E-36, E-37: a different namespace is ignored, with success."""
    worker = hub.join("w", namespace="blue", version="1", os="Linux")
    assert worker.ask(REGISTER, {"version": "2", "namespace": "red"}) == {"success": True}
    row = worker.ask("engine::workers::info", {"name": "w"})["worker"]
    assert (row["namespace"], row["version"], row["os"], row["runtime"]) == ("blue", "2", "Linux", "unknown")


# -- grace -------------------------------------------------------------------------------------------------------


def test_without_a_register_call_the_grace_puts_a_connection_into_default(hub: Hub) -> None:
    """P-109."""
    worker, caller = hub.open(), hub.join("c")
    worker.take()
    worker.function("f")
    hub.router.grace_expired(worker.session)
    caller.invoke("f")
    assert worker.take_one()["function_id"] == "f"
    assert worker.ask(REGISTER, {"name": "late", "namespace": "blue"}) == {"success": True}
    assert worker.session.namespace == "default"


@pytest.mark.parametrize("leave", [False, True])
def test_the_grace_of_a_connection_that_registered_or_left_has_no_effect(hub: Hub, leave: bool) -> None:
    worker = hub.join("w", namespace="blue")
    if leave:
        worker.leave()
    phase = worker.session.phase
    hub.router.grace_expired(worker.session)
    assert (worker.session.phase, worker.session.namespace) == (phase, "blue")


# -- names -------------------------------------------------------------------------------------------------------


def test_a_second_live_worker_of_a_name_is_rejected_and_closed(hub: Hub) -> None:
    """P-110, E-35, transcript `conflict`: a close frame without status, no result."""
    owner, loser = hub.join("rec-same"), hub.open()
    loser.take()
    loser.function("held")
    loser.invoke(REGISTER, {"name": "rec-same"})
    assert loser.take_one() == {
        "type": "registrationrejected",
        "code": "WORKER_NAMESPACE_CONFLICT",
        "namespace": "default",
        "worker_name": "rec-same",
        "owner_worker_id": owner.worker_id,
    }
    assert loser.session.phase is Phase.CLOSING
    assert (loser.session.close, loser.session.abort) == ((None, ""), False)
    assert loser.function("later") == []
    for function_id in ("held", "later"):
        assert owner.refusal(function_id)["code"] == "function_not_found"
    assert loser.send({"type": "ping"}) == []


def test_a_name_taken_by_an_in_process_worker_shows_no_owner(hub: Hub) -> None:
    hub.join("iii-state", in_process=True)
    loser = hub.open()
    loser.take()
    loser.invoke(REGISTER, {"name": "iii-state"})
    assert loser.take_one()["owner_worker_id"] == ""


def test_names_of_different_namespaces_do_not_conflict(hub: Hub) -> None:
    """§6.4."""
    hub.join("same", namespace="blue")
    hub.join("same", namespace="red")
    hub.join("same")


def test_nameless_workers_never_conflict(hub: Hub) -> None:
    """E-35."""
    hub.join(None)
    hub.join("\x00 ")


def test_a_name_of_a_command_line_is_a_name_like_any_other(hub: Hub) -> None:
    """E-38: listed, and refused to a second one."""
    first = hub.join("iii-cli:trigger")
    (row,) = first.ask("engine::workers::list", {"search": "iii-cli:"})["workers"]
    assert row["id"] == first.worker_id
    second = hub.open()
    second.take()
    second.invoke(REGISTER, {"name": "iii-cli:trigger"})
    assert second.take_one()["type"] == "registrationrejected"


def test_names_are_compared_as_cleaned(hub: Hub) -> None:
    """E-34."""
    hub.join("same")
    loser = hub.open()
    loser.take()
    loser.invoke(REGISTER, {"name": " sa\x00me "})
    assert loser.take_one()["worker_name"] == "same"


def test_the_name_of_a_worker_that_left_is_free(hub: Hub) -> None:
    """P-111."""
    hub.join("same").leave()
    hub.join("same")


def test_the_name_of_a_rejected_worker_is_not_taken_by_it(hub: Hub) -> None:
    """P-111: a connection that the engine ended is not live, even before its socket ends."""
    hub.join("a")
    worker = hub.join("b")
    worker.invoke(REGISTER, {"name": "a"})
    worker.take()
    assert worker.session.phase is Phase.CLOSING
    hub.join("b")


def test_a_former_name_stays_taken_until_the_connection_ends(hub: Hub) -> None:
    """§6.2."""
    worker = hub.join("first")
    assert worker.ask(REGISTER, {"name": "second"}) == {"success": True}
    assert worker.ask(REGISTER, {"name": "first"}) == {"success": True}
    other = hub.open()
    other.take()
    other.invoke(REGISTER, {"name": "second"})
    assert other.take_one()["code"] == "WORKER_NAMESPACE_CONFLICT"
    worker.leave()
    hub.join("first")
    hub.join("second")


# -- reattach ----------------------------------------------------------------------------------------------------


def test_a_reattach_evicts_the_previous_connection_before_the_next_frame(hub: Hub) -> None:
    """P-112, transcripts `reconnect-1` and `reconnect-2`: the replay meets no conflict with itself."""
    old = hub.open()
    first = old.take_one()
    old.function("rec::rc")
    old.invoke(REGISTER, {"name": "rec-rc"}, **VOID)
    new = hub.open()
    new.take()
    reattach = {"previous_worker_id": first["worker_id"], "reattach_token": first["reattach_token"]}
    assert new.send({"type": "reattach", **reattach}) == []
    assert (old.session.phase, old.session.abort) == (Phase.CLOSING, True)
    assert old.session.outgoing == []
    new.function("rec::rc")
    new.invoke(REGISTER, {"name": "rec-rc"}, **VOID)
    assert new.take() == []
    new.invoke("rec::rc", {})
    assert new.take_one()["data"] == {"_caller_worker_id": new.worker_id}
    hub.router.disconnect(old.session)
    assert old.session.phase is Phase.GONE
    assert new.session.is_live


def test_the_runtime_hears_of_an_eviction(hub: Hub) -> None:
    old, new = hub.join("w"), hub.open()
    hub.router.take_dirty()
    message = f'"previous_worker_id": "{old.worker_id}", "reattach_token": "{old.session.reattach_token}"'
    hub.router.receive(new.session, b'{"type": "reattach", %b}' % message.encode())
    assert old.session in hub.router.take_dirty()
    assert hub.router.take_dirty() == []


@pytest.mark.parametrize(
    "change",
    [
        {"reattach_token": "wrong"},
        {"reattach_token": "é\u2028"},
        {"reattach_token": None},
        {"previous_worker_id": "no-uuid"},
        {"previous_worker_id": "282a7983-9f20-4bc4-b8dc-79304b249aa5"},
    ],
)
def test_an_invalid_reattach_is_ignored(hub: Hub, change: dict[str, Any]) -> None:
    """§5.8, P-112."""
    old, new = hub.join("w"), hub.open()
    new.take()
    valid = {"previous_worker_id": old.worker_id, "reattach_token": old.session.reattach_token}
    assert new.send({"type": "reattach", **valid, **change}) == []
    assert old.session.is_live


def test_a_connection_cannot_evict_itself(hub: Hub) -> None:
    worker = hub.join("w")
    message = {"previous_worker_id": worker.worker_id, "reattach_token": worker.session.reattach_token}
    worker.send({"type": "reattach", **message})
    assert worker.session.is_live


# -- small messages ----------------------------------------------------------------------------------------------


def test_a_ping_is_answered_and_a_pong_is_not(hub: Hub) -> None:
    """P-104."""
    worker = hub.open()
    worker.take()
    assert worker.send({"type": "ping"}) == [{"type": "pong"}]
    assert worker.send({"type": "pong"}) == []


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_blank_text_is_ignored(hub: Hub, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """P-103."""
    worker = hub.open()
    worker.take()
    assert worker.send(text) == []
    assert caplog.records == []


@pytest.mark.parametrize("text", ["nonsense", "[]", "7", '{"type": 1}', "{}", '{"type": "registerfunction"}'])
def test_an_undecodable_frame_is_logged_with_its_worker_and_the_connection_lives(
    hub: Hub, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """P-103."""
    worker = hub.join("clumsy")
    assert worker.send(text) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'clumsy'" in caplog.text
    assert worker.send({"type": "ping"}) == [{"type": "pong"}]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"type": "later", "id": "o"}, "does not know type 'later'"),
        ({"type": "workerregistered", "worker_id": "x"}, "only sends type 'workerregistered'"),
    ],
)
def test_a_message_the_engine_does_not_take_is_logged_with_its_worker_and_type(
    hub: Hub, message: dict[str, Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = hub.join("clumsy")
    assert worker.send(message) == []
    assert "'clumsy'" in caplog.text
    assert kind in caplog.text


def test_leaving_twice_is_harmless(hub: Hub) -> None:
    worker = hub.join("w")
    worker.leave()
    worker.leave()
    assert worker.session.phase is Phase.GONE
    assert hub.router.sessions == {}
    assert worker.send({"type": "ping"}) == []
