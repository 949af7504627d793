"""Functions: who owns which id, in which namespace (§5.1, §5.2)."""

from __future__ import annotations

from typing import Any

import pytest

from iii_anyio._protocol.messages import RegisterFunction
from iii_anyio.devengine._builtin import Deferred
from iii_anyio.errors import InvocationError
from tests.devengine.peers import Hub


@pytest.fixture
def hub() -> Hub:
    return Hub()


def rejection(function_id: str, owner: str, namespace: str = "default") -> dict[str, Any]:
    return {
        "type": "registrationrejected",
        "code": "FUNCTION_NAMESPACE_CONFLICT",
        "namespace": namespace,
        "function_id": function_id,
        "owner_worker_id": owner,
    }


def test_a_function_of_a_live_worker_is_refused_to_others(hub: Hub) -> None:
    """P-115, transcript `conflict`: the connection stays, the owner keeps serving."""
    owner, other = hub.join("a"), hub.join("b")
    assert owner.function("rec::dup") == []
    assert other.function("rec::dup") == [rejection("rec::dup", owner.worker_id)]
    assert other.session.is_live
    other.invoke("rec::dup")
    assert owner.take_one()["function_id"] == "rec::dup"


def test_the_same_id_in_another_namespace_is_another_function(hub: Hub) -> None:
    """P-115."""
    blue, red, caller = hub.join("a", namespace="blue"), hub.join("b", namespace="red"), hub.join("c")
    assert blue.function("f") == []
    assert red.function("f") == []
    caller.invoke("f", namespace="red")
    assert len(red.take()) == 1
    assert blue.take() == []
    message = "Function f not found in namespace default. It is registered in namespace(s): blue, red."
    assert caller.refusal("f")["message"] == message


def test_a_function_leaves_one_namespace_and_stays_in_the_other(hub: Hub) -> None:
    blue, caller = hub.join("a", namespace="blue"), hub.join("c")
    blue.function("f")
    caller.function("f")
    blue.leave()
    assert caller.refusal("f", namespace="blue")["message"].endswith("namespace(s): default.")


def test_the_owner_may_register_again(hub: Hub) -> None:
    """P-115: silently replaced."""
    owner = hub.join("a")
    owner.function("f", description="old")
    assert owner.function("f", description="new") == []
    (row,) = owner.ask("engine::functions::list", {"worker": "a"})["functions"]
    assert row["description"] == "new"


def test_a_function_of_a_worker_that_left_is_free(hub: Hub) -> None:
    """P-111."""
    first = hub.join("a")
    first.function("f")
    first.leave()
    assert hub.join("b").function("f") == []


def test_only_the_owner_can_unregister(hub: Hub) -> None:
    """§5.2: no reply, in-flight invocations are not touched."""
    owner, other = hub.join("a"), hub.join("b")
    owner.function("f")
    invocation_id = other.invoke("f")
    invocation = owner.take_one()
    assert other.send({"type": "unregisterfunction", "id": "f"}) == []
    other.invoke("f", action={"type": "void"})
    assert len(owner.take()) == 1
    assert owner.send({"type": "unregisterfunction", "id": "f"}) == []
    assert owner.send({"type": "unregisterfunction", "id": "f"}) == []
    assert other.refusal("f")["code"] == "function_not_found"
    owner.answer(invocation, result=1)
    assert other.take_one()["invocation_id"] == invocation_id


@pytest.mark.parametrize("function_id", ["engine::mine", "engine::log::info"])
def test_engine_ids_are_refused_outside_default(hub: Hub, function_id: str) -> None:
    """P-116."""
    worker = hub.join("w", namespace="blue")
    assert worker.function(function_id) == [rejection(function_id, "", "blue")]


def test_the_engines_own_functions_cannot_be_replaced(hub: Hub) -> None:
    """P-116, G-16: upstream lets a worker in `default` replace them."""
    worker = hub.join("w")
    assert worker.function("engine::log::info") == [rejection("engine::log::info", "")]
    assert worker.ask("engine::log::info", {"message": "still here"}) is None


def test_functions_of_in_process_workers_cannot_be_replaced(hub: Hub) -> None:
    """P-116: the owner is not named."""
    builtin, worker, elsewhere = hub.join("iii-state", in_process=True), hub.join("w"), hub.join("e", namespace="blue")
    builtin.function("state::get")
    assert worker.function("state::get") == [rejection("state::get", "")]
    assert elsewhere.function("state::get") == []


def test_an_engine_id_that_is_free_may_be_taken_in_default(hub: Hub) -> None:
    """§7.4: the standalone queue worker registers `engine::queue::enqueue`."""
    assert hub.join("queue").function("engine::queue::enqueue") == []


