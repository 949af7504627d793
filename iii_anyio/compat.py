"""Names of earlier releases of iii-sdk, for ``from iii_anyio.compat import *`` where it said ``from iii import ...``.

What they are now is beside each; the root of the package leaves them out, as upstream's does (B.9). ``HttpRequest`` and
``HttpResponse`` are not here: up to 0.19 they meant streaming, and from 0.20 on they do not.
"""

from __future__ import annotations

from ._refs import ChannelDirection, ChannelItem, StreamChannelRef, extract_channel_refs, is_channel_ref
from .client import III, IIIClient, register_worker
from .context import Context, get_context, with_context
from .engine import RemoteFunctionHandler
from .errors import InvocationError, InvocationForbiddenError, InvocationTimeoutError
from .functions import (
    FunctionRef,
    RegisterFunctionFormat,
    RegisterFunctionInput,
    extract_request_format,
    extract_response_format,
    python_type_to_format,
)
from .helpers import create_stream
from .http import ApiRequest, ApiResponse, HttpAuthConfig, HttpInvocationConfig
from .introspection import (
    FunctionInfo,
    FunctionsAvailableCallback,
    RegisterServiceInput,
    TriggerInfo,
    TriggerTypeInfo,
    WorkerInfo,
    WorkerStatus,
)
from .observability import Logger
from .options import InitOptions, ReconnectionConfig, TelemetryOptions
from .protocol import MessageType, RegisterFunctionMessage, RegisterTriggerMessage, RegisterTriggerTypeMessage
from .queue import EnqueueResult
from .state import IState
from .stream import (
    IStream,
    StreamAuthInput,
    StreamAuthResult,
    StreamChangeEvent,
    StreamChangeEventDetail,
    StreamContext,
    StreamDeleteInput,
    StreamDeleteResult,
    StreamGetInput,
    StreamJoinLeaveEvent,
    StreamJoinLeaveTriggerConfig,
    StreamJoinResult,
    StreamListGroupsInput,
    StreamListInput,
    StreamSetInput,
    StreamSetResult,
    StreamTriggerConfig,
    StreamUpdateInput,
    StreamUpdateResult,
    UpdateAppend,
    UpdateDecrement,
    UpdateIncrement,
    UpdateMerge,
    UpdateOp,
    UpdateRemove,
    UpdateSet,
)
from .trigger import (
    RegisterTriggerInput,
    RegisterTriggerTypeInput,
    Trigger,
    TriggerAction,
    TriggerActionEnqueue,
    TriggerActionVoid,
    TriggerConfig,
    TriggerHandler,
    TriggerRequest,
    TriggerTypeRef,
)
from .worker_connection_manager import (
    AuthInput,
    AuthResult,
    MiddlewareFunctionInput,
    OnFunctionRegistrationInput,
    OnFunctionRegistrationResult,
    OnTriggerRegistrationInput,
    OnTriggerRegistrationResult,
    OnTriggerTypeRegistrationInput,
    OnTriggerTypeRegistrationResult,
)

__all__ = (
    "III",
    "ApiRequest",
    "ApiResponse",
    "AuthInput",
    "AuthResult",
    "ChannelDirection",
    "ChannelItem",
    "Context",
    "EnqueueResult",
    "FunctionInfo",
    "FunctionRef",
    "FunctionsAvailableCallback",
    "HttpAuthConfig",
    "HttpInvocationConfig",
    "IIIClient",
    "IIIForbiddenError",
    "IIIInvocationError",
    "IIITimeoutError",
    "IState",
    "IStream",
    "InitOptions",
    "Logger",
    "MessageType",
    "MiddlewareFunctionInput",
    "OnFunctionRegistrationInput",
    "OnFunctionRegistrationResult",
    "OnTriggerRegistrationInput",
    "OnTriggerRegistrationResult",
    "OnTriggerTypeRegistrationInput",
    "OnTriggerTypeRegistrationResult",
    "ReconnectionConfig",
    "RegisterFunctionFormat",
    "RegisterFunctionInput",
    "RegisterFunctionMessage",
    "RegisterServiceInput",
    "RegisterTriggerInput",
    "RegisterTriggerMessage",
    "RegisterTriggerTypeInput",
    "RegisterTriggerTypeMessage",
    "RemoteFunctionHandler",
    "StreamAuthInput",
    "StreamAuthResult",
    "StreamChangeEvent",
    "StreamChangeEventDetail",
    "StreamChannelRef",
    "StreamContext",
    "StreamDeleteInput",
    "StreamDeleteResult",
    "StreamGetInput",
    "StreamJoinLeaveEvent",
    "StreamJoinLeaveTriggerConfig",
    "StreamJoinResult",
    "StreamListGroupsInput",
    "StreamListInput",
    "StreamSetInput",
    "StreamSetResult",
    "StreamTriggerConfig",
    "StreamUpdateInput",
    "StreamUpdateResult",
    "TelemetryOptions",
    "Trigger",
    "TriggerAction",
    "TriggerActionEnqueue",
    "TriggerActionVoid",
    "TriggerConfig",
    "TriggerHandler",
    "TriggerInfo",
    "TriggerRequest",
    "TriggerTypeInfo",
    "TriggerTypeRef",
    "UpdateAppend",
    "UpdateDecrement",
    "UpdateIncrement",
    "UpdateMerge",
    "UpdateOp",
    "UpdateRemove",
    "UpdateSet",
    "WorkerInfo",
    "WorkerStatus",
    "create_stream",
    "extract_channel_refs",
    "extract_request_format",
    "extract_response_format",
    "get_context",
    "is_channel_ref",
    "python_type_to_format",
    "register_worker",
    "with_context",
)

IIIInvocationError = InvocationError
IIIForbiddenError = InvocationForbiddenError
IIITimeoutError = InvocationTimeoutError
