"""A Starlette application (FastAPI is one, too) beside a worker, in one process and one event loop.

Run it: ``python examples/starlette_app.py``. As a service: ``uvicorn starlette_app:web --app-dir examples``, with
``III_URL`` or an engine on the usual port; ``uvicorn`` is not needed here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from where import open_place

from iii_anyio import InitOptions, InvocationError, State, open_worker

visitors: list[str] = []


async def greet(person: dict[str, str]) -> str:
    """A function for every worker of the engine; it shares memory with the web application."""
    visitors.append(person["name"])
    return f"Hello, {person['name']}!"


@asynccontextmanager
async def lifespan(web: Starlette) -> AsyncGenerator[dict[str, object]]:
    """The server runs this around everything: the worker lives exactly as long."""
    # The server looks after signals, so the worker does not.
    async with open_worker(os.environ.get("III_URL"), InitOptions("web", handle_signals=False)) as iii:
        iii.register_function("web::greet", greet)
        await iii.wait_ready()
        yield {"iii": iii}


async def hello(request: Request) -> JSONResponse:
    """A route of Starlette's that asks the engine."""
    iii = request.state.iii
    try:
        greeting = await iii.trigger_async("web::greet", {"name": request.path_params["name"]}, timeout_ms=2000)
    except InvocationError as error:
        return JSONResponse({"error": error.code}, status_code=502)
    count = await State(iii).update_async("web", "visits", [{"type": "increment", "path": "n", "by": 1}])
    return JSONResponse({"greeting": greeting, "visits": count.new_value["n"], "visitors": visitors})


web = Starlette(routes=[Route("/hello/{name}", hello)], lifespan=lifespan)


async def main() -> None:
    """Be the server: run the lifespan, hand requests to the application."""
    async with open_place() as place:
        os.environ["III_URL"] = place.url
        async with web.router.lifespan_context(web) as state:

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                await web({**scope, "state": state}, receive, send)  # servers pass the lifespan's state on

            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
                for name in ("Ada", "Bob"):
                    answer = await client.get(f"/hello/{name}")
                    print(answer.status_code, answer.text)


if __name__ == "__main__":
    anyio.run(main)
