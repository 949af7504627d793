"""The least an engine can be, in this process: it takes the worker, answers its calls, and can flood it with calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

from anyio import create_task_group

from iii_anyio._protocol.calls import new_id
from iii_anyio._protocol.codec import decode, encode
from iii_anyio._protocol.messages import InvocationResult, InvokeFunction, WorkerRegistered
from iii_anyio._wire.direct import DirectWire, direct_pair
from iii_anyio.errors import LinkClosed


class ScriptedEngine:
    """A connector: ``open_worker("direct", connector=engine)``."""

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[DirectWire]:
        ours, theirs = direct_pair()
        async with create_task_group() as group:
            group.start_soon(self._serve_until_closed, theirs)
            yield ours
            group.cancel_scope.cancel()

    def __call__(self) -> Any:
        """Connect."""
        return self._connected()

    async def _serve_until_closed(self, wire: DirectWire) -> None:
        with suppress(LinkClosed):
            await self._serve(wire)

    async def _serve(self, wire: DirectWire) -> None:
        await wire.send([encode(WorkerRegistered(new_id(), new_id()))])
        flood_id, left, waiting = "", 0, 0
        invocation: dict[str, Any] = {}
        while True:
            out: list[bytes] = []
            for text in await wire.receive():
                message: Any = decode(text)
                if message.type == "invocationresult":
                    waiting -= 1
                    if left:
                        left, waiting = left - 1, waiting + 1
                        out.append(encode(InvokeFunction("bench::serve", invocation, new_id())))
                    elif not waiting:
                        out.append(encode(InvocationResult(flood_id, "bench::flood", None)))
                elif message.type == "invokefunction" and message.invocation_id is not None:
                    if message.function_id == "bench::flood":
                        flood_id, left = message.invocation_id, message.data["calls"]
                        invocation = {"text": "x" * message.data["size"]}
                        waiting = min(left, message.data["in_flight"])
                        left -= waiting
                        out += [encode(InvokeFunction("bench::serve", invocation, new_id())) for _ in range(waiting)]
                    elif message.function_id != "bench::never":
                        out.append(encode(InvocationResult(message.invocation_id, message.function_id, message.data)))
            if out:
                await wire.send(out)


def cost_of_script(size: int) -> float:
    """CPU microseconds that the scripted side takes of each call: both its messages, and no more."""
    from ._timing import per_call

    data = {"text": "x" * size}
    text = encode(InvokeFunction("bench::serve", data, new_id()))
    result = InvocationResult(new_id(), "bench::serve", data)

    def both() -> None:
        decode(text)
        encode(result)

    return per_call(both)
