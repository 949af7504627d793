"""Calls between workers (§7)."""

from __future__ import annotations

from typing import Any

import pytest

from iii_anyio.devengine._builtin import Deferred
from iii_anyio.errors import InvocationError
from tests.devengine.peers import Hub, Peer, limit_messages, make_uuid

VOID = {"action": {"type": "void"}}
ENQUEUE = {"action": {"type": "enqueue", "queue": "jobs"}}


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def callee(hub: Hub) -> Peer:
    worker = hub.join("callee")
    worker.function("rec::add")
    return worker


@pytest.fixture
def caller(hub: Hub) -> Peer:
    return hub.join("caller")


def active(peer: Peer) -> dict[str, int]:
    """What each worker has open, as anybody can see it."""
    return {row["name"]: row["active_invocations"] for row in peer.ask("engine::workers::list")["workers"]}


# -- there and back ----------------------------------------------------------------------------------------------


def test_a_call_goes_to_the_owner_and_its_result_comes_back(caller: Peer, callee: Peer) -> None:
    """P-118, P-119, P-120, transcript `invoke`."""
    invocation_id = caller.invoke("rec::add", {"a": 1, "b": 2})
    invocation = callee.take_one()
    assert invocation == {
        "type": "invokefunction",
        "invocation_id": invocation_id,
        "function_id": "rec::add",
        "data": {"_caller_worker_id": caller.worker_id, "a": 1, "b": 2},
    }
    assert callee.answer(invocation, result={"sum": 3}) == []
    assert caller.take() == [
        {
            "type": "invocationresult",
            "invocation_id": invocation_id,
            "function_id": "rec::add",
            "result": {"sum": 3},
        }
    ]


@pytest.mark.parametrize("outcome", [{"result": None}, {}, {"error": None}, {"error": {}}])
def test_a_result_without_value_is_relayed_without_one(caller: Peer, callee: Peer, outcome: dict[str, Any]) -> None:
    """§5.4, G-18, transcript `invoke`."""
    invocation_id = caller.invoke("rec::add", {})
    callee.answer(callee.take_one(), **outcome)
    answer = {"type": "invocationresult", "invocation_id": invocation_id, "function_id": "rec::add"}
    assert caller.take() == [answer]


@pytest.mark.parametrize("result", [0, False, "", [], {}, {"error": 1}])
def test_a_falsy_result_is_a_result(caller: Peer, callee: Peer, result: Any) -> None:
    caller.invoke("rec::add", {})
    callee.answer(callee.take_one(), result=result)
    assert caller.take_one()["result"] == result


def test_an_error_is_relayed_whole_and_wins_over_a_result(caller: Peer, callee: Peer) -> None:
    """P-120, §5.4, transcript `invoke`."""
    caller.invoke("rec::add", {})
    error = {"code": "invocation_failed", "message": "no good", "stacktrace": "Traceback …"}
    callee.answer(callee.take_one(), error=error, result=1)
    answer = caller.take_one()
    assert answer["error"] == error
    assert "result" not in answer


@pytest.mark.parametrize(
    ("error", "body"),
    [
        ("kaput", {"code": "UNKNOWN", "message": "kaput"}),
        (7, {"code": "UNKNOWN", "message": "7"}),
        (["x"], {"code": "UNKNOWN", "message": '["x"]'}),
        ({"message": "m"}, {"code": "UNKNOWN", "message": "m"}),
        ({"code": 5, "message": "m"}, {"code": "UNKNOWN", "message": "m"}),
        ({"code": "c"}, {"code": "c", "message": '{"code":"c"}'}),
        ({"code": "c", "message": "m", "stacktrace": 1, "x": 2}, {"code": "c", "message": "m"}),
    ],
)
def test_a_malformed_error_still_ends_the_call(caller: Peer, callee: Peer, error: Any, body: dict[str, Any]) -> None:
    """§4.4: upstream drops the frame, and the caller waits until its timeout."""
    caller.invoke("rec::add", {})
    callee.answer(callee.take_one(), error=error)
    assert caller.take_one()["error"] == body


