"""How much of something there was at once: counted from when each began and ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

Span = tuple[datetime, datetime | None]
"""From when until when; None is for what has not ended."""


def most_at_once(spans: Iterable[Span]) -> int:
    """How many of these there were at once, at most; one that begins when another ends was not there beside it."""
    changes = [change for begin, end in spans for change in ((begin, 1), (end, -1)) if change[0] is not None]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
