"""The built-in ``iii-queue``: named queues for ``TriggerAction.Enqueue``, and durable topics (``durable:subscriber``).

It does what both of upstream's workers do, the one in the engine and the standalone one. The router turns an enqueue
into a call of ``engine::queue::enqueue`` (Q-2). Which job runs when is decided in ``_queue_core``, what configurations
mean in ``_queue_settings``; ``_queue_runner`` has the tasks.

A job is stored before it is acknowledged and removed when its function has returned: a crash in between runs it again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from anyio import create_task_group

from ..._protocol.engine_session import DEFAULT_NAMESPACE
from ..._protocol.jsontext import to_json
from ..._runtime.context import running_invocation
from ...errors import EncodeError, InvocationError
from ...trigger import TriggerConfig, TriggerHandler
from .._builtin import Input
from .._errors import shorten
from .._queue_core import DuplicateJobError, Jobs, JobsFullError
from .._queue_lines import Job, Line, Queue, Settings
from .._queue_settings import (
    CONFIG_SCHEMA,
    DEFAULT_QUEUE,
    NAME,
    group_problem,
    read_queue,
    read_queues,
    read_subscription,
)
from ._config_entry import keep_entry
from ._queue_runner import JobRunner

if TYPE_CHECKING:
    from ...worker import Worker
    from .._services import Host
    from .._storage import Table

__all__ = ("QueueWorker", "serve_queue")

logger: Final = logging.getLogger("iii_anyio.devengine.queue")

TRIGGER_TYPE: Final[dict[str, Any]] = {
    "id": "durable:subscriber",
    "description": "Durable topic subscription: every message reaches the function at least once",
    "trigger_request_format": {
        "type": "object",
        "properties": {
            "topic": {"type": "string"},
            "condition_function_id": {"type": ["string", "null"]},
            "queue_config": {
                "type": ["object", "null"],
                "properties": {
                    "type": {"type": ["string", "null"]},
                    "maxRetries": {"type": ["integer", "null"], "minimum": 0},
                    "concurrency": {"type": ["integer", "null"], "minimum": 0},
                    "backoffDelayMs": {"type": ["integer", "null"], "minimum": 0},
                },
            },
        },
        "required": ["topic"],
    },
}

PREFIX: Final = "__fn_queue::"
"""What upstream's lists of dead letters put before the name of a named queue (Q-39)."""

ENQUEUE: Final = "engine::queue::enqueue"
PUBLISH: Final = "iii::durable::publish"
_NAMED: Final = Input(queue="string", topic="string")
_MESSAGE: Final = Input(queue="string", topic="string", message_id="string!")
_INPUTS: Final = {
    "queue::define": Input(queue="string!", config="object"),
    ENQUEUE: Input(
        queue="string!",
        function_id="string!",
        data="any!",
        messageReceiptId="string",
        traceparent="string",
        baggage="string",
        namespace="string",
    ),
    PUBLISH: Input(topic="string", queue="string", data="any!"),
    "iii::queue::redrive": _NAMED,
    "iii::queue::redrive_message": _MESSAGE,
    "iii::queue::discard_message": _MESSAGE,
    "engine::queue::list_topics": None,
    "engine::queue::topic_stats": _NAMED,
    "engine::queue::dlq_topics": None,
    "engine::queue::dlq_messages": Input(topic="string", queue="string", offset="unsigned", limit="unsigned"),
}
"""Functions with their input; None takes anything."""


