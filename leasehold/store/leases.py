"""The transactions of a lease's life: admitted, active, extended, closed, ended. Each can run twice."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from leasehold import allocation, durations, model
from leasehold.allocation import Waiter
from leasehold.errors import (
    DurationRefused,
    Fault,
    Invalid,
    LeaseholdError,
    LeaseNotActive,
    LeaseUnknown,
    Unsatisfiable,
)
from leasehold.messages import Admitted, Closed, CloseLease, ExtendLease, Held, Refusal, SubmitLease
from leasehold.model import LONGEST, LeaseState, Outcome, Policy
from leasehold.store import events, matching, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx


def lease_row(connection: Connection, lease: str) -> Row[Any]:
    """A lease's row; raise `LeaseUnknown`."""
    row: Row[Any] | None = connection.execute(select(t.leases).where(t.leases.c.id == lease)).one_or_none()
    if row is None:
        raise LeaseUnknown(f"there is no lease {lease}")
    return row


def standing(connection: Connection, lease: str) -> Admitted:
    """How a lease stands, and what it holds."""
    state = LeaseState(lease_row(connection, lease).state)
    return Admitted(state=state, claims=matching.claims_of(connection, lease))


def admit(tx: Tx, request: SubmitLease, run_id: str) -> Admitted:
    """Admit a request: refuse it, grant it at once, or let it wait. Run again, answer what was decided."""
    known = tx.execute(select(t.requests).where(t.requests.c.lease == request.lease)).one_or_none()
    if known is not None:
        refusal = known.refusal and Refusal(
            **{**known.refusal, "faults": tuple(Fault(**f) for f in known.refusal["faults"])}
        )
        return Admitted(refusal=refusal) if refusal else standing(tx.connection, request.lease)
    record = {"lease": request.lease, "principal": request.principal, "digest": request.digest, "at": tx.now}
    try:
        admitted = _admit(tx, request, run_id)
    except LeaseholdError as error:
        refusal = Refusal(code=error.code, detail=error.detail, faults=error.faults)
        tx.execute(insert(t.requests).values(**record, refusal=asdict(refusal)))
        return Admitted(refusal=refusal)
    tx.execute(insert(t.requests).values(**record, refusal=None))
    return admitted


def _admit(tx: Tx, request: SubmitLease, run_id: str) -> Admitted:
    duration = _duration(tx, request)
    me = Waiter(lease=request.lease, items=request.items)
    award = next(allocation.serve([me], matching.candidates(tx.connection, [me])), None)
    if award is None:
        _check_satisfiable(tx, me)
    state = LeaseState.PREPARING if award else LeaseState.QUEUED
    model.check_lease_transition(None, state)
    number = tx.execute(
        update(t.counters)
        .where(t.counters.c.name == "lease")
        .values(value=t.counters.c.value + 1)
        .returning(t.counters.c.value)
    ).scalar_one()
    tx.execute(
        insert(t.leases).values(
            id=request.lease,
            number=number,
            state=state,
            principal=request.principal,
            owner=request.owner,
            cc=list(request.cc),
            description=request.description,
            wanted=specs.items_to_json(request.items),
            priority=request.priority,
            duration_s=round(duration.total_seconds()),
            run_id=run_id,
            created_at=tx.now,
            granted_at=tx.now if award else None,
        )
    )
    about = matching.granted_data(award) if award else {}
    events.record(tx, f"lease_{state}", lease=request.lease, actor=request.owner, data={"number": number, **about})
    if award is None:
        pools = sorted(matching.wanted_pools(request.items))
        tx.execute(insert(t.waits), [{"lease": request.lease, "pool": pool} for pool in pools])
        return Admitted(state=state)
    return Admitted(state=state, claims=matching.grant(tx, request.lease, request.items, award))


