"""Cron expressions in the engine's grammar, and the next time that one matches. UTC only, no clock of its own.

``sec min hour day-of-month month day-of-week [year]``, the days of the week from 1, a Sunday, to 7 (CR-2 to CR-8). No
library reads this: those at hand count from 0, a Sunday, or 7, take five fields, match either of the two day fields,
and accept ``L``, ``W`` and ``#``. What is left behind the grammar is one walk over the days.

Above: ``builtins/cron``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NoReturn

__all__ = ("CronError", "Schedule")

MAX_EXPRESSION: Final = 1000
"""Characters; no sensible expression comes near."""


class CronError(ValueError):
    """An expression outside the grammar. The text says what is wrong with which field."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: Mapping[str, int]
    takes_any: bool = False


def _names(first: int, *words: str) -> dict[str, int]:
    return {word: number for number, group in enumerate(words, first) for word in group.split()}


_MONTHS: Final = _names(
    1, "jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july", "aug august",
    "sep september", "oct october", "nov november", "dec december",
)  # fmt: skip
_DAYS: Final = _names(
    1, "sun sunday", "mon monday", "tue tues tuesday", "wed wednesday", "thu thurs thursday", "fri friday",
    "sat saturday",
)  # fmt: skip
_FIELDS: Final = (
    _Field("second", 0, 59, {}),
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}, takes_any=True),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 1, 7, _DAYS, takes_any=True),
    _Field("year", 1970, 2100, {}),
)
_SHORTHANDS: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 1",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_ITEM: Final = re.compile(r"(?P<all>\*)|(?P<first>[0-9]{1,9}|[a-z]+)(-(?P<last>[0-9]{1,9}|[a-z]+))?", re.ASCII)
_STEP: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed expression: the values of each field, ascending."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: tuple[int, ...]
    weekdays: frozenset[int]
    """1 is Sunday."""
    years: tuple[int, ...]

    @classmethod
    def parse(cls, expression: str) -> Schedule:
        """Read an expression; blanks around and between its fields may be many (CR-7).

        Raises:
            CronError: It is outside the grammar.
        """
        if len(expression) > MAX_EXPRESSION:
            raise CronError(f"it has {len(expression)} characters; the limit is {MAX_EXPRESSION}")
        text = expression.strip()
        if text.startswith("@"):
            if text not in _SHORTHANDS:
                raise CronError(f"{text!r} is none of the shorthands {', '.join(_SHORTHANDS)}")
            text = _SHORTHANDS[text]
        fields = text.split()
        if len(fields) == 5:
            raise CronError("it has 5 fields; the engine's expressions begin with seconds: put `0 ` in front")
        if len(fields) not in (6, 7):
            raise CronError(
                f"it has {len(fields)} field{'' if len(fields) == 1 else 's'}, not 6 or 7: "
                "second minute hour day-of-month month day-of-week [year]"
            )
        values = [_values(field, text) for field, text in zip(_FIELDS, [*fields, "*"], strict=False)]
        seconds, minutes, hours, days, months, weekdays, years = (tuple(sorted(each)) for each in values)
        return cls(seconds, minutes, hours, frozenset(days), months, frozenset(weekdays), years)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time that matches later than ``moment``, in whole seconds of UTC; None when there is none."""
        start = moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        for day in self._days_from(start.date()):
            at = self._first_time(start.time() if day == start.date() else time())
            if at is not None:
                return datetime.combine(day, at, UTC)
        return None

    def _days_from(self, start: date) -> Iterator[date]:
        for year in self.years[bisect_left(self.years, start.year) :]:
            for month in self.months:
                for number in range(1, monthrange(year, month)[1] + 1):
                    if number in self.days:
                        day = date(year, month, number)
                        # Both day fields must match, unlike in most crons (CR-7).
                        if day >= start and day.isoweekday() % 7 + 1 in self.weekdays:
                            yield day

    def _first_time(self, start: time) -> time | None:
        """The first time of a day from ``start`` on."""
        for hour in self.hours[bisect_left(self.hours, start.hour) :]:
            minute_from = start.minute if hour == start.hour else 0
            for minute in self.minutes[bisect_left(self.minutes, minute_from) :]:
                second_from = start.second if (hour, minute) == (start.hour, start.minute) else 0
                index = bisect_left(self.seconds, second_from)
                if index < len(self.seconds):
                    return time(hour, minute, self.seconds[index])
        return None


def _values(field: _Field, text: str) -> set[int]:
    """The values that a field allows: a comma list of ``*``, ``n``, ``a-b``, names, each but a name with a step."""
    if text == "?" and field.takes_any:
        text = "*"
    values: set[int] = set()
    for item in text.lower().split(","):
        values |= _item(field, item)
    return values


def _item(field: _Field, text: str) -> set[int]:
    body, slash, step = text.partition("/")
    match = _ITEM.fullmatch(body)
    if match is None:
        _refuse(field, text, "write *, a number, a range a-b, or a list of them")
    first, last, high = field.low, field.high, field.high
    if match["all"] is None:
        first = _number(field, match["first"], text)
        last = first
        if match["last"] is not None:
            last = _number(field, match["last"], text)
        elif slash:
            if not match["first"].isdigit():
                _refuse(field, text, "a single name takes no step")
            last = high  # a/n goes on to the maximum
    if first > last:
        _refuse(field, text, "the range is reversed")
    if not slash:
        return set(range(first, last + 1))
    if not _STEP.fullmatch(step) or not 1 <= int(step) <= high:
        _refuse(field, text, f"a step is a number from 1 to {high}")
    return set(range(first, last + 1, int(step)))


def _number(field: _Field, text: str, item: str) -> int:
    number = int(text) if text.isdigit() else field.names.get(text)
    if number is None:
        _refuse(field, item, "unknown name" if field.names else "this field takes no names")
    if not field.low <= number <= field.high:
        hint = ", 1 is Sunday" if field.names is _DAYS else ""
        _refuse(field, item, f"values go from {field.low} to {field.high}{hint}")
    return number


def _refuse(field: _Field, text: str, problem: str) -> NoReturn:
    raise CronError(f"{field.name} {text!r}: {problem}")
