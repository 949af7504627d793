"""A small shop: HTTP routes into validated handlers that call each other, one of them a plain synchronous function.

Used by ``demo.py`` and ``dev.py``.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from iii_anyio import ApiRequest, ApiResponse, InvocationError, Worker

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


def register(iii: Worker, name: str) -> None:
    """Register the shop's functions and routes on a worker; ``name`` signs the answers."""
    signature = {"x-answered-by": name}

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
        return ApiResponse(status_code=201, body=receipt, headers=signature)

    @iii.function("shop::prices")
    async def prices(request: ApiRequest[None]) -> ApiResponse[dict[str, float]]:
        wanted = request.query_params.get("sku")
        body = {sku: price for sku, price in PRICES.items() if wanted in {None, sku}}
        return ApiResponse(status_code=200, body=body, headers=signature)

    iii.register_trigger("http", "shop::order", {"api_path": "orders/:id", "http_method": "POST"})
    iii.register_trigger("http", "shop::prices", {"api_path": "prices", "http_method": "GET"})
