"""OpenTelemetry's SDK set up for one worker, or for the process: providers whose records go to the engine (§15).

Needs the extra ``otel``; import it late, and not on an event loop. Below: the ``Exporter``, which sends.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from .._protocol.backoff import Backoff
from .._runtime.exporting import Exporter
from .._runtime.telemetry_buffer import LOGS, SPANS, TelemetryBuffer
from ..options import HeartbeatOptions, OtelConfig, ReconnectionConfig
from ._config import has_metrics, resolve_int
from ._instrument import SCOPE, OtelInstrument
from ._otlp import encode_metrics
from ._processors import BaggageSpanProcessor, BufferLogProcessor, BufferSpanProcessor

from opentelemetry.sdk._logs import LoggerProvider  # isort: skip - the module above says what is missing
from opentelemetry.sdk.metrics import MeterProvider  # isort: skip
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # isort: skip
from opentelemetry.sdk.resources import Resource  # isort: skip
from opentelemetry.sdk.trace import TracerProvider  # isort: skip

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Tracer

    from .._runtime.exporting import OpenTelemetryWire

__all__ = ("Pipeline",)

logger: Final = logging.getLogger("iii_anyio.telemetry")

SPAN_BATCH: Final = 512
DEFAULT_SERVICE_NAME: Final = "iii-python-sdk"
SEVERITIES: Final = {
    logging.DEBUG: ("DEBUG", SeverityNumber.DEBUG),
    logging.INFO: ("INFO", SeverityNumber.INFO),
    logging.WARNING: ("WARN", SeverityNumber.WARN),
    logging.ERROR: ("ERROR", SeverityNumber.ERROR),
    logging.CRITICAL: ("FATAL", SeverityNumber.FATAL),
}


def _resource(config: OtelConfig) -> Resource:
    environment = os.environ.get
    attributes: dict[str, Any] = {
        "service.name": config.service_name or environment("OTEL_SERVICE_NAME") or DEFAULT_SERVICE_NAME,
        "service.version": config.service_version or environment("SERVICE_VERSION") or "unknown",
        "service.instance.id": config.service_instance_id or environment("SERVICE_INSTANCE_ID") or str(uuid.uuid4()),
        "telemetry.sdk.name": SCOPE,
        "telemetry.sdk.language": "python",
    }
    namespace = config.service_namespace or environment("SERVICE_NAMESPACE")
    if namespace:
        attributes["service.namespace"] = namespace
    return Resource.create(attributes)


class Pipeline:
    """Providers, and the buffer that their records go into."""

    def __init__(self, config: OtelConfig) -> None:
        self.config = config
        self.buffer = TelemetryBuffer(
            config.max_buffered_bytes,
            delays={
                SPANS: resolve_int(config.spans_flush_interval_ms, "OTEL_SPANS_FLUSH_INTERVAL_MS", 100) / 1000,
                LOGS: resolve_int(config.logs_flush_interval_ms, "OTEL_LOGS_FLUSH_INTERVAL_MS", 100) / 1000,
            },
            batches={SPANS: SPAN_BATCH, LOGS: resolve_int(config.logs_batch_size, "OTEL_LOGS_BATCH_SIZE", 1, 1)},
        )
        resource = _resource(config)
        self.service_name = str(resource.attributes["service.name"])
        self.tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # The order counts: what the first one writes is to be seen by the others.
        for span_processor in (BaggageSpanProcessor(), BufferSpanProcessor(self.buffer), *config.span_processors):
            self.tracer_provider.add_span_processor(span_processor)
        self.tracer: Tracer = self.tracer_provider.get_tracer(SCOPE)
        self.instrument = OtelInstrument(self.tracer)
        self.logger_provider: LoggerProvider | None = None
        if config.logs_enabled is not False:
            self.logger_provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
            for log_processor in (BufferLogProcessor(self.buffer), *config.log_processors):
                self.logger_provider.add_log_record_processor(log_processor)
        self.meter_provider: MeterProvider | None = None
        self.meter: Meter | None = None
        self._reader: InMemoryMetricReader | None = None
        if has_metrics(config):
            self._reader = InMemoryMetricReader()
            readers = [self._reader, *config.metric_readers]
            self.meter_provider = MeterProvider(resource=resource, metric_readers=readers, shutdown_on_exit=False)
            self.meter = self.meter_provider.get_meter(self.service_name)
        self.exporter: Exporter | None = None

    def make_exporter(
        self, target: OpenTelemetryWire | Callable[[bytes], None], *, is_sink: bool, heartbeat: HeartbeatOptions
    ) -> Exporter:
        """What sends the buffer's records; to be run by a task tree. On an event loop."""
        delays = self.config.reconnection_config or ReconnectionConfig()
        self.exporter = Exporter(
            target,
            self.buffer,
            is_sink=is_sink,
            backoff=Backoff(
                delays.initial_delay_ms / 1000,
                delays.max_delay_ms / 1000,
                delays.backoff_multiplier,
                delays.jitter_factor,
            ),
            heartbeat=heartbeat,
            deadline=self.config.shutdown_timeout,
            collect=None if self._reader is None else self.collect,
            collect_interval=self.config.metrics_export_interval_ms / 1000,
        )
        return self.exporter

    def collect(self) -> None:
        """Have all metrics observed, and put what they are into the buffer. May read files of the system."""
        data = None if self._reader is None else self._reader.get_metrics_data()
        if data is not None:
            for head, tail, record in encode_metrics(data):
                self.buffer.put(head, tail, record)

    def emit(
        self,
        name: str,
        level: int,
        body: str,
        attributes: Mapping[str, Any],
        *,
        trace_id: str | None = None,
        span_id: str | None = None,
        timestamp: int | None = None,
    ) -> bool:
        """Write a log record with these ids, else those of the running span; False when logs are off."""
        if self.logger_provider is None:
            return False
        text, number = SEVERITIES[max((known for known in SEVERITIES if known <= level), default=logging.DEBUG)]
        context = contexts.get_current()
        if trace_id is not None or span_id is not None:
            here = trace.get_current_span().get_span_context()
            ids = SpanContext(
                here.trace_id if trace_id is None else _hex(trace_id),
                here.span_id if span_id is None else _hex(span_id),
                is_remote=False,
                trace_flags=TraceFlags(here.trace_flags),
            )
            context = trace.set_span_in_context(NonRecordingSpan(ids), context)
        now = time.time_ns()
        record = LogRecord(
            timestamp=timestamp or now,
            observed_timestamp=now,
            context=context,
            severity_text=text,
            severity_number=number,
            body=body,
            attributes=dict(attributes),
        )
        self.logger_provider.get_logger(name).emit(record)
        return True

    @property
    def has_others(self) -> bool:
        """Whether records also go to processors and readers that the application gave."""
        config = self.config
        return bool(config.span_processors or config.log_processors or config.metric_readers)

    def force_flush(self, seconds: float) -> None:
        """Have those deliver what they hold back. Waits for them, if they heed it, for at most so long."""
        end = time.monotonic() + seconds
        for provider in (self.tracer_provider, self.logger_provider, self.meter_provider):
            left = max(1, int((end - time.monotonic()) * 1000))
            try:
                if provider is not None and not provider.force_flush(left):
                    logger.warning("%s was not flushed within %g s", type(provider).__name__, seconds)
            except Exception:  # the boundary: processors of the application
                logger.exception("%s could not be flushed", type(provider).__name__)

    def shutdown(self) -> None:
        """Shut the providers down, and with them the processors that the application gave. May wait for those."""
        for provider in (self.tracer_provider, self.logger_provider, self.meter_provider):
            if provider is not None:
                try:
                    provider.shutdown()
                except Exception:  # the boundary: processors of the application
                    logger.exception("%s did not shut down", type(provider).__name__)


def _hex(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0
