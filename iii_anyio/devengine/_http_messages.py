"""The HTTP trigger's translations: a request to what functions get, what they return to a response. No I/O.

Below: the project's JSON. Above: ``builtins/http``, which decides when each of these is used.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, cast
from urllib.parse import unquote_to_bytes

from .._protocol.jsontext import from_json, to_json
from ..errors import DecodeError

if TYPE_CHECKING:
    from ._routes import Match

__all__ = (
    "ChannelRef",
    "CorsOptions",
    "RequestHead",
    "Response",
    "condition_not_met",
    "condition_payload",
    "cors_headers",
    "function_failed",
    "handler_payload",
    "header_map",
    "is_response",
    "json_body",
    "method_not_allowed",
    "middleware_payload",
    "not_found",
    "overloaded",
    "payload_too_large",
    "preflight",
    "query_map",
    "read_middleware",
    "read_result",
    "request_traceparent",
    "sorted_json",
    "streamed_head",
    "timed_out",
    "with_cors",
)

ChannelRef: TypeAlias = dict[str, Any]
RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

JSON_TYPE: Final = (b"content-type", b"application/json")

# Framing and the connection are the server's: a handler's idea of them could desynchronise it and its client.
_SERVER_OWNED: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PRINTABLE: Final = re.compile(rb"[\t\x20-\x7e]*")
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")


# ---------------------------------------------------------------- what functions get


@dataclass(slots=True, frozen=True)
class RequestHead:
    """A request as functions see it, before its body is known."""

    method: str
    headers: dict[str, str]
    query_params: dict[str, str]

    @property
    def has_json(self) -> bool:
        """Whether the body is parsed: by this substring, in this case only (H-23)."""
        return "application/json" in self.headers.get("content-type", "")


def header_map(headers: RawHeaders) -> dict[str, str]:
    """Lower-cased names; of a repeated header the last value; an unprintable value is ``""`` (H-22)."""
    return {
        name.lower().decode("latin-1"): value.decode("ascii") if _PRINTABLE.fullmatch(value) else ""
        for name, value in headers
    }


def query_map(query: bytes) -> dict[str, str]:
    """Form-decode; the last of a repeated key counts, bad escapes stay, bad UTF-8 becomes U+FFFD (H-21)."""
    pairs = (piece.partition(b"=") for piece in query.split(b"&") if piece)
    return {_form_decode(key): _form_decode(value) for key, _, value in pairs}


def _form_decode(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")


def json_body(raw: bytes) -> Any:
    """The parsed body, or None when it is empty or no JSON (H-24)."""
    try:
        return from_json(raw)
    except DecodeError:
        return None


def handler_payload(
    match: Match, head: RequestHead, body: Any, *, request_body: ChannelRef, response: ChannelRef
) -> dict[str, Any]:
    """The request object of a handler: these nine keys, always (H-18)."""
    api_path = match.route.api_path  # as registered, not as requested (H-19)
    return {
        "path_params": match.path_params,
        "query_params": head.query_params,
        "headers": head.headers,
        "path": api_path,
        "method": head.method,
        "body": body,
        "trigger": {"type": "http", "path": api_path, "method": head.method},
        "request_body": request_body,
        "response": response,
    }


def condition_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a condition gets: the handler's payload without its channels (T-17)."""
    return {key: value for key, value in payload.items() if key not in ("request_body", "response")}


def middleware_payload(match: Match, head: RequestHead) -> dict[str, Any]:
    """What each middleware function gets, global or of the route (H-29)."""
    request = {
        "path_params": match.path_params,
        "query_params": head.query_params,
        "headers": head.headers,
        "method": head.method,
    }
    return {"phase": "preHandler", "context": {}, "request": request}


def request_traceparent(headers: Mapping[str, str]) -> str:
    """One ``traceparent`` for all invocations of a request: the client's trace goes on, or one begins."""
    inbound = _TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    trace_id, flags = inbound.group(1, 2) if inbound is not None else (secrets.token_hex(16), "01")
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"


