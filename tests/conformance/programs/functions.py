"""Every kind of handler and of call."""

from __future__ import annotations

import os
import queue
from functools import partial
from typing import Any

import pytest
from iii import InitOptions, InvocationError, TriggerAction, register_worker
from iii.protocol import TriggerRequest
from iii.utils import safe_stringify

done: queue.Queue[Any] = queue.Queue()
handles: dict[str, Any] = {}


async def add(data: dict) -> int:
    return data["a"] + data["b"]


def upper(text: str) -> str:
    return text.upper()


def tagged(data: dict, *, metadata: Any = None) -> list:
    return [data, metadata]


async def nested(data: dict) -> list:
    answers = [await worker().trigger_async({"function_id": "calc::add", "payload": {"a": n, "b": 1}}) for n in data]
    return [*answers, await handles["nested"](data)]


def blocking(data: Any) -> Any:
    """A sync handler may call on with the sync API: it has a thread of its own."""
    return worker().trigger({"function_id": "text::upper", "payload": safe_stringify(data)})


def broken(_data: Any) -> None:
    raise KeyError("no such order")


def worker() -> Any:
    return handles["worker"]


def register(iii: Any) -> None:
    handles["worker"] = iii

    async def length(data: Any) -> int:
        return len(data)

    handles["nested"] = length
    iii.register_function("calc::add", add, description="Adds", metadata={"team": "a"})
    iii.register_function("text::upper", upper, request_format={"type": "string"}, response_format={"type": "string"})
    iii.register_function("meta::tagged", tagged)
    iii.register_function("calc::nested", nested)
    iii.register_function("calc::blocking", blocking, local_dispatch=False)
    iii.register_function("calc::partial", partial(add))
    iii.register_function("calc::broken", broken)
    iii.register_function("jobs::done", done.put)


def use(iii: Any) -> None:
    assert iii.trigger({"function_id": "calc::add", "payload": {"a": 1, "b": 2}}) == 3
    assert iii.trigger({"function_id": "calc::add", "payload": {"a": 1, "b": 2}, "dispatch": "remote"}) == 3
    assert iii.trigger(TriggerRequest(function_id="text::upper", payload="abc", timeout_ms=5000)) == "ABC"
    assert iii.trigger({"function_id": "meta::tagged", "payload": {"n": 1}, "metadata": {"tenant": "x"}}) == [
        {"n": 1},
        {"tenant": "x"},
    ]
    assert iii.trigger({"function_id": "calc::nested", "payload": [1, 2]}) == [2, 3, 2]
    assert iii.trigger({"function_id": "calc::blocking", "payload": ["a", None]}) == '["A", NULL]'
    assert iii.trigger({"function_id": "calc::partial", "payload": {"a": 2, "b": 2}}) == 4

    with pytest.raises(InvocationError) as failure:
        iii.trigger({"function_id": "calc::broken", "payload": {}})
    assert (failure.value.code, failure.value.function_id) == ("invocation_failed", "calc::broken")
    with pytest.raises(InvocationError) as missing:
        iii.trigger({"function_id": "calc::missing", "payload": {}, "timeout_ms": 5000})
    assert missing.value.code == "function_not_found"
    with pytest.raises(KeyError):
        iii.trigger({"payload": {}})

    assert iii.trigger({"function_id": "jobs::done", "payload": 1, "action": TriggerAction.Void()}) is None
    assert done.get(timeout=20) == 1
    receipt = iii.trigger(
        {"function_id": "jobs::done", "payload": {"n": 2}, "action": TriggerAction.Enqueue(queue="default")}
    )
    assert receipt["messageReceiptId"]
    assert done.get(timeout=20) == {"n": 2}

    listed = iii.trigger({"function_id": "engine::functions::list", "payload": {"prefix": "calc::"}})
    assert "calc::add" in [function["function_id"] for function in listed["functions"]]
    temporary = iii.register_function("calc::temporary", upper)
    assert iii.trigger({"function_id": "calc::temporary", "payload": "x"}) == "X"
    temporary.unregister()
    with pytest.raises(InvocationError):
        iii.trigger({"function_id": "calc::temporary", "payload": "x", "timeout_ms": 5000})


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="functions", otel={"enabled": False}))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
