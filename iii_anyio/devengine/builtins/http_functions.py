"""The built-in ``iii-http-functions``: calls the URLs of functions that were registered with an ``invocation``.

The router asks it for an ``Endpoint`` at each such registration, and calls that. Whether a URL is allowed is decided in
``_http_functions``, twice: at the registration, and with the addresses of its host when a request is made.

Tasks: one per request under way.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from anyio import create_task_group

from ..._wire.fetch import AddressRefusedError, Fetcher, FetchError
from ..._wire.http_url import HttpUrl
from ...errors import MAX_MESSAGE_BYTES, EncodeError, InvocationError
from .._builtin import Deferred
from .._errors import shorten
from .._http_functions import HttpFunction, Security, UrlRefusedError, read_answer
from .._settings import Section

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ..._protocol.messages import RegisterFunction
    from ...worker import Worker
    from .._services import Host

__all__ = ("HttpFunctions", "serve_http_functions")

logger: Final = logging.getLogger("iii_anyio.devengine.http_functions")

NAME: Final = "iii-http-functions"
MAX_REQUESTS: Final = 10_000
"""At once; a void call leaves nobody who waits, so callers do not bound them."""

Settle = Callable[[Deferred, Any, InvocationError | None], None]


class HttpFunctions:
    """Makes endpoints, and their requests in a task group.

    Args:
        security: Where requests may go.
        group: Where requests run; whoever made it ends them.
        settle: Delivers an outcome.
        fetcher: Makes requests; by default one that looks names up and checks certificates as usual.
        environment: Where secrets are read from.
        now: Unix seconds.
    """

    def __init__(
        self,
        security: Security,
        group: TaskGroup,
        settle: Settle,
        *,
        fetcher: Fetcher | None = None,
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._security = security
        self._group = group
        self._settle = settle
        self._fetcher = fetcher if fetcher is not None else Fetcher(security.allows)
        self._environment = environment
        self._now = now
        self._open = 0
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<HttpFunctions {self._open} requests>"

    def end(self) -> None:
        """Begin no more requests."""
        self._has_ended = True

    def open_endpoint(self, message: RegisterFunction) -> _Endpoint | None:
        """Make the endpoint of a registration. None drops it: the worker is told nothing (X-17)."""
        assert message.invocation is not None, "the router asks for functions that have one"
        try:
            url = HttpUrl.parse(message.invocation["url"])
            self._security.check(url)
            function = HttpFunction.from_invocation(url, message.invocation, self._environment)
        except (UrlRefusedError, ValueError) as error:
            logger.warning(
                "HTTP function %s is not registered, and the worker is not told: %s", shorten(message.id), error
            )
            return None
        return _Endpoint(message.id, function, self)

    def begin(self, endpoint: _Endpoint, data: object) -> Deferred:
        """Begin a request."""
        deferred = Deferred()
        if self._has_ended:
            deferred.settle(error=_stopped())
        elif self._open >= MAX_REQUESTS:
            problem = f"the engine has {self._open} HTTP requests under way and begins no more"
            deferred.settle(error=InvocationError("http_request_failed", problem))
        else:
            self._open += 1
            self._group.start_soon(self._run, endpoint, data, deferred, name=f"engine HTTP function {endpoint.id}")
        return deferred

    async def _run(self, endpoint: _Endpoint, data: object, deferred: Deferred) -> None:
        result: Any = None
        error: InvocationError | None = _stopped()  # unless it comes to something, the engine has ended
        try:
            result, error = await self._call(endpoint, data), None
        except InvocationError as failure:
            error = failure
        except Exception:  # the boundary of a call: it must not end the engine
            logger.exception("HTTP function %s failed inside the engine", shorten(endpoint.id))
            error = InvocationError("http_request_failed", "the engine failed to make the request; its log says how")
        finally:
            self._open -= 1
            self._settle(deferred, result, error)

    async def _call(self, endpoint: _Endpoint, data: object) -> Any:
        """Make one request.

        Raises:
            InvocationError: What it came to (X-9 to X-16).
        """
        function = endpoint.function
        try:
            # As checked at the registration, and now with the addresses of its name.
            self._security.check(function.url)
            headers, body = function.request(
                endpoint.id, data, invocation_id=str(uuid4()), unix_seconds=int(self._now())
            )
            status, answer = await self._fetcher.fetch(
                function.method, function.url, headers, body, timeout=function.timeout, limit=MAX_MESSAGE_BYTES
            )
        except (UrlRefusedError, AddressRefusedError) as failure:
            raise InvocationError("url_validation_failed", str(failure)) from failure
        except FetchError as failure:
            code = "http_response_failed" if failure.has_head else "http_request_failed"
            raise InvocationError(code, str(failure)) from failure
        except EncodeError as failure:
            raise InvocationError("serialization_error", str(failure)) from failure
        return read_answer(status, answer)


@dataclass(frozen=True, slots=True, eq=False)
class _Endpoint:
    """A registered HTTP function; calling it begins a request."""

    id: str
    function: HttpFunction
    owner: HttpFunctions = field(repr=False)

    def __call__(self, data: object, /) -> Deferred:
        return self.owner.begin(self, data)


def _stopped() -> InvocationError:
    return InvocationError("invocation_stopped", "Invocation stopped")


@asynccontextmanager
async def serve_http_functions(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[HttpFunctions]:
    """Run the built-in ``iii-http-functions``.

    Upstream's defaults, https and public addresses only, are those of ``strict_upstream``: what is developed is on
    the machine it is developed on.
    """
    security = _security(config, is_strict=host.strict_upstream)

    def settle(deferred: Deferred, result: Any, error: InvocationError | None) -> None:
        host.router.settle(deferred, result, error)
        host.routed()

    async with create_task_group() as group:
        functions = HttpFunctions(security, group, settle)
        host.router.functions.open_endpoint = functions.open_endpoint
        try:
            yield functions
        finally:
            host.router.functions.open_endpoint = None
            functions.end()
            group.cancel_scope.cancel()


def _security(config: Mapping[str, Any], *, is_strict: bool) -> Security:
    root = Section(NAME, config)
    section = root.section("security")
    root.end()
    if section is None:
        return Security(block_private_ips=is_strict, require_https=is_strict)
    security = Security(
        tuple(section.texts("url_allowlist")),
        section.flag("block_private_ips", is_strict),
        section.flag("require_https", is_strict),
    )
    section.end()
    return security
