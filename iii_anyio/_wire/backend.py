"""What happens once per message, made of the backend's own primitives. The one module that imports them.

A ``Slot`` is where one task waits for one wake-up. ``anyio.Event`` does the same for several times the CPU, because it
finds out on each use which backend it is on; like it, a slot is used on its own loop only.

Below: nothing. Above: ``streams``, calls and runners.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import anyio

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from anyio.lowlevel import EventLoopToken

__all__ = ("Backend", "Slot", "backend_of")


class Slot(Protocol):
    """For one waiter and one wait."""

    def wake(self) -> None:
        """End the wait, past or future. Again, or after a cancelled wait, changes nothing."""
        ...

    def wait(self) -> Awaitable[None]:
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

    def now(self) -> float:
        """The loop's clock, as ``anyio.current_time``, also in functions that another thread posted to it."""
        ...

    def soon(self, function: Callable[[], None]) -> None:
        """Run a function on this loop when what is ready now has run. In the loop's own thread."""
        ...

    def wait_readable(self, sock: socket.socket) -> Awaitable[None]:
        """As ``anyio.wait_readable``."""
        ...

    def wait_writable(self, sock: socket.socket) -> Awaitable[None]:
        """As ``anyio.wait_writable``."""
        ...

    def can_start_tasks(self) -> bool:
        """Whether task groups can start tasks from here; on asyncio not in functions that another thread posted."""
        ...

    def is_cancelling(self) -> bool:
        """Whether the running task has been cancelled for good by a means that is not anyio's."""
        ...


def backend_of(token: EventLoopToken) -> Backend:
    """The primitives of the event loop of ``token``; one set for each loop."""
    native: Any = token.native_token
    reference = _backends.get(native)
    backend = None if reference is None else reference()
    if backend is None:
        backend = _futures(native) if hasattr(native, "create_future") else _parked_tasks(native)
        _backends[native] = weakref.ref(backend)  # weak, for it knows the loop, which is the key
    return backend


_backends: Final[weakref.WeakKeyDictionary[object, weakref.ref[Backend]]] = weakref.WeakKeyDictionary()


def _futures(loop: Any) -> Backend:
    from asyncio import _get_running_loop, current_task  # pyright: ignore[reportPrivateUsage]  no exception for None

    create_future = loop.create_future

    class FutureSlot:
        __slots__ = ("_future",)

        def __init__(self) -> None:
            self._future: Any = create_future()

        def wake(self) -> None:
            if not self._future.done():
                self._future.set_result(None)

        def wait(self) -> Awaitable[None]:
            return self._future  # type: ignore[no-any-return]  # a coroutine of our own would be one more to step through

    class Asyncio:
        name: Literal["asyncio", "trio"] = "asyncio"
        new_slot = FutureSlot

        now = staticmethod(loop.time)

        def wait_readable(self, sock: socket.socket) -> Awaitable[None]:
            return anyio.wait_readable(sock)

        def wait_writable(self, sock: socket.socket) -> Awaitable[None]:
            return anyio.wait_writable(sock)

        def soon(self, function: Callable[[], None]) -> None:
            loop.call_soon(function)

        def is_here(self) -> bool:
            return _get_running_loop() is loop

        def can_start_tasks(self) -> bool:
            return current_task(loop) is not None

        def is_cancelling(self) -> bool:
            task = current_task(loop)
            return task is not None and task.cancelling() > 0

    return Asyncio()


def _parked_tasks(token: Any) -> Backend:
    from trio import ClosedResourceError as TrioClosedError
    from trio import current_time
    from trio.lowlevel import (
        Abort,
        Task,
        current_task,
        current_trio_token,
        in_trio_run,
        reschedule,
        wait_readable,
        wait_task_rescheduled,
        wait_writable,
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
        now = staticmethod(current_time)

        async def wait_readable(self, sock: socket.socket) -> None:
            try:
                await wait_readable(sock)
            except (TrioClosedError, ValueError):  # closed meanwhile, or before
                raise anyio.ClosedResourceError from None

        async def wait_writable(self, sock: socket.socket) -> None:
            try:
                await wait_writable(sock)
            except (TrioClosedError, ValueError):
                raise anyio.ClosedResourceError from None

        def soon(self, function: Callable[[], None]) -> None:
            token.run_sync_soon(function)

        def is_here(self) -> bool:
            return in_trio_run() and current_trio_token() is token

        def can_start_tasks(self) -> bool:
            return True

        def is_cancelling(self) -> bool:
            return False  # trio cancels by scopes alone

    return Trio()
