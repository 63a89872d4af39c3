"""What templates may do is bounded, and so is what an error of one can say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

MOST_WORK = 4_000_000
"""What the templates of one request may do together, in characters printed or handled by filters."""

ROUND = 16
"""What one round of a loop costs, in the same measure."""


class BadTemplate(Exception):
    """What was written is no template; says why."""


class NotRendered(Exception):
    """A template cannot be filled with these values; says why, without quoting any."""


class _Meter:
    def __init__(self) -> None:
        self._left = MOST_WORK

    def spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise NotRendered("it does too much: it loops too long, or makes too much text")


_METER: ContextVar[_Meter | None] = ContextVar("meter", default=None)


@contextlib.contextmanager
def metered() -> Iterator[None]:
    """Bound what is rendered in this block, together; without it each rendering is bounded by itself."""
    if _METER.get() is not None:
        yield
        return
    token = _METER.set(_Meter())
    try:
        yield
    finally:
        _METER.reset(token)


def spend(work: int) -> None:
    """Account for work; raise `NotRendered` where the meter of this block is used up."""
    meter = _METER.get()
    if meter is not None:
        meter.spend(work)
