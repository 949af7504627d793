"""Where records of telemetry are kept: bounded by number and by memory, the oldest go first (OB-15).

No clock and no I/O. Below: nothing. Above: ``_telemetry`` fills these, ``_trace_queries`` and the functions read them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ._otlp import Record

__all__ = ("KeptSpan", "Records", "Spans", "is_internal", "weigh")

INTERNAL_PREFIX: Final = "engine::"


def weigh(value: object) -> int:
    """About how many bytes of memory a JSON value takes; never far less than it does."""
    size = 0
    todo: list[Any] = [value]
    for node in todo:  # grows while it is read
        kind = node.__class__
        if kind is str:
            size += 56 + len(node) * (1 if node.isascii() else 4)
        elif kind is dict:
            size += 64 + 110 * len(node) + 4 * sum(map(len, node))
            todo += node.values()
        elif kind is list:
            size += 64 + 8 * len(node)
            todo += node
        else:
            size += 32
    return size


def is_internal(span: Record) -> bool:
    """Whether it is the engine's own business, which lists hide (OB-11)."""
    return any(
        (key == "iii.function.kind" and value == "internal")
        or (key == "function_id" and value.startswith(INTERNAL_PREFIX))
        for key, value in span["attributes"]
    )


class Records:
    """Logs, or metrics, in the order in which they came."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: deque[tuple[int, int, Record]] = deque()
        self.dropped: int = 0
        """How many had to go for want of room."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Record]:
        return (record for _, _, record in self._entries)

    def add(self, record: Record, now_ns: int) -> None:
        weight = weigh(record)
        self._entries.append((now_ns, weight, record))
        self._bytes += weight
        self._make_room()

    def limit(self, max_count: int) -> None:
        self._max_count = max_count
        self._make_room()

    def expire(self, before_ns: int) -> None:
        """Remove what came before this moment, by the engine's clock."""
        while self._entries and self._entries[0][0] < before_ns:
            self._pop()

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _make_room(self) -> None:
        while self._entries and (len(self._entries) > self._max_count or self._bytes > self._max_bytes):
            self._pop()
            self.dropped += 1

    def _pop(self) -> None:
        _, weight, _ = self._entries.popleft()
        self._bytes -= weight


@dataclass(slots=True, eq=False)
class KeptSpan:
    """A span, with what queries ask of each."""

    row: Record
    weight: int
    is_internal: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.row["trace_id"], self.row["span_id"]

    @property
    def is_pending(self) -> bool:
        """Whether it is a snapshot of one that has not ended (OB-5)."""
        return bool(self.row["end_time_unix_nano"] == 0)


class Spans:
    """Spans in the order in which they came, and by trace."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0
        # Finding the first key of a plain dict takes longer the more were removed before it.
        self._spans: OrderedDict[tuple[str, str], KeptSpan] = OrderedDict()
        self._traces: dict[str, dict[str, KeptSpan]] = {}
        self.dropped: int = 0
        """How many had to go for want of room."""

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[KeptSpan]:
        return iter(self._spans.values())

    def trace(self, trace_id: str) -> dict[str, KeptSpan]:
        """The spans of one trace, by span id."""
        return self._traces.get(trace_id, {})

    def is_root(self, span: KeptSpan) -> bool:
        """Whether it has no parent, or one that is not here (OB-11)."""
        parent_id: str | None = span.row["parent_span_id"]
        if parent_id is None:
            return True
        return (span.row["trace_id"], parent_id) not in self._spans

    def add(self, row: Record) -> KeptSpan | None:
        """Keep a span in place of an earlier state of it; None when the later state is here already."""
        span = KeptSpan(row, weigh(row), is_internal(row))
        earlier = self._spans.get(span.key)
        if earlier is not None:
            if span.is_pending and not earlier.is_pending:
                return None
            self._remove(earlier)
        self._spans[span.key] = span
        self._traces.setdefault(row["trace_id"], {})[row["span_id"]] = span
        self._bytes += span.weight
        self._make_room()
        return span

    def limit(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._make_room()

    def clear(self) -> None:
        self._spans.clear()
        self._traces.clear()
        self._bytes = 0

    def _make_room(self) -> None:
        while self._spans and (len(self._spans) > self._max_count or self._bytes > self._max_bytes):
            self._remove(next(iter(self._spans.values())))
            self.dropped += 1

    def _remove(self, span: KeptSpan) -> None:
        trace_id, span_id = span.key
        del self._spans[span.key]
        trace = self._traces[trace_id]
        del trace[span_id]
        if not trace:
            del self._traces[trace_id]
        self._bytes -= span.weight
