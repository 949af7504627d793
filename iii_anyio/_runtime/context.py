"""Which invocation is running: a context variable, set in each handler's task and copied into its threads."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

__all__ = ("Invocation", "current", "running_invocation")


@dataclass(slots=True, frozen=True, eq=False)
class Invocation:
    """The invocation a handler serves, as the code it calls can see it."""

    worker: object
    """Whose handler it is; a call made through another worker is not a nested one."""
    function_id: str
    invocation_id: str | None
    metadata: Any
    traceparent: str | None
    baggage: str | None


current: Final[ContextVar[Invocation | None]] = ContextVar("iii_anyio_invocation", default=None)


def running_invocation() -> Invocation | None:
    """Return the invocation this code runs in, or None outside a handler."""
    return current.get()
