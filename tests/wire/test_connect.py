"""Connecting: `protocol.md` §2, P-01, P-02, P-04, P-11. What goes wrong is a ``ConnectError`` that helps."""

from __future__ import annotations

import gc
import socket
import ssl
import subprocess
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, Event, create_task_group, fail_after
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSListener
from websockets.utils import accept_key

from iii_anyio._protocol.framing import Framing
from iii_anyio._wire import reasons
from iii_anyio._wire.connect import websocket_connector
from iii_anyio._wire.listen import Accepted, serve_websockets
from iii_anyio.errors import ConnectError, LinkClosed
from tests.timing import pass_time
from tests.wire.servers import echo, header, raw_serving, read_head, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from anyio.abc import SocketStream

    from iii_anyio.abc import Connector

pytestmark = pytest.mark.anyio
held = pytest.mark.parametrize("anyio_backend", ["held"], indirect=True)


async def failure(address: str, **options: Any) -> ConnectError:
    """The error of a connection that must not come about."""
    with pytest.raises(ConnectError) as caught:
        async with websocket_connector(address, **options)():
            raise AssertionError("connected")
    return caught.value


def accepting(more: str = "", behind: bytes = b"", *, stays: bool = True) -> Callable[[SocketStream], Awaitable[None]]:
    """A server that accepts with these headers, writes ``behind`` in the same breath, and reads until the end."""

    async def handler(stream: SocketStream) -> None:
        key = accept_key(header(await read_head(stream), "sec-websocket-key"))
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {key}\r\n{more}\r\n"
        )
        await stream.send(head.encode() + behind)
        while stays:
            await stream.receive()

    return handler


def answering(data: bytes) -> Callable[[SocketStream], Awaitable[None]]:
    async def handler(stream: SocketStream) -> None:
        await read_head(stream)
        await stream.send(data)

    return handler


# -- what the handshake says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "path", "query"),
    [
        ("", "/", ""),
        ("/", "/", ""),
        ("?token=abc", "/", "token=abc"),
        ("/p/q/?token=a%2Fb+c&x=1&x=2", "/p/q/", "token=a%2Fb+c&x=1&x=2"),
        ("/ws/channels/C%20D?key=K%3D&dir=read#fragment", "/ws/channels/C%20D", "key=K%3D&dir=read"),
    ],
)
async def test_path_and_query_are_sent_as_given(given: str, path: str, query: str) -> None:
    """P-01, P-03."""
    seen: list[Accepted] = []

    async def handler(connection: Accepted) -> None:
        seen.append(connection)
        await echo(connection)

    with fail_after(20):
        async with serving(handler) as port, websocket_connector(f"ws://127.0.0.1:{port}{given}")():
            pass
    assert [(each.path, each.query) for each in seen] == [(path, query)]


async def test_the_request_has_the_headers_given_and_offers_nothing() -> None:
    """P-02, §2.2."""
    seen: list[Accepted] = []

    async def handler(connection: Accepted) -> None:
        seen.append(connection)
        await echo(connection)

    headers = {"X-Tenant": " acme ", "Connection": "close", "Sec-WebSocket-Key": "x"}
    with fail_after(20):
        async with serving(handler) as port, websocket_connector(f"ws://127.0.0.1:{port}", headers=headers)():
            pass
    (connection,) = seen
    assert connection.headers["x-tenant"] == "acme"
    assert connection.headers["host"] == f"127.0.0.1:{port}"
    assert not [name for name in connection.headers if name in {"sec-websocket-extensions", "sec-websocket-protocol"}]


async def test_credentials_in_the_address_become_basic_authentication() -> None:
    seen: list[str] = []

    async def handler(connection: Accepted) -> None:
        seen.append(connection.headers["authorization"])

    with fail_after(20):
        async with serving(handler) as port:
            error = await failure(f"ws://user:secret@127.0.0.1:{port}/p?token=secret")
    assert seen == ["Basic " + b64encode(b"user:secret").decode()]
    assert str(error).startswith(f"cannot connect to ws://127.0.0.1:{port}/p: the peer answered 404 Not Found: ")
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("http://127.0.0.1:49134", {}),
        ("127.0.0.1:49134", {}),
        ("ws://", {}),
        ("ws://[::1", {}),
        ("", {}),
        ("ws://h", {"headers": {"X": "line\nbreak secret"}}),
        ("ws://h", {"headers": {"X": "sécret"}}),
        ("ws://h", {"headers": {"X Y": "secret"}}),
        ("ws://h", {"proxy": "socks5://user:secret@proxy"}),
        ("ws://h", {"proxy": "user:secret@proxy:1"}),
        ("ws://h", {"proxy": "http://h:secret"}),
    ],
)
def test_what_can_never_work_is_refused_at_once(address: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"address|header|prox") as caught:
        websocket_connector(address, **options)
    assert "secret" not in str(caught.value)


