"""Calls from where the caller is: a task on the worker's loop, a task on another loop, or a blocked thread.

Encoding happens where the caller is, so that its mistakes are raised there and threads share that work. The call itself
is opened on the loop, and the slot that wakes the caller is the cheapest its situation allows.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from .._protocol.calls import Call, new_id
from .._protocol.codec import encode, encode_call
from .._protocol.messages import ABSENT, InvokeFunction
from .._protocol.worker_session import Phase
from .._wire.backend import Backend, Slot, backend_of
from ..errors import IIIError, InvocationError, InvocationTimeoutError, ShutdownError, WorkerStateError
from ..options import RetryPolicy
from .context import Invocation, current, lineage
from .foreign import ForeignLoop
from .invoke import is_handler_thread
from .local import LocalCall, local_function, make_local
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .._protocol.worker_session import WorkerSession
    from .dispatch import Dispatcher
    from .instrument import Instrument
    from .outbox import Outbox

__all__ = ("CallRequest", "Caller", "effective_namespace")

logger: Final = logging.getLogger("iii_anyio")

MAX_BLOCKED_HANDLERS: Final = 1000
"""Handler threads waiting in nested ``trigger()`` calls at once; beyond it a call fails and takes no other thread."""


_forks = 0
"""How many processes lie between this one and the one that imported this. Cheaper to look at than the process id."""


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@dataclass(slots=True)
class CallRequest:
    """A call as it is wanted. The payload is the caller's object; the codec dumps models, by alias."""

    function_id: str
    payload: Any = None
    action: dict[str, Any] | None = None
    """As on the wire."""
    timeout: float | None = None
    """Seconds; ``None`` is the worker's default."""
    metadata: Any = ABSENT
    namespace: str | None = None
    """Explicit only; the worker's default and the engine's own ids are up to the caller (§4.3)."""
    dispatch: Literal["auto", "remote"] = "auto"
    retry: RetryPolicy | None = None
    activation: dict[str, Any] | None = None
    """The observer whose target this calls (§16.7)."""


def effective_namespace(explicit: str | None, function_id: str, own: str | None) -> str | None:
    """Where a function is looked for: the engine's own live in ``default``, whatever the worker's namespace (§4.3)."""
    if explicit is not None:
        return explicit
    return "default" if function_id.startswith(("engine::", "configuration::")) else own


