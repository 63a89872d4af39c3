"""Requests that were refused: no lease, but an answer to whoever submitted one and asks what became of it."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Connection, bindparam, insert, select

from leasehold.errors import LeaseholdError
from leasehold.messages import Refusal, SubmitLease
from leasehold.model import Lease, LeaseState, Outcome, Problem
from leasehold.store import events, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_REFUSED = select(t.requests).where(t.requests.c.lease == bindparam("lease"), t.requests.c.asked.is_not(None))


def keep(tx: Tx, request: SubmitLease, run_id: str, error: LeaseholdError) -> Refusal:
    """Record why a request is refused, and what it asked for."""
    refusal = Refusal(code=error.code, detail=error.detail, faults=error.faults)
    asked = {
        "owner": request.owner,
        "cc": list(request.cc),
        "description": request.description,
        "items": specs.items_to_json(request.items),
        "priority": request.priority,
        "run_id": run_id,
    }
    row = {"lease": request.lease, "principal": request.principal, "digest": request.digest, "at": tx.now}
    tx.execute(insert(t.requests), {**row, "refusal": asdict(refusal), "asked": asked})
    about = {"code": error.code}
    events.record(tx, "lease_refused", lease=request.lease, actor=request.owner, reason=error.detail, data=about)
    return refusal


def lease(connection: Connection, lease_id: str) -> Lease | None:
    """The refused request of this id as a lease that failed at once, without a number; None if there is none."""
    row = connection.execute(_REFUSED, {"lease": lease_id}).one_or_none()
    if row is None:
        return None
    return Lease(
        id=row.lease,
        number=None,
        state=LeaseState.ENDED,
        outcome=Outcome.FAILED,
        error=Problem(code=row.refusal["code"], detail=row.refusal["detail"]),
        principal=row.principal,
        owner=row.asked["owner"],
        cc=tuple(row.asked["cc"]),
        description=row.asked["description"],
        items=specs.items_from_json(row.asked["items"]),
        resources=(),
        queue=None,
        priority=row.asked["priority"],
        created_at=row.at,
        start_at=None,
        active_at=None,
        expires_at=None,
        in_grace=False,
        heartbeat_by=None,
        ended_at=row.at,
        run_id=row.asked["run_id"],
    )


def is_refused(connection: Connection, lease_id: str) -> bool:
    """Whether the request of this id was refused."""
    return connection.execute(_REFUSED, {"lease": lease_id}).first() is not None
