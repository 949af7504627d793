"""Calls and invocations as spans: the one implementation of ``Instrument``, on OpenTelemetry's API alone.

Each call is one client span ``trigger <id>`` (a producer span when it goes to a queue), each invocation one server span
``execute <id>`` with the payload events of upstream (A.10). Conventions: RPC, FaaS, and messaging for queues.

A call's parent is the caller's running span; an invocation's is what its message says, else it begins a trace. The
context of an invocation is set where its handler runs, which is a copied context of its own, so it cannot leak.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, cast

from anyio import get_cancelled_exc_class
from opentelemetry import baggage, context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .._runtime.context import running_invocation
from ..errors import InvocationError
from ._payload import redact_and_truncate, resolve_max_bytes_from_env, shows_payloads
from ._spans import run_with_context

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from contextvars import Token
    from types import TracebackType

    from .._protocol.messages import InvokeFunction
    from .._runtime.instrument import Served

__all__ = ("SCOPE", "OtelInstrument", "ambient_instrument")

logger: Final = logging.getLogger("iii_anyio.telemetry")

SCOPE: Final = "iii-python-sdk"
"""Upstream's name of the tracer."""
SYSTEM: Final = "iii"
TRIGGERS: Final = {
    "http": "http",
    "cron": "timer",
    "queue": "pubsub",
    "subscribe": "pubsub",
    "state": "datasource",
    "stream": "datasource",
}
"""Type of a trigger → ``faas.trigger``."""

# On the wire it is always these two (§7.6), whatever OTEL_PROPAGATORS says.
_trace_context: Final = TraceContextTextMapPropagator()
_baggage: Final = W3CBaggagePropagator()


def _context_of(traceparent: str | None, baggage: str | None) -> Context:
    """What a message came with, on top of nothing."""
    found = Context()
    if traceparent:
        found = _trace_context.extract({"traceparent": traceparent}, found)
    return _baggage.extract({"baggage": baggage}, found) if baggage else found


def _parent() -> Context:
    """The caller's context: with its running span, else with that of the invocation it serves."""
    current = context.get_current()
    if trace.get_current_span(current).get_span_context().is_valid:
        return current
    invocation = running_invocation()
    if invocation is None or invocation.traceparent is None:
        return current
    return _trace_context.extract({"traceparent": invocation.traceparent}, current)


def _traceparent(span: Span) -> str | None:
    ids = span.get_span_context()
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}" if ids.is_valid else None


