"""Traces, logs and metrics by OpenTelemetry, and logging for handlers.

Without the extra ``otel`` there is the API alone: trace context is passed on, ``Logger`` writes to Python's logging,
spans go to the provider that the application has set. Everything but ``Logger`` is imported by its first use, for
OpenTelemetry takes longer to import than the rest of this package.

Below: ``_runtime/instrument``, where calls and invocations tell of themselves.   Upstream: iii_helpers.observability.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ..options import OtelConfig, ReconnectionConfig
from ._logger import Logger

if TYPE_CHECKING:
    from ._gauges import WorkerMetrics, WorkerMetricsCollector, register_worker_gauges, stop_worker_gauges
    from ._global import flush_otel, get_logger, init_otel, shutdown_otel, shutdown_otel_async, with_span
    from ._http import execute_traced_request
    from ._logging import LogContextFilter, LogHandler, add_log_context, log_context
    from ._payload import REDACTED_PLACEHOLDER, redact, redact_and_truncate, resolve_max_bytes_from_env
    from ._processors import BaggageSpanProcessor
    from ._spans import (
        current_span_id,
        current_span_is_recording,
        current_trace_id,
        extract_baggage,
        extract_context,
        extract_traceparent,
        get_all_baggage,
        get_baggage_entry,
        inject_baggage,
        inject_traceparent,
        record_span_event,
        remove_baggage_entry,
        set_baggage_entry,
        set_current_span_attribute,
        set_current_span_error,
    )

__all__ = (
    "REDACTED_PLACEHOLDER",
    "BaggageSpanProcessor",
    "LogContextFilter",
    "LogHandler",
    "Logger",
    "OtelConfig",
    "ReconnectionConfig",
    "WorkerMetrics",
    "WorkerMetricsCollector",
    "add_log_context",
    "current_span_id",
    "current_span_is_recording",
    "current_trace_id",
    "execute_traced_request",
    "extract_baggage",
    "extract_context",
    "extract_traceparent",
    "flush_otel",
    "get_all_baggage",
    "get_baggage_entry",
    "get_logger",
    "init_otel",
    "inject_baggage",
    "inject_traceparent",
    "log_context",
    "record_span_event",
    "redact",
    "redact_and_truncate",
    "register_worker_gauges",
    "remove_baggage_entry",
    "resolve_max_bytes_from_env",
    "set_baggage_entry",
    "set_current_span_attribute",
    "set_current_span_error",
    "shutdown_otel",
    "shutdown_otel_async",
    "stop_worker_gauges",
    "with_span",
)

_WHERE: Final = {
    "_gauges": ("WorkerMetrics", "WorkerMetricsCollector", "register_worker_gauges", "stop_worker_gauges"),
    "_global": ("flush_otel", "get_logger", "init_otel", "shutdown_otel", "shutdown_otel_async", "with_span"),
    "_http": ("execute_traced_request",),
    "_logging": ("LogContextFilter", "LogHandler", "add_log_context", "log_context"),
    "_payload": ("REDACTED_PLACEHOLDER", "redact", "redact_and_truncate", "resolve_max_bytes_from_env"),
    "_processors": ("BaggageSpanProcessor",),
}
_MODULES: Final = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, '_spans')}"), name)
    globals()[name] = value
    return value
