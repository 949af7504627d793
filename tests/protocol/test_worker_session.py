from __future__ import annotations

import json
from typing import Any

import pytest

from iii_anyio._protocol.calls import Call, new_id
from iii_anyio._protocol.codec import encode
from iii_anyio._protocol.messages import (
    ErrorMessage,
    InvocationResult,
    InvokeFunction,
    Message,
    RegisterFunction,
    RegisterTrigger,
    RegisterTriggerType,
    RegistrationRejected,
    TriggerRegistrationResult,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)
from iii_anyio._protocol.registry import Registration
from iii_anyio._protocol.worker_session import MAX_CONFLICTS, Phase, WorkerSession
from iii_anyio.devengine._router import Router
from iii_anyio.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    EncodeError,
    InvocationError,
    InvocationTimeoutError,
    OfflineQueueFullError,
    RegistrationRejectedError,
    ShutdownError,
    TriggerRegistrationError,
)
from tests.protocol.link import REGISTER, FakeLink, RouterEnd, Script

IDENTITY = {"runtime": "python", "version": "1", "name": "billing", "os": "Linux", "pid": 4242, "namespace": "orders"}


@pytest.fixture
def worker() -> WorkerSession:
    return WorkerSession(IDENTITY, max_queued=2)


@pytest.fixture
def router() -> Router:
    return Router(lambda: 1_760_000_000_000)


def registration(message: Message, withdrawal: Message) -> Registration:
    return Registration(getattr(message, "id"), encode(message), encode(withdrawal))  # noqa: B009  not every message has one


def add_function(worker: WorkerSession, id: str) -> Registration:
    entry = registration(RegisterFunction(id), UnregisterFunction(id))
    worker.registry.add_function(entry)
    worker.announce(entry)
    return entry


def add_type(worker: WorkerSession, id: str) -> Registration:
    entry = registration(RegisterTriggerType(id, "d"), UnregisterTriggerType(id))
    worker.registry.trigger_types[id] = entry
    worker.announce(entry)
    return entry


def add_trigger(worker: WorkerSession, id: str, type: str = "webhook") -> Registration:
    entry = registration(RegisterTrigger(id, type, "f", None), UnregisterTrigger(id, type))
    worker.registry.triggers[id] = entry
    worker.announce(entry)
    return entry


def remove_function(worker: WorkerSession, entry: Registration) -> None:
    del worker.registry.functions[entry.id]
    worker.withdraw(entry)


def make_call(data: Any = None, timeout: float | None = None, *, void: bool = False) -> tuple[Call, list[int]]:
    """A call, and a list that grows each time its caller is woken."""
    woken: list[int] = []
    invocation_id = None if void else new_id()
    action = {"type": "void"} if void else None
    text = encode(InvokeFunction("f", data, invocation_id, action=action))
    return Call("f", invocation_id, text, timeout, lambda: woken.append(1)), woken


def submit(worker: WorkerSession, data: Any = None, timeout: float | None = None, *, void: bool = False) -> Call:
    call, _ = make_call(data, timeout, void=void)
    worker.submit(call, 0.0)
    return call


def join(worker: WorkerSession, script: Script | None = None) -> tuple[FakeLink, Script]:
    """Bring a link up and let the engine accept everything said on it so far."""
    script = script or Script()
    link = FakeLink(worker, script)
    script.say("workerregistered", worker_id=f"w-{link.number}", reattach_token=f"t-{link.number}")
    script.answer(link.write()[-1], result={"success": True})
    link.carry()
    assert worker.phase is Phase.JOINED
    return link, script


def kinds(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(message["type"], message.get("id", message.get("function_id"))) for message in messages]


# -- a link comes up ------------------------------------------------------------------------------------------------


def test_the_first_link_begins_with_registrations_and_ends_with_the_register_call(worker: WorkerSession) -> None:
    """P-12: no ``reattach``; P-13: types, functions, triggers; P-14: once."""
    add_trigger(worker, "1")
    add_function(worker, "f")
    add_type(worker, "webhook")
    link = FakeLink(worker, Script())
    assert kinds(link.write()) == [
        ("registertriggertype", "webhook"),
        ("registerfunction", "f"),
        ("registertrigger", "1"),
        ("invokefunction", REGISTER),
    ]
    assert link.write() == []


def test_the_register_call_carries_the_identity_and_an_id_to_await(worker: WorkerSession) -> None:
    """P-14, P-15, §6.2: neither void nor with a namespace on the envelope."""
    (call,) = FakeLink(worker, Script()).write()
    invocation_id = call.pop("invocation_id")
    assert isinstance(invocation_id, str)
    assert call == {"type": "invokefunction", "function_id": REGISTER, "data": IDENTITY}


