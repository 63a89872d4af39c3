"""Tending: what is due in a pool that makes its resources, checks them, or keeps them for keys, is begun.

What is begun is started through the outbox. `leasehold.sizing` decides how much; nothing here grants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update

from leasehold import sizing
from leasehold.messages import CheckRound, Tended, TendPool
from leasehold.model import PoolSpec, ResourceState, StageName
from leasehold.sizing import Attempts, Instance, Plan, Standing
from leasehold.store import (
    catalogue,
    checks,
    demand,
    facts,
    growth,
    listing,
    making,
    matching,
    moves,
    outbox,
    reuse,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_R, _I, _G = t.resources.c, t.instances.c, t.grants.c
_LOOK_AGAIN_S = 60.0
_MOST_AT_ONCE = 100
"""So many creations, and so many deletions, one look begins; the next look follows at once."""


def tend(tx: Tx, order: TendPool) -> Tended:
    """Begin what is due in a pool, and say when to look again."""
    pool = tx.execute(select(t.pools).where(t.pools.c.name == order.pool)).one_or_none()
    if pool is None:
        return Tended(over=True)
    if facts.suspended(tx.connection) is not None:
        # What is there may be known to nobody, or lent: nothing is made, and nothing deleted.
        return Tended(left_s=_LOOK_AGAIN_S, summary="nothing is done until the records are rebuilt")
    spec_id, spec = specs.in_force(tx.connection, order.pool)
    if spec.livecheck is None:
        checks.forget(tx, order.pool)
    rows = _rows(tx, order.pool)
    _let_go_of_kept(tx, spec, rows)
    made = [row for row in rows if row.spec is not None]
    if not made and not (spec.is_tended and not pool.draining):
        return Tended(over=True)
    due = [row.kept_until for row in rows if row.kept_until is not None and row.kept_until > tx.now]
    known = growth.of_pool(tx.connection, order.pool)
    plan = _decide(tx, pool, spec, made, growth.attempts(known))
    _delete(tx, {row.name: row for row in made}, plan)
    if plan.create:
        making.create(tx, spec_id, spec, min(plan.create, _MOST_AT_ONCE))
    if max(plan.create, len(plan.delete)) > _MOST_AT_ONCE:
        outbox.tend(tx, order.pool)
    due += [at for at in (plan.look_at, *_checks(tx, spec_id, spec)) if at]
    if spec.listing is not None:
        due.append(listing.begin_due(tx, spec_id, spec, known.list_at if known else None))
    return Tended(left_s=_left(due, tx.now), summary=_summary(rows, plan))


def _left(due: Sequence[datetime], now: datetime) -> float | None:
    return max(0.0, (min(due) - now).total_seconds()) if due else None


def _summary(rows: Sequence[Row[Any]], plan: Plan) -> str:
    """What Temporal's UI shows of the pool."""
    states = Counter(str(row.state) for row in rows)
    states[str(ResourceState.CREATING)] += plan.create
    said = ", ".join(f"{many} {state}" for state, many in sorted(states.items()) if many)
    return said or "nothing is there"


def _rows(tx: Tx, pool: str) -> Sequence[Row[Any]]:
    """All resources of a pool, with what is known of those that it has made, and whether a lease has them."""
    known = (_I.created_at, _I.free_since, _I.first_granted_at, _G.id.is_not(None).label("granted"))
    there = (_I.pool == _R.pool) & (_I.name == _R.name)
    granted = (_G.pool == _R.pool) & (_G.resource == _R.name) & _G.closed_at.is_(None)
    query = select(*moves.STANDING, _R.offline_since, _R.suspect, _R.broken_since, _R.share_key, _R.kept_until, *known)
    query = query.outerjoin(t.instances, there).outerjoin(t.grants, granted).where(_R.pool == pool)
    rows: Sequence[Row[Any]] = tx.execute(query).all()
    return rows


def _let_go_of_kept(tx: Tx, spec: PoolSpec, rows: Sequence[Row[Any]]) -> None:
    """Let anybody have what was registered and kept for a key, once nobody has come with it, or nothing is kept."""
    kept = [row for row in rows if row.spec is None and row.kept_until is not None]
    late = [row for row in kept if row.kept_until <= tx.now or spec.policy.reuse_window is None]
    for row in late:
        this = update(t.resources).where(_R.pool == row.pool, _R.name == row.name)
        tx.execute(this.values(share_key=None, kept_until=None))
    if late:
        matching.match(tx, {row.pool for row in late}, {row.kind for row in late})


# How many there are


def _decide(tx: Tx, pool: Row[Any], spec: PoolSpec, made: Sequence[Row[Any]], attempts: Attempts) -> Plan:
    closing = pool.draining or not spec.dynamic or pool.emptied
    wanted, left = 0, 0
    if spec.dynamic and not closing:
        spread = demand.spread(tx.connection, tx.now)
        kind = catalogue.made_kind(spec)
        wanted, left = spread.create.get(spec.name, 0), spread.left.get(kind, 0)
    promised = set(tx.execute(select(t.promises.c.resource).where(t.promises.c.pool == spec.name)).scalars())
    standing = Standing(
        size=spec.size,
        on_demand=bool(spec.tags_on_demand),
        instances=[_instance(row, spec, promised=row.name in promised) for row in made],
        wanted=wanted,
        left=left,
        attempts=attempts,
        growing=pool.paused_since is None,
        closing=closing,
    )
    return sizing.plan(standing, tx.now)


def _instance(row: Row[Any], spec: PoolSpec, *, promised: bool) -> Instance:
    """A resource as it stands; what its pool would not make so any more is not wanted, once nobody has it."""
    is_free = row.state == ResourceState.FREE
    is_offline = row.offline_since is not None
    open_to_all = not (is_offline or row.suspect or row.share_key is not None or row.draining or promised)
    return Instance(
        name=row.name,
        # One that is broken may be waited for by its lease, until somebody has repaired it.
        state=ResourceState.LEASED if row.granted else ResourceState(row.state),
        created_at=row.created_at,
        since=row.broken_since or row.free_since or row.created_at,
        spare=is_free and open_to_all,
        unwanted=row.draining or (is_free and row.kind != catalogue.made_kind(spec)),
        untouchable=is_offline or promised,
        kept_until=row.kept_until if is_free else None,
        granted_until=reuse.granted_until(spec, row.first_granted_at) if is_free else None,
    )


def _delete(tx: Tx, made: Mapping[str, Row[Any]], plan: Plan) -> None:
    for name, reason in list(plan.delete.items())[:_MOST_AT_ONCE]:
        moves.delete(tx, made[name], lease=None, reason=reason)


# Whether they live


def _checks(tx: Tx, spec_id: int, spec: PoolSpec) -> list[datetime]:
    """Begin livechecks that are due, no more than may be under way, and return when others will be."""
    if spec.livecheck is None:
        return []
    hook = spec.stages[StageName.LIVECHECK][0]
    taken = checks.take_due(tx, spec.name, spec.livecheck.parallel, hook.timeout)
    if taken.resources:
        outbox.check(
            tx,
            CheckRound(
                id=f"checks:{spec.name}:{moves.epoch(tx, 0)}",
                pool=spec.name,
                spec=spec_id,
                site=spec.site,
                timeout_s=hook.timeout.total_seconds(),
                parallel=taken.parallel,
                resources=taken.resources,
            ),
        )
    return taken.due
