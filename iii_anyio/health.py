"""How a worker is: one look, for a probe or a page. Below: the supervisor, whose figures these are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from .options import IIIConnectionState

if TYPE_CHECKING:
    from ._runtime.supervisor import Supervisor

__all__ = ("Health",)

_LIVE: Final = ("/livez", "/healthz")
_READY: Final = ("/readyz", "/")


@dataclass(frozen=True)
class Health:
    """What ``health()`` found.

    Live means that a new process would do no better; ready, that this one can do its work now.
    """

    is_live: bool
    """The worker runs, and its event loop is not blocked as far as anybody looks."""
    is_ready: bool
    """Live, connected, every registration confirmed, and not shutting down."""
    reason: str | None
    """Why it is not ready."""
    state: IIIConnectionState
    worker_id: str | None
    running: int
    """Handlers that run."""
    waiting: int
    """Invocations that wait for a place."""
    calls: int
    """Calls that wait for their answer."""
    calls_queued: int
    """Calls that wait for a connection."""
    reconnects: int
    rtt: float | None
    """Seconds that the last answered ping took."""
    loop_lag: float | None
    """Seconds that the event loop was late when it was last measured; None when nobody measures."""
    loop_blocked: int
    """How often it was found blocked, see ``HealthOptions.blocked_after``."""
    port: int | None
    """Where the HTTP endpoint listens."""


def report(supervisor: Supervisor) -> Health:
    """Look at a worker. From any thread."""
    session, connection, dispatcher = supervisor.session, supervisor.connection, supervisor.dispatcher
    watch, server = supervisor.loop_watch, supervisor.health_server
    is_blocked = watch is not None and watch.is_blocked
    reason: str | None = None
    if session.fatal is not None:
        reason = f"the engine refused this worker: {session.fatal}"
    elif supervisor.closed.is_set() or supervisor.caller.is_closed:
        reason = "the worker has shut down"
    is_live = reason is None and not is_blocked
    if is_blocked:
        reason = "the event loop is blocked"
    elif reason is None and not dispatcher.is_accepting:
        reason = "the worker is shutting down"
    elif reason is None and connection.state != "connected":
        reason = f"no connection to the engine: {connection.state}"
    elif reason is None and not session.is_ready:
        reason = "the engine has not confirmed every registration"
    return Health(
        is_live=is_live,
        is_ready=reason is None,
        reason=reason,
        state=connection.state,
        worker_id=session.worker_id,
        running=dispatcher.running,
        waiting=dispatcher.waiting,
        calls=len(session.calls),
        calls_queued=session.calls.queued,
        reconnects=connection.reconnects,
        rtt=connection.rtt,
        loop_lag=None if watch is None else watch.lag,
        loop_blocked=0 if watch is None else watch.blocked,
        port=None if server is None else server.port,
    )


def answer(supervisor: Supervisor, path: str) -> tuple[int, bytes] | None:
    """What the endpoint answers: 200 or 503 and the report; None for a path that is none."""
    if path not in _LIVE and path not in _READY:
        return None
    health = report(supervisor)
    is_good = health.is_live if path in _LIVE else health.is_ready
    return (200 if is_good else 503), orjson.dumps(dataclasses.asdict(health))
