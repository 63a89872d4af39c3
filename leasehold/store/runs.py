"""Runs of hooks: the fence before each, its record, its result."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, select, update

from leasehold.errors import StaleEpoch, Unavailable
from leasehold.messages import LOST, Claim, HeldResource, HookReport, Recycled, RunHook, recycle_id
from leasehold.model import LeaseState, ResourceState, Run, StageName
from leasehold.ports import Begun, Place, RunFilter
from leasehold.store import events, instances, limiters, matching, moves, reuse, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.tables import LEASE_WIDE

KILL_GRACE = timedelta(seconds=30)
"""How long after its timeout a hook may still be alive, at worst: SIGTERM, SIGKILL and a slow machine."""

_TOLD_WITHIN = timedelta(minutes=10)
"""How long after its deadline a run's end may still be recorded by its worker: a database may have been away."""
_MOST_ABANDONED = 100

STOPPED = "stopped"
"""How a run ended that was asked to. Like one that is `LOST` it has no result of the hook, and consumes no attempt."""

_WENT_AWAY = "its worker went away"

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
_RUN_OF = (
    select(t.runs)
    .where(
        *(
            t.runs.c[name] == bindparam(name)
            for name in ("lease", "pool", "resource", "epoch", "stage", "hook", "attempt")
        )
    )
    .order_by(t.runs.c.losses.desc())
    .limit(1)
)
_EVER_HELD = exists().where(
    t.grants.c.lease == t.runs.c.lease,
    t.grants.c.pool == bindparam("pool_"),
    t.grants.c.resource == bindparam("resource_"),
    # What was added to the lease later the run does not touch.
    t.grants.c.epoch <= t.runs.c.epoch,
)
_OPEN = select(t.runs).where(
    t.runs.c.ended_at.is_(None),
    ((t.runs.c.pool == bindparam("pool_")) & (t.runs.c.resource == bindparam("resource_")))
    # A run for a whole lease touches all that the lease had.
    | ((t.runs.c.resource == LEASE_WIDE) & _EVER_HELD),
)
_STATE = select(t.leases.c.state).where(t.leases.c.id == bindparam("lease"))
_START = insert(t.runs).returning(t.runs.c.id)
_PLACE = tuple(field.name for field in fields(Place))
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


def begin(tx: Tx, order: RunHook, place: Place) -> Begun:
    """Let a run start, once nothing else can be running on the resource.

    The caller has made sure that nothing of an earlier run is alive where its `place` can tell. Raises `StaleEpoch`
    where the resource has gone to somebody else, `Unavailable` while an earlier run elsewhere may still be alive.
    """
    for held in _held(order):
        resource = moves.row_of(tx, held.pool, held.resource)
        if resource is not None and resource.epoch < held.epoch:
            # Only a database that was restored from an older copy is behind those who use its resources.
            raise Unavailable(
                f"{held.pool}/{held.resource}: the database is older than this lease: leasehold reconcile"
            )
        if resource is None or resource.epoch != held.epoch:
            raise StaleEpoch(f"{held.pool}/{held.resource} is in other hands than those of epoch {held.epoch}")
    key = {
        "lease": order.lease,
        "pool": order.pool,
        "resource": order.resource,
        "epoch": order.epoch,
        "stage": order.stage,
        "hook": order.hook,
        "attempt": order.attempt,
    }
    known = tx.execute(_RUN_OF, key).one_or_none()
    if known is not None and known.ended_at is not None and known.ending not in (LOST, STOPPED):
        return Begun(run=known.id, finished=_report(known))
    for held in _held(order):
        _close_dead(tx, held, place)
    if known is not None and order.stage == StageName.CREATE:
        # What it has made by then nobody knows: that is deleted, by its name, and another one is made.
        return Begun(run=known.id, finished=HookReport(ending=LOST, code=None, detail=_WENT_AWAY, ok=False))
    values = {
        # Under a number of its own, so that what the lost one says too late closes nothing of this one.
        "losses": 0 if known is None else known.losses + 1,
        **asdict(place),
        "started_at": tx.now,
        "deadline": tx.now + timedelta(seconds=order.timeout_s) + KILL_GRACE,
    }
    run = tx.execute(_START, {**key, **values}).scalar_one()
    _show(tx, order, order.stage, order.attempt)
    _event(tx, order, "stage_started", {"attempt": order.attempt, "hook": order.hook, "run": run, "host": place.host})
    return Begun(run=run)


def _held(order: RunHook) -> tuple[HeldResource, ...]:
    """The resources that a run touches."""
    return order.holds or (HeldResource(pool=order.pool, resource=order.resource, epoch=order.epoch),)


def _close_dead(tx: Tx, held: HeldResource, place: Place) -> None:
    """Close what earlier runs left open on the resource, or raise `Unavailable` while one may be alive."""
    for row in tx.execute(_OPEN, {"pool_": held.pool, "resource_": held.resource}).all():
        earlier = Place(**{name: getattr(row, name) for name in _PLACE})
        if not place.clears(earlier) and row.deadline > tx.now:
            raise Unavailable(f"{row.stage} on {row.host} may run until {row.deadline:%H:%M:%S}")
        _lose(tx, row)


