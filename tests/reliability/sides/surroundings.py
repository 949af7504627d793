"""A client in a process of its own, and what it is put into: an engine, a proxy, another worker.

Below: ``either_client``. Above: the scenarios, which ``SCENARIOS`` collects.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import create_task_group, move_on_after
from anyio.abc import Process

from iii_anyio import InitOptions, InvocationError, Limits, Worker, open_worker
from iii_anyio.devengine import Engine, open_engine
from iii_anyio.testing import FaultProxy

ROOT: Final = Path(__file__).parents[3]


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


# -- one client ------------------------------------------------------------------------------------------------------


class Client:
    """A process with one client; what it says is kept."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.errors: list[str] = []
        self._said: list[dict[str, Any]] = []
        self._more = anyio.Event()

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in _lines(self.process.stdout):
            with suppress(ValueError):
                self._said.append(json.loads(line))
                more, self._more = self._more, anyio.Event()
                more.set()

    async def read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in _lines(self.process.stderr):
            self.errors.append(line)

    async def tell(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def hear(self, what: str, limit: float = 20.0, **facts: Any) -> dict[str, Any] | None:
        """Take the next thing of this kind that it says; None when it says nothing in time."""
        with move_on_after(limit):
            while True:
                for said in self._said:
                    if said["what"] == what and all(said[name] == value for name, value in facts.items()):
                        self._said.remove(said)
                        return said
                await self._more.wait()
        return None

    async def ask(self, do: str, what: str, limit: float = 20.0, **arguments: Any) -> dict[str, Any] | None:
        await self.tell(do, **arguments)
        return await self.hear(what, limit)

    async def ended(self, limit: float) -> int | None:
        with move_on_after(limit):
            return await self.process.wait()
        return None

    def megabytes(self, what: str = "VmHWM") -> float:
        """Memory of the process: now (``VmRSS``), or at most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024


async def _lines(stream: Any) -> AsyncGenerator[str]:
    rest = b""
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            rest += await stream.receive()
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")


@asynccontextmanager
async def client(
    kind: str, url: str, /, *, start: bool = True, env: dict[str, str] | None = None, **given: Any
) -> AsyncGenerator[Client]:
    given = {"name": "tried", **given}
    command = [sys.executable, "-m", "tests.reliability.sides.either_client", kind, url, json.dumps(given)]
    process = await anyio.open_process(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    made = Client(process)
    async with create_task_group() as tasks:
        tasks.start_soon(made.read)
        tasks.start_soon(made.read_errors)
        try:
            await made.hear("up")
            if start and await made.ask("start", "started", 40) is None:
                raise RuntimeError(f"{kind} did not start: {made.errors[-5:]}")
            yield made
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()
            tasks.cancel_scope.cancel()
            await process.aclose()


# -- its surroundings ------------------------------------------------------------------------------------------------


class There:
    """An engine, another worker on it, a proxy for the client."""

    def __init__(self, kind: str, engine: Engine, proxy: FaultProxy, other: Worker) -> None:
        self.kind = kind
        self.engine = engine
        self.proxy = proxy
        self.other = other
        self.noted: list[Any] = []
        self.hanging = self.holding = 0
        self.release = anyio.Event()

    def client(self, **given: Any) -> AbstractAsyncContextManager[Client]:
        return client(self.kind, self.proxy.url, **given)

    async def call(self, function_id: str, payload: Any, timeout: float = 5.0) -> tuple[str, float]:
        """Call the client; what came of it, and after how long."""
        began = time.monotonic()
        try:
            await self.other.trigger_async(function_id, payload, timeout_ms=math.ceil(timeout * 1000))
        except InvocationError as exc:
            return exc.code, time.monotonic() - began
        return "ok", time.monotonic() - began

    async def wait_called(self, limit: float = 20.0) -> float | None:
        """Seconds until a call of the client is answered."""
        began = time.monotonic()
        while time.monotonic() - began < limit:
            if (await self.call("tried::echo", 1, 0.3))[0] == "ok":
                return time.monotonic() - began
            await anyio.sleep(0.02)
        return None

    async def wait_new_link(self, before: int, limit: float = 20.0) -> float | None:
        """Seconds until the client answers on another connection than the one it had."""
        began = time.monotonic()
        while self.proxy.accepted == before:
            if time.monotonic() - began > limit:
                return None
            await anyio.sleep(0.01)
        found = await self.wait_called(limit)
        return None if found is None else time.monotonic() - began

    async def registered(self) -> tuple[int, int]:
        """Functions and triggers of the client at the engine."""
        functions = await self.other.trigger_async("engine::functions::list", {"prefix": "tried"})
        bound = await self.other.trigger_async("engine::registered-triggers::list", {"function_id": "tried::echo"})
        return len(functions["functions"]), len(bound["registered_triggers"])

    async def until(self, ready: Callable[[], bool], limit: float = 20.0) -> bool:
        with move_on_after(limit):
            while not ready():  # noqa: ASYNC110 - of another process
                await anyio.sleep(0.01)
        return ready()


@asynccontextmanager
async def surroundings(kind: str) -> AsyncGenerator[There]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(port=0, http_port=None, stream_port=None))
        proxy = await stack.enter_async_context(FaultProxy(engine.url))
        options = InitOptions(
            "other", handle_signals=False, shutdown_timeout=0.1, limits=Limits(max_concurrency=20_000)
        )
        other = await stack.enter_async_context(open_worker(options=options, connector=engine.connector()))
        there = There(kind, engine, proxy, other)

        async def note(data: Any) -> None:
            there.noted.append(data)

        async def hang(_: Any) -> None:
            there.hanging += 1
            await anyio.sleep_forever()

        async def hold(_: Any) -> None:
            there.holding += 1
            await there.release.wait()

        async def echo(data: Any) -> Any:
            return data

        async def relay(data: Any) -> Any:
            return await other.trigger_async("tried::nested", data)

        async def size(data: Any) -> int:
            return len(data["pad"])

        for name, function in {"note": note, "hang": hang, "hold": hold, "echo": echo, "size": size}.items():
            other.register_function(f"other::{name}", function)
        other.register_function("relay", relay)
        await other.wait_ready()
        yield there


Seen = tuple[str, dict[str, Any]]
Scenario = Callable[[There], Awaitable[Seen]]
SCENARIOS: dict[str, tuple[str, Scenario]] = {}


def scenario(title: str) -> Callable[[Scenario], Scenario]:
    def add(function: Scenario) -> Scenario:
        SCENARIOS[function.__name__] = title, function
        return function

    return add


def counted(codes: dict[str, int]) -> str:
    return ", ".join(f"{count:,} × `{code}`" for code, count in sorted(codes.items())) or "nothing"


async def go_offline(there: There, tried: Client) -> None:
    there.proxy.refuse()
    there.proxy.eof()
    while True:
        said = await tried.hear("state", 10)
        if said is None or said["state"] != "connected":
            return
