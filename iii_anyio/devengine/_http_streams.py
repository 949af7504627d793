"""An HTTP request's body on its way in, a streamed response on its way out, and the data channels of both.

Below: the engine's channels, in process. Above: ``builtins/_http_exchange``, which races the response channel with the
handler's result. No tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, cast

from anyio import Event

from .._protocol.jsontext import from_json
from ..errors import DecodeError, LinkClosed
from ._http_messages import ChannelRef, Response, streamed_head

if TYPE_CHECKING:
    from ..abc import ChannelWire
    from ._asgi_server import Receive, Send
    from ._channels import Channels, DirectEnd

__all__ = ("RequestBody", "RequestChannels", "ResponseChannel", "send_stream")


class RequestChannels:
    """Both channels of one request, the engine's ends of them open. Without ``channels`` nobody serves them."""

    def __init__(self, channels: Channels | None, request_body: ChannelRef, response: ChannelRef) -> None:
        self._channels = channels
        self._ids = (request_body["channel_id"], response["channel_id"])
        self._refs = (request_body, response)
        self._stack = AsyncExitStack()
        self.body: ChannelWire | None = None
        """Where the request's body goes."""
        self.response: ResponseChannel | None = None

    async def open(self) -> None:
        """Take the engine's ends."""
        if self._channels is None:
            return
        ends: list[DirectEnd] = []
        for ref, direction in zip(self._refs, ("write", "read"), strict=True):
            end = self._channels.open(ref["channel_id"], ref["access_key"], direction)
            ends.append(await self._stack.enter_async_context(end))
        self.body, self.response = ends[0], ResponseChannel(ends[1])

    def forget(self) -> None:
        """Let nobody connect any more; who is connected stays (H-64)."""
        if self._channels is not None:
            for channel_id in self._ids:
                self._channels.forget(channel_id)

    async def aclose(self) -> None:
        """Forget both, and leave. Does not wait."""
        self.forget()
        await self._stack.aclose()


class ResponseChannel:
    """What a handler writes to ``response``: control messages, then the body (H-58 to H-61)."""

    def __init__(self, source: DirectEnd) -> None:
        self._source = source
        self._status = 200
        self._headers: dict[str, str] = {}
        self._pending: list[bytes] = []

    @property
    def has_writer(self) -> bool:
        """Whether somebody has connected to it."""
        return self._source.has_peer

    async def decided(self) -> Response:
        """Wait for the first binary item, or the end; return the head, which is all there is if it was the end."""
        try:
            while True:
                batch = await self._source.receive_typed()
                for index, (is_text, data) in enumerate(batch):
                    if not is_text:
                        self._pending = [more for is_text, more in batch[index:] if not is_text]
                        head = streamed_head(self._status, self._headers)
                        head.is_streamed = True
                        return head
                    self._control(data)
        except LinkClosed:
            return streamed_head(self._status, self._headers)

    def _control(self, text: bytes) -> None:
        """Take a control message; what is none, or wrong, is ignored (H-58)."""
        try:
            message = from_json(text)
        except DecodeError:
            return
        match message:
            case {"type": "set_status", "status_code": int(status)} if 100 <= status <= 599:
                self._status = status
            case {"type": "set_headers", "headers": headers} if isinstance(headers, dict):
                given = cast("dict[str, Any]", headers)
                self._headers |= {name: value for name, value in given.items() if isinstance(value, str)}
            case _:
                pass

    async def body(self) -> list[bytes]:
        """The next pieces of the body; none at its end. Text is dropped now (H-59).

        Raises:
            OSError: The engine ends, and the body breaks off.
        """
        while not self._pending:
            try:
                batch = await self._source.receive_typed()
            except LinkClosed as exc:
                if exc.code == 1006:
                    raise OSError(str(exc)) from exc
                return []
            self._pending = [data for is_text, data in batch if not is_text]
        pieces, self._pending = self._pending, []
        return pieces


class RequestBody:
    """Reads the client for as long as its request is worked on, and passes the body on to ``request_body`` (H-26).

    A JSON body is kept, and passed on whole; others are passed on as they come, no faster than they are read (H-17).
    """

    def __init__(self, receive: Receive, limit: int | None) -> None:
        self._receive = receive
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = Event()
        self.is_too_large = False
        self.client_left = False

    def announce(self, content_length: str) -> None:
        """Give up at once on a body that says it is too large."""
        if self._limit is not None and content_length.isdecimal() and int(content_length[:20]) > self._limit:
            self._refuse()

    async def read(self, on_disconnect: Callable[[], object], sink: ChannelWire | None = None) -> None:
        """Read until the client leaves, or until this is cancelled."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.client_left = True
                on_disconnect()
                return
            chunk = message.get("body", b"")
            self._take(chunk)
            is_last = not message.get("more_body", False)
            if is_last:
                self._ended.set()
            if sink is not None and not await self._pass_on(sink, chunk, is_last=is_last):
                sink = None

    async def collected(self) -> bytes | None:
        """The whole body once it is there, None when it is too large; ``b""`` at once for a body not kept."""
        if self._limit is None:
            return b""
        await self._ended.wait()
        return None if self.is_too_large else b"".join(self._chunks)

    async def _pass_on(self, sink: ChannelWire, chunk: bytes, *, is_last: bool) -> bool:
        """Hand on what there is to be handed on; False once there is nobody to take it."""
        if self._limit is not None:
            chunk = b"".join(self._chunks) if is_last else b""
        try:
            if chunk:
                await sink.send_binary([chunk])
            if is_last:
                await sink.aclose()
        except LinkClosed:
            return False
        return not is_last

    def _take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._limit is None or self.is_too_large:
            return
        if self._size > self._limit:
            self._refuse()
        else:
            self._chunks.append(chunk)

    def _refuse(self) -> None:
        self._chunks.clear()
        self.is_too_large = True
        self._ended.set()


_START: Final = "http.response.start"
_BODY: Final = "http.response.body"


async def send_stream(
    send: Send, response: Response, headers: list[tuple[bytes, bytes]], channel: ResponseChannel
) -> None:
    """Send a response piece by piece, as the handler writes it; its head at once.

    Raises:
        OSError: The client has left, or the body breaks off.
    """
    await send({"type": _START, "status": response.status, "headers": headers})
    while pieces := await channel.body():
        await send({"type": _BODY, "body": b"".join(pieces), "more_body": True})
    await send({"type": _BODY, "body": b""})
