"""From an annotation to a JSON Schema, and to what pydantic can check of it. Pure.

Below: pydantic. Above: ``binding.py``, and ``functions.py``, which makes the three functions of upstream public.
"""

from __future__ import annotations

import collections.abc
import inspect
import sys
import types
import typing
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PlainSerializer, TypeAdapter, ValidationError, WrapSerializer
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

if sys.version_info >= (3, 14):
    import annotationlib

__all__ = (
    "Answer",
    "Shape",
    "answer_of",
    "as_format",
    "describe",
    "extract_request_format",
    "extract_response_format",
    "parameters_of",
    "python_type_to_format",
    "resolve_hints",
    "shape_of",
)

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_NONE: Final = type(None)
_SHOWN_ERRORS: Final = 10
_SCALARS: Final[tuple[tuple[Any, str], ...]] = ((str, "string"), (int, "integer"), (float, "number"), (bool, "boolean"))
_MAPPINGS: Final[tuple[Any, ...]] = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class _QuietSchema(GenerateJsonSchema):
    """A default that JSON cannot show is left out of the schema without a warning."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - the base class' declaration


# -- upstream's table (api A.8) ------------------------------------------------------------------------------------


def python_type_to_format(annotation: Any) -> dict[str, Any] | None:
    """The JSON Schema that upstream publishes for a type; ``None`` for types outside its table (A.8)."""
    schema = _by_table(annotation)
    return None if schema is None else {**schema, "$schema": _DRAFT}


def extract_request_format(func: Any) -> dict[str, Any] | None:
    """The schema of a function's first parameter, whatever its kind; ``None`` without one (A.8)."""
    hints = resolve_hints(func)
    if hints is None:
        return None
    parameters = parameters_of(func)
    if not parameters or parameters[0].name not in hints:
        return None
    return python_type_to_format(hints[parameters[0].name])


def extract_response_format(func: Any) -> dict[str, Any] | None:
    """The schema of a function's return annotation; ``None`` without one (A.8)."""
    hints = resolve_hints(func)
    return python_type_to_format(hints["return"]) if hints is not None and "return" in hints else None


def resolve_hints(func: Any, *, include_extras: bool = False) -> dict[str, Any] | None:
    """The resolved annotations of a function or method; ``None`` for anything else, or when one does not resolve.

    Names that the function's module does not have are looked up where the registering code runs: with
    ``from __future__ import annotations`` a model defined in that very function is known nowhere else.
    """
    if not inspect.isroutine(func):
        return None
    try:
        return typing.get_type_hints(func, include_extras=include_extras)
    except NameError:
        try:
            return typing.get_type_hints(func, localns=_locals_of_caller(), include_extras=include_extras)
        except Exception:  # noqa: BLE001 - annotations are arbitrary code
            return None
    except Exception:  # noqa: BLE001
        return None


def _locals_of_caller() -> dict[str, Any]:
    """The local names of the innermost function on the stack that is not this package's."""
    frame = sys._getframe()  # pyright: ignore[reportPrivateUsage] - what typing and pydantic do for the same end
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("iii_anyio."):
        frame = frame.f_back
    return dict(frame.f_locals)


def parameters_of(func: Any) -> list[inspect.Parameter] | None:
    """The parameters of a callable in order; ``None`` when Python cannot tell, as for some builtins."""
    try:
        if sys.version_info >= (3, 14):
            signature = inspect.signature(func, annotation_format=annotationlib.Format.FORWARDREF)
        else:
            signature = inspect.signature(func)
    except (TypeError, ValueError):
        return None
    return list(signature.parameters.values())


