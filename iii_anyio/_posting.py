"""Writing to a data channel without waiting, as upstream's callers do: in order, by one task of the worker.

Below: whoever runs the task (``abc.Background``). Above: ``channel.py``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from .errors import WorkerStateError

if TYPE_CHECKING:
    from .abc import Background

__all__ = ("Posting",)

logger: Final = logging.getLogger("iii_anyio")

MAX_POSTED: Final = 64 * 1024 * 1024
"""Bytes that may wait in one end; who writes more has to wait for the reader."""

Operation: TypeAlias = Callable[[], Awaitable[None]]


class Posting:
    """What was posted to one end and has not been written yet."""

    def __init__(self, background: Background | None, name: str) -> None:
        self._background = background
        self._name = name
        self._items: deque[tuple[Operation, int]] = deque()
        self._bytes = 0
        self._is_running = False
        self._lock = threading.Lock()
        self._waiting: list[anyio.Event] = []

    @property
    def is_pending(self) -> bool:
        """Whether something waits or is being written."""
        return self._is_running

    def post(self, operation: Operation, size: int) -> None:
        """Have ``operation`` run behind all that was posted before. From any thread.

        Raises:
            WorkerStateError: The end was made without a worker, so nobody could run it.
            ShutdownError: The worker has shut down.
            BufferError: More than 64 MiB wait.
        """
        if self._background is None:
            raise WorkerStateError(
                f"{self._name} was made without a worker, so nothing can be written without waiting: await 'write()', "
                "'send_message_async()' or 'close_async()'"
            )
        with self._lock:
            if self._bytes + size > MAX_POSTED and self._items:
                raise BufferError(f"{self._bytes} bytes wait in {self._name}, whose reader is slow; await 'write()'")
            self._items.append((operation, size))
            self._bytes += size
            if self._is_running:
                return
            self._is_running = True
        try:
            self._background.start_background(self._run, self._name)
        except BaseException:
            self._drop()
            raise

    async def wait_written(self) -> None:
        """Wait until all that was posted is written, or given up.

        Raises:
            WorkerStateError: In another event loop than the worker's.
        """
        while self._is_running:
            assert self._background is not None
            if not self._background.is_on_loop():
                raise WorkerStateError(f"{self._name} is being written to in its worker's event loop: use it there")
            done = anyio.Event()
            self._waiting.append(done)
            await done.wait()

    async def _run(self) -> None:
        try:
            while self._items:
                await self._items[0][0]()
                if self._is_last_done():
                    break
        except BaseException as exc:
            logger.warning("%s: %d writes were lost: %s", self._name, len(self._items), exc)
            self._drop()
            if not isinstance(exc, Exception):  # the boundary of writes that nobody waits for is theirs only
                raise
        finally:
            waiting, self._waiting = self._waiting, []
            for done in waiting:
                done.set()

    def _is_last_done(self) -> bool:
        with self._lock:
            _, size = self._items.popleft()
            self._bytes -= size
            self._is_running = bool(self._items)
            return not self._is_running

    def _drop(self) -> None:
        with self._lock:
            self._items.clear()
            self._bytes = 0
            self._is_running = False
