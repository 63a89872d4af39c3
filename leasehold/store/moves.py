"""Moves of one resource through its states, each under a new epoch, and its way out of the inventory.

Everything here runs inside a writing transaction, under the allocation lock, and none of it runs the matcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from leasehold import model
from leasehold.errors import Unavailable
from leasehold.messages import Claim, DeleteResource
from leasehold.model import ResourceState, StageName
from leasehold.store import catalogue, events, instances, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_R = t.resources.c
STANDING = (_R.pool, _R.name, _R.kind, _R.state, _R.epoch, _R.draining, _R.prepared, _R.spec, _R.offline_since)
"""What has to be known of a resource to move it."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A resource as it stands: what has to be known of it to move it."""

    pool: str
    name: str
    kind: int
    state: str
    epoch: int
    draining: bool
    prepared: str | None
    spec: int | None
    """With which its pool has made it; None of one that was registered."""
    offline_since: datetime | None


Known = Row[Any] | Standing


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Free, but for one key alone until a time."""

    key: str
    until: datetime


Freed = tuple[Known, str | None, Kept | None]
"""A resource that becomes free, with the digest of the stages that it went through ahead, and for whom it is kept."""

_THIS = (t.resources.c.pool == bindparam("pool_"), t.resources.c.name == bindparam("name_"))
_RESOURCE = select(t.resources).where(*_THIS)
_CLEAN = {
    "stage": None,
    "broken_reason": None,
    "broken_since": None,
    "prepared": None,
    "share_key": None,
    "kept_until": None,
}
_MOVE = update(t.resources).where(*_THIS).values({name: bindparam(name) for name in ("state", "epoch", *_CLEAN)})


def epoch(tx: Tx, last: int) -> int:
    """The next fencing token: grows always, and stays ahead of what a restored database has forgotten."""
    return max(last + 1, int(tx.now.timestamp() * 1000))


def set_state(tx: Tx, row: Known, state: ResourceState, *, lease: str | None, **more: Any) -> int:
    """Move a resource (a row of `resources`) to a state under a new epoch, which is returned."""
    return set_states(tx, [(row, more)], state, lease=lease)[0]


def set_states(
    tx: Tx,
    those: Sequence[tuple[Known, Mapping[str, Any]]],
    state: ResourceState,
    *,
    lease: str | None,
    why: str | None = None,
    actor: str | None = None,
) -> list[int]:
    """Move resources, each with what else changes of it, to a state under new epochs, which are returned."""
    changes = []
    for row, more in those:
        model.check_resource_transition(ResourceState(row.state), state)
        new = epoch(tx, row.epoch)
        changes.append({**_CLEAN, **more, "state": state, "epoch": new, "pool_": row.pool, "name_": row.name})
        events.record(
            tx,
            f"resource_{state}",
            lease=lease,
            pool=row.pool,
            resource=row.name,
            actor=actor,
            reason=more.get("broken_reason") or why,
            data={"epoch": new},
        )
        if row.spec is not None or more.get("share_key") is not None:
            outbox.tend(tx, row.pool)
    if changes:
        tx.write(_MOVE, changes)
    return [change["epoch"] for change in changes]


def row_of(tx: Tx, pool: str, name: str) -> Row[Any] | None:
    """A resource's row, or None."""
    row: Row[Any] | None = tx.execute(_RESOURCE, {"pool_": pool, "name_": name}).one_or_none()
    return row


def mine(tx: Tx, claim: Claim, what: str) -> Row[Any] | None:
    """The resource of a claim, unless it is in other hands or gone; raise `Unavailable` where the database is older."""
    resource = row_of(tx, claim.pool, claim.resource)
    if resource is not None and resource.epoch < claim.epoch:
        # Reconciling, which finds it running, gives it the resource, and nobody else would free that.
        older = f"the database is older than this {what}: leasehold reconcile"
        raise Unavailable(f"{claim.pool}/{claim.resource}: {older}")
    return resource if resource is not None and resource.epoch == claim.epoch else None


def last_epoch(tx: Tx, pool: str, name: str) -> int:
    """The last epoch of a resource of this name that was there before, or 0."""
    granted = select(func.max(t.grants.c.epoch)).where(t.grants.c.pool == pool, t.grants.c.resource == name)
    ran = select(func.max(t.runs.c.epoch)).where(t.runs.c.pool == pool, t.runs.c.resource == name)
    return max(tx.execute(granted).scalar() or 0, tx.execute(ran).scalar() or 0)


