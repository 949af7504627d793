"""The faults of a network on the way to an engine in the same process: whole messages, no sockets, virtual time.

Tasks, in the group of ``FaultConnector``: one per connection, which holds the engine's end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
from anyio import AsyncContextManagerMixin, CancelScope, create_task_group
from anyio.lowlevel import checkpoint

from ..errors import ConnectError, LinkClosed
from ._faults import Ending, Faults

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup, TaskStatus

    from ..abc import Connector, Wire

__all__ = ("FaultConnector",)

_HERE: Final = "the engine behind the FaultConnector"
_REASONS: Final = {
    "refuse": "connection refused",
    "reset": "connection reset",
    "eof": "it closed the connection without an answer",
    "http_503": "it answered 503 Service Unavailable",
}


class FaultConnector(Faults, AsyncContextManagerMixin):
    """A ``FaultProxy`` without sockets: ``open_worker(connector=faults)``.

    For tests in virtual time. What is not a whole message does not exist here: ``cut_frame`` loses the engine's next
    message, ``http_503`` is a connection that does not come about.

    Args:
        connector: The way to the engine, such as ``engine.connector()``.
        seed: Of the jitter.
    """

    def __init__(self, connector: Connector, *, seed: int = 0) -> None:
        super().__init__(seed)
        self._connector = connector
        self._open: set[_FaultyWire] = set()
        self._tasks: TaskGroup | None = None

    def __repr__(self) -> str:
        return f"<FaultConnector {len(self._open)} open>"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def __call__(self) -> AbstractAsyncContextManager[Wire]:
        """Connect; see ``Connector``."""
        return self._connect()

    def channel(self, channel_id: str, access_key: str, direction: str, /) -> Any:
        """Open an end of a data channel, without faults; see ``ChannelConnector``."""
        connector: Any = self._connector
        return connector.channel(channel_id, access_key, direction)

    def refuse(self) -> None:
        """Refuse connections from now on, until ``accept``; the present ones stay."""
        self.always("refuse")

    def accept(self) -> None:
        """Accept connections again."""
        self.always("forward")

    def cut_frame(self) -> None:
        """Lose the next message of the engine on each connection, and end it there."""
        for wire in self._open:
            wire.is_to_be_cut = True

    def _end_all(self, ending: Ending) -> None:
        for wire in self._open:
            wire.end(ending)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with create_task_group() as self._tasks:
            try:
                yield self
            finally:
                self._tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _connect(self) -> AsyncGenerator[Wire]:
        assert self._tasks is not None, "enter the FaultConnector first: async with FaultConnector(...) as faults"
        what = self._next_connection()
        await anyio.sleep(self.delay)
        if what in _REASONS:
            raise ConnectError(_HERE, _REASONS[what])
        wire: _FaultyWire = await self._tasks.start(self._hold_engine)
        self._open.add(wire)
        if what == "eof_after_101":
            wire.end(Ending("eof"))
        elif what == "black_hole":
            wire.end(Ending("black_hole"))
        try:
            yield wire
        finally:
            self._open.discard(wire)
            wire.left()

    async def _hold_engine(self, *, task_status: TaskStatus[_FaultyWire]) -> None:
        async with self._connector() as engine:
            wire = _FaultyWire(engine, self)
            task_status.started(wire)
            await wire.wait_left()
            if wire.is_engine_told:
                await (engine.abort() if wire.is_broken else engine.aclose(1000))
                return
            await self._hold()


class _FaultyWire:
    """A worker's end of a connection, and what befalls it."""

    def __init__(self, inner: Wire, faults: Faults) -> None:
        self.pongs: list[bytes] = inner.pongs
        self.is_to_be_cut = False
        self._inner = inner
        self._faults = faults
        self._ending: Ending | None = None
        self._waiting: CancelScope | None = None
        self._left = anyio.Event()

    # -- for the connector ---------------------------------------------------------------------------------------

    @property
    def is_broken(self) -> bool:
        """Whether a fault has ended it."""
        return self._ending is not None

    @property
    def is_engine_told(self) -> bool:
        return self._ending is None or self._ending.is_engine_told

    def end(self, ending: Ending) -> None:
        """Let this fault happen; a black hole may still be ended otherwise."""
        if self._ending is None or self._ending.kind == "black_hole":
            self._ending = ending
            if self._waiting is not None:
                self._waiting.cancel()

    def left(self) -> None:
        self._left.set()

    async def wait_left(self) -> None:
        await self._left.wait()

    # -- Wire ----------------------------------------------------------------------------------------------------

    async def receive(self) -> list[bytes]:
        """See ``Wire.receive``."""
        while True:
            self._check()
            with CancelScope() as scope:
                self._waiting = scope
                if self._ending is not None:
                    await anyio.sleep_forever()  # in a black hole
                batch = await self._inner.receive()
                if batch and self.is_to_be_cut:
                    self.end(Ending("eof"))
                await self._pass(batch)
                return batch

    async def send(self, batch: Sequence[bytes]) -> None:
        """See ``Wire.send``."""
        self._check()
        await self._pass(batch)
        self._check()
        if self._ending is None:  # a black hole takes everything
            await self._inner.send(batch)

    def send_now(self, take: Callable[[], Sequence[bytes]]) -> bool:
        """See ``Wire.send_now``."""
        is_plain = not (self._faults.delay or self._faults.jitter or self._faults.bytes_per_second)
        return self._ending is None and is_plain and self._inner.send_now(take)

    @property
    def has_rest(self) -> bool:
        """See ``Wire.has_rest``."""
        return self._inner.has_rest

    async def ping(self, payload: bytes) -> None:
        """See ``Wire.ping``."""
        await checkpoint()
        self._check()
        if self._ending is None:
            await self._inner.ping(payload)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """See ``Wire.aclose``."""
        if self.is_engine_told:
            await (self._inner.abort() if self.is_broken else self._inner.aclose(code, reason))

    async def abort(self) -> None:
        """See ``Wire.abort``."""
        if self.is_engine_told:
            await self._inner.abort()

    # -- internals -----------------------------------------------------------------------------------------------

    async def _pass(self, batch: Sequence[bytes]) -> None:
        await anyio.sleep_until(self._faults.due())
        if (rate := self._faults.bytes_per_second) is not None:
            await anyio.sleep(sum(map(len, batch)) / rate)

    def _check(self) -> None:
        ending = self._ending
        if ending is not None and ending.kind != "black_hole":
            raise LinkClosed(ending.code, ending.reason or ending.kind)