def _duration(tx: Tx, request: SubmitLease) -> timedelta:
    """How long the lease will be, by the strictest policy of the pools that it wants."""
    named = {item.pool for item in request.items if item.pool}
    if any(item.pool is None for item in request.items):
        named |= set(tx.execute(select(t.pools.c.name)).scalars())
    found = specs.of_pools(tx.connection, named)
    faults = [
        Fault(path=f"items[{i}].pool", code="pool_unknown", detail=f"there is no pool {item.pool}")
        for i, item in enumerate(request.items)
        if item.pool and item.pool not in found
    ]
    if faults:
        raise Unsatisfiable(faults[0].detail, faults)
    if not found:
        raise Unsatisfiable("there is no pool at all")
    policies = [spec.policy for spec in found.values()]
    longest = _longest(policies)
    if request.duration is None:
        return min(longest, *(p.default_duration for p in policies))
    wanted = durations.parse(request.duration)
    if wanted > longest:
        detail = f"{request.duration} is longer than the {durations.render(longest)} that the policy allows"
        raise DurationRefused(detail, [Fault(path="duration", code="too_long", detail=detail)])
    return wanted


def _longest(policies: list[Policy]) -> timedelta:
    return min([LONGEST, *(p.max_duration for p in policies if p.max_duration)])


def _check_satisfiable(tx: Tx, me: Waiter) -> None:
    """Raise `Unsatisfiable` where even an idle lab could not serve the request."""
    everything = matching.candidates(tx.connection, [me], free=False)
    if allocation.assign(me.items, everything) is not None:
        return
    faults = []
    for index, item in enumerate(me.items):
        most = sum(allocation.suits(item, c) for c in everything)
        if most < item.count:
            where = f"pool {item.pool}" if item.pool else "any pool"
            detail = f"{item.count} wanted, and there are just {most} such resources in {where}"
            faults.append(Fault(path=f"items[{index}]", code="too_many", detail=detail))
    detail = faults[0].detail if faults else "the items together want more than there is"
    raise Unsatisfiable(detail, faults or [Fault(path="items", code="too_many", detail=detail)])


def activate(tx: Tx, lease: str) -> Held:
    """Deliver a lease whose resources are all ready: its time counts from now."""
    row = lease_row(tx.connection, lease)
    if row.state == LeaseState.ACTIVE:
        return Held(expires_at=row.expires_at, left_s=(row.expires_at - tx.now).total_seconds())
    model.check_lease_transition(LeaseState(row.state), LeaseState.ACTIVE)
    expires_at = tx.now + timedelta(seconds=row.duration_s)
    tx.execute(
        update(t.leases)
        .where(t.leases.c.id == lease)
        .values(state=LeaseState.ACTIVE, active_at=tx.now, expires_at=expires_at)
    )
    tx.execute(
        update(t.grants)
        .where(t.grants.c.lease == lease, t.grants.c.closed_at.is_(None), t.grants.c.ready_at.is_(None))
        .values(ready_at=tx.now)
    )
    events.record(tx, "lease_active", lease=lease, data={"expires_at": expires_at.isoformat()})
    return Held(expires_at=expires_at, left_s=row.duration_s)


def extend(tx: Tx, lease: str, extension: ExtendLease) -> Held:
    """Move the end of an active lease, as far as every pool's policy allows."""
    row = lease_row(tx.connection, lease)
    if extension.request and row.last_extension == extension.request and row.state == LeaseState.ACTIVE:
        return Held(expires_at=row.expires_at, left_s=(row.expires_at - tx.now).total_seconds())
    try:
        expires_at = _extended(tx, row, extension)
    except LeaseholdError as error:
        return Held(refusal=Refusal(code=error.code, detail=error.detail, faults=error.faults))
    tx.execute(
        update(t.leases)
        .where(t.leases.c.id == lease)
        .values(expires_at=expires_at, last_extension=extension.request or None)
    )
    events.record(tx, "lease_extended", lease=lease, actor=extension.actor, data={"expires_at": expires_at.isoformat()})
    return Held(expires_at=expires_at, left_s=(expires_at - tx.now).total_seconds())


