"""The ``http`` trigger: binds functions to routes and serves them as an ASGI application.

One request: route → global middleware → channels made, JSON body read → condition → the route's middleware → handler
(H-15). What functions get and what comes of their answers is decided in ``_http_messages``, which route in ``_routes``.

Tasks, per request: one that reads the client until the response is sent, so that a client which leaves is noticed, and
feeds ``request_body``; one that reads the ``response`` channel while the handler runs. They end with the request.
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

from anyio import create_task_group, current_time, move_on_after, sleep_forever

from ...errors import EncodeError, InvocationError, InvocationTimeoutError
from ...trigger import TriggerConfig, TriggerHandler
from .._asgi_server import serve_asgi
from .._http_messages import (
    ChannelRef,
    CorsOptions,
    RequestHead,
    Response,
    condition_not_met,
    condition_payload,
    cors_headers,
    function_failed,
    handler_payload,
    header_map,
    is_response,
    json_body,
    method_not_allowed,
    middleware_payload,
    not_found,
    overloaded,
    payload_too_large,
    preflight,
    query_map,
    read_middleware,
    read_result,
    request_traceparent,
    timed_out,
    with_cors,
)
from .._http_options import CONFIG_SCHEMA, NAME, GlobalMiddleware, HttpOptions, read_options
from .._http_streams import RequestBody, RequestChannels, ResponseChannel, send_stream
from .._routes import Match, Route, RouteTable
from .._tracing import traced
from ._config_entry import keep_entry

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
                _printable(route.key), _printable(route.function_id),
                _printable(replaced.trigger_id), _printable(replaced.function_id),
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
        exchange: _Exchange | None = None
        response: Response | None
        self._active += 1
        try:
            match None if method == "OPTIONS" else self._table.match(method, path):
                case Match() as found if self._active <= self._options.concurrency_limit:
                    exchange = _Exchange(self, found, scope, receive)
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
                _printable(method), _printable(path),
                "client left" if response is None else response.status,
                (current_time() - start) * 1000,
                "-" if exchange is None else _printable(exchange.route.function_id),
            )  # fmt: skip

    def _keep_span(self, exchange: _Exchange, started_ns: int, response: Response | None) -> None:
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

    def report(self, response: Response, exchange: _Exchange | None) -> None:
        """Log what of a function's answer is not sent."""
        if exchange is None:
            return
        function_id = _printable(exchange.answered_by)
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
            _printable(route.function_id),
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


