"""What stands between one connection of a guarded listener and the router: filters, prefix, middleware (§6).

Below: ``_access`` decides, ``_hooks`` asks the registration hooks. Above: ``_router`` hands every message of the
connection to ``receive``, and each call comes by again in ``intercept`` when its ids are checked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from .._protocol.engine_session import DEFAULT_NAMESPACE, EngineSession
from .._protocol.messages import (
    ABSENT,
    InvocationResult,
    InvokeFunction,
    Message,
    RegisterFunction,
    RegisterTrigger,
    RegisterTriggerType,
    TriggerRegistrationResult,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)
from ..errors import InvocationError
from ._access import Decision, Grants, decide
from ._errors import shorten
from ._hooks import Hooks, log_dropped
from ._triggers import REGISTRATION_FAILED

if TYPE_CHECKING:
    from ._functions import Function
    from ._listeners import Listener
    from ._router import Router

__all__ = ("Guard",)

logger = logging.getLogger(__name__)

REGISTER: Final = "engine::workers::register"
_REASONS: Final = {
    Decision.FORBIDDEN: "remove from rbac.forbidden_functions",
    Decision.NOT_EXPOSED: "add to rbac.expose_functions",
}


class Guard:
    """One connection's.

    Args:
        router: Calls hooks and middleware.
        session: The connection.
        listener: Where it came in.
        grants: What its authentication came to.
        perform: Carries out a message that may be carried out.
        send: Sends to the worker.
        overflow: Ends the connection, because too much waits.
        max_bytes: Of messages that may wait for a hook.
    """

    def __init__(
        self,
        router: Router,
        session: EngineSession,
        listener: Listener,
        grants: Grants,
        *,
        perform: Callable[[EngineSession, Message], None],
        send: Callable[[EngineSession, Message], bool],
        overflow: Callable[[EngineSession], None],
        max_bytes: int,
    ) -> None:
        self._router = router
        self._session = session
        self._grants = grants
        self._rbac = listener.rbac
        self._rules = None if listener.rbac is None else listener.rbac.rules
        self._middleware = listener.middleware_function_id
        self._reserved = listener.reserved
        self._perform = perform
        self._send = send
        self._hooks = Hooks(router, session, grants.context, take=self._take, overflow=overflow, max_bytes=max_bytes)
        self.receive: Callable[[Message, int], None] = self._hooks.receive
        """Take a message of so many bytes; it waits while a hook is asked about an earlier one."""
        self._was_refused = False
        # Where a prefix or a hook changed an id: the worker's own to the engine's, and for functions back.
        self._functions: dict[str, str] = {}
        self._own_ids: dict[str, str] = {}
        self._triggers: dict[str, str] = {}
        self._types: dict[str, str] = {}

    # -- messages ------------------------------------------------------------------------------------------------

    def when_idle(self, callback: Callable[[], None]) -> bool:
        """Call back when everything received so far has been carried out; False when it has been already."""
        return self._hooks.when_idle(callback)

    def _take(self, message: Message) -> None:
        match message:
            case RegisterFunction():
                self._register_function(message)
            case UnregisterFunction():
                self._own_ids.pop(stored := self._functions.pop(message.id, message.id), None)
                self._perform(self._session, replace(message, id=stored))
            case RegisterTrigger():
                self._register_trigger(message)
            case UnregisterTrigger():
                self._unregister_trigger(message)
            case RegisterTriggerType():
                self._register_trigger_type(message)
            case UnregisterTriggerType():
                self._perform(self._session, replace(message, id=self._types.pop(message.id, message.id)))
            case _:
                self._perform(self._session, message)

    # -- calls ---------------------------------------------------------------------------------------------------

    def intercept(self, message: InvokeFunction, reply_id: str | None, namespace: str) -> bool:
        """Refuse a call, or give it to the middleware; False when it may go its way (§6.4, RB-14, RB-24)."""
        function_id = message.function_id
        function = self._router.functions.get(namespace, function_id)
        decision = self._decide(function_id, namespace, function)
        if decision is not Decision.ALLOWED:
            self._forbid(message, reply_id, _denial(decision, function_id))
            return True
        if function_id == REGISTER and not self._may_register(message, reply_id):
            return True
        if self._middleware is None or (
            function is not None and function.is_in_process and function_id.startswith("engine::")
        ):
            return False
        payload = {
            "function_id": function_id,
            "payload": message.data,
            "action": message.action,
            "context": self._grants.context,
            "namespace": namespace,
        }
        self._router.invocations.redirect(self._session, message, reply_id, namespace, self._middleware, payload)
        return True

    def is_visible(self, function: Function) -> bool:
        """Whether the worker may call a function, and so may know of it (E-8, E-16)."""
        return self._decide(function.id, function.namespace, function) is Decision.ALLOWED

    def own_id(self, function_id: str) -> str:
        """The id by which the worker knows one of its functions (RB-23)."""
        return self._own_ids.get(function_id, function_id)

    @property
    def keeps_held(self) -> bool:
        """Whether held registrations may take effect in ``default`` when the grace ends.

        Not after the namespace was refused (G-26), nor if it would have been.
        """
        return not self._was_refused and self._grants.may_declare(DEFAULT_NAMESPACE)

    def _decide(self, function_id: str, namespace: str, function: Function | None) -> Decision:
        metadata = ABSENT if function is None else function.metadata
        return decide(self._grants, self._rules, function_id, namespace, metadata)

    def _may_register(self, message: InvokeFunction, reply_id: str | None) -> bool:
        data: object = message.data
        declared: object = cast("dict[str, Any]", data).get("namespace") if isinstance(data, dict) else None
        if declared is None:
            declared = DEFAULT_NAMESPACE
        if not isinstance(declared, str) or not declared.strip() or self._grants.may_declare(declared):
            return True  # what is no namespace is refused as such
        self._was_refused = True
        self._forbid(message, reply_id, f"namespace {shorten(declared)} is not among those granted to this worker")
        return False

    def _forbid(self, message: InvokeFunction, reply_id: str | None, problem: str) -> None:
        # Void calls are answered as well, under an id the worker never used (RB-14).
        answer_id = reply_id if reply_id is not None else self._router.new_id()
        error = {"code": "FORBIDDEN", "message": problem}
        answer = InvocationResult(answer_id, message.function_id, error=error)
        answer.traceparent, answer.baggage = message.traceparent, message.baggage
        self._send(self._session, answer)

    # -- registrations -------------------------------------------------------------------------------------------

    def _register_function(self, message: RegisterFunction) -> None:
        what = f"function {shorten(message.id)}"
        if not self._grants.allow_function_registration:
            log_dropped(self._session, what, "it may not register functions")
            return
        data = {
            "function_id": message.id,
            "description": message.description,
            "metadata": None if message.metadata is ABSENT else message.metadata,
            "namespace": self._session.namespace or DEFAULT_NAMESPACE,
        }
        hook = None if self._rbac is None else self._rbac.on_function_registration_function_id
        self._hooks.ask(hook, data, what, lambda changes: self._add_function(message, changes))

    def _add_function(self, message: RegisterFunction, changes: dict[str, Any]) -> None:
        own_id = message.id
        stored = self._prefixed(_text(changes, "function_id", own_id))
        if stored in self._reserved and (self._session.namespace or DEFAULT_NAMESPACE) == DEFAULT_NAMESPACE:
            log_dropped(self._session, f"function {shorten(stored)}", "the function of that id guards its listener")
            return
        previous = self._functions.pop(own_id, None)
        if previous is not None:
            self._own_ids.pop(previous, None)
            if previous != stored:
                self._perform(self._session, UnregisterFunction(previous))
        if stored != own_id:
            self._functions[own_id], self._own_ids[stored] = stored, own_id
        description = _text(changes, "description", message.description)
        metadata = changes.get("metadata", message.metadata)  # null too, if it is there (RB-20)
        self._perform(self._session, replace(message, id=stored, description=description, metadata=metadata))

    def _register_trigger_type(self, message: RegisterTriggerType) -> None:
        what = f"trigger type {shorten(message.id)}"
        if not self._grants.allow_trigger_type_registration:
            log_dropped(self._session, what, "it may not register trigger types")
            return
        data = {"trigger_type_id": message.id, "description": message.description}
        hook = None if self._rbac is None else self._rbac.on_trigger_type_registration_function_id

        def apply(changes: dict[str, Any]) -> None:
            stored = _text(changes, "trigger_type_id", message.id)
            if stored != message.id:
                self._types[message.id] = stored
            description = _text(changes, "description", message.description)
            self._perform(self._session, replace(message, id=stored, description=description))

        self._hooks.ask(hook, data, what, apply)

    def _register_trigger(self, message: RegisterTrigger) -> None:
        what = f"trigger {shorten(message.id)} of type {shorten(message.trigger_type)}"
        if any(name is not None and not name.strip() for name in (message.namespace, message.trigger_namespace)):
            self._perform(self._session, message)  # is refused there, before anything else (RB-22)
            return
        types = self._grants.allowed_trigger_types
        if types is not None and message.trigger_type not in types:
            log_dropped(self._session, what, "the type is not among its allowed_trigger_types")
            return
        data = {
            "trigger_id": message.id,
            "trigger_type": message.trigger_type,
            "function_id": message.function_id,
            "config": message.config,
            "metadata": None if message.metadata is ABSENT else message.metadata,
            "namespace": message.namespace or DEFAULT_NAMESPACE,
        }
        hook = None if self._rbac is None else self._rbac.on_trigger_registration_function_id
        self._hooks.ask(hook, data, what, lambda changes: self._add_trigger(message, changes))

    def _add_trigger(self, message: RegisterTrigger, changes: dict[str, Any]) -> None:
        trigger_id = _text(changes, "trigger_id", message.id)
        function_id = self._prefixed(_text(changes, "function_id", message.function_id))
        namespace = message.namespace or DEFAULT_NAMESPACE
        function = self._router.functions.get(namespace, function_id)
        decision = self._decide(function_id, namespace, function)
        taken = self._router.triggers.bindings.get(trigger_id)
        if decision is not Decision.ALLOWED:
            self._refuse_trigger(message, "FORBIDDEN", _denial(decision, function_id))
        elif taken is not None and taken.registrant is not self._session:
            # Upstream lets it replace the other's, here and of trusted workers (T-6, G-20).
            self._refuse_trigger(message, REGISTRATION_FAILED, "this trigger id is that of another worker's trigger")
        else:
            if trigger_id != message.id:
                self._triggers[message.id] = trigger_id
            self._perform(
                self._session,
                replace(
                    message,
                    id=trigger_id,
                    trigger_type=_text(changes, "trigger_type", message.trigger_type),
                    function_id=function_id,
                    config=changes.get("config", message.config),  # null too, if it is there (RB-20)
                ),
            )

    def durable_target(self, trigger_type: str, function_id: str) -> str:
        """The function's id in the engine, for a trigger made by ``engine::register_trigger`` (E-46).

        Raises:
            InvocationError: The connection may not use this type.
        """
        types = self._grants.allowed_trigger_types
        if types is not None and trigger_type not in types:
            raise InvocationError(
                "FORBIDDEN",
                f"trigger type {shorten(trigger_type)!r} not allowed (add to allowed_trigger_types of the auth "
                f"function's result)",
            )
        return self._prefixed(function_id)

    def _refuse_trigger(self, message: RegisterTrigger, code: str, problem: str) -> None:
        error = {"code": code, "message": problem}
        refusal = TriggerRegistrationResult(message.id, message.trigger_type, message.function_id, error)
        self._send(self._session, refusal)

    def _unregister_trigger(self, message: UnregisterTrigger) -> None:
        trigger_id = self._triggers.pop(message.id, message.id)
        binding = self._router.triggers.bindings.get(trigger_id)
        if binding is not None and binding.registrant is not self._session:
            logger.warning(
                "worker %s may not unregister trigger %s: it is another's", self._session.label, shorten(trigger_id)
            )
            return
        self._perform(self._session, replace(message, id=trigger_id))

    def _prefixed(self, function_id: str) -> str:
        prefix = self._grants.function_registration_prefix
        return function_id if prefix is None else f"{prefix}::{function_id}"


def _text(changes: dict[str, Any], key: str, original: Any) -> Any:
    """A string field of a hook's result; null, absent and other kinds keep the original (RB-20)."""
    value = changes.get(key)
    return value if isinstance(value, str) else original


def _denial(decision: Decision, function_id: str) -> str:
    return f"function '{function_id[:1000]}' not allowed ({_REASONS[decision]})"
