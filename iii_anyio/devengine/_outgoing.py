"""What the router has for connections: messages to write, and connections to end.

Below: the sessions, whose ``outgoing`` it fills. Above: everything in the router sends through it; ``_router`` tears
down what is condemned, ``_connections`` writes what ``take_dirty`` names.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import EncodeError, PayloadTooLargeError

if TYPE_CHECKING:
    from .._protocol.engine_session import EngineSession
    from .._protocol.messages import Message

__all__ = ("Outgoing",)

logger = logging.getLogger(__name__)


class Outgoing:
    """Fills the sessions.

    Args:
        max_bytes: That may wait for one worker; one that reads too slowly is dropped.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._dirty: dict[EngineSession, None] = {}
        self.condemned: list[EngineSession] = []
        """Connections that were ended, and still hold what they had."""

    def send(self, session: EngineSession, message: Message) -> bool:
        """Send, unless the connection is over.

        Raises:
            EncodeError: The message holds what JSON cannot carry.
            PayloadTooLargeError: It is over 64 MiB.
        """
        if not session.is_live:
            return False
        session.send(message)
        self._dirty[session] = None
        if session.outgoing_bytes > self.max_bytes:
            logger.warning(
                "worker %s dropped: it does not read, and %d bytes wait for it", session.label, session.outgoing_bytes
            )
            self.condemn(session, 1008, "the worker does not read", abort=True)
        return True

    def try_send(self, session: EngineSession, message: Message) -> bool:
        """Send what nobody waits for."""
        try:
            return self.send(session, message)
        except (EncodeError, PayloadTooLargeError) as error:
            logger.warning("message %s to worker %s lost: %s", message.type, session.label, error)
            return False

    def condemn(self, session: EngineSession, code: int | None, reason: str, *, abort: bool = False) -> None:
        """End a connection from the engine's side. What it holds goes at the end of the router's public method."""
        if session.is_live:
            self.end(session, code, reason, abort=abort)
            self.condemned.append(session)

    def end(self, session: EngineSession, code: int | None, reason: str, *, abort: bool) -> None:
        """End a connection whose things the caller releases itself."""
        session.end(code, reason, abort=abort)
        self._dirty[session] = None

    def take_dirty(self) -> list[EngineSession]:
        """Sessions whose ``outgoing``, ``close`` or ``abort`` changed since the last call."""
        dirty, self._dirty = list(self._dirty), {}
        return dirty

    def forget(self, session: EngineSession) -> None:
        """Its socket has ended: there is nothing to write to."""
        self._dirty.pop(session, None)
