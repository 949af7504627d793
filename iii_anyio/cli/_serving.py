"""One process that serves an app: load the target, open a worker, drain on the first signal, hurry on the second.

``run`` calls ``serve_here``; with ``--reload`` or ``--processes`` it starts this module as a child, which has its
settings as an argument and stdin as a rope: when the parent is gone, stdin ends, and the child drains.

Tasks (all end with ``_Serving.run``): signals, the rope, the shutdown that one of them starts.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import anyio
from anyio import CancelScope, create_task_group

from .._protocol.codec import to_json
from .._runtime.cleanup import unwrap_single
from ..app import App
from ..errors import RegistrationRejectedError, ShutdownError, TriggerRegistrationError
from ..options import InitOptions
from ..worker import Worker, open_worker
from ._errors import ADDRESS_ADVICE, CommandError, ExitCode, explained, usage_errors

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ("Backend", "Settings", "child_command", "load_target", "log_to_stderr", "say", "serve_here")

Backend: TypeAlias = Literal["asyncio", "uvloop", "trio"]

_LAST_WORDS: Final = 2.0
"""Seconds that a program gets to end after its worker has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one process serves, and how."""

    target: str
    """``MODULE:OBJECT``."""
    app_dir: str = "."
    url: str | None = None
    """Not for a child: its URL may be secret, arguments are not, so it comes as ``III_URL``."""
    namespace: str | None = None
    backend: Backend = "asyncio"
    as_json: bool = False
    number: int = 0
    """Of this process among ``processes``."""
    processes: int = 1
    is_child: bool = False


def child_command(settings: Settings) -> list[str]:
    """How to start a child with these settings."""
    given = {**asdict(settings), "is_child": True, "url": None}
    return [sys.executable, "-m", "iii_anyio.cli._serving", json.dumps(given)]


def say(event: str, text: str, *, as_json: bool = False, **facts: Any) -> None:
    """Tell the user what happens: a line on stderr, or with ``as_json`` an object on stdout."""
    if as_json:
        sys.stdout.write(to_json({"event": event, "pid": os.getpid(), **facts}).decode() + "\n")
        sys.stdout.flush()
    else:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def log_to_stderr(level: int) -> None:
    """Log from this level on, unless the application has decided itself."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # It logs whole addresses, and a query may hold a token.
    logging.getLogger("httpx").setLevel(logging.WARNING)


# -- the target ------------------------------------------------------------------------------------------------------


