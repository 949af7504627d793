"""Serves an ASGI application over HTTP/1.1 on a listening socket. h11 reads and writes the protocol.

Tasks: ``serve_asgi`` accepts; one task a connection, which runs its requests one after another, the application in the
same task. All of them have ended when ``serve_asgi`` returns. The client is read only when the application asks for
more (``receive``), so an application that does not ask slows its client down, and one that waits hears it leave.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote

import anyio
import h11
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup, TaskStatus

from .._runtime.cleanup import last_words
from ._sockets import accepting

if TYPE_CHECKING:
    import socket

__all__ = ("ASGIApp", "Receive", "Scope", "Send", "serve_asgi")

logger: Final = logging.getLogger("iii_anyio.devengine.http")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_HEADER_BYTES: Final = 65_536
"""Request line and headers together; more is answered 431."""
MAX_CONNECTIONS: Final = 2048
"""Open at once; one more waits in the socket's backlog."""
IDLE_TIMEOUT: Final = 30.0
"""Seconds for a connection to send the whole head of its first or next request."""
WRITE_TIMEOUT: Final = 30.0
"""Seconds for a client to take one piece of a response."""
LINGER: Final = 1.0
"""Seconds that a client which is still sending gets to notice that its request has been answered."""
ACCEPT_PAUSE: Final = 0.1
"""Seconds before the next try when the system has no descriptor left."""

_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


