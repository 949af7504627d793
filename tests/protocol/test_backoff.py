from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio._protocol.backoff import Backoff


def test_delays_double_up_to_half_a_minute() -> None:
    """P-23. A random number of one half is no jitter."""
    backoff = Backoff()
    assert [backoff.delay(attempt, 0.5) for attempt in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_delay_is_spread_by_thirty_percent_to_either_side() -> None:
    """P-23."""
    backoff = Backoff()
    assert backoff.delay(2, 0.0) == pytest.approx(4 * 0.7)
    assert backoff.delay(2, 0.75) == pytest.approx(4 * 1.15)
    assert backoff.delay(2, 1.0) == pytest.approx(4 * 1.3)


def test_jitter_is_added_to_the_longest_delay_too() -> None:
    """§6.6: first the cap, then the jitter; workers that lost the same engine must not come back together."""
    assert Backoff().delay(50, 1.0) == pytest.approx(39.0)


def test_jitter_of_more_than_all_never_asks_for_a_negative_delay() -> None:
    assert Backoff(jitter=2.0).delay(3, 0.0) == 0.0


@pytest.mark.parametrize("attempt", [1023, 1024, 10_000, 10**9])
def test_an_engine_that_is_gone_for_years_is_still_tried(attempt: int) -> None:
    """P-24: without ``max_retries`` it goes on for ever; a float ends at 2 ** 1024."""
    assert Backoff().delay(attempt, 0.5) == 30.0
    assert not Backoff().is_exhausted(attempt)


@pytest.mark.parametrize("attempt", [0, 1, 1024, 10**6])
def test_no_initial_delay_is_none_after_any_number_of_attempts(attempt: int) -> None:
    assert Backoff(initial=0.0).delay(attempt, 0.9) == 0.0


def test_an_initial_delay_over_the_maximum_is_cut() -> None:
    assert Backoff(initial=60.0).delay(0, 0.5) == 30.0


def test_a_multiplier_of_one_keeps_the_delay() -> None:
    assert [Backoff(2.0, multiplier=1.0).delay(attempt, 0.5) for attempt in (0, 1, 5000)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("max_retries", "attempt", "is_exhausted"),
    [(-1, 10**6, False), (0, 0, True), (1, 0, False), (1, 1, True), (3, 2, False), (3, 3, True), (3, 4, True)],
)
def test_max_retries_counts_the_attempts_after_the_first(max_retries: int, attempt: int, is_exhausted: bool) -> None:
    """P-24."""
    assert Backoff(max_retries=max_retries).is_exhausted(attempt) is is_exhausted


@given(
    st.builds(
        Backoff,
        initial=st.floats(0, 1e6),
        maximum=st.floats(0, 1e6),
        multiplier=st.floats(1, 1e6),
        jitter=st.floats(0, 1),
    ),
    st.integers(0, 10**6),
    st.floats(0, 1, exclude_max=True),
)
def test_every_delay_is_within_the_jitter_of_the_maximum(backoff: Backoff, attempt: int, random: float) -> None:
    assert 0.0 <= backoff.delay(attempt, random) <= backoff.maximum * (1 + backoff.jitter) * (1 + 1e-9)


@given(st.integers(0, 2000), st.floats(0, 1, exclude_max=True))
def test_a_later_attempt_never_waits_less_than_an_earlier_one_of_the_same_luck(attempt: int, random: float) -> None:
    backoff = Backoff()
    assert backoff.delay(attempt, random) <= backoff.delay(attempt + 1, random)
