"""Telemetry without an engine: reading frames, keeping within limits, answering questions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iii_anyio.devengine import _otlp
from iii_anyio.devengine._kept import Records, Spans, weigh
from iii_anyio.devengine._telemetry import Telemetry, TelemetryOptions, trace_of
from iii_anyio.devengine._trace_queries import group_spans, list_spans, span_tree

MS = 1_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Clock:
    """Nanoseconds that a test can move."""

    def __init__(self) -> None:
        self.now = 1_760_000_000_000 * MS

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def telemetry(clock: Clock) -> Telemetry:
    return Telemetry(version="1.2.3", now_ns=clock, seed=1)


def text(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


def span(span_id: str = "s1", **fields: Any) -> dict[str, Any]:
    """A span as a worker sends it."""
    return {
        "traceId": TRACE, "spanId": span_id, "name": "n", "startTimeUnixNano": "1", "endTimeUnixNano": "2", **fields,
    }  # fmt: skip


def spans_frame(*spans: Any, service: str = "svc") -> bytes:
    scope = {"scope": {"name": "lib", "version": "7"}, "spans": list(spans)}
    group = {"resource": {"attributes": [text("service.name", service)]}, "scopeSpans": [scope]}
    return b"OTLP" + json.dumps({"resourceSpans": [group]}).encode()


def logs_frame(*records: Any) -> bytes:
    group = {"resource": {"attributes": [text("service.name", "svc")]}, "scopeLogs": [{"logRecords": list(records)}]}
    return b"LOGS" + json.dumps({"resourceLogs": [group]}).encode()


def metrics_frame(*metrics: Any) -> bytes:
    return b"MTRC" + json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": list(metrics)}]}]}).encode()


def rows(telemetry: Telemetry) -> list[dict[str, Any]]:
    return [kept.row for kept in telemetry.spans]


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_span_is_kept_in_this_shape(telemetry: Telemetry) -> None:
    """OB-4, §5.1, Appendix B: times as strings or numbers, attributes as pairs of strings."""
    sent = span(
        parentSpanId=PARENT, startTimeUnixNano="18446744073709551615", endTimeUnixNano=7,
        status={"code": 2, "message": "boom"}, flags=1, traceState="a=b", kind=2,
        attributes=[
            text("s", "t"), {"key": "i", "value": {"intValue": "5"}}, {"key": "b", "value": {"boolValue": False}},
            {"key": "d", "value": {"doubleValue": 1.5}}, {"key": "x", "value": {"bytesValue": "aa"}}, {"key": "y"},
            {"key": "a", "value": {"arrayValue": {"values": [{"intValue": 1}, {"stringValue": "z"}]}}},
            {"key": "o", "value": {"kvlistValue": {"values": [text("k", "v")]}}},
        ],
        events=[{"name": "e", "timeUnixNano": 3, "attributes": [text("k", "v")]}],
        links=[{"traceId": "t", "spanId": "u"}],
    )  # fmt: skip
    telemetry.receive(spans_frame(sent), "w")
    assert rows(telemetry) == [
        {
            "trace_id": TRACE, "span_id": "s1", "parent_span_id": PARENT, "name": "n",
            "start_time_unix_nano": 18446744073709551615, "end_time_unix_nano": 7, "status": "error",
            "status_description": "boom", "service_name": "svc", "flags": 1, "trace_state": "a=b",
            "attributes": [
                ["s", "t"], ["i", "5"], ["b", "false"], ["d", "1.5"], ["x", ""], ["y", ""], ["a", '[1,"z"]'],
                ["o", '{"k":"v"}'],
            ],
            "events": [{"name": "e", "timestamp_unix_nano": 3, "attributes": [["k", "v"]]}],
            "links": [{"trace_id": "t", "span_id": "u", "attributes": []}],
            "instrumentation_scope_name": "lib", "instrumentation_scope_version": "7",
        }
    ]  # fmt: skip


@pytest.mark.parametrize("parent", [None, "", "0000000000000000"])
def test_no_parent_is_null(telemetry: Telemetry, parent: str | None) -> None:
    """OB-4; optional fields of a span are left out."""
    telemetry.receive(spans_frame(span(parentSpanId=parent, status={"code": 1, "message": ""})), "w")
    (row,) = rows(telemetry)
    assert row["parent_span_id"] is None
    assert row["status"] == "ok"
    assert not row.keys() & {"status_description", "flags", "trace_state", "pending"}


def test_a_log_is_kept_with_twelve_keys(telemetry: Telemetry) -> None:
    """OB-4, OB-6: attributes keep their types, terminal escapes go, ids of zeros are none."""
    sent = {
        "timeUnixNano": "5", "severityNumber": 9, "severityText": "INFO",
        "body": {"stringValue": "\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link"},
        "attributes": [
            {"key": "n", "value": {"intValue": 1}}, text("c", "\x1b[1mbold"),
            {"key": "log.data", "value": {"kvlistValue": {"values": [text("in", "\x1b[2Jside")]}}},
        ],
        "traceId": TRACE, "spanId": "0" * 16,
    }  # fmt: skip
    telemetry.receive(logs_frame(sent), "w")
    assert list(telemetry.logs) == [
        {
            "timestamp_unix_nano": 5, "observed_timestamp_unix_nano": 5, "severity_number": 9, "severity_text": "INFO",
            "body": "red link", "attributes": {"n": 1, "c": "bold", "log.data": {"in": "side"}}, "trace_id": TRACE,
            "span_id": None, "resource": {"service.name": "svc"}, "service_name": "svc",
            "instrumentation_scope_name": None, "instrumentation_scope_version": None,
        }
    ]  # fmt: skip


def test_metrics_are_kept_by_kind(telemetry: Telemetry, clock: Clock) -> None:
    """OB-4: `asDouble` before `asInt`, sums by monotonicity, other kinds skipped."""
    point = {"asInt": "3", "timeUnixNano": "9", "attributes": [text("k", "v")]}
    buckets = {"count": "2", "sum": 3.5, "bucketCounts": ["1", 1], "explicitBounds": [2], "min": 1, "timeUnixNano": 4}
    telemetry.receive(
        metrics_frame(
            {"name": "g", "unit": "By", "gauge": {"dataPoints": [{**point, "asDouble": 1.5}]}},
            {"name": "c", "sum": {"dataPoints": [point], "isMonotonic": True}},
            {"name": "u", "sum": {"dataPoints": [], "isMonotonic": False}},
            {"name": "h", "histogram": {"dataPoints": [buckets]}},
            {"name": "e", "exponentialHistogram": {"dataPoints": []}},
        ),
        "w",
    )
    gauge, counter, updown, histogram = telemetry.metrics
    assert gauge == {
        "name": "g", "description": "", "unit": "By", "metric_type": "gauge", "service_name": "unknown",
        "data_points": [{"value": 1.5, "attributes": [["k", "v"]], "timestamp_unix_nano": 9}], "timestamp_unix_nano": 9,
    }  # fmt: skip
    assert (counter["metric_type"], counter["data_points"][0]["value"]) == ("counter", 3.0)
    assert (updown["metric_type"], updown["timestamp_unix_nano"]) == ("updowncounter", clock.now)
    assert histogram["data_points"] == [
        {
            "count": 2, "sum": 3.5, "bucket_counts": [1, 1], "explicit_bounds": [2.0], "min": 1.0, "max": None,
            "attributes": [], "timestamp_unix_nano": 4,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"7", b"null", b'{"resourceSpans":7}', b'{"resourceSpans":[7]}',
     b'{"resourceSpans":[{"resource":7}]}', b'{"resourceSpans":[{"scopeSpans":{}}]}', b"[" * 200 + b"]" * 200],
)  # fmt: skip
def test_a_frame_that_cannot_be_read_is_a_warning(
    telemetry: Telemetry, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """OB-1."""
    telemetry.receive(b"OTLP" + body, "worker w")
    assert rows(telemetry) == []
    assert ("telemetry of worker w" in caplog.text) is (body != b"null")  # null is an empty frame


@pytest.mark.parametrize("body", [b"{}", b'{"resourceSpans":[{}]}', b'{"resourceSpans":[{"scopeSpans":[{}]}]}'])
def test_missing_lists_are_empty(telemetry: Telemetry, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """OB-3."""
    telemetry.receive(b"OTLP" + body, "w")
    assert not caplog.records


@pytest.mark.parametrize(
    "change",
    [{"traceId": None}, {"spanId": 7}, {"name": None}, {"startTimeUnixNano": "x"}, {"startTimeUnixNano": -1},
     {"startTimeUnixNano": 2**64}, {"endTimeUnixNano": "9" * 5000}, {"startTimeUnixNano": True},
     {"attributes": [{"value": {}}]}, {"attributes": [{"key": "k", "value": {"doubleValue": "NaN"}}]},
     {"events": 7}, {"status": 7}],
)  # fmt: skip
def test_a_record_that_cannot_be_read_does_not_take_the_others_along(
    telemetry: Telemetry, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """OB-4, Appendix B."""
    telemetry.receive(spans_frame(span("bad", **change), span("good")), "w")
    assert [row["span_id"] for row in rows(telemetry)] == ["good"]
    (record,) = caplog.records
    assert "1, the first because 'span: " in record.getMessage()


def test_a_frame_holds_no_more_than_so_many_records(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_otlp, "MAX_RECORDS", 2)
    telemetry.receive(spans_frame(*(span(f"s{number}") for number in range(5))), "w")
    assert len(telemetry.spans) == 2
    assert "more than 2 records" in caplog.text


def test_every_string_a_hostile_log_holds_is_printed_harmlessly(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """OB-8: logs of workers are on the engine's console."""
    caplog.set_level(1, "iii_anyio.devengine.log")
    telemetry.receive(logs_frame({"severityNumber": 17, "body": {"stringValue": "a\rb\x1b"}}, {"body": {}}), "w")
    first, second = caplog.records
    assert (first.levelno, first.getMessage()) == (40, "svc: a\\x0db")
    assert (second.levelno, second.getMessage()) == (5, "svc: ")


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_nothing_is_kept_when_disabled(telemetry: Telemetry) -> None:
    """OB-3."""
    telemetry.configure(TelemetryOptions(enabled=False))
    telemetry.receive(spans_frame(span()), "w")
    telemetry.receive(logs_frame({}), "w")
    telemetry.configure(TelemetryOptions(logs_enabled=False))
    telemetry.receive(logs_frame({}), "w")
    assert (len(telemetry.spans), len(telemetry.logs)) == (0, 0)


