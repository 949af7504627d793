"""Ways from workers to an engine that a test can cut: over TCP on loopback, and in one process.

A cut is what a broken network does: no close frame, and the worker sees 1006. The engine sees the same, or, with
``tell_engine=False``, nothing: its end of the connection stays open, as after a crash of the worker's host. Tests that
need other ends use ``iii_anyio.testing`` itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from iii_anyio.abc import Connector
from iii_anyio.testing import FaultConnector, FaultProxy

__all__ = ("DirectProxy", "Line", "TcpProxy", "open_direct_proxy", "open_tcp_proxy")


class Line(Protocol):
    """What both proxies are to a test."""

    def cut(self, *, tell_engine: bool = True) -> None:
        """Break every connection there is; the next one works."""
        ...


class TcpProxy(FaultProxy):
    """Forwards TCP connections from a port on loopback to one address. Made by ``open_tcp_proxy``."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def cut(self, *, tell_engine: bool = True) -> None:
        """See ``Line``."""
        self.reset(tell_engine=tell_engine)


class DirectProxy(FaultConnector):
    """Stands between workers and a connector. Made by ``open_direct_proxy``."""

    def connector(self) -> Connector:
        """For ``open_worker(connector=...)``."""
        return self

    def cut(self, *, tell_engine: bool = True) -> None:
        """See ``Line``."""
        self.reset(tell_engine=tell_engine)


@asynccontextmanager
async def open_tcp_proxy(host: str, port: int) -> AsyncGenerator[TcpProxy]:
    """Listen on a free port of loopback for as long as the block lasts."""
    async with TcpProxy(f"ws://{host}:{port}") as proxy:
        yield proxy


@asynccontextmanager
async def open_direct_proxy(connector: Connector) -> AsyncGenerator[DirectProxy]:
    """Carry messages for as long as the block lasts."""
    async with DirectProxy(connector) as proxy:
        yield proxy
