"""A program for either SDK, as ``side_by_side`` runs it: the same lines, only the import differs.

    python -m tests.reliability.either_client KIND URL OPTIONS

Kinds: ``iii-sdk``, ``asyncio`` and ``trio`` (ours). It does what it is told on stdin, a line of JSON each, and prints
what happens as lines of JSON, with the seconds of a clock that all processes of the machine share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio

_printing = threading.Lock()


def say(what: str, **facts: Any) -> None:
    with _printing:
        print(json.dumps({"what": what, "at": time.monotonic(), **facts}), flush=True)


def code_of(exc: BaseException) -> str:
    return str(getattr(exc, "code", None) or type(exc).__name__)


class Client:
    """One client and its functions."""

    def __init__(self, kind: str, url: str, given: dict[str, Any]) -> None:
        os.environ["OTEL_ENABLED"] = "false"
        warnings.simplefilter("ignore")
        self.kind = kind
        self.url = url
        self.given = given
        self.sdk: Any
        if kind == "iii-sdk":
            import iii  # type: ignore[import-untyped]

            self.sdk = iii
        else:
            import iii_anyio

            self.sdk = iii_anyio
        self.iii: Any = None
        self.running = self.most = 0

    # -- its functions -------------------------------------------------------------------------------------------

    async def echo(self, data: Any) -> Any:
        return data

    async def slow(self, data: Any) -> Any:
        """Takes ``seconds``, and counts how many run at once."""
        self.running += 1
        self.most = max(self.most, self.running)
        if "n" in data:
            say("running")
        await anyio.sleep(data["seconds"])
        self.running -= 1
        return "done"

    def sync_slow(self, data: Any) -> Any:
        self.running += 1
        self.most = max(self.most, threading.active_count())
        time.sleep(data["seconds"])
        self.running -= 1
        return "done"

    async def block(self, data: Any) -> Any:
        """Does not give the loop back for ``seconds``."""
        say("running")
        time.sleep(data["seconds"])  # noqa: ASYNC251 - what this is about
        return "done"

    async def exits(self, data: Any) -> Any:
        match data["how"]:
            case "SystemExit":
                raise SystemExit(3)
            case "KeyboardInterrupt":
                raise KeyboardInterrupt
            case "cancelled":
                raise anyio.get_cancelled_exc_class()
            case "GeneratorExit":
                raise GeneratorExit
            case _:
                raise ValueError("as told")

    async def stops(self, _: Any) -> Any:
        await self.iii.shutdown_async()
        return "stopping"

    def sync_stops(self, _: Any) -> Any:
        self.iii.shutdown()
        return "stopping"

    def nested(self, data: Any) -> Any:
        """A sync handler that calls the next one through the engine."""
        self.most = max(self.most, threading.active_count())
        n = data["n"]
        return 0 if n == 0 else 1 + self.iii.trigger({"function_id": "relay", "payload": {"n": n - 1}})

    # -- what it is told -----------------------------------------------------------------------------------------

    def connect(self) -> Any:
        """A client, which without ``name`` has the default one."""
        options = self.sdk.InitOptions(worker_name=self.given.get("name"), otel={"enabled": False})
        if self.kind == "iii-sdk":
            return self.sdk.register_worker(self.url, options)
        return self.sdk.register_worker(self.url, options, backend=self.kind)

    def start(self) -> None:
        began = time.monotonic()
        try:
            self.iii = self.connect()
        except Exception as exc:  # noqa: BLE001 - told
            say("refused", code=code_of(exc), seconds=time.monotonic() - began)
            return
        self.iii.add_connection_state_listener(lambda state: say("state", state=state))
        for name in ("echo", "slow", "block", "exits", "stops", "sync_stops", "sync_slow", "nested"):
            self.iii.register_function(f"tried::{name}", getattr(self, name))
        self.iii.register_trigger({"type": "subscribe", "function_id": "tried::echo", "config": {"topic": "t"}})
        say("started", seconds=time.monotonic() - began)

    def calls(
        self,
        function_id: str,
        count: int,
        timeout_ms: int,
        payload: Any = None,
        size: int = 0,
        void: bool = False,
        pause: float = 0.0,
    ) -> None:
        """Call so often, all at once, and say what each came to."""
        say("calling")

        async def one(n: int) -> tuple[str, float]:
            began = time.monotonic()
            request: dict[str, Any] = {
                "function_id": function_id,
                "payload": payload if payload is not None else {"n": n, "pad": "x" * size},
                "timeout_ms": timeout_ms,
            }
            if void:
                request["action"] = self.sdk.TriggerActionVoid()
            try:
                await self.iii.trigger_async(request)
            except Exception as exc:  # noqa: BLE001 - told
                return code_of(exc), time.monotonic() - began
            return "ok", time.monotonic() - began

        async def all_of_them() -> list[tuple[str, float]]:
            if not pause:
                return await asyncio.gather(*(one(n) for n in range(count)))
            done: list[tuple[str, float]] = []
            for n in range(count):
                done.append(await one(n))
                await asyncio.sleep(pause)
            return done

        done = asyncio.run(all_of_them())
        codes: dict[str, int] = {}
        for code, _ in done:
            codes[code] = codes.get(code, 0) + 1
        say("called", codes=codes, longest=max(seconds for _, seconds in done))

    def call_nan(self) -> None:
        try:
            self.iii.trigger({"function_id": "other::note", "payload": {"value": float("nan")}, "timeout_ms": 2000})
        except Exception as exc:  # noqa: BLE001 - told
            say("nan", code=code_of(exc))
        else:
            say("nan", code="ok")

    def shutdown(self, times: int = 1) -> None:
        for n in range(times):
            began = time.monotonic()
            try:
                self.iii.shutdown()
            except Exception as exc:  # noqa: BLE001 - told
                say("shut", code=code_of(exc), seconds=time.monotonic() - began, n=n)
            else:
                say("shut", code="ok", seconds=time.monotonic() - began, n=n)

    def call_after_shutdown(self) -> None:
        began = time.monotonic()
        try:
            self.iii.trigger({"function_id": "other::echo", "payload": 1, "timeout_ms": 2000})
        except Exception as exc:  # noqa: BLE001 - told
            say("after", code=code_of(exc), seconds=time.monotonic() - began)
        else:
            say("after", code="ok", seconds=time.monotonic() - began)

    def second(self) -> None:
        """Another client in this process, with the default name, too; say what its calls come to a second later."""
        try:
            other = self.connect()
            time.sleep(1)
            other.trigger({"function_id": "other::echo", "payload": 1, "timeout_ms": 2000})
        except Exception as exc:  # noqa: BLE001 - told
            say("second", code=code_of(exc))
        else:
            say("second", code="ok")

    def fork(self) -> None:
        """Call from a forked child, which gets three seconds."""
        pid = os.fork()
        if pid == 0:
            began = time.monotonic()
            try:
                self.iii.trigger({"function_id": "other::echo", "payload": 1, "timeout_ms": 2000})
                code = "ok"
            except BaseException as exc:  # noqa: BLE001 - told
                code = code_of(exc)
            say("forked", code=code, seconds=time.monotonic() - began)
            os._exit(0)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                return
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        say("forked", code="no answer", seconds=3.0)

    def report(self) -> None:
        say("report", most=self.most, threads=threading.active_count())


def main() -> None:
    kind, url = sys.argv[1:3]
    given: dict[str, Any] = json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    logging.basicConfig(level=given.get("log", "WARNING"), format="%(levelname)s %(name)s %(message)s")
    client = Client(kind, url, given)
    threads: list[threading.Thread] = []
    say("up")
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        what = told.pop("do")
        if what == "end":  # the main program is over; what keeps the process now is the SDK
            return
        in_background = told.pop("background", False)
        act: Callable[..., None] = getattr(client, what)
        if in_background:
            threads.append(threading.Thread(target=act, kwargs=told, daemon=True))
            threads[-1].start()
        else:
            act(**told)


if __name__ == "__main__":
    main()
