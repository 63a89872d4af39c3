"""Moves of one resource through its states, each under a new epoch, and its way out of the inventory.

Everything here runs inside a writing transaction, under the allocation lock, and none of it runs the matcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, select, update

from leasehold import model
from leasehold.messages import Claim, RecycleResource
from leasehold.model import PoolSpec, ResourceState, StageName
from leasehold.store import catalogue, events, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_R = t.resources.c
STANDING = (_R.pool, _R.name, _R.kind, _R.state, _R.epoch, _R.draining, _R.prepared)
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


Known = Row[Any] | Standing

_THIS = (t.resources.c.pool == bindparam("pool_"), t.resources.c.name == bindparam("name_"))
_RESOURCE = select(t.resources).where(*_THIS)
_CLEAN = {"stage": None, "broken_reason": None, "broken_since": None, "prepared": None}
_MOVE = update(t.resources).where(*_THIS).values({name: bindparam(name) for name in ("state", "epoch", *_CLEAN)})


def epoch(tx: Tx, last: int) -> int:
    """The next fencing token: grows always, and stays ahead of what a restored database has forgotten."""
    return max(last + 1, int(tx.now.timestamp() * 1000))


def set_state(tx: Tx, row: Known, state: ResourceState, *, lease: str | None, **more: Any) -> int:
    """Move a resource (a row of `resources`) to a state under a new epoch, which is returned."""
    return set_states(tx, [(row, more)], state, lease=lease)[0]


def set_states(
    tx: Tx, those: Sequence[tuple[Known, Mapping[str, Any]]], state: ResourceState, *, lease: str | None
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
            reason=more.get("broken_reason"),
            data={"epoch": new},
        )
    if changes:
        tx.write(_MOVE, changes)
    return [change["epoch"] for change in changes]


def row_of(tx: Tx, pool: str, name: str) -> Row[Any] | None:
    """A resource's row, or None."""
    row: Row[Any] | None = tx.execute(_RESOURCE, {"pool_": pool, "name_": name}).one_or_none()
    return row


def quarantine(tx: Tx, resource: Known, reason: str, *, lease: str | None) -> None:
    """Put a resource out of use until an operator repairs it; one that left its pools file goes for good."""
    set_state(tx, resource, ResourceState.BROKEN, lease=lease, broken_reason=reason, broken_since=tx.now)
    remove_drained(tx, resource)


def recycle(
    tx: Tx,
    resource: Known,
    spec_id: int,
    spec: PoolSpec,
    *,
    lease: str | None,
    stages: tuple[StageName, ...] | None = None,
) -> None:
    """Send a resource through stages, or those that its pool wants after a lease; free it where there are none.

    `lease` is the last that had it, if there was one.
    """
    due = specs.plan(spec, spec.policy.after_release if stages is None else stages)
    if not due:
        free(tx, resource, lease=lease)
        return
    number = set_state(tx, resource, ResourceState.RECYCLING, lease=lease)
    claim = Claim(pool=resource.pool, resource=resource.name, epoch=number, spec=spec_id, site=spec.site, stages=due)
    outbox.recycle(tx, RecycleResource(lease=lease or "", claim=claim))


def free(tx: Tx, resource: Known, *, lease: str | None, prepared: str | None = None) -> None:
    """Give a resource back to its pool; one that left its pools file goes for good. Does not run the matcher.

    `prepared` is the digest of the stages that it went through ahead.
    """
    free_all(tx, [(resource, prepared)], lease=lease)


def free_all(tx: Tx, those: Sequence[tuple[Known, str | None]], *, lease: str | None) -> None:
    """Free resources, each with the digest of the stages that it went through ahead."""
    moved = [(row, {"prepared": prepared}) for row, prepared in those if row.state != ResourceState.FREE]
    set_states(tx, moved, ResourceState.FREE, lease=lease)
    for row, _ in those:
        remove_drained(tx, row)


def remove_drained(tx: Tx, resource: Known) -> None:
    """Delete a resource that nobody has if it left its pools file."""
    if resource.draining:
        remove(tx, resource.pool, resource.name, actor=None)


def remove(tx: Tx, pool: str, name: str, *, actor: str | None) -> None:
    """Delete a resource that nobody has, and its pool with the last one if the pool left its file."""
    tx.execute(delete(t.resources).where(t.resources.c.pool == pool, t.resources.c.name == name))
    catalogue.changed(tx)
    events.record(tx, "resource_removed", pool=pool, resource=name, actor=actor)
    remove_if_empty(tx, pool)


def remove_if_empty(tx: Tx, pool: str) -> None:
    """Delete a pool that left its pools file, unless it has resources yet."""
    left = tx.execute(select(func.count()).select_from(t.resources).where(t.resources.c.pool == pool)).scalar_one()
    if not left:
        gone = tx.execute(delete(t.pools).where(t.pools.c.name == pool, t.pools.c.draining))
        if gone.rowcount:
            catalogue.changed(tx)
            events.record(tx, "pool_removed", pool=pool)
