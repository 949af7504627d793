"""A worker on the official ``iii-sdk`` with its telemetry on: ``official_exporter.py URL``.

Its function logs, makes a span of its own, and calls the next one. The end of stdin is its shutdown.
"""

from __future__ import annotations

import sys
from typing import Any

from iii import InitOptions, register_worker  # type: ignore[import-untyped]
from iii_helpers.observability import Logger, with_span


def main(url: str) -> None:
    """Serve until stdin ends."""
    iii = register_worker(url, InitOptions(worker_name="exporter", otel={"service_name": "official"}))

    async def first(_data: Any) -> Any:
        Logger(service_name="official").info("in the handler", {"n": 1})

        async def inner(_span: Any) -> Any:
            return await iii.trigger_async({"function_id": "official::second", "payload": {}})

        return {"status_code": 200, "body": await with_span("inner", inner)}

    async def second(_data: Any) -> Any:
        await iii.trigger_async({"function_id": "publish", "payload": {"topic": "t", "data": 1}})
        return "done"

    iii.register_function("official::first", first)
    iii.register_function("official::second", second)
    iii.register_trigger(
        {"type": "http", "function_id": "official::first", "config": {"api_path": "first", "http_method": "GET"}}
    )
    iii.trigger({"function_id": "engine::triggers::list", "payload": {}})
    print("ready", flush=True)
    sys.stdin.read()
    iii.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