def test_a_snapshot_is_replaced_by_the_span_and_never_replaces_it(telemetry: Telemetry) -> None:
    """OB-5."""
    told: list[str] = []
    telemetry.on_span = lambda kept: told.append(kept.row["name"])
    for name, end in (("open", 0), ("done", 9), ("late", 0)):
        telemetry.receive(spans_frame(span(name=name, endTimeUnixNano=end)), "w")
        assert [row.get("pending") for row in rows(telemetry)] == [True if name == "open" else None]
    assert ([row["name"] for row in rows(telemetry)], told) == (["done"], ["open", "done"])


def test_snapshots_are_dropped_without_live_spans(telemetry: Telemetry) -> None:
    """OB-5."""
    telemetry.configure(TelemetryOptions(live_spans=False))
    telemetry.receive(spans_frame(span(endTimeUnixNano=0)), "w")
    assert rows(telemetry) == []


def test_the_oldest_records_go_first(telemetry: Telemetry, clock: Clock) -> None:
    """OB-15: by number and by age."""
    telemetry.configure(
        TelemetryOptions(memory_max_spans=2, logs_max_count=2, logs_retention=10.0, metrics_retention=20.0)
    )
    telemetry.receive(spans_frame(*(span(f"s{number}") for number in range(3))), "w")
    telemetry.receive(metrics_frame({"name": "m", "gauge": {}}), "w")
    telemetry.receive(logs_frame(*({"severityText": str(number)} for number in range(3))), "w")
    assert [row["span_id"] for row in rows(telemetry)] == ["s1", "s2"]
    assert telemetry.spans.dropped == 1
    assert [log["severity_text"] for log in telemetry.logs] == ["1", "2"]
    clock.now += 11 * 1000 * MS
    telemetry.sweep()
    assert (len(telemetry.logs), len(telemetry.metrics)) == (0, 1)
    clock.now += 10 * 1000 * MS
    telemetry.sweep()
    assert len(telemetry.metrics) == 0


