"""Client side: address, headers, TLS and proxy in, an open wire out. The only module that knows httpx.

Below: anyio's streams, httpx and httpx_ws, which make the handshake over them. Above: a worker, a channel or
telemetry, by the ``Connector`` made here. Import it late: httpx and what it brings take most of the import time.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.request import getproxies, proxy_bypass

import anyio.abc
import httpcore
import httpx
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, move_on_after, to_thread
from anyio.streams.tls import TLSStream
from httpx_ws import AsyncWebSocketClient, WebSocketUpgradeError
from websockets.utils import accept_key

from .._protocol.framing import MAX_MESSAGE, Framing
from ..errors import ConnectError
from . import reasons
from .streams import direct_stream
from .websocket import CLOSE_TIMEOUT, WebSocketWire, raw_socket

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("tls_context", "websocket_connector")

MAX_LEADING: Final = 1_048_576
_HANDSHAKE: Final = "waiting for the answer to the WebSocket handshake"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t -~]*")
_CONNECT_ERRORS = (
    httpx.HTTPError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    WebSocketUpgradeError,
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    OSError,  # also ssl.SSLError
)


def websocket_connector(
    address: str,
    *,
    headers: Mapping[str, str] | None = None,
    connect_timeout: float = 10.0,
    verify_tls: bool | ssl.SSLContext = True,
    proxy: str | None = None,
    max_message: int = MAX_MESSAGE,
) -> Callable[[], AbstractAsyncContextManager[WebSocketWire]]:
    """Make a ``Connector`` for this address. Connects nothing yet.

    Entering what the connector returns raises ``ConnectError`` whatever goes wrong; its text has neither credentials
    nor the query. Leaving it closes the wire, with a close frame unless an exception is on its way.

    Args:
        address: ``ws://`` or ``wss://``; path and query are sent as given (P-01).
        headers: Sent with the handshake, as they are.
        connect_timeout: Seconds for DNS, TCP, TLS and the handshake together (P-11).
        verify_tls: ``False`` accepts any certificate. Only ``True`` takes the usual certificate authorities, those of
            certifi and of the system.
        proxy: URL of an HTTP proxy, ``http://`` or ``https://``, or ``""`` for none. ``None`` takes it from the usual
            variables (``wss_proxy``, ``https_proxy``, ``all_proxy``, ``no_proxy``, …), but never for this machine.
        max_message: Bytes of the largest message accepted.

    Raises:
        ValueError: The address, the proxy's URL or a header cannot be right.
    """
    target = _Target(address, headers, connect_timeout, verify_tls, proxy, max_message)
    return lambda: _Connection(target)


class _Target:
    """Where and how to connect; what lasts from one connection to the next."""

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str] | None,
        timeout: float,
        verify_tls: bool | ssl.SSLContext,
        proxy: str | None,
        max_message: int,
    ) -> None:
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL as exc:
            raise ValueError(f"not a WebSocket address ({exc})") from None
        if url.scheme not in {"ws", "wss"} or not url.host:
            raise ValueError(f"not a WebSocket address: {_shown(url)}; it looks like ws://127.0.0.1:49134")
        self.shown = _shown(url)
        self.is_secure = url.scheme == "wss"
        self.url = url
        for name, value in (headers or {}).items():
            # Values may be secret: not even an error may show one.
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"handshake header {name!r} has a character that headers must not have")
        self.headers = httpx.Headers({name: value.strip() for name, value in (headers or {}).items()})
        if url.userinfo:
            credentials = f"{url.username}:{url.password}".encode()
            self.headers["Authorization"] = f"Basic {b64encode(credentials).decode()}"
        self.proxy = _proxy(_proxy_from_environment(url) if proxy is None else proxy)
        self.timeout = timeout
        self.max_message = max_message
        self.tls: ssl.SSLContext | None = None
        """Made once for all connections, by ``prepare_tls``; none where no TLS is."""
        self._verify_tls = verify_tls

    async def prepare_tls(self) -> None:
        """Make ``tls`` if this address or the proxy needs it."""
        if self.tls is None and (self.is_secure or (self.proxy is not None and self.proxy.url.scheme == "https")):
            verify = self._verify_tls
            # Reading the certificates takes tens of milliseconds.
            self.tls = verify if isinstance(verify, ssl.SSLContext) else await to_thread.run_sync(tls_context, verify)


class _Connection:
    """One connection, for as long as its ``async with`` lasts."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._network = _Network(target)
        self._stack = AsyncExitStack()
        self._wire: WebSocketWire | None = None

    async def __aenter__(self) -> WebSocketWire:
        target = self._target
        try:
            with move_on_after(target.timeout):
                self._wire = await self._open()
                return self._wire
        except _CONNECT_ERRORS as exc:
            raise ConnectError(target.shown, _explain(exc, target)) from exc
        finally:
            if self._wire is None:
                await self._release()
        stage = self._network.stage
        raise ConnectError(target.shown, f"gave up after {target.timeout:g} s {stage}; check host, port and firewalls")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._wire is not None
        try:
            if exc_type is None:
                await self._wire.aclose()
            else:
                await self._wire.abort()
        finally:
            await self._release()

    async def _open(self) -> WebSocketWire:
        target, network = self._target, self._network
        await target.prepare_tls()
        client = httpx.AsyncClient(transport=_Transport(target, network), trust_env=False, timeout=None)
        await self._stack.enter_async_context(client)
        handshake = AsyncWebSocketClient(client, session_class=cast("type[Any]", _Session))
        session: _Session = await self._stack.enter_async_context(
            handshake.connect(target.shown, headers=target.headers.copy())
        )
        session.check()
        # From here on the stream is ours alone; httpcore has what it read behind the answer.
        network.is_handed_over = True
        leading = await session.stream.read(MAX_LEADING)
        stream = network.stream
        assert stream is not None
        return WebSocketWire(
            stream if isinstance(stream, TLSStream) else direct_stream(stream),
            Framing(is_client=True, max_message=target.max_message),
            socket=raw_socket(stream),
            leading=leading,
        )

    async def _release(self) -> None:
        with move_on_after(CLOSE_TIMEOUT, shield=True):
            try:
                await self._stack.aclose()
            finally:
                await self._network.aclose()


