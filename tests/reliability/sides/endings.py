"""Shutdown and signals."""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import suppress

import anyio
from anyio import create_task_group

from tests.reliability.sides.surroundings import Client, Seen, There, counted, go_offline, scenario, seconds


async def _shut(tried: Client, limit: float = 20.0) -> str:
    said = await tried.ask("shutdown", "shut", limit, background=True)
    if said is None:
        return f"> {limit:.0f} s"
    return seconds(said["seconds"]) + ("" if said["code"] == "ok" else f" with `{said['code']}`")


@scenario("`shutdown()` with 5 handlers that take 2 s more: takes; their callers get")
async def shutdown_running(there: There) -> Seen:
    codes: Counter[str] = Counter()
    took = ""
    async with there.client() as tried:
        await there.wait_called()

        async def call(n: int) -> None:
            codes[(await there.call("tried::slow", {"seconds": 2, "n": n}, 8))[0]] += 1

        async with create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(call, n)
            for _ in range(5):
                await tried.hear("running")
            took = await _shut(tried)
    return f"{took}; {counted(codes)}", {"took": took, "codes": codes}


@scenario(
    "`shutdown()` with the engine away; over a half-open link; with 20 MB to write to an engine that takes 1 kB/s"
)
async def shutdown_dead(there: There) -> Seen:
    took: list[str] = []
    async with there.client() as tried:
        await there.wait_called()
        await go_offline(there, tried)
        took.append(await _shut(tried))
    there.proxy.calm()
    async with there.client() as tried:
        await there.wait_called()
        there.proxy.black_hole()
        took.append(await _shut(tried))
    there.proxy.calm()
    async with there.client() as tried:
        await there.wait_called()
        there.proxy.bytes_per_second = 1000
        await tried.tell(
            "calls", function_id="other::echo", count=20, size=1_000_000, timeout_ms=30_000, void=True, background=True
        )
        await anyio.sleep(1)
        took.append(await _shut(tried))
    return "; ".join(took), {"took": took}


@scenario("A second `shutdown()`; a call after it")
async def shutdown_twice(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        await tried.tell("shutdown", times=2, background=True)
        await tried.hear("shut", n=0)
        second = await tried.hear("shut", 5, n=1)
        after = await tried.ask("call_after_shutdown", "after", 5, background=True)
    told = [
        "hangs (> 5 s)"
        if said is None
        else f"{'returns' if said['code'] == 'ok' else '`' + said['code'] + '`'} after {seconds(said['seconds'])}"
        for said in (second, after)
    ]
    return "; ".join(told), {"second": second, "after": after}


@scenario("`shutdown()` called in an async handler; in a sync one: its caller gets; the client has ended after")
async def shutdown_from_handler(there: There) -> Seen:
    told: list[str] = []
    for name in ("stops", "sync_stops"):
        async with there.client() as tried:
            await there.wait_called()
            began = time.monotonic()
            outcome, _ = await there.call(f"tried::{name}", {}, 5)
            while (said := await tried.hear("state", 5)) is not None and said["state"] != "disconnected":
                pass
            ended = "> 5 s" if said is None else seconds(max(0.0, said["at"] - began))
        told.append(f"`{outcome}`, {ended}")
    return "; ".join(told), {"told": told}


async def _signalled(there: There, number: signal.Signals, times: int, handler: float) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        outcome: list[str] = []
        code, took, noise = None, 0.0, 0

        async def call() -> None:
            outcome.append((await there.call("tried::slow", {"seconds": handler, "n": 1}, 15))[0])

        async with create_task_group() as tasks:
            tasks.start_soon(call)
            await tried.hear("running")
            await tried.tell("end")
            await anyio.sleep(0.5)
            tried.errors.clear()
            began = time.monotonic()
            for _ in range(times):
                with suppress(ProcessLookupError):
                    tried.process.send_signal(number)
                await anyio.sleep(0.5 if times > 1 else 0)
            code = await tried.ended(12)
            took = time.monotonic() - began
            if code is None:
                tried.process.kill()
            await anyio.sleep(0.1)
            noise = len(tried.errors)
    how = f"exit code {code} after {seconds(took)}" if code is not None else "does not end (> 12 s)"
    return f"{how}; `{outcome[0]}`; {noise} lines", {
        "code": code,
        "seconds": took,
        "caller": outcome[0],
        "noise": noise,
    }


@scenario("SIGTERM while a handler takes 1.5 s more, script at its end: exit; its caller gets; lines on stderr")
async def sigterm(there: There) -> Seen:
    return await _signalled(there, signal.SIGTERM, 1, 1.5)


@scenario("Ctrl-C, likewise")
async def sigint(there: There) -> Seen:
    return await _signalled(there, signal.SIGINT, 1, 1.5)


@scenario("SIGTERM twice, half a second apart, while a handler takes 10 s")
async def second_signal(there: There) -> Seen:
    return await _signalled(there, signal.SIGTERM, 2, 10)


@scenario("SIGTERM while it connects to a peer that says nothing")
async def sigterm_connecting(there: There) -> Seen:
    there.proxy.always("black_hole")
    async with there.client(start=False) as tried:
        await tried.tell("start")
        await there.until(lambda: there.proxy.accepted > 0)
        await anyio.sleep(0.3)
        began = time.monotonic()
        tried.process.send_signal(signal.SIGTERM)
        code = await tried.ended(12)
        took = time.monotonic() - began
        await anyio.sleep(0.1)
        noise = len(tried.errors)
    return (f"exit code {code} after {seconds(took)}; {noise} lines" if code is not None else "> 12 s"), {"code": code}
