"""Livechecks: which are due, and what becomes of a resource that fails them.

A check looks, and changes nothing: it takes no epoch, and what it says of hands that have changed meanwhile is dropped.
One that failed its last check is granted to nobody. One that failed often enough in a row is dead: a free one goes
into quarantine, and its pool makes another; of a leased one the holder is told, or more, as the policy says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from leasehold.channels import NoticeKind
from leasehold.errors import LeaseholdError
from leasehold.messages import Checked, CloseLease, HeldResource, Refusal
from leasehold.model import LeaseState, OnDegraded, Outcome, ResourceState, StageName
from leasehold.store import closing, events, growing, holding, matching, moves, notices, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_R, _C, _G = t.resources.c, t.checks.c, t.grants.c
_HELD = (_G.pool == _R.pool) & (_G.resource == _R.name) & _G.closed_at.is_(None)
_CHECKED = (_C.pool == _R.pool) & (_C.name == _R.name)


LOST_AFTER = timedelta(minutes=1)
"""So much longer than it may take nobody waits for a check or a listing: its worker is gone, or there is none."""
_IN_A_ROW = 5
"""So many checks follow one another in one round."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is to be checked now, so many at once; `due` is when others will be."""

    resources: tuple[HeldResource, ...]
    parallel: int
    due: list[datetime]


def take_due(tx: Tx, pool: str, parallel: int, timeout: timedelta) -> Taken:
    """Take the resources of a pool whose check is due, those that are longest due first, as far as there is room.

    No more than `parallel` checks are under way in a pool, and the next one of a resource is due a while after its last
    has ended. Only what is free or delivered is checked: while hooks work on it, it may well be dead.
    """
    query = (
        select(_R.pool, _R.name, _R.epoch, _C.due_at, _C.begun_at)
        .outerjoin(t.checks, _CHECKED)
        .outerjoin(t.grants, _HELD)
        .where(
            _R.pool == pool,
            (_R.state == ResourceState.FREE) | ((_R.state == ResourceState.LEASED) & _G.ready_at.is_not(None)),
        )
        .order_by(_C.due_at, _R.name)
    )
    rows = tx.execute(query).all()
    under_way = [row for row in rows if row.begun_at is not None and row.due_at > tx.now]
    due = [row for row in rows if row.due_at is None or row.due_at <= tx.now]
    room = max(0, parallel - len(under_way))
    taken = due[: room * _IN_A_ROW]
    lost_at = tx.now + _IN_A_ROW * timeout + LOST_AFTER
    _begin(tx, taken, lost_at)
    later = [row.due_at for row in rows if row.due_at is not None and row.due_at > tx.now]
    return Taken(
        resources=tuple(HeldResource(pool=row.pool, resource=row.name, epoch=row.epoch) for row in taken),
        parallel=max(1, min(room, len(taken))),
        due=[*later, *([lost_at] if taken else [])],
    )


def _begin(tx: Tx, taken: Sequence[Row[Any]], lost_at: datetime) -> None:
    new = [{"pool": row.pool, "name": row.name, "failures": 0} for row in taken if row.due_at is None]
    if new:
        tx.execute(insert(t.checks), [{**one, "due_at": lost_at, "begun_at": tx.now} for one in new])
    known = [row.name for row in taken if row.due_at is not None]
    if known:
        these = (_C.pool == taken[0].pool, _C.name.in_(known))
        tx.execute(update(t.checks).where(*these).values(due_at=lost_at, begun_at=tx.now))


def forget(tx: Tx, pool: str) -> None:
    """Hold nothing against resources of a pool that checks them no more."""
    tx.execute(delete(t.checks).where(_C.pool == pool))
    doubted = (_R.pool == pool, _R.suspect)
    if tx.execute(select(_R.name).where(*doubted).limit(1)).first() is not None:
        tx.execute(update(t.resources).where(*doubted).values(suspect=False))
        matching.match(tx, {pool})


def _put(tx: Tx, pool: str, name: str, **values: Any) -> None:
    tx.execute(update(t.checks).where(_C.pool == pool, _C.name == name).values(**values))


def checked(tx: Tx, results: Sequence[Checked]) -> None:
    """Record how livechecks of one pool ended, and do what is due for what is dead."""
    if not results:
        return
    pool = results[0].pool
    if not specs.has_pool(tx.connection, pool):
        return
    _, spec = specs.in_force(tx.connection, pool)
    every = spec.livecheck.every if spec.livecheck is not None else timedelta(days=1)
    named = [one.resource for one in results]
    these = (_C.pool == pool, _C.name.in_(named))
    tx.execute(update(t.checks).where(*these).values(due_at=tx.now + every, begun_at=None))
    outbox.tend(tx, pool)
    known = {row.name: row for row in tx.execute(select(t.checks).where(*these)).all()}
    rows = tx.execute(select(t.resources).where(_R.pool == pool, _R.name.in_(named))).all()
    resources = {row.name: row for row in rows}
    for one in results:
        resource = resources.get(one.resource)
        if resource is None or one.resource not in known or resource.epoch != one.epoch:
            continue
        if one.failed is None:
            _alive(tx, resource, known[one.resource])
        else:
            _failed(tx, resource, known[one.resource], one.failed, spec.livecheck.attempts if spec.livecheck else 1)


