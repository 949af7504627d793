"""Upstream's free functions on a client. Channels are in ``channel.py``, their references in ``_refs.py``.

Below: the worker and ``stream.py``. Above: applications.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any, Final, Protocol

from ._refs import ChannelDirection, ChannelItem, extract_channel_refs, is_channel_ref
from .channel import create_channel, create_channel_async
from .stream import (
    STREAM_DEPRECATION,
    IStream,
    StreamDeleteInput,
    StreamGetInput,
    StreamListGroupsInput,
    StreamListInput,
    StreamSetInput,
    StreamUpdateInput,
)
from .worker import WorkerMethods

__all__ = (
    "ChannelDirection",
    "ChannelItem",
    "create_channel",
    "create_channel_async",
    "create_stream",
    "extract_channel_refs",
    "is_channel_ref",
)

logger: Final = logging.getLogger("iii_anyio")


class _Registrar(Protocol):
    def register_function(self, function_id: str, handler_or_invocation: Any, /) -> Any: ...


def create_stream(iii: _Registrar, stream_name: str, stream: IStream[Any]) -> None:
    """Offer a stream of your own to the engine, which then asks it instead of its store (SR-18).

    Six functions are registered, ``stream::get(<name>)`` and so on. Upstream leaves out ``update``: the engine then
    updates its own store, where ``get`` does not look (SR-19). The engine looks for a provider in namespace ``default``
    only. Upstream has deprecated this function: each call raises its ``FutureWarning``.

    Raises:
        ValueError: This worker has a stream of that name already.

    Upstream: iii.helpers.create_stream.
    """
    warnings.warn(STREAM_DEPRECATION.format("create_stream"), FutureWarning, stacklevel=2)
    if isinstance(iii, WorkerMethods) and iii.namespace not in {None, "default"}:
        logger.warning(
            "the engine looks for streams in namespace 'default', not in %r: provide %r from a worker there",
            iii.namespace,
            stream_name,
        )

    # The annotations validate what the engine asks; results are the implementation's, and go as they are.
    async def get(input: StreamGetInput) -> Any:  # noqa: A002 - upstream's name
        return await stream.get(input)

    async def set(input: StreamSetInput) -> Any:  # noqa: A001, A002 - upstream's names
        return await stream.set(input)

    async def delete(input: StreamDeleteInput) -> Any:  # noqa: A002 - upstream's name
        return await stream.delete(input)

    async def list(input: StreamListInput) -> Any:  # noqa: A001, A002 - upstream's names
        return await stream.list(input)

    async def list_groups(input: StreamListGroupsInput) -> Any:  # noqa: A002 - upstream's name
        return await stream.list_groups(input)

    async def update(input: StreamUpdateInput) -> Any:  # noqa: A002 - upstream's name
        return await stream.update(input)

    for handler in (get, set, delete, list, list_groups, update):
        iii.register_function(f"stream::{handler.__name__}({stream_name})", handler)