# -- the connection ---------------------------------------------------------------------------------------------------


async def test_it_is_a_connector_and_connects_each_time() -> None:
    codes: list[int] = []

    async def handler(connection: Accepted) -> None:
        try:
            await echo(connection)
        except LinkClosed as exc:
            codes.append(exc.code)
            raise

    with fail_after(20):
        async with serving(handler) as port:
            connector: Connector = websocket_connector(f"ws://127.0.0.1:{port}")
            for _ in range(2):
                async with connector() as wire:
                    await wire.send([b"m"])
                    assert await wire.receive() == [b"m"]
                with pytest.raises(LinkClosed):
                    await wire.receive()
            await anyio.wait_all_tasks_blocked()
    assert codes == [1000, 1000], "closed with a close frame"


async def test_an_exception_closes_the_socket_at_once() -> None:
    codes: list[int] = []
    seen = Event()

    async def handler(connection: Accepted) -> None:
        try:
            await echo(connection)
        except LinkClosed as exc:
            codes.append(exc.code)
            seen.set()

    with fail_after(20):
        async with serving(handler) as port:
            with pytest.raises(KeyError):
                async with websocket_connector(f"ws://127.0.0.1:{port}")():
                    raise KeyError
            await seen.wait()
    assert codes == [1006]


async def test_frames_read_with_the_answer_are_received() -> None:
    framing = Framing(is_client=False)
    (run,) = framing.send([b"workerregistered", b"2"])
    with fail_after(20):
        async with (
            raw_serving(accepting(behind=b"".join(bytes(part) for part in run))) as port,
            websocket_connector(f"ws://127.0.0.1:{port}")() as wire,
        ):
            assert await wire.receive() == [b"workerregistered", b"2"]
            await wire.abort()


async def test_small_writes_are_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    connect_tcp = anyio.connect_tcp
    streams: list[Any] = []

    async def connect_and_note(*args: Any, **kwargs: Any) -> Any:
        streams.append(await connect_tcp(*args, **kwargs))
        return streams[-1]

    monkeypatch.setattr(anyio, "connect_tcp", connect_and_note)
    with fail_after(20):
        async with serving() as port, websocket_connector(f"ws://127.0.0.1:{port}")():
            sock = streams[0].extra(SocketAttribute.raw_socket)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_message_limit_is_the_connectors() -> None:
    with fail_after(20):
        async with serving() as port, websocket_connector(f"ws://127.0.0.1:{port}", max_message=10)() as wire:
            await wire.send([bytes(11)])
            with pytest.raises(LinkClosed) as caught:
                await wire.receive()
            assert caught.value.code == 1009


async def test_plain_connections_make_no_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes tens of milliseconds."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a TLS context")

    monkeypatch.setattr(httpx, "create_ssl_context", fail)
    monkeypatch.setattr(ssl, "create_default_context", fail)
    monkeypatch.setattr(ssl, "SSLContext", fail)
    with fail_after(20):
        async with serving() as port, websocket_connector(f"ws://127.0.0.1:{port}")() as wire:
            await wire.send([b"m"])
            assert await wire.receive() == [b"m"]


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_a_port_nobody_listens_on() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    with fail_after(20):
        error = await failure(f"ws://127.0.0.1:{port}")
    assert str(error).startswith(f"cannot connect to ws://127.0.0.1:{port}/: connection refused; is the engine")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nbusy", "503 Unavailable: the engine or a proxy"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "nothing at this path"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "check III_TOKEN"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "another port"),
        (b"HTTP/1.1 418 Teapot\r\n\r\n", "418 Teapot: it is no WebSocket endpoint"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://u:p@else.where/x?token=t\r\n\r\n", "https://else.where/x;"),
        (b"HTTP/1.1 308 Moved\r\nLocation: /engine\r\n\r\n", "/engine; use that address"),
        (b"HTTP/1.1 307 Moved\r\nLocation: http://h:x\r\n\r\n", "Invalid URL in location header"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "does not speak WebSocket here, or not ws:"),
        (b"\x15\x03\x01\x00\x02\x02\x50", "does not speak WebSocket here, or not ws:"),
        (b"", "disconnected"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgr", "disconnected"),
    ],
    ids=["503", "404", "401", "200", "418", "302", "308", "307", "garbage", "tls", "eof", "half"],
)
async def test_answers_that_are_no_websocket(answer: bytes, hint: str) -> None:
    with fail_after(20):
        async with raw_serving(answering(answer)) as port:
            error = await failure(f"ws://127.0.0.1:{port}")
    assert hint in str(error)
    assert "\n" not in str(error)
    assert error.address == f"ws://127.0.0.1:{port}/"


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ("Sec-WebSocket-Accept: again\r\n", "Sec-WebSocket-Accept does not match"),
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", "extension"),
        ("Sec-WebSocket-Protocol: iii\r\n", "subprotocol"),
    ],
)
async def test_an_answer_to_what_was_not_asked_is_refused(more: str, hint: str) -> None:
    with fail_after(20):
        async with raw_serving(accepting(more)) as port:
            assert hint in str(await failure(f"ws://127.0.0.1:{port}"))


