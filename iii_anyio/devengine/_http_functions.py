"""External HTTP functions without I/O: which URLs are allowed, what a request says, what an answer means (X-…).

Below: the project's JSON. Above: ``builtins/http_functions``, which makes the requests.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any, Final, cast

from .._protocol.jsontext import from_json
from .._wire.http_url import Address, HttpUrl
from ..errors import DecodeError, InvocationError
from ._http_messages import sorted_json

__all__ = ("HttpFunction", "Security", "UrlRefusedError", "is_private", "read_answer")

DEFAULT_TIMEOUT_MS: Final = 30_000
_NAT64: Final = IPv6Network("64:ff9b::/96")
_PHRASES: Final = {
    413: "Payload Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    418: "I'm a teapot",
    422: "Unprocessable Entity",
}
"""Those that Python's versions name differently."""


class UrlRefusedError(Exception):
    """A URL that the security settings do not allow."""


@dataclass(frozen=True, slots=True)
class Security:
    """Where requests may go."""

    url_allowlist: tuple[str, ...] = ("*",)
    """Patterns with ``*`` and ``?`` of the host alone; none allows every host."""
    block_private_ips: bool = False
    require_https: bool = False

    def check(self, url: HttpUrl) -> None:
        """Check what can be told without asking for the addresses of a name.

        Raises:
            UrlRefusedError: It is not allowed.
        """
        if self.require_https and not url.is_secure:
            raise UrlRefusedError("security.require_https allows only https URLs")
        if self.url_allowlist and not any(_matches(pattern, url.host) for pattern in self.url_allowlist):
            raise UrlRefusedError(f"host {url.host} is not in security.url_allowlist")
        address = url.address
        is_local = url.host.rstrip(".") == "localhost" or url.host.rstrip(".").endswith(".localhost")
        if (address is not None and not self.allows(address)) or (is_local and self.block_private_ips):
            raise UrlRefusedError(f"security.block_private_ips allows no requests to {url.host}")

    def allows(self, address: Address) -> bool:
        """Whether an address may be connected to."""
        return not (self.block_private_ips and is_private(address))


def _matches(pattern: str, host: str) -> bool:
    # In fnmatch a bracket begins a set of characters; in a host it encloses an IPv6 address.
    return fnmatchcase(host, pattern.lower().strip("[]"))


def is_private(address: Address) -> bool:
    """Whether an address is none of the public internet; of addresses that embed one of IPv4, whether that is."""
    if isinstance(address, IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = IPv4Address(int(address) & 0xFFFF_FFFF)
        if embedded is not None:
            return is_private(embedded)
        if address.teredo is not None or address.is_site_local:
            return True
    return not address.is_global or address.is_multicast or address.is_reserved


@dataclass(frozen=True, slots=True)
class HttpFunction:
    """What a registration's ``invocation`` says, with the secrets it names."""

    url: HttpUrl
    method: str
    timeout: float
    headers: tuple[tuple[str, str], ...]
    secret_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    signing_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_invocation(
        cls, url: HttpUrl, invocation: Mapping[str, Any], environment: Mapping[str, str]
    ) -> HttpFunction:
        """Read a registration that the codec has checked; the variables it names are read now, once (X-19).

        Raises:
            ValueError: A variable is missing.
        """
        timeout_ms = invocation.get("timeout_ms")
        secret_headers: tuple[tuple[str, str], ...] = ()
        signing_key: bytes | None = None

        def variable(name: str) -> str:
            value = environment.get(name)
            if value is None:
                raise ValueError(f"the engine has no environment variable {name!r}")
            return value

        match invocation.get("auth"):
            case {"type": "bearer", "token_key": str(name)}:
                secret_headers = (("Authorization", f"Bearer {variable(name)}"),)
            case {"type": "api_key", "header": str(header), "value_key": str(name)}:
                secret_headers = ((header, variable(name)),)
            case {"type": "hmac", "secret_key": str(name)}:
                signing_key = variable(name).encode("utf-8", "surrogateescape")
            case _:
                pass
        return cls(
            url,
            invocation.get("method", "POST"),
            (DEFAULT_TIMEOUT_MS if timeout_ms is None else timeout_ms) / 1000,
            tuple(invocation.get("headers", {}).items()),
            secret_headers,
            signing_key,
        )

    def request(
        self, function_id: str, data: object, *, invocation_id: str, unix_seconds: int
    ) -> tuple[Sequence[tuple[str, str]], bytes]:
        """Headers and body of one call, with every method (X-1, X-3).

        Raises:
            EncodeError: ``data`` cannot be written as JSON.
        """
        body = sorted_json(data)
        timestamp = str(unix_seconds)
        headers = [
            ("Content-Type", "application/json"),
            ("x-iii-Function-Path", function_id),
            ("x-iii-Invocation-ID", invocation_id),
            ("x-iii-Timestamp", timestamp),
            *self.headers,  # added, not replacing
            *self.secret_headers,
        ]
        if self.signing_key is not None:
            signed = timestamp.encode() + b":" + b64encode(body)
            digest = hmac.new(self.signing_key, signed, hashlib.sha256).hexdigest()
            headers.append(("x-iii-Signature", f"sha256={digest}"))
        return headers, body


def read_answer(status: int, body: bytes) -> Any:
    """What the caller gets of an answer; None for no result.

    Raises:
        InvocationError: The answer says that the function failed, or says nothing that can be read.
    """
    if 200 <= status < 300:
        if not body:
            return None
        try:
            return from_json(body)
        except DecodeError as error:
            raise InvocationError("invalid_response", f"the answer with status {status} is no JSON: {error}") from error
    try:
        answer = from_json(body) if body else None
    except DecodeError:
        answer = None
    if status < 400:
        return answer  # a redirect is not followed, and no failure
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    if fields.get("error") is None:
        raise InvocationError("http_error", f"HTTP {status} {_phrase(status)}")
    sent: object = fields["error"]
    said = cast("dict[str, Any]", sent) if isinstance(sent, dict) else {}
    code, message = said.get("code"), said.get("message")
    raise InvocationError(
        code if isinstance(code, str) else "http_error",
        message if isinstance(message, str) else "HTTP request failed",
    )


def _phrase(status: int) -> str:
    if status in _PHRASES:
        return _PHRASES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "<unknown status code>"
