"""The native face: ``open_worker`` runs a worker in the caller's own event loop, asyncio or trio.

``WorkerMethods`` is what both faces share: registering, calling, looking. Its methods may be used from any thread, so
the portal face (``client.py``) needs no second implementation; what differs between the faces is who owns the loop.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from ._channel_end import resolve_headers, socket_channels
from ._discovery import Discovery
from ._identity import find_project_name, identity, resolve_engine_url, resolve_namespace, worker_name
from ._observers import Observers
from ._registering import Registering
from ._requests import CallRequest, normalise_call
from ._runtime.cleanup import last_words
from ._runtime.retrying import retry, retry_blocking
from ._runtime.supervisor import Supervisor
from .abc import ChannelConnector
from .channel import ReceivedEnds
from .errors import ConnectError, WorkerStateError
from .health import Health, answer, report
from .options import ConnectionStateCallback, IIIConnectionState, InitOptions, RetryPolicy
from .process_marker import announce_process
from .remotes import Remote
from .trigger import TriggerAction

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .abc import Background, ChannelWire, Connector, OpenChannel
    from .errors import IIIError
    from .observability._worker import WorkerTelemetry
    from .trigger import TriggerRequest

__all__ = ("Worker", "WorkerMethods", "open_worker")

Result = TypeVar("Result")
In = TypeVar("In")
Out = TypeVar("Out")


def _within(call: Callable[[CallRequest], Result], request: CallRequest, left: float) -> Result:
    """Make a call that has ``left`` seconds."""
    return call(replace(request, timeout=left))


class WorkerMethods(Registering, Observers, Discovery):
    """Registering functions and triggers, calling functions, and the state of the connection.

    Registration methods return at once and may be used from any thread, before and after connecting; the engine learns
    of them on every connection. ``wait_ready`` says when it has.
    """

    # -- calls ---------------------------------------------------------------------------------------------------

    @overload
    def trigger(self, request: dict[str, Any] | TriggerRequest, *, retry: RetryPolicy | None = None) -> Any: ...
    @overload
    def trigger(
        self,
        function_id: str,
        payload: Any = None,
        *,
        action: Any = None,
        timeout_ms: int | None = None,
        metadata: Any = None,
        namespace: str | None = None,
        dispatch: Literal["auto", "remote"] | None = None,
        retry: RetryPolicy | None = None,
    ) -> Any: ...
    def trigger(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function and block this thread until it has ended.

        For scripts, threads and sync handlers. On the worker's own loop use ``trigger_async``.

        Args:
            *args: ``{"function_id", "payload", "action", "timeout_ms", "metadata", "namespace", "dispatch"}`` or a
                ``TriggerRequest``; or the function id and the payload. A function of this worker runs in this process,
                without the engine, when the engine allows it; ``dispatch="remote"`` forbids that.
            **kwargs: The other keys, with the second form. With either one ``retry``, a ``RetryPolicy``: the function
                may run twice without harm, so repeat the call when the link or its worker is lost, within the timeout.

        Returns:
            The function's result; ``{"messageReceiptId": …}`` for an enqueue; None for a void call.

        Raises:
            InvocationError: The function failed, was refused, timed out or the link was lost; ``code`` says which.
            RegistrationRejectedError: The engine has refused this worker.
            EncodeError: The payload is not JSON.
            WorkerStateError: On the worker's event loop thread.

        Wire: InvokeFunction → InvocationResult.   Upstream: III.trigger.
        """
        request = normalise_call(*args, **kwargs)
        caller = self._supervisor.caller
        if request.retry is not None:
            timeout = caller.timeout if request.timeout is None else request.timeout
            return retry_blocking(request.retry, timeout, partial(_within, caller.call_blocking, request))
        return caller.call_blocking(request)

    @overload
    async def trigger_async(
        self, request: dict[str, Any] | TriggerRequest, *, retry: RetryPolicy | None = None
    ) -> Any: ...
    @overload
    async def trigger_async(
        self,
        function_id: str,
        payload: Any = None,
        *,
        action: Any = None,
        timeout_ms: int | None = None,
        metadata: Any = None,
        namespace: str | None = None,
        dispatch: Literal["auto", "remote"] | None = None,
        retry: RetryPolicy | None = None,
    ) -> Any: ...
    async def trigger_async(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function and wait for it, on any asyncio or trio loop.

        Cancelling abandons the call: the function is not told, for the protocol has no message for it. A lost
        connection fails the call at once. Arguments, result and errors as ``trigger``.

        Wire: InvokeFunction → InvocationResult.   Upstream: III.trigger_async.
        """
        request = normalise_call(*args, **kwargs)
        caller = self._supervisor.caller
        if request.retry is not None:
            timeout = caller.timeout if request.timeout is None else request.timeout
            return await retry(request.retry, timeout, partial(_within, caller.call, request))
        call = caller.call(request)
        del request, args, kwargs  # with the payload
        return await call

    call = trigger
    call_async = trigger_async

    def trigger_void(self, function_id: str, payload: Any = None) -> None:
        """Call a function without waiting for a result, from any thread and also on the worker's own loop.

        The name of releases up to 0.8 for ``trigger`` with ``TriggerAction.Void()``. While there is no connection the
        call waits for one; if it then cannot be sent, that is logged.

        Raises:
            ShutdownError: The worker has shut down.
            EncodeError: The payload is not JSON.

        Wire: InvokeFunction.
        """
        request = normalise_call(function_id, payload, action=TriggerAction.Void())
        caller = self._supervisor.caller
        if caller.is_on_loop():  # where `trigger` refuses to wait for room; there is nothing else to wait for
            caller.call_here(request)
        else:
            caller.call_blocking(request)

    call_void = trigger_void

    @overload
    def remote(
        self,
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
        self,
        function_id: str,
        input_type: Any = Any,
        output_type: Any = Any,
        *,
        timeout_ms: int | None = None,
        metadata: Any = None,
        namespace: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> Remote[Any, Any]: ...
    def remote(
        self, function_id: str, input_type: Any = Any, output_type: Any = Any, **options: Any
    ) -> Remote[Any, Any]:
        """Make a typed stub of a function: ``greet = iii.remote("greet", Person, Greeting)``, ``await greet(person)``.

        Arguments as for ``iii_anyio.remote``.
        """
        return Remote(function_id, input_type, output_type, iii=self, **options)

    # -- connection ----------------------------------------------------------------------------------------------

    def add_connection_state_listener(self, handler: ConnectionStateCallback) -> Callable[[], None]:
        """Call ``handler`` with the state now, on this thread, and at each change, on the worker's loop.

        Returns:
            Removes this listener; may be called again.
        """
        return self._supervisor.connection.add_listener(handler)

    on_connection_state_change = add_connection_state_listener

    def get_connection_state(self) -> IIIConnectionState:
        """``disconnected``, ``connecting``, ``connected``, ``reconnecting`` or ``failed``."""
        return self._supervisor.connection.state

    def get_address(self) -> str:
        """The engine's URL as it was resolved."""
        return self._supervisor.address

    @property
    def open_channel(self) -> OpenChannel:
        """Opens an end of a data channel the way this worker reaches its engine. For ``create_channel``."""
        open_channel = self._supervisor.dispatcher.open_channel
        assert open_channel is not None, "run_worker sets it"
        return open_channel

    @property
    def background(self) -> Background:
        """Carries out what is written to a data channel without waiting. For ``create_channel``."""
        return self._supervisor.caller

    @property
    def worker_id(self) -> str | None:
        """What the engine calls this connection; changes with every reconnect."""
        return self._supervisor.session.worker_id

    def health(self) -> Health:
        """Look how this worker is: alive, ready, how much it has to do. From any thread.

        ``InitOptions(health=HealthOptions(port=...))`` also answers HTTP ``/livez`` and ``/readyz``.
        """
        return report(self._supervisor)

    @property
    def namespace(self) -> str | None:
        """This worker's namespace; None is the engine's default."""
        return self._namespace

    @property
    def fatal_error(self) -> IIIError | None:
        """Why the engine refused this worker for good; None while it has not."""
        return self._supervisor.session.fatal

    async def connect_async(self) -> None:
        """Do nothing: a worker connects by itself, from its start on and again after each loss.

        For programs of releases that had to ask for it. To wait for the engine, see ``wait_ready``.

        Raises:
            ShutdownError: The worker has shut down.

        Upstream: III.connect_async.
        """
        self._checked()
        await checkpoint()

    async def shutdown_async(self) -> None:
        """Drain running handlers, deliver their results, close, and wait until that is done. Twice is fine.

        Inside a handler of this worker it only starts the shutdown, which waits for that handler.
        """
        supervisor = self._supervisor
        if supervisor.closed.is_set():
            await checkpoint()
            return
        if supervisor.caller.is_on_loop():
            await supervisor.shutdown()
            return
        done = anyio.Event()
        here = supervisor.caller.mailbox_here()

        def wake() -> None:
            with suppress(WorkerStateError):  # that loop has ended, and who waited there with it
                here.post(done.set)

        self._post_shutdown(wake)
        await done.wait()

    def shutdown(self) -> None:
        """Do what ``shutdown_async`` does and block this thread meanwhile."""
        supervisor = self._supervisor
        if supervisor.closed.is_set():
            return
        if supervisor.caller.is_on_loop():
            raise WorkerStateError("shutdown() would block the event loop it needs; use 'await shutdown_async()' here")
        done = threading.Event()
        self._post_shutdown(done.set)
        done.wait()

    def _post_shutdown(self, done: Callable[[], None]) -> None:
        from_handler = self._supervisor.is_called_from_handler()
        try:
            self._supervisor.caller.mailbox.post(self._supervisor.request_stop_then, done, not from_handler)
        except WorkerStateError:  # its loop has ended, and the worker before it
            done()


class Worker(WorkerMethods):
    """A worker in the caller's event loop. Made by ``open_worker``."""

    async def wait_ready(self) -> None:
        """Wait until the engine has confirmed every registration made so far, on the present connection.

        Raises:
            RegistrationRejectedError: It refused this worker, or one of its functions.
            TriggerRegistrationError: A provider refused a trigger.
            ShutdownError: The worker has shut down.
        """
        await self._supervisor.wait_ready()

    async def serve(self) -> None:
        """Serve until cancelled, shut down, SIGINT or SIGTERM; then drain. A second signal does not wait for handlers.

        Signals are only looked at on the main thread and with ``InitOptions(handle_signals=True)``, the default.
        """
        await self._supervisor.serve()


@asynccontextmanager
async def open_worker(
    address: str | None = None, options: InitOptions | None = None, *, connector: Connector | None = None
) -> AsyncGenerator[Worker]:
    """Run a worker for as long as the ``async with`` block lasts.

    Returns at once and connects in the background; ``wait_ready`` waits for the engine. Leaving the block drains
    running handlers; leaving it by an exception cancels them.

    Args:
        address: WebSocket URL of the engine; default ``III_URL``, else ``ws://127.0.0.1:49134``.
        options: Name, namespace, limits, timeouts.
        connector: Another way to reach an engine, such as the in-process one of ``iii_anyio.devengine``.

    Raises:
        RegistrationRejectedError: Out of the block, when the engine refuses this worker for good.
        ConnectError: Out of the block, when the retries are used up.
    """
    async with run_worker(address, options, connector) as (supervisor, namespace):
        yield Worker(supervisor, namespace)


@asynccontextmanager
async def run_worker(
    address: str | None, options: InitOptions | None, connector: Connector | None, *, is_builtin: bool = False
) -> AsyncGenerator[tuple[Supervisor, str | None]]:
    """Run what both faces are made of; yields the supervisor and the worker's namespace.

    The environment names and places the workers of an application, not those that are part of an engine.
    """
    options = options if options is not None else InitOptions()
    if not isinstance(options, InitOptions):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"options must be InitOptions, got {type(options).__name__}")
    if address is not None and not isinstance(address, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"address must be a URL, got {type(address).__name__}; options come second")
    url = resolve_engine_url(address)
    namespace = options.namespace if is_builtin else resolve_namespace(options)
    with nullcontext(options.worker_name or "") if is_builtin else worker_name(options) as name:
        has_project = options.telemetry is not None and options.telemetry.project_name is not None
        if connector is not None and has_project and options.otel is False:
            project_name, connect, unmark, telemetry = None, connector, None, None  # nothing that may block
        else:
            project_name, connect, unmark, telemetry = await to_thread.run_sync(_prepare, url, options, connector, name)
        try:
            supervisor = Supervisor(
                url,
                connect,
                options,
                identity(name, namespace, project_name, options),
                None if telemetry is None else telemetry.instrument,
            )
            _add_health(supervisor, options)
            if telemetry is not None:
                telemetry.attach(supervisor, options)
            open_channel = _channels(url, options, connector)
            supervisor.dispatcher.use_channels(open_channel, partial(ReceivedEnds, open_channel, supervisor.caller))
            async with supervisor.run():
                yield supervisor, namespace
        finally:
            for undo in (unmark, None if telemetry is None else telemetry.detach):
                if undo is not None:
                    with last_words(1.0):
                        await to_thread.run_sync(undo, abandon_on_cancel=True)


