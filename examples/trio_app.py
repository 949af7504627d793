"""A worker in a trio program: nurseries, memory channels and timeouts of trio's own, nothing in between.

Run it: ``python examples/trio_app.py``
"""

from __future__ import annotations

import math

import trio
from where import open_place

from iii_anyio import InitOptions, InvocationTimeoutError, open_worker


async def main() -> None:
    send, receive = trio.open_memory_channel[str](100)

    async def measure(reading: dict[str, float]) -> str:
        await send.send(f"{reading['celsius']:.0f} degrees")
        return "noted"

    async def slow() -> None:
        try:
            await trio.sleep(math.inf)
        finally:
            print("the handler that never ends is cancelled with its worker")

    async with open_place() as place, open_worker(place.url, InitOptions("station", shutdown_timeout=0.1)) as iii:
        iii.register_function("station::measure", measure)
        iii.register_function("station::slow", slow)
        await iii.wait_ready()

        async with trio.open_nursery() as nursery:
            for celsius in (19, 20, 21):
                nursery.start_soon(iii.trigger_async, "station::measure", {"celsius": celsius})
            with trio.fail_after(5):
                print("measured:", sorted([await receive.receive() for _ in range(3)]))

        # A deadline of trio's ends the wait like timeout_ms does; the handler is not told.
        with trio.move_on_after(0.05) as scope:
            await iii.trigger_async("station::slow")
        print("gave up:", scope.cancelled_caught)
        try:
            await iii.trigger_async("station::slow", timeout_ms=50)
        except InvocationTimeoutError as error:
            print("and so did the worker:", error.code)


if __name__ == "__main__":
    trio.run(main)
