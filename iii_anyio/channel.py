"""Data channels: one-way pipes of bytes and text through the engine, for what does not fit a payload (§12).

``create_channel_async`` makes a channel; either end travels to another worker as a reference inside a payload, and a
handler finds a live ``ChannelReader`` or ``ChannelWriter`` in its place. Each end is a WebSocket of its own, opened by
its first use, and can be used once.

Below: ``_channel_end``, which connects. Above: handlers and ``create_channel``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from anyio import BusyResourceError, ClosedResourceError, EndOfStream, sleep
from anyio.abc import ByteReceiveStream, ByteSendStream

from ._channel_end import ChannelClosedError, ChannelEnd, build_channel_url, resolve_headers
from ._refs import ChannelItem, StreamChannelRef, is_channel_ref
from .errors import EncodeError, LinkClosed

if TYPE_CHECKING:
    from .abc import Background, Invoker, OpenChannel

    class _Host(Invoker, Protocol):
        """A worker, as ``create_channel`` needs it."""

        @property
        def open_channel(self) -> OpenChannel: ...
        @property
        def background(self) -> Background: ...


__all__ = (
    "Channel",
    "ChannelClosedError",
    "ChannelItem",
    "ChannelReader",
    "ChannelWriter",
    "ReadableStream",
    "StreamChannelRef",
    "WritableStream",
    "build_channel_url",
    "create_channel",
    "create_channel_async",
    "resolve_headers",
)

logger: Final = logging.getLogger("iii_anyio")

_CREATE: Final = "engine::channels::create"
_MAX_ITEM: Final = 65_536
"""Bytes of a binary item; longer writes are cut (P-54)."""
_BATCH: Final = 16
"""Items given to the wire at once; it joins small frames."""
_ANSWER_FIRST: Final = 0.1
"""Seconds for an answer to get to the engine."""
_ORDERLY: Final = (1000, 1005)
"""Close codes that end a stream. The engine sends no status, whatever became of the writer (§12.4)."""


# -- the ends --------------------------------------------------------------------------------------------------------


class ChannelReader(ChannelEnd, ByteReceiveStream):
    """The reading end: ``async for chunk in reader``, ``read_all()``, or any of anyio's wrappers of byte streams.

    Bytes come from ``receive``; text goes to the callbacks of ``on_message``, in the order of the stream, while bytes
    are being read. ``receive_item`` gives both. Writers cut what they write at 64 KiB, so the boundaries of chunks say
    nothing; some chunks may be empty.

    The end of the stream is also what a writer's crash looks like, for the engine tells them apart from nobody (§12.4):
    where it matters, have the writer say that it was the end. A connection to the engine that is cut raises
    ``ChannelClosedError``.

    For one task at a time, in the event loop that used it first. In a sync handler:
    ``anyio.from_thread.run(reader.read_all)``.
    """

    _direction = "read"

    def __init__(
        self,
        engine_ws_base: str,
        ref: StreamChannelRef,
        headers: Mapping[str, str] | None = None,
        *,
        open_channel: OpenChannel | None = None,
        background: Background | None = None,
    ) -> None:
        super().__init__(engine_ws_base, ref, headers, open_channel=open_channel, background=background)
        self._items: deque[tuple[bool, bytes]] = deque()
        self._rest = b""
        self._callbacks: list[Callable[[str], object]] = []

    @property
    def stream(self) -> ReadableStream:
        """Upstream's name for what ``async for`` over the reader gives."""
        return ReadableStream(self)

    def on_message(self, callback: Callable[[str], object]) -> None:
        """Call ``callback`` with each text item, in the task that reads. What it raises is logged."""
        self._callbacks.append(callback)

    async def receive(self, max_bytes: int | None = None) -> bytes:
        """The next binary item; with ``max_bytes``, its next so many bytes.

        Raises:
            EndOfStream: The writer has closed, or is gone.
            ChannelClosedError: The connection broke, or there is no such channel (``code`` 404).
            ConnectError: The engine cannot be reached.
            ClosedResourceError: This end was closed.
        """
        if not self._rest:
            while True:
                is_text, data = await self._next()
                if not is_text:
                    break
                self._tell(data.decode())
            if max_bytes is None or len(data) <= max_bytes:
                return data
            self._rest = data
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:] if max_bytes is not None else b""
        return data

    async def receive_item(self) -> ChannelItem:
        """The next item of either kind; text does not go to callbacks. Raises as ``receive``."""
        if self._rest:
            data, self._rest = self._rest, b""
            return ChannelItem(binary=data)
        is_text, data = await self._next()
        return ChannelItem(text=data.decode()) if is_text else ChannelItem(binary=data)

    async def read_all(self) -> bytes:
        """All bytes up to the end, joined. Raises as ``receive``, but for ``EndOfStream``."""
        chunks = [chunk async for chunk in self]
        return b"".join(chunks)

    async def _next(self) -> tuple[bool, bytes]:
        """The next item, and whether it is text, which then is valid UTF-8."""
        lock = self._here()
        if lock.locked():
            raise BusyResourceError("reading from")
        async with lock:
            while not self._items:
                if self._state == "over" and self._error is None:
                    raise EndOfStream
                wire = await self._connected()
                try:
                    self._items.extend(await wire.receive_typed())
                except LinkClosed as exc:
                    if exc.code in _ORDERLY and self._state != "closed":
                        self._state = "over"
                        await self._give_back(is_orderly=True)
                        raise EndOfStream from None
                    await self._lost(exc)
            if self._state == "closed":
                raise ClosedResourceError
            item = self._items.popleft()
            if item[0] and not _is_utf8(item[1]):
                # The frame layer does not look; RFC 6455 8.1 wants 1007.
                error = self._fail(1007, "a text item is not UTF-8")
                self._items.clear()
                if self._wire is not None:
                    await self._wire.aclose(1007)
                await self._give_back(is_orderly=False)
                raise error
            return item

    def _tell(self, text: str) -> None:
        for callback in self._callbacks:
            try:
                callback(text)
            except Exception:  # the boundary of a callback
                logger.exception("a callback of channel %s failed", self.ref.channel_id)

    async def close_async(self) -> None:
        """Close at once: what has not been read is lost. Twice is fine; before the first use it forbids use.

        The transport is aborted, for the engine does not read from readers and would not answer a close frame (P-55).
        """
        self._state = "closed"
        self._items.clear()
        self._rest = b""
        await self._give_back(is_orderly=False)

    aclose = close_async


