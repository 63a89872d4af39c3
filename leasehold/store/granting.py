"""Grants: a lease gets resources, and gives them back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, insert, select, update

from leasehold.allocation import Award
from leasehold.messages import Claim
from leasehold.model import PREPARE, Item, PoolSpec, ResourceState, StageName
from leasehold.store import claims, moves, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting
from leasehold.store.tables import LEASE_WIDE

Key = tuple[str, str]
"""A resource: its pool and its name."""


def grant(tx: Tx, to: Waiting, award: Award) -> tuple[Claim, ...]:
    """Record what `award` gives for each item that a lease wants, and return the claims with the stages due."""
    pools = {c.pool for group in award.resources for c in group}
    ids = {
        row.name: row.spec
        for row in tx.execute(select(t.pools.c.name, t.pools.c.spec).where(t.pools.c.name.in_(pools)))
    }
    loaded = specs.load(tx.connection, set(ids.values()))
    granted = []
    for (index, item), group in zip(to.items.items(), award.resources, strict=True):
        for candidate in group:
            resource = moves.row_of(tx, candidate.pool, candidate.name)
            assert resource is not None
            spec = loaded[ids[candidate.pool]]
            values: dict[str, Any] = {
                "lease": to.lease,
                "owner": to.owner,
                "pool": candidate.pool,
                "resource": candidate.name,
                "spec": ids[candidate.pool],
                "item": index,
                "role": item.role,
                "due": _due(tx, resource, spec, item, to.principal),
                "granted_at": tx.now,
            }
            # As long as no hook has touched it, it stays as it was prepared.
            values["epoch"] = moves.set_state(
                tx, resource, ResourceState.LEASED, lease=to.lease, prepared=resource.prepared
            )
            row = tx.execute(insert(t.grants).returning(*t.grants.c), values).one()
            granted.append(claims.claim(row, spec))
    return tuple(granted)


def _due(tx: Tx, resource: Row[Any], spec: PoolSpec, item: Item, principal: str) -> list[StageName]:
    """The stages that a resource has to go through for a lease."""
    ahead = spec.policy.prepares_ahead and resource.prepared == specs.prepared_digest(spec)
    stages = (StageName.DELIVER,) if ahead else PREPARE
    skipped = set(item.skip)
    if StageName.WIPE in skipped and _last_holder(tx, resource) != principal:
        # What somebody else left must go, whatever the next holder says.
        skipped.remove(StageName.WIPE)
    return [stage for stage in stages if stage not in skipped]


def _last_holder(tx: Tx, resource: Row[Any]) -> str | None:
    query = (
        select(t.leases.c.principal)
        .join(t.grants, t.grants.c.lease == t.leases.c.id)
        .where(t.grants.c.pool == resource.pool, t.grants.c.resource == resource.name)
        .order_by(t.grants.c.id.desc())
        .limit(1)
    )
    holder: str | None = tx.execute(query).scalar_one_or_none()
    return holder


def open_rows(tx: Tx, lease: str) -> Sequence[Row[Any]]:
    """The open grants of a lease."""
    query = select(t.grants).where(t.grants.c.lease == lease, t.grants.c.closed_at.is_(None))
    rows: Sequence[Row[Any]] = tx.execute(query.order_by(t.grants.c.id)).all()
    return rows


def close(tx: Tx, rows: Collection[Row[Any]], broken: Mapping[Key, str], *, was_active: bool) -> set[str]:
    """Close open grants of one lease, send the resources on their way, and return their pools.

    A resource goes into quarantine where `broken` gives a reason, through the stages that its pool wants after a
    lease where the lease used it, and straight back to `free` otherwise. One that is in quarantine stays there.
    """
    tx.execute(update(t.grants).where(t.grants.c.id.in_([row.id for row in rows])).values(closed_at=tx.now))
    loaded = specs.load(tx.connection, {row.spec for row in rows})
    for row in rows:
        resource = moves.row_of(tx, row.pool, row.resource)
        assert resource is not None
        reason = broken.get((row.pool, row.resource))
        if resource.state == ResourceState.BROKEN:
            moves.remove_drained(tx, resource)
            continue
        if reason is not None:
            moves.quarantine(tx, resource, reason, lease=row.lease)
        elif was_active or _was_touched(tx, row):
            moves.recycle(tx, resource, row.spec, loaded[row.spec], lease=row.lease)
        else:
            moves.free(tx, resource, lease=row.lease, prepared=resource.prepared)
    return {row.pool for row in rows}


def _was_touched(tx: Tx, grant_row: Row[Any]) -> bool:
    ran = select(t.runs.c.id).where(
        t.runs.c.lease == grant_row.lease,
        ((t.runs.c.pool == grant_row.pool) & (t.runs.c.resource == grant_row.resource))
        | (t.runs.c.resource == LEASE_WIDE),
    )
    return tx.execute(ran.limit(1)).first() is not None
