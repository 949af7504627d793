"""What commands that watch have in common: a function bound to a trigger, whose events come out in order.

The function is told to nobody (``internal``), and lives as long as the command. Below: the worker.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import anyio

from ._connection import following

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

    from ..triggers import TypedTrigger
    from ..worker import Worker
    from ._console import Output

__all__ = ("events", "show_events")

_BACKLOG: Final = 1000
"""Events that wait to be printed; more wait in the engine, for their handlers do not end."""


@asynccontextmanager
async def events(iii: Worker, triggers: Iterable[TypedTrigger]) -> AsyncGenerator[MemoryObjectReceiveStream[Any]]:
    """Bind the triggers; by the time the block starts, the engine has confirmed them."""
    send, receive = anyio.create_memory_object_stream[Any](_BACKLOG)

    async def hear(event: Any) -> None:
        await send.send(event)

    with send, receive:
        function_id = f"iii-cli::watch::{uuid4().hex}"
        iii.register_function(function_id, hear, metadata={"internal": True}, validate=False)
        for trigger in triggers:
            iii.register_trigger(trigger, function_id)
        await iii.wait_ready()
        yield receive


async def show_events(
    output: Output, url: str | None, command: str, trigger: TypedTrigger, show: Callable[[Output, dict[str, Any]], None]
) -> None:
    """Show each event of a trigger, until Ctrl-C."""
    async with following(url, command) as iii, events(iii, [trigger]) as fresh:
        output.note("Watching; Ctrl-C ends it.")
        async for event in fresh:
            show(output, event)
