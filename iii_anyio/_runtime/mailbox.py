"""Work handed to an event loop from any thread: many items, one wake-up."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from anyio.lowlevel import current_token

from ..errors import WorkerStateError

__all__ = ("Mailbox",)

logger: Final = logging.getLogger("iii_anyio")

_ENDED: Final = "the worker's event loop has ended; open a new worker"


class Mailbox:
    """Runs plain functions on the loop it was made on, in the order they were posted.

    ``deque.append`` and the flag are atomic under the GIL: the flag is lowered before the items are read, so an item
    posted meanwhile either is seen or schedules the next run.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_scheduled = False
        self._is_closed = False
        # Weak, for a loop's own entry in a table of mailboxes must not keep that loop alive.
        self._loop = weakref.ref(current_token().native_token)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args)`` run on the loop soon.

        Raises:
            WorkerStateError: The loop has ended.
        """
        item = (function, args)
        self._items.append(item)
        if self._is_closed:  # looked at after the append: either ``close`` saw the item, or this sees ``close``
            with suppress(ValueError):
                self._items.remove(item)
                raise WorkerStateError(_ENDED)
        elif not self._is_scheduled:
            self._is_scheduled = True
            try:
                _threadsafe_call_soon(self._loop())(self._run)
            except RuntimeError as exc:  # asyncio: loop is closed; trio: RunFinishedError
                self._is_scheduled = False
                self._items.clear()
                raise WorkerStateError(_ENDED) from exc

    def close(self) -> None:
        """On the loop: run what was posted, and refuse what comes later."""
        self._is_closed = True
        self._run()

    def _run(self) -> None:
        self._is_scheduled = False
        while self._items:
            function, args = self._items.popleft()
            try:
                function(*args)
            except Exception:
                # The poster has gone on; an exception here would end a trio loop and be lost in an asyncio one.
                logger.exception("a function posted to the event loop failed")


def _threadsafe_call_soon(native: Any) -> Callable[[Callable[[], None]], object]:
    """The loop's own way to run a function from another thread; anyio offers only blocking ones."""
    if native is None:
        raise RuntimeError("the loop is gone")
    if hasattr(native, "call_soon_threadsafe"):
        return native.call_soon_threadsafe  # type: ignore[no-any-return]  # asyncio's loop, uvloop's loop
    return native.run_sync_soon  # type: ignore[no-any-return]  # trio's token
