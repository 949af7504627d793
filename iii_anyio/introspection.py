"""What the engine tells about functions, workers, triggers and trigger types, as the models of SDKs up to 0.11 (B.5).

Tolerant: engines of different versions send different fields, so nearly all are optional and what is not named here is
kept as an attribute. Below: pydantic. Above: the worker's ``list_*`` methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

__all__ = (
    "FunctionInfo",
    "FunctionsAvailableCallback",
    "RegisterServiceInput",
    "TriggerInfo",
    "TriggerTypeInfo",
    "WorkerInfo",
    "WorkerStatus",
)

WorkerStatus: TypeAlias = Literal["connected", "available", "busy", "disconnected"]
"""What ``WorkerInfo.status`` is. The engine says ``connected`` of workers, ``available`` of its own parts (E-27)."""


class _Info(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(defer_build=True, extra="allow", populate_by_name=True)


class FunctionInfo(_Info):
    """A function.

    Attributes:
        function_id: Its id.
        namespace: Where it lives.
        worker_name: Whose it is.
        description: For people.
        request_format: JSON Schema of the payload; ``engine::functions::info`` alone tells it, as ``request_schema``.
        response_format: JSON Schema of the result; likewise.
        metadata: As registered.
    """

    function_id: str
    namespace: str | None = None
    worker_name: str | None = None
    description: str | None = None
    request_format: dict[str, Any] | None = Field(
        default=None, validation_alias=AliasChoices("request_format", "request_schema")
    )
    response_format: dict[str, Any] | None = Field(
        default=None, validation_alias=AliasChoices("response_format", "response_schema")
    )
    metadata: Any = None


class TriggerInfo(_Info):
    """A registered trigger.

    Attributes:
        id: Made by the worker that registered it.
        trigger_type: ``http``, ``cron``, ...
        function_id: What it calls.
        worker_name: Whose function that is.
        config: As registered.
        metadata: As registered; ``engine::registered-triggers::info`` alone tells it.
    """

    id: str
    trigger_type: str
    function_id: str
    worker_name: str | None = None
    config: Any = None
    metadata: Any = None


class TriggerTypeInfo(_Info):
    """A trigger type.

    Attributes:
        id: What triggers name as their ``type``.
        namespace: Which its provider serves.
        worker_name: Who provides it.
        description: For people.
        trigger_request_format: JSON Schema of a trigger's config; ``engine::triggers::info`` alone tells it.
        call_request_format: JSON Schema of the payload that functions get; likewise.
    """

    id: str
    namespace: str | None = None
    worker_name: str | None = None
    description: str | None = None
    trigger_request_format: Any = Field(
        default=None, validation_alias=AliasChoices("trigger_request_format", "configuration_schema")
    )
    call_request_format: Any = Field(
        default=None, validation_alias=AliasChoices("call_request_format", "request_schema")
    )


class WorkerInfo(_Info):
    """A worker that is connected, or a part of the engine.

    Attributes:
        id: Of its connection.
        name: Unique in its namespace.
        namespace: Where its functions live.
        description: For people.
        runtime: ``python``, ``node``, ``rust``, ...
        version: Of its SDK.
        os: Name, release and machine.
        ip_address: As the engine sees it.
        status: A ``WorkerStatus``, unless an engine has a new one.
        connected_at_ms: Unix time in milliseconds.
        function_count: How many functions it has.
        functions: Their ids; engines from 0.23 on leave this out.
        active_invocations: Calls it makes and serves at the moment.
        isolation: What it says it runs in.
    """

    id: str
    name: str | None = None
    namespace: str | None = None
    description: str | None = None
    runtime: str | None = None
    version: str | None = None
    os: str | None = None
    ip_address: str | None = None
    status: str | None = None
    connected_at_ms: int | None = None
    function_count: int | None = None
    functions: list[str] = Field(default_factory=list[str])
    active_invocations: int | None = None
    isolation: str | None = None


FunctionsAvailableCallback: TypeAlias = Callable[[list[FunctionInfo]], Any]
"""Gets all functions whenever the set of them has changed."""


class RegisterServiceInput(BaseModel, defer_build=True):
    """A service, up to SDK 0.12: a name to group functions under, which the engine only records.

    Attributes:
        id: Of the service.
        name: By default the id.
        description: For people.
        parent_service_id: The service it belongs to.
    """

    id: str
    name: str | None = None
    description: str | None = None
    parent_service_id: str | None = None