@pytest.mark.parametrize("data", [None, [1, 2], "str", 7, True])
def test_data_that_is_no_object_travels_as_it_is(caller: Peer, callee: Peer, data: Any) -> None:
    """P-119, transcript `invoke`."""
    caller.invoke("rec::add", data)
    invocation = callee.take_one()
    assert "data" in invocation
    assert invocation["data"] == data


def test_a_caller_cannot_pretend_to_be_another(caller: Peer, callee: Peer) -> None:
    """C-4."""
    caller.invoke("rec::add", {"_caller_worker_id": "forged"})
    assert callee.take_one()["data"] == {"_caller_worker_id": caller.worker_id}


def test_calls_of_in_process_workers_count_as_the_engines_own(hub: Hub, callee: Peer) -> None:
    """T-15."""
    hub.join("iii-http", in_process=True).invoke("rec::add", {"a": 1})
    assert callee.take_one()["data"] == {"a": 1}


def test_naming_the_caller_can_be_turned_off() -> None:
    """P-119."""
    hub = Hub(inject_caller_id=False)
    worker = hub.join("w")
    worker.function("f")
    worker.invoke("f", {"a": 1})
    assert worker.take_one()["data"] == {"a": 1}


def test_metadata_is_passed_on_and_action_and_namespace_are_not(hub: Hub, caller: Peer) -> None:
    """P-118, §5.3."""
    callee = hub.join("blue", namespace="blue")
    callee.function("f")
    caller.invoke("f", {}, metadata={"x": 1}, namespace="blue", **VOID)
    invocation = callee.take_one()
    assert set(invocation) == {"type", "invocation_id", "function_id", "data", "metadata"}
    assert invocation["metadata"] == {"x": 1}


def test_null_metadata_is_none(caller: Peer, callee: Peer) -> None:
    """§4.1."""
    caller.invoke("rec::add", {}, metadata=None)
    assert "metadata" not in callee.take_one()


def test_a_worker_can_call_itself(callee: Peer) -> None:
    invocation_id = callee.invoke("rec::add", 1)
    invocation = callee.take_one()
    (answer,) = callee.answer(invocation, result=2)
    assert (answer["invocation_id"], answer["result"]) == (invocation_id, 2)


def test_an_invocation_id_is_echoed_in_canonical_form(caller: Peer, callee: Peer) -> None:
    """§4.2, G-19; the callee may answer in any form."""
    sent = "9F3C1A520B6E4C398A5F2F6F7F0F9A11"
    canonical = "9f3c1a52-0b6e-4c39-8a5f-2f6f7f0f9a11"
    caller.invoke("rec::add", {}, invocation_id=sent)
    invocation = callee.take_one()
    assert invocation["invocation_id"] == canonical
    callee.answer({**invocation, "invocation_id": sent}, result=1)
    assert caller.take_one()["invocation_id"] == canonical


def test_answers_come_in_any_order_and_late(caller: Peer, callee: Peer) -> None:
    """P-124: no timeout."""
    ids = [caller.invoke("rec::add", number) for number in range(3)]
    invocations = callee.take()
    for invocation in reversed(invocations):
        callee.answer(invocation, result=invocation["data"])
    assert [(answer["invocation_id"], answer["result"]) for answer in caller.take()] == [
        (ids[2], 2),
        (ids[1], 1),
        (ids[0], 0),
    ]


# -- refusals ----------------------------------------------------------------------------------------------------


def test_an_unknown_function_is_answered_in_upstreams_words(caller: Peer) -> None:
    """P-117, transcript `invoke`."""
    assert caller.refusal("rec::missing", {}) == {
        "code": "function_not_found",
        "message": "Function rec::missing not found in namespace default.",
    }


def test_a_function_is_looked_up_in_exactly_the_namespace_of_the_call(hub: Hub, callee: Peer) -> None:
    """P-117: not in the caller's, and `default` is no fallback."""
    blue = hub.join("b", namespace="blue")
    blue.function("only::blue")
    assert blue.refusal("only::blue")["code"] == "function_not_found"
    assert blue.refusal("rec::add", namespace="blue")["message"] == (
        "Function rec::add not found in namespace blue. It is registered in namespace(s): default."
    )


def test_a_blank_namespace_is_refused(caller: Peer) -> None:
    """§7.1."""
    assert caller.refusal("rec::add", {}, namespace=" ")["code"] == "INVALID_NAMESPACE"


