"""How often a large payload is in memory at once: callers and callees of 60 MiB, each a process of its own.

    python -m benchmarks.large

Counted is everything from before the payload was made; a caller's own value is the first copy. The stand-in answers in
one frame, as the engine does. Where the system does not tell a process its peak, nothing is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import uvloop

from . import standin
from .end_to_end import OURS

SIZE = 60 * 1024 * 1024
PLAIN = "x" * 80
LINES = "x" * 79 + "\n"
"""JSON escapes the line break, and a parser needs a copy to take the escapes out of."""
ROLES = {
    "send": "sent by a caller",
    "receive": "received by a caller",
    "lines": "received by a caller, with line breaks",
    "callee": "received and returned by a callee",
}
STATUS = Path("/proc/self/status")


class Connection(standin.Connection):
    """The stand-in's, with ``bench::make``, which returns a text so many times."""

    def message(self, message: dict[str, Any]) -> None:
        """Answer a call."""
        if message.get("function_id") == "bench::make":
            data = message["data"]
            self.answer(message["invocation_id"], "bench::make", {"text": data["text"] * data["times"]})
        else:
            super().message(message)


def memory(name: str) -> int:
    """``VmRSS``, the bytes in memory now, or ``VmHWM``, the most there ever were."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


async def serve(data: Any) -> Any:
    """What a callee does."""
    return data


def request(role: str, size: int) -> dict[str, Any]:
    """A call with a payload of so many bytes, in one direction."""
    call: dict[str, Any] = {"function_id": "bench::take", "timeout_ms": 60_000}
    if role == "send":
        call["payload"] = {"text": "x" * size}
    elif role == "callee":
        call |= {"function_id": "bench::flood", "payload": {"calls": 1, "in_flight": 1, "size": size}}
    else:
        text = LINES if role == "lines" else PLAIN
        call |= {"function_id": "bench::make", "payload": {"text": text, "times": size // len(text)}}
    return call


async def copies(role: str, url: str) -> float:
    """The most memory that one call took, as a multiple of the payload."""
    from iii_anyio import open_worker

    async with open_worker(url) as iii:
        iii.register_function("bench::serve", serve)
        await iii.wait_ready()
        await iii.trigger_async(request(role, 1_000_000))  # what is made once is no copy
        before = memory("VmRSS")
        wanted = request(role, SIZE)
        await iii.trigger_async(wanted)
        return (memory("VmHWM") - before) / SIZE


@contextmanager
def engine() -> Iterator[str]:
    """A stand-in engine; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.large", "engine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


def measure() -> dict[str, dict[str, float]]:
    """Copies, by what is done and by backend."""
    if not STATUS.exists():
        return {}
    environment = {**os.environ, "OTEL_ENABLED": "false"}
    found: dict[str, dict[str, float]] = {}
    for role, name in ROLES.items():
        found[name] = {}
        for kind in OURS:
            with engine() as url:
                command = [sys.executable, "-m", "benchmarks.large", role, kind, url]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
            found[name][kind] = json.loads(done.stdout)
    return found


def show(found: dict[str, dict[str, float]]) -> None:
    """Print what was measured."""
    print("\ncopies of a payload of 60 MiB in memory at once")
    for name, kinds in found.items():
        print(f"  {name:40}" + "".join(f"{kind:>10} {value:.2f}" for kind, value in kinds.items()))


def main() -> None:
    """Be the engine, make one measurement, or all."""
    if len(sys.argv) == 1:
        show(measure())
    elif sys.argv[1] == "engine":
        standin.PIECE = standin.MAX
        standin.Connection = Connection  # type: ignore[misc]
        uvloop.run(standin.main())
    else:
        role, kind, url = sys.argv[1:]
        backend = "trio" if kind == "trio" else "asyncio"
        options = {"use_uvloop": True} if kind == "uvloop" else {}
        print(anyio.run(copies, role, url, backend=backend, backend_options=options))


if __name__ == "__main__":
    main()
