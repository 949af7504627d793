"""Hearing of calls: an observer that the engine serves, and one that the function's owner serves."""

from __future__ import annotations

import os
import queue
from typing import Any

import pytest
from iii import (
    InitOptions,
    InvocationError,
    ObserveHooks,
    Observer,
    ObserveRejection,
    current_invocation,
    register_worker,
)

events: queue.Queue[Any] = queue.Queue()
owned: dict[str, Observer] = {}


def place(order: dict) -> dict:
    running = current_invocation()
    assert running is not None
    if order["qty"] < 0:
        raise ValueError("negative")
    return {"total": order["qty"] * 2}


class Prices(ObserveHooks):
    delivery = "owner"
    args_format = {"type": "object", "required": ["item"]}

    async def on_observer_added(self, observer: Observer) -> None:
        if observer.args["item"] == "gold":
            raise ObserveRejection("NOT_FOR_SALE", "no gold")
        owned[observer.args["item"]] = observer

    async def on_observer_removed(self, observer: Observer) -> None:
        owned.pop(observer.args["item"], None)


def register(iii: Any) -> None:
    iii.register_function("orders::place", place)
    iii.register_function("orders::price", lambda data: None, observe=Prices())
    iii.register_function("audit::note", events.put)


def use(iii: Any) -> None:
    handle = iii.observe(
        {"function_id": "orders::place", "filters": {"input.qty": {"$gte": 10}}, "on": "complete"},
        "audit::note",
        {"metadata": {"why": "audit"}},
    )
    handle.ready(timeout=20)
    assert handle.state == "active"
    for quantity in (1, 20):
        assert iii.trigger({"function_id": "orders::place", "payload": {"qty": quantity}}) == {"total": quantity * 2}
    event = events.get(timeout=20)
    assert (event["function_id"], event["status"]) == ("orders::place", "success")
    assert (event["input"], event["output"]) == ({"qty": 20}, {"total": 40})
    handle.dispose()
    assert handle.state == "disposed"
    with pytest.raises(InvocationError):
        iii.trigger({"function_id": "orders::place", "payload": {"qty": -1}})

    price = iii.observe({"function_id": "orders::price", "args": {"item": "pen"}, "deliver": "input"}, "audit::note")
    price.ready(timeout=20)
    assert owned["pen"].emit({"price": 3})
    assert events.get(timeout=20) == {"price": 3}
    refused = iii.observe({"function_id": "orders::price", "args": {"item": "gold"}}, "audit::note")
    with pytest.raises(ObserveRejection, match="NOT_FOR_SALE"):
        refused.ready(timeout=20)
    price.dispose()


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="orders"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
