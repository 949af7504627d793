"""The ``http`` trigger: binds functions to routes and serves them as an ASGI application.

Which route a request has is decided in ``_routes``; one request, from middleware to response, is ``_http_exchange``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import uuid4

from anyio import create_task_group, current_time

from ...errors import EncodeError, InvocationError
from ...trigger import TriggerConfig, TriggerHandler
from .._asgi_server import serve_asgi
from .._http_messages import (
    ChannelRef,
    CorsOptions,
    Response,
    cors_headers,
    method_not_allowed,
    not_found,
    overloaded,
    preflight,
    with_cors,
)
from .._http_options import CONFIG_SCHEMA, NAME, GlobalMiddleware, HttpOptions, read_options
from .._http_streams import RequestChannels
from .._routes import Match, Route, RouteTable
from ._config_entry import keep_entry
from ._http_exchange import Exchange, printable

if TYPE_CHECKING:
    from ...abc import Invoker
    from ...worker import Worker
    from .._asgi_server import Receive, Scope, Send
    from .._channels import Channels
    from .._services import Host
    from .._telemetry import Telemetry

__all__ = ("CorsOptions", "GlobalMiddleware", "HttpOptions", "HttpTrigger", "serve_http")

logger: Final = logging.getLogger("iii_anyio.devengine.http")

HTTP_TRIGGER_TYPE: Final = {"id": "http", "description": "HTTP API trigger"}

CreateChannel: TypeAlias = Callable[[], tuple[ChannelRef, ChannelRef]]


class HttpTrigger(TriggerHandler[Any]):
    """Provider of the trigger type ``http`` (its two handler methods) and ASGI application (calling it).

    Args:
        iii: Calls the functions; a worker of the engine.
        options: How the listener behaves.
        create_channel: Makes a data channel and returns its writing and its reading end. Called twice a request, for
            ``request_body`` and ``response``. By default ends that nobody serves.
        channels: Serves what ``create_channel`` makes. Without it bodies that are no JSON are passed over, and
            responses cannot be streamed.
        telemetry: Gets a span for every routed request, the root of its trace.
    """

    def __init__(
        self,
        iii: Invoker,
        *,
        options: HttpOptions | None = None,
        create_channel: CreateChannel | None = None,
        channels: Channels | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._iii = iii
        self._options = HttpOptions()
        self._middleware: tuple[str, ...] = ()
        self.use(options if options is not None else self._options)
        self._create_channel = create_channel if create_channel is not None else _unserved_channel
        self._channels = channels
        self._telemetry = telemetry
        self._table = RouteTable()
        self._active = 0
        self._hinted: set[str] = set()  # triggers whose results were reported as no responses

    def __repr__(self) -> str:
        return f"<HttpTrigger {len(self._table)} routes, {self._active} requests>"

    def use(self, options: HttpOptions) -> None:
        """Behave like this from the next step of every request on (H-3).

        Raises:
            ValueError: A number is out of range; the options before stay.
        """
        if not 0 < options.default_timeout < math.inf:
            raise ValueError(f"default_timeout must be a number of seconds above 0, not {options.default_timeout}")
        if options.concurrency_limit < 1 or options.max_body < 0:
            raise ValueError("concurrency_limit must be at least 1 and max_body at least 0")
        self._options = options
        entries = sorted(options.middleware, key=lambda entry: entry.priority)  # stable for ties (H-4)
        self._middleware = tuple(entry.function_id for entry in entries if entry.phase == "preHandler")

    # -- the trigger type ----------------------------------------------------------------------------------------

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Bind a route.

        Raises:
            RouteError: The configuration is no route, or in the way of another; answered as T-2.
        """
        route = Route.from_config(
            config.id, config.function_id, config.config, metadata=config.metadata, namespace=config.namespace
        )
        replaced = self._table.add(route)
        self._hinted.discard(route.trigger_id)
        if replaced is not None:  # H-10; upstream says nothing
            logger.warning(
                "route %s now calls %s; trigger %s of %s lost it",
                printable(route.key), printable(route.function_id),
                printable(replaced.trigger_id), printable(replaced.function_id),
            )  # fmt: skip

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Remove the route that this trigger still owns, if any (H-11)."""
        self._table.remove(config.id)
        self._hinted.discard(config.id)

    # -- the application -----------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection. What a request or a function does wrong never raises from here."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case "lifespan":
                while (await receive())["type"] == "lifespan.startup":
                    await send({"type": "lifespan.startup.complete"})
                await send({"type": "lifespan.shutdown.complete"})
            case other:
                raise ValueError(f"no ASGI application for {other!r}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = current_time()
        method: str = scope["method"]
        path = _raw_path(scope)
        origin = dict(scope["headers"]).get(b"origin")
        exchange: Exchange | None = None
        response: Response | None
        self._active += 1
        try:
            match None if method == "OPTIONS" else self._table.match(method, path):
                case Match() as found if self._active <= self._options.concurrency_limit:
                    exchange = Exchange(self, found, scope, receive)
                    started_ns = time.time_ns()
                    response = await exchange.run(send, cors_headers(self._options.cors, origin))
                    self._keep_span(exchange, started_ns, response)
                case Match():
                    response = overloaded()
                case None:
                    # Every OPTIONS request is answered before routing (H-54).
                    response = preflight(self._options.cors, origin) if method == "OPTIONS" else not_found()
                case refusal:
                    response = method_not_allowed(refusal.allow)
            if response is not None and not response.is_streamed:
                self.report(response, exchange)
                await _send_response(send, method, response, cors_headers(self._options.cors, origin))
        finally:
            self._active -= 1
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "%s %s %s %.1f ms %s",
                printable(method), printable(path),
                "client left" if response is None else response.status,
                (current_time() - start) * 1000,
                "-" if exchange is None else printable(exchange.route.function_id),
            )  # fmt: skip

    def _keep_span(self, exchange: Exchange, started_ns: int, response: Response | None) -> None:
        if self._telemetry is None:
            return
        route = exchange.route
        name = f"{route.method} /{route.api_path.lstrip('/')}"
        attributes = [["http.request.method", route.method], ["http.route", route.api_path]]
        error = "the client left" if response is None else None
        if response is not None:
            attributes.append(["http.response.status_code", str(response.status)])
            error = f"status {response.status}" if response.status >= 500 else None
        self._telemetry.add_request(
            exchange.traceparent, exchange.inbound_traceparent, name, started_ns, attributes, error
        )

    def report(self, response: Response, exchange: Exchange | None) -> None:
        """Log what of a function's answer is not sent."""
        if exchange is None:
            return
        function_id = printable(exchange.answered_by)
        for problem in response.problems:
            logger.warning("left out of the response of %s: %s", function_id, problem)
        if response.status < 200:  # a final response cannot have it; upstream's server answers 500, too
            logger.warning("%s chose status %d, which cannot end a request", function_id, response.status)
            response.status, response.headers, response.body = 500, [], b""

    # -- for one exchange ----------------------------------------------------------------------------------------

    @property
    def options(self) -> HttpOptions:
        """Those of now."""
        return self._options

    @property
    def middleware(self) -> tuple[str, ...]:
        """Global middleware functions, in order."""
        return self._middleware

    def create_channels(self) -> tuple[ChannelRef, ChannelRef, RequestChannels]:
        """The handler's ends of two new data channels, ``request_body`` and ``response``, and the engine's."""
        (body_writer, request_body), (response, response_reader) = self._create_channel(), self._create_channel()
        return request_body, response, RequestChannels(self._channels, body_writer, response_reader)

    async def call(self, function_id: str, payload: object, namespace: str, metadata: Any = None) -> Any:
        """Call a function. It gets longer than the request: only the request's own limit ends it (H-52).

        Raises:
            InvocationError: What the call came to; ``invalid_payload`` for a body nested too deep for a message.
        """
        request = {
            "function_id": function_id,
            "payload": payload,
            "namespace": namespace,
            "timeout_ms": math.ceil(self._options.default_timeout * 1000) + _CALL_SLACK_MS,
        }
        if metadata is not None:
            request["metadata"] = metadata
        try:
            return await self._iii.trigger_async(request)
        except EncodeError as error:
            raise InvocationError("invalid_payload", str(error), function_id) from error

    def hint(self, route: Route) -> None:
        """Say once per trigger that its results are no responses (H-38)."""
        if route.trigger_id in self._hinted:
            return
        self._hinted.add(route.trigger_id)
        logger.warning(
            "the result of %s is lost and its clients get {}: return an object with status_code, headers or body",
            printable(route.function_id),
        )