def test_a_null_namespace_is_none(caller: Peer, callee: Peer) -> None:
    """G-17."""
    caller.invoke("rec::add", {}, namespace=None)
    assert len(callee.take()) == 1


def test_an_id_that_is_no_uuid_is_answered_under_itself(caller: Peer, callee: Peer) -> None:
    """Upstream drops the frame in silence (§4.2)."""
    error = caller.refusal("rec::add", {}, invocation_id="call-1")
    assert error["code"] == "invalid_message"
    assert "'call-1' is not a UUID" in error["message"]
    assert callee.take() == []


@pytest.mark.parametrize(
    "action", [{"type": "later"}, {}, {"type": "enqueue"}, {"type": "enqueue", "queue": 1}, {"type": 1}, "void", []]
)
def test_an_unknown_action_is_answered(caller: Peer, callee: Peer, action: Any) -> None:
    """§5.3: upstream drops the frame in silence."""
    assert caller.refusal("rec::add", {}, action=action)["code"] == "invalid_message"
    assert callee.take() == []


def test_an_id_in_flight_is_refused_to_a_second_call(hub: Hub, caller: Peer, callee: Peer) -> None:
    """§7.8: upstream breaks both calls."""
    other = hub.join("other")
    invocation_id = caller.invoke("rec::add", {})
    invocation = callee.take_one()
    assert other.refusal("rec::add", {}, invocation_id=invocation_id)["code"] == "invocation_error"
    assert callee.take() == []
    callee.answer(invocation, result=1)
    assert caller.take_one()["result"] == 1
    assert other.take() == []
    other.invoke("rec::add", {}, invocation_id=invocation_id)
    assert callee.take_one()["invocation_id"] == invocation_id


# -- void --------------------------------------------------------------------------------------------------------


def test_a_void_call_is_never_answered_and_the_callee_gets_an_id(caller: Peer, callee: Peer) -> None:
    """P-118, P-121, Q-13, G-3."""
    caller.invoke("rec::add", {}, metadata=1, **VOID)
    invocation = callee.take_one()
    assert invocation["invocation_id"]
    assert (invocation["metadata"], invocation["data"]) == (1, {"_caller_worker_id": caller.worker_id})
    assert active(caller)["callee"] == 1
    callee.answer(invocation, result=1)
    assert caller.take() == []
    assert active(caller)["callee"] == 0


def test_a_void_call_keeps_its_own_id_unless_another_call_has_it(caller: Peer, callee: Peer) -> None:
    """P-118."""
    invocation_id = caller.invoke("rec::add", {}, invocation_id=make_uuid(999), **VOID)
    assert callee.take_one()["invocation_id"] == invocation_id
    caller.invoke("rec::add", {}, invocation_id=invocation_id, **VOID)
    assert callee.take_one()["invocation_id"] != invocation_id


