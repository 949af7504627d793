"""The observer's side: ``ObserverHandle``, and who is told of its states.

Below: ``_protocol/observing``, which has the states. Above: ``Worker.observe``.

Tasks: one while listeners are to be called. It calls them one after another in a thread, so they may use every method
of the worker, blocking ones included.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import checkpoint

from .._protocol.observing import Observation, ObservationState
from ..errors import ObserveRejection, WorkerStateError

if TYPE_CHECKING:
    from .._protocol.messages import Observe
    from .._protocol.worker_session import WorkerSession
    from .calling import Caller
    from .dispatch import Dispatcher
    from .outbox import Outbox

__all__ = ("ObserverHandle", "Observing")

logger: Final = logging.getLogger("iii_anyio")

StateListener: TypeAlias = Callable[[ObservationState, Any], object]


class Observing:
    """The observers that one worker has made."""

    def __init__(self, session: WorkerSession, outbox: Outbox, dispatcher: Dispatcher, caller: Caller) -> None:
        self.session = session
        self.caller = caller
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._told: deque[Callable[[], None]] = deque()
        self._is_telling = False
        self._thread = CapacityLimiter(1)

    def observe(self, message: Observe) -> ObserverHandle:
        """Make an observer; the engine learns of it as soon as it can. On any thread.

        Raises:
            EncodeError: It is not JSON.
            ValueError: Its id is in use.
        """
        observation = Observation(message)
        handle = ObserverHandle(self, observation)
        self.session.observations.add(observation)
        self.caller.on_loop(self._send, observation)
        return handle

    def _send(self, observation: Observation) -> None:
        self.session.observe(observation)
        self._outbox.flush()

    def dispose(self, observation: Observation) -> None:
        """Withdraw an observer, on the loop."""
        self.session.unobserve(observation)
        self._outbox.flush()

    # -- listeners ---------------------------------------------------------------------------------------------------

    def tell(self, call: Callable[[], None]) -> None:
        """Have a function called off the loop, after those before it."""
        if not self._dispatcher.is_open:
            return  # the worker is over
        self._told.append(call)
        if not self._is_telling:
            self._is_telling = True
            self._dispatcher.start_background(self._run_telling, "iii observer state listeners")

    async def _run_telling(self) -> None:
        try:
            while self._told:
                await to_thread.run_sync(self._told.popleft(), abandon_on_cancel=True, limiter=self._thread)
        finally:
            self._is_telling = False


class ObserverHandle:
    """An observer this worker has made. May be used from any thread.

    It is announced again, under the same id, on every connection, until it is disposed of here or by the engine.
    """

    __slots__ = ("_last", "_listeners", "_observation", "_observing", "_waiters")

    def __init__(self, observing: Observing, observation: Observation) -> None:
        self._observing = observing
        self._observation = observation
        self._listeners: list[StateListener] = []
        self._waiters: list[Callable[[], None]] = []
        self._last = (observation.state, observation.reason)
        observation.changed = self._changed

    def __repr__(self) -> str:
        return f"<ObserverHandle {self.id} {self.state}>"

    @property
    def id(self) -> str:
        """Its id, the same on every connection."""
        return self._observation.id

    @property
    def state(self) -> ObservationState:
        """``pending``, ``active``, ``suspended``, ``error`` or ``disposed``."""
        return "disposed" if self._observation.is_disposed else self._observation.state

    @property
    def reason(self) -> dict[str, str] | None:
        """``{"code", "message"}``: why it is in its state, when there is something to say."""
        if self._observation.is_disposed:
            return {"code": "UNOBSERVED", "message": "disposed by the observing worker"}
        return self._observation.reason

    # -- waiting -----------------------------------------------------------------------------------------------------

    def ready(self, timeout: float | None = None) -> None:
        """Block this thread until events are delivered.

        Args:
            timeout: Seconds; None waits as long as the worker lives.

        Raises:
            ObserveRejection: It failed or was disposed of; ``code`` says why.
            TimeoutError: Not in time.
            WorkerStateError: On the worker's event loop thread.
        """
        caller = self._observing.caller
        if caller.is_on_loop():
            raise WorkerStateError("ready() would block the event loop it needs; use 'await ready_async()' here")
        until = None if timeout is None else monotonic() + timeout
        woken = threading.Event()
        self._waiters.append(woken.set)
        try:
            while not self._is_settled():
                if not woken.wait(None if until is None else max(0.0, until - monotonic())):
                    raise TimeoutError(f"observer {self.id} is still {self.state} after {timeout:g} s")
                woken.clear()
        finally:
            self._waiters.remove(woken.set)

    async def ready_async(self) -> None:
        """Wait until events are delivered, on any loop. Raises as ``ready``."""
        here = self._observing.caller.mailbox_here()
        woken = anyio.Event()

        def wake() -> None:
            with suppress(WorkerStateError):  # that loop has ended, and who waited there with it
                here.post(woken.set)

        self._waiters.append(wake)
        try:
            while not self._is_settled():
                await woken.wait()
                woken = anyio.Event()
            await checkpoint()
        finally:
            self._waiters.remove(wake)

    def _is_settled(self) -> bool:
        """Whether it is active; raises when it never will be."""
        state, reason = self.state, self.reason
        if state == "active":
            return True
        if state in {"error", "disposed"}:
            code = "OBSERVE_FAILED" if state == "error" else "UNOBSERVED"
            if reason is None:
                reason = {"code": code, "message": f"observer {self.id} is {state}"}
            raise ObserveRejection(reason["code"], reason["message"])
        if self._observing.session.fatal is not None:
            raise self._observing.session.fatal
        self._observing.caller.check_usable()
        return False

    def _changed(self) -> None:
        """On the loop: wake who waits, and have the listeners told."""
        for wake in list(self._waiters):
            wake()
        state, reason = news = self._observation.state, self._observation.reason
        if news == self._last:
            return  # only who waits is to look: the worker is over
        self._last = news
        for listener in list(self._listeners):
            self._observing.tell(partial(self._tell, listener, state, reason))

    # -- listeners ---------------------------------------------------------------------------------------------------

    def on_state_change(self, listener: StateListener) -> Callable[[], None]:
        """Call ``listener(state, reason)`` at each change from now on, in order, in a thread that may use the worker.

        Returns:
            Removes this listener; may be called again.
        """

        def entry(state: ObservationState, reason: Any) -> None:  # an identity of its own
            listener(state, reason)

        self._listeners.append(entry)

        def remove() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)

        return remove

    def _tell(self, listener: StateListener, state: ObservationState, reason: Any) -> None:
        if listener not in self._listeners:
            return
        try:
            listener(state, reason)
        except Exception:
            logger.exception("a state listener of observer %s failed", self.id)

    # -- the end -----------------------------------------------------------------------------------------------------

    def dispose(self) -> None:
        """Remove the observer; without a connection the engine is told when there is one. Again: changes nothing."""
        if self._observation.is_disposed:
            return
        self._observation.is_disposed = True
        with suppress(WorkerStateError):  # the worker has ended, and its observers with it
            self._observing.caller.on_loop(self._observing.dispose, self._observation)

    async def dispose_async(self) -> None:
        """Do what ``dispose`` does, which does not wait for the engine."""
        self.dispose()
        await checkpoint()