class _Session:
    """What httpx_ws makes of a 101 answer, in place of its own session: it has the stream, and starts nothing."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, *, response: httpx.Response, **_: object) -> None:
        self.stream = stream
        self._response = response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def check(self) -> None:
        """Check the answer as RFC 6455 4.1 demands."""
        request, answer = self._response.request.headers, self._response.headers
        if answer.get("sec-websocket-accept") != accept_key(request["sec-websocket-key"]):
            raise httpx.RemoteProtocolError("its Sec-WebSocket-Accept does not match; is a cache in between?")
        if "sec-websocket-extensions" in answer:
            raise httpx.RemoteProtocolError("it chose an extension, and none was offered")
        if "sec-websocket-protocol" in answer and "sec-websocket-protocol" not in request:
            raise httpx.RemoteProtocolError("it chose a subprotocol, and none was offered")


class _Transport(httpx.AsyncBaseTransport):
    """One HTTP/1.1 request over a stream of ours.

    httpx's own transport keeps its stream to itself: each read and write would pass through httpcore for the life of
    the connection (10 µs), TLS handshakes that are cancelled would leave a socket open, and a proxy would be asked to
    forward the upgrade instead of tunnelling it.
    """

    def __init__(self, target: _Target, network: _Network) -> None:
        url = target.url
        origin = httpcore.Origin(url.raw_scheme, url.raw_host, url.port or (443 if target.is_secure else 80))
        self._connection = httpcore.AsyncHTTPConnection(origin, ssl_context=target.tls, network_backend=network)
        self._origin = origin
        self._path = url.raw_path
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._connection.handle_async_request(
            httpcore.Request(
                # httpx logs the URL it is given, at level INFO, so it gets one without query and credentials.
                request.method,
                _url(self._origin, self._path),
                headers=request.headers.raw,
                extensions={},
            )
        )
        # Nobody reads the body of an answer that is no 101.
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=httpx.AsyncByteStream(),
            extensions=cast("Any", response).extensions,
        )

    async def aclose(self) -> None:
        await self._connection.aclose()


class _Network(httpcore.AsyncNetworkBackend):
    """Opens the stream of one connection, through the proxy if there is one."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._tcp: anyio.abc.ByteStream | None = None
        self.stream: anyio.abc.ByteStream | None = None
        """The TCP stream, or the TLS stream on it."""
        self.stage = "connecting"
        """What is being waited for."""
        self.is_handed_over = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        proxy, tls = self._target.proxy, self._target.tls
        if proxy is None:
            return await self._connect(host, port)
        url, auth = proxy.url, proxy.raw_auth
        origin = httpcore.Origin(url.raw_scheme, url.raw_host, url.port or (443 if url.scheme == "https" else 80))
        stream = await self._connect(url.host, origin.port)
        if url.scheme == "https":
            assert tls is not None
            stream = await stream.start_tls(tls, url.host)
        self.stage = "waiting for the proxy"
        goal = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        headers = [("Host", goal)]
        if auth is not None:
            headers.append(("Proxy-Authorization", f"Basic {b64encode(b':'.join(auth)).decode()}"))
        answer = await httpcore.AsyncHTTP11Connection(origin, stream).handle_async_request(
            httpcore.Request("CONNECT", _url(origin, goal.encode()), headers=headers)
        )
        if not 200 <= answer.status < 300:
            raise httpx.ProxyError(f"the proxy answered {answer.status}: {reasons.of_answer(answer.status)}")
        self.stage = _HANDSHAKE
        return stream

    async def _connect(self, host: str, port: int) -> _NetworkStream:
        self.stage = "connecting"
        self._tcp = self.stream = await anyio.connect_tcp(host, port)
        self.stage = _HANDSHAKE
        return _NetworkStream(self, self.stream)

    async def aclose(self) -> None:
        """Close the socket, at whatever stage."""
        if self._tcp is not None:
            await self._tcp.aclose()


