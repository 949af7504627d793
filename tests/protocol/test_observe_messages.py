"""The messages of ``observe.v1`` as the protocol's page shows them (§16), read and written without loss."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iii_anyio._protocol.codec import decode, encode, encode_reports
from iii_anyio._protocol.messages import (
    FunctionRegistered,
    InvocationsObserved,
    LocalInvocationStats,
    Message,
    Observe,
    ObserverAck,
    ObserverAdded,
    ObserveResult,
    ObserverRemoved,
    ObserverStateChanged,
    RegisterFunction,
    Unobserve,
)

OBSERVER = {
    "id": "o1",
    "args": {"expression": "*/5"},
    "filters": {"$and": [{"input.n": {"$gte": 2}}]},
    "target": "jobs::run",
    "capture": ["input", "output", "caller"],
    "on": "success",
    "legacy": {"trigger_type": "cron", "config": None},
}
REASON = {"code": "INVALID_CRON_EXPRESSION", "message": "bad day-of-week"}
SOURCE = {
    "function_id": "payments::charge", "namespace": "default", "args": {}, "filters": {"input.amount": {"$gte": 500}},
    "capture": ["input", "error", "caller"], "on": "error", "deliver": "envelope",
}  # fmt: skip
TARGET = {"function_id": "alerts::failed", "namespace": "default"}
REPORT = {
    "function_id": "payments::charge", "namespace": "default", "invocation_id": "i", "matched": ["o1", "o3"],
    "status": "success", "input": {"amount": 750}, "output": None, "started_at_ms": 1760350000123,
    "duration_ms": 12.75, "observe_depth": 0, "traceparent": "00-a-b-01",
}  # fmt: skip
COUNT = {"function_id": "a::b", "count": 37, "errors": 2, "duration_ms_sum": 15.5}
DROPS = {"function_id": "a::b", "reason": "BUFFER_FULL", "count": 12}
DESCRIPTOR = {
    "delivery": "owner", "args_format": {"type": "object"}, "legacy_trigger_type": "cron", "allow": True
}  # fmt: skip

PAGE: list[tuple[dict[str, Any], Message]] = [
    ({"type": "registerfunction", "id": "f", "observe": DESCRIPTOR}, RegisterFunction("f", observe=DESCRIPTOR)),
    (
        {
            "type": "functionregistered", "id": "cron::on-tick", "namespace": "default", "revision": 12,
            "local_dispatch": True, "observers": [OBSERVER],
        },
        FunctionRegistered("cron::on-tick", "default", 12, True, [OBSERVER]),
    ),
    (
        {"type": "observeradded", "function_id": "f", "namespace": "n", "revision": 13, "observer": {"id": "o2"}},
        ObserverAdded("f", {"id": "o2"}, "n", 13),
    ),
    (
        {"type": "observerremoved", "function_id": "f", "namespace": "n", "revision": 14, "id": "o2"},
        ObserverRemoved("f", "o2", "n", 14),
    ),
    (
        {"type": "observerack", "function_id": "f", "namespace": "n", "id": "o2", "revision": 13, "error": REASON},
        ObserverAck("f", "o2", "n", 13, REASON),
    ),
    (
        {"type": "observerack", "function_id": "f", "namespace": "n", "id": "o2", "revision": 13},
        ObserverAck("f", "o2", "n", 13),
    ),
    (
        {
            "type": "observe", "id": "o", "source": SOURCE, "target": TARGET, "metadata": {"team": "a"}, "max_fires": 1,
            "expires_in_ms": 600000, "max_in_flight": 4,
        },
        Observe("o", SOURCE, TARGET, {"team": "a"}, 1, 600000, 4),
    ),
    ({"type": "unobserve", "id": "o"}, Unobserve("o")),
    (
        {"type": "observeresult", "id": "o", "state": "pending", "warnings": ["…"], "error": REASON},
        ObserveResult("o", "pending", ["…"], REASON),
    ),
    (
        {"type": "observerstatechanged", "id": "o", "state": "active", "fires": 3, "reason": REASON},
        ObserverStateChanged("o", "active", 3, REASON),
    ),
    ({"type": "invocationsobserved", "items": [REPORT]}, InvocationsObserved([REPORT])),
    (
        {"type": "localinvocationstats", "window_ms": 10000, "functions": [COUNT], "dropped_reports": [DROPS]},
        LocalInvocationStats(10000, [COUNT], [DROPS]),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "message"), PAGE, ids=lambda value: value.get("type") if type(value) is dict else "")
def test_what_the_page_shows_is_read_and_written(wire: dict[str, Any], message: Message) -> None:
    """A-53."""
    assert decode(json.dumps(wire).encode()) == message
    assert json.loads(encode(message)) == wire


def test_what_a_registration_leaves_out_has_its_default() -> None:
    """§16.1: null and absent are the same."""
    wire = {"type": "functionregistered", "id": "f", "namespace": None, "revision": None, "observers": None}
    assert decode(json.dumps(wire).encode()) == FunctionRegistered("f", None, 0, False, [])


def test_a_state_that_this_version_does_not_know_is_kept() -> None:
    """§16.1."""
    assert decode(b'{"type":"observeresult","id":"o","state":"sleeping"}') == ObserveResult("o", "sleeping")


def test_reports_that_are_json_already_make_the_same_message() -> None:
    items = [json.dumps(REPORT).encode(), b'{"function_id":"f"}']
    assert decode(encode_reports(items)) == InvocationsObserved([REPORT, {"function_id": "f"}])
