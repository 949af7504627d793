"""Which invocation is running: a context variable, set in each handler's task and copied into its threads."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

__all__ = ("Invocation", "current", "lineage", "running_invocation")


@dataclass(slots=True, eq=False)
class Invocation:
    """The invocation a handler serves, as the code it calls can see it. Not frozen, which would cost 2 µs to build."""

    worker: object
    """Whose handler it is; a call made through another worker is not a nested one."""
    function_id: str
    invocation_id: str | None
    metadata: Any
    traceparent: str | None
    baggage: str | None
    observe_depth: int = 0
    """Hops from observer to target that led here."""
    caller: dict[str, Any] | None = None
    """Who called, as the engine or this worker says (protocol §5.3)."""
    activation: dict[str, Any] | None = None
    """Which observer led here, when one did."""
    local_depth: int = 0
    """Local calls that this one is nested in, itself included; 0 when it came from the engine."""
    waiting: int = 0
    """Calls of the handler's own that it waits for now: its place is lent from the first to the last of them."""


current: Final[ContextVar[Invocation | None]] = ContextVar("iii_anyio_invocation", default=None)


def lineage(invocation: Invocation) -> dict[str, Any]:
    """The ``caller`` of a call made in this invocation: its handler, and who called that, one level only (P-66)."""
    caller: dict[str, Any] = {"function_id": invocation.function_id}
    if invocation.invocation_id is not None:
        caller["invocation_id"] = invocation.invocation_id
    if invocation.caller:
        parent = {name: value for name, value in invocation.caller.items() if name != "parent"}
        if parent:
            caller["parent"] = parent
    return caller


def running_invocation() -> Invocation | None:
    """Return the invocation this code runs in, or None outside a handler."""
    return current.get()
