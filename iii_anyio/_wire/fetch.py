"""One HTTP request to an address that was checked: for the engine's external HTTP functions.

A name is resolved here, each of its addresses is checked, and the connection goes to a checked address: what the name
says a moment later does not matter. Redirects are not followed, proxies are not used, a connection serves one request.

httpx would look the name up again, and does not say where it connects to; its body is read by asynchronous generators,
which a cancellation leaves behind. So this is h11 on a stream of our own, as the engine's HTTP server is.

Below: anyio's streams, h11. Above: ``devengine/builtins/http_functions``.
"""

from __future__ import annotations

import math
import os
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import anyio
import anyio.abc
import h11
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, fail_after, move_on_after, to_thread
from anyio.streams.tls import TLSStream

if TYPE_CHECKING:
    from .http_url import Address, HttpUrl

__all__ = ("AddressRefusedError", "FetchError", "Fetcher", "resolve_by_system")

Resolve: TypeAlias = "Callable[[str, int], Awaitable[list[Address]]]"

CHUNK: Final = 65_536
MAX_HEAD: Final = 65_536
NEXT_ADDRESS_AFTER: Final = 3.0
"""Seconds that one address of several may take to answer."""
LONGEST_TIMEOUT: Final = 86_400.0
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t -~]*")
_FAILURES: Final = (
    h11.ProtocolError,
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    OSError,  # also ssl.SSLError and TimeoutError
    ValueError,  # a header that is none
)


class FetchError(Exception):
    """No whole answer came.

    Args:
        reason: What happened and what led to it, in one line, without credentials and query.
        has_head: Whether status and headers had come.
    """

    def __init__(self, reason: str, *, has_head: bool = False) -> None:
        super().__init__(reason)
        self.has_head = has_head


class AddressRefusedError(Exception):
    """The host has an address that is not allowed."""


async def resolve_by_system(host: str, port: int) -> list[Address]:
    """The addresses of a name.

    Raises:
        OSError: There are none.
    """
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A scope (`fe80::1%eth0`) is of no use here.
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


