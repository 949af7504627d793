"""The wire messages, one class each. Owns their shape; the codec below reads and writes them.

Absent is not null: an optional any-JSON field that is not on the wire is ``ABSENT``; optional strings are ``None``.
Messages are made once and never changed afterwards (not frozen: building a frozen one costs seven times as much).
``extra`` keeps the fields a peer sent that this version does not know; a message of unknown type is ``Unknown``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

__all__ = (
    "ABSENT",
    "ErrorMessage",
    "FunctionRegistered",
    "InvocationResult",
    "InvocationsObserved",
    "InvokeFunction",
    "LocalInvocationStats",
    "Message",
    "Observe",
    "ObserveResult",
    "ObserverAck",
    "ObserverAdded",
    "ObserverRemoved",
    "ObserverStateChanged",
    "Ping",
    "Pong",
    "Reattach",
    "RegisterFunction",
    "RegisterService",
    "RegisterTrigger",
    "RegisterTriggerType",
    "RegistrationRejected",
    "TriggerRegistrationResult",
    "Unknown",
    "Unobserve",
    "UnregisterFunction",
    "UnregisterTrigger",
    "UnregisterTriggerType",
    "WorkerRegistered",
)


class _Absent:
    """Type of ``ABSENT``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final[Any] = _Absent()
"""Stands for a field that is not on the wire, where ``None`` would mean ``null``."""

Extra: TypeAlias = dict[str, Any] | None


@dataclass(slots=True)
class WorkerRegistered:
    """E→W: the identity of this connection (§5.5)."""

    type: ClassVar[str] = "workerregistered"
    worker_id: str
    reattach_token: str | None = None
    features: list[str] | None = None
    extra: Extra = None


@dataclass(slots=True)
class RegistrationRejected:
    """E→W: a worker or function was refused (§5.6)."""

    type: ClassVar[str] = "registrationrejected"
    code: str
    namespace: str | None = None
    worker_name: str | None = None
    function_id: str | None = None
    owner_worker_id: str | None = None
    extra: Extra = None


@dataclass(slots=True)
class ErrorMessage:
    """E→W: the listener's access control refused the connection (§5.7)."""

    type: ClassVar[str] = "error"
    error: Any
    extra: Extra = None


@dataclass(slots=True)
class Reattach:
    """W→E: first message of a reconnect, evicts our previous connection (§5.8)."""

    type: ClassVar[str] = "reattach"
    previous_worker_id: str
    reattach_token: str | None = None
    extra: Extra = None


@dataclass(slots=True)
class RegisterFunction:
    """W→E: take ownership of a function id in the connection's namespace (§5.1)."""

    type: ClassVar[str] = "registerfunction"
    id: str
    description: str | None = None
    request_format: Any = ABSENT
    response_format: Any = ABSENT
    metadata: Any = ABSENT
    invocation: dict[str, Any] | None = None
    observe: dict[str, Any] | None = None
    extra: Extra = None


@dataclass(slots=True)
class UnregisterFunction:
    """W→E (§5.2)."""

    type: ClassVar[str] = "unregisterfunction"
    id: str
    extra: Extra = None


@dataclass(slots=True)
class RegisterTriggerType:
    """W→E: become the provider of a trigger type (§5.9)."""

    type: ClassVar[str] = "registertriggertype"
    id: str
    description: str
    trigger_request_format: Any = ABSENT
    call_request_format: Any = ABSENT
    namespace: str | None = None
    extra: Extra = None


@dataclass(slots=True)
class UnregisterTriggerType:
    """W→E, since 0.25 (§5.9)."""

    type: ClassVar[str] = "unregistertriggertype"
    id: str
    namespace: str | None = None
    extra: Extra = None


@dataclass(slots=True)
class RegisterTrigger:
    """W→E from the registrant, E→W to the provider (§5.9). ``config`` is always on the wire."""

    type: ClassVar[str] = "registertrigger"
    id: str
    trigger_type: str
    function_id: str
    config: Any
    metadata: Any = ABSENT
    namespace: str | None = None
    trigger_namespace: str | None = None
    extra: Extra = None


@dataclass(slots=True)
class UnregisterTrigger:
    """W→E from the registrant, E→W to the provider (§5.9)."""

    type: ClassVar[str] = "unregistertrigger"
    id: str
    trigger_type: str | None = None
    extra: Extra = None


@dataclass(slots=True)
class TriggerRegistrationResult:
    """W→E from the provider, E→W to the registrant on failure only (§5.9)."""

    type: ClassVar[str] = "triggerregistrationresult"
    id: str
    trigger_type: str | None = None
    function_id: str | None = None
    error: Any = ABSENT
    extra: Extra = None


@dataclass(slots=True)
class RegisterService:
    """W→E: display only (§11)."""

    type: ClassVar[str] = "registerservice"
    id: str
    name: str | None = None
    description: str | None = None
    parent_service_id: str | None = None
    extra: Extra = None


