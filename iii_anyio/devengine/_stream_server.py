"""The WebSocket server of streams: subscribers join groups and are sent what changes there (§3.5).

Below: ``_wire/listen``, ``_subscriptions``. Above: ``builtins/stream``, which tells what changes and answers what a
subscriber wants to know.

Tasks, per connection: a reader, a writer, and one that carries out what the subscriber asks, in order. Reader and
writer end each other. What was asked before the end is still carried out, so that every join has its leave.

A subscriber that does not read is dropped: what waits for it is bounded, and it alone pays.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio import TASK_STATUS_IGNORED, CancelScope, create_task_group, current_time

from .._protocol.codec import to_json
from .._runtime.cleanup import last_words
from .._wire.listen import Accepted, serve_websockets
from ..errors import EncodeError, LinkClosed
from ._sockets import accepting
from ._subscriptions import Request, Subscriptions, auth_input, read_request

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskStatus

    from .._wire.websocket import WebSocketWire
    from ._origins import Origins

__all__ = ("StreamHost", "StreamServer")

logger: Final = logging.getLogger("iii_anyio.devengine.stream")

MAX_REQUEST: Final = 65_536
"""Bytes of a message of a subscriber, which is a few names; more ends the connection with 1009."""
MAX_REQUESTS: Final = 16
"""Requests of one connection that may wait to be carried out, besides what one read brings; then it is not read."""
MAX_SUBSCRIPTIONS: Final = 10_000
"""Of one connection; one more ends it with 1008."""
MAX_CONNECTIONS: Final = 1_000
"""One more is answered 503."""
MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may wait for one subscriber; at least one message, whatever its size. More ends the connection with 1008."""
LAST_WRITE: Final = 1.0
"""Seconds a subscriber that is dropped gets to take what is being written, so that the close code reaches it."""
_NO_WEBSOCKET: Final = (
    "This is the stream listener of an iii engine: it speaks WebSocket only.\n"
    'Connect to it and send {"type": "join", "data": {"subscriptionId": ..., "streamName": ..., "groupId": ...}}.\n'
)


class StreamHost(Protocol):
    """What the server asks of the worker it belongs to."""

    async def authenticate(self, request: dict[str, Any]) -> Any:
        """Return the context of a new connection. Does not fail (SR-30)."""
        ...

    async def join(self, request: Request, context: Any) -> bool:
        """Ask the join triggers; whether the subscriber may (SR-15, SR-16)."""
        ...

    async def leave(self, request: Request, context: Any) -> None:
        """Call the leave triggers, without waiting for what they do."""
        ...

    async def sync(self, request: Request) -> Any:
        """Read what a new subscription is about.

        Raises:
            Exception: It cannot be read, so that nothing is sent (SR-24).
        """
        ...

    def message(self, request: Request, event: dict[str, Any]) -> dict[str, Any]:
        """An event for this subscription, as it is sent."""
        ...


