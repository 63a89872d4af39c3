"""What is to be expected: from when on each of those who wait can have what it wants, as far as that can be foreseen.

Pure. Everybody is served in the order of service, with what those before it leave, as early as it fits: between two who
are before it as well, where its time is over in time. Whoever gives back early makes it all come earlier.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from leasehold import allocation
from leasehold.allocation import Candidate, Want

_MOST_LOOKS = 200
"""After so many moments at which it does not fit, nothing is foretold."""

Span = tuple[datetime, datetime]


@dataclass(kw_only=True)
class Diary:
    """One resource, and the spans in which it is not to be had, in order: its holder's time, and what is promised."""

    candidate: Candidate
    taken: list[Span] = field(default_factory=list)

    def enter(self, start: datetime, end: datetime) -> None:
        """Take it for a span."""
        insort(self.taken, (start, end))

    def is_free(self, start: datetime, end: datetime) -> bool:
        """Whether it is to be had for all of a span."""
        return not any(one < end and start < other for one, other in self.taken)

    def next_gap(self, after: datetime, length: timedelta) -> datetime:
        """From when on, not before `after`, it is to be had for so long."""
        at = after
        for start, end in self.taken:
            if start >= at + length:
                break
            at = max(at, end)
        return at


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """Who wants something, for how long all in all: stages, holding, grace and cleaning.

    Claimants of one `shape` can be served by the same resources.
    """

    lease: str
    shape: Hashable
    wants: Sequence[Want]
    lasts: timedelta
    not_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """From when on, and what: for each item the resources."""

    start: datetime
    resources: Sequence[Sequence[Candidate]]


class Outlook:
    """Diaries that fill while one after the other is foretold."""

    def __init__(self, diaries: Iterable[Diary], now: datetime) -> None:
        self.now = now
        self._diaries = {diary.candidate.key: diary for diary in diaries}
        self._useful: dict[Hashable, list[Diary]] = {}

    def settle(self, claimant: Claimant) -> Forecast | None:
        """Foretell one, and keep what it will have from those who are foretold after it."""
        found = self.earliest(claimant)
        if found is not None:
            for candidate in (one for group in found.resources for one in group):
                self._diaries[candidate.key].enter(found.start, found.start + claimant.lasts)
        return found

    def at(self, claimant: Claimant, start: datetime) -> Forecast | None:
        """What it can have from just then on."""
        end = start + claimant.lasts
        free = [diary.candidate for diary in self._for(claimant) if diary.is_free(start, end)]
        chosen = allocation.assign(claimant.wants, free)
        return None if chosen is None else Forecast(start=start, resources=chosen)

    def earliest(self, claimant: Claimant) -> Forecast | None:
        """When it can first have all that it wants, and what; None where that is never, or too far to be seen."""
        need = sum(want.item.count for want in claimant.wants)
        at = max(self.now, claimant.not_before or self.now)
        for _ in range(_MOST_LOOKS):
            gaps = sorted(diary.next_gap(at, claimant.lasts) for diary in self._for(claimant))
            if len(gaps) < need:
                return None
            # Before that there is not enough, whatever it is.
            at = max(at, gaps[need - 1])
            found = self.at(claimant, at)
            if found is not None:
                return found
            # What was too short a gap may be a long one from the next end on.
            later = [end for diary in self._for(claimant) for _, end in diary.taken if end > at]
            if not later:
                return None
            at = min(later)
        return None

    def _for(self, claimant: Claimant) -> list[Diary]:
        found = self._useful.get(claimant.shape)
        if found is None:
            found = [
                diary
                for diary in self._diaries.values()
                if any(allocation.suits(want.item, diary.candidate) for want in claimant.wants)
            ]
            self._useful[claimant.shape] = found
        return found
