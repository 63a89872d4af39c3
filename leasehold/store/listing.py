"""Listings: what there really is in a pool, and what of it nobody knows.

What a listing finds is deleted only if its name is one that the pool gives, and the listing before found it too, and
neither time anybody knew it. Whatever is being created was written down before it was made, and so is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, insert, select

from leasehold import naming
from leasehold.messages import Claim, DeleteResource, ListPool
from leasehold.model import ResourceState, StageName
from leasehold.store import events, facts, growth, instances, making, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_NOT_OFTENER = timedelta(seconds=1)
_FOUND = "a listing found it twice running, and nobody knows it"


def listed(tx: Tx, order: ListPool, names: Sequence[str], trouble: str | None) -> None:
    """Take note of what a listing has found, and have deleted what nobody knew twice running."""
    if tx.execute(select(t.pools.c.name).where(t.pools.c.name == order.pool)).first() is None:
        return
    spec = specs.load(tx.connection, {order.spec})[order.spec]
    if spec.listing is not None:
        growth.change(tx, order.pool, list_at=tx.now + max(spec.listing.every, _NOT_OFTENER))
        outbox.tend(tx, order.pool)
    if trouble is not None or facts.suspended(tx.connection) is not None:
        growth.change(tx, order.pool, list_trouble=trouble)
        return
    known = growth.of(tx.connection, [order.pool]).get(order.pool)
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
        _delete(tx, order, name)


def _delete(tx: Tx, order: ListPool, name: str) -> None:
    """Have something deleted that nobody knows, as if the pool had made it."""
    spec = specs.load(tx.connection, {order.spec})[order.spec]
    planned = specs.plan(spec, (StageName.DELETE,))
    if not planned:
        return
    instances.add(tx, order.pool, name)
    epoch = making.add(tx, spec, order.spec, name, ResourceState.DELETING, why=_FOUND)
    claim = Claim(pool=order.pool, resource=name, epoch=epoch, spec=order.spec, site=spec.site, stages=planned)
    outbox.delete(tx, DeleteResource(claim=claim))
