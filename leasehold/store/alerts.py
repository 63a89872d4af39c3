"""Alerts: what stands until somebody has seen to it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from leasehold.model import Alert
from leasehold.store import events
from leasehold.store import tables as t
from leasehold.store.engine import Tx


def standing(connection: Connection) -> list[Alert]:
    """The alerts that stand, oldest first."""
    rows = connection.execute(select(t.alerts).order_by(t.alerts.c.since, t.alerts.c.key))
    return [Alert(key=row.key, since=row.since, detail=row.detail) for row in rows]


def settle(tx: Tx, key: str, detail: str | None) -> bool:
    """Have an alert stand with this detail, or with None no more; return whether it was raised just now.

    One that stands already keeps its time, and leaves no second event.
    """
    known = tx.execute(select(t.alerts.c.detail).where(t.alerts.c.key == key)).scalar_one_or_none()
    if detail is None:
        if known is not None:
            tx.execute(delete(t.alerts).where(t.alerts.c.key == key))
            events.record(tx, "alert_cleared", reason=known, data={"key": key})
        return False
    if known is None:
        tx.execute(insert(t.alerts).values(key=key, since=tx.now, detail=detail))
        events.record(tx, "alert_raised", reason=detail, data={"key": key})
        return True
    if known != detail:
        tx.execute(update(t.alerts).where(t.alerts.c.key == key).values(detail=detail))
    return False
