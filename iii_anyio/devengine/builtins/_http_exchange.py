"""One routed request of the ``http`` trigger: what is known of it, and the steps to its response (H-15).

What functions get and what comes of their answers is decided in ``_http_messages``, the two channels are in
``_http_streams``. Above: ``http``.

Tasks, per request: one that reads the client until the response is sent, so that a client which leaves is noticed, and
feeds ``request_body``; one that reads the ``response`` channel while the handler runs. They end with the request.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

from anyio import create_task_group, current_time, move_on_after, sleep_forever

from ...errors import InvocationError, InvocationTimeoutError
from .._http_messages import (
    RequestHead,
    Response,
    condition_not_met,
    condition_payload,
    function_failed,
    handler_payload,
    header_map,
    is_response,
    json_body,
    middleware_payload,
    payload_too_large,
    query_map,
    read_middleware,
    read_result,
    request_traceparent,
    timed_out,
    with_cors,
)
from .._http_streams import RequestBody, ResponseChannel, send_stream
from .._tracing import traced

if TYPE_CHECKING:
    from .._asgi_server import Receive, Scope, Send
    from .._routes import Match, Route
    from .http import HttpTrigger

__all__ = ("Exchange", "printable")

logger: Final = logging.getLogger("iii_anyio.devengine.http")


class Exchange:
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
        self.inbound_traceparent: str = headers.get("traceparent", "").strip()
        self.traceparent: str = request_traceparent(headers)

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
                    logger.exception("a response of %s broke off", printable(self.answered_by))
                    return response
                logger.exception("a request for %s failed inside the engine", printable(self.answered_by))
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
                printable(self.route.function_id), self._deadline - current_time(),
            )  # fmt: skip
        await sleep_forever()


def printable(text: str) -> str:
    """Fit for one line of a log: nothing that moves a terminal's cursor, and not too long."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:300])
