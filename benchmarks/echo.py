"""A worker that serves ``bench::echo`` until its standard input ends: the other side of calls to a real engine.

python -m benchmarks.echo WS_URL
"""

from __future__ import annotations

import sys
from typing import Any

import anyio
from anyio import to_thread

from iii_anyio import InitOptions, open_worker


async def main(url: str) -> None:
    """Serve."""
    async with open_worker(url, InitOptions(worker_name="bench-echo")) as iii:

        @iii.function("bench::echo")
        async def echo(data: Any) -> Any:
            return data

        await iii.wait_ready()
        print("ready", flush=True)
        await to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], backend_options={"use_uvloop": True})
