"""Reuse: what becomes of a resource that its holder has given back, once it has gone through the stages for that.

One that was registered is free again. One that its pool has made is deleted, unless it may be used again: by anyone,
or for a while by who comes with the same key. A key counts for its owner alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select

from leasehold import selfservice, sharing
from leasehold.messages import Claim, RecycleResource
from leasehold.model import PoolSpec, ResourceState, Reuse, StageName
from leasehold.store import instances, moves, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.moves import Known

_LEASE = select(t.leases.c.owner, t.leases.c.unverified, t.leases.c.share_key).where(
    t.leases.c.id == bindparam("lease")
)

_NOBODYS = ""
"""A key that no lease has."""

Left = tuple[Known, int, str | None]
"""What a holder left: a resource, with the spec of its grant, and how it was prepared ahead since."""


def recycle(
    tx: Tx,
    resource: Known,
    spec_id: int,
    spec: PoolSpec,
    *,
    lease: str | None,
    stages: tuple[StageName, ...] | None = None,
) -> None:
    """Send a resource through stages, or those that its pool wants after a lease; settle it where there are none.

    `lease` is the last that had it, if there was one.
    """
    due = specs.plan(spec, spec.policy.after_release if stages is None else stages)
    if not due:
        settle(tx, [(resource, spec_id, None)], lease=lease)
        return
    number = moves.set_state(tx, resource, ResourceState.RECYCLING, lease=lease)
    claim = Claim(pool=resource.pool, resource=resource.name, epoch=number, spec=spec_id, site=spec.site, stages=due)
    outbox.recycle(tx, RecycleResource(lease=lease or "", claim=claim))


def settle(tx: Tx, left: Sequence[Left], *, lease: str | None) -> None:
    """Free what a lease has left, keep it for its key, or delete it. Does not run the matcher."""
    loaded = specs.load(tx.connection, {spec for _, spec, _ in left})
    key = _key(tx, lease) if any(loaded[spec].policy.reuse_window for _, spec, _ in left) else None
    known = instances.of_all(tx.connection, [(row.pool, row.name) for row, _, _ in left if row.spec is not None])
    freed: list[moves.Freed] = []
    for row, spec_id, prepared in left:
        spec, instance = loaded[spec_id], known.get((row.pool, row.name))
        kept = _kept(tx, spec, instance, key)
        if instance is None:
            freed.append((row, prepared, kept))
        elif not instance.uses or (spec.policy.reuse is Reuse.ANYONE and _may_be_used_again(tx, spec, instance)):
            freed.append((row, prepared, None))
        elif kept is not None and _may_be_used_again(tx, spec, instance):
            freed.append((row, prepared, kept))
        elif row.offline_since is not None:
            # Somebody looks at it: it is nobody's until then, and deleted once it is online again.
            freed.append((row, None, moves.Kept(key=_NOBODYS, until=tx.now)))
        else:
            moves.delete(tx, row, lease=lease, reason="nobody else may use it")
    moves.free_all(tx, freed, lease=lease)


def _kept(tx: Tx, spec: PoolSpec, instance: Row[Any] | None, key: str | None) -> moves.Kept | None:
    """For whom a resource is kept, and until when: never longer than it may be used again."""
    window = spec.policy.reuse_window
    if key is None or window is None:
        return None
    until = tx.now + window
    if instance is not None and (last := granted_until(spec, instance.first_granted_at)) is not None:
        until = min(until, last)
    return moves.Kept(key=key, until=until)


def granted_until(spec: PoolSpec, first_granted_at: datetime | None) -> datetime | None:
    """Until when something that its pool has made may be granted again."""
    if spec.policy.reuse_time is None or first_granted_at is None:
        return None
    return first_granted_at + spec.policy.reuse_time


def used_before(tx: Tx, untouched: Sequence[Left]) -> list[Left]:
    """Free what a lease never used of what pools have made, as new; return what others had used before."""
    known = instances.of_all(tx.connection, [(row.pool, row.name) for row, _, _ in untouched])
    instances.ungranted(tx, list(known))
    new = [(row, prepared, None) for row, _, prepared in untouched if known[row.pool, row.name].uses <= 1]
    moves.free_all(tx, new, lease=None)
    return [one for one in untouched if known[one[0].pool, one[0].name].uses > 1]


def _key(tx: Tx, lease: str | None) -> str | None:
    row = tx.execute(_LEASE, {"lease": lease}).one_or_none()
    if row is None:
        return None
    return sharing.key_of(selfservice.counted_for(row.owner, unverified=row.unverified), row.share_key)


def _may_be_used_again(tx: Tx, spec: PoolSpec, instance: Row[Any]) -> bool:
    policy = spec.policy
    if policy.reuse_count is not None and instance.uses > policy.reuse_count:
        return False
    until = granted_until(spec, instance.first_granted_at)
    return until is None or tx.now <= until
