"""Work handed to an event loop from any thread: many items, one wake-up."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from anyio.lowlevel import EventLoopToken, current_token

from ..errors import WorkerStateError

__all__ = ("Mailbox",)

logger: Final = logging.getLogger("iii_anyio")


class Mailbox:
    """Runs plain functions on the loop it was made on, in the order they were posted.

    ``deque.append`` and the flag are atomic under the GIL: the flag is lowered before the items are read, so an item
    posted meanwhile either is seen or schedules the next run.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_scheduled = False
        self._call_soon = _threadsafe_call_soon(current_token())

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args)`` run on the loop soon.

        Raises:
            WorkerStateError: The loop has ended.
        """
        self._items.append((function, args))
        if not self._is_scheduled:
            self._is_scheduled = True
            try:
                self._call_soon(self._run)
            except RuntimeError as exc:  # asyncio: loop is closed; trio: RunFinishedError
                raise WorkerStateError("the worker's event loop has ended; open a new worker") from exc

    def _run(self) -> None:
        self._is_scheduled = False
        while self._items:
            function, args = self._items.popleft()
            try:
                function(*args)
            except Exception:
                # The poster has gone on; an exception here would end a trio loop and be lost in an asyncio one.
                logger.exception("a function posted to the event loop failed")


def _threadsafe_call_soon(token: EventLoopToken) -> Callable[[Callable[[], None]], object]:
    """The loop's own way to run a function from another thread; anyio offers only blocking ones."""
    native: Any = token.native_token
    if hasattr(native, "call_soon_threadsafe"):
        return native.call_soon_threadsafe  # type: ignore[no-any-return]  # asyncio's loop, uvloop's loop
    return native.run_sync_soon  # type: ignore[no-any-return]  # trio's token
