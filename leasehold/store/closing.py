"""Closing: a lease gives back what it holds, or its place in the queue, and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, bindparam, exists, select

from leasehold import model
from leasehold.commands import OnEnd
from leasehold.errors import IllegalTransition
from leasehold.messages import Closed, CloseLease
from leasehold.model import OVER, LeaseState, Outcome
from leasehold.store import (
    commands,
    demand,
    events,
    granting,
    heartbeats,
    holding,
    lanes,
    limiters,
    matching,
    moves,
    notices,
    reservations,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.holding import lease_row

_LEASE = select(
    t.leases,
    exists().where(t.heartbeats.c.lease == t.leases.c.id).label("has_heartbeat"),
    exists().where(t.slots.c.workflow == t.leases.c.id).label("has_slots"),
).where(t.leases.c.id == bindparam("lease"))


def close(tx: Tx, order: CloseLease) -> Closed:
    """Close a lease's grants or withdraw it from the queue, and serve those who wait for what it had."""
    row = lease_row(tx.connection, order.lease, _LEASE)
    state = LeaseState(row.state)
    if state in OVER:
        heartbeats.end(tx, order.lease)
        return Closed(state=state, outcome=row.outcome and Outcome(row.outcome))
    outcome = order.outcome
    if outcome is Outcome.RELEASED and state is not LeaseState.ACTIVE:
        # What was never delivered cannot be given back.
        outcome = Outcome.CANCELLED
    changes: dict[str, Any] = {"outcome": outcome, "waiting": False, "missing": None}
    if order.error or row.commanded:
        # One with a command may have been about to end for another reason.
        changes["error"] = {"code": order.error.code, "detail": order.error.detail} if order.error else None
    why = order.error.detail if order.error else order.reason
    notices.tell_end(tx, order.lease, row.owner, outcome, order.actor, why)
    if row.waiting:
        lanes.leave(tx, order.lease)
        demand.stir(tx, specs.items_from_json(row.wanted))
        if row.start_at is not None:
            reservations.drop(tx, order.lease)
    if state is LeaseState.QUEUED:
        if row.commanded:
            commands.end(tx, order.lease, order.command, outcome, why)
        _end(tx, row, state, changes, actor=order.actor, reason=order.reason)
        # What was held for it others may have.
        matching.match(tx, matching.wanted_pools(specs.items_from_json(row.wanted)))
        return Closed(state=LeaseState.ENDED, outcome=outcome)
    _release(tx, order, row, changes)
    if row.commanded:
        commands.end(tx, order.lease, order.command, outcome, why)
    if not order.stopped:
        return Closed(state=LeaseState.RELEASING, outcome=outcome)
    _end(tx, row, LeaseState.RELEASING, changes, actor=None, reason=None)
    return Closed(state=LeaseState.ENDED, outcome=outcome)


def close_forgotten(tx: Tx, order: CloseLease) -> Closed | None:
    """Close a lease whose workflow is over, unless its command may be running yet: the sweep does that, later."""
    return None if commands.is_begun(tx, order.lease) else close(tx, order)


def _release(tx: Tx, order: CloseLease, lease: Row[Any], changes: dict[str, Any]) -> None:
    """Close the grants, and serve who waits for what they held; what changes of a lease that ends `_end` writes."""
    model.check_lease_transition(LeaseState(lease.state), LeaseState.RELEASING)
    events.record(
        tx,
        "lease_releasing",
        lease=order.lease,
        actor=order.actor,
        reason=order.reason,
        data={name: changes[name] for name in ("outcome", "error") if name in changes},
    )
    if not order.stopped:
        holding.change(tx, order.lease, {"state": LeaseState.RELEASING, **changes})
        # Nobody waits for a sign of its holder any more, though its hooks are still being stopped.
        heartbeats.end(tx, order.lease)
    broken = {(b.pool, b.resource): b.reason for b in order.broken}
    # The grants are closed before any cleaning: a stuck hook must not block the holder's next lease.
    rows = granting.open_rows(tx, order.lease)
    if lease.on_end == OnEnd.OFFLINE and lease.state == LeaseState.ACTIVE:
        _keep_out(tx, lease, rows)
    pools, kinds = granting.close(tx, rows, broken, was_active=lease.state == LeaseState.ACTIVE)
    if lease.waiting:
        # What was held in the stead of what had failed others may have too.
        matching.match(tx, pools | matching.wanted_pools(specs.items_from_json(lease.wanted)))
    else:
        matching.match(tx, pools, kinds)


def _keep_out(tx: Tx, lease: Row[Any], rows: Sequence[Row[Any]]) -> None:
    """Mark what a lease has of its first item offline, before anybody else can have it."""
    reason = lease.on_end_reason or f"kept out after lease {lease.number}"
    for row in rows:
        if row.item == 0:
            moves.take_offline(tx, row.pool, row.resource, reason, lease.owner)


def forget(tx: Tx, workflow: str) -> None:
    """Expect nothing more of a workflow without a lease: a recycling, or a request that was refused."""
    heartbeats.end(tx, workflow)
    limiters.give_all(tx, workflow)


def end(tx: Tx, lease: str) -> Closed:
    """End a closed lease once its hooks have stopped."""
    row = lease_row(tx.connection, lease, _LEASE)
    if row.state not in OVER:
        # Only a database that was restored from an older copy is behind the lease's workflow.
        raise IllegalTransition("lease", row.state, LeaseState.ENDED)
    if row.state != LeaseState.ENDED:
        _end(tx, row, LeaseState(row.state), {"outcome": row.outcome}, actor=None, reason=None)
    return Closed(state=LeaseState.ENDED, outcome=Outcome(row.outcome))


def _end(
    tx: Tx, lease: Row[Any], before: LeaseState, changes: dict[str, Any], *, actor: str | None, reason: str | None
) -> None:
    model.check_lease_transition(before, LeaseState.ENDED)
    holding.change(tx, lease.id, {"state": LeaseState.ENDED, "ended_at": tx.now, **changes})
    if lease.has_heartbeat:
        heartbeats.end(tx, lease.id)
    if lease.has_slots:
        limiters.give_all(tx, lease.id)
    events.record(tx, "lease_ended", lease=lease.id, actor=actor, reason=reason, data={"outcome": changes["outcome"]})
