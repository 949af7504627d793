"""HTTP triggers: parameters, statuses, conditions, a chain of middleware, streamed uploads, downloads and events."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from iii import InitOptions, MiddlewareFunctionInput, register_worker
from iii_helpers.http import HttpRequest, HttpResponse, http

order: list[str] = []


async def show(request: dict) -> dict:
    order.append("handler")
    typed = HttpRequest(**request)
    return HttpResponse(
        status_code=203,
        body={"id": typed.path_params["id"], "q": typed.query_params.get("q"), "method": typed.method},
        headers={"x-shop": "1"},
    )


async def create(request: dict) -> dict:
    return {"status_code": 201, "body": {"got": request["body"]}}


async def first(request: dict) -> dict:
    order.append("first")
    assert request["phase"] == "preHandler"
    return {"action": "continue"}


async def second(request: dict) -> dict:
    order.append("second")
    if request["request"]["headers"].get("x-token") != "right":
        return {"action": "respond", "response": {"status_code": 401, "body": {"error": "who are you?"}}}
    return {"action": "continue"}


async def download(request: Any, response: Any) -> None:
    await response.status(200)
    await response.headers({"content-type": "application/octet-stream", "x-kind": "stream"})
    for _ in range(8):
        await response.writer.write(b"x" * 50_000)
    await response.writer.close_async()


async def upload(request: Any, response: Any) -> HttpResponse:
    size = 0
    async for chunk in request.request_body:
        size += len(chunk)
    return HttpResponse(status_code=200, body={"size": size})


async def events(request: Any, response: Any) -> None:
    await response.status(200)
    await response.headers({"content-type": "text/event-stream"})
    for number in range(3):
        await response.writer.write(f"data: {number}\n\n".encode())
    await response.writer.close_async()


def register(iii: Any) -> None:
    routes = {
        "shop::show": (show, "shop/:id", "GET", ["shop::first", "shop::second"]),
        "shop::create": (create, "shop", "POST", []),
        "shop::download": (http(download), "shop/file/all", "GET", []),
        "shop::upload": (http(upload), "shop/file/all", "PUT", []),
        "shop::events": (http(events), "shop/events/all", "GET", []),
    }
    iii.register_function("shop::first", first)
    iii.register_function("shop::second", second)
    for function_id, (handler, path, method, middleware) in routes.items():
        iii.register_function(function_id, handler)
        config: dict[str, Any] = {"api_path": path, "http_method": method}
        if middleware:
            config["middleware_function_ids"] = middleware
        iii.register_trigger({"type": "http", "function_id": function_id, "config": config})


def fetch(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(os.environ["III_HTTP_URL"] + path, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers, refused.read()


def use(iii: Any) -> None:
    while fetch("GET", "/shop/events/all")[0] == 404:  # the last to be bound
        time.sleep(0.01)
    status, headers, body = fetch("GET", "/shop/7?q=a", x_token="right")
    assert (status, headers["x-shop"]) == (203, "1")
    assert json.loads(body) == {"id": "7", "q": "a", "method": "GET"}
    assert order == ["first", "second", "handler"]
    status, _, body = fetch("GET", "/shop/7")
    assert (status, json.loads(body)) == (401, {"error": "who are you?"})
    assert order[3:] == ["first", "second"]
    status, _, body = fetch("POST", "/shop", b'{"item": "pen"}', content_type="application/json")
    assert (status, json.loads(body)) == (201, {"got": {"item": "pen"}})
    assert fetch("GET", "/shop/no/such")[0] == 404

    status, headers, body = fetch("GET", "/shop/file/all")
    assert (status, headers["x-kind"], len(body)) == (200, "stream", 400_000)
    status, _, body = fetch("PUT", "/shop/file/all", b"y" * 300_000, content_type="application/octet-stream")
    assert (status, json.loads(body)) == (200, {"size": 300_000})
    status, headers, body = fetch("GET", "/shop/events/all")
    assert (headers["content-type"], body) == ("text/event-stream", b"data: 0\n\ndata: 1\n\ndata: 2\n\n")
    assert MiddlewareFunctionInput(function_id="f", payload={}, context={}).namespace is None


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="shop"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