def test_an_identity_that_json_cannot_carry_is_refused_at_once() -> None:
    """Not on every link: a directory name or a variable may hold bytes that are no UTF-8, and end up in it."""
    with pytest.raises(EncodeError, match="project_name"):
        WorkerSession(IDENTITY | {"telemetry": {"project_name": "caf\udce9"}}, max_queued=1)


def test_later_links_begin_with_reattach(worker: WorkerSession) -> None:
    """P-12, G-11: the last identity, and before everything else."""
    add_function(worker, "f")
    for _ in range(2):
        link, _ = join(worker)
        link.close()
    written = FakeLink(worker, Script()).write()
    assert written[0] == {"type": "reattach", "previous_worker_id": "w-2", "reattach_token": "t-2"}
    assert kinds(written[1:]) == [("registerfunction", "f"), ("invokefunction", REGISTER)]


def test_a_link_lost_before_it_had_an_identity_reattaches_to_the_one_before(worker: WorkerSession) -> None:
    """P-12: the last identity that is known."""
    join(worker)[0].close()
    FakeLink(worker, Script()).close()
    assert FakeLink(worker, Script()).write()[0]["previous_worker_id"] == "w-1"


def test_an_engine_without_reattach_tokens_gets_none_back(worker: WorkerSession) -> None:
    script = Script()
    link = FakeLink(worker, script)
    script.say("workerregistered", worker_id="w-1")
    link.carry()
    link.close()
    assert FakeLink(worker, Script()).write()[0] == {"type": "reattach", "previous_worker_id": "w-1"}


def test_every_registration_is_announced_once_on_every_link(worker: WorkerSession) -> None:
    """P-13."""
    entry = add_function(worker, "f")
    for _ in range(3):
        link, _ = join(worker)
        worker.announce(entry)
        link.write()
        assert [kind for kind in kinds(link.written) if kind[0] == "registerfunction"] == [("registerfunction", "f")]
        link.close()


def test_registrations_are_only_remembered_while_there_is_no_link(worker: WorkerSession) -> None:
    entry = add_function(worker, "f")
    remove_function(worker, entry)
    assert not worker.has_outgoing
    add_function(worker, "g")
    assert kinds(FakeLink(worker, Script()).write()) == [("registerfunction", "g"), ("invokefunction", REGISTER)]


def test_the_identity_is_taken_whenever_it_comes_and_the_last_one_counts(worker: WorkerSession) -> None:
    """P-16, G-23."""
    script = Script()
    link = FakeLink(worker, script)
    script.answer(link.write()[-1], result={"success": True})
    link.carry()
    assert worker.phase is Phase.JOINED
    assert (worker.worker_id, worker.features) == (None, [])
    script.say("workerregistered", worker_id="early", reattach_token="t-1", features=["observe.v1"])
    link.carry()
    assert (worker.worker_id, worker.features) == ("early", ["observe.v1"])
    script.say("workerregistered", worker_id="late", reattach_token="t-2")
    link.carry()
    assert (worker.worker_id, worker.features) == ("late", [])
    link.close()
    assert FakeLink(worker, Script()).write()[0] == {
        "type": "reattach",
        "previous_worker_id": "late",
        "reattach_token": "t-2",
    }


# -- registrations on a link ----------------------------------------------------------------------------------------


def test_a_registration_made_on_a_link_is_sent_at_once(worker: WorkerSession) -> None:
    """§6.3: also before the register call was answered; the engine keeps it until then."""
    link = FakeLink(worker, Script())
    link.write()
    add_function(worker, "early")
    assert kinds(link.write()) == [("registerfunction", "early")]
    link.close()
    link, _ = join(worker)
    add_trigger(worker, "1")
    assert kinds(link.write()) == [("registertrigger", "1")]


def test_a_withdrawal_is_sent_at_once(worker: WorkerSession) -> None:
    function, kind, trigger = add_function(worker, "f"), add_type(worker, "webhook"), add_trigger(worker, "1")
    link, _ = join(worker)
    del worker.registry.trigger_types["webhook"], worker.registry.triggers["1"]
    for entry in (trigger, kind):
        worker.withdraw(entry)
    remove_function(worker, function)
    assert kinds(link.write()) == [
        ("unregistertrigger", "1"),
        ("unregistertriggertype", "webhook"),
        ("unregisterfunction", "f"),
    ]


def test_a_withdrawn_registration_is_not_replayed(worker: WorkerSession) -> None:
    entry = add_function(worker, "f")
    join(worker)[0].close()
    remove_function(worker, entry)
    written = FakeLink(worker, Script()).write()
    assert kinds(written) == [("reattach", None), ("invokefunction", REGISTER)]


def test_a_trigger_type_that_was_replaced_is_announced_again(worker: WorkerSession) -> None:
    add_type(worker, "webhook")
    link, _ = join(worker)
    add_type(worker, "webhook")
    assert kinds(link.write()) == [("registertriggertype", "webhook")]