class Caller:
    """Opens calls and waits for them, from any thread.

    Args:
        owner: The worker, as handlers' contexts know it.
        session: Takes the calls.
        outbox: Is told that there is something to write.
        dispatcher: Runs calls that stay in this process.
        timeout: Seconds, for calls that name none.
        namespace: For calls that name none.
    """

    def __init__(
        self, owner: object, session: WorkerSession, outbox: Outbox, dispatcher: Dispatcher, timeout: float,
        namespace: str | None,
    ) -> None:  # fmt: skip
        self.timeout: float = timeout
        self._namespace = namespace
        self._owner = owner
        self._session = session
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._thread_id = threading.get_ident()
        self.token: EventLoopToken = current_token()
        self.backend: Backend = backend_of(self.token)
        self._functions = session.registry.functions
        self.now: Callable[[], float] = self.backend.now
        self._forks = _forks
        self._foreign: weakref.WeakKeyDictionary[object, ForeignLoop] = weakref.WeakKeyDictionary()
        self._foreign_lock = threading.Lock()
        self._blocked_handlers = 0
        self._rearm = anyio.Event()
        self._armed: float | None = None
        self.is_closed = False
        self.mailbox: Mailbox = Mailbox()
        self.instrument: Instrument | None = None

    # -- where are we --------------------------------------------------------------------------------------------

    def is_on_loop(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.get_ident() == self._thread_id

    def check_usable(self) -> None:
        """Raise when no method of the worker can work here."""
        if self._forks != _forks:
            raise WorkerStateError("this worker was opened before a fork; open a new one in the child process")
        if self.is_closed:
            raise ShutdownError("SHUTDOWN", "the worker has shut down; open a new one")

    def on_loop(self, function: Any, *args: Any) -> None:
        """Run a plain function on the loop: at once if this is the loop's thread, else soon."""
        if self.is_on_loop():
            function(*args)
        else:
            self.mailbox.post(function, *args)

    def start_background(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Run an async function as a task of the worker, from any thread; the drain waits for it.

        Raises:
            ShutdownError: The worker has shut down.
        """
        self.check_usable()
        self.on_loop(self._dispatcher.start_background, function, name)

    # -- calls ---------------------------------------------------------------------------------------------------

    def namespace_of(self, request: CallRequest) -> str | None:
        """Where the function is looked for."""
        if request.activation is not None:  # the engine knows where the target is, by the observer (§16.7)
            return None
        return effective_namespace(request.namespace, request.function_id, self._namespace)

    def _make(self, request: CallRequest) -> Call:
        if self.is_closed or self._forks != _forks:
            self.check_usable()
        function_id, timeout, action = request.function_id, request.timeout, request.action
        if timeout is None:
            timeout = self.timeout
        namespace = self.namespace_of(request)
        if function_id in self._functions and request.dispatch == "auto":
            function = local_function(self._session, function_id, action, namespace)
            if function is not None:
                local = make_local(self._session, function, request.payload, action, timeout, request.metadata)
                if self.instrument is not None:
                    local.message.traceparent, local.message.baggage = self.instrument.outgoing()
                return local
        invocation = current.get()
        if (
            invocation is None
            and action is None
            and namespace is None
            and request.metadata is ABSENT
            and self.instrument is None
            and request.activation is None
        ):
            invocation_id = new_id()
            return Call(function_id, invocation_id, encode_call(function_id, request.payload, invocation_id), timeout)
        return self._make_from(request, invocation, namespace, timeout)

    def _make_from(
        self, request: CallRequest, invocation: Invocation | None, namespace: str | None, timeout: float
    ) -> Call:
        function_id, action = request.function_id, request.action
        is_void = action is not None and action["type"] == "void"
        invocation_id = None if is_void else new_id()
        traceparent = baggage = None
        if self.instrument is not None:
            traceparent, baggage = self.instrument.outgoing()
        elif invocation is not None:
            traceparent, baggage = invocation.traceparent, invocation.baggage
        message = InvokeFunction(
            function_id, request.payload, invocation_id, request.metadata, traceparent, baggage, action, namespace
        )
        if invocation is not None and self._session.knows_observers:
            message.caller, message.observe_depth = lineage(invocation), invocation.observe_depth or None
        message.activation = request.activation
        return Call(function_id, invocation_id, encode(message), timeout)

    def _submit(self, call: Call) -> None:
        """On the loop: open the call and get it on its way."""
        if self.is_closed:
            raise ShutdownError("SHUTDOWN", "the worker has shut down; open a new one", call.function_id)
        if isinstance(call, LocalCall):
            self._submit_local(call)
        else:
            session = self._session
            session.submit(call, self.now())
            self._outbox.flush(is_alone=len(session.calls) <= 1)
        if call.deadline is not None and (self._armed is None or call.deadline < self._armed):
            self._rearm.set()

    def _submit_local(self, call: LocalCall) -> None:
        if call.invocation_id is not None:
            self._session.calls.open(call, self.now())
        self._dispatcher.invoke_local(call)

    def _submit_foreign(self, call: Call) -> None:
        if call.is_done:  # its caller has gone, or the worker has ended
            return
        try:
            self._submit(call)
        except IIIError as exc:
            call.end(error=exc)
            if call.invocation_id is None:
                logger.error("a void call of %r was not sent: %s", call.function_id, exc)

    def _submit_and_tell(self, call: Call, told: Callable[[], None]) -> None:
        """Submit a void call whose caller wants to know whether it was taken."""
        try:
            self._submit(call)
        except IIIError as exc:
            call.end(error=exc)
        told()

    @property
    def _has_link(self) -> bool:
        """Whether a void call will be taken, as far as another thread can see; otherwise its caller waits to know."""
        return self._session.phase is Phase.JOINED

    async def call(self, request: CallRequest) -> Any:
        """Make a call and wait for what it comes to, on any loop."""
        call = self._make(request)
        del request  # whoever waits holds on to no payload, which may be of 64 MiB
        if not self.backend.is_here():
            return await self._call_from_foreign_loop(call)
        if call.invocation_id is None:
            self._submit(call)
            if self._outbox.is_full and not call.is_local:
                await self._outbox.wait_room()
            else:
                await checkpoint()
            return None
        if self._outbox.is_full and not call.is_local:
            await self._wait_room(call)
        answered = self.backend.new_slot()
        call.wake = answered.wake
        self._submit(call)
        invocation = current.get()
        if invocation is not None and invocation.worker is self._owner:
            await self._wait_nested(call, answered, invocation)
        else:
            try:
                await answered.wait()
            except BaseException:
                self._session.calls.abandon(call)
                raise
        return call.value()

    async def _wait_nested(self, call: Call, answered: Slot, invocation: Invocation) -> None:
        invocation.waiting += 1
        if invocation.waiting == 1:  # a handler has one place, however many calls it makes at once
            self._dispatcher.lend(1)
        try:
            await answered.wait()
        except BaseException:
            self._session.calls.abandon(call)
            raise
        finally:
            invocation.waiting -= 1
            if not invocation.waiting:
                self._dispatcher.lend(-1)

    def call_here(self, request: CallRequest) -> None:
        """Make a void call on the loop's own thread, without waiting even for room."""
        self._submit_foreign(self._make(request))

    async def _wait_room(self, call: Call) -> None:
        with anyio.move_on_after(call.timeout) as scope:
            await self._outbox.wait_room()
        if scope.cancelled_caught:
            raise InvocationTimeoutError(
                "TIMEOUT", f"not sent within {call.timeout:g} s: the engine does not take what waits", call.function_id
            )

    async def _call_from_foreign_loop(self, call: Call) -> Any:
        if call.invocation_id is None and self._has_link:
            self.mailbox.post(self._submit_foreign, call)
            await checkpoint()
            return None
        token = current_token()
        here = backend_of(token)
        foreign = self._foreign_loop(token.native_token)
        if call.invocation_id is None:
            return await self._submit_void(call, here, foreign.mailbox)
        try:
            return await foreign.call(call, here)
        finally:
            if not call.is_done:
                self._abandon_soon(call)

    async def _submit_void(self, call: Call, here: Backend, mailbox: Mailbox) -> Any:
        told = here.new_slot()
        self.mailbox.post(self._submit_and_tell, call, partial(mailbox.post, told.wake))
        await told.wait()
        return call.value()

    def _abandon_soon(self, call: Call) -> None:
        with suppress(WorkerStateError):  # the worker has ended, and the call with it
            self.mailbox.post(self._session.calls.abandon, call)

    def mailbox_here(self) -> Mailbox:
        """The mailbox of the loop this runs on, which may be another than the worker's."""
        return self._foreign_loop(current_token().native_token).mailbox

    def _foreign_loop(self, loop: object) -> ForeignLoop:
        foreign = self._foreign.get(loop)
        if foreign is None:
            with self._foreign_lock:
                made = ForeignLoop(self.mailbox, self.backend, self._submit_foreign)
                foreign = self._foreign.setdefault(loop, made)
        return foreign

    def close(self) -> None:
        """On the loop, at its end: wake whoever waits elsewhere, and take nothing more from there."""
        with self._foreign_lock:
            foreign = list(self._foreign.values())
        self.mailbox.close()
        for loop in foreign:
            loop.wake_all()

    def call_blocking(self, request: CallRequest) -> Any:
        """Make a call and block this thread until it has ended."""
        self.check_usable()
        if self.is_on_loop():
            raise WorkerStateError(
                "trigger() would block the event loop it needs; use 'await trigger_async(...)' here, "
                "or call it from a sync handler or another thread"
            )
        call = self._make(request)
        del request
        answered = threading.Lock()
        answered.acquire()  # released by the answer
        if call.invocation_id is None:
            if not self._has_link:
                self.mailbox.post(self._submit_and_tell, call, answered.release)
                answered.acquire()
                return call.value()
            self.mailbox.post(self._submit_foreign, call)
            if self._outbox.is_full and not call.is_local:  # a void call waits for nothing but room
                self.mailbox.post(self._outbox.call_with_room, answered.release)
                answered.acquire()
            return None
        call.wake = answered.release
        self.mailbox.post(self._submit_from_handler if is_handler_thread() else self._submit_foreign, call)
        try:
            answered.acquire()
        except BaseException:  # Ctrl-C while waiting: the call's caller has gone
            self._abandon_soon(call)
            raise
        return call.value()

    def _submit_from_handler(self, call: Call) -> None:
        """A handler's thread waits for this call: lend its place to another, or nested calls could use them all up."""
        if self._blocked_handlers >= MAX_BLOCKED_HANDLERS:
            call.end(
                error=InvocationError(
                    "worker_overloaded",
                    f"{self._blocked_handlers} sync handlers already wait in nested trigger() calls",
                    call.function_id,
                )
            )
            return
        release = call.wake
        self._lend(1)

        def wake() -> None:
            self._lend(-1)
            if release is not None:
                release()

        call.wake = wake
        self._submit_foreign(call)

    def _lend(self, places: int) -> None:
        self._blocked_handlers += places
        self._dispatcher.threads.total_tokens += places
        self._dispatcher.lend(places)

    # -- time ----------------------------------------------------------------------------------------------------

    async def run_deadlines(self) -> None:
        """End calls whose time is up. One task and one timer for all of them."""
        calls = self._session.calls
        while True:
            self._rearm = anyio.Event()
            self._armed = calls.next_deadline()
            with anyio.CancelScope(deadline=float("inf") if self._armed is None else self._armed):
                await self._rearm.wait()
            for call in calls.expire(self.now()):
                if call.invocation_id is None:
                    logger.error("a void call of %r was not sent: %s", call.function_id, call.error)
