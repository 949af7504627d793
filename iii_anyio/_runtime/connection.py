"""From link to link: connect, serve, back off, again. Publishes the connection state.

Ends only by cancellation, by ``finish`` (shutdown), by a refusal the engine will repeat (``RegistrationRejectedError``)
or when the retries are used up (``ConnectError``); every other end of a link is followed by the next one (P-22, P-25).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CancelScope, current_time

from .._protocol.messages import ErrorMessage, Message, RegistrationRejected, TriggerRegistrationResult
from .._protocol.worker_session import Phase, WorkerSession
from ..errors import ConnectError, IIIError, InvocationError, LinkClosed
from .link import Link

if TYPE_CHECKING:
    from .._protocol.backoff import Backoff
    from ..abc import Connector, Wire
    from ..options import ConnectionStateCallback, HeartbeatOptions, IIIConnectionState
    from .outbox import Outbox

__all__ = ("Connection",)

logger: Final = logging.getLogger("iii_anyio")


class Connection:
    """The supervised connection of one worker."""

    def __init__(
        self,
        connector: Connector,
        session: WorkerSession,
        outbox: Outbox,
        *,
        address: str,
        backoff: Backoff,
        heartbeat: HeartbeatOptions,
        join_timeout: float,
        dispatch: Callable[[Message], None],
        link_lost: Callable[[], None],
    ) -> None:
        self._connector = connector
        self._session = session
        self._outbox = outbox
        self._address = address
        self._backoff = backoff
        self._heartbeat = heartbeat
        self._join_timeout = join_timeout
        self._dispatch = dispatch
        self._link_lost = link_lost
        self._link: Link | None = None
        self._pause = CancelScope()
        self._is_finishing = False
        self._had_joined = False
        self._listeners: list[ConnectionStateCallback] = []
        self._changed = anyio.Event()
        self.state: IIIConnectionState = "disconnected"
        self.reconnects: int = 0

    # -- state ---------------------------------------------------------------------------------------------------

    def add_listener(self, listener: ConnectionStateCallback) -> Callable[[], None]:
        """Call ``listener`` with the state now and at each change; returns its idempotent removal."""

        def entry(state: IIIConnectionState) -> None:  # an identity of its own, however often the same is registered
            listener(state)

        self._listeners.append(entry)
        self._notify(entry)

        def remove() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)

        return remove

    def _notify(self, listener: ConnectionStateCallback) -> None:
        try:
            listener(self.state)
        except Exception:
            logger.exception("a connection state listener failed")

    def publish(self, state: IIIConnectionState) -> None:
        """Change the state and tell the listeners; the same state again tells nobody."""
        if state != self.state:
            self.state = state
            for listener in list(self._listeners):
                self._notify(listener)
        self.notify()

    def notify(self) -> None:
        """Wake everybody in ``wait_change``."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def wait_change(self) -> None:
        """Wait until the state, the readiness or the identity may have changed."""
        await self._changed.wait()

    @property
    def rtt(self) -> float | None:
        """Seconds the last answered ping of this link took."""
        return None if self._link is None else self._link.liveness.rtt

    # -- the loop ------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write what is pending on the current link, close it, and make no other."""
        self._is_finishing = True
        if self._link is not None:
            self._link.finish()
        else:
            self._pause.cancel()

    async def run(self) -> None:
        """Keep a link up.

        Raises:
            RegistrationRejectedError: The engine refused this worker for good.
            ConnectError: ``max_retries`` attempts in a row failed.
        """
        attempt = 0
        self.publish("connecting")
        while not self._is_finishing:
            problem = await self._attempt()
            if self._session.fatal is not None:
                self.publish("failed")
                raise self._session.fatal
            if self._is_finishing:
                break
            if self._had_joined:
                attempt = 0  # only a complete set-up resets the delays (P-23, P-19)
            if self._backoff.is_exhausted(attempt):
                self.publish("failed")
                raise problem if isinstance(problem, ConnectError) else ConnectError(self._address, str(problem))
            delay = self._backoff.delay(attempt, random.random())
            attempt += 1
            self.reconnects += 1
            logger.warning("%s; connecting again in %.1f s", problem, delay)
            self.publish("reconnecting")
            self._pause = CancelScope()
            with self._pause:
                await anyio.sleep(delay)
        self.publish("disconnected")

    async def _attempt(self) -> Exception:
        """Make and serve one link; returns why there is none any more."""
        self._had_joined = False
        problem: Exception = LinkClosed(1000)
        self._pause = CancelScope()
        try:
            with self._pause:
                async with self._connector() as wire:
                    problem = await self._serve(wire)
        except IIIError as exc:
            problem = exc
        except Exception as exc:
            # P-25: nothing that goes wrong here may end the loop; a connector is somebody else's code.
            logger.exception("an unexpected error ended the link to %s", self._address)
            problem = exc
        return problem

    async def _serve(self, wire: Wire) -> Exception:
        session = self._session
        link = Link(
            wire,
            session,
            self._outbox,
            heartbeat=self._heartbeat,
            join_timeout=self._join_timeout,
            act=self._act,
            changed=self._session_changed,
        )
        self._link = link
        self._pause = CancelScope()  # from here on ``finish`` goes through the link
        session.link_up(current_time())
        self._outbox.flush()
        try:
            await link.run()
        finally:
            self._link = None
            self._had_joined = link.has_joined
            dropped = session.link_down()
            self._outbox.freed()
            self._link_lost()
            if not self._is_finishing and session.fatal is None:
                self.publish("disconnected")
            if dropped:
                logger.debug("%d messages of the lost link were dropped", dropped)
        return session.refused_credentials or link.cause or LinkClosed(1000)

    def _session_changed(self) -> None:
        if self._link is not None and self._link.has_joined and self._session.phase is Phase.JOINED:
            self.publish("connected")
        self.notify()

    def _act(self, message: Message) -> None:
        if isinstance(message, RegistrationRejected):
            if message.function_id is None and self._session.fatal is None:
                logger.warning(
                    "the name %r is still held by a connection of ours that was lost; trying again", message.worker_name
                )
            elif self._session.fatal is None:
                logger.warning(
                    "the engine refused function %r in namespace %r (%s): worker %s holds it; the rest is served",
                    message.function_id, message.namespace, message.code, message.owner_worker_id,
                )  # fmt: skip
                self._dispatch(message)
        elif isinstance(message, TriggerRegistrationResult):
            error = InvocationError.from_wire(message.error)
            logger.error(
                "trigger %s of type %r for function %r was refused: %s",
                message.id, message.trigger_type, message.function_id, error.message,
            )  # fmt: skip
        elif isinstance(message, ErrorMessage):
            logger.error("the engine refused the connection: %s", self._session.refused_credentials)
        else:
            self._dispatch(message)
