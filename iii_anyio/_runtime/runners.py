"""Tasks that run one job after another, so that a job costs no task of its own.

Tasks: runners, as many as jobs wait at once and a few idle ones, in the group given to ``open``.

Each job is an async function that runs in a copy of the context given to ``open``: what it sets there is gone with it,
as if it had a task of its own. Ready jobs are taken in order by one runner, the leader. As soon as a job waits for
something, its runner lets another lead: a job that does not wait costs no switch of tasks, one that waits holds up
nobody. A job that leaves its task cancelled (asyncio's own ``Task.cancel``) takes its runner with it.

Below: ``_wire/backend``. Above: ``dispatch``.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from .._wire.backend import Backend, Slot

__all__ = ("Runners",)

T = TypeVar("T")

_MAX_IDLE: Final = 64
"""Runners kept for the next jobs."""
_TURN: Final = 64
"""Jobs that never wait, after which others of the loop have their turn."""


class Runners(Generic[T]):
    """Runs ``run(job)`` for each job, in a task group. What ``run`` raises ends the group."""

    def __init__(
        self, backend: Backend, run: Callable[[T], Coroutine[Any, Any, None]], ask_host: Callable[[], None]
    ) -> None:
        """``ask_host`` has a task call ``start_wanted`` soon."""
        self._ask_host = ask_host
        self._is_wanted = False
        self._backend = backend
        self._run = run
        self._group: TaskGroup | None = None
        self._context = Context()
        self._ready: deque[T] = deque()
        self._idle: list[Slot] = []
        self._is_led = False

    def open(self, group: TaskGroup, context: Context) -> None:
        """Run jobs in this group from now on, each in a copy of this context."""
        self._group = group
        self._context = context

    def close(self) -> list[T]:
        """The group is about to end: give back what has not begun."""
        self._group = None
        left = list(self._ready)
        self._ready.clear()
        return left

    def put(self, job: T) -> None:
        """Run a job soon. The group must be open."""
        self._ready.append(job)
        if not self._is_led:
            self._lead()

    def _lead(self) -> None:
        """Have some runner take what is ready."""
        self._is_led = True
        if self._idle:
            self._idle.pop().wake()
        elif self._backend.can_start_tasks():
            self._start_runner()
        else:
            self._is_wanted = True
            self._ask_host()

    def _pass_on(self) -> None:
        """The leader leads no more."""
        self._is_led = False
        if self._ready:
            self._lead()

    def start_wanted(self) -> None:
        """Start the runner that could not be started where it was wanted. In a task."""
        if self._is_wanted:
            self._is_wanted = False
            if self._group is not None:
                self._start_runner()

    def _start_runner(self) -> None:
        assert self._group is not None, "close() has taken what was ready"
        self._group.start_soon(self._work, name="iii runner")

    async def _work(self) -> None:
        ready, backend, run = self._ready, self._backend, self._run
        while True:
            is_leading, turn = True, _TURN

            def waits() -> None:
                nonlocal is_leading
                if is_leading:
                    is_leading = False
                    self._pass_on()

            while ready:
                await _in_context(run(ready.popleft()), self._context.copy().run, waits)
                if backend.is_cancelling():
                    if is_leading:
                        self._pass_on()
                    return
                turn -= 1
                if not turn:
                    await checkpoint()
                    turn = _TURN
            if is_leading:
                self._is_led = False
            if len(self._idle) >= _MAX_IDLE or self._group is None:
                return
            slot = backend.new_slot()
            self._idle.append(slot)
            try:
                await slot.wait()
            except BaseException:
                if slot in self._idle:
                    self._idle.remove(slot)
                else:  # woken to lead and cancelled at once
                    self._pass_on()
                raise


@types.coroutine
def _in_context(
    coroutine: Coroutine[Any, Any, None], run: Callable[..., Any], waits: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Await a coroutine in another context than the task's; ``waits`` is told when it first does."""
    send = coroutine.send
    try:
        awaited = run(send, None)
        waits()
        while True:
            try:
                value = yield awaited
            except BaseException as exc:  # noqa: BLE001 - the coroutine's affair
                awaited = run(coroutine.throw, exc)
            else:
                awaited = run(send, value)
    except StopIteration:
        return
