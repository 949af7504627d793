"""Streams: the models of their functions and triggers, ``IStream`` to provide one, ``Stream`` to use one.

Upstream has deprecated ``IStream``, ``create_stream`` and the models of inputs, events, auth and joins (A.23).

Below: pydantic, ``_updates.py``, an ``Invoker``. Above: ``state.py`` and ``helpers.py``.
"""

from __future__ import annotations

import builtins  # noqa: TC003 - annotations of the public API resolve
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, Field

from ._updates import (
    MergePath,
    UpdateAppend,
    UpdateDecrement,
    UpdateIncrement,
    UpdateMerge,
    UpdateOp,
    UpdateOpError,
    UpdateRemove,
    UpdateSet,
    groups_of,
    optional,
    read,
    request,
    validated_list,
    validated_ops,
)
from .http import MappingModel

if TYPE_CHECKING:
    from .abc import Invoker

__all__ = (
    "IStream",
    "MergePath",
    "Stream",
    "StreamAuthInput",
    "StreamAuthResult",
    "StreamChangeEvent",
    "StreamChangeEventDetail",
    "StreamContext",
    "StreamDeleteInput",
    "StreamDeleteResult",
    "StreamGetInput",
    "StreamJoinLeaveEvent",
    "StreamJoinLeaveTriggerConfig",
    "StreamJoinResult",
    "StreamListGroupsInput",
    "StreamListInput",
    "StreamSetInput",
    "StreamSetResult",
    "StreamTriggerConfig",
    "StreamUpdateInput",
    "StreamUpdateResult",
    "UpdateAppend",
    "UpdateDecrement",
    "UpdateIncrement",
    "UpdateMerge",
    "UpdateOp",
    "UpdateOpError",
    "UpdateRemove",
    "UpdateSet",
)

if TYPE_CHECKING:
    # Without `model=`, and for a bare `StreamSetResult`, the values are `Any`.
    import typing_extensions

    TData = typing_extensions.TypeVar("TData", default=Any)
else:
    TData = TypeVar("TData")

STREAM_DEPRECATION: Final = (
    "{} is deprecated (iii-stream) and will be removed in an upcoming release. "
    "Behavior is unchanged for now. Migration guide: https://iii.dev/docs/upgrading/migrate-from-streams"
)
"""Upstream's words, which its tests compare (A-15)."""


# -- what the engine asks of a provider ------------------------------------------------------------------------------


class StreamGetInput(MappingModel):
    """Which item to read."""

    stream_name: str
    group_id: str
    item_id: str


class StreamSetInput(MappingModel):
    """What to store as an item."""

    stream_name: str
    group_id: str
    item_id: str
    data: Any


class StreamDeleteInput(MappingModel):
    """Which item to delete."""

    stream_name: str
    group_id: str
    item_id: str


class StreamListInput(MappingModel):
    """Which group to list."""

    stream_name: str
    group_id: str


class StreamListGroupsInput(MappingModel):
    """Which stream's groups to list."""

    stream_name: str


class StreamUpdateInput(MappingModel):
    """What to do to an item, in order and at once."""

    stream_name: str
    group_id: str
    item_id: str
    ops: list[UpdateOp]


class StreamSetResult(BaseModel, Generic[TData], defer_build=True):
    """What a write did.

    Attributes:
        old_value: What was there before; ``None`` when there was nothing.
        new_value: What is there now.
    """

    old_value: TData | None = None
    new_value: TData


class StreamUpdateResult(BaseModel, Generic[TData], defer_build=True):
    """What an update did.

    Attributes:
        old_value: What was there before; ``None`` when there was nothing.
        new_value: What is there now, with the operations that could be applied.
        errors: The operations that could not.
    """

    old_value: TData | None = None
    new_value: TData
    errors: list[UpdateOpError] = Field(default_factory=list[UpdateOpError])


class StreamDeleteResult(BaseModel, defer_build=True):
    """What a deletion did.

    Attributes:
        old_value: What was there before; with ``None`` the engine announces no change (SR-22).
    """

    old_value: Any = None


# -- triggers --------------------------------------------------------------------------------------------------------


class StreamTriggerConfig(BaseModel, defer_build=True):
    """Config of a ``stream`` trigger; what is not given matches all.

    Attributes:
        stream_name: Required.
        group_id: Only changes in this group.
        item_id: Only changes of this item; a message sent without an id never matches.
        condition_function_id: Called first; when it returns ``False`` or fails, the handler is skipped.
    """

    stream_name: str
    group_id: str | None = None
    item_id: str | None = None
    condition_function_id: str | None = None


class StreamChangeEventDetail(MappingModel):
    """What happened.

    Attributes:
        type: ``event`` is a message of ``Stream.send``, which stored nothing.
        data: The new value; of a deletion the old one.
        event: ``{"type", "data"}`` of a message. Upstream's model has no place for it, though the engine sends them
            to ``stream`` triggers (SR-13).
    """

    type: Literal["create", "update", "delete", "event"]
    data: Any = None
    event: Any = Field(default=None, exclude_if=lambda event: event is None)