def test_memory_is_bounded_whatever_a_record_weighs() -> None:
    spans, records = Spans(1000, 50_000), Records(1000, 50_000)
    for number in range(40):
        row = {"trace_id": str(number % 3), "span_id": str(number), "end_time_unix_nano": 1, "attributes": []}
        spans.add(row | {"name": "x" * 2000 * (number % 7)})
        spans.add(row | {"name": "y" * 1000})  # in place of the other
        records.add({"body": ["x" * 3000] * 2}, number)
    assert 0 < sum(kept.weight for kept in spans) <= 50_000
    assert 0 < sum(map(weigh, records)) <= 50_000
    assert records.dropped
    records.add({"body": "x" * 60_000}, 99)
    assert len(records) == 0
    spans.clear()
    assert (len(spans), spans.trace("0")) == (0, {})


def test_logs_are_sampled_by_call_only(telemetry: Telemetry) -> None:
    """OB-6, OB-8."""
    telemetry.configure(TelemetryOptions(logs_sampling_ratio=0.0))
    telemetry.receive(logs_frame({}), "w")
    telemetry.log(
        (9, "INFO"), "hi", None, trace_id=None, span_id=None, service_name=None, sender="w", worker_id="1",
        call_trace_id=None,
    )  # fmt: skip
    assert [log["body"] for log in telemetry.logs] == [""]


