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
    try:
        sock.listen(128)
        listener = await SocketListener.from_socket(sock)
    except BaseException:
        sock.close()
        raise
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
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._waiting: anyio.CancelScope | None = None  # for the head of a request
        self._is_retired = False
        self._has_left = False
        self._client = stream.extra(SocketAttribute.remote_address, None)
        self._server = stream.extra(SocketAttribute.local_address, None)

    def retire(self) -> None:
        """Take no further request."""
        self._is_retired = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def run(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                await _Exchange(self, request).run(self._app)
                if not self._can_go_on():
                    break
        except h11.RemoteProtocolError as error:
            await self._refuse(error)
        if self._http.their_state in (h11.SEND_BODY, h11.ERROR) and not self._has_left:
            await self._linger()

    async def _next_request(self) -> h11.Request | None:
        """The head of the next request; None when none comes in time, or is to come."""
        if self._is_retired:
            return None
        with anyio.move_on_after(IDLE_TIMEOUT) as self._waiting:
            try:
                event = await self.next_event()
            finally:
                self._waiting = None
            return event if isinstance(event, h11.Request) else None
        return None

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """What the client sends next; ``PAUSED`` when nothing more of this request."""
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            await self.read()

    async def read(self) -> bool:
        """Read once and feed the protocol; False when the client has closed."""
        try:
            data = await self._stream.receive(65_536)
        except _GONE:
            data, self._has_left = b"", True
        self._http.receive_data(data)
        return bool(data)

    async def write(self, *events: h11.Event) -> None:
        """Send events in one write.

        Raises:
            OSError: The client has left, or does not read.
        """
        data = b"".join(self._http.send(event) or b"" for event in events)
        if not self._has_left:
            try:
                with anyio.move_on_after(WRITE_TIMEOUT):
                    await self._stream.send(data)
                    return
            except _GONE:
                pass
            self._has_left = True
        raise OSError("the client has left")

    def _can_go_on(self) -> bool:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not self._has_left:
            self._http.start_next_cycle()
            return True
        return False

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is no HTTP, unless an answer is already on its way."""
        logger.info("refused a request from %s: %s (%d)", self._client, error, error.error_status_hint)
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with suppress(OSError):
                await self.write(response_head(error.error_status_hint, [(b"content-length", b"0")]), h11.EndOfMessage())

    async def _linger(self) -> None:
        """Closing on unread data resets the connection, and the client might lose the answer: read it away first."""
        with anyio.move_on_after(LINGER), suppress(OSError, RuntimeError, *_GONE):  # RuntimeError: uvloop, if closed
            await self._stream.send_eof()
            while True:
                await self._stream.receive()

    # -- for one exchange ----------------------------------------------------------------------------------------

    @property
    def is_retired(self) -> bool:
        """Whether this is the last request."""
        return self._is_retired

    @property
    def has_left(self) -> bool:
        """Whether the client has closed, or does not read."""
        return self._has_left

    @property
    def has_too_much_ahead(self) -> bool:
        """Whether the client has sent a lot beyond its current request."""
        return len(self._http.trailing_data[0]) > MAX_HEADER_BYTES

    @property
    def awaits_continue(self) -> bool:
        """Whether the client holds its body back until told to go on."""
        return self._http.they_are_waiting_for_100_continue

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
            "client": self._client,
            "server": self._server,
        }


class _Exchange:
    """One request and its response: the application's ``receive`` and ``send``."""

    def __init__(self, connection: _Connection, request: h11.Request) -> None:
        self._connection = connection
        self._request = request
        self._start: Message | None = None
        self._has_head = False
        self._is_over = False
        self._body_is_read = False
        self._over = anyio.Event()

    async def run(self, app: ASGIApp) -> None:
        """Run the application; whatever it does, there is an answer or the connection is beyond use."""
        try:
            await app(self._connection.scope(self._request), self._receive, self._send)
        except Exception as error:
            if not (isinstance(error, OSError) and self._connection.has_left):
                logger.exception("the ASGI application failed")
        if not self._has_head and not self._connection.has_left:
            with suppress(OSError):
                await self._connection.write(response_head(500, [(b"content-length", b"0")]), h11.EndOfMessage())

    async def _receive(self) -> Message:
        while not self._body_is_read and not self._is_over:
            if self._connection.awaits_continue:
                await self._connection.write(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                event = await self._connection.next_event()
            except h11.RemoteProtocolError:  # a broken body, or none: there will be no more of it
                return {"type": "http.disconnect"}
            if isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            self._body_is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        # There is nothing to come but the end: of the response, or of the client.
        while not self._is_over and not self._connection.has_too_much_ahead and await self._connection.read():
            pass
        if not self._connection.has_left:
            await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if self._start is None:
                self._start = message  # goes out with the first piece of the body
            case "http.response.body" if self._start is not None and not self._is_over:
                await self._send_body(self._start, message.get("body", b""), is_last=not message.get("more_body", False))
            case other:
                raise RuntimeError(f"{other!r} is out of order")

    async def _send_body(self, start: Message, body: bytes, *, is_last: bool) -> None:
        events: list[h11.Event] = []
        if not self._has_head:
            headers = list(start.get("headers", ()))
            if self._connection.is_retired:
                headers.append((b"connection", b"close"))
            events.append(response_head(start["status"], headers))
            self._has_head = True
        if body and self._request.method != b"HEAD" and start["status"] not in (204, 304):
            events.append(h11.Data(data=body))
        if is_last:
            events.append(h11.EndOfMessage())
            self._is_over = True
            self._over.set()
        await self._connection.write(*events)


def response_head(status: int, headers: list[tuple[bytes, bytes]]) -> h11.Response:
    """The head of a response, with its reason and a date."""
    if not any(name == b"date" for name, _ in headers):
        headers = [*headers, (b"date", formatdate(usegmt=True).encode())]
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return h11.Response(status_code=status, headers=headers, reason=phrase.encode())
