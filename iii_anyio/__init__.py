"""Python SDK for the iii engine on structured concurrency: asyncio, trio, and plain threads.

``open_worker`` runs a worker in your own event loop; ``register_worker`` gives one to synchronous programs.
"""

from __future__ import annotations

from types import FunctionType

from ._streaming import StreamRequest, StreamResponse
from ._version import __version__
from .client import IIIClient, register_worker
from .context import Context, Invocation, get_context, running_invocation, with_context
from .engine import EngineFunctions, EngineTriggers
from .errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    DecodeError,
    EncodeError,
    IIIError,
    InvocationError,
    InvocationForbiddenError,
    InvocationTimeoutError,
    OfflineQueueFullError,
    PayloadTooLargeError,
    RegistrationRejectedError,
    ShutdownError,
    TriggerRegistrationError,
    WorkerStateError,
)
from .http import (
    ApiRequest,
    ApiResponse,
    HttpAuthApiKey,
    HttpAuthBearer,
    HttpAuthConfig,
    HttpAuthHmac,
    HttpInvocationConfig,
)
from .introspection import FunctionInfo, TriggerInfo, TriggerTypeInfo, WorkerInfo
from .observability import Logger
from .options import (
    DEFAULT_ENGINE_URL,
    ConnectionStateCallback,
    HeartbeatOptions,
    IIIConnectionState,
    InitOptions,
    Limits,
    ReconnectionConfig,
    TelemetryOptions,
)
from .queue import EnqueueResult
from .state import State
from .stream import IStream, Stream
from .trigger import (
    CallAction,
    RegisterTriggerInput,
    RegisterTriggerTypeInput,
    TriggerAction,
    TriggerActionEnqueue,
    TriggerActionVoid,
    TriggerRequest,
)
from .worker import Worker, open_worker
from .worker_connection_manager import AuthInput, AuthResult, MiddlewareFunctionInput

__all__ = (
    "DEFAULT_ENGINE_URL",
    "ApiRequest",
    "ApiResponse",
    "AuthInput",
    "AuthResult",
    "AuthenticationError",
    "CallAction",
    "ConnectError",
    "ConnectionLostError",
    "ConnectionStateCallback",
    "Context",
    "DecodeError",
    "EncodeError",
    "EngineFunctions",
    "EngineTriggers",
    "EnqueueResult",
    "FunctionInfo",
    "HeartbeatOptions",
    "HttpAuthApiKey",
    "HttpAuthBearer",
    "HttpAuthConfig",
    "HttpAuthHmac",
    "HttpInvocationConfig",
    "IIIClient",
    "IIIConnectionState",
    "IIIError",
    "IStream",
    "InitOptions",
    "Invocation",
    "InvocationError",
    "InvocationForbiddenError",
    "InvocationTimeoutError",
    "Limits",
    "Logger",
    "MiddlewareFunctionInput",
    "OfflineQueueFullError",
    "PayloadTooLargeError",
    "ReconnectionConfig",
    "RegisterTriggerInput",
    "RegisterTriggerTypeInput",
    "RegistrationRejectedError",
    "ShutdownError",
    "State",
    "Stream",
    "StreamRequest",
    "StreamResponse",
    "TelemetryOptions",
    "TriggerAction",
    "TriggerActionEnqueue",
    "TriggerActionVoid",
    "TriggerInfo",
    "TriggerRegistrationError",
    "TriggerRequest",
    "TriggerTypeInfo",
    "Worker",
    "WorkerInfo",
    "WorkerStateError",
    "__version__",
    "get_context",
    "open_worker",
    "register_worker",
    "running_invocation",
    "with_context",
)

# Show names where users import them. Not models: pydantic resolves late annotations in the module they name.
for _value in [globals()[_name] for _name in __all__]:
    if isinstance(_value, type | FunctionType) and not hasattr(_value, "model_fields"):
        _value.__module__ = "iii_anyio"