def _by_table(annotation: Any) -> dict[str, Any] | None:
    for scalar, name in _SCALARS:
        if annotation is scalar:
            return {"type": name}
    if annotation is _NONE:
        return {"type": "null"}
    origin, args = get_origin(annotation), get_args(annotation)
    if _is_union(origin):
        inner = [arg for arg in args if arg is not _NONE]
        if len(inner) != 1:
            return None
        schema = _by_table(inner[0])
        if schema is not None and "type" in schema:
            schema["type"] = [schema["type"], "null"]
        return schema
    if annotation is list or origin is list:
        return _holding("array", "items", args[0] if args else Any)
    if annotation is dict or origin is dict:
        return _holding("object", "additionalProperties", args[1] if args else Any)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        try:
            return annotation.model_json_schema(schema_generator=_QuietSchema)
        except (PydanticUserError, PydanticUndefinedAnnotation):
            return None
    return None


def _holding(kind: str, key: str, element: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    inner = _by_table(element)
    if inner is not None:
        # A model's `#/$defs/...` references count from the root of the document, so its definitions move there.
        definitions = inner.pop("$defs", None)
        schema[key] = inner
        if definitions is not None:
            schema["$defs"] = definitions
    return schema


def _is_union(origin: Any) -> bool:
    return origin is typing.Union or origin is types.UnionType


# -- beyond the table ----------------------------------------------------------------------------------------------


def as_format(value: Any) -> dict[str, Any]:
    """What a caller gave as a format: a JSON Schema, a ``RegisterFunctionFormat`` or a type, as JSON.

    Raises:
        TypeError: It is none of them, or a type that has no JSON Schema.
    """
    if isinstance(value, collections.abc.Mapping):
        return dict(typing.cast("collections.abc.Mapping[str, Any]", value))
    if inspect.isclass(value) or get_origin(value) is not None:
        schema = shape_of(value).format
        if schema is None:
            raise TypeError(f"{value!r} has no JSON Schema; give the schema as a dict")
        return schema
    if hasattr(value, "model_dump"):
        dumped: dict[str, Any] = value.model_dump(by_alias=True, exclude_none=True)
        return dumped
    raise TypeError(f"a format is a JSON Schema as a dict, a model or a type, not {type(value).__name__}")


class Shape:
    """What is known of one annotation, computed on demand. Shared by all handlers that have it; see ``shape_of``.

    Attributes:
        annotation: The annotation.
        is_open: Nothing to check: ``Any``, ``object``, ``dict``, ``list``, ``dict[str, Any]``, unions of them, ....
        refusal: Why there is no validator, once one was asked for.
        is_json: Built of JSON's own types only.
    """

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.refusal = ""
        self.is_open = _is_open(annotation)
        self.is_json = _is_json(annotation)

    @cached_property
    def format(self) -> dict[str, Any] | None:
        """The schema to publish: upstream's where its table has one, else pydantic's. Do not change it."""
        schema = python_type_to_format(self.annotation)
        if schema is not None or self.lax is None:
            return schema
        try:
            schema = self.lax.json_schema(schema_generator=_QuietSchema)
        except (PydanticUserError, PydanticUndefinedAnnotation):
            return None
        return {**schema, "$schema": _DRAFT} if schema else None

    @cached_property
    def lax(self) -> TypeAdapter[Any] | None:
        """Pydantic's validator with its usual conversions; ``None`` when it has none for this annotation."""
        return self._adapter(None)

    @cached_property
    def strict(self) -> TypeAdapter[Any] | None:
        """The same for what a peer sent: JSON's own types as JSON means them, ``"5"`` is no integer, 5 is a float.

        Only for annotations of nothing but such types: strict validation of decoded JSON would refuse every date.
        """
        return self._adapter(ConfigDict(strict=True)) if self.is_json else self.lax

    def _adapter(self, config: ConfigDict | None) -> TypeAdapter[Any] | None:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(self.annotation, config=config)
            if not adapter.pydantic_complete:
                adapter.rebuild()
        except Exception as exc:  # noqa: BLE001 - annotations bring their own code, `__get_pydantic_core_schema__`
            self.refusal = str(exc).partition("\n")[0]
            return None
        return adapter


def shape_of(annotation: Any) -> Shape:
    """The shape of an annotation; remembered, because many handlers share few of them."""
    try:
        hash(annotation)
    except TypeError:
        return Shape(annotation)
    # `int | str` and `str | int` are equal, and so are `Annotated[int, 1]` and `Annotated[int, True]`; the text is not.
    return _remembered(annotation, repr(annotation))


@lru_cache(4096)
def _remembered(annotation: Any, _text: str) -> Shape:
    return Shape(annotation)


def _is_open(annotation: Any) -> bool:
    if annotation is Any or annotation is object or annotation is inspect.Parameter.empty:
        return True
    if isinstance(annotation, TypeVar):
        return annotation.__bound__ is None and not annotation.__constraints__
    origin, args = get_origin(annotation), get_args(annotation)
    if _is_union(origin):
        return all(arg is _NONE or _is_open(arg) for arg in args)
    kind = annotation if origin is None else origin
    if kind is list:
        return not args or _is_open_element(args[0])
    if any(kind is mapping for mapping in _MAPPINGS):
        return not args or (args[0] in (str, Any) and _is_open_element(args[1]))
    return False


def _is_open_element(annotation: Any) -> bool:
    return annotation is Any or annotation is object


def _is_json(annotation: Any) -> bool:
    if annotation is _NONE or _is_open_element(annotation) or any(annotation is scalar for scalar, _ in _SCALARS):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return all(type(value) in (str, int, bool, _NONE) for value in args)
    if origin is typing.Annotated:
        return _is_json(args[0])
    if _is_union(origin):
        return all(_is_json(arg) for arg in args)
    if annotation is list or origin is list:
        return not args or _is_json(args[0])
    if annotation is dict or origin is dict:
        return not args or (args[0] is str and _is_json(args[1]))
    return False


# -- HTTP answers --------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """A model class that holds an HTTP status and would put it on the wire under another name than ``status_code``."""

    field: str
    key: str
    """What it is called there."""
    keys: dict[str, str]
    """Fields to names on the wire, the status corrected."""
    is_plain: bool
    """The fields are all there is to it: no serialisers of its own."""


@lru_cache(1024)
def answer_of(cls: type[BaseModel]) -> Answer | None:
    """How to send a model with an HTTP status under ``status_code``; ``None`` if it is sent as it is."""
    fields = cls.model_fields
    field = "status_code" if "status_code" in fields else "statusCode"
    if field not in fields:
        return None
    keys = {name: info.serialization_alias or name for name, info in fields.items()}
    if "status_code" in keys.values():
        return None
    key = keys[field]
    decorators = cls.__pydantic_decorators__
    is_plain = not (
        decorators.field_serializers
        or decorators.model_serializers
        or decorators.computed_fields
        or any(info.exclude or info.exclude_if for info in fields.values())
        or any(isinstance(item, PlainSerializer | WrapSerializer) for info in fields.values() for item in info.metadata)
    )
    if field == "status_code":
        keys[field] = "status_code"
    else:
        is_plain = False  # the name is the user's own choice, so it stays beside ours
    return Answer(field, key, keys, is_plain)


# -- errors --------------------------------------------------------------------------------------------------------


def describe(exc: ValidationError, root: str) -> str:
    """Pydantic's field errors on one line, without the values; ``root`` names the value itself."""
    errors = exc.errors(include_url=False, include_input=False)
    shown = [f"{_path(error['loc']) or root}: {_message(error)}" for error in errors[:_SHOWN_ERRORS]]
    if len(errors) > _SHOWN_ERRORS:
        shown.append(f"and {len(errors) - _SHOWN_ERRORS} more")
    return "; ".join(shown)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _message(error: ErrorDetails) -> str:
    # The two messages of pydantic's own that quote the input.
    if error["type"] == "union_tag_invalid":
        return f"Input tag does not match any of the expected tags: {error.get('ctx', {}).get('expected_tags', '')}"
    if error["type"] == "uuid_parsing":
        return "Input should be a valid UUID"
    return error["msg"]
