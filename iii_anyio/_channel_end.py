"""One end of a data channel: where it is, its connection, and its way into payloads. ``channel`` has the two kinds.

Below: whoever opens channel wires, over a socket or in process (``abc.OpenChannel``). No tasks: an end is connected by
its first use, and reads and writes only while somebody awaits it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias, cast
from urllib.parse import quote

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, to_thread
from anyio.lowlevel import current_token
from pydantic_core import SchemaSerializer, core_schema

from ._posting import Posting
from .errors import ConnectError, IIIError, LinkClosed, WorkerStateError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

    from ._refs import StreamChannelRef
    from .abc import Background, ChannelWire, OpenChannel

__all__ = ("ChannelClosedError", "ChannelEnd", "build_channel_url", "resolve_headers", "socket_channels")

Direction: TypeAlias = Literal["read", "write"]


class ChannelClosedError(IIIError, BrokenResourceError):
    """An end of a channel broke or cannot be had. Also anyio's ``BrokenResourceError``.

    Attributes:
        channel_id: Which channel.
        direction: Which end, ``read`` or ``write``.
        code: WebSocket close code, 1006 for a connection that was cut; 404 for an end that the engine does not have.
        reason: What happened.
    """

    def __init__(self, channel_id: str, direction: str, code: int, reason: str = "") -> None:
        super().__init__(channel_id, direction, code, reason)
        self.channel_id = channel_id
        self.direction = direction
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"the {self.direction} end of channel {self.channel_id} is closed with code {self.code}{reason}"


# -- where -----------------------------------------------------------------------------------------------------------


def build_channel_url(engine_ws_base: str, channel_id: str, access_key: str, direction: str) -> str:
    """The URL of one end of a channel: path and query of the engine's address are kept (P-03, A.14)."""
    base, _, query = engine_ws_base.partition("?")
    own = f"key={quote(access_key)}&dir={direction}"
    return f"{base.rstrip('/')}/ws/channels/{channel_id}?{f'{query}&' if query else ''}{own}"


def resolve_headers(explicit: dict[str, str] | None = None) -> dict[str, str] | None:
    """The headers with ``Authorization: Bearer $III_TOKEN`` added, unless they have one or there is no token (P-02).

    Returns the same object when nothing is added.
    """
    token = os.environ.get("III_TOKEN", "").strip()
    if not token or any(name.lower() == "authorization" for name in explicit or ()):
        return explicit
    return {**(explicit or {}), "Authorization": f"Bearer {token}"}


def socket_channels(address: str, headers: Mapping[str, str] | None = None, **options: Any) -> OpenChannel:
    """Open channels by WebSockets to the engine at ``address``; ``options`` are those of ``websocket_connector``."""

    def open_channel(channel_id: str, access_key: str, direction: str) -> AbstractAsyncContextManager[ChannelWire]:
        from ._wire.connect import websocket_connector

        url = build_channel_url(address, channel_id, access_key, direction)
        return websocket_connector(url, headers=headers, **options)()

    return open_channel


# -- the ends --------------------------------------------------------------------------------------------------------


def _reference(end: ChannelEnd) -> dict[str, str]:
    return end.ref.model_dump()


