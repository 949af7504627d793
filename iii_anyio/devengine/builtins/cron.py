"""The built-in ``iii-cron``: the trigger type ``cron``.

Tasks: one per job, which waits for the next time of its expression, calls the function and waits for its answer. So
the ticks of a job never overlap, and those that pass meanwhile are skipped (CR-9). What an expression means is decided
in ``_cron``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self, cast

from anyio import CancelScope, create_task_group, current_time, sleep

from ...errors import IIIError
from ...trigger import TriggerConfig, TriggerHandler
from .._cron import CronError, Schedule
from .._errors import shorten
from .._settings import Section, check_adapter
from .._tracing import new_traceparent, traced
from ._config_entry import ADAPTER_SCHEMA, keep_entry

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ...abc import Invoker
    from ...worker import Worker
    from .._services import Host

__all__ = ("Cron", "WallClock", "serve_cron")

logger: Final = logging.getLogger("iii_anyio.devengine.cron")

NAME: Final = "iii-cron"
CRON: Final[dict[str, Any]] = {
    "id": "cron",
    "description": "Cron-based scheduled triggers",
    "trigger_request_format": {
        "type": "object",
        "properties": {"expression": {"type": "string"}, "condition_function_id": {"type": ["string", "null"]}},
        "required": ["expression"],
    },
    "call_request_format": {
        "type": "object",
        "properties": {
            "trigger": {"const": "cron"},
            "job_id": {"type": "string"},
            "scheduled_time": {"type": "string", "format": "date-time"},
            "actual_time": {"type": "string", "format": "date-time"},
        },
        "required": ["trigger", "job_id", "scheduled_time", "actual_time"],
    },
}
LONGEST_WAIT: Final = 60.0
"""Seconds until the clock is looked at again: it may be set, and it goes on while a computer sleeps."""
NO_LIMIT_MS: Final = 365 * 86_400_000
"""A tick lasts as long as its handler; the engine has no limit for functions of workers (P-124)."""


class WallClock:
    """The time of day, in Unix seconds; under a virtual clock of the event loop it goes as fast as that clock."""

    def __init__(self) -> None:
        self._ahead = current_time() - time.monotonic()

    def __call__(self) -> float:
        """The time now."""
        return time.time() + (current_time() - time.monotonic() - self._ahead)


@dataclass(eq=False)
class _Job:
    """One trigger: what to call, when, and the scope of its task."""

    id: str
    function_id: str
    namespace: str
    metadata: Any
    condition_function_id: str | None
    schedule: Schedule
    scope: CancelScope = field(default_factory=CancelScope)

    @classmethod
    def from_trigger(cls, trigger: TriggerConfig[Any]) -> Self:
        """Read a trigger's configuration; unknown keys are ignored (T-5).

        Raises:
            ValueError: Its expression is missing or wrong; the text is the answer (CR-11).
        """
        given: object = trigger.config
        values = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        expression, condition = values.get("expression"), values.get("condition_function_id")
        if not isinstance(expression, str) or not expression:
            raise ValueError("Cron expression is required")
        try:
            schedule = Schedule.parse(expression)
        except CronError as error:
            shown = expression if len(expression) <= 200 else f"{expression[:200]}…"
            raise ValueError(f"Invalid cron expression '{shown}': {error}") from error
        return cls(
            trigger.id,
            trigger.function_id,
            trigger.namespace or "default",
            trigger.metadata,
            condition if isinstance(condition, str) else None,
            schedule,
        )


class Cron(TriggerHandler[Any]):
    """Runs jobs in a task group.

    Args:
        iii: Calls the functions.
        group: Where the jobs run; whoever made it ends them.
        now: Unix seconds.
    """

    def __init__(self, iii: Invoker, group: TaskGroup, now: Callable[[], float]) -> None:
        self._iii = iii
        self._group = group
        self._now = now
        self._jobs: dict[str, _Job] = {}

    def __repr__(self) -> str:
        return f"<Cron {len(self._jobs)} jobs>"

    async def register_trigger(self, config: TriggerConfig[Any]) -> None:
        """Schedule a job. A trigger id in use gets the new schedule; upstream keeps the old one (CR-12).

        Raises:
            ValueError: The expression is missing or wrong (CR-11).
        """
        job = _Job.from_trigger(config)
        self._stop(job.id)
        self._jobs[job.id] = job
        self._group.start_soon(self._run, job, name=f"engine cron job {job.id}")

    async def unregister_trigger(self, config: TriggerConfig[Any]) -> None:
        """Stop a job at once. A call in progress goes on at its worker (CR-13)."""
        self._stop(config.id)

    def _stop(self, job_id: str) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None:
            job.scope.cancel()

    async def _run(self, job: _Job) -> None:
        with job.scope:
            last = 0.0
            while True:
                # From the end of the last tick (CR-9); never the same one again, should the clock be set back a little.
                moment = datetime.fromtimestamp(math.floor(max(self._now(), last)), UTC)
                scheduled = job.schedule.next_after(moment)
                if scheduled is None:
                    logger.warning(
                        "cron trigger %s of %s does not fire any more: its expression has no later time",
                        shorten(job.id), shorten(job.function_id),
                    )  # fmt: skip
                    return
                last = scheduled.timestamp()
                actual = await self._wait_until(last)
                with traced(self, new_traceparent()):
                    await self._tick(job, scheduled, actual)

    async def _wait_until(self, moment: float) -> float:
        """Wait; return the time that showed it has come. Read again, the clock may have gone back a little."""
        now = self._now()
        while now < moment:
            await sleep(min(moment - now, LONGEST_WAIT))
            now = self._now()
        return now

    async def _tick(self, job: _Job, scheduled: datetime, actual: float) -> None:
        """Call the function if the condition lets it; what goes wrong drops the tick (CR-10, CR-14)."""
        payload = {
            "trigger": "cron",
            "job_id": job.id,
            "scheduled_time": scheduled.isoformat(timespec="seconds"),
            "actual_time": datetime.fromtimestamp(actual, UTC).isoformat(timespec="microseconds"),
        }
        called = job.condition_function_id
        try:
            # Only the literal false blocks (T-16); a condition gets no metadata (T-13).
            if called is not None and await self._call(job, called, payload) is False:
                return
            called = job.function_id
            await self._call(job, called, payload, job.metadata)
        except IIIError as error:
            what = "it was not called" if called != job.function_id else "it is not called again"
            logger.warning("a tick of %s failed, %s: %s: %s", shorten(job.function_id), what, called, error)

    async def _call(self, job: _Job, function_id: str, payload: dict[str, Any], metadata: Any = None) -> Any:
        request: dict[str, Any] = {
            "function_id": function_id,
            "payload": payload,
            "namespace": job.namespace,
            "timeout_ms": NO_LIMIT_MS,
        }
        if metadata is not None:
            request["metadata"] = metadata
        return await self._iii.trigger_async(request)


@asynccontextmanager
async def serve_cron(iii: Worker, host: Host, config: Mapping[str, Any]) -> AsyncGenerator[Cron]:
    """Run the built-in ``iii-cron``."""
    _check(config)
    async with create_task_group() as group:
        cron = Cron(iii, group, WallClock())
        iii.register_trigger_type(**CRON, handler=cron)
        await keep_entry(iii, host, NAME, "Cron", ADAPTER_SCHEMA, config, _check)
        yield cron
        group.cancel_scope.cancel()


def _check(config: object) -> None:
    root = Section(NAME, config)
    check_adapter(root, "kv", "redis")
    root.end()
