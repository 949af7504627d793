"""A worker that serves until it is told to stop: the loop of older programs, or nothing at all."""

from __future__ import annotations

import asyncio
import sys

from iii import InitOptions, register_worker


async def ping(data: dict) -> str:
    await asyncio.sleep(0)
    return "pong"


def start() -> None:
    iii = register_worker(options=InitOptions(worker_name=f"serves-{sys.argv[1]}"))
    iii.register_function(f"serves::{sys.argv[1]}", ping)
    iii.trigger({"function_id": "engine::functions::list", "payload": {}})
    print("serving", flush=True)


async def main() -> None:
    start()
    while True:
        await asyncio.sleep(60)


if __name__ == "__main__":
    if sys.argv[1] == "loop":
        asyncio.run(main())
    else:
        start()  # the worker's own thread keeps the process alive
