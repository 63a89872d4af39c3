"""Grants: giving free resources to leases, taking them back, and serving those who wait.

Everything here runs inside a writing transaction, under the allocation lock. Whoever frees a resource calls `match` in
the same transaction, so that a waiter that could be served never waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, exists, func, insert, select, update

from leasehold import allocation, model
from leasehold.allocation import ANY_POOL, Award, Candidate, Waiter
from leasehold.messages import Claim, RecycleResource
from leasehold.model import Item, LeaseState, ResourceState
from leasehold.store import events, facts, holding, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_THIS = (t.resources.c.pool == bindparam("pool_"), t.resources.c.name == bindparam("name_"))
_RESOURCE = select(t.resources).where(*_THIS)
_CLEAN = {"stage": None, "broken_reason": None, "broken_since": None}
_MOVE = update(t.resources).where(*_THIS).values({name: bindparam(name) for name in ("state", "epoch", *_CLEAN)})

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


def candidates(connection: Connection, waiters: Sequence[Waiter], *, free: bool = True) -> list[Candidate]:
    """What could serve these waiters, in order of preference: cheap pools first, then by name.

    `free=False` also counts what is in use, broken or offline: all that could ever serve them. While matching is
    suspended nothing is free for anybody.
    """
    if free and facts.suspended(connection) is not None:
        return []
    items = [item for waiter in waiters for item in waiter.items]
    pools = wanted_pools(items)
    query = (
        select(t.resources.c.pool, t.resources.c.name, t.resources.c.tags, t.resources.c.properties)
        .join(t.pools, t.pools.c.name == t.resources.c.pool)
        .where(*_GRANTABLE if free else (~t.resources.c.draining,))
        .order_by(t.pools.c.priority, t.resources.c.pool, t.resources.c.name)
    )
    if ANY_POOL not in pools:
        query = query.where(t.resources.c.pool.in_(pools))
    if free and len(pools) == 1 and all(_plain(item) for item in items):
        # Every resource of the pool is as good as the next: no need to read them all.
        query = query.limit(sum(item.count for item in items))
    return [
        Candidate(pool=row.pool, name=row.name, tags=frozenset(row.tags), properties=row.properties)
        for row in connection.execute(query)
    ]


def epoch(tx: Tx, last: int) -> int:
    """The next fencing token: grows always, and stays ahead of what a restored database has forgotten."""
    return max(last + 1, int(tx.now.timestamp() * 1000))


def set_state(tx: Tx, row: Row[Any], state: ResourceState, *, lease: str | None, **more: Any) -> int:
    """Move a resource (a row of `resources`) to a state under a new epoch, which is returned."""
    model.check_resource_transition(ResourceState(row.state), state)
    new = epoch(tx, row.epoch)
    change = {**_CLEAN, **more, "state": state, "epoch": new, "pool_": row.pool, "name_": row.name}
    tx.execute(_MOVE, change)
    reason = more.get("broken_reason")
    about = {"epoch": new}
    events.record(tx, f"resource_{state}", lease=lease, pool=row.pool, resource=row.name, reason=reason, data=about)
    return new


def resource_row(tx: Tx, pool: str, name: str) -> Row[Any] | None:
    """A resource's row, or None."""
    row: Row[Any] | None = tx.execute(_RESOURCE, {"pool_": pool, "name_": name}).one_or_none()
    return row


def grant(tx: Tx, lease: str, items: Sequence[Item], award: Award) -> tuple[Claim, ...]:
    """Record what `award` gives, and return the claims with the stages due."""
    pools = {c.pool for group in award.resources for c in group}
    ids = {
        row.name: row.spec
        for row in tx.execute(select(t.pools.c.name, t.pools.c.spec).where(t.pools.c.name.in_(pools)))
    }
    loaded = specs.load(tx.connection, set(ids.values()))
    claims = []
    for index, group in enumerate(award.resources):
        for candidate in group:
            row = resource_row(tx, candidate.pool, candidate.name)
            assert row is not None
            number = set_state(tx, row, ResourceState.LEASED, lease=lease)
            spec = ids[candidate.pool]
            tx.execute(
                insert(t.grants),
                {
                    "lease": lease,
                    "pool": candidate.pool,
                    "resource": candidate.name,
                    "epoch": number,
                    "spec": spec,
                    "item": index,
                    "role": items[index].role,
                    "granted_at": tx.now,
                },
            )
            stages = specs.plan(loaded[spec], model.PREPARE)
            claims.append(Claim(pool=candidate.pool, resource=candidate.name, epoch=number, spec=spec, stages=stages))
    return tuple(claims)


def close_grants(tx: Tx, lease: str, broken: dict[tuple[str, str], str], was_active: bool) -> set[str]:
    """Close a lease's open grants, send the resources on their way, and return their pools.

    A resource goes into quarantine where `broken` gives a reason, through the stages that its pool wants after a
    lease where the lease used it, and straight back to `free` otherwise.
    """
    rows = tx.execute(
        select(t.grants).where(t.grants.c.lease == lease, t.grants.c.closed_at.is_(None)).order_by(t.grants.c.id)
    ).all()
    tx.execute(
        update(t.grants).where(t.grants.c.lease == lease, t.grants.c.closed_at.is_(None)).values(closed_at=tx.now)
    )
    loaded = specs.load(tx.connection, {row.spec for row in rows})
    for row in rows:
        resource = resource_row(tx, row.pool, row.resource)
        assert resource is not None
        reason = broken.get((row.pool, row.resource))
        if reason is not None:
            quarantine(tx, resource, reason, lease=lease)
        elif was_active or _was_touched(tx, row):
            recycle(tx, resource, row.spec, loaded[row.spec], lease=lease)
        else:
            free(tx, resource, lease=lease)
    return {row.pool for row in rows}


