"""Asking the engine what there is, and being told when it changes: the part of ``WorkerMethods`` that only makes calls.

The ids are those of engines from 0.23 on, where ``engine::triggers::list`` lists trigger *types* (api B.5).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from ._protocol.calls import new_id
from .engine import EngineFunctions, EngineTriggers
from .introspection import FunctionInfo, FunctionsAvailableCallback, TriggerInfo, TriggerTypeInfo, WorkerInfo

if TYPE_CHECKING:
    from .functions import FunctionRef
    from .trigger import Trigger

__all__ = ("Discovery",)

logger: Final = logging.getLogger("iii_anyio")

T = TypeVar("T", FunctionInfo, TriggerInfo, TriggerTypeInfo, WorkerInfo)


class _Host(Protocol):
    """What is needed of the worker."""

    def trigger(self, request: dict[str, Any], /) -> Any: ...
    async def trigger_async(self, request: dict[str, Any], /) -> Any: ...
    def register_function(
        self, function_id: str, handler_or_invocation: Any, *, metadata: Any = None
    ) -> FunctionRef: ...
    def register_trigger(self, type: str, function_id: str, config: Any, /) -> Trigger: ...


class Discovery:
    """Lists of functions, workers, triggers and trigger types; filters are the engine's and combine with AND.

    A bare name blocks the calling thread, ``_async`` awaits; both raise ``InvocationError`` as ``trigger`` does.
    """

    def list_functions(
        self: _Host,
        *,
        search: str | None = None,
        prefix: str | None = None,
        worker: str | None = None,
        include_internal: bool = False,
    ) -> list[FunctionInfo]:
        """List the functions that this worker may see. Wire: ``engine::functions::list``."""
        request = _request(EngineFunctions.LIST_FUNCTIONS, _given(search, prefix, worker, include_internal))
        return _read(self.trigger(request), "functions", FunctionInfo)

    async def list_functions_async(
        self: _Host,
        *,
        search: str | None = None,
        prefix: str | None = None,
        worker: str | None = None,
        include_internal: bool = False,
    ) -> list[FunctionInfo]:
        """List the functions that this worker may see. Wire: ``engine::functions::list``."""
        request = _request(EngineFunctions.LIST_FUNCTIONS, _given(search, prefix, worker, include_internal))
        return _read(await self.trigger_async(request), "functions", FunctionInfo)

    def list_workers(self: _Host, *, search: str | None = None, runtime: str | None = None) -> list[WorkerInfo]:
        """List connected workers and the engine's own parts. Wire: ``engine::workers::list``."""
        request = _request(EngineFunctions.LIST_WORKERS, {"search": search, "runtime": runtime})
        return _read(self.trigger(request), "workers", WorkerInfo)

    async def list_workers_async(
        self: _Host, *, search: str | None = None, runtime: str | None = None
    ) -> list[WorkerInfo]:
        """List connected workers and the engine's own parts. Wire: ``engine::workers::list``."""
        request = _request(EngineFunctions.LIST_WORKERS, {"search": search, "runtime": runtime})
        return _read(await self.trigger_async(request), "workers", WorkerInfo)

    def list_triggers(self: _Host, include_internal: bool = False) -> list[TriggerInfo]:
        """List registered triggers. Wire: ``engine::registered-triggers::list``."""
        request = _request(EngineFunctions.LIST_REGISTERED_TRIGGERS, {"include_internal": include_internal})
        return _read(self.trigger(request), "registered_triggers", TriggerInfo)

    async def list_triggers_async(self: _Host, include_internal: bool = False) -> list[TriggerInfo]:
        """List registered triggers. Wire: ``engine::registered-triggers::list``."""
        request = _request(EngineFunctions.LIST_REGISTERED_TRIGGERS, {"include_internal": include_internal})
        return _read(await self.trigger_async(request), "registered_triggers", TriggerInfo)

    def list_trigger_types(self: _Host, include_internal: bool = False) -> list[TriggerTypeInfo]:
        """List trigger types. Wire: ``engine::triggers::list``."""
        request = _request(EngineFunctions.LIST_TRIGGERS, {"include_internal": include_internal})
        return _read(self.trigger(request), "triggers", TriggerTypeInfo)

    async def list_trigger_types_async(self: _Host, include_internal: bool = False) -> list[TriggerTypeInfo]:
        """List trigger types. Wire: ``engine::triggers::list``."""
        request = _request(EngineFunctions.LIST_TRIGGERS, {"include_internal": include_internal})
        return _read(await self.trigger_async(request), "triggers", TriggerTypeInfo)

    def on_functions_available(
        self: _Host, callback: FunctionsAvailableCallback | Callable[[list[FunctionInfo]], Awaitable[None]]
    ) -> Callable[[], None]:
        """Call ``callback`` with all functions whenever the set of functions changes; sync or async.

        The engine polls, so a change arrives with a delay. What the callback raises is logged.

        Returns:
            Ends it; may be called again.
        """

        async def changed(data: dict[str, Any]) -> None:
            try:
                outcome = callback(_read(data, "functions", FunctionInfo))
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception:
                logger.exception("a callback for available functions failed")

        function_id = f"iii.on_functions_available.{new_id()}"
        function = self.register_function(function_id, changed, metadata={"internal": True})
        trigger = self.register_trigger(EngineTriggers.FUNCTIONS_AVAILABLE, function_id, {})

        def unsubscribe() -> None:
            trigger.unregister()
            function.unregister()

        return unsubscribe


def _given(search: str | None, prefix: str | None, worker: str | None, include_internal: bool) -> dict[str, Any]:
    return {"search": search, "prefix": prefix, "worker": worker, "include_internal": include_internal}


def _request(function_id: str, filters: dict[str, Any]) -> dict[str, Any]:
    payload = {key: value for key, value in filters.items() if value is not None}
    return {"function_id": function_id, "payload": payload}


def _read(result: Any, key: str, model: type[T]) -> list[T]:
    rows: Any = cast("dict[str, Any]", result).get(key) if isinstance(result, dict) else None
    return [model.model_validate(row) for row in rows or ()]