# ---------------------------------------------------------------- what goes back


@dataclass(slots=True)
class Response:
    """A whole response, before CORS and framing. ``problems`` is what of a function's answer could not be used."""

    status: int
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    body: bytes = b""
    problems: list[str] = field(default_factory=list[str])
    has_cors: bool = True
    is_streamed: bool = False
    """``body`` is not here but comes over the response channel."""


def read_middleware(answer: object) -> Response | None:
    """The response a middleware function wants sent, or None to go on (H-30)."""
    values = _object(answer)
    if values.get("action") != "respond":
        return None
    wanted = _object(values.get("response"))
    status = wanted.get("status_code")
    response = Response(status if _is_integer(status) and 100 <= status <= 999 else 200)
    response.body = sorted_json(wanted.get("body"))  # always JSON (H-31)
    headers = _object(wanted.get("headers"))
    if all(isinstance(value, str) for value in headers.values()):
        _set_headers(response, _pairs(headers))
    if not response.headers and wanted.get("headers"):  # one bad value, or the list form, and all of them go (H-32)
        response.problems.append("headers that are not an object of strings")
    if not _has_content_type(response):
        response.headers.append(JSON_TYPE)
    return response


def is_response(result: object) -> bool:
    """Whether a handler's result says anything of the response; if not, the value is lost (H-38)."""
    return not _object(result).keys().isdisjoint(("status_code", "headers", "body"))


def read_result(result: object) -> Response:
    """Make the response of a handler's result, whatever it is (H-37 to H-40)."""
    values = _object(result)
    response = Response(_status(values.get("status_code")))
    _set_headers(response, _pairs(values.get("headers")))
    body: Any = values.get("body", {})
    if not _has_content_type(response):
        response.headers.append(JSON_TYPE)
        response.body = sorted_json(body)
    elif isinstance(body, str):
        response.body = body.encode("utf-8", "replace")
    elif body is not None:
        response.body = sorted_json(body)
    return response


def streamed_head(status: int, headers: Mapping[str, str]) -> Response:
    """The head that a handler set by control messages: no default content type (H-58, H-59)."""
    response = Response(status)
    _set_headers(response, headers.items())
    return response


def _status(value: object) -> int:
    """A JSON integer, modulo 65536 and then within 100-999; otherwise 200 (H-37)."""
    return value % 65536 if _is_integer(value) and 100 <= value % 65536 <= 999 else 200


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _pairs(headers: Any) -> Iterator[tuple[str, str | None]]:
    """Names and values of the object form, or of a list of ``Name: value`` lines (H-39). No value: malformed."""
    if isinstance(headers, list):
        for line in cast("list[object]", headers):
            name, colon, value = line.partition(":") if isinstance(line, str) else (repr(line), "", "")
            yield name.strip(" \t"), value if colon else None
        return
    # The object form says each name once; of names that differ in case only, the last counts.
    for name, value in {name.lower(): value for name, value in _object(headers).items()}.items():
        yield name, value if isinstance(value, str) else None


def _set_headers(response: Response, pairs: Iterable[tuple[str, str | None]]) -> None:
    """Take the headers that are fit to be sent; the rest, line breaks in particular, is noted and skipped (H-39)."""
    for name, value in pairs:
        raw_name = name.lower().encode("utf-8", "replace")
        raw_value = (value or "").strip(" \t").encode("utf-8", "replace")
        if value is None or not _NAME.fullmatch(raw_name) or _BAD_VALUE.search(raw_value):
            response.problems.append(f"malformed header {name[:100]!r}")
        elif raw_name in _SERVER_OWNED:
            response.problems.append(f"header {raw_name.decode()!r}, which the server sets")
        else:
            response.headers.append((raw_name, raw_value))


def _has_content_type(response: Response) -> bool:
    return any(name == b"content-type" for name, _ in response.headers)


# ---------------------------------------------------------------- the engine's own answers


def not_found() -> Response:
    """No route for the path (H-45)."""
    return _error(404, "NOT_FOUND", "Not Found")