@dataclass(slots=True)
class InvokeFunction:
    """Both ways: run a function (§5.3). ``data`` is always on the wire, null included."""

    type: ClassVar[str] = "invokefunction"
    function_id: str
    data: Any
    invocation_id: str | None = None
    metadata: Any = ABSENT
    traceparent: str | None = None
    baggage: str | None = None
    action: dict[str, Any] | None = None
    namespace: str | None = None
    caller: dict[str, Any] | None = None
    observe_depth: int | None = None
    activation: dict[str, Any] | None = None
    extra: Extra = None


@dataclass(slots=True)
class InvocationResult:
    """Both ways: what an invocation came to (§5.4). ``error`` wins; neither means success with null."""

    type: ClassVar[str] = "invocationresult"
    invocation_id: str
    function_id: str
    result: Any = ABSENT
    error: Any = ABSENT
    traceparent: str | None = None
    baggage: str | None = None
    extra: Extra = None


# -- observe.v1 (§16). In the family null stands for an absent field, but in the captured parts of a report.


@dataclass(slots=True)
class FunctionRegistered:
    """E→W: a function is registered, and this is the whole set of its observers (§16.3)."""

    type: ClassVar[str] = "functionregistered"
    id: str
    namespace: str | None = None
    revision: int = 0
    local_dispatch: bool = False
    observers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    extra: Extra = None


@dataclass(slots=True)
class ObserverAdded:
    """E→W: one observer more; to be acknowledged (§16.4)."""

    type: ClassVar[str] = "observeradded"
    function_id: str
    observer: dict[str, Any]
    namespace: str | None = None
    revision: int = 0
    extra: Extra = None


@dataclass(slots=True)
class ObserverRemoved:
    """E→W: one observer less (§16.4)."""

    type: ClassVar[str] = "observerremoved"
    function_id: str
    id: str
    namespace: str | None = None
    revision: int = 0
    extra: Extra = None


@dataclass(slots=True)
class ObserverAck:
    """W→E: the owner takes an observer, or with ``error`` refuses it (§16.4)."""

    type: ClassVar[str] = "observerack"
    function_id: str
    id: str
    namespace: str | None = None
    revision: int = 0
    error: Any = ABSENT
    extra: Extra = None


@dataclass(slots=True)
class Observe:
    """W→E: create an observer, or say again that it exists (§16.5). Both objects have a ``function_id``."""

    type: ClassVar[str] = "observe"
    id: str
    source: dict[str, Any]
    target: dict[str, Any]
    metadata: Any = None
    max_fires: int | None = None
    expires_in_ms: int | None = None
    max_in_flight: int | None = None
    extra: Extra = None


@dataclass(slots=True)
class Unobserve:
    """W→E: remove an observer (§16.5)."""

    type: ClassVar[str] = "unobserve"
    id: str
    extra: Extra = None


@dataclass(slots=True)
class ObserveResult:
    """E→W: the answer to every ``observe`` (§16.5)."""

    type: ClassVar[str] = "observeresult"
    id: str
    state: str
    warnings: list[str] | None = None
    error: dict[str, Any] | None = None
    extra: Extra = None


@dataclass(slots=True)
class ObserverStateChanged:
    """E→W: an observer of this worker is in another state (§16.5)."""

    type: ClassVar[str] = "observerstatechanged"
    id: str
    state: str
    fires: int = 0
    reason: dict[str, Any] | None = None
    extra: Extra = None


@dataclass(slots=True)
class InvocationsObserved:
    """W→E: local invocations and emitted events that observers matched (§16.8). Large ones: ``encode_reports``."""

    type: ClassVar[str] = "invocationsobserved"
    items: list[dict[str, Any]]
    extra: Extra = None


@dataclass(slots=True)
class LocalInvocationStats:
    """W→E: how often functions ran locally, and which reports were dropped (§16.8)."""

    type: ClassVar[str] = "localinvocationstats"
    window_ms: int
    functions: list[dict[str, Any]]
    dropped_reports: list[dict[str, Any]]
    extra: Extra = None


@dataclass(slots=True)
class Ping:
    """JSON ping; WebSocket pings are the real keep-alive (§3.2)."""

    type: ClassVar[str] = "ping"
    extra: Extra = None


@dataclass(slots=True)
class Pong:
    """Answer to a JSON ping."""

    type: ClassVar[str] = "pong"
    extra: Extra = None


@dataclass(slots=True)
class Unknown:
    """A message of a type this version does not know, kept whole."""

    type: str
    fields: dict[str, Any]


Message: TypeAlias = (
    WorkerRegistered
    | RegistrationRejected
    | ErrorMessage
    | Reattach
    | RegisterFunction
    | UnregisterFunction
    | RegisterTriggerType
    | UnregisterTriggerType
    | RegisterTrigger
    | UnregisterTrigger
    | TriggerRegistrationResult
    | RegisterService
    | InvokeFunction
    | InvocationResult
    | FunctionRegistered
    | ObserverAdded
    | ObserverRemoved
    | ObserverAck
    | Observe
    | Unobserve
    | ObserveResult
    | ObserverStateChanged
    | InvocationsObserved
    | LocalInvocationStats
    | Ping
    | Pong
    | Unknown
)
