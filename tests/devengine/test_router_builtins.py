"""Channels, baggage, logs, and what all built-in functions share (§14)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from iii_anyio._protocol.engine_session import EngineSession
from iii_anyio.devengine._builtin import Builtin, Input
from iii_anyio.devengine._engine_functions import Channel
from tests.devengine.peers import Hub, Peer

CREATE = "engine::channels::create"


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def worker(hub: Hub) -> Peer:
    return hub.join("w")


def test_the_functions_that_every_worker_may_count_on_are_there(worker: Peer) -> None:
    """P-131."""
    lists = [f"engine::{what}::list" for what in ("functions", "workers", "triggers", "registered-triggers")]
    infos = [f"engine::{what}::info" for what in ("functions", "workers", "triggers", "registered-triggers")]
    logs = [f"engine::log::{level}" for level in ("trace", "debug", "info", "warn", "error")]
    wanted = {"engine::workers::register", CREATE, *lists, *infos, *logs}
    rows = worker.ask("engine::functions::list", {"include_internal": True})["functions"]
    assert wanted <= {row["function_id"] for row in rows}


# -- channels ----------------------------------------------------------------------------------------------------


def test_a_channel_has_one_id_and_one_key_for_both_ends(hub: Hub, worker: Peer) -> None:
    """§12.1, E-39."""
    refs = worker.ask(CREATE, {})
    assert refs["writer"].pop("direction") == "write"
    assert refs["reader"].pop("direction") == "read"
    assert refs["writer"] == refs["reader"]
    channel = hub.router.channels[refs["writer"]["channel_id"]]
    assert channel == Channel(refs["writer"]["channel_id"], refs["writer"]["access_key"], 64, hub.clock)


@pytest.mark.parametrize(("wanted", "size"), [(None, 64), (0, 1), (1, 1), (1024, 1024), (10**12, 1024)])
def test_the_buffer_size_is_clamped(hub: Hub, worker: Peer, wanted: int | None, size: int) -> None:
    """E-39."""
    refs = worker.ask(CREATE, {"buffer_size": wanted})
    assert hub.router.channels[refs["writer"]["channel_id"]].buffer_size == size


@pytest.mark.parametrize("data", [None, [], {"buffer_size": -1}, {"buffer_size": 1.5}, {"buffer_size": "8"}])
def test_an_unreadable_channel_request_is_answered(hub: Hub, worker: Peer, data: Any) -> None:
    """§12.1, P-132."""
    assert worker.refusal(CREATE, data)["code"] == "deserialization_error"
    assert hub.router.channels == {}


def test_a_channel_survives_its_maker(hub: Hub, worker: Peer) -> None:
    """E-43."""
    worker.ask(CREATE, {})
    worker.leave()
    assert len(hub.router.channels) == 1


# -- baggage and logs --------------------------------------------------------------------------------------------


def test_baggage_functions_answer_in_shape(worker: Peer) -> None:
    """§14.1, OB-9: diagnostic only."""
    assert worker.ask("engine::baggage::get", {"key": "k"}) == {"value": None}
    answer = worker.ask("engine::baggage::set", {"key": "k", "value": "v"})
    assert answer["success"] is True
    assert isinstance(answer["note"], str)
    assert worker.ask("engine::baggage::get_all", {}) == {"baggage": {}}
    assert worker.refusal("engine::baggage::get", {})["code"] == "deserialization_error"


@pytest.mark.parametrize(("name", "level"), [("trace", 5), ("debug", 10), ("info", 20), ("warn", 30), ("error", 40)])
def test_log_functions_go_to_the_log_and_answer_nothing(
    worker: Peer, name: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """OB-8, C-5: no value means neither result nor error."""
    caplog.set_level(1, "iii_anyio.devengine.log")
    answer = worker.call(f"engine::log::{name}", {"message": "hi %s", "data": {"n": 1}, "trace_id": "t"})
    assert set(answer) == {"type", "invocation_id", "function_id"}
    (record,) = caplog.records
    assert (record.levelno, record.name, record.getMessage()) == (level, "iii_anyio.devengine.log", "w: hi %s")
    assert {key: record.__dict__[key] for key in ("worker_id", "trace_id", "span_id", "data")} == {
        "worker_id": worker.worker_id,
        "trace_id": "t",
        "span_id": None,
        "data": {"n": 1},
    }


def test_log_lines_cannot_control_the_terminal(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """OB-6; data that is no object is dropped (OB-8)."""
    caplog.set_level(logging.INFO)
    data = {"message": "a\x1b[31mb\r\n\tc", "service_name": "s\x00", "data": [1]}
    hub.join(None).ask("engine::log::info", data)
    assert caplog.records[-1].getMessage() == "s\\x00: a\\x1b[31mb\\x0d\n\tc"
    assert caplog.records[-1].__dict__["data"] is None


def test_a_log_line_of_a_nameless_worker_is_from_unknown(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """OB-8."""
    caplog.set_level(logging.INFO)
    hub.join(None).ask("engine::log::info", {"message": "m"})
    assert caplog.records[-1].getMessage() == "unknown: m"


def test_a_log_line_needs_a_message(worker: Peer) -> None:
    """OB-8, C-3."""
    assert worker.refusal("engine::log::info", {"message": None})["code"] == "deserialization_error"


# -- all of them -------------------------------------------------------------------------------------------------


def test_built_in_functions_live_in_default_only(hub: Hub) -> None:
    """C-1, transcript `namespace`."""
    worker = hub.join("w", namespace="blue")
    error = worker.refusal("engine::functions::list", {}, namespace="blue")
    assert error["code"] == "function_not_found"
    assert error["message"].endswith("It is registered in namespace(s): default.")
    assert "functions" in worker.ask("engine::functions::list")


def test_every_built_in_function_wants_an_object(hub: Hub, worker: Peer) -> None:
    """C-2, P-132."""
    ids = [function.id for function in hub.router.functions if function.builtin is not None]
    assert len(ids) == 33
    for function_id in ids:
        error = worker.refusal(function_id, 7)
        assert error["code"] == "deserialization_error"
        assert function_id in error["message"]


def test_unknown_fields_are_ignored(worker: Peer) -> None:
    """C-3."""
    assert worker.ask("engine::baggage::get_all", {"what": 1, "_caller_worker_id": 7}) == {"baggage": {}}


def test_trace_context_comes_back_with_the_answer(worker: Peer) -> None:
    """§5.4."""
    answer = worker.call("engine::baggage::get_all", {}, traceparent="00-a-b-01")
    assert answer["traceparent"] == "00-a-b-01"
    assert "baggage" not in answer


def test_a_broken_built_in_function_is_answered_and_logged(
    hub: Hub, worker: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_session: EngineSession, _data: dict[str, Any]) -> object:
        raise RuntimeError("bug")

    hub.router.functions.add_builtin(Builtin("engine::broken", broken, Input(), "Breaks"))
    error = worker.refusal("engine::broken", {})
    assert error["code"] == "invocation_failed"
    assert "bug" not in error["message"]
    assert "RuntimeError: bug" in caplog.text
    assert "invocations=0" in repr(hub.router)


def test_a_result_json_cannot_carry_is_answered(hub: Hub, worker: Peer) -> None:
    """§8: `serialization_error`."""
    hub.router.functions.add_builtin(Builtin("engine::nan", lambda _session, _data: float("nan"), Input(), "NaN"))
    assert worker.refusal("engine::nan", {})["code"] == "serialization_error"


def test_the_schema_of_an_input_says_what_is_required() -> None:
    """E-17."""
    fields = Input(id="string!", many="strings", anything="any!", extra="any")
    assert fields.schema == {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "many": {"type": ["array", "null"], "items": {"type": "string"}},
            "anything": {},
            "extra": {},
        },
        "required": ["anything", "id"],
    }
    assert fields.check("f", {"id": "x", "anything": None, "extra": None}) == {"id": "x", "anything": None}
