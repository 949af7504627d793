"""Names of earlier releases of iii-sdk, for ``from iii_anyio.compat import *`` where it said ``from iii import ...``.

The root of the package leaves them out, as upstream's does (B.9): ``HttpRequest`` and ``HttpResponse`` above all, which
meant streaming up to 0.19, as they do here, and buffered models from 0.20 on, as in ``iii_anyio.http``.

The client of releases up to 0.8.3, with its awaited ``trigger(path, data)``, is not here: its handlers ran on the loop
of the program, which takes an ``async with open_worker()`` today. Nor are ``get_tracer``, ``get_meter`` and
``is_initialized``: OpenTelemetry's own functions do that.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from . import observability
from ._refs import ChannelDirection, ChannelItem, StreamChannelRef, extract_channel_refs, is_channel_ref
from ._streaming import InternalHttpRequest, StreamRequest, StreamResponse
from .channel import Channel, ChannelReader, ChannelWriter, ReadableStream, WritableStream
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
from .http import ApiRequest, ApiResponse, HttpAuthConfig, HttpInvocationConfig, http
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
from .options import (
    ConnectionStateCallback,
    IIIConnectionState,
    InitOptions,
    OtelConfig,
    ReconnectionConfig,
    TelemetryOptions,
)
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

if TYPE_CHECKING:
    from .observability import (
        REDACTED_PLACEHOLDER,
        current_span_id,
        current_span_is_recording,
        current_trace_id,
        execute_traced_request,
        extract_baggage,
        extract_traceparent,
        flush_otel,
        init_otel,
        inject_baggage,
        inject_traceparent,
        record_span_event,
        redact,
        redact_and_truncate,
        resolve_max_bytes_from_env,
        set_current_span_attribute,
        set_current_span_error,
        shutdown_otel,
        with_span,
    )

__all__ = (
    "DEFAULT_ALLOWLIST",
    "III",
    "REDACTED_PLACEHOLDER",
    "ApiRequest",
    "ApiResponse",
    "AuthInput",
    "AuthResult",
    "Channel",
    "ChannelDirection",
    "ChannelItem",
    "ChannelReader",
    "ChannelWriter",
    "ConnectionStateCallback",
    "Context",
    "EnqueueResult",
    "FunctionInfo",
    "FunctionRef",
    "FunctionsAvailableCallback",
    "HttpAuthConfig",
    "HttpInvocationConfig",
    "HttpRequest",
    "HttpResponse",
    "IIIClient",
    "IIIConnectionState",
    "IIIForbiddenError",
    "IIIInvocationError",
    "IIITimeoutError",
    "IState",
    "IStream",
    "InitOptions",
    "InternalHttpRequest",
    "Logger",
    "MessageType",
    "MiddlewareFunctionInput",
    "OnFunctionRegistrationInput",
    "OnFunctionRegistrationResult",
    "OnTriggerRegistrationInput",
    "OnTriggerRegistrationResult",
    "OnTriggerTypeRegistrationInput",
    "OnTriggerTypeRegistrationResult",
    "OtelConfig",
    "ReadableStream",
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
    "WritableStream",
    "configure_logging",
    "create_stream",
    "current_span_id",
    "current_span_is_recording",
    "current_trace_id",
    "execute_traced_request",
    "extract_baggage",
    "extract_channel_refs",
    "extract_request_format",
    "extract_response_format",
    "extract_traceparent",
    "flush_otel",
    "get_context",
    "http",
    "init_otel",
    "inject_baggage",
    "inject_traceparent",
    "is_channel_ref",
    "python_type_to_format",
    "record_span_event",
    "redact",
    "redact_and_truncate",
    "register_worker",
    "resolve_max_bytes_from_env",
    "set_current_span_attribute",
    "set_current_span_error",
    "shutdown_otel",
    "with_context",
    "with_span",
)

IIIInvocationError = InvocationError
IIIForbiddenError = InvocationForbiddenError
IIITimeoutError = InvocationTimeoutError
HttpRequest = StreamRequest
HttpResponse = StreamResponse

DEFAULT_ALLOWLIST: Final = ("iii.session.id", "iii.message.id", "iii.function.id")
"""The entries of the baggage that releases up to 0.18 copied to spans; ``BaggageSpanProcessor`` copies all of them."""


def configure_logging(level: int = logging.INFO, format: str | None = None) -> None:  # noqa: A002 - upstream's name
    """Write log records from ``level`` on to stderr, if nobody has configured logging yet."""
    logging.basicConfig(level=level, format=format or "%(asctime)s [%(levelname)s] %(name)s: %(message)s")
    for name in ("iii", "iii_anyio"):
        logging.getLogger(name).setLevel(level)


def __getattr__(name: str) -> Any:
    """Serve the names of telemetry, which take long to import. ``BaggageSpanProcessor`` needs the extra ``otel``."""
    if name not in observability.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(observability, name)
