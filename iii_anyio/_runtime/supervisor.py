"""The worker's task tree, and the order in which it ends.

    host task (inside ``async with``)
    └─ core group
       ├─ connection    shielded; ends by finish, refusal or exhausted retries
       ├─ deadlines     shielded; ends with the core
       ├─ reports       shielded; ends with the core
       ├─ handlers      host of the handlers group; a cancelled worker cancels them at once
       ├─ services      shielded; telemetry, health; what goes wrong there ends nothing else
       └─ closer        shielded; waits for ``request_stop``, then runs the shutdown below

Shutdown: stop accepting → drain handlers → cancel what is left → flush and close frame → services finish → end the
rest. Each step has a deadline, so neither a stuck handler nor a dead engine holds it up. Only what is shielded may run
after a cancellation of the host, and the closer ends all of it.
"""

from __future__ import annotations

import copy
import logging
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import TASK_STATUS_IGNORED, CancelScope, create_task_group, get_cancelled_exc_class, move_on_after
from anyio.lowlevel import checkpoint

from .._protocol.backoff import Backoff
from .._protocol.messages import FunctionRegistered, ObserverAdded, ObserveResult, ObserverRemoved, RegistrationRejected
from .._protocol.worker_session import WorkerSession
from ..errors import IIIError, ShutdownError
from ..options import InitOptions, ReconnectionConfig
from .calling import Caller
from .cleanup import unwrap_single
from .connection import Connection
from .context import current
from .dispatch import Dispatcher
from .observing import Observing
from .outbox import Outbox
from .owning import Owning
from .reporting import Reports

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from .._protocol.messages import Message
    from ..abc import Connector
    from .health import HealthServer, LoopWatch
    from .instrument import Instrument, Service

__all__ = ("Supervisor",)

logger: Final = logging.getLogger("iii_anyio")

LAST_WORDS: Final = 2.0
"""Seconds for cancelled handlers to end, and again for the last messages and the close frame."""


