"""A worker on the official ``iii-sdk``, as a program of its own: ``official_worker.py URL TAG [NAMESPACE]``.

What it registers and which commands it understands is written down in ``judging.py``; the programs in
``tests/interop`` are the same in other languages. It also runs on older releases of the SDK.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import warnings
from typing import Any

from iii import InitOptions, InvocationError, register_worker  # type: ignore[import-untyped]
from iii.helpers import create_channel_async, create_stream  # type: ignore[import-untyped]
from iii.stream import IStream  # type: ignore[import-untyped]
from iii.trigger import TriggerHandler  # type: ignore[import-untyped]
from iii_helpers.http import HttpInvocationConfig, http
from iii_helpers.observability import ReconnectionConfig
from iii_helpers.stream import StreamDeleteResult, StreamSetResult

warnings.simplefilter("ignore", FutureWarning)  # streams are deprecated upstream


class Inbox:
    """What arrived, until the judge takes it."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._changed = threading.Condition()

    def put(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def take(self, count: int) -> list[Any]:
        """Wait until there are so many; returns all there are."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) >= count, timeout=20)
            items, self._items = self._items, []
            return items


class Memory(IStream[Any]):
    """A stream kept in a dict."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], Any] = {}

    async def get(self, input: Any) -> Any:  # noqa: A002 - its name upstream
        return self._items.get((input.group_id, input.item_id))

    async def set(self, input: Any) -> Any:  # noqa: A002 - its name upstream
        old = self._items.get((input.group_id, input.item_id))
        self._items[input.group_id, input.item_id] = input.data
        return StreamSetResult(old_value=old, new_value=input.data)

    async def delete(self, input: Any) -> Any:  # noqa: A002 - its name upstream
        return StreamDeleteResult(old_value=self._items.pop((input.group_id, input.item_id), None))

    async def list(self, input: Any) -> Any:  # noqa: A002 - its name upstream
        return [item for (group, _), item in self._items.items() if group == input.group_id]

    async def list_groups(self, input: Any) -> Any:  # noqa: A002 - its name upstream
        return sorted({group for group, _ in self._items})

    async def update(self, input: Any) -> Any:  # noqa: A002 - its name upstream
        return None


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
    heard, told = Inbox(), Inbox()

    async def add(data: Any) -> Any:
        return data["a"] + data["b"]

    async def fail(_data: Any) -> None:
        raise LookupError("out of stock")

    async def meta(data: Any, metadata: Any) -> Any:
        return [data, metadata]

    async def serve(request: Any) -> Any:
        return {
            "status_code": 201,
            "body": [request["method"], request["path_params"], request["query_params"], request["body"]],
            "headers": {"x-served-by": "official"},
        }

    async def stream(request: Any, response: Any) -> None:
        body = await request.request_body.read_all()
        await response.status(202)
        await response.headers({"x-served-by": "official", "content-type": "text/plain"})
        for part in (b"<", body, b">"):
            await response.writer.write(part)
        await response.writer.close_async()

    async def read(data: Any) -> Any:
        notes: list[str] = []
        data["reader"].on_message(notes.append)
        content = await data["reader"].read_all()
        return {"size": len(content), "start": content[:5].decode(), "notes": notes}

    async def write(data: Any) -> None:
        await data["writer"].send_message_async("note")
        await data["writer"].write(b"hello" * data["count"])
        await data["writer"].close_async()

    async def pipe(data: Any) -> Any:
        channel = await create_channel_async(iii)
        request = {"function_id": data["to"], "payload": {"reader": channel.reader_ref.model_dump(mode="json")}}
        answer = asyncio.ensure_future(iii.trigger_async(request))
        await write({"writer": channel.writer, "count": data["count"]})
        return await answer

    async def auth(request: Any) -> Any:
        if request["headers"].get("x-token") != "right":
            raise PermissionError("wrong token")
        return {
            "allowed_functions": [f"{tag}::ours::add"],
            "forbidden_functions": [],
            "allow_trigger_type_registration": False,
            "context": {"user": "ann"},
        }

    async def hook(request: Any) -> Any:
        if "denied" in request["function_id"]:
            raise PermissionError("not this one")
        return {"metadata": {"checked": request["context"]["user"]}}

    async def middleware(request: Any) -> Any:
        return {"seen": request["function_id"], "payload": request["payload"], "user": request["context"]["user"]}

    class Bindings(TriggerHandler[Any]):
        async def register_trigger(self, config: Any) -> None:
            told.put(["bind", config.id, config.function_id, config.config, config.metadata])
            if config.config == "refuse":
                raise ValueError("the official one refuses")

        async def unregister_trigger(self, config: Any) -> None:
            told.put(["unbind", config.id])

    for name, handler in {
        "add": add,
        "double": lambda data: data * 2,
        "none": lambda data: None,
        "fail": fail,
        "meta": meta,
        "http": serve,
        "stream": http(stream),
        "length": len,
        "note": heard.put,
        "read": read,
        "write": write,
        "pipe": pipe,
        "auth": auth,
        "hook": hook,
        "middleware": middleware,
    }.items():
        iii.register_function(f"{tag}::official::{name}", handler)
    iii.register_trigger_type({"id": f"{tag}::official", "description": "Of the official SDK"}, Bindings())
    bound: list[Any] = []
    # Its own register call brings no answer; this one says that the engine has handled all of the above.
    iii.trigger({"function_id": "engine::triggers::list", "payload": {}})

    def obey(command: dict[str, Any]) -> Any:
        match command:
            case {"bind": trigger}:
                bound.append(iii.register_trigger(trigger))
                return {"bound": len(bound) - 1}
            case {"unbind": number}:
                bound[number].unregister()
                return {"unbound": number}
            case {"told": count}:
                return {"told": told.take(count)}
            case {"heard": count}:
                return {"heard": heard.take(count)}
            case {"stream": name}:
                create_stream(iii, name, Memory())
                return {"stream": name}
            case {"observe": source}:
                if not hasattr(iii, "observe"):
                    return {"unsupported": True}
                iii.observe(source, f"{tag}::official::note").ready(10)
                return {"observe": source}
            case {"external": address}:
                iii.register_function(f"{tag}::official::external", HttpInvocationConfig(url=address))
                return {"external": address}
        request = command["trigger"]
        if isinstance(size := command.get("kib"), int):
            request["payload"] = "é" * (size * 512)
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
