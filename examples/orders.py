"""A declared application: routes, a router, a lifespan, dependencies, a job, a typed stub that retries.

Run it: ``python examples/orders.py``. As a service: ``iii-anyio run orders:app --app-dir examples``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import httpx
from pydantic import BaseModel, Field
from where import open_place

from iii_anyio import ApiRequest, ApiResponse, App, RetryPolicy, Router, TriggerAction, Worker, open_worker, remote


class Order(BaseModel):
    item: str
    quantity: int = Field(gt=0)


class Receipt(BaseModel):
    number: int
    total: float


class Database:
    """Stands for a pool of connections."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    async def save(self, order: Order) -> int:
        self.orders.append(order)
        return len(self.orders)


async def lifespan() -> AsyncGenerator[Database]:
    database = Database()
    yield database
    print("closed")  # after the last handler


app = App("orders", lifespan=lifespan)
prices = Router("prices::")


@prices.function()
async def total(order: Order) -> float:
    return {"tea": 4.5}.get(order.item, 1.0) * order.quantity


@app.function()
async def create(order: Order, database: Database, iii: Worker) -> Receipt:
    # Worth repeating when a link drops: asking for a price twice does no harm.
    ask = iii.remote("prices::total", Order, float, retry=RetryPolicy(attempts=3))
    receipt = Receipt(number=await database.save(order), total=await ask(order))
    await iii.trigger_async("orders::confirm", receipt, action=TriggerAction.Enqueue(queue="default"))
    return receipt


@app.http("POST", "/orders")
async def over_http(request: ApiRequest[Order], database: Database, iii: Worker) -> ApiResponse[Receipt]:
    return ApiResponse(status_code=201, body=await create(request.body, database, iii))


confirmed: list[int] = []
both = anyio.Event()


@app.function()
async def confirm(receipt: Receipt) -> None:
    confirmed.append(receipt.number)
    if len(confirmed) == 2:
        both.set()


app.include(prices)
create_order = remote("orders::create", Order, Receipt)  # for other modules to import


async def main() -> None:
    async with open_place() as place, open_worker(place.url) as iii, app.attach(iii):
        await iii.wait_ready()
        async with httpx.AsyncClient(base_url=place.http_url) as client:
            answer = await client.post("/orders", json={"item": "tea", "quantity": 2})
            print(answer.status_code, answer.text)
        receipt = await create_order.on(iii)(Order(item="tea", quantity=3))
        print(f"the same over a stub: {receipt!r}")
        with anyio.fail_after(5):
            await both.wait()
        print(f"jobs: confirmed {sorted(confirmed)}")


if __name__ == "__main__":
    anyio.run(main)
