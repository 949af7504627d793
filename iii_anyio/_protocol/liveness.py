"""Is the peer still there? Arithmetic on ``now``; the link asks, sleeps and pings.

Rules: a ping is due ``interval`` after the previous one. The link is dead when a ping stays unanswered for
``pong_timeout``, or when nothing at all arrived for ``idle_timeout`` (protocol §3.2, P-09). The engine answers each
ping with two pongs, and unsolicited pongs are legal: only the first that carries the payload asked for counts.
"""

from __future__ import annotations

__all__ = ("Liveness",)


class Liveness:
    """One link's keep-alive state. All times are seconds on the caller's clock."""

    __slots__ = (
        "_awaited",
        "_count",
        "_idle_timeout",
        "_interval",
        "_last_ping",
        "_last_received",
        "_pong_timeout",
        "rtt",
    )

    def __init__(self, now: float, *, interval: float, pong_timeout: float, idle_timeout: float) -> None:
        self._interval = interval
        self._pong_timeout = pong_timeout
        self._idle_timeout = idle_timeout
        self._last_received = now
        self._last_ping = now
        self._awaited: bytes | None = None
        self._count = 0
        self.rtt: float | None = None
        """Seconds the last answered ping took."""

    def received(self, now: float) -> None:
        """Note that bytes arrived."""
        self._last_received = now

    def pong(self, payload: bytes, now: float) -> None:
        """Note a pong; one we did not ask for changes nothing."""
        if payload == self._awaited:
            self._awaited = None
            self.rtt = now - self._last_ping

    def ping(self, now: float) -> bytes:
        """Start a ping and return its payload."""
        self._count += 1
        self._last_ping = now
        self._awaited = self._count.to_bytes(4, "big")
        return self._awaited

    def is_ping_due(self, now: float) -> bool:
        """Whether ``ping`` should be called. Never while one is unanswered."""
        return self._awaited is None and now >= self._last_ping + self._interval

    def death(self, now: float) -> str | None:
        """Why the link counts as dead at ``now``, or None."""
        if self._awaited is not None and now >= self._last_ping + self._pong_timeout:
            return f"no pong within {self._pong_timeout:g} s"
        if now >= self._last_received + self._idle_timeout:
            return f"nothing received for {self._idle_timeout:g} s"
        return None

    def next_check(self) -> float:
        """When to look again, on the caller's clock."""
        due = self._last_ping + (self._interval if self._awaited is None else self._pong_timeout)
        return min(due, self._last_received + self._idle_timeout)
