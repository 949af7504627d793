"""What the engine knows of traces, logs and metrics: those that workers send, and its own (OB-1 to OB-8, §7.6).

A plain object without tasks: frames and calls come in, records stay within their limits, two listeners are told of
new ones. Below: ``_otlp`` reads frames, ``_kept`` holds records. Above: ``_router`` feeds it, the functions of
``_observability_functions`` read it, ``builtins/observability`` sets its options and its listeners.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from .._protocol.codec import from_json
from ..errors import DecodeError
from ._errors import shorten
from ._kept import KeptSpan, Records, Spans
from ._otlp import Problems, Record, read_logs, read_metrics, read_spans, without_escapes

__all__ = ("PREFIXES", "CallMetrics", "EngineSpan", "Telemetry", "TelemetryOptions", "trace_of")

logger = logging.getLogger(__name__)
worker_logger = logging.getLogger("iii_anyio.devengine.log")
"""Where the logs of workers are printed."""

SPANS: Final = b"OTLP"
METRICS: Final = b"MTRC"
LOGS: Final = b"LOGS"
PREFIXES: Final = frozenset({SPANS, METRICS, LOGS})
"""What a telemetry frame begins with (OB-1)."""

MIB: Final = 1024 * 1024
MAX_LOG_BYTES: Final = 64 * MIB
MAX_METRIC_BYTES: Final = 64 * MIB
MAX_FUNCTIONS: Final = 10_000
"""Function ids that calls are counted by."""
DURATIONS: Final = 1000
"""Calls that the percentiles are taken of."""
MAX_DESCRIPTION: Final = 1000
"""Characters of an error's text in a span."""
MAX_WORKERS: Final = 10_000
"""Whose gauges are remembered."""
MAX_METRICS_AGE_MS: Final = 120_000
SECOND: Final = 1_000_000_000
MS: Final = 1_000_000

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_WORKER_GAUGES: Final = {
    f"iii.worker.{name}": name.replace(".", "_")
    for name in (
        "memory.rss",
        "memory.heap_used",
        "memory.heap_total",
        "memory.external",
        "cpu.percent",
        "cpu.user_micros",
        "cpu.system_micros",
        "event_loop.lag_ms",
        "uptime_seconds",
    )
}
_FRACTIONS: Final = frozenset({"cpu_percent", "event_loop_lag_ms"})
"""Gauges that are no integers."""
_UNPRINTABLE: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


@dataclass
class TelemetryOptions:
    """What the configuration of ``iii-observability`` decides here (§5.4)."""

    enabled: bool = True
    service_name: str = "iii"
    memory_max_spans: int = 100_000
    memory_max_bytes: int = 256 * MIB
    live_spans: bool = True
    metrics_enabled: bool = True
    """The engine's own; those of workers are kept either way."""
    metrics_max_count: int = 10_000
    metrics_retention: float = 3600.0
    logs_enabled: bool = True
    logs_max_count: int = 1000
    logs_retention: float = 3600.0
    logs_sampling_ratio: float = 1.0
    logs_console_output: bool = True
    sampling_ratio: float = 1.0
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    """Shown by ``engine::sampling::rules``; nothing is sampled by it."""


@dataclass(slots=True, eq=False)
class EngineSpan:
    """What the engine itself executes, from its start to its end. ``trace_id`` is empty without trace."""

    function_id: str
    name: str
    start_ns: int
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str | None = None
    flags: str = ""

    @property
    def traceparent(self) -> str | None:
        """What belongs below it carries this; None without trace."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}" if self.trace_id else None


class CallMetrics:
    """The engine's own metrics (OB-14)."""

    def __init__(self) -> None:
        self.success = 0
        self.error = 0
        self.deferred = 0
        """Calls that a worker executes: neither a success nor an error to the engine."""
        self.by_function: Counter[str] = Counter()
        self.durations_ms: deque[float] = deque(maxlen=DURATIONS)
        self.spawns = 0
        self.deaths = 0

    def count(self, function_id: str) -> None:
        if function_id in self.by_function or len(self.by_function) < MAX_FUNCTIONS:
            self.by_function[function_id] += 1


