"""Deadlines: what is due for an active lease, and moving its end. The database's clock decides."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, select, update

from leasehold import allocation, durations
from leasehold.allocation import Candidate
from leasehold.channels import NoticeKind
from leasehold.errors import (
    DurationRefused,
    ExtensionRefused,
    Invalid,
    KeyReused,
    LeaseholdError,
    LeaseNotActive,
)
from leasehold.messages import Admitted, CloseLease, ExtendLease, Held, Refusal, Tick
from leasehold.model import LONGEST, Extend, LeaseState, Outcome, Policy
from leasehold.store import (
    answers,
    catalogue,
    closing,
    commands,
    demand,
    events,
    holding,
    lanes,
    matching,
    notices,
    order,
    reservations,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.answers import as_refusal
from leasehold.store.engine import Tx
from leasehold.store.rules import Rules

_POOLS_HELD = (
    select(t.grants.c.pool).where(t.grants.c.lease == bindparam("lease"), t.grants.c.closed_at.is_(None)).distinct()
)


def tick(tx: Tx, due: Tick) -> Held:
    """Do what is due for an active lease by now: warn, extend it, begin its grace, or end it."""
    row = holding.lease_row(tx.connection, due.lease)
    if row.state != LeaseState.ACTIVE:
        return Held(state=LeaseState(row.state), outcome=row.outcome and Outcome(row.outcome))
    policies = holding.policies(tx.connection, due.lease)
    if row.grace_until is not None:
        return _expire(tx, due) if row.grace_until <= tx.now else holding.held(row, policies, tx.now)
    if row.expires_at > tx.now:
        _warn(tx, row, policies)
    else:
        extended = (due.commanded and _for_command(tx, row, policies)) or _automatic(tx, row, policies)
        if extended is not None:
            move_end(tx, row, policies, extended, actor="policy")
        elif (grace := _grace(policies)) is not None and row.expires_at + grace > tx.now:
            until = row.expires_at + grace
            tx.execute(update(t.leases).where(t.leases.c.id == row.id).values(grace_until=until))
            events.record(tx, "lease_grace", lease=row.id, data={"until": until.isoformat()})
            notices.tell(tx, NoticeKind.GRACE, row.id, expires_at=until)
        else:
            return _expire(tx, due)
    return holding.held(holding.lease_row(tx.connection, due.lease), policies, tx.now)


def _expire(tx: Tx, due: Tick) -> Held:
    if due.commanded:
        return Held(is_due=True)
    closed = closing.close(
        tx,
        CloseLease(
            lease=due.lease,
            outcome=Outcome.EXPIRED,
            actor="leasehold",
            stopped=due.stopped,
            reason="time is up",
        ),
    )
    return Held(state=closed.state, outcome=closed.outcome)


def _warn(tx: Tx, row: Row[Any], policies: Sequence[Policy]) -> None:
    left = row.expires_at - tx.now
    due = holding.past_warnings(policies, left)
    if due > row.warned:
        tx.execute(update(t.leases).where(t.leases.c.id == row.id).values(warned=due))
        about = {"expires_at": row.expires_at.isoformat(), "left_s": round(left.total_seconds())}
        events.record(tx, "lease_expiring", lease=row.id, data=about)
        notices.tell(tx, NoticeKind.EXPIRING, row.id, expires_at=row.expires_at)


def _grace(policies: Sequence[Policy]) -> timedelta | None:
    """The shortest grace of all pools; None where one gives none."""
    graces = [policy.grace for policy in policies]
    return min((g for g in graces if g is not None), default=None) if None not in graces else None


def _for_command(tx: Tx, row: Row[Any], policies: Sequence[Policy]) -> datetime | None:
    """Until when a lease is extended because its command has not had its time; None if it is not."""
    needed = commands.needed_until(tx, row)
    return None if needed is None else _bounded(tx, row, policies, needed)


def _automatic(tx: Tx, row: Row[Any], policies: Sequence[Policy]) -> datetime | None:
    """Until when the policy extends a lease by itself; None if it does not."""
    steps = [policy.auto_extend for policy in policies]
    if not steps or None in steps:
        return None
    until = _bounded(tx, row, policies, tx.now + min(step for step in steps if step is not None))
    kept = _is_claimed(tx, row.id) or not _is_enough_free(tx, row.id)
    return None if kept else until


def _bounded(tx: Tx, row: Row[Any], policies: Sequence[Policy], until: datetime) -> datetime | None:
    """As far as a lease may last of what is wanted; None if that is no longer than now."""
    until = min(until, tx.now + holding.longest(policies), row.active_at + longest_total(policies))
    until = min([until, *holding.ends(policies, row.active_at)])
    promised = reservations.limit(tx, row.id, catalogue.current(tx.connection))
    if promised is not None:
        until = min(until, promised.until)
    return until if until > tx.now else None


def _is_enough_free(tx: Tx, lease: str) -> bool:
    """Whether of each pool of which a lease has something as much is free as `auto_extend_free` wants."""
    known = catalogue.current(tx.connection)
    shares = Rules(tx.connection, known)
    held = tx.execute(_POOLS_HELD, {"lease": lease}).scalars()
    return not any(
        shares.capacity(pool).is_below(known.policies[pool].auto_extend_free)
        for pool in held
        if pool in known.policies and known.policies[pool].auto_extend_free
    )


def longest_total(policies: Sequence[Policy]) -> timedelta:
    """The strictest limit on how long a lease may last in all."""
    return min([LONGEST, *(p.max_total for p in policies if p.max_total)])


def _is_claimed(tx: Tx, lease: str) -> bool:
    """Whether somebody waits for something that a lease has."""
    rows = tx.execute(
        select(t.resources)
        .join(t.grants, (t.grants.c.pool == t.resources.c.pool) & (t.grants.c.resource == t.resources.c.name))
        .where(t.grants.c.lease == lease, t.grants.c.closed_at.is_(None))
    ).all()
    mine = [Candidate(pool=r.pool, name=r.name, tags=frozenset(r.tags), properties=r.properties) for r in rows]
    return any(
        allocation.suits(item, candidate)
        for waiting in lanes.heads(tx.connection, None, catalogue.current(tx.connection))
        if not order.is_upcoming(waiting, tx.now)
        for item in waiting.wishes
        for candidate in mine
    )


def wake(tx: Tx, lease: str) -> Admitted:
    """Do what is due for a lease that waits: let its reservation begin, or end its patience; and tell how it stands."""
    row = holding.lease_row(tx.connection, lease)
    if row.state == LeaseState.QUEUED:
        if row.wait_until is not None and row.wait_until <= tx.now:
            closing.close(tx, _out_of_patience(row))
        elif row.start_at is not None and row.start_at <= tx.now:
            wanted = specs.items_from_json(row.wanted)
            demand.stir(tx, wanted)
            matching.match(tx, matching.wanted_pools(wanted))
    return holding.standing(tx.connection, lease, tx.now)


def _out_of_patience(row: Row[Any]) -> CloseLease:
    detail = f"not granted by {row.wait_until:%Y-%m-%dT%H:%M:%SZ}, as long as it was to wait"
    return CloseLease(
        lease=row.id,
        outcome=Outcome.FAILED,
        actor="leasehold",
        stopped=True,
        error=Refusal(code="queue_timeout", detail=detail),
    )


def extend(tx: Tx, lease: str, extension: ExtendLease) -> Held:
    """Move the end of an active lease, as far as every pool's policy allows; one in grace is revived.

    A repetition is answered alike.
    """
    try:
        answer = answers.find(tx.connection, lease, extension.request)
    except KeyReused as error:
        return Held(refusal=as_refusal(error))
    if answer is None:
        answer = answers.keep(tx, lease, extension.request, _extend(tx, lease, extension))
    row = holding.lease_row(tx.connection, lease)
    if answer.refusal is not None:
        return Held(refusal=answer.refusal)
    if row.state != LeaseState.ACTIVE:
        return Held(refusal=as_refusal(_not_active(row)))
    return holding.held(row, holding.policies(tx.connection, lease), tx.now)


def _extend(tx: Tx, lease: str, extension: ExtendLease) -> Refusal | None:
    """Move the end of a lease, or return why not."""
    row = holding.lease_row(tx.connection, lease)
    policies = holding.policies(tx.connection, lease)
    try:
        expires_at = _extended(tx, row, policies, extension)
    except LeaseholdError as error:
        return as_refusal(error)
    move_end(tx, row, policies, expires_at, actor=extension.actor)
    return None


def _not_active(row: Row[Any]) -> LeaseNotActive:
    return LeaseNotActive(f"lease {row.number} is {row.state}: only an active lease can be extended")


def move_end(tx: Tx, row: Row[Any], policies: Sequence[Policy], expires_at: datetime, *, actor: str) -> None:
    """Let a lease end at another time."""
    warned = holding.past_warnings(policies, expires_at - tx.now)
    values = {"expires_at": expires_at, "warned": warned, "grace_until": None}
    tx.execute(update(t.leases).where(t.leases.c.id == row.id).values(values))
    events.record(tx, "lease_extended", lease=row.id, actor=actor, data={"expires_at": expires_at.isoformat()})


def _extended(tx: Tx, row: Row[Any], policies: Sequence[Policy], extension: ExtendLease) -> datetime:
    """Until when a lease lasts after an extension; raise what refuses it."""
    if row.state != LeaseState.ACTIVE:
        raise _not_active(row)
    expires_at = _wanted_end(row, extension)
    if expires_at <= tx.now:
        raise Invalid("a lease can only be extended into the future")
    limit, total = holding.longest(policies), longest_total(policies)
    if expires_at - tx.now > limit:
        raise DurationRefused(f"then {durations.render(limit)} or more would be left, and no more is allowed at once")
    if expires_at - row.active_at > total:
        raise DurationRefused(f"then the lease would last longer than the {durations.render(total)} allowed in total")
    for deadline in holding.ends(policies, row.active_at):
        if expires_at > deadline:
            raise DurationRefused(f"self-service of it ends each week, and this lease at {deadline:%Y-%m-%dT%H:%M:%SZ}")
    if expires_at > row.expires_at:
        _check_may_keep(tx, row, policies, expires_at)
    return expires_at


def _wanted_end(row: Row[Any], extension: ExtendLease) -> datetime:
    if extension.until is None:
        if extension.by is None:
            raise Invalid("an extension says by how long, or until when")
        end: datetime = row.expires_at + durations.parse(extension.by)
        return end
    if extension.until.tzinfo is None:
        raise Invalid("a time needs its zone: 2026-01-05T18:00:00Z")
    return extension.until


def _check_may_keep(tx: Tx, row: Row[Any], policies: Sequence[Policy], expires_at: datetime) -> None:
    """Raise `ExtensionRefused` where a lease may not keep what it has for longer, or not for so long."""
    wills = {policy.extend for policy in policies}
    if Extend.NEVER in wills:
        raise ExtensionRefused("leases of this pool cannot be extended")
    if Extend.WHILE_UNCLAIMED in wills and _is_claimed(tx, row.id):
        raise ExtensionRefused("somebody waits for what the lease has")
    promised = reservations.limit(tx, row.id, catalogue.current(tx.connection))
    if promised is not None and expires_at > promised.until:
        raise ExtensionRefused(promised.detail)
