from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from iii_anyio._protocol import calls
from iii_anyio._protocol.calls import Call, CallTable, new_id
from iii_anyio.errors import IIIError, InvocationError, InvocationTimeoutError, OfflineQueueFullError, ShutdownError


class Waiter:
    """Counts how often it was woken."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def make(name: str = "f", timeout: float | None = None, *, void: bool = False) -> tuple[Call, Waiter]:
    waiter = Waiter()
    return Call(name, None if void else new_id(), name.encode(), timeout, waiter), waiter


def opened(table: CallTable, name: str = "f", timeout: float | None = None, *, now: float = 0.0) -> tuple[Call, Waiter]:
    call, waiter = make(name, timeout)
    table.open(call, now)
    return call, waiter


def shutdown(call: Call) -> IIIError:
    return ShutdownError("SHUTDOWN", "over", call.function_id)


@pytest.fixture
def table() -> CallTable:
    return CallTable(max_queued=3)


# -- ids ------------------------------------------------------------------------------------------------------------


def test_ids_are_fresh_canonical_uuids_of_version_4() -> None:
    """P-28, §4.2."""
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 4
        assert parsed.variant == uuid.RFC_4122


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_never_hands_out_an_id_of_its_parent() -> None:
    program = """
import os
from iii_anyio._protocol.calls import new_id
new_id()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, "".join(new_id() for _ in range(50)).encode())
    os._exit(0)
os.wait()
text = os.read(reader, 50 * 36).decode()
theirs = {text[i : i + 36] for i in range(0, len(text), 36)}
ours = {new_id() for _ in range(300)}
print(len(theirs), len(ours), len(ours & theirs))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["50", "300", "0"]


