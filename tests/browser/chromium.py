"""A headless Chromium, and an engine with something to look at. For the tests of the console and its pictures."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from iii_anyio import InitOptions, InvocationError, Logger, TriggerAction, Worker, open_worker
from iii_anyio.devengine import Engine, open_engine

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Its path: ``$CHROMIUM``, else what the system has, else what ``playwright install`` has brought."""
    given = os.environ.get("CHROMIUM")
    found = given or next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    folder = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    return next((str(path) for path in sorted(folder.glob("chromium_headless_shell-*/*/*headless*shell"))), None)


@asynccontextmanager
async def open_chromium(path: str) -> AsyncIterator[Browser]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        # Without its sandbox it runs as root, too; it only sees pages of this machine.
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


def expect(what: Locator) -> Any:
    """What is to become true of it, in five seconds."""
    from playwright.async_api import expect as expected

    return expected(what)


class Line(BaseModel):
    """One line of an order."""

    sku: str
    quantity: int = Field(default=1, description="how many")


class Order(BaseModel):
    """What somebody wants."""

    customer: str = Field(description="who pays")
    line: Line
    shipping: Literal["standard", "express"] = "standard"
    gift: bool | None = None
    discount: float | None = Field(default=None, description="in percent")
    notes: list[str] = []


class Receipt(BaseModel):
    """What they get."""

    customer: str
    total: float


async def serve_shop(iii: Worker) -> None:
    """Register a small shop: functions with schemas, one that fails, and triggers."""

    async def price(sku: str) -> float:
        """What one costs."""
        Logger().info(f"looking up {sku}", {"sku": sku})
        return 4.5

    async def create(order: Order) -> Receipt:
        """Create an order."""
        each = await iii.trigger_async({"function_id": "shop::price", "payload": order.line.sku})
        total = each * order.line.quantity * (1 - (order.discount or 0) / 100)
        return Receipt(customer=order.customer, total=total)

    async def print_receipt(_: Any) -> str:
        """Fail, until somebody brings paper."""
        if await iii.trigger_async({"function_id": "state::get", "payload": {"scope": "printer", "key": "paper"}}):
            return "printed"
        Logger().error("the printer is on fire")
        raise InvocationError("out_of_paper", "the printer has no paper")

    iii.register_function("shop::price", price)
    iii.register_function("shop::create", create)
    iii.register_function("shop::print", print_receipt)
    iii.register_trigger("http", "shop::create", {"api_path": "orders", "http_method": "POST"})
    await iii.wait_ready()


async def fill(iii: Worker) -> None:
    """Have state, streams, a dead letter and traces."""
    await iii.trigger_async(
        {"function_id": "queue::define", "payload": {"queue": "prints", "config": {"max_retries": 0}}}
    )
    for key, value in {"ada": {"orders": 3}, "grace": {"orders": 1}}.items():
        await iii.trigger_async(
            {"function_id": "state::set", "payload": {"scope": "customers", "key": key, "value": value}}
        )
    item = {"stream_name": "kitchen", "group_id": "today", "item_id": "A-1", "data": {"state": "new"}}
    await iii.trigger_async({"function_id": "stream::set", "payload": item})
    order = {"customer": "Ada", "line": {"sku": "tea", "quantity": 2}}
    await iii.trigger_async({"function_id": "shop::create", "payload": order})
    await iii.trigger_async(
        {"function_id": "shop::print", "payload": {"order": "A-1"}, "action": TriggerAction.Enqueue(queue="prints")}
    )


@asynccontextmanager
async def open_shop(*, port: int = 0, console_port: int | None = 0) -> AsyncIterator[tuple[Engine, Worker]]:
    """An engine with a console, and the shop at it."""
    options = InitOptions(worker_name="shop", worker_description="Sells tea", otel=True)
    async with (
        open_engine(port=port, http_port=0, stream_port=0, console_port=console_port) as engine,
        open_worker(engine.url, options) as iii,
    ):
        await serve_shop(iii)
        await fill(iii)
        yield engine, iii


if __name__ == "__main__":
    path = find_chromium()
    print(path or "no Chromium")
    sys.exit(path is None)
