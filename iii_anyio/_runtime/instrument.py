"""Where telemetry hooks into calls and invocations. Nothing here knows OpenTelemetry.

A worker without telemetry has no instrument: calls go through ``Caller`` itself, and an invocation costs one
``is None``. Below: ``calling``. Above: ``observability``, which has the one implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from .calling import Caller, CallRequest

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .._protocol.messages import InvokeFunction
    from .._protocol.worker_session import WorkerSession
    from .dispatch import Dispatcher
    from .outbox import Outbox

__all__ = ("Instrument", "Served", "Service", "TracedCaller")


class Served(Protocol):
    """One invocation that runs. Exactly one of these is called, once, whatever becomes of the handler."""

    def succeeded(self, result: object) -> None:
        """Its result has been handed over."""
        ...

    def failed(self, exc: BaseException) -> None:
        """It raised, was cancelled, or its result could not be sent."""
        ...


class Instrument(Protocol):
    """Is told of calls and invocations. No method may raise, or wait."""

    def calling(
        self, function_id: str, action: dict[str, Any] | None, namespace: str | None
    ) -> AbstractContextManager[object] | None:
        """To be entered when a call is made, and left when its caller has the outcome; None: nobody is interested."""
        ...

    def outgoing(self) -> tuple[str | None, str | None]:
        """``traceparent`` and ``baggage`` of a call that is made here and now."""
        ...

    def serving(self, message: InvokeFunction) -> tuple[InvokeFunction, Served | None]:
        """Begin an invocation, in the context its handler is about to run in; the message goes on with what it gets."""
        ...

    def in_process(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """The handler, to be pickled, with the context that it is to have in another process."""
        ...


class Service(Protocol):
    """Work beside the connection and the handlers, such as exporting telemetry. Its failure is logged, no more."""

    name: str

    async def run(self, ready: Callable[[], None], /) -> None:
        """Work until cancelled; call ``ready`` when the worker may go on."""
        ...

    async def finish(self) -> None:
        """Handlers and connection have ended: do what is left, within a deadline of your own."""
        ...


class TracedCaller(Caller):
    """A caller whose calls an instrument sees."""

    def __init__(
        self, owner: object, session: WorkerSession, outbox: Outbox, dispatcher: Dispatcher, timeout: float,
        namespace: str | None, instrument: Instrument,
    ) -> None:  # fmt: skip
        super().__init__(owner, session, outbox, dispatcher, timeout, namespace)
        self.instrument = self._instrument = instrument

    def _span(self, request: CallRequest) -> AbstractContextManager[object] | None:
        return self._instrument.calling(request.function_id, request.action, self.namespace_of(request))

    async def call(self, request: CallRequest) -> Any:
        """See ``Caller.call``."""
        span = self._span(request)
        call = super().call(request)
        del request
        if span is None:
            return await call
        with span:
            return await call

    def call_here(self, request: CallRequest) -> None:
        """See ``Caller.call_here``."""
        with self._span(request) or nullcontext():
            super().call_here(request)

    def call_blocking(self, request: CallRequest) -> Any:
        """See ``Caller.call_blocking``."""
        with self._span(request) or nullcontext():
            return super().call_blocking(request)