class StreamChangeEvent(MappingModel):
    """What a handler of a ``stream`` trigger gets (SR-8).

    Attributes:
        type: ``stream``.
        timestamp: Unix time in milliseconds.
        streamName: Of the stream.
        groupId: Of the group.
        id: Of the item.
        event: What happened.
    """

    type: Literal["stream"]
    timestamp: int
    streamName: str
    groupId: str
    id: str | None = None
    event: StreamChangeEventDetail


class StreamJoinLeaveTriggerConfig(BaseModel, defer_build=True):
    """Config of ``stream:join`` and ``stream:leave`` triggers. The engine reads none of it (SR-14)."""

    condition_function_id: str | None = None


class StreamJoinLeaveEvent(MappingModel):
    """A client that joins or leaves a group (SR-15, SR-17).

    Attributes:
        subscription_id: Chosen by the client.
        stream_name: Of the stream.
        group_id: Of the group.
        id: Of the item, when the client wants only one.
        context: What the auth function answered.
    """

    subscription_id: str
    stream_name: str
    group_id: str
    id: str | None = None
    context: Any = None


class StreamJoinResult(BaseModel, defer_build=True):
    """What a ``stream:join`` handler may return: ``unauthorized=True`` refuses the client (SR-16)."""

    unauthorized: bool


StreamContext: TypeAlias = Any
"""Whatever the auth function answered."""


class StreamAuthInput(MappingModel):
    """What the auth function of the stream listener gets (SR-29).

    Attributes:
        headers: Names in lower case.
        path: ``/``.
        query_params: Not percent-decoded.
        addr: Host and port of the client.
    """

    headers: dict[str, str]
    path: str
    query_params: dict[str, list[str]]
    addr: str


class StreamAuthResult(BaseModel, defer_build=True):
    """What it returns. It cannot refuse a client: that is for ``stream:join`` handlers (SR-30)."""

    context: Any = None


# -- providing and using ---------------------------------------------------------------------------------------------


