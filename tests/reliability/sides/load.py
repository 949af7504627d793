"""Handlers that misbehave, more than a worker can take, messages that are none, secrets."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from typing import Any, Final

import anyio
from anyio import create_task_group, move_on_after
from anyio.abc import SocketStream

from tests.reliability.sides.surroundings import Client, Seen, There, client, counted, scenario, seconds
from tests.reliability.test_broken_engines import ENDING, SKIPPED
from tests.wire.servers import raw_serving, read_head

SECRET: Final = "s3cr3t-t0k3n"
PAYLOAD: Final = "c4rd-numb3r"

# -- handlers --------------------------------------------------------------------------------------------------------


@scenario("Handler raises `ValueError`, any of three `BaseException`, a cancellation: caller gets (5 s); goes on")
async def raises(there: There) -> Seen:
    codes: Counter[str] = Counter()
    async with there.client():
        await there.wait_called()
        for how in ("ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "cancelled"):
            codes[(await there.call("tried::exits", {"how": how}, 5))[0]] += 1
        goes_on = (await there.call("tried::echo", 1, 5))[0] == "ok" and there.proxy.accepted == 1
    return f"{counted(codes)}; {'yes' if goes_on else 'no'}", {"codes": codes, "goes_on": goes_on}


@scenario("Handler blocks the event loop for 30 s: its caller gets; same link; lines of the log about it")
async def blocks(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        await anyio.sleep(19)  # so that the next ping is due while it is blocked
        outcome, took = await there.call("tried::block", {"seconds": 30}, 45)
        await anyio.sleep(1)
        answers = (await there.call("tried::echo", 1, 5))[0]
        same = there.proxy.accepted == 1
        lines = len([line for line in tried.errors if "block" in line])
    return f"`{outcome}` after {seconds(took)}; {'yes' if same and answers == 'ok' else 'no'}; {lines}", {
        "outcome": outcome, "same_link": same, "lines": lines,
    }  # fmt: skip


@scenario("Sync handlers that call each other through the engine, 200 deep: takes; threads at most")
async def nested(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        outcome, took = await there.call("tried::nested", {"n": 200}, 25)
        report = await tried.ask("report", "report", 5)
    most = report["most"] if report else None
    return f"`{outcome}` after {seconds(took)}; {most}", {"outcome": outcome, "seconds": took, "threads": most}


async def _many(there: There, tried: Client, function_id: str, count: int, payload: Any) -> tuple[Counter[str], float]:
    codes: Counter[str] = Counter()

    async def call(times: int) -> None:
        for _ in range(times):
            codes[(await there.call(function_id, payload, 60))[0]] += 1

    began = time.monotonic()
    async with create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(call, 1)
    return codes, time.monotonic() - began


@scenario("10,000 calls at once of a sync handler that takes 0.1 s: takes; outcomes; threads at most; memory at most")
async def burst(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        codes, took = await _many(there, tried, "tried::sync_slow", 10_000, {"seconds": 0.1})
        report = await tried.ask("report", "report", 30)
        memory = tried.megabytes()
    most = report["most"] if report else None
    return f"{seconds(took)}; {counted(codes)}; {most}; {memory:.0f} MB", {
        "codes": codes, "seconds": took, "threads": most, "megabytes": memory,
    }  # fmt: skip


@scenario("10,000 calls pending at once, answered then: outcomes; another call meanwhile takes; memory at most")
async def many_pending(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        await tried.tell("calls", function_id="other::hold", count=10_000, timeout_ms=60_000, background=True)
        await there.until(lambda: there.holding == 10_000, 50)
        beside = (await there.call("tried::echo", 1, 30))[1]
        there.release.set()
        called = await tried.hear("called", 60)
        memory = tried.megabytes()
    codes = called["codes"] if called else {}
    return f"{counted(codes)}; {seconds(beside)}; {memory:.0f} MB", {"codes": codes, "megabytes": memory}


@scenario("20,000 calls at once of an async handler that takes 2 s: outcomes; handlers at once; memory at most")
async def flood(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        codes, _ = await _many(there, tried, "tried::slow", 20_000, {"seconds": 2})
        report = await tried.ask("report", "report", 60)
        memory = tried.megabytes()
    most = report["most"] if report else None
    return f"{counted(codes)}; {most}; {memory:.0f} MB", {"codes": codes, "handlers": most, "megabytes": memory}


# -- messages --------------------------------------------------------------------------------------------------------


@scenario("Calls with 60 MiB; with 64 MiB: outcome; memory at most; same link")
async def large(there: There) -> Seen:
    told: list[str] = []
    async with there.client() as tried:
        await there.wait_called()
        for mib in (60, 64):
            called = await tried.ask(
                "calls",
                "called",
                40,
                function_id="other::size",
                count=1,
                size=mib << 20,
                timeout_ms=30_000,
                background=True,
            )
            told.append(counted(called["codes"]) if called else "no answer")
        memory = tried.megabytes()
        same = there.proxy.accepted == 1
    return f"{'; '.join(told)}; {memory:.0f} MB; {'yes' if same else 'no'}", {"told": told, "megabytes": memory}


async def _say(there: There, data: bytes) -> None:
    (connection,) = there.proxy._open
    await connection._worker.send(data)


@scenario(f"{len(SKIPPED)} things that are no message (wrong shapes, 1 MiB of nesting …): skipped, and the link kept")
async def nonsense(there: There) -> Seen:
    bad: list[str] = []
    async with there.client():
        await there.wait_called()
        for what, data in SKIPPED.items():
            before = there.proxy.accepted
            await _say(there, data)
            await anyio.sleep(0.05)
            if await there.wait_called(5) is None or there.proxy.accepted != before:
                bad.append(what)
                if await there.wait_called(5) is None:
                    break
    text = f"{len(SKIPPED) - len(bad)} of {len(SKIPPED)}"
    return text + (f" (not: {', '.join(bad)})" if bad else ""), {"not": bad}


@scenario(f"{len(ENDING)} broken frames (masked, lying lengths …): link made anew, until it answers again")
async def broken_frames(there: There) -> Seen:
    took: dict[str, float] = {}
    kept: list[str] = []
    gone: list[str] = []
    async with there.client() as tried:
        await there.wait_called()
        for what, data in ENDING.items():
            before = there.proxy.accepted
            await _say(there, data)
            found = await there.wait_new_link(before, 8)
            if found is not None:
                took[what] = found
            elif await there.wait_called(2) is not None:
                kept.append(what)
            else:
                gone.append(what)
                there.proxy.eof()
                await there.wait_new_link(before, 10)
        memory = tried.megabytes()
    text = f"{len(took)} of {len(ENDING)}"
    text += f", {seconds(min(took.values()))} to {seconds(max(took.values()))}" if took else ""
    text += f"; link kept: {', '.join(kept)}" if kept else ""
    text += f"; silent for 10 s: {', '.join(gone)}" if gone else ""
    return text, {"seconds": took, "kept": kept, "silent": gone, "megabytes": memory}


_bomb: list[bytes] = []


@scenario("1 GiB in a message of 1 MiB, from a peer that compresses when it may: memory more than before")
async def bomb(there: There) -> Seen:
    from websockets.asyncio.server import ServerConnection, serve

    if not _bomb:
        _bomb.append(await anyio.to_thread.run_sync(_compressed))
    offered: list[bool] = []
    sent = anyio.Event()

    async def peer(connection: ServerConnection) -> None:
        offered.append(bool(connection.protocol.extensions))
        if len(offered) == 1:
            length = len(_bomb[0])
            connection.transport.write(b"\xc1\x7f" + length.to_bytes(8, "big") + _bomb[0])
            sent.set()
        await connection.wait_closed()

    async with serve(peer, "127.0.0.1", 0, compression="deflate", max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with client(there.kind, f"ws://127.0.0.1:{port}", start=False) as tried:
            before = tried.megabytes()
            await tried.tell("start", background=True)
            with move_on_after(10):
                await sent.wait()
            await anyio.sleep(3)
            more = tried.megabytes() - before
    if not offered:
        return "no connection", {}
    return (f"{more:.0f} MB" if offered[0] else f"does not offer compression; {more:.0f} MB"), {
        "offered": offered[0], "megabytes": more,
    }  # fmt: skip


def _compressed() -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    zeros = b"0" * (1 << 20)
    return b"".join([packer.compress(zeros) for _ in range(1024)] + [packer.flush(zlib.Z_SYNC_FLUSH)])[:-4]


@scenario(
    "`III_TOKEN` and a payload in the log at level DEBUG, across a lost link: lines with the token; with the payload"
)
async def secrets(there: There) -> Seen:
    async with there.client(log="DEBUG", env={"III_TOKEN": SECRET}) as tried:
        await there.wait_called()
        await tried.ask(
            "calls", "called", 10, function_id="other::echo", count=1, timeout_ms=3000, payload={"card": PAYLOAD},
            background=True,
        )  # fmt: skip
        await there.call("tried::echo", {"card": PAYLOAD})
        await there.call("tried::exits", {"how": "ValueError", "card": PAYLOAD})
        before = there.proxy.accepted
        there.proxy.eof()
        await there.wait_new_link(before)
        token = len([line for line in tried.errors if SECRET in line])
        payload = len([line for line in tried.errors if PAYLOAD in line])
    return f"{token}; {payload}", {"token_lines": token, "payload_lines": payload}


@scenario("Redirect to another port: `III_TOKEN` goes there")
async def redirect(there: There) -> Seen:
    heads: list[str] = []

    async def elsewhere(stream: SocketStream) -> None:
        heads.append(await read_head(stream))

    async with raw_serving(elsewhere) as other_port:

        async def engine(stream: SocketStream) -> None:
            await read_head(stream)
            await stream.send(
                b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % other_port
            )

        async with raw_serving(engine) as port:
            url = f"ws://127.0.0.1:{port}"
            async with client(there.kind, url, start=False, env={"III_TOKEN": SECRET}) as tried:
                await tried.tell("start")
                await anyio.sleep(3)
    leaked = any(SECRET in head for head in heads)
    return ("yes" if leaked else "no, but followed" if heads else "no, not followed"), {
        "leaked": leaked,
        "followed": bool(heads),
    }


@scenario("NaN in a payload")
async def nan(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        said = await tried.ask("call_nan", "nan", 5, background=True)
        await anyio.sleep(0.2)
    code = said["code"] if said else "no answer"
    got = f"; the function got {there.noted[0]['value']!r}" if there.noted else ""
    return f"`{code}`{got}", {"code": code, "noted": len(there.noted)}
