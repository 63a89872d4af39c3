"""Supplies: how much there is of what a lease waits for, who has it, and to whom it is promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select

from leasehold import allocation
from leasehold.model import Item, LeaseState, PoolSpec, ResourceState
from leasehold.reasons import Holder, Making, Promised, Supply
from leasehold.store import catalogue, diaries, growth, stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Shape
from leasehold.store.lanes import Waiting
from leasehold.store.outlook import FORESEEN, Line

_R, _L, _P = t.resources.c, t.leases.c, t.promises.c
_HOLDERS_READ = 20
_THERE = (_R.pool == t.grants.c.pool) & (_R.name == t.grants.c.resource)
_PROMISED = (
    select(t.promises, _L.number, t.resources)
    .join(t.leases, _L.id == _P.lease)
    .join(t.resources, (_R.pool == _P.pool) & (_R.name == _P.resource))
    .where(_R.state == ResourceState.FREE)
)


def standing(row: Any) -> str:
    """What a resource is that is free, in a word: anybody's, or why it is not."""
    return "offline" if row.off else "kept" if row.kept else "suspect" if row.suspect else str(ResourceState.FREE)


class Supplies:
    """What there is, as one reader sees it: what is the same for several leases is counted once."""

    def __init__(self, connection: Connection, line: Line) -> None:
        self._connection = connection
        self._line = line
        self._counted: dict[Shape, Supply] = {}

    def of(self, one: Waiting) -> list[Supply]:
        """What there is of each item that a lease still wants."""
        promised = self._promised_before_its_end(one)
        return [replace(self._of(item), promised=_told(item, promised)) for item in one.wishes]

    def _promised_before_its_end(self, one: Waiting) -> list[Row[Any]]:
        """What is free and promised to others before a lease would have given it back."""
        if not self._promised:
            return []
        end = self._line.now + self._line.claimant(one).lasts
        return [row for row in self._promised if row.begins < end and row.lease != one.lease]

    @cached_property
    def _promised(self) -> Sequence[Row[Any]]:
        rows: Sequence[Row[Any]] = self._connection.execute(_PROMISED).all()
        return rows

    def _of(self, item: Item) -> Supply:
        shape = catalogue.shape([item])
        found = self._counted.get(shape)
        if found is None:
            found = self._counted[shape] = self._count(item, self._suiting(item))
        return found

    def _suiting(self, item: Item) -> list[ColumnElement[bool]]:
        """Which rows of `resources` suit an item."""
        kinds = self._line.known.serving([item])
        where = [_R.pool.in_({kind.pool for kind in kinds}), _R.kind.in_([kind.id for kind in kinds]), ~_R.draining]
        if catalogue.is_particular(item):
            rows = self._connection.execute(select(t.resources).where(*where))
            where.append(_R.name.in_([row.name for row in rows if allocation.suits(item, stock.as_candidate(row))]))
        return where

    def _count(self, item: Item, where: Sequence[ColumnElement[bool]]) -> Supply:
        query = (
            select(
                _R.pool,
                _R.state,
                _R.offline_since.is_not(None).label("off"),
                _R.share_key.is_not(None).label("kept"),
                _R.suspect,
                func.count().label("many"),
            )
            .where(*where)
            .group_by(_R.pool, _R.state, "off", "kept", _R.suspect)
        )
        counted: Counter[str] = Counter()
        for row in self._connection.execute(query):
            counted[self._standing(row)] += row.many
        held, free = counted.pop(ResourceState.LEASED, 0), counted.pop(ResourceState.FREE, 0)
        making = [self._making[pool] for pool in sorted(self._line.known.making_for([item])) if pool in self._making]
        return Supply(
            free=free,
            held=held,
            holders=self._holders(where) if held else (),
            others=counted,
            making=[_for(self._line.known.making[one.pool], item, one) for one in making],
        )

    @cached_property
    def _making(self) -> dict[str, Making]:
        """The pools that make something, as they stand."""
        known = self._line.known
        pools = [pool for pool in known.making if pool not in known.paused]
        if not pools:
            return {}
        attempts = growth.of(self._connection, pools)
        existing = select(_R.pool, func.count().label("many")).where(_R.pool.in_(pools)).group_by(_R.pool)
        there = {row.pool: row.many for row in self._connection.execute(existing)}
        return {pool: self._as_making(known.making[pool], there.get(pool, 0), attempts.get(pool)) for pool in pools}

    def _as_making(self, spec: PoolSpec, existing: int, attempts: Row[Any] | None) -> Making:
        failing = attempts is not None and attempts.failures > 0
        return Making(
            pool=spec.name,
            most=spec.size.max,
            existing=existing,
            room=max(0, spec.size.max - existing),
            trouble=attempts.trouble if failing and attempts is not None else None,
            again_at=attempts.retry_at if failing and attempts is not None else None,
        )

    def made_at(self, one: Waiting) -> datetime | None:
        """When what a lease waits for is likely to be made, where all of it can be, by how long that took so far."""
        supplies = self.of(one)
        if not all(self._is_coming(item, has) for item, has in zip(one.wishes, supplies, strict=True)):
            return None
        pools = {making.pool for has in supplies for making in has.making}
        took = [known.start_s for known in growth.shown(self._connection, sorted(pools)).values() if known.start_s]
        return self._line.now + timedelta(seconds=max(took)) if took else None

    @staticmethod
    def _is_coming(item: Item, has: Supply) -> bool:
        able = [making for making in has.making if making.trouble is None and not making.only_for]
        coming = has.others.get(ResourceState.CREATING, 0) + sum(making.room for making in able)
        return bool(able) and has.free + coming >= item.count

    def _standing(self, row: Any) -> str:
        """What keeps a resource from being granted, in a word."""
        if row.state != ResourceState.FREE:
            return str(row.state)
        if row.pool in self._line.known.paused and not row.off:
            return "paused"
        return standing(row)

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
        return sorted(found, key=lambda holder: (holder.until is None, holder.until or self._line.now, holder.number))

    def _until(self, row: Any) -> datetime | None:
        """When a holder's time is over, as far as that can be foreseen."""
        if row.state == LeaseState.ACTIVE:
            end: datetime = row.grace_until or row.expires_at
        else:
            end = diaries.active_until(row, self._line.history, self._line.now)
        return end if end < self._line.now + FORESEEN else None


def _for(spec: PoolSpec, item: Item, making: Making) -> Making:
    """A pool as it stands to who asks for this: it may make something only for others."""
    asked = item.pool == spec.name or not set(spec.tags_on_demand).isdisjoint(item.tags)
    return making if asked else replace(making, only_for=sorted(spec.tags_on_demand))


def _told(item: Item, promised: Sequence[Row[Any]]) -> list[Promised]:
    """How much of what suits an item is promised to whom."""
    mine = Counter((row.number, row.begins) for row in promised if allocation.suits(item, stock.as_candidate(row)))
    return [Promised(number=number, count=many, begins=begins) for (number, begins), many in sorted(mine.items())]
