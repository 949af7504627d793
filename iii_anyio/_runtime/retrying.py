"""Calls that are repeated: when, how often, and until when. Above: the worker's ``trigger`` and ``trigger_async``."""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio

from .._protocol.backoff import Backoff
from ..errors import InvocationError

if TYPE_CHECKING:
    from ..options import RetryPolicy

__all__ = ("retry", "retry_blocking")


class _Attempts:
    """How far a repeated call has come. Knows the clock only by what it is told."""

    def __init__(self, policy: RetryPolicy, timeout: float, now: float) -> None:
        self._policy = policy
        self._deadline = now + timeout
        self._backoff = Backoff(policy.initial_delay, policy.max_delay, policy.multiplier, policy.jitter)
        self._made = 0

    def timeout(self, now: float) -> float:
        """Seconds for the next attempt."""
        self._made += 1
        left = max(0.0, self._deadline - now)
        limit = self._policy.attempt_timeout
        return left if limit is None else min(left, limit)

    def pause(self, exc: InvocationError, now: float) -> float:
        """Seconds to wait before the next attempt; raises ``exc`` when there is none."""
        policy = self._policy
        is_passing = exc.code in policy.on or (exc.code == "TIMEOUT" and policy.attempt_timeout is not None)
        if is_passing and self._made < policy.attempts:
            delay = self._backoff.delay(self._made - 1, random.random())
            if now + delay < self._deadline:
                return delay
        if self._made > 1:
            exc.add_note(f"after {self._made} attempts")
        raise exc


async def retry(policy: RetryPolicy, timeout: float, call: Callable[[float], Awaitable[Any]]) -> Any:
    """Await ``call`` with a timeout, again and again as the policy says."""
    attempts = _Attempts(policy, timeout, anyio.current_time())
    while True:
        try:
            return await call(attempts.timeout(anyio.current_time()))
        except InvocationError as exc:
            delay = attempts.pause(exc, anyio.current_time())
        await anyio.sleep(delay)


def retry_blocking(policy: RetryPolicy, timeout: float, call: Callable[[float], Any]) -> Any:
    """Do what ``retry`` does, and block this thread."""
    attempts = _Attempts(policy, timeout, monotonic())
    while True:
        try:
            return call(attempts.timeout(monotonic()))
        except InvocationError as exc:
            delay = attempts.pause(exc, monotonic())
        threading.Event().wait(delay)  # nobody sets it
