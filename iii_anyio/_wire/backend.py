"""What happens once per message, made of the backend's own primitives. The one module that imports them.

A ``Slot`` is where one task waits for one wake-up. ``anyio.Event`` does the same for several times the CPU, because it
finds out on each use which backend it is on; like it, a slot is used on its own loop only.

Below: nothing. Above: ``streams``, calls and runners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from anyio.lowlevel import EventLoopToken

__all__ = ("Backend", "Slot", "backend_of")


class Slot(Protocol):
    """For one waiter and one wait."""

    def wake(self) -> None:
        """End the wait, past or future. Again, or after a cancelled wait, changes nothing."""
        ...

    async def wait(self) -> None:
        """Wait for ``wake``. A wait that is over before it began does not let other tasks run."""
        ...


class Backend(Protocol):
    """What an event loop has to offer."""

    name: Literal["asyncio", "trio"]

    def new_slot(self) -> Slot:
        """Make a slot."""
        ...

    def is_here(self) -> bool:
        """Whether this is the loop that runs in this thread now."""
        ...

    def is_cancelling(self) -> bool:
        """Whether the running task has been cancelled for good by a means that is not anyio's."""
        ...


def backend_of(token: EventLoopToken) -> Backend:
    """The primitives of the event loop of ``token``."""
    native: Any = token.native_token
    return _futures(native) if hasattr(native, "create_future") else _parked_tasks(native)


def _futures(loop: Any) -> Backend:
    from asyncio import current_task, get_running_loop

    create_future = loop.create_future

    class FutureSlot:
        __slots__ = ("_future",)

        def __init__(self) -> None:
            self._future: Any = create_future()

        def wake(self) -> None:
            if not self._future.done():
                self._future.set_result(None)

        async def wait(self) -> None:
            await self._future

    class Asyncio:
        name: Literal["asyncio", "trio"] = "asyncio"
        new_slot = FutureSlot

        def is_here(self) -> bool:
            try:
                return get_running_loop() is loop
            except RuntimeError:
                return False

        def is_cancelling(self) -> bool:
            task = current_task(loop)
            return task is not None and task.cancelling() > 0

    return Asyncio()


def _parked_tasks(token: Any) -> Backend:
    from trio.lowlevel import (
        Abort,
        Task,
        current_task,
        current_trio_token,
        in_trio_run,
        reschedule,
        wait_task_rescheduled,
    )

    class TaskSlot:
        __slots__ = ("_is_awake", "_task")

        def __init__(self) -> None:
            self._task: Task | None = None
            self._is_awake = False

        def wake(self) -> None:
            self._is_awake = True
            if self._task is not None:
                task, self._task = self._task, None
                reschedule(task)

        async def wait(self) -> None:
            if not self._is_awake:
                self._task = current_task()
                await wait_task_rescheduled(self._abort)

        def _abort(self, _raise_cancel: object) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

    class Trio:
        name: Literal["asyncio", "trio"] = "trio"
        new_slot = TaskSlot

        def is_here(self) -> bool:
            return in_trio_run() and current_trio_token() is token

        def is_cancelling(self) -> bool:
            return False  # trio cancels by scopes alone

    return Trio()