def test_a_registration_that_was_withdrawn_before_it_was_announced_is_never_announced(worker: WorkerSession) -> None:
    """Another thread registers it, the loop withdraws it, then the loop learns of the registration."""
    link, _ = join(worker)
    entry = registration(RegisterFunction("f"), UnregisterFunction("f"))
    worker.registry.add_function(entry)
    remove_function(worker, entry)
    worker.announce(entry)
    assert kinds(link.write()) == [("unregisterfunction", "f")]


def test_a_withdrawal_is_also_that_of_the_registration_it_has_replaced(worker: WorkerSession) -> None:
    """Another thread replaces it, the loop withdraws the new one before it has learned of it."""
    add_type(worker, "webhook")
    link, _ = join(worker)
    entry = registration(RegisterTriggerType("webhook", "new"), UnregisterTriggerType("webhook"))
    worker.registry.trigger_types["webhook"] = entry
    del worker.registry.trigger_types["webhook"]
    worker.withdraw(entry)
    worker.announce(entry)
    assert kinds(link.write()) == [("unregistertriggertype", "webhook")]


def test_a_withdrawal_that_comes_late_leaves_the_successor_alone(worker: WorkerSession) -> None:
    """Another thread withdraws it, the loop registers its successor, then the loop learns of the withdrawal."""
    entry = add_function(worker, "f")
    link, _ = join(worker)
    del worker.registry.functions["f"]
    add_function(worker, "f")
    worker.withdraw(entry)
    assert kinds(link.write()) == [("registerfunction", "f")]


def test_a_successor_on_its_way_does_not_hold_a_withdrawal_back(worker: WorkerSession) -> None:
    """Both are made by another thread, and arrive in the order they were made."""
    entry = add_function(worker, "f")
    link, _ = join(worker)
    del worker.registry.functions["f"]
    successor = registration(RegisterFunction("f"), UnregisterFunction("f"))
    worker.registry.add_function(successor)
    worker.withdraw(entry)
    worker.announce(successor)
    assert kinds(link.write()) == [("unregisterfunction", "f"), ("registerfunction", "f")]


def test_a_trigger_type_of_the_same_id_has_nothing_to_do_with_a_function(worker: WorkerSession) -> None:
    entry = add_function(worker, "http")
    link, _ = join(worker)
    add_type(worker, "http")
    remove_function(worker, entry)
    assert kinds(link.write()) == [("registertriggertype", "http"), ("unregisterfunction", "http")]


# -- readiness ------------------------------------------------------------------------------------------------------


def test_ready_means_that_the_engine_has_every_registration(worker: WorkerSession, router: Router) -> None:
    """P-108, G-8."""
    end = RouterEnd(router)
    add_function(worker, "f")
    add_trigger(worker, "1")
    link = FakeLink(worker, end)
    link.write()
    link.carry_to_engine(2)
    link.carry_to_worker()
    assert worker.phase is Phase.JOINING
    assert not worker.is_ready
    assert list(end.session.functions) == []
    link.carry()
    assert worker.is_ready
    assert (list(end.session.functions), list(end.session.triggers)) == (["f"], ["1"])
    assert end.session.namespace == "orders"


def test_a_registration_made_later_is_confirmed_on_request_and_by_one_call(worker: WorkerSession) -> None:
    link, script = join(worker)
    assert worker.is_ready
    worker.confirm(0.0)
    assert not worker.has_outgoing
    add_function(worker, "f")
    assert not worker.is_ready
    worker.confirm(0.0)
    worker.confirm(0.0)
    written = link.write()
    assert kinds(written) == [("registerfunction", "f"), ("invokefunction", REGISTER)]
    script.answer(written[1], result={"success": True})
    link.carry()
    assert worker.is_ready


def test_a_registration_made_after_the_register_call_is_not_confirmed_by_its_answer(worker: WorkerSession) -> None:
    script = Script()
    link = FakeLink(worker, script)
    worker.confirm(0.0)
    (call,) = link.write()
    add_function(worker, "f")
    script.answer(call, result={"success": True})
    link.carry()
    assert worker.phase is Phase.JOINED
    assert not worker.is_ready
    worker.confirm(0.0)
    script.answer(link.write()[0], result={"success": True})
    link.carry()
    assert worker.is_ready


def test_an_error_in_answer_to_a_later_register_call_confirms_as_well(worker: WorkerSession) -> None:
    """§3.4: the engine read the registrations before it. Asking again would get the same answer, for ever."""
    link, script = join(worker)
    add_function(worker, "f")
    worker.confirm(0.0)
    script.answer(link.write()[-1], error={"code": "invocation_error", "message": "too many calls in flight"})
    link.carry()
    assert worker.phase is Phase.JOINED
    assert worker.is_ready


