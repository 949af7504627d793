"""Handlers of ``http`` triggers that read a request and write a response bit by bit, over data channels.

Below: ``channel.py``. Above: ``http.py`` and ``internal.py``, where upstream has these names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self, cast

from ._protocol.codec import to_json
from .channel import ChannelReader, ChannelWriter, WritableStream

if TYPE_CHECKING:
    from types import TracebackType

    from .http import HttpResponse

__all__ = ("InternalHttpRequest", "StreamRequest", "StreamResponse", "http")


@dataclass
class StreamRequest:
    """A request whose body is read while it arrives.

    Upstream: iii.StreamRequest.
    """

    path_params: dict[str, str]
    query_params: dict[str, str | list[str]]
    body: Any
    """The parsed JSON of a JSON request, else None: such a body is in ``request_body``."""
    headers: dict[str, str | list[str]]
    method: str
    request_body: ChannelReader
    """``async for chunk in request.request_body``. Begin to read before the first byte is written to the response:
    afterwards the engine has forgotten it (H-64)."""


@dataclass
class InternalHttpRequest:
    """What the engine sends to the handler of an ``http`` trigger, with its channels open.

    Upstream: iii.internal.InternalHttpRequest.
    """

    path_params: dict[str, str]
    query_params: dict[str, str | list[str]]
    body: Any
    headers: dict[str, str | list[str]]
    method: str
    response: ChannelWriter
    request_body: ChannelReader


class StreamResponse:
    """A response that is written bit by bit: first ``status`` and ``headers``, then ``write``, then ``aclose``.

    The head is sent with the first ``write``; without one, with ``aclose``, as a response without a body. There is no
    default content type (H-59). As a context manager it closes at the end of its block.

    Upstream: iii.StreamResponse, which lacks ``write``, ``aclose`` and the block.
    """

    def __init__(self, writer: ChannelWriter) -> None:
        self._writer: ChannelWriter = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def writer(self) -> ChannelWriter:
        """The channel it is written to."""
        return self._writer

    @property
    def stream(self) -> WritableStream:
        """The channel's fire-and-forget face."""
        return self._writer.stream

    async def status(self, status_code: int) -> None:
        """Choose the status, 100 to 599; 200 without this (H-58)."""
        await self._control({"type": "set_status", "status_code": status_code})

    async def headers(self, headers: Mapping[str, str]) -> None:
        """Add headers; later ones replace those of the same spelling (H-58)."""
        await self._control({"type": "set_headers", "headers": dict(headers)})

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a part of the body. Raises as ``ChannelWriter.write``."""
        await self._writer.write(data)

    async def aclose(self) -> None:
        """End the response."""
        await self._writer.close_async()

    def close(self) -> None:
        """End the response behind what was written so far, without waiting for it."""
        self._writer.close()

    async def _control(self, message: dict[str, Any]) -> None:
        await self._writer.send_message_async(to_json(message).decode())


_DEFAULTS: Final[dict[str, Any]] = {
    "path_params": dict,
    "query_params": dict,
    "body": lambda: None,
    "headers": dict,
    "method": lambda: "GET",
}


def http(
    callback: Callable[[StreamRequest, StreamResponse], Awaitable[HttpResponse[Any] | None]],
) -> Callable[[Any], Awaitable[HttpResponse[Any] | None]]:
    """Make a function handler of ``async def callback(request, response)``, for ``http`` triggers that stream.

    The callback writes to ``response``, or returns an ``HttpResponse`` before it has written (H-62). A response it
    leaves open is closed when it ends.

    Raises:
        KeyError: Out of the handler: what called it was no ``http`` trigger, so there are no channels.

    Upstream: iii_helpers.http.http.
    """

    async def handle(req: Any) -> HttpResponse[Any] | None:
        request, writer = _split(req)
        return await callback(request, StreamResponse(writer))

    # Name and text for logs and discovery, but not the signature: the handler takes whatever the engine sends.
    handle.__name__ = getattr(callback, "__name__", handle.__name__)
    handle.__qualname__ = getattr(callback, "__qualname__", handle.__qualname__)
    handle.__doc__ = callback.__doc__
    handle.__annotations__ = {}  # some would not resolve where the program runs
    return handle


def _split(req: Any) -> tuple[StreamRequest, ChannelWriter]:
    names = [field.name for field in fields(StreamRequest)]
    if isinstance(req, Mapping):
        given = cast("Mapping[str, Any]", req)
        writer, body = given["response"], given["request_body"]
        parts = {name: given.get(name, default()) for name, default in _DEFAULTS.items()}
        return StreamRequest(**parts, request_body=body), writer
    return StreamRequest(**{name: getattr(req, name) for name in names}), req.response
