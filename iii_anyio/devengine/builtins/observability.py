"""The built-in ``iii-observability``: its configuration, and the trigger types ``log`` and ``trace`` (§5.3, §5.4).

Its functions are the engine's own (``_observability_functions``), and what they show is kept by ``_telemetry``, which
tells this worker of every new log and span.

No loops: each call of a bound function begins a trace of its own. What is logged, and which spans are made, in such a
trace is kept like everything else but fires nothing. What a handler logs without any trace is not recognised.

Tasks: ``_sweep`` removes what is too old; ``_fire`` calls bound functions, one after another; ``_tell`` gathers traces
for 300 ms. They end with the block.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from anyio import create_task_group

from ...errors import IIIError
from ...trigger import TriggerConfig, TriggerHandler
from .._errors import shorten
from .._settings import Section
from .._telemetry import Telemetry, TelemetryOptions, trace_of
from .._tracing import new_traceparent, traced
from ._config_entry import keep_entry

if TYPE_CHECKING:
    from ...abc import Invoker
    from ...worker import Worker
    from .._kept import KeptSpan
    from .._otlp import Record
    from .._services import Host

__all__ = ("LogTrigger", "TraceTrigger", "read_options", "serve_observability")

logger: Final = logging.getLogger("iii_anyio.devengine.observability")

NAME: Final = "iii-observability"
SWEEP_EVERY: Final = 60.0
BATCH: Final = 0.3
"""Seconds that ``trace`` gathers (OB-18)."""
MAX_TRACES: Final = 10_000
"""Of one batch and trigger; with more it fires at once."""
MAX_WAITING: Final = 10_000
"""Calls that wait to be made."""
MAX_OWN_TRACES: Final = 100_000
"""Traces begun here that are remembered."""

LOG_TYPE: Final[dict[str, Any]] = {
    "id": "log",
    "description": "Log event trigger",
    "trigger_request_format": {
        "type": "object",
        "properties": {
            "level": {
                "type": ["string", "null"],
                "description": "The level to fire for, exactly; 'all' for every level, which is the default",
            }
        },
    },
}
TRACE_TYPE: Final[dict[str, Any]] = {
    "id": "trace",
    "description": "Trace/span event trigger",
    "trigger_request_format": {
        "type": "object",
        "properties": {
            "service_name": {"type": ["string", "null"]},
            "status": {"type": ["string", "null"], "description": "ok, error or unset"},
        },
    },
    "call_request_format": {
        "type": "object",
        "required": ["trace_ids"],
        "properties": {"trace_ids": {"type": "array", "items": {"type": "string"}}},
    },
}
CONFIG_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        **{key: {"type": ["boolean", "null"]} for key in ("enabled", "live_spans", "metrics_enabled", "logs_enabled")},
        **{
            key: {"type": ["integer", "null"], "minimum": 0}
            for key in (
                "memory_max_spans",
                "metrics_max_count",
                "metrics_retention_seconds",
                "logs_max_count",
                "logs_retention_seconds",
            )
        },
        "logs_sampling_ratio": {"type": ["number", "null"]},
        "logs_console_output": {"type": ["boolean", "null"]},
    },
}
"""Of the configuration entry (CF-13). ``enabled`` adds or removes trigger types at the next start only (OB-20)."""
_OWN_FUNCTIONS: Final = tuple(
    f"engine::{name}::"
    for name in ("log", "baggage", "traces", "logs", "metrics", "rollups", "sampling", "health", "alerts")
)


# -- firing ------------------------------------------------------------------------------------------------------


class _Fires:
    """Calls of bound functions that are to be made, and the traces that they began."""

    def __init__(self, iii: Invoker, *, strict_upstream: bool) -> None:
        self._iii = iii
        self.strict_upstream = strict_upstream
        self._waiting: deque[tuple[TriggerConfig[Any], Any]] = deque()
        self._has_waiting = anyio.Event()
        self._own: OrderedDict[str | None, None] = OrderedDict()
        self._lost = 0

    def is_own(self, trace_id: str | None) -> bool:
        """Whether a bound function made this trace."""
        return trace_id is not None and trace_id in self._own

    def put(self, binding: TriggerConfig[Any], payload: Any) -> None:
        """Have the function called."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((binding, payload))
            self._has_waiting.set()
            return
        if not self._lost:
            logger.warning("%d calls of log and trace triggers wait already; more are lost", MAX_WAITING)
        self._lost += 1

    async def run(self) -> None:
        """Make the calls, until cancelled."""
        while True:
            while self._waiting:
                await self._call(*self._waiting.popleft())
            if self._lost:
                logger.warning("%d calls of log and trace triggers were lost", self._lost)
                self._lost = 0
            self._has_waiting = anyio.Event()
            await self._has_waiting.wait()

    async def _call(self, binding: TriggerConfig[Any], payload: Any) -> None:
        traceparent = new_traceparent()
        self._own[trace_of(traceparent)] = None
        if len(self._own) > MAX_OWN_TRACES:
            self._own.popitem(last=False)
        # Upstream calls in `default` whatever the trigger says (OB-19).
        namespace = None if self.strict_upstream else binding.namespace
        request = {
            "function_id": binding.function_id,
            "payload": payload,
            "namespace": namespace if namespace is not None else "default",
            "action": {"type": "void"},
        }
        if binding.metadata is not None:
            request["metadata"] = binding.metadata
        try:
            with traced(self, traceparent):
                await self._iii.trigger_async(request)
        except IIIError as error:
            logger.warning("trigger %s of %s failed: %s", shorten(binding.id), shorten(binding.function_id), error)


