"""The accepting side: `protocol.md` §2.3, P-101, P-102, P-105."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import EndOfStream, Event, create_task_group, fail_after
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint
from websockets.utils import accept_key

from iii_anyio._protocol.framing import Framing
from iii_anyio._wire.listen import Accepted, serve_websockets
from iii_anyio._wire.websocket import WebSocketWire
from iii_anyio.errors import LinkClosed
from tests.timing import pass_time
from tests.wire.servers import echo, header, read_all, read_head, serving

if TYPE_CHECKING:
    from anyio.abc import SocketStream

pytestmark = pytest.mark.anyio
held = pytest.mark.parametrize("anyio_backend", ["held"], indirect=True)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REQUEST = (
    "GET {target} HTTP/1.1\r\nHost: whatever.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
)


def request(target: str = "/", more: str = "") -> bytes:
    return (REQUEST.format(target=target) + more + "\r\n").encode()


async def ask(port: int, data: bytes) -> str:
    """Send this, end the stream, and return everything that comes back."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(data)
        return (await read_all(stream)).decode()


async def upgrade(stream: SocketStream, data: bytes | None = None) -> WebSocketWire:
    await stream.send(request() if data is None else data)
    head = await read_head(stream)
    assert head.startswith("HTTP/1.1 101 ")
    return WebSocketWire(stream, Framing(is_client=True), leading=head.partition("\r\n\r\n")[2].encode("latin-1"))


async def never(connection: Accepted) -> None:
    raise AssertionError(f"no business with {connection}")


# -- the handshake ----------------------------------------------------------------------------------------------------


async def test_the_handler_sees_the_request_and_accepts_it() -> None:
    seen: list[Accepted] = []

    async def handler(connection: Accepted) -> None:
        seen.append(connection)
        await echo(connection)

    more = "Authorization: Bearer t\r\nX-Twice: a\r\nx-twice: b\r\n"
    with fail_after(20):
        async with serving(handler) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(request("/ws/channels/C%20D?key=k%2F&dir=read", more))
            head = await read_head(stream)
    (connection,) = seen
    assert (connection.path, connection.query) == ("/ws/channels/C%20D", "key=k%2F&dir=read")
    assert connection.headers["authorization"] == "Bearer t"
    assert connection.headers["x-twice"] == "b"
    assert connection.headers["host"] == "whatever.example"
    assert connection.peer == "127.0.0.1"
    assert connection.address.startswith("127.0.0.1:")
    assert connection.address.removeprefix("127.0.0.1:").isdecimal()
    assert header(head, "sec-websocket-accept") == accept_key(KEY)
    assert repr(connection) == "<Accepted /ws/channels/C%20D from 127.0.0.1>", "the query may hold a key"


async def test_neither_compression_nor_a_subprotocol_is_agreed_on() -> None:
    """P-101."""
    more = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: iii\r\n"
    with fail_after(20):
        async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(request(more=more))
            head = await read_head(stream)
    assert head.startswith("HTTP/1.1 101 ")
    assert "extensions" not in head.lower()
    assert "protocol:" not in head.lower()


async def test_a_head_may_come_byte_by_byte() -> None:
    with fail_after(20):
        async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            data = request()
            for at in range(len(data)):
                await stream.send(data[at : at + 1])
                await checkpoint()
            assert (await read_head(stream)).startswith("HTTP/1.1 101 ")


async def test_frames_right_behind_the_request_are_received() -> None:
    """A worker need not wait for the answer."""
    (run,) = Framing(is_client=True).send([b"early"])
    with fail_after(20):
        async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            wire = await upgrade(stream, request() + b"".join(bytes(part) for part in run))
            assert await wire.receive() == [b"early"]


async def test_messages_and_kinds_of_frames_reach_the_handler() -> None:
    received: list[tuple[bool, bytes]] = []

    async def handler(connection: Accepted) -> None:
        wire = await connection.accept()
        while True:
            received.extend(await wire.receive_typed())

    with fail_after(20):
        async with serving(handler) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            wire = await upgrade(stream)
            await wire.send_binary([b"MTRC{}"])
            await wire.send([b"{}"])
            await wire.aclose()
    assert received == [(False, b"MTRC{}"), (True, b"{}")]