class StreamServer:
    """Subscribers, and what is sent to them.

    Args:
        host: Answers for the streams.
        origins: Web pages that may subscribe.
    """

    def __init__(self, host: StreamHost, origins: Origins) -> None:
        self._host = host
        self._origins = origins
        self._subscriptions: Subscriptions[_Connection] = Subscriptions()

    def __repr__(self) -> str:
        return f"<StreamServer {len(self._subscriptions)} subscriptions>"

    async def serve(self, sock: socket.socket, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Accept subscribers until cancelled.

        Args:
            sock: Bound; it is closed in any case.
            task_status: ``started()`` is called once connections are accepted.
        """
        async with await accepting(sock) as listener:
            task_status.started()
            await serve_websockets(
                listener,
                self._accept,
                max_frame=MAX_REQUEST,
                max_message=MAX_REQUEST,
                max_connections=MAX_CONNECTIONS,
                not_a_websocket=_NO_WEBSOCKET,
            )

    def send(self, stream_name: str, group_id: str, item_id: str | None, message: dict[str, Any]) -> None:
        """Send to whom it concerns. Never waits."""
        text: bytes | None = None
        for connection in self._subscriptions.to(stream_name, group_id, item_id):
            if text is None:
                text = to_json(message)
            connection.put(text)

    async def _accept(self, accepted: Accepted) -> None:
        if await self._origins.refuse(accepted):
            return
        if accepted.path != "/":
            await accepted.reject(404, "Not found: streams are joined at /\n")
            return
        about = auth_input(accepted.headers, accepted.path, accepted.query, accepted.address)
        context = await self._host.authenticate(about)
        wire = await accepted.accept()
        await _Connection(wire, self._host, self._subscriptions, context, accepted.address).run()


class _Connection:
    """One subscriber."""

    def __init__(
        self, wire: WebSocketWire, host: StreamHost, subscriptions: Subscriptions[_Connection], context: Any,
        address: str,
    ) -> None:  # fmt: skip
        self._wire = wire
        self._host = host
        self._all = subscriptions
        self._context = context
        self._address = address
        self._own: dict[str, Request] = {}
        self._requests: deque[Request] = deque()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._changed = anyio.Event()
        self._writing = CancelScope()
        self._is_open = True
        self._end: tuple[int, str] = (1000, "")
        """What the close frame says."""

    def put(self, text: bytes) -> None:
        """Have this sent, behind what waits; or drop the subscriber when that is too much. Never waits."""
        if not self._is_open:
            return
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        too_many = len(self._waiting) > MAX_WAITING
        if too_many or (self._waiting_bytes > MAX_WAITING_BYTES and len(self._waiting) > 1):
            logger.warning(
                "subscriber %s dropped: it does not read, and %d messages wait for it",
                self._address,
                len(self._waiting),
            )
            self._drop("the subscriber reads too slowly")
        elif len(self._waiting) == 1:
            self._wake()

    def _drop(self, reason: str) -> None:
        """End the connection from this side."""
        self._is_open = False
        self._end = (1008, reason)
        self._writing.deadline = current_time() + LAST_WRITE
        self._forget()

    def _forget(self) -> None:
        """What waits is not sent any more."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until either side ends."""
        try:
            async with create_task_group() as group:
                group.start_soon(self._carry_out, name="stream subscriber's requests")
                await self._exchange()
        except Exception:
            self._end = (1011, "internal error")
            raise
        except BaseException:
            self._end = (1001, "the engine is ending")
            raise
        finally:
            self._is_open = False
            for request in self._own.values():
                self._all.remove(self, request)
            left, self._own = list(self._own.values()), {}
            await self._wire.aclose(*self._end)
            # Once per live subscription, also when this was cancelled (SR-17).
            with last_words(1.0):
                for request in left:
                    await self._host.leave(request, self._context)

    async def _exchange(self) -> None:
        """Read and write until one of the two ends; then nothing more is read or written."""
        try:
            async with create_task_group() as group:
                group.start_soon(self._read, group.cancel_scope, name="stream subscriber's reader")
                await self._write()
                group.cancel_scope.cancel()
        finally:
            self._is_open = False
            self._forget()
        await self._wire.aclose(*self._end)

    async def _read(self, both: CancelScope) -> None:
        try:
            while True:
                # What was read is taken in without waiting: if the writer ends this task, nothing of it is lost.
                for text in await self._wire.receive():
                    self._take(text)
                while len(self._requests) >= MAX_REQUESTS:
                    await self._changed.wait()
        except LinkClosed as exc:
            logger.debug("subscriber %s left: %s", self._address, exc)
        both.cancel()

    def _take(self, text: bytes) -> None:
        if not text or text.isspace():
            return
        request = read_request(text)
        if isinstance(request, str):
            logger.debug("a message of subscriber %s is ignored: %s", self._address, request)
            return
        self._requests.append(request)
        self._wake()

    async def _write(self) -> None:
        with self._writing:
            while self._is_open:
                if not self._waiting:
                    await self._changed.wait()
                    continue
                batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
                self._wake()
                try:
                    await self._wire.send(batch)
                except LinkClosed as exc:
                    logger.debug("subscriber %s left: %s", self._address, exc)
                    return

    async def _carry_out(self) -> None:
        """Do what was asked, in order; also what was asked right before the end."""
        while self._is_open or self._requests:
            if not self._requests:
                await self._changed.wait()
                continue
            request = self._requests.popleft()
            self._wake()
            if request.is_join:
                await self._join(request)
            else:
                await self._leave(request)

    # -- requests ------------------------------------------------------------------------------------------------

    async def _join(self, request: Request) -> None:
        if not await self._host.join(request, self._context):
            self._send(request, {"type": "unauthorized"})
            return
        replaced = self._own.get(request.subscription_id)
        if replaced is not None:
            self._all.remove(self, replaced)
        elif len(self._own) >= MAX_SUBSCRIPTIONS:
            logger.warning("subscriber %s dropped: it has %d subscriptions", self._address, len(self._own))
            self._drop(f"more than {MAX_SUBSCRIPTIONS} subscriptions")
            return
        self._own[request.subscription_id] = request
        self._all.add(self, request)
        # One that asks for much at once gets it as fast as it reads.
        while self._waiting_bytes > MAX_WAITING_BYTES // 2:
            await self._changed.wait()
        if not self._is_open:
            return
        try:
            self._send(request, {"type": "sync", "data": await self._host.sync(request)})
        except Exception as exc:  # noqa: BLE001 - of a provider too; the subscription stands (SR-24)
            logger.warning("no sync for a join of stream %r, group %r: %s", request.stream_name, request.group_id, exc)

    async def _leave(self, request: Request) -> None:
        subscription = self._own.pop(request.subscription_id, None)
        if subscription is not None:
            self._all.remove(self, subscription)
        await self._host.leave(request, self._context)  # SR-17: also of a subscription nobody knows

    def _send(self, request: Request, event: dict[str, Any]) -> None:
        try:
            self.put(to_json(self._host.message(request, event)))
        except EncodeError as exc:
            logger.warning("%s of stream %r cannot be sent: %s", event["type"], request.stream_name, exc)
