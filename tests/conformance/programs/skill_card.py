"""What the skill card shows: get_context, ApiRequest and ApiResponse, positional triggers, lists and callbacks."""

from __future__ import annotations

import asyncio
import os
import queue
import urllib.request
from typing import Any

from iii import ApiRequest, ApiResponse, Context, InitOptions, Logger, get_context, register_worker, with_context

seen: queue.Queue[Any] = queue.Queue()
states: list[str] = []
handles: dict[str, Any] = {}


async def greet(data: dict) -> dict:
    context = get_context()
    context.logger.info("greeting", {"name": data["name"]})
    shout = await asyncio.to_thread(data["name"].upper)  # work for a thread
    return {"message": f"Hello, {shout}!"}


async def greet_over_http(request: dict) -> dict:
    wanted = ApiRequest(**request)
    greeting = await handles["worker"].trigger_async(
        {"function_id": "card::greet", "payload": {"name": wanted.path_params["name"]}}
    )
    return ApiResponse(statusCode=201, body=greeting, headers={"x-card": "1"}).model_dump(by_alias=True)


def register(iii: Any) -> None:
    handles["worker"] = iii
    handles["unsubscribe"] = [
        iii.on_connection_state_change(states.append),
        iii.on_functions_available(lambda functions: seen.put([function.function_id for function in functions])),
    ]
    iii.register_function("card::greet", greet)
    iii.register_function("card::http", greet_over_http)
    iii.register_trigger("http", "card::http", {"api_path": "card/:name", "http_method": "POST"}, {"from": "card"})


def use(iii: Any) -> None:
    if iii.get_connection_state() != "connected":
        raise AssertionError(states)
    assert iii.trigger({"function_id": "card::greet", "payload": {"name": "Ada"}}) == {"message": "Hello, ADA!"}
    assert iii.call({"function_id": "card::greet", "payload": {"name": "Bo"}}) == {"message": "Hello, BO!"}
    while "card::greet" not in seen.get(timeout=20):
        pass
    iii.register_function("card::later", greet)
    while "card::later" not in seen.get(timeout=20):
        pass

    request = urllib.request.Request(f"{os.environ['III_HTTP_URL']}/card/ada", data=b"{}", method="POST")
    with urllib.request.urlopen(request) as response:
        assert (response.status, response.headers["x-card"]) == (201, "1")
        assert response.read() == b'{"message":"Hello, ADA!"}'

    functions = [function.function_id for function in iii.list_functions() if function.function_id.startswith("card::")]
    assert sorted(functions) == ["card::greet", "card::http", "card::later"]
    assert [trigger.trigger_type for trigger in iii.list_triggers() if trigger.function_id == "card::http"] == ["http"]
    assert "http" in [trigger_type.id for trigger_type in iii.list_trigger_types()]
    assert iii.worker_id in [worker.id for worker in iii.list_workers()]

    get_context().logger.info("outside of a handler it works, too")

    async def named(context: Context) -> str | None:
        return get_context().logger.service_name if get_context() is context else None

    assert asyncio.run(with_context(named, Context(logger=Logger(service_name="card")))) == "card"
    for unsubscribe in handles["unsubscribe"]:
        unsubscribe()
    assert states[-1] == "connected"


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="card"))
    try:
        register(iii)
        ready(iii)
        use(iii)
    finally:
        iii.shutdown()


def ready(iii: Any) -> None:
    """Triggers are bound when their provider has been told; a program of the time slept a second."""
    iii.wait_ready()


if __name__ == "__main__":
    main()
