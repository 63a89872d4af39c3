"""The outbox: messages to workflows, written in the transaction that makes them true, delivered after it.

Delivering one twice does no harm: a signal carries no data, and starting a workflow that was started is refused.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy import Connection, insert, select, update

from leasehold.messages import Notice, RecycleResource
from leasehold.ports import Posted
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_RECYCLE, _NOTICE = TypeAdapter(RecycleResource), TypeAdapter(Notice)
_INSERT = insert(t.outbox).inline()


def signal(tx: Tx, workflow: str) -> None:
    """Have a workflow, a lease's mostly, look again at what it is granted."""
    _post(tx, "granted", workflow, None)


def recycle(tx: Tx, message: RecycleResource) -> None:
    """Have a recycling started."""
    _post(tx, "recycle", message.lease, asdict(message))


def notice(tx: Tx, message: Notice) -> None:
    """Have people told of something."""
    _post(tx, "notice", message.lease, to_jsonable_python(message))


def _post(tx: Tx, kind: str, lease: str, message: dict[str, Any] | None) -> None:
    tx.later(_INSERT, {"kind": kind, "lease": lease, "message": message, "at": tx.now})
    tx.posted = True


def due(connection: Connection, limit: int) -> list[Posted]:
    """Undelivered messages, oldest first, those in trouble last: they must not be in the way of the others."""
    rows = connection.execute(
        select(t.outbox.c.id, t.outbox.c.kind, t.outbox.c.lease, t.outbox.c.message)
        .where(t.outbox.c.delivered_at.is_(None))
        .order_by(t.outbox.c.trouble.is_not(None), t.outbox.c.id)
        .limit(limit)
    )
    return [_posted(row) for row in rows]


def _posted(row: Any) -> Posted:
    starts = Posted(id=row.id, lease=row.lease)
    if row.kind == "recycle":
        return replace(starts, recycle=_RECYCLE.validate_python(row.message))
    return replace(starts, notice=_NOTICE.validate_python(row.message)) if row.kind == "notice" else starts


def failed(tx: Tx, message: int, why: str) -> None:
    """Note why a message could not be delivered yet."""
    tx.execute(update(t.outbox).where(t.outbox.c.id == message).values(trouble=why))


def delivered(tx: Tx, ids: list[int]) -> None:
    """Mark messages as delivered."""
    tx.execute(update(t.outbox).where(t.outbox.c.id.in_(ids)).values(delivered_at=tx.now))
