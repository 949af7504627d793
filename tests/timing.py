"""Waiting in tests, so that it does not depend on how fast the machine is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio.lowlevel
from anyio import sleep
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("pass_time", "until_still")

STILL_TURNS = 10


def pass_time(seconds: float) -> None:
    """Let the time of the backend ``held`` go on by so much, at once.

    For a timeout beside real sockets, threads or processes: it cannot be over because the machine is slow, and nobody
    waits for it. Where nothing real takes part, the backend ``virtual`` is simpler.
    """
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


async def until_still(count: Callable[[], int]) -> int:
    """Wait until ``count()`` has grown, and grows no more although all have had turns: a write has found no room.

    No event tells that something does not happen. A pause of the whole process is no turn.
    """
    last, turns = count(), 0
    while turns < STILL_TURNS:
        await sleep(0.01)
        turns = turns + 1 if 0 < count() == last else 0
        last = count()
    return last
