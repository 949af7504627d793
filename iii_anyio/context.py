"""What a handler can ask about itself: logger, trace, and the invocation it serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from ._protocol.messages import ABSENT
from ._runtime.context import Invocation, running_invocation
from .observability import Logger

__all__ = ("Context", "Invocation", "get_context", "running_invocation", "with_context")

T = TypeVar("T")


@dataclass
class Context:
    """What ``get_context`` gives. Outside a handler only ``logger`` is set.

    Upstream had it until iii-sdk 0.8; the fields after ``trace`` are ours.
    """

    logger: Logger = field(default_factory=Logger)
    """In a handler it names the function and carries the trace of the invocation."""
    trace: Any = None
    """W3C ``traceparent`` of the invocation, when the caller sent one."""
    function_id: str | None = None
    invocation_id: str | None = None
    metadata: Any = None
    attempt: int | None = None
    """Of a queue's job, counted from 1: more than 1 says that it ran before, and failed or was cut off. Set where the
    queue tells it, as that of the embedded engine does in the baggage; calls of the job carry it on."""
    message_id: str | None = None
    """Of the same job, the same in all its attempts: what to remember when it must not be done twice."""


_explicit: Final[ContextVar[Context | None]] = ContextVar("iii_anyio_context", default=None)


def get_context() -> Context:
    """Return the context of the running handler, or the one of ``with_context``; anywhere else a fresh one."""
    explicit = _explicit.get()
    if explicit is not None:
        return explicit
    invocation = running_invocation()
    if invocation is None:
        return Context()
    trace_id = span_id = None
    if invocation.traceparent is not None:
        _, trace_id, span_id, *_ = [*invocation.traceparent.split("-"), None, None, None]
    entries = _entries(invocation.baggage)
    attempt = entries.get("iii.queue.attempt", "")
    return Context(
        Logger(trace_id, invocation.function_id, span_id),
        invocation.traceparent,
        invocation.function_id,
        invocation.invocation_id,
        None if invocation.metadata is ABSENT else invocation.metadata,
        int(attempt) if attempt.isascii() and attempt.isdecimal() and len(attempt) < 10 else None,
        entries.get("iii.queue.message_id"),
    )


def _entries(baggage: str | None) -> dict[str, str]:
    """W3C baggage without the properties of its entries; what is not an entry is passed over."""
    entries: dict[str, str] = {}
    for entry in (baggage or "").split(","):
        key, is_entry, value = entry.partition(";")[0].partition("=")
        if is_entry:
            entries[key.strip()] = unquote(value.strip())
    return entries


async def with_context(fn: Callable[[Context], Awaitable[T]], context: Context) -> T:
    """Await ``fn(context)`` with ``get_context`` returning that context, for tests and background work."""
    token = _explicit.set(context)
    try:
        return await fn(context)
    finally:
        _explicit.reset(token)