def _add_health(supervisor: Supervisor, options: InitOptions) -> None:
    health = options.health
    if health is not None and (health.port is not None or health.blocked_after is not None):
        from ._runtime.health import HealthServer, LoopWatch

        supervisor.loop_watch = LoopWatch(health)
        supervisor.services.append(supervisor.loop_watch)
        if health.port is not None:
            supervisor.health_server = HealthServer(health, partial(answer, supervisor))
            supervisor.services.append(supervisor.health_server)


def _prepare(
    url: str, options: InitOptions, connector: Connector | None, name: str
) -> tuple[str | None, Connector, Callable[[], None] | None, WorkerTelemetry | None]:
    """What may block: the disk, and the first import of httpx and of OpenTelemetry, some tenths of a second."""
    from .observability._worker import worker_telemetry

    project_name = find_project_name()
    telemetry = worker_telemetry(options, url, connector, name, _wire_options(options))
    unmark: Callable[[], None] | None = None
    if connector is None:  # a worker on a DirectWire never needs httpx, and is of no interest outside
        from ._wire.connect import websocket_connector

        connector = websocket_connector(url, **_wire_options(options))
        if options.process_marker:
            unmark = announce_process(url, name)
    return project_name, connector, unmark, telemetry


def _wire_options(options: InitOptions) -> dict[str, Any]:
    """What every socket of a worker is opened with, its data channels included (P-02)."""
    return {
        "headers": resolve_headers(dict(options.headers or {})),
        "connect_timeout": options.connect_timeout,
        "verify_tls": options.verify_tls,
        "proxy": options.proxy,
    }


def _channels(url: str, options: InitOptions, connector: Connector | None) -> OpenChannel:
    """How this worker opens data channels: as its connector does, or at the engine's URL, as it connected itself."""
    if isinstance(connector, ChannelConnector):
        return connector.channel
    if connector is not None:
        return _no_channel
    return socket_channels(url, **_wire_options(options))


def _no_channel(channel_id: str, access_key: str, direction: str) -> AbstractAsyncContextManager[ChannelWire]:
    raise ConnectError(f"channel {channel_id}", "this worker's connector opens no channels")
