"""Livechecks: which are due, and what becomes of a resource that fails them.

A check looks, and changes nothing: it takes no epoch, and what it says of hands that have changed meanwhile is dropped.
One that failed its last check is granted to nobody. One that failed often enough in a row is dead: a free one goes
into quarantine, and its pool makes another; of a leased one the holder is told, or more, as the policy says.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, insert, select, update

from leasehold.channels import NoticeKind
from leasehold.errors import LeaseholdError
from leasehold.messages import Checked, CloseLease, Refusal
from leasehold.model import LeaseState, OnDegraded, Outcome, ResourceState, StageName
from leasehold.store import closing, events, growing, holding, matching, moves, notices, outbox, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_R, _C, _G = t.resources.c, t.checks.c, t.grants.c
_HELD = (_G.pool == _R.pool) & (_G.resource == _R.name) & _G.closed_at.is_(None)
_CHECKED = (_C.pool == _R.pool) & (_C.name == _R.name)


_LOST_AFTER = timedelta(minutes=1)
"""So much longer than it may take nobody waits for a check: its worker is gone, or there is none."""


def take_due(tx: Tx, pool: str, timeout: timedelta) -> tuple[Sequence[Row[Any]], list[datetime]]:
    """The resources of a pool whose check is due now, and when those of the others are.

    The next one of each is due a while after this one has ended, so that never two are under way. Only what is free or
    delivered is checked: while hooks work on it, it may well be dead.
    """
    query = (
        select(_R.pool, _R.name, _R.epoch, _C.due_at)
        .outerjoin(t.checks, _CHECKED)
        .outerjoin(t.grants, _HELD)
        .where(
            _R.pool == pool,
            (_R.state == ResourceState.FREE) | ((_R.state == ResourceState.LEASED) & _G.ready_at.is_not(None)),
        )
        .order_by(_R.name)
    )
    rows = tx.execute(query).all()
    due = [row for row in rows if row.due_at is None or row.due_at <= tx.now]
    lost_at = tx.now + timeout + _LOST_AFTER
    for row in due:
        _put(tx, row.pool, row.name, new=row.due_at is None, due_at=lost_at)
    later = [row.due_at for row in rows if row.due_at is not None and row.due_at > tx.now]
    return due, [*later, *([lost_at] if due else [])]


def _put(tx: Tx, pool: str, name: str, *, new: bool, **values: Any) -> None:
    if new:
        tx.execute(insert(t.checks).values(pool=pool, name=name, failures=0, **values))
    else:
        tx.execute(update(t.checks).where(_C.pool == pool, _C.name == name).values(**values))


def checked(tx: Tx, results: Sequence[Checked]) -> None:
    """Record how livechecks ended, and do what is due for what is dead."""
    for one in results:
        resource = moves.row_of(tx, one.pool, one.resource)
        known = tx.execute(select(t.checks).where(_C.pool == one.pool, _C.name == one.resource)).one_or_none()
        if resource is None or known is None:
            continue
        _, spec = specs.in_force(tx.connection, one.pool)
        every = spec.livecheck.every if spec.livecheck is not None else timedelta(days=1)
        _put(tx, one.pool, one.resource, new=False, due_at=tx.now + every)
        outbox.tend(tx, one.pool)
        if resource.epoch != one.epoch:
            continue
        if one.failed is None:
            _alive(tx, resource, known)
        else:
            _failed(tx, resource, known, one.failed)


def _alive(tx: Tx, resource: Row[Any], known: Row[Any]) -> None:
    if not known.failures and not resource.suspect:
        return
    _put(tx, resource.pool, resource.name, new=False, failures=0, trouble=None, failed_since=None)
    _suspect(tx, resource, suspect=False)
    events.record(tx, "resource_alive", pool=resource.pool, resource=resource.name, lease=_holder(tx, resource))
    _mark_lease(tx, resource, None)
    outbox.tend(tx, resource.pool)
    matching.match(tx, {resource.pool}, {resource.kind})


def _failed(tx: Tx, resource: Row[Any], known: Row[Any], reason: str) -> None:
    failures = known.failures + 1
    since = known.failed_since or tx.now
    _put(tx, resource.pool, resource.name, new=False, failures=failures, trouble=reason, failed_since=since)
    if not resource.suspect:
        _suspect(tx, resource, suspect=True)
        about = {"pool": resource.pool, "resource": resource.name, "lease": _holder(tx, resource)}
        events.record(tx, "livecheck_failed", reason=reason, **about)
        outbox.tend(tx, resource.pool)
    _, spec = specs.in_force(tx.connection, resource.pool)
    allowed = spec.livecheck.attempts if spec.livecheck else 1
    if failures < allowed:
        return
    why = f"{StageName.LIVECHECK}: {reason}" + (f", {failures} times in a row" if failures > 1 else "")
    if resource.state == ResourceState.FREE:
        _suspect(tx, resource, suspect=False)
        _put(tx, resource.pool, resource.name, new=False, failures=0, trouble=None, failed_since=None)
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
    if _mark_lease(tx, resource, entry):
        events.record(tx, "lease_degraded", lease=lease, reason=why, **about)
        notices.tell(tx, NoticeKind.DEGRADED, lease, reason=f"{resource.pool}/{resource.name}: {why}")
    policy = specs.load(tx.connection, {grant.spec})[grant.spec].policy
    if policy.on_degraded is OnDegraded.END:
        _end(tx, lease, f"{resource.pool}/{resource.name}: {why}")
    elif policy.on_degraded is OnDegraded.REPLACE:
        _replace(tx, lease, grant, why)


def _end(tx: Tx, lease: str, why: str) -> None:
    """End a lease in the transaction that knows why; its workflow learns it from the record."""
    if holding.lease_row(tx.connection, lease).state != LeaseState.ACTIVE:
        return
    refusal = Refusal(code="resource_lost", detail=why)
    closing.close(tx, CloseLease(lease=lease, outcome=Outcome.FAILED, actor="leasehold", stopped=False, error=refusal))
    outbox.signal(tx, lease)


def _replace(tx: Tx, lease: str, grant: Row[Any], why: str) -> None:
    """Give a lease another resource in the stead of one that is dead, as soon as there is one."""
    try:
        growing.replace(tx, lease, grant, why)
    except LeaseholdError as error:
        events.record(tx, "not_replaced", lease=lease, pool=grant.pool, resource=grant.resource, reason=error.detail)