async def serve_asgi(
    app: ASGIApp,
    sock: socket.socket,
    *,
    shutdown_timeout: float = 5.0,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` until cancelled; then stop accepting and let running requests end.

    The application gets ``http`` scopes only, no ``lifespan``; an upgrade to WebSocket is an ordinary GET. ``raw_path``
    and ``query_string`` are the client's bytes, header names are lower-cased. Once the client has left, ``send`` raises
    ``OSError``.

    Args:
        app: The application. What it raises is logged and answered 500.
        sock: Bound, of type ``SOCK_STREAM``. It is closed in any case.
        shutdown_timeout: Seconds that running requests get after cancellation; then they are cancelled.
        task_status: ``started()`` is called once connections are accepted.
    """
    server = _Server(app, shutdown_timeout)
    listener = await accepting(sock)
    async with anyio.create_task_group() as group:
        await server.run(listener, group, task_status)


class _Server:
    """The accepting side and what it knows of its connections."""

    def __init__(self, app: ASGIApp, shutdown_timeout: float) -> None:
        self._app = app
        self._shutdown_timeout = shutdown_timeout
        self._open: dict[_Connection, anyio.CancelScope] = {}
        self._room = anyio.Semaphore(MAX_CONNECTIONS)
        self._one_closed = anyio.Event()

    async def run(self, listener: SocketListener, group: TaskGroup, task_status: TaskStatus[None]) -> None:
        try:
            async with listener:
                task_status.started()
                await self._accept(listener, group)
        finally:
            for connection in self._open:
                connection.retire()
            with last_words(self._shutdown_timeout):
                while self._open:
                    self._one_closed = anyio.Event()
                    await self._one_closed.wait()
            for scope in self._open.values():
                scope.cancel()

    async def _accept(self, listener: SocketListener, group: TaskGroup) -> None:
        while True:
            await self._room.acquire()
            try:
                stream = await listener.accept()
            except OSError as error:
                self._room.release()
                logger.warning("no connection accepted: %s", error)
                await anyio.sleep(ACCEPT_PAUSE)
            except BaseException:
                self._room.release()
                raise
            else:
                connection = _Connection(self._app, stream)
                # Cancelling the server lets what is running end first; this scope is what cuts it off.
                scope = self._open[connection] = anyio.CancelScope(shield=True)
                group.start_soon(self._run, connection, scope, name="http connection")

    async def _run(self, connection: _Connection, scope: anyio.CancelScope) -> None:
        """One connection, from accept to close; whatever it raises concerns nobody else."""
        try:
            with scope:
                try:
                    await connection.run()
                finally:
                    with last_words(1):
                        await connection.aclose()
        except Exception:
            logger.exception("an HTTP connection failed")
        finally:
            del self._open[connection]
            self._room.release()
            self._one_closed.set()


class _Connection:
    """One client: its requests, one after another."""

    def __init__(self, app: ASGIApp, stream: SocketStream) -> None:
        self._app = app
        self._stream = stream
        self._waiting: anyio.CancelScope | None = None  # for the head of a request
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self.is_retired = False
        """The request that runs is the last one."""
        self.has_left = False
        """The client has closed, or does not read."""

    def retire(self) -> None:
        """Take no further request."""
        self.is_retired = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def run(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                await _Exchange(self, request).run(self._app)
                if self.has_left or self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
                    break
                self.http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self.refuse(error)
        if self.http.their_state in (h11.SEND_BODY, h11.ERROR) and not self.has_left:
            await self._linger()

    async def _next_request(self) -> h11.Request | None:
        """The head of the next request; None when none comes in time, or is to come."""
        if self.is_retired:
            return None
        with anyio.move_on_after(IDLE_TIMEOUT) as self._waiting:
            try:
                event = await self.next_event()
            finally:
                self._waiting = None
            if isinstance(event, h11.Request):
                if event.http_version not in (b"1.0", b"1.1"):
                    raise h11.RemoteProtocolError("unsupported HTTP version", error_status_hint=505)
                names = {name for name, _ in event.headers}
                if {b"content-length", b"transfer-encoding"} <= names:
                    # A proxy in front may believe the other one, and find a second request in the body (RFC 9112 §6.1).
                    raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding", error_status_hint=400)
                return event
        return None

    async def next_event(self) -> type[h11.PAUSED | h11.NEED_DATA] | h11.Event:
        """What the client sends next; never ``NEED_DATA``.

        Raises:
            h11.RemoteProtocolError: It is no HTTP, too large a head, or the end in the middle of a request.
        """
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            await self.read()

    def skip_body(self) -> bool:
        """Pass over the rest of a body that nobody reads, as far as it has come; whether that was all of it."""
        with suppress(h11.RemoteProtocolError):
            while self.http.their_state is h11.SEND_BODY and isinstance(self.http.next_event(), h11.Data):
                pass
        return self.http.their_state is h11.DONE

    async def read(self) -> bool:
        """Read once and feed the protocol; False when the client has closed."""
        try:
            data = await self._stream.receive(65_536)
        except _GONE:
            data, self.has_left = b"", True
        self.http.receive_data(data)
        return not self.has_left

    async def write(self, *events: h11.Event) -> None:
        """Send events in one write.

        Raises:
            OSError: The client has left, or does not read.
        """
        data = b"".join(self.http.send(event) or b"" for event in events)
        if not self.has_left:
            with anyio.move_on_after(WRITE_TIMEOUT), suppress(*_GONE):
                await self._stream.send(data)
                return
            self.has_left = True
        raise OSError("the client has left")

    async def refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is no HTTP, unless an answer is already on its way."""
        logger.info("refused a request: %s (%d)", error, error.error_status_hint)
        if self.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            with suppress(OSError):
                await self.write(_head(error.error_status_hint, headers), h11.EndOfMessage())

    async def _linger(self) -> None:
        """Closing on unread data resets the connection, and the client might lose the answer: read it away first."""
        with anyio.move_on_after(LINGER), suppress(OSError, RuntimeError, *_GONE):  # RuntimeError: uvloop, if closed
            await self._stream.send_eof()
            while True:
                await self._stream.receive()

    def scope(self, request: h11.Request) -> Scope:
        """The request as ASGI describes it."""
        raw_path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._stream.extra(SocketAttribute.remote_address, None),
            "server": self._stream.extra(SocketAttribute.local_address, None),
        }


class _Exchange:
    """One request and its response: the application's ``receive`` and ``send``."""

    def __init__(self, connection: _Connection, request: h11.Request) -> None:
        self._connection = connection
        self._request = request
        self._start: Message | None = None
        self._fault: h11.RemoteProtocolError | None = None  # in the request's body
        self._has_head = False
        self._has_body = False
        self._over = anyio.Event()

    async def run(self, app: ASGIApp) -> None:
        """Run the application; whatever it does, there is an answer or the connection is beyond use."""
        connection = self._connection
        try:
            await app(connection.scope(self._request), self._receive, self._send)
        except Exception as error:
            if not (isinstance(error, OSError) and connection.has_left):
                logger.exception("the ASGI application failed")
        if self._has_head or connection.has_left:
            return
        if self._fault is not None:
            await connection.refuse(self._fault)
        else:
            with suppress(OSError):
                await connection.write(_head(500, [(b"content-length", b"0")]), h11.EndOfMessage())

    async def _receive(self) -> Message:
        connection = self._connection
        if self._has_body or self._over.is_set() or self._fault is not None:
            await self._wait_end()
            return {"type": "http.disconnect"}
        try:
            if connection.http.they_are_waiting_for_100_continue:
                await connection.write(h11.InformationalResponse(status_code=100, headers=[]))
            event = await connection.next_event()
        except h11.RemoteProtocolError as error:
            self._fault = error
            return {"type": "http.disconnect"}
        except OSError:
            return {"type": "http.disconnect"}
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        self._has_body = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _wait_end(self) -> None:
        """Wait until the response is over, or the client has left."""
        connection = self._connection
        while not self._over.is_set() and self._fault is None and await connection.read():
            # What a client sends ahead is kept for its next requests, to a limit.
            if len(connection.http.trailing_data[0]) > MAX_HEADER_BYTES:
                await self._over.wait()

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if self._start is None:
                self._start = message  # goes out with the first piece of the body
            case "http.response.body" if self._start is not None and not self._over.is_set():
                is_last = not message.get("more_body", False)
                await self._send_body(self._start, message.get("body", b""), is_last=is_last)
            case other:
                raise RuntimeError(f"{other!r} is out of order")

    async def _send_body(self, start: Message, body: bytes, *, is_last: bool) -> None:
        events: list[h11.Event] = []
        if not self._has_head:
            headers = list(start.get("headers", ()))
            if self._connection.is_retired or (is_last and not self._has_body and not self._connection.skip_body()):
                headers.append((b"connection", b"close"))
            events.append(_head(start["status"], headers))
            self._has_head = True
        if body and self._request.method != b"HEAD" and start["status"] not in (204, 304):
            events.append(h11.Data(data=body))
        if is_last:
            events.append(h11.EndOfMessage())
            self._over.set()
        await self._connection.write(*events)


def _head(status: int, headers: list[tuple[bytes, bytes]]) -> h11.Response:
    """The head of a response, with its reason and a date."""
    if not any(name == b"date" for name, _ in headers):
        headers = [*headers, (b"date", formatdate(usegmt=True).encode())]
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    return h11.Response(status_code=status, headers=headers, reason=reason.encode())
