"""Jobs in order: what stands in which line, which may run now, and what a queue holds. Without I/O, tasks or clock.

Below: nothing. Above: ``_queue_core``, which keeps the jobs, and describes the way of one.

In a line of type fifo only one job of a group stands in front at a time: ready, running, delayed or held. The others
stand behind it until it is done or dead, so a retry is in place (Q-22, Q-31).
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeAlias, cast

__all__ = ("Binding", "Job", "Line", "Queue", "Settings")

_MAX_DOUBLINGS: Final = 60

Group: TypeAlias = str | int | float
"""Value of the field that groups jobs; whole lines are one group, ``""``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a line is worked off. Seconds."""

    attempts: int = 3
    """In total; 0 is 1 (Q-20)."""
    concurrency: int = 10
    """Jobs running at once; 0 pauses."""
    backoff: float = 1.0
    """Before the second attempt; doubles with each further one."""
    timeout: float = 1800.0
    """Of one attempt."""
    is_fifo: bool = False
    group_field: str | None = None
    """Field of the data whose value is the group; None makes the whole line one."""

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures (Q-21)."""
        return self.backoff * (1 << min(failures - 1, _MAX_DOUBLINGS))

    def group(self, data: Any) -> Group | None:
        """Which jobs this one must not overtake, if any."""
        if not self.is_fifo:
            return None
        if self.group_field is None:
            return ""
        value = cast("dict[str, Any]", data).get(self.group_field) if isinstance(data, dict) else None
        return value if isinstance(value, str | int | float) else ""


@dataclass(slots=True, eq=False)
class Job:
    """One call to be made."""

    id: str
    line: Line
    seq: int
    """Place in its line."""
    function_id: str
    namespace: str
    data: Any
    traceparent: str | None = None
    baggage: str | None = None
    attempts: int = 0
    """How many have failed."""
    error: str | None = None
    """Of the last attempt."""
    failed_at: int = 0
    """When it died, in Unix seconds."""
    is_dead: bool = False
    group: Group | None = None

    def __lt__(self, other: Job) -> bool:
        return self.seq < other.seq

    def record(self) -> dict[str, Any]:
        """What is stored of it."""
        return {
            "seq": self.seq,
            "queue": self.line.queue.name,
            "is_topic": self.line.queue.is_topic,
            "namespace": self.namespace,
            "function_id": self.function_id,
            "data": self.data,
            "traceparent": self.traceparent,
            "baggage": self.baggage,
            "attempts": self.attempts,
            "error": self.error,
            "failed_at": self.failed_at,
            "is_dead": self.is_dead,
        }


@dataclass(slots=True)
class _Lane:
    """The jobs of one group."""

    busy: int = 0
    """Jobs that stand in front: ready, running, delayed or held. One, but after a change of settings."""
    behind: deque[Job] = field(default_factory=deque[Job])


@dataclass(frozen=True, slots=True)
class Binding:
    """One subscription to a topic."""

    id: str
    line: Line
    settings: Settings
    condition_function_id: str | None