def method_not_allowed(allow: Iterable[str]) -> Response:
    """Path known, method not: an empty body (H-46)."""
    return Response(405, [(b"allow", ",".join(allow).encode())])


def condition_not_met() -> Response:
    """The condition returned ``false`` (H-41)."""
    return _error(422, "CONDITION_NOT_MET", "Request condition not met", skipped=True)


def function_failed(code: str, message: str) -> Response:
    """A handler, condition or middleware failed: its own code and message, no stack trace (H-42, H-43, H-48)."""
    # Clock-derived, hexadecimal, at most 12 digits; only a 500 has one (H-49).
    return _error(500, code, message, error_id=f"{time.time_ns() // 1000 & 0xFFFF_FFFF_FFFF:x}")


def timed_out() -> Response:
    """``default_timeout`` elapsed: empty, without content type and CORS headers (H-44)."""
    return Response(504, has_cors=False)


def payload_too_large(limit: int) -> Response:
    """The body would not fit a message. Upstream has no such limit (H-17)."""
    return _error(413, "PAYLOAD_TOO_LARGE", f"The JSON body is larger than {limit} bytes")


def overloaded() -> Response:
    """Too many requests at once. Upstream never says so (H-50)."""
    return _error(503, "SERVICE_UNAVAILABLE", "Too many requests at once")


def _error(status: int, code: str, message: str, *, error_id: str | None = None, **more: Any) -> Response:
    error = {"code": code, "message": message}
    if error_id is not None:
        error["error_id"] = error_id
    return Response(status, [JSON_TYPE], sorted_json({"error": error, **more}))


def sorted_json(value: object) -> bytes:
    """Compact JSON with sorted keys, as the engine writes it (H-40, X-1)."""
    return to_json(_sorted(value))


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in sorted(cast("dict[str, object]", value).items())}
    if isinstance(value, list):
        return [_sorted(item) for item in cast("list[object]", value)]
    return value


def _object(value: object) -> dict[str, Any]:
    """A JSON object, or an empty one in place of anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


# ---------------------------------------------------------------- CORS


@dataclass
class CorsOptions:
    """Which pages of other origins may read responses; empty lists allow all. It never stops a request (H-56)."""

    allowed_origins: list[str] = field(default_factory=list[str])
    allowed_methods: list[str] = field(default_factory=list[str])


_VARY: Final = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
_ALLOW_ORIGIN: Final = b"access-control-allow-origin"


def cors_headers(options: CorsOptions | None, origin: bytes | None) -> list[tuple[bytes, bytes]]:
    """CORS headers of every response but a timeout's, whether the request has an ``Origin`` or not (H-55, H-56)."""
    if options is None:
        return [(_ALLOW_ORIGIN, b"*"), (b"access-control-expose-headers", b"*"), _VARY]
    return [*_allowed_origin(options, origin), _VARY]


def preflight(options: CorsOptions | None, origin: bytes | None) -> Response:
    """The answer to any OPTIONS request: 200, empty (H-54, H-57)."""
    methods = ",".join(options.allowed_methods) if options is not None else ""
    headers = [
        *_allowed_origin(options or CorsOptions(), origin),
        (b"access-control-allow-methods", methods.encode() or b"*"),
        (b"access-control-allow-headers", b"*"),
        _VARY,
    ]
    return Response(200, headers, has_cors=False)


def with_cors(response: Response, cors: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a response together with CORS': those replace a function's own, but ``Vary`` is added to."""
    if not response.has_cors:
        return response.headers
    replaced = {name for name, _ in cors} - {b"vary"}
    return [header for header in response.headers if header[0] not in replaced] + cors


def _allowed_origin(options: CorsOptions, origin: bytes | None) -> list[tuple[bytes, bytes]]:
    allowed = options.allowed_origins
    if not allowed or "*" in allowed:
        return [(_ALLOW_ORIGIN, b"*")]
    if origin is not None and origin.decode("latin-1") in allowed:
        return [(_ALLOW_ORIGIN, origin)]
    return []
