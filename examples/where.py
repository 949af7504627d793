"""Where the examples find an engine: the one ``III_URL`` names, else one of their own that ends with them.

A real engine is told by ``III_URL``, and ``III_HTTP_URL`` and ``III_STREAM_URL`` where they are not its defaults.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from iii_anyio.devengine import open_engine

__all__ = ("Place", "open_place")


@dataclass(frozen=True)
class Place:
    """The addresses of an engine."""

    url: str
    http_url: str
    stream_url: str


@asynccontextmanager
async def open_place() -> AsyncGenerator[Place]:
    """Give the addresses of an engine that runs."""
    if url := os.environ.get("III_URL"):
        http_url = os.environ.get("III_HTTP_URL", "http://127.0.0.1:3111")
        yield Place(url, http_url, os.environ.get("III_STREAM_URL", "ws://127.0.0.1:3112"))
        return
    async with open_engine(port=0, http_port=0, stream_port=0) as engine:
        yield Place(engine.url, engine.http_url, engine.stream_url)