# -- the engine's own ------------------------------------------------------------------------------------------------


def test_a_call_has_a_span_only_if_its_caller_has_a_sampled_trace(telemetry: Telemetry, clock: Clock) -> None:
    """§5.3, §7.6."""
    for parent in (
        None,
        "nonsense",
        f"00-{TRACE}-{PARENT}-00",
        f"00-{'0' * 32}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
    ):
        quiet = telemetry.open_call("state::get", parent)
        assert quiet.traceparent is None
        telemetry.close_call(quiet, None)
    call = telemetry.open_call("state::get", f"00-{TRACE}-{PARENT}-01")
    clock.now += 5 * MS
    telemetry.close_call(call, "boom")
    (row,) = rows(telemetry)
    assert call.traceparent == f"00-{TRACE}-{row['span_id']}-01"
    assert trace_of(call.traceparent) == TRACE
    assert row == {
        "trace_id": TRACE, "span_id": row["span_id"], "parent_span_id": PARENT, "name": "call state::get",
        "start_time_unix_nano": clock.now - 5 * MS, "end_time_unix_nano": clock.now, "status": "error",
        "status_description": "boom", "attributes": [["function_id", "state::get"]], "service_name": "iii",
        "events": [], "links": [], "instrumentation_scope_name": "iii", "instrumentation_scope_version": "1.2.3",
    }  # fmt: skip
    assert (telemetry.calls.success, telemetry.calls.error, telemetry.calls.by_function) == (5, 1, {"state::get": 6})


def test_the_function_ids_that_are_counted_are_bounded(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iii_anyio.devengine._telemetry.MAX_FUNCTIONS", 2)
    for function_id in ("a", "b", "c", "a"):
        telemetry.call_forwarded(function_id)
    assert telemetry.calls.by_function == {"a": 2, "b": 1}
    assert telemetry.calls.deferred == 4


def test_metrics_of_the_engine_can_be_off(telemetry: Telemetry) -> None:
    """§5.4."""
    telemetry.configure(TelemetryOptions(metrics_enabled=False))
    telemetry.call_forwarded("f")
    telemetry.close_call(telemetry.open_call("g", None), None)
    telemetry.worker_changed("worker_connected")
    telemetry.receive(metrics_frame({"name": "m", "gauge": {}}), "w")
    assert (telemetry.calls.deferred, telemetry.calls.success, telemetry.calls.spawns) == (0, 0, 0)
    assert len(telemetry.metrics) == 1


# -- questions -------------------------------------------------------------------------------------------------------


def make(span_id: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    """A span as it is kept."""
    return {
        "trace_id": "t", "span_id": span_id, "parent_span_id": parent, "name": span_id,
        "start_time_unix_nano": 1000 * MS, "end_time_unix_nano": 1010 * MS, "status": "unset", "attributes": [],
        "service_name": "svc", "events": [], "links": [], **fields,
    }  # fmt: skip


def kept(*spans: dict[str, Any]) -> Spans:
    store = Spans(1000, 10**9)
    for row in spans:
        store.add(row)
    return store


def ids(result: dict[str, Any]) -> list[str]:
    return [row["span_id"] for row in result["spans"]]


SEARCHED = kept(
    make("a", status="ok", attributes=[["k", "1"], ["iii.session.id", "s"]]),
    make("b", "a", service_name="Other", start_time_unix_nano=1002 * MS, attributes=[["k", "2"], ["iii.tag.x", "y"]]),
    make("c", "gone", trace_id="u", name="Execute", start_time_unix_nano=2000 * MS, end_time_unix_nano=2500 * MS),
    make("d", trace_id="v", attributes=[["function_id", "engine::functions::list"]]),
    make("e", trace_id="w", attributes=[["iii.function.kind", "internal"]]),
    make("f", trace_id="x", start_time_unix_nano=500 * MS, end_time_unix_nano=0),
)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "fac"),
        ({"include_internal": True}, "fadec"),
        ({"search_all_spans": True}, "fabc"),
        ({"trace_id": "t", "search_all_spans": True}, "ab"),
        ({"trace_ids": ["u", "t", "u", "no"]}, "ac"),
        ({"trace_id": "u", "trace_ids": ["t"]}, ""),
        ({"trace_id": "u", "trace_ids": ["t", "u"]}, "c"),
        ({"service_name": "OTHER", "search_all_spans": True}, "b"),
        ({"name": "exec"}, "c"),
        ({"status": "OK"}, "a"),
        ({"min_duration_ms": 100}, "c"),
        ({"min_duration_ms": 5, "max_duration_ms": 10.5}, "a"),
        ({"start_time": 1005, "end_time": 1500}, "fa"),
        ({"start_time": 3000}, "f"),
        ({"end_time": 999}, "f"),
        ({"attributes": [["k", "1"]]}, "a"),
        ({"attributes": [["k", "1"], ["k", "2"]]}, ""),
        ({"exclude_attributes": [["k", "1"], ["q", "r"]]}, "fc"),
        ({"sort_by": "name", "sort_order": "desc"}, "fac"),
        ({"sort_by": "duration", "sort_order": "desc"}, "caf"),
        ({"sort_by": "service_name"}, "acf"),
        ({"offset": 1, "limit": 1}, "a"),
        ({"offset": 9}, ""),
    ],
)
def test_spans_are_listed_by_these_filters(filters: dict[str, Any], expected: str) -> None:
    """OB-11."""
    assert ids(list_spans(SEARCHED, filters)) == list(expected)


