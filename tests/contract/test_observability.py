"""Logs, traces and the functions about them, and the trigger type `log`, as a client sees them.

Others may use an outside engine at the same time: every record has a trace id that nobody else has.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from iii_anyio import InvocationError, Worker
from iii_anyio._wire.connect import websocket_connector
from tests.contract.targets import EngineUnderTest, Target, until
from tests.heard import Heard

pytestmark = pytest.mark.anyio


async def export(engine: EngineUnderTest, path: str, *frames: bytes) -> None:
    """Send telemetry frames; an engine without sockets has the main wire only."""
    if engine.embedded is not None and not engine.url:
        async with engine.embedded.connector()() as direct:
            await direct.send([*frames, b'{"type":"ping"}'])
            while not any(b'"pong"' in text for text in await direct.receive()):
                pass
        return
    async with websocket_connector(engine.url + path)() as wire:
        await wire.send_binary(frames)


async def logs_of(iii: Worker, trace_id: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """The logs of a trace, once there are so many, the newest first."""
    found: list[dict[str, Any]] = []

    async def are_there() -> bool:
        found[:] = (await iii.trigger_async("engine::logs::list", {"trace_id": trace_id, **more}))["logs"]
        return len(found) >= count

    await until(are_there)
    return found


async def test_a_log_by_call_is_kept_in_this_shape(target: Target) -> None:
    """OB-7, OB-8, C-5."""
    trace_id = uuid4().hex
    async with target.open() as engine, engine.worker() as iii:
        for level in ("trace", "debug", "info", "warn", "error"):
            request = {"message": f"m-{level}", "trace_id": trace_id, "data": {"n": 1}}
            assert await iii.trigger_async(f"engine::log::{level}", request) is None
        bare_log = {"message": "bare", "trace_id": trace_id, "data": [1], "service_name": "svc"}
        await iii.trigger_async("engine::log::info", bare_log)
        bare, *levels = await logs_of(iii, trace_id, 6)
        assert (bare["body"], bare["attributes"], bare["service_name"]) == ("bare", {}, "svc")
        assert [(log["severity_number"], log["severity_text"], log["body"]) for log in reversed(levels)] == [
            (1, "TRACE", "m-trace"), (5, "DEBUG", "m-debug"), (9, "INFO", "m-info"), (13, "WARN", "m-warn"),
            (17, "ERROR", "m-error"),
        ]  # fmt: skip
        assert {key: levels[0][key] for key in ("attributes", "trace_id", "span_id", "service_name")} == {
            "attributes": {"n": 1}, "trace_id": trace_id, "span_id": None, "service_name": "unknown",
        }  # fmt: skip


async def test_logs_are_listed_by_severity_and_page(target: Target) -> None:
    """OB-12."""
    trace_id = uuid4().hex
    async with target.open() as engine, engine.worker() as iii:
        for level in ("debug", "info", "warn"):
            await iii.trigger_async(f"engine::log::{level}", {"message": level, "trace_id": trace_id})
        await logs_of(iii, trace_id, 3)
        queries: list[tuple[dict[str, Any], list[str]]] = [
            ({"severity_min": 9}, ["warn", "info"]),
            ({"severity_text": "Debug"}, ["debug"]),
            ({"offset": 1, "limit": 1}, ["info"]),
        ]
        for query, expected in queries:
            answer = await iii.trigger_async("engine::logs::list", {"trace_id": trace_id, **query})
            assert [log["body"] for log in answer["logs"]] == expected
            assert answer["total"] == (3 if "limit" in query else len(expected))
            assert answer["query"].items() >= query.items()
            assert answer["query"]["span_id"] is None


@pytest.mark.parametrize("path", ["/", "/otel"])
async def test_telemetry_frames_are_kept_and_others_passed_over(target: Target, path: str) -> None:
    """OB-1, OB-2, OB-4, OB-6, OB-11, P-105."""
    trace_id, span_id = uuid4().hex, uuid4().hex[:16]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "svc"}}]}
    span = {
        "traceId": trace_id, "spanId": span_id, "name": "work", "startTimeUnixNano": "1000000",
        "endTimeUnixNano": 3000000, "parentSpanId": "", "status": {"code": 2, "message": "boom"},
        "attributes": [{"key": "k", "value": {"intValue": "5"}}],
    }  # fmt: skip
    log = {
        "timeUnixNano": "1", "severityNumber": 9, "severityText": "INFO", "body": {"stringValue": "\x1b[31mhi\x1b[0m"},
        "traceId": trace_id, "spanId": "0" * 16,
    }  # fmt: skip
    frames = [
        b"OTLP{",
        b"OTLP" + json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}).encode(),
        b"LOGS" + json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [log]}]}]}).encode(),
    ]
    async with target.open() as engine, engine.worker() as iii:
        await export(engine, path, *frames)
        (kept,) = await logs_of(iii, trace_id, 1)
        assert (kept["body"], kept["span_id"], kept["service_name"]) == ("hi", None, "svc")
        (row,) = (await iii.trigger_async("engine::traces::list", {"trace_id": trace_id}))["spans"]
        expected = {
            "trace_id": trace_id, "span_id": span_id, "parent_span_id": None, "name": "work", "status": "error",
            "start_time_unix_nano": 1000000, "end_time_unix_nano": 3000000, "attributes": [["k", "5"]],
            "service_name": "svc",
        }  # fmt: skip
        assert {key: row[key] for key in expected} == expected
        (root,) = (await iii.trigger_async("engine::traces::tree", {"trace_id": trace_id}))["roots"]
        assert (root["span_id"], root["children"]) == (span_id, [])
        for filters, total in (({"min_duration_ms": 3}, 0), ({"attributes": [["k", "5"]]}, 1), ({"name": "WOR"}, 1)):
            answer = await iii.trigger_async("engine::traces::list", {"trace_id": trace_id, **filters})
            assert (answer["total"], answer["offset"], answer["limit"]) == (total, 0, 100)


async def test_an_unknown_trace_has_no_roots(target: Target) -> None:
    """OB-11."""
    async with target.open() as engine, engine.worker() as iii:
        answer = await iii.trigger_async("engine::traces::tree", {"trace_id": uuid4().hex})
        assert answer["roots"] == []


async def test_log_fires_with_the_stored_log(target: Target) -> None:
    """OB-16, OB-17, OB-19: the level is an exact match; metadata goes along."""
    trace_id = uuid4().hex
    async with target.open() as engine, engine.worker() as iii:
        heard = Heard()
        iii.register_function(engine.id("on-log"), heard.hear)
        iii.register_trigger("log", engine.id("on-log"), {"level": "WARN"}, {"m": 1})
        await iii.wait_ready()
        for level in ("error", "warn"):
            await iii.trigger_async(f"engine::log::{level}", {"message": level, "trace_id": trace_id})
        log = await heard.take()
        while log["trace_id"] != trace_id:
            log = await heard.take()
        assert log.keys() == {
            "timestamp_unix_nano", "observed_timestamp_unix_nano", "severity_number", "severity_text", "body",
            "attributes", "trace_id", "span_id", "resource", "service_name", "instrumentation_scope_name",
            "instrumentation_scope_version",
        }  # fmt: skip
        assert (log["body"], log["severity_text"]) == ("warn", "WARN")
        assert heard.metadata[-1] == {"m": 1}


async def test_a_call_that_a_worker_executes_is_deferred(target: Target) -> None:
    """OB-14."""
    async with target.open() as engine, engine.worker() as iii:
        iii.register_function(engine.id("f"), lambda _data: None)
        await iii.wait_ready()
        for _ in range(2):
            await iii.trigger_async(engine.id("f"), {}, dispatch="remote")
        answer = await iii.trigger_async("engine::metrics::list", {})
        assert answer["engine_metrics"]["invocations"]["by_function"][engine.id("f")] == 2
        assert answer["engine_metrics"]["invocations"]["deferred"] >= 2


async def test_times_that_are_none_are_refused(target: Target) -> None:
    """OB-13."""
    async with target.open() as engine, engine.worker() as iii:
        for function_id in ("engine::metrics::list", "engine::rollups::list"):
            with pytest.raises(InvocationError) as refused:
                await iii.trigger_async(function_id, {"start_time": 2**60, "end_time": 2**60 + 1})
            assert refused.value.code == "time_value_overflow"


async def test_baggage_functions_are_diagnostic(target: Target) -> None:
    """OB-9."""
    async with target.open() as engine, engine.worker() as iii:
        assert (await iii.trigger_async("engine::baggage::set", {"key": "k", "value": "v"}))["success"] is True
        assert await iii.trigger_async("engine::baggage::get", {"key": "k"}) == {"value": None}
