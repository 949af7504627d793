"""From message to task: finds the function, keeps the limits, answers every invocation exactly once.

Tasks: the runners of ``runners.py``, in the group given to ``open``; they outlive the link an invocation came on.
Trigger-type messages go to ``providing``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import anyio
from anyio import CancelScope, CapacityLimiter, get_cancelled_exc_class
from anyio.lowlevel import current_token

from .._protocol.codec import encode
from .._protocol.messages import ABSENT, InvocationResult, InvokeFunction, Message, UnregisterTrigger
from .._protocol.messages import RegisterTrigger as RegisterTriggerMessage
from .._protocol.owning import ObservedFunction
from .._wire.backend import backend_of
from ..errors import IIIError, InvocationError
from .binding import Binding
from .cleanup import last_words
from .context import Invocation, current
from .invoke import failure, may_hold_refs, run_handler
from .local import LocalCall, copied
from .providing import Providing
from .runners import Runners

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from .._protocol.worker_session import WorkerSession
    from ..abc import OpenChannel
    from ..options import Limits
    from .instrument import Instrument, Served
    from .outbox import Outbox

__all__ = ("Dispatcher", "Function")

logger: Final = logging.getLogger("iii_anyio")

CLOSE_ENDS: Final = 2.0
"""Seconds to close the data channels that a handler left open."""


Origin: TypeAlias = int | LocalCall
"""Where an invocation came from, and its answer goes: the number of a link, or a call of this worker itself."""

Arrival: TypeAlias = tuple[int, InvokeFunction, Origin]
"""An invocation that waits: its place in the order of arrival, the message, and where it came from."""


@dataclass(slots=True, eq=False)
class Function:
    """A registered function as the dispatcher sees it. ``binding`` is None for one the engine invokes over HTTP."""

    function_id: str
    binding: Binding | None
    concurrency: int | None = None
    on_disconnect: Literal["finish", "cancel"] = "finish"
    observed: ObservedFunction | None = None
    """What the engine has said about it: its observers, and whether calls of it may stay in this process."""
    running: int = 0
    waiting: list[Arrival] = field(default_factory=list[Arrival])
    """A list, for an empty deque takes 760 bytes."""

    @property
    def has_place(self) -> bool:
        """Whether its own limit lets another one run."""
        return self.concurrency is None or self.running < self.concurrency


class _Ends(Protocol):
    """The data channels of one invocation."""

    def replaced(self, data: Any) -> Any: ...

    async def aclose(self) -> None: ...


class Dispatcher:
    """Everything between a received invocation and its answer."""

    def __init__(self, owner: object, session: WorkerSession, outbox: Outbox, limits: Limits) -> None:
        self._owner = owner
        self._session = session
        self._outbox = outbox
        self._limits = limits
        self._group: TaskGroup | None = None
        self._is_accepting = True
        self._runners = Runners(backend_of(current_token()), self._run, self._ask_host)
        self._functions_waiting: dict[Function, None] = {}
        self._waiting = 0
        self._arrivals = 0
        self._lent = 0
        self._cancel_on_loss: set[CancelScope] = set()
        self._idle = anyio.Event()
        self._idle.set()
        self.running: int = 0
        self.threads: CapacityLimiter = CapacityLimiter(limits.max_threads)
        self.processes: CapacityLimiter = CapacityLimiter(limits.max_processes)
        self._one_ended: anyio.Event | None = None
        self.providing: Providing = Providing(session, outbox)
        self.open_channel: OpenChannel | None = None
        self._receive: Callable[[], _Ends] | None = None
        self.announced: Callable[[Message], None] | None = None
        """Takes what is neither an invocation nor a binding: what the engine says about observers."""
        self.ran_locally: Callable[[LocalCall, InvocationResult], None] | None = None
        """Told of each local call that has run."""
        self.instrument: Instrument | None = None
        self._background: deque[tuple[Callable[[], Awaitable[None]], str]] = deque()
        self._background_filled = anyio.Event()

    def use_channels(self, open_channel: OpenChannel, receive: Callable[[], _Ends]) -> None:
        """Have references to data channels in payloads replaced by live ends, made by ``receive`` (P-56)."""
        self.open_channel = open_channel
        self._receive = receive

    def open(self, group: TaskGroup) -> None:
        """Run handlers in this group from now on."""
        self._group = group
        # Each handler starts with the variables of the worker's opener, never with those of another handler.
        self._runners.open(group, copy_context())
        self.providing.open(group)

    def close(self) -> None:
        """The group is about to end: start nothing in it any more, and answer what waits."""
        self._is_accepting = False
        self._group = None
        self.providing.close()
        for function, message, origin in self._runners.close():
            self._finished(function)
            self._refuse(message, origin, "worker_shutting_down", "the worker ended before it came to this invocation")
        for _, message, origin in self._take_waiting():
            self._refuse(message, origin, "worker_shutting_down", "the worker ended before it came to this invocation")
        while self._background:
            _, name = self._background.popleft()
            logger.warning("%s did not run: the worker ended before", name)
            self._ended()

    @property
    def is_open(self) -> bool:
        """Whether tasks can be started."""
        return self._group is not None

    # -- what the link hands over --------------------------------------------------------------------------------

    def act(self, message: Message) -> None:
        """Take one message from the reader. Never waits."""
        if isinstance(message, InvokeFunction):
            self._invoke(message)
        elif isinstance(message, RegisterTriggerMessage | UnregisterTrigger):
            self.providing.act(message)
        elif self.announced is not None:
            self.announced(message)

    def _invoke(self, message: InvokeFunction) -> None:
        registration = self._session.registry.functions.get(message.function_id)
        link = self._session.link
        if registration is None:
            self._refuse(message, link, "function_not_found", f"Function {message.function_id} is not registered here.")
            return
        function: Function = registration.target
        if function.binding is None:
            text = (
                f"Function {message.function_id} is invoked over HTTP by the engine; this worker has no handler for it."
            )
            self._refuse(message, link, "function_not_invokable", text)
        elif not self._is_accepting:
            self._refuse(message, link, "worker_shutting_down", "the worker is draining and takes no new invocations")
        else:
            self._admit(function, message, link)

    def invoke_local(self, call: LocalCall) -> None:
        """Run a call of this worker's own function; while the worker drains too, for a handler may need it to end."""
        if self._group is None:
            self._refuse(call.message, call, "worker_shutting_down", "the worker has ended")
        else:
            self._admit(call.function, call.message, call)

    def _admit(self, function: Function, message: InvokeFunction, origin: Origin) -> None:
        if function.has_place and self._has_place:
            self._start(function, message, origin)
        elif self._waiting >= self._limits.backlog:
            text = f"{self.running} handlers run and {self._waiting} invocations wait; try again later"
            self._refuse(message, origin, "worker_overloaded", text)
        else:
            self._waiting += 1
            self._arrivals += 1
            self._functions_waiting[function] = None
            function.waiting.append((self._arrivals, message, origin))

    @property
    def waiting(self) -> int:
        """Invocations that wait for a place."""
        return self._waiting

    @property
    def is_accepting(self) -> bool:
        """Whether new invocations are taken."""
        return self._is_accepting

    @property
    def _has_place(self) -> bool:
        return self.running < self._limits.max_concurrency + self._lent

    def lend(self, places: int) -> None:
        """A handler waits for a call of its own: its place goes to another, or nested calls could use them all up."""
        self._lent += places
        self._start_waiting()

    def _refuse(self, message: InvokeFunction, origin: Origin, code: str, text: str) -> None:
        logger.debug("refused an invocation of %r: %s", message.function_id, text)
        self._answer(message, origin, failure(message, InvocationError(code, text)))

    def _start(self, function: Function, message: InvokeFunction, origin: Origin) -> None:
        function.running += 1
        self._began()
        self._runners.put((function, message, origin))

    # -- one invocation ------------------------------------------------------------------------------------------

    async def _run(self, job: tuple[Function, InvokeFunction, Origin]) -> None:
        function, message, origin = job
        served: Served | None = None
        if self.instrument is not None:
            message, served = self.instrument.serving(message)
        current.set(
            Invocation(
                self._owner, message.function_id, message.invocation_id, message.metadata, message.traceparent,
                message.baggage, message.observe_depth or 0, message.caller, message.activation,
                0 if isinstance(origin, int) else origin.depth,
            )
        )  # fmt: skip
        assert function.binding is not None
        ends: _Ends | None = None
        try:
            if self._receive is not None and may_hold_refs(message.data):
                ends = self._receive()
                message = replace(message, data=ends.replaced(message.data))
            if function.on_disconnect == "cancel" and isinstance(origin, int):
                await self._run_cancellable(function, message, origin, served)
            else:
                self._succeed(message, origin, await run_handler(function.binding, message, self.threads), served)
        except BaseException as exc:
            if served is not None:
                served.failed(exc)
            # Whatever a handler does, its caller gets an answer and the others go on (P-40). Cancellation may be
            # swallowed here because the task ends with this line.
            self._fail(message, origin, exc)
            if isinstance(exc, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # that was the user's Ctrl-C
        else:
            if self._outbox.is_full and isinstance(origin, int):
                await self._outbox.wait_room()  # a handler keeps its place until its result has room
        finally:
            try:
                if ends is not None:
                    with last_words(CLOSE_ENDS):
                        await ends.aclose()
            finally:
                self._finished(function)

    async def _run_cancellable(
        self, function: Function, message: InvokeFunction, link: int, served: Served | None
    ) -> None:
        assert function.binding is not None
        with CancelScope() as scope:
            self._cancel_on_loss.add(scope)
            try:
                self._succeed(message, link, await run_handler(function.binding, message, self.threads), served)
            finally:
                self._cancel_on_loss.discard(scope)

    def _succeed(self, message: InvokeFunction, origin: Origin, result: object, served: Served | None) -> None:
        if message.invocation_id is not None:
            self._answer(
                message,
                origin,
                InvocationResult(message.invocation_id, message.function_id, result, traceparent=message.traceparent),
            )
        if served is not None:
            served.succeeded(result)

    def _fail(self, message: InvokeFunction, origin: Origin, exc: BaseException) -> None:
        if isinstance(exc, get_cancelled_exc_class()):
            logger.info("handler of %r was cancelled before it finished", message.function_id)
        elif isinstance(exc, InvocationError) and exc.code != "invalid_result":
            logger.info("handler of %r failed: %s", message.function_id, exc)
        elif isinstance(exc, IIIError):  # what the handler returned cannot be sent: its author has to know
            logger.error("handler of %r failed: %s", message.function_id, exc)
        else:
            logger.error("handler of %r failed", message.function_id, exc_info=exc)
        if message.invocation_id is not None:
            self._answer(message, origin, failure(message, exc), exc)

    def _answer(
        self, message: InvokeFunction, origin: Origin, answer: InvocationResult, cause: BaseException | None = None
    ) -> None:
        if not answer.invocation_id:
            return
        if not isinstance(origin, int):
            self._answer_local(origin, answer, cause)
            return
        if not self._session.answer(origin, encode(answer)):
            logger.debug("the result of %r came after its link was lost and was dropped", message.function_id)
        self._outbox.flush(is_alone=self.running == 1)

    def _answer_local(self, call: LocalCall, answer: InvocationResult, cause: BaseException | None) -> None:
        result: Any = None
        error: InvocationError | None = None
        if answer.error is ABSENT:
            result = copied(answer.result)
        else:
            error = InvocationError.from_wire(answer.error, call.function_id, answer.invocation_id)
            error.__cause__ = cause
        if self.ran_locally is not None and (cause is not None or error is None):  # a refused call has not run
            self.ran_locally(call, answer)
        if call.invocation_id is not None:
            self._session.calls.settle(call.invocation_id, result, error)
        elif error is not None:  # nobody else will hear of it
            logger.error("a void call of %r failed: %s", call.function_id, error)

    def _finished(self, function: Function) -> None:
        function.running -= 1
        if self._one_ended is not None:
            self._one_ended.set()
        self._ended()

    def _began(self) -> None:
        self.running += 1
        if self.running == 1:
            self._idle = anyio.Event()

    def _ended(self) -> None:
        self.running -= 1
        self._start_waiting()
        if self.running == 0:
            self._idle.set()

    def _start_waiting(self) -> None:
        """Give free places to those that wait, in order of arrival."""
        while self._functions_waiting and self._has_place:
            ready = [function for function in self._functions_waiting if function.has_place]
            if not ready:
                return
            function = min(ready, key=lambda entry: entry.waiting[0][0])
            _, message, origin = function.waiting.pop(0)
            if not function.waiting:
                del self._functions_waiting[function]
            self._waiting -= 1
            self._start(function, message, origin)

    # -- work that handlers leave behind ---------------------------------------------------------------------------

    def start_background(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Run an async function as a task of this worker; the drain waits for it as for a handler.

        Called on the loop, where not even a task may be running: the host of the handlers group starts it.
        """
        self._background.append((function, name))
        self._began()
        self._background_filled.set()

    def _ask_host(self) -> None:
        self._background_filled.set()

    async def run_background(self) -> None:
        """Start what ``start_background`` was given, and runners that only a task can start, until cancelled."""
        while True:
            await self._background_filled.wait()
            self._background_filled = anyio.Event()
            self._runners.start_wanted()
            while self._background and self._group is not None:
                function, name = self._background.popleft()
                self._group.start_soon(self._run_background, function, name, name=name)

    async def _run_background(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        try:
            await function()
        except Exception:  # the boundary of a task that nobody waits for
            logger.exception("%s failed", name)
        finally:
            self._ended()

    # -- link and worker end -------------------------------------------------------------------------------------

    def link_lost(self) -> None:
        """Forget what waits (its callers have been told that it stopped) and cancel what asked for it."""
        arrivals = self._take_waiting()
        local = [origin for _, _, origin in arrivals if not isinstance(origin, int)]
        if len(local) < len(arrivals):
            number = len(arrivals) - len(local)
            logger.warning("%d invocations still waiting for a place ended with the connection", number)
        for call in local:  # they need no connection
            self.invoke_local(call)
        for scope in list(self._cancel_on_loss):
            scope.cancel()

    def _take_waiting(self) -> list[Arrival]:
        arrivals = [arrival for function in self._functions_waiting for arrival in function.waiting]
        for function in self._functions_waiting:
            function.waiting.clear()
        self._functions_waiting.clear()
        self._waiting = 0
        if self._one_ended is not None:
            self._one_ended.set()
        return sorted(arrivals, key=lambda arrival: arrival[0])

    def running_functions(self) -> str:
        """What runs, for a log line: function ids with how often."""
        functions = [registration.target for registration in self._session.registry.functions.values()]
        running = [f"{entry.function_id} ({entry.running})" for entry in functions if entry.running]
        more = self.running - sum(entry.running for entry in functions)
        return ", ".join([*running, f"others ({more})"] if more else running)

    def stop_accepting(self) -> None:
        """Refuse new invocations; those that run or wait go on."""
        self._is_accepting = False

    async def wait_ended(self, functions: Collection[Function]) -> None:
        """Wait until none of these functions runs or waits. New invocations of them are for others to keep away."""
        while any(function.running or function.waiting for function in functions):
            if self._one_ended is None or self._one_ended.is_set():
                self._one_ended = anyio.Event()
            await self._one_ended.wait()

    async def wait_idle(self) -> None:
        """Wait until no handler runs and none waits."""
        while self.running or self._waiting:
            await self._idle.wait()
