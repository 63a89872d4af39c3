"""Diaries: until when each resource is taken, by who has it now and by those that it is promised to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from leasehold.forecast import Diary
from leasehold.model import Item, LeaseState, ResourceState
from leasehold.store import stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue, is_particular
from leasehold.store.history import History

_R, _L = t.resources.c, t.leases.c
HOLDER = (
    _R.state.label("resource_state"),
    _L.id.label("lease"),
    _L.number,
    _L.state,
    _L.expires_at,
    _L.grace_until,
    _L.duration_s,
    t.grants.c.granted_at,
)
"""What `free_at` needs of a resource and of its holder."""

HELD = (t.grants.c.pool == _R.pool) & (t.grants.c.resource == _R.name) & t.grants.c.closed_at.is_(None)
_ROWS: Any = (
    select(_R.pool, _R.name, _R.kind, *HOLDER)
    .outerjoin(t.grants, HELD)
    .outerjoin(t.leases, _L.id == t.grants.c.lease)
    .where(_R.state != ResourceState.BROKEN, _R.offline_since.is_(None), ~_R.draining)
)
_NEVER_LATE = timedelta(seconds=1)
"""Whoever should have given back by now does so any moment."""


def read(
    connection: Connection,
    catalogue: Catalogue,
    items: Sequence[Item],
    history: History,
    now: datetime,
    *,
    without: Collection[str] = (),
) -> list[Diary]:
    """The diaries of all that could serve any of these items, in order of preference, but for what is out of use.

    `without` names leases whose promises are left out.
    """
    kinds = {kind.id: kind for kind in catalogue.serving(items)}
    pools = {kind.pool for kind in kinds.values()}
    query = _ROWS.where(_R.pool.in_(pools)).order_by(_R.name)
    particular = any(map(is_particular, items))
    if particular:
        query = query.add_columns(_R.tags, _R.properties)
    by_kind: dict[int, list[Row[Any]]] = {kind: [] for kind in kinds}
    for row in connection.execute(query):
        if row.kind in by_kind:
            by_kind[row.kind].append(row)
    diaries = {}
    for kind, rows in by_kind.items():
        for row in rows:
            candidate = stock.as_candidate(row) if particular else kinds[kind].candidate(row.name)
            end = free_at(row, history, now)
            diaries[candidate.key] = Diary(candidate=candidate, taken=[] if end is None else [(now, end)])
    for promise in _promises(connection, pools):
        if promise.lease not in without and (diary := diaries.get((promise.pool, promise.resource))):
            # One that should have begun waits for somebody who is late.
            late = max(now - promise.begins, timedelta(0))
            diary.enter(promise.begins + late, promise.ends + late)
    return list(diaries.values())


def _promises(connection: Connection, pools: Collection[str]) -> Sequence[Row[Any]]:
    return connection.execute(select(t.promises).where(t.promises.c.pool.in_(pools))).all()


def free_at(row: Row[Any], history: History, now: datetime) -> datetime | None:
    """When a resource can be lent again at the latest, as far as can be foreseen; None if that is now."""
    if row.resource_state == ResourceState.FREE:
        return None
    cleaning: timedelta = history.cleaning(row.pool)
    if row.lease is None:
        return now + max(cleaning, _NEVER_LATE)
    if row.state == LeaseState.ACTIVE:
        end: datetime = row.grace_until or row.expires_at + history.grace(row.pool)
    else:
        end = active_until(row, history, now) + history.grace(row.pool)
    return max(end, now + _NEVER_LATE) + cleaning


def active_until(row: Any, history: History, now: datetime) -> datetime:
    """When the time of a lease will be over that is being prepared."""
    ready: datetime = max(row.granted_at + history.preparing(row.pool), now)
    return ready + timedelta(seconds=row.duration_s)
