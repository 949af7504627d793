"""Accepting side: TCP connections in, WebSockets out. For the development engine, and for tests.

Owns the HTTP part of a connection: reading the request head, refusing what is no WebSocket handshake, the answer.
Below: an anyio listener and the ``ServerProtocol`` of websockets. Above: a handler that looks at path and headers and
accepts or rejects.

Tasks: one per connection, in a group that ends with ``serve_websockets``.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    TypedAttributeLookupError,
    create_task_group,
    move_on_after,
)
from anyio.abc import Listener, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from .._protocol.framing import MAX_MESSAGE, MAX_SENT_FRAME, Framing
from ..errors import LinkClosed
from .streams import direct_stream
from .websocket import CLOSE_TIMEOUT, WebSocketWire, raw_socket

__all__ = ("Accepted", "serve_websockets")

logger: Final = logging.getLogger("iii_anyio")

MAX_HEAD: Final = 65_536
"""Bytes of a request head; more is answered 431. Tokens in headers and queries are far below."""
_PAUSE: Final = 0.1
"""Seconds without accepting when the process has no descriptors left."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
_NOT_A_WEBSOCKET: Final = (
    "This is the worker listener of an iii engine: it speaks WebSocket only.\n"
    "The HTTP API has a port of its own, 3111 unless configured otherwise.\n"
)

_STREAM_ERRORS = (BrokenResourceError, ClosedResourceError, EndOfStream, OSError)

# websockets reports every handshake; what matters of them is logged here.
_SILENT: Final = logging.Logger("iii_anyio.handshake", logging.ERROR)


class Accepted:
    """A TCP connection with a valid WebSocket request, to be accepted or rejected.

    Attributes:
        path: As sent, not percent-decoded, without the query.
        query: As sent, without the question mark.
        headers: By lower-case name; of a repeated one, the last.
        peer: The other side's IP address, or ``""`` when it is already gone.
        address: The same with the port: ``127.0.0.1:51234``, ``[::1]:51234``.
    """

    def __init__(
        self, stream: SocketStream, protocol: ServerProtocol, request: Request, agreed: Response, framing: Framing,
        leading: bytes,
    ) -> None:  # fmt: skip
        path, _, query = request.path.partition("?")
        self.path: str = path
        self.query: str = query
        self.headers: dict[str, str] = {name.lower(): value for name, value in request.headers.raw_items()}
        self.peer: str
        self.address: str
        self.peer, self.address = _peer(stream)
        self._stream = stream
        self._protocol = protocol
        self._agreed = agreed
        self._framing = framing
        self._leading = leading
        self._wire: WebSocketWire | None = None
        self._is_answered = False

    def __repr__(self) -> str:
        return f"<Accepted {self.path} from {self.peer}>"

    async def accept(self) -> WebSocketWire:
        """Answer 101. The wire is closed when the handler returns.

        Raises:
            LinkClosed: The peer is gone.
        """
        self._answering()
        # A worker may write right behind its request; the bytes came with the head.
        stream = self._stream if isinstance(self._stream, TLSStream) else direct_stream(self._stream)
        self._wire = WebSocketWire(stream, self._framing, socket=raw_socket(self._stream), leading=self._leading)
        try:
            await stream.send(self._agreed.serialize())
        except _STREAM_ERRORS as exc:
            raise LinkClosed(1006, "the peer left during the handshake") from exc
        return self._wire

    async def reject(self, status: int, text: str) -> None:
        """Answer with an HTTP error and close. ``text`` is for people."""
        self._answering()
        await _refuse(self._stream, self._protocol.reject(status, text))

    def _answering(self) -> None:
        if self._is_answered:
            raise RuntimeError("this connection has been answered already")
        self._is_answered = True

    async def finish(self, code: int) -> None:
        """Close what the handler left open; 404 if it did not answer at all."""
        if self._wire is not None:
            await self._wire.aclose(code)
        elif not self._is_answered:
            await self.reject(404 if code == 1000 else 500, "Not found\n" if code == 1000 else "Internal error\n")


