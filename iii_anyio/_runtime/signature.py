"""A handler's signature, read once at registration: which parameter takes what, and how it is called.

Above: ``binding.py``, which validates what is passed. No pydantic.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from .._protocol.messages import ABSENT
from .formats import Shape, resolve_hints, shape_of

if TYPE_CHECKING:
    from .injection import Injection

__all__ = (
    "Arguments",
    "CallArgs",
    "Signature",
    "check_rest",
    "has_annotations",
    "hints_of",
    "injected",
    "passing",
    "unwrap_partial",
)

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
CallArgs: TypeAlias = Callable[[Any, Any], Arguments]

_NO_KEYWORDS: Final[dict[str, Any]] = {}
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME: Final = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_VARIADIC: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def unwrap_partial(handler: Any) -> Any:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


class Signature(NamedTuple):
    """What Python tells about a handler."""

    parameters: list[Parameter] | None
    """``None`` when Python cannot tell."""
    hints: dict[str, Any] | None
    """``None`` when one does not resolve."""

    @property
    def receiver(self) -> Parameter | None:
        """The parameter that takes the data: the first, whatever its kind (A.8), unless that takes the metadata."""
        for parameter in self.parameters or ():
            if parameter.kind is not Parameter.KEYWORD_ONLY or parameter.name != "metadata":
                return parameter
        return None

    def injectable(self, handler: Any) -> dict[str, Any]:
        """The annotations of the parameters that something else than the payload may fill; by keyword."""
        if self.hints is None:
            return {}
        given: set[str] = set()
        while isinstance(handler, functools.partial):
            given.update(handler.keywords)
            handler = handler.func
        return {
            parameter.name: self.hints[parameter.name]
            for parameter in self.parameters or ()
            if parameter.kind in _BY_NAME and parameter.name in self.hints and parameter.name not in given
        }

    def without(self, names: Collection[str]) -> Signature:
        """What is left to be passed; by keyword, for what was taken out may have stood in front of it."""
        left = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY) if parameter.kind in _BY_NAME else parameter
            for parameter in self.parameters or ()
            if parameter.name not in names and parameter.kind not in _VARIADIC
        ]
        return Signature(left, self.hints)

    def shape(self, name: str) -> Shape | None:
        """Of the annotation of a parameter, or of ``return``."""
        return None if self.hints is None or name not in self.hints else shape_of(self.hints[name])


def hints_of(handler: Any) -> dict[str, Any] | None:
    """The resolved annotations of a handler; ``None`` when one does not resolve here."""
    target = unwrap_partial(handler)
    if isinstance(target, type):
        return {}  # a class' annotations are of its attributes
    if not inspect.isroutine(target):
        target = type(target).__call__
    return resolve_hints(target, include_extras=True)


def has_annotations(handler: Any) -> bool:
    return bool(getattr(unwrap_partial(handler), "__annotations__", None))


def check_rest(function_id: str, signature: Signature) -> None:
    """Refuse a parameter that would be missing in every call. Without an annotation it fails there, as upstream's."""
    receiver = signature.receiver
    for parameter in signature.parameters or ():
        if (
            (receiver is not None and parameter.name == receiver.name)
            or parameter.name == "metadata"
            or parameter.default is not Parameter.empty
            or parameter.annotation is Parameter.empty
            or parameter.kind in _VARIADIC
        ):
            continue
        if signature.hints is None:
            why = "its annotations do not resolve: import their types at run time, not for type checkers only"
        else:
            why = (
                "a handler takes one payload, and by annotation State, Annotated[Stream, 'name'], Logger, Context, "
                "Invocation, InvocationContext, Worker, and what App.dependency() declares"
            )
        raise TypeError(f"nothing provides the parameter {parameter.name!r} of the handler of {function_id!r}; {why}")


# -- how data and metadata are passed (A.10) -----------------------------------------------------------------------


def passing(signature: Signature) -> CallArgs:
    parameters = signature.parameters
    if parameters is None:
        return _data
    positional = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    if len(positional) >= 2 and positional[1] == "metadata":
        return _data_metadata
    has_metadata = any(
        parameter.kind is Parameter.KEYWORD_ONLY and parameter.name == "metadata" for parameter in parameters
    )
    # Upstream passes the data by position whatever the handler takes, so those that take none fail there.
    receiver = signature.receiver
    if receiver is None:
        return _metadata_keyword if has_metadata else _nothing
    if receiver.kind is Parameter.KEYWORD_ONLY:
        return _by_keyword(receiver.name, has_metadata)
    return _data_metadata_keyword if has_metadata else _data


def _data(data: Any, metadata: Any) -> Arguments:
    return (data,), _NO_KEYWORDS


def _data_metadata(data: Any, metadata: Any) -> Arguments:
    return (data, None if metadata is ABSENT else metadata), _NO_KEYWORDS


def _data_metadata_keyword(data: Any, metadata: Any) -> Arguments:
    return (data,), {"metadata": None if metadata is ABSENT else metadata}


def _metadata_keyword(data: Any, metadata: Any) -> Arguments:
    return (), {"metadata": None if metadata is ABSENT else metadata}


def _nothing(data: Any, metadata: Any) -> Arguments:
    return (), _NO_KEYWORDS


def _by_keyword(name: str, has_metadata: bool) -> CallArgs:
    def call_args(data: Any, metadata: Any) -> Arguments:
        if has_metadata:
            return (), {name: data, "metadata": None if metadata is ABSENT else metadata}
        return (), {name: data}

    return call_args


def injected(injection: Injection, pass_on: CallArgs) -> CallArgs:
    constants = injection.constants
    computed = tuple(injection.computed.items())

    def call_args(data: Any, metadata: Any) -> Arguments:
        args, kwargs = pass_on(data, metadata)
        kwargs = {**kwargs, **constants}
        for name, make in computed:
            kwargs[name] = make()
        return args, kwargs

    return call_args
