"""Calls we made: opened, queued, sent, and ended exactly once by an answer, a timeout, a lost link or their caller.

Below: nothing but the errors. Above: ``worker_session`` settles them, the runtime waits for them through ``Call.wake``.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable
from typing import Any, ClassVar, Final

from ..errors import IIIError, InvocationTimeoutError, OfflineQueueFullError

__all__ = ("Call", "CallTable", "new_id")

_POOL: Final[list[str]] = []
_MADE: Final = 256
"""Ids made of one read of the system's random source."""
_VERSION: Final = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT: Final = bytes(byte & 0x3F | 0x80 for byte in range(256))
_DIGITS: Final = (*range(8), *range(9, 13), *range(14, 18), *range(19, 23), *range(24, 36))
"""Where the digits of a UUID are, hyphens counted."""


def new_id() -> str:
    """Return a fresh canonical UUIDv4 (§4.2). Many are made at once, a quarter of the time of one by one."""
    try:
        return _POOL.pop()
    except IndexError:
        pool = _new_ids()
        last = pool.pop()
        _POOL.extend(pool)
        return last


def _new_ids() -> list[str]:
    octets = bytearray(os.urandom(16 * _MADE))
    octets[6::16] = octets[6::16].translate(_VERSION)
    octets[8::16] = octets[8::16].translate(_VARIANT)
    digits = octets.hex().encode()
    lines = bytearray(b"-") * (37 * _MADE)
    for index, place in enumerate(_DIGITS):  # this digit of all of them
        lines[place::37] = digits[index::32]
    lines[36::37] = b"\n" * _MADE
    return lines.decode().split()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.clear)  # parent and child must not hand out the same ids


class Call:
    """One call. ``text`` is the encoded message; ``wake`` runs once, when the call has ended."""

    is_local: ClassVar[bool] = False
    """Whether it stays in this process: then it needs no link, and no lost link ends it."""

    __slots__ = (
        "deadline",
        "error",
        "function_id",
        "invocation_id",
        "is_done",
        "is_sent",
        "result",
        "text",
        "timeout",
        "wake",
    )

    def __init__(
        self,
        function_id: str,
        invocation_id: str | None,
        text: bytes,
        timeout: float | None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.function_id: str = function_id
        self.invocation_id: str | None = invocation_id  # None for a void call, which ends when it is sent
        self.text: bytes = text
        self.timeout: float | None = timeout
        self.wake: Callable[[], None] | None = wake
        self.deadline: float | None = None
        self.is_sent: bool = False
        self.is_done: bool = False
        self.result: Any = None
        self.error: IIIError | None = None

    def value(self) -> Any:
        """Hand over the result, or raise the error, of a call that has ended. Once: the call may outlive its caller."""
        if self.error is not None:
            raise self.error
        result, self.result = self.result, None
        return result

    def end(self, result: Any = None, error: IIIError | None = None) -> None:
        """End it. The second time changes nothing."""
        if self.is_done:
            return
        self.is_done = True
        self.result = result
        self.error = error
        self.text = b""
        if self.wake is not None:
            self.wake()


class CallTable:
    """Every call that has not ended, those that wait for a link in order, and their deadlines."""

    def __init__(self, *, max_queued: int) -> None:
        self._max_queued = max_queued
        self._pending: dict[str, Call] = {}
        self._queued: dict[Call, None] = {}
        self._deadlines: list[tuple[float, int, Call]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def queued(self) -> int:
        """How many calls wait for a link."""
        return len(self._queued)

    def open(self, call: Call, now: float) -> None:
        """Take responsibility for a call: from now on it ends exactly once."""
        if call.invocation_id is not None:
            self._pending[call.invocation_id] = call
        if call.timeout is not None:
            call.deadline = now + call.timeout
            self._count += 1
            heapq.heappush(self._deadlines, (call.deadline, self._count, call))
            # Ended calls stay in the heap until their time; rebuild it before they outnumber the living.
            if len(self._deadlines) > 64 and len(self._deadlines) > 4 * (len(self._pending) + len(self._queued)):
                self._deadlines = [entry for entry in self._deadlines if not entry[2].is_done]
                heapq.heapify(self._deadlines)

    def queue(self, call: Call) -> None:
        """Let a call wait for a link, before ``open``; refuse it when too many do (never drop another in silence).

        Raises:
            OfflineQueueFullError: Too many calls wait. This one is not open, so nothing else will end it.
        """
        if len(self._queued) >= self._max_queued:
            raise OfflineQueueFullError(
                "OFFLINE_QUEUE_FULL",
                f"{len(self._queued)} calls already wait for the connection to the engine; this one was not sent",
                call.function_id,
                None,
                call.invocation_id,
            )
        if len(call.text) < 2048:
            call.text = bytes(memoryview(call.text))  # what orjson returns keeps the 4 KiB buffer it was written in
        self._queued[call] = None

    def requeue(self, calls: list[Call]) -> None:
        """Put calls that were about to be written when the link dropped before those that wait already."""
        self._queued = dict.fromkeys([*(call for call in calls if not call.is_done), *self._queued])

    def take_queued(self) -> list[Call]:
        """Hand over the waiting calls, oldest first."""
        calls = list(self._queued)
        self._queued.clear()
        return calls

    def settle(self, invocation_id: str, result: Any, error: IIIError | None) -> bool:
        """End a call by its answer. False for an id we do not know (late, void, not ours): never an error (P-33)."""
        call = self._pending.pop(invocation_id, None)
        if call is None:
            return False
        call.end(result, error)
        return True

    def get(self, invocation_id: str) -> Call | None:
        """Look up a call that waits for its answer."""
        return self._pending.get(invocation_id)

    def abandon(self, call: Call) -> None:
        """Forget a call whose caller has gone; if it was not written yet it never will be."""
        call.wake = None
        call.end()
        self._forget(call)

    def _forget(self, call: Call) -> None:
        self._queued.pop(call, None)
        if call.invocation_id is not None:
            self._pending.pop(call.invocation_id, None)

    def _fail(self, call: Call, error: IIIError) -> None:
        self._forget(call)
        call.end(error=error)

    def expire(self, now: float) -> list[Call]:
        """End every call whose time is up with TIMEOUT (P-29); returns them."""
        expired: list[Call] = []
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].is_done):
            call = heapq.heappop(self._deadlines)[2]
            if call.is_done:
                continue
            expired.append(call)
            where = "no answer" if call.is_sent or call.is_local else "no connection to the engine"
            message = f"{where} within {call.timeout:g} s"
            self._fail(call, InvocationTimeoutError("TIMEOUT", message, call.function_id, None, call.invocation_id))
        return expired

    def next_deadline(self) -> float | None:
        """When ``expire`` has something to do next."""
        while self._deadlines and self._deadlines[0][2].is_done:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def fail_sent(self, make_error: Callable[[Call], IIIError]) -> int:
        """End every call that was written: its link is gone, so it can never be answered (P-36). Returns how many."""
        sent = [call for call in self._pending.values() if call.is_sent]
        for call in sent:
            self._fail(call, make_error(call))
        return len(sent)

    def fail_all(self, make_error: Callable[[Call], IIIError]) -> int:
        """End every call, queued ones too (P-35). Returns how many."""
        calls = [*self._pending.values(), *(call for call in self._queued if call.invocation_id is None)]
        for call in calls:
            self._fail(call, make_error(call))
        return len(calls)
