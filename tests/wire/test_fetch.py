"""One HTTP request to a checked address."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream, create_task_group, fail_after
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSListener

from iii_anyio._wire.fetch import AddressRefusedError, Fetcher, FetchError
from iii_anyio._wire.http_url import Address, HttpUrl
from tests.wire.servers import raw_serving, read_head
from tests.wire.streams import MemoryStream, memory_streams
from tests.wire.test_connect import certificate, certificate_file, trusting

__all__ = ("certificate", "certificate_file")  # fixtures

pytestmark = pytest.mark.anyio

LOOPBACK = ip_address("127.0.0.1")


async def ok(stream: Any) -> None:
    await read_head(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def allow_all(_address: Address) -> bool:
    return True


async def get(fetcher: Fetcher, url: str, **options: Any) -> tuple[int, bytes]:
    options = {"timeout": 5.0, "limit": 1000, **options}
    return await fetcher.fetch("GET", HttpUrl.parse(url), [("X-A", "1")], b"", **options)


class Names:
    """A name server whose answers change from one question to the next."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = [[ip_address(text) for text in answer] for answer in answers]
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        await checkpoint()
        self.asked.append((host, port))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name that says something else a moment later (DNS rebinding) is not asked again."""
    with fail_after(20):
        async with raw_serving(ok) as port:
            checked: list[str] = []

            def allows(address: Address) -> bool:
                checked.append(str(address))
                return True

            names = Names(["127.0.0.1"], ["203.0.113.1"])
            assert await get(Fetcher(allows, resolve=names), f"http://elsewhere.test:{port}/") == (200, b"ok")
            assert names.asked == [("elsewhere.test", port)]
            assert checked == ["127.0.0.1"]


async def test_one_forbidden_address_of_a_name_is_enough() -> None:
    with fail_after(20):
        async with raw_serving(ok) as port:
            fetcher = Fetcher(lambda address: address != LOOPBACK, resolve=Names(["8.8.8.8", "127.0.0.1"]))
            with pytest.raises(AddressRefusedError, match=r"elsewhere\.test is the private address 127\.0\.0\.1"):
                await get(fetcher, f"http://elsewhere.test:{port}/")
            with pytest.raises(AddressRefusedError):
                await get(fetcher, f"http://127.0.0.1:{port}/")


async def test_the_next_address_is_tried_when_one_takes_no_connection() -> None:
    with fail_after(20):
        async with raw_serving(ok) as port:
            fetcher = Fetcher(allow_all, resolve=Names(["127.0.0.2", "127.0.0.1"], ["127.0.0.2", "127.0.0.3"], []))
            assert await get(fetcher, f"http://elsewhere.test:{port}/") == (200, b"ok")
            with pytest.raises(FetchError, match="Connection refused"):
                await get(fetcher, f"http://elsewhere.test:{port}/")
            with pytest.raises(FetchError, match="has no address"):
                await get(fetcher, f"http://elsewhere.test:{port}/")


async def test_names_are_resolved_by_the_system() -> None:
    with fail_after(20):
        async with raw_serving(ok) as port:
            assert await get(Fetcher(allow_all), f"http://localhost:{port}/") == (200, b"ok")
            with pytest.raises(FetchError) as caught:
                await get(Fetcher(allow_all), "http://no-such-host.invalid/")
            assert not caught.value.has_head


async def test_a_body_over_the_limit_is_refused() -> None:
    with fail_after(20):
        async with raw_serving(ok) as port:
            assert await get(Fetcher(allow_all), f"http://127.0.0.1:{port}/", limit=2) == (200, b"ok")
            with pytest.raises(FetchError, match="longer than 1 bytes") as caught:
                await get(Fetcher(allow_all), f"http://127.0.0.1:{port}/", limit=1)
            assert caught.value.has_head


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_the_timeout_covers_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = memory_streams()

    async def connect(*_: object) -> MemoryStream:
        return near

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    with fail_after(10):
        await far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        with pytest.raises(FetchError, match=r"operation timed out after 2\.5 s") as caught:
            await get(Fetcher(allow_all), "http://127.0.0.1/", timeout=2.5)
        assert caught.value.has_head
        assert near.is_closed


@asynccontextmanager
async def tls_serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def handle(stream: Any) -> None:
        async with stream:
            with suppress(EndOfStream, BrokenResourceError, ClosedResourceError):
                await ok(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as below, create_task_group() as tasks:
        listener = TLSListener(below, context, standard_compatible=False)
        tasks.start_soon(listener.serve, handle)
        yield below.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def test_the_certificate_is_that_of_the_name_and_not_of_the_address(certificate: ssl.SSLContext) -> None:
    with fail_after(20):
        async with tls_serving(certificate) as port:
            names = Names(["127.0.0.1"])
            fetcher = Fetcher(allow_all, resolve=names, verify_tls=trusting(certificate))
            assert await get(fetcher, f"https://engine.test:{port}/") == (200, b"ok")
            assert await get(fetcher, f"https://127.0.0.1:{port}/") == (200, b"ok")
            with pytest.raises(FetchError, match="certificate verify failed"):
                await get(fetcher, f"https://other.test:{port}/")
            with pytest.raises(FetchError, match="certificate verify failed"):  # by the usual authorities
                await get(Fetcher(allow_all, resolve=names), f"https://engine.test:{port}/")
            assert await get(Fetcher(allow_all, verify_tls=False), f"https://127.0.0.1:{port}/") == (200, b"ok")


# What the server had accepted and not begun to serve is not what is looked at.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cancelled_at_any_moment_it_leaves_nothing_open(
    scheme: str, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[Any] = []
    connect_tcp = anyio.connect_tcp

    async def connect(*args: Any) -> SocketStream:
        stream = await connect_tcp(*args)
        sockets.append(stream.extra(SocketAttribute.raw_socket))
        return stream

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    async with tls_serving(certificate) if scheme == "https" else raw_serving(ok) as port:
        fetcher = Fetcher(allow_all, verify_tls=trusting(certificate))
        moment = 0
        answers: list[Any] = []

        async def fetch(scope: CancelScope) -> None:
            with scope:
                answers.append(await get(fetcher, f"{scheme}://127.0.0.1:{port}/"))

        with fail_after(20):
            while not answers:
                async with create_task_group() as tasks:
                    scope = CancelScope()
                    tasks.start_soon(fetch, scope)
                    for _ in range(moment):
                        await checkpoint()
                    scope.cancel()
                moment += 1
            assert moment > 5
            while any(socket.fileno() != -1 for socket in sockets):
                await checkpoint()  # asyncio closes them a moment later
    assert sockets
