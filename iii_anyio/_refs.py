"""Channels as they stand in payloads: references to an end of one, and what is passed through.

Owns the pure part; connections are ``channel.py``'s. Below: pydantic. Above: ``channel.py``, ``helpers.py``,
``utils.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal, Self, TypedDict, TypeGuard, cast

from pydantic import BaseModel, ConfigDict

__all__ = (
    "ChannelDirection",
    "ChannelItem",
    "StreamChannelRef",
    "StreamChannelRefDict",
    "extract_channel_refs",
    "is_channel_ref",
)


class ChannelDirection(StrEnum):
    """What its holder does with an end of a channel."""

    READ = "read"
    WRITE = "write"


class StreamChannelRef(BaseModel):
    """One end of a channel, to be put into a payload; whoever has it can connect.

    Attributes:
        channel_id: Of the channel.
        access_key: Its capability: keep it out of logs.
        direction: What the receiver does.
    """

    # No `defer_build`, unlike the package's other models: for the first model of all pydantic looks for plugins, which
    # reads files, and that is not for an event loop.
    # A handler's model with a field of this type is given the live end that arrives in its place.
    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)

    channel_id: str
    access_key: str
    direction: Literal["read", "write"]


class StreamChannelRefDict(TypedDict):
    """A ``StreamChannelRef`` as JSON."""

    channel_id: str
    access_key: str
    direction: Literal["read", "write"]


@dataclass
class ChannelItem:
    """What went through a channel: text or bytes, one of them.

    Attributes:
        text: Of a text frame.
        binary: Of a binary frame.
    """

    text: str | None = None
    binary: bytes | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.binary is None):
            raise ValueError("a ChannelItem is either text or binary: give exactly one of the two")

    @classmethod
    def text_item(cls, value: str) -> Self:
        """Make one of text."""
        return cls(text=value)

    @classmethod
    def binary_item(cls, value: bytes) -> Self:
        """Make one of bytes."""
        return cls(binary=value)

    @property
    def is_text(self) -> bool:
        """Whether it is text."""
        return self.text is not None

    @property
    def is_binary(self) -> bool:
        """Whether it is bytes."""
        return self.binary is not None


def is_channel_ref(value: Any) -> TypeGuard[StreamChannelRefDict]:
    """Whether a value of a payload is a channel reference: a dict with its three keys, others allowed."""
    if not isinstance(value, dict):
        return False
    ref = cast("dict[object, object]", value)
    return (
        isinstance(ref.get("channel_id"), str)
        and isinstance(ref.get("access_key"), str)
        and ref.get("direction") in ("read", "write")
    )


def extract_channel_refs(data: Any) -> list[tuple[str, StreamChannelRef]]:
    """Find the channel references of a payload, in dicts and lists, each with its path.

    Returns:
        Pairs such as ``("items[0].writer", ref)``; the path of ``data`` itself is ``""``. Dots in keys stay.
    """
    return list(_refs(data, ""))


def _refs(data: Any, path: str) -> Iterator[tuple[str, StreamChannelRef]]:
    if is_channel_ref(data):
        yield path, StreamChannelRef.model_validate(data)
    elif isinstance(data, dict):
        for key, value in cast("dict[object, object]", data).items():
            yield from _refs(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list):
        for index, value in enumerate(cast("list[object]", data)):
            yield from _refs(value, f"{path}[{index}]")