class IStream(ABC, Generic[TData]):
    """A stream of your own; ``create_stream`` offers it to the engine.

    Defining a subclass raises upstream's ``FutureWarning``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # 3: the class statement, behind this method and ABCMeta.__new__.
        warnings.warn(STREAM_DEPRECATION.format("IStream"), FutureWarning, stacklevel=3)

    @abstractmethod
    async def get(self, input: StreamGetInput) -> TData | None:  # noqa: A002 - upstream's name
        """Read an item."""

    @abstractmethod
    async def set(self, input: StreamSetInput) -> StreamSetResult[TData] | None:  # noqa: A002 - upstream's name
        """Store an item. The engine takes ``None`` for a failure (SR-21)."""

    @abstractmethod
    async def delete(self, input: StreamDeleteInput) -> StreamDeleteResult:  # noqa: A002 - upstream's name
        """Delete an item."""

    @abstractmethod
    async def list(self, input: StreamListInput) -> builtins.list[TData]:  # noqa: A002 - upstream's name
        """Read a group."""

    @abstractmethod
    async def list_groups(self, input: StreamListGroupsInput) -> builtins.list[str]:  # noqa: A002 - upstream's name
        """Name the groups."""

    @abstractmethod
    async def update(self, input: StreamUpdateInput) -> StreamUpdateResult[TData] | None:  # noqa: A002 - upstream's
        """Change an item in place. The engine takes ``None`` for a failure (SR-21)."""


class Stream:
    """The items of one stream, through the engine: its own store, or the provider of a custom stream.

    As with ``trigger`` and ``trigger_async``, a bare name blocks the calling thread and ``_async`` awaits. Values may
    be models; ``model=``, any type that pydantic knows, validates what comes back. All raise ``InvocationError`` with
    the engine's code; a value that does not fit is a ``pydantic.ValidationError``, for writes after they were made.

    Attributes:
        name: Of the stream.

    Wire: InvokeFunction of ``stream::*`` in namespace ``default``.
    """

    def __init__(self, iii: Invoker, name: str) -> None:
        self.name = name
        self._iii = iii

    def __repr__(self) -> str:
        return f"<Stream {self.name}>"

    def get(self, group_id: str, item_id: str, *, model: type[TData] | None = None) -> TData | None:
        """Read an item; ``None`` when there is none, or when it is null."""
        return optional(self._iii.trigger(self._get(group_id, item_id)), model)

    async def get_async(self, group_id: str, item_id: str, *, model: type[TData] | None = None) -> TData | None:
        """Do what ``get`` does, awaiting."""
        return optional(await self._iii.trigger_async(self._get(group_id, item_id)), model)

    def set(
        self, group_id: str, item_id: str, data: Any, *, model: type[TData] | None = None
    ) -> StreamSetResult[TData]:
        """Store an item."""
        return read(StreamSetResult, model, self._iii.trigger(self._set(group_id, item_id, data)))

    async def set_async(
        self, group_id: str, item_id: str, data: Any, *, model: type[TData] | None = None
    ) -> StreamSetResult[TData]:
        """Do what ``set`` does, awaiting."""
        return read(StreamSetResult, model, await self._iii.trigger_async(self._set(group_id, item_id, data)))

    def delete(self, group_id: str, item_id: str, *, model: type[TData] | None = None) -> TData | None:
        """Delete an item and return what it was; one that is not there is no error."""
        return _deleted(self._iii.trigger(self._delete(group_id, item_id)), model)

    async def delete_async(self, group_id: str, item_id: str, *, model: type[TData] | None = None) -> TData | None:
        """Do what ``delete`` does, awaiting."""
        return _deleted(await self._iii.trigger_async(self._delete(group_id, item_id)), model)

    def update(
        self,
        group_id: str,
        item_id: str,
        ops: Sequence[UpdateOp | dict[str, Any]],
        *,
        model: type[TData] | None = None,
    ) -> StreamUpdateResult[TData]:
        """Apply operations in order, at once. What cannot be applied is in ``errors``; an absent item is made."""
        return read(StreamUpdateResult, model, self._iii.trigger(self._update(group_id, item_id, ops)))

    async def update_async(
        self,
        group_id: str,
        item_id: str,
        ops: Sequence[UpdateOp | dict[str, Any]],
        *,
        model: type[TData] | None = None,
    ) -> StreamUpdateResult[TData]:
        """Do what ``update`` does, awaiting."""
        answer = await self._iii.trigger_async(self._update(group_id, item_id, ops))
        return read(StreamUpdateResult, model, answer)

    def list(self, group_id: str, *, model: type[TData] | None = None) -> builtins.list[TData]:
        """Read the items of a group, without their ids."""
        return validated_list(self._iii.trigger(self._list(group_id)), model)

    async def list_async(self, group_id: str, *, model: type[TData] | None = None) -> builtins.list[TData]:
        """Do what ``list`` does, awaiting."""
        return validated_list(await self._iii.trigger_async(self._list(group_id)), model)

    def list_groups(self) -> builtins.list[str]:
        """Name the groups, in no order; of the engine's store also those that are empty by now (SR-4)."""
        return groups_of(self._iii.trigger(self._list_groups()))

    async def list_groups_async(self) -> builtins.list[str]:
        """Do what ``list_groups`` does, awaiting."""
        return groups_of(await self._iii.trigger_async(self._list_groups()))

    def send(self, group_id: str, type: str, data: Any, *, item_id: str | None = None) -> None:
        """Send a message to a group's subscribers and ``stream`` triggers; nothing is stored (SR-6)."""
        self._iii.trigger(self._send(group_id, type, data, item_id))

    async def send_async(self, group_id: str, type: str, data: Any, *, item_id: str | None = None) -> None:
        """Do what ``send`` does, awaiting."""
        await self._iii.trigger_async(self._send(group_id, type, data, item_id))

    # -- requests ------------------------------------------------------------------------------------------------

    def _get(self, group_id: str, item_id: str) -> dict[str, Any]:
        return request("stream::get", stream_name=self.name, group_id=group_id, item_id=item_id)

    def _set(self, group_id: str, item_id: str, data: Any) -> dict[str, Any]:
        return request("stream::set", stream_name=self.name, group_id=group_id, item_id=item_id, data=data)

    def _delete(self, group_id: str, item_id: str) -> dict[str, Any]:
        return request("stream::delete", stream_name=self.name, group_id=group_id, item_id=item_id)

    def _update(self, group_id: str, item_id: str, ops: Sequence[UpdateOp | dict[str, Any]]) -> dict[str, Any]:
        wanted = validated_ops(ops)
        return request("stream::update", stream_name=self.name, group_id=group_id, item_id=item_id, ops=wanted)

    def _list(self, group_id: str) -> dict[str, Any]:
        return request("stream::list", stream_name=self.name, group_id=group_id)

    def _list_groups(self) -> dict[str, Any]:
        return request("stream::list_groups", stream_name=self.name)

    def _send(self, group_id: str, type: str, data: Any, item_id: str | None) -> dict[str, Any]:
        about = {} if item_id is None else {"id": item_id}
        return request("stream::send", stream_name=self.name, group_id=group_id, type=type, data=data, **about)


def _deleted(answer: Any, model: type[TData] | None) -> TData | None:
    # SR-2: an object here, the old value itself for state.
    return optional(None if answer is None else StreamDeleteResult.model_validate(answer).old_value, model)
