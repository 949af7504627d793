"""Which invocation this code runs in, as upstream shows it. Below: ``_runtime/context``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._runtime.context import current

__all__ = ("InvocationContext", "current_invocation")


@dataclass(frozen=True)
class InvocationContext:
    """The invocation that a handler serves.

    Attributes:
        function_id: Whose handler it is.
        invocation_id: Of this call.
        observe_depth: Hops from observer to target that led here; 0 without any.
        caller: Who made the call, see ``Caller``; ``None`` when nobody said so.
        activation: ``{"observer_id", "activation_id"}`` when the handler is the target of an observer.
    """

    function_id: str
    invocation_id: str
    observe_depth: int = 0
    caller: dict[str, Any] | None = None
    activation: dict[str, Any] | None = None


def current_invocation() -> InvocationContext | None:
    """Return the invocation this code runs in, or None outside a handler.

    In async and sync handlers, whether the engine called them or this worker itself, and in the tasks they start.

    Upstream: iii.current_invocation.
    """
    invocation = current.get()
    if invocation is None:
        return None
    return InvocationContext(
        invocation.function_id,
        invocation.invocation_id or "",
        invocation.observe_depth,
        invocation.caller,
        invocation.activation,
    )