async def test_a_subprotocol_that_the_user_asked_for_may_be_chosen() -> None:
    """Some gateways take the token there."""
    with fail_after(20):
        async with (
            raw_serving(accepting("Sec-WebSocket-Protocol: iii\r\n")) as port,
            websocket_connector(f"ws://127.0.0.1:{port}", headers={"Sec-WebSocket-Protocol": "iii"})() as wire,
        ):
            await wire.abort()


async def test_a_peer_that_leaves_after_accepting_is_a_closed_link() -> None:
    with fail_after(20):
        async with (
            raw_serving(accepting(stays=False)) as port,
            websocket_connector(f"ws://127.0.0.1:{port}")() as wire,
        ):
            with pytest.raises(LinkClosed) as caught:
                await wire.receive()
            assert caught.value.code == 1006


async def say_nothing(stream: SocketStream) -> None:
    """Be asked, and let a second pass."""
    await stream.receive()
    pass_time(1)
    await anyio.sleep_forever()


@held
@pytest.mark.parametrize(
    ("scheme", "stage"), [("ws", "the answer to the WebSocket handshake"), ("wss", "in the TLS handshake")]
)
async def test_a_peer_that_says_nothing_is_given_up(scheme: str, stage: str) -> None:
    """P-11."""
    async with raw_serving(say_nothing) as port:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        error = await failure(f"{scheme}://127.0.0.1:{port}", connect_timeout=1, verify_tls=trust)
    assert "gave up after 1 s" in str(error)
    assert stage in str(error)


async def test_a_connection_that_does_not_come_about_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio, "connect_tcp", never)
    with fail_after(20):
        assert "gave up after 0.05 s connecting;" in str(await failure("ws://192.0.2.1", connect_timeout=0.05))


async def test_a_peer_that_answers_before_it_has_the_request_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """It closed its receiving side, so writing fails; the answer is there nevertheless."""

    class Stream:
        async def receive(self, max_bytes: int = 0) -> bytes:
            return b"HTTP/1.1 429 Too Many Requests\r\n\r\n"

        async def send(self, item: bytes) -> None:
            raise BrokenResourceError

        async def aclose(self) -> None:
            pass

    async def connect(*_: object) -> Stream:
        return Stream()

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    with fail_after(20):
        assert "429 Too Many Requests: too many" in str(await failure("ws://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("error", "through_proxy", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), False, "the name of the host is unknown"),
        (socket.gaierror(-2, "Name or service not known"), True, "the name of the proxy is unknown"),
        (ConnectionRefusedError(111, "refused"), True, "is the proxy running"),
        (OSError(113, "No route to host"), False, "the connection failed: [Errno 113] No route to host"),
        (OSError(113, "No route to host"), True, "the connection through the proxy failed: [Errno 113]"),
        (ClosedResourceError(), False, "the connection failed: ClosedResourceError"),
    ],
)
def test_the_reason_is_what_the_system_said(error: Exception, through_proxy: bool, said: str) -> None:
    group = OSError("all attempts failed")
    group.__cause__ = ExceptionGroup("attempts", [error])
    for exc in (error, group):
        if str(error) or exc is error:
            assert said in reasons.of_failure(exc, through_proxy=through_proxy)


