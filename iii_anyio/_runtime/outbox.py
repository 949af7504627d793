"""What waits to be written: the session's outgoing messages, with a wake-up for the writer and room for producers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from .._protocol.worker_session import WorkerSession

__all__ = ("Outbox",)

MAX_BYTES: Final = 64 * 1024 * 1024


class Outbox:
    """Bounded by waiting: a producer that finds ``MAX_BYTES`` unwritten waits until the writer took them."""

    def __init__(self, session: WorkerSession, max_bytes: int = MAX_BYTES) -> None:
        self._session = session
        self._max_bytes = max_bytes
        self._filled = anyio.Event()
        self._taken = anyio.Event()
        self._is_wanted = False
        self._on_room: deque[Callable[[], object]] = deque()

    def flush(self) -> None:
        """Wake the writer if there is something to write."""
        if self._is_wanted and self._session.has_outgoing:
            self._is_wanted = False
            self._filled.set()

    async def take(self) -> list[bytes]:
        """Wait for messages and take them all. For the one writer."""
        while not self._session.has_outgoing:
            self._filled = anyio.Event()
            self._is_wanted = True
            await self._filled.wait()
        texts = self._session.take_outgoing()
        self.freed()
        return texts

    def freed(self) -> None:
        """Let waiting producers go on."""
        taken, self._taken = self._taken, anyio.Event()
        taken.set()
        while self._on_room and not self.is_full:
            self._on_room.popleft()()

    def call_with_room(self, function: Callable[[], object]) -> None:
        """Call ``function`` now, or when the writer has taken enough. For producers that are threads."""
        if self.is_full:
            self._on_room.append(function)
        else:
            function()

    @property
    def is_full(self) -> bool:
        """Whether producers have to wait."""
        return self._session.outgoing_bytes > self._max_bytes

    async def wait_room(self) -> None:
        """Wait until the writer has taken enough."""
        while self.is_full:
            await self._taken.wait()
