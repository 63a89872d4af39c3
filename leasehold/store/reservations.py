"""Reservations: which resources are promised to leases that begin later, and what others may not do because of it.

A promise names certain resources, chosen when the reservation is admitted, so that it can be checked beside all others.
When its time comes the lease goes before everybody else, and takes others that are free where one of its own is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select

from leasehold.allocation import Key
from leasehold.errors import NotReservable
from leasehold.forecast import Forecast
from leasehold.model import ResourceState
from leasehold.ports import Promise
from leasehold.store import diaries, events, granting
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue
from leasehold.store.engine import Tx
from leasehold.store.history import History
from leasehold.store.lanes import Waiting
from leasehold.store.outlook import Line

_P = t.promises.c
_NUMBERED = select(t.promises, t.leases.c.number).join(t.leases, t.leases.c.id == _P.lease).order_by(_P.begins)
_THERE = (t.resources.c.pool == _P.pool) & (t.resources.c.name == _P.resource)


def promise(tx: Tx, one: Waiting, known: Catalogue) -> Forecast:
    """Choose what a reservation will be given, beside all that is promised, and what those who wait will need.

    Raises `NotReservable`, with the earliest time at which it could begin.
    """
    assert one.start_at is not None
    line = Line(tx.connection, tx.now, max, known)
    claimant = line.claimant(one)
    outlook, _ = line.foretell(line.waiting(known.pools(one.wishes)), one.wishes)
    found = outlook.at(claimant, one.start_at)
    if found is None:
        later = outlook.earliest(claimant)
        when = f"; the earliest is {_minute(later.start)}" if later else ""
        wanted = ", ".join(f"{item.count} of {item.pool or 'any pool'}" for item in one.wishes)
        span = f"from {_minute(one.start_at)} to {_minute(one.start_at + one.duration)}"
        raise NotReservable(f"{wanted} cannot be promised {span}{when}")
    return found


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def keep(tx: Tx, one: Waiting, forecast: Forecast, known: Catalogue) -> None:
    """Write down what is promised to a reservation, in the stead of what was."""
    drop(tx, one.lease)
    lasts = History(tx.connection, known.specs, max).occupying(known.pools(one.wishes), one.duration)
    tx.execute(
        insert(t.promises),
        [
            {
                "lease": one.lease,
                "pool": candidate.pool,
                "resource": candidate.name,
                "item": place,
                "begins": forecast.start,
                "ends": forecast.start + lasts,
            }
            for place, group in zip(one.items, forecast.resources, strict=True)
            for candidate in group
        ],
    )


def drop(tx: Tx, lease: str) -> None:
    """Promise a lease nothing any more: it has what it wanted, or is over."""
    tx.execute(delete(t.promises).where(_P.lease == lease))


class Promises:
    """What is promised, while one transaction grants."""

    def __init__(self, tx: Tx, known: Catalogue, heads: Iterable[Waiting]) -> None:
        self._now = tx.now
        self._known = known
        self._history = History(tx.connection, known.specs, max)
        # Each reservation is at the head of its own lane.
        any_ = any(one.start_at is not None for one in heads)
        self._rows: Sequence[Row[Any]] = tx.execute(_NUMBERED).all() if any_ else ()

    def barring(self, one: Waiting) -> frozenset[Key]:
        """The resources that are promised to others before a lease would have given them back, served now."""
        if not self._rows:
            return frozenset()
        end = self._now + self._history.occupying(self._known.pools(one.wishes), one.duration)
        mine = {(row.pool, row.resource) for row in self._rows if row.lease == one.lease}
        theirs = {(row.pool, row.resource) for row in self._rows if row.lease != one.lease and row.begins < end}
        return frozenset(theirs - mine)

    def before(self, duration: timedelta | None) -> list[Promise]:
        """What is promised before one who took it now would have given it back, by default or after a duration."""
        found = []
        for row in self._rows:
            spec = self._known.specs.get(row.pool)
            lasts = duration or (spec.policy.default_duration if spec else timedelta(0))
            if row.begins < self._now + self._history.occupying([row.pool], lasts):
                found.append(
                    Promise(lease=row.number, pool=row.pool, name=row.resource, begins_at=row.begins, ends_at=row.ends)
                )
        return found


def mend(tx: Tx, upcoming: Sequence[Waiting], known: Catalogue) -> None:
    """Promise others to reservations whose resources went out of use, or will come back too late, if there are some."""
    if not upcoming:
        return
    line = Line(tx.connection, tx.now, max, known)
    broken = _unkept(tx, line.history)
    for one in sorted(upcoming, key=lambda one: (one.start_at or tx.now, one.number)):
        if one.lease not in broken:
            continue
        outlook, _ = line.foretell(line.waiting(known.pools(one.wishes)), one.wishes, without={one.lease})
        assert one.start_at is not None
        found = outlook.at(line.claimant(one), one.start_at)
        if found is not None:
            keep(tx, one, found, known)
            about = granting.granted_data(found.resources)
            events.record(tx, "lease_promised", lease=one.lease, reason=broken[one.lease], data=about)


def _unkept(tx: Tx, history: History) -> dict[str, str]:
    """The reservations that could not be kept as things stand, with why."""
    query = (
        select(
            _P.lease.label("promised_to"),
            _P.begins,
            _P.pool,
            _P.resource,
            t.resources.c.offline_since,
            t.resources.c.draining,
            *diaries.HOLDER,
        )
        .select_from(t.promises)
        .outerjoin(t.resources, _THERE)
        .outerjoin(t.grants, diaries.HELD)
        .outerjoin(t.leases, t.leases.c.id == t.grants.c.lease)
    )
    troubles = [(row, _trouble(row, history, tx.now)) for row in tx.execute(query)]
    return {row.promised_to: f"{row.pool}/{row.resource} {why}" for row, why in troubles if why}


def _trouble(row: Row[Any], history: History, now: datetime) -> str | None:
    """What keeps a resource from being given to whom it is promised."""
    if row.resource_state is None or row.draining:
        return "is gone"
    if row.resource_state == ResourceState.BROKEN:
        return "is broken"
    if row.offline_since is not None:
        return "is offline"
    free_at = diaries.free_at(row, history, now)
    return "will not be back in time" if free_at is not None and free_at > row.begins else None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Until when a lease may last: then `what` it has must be ready for `reservation`, which begins at `begins`."""

    until: datetime
    what: str
    reservation: int
    begins: datetime

    @property
    def detail(self) -> str:
        """In words."""
        return f"{self.what} is promised to lease {self.reservation} from {_minute(self.begins)}"


def limit(tx: Tx, lease: str, known: Catalogue) -> Limit | None:
    """How long a lease that has something may last beside what is promised to others."""
    query = (
        select(_P.begins, _P.pool, _P.resource, t.leases.c.number)
        .join(t.grants, (t.grants.c.pool == _P.pool) & (t.grants.c.resource == _P.resource))
        .join(t.leases, t.leases.c.id == _P.lease)
        .where(t.grants.c.lease == lease, t.grants.c.closed_at.is_(None), _P.lease != lease)
    )
    history = History(tx.connection, known.specs, max)
    limits = [
        Limit(
            until=row.begins - history.cleaning(row.pool) - history.grace(row.pool),
            what=f"{row.pool}/{row.resource}",
            reservation=row.number,
            begins=row.begins,
        )
        for row in tx.execute(query)
    ]
    return min(limits, key=lambda one: one.until, default=None)
