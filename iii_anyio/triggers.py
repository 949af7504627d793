"""Typed triggers: what a trigger of each of the engine's types is told, and what its functions are called with.

A typed trigger takes the place of a type and a config dict::

    iii.register_trigger(CronTrigger(expression="0 0 3 * * *"), "shop::clean_up")

Fields have the names of the wire; what is not set is not sent. A type of your own is a subclass of ``TypedTrigger``.
The events are models that read like the JSON object they were made of, too. Those of HTTP, state and streams are
``ApiRequest``, ``StateEventData`` and ``StreamChangeEvent``; of ``queue`` and ``subscribe`` it is what was published.

Below: pydantic, the models of ``http``, ``state`` and ``stream``. Above: the decorators, ``register_trigger``.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)
from pydantic.alias_generators import to_camel

from .http import HttpMethod, MappingModel

__all__ = (
    "ConfigurationEvent",
    "ConfigurationTrigger",
    "CronEvent",
    "CronTrigger",
    "FunctionsAvailableEvent",
    "FunctionsAvailableTrigger",
    "HttpTrigger",
    "LogEvent",
    "LogTrigger",
    "QueueConfig",
    "QueueTrigger",
    "StateTrigger",
    "StreamJoinTrigger",
    "StreamLeaveTrigger",
    "StreamTrigger",
    "SubscribeTrigger",
    "TraceEvent",
    "TraceTrigger",
    "TypedTrigger",
    "WorkersAvailableEvent",
    "WorkersAvailableTrigger",
)


class TypedTrigger(BaseModel):
    """The config of a trigger, and the type it belongs to.

    For a type of your own::

        class OrderPlaced(TypedTrigger):
            trigger_type = "shop::order-placed"
            country: str

    Attributes:
        trigger_type: The id of the type, of the class.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(defer_build=True, extra="forbid")

    trigger_type: ClassVar[str]

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None}


class HttpTrigger(TypedTrigger):
    """Serve a route. The function gets an ``ApiRequest`` and may return an ``ApiResponse``.

    Attributes:
        api_path: With or without a leading slash; ``:name`` is a parameter (H-7).
        http_method: In either case. The engine answers OPTIONS itself (H-54).
        condition_function_id: Called first, with the request without its body streams; ``false`` answers 422 (H-41).
        middleware_function_ids: The engine's middleware, in order; it knows nothing of the worker's.
    """

    trigger_type = "http"

    api_path: str
    http_method: HttpMethod = "GET"
    condition_function_id: str | None = None
    middleware_function_ids: list[str] | None = None

    @field_validator("http_method", mode="before")
    @classmethod
    def _in_upper_case(cls, method: object) -> object:
        return method.upper() if isinstance(method, str) else method


class CronTrigger(TypedTrigger):
    """Run on a schedule, in UTC. The function gets a ``CronEvent``. Ticks never overlap; missed ones are gone (C-9).

    Attributes:
        expression: Six fields, seconds first, or seven with the year; ``@hourly`` and its kin. The day of the week
            counts from 1, Sunday, to 7 (C-3); ``mon`` and ``sun`` mean what they say.
        condition_function_id: Called first; ``false`` or an error skips the tick.
    """

    trigger_type = "cron"

    expression: str = Field(min_length=1)
    condition_function_id: str | None = None

    @field_validator("expression")
    @classmethod
    def _has_seconds(cls, expression: str) -> str:
        # C-2. The commonest mistake, and the engine's refusal comes late: to `wait_ready`.
        if len(expression.split()) == 5:
            raise ValueError(f"the engine's cron expressions begin with the seconds; '0 {expression}' has six fields")
        return expression


