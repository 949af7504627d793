"""The HTTP server below the HTTP trigger, over real loopback sockets."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Self

import anyio
import h11
import httpx
import pytest
from anyio.abc import SocketListener, SocketStream

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
        self.over = anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        try:
            await self._answer(scope, receive, send)
        except BaseException as exc:
            self.ended.append(type(exc).__name__)
            raise
        finally:
            self.over.set()

    async def _listen(self, receive: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        match scope["path"]:
            case "/wait":
                self.running.set()
                await self.release.wait()
            case "/disconnect":
                self.running.set()
                while (message := await receive())["type"] == "http.request":
                    pass
                self.ended.append(message["type"])
                return
            case "/listening":
                self.running.set()
                async with anyio.create_task_group() as group:
                    group.start_soon(self._listen, receive)
                    await self.release.wait()
                    group.cancel_scope.cancel()
                await send({"type": "http.response.start", "status": 599, "headers": []})
                await send({"type": "http.response.body", "body": b"heard"})
                return
            case "/early":
                await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body"})
                return
            case "/unfinished":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                return
            case "/twice":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body"})
                await send({"type": "http.response.body"})
            case "/endless":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                self.running.set()
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            case "/broken":
                raise RuntimeError("a bug")
            case "/bad-header":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"a b", b"c")]})
                await send({"type": "http.response.body"})
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
    with anyio.fail_after(20):
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
    async with (
        serving(app) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=None) as client,
    ):
        for number in range(3):
            response = await client.post("/echo", content=b"x" * number * 100_000)
            assert (response.status_code, len(response.content)) == (200, number * 100_000)
            assert response.headers["date"]
            assert "server" not in response.headers
    assert len({scope["client"] for scope in app.scopes}) == 1


async def test_path_query_and_header_values_arrive_as_sent_and_names_in_lower_case() -> None:
    app = App()
    async with serving(app) as address:
        await exchange(
            address, b"GET /a%20b%2Fc//?q=%zz&x=+ HTTP/1.1\r\nHost: X\r\nX-Case: Va\xffl\r\nConnection: close\r\n\r\n"
        )
    (scope,) = app.scopes
    assert (scope["raw_path"], scope["query_string"]) == (b"/a%20b%2Fc//", b"q=%zz&x=+")
    assert scope["headers"] == [(b"host", b"X"), (b"x-case", b"Va\xffl"), (b"connection", b"close")]
    assert scope["method"] == "GET"


@pytest.mark.parametrize("path", ["/100%", "/%ff%zz", "/a%00", "//", "/a;b=1@:!$&'()*+,"])
async def test_any_path_that_is_http_reaches_the_application(path: str) -> None:  # H-20
    app = App()
    async with serving(app) as address:
        answer = await exchange(address, b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert app.scopes[0]["raw_path"] == path.encode()
    assert isinstance(app.scopes[0]["path"], str)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 3 * MAX_HEADER_BYTES + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * 3 * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b"505"),
    ],
)
async def test_a_malformed_request_is_refused_and_others_are_served(request_bytes: bytes, status: bytes) -> None:
    app = App()
    async with serving(app) as address:
        answer = await exchange(address, request_bytes)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
        assert b"\r\nconnection: close\r\n" in answer
        assert app.scopes == []
        assert await is_serving(address)


async def test_a_broken_body_is_refused_and_the_application_hears_of_the_end() -> None:
    app = App()
    async with serving(app) as address:
        request = b"POST /disconnect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n"
        assert (await exchange(address, request)).startswith(b"HTTP/1.1 400 ")
        assert app.ended == ["http.disconnect"]
        assert await is_serving(address)


HANDSHAKE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: zz\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        HANDSHAKE + b"Sec-WebSocket-Extensions: \xff\r\nConnection: upgrade, close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: !!!\r\nConnection: upgrade, close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
    ids=["websocket", "h2c", "1.0"],
)
async def test_an_upgrade_is_an_ordinary_request(request_bytes: bytes) -> None:
    async with serving(App()) as address:
        assert (await exchange(address, request_bytes)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with serving(App()) as address:
        one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"
        last = (
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nzz\r\n0\r\n\r\n"
        )
        answer = await exchange(address, one % 1 + one % 2 + one % 3 + last)
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert bodies == [b"1", b"2", b"3", b"zz"]


@pytest.mark.parametrize("path", ["/wait", "/listening"])
async def test_a_client_that_sends_a_flood_ahead_is_not_read_any_further(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    receive_data = h11.Connection.receive_data

    def counted(self: h11.Connection, data: bytes) -> None:
        taken.append(len(data))
        receive_data(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", counted)
    app = App()
    async with serving(app) as address:
        async with await anyio.connect_tcp(*address) as stream:
            await stream.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
            await app.running.wait()
            with anyio.move_on_after(0.2) as limit:
                while True:
                    await stream.send(b"x" * 65_536)
            assert limit.cancelled_caught
            assert sum(taken) < 3 * MAX_HEADER_BYTES
            app.release.set()
        assert await is_serving(address)


async def test_a_request_sent_while_another_runs_is_answered_after_it() -> None:
    app = App()
    async with serving(app) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(b"GET /listening HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.running.wait()
        await stream.send(b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await anyio.wait_all_tasks_blocked()
        app.release.set()
        received = b""
        with anyio.fail_after(20), suppress(anyio.EndOfStream):
            while True:
                received += await stream.receive()
        assert received.startswith(b"HTTP/1.1 599 \r\n")
        assert received.index(b"heard") < received.index(b"HTTP/1.1 200 OK\r\n")


async def test_a_body_that_is_held_back_is_asked_for() -> None:
    async with serving(App()) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        with anyio.fail_after(20):
            assert (await stream.receive()).startswith(b"HTTP/1.1 100 ")
            await stream.send(b"ok")
            assert (await stream.receive()).endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("path", ["/early", "/broken"])
async def test_a_response_before_the_end_of_a_large_body_reaches_its_client(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_asgi_server, "LINGER", 30)
    async with serving(App()) as (host, port), httpx.AsyncClient(timeout=None) as client:
        response = await client.post(f"http://{host}:{port}{path}", content=b"x" * 20_000_000)
        assert response.status_code == {"/early": 413, "/broken": 500}[path]


@pytest.mark.parametrize("path", ["/bad-header", "/unfinished", "/twice"])
async def test_what_an_application_does_wrong_ends_only_its_connection(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App()) as address:
        answer = await exchange(address, b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        if path == "/bad-header":
            assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert await is_serving(address)
    assert caplog.records or path == "/unfinished"


async def test_a_bug_of_the_application_is_a_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serving(App()) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=None) as client,
    ):
        assert (await client.get("/broken")).status_code == 500
        assert (await client.get("/")).status_code == 200
    assert any(record.name == "iii_anyio.devengine.http" and record.exc_info for record in caplog.records)


async def test_requests_are_not_logged_by_the_server(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(App()) as address:
        assert await is_serving(address)
    assert [record for record in caplog.records if record.name.startswith("iii_anyio")] == []
    assert capfd.readouterr() == ("", "")


async def test_the_application_hears_that_its_client_left() -> None:
    app = App()
    async with serving(app) as address:
        stream = await anyio.connect_tcp(*address)
        await stream.send(b"GET /disconnect HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.running.wait()
        await stream.aclose()
        await app.over.wait()
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
            with anyio.fail_after(20), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await stream.receive()
    assert await refuses(address)


async def test_a_running_request_is_finished_at_shutdown() -> None:
    app = App()
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    with anyio.fail_after(20):
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
            assert b"\r\nconnection: close\r\n" in received
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
            with anyio.fail_after(20):
                await app.over.wait()
            assert app.ended == ["OSError"]
        monkeypatch.undo()
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
            with anyio.fail_after(20):
                assert (await second.receive()).startswith(b"HTTP/1.1 200 ")


async def test_a_slow_start_of_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asgi_server, "IDLE_TIMEOUT", 0.05)
    async with serving(App()) as address:
        assert await exchange(address, b"GET / HTTP/1.1\r\nHost: ") == b""


async def test_a_failure_to_accept_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No descriptor left, for one: the next connection may find one."""
    monkeypatch.setattr(_asgi_server, "ACCEPT_PAUSE", 0)
    failures = [OSError(24, "Too many open files")] * 2

    class Listener:
        def __init__(self, real: SocketListener) -> None:
            self.real = real
            self.aclose = real.aclose

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_exc: object) -> None:
            await self.real.aclose()

        async def accept(self) -> SocketStream:
            if failures:
                raise failures.pop()
            return await self.real.accept()

    real = SocketListener.from_socket

    async def from_socket(sock: socket.socket) -> Listener:
        return Listener(await real(sock))

    monkeypatch.setattr(SocketListener, "from_socket", from_socket)
    async with serving(App()) as address:
        assert await is_serving(address)
    assert [record.getMessage() for record in caplog.records] == [
        "no connection accepted: [Errno 24] Too many open files"
    ] * 2


async def test_an_unforeseen_failure_of_a_connection_concerns_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App()) as address:
        with monkeypatch.context() as patch:
            patch.setattr(h11.Connection, "next_event", lambda _self: 1 / 0)
            assert await exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert await is_serving(address)
    assert [record.getMessage() for record in caplog.records] == ["an HTTP connection failed"]


async def test_a_socket_that_cannot_listen_is_closed() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(OSError):  # noqa: PT011  the system's own words
        await serve_asgi(App(), sock)
    assert sock.fileno() == -1
