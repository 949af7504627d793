"""Handler signature → how to call it and what to check, once, at registration. The only pydantic of the runtime.

``bind`` reads the handler; the ``Binding`` it returns holds plain functions that ``invoke.py`` calls per invocation.
Below: ``signature.py`` and ``formats.py``. Above: the worker binds, ``invoke.py`` uses.

- A payload is validated when the annotation of its parameter says something that pydantic can check. Otherwise,
  with ``validate=False``, or when an annotation does not resolve (A.8), the handler gets the decoded JSON as it is.
- Validators are made by the first call, schemas by the registration; both are shared between equal annotations.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from pydantic import AliasChoices, BaseModel, ValidationError

from ..errors import InvocationError
from .formats import Shape, answer_of, as_format, describe, parameters_of
from .injection import Enter, Inject, Injection
from .signature import (
    Arguments,
    CallArgs,
    Signature,
    check_rest,
    has_annotations,
    hints_of,
    injected,
    passing,
    unwrap_partial,
)

__all__ = ("Binding", "as_wire", "bind")

Finish: TypeAlias = Callable[[Any], object]

logger: Final = logging.getLogger("iii_anyio")

_CALLER: Final = "_caller_worker_id"


@dataclass(slots=True)
class Binding:
    """How to call one handler.

    Attributes:
        function_id: Named in errors.
        handler: To be called with what ``call_args`` returns.
        is_async: Whether its result is to be awaited; otherwise it runs in a thread.
        request_format: JSON Schema to publish, or ``None``. Shared, not to be changed.
        response_format: The same for the result.
        call_args: ``(data, metadata)`` to positional and keyword arguments; metadata may be ``ABSENT``. Raises
            ``InvocationError`` ``invalid_payload``.
        outcome: The handler's return value to what is encoded. Raises ``InvocationError`` ``invalid_result``.
        enter: Makes the rest of the arguments for each invocation; such a binding has to be wrapped.
        is_injected: Whether it gets anything besides payload and metadata.
        is_wrapped: Whether ``wrapping.py`` made it.
    """

    function_id: str
    handler: Callable[..., Any]
    is_async: bool
    request_format: dict[str, Any] | None
    response_format: dict[str, Any] | None
    call_args: CallArgs
    outcome: Finish
    enter: Enter | None = None
    is_injected: bool = False
    is_wrapped: bool = False


def bind(
    function_id: str,
    handler: Any,
    *,
    validate: bool | None = None,
    request_format: Any = None,
    response_format: Any = None,
    execution: Literal["async", "thread", "process"] | None = None,
    inject: Inject | None = None,
    hints: dict[str, Any] | None = None,
) -> Binding:
    """Read a handler's signature.

    Args:
        function_id: For error messages.
        handler: A function, coroutine function, partial of one, or object with ``__call__``.
        validate: ``None`` validates what can be; ``True`` wants every annotation to be usable; ``False`` passes raw
            JSON in and out.
        request_format: A schema, model or type that replaces the one of the annotation.
        response_format: The same for the result.
        execution: ``async`` runs the handler on the event loop and awaits what it returns, if that is awaitable;
            ``thread`` runs it in a thread. By default coroutine functions run on the loop and others in a thread.
            ``process`` is bound as a thread; who runs it there is the caller's affair.
        inject: Provides the parameters that are neither payload nor metadata.
        hints: What ``hints_of`` said where the handler was declared.

    Raises:
        TypeError: The handler cannot be called, or not in the way wanted, or nothing provides one of its parameters.
    """
    _check_callable(function_id, handler)
    is_async = _is(inspect.iscoroutinefunction, handler)
    if execution in {"thread", "process"} and is_async:
        raise TypeError(
            f"the handler of {function_id!r} is async and cannot run in a {execution}; declare it with 'def'"
        )
    call = handler
    if execution == "async" and not is_async:
        call, is_async = _on_the_loop(handler), True

    signature = Signature(parameters_of(handler), hints_of(handler) if hints is None else hints)
    injection: Injection | None = None
    if inject is not None:
        injection = inject(function_id, signature.injectable(handler))
        if injection is not None:
            signature = signature.without(injection.names)
        check_rest(function_id, signature)
    if signature.hints is None and validate is not False and has_annotations(handler):
        logger.warning(
            "the annotations of the handler of %r do not resolve: it gets raw JSON, and no schema is published. "
            "Define their types where the handler can see them, or say validate=False",
            function_id,
        )
    if validate and signature.hints is None:
        raise TypeError(
            f"the annotations of the handler of {function_id!r} do not resolve, so validate=True cannot hold"
        )
    receiver = signature.receiver
    accepts = None if receiver is None else signature.shape(receiver.name)
    returns = signature.shape("return")
    if request_format is not None:
        request_format = as_format(request_format)
    elif accepts is not None:
        request_format = accepts.format
    if response_format is not None:
        response_format = as_format(response_format)
    elif returns is not None:
        response_format = returns.format

    call_args = passing(signature)
    outcome: Finish = as_wire
    if validate is not False:
        if receiver and accepts and not accepts.is_open and not _is_upstreams(accepts.annotation):
            check = _Payload(function_id, accepts, receiver.default)
            if validate:
                check.require()
            call_args = _checked(check, call_args)
        if returns and not returns.is_open:
            result = _Result(function_id, returns)
            if validate:
                result.require()
            outcome = result
    if injection is not None and (injection.constants or injection.computed):
        call_args = injected(injection, call_args)
    if injection is None:
        return Binding(function_id, call, is_async, request_format, response_format, call_args, outcome)
    enter = injection.enter
    return Binding(function_id, call, is_async, request_format, response_format, call_args, outcome, enter, True)


# -- what kind of callable -----------------------------------------------------------------------------------------


def _check_callable(function_id: str, handler: Any) -> None:
    if not callable(handler):
        raise TypeError(f"the handler of {function_id!r} must be callable, not {handler!r}")
    if _is(inspect.isgeneratorfunction, handler) or _is(inspect.isasyncgenfunction, handler):
        raise TypeError(
            f"the handler of {function_id!r} is a generator; a function has one result: return a list, "
            "or write the items to a channel"
        )


def _is(test: Callable[[Any], bool], handler: Any) -> bool:
    """Whether the test holds for a handler, for what a partial wraps, or for an object's ``__call__`` (A.10)."""
    inner = unwrap_partial(handler)
    return test(inner) or (not isinstance(inner, type) and test(type(inner).__call__))


