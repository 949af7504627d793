"""Dependencies of handlers, by annotation: who provides what, and the plan for each handler.

Everything is decided when a handler is registered. What is known by then (the worker, ``State``, what lives as long as
the app) is a constant of the handler; the rest is a short plan that runs once per invocation. Nothing is looked up
while an invocation runs, and a handler without dependencies pays nothing.

Below: ``_runtime/injection``, the seam to ``binding``. Above: the worker, which has the built-in ones, and ``app.py``.
"""

from __future__ import annotations

import inspect
from collections import abc
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args, get_origin

from ._runtime.context import Invocation, running_invocation
from ._runtime.formats import parameters_of, resolve_hints
from ._runtime.injection import Inject, Injection
from ._runtime.signature import unwrap_partial
from .context import Context, get_context
from .invocation_context import InvocationContext, current_invocation
from .observability import Logger
from .state import State
from .stream import Stream

__all__ = ("Dependencies", "Provider", "Scope", "provider_of")

Scope: TypeAlias = Literal["invocation", "app"]

_YIELDING: Final[tuple[Any, ...]] = (
    abc.AsyncGenerator,
    abc.AsyncIterable,
    abc.AsyncIterator,
    abc.Generator,
    abc.Iterable,
    abc.Iterator,
)
_PAYLOADS: Final[tuple[Any, ...]] = (
    Any, bool, bytes, dict, float, int, list, object, set, str, tuple, type(None),
)  # fmt: skip
"""Types that payloads have. A dependency of such a type would be taken for one."""
_COMPUTED: Final[dict[Any, Callable[[], Any]]] = {
    Context: get_context,
    Invocation: running_invocation,
    InvocationContext: current_invocation,
    Logger: lambda: get_context().logger,
}
"""What the running invocation knows."""


# -- who provides ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    """One way to come by values of a type."""

    provides: Any
    """The annotation that asks for it."""
    make: Callable[..., Any]
    parameters: Mapping[str, Any]
    """Annotations of what it depends on itself."""
    required: frozenset[str]
    """Those of them without a default."""
    is_awaited: bool
    is_entered: bool
    """``make`` returns an async context manager."""
    scope: Scope
    name: str

    async def value(self, stack: AsyncExitStack, arguments: dict[str, Any]) -> Any:
        """Make one."""
        made = self.make(**arguments)
        if self.is_entered:
            return await stack.enter_async_context(made)
        return await made if self.is_awaited else made


