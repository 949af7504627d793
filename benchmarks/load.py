"""Load on the embedded engine: many workers over sockets, many functions, a steady rate of calls each.

    python -m benchmarks.load                 a short look: 40 workers, 4,000 functions, 10 seconds
    python -m benchmarks.load --full          200 workers, 20,000 functions, 50 calls a second each, for a minute
    python -m benchmarks.load --full --save   and keep the figures in results/load.json

The engine runs in a process of its own, the workers in two others, written for little work of their own (picows,
orjson): what is measured is the engine. Every worker calls functions of all the others, at its rate whatever becomes of
the answers; a latency is from when a call was due to its answer, so an engine that falls behind shows it. A rate that
the machine cannot keep is halved and tried again: engine and workers share its processors. Afterwards CPU a call is
taken with 100, 1,000 and 20,000 functions registered, over sockets and of the router alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from iii_anyio._protocol.calls import new_id
from iii_anyio._protocol.codec import encode
from iii_anyio._protocol.messages import InvocationResult, InvokeFunction, RegisterFunction
from iii_anyio.devengine import open_engine
from iii_anyio.devengine._router import Router

from ._bare import uuids
from ._timing import per_call

RESULTS: Final = Path(__file__).parent / "results" / "load.json"
COUNTS: Final = (100, 1_000, 20_000)
"""Registered functions whose cost is compared."""
DATA: Final = {"order": 1234, "text": "x" * 180}
PAUSE: Final = 0.01
DRAIN: Final = 10.0
"""Seconds that answers may take after the last call."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


def function_id(worker: int, number: int) -> str:
    """Of one worker's functions."""
    return f"load::w{worker}::f{number}"


# -- the engine's process ------------------------------------------------------------------------------------------


