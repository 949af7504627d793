"""Python SDK for the iii engine on structured concurrency: asyncio, trio, and plain threads.

``open_worker`` runs a worker in your own event loop; ``register_worker`` gives one to synchronous programs.
"""

from __future__ import annotations

from types import FunctionType

from ._streaming import StreamRequest, StreamResponse
from ._version import __version__
from .app import App, Router
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
    ObserveRejection,
    OfflineQueueFullError,
    PayloadTooLargeError,
    RegistrationRejectedError,
    ShutdownError,
    TriggerRegistrationError,
    WorkerStateError,
)
from .health import Health
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
from .invocation_context import InvocationContext, current_invocation
from .observability import Logger
from .observable import Observer
from .observe_types import (
    Caller,
    Capture,
    Filter,
    Observed,
    ObserveHooks,
    ObserverOptions,
    ObserverState,
    ObserveSource,
    Target,
)
from .observer_handle import ObserverHandle
from .options import (
    DEFAULT_ENGINE_URL,
    ConnectionStateCallback,
    HealthOptions,
    HeartbeatOptions,
    IIIConnectionState,
    InitOptions,
    Limits,
    OtelConfig,
    ReconnectionConfig,
    RetryPolicy,
    TelemetryOptions,
)
from .queue import EnqueueResult
from .remotes import Remote, remote
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
    "App",
    "AuthInput",
    "AuthResult",
    "AuthenticationError",
    "CallAction",
    "Caller",
    "Capture",
    "ConnectError",
    "ConnectionLostError",
    "ConnectionStateCallback",
    "Context",
    "DecodeError",
    "EncodeError",
    "EngineFunctions",
    "EngineTriggers",
    "EnqueueResult",
    "Filter",
    "FunctionInfo",
    "Health",
    "HealthOptions",
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
    "InvocationContext",
    "InvocationError",
    "InvocationForbiddenError",
    "InvocationTimeoutError",
    "Limits",
    "Logger",
    "MiddlewareFunctionInput",
    "ObserveHooks",
    "ObserveRejection",
    "ObserveSource",
    "Observed",
    "Observer",
    "ObserverHandle",
    "ObserverOptions",
    "ObserverState",
    "OfflineQueueFullError",
    "OtelConfig",
    "PayloadTooLargeError",
    "ReconnectionConfig",
    "RegisterTriggerInput",
    "RegisterTriggerTypeInput",
    "RegistrationRejectedError",
    "Remote",
    "RetryPolicy",
    "Router",
    "ShutdownError",
    "State",
    "Stream",
    "StreamRequest",
    "StreamResponse",
    "Target",
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
    "current_invocation",
    "get_context",
    "open_worker",
    "register_worker",
    "remote",
    "running_invocation",
    "with_context",
)

# Show names where users import them. Not models nor typed dicts: pydantic resolves late annotations in the module that
# they name.
for _value in [globals()[_name] for _name in __all__]:
    _is_resolved_late = hasattr(_value, "model_fields") or hasattr(_value, "__total__")
    if isinstance(_value, type | FunctionType) and not _is_resolved_late:
        _value.__module__ = "iii_anyio"
