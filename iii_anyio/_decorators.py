"""The decorators that register functions and bind them to triggers: the same on workers, apps and routers.

A decorated function stays what it is. One function may have several triggers: decorators apply from the bottom up, the
lowest registers the function, those above bind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

from ._runtime.wrapping import Middleware, check_middleware
from .functions import FunctionOptions  # noqa: TC001 - annotations of the public API resolve
from .http import HttpMethod  # noqa: TC001 - as above
from .triggers import (
    CronTrigger,
    HttpTrigger,
    QueueConfig,
    QueueTrigger,
    StateTrigger,
    StreamTrigger,
    SubscribeTrigger,
    TypedTrigger,
)

__all__ = ("Decorators", "default_name")

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
MiddlewareT = TypeVar("MiddlewareT", bound=Middleware)


@dataclass(slots=True)
class _Decorated:
    handler: Callable[..., Any]
    function_id: str | None
    function: Any
    is_implied: bool
    """By a trigger's decorator."""


class Decorators:
    """Declares functions, their triggers and what is around them."""

    def __init__(self) -> None:
        self._decorated: dict[int, _Decorated] = {}

    # -- functions and what is around them -----------------------------------------------------------------------

    def function(
        self, function_id: str | None = None, *, metadata: Any = None, **options: Unpack[FunctionOptions]
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to register it as a function.

        Beneath the decorators of triggers, if there are any.

        Args:
            function_id: By default the function's name; in an ``App``, ``app name::name``.
            metadata: Shown by discovery.
            **options: Those of ``register_function``; ``description`` is by default the docstring's first paragraph.
        """
        _check_id(function_id, "function")

        def decorate(handler: HandlerT) -> HandlerT:
            known = self._decorated.get(id(handler))
            if known is not None and known.is_implied:
                raise ValueError(
                    f"@function(...) has to stand beneath the decorators of triggers: {default_name(handler)!r} was "
                    "registered by one of those already"
                )
            self._decorate(handler, function_id, metadata, options, is_implied=False)
            return handler

        return decorate

    def middleware(self, middleware: MiddlewareT) -> MiddlewareT:
        """Decorate a coroutine function to run around every handler; it takes ``call_next`` and the invocation.

        It runs on the event loop, also around sync handlers, sees the payload before validation and what is sent after
        it, and may answer or raise by itself. The first one is outermost; a worker's are around an app's, those around
        a router's, and those around a function's own.
        """
        check_middleware(middleware)
        self._add_middleware(middleware)
        return middleware

    # -- triggers ------------------------------------------------------------------------------------------------

    def on_trigger(
        self,
        trigger: TypedTrigger,
        *,
        function_id: str | None = None,
        metadata: Any = None,
        trigger_namespace: str | None = None,
        **options: Unpack[FunctionOptions],
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to run when a trigger of any type fires. The other decorators are short for this one.

        Args:
            trigger: Type and config, such as ``LogTrigger(level="error")``.
            function_id: By default that of the decorator beneath, else the function's name as in ``function``.
            metadata: Delivered beside the payload of every call the trigger makes, where its type does so.
            trigger_namespace: Where the provider of the type is.
            **options: Those of ``register_function``, where this decorator is the lowest.
        """
        _check_id(function_id, "on_trigger")
        if not isinstance(trigger, TypedTrigger):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a trigger is a TypedTrigger such as HttpTrigger(...), not {trigger!r}")

        def decorate(handler: HandlerT) -> HandlerT:
            known = self._decorated.get(id(handler))
            if known is None or function_id not in {None, known.function_id}:
                known = self._decorate(handler, function_id, None, options, is_implied=True)
            elif options:
                raise ValueError(
                    f"{default_name(handler)!r} is registered by the decorator beneath; its options belong there: "
                    f"{', '.join(options)}"
                )
            self._add_trigger(known.function, trigger, metadata, trigger_namespace)
            return handler

        return decorate

    def http(
        self,
        method: HttpMethod,
        path: str,
        *,
        condition_function_id: str | None = None,
        middleware_function_ids: Sequence[str] | None = None,
        function_id: str | None = None,
        metadata: Any = None,
        **options: Unpack[FunctionOptions],
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to serve a route, e.g. ``@iii.http("POST", "/orders/:id")``.

        It gets an ``ApiRequest``; ``ApiRequest[Order]`` validates the body. See ``HttpTrigger`` and ``on_trigger``.
        """
        trigger = HttpTrigger(
            api_path=path,
            http_method=method,
            condition_function_id=condition_function_id,
            middleware_function_ids=None if middleware_function_ids is None else list(middleware_function_ids),
        )
        return self.on_trigger(trigger, function_id=function_id, metadata=metadata, **options)

    def cron(
        self,
        expression: str,
        *,
        condition_function_id: str | None = None,
        function_id: str | None = None,
        metadata: Any = None,
        **options: Unpack[FunctionOptions],
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to run on a schedule in UTC, seconds first: ``@iii.cron("0 30 3 * * *")``.

        It gets a ``CronEvent``. See ``CronTrigger`` and ``on_trigger``.
        """
        trigger = CronTrigger(expression=expression, condition_function_id=condition_function_id)
        return self.on_trigger(trigger, function_id=function_id, metadata=metadata, **options)

    def queue(
        self,
        topic: str,
        *,
        queue_config: QueueConfig | None = None,
        condition_function_id: str | None = None,
        function_id: str | None = None,
        metadata: Any = None,
        **options: Unpack[FunctionOptions],
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler for the messages of a durable topic; one that raises is called again.

        It gets what was published with ``iii::durable::publish``. See ``QueueTrigger`` and ``on_trigger``.
        """
        trigger = QueueTrigger(topic=topic, queue_config=queue_config, condition_function_id=condition_function_id)
        return self.on_trigger(trigger, function_id=function_id, metadata=metadata, **options)

    def subscribe(
        self,
        topic: str,
        *,
        function_id: str | None = None,
        metadata: Any = None,
        **options: Unpack[FunctionOptions],
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to hear a topic of pub/sub, once, if it is there.

        It gets what was published with ``publish``. See ``SubscribeTrigger`` and ``on_trigger``.
        """
        return self.on_trigger(SubscribeTrigger(topic=topic), function_id=function_id, metadata=metadata, **options)

    def on_state(
        self,
        scope: str | None = None,
        key: str | None = None,
        *,
        condition_function_id: str | None = None,
        function_id: str | None = None,
        metadata: Any = None,
        **options: Unpack[FunctionOptions],
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to hear of changes of state: all, of one scope, or of one key.

        It gets a ``StateEventData``. See ``StateTrigger`` and ``on_trigger``.
        """
        trigger = StateTrigger(scope=scope, key=key, condition_function_id=condition_function_id)
        return self.on_trigger(trigger, function_id=function_id, metadata=metadata, **options)

    def on_stream(
        self,
        stream_name: str,
        group_id: str | None = None,
        item_id: str | None = None,
        *,
        condition_function_id: str | None = None,
        function_id: str | None = None,
        metadata: Any = None,
        **options: Unpack[FunctionOptions],
    ) -> Callable[[HandlerT], HandlerT]:
        """Decorate a handler to hear of changes of a stream, of one group, or of one item.

        It gets a ``StreamChangeEvent``. See ``StreamTrigger`` and ``on_trigger``.
        """
        trigger = StreamTrigger(
            stream_name=stream_name, group_id=group_id, item_id=item_id, condition_function_id=condition_function_id
        )
        return self.on_trigger(trigger, function_id=function_id, metadata=metadata, **options)

    # -- for those that have decorators --------------------------------------------------------------------------

    def _decorate(
        self,
        handler: Callable[..., Any],
        function_id: str | None,
        metadata: Any,
        options: FunctionOptions,
        *,
        is_implied: bool,
    ) -> _Decorated:
        described: FunctionOptions = {"description": _summary(handler), **options}
        function = self._add_function(function_id, handler, metadata, described)
        known = self._decorated[id(handler)] = _Decorated(handler, function_id, function, is_implied)
        return known

    def _add_function(
        self, function_id: str | None, handler: Callable[..., Any], metadata: Any, options: FunctionOptions
    ) -> Any:
        """Register a function; returns what stands for it in ``_add_trigger``."""
        raise NotImplementedError

    def _add_trigger(self, function: Any, trigger: TypedTrigger, metadata: Any, trigger_namespace: str | None) -> None:
        raise NotImplementedError

    def _add_middleware(self, middleware: Middleware) -> None:
        raise NotImplementedError


def _summary(handler: Callable[..., Any]) -> str | None:
    """The first paragraph of a docstring. Other callables than functions have that of their class."""
    text = inspect.getdoc(handler) if inspect.isroutine(handler) else None
    return " ".join(text.partition("\n\n")[0].split()) or None if text else None


def default_name(handler: Any) -> str:
    """What a handler is called when nobody gave it an id."""
    name = getattr(handler, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        raise TypeError(f"{handler!r} has no name to make a function id of; give function_id=")
    return name


def _check_id(function_id: object, decorator: str) -> None:
    if function_id is not None and not isinstance(function_id, str):
        if callable(function_id):
            raise TypeError(f"write @{decorator}() with parentheses")
        raise TypeError(f"function_id must be str, got {type(function_id).__name__}")
