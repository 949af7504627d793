"""Workers in two languages on one engine: Python calls Node, which calls Python. Needs ``node`` and ``npm``.

Run it: ``python examples/mixed.py``; the first time it installs the official SDK into examples/node.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import anyio
from anyio.abc import Process
from where import open_place

from iii_anyio import InitOptions, open_worker
from iii_anyio.triggers import FunctionsAvailableEvent, FunctionsAvailableTrigger

NODE = Path(__file__).parent / "node"
OURS = {"python-tax", "node-prices"}


async def main() -> None:
    async with (
        open_place() as place,
        open_worker(place.url, InitOptions("python-tax")) as iii,
        await anyio.open_process(
            ["node", NODE / "worker.mjs", place.url], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=None
        ) as node,
    ):
        has_prices = anyio.Event()

        @iii.function("python::with-tax")
        async def with_tax(item: dict[str, str]) -> float:
            price = await iii.trigger_async("node::price", item)
            return round(float(price["net"]) * 1.2, 2)

        @iii.on_trigger(FunctionsAvailableTrigger(), function_id="python::look")
        async def look(event: FunctionsAvailableEvent) -> None:
            if any(function["function_id"] == "node::receipt" for function in event.functions):
                has_prices.set()

        await iii.wait_ready()
        with anyio.fail_after(20):
            await has_prices.wait()
        print("a receipt of Node:", await iii.trigger_async("node::receipt", {"sku": "tea"}))
        workers = await iii.list_workers_async()
        print("workers:", sorted(f"{worker.name} ({worker.runtime})" for worker in workers if worker.name in OURS))
        await stop(node)


async def stop(node: Process) -> None:
    """End its input, which it takes for a goodbye."""
    assert node.stdin is not None
    await node.stdin.aclose()
    with anyio.move_on_after(5):
        await node.wait()


def install() -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        sys.exit("This example needs node and npm.")
    if not (NODE / "node_modules" / "iii-sdk").exists():
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", NODE], check=True)


if __name__ == "__main__":
    install()
    anyio.run(main)
