"""Durations as people write them: `90s`, `30m`, `24h`, `5d`."""

from __future__ import annotations

import re
from datetime import timedelta

from leasehold.errors import Invalid
from leasehold.model import LONGEST

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse(text: str) -> timedelta:
    """Return the duration that `text` says; raise `Invalid` unless it is more than zero and at most `LONGEST`."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    if match is None:
        raise Invalid(f"{text[:40]!r} is not a duration such as 90s, 30m, 24h or 5d")
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if not timedelta(0) < duration <= LONGEST:
        raise Invalid(f"a duration must be more than 0 and at most {LONGEST.days}d, and {text!r} is not")
    return duration


def render(duration: timedelta) -> str:
    """Write a duration in the largest unit that divides it: `5400s` is `90m`."""
    seconds = round(duration.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