async def test_frames_beyond_the_limit_are_refused() -> None:
    """P-102."""
    with fail_after(20):
        async with (
            serving(max_frame=1000, max_message=2000) as port,
            await anyio.connect_tcp("127.0.0.1", port) as stream,
        ):
            wire = await upgrade(stream)
            await wire.send([bytes(1000)])
            assert await wire.receive() == [bytes(1000)]
            await wire.send([bytes(1001)])
            with pytest.raises(LinkClosed) as caught:
                await wire.receive()
            assert caught.value.code == 1009


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "hint"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426, "speaks WebSocket"),
        (request().replace(b"GET", b"PUT"), 405, "PUT"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 400, "Not a valid"),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 505, "HTTP/1.0"),
        (request().replace(KEY.encode(), b"short"), 400, "Sec-WebSocket-Key"),
        (request().replace(b"Version: 13", b"Version: 8"), 400, "Sec-WebSocket-Version"),
        (b"GET /" + bytes(9000).replace(b"\0", b"x") + b" HTTP/1.1\r\n\r\n", 414, "8192"),
        (request(more="X: y\r\n" * 200), 431, "headers"),
        (request(more="X: y\r\n" * 20_000), 431, "too large"),
        (b"\x16\x03\x01\x02\x00\x01", 400, "Not an HTTP request"),
        (b"NONSENSE\r\n\r\n", 400, "Not a valid"),
    ],
    ids=[
        "plain",
        "method",
        "body",
        "version",
        "key",
        "websocket-version",
        "line",
        "headers",
        "size",
        "tls",
        "nonsense",
    ],
)
async def test_what_is_no_handshake_gets_an_answer_that_helps(data: bytes, status: int, hint: str) -> None:
    with fail_after(20):
        async with serving(never) as port:
            answer = await ask(port, data)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert hint in answer.partition("\r\n\r\n")[2]
    assert ("Upgrade: websocket" in answer) == (status == 426)


async def test_the_handler_rejects_with_status_and_text() -> None:
    async def handler(connection: Accepted) -> None:
        await connection.reject(404, "Channel not found")

    with fail_after(20):
        async with serving(handler) as port:
            answer = await ask(port, request("/ws/channels/x"))
    assert answer.startswith("HTTP/1.1 404 Not Found\r\n")
    assert answer.endswith("\r\n\r\nChannel not found")


async def test_a_handler_that_does_not_answer_means_404() -> None:
    async def handler(connection: Accepted) -> None:
        pass

    with fail_after(20):
        async with serving(handler) as port:
            assert (await ask(port, request())).startswith("HTTP/1.1 404 ")


async def test_a_connection_is_answered_once() -> None:
    async def handler(connection: Accepted) -> None:
        await connection.accept()
        for again in (connection.accept(), connection.reject(404, "")):
            with pytest.raises(RuntimeError, match="answered already"):
                await again

    with fail_after(20):
        async with serving(handler) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            wire = await upgrade(stream)
            with pytest.raises(LinkClosed) as caught:
                await wire.receive()
            assert caught.value.code == 1000, "closed when the handler returned"


async def test_too_many_connections_are_answered_503() -> None:
    with fail_after(20):
        async with serving(max_connections=1) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await upgrade(stream)
            assert (await ask(port, request())).startswith("HTTP/1.1 503 ")


@held
@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost:"], ids=["nothing", "half a head"])
async def test_a_head_that_does_not_come_in_time_is_closed_without_a_word(data: bytes) -> None:
    """§2.3."""
    async with (
        serving(never, handshake_timeout=2) as port,
        await anyio.connect_tcp("127.0.0.1", port) as stream,
        create_task_group() as tasks,
    ):
        await stream.send(data)

        async def wait() -> None:
            while True:  # it may not have seen us yet, and its time begins when it has
                await anyio.wait_all_tasks_blocked()
                pass_time(1)

        tasks.start_soon(wait)
        assert await read_all(stream) == b""
        tasks.cancel_scope.cancel()


# -- one bad connection is one bad connection -------------------------------------------------------------------------


