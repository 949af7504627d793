"""Registering functions, triggers and trigger types: the part of ``WorkerMethods`` that fills the registry.

A registration is put into the registry on the caller's thread and announced on the worker's loop; the session replays
the registry on every connection.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from ._decorators import Decorators, default_name
from ._dependencies import Dependencies
from ._deprecations import warn_deprecated
from ._exports import Exports
from ._protocol.calls import new_id
from ._protocol.codec import encode
from ._protocol.messages import (
    ABSENT,
    RegisterFunction,
    RegisterService,
    RegisterTriggerType,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)
from ._protocol.messages import RegisterTrigger as RegisterTriggerMessage
from ._protocol.owning import ObservedFunction
from ._protocol.registry import Registration
from ._requests import normalise_service, normalise_trigger, normalise_trigger_type
from ._runtime.binding import Binding, bind
from ._runtime.dispatch import Function
from ._runtime.formats import as_format
from ._runtime.wrapping import Middleware, check_middleware, wrap
from .filter import compile_observers_filter
from .functions import FunctionOptions, FunctionRef, RegisterFunctionFormat
from .http import HttpInvocationConfig, as_invocation
from .introspection import RegisterServiceInput  # noqa: TC001 - annotations of the public API resolve
from .observe_types import ObserveHooks, describe_hooks
from .trigger import (
    RegisterTriggerInput,
    RegisterTriggerTypeInput,
    Trigger,
    TriggerConfig,
    TriggerHandler,
    TriggerTypeRef,
)
from .triggers import TypedTrigger

if TYPE_CHECKING:
    from ._runtime.supervisor import Supervisor

__all__ = ("Registering",)

_Format = RegisterFunctionFormat | dict[str, Any] | None


class Registering(Decorators):
    """What a worker exports."""

    def __init__(self, supervisor: Supervisor, namespace: str | None) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._namespace = namespace
        self._registering = threading.Lock()
        self._dependencies = Dependencies(self)
        self._hints: dict[str, Any] | None = None
        self._middleware: list[Middleware] = []

    # -- functions -----------------------------------------------------------------------------------------------

    def register_function(
        self,
        function_id: str,
        handler_or_invocation: Callable[..., Any] | HttpInvocationConfig,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        request_format: _Format = None,
        response_format: _Format = None,
        validate: bool | None = None,
        execution: Literal["async", "thread", "process"] | None = None,
        concurrency: int | None = None,
        on_disconnect: Literal["finish", "cancel"] | None = None,
        middleware: Sequence[Middleware] = (),
        observe: ObserveHooks | dict[str, Any] | None = None,
        local_dispatch: bool = True,
    ) -> FunctionRef:
        """Serve a function under an id of this worker's namespace.

        Args:
            function_id: Convention ``service::name``.
            handler_or_invocation: An async function (runs as a task), a sync function (runs in a thread), or where
                the engine finds the function over HTTP.
            description: Shown by discovery.
            metadata: Shown by discovery; ``{"internal": True}`` hides the function there.
            request_format: JSON Schema of the input; by default taken from the annotation of the payload's parameter.
            response_format: JSON Schema of the result; by default taken from the return annotation.
            validate: Check input and result against the annotations; by default where there are any.
            execution: Run a plain function on the loop (``async``), in a ``thread`` or in a ``process`` of its own; by
                default in a thread. For a process it has to be importable, and gets nothing but payload and metadata.
            concurrency: Handlers of this function running at once; by default only the worker's limit holds.
            on_disconnect: What happens to running handlers when the link drops; by default the worker's option.
            middleware: What runs around this handler only, outermost first; see ``middleware``.
            observe: How its observers are served, and hooks that are told of them; see ``ObserveHooks``.
            local_dispatch: Whether calls that this worker makes itself may stay in this process, when the engine
                allows it.

        The payload goes to the first parameter whose annotation asks for nothing else; ``State``, ``Logger``,
        ``Context``, ``Invocation``, ``Annotated[Stream, "name"]`` and ``Worker`` are filled in by annotation.

        Returns:
            A handle whose ``unregister()`` withdraws the function.

        Raises:
            TypeError: The id is no string, the handler is not callable, or nothing provides one of its parameters.
            ValueError: The id is blank or taken on this worker.
            InvocationError: ``INVALID_OBSERVE_DESCRIPTOR``.

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
        if execution not in {None, "async", "thread", "process"}:
            raise ValueError(f"execution must be 'async', 'thread' or 'process', got {execution!r}")
        if on_disconnect not in {None, "finish", "cancel"}:
            raise ValueError(f"on_disconnect must be 'finish' or 'cancel', got {on_disconnect!r}")
        hooks = ObserveHooks.from_value(observe) or ObserveHooks()
        descriptor = describe_hooks(function_id, hooks)
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
                inject=self._dependencies.inject,
                hints=self._hints,
            )
            if execution == "process":
                from ._runtime.processes import in_process  # late: few workers have such functions

                binding = in_process(binding, supervisor.dispatcher.processes, supervisor.dispatcher.instrument)
        for entry in middleware:
            check_middleware(entry)
        message = RegisterFunction(
            function_id,
            description,
            _absent(binding.request_format if binding else request_format and as_format(request_format)),
            _absent(binding.response_format if binding else response_format and as_format(response_format)),
            _absent(metadata),
            invocation,
            descriptor,
        )
        observed = ObservedFunction(
            function_id,
            compile_observers_filter,
            delivery="owner" if hooks.delivery == "owner" else "auto",
            on_added=hooks.on_observer_added,
            on_removed=hooks.on_observer_removed,
            allow_local=local_dispatch and binding is not None,
        )
        function = Function(
            function_id, binding, concurrency, on_disconnect or supervisor.options.on_disconnect, observed
        )
        registration = Registration(function_id, encode(message), encode(UnregisterFunction(function_id)), function)
        functions = supervisor.session.registry.functions
        with self._registering:
            if binding is not None and (binding.enter is not None or middleware or self._middleware):
                function.binding = wrap(binding, middleware, self._middleware, supervisor.dispatcher.threads)
            supervisor.session.registry.add_function(registration)
        self._announce(registration)
        return FunctionRef(
            function_id,
            partial(self._withdraw, functions, registration),
            partial(supervisor.owning.observers, observed),
        )

    # -- triggers ------------------------------------------------------------------------------------------------

    @overload
    def register_trigger(self, trigger: RegisterTriggerInput | dict[str, Any]) -> Trigger: ...
    @overload
    def register_trigger(
        self,
        trigger: TypedTrigger,
        function_id: str,
        *,
        metadata: Any = None,
        namespace: str | None = None,
        trigger_namespace: str | None = None,
    ) -> Trigger: ...
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
        """Bind a function to a trigger: ``register_trigger("cron", "tick", {"expression": "@hourly"})``.

        A typed trigger, such as ``CronTrigger(expression=…)`` of ``iii_anyio.triggers``, stands for type and config.
        The engine is silent about success; ``wait_ready`` raises when the provider refused.

        .. deprecated:: 0.25.0
            One request, ``{"type", "function_id", "config", …}`` or a ``RegisterTriggerInput``, raises upstream's
            ``DeprecationWarning``. Separate arguments and typed triggers do not.

        Raises:
            ValueError: A required field is missing or a namespace is blank.

        Wire: RegisterTrigger.   Upstream: III.register_trigger.
        """
        supervisor = self._checked()
        if not isinstance(args[0] if args else kwargs.get("trigger", ""), str | TypedTrigger):
            warn_deprecated("register_trigger")
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

    @overload
    def register_trigger_type(
        self, trigger_type: RegisterTriggerTypeInput | dict[str, Any], handler: TriggerHandler[Any]
    ) -> TriggerTypeRef[Any, Any]: ...
    @overload
    def register_trigger_type(
        self,
        id: str,
        description: str,
        handler: TriggerHandler[Any],
        *,
        trigger_request_format: Any = None,
        call_request_format: Any = None,
    ) -> TriggerTypeRef[Any, Any]: ...
    def register_trigger_type(self, *args: Any, **kwargs: Any) -> TriggerTypeRef[Any, Any]:
        """Become the provider of a trigger type; ``handler`` is told of each binding. A known id is replaced.

        The formats are types, or JSON Schemas: of a trigger's config, and of what its functions are called with.

        .. deprecated:: 0.25.0
            One request, ``{"id", "description", …}`` or a ``RegisterTriggerTypeInput``, raises upstream's
            ``DeprecationWarning``. Separate arguments do not.

        Raises:
            ValueError: A required field is missing.

        Wire: RegisterTriggerType.   Upstream: III.register_trigger_type.
        """
        supervisor = self._checked()
        if not isinstance(args[0] if args else kwargs.get("id"), str):
            warn_deprecated("register_trigger_type")
        wanted, handler = normalise_trigger_type(*args, **kwargs)
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

        .. deprecated:: 0.25.0
            A dict or a ``RegisterTriggerTypeInput`` raises upstream's ``DeprecationWarning``, an id does not.

        Wire: UnregisterTriggerType, since engine 0.25.   Upstream: III.unregister_trigger_type.
        """
        supervisor = self._checked()
        if isinstance(trigger_type, str):
            type_id = trigger_type
        else:
            warn_deprecated("unregister_trigger_type")
            type_id = trigger_type["id"] if isinstance(trigger_type, Mapping) else trigger_type.id
        types = supervisor.session.registry.trigger_types
        registration = types.get(type_id)
        if registration is not None:
            self._withdraw(types, registration)

    @overload
    def register_service(self, service: RegisterServiceInput | dict[str, Any]) -> None: ...
    @overload
    def register_service(self, id: str, description: str | None = None, parent_id: str | None = None) -> None: ...
    def register_service(self, *args: Any, **kwargs: Any) -> None:
        """Declare a name to group functions under. The engine notes it, and does nothing with it.

        Releases of the SDK up to 0.12 had it, with one ``RegisterServiceInput`` or dict from 0.9 on. A service cannot
        be taken back; a known id is replaced.

        Raises:
            ValueError: The id is missing.

        Wire: RegisterService.
        """
        supervisor = self._checked()
        wanted = normalise_service(*args, **kwargs)
        message = RegisterService(wanted.id, wanted.name or wanted.id, wanted.description, wanted.parent_service_id)
        registration = Registration(wanted.id, encode(message), b"")
        supervisor.session.registry.services[wanted.id] = registration
        self._announce(registration)

    def exports(self) -> Exports:
        """What is registered here to be taken back as a whole. For ``App``."""

        def view(dependencies: Dependencies, hints: dict[str, Any] | None) -> Registering:
            worker = copy(self)
            worker._dependencies, worker._hints = dependencies, hints
            return worker

        return Exports(self._checked(), self._dependencies, view)

    # -- what the decorators do ----------------------------------------------------------------------------------

    def _add_function(
        self, function_id: str | None, handler: Callable[..., Any], metadata: Any, options: FunctionOptions
    ) -> str:
        function_id = function_id if function_id is not None else default_name(handler)
        return self.register_function(function_id, handler, metadata=metadata, **options).id

    def _add_trigger(self, function: str, trigger: TypedTrigger, metadata: Any, trigger_namespace: str | None) -> None:
        self.register_trigger(trigger, function, metadata=metadata, trigger_namespace=trigger_namespace)

    def _add_middleware(self, middleware: Middleware) -> None:
        with self._registering:
            self._middleware.append(middleware)
            for registration in self._checked().session.registry.functions.values():
                function: Function = registration.target
                if function.binding is not None and not function.binding.is_wrapped:
                    threads = self._supervisor.dispatcher.threads
                    function.binding = wrap(function.binding, (), self._middleware, threads)

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
            if isinstance(registration.target, Function) and registration.target.observed is not None:
                registration.target.observed.local_dispatch = False  # at once, also when this is another thread
            self._supervisor.caller.on_loop(self._withdraw_now, registration)

    def _withdraw_now(self, registration: Registration) -> None:
        self._supervisor.session.withdraw(registration)
        if isinstance(registration.target, Function) and registration.target.observed is not None:
            self._supervisor.owning.withdrawn(registration.target.observed)
        self._supervisor.outbox.flush()


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