class ChannelEnd:
    """What both ends are: a reference, and a connection from the first use on.

    States: unused → connecting → open → over (the stream has ended or broken) and, from any, closed (by us).
    """

    # How pydantic, and with it the codec, write an end into a payload: as the plain reference (P-56).
    __pydantic_serializer__: SchemaSerializer = SchemaSerializer(
        core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(_reference))
    )
    _direction: Direction

    def __init__(
        self,
        engine_ws_base: str,
        ref: StreamChannelRef,
        headers: Mapping[str, str] | None = None,
        *,
        open_channel: OpenChannel | None = None,
        background: Background | None = None,
    ) -> None:
        """Connect nothing yet.

        Args:
            engine_ws_base: The engine's address, with path and query.
            ref: Either reference of the channel.
            headers: Of the handshake; ``resolve_headers`` adds the token.
            open_channel: Another way to connect; then address and headers are not used.
            background: The worker that carries out what is written without waiting.
        """
        self.ref = ref
        self._posting = Posting(background, f"the {self._direction} end of channel {ref.channel_id}")
        self._open_channel = open_channel or socket_channels(engine_ws_base, headers)
        self._state: Literal["unused", "connecting", "open", "over", "closed"] = "unused"
        self._context: AbstractAsyncContextManager[ChannelWire] | None = None
        self._wire: ChannelWire | None = None
        self._loop: object = None
        self._lock: anyio.Lock | None = None
        self._error: ChannelClosedError | None = None
        self._is_kept = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ref.channel_id} {self._state}>"

    @property
    def channel_id(self) -> str:
        """Of the reference."""
        return self.ref.channel_id

    @property
    def access_key(self) -> str:
        """Of the reference: opens either end."""
        return self.ref.access_key

    @property
    def direction(self) -> Literal["read", "write"]:
        """Of the reference."""
        return self.ref.direction

    @property
    def is_connected(self) -> bool:
        """Whether this end holds a connection, or is about to."""
        return self._context is not None or self._posting.is_pending

    @property
    def is_kept(self) -> bool:
        """Whether ``keep_open`` was called."""
        return self._is_kept

    def keep_open(self) -> Self:
        """Have the end outlive the invocation that received it; whoever asks for this closes it. Returns itself."""
        self._is_kept = True
        return self

    async def _connected(self) -> ChannelWire:
        """The open wire; connects on first use, holding ``_lock``."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._wire is not None and self._state == "open":
            return self._wire
        if self._state == "closed":
            raise ClosedResourceError
        self._state = "connecting"
        try:
            if "iii_anyio._wire.connect" in sys.modules:
                context = self._new_context()
            else:  # the first import of httpx takes some tenths of a second
                context = await to_thread.run_sync(self._new_context)
            wire = await context.__aenter__()
        except ConnectError as exc:
            self._state = "unused"
            if exc.reason.startswith("the peer answered 404"):
                raise self._fail(404, "wrong id or key, or both its ends are gone, or nobody took it in time") from exc
            raise
        except BaseException:
            self._state = "unused"
            raise
        if cast("str", self._state) == "closed":  # meanwhile
            await self._release(context, wire, is_orderly=False)
            raise ClosedResourceError
        self._context, self._wire, self._state = context, wire, "open"
        return wire

    def _new_context(self) -> AbstractAsyncContextManager[ChannelWire]:
        return self._open_channel(self.ref.channel_id, self.ref.access_key, self._direction)

    def _here(self) -> anyio.Lock:
        """The lock of this end; made by its first use, which binds it to the running loop."""
        loop = current_token().native_token
        if self._lock is None:
            self._loop, self._lock = loop, anyio.Lock(fast_acquire=True)
        elif loop is not self._loop:
            raise WorkerStateError("a channel's end belongs to the event loop that used it first")
        return self._lock

    def _fail(self, code: int, reason: str) -> ChannelClosedError:
        """The end is beyond use; every later use raises this again."""
        self._error = ChannelClosedError(self.ref.channel_id, self._direction, code, reason)
        if self._state != "closed":
            self._state = "over"
        return self._error

    async def _lost(self, exc: LinkClosed) -> NoReturn:
        """The connection ended under us; release it and say so."""
        if self._state == "closed":
            raise ClosedResourceError from exc
        error = self._fail(exc.code, exc.reason)
        await self._give_back(is_orderly=False)
        raise error from exc

    async def _give_back(self, *, is_orderly: bool) -> None:
        """Release the connection, if there is one."""
        context, wire = self._context, self._wire
        self._context = self._wire = None
        if context is not None and wire is not None:
            await self._release(context, wire, is_orderly=is_orderly)

    @staticmethod
    async def _release(
        context: AbstractAsyncContextManager[ChannelWire], wire: ChannelWire, *, is_orderly: bool
    ) -> None:
        # The wire's own limits of a second bound this.
        with CancelScope(shield=True):
            try:
                if is_orderly:
                    await wire.aclose(1000)
                else:
                    await wire.abort()
            finally:
                await context.__aexit__(None, None, None)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(_reference)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "object",
            "title": cls.__name__,
            "properties": {
                "channel_id": {"type": "string"},
                "access_key": {"type": "string"},
                "direction": {"const": cls._direction},
            },
            "required": ["channel_id", "access_key", "direction"],
        }
