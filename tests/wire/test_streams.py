"""Direct streams over a real socket: what anyio's streams promise, with less in between."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, create_task_group, fail_after
from anyio.abc import SocketAttribute

from iii_anyio._wire.streams import MAX_UNREAD, SocketStream, TransportStream, direct_stream

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def joined() -> AsyncGenerator[tuple[Any, Any]]:
    """Our end and the peer's, which is one of anyio's own."""
    with fail_after(20):
        listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
        port = listener.extra(SocketAttribute.local_port)
        theirs: list[Any] = []
        accepted, over = anyio.Event(), anyio.Event()

        async def keep(stream: Any) -> None:
            theirs.append(stream)
            accepted.set()
            await over.wait()

        async with listener, create_task_group() as group:
            group.start_soon(listener.serve, keep)
            stream = await anyio.connect_tcp("127.0.0.1", port)
            await accepted.wait()
            ours = direct_stream(stream)
            try:
                yield ours, theirs[0]
            finally:
                over.set()
                await ours.aclose()
                await theirs[0].aclose()
                group.cancel_scope.cancel()


async def test_a_plain_stream_is_taken_over() -> None:
    async with joined() as (ours, _):
        assert isinstance(ours, TransportStream | SocketStream)


async def test_bytes_pass_both_ways() -> None:
    async with joined() as (ours, theirs):
        await ours.send(b"ping")
        assert await theirs.receive() == b"ping"
        await theirs.send(b"pong")
        assert await ours.receive() == b"pong"
        await theirs.send(b"abcdef")
        assert await ours.receive(4) == b"abcd"
        assert await ours.receive(4) == b"ef"


async def test_what_came_before_it_was_taken_over_is_not_lost() -> None:
    with fail_after(20):
        listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
        async with listener, create_task_group() as group:

            async def greet(stream: Any) -> None:
                async with stream:
                    await stream.send(b"hello, here is more than one read")

            group.start_soon(listener.serve, greet)
            async with await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port)) as stream:
                assert await stream.receive(5) == b"hello"
                ours = direct_stream(stream)
                rest = b""
                with pytest.raises(EndOfStream):
                    while True:
                        rest += await ours.receive(8)
                assert rest == b", here is more than one read"
                await ours.aclose()
            group.cancel_scope.cancel()


async def test_a_large_write_waits_for_a_reader_and_arrives_whole() -> None:
    data = bytes(range(256)) * 65_536
    async with joined() as (ours, theirs):
        received = bytearray()

        async def read() -> None:
            while len(received) < len(data):
                received.extend(await theirs.receive(1_000_000))

        async with create_task_group() as group:
            group.start_soon(read)
            await ours.send(memoryview(data))
        assert received == data


async def test_a_reader_that_does_not_read_slows_the_writer_down() -> None:
    async with joined() as (ours, theirs):
        sent = 0

        async def write() -> None:
            nonlocal sent
            while True:
                await theirs.send(bytes(65_536))
                sent += 65_536

        async with create_task_group() as group:
            group.start_soon(write)
            assert await ours.receive(1)
            with anyio.move_on_after(0.3):
                await anyio.sleep_forever()  # the writer fills what there is to fill
            assert sent < MAX_UNREAD + 32 * 1024 * 1024
            taken = sent
            for _ in range(2_000):
                await ours.receive(65_536)
                if sent > taken + 1_000_000:
                    break
            assert sent > taken
            group.cancel_scope.cancel()


async def test_the_peers_end_is_the_end_of_the_stream_and_writing_goes_on() -> None:
    async with joined() as (ours, theirs):
        await theirs.send(b"last")
        await theirs.send_eof()
        assert await ours.receive() == b"last"
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await ours.receive()
        await ours.send(b"still here")
        assert await theirs.receive() == b"still here"


async def test_a_reset_is_an_error_of_both_directions() -> None:
    async with joined() as (ours, theirs):
        raw = theirs.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await theirs.aclose()
        with pytest.raises((BrokenResourceError, ClosedResourceError)):
            await ours.receive()
        with pytest.raises((BrokenResourceError, ClosedResourceError)):
            while True:
                await ours.send(bytes(65_536))


@pytest.mark.parametrize("direction", ["receive", "send"])
async def test_closing_ends_who_waits(direction: str) -> None:
    async with joined() as (ours, _):
        is_ended = anyio.Event()

        async def wait() -> None:
            with pytest.raises((ClosedResourceError, BrokenResourceError)):
                while True:
                    await (ours.receive() if direction == "receive" else ours.send(bytes(1_000_000)))
            is_ended.set()

        async with create_task_group() as group:
            group.start_soon(wait)
            with anyio.move_on_after(0.1):
                await is_ended.wait()
            await ours.aclose()
            await is_ended.wait()


async def test_a_cancelled_read_loses_nothing() -> None:
    async with joined() as (ours, theirs):
        with anyio.move_on_after(0.05) as scope:
            await ours.receive()
        assert scope.cancelled_caught
        await theirs.send(b"later")
        assert await ours.receive() == b"later"


async def test_a_small_write_needs_no_wait() -> None:
    async with joined() as (ours, theirs):
        assert ours.write_now(b"now") == 3
        assert await theirs.receive() == b"now"


async def test_a_write_that_cannot_be_taken_whole_says_how_much_was() -> None:
    async with joined() as (ours, theirs):
        total = 0
        while (written := ours.write_now(bytes(65_536))) == 65_536:
            total += written
            assert total < 256 * 1024 * 1024
        total += written
        received = 0
        if isinstance(ours, TransportStream):
            assert written == 0  # it takes all or nothing
        while received < total:
            received += len(await theirs.receive(1_000_000))
        assert received == total


async def test_writing_without_a_wait_to_what_is_closed_writes_nothing() -> None:
    async with joined() as (ours, _):
        await ours.aclose()
        assert ours.write_now(b"x") == 0
