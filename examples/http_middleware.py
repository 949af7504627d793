"""HTTP routes with a request log around all of them, and a key and a rate limit around some.

Run it: ``python examples/http_middleware.py``
"""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Any

import anyio
import httpx
from pydantic import BaseModel, Field
from where import open_place

from iii_anyio import ApiRequest, ApiResponse, App, Router, open_worker
from iii_anyio.app import CallNext, MiddlewareInvocation

KEYS = {"k-ada": "Ada", "k-bob": "Bob"}
LIMIT, WINDOW = 3, 60.0  # requests of a key in so many seconds


class Order(BaseModel):
    item: str
    quantity: int = Field(gt=0)


async def log_requests(call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
    """Outermost: it sees the request as it came, and the answer as it goes."""
    answer = await call_next(invocation)
    request = invocation.payload
    print(f"log: {request['method']} {request['path']} -> {answer['status_code']}")
    return answer


async def check_key(call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
    """Answer by itself, or pass the request on."""
    if invocation.payload["headers"].get("x-key") not in KEYS:
        return {"status_code": 401, "body": {"error": "send a known x-key"}}
    return await call_next(invocation)


class RateLimit:
    """Any callable object will do; this one remembers."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, window
        self._count: Counter[str] = Counter()
        self._ends = 0.0

    async def __call__(self, call_next: CallNext, invocation: MiddlewareInvocation) -> Any:
        if monotonic() >= self._ends:
            self._count.clear()
            self._ends = monotonic() + self._window
        key = invocation.payload["headers"]["x-key"]
        self._count[key] += 1
        if self._count[key] > self._limit:
            wait = round(self._ends - monotonic())
            return {"status_code": 429, "body": {"error": "too many"}, "headers": {"retry-after": str(wait)}}
        return await call_next(invocation)


app = App("shop", middleware=[log_requests])
orders = Router("orders::", middleware=[check_key, RateLimit(LIMIT, WINDOW)])


@app.http("GET", "/health")
async def health(request: ApiRequest[None]) -> ApiResponse[str]:
    return ApiResponse(status_code=200, body="well")


@orders.http("POST", "/orders")
async def create(request: ApiRequest[Order]) -> ApiResponse[dict[str, str]]:
    who = KEYS[str(request.headers["x-key"])]
    return ApiResponse(status_code=201, body={"for": who, "item": request.body.item})


app.include(orders)


async def main() -> None:
    async with open_place() as place, open_worker(place.url) as iii, app.attach(iii):
        await iii.wait_ready()
        async with httpx.AsyncClient(base_url=place.http_url) as client:
            print(await status(client.get("/health")))
            print(await status(client.post("/orders", json={"item": "tea", "quantity": 1})))
            client.headers["x-key"] = "k-ada"
            for quantity in (1, 0, 2, 3):
                print(await status(client.post("/orders", json={"item": "tea", "quantity": quantity})))


async def status(request: Any) -> str:
    answer = await request
    return f"{answer.status_code} {answer.text[:60]}"


if __name__ == "__main__":
    anyio.run(main)
