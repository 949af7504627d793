"""What can go wrong between a worker and its engine, and a seeded plan of it: shared by both kinds of proxy.

Above: ``_tcp_faults`` and ``_wire_faults`` carry it out.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import anyio
from anyio import CancelScope

__all__ = ("FAULTS", "Ending", "Fault", "Faults", "OnConnect")

OnConnect: TypeAlias = Literal["forward", "refuse", "reset", "eof", "eof_after_101", "http_503", "black_hole"]
"""What becomes of a connection that a worker opens."""
Fault: TypeAlias = Literal[
    "reset", "eof", "cut_frame", "black_hole", "close", "delay", "throttle", "calm", "refuse", "http_503",
    "eof_on_connect", "eof_after_101",
]  # fmt: skip
"""What ``storm`` does. The last four are in store for the next connection, and the present ones are reset."""

FAULTS: Final[tuple[Fault, ...]] = (
    "reset", "eof", "cut_frame", "black_hole", "close", "delay", "throttle", "calm", "refuse", "http_503",
    "eof_on_connect", "eof_after_101",
)  # fmt: skip

MAX_HELD: Final = 32
"""Connections that neither side knows to be dead; the oldest is let go for one more."""
_CODES: Final = (1000, 1001, 1005, 1011, 1012, 3000, 4999)
_PLANNED: Final[dict[Fault, OnConnect]] = {
    "refuse": "refuse",
    "http_503": "http_503",
    "eof_on_connect": "eof",
    "eof_after_101": "eof_after_101",
}


class Ending:
    """How one connection ends: by which fault, and whether the engine is told."""

    __slots__ = ("code", "is_engine_told", "kind", "reason")

    def __init__(
        self,
        kind: Literal["reset", "eof", "black_hole", "close"],
        *,
        is_engine_told: bool = True,
        code: int = 1006,
        reason: str = "",
    ) -> None:
        self.kind = kind
        self.is_engine_told = is_engine_told and kind != "black_hole"
        self.code = code
        self.reason = reason


class Faults(ABC):
    """What both proxies offer. Every method returns at once; what it asks for happens as soon as the proxy runs.

    Attributes:
        delay: Seconds that everything takes on its way, in either direction.
        jitter: Up to so many seconds more, at random; the order is kept, as TCP keeps it.
        bytes_per_second: What passes at most in each direction; None is no limit.
        accepted: Connections that workers have opened so far.
        log: What ``storm`` did, in order.
    """

    def __init__(self, seed: int) -> None:
        self.delay: float = 0.0
        self.jitter: float = 0.0
        self.bytes_per_second: float | None = None
        self.accepted: int = 0
        self.log: list[str] = []
        self._random = random.Random(seed)
        self._planned: deque[OnConnect] = deque()
        self._otherwise: OnConnect = "forward"
        self._held: deque[CancelScope] = deque()

    # -- connections to come -------------------------------------------------------------------------------------

    def plan(self, *what: OnConnect) -> None:
        """Have the next connections end like this, one each, in this order."""
        self._planned.extend(what)

    def always(self, what: OnConnect) -> None:
        """Have every connection without a plan end like this; ``forward`` is what they do at first."""
        self._otherwise = what

    def calm(self) -> None:
        """Leave everything alone from now on: no delays, no plans; connections are accepted, those that hang end."""
        for scope in self._held:
            scope.cancel()
        self._held.clear()
        self.delay, self.jitter, self.bytes_per_second = 0.0, 0.0, None
        self._planned.clear()
        self._otherwise = "forward"

    def _next_connection(self) -> OnConnect:
        self.accepted += 1
        return self._planned.popleft() if self._planned else self._otherwise

    async def _hold(self) -> None:
        """Leave open what the caller holds, until it is the oldest of too many, or ``calm``."""
        if len(self._held) >= MAX_HELD:
            self._held.popleft().cancel()
        with CancelScope() as scope:
            self._held.append(scope)
            await anyio.sleep_forever()

    # -- present connections -------------------------------------------------------------------------------------

    @abstractmethod
    def _end_all(self, ending: Ending) -> None: ...

    @abstractmethod
    def cut_frame(self) -> None:
        """End each connection in the middle of the next frame that the engine sends."""
        ...

    def reset(self, *, tell_engine: bool = True) -> None:
        """Break every connection, as a router that lost its tables does; the worker sees 1006.

        Args:
            tell_engine: Otherwise the engine's end stays open and silent, as after a crash of the worker's host.
        """
        self._end_all(Ending("reset", is_engine_told=tell_engine))

    def eof(self, *, tell_engine: bool = True) -> None:
        """End every connection without a close frame, as a peer that was killed does."""
        self._end_all(Ending("eof", is_engine_told=tell_engine))

    def black_hole(self) -> None:
        """Let nothing pass on the connections there are, in either direction; neither side is told."""
        self._end_all(Ending("black_hole"))

    def close(self, code: int, reason: str = "", *, tell_engine: bool = True) -> None:
        """Send the worker a close frame with this code; 1005 is one without a code."""
        self._end_all(Ending("close", is_engine_told=tell_engine, code=code, reason=reason))

    # -- at random -----------------------------------------------------------------------------------------------

    async def storm(self, *, seed: int, every: float = 1.0, faults: Sequence[Fault] = FAULTS) -> None:
        """Do one of these things after the other, until cancelled.

        Args:
            seed: Of what and when; the same seed is the same storm.
            every: Seconds between two of them, on average.
            faults: Which; one that is named twice comes twice as often.
        """
        source = random.Random(seed)
        while True:
            await anyio.sleep(source.expovariate(1 / every))
            self._inflict(source.choice(faults), source, every)

    def _inflict(self, fault: Fault, source: random.Random, every: float) -> None:
        code = source.choice(_CODES)
        share = source.random()
        self.log.append(f"close {code}" if fault == "close" else fault)
        match fault:
            case "delay":
                self.delay, self.jitter = share * every / 4, share * every / 8
            case "throttle":
                self.bytes_per_second = 1_000 + share * 1_000_000
            case "calm":
                self.calm()
            case "reset":
                self.reset(tell_engine=share < 0.8)
            case "eof":
                self.eof(tell_engine=share < 0.8)
            case "black_hole":
                self.black_hole()
            case "cut_frame":
                self.cut_frame()
            case "close":
                self.close(code, "a fault")
            case planned:
                self.plan(_PLANNED[planned])
                self.reset()

    def due(self) -> float:
        """When what arrives now is to go on."""
        return anyio.current_time() + self.delay + self.jitter * self._random.random()