def provider_of(target: Any, provides: Any = None, scope: Scope = "invocation") -> Provider:
    """Read a class, a function, a generator function or a value.

    Args:
        target: A class is called, a function too and awaited if need be, a generator function yields one value and
            goes on when it is not needed any more; anything else is the value itself.
        provides: The annotation that asks for it; by default the class, or what the function returns or yields.
        scope: Made for each ``invocation``, or once per ``app``.

    Raises:
        TypeError: Nothing tells what is provided, or it has a type that payloads have.
    """
    if scope not in {"invocation", "app"}:
        raise ValueError(f"scope must be 'invocation' or 'app', got {scope!r}")
    inner = unwrap_partial(target)
    is_class = inspect.isclass(inner)
    if not is_class and not inspect.isroutine(inner):
        kind: type[Any] = inner.__class__
        return _checked(
            Provider(provides or kind, lambda: target, {}, frozenset(), False, False, "app", kind.__qualname__)
        )
    name = getattr(inner, "__qualname__", repr(inner))
    hints = resolve_hints(inner.__init__ if is_class else inner, include_extras=True)
    if hints is None:
        if getattr(inner, "__annotations__", None) and not is_class:
            raise TypeError(f"the annotations of {name} do not resolve: import their types at run time")
        hints = {}
    parameters = [
        parameter
        for parameter in parameters_of(target) or ()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    make, is_entered = _as_context_manager(target, inner)
    if provides is None:
        provides = inner if is_class else _result(hints.get("return"), is_entered)
    if provides is None:
        raise TypeError(f"{name} does not say what it provides: annotate what it returns or yields, or give provides=")
    return _checked(
        Provider(
            provides,
            make,
            {parameter.name: hints.get(parameter.name) for parameter in parameters},
            frozenset(parameter.name for parameter in parameters if parameter.default is parameter.empty),
            inspect.iscoroutinefunction(inner),
            is_entered,
            scope,
            name,
        )
    )


def _checked(provider: Provider) -> Provider:
    if _is_payload(provider.provides):
        raise TypeError(
            f"{provider.name} provides {provider.provides!r}, which a payload could be as well; make it a class of its "
            "own, or provides=Annotated[..., 'name'] and ask for that"
        )
    return provider


def _is_payload(annotation: Any) -> bool:
    """Whether this annotation could as well be that of a payload, and so cannot ask for a dependency."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return False
    return annotation is None or any((annotation if origin is None else origin) is kind for kind in _PAYLOADS)


def _as_context_manager(target: Callable[..., Any], inner: Any) -> tuple[Callable[..., Any], bool]:
    if inspect.isasyncgenfunction(inner):
        return asynccontextmanager(target), True
    if inspect.isgeneratorfunction(inner):
        return _entered_later(contextmanager(target)), True
    wrapped = inspect.unwrap(inner)
    if wrapped is not inner and inspect.isasyncgenfunction(wrapped):  # somebody wrote @asynccontextmanager
        return target, True
    if wrapped is not inner and inspect.isgeneratorfunction(wrapped):
        return _entered_later(target), True
    return target, False


def _entered_later(make: Callable[..., Any]) -> Callable[..., Any]:
    @asynccontextmanager
    async def manager(**arguments: Any) -> abc.AsyncGenerator[Any]:
        with make(**arguments) as value:
            yield value

    return manager


def _result(annotation: Any, is_yielded: bool) -> Any:
    if is_yielded and get_origin(annotation) in _YIELDING:
        return get_args(annotation)[0]
    return None if is_yielded else annotation


class _Lifespan:
    """What nobody asks for."""


# -- the plan --------------------------------------------------------------------------------------------------------


class _Constant(NamedTuple):
    value: Any


class _Computed(NamedTuple):
    make: Callable[[], Any]


@dataclass(slots=True, eq=False)
class _Made:
    """Made for each invocation, once, whoever asks."""

    provider: Provider
    arguments: dict[str, _Source]


_Source: TypeAlias = _Constant | _Computed | _Made


async def _value(source: _Source, stack: AsyncExitStack, made: dict[_Made, Any]) -> Any:
    if isinstance(source, _Constant):
        return source.value
    if isinstance(source, _Computed):
        return source.make()
    if source not in made:
        arguments = {name: await _value(needed, stack, made) for name, needed in source.arguments.items()}
        made[source] = await source.provider.value(stack, arguments)
    return made[source]


class Dependencies:
    """What handlers of one worker can ask for: the built-in ones, and in a child what an app or router adds."""

    def __init__(self, iii: object, parent: Dependencies | None = None) -> None:
        self._iii = iii
        self._parent = parent
        self._providers: dict[Any, Provider] = {}
        self._sources: dict[Any, _Source] = {}
        self._under_way: list[Provider] = []

    def child(self, providers: Mapping[Any, Provider]) -> Dependencies:
        """With these in front of what there is."""
        child = Dependencies(self._iii, self)
        child._providers.update(providers)
        return child

    @property
    def inject(self) -> Inject:
        """For ``bind``."""
        return self._inject

    def _inject(self, function_id: str, annotations: Mapping[str, Any]) -> Injection | None:
        sources: dict[str, _Source] = {}
        for name, annotation in annotations.items():
            try:
                source = self._find(annotation)
            except TypeError as exc:
                exc.add_note(f"for the parameter {name!r} of the handler of {function_id!r}")
                raise
            if source is not None:
                sources[name] = source
        if not sources:
            return None
        made = {name: source for name, source in sources.items() if isinstance(source, _Made)}

        async def enter(stack: AsyncExitStack) -> dict[str, Any]:
            done: dict[_Made, Any] = {}
            return {name: await _value(source, stack, done) for name, source in made.items()}

        return Injection(
            {name: source.value for name, source in sources.items() if isinstance(source, _Constant)},
            {name: source.make for name, source in sources.items() if isinstance(source, _Computed)},
            frozenset(made),
            enter if made else None,
        )

    async def enter_app_scope(self, stack: AsyncExitStack) -> None:
        """Make what lives as long as the app; it is left with the stack."""
        for provider in self._providers.values():
            if provider.scope == "app":
                await self._enter(provider, stack)

    async def enter_lifespan(self, lifespan: Callable[..., Any], stack: AsyncExitStack) -> None:
        """Begin a lifespan; what it yields can be asked for by its type, or as it says by annotation."""
        provider = provider_of(lifespan, _Lifespan, "app")
        if not provider.is_entered:
            raise TypeError(f"the lifespan {provider.name} is no async generator: start, 'yield' once, then clean up")
        value = await self._enter(provider, stack)
        if value is None:
            return
        hints = resolve_hints(inspect.unwrap(unwrap_partial(lifespan)), include_extras=True) or {}
        kind: type[Any] = value.__class__
        askable = [
            annotation for annotation in (_result(hints.get("return"), True), kind) if not _is_payload(annotation)
        ]
        if not askable:
            raise TypeError(
                f"the lifespan {provider.name} yields a {kind.__name__}, which a payload could be as well; yield an "
                "object of a class of its own"
            )
        self._sources.update(dict.fromkeys(askable, _Constant(value)))

    async def _enter(self, provider: Provider, stack: AsyncExitStack) -> Any:
        known = self._sources.get(provider.provides)
        if isinstance(known, _Constant):
            return known.value
        with self._asking(provider):
            for needed in provider.parameters.values():
                other = self._providers.get(needed) if _is_hashable(needed) else None
                if other is not None and other.scope == "app":
                    await self._enter(other, stack)
        made = self._made(provider)
        arguments: dict[str, Any] = {}
        for name, source in made.arguments.items():
            if isinstance(source, _Made):
                raise TypeError(
                    f"{provider.name} lives as long as the app, but its parameter {name!r} is made for each invocation"
                )
            arguments[name] = await _value(source, stack, {})
        value = await provider.value(stack, arguments)
        self._sources[provider.provides] = _Constant(value)
        return value

    def _find(self, annotation: Any) -> _Source | None:
        if not _is_hashable(annotation):
            return None
        source = self._own(annotation)
        if source is None and self._parent is not None:
            source = self._parent._find(annotation)
        elif source is None:
            source = self._built_in(annotation)
        if source is None and get_origin(annotation) is Annotated and not _is_payload(get_args(annotation)[0]):
            source = self._find(get_args(annotation)[0])
        return source

    def _own(self, annotation: Any) -> _Source | None:
        source = self._sources.get(annotation)
        provider = self._providers.get(annotation)
        if source is None and provider is not None:
            if provider.scope == "app":
                raise TypeError(f"{provider.name} lives as long as its app, which has not made it")
            source = self._made(provider)
            self._sources[annotation] = source
        return source

    def _made(self, provider: Provider) -> _Made:
        arguments: dict[str, _Source] = {}
        with self._asking(provider):
            for name, annotation in provider.parameters.items():
                source = self._find(annotation) if annotation is not None else None
                if source is not None:
                    arguments[name] = source
                elif name in provider.required:
                    raise TypeError(f"nothing provides the parameter {name!r} of {provider.name}")
        return _Made(provider, arguments)

    @contextmanager
    def _asking(self, provider: Provider) -> abc.Generator[None]:
        if provider in self._under_way:
            raise TypeError(f"{provider.name} depends on itself, by way of {self._under_way[-1].name}")
        self._under_way.append(provider)
        try:
            yield
        finally:
            self._under_way.pop()

    def _built_in(self, annotation: Any) -> _Source | None:
        from .worker import WorkerMethods  # which is made of what uses this module

        make = _COMPUTED.get(annotation)
        if make is not None:
            return _Computed(make)
        if annotation is State:
            return _Constant(State(cast("WorkerMethods", self._iii)))
        if annotation is Stream:
            raise TypeError("which stream? Annotate the parameter as Annotated[Stream, 'name of the stream']")
        if get_origin(annotation) is Annotated:
            kind, name, *_ = get_args(annotation)
            if kind is Stream and isinstance(name, str):
                return _Constant(Stream(cast("WorkerMethods", self._iii), name))
            return None
        if isinstance(annotation, type) and issubclass(annotation, WorkerMethods):
            if not isinstance(self._iii, annotation):
                raise TypeError(
                    f"the handler asks for {annotation.__name__}, but is served by {type(self._iii).__name__}; "
                    "iii_anyio.worker.WorkerMethods stands for both"
                )
            return _Constant(self._iii)
        return None


def _is_hashable(annotation: Any) -> bool:
    try:
        hash(annotation)
    except TypeError:
        return False
    return True
