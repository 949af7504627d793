"""Run one handler: in this task, or in a thread; and the one place where an exception becomes a wire error."""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from anyio import CapacityLimiter, get_cancelled_exc_class, to_thread

from .._protocol.messages import InvocationResult, InvokeFunction
from ..errors import EncodeError, InvocationError
from . import binding as binding_module

if TYPE_CHECKING:
    from .binding import Binding

__all__ = (
    "error_body",
    "failure",
    "is_handler_thread",
    "may_hold_refs",
    "refusal",
    "run_handler",
    "run_in_thread",
)

_CALLERS: Final = frozenset({__file__, binding_module.__file__, str(Path(__file__).with_name("wrapping.py"))})
_thread: Final = threading.local()


def is_handler_thread() -> bool:
    """Whether this thread is running a sync handler."""
    return getattr(_thread, "is_handler", False)


def may_hold_refs(data: Any) -> bool:
    """Whether a reference to a data channel may be somewhere in a payload (§12.6).

    What is nested is written back to JSON and searched: that takes half the time of a walk through it, or less, and a
    fraction of what it took to decode.
    """
    if data.__class__ is dict:
        for value in data.values():
            kind = value.__class__
            if kind is dict or kind is list:
                break
        else:
            return "access_key" in data
    elif data.__class__ is not list:
        return False
    try:
        return orjson.dumps(data).rfind(b'"access_key"') >= 0
    except TypeError:  # not from JSON
        return True


async def run_handler(binding: Binding, message: InvokeFunction, threads: CapacityLimiter) -> object:
    """Call the handler with the message's data and return what goes on the wire as its result."""
    try:
        args, kwargs = binding.call_args(message.data, message.metadata)
    except InvocationError as exc:
        return refusal(exc, message.data)
    if binding.is_async:
        return binding.outcome(await binding.handler(*args, **kwargs))
    return binding.outcome(await run_in_thread(binding.handler, args, kwargs, threads))


def refusal(exc: InvocationError, data: Any) -> dict[str, Any]:
    """What a payload that does not fit is answered: to an HTTP client 400, to any other caller ``exc``, raised here."""
    if not _is_http_request(data):
        raise exc
    # The mistake is the HTTP client's; the engine would make a failed invocation a 500 (H-42).
    return {"status_code": 400, "body": {"error": {"code": exc.code, "message": exc.message}}}


async def run_in_thread(
    handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], threads: CapacityLimiter
) -> Any:
    """Call a sync handler in a thread of its own."""

    def call() -> Any:
        _thread.is_handler = True
        try:
            return handler(*args, **kwargs)
        finally:
            _thread.is_handler = False

    # A thread cannot be cancelled; it is left behind so that it cannot hold up the worker's end.
    result = await to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("a sync handler returned a coroutine; declare it with 'async def'")
    return result


def _is_http_request(data: Any) -> bool:
    match data:
        case {"trigger": {"type": "http"}}:
            return True
        case _:
            return False


def failure(message: InvokeFunction, exc: BaseException) -> InvocationResult:
    """The answer to an invocation whose handler ended with ``exc``."""
    error = error_body(exc, "invocation_failed")
    return InvocationResult(
        message.invocation_id or "", message.function_id, error=error, traceparent=message.traceparent
    )


def error_body(exc: BaseException, code: str) -> dict[str, str]:
    """The wire's error object (§4.4). An ``InvocationError`` keeps its code; cancellation has one of its own.

    Never fails: what users put into exceptions is not always text, but the caller must get its answer (P-44).
    """
    body: dict[str, object]
    if isinstance(exc, InvocationError):
        body = {"code": exc.code, "message": exc.message}
        if exc.stacktrace is not None:
            body["stacktrace"] = exc.stacktrace
    elif isinstance(exc, get_cancelled_exc_class()):
        body = {"code": "invocation_cancelled", "message": "the worker cancelled the handler before it finished"}
    else:
        text = _text(exc)
        if isinstance(exc, EncodeError):
            text = f"the handler's result cannot be sent: {text}"
        elif not isinstance(exc, Exception):
            text = f"{type(exc).__name__}: {text}"
        body = {"code": code, "message": text, "stacktrace": _stacktrace(exc)}
    return {key: _text(value).encode("utf-8", "replace").decode("utf-8") for key, value in body.items()}


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a broken __str__ of the user's
        return f"<{type(value).__name__} that cannot be shown>"


def _stacktrace(exc: BaseException) -> str:
    start = frames = exc.__traceback__
    while frames is not None:
        if frames.tb_frame.f_code.co_filename in _CALLERS:
            start = frames.tb_next or start  # the trace starts at the handler, not with who called it
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, start))
    except Exception:  # noqa: BLE001 - as above
        return ""
