"""What an app has registered with a worker. Above: ``app.py``. Below: the worker's own ways to register."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ._runtime.cleanup import last_words

if TYPE_CHECKING:
    from ._dependencies import Dependencies
    from ._registering import Registering
    from ._runtime.dispatch import Function
    from ._runtime.supervisor import Supervisor
    from .functions import FunctionRef
    from .trigger import Trigger
    from .triggers import TypedTrigger

__all__ = ("Exports",)

logger: Final = logging.getLogger("iii_anyio")


class Exports:
    """Functions and triggers of one worker that come and go together.

    Attributes:
        built_in: What every handler of the worker can ask for.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        built_in: Dependencies,
        view: Callable[[Dependencies, dict[str, Any] | None], Registering],
    ) -> None:
        self.built_in = built_in
        self._supervisor = supervisor
        self._view = view
        self._handles: list[FunctionRef | Trigger] = []
        self._functions: list[Function] = []

    def is_on_loop(self) -> bool:
        """Whether this is the thread of the worker's event loop."""
        return self._supervisor.caller.is_on_loop()

    def add(
        self,
        function_id: str,
        handler: Callable[..., Any],
        dependencies: Dependencies,
        hints: dict[str, Any] | None,
        **options: Any,
    ) -> None:
        """Register a function whose handler can ask for more than others of this worker.

        ``hints`` are its annotations, if they were resolved where it was declared.
        """
        self._handles.append(self._view(dependencies, hints).register_function(function_id, handler, **options))
        self._functions.append(self._supervisor.session.registry.functions[function_id].target)

    def bind(self, trigger: TypedTrigger, function_id: str, **options: Any) -> None:
        """Register a trigger."""
        self._handles.append(self._view(self.built_in, None).register_trigger(trigger, function_id, **options))

    def withdraw(self) -> None:
        """Take everything back, the latest first. What runs goes on."""
        while self._handles:
            self._handles.pop().unregister()

    async def drain(self, seconds: float | None = None) -> None:
        """Wait until nothing of it runs any more, by default as long as a shutdown would; also when cancelled."""
        supervisor = self._supervisor
        with last_words(supervisor.options.shutdown_timeout if seconds is None else seconds) as scope:
            await supervisor.dispatcher.wait_ended(self._functions)
        if scope.cancelled_caught:
            running = [function.function_id for function in self._functions if function.running]
            logger.warning("these handlers lose what their app provided while they run: %s", ", ".join(running))