def _on_the_loop(handler: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(handler, updated=())
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = handler(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return call


def _is_upstreams(annotation: Any) -> bool:
    """Whether a class of the packages ``iii`` or ``iii_helpers`` is in it: such code expects what they give, a dict."""
    if isinstance(annotation, type):  # `HttpRequest[Order]` is a class of the module that wrote it
        return any(base.__module__.partition(".")[0] in ("iii", "iii_helpers") for base in annotation.__mro__)
    return any(_is_upstreams(argument) for argument in get_args(annotation))


def _checked(check: Callable[[Any], Any], pass_on: CallArgs) -> CallArgs:
    def call_args(data: Any, metadata: Any) -> Arguments:
        return pass_on(check(data), metadata)

    return call_args


# -- checking ------------------------------------------------------------------------------------------------------


class _Payload:
    """Validates the payloads of one handler."""

    __slots__ = ("_default", "_function_id", "_hides_caller", "_is_ready", "_shape", "_validate")

    def __init__(self, function_id: str, shape: Shape, default: Any) -> None:
        self._function_id = function_id
        self._shape = shape
        self._default = default
        self._is_ready = False
        self._validate: Callable[[Any], Any] | None = None
        self._hides_caller = True

    def require(self) -> None:
        if self._shape.strict is None:
            raise _unusable(self._function_id, self._shape)

    def __call__(self, data: Any) -> Any:
        if not self._is_ready:
            adapter = self._shape.strict
            self._validate = adapter and adapter.validator.validate_python
            self._hides_caller = not _names_caller(self._shape.annotation)
            self._is_ready = True
        if self._validate is None:
            return data
        # §7.2: the engine adds it to every object a worker sends; models that forbid extra keys never asked for it.
        if self._hides_caller and type(data) is dict and _CALLER in data:
            data = {key: value for key, value in cast("dict[str, Any]", data).items() if key != _CALLER}
        try:
            return self._validate(data)
        except ValidationError as exc:
            # The wire has one form of "no payload", null; and a parameter with a default can do without.
            if data is None and self._default is not Parameter.empty:
                return self._default
            text = describe(exc, "payload")
        # Out of the except block: pydantic's text quotes the values, and a chained traceback would carry it.
        raise InvocationError(
            "invalid_payload", f"the payload does not fit {self._function_id!r}: {text}", self._function_id
        )


class _Result:
    """Validates the return values of one handler. Pydantic's usual conversions apply: what goes out has the type.

    Models, dates and the like stay objects; the codec writes them.
    """

    __slots__ = ("_function_id", "_is_ready", "_shape", "_validate")

    def __init__(self, function_id: str, shape: Shape) -> None:
        self._function_id = function_id
        self._shape = shape
        self._is_ready = False
        self._validate: Callable[[Any], Any] | None = None

    def require(self) -> None:
        if self._shape.lax is None:
            raise _unusable(self._function_id, self._shape)

    def __call__(self, result: Any) -> object:
        if result is None:
            return None
        if not self._is_ready:
            adapter = self._shape.lax
            self._validate = adapter and adapter.validator.validate_python
            self._is_ready = True
        if self._validate is None:
            return as_wire(result)
        try:
            return as_wire(self._validated(result))
        except ValidationError as exc:
            text = describe(exc, "result")
        raise InvocationError(
            "invalid_result", f"{self._function_id!r} returned what its annotation forbids: {text}", self._function_id
        )

    def _validated(self, result: Any) -> Any:
        validate = cast("Callable[[Any], Any]", self._validate)
        try:
            return validate(result)
        except ValidationError:
            # A model of another package with the same fields, such as upstream's HttpResponse where ours is declared.
            if isinstance(result, type) or not hasattr(result, "model_dump"):
                raise
            return validate(result.model_dump(by_alias=True))


def _unusable(function_id: str, shape: Shape) -> TypeError:
    return TypeError(
        f"pydantic cannot validate {shape.annotation!r} of the handler of {function_id!r}: {shape.refusal}"
    )


def _names_caller(annotation: Any) -> bool:
    """Whether a model has a field of its own for the caller's id."""
    if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
        return False
    for field in annotation.model_fields.values():
        alias = field.validation_alias
        if alias == _CALLER or (isinstance(alias, AliasChoices) and _CALLER in alias.choices):
            return True
    return False


# -- results -------------------------------------------------------------------------------------------------------


def as_wire(result: Any) -> object:
    """A result as the engine reads it: HTTP answers with ``status_code`` (H-37), all else as it is."""
    kind = type(result)  # pyright: ignore[reportUnknownVariableType]
    if kind is dict:
        return _with_status(result) if "statusCode" in result else result
    if result is None or kind is str or kind is list or kind is int or kind is bool or kind is float:
        return result
    if isinstance(result, BaseModel):
        return _model_with_status(result)
    if isinstance(result, dict):
        return _with_status(cast("dict[str, Any]", result))
    if kind is not type and hasattr(result, "model_dump"):
        return _with_status(result.model_dump(by_alias=True))
    return result


def _with_status(result: dict[str, Any]) -> dict[str, Any]:
    """The legacy idiom ``return ApiResponse(...).model_dump(by_alias=True)``; the engine reads only ``status_code``."""
    status = result.get("statusCode")
    if not _is_status(status) or "status_code" in result:
        return result
    return {**result, "status_code": status}


def _is_status(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _model_with_status(model: BaseModel) -> object:
    answer = answer_of(type(model))
    if answer is None or not _is_status(getattr(model, answer.field)):
        return model
    if answer.is_plain:
        # Values stay objects: the codec has one way to encode a model, whether it is the result or in its body.
        wire: dict[str, Any] = {key: getattr(model, name) for name, key in answer.keys.items()}
        wire.update(model.model_extra or {})
    else:
        wire = model.model_dump(mode="json", by_alias=True)
        wire["status_code"] = wire.pop(answer.key) if answer.field == "status_code" else wire[answer.key]
    return wire
