"""Access rules: what the functions get and return that guard a listener of the engine.

An auth function decides who connects, hooks look at each registration, a middleware at each call (§6 of the engine's
behaviour). They live in namespace ``default``. Of a hook, an error is a denial, which the worker is not told of.

Below: pydantic. Above: applications.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from .http import MappingModel
from .trigger import TriggerActionEnqueue, TriggerActionVoid  # noqa: TC001 - a model's annotations

__all__ = (
    "AuthInput",
    "AuthResult",
    "MiddlewareFunctionInput",
    "OnFunctionRegistrationInput",
    "OnFunctionRegistrationResult",
    "OnTriggerRegistrationInput",
    "OnTriggerRegistrationResult",
    "OnTriggerTypeRegistrationInput",
    "OnTriggerTypeRegistrationResult",
)


class AuthInput(MappingModel):
    """What an auth function gets, once for each connection.

    Attributes:
        headers: Of the handshake, names in lower case; of a repeated header the last (RB-9).
        query_params: Of the URL, not percent-decoded.
        ip_address: Of the worker, without port.
    """

    headers: dict[str, str]
    query_params: dict[str, list[str]]
    ip_address: str


class AuthResult(BaseModel, defer_build=True):
    """What it returns; raise to refuse the worker.

    Attributes:
        namespaces: Per namespace the ids or patterns (``svc::*``) that may be called. When not empty, the worker may
            only declare one of these namespaces (RB-15).
        allowed_functions: Ids in ``default`` that may be called beyond ``expose_functions``; no patterns.
        forbidden_functions: Ids that may not be called in any namespace.
        allowed_trigger_types: What it may register triggers of; ``None`` is all.
        allow_trigger_type_registration: Whether it may provide trigger types.
        allow_function_registration: Whether it may register functions.
        function_registration_prefix: ``p`` stores its functions as ``p::<id>``.
        context: Passed to hooks and middleware.
    """

    namespaces: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    allowed_functions: list[str] = Field(default_factory=list[str])
    forbidden_functions: list[str] = Field(default_factory=list[str])
    allowed_trigger_types: list[str] | None = None
    allow_trigger_type_registration: bool = False
    allow_function_registration: bool = True
    function_registration_prefix: str | None = None
    context: dict[str, Any] = Field(default_factory=dict[str, Any])


class _HookResult(BaseModel, defer_build=True):
    """Dumps only what was set: a ``metadata`` or ``config`` of null would replace the worker's (RB-20)."""

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        # Without a return type: it would take the place of the fields in the JSON Schema.
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name in self.model_fields_set}


class OnFunctionRegistrationInput(MappingModel):
    """What the hook for functions gets.

    Attributes:
        function_id: As the worker sent it, without prefix (RB-19).
        description: Of the function.
        metadata: Of the function; any JSON.
        namespace: Of the worker's connection.
        context: From ``AuthResult``.
    """

    function_id: str
    description: str | None = None
    metadata: Any = None
    namespace: str = "default"
    context: Any


class OnFunctionRegistrationResult(_HookResult):
    """What it returns; raise to deny. What is not set stays as the worker sent it, and is not dumped.

    Attributes:
        function_id: Replaces the id, unless ``None``.
        description: Replaces the description, unless ``None``.
        metadata: Replaces the metadata; ``None`` removes it.
    """

    function_id: str | None = None
    description: str | None = None
    metadata: Any = None


class OnTriggerRegistrationInput(MappingModel):
    """What the hook for triggers gets.

    Attributes:
        trigger_id: Made by the worker.
        trigger_type: Of the trigger.
        function_id: What it calls, without prefix.
        config: In the shape its type expects.
        metadata: Of the trigger; any JSON.
        namespace: Where the function is looked up.
        context: From ``AuthResult``.
    """

    trigger_id: str
    trigger_type: str
    function_id: str
    config: Any = None
    metadata: Any = None
    namespace: str = "default"
    context: Any


class OnTriggerRegistrationResult(_HookResult):
    """What it returns; raise to deny. What is not set stays as the worker sent it, and is not dumped.

    Attributes:
        trigger_id: Replaces the id, unless ``None``.
        trigger_type: Replaces the type, unless ``None``.
        function_id: Replaces the function, unless ``None``.
        config: Replaces the config, by null too.
    """

    trigger_id: str | None = None
    trigger_type: str | None = None
    function_id: str | None = None
    config: Any = None


class OnTriggerTypeRegistrationInput(MappingModel):
    """What the hook for trigger types gets.

    Attributes:
        trigger_type_id: What triggers name as their ``type``.
        description: For people.
        context: From ``AuthResult``.
    """

    trigger_type_id: str
    description: str
    context: Any


class OnTriggerTypeRegistrationResult(_HookResult):
    """What it returns; raise to deny. What is not set stays as the worker sent it, and is not dumped.

    Attributes:
        trigger_type_id: Replaces the id, unless ``None``.
        description: Replaces the description, unless ``None``.
    """

    trigger_type_id: str | None = None
    description: str | None = None


class MiddlewareFunctionInput(MappingModel):
    """What a listener's middleware gets in place of each permitted call; what it returns goes to the caller.

    Attributes:
        function_id: What the worker called.
        payload: With what; mostly an object, but any JSON.
        action: How, when not waiting for the result. A middleware makes an enqueue itself (RB-27).
        context: From ``AuthResult``.
        namespace: Where the function was addressed; pass it on.
    """

    function_id: str
    payload: Any
    action: TriggerActionEnqueue | TriggerActionVoid | None = None
    context: Any
    namespace: str | None = None
