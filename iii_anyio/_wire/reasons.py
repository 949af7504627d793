"""Why no connection could be made, in one line: what happened and what to check. Used by ``connect.py`` alone."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final, cast

__all__ = ("of_answer", "of_failure")

_HINTS: Final = {
    200: "this is an HTTP server; the engine's worker listener is another port, 49134 unless configured otherwise",
    400: "the peer did not take this for a WebSocket handshake",
    401: "check III_TOKEN or InitOptions(headers=...)",
    403: "check III_TOKEN or InitOptions(headers=...)",
    404: "there is nothing at this path; check the address",
    407: "the proxy wants credentials; put them into its URL",
    426: "the peer does not speak this WebSocket version",
    429: "too many connections or requests",
    502: "a proxy cannot reach the engine",
    503: "the engine or a proxy in front of it is not ready, or has too many connections",
    504: "a proxy cannot reach the engine",
}


def of_answer(status: int) -> str:
    """What an HTTP status other than 101 means here."""
    return _HINTS.get(status, "it is no WebSocket endpoint, or refuses us")


def of_failure(exc: BaseException, *, through_proxy: bool) -> str:
    """What lies below an exception of the network."""
    causes = list(_causes(exc))
    who, port = ("the proxy", "its") if through_proxy else ("the engine", "this its")
    for cause in causes:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"the certificate was not accepted ({cause.verify_message}); see verify_tls"
            case ssl.SSLError():
                return f"TLS failed ({cause.reason or cause}); does the peer speak plain ws://?"
            case socket.gaierror():
                return f"the name of {'the proxy' if through_proxy else 'the host'} is unknown ({cause.strerror})"
            case ConnectionRefusedError():
                return f"connection refused; is {who} running, and is {port} port?"
            case _:
                pass
    said = next((str(cause) for cause in reversed(causes) if str(cause)), type(exc).__name__)
    return f"the connection{' through the proxy' if through_proxy else ''} failed: {said}"


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """The exception and what led to it, nearest first."""
    while exc is not None:
        yield exc
        if isinstance(exc, BaseExceptionGroup):
            for member in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
                yield from _causes(member)
        exc = exc.__cause__ or exc.__context__
