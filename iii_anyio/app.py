"""``App`` and ``Router``: declare functions at import time, connect later.

An app is declared once and may be attached to any number of workers, one after another or at once: what a declaration
needs of a worker is made when it is attached. Below: the decorators, ``_dependencies``, the worker's ``exports``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import anyio

from ._decorators import Decorators, default_name
from ._dependencies import Dependencies, Provider, Scope, provider_of
from ._runtime.signature import hints_of
from ._runtime.wrapping import CallNext, Middleware, MiddlewareInvocation, check_middleware
from .client import IIIClient, hosted
from .errors import WorkerStateError
from .functions import FunctionOptions
from .options import InitOptions
from .triggers import TypedTrigger
from .worker import Worker, WorkerMethods, open_worker

if TYPE_CHECKING:
    from .abc import Connector

__all__ = ("App", "CallNext", "Middleware", "MiddlewareInvocation", "Router")

T = TypeVar("T")

_LAST_WORDS = 2.0
"""Seconds that cancelled handlers get before what they use is taken away."""


@dataclass(slots=True, eq=False)
class _Bound:
    trigger: TypedTrigger
    metadata: Any
    trigger_namespace: str | None


@dataclass(slots=True, eq=False)
class _Declared:
    """A function as it was declared."""

    function_id: str | None
    handler: Callable[..., Any]
    metadata: Any
    options: FunctionOptions
    hints: dict[str, Any] | None
    """Its annotations; None when they did not resolve there, as for a type that comes later in the module."""
    triggers: list[_Bound] = field(default_factory=list[_Bound])


class Router(Decorators):
    """Functions that belong together, to be included in an ``App`` or another router.

    Args:
        prefix: Of the ids of all its functions, given ones too: ``shop::`` makes ``shop::create`` of ``create``.
        middleware: Around its handlers, outermost first.
        dependencies: For its handlers; see ``dependency``.
    """

    def __init__(
        self, prefix: str = "", *, middleware: Iterable[Middleware] = (), dependencies: Iterable[Any] = ()
    ) -> None:
        super().__init__()
        self.prefix: str = prefix
        self._functions: list[_Declared] = []
        self._included: list[tuple[str, Router]] = []
        self._around: list[Middleware] = []
        self._providers: dict[Any, Provider] = {}
        for entry in middleware:
            self.middleware(entry)
        for entry in dependencies:
            self.dependency(entry)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.prefix!r}>"

    def include(self, router: Router, *, prefix: str = "") -> None:
        """Take over another router's functions, those it gets later too; ``prefix`` goes in front of its own.

        Its middleware and dependencies stay its own, inside those of this one.
        """
        if isinstance(router, App):
            raise TypeError(f"{router!r} is an app; what is to be included is a Router")
        if any(inner is self for inner in router._all()):
            raise ValueError(f"{router!r} cannot be included here: it includes {self!r}")
        self._included.append((prefix, router))

    @overload
    def dependency(self, provider: T, /, *, provides: Any = None, scope: Scope = "invocation") -> T: ...
    @overload
    def dependency(self, /, *, provides: Any = None, scope: Scope = "invocation") -> Callable[[T], T]: ...
    def dependency(self, provider: Any = None, /, *, provides: Any = None, scope: Scope = "invocation") -> Any:
        """Let handlers ask for something by annotation; also a decorator.

        Args:
            provider: A class, made with what its constructor asks for; a function, sync or async, that says by its
                return annotation what it makes; a generator function, sync or async, that yields one value and cleans
                up when the handler has ended; or the value itself. Providers may ask for dependencies themselves.
                Sync ones run on the event loop, so they must not block.
            provides: The annotation that asks for it, where that is another one.
            scope: Made for each ``invocation`` that asks, or once per ``app``, when it is attached.

        Raises:
            TypeError: What it provides is not clear, or could be taken for a payload.
            ValueError: There is one for that annotation already.
        """
        if provider is None:
            return partial(self.dependency, provides=provides, scope=scope)
        made = provider_of(provider, provides, scope)
        if made.provides in self._providers:
            raise ValueError(f"{self._providers[made.provides].name} provides {made.provides!r} already")
        self._providers[made.provides] = made
        return provider

    # -- what is declared ----------------------------------------------------------------------------------------

    def _all(self) -> Iterator[Router]:
        yield self
        for _, router in self._included:
            yield from router._all()

    def _functions_below(self, prefix: str) -> Iterator[tuple[str, _Declared]]:
        for declared in self._functions:
            yield self._full_id(declared, prefix), declared
        for inner, router in self._included:
            yield from router._functions_below(prefix + inner + router.prefix)

    def _full_id(self, declared: _Declared, prefix: str) -> str:
        return prefix + (default_name(declared.handler) if declared.function_id is None else declared.function_id)

    async def _export(
        self, prefix: str, outer: Sequence[Middleware], parent: Dependencies, stack: AsyncExitStack, exports: Any
    ) -> None:
        """Make what lives as long as the app, and register everything."""
        dependencies = parent.child(self._providers) if self._providers else parent
        if self._providers:
            await dependencies.enter_app_scope(stack)
        around = [*outer, *self._around]
        for declared in self._functions:
            function_id = self._full_id(declared, prefix)
            options: dict[str, Any] = {**declared.options, "metadata": declared.metadata}
            options["middleware"] = [*around, *declared.options.get("middleware", ())]
            exports.add(function_id, declared.handler, dependencies, declared.hints, **options)
            for bound in declared.triggers:
                exports.bind(
                    bound.trigger, function_id, metadata=bound.metadata, trigger_namespace=bound.trigger_namespace
                )
        for inner, router in self._included:
            await router._export(prefix + inner + router.prefix, around, dependencies, stack, exports)

    def _add_function(
        self, function_id: str | None, handler: Callable[..., Any], metadata: Any, options: FunctionOptions
    ) -> _Declared:
        if not callable(handler):  # pyright: ignore[reportUnnecessaryComparison]
            raise TypeError(f"a handler must be callable, not {handler!r}")
        if function_id is None:
            default_name(handler)
        for entry in options.get("middleware", ()):
            check_middleware(entry)
        declared = _Declared(function_id, handler, metadata, options, hints_of(handler))
        self._functions.append(declared)
        return declared

    def _add_trigger(
        self, function: _Declared, trigger: TypedTrigger, metadata: Any, trigger_namespace: str | None
    ) -> None:
        function.triggers.append(_Bound(trigger, metadata, trigger_namespace))

    def _add_middleware(self, middleware: Middleware) -> None:
        self._around.append(middleware)


class App(Router):
    """A declared application: functions, triggers, middleware, dependencies and a lifespan.

    ``iii-anyio run module:app`` serves it, and so does ``app.run()``; ``attach`` adds it to a worker that is open.
    Functions without an id of their own are called ``app name::function name``; given ids stay as they are, and those
    of routers begin with the routers' prefixes only.

    Args:
        name: Of the app.
        lifespan: An async generator function, or what ``@asynccontextmanager`` makes of one: it starts what the app
            needs, yields once, and cleans up when nothing runs any more. It may ask for ``App``, ``Worker``, ``State``
            and values among ``dependencies`` by annotation; what it yields can be asked for by its type.
        middleware: Around all handlers, outermost first.
        dependencies: For all handlers; see ``dependency``.
        options: Of the worker that ``serve`` and ``run`` open.
    """

    def __init__(
        self,
        name: str,
        *,
        lifespan: Callable[..., Any] | None = None,
        middleware: Iterable[Middleware] = (),
        dependencies: Iterable[Any] = (),
        options: InitOptions | None = None,
    ) -> None:
        if not name.strip():
            raise ValueError("an app needs a name")
        super().__init__(middleware=middleware, dependencies=dependencies)
        self.name: str = name
        self.options: InitOptions | None = options
        self._lifespan = lifespan

    def __repr__(self) -> str:
        return f"<App {self.name}>"

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The handlers by function id, those of routers included."""
        found: dict[str, Callable[..., Any]] = {}
        for function_id, declared in self._functions_below(""):
            if found.setdefault(function_id, declared.handler) is not declared.handler:
                raise ValueError(f"two handlers for {function_id!r}: {found[function_id]!r} and {declared.handler!r}")
        return found

    @overload
    def attach(self, iii: Worker) -> AbstractAsyncContextManager[Worker]: ...
    @overload
    def attach(self, iii: IIIClient) -> AbstractContextManager[IIIClient]: ...
    def attach(self, iii: Any) -> Any:
        """Serve the app on an open worker: ``async with app.attach(worker)``, or ``with app.attach(client)``.

        Entering runs the lifespan, makes what lives as long as the app, and registers everything. Leaving takes it
        back, lets running handlers finish (``shutdown_timeout``), and cleans up. A client's app is cleaned up at the
        latest when the client has shut down.

        Raises:
            TypeError: Nothing provides a parameter of a handler, or something else was declared wrongly.
            ValueError: A function id is taken.
        """
        if isinstance(iii, IIIClient):
            return hosted(iii, self._attached(iii))
        if not isinstance(iii, Worker):
            raise TypeError(f"an app is attached to a Worker or an IIIClient, not to {iii!r}")
        return self._attached(iii)

    @asynccontextmanager
    async def _attached(self, iii: WorkerMethods) -> AsyncGenerator[Any]:
        exports = iii.exports()
        if not exports.is_on_loop():
            raise WorkerStateError("attach the app in the event loop that the worker runs in")
        _ = self.functions  # complains of ids that are there twice
        async with AsyncExitStack() as stack:
            dependencies = exports.built_in.child({App: provider_of(self, App)})
            await dependencies.enter_app_scope(stack)
            if self._lifespan is not None:
                await dependencies.enter_lifespan(self._lifespan, stack)
            try:
                await self._export("", (), dependencies, stack, exports)
                yield iii
            except BaseException:
                exports.withdraw()
                await exports.drain(_LAST_WORDS)
                raise
            exports.withdraw()
            await exports.drain()

    def _full_id(self, declared: _Declared, prefix: str) -> str:
        own = super()._full_id(declared, prefix)
        return f"{self.name}::{own}" if declared.function_id is None else own

    async def serve(self, address: str | None = None, *, connector: Connector | None = None) -> None:
        """Open a worker and serve until cancelled, SIGINT or SIGTERM; then drain and clean up.

        Args:
            address: URL of the engine; default ``III_URL``, else ``ws://127.0.0.1:49134``.
            connector: As for ``open_worker``.

        Raises:
            RegistrationRejectedError: The engine refuses the worker.
            ConnectError: The retries are used up.
        """
        options = self.options if self.options is not None else InitOptions(worker_description=self.name)
        async with open_worker(address, options, connector=connector) as iii, self.attach(iii):
            await iii.serve()

    def run(self, address: str | None = None, *, backend: Literal["asyncio", "trio"] = "asyncio") -> None:
        """Serve the app in an event loop of its own, until SIGINT or SIGTERM. For scripts."""
        anyio.run(self.serve, address, backend=backend)
