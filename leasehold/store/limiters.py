"""Limiters: how many runs of hooks there may be at once, of those that name the limiter, in all pools together.

A slot is a row that a workflow owns; one that has to wait for it is signalled when it is its turn.

A lease is worth nothing before it is whole. So the runs of the lease that was granted first go first, one after a
failure too: shared out evenly, the slots would have all leases ready when the last one is. Whatever else wants a slot
has the age of its wish, so that nobody is passed for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import bindparam, case, delete, func, insert, select, update

from leasehold.errors import OwnedElsewhere
from leasehold.messages import Slot, TakeSlot
from leasehold.model import LeaseState
from leasehold.store import outbox
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_GIVE_ALL = delete(t.slots).where(t.slots.c.workflow == bindparam("workflow_")).returning(t.slots.c.limiter)
_AGE = case((t.leases.c.state == LeaseState.PREPARING, t.leases.c.granted_at), else_=t.slots.c.at)
_WAITING = (
    select(t.slots.c.id, t.slots.c.workflow)
    .outerjoin(t.leases, t.leases.c.id == t.slots.c.workflow)
    .where(t.slots.c.limiter == bindparam("limiter"), t.slots.c.taken_at.is_(None))
    .order_by(_AGE, func.coalesce(t.leases.c.number, 0), t.slots.c.id)
)


def take(tx: Tx, order: TakeSlot) -> Slot:
    """Take a slot, or join those who wait for one; asked again, tell whether it is taken by now."""
    mine = select(t.slots.c.taken_at).where(t.slots.c.workflow == order.workflow, t.slots.c.key == order.key)
    if tx.execute(mine).first() is None:
        values = {"limiter": order.limiter, "workflow": order.workflow, "key": order.key, "at": tx.now}
        tx.execute(insert(t.slots).values(values))
        _serve(tx, order.limiter, asking=order.workflow)
    return Slot(taken=tx.execute(mine).scalar_one() is not None)


def give(tx: Tx, order: TakeSlot) -> None:
    """Give a slot back, or stop waiting for it."""
    gone = delete(t.slots).where(t.slots.c.workflow == order.workflow, t.slots.c.key == order.key)
    tx.execute(gone)
    _serve(tx, order.limiter)


def give_all(tx: Tx, workflow: str) -> None:
    """Give back whatever a workflow has that is over."""
    for limiter in sorted(set(tx.execute(_GIVE_ALL, {"workflow_": workflow}).scalars())):
        _serve(tx, limiter)


def set_sizes(tx: Tx, sizes: Mapping[str, int], file: str) -> None:
    """Make the limiters of a pools file what it says; one that it has no more limits nothing from now on.

    Raises `OwnedElsewhere` for one that another file has.
    """
    known = {row.name: row for row in tx.execute(select(t.limiters)).all()}
    for name, size in sizes.items():
        if name not in known:
            tx.execute(insert(t.limiters).values(name=name, size=size, file=file))
        elif known[name].file != file:
            raise OwnedElsewhere(f"the limiter {name} was made by the pools file {known[name].file}")
        elif known[name].size != size:
            tx.execute(update(t.limiters).where(t.limiters.c.name == name).values(size=size))
            _serve(tx, name)
    for name, row in known.items():
        if row.file == file and name not in sizes:
            tx.execute(delete(t.limiters).where(t.limiters.c.name == name))
            _serve(tx, name)


def known(tx: Tx) -> set[str]:
    """The names of all limiters."""
    return set(tx.execute(select(t.limiters.c.name)).scalars())


def _serve(tx: Tx, limiter: str, asking: str | None = None) -> None:
    """Give the slots that are free to the oldest of those who wait, and tell them, but for the one who asks now."""
    size = tx.execute(select(t.limiters.c.size).where(t.limiters.c.name == limiter)).scalar_one_or_none()
    queue = _WAITING
    if size is not None:
        taken = select(func.count()).select_from(t.slots)
        taken = taken.where(t.slots.c.limiter == limiter, t.slots.c.taken_at.is_not(None))
        queue = queue.limit(max(0, size - tx.execute(taken).scalar_one()))
    rows = tx.execute(queue, {"limiter": limiter}).all()
    tx.execute(update(t.slots).where(t.slots.c.id.in_([row.id for row in rows])).values(taken_at=tx.now))
    for workflow in sorted({row.workflow for row in rows} - {asking}):
        outbox.signal(tx, workflow)
