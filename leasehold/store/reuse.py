"""Reuse: what becomes of a resource that its holder has given back, once it has gone through the stages for that.

One that was registered is free again. One that its pool has made is deleted, unless it may be used again: by anyone,
or for a while by who comes with the same key. A key counts for its owner alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, bindparam, select

from leasehold import selfservice, sharing
from leasehold.model import PoolSpec, Reuse
from leasehold.store import instances, moves, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.moves import Known

_LEASE = select(t.leases.c.owner, t.leases.c.unverified, t.leases.c.share_key).where(
    t.leases.c.id == bindparam("lease")
)

Left = tuple[Known, int, str | None]
"""What a holder left: a resource, with the spec of its grant, and how it was prepared ahead since."""


def settle(tx: Tx, left: Sequence[Left], *, lease: str | None) -> None:
    """Free what a lease has left, keep it for its key, or delete it. Does not run the matcher."""
    loaded = specs.load(tx.connection, {spec for _, spec, _ in left})
    key = _key(tx, lease) if any(loaded[spec].policy.reuse_window for _, spec, _ in left) else None
    known = instances.of_all(tx.connection, [(row.pool, row.name) for row, _, _ in left if row.spec is not None])
    freed: list[moves.Freed] = []
    for row, spec_id, prepared in left:
        spec = loaded[spec_id]
        instance = known.get((row.pool, row.name))
        window = spec.policy.reuse_window
        kept = moves.Kept(key=key, until=tx.now + window) if key is not None and window is not None else None
        if instance is None or lease is None:
            freed.append((row, prepared, kept))
        elif not _may_be_used_again(tx, spec, instance):
            moves.delete(tx, row, lease=lease, reason="it was used often enough")
        elif spec.policy.reuse is Reuse.ANYONE:
            freed.append((row, prepared, None))
        elif kept is not None:
            freed.append((row, prepared, kept))
        else:
            moves.delete(tx, row, lease=lease, reason="nobody else may use it")
    moves.free_all(tx, freed, lease=lease)


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
    return (
        policy.reuse_time is None
        or instance.first_granted_at is None
        or tx.now - instance.first_granted_at <= policy.reuse_time
    )
