"""One measurement in a process of its own: a role, an SDK, and how much. Prints one line of JSON.

    python -m benchmarks.peer ROLE KIND URL CALLS IN_FLIGHT SIZE

Roles: ``caller`` calls ``bench::echo``, ``callee`` serves ``bench::serve``, ``foreign`` calls from an event loop that
is not the worker's, ``threads`` calls with the blocking ``trigger()`` from IN_FLIGHT threads. Kinds: ``asyncio``,
``uvloop``, ``trio`` (ours), ``iii-sdk``, ``bare``. Rates and CPU are of CALLS calls after a tenth as many to warm up.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Self

Call = Callable[[Any], Awaitable[Any]]

TIMEOUT_MS = 20_000


def cpu() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident() -> float:
    """Megabytes in memory now; the peak that the system keeps begins with that of the parent process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 1_048_576


class Stopwatch:
    """Wall and CPU time of a piece of work."""

    def __enter__(self) -> Self:
        self.wall, self.cpu = time.perf_counter(), cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, cpu() - self.cpu

    def report(self, calls: int, errors: int) -> dict[str, float]:
        """Calls a second, CPU microseconds a call."""
        return {
            "rate": calls / self.wall,
            "cpu_us": self.cpu / calls * 1e6,
            "errors": errors,
            "rss_mb": resident(),
        }


def request(size: int) -> dict[str, Any]:
    """A call of the echo function with about so many bytes."""
    return {"function_id": "bench::echo", "payload": {"text": "x" * size}, "timeout_ms": TIMEOUT_MS}


def flood(calls: int, in_flight: int, size: int) -> dict[str, Any]:
    """A call that has this worker called."""
    return {
        "function_id": "bench::flood",
        "payload": {"calls": calls, "in_flight": in_flight, "size": size},
        "timeout_ms": 600_000,
    }


async def drive(call: Call, calls: int, in_flight: int, size: int, gather: Callable[..., Awaitable[None]]) -> int:
    """Call so often, so many at once; returns how many failed."""
    wanted = request(size)
    left, errors = calls, 0

    async def one() -> None:
        nonlocal left, errors
        while left > 0:
            left -= 1
            try:
                await call(wanted)
            except Exception:  # noqa: BLE001 - counted
                errors += 1

    await gather([one] * in_flight)
    return errors


