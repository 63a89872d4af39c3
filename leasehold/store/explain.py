"""Explaining: where a lease stands that waits, what for, until when, and what it could have instead."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from leasehold import allocation, reasons
from leasehold.forecast import Forecast
from leasehold.model import OVER, Alternative, Item, LeaseState, QueuePlace, ResourceState
from leasehold.reasons import Holder, Promised, Supply
from leasehold.store import catalogue, diaries, facts, lanes, matching, order, stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Shape
from leasehold.store.lanes import Waiting
from leasehold.store.outlook import FARTHEST, Line

_R, _L, _P = t.resources.c, t.leases.c, t.promises.c
_HOLDERS_READ = 20
_MOST_LISTED = 100_000
_MOST_ALTERNATIVES = 5
_STEPS = 50
"""In so many steps less and less is tried."""

_THERE = (_R.pool == t.grants.c.pool) & (_R.name == t.grants.c.resource)


class Explanations:
    """What one reader asks about leases (rows of `leases`): what is the same for several is read once."""

    def __init__(self, connection: Connection, now: datetime, leases: Sequence[Row[Any]] = ()) -> None:
        self._connection = connection
        self._now = now
        self._queued = lanes.of(connection, [lease.id for lease in leases if lease.waiting])
        self._lines: dict[frozenset[str], list[tuple[int, tuple[int, int], int]]] = {}
        self._supplies: dict[Shape, Supply] = {}
        self._foretold: dict[frozenset[str], dict[str, Forecast]] = {}

    def place(self, lease: Row[Any], *, alternatives: bool = False) -> QueuePlace | None:
        """Where one of these leases stands that waits; None for one that goes on.

        The position is that among those that want of the same pools, 0 where it waits for none of them. Only where they
        are asked for, `alternatives` say what could be had now instead.
        """
        if lease.state in OVER:
            return None
        if not lease.waiting:
            return QueuePlace(position=0, reason=lease.blocked) if lease.blocked else None
        one = self._queued.get(lease.id)
        if one is None:
            return None
        if order.is_upcoming(one, self._now):
            return self._reserved(one)
        ahead = self._ahead(one)
        parts = [lease.blocked, *self._obstacles(one), *self._shortages(one), reasons.before(ahead) if ahead else None]
        return QueuePlace(
            position=ahead + 1,
            reason="; ".join(part for part in parts if part),
            eta=self._eta(one, ahead) if ahead < FARTHEST else None,
            alternatives=self._alternatives(one) if alternatives else None,
        )

    def queue(self, pool: str) -> list[str]:
        """Who waits for a pool, in the order of service; then who has reserved of it."""
        mine = self._line.waiting({pool}, _MOST_LISTED)
        reserved = [one for one in self._reservations if order.is_upcoming(one, self._now)]
        return [one.lease for one in (*mine, *(one for one in reserved if pool in self._line.known.pools(one.wishes)))]

    @cached_property
    def _reservations(self) -> list[Waiting]:
        return lanes.reservations(self._connection)

    @cached_property
    def _line(self) -> Line:
        return Line(self._connection, self._now, statistics.median, catalogue.current(self._connection))

    def _ahead(self, one: Waiting) -> int:
        """How many go before a lease that want of the same pools."""
        pools, mine = self._line.known.pools(one.wishes), self._line.rank(one)
        due = [
            other
            for other in self._reservations
            if not order.is_upcoming(other, self._now)
            and self._line.rank(other) < mine
            and not pools.isdisjoint(self._line.known.pools(other.wishes))
        ]
        if one.start_at is not None:
            return len(due)
        return len(due) + bisect_left(self._standing_in_line(frozenset(pools)), mine[1:])

    def _standing_in_line(self, pools: frozenset[str]) -> list[tuple[int, tuple[int, int], int]]:
        """The ranks of all who want of these pools, in order."""
        if pools not in self._lines:
            line = lanes.line(self._connection, pools)
            shares = {owner: self._line.shares.rank(owner, pools) for owner in {owner for _, owner, _ in line}}
            self._lines[pools] = sorted((-priority, shares[owner], number) for priority, owner, number in line)
        return self._lines[pools]

    def _obstacles(self, one: Waiting) -> list[str]:
        """What keeps a lease waiting whatever is free."""
        found = []
        suspended = facts.suspended(self._connection)
        if suspended is not None:
            found.append(f"nothing is granted until an operator has run leasehold reconcile: {suspended}")
        excess = self._line.shares.excess(one)
        if excess is not None:
            found.append(f"over its quota: {excess.detail}")
        paused = order.paused(one, self._line.known)
        return [*found, *([paused] if paused else [])]

    # What there is

    def _shortages(self, one: Waiting) -> list[str]:
        supplies = [(item, self._supply(item)) for item in one.wishes]
        promised = {key: row for row in self._promises(one) if (key := (row.pool, row.resource))}
        said = []
        for item, supply in supplies:
            mine = Counter((row.number, row.begins) for row in promised.values() if self._is_free_for(item, row))
            told = [Promised(number=n, count=many, begins=begins) for (n, begins), many in sorted(mine.items())]
            said.append(reasons.shortage(item, replace(supply, promised=told), self._now))
        enough = all(supply.free >= item.count for item, supply in supplies)
        if enough and not promised and not self._line.is_held_up(one):
            said.append("what is free is kept for those who have waited longer")
        return said

    def _supply(self, item: Item) -> Supply:
        shape = catalogue.shape([item])
        found = self._supplies.get(shape)
        if found is None:
            where = self._suiting(item)
            found = self._supplies[shape] = self._counted(where)
        return found

    def _suiting(self, item: Item) -> list[ColumnElement[bool]]:
        """Which rows of `resources` suit an item."""
        kinds = self._line.known.serving([item])
        where = [_R.pool.in_({kind.pool for kind in kinds}), _R.kind.in_([kind.id for kind in kinds]), ~_R.draining]
        if catalogue.is_particular(item):
            rows = self._connection.execute(select(t.resources).where(*where))
            where.append(_R.name.in_([row.name for row in rows if allocation.suits(item, stock.as_candidate(row))]))
        return where

    def _counted(self, where: Sequence[ColumnElement[bool]]) -> Supply:
        query = (
            select(_R.pool, _R.state, _R.offline_since.is_not(None).label("off"), func.count().label("many"))
            .where(*where)
            .group_by(_R.pool, _R.state, "off")
        )
        counted: Counter[str] = Counter()
        for row in self._connection.execute(query):
            counted[self._standing(row)] += row.many
        held, free = counted.pop(ResourceState.LEASED, 0), counted.pop(ResourceState.FREE, 0)
        return Supply(free=free, held=held, holders=self._holders(where) if held else (), others=counted)

    def _standing(self, row: Any) -> str:
        """What keeps a resource from being granted, in a word."""
        if row.state != ResourceState.FREE:
            return str(row.state)
        return "offline" if row.off else "paused" if row.pool in self._line.known.paused else str(row.state)

    def _holders(self, where: Sequence[ColumnElement[bool]]) -> list[Holder]:
        """Who holds some of it and will give it back first."""
        query = (
            select(
                _L.number,
                _L.state,
                _L.expires_at,
                _L.grace_until,
                _L.duration_s,
                func.min(t.grants.c.pool).label("pool"),
                func.min(t.grants.c.granted_at).label("granted_at"),
                func.count().label("many"),
            )
            .select_from(t.grants)
            .join(t.resources, _THERE)
            .join(t.leases, _L.id == t.grants.c.lease)
            .where(t.grants.c.closed_at.is_(None), *where)
            .group_by(_L.id, _L.number, _L.state, _L.expires_at, _L.grace_until, _L.duration_s)
            .order_by(func.coalesce(_L.grace_until, _L.expires_at).nulls_last(), _L.number)
            .limit(_HOLDERS_READ)
        )
        rows = self._connection.execute(query)
        found = [Holder(number=row.number, count=row.many, until=self._until(row)) for row in rows]
        return sorted(found, key=lambda holder: (holder.until or self._now, holder.number))

    def _until(self, row: Any) -> datetime:
        """When a holder's time is over, as far as that can be foreseen."""
        if row.state == LeaseState.ACTIVE:
            end: datetime = row.grace_until or row.expires_at
            return end
        return diaries.active_until(row, self._line.history, self._now)

    def _promises(self, one: Waiting) -> list[Row[Any]]:
        """What is promised to others before a lease would have given it back."""
        if not self._promised:
            return []
        end = self._now + self._line.claimant(one).lasts
        return [row for row in self._promised if row.begins < end and row.lease != one.lease]

    @cached_property
    def _promised(self) -> Sequence[Row[Any]]:
        query = select(t.promises, _L.number).join(t.leases, _L.id == _P.lease)
        rows: Sequence[Row[Any]] = self._connection.execute(query).all()
        return rows

    def _is_free_for(self, item: Item, promise: Row[Any]) -> bool:
        """Whether a resource that is promised is free now, and suits an item."""
        query = select(t.resources).where(
            _R.pool == promise.pool, _R.name == promise.resource, _R.state == ResourceState.FREE
        )
        row = self._connection.execute(query).one_or_none()
        return row is not None and allocation.suits(item, stock.as_candidate(row))

    # What is to be expected

    def _reserved(self, one: Waiting) -> QueuePlace:
        """A reservation waits in no queue."""
        assert one.start_at is not None
        rows = self._connection.execute(select(t.promises).where(_P.lease == one.lease).order_by(_P.pool, _P.resource))
        promised = [f"{row.pool}/{row.resource}" for row in rows]
        what = reasons.listed(promised) if promised else "nothing can be promised by now"
        start = reasons.clock(one.start_at, self._now)
        return QueuePlace(position=0, reason=f"reserved from {start}: {what}", eta=self._ready(one, one.start_at))

    def _eta(self, one: Waiting, ahead: int) -> datetime | None:
        """When a lease will be active, as far as can be foreseen: not while an operator or a quota holds it up."""
        if facts.suspended(self._connection) is not None or self._line.is_held_up(one):
            return None
        if one.start_at is not None:
            outlook, _ = self._line.foretell([], one.wishes, without={one.lease})
            found = outlook.earliest(self._line.claimant(one))
        else:
            found = self._forecasts(one, ahead).get(one.lease)
        return None if found is None else self._ready(one, found.start)

    def _forecasts(self, one: Waiting, ahead: int) -> dict[str, Forecast]:
        """What is foretold of a lease, and of those before it; of all who are asked for together, for several."""
        pools = frozenset(self._line.known.pools(one.wishes))
        if pools not in self._foretold:
            many = FARTHEST if len(self._queued) > 1 else ahead + 1
            _, self._foretold[pools] = self._line.foretell(self._line.waiting(set(pools), FARTHEST)[:many])
        return self._foretold[pools]

    def _ready(self, one: Waiting, granted_at: datetime) -> datetime:
        pools = self._line.known.pools(one.wishes)
        return granted_at + max(map(self._line.history.preparing, pools), default=granted_at - granted_at)

    # What else there is

    def _alternatives(self, one: Waiting) -> tuple[Alternative, ...]:
        """What could be had now instead: with a condition less, of another pool, or less of it."""
        if self._obstacles(one):
            return ()
        known = self._line.known
        spare = matching.Spare(self._connection, self._now, set(known.policies))
        found: dict[Shape, Alternative] = {}
        for variations in _variations(one.wishes, sorted(known.policies)):
            for detail, items in variations:
                shape = catalogue.shape(items)
                if shape in found:
                    break
                if spare.choose(replace(one, items=dict(enumerate(items)))) is not None:
                    found[shape] = Alternative(detail=detail, items=items)
                    break
            if len(found) == _MOST_ALTERNATIVES:
                break
        return tuple(found.values())