def test_a_worker_without_a_link_is_not_ready(worker: WorkerSession) -> None:
    assert not worker.is_ready
    link, _ = join(worker)
    assert worker.is_ready
    link.close()
    assert not worker.is_ready
    FakeLink(worker, Script())
    assert not worker.is_ready


def test_a_confirmation_ends_with_its_link(worker: WorkerSession) -> None:
    link, _ = join(worker)
    add_function(worker, "f")
    worker.confirm(0.0)
    link.write()
    link.close()
    assert len(worker.calls) == 0
    join(worker)
    assert worker.is_ready


def test_the_revision_grows_with_phase_identity_readiness_and_refusals(worker: WorkerSession) -> None:
    """Whoever waits for one of them looks again when it has changed."""
    script = Script()
    seen = [worker.revision]

    def has_grown() -> bool:
        seen.append(worker.revision)
        return seen[-1] > seen[-2]

    link = FakeLink(worker, script)
    assert has_grown()
    script.say("workerregistered", worker_id="w")
    link.carry()
    assert has_grown()
    script.answer(link.written[-1], result=None)
    link.carry()
    assert has_grown()
    add_function(worker, "f")
    assert has_grown()
    add_trigger(worker, "1")
    assert has_grown()
    script.say("registrationrejected", code="FUNCTION_NAMESPACE_CONFLICT", function_id="f")
    link.carry()
    assert has_grown()
    script.say("triggerregistrationresult", id="1", error={"code": "c", "message": "m"})
    link.carry()
    assert has_grown()
    script.say("error", error={"code": "AUTH_ERROR", "message": "no token"})
    link.carry()
    assert has_grown()
    script.say("ping")
    link.carry()
    assert not has_grown()
    link.close()
    assert has_grown()


# -- refusals -------------------------------------------------------------------------------------------------------


def test_a_refused_function_is_reported_and_the_rest_is_served(worker: WorkerSession, router: Router) -> None:
    """P-18, P-115."""
    other = WorkerSession(IDENTITY | {"name": "other"}, max_queued=1)
    add_function(other, "taken")
    theirs = FakeLink(other, RouterEnd(router))
    theirs.carry()
    refused, served = add_function(worker, "taken"), add_function(worker, "free")
    link = FakeLink(worker, RouterEnd(router))
    link.carry()
    assert worker.is_ready
    assert worker.fatal is None
    assert served.refusal is None
    assert worker.registry.refusals() == [refused.refusal]
    assert isinstance(refused.refusal, RegistrationRejectedError)
    assert refused.refusal.code == "FUNCTION_NAMESPACE_CONFLICT"
    assert refused.refusal.function_id == "taken"
    assert refused.refusal.namespace == "orders"
    assert refused.refusal.owner_worker_id == other.worker_id
    assert [type(message) for message in link.acted] == [RegistrationRejected]


def test_a_refusal_of_a_function_that_is_not_ours_any_more_changes_nothing(worker: WorkerSession) -> None:
    link, script = join(worker)
    add_function(worker, "f")
    script.say("registrationrejected", code="FUNCTION_NAMESPACE_CONFLICT", function_id="gone")
    script.say("registrationrejected", code="FUNCTION_NAMESPACE_CONFLICT")
    link.carry()
    assert worker.phase is Phase.JOINED
    assert worker.registry.refusals() == []


def test_a_refusal_is_forgotten_with_its_link(worker: WorkerSession) -> None:
    """The next engine, or the same one an hour later, may accept it."""
    function, trigger = add_function(worker, "f"), add_trigger(worker, "1")
    link, script = join(worker)
    script.say("registrationrejected", code="FUNCTION_NAMESPACE_CONFLICT", function_id="f")
    script.say("triggerregistrationresult", id="1", error={"code": "c", "message": "m"})
    link.carry()
    assert worker.registry.refusals() == [function.refusal, trigger.refusal]
    link.close()
    join(worker)
    assert worker.registry.refusals() == []


def test_a_refused_trigger_is_reported_with_what_its_provider_said(worker: WorkerSession) -> None:
    """P-51."""
    entry = add_trigger(worker, "1")
    link, script = join(worker)
    script.say(
        "triggerregistrationresult",
        id="1",
        trigger_type="webhook",
        function_id="f",
        error={"code": "trigger_registration_failed", "message": "path taken"},
    )
    link.carry()
    refusal = entry.refusal
    assert isinstance(refusal, TriggerRegistrationError)
    assert (refusal.code, refusal.message) == ("trigger_registration_failed", "path taken")
    assert (refusal.trigger_id, refusal.trigger_type, refusal.function_id) == ("1", "webhook", "f")
    assert [type(message) for message in link.acted] == [TriggerRegistrationResult]


