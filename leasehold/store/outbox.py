"""The outbox: messages to workflows, written in the transaction that makes them true, delivered after it.

Delivering one twice does no harm: a signal carries no data, and starting a workflow that was started is refused.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, insert, select, update

from leasehold.messages import RecycleResource
from leasehold.ports import Posted
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_RECYCLE = TypeAdapter(RecycleResource)
_INSERT = insert(t.outbox).inline()


def signal(tx: Tx, workflow: str) -> None:
    """Have a workflow, a lease's mostly, look again at what it is granted."""
    _post(tx, "granted", workflow, None)


def recycle(tx: Tx, message: RecycleResource) -> None:
    """Have a recycling started."""
    _post(tx, "recycle", message.lease, asdict(message))


def _post(tx: Tx, kind: str, lease: str, message: dict[str, Any] | None) -> None:
    tx.later(_INSERT, {"kind": kind, "lease": lease, "message": message, "at": tx.now})
    tx.posted = True


def due(connection: Connection, limit: int) -> list[Posted]:
    """Undelivered messages, oldest first, those in trouble last: they must not be in the way of the others."""
    rows = connection.execute(
        select(t.outbox.c.id, t.outbox.c.lease, t.outbox.c.message)
        .where(t.outbox.c.delivered_at.is_(None))
        .order_by(t.outbox.c.trouble.is_not(None), t.outbox.c.id)
        .limit(limit)
    )
    return [
        Posted(id=row.id, lease=row.lease, recycle=row.message and _RECYCLE.validate_python(row.message))
        for row in rows
    ]


def failed(tx: Tx, message: int, why: str) -> None:
    """Note why a message could not be delivered yet."""
    tx.execute(update(t.outbox).where(t.outbox.c.id == message).values(trouble=why))


def delivered(tx: Tx, ids: list[int]) -> None:
    """Mark messages as delivered."""
    tx.execute(update(t.outbox).where(t.outbox.c.id.in_(ids)).values(delivered_at=tx.now))
