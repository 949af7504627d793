"""What the engine tells about itself (§14.2, E-1 to E-31)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.devengine.peers import Hub, Peer


@pytest.fixture
def hub() -> Hub:
    return Hub(version="9.9")


@pytest.fixture
def peer(hub: Hub) -> Peer:
    return hub.join("asker", namespace="elsewhere")


@pytest.fixture
def state(hub: Hub) -> Peer:
    worker = hub.join("iii-state", in_process=True, description="Key-value state")
    worker.function("state::get", description="Get a value from state")
    worker.function("state::set", description="Set a value")
    worker.trigger_type("state", description="State trigger")
    return worker


def ids(peer: Peer, function_id: str, /, **data: Any) -> list[str]:
    """Ids of the rows that a list function answers with."""
    ((_, rows),) = peer.ask(function_id, data).items()
    return [row.get("function_id") if function_id == "engine::functions::list" else row["id"] for row in rows]


# -- functions ---------------------------------------------------------------------------------------------------

FUNCTIONS = "engine::functions::list"
FUNCTION = "engine::functions::info"


def test_rows_of_functions_leave_out_what_is_absent(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-9, E-10, C-9."""
    worker = hub.join("math-worker", namespace="orders")
    worker.function("math::add", metadata={"public": True}, request_format={"type": "object"})
    hub.join("other").function("math::add")
    assert peer.ask(FUNCTIONS) == {
        "functions": [
            {"function_id": "math::add", "namespace": "default", "worker_name": "other"},
            {
                "function_id": "math::add",
                "namespace": "orders",
                "worker_name": "math-worker",
                "metadata": {"public": True},
            },
            {
                "function_id": "state::get",
                "namespace": "default",
                "worker_name": "iii-state",
                "description": "Get a value from state",
            },
            {
                "function_id": "state::set",
                "namespace": "default",
                "worker_name": "iii-state",
                "description": "Set a value",
            },
        ]
    }


def test_internal_functions_are_listed_on_request(hub: Hub, peer: Peer) -> None:
    """E-1."""
    worker = hub.join("w")
    worker.function("engine::queue::enqueue")
    worker.function("hidden", metadata={"internal": True})
    worker.function("shown", metadata={"internal": 1})
    worker.function("listed", metadata=["internal"])
    assert ids(peer, FUNCTIONS) == ["engine::queue::enqueue", "listed", "shown"]
    everything = ids(peer, FUNCTIONS, include_internal=True)
    assert {"hidden", "shown", FUNCTIONS} <= set(everything)
    assert everything == sorted(everything)


