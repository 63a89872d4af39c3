"""Listings: what there really is in a pool, and what of it nobody knows.

What a listing finds is deleted only if its name is one that the pool gives, and the listing before found it too, and
neither time anybody knew it. Whatever is being created was written down before it was made, and so is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select

from leasehold import naming
from leasehold.messages import Claim, DeleteResource, ListPool
from leasehold.model import PoolSpec, ResourceState, StageName
from leasehold.store import checks, events, facts, growth, instances, making, moves, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_NOT_OFTENER = timedelta(seconds=1)
_FOUND = "a listing found it twice running, and nobody knows it"


def begin_due(tx: Tx, spec_id: int, spec: PoolSpec, at: datetime | None) -> datetime:
    """Have a pool listed if that is due, once at a time, and return when it will be; `at` is when it was to be."""
    if at is not None and at > tx.now:
        return at
    hook = spec.stages[StageName.LIST][0]
    order = ListPool(
        id=f"list:{spec.name}:{moves.epoch(tx, 0)}",
        pool=spec.name,
        spec=spec_id,
        site=spec.site,
        timeout_s=hook.timeout.total_seconds(),
    )
    outbox.list_pool(tx, order)
    # Until it has ended: one that is slower than it is frequent would pile up, and take every worker there is.
    lost_at = tx.now + hook.timeout + checks.LOST_AFTER
    growth.change(tx, spec.name, list_at=lost_at)
    return lost_at


def listed(tx: Tx, order: ListPool, names: Sequence[str], trouble: str | None) -> None:
    """Take note of what a listing has found, and have deleted what nobody knew twice running."""
    if not specs.has_pool(tx.connection, order.pool):
        return
    spec = specs.load(tx.connection, {order.spec})[order.spec]
    if spec.listing is not None:
        growth.change(tx, order.pool, list_at=tx.now + max(spec.listing.every, _NOT_OFTENER))
        outbox.tend(tx, order.pool)
    if trouble is not None or facts.suspended(tx.connection) is not None:
        growth.change(tx, order.pool, list_trouble=trouble)
        return
    known = growth.of_pool(tx.connection, order.pool)
    if known is not None and known.last_listing == order.id:
        # Said twice: one listing is not two.
        return
    growth.change(tx, order.pool, list_trouble=None, last_listing=order.id)
    unknown = set(names) - set(tx.execute(select(t.resources.c.name).where(t.resources.c.name.in_(names))).scalars())
    fits = naming.fitting(spec.name_pattern, order.pool)
    strays = {name for name in unknown if len(name) <= naming.LONGEST and fits.match(name)}
    before = set(tx.execute(select(t.strays.c.name).where(t.strays.c.pool == order.pool)).scalars())
    tx.execute(delete(t.strays).where(t.strays.c.pool == order.pool))
    for name in sorted(strays - before):
        tx.execute(insert(t.strays).values(pool=order.pool, name=name, since=tx.now))
        events.record(tx, "stray_found", pool=order.pool, resource=name)
    for name in sorted(strays & before):
        _delete(tx, order, spec, name)


def _delete(tx: Tx, order: ListPool, spec: PoolSpec, name: str) -> None:
    """Have something deleted that nobody knows, as if the pool had made it."""
    planned = specs.plan(spec, (StageName.DELETE,))
    if not planned:
        return
    instances.add(tx, order.pool, name)
    epoch = making.add(tx, spec, order.spec, name, ResourceState.DELETING, why=_FOUND)
    claim = Claim(pool=order.pool, resource=name, epoch=epoch, spec=order.spec, site=spec.site, stages=planned)
    outbox.delete(tx, DeleteResource(claim=claim))
