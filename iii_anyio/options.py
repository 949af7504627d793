"""What a worker can be told. Plain data; ``resolve_*`` read the environment once, when a worker is made."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = (
    "DEFAULT_ENGINE_URL",
    "DEFAULT_INVOCATION_TIMEOUT_MS",
    "ConnectionStateCallback",
    "HealthOptions",
    "HeartbeatOptions",
    "IIIConnectionState",
    "InitOptions",
    "Limits",
    "OtelConfig",
    "ReconnectionConfig",
    "RetryPolicy",
    "TelemetryOptions",
)

from collections.abc import Callable
from typing import TypeAlias

DEFAULT_ENGINE_URL = "ws://127.0.0.1:49134"
DEFAULT_INVOCATION_TIMEOUT_MS = 30_000

IIIConnectionState: TypeAlias = Literal["disconnected", "connecting", "connected", "reconnecting", "failed"]
ConnectionStateCallback: TypeAlias = Callable[[IIIConnectionState], None]


@dataclass
class TelemetryOptions:
    """Worker metadata shown by the engine; ``None`` takes the default (protocol §6.2)."""

    language: str | None = None
    project_name: str | None = None
    framework: str | None = None
    amplitude_api_key: str | None = None
    """Sent when set. Releases up to 0.23 had it, and SDKs of other languages have it."""


@dataclass
class ReconnectionConfig:
    """Delay n (from 0) is ``min(initial * multiplier ** n, max)``, then ± jitter. ``max_retries`` -1 is for ever."""

    initial_delay_ms: int = 1000
    max_delay_ms: int = 30_000
    backoff_multiplier: float = 2.0
    jitter_factor: float = 0.3
    max_retries: int = -1


@dataclass(frozen=True)
class RetryPolicy:
    """Repeat a call that failed, for functions that may run twice without harm: giving one says that this one may.

    All attempts and the pauses between them have to fit into the call's timeout; what the last one came to is raised.
    Delay n (from 0) is ``min(initial_delay * multiplier ** n, max_delay)`` ± ``jitter``. Seconds.
    """

    attempts: int = 3
    """At most, the first included."""
    initial_delay: float = 0.1
    max_delay: float = 5.0
    multiplier: float = 2.0
    jitter: float = 0.3
    on: Collection[str] = frozenset(
        {
            "CONNECTION_LOST",
            "OFFLINE_QUEUE_FULL",
            "invocation_cancelled",
            "invocation_stopped",
            "worker_overloaded",
            "worker_shutting_down",
        }
    )
    """Codes of errors after which the next attempt may do better."""
    attempt_timeout: float | None = None
    """One attempt takes no longer; then ``TIMEOUT`` is repeated too, for as long as the call's own timeout allows."""

    def __post_init__(self) -> None:
        if isinstance(self.on, str):
            raise TypeError(f"on is a collection of codes, as in on={{{self.on!r}}}")
        if self.attempts < 1:
            raise ValueError(f"attempts counts the first call too, so it is at least 1, not {self.attempts}")
        if self.attempt_timeout is not None and not self.attempt_timeout > 0:
            raise ValueError(f"attempt_timeout is a positive number of seconds, not {self.attempt_timeout}")
        if not (self.initial_delay >= 0 and self.max_delay >= 0 and self.multiplier > 0 and 0 <= self.jitter <= 1):
            raise ValueError("delays are not negative, multiplier is positive, jitter is between 0 and 1")


@dataclass
class HeartbeatOptions:
    """When a silent link counts as dead. Seconds."""

    interval: float = 20.0
    """A ping goes out this long after the previous one."""
    pong_timeout: float = 10.0
    """The link is dead when a ping stays unanswered this long."""
    idle_timeout: float = 60.0
    """The link is dead when nothing at all arrived for this long."""


def _processors() -> int:
    return os.cpu_count() or 1


@dataclass
class Limits:
    """Bounds of one worker."""

    max_concurrency: int = 1000
    """Handlers running at once, async and sync together."""
    max_threads: int = 100
    """Threads for sync handlers. One that waits in ``trigger()`` lends its place to another."""
    max_processes: int = field(default_factory=_processors)
    """Processes for handlers with ``execution="process"``; by default as many as there are processors."""
    backlog: int = 10_000
    """Invocations waiting for a place; one more is answered ``worker_overloaded``."""
    offline_queue: int = 1000
    """Calls waiting for the link; one more fails with ``OFFLINE_QUEUE_FULL``."""