class ChannelWriter(ChannelEnd, ByteSendStream):
    """The writing end. Use ``async with``, or close it: the reader waits for the end.

    A write returns when the network has taken the bytes, so a slow reader slows its writer: the engine keeps
    ``buffer_size`` items (1 to 1024), then stops reading. Several tasks may write; each ``write`` stays in one piece.
    A write that is cancelled half-way breaks the connection.

    An end that somebody else had taken before is closed by the engine without a word (§12.2): a first write may seem
    to work, the next, or the close, raises ``ChannelClosedError``. A reader that left shows likewise.

    For the event loop that used it first. In a sync handler: ``anyio.from_thread.run(writer.write, data)``.
    """

    _direction = "write"
    _has_written = False

    @property
    def stream(self) -> WritableStream:
        """The end's fire-and-forget face for bytes."""
        return WritableStream(self)

    def send_message(self, msg: str) -> None:
        """Write one text item behind what was posted before, without waiting for it.

        From any thread. What becomes of it shows in the log, and in the next use of this end that waits. Needs an end
        made by a worker.

        Raises:
            EncodeError: A lone surrogate.
            BufferError: More than 64 MiB wait in this end.
            WorkerStateError: There is no worker that could carry it out.
        """
        text = _encoded(msg)
        self._posting.post(lambda: self._send_text(text), len(text))

    def close(self) -> None:
        """End the stream behind what was posted, without waiting. Raises as ``send_message``; unused: at once."""
        if self._state == "unused" and not self._posting.is_pending:
            self._state = "closed"
        elif self._state != "closed":
            self._posting.post(self._close, 0)

    def post(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes behind what was posted before, without waiting. Raises as ``send_message``."""
        copy = bytes(data)
        self._posting.post(lambda: self._write(copy), len(copy))

    @property
    def has_written(self) -> bool:
        """Whether bytes were written, none included. Text does not count."""
        return self._has_written

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes, in binary items of at most 64 KiB; no bytes are one empty item.

        Raises:
            ChannelClosedError: The connection broke, the reader has gone, or there is no such channel (``code`` 404).
            ConnectError: The engine cannot be reached.
            ClosedResourceError: This end was closed.
        """
        await self._posting.wait_written()
        await self._write(data)

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        async with self._here():
            wire = await self._connected()
            self._has_written = True
            step = _MAX_ITEM * _BATCH
            try:
                for start in range(0, max(len(view), 1), step):
                    stop = min(start + step, len(view))
                    pieces = [bytes(view[at : min(at + _MAX_ITEM, stop)]) for at in range(start, stop, _MAX_ITEM)]
                    await wire.send_binary(pieces or [b""])
            except LinkClosed as exc:
                await self._lost(exc)

    async def send(self, item: bytes) -> None:
        """Write; the method of anyio's byte streams."""
        await self.write(item)

    async def send_message_async(self, msg: str) -> None:
        """Write one text item, whole. Raises as ``write``, and ``EncodeError`` for a lone surrogate."""
        text = _encoded(msg)
        await self._posting.wait_written()
        await self._send_text(text)

    async def _send_text(self, text: bytes) -> None:
        async with self._here():
            wire = await self._connected()
            try:
                await wire.send([text])
            except LinkClosed as exc:
                await self._lost(exc)

    async def close_async(self) -> None:
        """End the stream: the reader gets everything written so far, then the end. Twice is fine.

        Never used, the end is not connected for this (A.14): to send an empty stream, write ``b""`` first.

        Raises:
            ChannelClosedError: Nothing of what was written arrived, because this end had been taken before.
        """
        await self._posting.wait_written()
        await self._close()

    async def _close(self) -> None:
        if self._state == "closed":
            return
        wire, was_open = self._wire, self._state == "open"
        self._state = "closed"
        await self._give_back(is_orderly=True)
        if was_open and wire is not None:
            try:
                await wire.receive_typed()  # says how the connection ended
            except LinkClosed as exc:
                if exc.code == 1005:
                    raise self._fail(1005, "the engine refused it: this end had been taken before") from exc

    aclose = close_async


class WritableStream:
    """A channel's writing end, without waiting: ``writer.stream``. Ordered, bounded, carried out by the worker."""

    def __init__(self, writer: ChannelWriter) -> None:
        self._writer: ChannelWriter = writer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Post bytes. Raises as ``ChannelWriter.send_message``."""
        self._writer.post(data)

    def end(self, data: bytes | bytearray | memoryview | None = None) -> None:
        """Post the last bytes, if any, and the end of the stream."""
        if data is not None:
            self._writer.post(data)
        self._writer.close()


class ReadableStream:
    """A channel's reading end as an iterable of its bytes: ``reader.stream``."""

    def __init__(self, reader: ChannelReader) -> None:
        self._reader: ChannelReader = reader

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._reader)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise EncodeError("the text holds a lone surrogate, which UTF-8 cannot carry") from exc


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# -- making them -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Channel:
    """A new channel: both ends, to be used here, and both references, to be put into payloads."""

    writer: ChannelWriter
    reader: ChannelReader
    writer_ref: StreamChannelRef
    reader_ref: StreamChannelRef


