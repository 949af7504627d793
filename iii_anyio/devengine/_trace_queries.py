"""Questions to the spans that are kept: rows of a list, the tree of a trace, groups by attribute (OB-11).

Plain functions. Below: ``_kept``. Above: ``_observability_functions``, which has checked the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvocationError

if TYPE_CHECKING:
    from ._kept import KeptSpan, Spans
    from ._otlp import Record

__all__ = ("MS", "group_spans", "list_spans", "span_tree")

MS: Final = 1_000_000
"""Nanoseconds."""
DEFAULT_LIMIT: Final = 100
MAX_LEVELS: Final = 50
"""Of a tree: each takes two of the 127 levels that a message may have."""

_TAGS: Final = frozenset({"iii.session.id", "iii.session.name", "iii.message.id"})
_TAG_PREFIX: Final = "iii.tag."
_SORTED_BY: Final[dict[str, Callable[[Record], Any]]] = {
    "start_time": lambda row: row["start_time_unix_nano"],
    "duration": lambda row: _duration_ms(row),
    "duration_ms": lambda row: _duration_ms(row),
    "service_name": lambda row: row["service_name"],
    "name": lambda row: row["name"],
}


def _duration_ms(row: Record) -> float:
    """Of a span that has not ended 0."""
    start: int = row["start_time_unix_nano"]
    end: int = row["end_time_unix_nano"]
    return max(end - start, 0) / MS


# -- list --------------------------------------------------------------------------------------------------------


def list_spans(spans: Spans, data: dict[str, Any]) -> dict[str, Any]:
    """``engine::traces::list``: a page of the rows that all filters let pass.

    Raises:
        InvocationError: ``deserialization_error``: an order nobody knows.
    """
    sort_by, order = data.get("sort_by", "start_time"), data.get("sort_order", "asc")
    if sort_by not in _SORTED_BY or order not in ("asc", "desc"):
        raise InvocationError(
            "deserialization_error",
            f"engine::traces::list: sort_by is one of {', '.join(_SORTED_BY)}, and sort_order asc or desc",
        )
    is_wanted = _row_filter(data)
    with_internal, with_children = data.get("include_internal", False), data.get("search_all_spans", False)
    rows = [
        span.row
        for span in _candidates(spans, data)
        if (with_internal or not span.is_internal) and (with_children or spans.is_root(span)) and is_wanted(span.row)
    ]
    rows.sort(key=_SORTED_BY[sort_by], reverse=order == "desc")
    offset, limit = data.get("offset", 0), data.get("limit", DEFAULT_LIMIT)
    page = [_with_tags(spans, row) for row in rows[offset : offset + limit]]
    return {"spans": page, "total": len(rows), "offset": offset, "limit": limit}


def _candidates(spans: Spans, data: dict[str, Any]) -> Iterable[KeptSpan]:
    """The spans of the traces that are named, or all."""
    one: str | None = data.get("trace_id")
    many: list[str] | None = data.get("trace_ids")
    if one is None and many is None:
        return spans
    wanted = dict.fromkeys(many if many is not None else ())
    if one is not None:
        wanted = {one: None} if many is None or one in wanted else {}
    return [span for trace_id in wanted for span in spans.trace(trace_id).values()]


def _row_filter(data: dict[str, Any]) -> Callable[[Record], bool]:
    """One test for all filters that are given."""
    tests: list[Callable[[Record], bool]] = []
    texts = {key: data[key].lower() for key in ("service_name", "name", "status") if key in data}
    if texts:
        tests.append(lambda row: all(text in row[key].lower() for key, text in texts.items()))
    if (least := data.get("min_duration_ms")) is not None:
        tests.append(lambda row: _duration_ms(row) >= least)
    if (most := data.get("max_duration_ms")) is not None:
        tests.append(lambda row: _duration_ms(row) <= most)
    if (start := data.get("start_time")) is not None:
        # One that has not ended goes on.
        tests.append(lambda row: not row["end_time_unix_nano"] or row["end_time_unix_nano"] >= start * MS)
    if (end := data.get("end_time")) is not None:
        tests.append(lambda row: row["start_time_unix_nano"] <= end * MS)
    if wanted := data.get("attributes"):
        tests.append(lambda row: all(pair in row["attributes"] for pair in wanted))
    if unwanted := data.get("exclude_attributes"):
        tests.append(lambda row: not any(pair in row["attributes"] for pair in unwanted))
    return lambda row: all(test(row) for test in tests)


def _with_tags(spans: Spans, row: Record) -> Record:
    """The row with what its whole trace is tagged with."""
    tags = {
        key: value
        for span in spans.trace(row["trace_id"]).values()
        for key, value in span.row["attributes"]
        if key in _TAGS or key.startswith(_TAG_PREFIX)
    }
    return row | {"trace_tags": tags} if tags else row


# -- tree --------------------------------------------------------------------------------------------------------


def span_tree(spans: Spans, trace_id: str) -> list[Record]:
    """The roots of a trace with their ``children``, each in the order of their start.

    Beyond ``MAX_LEVELS`` descendants become siblings, for a message is not deeper; spans that are each other's parents
    hang below the first of them.
    """
    trace = spans.trace(trace_id)
    ordered = sorted(trace.values(), key=lambda span: span.row["start_time_unix_nano"])
    below: dict[str, list[str]] = {}
    roots: list[str] = []
    for span in ordered:
        span_id, parent_id = span.row["span_id"], span.row["parent_span_id"]
        (roots if parent_id not in trace or parent_id == span_id else below.setdefault(parent_id, [])).append(span_id)
    result: list[Record] = []
    placed: set[str] = set()
    for root_id in (*roots, *(span.row["span_id"] for span in ordered)):  # behind the roots: who is in a circle
        todo = [(root_id, result, 1)]
        while todo:
            span_id, siblings, level = todo.pop()
            if span_id in placed:
                continue
            placed.add(span_id)
            node: Record = trace[span_id].row | {"children": []}
            siblings.append(node)
            inner = node["children"] if level < MAX_LEVELS else siblings
            todo += [(child, inner, min(level + 1, MAX_LEVELS)) for child in reversed(below.get(span_id, []))]
    return result


# -- groups ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """Spans with the same value of an attribute."""

    first_ns: int
    last_ns: int = 0
    label: str | None = None
    trace_ids: dict[str, None] = field(default_factory=dict[str, None])
    span_count: int = 0
    error_count: int = 0


def group_spans(spans: Spans, data: dict[str, Any]) -> list[dict[str, Any]]:
    """``engine::traces::group_by``: the groups that were seen last come first."""
    attribute: str = data["attribute"]
    label_attribute: str | None = data.get("label_attribute")
    since_ns = data.get("since_ms", 0) * MS
    with_internal = data.get("include_internal", False)
    groups: dict[str, _Group] = {}
    for span in spans:
        row = span.row
        if row["start_time_unix_nano"] < since_ns or (span.is_internal and not with_internal):
            continue
        attributes = dict(row["attributes"])
        value = attributes.get(attribute)
        if value is None:
            continue
        start, end = row["start_time_unix_nano"], row["end_time_unix_nano"]
        group = groups.setdefault(value, _Group(start))
        group.first_ns = min(group.first_ns, start)
        group.last_ns = max(group.last_ns, start, end)
        group.trace_ids[row["trace_id"]] = None
        group.span_count += 1
        group.error_count += row["status"] == "error"
        if label_attribute is not None and group.label is None:
            group.label = attributes.get(label_attribute)
    ordered = sorted(groups.items(), key=lambda entry: entry[1].last_ns, reverse=True)
    return [
        {
            "value": value,
            "label": group.label,
            "trace_ids": list(group.trace_ids),
            "span_count": group.span_count,
            "first_seen_ms": group.first_ns // MS,
            "last_seen_ms": group.last_ns // MS,
            "duration_ms": (group.last_ns - group.first_ns) // MS,
            "error_count": group.error_count,
        }
        for value, group in ordered[: data.get("limit", DEFAULT_LIMIT)]
    ]