async def serve_websockets(
    listener: Listener[SocketStream],
    handler: Callable[[Accepted], Awaitable[None]],
    *,
    handshake_timeout: float = 10.0,
    max_frame: int = MAX_SENT_FRAME,
    max_message: int = MAX_MESSAGE,
    max_connections: int = 10_000,
    not_a_websocket: str = _NOT_A_WEBSOCKET,
) -> None:
    """Accept connections and run ``handler`` for each, until cancelled; or, once ``listener`` is closed, until all end.

    Any Host header, no subprotocol, no compression (P-101). A handler's exception or a bad peer ends that connection
    only.

    Args:
        listener: Owned by the caller.
        handler: Accepts or rejects; the connection lasts as long as it runs.
        handshake_timeout: Seconds for a complete request head; then the connection is closed without a word (§2.3).
        max_frame: Bytes of a frame.
        max_message: Bytes of a message.
        max_connections: Beyond it connections are answered 503.
        not_a_websocket: For people whose client asks for anything else; sent with 426.
    """
    live = 0

    async def serve(stream: SocketStream) -> None:
        nonlocal live
        live += 1
        try:
            if live > max_connections:
                await _refuse(stream, ServerProtocol(logger=_SILENT).reject(503, "Too many connections\n"))
                return
            framing = Framing(is_client=False, max_message=max_message, max_frame=max_frame)
            accepted = await _handshake(stream, framing, handshake_timeout, not_a_websocket)
            if accepted is not None:
                await _handle(handler, accepted)
        except _STREAM_ERRORS as exc:
            logger.debug("a connection ended in its handshake: %r", exc)
        finally:
            live -= 1
            with move_on_after(CLOSE_TIMEOUT, shield=True):
                await stream.aclose()

    async with create_task_group() as connections:
        is_open = True
        while is_open:
            try:
                await listener.serve(serve, connections)
            except* ClosedResourceError:
                is_open = False
            except* OSError as group:
                if group.subgroup(lambda exc: isinstance(exc, OSError) and exc.errno not in _EXHAUSTED) is not None:
                    raise
                logger.warning("cannot accept connections for the moment: %s", group.exceptions[0])
                await anyio.sleep(_PAUSE)


async def _handshake(stream: SocketStream, framing: Framing, timeout: float, not_a_websocket: str) -> Accepted | None:
    """Read and check the request; ``None`` when there was none, or it was refused."""
    protocol = ServerProtocol(logger=_SILENT)
    buffer = bytearray()
    head = -1
    with move_on_after(timeout):
        while head < 0 and len(buffer) <= MAX_HEAD and (not buffer or buffer[:1].isupper()):
            seen = max(0, len(buffer) - 3)
            buffer += await stream.receive()
            head = buffer.find(b"\r\n\r\n", seen)
        if head < 0 or head > MAX_HEAD:
            # Too much of it, or not HTTP at all (TLS, say).
            status, text = (431, "Request head too large") if len(buffer) > MAX_HEAD else (400, "Not an HTTP request")
            await _refuse(stream, protocol.reject(status, text + "\n"))
            return None
    if head < 0:
        return None  # in time nothing complete came
    # Only the head: what follows are frames, and only after our answer.
    protocol.receive_data(bytes(buffer[: head + 4]))
    requests = protocol.events_received()
    if not requests:
        # Too long a line, too many headers: it has an answer ready. Everything else is no HTTP/1.1 request to it.
        refusal = b"".join(protocol.data_to_send())
        await _refuse(stream, refusal or protocol.reject(400, "Not a valid WebSocket request\n"))
        return None
    (request,) = requests
    assert isinstance(request, Request)
    agreed = protocol.accept(request)
    if agreed.status_code == 426:
        agreed = protocol.reject(426, not_a_websocket)
        agreed.headers["Upgrade"] = "websocket"
    if agreed.status_code != 101:
        await _refuse(stream, agreed)
        return None
    return Accepted(stream, protocol, request, agreed, framing, bytes(buffer[head + 4 :]))


async def _handle(handler: Callable[[Accepted], Awaitable[None]], accepted: Accepted) -> None:
    code = 1000
    try:
        await handler(accepted)
    except LinkClosed as exc:
        logger.debug("%r ended: %s", accepted, exc)
    except Exception:
        logger.exception("the handler of %r failed", accepted)
        code = 1011
    await accepted.finish(code)


async def _refuse(stream: SocketStream, answer: Response | bytes) -> None:
    """Answer and close, so that the peer can read the answer even if it is still sending."""
    with move_on_after(CLOSE_TIMEOUT):
        await stream.send(answer if isinstance(answer, bytes) else answer.serialize())
        await stream.send_eof()
        with suppress(EndOfStream):
            while True:
                await stream.receive()


def _peer(stream: SocketStream) -> tuple[str, str]:
    """The IP address, without and with the port."""
    try:
        address = stream.extra(SocketAttribute.remote_address)
    except (OSError, ValueError, TypedAttributeLookupError):
        return "", ""
    if not isinstance(address, tuple):
        return address, address
    ip, port = str(address[0]), address[1]
    return ip, f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
