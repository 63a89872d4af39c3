"""Demand: what those who wait want of pools that make their resources, beside what there is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, func, select

from leasehold import allocation, sizing
from leasehold.allocation import Candidate
from leasehold.model import Item, LeaseState, OnDegraded, PoolSpec, ResourceState, Reuse
from leasehold.sizing import Source, Spread, Wish
from leasehold.store import catalogue, growth, lanes, order, outbox, specs, stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting
from leasehold.store.rules import Rules
from leasehold.store.shares import Shares

_R = t.resources.c

IS_TENDED = _R.spec.is_not(None) | _R.suspect | _R.share_key.is_not(None)
"""Whether something has to be done for a resource, whatever its pool is by now."""


def stir(tx: Tx, wishes: Sequence[Item]) -> None:
    """Have the pools looked after that could make something of what somebody wants, or wants no more."""
    known = catalogue.current(tx.connection)
    for pool in sorted(known.making_for(wishes) - known.paused.keys()):
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
    """What is waited for that some pool could make, in the order of service but for fair shares.

    First what is to take the place of what is dead.
    """
    made = {kind for pool, kind in known.made.items() if pool not in known.paused}
    for item in _to_be_replaced(connection):
        kinds = _kinds(known, item, made, ())
        if not made.isdisjoint(kinds):
            yield Wish(count=1, kinds=kinds, tags=item.tags, pool=item.pool)
    heads = [one for one in lanes.heads(connection, made, known) if not order.is_upcoming(one, now)]
    if not heads:
        return
    many = _lengths(connection)
    shares, rules = Shares(connection, known.policies), Rules(connection, known)
    for one in sorted(heads, key=lambda one: (-one.priority, one.number)):
        if _is_held_up(one, known, shares, rules):
            continue
        pools = known.pools(one.wishes)
        barred = shares.barred(one, pools) | rules.barred(one, pools)
        for item in one.wishes:
            kinds = _kinds(known, item, made, () if item.pool else barred)
            if made.isdisjoint(kinds):
                continue
            limits = {
                known.made[pool]: left for pool in known.made if (left := shares.left(one, pool, item)) is not None
            }
            count = item.count * many.get(one.lane, 1)
            yield Wish(count=count, kinds=kinds, tags=item.tags, pool=item.pool, limits=limits)


def _kinds(known: Catalogue, item: Item, made: Collection[int], barred: Collection[str]) -> list[int]:
    """The kinds of which something suits an item, in order of preference; of what is made, if all of it would suit."""
    found = [kind for kind in known.lending([item]) if kind.pool not in barred]
    if not catalogue.is_particular(item):
        return [kind.id for kind in found]
    return [kind.id for kind in found if kind.id not in made or _would_suit(known.making[kind.pool], item)]


def _would_suit(spec: PoolSpec, item: Item) -> bool:
    """Whether anything that a pool makes is what an item tells by an identifier, or by its name."""
    new = Candidate(pool=spec.name, name="", tags=frozenset(spec.all_tags), properties=spec.properties)
    return allocation.suits(item, new)


def _to_be_replaced(connection: Connection) -> list[Item]:
    """One more of each item of which a lease has something dead that its pool would replace."""
    leases = connection.execute(
        select(t.leases.c.id, t.leases.c.wanted, t.leases.c.degraded).where(
            t.leases.c.degraded.is_not(None), t.leases.c.state == LeaseState.ACTIVE
        )
    ).all()
    found = []
    for lease in leases:
        items = specs.items_from_json(lease.wanted)
        dead = {(one["pool"], one["name"]) for one in lease.degraded}
        held = select(t.grants).where(t.grants.c.lease == lease.id, t.grants.c.closed_at.is_(None))
        for grant in connection.execute(held).all():
            if (grant.pool, grant.resource) in dead and _replaces(connection, grant.spec):
                found.append(replace(items[grant.item], count=1, names=()))
    return found


def _replaces(connection: Connection, spec: int) -> bool:
    return specs.load(connection, {spec})[spec].policy.on_degraded is OnDegraded.REPLACE


def _is_held_up(one: Waiting, known: Catalogue, shares: Shares, rules: Rules) -> bool:
    """Whether it would be given nothing, whatever there was."""
    return shares.excess(one) is not None or order.paused(one, known) is not None or rules.closed(one) is not None


def _lengths(connection: Connection) -> dict[int, int]:
    """How many wait in each lane."""
    query = select(t.queue.c.lane, func.count().label("many")).group_by(t.queue.c.lane)
    return {row.lane: row.many for row in connection.execute(query)}


def _supply(connection: Connection, known: Catalogue, kinds: Collection[int]) -> dict[int, int]:
    """How much of each of these kinds is free, or will be without a holder's doing."""
    # What is promised to a reservation is nobody else's.
    promised = exists().where(t.promises.c.pool == _R.pool, t.promises.c.resource == _R.name)
    free = select(_R.kind, func.count().label("many")).where(_R.kind.in_(kinds), ~promised, *stock.GRANTABLE)
    supply = {row.kind: row.many for row in connection.execute(free.group_by(_R.kind))}
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
    # What is broken, and no lease waits for, goes where room is needed.
    held = exists().where(t.grants.c.pool == _R.pool, t.grants.c.resource == _R.name, t.grants.c.closed_at.is_(None))
    goes = (_R.state == ResourceState.BROKEN) & ~held
    counted = select(_R.pool, _R.state, func.count().label("many")).where(
        _R.pool.in_(pools), _R.spec.is_not(None), ~goes
    )
    rows = connection.execute(counted.group_by(_R.pool, _R.state)).all()
    attempts = growth.of(connection, pools)
    return [_source(known.making[pool], known.made[pool], rows, attempts.get(pool), now) for pool in pools]


def _source(spec: PoolSpec, kind: int, rows: Iterable[Row[Any]], attempts: Row[Any] | None, now: datetime) -> Source:
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
