"""The official ``iii-sdk`` and this package as workers of one embedded engine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import fail_after
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from iii_anyio import InitOptions, InvocationError, TriggerRegistrationError, Worker, open_worker
from iii_anyio.devengine import Engine, open_engine
from tests.contract.providers import Bindings
from tests.proxy import open_tcp_proxy

pytest.importorskip("iii")
pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("official_worker.py")
TAG = "interop"
MIB = 1_048_576


class Official:
    """The other worker's process: commands in, answers out."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    async def read(self) -> Any:
        return json.loads(await self._stdout.receive_until(b"\n", 1_000_000))

    async def ask(self, **command: Any) -> Any:
        await self._stdin.send(json.dumps(command).encode() + b"\n")
        return await self.read()

    async def trigger(self, function: str, payload: Any = None, **more: Any) -> Any:
        """Have it call a function of ours; its result, or its error as a list of code and message."""
        request = {"function_id": f"{TAG}::ours::{function}", "payload": payload, **more}
        answer = await self.ask(trigger=request)
        return answer["result"] if "result" in answer else tuple(answer["error"])

    async def end(self) -> None:
        """Let it shut down in order."""
        await self._stdin.aclose()
        assert await self.read() == {"over": True}


@asynccontextmanager
async def official(url: str, home: Path, *arguments: str) -> AsyncGenerator[Official]:
    """Run it; at the block's end it must leave in order and without complaint."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("III_", "OTEL_"))},
        "HOME": str(home),
        "OTEL_ENABLED": "false",
    }
    with (home / "stderr").open("wb") as stderr:
        command = [sys.executable, str(PROGRAM), url, TAG, *arguments]
        async with await anyio.open_process(command, stderr=stderr, env=environment, cwd=home) as process:
            try:
                other = Official(process)
                assert await other.read() == {"ready": True}
                yield other
                said = (home / "stderr").stat().st_size
                await other.end()
                assert await process.wait() == 0
            except BaseException:
                process.kill()
                print((home / "stderr").read_text())
                raise
    assert (home / "stderr").read_bytes()[said:] == b""


def ours(url: str, **options: Any) -> Any:
    return open_worker(url, InitOptions(worker_name=f"{TAG}::ours", handle_signals=False, **options))


def register(iii: Worker) -> None:
    """The same functions as ``official_worker.py`` has."""

    async def add(data: Any) -> Any:
        return data["a"] + data["b"]

    async def fail(_data: Any) -> None:
        raise InvocationError("sold_out", "out of stock")

    def http(request: Any) -> Any:
        return {
            "status_code": 201,
            "body": [request["method"], request["path_params"], request["query_params"], request["body"]],
            "headers": {"x-served-by": "ours"},
        }

    handlers: dict[str, Any] = {
        "add": add,
        "double": lambda data: data * 2,
        "none": lambda data: None,
        "fail": fail,
        "meta": lambda data, metadata: [data, metadata],
        "http": http,
        "length": len,
    }
    for name, handler in handlers.items():
        iii.register_function(f"{TAG}::ours::{name}", handler)
    iii.register_trigger("http", f"{TAG}::ours::http", {"api_path": f"{TAG}/ours/:id", "http_method": "POST"})


async def call(iii: Worker, function: str, payload: Any = None, **more: Any) -> Any:
    return await iii.trigger_async(f"{TAG}::official::{function}", payload, **more)


async def check_calls(iii: Worker, other: Official) -> None:
    """Each calls the other's functions."""
    assert await call(iii, "add", {"a": 1, "b": 2}) == 3
    assert await other.trigger("add", {"a": 1, "b": 2}) == 3
    assert await call(iii, "double", "é😀") == "é😀é😀"
    assert await other.trigger("double", "é😀") == "é😀é😀"
    assert await call(iii, "none", {}) is None
    assert await other.trigger("none", {}) is None
    assert await call(iii, "meta", [1], metadata={"m": 1}) == [[1], {"m": 1}]
    assert await other.trigger("meta", [1], metadata={"m": 1}) == [[1], {"m": 1}]
    with pytest.raises(InvocationError) as caught:
        await call(iii, "fail", {})
    assert (caught.value.code, caught.value.message) == ("invocation_failed", "out of stock")
    assert "LookupError: out of stock" in (caught.value.stacktrace or "")
    assert await other.trigger("fail", {}) == ("sold_out", "out of stock")
    with pytest.raises(InvocationError) as caught:
        await call(iii, "nowhere", {})
    assert caught.value.code == "function_not_found"
    assert (await other.trigger("nowhere", {}))[0] == "function_not_found"
    assert await call(iii, "add", {}, action={"type": "void"}) is None
    assert await other.trigger("add", {}, action={"type": "void"}) is None
    # None is sent as null by us, and left out by the official SDK, which upstream's engine drops (G-1).
    assert await call(iii, "meta", None) == [None, None]
    assert (await other.trigger("meta", None, timeout_ms=5000))[0] == "invalid_message"


