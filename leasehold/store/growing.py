"""Growing and shrinking: an active lease gets more resources, or gives some back."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, update

from leasehold import selfservice
from leasehold.allocation import Award
from leasehold.channels import NoticeKind
from leasehold.errors import (
    CommandRuns,
    DurationRefused,
    KeyReused,
    LastResource,
    LeaseholdError,
    LeaseNotActive,
    NotFree,
    QuotaExceeded,
    ResourceUnknown,
)
from leasehold.messages import AddResources, Admitted, GiveBack, Refusal
from leasehold.model import Item, LeaseState
from leasehold.store import (
    admission,
    answers,
    catalogue,
    claims,
    commands,
    deadlines,
    events,
    granting,
    holding,
    matching,
    notices,
    outbox,
    reservations,
    rules,
    runners,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.answers import as_refusal
from leasehold.store.engine import Tx
from leasehold.store.lanes import LAST, Waiting


def add(tx: Tx, lease: str, addition: AddResources) -> Admitted:
    """Grant an active lease more, at once or not at all. A repetition is answered alike."""
    try:
        answer = answers.find(tx.connection, lease, addition.request)
    except KeyReused as error:
        return Admitted(refusal=as_refusal(error))
    if answer is None:
        answer = answers.keep(tx, lease, addition.request, _add(tx, lease, addition))
    if answer.refusal is not None:
        return Admitted(refusal=answer.refusal)
    return holding.standing(tx.connection, lease, tx.now)


def _add(tx: Tx, lease: str, addition: AddResources) -> Refusal | None:
    """Grant a lease more, or return why not."""
    row = holding.lease_row(tx.connection, lease)
    try:
        _check_growing(row)
        before = specs.items_from_json(row.wanted)
        ends = _end(tx, row, addition)
        items = dict(enumerate(addition.items, start=len(before)))
        me = _wanting(row, items, ends - tx.now, self_service=addition.self_service)
        offered, award = _offer(tx, row, me, ends)
    except LeaseholdError as error:
        return as_refusal(error)
    wanted = specs.items_to_json((*before, *addition.items))
    tx.execute(update(t.leases).where(t.leases.c.id == lease).values(wanted=wanted))
    events.record(tx, "lease_grown", lease=lease, actor=addition.actor, data=granting.granted_data(award.resources))
    # The update that asked for it may be lost once this is committed: the workflow is told in any case.
    outbox.signal(tx, lease)
    grant = granting.grant(tx, me, award)
    granting.record(tx, grant)
    matching.follow(tx, offered)
    if ends > row.expires_at:
        deadlines.move_end(tx, row, holding.policies(tx.connection, lease), ends, actor=addition.actor)
    granted = grant.claims
    if not any(claim.stages for claim in granted) and not claims.wide(tx.connection, granted):
        holding.activate(tx, lease, [claim.held for claim in granted])
    return None


def _check_growing(row: Row[Any]) -> None:
    """Raise `LeaseNotActive` unless a lease can be given more."""
    if row.state != LeaseState.ACTIVE or row.grace_until is not None:
        how = row.state if row.grace_until is None else "in its grace"
        raise LeaseNotActive(f"lease {row.number} is {how}: only an active lease can be given more")


def _end(tx: Tx, row: Row[Any], addition: AddResources) -> datetime:
    """Until when a lease lasts with what it is given more; what it has may be promised to others from some time on."""
    ends: datetime = row.expires_at
    if not addition.lasting:
        return ends
    known = catalogue.current(tx.connection)
    specs_added = admission.wanted_specs(tx, addition.items).values()
    added = rules.terms((spec.policy for spec in specs_added), known, self_service=row.self_service)
    policies = [*added, *holding.policies(tx.connection, row.id)]
    limits = [
        row.active_at + min(policy.default_duration for policy in added),
        row.active_at + deadlines.longest_total(policies),
        tx.now + holding.longest(policies),
        *holding.ends(policies, row.active_at),
    ]
    if promised := reservations.limit(tx, row.id, known):
        limits.append(promised.until)
    ends = max(ends, min(limits))
    return ends


def _wanting(lease: Row[Any], items: dict[int, Item], left: timedelta, *, self_service: bool) -> Waiting:
    """An active lease that wants these too, behind all who wait at its priority."""
    return Waiting(
        lease=lease.id,
        principal=lease.principal,
        owner=selfservice.counted_for(lease.owner, unverified=lease.unverified),
        state=LeaseState(lease.state),
        items=items,
        priority=lease.priority,
        number=LAST,
        since=lease.created_at,
        duration=left,
        self_service=lease.self_service or self_service,
        share_key=lease.share_key,
    )


def replace(tx: Tx, lease: str, grant: Row[Any], why: str) -> None:
    """Give an active lease another resource in the stead of one of its own, which goes into quarantine.

    Raises why there is none, and changes nothing then.
    """
    row = holding.lease_row(tx.connection, lease)
    _check_growing(row)
    _check_unused(tx, row, grant.pool, grant.resource)
    item = dataclasses.replace(specs.items_from_json(row.wanted)[grant.item], count=1, names=())
    with tx.savepoint():
        mine = [one for one in granting.open_rows(tx, lease) if one.id == grant.id]
        granting.close(tx, mine, {(grant.pool, grant.resource): why}, was_active=True)
        me = _wanting(row, {grant.item: item}, row.expires_at - tx.now, self_service=False)
        offered, award = _offer(tx, row, me, row.expires_at)
        given = granting.grant(tx, me, award)
        granting.record(tx, given)
        matching.follow(tx, offered)
        about = {"pool": grant.pool, "resource": grant.resource, "reason": why}
        events.record(tx, "lease_replaced", lease=lease, data=granting.granted_data(award.resources), **about)
        left = _without(row, grant.pool, grant.resource)
        holding.change(tx, lease, {"degraded": left, "replaced": row.replaced + 1})
        outbox.signal(tx, lease)
        if not any(claim.stages for claim in given.claims) and not claims.wide(tx.connection, given.claims):
            holding.activate(tx, lease, [claim.held for claim in given.claims])
    notices.tell(tx, NoticeKind.REPLACED, lease, reason=f"{grant.pool}/{grant.resource}: {why}")


def _without(lease: Row[Any], pool: str, resource: str) -> list[dict[str, Any]] | None:
    """What of a lease is dead, without one of its resources."""
    return [one for one in lease.degraded or () if (one["pool"], one["name"]) != (pool, resource)] or None


def _offer(tx: Tx, row: Row[Any], me: Waiting, ends: datetime) -> tuple[matching.Offer, Award]:
    """What a lease gets that lasts until then; raise what refuses it."""
    admission.wanted_specs(tx, me.wishes)
    rules.check(tx.connection, me, is_new=False)
    offered = matching.offer(tx, me)
    if offered.award is None:
        admission.check_satisfiable(tx, me.wishes, besides=row.id)
        if offered.excess is not None:
            raise QuotaExceeded(offered.excess.detail)
        raise NotFree("not all of it is free now, and an active lease does not wait")
    _check_duration(tx, row, offered.award, ends, self_service=me.self_service)
    return offered, offered.award


def _check_duration(tx: Tx, lease: Row[Any], award: Award, ends: datetime, *, self_service: bool) -> None:
    """Raise `DurationRefused` where a lease that ends then lasts longer than a pool allows that would give it more."""
    known = catalogue.current(tx.connection)
    pools = {c.pool for group in award.resources for c in group}
    allowed = rules.terms((known.policies[pool] for pool in pools), known, self_service=self_service)
    if any(deadline < ends for deadline in holding.ends(allowed, lease.active_at)):
        raise DurationRefused("the lease lasts past the weekly deadline of these pools")
    if ends - tx.now > holding.longest(allowed) or ends - lease.active_at > deadlines.longest_total(allowed):
        raise DurationRefused("the lease lasts longer than these pools allow")


def _check_unused(tx: Tx, lease: Row[Any], pool: str, resource: str) -> None:
    """Raise `CommandRuns` where a lease's command may be using what it is about to lose."""
    if commands.may_use(tx, lease):
        raise CommandRuns(f"lease {lease.number} runs a command, which may use {pool}/{resource}")


