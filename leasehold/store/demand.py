"""Demand: what those who wait want of pools that make their resources, beside what there is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, Row, func, select

from leasehold import sizing
from leasehold.model import Item, PoolSpec, ResourceState, Reuse
from leasehold.sizing import Source, Spread, Wish
from leasehold.store import catalogue, growth, lanes, order, outbox, stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting
from leasehold.store.rules import Rules
from leasehold.store.shares import Shares

_R = t.resources.c


def stir(tx: Tx, wishes: Sequence[Item]) -> None:
    """Have the pools looked after that could make something of what somebody wants, or wants no more."""
    for pool in sorted(catalogue.current(tx.connection).making_for(wishes)):
        outbox.tend(tx, pool)


def stir_all(tx: Tx) -> None:
    """Have all pools looked after that make something: what one will not make another may."""
    for pool in sorted(catalogue.current(tx.connection).making):
        outbox.tend(tx, pool)


def spread(connection: Connection, now: datetime) -> Spread:
    """What is to be created for those who wait, in which pools, and what they leave of what is there or coming."""
    known = catalogue.current(connection)
    wishes = list(_wishes(connection, known, now))
    kinds = set(known.made.values()).union(*(wish.kinds for wish in wishes))
    # Where nobody waits nothing has to be created for anybody.
    sources = _sources(connection, known, now) if wishes else []
    return sizing.spread(wishes, _supply(connection, known, kinds), sources)


def _wishes(connection: Connection, known: Catalogue, now: datetime) -> Iterable[Wish]:
    """What is waited for that some pool could make, in the order of service but for fair shares."""
    kinds = set(known.made.values())
    heads = [one for one in lanes.heads(connection, kinds, known) if not order.is_upcoming(one, now)]
    if not heads:
        return
    many = _lengths(connection)
    shares, rules = Shares(connection, known.policies), Rules(connection, known)
    for one in sorted(heads, key=lambda one: (-one.priority, one.number)):
        if _is_held_up(one, known, shares, rules):
            continue
        for item in one.wishes:
            serving = [kind.id for kind in known.lending([item])]
            if not kinds.isdisjoint(serving):
                yield Wish(count=item.count * many.get(one.lane, 1), kinds=serving, tags=item.tags, pool=item.pool)


def _is_held_up(one: Waiting, known: Catalogue, shares: Shares, rules: Rules) -> bool:
    """Whether it would be given nothing, whatever there was."""
    return shares.excess(one) is not None or order.paused(one, known) is not None or rules.closed(one) is not None


def _lengths(connection: Connection) -> dict[int, int]:
    """How many wait in each lane."""
    query = select(t.queue.c.lane, func.count().label("many")).group_by(t.queue.c.lane)
    return {row.lane: row.many for row in connection.execute(query)}


def _supply(connection: Connection, known: Catalogue, kinds: Collection[int]) -> dict[int, int]:
    """How much of each of these kinds is free, or will be without a holder's doing."""
    free = select(_R.kind, func.count().label("many")).where(_R.kind.in_(kinds), *stock.GRANTABLE).group_by(_R.kind)
    supply = {row.kind: row.many for row in connection.execute(free)}
    coming = {pool: {ResourceState.CREATING} for pool in known.making}
    for pool, spec in known.making.items():
        if spec.policy.reuse is Reuse.ANYONE:
            coming[pool].add(ResourceState.RECYCLING)
    passing = [ResourceState.CREATING, ResourceState.RECYCLING]
    query = select(_R.pool, _R.kind, _R.state, func.count().label("many")).where(
        _R.pool.in_(coming), _R.state.in_(passing), ~_R.draining
    )
    for row in connection.execute(query.group_by(_R.pool, _R.kind, _R.state)):
        if row.state in coming[row.pool]:
            supply[row.kind] = supply.get(row.kind, 0) + row.many
    return supply


def _sources(connection: Connection, known: Catalogue, now: datetime) -> list[Source]:
    pools = [pool for pool in known.making if pool not in known.paused]
    counted = select(_R.pool, _R.state, func.count().label("many")).where(_R.pool.in_(pools))
    rows = connection.execute(counted.group_by(_R.pool, _R.state)).all()
    attempts = growth.of(connection, pools)
    return [_source(known.making[pool], known.made[pool], rows, attempts.get(pool), now) for pool in pools]


def _source(spec: PoolSpec, kind: int, rows: Iterable[Row], attempts: Row | None, now: datetime) -> Source:  # type: ignore[type-arg]
    mine = {row.state: row.many for row in rows if row.pool == spec.name}
    creating = mine.get(ResourceState.CREATING, 0)
    room = sizing.room(spec.size, sum(mine.values()), creating, growth.attempts(attempts), now)
    return Source(
        pool=spec.name,
        kind=kind,
        room=room,
        cost=spec.priority,
        tags=spec.all_tags,
        on_demand=frozenset(spec.tags_on_demand),
    )
