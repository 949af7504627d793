"""Data channels in the engine (§12, E-39 to E-43): buffers between one writer and one reader, and their sockets.

Below: wires. Above: ``_engine`` hands over sockets that ask for ``/ws/channels/…`` and opens ends in process.

Tasks: per reading socket one more, which hears the reader leave and answers its pings (upstream's engine does neither).
It ends with the socket.
"""

from __future__ import annotations

import hmac
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias
from urllib.parse import parse_qsl

import anyio
from anyio import CancelScope, create_task_group, current_time
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled, current_token

from ..errors import ConnectError, LinkClosed, WorkerStateError

if TYPE_CHECKING:
    from .._wire.listen import Accepted
    from ..abc import ChannelWire
    from ._engine_functions import Channel

__all__ = ("CHANNEL_PATH", "Channels", "DirectEnd")

logger: Final = logging.getLogger("iii_anyio.devengine")

CHANNEL_PATH: Final = "/ws/channels/"
MAX_BYTES: Final = 67_108_864
"""What one channel buffers at most, unless a single item is larger. Upstream counts items only."""
BATCH_BYTES: Final = 262_144
"""Roughly what a reader gets with one write."""
MAX_AGE: Final = 300.0
"""Seconds after which a channel goes that has an end nobody took."""
SWEEP_EVERY: Final = 60.0

Item: TypeAlias = tuple[bool, bytes]
"""Whether it is text, and its bytes."""
Direction: TypeAlias = Literal["read", "write"]

_CUT: Final = (1006, "the other end has gone")
_REFUSED: Final = (1005, "")
"""What the second to take an end sees: a close frame without status."""


