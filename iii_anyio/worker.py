"""The native face: ``open_worker`` runs a worker in the caller's own event loop, asyncio or trio.

``WorkerMethods`` is what both faces share: registering, calling, looking. Its methods may be used from any thread, so
the portal face (``client.py``) needs no second implementation; what differs between the faces is who owns the loop.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from ._channel_end import resolve_headers, socket_channels
from ._discovery import Discovery
from ._identity import find_project_name, identity, resolve_engine_url, resolve_namespace, worker_name
from ._protocol.calls import new_id
from ._protocol.codec import encode
from ._protocol.messages import (
    ABSENT,
    RegisterFunction,
    RegisterTriggerType,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)
from ._protocol.messages import RegisterTrigger as RegisterTriggerMessage
from ._protocol.registry import Registration
from ._requests import CallRequest, normalise_call, normalise_trigger, normalise_trigger_type
from ._runtime.binding import Binding, bind
from ._runtime.dispatch import Function
from ._runtime.formats import as_format
from ._runtime.supervisor import Supervisor
from .abc import ChannelConnector
from .channel import ReceivedEnds
from .errors import ConnectError, WorkerStateError
from .functions import FunctionRef, RegisterFunctionFormat
from .http import HttpInvocationConfig, as_invocation
from .options import ConnectionStateCallback, IIIConnectionState, InitOptions
from .trigger import (
    RegisterTriggerInput,
    RegisterTriggerTypeInput,
    Trigger,
    TriggerConfig,
    TriggerHandler,
    TriggerRequest,
    TriggerTypeRef,
)

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .abc import ChannelWire, Connector, OpenChannel

__all__ = ("Worker", "WorkerMethods", "open_worker")

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
_Format = RegisterFunctionFormat | dict[str, Any] | None


class WorkerMethods(Discovery):
    """Registering functions and triggers, calling functions, and the state of the connection.

    Registration methods return at once and may be used from any thread, before and after connecting; the engine learns
    of them on every connection. ``wait_ready`` says when it has.
    """

    def __init__(self, supervisor: Supervisor, namespace: str | None) -> None:
        self._supervisor = supervisor
        self._namespace = namespace
        self._registering = threading.Lock()

    # -- functions -----------------------------------------------------------------------------------------------

    def register_function(
        self,
        function_id: str,
        handler_or_invocation: Callable[..., Any] | HttpInvocationConfig,
        *,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        request_format: _Format = None,
        response_format: _Format = None,
        validate: bool | None = None,
        execution: Literal["async", "thread"] | None = None,
        concurrency: int | None = None,
        on_disconnect: Literal["finish", "cancel"] | None = None,
    ) -> FunctionRef:
        """Serve a function under an id of this worker's namespace.

        Args:
            function_id: Convention ``service::name``.
            handler_or_invocation: An async function (runs as a task), a sync function (runs in a thread), or where
                the engine finds the function over HTTP.
            description: Shown by discovery.
            metadata: Shown by discovery; ``{"internal": True}`` hides the function there.
            request_format: JSON Schema of the input; by default taken from the first parameter's annotation.
            response_format: JSON Schema of the result; by default taken from the return annotation.
            validate: Check input and result against the annotations; by default where there are any.
            execution: Run a plain function on the loop (``async``) or in a thread; by default in a thread.
            concurrency: Handlers of this function running at once; by default only the worker's limit holds.
            on_disconnect: What happens to running handlers when the link drops; by default the worker's option.

        Returns:
            A handle whose ``unregister()`` withdraws the function.

        Raises:
            TypeError: The id is no string, or the handler is not callable.
            ValueError: The id is blank or taken on this worker.

        Wire: RegisterFunction.   Upstream: III.register_function.
        """
        supervisor = self._checked()
        if not isinstance(function_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]  upstream's check (A.4)
            raise TypeError(f"function_id must be str, got {type(function_id).__name__}")
        if not function_id.strip():
            raise ValueError("id is required: the function id is blank")
        # Callers without a type checker get a clear word, too.
        is_number = isinstance(concurrency, int)  # pyright: ignore[reportUnnecessaryIsInstance]
        if concurrency is not None and (not is_number or concurrency < 1):
            raise ValueError(f"concurrency must be a number of at least 1, got {concurrency!r}")
        if execution not in {None, "async", "thread"}:
            raise ValueError(f"execution must be 'async' or 'thread', got {execution!r}")
        if on_disconnect not in {None, "finish", "cancel"}:
            raise ValueError(f"on_disconnect must be 'finish' or 'cancel', got {on_disconnect!r}")
        binding: Binding | None = None
        invocation = as_invocation(handler_or_invocation)
        if invocation is None:
            binding = bind(
                function_id,
                handler_or_invocation,
                validate=validate,
                request_format=request_format,
                response_format=response_format,
                execution=execution,
            )
        message = RegisterFunction(
            function_id,
            description,
            _absent(binding.request_format if binding else request_format and as_format(request_format)),
            _absent(binding.response_format if binding else response_format and as_format(response_format)),
            _absent(metadata),
            invocation,
        )
        function = Function(function_id, binding, concurrency, on_disconnect or supervisor.options.on_disconnect)
        registration = Registration(function_id, encode(message), encode(UnregisterFunction(function_id)), function)
        functions = supervisor.session.registry.functions
        with self._registering:
            supervisor.session.registry.add_function(registration)
        self._announce(registration)
        return FunctionRef(function_id, partial(self._withdraw, functions, registration))

    def function(self, function_id: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to register it; takes the keyword arguments of ``register_function``."""

        def register(handler: HandlerT) -> HandlerT:
            self.register_function(function_id, handler, **options)
            return handler

        return register

    # -- triggers ------------------------------------------------------------------------------------------------

    @overload
    def register_trigger(self, trigger: RegisterTriggerInput | dict[str, Any], /) -> Trigger: ...
    @overload
    def register_trigger(
        self,
        type: str,
        function_id: str,
        config: Any = None,
        metadata: Any = None,
        *,
        namespace: str | None = None,
        trigger_namespace: str | None = None,
    ) -> Trigger: ...
    def register_trigger(self, *args: Any, **kwargs: Any) -> Trigger:
        """Bind a function to a trigger: ``{"type", "function_id", "config", …}``, or the same as arguments.

        The engine is silent about success; ``wait_ready`` raises when the provider refused.

        Raises:
            ValueError: A required field is missing or a namespace is blank.

        Wire: RegisterTrigger.   Upstream: III.register_trigger.
        """
        supervisor = self._checked()
        wanted = normalise_trigger(*args, **kwargs)
        trigger_id = new_id()
        message = RegisterTriggerMessage(
            trigger_id,
            wanted.type,
            wanted.function_id,
            wanted.config,
            _absent(wanted.metadata),
            wanted.namespace if wanted.namespace is not None else self._namespace,
            wanted.trigger_namespace,
        )
        withdrawal = encode(UnregisterTrigger(trigger_id, wanted.type))
        registration = Registration(trigger_id, encode(message), withdrawal)
        triggers = supervisor.session.registry.triggers
        triggers[trigger_id] = registration
        self._announce(registration)
        return Trigger(partial(self._withdraw, triggers, registration), trigger_id)

    def register_trigger_type(
        self, trigger_type: RegisterTriggerTypeInput | dict[str, Any], handler: TriggerHandler[Any]
    ) -> TriggerTypeRef[Any, Any]:
        """Become the provider of a trigger type; ``handler`` is told of each binding. A known id is replaced.

        Wire: RegisterTriggerType.   Upstream: III.register_trigger_type.
        """
        supervisor = self._checked()
        wanted = normalise_trigger_type(trigger_type)
        message = RegisterTriggerType(
            wanted.id,
            wanted.description,
            _absent(wanted.trigger_request_format),
            _absent(wanted.call_request_format),
            self._namespace,
        )
        registration = Registration(
            wanted.id,
            encode(message),
            encode(UnregisterTriggerType(wanted.id, self._namespace)),
            partial(_tell, handler),
        )
        with self._registering:
            supervisor.session.registry.trigger_types[wanted.id] = registration
        self._announce(registration)
        return TriggerTypeRef(self, wanted.id)

    def unregister_trigger_type(self, trigger_type: RegisterTriggerTypeInput | dict[str, Any] | str) -> None:
        """Stop providing a trigger type. An unknown id changes nothing.

        Wire: UnregisterTriggerType, since engine 0.25.   Upstream: III.unregister_trigger_type.
        """
        supervisor = self._checked()
        if isinstance(trigger_type, str):
            type_id = trigger_type
        elif isinstance(trigger_type, RegisterTriggerTypeInput):
            type_id = trigger_type.id
        else:
            type_id = trigger_type["id"]
        types = supervisor.session.registry.trigger_types
        registration = types.get(type_id)
        if registration is not None:
            self._withdraw(types, registration)

    # -- calls ---------------------------------------------------------------------------------------------------

    @overload
    def trigger(self, request: dict[str, Any] | TriggerRequest, /) -> Any: ...
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
    ) -> Any: ...
    def trigger(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function and block this thread until it has ended.

        For scripts, threads and sync handlers. On the worker's own loop use ``trigger_async``.

        Args:
            *args: ``{"function_id", "payload", "action", "timeout_ms", "metadata", "namespace"}`` or a
                ``TriggerRequest``; or the function id and the payload.
            **kwargs: The other keys, with the second form.

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
        return self._supervisor.caller.call_blocking(*self._call(request))

    @overload
    async def trigger_async(self, request: dict[str, Any] | TriggerRequest, /) -> Any: ...
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
    ) -> Any: ...
    async def trigger_async(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function and wait for it, on any asyncio or trio loop.

        Cancelling abandons the call: the function is not told, for the protocol has no message for it. A lost
        connection fails the call at once. Arguments, result and errors as ``trigger``.

        Wire: InvokeFunction → InvocationResult.   Upstream: III.trigger_async.
        """
        request = normalise_call(*args, **kwargs)
        return await self._supervisor.caller.call(*self._call(request))

    call = trigger
    call_async = trigger_async

    def _call(self, request: CallRequest) -> tuple[Any, ...]:
        timeout = request.timeout
        if timeout is None:
            timeout = self._supervisor.options.invocation_timeout_ms / 1000
        namespace = request.namespace
        if namespace is None:
            # §4.3: the engine's own functions live in ``default``, whatever the worker's namespace.
            is_engine = request.function_id.startswith(("engine::", "configuration::"))
            namespace = "default" if is_engine else self._namespace
        return request.function_id, request.payload, request.action, timeout, request.metadata, namespace

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
    def worker_id(self) -> str | None:
        """What the engine calls this connection; changes with every reconnect."""
        return self._supervisor.session.worker_id

    @property
    def namespace(self) -> str | None:
        """This worker's namespace; None is the engine's default."""
        return self._namespace

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

    # -- internals -----------------------------------------------------------------------------------------------

    def _checked(self) -> Supervisor:
        self._supervisor.caller.check_usable()
        return self._supervisor

    def _announce(self, registration: Registration) -> None:
        self._supervisor.caller.on_loop(self._announce_now, registration)

    def _announce_now(self, registration: Registration) -> None:
        self._supervisor.session.announce(registration)
        self._supervisor.outbox.flush()

    def _withdraw(self, kind: dict[str, Registration], registration: Registration) -> None:
        with self._registering:  # between look and removal nobody else may register the id anew
            is_current = kind.get(registration.id) is registration
            if is_current:
                del kind[registration.id]
        if is_current:
            self._supervisor.caller.on_loop(self._withdraw_now, registration)

    def _withdraw_now(self, registration: Registration) -> None:
        self._supervisor.session.withdraw(registration)
        self._supervisor.outbox.flush()


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
    address: str | None, options: InitOptions | None, connector: Connector | None
) -> AsyncGenerator[tuple[Supervisor, str | None]]:
    """Run what both faces are made of; yields the supervisor and the worker's namespace."""
    options = options if options is not None else InitOptions()
    if not isinstance(options, InitOptions):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"options must be InitOptions, got {type(options).__name__}")
    if address is not None and not isinstance(address, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"address must be a URL, got {type(address).__name__}; options come second")
    url = resolve_engine_url(address)
    namespace = resolve_namespace(options)
    is_given = connector is not None
    if connector is None:  # in a thread, for the first import of httpx takes some tenths of a second
        connector = await to_thread.run_sync(_socket_connector, url, options)
    project_name = await to_thread.run_sync(find_project_name)
    with worker_name(options) as name:
        supervisor = Supervisor(url, connector, options, identity(name, namespace, project_name, options))
        supervisor.dispatcher.use_channels(_channels(url, options, connector if is_given else None), ReceivedEnds)
        async with supervisor.run():
            yield supervisor, namespace


def _socket_connector(url: str, options: InitOptions) -> Connector:
    # A worker on a DirectWire never needs it.
    from ._wire.connect import websocket_connector

    return websocket_connector(url, **_wire_options(options))


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


async def _tell(
    handler: TriggerHandler[Any], is_bind: bool, id: str, function_id: str, config: Any, metadata: Any,
    namespace: str | None,
) -> None:  # fmt: skip
    """Hand a bind or unbind to the user's trigger-type handler."""
    binding: TriggerConfig[Any] = TriggerConfig(
        id=id, function_id=function_id, config=config, metadata=metadata, namespace=namespace
    )
    call: Callable[[TriggerConfig[Any]], Awaitable[None]]
    call = handler.register_trigger if is_bind else handler.unregister_trigger
    await call(binding)


def _absent(value: Any) -> Any:
    return ABSENT if value is None else value