class Telemetry:
    """Everything that was told, within limits.

    Args:
        version: Of the engine.
        now_ns: Wall-clock nanoseconds.
        seed: For span ids and for sampling; by default not predictable.
    """

    def __init__(
        self, *, version: str = "0.23.0", now_ns: Callable[[], int] = time.time_ns, seed: int | None = None
    ) -> None:
        self.options: TelemetryOptions = TelemetryOptions()
        self.version = version
        self.now_ns = now_ns
        self.spans: Spans = Spans(self.options.memory_max_spans, self.options.memory_max_bytes)
        self.logs: Records = Records(self.options.logs_max_count, MAX_LOG_BYTES)
        self.metrics: Records = Records(self.options.metrics_max_count, MAX_METRIC_BYTES)
        self.calls: CallMetrics = CallMetrics()
        self.on_log: Callable[[Record, str | None], None] | None = None
        """Told every log that is kept, and the trace it was made in, if known. Must not call back."""
        self.on_span: Callable[[KeptSpan], None] | None = None
        """Told every span that is kept."""
        self._workers: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._random = random.Random(seed)  # ids of spans are no secrets

    def __repr__(self) -> str:
        return f"<Telemetry spans={len(self.spans)} logs={len(self.logs)} metrics={len(self.metrics)}>"

    def configure(self, options: TelemetryOptions) -> None:
        """Take these options from now on."""
        self.options = options
        self.spans.limit(options.memory_max_spans, options.memory_max_bytes)
        self.logs.limit(options.logs_max_count)
        self.metrics.limit(options.metrics_max_count)

    @property
    def keeps_logs(self) -> bool:
        return self.options.enabled and self.options.logs_enabled

    def sweep(self) -> None:
        """Remove what has been here too long (OB-15)."""
        now = self.now_ns()
        self.logs.expire(now - int(self.options.logs_retention * SECOND))
        self.metrics.expire(now - int(self.options.metrics_retention * SECOND))

    # -- from workers --------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, peer: str) -> None:
        """Take one telemetry frame. What cannot be read of it is a warning, for it has no reply (OB-1, OB-3)."""
        kind = frame[:4]
        if not self.options.enabled or (kind == LOGS and not self.options.logs_enabled):
            return
        problems = Problems()
        try:
            body = from_json(frame[4:])
        except DecodeError as error:
            problems.note(str(error))
        else:
            if kind == SPANS:
                for span in read_spans(body, problems):
                    self._keep_span(span)
            elif kind == LOGS:
                for log in read_logs(body, problems):
                    if not log["timestamp_unix_nano"]:  # its time is unknown
                        log["timestamp_unix_nano"] = log["observed_timestamp_unix_nano"] = self.now_ns()
                    self._keep_log(log, log["trace_id"])
                    self._print(log["severity_number"], log["service_name"], log["body"], log, peer)
            else:
                now = self.now_ns()
                for metric in read_metrics(body, problems):
                    metric["timestamp_unix_nano"] = metric["timestamp_unix_nano"] or now
                    self.metrics.add(metric, now)
                    self._note_worker(metric, now)
        if problems.count:
            logger.warning(
                "telemetry of %s: left out of a frame (%s): %d, the first because %s",
                peer, kind.decode(), problems.count, shorten(problems.first),
            )  # fmt: skip

    def log(
        self, severity: tuple[int, str], message: str, data: object, *, trace_id: str | None, span_id: str | None,
        service_name: str | None, sender: str, worker_id: str, call_trace_id: str | None,
    ) -> None:  # fmt: skip
        """Take the log of a call to ``engine::log::*`` (OB-8). ``sender`` is who it is printed for."""
        # Data of other kinds is dropped.
        attributes: dict[str, Any] = without_escapes(cast("dict[str, Any]", data)) if isinstance(data, dict) else {}
        now = self.now_ns()
        service = service_name if service_name is not None else "unknown"
        record: Record = {
            "timestamp_unix_nano": now,
            "observed_timestamp_unix_nano": now,
            "severity_number": severity[0],
            "severity_text": severity[1],
            "body": without_escapes(message),
            "attributes": attributes,
            "trace_id": trace_id,
            "span_id": span_id,
            "resource": {"service.name": service},
            "service_name": service,
            "instrumentation_scope_name": "iii",
            "instrumentation_scope_version": self.version,
        }
        self._print(severity[0], service_name if service_name is not None else sender, message, record, worker_id)
        if self.keeps_logs and self._random.random() < self.options.logs_sampling_ratio:
            self._keep_log(record, trace_id or call_trace_id)

    def latest_metrics(self, worker_id: str) -> dict[str, Any] | None:
        """What a worker last said of itself, if that is recent (E-30)."""
        values = self._workers.get(worker_id)
        if values is None or values["timestamp_ms"] < self.now_ns() // MS - MAX_METRICS_AGE_MS:
            return None
        return dict(values)

    def _note_worker(self, metric: Record, now: int) -> None:
        """Note the gauges that workers have of themselves (§15)."""
        key = _WORKER_GAUGES.get(metric["name"])
        if key is None or metric["metric_type"] != "gauge":
            return
        for point in metric["data_points"]:
            worker_id = next((value for name, value in point["attributes"] if name == "worker.id"), None)
            if worker_id is None:
                continue
            value: float = point["value"]
            values = self._workers.setdefault(worker_id, {})
            values |= {key: value if key in _FRACTIONS else round(value), "timestamp_ms": now // MS}
            self._workers.move_to_end(worker_id)
            if len(self._workers) > MAX_WORKERS:
                self._workers.popitem(last=False)

    def _keep_log(self, record: Record, trace_id: str | None) -> None:
        self.logs.add(record, self.now_ns())
        if self.on_log is not None:
            self.on_log(record, trace_id)

    def _keep_span(self, span: Record) -> None:
        if "pending" in span and not self.options.live_spans:
            return
        kept = self.spans.add(span)
        if kept is not None and self.on_span is not None:
            self.on_span(kept)

    def _print(self, severity: int, service: str, message: str, record: Record, worker_id: str) -> None:
        """On the engine's console (OB-8): as a record of Python's logging."""
        if not self.options.logs_console_output:
            return
        level = next((level for least, level in _LEVELS if severity >= least), 5)
        if not worker_logger.isEnabledFor(level):
            return
        extra = {key: record[key] for key in ("trace_id", "span_id")} | {"worker_id": worker_id}
        extra["data"] = record["attributes"] or None
        worker_logger.log(
            level, "%s: %s", service.translate(_UNPRINTABLE), message.translate(_UNPRINTABLE), extra=extra
        )

    # -- the engine's own ----------------------------------------------------------------------------------------

    def worker_changed(self, event: str) -> None:
        """A worker came or left."""
        if self.options.metrics_enabled:
            self.calls.spawns += event == "worker_connected"
            self.calls.deaths += event == "worker_disconnected"

    def call_forwarded(self, function_id: str) -> None:
        """A worker is to execute this call: its own span is the record."""
        if self.options.metrics_enabled:
            self.calls.deferred += 1
            self.calls.count(function_id)

    def open_call(self, function_id: str, traceparent: str | None) -> EngineSpan:
        """The engine, or a built-in worker, begins to execute a call."""
        return self._open(EngineSpan(function_id, f"call {function_id}", self.now_ns()), traceparent)

    def close_call(self, span: EngineSpan, error: str | None) -> None:
        """It has ended, with the text of an error or None."""
        if self.options.metrics_enabled:
            calls = self.calls
            calls.durations_ms.append((self.now_ns() - span.start_ns) / 1e6)
            calls.count(span.function_id)
            if error is None:
                calls.success += 1
            else:
                calls.error += 1
        self._close(span, error, [["function_id", span.function_id]])

    def add_request(
        self, traceparent: str, inbound: str | None, name: str, start_ns: int, attributes: list[list[str]],
        error: str | None,
    ) -> None:  # fmt: skip
        """Keep the span of a request from outside: ``traceparent`` names it, ``inbound`` is what the client sent."""
        match, parent = _TRACEPARENT.fullmatch(traceparent), _TRACEPARENT.fullmatch(inbound or "")
        if match is None or not _is_sampled(match):
            return
        parent_id = parent[2] if parent is not None and parent[1] == match[1] else None
        self._close(EngineSpan("", name, start_ns, match[1], match[2], parent_id), error, attributes)

    def _new_span_id(self) -> str:
        return f"{self._random.getrandbits(64) or 1:016x}"

    def _open(self, span: EngineSpan, traceparent: str | None) -> EngineSpan:
        """Only who sent a sampled ``traceparent`` asked for spans (§5.3)."""
        if traceparent is not None and self.options.enabled:
            match = _TRACEPARENT.fullmatch(traceparent)
            if match is not None and _is_sampled(match):
                span.trace_id, span.parent_span_id, span.flags = match.groups()
                span.span_id = self._new_span_id()
        return span

    def _close(self, span: EngineSpan, error: str | None, attributes: list[list[str]]) -> None:
        if not span.trace_id or not self.options.enabled:
            return
        row: Record = {
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "parent_span_id": span.parent_span_id,
            "name": span.name,
            "start_time_unix_nano": span.start_ns,
            "end_time_unix_nano": max(self.now_ns(), span.start_ns + 1),
            "status": "ok" if error is None else "error",
            "attributes": attributes,
            "service_name": self.options.service_name,
            "events": [],
            "links": [],
            "instrumentation_scope_name": "iii",
            "instrumentation_scope_version": self.version,
        }
        if error is not None:
            row["status_description"] = error[:MAX_DESCRIPTION]
        self._keep_span(row)


def _is_sampled(match: re.Match[str]) -> bool:
    return bool(int(match[3], 16) & 1)


def trace_of(traceparent: str | None) -> str | None:
    """The trace id of a ``traceparent``; None when it is none."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    return match[1] if match is not None else None


_LEVELS: Final = ((17, logging.ERROR), (13, logging.WARNING), (9, logging.INFO), (5, logging.DEBUG))
"""Least severity number, and Python's level."""
