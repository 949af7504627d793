"""The built-in workers of the engine: which there are, and what each gets.

A built-in is an ordinary worker on a ``DirectWire`` and an async context manager that makes it do its work: it
registers its functions and trigger types, runs its tasks, and ends with the block. Below: ``builtins/``. Above:
``_engine``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ._channels import Channels
from ._origins import Origins
from ._router import Router
from ._storage import Storage
from .builtins.configuration import serve_configuration
from .builtins.cron import serve_cron
from .builtins.http import HttpOptions, serve_http
from .builtins.http_functions import serve_http_functions
from .builtins.observability import serve_observability
from .builtins.pubsub import serve_pubsub
from .builtins.queue import serve_queue
from .builtins.state import serve_state
from .builtins.stream import serve_stream

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from ..worker import Worker

__all__ = ("SERVICES", "Host", "Service")


@dataclass(slots=True, eq=False)
class Host:
    """What a built-in worker gets of its engine besides its own connection."""

    storage: Storage
    router: Router
    channels: Channels
    http: HttpOptions | None
    http_socket: socket.socket | None
    """Bound, not listening yet; None when routes are not served."""
    stream_socket: socket.socket | None
    """The same for stream subscribers."""
    strict_upstream: bool
    """Copy the defects of the real engine that a client could rely on."""
    origins: Origins
    """Web pages that may subscribe."""
    routed: Callable[[], None]
    """To be called after the router was told something outside a connection: has what it left written and done."""


Serve: TypeAlias = "Callable[[Worker, Host, Mapping[str, Any]], AbstractAsyncContextManager[object]]"
"""Takes the built-in's worker, the engine, and the ``config`` of its entry in the engine's configuration file."""


@dataclass(frozen=True, slots=True)
class Service:
    """One built-in worker."""

    name: str
    """As upstream's configuration file and ``engine::workers::list`` name it."""
    description: str
    serve: Serve


SERVICES: Final = (
    Service("configuration", "Keep configuration entries and tell who depends on them", serve_configuration),
    Service("iii-state", "Keep state by scope and key, and tell who depends on it", serve_state),
    Service(
        "iii-observability",
        "Keep traces, metrics and logs in memory, and tell what is new in them",
        serve_observability,
    ),
    Service("iii-http", "Expose functions as HTTP endpoints", serve_http),
    Service("iii-cron", "Schedule functions with cron expressions.", serve_cron),
    Service(
        "iii-http-functions",
        "Expose external HTTP endpoints from config as callable functions.",
        serve_http_functions,
    ),
    Service(
        "iii-pubsub",
        "Topic-based publish/subscribe messaging for real-time event distribution.",
        serve_pubsub,
    ),
    Service("iii-queue", "Durable topics and named queues", serve_queue),
    Service("iii-stream", "Keep streams of items and tell subscribers what changes", serve_stream),
)
"""In the order in which they start; they end in the opposite order."""
