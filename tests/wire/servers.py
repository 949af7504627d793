"""Servers on this machine for tests of the wire: ours, and ones that do as told."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, create_task_group
from anyio.abc import SocketAttribute, SocketStream

from iii_anyio._wire.listen import serve_websockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from iii_anyio._wire.listen import Accepted


async def echo(connection: Accepted) -> None:
    wire = await connection.accept()
    while True:
        messages = await wire.receive()
        if messages:
            await wire.send(messages)


@asynccontextmanager
async def serving(handler: Callable[[Accepted], Awaitable[None]] = echo, **options: Any) -> AsyncIterator[int]:
    """Our accepting side; yields the port."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, create_task_group() as tasks:

        async def serve() -> None:
            await serve_websockets(listener, handler, **options)

        tasks.start_soon(serve)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def raw_serving(handler: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A TCP server; the connection is closed when ``handler`` returns. Yields the port."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            with suppress(EndOfStream, BrokenResourceError, ClosedResourceError):
                await handler(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def read_head(stream: SocketStream) -> str:
    """A request or answer up to and with the empty line, and what was read behind it; as latin-1."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    return data.decode("latin-1")


def header(head: str, name: str) -> str:
    (value,) = [line.split(":", 1)[1].strip() for line in head.splitlines() if line.lower().startswith(f"{name}:")]
    return value


async def read_all(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except EndOfStream:
        return data
