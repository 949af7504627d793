"""Telemetry on its way: encoded records from any thread, bounded, in frames of the wire (§15). No clock, no tasks.

Above: ``exporting`` takes the frames; ``observability`` puts the records in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ("LOGS", "METRICS", "SPANS", "TelemetryBuffer")

SPANS: Final = b"OTLP"
METRICS: Final = b"MTRC"
LOGS: Final = b"LOGS"

MAX_FRAME: Final = 1024 * 1024
"""A frame is closed when it has grown this long; a single record may be longer."""


class TelemetryBuffer:
    """Keeps records until they are taken; when it is full, what comes is dropped and counted.

    Args:
        max_bytes: Of all records together.
        delays: By signal, seconds that its records may wait for others.
        batches: By signal, the number of records with which nothing waits any more.
    """

    def __init__(self, max_bytes: int, delays: Mapping[bytes, float], batches: Mapping[bytes, int]) -> None:
        self._max_bytes = max_bytes
        self._delays = delays
        self._batches = batches
        self._lock = threading.Lock()
        self._groups: dict[tuple[bytes, bytes], list[bytes]] = {}
        self._counts: dict[bytes, int] = {}
        self._bytes = 0
        self._has_called = False
        self._listener: Callable[[bool], None] | None = None
        self.dropped: int = 0

    def put(self, head: bytes, tail: bytes, record: bytes) -> None:
        """Keep one record. ``head`` begins with its signal; records with the same head and tail share frames."""
        signal = head[:4]
        with self._lock:
            if self._bytes + len(record) > self._max_bytes:
                self.dropped += 1
                return
            self._groups.setdefault((head, tail), []).append(record)
            self._bytes += len(record)
            count = self._counts[signal] = self._counts.get(signal, 0) + 1
            is_urgent = count == self._batches.get(signal)
            listener = self._listener if is_urgent or not self._has_called else None
            self._has_called = self._has_called or listener is not None
        if listener is not None:
            listener(is_urgent)

    def listen(self, listener: Callable[[bool], None] | None) -> None:
        """Call ``listener(is_urgent)`` on the thread of a record that comes into the empty buffer or fills a batch."""
        with self._lock:
            self._listener = listener
            self._has_called = listener is not None and bool(self._groups)
        if listener is not None and self._groups:
            listener(True)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._groups

    def __len__(self) -> int:
        return sum(self._counts.values())

    def delay(self) -> float:
        """Seconds that what is here now may wait for more."""
        with self._lock:
            return min((self._delays.get(signal, 0.0) for signal in self._counts), default=0.0)

    def take(self) -> list[bytes]:
        """Hand over everything, as frames."""
        with self._lock:
            groups, self._groups = self._groups, {}
            self._counts = {}
            self._bytes = 0
            self._has_called = False
        frames: list[bytes] = []
        for (head, tail), records in groups.items():
            part: list[bytes] = []
            size = 0
            for record in records:
                if part and size + len(record) > MAX_FRAME:
                    frames.append(head + b",".join(part) + tail)
                    part, size = [], 0
                part.append(record)
                size += len(record) + 1
            frames.append(head + b",".join(part) + tail)
        return frames
