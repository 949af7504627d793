"""Links that end, calls without a link, names that are taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from anyio import create_task_group

from iii_anyio import InitOptions, open_worker
from tests.reliability.sides.surroundings import Seen, There, counted, go_offline, scenario, seconds

# -- links -----------------------------------------------------------------------------------------------------------


@scenario("Link closed with 1000, 1001, 1011, 1012, reset, ended: until it answers again; what the engine has then")
async def link_ends(there: There) -> Seen:
    ends: dict[str, Callable[[], None]] = {
        **{str(code): partial(there.proxy.close, code) for code in (1000, 1001, 1011, 1012)},
        "reset": there.proxy.reset,
        "eof": there.proxy.eof,
    }
    return await _back_after(there, ends)


@scenario(
    "Next two attempts answered 503, closed, closed behind the handshake; port closed for 2 s: until it answers again"
)
async def attempts_fail(there: There) -> Seen:
    def planned(*what: Any) -> None:
        there.proxy.plan(*what)
        there.proxy.eof()

    def closed() -> None:
        there.proxy.refuse()
        there.proxy.eof()

    return await _back_after(
        there,
        {
            "503": lambda: planned("http_503", "http_503"),
            "closed": lambda: planned("eof", "eof"),
            "closed behind the handshake": lambda: planned("eof_after_101", "eof_after_101"),
            "port closed": closed,
        },
    )


async def _back_after(there: There, ends: dict[str, Callable[[], None]]) -> Seen:
    took: dict[str, float | None] = {}
    before_all = after = (0, 0)
    async with there.client():
        await there.wait_called()
        before_all = await there.registered()
        for name, end in ends.items():
            before = there.proxy.accepted
            began = time.monotonic()
            end()
            if name == "port closed":
                await anyio.sleep(2)
                there.proxy.accept()
            found = await there.wait_new_link(before)
            took[name] = None if found is None else time.monotonic() - began
        if None not in took.values():
            after = await there.registered()
    known = [value for value in took.values() if value is not None]
    gone = [name for name, value in took.items() if value is None]
    text = f"{seconds(min(known))} to {seconds(max(known))}" if known else ""
    text += f"; not in 20 s: {', '.join(gone)}" if gone else ""
    text += f"; {after[0]} of {before_all[0]} functions, {after[1]} of {before_all[1]} triggers"
    return text.lstrip("; "), {"seconds": took, "functions": after[0], "triggers": after[1]}


@scenario("Link lost, and the engine has not noticed: until it answers again")
async def engine_unaware(there: There) -> Seen:
    async with there.client():
        await there.wait_called()
        before = there.proxy.accepted
        began = time.monotonic()
        there.proxy.reset(tell_engine=False)
        found = await there.wait_new_link(before)
        took = None if found is None else time.monotonic() - began
        after = await there.registered() if took is not None else (0, 0)
    return ("not in 20 s" if took is None else f"{seconds(took)}; {after[0]} functions, {after[1]} trigger"), {
        "seconds": took,
        "functions": after[0],
    }


@scenario("Idle link goes silent (half-open): noticed after")
async def half_open_idle(there: There) -> Seen:
    limit = 60.0
    async with there.client() as tried:
        await there.wait_called()
        await tried.hear("state", state="connected", limit=1)
        there.proxy.black_hole()
        began = time.monotonic()
        lost = await tried.hear("state", limit)
    noticed = None if lost is None else lost["at"] - began
    return (f"> {limit:.0f} s" if noticed is None else seconds(noticed)), {"noticed": noticed}


@scenario("Link goes silent (half-open) under 40 MB of void calls: noticed after; longest a call was held")
async def half_open(there: There) -> Seen:
    limit = 60.0
    async with there.client() as tried:
        await there.wait_called()
        await tried.hear("state", state="connected", limit=1)
        there.proxy.black_hole()
        began = time.monotonic()
        await tried.tell(
            "calls", function_id="other::echo", count=400, size=100_000, timeout_ms=30_000, void=True, background=True
        )
        lost = await tried.hear("state", limit)
        called = await tried.hear("called", 5)
    noticed = None if lost is None else lost["at"] - began
    longest = None if called is None else called["longest"]
    text = f"{seconds(noticed)}" if noticed is not None else f"> {limit:.0f} s"
    text += f"; {'> ' + seconds(time.monotonic() - began) if longest is None else seconds(longest)}"
    text += f" ({counted(called['codes'])})" if called else ""
    return text, {"noticed": noticed, "longest": longest, "codes": called and called["codes"]}


@scenario("20 calls pending (timeout 10 s) when the link is reset: they end after, with")
async def pending(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        await tried.tell("calls", function_id="other::hang", count=20, timeout_ms=10_000, background=True)
        await there.until(lambda: there.hanging == 20)
        there.proxy.reset()
        began = time.monotonic()
        called = await tried.hear("called", 20)
    if called is None:
        return "> 20 s", {}
    took = called["at"] - began
    return f"{seconds(took)}; {counted(called['codes'])}", {"seconds": took, "codes": called["codes"]}


# -- offline ---------------------------------------------------------------------------------------------------------


@scenario(
    "3,000 calls at once (timeout 10 s) while there is no link, which is back after 4 s: outcomes, the last after"
)
async def offline(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        await go_offline(there, tried)
        await tried.tell("calls", function_id="other::echo", count=3000, timeout_ms=10_000, background=True)
        await anyio.sleep(4)
        there.proxy.accept()
        called = await tried.hear("called", 15)
    if called is None:
        return "> 19 s", {}
    return f"{counted(called['codes'])}; {seconds(called['longest'])}", {
        "codes": called["codes"], "longest": called["longest"],
    }  # fmt: skip


@scenario(
    "3,000 void calls from another thread while there is no link: what their caller is told; arrive; first and last of "
    "them; lines of the log"
)
async def offline_void(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        await go_offline(there, tried)
        tried.errors.clear()
        await tried.tell("calls", function_id="other::note", count=3000, timeout_ms=30_000, void=True, background=True)
        called = await tried.hear("called", 10)
        there.proxy.accept()
        await there.wait_called()
        await anyio.sleep(1)
        codes = called["codes"] if called else {}
        lines = len([line for line in tried.errors if "queue full" in line or "was not sent" in line])
    arrived = [data["n"] for data in there.noted]
    order = "in order" if arrived == sorted(arrived) else "not in order"
    span = f"{min(arrived) + 1:,} to {max(arrived) + 1:,}, {order}"
    return f"{counted(codes)}; {len(arrived):,}; {span}; {lines:,} lines", {
        "codes": codes, "arrived": len(arrived), "first": min(arrived) + 1, "last": max(arrived) + 1, "lines": lines,
    }  # fmt: skip


@scenario("50 calls that time out (0.5 s) while there is no link: run nevertheless when it is back")
async def expired(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        await go_offline(there, tried)
        called = await tried.ask(
            "calls", "called", 10, function_id="other::note", count=50, timeout_ms=500, background=True
        )
        there.proxy.accept()
        await there.wait_called()
        await anyio.sleep(1)
    codes = called["codes"] if called else {}
    return f"{len(there.noted)} of 50 ({counted(codes)})", {"ran": len(there.noted), "codes": codes}


# -- names and processes ---------------------------------------------------------------------------------------------


@scenario("Name that another worker has: connections made in 20 s; what the next call says")
async def refused_name(there: There) -> Seen:
    found: list[dict[str, Any]] = []
    taken = InitOptions("tried", handle_signals=False)
    async with open_worker(options=taken, connector=there.engine.connector()) as holder:
        await holder.wait_ready()
        async with there.client(start=False) as tried:
            await tried.tell("start")
            async with create_task_group() as tasks:

                async def hear(what: str) -> None:
                    if (said := await tried.hear(what, 20)) is not None:
                        found.append(said)

                tasks.start_soon(hear, "refused")
                tasks.start_soon(hear, "started")
                await anyio.sleep(20)
            attempts = there.proxy.accepted
            said = found[0] if found else {"what": "started"}
            if said["what"] == "refused":
                text = f"`register_worker` raises `{said['code']}`"
            else:
                called = await tried.ask(
                    "calls", "called", 5, function_id="other::echo", count=1, timeout_ms=2000, background=True
                )
                text = f"`register_worker` returns; calls: {counted(called['codes']) if called else 'no answer'}"
    return f"{attempts}; {text}", {"attempts": attempts}


@scenario("Two clients in one process, both with the default name: a call of the second")
async def two_clients(there: There) -> Seen:
    async with there.client(name=None) as tried:
        await there.wait_called()
        said = await tried.ask("second", "second", 10, background=True)
    return f"`{said['code']}`" if said else "no answer", {"code": said and said["code"]}


@scenario(
    "Process killed without the engine noticing, started again: a call of it; its connections in 5 s; once noticed"
)
async def restarted(there: There) -> Seen:
    async with there.client():
        await there.wait_called()
        there.proxy.reset(tell_engine=False)
    before = there.proxy.accepted
    outcomes: list[str] = []
    found: float | None = None
    async with there.client(start=False) as tried:
        await tried.tell("start", background=True)
        refused = await tried.hear("refused", 5)
        if refused is not None:
            outcomes.append(f"`register_worker` raises `{refused['code']}`")
        else:
            called = await tried.ask(
                "calls", "called", 5, function_id="other::echo", count=1, timeout_ms=2000, background=True
            )
            outcomes.append(counted(called["codes"]) if called else "no answer")
    attempts = there.proxy.accepted - before
    there.proxy.calm()
    await anyio.sleep(0.2)
    async with there.client():
        found = await there.wait_called(5)
    outcomes.append("works" if found is not None else "does not work")
    return f"{outcomes[0]}; {attempts}; {outcomes[1]}", {"outcomes": outcomes, "attempts": attempts}


@scenario("Call in a forked child")
async def forked(there: There) -> Seen:
    async with there.client() as tried:
        await there.wait_called()
        said = await tried.ask("fork", "forked", 10)
    if said is None:
        return "no answer", {}
    return f"`{said['code']}` after {seconds(said['seconds'])}" if said[
        "code"
    ] != "no answer" else "hangs (> 3 s)", said