def test_a_refusal_of_a_trigger_that_was_withdrawn_is_only_logged(worker: WorkerSession) -> None:
    link, script = join(worker)
    script.say("triggerregistrationresult", id="gone", error={"code": "c", "message": "m"})
    link.carry()
    assert [type(message) for message in link.acted] == [TriggerRegistrationResult]
    assert worker.registry.refusals() == []


@pytest.mark.parametrize("outcome", [{}, {"error": None}, {"error": {}}])
def test_an_accepted_trigger_is_no_news(worker: WorkerSession, outcome: dict[str, Any]) -> None:
    """§5.4 for all results: a missing or empty error is success."""
    add_trigger(worker, "1")
    link, script = join(worker)
    script.say("triggerregistrationresult", id="1", **outcome)
    link.carry()
    assert link.acted == []
    assert worker.registry.refusals() == []


@pytest.mark.parametrize("code", ["WORKER_NAMESPACE_CONFLICT", "SOMETHING_NEW"])
@pytest.mark.parametrize("is_joined", [True, False], ids=["joined", "joining"])
def test_a_fatal_rejection_ends_every_call_and_refuses_later_ones(
    worker: WorkerSession, code: str, is_joined: bool
) -> None:
    """P-17."""
    script = Script()
    link = join(worker, script)[0] if is_joined else FakeLink(worker, script)
    calls = [make_call(number, 9.0, void=number == 1) for number in range(2)]
    for call, _ in calls:
        worker.submit(call, 0.0)
    script.say("registrationrejected", code=code, namespace="orders", worker_name="billing", owner_worker_id="w-9")
    link.carry_to_worker()
    assert worker.phase is Phase.REFUSED
    error = worker.fatal
    assert isinstance(error, RegistrationRejectedError)
    assert (error.code, error.namespace, error.worker_name) == (code, "orders", "billing")
    assert (error.owner_worker_id, error.function_id) == ("w-9", None)
    for call, woken in calls:
        assert woken == [1]
        with pytest.raises(RegistrationRejectedError):
            call.value()
    with pytest.raises(RegistrationRejectedError):
        submit(worker)
    assert not [message for message in link.write() if message.get("function_id") == "f"]
    assert not worker.is_ready
    assert [type(message) for message in link.acted] == [RegistrationRejected]


def test_a_refused_worker_stays_refused_when_its_link_ends(worker: WorkerSession) -> None:
    """P-17: the engine closes after a rejection."""
    script = Script()
    link = FakeLink(worker, script)
    script.say("registrationrejected", code="WORKER_NAMESPACE_CONFLICT")
    link.carry()
    link.close()
    assert worker.phase is Phase.REFUSED
    assert len(worker.calls) == 0
    entry = add_function(worker, "f")
    worker.withdraw(entry)
    worker.confirm(0.0)
    assert not worker.answer(worker.link, b"{}")
    assert not worker.has_outgoing


def test_a_name_held_by_a_lost_connection_of_ours_is_asked_for_again(worker: WorkerSession) -> None:
    """§6.4, §6.5: the link went silent before the engine's greeting, so there is nothing to reattach to."""
    FakeLink(worker, Script()).close()
    for _ in range(MAX_CONFLICTS):
        script = Script()
        link = FakeLink(worker, script)
        script.say("workerregistered", worker_id="w-2", reattach_token="t-2")
        script.say("registrationrejected", code="WORKER_NAMESPACE_CONFLICT", worker_name="billing")
        link.carry()
        assert worker.fatal is None
        link.close()
    script = Script()
    link = FakeLink(worker, script)
    script.say("registrationrejected", code="WORKER_NAMESPACE_CONFLICT", worker_name="billing")
    link.carry()
    assert worker.phase is Phase.REFUSED


def test_once_joined_a_conflict_is_fatal_again(worker: WorkerSession) -> None:
    """P-17."""
    FakeLink(worker, Script()).close()
    script = Script()
    join(worker, script)[0].close()
    script = Script()
    link = FakeLink(worker, script)
    script.say("registrationrejected", code="WORKER_NAMESPACE_CONFLICT", worker_name="billing")
    link.carry()
    assert worker.phase is Phase.REFUSED


def test_two_workers_of_one_name_are_one_too_many(worker: WorkerSession, router: Router) -> None:
    """P-17, P-110."""
    FakeLink(worker, RouterEnd(router)).carry()
    second = WorkerSession(IDENTITY, max_queued=1)
    link = FakeLink(second, RouterEnd(router))
    link.carry()
    assert second.phase is Phase.REFUSED
    assert second.fatal is not None
    assert second.fatal.code == "WORKER_NAMESPACE_CONFLICT"
    assert worker.phase is Phase.JOINED