def _extended(tx: Tx, row: Row[Any], extension: ExtendLease) -> datetime:
    if row.state != LeaseState.ACTIVE:
        raise LeaseNotActive(f"lease {row.number} is {row.state}: only an active lease can be extended")
    if extension.until is None:
        if extension.by is None:
            raise Invalid("an extension says by how long, or until when")
        expires_at: datetime = row.expires_at + durations.parse(extension.by)
    else:
        expires_at = extension.until
        if expires_at <= tx.now:
            raise Invalid("a lease can only be extended into the future")
    held = tx.execute(select(t.grants.c.spec).where(t.grants.c.lease == row.id, t.grants.c.closed_at.is_(None)))
    policies = [spec.policy for spec in specs.load(tx.connection, set(held.scalars())).values()]
    longest, total = _longest(policies), min([LONGEST, *(p.max_total for p in policies if p.max_total)])
    if expires_at - tx.now > longest:
        raise DurationRefused(f"then {durations.render(longest)} or more would be left, and no more is allowed at once")
    if expires_at - row.active_at > total:
        raise DurationRefused(f"then the lease would last longer than the {durations.render(total)} allowed in total")
    return expires_at


def close(tx: Tx, order: CloseLease) -> Closed:
    """Close a lease's grants or withdraw it from the queue, and serve those who wait for what it had."""
    row = lease_row(tx.connection, order.lease)
    state = LeaseState(row.state)
    if state in {LeaseState.RELEASING, LeaseState.ENDED}:
        return Closed(state=state, outcome=row.outcome and Outcome(row.outcome))
    if order.outcome is Outcome.EXPIRED and row.expires_at > tx.now:
        return Closed(state=state, outcome=None, left_s=(row.expires_at - tx.now).total_seconds())
    changes: dict[str, Any] = {"outcome": order.outcome}
    if order.error:
        changes["error"] = {"code": order.error.code, "detail": order.error.detail}
    if state is LeaseState.QUEUED:
        tx.execute(delete(t.waits).where(t.waits.c.lease == order.lease))
        _end(tx, order.lease, state, changes, actor=order.actor, reason=order.reason)
        return Closed(state=LeaseState.ENDED, outcome=order.outcome)
    model.check_lease_transition(state, LeaseState.RELEASING)
    tx.execute(update(t.leases).where(t.leases.c.id == order.lease).values(state=LeaseState.RELEASING, **changes))
    about = {"outcome": order.outcome, **({"error": changes["error"]} if order.error else {})}
    events.record(tx, "lease_releasing", lease=order.lease, actor=order.actor, reason=order.reason, data=about)
    broken = {(b.pool, b.resource): b.reason for b in order.broken}
    # The grants are closed before any cleaning: a stuck hook must not block the holder's next lease.
    pools = matching.close_grants(tx, order.lease, broken, was_active=state is LeaseState.ACTIVE)
    matching.match(tx, pools)
    if not order.stopped:
        return Closed(state=LeaseState.RELEASING, outcome=order.outcome)
    _end(tx, order.lease, LeaseState.RELEASING, changes, actor=None, reason=None)
    return Closed(state=LeaseState.ENDED, outcome=order.outcome)


def end(tx: Tx, lease: str) -> Closed:
    """End a closed lease once its hooks have stopped."""
    row = lease_row(tx.connection, lease)
    if row.state != LeaseState.ENDED:
        _end(tx, lease, LeaseState(row.state), {"outcome": row.outcome}, actor=None, reason=None)
    return Closed(state=LeaseState.ENDED, outcome=Outcome(row.outcome))


def _end(
    tx: Tx, lease: str, before: LeaseState, changes: dict[str, Any], *, actor: str | None, reason: str | None
) -> None:
    model.check_lease_transition(before, LeaseState.ENDED)
    tx.execute(
        update(t.leases).where(t.leases.c.id == lease).values(state=LeaseState.ENDED, ended_at=tx.now, **changes)
    )
    events.record(tx, "lease_ended", lease=lease, actor=actor, reason=reason, data={"outcome": changes["outcome"]})
