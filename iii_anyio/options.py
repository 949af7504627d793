"""What a worker can be told. Plain data; ``resolve_*`` read the environment once, when a worker is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = (
    "DEFAULT_ENGINE_URL",
    "DEFAULT_INVOCATION_TIMEOUT_MS",
    "ConnectionStateCallback",
    "HeartbeatOptions",
    "IIIConnectionState",
    "InitOptions",
    "Limits",
    "ReconnectionConfig",
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


@dataclass
class ReconnectionConfig:
    """Delay n (from 0) is ``min(initial * multiplier ** n, max)``, then ± jitter. ``max_retries`` -1 is for ever."""

    initial_delay_ms: int = 1000
    max_delay_ms: int = 30_000
    backoff_multiplier: float = 2.0
    jitter_factor: float = 0.3
    max_retries: int = -1


@dataclass
class HeartbeatOptions:
    """When a silent link counts as dead. Seconds."""

    interval: float = 20.0
    """A ping goes out this long after the previous one."""
    pong_timeout: float = 10.0
    """The link is dead when a ping stays unanswered this long."""
    idle_timeout: float = 60.0
    """The link is dead when nothing at all arrived for this long."""


@dataclass
class Limits:
    """Bounds of one worker."""

    max_concurrency: int = 1000
    """Handlers running at once, async and sync together."""
    max_threads: int = 100
    """Threads for sync handlers. One that waits in ``trigger()`` lends its place to another."""
    backlog: int = 10_000
    """Invocations waiting for a place; one more is answered ``worker_overloaded``."""
    offline_queue: int = 1000
    """Calls waiting for the link; one more fails with ``OFFLINE_QUEUE_FULL``."""


@dataclass
class InitOptions:
    """How a worker presents itself, connects and ends. Fields up to ``telemetry`` are upstream's, in its order."""

    worker_name: str | None = None
    """Unique among the live workers of a namespace. ``III_WORKER_NAME`` goes first; default ``host:pid``."""
    worker_description: str | None = None
    namespace: str | None = None
    """Where this worker's functions live. Default ``III_NAMESPACE``, else ``default``."""
    enable_metrics_reporting: bool = True
    invocation_timeout_ms: int = DEFAULT_INVOCATION_TIMEOUT_MS
    """How long ``trigger`` waits unless the call says otherwise."""
    reconnection_config: ReconnectionConfig | None = None
    otel: Any = None
    headers: Mapping[str, str] | None = None
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
    proxy: str | None = field(default=None, kw_only=True)
    """URL of an HTTP proxy; by default the usual environment variables are used."""