class _NetworkStream(httpcore.AsyncNetworkStream):
    """An anyio stream as httpcore would have it, for the handshake. The wire uses the stream itself."""

    def __init__(self, network: _Network, stream: anyio.abc.ByteStream) -> None:
        self._network = network
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._network.is_handed_over:
            return b""
        try:
            return await self._stream.receive(max_bytes)
        except EndOfStream:
            return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._stream.send(buffer)
        except BrokenResourceError as exc:
            raise httpcore.WriteError from exc  # it looks for an answer nevertheless

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _NetworkStream:
        network = self._network
        network.stage = "in the TLS handshake"
        # No wait for the peer's close_notify: a close frame has said it, and it need not come.
        network.stream = await TLSStream.wrap(
            self._stream, hostname=server_hostname, ssl_context=ssl_context, standard_compatible=False
        )
        network.stage = _HANDSHAKE
        return _NetworkStream(network, network.stream)


def _url(origin: httpcore.Origin, target: bytes) -> httpcore.URL:
    return httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=target)


def tls_context(verify: bool) -> ssl.SSLContext:
    """The settings of TLS connections that we make. Reads files: tens of milliseconds."""
    context = httpx.create_ssl_context(verify=verify)
    if verify:
        # certifi's authorities, and those an administrator added to the system.
        context.load_default_certs()
    return context


def _proxy(address: str) -> httpx.Proxy | None:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        raise ValueError("not a URL of a proxy") from None
    if not address:
        return None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"{url.scheme or 'unknown'} proxies are not supported: give an HTTP proxy, or '' for none")
    return httpx.Proxy(url)


def _proxy_from_environment(url: httpx.URL) -> str:
    try:
        is_local = ip_address(url.host).is_loopback
    except ValueError:
        is_local = url.host == "localhost"
    if is_local or proxy_bypass(f"{url.host}:{url.port}" if url.port is not None else url.host):
        return ""
    proxies = getproxies()
    names = ("wss", "https", "all") if url.scheme == "wss" else ("ws", "http", "all")
    return next((proxies[name] for name in names if proxies.get(name)), "")


def _shown(url: httpx.URL) -> str:
    """Without what may be secret."""
    port = "" if url.port is None else f":{url.port}"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{port}{url.path}"


def _explain(exc: BaseException, target: _Target) -> str:
    if isinstance(exc, WebSocketUpgradeError):
        answer = exc.response
        if answer.has_redirect_location:
            return f"the peer sends us to {_shown(target.url.join(answer.headers['location']))}; use that address"
        return f"the peer answered {answer.status_code} {answer.reason_phrase}: {reasons.of_answer(answer.status_code)}"
    if isinstance(exc, httpx.ProxyError):
        return str(exc)
    if isinstance(exc, httpx.RemoteProtocolError | httpcore.RemoteProtocolError):
        return f"the peer does not speak WebSocket here, or not {target.url.scheme}: {exc}"
    return reasons.of_failure(exc, through_proxy=target.proxy is not None)