async def serve() -> None:
    """Run an engine until standard input ends."""
    async with open_engine(port=0, http_port=None, stream_port=None) as engine:
        print(engine.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Usage:
    """What a process has used."""

    def __init__(self, pid: int) -> None:
        self._folder = Path("/proc", str(pid))

    def cpu(self) -> float:
        """Seconds."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def megabytes(self, key: str = "VmRSS") -> float:
        """Resident memory; with ``VmHWM`` the most there was."""
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return round(int(line.split()[1]) / 1024, 1)
        return 0.0


# -- the workers' processes ----------------------------------------------------------------------------------------


class Peer(WSListener):
    """One worker: answers at once, and calls at its rate."""

    def __init__(self, number: int, functions: int) -> None:
        self.number = number
        self.functions = functions
        self.ready = asyncio.get_running_loop().create_future()
        self.due: dict[str, float] = {}
        self.latencies: list[float] = []
        self.errors = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Register."""
        self.transport = transport
        for number in range(self.functions):
            self.send({"type": "registerfunction", "id": function_id(self.number, number)})
        own = {"name": f"load-{self.number}", "runtime": "load", "pid": os.getpid()}
        self.register_id = next(IDS)
        self.send(
            {
                "type": "invokefunction",
                "invocation_id": self.register_id,
                "function_id": "engine::workers::register",
                "data": own,
            }
        )

    def send(self, message: dict[str, Any]) -> None:
        """One text frame."""
        self.transport.send(WSMsgType.TEXT, orjson.dumps(message))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer a call, or note an answer."""
        if frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        if frame.msg_type != WSMsgType.TEXT:
            return
        message = orjson.loads(frame.get_payload_as_memoryview())
        if message["type"] == "invokefunction":
            result = {
                "type": "invocationresult",
                "invocation_id": message["invocation_id"],
                "function_id": message["function_id"],
                "result": message["data"],
            }
            self.send(result)
        elif message["type"] == "invocationresult":
            due = self.due.pop(message["invocation_id"], None)
            if due is not None:
                self.latencies.append(time.perf_counter() - due)
                self.errors += message.get("error") is not None
            elif message["invocation_id"] == self.register_id:
                self.ready.set_result(None)

    def call(self, target: str, due: float) -> None:
        """Begin a call."""
        invocation_id = next(IDS)
        self.due[invocation_id] = due
        self.send({"type": "invokefunction", "invocation_id": invocation_id, "function_id": target, "data": DATA})


def _given(peer: Peer, *_: object) -> Any:
    """What picows asks for: a listener."""
    return peer


IDS: Final = uuids()


async def drive(url: str, first: int, count: int, workers: int, functions: int) -> None:
    """Be some of the workers; report their connecting, then for each line of rate and seconds a load."""
    loop = asyncio.get_running_loop()
    peers: list[Peer] = []
    for number in range(first, first + count):
        peer = Peer(number, functions)
        await ws_connect(partial(_given, peer), url)
        peers.append(peer)
        await peer.ready
    print(json.dumps({"connected": len(peers)}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        rate, seconds = map(float, line.split())
        print(json.dumps(await load(peers, workers, functions, rate, seconds)), flush=True)


async def load(peers: list[Peer], workers: int, functions: int, rate: float, seconds: float) -> dict[str, Any]:
    """Call from every worker at this rate, and wait for the answers."""
    loop = asyncio.get_running_loop()
    dice = random.Random(peers[0].number)
    for peer in peers:
        peer.due.clear()
        peer.latencies.clear()
        peer.errors = 0
    start = time.perf_counter() + 0.5
    end = start + seconds
    offset = loop.time() - time.perf_counter()

    def call(peer: Peer, due: float) -> None:
        peer.call(function_id(dice.randrange(workers), dice.randrange(functions)), due)
        if due + 1 / rate < end:
            loop.call_at(due + 1 / rate + offset, call, peer, due + 1 / rate)

    before = cpu_here()
    for peer in peers:
        due = start + dice.random() / rate
        loop.call_at(due + offset, call, peer, due)
    await asyncio.sleep(end - time.perf_counter())
    for _ in range(int(DRAIN / PAUSE)):
        if not any(peer.due for peer in peers):
            break
        await asyncio.sleep(PAUSE)
    return {
        "latencies": [round(value * 1e3, 3) for peer in peers for value in peer.latencies],
        "errors": sum(peer.errors for peer in peers),
        "unanswered": sum(len(peer.due) for peer in peers),
        "cpu": cpu_here() - before,
        "took": time.perf_counter() - start,
    }


def cpu_here() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# -- the measurement -----------------------------------------------------------------------------------------------


class Scene:
    """An engine and its workers, in processes of their own."""

    def __init__(self, stack: ExitStack, workers: int, functions: int, processes: int = 2) -> None:
        self.workers = workers
        self.functions = functions
        engine = stack.enter_context(_start("engine"))
        assert engine.stdout is not None
        url = engine.stdout.readline().strip()
        self.usage = Usage(engine.pid)
        self.empty_megabytes = self.usage.megabytes()
        before, cpu = time.perf_counter(), self.usage.cpu()
        shares = [workers * (index + 1) // processes - workers * index // processes for index in range(processes)]
        self.peers = [
            stack.enter_context(_start("peers", url, sum(shares[:index]), share, workers, functions // workers))
            for index, share in enumerate(shares)
        ]
        for peer in self.peers:
            assert _answer(peer)["connected"]
        self.connecting = {
            "seconds": round(time.perf_counter() - before, 2),
            "engine_cpu_seconds": round(self.usage.cpu() - cpu, 2),
            "engine_mb_before": self.empty_megabytes,
            "engine_mb_after": self.usage.megabytes(),
        }

    def load(self, rate: float, seconds: float) -> dict[str, Any]:
        """Figures of a load."""
        cpu = self.usage.cpu()
        for peer in self.peers:
            assert peer.stdin is not None
            peer.stdin.write(f"{rate} {seconds}\n")
            peer.stdin.flush()
        parts = [_answer(peer) for peer in self.peers]
        cpu = self.usage.cpu() - cpu
        latencies = sorted(value for part in parts for value in part["latencies"])
        calls = len(latencies)
        return {
            "offered_per_second": self.workers * rate,
            "seconds": seconds,
            "answered": calls,
            "answered_per_second": round(calls / max(part["took"] for part in parts)),
            "errors": sum(part["errors"] for part in parts),
            "unanswered": sum(part["unanswered"] for part in parts),
            "latency_ms": {
                name: round(latencies[min(calls - 1, int(calls * share))], 2)
                for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
            }
            if calls
            else None,
            "engine_cpu_us_a_call": round(cpu / max(calls, 1) * 1e6, 1),
            "engine_cpu_share": round(cpu / max(part["took"] for part in parts), 2),
            "workers_cpu_us_a_call": round(sum(part["cpu"] for part in parts) / max(calls, 1) * 1e6, 1),
            "engine_mb": self.usage.megabytes(),
            "engine_mb_most": self.usage.megabytes("VmHWM"),
        }


def kept(load: dict[str, Any]) -> bool:
    """Whether the machine could do it: all was answered, and at once."""
    return not load["unanswered"] and load["latency_ms"]["p95"] < 1000


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.load", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def router_cost(functions: int) -> float:
    """CPU microseconds of one call and its answer in the router, without sockets."""
    router = Router(lambda: 1_000)
    caller, callee = router.connect(), router.connect()
    for session, name in ((caller, "caller"), (callee, "callee")):
        register = InvokeFunction("engine::workers::register", {"name": name, "pid": 1}, new_id())
        router.receive(session, encode(register))
    for number in range(functions):
        router.receive(callee, encode(RegisterFunction(f"load::f{number}")))
    for session in (caller, callee):
        session.take_outgoing()
    numbers = random.Random(functions)

    def call() -> None:
        target = f"load::f{numbers.randrange(functions)}"
        router.receive(caller, encode(InvokeFunction(target, DATA, new_id())))
        (forwarded,) = callee.take_outgoing()
        router.receive(callee, encode(InvocationResult(orjson.loads(forwarded)["invocation_id"], target, DATA)))
        caller.take_outgoing()
        router.take_dirty()

    return round(per_call(call), 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="200 workers, 20,000 functions, 50 calls a second, 60 s")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--functions", type=int, help="of all workers together")
    parser.add_argument("--rate", type=float, help="calls a second of each worker")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--no-flat", action="store_true", help="leave out the comparison of numbers of functions")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(Path(__file__).parents[1])}")
    options = parser.parse_args()
    workers: int = options.workers or (200 if options.full else 40)
    functions: int = options.functions or (20_000 if options.full else 4_000)
    rate: float = options.rate or (50.0 if options.full else 25.0)
    seconds: float = options.seconds or (60.0 if options.full else 10.0)
    report: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": round(os.getloadavg()[0], 1)},
        "workers": workers,
        "functions": functions,
    }
    report["loads"] = []
    while not report["loads"] or (not kept(report["loads"][-1]) and rate >= 1):
        with ExitStack() as stack:
            scene = Scene(stack, workers, functions)
            report.setdefault("connecting", scene.connecting)
            report["loads"].append({"machine_load": round(os.getloadavg()[0], 1), **scene.load(rate, seconds)})
        rate /= 2
    print(json.dumps(report, indent=1))
    if not options.no_flat:
        report["by_functions"] = []
        for count in COUNTS:
            with ExitStack() as stack:
                over_sockets = Scene(stack, 10, count).load(50, min(seconds, 5))
            row = {
                "functions": count,
                "router_us_a_call": router_cost(count),
                "engine_cpu_us_a_call": over_sockets["engine_cpu_us_a_call"],
                "latency_ms": over_sockets["latency_ms"],
            }
            report["by_functions"].append(row)
            print(json.dumps(row))
    if options.save:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["engine"]:
        uvloop.run(serve())
    elif sys.argv[1:2] == ["peers"]:
        uvloop.run(drive(sys.argv[2], *map(int, sys.argv[3:])))
    else:
        main()