def close_abandoned(tx: Tx) -> None:
    """Close the runs of which nobody told how they ended, and which cannot go on: nothing need ever run there again."""
    past = select(t.runs).where(t.runs.c.ended_at.is_(None), t.runs.c.deadline < tx.now - _TOLD_WITHIN)
    for row in tx.execute(past.order_by(t.runs.c.id).limit(_MOST_ABANDONED)).all():
        _lose(tx, row)


def _lose(tx: Tx, run: Row[Any]) -> None:
    why = _WENT_AWAY
    tx.execute(_END, {"id_": run.id, "ended_at": tx.now, "ending": LOST, "code": None, "detail": why})
    about = {name: getattr(run, name) for name in ("stage", "attempt", "hook", "host")}
    events.record(
        tx,
        "stage_lost",
        lease=run.lease or None,
        pool=run.pool,
        resource=run.resource or None,
        reason=why,
        data={**about, "run": run.id, "seconds": _seconds(run, tx)},
    )


def _seconds(row: Row[Any], tx: Tx) -> float:
    span: timedelta = tx.now - row.started_at
    return round(span.total_seconds(), 3)


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
    about = {"attempt": order.attempt, "hook": order.hook, "run": run, "ok": report.ok, "seconds": _seconds(row, tx)}
    _event(tx, order, "stage_ended", about, reason=None if report.ok else report.detail)
    _show(tx, order, None, None)
    if secret is not None and order.resource == LEASE_WIDE:
        _share(tx, order, secret)
    if secret is not None and order.stage == StageName.CREATE:
        instances.keep_data(tx, order.pool, order.resource, secret)
        secret = None
    changes: dict[str, Any] = {} if secret is None else {"data": secret}
    if report.ok and order.last and tx.execute(_STATE, {"lease": order.lease}).scalar() == LeaseState.PREPARING:
        # What was added to an active lease is ready once all that came with it is.
        changes["ready_at"] = tx.now
    if changes:
        tx.execute(update(t.grants).where(*_GRANT_OF).values(changes), {**_place(order), "lease_": order.lease})


def _share(tx: Tx, order: RunHook, secret: bytes) -> None:
    """Keep what a hook for the whole lease delivered, instead of what one of its pool delivered before."""
    tx.execute(delete(t.shared).where(t.shared.c.lease == order.lease, t.shared.c.pool == order.pool))
    tx.execute(insert(t.shared).values(lease=order.lease, pool=order.pool, data=secret))


def stop(tx: Tx, order: RunHook, run: int) -> None:
    """Record that a run was stopped before it had a result, and that nothing of it lives.

    Whoever looks is still shown its stage, which is due until the run begins anew or the lease is closed.
    """
    row = tx.execute(_RUN, {"id": run}).one_or_none()
    if row is None or row.ended_at is not None:
        return
    ended = {"ended_at": tx.now, "ending": STOPPED, "code": None, "detail": "stopped before it ended by itself"}
    tx.execute(_END, {"id_": run, **ended})
    seconds = round((tx.now - row.started_at).total_seconds(), 3)
    _event(tx, order, "stage_stopped", {"attempt": order.attempt, "hook": order.hook, "seconds": seconds})


def recycled(tx: Tx, done: Recycled) -> None:
    """Free a resource after its recycling, or put it into quarantine; serve who waits for it.

    Raises `Unavailable` while the database does not know of the recycling yet.
    """
    claim = done.claim
    resource = moves.mine(tx, claim, "recycling")
    limiters.give_all(tx, recycle_id(claim.pool, claim.resource, claim.epoch))
    if resource is None or resource.state != ResourceState.RECYCLING:
        return
    if done.broken is not None:
        moves.quarantine(tx, resource, done.broken, lease=done.lease or None)
        return
    reuse.settle(tx, [(resource, claim.spec, _prepared(tx, claim))], lease=done.lease or None)
    matching.match(tx, {claim.pool}, {resource.kind})


def _prepared(tx: Tx, claim: Claim) -> str | None:
    """How a resource was prepared ahead by its recycling, if its pool does that."""
    spec = specs.load(tx.connection, {claim.spec})[claim.spec]
    return specs.prepared_digest(spec) if spec.policy.prepares_ahead else None


def _event(tx: Tx, order: RunHook, kind: str, data: dict[str, Any], reason: str | None = None) -> None:
    data = {"stage": order.stage, **data}
    resource = order.resource or None
    events.record(tx, kind, lease=order.lease or None, pool=order.pool, resource=resource, reason=reason, data=data)


def _report(row: Row[Any]) -> HookReport:
    ok = row.ending == "exited" and row.code == 0
    return HookReport(ending=row.ending, code=row.code, detail=row.detail or "", ok=ok)


def of(connection: Connection, wanted: RunFilter) -> list[Run]:
    """Runs in the order in which they began, or, where `wanted.before` is set, the latest first."""
    newest = wanted.before is not None
    query = select(*(t.runs.c[f.name] for f in fields(Run))).limit(wanted.limit)
    query = query.where(t.runs.c.id > wanted.after).order_by(t.runs.c.id.desc() if newest else t.runs.c.id)
    if newest:
        query = query.where(t.runs.c.id < wanted.before)
    for column, value in (
        (t.runs.c.id, wanted.id),
        (t.runs.c.lease, wanted.lease),
        (t.runs.c.pool, wanted.pool),
        (t.runs.c.resource, wanted.resource),
    ):
        if value is not None:
            query = query.where(column == value)
    return [Run(**row._mapping) for row in connection.execute(query)]
