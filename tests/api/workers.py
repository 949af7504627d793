"""Set-ups that several tests of the public API share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import fail_after

from iii_anyio import InitOptions, Worker, open_worker
from iii_anyio.devengine import open_engine


@asynccontextmanager
async def two_workers(**more: Any) -> AsyncIterator[tuple[Worker, Worker]]:
    """A caller, and a callee with these options, on an engine of their own without sockets."""
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="caller")) as caller,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="callee", **more)) as callee,
        ):
            yield caller, callee
