"""Typed stubs: a function somewhere else that is called like one that is here.

Below: pydantic, an ``Invoker``. Above: applications, and ``WorkerMethods.remote``.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pydantic import TypeAdapter

from .errors import WorkerStateError

if TYPE_CHECKING:
    from .options import RetryPolicy
    from .worker import WorkerMethods

__all__ = ("Remote", "remote")

In = TypeVar("In")
Out = TypeVar("Out")


class Remote(Generic[In, Out]):
    """A function by its id, with the types of its payload and result. Made by ``remote``.

    ``await stub(payload)`` calls it, ``stub.sync(payload)`` blocks the calling thread. Besides what ``trigger`` raises,
    a payload or result that does not fit its type is a ``pydantic.ValidationError``; a payload before it is sent.

    Attributes:
        function_id: What it calls.
    """

    def __init__(
        self,
        function_id: str,
        input_type: Any,
        output_type: Any,
        *,
        iii: WorkerMethods | None = None,
        timeout_ms: int | None = None,
        metadata: Any = None,
        namespace: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.function_id = function_id
        self._types: tuple[TypeAdapter[Any], TypeAdapter[Any]] = TypeAdapter(input_type), TypeAdapter(output_type)
        self._iii = iii
        self._request: dict[str, Any] = {
            "function_id": function_id,
            "timeout_ms": timeout_ms,
            "metadata": metadata,
            "namespace": namespace,
        }
        self._retry = retry

    def __repr__(self) -> str:
        return f"<Remote {self.function_id}{'' if self._iii else ', unbound'}>"

    def on(self, iii: WorkerMethods) -> Remote[In, Out]:
        """The same function, called through this worker."""
        stub = copy(self)
        stub._iii = iii
        return stub

    async def __call__(self, payload: In) -> Out:
        """Call it and wait for the result."""
        iii, request = self._call(payload)
        return self._result(await iii.trigger_async(request, retry=self._retry))

    def sync(self, payload: In) -> Out:
        """Call it and block this thread."""
        iii, request = self._call(payload)
        return self._result(iii.trigger(request, retry=self._retry))

    def _call(self, payload: In) -> tuple[WorkerMethods, dict[str, Any]]:
        if self._iii is None:
            raise WorkerStateError(
                f"{self!r} belongs to no worker; call {self.function_id!r} through one with .on(iii), "
                "or make the stub with iii.remote(...)"
            )
        takes = self._types[0]
        value = takes.dump_python(takes.validate_python(payload), mode="json", by_alias=True)
        return self._iii, {**self._request, "payload": value}

    def _result(self, result: Any) -> Out:
        value: Out = self._types[1].validate_python(result)
        return value


@overload
def remote(
    function_id: str,
    input_type: type[In],
    output_type: type[Out],
    *,
    timeout_ms: int | None = None,
    metadata: Any = None,
    namespace: str | None = None,
    retry: RetryPolicy | None = None,
) -> Remote[In, Out]: ...
@overload
def remote(
    function_id: str,
    input_type: Any = Any,
    output_type: Any = Any,
    *,
    timeout_ms: int | None = None,
    metadata: Any = None,
    namespace: str | None = None,
    retry: RetryPolicy | None = None,
) -> Remote[Any, Any]: ...
def remote(function_id: str, input_type: Any = Any, output_type: Any = Any, **options: Any) -> Remote[Any, Any]:
    """Make a typed stub that belongs to no worker yet; ``stub.on(iii)`` does.

    Args:
        function_id: What to call.
        input_type: Of the payload: any type that pydantic knows.
        output_type: Of the result.
        **options: Those of ``trigger`` for every call: ``timeout_ms``, ``metadata``, ``namespace``, ``retry``.
    """
    return Remote(function_id, input_type, output_type, **options)
