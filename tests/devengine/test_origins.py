"""Pages of other sites may not connect; this is the engine's own, upstream's takes every page."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio import fail_after

from iii_anyio.devengine import Engine, Listener, Rbac, open_engine
from iii_anyio.devengine._origins import MAX_TOLD, Origins

pytestmark = pytest.mark.anyio

PATHS = ("/", "/otel", "/ws/channels/00000000-0000-4000-8000-000000000001?key=k&dir=read")


async def answer(url: str, origin: str | None, path: str = "/") -> tuple[int, str]:
    """The status of a WebSocket request, and the text of a refusal."""
    parts = urlsplit(url)
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *([] if origin is None else [f"Origin: {origin}"]),
    ]  # fmt: skip
    assert parts.hostname is not None
    assert parts.port is not None
    async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
        await stream.send("\r\n".join([*lines, "", ""]).encode())
        text = (await stream.receive()).decode("latin-1")
    return int(text.split()[1]), text.partition("\r\n\r\n")[2]


@asynccontextmanager
async def engine(**options: Any) -> AsyncGenerator[Engine]:
    with fail_after(5):
        async with open_engine(port=0, http_port=None, **options) as opened:
            yield opened


async def test_pages_of_this_machine_and_programs_connect_and_other_pages_do_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with engine() as opened:
        for url in (opened.url, opened.stream_url):
            for origin in (None, "http://localhost:5173", "http://127.0.0.1:3113"):
                assert (await answer(url, origin))[0] == 101
            assert await answer(url, "https://elsewhere.example") == (
                403,
                "Pages of this origin may not connect; the engine's log says how to allow it\n",
            )
        assert [(await answer(opened.url, "null", path))[0] for path in PATHS] == [403] * 3
        assert opened.connections == 0
    assert "'https://elsewhere.example' refused" in caplog.text
    assert "--allow-origin" in caplog.text


async def test_pages_can_be_allowed() -> None:
    async with engine(allowed_origins=["https://shop.example/"]) as opened:
        for url in (opened.url, opened.stream_url):
            assert (await answer(url, "https://shop.example"))[0] == 101
            assert (await answer(url, "https://shop.example:8443"))[0] == 403


async def test_a_listener_with_rbac_takes_pages_from_anywhere_unless_it_says_which() -> None:
    """Its auth function decides, which sees the header (RB-9)."""
    listeners = [
        Listener(rbac=Rbac()),
        Listener(rbac=Rbac(), allowed_origins=[]),
        Listener(middleware_function_id="m"),
        Listener(allowed_origins=["*"]),
    ]
    async with engine(listeners=listeners, allowed_origins=["https://shop.example"]) as opened:
        for origin, expected in (("https://elsewhere.example", [101, 403, 403, 101]),
                                 ("https://shop.example", [101, 403, 101, 101])):  # fmt: skip
            assert [(await answer(url, origin))[0] for url in opened.urls] == expected


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://localhost", True),
        ("https://shop.localhost:8443", True),
        ("http://127.8.9.10:1", True),
        ("http://[::1]:3000", True),
        ("http://LOCALHOST:3000", True),
        ("http://192.0.2.7:5173", True),  # the address it connects to
        ("http://192.0.2.8:5173", False),
        ("http://mine.example:49134", False),  # whose name may lead here, as that in `Host` may
        ("http://localhost.elsewhere.example", False),
        ("http://127.0.0.1.elsewhere.example", False),
        ("http://notlocalhost", False),
        ("null", False),
        ("", False),
        ("file://", False),
        ("http://[::1", False),
        ("http://localhost:99999999", True),
        ("https://elsewhere.example:99999999", False),
        ("\udcff", False),
    ],
)
async def test_what_is_a_page_of_this_machine(origin: str, is_allowed: bool) -> None:
    host = "mine.example:49134" if "mine" in origin else "192.0.2.7:49134"
    assert Origins().allows(origin, host) is is_allowed


@pytest.mark.parametrize(
    ("allowed", "origin", "is_allowed"),
    [
        (["HTTPS://Shop.Example:443"], "https://shop.example", True),
        (["https://shop.example"], "http://shop.example", False),
        (["chrome-extension://abcdef"], "chrome-extension://abcdef", True),
        (["*"], "null", True),
    ],
)
async def test_origins_are_compared_as_browsers_send_them(allowed: list[str], origin: str, is_allowed: bool) -> None:
    assert Origins(allowed).allows(origin, "") is is_allowed


@pytest.mark.parametrize("wrong", ["shop.example", "https://shop.example/cart", "null", "https://a:b", "", "http://[x"])
async def test_what_is_no_origin_is_refused_at_once(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no origin: say https://"):
        open_engine(port=None, allowed_origins=[wrong])
    with pytest.raises(ValueError, match="is no origin"):
        Listener(allowed_origins=[wrong])
    with pytest.raises(ValueError, match="must be a list"):
        open_engine(allowed_origins="https://shop.example")


async def test_a_page_that_tries_again_and_again_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Refused:
        headers: dict[str, str]

        async def reject(self, status: int, text: str) -> None:
            pass

    caplog.set_level(logging.WARNING)
    origins, refused = Origins(), Refused()
    for number in range(MAX_TOLD * 2):
        refused.headers = {"origin": f"https://{number}.example"}
        for _ in range(2):
            assert await origins.refuse(refused)  # type: ignore[arg-type]
    assert len(caplog.records) == MAX_TOLD
