"""Telemetry of the whole process, as upstream has it, and spans of the application's own.

Tasks: none here; ``init_otel`` has an event loop in a thread of its own for the exporter.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from anyio import from_thread, to_thread
from anyio.lowlevel import EventLoopToken, current_token
from opentelemetry import _logs, context, metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from .._channel_end import resolve_headers
from ..options import HeartbeatOptions, OtelConfig
from . import _state
from ._config import is_enabled, telemetry_url
from ._instrument import SCOPE
from ._spans import extract_traceparent

if TYPE_CHECKING:
    from opentelemetry._logs import Logger as OtelLogger

    from .._runtime.exporting import Exporter
    from ._pipeline import Pipeline

__all__ = ("flush_otel", "get_logger", "init_otel", "make_global", "shutdown_otel", "shutdown_otel_async", "with_span")

logger: Final = logging.getLogger("iii_anyio.telemetry")

T = TypeVar("T")

FALLBACK_URL: Final = "ws://localhost:49134"
FLUSH_DEADLINE: Final = 5.0


# -- spans -----------------------------------------------------------------------------------------------------------


async def with_span(
    name: str, fn: Callable[[Span], Awaitable[T]], *, kind: SpanKind | None = None, traceparent: str | None = None
) -> T:
    """Await ``fn(span)`` in a span of its own, which ends with it in any case.

    The span goes where a handler's spans go; outside of handlers to the process's telemetry, else to the only worker
    that has some. Where there is none, it is one that nobody sees.

    Args:
        name: Of the span.
        fn: What to do; what it raises is on the span.
        kind: Default ``INTERNAL``.
        traceparent: The parent, instead of the running span.

    Upstream: iii_helpers.observability.with_span.
    """
    parent = context.get_current() if traceparent is None else extract_traceparent(traceparent)
    with _tracer().start_as_current_span(
        name, parent, kind or SpanKind.INTERNAL, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            result = await fn(span)
        except BaseException as exc:
            if isinstance(exc, Exception):
                span.record_exception(exc)
            span.set_status(Status(StatusCode.ERROR, str(exc) or type(exc).__name__))
            raise
        span.set_status(Status(StatusCode.OK))
        return result


def _tracer() -> Tracer:
    pipeline = _state.current_pipeline()
    return pipeline.tracer if pipeline is not None else trace.get_tracer(SCOPE)


def get_logger() -> OtelLogger | None:
    """OpenTelemetry's logger of the telemetry that applies here; None without any."""
    pipeline = _state.current_pipeline()
    if pipeline is None or pipeline.logger_provider is None:
        return None
    return pipeline.logger_provider.get_logger(SCOPE)


# -- the process's providers -----------------------------------------------------------------------------------------


class _Tracers(trace.TracerProvider):
    """What OpenTelemetry holds as the process's provider: it can be set once, but pipelines come and go."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return _GlobalTracer(args, kwargs)

    def __getattr__(self, name: str) -> Any:
        pipeline = _state.process_pipeline()
        if pipeline is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(pipeline.tracer_provider, name)


class _GlobalTracer(Tracer):
    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args = args
        self._kwargs = kwargs
        self._made: tuple[Pipeline | None, Tracer] | None = None

    def _tracer(self) -> Tracer:
        pipeline = _state.process_pipeline()
        if self._made is None or self._made[0] is not pipeline:
            provider = trace.NoOpTracerProvider() if pipeline is None else pipeline.tracer_provider
            self._made = (pipeline, provider.get_tracer(*self._args, **self._kwargs))
        return self._made[1]

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        return self._tracer().start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer().start_as_current_span(*args, **kwargs)


class _Loggers(_logs.LoggerProvider):
    def get_logger(self, *args: Any, **kwargs: Any) -> OtelLogger:
        pipeline = _state.process_pipeline()
        provider = None if pipeline is None else pipeline.logger_provider
        return (_logs.NoOpLoggerProvider() if provider is None else provider).get_logger(*args, **kwargs)


def make_global(pipeline: Pipeline) -> None:
    """Have the process use this pipeline: its telemetry functions, and who asks OpenTelemetry for a provider."""
    if _state.process_pipeline() is not None:
        logger.warning("the process has global telemetry already; this one is not made global")
        return
    _state.set_process_pipeline(pipeline)
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        trace.set_tracer_provider(_Tracers())
    elif not isinstance(provider, _Tracers):
        logger.warning("the application has set a tracer provider of its own; spans made with it do not come here")
    if not isinstance(_logs.get_logger_provider(), _Loggers):
        _logs.set_logger_provider(_Loggers())
    # Instruments cannot be moved: the first pipeline's meters stay the process's.
    if pipeline.meter_provider is not None and type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider":
        metrics.set_meter_provider(pipeline.meter_provider)


# -- upstream's way --------------------------------------------------------------------------------------------------


class _Process:
    """A pipeline with a thread that exports it."""

    def __init__(self, pipeline: Pipeline, url: str) -> None:
        self.pipeline = pipeline
        self._url = url
        self._started: Future[EventLoopToken] = Future()
        self._exporter: Exporter | None = None
        # A daemon: a program that ends without shutdown_otel() ends, after the flush of _at_exit.
        self._thread = threading.Thread(target=self._run, name="iii-anyio telemetry", daemon=True)  # noqa: TID251 - carries an event loop; stop() joins it
        self._thread.start()
        self._token = self._started.result()

    def _run(self) -> None:
        try:
            anyio.run(self._export)
        except BaseException as exc:
            if self._started.done():
                logger.exception("telemetry ended")
            else:
                self._started.set_exception(exc)

    async def _export(self) -> None:
        from .._wire.connect import websocket_connector

        headers = self.pipeline.config.engine_ws_headers
        open_wire = websocket_connector(self._url, headers=resolve_headers() if headers is None else headers)
        self._exporter = self.pipeline.make_exporter(open_wire, is_sink=False, heartbeat=HeartbeatOptions())
        self._started.set_result(current_token())
        await self._exporter.run()

    def stop(self) -> None:
        """Deliver what is left, within the config's deadline, and end the thread."""
        assert self._exporter is not None
        try:
            from_thread.run(self._exporter.finish, token=self._token)
        except RuntimeError as exc:
            logger.debug("telemetry has ended before: %s", exc)
        self._thread.join(1.0)