# -- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_cancelled_at_any_moment_it_leaves_nothing_open(scheme: str, certificate: ssl.SSLContext) -> None:
    """An open socket would be reported as a ResourceWarning; a forgotten one, by the server that still serves it."""
    async with tls_serving(certificate) if scheme == "wss" else serving() as port:
        connector = websocket_connector(f"{scheme}://127.0.0.1:{port}", verify_tls=trusting(certificate))
        moment = 0
        is_connected = Event()

        async def connect(scope: CancelScope) -> None:
            with scope:
                async with connector():
                    is_connected.set()
                    await anyio.sleep_forever()

        with fail_after(20):
            while not is_connected.is_set():
                async with create_task_group() as tasks:
                    scope = CancelScope()
                    tasks.start_soon(connect, scope)
                    for _ in range(moment):
                        await checkpoint()
                    scope.cancel()
                moment += 1
    assert moment > 5
    gc.collect()


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own authority for 127.0.0.1, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "2", "-subj", "/CN=iii test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:engine.test"),
        *("-keyout", "key.pem", "-out", "certificate.pem"),
    ]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command")
    path = folder / "both.pem"
    path.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return path


@pytest.fixture
def certificate(certificate_file: Path) -> ssl.SSLContext:
    """The server's side; ``trusting`` makes the client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file)
    context.path = certificate_file  # type: ignore[attr-defined]
    return context


def trusting(server: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.path)


@asynccontextmanager
async def tls_serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as below, create_task_group() as tasks:
        listener: Any = TLSListener(below, context, standard_compatible=False)
        tasks.start_soon(serve_websockets, listener, echo)
        yield below.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def test_messages_travel_over_tls(certificate: ssl.SSLContext) -> None:
    message = bytes(1_000_000)
    with fail_after(20):
        async with tls_serving(certificate) as port:
            connector = websocket_connector(f"wss://127.0.0.1:{port}", verify_tls=trusting(certificate))
            async with connector() as wire:
                received = [b""]
                async with create_task_group() as tasks:
                    tasks.start_soon(wire.send, [b"small", message])
                    while sum(map(len, received)) < 1_000_005:
                        received += await wire.receive()
    assert received == [b"", b"small", message]


async def test_the_tls_context_is_made_once(certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    create = httpx.create_ssl_context

    def create_and_note(verify: bool) -> ssl.SSLContext:
        made.append(verify)
        return create(verify=verify)

    monkeypatch.setattr(httpx, "create_ssl_context", create_and_note)
    with fail_after(20):
        async with tls_serving(certificate) as port:
            connector = websocket_connector(f"wss://127.0.0.1:{port}", verify_tls=False)
            for _ in range(2):
                async with connector() as wire:
                    await wire.send([b"m"])
                    assert await wire.receive() == [b"m"]
    assert made == [False]


async def test_an_unknown_certificate_is_refused(certificate: ssl.SSLContext) -> None:
    with fail_after(20):
        async with tls_serving(certificate) as port:
            error = await failure(f"wss://127.0.0.1:{port}")
    assert "the certificate was not accepted (self" in str(error)
    assert "verify_tls" in str(error)


async def test_tls_with_a_peer_that_speaks_plainly() -> None:
    with fail_after(20):
        async with serving() as port:
            error = await failure(f"wss://127.0.0.1:{port}", verify_tls=False)
    assert "does the peer speak plain ws://?" in str(error)


async def test_no_tls_with_a_peer_that_wants_it(certificate: ssl.SSLContext) -> None:
    with fail_after(20):
        async with tls_serving(certificate) as port:
            error = await failure(f"ws://127.0.0.1:{port}")
    assert "cannot connect to ws://" in str(error)


# -- proxies ----------------------------------------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy that tunnels to ``goal``, or answers ``status``."""

    def __init__(self, goal: int = 0, status: int = 200) -> None:
        self.goal = goal
        self.status = status
        self.heads: list[str] = []

    async def __call__(self, stream: SocketStream) -> None:
        self.heads.append(await read_head(stream))
        await stream.send(b"HTTP/1.1 %d Whatever\r\n\r\n" % self.status)
        if self.status != 200:
            return
        async with await anyio.connect_tcp("127.0.0.1", self.goal) as far, create_task_group() as tasks:

            async def pump(source: Any, sink: Any) -> None:
                try:
                    while True:
                        await sink.send(await source.receive())
                except (anyio.EndOfStream, BrokenResourceError, ClosedResourceError):
                    tasks.cancel_scope.cancel()

            tasks.start_soon(pump, stream, far)
            await pump(far, stream)


async def test_a_proxy_is_asked_for_a_tunnel() -> None:
    """Not to forward the request: few proxies forward an upgrade."""
    proxy = Proxy()
    with fail_after(20):
        async with serving() as goal, raw_serving(proxy) as port:
            proxy.goal = goal
            connector = websocket_connector("ws://engine.test:49134/p", proxy=f"http://us%40er:pw@127.0.0.1:{port}")
            async with connector() as wire:
                await wire.send([b"m"])
                assert await wire.receive() == [b"m"]
    (head,) = proxy.heads
    assert head.startswith("CONNECT engine.test:49134 HTTP/1.1\r\n")
    assert header(head, "host") == "engine.test:49134"
    assert header(head, "proxy-authorization") == "Basic " + b64encode(b"us@er:pw").decode()


