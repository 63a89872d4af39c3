"""Diaries: until when each resource is taken, by who has it now and by those that it is promised to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select

from leasehold import allocation
from leasehold.allocation import Key
from leasehold.forecast import Diary
from leasehold.model import Item, LeaseState, ResourceState
from leasehold.store import stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue, is_particular, shape
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
_SOONEST = (_R.state != ResourceState.FREE, _L.id.is_not(None), _L.expires_at.nulls_last(), _L.duration_s, _R.name)
"""What is free first, then what is being cleaned, then what is given back first."""
_ALIKE = (_R.pool, _L.id.is_not(None) & _L.expires_at.is_(None))
"""Of these the order tells who is first: each pool has its grace and cleaning, and who is prepared has no end yet."""
_PLACE = func.row_number().over(partition_by=_ALIKE, order_by=_SOONEST).label("place")
_OUT_OF_USE = (ResourceState.BROKEN, ResourceState.DELETING)
_ROWS: Any = (
    select(_R.pool, _R.name, _R.kind, _R.tags, _R.properties, _PLACE, *HOLDER)
    .outerjoin(t.grants, HELD)
    .outerjoin(t.leases, _L.id == t.grants.c.lease)
    .where(_R.state.not_in(_OUT_OF_USE), _R.offline_since.is_(None), ~_R.draining)
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
    """The diaries of as much as these items can use of what could serve them, in order of preference.

    What is out of use is left out. `without` names leases whose promises are left out.
    """
    promised = [promise for promise in _promises(connection, catalogue.pools(items)) if promise.lease not in without]
    # Whatever others are given, or have been promised, so many are enough for all.
    need = sum(item.count for item in items) + len(promised)
    shapes = {shape([item]): item for item in items}.values()
    rows: dict[Key, Row[Any]] = {}
    for item in shapes:
        rows.update(((row.pool, row.name), row) for row in _soonest(connection, catalogue, item, need))
    kinds = {kind.id: place for place, kind in enumerate(catalogue.serving(list(shapes)))}
    diaries = {}
    for key, row in sorted(rows.items(), key=lambda pair: (kinds[pair[1].kind], pair[0])):
        end = free_at(row, history, now)
        diaries[key] = Diary(candidate=stock.as_candidate(row), taken=[] if end is None else [(now, end)])
    for promise in promised:
        if (diary := diaries.get((promise.pool, promise.resource))) is not None:
            # One that should have begun waits for somebody who is late.
            late = max(now - promise.begins, timedelta(0))
            diary.enter(promise.begins + late, promise.ends + late)
    return list(diaries.values())


def _soonest(connection: Connection, catalogue: Catalogue, item: Item, need: int) -> Sequence[Row[Any]]:
    """What suits an item: of each pool so much as is free first, of what is lent and of what is being prepared."""
    kinds = catalogue.serving([item])
    suiting = _ROWS.where(_R.pool.in_({kind.pool for kind in kinds}), _R.kind.in_([kind.id for kind in kinds]))
    if is_particular(item):
        rows = connection.execute(suiting)
        return [row for row in rows if allocation.suits(item, stock.as_candidate(row))]
    placed = suiting.subquery()
    found: Sequence[Row[Any]] = connection.execute(select(placed).where(placed.c.place <= need)).all()
    return found


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