class Supervisor:
    """Everything one worker runs. ``run`` is its lifetime."""

    def __init__(
        self,
        address: str,
        connector: Connector,
        options: InitOptions,
        identity: dict[str, Any],
        instrument: Instrument | None = None,
    ) -> None:
        self.address = address
        self.options = options
        self.session: WorkerSession = WorkerSession(identity, max_queued=options.limits.offline_queue)
        self.outbox: Outbox = Outbox(self.session)
        self.dispatcher: Dispatcher = Dispatcher(self, self.session, self.outbox, options.limits)
        self.dispatcher.instrument = instrument
        self.caller: Caller = self._make_caller(instrument, identity.get("namespace"))
        self.services: list[Service] = []
        """Run beside the worker; to be filled before ``run``."""
        self.loop_watch: LoopWatch | None = None
        self.health_server: HealthServer | None = None
        self.reports: Reports = Reports(self.session, self.outbox, self.caller.now)
        self.owning: Owning = Owning(
            self.session,
            self.outbox,
            self.dispatcher,
            self.caller,
            self.reports,
        )
        self.observing: Observing = Observing(self.session, self.outbox, self.dispatcher, self.caller)
        self.session.settled = self._settled
        self.dispatcher.announced = self._announced
        self.dispatcher.ran_locally = self.reports.finished
        reconnection = options.reconnection_config or ReconnectionConfig()
        self.connection: Connection = Connection(
            connector,
            self.session,
            self.outbox,
            address=address,
            backoff=Backoff(
                reconnection.initial_delay_ms / 1000,
                reconnection.max_delay_ms / 1000,
                reconnection.backoff_multiplier,
                reconnection.jitter_factor,
                reconnection.max_retries,
            ),
            heartbeat=options.heartbeat,
            join_timeout=options.connect_timeout,
            dispatch=self.dispatcher.act,
            link_lost=self.dispatcher.link_lost,
        )
        self.closed: anyio.Event = anyio.Event()
        self._stop = anyio.Event()
        self._drain = CancelScope()
        self._grace = options.shutdown_timeout
        self._shielded = CancelScope(shield=True)
        self._handlers_ended = anyio.Event()
        self._handlers_scope = CancelScope()
        self._service_scopes: list[CancelScope] = []
        self._core_scope: CancelScope | None = None
        self._connection_ended = anyio.Event()
        self._failure: IIIError | None = None
        self._at_end: list[Callable[[], None]] = []

    def _make_caller(self, instrument: Instrument | None, namespace: str | None) -> Caller:
        timeout = self.options.invocation_timeout_ms / 1000
        if instrument is None:
            return Caller(self, self.session, self.outbox, self.dispatcher, timeout, namespace)
        from .instrument import TracedCaller

        return TracedCaller(self, self.session, self.outbox, self.dispatcher, timeout, namespace, instrument)

    # -- lifetime ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Serve for as long as the block lasts; leaving it normally drains, leaving it by an exception does not.

        Raises:
            RegistrationRejectedError: Out of the block, when the engine refuses this worker for good.
            ConnectError: Out of the block, when the retries are used up.
        """
        body_error: BaseException | None = None
        try:
            with unwrap_single():
                async with create_task_group() as core:
                    self._core_scope = core.cancel_scope
                    core.start_soon(self._run_closer, name="iii closer")
                    core.start_soon(self._run_shielded, name="iii connection")
                    # Not by ``core.start``, which would cancel a service against its shield. The scopes are there
                    # before the tasks, so that the closer misses none.
                    services_ready = [anyio.Event() for _ in self.services]
                    self._service_scopes += [CancelScope(shield=True) for _ in self.services]
                    for service, scope, ready in zip(self.services, self._service_scopes, services_ready, strict=True):
                        core.start_soon(self._run_service, service, scope, ready, name=f"iii {service.name}")
                    try:
                        await core.start(self._run_handlers, name="iii handlers")
                        for ready in services_ready:
                            await ready.wait()
                        yield
                        self.request_stop()
                        await self.closed.wait()
                    except get_cancelled_exc_class():
                        self.request_stop(0)
                        with CancelScope(shield=True):  # bounded by the closer's deadlines
                            await self.closed.wait()
                        raise
                    except BaseException as exc:  # noqa: BLE001 - raised again below
                        # Kept aside, so that it leaves the block as it is and not wrapped in the core's group.
                        body_error = exc
                        self.request_stop(0)
                        with CancelScope(shield=True):
                            await self.closed.wait()
        except get_cancelled_exc_class():
            if body_error is None:
                raise
            # The host was cancelled, and its block raised something else on the way out: that goes on, as in any block.
        finally:
            self._abandon()
            self.caller.close()
        if self._failure is not None:
            raise self._failure
        if body_error is not None:
            raise body_error

    def request_stop(self, grace: float | None = None) -> None:
        """Start the shutdown; running handlers get ``grace`` seconds (default: the option). Again: shortens it."""
        if self._stop.is_set():
            if grace == 0:
                self._drain.cancel()
            return
        if grace is not None:
            self._grace = grace
        self._stop.set()

    def is_called_from_handler(self) -> bool:
        """Whether this code runs in one of this worker's own handlers, or in a thread they started."""
        invocation = current.get()
        return invocation is not None and invocation.worker is self

    async def shutdown(self) -> None:
        """Start the shutdown and wait for its end; from inside a handler only start it, for it waits for handlers."""
        self.request_stop()
        if not self.is_called_from_handler():
            await self.closed.wait()

    def request_stop_then(self, done: Callable[[], None], is_waiting: bool) -> None:
        """Start the shutdown for another thread and call ``done`` at its end, or at once."""
        self.request_stop()
        if is_waiting and not self.closed.is_set():
            self._at_end.append(done)
        else:
            done()

    async def serve(self) -> None:
        """Wait until the worker has shut down. SIGINT and SIGTERM drain; the second does not wait for handlers."""
        if not self.options.handle_signals or threading.current_thread() is not threading.main_thread():
            await self.closed.wait()
            return
        async with create_task_group() as tasks:
            tasks.start_soon(self._obey_signals, name="iii signals")
            await self.closed.wait()
            tasks.cancel_scope.cancel()

    async def _obey_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            is_first = True
            async for _ in signals:
                self.request_stop(None if is_first else 0)
                is_first = False

    async def wait_ready(self) -> None:
        """Wait until the engine has confirmed every registration; raise what it refused."""
        session = self.session
        while not session.is_ready:
            if session.fatal is not None:
                raise session.fatal
            self.caller.check_usable()
            session.confirm(anyio.current_time())
            self.outbox.flush()
            await self.connection.wait_change()
        await checkpoint()
        refusals = session.registry.refusals()
        if refusals:
            refusal = copy.copy(refusals[0])  # each time a fresh one: traceback and notes belong to one raise
            for other in refusals[1:]:
                refusal.add_note(str(other))
            raise refusal

    # -- observers -------------------------------------------------------------------------------------------------

    def _settled(self, takes_observers: bool) -> None:
        self.reports.settled(takes_observers)
        self.owning.settled(takes_observers)

    def _announced(self, message: Message) -> None:
        if isinstance(message, FunctionRegistered | ObserverAdded | ObserverRemoved | RegistrationRejected):
            self.owning.act(message)
        elif isinstance(message, ObserveResult) and message.warnings:
            logger.warning("observer %s: %s", message.id, "; ".join(message.warnings))

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def _run_handlers(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        try:
            with self._handlers_scope:
                async with create_task_group() as handlers:
                    self.dispatcher.open(handlers)
                    task_status.started()
                    try:
                        await self.dispatcher.run_background()
                    finally:
                        self.dispatcher.close()
        finally:
            self._handlers_ended.set()

    async def _run_shielded(self) -> None:
        try:
            with self._shielded:
                async with create_task_group() as group:
                    group.start_soon(self.caller.run_deadlines, name="iii deadlines")
                    group.start_soon(self.reports.run, name="iii reports")
                    await self._run_connection()
                    group.cancel_scope.cancel()
        finally:
            self._connection_ended.set()

    async def _run_service(self, service: Service, scope: CancelScope, ready: anyio.Event) -> None:
        try:
            with scope:
                await service.run(ready.set)
        except Exception:
            logger.exception("%s failed; the worker goes on without it", service.name)
        finally:
            ready.set()

    async def _finish_service(self, service: Service) -> None:
        try:
            await service.finish()
        except Exception:
            logger.exception("%s did not come to its end", service.name)

    async def _run_connection(self) -> None:
        try:
            await self.connection.run()
        except IIIError as exc:
            self._failure = exc
            self.session.fail(exc)
            self.request_stop(0)
            if self._core_scope is not None:
                self._core_scope.cancel()

    async def _run_closer(self) -> None:
        try:
            await self._close()
        finally:
            # Also when an event loop that is torn down cancels tasks against their shields: nobody may wait for ever.
            self._handlers_scope.cancel()
            self._shielded.cancel()
            for scope in self._service_scopes:
                scope.cancel()
            self._abandon()
            self.connection.publish(self.connection.state if self._failure is not None else "disconnected")
            self.closed.set()
            for done in self._at_end:
                try:
                    done()
                except Exception:
                    logger.exception("a waiter for the worker's end could not be told")

    async def _close(self) -> None:
        with CancelScope(shield=True):
            await self._stop.wait()
            self.dispatcher.stop_accepting()
            self._drain.deadline = anyio.current_time() + self._grace
            if self._grace > 0:
                with self._drain:
                    await self.dispatcher.wait_idle()
            if self.dispatcher.running:
                logger.warning(
                    "%d handlers did not finish in time and are cancelled: %s",
                    self.dispatcher.running,
                    self.dispatcher.running_functions(),
                )
            self.dispatcher.close()
            self._handlers_scope.cancel()
            with move_on_after(LAST_WORDS):
                await self._handlers_ended.wait()
            self.reports.last_words()
            self.connection.finish()
            with move_on_after(LAST_WORDS):
                await self._connection_ended.wait()
            self._abandon()
            self._shielded.cancel()
            await self._connection_ended.wait()
            for service in self.services:
                await self._finish_service(service)

    def _abandon(self) -> None:
        """End what nobody will answer any more, and let later use fail at once."""
        self.caller.is_closed = True
        if self._failure is None:
            self.session.fail(ShutdownError("SHUTDOWN", "the worker shut down before the call was answered"))
        self.session.observations.notify_all()
        self.connection.notify()
