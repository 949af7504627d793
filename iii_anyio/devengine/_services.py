"""The built-in workers of the engine: which there are, and what each gets.

A built-in is an ordinary worker on a ``DirectWire`` and an async context manager that makes it do its work: it
registers its functions and trigger types, runs its tasks, and ends with the block. Below: ``builtins/``. Above:
``_engine``.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ._channels import Channels
from ._router import Router
from ._storage import Storage
from .builtins.http import HttpOptions, serve_http

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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


Serve: TypeAlias = "Callable[[Worker, Host, Mapping[str, Any]], AbstractAsyncContextManager[object]]"
"""Takes the built-in's worker, the engine, and the ``config`` of its entry in the engine's configuration file."""


@dataclass(frozen=True, slots=True)
class Service:
    """One built-in worker."""

    name: str
    """As upstream's configuration file and ``engine::workers::list`` name it."""
    description: str
    serve: Serve


SERVICES: Final = (Service("iii-http", "Expose functions as HTTP endpoints", serve_http),)
"""In the order in which they start; they end in the opposite order."""
