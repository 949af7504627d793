"""The running span and its baggage, by OpenTelemetry's API alone. Every function does nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.trace import Status, StatusCode, format_span_id, format_trace_id

from . import _state

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = (
    "current_span_id",
    "current_span_is_recording",
    "current_trace_id",
    "extract_baggage",
    "extract_context",
    "extract_traceparent",
    "get_all_baggage",
    "get_baggage_entry",
    "inject_baggage",
    "inject_traceparent",
    "record_span_event",
    "remove_baggage_entry",
    "run_with_context",
    "set_baggage_entry",
    "set_current_span_attribute",
    "set_current_span_error",
)


def current_trace_id() -> str | None:
    """Trace id of the running span, else of the running invocation: 32 hex digits, or None."""
    span = trace.get_current_span().get_span_context()
    return format_trace_id(span.trace_id) if span.is_valid else _state.ids_of_invocation()[0]


def current_span_id() -> str | None:
    """Id of the running span, else of the one that the running invocation came with: 16 hex digits, or None."""
    span = trace.get_current_span().get_span_context()
    return format_span_id(span.span_id) if span.is_valid else _state.ids_of_invocation()[1]


def current_span_is_recording() -> bool:
    """Whether there is a running span that anybody will see."""
    return trace.get_current_span().is_recording()


def set_current_span_attribute(key: str, value: Any) -> None:
    """Set an attribute of the running span."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(key, value)


def set_current_span_error(message: str) -> None:
    """Mark the running span as failed."""
    trace.get_current_span().set_status(Status(StatusCode.ERROR, message))


def record_span_event(name: str, attrs: Mapping[str, Any] | None = None) -> None:
    """Add an event to the running span."""
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(name, attributes=dict(attrs) if attrs else None)


def inject_traceparent() -> str | None:
    """The running span as a W3C ``traceparent``."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")


def inject_baggage() -> str | None:
    """The current baggage as a W3C ``baggage`` header."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("baggage")


def extract_traceparent(traceparent: str) -> Context:
    """The context that a ``traceparent`` describes; attach it, or give it to a span as its parent."""
    return propagate.extract({"traceparent": traceparent})


def extract_baggage(baggage: str) -> Context:
    """The context with the entries of a ``baggage`` header."""
    return propagate.extract({"baggage": baggage})


def extract_context(traceparent: str | None = None, baggage: str | None = None) -> Context:
    """The context that both headers describe."""
    headers = {"traceparent": traceparent, "baggage": baggage}
    return propagate.extract({name: value for name, value in headers.items() if value})


def get_baggage_entry(key: str) -> str | None:
    """One entry of the current baggage."""
    value = baggage.get_baggage(key)
    return None if value is None else str(value)


def set_baggage_entry(key: str, value: str) -> Context:
    """The current context with this entry; attach it for it to count."""
    return baggage.set_baggage(key, value)


def remove_baggage_entry(key: str) -> Context:
    """The current context without this entry; attach it for it to count."""
    return baggage.remove_baggage(key)


def get_all_baggage() -> dict[str, str]:
    """Every entry of the current baggage."""
    return {key: str(value) for key, value in baggage.get_all().items()}


def run_with_context(
    traceparent: str | None, baggage: str | None, handler: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call a handler in the context of both headers. In a process that has no other."""
    token = context.attach(extract_context(traceparent, baggage))
    try:
        return handler(*args, **kwargs)
    finally:
        context.detach(token)