_CALL_SLACK_MS: Final = 5000


@asynccontextmanager
async def serve_http(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[HttpTrigger]:
    """Run the built-in ``iii-http``: the trigger type, and the server of its routes.

    The configuration is checked in any case; options given to the engine in code take its place, and then there is no
    configuration entry, which could not hold them. A change of host or port needs another start (H-3).
    """
    configured = read_options(config)
    options = host.http if host.http is not None else configured
    trigger = HttpTrigger(
        iii,
        options=options,
        create_channel=host.router.create_channel,
        channels=host.channels,
        telemetry=host.router.telemetry,
    )
    iii.register_trigger_type(**HTTP_TRIGGER_TYPE, handler=trigger)
    async with create_task_group() as server:
        if host.http_socket is not None:
            serve = partial(serve_asgi, trigger, host.http_socket, shutdown_timeout=1.0)
            await server.start(serve, name="engine HTTP server")
        if host.http is None:
            await keep_entry(
                iii, host, NAME, "HTTP", CONFIG_SCHEMA, config, lambda value: trigger.use(read_options(value))
            )
        yield trigger
        server.cancel_scope.cancel()


async def _send_response(send: Send, method: str, response: Response, cors: list[tuple[bytes, bytes]]) -> None:
    headers = with_cors(response, cors)
    has_body = response.status not in (204, 304)
    if has_body:
        headers = [*headers, (b"content-length", b"%d" % len(response.body))]
    body = response.body if has_body and method != "HEAD" else b""
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    except OSError as error:  # how ASGI says that the client has left
        logger.debug("a response was not sent: %r", error)


def _unserved_channel() -> tuple[ChannelRef, ChannelRef]:
    ref = {"channel_id": str(uuid4()), "access_key": str(uuid4())}
    return {**ref, "direction": "write"}, {**ref, "direction": "read"}


def _raw_path(scope: Scope) -> str:
    """The path with its percent-escapes, also of a request target in absolute form (``GET http://host/path``)."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
    if not raw.startswith(b"/") and b"://" in raw:
        raw = b"/" + raw.partition(b"://")[2].partition(b"/")[2]
    return raw.decode("utf-8", "replace")