class OtelInstrument:
    """Makes spans with a tracer.

    Args:
        tracer: Where they come from.
        is_live: Says whether anybody has set a provider yet; without one contexts are passed on, and that is all.
    """

    def __init__(self, tracer: Tracer, is_live: Callable[[], bool] | None = None) -> None:
        self.tracer = tracer
        self._is_live = is_live
        self._shows_payloads = shows_payloads()
        self._max_bytes = resolve_max_bytes_from_env()

    def calling(
        self, function_id: str, action: dict[str, Any] | None, namespace: str | None
    ) -> AbstractContextManager[object] | None:
        """See ``Instrument``."""
        if self._is_live is not None and not self._is_live():
            return None
        kind, name = SpanKind.CLIENT, f"trigger {function_id}"
        attributes: dict[str, Any] = {
            "rpc.system.name": SYSTEM,
            "rpc.method": function_id,
            "faas.invoked_name": function_id,
        }
        if namespace is not None:
            attributes["iii.namespace"] = namespace
        if action is not None:
            attributes["iii.action"] = action["type"]
            if action["type"] == "enqueue":
                kind = SpanKind.PRODUCER
                attributes["messaging.system"] = SYSTEM
                attributes["messaging.operation.name"] = "enqueue"
                attributes["messaging.operation.type"] = "send"
                attributes["messaging.destination.name"] = str(action.get("queue", ""))
        return _CallSpan(self.tracer, name, kind, attributes)

    def outgoing(self) -> tuple[str | None, str | None]:
        """See ``Instrument``."""
        traceparent = entries = None
        current = context.get_current()
        if current:
            traceparent = _traceparent(trace.get_current_span(current))
            if baggage.get_all(current):
                carrier: dict[str, str] = {}
                _baggage.inject(carrier, current)
                entries = carrier.get("baggage")
        if traceparent is None:
            invocation = running_invocation()
            if invocation is not None:  # of a worker without an instrument
                return invocation.traceparent, entries or invocation.baggage
        return traceparent, entries

    def serving(self, message: InvokeFunction) -> tuple[InvokeFunction, Served | None]:
        """See ``Instrument``."""
        try:
            parent = _context_of(message.traceparent, message.baggage)
            if self._is_live is not None and not self._is_live():
                if parent or context.get_current():
                    context.attach(parent)
                return message, None
            function_id = message.function_id
            attributes: dict[str, Any] = {
                "rpc.system.name": SYSTEM,
                "rpc.method": function_id,
                "faas.trigger": _trigger(message.data),
                "iii.function.id": function_id,
            }
            if message.invocation_id is not None:
                attributes["faas.invocation_id"] = message.invocation_id
            span = self.tracer.start_span(f"execute {function_id}", parent, SpanKind.SERVER, attributes)
            # Never detached: the context ends with the invocation it was copied for.
            context.attach(trace.set_span_in_context(span, parent))
            served = _ServedSpan(span, self._shows_payloads, self._max_bytes)
            served.event("iii.invocation.input", message.data)
            return replace(message, traceparent=_traceparent(span) or message.traceparent), served
        except Exception:  # the boundary: a processor or sampler of the application's may raise anything
            logger.exception("an invocation could not be traced")
            return message, None

    def in_process(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """See ``Instrument``."""
        traceparent, entries = self.outgoing()
        if traceparent is None and entries is None:
            return handler
        return partial(run_with_context, traceparent, entries, handler)


def ambient_instrument() -> OtelInstrument:
    """Spans by the process's own provider, once it has one."""
    has_provider = False

    def is_live() -> bool:
        nonlocal has_provider
        if not has_provider:  # it is set at most once
            has_provider = not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
        return has_provider

    return OtelInstrument(trace.get_tracer(SCOPE), is_live)


class _CallSpan:
    """The span of one call, entered and left in the caller's task."""

    __slots__ = ("_attributes", "_kind", "_name", "_span", "_token", "_tracer")

    def __init__(self, tracer: Tracer, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> None:
        self._tracer = tracer
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._span: Span | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        try:
            parent = _parent()
            self._span = self._tracer.start_span(self._name, parent, self._kind, self._attributes)
            self._token = context.attach(trace.set_span_in_context(self._span, parent))
        except Exception:  # the boundary: as above
            logger.exception("a call could not be traced")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A coroutine that is thrown away is closed in whatever context that happens.
        if self._token is not None and exc_type is not GeneratorExit:
            context.detach(self._token)
        if self._span is not None:
            _end(self._span, exc)


class _ServedSpan:
    """The span of one invocation."""

    __slots__ = ("_max_bytes", "_shows_payloads", "_span")

    def __init__(self, span: Span, shows_payloads: bool, max_bytes: int | None) -> None:
        self._span = span
        self._shows_payloads = shows_payloads and span.is_recording()
        self._max_bytes = max_bytes

    def event(self, name: str, payload: object, **more: Any) -> None:
        if self._shows_payloads:
            text, is_cut = redact_and_truncate(payload, self._max_bytes)
            self._span.add_event(name, {"iii.payload.json": text, "iii.payload.truncated": is_cut, **more})

    def succeeded(self, result: object) -> None:
        try:
            self.event("iii.invocation.output", result, **{"iii.payload.ok": True})
            if isinstance(result, dict):
                status = cast("dict[str, Any]", result).get("status_code")
                if isinstance(status, int):
                    self._span.set_attribute("http.response.status_code", status)
        except Exception:  # the boundary: as above
            logger.exception("the result of an invocation could not be traced")
        _end(self._span, None)

    def failed(self, exc: BaseException) -> None:
        try:
            self.event("iii.invocation.output", {"error": _text(exc)}, **{"iii.payload.ok": False})
        except Exception:  # the boundary: as above
            logger.exception("the error of an invocation could not be traced")
        _end(self._span, exc)


def _end(span: Span, exc: BaseException | None) -> None:
    """Write the outcome on a span and end it, in any case."""
    try:
        if exc is None:
            span.set_status(Status(StatusCode.OK))
        elif _is_cancellation(exc):
            span.set_attribute("error.type", "cancelled")
            span.set_status(Status(StatusCode.ERROR, "cancelled"))
        else:
            span.set_attribute("error.type", exc.code if isinstance(exc, InvocationError) else type(exc).__name__)
            span.record_exception(exc)
            span.set_status(Status(StatusCode.ERROR, _text(exc)))
    except Exception:  # the boundary: what is in an exception is the application's
        logger.exception("an outcome could not be traced")
    finally:
        try:
            span.end()
        except Exception:  # the boundary: so are its processors
            logger.exception("a span could not be ended")


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, Exception):
        return False
    if isinstance(exc, GeneratorExit):
        return True
    try:
        return isinstance(exc, get_cancelled_exc_class())
    except Exception:  # noqa: BLE001 - not on an event loop's thread
        return False


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - a broken __str__ of the user's
        return type(exc).__name__


def _trigger(data: object) -> str:
    """What started the function, as far as its payload says."""
    match data:
        case {"trigger": {"type": str(kind)}} | {"trigger": str(kind)}:
            return TRIGGERS.get(kind, "other")
        case _:
            return "other"