class _Pipe:
    """The buffer of one channel and what became of its ends. Items leave in the order they came.

    An end is free, then taken, then gone. A writer that is gone ends the stream behind what is buffered; a reader that
    is gone cuts its writer.
    """

    def __init__(self, limit: int, settled: Callable[[], None]) -> None:
        self._limit = limit
        self._settled = settled
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._changed: anyio.Event | None = None  # made by who waits
        self._taken: set[Direction] = set()
        self._gone: set[Direction] = set()
        self.cut_writer: Callable[[], None] | None = None
        """Told when the reader has gone."""

    @property
    def has_free_end(self) -> bool:
        """Whether an end was never taken."""
        return len(self._taken) < 2

    def take_end(self, direction: Direction) -> bool:
        """Take an end; False when somebody has had it."""
        if direction in self._taken:
            return False
        self._taken.add(direction)
        return True

    async def put(self, item: Item) -> None:
        """Buffer an item; wait while there is no room.

        Raises:
            LinkClosed: The reader has gone.
        """
        while self._items and "read" not in self._gone and not self._has_room(len(item[1])):
            await self._wait()
        if "read" in self._gone:
            raise LinkClosed(*_CUT)
        self._items.append(item)
        self._bytes += len(item[1])
        self._notify()

    def _has_room(self, size: int) -> bool:
        return len(self._items) < self._limit and self._bytes + size <= MAX_BYTES

    async def get(self) -> list[Item]:
        """The next items, as soon as there are any; none at the end of the stream."""
        while not self._items:
            if self._gone:
                return []
            await self._wait()
        batch: list[Item] = []
        size = 0
        while self._items and size < BATCH_BYTES:
            item = self._items.popleft()
            batch.append(item)
            size += len(item[1])
        self._bytes -= size
        self._notify()
        return batch

    def leave(self, direction: Direction) -> None:
        """Note that an end is gone. Idempotent."""
        if direction in self._gone:
            return
        self._gone.add(direction)
        if direction == "read":
            self._items.clear()
            self._bytes = 0
            if self.cut_writer is not None:
                self.cut_writer()
        if len(self._gone) == 2 or direction == "read":
            self._settled()
        self._notify()

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class Channels:
    """Serves the ends of every channel the engine has made.

    Args:
        channels: The router's; what is over is taken out.
    """

    def __init__(self, channels: dict[str, Channel]) -> None:
        self._channels = channels
        self._pipes: dict[str, _Pipe] = {}
        self._seen: dict[str, float] = {}
        self._direct: set[DirectEnd] = set()
        self._loop: object = None

    def __repr__(self) -> str:
        return f"<Channels {len(self._channels)} made, {len(self._pipes)} in use>"

    def _find(self, channel_id: str, access_key: str) -> _Pipe | None:
        channel = self._channels.get(channel_id)
        # The key is the only capability there is (E-40): compared in constant time.
        if channel is None or not hmac.compare_digest(channel.access_key.encode(), access_key.encode()):
            return None
        pipe = self._pipes.get(channel_id)
        if pipe is None:
            pipe = self._pipes[channel_id] = _Pipe(channel.buffer_size, lambda: self._remove(channel_id))
        return pipe

    def _remove(self, channel_id: str) -> None:
        self._channels.pop(channel_id, None)
        self._pipes.pop(channel_id, None)
        self._seen.pop(channel_id, None)

    # -- over sockets --------------------------------------------------------------------------------------------

    async def serve(self, accepted: Accepted) -> None:
        """Serve one socket whose path begins with ``/ws/channels/``: reject it, or carry its items to the end."""
        query = dict(parse_qsl(accepted.query, keep_blank_values=True))
        key, wanted = query.get("key"), query.get("dir")
        if key is None or wanted is None:
            missing = "key" if key is None else "dir"
            await accepted.reject(400, f"Failed to deserialize query string: missing field `{missing}`\n")
            return
        if wanted not in {"read", "write"}:
            await accepted.reject(400, "Failed to deserialize query string: dir is `read` or `write`\n")
            return
        pipe = self._find(accepted.path.removeprefix(CHANNEL_PATH), key)
        if pipe is None:
            await accepted.reject(404, "Channel not found")
            return
        direction: Direction = "read" if wanted == "read" else "write"
        is_ours = pipe.take_end(direction)
        try:
            wire = await accepted.accept()
            if not is_ours:
                await wire.aclose(*_REFUSED)
            elif direction == "write":
                await _serve_writer(wire, pipe)
            else:
                await _serve_reader(wire, pipe)
        finally:
            if is_ours:
                pipe.leave(direction)

    # -- in process ----------------------------------------------------------------------------------------------

    def open(self, channel_id: str, access_key: str, direction: str) -> DirectEnd:
        """Open an end in the engine's own process and loop; see ``abc.OpenChannel``."""

        def find() -> _Pipe:
            if current_token().native_token is not self._loop:
                raise WorkerStateError("a channel of an engine in this process is for use in the engine's event loop")
            pipe = self._find(channel_id, access_key)
            if pipe is None:
                raise ConnectError(f"channel {channel_id}", "the peer answered 404 Not Found: Channel not found")
            return pipe

        return DirectEnd("read" if direction == "read" else "write", find, self._direct)

    def forget(self, channel_id: str) -> None:
        """Let nobody take an end of this channel any more; who has one goes on."""
        self._remove(channel_id)

    # -- the end of channels -------------------------------------------------------------------------------------

    def start(self) -> None:
        """The engine runs, in this loop."""
        self._loop = current_token().native_token

    async def run_sweeps(self) -> None:
        """Remove, every minute, what is older than five minutes and has an end that nobody ever took (E-43)."""
        while True:
            await anyio.sleep(SWEEP_EVERY)
            now = current_time()
            for channel_id in list(self._channels):
                pipe = self._pipes.get(channel_id)
                if pipe is not None and not pipe.has_free_end:
                    continue
                if now - self._seen.setdefault(channel_id, now) >= MAX_AGE:
                    logger.info("channel %s removed: nobody took both its ends in %g s", channel_id, MAX_AGE)
                    self._remove(channel_id)
                    if pipe is not None:
                        pipe.leave("write")  # a reader gets what is there, then the end
                        if pipe.cut_writer is not None:
                            pipe.leave("read")

    def close(self) -> None:
        """The engine ends: cut the ends in process. Sockets end with their connections."""
        self._loop = None
        for end in list(self._direct):
            end.cut()