def test_functions_are_filtered_by_prefix_and_worker(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-7, E-11."""
    hub.join("w").function("state::mine")
    assert ids(peer, FUNCTIONS, prefix="state::") == ["state::get", "state::mine", "state::set"]
    assert ids(peer, FUNCTIONS, prefix="State") == []
    assert ids(peer, FUNCTIONS, worker="w") == ["state::mine"]
    assert ids(peer, FUNCTIONS, worker="w", workers=["iii-state"], prefix="state::s") == ["state::set"]
    assert ids(peer, FUNCTIONS, workers=["w", "nobody"]) == ["state::mine"]
    assert len(ids(peer, FUNCTIONS, workers=[])) == 3


def test_a_search_ranks_functions(hub: Hub, peer: Peer) -> None:
    """E-12."""
    worker = hub.join("w")
    worker.function("z::only", description="knows a Queue")
    worker.function("b::myqueue")
    worker.function("queue2::x")
    worker.function("a::QUEUE::b")
    worker.function("none")
    assert ids(peer, FUNCTIONS, search="Queue") == ["a::QUEUE::b", "queue2::x", "b::myqueue", "z::only"]
    assert len(ids(peer, FUNCTIONS, search="")) == 5


def test_the_owner_of_a_function_without_a_named_worker_is_its_first_segment(hub: Hub, peer: Peer) -> None:
    """E-5."""
    hub.join(None).function("lonely::f")
    assert peer.ask(FUNCTIONS)["functions"][0]["worker_name"] == "lonely"


def test_a_function_is_visible_once_its_namespace_is_known(hub: Hub, peer: Peer) -> None:
    """E-13."""
    worker = hub.open()
    worker.function("f")
    assert ids(peer, FUNCTIONS) == []
    hub.router.grace_expired(worker.session)
    assert ids(peer, FUNCTIONS) == ["f"]


def test_the_detail_of_a_function_has_its_schemas_and_live_triggers(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-17, E-18."""
    worker = hub.join("w")
    schemas = {"request_format": {"type": "object"}, "response_format": {"type": "null"}}
    worker.function("app::f", description="d", metadata={"m": 1}, **schemas)
    worker.trigger("t-2", "state", "app::f", config={"scope": "u"})
    worker.trigger("t-1", "state", "app::f")
    worker.trigger("t-3", "nobody", "app::f")
    worker.trigger("t-4", "state", "app::f", namespace="blue")
    assert peer.ask(FUNCTION, {"function_id": "app::f"}) == {
        "function_id": "app::f",
        "namespace": "default",
        "worker_name": "w",
        "description": "d",
        "metadata": {"m": 1},
        "request_schema": {"type": "object"},
        "response_schema": {"type": "null"},
        "registered_triggers": [
            {"id": "t-1", "trigger_type": "state", "config": {}},
            {"id": "t-2", "trigger_type": "state", "config": {"scope": "u"}},
        ],
    }


def test_internal_functions_can_be_described(peer: Peer) -> None:
    """E-4."""
    detail = peer.ask(FUNCTION, {"function_id": FUNCTIONS})
    assert detail["worker_name"] == "iii-engine-functions"
    assert detail["request_schema"]["properties"]["search"] == {"type": ["string", "null"]}
    assert peer.ask(FUNCTION, {"function_id": "engine::log::info"})["worker_name"] == "iii-observability"


def test_a_function_is_found_in_default_then_where_it_is_alone(hub: Hub, peer: Peer) -> None:
    """E-15, E-16."""
    for namespace in ("blue", "red", None):
        worker = hub.join(f"w-{namespace}", namespace=namespace)
        worker.function("both" if namespace else "everywhere")
        worker.function(f"only-{namespace}")
        worker.function("everywhere")

    def where(function_id: str, **data: Any) -> str:
        return peer.ask(FUNCTION, {"function_id": function_id, **data})["namespace"]

    assert where("everywhere") == "default"
    assert where("only-blue") == "blue"
    assert where("everywhere", namespace="red") == "red"
    error = peer.refusal(FUNCTION, {"function_id": "both"})
    assert error["code"] == "NOT_FOUND"
    assert "blue, red" in error["message"]
    error = peer.refusal(FUNCTION, {"function_id": "both", "namespace": "default"})
    assert error["code"] == "NOT_FOUND"
    assert "blue, red" in error["message"]
    assert peer.refusal(FUNCTION, {"function_id": "nope"})["code"] == "NOT_FOUND"
    assert peer.refusal(FUNCTION, {"function_id": "nope", "namespace": "x"})["code"] == "NOT_FOUND"


def test_a_batch_keeps_its_order_and_survives_bad_ids(hub: Hub, peer: Peer) -> None:
    """§1.3 of the built-ins' specification."""
    hub.join("w").function("f")
    functions = peer.ask(FUNCTION, {"function_ids": ["nope", "f", "nope"]})["functions"]
    assert functions == [
        {"function_id": "nope", "error": "not_found"},
        {"function_id": "f", "namespace": "default", "worker_name": "w", "registered_triggers": []},
    ]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"function_id": None, "function_ids": None},
        {"function_id": "f", "function_ids": ["f"]},
        {"function_ids": []},
        {"function_ids": [str(number) for number in range(33)]},
    ],
)
def test_a_question_about_functions_names_one_or_up_to_32(peer: Peer, data: dict[str, Any]) -> None:
    """E-14."""
    assert peer.refusal(FUNCTION, data)["code"] == "INVALID_ARGUMENTS"


def test_32_different_functions_may_be_named(peer: Peer) -> None:
    """E-14: after removing duplicates."""
    wanted = [str(number % 32) for number in range(64)]
    assert len(peer.ask(FUNCTION, {"function_ids": wanted})["functions"]) == 32


