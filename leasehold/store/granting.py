"""Grants: a lease gets resources, and gives them back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update

from leasehold.allocation import Award, Candidate
from leasehold.messages import Claim
from leasehold.model import PREPARE, Item, PoolSpec, ResourceState, StageName
from leasehold.store import catalogue, growth, instances, moves, outbox, reuse, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting
from leasehold.store.moves import Standing
from leasehold.store.tables import LEASE_WIDE

Key = tuple[str, str]
"""A resource: its pool and its name."""

_GRANT = insert(t.grants).inline()
# Beside each the resource as it stands, which has an epoch of its own once it is in quarantine.
_STANDING = {column.name: f"resource_{column.name}" for column in moves.STANDING}
_OPEN = (
    select(t.grants, *(column.label(_STANDING[column.name]) for column in moves.STANDING))
    .outerjoin(t.resources, (t.resources.c.pool == t.grants.c.pool) & (t.resources.c.name == t.grants.c.resource))
    .where(t.grants.c.lease == bindparam("lease"), t.grants.c.closed_at.is_(None))
    .order_by(t.grants.c.id)
)
_CLOSE = (
    update(t.grants).where(t.grants.c.id.in_(bindparam("ids", expanding=True))).values(closed_at=bindparam("closed_at"))
)
_LAST_HELD = (
    select(t.leases.c.principal, t.leases.c.unverified, t.leases.c.transfers, t.grants.c.ready_at)
    .join(t.grants, t.grants.c.lease == t.leases.c.id)
    .where(t.grants.c.pool == bindparam("pool_"), t.grants.c.resource == bindparam("resource_"))
    .order_by(t.grants.c.id.desc())
    .limit(1)
)
_RAN = select(t.runs.c.pool, t.runs.c.resource).where(t.runs.c.lease == bindparam("lease")).distinct()


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a lease is given: the claims with the stages due, and the rows that record it."""

    claims: tuple[Claim, ...]
    rows: Sequence[Mapping[str, Any]]


def grant(tx: Tx, to: Waiting, award: Award) -> Grant:
    """Give a lease what `award` says for each item that it wants, to be recorded once the lease is."""
    given = [
        (index, item, candidate)
        for (index, item), group in zip(to.items.items(), award.resources, strict=True)
        for candidate in group
    ]
    in_force = _in_force(tx, {candidate.pool for _, _, candidate in given})
    resources = [candidate.record for _, _, candidate in given]
    # As long as no hook has touched it, it stays as it was prepared.
    leased = [(resource, {"prepared": resource.prepared}) for resource in resources]
    epochs = moves.set_states(tx, leased, ResourceState.LEASED, lease=to.lease)
    made = [(resource.pool, resource.name) for resource in resources if resource.spec is not None]
    known = instances.of_all(tx.connection, made)
    growth.granted(tx, known.values())
    instances.granted(tx, made)
    granted, claims = [], []
    for (index, item, _), resource, epoch in zip(given, resources, epochs, strict=True):
        spec_id, spec = in_force[resource.pool]
        due = _due(tx, resource, spec, item, to.principal)
        granted.append(
            {
                "lease": to.lease,
                "owner": to.owner,
                "pool": resource.pool,
                "resource": resource.name,
                "epoch": epoch,
                "spec": spec_id,
                "item": index,
                "role": item.role,
                "due": due,
                "granted_at": tx.now,
                # What `create` printed; what `deliver` prints takes its place.
                "data": instance.data if (instance := known.get((resource.pool, resource.name))) else None,
            }
        )
        stages = specs.plan(spec, due)
        claims.append(
            Claim(pool=resource.pool, resource=resource.name, epoch=epoch, spec=spec_id, site=spec.site, stages=stages)
        )
    return Grant(claims=tuple(claims), rows=granted)


def record(tx: Tx, grant: Grant, *, ready: bool = False) -> None:
    """Record a grant; `ready` where its lease is delivered at once."""
    tx.write(_GRANT, [{**row, "ready_at": tx.now if ready else None} for row in grant.rows])


def _in_force(tx: Tx, pools: set[str]) -> dict[str, tuple[int, PoolSpec]]:
    """The settings of these pools that are in force, with their ids, which need not be read any more."""
    known = catalogue.current(tx.connection).in_force
    found = {pool: known[pool] for pool in pools if pool in known}
    specs.remember(tx.connection, found.values())
    return found


