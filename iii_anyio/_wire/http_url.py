"""An ``http`` or ``https`` URL in its parts, read once: what is checked is what is connected to. No I/O.

Above: ``fetch`` and who uses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias
from urllib.parse import quote, unquote, urlsplit

__all__ = ("Address", "HttpUrl")

Address: TypeAlias = IPv4Address | IPv6Address

_UNUSABLE: Final = re.compile(r"[\x00-\x20\x7f\\]")
_NAME: Final = re.compile(r"[a-z0-9._-]{1,253}")
_KEPT: Final = "/%:@!$&'()*+,;=~-._"
"""Besides letters and digits; escapes are left as they are."""


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """The parts of a URL that a request is made of."""

    is_secure: bool
    host: str
    """Lower case, international names in their ASCII form, an IPv6 address without brackets."""
    port: int
    host_header: str
    target: str
    """Path and query, escaped."""
    credentials: bytes = field(default=b"", repr=False)
    """``user:password`` of the URL."""

    @classmethod
    def parse(cls, text: str) -> HttpUrl:
        """Read a URL.

        Raises:
            ValueError: It is none, or of another scheme.
        """
        if _UNUSABLE.search(text):
            raise ValueError("it is no URL: it has a blank, a control character or a backslash")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as exc:
            raise ValueError(f"it is no URL: {exc}") from exc
        if parts.scheme not in {"http", "https"}:
            raise ValueError("its scheme must be http or https")
        if port == 0:
            raise ValueError("nothing listens on port 0")
        host = _host(parts.hostname)
        bracketed = f"[{host}]" if ":" in host else host
        is_secure = parts.scheme == "https"
        query = f"?{quote(parts.query, safe=_KEPT + '?')}" if parts.query else ""
        has_credentials = parts.username is not None or parts.password is not None
        return cls(
            is_secure,
            host,
            port if port is not None else 443 if is_secure else 80,
            bracketed if port is None else f"{bracketed}:{port}",
            quote(parts.path or "/", safe=_KEPT) + query,
            f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode() if has_credentials else b"",
        )

    def __str__(self) -> str:
        """Without what may be secret."""
        return f"http{'s' if self.is_secure else ''}://{self.host_header}{self.target.partition('?')[0]}"

    @property
    def address(self) -> Address | None:
        """The host when it is an IP address."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


def _host(text: str | None) -> str:
    if not text:
        raise ValueError("it has no host")
    if "%" in text and ":" in text:
        raise ValueError("its host is no IPv6 address: zones are not supported")
    if ":" in text:
        try:
            return str(IPv6Address(text))
        except ValueError as exc:
            raise ValueError(f"its host is no IPv6 address: {exc}") from exc
    try:
        host = text.encode("idna").decode("ascii").lower()
    except UnicodeError as exc:
        raise ValueError(f"its host is no name: {exc}") from exc
    if not _NAME.fullmatch(host):
        raise ValueError(f"its host {text!r} has a character that names must not have")
    return host