async def _serve_writer(wire: ChannelWire, pipe: _Pipe) -> None:
    """Carry items from a socket into the buffer; not reading while it is full is the back-pressure (§12.5)."""
    with CancelScope() as scope:
        pipe.cut_writer = scope.cancel
        try:
            while True:
                for item in await wire.receive_typed():
                    if item[0] and not _is_utf8(item[1]):
                        await wire.aclose(1007, "text is not UTF-8")
                        return
                    await pipe.put(item)
        except LinkClosed:
            pass  # any end is the end of the stream (§12.4)
    pipe.cut_writer = None
    if scope.cancelled_caught:
        await wire.abort()


async def _serve_reader(wire: ChannelWire, pipe: _Pipe) -> None:
    """Carry items from the buffer to a socket, then close it without status."""
    async with create_task_group() as group:
        group.start_soon(_hear_out, wire, pipe, name="engine channel reader")
        try:
            while batch := await pipe.get():
                for is_text, items in groupby(batch, itemgetter(0)):
                    await (wire.send if is_text else wire.send_binary)([data for _, data in items])
            await wire.aclose(1005)
        except LinkClosed:
            pass
        group.cancel_scope.cancel()


async def _hear_out(wire: ChannelWire, pipe: _Pipe) -> None:
    """Read a reader's socket, for the sake of its pings and to notice that it leaves; what it sends is dropped."""
    try:
        while True:
            await wire.receive_typed()
    except LinkClosed:
        pipe.leave("read")


class DirectEnd:
    """An end in the engine's process: the ``ChannelWire``, and the context that opens it."""

    def __init__(self, direction: Direction, find: Callable[[], _Pipe], ends: set[DirectEnd]) -> None:
        self._direction: Direction = direction
        self._find = find
        self._ends = ends
        self._pipe: _Pipe | None = None
        self._closed: tuple[int, str] | None = None

    async def __aenter__(self) -> Self:
        await checkpoint()
        pipe = self._find()
        if pipe.take_end(self._direction):
            self._pipe = pipe
            self._ends.add(self)
            if self._direction == "write":
                pipe.cut_writer = self._note_cut
        else:
            self._closed = _REFUSED
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def has_peer(self) -> bool:
        """Whether the other end is, or was, taken."""
        return self._pipe is not None and not self._pipe.has_free_end

    def cut(self) -> None:
        """End it as a lost connection would."""
        self._note_cut()
        self._leave()

    def _note_cut(self) -> None:
        self._closed = self._closed or _CUT

    def _leave(self) -> None:
        self._ends.discard(self)
        if self._pipe is not None:
            self._pipe.leave(self._direction)

    def _opened(self) -> _Pipe:
        if self._closed is not None:
            raise LinkClosed(*self._closed)
        assert self._pipe is not None, "it was entered"
        return self._pipe

    async def receive_typed(self) -> list[Item]:
        await checkpoint()
        pipe = self._opened()
        if self._direction == "write":
            await anyio.sleep_forever()  # nothing ever comes
        items = await pipe.get()
        self._opened()
        if not items:
            self._closed = (1005, "")
            self._opened()
        return items

    async def send(self, batch: Sequence[bytes]) -> None:
        await self._put(batch, is_text=True)

    async def send_binary(self, batch: Sequence[bytes]) -> None:
        await self._put(batch, is_text=False)

    async def _put(self, batch: Sequence[bytes], *, is_text: bool) -> None:
        await checkpoint_if_cancelled()
        for data in batch:
            await self._opened().put((is_text, data))

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        self._closed = self._closed or (code, reason)
        self._leave()

    async def abort(self) -> None:
        await self.aclose(1006, "aborted")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
