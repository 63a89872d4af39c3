"""Runs of hooks: the fence before each, its record, its result."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update

from leasehold.errors import StaleEpoch, Unavailable
from leasehold.messages import HookReport, Recycled, RunHook
from leasehold.model import ResourceState
from leasehold.ports import Begun
from leasehold.store import events, matching
from leasehold.store import tables as t
from leasehold.store.engine import Tx

KILL_GRACE = timedelta(seconds=30)
"""How long after its timeout a hook may still be alive, at worst: SIGTERM, SIGKILL and a slow machine."""


_RESOURCE_OF = (
    t.resources.c.pool == bindparam("pool_"),
    t.resources.c.name == bindparam("resource_"),
    t.resources.c.epoch == bindparam("epoch_"),
)
_GRANT_OF = (
    t.grants.c.lease == bindparam("lease_"),
    t.grants.c.pool == bindparam("pool_"),
    t.grants.c.resource == bindparam("resource_"),
    t.grants.c.epoch == bindparam("epoch_"),
    t.grants.c.closed_at.is_(None),
)
_RUN_OF = select(t.runs).where(
    *(t.runs.c[name] == bindparam(name) for name in ("pool", "resource", "epoch", "stage", "hook", "attempt"))
)
_OPEN = select(t.runs).where(
    t.runs.c.pool == bindparam("pool"), t.runs.c.resource == bindparam("resource"), t.runs.c.ended_at.is_(None)
)
_START = insert(t.runs).returning(t.runs.c.id)
_RUN = select(t.runs).where(t.runs.c.id == bindparam("id"))
_END = (
    update(t.runs)
    .where(t.runs.c.id == bindparam("id_"))
    .values({name: bindparam(name) for name in ("ended_at", "ending", "code", "detail")})
)
_SHOW_RESOURCE = update(t.resources).where(*_RESOURCE_OF).values(stage=bindparam("stage"))
_SHOW_GRANT = update(t.grants).where(*_GRANT_OF).values(stage=bindparam("stage"), attempt=bindparam("attempt"))


def _run_key(order: RunHook) -> tuple[str, str, int, str, int, int]:
    return (order.pool, order.resource, order.epoch, order.stage, order.hook, order.attempt)


def _place(order: RunHook) -> dict[str, Any]:
    return {"pool_": order.pool, "resource_": order.resource, "epoch_": order.epoch}


def begin(tx: Tx, order: RunHook, host: str) -> Begun:
    """Let a run start, once nothing else can be running on the resource.

    The caller has made sure that nothing of an earlier run is alive on its own `host`. Raises `StaleEpoch` where the
    resource has gone to somebody else, `Unavailable` while an earlier run on another host may still be alive.
    """
    resource = matching.resource_row(tx, order.pool, order.resource)
    if resource is not None and resource.epoch < order.epoch:
        # Only a database that was restored from an older copy is behind those who use its resources.
        raise Unavailable(f"{order.pool}/{order.resource}: the database is older than this lease: leasehold reconcile")
    if resource is None or resource.epoch != order.epoch:
        raise StaleEpoch(f"{order.pool}/{order.resource} is in other hands than those of epoch {order.epoch}")
    key = {
        "pool": order.pool,
        "resource": order.resource,
        "epoch": order.epoch,
        "stage": order.stage,
        "hook": order.hook,
        "attempt": order.attempt,
    }
    known = tx.execute(_RUN_OF, key).one_or_none()
    if known is not None and known.ended_at is not None:
        return Begun(run=known.id, finished=_report(known))
    _close_dead(tx, order, host)
    values = {
        "host": host,
        "started_at": tx.now,
        "deadline": tx.now + timedelta(seconds=order.timeout_s) + KILL_GRACE,
    }
    if known is not None:
        # Under a number of its own, so that what the earlier try says too late closes nothing of this one.
        tx.execute(delete(t.runs).where(t.runs.c.id == known.id))
    run = tx.execute(_START, {"lease": order.lease, **key, **values}).scalar_one()
    _show(tx, order, order.stage, order.attempt)
    _event(tx, order, "stage_started", {"attempt": order.attempt, "hook": order.hook})
    return Begun(run=run)


def _close_dead(tx: Tx, order: RunHook, host: str) -> None:
    """Close what earlier runs left open on the resource, or raise `Unavailable` while one may be alive."""
    for row in tx.execute(_OPEN, {"pool": order.pool, "resource": order.resource}).all():
        if row.host != host and row.deadline > tx.now:
            raise Unavailable(f"{row.stage} on {row.host} may run until {row.deadline:%H:%M:%S}")
        gone = {"ended_at": tx.now, "ending": "lost", "code": None, "detail": "its worker went away"}
        tx.execute(_END, {"id_": row.id, **gone})


def _show(tx: Tx, order: RunHook, stage: str | None, attempt: int | None) -> None:
    """Let the lease and the resource show which stage they are in."""
    tx.execute(_SHOW_RESOURCE, {**_place(order), "stage": stage})
    tx.execute(_SHOW_GRANT, {**_place(order), "lease_": order.lease, "stage": stage, "attempt": attempt})


def finish(tx: Tx, order: RunHook, run: int, report: HookReport, secret: bytes | None) -> None:
    """Record how a run ended; `secret` is what the holder gets of it.

    A run whose resource has gone to somebody else meanwhile is closed all the same, and changes nothing else.
    """
    row = tx.execute(_RUN, {"id": run}).one_or_none()
    known = row and (row.pool, row.resource, row.epoch, row.stage, row.hook, row.attempt)
    if row is None or row.ended_at is not None or known != _run_key(order):
        # A restored database knows it no more, or gave its number to another run.
        return
    ended = {"ended_at": tx.now, "ending": report.ending, "code": report.code, "detail": report.detail}
    tx.execute(_END, {"id_": run, **ended})
    seconds = round((tx.now - row.started_at).total_seconds(), 3)
    about = {"attempt": order.attempt, "hook": order.hook, "ok": report.ok, "seconds": seconds}
    _event(tx, order, "stage_ended", about, reason=None if report.ok else report.detail)
    _show(tx, order, None, None)
    changes: dict[str, Any] = {} if secret is None else {"data": secret}
    if report.ok and order.last:
        changes["ready_at"] = tx.now
    if changes:
        tx.execute(update(t.grants).where(*_GRANT_OF).values(changes), {**_place(order), "lease_": order.lease})


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
    data = {"stage": order.stage, **data}
    events.record(tx, kind, lease=order.lease, pool=order.pool, resource=order.resource, reason=reason, data=data)


def _report(row: Row[Any]) -> HookReport:
    ok = row.ending == "exited" and row.code == 0
    return HookReport(ending=row.ending, code=row.code, detail=row.detail or "", ok=ok)