async def check_http(engine: Engine) -> None:
    """Both serve HTTP."""
    async with httpx.AsyncClient(base_url=engine.http_url, trust_env=False) as client:
        for name in ("ours", "official"):
            response = await client.post(f"/{TAG}/{name}/a%20b?q=1&q=2", json={"x": [1]})
            assert (response.status_code, response.headers["x-served-by"]) == (201, name)
            assert response.json() == ["POST", {"id": "a%20b"}, {"q": "2"}, {"x": [1]}]


async def check_triggers(iii: Worker, other: Official) -> None:
    """Each binds a function to a trigger type of the other."""
    bindings = Bindings()
    iii.register_trigger_type({"id": f"{TAG}::ours", "description": "Ours"}, bindings)
    await iii.wait_ready()
    wanted = {"type": f"{TAG}::ours", "function_id": f"{TAG}::official::meta", "config": {"a": 1}, "metadata": {"m": 1}}
    await other.ask(bind=wanted)
    _, config = await bindings.take()
    assert (config.function_id, config.config) == (f"{TAG}::official::meta", {"a": 1})
    assert await bindings.fire(iii, config.id, [5]) == [[5], {"m": 1}]

    trigger = iii.register_trigger(f"{TAG}::official", f"{TAG}::ours::add", {"b": 2}, {"n": 2})
    refused = iii.register_trigger(f"{TAG}::official", f"{TAG}::ours::add", "refuse")
    expected = [
        ["bind", trigger.id, f"{TAG}::ours::add", {"b": 2}, {"n": 2}, None],
        ["bind", refused.id, f"{TAG}::ours::add", "refuse", None, None],
    ]
    while len((await other.ask(told=None))["told"]) < 2:
        pass
    assert (await other.ask(told=None))["told"] == expected
    assert await other.trigger("add", {"a": 1, "b": 1}) == 2  # behind the refusal, on both connections
    with pytest.raises(TriggerRegistrationError) as caught:
        await iii.wait_ready()
    assert (caught.value.trigger_id, caught.value.message) == (refused.id, "the official one refuses")
    trigger.unregister()
    while len((await other.ask(told=None))["told"]) < 3:
        pass
    assert (await other.ask(told=None))["told"][2] == ["unbind", trigger.id]


async def test_both_call_each_other_serve_http_and_bind_each_other_s_triggers(tmp_path: Path) -> None:
    """P-27, P-30, P-32, P-38, P-46 to P-51, H-18, H-37."""
    with fail_after(30):
        async with open_engine(port=0, http_port=0) as engine, ours(engine.url) as iii:
            register(iii)
            await iii.wait_ready()
            async with official(engine.url, tmp_path) as other:
                await check_calls(iii, other)
                await check_http(engine)
                await check_triggers(iii, other)
            with pytest.raises(InvocationError) as caught:
                await call(iii, "add", {"a": 1, "b": 2})
            assert caught.value.code == "function_not_found"
            workers = await iii.trigger_async("engine::workers::list", {"search": TAG})
            assert [row["name"] for row in workers["workers"]] == [f"{TAG}::ours"]


async def test_the_official_worker_comes_back_after_a_reset_and_after_its_engine_believed_it_alive(
    tmp_path: Path,
) -> None:
    """P-12, P-22, P-112, P-123."""
    with fail_after(30):
        async with open_engine(port=0, http_port=None) as engine, ours(engine.url) as iii:
            register(iii)
            await iii.wait_ready()
            _, _, port = engine.url.rpartition(":")
            async with (
                open_tcp_proxy("127.0.0.1", int(port)) as proxy,
                official(f"ws://127.0.0.1:{proxy.port}", tmp_path) as other,
            ):
                for tell_engine in (True, False):
                    before = await identity(iii)
                    proxy.cut(tell_engine=tell_engine)
                    while await identity(iii) in (None, before):
                        pass
                    assert await other.trigger("double", 4, timeout_ms=5000) == 8
                    assert await call(iii, "double", 2) == 4


async def identity(iii: Worker) -> str | None:
    """The id of the official worker's connection, if it has one and its functions are there."""
    found = await iii.trigger_async("engine::workers::list", {"search": f"{TAG}::official"})
    rows = [row["id"] for row in found["workers"] if row["function_count"]]
    return rows[0] if rows else None


async def test_workers_of_one_namespace_find_each_other_and_large_payloads_pass(tmp_path: Path) -> None:
    """P-04, P-05, P-21, P-37, P-102."""
    with fail_after(30):
        async with open_engine(port=0, http_port=None) as engine, ours(engine.url, namespace="blue") as iii:
            register(iii)
            await iii.wait_ready()
            async with official(engine.url, tmp_path, "blue") as other:
                assert await call(iii, "double", 2) == 4
                assert await other.trigger("double", 2) == 4
                assert await call(iii, "length", "é" * (17 * MIB // 2)) == 17 * MIB // 2
                length = {"function_id": f"{TAG}::ours::length"}
                assert await other.ask(trigger=length, mib=17) == {"result": 17 * MIB // 2}