@dataclass
class OtelConfig:
    """What a worker tells of itself by OpenTelemetry. Fields up to ``engine_ws_headers`` are upstream's, in its order.

    What is left out comes from the environment, else from the default: ``OTEL_SERVICE_NAME``, ``SERVICE_VERSION``,
    ``SERVICE_NAMESPACE``, ``SERVICE_INSTANCE_ID``, ``OTEL_SPANS_FLUSH_INTERVAL_MS``, ``OTEL_LOGS_FLUSH_INTERVAL_MS``,
    ``OTEL_LOGS_BATCH_SIZE``.
    """

    enabled: bool | None = None
    """Default: unless ``OTEL_ENABLED`` is ``false``, ``0``, ``no`` or ``off``."""
    service_name: str | None = None
    service_version: str | None = None
    service_namespace: str | None = None
    service_instance_id: str | None = None
    engine_ws_url: str | None = None
    """Another engine than the worker's; ``/otel`` is appended to its path."""
    fetch_instrumentation_enabled: bool = True
    """Make a client span of each request with ``urllib``."""
    spans_flush_interval_ms: int | None = None
    """How long a span waits for others at most. Default 100."""
    logs_enabled: bool | None = None
    """Default true."""
    logs_flush_interval_ms: int | None = None
    """How long a log record waits for others at most. Default 100."""
    logs_batch_size: int | None = None
    """With so many log records nothing waits any more. Default 1."""
    metrics_enabled: bool = True
    metrics_export_interval_ms: int = 60_000
    engine_ws_headers: Mapping[str, str] | None = field(default=None, repr=False)
    """Headers of the telemetry socket; default: the worker's own (``{}`` counts as given)."""
    set_global: bool = field(default=False, kw_only=True)
    """Have the whole process use this worker's providers, as upstream does. Else they are the worker's own."""
    reconnection_config: ReconnectionConfig | None = field(default=None, kw_only=True)
    """Delays between attempts to connect the telemetry socket; ``max_retries`` is not looked at."""
    shutdown_timeout: float = field(default=2.0, kw_only=True)
    """Seconds for the last spans, logs and metrics to be delivered when the worker ends."""
    max_buffered_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)
    """Telemetry kept while the engine cannot be reached; what comes after that is dropped and counted."""
    span_processors: Sequence[Any] = field(default=(), kw_only=True)
    """More processors of OpenTelemetry's SDK, such as a ``BatchSpanProcessor`` with an OTLP exporter."""
    log_processors: Sequence[Any] = field(default=(), kw_only=True)
    metric_readers: Sequence[Any] = field(default=(), kw_only=True)


@dataclass
class HealthOptions:
    """How a worker looks after itself, and who may ask how it is. By default nobody but ``health()``."""

    port: int | None = None
    """Answer HTTP ``/livez`` and ``/readyz`` here; 0 takes a free port, which ``health().port`` tells."""
    host: str = "127.0.0.1"
    blocked_after: float | None = None
    """Seconds without a turn after which the event loop counts as blocked: the log then shows what blocks it."""
    interval: float = 1.0
    """Seconds between two looks at the loop's lag. It is measured with either of the above, or with metrics on."""


@dataclass
class InitOptions:
    """How a worker presents itself, connects and ends. Fields up to ``telemetry`` are upstream's, in its order."""

    worker_name: str | None = None
    """Unique among the live workers of a namespace. ``III_WORKER_NAME`` goes first; default ``host:pid``."""
    worker_description: str | None = None
    namespace: str | None = None
    """Where this worker's functions live. Default ``III_NAMESPACE``, else ``default``."""
    enable_metrics_reporting: bool = True
    """Export the worker's gauges, when telemetry is on."""
    invocation_timeout_ms: int = DEFAULT_INVOCATION_TIMEOUT_MS
    """How long ``trigger`` waits unless the call says otherwise."""
    reconnection_config: ReconnectionConfig | None = None
    otel: OtelConfig | Mapping[str, Any] | bool | None = None
    """Telemetry, with the extra ``otel``: a config, its fields as a dict, ``True`` for the defaults, ``False`` for
    none. ``None``: the environment decides (``OTEL_ENABLED=true``), and spans go to the application's own provider, if
    it has one."""
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    """Extra headers of the WebSocket handshake."""
    telemetry: TelemetryOptions | None = None
    limits: Limits = field(default_factory=Limits, kw_only=True)
    heartbeat: HeartbeatOptions = field(default_factory=HeartbeatOptions, kw_only=True)
    connect_timeout: float = field(default=10.0, kw_only=True)
    """Seconds for TCP, TLS and handshake, and again for the engine to accept the worker's identity."""
    shutdown_timeout: float = field(default=10.0, kw_only=True)
    """Seconds that running handlers get to finish; then they are cancelled and reported."""
    on_disconnect: Literal["finish", "cancel"] = field(default="finish", kw_only=True)
    """What happens to running handlers when the link drops."""
    handle_signals: bool = field(default=True, kw_only=True)
    """Let ``serve()`` and ``register_worker()`` turn SIGINT and SIGTERM into a drain."""
    process_marker: bool = field(default=True, kw_only=True)
    """Write ``~/.iii/run/worker-<pid>-<n>.json`` while the worker runs, so that ``iii ps`` lists it."""
    verify_tls: Any = field(default=True, kw_only=True)
    """``False``, or an ``ssl.SSLContext`` of your own, for ``wss://``."""
    proxy: str | None = field(default=None, kw_only=True, repr=False)
    """URL of an HTTP proxy; by default the usual environment variables are used."""
    health: HealthOptions | None = field(default=None, kw_only=True)
    """HTTP endpoint for liveness and readiness, and the watch over the event loop."""
