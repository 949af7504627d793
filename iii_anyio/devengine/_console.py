"""The console: a page that is a worker in a browser, served on a port of its own.

The page speaks the protocol itself, over the same listener as other workers. What it needs besides is here: its files,
where to connect, and two functions for what the engine's own ones leave out, the keys of state and of streams.

A page of another site could have its own name resolved to this address (DNS rebinding), and then read what is served
here. It would come with that name as ``Host``, so every other than loopback's is refused.

Below: ``_asgi_server`` and the storage. Above: ``_engine``. Task: the HTTP server's, in the engine's group.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from .._protocol.codec import from_json, to_json
from .._version import __version__
from ._asgi_server import serve_asgi
from ._builtin import Input

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from anyio.abc import TaskGroup

    from ..worker import Worker
    from ._asgi_server import Receive, Scope, Send
    from ._storage import Storage

__all__ = ("DESCRIPTION", "NAME", "ConsoleApp", "browser_url", "read_files", "serve_console")

NAME: Final = "iii-console"
DESCRIPTION: Final = "Serve the console, a page to look into this engine"
MAX_ENTRIES: Final = 1000
"""Of one answer. The page says how many there are."""
MAX_ENTRIES_BYTES: Final = 8 * 1024 * 1024
_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
}
_STATE: Final = Input(scope="string!")
_STREAM: Final = Input(stream_name="string!", group_id="string!")
_LOCAL: Final = {"0.0.0.0": "127.0.0.1", "[::]": "localhost", "[::1]": "localhost"}
_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class ConsoleApp:
    """The ASGI application.

    Args:
        pages: The files by name, as ``read_files`` gives them.
        facts: What the page is told at ``/engine.json``; the URLs in it are where it may connect.
    """

    def __init__(self, pages: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        self._pages = {f"/{name}": (_TYPES[name.rpartition(".")[2]], body) for name, body in pages.items()}
        self._pages["/"] = self._pages["/index.html"]
        self._pages["/engine.json"] = (b"application/json", to_json(dict(facts)))
        peers = " ".join(str(facts[key]) for key in ("url", "stream_url") if facts.get(key))
        # Scripts and styles are files of ours, and no text becomes markup: what is shown comes from anywhere.
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            f"connect-src 'self' {peers}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cache-control", b"no-cache"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if not _is_local(scope):
            await self._answer(send, 403, b"text/plain", b"Open the console as 127.0.0.1 or localhost.\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await self._answer(send, 405, b"text/plain", b"Only GET and HEAD.\n", (b"allow", b"GET, HEAD"))
        elif (page := self._pages.get(scope["path"])) is None:
            await self._answer(send, 404, b"text/plain", b"Not found. The console is at /\n")
        else:
            await self._answer(send, 200, *page)

    async def _answer(
        self, send: Send, status: int, content_type: bytes, body: bytes, *more: tuple[bytes, bytes]
    ) -> None:
        length = (b"content-length", str(len(body)).encode())
        headers = [(b"content-type", content_type), length, *self._headers, *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_local(scope: Scope) -> bool:
    """Whether the client asked for this machine by one of its own names."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return False
    name, _, port = hosts[0].rpartition(":")
    if not name or not port.isdecimal():
        name = hosts[0]
    return name.lower() in _HOSTS


def browser_url(url: str) -> str:
    """A URL as a browser on this machine reaches it, and as its policy can name it: that has no IPv6 addresses."""
    return re.sub(r"://(0\.0\.0\.0|\[.*\])", lambda match: f"://{_LOCAL.get(match[1], match[1])}", url)


def read_files() -> dict[str, bytes]:
    """The page and what belongs to it. Blocks."""
    folder = files("iii_anyio.devengine") / "console"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.rpartition(".")[2] in _TYPES}


@asynccontextmanager
async def serve_console(
    iii: Worker, storage: Storage, sock: socket.socket, group: TaskGroup, pages: Mapping[str, bytes], *,
    url: str, stream_url: str, http_url: str,
) -> AsyncGenerator[ConsoleApp]:  # fmt: skip
    """Serve the page while the block runs.

    Args:
        iii: A worker of the engine, for the functions of the page.
        storage: What they look into.
        sock: Bound; it is closed in any case.
        group: Gets the server's task.
        pages: The files by name.
        url: Where the page connects as a worker.
        stream_url: And for streams; may be empty.
        http_url: Where ``http`` triggers are; may be empty.
    """
    app = ConsoleApp(pages, {"version": __version__, "url": url, "stream_url": stream_url, "http_url": http_url})
    _register(iii, storage)
    await group.start(serve_asgi, app, sock, name="engine console")
    yield app


def _register(iii: Worker, storage: Storage) -> None:
    def state_entries(data: Any) -> dict[str, Any]:
        """``state::list`` gives values without keys (ST-5)."""
        name = f"state:{_STATE.check(f'{NAME}::state_entries', data)['scope']}"
        table = storage.table(name) if name in storage else None
        return _page((key, table.get(key)) for key in table) if table is not None else _page(iter(()))

    def stream_entries(data: Any) -> dict[str, Any]:
        """``stream::list`` gives items without ids."""
        place = _STREAM.check(f"{NAME}::stream_entries", data)
        # The keys are arrays of three names, as text.
        start = to_json([place["stream_name"], place["group_id"]]).decode()[:-1] + ","
        table = storage.table("stream")
        found = (key for key in table if key.startswith(start))
        return _page((_item_id(key), table.get(key)) for key in found)

    for function, fields, description in (
        (state_entries, _STATE, "The keys and values of a scope, for the console"),
        (stream_entries, _STREAM, "The ids and items of a group, for the console"),
    ):
        iii.register_function(
            f"{NAME}::{function.__name__}", function, description=description, execution="async",
            request_format=fields.schema, metadata={"internal": True}, validate=False,
        )  # fmt: skip


def _item_id(key: str) -> str:
    item_id: str = from_json(key.encode())[2]
    return item_id


def _page(entries: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """As many entries as one answer takes, and how many there are."""
    rows: list[dict[str, Any]] = []
    size = 0
    for key, value in islice(entries, MAX_ENTRIES):
        size += len(to_json([value]))
        if rows and size > MAX_ENTRIES_BYTES:
            return {"entries": rows, "total": len(rows) + 1 + sum(1 for _ in entries)}
        rows.append({"key": key, "value": value})
    return {"entries": rows, "total": len(rows) + sum(1 for _ in entries)}
