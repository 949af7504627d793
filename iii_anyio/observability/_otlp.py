"""OpenTelemetry's records as OTLP JSON, as the engine reads it (protocol §15, Appendix B). Pure.

A record's frame is ``head + records joined by commas + tail``. Ids are hex, times are strings of nanoseconds, integers
are JSON numbers, a span's kind is numbered from 1 (A.25, 7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import orjson
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from .._runtime.telemetry_buffer import LOGS, METRICS, SPANS

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.metrics.export import Metric, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

__all__ = ("encode_log", "encode_metrics", "encode_span")

_INT64: Final = 2**63
TAIL: Final = b"]}]}]}"


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": value} if -_INT64 <= value < _INT64 else {"stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value} if math.isfinite(value) else {"stringValue": str(value)}
    if isinstance(value, bytes):
        return {"stringValue": value.decode("utf-8", "replace")}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _attributes(cast("Mapping[object, Any]", value))}}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_value(item) for item in cast("Sequence[object]", value)]}}
    return {} if value is None else {"stringValue": str(value)}


def _attributes(attributes: Mapping[Any, Any] | None) -> list[dict[str, Any]]:
    return [{"key": str(key), "value": _value(value)} for key, value in (attributes or {}).items()]


def _clean(value: Any) -> Any:
    """Without lone surrogates, which UTF-8 cannot carry."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_clean(item) for item in cast("list[object]", value)]
    return value


def _dump(value: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_clean(value))


def _head(
    signal: bytes, names: tuple[str, str, str], resource: Resource | None, scope: InstrumentationScope | None
) -> bytes:
    of_resource, of_scope, records = names
    about = _dump({"attributes": _attributes(None if resource is None else resource.attributes)})
    # A scope without version has an empty one (A.17).
    name = _dump({"name": scope.name, "version": scope.version or ""} if scope is not None else {})
    return b'%s{"%s":[{"resource":%s,"%s":[{"scope":%s,"%s":[' % (
        signal, of_resource.encode(), about, of_scope.encode(), name, records.encode()
    )  # fmt: skip


class _Heads:
    """Heads by resource and scope: there are few, and they come with each record."""

    def __init__(self, signal: bytes, *names: str) -> None:
        self._signal = signal
        self._names = cast("tuple[str, str, str]", names)
        self._made: dict[tuple[Any, Any], tuple[Any, Any, bytes]] = {}

    def get(self, resource: Resource | None, scope: InstrumentationScope | None) -> bytes:
        key = (id(resource), id(scope))
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= 256:
                self._made.clear()
            # Both are kept with it, so that their ids stay theirs.
            found = self._made[key] = (resource, scope, _head(self._signal, self._names, resource, scope))
        return found[2]


_span_heads: Final = _Heads(SPANS, "resourceSpans", "scopeSpans", "spans")
_log_heads: Final = _Heads(LOGS, "resourceLogs", "scopeLogs", "logRecords")


def encode_span(span: ReadableSpan) -> tuple[bytes, bytes, bytes]:
    """Head, tail and record of an ended span."""
    ids = span.get_span_context() or INVALID_SPAN_CONTEXT
    record: dict[str, Any] = {
        "traceId": f"{ids.trace_id:032x}",
        "spanId": f"{ids.span_id:016x}",
        "name": span.name,
        "kind": span.kind.value + 1,
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _attributes(span.attributes),
        "events": [
            {"name": event.name, "timeUnixNano": str(event.timestamp), "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        "links": [
            {
                "traceId": f"{link.context.trace_id:032x}",
                "spanId": f"{link.context.span_id:016x}",
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }
    if span.parent is not None:
        record["parentSpanId"] = f"{span.parent.span_id:016x}"
    return _span_heads.get(span.resource, span.instrumentation_scope), TAIL, _dump(record)


def encode_log(written: ReadWriteLogRecord) -> tuple[bytes, bytes, bytes]:
    """Head, tail and record of a log record."""
    log = written.log_record
    record: dict[str, Any] = {
        "timeUnixNano": str(log.timestamp or log.observed_timestamp or 0),
        "observedTimeUnixNano": str(log.observed_timestamp or log.timestamp or 0),
        "severityNumber": 0 if log.severity_number is None else log.severity_number.value,
        "severityText": log.severity_text or "",
        "body": _value(log.body),
        "attributes": _attributes(log.attributes),
    }
    if log.trace_id:
        record["traceId"] = f"{log.trace_id:032x}"
    if log.span_id:
        record["spanId"] = f"{log.span_id:016x}"
    return _log_heads.get(written.resource, written.instrumentation_scope), TAIL, _dump(record)


def encode_metrics(data: MetricsData) -> Iterable[tuple[bytes, bytes, bytes]]:
    """Head, tail and record of each metric. Exponential histograms are left out: the engine has none (OB-4)."""
    for of_resource in data.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            names = ("resourceMetrics", "scopeMetrics", "metrics")
            head = _head(METRICS, names, of_resource.resource, of_scope.scope)
            for metric in of_scope.metrics:
                points = _points(metric)
                if points is not None:
                    about = {"name": metric.name, "description": metric.description or "", "unit": metric.unit or ""}
                    yield head, TAIL, _dump(about | points)


def _points(metric: Metric) -> dict[str, Any] | None:
    data: Any = metric.data
    kind = type(data).__name__
    if kind == "Gauge":
        return {"gauge": {"dataPoints": [_number(point) for point in data.data_points]}}
    if kind == "Sum":
        sums = [_number(point) for point in data.data_points]
        temporality = int(data.aggregation_temporality)
        return {
            "sum": {"dataPoints": sums, "aggregationTemporality": temporality, "isMonotonic": bool(data.is_monotonic)}
        }
    if kind == "Histogram":
        points = [_histogram(point) for point in data.data_points]
        return {"histogram": {"dataPoints": points, "aggregationTemporality": int(data.aggregation_temporality)}}
    return None


def _at(point: Any) -> dict[str, Any]:
    return {
        "attributes": _attributes(point.attributes),
        "startTimeUnixNano": str(point.start_time_unix_nano or 0),
        "timeUnixNano": str(point.time_unix_nano or 0),
    }


def _number(point: Any) -> dict[str, Any]:
    value = point.value
    return _at(point) | ({"asInt": str(value)} if isinstance(value, int) else {"asDouble": value})


def _histogram(point: Any) -> dict[str, Any]:
    return _at(point) | {
        "count": str(point.count),
        "sum": point.sum,
        "bucketCounts": [str(count) for count in point.bucket_counts],
        "explicitBounds": list(point.explicit_bounds),
        "min": point.min,
        "max": point.max,
    }
