"""A moment that comes once a week, as clocks on the wall show it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, kw_only=True)
class Weekly:
    """A day, a time and a time zone (IANA): `sunday`, 21:00, `Europe/Berlin`."""

    day: str
    at: time
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"{self.day} {self.at:%H:%M} {self.zone}"

    def next_after(self, moment: datetime) -> datetime:
        """The first one after a moment, in UTC.

        The time is that on the wall in summer and in winter. One that a change of the clocks leaps over comes as much
        later as they leap; of one that comes twice the first counts.
        """
        zone = ZoneInfo(self.zone)
        local = moment.astimezone(zone)
        ahead = (DAYS.index(self.day) - local.weekday()) % 7
        # The one of last week first: clocks that leap over midnight may have put it off.
        for weeks in (-1, 0, 1):
            day = local.date() + timedelta(days=ahead + 7 * weeks)
            found = datetime.combine(day, self.at, tzinfo=zone).astimezone(UTC)
            if found > moment:
                return found
        raise AssertionError("one of a day and the same day a week later is later")
