"""The owner's side of observers: runs the hooks of a function, and ``Observer``, what hooks and handlers see of one.

Below: ``_protocol/owning``, which decides. Above: the dispatcher hands over what the engine announces.

Tasks: per function at most one that works through announcements, and one for a running hook; none for functions
without hooks. A hook whose 30 s are over goes on beside the next one, for what it has begun cannot be undone half-way.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from anyio import CapacityLimiter, get_cancelled_exc_class, move_on_after, to_thread

from .._protocol.calls import new_id
from .._protocol.codec import encode
from .._protocol.messages import ABSENT, FunctionRegistered, ObserverAdded, ObserverRemoved, RegistrationRejected
from .._protocol.owning import Ack, Hook, ObservedFunction, ObserverRecord
from ..errors import InvocationError, ObserveRejection
from .calling import CallRequest
from .context import Invocation, current, lineage

if TYPE_CHECKING:
    from .._protocol.owning import Steps
    from .._protocol.worker_session import WorkerSession
    from .calling import Caller
    from .dispatch import Dispatcher, Function
    from .outbox import Outbox
    from .reporting import Reports

__all__ = ("Observer", "Owning")

logger: Final = logging.getLogger("iii_anyio")

HOOK_TIMEOUT: Final = 30.0
HOOK_THREADS: Final = 100


class Observer:
    """An observer of a function of this worker, as its owner sees it: one object as long as the engine knows it.

    Hooks and ``FunctionRef.observers()`` give it. May be used from any thread.
    """

    __slots__ = ("_owning", "_record", "_watched")

    def __init__(self, owning: Owning, watched: ObservedFunction, record: ObserverRecord) -> None:
        self._owning = owning
        self._watched = watched
        self._record = record

    def __repr__(self) -> str:
        record = self._record
        return f"<Observer {record.id} of {record.function_id} for {record.target}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self._record.id

    @property
    def function_id(self) -> str:
        """The function it observes."""
        return self._record.function_id

    @property
    def args(self) -> dict[str, Any]:
        """What it asks of the owner; the engine has checked it against ``args_format``."""
        return self._record.args

    @property
    def filters(self) -> dict[str, Any]:
        """Its filters, as the engine has normalised them."""
        filters: dict[str, Any] = self._record.filters
        return filters

    @property
    def target(self) -> str:
        """Id of the function that gets the events."""
        return self._record.target

    @property
    def capture(self) -> list[str]:
        """Which parts of an event the target gets."""
        return list(self._record.capture)

    @property
    def on(self) -> str:
        """``success``, ``error`` or ``complete``; only for auto delivery."""
        return self._record.on

    @property
    def legacy(self) -> dict[str, Any] | None:
        """``{"trigger_type", "config"}`` when it was made from a registered trigger."""
        return self._record.legacy

    def matches(self, doc: Mapping[str, Any]) -> bool:
        """Whether its filters match a document of ``input``, ``output``, ``error``, ``caller`` and ``metadata``."""
        return self._record.filter.matches(doc)

    def emit(self, event: Any) -> bool:
        """Hand it an event, without waiting for anything.

        Returns:
            False when its filters do not match, or it is no longer active; then nothing is sent.

        Raises:
            InvocationError: ``NOT_OWNER_DELIVERED``: the function was not registered with ``delivery="owner"``.
        """
        self._owning.caller.check_usable()
        self._check_owner("emit")
        record = self._record
        if not record.is_open:
            return False
        invocation = current.get()
        doc = self._document(event, invocation)
        if not self.matches(doc):
            return False
        is_own = invocation is not None and invocation.function_id == record.function_id
        fields: dict[str, Any] = {
            "function_id": record.function_id,
            "namespace": self._watched.namespace,
            "invocation_id": (is_own and invocation is not None and invocation.invocation_id) or new_id(),
            "matched": [record.id],
            "observe_depth": 0 if invocation is None else invocation.observe_depth,
        }
        trace = (None, None) if invocation is None else (invocation.traceparent, invocation.baggage)
        reports = self._owning.reports
        reports.emitted(fields, doc, record.capture, event, invocation, trace)
        if not reports.is_flush_posted:
            reports.is_flush_posted = True
            self._owning.caller.on_loop(reports.flush_soon)
        return True

    def call(self, payload: Any, *, timeout_ms: int | None = None) -> Any:
        """Call its target through the engine and block this thread until it has answered.

        Args:
            payload: What the target gets.
            timeout_ms: How long to wait; None is the worker's default.

        Returns:
            The target's result.

        Raises:
            InvocationError: ``FILTERS_NOT_MATCHED`` or ``OBSERVER_NOT_ACTIVE``, and nothing was sent;
                ``NOT_OWNER_DELIVERED``; or what the call came to.
            WorkerStateError: On the worker's event loop thread.
        """
        self._check_call(payload)
        return self._owning.caller.call_blocking(self._call(payload, timeout_ms))

    async def call_async(self, payload: Any, *, timeout_ms: int | None = None) -> Any:
        """Do what ``call`` does and wait for it, on any loop."""
        self._check_call(payload)
        return await self._owning.caller.call(self._call(payload, timeout_ms))

    def reject(self, code: str, message: str) -> None:
        """Refuse it after all: no event reaches it any more, and its worker is told why.

        The "removed" hook runs when the engine has removed it. During its "added" hook this refuses it as well.
        """
        self._record.rejection = {"code": code, "message": message}
        self._owning.caller.on_loop(self._owning.rejected, self._watched, self._record)

    def to_dict(self) -> dict[str, Any]:
        """Everything about it as one dict."""
        names = ("id", "function_id", "args", "filters", "target", "capture", "on")
        return {name: getattr(self, name) for name in names} | ({"legacy": self.legacy} if self.legacy else {})

    def _check_owner(self, method: str) -> None:
        if self._watched.delivery != "owner":
            raise InvocationError(
                "NOT_OWNER_DELIVERED",
                f"{method}() is for functions that are registered with observe={{'delivery': 'owner'}}; the engine "
                f"itself delivers the invocations of {self.function_id!r}",
                self.function_id,
            )

    def _check_call(self, payload: Any) -> None:
        self._check_owner("call")
        if not self._record.is_open:
            text = f"observer {self.id} of {self.function_id!r} is not active"
            raise InvocationError("OBSERVER_NOT_ACTIVE", text, self.function_id)
        if not self.matches(self._document(payload, current.get())):
            text = f"the filters of observer {self.id} do not match this payload"
            raise InvocationError("FILTERS_NOT_MATCHED", text, self.function_id)

    def _call(self, payload: Any, timeout_ms: int | None) -> CallRequest:
        timeout = timeout_ms / 1000 if timeout_ms else None
        activation = {"observer_id": self.id}
        return CallRequest(self.target, payload, timeout=timeout, dispatch="remote", activation=activation)

    def _document(self, event: Any, invocation: Invocation | None) -> dict[str, Any]:
        """What filters see of an event. Its caller: of this handler; another handler; else this worker (§16.7)."""
        doc: dict[str, Any] = {"input": event}
        if invocation is not None and invocation.function_id == self.function_id:
            if invocation.caller is not None:
                doc["caller"] = invocation.caller
        else:
            doc["caller"] = self._owning.session.whoami() | ({} if invocation is None else lineage(invocation))
        if invocation is not None and invocation.metadata is not ABSENT:
            doc["metadata"] = invocation.metadata
        return doc


class Owning:
    """The observers of every function of one worker."""

    def __init__(
        self,
        session: WorkerSession,
        outbox: Outbox,
        dispatcher: Dispatcher,
        caller: Caller,
        reports: Reports,
    ) -> None:
        self.session = session
        self.caller = caller
        self.reports = reports
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._working: set[ObservedFunction] = set()
        self._threads = CapacityLimiter(HOOK_THREADS)
        self._warned: set[str] = set()

    def observer(self, watched: ObservedFunction, record: ObserverRecord) -> Observer:
        """The one object that stands for it."""
        if record.face is None:
            record.face = Observer(self, watched, record)
        return cast("Observer", record.face)

    def observers(self, watched: ObservedFunction) -> list[Observer]:
        """Those that are active now. On any thread."""
        return [self.observer(watched, record) for record in watched.active if record.is_open]

    # -- what the engine says, on the loop ---------------------------------------------------------------------------

    def act(self, message: FunctionRegistered | ObserverAdded | ObserverRemoved | RegistrationRejected) -> None:
        """Take an announcement. Never waits."""
        function_id = message.id if isinstance(message, FunctionRegistered) else message.function_id
        registration = self.session.registry.functions.get(function_id or "")
        if registration is None:
            return
        function: Function = registration.target
        watched = function.observed
        if watched is None:
            return
        link = self.session.link
        if isinstance(message, FunctionRegistered):
            watched.registered(message, link)
        elif isinstance(message, ObserverAdded):
            watched.added(message, link)
        elif isinstance(message, ObserverRemoved):
            watched.removed(message)
        else:
            watched.refused(link)
            self.reports.reporter.discard(watched.function_id)
        self._work(watched)

    def withdrawn(self, watched: ObservedFunction) -> None:
        """The function is registered no more: its observers go, and their hooks are told."""
        watched.withdrawn()
        self.reports.reporter.discard(watched.function_id)
        self._work(watched)

    def rejected(self, watched: ObservedFunction, record: ObserverRecord) -> None:
        """The owner refuses an observer that it had taken."""
        ack = watched.rejected(record)
        if ack is not None:
            self._send(ack)
            self._outbox.flush()

    def settled(self, takes_observers: bool) -> None:
        """A link has joined: without ``observe.v1`` say once what does not work (§16.2)."""
        if takes_observers:
            return
        for registration in list(self.session.registry.functions.values()):
            watched: ObservedFunction | None = registration.target.observed
            if watched is None or registration.id in self._warned:
                continue
            if watched.has_hooks or watched.delivery == "owner":
                self._warned.add(registration.id)
                logger.warning(
                    "function %r wants to know its observers, but the engine has no observe.v1: it is registered as a "
                    "plain function, and its observe hooks never run",
                    registration.id,
                )

    # -- the work ----------------------------------------------------------------------------------------------------

    def _work(self, watched: ObservedFunction) -> None:
        """Do what waits, at once as far as no hook is to be run."""
        if watched in self._working or not watched.has_work or not self._dispatcher.is_open:
            return
        steps = watched.work()
        hook = self._until_hook(steps, next(steps, None))
        if hook is not None:
            self._working.add(watched)
            run = partial(self._work_on, watched, steps, hook)
            self._dispatcher.start_background(run, f"iii observers of {watched.function_id}")
        self.reports.flush()
        self._outbox.flush()

    async def _work_on(self, watched: ObservedFunction, steps: Steps, hook: Hook | None) -> None:
        try:
            while hook is not None:
                error = await self._run_hook(watched, hook)
                try:
                    step: Ack | Hook | None = steps.send(error)
                except StopIteration:
                    step = None
                hook = self._until_hook(steps, step)
                self.reports.flush()
                self._outbox.flush()
        finally:
            self._working.discard(watched)
        self._work(watched)

    def _until_hook(self, steps: Steps, step: Ack | Hook | None) -> Hook | None:
        while isinstance(step, Ack):
            self._send(step)
            step = next(steps, None)
        return step

    def _send(self, ack: Ack) -> None:
        self.session.answer(ack.link, encode(ack.message))

    async def _run_hook(self, watched: ObservedFunction, hook: Hook) -> dict[str, str] | None:
        """Run a hook for at most 30 s; returns why an observer is refused."""
        call = _HookCall(hook.function, self.observer(watched, hook.observer), self._threads)
        name = f"iii on_observer_{hook.kind} of {watched.function_id}"
        self._dispatcher.start_background(call.run, name)
        with move_on_after(HOOK_TIMEOUT):
            await call.ended.wait()
        if not call.ended.is_set():
            logger.error("%s has not ended within %g s for observer %s", name, HOOK_TIMEOUT, hook.observer.id)
            if hook.kind == "added":
                call.on_late_success = partial(self._added_late, watched, hook.observer)
            return {"code": "OWNER_TIMEOUT", "message": f"the owner did not answer within {HOOK_TIMEOUT:g} s"}
        if call.error is None:
            return None
        if hook.kind == "removed":
            logger.error("%s failed for observer %s", name, hook.observer.id, exc_info=call.error)
        return _refusal(call.error)

    def _added_late(self, watched: ObservedFunction, observer: ObserverRecord) -> None:
        watched.added_late(observer)
        self._work(watched)


class _HookCall:
    """One run of a hook, which may outlive the wait for it."""

    def __init__(self, function: Callable[[Any], Any], observer: Observer, threads: CapacityLimiter) -> None:
        self._function = function
        self._observer = observer
        self._threads = threads
        self.ended: anyio.Event = anyio.Event()
        self.error: BaseException | None = None
        self.on_late_success: Callable[[], None] | None = None

    async def run(self) -> None:
        """Run it in this task, or in a thread if it is sync, and keep what it raises."""
        current.set(None)  # whatever handler a worker was opened in: a hook serves no invocation
        try:
            if inspect.iscoroutinefunction(self._function):
                await self._function(self._observer)
            else:
                result = await to_thread.run_sync(
                    self._function, self._observer, abandon_on_cancel=True, limiter=self._threads
                )
                if inspect.isawaitable(result):
                    await result
        except get_cancelled_exc_class() as exc:
            self.error = exc
            raise
        except BaseException as exc:
            self.error = exc  # a hook that raises, whatever it is, refuses its observer and ends nothing else
            if isinstance(exc, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
        finally:
            self.ended.set()
        if self.error is None and self.on_late_success is not None:
            self.on_late_success()


def _refusal(exc: BaseException) -> dict[str, str]:
    if isinstance(exc, ObserveRejection):
        return {"code": exc.code, "message": exc.message}
    text = str(exc) or type(exc).__name__
    return {"code": "OBSERVE_REJECTED", "message": text.encode("utf-8", "replace").decode("utf-8")}
