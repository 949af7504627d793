"""What the engine is told of invocations it did not see: matched local calls, emitted events, counts (§16.8).

Below: the codec. Above: ``_runtime/reporting`` says when to send. No clock in here.

A buffer with two bounds, of which what is handed to the connection and not yet written is a part; the newest report is
dropped when it is full, and every dropped one is counted. A frame that was not written comes back, to its place.

The one lock of the protocol: events are emitted by any thread, and a bound that is looked at later is none.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeGuard

from ..errors import EncodeError
from .codec import encode, encode_reports, from_json, to_json
from .jsontext import MAX_DEPTH
from .messages import LocalInvocationStats

__all__ = ("ReportFrame", "ReportLimits", "Reporter")

DropReason: TypeAlias = Literal["BUFFER_FULL", "TOO_LARGE", "INACTIVE"]

PARTS: Final = ("input", "output", "error", "caller", "metadata")
_ENVELOPE: Final = len(encode_reports([]))


@dataclass(slots=True, frozen=True)
class ReportLimits:
    """P-65. Bytes are those of the JSON."""

    batch: int = 256
    linger: float = 0.005
    items: int = 10_000
    bytes: int = 8 * 1024 * 1024
    frame: int = 16 * 1024 * 1024
    interval: float = 10.0


@dataclass(slots=True, eq=False)
class _Item:
    """One report. ``values`` has every part there is, ``captured`` names those that are sent."""

    fields: dict[str, Any]
    values: dict[str, Any]
    captured: frozenset[str]
    event: object = None
    context: object = None
    text: bytes = b""

    @property
    def function_id(self) -> str:
        function_id: str = self.fields["function_id"]
        return function_id


@dataclass(slots=True, eq=False)
class ReportFrame:
    """One ``invocationsobserved``, encoded, and what is to be put back when it was not written."""

    text: bytes
    items: list[_Item]


@dataclass(slots=True)
class _Counts:
    """Since the last ``localinvocationstats``: of functions (calls, errors, milliseconds), and of dropped reports."""

    functions: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    dropped: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def __bool__(self) -> bool:
        return bool(self.functions or self.dropped)


class Reporter:
    """Buffer and counters of one worker. May be used by any thread."""

    def __init__(self, unwritten: Callable[[], int] = lambda: 0, limits: ReportLimits | None = None) -> None:
        """``unwritten`` says how many bytes wait for the socket; they count against the bound."""
        self.limits: ReportLimits = limits or ReportLimits()
        self._unwritten = unwritten
        self._lock = threading.Lock()
        self._items: list[_Item] = []
        self._bytes = 0
        self._emitted: dict[tuple[str, int, int], _Item] = {}
        self._counts = _Counts()

    def __len__(self) -> int:
        return len(self._items)

    # -- what comes in -----------------------------------------------------------------------------------------------

    def add(self, fields: dict[str, Any], values: dict[str, Any], captured: Iterable[str]) -> bool:
        """Take the report of a local invocation that observers matched. False when it was dropped.

        Args:
            fields: As on the wire, without the captured parts.
            values: The captured parts, and perhaps more.
            captured: What the matched observers want to have.
        """
        item = _Item(fields, values, frozenset(captured))
        _render(item)
        with self._lock:
            return self._take(item)

    def add_emitted(
        self, fields: dict[str, Any], values: dict[str, Any], captured: Iterable[str], event: object, context: object
    ) -> bool:
        """Take an event for one observer. Emitted to others from the same context before it is sent, it stays one item.

        ``event`` and ``context`` are compared by identity, and kept as long as the item is.
        """
        item = _Item(fields, values, frozenset(captured), event, context)
        _render(item)  # not under the lock: events may be large
        key = (fields["function_id"], id(event), id(context))
        with self._lock:
            known = self._emitted.get(key)
            if known is not None and fields["matched"][0] not in known.fields["matched"]:
                merged = _Item(
                    known.fields | {"matched": known.fields["matched"] + fields["matched"]},
                    known.values,
                    known.captured | item.captured,
                )
                return self._merge(known, merged)
            if not self._take(item):
                return False
            self._emitted[key] = item
            return True

    def _take(self, item: _Item) -> bool:
        size = len(item.text)
        reason = self._too_much(size, size)
        if reason is None and len(self._items) >= self.limits.items:
            reason = "BUFFER_FULL"
        if reason is not None:
            self._drop(item.function_id, reason)
            return False
        self._items.append(item)
        self._bytes += size
        return True

    def _merge(self, known: _Item, merged: _Item) -> bool:
        _render(merged)
        grown = len(merged.text) - len(known.text)
        reason = self._too_much(len(merged.text), grown)
        if reason is not None:
            self._drop(known.function_id, reason)
            return False
        known.fields, known.captured, known.text = merged.fields, merged.captured, merged.text
        self._bytes += grown
        return True

    def _too_much(self, size: int, grown: int) -> DropReason | None:
        if size > self.limits.bytes or size + _ENVELOPE > self.limits.frame:
            return "TOO_LARGE"
        return "BUFFER_FULL" if self._bytes + self._unwritten() + grown > self.limits.bytes else None

    @property
    def is_batch(self) -> bool:
        """Whether enough wait to be sent without lingering."""
        return len(self._items) >= self.limits.batch

    # -- what goes out -----------------------------------------------------------------------------------------------

    def take(self, fate: Callable[[str], Literal["send", "wait", "drop"]]) -> list[ReportFrame]:
        """Hand over what may be sent now, in order.

        Args:
            fate: By function id: its observers have been acknowledged on this link, or not yet, or it is ours no more.
        """
        with self._lock:
            ready: list[_Item] = []
            waiting: list[_Item] = []
            for item in self._items:
                match fate(item.function_id):
                    case "send":
                        ready.append(item)
                    case "wait":
                        waiting.append(item)
                    case "drop":
                        self._drop(item.function_id, "INACTIVE")
            self._set(waiting)
        frames: list[ReportFrame] = []
        batch: list[_Item] = []
        size = _ENVELOPE
        for item in ready:
            if batch and (len(batch) >= self.limits.batch or size + len(item.text) + 1 > self.limits.frame):
                frames.append(_frame(batch))
                batch, size = [], _ENVELOPE
            batch.append(item)
            size += len(item.text) + 1
        if batch:
            frames.append(_frame(batch))
        return frames

    def put_back(self, frame: ReportFrame) -> None:
        """Take back a frame that was not written, in front of what came later; the bounds hold for the newest."""
        with self._lock:
            items = frame.items + self._items
            size = sum(len(item.text) for item in items)
            while items and (len(items) > self.limits.items or size > self.limits.bytes):
                newest = items.pop()
                size -= len(newest.text)
                self._drop(newest.function_id, "BUFFER_FULL")
            self._set(items)

    def discard(self, function_id: str) -> None:
        """Drop what waits about a function that can never be confirmed again."""
        with self._lock:
            kept = [item for item in self._items if item.function_id != function_id]
            if len(kept) < len(self._items):
                self._drop(function_id, "INACTIVE", len(self._items) - len(kept))
                self._set(kept)

    def clear(self) -> None:
        """Forget everything: the engine does not know observers."""
        with self._lock:
            self._set([])
            self._counts = _Counts()

    def _set(self, items: list[_Item]) -> None:
        self._items = items
        self._bytes = sum(len(item.text) for item in items)
        kept = set(map(id, items))
        self._emitted = {key: item for key, item in self._emitted.items() if id(item) in kept}

    # -- counters ----------------------------------------------------------------------------------------------------

    @property
    def has_counts(self) -> bool:
        """Whether there is something for ``localinvocationstats``."""
        return bool(self._counts)

    def count(self, function_id: str, milliseconds: float, *, is_success: bool) -> None:
        """Count one local invocation."""
        with self._lock:
            counts = self._counts.functions.get(function_id)
            if counts is None:
                counts = self._counts.functions[function_id] = [0, 0, 0.0]
            counts[0] += 1
            counts[1] += not is_success
            counts[2] += milliseconds

    def _drop(self, function_id: str, reason: DropReason, number: int = 1) -> None:
        key = (function_id, reason)
        self._counts.dropped[key] = self._counts.dropped.get(key, 0) + number

    def take_counts(self, window: float) -> tuple[bytes, Callable[[], None]]:
        """Hand over ``localinvocationstats`` of ``window`` seconds, encoded, and what puts the counts back."""
        with self._lock:
            counts, self._counts = self._counts, _Counts()
        message = LocalInvocationStats(
            max(0, round(window * 1000)),
            [
                {"function_id": function_id, "count": int(number), "errors": int(errors), "duration_ms_sum": total}
                for function_id, (number, errors, total) in counts.functions.items()
            ],
            [
                {"function_id": function_id, "reason": reason, "count": number}
                for (function_id, reason), number in counts.dropped.items()
            ],
        )

        def put_back() -> None:
            with self._lock:
                for function_id, added in counts.functions.items():
                    now = self._counts.functions.get(function_id, [0, 0, 0.0])
                    self._counts.functions[function_id] = [
                        mine + theirs for mine, theirs in zip(now, added, strict=True)
                    ]
                for key, number in counts.dropped.items():
                    self._counts.dropped[key] = self._counts.dropped.get(key, 0) + number

        return encode(message), put_back


def _frame(items: list[_Item]) -> ReportFrame:
    return ReportFrame(encode_reports([item.text for item in items]), items)


def _render(item: _Item) -> None:
    """Encode an item as it stands in a frame: two levels deep."""
    values = item.values
    parts = {part: values[part] for part in PARTS if part in item.captured and part in values}
    try:
        text = to_json([[item.fields | parts]])
    except EncodeError:  # §16.8: what JSON cannot express becomes null
        text = to_json([[item.fields | {part: _expressible(value, 4) for part, value in parts.items()}]])
    item.text = text[2:-2]


def _expressible(value: Any, level: int) -> Any:
    """The nearest that JSON has: null for what it cannot express, U+FFFD for a lone surrogate."""
    if isinstance(value, str):
        # Two halves that stand next to each other are the character they mean.
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | float):
        return value
    if level < MAX_DEPTH:
        if _is_object(value):
            return {
                _expressible(key, level): _expressible(member, level + 1)
                for key, member in value.items()
                if isinstance(key, str)
            }
        if _is_array(value):
            return [_expressible(element, level + 1) for element in value]
    try:
        text = to_json(value)
    except EncodeError:
        return None
    # What only became containers by pydantic is too rare to be measured: it goes, or it does not.
    return None if level + text.count(b"[") + text.count(b"{") > MAX_DEPTH else from_json(text)


def _is_object(value: Any) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_array(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)
