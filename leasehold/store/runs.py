"""Runs of hooks: the fence before each, its record, its result."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, insert, select, update

from leasehold.errors import StaleEpoch, Unavailable
from leasehold.messages import HookReport, Recycled, RunHook
from leasehold.model import ResourceState
from leasehold.ports import Begun
from leasehold.store import events, matching
from leasehold.store import tables as t
from leasehold.store.engine import Tx

KILL_GRACE = timedelta(seconds=30)
"""How long after its timeout a hook may still be alive, at worst: SIGTERM, SIGKILL and a slow machine."""


def _same(order: RunHook) -> list[Any]:
    claim = order.claim
    return [
        t.runs.c.pool == claim.pool,
        t.runs.c.resource == claim.resource,
        t.runs.c.epoch == claim.epoch,
        t.runs.c.stage == order.stage,
        t.runs.c.hook == order.hook,
        t.runs.c.attempt == order.attempt,
    ]


def begin(tx: Tx, order: RunHook, host: str) -> Begun:
    """Let a run start, once nothing else can be running on the resource.

    The caller has made sure that nothing of an earlier run is alive on its own `host`. Raises `StaleEpoch` where the
    resource has gone to somebody else, `Unavailable` while an earlier run on another host may still be alive.
    """
    claim = order.claim
    resource = matching.resource_row(tx, claim.pool, claim.resource)
    if resource is None or resource.epoch != claim.epoch:
        raise StaleEpoch(f"{claim.pool}/{claim.resource} is in other hands than those of epoch {claim.epoch}")
    known = tx.execute(select(t.runs).where(*_same(order))).one_or_none()
    if known is not None and known.ended_at is not None:
        return Begun(run=known.id, finished=_report(known))
    _close_dead(tx, order, host)
    values = {
        "host": host,
        "started_at": tx.now,
        "deadline": tx.now + timedelta(seconds=order.timeout_s) + KILL_GRACE,
        "ended_at": None,
        "ending": None,
    }
    if known is not None:
        tx.execute(update(t.runs).where(t.runs.c.id == known.id).values(**values))
        run = known.id
    else:
        key = {"pool": claim.pool, "resource": claim.resource, "epoch": claim.epoch}
        step = {"stage": order.stage, "hook": order.hook, "attempt": order.attempt}
        statement = insert(t.runs).values(lease=order.lease, **key, **step, **values).returning(t.runs.c.id)
        run = tx.execute(statement).scalar_one()
    _show(tx, order)
    _event(tx, order, "stage_started", {"attempt": order.attempt, "hook": order.hook})
    return Begun(run=run)


def _close_dead(tx: Tx, order: RunHook, host: str) -> None:
    """Close what earlier runs left open on the resource, or raise `Unavailable` while one may be alive."""
    left = tx.execute(
        select(t.runs).where(
            t.runs.c.pool == order.claim.pool,
            t.runs.c.resource == order.claim.resource,
            t.runs.c.ended_at.is_(None),
        )
    ).all()
    for row in left:
        if row.host != host and row.deadline > tx.now:
            raise Unavailable(f"{row.stage} on {row.host} may run until {row.deadline:%H:%M:%S}")
        tx.execute(
            update(t.runs)
            .where(t.runs.c.id == row.id)
            .values(ended_at=tx.now, ending="lost", detail="its worker went away")
        )


def _show(tx: Tx, order: RunHook) -> None:
    """Let the lease and the resource show which stage they are in."""
    claim = order.claim
    tx.execute(
        update(t.resources)
        .where(t.resources.c.pool == claim.pool, t.resources.c.name == claim.resource)
        .values(stage=order.stage)
    )
    tx.execute(update(t.grants).where(*_grant(order)).values(stage=order.stage, attempt=order.attempt))


def _grant(order: RunHook) -> list[Any]:
    claim = order.claim
    return [
        t.grants.c.lease == order.lease,
        t.grants.c.pool == claim.pool,
        t.grants.c.resource == claim.resource,
        t.grants.c.epoch == claim.epoch,
        t.grants.c.closed_at.is_(None),
    ]


def finish(tx: Tx, order: RunHook, run: int, report: HookReport, secret: bytes | None) -> None:
    """Record how a run ended; `secret` is what the holder gets of it.

    A run whose resource has gone to somebody else meanwhile is closed all the same, and changes nothing else.
    """
    row = tx.execute(select(t.runs).where(t.runs.c.id == run)).one()
    if row.ended_at is not None:
        return
    tx.execute(
        update(t.runs)
        .where(t.runs.c.id == run)
        .values(ended_at=tx.now, ending=report.ending, code=report.code, detail=report.detail)
    )
    seconds = round((tx.now - row.started_at).total_seconds(), 3)
    about = {"attempt": order.attempt, "hook": order.hook, "ok": report.ok, "seconds": seconds}
    _event(tx, order, "stage_ended", about, reason=None if report.ok else report.detail)
    changes: dict[str, Any] = {"stage": None, "attempt": None}
    if secret is not None:
        changes["data"] = secret
    if report.ok and order.last:
        changes["ready_at"] = tx.now
    tx.execute(update(t.grants).where(*_grant(order)).values(**changes))
    tx.execute(
        update(t.resources)
        .where(
            t.resources.c.pool == order.claim.pool,
            t.resources.c.name == order.claim.resource,
            t.resources.c.epoch == order.claim.epoch,
        )
        .values(stage=None)
    )


def recycled(tx: Tx, done: Recycled) -> None:
    """Free a resource after its recycling, or put it into quarantine; serve who waits for it."""
    claim = done.claim
    resource = matching.resource_row(tx, claim.pool, claim.resource)
    if resource is None or resource.epoch != claim.epoch or resource.state != ResourceState.RECYCLING:
        return
    if done.broken is not None:
        matching.quarantine(tx, resource, done.broken, lease=done.lease)
        return
    matching.free(tx, resource, lease=done.lease)
    matching.match(tx, {claim.pool})


def _event(tx: Tx, order: RunHook, kind: str, data: dict[str, Any], reason: str | None = None) -> None:
    claim = order.claim
    data = {"stage": order.stage, **data}
    events.record(tx, kind, lease=order.lease, pool=claim.pool, resource=claim.resource, reason=reason, data=data)


def _report(row: Row[Any]) -> HookReport:
    ok = row.ending == "exited" and row.code == 0
    return HookReport(ending=row.ending, code=row.code, detail=row.detail or "", ok=ok)
