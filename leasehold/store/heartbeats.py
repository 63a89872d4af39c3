"""Heartbeats: a lease whose holder is not heard of any more is lost, in whatever state it is.

A heartbeat touches one row of a table of its own; no timer runs, and one query finds those that are overdue.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, Select, bindparam, delete, insert, or_, select, update

from leasehold.errors import LeaseNotActive
from leasehold.model import Outcome
from leasehold.store import tables as t
from leasehold.store.engine import Tx

TELL_AGAIN = timedelta(seconds=30)
"""How often a workflow is told that its lease is overdue, until it has ended."""

_END = delete(t.heartbeats).where(t.heartbeats.c.lease == bindparam("lease_"))


def begin(tx: Tx, lease: str, every: timedelta, submitted_at: datetime) -> bool:
    """Expect heartbeats from submission on; return whether the first is overdue already.

    One that came before the lease was admitted counts.
    """
    by = submitted_at + every
    early = tx.execute(select(t.heartbeats.c.by).where(t.heartbeats.c.lease == lease)).scalar_one_or_none()
    if early is None:
        _expect(tx, lease, every, by)
    return (early or by) < tx.now


def beat(tx: Tx, lease: str, every: timedelta | None) -> datetime | None:
    """Note that a lease's holder is there, and return until when the next heartbeat must come.

    None where the lease expects none, or none any more. `every` is that of a lease that was not admitted yet a moment
    ago. Raises `LeaseNotActive` where the lease is lost.
    """
    row = tx.execute(select(t.heartbeats).where(t.heartbeats.c.lease == lease)).one_or_none()
    if row is None:
        if every is None or tx.execute(select(t.requests.c.lease).where(t.requests.c.lease == lease)).first():
            return None
        _expect(tx, lease, every, tx.now + every)
        return tx.now + every
    if row.lost:
        raise LeaseNotActive("the lease is lost: no heartbeat came in time")
    by: datetime = tx.now + timedelta(seconds=row.every_s)
    tx.execute(update(t.heartbeats).where(t.heartbeats.c.lease == lease).values(by=by, told_at=None))
    return by


def _expect(tx: Tx, lease: str, every: timedelta, by: datetime) -> None:
    values = {"lease": lease, "every_s": round(every.total_seconds()), "by": by, "lost": False}
    tx.execute(insert(t.heartbeats).values(values))


def any_overdue(connection: Connection, now: datetime) -> bool:
    """Whether there is a workflow to tell."""
    return connection.execute(_overdue(now).limit(1)).first() is not None


def overdue(tx: Tx, limit: int) -> list[str]:
    """The leases whose workflows are to be told, which counts as done."""
    found = list(tx.execute(_overdue(tx.now).order_by(t.heartbeats.c.by).limit(limit)).scalars())
    tx.execute(update(t.heartbeats).where(t.heartbeats.c.lease.in_(found)).values(told_at=tx.now))
    return found


def _overdue(now: datetime) -> Select[tuple[str]]:
    told = or_(t.heartbeats.c.told_at.is_(None), t.heartbeats.c.told_at < now - TELL_AGAIN)
    # One that is not admitted yet has nothing to lose: its admission looks for itself.
    admitted = select(t.heartbeats.c.lease).join(t.leases, t.leases.c.id == t.heartbeats.c.lease)
    return admitted.where(t.heartbeats.c.by < now, told)


def give_up(tx: Tx, lease: str) -> bool:
    """Whether a lease is lost; from then on no heartbeat revives it. Or one came in the last moment.

    Of one that is closed as lost the answer stays: a worker may have died before the workflow knew that it is.
    """
    overdue = update(t.heartbeats).where(t.heartbeats.c.lease == lease, t.heartbeats.c.by < tx.now)
    if tx.execute(overdue.values(lost=True)).rowcount:
        return True
    closed = select(t.leases.c.id).where(t.leases.c.id == lease, t.leases.c.outcome == Outcome.LOST)
    return tx.execute(closed).first() is not None


def end(tx: Tx, lease: str) -> None:
    """Expect no more."""
    tx.write(_END, {"lease_": lease})