@pytest.mark.parametrize("code", ["FORBIDDEN", "INVALID_NAMESPACE"])
def test_an_error_in_answer_to_the_first_register_call_is_a_refusal(worker: WorkerSession, code: str) -> None:
    """§6.2: the connection stays open and unregistered, so nothing would ever work."""
    script = Script()
    call = submit(worker)
    link = FakeLink(worker, script)
    script.answer(link.write()[-1], error={"code": code, "message": "not here"})
    link.carry()
    assert worker.phase is Phase.REFUSED
    assert worker.fatal is not None
    assert (worker.fatal.code, worker.fatal.namespace, worker.fatal.worker_name) == (code, "orders", "billing")
    with pytest.raises(RegistrationRejectedError):
        call.value()


def test_refused_credentials_are_known_until_the_next_link(worker: WorkerSession) -> None:
    """P-19, §5.7, G-9."""
    script = Script()
    link = FakeLink(worker, script)
    script.say("error", error={"code": "AUTH_ERROR", "message": "no token"})
    link.carry()
    refused = worker.refused_credentials
    assert isinstance(refused, AuthenticationError)
    assert (refused.code, refused.message) == ("AUTH_ERROR", "no token")
    assert [type(message) for message in link.acted] == [ErrorMessage]
    assert worker.fatal is None
    link.close()
    assert worker.refused_credentials is refused
    FakeLink(worker, Script())
    assert worker.refused_credentials is None


# -- calls ----------------------------------------------------------------------------------------------------------


def test_calls_wait_until_the_engine_has_answered_the_register_call(worker: WorkerSession) -> None:
    """G-8: before that our own functions cannot be found."""
    offline = submit(worker, "offline")
    script = Script()
    link = FakeLink(worker, script)
    joining = submit(worker, "joining")
    written = link.write()
    assert kinds(written) == [("invokefunction", REGISTER)]
    assert not offline.is_sent
    script.answer(written[0], result={"success": True})
    link.carry_to_worker()
    joined = submit(worker, "joined")
    assert [message["data"] for message in link.write()] == ["offline", "joining", "joined"]
    assert all(call.is_sent for call in (offline, joining, joined))


def test_what_waits_to_be_written_is_counted_in_bytes(worker: WorkerSession) -> None:
    """So that producers can wait while it is too much."""
    add_function(worker, "f")
    submit(worker, "offline")
    script = Script()
    link = FakeLink(worker, script)
    outgoing_bytes = worker.outgoing_bytes
    assert outgoing_bytes == sum(map(len, worker.take_outgoing()))
    assert worker.outgoing_bytes == 0
    worker.link_down()
    link = FakeLink(worker, script)
    script.answer(link.write()[-1], result=None)
    link.carry_to_worker()
    submit(worker, "joined")
    worker.answer(link.number, b"result")
    add_function(worker, "g")
    worker.confirm(0.0)
    outgoing_bytes = worker.outgoing_bytes
    texts = worker.take_outgoing()
    assert len(texts) == 5
    assert outgoing_bytes == sum(map(len, texts))


def test_a_call_is_written_as_it_was_encoded_and_ends_with_its_answer(worker: WorkerSession) -> None:
    link, script = join(worker)
    call, woken = make_call({"sku": "A-1"})
    text = call.text
    worker.submit(call, 0.0)
    assert worker.outgoing_bytes == len(text)
    (message,) = link.write()
    assert message == json.loads(text)
    assert (worker.outgoing_bytes, worker.has_outgoing, call.text) == (0, False, b"")
    script.answer(message, result={"id": 7})
    link.carry()
    assert (call.value(), woken) == ({"id": 7}, [1])
    assert link.acted == []


@pytest.mark.parametrize(
    ("outcome", "value"),
    [
        ({}, None),
        ({"result": None}, None),
        ({"result": 1}, 1),
        ({"result": 1, "error": None}, 1),
        ({"result": 1, "error": {}}, 1),
    ],
)
def test_an_answer_without_an_error_is_success(worker: WorkerSession, outcome: dict[str, Any], value: Any) -> None:
    """P-30, G-18, §5.4."""
    link, script = join(worker)
    call = submit(worker)
    script.answer(link.write()[0], **outcome)
    link.carry()
    assert call.value() == value


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({"code": "out_of_stock", "message": "none left"}, "out_of_stock", "none left"),
        ({"message": "none left"}, "UNKNOWN", "none left"),
        ({"code": "out_of_stock"}, "out_of_stock", "<no message>"),
        ("broken", "UNKNOWN", "broken"),
        (["broken"], "UNKNOWN", "['broken']"),
    ],
)
def test_an_answer_with_an_error_fails_the_call_however_the_error_looks(
    worker: WorkerSession, error: Any, code: str, message: str
) -> None:
    """P-30: an error wins over a result; P-31."""
    link, script = join(worker)
    call = submit(worker)
    script.answer(link.write()[0], result=1, error=error)
    link.carry()
    with pytest.raises(InvocationError) as raised:
        call.value()
    assert (raised.value.code, raised.value.message) == (code, message)
    assert (raised.value.function_id, raised.value.invocation_id) == ("f", call.invocation_id)


