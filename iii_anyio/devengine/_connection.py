"""The engine's end of one wire: a reader, a writer and the namespace grace.

Tasks: ``read`` feeds the router; ``write`` sends what the router left in the session and closes when it says so;
``fix_namespace`` ends the wait for a worker that does not name its namespace. The first to end ends the three, and the
router is told.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CancelScope, create_task_group
from anyio.lowlevel import current_token

from .._protocol.engine_session import EngineSession, Phase
from .._runtime.cleanup import last_words
from .._wire.backend import backend_of
from ..errors import LinkClosed

if TYPE_CHECKING:
    from ..abc import Wire
    from ._router import Router

__all__ = ("EngineConnection",)

logger: Final = logging.getLogger("iii_anyio.devengine")

CLOSE_TIMEOUT: Final = 1.0


class EngineConnection:
    """Serves one worker until its wire or the router ends it."""

    def __init__(
        self, wire: Wire, router: Router, session: EngineSession, *, grace: float, routed: Callable[[], None]
    ) -> None:
        self._wire = wire
        self._router = router
        self._session = session
        self._grace = grace
        self._routed = routed
        self._backend = backend_of(current_token())
        self._filled = self._backend.new_slot()
        self._scope = CancelScope()

    def wake(self) -> None:
        """Something is to be written, or the connection is to end."""
        if self._session.abort:
            self._scope.cancel()
        self._filled.wake()

    async def run(self) -> None:
        """Serve until the end, and tell the router."""
        session = self._session
        try:
            with self._scope:
                async with create_task_group() as tasks:
                    for part in (self._read, self._write, self._fix_namespace):
                        tasks.start_soon(self._run_part, part, name=f"engine {part.__name__.strip('_')}")
        finally:
            is_aborted = session.abort
            self._router.disconnect(session)
            self._routed()
            with last_words(CLOSE_TIMEOUT):
                if is_aborted:
                    await self._wire.abort()
                else:
                    code, reason = session.close or (1001, "the engine is stopping")
                    await self._wire.aclose(1005 if code is None else code, reason)

    async def _run_part(self, part: Callable[[], Awaitable[bool]]) -> None:
        try:
            is_over = await part()
        except LinkClosed as exc:
            logger.debug("connection of worker %s ended: %s", self._session.label, exc)
            # The peer may know of the end already, and come back at once: what it held keeps nobody off (P-111).
            self._router.disconnect(self._session)
            self._routed()
            is_over = True
        if is_over:
            self._scope.cancel()

    async def _read(self) -> bool:
        while True:
            for text in await self._wire.receive():
                self._router.receive(self._session, text)
            self._wire.pongs.clear()
            self._routed()

    async def _write(self) -> bool:
        session = self._session
        while True:
            if texts := session.take_outgoing():
                await self._wire.send(texts)
            elif session.close is not None:
                return True
            else:
                self._filled = self._backend.new_slot()
                await self._filled.wait()

    async def _fix_namespace(self) -> bool:
        await anyio.sleep(self._grace)
        if self._session.phase is Phase.HELD:
            logger.warning(
                "worker %s did not call engine::workers::register within %g s and is put into namespace 'default'",
                self._session.label,
                self._grace,
            )
            self._router.grace_expired(self._session)
            self._routed()
        return False