@pytest.mark.parametrize(
    "fields",
    [{"function_id": "missing"}, {"function_id": "f", "namespace": ""}, {"function_id": "f", "invocation_id": "x"}],
)
def test_a_void_call_that_fails_is_logged_with_the_worker(
    caller: Peer, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """P-121: nothing on the wire says so."""
    assert caller.send({"type": "invokefunction", "data": 1, **VOID, **fields}) == []
    assert "'caller'" in caplog.text


# -- results -----------------------------------------------------------------------------------------------------


def test_results_with_unknown_ids_are_ignored(caller: Peer, callee: Peer) -> None:
    """P-125, G-12."""
    for invocation_id in (make_uuid(1234), "no uuid"):
        message = {"type": "invocationresult", "invocation_id": invocation_id, "function_id": "f", "result": 1}
        assert callee.send(message) == []
    assert caller.take() == []


def test_a_result_is_taken_from_the_callee_only(hub: Hub, caller: Peer, callee: Peer) -> None:
    """P-125, stricter than upstream (§7.8)."""
    caller.invoke("rec::add", {})
    invocation = callee.take_one()
    hub.join("third").answer(invocation, result="forged")
    caller.answer(invocation, result="forged")
    assert caller.take() == []
    callee.answer(invocation, result="real")
    callee.answer(invocation, result="again")
    assert [answer["result"] for answer in caller.take()] == ["real"]


# -- disconnects -------------------------------------------------------------------------------------------------


def test_calls_of_a_lost_callee_end_at_once(caller: Peer, callee: Peer) -> None:
    """P-123, §7.5."""
    invocation_id = caller.invoke("rec::add", {})
    callee.leave()
    answer = caller.take_one()
    assert answer == {
        "type": "invocationresult",
        "invocation_id": invocation_id,
        "function_id": "rec::add",
        "error": {"code": "invocation_stopped", "message": "Invocation stopped"},
    }


def test_calls_of_a_lost_caller_are_forgotten(hub: Hub, caller: Peer, callee: Peer) -> None:
    """P-123, G-5: the callee is told nothing."""
    caller.invoke("rec::add", {})
    invocation = callee.take_one()
    caller.leave()
    assert callee.take() == []
    assert active(callee)["callee"] == 1  # the one that asks
    assert callee.answer(invocation, result=1) == []
    assert caller.take() == []


def test_nothing_is_delivered_for_a_call_to_oneself_when_one_leaves(hub: Hub, callee: Peer) -> None:
    """§7.5."""
    callee.invoke("rec::add", {})
    callee.leave()
    assert [message["type"] for message in callee.received] == ["invokefunction"]
    assert "invocations=0" in repr(hub.router)


def test_a_replaced_function_is_called_at_its_new_owner(hub: Hub, caller: Peer, callee: Peer) -> None:
    callee.leave()
    fresh = hub.join("callee")
    fresh.function("rec::add")
    caller.invoke("rec::add", {})
    assert len(fresh.take()) == 1


# -- trace context -----------------------------------------------------------------------------------------------


def test_trace_context_goes_to_the_callee_and_comes_back_as_the_callers(caller: Peer, callee: Peer) -> None:
    """§7.6, §5.4: the callee's own is ignored."""
    caller.invoke("rec::add", {}, traceparent="00-a-b-01", baggage="k=v, iii.function.id=old ,x=y;p=1")
    invocation = callee.take_one()
    assert invocation["traceparent"] == "00-a-b-01"
    assert invocation["baggage"] == "k=v,x=y;p=1,iii.function.id=rec::add"
    callee.answer(invocation, result=1, traceparent="00-c-d-01", baggage="z=1")
    answer = caller.take_one()
    assert (answer["traceparent"], answer["baggage"]) == ("00-a-b-01", "k=v, iii.function.id=old ,x=y;p=1")


def test_with_a_traceparent_alone_baggage_names_the_function(caller: Peer, callee: Peer) -> None:
    """§7.6."""
    caller.invoke("rec::add", {}, traceparent="00-a-b-01")
    assert callee.take_one()["baggage"] == "iii.function.id=rec::add"


def test_a_function_id_is_escaped_in_baggage(hub: Hub, caller: Peer) -> None:
    worker = hub.join("w")
    worker.function('a,b;c "ü"%')
    caller.invoke('a,b;c "ü"%', {}, baggage="k=v")
    assert worker.take_one()["baggage"] == "k=v,iii.function.id=a%2Cb%3Bc%20%22%C3%BC%22%25"


# -- enqueue -----------------------------------------------------------------------------------------------------


def test_an_enqueue_without_provider_says_how_to_get_one(caller: Peer, callee: Peer) -> None:
    """P-122, Q-11, transcript `invoke`: word for word."""
    assert caller.refusal("rec::add", {"a": 1, "b": 2}, **ENQUEUE) == {
        "code": "enqueue_error",
        "message": (
            "No queue provider is installed. `TriggerAction::Enqueue` routes through the `engine::queue::enqueue` "
            "provider, which the standalone queue worker registers. Add it with `iii worker add queue`. "
            "(underlying: Function engine::queue::enqueue not found in namespace default)"
        ),
    }
    assert callee.take() == []


@pytest.fixture
def queue(hub: Hub) -> Peer:
    provider = hub.join("queue")
    provider.function("engine::queue::enqueue")
    return provider


def test_an_enqueue_goes_to_the_queue_provider_and_is_answered_with_a_receipt(caller: Peer, queue: Peer) -> None:
    """P-122, Q-5 to Q-9: the target is not checked, metadata is dropped, no caller id is added."""
    invocation_id = caller.invoke("jobs::do", {"x": 1}, metadata={"m": 1}, **ENQUEUE)
    job = queue.take_one()
    receipt_id = job["data"]["messageReceiptId"]
    assert job["function_id"] == "engine::queue::enqueue"
    assert "metadata" not in job
    assert job["data"] == {
        "queue": "jobs",
        "function_id": "jobs::do",
        "data": {"x": 1},
        "messageReceiptId": receipt_id,
        "traceparent": None,
        "baggage": "iii.function.id=jobs::do",
    }
    assert caller.take() == []
    queue.answer(job, result={"ignored": True})
    assert caller.take_one() == {
        "type": "invocationresult",
        "invocation_id": invocation_id,
        "function_id": "jobs::do",
        "result": {"messageReceiptId": receipt_id},
    }


def test_a_job_carries_its_namespace_and_trace_context(caller: Peer, queue: Peer) -> None:
    """§7.4, Q-9."""
    caller.invoke("jobs::do", 1, namespace="orders", traceparent="00-a-b-01", baggage="k=v", **ENQUEUE)
    job = queue.take_one()["data"]
    assert (job["namespace"], job["traceparent"]) == ("orders", "00-a-b-01")
    assert job["baggage"] == "k=v,iii.function.id=jobs::do"


def test_an_enqueue_into_default_does_not_name_it(caller: Peer, queue: Peer) -> None:
    """§7.4."""
    caller.invoke("jobs::do", 1, namespace="default", **ENQUEUE)
    assert "namespace" not in queue.take_one()["data"]


def test_what_the_queue_provider_refuses_is_an_enqueue_error(caller: Peer, queue: Peer) -> None:
    """Q-10."""
    caller.invoke("jobs::do", 1, **ENQUEUE)
    queue.answer(queue.take_one(), error={"code": "no_queue", "message": "jobs is unknown"})
    assert caller.take_one()["error"] == {"code": "enqueue_error", "message": "no_queue: jobs is unknown"}


def test_a_lost_queue_provider_is_an_enqueue_error(caller: Peer, queue: Peer) -> None:
    caller.invoke("jobs::do", 1, **ENQUEUE)
    queue.leave()
    message = "invocation_stopped: Invocation stopped"
    assert caller.take_one()["error"] == {"code": "enqueue_error", "message": message}


def test_an_enqueue_without_id_is_silent(caller: Peer, queue: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """Q-12, §7.4; a failure is logged."""
    message = {"type": "invokefunction", "function_id": "jobs::do", "data": 1, **ENQUEUE}
    caller.send(message)
    queue.answer(queue.take_one(), result=1)
    assert caller.take() == []
    assert caplog.records == []
    caller.send(message)
    queue.answer(queue.take_one(), error={"code": "full", "message": "m"})
    assert caller.take() == []
    assert "full: m" in caplog.text


def test_an_enqueue_of_a_lost_caller_is_forgotten(hub: Hub, caller: Peer, queue: Peer) -> None:
    caller.invoke("jobs::do", 1, **ENQUEUE)
    job = queue.take_one()
    caller.leave()
    assert queue.answer(job, result=1) == []
    assert "invocations=0" in repr(hub.router)


def test_a_queue_provider_may_be_an_http_function(hub: Hub, caller: Peer) -> None:
    jobs: list[Any] = []
    outcome = Deferred()

    def call(job: object) -> Deferred:
        jobs.append(job)
        return outcome

    hub.router.functions.open_endpoint = lambda _message: call
    hub.join("queue").function("engine::queue::enqueue", invocation={"url": "https://example.com"})
    caller.invoke("jobs::do", 1, **ENQUEUE)
    hub.router.settle(outcome, error=InvocationError("full", "m"))
    error = caller.take_one()["error"]
    assert (error["code"], error["message"]) == ("enqueue_error", "full: m")
    assert jobs[0]["function_id"] == "jobs::do"


# -- what cannot be decoded --------------------------------------------------------------------------------------

ID = "9f3c1a52-0b6e-4c39-8a5f-2f6f7f0f9a11"


@pytest.mark.parametrize(
    "rest",
    [
        '"function_id": "rec::add"',  # no data (G-1, transcript `invoke`)
        '"function_id": "rec::add", "data": NaN',
        '"function_id": "rec::add", "data": "\\ud800"',
        '"function_id": "rec::add", "data": ' + "[" * 200 + "]" * 200,
        '"function_id": "rec::add", "data": 1, "namespace": 7',
        '"function_id": "rec::add", "data": ',
    ],
)
def test_a_call_that_cannot_be_decoded_is_answered_when_its_id_can_be_read(
    caller: Peer, callee: Peer, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    """G-2: upstream says nothing, and the caller waits until its timeout."""
    (answer,) = caller.send(f'{{"type": "invokefunction", "invocation_id": "{ID}", {rest}}}')
    assert (answer["invocation_id"], answer["function_id"]) == (ID, "rec::add")
    assert answer["error"]["code"] == "invalid_message"
    assert "'caller'" in caplog.text
    assert callee.take() == []


def test_a_call_without_readable_function_id_is_answered_all_the_same(caller: Peer) -> None:
    for function in ("null", "7", "NaN"):
        text = f'{{"type": "invokefunction", "invocation_id": "{ID}", "data": 1, "function_id": {function}}}'
        (answer,) = caller.send(text)
        assert (answer["function_id"], answer["error"]["code"]) == ("", "invalid_message")


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "invokefunction", "function_id": "f"}',
        '{"type": "invokefunction", "function_id": "f", "invocation_id": 7, "data": 1}',
        f'{{"type": "invokefunction", "function_id": "f", "invocation_id": "{ID}", "action": {{"type": "void"}}}}',
        f'{{"type": "invokefunction", "invocation_id": "{ID}", "action": {{"type": "void"}}, "data": NaN}}',
        f'{{"type": "invokefunction", "invocation_id": "{ID}", "data": {{"invocation_id": "{ID}", "x": NaN}}}}',
        f'{{"type": "registerfunction", "invocation_id": "{ID}"}}',
        f'{{"type": 7, "invocation_id": "{ID}"}}',
    ],
)
def test_what_cannot_be_decoded_is_not_answered_when_nobody_waits_or_the_id_is_unsure(caller: Peer, text: str) -> None:
    """P-121, P-103."""
    assert caller.send(text) == []


