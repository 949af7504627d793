"""OTLP/JSON as workers send it, read into the records that the engine keeps (OB-4, Appendix B).

Plain functions over decoded JSON: each takes the body of a frame and yields one record after the other. What of a
frame cannot be read is left out and noted in ``Problems``; nothing here raises because of what a worker sent. Below:
the codec. Above: ``_telemetry``, which keeps the records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from .._protocol.codec import to_json

__all__ = ("MAX_RECORDS", "Problems", "Record", "read_logs", "read_metrics", "read_spans", "without_escapes")

Record = dict[str, Any]
"""A stored span, log or metric, in the shape in which functions and triggers give it out (§5.1)."""

MAX_RECORDS: Final = 10_000
"""Of one frame. Reading them takes the loop half a second; official exporters send 512."""
UNKNOWN_SERVICE: Final = "unknown"

_STATUS: Final = {1: "ok", 2: "error"}
_DIGITS: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?")
_U64: Final = 2**64 - 1


class _BadRecord(Exception):
    """One record cannot be read; the text says why."""


@dataclass(slots=True)
class Problems:
    """What could not be read: how much, and the first reason."""

    count: int = 0
    first: str = ""

    def note(self, reason: str) -> None:
        self.count += 1
        self.first = self.first or reason


@dataclass(slots=True, frozen=True)
class _Origin:
    """What a record shares with others: its resource and its instrumentation scope."""

    resource: dict[str, str]
    service: str
    scope: dict[str, Any]


# -- signals -----------------------------------------------------------------------------------------------------


def read_spans(body: object, problems: Problems) -> Iterator[Record]:
    """The spans of ``{"resourceSpans": [...]}``. One that has not ended is ``pending`` (OB-5)."""
    return _records(body, ("resourceSpans", "scopeSpans", "spans"), _span, "span", problems)


def read_logs(body: object, problems: Problems) -> Iterator[Record]:
    """The logs of ``{"resourceLogs": [...]}``, with all of their twelve keys."""
    return _records(body, ("resourceLogs", "scopeLogs", "logRecords"), _log, "log", problems)


def read_metrics(body: object, problems: Problems) -> Iterator[Record]:
    """The metrics of ``{"resourceMetrics": [...]}``; kinds other than gauge, sum and histogram are skipped."""
    return _records(body, ("resourceMetrics", "scopeMetrics", "metrics"), _metric, "metric", problems)


def _records(
    body: object,
    keys: tuple[str, str, str],
    read: Callable[[dict[str, Any], _Origin], Record | None],
    what: str,
    problems: Problems,
) -> Iterator[Record]:
    """What ``read`` makes of each; a bad one is noted and does not cost the others."""
    for origin, item in _items(body, *keys, problems):
        try:
            record = read(item, origin)
        except _BadRecord as error:
            problems.note(f"{what}: {error}")
        else:
            if record is not None:
                yield record


def _items(
    body: object, by_resource: str, by_scope: str, of_kind: str, problems: Problems
) -> Iterator[tuple[_Origin, dict[str, Any]]]:
    """Each record with its origin. Lists that are missing are empty."""
    left = MAX_RECORDS
    try:
        for group in _objects(_object(body, "the frame"), by_resource):
            resource = _pairs(_object(group.get("resource"), "resource"))
            named = dict(cast("list[tuple[str, str]]", resource))
            service = named.get("service.name", UNKNOWN_SERVICE)
            for part in _objects(group, by_scope):
                origin = _Origin(named, service, _object(part.get("scope"), "scope"))
                for item in _objects(part, of_kind):
                    left -= 1
                    if left < 0:
                        problems.note(f"the frame holds more than {MAX_RECORDS} records; the rest is dropped")
                        return
                    yield origin, item
    except _BadRecord as error:
        problems.note(str(error))


def _span(item: dict[str, Any], origin: _Origin) -> Record:
    parent = item.get("parentSpanId")
    end = _unsigned(item, "endTimeUnixNano")
    status = _object(item.get("status"), "status")
    code = status.get("code")
    span: Record = {
        "trace_id": _text(item, "traceId"),
        "span_id": _text(item, "spanId"),
        "parent_span_id": parent if isinstance(parent, str) and parent.strip("0") else None,
        "name": _text(item, "name"),
        "start_time_unix_nano": _unsigned(item, "startTimeUnixNano"),
        "end_time_unix_nano": end,
        "status": _STATUS.get(code, "unset") if isinstance(code, int) else "unset",
        "attributes": _pairs(item),
        "service_name": origin.service,
        "events": [
            {
                "name": _optional_text(event, "name") or "",
                "timestamp_unix_nano": _unsigned(event, "timeUnixNano"),
                "attributes": _pairs(event),
            }
            for event in _objects(item, "events")
        ],
        "links": [
            {
                "trace_id": _optional_text(link, "traceId") or "",
                "span_id": _optional_text(link, "spanId") or "",
                "attributes": _pairs(link),
            }
            for link in _objects(item, "links")
        ],
    }
    optional = {
        "status_description": _optional_text(status, "message") or None,
        "instrumentation_scope_name": _optional_text(origin.scope, "name"),
        "instrumentation_scope_version": _optional_text(origin.scope, "version"),
        "flags": None if item.get("flags") is None else _unsigned(item, "flags"),
        "trace_state": _optional_text(item, "traceState") or None,
        "pending": True if end == 0 else None,
    }
    return span | {key: value for key, value in optional.items() if value is not None}


def _log(item: dict[str, Any], origin: _Origin) -> Record:
    time = _unsigned(item, "timeUnixNano")
    observed = _unsigned(item, "observedTimeUnixNano")
    body = item.get("body")
    return {
        "timestamp_unix_nano": time or observed,
        "observed_timestamp_unix_nano": observed or time,
        "severity_number": _unsigned(item, "severityNumber"),
        "severity_text": _optional_text(item, "severityText") or "",
        "body": without_escapes(_as_text(_value(body))),
        "attributes": {key: without_escapes(value) for key, value in _attributes(item)},
        "trace_id": _real_id(item, "traceId"),
        "span_id": _real_id(item, "spanId"),
        "resource": origin.resource,
        "service_name": origin.service,
        "instrumentation_scope_name": _optional_text(origin.scope, "name"),
        "instrumentation_scope_version": _optional_text(origin.scope, "version"),
    }


def _metric(item: dict[str, Any], origin: _Origin) -> Record | None:
    for kind in ("gauge", "sum", "histogram"):
        if item.get(kind) is None:
            continue
        data = _object(item[kind], kind)
        if kind == "sum":
            kind = "counter" if data.get("isMonotonic") is True else "updowncounter"
        read = _bucketed if kind == "histogram" else _measured
        points = [read(point) for point in _objects(data, "dataPoints")]
        return {
            "name": _text(item, "name"),
            "description": _optional_text(item, "description") or "",
            "unit": _optional_text(item, "unit") or "",
            "metric_type": kind,
            "data_points": points,
            "service_name": origin.service,
            "timestamp_unix_nano": max((point["timestamp_unix_nano"] for point in points), default=0),
        }
    return None


def _measured(point: dict[str, Any]) -> Record:
    value = _number(point, "asDouble")
    if value is None:  # asDouble is preferred
        value = float(_integer(point, "asInt"))
    return {"value": value, "attributes": _pairs(point), "timestamp_unix_nano": _unsigned(point, "timeUnixNano")}


def _bucketed(point: dict[str, Any]) -> Record:
    return {
        "count": _unsigned(point, "count"),
        "sum": _number(point, "sum"),
        "bucket_counts": [_as_integer(count, "bucketCounts", 0) for count in _list(point, "bucketCounts")],
        "explicit_bounds": [_as_number(bound, "explicitBounds") for bound in _list(point, "explicitBounds")],
        "min": _number(point, "min"),
        "max": _number(point, "max"),
        "attributes": _pairs(point),
        "timestamp_unix_nano": _unsigned(point, "timeUnixNano"),
    }


# -- attributes --------------------------------------------------------------------------------------------------


def _attributes(holder: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for entry in _objects(holder, "attributes"):
        yield _text(entry, "key"), _value(entry.get("value"))


def _pairs(holder: dict[str, Any]) -> list[list[str]]:
    """Attributes as pairs of strings: of spans, metrics and resources."""
    return [[key, _as_text(value)] for key, value in _attributes(holder)]


def _value(value: object) -> Any:
    """A value of any kind; what is of no known kind is empty. Nested no deeper than JSON may be."""
    if not isinstance(value, dict):
        return ""
    fields = cast("dict[str, Any]", value)
    match fields:
        case {"stringValue": str(text)}:
            return text
        case {"boolValue": bool(flag)}:
            return flag
        case {"intValue": number} if number is not None:
            return _as_integer(number, "intValue", -(2**63))
        case {"doubleValue": number} if number is not None:
            return _as_number(number, "doubleValue")
        case {"arrayValue": dict()}:
            return [_value(part) for part in _list(fields["arrayValue"], "values")]
        case {"kvlistValue": dict()}:
            entries = _objects(fields["kvlistValue"], "values")
            return {_text(entry, "key"): _value(entry.get("value")) for entry in entries}
        case _:
            return ""


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def without_escapes(value: Any) -> Any:
    """The value without the escape sequences of terminals in its strings (OB-6)."""
    if isinstance(value, str):
        return _ESCAPES.sub("", value) if "\x1b" in value else value
    if isinstance(value, list):
        return [without_escapes(part) for part in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: without_escapes(part) for key, part in cast("dict[str, Any]", value).items()}
    return value


# -- fields ------------------------------------------------------------------------------------------------------


def _object(value: object, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _BadRecord(f"{what} is no object")
    return cast("dict[str, Any]", value)


def _list(holder: dict[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _BadRecord(f"{key} is no array")
    items: list[Any] = cast("list[object]", value)
    return items


def _objects(holder: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    for item in _list(holder, key):
        yield _object(item, f"an item of {key}")


def _text(holder: dict[str, Any], key: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str):
        raise _BadRecord(f"{key} is missing" if value is None else f"{key} is no string")
    return value


def _optional_text(holder: dict[str, Any], key: str) -> str | None:
    return None if holder.get(key) is None else _text(holder, key)


def _real_id(holder: dict[str, Any], key: str) -> str | None:
    """An id; all zeros is none."""
    value = _optional_text(holder, key)
    return value if value is not None and value.strip("0") else None


def _unsigned(holder: dict[str, Any], key: str) -> int:
    return _as_integer(holder.get(key, 0), key, 0)


def _integer(holder: dict[str, Any], key: str) -> int:
    return _as_integer(holder.get(key, 0), key, -(2**63))


def _as_integer(value: object, key: str, least: int) -> int:
    """64-bit integers come as numbers or strings."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _U64:
        raise _BadRecord(f"{key} is no 64-bit integer")
    return value


def _number(holder: dict[str, Any], key: str) -> float | None:
    return None if holder.get(key) is None else _as_number(holder[key], key)


def _as_number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _BadRecord(f"{key} is no number")
    return float(value)
