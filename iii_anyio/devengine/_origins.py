"""Which web pages may connect: the ``Origin`` of a browser's WebSocket request.

Browsers let every page open WebSockets to this machine, whatever site it comes from, and say in ``Origin`` only which.
The real engine looks at it nowhere; here a page somewhere on the web would command the workers of whoever opens it. So
pages of this machine may connect, and others must be allowed. Whatever is no browser sends no ``Origin``, and may.

Names do not count as this machine's because ``Host`` says the same: a site can have its own name resolve to 127.0.0.1.

Below: nothing. Above: ``_listeners`` and ``builtins/stream`` have one; who accepts a connection asks it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from .._wire.listen import Accepted

__all__ = ("Origins", "is_loopback")

logger: Final = logging.getLogger("iii_anyio.devengine")

ANY: Final = "*"
MAX_TOLD: Final = 100
"""Origins that the log names; a page that is refused tries again and again."""
_PORTS: Final = {"http": 80, "https": 443}


class Origins:
    """The pages that may connect to one listener.

    Args:
        allowed: Origins besides those of this machine, such as ``https://shop.example``; ``*`` for all.

    Raises:
        ValueError: One is no origin.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        if isinstance(allowed, str):
            raise ValueError(f"allowed_origins must be a list of origins, not the text {allowed!r}")
        self._allowed = frozenset(_normal(origin) for origin in allowed)
        self._told: set[str] = set()

    async def refuse(self, accepted: Accepted) -> bool:
        """Answer 403 if the connection comes from a page that may not connect."""
        origin = accepted.headers.get("origin")
        if origin is None or self.allows(origin, accepted.headers.get("host", "")):
            return False
        level = logging.DEBUG
        if origin not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(origin)
            level = logging.WARNING
        logger.log(
            level,
            "a page of %.200r refused: it is none of this machine; if it is yours, allow it with "
            "allowed_origins=[...] (--allow-origin)",
            origin,
        )
        await accepted.reject(403, "Pages of this origin may not connect; the engine's log says how to allow it\n")
        return True

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page may connect.

        Args:
            origin: As the browser sends it. ``null`` is that of a sandboxed frame, which any page can make.
            host: Of the same request: a page that has come from the very address it connects to is of this machine.
        """
        if ANY in self._allowed:
            return True
        try:
            page = urlsplit(origin)
            name = page.hostname or ""
            # Browsers take names below `localhost` for this machine, whatever a name server says.
            if is_loopback(name) or name.endswith(".localhost") or _of(page) in self._allowed:
                return True
            # An address cannot be made to mean another machine, unlike a name.
            return ip_address(name) == ip_address(urlsplit(f"//{host}").hostname or "")
        except ValueError:
            return False


def _normal(origin: str) -> str:
    """An origin as browsers send it.

    Raises:
        ValueError: It is none.
    """
    if origin == ANY:
        return origin
    try:
        parts = urlsplit(origin)
        normal = _of(parts)
    except ValueError:
        parts, normal = SplitResult("", "", "", "", ""), ""
    if not parts.scheme or parts.hostname is None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{origin!r} is no origin: say https://shop.example, without a path, or * for all pages")
    return normal


def _of(parts: SplitResult) -> str:
    port = f":{parts.port}" if parts.port is not None and parts.port != _PORTS.get(parts.scheme) else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def is_loopback(host: str) -> bool:
    """Whether an address, or ``localhost``, is of this machine and of no other."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