class QueueWorker(TriggerHandler[Any]):
    """Serves the functions and the trigger type."""

    def __init__(self, iii: Worker, host: Host, jobs: Jobs, definitions: Table, runner: JobRunner) -> None:
        self._iii = iii
        self._host = host
        self._jobs = jobs
        self._definitions = definitions
        self._runner = runner

    def __repr__(self) -> str:
        return f"<QueueWorker {self._jobs!r}>"

    def register(self) -> None:
        """Register the functions and the trigger type."""
        handlers: tuple[tuple[str, Callable[[dict[str, Any]], Coroutine[Any, Any, Any]], str], ...] = (
            ("queue::define", self._define, "Define or change a named queue"),
            (ENQUEUE, self._enqueue, "Take the jobs of TriggerAction.Enqueue"),
            (PUBLISH, self._publish, "Publish a message to a durable topic"),
            ("iii::queue::redrive", self._redrive, "Run all dead messages of a queue or topic again"),
            ("iii::queue::redrive_message", self._redrive_message, "Run one dead message again"),
            ("iii::queue::discard_message", self._discard_message, "Remove one dead message"),
            ("engine::queue::list_topics", self._list_topics, "List topics and named queues"),
            ("engine::queue::topic_stats", self._topic_stats, "Count what a queue or topic holds"),
            ("engine::queue::dlq_topics", self._dlq_topics, "List queues and topics with their dead messages"),
            ("engine::queue::dlq_messages", self._dlq_messages, "Show the dead messages of a queue or topic"),
        )
        for function_id, handler, description in handlers:
            fields = _INPUTS[function_id]
            self._iii.register_function(
                function_id,
                _checked(function_id, fields, handler),
                description=description,
                request_format=None if fields is None else fields.schema,
            )
        self._iii.register_trigger_type(**TRIGGER_TYPE, handler=self)

    def start(self) -> None:
        """Run what is there from an earlier time."""
        for queue in self._jobs.undefined():
            logger.warning(
                "%d jobs wait in queue %s, which is not defined any more: %s",
                queue.depth, shorten(queue.name), _HOW_TO_DEFINE,
            )  # fmt: skip
        self._runner.pump(line for queue in self._jobs.defined() for line in queue.lines.values())

    def configure(self, config: object) -> None:
        """Define the configured queues as they are now configured (Q-16); no other queue is touched.

        Raises:
            ValueError: The configuration is wrong; everything stays.
        """
        for name, settings in read_queues(config).items():
            line = self._jobs.named(name)
            if line is None or line.settings != settings:
                self._runner.pump((self._jobs.define(name, settings),))

    # -- the trigger type ----------------------------------------------------------------------------------------

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Subscribe a function to a topic.

        Raises:
            ValueError: The configuration is wrong; answered as T-2.
        """
        self._unbind(config.id)
        wanted = read_subscription(config.config)
        if wanted is None:
            logger.warning("trigger %s of %s names no topic and never fires", config.id, shorten(config.function_id))
            return
        if config.metadata is not None:  # T-12
            logger.warning("trigger %s: subscriptions of topics do not deliver metadata", config.id)
        function = (config.namespace or DEFAULT_NAMESPACE, config.function_id)
        line = self._jobs.bind(config.id, wanted.topic, function, wanted.settings, wanted.condition_function_id)
        self._runner.pump((line,))

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """End the subscription; what the function did not get yet waits for its next one (Q-33)."""
        self._unbind(config.id)

    def _unbind(self, trigger_id: str) -> None:
        line = self._jobs.unbind(trigger_id)
        if line is not None:
            self._runner.pump((line,))

    # -- functions -----------------------------------------------------------------------------------------------

    async def _enqueue(self, data: dict[str, Any]) -> dict[str, Any]:
        name = data["queue"]
        line = self._jobs.named(name)
        if line is None:
            raise InvocationError("queue_not_defined", f"queue {shorten(name)} is not defined: {_HOW_TO_DEFINE}")
        problem = group_problem(line.settings, data["data"])
        if problem is not None:
            raise InvocationError("invalid_message_group", problem)
        job_id = data.get("messageReceiptId") or str(uuid4())
        function = (data.get("namespace") or DEFAULT_NAMESPACE, data["function_id"])
        try:
            self._jobs.add(job_id, line, function, data["data"], data.get("traceparent"), data.get("baggage"))
        except DuplicateJobError as exc:
            raise InvocationError("duplicate_message", str(exc)) from exc
        except JobsFullError as exc:
            raise InvocationError("queue_full", str(exc)) from exc
        await self._accepted((line,))
        return {"messageReceiptId": job_id}

    async def _publish(self, data: dict[str, Any]) -> None:
        topic = _one_of(PUBLISH, data, "topic", "queue")
        if not topic:
            raise InvocationError("topic_not_set", "the topic is empty")
        try:
            running = running_invocation()
            trace = (None, None) if running is None else (running.traceparent, running.baggage)
            lines = self._jobs.publish(topic, data["data"], _new_ids(), *trace)
        except JobsFullError as exc:
            raise InvocationError("queue_full", str(exc)) from exc
        await self._accepted(lines)

    async def _accepted(self, lines: Iterable[Line]) -> None:
        """Start the new jobs; return when they are stored."""
        self._runner.pump(lines)
        await self._host.storage.flush()

    async def _define(self, data: dict[str, Any]) -> dict[str, Any]:
        name = data["queue"]
        if not name:
            raise InvocationError("queue_not_set", "the name of the queue is empty")
        config = data.get("config", {})
        try:
            settings = read_queue(config, "config.")
        except ValueError as exc:
            raise InvocationError("invalid_queue_config", str(exc)) from exc
        line = self._jobs.named(name)
        is_changed = line is None or line.settings != settings
        self._definitions.put(name, config)
        await self._accepted((self._jobs.define(name, settings),))
        return {"queue": name, "changed": is_changed}

    async def _redrive(self, data: dict[str, Any]) -> dict[str, Any]:
        name = _queue_name("iii::queue::redrive", data)
        redriven = await self._redriven(name, None)
        return {"queue": name, "redriven": redriven}

    async def _redrive_message(self, data: dict[str, Any]) -> dict[str, Any]:
        name, message_id = _message_name("iii::queue::redrive_message", data)
        redriven = await self._redriven(name, (message_id,))
        return {"queue": name, "message_id": message_id, "redriven": redriven}

    async def _redriven(self, name: str, ids: tuple[str, ...] | None) -> int:
        queue = self._find(name)
        jobs = [] if queue is None else self._jobs.redrive(queue, ids)
        await self._accepted(dict.fromkeys(job.line for job in jobs))
        return len(jobs)

    async def _discard_message(self, data: dict[str, Any]) -> dict[str, Any]:
        name, message_id = _message_name("iii::queue::discard_message", data)
        queue = self._find(name)
        is_discarded = queue is not None and self._jobs.discard(queue, message_id)
        await self._host.storage.flush()
        return {"queue": name, "message_id": message_id, "redriven": int(is_discarded)}

    async def _list_topics(self, _data: dict[str, Any]) -> list[dict[str, Any]]:
        queues = [queue for queue in self._jobs.topics() if queue.consumers] + self._jobs.defined()
        return [{"name": queue.name, "broker_type": "builtin", "subscriber_count": queue.consumers} for queue in queues]

    async def _topic_stats(self, data: dict[str, Any]) -> dict[str, Any]:
        queue = self._find(_topic_name("engine::queue::topic_stats", data))
        depth, consumers, dead = (0, 0, 0) if queue is None else (queue.depth, queue.consumers, len(queue.dead))
        return {"depth": depth, "consumer_count": consumers, "dlq_depth": dead, "config": None}

    async def _dlq_topics(self, _data: dict[str, Any]) -> list[dict[str, Any]]:
        topics = [queue for queue in self._jobs.topics() if queue.consumers or queue.dead]
        rows = [(queue.name, "builtin", queue) for queue in topics]
        for queue in self._jobs.defined():
            if self._host.strict_upstream:  # twice, and only one of them counts
                rows.append((PREFIX + queue.name, "builtin", queue))
            rows.append((queue.name, "function_queue", queue))
        return [
            {"topic": name, "broker_type": broker_type, "message_count": len(queue.dead)}
            for name, broker_type, queue in rows
        ]

    async def _dlq_messages(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        queue = self._find(_topic_name("engine::queue::dlq_messages", data))
        if queue is None:
            return []
        return [_dead_row(job) for job in queue.newest_dead(data.get("offset", 0), data.get("limit", 50))]

    def _find(self, name: str) -> Queue | None:
        if name.startswith(PREFIX) and (line := self._jobs.named(name.removeprefix(PREFIX))) is not None:
            return line.queue
        return self._jobs.queue(name)


@asynccontextmanager
async def serve_queue(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[QueueWorker]:
    """Run the built-in ``iii-queue``."""
    configured = read_queues(config)
    definitions = host.storage.table("queue-definitions")
    jobs = Jobs(host.storage.table("queue-jobs"), keeps_backlog=host.strict_upstream)
    stored = {name: read_queue(definitions.get(name), f"stored definition of {name}.") for name in definitions}
    for name, settings in ({DEFAULT_QUEUE: Settings()} | stored | configured).items():  # what is configured goes first
        jobs.define(name, settings)
    async with create_task_group() as group:
        runner = JobRunner(iii, host, jobs, group)
        group.start_soon(runner.run_timer, name="engine queue timer")
        worker = QueueWorker(iii, host, jobs, definitions, runner)
        worker.register()
        await keep_entry(iii, host, NAME, "Queue", CONFIG_SCHEMA, config, worker.configure)
        worker.start()
        yield worker
        group.cancel_scope.cancel()


_HOW_TO_DEFINE: Final = (
    'call queue::define with {"queue": name}, or name it in the configuration: '
    'open_engine(workers={"iii-queue": {"queue_configs": {name: {}}}})'
)


def _checked(
    function_id: str, fields: Input | None, handler: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]
) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    async def checked(data: Any) -> Any:
        return await handler({} if fields is None else fields.check(function_id, data))

    return checked


def _one_of(function_id: str, data: dict[str, Any], name: str, alias: str) -> str:
    """A field that has two names."""
    value: str | None = data.get(name, data.get(alias))
    if value is None:
        problem = f"Failed to deserialize input for {function_id}: missing field `{name}`"
        raise InvocationError("deserialization_error", problem)
    return value


def _queue_name(function_id: str, data: dict[str, Any]) -> str:
    name = _one_of(function_id, data, "queue", "topic")
    if not name:
        raise InvocationError("queue_not_set", "the name of the queue is empty")
    return name


def _message_name(function_id: str, data: dict[str, Any]) -> tuple[str, str]:
    name = _queue_name(function_id, data)
    message_id: str = data["message_id"]
    if not message_id:
        raise InvocationError("message_id_not_set", "the id of the message is empty")
    return name, message_id


def _topic_name(function_id: str, data: dict[str, Any]) -> str:
    name = _one_of(function_id, data, "topic", "queue")
    if not name:
        raise InvocationError("topic_required", "the topic is empty")
    return name


def _dead_row(job: Job) -> dict[str, Any]:
    payload, error = job.data, job.error
    try:
        size = len(to_json([[job.record()]])) - 4  # as deep as in the answer, or the whole list could not be sent
    except EncodeError:
        size, payload, error = 0, None, f"{error} (the payload is nested too deep to be shown)"
    return {
        "id": job.id,
        "payload": payload,
        "error": error,
        "failed_at": job.failed_at,
        "retries": job.attempts,
        "size_bytes": size,
    }


def _new_ids() -> Iterator[str]:
    while True:
        yield str(uuid4())
