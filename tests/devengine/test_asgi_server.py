"""The HTTP server below the HTTP trigger, over real loopback sockets."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from iii_anyio.devengine import _asgi_server
from iii_anyio.devengine._asgi_server import MAX_HEADER_BYTES, serve_asgi

pytestmark = pytest.mark.anyio


class App:
    """Answers with what it was asked; some paths misbehave."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.running = anyio.Event()
        self.release = anyio.Event()
        self.ended: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close"})
            return
        try:
            await self._answer(scope, receive, send)
        except BaseException as exc:
            self.ended.append(type(exc).__name__)
            raise

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        match scope["path"]:
            case "/wait":
                self.running.set()
                await self.release.wait()
            case "/disconnect":
                await receive()
                self.running.set()
                self.ended.append((await receive())["type"])
                return
            case "/endless":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                self.running.set()
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            case "/broken":
                raise RuntimeError("a bug")
            case "/bad-header":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"a b", b"c")]})
            case _:
                pass
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: App, shutdown_timeout: float = 5.0) -> AsyncGenerator[tuple[str, int]]:
    """Serve while the block runs, then cancel the server and wait until it has ended."""
    sock = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = sock.getsockname()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            await group.start(partial(serve_asgi, app, sock, shutdown_timeout=shutdown_timeout))
            yield address
            group.cancel_scope.cancel()
    assert sock.fileno() == -1


async def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    with anyio.fail_after(5):
        async with await anyio.connect_tcp(*address) as stream:
            await stream.send(request)
            received = b""
            try:
                while True:
                    received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return received


async def is_serving(address: tuple[str, int]) -> bool:
    answer = await exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return answer.startswith(b"HTTP/1.1 200 ")


async def refuses(address: tuple[str, int]) -> bool:
    try:
        async with await anyio.connect_tcp(*address):
            return False
    except OSError:
        return True


async def test_a_client_is_served_over_one_connection() -> None:
    app = App()
    async with serving(app) as (host, port):
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            for number in range(3):
                response = await client.post("/echo", content=b"x" * number * 100_000)
                assert (response.status_code, len(response.content)) == (200, number * 100_000)
                assert response.headers["date"]
                assert "server" not in response.headers
    assert len({scope["client"] for scope in app.scopes}) == 1


async def test_path_query_and_header_values_arrive_as_sent_and_names_in_lower_case() -> None:
    app = App()
    async with serving(app) as address:
        await exchange(address, b"GET /a%20b%2Fc//?q=%zz&x=+ HTTP/1.1\r\nHost: X\r\nX-Case: Va\xffl\r\nConnection: close\r\n\r\n")
    (scope,) = app.scopes
    assert (scope["raw_path"], scope["query_string"]) == (b"/a%20b%2Fc//", b"q=%zz&x=+")
    assert scope["headers"] == [(b"host", b"X"), (b"x-case", b"Va\xffl"), (b"connection", b"close")]
    assert scope["method"] == "GET"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * (MAX_HEADER_BYTES + 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /100% HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
)
async def test_a_malformed_request_is_refused_and_others_are_served(request_bytes: bytes, status: bytes) -> None:
    app = App()
    async with serving(app) as address:
        answer = await exchange(address, request_bytes)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
        assert app.scopes == []
        assert await is_serving(address)


HANDSHAKE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        HANDSHAKE + b"Sec-WebSocket-Key: zz\r\nSec-WebSocket-Extensions: \xff\r\n\r\n",  # ends anycorn's own serve()
        b"GET /bad-header HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: !!!\r\nConnection: Upgrade\r\n\r\n" + b"\xff" * 100,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["websocket", "response", "http2", "h2c", "chunk"],
)
async def test_what_a_connection_raises_ends_only_that_connection(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App()) as address:
        await exchange(address, request_bytes)
        assert await is_serving(address)


async def test_a_bug_of_the_application_is_a_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(App()) as (host, port):
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            assert (await client.get("/broken")).status_code == 500
            assert (await client.get("/")).status_code == 200
    assert any(record.name == "iii_anyio.devengine.http" and record.exc_info for record in caplog.records)


async def test_requests_are_not_logged_by_the_server(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(App()) as address:
        assert await is_serving(address)
    assert [record for record in caplog.records if record.name.startswith(("anycorn", "iii_anyio"))] == []
    assert capfd.readouterr() == ("", "")


async def test_the_application_hears_that_its_client_left() -> None:
    app = App()
    async with serving(app) as address:
        stream = await anyio.connect_tcp(*address)
        await stream.send(b"GET /disconnect HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.running.wait()
        await stream.aclose()
        while not app.ended:
            await anyio.wait_all_tasks_blocked()
        assert app.ended == ["http.disconnect"]
        assert await is_serving(address)


# ---------------------------------------------------------------- the end


async def test_shutdown_with_an_idle_connection_is_immediate() -> None:
    async with serving(App(), shutdown_timeout=100) as address:
        idle = await anyio.connect_tcp(*address)
        kept = await anyio.connect_tcp(*address)
        await kept.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await kept.receive()).startswith(b"HTTP/1.1 200 ")
    for stream in (idle, kept):
        async with stream:
            with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await stream.receive()
    assert await refuses(address)


async def test_a_running_request_is_finished_at_shutdown() -> None:
    app = App()
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as clients, await anyio.connect_tcp(*address) as stream:
            async with anyio.create_task_group() as group:
                await group.start(partial(serve_asgi, app, sock, shutdown_timeout=100))
                await stream.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
                await app.running.wait()

                async def finish() -> None:
                    while not await refuses(address):  # it has stopped accepting
                        await anyio.wait_all_tasks_blocked()
                    app.release.set()

                clients.start_soon(finish)
                group.cancel_scope.cancel()
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive()
            assert received.startswith(b"HTTP/1.1 200 ")
    assert app.ended == []


@pytest.mark.parametrize("path", ["/wait", "/endless"])
async def test_a_request_that_does_not_end_is_cut_off_at_shutdown(path: str) -> None:
    """``/endless`` fills the socket of a client that does not read: a write that cancellation alone would not end."""
    app = App()
    async with serving(app, shutdown_timeout=0.05) as address:
        stream = await anyio.connect_tcp(*address)
        await stream.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        await app.running.wait()
        await anyio.wait_all_tasks_blocked()
    assert len(app.ended) == 1
    assert await refuses(address)
    await anyio.aclose_forcefully(stream)


async def test_a_client_that_does_not_read_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asgi_server, "WRITE_TIMEOUT", 0.05)
    app = App()
    async with serving(app) as address:
        async with await anyio.connect_tcp(*address) as stream:
            await stream.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            with anyio.fail_after(5):
                while not app.ended:
                    await anyio.sleep(0.01)
        assert await is_serving(address)


async def test_a_full_house_lets_one_in_when_one_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asgi_server, "MAX_CONNECTIONS", 1)
    app = App()
    async with serving(app) as address:
        first = await anyio.connect_tcp(*address)
        await first.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.running.wait()
        second = await anyio.connect_tcp(*address)
        await second.send(b"GET /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await anyio.wait_all_tasks_blocked()
        assert [scope["path"] for scope in app.scopes] == ["/wait"]
        await first.aclose()
        app.release.set()
        async with second:
            with anyio.fail_after(5):
                assert (await second.receive()).startswith(b"HTTP/1.1 200 ")


async def test_a_slow_start_of_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asgi_server, "IDLE_TIMEOUT", 0.05)
    async with serving(App()) as address:
        assert await exchange(address, b"GET / HTTP/1.1\r\nHost: ") == b""
