"""Where the SDK hands over what has been recorded. Needs the extra ``otel``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

try:
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
    from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
except ImportError as exc:
    raise ImportError("this needs OpenTelemetry's SDK: install it with  pip install 'iii-anyio[otel]'") from exc
from opentelemetry import baggage

from ._otlp import encode_log, encode_span

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from .._runtime.telemetry_buffer import TelemetryBuffer

__all__ = ("BaggageSpanProcessor", "BufferLogProcessor", "BufferSpanProcessor")

logger: Final = logging.getLogger("iii_anyio.telemetry")


class BaggageSpanProcessor(SpanProcessor):
    """Copies every entry of the baggage to the attributes of each span that starts with it.

    Upstream: iii_helpers.observability.BaggageSpanProcessor.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """See ``SpanProcessor``."""
        entries = baggage.get_all(parent_context)
        if entries and span.is_recording():
            for key, value in entries.items():
                span.set_attribute(key, str(value))


class BufferSpanProcessor(SpanProcessor):
    """Encodes each span that has ended, into a buffer."""

    def __init__(self, buffer: TelemetryBuffer) -> None:
        self._buffer: TelemetryBuffer | None = buffer

    def on_end(self, span: ReadableSpan) -> None:
        """See ``SpanProcessor``."""
        context = span.get_span_context()
        if self._buffer is not None and context is not None and context.trace_flags.sampled:
            try:
                self._buffer.put(*encode_span(span))
            except Exception:  # the boundary: attributes are the application's
                logger.exception("span %r could not be encoded", span.name)

    def shutdown(self) -> None:
        """Take no more."""
        self._buffer = None


class BufferLogProcessor(LogRecordProcessor):
    """Encodes each log record, into a buffer."""

    def __init__(self, buffer: TelemetryBuffer) -> None:
        self._buffer: TelemetryBuffer | None = buffer

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """See ``LogRecordProcessor``."""
        if self._buffer is not None:
            try:
                self._buffer.put(*encode_log(log_record))
            except Exception:  # the boundary: as above
                logger.exception("a log record could not be encoded")

    def shutdown(self) -> None:
        """Take no more."""
        self._buffer = None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held back here."""
        return True
