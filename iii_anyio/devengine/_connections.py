"""The tasks around the router: they bring it what arrives, and carry out what it leaves behind.

Tasks, in one group that ends with ``run``:

    worker listeners     one task per WebSocket: a worker, telemetry, or the end of a data channel (``_channels``)
    in-process workers   one task per DirectWire
    timers               one task each, of those the router wishes for
    announcement         of functions that came or went, while there is one to make
    channel sweeps       in the task of ``run`` itself

Below: ``_connection`` serves one worker, ``_router`` decides. Above: ``_engine`` starts and ends ``run``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import TASK_STATUS_IGNORED, create_task_group

from .._protocol.codec import encode
from .._protocol.messages import ErrorMessage
from .._runtime.cleanup import last_words
from .._wire.direct import direct_pair
from .._wire.listen import Accepted, serve_websockets
from ..errors import ConnectError, InvocationError
from ._channels import CHANNEL_PATH, Channels
from ._connection import EngineConnection
from ._listeners import Listener, authenticate
from ._otel_socket import OTEL_PATH, serve_otel

if TYPE_CHECKING:
    from anyio.abc import SocketListener, TaskGroup, TaskStatus

    from .._protocol.engine_session import EngineSession
    from ..abc import ChannelWire, Connector, Wire
    from ._access import Grants
    from ._builtin import Timer
    from ._router import Router
    from ._telemetry import Telemetry

__all__ = ("Connections",)

logger: Final = logging.getLogger("iii_anyio.devengine")

ANNOUNCE_AFTER: Final = 0.05
"""Seconds; one event for the many changes of a connecting worker (upstream: a poll of 5 s)."""


class Connections:
    """Every connection of one engine.

    Args:
        router: Decides.
        channels: Serves the ends of data channels.
    """

    def __init__(self, router: Router, channels: Channels) -> None:
        self._router = router
        self._channels = channels
        self._grace = 5.0
        self._live: dict[EngineSession, EngineConnection] = {}
        self._group: TaskGroup | None = None
        self._is_announcing = False

    @property
    def workers(self) -> int:
        """How many workers are connected, not counting the built-in ones."""
        return sum(not session.is_in_process for session in self._live)

    async def run(
        self,
        listeners: Sequence[tuple[SocketListener, Listener]],
        grace: float,
        *,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Accept workers until cancelled.

        Args:
            listeners: Sockets and what is to be looked at in who arrives there. Closed by the caller.
            grace: Seconds a worker may take to name its namespace.
            task_status: ``started()`` is called once connections are accepted.
        """
        self._grace = grace
        async with create_task_group() as group:
            self._group = group
            for sockets, options in listeners:
                serve = partial(
                    serve_websockets,
                    sockets,
                    partial(self._accept, options),
                    handshake_timeout=options.handshake_timeout,
                )
                group.start_soon(serve, name="engine worker listener")
            self._channels.start()
            task_status.started()
            try:
                await self._channels.run_sweeps()
            finally:
                self._group = None  # nothing is started in a group that is about to end

    # -- connections ---------------------------------------------------------------------------------------------

    def connector(self, *, is_builtin: bool = False) -> Connector:
        """A way to the engine without sockets."""
        return _DirectConnector(
            lambda: self._connect_direct(is_builtin=is_builtin), self._channels, self._router.telemetry
        )

    @asynccontextmanager
    async def _connect_direct(self, *, is_builtin: bool) -> AsyncGenerator[Wire]:
        if self._group is None:
            raise ConnectError("the in-process engine", "it has ended")
        ours, theirs = direct_pair()
        session = self._router.connect(ip_address=None if is_builtin else "127.0.0.1", in_process=is_builtin)
        self._group.start_soon(self._serve, theirs, session, name="engine in-process connection")
        try:
            yield ours
        finally:
            with last_words(1.0):
                await ours.aclose()

    async def _accept(self, listener: Listener, accepted: Accepted) -> None:
        if await listener.origins.refuse(accepted):
            return
        if accepted.path.startswith(CHANNEL_PATH):
            await self._channels.serve(accepted)
            return
        if accepted.path not in ("/", OTEL_PATH):
            await accepted.reject(404, "Not found")
            return
        wire = await accepted.accept()
        access: tuple[Listener, Grants] | None = None
        if listener.is_guarded:
            try:
                access = listener, await authenticate(listener, self._router, accepted, self.routed)
            except InvocationError as refusal:
                logger.warning("connection from %s refused: %s", accepted.peer, refusal.message)
                await wire.send([encode(ErrorMessage({"code": refusal.code, "message": refusal.message}))])
                await wire.aclose(1005)
                return
        if accepted.path == OTEL_PATH:
            await serve_otel(wire, self._router.telemetry, accepted.peer)
            return
        await self._serve(wire, self._router.connect(ip_address=accepted.peer, access=access))

    async def _serve(self, wire: Wire, session: EngineSession) -> None:
        connection = EngineConnection(wire, self._router, session, grace=self._grace, routed=self.routed)
        self._live[session] = connection
        self.routed()
        try:
            await connection.run()
        finally:
            del self._live[session]

    # -- what the router leaves behind ---------------------------------------------------------------------------

    def routed(self) -> None:
        """After the router took messages: wake the writers it has work for, start the timers it wants."""
        for session in self._router.take_dirty():
            if (connection := self._live.get(session)) is not None:
                connection.wake()
        if self._group is None:
            return  # the engine is ending, and with it all that is to come
        for timer in self._router.take_timers():
            self._group.start_soon(self._run_timer, timer, name="engine timer")
        if self._router.functions_changed and not self._is_announcing:
            self._is_announcing = True
            self._group.start_soon(self._announce_functions, name="engine functions-available")

    async def _run_timer(self, timer: Timer) -> None:
        await anyio.sleep(timer.seconds)
        self._router.timer_expired(timer)
        self.routed()

    async def _announce_functions(self) -> None:
        await anyio.sleep(ANNOUNCE_AFTER)
        self._is_announcing = False
        self._router.fire_functions_available()
        self.routed()


class _DirectConnector:
    """The ways into an engine of this process: for workers, the ends of their data channels, and their telemetry."""

    def __init__(self, connect: Connector, channels: Channels, telemetry: Telemetry) -> None:
        self._connect = connect
        self._channels = channels
        self._telemetry = telemetry

    def __call__(self) -> AbstractAsyncContextManager[Wire]:
        return self._connect()

    def channel(self, channel_id: str, access_key: str, direction: str) -> AbstractAsyncContextManager[ChannelWire]:
        return self._channels.open(channel_id, access_key, direction)

    def take_telemetry(self, frame: bytes) -> None:
        self._telemetry.receive(frame, "a worker of this process")
