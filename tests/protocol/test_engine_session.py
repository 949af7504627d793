from __future__ import annotations

import json

import pytest

from iii_anyio._protocol.engine_session import EngineSession, Phase, WorkerIdentity, clean_label
from iii_anyio._protocol.messages import (
    InvokeFunction,
    Message,
    Ping,
    Pong,
    Reattach,
    RegisterFunction,
    RegisterService,
    RegisterTrigger,
    RegisterTriggerType,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)


@pytest.fixture
def session() -> EngineSession:
    return EngineSession("w-1", "token", connected_at_ms=7, ip_address="10.0.0.1")


def test_a_new_connection_is_held_and_live(session: EngineSession) -> None:
    assert session.phase is Phase.HELD
    assert session.is_live
    assert session.namespace is None
    assert (session.ip_address, session.connected_at_ms, session.is_in_process) == ("10.0.0.1", 7, False)


HELD: list[Message] = [
    RegisterFunction("f"),
    UnregisterFunction("f"),
    RegisterTriggerType("t", "d"),
    UnregisterTriggerType("t"),
    RegisterTrigger("1", "t", "f", None),
    UnregisterTrigger("1"),
    RegisterService("s"),
]
HANDLED: list[Message] = [InvokeFunction("f", None), Ping(), Reattach("w-0")]


@pytest.mark.parametrize("message", HELD, ids=lambda message: message.type)
def test_registrations_wait_until_the_namespace_is_known(session: EngineSession, message: Message) -> None:
    """P-108, §6.3."""
    assert session.must_hold(message)
    session.fix_namespace("default")
    assert not session.must_hold(message)


@pytest.mark.parametrize("message", HANDLED, ids=lambda message: message.type)
def test_everything_else_is_handled_at_once(session: EngineSession, message: Message) -> None:
    """P-108: calls included."""
    assert not session.must_hold(message)


def test_held_registrations_come_back_once_and_in_arrival_order(session: EngineSession) -> None:
    """E-36."""
    for message in HELD:
        session.hold(message, 10)
    assert session.held_bytes == 10 * len(HELD)
    assert session.fix_namespace("orders") == HELD
    assert session.phase is Phase.SERVING
    assert session.namespace == "orders"
    assert (session.held, session.held_bytes) == ([], 0)


def test_what_is_sent_waits_encoded_and_counted(session: EngineSession) -> None:
    session.send(Ping())
    session.send(Pong())
    assert session.outgoing_bytes == sum(map(len, session.outgoing))
    texts = session.take_outgoing()
    assert [json.loads(text) for text in texts] == [{"type": "ping"}, {"type": "pong"}]
    assert (session.outgoing, session.outgoing_bytes) == ([], 0)


def test_ending_a_connection_keeps_what_is_to_be_written_and_drops_what_was_held(session: EngineSession) -> None:
    """P-110: the rejection goes out, the registrations are discarded."""
    session.hold(RegisterFunction("f"), 10)
    session.send(Ping())
    session.end(None, "")
    assert session.phase is Phase.CLOSING
    assert not session.is_live
    assert (session.close, session.abort) == ((None, ""), False)
    assert len(session.outgoing) == 1
    assert (session.held, session.held_bytes) == ([], 0)


def test_aborting_a_connection_drops_what_was_to_be_written(session: EngineSession) -> None:
    """§6.7: evicted by a reattach is a dropped socket."""
    session.send(Ping())
    session.end(None, "evicted", abort=True)
    assert session.abort
    assert (session.outgoing, session.outgoing_bytes) == ([], 0)


def test_a_connection_whose_socket_ended_keeps_no_memory(session: EngineSession) -> None:
    session.hold(RegisterFunction("f"), 10)
    session.send(Ping())
    session.ended()
    assert session.phase is Phase.GONE
    assert not session.is_live
    assert (session.held, session.outgoing) == ([], [])


def test_log_lines_name_the_worker_and_escape_its_name(session: EngineSession) -> None:
    assert session.label == "w-1 (no name yet)"
    session.identity.name = "a\nb"
    assert session.label == r"'a\nb' (w-1)"
    assert repr(session) == r"<EngineSession 'a\nb' (w-1) HELD>"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (None, None),
        ("billing", "billing"),
        ("  spaced out \t", "spaced out"),
        ("a\x00b\x1fc\x7fd\x9fe", "abcde"),
        ("a\u202ab\u202ec\u2066d\u2069e\u2028f\u2029g", "abcdefg"),
        ("\u2027\u202f", "\u2027"),
        (" \n ", None),
        ("", None),
        ("x" * 281, "x" * 280),
        (" " + "x" * 280, "x" * 279),
    ],
)
def test_names_and_descriptions_are_cleaned(text: str | None, cleaned: str | None) -> None:
    """E-34."""
    assert clean_label(text) == cleaned


def test_an_identity_has_defaults_for_what_is_not_given() -> None:
    """E-32."""
    identity = WorkerIdentity()
    identity.update({})
    assert identity == WorkerIdentity("unknown")


def test_a_later_identity_overwrites_some_fields_and_keeps_others() -> None:
    """E-37."""
    identity = WorkerIdentity()
    first = {
        "runtime": "python",
        "version": "1",
        "telemetry": {"language": "de"},
        "name": "a",
        "description": "d",
        "os": "Linux",
        "pid": 1,
        "isolation": "docker",
        "features": ["observe.v1"],
    }
    identity.update(first)
    assert identity.features == ("observe.v1",)
    identity.update({"name": "\x00", "pid": None})
    assert identity == WorkerIdentity("unknown", None, None, "a", "d", "Linux", 1, "docker", ("observe.v1",))
    identity.update({"name": "b", "description": "e", "os": "Mac", "pid": 0, "isolation": "vm", "features": []})
    assert identity == WorkerIdentity("unknown", None, None, "b", "e", "Mac", 0, "vm", ())
