from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio._protocol.liveness import Liveness

START = 1000.0


@pytest.fixture
def liveness() -> Liveness:
    return Liveness(START, interval=20.0, pong_timeout=10.0, idle_timeout=60.0)


def test_the_first_ping_is_due_one_interval_after_the_link_came_up(liveness: Liveness) -> None:
    """P-09."""
    assert liveness.next_check() == START + 20
    assert not liveness.is_ping_due(START + 19.9)
    assert liveness.is_ping_due(START + 20)


def test_the_next_ping_is_due_one_interval_after_the_last_one(liveness: Liveness) -> None:
    """P-09: not after its pong."""
    payload = liveness.ping(START + 25)
    liveness.pong(payload, START + 30)
    assert liveness.next_check() == START + 45
    assert not liveness.is_ping_due(START + 44.9)
    assert liveness.is_ping_due(START + 45)


def test_no_ping_is_due_while_one_is_unanswered(liveness: Liveness) -> None:
    liveness.ping(START + 20)
    assert not liveness.is_ping_due(START + 1000)


def test_each_ping_has_a_payload_of_its_own(liveness: Liveness) -> None:
    assert len({liveness.ping(START + seconds) for seconds in range(300)}) == 300


def test_a_link_whose_ping_stays_unanswered_is_dead(liveness: Liveness) -> None:
    """§3.2: whatever else arrives; an engine that sends but answers no ping hears nothing either."""
    liveness.ping(START + 20)
    liveness.received(START + 29)
    assert liveness.next_check() == START + 30
    assert liveness.death(START + 29.9) is None
    assert liveness.death(START + 30) == "no pong within 10 s"


def test_a_pong_keeps_the_link_alive_and_tells_the_round_trip_time(liveness: Liveness) -> None:
    payload = liveness.ping(START + 20)
    liveness.received(START + 20.25)
    liveness.pong(payload, START + 20.25)
    assert liveness.rtt == 0.25
    assert liveness.death(START + 30) is None


def test_a_round_trip_time_is_unknown_before_the_first_pong(liveness: Liveness) -> None:
    liveness.ping(START + 20)
    assert liveness.rtt is None


def test_only_the_first_of_the_two_pongs_of_the_engine_counts(liveness: Liveness) -> None:
    """P-09, §3.1: the engine answers each ping twice."""
    payload = liveness.ping(START + 20)
    liveness.pong(payload, START + 21)
    liveness.pong(payload, START + 25)
    assert liveness.rtt == 1.0


@pytest.mark.parametrize("payload", [b"", b"\x00\x00\x00\x00", b"\x00\x00\x00\x02", b"hello"])
def test_a_pong_that_nobody_asked_for_changes_nothing(liveness: Liveness, payload: bytes) -> None:
    """P-09: unsolicited pongs are legal, and so are late ones of an earlier ping."""
    liveness.pong(payload, START + 1)
    liveness.ping(START + 20)
    liveness.pong(payload, START + 21)
    assert liveness.rtt is None
    assert liveness.death(START + 30) == "no pong within 10 s"


def test_a_pong_of_an_earlier_ping_does_not_answer_the_present_one(liveness: Liveness) -> None:
    first = liveness.ping(START + 20)
    liveness.pong(first, START + 21)
    liveness.ping(START + 40)
    liveness.pong(first, START + 41)
    assert liveness.death(START + 50) == "no pong within 10 s"


def test_a_link_on_which_nothing_at_all_arrives_is_dead(liveness: Liveness) -> None:
    """P-09. Any bytes count, not only pongs."""
    link = Liveness(START, interval=1000.0, pong_timeout=10.0, idle_timeout=60.0)
    link.received(START + 50)
    assert link.next_check() == START + 110
    assert link.death(START + 109.9) is None
    assert link.death(START + 110) == "nothing received for 60 s"


def test_a_fraction_of_a_second_is_told_as_one() -> None:
    link = Liveness(START, interval=1.0, pong_timeout=0.5, idle_timeout=1.5)
    assert link.death(START + 1.5) == "nothing received for 1.5 s"
    link.ping(START)
    assert link.death(START + 0.5) == "no pong within 0.5 s"


seconds = st.floats(0.01, 100)


@given(seconds, seconds, seconds, st.lists(st.tuples(st.sampled_from(["nothing", "bytes", "pong"]), seconds)))
def test_whoever_looks_at_each_next_check_misses_neither_ping_nor_death(
    interval: float, pong_timeout: float, idle_timeout: float, happenings: list[tuple[str, float]]
) -> None:
    """At the time of the check something is to be done, and before it nothing was."""
    link = Liveness(0.0, interval=interval, pong_timeout=pong_timeout, idle_timeout=idle_timeout)
    now = 0.0
    payload: bytes | None = None
    for what, elapsed in happenings:
        check = link.next_check()
        if now + elapsed < check:
            now += elapsed
            assert link.death(now) is None
            assert not link.is_ping_due(now)
            if what != "nothing":
                link.received(now)
            if what == "pong" and payload is not None:
                link.pong(payload, now)
                payload = None
            continue
        now = max(now, check)
        if link.death(now) is not None:
            return
        assert link.is_ping_due(now)
        payload = link.ping(now)
