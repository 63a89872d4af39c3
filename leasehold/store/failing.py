"""Failing resources: quarantine, and what becomes of the lease that was being prepared with them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, update

from leasehold import selfservice
from leasehold.channels import NoticeKind
from leasehold.errors import LeaseholdError
from leasehold.messages import Admitted, Blocked, BrokenInLease, BrokenResource, CloseLease, Refusal
from leasehold.model import OVER, LeaseState, OnFailure, Outcome, Policy, ResourceState
from leasehold.store import (
    admission,
    closing,
    events,
    granting,
    holding,
    lanes,
    matching,
    moves,
    notices,
    runners,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting


def report(tx: Tx, order: BrokenInLease) -> Admitted:
    """Quarantine what failed; replace it, wait for its repair, or refuse to go on, as its pool's policy says.

    What was added to an active lease and failed is taken out of it again.
    """
    row = holding.lease_row(tx.connection, order.lease)
    if row.state in OVER:
        return Admitted(state=LeaseState(row.state))
    rows = {(grant.pool, grant.resource, grant.epoch): grant for grant in granting.open_rows(tx, order.lease)}
    failed = [(rows[key], b) for b in order.broken if (key := (b.pool, b.resource, b.epoch)) in rows]
    if row.state == LeaseState.ACTIVE:
        dropped = [rows[key] for held in order.dropped if (key := (held.pool, held.resource, held.epoch)) in rows]
        _shrink(tx, failed, dropped, order.reason)
        if row.commanded:
            runners.serve(tx)
        return holding.standing(tx.connection, order.lease, tx.now)
    try:
        _carry_on(tx, row, failed)
    except _Hopeless as reason:
        what = "; ".join(f"{b.pool}/{b.resource}: {b.reason}" for b in order.broken)
        # In the transaction that knows it: told again, nothing would be left of what failed.
        refusal = Refusal(code="stage_failed", detail=f"{what}{reason}")
        closed = closing.close(
            tx,
            CloseLease(lease=order.lease, outcome=Outcome.FAILED, actor="leasehold", stopped=False, error=refusal),
        )
        return Admitted(state=closed.state)
    return holding.standing(tx.connection, order.lease, tx.now)


class _Hopeless(Exception):
    """The lease cannot go on; says why where the failed stage itself does not."""


def _shrink(tx: Tx, failed: list[tuple[Row[Any], BrokenResource]], dropped: list[Row[Any]], reason: str) -> None:
    """Take what failed, and what is `dropped` for a `reason` of the lease's own, out of an active lease."""
    for grant, broken in failed:
        granting.close(tx, [grant], {(broken.pool, broken.resource): broken.reason}, was_active=True)
    for grant in dropped:
        about = {"pool": grant.pool, "resource": grant.resource, "actor": "leasehold", "reason": reason}
        events.record(tx, "lease_shrunk", lease=grant.lease, **about)
    if dropped:
        matching.match(tx, *granting.close(tx, dropped, {}, was_active=True))


def _carry_on(tx: Tx, lease: Row[Any], failed: list[tuple[Row[Any], BrokenResource]]) -> None:
    """Replace what failed, or wait for its repair; raise `_Hopeless`."""
    loaded = specs.load(tx.connection, {grant.spec for grant, _ in failed})
    replaced: list[tuple[Row[Any], BrokenResource]] = []
    held: list[str] = []
    hopeless: str | None = None
    for grant, broken in failed:
        resource = moves.row_of(tx, grant.pool, grant.resource)
        assert resource is not None
        policy: Policy = loaded[grant.spec].policy
        if resource.state == ResourceState.BROKEN:
            # Told again: its repair is awaited.
            continue
        if policy.on_failure is OnFailure.HOLD and not resource.draining:
            moves.quarantine(tx, resource, broken.reason, lease=lease.id)
            held.append(f"{grant.pool}/{grant.resource} waits for its repair: {broken.reason}")
        else:
            granting.close(tx, [grant], {(grant.pool, grant.resource): broken.reason}, was_active=False)
            replaced.append((grant, broken))
            if policy.on_failure is OnFailure.FAIL:
                hopeless = ""
            elif lease.replaced + len(replaced) > policy.replacements:
                hopeless = f"; {lease.replaced} were replaced before, and no more than {policy.replacements} are"
    if hopeless is not None:
        raise _Hopeless(hopeless)
    if held:
        tx.execute(update(t.leases).where(t.leases.c.id == lease.id).values(blocked="; ".join(held)))
        notices.tell(tx, NoticeKind.HELD, lease.id, reason="; ".join(held))
    if replaced:
        _replace(tx, lease, [grant.item for grant, _ in replaced])
        why = "; ".join(f"{grant.pool}/{grant.resource}: {broken.reason}" for grant, broken in replaced)
        notices.tell(tx, NoticeKind.REPLACED, lease.id, reason=why)


def _replace(tx: Tx, lease: Row[Any], places: list[int]) -> None:
    """Let a lease wait, at its place in the queue, for others in the stead of what failed."""
    missing = [*(lease.missing or ()), *places]
    me = Waiting(
        lease=lease.id,
        principal=lease.principal,
        owner=selfservice.counted_for(lease.owner, unverified=lease.unverified),
        state=LeaseState(lease.state),
        items=lanes.missing(specs.items_from_json(lease.wanted), missing),
        priority=lease.priority,
        number=lease.number,
        since=tx.now,
        duration=timedelta(seconds=lease.duration_s),
        self_service=lease.self_service,
        share_key=lease.share_key,
    )
    try:
        admission.check_satisfiable(tx, me.wishes, besides=lease.id)
    except LeaseholdError:
        raise _Hopeless("; there is no other resource to take its place") from None
    values = {"waiting": True, "missing": missing, "replaced": lease.replaced + len(places)}
    tx.execute(update(t.leases).where(t.leases.c.id == lease.id).values(values))
    matching.leave(tx, lease.id, reserved=False)
    matching.wait(tx, me)
    matching.match(tx, matching.wanted_pools(me.wishes))


def blocked(tx: Tx, order: Blocked) -> None:
    """Let a lease show why its preparation does not go on, or that it does; what is prepared ahead has no lease."""
    if not order.lease:
        return
    row = holding.lease_row(tx.connection, order.lease)
    if row.blocked == order.reason or row.state in OVER:
        return
    tx.execute(update(t.leases).where(t.leases.c.id == order.lease).values(blocked=order.reason))
    if order.reason is not None:
        events.record(
            tx, "lease_blocked", lease=order.lease, pool=order.pool, resource=order.resource, reason=order.reason
        )
