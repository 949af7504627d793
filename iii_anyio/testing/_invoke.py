"""One handler without an engine: its validation, dependencies and middleware, and a worker that answers from a table.

Below: what a worker itself runs handlers with. Above: unit tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, cast
from uuid import uuid4

from anyio import CapacityLimiter
from anyio.lowlevel import checkpoint

from .._dependencies import Dependencies, provider_of
from .._protocol.jsontext import from_json, to_json
from .._protocol.messages import ABSENT, InvokeFunction
from .._requests import CallRequest, normalise_call
from .._runtime.binding import bind
from .._runtime.context import Invocation, current
from .._runtime.invoke import run_handler
from .._runtime.wrapping import Middleware, check_middleware, wrap
from ..errors import InvocationError, WorkerStateError
from ..worker import Worker, WorkerMethods

__all__ = ("FakeCall", "FakeWorker", "http_request", "invoke")


@dataclass(frozen=True, slots=True)
class FakeCall:
    """A call that a handler made through a ``FakeWorker``.

    Attributes:
        function_id: What it called.
        payload: As the function would have got it.
        metadata: None when there was none.
        action: As on the wire: None, ``{"type": "void"}``, ``{"type": "enqueue", "queue": …}``.
        namespace: As the call named it.
    """

    function_id: str
    payload: Any = None
    metadata: Any = None
    action: dict[str, Any] | None = None
    namespace: str | None = None


class FakeWorker(Worker):
    """Stands in for the worker of a handler under test: answers its calls from a table, and remembers them.

    It is no connection: what needs an engine raises ``WorkerStateError``.

    Args:
        answers: By function id: the result, an exception to raise, or a function that gets the payload and returns
            either. What is not there is answered ``function_not_found``, as an engine does; a void call and an enqueue
            need no answer.

    Attributes:
        calls: What was called, in order.
    """

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self._answers = dict(answers or {})
        self._namespace = None
        self.calls: list[FakeCall] = []

    def __repr__(self) -> str:
        return f"<FakeWorker {len(self._answers)} answers, {len(self.calls)} calls>"

    def __getattr__(self, name: str) -> Any:
        if name == "_supervisor":
            raise WorkerStateError(
                "a FakeWorker has no engine: it only answers trigger() and trigger_async(); "
                "test the rest with open_worker(connector=engine.connector()) or the fixture iii_worker"
            )
        raise AttributeError(f"FakeWorker has no attribute {name!r}")

    def trigger(self, *args: Any, **kwargs: Any) -> Any:
        """Answer from the table. See ``Worker.trigger``."""
        return self._answer(normalise_call(*args, **kwargs))

    async def trigger_async(self, *args: Any, **kwargs: Any) -> Any:
        """Answer from the table. See ``Worker.trigger_async``."""
        await checkpoint()
        return self._answer(normalise_call(*args, **kwargs))

    call = trigger
    call_async = trigger_async

    def _answer(self, request: CallRequest) -> Any:
        payload = _as_json(request.payload)
        metadata = None if request.metadata is ABSENT else _as_json(request.metadata)
        self.calls.append(FakeCall(request.function_id, payload, metadata, request.action, request.namespace))
        kind = None if request.action is None else request.action["type"]
        if request.function_id not in self._answers:
            if kind == "void":
                return None
            if kind == "enqueue":
                return {"messageReceiptId": str(uuid4())}
            raise InvocationError(
                "function_not_found",
                f"Function {request.function_id} not found: the test gives no answer for it",
                request.function_id,
            )
        answer = self._answers[request.function_id]
        if callable(answer) and not isinstance(answer, type):
            answer = cast("Callable[[Any], Any]", answer)(payload)
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        return None if kind == "void" else _as_json(answer)


async def invoke(
    handler: Callable[..., Any],
    payload: Any = None,
    *,
    metadata: Any = None,
    answers: Mapping[str, Any] | None = None,
    iii: WorkerMethods | None = None,
    dependencies: Mapping[Any, Any] | None = None,
    middleware: Sequence[Middleware] = (),
    function_id: str | None = None,
    invocation_id: str | None = None,
    traceparent: str | None = None,
    validate: bool | None = None,
    execution: Literal["async", "thread"] | None = None,
) -> Any:
    """Run a handler as a worker would, and return what its caller would get.

    The payload passes through JSON and the handler's annotations, the result too; ``get_context`` and what a handler
    may ask for by annotation are there. An exception of the handler is raised here as it is.

    Args:
        handler: As for ``register_function``.
        payload: What the function is called with. For a handler behind an ``http`` trigger see ``http_request``.
        metadata: Of the call.
        answers: What functions answer that the handler calls; see ``FakeWorker``.
        iii: Who calls them instead: a ``FakeWorker`` of which the test wants to see the calls, or a real worker.
        dependencies: By annotation: values, classes or functions, as ``App.dependency`` takes them.
        middleware: Around the handler, outermost first.
        function_id: By default the handler's name.
        invocation_id: By default a new one.
        traceparent: Of the caller.
        validate: As for ``register_function``.
        execution: As for ``register_function``.

    Raises:
        InvocationError: ``invalid_payload`` or ``invalid_result``; what the handler raised.
        TypeError: Nothing provides one of its parameters.
    """
    worker = FakeWorker(answers) if iii is None else iii
    if iii is not None and answers is not None:
        raise TypeError("give answers, or a worker that has them: invoke(..., iii=FakeWorker(answers))")
    name = function_id or str(getattr(handler, "__name__", "handler"))
    for entry in middleware:
        check_middleware(entry)
    async with AsyncExitStack() as stack:
        provided = Dependencies(worker)
        if dependencies:
            provided = provided.child({kind: provider_of(given, kind) for kind, given in dependencies.items()})
            await provided.enter_app_scope(stack)
        binding = bind(name, handler, validate=validate, execution=execution, inject=provided.inject)
        threads = CapacityLimiter(1)
        if binding.enter is not None or middleware:
            binding = wrap(binding, middleware, (), threads)
        sent_metadata: Any = ABSENT if metadata is None else _as_json(metadata)
        message = InvokeFunction(name, _as_json(payload), invocation_id or str(uuid4()), sent_metadata, traceparent)
        token = current.set(Invocation(worker, name, message.invocation_id, sent_metadata, traceparent, None))
        try:
            return _as_json(await run_handler(binding, message, threads))
        finally:
            current.reset(token)


def http_request(
    method: str = "GET",
    path: str = "/",
    body: Any = None,
    *,
    path_params: Mapping[str, str] | None = None,
    query_params: Mapping[str, str | list[str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make the payload that the engine's ``http`` trigger calls a handler with, for ``invoke``.

    Args:
        method: Of the request.
        path: As it was registered, e.g. ``/orders/:id``.
        body: The parsed JSON.
        path_params: Values of the path's parameters.
        query_params: Decoded.
        headers: Names are made lower-case, as the engine does.
    """
    method = method.upper()
    return {
        "path_params": dict(path_params or {}),
        "query_params": dict(query_params or {}),
        "headers": {name.lower(): value for name, value in (headers or {}).items()},
        "path": path,
        "method": method,
        "body": _as_json(body),
        "trigger": {"type": "http", "path": path, "method": method},
    }


def _as_json(value: Any) -> Any:
    """As it arrives at the other side."""
    return from_json(to_json(value))