class Line:
    """Jobs in order, and how they are worked off."""

    def __init__(self, queue: Queue, key: tuple[str, str]) -> None:
        self.queue = queue
        self.key = key
        """Namespace and function id of a topic's subscribers."""
        self.settings: Settings = Settings()
        self.is_open = False
        """Whether its jobs may run."""
        self.bindings: dict[str, Binding] = {}
        """Of a topic's function, by trigger id; the last one's settings and condition count (Q-35)."""
        self.depth: int = 0
        """Jobs that wait, are held or run; those in a back-off are not counted (Q-38)."""
        self.running: int = 0
        self._ready: list[Job] = []
        self._lanes: dict[Group, _Lane] = {}
        self._away: dict[str, Job] = {}  # running, delayed or held

    def __repr__(self) -> str:
        return f"<Line of {self.queue.name!r}: {self.depth} jobs, {self.running} running>"

    @property
    def is_forgettable(self) -> bool:
        """Whether it has neither jobs nor anybody who wants some."""
        return not (self.is_open or self.depth or self._away)

    @property
    def condition_function_id(self) -> str | None:
        """What is asked before a job runs."""
        binding = next(reversed(self.bindings.values()), None)
        return None if binding is None else binding.condition_function_id

    def enter(self, job: Job) -> None:
        """Put a job that waits into line."""
        job.line = self
        job.group = self.settings.group(job.data)
        self.depth += 1
        self._line_up(job)

    def _line_up(self, job: Job) -> None:
        if job.group is None:
            heapq.heappush(self._ready, job)
            return
        lane = self._lanes.setdefault(job.group, _Lane())
        behind = lane.behind
        if behind and job < behind[0]:  # a retry
            behind.appendleft(job)
        elif behind and job < behind[-1]:
            insort(behind, job)
        else:
            behind.append(job)
        self._move_up(lane)

    def _move_up(self, lane: _Lane) -> None:
        if lane.behind and not lane.busy:
            lane.busy = 1
            heapq.heappush(self._ready, lane.behind.popleft())

    def take(self) -> Job | None:
        """The next job to run, if one may run now. It is running from now on."""
        if not self.is_open or not self._ready or self.running >= self.settings.concurrency:
            return None
        job = heapq.heappop(self._ready)
        self.running += 1
        self._away[job.id] = job
        return job

    def stop(self) -> None:
        """One of its jobs does not run any more; it goes on standing in front of its group."""
        self.running -= 1

    def come_back(self, job: Job) -> None:
        """It waits again, in front of all that came later."""
        del self._away[job.id]
        if job.group is not None:
            self._lanes[job.group].busy -= 1
        self._line_up(job)

    def leave(self, job: Job) -> None:
        """Take a job that does not run any more out; the next of its group comes to the front."""
        del self._away[job.id]
        self.depth -= 1
        if job.group is None:
            return
        lane = self._lanes[job.group]
        lane.busy -= 1
        self._move_up(lane)
        if not lane.busy:
            del self._lanes[job.group]

    def take_all(self) -> list[Job]:
        """Remove the jobs that wait."""
        waiting = [*self._ready, *(job for lane in self._lanes.values() for job in lane.behind)]
        self._ready, self._lanes = [], {}
        self.depth -= len(waiting)
        return waiting

    def adopt(self, jobs: Iterable[Job]) -> None:
        """Sort these jobs in among those that wait."""
        waiting = [*self.take_all(), *jobs]
        for job in self._away.values():
            job.group = self.settings.group(job.data)
            if job.group is not None:
                self._lanes.setdefault(job.group, _Lane()).busy += 1
        for job in sorted(waiting):
            self.enter(job)

    def configure(self, settings: Settings) -> None:
        """Work the line off differently from now on."""
        was, self.settings = self.settings, settings
        if (was.is_fifo, was.group_field) != (settings.is_fifo, settings.group_field):
            self.adopt(())


class Queue:
    """A named queue or a topic."""

    def __init__(self, name: str, *, is_topic: bool) -> None:
        self.name = name
        self.is_topic = is_topic
        self.lines: dict[tuple[str, str], Line] = {}
        self.dead: dict[str, Job] = {}
        """By id; the last to die is last."""

    @property
    def depth(self) -> int:
        """Jobs in its lines (Q-38)."""
        return sum(line.depth for line in self.lines.values())

    @property
    def consumers(self) -> int:
        """Subscriptions of a topic, concurrency of a named queue (Q-37, Q-38)."""
        if self.is_topic:
            return sum(len(line.bindings) for line in self.lines.values())
        return sum(line.settings.concurrency for line in self.lines.values())

    def newest_dead(self, offset: int, limit: int) -> Iterator[Job]:
        """Dead jobs, newest first (Q-40)."""
        return islice(reversed(self.dead.values()), offset, offset + limit)
