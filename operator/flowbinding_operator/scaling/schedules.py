"""Which bounds hold at a time: cron schedules, by the clock on the wall.

A schedule is on when it began more recently than it ended. Times are compared as a clock on the
wall shows them, so a time that a change to summer time skips counts as soon as the clock is past
it, and the hour that comes twice in autumn counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from flowbinding_api.scaling import Scaling, Schedule

DAYS = 366 * 8 + 3
"""How far back a start is looked for: 29 February comes after eight years at the latest."""
_NAMES = {
    name: number
    for names, first in (
        ("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC", 1),
        ("SUN MON TUE WED THU FRI SAT", 0),
    )
    for number, name in enumerate(names.split(), first)
}


class Bounds(NamedTuple):
    """How many workers there may be.

    Attributes:
        scheduled_low: Whether a schedule has set the lower one.
        scheduled_high: Whether a schedule has set the upper one.
    """

    low: int
    high: int
    scheduled_low: bool = False
    scheduled_high: bool = False


def bounds(scaling: Scaling, unix: float | None) -> Bounds:
    """The bounds that hold at a time, in seconds since the epoch; the usual ones when unknown."""
    usual = Bounds(scaling.min_replicas, scaling.max_replicas)
    if not scaling.schedules or unix is None:
        return usual
    minute = datetime.fromtimestamp(unix // 60 * 60, UTC)
    on = [schedule for schedule in scaling.schedules if is_on(schedule, minute)]
    lows = [s.min_replicas for s in on if s.min_replicas is not None]
    highs = [s.max_replicas for s in on if s.max_replicas is not None]
    high = max(highs, default=usual.high)
    low = min(max(lows, default=usual.low), high)
    return Bounds(low, high, bool(lows), bool(highs))


def is_on(schedule: Schedule, now: datetime) -> bool:
    """Whether a schedule is on at a time, which knows its time zone."""
    wall = now.astimezone(ZoneInfo(schedule.time_zone)).replace(tzinfo=None)
    began = last(schedule.start, wall)
    if began is None:
        return False
    ended = last(schedule.end, wall)
    return ended is None or began > ended


@lru_cache(maxsize=4096)
def last(cron: str, wall: datetime) -> datetime | None:
    """The last time at or before `wall` that a cron expression names, if there is any."""
    minutes, hours, days, months, weekdays = (
        _numbers(field, low, high)
        for field, (low, high) in zip(
            cron.split(" "), ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7)), strict=True
        )
    )
    weekdays |= {0} if 7 in weekdays else set()
    either = not (_any(cron, 2) or _any(cron, 4))
    times = [
        time(hour, minute)
        for hour in sorted(hours, reverse=True)
        for minute in sorted(minutes, reverse=True)
    ]
    for day in _days_back(wall.date()):
        of_week, of_month = day.isoweekday() % 7 in weekdays, day.day in days
        if day.month not in months or not (of_week or of_month if either else of_week and of_month):
            continue
        found = next((t for t in times if datetime.combine(day, t) <= wall), None)
        if found is not None:
            return datetime.combine(day, found)
    return None


def _days_back(day: date) -> Iterator[date]:
    return (day - timedelta(days=back) for back in range(DAYS))


def _any(cron: str, field: int) -> bool:
    """Whether a field leaves the day open, as classic cron sees it."""
    return cron.split(" ")[field].startswith("*")


def _numbers(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, end = span.partition("-")
        begin = low if first == "*" else _number(first)
        # "5/10" means from 5 on.
        final = high if first == "*" or (step and not end) else _number(end or first)
        # FRI-MON goes over the end of the week.
        parts = ((begin, high), (low, final)) if begin > final else ((begin, final),)
        numbers = [number for one, other in parts for number in range(one, other + 1)]
        found |= set(numbers[:: int(step or 1)])
    return found


def _number(text: str) -> int:
    return _NAMES[text] if text in _NAMES else int(text)
