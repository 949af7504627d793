"""The registration hooks of one guarded connection: asked one after the other, what comes meanwhile waits (§6.5).

A hook is an invocation like others, and what the worker sends waits here, in order, so that the router never does.
Answers go past the queue; without that, a hook that calls the worker would wait for itself.

Below: ``_forwarding`` calls the hook. Above: ``_guard`` says which hook is asked about what.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import InvocationResult, Message, Ping, Pong, TriggerRegistrationResult
from ._errors import shorten

if TYPE_CHECKING:
    from ._router import Router

__all__ = ("HOOK_TIMEOUT", "Hooks", "log_dropped")

logger = logging.getLogger(__name__)

HOOK_TIMEOUT: Final = 30.0
"""Seconds for a hook; then the registration is denied. Upstream waits for ever."""
MAX_WAITING: Final = 50_000
"""Messages that may wait for a hook."""
UNORDERED: Final[frozenset[type[Any]]] = frozenset({InvocationResult, TriggerRegistrationResult, Ping, Pong})

Apply: TypeAlias = "Callable[[dict[str, Any]], None]"
"""Takes what a hook returned; ``{}`` without hook."""


def log_dropped(session: EngineSession, what: str, reason: str) -> None:
    """Say that a registration was denied. The worker is not told (RB-16, RB-18): the log is where to find out."""
    logger.warning("%s of worker %s not registered: %s", what, session.label, reason)


class Hooks:
    """One connection's.

    Args:
        router: Calls the hooks.
        session: The connection.
        context: What authentication came to; hooks are told.
        take: Carries out a message that has waited long enough.
        overflow: Ends the connection, because too much waits.
        max_bytes: Of messages that may wait.
    """

    def __init__(
        self,
        router: Router,
        session: EngineSession,
        context: Any,
        *,
        take: Callable[[Message], None],
        overflow: Callable[[EngineSession], None],
        max_bytes: int,
    ) -> None:
        self._router = router
        self._session = session
        self._context = context
        self._take = take
        self._overflow = overflow
        self._max_bytes = max_bytes
        self._queue: deque[tuple[Message | Callable[[], None], int]] = deque()
        self._queued_bytes = 0
        self._asked = 0  # hooks so far
        self._is_asking = False
        self._is_draining = False
        self._is_timing = False
        self._give_up: Callable[[], None] = lambda: None  # of the hook being asked

    # -- what waits ----------------------------------------------------------------------------------------------

    def receive(self, message: Message, size: int) -> None:
        """Take a message of ``size`` bytes; it waits while a hook is asked about an earlier one."""
        if not self._is_asking or type(message) in UNORDERED:
            self._take(message)
            return
        self._queue.append((message, size))
        self._queued_bytes += size
        if len(self._queue) > MAX_WAITING or self._queued_bytes > self._max_bytes:
            logger.warning("worker %s dropped: too many messages wait for a registration hook", self._session.label)
            self._overflow(self._session)

    def when_idle(self, callback: Callable[[], None]) -> bool:
        """Call back when everything received so far has been carried out; False when it has been already."""
        if not self._is_asking:
            return False
        self._queue.append((callback, 0))
        return True

    def _drain(self) -> None:
        if self._is_draining:
            return
        self._is_draining = True
        try:
            while self._queue and not self._is_asking and self._session.is_live:
                entry, size = self._queue.popleft()
                self._queued_bytes -= size
                if callable(entry):
                    entry()
                else:
                    self._take(entry)
        finally:
            self._is_draining = False

    # -- hooks ---------------------------------------------------------------------------------------------------

    def ask(self, hook: str | None, data: dict[str, Any], what: str, apply: Apply) -> None:
        """Ask a hook about a registration, and apply what it returns; anything but an object denies (§6.5)."""
        if hook is None:
            apply({})
            return
        self._asked += 1
        asked = self._asked
        self._is_asking = True

        def settle(result: Any, error: dict[str, Any] | None) -> None:
            if not self._is_asking or self._asked != asked:
                return
            self._is_asking = False
            if self._session.is_live:
                if error is not None:
                    log_dropped(self._session, what, f"hook {hook}: {shorten(error['message'])}")
                elif not isinstance(result, dict):
                    log_dropped(self._session, what, f"hook {hook} returned no object")
                else:
                    apply(cast("dict[str, Any]", result))
            self._drain()

        data["context"] = self._context
        invocation = self._router.forwarding.ask(DEFAULT_NAMESPACE, hook, data, settle)

        def give_up() -> None:
            self._router.forwarding.abandon(invocation)
            settle(None, {"code": "TIMEOUT", "message": f"did not answer in {HOOK_TIMEOUT:g} s"})

        self._give_up = give_up
        if self._is_asking:
            self._watch()

    def _watch(self) -> None:
        """Give up a hook that is late. One timer, however many hooks are asked; so one may get twice the time."""
        if self._is_timing:
            return
        self._is_timing = True
        asked = self._asked

        def expired() -> None:
            self._is_timing = False
            if self._is_asking and self._asked == asked:
                self._give_up()
            elif self._is_asking:
                self._watch()

        self._router.call_later(HOOK_TIMEOUT, expired)