def load_target(target: str, app_dir: str) -> Any:
    """Import what ``MODULE:OBJECT`` names; ``:app`` may be left out.

    Raises:
        CommandError: There is no such thing, or importing it failed; then its traceback is on stderr already.
    """
    name, _, path = target.partition(":")
    path = path or "app"
    if not name or name.endswith(".py") or "/" in name or os.sep in name:
        module = name.removesuffix(".py").strip("./").replace("/", ".").replace(os.sep, ".")
        advice = f"Give a module and what is in it, as in {module or 'app'}:{path}."
        raise CommandError(ExitCode.USAGE, f"{target!r} is not MODULE:OBJECT", advice)
    folder = str(Path(app_dir).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise _unloadable(name) from exc
        advice = f"It was looked for in {folder}; --app-dir names another directory."
        raise CommandError(ExitCode.USAGE, f"there is no module {exc.name!r}", advice) from exc
    except Exception as exc:
        raise _unloadable(name) from exc
    for step in path.split("."):
        if not hasattr(found, step):
            apps = [key for key, value in vars(import_module(name)).items() if isinstance(value, App)]
            advice = (
                f"It has {', '.join(f'{name}:{key}' for key in apps)}." if apps else "Define app = App('name') there."
            )
            raise CommandError(ExitCode.USAGE, f"module {name!r} has no {path!r}", advice)
        found = getattr(found, step)
    return found


def _unloadable(name: str) -> CommandError:
    traceback.print_exc()
    return CommandError(ExitCode.USAGE, f"importing {name!r} failed, see above", "Mend it, then start again.")


Program: TypeAlias = Callable[[Worker], object]


def program_of(found: Any, target: str) -> App | Program:
    """What can be run of what was found: an app, what a function without parameters makes, or ``main(iii)``.

    Raises:
        CommandError: None of these.
    """
    if isinstance(found, App):
        return found
    problem = f"{target} is {type(found).__name__}, not an App"
    if callable(found) and not isinstance(found, type):
        try:
            needed = [
                parameter
                for parameter in inspect.signature(found).parameters.values()
                if parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ]
        except (TypeError, ValueError):  # a callable of C
            needed = []
        if not needed and not inspect.iscoroutinefunction(found):
            made = found()
            if isinstance(made, App):
                return made
            problem = f"{target} returned {type(made).__name__}, not an App"
        elif len(needed) == 1 and needed[0].kind is not inspect.Parameter.KEYWORD_ONLY:
            return cast("Program", found)
        else:
            problem = f"{target} takes {len(needed)} parameters"
    advice = "It can be an App, a function that returns one, def register(iii), or async def main(iii)."
    raise CommandError(ExitCode.USAGE, problem, advice)


# -- serving ---------------------------------------------------------------------------------------------------------


class _Serving:
    """One run of a program, and who ends it."""

    def __init__(self, program: App | Program, settings: Settings) -> None:
        self._program = program
        self._settings = settings
        self._worker: Worker | None = None
        self._scope: CancelScope
        self._is_stopping = False
        self.signal: int = 0
        """That forced the end; 0 for none."""

    def _say(self, event: str, text: str, **facts: Any) -> None:
        say(event, text, as_json=self._settings.as_json, **facts)

    async def run(self) -> None:
        """Serve until the program ends, or a signal or the parent's end ends it."""
        self._scope = CancelScope()
        with unwrap_single(), anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with create_task_group() as tasks:
                tasks.start_soon(self._obey, signals, tasks, name="iii-cli signals")
                if self._settings.is_child and os.name != "nt":
                    tasks.start_soon(self._hold_rope, tasks, name="iii-cli parent")
                with self._scope:
                    try:
                        await self._serve()
                    except ShutdownError:
                        if not self._is_stopping:
                            raise
                tasks.cancel_scope.cancel()

    async def _obey(self, signals: Any, tasks: TaskGroup) -> None:
        async for number in signals:
            if self._is_stopping:
                self.signal = number
                self._say("forced", "Not waiting any longer.")
                self._scope.cancel()
            else:
                self._say("stopping", "Draining; once more ends it at once.")
                self._stop(tasks)

    async def _hold_rope(self, tasks: TaskGroup) -> None:
        await anyio.wait_readable(sys.stdin.fileno())
        if not self._is_stopping:
            self._stop(tasks)

    def _stop(self, tasks: TaskGroup) -> None:
        self._is_stopping = True
        if self._worker is None:
            self._scope.cancel()
        else:
            tasks.start_soon(self._shut_down, self._worker, name="iii-cli shutdown")

    async def _shut_down(self, worker: Worker) -> None:
        await worker.shutdown_async()
        if not isinstance(self._program, App):
            await anyio.sleep(_LAST_WORDS)
            self._scope.cancel()

    # -- the worker ----------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        program = self._program
        async with AsyncExitStack() as stack:
            if isinstance(program, App):
                given = program.options or InitOptions(worker_description=program.name)
                iii = await stack.enter_async_context(self._open(given))
                await stack.enter_async_context(program.attach(iii))
                await self._ready(iii, f"app {program.name}", len(program.functions))
                await iii.serve()
                return
            iii = await stack.enter_async_context(self._open(InitOptions()))
            outcome = program(iii)
            if not inspect.isawaitable(outcome):
                await self._ready(iii, self._settings.target, None)
                await iii.serve()
                return
            await cast("Awaitable[object]", outcome)
            if not self._is_stopping:
                text = f"{self._settings.target} has returned. To serve on, let it end with `await iii.serve()`."
                self._say("returned", text)

    @asynccontextmanager
    async def _open(self, given: InitOptions) -> AsyncGenerator[Worker]:
        settings = self._settings
        options = replace(given, handle_signals=False)
        if settings.namespace is not None:
            options.namespace = settings.namespace.replace("{n}", str(settings.number))
        name = os.environ.get("III_WORKER_NAME") or options.worker_name
        if name and settings.processes > 1:  # one live worker a name (E-35); the variable goes first
            options.worker_name = f"{name}:{settings.number}"
            os.environ.pop("III_WORKER_NAME", None)
        async with AsyncExitStack() as stack:
            with usage_errors(ADDRESS_ADVICE):
                self._worker = await stack.enter_async_context(open_worker(settings.url, options))
            yield self._worker

    async def _ready(self, iii: Worker, what: str, count: int | None) -> None:
        """Wait for the engine, and tell what it refused."""
        try:
            await iii.wait_ready()
        except (RegistrationRejectedError, TriggerRegistrationError) as exc:
            if iii.fatal_error is not None:
                raise
            if self._settings.processes > 1 and isinstance(exc, RegistrationRejectedError):
                advice = (
                    "The engine gives a function id to one worker of a namespace. For several processes of one app use "
                    "--namespace 'NAME-{n}', or ids that depend on III_PROCESS; for more processors with the same id, "
                    "one process and execution='process' of its functions."
                )
                raise CommandError(ExitCode.USAGE, str(exc), advice) from exc
            self._say("refused", f"Refused, the rest is served: {exc}", message=str(exc))
        functions = "" if count is None else f", {count} function{'' if count == 1 else 's'}"
        namespace = iii.namespace or "default"
        text = f"Serving {what}{functions} in namespace {namespace} (pid {os.getpid()}). Ctrl-C ends it."
        self._say("serving", text, app=what, functions=count, namespace=namespace, worker_id=iii.worker_id)


def serve_here(settings: Settings) -> int:
    """Serve in this process until it ends, and return the exit code."""
    try:
        program = program_of(load_target(settings.target, settings.app_dir), settings.target)
        # After the import: an application that configures logging itself goes first.
        log_to_stderr(logging.INFO)
        backend, options = _backend(settings.backend)
        serving = _Serving(program, settings)
        anyio.run(serving.run, backend=backend, backend_options=options)
    except Exception as exc:  # noqa: BLE001 - of the application; its traceback is shown
        error = explained(exc)
        if error is None:
            traceback.print_exc()
            error = CommandError(ExitCode.FAILED, f"{settings.target} failed, see above")
        facts = {"message": error.message, "exit_code": int(error.code)}
        say("failed", f"Error: {error.message}\n{error.advice}".rstrip(), as_json=settings.as_json, **facts)
        return error.code
    return 128 + serving.signal if serving.signal else ExitCode.OK


def _backend(name: Backend) -> tuple[str, dict[str, Any]]:
    if name == "trio":
        return _installed("trio", "pip install 'iii-anyio[trio]'"), {}
    if name == "uvloop":
        _installed("uvloop", "pip install uvloop; Windows has none")
    return "asyncio", {"use_uvloop": name == "uvloop"}


def _installed(name: Literal["trio", "uvloop"], advice: str) -> str:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise CommandError(ExitCode.USAGE, f"--backend {name} needs {name}, which is not installed", advice)
    return name


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(serve_here(Settings(**json.loads(sys.argv[1]))))
    sys.exit(128 + signal.SIGINT)
