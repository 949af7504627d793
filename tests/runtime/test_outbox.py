"""When what was produced is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from anyio import create_task_group, fail_after, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from iii_anyio._protocol.messages import Unknown
from iii_anyio._protocol.worker_session import WorkerSession
from iii_anyio._runtime.outbox import Outbox

pytestmark = pytest.mark.anyio


class Writer:
    """Takes what there is, as a link does."""

    def __init__(self) -> None:
        self.session = WorkerSession({}, max_queued=10)
        self.outbox = Outbox(self.session)
        self.batches: list[int] = []
        self.by_producer: list[int] = []
        self.can_write_now = True

    def produce(self, size: int, *, is_alone: bool = False) -> None:
        self.session.send(Unknown("x", {"text": "x" * size}))
        self.outbox.flush(is_alone=is_alone)

    async def run(self) -> None:
        while True:
            texts = await self.outbox.take(self._write_now)
            if texts:
                self.batches.append(len(texts))

    def _write_now(self) -> bool:
        if self.can_write_now:
            self.by_producer.append(len(self.outbox.take_now()))
        return self.can_write_now


@asynccontextmanager
async def waiting() -> AsyncGenerator[Writer]:
    """A writer that waits for something to write."""
    writer = Writer()
    with fail_after(5):
        async with create_task_group() as tasks:
            tasks.start_soon(writer.run)
            await wait_all_tasks_blocked()
            yield writer
            tasks.cancel_scope.cancel()


async def test_what_comes_together_in_a_turn_is_one_write() -> None:
    async with waiting() as writer:
        for _ in range(5):
            writer.produce(100)
        assert (writer.by_producer, writer.batches) == ([], [])
        while not writer.batches:
            await checkpoint()
        assert (writer.by_producer, writer.batches) == ([], [5])


async def test_a_single_message_and_what_is_much_already_are_written_by_who_produced_them() -> None:
    async with waiting() as writer:
        writer.produce(100, is_alone=True)
        assert writer.by_producer == [1]
        for _ in range(6):
            writer.produce(5000)
        assert writer.by_producer == [1, 3, 3]
        writer.produce(70_000)  # too much to be copied once more
        assert writer.by_producer == [1, 3, 3]
        while not writer.batches:
            await checkpoint()
        assert writer.batches == [1]


async def test_what_cannot_be_written_at_once_is_left_to_the_writer_and_nothing_is_written_without_a_link() -> None:
    async with waiting() as writer:
        writer.can_write_now = False
        for _ in range(3):
            writer.produce(5000)
        while not writer.batches:
            await checkpoint()
        assert (writer.by_producer, writer.batches) == ([], [3])
    writer.can_write_now = True
    writer.outbox.detach()
    writer.produce(100, is_alone=True)
    writer.produce(13_000)
    assert writer.by_producer == []
    assert len(writer.outbox.take_now()) == 2
