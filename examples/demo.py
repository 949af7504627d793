"""The main job, end to end: an engine, a worker on asyncio and one on trio, and real HTTP requests from outside.

Behind the requests: state, a queue that tries again, and a stream, which a second worker looks at.

Run with ``make demo``. Exits 0 when every answer is the expected one, 1 and says what differs otherwise.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import shop

from iii_anyio import InitOptions, State, Stream, Worker, open_worker
from iii_anyio.devengine import open_engine
from iii_anyio.stream import StreamChangeEvent


@dataclass(frozen=True)
class Exchange:
    """One request and what must come back. ``expected`` is a part of the JSON body."""

    what: str
    method: str
    path: str
    status: int
    expected: dict[str, Any]
    body: Any = None


TEA_FOR_TWO = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}
EXCHANGES = (
    Exchange("read a price list", "GET", "/prices?sku=tea", 200, {"tea": 4.5}),
    Exchange(
        "order: async handler → sync handler → trigger()", "POST", "/orders/A-1", 201,
        {"order_id": "A-1", "total": 10.8, "message": "Thank you, Ada!"}, TEA_FOR_TWO,
    ),
    Exchange(
        "a bad quantity is refused by validation", "POST", "/orders/A-2", 400,
        {"error": {"code": "invalid_payload"}}, {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 0}]},
    ),
    Exchange(
        "an error keeps its code across functions", "POST", "/orders/A-3", 500,
        {"error": {"code": "unknown_sku"}}, {"customer": "Ada", "lines": [{"sku": "gold", "quantity": 1}]},
    ),
    Exchange("no such route", "GET", "/nowhere", 404, {"error": {"code": "NOT_FOUND"}}),
)  # fmt: skip


def contains(actual: Any, expected: Any) -> bool:
    """Whether ``expected`` is a part of ``actual``."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(contains(actual.get(key), value) for key, value in expected.items())
    return bool(actual == expected)


async def run_shop(backend: str) -> list[str]:
    """Serve the shop on this backend, ask it everything over HTTP, and return what was wrong."""
    problems: list[str] = []
    started = time.perf_counter()
    async with open_engine(port=0, http_port=0, stream_port=0) as engine:
        print(f"engine   {engine.url}   HTTP {engine.http_url}")
        name = f"shop-{backend}"
        async with open_worker(engine.url, InitOptions(worker_name=name)) as iii:
            shop.register(iii, name)
            await iii.wait_ready()
            await shop.define_queue(iii)
            print(f"worker   {name}, ready {(time.perf_counter() - started) * 1000:.0f} ms after the start\n")
            async with (
                httpx.AsyncClient(base_url=engine.http_url, trust_env=False) as client,
                open_worker(engine.url, InitOptions(worker_name="visitor")) as visitor,
            ):
                sent = await follow(visitor)
                for exchange in EXCHANGES:
                    problems += await ask(client, exchange, name)
                if not problems:
                    problems += await look_behind(visitor, sent)
    return problems


async def follow(visitor: Worker) -> anyio.Event:
    """Follow the shop's stream from another worker; the event is set when the first parcel has been sent."""
    sent = anyio.Event()

    @visitor.on_stream("shop", "orders", function_id="visitor::news")
    async def news(event: StreamChangeEvent) -> None:
        if event.event.data["status"] == "sent":
            sent.set()

    await visitor.wait_ready()
    return sent


async def look_behind(visitor: Worker, sent: anyio.Event) -> list[str]:
    """See what the accepted order left behind, and return what was wrong."""
    with anyio.move_on_after(5):
        await sent.wait()
    order = await State(visitor).get_async("orders", "A-1")
    told = await Stream(visitor, "shop").list_async("orders")
    queue = await visitor.trigger_async("engine::queue::topic_stats", {"topic": shop.PARCELS})
    lines = (
        ("the order is in state", contains(order, {"total": 10.8, "parcel": "sent"}), order),
        ("its parcel fell down once; the queue tried again", sent.is_set(), {"dead": queue["dlq_depth"]}),
        ("another worker followed the stream", told == [{"order_id": "A-1", "status": "sent"}], told),
    )
    for what, is_right, seen in lines:
        print(f"  {'ok ' if is_right else 'BAD'}  {what}\n       {seen}\n")
    return [f"{what}: saw {seen}" for what, is_right, seen in lines if not is_right]


async def ask(client: httpx.AsyncClient, exchange: Exchange, name: str) -> list[str]:
    """Make one request, print it, and return what was wrong with the answer."""
    began = time.perf_counter()
    response = await client.request(exchange.method, exchange.path, json=exchange.body)
    took = (time.perf_counter() - began) * 1000
    try:
        answer = response.json()
    except ValueError:
        answer = response.text
    is_right = response.status_code == exchange.status and contains(answer, exchange.expected)
    who = response.headers.get("x-answered-by", "engine")
    print(f"  {'ok ' if is_right else 'BAD'}  {exchange.what}")
    print(f"       {exchange.method} {exchange.path}" + (f"  {exchange.body}" if exchange.body else ""))
    print(f"       {response.status_code} {answer}")
    print(f"       answered by {who} in {took:.1f} ms\n")
    if is_right and exchange.status < 300 and who != name:
        return [f"{exchange.what}: answered by {who!r}, expected {name!r}"]
    if is_right:
        return []
    return [
        f"{exchange.what}: expected {exchange.status} with {exchange.expected}, got {response.status_code} {answer}"
    ]


def main() -> int:
    """Run the shop on both backends."""
    problems: list[str] = []
    for backend in ("asyncio", "trio"):
        print(f"──── {backend} " + "─" * (60 - len(backend)))
        problems += anyio.run(run_shop, backend, backend=backend)
    if problems:
        print("The demo did not go as expected:", file=sys.stderr)
        for problem in problems:
            print(f"  - {problem}", file=sys.stderr)
        return 1
    print(f"All {2 * (len(EXCHANGES) + 3)} answers are as expected.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
