"""State: the models of its functions and events, ``State`` to use it.

Below: pydantic, ``_updates.py``, an ``Invoker``. Above: applications.
"""

from __future__ import annotations

import builtins  # noqa: TC003 - annotations of the public API resolve
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, Field

from ._updates import UpdateOp, UpdateOpError, groups_of, optional, read, request, validated_list, validated_ops
from .http import MappingModel

if TYPE_CHECKING:
    from .abc import Invoker

__all__ = (
    "IState",
    "State",
    "StateDeleteInput",
    "StateDeleteResult",
    "StateEventData",
    "StateEventType",
    "StateGetInput",
    "StateListInput",
    "StateSetInput",
    "StateSetResult",
    "StateUpdateInput",
    "StateUpdateResult",
)

if TYPE_CHECKING:
    # Without `model=`, and for a bare `StateSetResult`, the values are `Any`.
    import typing_extensions

    TData = typing_extensions.TypeVar("TData", default=Any)
else:
    TData = TypeVar("TData")


class StateGetInput(BaseModel, defer_build=True):
    """Which value to read."""

    scope: str
    key: str


class StateSetInput(BaseModel, defer_build=True):
    """What to store."""

    scope: str
    key: str
    value: Any


class StateDeleteInput(BaseModel, defer_build=True):
    """Which value to delete."""

    scope: str
    key: str


class StateListInput(BaseModel, defer_build=True):
    """Which scope to list."""

    scope: str


class StateUpdateInput(BaseModel, defer_build=True):
    """What to do to a value, in order and at once."""

    scope: str
    key: str
    ops: list[UpdateOp]


class StateSetResult(BaseModel, Generic[TData], defer_build=True):
    """What a write did.

    Attributes:
        old_value: What was there before; ``None`` when there was nothing, or null.
        new_value: What is there now.
    """

    old_value: TData | None = None
    new_value: TData


class StateUpdateResult(BaseModel, Generic[TData], defer_build=True):
    """What an update did.

    Attributes:
        old_value: What was there before; ``None`` when there was nothing, or null.
        new_value: What is there now, with the operations that could be applied.
        errors: The operations that could not (ST-8); upstream's model drops them.
    """

    old_value: TData | None = None
    new_value: TData
    errors: list[UpdateOpError] = Field(default_factory=list[UpdateOpError])


class StateDeleteResult(BaseModel, defer_build=True):
    """Upstream's model of a deletion. The engine answers the old value itself (ST-2), and so does ``State.delete``."""

    old_value: Any = None


class StateEventType(StrEnum):
    """What happened to a value (ST-10)."""

    CREATED = "state:created"
    UPDATED = "state:updated"
    DELETED = "state:deleted"


class StateEventData(MappingModel, Generic[TData]):
    """What a handler of a ``state`` trigger gets.

    Attributes:
        type: ``state``.
        event_type: ``state:updated`` also when the new value is the old one.
        scope: Of the value.
        key: Of the value.
        old_value: ``None`` when there was nothing, or null.
        new_value: ``None`` after a deletion, or when it is null.
    """

    type: str = "state"
    event_type: StateEventType
    scope: str
    key: str
    old_value: TData | None = None
    new_value: TData | None = None


class IState(ABC, Generic[TData]):
    """A store with the operations of state. Nothing in this package asks for one; it is upstream's."""

    @abstractmethod
    async def get(self, input: StateGetInput) -> TData | None:  # noqa: A002 - upstream's name
        """Read a value."""

    @abstractmethod
    async def set(self, input: StateSetInput) -> StateSetResult[TData] | None:  # noqa: A002 - upstream's name
        """Store a value."""

    @abstractmethod
    async def delete(self, input: StateDeleteInput) -> StateDeleteResult:  # noqa: A002 - upstream's name
        """Delete a value."""

    @abstractmethod
    async def list(self, input: StateListInput) -> builtins.list[TData]:  # noqa: A002 - upstream's name
        """Read a scope."""

    @abstractmethod
    async def update(self, input: StateUpdateInput) -> StateUpdateResult[TData] | None:  # noqa: A002 - upstream's name
        """Change a value in place."""


