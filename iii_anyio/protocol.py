"""Messages of the wire as upstream's models, for programs that read or write them by hand.

The SDK itself uses ``_protocol/messages.py``. Below: pydantic and the models of requests. Above: applications.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from .functions import RegisterFunctionFormat, RegisterFunctionInput
from .http import HttpInvocationConfig
from .trigger import RegisterTriggerInput, RegisterTriggerTypeInput, TriggerRequest

__all__ = (
    "FEATURE_LARGE_MESSAGES_V1",
    "FEATURE_LOCAL_DISPATCH_V1",
    "FEATURE_OBSERVE_V1",
    "SDK_FEATURES",
    "MessageType",
    "ObserveDescriptor",
    "RegisterFunctionFormat",
    "RegisterFunctionInput",
    "RegisterFunctionMessage",
    "RegisterTriggerInput",
    "RegisterTriggerMessage",
    "RegisterTriggerTypeInput",
    "RegisterTriggerTypeMessage",
    "TriggerRequest",
)

FEATURE_OBSERVE_V1: Final = "observe.v1"
FEATURE_LOCAL_DISPATCH_V1: Final = "local-dispatch.v1"
FEATURE_LARGE_MESSAGES_V1: Final = "large-messages.v1"

SDK_FEATURES: Final[tuple[str, ...]] = (FEATURE_OBSERVE_V1, FEATURE_LOCAL_DISPATCH_V1, FEATURE_LARGE_MESSAGES_V1)
"""What upstream's SDK declares to the engine. What this one declares is ``_identity.FEATURES``."""


class MessageType(StrEnum):
    """The ``type`` of each message."""

    REGISTER_FUNCTION = "registerfunction"
    UNREGISTER_FUNCTION = "unregisterfunction"
    REGISTER_SERVICE = "registerservice"
    INVOKE_FUNCTION = "invokefunction"
    INVOCATION_RESULT = "invocationresult"
    REGISTER_TRIGGER_TYPE = "registertriggertype"
    REGISTER_TRIGGER = "registertrigger"
    UNREGISTER_TRIGGER = "unregistertrigger"
    UNREGISTER_TRIGGER_TYPE = "unregistertriggertype"
    TRIGGER_REGISTRATION_RESULT = "triggerregistrationresult"
    WORKER_REGISTERED = "workerregistered"
    REGISTRATION_REJECTED = "registrationrejected"
    REATTACH = "reattach"
    OBSERVE = "observe"
    UNOBSERVE = "unobserve"
    OBSERVE_RESULT = "observeresult"
    OBSERVER_STATE_CHANGED = "observerstatechanged"
    FUNCTION_REGISTERED = "functionregistered"
    OBSERVER_ADDED = "observeradded"
    OBSERVER_REMOVED = "observerremoved"
    OBSERVER_ACK = "observerack"
    INVOCATIONS_OBSERVED = "invocationsobserved"
    LOCAL_INVOCATION_STATS = "localinvocationstats"


class _Message(BaseModel):
    # `type` on the wire; either name makes one.
    model_config: ClassVar[ConfigDict] = ConfigDict(populate_by_name=True)


class ObserveDescriptor(BaseModel):
    """How the observers of a function are served.

    Attributes:
        delivery: ``auto`` or ``owner``.
        args_format: JSON Schema of an observer's arguments.
        legacy_trigger_type: The trigger type that this function has replaced.
        allow: Whether it may be observed at all.
    """

    delivery: str | None = None
    args_format: Any = None
    legacy_trigger_type: str | None = None
    allow: bool | None = None


class RegisterFunctionMessage(_Message):
    """``registerfunction``; the fields are those of ``RegisterFunctionInput``."""

    id: str
    description: str | None = None
    request_format: RegisterFunctionFormat | dict[str, Any] | None = None
    response_format: RegisterFunctionFormat | dict[str, Any] | None = None
    metadata: Any = None
    invocation: HttpInvocationConfig | None = None
    observe: ObserveDescriptor | None = None
    message_type: MessageType = Field(default=MessageType.REGISTER_FUNCTION, alias="type")


class RegisterTriggerMessage(_Message):
    """``registertrigger``; the fields are those of ``RegisterTriggerInput``, and an id."""

    id: str
    trigger_type: str
    function_id: str
    config: Any
    metadata: Any = None
    namespace: str | None = None
    trigger_namespace: str | None = None
    message_type: MessageType = Field(default=MessageType.REGISTER_TRIGGER, alias="type")


class RegisterTriggerTypeMessage(_Message):
    """``registertriggertype``; the fields are those of ``RegisterTriggerTypeInput``.

    Attributes:
        namespace: Which the provider serves; by default that of its connection.
    """

    id: str
    description: str
    trigger_request_format: Any = None
    call_request_format: Any = None
    namespace: str | None = None
    message_type: MessageType = Field(default=MessageType.REGISTER_TRIGGER_TYPE, alias="type")