_Variation = tuple[str, tuple[Item, ...]]


def _variations(wishes: Sequence[Item], pools: Sequence[str]) -> Iterator[list[_Variation]]:
    """Requests that differ in one respect, each with the words for it; of each list only one is worth telling."""

    def instead(place: int, item: Item, how: str) -> _Variation:
        return f"{reasons.wish(item)}{how}", (*wishes[:place], item, *wishes[place + 1 :])

    for place, item in enumerate(wishes):
        for text in item.match:
            less = replace(item, match=tuple(one for one in item.match if one != text))
            yield [instead(place, less, f", without {text}")]
        for tag in item.tags:
            less = replace(item, tags=tuple(one for one in item.tags if one != tag))
            yield [instead(place, less, f", not tagged {tag}")]
        if item.names:
            yield [instead(place, replace(item, names=()), ", whatever it is called")]
    for place, item in enumerate(wishes):
        fewer = [n for n in (*range(item.count - 1, 0, -max(1, item.count // _STEPS)), 1) if n < item.count]
        yield [instead(place, replace(item, count=n), f", not {item.count}") for n in fewer]
    for place, item in enumerate(wishes):
        for pool in pools if item.pool and not item.names else ():
            if pool != item.pool:
                yield [instead(place, replace(item, pool=pool), f", not of {item.pool}")]
