"""A worker on the official ``iii-sdk`` that observes and is observed: ``official_observer.py URL TAG``.

Like ``official_worker.py`` it prints ``{"ready": true}``, obeys commands from stdin and leaves at its end:

    {"observe": [source, target, options]}   makes an observer and waits until it is ready    {"ready": id} or {"error"}
    {"dispose": id}                          ends one                                         {"disposed": id}
    {"state": id}                            what has become of one                           {"state": [state, code]}
    {"emit": event}, {"ask": payload}        to the observers of its ``tick``                 {"emitted": n}, {"result"}
    {"trigger": request}                     calls                                            {"result"} or {"error"}
    {"heard": n}                             waits until ``note`` was called so often         {"heard": payloads}
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

from iii import InitOptions, InvocationError, ObserveHooks, ObserveRejection, register_worker  # type: ignore[import-untyped]
from iii_helpers.observability import ReconnectionConfig


def main(url: str, tag: str) -> None:
    """Serve until stdin ends."""
    iii = register_worker(
        url,
        InitOptions(
            worker_name=f"{tag}::official",
            otel={"enabled": False},
            reconnection_config=ReconnectionConfig(initial_delay_ms=20, max_delay_ms=20),
        ),
    )
    heard: queue.Queue[Any] = queue.Queue()
    handles: dict[str, Any] = {}

    async def double(data: Any) -> Any:
        return data * 2

    async def note(data: Any) -> Any:
        heard.put(data)
        return "noted"

    async def tick(data: Any) -> Any:
        return data

    async def added(observer: Any) -> None:
        if observer.args["every"] <= 0:
            raise ObserveRejection("TOO_OFTEN", "every must be positive")

    hooks = ObserveHooks(
        delivery="owner",
        args_format={"type": "object", "properties": {"every": {"type": "integer"}}, "required": ["every"]},
        on_observer_added=added,
    )
    iii.register_function(f"{tag}::official::double", double)
    iii.register_function(f"{tag}::official::note", note)
    ticking = iii.register_function(f"{tag}::official::tick", tick, observe=hooks)
    iii.trigger({"function_id": "engine::triggers::list", "payload": {}})

    def obey(command: dict[str, Any]) -> Any:
        match command:
            case {"observe": [source, target, options]}:
                handle = iii.observe(source, target, options)
                handles[handle.id] = handle
                try:
                    handle.ready(10)
                except ObserveRejection as error:
                    return {"error": [error.code, error.message]}
                return {"ready": handle.id}
            case {"dispose": observer_id}:
                handles[observer_id].dispose()
                return {"disposed": observer_id}
            case {"state": observer_id}:
                handle = handles[observer_id]
                return {"state": [handle.state, handle.reason["code"] if handle.reason else None]}
            case {"emit": event}:
                return {"emitted": sum(observer.emit(event) for observer in ticking.observers())}
            case {"heard": count}:
                return {"heard": [heard.get(timeout=30) for _ in range(count)]}
        try:
            if "ask" in command:
                (observer,) = ticking.observers()
                return {"result": observer.call(command["ask"])}
            return {"result": iii.trigger(command["trigger"])}
        except InvocationError as error:
            return {"error": [error.code, error.message]}

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line))), flush=True)
    iii.shutdown()
    print(json.dumps({"over": True}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