_lock: Final = threading.Lock()
_process: _Process | None = None


def init_otel(config: OtelConfig | None = None, loop: object = None) -> None:
    """Have the whole process export its telemetry to the engine. Until ``shutdown_otel``, again does nothing.

    Needs no worker. A worker opened later without ``InitOptions.otel`` uses it too.

    Args:
        config: As in ``InitOptions``; ``engine_ws_url`` is ``III_URL``, else ``ws://localhost:49134``.
        loop: Not needed; upstream's signature.

    Raises:
        ImportError: Without the extra ``otel``.

    Upstream: iii_helpers.observability.init_otel.
    """
    global _process
    config = config or OtelConfig()
    if not is_enabled(config):
        return
    from ._pipeline import Pipeline

    with _lock:
        if _process is not None:
            return
        pipeline = Pipeline(config)
        url = telemetry_url(config.engine_ws_url or os.environ.get("III_URL") or FALLBACK_URL)
        _process = _Process(pipeline, url)
        _state.add(pipeline)
        make_global(pipeline)
        if config.fetch_instrumentation_enabled:
            from ._http import instrument_urllib

            instrument_urllib()
    atexit.register(_at_exit)


def shutdown_otel() -> None:
    """Deliver what is left, for at most ``shutdown_timeout`` seconds, and end what ``init_otel`` began. Blocks.

    Telemetry of workers is theirs and goes on.

    Upstream: iii_helpers.observability.shutdown_otel.
    """
    global _process
    with _lock:
        process, _process = _process, None
    if process is None:
        return
    atexit.unregister(_at_exit)
    if process.pipeline.config.fetch_instrumentation_enabled:
        from ._http import release_urllib

        release_urllib()
    process.stop()
    _state.remove(process.pipeline)
    process.pipeline.shutdown()


async def shutdown_otel_async() -> None:
    """Do what ``shutdown_otel`` does without blocking the event loop."""
    await to_thread.run_sync(shutdown_otel)


async def flush_otel() -> None:
    """Wait until what has been recorded so far is delivered, at most five seconds.

    Of the telemetry that applies here, be it a worker's or the process's; with the processors it was given.

    Upstream: iii_helpers.observability.flush_otel.
    """
    pipeline = _state.current_pipeline()
    if pipeline is None:
        return
    deadline = anyio.current_time() + FLUSH_DEADLINE
    if pipeline.exporter is not None:
        await pipeline.exporter.flush(FLUSH_DEADLINE)
    if pipeline.has_others:
        left = deadline - anyio.current_time()
        with anyio.move_on_after(left):
            await to_thread.run_sync(pipeline.force_flush, left, abandon_on_cancel=True)


def _at_exit() -> None:
    shutdown_otel()
