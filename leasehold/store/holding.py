"""Holding: how a lease stands, and its delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select, update

from leasehold import model
from leasehold.channels import NoticeKind
from leasehold.errors import LeaseUnknown
from leasehold.messages import Admitted, Claim, Held, HeldResource, Refusal
from leasehold.model import LONGEST, OVER, LeaseState, Outcome, Policy
from leasehold.store import catalogue, claims, events, notices, rules, runners, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_LEASE = select(t.leases).where(t.leases.c.id == bindparam("lease"))
_CHANGE = update(t.leases).where(t.leases.c.id == bindparam("id_"))
_UNREADY = (t.grants.c.lease == bindparam("lease_"), t.grants.c.closed_at.is_(None), t.grants.c.ready_at.is_(None))
_ALL_READY = update(t.grants).where(*_UNREADY).values(ready_at=bindparam("ready_at"))
_HELD_SPECS = (
    select(t.grants.c.pool, t.grants.c.spec, t.leases.c.self_service)
    .join(t.leases, t.leases.c.id == t.grants.c.lease)
    .where(t.grants.c.lease == bindparam("lease"), t.grants.c.closed_at.is_(None))
)


def lease_row(connection: Connection, lease: str, query: Select[Any] = _LEASE) -> Row[Any]:
    """A lease's row, or what a query tells of the one `:lease`; raise `LeaseUnknown`."""
    row: Row[Any] | None = connection.execute(query, {"lease": lease}).one_or_none()
    if row is None:
        raise LeaseUnknown(f"there is no lease {lease}")
    return row


def change(tx: Tx, lease: str, values: Mapping[str, Any]) -> None:
    """Change columns of a lease."""
    tx.write(_CHANGE, {"id_": lease, **values})


def policies(connection: Connection, lease: str) -> list[Policy]:
    """The policies of what a lease holds, as they were when it was granted."""
    rows = connection.execute(_HELD_SPECS, {"lease": lease}).all()
    return _terms(connection, {row.spec for row in rows}, self_service=any(row.self_service for row in rows))


def _terms(connection: Connection, held: set[int], *, self_service: bool) -> list[Policy]:
    """The policies of these specs, as they are for a lease."""
    policies = [spec.policy for spec in specs.load(connection, held).values()]
    return rules.terms(policies, catalogue.current(connection), self_service=self_service) if self_service else policies


def longest(policies: Sequence[Policy]) -> timedelta:
    """The strictest limit on what may be left of a lease at any time."""
    return min([LONGEST, *(p.max_duration for p in policies if p.max_duration)])


def ends(policies: Iterable[Policy], active_at: datetime) -> list[datetime]:
    """When a lease that was delivered then ends at the latest, whatever its duration: at the next weekly deadlines."""
    return [weekly.next_after(active_at) for policy in policies for weekly in policy.deadlines]


def standing(connection: Connection, lease: str, now: datetime) -> Admitted:
    """How a lease stands, and what it holds."""
    row = lease_row(connection, lease)
    state = LeaseState(row.state)
    mine, broken = claims.of(connection, lease)
    applied = policies(connection, lease)
    return Admitted(
        state=state,
        claims=mine,
        missing=len(row.missing or ()) + broken,
        wide=claims.wide(connection, mine),
        left_s=_preparation_left(row, applied, now),
        held=held(row, applied, now) if state is LeaseState.ACTIVE else None,
        wait_s=waiting_left(row.start_at, row.wait_until, now) if state is LeaseState.QUEUED else None,
        doomed=Refusal(**row.error) if state is LeaseState.ACTIVE and row.error else None,
    )


def waiting_left(start_at: datetime | None, wait_until: datetime | None, now: datetime) -> float | None:
    """In how many seconds something is due for a lease that waits; None where nothing is."""
    due = [at for at in (start_at if start_at and start_at > now else None, wait_until) if at is not None]
    return (min(due) - now).total_seconds() if due else None


def _preparation_left(row: Row[Any], policies: Sequence[Policy], now: datetime) -> float:
    """How long a lease may still take to become ready, in seconds: the strictest pool decides.

    What is added to an active lease may take as long as it likes.
    """
    if row.state != LeaseState.PREPARING:
        return LONGEST.total_seconds() if row.state == LeaseState.ACTIVE else 0.0
    left: timedelta = row.granted_at + _time_to_prepare(policies) - now
    return left.total_seconds()


