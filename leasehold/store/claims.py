"""Claims: what a lease holds, at which epochs, and the stages due for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

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
_HELD = (
    select(t.grants, t.resources.c.epoch.is_not(None).label("is_sound"))
    .outerjoin(t.resources, _SOUND)
    .where(*_OPEN)
    .order_by(t.grants.c.id)
)


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


def of(connection: Connection, lease: str) -> tuple[tuple[Claim, ...], int]:
    """What a lease holds and can use, and how many more it has that are in quarantine."""
    rows = connection.execute(_HELD, {"lease": lease}).all()
    sound = [row for row in rows if row.is_sound]
    loaded = specs.load(connection, {row.spec for row in sound})
    return tuple(claim(row, loaded[row.spec]) for row in sound), len(rows) - len(sound)


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
