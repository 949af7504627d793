"""What people write to configure queues and subscriptions, read and checked.

Below: ``_queue_lines`` and ``_settings``. Above: ``builtins/queue``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from ._queue_lines import Settings
from ._settings import Section, check_adapter

__all__ = (
    "CONFIG_SCHEMA",
    "DEFAULT_QUEUE",
    "NAME",
    "Subscription",
    "group_problem",
    "read_queue",
    "read_queues",
    "read_subscription",
)

NAME: Final = "iii-queue"
DEFAULT_QUEUE: Final = "default"
"""Always there (Q-14)."""
_MOST: Final = 2**32 - 1
_MOST_AT_ONCE: Final = 10_000
"""Jobs of one line; the engine itself has a limit of calls in flight."""
CONFIG_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "adapter": {"type": ["object", "null"]},
        "queue_configs": {
            "type": ["object", "null"],
            "additionalProperties": {
                "type": ["object", "null"],
                "properties": {
                    "type": {"enum": ["standard", "fifo", None]},
                    "message_group_field": {"type": ["string", "null"]},
                    "max_retries": {"type": ["integer", "null"], "minimum": 0},
                    "concurrency": {"type": ["integer", "null"], "minimum": 1},
                    "backoff_ms": {"type": ["integer", "null"], "minimum": 0},
                    "timeout_ms": {"type": ["integer", "null"], "minimum": 1},
                },
            },
        },
    },
}
"""Of the configuration entry (Q-16)."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """The config of a ``durable:subscriber`` trigger."""

    topic: str
    settings: Settings
    condition_function_id: str | None


def read_queues(config: object) -> dict[str, Settings]:
    """Read the ``config`` of the worker's entry in the engine's configuration file (§4.3).

    Raises:
        ValueError: A value is not what it must be.
    """
    root = Section(NAME, config)
    check_adapter(root, "builtin", "in_memory", "file_based", "redis", "rabbitmq", "bridge")
    entries = root.mapping("queue_configs")
    root.end()
    return {name: read_queue(entry, f"queue_configs.{name}.") for name, entry in entries.items()}


def read_queue(entry: object, path: str) -> Settings:
    """Read the settings of a named queue.

    Raises:
        ValueError: A value is not what it must be (Q-15); the message names the key below ``path``.
    """
    fields = Section(NAME, {} if entry is None else entry, path)
    kind = fields.text("type", "standard")
    if kind not in ("standard", "fifo"):
        fields.refuse("type", kind, "'standard' or 'fifo'")
    is_fifo = kind == "fifo"
    group_field = fields.text("message_group_field", "")
    if is_fifo and not group_field:
        fields.refuse("message_group_field", None, "the field of the data that groups the jobs, as the type is fifo")
    fields.integer("max_priority", 1, 1, 255)
    fields.ignore("priority_field", "poll_interval_ms")  # of RabbitMQ only; this engine does not poll
    default = Settings()
    settings = Settings(
        attempts=fields.integer("max_retries", default.attempts, 0, _MOST),
        concurrency=fields.integer("concurrency", default.concurrency, 1, _MOST_AT_ONCE),
        backoff=fields.integer("backoff_ms", 1000, 0, _MOST) / 1000,
        timeout=fields.integer("timeout_ms", 1_800_000, 1, _MOST) / 1000,
        is_fifo=is_fifo,
        group_field=group_field if is_fifo else None,
    )
    fields.end()
    return settings


def read_subscription(config: object) -> Subscription | None:
    """Read the config of a trigger (§4.5); None when it names no topic and so never fires (Q-25).

    Raises:
        ValueError: Another value is not what it must be.
    """
    if not isinstance(config, Mapping):
        return None
    values = cast("Mapping[str, Any]", config)
    topic = values.get("topic", values.get("queue"))  # `queue` and the snake-case keys are the standalone worker's
    if not isinstance(topic, str) or not topic:
        return None
    fields = Section("durable:subscriber", values)
    tuning = fields.section("queue_config") or Section("durable:subscriber", {}, "queue_config.")
    default = Settings()
    attempts = max(fields.integer("max_retries", default.attempts, 0, _MOST), 1)
    retries = tuning.integer("maxRetries", attempts - 1, 0, _MOST)  # after the first attempt
    is_fifo = tuning.text("type", "") == "fifo"
    concurrency = tuning.integer("concurrency", default.concurrency, 0, _MOST_AT_ONCE)
    backoff_ms = fields.integer("backoff_ms", 1000, 0, _MOST)
    settings = Settings(
        attempts=retries + 1,
        concurrency=1 if is_fifo else concurrency,
        backoff=tuning.integer("backoffDelayMs", backoff_ms, 0, _MOST) / 1000,
        is_fifo=is_fifo,
    )
    return Subscription(topic, settings, fields.text("condition_function_id", "") or None)


def group_problem(settings: Settings, data: object) -> str | None:
    """Say why data cannot stand in a grouped line (Q-19)."""
    name = settings.group_field
    if name is None:
        return None
    if not isinstance(data, dict):
        return f"the data must be an object with the field {name!r}, which groups the jobs of this queue"
    value = cast("dict[str, Any]", data).get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        return f"data.{name} groups the jobs of this queue: it must be a string that is not empty, or a number"
    return None
