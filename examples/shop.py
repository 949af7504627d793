"""A small shop: HTTP routes into validated handlers that call each other, one of them a plain synchronous function.

What is ordered is kept in state, its parcel is a job of a queue, and whoever follows the shop's stream sees both.

Used by ``demo.py`` and ``dev.py``.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from iii_anyio import ApiRequest, ApiResponse, InvocationError, State, Stream, TriggerAction, Worker
from iii_anyio.state import StateEventData

PARCELS = "shop-parcels"
PRICES = {"tea": 4.50, "coffee": 7.25}


class Line(BaseModel):
    sku: str
    quantity: int = Field(gt=0, le=100)


class Order(BaseModel):
    customer: str
    lines: list[Line] = Field(min_length=1)


class Quote(BaseModel):
    net: float
    tax: float


class Receipt(BaseModel):
    order_id: str
    customer: str
    total: float
    message: str


async def define_queue(iii: Worker) -> None:
    """Tell the engine how often and how soon a parcel is tried again."""
    config = {"max_retries": 3, "backoff_ms": 20}
    await iii.trigger_async("queue::define", {"queue": PARCELS, "config": config})


def register(iii: Worker, name: str) -> None:
    """Register the shop's functions and routes on a worker; ``name`` signs the answers."""
    signature = {"x-answered-by": name}
    state, news = State(iii), Stream(iii, "shop")

    @iii.function("shop::tax")
    async def tax(net: float) -> float:
        return round(net * 0.2, 2)

    @iii.function("shop::quote")
    def quote(order: Order) -> Quote:
        """Synchronous: runs in a thread, where ``trigger`` may block."""
        unknown = [line.sku for line in order.lines if line.sku not in PRICES]
        if unknown:
            raise InvocationError("unknown_sku", f"not on sale: {', '.join(unknown)}")
        net = round(sum(PRICES[line.sku] * line.quantity for line in order.lines), 2)
        return Quote(net=net, tax=iii.trigger({"function_id": "shop::tax", "payload": net}))

    @iii.function("shop::order")
    async def order(request: ApiRequest[Order]) -> ApiResponse[Receipt]:
        quoted = Quote.model_validate(await iii.trigger_async({"function_id": "shop::quote", "payload": request.body}))
        receipt = Receipt(
            order_id=request.path_params["id"],
            customer=request.body.customer,
            total=round(quoted.net + quoted.tax, 2),
            message=f"Thank you, {request.body.customer}!",
        )
        await state.set_async("orders", receipt.order_id, receipt)
        to_parcels = TriggerAction.Enqueue(queue=PARCELS)
        await iii.trigger_async("shop::parcel", {"order_id": receipt.order_id}, action=to_parcels)
        return ApiResponse(status_code=201, body=receipt, headers=signature)

    @iii.function("shop::prices")
    async def prices(request: ApiRequest[None]) -> ApiResponse[dict[str, float]]:
        wanted = request.query_params.get("sku")
        body = {sku: price for sku, price in PRICES.items() if wanted in {None, sku}}
        return ApiResponse(status_code=200, body=body, headers=signature)

    dropped: set[str] = set()

    @iii.function("shop::parcel")
    async def parcel(job: dict[str, str]) -> None:
        """A job of a queue: it drops each parcel once, and the queue has it try again."""
        if job["order_id"] not in dropped:
            dropped.add(job["order_id"])
            raise InvocationError("dropped", "the parcel fell down")
        await state.update_async("orders", job["order_id"], [{"type": "set", "path": "parcel", "value": "sent"}])

    @iii.on_state("orders", function_id="shop::tell", concurrency=1)  # in order
    async def tell(event: StateEventData[dict[str, Any]]) -> None:
        what = (event.new_value or {}).get("parcel", "ordered")
        await news.set_async("orders", event.key, {"order_id": event.key, "status": what})

    iii.register_trigger("http", "shop::order", {"api_path": "orders/:id", "http_method": "POST"})
    iii.register_trigger("http", "shop::prices", {"api_path": "prices", "http_method": "GET"})