def _time_to_prepare(policies: Iterable[Policy]) -> timedelta:
    return min([LONGEST, *(p.prepare_timeout for p in policies)])


def held(row: Row[Any], policies: Sequence[Policy], now: datetime) -> Held:
    """An active lease, and in how long something is due for it."""
    due = row.grace_until or _next_due(row.expires_at, row.warned, policies)
    return Held(expires_at=row.expires_at, left_s=(due - now).total_seconds())


def _next_due(expires_at: datetime, warned: int, policies: Sequence[Policy]) -> datetime:
    """When the next warning is due, or the lease's end."""
    ahead = warnings(policies)[warned:]
    return expires_at - ahead[0] if ahead else expires_at


def warnings(policies: Iterable[Policy]) -> list[timedelta]:
    """How long before the end of a lease its holder is warned, the first warning first."""
    return sorted({before for policy in policies for before in policy.warn_before}, reverse=True)


def past_warnings(policies: Iterable[Policy], left: timedelta) -> int:
    """How many of the warnings would have come before so little is left."""
    return sum(before >= left for before in warnings(policies))


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A lease becomes active: what changes of its row, and how it stands then."""

    values: Mapping[str, Any]
    held: Held


def activation_at_once(
    tx: Tx, granted: tuple[Claim, ...], duration: timedelta, *, self_service: bool
) -> Activation | None:
    """How a lease becomes active in the transaction that grants all of it, where there is no stage to go through."""
    if any(claim.stages for claim in granted) or claims.wide(tx.connection, granted):
        return None
    return _activation(tx, duration, _terms(tx.connection, _specs(granted), self_service=self_service))


def preparing(tx: Tx, granted: tuple[Claim, ...]) -> Admitted:
    """How a lease stands that was granted all of it in this transaction, and has stages to go through."""
    return Admitted(
        state=LeaseState.PREPARING,
        claims=granted,
        wide=claims.wide(tx.connection, granted),
        left_s=_time_to_prepare(_terms(tx.connection, _specs(granted), self_service=False)).total_seconds(),
    )


def _specs(granted: tuple[Claim, ...]) -> set[int]:
    return {claim.spec for claim in granted}


def activate(tx: Tx, lease: str, ready: Iterable[HeldResource] = ()) -> Held:
    """Deliver a lease whose resources are all ready: its time counts from now.

    An active lease is given those resources that became `ready` since.
    """
    row = lease_row(tx.connection, lease)
    if row.state in OVER:
        return Held(state=LeaseState(row.state), outcome=Outcome(row.outcome))
    applied = policies(tx.connection, lease)
    if row.state == LeaseState.ACTIVE:
        _deliver_more(tx, row, ready)
        return held(row, applied, tx.now)
    model.check_lease_transition(LeaseState(row.state), LeaseState.ACTIVE)
    activation = _activation(tx, timedelta(seconds=row.duration_s), applied)
    change(tx, lease, activation.values)
    tx.write(_ALL_READY, {"lease_": lease, "ready_at": tx.now})
    tell_active(tx, lease, activation)
    return activation.held


def _activation(tx: Tx, duration: timedelta, applied: Sequence[Policy]) -> Activation:
    expires_at = min([tx.now + duration, *ends(applied, tx.now)])
    warned = past_warnings(applied, expires_at - tx.now)
    due = _next_due(expires_at, warned, applied)
    return Activation(
        values={
            "state": LeaseState.ACTIVE,
            "active_at": tx.now,
            "expires_at": expires_at,
            "warned": warned,
            "blocked": None,
        },
        held=Held(expires_at=expires_at, left_s=(due - tx.now).total_seconds()),
    )


def tell_active(tx: Tx, lease: str, activation: Activation) -> None:
    """Record that a lease is delivered, and tell of it."""
    events.record(tx, "lease_active", lease=lease, data={"expires_at": activation.values["expires_at"].isoformat()})
    notices.tell(tx, NoticeKind.DELIVERED, lease)


def _deliver_more(tx: Tx, lease: Row[Any], ready: Iterable[HeldResource]) -> None:
    for one in ready:
        this = update(t.grants).where(
            *_UNREADY, t.grants.c.pool == one.pool, t.grants.c.resource == one.resource, t.grants.c.epoch == one.epoch
        )
        if tx.execute(this.values(ready_at=tx.now), {"lease_": lease.id}).rowcount:
            events.record(tx, "lease_resource_ready", lease=lease.id, pool=one.pool, resource=one.resource)
    if lease.commanded:
        runners.serve(tx)
