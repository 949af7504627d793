"""The registration messages of workers whose namespace is known: each is checked and put into its table (§5).

Below: ``_functions``, ``_triggers``. Above: ``_router`` holds the messages back until the namespace is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import (
    Message,
    RegisterFunction,
    RegisterService,
    RegisterTrigger,
    RegisterTriggerType,
    TriggerRegistrationResult,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)
from ._triggers import REGISTRATION_FAILED, TriggerTable

if TYPE_CHECKING:
    from ._functions import FunctionTable

__all__ = ("registration_handlers",)

logger = logging.getLogger(__name__)


def registration_handlers(
    functions: FunctionTable,
    triggers: TriggerTable,
    send: Callable[[EngineSession, Message], bool],
    *,
    max_registrations: int,
    overflow: Callable[[EngineSession], None],
) -> dict[type[Any], Callable[[EngineSession, Any], None]]:
    """What to do with each message, by its class.

    Args:
        functions: The table of functions.
        triggers: That of triggers and their types.
        send: Sends to a worker.
        max_registrations: Of one connection.
        overflow: Ends a connection that has more.
    """

    def bounded(register: Callable[[EngineSession, Any], None]) -> Callable[[EngineSession, Any], None]:
        def handle(session: EngineSession, message: Message) -> None:
            register(session, message)
            if session.registrations > max_registrations:
                overflow(session)

        return handle

    def register_function(session: EngineSession, message: RegisterFunction) -> None:
        rejection = functions.claim(session, _namespace_of(session), message)
        if rejection is not None:
            send(session, rejection)

    def unregister_function(session: EngineSession, message: UnregisterFunction) -> None:
        functions.release(session, message.id)

    def register_trigger_type(session: EngineSession, message: RegisterTriggerType) -> None:
        if not _is_blank(session, message, message.namespace):
            triggers.register_type(session, _namespace_of(session, message.namespace), message)

    def unregister_trigger_type(session: EngineSession, message: UnregisterTriggerType) -> None:
        if not _is_blank(session, message, message.namespace):
            triggers.unregister_type(session, _namespace_of(session, message.namespace), message)

    def register_trigger(session: EngineSession, message: RegisterTrigger) -> None:
        for namespace in (message.namespace, message.trigger_namespace):
            if namespace is not None and not namespace.strip():
                refuse_trigger(session, message, "INVALID_NAMESPACE", "namespace must not be blank")
                return
        if triggers.register(session, message) is None:
            problem = "this worker has too many triggers whose type nobody provides"
            refuse_trigger(session, message, REGISTRATION_FAILED, problem)

    def refuse_trigger(session: EngineSession, message: RegisterTrigger, code: str, problem: str) -> None:
        error = {"code": code, "message": problem}
        send(session, TriggerRegistrationResult(message.id, message.trigger_type, message.function_id, error))

    def unregister_trigger(_session: EngineSession, message: UnregisterTrigger) -> None:
        triggers.unregister(message.id)  # the type is not looked at, the owner is not checked (T-6, G-20)

    def register_service(session: EngineSession, message: RegisterService) -> None:
        session.services[message.name if message.name is not None else message.id] = message

    return {
        RegisterFunction: bounded(register_function),
        UnregisterFunction: unregister_function,
        RegisterTriggerType: bounded(register_trigger_type),
        UnregisterTriggerType: unregister_trigger_type,
        RegisterTrigger: bounded(register_trigger),
        UnregisterTrigger: unregister_trigger,
        RegisterService: bounded(register_service),
    }


def _namespace_of(session: EngineSession, named: str | None = None) -> str:
    return named or session.namespace or DEFAULT_NAMESPACE


def _is_blank(session: EngineSession, message: Message, namespace: str | None) -> bool:
    """Whether a namespace is blank; the protocol has no answer for a trigger type that is refused."""
    if namespace is None or namespace.strip():
        return False
    logger.warning("%s of worker %s dropped: its namespace is blank", message.type, session.label)
    return True