async def test_a_failing_handler_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(connection: Accepted) -> None:
        if connection.path == "/before":
            raise ValueError("before accepting")
        wire = await connection.accept()
        if connection.path == "/after":
            raise ValueError("after accepting")
        await wire.send(await wire.receive())

    with fail_after(20):
        async with serving(handler) as port, await anyio.connect_tcp("127.0.0.1", port) as good:
            wire = await upgrade(good)
            assert (await ask(port, request("/before"))).startswith("HTTP/1.1 500 ")
            async with await anyio.connect_tcp("127.0.0.1", port) as bad:
                failing = await upgrade(bad, request("/after"))
                with pytest.raises(LinkClosed) as caught:
                    await failing.receive()
                assert caught.value.code == 1011
                await failing.aclose()
            await wire.send([b"still here"])
            assert await wire.receive() == [b"still here"]
    assert [record.exc_info[1].args[0] for record in caplog.records if record.exc_info and record.exc_info[1]] == [
        "before accepting",
        "after accepting",
    ]


async def test_peers_that_leave_at_any_moment_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    data = request()
    with fail_after(20):
        async with serving() as port:
            for stop in (0, 1, len(data) // 2, len(data)):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(data[:stop])
                    if stop % 2:
                        stream.extra(SocketAttribute.raw_socket).setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                        )
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await upgrade(stream)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_accepting_a_peer_that_has_left_is_a_closed_link() -> None:
    left, caught = Event(), Event()

    async def handler(connection: Accepted) -> None:
        await left.wait()
        with pytest.raises(LinkClosed) as error:
            wire = await connection.accept()
            while True:  # the first write after a reset may still succeed
                await wire.send([bytes(100_000)])
        assert error.value.code == 1006
        caught.set()

    with fail_after(20):
        async with serving(handler) as port:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(request())
                raw = stream.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            left.set()
            await caught.wait()


# -- the life of the server -------------------------------------------------------------------------------------------


async def test_cancelling_the_server_drops_its_connections() -> None:
    """§6.7: engine shutdown is a dropped connection."""
    with fail_after(20):
        async with serving() as port:
            stream = await anyio.connect_tcp("127.0.0.1", port)
            wire = await upgrade(stream)
        with pytest.raises(LinkClosed) as caught:
            await wire.receive()
        assert caught.value.code == 1006
        await wire.abort()


async def test_closing_the_listener_lets_connections_finish() -> None:
    is_over = Event()
    with fail_after(20):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        async with create_task_group() as tasks:

            async def serve() -> None:
                await serve_websockets(listener, echo)
                is_over.set()

            tasks.start_soon(serve)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                wire = await upgrade(stream)
                await listener.aclose()
                await wire.send([b"go on"])
                assert await wire.receive() == [b"go on"]
                assert not is_over.is_set()
                with pytest.raises(OSError, match="connection attempts"):
                    await anyio.connect_tcp("127.0.0.1", port)
                await wire.aclose()
            await is_over.wait()


class FailingListener:
    """Fails first with these errors, then serves as the listener below."""

    def __init__(self, below: Any, *errors: Exception) -> None:
        self._below = below
        self._errors = list(errors)

    async def serve(self, handler: Any, task_group: Any) -> None:
        if self._errors:
            await checkpoint()
            raise self._errors.pop(0)
        await self._below.serve(handler, task_group)


async def test_running_out_of_descriptors_is_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    errors = (
        OSError(errno.EMFILE, "Too many open files"),
        ExceptionGroup("two listeners", [OSError(errno.ENFILE, "Too many open files in system")]),
    )
    with fail_after(20):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as below,
            create_task_group() as tasks,
        ):
            listener: Any = FailingListener(below, *errors)
            tasks.start_soon(serve_websockets, listener, echo)
            async with await anyio.connect_tcp("127.0.0.1", below.extra(SocketAttribute.local_port)) as stream:
                await upgrade(stream)
            tasks.cancel_scope.cancel()
    assert len([record for record in caplog.records if "Too many open files" in record.message]) == 2


async def test_a_listener_that_is_broken_ends_the_server() -> None:
    listener: Any = FailingListener(None, OSError(errno.EINVAL, "broken"))
    with fail_after(20), pytest.raises(ExceptionGroup) as caught:
        await serve_websockets(listener, echo)
    assert caught.group_contains(OSError, match="broken")


async def test_the_server_closes_behind_the_answer_to_a_close_frame() -> None:
    with fail_after(20):
        async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
            await upgrade(stream)
            framing = Framing(is_client=True)
            framing.close(1000)
            await stream.send(b"".join(framing.data_to_send()))
            assert (await stream.receive())[:1] == b"\x88"
            with pytest.raises(EndOfStream):
                await stream.receive()
