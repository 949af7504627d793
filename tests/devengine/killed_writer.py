"""Engines to be killed: for each line on stdin a new process runs one on the same directory and writes without pause.

It tells on stdout what the engine acknowledged, one JSON value a line. Forked, so that no round has to start Python.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import anyio

from iii_anyio import InitOptions, Worker, open_worker
from iii_anyio.devengine import open_engine

COUNTERS = 6


def tell(value: Any) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")  # one write: lines of tasks do not mix, nothing waits in a buffer


async def count(iii: Worker, counter: int) -> None:
    """Count on in one key; half of the counters by setting it, the others by adding to it."""
    place = {"scope": "counters", "key": str(counter)}
    number = await iii.trigger_async("state::get", place) or 0
    while True:
        if counter % 2:
            call = iii.trigger_async("state::set", place | {"value": number + 1})
        else:
            ops = [{"type": "increment", "path": "", "by": 1}]
            call = iii.trigger_async("state::update", place | {"ops": ops})
        number = (await call)["new_value"]
        tell([counter, number])


async def write(directory: str) -> None:
    async with (
        open_engine(port=None, data=directory) as engine,
        open_worker(connector=engine.connector(), options=InitOptions(worker_name="writer")) as iii,
        anyio.create_task_group() as group,
    ):
        tell([await iii.trigger_async("state::get", {"scope": "counters", "key": str(n)}) for n in range(COUNTERS)])
        for counter in range(COUNTERS):
            group.start_soon(count, iii, counter)


def main() -> None:
    logging.disable(logging.CRITICAL)
    for _line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            tell({"pid": os.getpid()})
            anyio.run(write, sys.argv[1])
            os._exit(1)
        os.waitpid(pid, 0)
        tell({"dead": pid})


if __name__ == "__main__":
    main()
