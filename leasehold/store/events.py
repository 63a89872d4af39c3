"""Events: what happened, when, to what, who did it and why; written in the transaction that did it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select

from leasehold import model
from leasehold.store import tables as t
from leasehold.store.engine import Tx

CHANNEL = "leasehold"
"""PostgreSQL's notification channel; the payload is the lease that something happened to."""

_INSERT = insert(t.events).inline()
_NOTIFY = select(func.pg_notify(CHANNEL, bindparam("lease")))
_AFTER = select(t.events.c.id, t.events.c.lease).where(t.events.c.id > bindparam("after"))


def record(
    tx: Tx,
    kind: str,
    *,
    lease: str | None = None,
    pool: str | None = None,
    resource: str | None = None,
    actor: str | None = None,
    reason: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write an event; one about a lease wakes whoever waits for it or follows it."""
    tx.later(
        _INSERT,
        {
            "at": tx.now,
            "kind": kind,
            "lease": lease,
            "pool": pool,
            "resource": resource,
            "actor": actor,
            "reason": reason,
            "data": dict(data or {}),
        },
    )
    if tx.postgres and lease is not None and lease not in tx.told:
        tx.told.add(lease)
        tx.later(_NOTIFY, {"lease": lease})


def _event(row: Row[Any]) -> model.Event:
    return model.Event(**{c.name: getattr(row, c.name) for c in t.events.c})


def of(
    connection: Connection,
    *,
    lease: str | None,
    pool: str | None,
    resource: str | None,
    after: int,
    before: int | None,
    limit: int,
    alone: bool = False,
) -> list[model.Event]:
    """The events of a lease, or of a resource, after an event's id, oldest first; with `before` the latest first.

    `alone`: of a pool itself, not of what is in it.
    """
    query = select(t.events).where(t.events.c.id > after).limit(limit)
    query = query.order_by(t.events.c.id if before is None else t.events.c.id.desc())
    if before is not None:
        query = query.where(t.events.c.id < before)
    for column, value in ((t.events.c.lease, lease), (t.events.c.pool, pool), (t.events.c.resource, resource)):
        if value is not None:
            query = query.where(column == value)
    if alone:
        query = query.where(t.events.c.resource.is_(None), t.events.c.lease.is_(None))
    return [_event(row) for row in connection.execute(query)]


def changed_since(connection: Connection, after: int) -> tuple[int, list[str]]:
    """The last event's id, and the leases that have events after `after` (in SQLite ids are in order of commit)."""
    rows = connection.execute(_AFTER, {"after": after}).all()
    return max((row.id for row in rows), default=after), list(dict.fromkeys(row.lease for row in rows if row.lease))


def last_id(connection: Connection) -> int:
    """The id of the newest event, or 0."""
    return connection.execute(select(func.max(t.events.c.id))).scalar() or 0