async def gather_asyncio(functions: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run all at once, the usual way of asyncio."""
    await asyncio.gather(*(function() for function in functions))


async def gather_anyio(functions: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run all at once in a task group."""
    from anyio import create_task_group

    async with create_task_group() as group:
        for function in functions:
            group.start_soon(function)


async def measured(call: Call, calls: int, in_flight: int, size: int, gather: Any) -> dict[str, float]:
    """A caller's figures."""
    await drive(call, calls // 10 + 1, in_flight, size, gather)
    with Stopwatch() as watch:
        errors = await drive(call, calls, in_flight, size, gather)
    return watch.report(calls, errors)


async def serve(data: Any) -> Any:
    """What a callee does."""
    return data


# -- ours ------------------------------------------------------------------------------------------------------------


async def ours(role: str, url: str, calls: int, in_flight: int, size: int) -> dict[str, float]:
    """Ours in the caller's loop."""
    from iii_anyio import open_worker

    async with open_worker(url) as iii:
        iii.register_function("bench::serve", serve)
        await iii.wait_ready()
        if role == "caller":
            return await measured(iii.trigger_async, calls, in_flight, size, gather_anyio)
        await iii.trigger_async(flood(calls // 10 + 1, in_flight, size))
        with Stopwatch() as watch:
            answer = await iii.trigger_async(flood(calls, in_flight, size))
        return watch.report(calls, answer["errors"])


# -- clients with a thread of their own ------------------------------------------------------------------------------


def client(kind: Any, url: str) -> Any:
    """A client that blocks."""
    if kind == "iii-sdk":
        import iii  # type: ignore[import-untyped]

        return iii.register_worker(url, iii.InitOptions(otel={"enabled": False}))
    import iii_anyio

    return iii_anyio.register_worker(url, backend=kind)


def in_threads(iii: Any, calls: int, threads: int, size: int) -> dict[str, float]:
    """Blocking calls from so many threads."""
    wanted = request(size)
    errors = 0

    def work(count: int) -> None:
        nonlocal errors
        for _ in range(count):
            try:
                iii.trigger(wanted)
            except Exception:  # noqa: BLE001 - counted
                errors += 1

    def run(count: int) -> None:
        workers = [threading.Thread(target=work, args=(count // threads,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    run(calls // 10 + threads)
    with Stopwatch() as watch:
        run(calls)
    return watch.report(calls // threads * threads, errors)


def upstream(role: str, url: str, calls: int, in_flight: int, size: int) -> dict[str, float]:
    """iii-sdk in its own loop, its fastest way."""
    iii = client("iii-sdk", url)
    try:
        iii.register_function("bench::serve", serve)
        loop = iii._loop  # it has no public way to run something there
        if role == "caller":
            work = measured(iii.trigger_async, calls, in_flight, size, gather_asyncio)
            return asyncio.run_coroutine_threadsafe(work, loop).result()
        iii.trigger(flood(calls // 10 + 1, in_flight, size))
        with Stopwatch() as watch:
            answer = iii.trigger(flood(calls, in_flight, size))
        return watch.report(calls, answer["errors"])
    finally:
        iii.shutdown()


# -- bare ------------------------------------------------------------------------------------------------------------


async def bare(role: str, url: str, calls: int, in_flight: int, size: int) -> dict[str, float]:
    """Nothing but frames and JSON: no tasks, no timeouts, no registry."""
    import orjson
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    from ._bare import uuids

    done = asyncio.get_running_loop().create_future()
    wanted = request(size)

    class Bare(WSListener):
        left = calls // 10 + 1
        waiting = 0
        watch = Stopwatch()
        is_warm = False

        def on_ws_connected(self, transport: WSTransport) -> None:
            self.transport = transport
            self.ids = uuids()
            if role == "caller":
                for _ in range(in_flight):
                    self.call()
            else:
                self.flood(calls // 10 + 1)

        def flood(self, count: int) -> None:
            message = flood(count, in_flight, size)
            self.send({"function_id": "bench::flood", "data": message["payload"]})

        def send(self, fields: dict[str, Any]) -> None:
            message = {"type": "invokefunction", "invocation_id": next(self.ids), **fields}
            self.transport.send(WSMsgType.TEXT, orjson.dumps(message))

        def call(self) -> None:
            if self.left > 0:
                self.left -= 1
                self.waiting += 1
                self.send({"function_id": "bench::echo", "data": wanted["payload"]})

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type != WSMsgType.TEXT:
                return
            message = orjson.loads(frame.get_payload_as_memoryview())
            if message["type"] == "invokefunction":
                answer = {
                    "type": "invocationresult",
                    "invocation_id": message["invocation_id"],
                    "function_id": message["function_id"],
                    "result": message["data"],
                }
                transport.send(WSMsgType.TEXT, orjson.dumps(answer))
            elif message["type"] == "invocationresult":
                self.waiting -= 1
                if role == "caller":
                    self.call()
                    if self.waiting:
                        return
                self.next_phase()

        def next_phase(self) -> None:
            if self.is_warm:
                self.watch.__exit__()
                done.set_result(None)
                return
            self.is_warm = True
            self.watch.__enter__()
            if role == "caller":
                self.left = calls
                for _ in range(in_flight):
                    self.call()
            else:
                self.flood(calls)

    listener: Any
    transport, listener = await ws_connect(Bare, url, max_frame_size=128 * 1024 * 1024, read_buffer_init_size=262_144)
    await done
    transport.disconnect()
    report: dict[str, float] = listener.watch.report(calls, 0)
    return report


# -- start -----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run one measurement."""
    role, kind, url = sys.argv[1:4]
    calls, in_flight, size = map(int, sys.argv[4:7])
    os.environ["OTEL_ENABLED"] = "false"
    report: dict[str, float]
    if role in {"foreign", "threads"}:
        iii = client(kind, url)
        try:
            if role == "threads":
                report = in_threads(iii, calls, in_flight, size)
            else:
                report = asyncio.run(measured(iii.trigger_async, calls, in_flight, size, gather_asyncio))
        finally:
            iii.shutdown()
    elif kind == "iii-sdk":
        report = upstream(role, url, calls, in_flight, size)
    elif kind == "bare":
        import uvloop

        report = uvloop.run(bare(role, url, calls, in_flight, size))
    else:
        import anyio

        report = anyio.run(
            ours,
            role,
            url,
            calls,
            in_flight,
            size,
            backend="trio" if kind == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if kind == "uvloop" else {},
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
