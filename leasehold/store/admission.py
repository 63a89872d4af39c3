"""Admission: a request is refused, granted at once, or waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NoReturn

from sqlalchemy import bindparam, insert, select, update

from leasehold import allocation, durations, model, reasons, selfservice
from leasehold.channels import NoticeKind
from leasehold.commands import OnEnd
from leasehold.errors import (
    DurationRefused,
    Fault,
    Invalid,
    LeaseholdError,
    QuotaExceeded,
    Refused,
    RequestRefused,
    Unsatisfiable,
    from_code,
)
from leasehold.messages import AdmitLease, Admitted, Consent, PlannedQuestion, Refusal, SubmitLease
from leasehold.model import LONGEST, HolderMay, Item, LeaseState, PoolSpec
from leasehold.store import (
    catalogue,
    commands,
    events,
    granting,
    heartbeats,
    holding,
    matching,
    notices,
    refused,
    rules,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.lanes import LAST, Waiting
from leasehold.store.matching import Offer

_OPENING = (
    select(t.counters.c.value.label("last"), t.requests.c.lease, t.requests.c.refusal)
    .outerjoin(t.requests, t.requests.c.lease == bindparam("lease"))
    .where(t.counters.c.name == "lease")
)
"""The number of the last lease, and the request of this id, if there is one."""
_LATE = timedelta(minutes=5)
"""So much later than it says a request to begin at a time may come: it begins at once."""

_ASKED = insert(t.requests).inline()
_INSERT = insert(t.leases).inline()
_NUMBER = update(t.counters).where(t.counters.c.name == "lease").values(value=bindparam("last"))


def admit(tx: Tx, order: AdmitLease, run_id: str, *, again: bool = False) -> Admitted:
    """Admit a request: refuse it, grant it at once, or let it wait. Run again, answer what was decided.

    `again` is for one that was admitted before, of which the database has lost the record.
    """
    request = order.request
    known = tx.execute(_OPENING, {"lease": request.lease}).one()
    if known.lease is not None:
        refusal = known.refusal and Refusal(
            **{**known.refusal, "faults": tuple(Fault(**f) for f in known.refusal["faults"])}
        )
        if refusal:
            return Admitted(refusal=refusal)
        # The workflow may have gone on in a run of its own.
        mine = update(t.leases).where(t.leases.c.id == request.lease, t.leases.c.run_id != run_id)
        tx.execute(mine.values(run_id=run_id))
        return holding.standing(tx.connection, request.lease, tx.now)
    record = {"lease": request.lease, "principal": request.principal, "digest": request.digest, "at": tx.now}
    try:
        if order.consent is None and not again and (questions := _questions(tx, request)):
            return Admitted(questions=questions)
        submitted_at = tx.now - timedelta(seconds=order.age_s)
        if order.consent is not None:
            request = _agreed(request, order.consent)
            if order.consent.merge_into is not None:
                _merge(tx, request, order.consent.merge_into)
        admitted = _admit(tx, request, submitted_at, run_id, number=known.last + 1, again=again)
    except LeaseholdError as error:
        heartbeats.end(tx, request.lease)
        return Admitted(refusal=refused.keep(tx, request, run_id, error))
    tx.write(_ASKED, {**record, "refusal": None})
    return admitted


def _questions(tx: Tx, request: SubmitLease) -> tuple[PlannedQuestion, ...]:
    """The `admit` hooks of all pools that have something which suits a request."""
    known = catalogue.current(tx.connection)
    pools = {kind.pool for kind in known.serving(request.items)}
    if request.wait_for_supply:
        # What they are named for may be there later.
        pools |= {item.pool for item in request.items if item.pool is not None} & known.in_force.keys()
    found = (known.in_force[pool] for pool in sorted(pools))
    return tuple(
        PlannedQuestion(pool=spec.name, spec=spec_id, site=spec.site, hooks=specs.planned(spec.admit))
        for spec_id, spec in found
        if spec.admit
    )


def _agreed(request: SubmitLease, consent: Consent) -> SubmitLease:
    """The request as hooks agreed to it; raise their refusal."""
    if consent.refusal is not None:
        raise from_code(consent.refusal.code, consent.refusal.detail, consent.refusal.faults)
    priority = request.priority if consent.priority is None else consent.priority
    return replace(request, ticket=consent.ticket or request.ticket, priority=priority)


def _merge(tx: Tx, request: SubmitLease, into: str) -> NoReturn:
    """Refuse a request because a hook wants it to be one with another, which is named."""
    pool = request.items[0].pool
    found = commands.merged_into(tx.connection, into, pool) if request.command is not None else None
    if found is None:
        raise RequestRefused(f"the admit hook merged it into {into}, which is no command that waits or runs in {pool}")
    raise commands.duplicate_of(*found)


def _admit(tx: Tx, request: SubmitLease, submitted_at: datetime, run_id: str, *, number: int, again: bool) -> Admitted:
    duration = _duration(tx, request)
    if not again:
        notices.check(tx.connection, request)
        _check_on_end(tx, request)
    command = None if request.command is None else commands.check(tx, request, again=again)
    start_at = _start_at(request, submitted_at)
    me = Waiting(
        lease=request.lease,
        principal=request.principal,
        owner=selfservice.counted_for(request.owner, unverified=request.unverified),
        state=LeaseState.QUEUED,
        items=dict(enumerate(request.items)),
        priority=request.priority,
        number=LAST,
        since=submitted_at,
        duration=duration,
        start_at=start_at if start_at is not None and start_at > tx.now else None,
        self_service=request.self_service,
        share_key=request.share_key,
    )
    # A command with a negative priority is not served; that it could be is checked all the same.
    offered = _offer(tx, me, request, again=again)
    kept_back = command is not None and request.priority < 0
    award = None if kept_back else offered.award
    every = durations.parse(request.heartbeat) if request.heartbeat else None
    # Nobody waits for it any more: it gets nothing, and ends as soon as its workflow is told.
    lost = every is not None and heartbeats.begin(tx, request.lease, every, submitted_at)
    if lost:
        award = None
    state = LeaseState.PREPARING if award else LeaseState.QUEUED
    model.check_lease_transition(None, state)
    patience = durations.parse(request.queue_timeout) if request.queue_timeout else None
    wait_until = None if patience is None else max(submitted_at, start_at or submitted_at) + patience
    certain = award or offered.promise
    events.record(
        tx,
        f"lease_{state}" if me.start_at is None else "lease_reserved",
        lease=request.lease,
        actor=request.owner,
        reason=commands.HELD if kept_back else None if award else offered.shortage,
        data={"number": number, **(granting.granted_data(certain.resources) if certain else {})},
    )
    lease = {
        "number": number,
        "state": state,
        "duration_s": round(duration.total_seconds()),
        "run_id": run_id,
        "waiting": award is None and not lost and not kept_back,
        "blocked": commands.HELD if kept_back else None,
        "start_at": start_at,
        "wait_until": wait_until,
        "created_at": submitted_at,
    }
    if award is None:
        _record(tx, request, lease, command)
        if not (lost or again):
            notices.tell(tx, NoticeKind.REQUESTED, request.lease, reason=offered.shortage)
        if kept_back:
            matching.name_pools(tx, me)
        elif not lost:
            matching.wait(tx, replace(me, number=number), offered.promise)
        return Admitted(state=state, wait_s=holding.waiting_left(start_at, wait_until, tx.now))
    grant = granting.grant(tx, me, award)
    activation = holding.activation_at_once(tx, grant.claims, duration, self_service=me.self_service)
    _record(tx, request, {**lease, "granted_at": tx.now, **(activation.values if activation else {})}, command)
    granting.record(tx, grant, ready=activation is not None)
    matching.follow(tx, offered)
    if activation is None:
        if not again:
            notices.tell(tx, NoticeKind.REQUESTED, request.lease)
        return holding.preparing(tx, grant.claims)
    holding.tell_active(tx, request.lease, activation)
    claims = tuple(replace(claim, ready=True) for claim in grant.claims)
    return Admitted(state=LeaseState.ACTIVE, claims=claims, held=activation.held)


def _check_on_end(tx: Tx, request: SubmitLease) -> None:
    """Raise `Refused` where somebody may not keep resources out of their pool."""
    if request.on_end is not OnEnd.OFFLINE or not request.self_service:
        return
    known = catalogue.current(tx.connection)
    for pool in known.pools(request.items[:1]):
        if pool in known.policies and HolderMay.OFFLINE not in known.policies[pool].holder_may:
            detail = f"pool {pool} lets operators alone keep what they had out of it"
            raise Refused(detail, [Fault(path="on_end", code="not_allowed", detail=detail)])


def _record(tx: Tx, request: SubmitLease, lease: Mapping[str, Any], command: Mapping[str, Any] | None) -> None:
    """Record a new lease: what was asked for, and what came of it."""
    tx.write(_NUMBER, {"last": lease["number"]})
    tx.write(
        _INSERT,
        {
            "id": request.lease,
            "principal": request.principal,
            "owner": request.owner,
            "cc": list(request.cc),
            "description": request.description,
            "ticket": request.ticket,
            "self_service": request.self_service,
            "unverified": request.unverified,
            "wanted": specs.items_to_json(request.items),
            "priority": request.priority,
            "replaced": 0,
            "warned": 0,
            "notify": notices.plain(request.notify),
            "share_key": request.share_key,
            "commanded": command is not None,
            "on_end": request.on_end,
            "on_end_reason": request.on_end_reason,
            **lease,
        },
    )
    if command is not None:
        commands.add(tx, request.lease, command)


def _offer(tx: Tx, me: Waiting, request: SubmitLease, *, again: bool) -> Offer:
    """What a request gets, or is promised; raise what refuses it."""
    if not again:
        rules.check(tx.connection, me)
    offered = matching.offer(tx, me) if me.start_at is None else None
    if offered is not None and offered.award is not None:
        return offered
    if not request.wait_for_supply:
        check_satisfiable(tx, me.wishes)
    if offered is None:
        offered = matching.reserve(tx, me, again=again)
    if offered.excess is not None and offered.excess.refused:
        raise QuotaExceeded(offered.excess.detail)
    return offered


def _start_at(request: SubmitLease, submitted_at: datetime) -> datetime | None:
    """When a reservation begins; raise `Invalid` where that was long before it was asked for, or is too far away."""
    start_at = request.start_at
    if start_at is None:
        return None
    detail = None
    if start_at < submitted_at - _LATE:
        detail = f"{start_at:%Y-%m-%dT%H:%M:%SZ} is past"
    elif start_at > submitted_at + LONGEST:
        detail = f"{start_at:%Y-%m-%dT%H:%M:%SZ} is more than {LONGEST.days}d away"
    if detail is not None:
        raise Invalid(f"start_at: {detail}", [Fault(path="start_at", code="out_of_range", detail=detail)])
    return start_at


def _duration(tx: Tx, request: SubmitLease) -> timedelta:
    """How long the lease will be, by the strictest policy of the pools that it wants."""
    known, wanted_of = catalogue.current(tx.connection), wanted_specs(tx, request.items)
    # What a pool allows that has nothing of what is wanted is of no concern.
    suitable = known.suitable_pools(request.items)
    policies = rules.terms(
        (spec.policy for pool, spec in wanted_of.items() if pool in suitable),
        known,
        self_service=request.self_service,
    )
    limit = holding.longest(policies)
    if request.duration is None and request.command is not None:
        return commands.wanted_duration(request.command, limit)
    if request.duration is None:
        return min(limit, *(p.default_duration for p in policies))
    wanted = durations.parse(request.duration)
    if wanted > limit:
        detail = f"{request.duration} is longer than the {durations.render(limit)} that the policy allows"
        raise DurationRefused(detail, [Fault(path="duration", code="too_long", detail=detail)])
    return wanted


def wanted_specs(tx: Tx, items: Sequence[Item]) -> dict[str, PoolSpec]:
    """The specs of the pools that items can be served from; raise `Unsatisfiable` where one is not there."""
    known = catalogue.current(tx.connection)
    found = {pool: known.in_force[pool][1] for pool in known.pools(items) if pool in known.in_force}
    faults = [
        Fault(path=f"items[{i}].pool", code="pool_unknown", detail=f"there is no pool {item.pool}")
        for i, item in enumerate(items)
        if item.pool and item.pool not in found
    ]
    if faults:
        raise Unsatisfiable(faults[0].detail, faults)
    if not found:
        raise Unsatisfiable("there is no pool at all")
    return found


def check_satisfiable(tx: Tx, items: Sequence[Item], *, besides: str | None = None) -> None:
    """Raise `Unsatisfiable` where not even all that there is could serve the request, and say why it could not.

    `besides` names a lease, without what is its own, or broken.
    """
    everything = matching.everything(tx.connection, items, besides=besides)
    if allocation.assign(items, everything) is not None:
        return
    faults = []
    for index, item in enumerate(items):
        most = sum(allocation.suits(item, c) for c in everything)
        if most < item.count:
            there = matching.everything(tx.connection, [Item(pool=item.pool)], besides=besides)
            names = {c.name for c in everything}
            detail = reasons.no_such(item, most, allocation.unknown(item, there, names))
            faults.append(Fault(path=f"items[{index}]", code="too_many", detail=detail))
    detail = faults[0].detail if faults else "the items together want more than there is"
    raise Unsatisfiable(detail, faults or [Fault(path="items", code="too_many", detail=detail)])