def _due(tx: Tx, resource: Row[Any], spec: PoolSpec, item: Item, principal: str) -> list[StageName]:
    """The stages that a resource has to go through for a lease."""
    ahead = spec.policy.prepares_ahead and resource.prepared == specs.prepared_digest(spec)
    stages = (StageName.DELIVER,) if ahead else PREPARE
    skipped = set(item.skip)
    if StageName.WIPE in skipped and not _only_his_own_is_left(tx, resource, principal):
        # What somebody else left must go, whatever the next holder says.
        skipped.remove(StageName.WIPE)
    return [stage for stage in stages if stage not in skipped]


def _only_his_own_is_left(tx: Tx, resource: Row[Any], principal: str) -> bool:
    """Whether the last to hold a resource was the same, surely, and had it ready: then what was there before is gone.

    Had his lease ended before, its wipe may not have been reached. One that was transferred had another holder, and
    whoever said no more than a name may be anybody.
    """
    last = tx.execute(_LAST_HELD, {"pool_": resource.pool, "resource_": resource.name}).one_or_none()
    return (
        last is not None
        and last.principal == principal
        and last.ready_at is not None
        and not last.unverified
        and last.transfers == 0
    )


def open_rows(tx: Tx, lease: str) -> Sequence[Row[Any]]:
    """The open grants of a lease, each with its resource."""
    rows: Sequence[Row[Any]] = tx.execute(_OPEN, {"lease": lease}).all()
    return rows


def close(
    tx: Tx, rows: Collection[Row[Any]], broken: Mapping[Key, str], *, was_active: bool
) -> tuple[set[str], set[int]]:
    """Close open grants of one lease, send the resources on their way, and return their pools and kinds.

    A resource goes into quarantine where `broken` gives a reason, through the stages that its pool wants after a
    lease where the lease used it, and straight back to `free` otherwise. One that is in quarantine stays there.
    """
    if not rows:
        return set(), set()
    tx.write(_CLOSE, {"ids": [row.id for row in rows], "closed_at": tx.now})
    _in_force(tx, {row.pool for row in rows})
    loaded = specs.load(tx.connection, {row.spec for row in rows})
    lease = next(iter(rows)).lease
    touched = _touched(tx, lease) if not was_active else set()
    all_used = was_active or any(name == LEASE_WIDE for _, name in touched)
    kinds: set[int] = set()
    freed: list[moves.Freed] = []
    left: list[reuse.Left] = []
    untouched: list[reuse.Left] = []
    for row in rows:
        key, spec = (row.pool, row.resource), loaded[row.spec]
        resource, reason = _resource(row), broken.get(key)
        if resource is None:
            continue
        kinds.add(resource.kind)
        was_used = all_used or key in touched
        if resource.state == ResourceState.BROKEN:
            moves.remove_drained(tx, resource)
            if resource.spec is not None:
                outbox.tend(tx, resource.pool)
        elif reason is not None:
            moves.quarantine(tx, resource, reason, lease=lease)
        elif was_used and specs.plan(spec, spec.policy.after_release):
            reuse.recycle(tx, resource, row.spec, spec, lease=lease)
        elif was_used:
            left.append((resource, row.spec, None))
        elif resource.spec is not None:
            untouched.append((resource, row.spec, resource.prepared))
        else:
            freed.append((resource, resource.prepared, None))
    moves.free_all(tx, freed, lease=lease)
    reuse.settle(tx, [*left, *reuse.used_before(tx, untouched)], lease=lease)
    return {row.pool for row in rows}, kinds


def _resource(row: Row[Any]) -> Standing | None:
    """The resource of a row of `open_rows`; None where it is gone, which only a restored database has."""
    if getattr(row, _STANDING["state"]) is None:
        return None
    return Standing(**{name: getattr(row, label) for name, label in _STANDING.items()})


def _touched(tx: Tx, lease: str) -> set[Key]:
    """The resources on which a hook ran for a lease; `LEASE_WIDE` in the place of a name where one ran for all."""
    return {(row.pool, row.resource) for row in tx.execute(_RAN, {"lease": lease})}


def granted_data(resources: Sequence[Sequence[Candidate]]) -> dict[str, list[str]]:
    """What an event says of a grant, or of a promise."""
    return {"resources": [f"{c.pool}/{c.name}" for group in resources for c in group]}
