"""The portal face: ``register_worker`` runs a worker in a thread of its own, for synchronous programs.

No logic but whose thread, loop and signals they are: every method beyond these is ``WorkerMethods``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Generator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import anyio
from anyio import CancelScope, from_thread
from anyio.from_thread import BlockingPortal

from ._identity import resolve_engine_url
from .errors import ConnectError, RegistrationRejectedError, WorkerStateError
from .options import InitOptions
from .worker import WorkerMethods, run_worker

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from anyio.abc import TaskStatus

    from ._runtime.supervisor import Supervisor
    from .options import IIIConnectionState

__all__ = ("III", "IIIClient", "register_worker", "resolve_engine_url")

logger: Final = logging.getLogger("iii_anyio")

_CONNECT_WAIT: Final = 30.0
"""Seconds ``register_worker`` waits for the engine before it returns a client that goes on trying (api A.2)."""


class IIIClient(WorkerMethods):
    """A worker whose event loop runs in a thread of its own. Made by ``register_worker``; also a context manager.

    The thread is not a daemon: a script that registers functions and reaches its end stays alive until ``shutdown()``,
    SIGTERM or Ctrl-C.
    """

    def __init__(
        self,
        address: str | None = None,
        options: InitOptions | None = None,
        *,
        backend: Literal["asyncio", "uvloop", "trio"] = "asyncio",
    ) -> None:
        """Start the worker and connect in the background; never fails because of the connection."""
        self._portal = _Portal(address, options, backend)
        super().__init__(self._portal.supervisor, self._portal.namespace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Drain running handlers, deliver their results, close, and wait for the worker's thread. Twice is fine."""
        super().shutdown()
        if not self._supervisor.is_called_from_handler():
            self._portal.join()
            _restore_signal_handlers()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Block until the engine has confirmed every registration made so far.

        Args:
            timeout: Seconds; None waits as long as the worker lives.

        Raises:
            TimeoutError: Not in time.
            RegistrationRejectedError: The engine refused this worker, or one of its functions.
            TriggerRegistrationError: A provider refused a trigger.
        """
        self._portal.check_alive()
        if self._supervisor.caller.is_on_loop():
            raise WorkerStateError("wait_ready() would block the event loop it needs")
        caller = self._checked().caller

        async def wait() -> None:
            with anyio.fail_after(timeout):
                await self._supervisor.wait_ready()

        try:
            from_thread.run(wait, token=caller.token)
        except TimeoutError as exc:
            state = self.get_connection_state()
            raise TimeoutError(f"the engine has not confirmed every registration in {timeout} s ({state})") from exc

    def serve(self) -> None:
        """Block until the worker is shut down, by ``shutdown()`` elsewhere, SIGTERM or Ctrl-C; return when drained."""
        self._portal.join()
        _signals_seen.clear()  # obeyed: what follows is the program's own end
        self._portal.check_alive()


III = IIIClient
"""Upstream's name of the class that ``register_worker`` returns, ``iii.iii.III``."""


def register_worker(
    address: str | None = None,
    options: InitOptions | None = None,
    *,
    backend: Literal["asyncio", "uvloop", "trio"] = "asyncio",
) -> IIIClient:
    """Connect a worker that lives in a thread of its own, and wait up to 30 s for the connection.

    An engine that cannot be reached in that time is no error: the client is returned and goes on trying. On the main
    thread, SIGTERM (if nobody handles it) and Ctrl-C then drain and end the process; a second one ends it at once.

    Args:
        address: WebSocket URL of the engine; default ``III_URL``, else ``ws://127.0.0.1:49134``.
        options: Name, namespace, limits, timeouts.
        backend: What the thread's event loop runs on; ``uvloop`` is asyncio with that loop, which must be installed.

    Raises:
        RegistrationRejectedError: The engine refuses this worker.
        ConnectError: ``max_retries`` connection attempts failed; a ``ConnectionError``.

    Upstream: register_worker.
    """
    options = options if options is not None else InitOptions()
    client = IIIClient(address, options, backend=backend)
    if options.handle_signals:
        _install_signal_handlers()
    try:
        _wait_connected(client, _CONNECT_WAIT)
    except BaseException:
        client.shutdown()
        raise
    return client


def _wait_connected(client: IIIClient, timeout: float) -> None:
    changed = threading.Condition()

    def listener(_: IIIConnectionState) -> None:
        with changed:
            changed.notify_all()

    remove = client.add_connection_state_listener(listener)
    try:
        with changed:
            # The worker's state, not the listener's: the first notice may be overtaken by the second.
            changed.wait_for(lambda: client.get_connection_state() in {"connected", "failed"}, timeout)
    finally:
        remove()
    state = client.get_connection_state()
    if state == "failed":
        client.serve()  # over already: raises why
    if state != "connected":
        logger.warning("no connection to %s within %g s; trying on in the background", client.get_address(), timeout)


@contextmanager
def hosted(client: IIIClient, manager: AbstractAsyncContextManager[object]) -> Generator[IIIClient]:
    """Run an async context manager in the client's event loop while the block lasts, and at most as long as the client.

    It is entered and left in one task.
    """
    portal = client._portal  # pyright: ignore[reportPrivateUsage] - of this module
    supervisor = portal.supervisor
    supervisor.caller.check_usable()
    if supervisor.caller.is_on_loop():
        raise WorkerStateError("this would block the event loop it needs; do it in the thread that made the client")

    async def hold(*, task_status: TaskStatus[CancelScope]) -> None:
        async with manager:
            with CancelScope() as scope:
                task_status.started(scope)
                await supervisor.closed.wait()

    ended, scope = portal.host.start_task(hold)
    try:
        yield client
    finally:
        with suppress(WorkerStateError):  # it has ended, and left the manager by itself
            supervisor.caller.mailbox.post(scope.cancel)
        with suppress(CancelledError):  # the worker failed: that is for `serve` and the calls to say
            ended.result()


