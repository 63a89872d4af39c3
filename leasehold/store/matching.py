"""The queue: who waits, for what, and serving them with what is free.

Everything here runs inside a writing transaction, under the allocation lock. Whoever frees a resource calls `match` in
the same transaction, so that a waiter that could be served never waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, insert, select, update

from leasehold import allocation, model
from leasehold.allocation import ANY_POOL, Award, Candidate, Waiter
from leasehold.model import Item, LeaseState, ResourceState
from leasehold.store import events, facts, granting, holding, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_GRANTABLE = (
    t.resources.c.state == ResourceState.FREE,
    t.resources.c.offline_since.is_(None),
    ~t.resources.c.draining,
)
"""What `ix_resources_grantable` holds."""

_FIRST_BATCH, _LAST_BATCH = 4, 256
"""How many waiters are looked at together: few at first, because what one frees mostly goes to the first."""


def wanted_pools(items: Iterable[Item]) -> set[str]:
    """The pools that a request may take from; `ANY_POOL` where an item names none."""
    return {item.pool or ANY_POOL for item in items}


def _plain(item: Item) -> bool:
    return not (item.match or item.tags or item.names)


def candidates(
    connection: Connection, waiters: Sequence[Waiter], *, free: bool = True, besides: str | None = None
) -> list[Candidate]:
    """What could serve these waiters, in order of preference: cheap pools first, then by name.

    `free=False` also counts what is in use, broken or offline: all that could ever serve them. `besides` names a lease
    instead: all that is not broken, and not that lease's. While matching is suspended nothing is free for anybody.
    """
    if free and facts.suspended(connection) is not None:
        return []
    items = [item for waiter in waiters for item in waiter.items]
    pools = wanted_pools(items)
    query = (
        select(t.resources.c.pool, t.resources.c.name, t.resources.c.tags, t.resources.c.properties)
        .join(t.pools, t.pools.c.name == t.resources.c.pool)
        .where(*_eligible(free and besides is None, besides))
        .order_by(t.pools.c.priority, t.resources.c.pool, t.resources.c.name)
    )
    if ANY_POOL not in pools:
        query = query.where(t.resources.c.pool.in_(pools))
    if free and besides is None and len(pools) == 1 and all(_plain(item) for item in items):
        # Every resource of the pool is as good as the next: no need to read them all.
        query = query.limit(sum(item.count for item in items))
    return [
        Candidate(pool=row.pool, name=row.name, tags=frozenset(row.tags), properties=row.properties)
        for row in connection.execute(query)
    ]


def _eligible(free: bool, besides: str | None) -> Sequence[ColumnElement[bool]]:
    if free:
        return _GRANTABLE
    if besides is None:
        return (~t.resources.c.draining,)
    mine = exists().where(
        t.grants.c.lease == besides,
        t.grants.c.closed_at.is_(None),
        t.grants.c.pool == t.resources.c.pool,
        t.grants.c.resource == t.resources.c.name,
    )
    return (~t.resources.c.draining, t.resources.c.state != ResourceState.BROKEN, ~mine)


def waits_for(pools: set[str]) -> ColumnElement[bool]:
    """Whether a lease wants, or wanted until it was cancelled, of any of these pools."""
    return exists().where(t.waits.c.lease == t.leases.c.id, t.waits.c.pool.in_({*pools, ANY_POOL}))


@dataclass(frozen=True)
class Waiting:
    """A lease in the queue, with what it still wants, by its place in the request."""

    lease: str
    principal: str
    state: LeaseState
    items: Mapping[int, Item]

    @property
    def waiter(self) -> Waiter:
        """What allocation needs of it."""
        return Waiter(lease=self.lease, items=tuple(self.items.values()))


def missing(wanted: Sequence[Item], places: Iterable[int]) -> dict[int, Item]:
    """One more resource for each of these places in a request."""
    return {place: replace(wanted[place], count=many) for place, many in sorted(Counter(places).items())}


def _waits(row: Row[Any]) -> Waiting:
    wanted = specs.items_from_json(row.wanted)
    items = dict(enumerate(wanted)) if row.missing is None else missing(wanted, row.missing)
    return Waiting(lease=row.id, principal=row.principal, state=LeaseState(row.state), items=items)


def waiting(connection: Connection, pools: set[str]) -> Iterator[list[Waiting]]:
    """Who waits for any of these pools, in the order of service, some at a time."""
    columns = [t.leases.c[name] for name in ("id", "principal", "state", "wanted", "missing", "priority", "number")]
    queue = (
        select(*columns)
        .where(t.leases.c.waiting, waits_for(pools))
        .order_by(t.leases.c.priority.desc(), t.leases.c.number)
    )
    query, size = queue, _FIRST_BATCH
    while rows := connection.execute(query.limit(size)).all():
        yield [_waits(row) for row in rows]
        size = min(size * 4, _LAST_BATCH)
        priority, number = rows[-1].priority, rows[-1].number
        query = queue.where(
            (t.leases.c.priority < priority) | ((t.leases.c.priority == priority) & (t.leases.c.number > number))
        )


def wait(tx: Tx, lease: str, items: Iterable[Item]) -> None:
    """Put a lease into the queues of the pools that it wants of."""
    pools = sorted(wanted_pools(items))
    tx.execute(insert(t.waits), [{"lease": lease, "pool": pool} for pool in pools])


def leave(tx: Tx, lease: str) -> None:
    """Take a lease out of all queues."""
    tx.execute(delete(t.waits).where(t.waits.c.lease == lease))


def match(tx: Tx, pools: set[str]) -> None:
    """Serve those who wait for these pools, in their order, with what is free now; nobody while that is suspended."""
    if facts.suspended(tx.connection) is not None:
        return
    for batch in waiting(tx.connection, pools):
        by_lease = {one.lease: one for one in batch}
        waiters = [one.waiter for one in batch]
        for award in allocation.serve(waiters, candidates(tx.connection, waiters)):
            _hand_over(tx, award, by_lease[award.lease])
        if not _any_free(tx, pools):
            return


def _any_free(tx: Tx, pools: set[str]) -> bool:
    grantable = select(t.resources.c.name).where(*_GRANTABLE)
    if ANY_POOL not in pools:
        grantable = grantable.where(t.resources.c.pool.in_(pools))
    return tx.execute(grantable.limit(1)).first() is not None


def _hand_over(tx: Tx, award: Award, to: Waiting) -> None:
    """Grant a lease what it waits for, and tell its workflow."""
    values: dict[str, Any] = {"waiting": False, "missing": None, "blocked": None}
    if to.state is LeaseState.QUEUED:
        model.check_lease_transition(to.state, LeaseState.PREPARING)
        values |= {"state": LeaseState.PREPARING, "granted_at": tx.now}
        events.record(tx, "lease_preparing", lease=award.lease, data=granted_data(award))
    else:
        events.record(tx, "lease_replaced", lease=award.lease, data=granted_data(award))
    leave(tx, award.lease)
    tx.execute(update(t.leases).where(t.leases.c.id == award.lease).values(values))
    granted = granting.grant(tx, award.lease, to.principal, to.items, award)
    if to.state is LeaseState.QUEUED:
        holding.activate_at_once(tx, award.lease, granted)
    outbox.signal(tx, award.lease)


def granted_data(award: Award) -> dict[str, list[str]]:
    """What an event says of a grant."""
    return {"resources": [f"{c.pool}/{c.name}" for group in award.resources for c in group]}
