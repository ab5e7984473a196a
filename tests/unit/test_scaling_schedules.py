"""Schedules: cron expressions on a wall clock, and the bounds that follow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.errors import InvalidBindingError
from flowbinding_api.scaling import Scaling, Schedule
from flowbinding_operator.scaling.schedules import Bounds, bounds, is_on, last
from scaling_world import spec_of

OFFICE = {"timeZone": "Europe/Berlin", "start": "0 8 * * MON-FRI", "end": "0 18 * * MON-FRI"}


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def scaling_of(*schedules: dict[str, Any], **more: Any) -> Scaling:
    return spec_of({"schedules": list(schedules), **more}).scaling


@pytest.mark.parametrize(
    ("cron", "wall", "expected"),
    [
        ("0 8 * * *", "2026-11-21 08:00", "2026-11-21 08:00"),
        ("0 8 * * *", "2026-11-21 07:59", "2026-11-20 08:00"),
        ("*/15 * * * *", "2026-11-21 10:44", "2026-11-21 10:30"),
        ("5/20 10 * * *", "2026-11-21 10:44", "2026-11-21 10:25"),
        ("30 9-17/4 * * *", "2026-11-21 16:00", "2026-11-21 13:30"),
        ("0 0 1 * *", "2026-11-21 10:00", "2026-11-01 00:00"),
        ("0 0 1 JAN,JUL *", "2026-11-21 10:00", "2026-07-01 00:00"),
        ("0 0 * * 0", "2026-11-21 10:00", "2026-11-15 00:00"),
        ("0 0 * * 7", "2026-11-21 10:00", "2026-11-15 00:00"),
        ("0 0 * * FRI-MON", "2026-11-19 10:00", "2026-11-16 00:00"),
        # Both days restricted: either will do.
        ("0 0 13 * FRI", "2026-11-21 10:00", "2026-11-20 00:00"),
        ("0 0 29 2 *", "2026-11-21 10:00", "2024-02-29 00:00"),
    ],
)
def test_the_last_time_that_an_expression_names(cron: str, wall: str, expected: str) -> None:
    assert last(cron, datetime.fromisoformat(wall)) == datetime.fromisoformat(expected)


def test_a_day_that_never_comes() -> None:
    assert last("0 0 31 2 *", datetime(2026, 11, 21)) is None  # noqa: DTZ001
    never = Schedule.model_validate({"start": "0 0 31 2 *", "end": "0 0 * * *", "minReplicas": 1})
    assert not is_on(never, datetime(2026, 11, 21, tzinfo=UTC))


@pytest.mark.parametrize(
    ("time", "on"),
    [
        ("2026-11-20T06:59:00+00:00", False),
        ("2026-11-20T07:00:00+00:00", True),
        ("2026-11-20T16:59:00+00:00", True),
        ("2026-11-20T17:00:00+00:00", False),
        ("2026-11-21T10:00:00+00:00", False),
        # In summer the clock on the wall is an hour further.
        ("2026-07-20T06:00:00+00:00", True),
        ("2026-07-20T16:00:00+00:00", False),
    ],
)
def test_a_schedule_follows_the_clock_on_the_wall(time: str, on: bool) -> None:
    scaling = scaling_of({**OFFICE, "minReplicas": 3})
    expected = Bounds(3, 10, scheduled_low=True) if on else Bounds(0, 10)
    assert bounds(scaling, unix(time)) == expected


def test_a_start_in_the_hour_that_summer_time_skips_counts_after_it() -> None:
    schedule = {"timeZone": "Europe/Berlin", "start": "30 2 * * *", "end": "0 4 * * *"}
    scaling = scaling_of({**schedule, "minReplicas": 2})
    assert bounds(scaling, unix("2026-03-29T00:59:00+00:00")).low == 0
    assert bounds(scaling, unix("2026-03-29T01:00:00+00:00")).low == 2
    assert bounds(scaling, unix("2026-03-29T02:00:00+00:00")).low == 0


def test_over_midnight() -> None:
    night = {"start": "0 22 * * *", "end": "0 6 * * *", "maxReplicas": 2}
    scaling = scaling_of(night)
    assert bounds(scaling, unix("2026-11-21T23:00:00+00:00")).high == 2
    assert bounds(scaling, unix("2026-11-21T05:59:00+00:00")).high == 2
    assert bounds(scaling, unix("2026-11-21T06:00:00+00:00")).high == 10


def test_of_several_schedules_the_highest_bounds_count() -> None:
    always = {"start": "0 0 * * *", "end": "59 23 * * *"}
    scaling = scaling_of(
        {**always, "minReplicas": 2, "maxReplicas": 5},
        {**always, "minReplicas": 4},
        {**always, "maxReplicas": 20},
    )
    expected = Bounds(4, 20, scheduled_low=True, scheduled_high=True)
    assert bounds(scaling, unix("2026-11-21T12:00:00+00:00")) == expected


def test_the_lower_bound_gives_way_to_the_upper_one() -> None:
    schedule = {"start": "0 0 * * *", "end": "59 23 * * *", "maxReplicas": 2}
    scaling = scaling_of(schedule, minReplicas=5)
    assert bounds(scaling, unix("2026-11-21T12:00:00+00:00"))[:2] == (2, 2)


def test_without_a_clock_the_usual_bounds_hold() -> None:
    assert bounds(scaling_of({**OFFICE, "minReplicas": 3}), None) == Bounds(0, 10)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "Europe"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidBindingError, match=r"spec\.scaling\.schedules.*timeZone"):
        scaling_of({**OFFICE, "timeZone": zone, "minReplicas": 1})


fields = st.tuples(
    st.integers(0, 59), st.integers(0, 23), st.sampled_from(["*", "1", "15", "1-7"]),
    st.sampled_from(["*", "3", "JAN-JUN"]), st.sampled_from(["*", "1-5", "SUN"]),
)  # fmt: skip


@given(cron=fields, wall=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)))  # noqa: DTZ001
def test_the_last_time_is_not_in_the_future_and_fits(
    cron: tuple[int, int, str, str, str], wall: datetime
) -> None:
    found = last(" ".join(map(str, cron)), wall)
    assert found is not None
    assert found <= wall
    assert (found.minute, found.hour) == cron[:2]
    # It is its own last time, and a minute before it there was an earlier one.
    assert last(" ".join(map(str, cron)), found) == found