def _was_touched(tx: Tx, grant_row: Row[Any]) -> bool:
    ran = select(t.runs.c.id).where(
        t.runs.c.pool == grant_row.pool,
        t.runs.c.resource == grant_row.resource,
        t.runs.c.epoch == grant_row.epoch,
    )
    return tx.execute(ran.limit(1)).first() is not None


def quarantine(tx: Tx, resource: Row[Any], reason: str, *, lease: str | None) -> None:
    """Put a resource out of use until an operator repairs it; one that left its pools file goes for good."""
    set_state(tx, resource, ResourceState.BROKEN, lease=lease, broken_reason=reason, broken_since=tx.now)
    _remove_drained(tx, resource)


def recycle(tx: Tx, resource: Row[Any], spec_id: int, spec: model.PoolSpec, *, lease: str) -> None:
    """Send a resource through its pool's stages after a lease; free at once where there are none."""
    stages = specs.plan(spec, spec.policy.on_release)
    if not stages:
        free(tx, resource, lease=lease)
        return
    number = set_state(tx, resource, ResourceState.RECYCLING, lease=lease)
    claim = Claim(pool=resource.pool, resource=resource.name, epoch=number, spec=spec_id, stages=stages)
    outbox.recycle(tx, RecycleResource(lease=lease, claim=claim))


def free(tx: Tx, resource: Row[Any], *, lease: str | None) -> None:
    """Give a resource back to its pool; one that left its pools file goes for good. Does not run the matcher."""
    set_state(tx, resource, ResourceState.FREE, lease=lease)
    _remove_drained(tx, resource)


def _remove_drained(tx: Tx, resource: Row[Any]) -> None:
    if resource.draining:
        remove(tx, resource.pool, resource.name, actor=None)


def remove(tx: Tx, pool: str, name: str, *, actor: str | None) -> None:
    """Delete a resource that nobody has, and its pool with the last one if the pool left its file."""
    tx.execute(delete(t.resources).where(t.resources.c.pool == pool, t.resources.c.name == name))
    events.record(tx, "resource_removed", pool=pool, resource=name, actor=actor)
    remove_if_empty(tx, pool)


def remove_if_empty(tx: Tx, pool: str) -> None:
    """Delete a pool that left its pools file, unless it has resources yet."""
    left = tx.execute(select(func.count()).select_from(t.resources).where(t.resources.c.pool == pool)).scalar_one()
    if not left:
        gone = tx.execute(delete(t.pools).where(t.pools.c.name == pool, t.pools.c.draining))
        if gone.rowcount:
            events.record(tx, "pool_removed", pool=pool)


def waits_for(pools: set[str]) -> ColumnElement[bool]:
    """Whether a lease wants, or wanted until it was cancelled, of any of these pools."""
    return exists().where(t.waits.c.lease == t.leases.c.id, t.waits.c.pool.in_({*pools, ANY_POOL}))


def _waiting(tx: Tx, pools: set[str]) -> Iterator[list[Waiter]]:
    """Who waits for any of these pools, in the order of service, some at a time."""
    queue = (
        select(t.leases.c.id, t.leases.c.wanted, t.leases.c.priority, t.leases.c.number)
        .where(
            t.leases.c.state == LeaseState.QUEUED,
            waits_for(pools),
        )
        .order_by(t.leases.c.priority.desc(), t.leases.c.number)
    )
    query, size = queue, _FIRST_BATCH
    while rows := tx.execute(query.limit(size)).all():
        yield [Waiter(lease=row.id, items=specs.items_from_json(row.wanted)) for row in rows]
        size = min(size * 4, _LAST_BATCH)
        priority, number = rows[-1].priority, rows[-1].number
        query = queue.where(
            (t.leases.c.priority < priority) | ((t.leases.c.priority == priority) & (t.leases.c.number > number))
        )


def match(tx: Tx, pools: set[str]) -> None:
    """Serve those who wait for these pools, in their order, with what is free now; nobody while that is suspended."""
    if facts.suspended(tx.connection) is not None:
        return
    for batch in _waiting(tx, pools):
        items = {waiter.lease: waiter.items for waiter in batch}
        for award in allocation.serve(batch, candidates(tx.connection, batch)):
            hand_over(tx, award, items[award.lease])
        if not _any_free(tx, pools):
            return


def _any_free(tx: Tx, pools: set[str]) -> bool:
    grantable = select(t.resources.c.name).where(t.resources.c.pool.in_(pools), *_GRANTABLE)
    return tx.execute(grantable.limit(1)).first() is not None


def hand_over(tx: Tx, award: Award, items: Sequence[Item]) -> None:
    """Grant a waiting lease what it waited for, and tell its workflow."""
    model.check_lease_transition(LeaseState.QUEUED, LeaseState.PREPARING)
    tx.execute(delete(t.waits).where(t.waits.c.lease == award.lease))
    tx.execute(
        update(t.leases).where(t.leases.c.id == award.lease).values(state=LeaseState.PREPARING, granted_at=tx.now)
    )
    events.record(tx, "lease_preparing", lease=award.lease, data=granted_data(award))
    claims = grant(tx, award.lease, items, award)
    holding.activate_at_once(tx, award.lease, claims)
    outbox.signal(tx, award.lease)


def granted_data(award: Award) -> dict[str, list[str]]:
    """What an event says of a grant."""
    return {"resources": [f"{c.pool}/{c.name}" for group in award.resources for c in group]}