def give_back(tx: Tx, lease: str, part: GiveBack) -> Admitted:
    """Take one resource out of an active lease; one that it has no more is given back already."""
    row = holding.lease_row(tx.connection, lease)
    try:
        if row.state != LeaseState.ACTIVE:
            raise LeaseNotActive(f"lease {row.number} is {row.state}: only of an active lease can a part be given back")
        ever = select(t.grants.c.id).where(
            t.grants.c.lease == lease, t.grants.c.pool == part.pool, t.grants.c.resource == part.resource
        )
        if tx.execute(ever.limit(1)).first() is None:
            raise ResourceUnknown(f"lease {row.number} does not have {part.pool}/{part.resource}")
        _check_unused(tx, row, part.pool, part.resource)
        rows = granting.open_rows(tx, lease)
        mine = [r for r in rows if (r.pool, r.resource) == (part.pool, part.resource)]
        # What is still being prepared may fail, and then the lease would have nothing.
        if mine and not any(r.ready_at for r in rows if r not in mine):
            raise LastResource("nothing else of the lease is ready: release it instead")
    except LeaseholdError as error:
        return Admitted(refusal=as_refusal(error))
    if mine:
        events.record(tx, "lease_shrunk", lease=lease, pool=part.pool, resource=part.resource, actor=part.actor)
        if row.degraded:
            holding.change(tx, lease, {"degraded": _without(row, part.pool, part.resource)})
        matching.match(tx, *granting.close(tx, mine, {}, was_active=True))
        if row.commanded:
            runners.serve(tx)
    return holding.standing(tx.connection, lease, tx.now)