def test_an_in_process_worker_may_take_over_a_function_of_the_engine(hub: Hub) -> None:
    builtin, other, caller = hub.join("iii-observability", in_process=True), hub.join("o", in_process=True), hub.join()
    assert builtin.function("engine::log::info") == []
    assert builtin.function("engine::log::info") == []
    assert other.function("engine::log::info") == [rejection("engine::log::info", "")]
    caller.invoke("engine::log::info", {"message": "m"})
    assert builtin.take_one()["function_id"] == "engine::log::info"
    builtin.leave()
    assert caller.take_one()["error"]["code"] == "invocation_stopped"
    assert caller.ask("engine::log::info", {"message": "m"}) is None


REMOTE = {"url": "https://example.com/fn", "method": "PUT", "headers": {"a": "b"}}


class Remotes:
    """Takes the place of the built-in worker that calls URLs: every call is left open."""

    def __init__(self, hub: Hub) -> None:
        self.invocations: list[Any] = []
        self.calls: list[tuple[Any, Deferred]] = []
        hub.router.functions.open_endpoint = self.open

    def open(self, message: RegisterFunction) -> Remotes | None:
        self.invocations.append(message.invocation)
        assert message.invocation is not None
        return None if "refused" in message.invocation["url"] else self

    def __call__(self, data: object) -> Deferred:
        self.calls.append((data, Deferred()))
        return self.calls[-1][1]


def test_an_external_http_function_is_listed_and_called_by_whoever_can(hub: Hub) -> None:
    """§10, X-2, X-20, P-120."""
    remotes = Remotes(hub)
    worker, caller = hub.join("w"), hub.join("c")
    worker.function("remote", invocation=REMOTE)
    assert worker.ask("engine::functions::info", {"function_id": "remote"})["worker_name"] == "w"
    assert hub.router.fire_functions_available()
    outcomes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"result": [1]}, {"result": [1]}),
        ({}, {}),
        ({"error": InvocationError("c", "m")}, {"error": {"code": "c", "message": "m"}}),
    ]
    for outcome, answer in outcomes:
        invocation_id = caller.invoke("remote", {"a": 1})
        data, deferred = remotes.calls[-1]
        assert data == {"a": 1, "_caller_worker_id": caller.worker_id}
        assert caller.take() == []
        hub.router.settle(deferred, **outcome)
        expected = {"type": "invocationresult", "invocation_id": invocation_id, "function_id": "remote", **answer}
        assert caller.take() == [expected]
    assert worker.take() == []
    worker.send({"type": "unregisterfunction", "id": "remote"})
    assert caller.refusal("remote")["code"] == "function_not_found"
    assert "invocations=0" in repr(hub.router)


def test_an_http_function_that_is_refused_is_not_registered_and_nobody_is_told(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """X-17, X-18, EC-11: without the built-in worker every one is."""
    worker = hub.join("w")
    assert worker.function("remote", invocation=REMOTE) == []
    assert worker.refusal("remote")["code"] == "function_not_found"
    assert "iii-http-functions does not run" in caplog.text
    Remotes(hub)
    assert worker.function("remote", invocation={"url": "refused"}) == []
    assert worker.refusal("remote")["code"] == "function_not_found"


def test_a_void_call_of_an_http_function_is_not_answered(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """P-121."""
    remotes = Remotes(hub)
    worker = hub.join("w")
    worker.function("remote", invocation=REMOTE)
    worker.invoke("remote", 1, action={"type": "void"})
    hub.router.settle(remotes.calls[0][1], error=InvocationError("c", "why not"))
    assert worker.take() == []
    assert "why not" in caplog.text
    assert "invocations=0" in repr(hub.router)


def test_an_http_call_ends_without_its_caller_and_without_its_owner(hub: Hub) -> None:
    """§7.5: it runs to its end."""
    remotes = Remotes(hub)
    owner, caller, other = hub.join("w"), hub.join("c"), hub.join("o")
    owner.function("remote", invocation=REMOTE)
    caller.invoke("remote", 1)
    other.invoke("remote", 2)
    caller.leave()
    owner.leave()
    for _data, deferred in remotes.calls:
        hub.router.settle(deferred, "late")
    assert other.take_one()["result"] == "late"
    assert "invocations=0" in repr(hub.router)


def test_the_engines_own_triggers_call_http_functions(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """X-21."""
    remotes = Remotes(hub)
    worker = hub.join("w")
    worker.function("remote", invocation=REMOTE)
    worker.trigger("t", "engine::workers-available", "remote")
    hub.join("other")
    assert remotes.calls[0][0]["event"] == "worker_connected"
    hub.router.settle(remotes.calls[0][1], error=InvocationError("c", "why not"))
    assert "why not" in caplog.text


@pytest.mark.parametrize(
    "invocation",
    [
        {},
        {"url": 1},
        {"url": "u", "method": "HEAD"},
        {"url": "u", "method": []},
        {"url": "u", "headers": None},
        {"url": "u", "headers": {"a": 1}},
    ],
)
def test_a_malformed_http_function_is_not_registered(
    hub: Hub, invocation: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """§10: silent on the wire (G-15), not in the log."""
    worker = hub.join("w")
    assert worker.function("remote", invocation=invocation) == []
    assert worker.refusal("remote")["code"] == "function_not_found"
    assert "registerfunction: invocation must be" in caplog.text