async def test_tls_goes_through_the_tunnel(certificate: ssl.SSLContext) -> None:
    proxy = Proxy()
    with fail_after(20):
        async with tls_serving(certificate) as goal, raw_serving(proxy) as port:
            proxy.goal = goal
            connector = websocket_connector(
                "wss://engine.test", proxy=f"http://127.0.0.1:{port}", verify_tls=trusting(certificate)
            )
            async with connector() as wire:
                await wire.send([b"m"])
                assert await wire.receive() == [b"m"]
    assert proxy.heads[0].startswith("CONNECT engine.test:443 HTTP/1.1\r\n")
    assert "authorization" not in proxy.heads[0].lower()


async def test_the_proxy_itself_may_speak_tls(certificate: ssl.SSLContext) -> None:
    proxy = Proxy()

    async def handle(stream: Any) -> None:
        async with stream:
            await proxy(stream)

    with fail_after(20):
        async with (
            serving() as goal,
            await anyio.create_tcp_listener(local_host="127.0.0.1") as below,
            create_task_group() as tasks,
        ):
            proxy.goal = goal
            tasks.start_soon(TLSListener(below, certificate, standard_compatible=False).serve, handle)
            address = f"https://127.0.0.1:{below.extra(SocketAttribute.local_port)}"
            connector = websocket_connector("ws://[::1]:49134", proxy=address, verify_tls=trusting(certificate))
            async with connector() as wire:
                await wire.send([b"m"])
                assert await wire.receive() == [b"m"]
            tasks.cancel_scope.cancel()
    assert proxy.heads[0].startswith("CONNECT [::1]:49134 HTTP/1.1\r\n")


async def test_a_proxy_that_refuses() -> None:
    with fail_after(20):
        async with raw_serving(Proxy(status=407)) as port:
            error = await failure("ws://engine.test:1", proxy=f"http://u:secret@127.0.0.1:{port}")
    assert "the proxy answered 407: the proxy wants credentials" in str(error)
    assert "secret" not in str(error)


@held
async def test_a_proxy_that_says_nothing_is_given_up() -> None:
    async with raw_serving(say_nothing) as port:
        error = await failure("ws://engine.test:1", proxy=f"http://127.0.0.1:{port}", connect_timeout=1)
    assert "waiting for the proxy" in str(error)


@pytest.fixture
def no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("all", "http", "https", "ws", "wss", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "address", "is_used"),
    [
        ("http_proxy", "ws://engine.test:1", True),
        ("WS_PROXY", "ws://engine.test:1", True),
        ("https_proxy", "wss://engine.test:1", True),
        ("ALL_PROXY", "wss://engine.test", True),
        ("https_proxy", "ws://127.0.0.1:{goal}", False),
        ("http_proxy", "ws://127.0.0.1:{goal}", False),
        ("http_proxy", "ws://localhost:{goal}", False),
    ],
)
async def test_the_usual_variables_name_the_proxy_but_never_for_this_machine(
    no_proxy_variables: pytest.MonkeyPatch, variable: str, address: str, is_used: bool
) -> None:
    proxy = Proxy(status=502)
    with fail_after(20):
        async with serving() as goal, raw_serving(proxy) as port:
            no_proxy_variables.setenv(variable, f"http://127.0.0.1:{port}")
            address = address.format(goal=goal)
            if is_used:
                assert "the proxy answered 502" in str(await failure(address, verify_tls=False))
            else:
                async with websocket_connector(address)():
                    pass
    assert bool(proxy.heads) == is_used


async def test_a_proxy_can_be_ruled_out(no_proxy_variables: pytest.MonkeyPatch) -> None:
    proxy = Proxy(status=502)
    with fail_after(20):
        async with raw_serving(proxy) as port:
            no_proxy_variables.setenv("http_proxy", f"http://127.0.0.1:{port}")
            no_proxy_variables.setattr(anyio, "connect_tcp", refuse)
            assert "refused" in str(await failure("ws://engine.test:1", proxy=""))
            no_proxy_variables.setenv("no_proxy", "engine.test")
            assert "refused" in str(await failure("ws://engine.test:1"))
    assert proxy.heads == []


async def refuse(*_: object) -> None:
    raise ConnectionRefusedError
