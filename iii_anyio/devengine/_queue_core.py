"""Jobs of named queues and durable topics: order, attempts, back-off, dead letters. Without I/O, tasks or clock.

Below: ``_queue_lines`` has their order, a ``Table`` keeps each job until it is done. Above: ``builtins/_queue_runner``
runs what ``take`` gives and tells how it went.

A *queue* is what users name: a named queue, or a topic. Its jobs stand in *lines*: a named queue has one; a topic has
one for each (namespace, function) that ever subscribed (Q-26), and its backlog for messages that found no subscriber.

One job, from ``add`` until it is done:

    WAITING ──take──► RUNNING ──done──► gone
      ▲                │   │
      ├─────wake───────┤   └──failed, no attempt left──► DEAD ──redrive──► WAITING, ──discard──► gone
      │                ▼
      └──────── DELAYED or HELD

    DELAYED   failed, until its back-off is over (Q-21)
    HELD      its function does not exist; no attempt is spent (Q-23, standalone)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from ._queue_lines import Binding, Job, Line, Queue, Settings

if TYPE_CHECKING:
    from ._storage import Table

__all__ = ("DuplicateJobError", "Jobs", "JobsFullError")

MAX_JOBS: Final = 1_000_000

_BACKLOG: Final = ("", "")
"""Where a named queue has its only line, and a topic what came while nobody subscribed."""


class DuplicateJobError(ValueError):
    """A job of that id is not done yet."""


class JobsFullError(ValueError):
    """There is no room for another job."""


class Jobs:
    """Every job of one engine.

    Args:
        table: Keeps them; those that are in it already are resumed. What was running or delayed waits again.
        keeps_backlog: Never deliver what was published without subscriber, as upstream (Q-32).
        max_jobs: One more is refused.
    """

    def __init__(self, table: Table, *, keeps_backlog: bool = False, max_jobs: int = MAX_JOBS) -> None:
        self._table = table
        self._keeps_backlog = keeps_backlog
        self._max_jobs = max_jobs
        self._named: dict[str, Queue] = {}
        self._topics: dict[str, Queue] = {}
        self._bindings: dict[str, Binding] = {}
        self._delayed: list[tuple[float, Job]] = []
        self._held: dict[tuple[str, str], list[Job]] = {}
        self._load()

    def __repr__(self) -> str:
        return f"<Jobs {len(self._table)}>"

    def _load(self) -> None:
        records: list[tuple[int, str]] = sorted((self._table.get(key)["seq"], key) for key in self._table)
        self._seqs = count(records[-1][0] + 1 if records else 0)
        dead: list[Job] = []
        for seq, key in records:
            record = self._table.get(key)
            function = (record["namespace"], record["function_id"])
            line = self._line(record["queue"], function if record["is_topic"] else None)
            job = Job(
                key, line, seq, record["function_id"], record["namespace"], record["data"], record["traceparent"],
                record["baggage"], record["attempts"], record["error"], record["failed_at"], record["is_dead"],
            )  # fmt: skip
            if job.is_dead:
                dead.append(job)
            else:
                line.enter(job)
        for job in sorted(dead, key=lambda job: job.failed_at):
            job.line.queue.dead[job.id] = job
            self._forget(job.line)

    def _line(self, name: str, function: tuple[str, str] | None) -> Line:
        """The line of a named queue (``function`` is None), or of a topic and function; a new one is closed."""
        queues = self._named if function is None else self._topics
        queue = queues.get(name)
        if queue is None:
            queue = queues[name] = Queue(name, is_topic=function is not None)
        key = function if function is not None else _BACKLOG
        line = queue.lines.get(key)
        if line is None:
            line = queue.lines[key] = Line(queue, key)
        return line

    def _forget(self, line: Line) -> None:
        """Drop a topic's line that nobody needs, and with its last one the topic."""
        queue = line.queue
        if not queue.is_topic:
            return
        if line.is_forgettable and queue.lines.get(line.key) is line:
            del queue.lines[line.key]
        if not queue.lines and not queue.dead:
            self._topics.pop(queue.name, None)

    # -- queues --------------------------------------------------------------------------------------------------

    def define(self, name: str, settings: Settings) -> Line:
        """Have a named queue of these settings."""
        line = self._line(name, None)
        line.is_open = True
        line.configure(settings)
        return line

    def named(self, name: str) -> Line | None:
        """The line of a defined queue."""
        queue = self._named.get(name)
        line = None if queue is None else queue.lines[_BACKLOG]
        return line if line is not None and line.is_open else None

    def queue(self, name: str) -> Queue | None:
        """What functions mean by a name: the defined queue, else the topic (§4.6)."""
        line = self.named(name)
        return line.queue if line is not None else self._topics.get(name)

    def defined(self) -> list[Queue]:
        """Every defined queue."""
        return [queue for queue in self._named.values() if queue.lines[_BACKLOG].is_open]

    def undefined(self) -> list[Queue]:
        """Named queues that are not defined but have jobs, of an earlier run."""
        return [queue for queue in self._named.values() if not queue.lines[_BACKLOG].is_open]

    def topics(self) -> list[Queue]:
        """Every topic that has subscriptions, jobs or dead jobs."""
        return list(self._topics.values())

    # -- subscriptions -------------------------------------------------------------------------------------------

    def bind(
        self, trigger_id: str, topic: str, function: tuple[str, str], settings: Settings, condition: str | None
    ) -> Line:
        """Subscribe a (namespace, function id). A known id is replaced (T-9).

        Returns:
            Its line, with what waited there (Q-33) and, if nobody else subscribes, what nobody got so far.
        """
        self.unbind(trigger_id)
        line = self._line(topic, function)
        binding = self._bindings[trigger_id] = line.bindings[trigger_id] = Binding(
            trigger_id, line, settings, condition
        )
        line.configure(binding.settings)
        line.is_open = True
        backlog = line.queue.lines.get(_BACKLOG)
        if backlog is not None and not self._keeps_backlog:
            del line.queue.lines[_BACKLOG]
            unclaimed = backlog.take_all()
            for job in unclaimed:
                job.namespace, job.function_id = function
            line.adopt(unclaimed)
            for job in unclaimed:
                self._store(job)
        return line

    def unbind(self, trigger_id: str) -> Line | None:
        """End a subscription; the jobs of its function wait for the next one (Q-33). An unknown id is ignored.

        Returns:
            The line, when others subscribe that function.
        """
        binding = self._bindings.pop(trigger_id, None)
        if binding is None:
            return None
        line = binding.line
        del line.bindings[trigger_id]
        if line.bindings:
            line.configure(next(reversed(line.bindings.values())).settings)
            return line
        line.is_open = False
        self._forget(line)
        return None

    # -- jobs ----------------------------------------------------------------------------------------------------

    def add(
        self, job_id: str, line: Line, function: tuple[str, str], data: Any, traceparent: str | None = None,
        baggage: str | None = None,
    ) -> Job:  # fmt: skip
        """Put a job into line.

        Raises:
            DuplicateJobError: The id is taken.
            JobsFullError: There are too many.
        """
        if job_id in self._table:
            raise DuplicateJobError(f"job {job_id} is not done yet; give each job an id of its own")
        if len(self._table) >= self._max_jobs:
            raise JobsFullError(f"{len(self._table)} jobs are not done yet, the engine keeps no more")
        namespace, function_id = function
        job = Job(job_id, line, next(self._seqs), function_id, namespace, data, traceparent, baggage)
        line.enter(job)
        self._store(job)
        return job

    def publish(
        self, topic: str, data: Any, ids: Iterator[str], traceparent: str | None = None, baggage: str | None = None
    ) -> list[Line]:
        """Put a message into the line of every function that subscribes, or into the backlog (Q-26, Q-32).

        Returns:
            The lines.

        Raises:
            JobsFullError: There is no room for all of them, and none was added.
        """
        queue = self._topics.get(topic)
        functions = [] if queue is None else [key for key, line in queue.lines.items() if line.bindings]
        functions = functions or [_BACKLOG]
        if len(self._table) + len(functions) > self._max_jobs:
            raise JobsFullError(f"{len(self._table)} jobs are not done yet, the engine keeps no more")
        lines = [self._line(topic, function) for function in functions]
        for line in lines:
            self.add(next(ids), line, line.key, data, traceparent, baggage)
        return lines

    def done(self, job: Job) -> None:
        """It has run."""
        job.line.stop()
        job.line.leave(job)
        self._table.delete(job.id)
        self._forget(job.line)

    def failed(self, job: Job, error: str, *, now: float, wall_clock: int) -> float | None:
        """It has failed.

        Returns:
            Seconds until its next attempt; None when it is dead.
        """
        line = job.line
        line.stop()
        job.attempts += 1
        job.error = error
        if job.attempts >= line.settings.attempts:
            line.leave(job)
            job.is_dead, job.failed_at = True, wall_clock
            line.queue.dead[job.id] = job
            self._forget(line)
            delay = None
        else:
            delay = line.settings.delay(job.attempts)
            line.depth -= 1
            heapq.heappush(self._delayed, (now + delay, job))
        self._store(job)
        return delay

    def hold(self, job: Job) -> bool:
        """Put a running job aside, for its function does not exist; no attempt is spent.

        Returns:
            Whether it is the first one of that function.
        """
        job.line.stop()
        held = self._held.setdefault((job.namespace, job.function_id), [])
        held.append(job)
        return len(held) == 1

    def held(self) -> list[tuple[str, str]]:
        """Every (namespace, function id) that jobs are held for."""
        return list(self._held)

    def release(self, function: tuple[str, str]) -> list[Line]:
        """Let the jobs held for this function run.

        Returns:
            Their lines.
        """
        held = self._held.pop(function, [])
        for job in held:
            job.line.come_back(job)
        return _unique(job.line for job in held)

    @property
    def next_due(self) -> float | None:
        """When the first back-off ends."""
        return self._delayed[0][0] if self._delayed else None

    def wake(self, now: float) -> list[Line]:
        """Let those run whose back-off is over.

        Returns:
            Their lines.
        """
        lines: list[Line] = []
        while self._delayed and self._delayed[0][0] <= now:
            job = heapq.heappop(self._delayed)[1]
            job.line.depth += 1
            job.line.come_back(job)
            lines.append(job.line)
        return _unique(lines)

    # -- dead letters --------------------------------------------------------------------------------------------

    def redrive(self, queue: Queue, ids: Iterable[str] | None = None) -> list[Job]:
        """Give dead jobs, all by default, a fresh budget of attempts, behind those that wait (Q-41)."""
        redriven: list[Job] = []
        for job_id in list(queue.dead) if ids is None else ids:
            job = queue.dead.pop(job_id, None)
            if job is None:
                continue
            job.is_dead, job.attempts, job.error, job.failed_at = False, 0, None, 0
            job.seq = next(self._seqs)
            if queue.is_topic:  # its line may have been forgotten
                job.line = self._line(queue.name, (job.namespace, job.function_id))
            job.line.enter(job)
            self._store(job)
            redriven.append(job)
        return redriven

    def discard(self, queue: Queue, job_id: str) -> bool:
        """Forget a dead job."""
        job = queue.dead.pop(job_id, None)
        if job is None:
            return False
        self._table.delete(job_id)
        self._forget(job.line)
        return True

    def _store(self, job: Job) -> None:
        self._table.put(job.id, job.record())


def _unique(lines: Iterable[Line]) -> list[Line]:
    return list(dict.fromkeys(lines))
