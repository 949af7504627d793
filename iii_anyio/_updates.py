"""Update operations, shared by state and streams, and how the answers of both are read. Pure.

Below: pydantic. Above: ``state.py`` and ``stream.py``; the latter makes the models public.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = (
    "MergePath",
    "UpdateAppend",
    "UpdateDecrement",
    "UpdateIncrement",
    "UpdateMerge",
    "UpdateOp",
    "UpdateOpError",
    "UpdateRemove",
    "UpdateSet",
    "groups_of",
    "optional",
    "read",
    "request",
    "validated_list",
    "validated_ops",
)

T = TypeVar("T")

MergePath: TypeAlias = str | list[str]
"""One literal key, or a list of them. ``""`` and ``[]`` are the root; dots do not separate (UO-2)."""


def _is_absent(path: MergePath | None) -> bool:
    return path is None


class _Op(BaseModel):
    # Upstream's operations are taken too, by their attributes.
    model_config: ClassVar[ConfigDict] = ConfigDict(defer_build=True, from_attributes=True)


class UpdateSet(_Op):
    """Set a field, or with ``path=""`` the whole value.

    Attributes:
        type: ``set``.
        path: A literal first-level key.
        value: Any JSON.
    """

    type: Literal["set"] = "set"
    path: str
    value: Any


class UpdateIncrement(_Op):
    """Add to a number; an absent field counts as 0.

    Attributes:
        type: ``increment``.
        path: A literal first-level key; ``""`` is the value itself.
        by: An integer: the engine takes no other, ``1.0`` neither (UO-3).
    """

    type: Literal["increment"] = "increment"
    path: str
    by: int


class UpdateDecrement(_Op):
    """Subtract from a number; an absent field counts as 0.

    Attributes:
        type: ``decrement``.
        path: A literal first-level key; ``""`` is the value itself.
        by: An integer, as for ``UpdateIncrement``.
    """

    type: Literal["decrement"] = "decrement"
    path: str
    by: int


class UpdateAppend(_Op):
    """Push onto an array, or concatenate to a string (UO-14, UO-15).

    Attributes:
        type: ``append``.
        path: Where; by default the value itself. Objects missing on the way are made.
        value: One element, or the text for a string.
    """

    type: Literal["append"] = "append"
    path: MergePath | None = Field(default=None, exclude_if=_is_absent)
    value: Any


class UpdateRemove(_Op):
    """Remove a field; one that is not there is no error. With ``path=""`` the value becomes null (UO-16).

    Attributes:
        type: ``remove``.
        path: A literal first-level key.
    """

    type: Literal["remove"] = "remove"
    path: str


class UpdateMerge(_Op):
    """Put the keys of an object over those of another; one level deep (UO-10).

    Attributes:
        type: ``merge``.
        path: Where; by default the value itself. Objects missing on the way are made.
        value: A JSON object.
    """

    type: Literal["merge"] = "merge"
    path: MergePath | None = Field(default=None, exclude_if=_is_absent)
    value: Any


UpdateOp: TypeAlias = Annotated[
    UpdateSet | UpdateIncrement | UpdateDecrement | UpdateAppend | UpdateRemove | UpdateMerge,
    Field(discriminator="type"),
]
"""One of them, told apart by ``type``. Upstream takes the first that fits: a merge becomes an append (A.25, 20)."""


class UpdateOpError(BaseModel, defer_build=True):
    """An operation that was not applied; the others were (UO-7).

    Attributes:
        op_index: Which, counted from 0.
        code: E.g. ``increment.not_number``.
        message: For people.
        doc_url: Where the code is explained.
    """

    op_index: int
    code: str
    message: str
    doc_url: str | None = None


_ops: Final[TypeAdapter[list[UpdateOp]]] = TypeAdapter(list[UpdateOp], config=ConfigDict(defer_build=True))


def validated_ops(ops: Sequence[UpdateOp | dict[str, Any]]) -> list[UpdateOp]:
    """Operations as models. The engine fails the whole call for one it cannot read (UO-1, UO-4)."""
    return _ops.validate_python(ops)


# -- calls of the engine's functions ---------------------------------------------------------------------------------


def request(function_id: str, **payload: Any) -> dict[str, Any]:
    """A call of a built-in. They live in ``default``, where a worker of another namespace does not look (C-1)."""
    return {"function_id": function_id, "namespace": "default", "payload": payload}


def optional(answer: Any, model: type[T] | None) -> T | None:
    """A stored value in the type asked for. No value and a stored null come out the same (C-5)."""
    return None if answer is None else _validated(answer, model)


def validated_list(answer: Any, model: type[T] | None) -> list[T]:
    """Stored values in the type asked for."""
    return [_validated(value, model) for value in answer or ()]


def groups_of(answer: Any) -> list[str]:
    """The groups of ``list_groups``: state answers an object, streams a bare array (SR-2)."""
    groups: Any = cast("Any", answer)["groups"] if isinstance(answer, dict) else answer
    return list(groups or ())


def read(result_type: type[T], model: Any, answer: Any) -> T:
    """An answer as a result model, whose values are of the type asked for."""
    generic: Any = result_type
    result: T = (generic if model is None else generic[model]).model_validate(answer)
    return result


def _validated(value: Any, model: type[T] | None) -> T:
    known: Any = model
    result: T = value if known is None else _adapter(known).validate_python(value)
    return result


@lru_cache(maxsize=256)
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)