@pytest.mark.parametrize("rest", ['"result": NaN', '"function_id": 7'])
def test_an_answer_that_cannot_be_decoded_ends_the_call(caller: Peer, callee: Peer, rest: str) -> None:
    """G-2: upstream drops it, and the caller waits until its timeout."""
    invocation_id = caller.invoke("rec::add", {})
    callee.take()
    callee.send(f'{{"type": "invocationresult", "invocation_id": "{invocation_id}", {rest}}}')
    error = caller.take_one()["error"]
    assert error["code"] == "invalid_message"
    assert "'callee'" in error["message"]


def test_an_undecodable_answer_for_somebody_elses_call_is_ignored(hub: Hub, caller: Peer, callee: Peer) -> None:
    """P-125."""
    invocation_id = caller.invoke("rec::add", {})
    hub.join("third").send(f'{{"type": "invocationresult", "invocation_id": "{invocation_id}", "result": NaN}}')
    assert caller.take() == []


# -- sizes -------------------------------------------------------------------------------------------------------


def test_a_call_that_grows_over_the_limit_on_its_way_is_answered(
    caller: Peer, callee: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.3: the caller's id is added to the data."""
    limit_messages(monkeypatch, 500)
    error = caller.refusal("rec::add", {"x": "x" * 400})
    assert error["code"] == "payload_too_large"
    assert callee.take() == []
    caller.invoke("rec::add", {"x": "x" * 400}, **VOID)
    assert caller.take() == []


def test_a_result_that_cannot_be_relayed_is_answered_with_an_error(
    hub: Hub, caller: Peer, callee: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.invoke("rec::add", 1)
    invocation = callee.take_one()
    limit_messages(monkeypatch, 500)
    callee.answer(invocation, result="x" * 500)
    assert caller.take_one()["error"]["code"] == "payload_too_large"
    assert "invocations=0" in repr(hub.router)