def test_an_error_names_the_function_that_was_called_whatever_the_answer_says(worker: WorkerSession) -> None:
    """§5.4: nobody checks the function id of a result."""
    link, script = join(worker)
    call = submit(worker)
    link.write()
    error = {"code": "c", "message": "m", "stacktrace": "Traceback"}
    script.say("invocationresult", invocation_id=call.invocation_id, function_id="another", error=error)
    link.carry()
    with pytest.raises(InvocationError) as raised:
        call.value()
    assert raised.value.function_id == "f"
    assert raised.value.stacktrace == "Traceback"


def test_answers_with_unknown_ids_are_ignored(worker: WorkerSession) -> None:
    """P-33, G-12."""
    link, script = join(worker)
    call = submit(worker)
    link.write()
    script.say("invocationresult", invocation_id=new_id(), function_id="f", result=1)
    script.say("invocationresult", invocation_id="no uuid", function_id="f", error={"code": "FORBIDDEN", "message": ""})
    link.carry()
    assert not call.is_done
    assert worker.phase is Phase.JOINED


def test_a_void_call_ends_when_it_is_written(worker: WorkerSession) -> None:
    """P-34, P-28."""
    link, _ = join(worker)
    call, woken = make_call("void", void=True)
    worker.submit(call, 0.0)
    assert not call.is_done
    (message,) = link.write()
    assert (message["data"], message["action"]) == ("void", {"type": "void"})
    assert "invocation_id" not in message
    assert (call.value(), woken) == (None, [1])


def test_a_call_is_never_written_after_its_caller_has_gone(worker: WorkerSession) -> None:
    """Neither from the queue nor from what is about to be written."""
    queued = submit(worker, "queued")
    worker.calls.abandon(queued)
    link, _ = join(worker)
    assert link.write() == []
    unwritten, kept = submit(worker, "unwritten"), submit(worker, "kept")
    worker.calls.abandon(unwritten)
    assert [message["data"] for message in link.write()] == ["kept"]
    assert not kept.is_done


def test_a_call_is_never_written_after_its_time_is_up(worker: WorkerSession) -> None:
    """P-29; a void call too."""
    calls = [submit(worker, number, 1.0, void=number == 1) for number in range(2)]
    assert worker.calls.expire(1.0) == calls
    link, _ = join(worker)
    assert link.write() == []
    late = submit(worker, "late", 1.0)
    assert worker.calls.expire(1.0) == [late]
    assert link.write() == []
    for call in (*calls, late):
        with pytest.raises(InvocationTimeoutError):
            call.value()


def test_a_call_refused_by_a_full_queue_was_never_made(worker: WorkerSession) -> None:
    """P-26: it does not take effect later, neither on the wire nor as a timeout."""
    waiting = [submit(worker, number) for number in range(2)]
    call, woken = make_call("refused", 1.0)
    with pytest.raises(OfflineQueueFullError):
        worker.submit(call, 0.0)
    assert len(worker.calls) == 2
    assert worker.calls.next_deadline() is None
    assert worker.calls.expire(9.0) == []
    link, _ = join(worker)
    assert [message["data"] for message in link.written if message["function_id"] == "f"] == [0, 1]
    assert all(call.is_sent for call in waiting)
    assert woken == []


# -- a link goes down -----------------------------------------------------------------------------------------------


def test_a_lost_link_fails_what_was_written_and_keeps_what_was_not(worker: WorkerSession) -> None:
    """P-36, §7.5."""
    link, _ = join(worker)
    written, woken = make_call("written")
    worker.submit(written, 0.0)
    link.write()
    unwritten = submit(worker, "unwritten")
    link.close()
    assert worker.phase is Phase.OFFLINE
    assert woken == [1]
    with pytest.raises(ConnectionLostError) as raised:
        written.value()
    assert raised.value.may_have_run
    assert (raised.value.code, raised.value.function_id) == ("CONNECTION_LOST", "f")
    assert raised.value.invocation_id == written.invocation_id
    later = submit(worker, "later")
    link, _ = join(worker)
    assert [message["data"] for message in link.written if message.get("function_id") == "f"] == ["unwritten", "later"]
    assert not unwritten.is_done
    assert not later.is_done


def test_a_void_call_that_was_not_written_goes_out_on_the_next_link(worker: WorkerSession) -> None:
    link, _ = join(worker)
    call = submit(worker, "void", void=True)
    link.close()
    assert not call.is_done
    link, _ = join(worker)
    assert [message["data"] for message in link.written if message.get("function_id") == "f"] == ["void"]
    assert call.is_done