def _alive(tx: Tx, resource: Row[Any], known: Row[Any]) -> None:
    if not known.failures and not resource.suspect:
        return
    _put(tx, resource.pool, resource.name, failures=0, trouble=None, failed_since=None)
    _suspect(tx, resource, suspect=False)
    events.record(tx, "resource_alive", pool=resource.pool, resource=resource.name, lease=_holder(tx, resource))
    _mark_lease(tx, resource, None)
    outbox.tend(tx, resource.pool)
    matching.match(tx, {resource.pool}, {resource.kind})


def _failed(tx: Tx, resource: Row[Any], known: Row[Any], reason: str, allowed: int) -> None:
    failures = known.failures + 1
    since = known.failed_since or tx.now
    _put(tx, resource.pool, resource.name, failures=failures, trouble=reason, failed_since=since)
    if not resource.suspect:
        _suspect(tx, resource, suspect=True)
        about = {"pool": resource.pool, "resource": resource.name, "lease": _holder(tx, resource)}
        events.record(tx, "livecheck_failed", reason=reason, **about)
        outbox.tend(tx, resource.pool)
    if failures < allowed:
        return
    why = f"{StageName.LIVECHECK}: {reason}" + (f", {failures} times in a row" if failures > 1 else "")
    if resource.state == ResourceState.FREE:
        _suspect(tx, resource, suspect=False)
        _put(tx, resource.pool, resource.name, failures=0, trouble=None, failed_since=None)
        moves.quarantine(tx, resource, why, lease=None)
    elif resource.state == ResourceState.LEASED:
        _degraded(tx, resource, why)


def _suspect(tx: Tx, resource: Row[Any], *, suspect: bool) -> None:
    this = update(t.resources).where(_R.pool == resource.pool, _R.name == resource.name)
    tx.execute(this.values(suspect=suspect))


# Of a leased one


def _grant(tx: Tx, resource: Row[Any]) -> Row[Any] | None:
    query = select(t.grants).where(_G.pool == resource.pool, _G.resource == resource.name, _G.closed_at.is_(None))
    row: Row[Any] | None = tx.execute(query).one_or_none()
    return row


def _holder(tx: Tx, resource: Row[Any]) -> str | None:
    row = _grant(tx, resource) if resource.state == ResourceState.LEASED else None
    return row.lease if row else None


def _mark_lease(tx: Tx, resource: Row[Any], entry: dict[str, Any] | None) -> bool:
    """Say in the lease whether the resource is dead; return whether that is news."""
    holder = _holder(tx, resource)
    if holder is None:
        return False
    lease = holding.lease_row(tx.connection, holder)
    others = [one for one in lease.degraded or () if (one["pool"], one["name"]) != (resource.pool, resource.name)]
    was = len(others) != len(lease.degraded or ())
    if was == (entry is not None):
        return False
    holding.change(tx, holder, {"degraded": [*others, *([entry] if entry else [])] or None})
    return True


def _degraded(tx: Tx, resource: Row[Any], why: str) -> None:
    """Tell the holder, once, and do what the policy of the grant says, again and again until it is done."""
    grant = _grant(tx, resource)
    if grant is None:
        return
    entry = {"pool": resource.pool, "name": resource.name, "reason": why, "since": tx.now.isoformat()}
    lease, about = grant.lease, {"pool": resource.pool, "resource": resource.name}
    is_news = _mark_lease(tx, resource, entry)
    if is_news:
        events.record(tx, "lease_degraded", lease=lease, reason=why, **about)
        notices.tell(tx, NoticeKind.DEGRADED, lease, reason=f"{resource.pool}/{resource.name}: {why}")
    policy = specs.load(tx.connection, {grant.spec})[grant.spec].policy
    if policy.on_degraded is OnDegraded.END:
        _end(tx, lease, f"{resource.pool}/{resource.name}: {why}")
    elif policy.on_degraded is OnDegraded.REPLACE:
        _replace(tx, lease, grant, why, is_news=is_news)


def _end(tx: Tx, lease: str, why: str) -> None:
    """End a lease in the transaction that knows why; its workflow learns it from the record.

    One with a command its workflow ends: the command has to be stopped before.
    """
    row = holding.lease_row(tx.connection, lease)
    if row.state != LeaseState.ACTIVE:
        return
    refusal = Refusal(code="resource_lost", detail=why)
    if row.commanded:
        holding.change(tx, lease, {"error": {"code": refusal.code, "detail": refusal.detail}})
        outbox.signal(tx, lease)
        return
    closing.close(tx, CloseLease(lease=lease, outcome=Outcome.FAILED, actor="leasehold", stopped=False, error=refusal))
    outbox.signal(tx, lease)


def _replace(tx: Tx, lease: str, grant: Row[Any], why: str, *, is_news: bool) -> None:
    """Give a lease another resource in the stead of one that is dead, as soon as there is one."""
    try:
        growing.replace(tx, lease, grant, why)
    except LeaseholdError as error:
        # Its pool makes another, and it is tried again with the next check.
        outbox.tend(tx, grant.pool)
        if not is_news:
            return
        events.record(tx, "not_replaced", lease=lease, pool=grant.pool, resource=grant.resource, reason=error.detail)
