"""The official ``iii-sdk`` exports its telemetry to the embedded engine, and one trace goes through both."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import fail_after, move_on_after
from anyio.abc import Process

from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import open_engine
from tests.heard import Heard

pytest.importorskip("iii")
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)]

PROGRAM = Path(__file__).with_name("official_exporter.py")


def names(nodes: list[dict[str, Any]]) -> list[Any]:
    return [[node["name"], *names(node["children"])] for node in nodes]


def is_whole(roots: list[dict[str, Any]]) -> bool:
    """Whether the outer spans are there, which end last."""
    return any("first" in child["name"] for root in roots for child in root["children"])


@asynccontextmanager
async def exporter(url: str, home: Path) -> AsyncGenerator[Process]:
    """The program, when it is ready."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("III_", "OTEL_"))}
    command = [sys.executable, "-W", "ignore", str(PROGRAM), url]
    async with await anyio.open_process(
        command, env=environment | {"HOME": str(home)}, cwd=home, stderr=None
    ) as process:
        try:
            assert process.stdout is not None
            assert await process.stdout.receive() == b"ready\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()  # whatever went wrong: the official SDK's thread would keep it for ever


async def test_a_request_through_the_official_sdk_is_one_tree(tmp_path: Path) -> None:
    """OB-1, OB-4, §5.3, §7.6, §15: from the route over two functions to a built-in one, and the log belongs to it."""
    with fail_after(60):
        async with (
            open_engine(port=0, http_port=0, stream_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="reader")) as iii,
            exporter(engine.url, tmp_path) as process,
        ):
            heard = Heard()
            iii.register_function("on-trace", heard.hear)
            iii.register_trigger("trace", "on-trace", {"service_name": "official"})
            await iii.wait_ready()
            trace_id = ""
            roots: list[dict[str, Any]] = []
            async with httpx.AsyncClient(base_url=engine.http_url, timeout=30) as client:
                while not is_whole(roots):
                    # Upstream's exporter tries again after seconds, or not at all, when its socket was late.
                    with move_on_after(10):
                        response = await client.get("/first")
                        assert response.json() == "done"
                        while not is_whole(roots):
                            for trace_id in (await heard.take())["trace_ids"]:
                                found = await iii.trigger_async("engine::traces::tree", {"trace_id": trace_id})
                                roots = found["roots"]
            (log,) = (await iii.trigger_async("engine::logs::list", {"trace_id": trace_id}))["logs"]
            assert process.stdin is not None
            await process.stdin.aclose()
            assert await process.wait() == 0
    assert names(roots) == [
        ["GET /first", ["execute official::first", ["inner", ["execute official::second", ["call publish"]]]]]
    ]
    assert log["span_id"] == roots[0]["children"][0]["span_id"]
    assert (log["body"], log["service_name"], log["attributes"]["log.data"]) == ("in the handler", "official", {"n": 1})
