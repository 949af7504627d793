"""Handlers in processes of their own, for work that would keep the interpreter lock.

anyio runs the processes: they start when needed, are kept for the next call, and end with the event loop. A cancelled
handler's process is killed. There is no invocation in such a process: no context, no worker, and what the handler
prints or logs there goes nowhere unless its own module opens a file for it.
"""

from __future__ import annotations

import inspect
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anyio import BrokenWorkerProcess, to_process

from ..errors import InvocationError
from .signature import unwrap_partial

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from .binding import Binding
    from .instrument import Instrument

__all__ = ("in_process",)


def in_process(binding: Binding, limiter: CapacityLimiter, instrument: Instrument | None = None) -> Binding:
    """Have the handler run in a process. Arguments, the validated models too, and its result are pickled.

    With an instrument it has its trace context there.

    Raises:
        TypeError: A process cannot import the handler, or not have what it asks for.
    """
    function_id, handler = binding.function_id, binding.handler
    _check_importable(function_id, handler)
    if binding.is_injected:
        raise TypeError(
            f"the handler of {function_id!r} is to run in a process, where there is no worker: it gets its payload and "
            "metadata, and nothing by annotation"
        )

    async def call(*args: Any, **kwargs: Any) -> Any:
        target = handler if instrument is None else instrument.in_process(handler)
        try:
            return await to_process.run_sync(_run, target, args, kwargs, cancellable=True, limiter=limiter)
        except BrokenWorkerProcess as exc:
            raise InvocationError(
                "invocation_failed", f"the process of {function_id!r} ended before it had a result", function_id
            ) from exc

    return replace(binding, handler=call, is_async=True)


def _check_importable(function_id: str, handler: Any) -> None:
    target = unwrap_partial(handler)
    if inspect.isfunction(target):
        # By name only: while a decorator runs, the module does not hold the function yet.
        is_importable = "<" not in target.__qualname__
    else:
        try:
            pickle.dumps(target)
            is_importable = True
        except Exception:  # noqa: BLE001 - objects have their own __reduce__
            is_importable = False
    if not is_importable:
        raise TypeError(
            f"the handler of {function_id!r} is to run in a process, which imports it by name: define it with 'def' "
            f"at the top level of a module; {getattr(target, '__qualname__', target)!r} cannot be imported"
        )


def _run(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In the process."""
    # Ctrl-C reaches the whole process group; what that means is for the worker to say, which may well drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return handler(*args, **kwargs)
