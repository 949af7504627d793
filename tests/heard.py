"""A handler that keeps what it is called with until the test asks."""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio

__all__ = ("Heard",)


class Heard:
    """Register its ``hear``; ``take`` waits for the next payload.

    Attributes:
        answer: What the handler returns.
        error: What it raises instead.
        metadata: Of the calls so far.
    """

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.error: Exception | None = None
        self.metadata: list[Any] = []
        self._payloads: deque[Any] = deque()
        self._changed = anyio.Event()

    async def hear(self, data: Any, metadata: Any = None) -> Any:
        """Be called."""
        self._payloads.append(data)
        self.metadata.append(metadata)
        self._changed.set()
        if self.error is not None:
            raise self.error
        return self.answer

    async def take(self) -> Any:
        """Wait for the next call; return its payload."""
        while not self._payloads:
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._payloads.popleft()

    async def take_all(self, count: int) -> list[Any]:
        """The next so many."""
        return [await self.take() for _ in range(count)]

    @property
    def has_more(self) -> bool:
        """Whether there were calls that the test has not taken."""
        return bool(self._payloads)
