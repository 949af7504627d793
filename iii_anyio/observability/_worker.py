"""Telemetry of one worker: what was asked for, set up, and taken down with it.

Below: ``_pipeline`` and the exporter. Above: ``worker.run_worker``.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from anyio import move_on_after, sleep_forever, to_thread

from .._runtime.health import LoopWatch
from ..abc import TelemetryConnector
from ..options import HealthOptions, InitOptions
from . import _state
from ._config import is_enabled, is_off_by_environment, otel_config, telemetry_url

if TYPE_CHECKING:
    from .._runtime.exporting import OpenTelemetryWire
    from .._runtime.instrument import Instrument
    from .._runtime.supervisor import Supervisor
    from ..abc import Connector
    from ._pipeline import Pipeline

__all__ = ("WorkerTelemetry", "worker_telemetry")

logger: Final = logging.getLogger("iii_anyio.telemetry")


class _Others:
    """The application's own processors and readers: they get as long for their last records as the exporter does."""

    name = "telemetry to other exporters"

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def run(self, ready: Callable[[], None], /) -> None:
        """They have threads of their own."""
        ready()
        await sleep_forever()

    async def finish(self) -> None:
        """Deliver what they hold back."""
        seconds = self._pipeline.config.shutdown_timeout
        with move_on_after(seconds) as scope:
            await to_thread.run_sync(self._pipeline.force_flush, seconds, abandon_on_cancel=True)
        if scope.cancelled_caught:
            logger.warning("the application's own exporters have not delivered everything within %g s", seconds)


class WorkerTelemetry:
    """An instrument, and with a pipeline also what it exports to."""

    def __init__(
        self,
        instrument: Instrument,
        pipeline: Pipeline | None = None,
        target: OpenTelemetryWire | Callable[[bytes], None] | None = None,
        worker_name: str = "",
    ) -> None:
        self.instrument = instrument
        self._pipeline = pipeline
        self._target = target
        self._worker_name = worker_name
        self._is_attached = False

    def attach(self, supervisor: Supervisor, options: InitOptions) -> None:
        """Have the worker run the exporter, and the gauges show the worker. On its loop, before it runs."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        self._is_attached = True
        _state.add(pipeline, supervisor)
        if pipeline.config.set_global:
            from ._global import make_global

            make_global(pipeline)
        if pipeline.config.fetch_instrumentation_enabled:
            from ._http import instrument_urllib

            instrument_urllib()
        self._add_services(supervisor, options, pipeline)

    def _add_services(self, supervisor: Supervisor, options: InitOptions, pipeline: Pipeline) -> None:
        if pipeline.meter is not None and options.enable_metrics_reporting:
            if supervisor.loop_watch is None:
                supervisor.loop_watch = LoopWatch(HealthOptions())
                supervisor.services.append(supervisor.loop_watch)
            self._make_gauges(supervisor, pipeline, supervisor.loop_watch)
        if pipeline.has_others:
            supervisor.services.append(_Others(pipeline))
        if self._target is not None:
            is_sink = isinstance(getattr(self._target, "__self__", None), TelemetryConnector)
            supervisor.services.append(
                pipeline.make_exporter(self._target, is_sink=is_sink, heartbeat=options.heartbeat)
            )

    def _make_gauges(self, supervisor: Supervisor, pipeline: Pipeline, loop_watch: LoopWatch) -> None:
        from ._gauges import Figure, WorkerMetricsCollector, process_figures, register_figures

        dispatcher, session, connection = supervisor.dispatcher, supervisor.session, supervisor.connection

        def rtt() -> float | None:
            seconds = connection.rtt
            return None if seconds is None else seconds * 1000

        def attributes() -> dict[str, Any]:
            return {"worker.id": session.worker_id or "", "worker.name": self._worker_name}

        own = (
            Figure(
                "iii.worker.event_loop.lag_ms", "ms", "How late the event loop was at worst since the last reading",
                lambda: loop_watch.take_worst() * 1000,
            ),
            Figure("iii.worker.invocations.in_flight", "1", "Handlers that run", lambda: dispatcher.running),
            Figure("iii.worker.queue.depth", "1", "Invocations that wait for a place", lambda: dispatcher.waiting),
            Figure("iii.worker.calls.in_flight", "1", "Calls that wait for their answer", lambda: len(session.calls)),
            Figure("iii.worker.calls.queued", "1", "Calls that wait for a connection", lambda: session.calls.queued),
            Figure("iii.worker.reconnects", "1", "Connections made again", lambda: connection.reconnects),
            Figure("iii.worker.rtt_ms", "ms", "What the last ping of the connection took", rtt),
            Figure(
                "iii.worker.telemetry.dropped", "1", "Records of telemetry that were dropped",
                lambda: pipeline.buffer.dropped,
            ),
        )  # fmt: skip
        assert pipeline.meter is not None
        register_figures(pipeline.meter, (*process_figures(WorkerMetricsCollector()), *own), attributes)

    def detach(self) -> None:
        """The worker has ended. May wait for processors of the application."""
        pipeline = self._pipeline
        if pipeline is None or not self._is_attached:
            return
        self._is_attached = False
        if pipeline.config.fetch_instrumentation_enabled:
            from ._http import release_urllib

            release_urllib()
        _state.remove(pipeline)
        pipeline.shutdown()


def worker_telemetry(
    options: InitOptions,
    address: str,
    connector: Connector | None,
    worker_name: str,
    wire_options: Mapping[str, Any],
) -> WorkerTelemetry | None:
    """What these options and the environment ask for; None for nothing. May take a while: the SDK is imported here.

    Raises:
        ImportError: The extra ``otel`` is needed and not installed.
        TypeError: ``InitOptions.otel`` is no config.
    """
    config = otel_config(options)
    if config is None:
        # The application may use OpenTelemetry by itself; if so, it has imported it.
        if "opentelemetry.trace" not in sys.modules or is_off_by_environment():
            return None
        from ._instrument import ambient_instrument

        return WorkerTelemetry(ambient_instrument())
    if not is_enabled(config):
        return None
    try:
        from ._pipeline import Pipeline
    except ImportError as exc:
        if options.otel is not None:
            raise
        logger.warning("OTEL_ENABLED asks for telemetry, but %s", exc)
        return None
    target: Any = None
    if config.engine_ws_url is None and isinstance(connector, TelemetryConnector):
        target = connector.take_telemetry
    elif config.engine_ws_url is not None or connector is None:
        from .._wire.connect import websocket_connector

        of_wire = dict(wire_options)
        if config.engine_ws_headers is not None:
            of_wire["headers"] = dict(config.engine_ws_headers)
        target = websocket_connector(telemetry_url(config.engine_ws_url or address), **of_wire)
    else:
        logger.warning("this worker's connector takes no telemetry: give OtelConfig.engine_ws_url to export it")
        config = dataclasses.replace(config, max_buffered_bytes=0)
    pipeline = Pipeline(config)
    return WorkerTelemetry(pipeline.instrument, pipeline, target, worker_name)
