"""Keep child processes running: restart what crashes, replace what changed, pass signals on.

Tasks (all end with ``Keeper.run``): one a child, signals, changes of files, and late kills. A child is never left
behind: it ends by SIGTERM, or by SIGKILL when that takes too long, or by the end of its stdin when this process is
killed itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import create_task_group
from anyio.abc import Process

from .._protocol.backoff import Backoff
from ._errors import CommandError, ExitCode
from ._serving import Settings, child_command

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ("Child", "Keeper", "child_of", "watched")

_BACKOFF: Final = Backoff(0.5, 30.0, 2.0, 0.0)
_STEADY: Final = 10.0
"""Seconds after which a child that ends has not failed to start, so the delays begin anew."""
_HURRY: Final = 3.0
"""Seconds between a second signal and SIGKILL."""


@dataclass(slots=True, eq=False)
class Child:
    """One process that is to run."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: Process | None = field(default=None, init=False)
    is_outdated: bool = field(default=False, init=False)


class Keeper:
    """Runs children until a signal, or until none of them wants to run any more.

    Args:
        children: What to run.
        tell: Gets the event, a sentence for people, and facts for machines.
        changes: Sets of changed files; given, a child that ends waits for the next one.
        patience: Seconds that a child may take to drain before it is killed.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        tell: Callable[..., None],
        changes: Callable[[], AsyncIterator[set[Any]]] | None = None,
        patience: float = 30.0,
    ) -> None:
        self._children = children
        self._tell = tell
        self._changes = changes
        self._patience = patience
        self._is_stopping = False
        self._woken = anyio.Event()
        self._forced = 0
        self._codes: list[int] = []

    async def run(self) -> int:
        """Run them, and return the exit code: 0 when all have drained, 128 + the signal when one was forced."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with create_task_group() as tasks:
                tasks.start_soon(self._obey, signals, tasks, name="iii-cli signals")
                if self._changes is not None:
                    tasks.start_soon(self._replace, self._changes, tasks, name="iii-cli changes")
                async with create_task_group() as children:
                    for child in self._children:
                        children.start_soon(self._keep, child, tasks, name=f"iii-cli {child.name}")
                tasks.cancel_scope.cancel()
        if self._forced:
            return 128 + self._forced
        return next((code if code > 0 else int(ExitCode.FAILED) for code in self._codes if code), ExitCode.OK)

    # -- one child -----------------------------------------------------------------------------------------------

    async def _keep(self, child: Child, tasks: TaskGroup) -> None:
        failures = 0
        while True:
            child.is_outdated = False
            started = anyio.current_time()
            code = await self._run_once(child)
            if self._is_stopping:
                # By the signal itself: it had not got as far as to handle it, so there was nothing to drain.
                self._codes.append(ExitCode.OK if code == -signal.SIGTERM else code)
                return
            if child.is_outdated:
                continue
            if self._changes is not None:
                self._tell("ended", f"{child.name} ended with {_spelled(code)}; waiting for a change.", code=code)
                await self._wait(lambda: child.is_outdated)
                if self._is_stopping:
                    return
                continue
            if code in (ExitCode.OK, ExitCode.USAGE):
                # By itself, or for good: starting it again would change nothing.
                self._codes.append(code)
                if code:
                    self._stop(tasks)
                return
            failures = 0 if anyio.current_time() - started > _STEADY else failures
            delay = _BACKOFF.delay(failures, 0.5)
            failures += 1
            text = f"{child.name} ended with {_spelled(code)}; starting it again in {delay:g} s."
            self._tell("restarting", text, code=code, delay=delay)
            with anyio.move_on_after(delay):
                await self._wait()
            if self._is_stopping:
                return

    async def _run_once(self, child: Child) -> int:
        # A session of its own: Ctrl-C in a terminal reaches only us, so that a child gets each signal once.
        process = await anyio.open_process(
            child.command, stdin=PIPE, stdout=None, stderr=None, env=child.environment, start_new_session=True
        )
        child.process = process
        try:
            if self._is_stopping or child.is_outdated:
                _signal(process)
            async with process:  # kills it when we are cancelled
                return await process.wait()
        finally:
            child.process = None

    # -- from outside --------------------------------------------------------------------------------------------

    async def _wait(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Until then, or until all is to stop."""
        while not self._is_stopping and not is_over():
            await self._woken.wait()

    def _wake(self) -> None:
        woken, self._woken = self._woken, anyio.Event()
        woken.set()

    def _stop(self, tasks: TaskGroup) -> None:
        self._is_stopping = True
        self._wake()
        for child in self._children:
            self._end(child, tasks, self._patience)

    def _end(self, child: Child, tasks: TaskGroup, patience: float) -> None:
        if child.process is not None:
            _signal(child.process)
            tasks.start_soon(self._kill_late, child.name, child.process, patience, name="iii-cli kill")

    async def _kill_late(self, name: str, process: Process, patience: float) -> None:
        await anyio.sleep(patience)
        if process.returncode is None:
            self._tell("killed", f"{name} did not end within {patience:g} s and is killed.")
            _signal(process, kill=True)

    async def _obey(self, signals: AsyncIterator[signal.Signals], tasks: TaskGroup) -> None:
        async for number in signals:
            if not self._is_stopping:
                self._stop(tasks)
                continue
            if self._forced:
                for child in self._children:
                    if child.process is not None:
                        _signal(child.process, kill=True)
            self._forced = number
            for child in self._children:
                self._end(child, tasks, _HURRY)

    async def _replace(self, changes: Callable[[], AsyncIterator[set[Any]]], tasks: TaskGroup) -> None:
        async for changed in changes():
            if self._is_stopping:
                return
            files = sorted(str(path) for _, path in changed)
            names = [PurePath(path).name for path in files]
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            self._tell("reloading", f"{shown} changed; reloading.", files=files)
            for child in self._children:
                child.is_outdated = True
                self._end(child, tasks, self._patience)
            self._wake()


def _signal(process: Process, *, kill: bool = False) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):  # it ended a moment ago
            (process.kill if kill else process.terminate)()


def _spelled(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# -- what is kept ----------------------------------------------------------------------------------------------------


def child_of(settings: Settings, url: str | None = None) -> Child:
    """The child process that serves these settings, at this engine if they name none."""
    name = settings.target if settings.processes == 1 else f"{settings.target} #{settings.number}"
    url = settings.url or url
    environment = {**os.environ, "III_PROCESS": str(settings.number), **({"III_URL": url} if url else {})}
    return Child(name, child_command(settings), environment)


def watched(folders: Sequence[str]) -> Callable[[], AsyncIterator[set[Any]]]:
    """Changes of Python files below these folders, virtual environments and caches aside.

    Raises:
        CommandError: watchfiles is not installed.
    """
    try:
        from watchfiles import PythonFilter, awatch
    except ModuleNotFoundError as exc:
        advice = "pip install 'iii-anyio[cli]', or go without reloading."
        raise CommandError(ExitCode.USAGE, "reloading needs watchfiles, which is not installed", advice) from exc
    # What an editor or a checkout writes within 400 ms is one change. Its thread looks every 250 ms whether to end.
    return partial(awatch, *folders, watch_filter=PythonFilter(), debounce=400, rust_timeout=250, raise_interrupt=False)
