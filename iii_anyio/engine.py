"""Ids of the engine's own functions and trigger types, as upstream names them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

__all__ = ("EngineFunctions", "EngineTriggers", "RemoteFunctionHandler")

RemoteFunctionHandler: TypeAlias = Callable[[Any], Awaitable[Any]]
"""Upstream's name for a handler. Sync functions and those that take ``metadata`` are handlers, too."""


class EngineFunctions:
    """Function ids in namespace ``default``."""

    LIST_FUNCTIONS: Final = "engine::functions::list"
    INFO_FUNCTIONS: Final = "engine::functions::info"
    LIST_WORKERS: Final = "engine::workers::list"
    INFO_WORKERS: Final = "engine::workers::info"
    LIST_TRIGGERS: Final = "engine::triggers::list"
    INFO_TRIGGERS: Final = "engine::triggers::info"
    LIST_REGISTERED_TRIGGERS: Final = "engine::registered-triggers::list"
    INFO_REGISTERED_TRIGGERS: Final = "engine::registered-triggers::info"
    REGISTER_WORKER: Final = "engine::workers::register"


class EngineTriggers:
    """Trigger type ids the engine fires itself."""

    FUNCTIONS_AVAILABLE: Final = "engine::functions-available"
    LOG: Final = "log"
