"""What the tests of ``http`` triggers begin with."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from iii_anyio import Worker
from iii_anyio.devengine import HttpOptions
from iii_anyio.trigger import Trigger
from tests.contract.targets import EngineUnderTest, Target

__all__ = ("bind", "echo", "serving")


@asynccontextmanager
async def serving(
    target: Target, http: bool | HttpOptions = True
) -> AsyncGenerator[tuple[EngineUnderTest, Worker, httpx.AsyncClient]]:
    """An engine that provides ``http`` triggers, a worker and an HTTP client."""
    async with target.open(http=http) as engine, engine.worker() as iii, engine.client() as client:
        await engine.needs_trigger_type(iii, "http")
        yield engine, iii, client


def bind(engine: EngineUnderTest, iii: Worker, name: str, path: str, method: str = "GET", **config: Any) -> Trigger:
    """Bind a function of the test to a path of the test."""
    return iii.register_trigger("http", engine.id(name), {"api_path": path, "http_method": method, **config})


def echo(request: Any) -> Any:
    """Answer with the request."""
    return {"body": request}