class Fetcher:
    """Makes requests.

    Args:
        allows: Whether an address may be connected to; a host with one that may not is refused as a whole.
        resolve: Addresses of a name.
        verify_tls: ``False`` accepts any certificate; a context is used as it is.
    """

    def __init__(
        self,
        allows: Callable[[Address], bool],
        *,
        resolve: Resolve = resolve_by_system,
        verify_tls: bool | ssl.SSLContext = True,
    ) -> None:
        self._allows = allows
        self._resolve = resolve
        self._tls = verify_tls

    async def fetch(
        self, method: str, url: HttpUrl, headers: Sequence[tuple[str, str]], body: bytes, *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        """Make one request and return status and body of its answer.

        Args:
            method: Upper case.
            url: Where to.
            headers: Added to ``Host`` and ``Content-Length`` in this order, repeated names included; a ``Host`` of
                one's own takes the place of the URL's.
            body: Sent with every method.
            timeout: Seconds for everything.
            limit: Bytes of the longest body accepted.

        Raises:
            AddressRefusedError: By ``allows``.
            FetchError: Anything else that went wrong.
        """
        exchange = _Exchange()
        shown = f"error sending request for url ({url})"
        try:
            with fail_after(min(timeout, LONGEST_TIMEOUT)):
                return await self._exchange(exchange, method, url, headers, body, limit)
        except TimeoutError as exc:
            # Ours, or that of a connection attempt in the operating system.
            text = f"operation timed out after {timeout:g} s" if exchange.is_over_time(exc) else _chain(exc)
            raise FetchError(f"{shown}: {text}", has_head=exchange.has_head) from exc
        except _FAILURES as exc:
            raise FetchError(f"{shown}: {_chain(exc)}", has_head=exchange.has_head) from exc
        finally:
            with move_on_after(1.0, shield=True):
                await exchange.aclose()

    async def _exchange(
        self,
        exchange: _Exchange,
        method: str,
        url: HttpUrl,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        limit: int,
    ) -> tuple[int, bytes]:
        raw = [_header(name, value.strip(" \t")) for name, value in headers]
        if url.credentials and not any(name.lower() == b"authorization" for name, _ in raw):
            raw.append((b"Authorization", b"Basic " + b64encode(url.credentials)))
        if not any(name.lower() == b"host" for name, _ in raw):
            raw.insert(0, (b"Host", url.host_header.encode("ascii")))
        raw += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")]
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        request = (h11.Request(method=method, target=url.target, headers=raw), h11.Data(body), h11.EndOfMessage())
        sent = b"".join(http.send(part) or b"" for part in request)
        stream = await self._connect(exchange, url)
        with suppress(BrokenResourceError):  # an answer may have come before all was read
            await stream.send(sent)
        status, received = 0, bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                try:
                    http.receive_data(await stream.receive(CHUNK))
                except EndOfStream:
                    http.receive_data(b"")
            elif isinstance(event, h11.Response):
                status, exchange.has_head = event.status_code, True
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > limit:
                    raise OSError(f"the body is longer than {limit} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return status, bytes(received)
            elif not isinstance(event, h11.InformationalResponse):
                raise OSError("the server closed the connection without an answer")

    async def _connect(self, exchange: _Exchange, url: HttpUrl) -> anyio.abc.ByteStream:
        literal = url.address
        addresses = [literal] if literal is not None else await self._resolve(url.host, url.port)
        if not addresses:
            raise OSError(f"{url.host} has no address")
        for address in addresses:
            if not self._allows(address):
                raise AddressRefusedError(f"{url.host} is the private address {address}")
        tcp = exchange.tcp = await _connect_to(addresses, url.port)
        if not url.is_secure:
            return tcp
        if isinstance(self._tls, bool):
            self._tls = await to_thread.run_sync(_make_tls_context, self._tls)
        # No wait for the peer's close_notify: HTTP says where an answer ends.
        return await TLSStream.wrap(tcp, hostname=url.host, ssl_context=self._tls, standard_compatible=False)


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        # The value may be a secret: h11 would show it.
        raise ValueError(f"header {name!r} has a character that headers must not have")
    return name.encode("ascii"), value.encode("ascii")


def _make_tls_context(verify: bool) -> ssl.SSLContext:
    from .connect import tls_context  # imports httpx: also a matter for a thread

    return tls_context(verify)


async def _connect_to(addresses: Sequence[Address], port: int) -> anyio.abc.SocketStream:
    """The first address that takes a connection."""
    failure: OSError | None = None
    for number, address in enumerate(addresses, 1):
        is_last = number == len(addresses)
        with move_on_after(math.inf if is_last else NEXT_ADDRESS_AFTER):
            try:
                return await anyio.connect_tcp(str(address), port)
            except OSError as exc:
                failure = failure if failure is not None else exc
    raise failure if failure is not None else TimeoutError("no address answers")


class _Exchange:
    """What is known of one request while it is under way."""

    def __init__(self) -> None:
        self.tcp: anyio.abc.SocketStream | None = None
        self.has_head = False

    @staticmethod
    def is_over_time(exc: TimeoutError) -> bool:
        """Whether it is the one of ``fail_after``, which says nothing."""
        return exc.errno is None and not exc.args

    async def aclose(self) -> None:
        """Close the socket, at whatever stage."""
        if self.tcp is not None:
            await anyio.aclose_forcefully(self.tcp)


def _chain(exc: BaseException) -> str:
    """What the exception and those that led to it say, nearest first, each once."""
    said: dict[str, None] = {}
    for cause in _causes(exc):
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ssl.SSLError):
            text = cause.strerror or os.strerror(cause.errno)
            if not isinstance(cause, socket.gaierror):
                # anyio and trio put their own words around the system's.
                text = f"{os.strerror(cause.errno)} (os error {cause.errno})"
        else:
            text = str(cause) or type(cause).__name__
        said[text] = None
    return ": ".join(said)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        if isinstance(exc, BaseExceptionGroup):
            for member in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
                yield from _causes(member)
        else:
            yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
