"""CPU-bound handlers in processes of their own, while the event loop goes on answering.

Run it: ``python examples/cpu_processes.py``
"""

from __future__ import annotations

import os
from typing import Any

import anyio
from where import open_place

from iii_anyio import App, InitOptions, Limits, open_worker

app = App("maths")


# At the top level of a module: the other process imports it by name.
@app.function("maths::count_primes", execution="process", concurrency=2)
def count_primes(below: int) -> dict[str, Any]:
    sieve = bytearray([1]) * below
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return {"below": below, "primes": sum(sieve) - 2, "process": os.getpid()}


@app.function("maths::ping")
async def ping() -> str:
    return "pong"


async def main() -> None:
    results: list[dict[str, Any]] = []
    options = InitOptions("maths", limits=Limits(max_processes=2))
    async with open_place() as place, open_worker(place.url, options) as iii, app.attach(iii):
        await iii.wait_ready()

        async def count(below: int) -> None:
            results.append(await iii.trigger_async("maths::count_primes", below))

        async with anyio.create_task_group() as group:
            for below in (1_000_000, 2_000_000):
                group.start_soon(count, below)
            print("meanwhile:", await iii.trigger_async("maths::ping"))
    for result in sorted(results, key=lambda result: result["below"]):
        where = "here" if result["process"] == os.getpid() else "elsewhere"
        print(f"{result['primes']} primes below {result['below']}, counted {where}")


if __name__ == "__main__":  # needed: the other processes import this module
    anyio.run(main)
