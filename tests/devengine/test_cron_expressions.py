"""The grammar of cron expressions, and which time they mean next (CR-2 to CR-8)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio.devengine._cron import CronError, Schedule

NOW = datetime(2026, 11, 23, 0, 18, 51, 500_000, UTC)
"""A Monday."""


def following(expression: str, count: int = 1, start: datetime = NOW) -> list[str]:
    schedule, found = Schedule.parse(expression), []
    for _ in range(count):
        moment = schedule.next_after(start)
        if moment is None:
            break
        found.append(moment.strftime("%Y-%m-%d %H:%M:%S"))
        start = moment
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * * *", ["2026-11-23 00:18:52", "2026-11-23 00:18:53"]),
        ("*/20 * * * * *", ["2026-11-23 00:19:00", "2026-11-23 00:19:20"]),
        ("50/4 * * * * *", ["2026-11-23 00:18:54", "2026-11-23 00:18:58"]),
        ("0 10-20/5 * * * *", ["2026-11-23 00:20:00", "2026-11-23 01:10:00"]),
        ("0 0 9,17 * * *", ["2026-11-23 09:00:00", "2026-11-23 17:00:00"]),
        ("  0   30 9  * * ?  ", ["2026-11-23 09:30:00", "2026-11-24 09:30:00"]),
        ("0 0 0 1 jan *", ["2027-01-01 00:00:00", "2028-01-01 00:00:00"]),
        ("0 0 0 1 MARCH-may/2 *", ["2027-03-01 00:00:00", "2027-05-01 00:00:00"]),
        ("0 0 0 ? * 1", ["2026-11-29 00:00:00", "2026-12-06 00:00:00"]),  # 1 is Sunday (CR-3)
        ("0 0 0 ? * 1-5", ["2026-11-24 00:00:00", "2026-11-25 00:00:00"]),
        ("0 0 0 ? * Thurs,sAt", ["2026-11-26 00:00:00", "2026-11-28 00:00:00"]),
        ("0 0 0 ? * mon-fri/2", ["2026-11-25 00:00:00", "2026-11-27 00:00:00"]),
        ("0 0 0 13 * fri", ["2027-08-13 00:00:00", "2028-10-13 00:00:00"]),  # both, not either (CR-7)
        ("0 0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("0 0 0 29 2 7", ["2048-02-29 00:00:00", "2076-02-29 00:00:00"]),
        ("59 59 23 31 12 * 2026", ["2026-12-31 23:59:59"]),
        ("0 0 0 1 1 * 2099-2100", ["2099-01-01 00:00:00", "2100-01-01 00:00:00"]),
        ("0 0 0 1 1 * 2020", []),
        ("0 0 0 31 2 *", []),
        ("@hourly", ["2026-11-23 01:00:00", "2026-11-23 02:00:00"]),
        ("@daily", ["2026-11-24 00:00:00", "2026-11-25 00:00:00"]),
        ("@weekly", ["2026-11-29 00:00:00", "2026-12-06 00:00:00"]),
        ("@monthly", ["2026-12-01 00:00:00", "2027-01-01 00:00:00"]),
        ("@yearly", ["2027-01-01 00:00:00", "2028-01-01 00:00:00"]),
    ],
)
def test_an_expression_means_these_times(expression: str, expected: list[str]) -> None:
    """CR-2 to CR-7, CR-10."""
    assert following(expression, 2) == expected


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "0 fields"),
        ("* * * * *", "begin with seconds"),
        ("nonsense", "1 field,"),
        ("* * * * * * * *", "8 fields"),
        ("60 * * * * *", "second '60': values go from 0 to 59"),
        ("* 60 * * * *", "minute"),
        ("* * 24 * * *", "hour"),
        ("* * * 0 * *", "day of month"),
        ("* * * 32 * *", "day of month"),
        ("* * * * 13 *", "month"),
        ("* * * * 0 *", "month"),
        ("* * * * * 0", "1 is Sunday"),
        ("* * * * * 8", "1 is Sunday"),
        ("* * * * * * 1969", "year"),
        ("* * * * * * 2101", "year"),
        ("5-1 * * * * *", "reversed"),
        ("* * * * * fri-mon", "reversed"),
        ("*/0 * * * * *", "a step is a number from 1 to 59"),
        ("*/60 * * * * *", "a step is a number from 1 to 59"),
        ("*/x * * * * *", "a step"),
        ("*/ * * * * *", "a step"),
        ("* * * * jan/2 *", "a single name takes no step"),
        ("jan * * * * *", "takes no names"),
        ("* * * * foo *", "unknown name"),
        ("? * * * * *", "write"),
        ("* * * ?/2 * *", "write"),
        ("* * * L * *", "names"),
        ("* * * 15W * *", "write"),
        ("* * * * * 2#1", "write"),
        ("1,,2 * * * * *", "write"),
        ("-1 * * * * *", "write"),
        ("1-2-3 * * * * *", "write"),
        ("٣ * * * * *", "write"),
        ("1234567890 * * * * *", "write"),
        ("@annually", "shorthands"),
        ("@midnight", "shorthands"),
        ("@every 5s", "shorthands"),
        ("@reboot", "shorthands"),
        ("*" * 2000, "2000 characters"),
    ],
)
def test_what_the_grammar_does_not_have_is_refused(expression: str, problem: str) -> None:
    """CR-2 to CR-6."""
    with pytest.raises(CronError, match=problem):
        Schedule.parse(expression)


def test_other_zones_are_read_as_utc() -> None:
    """CR-8."""
    in_tokyo = NOW.astimezone(datetime.strptime("+0900", "%z").tzinfo)
    assert following("0 0 9 * * *", 1, in_tokyo) == ["2026-11-23 09:00:00"]


NUMBERS = {"second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (1, 7)}


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """Text of a field and the values it means."""
    first = draw(st.integers(low, high))
    last, step = draw(st.integers(first, high)), draw(st.integers(1, high))
    return draw(
        st.sampled_from(
            [
                ("*", set(range(low, high + 1))),
                (f"{first}", {first}),
                (f"{first}-{last}", set(range(first, last + 1))),
                (f"*/{step}", set(range(low, high + 1, step))),
                (f"{first}/{step}", set(range(first, high + 1, step))),
                (f"{first},{last}", {first, last}),
            ]
        )
    )


@given(st.tuples(*(fields(low, high) for low, high in NUMBERS.values())), st.integers(0, 86_400 * 3000))
def test_the_next_time_is_the_first_later_one_that_matches_every_field(
    parts: tuple[tuple[str, set[int]], ...], offset: int
) -> None:
    texts, values = [text for text, _ in parts], [value for _, value in parts]
    start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=offset)
    found = Schedule.parse(" ".join(texts)).next_after(start)

    def matches(moment: datetime) -> bool:
        units = (moment.second, moment.minute, moment.hour, moment.day, moment.month, moment.isoweekday() % 7 + 1)
        return all(unit in allowed for unit, allowed in zip(units, values, strict=True))

    if found is not None:
        assert found > start
        assert matches(found)
        assert found.microsecond == 0
    # Nothing that matches lies between: seconds one by one for a while, then the days as a whole.
    for seconds in range(1, 2000):
        moment = start + timedelta(seconds=seconds)
        if found is not None and moment >= found:
            return
        assert not matches(moment)
    day = start.date() + timedelta(days=1)
    while (found is None and day.year < 2030) or (found is not None and day < found.date()):
        weekday = day.isoweekday() % 7 + 1
        assert not (day.day in values[3] and day.month in values[4] and weekday in values[5])
        day += timedelta(days=1)
