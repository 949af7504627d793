"""cron, durable topics, publish and subscribe, log: the built-in trigger types that need no HTTP."""

from __future__ import annotations

import os
import queue
from typing import Any

from iii import InitOptions, register_worker
from iii.protocol import RegisterTriggerInput

inboxes: dict[str, queue.Queue[Any]] = {name: queue.Queue() for name in ("cron", "job", "news", "state", "log")}
bound: list[Any] = []


def register(iii: Any) -> None:
    for name, inbox in inboxes.items():
        iii.register_function(f"on::{name}", inbox.put)
    bound.extend(
        [
            iii.register_trigger({"type": "cron", "function_id": "on::cron", "config": {"expression": "* * * * * *"}}),
            iii.register_trigger(
                {"type": "durable:subscriber", "function_id": "on::job", "config": {"topic": "jobs"}, "metadata": {}}
            ),
            iii.register_trigger({"type": "subscribe", "function_id": "on::news", "config": {"topic": "news"}}),
            iii.register_trigger(
                RegisterTriggerInput(type="state", function_id="on::state", config={"scope": "carts"})
            ),
            iii.register_trigger(
                RegisterTriggerInput(type="log", function_id="on::log", config={"level": "warn"}, metadata={"m": 1})
            ),
        ]
    )


def call(iii: Any, function_id: str, payload: Any) -> Any:
    return iii.trigger({"function_id": function_id, "payload": payload, "timeout_ms": 5000})


def arrives(iii: Any, name: str, function_id: str, payload: Any) -> Any:
    """Send until it is heard: the subscription is made behind the program's back."""
    while True:
        call(iii, function_id, payload)
        try:
            return inboxes[name].get(timeout=0.2)
        except queue.Empty:
            continue


def use(iii: Any) -> None:
    assert arrives(iii, "news", "publish", {"topic": "news", "data": {"n": 1}}) == {"n": 1}
    assert arrives(iii, "job", "iii::durable::publish", {"topic": "jobs", "data": {"n": 2}}) == {"n": 2}
    event = arrives(iii, "state", "state::set", {"scope": "carts", "key": "a", "value": {"items": 1}})
    assert (event["type"], event["scope"], event["key"]) == ("state", "carts", "a")
    assert event["new_value"] == {"items": 1}
    record = arrives(iii, "log", "engine::log::warn", {"message": "low stock", "data": {"item": "pen"}})
    assert record["body"] == "low stock"
    tick = inboxes["cron"].get(timeout=20)
    assert tick["trigger"] == "cron"
    for trigger in bound:
        trigger.unregister()


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="triggers"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
