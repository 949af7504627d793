"""A session against the router of the development engine, over links that come, go and lose texts at any moment.

The machine draws what the program, the network, other workers and the engine do. From the texts on the wire alone it
knows what must have become of each call and registration, and compares after every step.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from iii_anyio._protocol.calls import Call, new_id
from iii_anyio._protocol.codec import encode
from iii_anyio._protocol.messages import (
    ABSENT,
    InvocationResult,
    InvokeFunction,
    Message,
    RegisterFunction,
    RegisterTrigger,
    RegisterTriggerType,
    TriggerRegistrationResult,
    UnregisterFunction,
    UnregisterTrigger,
    UnregisterTriggerType,
)
from iii_anyio._protocol.registry import Registration
from iii_anyio._protocol.worker_session import MAX_CONFLICTS, Phase, WorkerSession
from iii_anyio.errors import InvocationError, OfflineQueueFullError, RegistrationRejectedError
from tests.devengine.peers import Hub, Peer
from tests.protocol.link import REGISTER, FakeLink, RouterEnd

NAME: Final = "model"
MAX_QUEUED: Final = 4
FUNCTIONS: Final = ["fn::a", "fn::b", "fn::c"]
TYPES: Final = ["own:a", "own:b"]
REGISTER_CALL: Final = ("invokefunction", REGISTER)
KINDS: Final = ("registertriggertype", "registerfunction", "registertrigger")
"""In the order of the replay (P-13)."""

Mark = tuple[str, Any]
"""What a written text is about: its type, and the number of the registration or the id it names."""


def mark_of(message: dict[str, Any]) -> Mark:
    kind: str = message["type"]
    match kind:
        case "invokefunction":
            return kind, message["function_id"] if message["function_id"] == REGISTER else message["data"]["n"]
        case "invocationresult":
            return kind, message["invocation_id"]
        case "reattach":
            return kind, (message["previous_worker_id"], message["reattach_token"])
        case "registertrigger":
            return kind, message["metadata"]
        case "registertriggertype" | "registerfunction":
            return kind, message["description"]
        case _:
            return kind, message["id"]


class Entry:
    """A registration as the model knows it."""

    def __init__(self, kind: str, number: int, id: str, type_id: str = "") -> None:
        self.kind = kind
        self.id = id
        self.mark: Mark = (kind, f"#{number}")
        register: Message
        withdraw: Message
        match kind:
            case "registertriggertype":
                register, withdraw = RegisterTriggerType(id, f"#{number}"), UnregisterTriggerType(id)
            case "registerfunction":
                register, withdraw = RegisterFunction(id, f"#{number}"), UnregisterFunction(id)
            case _:
                register = RegisterTrigger(id, type_id, "fn::a", None, f"#{number}")
                withdraw = UnregisterTrigger(id, type_id)
        self.registration = Registration(id, encode(register), encode(withdraw))
        self.link = 0
        self.is_refused = False


class Made:
    """A call as the model knows it."""

    def __init__(self, call: Call, order: int) -> None:
        self.call = call
        self.order = order
        self.woken = 0
        self.is_written = False
        self.outcome: object = None
        """What it must have come to; None while it must not have ended."""
        call.wake = self.wake

    def wake(self) -> None:
        self.woken += 1

    def check(self) -> None:
        assert self.call.is_done == (self.outcome is not None)
        if self.outcome is None or self.outcome == "abandoned":
            assert self.woken == 0
            return
        assert self.woken == 1
        error = self.call.error
        if error is None:
            seen: object = ("result", self.call.result)
        else:
            assert isinstance(error, InvocationError | RegistrationRejectedError)
            seen = error.code if isinstance(error, InvocationError) else "refused"
        assert seen == self.outcome


class SessionModel(RuleBasedStateMachine):
    # -- the world -----------------------------------------------------------------------------------------------

    @initialize(taken=st.sets(st.sampled_from(FUNCTIONS), max_size=2))
    def begin(self, taken: set[str]) -> None:
        self.now = 0.0
        self.numbers = 0
        self.ids = itertools.count(1)
        self.link: FakeLink | None = None
        self.start_engine(taken)
        self.start_worker()

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def start_engine(self, taken: set[str]) -> None:
        self.hub = Hub()
        self.hub.numbers = self.ids  # an engine does not give the ids of the one before it
        self.ghosts: list[FakeLink] = []
        """Links that we have lost and the engine has not."""
        self.rival: Peer | None = None
        self.peer = self.hub.join("peer")
        self.peer.trigger_type("peer:type")
        for function_id in ("peer::f", "engine::queue::enqueue", *sorted(taken)):
            self.peer.function(function_id)
        self.peer_jobs: list[dict[str, Any]] = []

    def start_worker(self) -> None:
        identity = {"name": NAME, "pid": 1, "runtime": "python", "namespace": None}
        self.worker = WorkerSession(identity, max_queued=MAX_QUEUED)
        self.registry: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self.mailbox: deque[Callable[[], None]] = deque()
        """Announcements and withdrawals of other threads, which the loop has not heard of yet."""
        self.calls: dict[int, Made] = {}
        self.refused_at_once: list[Made] = []
        self.last_written_call = 0
        self.identity: tuple[str, str] | None = None
        self.is_refused = False
        self.may_have_ghost = False
        self.conflicts = 0
        self.jobs: list[tuple[int, dict[str, Any]]] = []
        self.forget_link()

    def forget_link(self) -> None:
        self.link = None
        self.is_joined = False
        self.is_greeted = False
        self.is_turned_away = False
        """The engine holds our name, maybe for a link of ours that it does not know to be lost."""
        self.expected: list[Mark] = []
        """Everything but calls and repeated register calls that must be written on this link, in this order."""
        self.position = 0
        """How much of it has been written."""
        self.log: list[Mark] = []
        self.register_calls: dict[str, int] = {}
        """Register calls without an answer, with their places in ``log``."""
        self.confirmed = 0
        """Place of the last one that was answered."""

    @property
    def is_open(self) -> bool:
        """Whether the session may say something that is not a call."""
        return self.link is not None and not self.is_refused

    def unended(self) -> Iterator[Made]:
        return (made for made in self.calls.values() if made.outcome is None)

    def entries(self) -> list[Entry]:
        return [entry for kind in KINDS for entry in self.registry[kind].values()]

    # -- what went over the wire ---------------------------------------------------------------------------------

    def check_written(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            mark = mark_of(message)
            self.log.append(mark)
            if message["type"] != "invokefunction":
                self.check_expected(mark)
            elif mark == REGISTER_CALL:
                assert not self.register_calls, "a register call while another has no answer"
                if REGISTER_CALL not in self.log[:-1]:
                    self.check_expected(mark)
                self.register_calls[message["invocation_id"]] = len(self.log)
            else:
                self.check_call_written(mark[1])

    def check_expected(self, mark: Mark) -> None:
        assert self.expected[self.position : self.position + 1] == [mark]
        self.position += 1

    def check_call_written(self, number: int) -> None:
        assert self.is_joined, "a call before the register call was answered"
        made = self.calls[number]
        assert made.outcome is None, "a call that has ended"
        assert not made.is_written, "a call for the second time"
        assert number > self.last_written_call, "calls out of order"
        self.last_written_call = number
        made.is_written = True
        if made.call.invocation_id is None:
            made.outcome = ("result", None)

    def note_delivered(self, link: FakeLink, message: dict[str, Any]) -> None:
        match message["type"]:
            case "workerregistered":
                self.identity = (message["worker_id"], message["reattach_token"])
                self.is_greeted = True
            case "registrationrejected" if message["code"] == "FUNCTION_NAMESPACE_CONFLICT":
                self.note_refusal("registerfunction", message["function_id"])
            case "registrationrejected" if self.may_have_ghost and self.conflicts < MAX_CONFLICTS:
                self.conflicts += 1
                self.is_turned_away = True
                self.register_calls.clear()
            case "registrationrejected":
                self.is_refused = True
                for made in self.unended():
                    made.outcome = "refused"
            case "triggerregistrationresult":
                self.note_refusal("registertrigger", message["id"])
            case "invocationresult":
                self.note_answer(message)
            case kind:
                assert kind in {"invokefunction", "registertrigger", "unregistertrigger"}
                if kind != "unregistertrigger":
                    self.jobs.append((link.number, message))

    def note_refusal(self, kind: str, id: str) -> None:
        if (entry := self.registry[kind].get(id)) is not None:
            entry.is_refused = True

    def note_answer(self, message: dict[str, Any]) -> None:
        place = self.register_calls.pop(message["invocation_id"], None)
        if place is not None:
            assert "error" not in message
            self.is_joined = True
            self.confirmed = place
            self.may_have_ghost, self.conflicts = False, 0
            return
        for made in self.unended():
            if made.call.invocation_id == message["invocation_id"]:
                error = message.get("error")
                made.outcome = error["code"] if error else ("result", message.get("result"))

    # -- links ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.link is None and not self.is_refused)
    @rule()
    def connect(self) -> None:
        self.forget_link()
        self.link = FakeLink(self.worker, RouterEnd(self.hub.router), self.now)
        if self.identity is not None:
            self.expected.append(("reattach", self.identity))
        for entry in self.entries():
            self.announced(entry)
        self.expected.append(REGISTER_CALL)

    @precondition(lambda self: self.link is None and not self.is_refused)
    @rule()
    def join(self) -> None:
        """The common case; most of what can go wrong needs it first."""
        while self.ghosts:
            self.engine_notices_a_lost_link()
        self.connect()
        self.exchange()

    @precondition(lambda self: self.link is not None)
    @rule()
    def write(self) -> None:
        assert self.link is not None
        self.check_written(self.link.write())

    @precondition(lambda self: self.link is not None)
    @rule(count=st.integers(1, 6))
    def carry_to_engine(self, count: int) -> None:
        assert self.link is not None
        self.link.carry_to_engine(count)

    @precondition(lambda self: self.link is not None)
    @rule(count=st.integers(1, 6))
    def carry_to_worker(self, count: int) -> None:
        assert self.link is not None
        seen = len(self.link.delivered)
        self.link.carry_to_worker(count)
        for message in self.link.delivered[seen:]:
            self.note_delivered(self.link, message)

    @precondition(lambda self: self.link is not None)
    @rule(stray=st.integers(0, 6), is_noticed=st.booleans())
    def lose_link(self, stray: int, is_noticed: bool) -> None:
        link = self.link
        assert link is not None
        unwritten = [mark for mark in self.expected[self.position :] if mark != REGISTER_CALL]
        assert link.drop(stray) == len(unwritten)
        for made in self.unended():
            if made.is_written:
                made.outcome = "CONNECTION_LOST"
        if not (self.is_greeted or self.is_joined or self.is_refused):
            self.may_have_ghost = True
        self.forget_link()
        if is_noticed:
            link.engine.ended()
        else:
            self.ghosts.append(link)

    @precondition(lambda self: self.ghosts)
    @rule()
    def engine_notices_a_lost_link(self) -> None:
        self.ghosts.pop(0).engine.ended()

    @rule()
    def everything_arrives(self) -> None:
        """After that, with a link and no refusal, everything is as it should be."""
        while self.mailbox:
            self.mailbox.popleft()()
        if self.link is None and not self.is_refused:
            self.connect()
        self.exchange()
        self.worker.confirm(self.now)
        self.exchange()
        if not (self.is_refused or self.is_turned_away):
            assert self.worker.is_ready
            assert self.position == len(self.expected)
            assert all(made.is_written for made in self.unended())

    def exchange(self) -> None:
        while (link := self.link) is not None:
            self.write()
            link.carry_to_engine()
            self.carry_to_worker(1_000_000)
            if not self.worker.has_outgoing and not link.to_engine and not link.to_worker:
                return

    # -- the engine and the other workers ------------------------------------------------------------------------

    @precondition(lambda self: self.link is None)
    @rule(taken=st.sets(st.sampled_from(FUNCTIONS), max_size=2))
    def restart_engine(self, taken: set[str]) -> None:
        self.start_engine(taken)

    @precondition(
        lambda self: not self.is_refused and self.link is None and not self.ghosts and not self.may_have_ghost
    )
    @rule()
    def rival_takes_our_name(self) -> None:
        if self.rival is None:
            self.rival = self.hub.join(NAME)
        self.connect()
        self.exchange()
        assert self.is_refused

    @precondition(lambda self: self.rival is not None)
    @rule()
    def rival_leaves(self) -> None:
        assert self.rival is not None
        self.rival.leave()
        self.rival = None

    @precondition(lambda self: self.is_refused)
    @rule()
    def restart_worker(self) -> None:
        if self.link is not None:
            self.lose_link(0, True)
        if self.rival is not None:
            self.rival_leaves()
        self.start_worker()

    @rule(index=st.integers(0, 9), is_success=st.booleans())
    def peer_answers(self, index: int, is_success: bool) -> None:
        jobs = self.peer_jobs
        jobs += [message for message in self.peer.take() if message["type"] in {"invokefunction", "registertrigger"}]
        if not jobs:
            return
        job = jobs.pop(index % len(jobs))
        error = {"code": "broken", "message": "no"}
        if job["type"] == "invokefunction":
            outcome = {"result": {"seen": job["data"]}} if is_success else {"error": error}
            self.peer.answer(job, **outcome)
        else:
            self.peer.accept(job["id"], **({} if is_success else {"error": error}))

    @precondition(lambda self: self.registry["registerfunction"])
    @rule(index=st.integers(0, 9))
    def peer_calls(self, index: int) -> None:
        ids = list(self.registry["registerfunction"])
        self.peer.invoke(ids[index % len(ids)], {"n": self.number()})

    # -- what the program does -----------------------------------------------------------------------------------

    def on_loop(self, function: Callable[[], None], is_foreign: bool) -> None:
        """Run it now, or later when it comes from another thread."""
        if is_foreign:
            self.mailbox.append(function)
        else:
            function()

    @precondition(lambda self: self.mailbox)
    @rule()
    def loop_hears_of_another_thread(self) -> None:
        self.mailbox.popleft()()

    def announced(self, entry: Entry) -> None:
        assert self.link is not None
        entry.link = self.link.number
        entry.is_refused = False
        self.expected.append(entry.mark)

    def register(self, entry: Entry, is_foreign: bool) -> None:
        kind = self.registry[entry.kind]
        kind[entry.id] = entry
        match entry.kind:
            case "registertriggertype":
                self.worker.registry.trigger_types[entry.id] = entry.registration
            case "registerfunction":
                self.worker.registry.add_function(entry.registration)
            case _:
                self.worker.registry.triggers[entry.id] = entry.registration

        def announce() -> None:
            self.worker.announce(entry.registration)
            is_new = self.link is not None and entry.link != self.link.number
            if self.is_open and is_new and kind.get(entry.id) is entry:
                self.announced(entry)

        self.on_loop(announce, is_foreign)

    @rule(id=st.sampled_from(FUNCTIONS), is_foreign=st.booleans())
    def register_function(self, id: str, is_foreign: bool) -> None:
        if id in self.registry["registerfunction"]:
            return
        self.register(Entry("registerfunction", self.number(), id), is_foreign)

    @rule(id=st.sampled_from(TYPES), is_foreign=st.booleans())
    def register_trigger_type(self, id: str, is_foreign: bool) -> None:
        self.register(Entry("registertriggertype", self.number(), id), is_foreign)

    @rule(type_id=st.sampled_from([*TYPES, "peer:type", "nobody's"]), is_foreign=st.booleans())
    def register_trigger(self, type_id: str, is_foreign: bool) -> None:
        number = self.number()
        self.register(Entry("registertrigger", number, f"trigger-{number}", type_id), is_foreign)

    @precondition(lambda self: self.entries())
    @rule(index=st.integers(0, 9), is_foreign=st.booleans())
    def withdraw(self, index: int, is_foreign: bool) -> None:
        entries = self.entries()
        entry = entries[index % len(entries)]
        kind = self.registry[entry.kind]
        del kind[entry.id]
        registry = self.worker.registry
        for registrations in (registry.trigger_types, registry.functions, registry.triggers):
            if registrations.get(entry.id) is entry.registration:
                del registrations[entry.id]

        def withdraw() -> None:
            self.worker.withdraw(entry.registration)
            successor = kind.get(entry.id)
            is_replaced = self.link is not None and successor is not None and successor.link == self.link.number
            if self.is_open and not is_replaced:
                self.expected.append((f"un{entry.kind}", entry.id))

        self.on_loop(withdraw, is_foreign)

    @rule(
        calls=st.lists(
            st.tuples(
                st.sampled_from(["plain", "void", "enqueue"]),
                st.sampled_from(["peer::f", "fn::a", "missing", "engine::workers::list"]),
                st.sampled_from([None, 0.0, 1.0, 5.0]),
            ),
            min_size=1,
            max_size=3,
        ),
        is_written=st.booleans(),
        pause=st.sampled_from([0.0, 1.0]),
    )
    def make_calls(self, calls: list[tuple[str, str, float | None]], is_written: bool, pause: float) -> None:
        self.time_passes(pause)
        for call in calls:
            self.submit(*call)
        if is_written and self.link is not None:
            self.write()

    def submit(self, kind: str, callee: str, timeout: float | None) -> None:
        number = self.number()
        invocation_id = None if kind == "void" else new_id()
        action = {"plain": None, "void": {"type": "void"}, "enqueue": {"type": "enqueue", "queue": "jobs"}}[kind]
        text = encode(InvokeFunction(callee, {"n": number}, invocation_id, action=action))
        made = Made(Call(callee, invocation_id, text, timeout), number)
        is_full = not self.is_joined and sum(not other.is_written for other in self.unended()) >= MAX_QUEUED
        try:
            self.worker.submit(made.call, self.now)
        except RegistrationRejectedError:
            assert self.is_refused
            self.refused_at_once.append(made)
        except OfflineQueueFullError:
            assert is_full
            self.refused_at_once.append(made)
        else:
            assert not self.is_refused
            assert not is_full
            self.calls[number] = made

    @precondition(lambda self: any(self.unended()))
    @rule(index=st.integers(0, 9))
    def caller_leaves(self, index: int) -> None:
        calls = list(self.unended())
        made = calls[index % len(calls)]
        self.worker.calls.abandon(made.call)
        made.outcome = "abandoned"

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        overdue = [made for made in self.unended() if made.call.deadline is not None and made.call.deadline <= self.now]
        overdue.sort(key=lambda made: (made.call.deadline, made.order))
        for made in overdue:
            made.outcome = "TIMEOUT"
        assert self.worker.calls.expire(self.now) == [made.call for made in overdue]

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 9), is_success=st.booleans())
    def answer(self, index: int, is_success: bool) -> None:
        number, job = self.jobs.pop(index % len(self.jobs))
        error: Any = ABSENT if is_success else {"code": "broken", "message": "no"}
        answer: Message
        if job["type"] == "invokefunction":
            answer = InvocationResult(job["invocation_id"], job["function_id"], None, error)
            mark = ("invocationresult", job["invocation_id"])
        else:
            answer = TriggerRegistrationResult(job["id"], job["trigger_type"], job["function_id"], error)
            mark = ("triggerregistrationresult", job["id"])
        is_deliverable = self.is_open and self.link is not None and self.link.number == number
        assert self.worker.answer(number, encode(answer)) == is_deliverable
        if is_deliverable:
            self.expected.append(mark)

    @rule()
    def somebody_wants_to_be_sure(self) -> None:
        self.worker.confirm(self.now)

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def every_call_has_come_to_what_it_must(self) -> None:
        for made in self.calls.values():
            made.check()
        for made in self.refused_at_once:
            assert (made.call.is_done, made.woken) == (False, 0)

    @invariant()
    def no_call_is_kept_or_forgotten(self) -> None:
        awaited = [made for made in self.unended() if made.call.invocation_id is not None]
        assert 0 <= len(self.worker.calls) - len(awaited) <= 1  # our register call
        if self.link is None:
            assert not any(made.is_written for made in awaited)
            assert len(self.worker.calls) == len(awaited)
            assert self.worker.calls.queued == sum(1 for _ in self.unended())
            assert not self.worker.has_outgoing
        deadlines = [made.call.deadline for made in self.unended() if made.call.deadline is not None]
        assert self.worker.calls.next_deadline() == min(deadlines, default=None)

    @invariant()
    def the_session_is_where_the_wire_says(self) -> None:
        if self.is_refused:
            phase = Phase.REFUSED
        elif self.link is None:
            phase = Phase.OFFLINE
        else:
            phase = Phase.JOINED if self.is_joined else Phase.JOINING
        assert self.worker.phase is phase
        assert self.worker.worker_id == (None if self.identity is None else self.identity[0])
        assert (self.worker.fatal is not None) == self.is_refused
        assert self.worker.has_outgoing or self.worker.outgoing_bytes == 0

    @invariant()
    def refusals_are_those_of_this_link(self) -> None:
        if self.link is not None:
            refused = [entry.registration.refusal is not None for entry in self.entries() if entry.link]
            assert refused == [entry.is_refused for entry in self.entries() if entry.link]

    @invariant()
    def ready_means_that_the_engine_has_answered_after_every_registration(self) -> None:
        wanted = [mark for mark in self.expected if mark[0] in KINDS]
        seen = [mark for mark in self.log[: self.confirmed] if mark[0] in KINDS]
        assert self.worker.is_ready == (self.is_joined and not self.is_refused and wanted == seen)

    @invariant()
    def ready_means_that_the_engine_sees_what_is_registered(self) -> None:
        if not self.worker.is_ready or self.mailbox or self.link is None:
            return
        end = self.link.engine
        assert isinstance(end, RouterEnd)
        on_their_way = {mark_of(json.loads(text)) for text in self.link.to_engine} | {*self.expected[self.position :]}
        sees = {
            "registertriggertype": {id for _, id in end.session.trigger_types},
            "registerfunction": {*end.session.functions},
            "registertrigger": {*end.session.triggers},
        }
        for kind, ids in sees.items():
            withdrawn = {id for name, id in on_their_way if name == f"un{kind}"}
            refused = {id for id, entry in self.registry[kind].items() if entry.is_refused and kind == KINDS[1]}
            assert ids - withdrawn == self.registry[kind].keys() - refused


def test_whatever_happens_calls_end_once_and_the_engine_learns_of_every_registration() -> None:
    """P-12, P-13, P-17, P-18, P-29, P-33, P-35, P-36, P-45, G-8, G-11."""
    # Fewer and shorter runs overlook some of the mistakes that can be planted in the session.
    wanted = settings(
        SessionModel.TestCase.settings, max_examples=max(100, settings().max_examples), stateful_step_count=80
    )
    run_state_machine_as_test(SessionModel, settings=wanted)
