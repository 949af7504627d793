"""The order of jobs, their attempts and what becomes of them, against a model that sorts lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iii_anyio.devengine._queue_core import DuplicateJobError, Jobs, JobsFullError
from iii_anyio.devengine._queue_lines import Job, Line, Settings
from iii_anyio.devengine._storage import Table

WAITING, RUNNING, DELAYED, HELD, DEAD = "waiting", "running", "delayed", "held", "dead"
FUNCTIONS = [("default", "f"), ("orders", "f")]
NOBODY = ("", "")


@dataclass
class Entry:
    """A job as the model knows it."""

    id: str
    seq: int
    queue: str
    function: tuple[str, str]
    """What it calls; of a topic also whose line it stands in."""
    data: Any
    is_topic: bool
    state: str = WAITING
    attempts: int = 0
    due: float = 0.0
    died: int = 0

    @property
    def line(self) -> tuple[str, tuple[str, str] | None]:
        return self.queue, self.function if self.is_topic else None


settings = st.builds(
    Settings,
    attempts=st.sampled_from([2, 3, 1, 0]),
    concurrency=st.sampled_from([2, 3, 1, 0]),
    backoff=st.sampled_from([0.5, 1.0, 0.0]),
    is_fifo=st.sampled_from([True, True, False]),
    group_field=st.sampled_from([None, "g"]),
)
data = st.fixed_dictionaries({"g": st.sampled_from(["a", 1])})
queues = topics = st.just("mail")
triggers = st.sampled_from(["t1", "t2"])
functions = st.sampled_from(FUNCTIONS)
which = st.integers(0, 1000)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = Table("jobs")
        self.jobs = Jobs(self.table)
        self.model: dict[str, Entry] = {}
        self.objects: dict[str, Job] = {}
        self.queues: dict[str, Settings] = {}
        self.bindings: dict[str, tuple[str, tuple[str, str], Settings]] = {}
        self.seqs, self.ids, self.deaths = count(), count(), count()
        self.now = 0.0
        self.define("mail", Settings(is_fifo=True, group_field="g"))

    # -- the model ---------------------------------------------------------------------------------------------------

    def settings_of(self, line: tuple[str, tuple[str, str] | None]) -> Settings | None:
        """None for a line nobody works off."""
        name, function = line
        if function is None:
            return self.queues.get(name)
        bound = [binding[2] for binding in self.bindings.values() if binding[:2] == (name, function)]
        return bound[-1] if bound else None

    def entries(self, *states: str) -> list[Entry]:
        return sorted((entry for entry in self.model.values() if entry.state in states), key=lambda entry: entry.seq)

    def pick(self, number: int, *states: str) -> Entry:
        entries = self.entries(*states)
        return entries[number % len(entries)]

    def expected(self, line: tuple[str, tuple[str, str] | None]) -> Entry | None:
        """The job that may run next."""
        wanted = self.settings_of(line)
        mine = [entry for entry in self.model.values() if entry.line == line]
        if wanted is None or sum(entry.state == RUNNING for entry in mine) >= wanted.concurrency:
            return None
        blocked = {wanted.group(entry.data) for entry in mine if entry.state in (RUNNING, DELAYED, HELD)} - {None}
        free = [entry for entry in mine if entry.state == WAITING and wanted.group(entry.data) not in blocked]
        return min(free, key=lambda entry: entry.seq, default=None)

    def expect_new(self, queue: str, function: tuple[str, str], value: Any, *, is_topic: bool) -> str:
        job_id = f"j{next(self.ids)}"
        self.model[job_id] = Entry(job_id, next(self.seqs), queue, function, value, is_topic)
        return job_id

    def line(self, line: tuple[str, tuple[str, str] | None]) -> Line | None:
        name, function = line
        if function is None:
            return self.jobs.named(name)
        topic = next((queue for queue in self.jobs.topics() if queue.name == name), None)
        return None if topic is None else topic.lines.get(function)

    # -- what happens ------------------------------------------------------------------------------------------------

    @rule(name=queues, wanted=settings)
    def define(self, name: str, wanted: Settings) -> None:
        assert self.jobs.define(name, wanted) is self.jobs.named(name)
        self.queues[name] = wanted

    @rule(name=queues, function=functions, value=data)
    def enqueue(self, name: str, function: tuple[str, str], value: Any) -> None:
        line = self.jobs.named(name)
        assert (line is not None) == (name in self.queues)
        if line is not None:
            job_id = self.expect_new(name, function, value, is_topic=False)
            self.objects[job_id] = self.jobs.add(job_id, line, function, value)
            with pytest.raises(DuplicateJobError):
                self.jobs.add(job_id, line, function, value)

    @rule(topic=topics, value=data)
    def publish(self, topic: str, value: Any) -> None:
        subscribed = {function for name, function, _ in self.bindings.values() if name == topic} or {NOBODY}
        ids: list[str] = []

        def new_ids() -> Iterator[str]:
            for number in self.ids:
                ids.append(f"j{number}")
                yield ids[-1]

        lines = self.jobs.publish(topic, value, new_ids())
        assert {line.key for line in lines} == subscribed
        for job_id, line in zip(ids, lines, strict=True):
            self.model[job_id] = Entry(job_id, next(self.seqs), topic, line.key, value, True)

    @rule(trigger=triggers, topic=topics, function=functions, wanted=settings)
    def bind(self, trigger: str, topic: str, function: tuple[str, str], wanted: Settings) -> None:
        self.bindings.pop(trigger, None)
        self.bindings[trigger] = (topic, function, wanted)
        self.jobs.bind(trigger, topic, function, wanted, None)
        for entry in self.model.values():
            if entry.is_topic and (entry.queue, entry.function) == (topic, NOBODY):
                entry.function = function

    @rule(trigger=triggers)
    def unbind(self, trigger: str) -> None:
        self.bindings.pop(trigger, None)
        self.jobs.unbind(trigger)

    @precondition(lambda self: self.entries(WAITING))
    @rule(number=which)
    def take(self, number: int) -> None:
        line = self.pick(number, WAITING).line
        found, expected = self.line(line), self.expected(line)
        job = None if found is None else found.take()
        assert (job and job.id) == (expected and expected.id)
        if job is not None and expected is not None:
            expected.state = RUNNING
            self.objects[job.id] = job
            assert ((job.namespace, job.function_id), job.data) == (expected.function, expected.data)
            assert job.attempts == expected.attempts

    @precondition(lambda self: self.entries(RUNNING))
    @rule(number=which)
    def done(self, number: int) -> None:
        entry = self.pick(number, RUNNING)
        self.jobs.done(self.objects[entry.id])
        del self.model[entry.id]

    @precondition(lambda self: self.entries(RUNNING))
    @rule(number=which)
    def failed(self, number: int) -> None:
        entry = self.pick(number, RUNNING)
        wanted = self.objects[entry.id].line.settings
        entry.attempts += 1
        entry.died = next(self.deaths)
        delay = self.jobs.failed(self.objects[entry.id], "no", now=self.now, wall_clock=entry.died)
        if entry.attempts >= wanted.attempts:
            assert delay is None
            entry.state = DEAD
        else:
            assert delay is not None
            assert delay == wanted.backoff * 2 ** (entry.attempts - 1)  # Q-21
            entry.state, entry.due = DELAYED, self.now + delay

    @precondition(lambda self: self.entries(RUNNING))
    @rule(number=which)
    def hold(self, number: int) -> None:
        entry = self.pick(number, RUNNING)
        others = [other for other in self.entries(HELD) if other.function == entry.function]
        assert self.jobs.hold(self.objects[entry.id]) is (not others)
        entry.state = HELD

    @rule(function=functions)
    def release(self, function: tuple[str, str]) -> None:
        released = [entry for entry in self.entries(HELD) if entry.function == function]
        lines = self.jobs.release(function)
        assert {line.queue.name for line in lines} == {entry.queue for entry in released}
        for entry in released:
            entry.state = WAITING

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def wake(self, seconds: float) -> None:
        self.now += seconds
        self.jobs.wake(self.now)
        for entry in self.entries(DELAYED):
            if entry.due <= self.now:
                entry.state = WAITING

    @precondition(lambda self: self.entries(DEAD))
    @rule(number=which, all_of_them=st.booleans())
    def redrive(self, number: int, all_of_them: bool) -> None:
        entry = self.pick(number, DEAD)
        queue = self.objects[entry.id].line.queue
        dead = [other for other in self.entries(DEAD) if (other.queue, other.is_topic) == (entry.queue, entry.is_topic)]
        dead.sort(key=lambda other: other.died)
        wanted = dead if all_of_them else [entry]
        redriven = self.jobs.redrive(queue, None if all_of_them else [entry.id, "unknown"])
        assert [job.id for job in redriven] == [other.id for other in wanted]
        for other in wanted:
            other.state, other.attempts, other.seq = WAITING, 0, next(self.seqs)

    @precondition(lambda self: self.entries(DEAD))
    @rule(number=which)
    def discard(self, number: int) -> None:
        entry = self.pick(number, DEAD)
        queue = self.objects[entry.id].line.queue
        assert self.jobs.discard(queue, entry.id)
        assert not self.jobs.discard(queue, entry.id)
        del self.model[entry.id]

    @rule()
    def restart(self) -> None:
        """What the table holds is all there is."""
        self.jobs = Jobs(self.table)
        self.bindings.clear()
        for name, wanted in self.queues.items():
            self.jobs.define(name, wanted)
        for entry in self.entries(RUNNING, DELAYED, HELD):
            entry.state = WAITING
        self.objects = {
            job.id: job for queue in self.jobs.defined() + self.jobs.topics() for job in queue.dead.values()
        }

    # -- what is always so -------------------------------------------------------------------------------------------

    @invariant()
    def the_table_holds_every_job_that_is_not_done(self) -> None:
        stored = {key: self.table.get(key) for key in self.table}
        assert {
            key: (record["queue"], record["is_topic"], (record["namespace"], record["function_id"]))
            for key, record in stored.items()
        } == {entry.id: (entry.queue, entry.is_topic, entry.function) for entry in self.model.values()}
        assert {key: (record["attempts"], record["is_dead"]) for key, record in stored.items()} == {
            entry.id: (entry.attempts, entry.state == DEAD) for entry in self.model.values()
        }

    @invariant()
    def queues_count_what_they_hold(self) -> None:
        """Q-37, Q-38."""
        counted = {(queue.name, queue.is_topic): queue for queue in self.jobs.defined() + self.jobs.topics()}
        for key in {(entry.queue, entry.is_topic) for entry in self.model.values()} | counted.keys():
            mine = [entry for entry in self.model.values() if (entry.queue, entry.is_topic) == key]
            queue = counted[key]
            assert queue.depth == sum(entry.state not in (DELAYED, DEAD) for entry in mine)
            dead = sorted((entry for entry in mine if entry.state == DEAD), key=lambda entry: -entry.died)
            assert [job.id for job in queue.newest_dead(0, 1000)] == [entry.id for entry in dead]
            assert [job.id for job in queue.newest_dead(1, 1)] == [entry.id for entry in dead[1:2]]
            name, is_topic = key
            if is_topic:
                assert queue.consumers == sum(binding[0] == name for binding in self.bindings.values())
                assert queue.consumers or mine, "a topic that nothing needs is forgotten"

    @invariant()
    def the_first_back_off_to_end_is_known(self) -> None:
        assert self.jobs.next_due == min((entry.due for entry in self.entries(DELAYED)), default=None)
        assert set(self.jobs.held()) == {entry.function for entry in self.entries(HELD)}


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = hypothesis_settings(stateful_step_count=100)


# -- beside the model --------------------------------------------------------------------------------------------------


def drain(line: Line) -> list[Any]:
    """Run everything that may run, to its end."""
    order: list[Any] = []
    while (job := line.take()) is not None:
        order.append(job.data)
    return order


def test_more_jobs_than_there_is_room_for_are_refused() -> None:
    jobs = Jobs(Table("jobs"), max_jobs=2)
    line = jobs.define("q", Settings())
    jobs.bind("a", "t", ("default", "f"), Settings(), None)
    jobs.bind("b", "t", ("default", "g"), Settings(), None)
    jobs.add("1", line, ("default", "f"), 1)
    with pytest.raises(JobsFullError):
        jobs.publish("t", 1, iter("23"))
    jobs.add("2", line, ("default", "f"), 1)
    with pytest.raises(JobsFullError):
        jobs.add("3", line, ("default", "f"), 1)


def test_a_topic_can_keep_what_nobody_subscribed_to_for_ever_as_upstream_does() -> None:
    """Q-32."""
    jobs = Jobs(Table("jobs"), keeps_backlog=True)
    jobs.publish("t", "lost", iter("1"))
    line = jobs.bind("a", "t", ("default", "f"), Settings(), None)
    jobs.publish("t", "seen", iter("2"))
    assert drain(line) == ["seen"]
    assert line.queue.depth == 2


def test_what_nobody_subscribed_to_comes_before_what_is_published_later() -> None:
    """Q-32, the other way."""
    jobs = Jobs(Table("jobs"))
    fifo = Settings(is_fifo=True, concurrency=1)
    first = jobs.bind("a", "t", ("default", "f"), fifo, None)
    jobs.publish("t", 1, iter("1"))
    jobs.unbind("a")
    jobs.publish("t", 2, iter("2"))
    assert jobs.bind("a", "t", ("default", "f"), fifo, None) is first
    jobs.publish("t", 3, iter("3"))
    order: list[Any] = []
    while (job := first.take()) is not None:
        order.append(job.data)
        jobs.done(job)
    assert order == [1, 2, 3]


def test_a_line_that_becomes_fifo_lets_nothing_pass_what_it_had_begun() -> None:
    jobs = Jobs(Table("jobs"))
    line = jobs.define("q", Settings())
    first, second, third = (jobs.add(str(n), line, ("default", "f"), n) for n in (1, 2, 3))
    assert (line.take(), line.take()) == (first, second)
    jobs.define("q", Settings(is_fifo=True))
    assert jobs.failed(second, "no", now=0.0, wall_clock=0) == 1.0
    jobs.done(first)
    assert line.take() is None
    jobs.wake(1.0)
    assert line.take() is second
    jobs.done(second)
    assert line.take() is third
    jobs.define("q", Settings())
    fourth = jobs.add("4", line, ("default", "f"), 4)
    assert line.take() is fourth


def test_two_retries_of_one_group_come_back_in_order_and_one_at_a_time() -> None:
    jobs = Jobs(Table("jobs"))
    line = jobs.define("q", Settings())
    first, second = (jobs.add(str(n), line, ("default", "f"), n) for n in (1, 2))
    assert (line.take(), line.take()) == (first, second)
    jobs.define("q", Settings(is_fifo=True))
    jobs.failed(first, "no", now=0.0, wall_clock=0)
    jobs.failed(second, "no", now=0.5, wall_clock=0)
    jobs.wake(1.0)
    assert line.take() is None
    jobs.wake(2.0)
    assert (line.take(), line.take()) == (first, None)


def test_a_redriven_message_does_not_pass_what_was_published_before() -> None:
    """Q-41."""
    jobs = Jobs(Table("jobs"))
    fifo = Settings(attempts=1, is_fifo=True)
    line = jobs.bind("a", "t", ("default", "f"), fifo, None)
    jobs.publish("t", "dead", iter("1"))
    job = line.take()
    assert job is not None
    assert jobs.failed(job, "no", now=0.0, wall_clock=0) is None
    jobs.unbind("a")
    jobs.publish("t", "later", iter("2"))
    assert jobs.redrive(line.queue) == [job]
    again = jobs.bind("a", "t", ("default", "f"), fifo, None)
    order: list[Any] = []
    while (job := again.take()) is not None:
        order.append(job.data)
        jobs.done(job)
    assert order == ["later", "dead"]


def test_topics_that_nothing_needs_are_forgotten() -> None:
    jobs = Jobs(Table("jobs"))
    line = jobs.bind("a", "t", ("default", "f"), Settings(attempts=1), None)
    jobs.publish("t", 1, iter("1"))
    job = line.take()
    assert job is not None
    jobs.unbind("a")
    jobs.failed(job, "no", now=0.0, wall_clock=0)
    (queue,) = jobs.topics()
    assert queue.lines == {}
    assert jobs.discard(queue, "1")
    assert jobs.topics() == []


def test_back_off_of_very_many_attempts_is_still_a_number() -> None:
    """Q-21."""
    assert Settings(backoff=1.0).delay(5000) > 1e15


def test_a_queue_that_is_not_defined_any_more_keeps_its_jobs() -> None:
    table = Table("jobs")
    before = Jobs(table)
    before.add("1", before.define("old", Settings()), ("default", "f"), {"n": 1})
    jobs = Jobs(table)
    assert jobs.named("old") is None
    assert [(queue.name, queue.depth) for queue in jobs.undefined()] == [("old", 1)]
    assert drain(jobs.define("old", Settings())) == [{"n": 1}]