async def create_channel_async(iii: _Host, buffer_size: int | None = None) -> Channel:
    """Make a channel. An end that nobody uses within 5 minutes ends the channel (§12.4).

    Args:
        iii: A worker. The channel outlives it.
        buffer_size: Items that wait in the engine before the writer does: 1 to 1024, by default 64.

    Raises:
        InvocationError: The engine refused, or was not there.

    Wire: InvokeFunction of ``engine::channels::create``.   Upstream: create_channel_async.
    """
    return _channel(iii, await iii.trigger_async(_request(buffer_size)))


def create_channel(iii: _Host, buffer_size: int | None = None) -> Channel:
    """Do what ``create_channel_async`` does and block this thread meanwhile; not on the worker's loop."""
    return _channel(iii, iii.trigger(_request(buffer_size)))


def _request(buffer_size: int | None) -> dict[str, Any]:
    return {"function_id": _CREATE, "payload": {"buffer_size": buffer_size}, "namespace": "default"}


def _channel(iii: _Host, refs: dict[str, Any]) -> Channel:
    writer, reader = StreamChannelRef.model_validate(refs["writer"]), StreamChannelRef.model_validate(refs["reader"])
    return Channel(
        ChannelWriter("", writer, open_channel=iii.open_channel, background=iii.background),
        ChannelReader("", reader, open_channel=iii.open_channel, background=iii.background),
        writer,
        reader,
    )


# -- in payloads -----------------------------------------------------------------------------------------------------


class ReceivedEnds:
    """Puts live ends where an invocation's data has references, and closes what a handler left open."""

    def __init__(self, open_channel: OpenChannel, background: Background) -> None:
        self._open_channel = open_channel
        self._background = background
        self._ends: list[ChannelReader | ChannelWriter] = []

    def replaced(self, data: Any) -> Any:
        """A copy of ``data`` with an end in place of each reference, at any depth (§12.6)."""
        if is_channel_ref(data):
            kind = ChannelReader if data["direction"] == "read" else ChannelWriter
            ref = StreamChannelRef.model_validate(data)
            end = kind("", ref, open_channel=self._open_channel, background=self._background)
            self._ends.append(end)
            return end
        if isinstance(data, dict):
            return {key: self.replaced(value) for key, value in cast("dict[str, Any]", data).items()}
        if isinstance(data, list):
            return [self.replaced(value) for value in cast("list[object]", data)]
        return data

    async def aclose(self) -> None:
        """Close ends that are connected, unless their handler took them over. Comes behind the invocation's answer."""
        left = [end for end in self._ends if end.is_connected and not end.is_kept]
        # The answer goes another way. To an http trigger it counts only if it is there before a ``response`` channel
        # without a body is closed (H-62).
        if any(isinstance(end, ChannelWriter) and not end.has_written for end in left):
            await sleep(_ANSWER_FIRST)
        for end in left:
            try:
                await end.aclose()
            except ChannelClosedError:
                pass  # nobody waits for it
            except Exception:  # the boundary of a handler, which may have used it in a loop that has ended
                logger.exception("channel %s was left open and cannot be closed", end.channel_id)
