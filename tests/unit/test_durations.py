"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import durations
from leasehold.errors import Invalid
from leasehold.model import LONGEST


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1s", timedelta(seconds=1)),
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(days=1)),
        ("5d", timedelta(days=5)),
        ("007d", timedelta(days=7)),
        ("365d", LONGEST),
        ("8760h", LONGEST),
    ],
)
def test_what_people_write(text: str, duration: timedelta) -> None:
    assert durations.parse(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0s",
        "0d",
        "-5m",
        "+5m",
        "5",
        "5 m",
        " 5m",
        "5m\n",
        "5M",
        "5w",
        "1h30m",
        "1.5h",
        "1e3s",
        "366d",
        "999999999d",
        "1000000000s",
        "9" * 5000 + "s",
        "P1D",
        "one hour",
        # Digits that are not those of the published pattern.
        "\N{ARABIC-INDIC DIGIT THREE}h",
        "\N{FULLWIDTH DIGIT THREE}h",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        durations.parse(text)
    assert caught.value.code == "invalid"


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(seconds=1), "1s"),
        (timedelta(seconds=5400), "90m"),
        (timedelta(hours=24), "1d"),
        (timedelta(hours=36), "36h"),
        (timedelta(seconds=86401), "86401s"),
        (timedelta(0), "0s"),
    ],
)
def test_they_are_written_in_the_largest_unit_that_divides_them(duration: timedelta, text: str) -> None:
    assert durations.render(duration) == text


@given(st.integers(1, int(LONGEST.total_seconds())))
def test_what_is_written_is_read_again(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert durations.parse(durations.render(duration)) == duration
