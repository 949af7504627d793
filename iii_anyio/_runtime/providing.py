"""The provider side of trigger types: runs the registered ``TriggerHandler`` for each bind and unbind.

Tasks: at most one per trigger type, alive while that type has messages, so that its binds and unbinds keep their order.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._protocol.codec import encode
from .._protocol.messages import ABSENT, RegisterTrigger, TriggerRegistrationResult, UnregisterTrigger
from .invoke import error_body

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from .._protocol.worker_session import WorkerSession
    from .outbox import Outbox

__all__ = ("BindCallback", "Providing")

logger: Final = logging.getLogger("iii_anyio")

BindCallback: TypeAlias = Callable[[bool, str, str, Any, Any, str | None], Awaitable[None]]
"""``(is_bind, id, function_id, config, metadata, namespace)``, as a registered trigger type's target."""

Job: TypeAlias = tuple[RegisterTrigger | UnregisterTrigger, int]


class Providing:
    """Bindings of the trigger types this worker provides."""

    def __init__(self, session: WorkerSession, outbox: Outbox) -> None:
        self._session = session
        self._outbox = outbox
        self._group: TaskGroup | None = None
        self._jobs: dict[str, deque[Job]] = {}
        self._bindings: dict[str, RegisterTrigger] = {}

    def open(self, group: TaskGroup) -> None:
        """Run the handlers in this group from now on."""
        self._group = group

    def close(self) -> None:
        """The group has ended: binds and unbinds that come now are dropped, with the link about to go."""
        self._group = None

    def act(self, message: RegisterTrigger | UnregisterTrigger) -> None:
        """Take a bind or unbind from the reader. Never waits."""
        binding = self._bindings.get(message.id)
        type_id = message.trigger_type or (binding.trigger_type if binding is not None else "")
        link = self._session.link
        if type_id not in self._session.registry.trigger_types:
            # Upstream's Python SDK stays silent here (api A.25, 17); Node's answer is the helpful one.
            if isinstance(message, RegisterTrigger):
                self._reply(
                    message, link, {"code": "trigger_type_not_found", "message": f"no trigger type {type_id!r} here"}
                )
            return
        if self._group is None:
            return
        jobs = self._jobs.get(type_id)
        if jobs is None:
            jobs = self._jobs[type_id] = deque()
            self._group.start_soon(self._run, type_id, jobs, name=f"iii trigger type {type_id}")
        jobs.append((message, link))

    async def _run(self, type_id: str, jobs: deque[Job]) -> None:
        try:
            while jobs:
                message, link = jobs.popleft()
                registration = self._session.registry.trigger_types.get(type_id)
                if registration is None:
                    continue
                if isinstance(message, RegisterTrigger):
                    await self._bind(registration.target, message, link)
                else:
                    await self._unbind(registration.target, message)
        finally:
            del self._jobs[type_id]

    async def _bind(self, callback: BindCallback, message: RegisterTrigger, link: int) -> None:
        metadata = None if message.metadata is ABSENT else message.metadata
        error: object = ABSENT
        try:
            await callback(True, message.id, message.function_id, message.config, metadata, message.namespace)
        except Exception as exc:  # noqa: BLE001 - whatever the handler raises is the answer
            error = error_body(exc, "trigger_registration_failed")
            error.pop("stacktrace", None)
            logger.info("trigger %s of type %r was refused: %s", message.id, message.trigger_type, exc)
        else:
            self._bindings[message.id] = message  # P-48: an unbind carries only the id (G-21)
        self._reply(message, link, error)

    async def _unbind(self, callback: BindCallback, message: UnregisterTrigger) -> None:
        bound = self._bindings.pop(message.id, None)
        function_id, config, metadata, namespace = "", None, None, None
        if bound is not None:
            metadata = None if bound.metadata is ABSENT else bound.metadata
            function_id, config, namespace = bound.function_id, bound.config, bound.namespace
        try:
            await callback(False, message.id, function_id, config, metadata, namespace)
        except Exception:
            logger.exception("the handler of trigger type %r failed to unbind %s", message.trigger_type, message.id)

    def _reply(self, message: RegisterTrigger, link: int, error: object) -> None:
        text = encode(TriggerRegistrationResult(message.id, message.trigger_type, message.function_id, error))
        self._session.answer(link, text)  # P-47
        self._outbox.flush()
