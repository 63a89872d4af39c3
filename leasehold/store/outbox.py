"""The outbox: messages to workflows, written in the transaction that makes them true, delivered after it.

Delivering one twice does no harm: a signal carries no data, and starting a workflow that was started is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy import Connection, insert, select, update

from leasehold.messages import (
    CheckRound,
    CreateResource,
    DeleteResource,
    ListPool,
    Notice,
    RecycleResource,
    TendPool,
    pool_id,
)
from leasehold.ports import Posted
from leasehold.store import tables as t
from leasehold.store.engine import MEMO, Tx

_KINDS = {
    "recycle": RecycleResource,
    "create": CreateResource,
    "delete": DeleteResource,
    "checks": CheckRound,
    "list": ListPool,
    "notice": Notice,
    "tend": TendPool,
}
"""What is started, by the kind of its message."""
_READERS: dict[str, TypeAdapter[Any]] = {kind: TypeAdapter(of) for kind, of in _KINDS.items()}
_TOLD = "tended"
"""In a transaction's memo: the pools that are told of it already."""
_INSERT = insert(t.outbox).inline()


def signal(tx: Tx, workflow: str) -> None:
    """Have a workflow, a lease's mostly, look again at what it is granted."""
    _post(tx, "granted", workflow, None)


def recycle(tx: Tx, message: RecycleResource) -> None:
    """Have a recycling started."""
    _post(tx, "recycle", message.lease, message)


def create(tx: Tx, message: CreateResource) -> None:
    """Have a creation started."""
    _post(tx, "create", "", message)


def delete(tx: Tx, message: DeleteResource) -> None:
    """Have a deletion started."""
    _post(tx, "delete", "", message)


def check(tx: Tx, message: CheckRound) -> None:
    """Have livechecks started."""
    _post(tx, "checks", message.id, message)


def list_pool(tx: Tx, message: ListPool) -> None:
    """Have a pool listed."""
    _post(tx, "list", message.id, message)


def tend(tx: Tx, pool: str) -> None:
    """Have a pool looked after, once for a transaction."""
    told: set[str] = tx.connection.info[MEMO].setdefault(_TOLD, set())
    if pool not in told:
        told.add(pool)
        _post(tx, "tend", pool_id(pool), TendPool(pool=pool))


def notice(tx: Tx, message: Notice) -> None:
    """Have people told of something."""
    _post(tx, "notice", message.lease, message)


def _post(tx: Tx, kind: str, lease: str, message: object) -> None:
    plain = None if message is None else to_jsonable_python(message)
    tx.later(_INSERT, {"kind": kind, "lease": lease, "message": plain, "at": tx.now})
    tx.posted = True


def due(connection: Connection, limit: int) -> list[Posted]:
    """Undelivered messages, oldest first, those in trouble last: they must not be in the way of the others.

    Nor must those that tell pools to look after themselves, which come after all others.
    """
    rows = connection.execute(
        select(t.outbox.c.id, t.outbox.c.kind, t.outbox.c.lease, t.outbox.c.message)
        .where(t.outbox.c.delivered_at.is_(None))
        .order_by(t.outbox.c.kind == "tend", t.outbox.c.trouble.is_not(None), t.outbox.c.id)
        .limit(limit)
    )
    return [_posted(row) for row in rows]


def _posted(row: Any) -> Posted:
    posted = Posted(id=row.id, lease=row.lease)
    reader = _READERS.get(row.kind)
    return posted if reader is None else replace(posted, start=reader.validate_python(row.message))


def failed(tx: Tx, message: int, why: str) -> None:
    """Note why a message could not be delivered yet."""
    tx.execute(update(t.outbox).where(t.outbox.c.id == message).values(trouble=why))


def delivered(tx: Tx, ids: list[int]) -> None:
    """Mark messages as delivered."""
    tx.execute(update(t.outbox).where(t.outbox.c.id.in_(ids)).values(delivered_at=tx.now))
