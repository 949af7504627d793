"""What waits to be written: the session's outgoing messages, with a wake-up for the writer and room for producers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
from anyio.lowlevel import current_token

from .._wire.backend import backend_of

if TYPE_CHECKING:
    from .._protocol.worker_session import WorkerSession
    from .._wire.backend import Slot

__all__ = ("Outbox",)

MAX_BYTES: Final = 64 * 1024 * 1024
EARLY: Final = 12_288
"""Bytes that do not wait for the writer's turn: some 35 small calls, which the engine can work at meanwhile."""
SMALL: Final = 65_536
"""Bytes that are written at once by whoever produced them; more is left to the writer."""


class Outbox:
    """Bounded by waiting: a producer that finds ``MAX_BYTES`` unwritten waits until the writer took them."""

    def __init__(self, session: WorkerSession, max_bytes: int = MAX_BYTES) -> None:
        self._session = session
        self._max_bytes = max_bytes
        self._backend = backend_of(current_token())
        self._writer: Slot | None = None
        self._write_now: Callable[[], bool] = bool
        self._taken: anyio.Event | None = None  # made by who waits for room
        self._on_room: deque[Callable[[], object]] = deque()

    def flush(self, *, is_alone: bool = False) -> None:
        """Have the writer write what there is.

        With ``is_alone`` nothing else is about to come, so it is written at once if the wire allows it. Otherwise the
        writer's turn comes when all that is running now has run, and what has come together by then is one write;
        unless it is much already, and the engine may as well begin with it.
        """
        size = self._session.outgoing_bytes
        if (is_alone or size >= EARLY) and 0 < size <= SMALL and self._write_now():
            return
        writer = self._writer
        if writer is None or not self._session.has_outgoing:
            return
        self._writer = None
        writer.wake()

    async def take(self, write_now: Callable[[], bool]) -> list[bytes]:
        """Wait for messages and take them all. For the one writer. Empty: only what the wire has left is to be written.

        Args:
            write_now: Writes what there is, meanwhile, without waiting; False when it cannot.
        """
        self._write_now = write_now
        if not self._session.has_outgoing:
            self._writer = writer = self._backend.new_slot()
            try:
                await writer.wait()
            finally:
                self._writer = None
        return self.take_now()

    def detach(self) -> None:
        """The link has ended: nothing can be written at once."""
        self._write_now = bool

    def take_now(self) -> list[bytes]:
        """Take all messages."""
        texts = self._session.take_outgoing()
        self.freed()
        return texts

    def freed(self) -> None:
        """Let waiting producers go on."""
        if self._taken is not None:
            self._taken.set()
            self._taken = None
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
            if self._taken is None:
                self._taken = anyio.Event()
            await self._taken.wait()