def _config_of(trigger: TriggerConfig[Any]) -> dict[str, Any]:
    """The config of a trigger; null is an empty one.

    Raises:
        ValueError: It is no object, or holds something other than strings where filters are.
    """
    config: object = trigger.config if trigger.config is not None else {}
    if not isinstance(config, dict):
        raise ValueError("the trigger's config must be an object")
    values = cast("dict[str, Any]", config)
    for key in ("level", "service_name", "status"):
        if not isinstance(values.get(key), str | None):
            raise ValueError(f"{key} of the trigger's config must be a string, not {values[key]!r:.100}")
    return values


class LogTrigger(TriggerHandler[Any]):
    """Provider of ``log``: fires for every log that is kept (OB-16, OB-17)."""

    def __init__(self, fires: _Fires) -> None:
        self._fires = fires
        self._bindings: dict[str, tuple[str, TriggerConfig[Any]]] = {}

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Bind a function to logs of exactly one level, whatever it is called, or to all."""
        level: str = _config_of(config).get("level") or "all"
        self._bindings[config.id] = (level.lower(), config)

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Remove the binding."""
        self._bindings.pop(config.id, None)

    def on_log(self, log: Record, trace_id: str | None) -> None:
        """Have the functions called that this log is for."""
        if not self._bindings:
            return
        # A handler that logs fires itself in upstream's engine.
        if self._fires.is_own(trace_id) and not self._fires.strict_upstream:
            return
        level = log["severity_text"].lower()
        for wanted, binding in self._bindings.values():
            if wanted in ("all", level):
                self._fires.put(binding, log)


@dataclass(slots=True, eq=False)
class _TraceBinding:
    trigger: TriggerConfig[Any]
    service_name: str | None
    status: str | None
    trace_ids: set[str] = field(default_factory=set[str])
    """To be told."""

    def takes(self, span: Record) -> bool:
        return self.service_name in (None, span["service_name"].lower()) and self.status in (None, span["status"])


class TraceTrigger(TriggerHandler[Any]):
    """Provider of ``trace``: tells which traces got spans, every 300 ms at most (OB-18)."""

    def __init__(self, fires: _Fires) -> None:
        self._fires = fires
        self._bindings: dict[str, _TraceBinding] = {}
        self._has_spans = anyio.Event()

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Bind a function to the spans of a service, or with a status. Filters ignore case."""
        values = _config_of(config)
        service_name, status = (
            value.lower() if (value := values.get(key)) is not None else None for key in ("service_name", "status")
        )
        self._bindings[config.id] = _TraceBinding(config, service_name, status)

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Remove the binding."""
        self._bindings.pop(config.id, None)

    def on_span(self, span: KeptSpan) -> None:
        """Note the trace of a span that has ended for the functions it is for."""
        if not self._bindings or span.is_pending or self._is_left_out(span):
            return
        trace_id: str = span.row["trace_id"]
        for binding in self._bindings.values():
            if binding.takes(span.row):
                binding.trace_ids.add(trace_id)
                self._has_spans.set()
                if len(binding.trace_ids) >= MAX_TRACES:
                    self._flush(binding)

    def _is_left_out(self, span: KeptSpan) -> bool:
        """The engine's own business, and what comes of this trigger itself (OB-18)."""
        row = span.row
        if self._fires.is_own(row["trace_id"]) or (span.is_internal and row["parent_span_id"] is None):
            return True
        function_id = _function_of(row)
        return function_id is not None and (
            function_id.startswith(_OWN_FUNCTIONS)
            or any(binding.trigger.function_id == function_id for binding in self._bindings.values())
        )

    def _flush(self, binding: _TraceBinding) -> None:
        trace_ids, binding.trace_ids = sorted(binding.trace_ids), set()
        if trace_ids:
            self._fires.put(binding.trigger, {"trace_ids": trace_ids})

    async def run(self) -> None:
        """Tell what was gathered, until cancelled."""
        while True:
            await self._has_spans.wait()
            await anyio.sleep(BATCH)
            self._has_spans = anyio.Event()
            for binding in list(self._bindings.values()):
                self._flush(binding)


