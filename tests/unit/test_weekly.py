"""When a weekly deadline comes next, also when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.weekly import DAYS, Weekly

SUNDAY_EVENING = Weekly(day="sunday", at=time(21), zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "then"),
    [
        # 2026-01-04 is a Sunday; Berlin is an hour ahead in winter, two in summer.
        ("2026-01-02T12:00Z", "2026-01-04T20:00Z"),
        ("2026-01-04T19:59Z", "2026-01-04T20:00Z"),
        ("2026-01-04T20:00Z", "2026-01-11T20:00Z"),
        ("2026-03-28T12:00Z", "2026-03-29T19:00Z"),
        ("2026-10-24T12:00Z", "2026-10-25T20:00Z"),
    ],
)
def test_it_is_the_next_one_by_the_clock_on_the_wall(now: str, then: str) -> None:
    assert SUNDAY_EVENING.next_after(datetime.fromisoformat(now)) == datetime.fromisoformat(then)


def test_a_time_that_the_clocks_leap_over_comes_later_by_as_much() -> None:
    leapt = Weekly(day="sunday", at=time(2, 30), zone="Europe/Berlin")
    assert leapt.next_after(datetime(2026, 3, 28, 12, tzinfo=UTC)) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_of_a_time_that_comes_twice_the_first_counts() -> None:
    twice = Weekly(day="sunday", at=time(2, 30), zone="Europe/Berlin")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert twice.next_after(datetime(2026, 10, 24, 12, tzinfo=UTC)) == first
    assert twice.next_after(first) == datetime(2026, 11, 1, 1, 30, tzinfo=UTC)


def test_a_far_zone_has_its_own_day() -> None:
    there = Weekly(day="monday", at=time(1), zone="Pacific/Auckland")
    assert there.next_after(datetime(2026, 1, 3, 12, tzinfo=UTC)) == datetime(2026, 1, 4, 12, tzinfo=UTC)


@given(
    st.integers(0, 10 * 365 * 24 * 60).map(
        lambda minutes: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ),
    st.sampled_from(DAYS),
    st.times(),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland", "Asia/Kolkata"]),
)
def test_it_is_later_and_within_a_week_and_a_leap(now: datetime, day: str, at: time, zone: str) -> None:
    weekly = Weekly(day=day, at=at.replace(microsecond=0), zone=zone)
    then = weekly.next_after(now)
    assert now < then <= now + timedelta(days=7, hours=1)
