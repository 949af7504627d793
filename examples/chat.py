"""A chat in the browser: answers appear word by word while they are made, and every window sees all messages.

Run it: ``python examples/chat.py``, and open the address it prints; Ctrl-C ends it. The answer to a question is a
response that is written bit by bit; what has been said is a stream, which the page follows over a WebSocket.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from time import time_ns

import anyio
from where import Place, open_place

from iii_anyio import ApiRequest, ApiResponse, InitOptions, Stream, StreamRequest, StreamResponse, Worker, open_worker
from iii_anyio.http import http

PAGE = Path(__file__).with_name("chat.html")


async def think(question: str) -> AsyncGenerator[str]:
    """Stands for a language model that gives its answer in pieces."""
    for word in f"You said {question!r}. That has {len(question.split())} words.".split(" "):
        await anyio.sleep(0.05)
        yield word + " "


def register(iii: Worker, place: Place) -> None:
    said = Stream(iii, "chat")

    @iii.http("GET", "/chat", function_id="chat::page")
    async def page(request: ApiRequest[None]) -> ApiResponse[str]:
        text = await anyio.Path(PAGE).read_text("utf-8")
        headers = {"content-type": "text/html; charset=utf-8"}
        return ApiResponse(status_code=200, body=text.replace("STREAM_URL", place.stream_url), headers=headers)

    @iii.http("POST", "/chat", function_id="chat::ask")
    @http
    async def ask(request: StreamRequest, response: StreamResponse) -> None:
        question = str((request.body or {}).get("text", ""))[:500]
        await said.set_async("lobby", str(time_ns()), {"who": "you", "text": question})
        await response.headers({"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"})
        answer = ""
        async for piece in think(question):
            answer += piece
            await response.write(piece.encode())  # on its way at once
        await said.set_async("lobby", str(time_ns()), {"who": "iii", "text": answer.strip()})


async def main() -> None:
    async with open_place() as place, open_worker(place.url, InitOptions("chat")) as iii:
        register(iii, place)
        await iii.wait_ready()
        print(f"{place.http_url}/chat", flush=True)
        await iii.serve()


if __name__ == "__main__":
    anyio.run(main)