def _function_of(span: Record) -> str | None:
    """The function whose call or execution a span is; SDKs name it ``execute f``, and put baggage into attributes."""
    attributes: list[list[str]] = span["attributes"]
    for key, value in attributes:
        if key in ("function_id", "iii.function.id"):
            return value
    name: str = span["name"]
    verb, _, rest = name.partition(" ")
    return rest if verb in ("execute", "call") else None


# -- the worker --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serve_observability(
    iii: Worker, host: Host, config: Mapping[str, Any]
) -> AsyncGenerator[tuple[LogTrigger, TraceTrigger] | None]:
    """Run the built-in ``iii-observability``: without trigger types when it is not enabled (OB-20)."""
    telemetry = host.router.telemetry

    def configure(value: object) -> None:
        telemetry.configure(read_options(value))

    configure(config)
    async with create_task_group() as tasks:
        tasks.start_soon(_sweep, telemetry, name="engine telemetry sweeps")
        if telemetry.options.enabled:
            fires = _Fires(iii, strict_upstream=host.strict_upstream)
            log, trace = LogTrigger(fires), TraceTrigger(fires)
            iii.register_trigger_type(**LOG_TYPE, handler=log)
            iii.register_trigger_type(**TRACE_TYPE, handler=trace)
            telemetry.on_log, telemetry.on_span = log.on_log, trace.on_span
            tasks.start_soon(fires.run, name="engine log and trace triggers")
            tasks.start_soon(trace.run, name="engine trace batches")
            await keep_entry(iii, host, NAME, "Observability", CONFIG_SCHEMA, config, configure)
            yield log, trace
            telemetry.on_log = telemetry.on_span = None
        else:
            await keep_entry(iii, host, NAME, "Observability", CONFIG_SCHEMA, config, configure)
            yield None
        tasks.cancel_scope.cancel()


async def _sweep(telemetry: Telemetry) -> None:
    while True:
        await anyio.sleep(SWEEP_EVERY)
        telemetry.sweep()


def read_options(config: object) -> TelemetryOptions:
    """The options that a configuration gives, with upstream's keys (§5.4).

    What is not given has the same default with and without a block. Spans, logs and metrics stay in memory, so what
    exporters, archives, alerts and sampling of spans are told has no effect; it is reported when it is not a default.

    Raises:
        ValueError: A wrong value.
    """
    root = Section(NAME, config)
    default = TelemetryOptions()
    for key in ("exporter", "metrics_exporter", "logs_exporter"):
        exporter = root.text(key, "memory")
        if exporter not in ("memory", "otlp", "both"):
            root.refuse(key, exporter, "memory, otlp or both")
        if exporter != "memory":
            logger.warning("%s: %s %s: this engine exports nothing and keeps all in memory", NAME, key, exporter)
    for key in ("alerts", "collapse_spans"):
        if root.sections(key):
            logger.warning("%s: %s have no effect in this engine", NAME, key)
    sampling = root.mapping("sampling")
    storage = root.section("trace_storage")
    root.ignore(
        "service_version",
        "service_namespace",
        "endpoint",
        "logs_batch_size",
        "logs_flush_interval_ms",
        "level",
        "format",
    )
    options = TelemetryOptions(
        enabled=root.flag("enabled", default.enabled),
        service_name=root.text("service_name", default.service_name),
        memory_max_spans=_count(root, "memory_max_spans", default.memory_max_spans),
        live_spans=root.flag("live_spans", default.live_spans),
        metrics_enabled=root.flag("metrics_enabled", default.metrics_enabled),
        metrics_max_count=_count(root, "metrics_max_count", default.metrics_max_count),
        metrics_retention=_count(root, "metrics_retention_seconds", int(default.metrics_retention)),
        logs_enabled=root.flag("logs_enabled", default.logs_enabled),
        logs_max_count=_count(root, "logs_max_count", default.logs_max_count),
        logs_retention=_count(root, "logs_retention_seconds", int(default.logs_retention)),
        logs_sampling_ratio=root.share("logs_sampling_ratio", 1.0),
        logs_console_output=root.flag("logs_console_output", default.logs_console_output),
        sampling_ratio=root.share("sampling_ratio", 1.0),
    )
    if storage is not None:
        options.memory_max_bytes = _count(storage, "memory_max_bytes", default.memory_max_bytes)
        storage.ignore(
            "enabled", "directory", "max_disk_bytes", "retention_seconds", "memory_low_watermark_ratio",
            "pending_max_age_seconds",
        )  # fmt: skip
        storage.end()
    if sampling:
        options.sampling = dict(sampling)
        logger.warning("%s: sampling has no effect on spans in this engine: it keeps all", NAME)
    root.end()
    return options


def _count(section: Section, key: str, default: int) -> int:
    """A count; 0 is the default."""
    return section.integer(key, default, 0, 2**53) or default