def quarantine(tx: Tx, resource: Known, reason: str, *, lease: str | None) -> None:
    """Put a resource out of use until an operator repairs it; one that left its pools file goes for good."""
    set_state(tx, resource, ResourceState.BROKEN, lease=lease, broken_reason=reason, broken_since=tx.now)
    remove_drained(tx, resource)


def free(tx: Tx, resource: Known, *, lease: str | None, prepared: str | None = None) -> None:
    """Give a resource back to its pool; one that left its pools file goes for good. Does not run the matcher.

    `prepared` is the digest of the stages that it went through ahead.
    """
    free_all(tx, [(resource, prepared, None)], lease=lease)


def free_all(tx: Tx, those: Sequence[Freed], *, lease: str | None) -> None:
    """Free resources, some of them for one key alone."""
    moved = [(row, _freed(prepared, kept)) for row, prepared, kept in those if row.state != ResourceState.FREE]
    set_states(tx, moved, ResourceState.FREE, lease=lease)
    instances.freed(tx, [(row.pool, row.name) for row, _ in moved if row.spec is not None])
    for row, _, _ in those:
        remove_drained(tx, row)


def _freed(prepared: str | None, kept: Kept | None) -> dict[str, Any]:
    for_one = {"share_key": kept.key, "kept_until": kept.until} if kept is not None else {}
    return {"prepared": prepared, **for_one}


def take_offline(tx: Tx, pool: str, name: str, reason: str, actor: str) -> None:
    """Mark a resource offline: its holder keeps it, and nobody gets it after. Does not run the matcher."""
    marks = {"offline_reason": reason, "offline_by": actor, "offline_since": tx.now}
    tx.execute(update(t.resources).where(t.resources.c.pool == pool, t.resources.c.name == name).values(**marks))
    events.record(tx, "resource_offline", pool=pool, resource=name, actor=actor, reason=reason)
    # One that is there and nobody can have is made up for.
    outbox.tend(tx, pool)


def remove_drained(tx: Tx, resource: Known) -> None:
    """Let go of a resource that nobody has if it left its pools file, or is to be deleted."""
    if not resource.draining:
        return
    if resource.spec is None:
        remove(tx, resource.pool, resource.name, actor=None)
    else:
        current = row_of(tx, resource.pool, resource.name)
        assert current is not None
        delete(tx, current, lease=None, reason="its pool has it no longer")


def delete(tx: Tx, resource: Known, *, lease: str | None, reason: str, actor: str | None = None) -> None:
    """Have a resource deleted that its pool has made and nobody has, with the settings with which it was made."""
    assert resource.spec is not None
    spec = specs.load(tx.connection, {resource.spec})[resource.spec]
    stages = specs.plan(spec, (StageName.DELETE,))
    (number,) = set_states(tx, [(resource, {})], ResourceState.DELETING, lease=lease, why=reason, actor=actor)
    if not stages:
        remove(tx, resource.pool, resource.name, actor=actor)
        return
    claim = Claim(
        pool=resource.pool, resource=resource.name, epoch=number, spec=resource.spec, site=spec.site, stages=stages
    )
    outbox.delete(tx, DeleteResource(claim=claim))


def remove(tx: Tx, pool: str, name: str, *, actor: str | None) -> None:
    """Forget a resource that nobody has, and its pool with the last one if the pool left its file."""
    this = (t.resources.c.pool == pool, t.resources.c.name == name)
    made = tx.execute(select(t.resources.c.kind, t.resources.c.spec).where(*this)).one()
    tx.execute(sql_delete(t.resources).where(*this))
    tx.execute(sql_delete(t.checks).where(t.checks.c.pool == pool, t.checks.c.name == name))
    if made.spec is not None:
        instances.forget(tx, pool, name)
        outbox.tend(tx, pool)
    if made.kind not in catalogue.made_kinds(tx.connection, pool):
        # Of what a pool makes there are as many as it may make, however many there are now.
        catalogue.changed(tx)
    events.record(tx, "resource_removed", pool=pool, resource=name, actor=actor)
    remove_if_empty(tx, pool)


def remove_if_empty(tx: Tx, pool: str) -> None:
    """Forget a pool that left its pools file, unless it has resources yet."""
    left = tx.execute(select(func.count()).select_from(t.resources).where(t.resources.c.pool == pool)).scalar_one()
    if not left:
        gone = tx.execute(sql_delete(t.pools).where(t.pools.c.name == pool, t.pools.c.draining))
        if gone.rowcount:
            for table in (t.growth, t.strays):
                tx.execute(sql_delete(table).where(table.c.pool == pool))
            catalogue.changed(tx)
            events.record(tx, "pool_removed", pool=pool)
