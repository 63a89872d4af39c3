"""Admission: a request is refused, granted at once, or waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import bindparam, insert, select, update

from leasehold import allocation, durations, model
from leasehold.allocation import Candidate
from leasehold.errors import DurationRefused, Fault, LeaseholdError, QuotaExceeded, Unsatisfiable
from leasehold.messages import AdmitLease, Admitted, Refusal, SubmitLease
from leasehold.model import Item, LeaseState, PoolSpec
from leasehold.store import catalogue, events, granting, heartbeats, holding, matching, refused, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.lanes import LAST, Waiting

_REQUEST = select(t.requests).where(t.requests.c.lease == bindparam("lease"))
_NEXT_NUMBER = (
    update(t.counters)
    .where(t.counters.c.name == "lease")
    .values(value=t.counters.c.value + 1)
    .returning(t.counters.c.value)
)


def admit(tx: Tx, order: AdmitLease, run_id: str) -> Admitted:
    """Admit a request: refuse it, grant it at once, or let it wait. Run again, answer what was decided."""
    request = order.request
    known = tx.execute(_REQUEST, {"lease": request.lease}).one_or_none()
    if known is not None:
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
        admitted = _admit(tx, request, tx.now - timedelta(seconds=order.age_s), run_id)
    except LeaseholdError as error:
        heartbeats.end(tx, request.lease)
        return Admitted(refusal=refused.keep(tx, request, run_id, error))
    tx.execute(insert(t.requests), {**record, "refusal": None})
    return admitted


def _admit(tx: Tx, request: SubmitLease, submitted_at: datetime, run_id: str) -> Admitted:
    duration = _duration(tx, request)
    me = Waiting(
        lease=request.lease,
        principal=request.principal,
        owner=request.owner,
        state=LeaseState.QUEUED,
        items=dict(enumerate(request.items)),
        priority=request.priority,
        number=LAST,
        since=submitted_at,
    )
    offered = matching.offer(tx, me)
    award = offered.award
    if award is None:
        check_satisfiable(request.items, matching.everything(tx.connection, request.items))
        if offered.excess is not None and offered.excess.refused:
            raise QuotaExceeded(offered.excess.detail)
    every = durations.parse(request.heartbeat) if request.heartbeat else None
    # Nobody waits for it any more: it gets nothing, and ends as soon as its workflow is told.
    lost = every is not None and heartbeats.begin(tx, request.lease, every, submitted_at)
    if lost:
        award = None
    state = LeaseState.PREPARING if award else LeaseState.QUEUED
    model.check_lease_transition(None, state)
    duration_s = round(duration.total_seconds())
    number = tx.execute(_NEXT_NUMBER).scalar_one()
    tx.execute(
        insert(t.leases),
        {
            "id": request.lease,
            "number": number,
            "state": state,
            "principal": request.principal,
            "owner": request.owner,
            "cc": list(request.cc),
            "description": request.description,
            "wanted": specs.items_to_json(request.items),
            "priority": request.priority,
            "duration_s": duration_s,
            "run_id": run_id,
            "waiting": award is None and not lost,
            "replaced": 0,
            "warned": 0,
            "created_at": submitted_at,
            "granted_at": tx.now if award else None,
        },
    )
    about = matching.granted_data(award) if award else {}
    events.record(
        tx,
        f"lease_{state}",
        lease=request.lease,
        actor=request.owner,
        reason=None if award else offered.shortage,
        data={"number": number, **about},
    )
    if award is None:
        if not lost:
            matching.wait(tx, replace(me, number=number))
        return Admitted(state=state)
    granted = granting.grant(tx, me, award)
    held = holding.activate_at_once(tx, request.lease, granted, duration_s)
    if held is not None:
        return Admitted(state=LeaseState.ACTIVE, claims=tuple(replace(c, ready=True) for c in granted), held=held)
    return holding.standing(tx.connection, request.lease, tx.now)


def _duration(tx: Tx, request: SubmitLease) -> timedelta:
    """How long the lease will be, by the strictest policy of the pools that it wants."""
    policies = [spec.policy for spec in wanted_specs(tx, request.items).values()]
    limit = holding.longest(policies)
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


def check_satisfiable(items: Sequence[Item], everything: Sequence[Candidate]) -> None:
    """Raise `Unsatisfiable` where not even all of `everything` could serve the request."""
    if allocation.assign(items, everything) is not None:
        return
    faults = []
    for index, item in enumerate(items):
        most = sum(allocation.suits(item, c) for c in everything)
        if most < item.count:
            where = f"pool {item.pool}" if item.pool else "any pool"
            detail = f"{item.count} wanted, and there are just {most} such resources in {where}"
            faults.append(Fault(path=f"items[{index}]", code="too_many", detail=detail))
    detail = faults[0].detail if faults else "the items together want more than there is"
    raise Unsatisfiable(detail, faults or [Fault(path="items", code="too_many", detail=detail)])