class _Exchange:
    """One routed request: what is known of it, and the steps to its response."""

    def __init__(self, trigger: HttpTrigger, found: Match, scope: Scope, receive: Receive) -> None:
        headers = header_map(scope["headers"])
        self.route: Route = found.route
        self.answered_by: str = found.route.function_id
        """The function whose answer is the response."""
        self._trigger = trigger
        self._match = found
        self._head = RequestHead(scope["method"], headers, query_map(scope["query_string"]))
        self._body = RequestBody(receive, trigger.options.max_body if self._head.has_json else None)
        self._body.announce(headers.get("content-length", ""))
        self._request_body, self._response, self._channels = trigger.create_channels()
        self._deadline = math.inf
        self.inbound_traceparent = headers.get("traceparent", "").strip()
        self.traceparent = request_traceparent(headers)

    async def run(self, send: Send, cors: list[tuple[bytes, bytes]]) -> Response | None:
        """Decide the response within ``default_timeout`` (H-44); None when the client left before (H-52).

        In both cases the functions called go on: the protocol has no way to stop them. What they return is dropped.
        A streamed response is sent here, which takes as long as the handler writes (H-60).
        """
        response: Response | None = None
        with move_on_after(self._trigger.options.default_timeout) as limit:
            self._deadline = limit.deadline
            try:
                async with create_task_group() as group:
                    await self._channels.open()
                    group.start_soon(self._body.read, group.cancel_scope.cancel, self._channels.body)
                    with traced(self._trigger, self.traceparent):
                        response = await self._answer()
                    self._channels.forget()
                    if response.is_streamed:
                        limit.deadline = math.inf
                        await self._send_stream(send, response, cors)
                    group.cancel_scope.cancel()
            except Exception:
                if response is not None and response.is_streamed:
                    logger.exception("a response of %s broke off", _printable(self.answered_by))
                    return response
                logger.exception("a request for %s failed inside the engine", _printable(self.answered_by))
                return function_failed("internal_error", "The engine failed to serve this request")
            finally:
                await self._channels.aclose()
        if response is None and not self._body.client_left:
            return timed_out()
        return response

    async def _send_stream(self, send: Send, response: Response, cors: list[tuple[bytes, bytes]]) -> None:
        self._trigger.report(response, self)
        channel = self._channels.response
        assert channel is not None, "it made the response"
        try:
            await send_stream(send, response, with_cors(response, cors), channel)
        except OSError as error:  # how ASGI says that the client has left
            logger.debug("a response was not sent to its end: %r", error)

    async def _answer(self) -> Response:
        try:
            return await self._steps()
        except InvocationTimeoutError as error:
            if current_time() >= self._deadline:
                await sleep_forever()  # ours, noticed by the caller's timer first: the scope above makes it a 504
            return function_failed(error.code, error.message)
        except InvocationError as error:
            return function_failed(error.code, error.message)

    async def _steps(self) -> Response:
        """The order of H-15."""
        route, call = self.route, self._trigger.call
        early = await self._run_middleware(self._trigger.middleware)
        if early is not None:
            return early
        raw = await self._body.collected()
        if raw is None:
            return payload_too_large(self._trigger.options.max_body)
        body = json_body(raw) if self._head.has_json else None
        payload = handler_payload(
            self._match, self._head, body, request_body=self._request_body, response=self._response
        )
        condition = route.condition_function_id
        # Only the literal false blocks (T-16). Neither conditions nor middleware get the metadata (T-13).
        if condition is not None and await call(condition, condition_payload(payload), route.namespace) is False:
            return condition_not_met()
        early = await self._run_middleware(route.middleware_function_ids)
        if early is not None:
            return early
        return await self._handled(payload)

    async def _handled(self, payload: dict[str, Any]) -> Response:
        """What the handler returns, or what it writes to its response channel: whichever comes first (H-58 to H-63).

        Raises:
            InvocationError: It failed before.
        """
        route = self.route
        channel = self._channels.response
        head: Response | None = None
        result: Any = None
        failure: InvocationError | None = None

        async def watch(channel: ResponseChannel) -> None:
            nonlocal head
            head = await channel.decided()
            group.cancel_scope.cancel()

        async with create_task_group() as group:
            if channel is not None:
                group.start_soon(watch, channel)
            try:
                result = await self._trigger.call(route.function_id, payload, route.namespace, route.metadata)
            except InvocationError as error:
                failure = error
            if result is None and failure is None:
                await self._wait_for_stream()
            group.cancel_scope.cancel()
        if head is not None:
            return head
        if failure is not None:
            raise failure
        if not is_response(result):
            self._trigger.hint(route)
        return read_result(result)

    async def _run_middleware(self, function_ids: tuple[str, ...]) -> Response | None:
        """Call each in order until one responds.

        Upstream gives each call ``default_timeout`` as well. That limit starts after the request's own, of the same
        length, and can never be the one that is seen (H-34).
        """
        for function_id in function_ids:
            answer = await self._trigger.call(
                function_id, middleware_payload(self._match, self._head), self.route.namespace
            )
            response = read_middleware(answer)
            if response is not None:
                self.answered_by = function_id
                return response
        return None

    async def _wait_for_stream(self) -> None:
        """Wait for what the handler writes to ``response``, as it returned nothing (H-51, H-63)."""
        channel = self._channels.response
        if channel is None or not channel.has_writer:
            logger.warning(
                "%s returned None and its response channel is unused, so the client waits for a 504 in %.1f s; "
                'to answer without content return {"status_code": 204}',
                _printable(self.route.function_id), self._deadline - current_time(),
            )  # fmt: skip
        await sleep_forever()


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


def _printable(text: str) -> str:
    """Fit for one line of a log: nothing that moves a terminal's cursor, and not too long."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:300])
