"""A system of three: a worker in Python, one in Node, and pages in browsers, each calling the others on one engine.

Run it: ``python examples/mixed.py``, and open the address it prints; Ctrl-C ends it. The page asks Node for a receipt,
Node asks Python for the tax, and Python tells every open page what was sold. Needs ``node`` and ``npm``; the first time
it installs the official SDK into examples/node.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import anyio
from anyio.abc import Process
from where import Place, open_place

from iii_anyio import ApiRequest, ApiResponse, InitOptions, Worker, open_worker
from iii_anyio.triggers import FunctionsAvailableEvent, FunctionsAvailableTrigger

HERE = Path(__file__).parent
NODE = HERE / "node"
OURS = {"python-tax", "node-prices"}


def register(iii: Worker, place: Place, node_is_there: anyio.Event) -> None:
    @iii.function("python::with-tax")
    async def with_tax(item: dict[str, str]) -> float:
        price = await iii.trigger_async("node::price", item)
        total = round(float(price["net"]) * 1.2, 2)
        sold = {"receipt": f"{item['sku']} for {total:.2f} €"}
        await iii.trigger_async("publish", {"topic": "sold", "data": sold})
        return total

    @iii.on_trigger(FunctionsAvailableTrigger(), function_id="python::look")
    async def look(event: FunctionsAvailableEvent) -> None:
        if any(function["function_id"] == "node::receipt" for function in event.functions):
            node_is_there.set()

    @iii.http("GET", "/receipts", function_id="python::page")
    async def page(request: ApiRequest[None]) -> ApiResponse[str]:
        text = await anyio.Path(HERE / "mixed.html").read_text("utf-8")
        headers = {"content-type": "text/html; charset=utf-8"}
        return ApiResponse(status_code=200, body=text.replace("WORKER_URL", place.url), headers=headers)


async def main() -> None:
    async with (
        open_place() as place,
        open_worker(place.url, InitOptions("python-tax")) as iii,
        await anyio.open_process(
            ["node", NODE / "worker.mjs", place.url], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=None
        ) as node,
    ):
        node_is_there = anyio.Event()
        register(iii, place, node_is_there)
        await iii.wait_ready()
        with anyio.fail_after(20):
            await node_is_there.wait()
        print("a receipt of Node:", await iii.trigger_async("node::receipt", {"sku": "tea"}))
        workers = await iii.list_workers_async()
        print("workers:", sorted(f"{worker.name} ({worker.runtime})" for worker in workers if worker.name in OURS))
        print(f"{place.http_url}/receipts", flush=True)
        await iii.serve()
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