class QueueConfig(BaseModel):
    """How messages of a topic are handled (§4.5 of the queue). On the wire the keys are in camelCase.

    Attributes:
        type: ``fifo`` handles one at a time, and retries in place.
        max_retries: After the first attempt; by default there are three attempts in all.
        concurrency: Messages handled at once, by default 10; 0 pauses.
        backoff_delay_ms: Before the first retry, by default 1000; it doubles.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        defer_build=True, alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True, extra="forbid"
    )

    type: Literal["concurrent", "fifo"] | None = None
    max_retries: int | None = Field(default=None, ge=0)
    concurrency: int | None = Field(default=None, ge=0)
    backoff_delay_ms: int | None = Field(default=None, ge=0)

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None}


class QueueTrigger(TypedTrigger):
    """Handle the messages of a durable topic. The function gets what was published, without envelope (Q-28).

    Attributes:
        topic: Exact, no patterns (Q-27).
        queue_config: Retries and concurrency.
        condition_function_id: Called first; ``false`` takes the message as handled (Q-36).
    """

    trigger_type = "durable:subscriber"

    topic: str = Field(min_length=1)
    queue_config: QueueConfig | None = None
    condition_function_id: str | None = None


class SubscribeTrigger(TypedTrigger):
    """Hear a topic of pub/sub. The function gets what was published; its result is nobody's (S-5).

    Attributes:
        topic: Exact, no patterns (S-6).
    """

    trigger_type = "subscribe"

    # No condition: the engine never calls it (S-8).
    topic: str = Field(min_length=1)


class StateTrigger(TypedTrigger):
    """Hear of changes of state. The function gets a ``StateEventData``.

    Attributes:
        scope: Only changes in this scope.
        key: Only changes of this key.
        condition_function_id: Called first; ``false`` or an error skips the handler.
    """

    trigger_type = "state"

    scope: str | None = None
    key: str | None = None
    condition_function_id: str | None = None


class StreamTrigger(TypedTrigger):
    """Hear of changes of a stream, and of messages sent through it. The function gets a ``StreamChangeEvent``.

    Attributes:
        stream_name: Required (SR-11).
        group_id: Only changes in this group.
        item_id: Only changes of this item; a message sent without an id never matches (SR-12).
        condition_function_id: Called first; ``false`` or an error skips the handler.
    """

    trigger_type = "stream"

    stream_name: str = Field(min_length=1)
    group_id: str | None = None
    item_id: str | None = None
    condition_function_id: str | None = None


class StreamJoinTrigger(TypedTrigger):
    """Be asked before a client joins any stream. The function gets a ``StreamJoinLeaveEvent``.

    It may refuse with ``StreamJoinResult(unauthorized=True)``. The engine has no filters for it (SR-14).
    """

    trigger_type = "stream:join"


class StreamLeaveTrigger(TypedTrigger):
    """Hear of clients that leave any stream. The function gets a ``StreamJoinLeaveEvent``."""

    trigger_type = "stream:leave"


class ConfigurationTrigger(TypedTrigger):
    """Hear of changes of configuration. The function gets a ``ConfigurationEvent``.

    Attributes:
        configuration_id: Only changes of this entry.
        event_types: Only these.
        condition_function_id: Called first; ``false`` or an error skips the handler.
    """

    trigger_type = "configuration"

    configuration_id: str | None = None
    event_types: list[Literal["configuration:registered", "configuration:updated", "configuration:deleted"]] | None = (
        None
    )
    condition_function_id: str | None = None


class LogTrigger(TypedTrigger):
    """Hear of every stored log. The function gets a ``LogEvent``; if it logs, it is called for that, too (OB-17).

    The function must be in namespace ``default`` (OB-19).

    Attributes:
        level: Exactly this severity, not at least (OB-16); ``all`` is the engine's default.
    """

    trigger_type = "log"

    level: Literal["all", "trace", "debug", "info", "warn", "error", "fatal"] | None = None


class TraceTrigger(TypedTrigger):
    """Hear of new spans. The function gets a ``TraceEvent``; it must be in namespace ``default`` (OB-19).

    Attributes:
        service_name: Only spans of this service; case does not matter.
        status: Only spans with this status.
    """

    trigger_type = "trace"

    service_name: str | None = None
    status: Literal["ok", "error", "unset"] | None = None


class FunctionsAvailableTrigger(TypedTrigger):
    """Hear when the set of functions has changed; the engine looks every 5 s (E-48).

    The function gets a ``FunctionsAvailableEvent``.
    """

    trigger_type = "engine::functions-available"


class WorkersAvailableTrigger(TypedTrigger):
    """Hear of workers that come and go, at once (E-50). The function gets a ``WorkersAvailableEvent``."""

    trigger_type = "engine::workers-available"


# -- what functions are called with ----------------------------------------------------------------------------------


class CronEvent(MappingModel):
    """One tick (C-1).

    Attributes:
        trigger: ``cron``.
        job_id: The trigger's id.
        scheduled_time: When it was due, in UTC.
        actual_time: When it came.
    """

    trigger: str = "cron"
    job_id: str
    scheduled_time: datetime
    actual_time: datetime


class ConfigurationEvent(MappingModel):
    """A change of a configuration entry (CF-7). Its JSON Schema is ``event["schema"]``.

    Attributes:
        type: ``configuration``.
        event_type: What happened.
        id: Of the entry.
        name: For people.
        description: For people.
        old_value: Before, placeholders expanded.
        new_value: Now; ``None`` after a deletion.
        metadata: Of the entry.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    type: str = "configuration"
    event_type: str
    id: str
    name: str | None = None
    description: str | None = None
    old_value: Any = None
    new_value: Any = None
    metadata: Any = None


class LogEvent(MappingModel):
    """A stored log.

    Attributes:
        timestamp_unix_nano: When it was written.
        observed_timestamp_unix_nano: When the engine got it.
        severity_number: 1 to 24.
        severity_text: Such as ``INFO``.
        body: The message.
        attributes: What was logged with it.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        resource: Of the writer.
        service_name: Of the writer.
        instrumentation_scope_name: Of the writer's logger.
        instrumentation_scope_version: Of the writer's logger.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    timestamp_unix_nano: int
    observed_timestamp_unix_nano: int
    severity_number: int
    severity_text: str
    body: Any = None
    attributes: dict[str, Any] | None = None
    trace_id: str | None = None
    span_id: str | None = None
    resource: dict[str, Any] | None = None
    service_name: str | None = None
    instrumentation_scope_name: str | None = None
    instrumentation_scope_version: str | None = None


class TraceEvent(MappingModel):
    """Traces with new spans (OB-18).

    Attributes:
        trace_ids: Sorted, each once.
    """

    trace_ids: list[str]


class FunctionsAvailableEvent(MappingModel):
    """All functions there are, after a change (E-49).

    Attributes:
        event: ``functions_changed``.
        functions: Unfiltered; each with ``function_id``, ``namespace`` and ``worker_name``.
    """

    event: str
    functions: list[dict[str, Any]]


class WorkersAvailableEvent(MappingModel):
    """A worker came, told about itself, or went (E-50).

    Attributes:
        event: What happened.
        worker_id: Of its connection.
    """

    event: Literal["worker_connected", "worker_metadata_updated", "worker_disconnected"]
    worker_id: str
