"""How the ``iii-http`` built-in behaves: its options, in code and as the real engine's configuration file has them.

Above: ``builtins/http``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import MAX_MESSAGE_BYTES
from ._errors import shorten
from ._http_messages import CorsOptions
from ._settings import Section

__all__ = ("CONFIG_SCHEMA", "NAME", "GlobalMiddleware", "HttpOptions", "read_options")

logger: Final = logging.getLogger("iii_anyio.devengine.http")

NAME: Final = "iii-http"
_MAX_TIMEOUT_MS: Final = 86_400_000
_TEXTS: Final = {"type": "array", "items": {"type": "string"}}
CONFIG_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "host": {"type": "string"},
        "port": {"type": "integer", "minimum": 0, "maximum": 65_535},
        "default_timeout": {"type": "integer", "minimum": 1, "maximum": _MAX_TIMEOUT_MS},
        "concurrency_request_limit": {"type": "integer", "minimum": 0},
        "cors": {
            "type": ["object", "null"],
            "properties": {"allowed_origins": _TEXTS, "allowed_methods": _TEXTS},
        },
        "middleware": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["function_id"],
                "properties": {
                    "function_id": {"type": "string"},
                    "phase": {"type": "string"},
                    "priority": {"type": "integer"},
                },
            },
        },
    },
}
"""Of the configuration entry (H-2, CF-13)."""


@dataclass
class GlobalMiddleware:
    """A function called before every routed request, in the route's namespace (H-35)."""

    function_id: str
    phase: str = "preHandler"
    """Entries of any other phase never run (H-4)."""
    priority: int = 0
    """Lower runs first."""


@dataclass
class HttpOptions:
    """How the HTTP listener behaves. Seconds and bytes."""

    default_timeout: float = 30.0
    """For a whole request, until its response is decided."""
    cors: CorsOptions | None = None
    """``None`` allows every origin (H-55)."""
    middleware: list[GlobalMiddleware] = field(default_factory=list[GlobalMiddleware])
    max_body: int = MAX_MESSAGE_BYTES
    """A larger JSON body is answered 413. Other bodies are not collected and have no limit."""
    concurrency_limit: int = 1024
    """One more request is answered 503. Upstream's key of the same meaning has no effect (H-50)."""


def read_options(config: object) -> HttpOptions:
    """The options that a configuration gives, with upstream's keys.

    Raises:
        ValueError: A wrong value.
    """
    root = Section(NAME, config)
    root.ignore("host", "port")  # the engine has bound them already
    cors = root.section("cors")
    options = HttpOptions(
        default_timeout=root.integer("default_timeout", 30_000, 1, _MAX_TIMEOUT_MS) / 1000,
        cors=None if cors is None else CorsOptions(cors.texts("allowed_origins"), cors.texts("allowed_methods")),
        # 0 is raised to 1, as upstream does.
        concurrency_limit=max(1, root.integer("concurrency_request_limit", 1024, 0, 1_000_000)),
    )
    for entry in root.sections("middleware"):
        function_id = entry.text("function_id", "")
        if not function_id:
            entry.refuse("function_id", function_id, "the id of a function")
        phase, priority = entry.text("phase", "preHandler"), entry.integer("priority", 0, -(2**31), 2**31 - 1)
        if phase != "preHandler":  # H-4
            logger.warning("%s: middleware %s never runs: its phase is not preHandler", NAME, shorten(function_id))
        options.middleware.append(GlobalMiddleware(function_id, phase, priority))
        entry.end()
    if cors is not None:
        cors.end()
    root.end()
    return options
