"""Handlers with something around them: middleware, and dependencies that are made for each invocation.

``wrap`` turns a ``Binding`` into one whose handler runs all of it, on the loop; ``invoke.py`` cannot tell the
difference, and handlers with nothing around them never come here.

    middleware of the worker → of the app → of the router → of the function → validation → dependencies → handler
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._protocol.messages import ABSENT
from ..errors import InvocationError
from .binding import Binding, as_wire
from .context import Invocation, current
from .invoke import refusal, run_in_thread
from .signature import unwrap_partial

if TYPE_CHECKING:
    from anyio import CapacityLimiter

__all__ = ("CallNext", "Middleware", "MiddlewareInvocation", "check_middleware", "wrap")


@dataclass(slots=True, eq=False, kw_only=True)
class MiddlewareInvocation(Invocation):
    """The invocation that a middleware is around.

    ``dataclasses.replace(invocation, payload=…)`` makes one that ``call_next`` serves instead.
    """

    payload: Any = None
    """As it came, not validated yet."""


CallNext: TypeAlias = Callable[[MiddlewareInvocation], Awaitable[Any]]
"""Runs the rest: inner middleware, validation, the handler. Returns what would be sent."""
Middleware: TypeAlias = Callable[[CallNext, MiddlewareInvocation], Awaitable[Any]]
"""``async def middleware(call_next, invocation)``; what it returns or raises is the outcome."""

_FACTS: Final = tuple(field.name for field in fields(Invocation))


def check_middleware(middleware: Any) -> None:
    """Raise when this is no middleware."""
    target = unwrap_partial(middleware)
    if not (inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None))):  # noqa: B004 - asks what kind it is
        raise TypeError(f"a middleware is 'async def middleware(call_next, invocation)', not {middleware!r}")


def wrap(
    binding: Binding, own: Iterable[Middleware], shared: Sequence[Middleware], threads: CapacityLimiter
) -> Binding:
    """Put middleware and ``binding.enter`` around a handler.

    Args:
        binding: How to call the handler itself.
        own: Middleware of this function, outermost first.
        shared: The worker's, around them. May grow later.
        threads: Where a sync handler runs.
    """
    inner = tuple(own)

    async def serve(data: Any, metadata: Any) -> Any:
        chain = (*shared, *inner)
        if not chain:
            return await handle(data, metadata)
        invocation = current.get()
        facts = {name: getattr(invocation, name) for name in _FACTS}
        facts["metadata"] = None if metadata is ABSENT else metadata
        return as_wire(await step(chain, 0, MiddlewareInvocation(**facts, payload=data)))

    async def step(chain: tuple[Middleware, ...], place: int, invocation: MiddlewareInvocation) -> Any:
        if place == len(chain):
            return await handle(invocation.payload, invocation.metadata)
        return await chain[place](partial(step, chain, place + 1), invocation)

    async def handle(data: Any, metadata: Any) -> Any:
        try:
            args, kwargs = binding.call_args(data, metadata)
        except InvocationError as exc:
            return refusal(exc, data)
        if binding.enter is None:
            return binding.outcome(await call(args, kwargs))
        async with AsyncExitStack() as stack:
            made = await binding.enter(stack)
            return binding.outcome(await call(args, {**kwargs, **made}))
        raise RuntimeError(f"a dependency of {binding.function_id!r} swallowed the exception of its handler")

    async def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if binding.is_async:
            return await binding.handler(*args, **kwargs)
        return await run_in_thread(binding.handler, args, kwargs, threads)

    return replace(
        binding,
        handler=serve,
        is_async=True,
        call_args=_as_they_are,
        outcome=_unchanged,
        enter=None,
        is_wrapped=True,
    )


def _as_they_are(data: Any, metadata: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (data, metadata), {}


def _unchanged(result: Any) -> object:
    return result