class State:
    """Values that all workers share, kept by the engine under a scope and a key.

    As with ``trigger`` and ``trigger_async``, a bare name blocks the calling thread and ``_async`` awaits. Values may
    be models; ``model=``, any type that pydantic knows, validates what comes back. All raise ``InvocationError`` with
    the engine's code, such as ``VALUE_TOO_LARGE``; a value that does not fit is a ``pydantic.ValidationError``, for
    writes after they were made.

    Wire: InvokeFunction of ``state::*`` in namespace ``default``.
    """

    def __init__(self, iii: Invoker) -> None:
        self._iii = iii

    def get(self, scope: str, key: str, *, model: type[TData] | None = None) -> TData | None:
        """Read a value; ``None`` when there is none, or when it is null."""
        return optional(self._iii.trigger(_get(scope, key)), model)

    async def get_async(self, scope: str, key: str, *, model: type[TData] | None = None) -> TData | None:
        """Do what ``get`` does, awaiting."""
        return optional(await self._iii.trigger_async(_get(scope, key)), model)

    def set(self, scope: str, key: str, value: Any, *, model: type[TData] | None = None) -> StateSetResult[TData]:
        """Store a value."""
        return read(StateSetResult, model, self._iii.trigger(_set(scope, key, value)))

    async def set_async(
        self, scope: str, key: str, value: Any, *, model: type[TData] | None = None
    ) -> StateSetResult[TData]:
        """Do what ``set`` does, awaiting."""
        return read(StateSetResult, model, await self._iii.trigger_async(_set(scope, key, value)))

    def delete(self, scope: str, key: str, *, model: type[TData] | None = None) -> TData | None:
        """Delete a value and return what it was; one that is not there is no error."""
        return optional(self._iii.trigger(_delete(scope, key)), model)

    async def delete_async(self, scope: str, key: str, *, model: type[TData] | None = None) -> TData | None:
        """Do what ``delete`` does, awaiting."""
        return optional(await self._iii.trigger_async(_delete(scope, key)), model)

    def update(
        self, scope: str, key: str, ops: Sequence[UpdateOp | dict[str, Any]], *, model: type[TData] | None = None
    ) -> StateUpdateResult[TData]:
        """Apply operations in order, at once.

        What cannot be applied is in ``errors``; the rest is. A key that is not there is made, even if all fail (ST-7).
        """
        return read(StateUpdateResult, model, self._iii.trigger(_update(scope, key, ops)))

    async def update_async(
        self, scope: str, key: str, ops: Sequence[UpdateOp | dict[str, Any]], *, model: type[TData] | None = None
    ) -> StateUpdateResult[TData]:
        """Do what ``update`` does, awaiting."""
        return read(StateUpdateResult, model, await self._iii.trigger_async(_update(scope, key, ops)))

    def list(self, scope: str, *, model: type[TData] | None = None) -> builtins.list[TData]:
        """Read the values of a scope, oldest key first, without their keys (ST-5)."""
        return validated_list(self._iii.trigger(_list(scope)), model)

    async def list_async(self, scope: str, *, model: type[TData] | None = None) -> builtins.list[TData]:
        """Do what ``list`` does, awaiting."""
        return validated_list(await self._iii.trigger_async(_list(scope)), model)

    def list_groups(self) -> builtins.list[str]:
        """Name the scopes, sorted, also those that are empty by now (ST-6)."""
        return groups_of(self._iii.trigger(_list_groups()))

    async def list_groups_async(self) -> builtins.list[str]:
        """Do what ``list_groups`` does, awaiting."""
        return groups_of(await self._iii.trigger_async(_list_groups()))


def _get(scope: str, key: str) -> dict[str, Any]:
    return request("state::get", scope=scope, key=key)


def _set(scope: str, key: str, value: Any) -> dict[str, Any]:
    return request("state::set", scope=scope, key=key, value=value)


def _delete(scope: str, key: str) -> dict[str, Any]:
    return request("state::delete", scope=scope, key=key)


def _update(scope: str, key: str, ops: Sequence[UpdateOp | dict[str, Any]]) -> dict[str, Any]:
    return request("state::update", scope=scope, key=key, ops=validated_ops(ops))


def _list(scope: str) -> dict[str, Any]:
    return request("state::list", scope=scope)


def _list_groups() -> dict[str, Any]:
    return request("state::list_groups")
