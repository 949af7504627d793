"""Requests that the application makes itself, as client spans: with httpx when asked to, with urllib by itself."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from ._instrument import SCOPE
from ._state import current_pipeline

if TYPE_CHECKING:
    import httpx

__all__ = ("execute_traced_request", "instrument_urllib", "release_urllib")


def _is_ignored(url: str) -> bool:
    """``OTEL_FETCH_IGNORE_URLS``: parts of URLs, separated by commas."""
    parts = (part.strip() for part in os.environ.get("OTEL_FETCH_IGNORE_URLS", "").split(","))
    return any(part in url for part in parts if part)


def _attributes(method: str, url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    # A password does not belong into a trace.
    shown = url.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else url
    found: dict[str, Any] = {"http.request.method": method, "url.full": shown}
    try:
        port = parts.port
    except ValueError:
        port = None
    about = {
        "server.address": parts.hostname,
        "server.port": port,
        "url.scheme": parts.scheme,
        "network.protocol.name": "http" if parts.scheme else None,
        "url.path": parts.path,
        "url.query": parts.query,
    }
    return found | {name: value for name, value in about.items() if value}


@contextmanager
def _client_span(method: str, url: str) -> Generator[Span]:
    attributes = _attributes(method, url)
    path = attributes.get("url.path")
    pipeline = current_pipeline()
    tracer = pipeline.tracer if pipeline is not None else trace.get_tracer(SCOPE)
    name = f"{method} {path}" if path else method
    with tracer.start_as_current_span(
        name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as exc:
            span.set_attribute("error.type", type(exc).__name__)
            if isinstance(exc, Exception):
                span.record_exception(exc)
            span.set_status(Status(StatusCode.ERROR, str(exc)))
            raise


def _headers() -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def _answered(span: Span, status: int, headers: Mapping[str, str]) -> None:
    span.set_attribute("http.response.status_code", status)
    length, kind = headers.get("content-length"), headers.get("content-type")
    if length is not None and length.isdecimal():
        span.set_attribute("http.response.body.size", int(length))
    if kind:
        span.set_attribute("http.response.header.content-type", kind)
    if status >= 400:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR, str(status)))
    else:
        span.set_status(Status(StatusCode.OK))


async def execute_traced_request(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send a request inside a client span, with the trace's headers.

    An answer of 400 and above is an error on the span, and no exception. URLs that contain an entry of
    ``OTEL_FETCH_IGNORE_URLS`` (separated by commas) are sent as they are.

    Upstream: iii_helpers.observability.execute_traced_request.
    """
    url = str(request.url)
    if _is_ignored(url):
        return await client.send(request)
    with _client_span(request.method.upper(), url) as span:
        request.headers.update(_headers())
        for name in ("content-type", "accept"):
            if value := request.headers.get(name):
                span.set_attribute(f"http.request.header.{name}", value)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and length != "0":
            span.set_attribute("http.request.body.size", int(length))
        response = await client.send(request)
        _answered(span, response.status_code, response.headers)
        return response


# -- urllib ----------------------------------------------------------------------------------------------------------

_lock: Final = threading.Lock()
_users = 0
_original: Any = None


def instrument_urllib() -> None:
    """Trace what ``urllib`` sends, until everybody who called this has called ``release_urllib``."""
    global _users, _original
    with _lock:
        _users += 1
        if _users == 1:
            _original = urllib.request.OpenerDirector.open
            urllib.request.OpenerDirector.open = _open  # type: ignore[method-assign]


def release_urllib() -> None:
    """Put the original back with the last one."""
    global _users
    with _lock:
        _users -= 1
        if _users == 0 and urllib.request.OpenerDirector.open is _open:
            urllib.request.OpenerDirector.open = _original  # type: ignore[method-assign]


def _open(self: Any, fullurl: Any, data: Any = None, timeout: Any = socket.getdefaulttimeout()) -> Any:  # noqa: B008 - as in urllib
    request = urllib.request.Request(fullurl, data) if isinstance(fullurl, str) else fullurl
    pipeline = current_pipeline()
    if pipeline is None or not pipeline.config.fetch_instrumentation_enabled or _is_ignored(request.full_url):
        return _original(self, fullurl, data, timeout)
    if data is not None:
        request.data = data
    with _client_span(request.get_method(), request.full_url) as span:
        for name, value in _headers().items():
            request.add_unredirected_header(name, value)
        if isinstance(request.data, bytes | bytearray):
            span.set_attribute("http.request.body.size", len(request.data))
        try:
            response = _original(self, request, None, timeout)
        except Exception as exc:
            if isinstance(code := getattr(exc, "code", None), int):  # urllib.error.HTTPError
                span.set_attribute("http.response.status_code", code)
            raise
        _answered(span, int(getattr(response, "status", None) or 200), response.headers)
        return response