# -- trigger types -----------------------------------------------------------------------------------------------

TYPES = "engine::triggers::list"
TYPE = "engine::triggers::info"


def test_trigger_types_are_listed_by_id(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-2, E-6, E-22."""
    hub.join("w").trigger_type("aaa", description="Custom")
    hub.join(None).trigger_type("durable:subscriber")
    hub.join(None, namespace="blue").trigger_type("mine::x")
    assert peer.ask(TYPES) == {
        "triggers": [
            {"id": "aaa", "namespace": "default", "worker_name": "w", "description": "Custom"},
            {"id": "durable:subscriber", "namespace": "default", "worker_name": "queue", "description": "d"},
            {"id": "mine::x", "namespace": "blue", "worker_name": "mine", "description": "d"},
            {"id": "state", "namespace": "default", "worker_name": "iii-state", "description": "State trigger"},
        ]
    }
    assert ids(peer, TYPES, include_internal=True)[2:4] == [
        "engine::functions-available",
        "engine::workers-available",
    ]
    assert ids(peer, TYPES, prefix="m") == ["mine::x"]
    assert ids(peer, TYPES, search="CUSTOM") == ["aaa"]
    assert ids(peer, TYPES, worker="queue") == ["durable:subscriber"]
    assert ids(peer, TYPES, worker="engine", include_internal=True, search="workers") == ["engine::workers-available"]


def test_the_detail_of_a_type_has_its_schemas_and_counts_live_bindings(hub: Hub, peer: Peer) -> None:
    """E-20, E-21, E-24: in all namespaces, parked ones left out."""
    blue = hub.join("b", namespace="blue")
    blue.trigger_type("t", trigger_request_format={"type": "object"}, call_request_format={"type": "string"})
    hub.join("d").trigger_type("t")
    blue.trigger("1", "t")
    peer.trigger("2", "t")
    blue.trigger("3", "t", trigger_namespace="nowhere")
    blue.take()
    assert blue.ask(TYPE, {"id": "t", "namespace": "blue"}) == {
        "id": "t",
        "namespace": "blue",
        "worker_name": "b",
        "description": "d",
        "configuration_schema": {"type": "object"},
        "request_schema": {"type": "string"},
        "instance_count": 2,
    }


def test_a_type_is_looked_up_in_default_only(hub: Hub, peer: Peer) -> None:
    """E-19."""
    hub.join("b", namespace="blue").trigger_type("t")
    assert peer.refusal(TYPE, {"id": "t"})["code"] == "NOT_FOUND"
    assert peer.refusal(TYPE, {})["code"] == "deserialization_error"


# -- triggers ----------------------------------------------------------------------------------------------------

TRIGGERS = "engine::registered-triggers::list"
TRIGGER = "engine::registered-triggers::info"


def test_triggers_are_listed_with_the_owner_of_their_target(hub: Hub, peer: Peer, state: Peer) -> None:
    """§1.5 of the built-ins' specification, E-23."""
    worker = hub.join("app-worker")
    worker.function("app::on_user")
    peer.trigger("t-2", "state", "missing::f", config={"text": "x" * 80}, metadata={"m": 1})
    peer.trigger("t-1", "state", "app::on_user", config={"scope": "users"})
    rows = peer.ask(TRIGGERS)["registered_triggers"]
    assert rows[0] == {
        "id": "t-1",
        "trigger_type": "state",
        "function_id": "app::on_user",
        "worker_name": "app-worker",
        "config": {"scope": "users"},
        "config_summary": '{"scope":"users"}',
    }
    assert rows[1]["worker_name"] == "missing"
    assert rows[1]["config_summary"] == '{"text":"' + "x" * 71 + "…"
    assert len(rows[1]["config_summary"]) == 81
    assert "metadata" not in rows[1]


def test_triggers_are_filtered(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-3, E-7: the target decides what is internal, not its metadata."""
    worker = hub.join("w")
    worker.function("app::f", metadata={"internal": True})
    worker.trigger_type("other")
    peer.trigger("a", "state", "app::f")
    peer.trigger("b", "other", "app::g")
    peer.trigger("c", "other", "engine::log::info")
    assert ids(peer, TRIGGERS) == ["a", "b"]
    assert ids(peer, TRIGGERS, include_internal=True) == ["a", "b", "c"]
    assert ids(peer, TRIGGERS, trigger_type="other") == ["b"]
    assert ids(peer, TRIGGERS, function_id="app::f") == ["a"]
    assert ids(peer, TRIGGERS, worker="w") == ["a"]
    assert ids(peer, TRIGGERS, search="STAT") == ["a"]
    assert ids(peer, TRIGGERS, search="::G") == ["b"]
    assert ids(peer, TRIGGERS, search="nothing") == []


def test_the_detail_of_a_trigger_has_its_type_and_target(hub: Hub, peer: Peer, state: Peer) -> None:
    """§1.5 of the built-ins' specification, T-14."""
    hub.join("w").function("app::f")
    peer.trigger("1", "state", "app::f", metadata={"m": 1})
    detail = peer.ask(TRIGGER, {"id": "1"})
    assert detail["metadata"] == {"m": 1}
    assert "config_summary" not in detail
    assert detail["trigger"]["id"] == "state"
    assert detail["trigger"]["instance_count"] == 1
    assert detail["function"]["registered_triggers"] == [{"id": "1", "trigger_type": "state", "config": {}}]


def test_the_detail_of_a_trigger_without_target_says_so(peer: Peer, state: Peer) -> None:
    peer.trigger("1", "state", "missing")
    detail = peer.ask(TRIGGER, {"id": "1"})
    assert detail["function"] is None
    assert "metadata" not in detail


def test_parked_and_unknown_triggers_are_not_found(peer: Peer) -> None:
    """E-24."""
    peer.trigger("1", "nobody")
    for trigger_id in ("1", "2"):
        assert peer.refusal(TRIGGER, {"id": trigger_id})["code"] == "NOT_FOUND"


# -- workers -----------------------------------------------------------------------------------------------------

WORKERS = "engine::workers::list"
WORKER = "engine::workers::info"


def test_the_row_of_a_worker_has_every_key(hub: Hub) -> None:
    """E-25, E-27, transcript `invoke`: the asking call counts as active."""
    worker = hub.join("math-worker", namespace="orders", version="0.25.0", os="Linux")
    worker.function("f")
    row = next(row for row in worker.ask(WORKERS)["workers"] if row["name"] == "math-worker")
    assert row == {
        "id": worker.worker_id,
        "name": "math-worker",
        "namespace": "orders",
        "description": None,
        "version": "0.25.0",
        "runtime": "python",
        "os": "Linux",
        "status": "connected",
        "function_count": 1,
        "connected_at_ms": worker.session.connected_at_ms,
        "active_invocations": 1,
        "isolation": None,
        "ip_address": "127.0.0.1",
    }


def test_the_row_of_an_in_process_worker(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-27: named by its name, whatever it says about itself."""
    row = next(row for row in peer.ask(WORKERS)["workers"] if row["name"] == "iii-state")
    assert row == {
        "id": "iii-state",
        "name": "iii-state",
        "namespace": "default",
        "description": "Key-value state",
        "version": "9.9",
        "runtime": "engine",
        "os": None,
        "status": "available",
        "function_count": 2,
        "connected_at_ms": state.session.connected_at_ms,
        "active_invocations": 0,
        "isolation": "in-process",
        "ip_address": None,
    }


def test_the_engines_own_workers_are_listed_once(hub: Hub, peer: Peer) -> None:
    """E-26: also when one of them connects."""
    hub.join("iii-observability", in_process=True).function("iii-observability::more")
    rows = {row["name"]: row for row in peer.ask(WORKERS, {"runtime": "engine"})["workers"]}
    assert len(rows) == 3
    assert {name: row["function_count"] for name, row in rows.items()} == {
        "iii-engine-functions": 13,
        "iii-observability": 21,
        "iii-worker-manager": 0,
    }
    assert rows["iii-engine-functions"]["connected_at_ms"] == hub.router.started_at_ms
    assert rows["iii-observability"]["description"]


def test_a_worker_without_pid_is_not_listed(hub: Hub, peer: Peer) -> None:
    """E-26, P-114; zero is a pid."""
    hub.join("unlisted", pid=None)
    hub.join("listed", pid=0)
    hub.open(in_process=True)
    names = [row["name"] for row in peer.ask(WORKERS, {"search": "LISTED"})["workers"]]
    assert names == ["listed"]
    assert peer.ask(WORKER, {"name": "unlisted"})["worker"].get("pid") is None


def test_workers_are_ordered_by_name_or_id_and_filtered(hub: Hub, peer: Peer) -> None:
    """E-28, E-7."""
    nameless = hub.join(None)
    hub.join("b", runtime="node")
    hub.join("a", namespace="blue")
    hub.join("a")
    rows = peer.ask(WORKERS, {"status": "connected"})["workers"]
    keys = [(row["name"] or row["id"], row["id"]) for row in rows]
    assert keys == sorted(keys)
    assert nameless.worker_id in {row["id"] for row in rows}
    assert [row["name"] for row in peer.ask(WORKERS, {"runtime": "node"})["workers"]] == ["b"]
    assert [row["namespace"] for row in peer.ask(WORKERS, {"search": "A", "runtime": "python"})["workers"]] == [
        "blue",
        "default",
        "elsewhere",
    ]


def test_the_detail_of_a_worker(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-30, E-31."""
    worker = hub.join("w", namespace="orders", pid=77)
    for function_id in ("b", "a"):
        worker.function(function_id)
    for type_id in ("z", "y"):
        worker.trigger_type(type_id)
    peer.trigger("1", "state", "a", namespace="orders")
    worker.trigger("2", "state", "elsewhere::f")
    detail = peer.ask(WORKER, {"name": "w"})
    assert (detail["worker"]["pid"], detail["worker"]["internal"]) == (77, False)
    assert "latest_metrics" not in detail["worker"]
    assert [row["function_id"] for row in detail["functions"]] == ["a", "b"]
    assert [row["id"] for row in detail["trigger_types"]] == ["y", "z"]
    assert [row["id"] for row in detail["registered_triggers"]] == ["1"]


def test_the_detail_of_in_process_workers(hub: Hub, peer: Peer, state: Peer) -> None:
    """E-30: internal are those every engine has."""
    detail = peer.ask(WORKER, {"name": "iii-state"})
    assert detail["worker"]["internal"] is False
    assert "pid" not in detail["worker"]
    assert [row["id"] for row in detail["trigger_types"]] == ["state"]
    engine = peer.ask(WORKER, {"name": "iii-engine-functions"})
    assert engine["worker"]["internal"] is True
    assert len(engine["functions"]) == 13
    assert [row["id"] for row in engine["trigger_types"]] == [
        "engine::functions-available",
        "engine::workers-available",
    ]
    assert peer.ask(WORKER, {"name": "iii-worker-manager"})["trigger_types"] == []


def test_a_worker_is_found_in_default_then_where_it_is_alone(hub: Hub, peer: Peer) -> None:
    """E-29."""
    for name, namespaces in {"both": ["blue", "red"], "alone": ["blue"], "all": ["blue", "default"]}.items():
        for namespace in namespaces:
            hub.join(name, namespace=namespace)

    def where(name: str, **data: Any) -> str:
        return peer.ask(WORKER, {"name": name, **data})["worker"]["namespace"]

    assert where("all") == "default"
    assert where("all", namespace="blue") == "blue"
    assert where("alone") == "blue"
    error = peer.refusal(WORKER, {"name": "both"})
    assert error["code"] == "NOT_FOUND"
    assert "blue, red" in error["message"]
    assert peer.refusal(WORKER, {"name": "alone", "namespace": "default"})["code"] == "NOT_FOUND"
    assert peer.refusal(WORKER, {"name": "nobody"})["code"] == "NOT_FOUND"
    assert peer.refusal(WORKER, {})["code"] == "deserialization_error"


def test_a_worker_cannot_pass_for_one_of_the_engines_own(hub: Hub, peer: Peer) -> None:
    impostor = hub.join("iii-worker-manager", namespace="blue")
    detail = peer.ask(WORKER, {"name": "iii-worker-manager", "namespace": "blue"})
    assert detail["worker"]["id"] == impostor.worker_id
    assert detail["worker"]["internal"] is False
    assert detail["functions"] == []
