"""The engines that the contract suite runs against, in one shape: embedded without sockets, embedded behind sockets,
and any outside engine of ``--engine-url``.

A test opens one with ``target.open()`` and takes every name from ``engine.id()``, so that it does not mind others who
use the same engine. What an outside engine lacks is asked of it (``needs_trigger_type``) or known (``skip_outside``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from iii_anyio import InitOptions, ReconnectionConfig, Worker, open_worker
from iii_anyio.devengine import Engine, HttpOptions, open_engine
from tests.conftest import RealEngine
from tests.proxy import DirectProxy, Line, TcpProxy, open_direct_proxy, open_tcp_proxy

__all__ = ("EngineUnderTest", "Kind", "Target", "until")

Kind = Literal["direct", "socket", "outside"]

LIMIT = 20.0
"""Seconds that a whole test may take unless it says more."""
RECONNECT_MS = 20


@dataclass
class Target:
    """An engine to be opened by a test."""

    kind: Kind
    outside: RealEngine | None = None

    @property
    def is_outside(self) -> bool:
        """Whether somebody else runs it."""
        return self.outside is not None

    @asynccontextmanager
    async def open(
        self, *, http: bool | HttpOptions = False, seconds: float = LIMIT
    ) -> AsyncGenerator[EngineUnderTest]:
        """Have the engine for a block, which may take ``seconds``.

        Args:
            http: Whether the test makes HTTP requests. Options are for what only an embedded engine can be told.
            seconds: For everything in the block.
        """
        with fail_after(seconds):
            if self.outside is not None:
                if isinstance(http, HttpOptions):
                    pytest.skip("an outside engine cannot be told options")
                if http and self.outside.http is None:
                    pytest.skip("needs the outside engine's HTTP address: --engine-http")
                yield EngineUnderTest(None, self.outside.url, self.outside.http or "")
                return
            port = None if self.kind == "direct" else 0
            options = http if isinstance(http, HttpOptions) else None
            async with open_engine(port=port, http_port=0 if http else None, stream_port=None, http=options) as engine:
                yield EngineUnderTest(engine, engine.url, engine.http_url)

    def skip_outside(self, reason: str) -> None:
        """Skip on an outside engine, for a known difference."""
        if self.is_outside:
            pytest.skip(f"an outside engine: {reason}")


@dataclass
class EngineUnderTest:
    """A running engine and the names that one test uses on it."""

    embedded: Engine | None
    url: str
    http_url: str
    tag: str = field(default_factory=lambda: f"t{uuid4().hex[:10]}")

    def id(self, name: str) -> str:
        """A name nobody else has: for functions, workers, namespaces, trigger types and the first part of paths."""
        return f"{self.tag}::{name}"

    def path(self, rest: str) -> str:
        """A path nobody else has, without leading slash."""
        return f"{self.tag}/{rest}"

    # -- ways to it ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def worker(self, name: str = "worker", *, line: Line | None = None, **options: Any) -> AsyncGenerator[Worker]:
        """A worker of this engine. ``name`` is completed; ``options`` are those of ``InitOptions``."""
        merged = InitOptions(
            worker_name=self.id(name),
            handle_signals=False,
            reconnection_config=ReconnectionConfig(initial_delay_ms=RECONNECT_MS, max_delay_ms=RECONNECT_MS),
            **options,
        )
        if isinstance(line, DirectProxy):
            opened = open_worker(options=merged, connector=line.connector())
        elif isinstance(line, TcpProxy):
            address = urlsplit(self.url)._replace(netloc=f"127.0.0.1:{line.port}")
            opened = open_worker(address.geturl(), merged)
        elif self.url:
            opened = open_worker(self.url, merged)
        else:
            opened = open_worker(options=merged, connector=self._in_process().connector())
        async with opened as worker:
            yield worker

    @asynccontextmanager
    async def workers(self, *names: str) -> AsyncGenerator[list[Worker]]:
        """Several workers with default options."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.worker(name)) for name in names]

    @asynccontextmanager
    async def line(self) -> AsyncGenerator[Line]:
        """A way for ``worker(line=...)`` that the test can cut."""
        if self.url:
            address = urlsplit(self.url)
            if address.scheme != "ws" or address.hostname is None:
                pytest.skip("an outside engine: the proxy of the tests speaks no TLS")
            async with open_tcp_proxy(address.hostname, address.port or 80) as tcp:
                yield tcp
        else:
            async with open_direct_proxy(self._in_process().connector()) as direct:
                yield direct

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient]:
        """An HTTP client of the engine's HTTP address."""
        async with httpx.AsyncClient(base_url=self.http_url, trust_env=False, verify=False, timeout=None) as client:
            yield client

    def _in_process(self) -> Engine:
        assert self.embedded is not None
        return self.embedded

    # -- what it has ---------------------------------------------------------------------------------------------

    async def needs_trigger_type(self, iii: Worker, type_id: str) -> None:
        """Skip unless the engine provides this type of trigger. An embedded engine provides all we ask for."""
        found = await iii.trigger_async("engine::triggers::list", {"prefix": type_id, "include_internal": True})
        if type_id not in [row["id"] for row in found["triggers"]]:
            assert self.embedded is None, f"the embedded engine has no trigger type {type_id}"
            pytest.skip(f"the outside engine provides no trigger type {type_id!r}")

    async def has_function(self, iii: Worker, function_id: str) -> bool:
        """Whether ``engine::functions::list`` names it."""
        found = await iii.trigger_async("engine::functions::list", {"prefix": function_id, "include_internal": True})
        return function_id in [row["function_id"] for row in found["functions"]]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so. Each question is a round trip to the engine, and the test's time is limited."""
    while not await condition():
        await checkpoint()
