"""A worker on the official ``iii-sdk``, as a program of its own: ``official_worker.py URL TAG [NAMESPACE]``.

It registers functions, an ``http`` trigger and a trigger type under its tag, then reads commands from stdin, one JSON
object a line, and answers each with one on stdout: ``{"trigger": request}`` makes a call, ``{"bind": trigger}``
registers a trigger, ``{"told": null}`` tells what its trigger type was asked for. The end of stdin is its shutdown.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from iii import InitOptions, InvocationError, register_worker  # type: ignore[import-untyped]
from iii.trigger import TriggerHandler  # type: ignore[import-untyped]
from iii_helpers.observability import ReconnectionConfig


def main(url: str, tag: str, namespace: str | None = None) -> None:
    """Serve until stdin ends."""
    iii = register_worker(
        url,
        InitOptions(
            worker_name=f"{tag}::official",
            namespace=namespace,
            otel={"enabled": False},
            reconnection_config=ReconnectionConfig(initial_delay_ms=20, max_delay_ms=20),
        ),
    )

    async def add(data: Any) -> Any:
        return data["a"] + data["b"]

    async def fail(_data: Any) -> None:
        raise LookupError("out of stock")

    async def meta(data: Any, metadata: Any) -> Any:
        return [data, metadata]

    async def http(request: Any) -> Any:
        return {
            "status_code": 201,
            "body": [request["method"], request["path_params"], request["query_params"], request["body"]],
            "headers": {"x-served-by": "official"},
        }

    told: list[Any] = []

    class Bindings(TriggerHandler[Any]):
        async def register_trigger(self, config: Any) -> None:
            told.append(["bind", config.id, config.function_id, config.config, config.metadata, config.namespace])
            if config.config == "refuse":
                raise ValueError("the official one refuses")

        async def unregister_trigger(self, config: Any) -> None:
            told.append(["unbind", config.id])

    for name, handler in {
        "add": add,
        "double": lambda data: data * 2,
        "none": lambda data: None,
        "fail": fail,
        "meta": meta,
        "http": http,
        "length": len,
    }.items():
        iii.register_function(f"{tag}::official::{name}", handler)
    iii.register_trigger_type({"id": f"{tag}::official", "description": "Of the official SDK"}, Bindings())
    route = {"api_path": f"{tag}/official/:id", "http_method": "POST"}
    iii.register_trigger({"type": "http", "function_id": f"{tag}::official::http", "config": route})
    # Its own register call brings no answer; this one says that the engine has handled all of the above.
    iii.trigger({"function_id": "engine::triggers::list", "payload": {}})

    def obey(command: dict[str, Any]) -> Any:
        if "bind" in command:
            iii.register_trigger(command["bind"])
            return {"bound": True}
        if "told" in command:
            return {"told": told}
        request = command["trigger"]
        if isinstance(size := command.get("mib"), int):
            request["payload"] = "é" * (size * 524_288)
        try:
            return {"result": iii.trigger(request)}
        except InvocationError as error:
            return {"error": [error.code, error.message]}

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line))), flush=True)
    iii.shutdown()
    print(json.dumps({"over": True}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