def test_ids_can_be_made_where_there_is_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    spec = importlib.util.spec_from_file_location("iii_anyio._protocol.calls_without_fork", calls.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert uuid.UUID(module.new_id()).version == 4


# -- how a call ends ------------------------------------------------------------------------------------------------


def test_an_answer_ends_a_call_with_its_result(table: CallTable) -> None:
    call, waiter = opened(table)
    assert len(table) == 1
    assert call.invocation_id is not None
    assert table.get(call.invocation_id) is call
    assert table.settle(call.invocation_id, {"id": 7}, None)
    assert waiter.count == 1
    assert call.value() == {"id": 7}
    assert len(table) == 0
    assert table.get(call.invocation_id) is None


def test_an_answer_ends_a_call_with_its_error(table: CallTable) -> None:
    call, waiter = opened(table)
    assert call.invocation_id is not None
    error = InvocationError("out_of_stock", "none left")
    assert table.settle(call.invocation_id, None, error)
    assert waiter.count == 1
    with pytest.raises(InvocationError) as raised:
        call.value()
    assert raised.value is error


def test_an_answer_with_an_unknown_id_changes_nothing(table: CallTable) -> None:
    """P-33."""
    _, waiter = opened(table)
    assert not table.settle(new_id(), 1, None)
    assert (waiter.count, len(table)) == (0, 1)


def test_only_the_first_answer_counts(table: CallTable) -> None:
    call, waiter = opened(table)
    assert call.invocation_id is not None
    assert table.settle(call.invocation_id, "first", None)
    assert not table.settle(call.invocation_id, "second", None)
    assert waiter.count == 1
    assert call.value() == "first"


def test_a_call_that_has_ended_ends_no_second_time() -> None:
    call, waiter = make()
    call.end("first")
    call.end("second", InvocationError("late", "too late"))
    assert waiter.count == 1
    assert call.value() == "first"


def test_a_call_that_nobody_waits_for_ends_as_well(table: CallTable) -> None:
    call = Call("f", new_id(), b"f", None)
    table.open(call, 0.0)
    assert call.invocation_id is not None
    table.settle(call.invocation_id, 1, None)
    assert call.value() == 1


def test_a_call_that_has_ended_does_not_keep_its_message() -> None:
    call, _ = make()
    call.end()
    assert call.text == b""


def test_an_abandoned_call_wakes_nobody_and_its_answer_is_ignored(table: CallTable) -> None:
    """G-5: the function is not told; what it answers is an unknown id (P-33)."""
    call, waiter = opened(table, timeout=5.0)
    table.abandon(call)
    assert call.is_done
    assert len(table) == 0
    assert call.invocation_id is not None
    assert not table.settle(call.invocation_id, 1, None)
    assert table.expire(10.0) == []
    assert waiter.count == 0


def test_abandoning_a_call_that_has_just_ended_keeps_its_result(table: CallTable) -> None:
    """Its caller was cancelled in the same moment, or has read it already on another thread."""
    call, waiter = opened(table)
    assert call.invocation_id is not None
    table.settle(call.invocation_id, 1, None)
    table.abandon(call)
    assert (waiter.count, call.value()) == (1, 1)


# -- time -----------------------------------------------------------------------------------------------------------


def test_a_call_without_an_answer_in_time_ends_with_a_timeout(table: CallTable) -> None:
    """P-29, P-32."""
    call, waiter = opened(table, "orders::create", 2.5, now=100.0)
    call.is_sent = True
    assert table.expire(102.4) == []
    assert waiter.count == 0
    assert table.expire(102.5) == [call]
    assert waiter.count == 1
    assert len(table) == 0
    with pytest.raises(InvocationTimeoutError, match=r"TIMEOUT: no answer within 2\.5 s") as raised:
        call.value()
    assert raised.value.function_id == "orders::create"
    assert raised.value.invocation_id == call.invocation_id
    assert isinstance(raised.value, TimeoutError)


def test_a_call_that_never_got_a_link_says_so(table: CallTable) -> None:
    call, _ = make("f", 2.0)
    table.queue(call)
    table.open(call, 0.0)
    assert table.expire(2.0) == [call]
    assert table.take_queued() == []
    with pytest.raises(InvocationTimeoutError, match="no connection to the engine within 2 s"):
        call.value()


def test_the_answer_to_an_expired_call_is_ignored(table: CallTable) -> None:
    """P-29, P-33."""
    call, waiter = opened(table, timeout=1.0)
    table.expire(1.0)
    assert call.invocation_id is not None
    assert not table.settle(call.invocation_id, "late", None)
    assert waiter.count == 1
    with pytest.raises(InvocationTimeoutError):
        call.value()


def test_calls_expire_by_their_own_deadlines_and_not_in_the_order_they_were_made(table: CallTable) -> None:
    slow, _ = opened(table, "slow", 9.0)
    quick, _ = opened(table, "quick", 3.0)
    same, _ = opened(table, "same", 3.0)
    forever, _ = opened(table, "forever", None)
    assert table.next_deadline() == 3.0
    assert table.expire(4.0) == [quick, same]
    assert table.next_deadline() == 9.0
    assert table.expire(1e9) == [slow]
    assert table.next_deadline() is None
    assert not forever.is_done


def test_the_next_deadline_is_never_that_of_an_ended_call(table: CallTable) -> None:
    first, _ = opened(table, timeout=1.0)
    opened(table, timeout=2.0)
    table.abandon(first)
    assert table.next_deadline() == 2.0


def test_an_ended_call_before_an_expiring_one_does_not_hide_it(table: CallTable) -> None:
    answered, _ = opened(table, timeout=1.0)
    waiting, _ = opened(table, timeout=2.0)
    assert answered.invocation_id is not None
    table.settle(answered.invocation_id, 1, None)
    assert table.expire(2.0) == [waiting]
    assert answered.value() == 1


def test_ended_calls_do_not_pile_up_until_their_deadlines(table: CallTable) -> None:
    """One thousand calls a second with a timeout of half a minute are otherwise thirty thousand calls in memory."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    waiting, _ = opened(table, timeout=7.0)
    for _ in range(2000):
        call, waiter = opened(table, timeout=3600.0)
        alive.add(waiter)
        assert call.invocation_id is not None
        table.settle(call.invocation_id, None, None)
        del call, waiter
    assert len(alive) < 100
    assert table.expire(7.0) == [waiting]


# -- waiting for a link ---------------------------------------------------------------------------------------------


def test_queued_calls_are_handed_over_once_and_in_order(table: CallTable) -> None:
    """P-36."""
    made = [make(str(number))[0] for number in range(3)]
    for call in made:
        table.queue(call)
    assert table.queued == 3
    assert table.take_queued() == made
    assert table.queued == 0
    assert table.take_queued() == []


def test_one_call_too_many_is_refused_and_no_other_is_dropped(table: CallTable) -> None:
    """P-26, but never in silence: it is the new one that goes, and its caller is told."""
    made = [make(str(number))[0] for number in range(3)]
    for call in made:
        table.queue(call)
    refused, waiter = make("refused", 1.0)
    with pytest.raises(OfflineQueueFullError, match="3 calls already wait") as raised:
        table.queue(refused)
    assert raised.value.code == "OFFLINE_QUEUE_FULL"
    assert raised.value.function_id == "refused"
    assert raised.value.invocation_id == refused.invocation_id
    assert waiter.count == 0
    assert table.take_queued() == made


def test_an_abandoned_call_gives_its_place_in_the_queue_back(table: CallTable) -> None:
    """A call whose caller gave up is never sent."""
    made = [make(str(number), void=number == 1)[0] for number in range(3)]
    for call in made:
        table.queue(call)
        table.open(call, 0.0)
    table.abandon(made[1])
    late, _ = make("late")
    table.queue(late)
    assert table.take_queued() == [made[0], made[2], late]


def test_calls_that_were_not_written_go_before_those_that_wait(table: CallTable) -> None:
    """Calls keep their order over a lost link (P-36)."""
    first, second, third = (make(str(number))[0] for number in range(3))
    table.queue(third)
    table.requeue([first, second])
    assert table.take_queued() == [first, second, third]


def test_calls_that_have_ended_meanwhile_are_not_queued_again(table: CallTable) -> None:
    waiting, ended = make("waiting")[0], make("ended")[0]
    ended.end()
    table.requeue([ended, waiting])
    assert table.take_queued() == [waiting]


def test_calls_that_come_back_to_the_queue_may_be_more_than_it_takes() -> None:
    """They were accepted once."""
    table = CallTable(max_queued=1)
    made = [make(str(number))[0] for number in range(4)]
    table.queue(made[3])
    table.requeue(made[:3])
    assert table.take_queued() == made


def test_an_answer_to_a_call_that_still_waits_ends_it(table: CallTable) -> None:
    """Only a confused engine sends one; the call must not hang, and not be written afterwards."""
    call, waiter = make()
    table.queue(call)
    table.open(call, 0.0)
    assert call.invocation_id is not None
    assert table.settle(call.invocation_id, 1, None)
    assert waiter.count == 1
    assert all(queued.is_done for queued in table.take_queued())


# -- the end of a link and of the worker ----------------------------------------------------------------------------


def test_a_lost_link_ends_exactly_the_calls_that_were_written(table: CallTable) -> None:
    """P-36, §7.5."""
    written, writer = opened(table, "written")
    written.is_sent = True
    unwritten, other = opened(table, "unwritten")
    assert table.fail_sent(shutdown) == 1
    assert (writer.count, other.count) == (1, 0)
    assert len(table) == 1
    with pytest.raises(ShutdownError) as raised:
        written.value()
    assert raised.value.function_id == "written"
    assert not unwritten.is_done


def test_the_end_of_the_worker_ends_every_call_written_or_queued_void_or_not(table: CallTable) -> None:
    """P-35."""
    written, _ = opened(table, "written")
    written.is_sent = True
    queued, void = make("queued", 5.0), make("void", 5.0, void=True)
    for call, _ in (queued, void):
        table.queue(call)
        table.open(call, 0.0)
    assert table.fail_all(shutdown) == 3
    assert (len(table), table.queued, table.next_deadline()) == (0, 0, None)
    for call in (written, queued[0], void[0]):
        with pytest.raises(ShutdownError):
            call.value()
    assert (queued[1].count, void[1].count) == (1, 1)
    assert table.fail_all(shutdown) == 0


@pytest.mark.parametrize("end", ["settle", "expire", "fail_sent", "fail_all"])
def test_a_call_has_left_the_table_when_its_caller_wakes(table: CallTable, end: str) -> None:
    """The caller may make the next call at once."""
    seen: list[int] = []
    call, _ = make("f", 1.0)
    call.wake = lambda: seen.append(len(table))
    table.open(call, 0.0)
    call.is_sent = True
    assert call.invocation_id is not None
    ways: dict[str, Callable[[], object]] = {
        "settle": lambda: table.settle(call.invocation_id or "", 1, None),
        "expire": lambda: table.expire(1.0),
        "fail_sent": lambda: table.fail_sent(shutdown),
        "fail_all": lambda: table.fail_all(shutdown),
    }
    ways[end]()
    assert seen == [0]
