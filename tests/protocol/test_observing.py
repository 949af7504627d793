"""Observers without a loop: those of our functions, those we made, and the reports about both (§16)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from iii_anyio._protocol.messages import (
    ABSENT,
    FunctionRegistered,
    Observe,
    ObserverAdded,
    ObserveResult,
    ObserverRemoved,
    ObserverStateChanged,
)
from iii_anyio._protocol.observing import Observation, Observations
from iii_anyio._protocol.owning import Ack, Hook, ObservedFunction
from iii_anyio._protocol.reporting import Reporter, ReportLimits
from iii_anyio._protocol.worker_session import WorkerSession
from iii_anyio.filter import compile_filter
from tests.protocol.link import FakeLink, Script

LINK = 1


class Owner:
    """A function whose hooks answer as a test says."""

    def __init__(self, *, hooks: bool = True, **options: Any) -> None:
        given: dict[str, Any] = {"on_added": "A", "on_removed": "R"} if hooks else {}
        self.function = ObservedFunction("f", compile_filter, **given, **options)
        self.done: list[str] = []
        self.hooks: list[Hook] = []
        self.errors: dict[str, dict[str, str]] = {}

    def work(self, during: dict[str, Any] | None = None) -> list[str]:
        """Work until nothing is left; returns what was done since. ``during`` runs while a hook does."""
        self.done = []
        steps = self.function.work()
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration:
                return self.done
            outcome = None
            if isinstance(step, Hook):
                assert step.function == {"added": "A", "removed": "R"}[step.kind]
                self.hooks.append(step)
                name = f"{step.kind} {step.observer.id}"
                self.done.append(name)
                outcome = self.errors.get(step.observer.id) if step.kind == "added" else None
                if during is not None and name in during:
                    during[name]()
            else:
                self.done.append(shown(step))

    def active(self) -> list[str]:
        return [observer.id for observer in self.function.active]


def shown(ack: Ack) -> str:
    message = ack.message
    error = "" if message.error is ABSENT else f" {message.error['code']}"
    return f"ack {message.id}@{message.revision}{error}"


def registered(revision: int, *observers: Any, **fields: Any) -> FunctionRegistered:
    infos = [{"id": entry} if isinstance(entry, str) else entry for entry in observers]
    return FunctionRegistered("f", "default", revision, observers=infos, **fields)


def added(revision: int, observer_id: str, **info: Any) -> ObserverAdded:
    return ObserverAdded("f", {"id": observer_id, **info}, "default", revision)


def removed(revision: int, observer_id: str) -> ObserverRemoved:
    return ObserverRemoved("f", observer_id, "default", revision)


# -- the owner ---------------------------------------------------------------------------------------------------------


def test_the_hook_runs_before_the_observer_is_active_and_the_acknowledgement_after() -> None:
    """P-61."""
    owner = Owner()
    owner.function.registered(registered(1, "o1"), LINK)
    owner.function.added(added(2, "o2"), LINK)
    assert owner.work({"added o1": lambda: owner.done.append(f"active {owner.active()}")}) == [
        "added o1", "active []", "ack o1@1", "added o2", "ack o2@2",
    ]  # fmt: skip
    assert owner.active() == ["o1", "o2"]
    owner.function.removed(removed(3, "o1"))
    owner.function.removed(removed(4, "unknown"))
    assert owner.work() == ["removed o1"]
    assert owner.active() == ["o2"]
    assert not owner.function.has_work


def test_stale_announcements_are_ignored_but_a_whole_set_is_always_taken() -> None:
    """P-62."""
    owner = Owner(hooks=False)
    owner.function.registered(registered(5, "o1"), LINK)
    owner.function.added(added(5, "o2"), LINK)
    owner.function.removed(removed(4, "o1"))
    assert owner.work() == ["ack o1@5"]
    owner.function.registered(registered(1, "o3"), LINK)
    owner.function.added(added(2, "o4"), LINK)
    assert owner.work() == ["ack o3@1", "ack o4@2"]
    assert owner.active() == ["o3", "o4"]


def test_a_set_is_compared_by_id_args_and_legacy() -> None:
    """§16.4: booleans are no numbers, in args as elsewhere."""
    legacy = {"trigger_type": "cron", "config": None}
    owner = Owner()
    owner.function.registered(
        registered(1, {"id": "a", "args": {"x": 1}}, {"id": "b", "args": {"x": [True, {"y": 1}]}}, "c",
                   {"id": "d", "legacy": legacy}, "gone"),
        LINK,
    )  # fmt: skip
    owner.work()
    before = dict(zip(owner.active(), owner.function.active, strict=True))
    owner.function.registered(
        registered(2, {"id": "a", "args": {"x": 1.0}, "on": "error", "target": "t"},
                   {"id": "b", "args": {"x": [1, {"y": 1}]}}, {"id": "c", "legacy": legacy},
                   {"id": "d", "legacy": legacy, "capture": ["input", 1]}),
        LINK + 1,
    )  # fmt: skip
    assert owner.work() == [
        "removed gone", "ack a@2", "removed b", "added b", "ack b@2", "removed c", "added c", "ack c@2", "ack d@2",
    ]  # fmt: skip
    kept = before["a"]
    assert (kept.on, kept.target, kept.link, kept.is_open) == ("error", "t", LINK + 1, True)
    assert before["d"].capture == ("input",)
    assert before["d"].legacy == legacy


def test_a_filter_that_does_not_compile_refuses_the_observer() -> None:
    owner = Owner()
    owner.function.registered(registered(1, {"id": "bad", "filters": []}, "good", {"no": "id"}), LINK)
    assert owner.work() == ["ack bad@1 INVALID_FILTER", "added good", "ack good@1"]
    owner.function.registered(registered(2, {"id": "good", "filters": {"x": 1}}), LINK)
    assert owner.work() == ["ack good@2 INVALID_FILTER"]
    assert owner.active() == []
    owner.function.registered(registered(3, {"id": "good", "filters": {"input.a": {"$eq": 1}}}), LINK)
    assert owner.work() == ["ack good@3"]
    assert owner.active() == ["good"]


def test_a_hook_that_fails_refuses_and_the_next_announcement_starts_anew() -> None:
    owner = Owner()
    owner.errors["o1"] = {"code": "NO", "message": "not now"}
    owner.function.added(added(1, "o1"), LINK)
    assert owner.work() == ["added o1", "ack o1@1 NO"]
    owner.errors.clear()
    owner.function.added(added(2, "o1"), LINK)
    assert owner.work() == ["added o1", "ack o1@2"]
    owner.function.added(added(3, "o1"), LINK)  # announced again: known, no hook
    assert owner.work() == ["ack o1@3"]


def test_a_late_success_is_undone() -> None:
    """P-63."""
    owner = Owner()
    owner.errors["o1"] = {"code": "OWNER_TIMEOUT", "message": "slow"}
    owner.function.added(added(1, "o1"), LINK)
    assert owner.work() == ["added o1", "ack o1@1 OWNER_TIMEOUT"]
    owner.function.added_late(owner.hooks[0].observer)
    assert owner.work() == ["removed o1"]


@pytest.mark.parametrize("how", ["refused", "withdrawn"])
def test_a_lost_function_drops_its_observers_without_acknowledgement(how: str) -> None:
    """§16.4: also those whose hook is running, and those that wait."""
    owner = Owner(allow_local=True)
    owner.function.registered(registered(1, "o1", local_dispatch=True), LINK)
    owner.work()
    assert owner.function.local_dispatch
    assert owner.function.reports(LINK) == "send"

    def lose() -> None:
        if how == "refused":
            owner.function.refused(LINK)
        else:
            owner.function.withdrawn()

    owner.errors["o3"] = {"code": "NO", "message": "no"}
    owner.function.added(added(2, "o2"), LINK)
    owner.function.added(added(3, "o3"), LINK)
    assert owner.work({"added o2": lose}) == ["added o2", "removed o2", "removed o1"]
    assert owner.active() == []
    assert not owner.function.local_dispatch
    assert owner.function.reports(LINK) == "drop"
    assert owner.function.reports(LINK + 1) == ("wait" if how == "refused" else "drop")
    owner.function.added(added(4, "o4"), LINK)
    owner.function.removed(removed(5, "o4"))
    owner.function.registered(registered(6, "o5"), LINK + 1)
    assert owner.work() == (["added o4", "ack o4@4", "removed o4", "added o5", "ack o5@6"] if how == "refused" else [])
    owner.function.registered(registered(7, "o6"), LINK + 1)
    lose()
    owner.function.work()
    assert owner.work() == (["removed o5"] if how == "refused" else [])  # not even the hook of what waited


def test_a_failing_hook_of_a_lost_function_says_nothing() -> None:
    owner = Owner()
    owner.errors["o1"] = {"code": "NO", "message": "no"}
    owner.function.registered(registered(1, "o1", "o2"), LINK)
    assert owner.work({"added o1": lambda: owner.function.refused(LINK)}) == ["added o1"]
    assert owner.function.reports(LINK) == "drop"


def test_a_rejected_observer_is_refused_again_until_it_is_announced_anew() -> None:
    """§16.4: late rejection."""
    owner = Owner()
    owner.function.registered(registered(1, "o1"), LINK)
    owner.work()
    (observer,) = owner.function.active
    observer.rejection = {"code": "RELOADED", "message": "m"}
    assert not observer.is_open
    ack = owner.function.rejected(observer)
    assert ack is not None
    assert shown(ack) == "ack o1@1 RELOADED"
    assert owner.active() == []
    owner.function.registered(registered(2, "o1"), LINK)
    assert owner.work() == ["ack o1@2 RELOADED"]
    owner.function.added(added(3, "o1"), LINK)
    assert owner.work() == ["removed o1", "added o1", "ack o1@3"]
    assert owner.function.rejected(observer) is None  # it is another one now
    (observer,) = owner.function.active
    observer.rejection = {"code": "RELOADED", "message": "m"}
    owner.function.added(added(4, "o1"), LINK)
    assert owner.work({"removed o1": owner.function.withdrawn}) == ["removed o1"]


def test_reports_wait_for_the_acknowledgement_of_the_set() -> None:
    """§16.8."""
    owner = Owner()
    assert owner.function.reports(LINK) == "wait"
    owner.function.registered(registered(1, "o1"), LINK)
    assert owner.work({"added o1": lambda: owner.done.append(owner.function.reports(LINK))})[1] == "wait"
    assert owner.function.reports(LINK) == "send"
    assert owner.function.reports(LINK + 1) == "wait"


@pytest.mark.parametrize(("on", "success", "error"), [
    ("success", True, False), ("error", False, True), ("complete", True, True), ("later", False, False),
])  # fmt: skip
def test_an_observer_wants_what_it_is_for(on: str, success: bool, error: bool) -> None:
    owner = Owner(hooks=False)
    owner.function.added(added(1, "o1", on=on, filters={"input.n": {"$gt": 1}}), LINK)
    owner.work()
    (observer,) = owner.function.active
    assert observer.wants({"input": {"n": 2}}, is_success=True) is success
    assert observer.wants({"input": {"n": 2}}, is_success=False) is error
    assert not observer.wants({"input": {"n": 1}}, is_success=True)


# -- what we observe ---------------------------------------------------------------------------------------------------


def observation(observer_id: str = "o1") -> Observation:
    return Observation(Observe(observer_id, {"function_id": "f"}, {"function_id": "t"}))


def joined(session: WorkerSession, *, features: list[str] | None) -> tuple[FakeLink, Script]:
    script = Script()
    link = FakeLink(session, script)
    link.write()
    link.carry_to_engine()
    script.say("workerregistered", worker_id="w", features=features)
    script.answer(script.received[-1], result={"success": True})
    link.carry_to_worker()
    return link, script


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


def test_a_worker_says_who_it_is_as_the_engine_would() -> None:
    """§17."""
    session = WorkerSession({}, max_queued=10)
    assert session.whoami() == {}
    session = WorkerSession({"name": "w"}, max_queued=10)
    assert session.whoami() == {"worker_name": "w"}
    settled: list[bool] = []
    session.settled = settled.append
    link, _ = joined(session, features=["observe.v1"])
    assert session.whoami() == {"worker_id": "w", "worker_name": "w"}
    assert session.takes_observers
    link.drop()
    assert not session.takes_observers
    joined(session, features=[])
    assert settled == [True, False]


def test_announcements_and_states_are_for_the_runtime_to_see() -> None:
    session = WorkerSession({"name": "w"}, max_queued=10)
    link, script = joined(session, features=["observe.v1"])
    script.say("functionregistered", id="f", revision=1)
    script.say("observeradded", function_id="f", revision=2, observer={})
    script.say("observerremoved", function_id="f", revision=3, id="o")
    script.say("observeresult", id="o", state="pending", warnings=["slow"])
    link.carry_to_worker()
    assert [message.type for message in link.acted] == [
        "functionregistered", "observeradded", "observerremoved", "observeresult",
    ]  # fmt: skip


def test_nothing_is_sent_before_the_engine_has_said_what_it_knows() -> None:
    """§16.10, P-60."""
    session = WorkerSession({"name": "w"}, max_queued=10)
    observer = observation()
    session.observations.add(observer)
    session.observe(observer)
    link = FakeLink(session, script := Script())
    link.write()
    link.carry_to_engine()
    script.answer(script.received[-1], result={"success": True})
    link.carry_to_worker()
    assert link.write() == []
    script.say("workerregistered", worker_id="w", features=["observe.v1"])
    link.carry_to_worker()
    assert types(link.write()) == ["observe"]
    script.say("workerregistered", worker_id="w", features=["observe.v1"])
    link.carry_to_worker()
    assert link.write() == []  # once per link
    session.observe(observer)
    assert link.write() == []


def test_a_withdrawal_that_was_not_written_goes_out_on_the_next_link() -> None:
    session = WorkerSession({"name": "w"}, max_queued=10)
    observers = [observation("o1"), observation("o2")]
    for observer in observers:
        session.observations.add(observer)
    link, _ = joined(session, features=["observe.v1"])
    link.write()
    session.unobserve(observers[0])
    link.drop()
    session.unobserve(observers[1])
    link, _ = joined(session, features=["observe.v1"])
    assert [(message["type"], message["id"]) for message in link.write()] == [("unobserve", "o1"), ("unobserve", "o2")]
    session.unobserve(observers[1])
    assert link.write() == []


def test_one_that_was_never_sent_needs_no_withdrawal() -> None:
    session = WorkerSession({"name": "w"}, max_queued=10)
    observer = observation()
    session.observations.add(observer)
    session.unobserve(observer)
    link, _ = joined(session, features=["observe.v1"])
    assert link.write() == []
    session.observe(observer)
    assert link.write() == []


def test_without_observe_v1_observers_fail_and_withdrawals_are_discarded() -> None:
    """P-59, §16.10; the engine may be replaced by a younger one."""
    session = WorkerSession({"name": "w"}, max_queued=10)
    first, second = observation("o1"), observation("o2")
    session.observations.add(first)
    session.observations.add(second)
    link, _ = joined(session, features=["observe.v1"])
    link.write()
    link.drop()
    session.unobserve(first)
    link, _ = joined(session, features=None)
    assert link.write() == []
    assert (second.state, second.reason and second.reason["code"]) == ("error", "UNSUPPORTED")
    link.drop()
    link, _ = joined(session, features=["observe.v1"])
    assert [(message["type"], message["id"]) for message in link.write()] == [("observe", "o2")]
    assert (second.state, second.reason) == ("pending", None)


def test_states_are_told_when_they_change_and_nothing_follows_the_end() -> None:
    observations = Observations()
    observer = observation()
    changes: list[tuple[str, Any]] = []
    observer.changed = lambda: changes.append((observer.state, observer.reason))
    observations.add(observer)
    with pytest.raises(ValueError, match="'o1' is in use"):
        observations.add(observation())
    observations.take(ObserveResult("o1", "active"))
    observations.take(ObserverStateChanged("o1", "active"))
    observations.take(ObserverStateChanged("o1", "dreaming", reason={"code": 1}))
    observations.take(ObserveResult("unknown", "active"))
    observations.take(ObserverStateChanged("o1", "disposed", reason={"code": "EXPIRED", "message": "m"}))
    observations.take(ObserverStateChanged("o1", "active"))
    observer.change("active", None)
    assert changes == [
        ("active", None),
        ("pending", {"code": "UNKNOWN", "message": "<no message>"}),
        ("disposed", {"code": "EXPIRED", "message": "m"}),
    ]
    assert not observations.dispose(observer)
    observations.notify_all()
    observations.add(observation())
    other = observation("o2")
    observations.add(other)
    other.changed = lambda: changes.append(("woken", None))
    observations.notify_all()
    assert changes[3:] == [("woken", None)]
    other.is_disposed = True
    assert observations.to_send(1)[1] == [observation().text]


# -- reports -----------------------------------------------------------------------------------------------------------


def fields(function_id: str = "f", matched: str = "o1") -> dict[str, Any]:
    return {"function_id": function_id, "invocation_id": "i", "matched": [matched], "status": "success"}


def items(reporter: Reporter, fate: Any = lambda function_id: "send") -> list[dict[str, Any]]:
    return [item for frame in reporter.take(fate) for item in json.loads(frame.text)["items"]]


def counts(reporter: Reporter) -> dict[str, Any]:
    text, _ = reporter.take_counts(10)
    message: dict[str, Any] = json.loads(text)
    return message


def test_only_captured_parts_are_sent_and_a_captured_null_is_null() -> None:
    """§16.8."""
    reporter = Reporter()
    assert reporter.add(fields(), {"input": None, "output": 1, "caller": {}}, {"input", "error"})
    assert items(reporter) == [fields() | {"input": None}]
    assert len(reporter) == 0


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (float("nan"), None),
        ({"a": float("inf"), "b": [1, object()]}, {"a": None, "b": [1, None]}),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ({"\ud800": ("\udc00", True, 1.5, None)}, {"\ufffd": ["\ufffd", True, 1.5, None]}),
        ({1: "a", "b": {10**400}}, {"b": None}),
        ([{3}, 10**400], [[3], None]),
    ],
)
def test_what_json_cannot_express_becomes_null(value: object, sent: object) -> None:
    """§16.8, A-52: a report never fails, and never fails its frame."""
    reporter = Reporter()
    assert reporter.add(fields(), {"input": [value, object()]}, {"input"})
    assert items(reporter)[0]["input"] == [sent, None]


def test_what_nests_too_deep_is_cut() -> None:
    reporter = Reporter()
    deep: Any = 1
    for _ in range(126):
        deep = [deep]
    assert reporter.add(fields(), {"input": deep}, {"input"})
    (item,) = items(reporter)
    depth = 0
    while item["input"] is not None and item["input"] != 1:
        item["input"], depth = item["input"][0], depth + 1
    assert 100 < depth < 126


def test_one_event_for_several_observers_is_one_item_until_it_is_sent() -> None:
    """§16.8."""
    reporter = Reporter()
    event, context = {"n": 1}, object()
    for observer, part in (("o1", "input"), ("o2", "caller")):
        assert reporter.add_emitted(fields(matched=observer), {"input": event, "caller": {}}, [part], event, context)
    assert reporter.add_emitted(fields(matched="o1"), {"input": event}, ["input"], event, context)  # the same again
    assert reporter.add_emitted(fields(matched="o3"), {"input": event}, ["input"], event, object())
    found = items(reporter)
    assert [item["matched"] for item in found] == [["o1", "o2"], ["o1"], ["o3"]]
    assert (found[0]["input"], found[0]["caller"]) == (event, {})
    assert reporter.add_emitted(fields(matched="o9"), {"input": event}, ["input"], event, context)
    assert items(reporter)[0]["matched"] == ["o9"]


def test_a_full_buffer_drops_the_newest_and_counts_it() -> None:
    """P-65."""
    unwritten = 0
    reporter = Reporter(lambda: unwritten, ReportLimits(items=2, bytes=1000, batch=2))
    assert reporter.add(fields("a"), {}, ())
    assert not reporter.is_batch
    assert reporter.add(fields("b"), {}, ())
    assert reporter.is_batch
    assert not reporter.add(fields("c"), {}, ())
    assert not reporter.add_emitted(fields("d"), {"input": "x" * 2000}, ["input"], 1, 2)
    assert [item["function_id"] for item in items(reporter)] == ["a", "b"]
    unwritten = 990
    assert not reporter.add(fields("e"), {}, ())
    assert counts(reporter)["dropped_reports"] == [
        {"function_id": "c", "reason": "BUFFER_FULL", "count": 1},
        {"function_id": "d", "reason": "TOO_LARGE", "count": 1},
        {"function_id": "e", "reason": "BUFFER_FULL", "count": 1},
    ]
    assert not reporter.has_counts


def test_an_event_that_would_grow_too_large_stays_as_it_is() -> None:
    reporter = Reporter(limits=ReportLimits(bytes=300))
    event = "x" * 250
    assert reporter.add_emitted(fields(matched="o1"), {"input": event}, [], event, None)
    assert not reporter.add_emitted(fields(matched="o2"), {"input": event}, ["input"], event, None)
    assert items(reporter) == [fields()]
    assert counts(reporter)["dropped_reports"][0]["reason"] == "TOO_LARGE"


def test_frames_keep_their_limits() -> None:
    reporter = Reporter(limits=ReportLimits(batch=2, frame=260))
    for number in range(3):
        assert reporter.add(fields(f"f{number}"), {}, ())
    assert reporter.add(fields("large"), {"input": "x" * 100}, ["input"])
    frames = reporter.take(lambda function_id: "send")
    assert [len(json.loads(frame.text)["items"]) for frame in frames] == [2, 1, 1]
    assert all(len(frame.text) <= 260 for frame in frames)


def test_reports_wait_or_go_by_function() -> None:
    reporter = Reporter()
    for function_id in ("send", "wait", "drop", "wait"):
        reporter.add(fields(function_id), {}, ())
    assert [item["function_id"] for item in items(reporter, lambda function_id: function_id)] == ["send"]
    assert len(reporter) == 2
    reporter.discard("unknown")
    reporter.discard("wait")
    assert len(reporter) == 0
    dropped = {entry["function_id"]: (entry["reason"], entry["count"]) for entry in counts(reporter)["dropped_reports"]}
    assert dropped == {"drop": ("INACTIVE", 1), "wait": ("INACTIVE", 2)}


def test_a_frame_that_was_not_written_comes_back_in_front() -> None:
    reporter = Reporter(limits=ReportLimits(items=2))
    reporter.add(fields("a"), {}, ())
    (frame,) = reporter.take(lambda function_id: "send")
    reporter.add(fields("b"), {}, ())
    reporter.add(fields("c"), {}, ())
    reporter.put_back(frame)
    assert [item["function_id"] for item in items(reporter)] == ["a", "b"]
    assert counts(reporter)["dropped_reports"] == [{"function_id": "c", "reason": "BUFFER_FULL", "count": 1}]


def test_counts_that_were_not_written_carry_over() -> None:
    """§16.8."""
    reporter = Reporter()
    reporter.count("f", 1.5, is_success=True)
    reporter.count("f", 2, is_success=False)
    text, put_back = reporter.take_counts(10.0004)
    expected = {"function_id": "f", "count": 2, "errors": 1, "duration_ms_sum": 3.5}
    assert json.loads(text) == {
        "type": "localinvocationstats", "window_ms": 10_000, "functions": [expected], "dropped_reports": [],
    }  # fmt: skip
    reporter.count("f", 1, is_success=True)
    reporter.add(fields("g"), {"input": "x" * 9_000_000}, ["input"])
    put_back()
    both = counts(reporter)
    assert both["functions"] == [expected | {"count": 3, "duration_ms_sum": 4.5}]
    assert both["dropped_reports"] == [{"function_id": "g", "reason": "TOO_LARGE", "count": 1}]
    text, put_back = reporter.take_counts(0)
    reporter.add(fields("g"), {"input": "x" * 9_000_000}, ["input"])
    text, put_back = reporter.take_counts(0)
    reporter.clear()
    put_back()
    assert counts(reporter)["dropped_reports"][0]["count"] == 1


def test_an_engine_without_observers_is_told_nothing() -> None:
    reporter = Reporter()
    reporter.add(fields(), {}, ())
    reporter.count("f", 1, is_success=True)
    reporter.clear()
    assert len(reporter) == 0
    assert not reporter.has_counts
