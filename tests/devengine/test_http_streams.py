"""The ``http`` trigger's channels, end to end: raw request bodies and streamed responses."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio import create_task_group, fail_after
from anyio.lowlevel import checkpoint

from iii_anyio import ApiRequest, InitOptions, Worker, open_worker
from iii_anyio.channel import ChannelClosedError, ChannelWriter
from iii_anyio.devengine import HttpOptions, open_engine
from tests.timing import pass_time

pytestmark = pytest.mark.anyio


class Site:
    """A worker whose functions are routes, and a client."""

    def __init__(self, iii: Worker, client: httpx.AsyncClient) -> None:
        self.iii = iii
        self.client = client

    async def route(self, handler: Any, name: str = "h") -> None:
        self.iii.register_function(name, handler)
        for method in ("GET", "POST"):
            self.iii.register_trigger("http", name, {"api_path": name, "http_method": method})
        await self.iii.wait_ready()


@asynccontextmanager
async def site(kind: str = "socket", **options: Any) -> AsyncGenerator[Site]:
    with fail_after(20):
        async with open_engine(port=0, http_port=0, http=HttpOptions(**options)) as engine:
            connector = engine.connector() if kind == "direct" else None
            worker = open_worker(engine.url, InitOptions(handle_signals=False), connector=connector)
            async with (
                worker as iii,
                httpx.AsyncClient(base_url=engine.http_url, trust_env=False, timeout=None) as client,
            ):
                yield Site(iii, client)


both = pytest.mark.parametrize("kind", ["direct", "socket"])
held = pytest.mark.parametrize("anyio_backend", ["held"], indirect=True)


async def status(writer: ChannelWriter, code: Any) -> None:
    await writer.send_message_async(json.dumps({"type": "set_status", "status_code": code}))


async def headers(writer: ChannelWriter, values: Any) -> None:
    await writer.send_message_async(json.dumps({"type": "set_headers", "headers": values}))


# -- request_body ----------------------------------------------------------------------------------------------------


@both
async def test_request_body_carries_the_raw_bytes_whatever_the_body_is(kind: str) -> None:
    """H-25, H-26."""
    async with site(kind) as place:

        async def echo(request: Any) -> Any:
            raw = await request["request_body"].read_all()
            return {"body": [raw.decode(), request["body"]]}

        await place.route(echo)
        text = '{"b": 1,   "a": [2]}'
        answer = await place.client.post("/h", content=text, headers={"content-type": "application/json"})
        assert answer.json() == [text, {"a": [2], "b": 1}]
        answer = await place.client.post("/h", data={"a": "1 2"})
        assert answer.json() == ["a=1+2", None]
        answer = await place.client.post("/h", files={"report": ("a.txt", b"text", "text/plain")}, data={"n": "1"})
        raw, body = answer.json()
        assert body is None
        assert 'name="report"; filename="a.txt"' in raw
        assert 'name="n"' in raw
        answer = await place.client.post("/h")
        assert answer.json() == ["", None]


@both
async def test_a_large_body_streams_through_while_it_is_read(kind: str) -> None:
    """H-17, H-26: the handler begins before the client has ended."""
    async with site(kind) as place:
        begun = anyio.Event()

        async def count(request: ApiRequest[Any]) -> Any:
            assert request.model_extra is not None
            size = 0
            async for chunk in request.model_extra["request_body"]:
                begun.set()
                size += len(chunk)
            return {"body": size}

        await place.route(count)

        async def upload() -> AsyncGenerator[bytes]:
            yield b"first"
            await begun.wait()
            for _ in range(300):
                yield bytes(65_536)

        assert (await place.client.post("/h", content=upload())).json() == 300 * 65_536 + 5


async def test_a_handler_that_does_not_read_the_body_still_answers() -> None:
    async with site() as place:
        await place.route(lambda _request: {"status_code": 202})
        answer = await place.client.post("/h", content=bytes(1_000_000))
        assert answer.status_code == 202


# -- response --------------------------------------------------------------------------------------------------------


@both
async def test_control_messages_make_the_head_and_binary_items_the_body(kind: str) -> None:
    """H-58, H-59, H-60, P-52."""
    async with site(kind) as place:

        async def stream(request: Any) -> None:
            writer = request["response"]
            await status(writer, 202)
            await status(writer, 999)
            await status(writer, "x")
            await headers(writer, {"content-type": "text/event-stream", "X-A": "1", "n": 1})
            await headers(writer, {"x-b": "2", "bad\n": "3", "content-length": "4"})
            await writer.send_message_async("no json")
            await writer.write(b"data: 1\n\n")
            await status(writer, 500)
            await writer.write(b"data: 2\n\n")
            await writer.close_async()

        await place.route(stream)
        answer = await place.client.get("/h")
        assert (answer.status_code, answer.content) == (202, b"data: 1\n\ndata: 2\n\n")
        assert answer.headers["content-type"] == "text/event-stream"
        assert (answer.headers["x-a"], answer.headers["x-b"]) == ("1", "2")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert "n" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "*"
        assert (await place.client.get("/h")).status_code == 202  # and the connection goes on


@both
async def test_each_piece_is_sent_when_it_is_written(kind: str) -> None:
    """H-59: the client reads the first piece before the handler writes the second."""
    async with site(kind) as place:
        seen = anyio.Event()

        async def stream(request: Any) -> Any:
            async with request["response"] as writer:
                await writer.write(b"")  # the head alone
                await writer.write(b"one")
                await seen.wait()
                await writer.write(b"two")
            raise ValueError("ignored")

        await place.route(stream)
        async with place.client.stream("GET", "/h") as answer:
            assert answer.status_code == 200
            assert "content-type" not in answer.headers
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"one"
            seen.set()
            assert await anext(pieces) == b"two"
            assert [piece async for piece in pieces] == []


@held
@both
async def test_the_timeout_ends_with_the_head(kind: str) -> None:
    """H-60."""
    async with site(kind, default_timeout=2) as place:
        late = anyio.Event()

        async def stream(request: Any) -> None:
            async with request["response"] as writer:
                await writer.write(b"one")
                await late.wait()
                await writer.write(b"two")

        await place.route(stream)
        async with place.client.stream("GET", "/h") as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"one"
            pass_time(3)
            late.set()
            assert [piece async for piece in pieces] == [b"two"]


@both
async def test_a_handler_may_return_none_and_stream_from_a_background_task(kind: str, caplog: Any) -> None:
    """H-63."""
    async with site(kind) as place, create_task_group() as tasks:
        returned = anyio.Event()

        async def later(writer: ChannelWriter) -> None:
            await returned.wait()
            await writer.write(b"later")
            await writer.close_async()

        async def start(request: Any) -> None:
            await headers(request["response"], {"content-type": "text/plain"})
            tasks.start_soon(later, request["response"].keep_open())
            tasks.start_soon(checkpoint)
            returned.set()

        await place.route(start)
        answer = await place.client.get("/h")
        assert (answer.text, answer.headers["content-type"]) == ("later", "text/plain")
        assert "response channel is unused" not in caplog.text


@both
async def test_a_channel_closed_without_a_body_is_an_empty_response(kind: str) -> None:
    """H-61."""
    async with site(kind) as place:
        forever = anyio.Event()

        async def close(request: Any) -> Any:
            await status(request["response"], 204)
            await headers(request["response"], {"x-a": "1"})
            await request["response"].close_async()
            await forever.wait()
            return {"status_code": 500}

        await place.route(close)
        answer = await place.client.get("/h")
        assert (answer.status_code, answer.content, answer.headers["x-a"]) == (204, b"", "1")
        forever.set()


@both
async def test_a_result_before_the_first_binary_item_wins(kind: str) -> None:
    """H-62: what the control messages said is discarded."""
    async with site(kind) as place:

        async def answer(request: Any) -> Any:
            await status(request["response"], 202)
            if request["query_params"]:
                raise ValueError("no")
            return {"status_code": 201, "body": {"a": 1}}

        await place.route(answer)
        response = await place.client.get("/h")
        assert (response.status_code, response.json()) == (201, {"a": 1})
        response = await place.client.get("/h?fail=1")
        assert (response.status_code, response.json()["error"]["message"]) == (500, "no")


@both
async def test_when_the_head_is_out_the_ids_are_forgotten(kind: str) -> None:
    """H-64."""
    async with site(kind) as place:
        codes: list[int] = []

        async def late(request: Any) -> None:
            async with request["response"] as writer:
                await writer.write(b"head")
                await head_seen.wait()
                with pytest.raises(ChannelClosedError) as caught:
                    await request["request_body"].read_all()
                codes.append(caught.value.code)

        head_seen = anyio.Event()
        await place.route(late)
        async with place.client.stream("POST", "/h", content=b"x") as answer:
            head_seen.set()
            assert await answer.aread() == b"head"
        assert codes == [404]


@held
@both
async def test_nothing_written_and_nothing_returned_is_a_504_with_a_hint(kind: str, caplog: Any) -> None:
    """H-44, H-51."""
    async with site(kind, default_timeout=2) as place, create_task_group() as tasks:

        async def wait() -> None:
            while "response channel is unused" not in caplog.text:
                await checkpoint()
            pass_time(2)

        await place.route(lambda _request: None)
        tasks.start_soon(wait)
        assert (await place.client.get("/h")).status_code == 504


@both
async def test_a_client_that_leaves_cuts_the_writer(kind: str) -> None:
    """H-52 for streams: the handler hears of it by its next writes."""
    async with site(kind) as place:
        cut = anyio.Event()

        async def stream(request: Any) -> None:
            try:
                while True:
                    await request["response"].write(bytes(65_536))
            except ChannelClosedError:
                cut.set()

        await place.route(stream)
        async with place.client.stream("GET", "/h") as answer:
            assert answer.status_code == 200
        await cut.wait()


async def test_the_engine_s_end_breaks_a_stream_off(caplog: Any) -> None:
    """A body that is not complete must not look so."""

    async def stream(request: Any) -> None:
        await request["response"].write(b"part")
        await anyio.sleep_forever()

    async def read(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("GET", "/h") as answer:
                begun.set()
                await answer.aread()

    begun = anyio.Event()
    with fail_after(20):
        async with create_task_group() as tasks, httpx.AsyncClient(trust_env=False, timeout=None) as client:
            async with open_engine(port=None, http_port=0) as engine:
                client.base_url = httpx.URL(engine.http_url)
                options = InitOptions(handle_signals=False, shutdown_timeout=0.1)
                iii = await tasks.start(run_worker, engine, options, stream)
                tasks.start_soon(read, client)
                await begun.wait()
            iii.cancel()


async def run_worker(engine: Any, options: InitOptions, handler: Any, *, task_status: Any) -> None:
    """A worker that outlives its engine."""
    with anyio.CancelScope() as scope:
        async with open_worker(options=options, connector=engine.connector()) as iii:
            iii.register_function("h", handler)
            iii.register_trigger("http", "h", {"api_path": "h", "http_method": "GET"})
            await iii.wait_ready()
            task_status.started(scope)
            await anyio.sleep_forever()
