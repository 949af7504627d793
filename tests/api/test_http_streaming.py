"""``http()``: handlers of ``http`` triggers that stream (A.15), and the fire-and-forget writes of channels (A.14)."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio import fail_after

from iii_anyio import (
    ApiResponse,
    EncodeError,
    InitOptions,
    ShutdownError,
    StreamRequest,
    StreamResponse,
    Worker,
    WorkerStateError,
    open_worker,
)
from iii_anyio.channel import ChannelWriter, StreamChannelRef
from iii_anyio.devengine import open_engine
from iii_anyio.helpers import create_channel_async
from iii_anyio.http import HttpResponse, http
from iii_anyio.internal import InternalHttpRequest

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(callback: Any, method: str = "POST") -> AsyncGenerator[tuple[httpx.AsyncClient, Worker]]:
    """A callback behind ``/it``, and a client of it."""
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=0) as engine,
            open_worker(connector=engine.connector()) as iii,
            httpx.AsyncClient(base_url=engine.http_url, timeout=30) as client,
        ):
            iii.register_function("it", http(callback))
            iii.register_trigger("http", "it", {"api_path": "it/:id", "http_method": method})
            await iii.wait_ready()
            yield client, iii


async def test_a_callback_chooses_the_head_and_writes_the_body() -> None:
    """H-58, H-59."""

    async def callback(request: StreamRequest, response: StreamResponse) -> None:
        assert (request.method, request.path_params, request.query_params) == ("POST", {"id": "7"}, {"q": "1"})
        assert request.body == {"a": 1}
        await response.status(202)
        await response.headers({"content-type": "text/plain"})
        await response.write(b"one ")
        await response.writer.write(b"two")
        await response.aclose()

    async with serving(callback) as (client, _):
        answer = await client.post("/it/7?q=1", json={"a": 1})
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (202, "text/plain", "one two")


async def test_a_callback_that_returns_a_response_sends_it_whole() -> None:
    """H-62."""

    async def callback(_request: StreamRequest, _response: StreamResponse) -> HttpResponse[Any]:
        return ApiResponse(status_code=418, body={"tea": True}, headers={"x-pot": "1"})

    async with serving(callback) as (client, _):
        answer = await client.post("/it/7")
    assert (answer.status_code, answer.json(), answer.headers["x-pot"]) == (418, {"tea": True}, "1")


async def test_an_upload_is_read_while_it_arrives() -> None:
    seen: list[int] = []

    async def callback(request: StreamRequest, response: StreamResponse) -> None:
        async for chunk in request.request_body:
            seen.append(len(chunk))  # noqa: PERF401 - as a handler would
        async with response:
            await response.headers({"content-type": "text/plain"})
            await response.write(str(sum(seen)).encode())

    async def upload() -> AsyncGenerator[bytes]:
        for _ in range(40):
            yield b"x" * 50_000

    async with serving(callback) as (client, _):
        answer = await client.post("/it/7", content=upload(), headers={"content-type": "application/octet-stream"})
    assert answer.text == "2000000"
    assert len(seen) > 1


async def test_events_reach_the_client_one_by_one() -> None:
    """Server-sent events: each is there before the next is written."""
    go_on = [anyio.Event(), anyio.Event()]

    async def callback(_request: StreamRequest, response: StreamResponse) -> None:
        async with response:
            await response.headers({"content-type": "text/event-stream"})
            for number, event in enumerate(go_on):
                await response.write(b"data: %d\n\n" % number)
                await event.wait()

    async with serving(callback, "GET") as (client, _), client.stream("GET", "/it/7") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.aiter_lines()
        for number, event in enumerate(go_on):
            assert await anext(lines) == f"data: {number}"
            assert await anext(lines) == ""
            event.set()
        assert [line async for line in lines] == []


async def test_upstreams_fire_and_forget_style_keeps_its_order() -> None:
    """``response.stream.write`` and ``close`` without an await (A.15), behind what was awaited."""

    async def callback(_request: StreamRequest, response: StreamResponse) -> None:
        await response.status(201)
        await response.headers({"content-type": "text/plain"})
        for number in range(200):
            response.stream.write(b"%d," % number)
        response.stream.end(b"end")
        response.close()

    async with serving(callback) as (client, _):
        answer = await client.post("/it/7")
    assert (answer.status_code, answer.text) == (201, "".join(f"{number}," for number in range(200)) + "end")


async def test_a_callback_without_channels_says_what_is_missing() -> None:
    """A.15: upstream raises KeyError."""

    async def callback(_request: StreamRequest, _response: StreamResponse) -> None:
        raise AssertionError

    handler = http(callback)
    assert handler.__name__ == "callback"
    with pytest.raises(KeyError, match="response"):
        await handler({"body": 1})


@pytest.mark.parametrize("is_dataclass", [True, False])
async def test_a_request_object_is_taken_apart(is_dataclass: bool) -> None:
    """A.15: ``InternalHttpRequest``, or what looks like one."""
    seen: list[object] = []
    writer: Any = object()
    reader: Any = object()

    async def callback(request: StreamRequest, response: StreamResponse) -> None:
        seen.extend([request.body, request.request_body, response.writer])

    request = InternalHttpRequest({}, {}, "body", {}, "GET", writer, reader)
    await http(callback)(request if is_dataclass else type("Request", (), vars(request))())
    assert seen == ["body", reader, writer]


# -- without waiting, outside HTTP -----------------------------------------------------------------------------------


@asynccontextmanager
async def a_worker() -> AsyncGenerator[Worker]:
    with fail_after(20):
        async with open_engine(port=None) as engine, open_worker(connector=engine.connector()) as iii:
            await iii.wait_ready()
            yield iii


async def test_posted_items_come_in_order_before_those_that_are_awaited() -> None:
    async with a_worker() as iii:
        channel = await create_channel_async(iii)
        texts: list[str] = []
        chunks: list[bytes] = []
        channel.reader.on_message(texts.append)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                chunks.extend([chunk async for chunk in channel.reader.stream])

            group.start_soon(read)
            channel.writer.send_message("hello")
            channel.writer.stream.write(b"1")
            channel.writer.stream.write(bytearray(b"2"))
            await channel.writer.write(b"3")
            channel.writer.close()
    assert (texts, chunks) == (["hello"], [b"1", b"2", b"3"])


async def test_a_thread_may_post() -> None:
    async with a_worker() as iii:
        channel = await create_channel_async(iii)

        def produce() -> None:
            for number in range(10):
                channel.writer.stream.write(b"%d" % number)
            channel.writer.stream.end()

        await anyio.to_thread.run_sync(produce)
        assert await channel.reader.read_all() == b"0123456789"


async def test_what_was_posted_is_written_before_the_worker_ends() -> None:
    """The drain waits for it as for a handler."""
    with fail_after(20):
        async with open_engine(port=None) as engine, open_worker(connector=engine.connector()) as reader:
            async with open_worker(connector=engine.connector()) as iii:
                channel = await create_channel_async(iii)
                end = type(channel.reader)("", channel.reader_ref, open_channel=reader.open_channel)
                channel.writer.stream.write(b"x" * 3_000_000)
                channel.writer.close()
                size = 0
                async with anyio.create_task_group() as group:

                    async def read() -> None:
                        nonlocal size
                        size = len(await end.read_all())

                    group.start_soon(read)
                    await iii.shutdown_async()
            assert size == 3_000_000


async def test_an_end_without_a_worker_cannot_post() -> None:
    writer = ChannelWriter("ws://127.0.0.1:1", StreamChannelRef(channel_id="c", access_key="k", direction="write"))
    with pytest.raises(WorkerStateError, match="await 'write"):
        writer.stream.write(b"x")
    writer.close()  # never used: nothing is to be sent


async def test_posting_after_the_end_of_the_worker_is_an_error() -> None:
    async with a_worker() as iii:
        channel = await create_channel_async(iii)
    with pytest.raises(ShutdownError):
        channel.writer.stream.write(b"x")


async def test_too_much_that_waits_is_refused() -> None:
    async with a_worker() as iii:
        channel = await create_channel_async(iii)
        piece = b"x" * 40_000_000
        channel.writer.stream.write(piece)
        with pytest.raises(BufferError, match="slow"):
            channel.writer.stream.write(piece)
        assert await channel.reader.receive()
        await channel.reader.close_async()
        with pytest.raises(EncodeError):
            channel.writer.send_message("\ud800")


async def test_a_reader_that_leaves_shows_in_the_log_and_in_the_next_use(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "iii_anyio")
    async with a_worker() as iii:
        channel = await create_channel_async(iii, 1)
        channel.writer.stream.write(b"x" * 10_000_000)
        assert await channel.reader.receive()
        await channel.reader.close_async()
        with pytest.raises(anyio.BrokenResourceError):
            await channel.writer.write(b"y")
    assert "writes were lost" in caplog.text


async def test_who_waits_behind_posted_items_goes_on_when_their_task_is_cancelled() -> None:
    """The worker ends while its reader does not read: nobody may wait for ever."""
    with fail_after(20):
        async with open_engine(port=None) as engine, open_worker(connector=engine.connector()) as reader:
            ended = anyio.Event()
            async with anyio.create_task_group() as group:
                options = InitOptions(shutdown_timeout=0)
                async with open_worker(connector=engine.connector(), options=options) as iii:
                    channel = await create_channel_async(iii, 1)
                    end = type(channel.reader)("", channel.reader_ref, open_channel=reader.open_channel)
                    channel.writer.stream.write(bytes(30_000_000))
                    assert await end.receive()

                    async def follow() -> None:
                        with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError, ShutdownError)):
                            await channel.writer.write(b"behind")
                        ended.set()

                    group.start_soon(follow)
                    await anyio.wait_all_tasks_blocked()
                await end.close_async()
                await ended.wait()
