"""Claims: what a lease holds, at which epochs, and the stages due for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select

from leasehold.messages import Claim, WidePlan
from leasehold.model import PREPARE, PoolSpec, Scope, StageName
from leasehold.store import specs
from leasehold.store import tables as t

_OPEN = (t.grants.c.lease == bindparam("lease"), t.grants.c.closed_at.is_(None))
# One in quarantine has gone to another epoch: it is not the lease's until it is repaired.
_SOUND = (
    (t.resources.c.pool == t.grants.c.pool)
    & (t.resources.c.name == t.grants.c.resource)
    & (t.resources.c.epoch == t.grants.c.epoch)
)
_CLAIMED = select(t.grants).join(t.resources, _SOUND).where(*_OPEN).order_by(t.grants.c.id)
_HELD = select(func.count()).select_from(t.grants).where(*_OPEN)


def claim(grant: Row[Any], spec: PoolSpec) -> Claim:
    """The claim that a grant gives, with the stages due."""
    return Claim(
        pool=grant.pool,
        resource=grant.resource,
        epoch=grant.epoch,
        spec=grant.spec,
        site=spec.site,
        ready=grant.ready_at is not None,
        stages=specs.plan(spec, map(StageName, grant.due)),
    )


def of(connection: Connection, lease: str) -> tuple[Claim, ...]:
    """What a lease holds and can use."""
    rows = connection.execute(_CLAIMED, {"lease": lease}).all()
    loaded = specs.load(connection, {row.spec for row in rows})
    return tuple(claim(row, loaded[row.spec]) for row in rows)


def broken(connection: Connection, lease: str, sound: tuple[Claim, ...]) -> int:
    """How many of a lease's resources are in quarantine, of which it has the `sound` ones."""
    held: int = connection.execute(_HELD, {"lease": lease}).scalar_one()
    return held - len(sound)


def wide(connection: Connection, claims: tuple[Claim, ...]) -> tuple[WidePlan, ...]:
    """What is run once for all of these claims together, pool after pool, each by its newest settings."""
    newest: dict[str, int] = {}
    for one in claims:
        newest[one.pool] = max(one.spec, newest.get(one.pool, 0))
    loaded = specs.load(connection, set(newest.values()))
    plans = []
    for pool, spec_id in sorted(newest.items()):
        spec = loaded[spec_id]
        stages = specs.plan(spec, PREPARE, Scope.LEASE)
        if stages:
            plans.append(WidePlan(pool=pool, spec=spec_id, site=spec.site, stages=stages))
    return tuple(plans)
