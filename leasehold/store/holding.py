"""Holding: a lease becomes active, and its end is moved."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from leasehold import durations, model
from leasehold.errors import DurationRefused, Invalid, KeyReused, LeaseholdError, LeaseNotActive, LeaseUnknown
from leasehold.messages import Admitted, Claim, ExtendLease, Held, Refusal
from leasehold.model import LONGEST, OVER, LeaseState, Policy
from leasehold.store import answers, claims, events, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_LEASE = select(t.leases).where(t.leases.c.id == bindparam("lease"))
_ACTIVATE = (
    update(t.leases)
    .where(t.leases.c.id == bindparam("id_"))
    .values({name: bindparam(name) for name in ("state", "active_at", "expires_at")})
)
_READY = (
    update(t.grants)
    .where(t.grants.c.lease == bindparam("lease_"), t.grants.c.closed_at.is_(None), t.grants.c.ready_at.is_(None))
    .values(ready_at=bindparam("ready_at"))
)


def lease_row(connection: Connection, lease: str) -> Row[Any]:
    """A lease's row; raise `LeaseUnknown`."""
    row: Row[Any] | None = connection.execute(_LEASE, {"lease": lease}).one_or_none()
    if row is None:
        raise LeaseUnknown(f"there is no lease {lease}")
    return row


def standing(connection: Connection, lease: str, now: datetime) -> Admitted:
    """How a lease stands, and what it holds."""
    row = lease_row(connection, lease)
    state = LeaseState(row.state)
    held = _held(row.expires_at, now) if state is LeaseState.ACTIVE else None
    return Admitted(state=state, claims=claims.of(connection, lease), held=held)


def _held(expires_at: datetime, now: datetime) -> Held:
    return Held(expires_at=expires_at, left_s=(expires_at - now).total_seconds())


def activate_at_once(tx: Tx, lease: str, granted: tuple[Claim, ...]) -> Held | None:
    """Deliver a lease in the transaction that grants it, where none of its resources has a stage to go through."""
    return None if any(claim.stages for claim in granted) else activate(tx, lease)


def activate(tx: Tx, lease: str) -> Held:
    """Deliver a lease whose resources are all ready: its time counts from now."""
    row = lease_row(tx.connection, lease)
    if row.state == LeaseState.ACTIVE:
        return _held(row.expires_at, tx.now)
    if row.state in OVER:
        return Held(state=LeaseState(row.state))
    model.check_lease_transition(LeaseState(row.state), LeaseState.ACTIVE)
    expires_at = tx.now + timedelta(seconds=row.duration_s)
    tx.execute(_ACTIVATE, {"id_": lease, "state": LeaseState.ACTIVE, "active_at": tx.now, "expires_at": expires_at})
    tx.execute(_READY, {"lease_": lease, "ready_at": tx.now})
    events.record(tx, "lease_active", lease=lease, data={"expires_at": expires_at.isoformat()})
    return _held(expires_at, tx.now)


def longest(policies: list[Policy]) -> timedelta:
    """The strictest limit on what may be left of a lease at any time."""
    return min([LONGEST, *(p.max_duration for p in policies if p.max_duration)])


def extend(tx: Tx, lease: str, extension: ExtendLease) -> Held:
    """Move the end of an active lease, as far as every pool's policy allows. A repetition is answered alike."""
    try:
        answer = answers.find(tx.connection, lease, extension.request)
    except KeyReused as error:
        return Held(refusal=_refusal(error))
    if answer is None:
        answer = answers.keep(tx, lease, extension.request, _extend(tx, lease, extension))
    if answer.refusal is not None:
        return Held(refusal=answer.refusal)
    row = lease_row(tx.connection, lease)
    return _held(row.expires_at, tx.now) if row.state == LeaseState.ACTIVE else Held(refusal=_refusal(_not_active(row)))


def _extend(tx: Tx, lease: str, extension: ExtendLease) -> Refusal | None:
    """Move the end of a lease, or return why not."""
    row = lease_row(tx.connection, lease)
    try:
        expires_at = _extended(tx, row, extension)
    except LeaseholdError as error:
        return _refusal(error)
    tx.execute(update(t.leases).where(t.leases.c.id == lease).values(expires_at=expires_at))
    events.record(tx, "lease_extended", lease=lease, actor=extension.actor, data={"expires_at": expires_at.isoformat()})
    return None


def _refusal(error: LeaseholdError) -> Refusal:
    return Refusal(code=error.code, detail=error.detail, faults=error.faults)


def _not_active(row: Row[Any]) -> LeaseNotActive:
    return LeaseNotActive(f"lease {row.number} is {row.state}: only an active lease can be extended")


def _extended(tx: Tx, row: Row[Any], extension: ExtendLease) -> datetime:
    if row.state != LeaseState.ACTIVE:
        raise _not_active(row)
    if extension.until is None:
        if extension.by is None:
            raise Invalid("an extension says by how long, or until when")
        expires_at: datetime = row.expires_at + durations.parse(extension.by)
    else:
        expires_at = extension.until
        if expires_at.tzinfo is None:
            raise Invalid("a time needs its zone: 2026-01-05T18:00:00Z")
        if expires_at <= tx.now:
            raise Invalid("a lease can only be extended into the future")
    held = tx.execute(select(t.grants.c.spec).where(t.grants.c.lease == row.id, t.grants.c.closed_at.is_(None)))
    policies = [spec.policy for spec in specs.load(tx.connection, set(held.scalars())).values()]
    limit, total = longest(policies), min([LONGEST, *(p.max_total for p in policies if p.max_total)])
    if expires_at - tx.now > limit:
        raise DurationRefused(f"then {durations.render(limit)} or more would be left, and no more is allowed at once")
    if expires_at - row.active_at > total:
        raise DurationRefused(f"then the lease would last longer than the {durations.render(total)} allowed in total")
    return expires_at