# -- the thread ------------------------------------------------------------------------------------------------------


class _Portal:
    """The thread and event loop of one client."""

    def __init__(self, address: str | None, options: InitOptions | None, backend: str) -> None:
        self.failure: RegistrationRejectedError | ConnectError | None = None
        self.host: BlockingPortal
        """Runs what ``hosted`` is given."""
        started: Future[tuple[Supervisor, str | None]] = Future()
        self.thread = threading.Thread(  # noqa: TID251 - the one that carries an event loop; shutdown joins it
            target=self._run, args=(address, options, backend, started), name="iii-anyio worker"
        )
        self.thread.start()
        try:
            self.supervisor, self.namespace = started.result()
        except BaseException:  # Ctrl-C, too: then the worker has to be told when it is there
            started.add_done_callback(_stop_at_once)
            self.thread.join()
            raise
        _portals.add(self)
        _hold_exit()

    def _run(
        self,
        address: str | None,
        options: InitOptions | None,
        backend: str,
        started: Future[tuple[Supervisor, str | None]],
    ) -> None:
        async def main() -> None:
            async with run_worker(address, options, None) as (supervisor, namespace), BlockingPortal() as self.host:
                started.set_result((supervisor, namespace))
                await supervisor.closed.wait()

        try:
            uses_uvloop = backend == "uvloop"
            loop_options = {"use_uvloop": True} if uses_uvloop else {}
            anyio.run(main, backend="asyncio" if uses_uvloop else backend, backend_options=loop_options)
        except (RegistrationRejectedError, ConnectError) as exc:
            self.failure = exc
            logger.error("the worker ended: %s", exc)
        except BaseException as exc:
            if started.done():
                logger.exception("the worker's thread ended")
            else:
                started.set_exception(exc)

    def check_alive(self) -> None:
        """Raise what ended the worker, if something did."""
        if self.failure is not None:
            raise self.failure

    def join(self) -> None:
        """Wait for the thread. A signal that drains does not end the wait, a second one ends the process."""
        global _is_joining
        is_main = threading.current_thread() is threading.main_thread()
        # An exception raised by a signal handler inside join() would leave a running thread marked as stopped.
        _is_joining = _is_joining or is_main
        try:
            while self.thread.is_alive():
                self.thread.join(1.0)  # in steps, so that signals are seen on every platform
        finally:
            _is_joining = _is_joining and not is_main

    def stop(self, grace: float | None = None) -> None:
        """Start the shutdown. Returns at once."""
        with suppress(WorkerStateError):  # it has ended
            self.supervisor.caller.mailbox.post(self.supervisor.request_stop, grace)


def _stop_at_once(started: Future[tuple[Supervisor, str | None]]) -> None:
    if started.exception() is None:
        supervisor = started.result()[0]
        with suppress(WorkerStateError):
            supervisor.caller.mailbox.post(supervisor.request_stop, 0)


# -- the process's end -----------------------------------------------------------------------------------------------

_portals: Final[weakref.WeakSet[_Portal]] = weakref.WeakSet()
_DEFAULT_HANDLERS: Final[dict[signal.Signals, Any]] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
_is_exit_held = False
_is_joining = False  # the main thread waits for a portal
_signals_seen: Final[list[int]] = []


def _hold_exit() -> None:
    """Keep a process whose main thread has ended alive *before* the interpreter starts to take itself down.

    A non-daemon thread alone is joined too late: by then thread pools refuse work, and with them ``asyncio.to_thread``
    in handlers. The hook runs in the main thread, so signals are still seen.
    """
    global _is_exit_held
    if not _is_exit_held:
        _is_exit_held = True
        # Private, and may go away; then only the thread itself keeps the process alive.
        register: Any = getattr(threading, "_register_atexit", None)
        if register is not None:
            register(_wait_for_portals)


def _wait_for_portals() -> None:
    for portal in list(_portals):
        portal.join()
    if _signals_seen:
        # Drained. What the signal means by default, exit status included, happens now.
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(_signals_seen[0], signal.SIG_DFL)
        os.kill(os.getpid(), _signals_seen[0])


def _stop_all() -> None:
    for portal in list(_portals):
        portal.stop()


def _install_signal_handlers() -> None:
    """Make SIGTERM and Ctrl-C drain, unless the application has handlers of its own."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, default in _DEFAULT_HANDLERS.items():
        if signal.getsignal(number) is default:
            signal.signal(number, _drain_on_signal)


def _restore_signal_handlers() -> None:
    """With the last client gone, signals are the program's own again."""
    if threading.current_thread() is not threading.main_thread() or any(p.thread.is_alive() for p in _portals):
        return
    _signals_seen.clear()
    for number, default in _DEFAULT_HANDLERS.items():
        if signal.getsignal(number) is _drain_on_signal:
            signal.signal(number, default)


def _drain_on_signal(number: int, _frame: FrameType | None) -> None:
    _signals_seen.append(number)
    if len(_signals_seen) > 1:
        sys.stderr.flush()
        os._exit(128 + number)
    _stop_all()
    if _is_joining:
        return  # the main program waits for the drain already
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