def test_a_link_lost_while_joining_leaves_no_trace(worker: WorkerSession) -> None:
    """P-13: neither the register call nor a registration is written twice on the next link."""
    add_function(worker, "f")
    call = submit(worker)
    link = FakeLink(worker, Script())
    add_function(worker, "g")
    assert link.close() == 2
    assert (worker.has_outgoing, worker.outgoing_bytes, len(worker.calls)) == (False, 0, 1)
    link, _ = join(worker)
    assert kinds(link.written) == [
        ("registerfunction", "f"),
        ("registerfunction", "g"),
        ("invokefunction", REGISTER),
        ("invokefunction", "f"),
    ]
    assert call.is_sent


def test_the_messages_that_go_down_with_a_link_are_counted(worker: WorkerSession) -> None:
    """Calls are not among them: they wait for the next link."""
    link, _ = join(worker)
    submit(worker)
    assert worker.answer(link.number, encode(InvocationResult(new_id(), "f", 1)))
    add_function(worker, "f")
    assert link.close() == 2
    assert link.worker.link_down() == 0


# -- what the engine asks of us -------------------------------------------------------------------------------------


def test_invocations_and_bindings_are_handed_to_the_runtime(worker: WorkerSession) -> None:
    link, script = join(worker)
    script.say("invokefunction", function_id="f", data=None, invocation_id=new_id())
    script.say("registertrigger", id="1", trigger_type="webhook", function_id="f", config=None)
    script.say("unregistertrigger", id="1", trigger_type="webhook")
    link.carry()
    assert [type(message) for message in link.acted] == [InvokeFunction, RegisterTrigger, UnregisterTrigger]


def test_a_result_is_sent_on_the_link_its_invocation_came_on_and_on_no_other(worker: WorkerSession) -> None:
    """P-45."""
    text = encode(InvocationResult(new_id(), "f", "late"))
    assert not worker.answer(0, text)
    link, _ = join(worker)
    assert worker.answer(link.number, text)
    assert [message["result"] for message in link.write()] == ["late"]
    link.close()
    assert not worker.answer(link.number, text)
    second = FakeLink(worker, Script())
    assert not worker.answer(link.number, text)
    assert worker.answer(second.number, text)
    assert [message["result"] for message in second.write()[1:] if "result" in message] == ["late"]


def test_a_json_ping_is_answered(worker: WorkerSession) -> None:
    """§3.2, G-25."""
    link, script = join(worker)
    script.say("ping")
    link.carry_to_worker()
    assert link.write() == [{"type": "pong"}]
    assert link.acted == []


def test_what_a_worker_need_not_know_is_ignored(worker: WorkerSession) -> None:
    """P-10."""
    link, script = join(worker)
    script.say("pong")
    script.say("later", id="f")
    script.say("workerregistered", worker_id="w-1", reattach_token="t-1", motd="hello")
    link.carry()
    assert link.acted == []
    assert not worker.has_outgoing
    assert worker.phase is Phase.JOINED


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"type": 1}', '{"type": "workerregistered"}'])
def test_what_is_no_message_is_reported_and_changes_nothing(worker: WorkerSession, text: str) -> None:
    """P-10: the caller logs it and reads on."""
    link, script = join(worker)
    revision = worker.revision
    with pytest.raises(DecodeError):
        worker.receive(text.encode())
    assert (worker.phase, worker.revision, worker.has_outgoing) == (Phase.JOINED, revision, False)
    script.say("ping")
    link.carry()
    assert link.written[-1] == {"type": "pong"}


# -- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["offline", "joining", "joined", "confirming"])
def test_the_end_of_the_worker_ends_every_call_with_the_reason(worker: WorkerSession, moment: str) -> None:
    """P-35: a shutdown is none of the engine's refusals, whatever was under way."""
    if moment == "joining":
        FakeLink(worker, Script())
    elif moment != "offline":
        link, _ = join(worker)
        written, _ = make_call("written", 9.0)
        worker.submit(written, 0.0)
        link.write()
    if moment == "confirming":
        add_function(worker, "f")
        worker.confirm(0.0)
    calls = [make_call(number, 9.0, void=number == 1) for number in range(2)]
    for call, _ in calls:
        worker.submit(call, 0.0)
    worker.fail(ShutdownError("SHUTDOWN", "over"))
    assert worker.fatal is None
    assert worker.phase is not Phase.REFUSED
    assert not worker.is_ready or moment == "joined"
    for call, woken in calls:
        assert woken == [1]
        with pytest.raises(ShutdownError):
            call.value()
    assert len(worker.calls) == 0
    assert worker.calls.expire(9.0) == []
    assert not [text for text in worker.take_outgoing() if json.loads(text).get("function_id") == "f"]


def test_the_end_of_the_retries_ends_every_call(worker: WorkerSession) -> None:
    """P-24."""
    call = submit(worker)
    worker.fail(ConnectError("ws://127.0.0.1:1", "refused"))
    with pytest.raises(ConnectError):
        call.value()