def test_a_list_says_how_many_there_are_and_how_their_traces_are_tagged() -> None:
    """OB-11: `total` is before paging; tags are those of the whole trace."""
    result = list_spans(SEARCHED, {"trace_id": "t", "limit": 0})
    assert result == {"spans": [], "total": 1, "offset": 0, "limit": 0}
    (row,) = list_spans(SEARCHED, {"trace_id": "t"})["spans"]
    assert row["trace_tags"] == {"iii.session.id": "s", "iii.tag.x": "y"}
    (row,) = list_spans(SEARCHED, {"trace_id": "u"})["spans"]
    assert "trace_tags" not in row


def shape(nodes: list[dict[str, Any]]) -> list[Any]:
    return [[node["span_id"], *shape(node["children"])] for node in nodes]


def test_a_tree_holds_every_span_below_its_parent_in_the_order_of_time() -> None:
    """§5.2; a parent that is not here makes a root."""
    store = kept(
        make("late", "root", start_time_unix_nano=9 * MS), make("early", "root", start_time_unix_nano=5 * MS),
        make("inner", "early"), make("root"), make("orphan", "gone", start_time_unix_nano=1), make("self", "self"),
    )  # fmt: skip
    assert shape(span_tree(store, "t")) == [["orphan"], ["root", ["early", ["inner"]], ["late"]], ["self"]]
    assert span_tree(store, "nobody") == []


def test_spans_that_are_each_others_parents_are_in_the_tree() -> None:
    store = kept(make("a", "c", start_time_unix_nano=1), make("b", "a"), make("c", "b"), make("d", "b"))
    assert shape(span_tree(store, "t")) == [["a", ["b", ["c"], ["d"]]]]


def test_a_tree_is_not_deeper_than_a_message() -> None:
    store = kept(make("0"), *(make(str(number), str(number - 1)) for number in range(1, 200)))
    level, depth, count = span_tree(store, "t"), 0, 0
    while level:
        depth += 1
        count += len(level)
        level = [child for node in level for child in node["children"]]
    assert (depth, count) == (50, 200)


def test_spans_are_grouped_by_the_values_of_an_attribute() -> None:
    """§5.2: the newest group first."""
    store = kept(
        make("a", attributes=[["k", "old"], ["l", "Label"]], status="error"),
        make("b", trace_id="u", attributes=[["k", "old"]], start_time_unix_nano=900 * MS),
        make("c", attributes=[["k", "new"]], end_time_unix_nano=3000 * MS),
        make("d"), make("e", attributes=[["k", "internal"], ["function_id", "engine::x"]]),
    )  # fmt: skip
    newest, oldest = group_spans(store, {"attribute": "k", "label_attribute": "l"})
    assert (newest["value"], newest["label"], newest["duration_ms"]) == ("new", None, 2000)
    assert oldest == {
        "value": "old", "label": "Label", "trace_ids": ["t", "u"], "span_count": 2, "first_seen_ms": 900,
        "last_seen_ms": 1010, "duration_ms": 110, "error_count": 1,
    }  # fmt: skip
    assert len(group_spans(store, {"attribute": "k", "include_internal": True})) == 3
    assert [group["value"] for group in group_spans(store, {"attribute": "k", "limit": 1})] == ["new"]
    (group,) = group_spans(store, {"attribute": "k", "since_ms": 1000, "limit": 5})[1:]
    assert group["span_count"] == 1
