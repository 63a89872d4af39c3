"""Pools and resources: applying pools files, single changes, and what operators do to a resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from leasehold.allocation import ANY_POOL
from leasehold.errors import Conflict, Fault, Invalid, OwnedElsewhere, PoolUnknown, ResourceUnknown
from leasehold.messages import delete_id
from leasehold.model import (
    PREPARE,
    PREPARE_AHEAD,
    Change,
    Inventory,
    Opening,
    PoolSpec,
    ResourceSpec,
    ResourceState,
    StageName,
)
from leasehold.store import catalogue, demand, events, limiters, matching, moves, outbox, reuse, rules, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_IDLE = {ResourceState.FREE, ResourceState.BROKEN}
"""States in which a resource can be deleted at once."""


def apply(tx: Tx, file: Inventory, actor: str) -> list[Change]:
    """Make the inventory what the file says, and return what that changed.

    Touches only what a file of the same name made before. Raises `OwnedElsewhere` where a name belongs to another
    file, or to somebody's PUT.
    """
    changes: list[Change] = []
    wanted = {spec.name for spec, _ in file.pools}
    for spec, resources in file.pools:
        changes += _put_pool(tx, spec, file.name, actor)
        for resource in resources:
            changes += _put_resource(tx, spec.name, resource, file.name, actor)
        kept = {resource.name for resource in resources}
        changes += _retire(tx, spec.name, file.name, kept, actor)
    mine = tx.execute(select(t.pools.c.name).where(t.pools.c.file == file.name, ~t.pools.c.draining)).scalars().all()
    for pool in sorted(set(mine) - wanted):
        changes += _drain_pool(tx, pool, file.name, actor)
    tx.execute(delete(t.files).where(t.files.c.name == file.name))
    tx.execute(insert(t.files).values(name=file.name, digest=file_digest(file), applied_at=tx.now))
    limiters.set_sizes(tx, file.limits, file.name)
    if catalogue.set_lab(tx, file.lab, file.name):
        wanted = {ANY_POOL}
        events.record(tx, "lab_changed", actor=actor, data={"file": file.name})
    for spec, _ in file.pools:
        _check_limiters(tx, spec)
        _prepare_ahead(tx, spec.name)
        _tend(tx, spec)
    demand.stir_all(tx)
    matching.match(tx, wanted)
    return changes


def file_digest(file: Inventory) -> str:
    """The same for files that say the same."""
    pools = [[specs.to_json(spec), [asdict(r) for r in resources]] for spec, resources in file.pools]
    lab = [catalogue.lab_to_json(file.lab)] if file.lab else []
    return specs.digest([file.name, dict(file.limits), pools, *lab])


def _check_limiters(tx: Tx, spec: PoolSpec) -> None:
    """Raise `Invalid` where a hook names a limiter that there is not."""
    named = {hook.limit for hooks in spec.stages.values() for hook in hooks if hook.limit}
    for name in sorted(named - limiters.known(tx)):
        detail = f"pool {spec.name} names the limiter {name}, which no pools file makes"
        raise Invalid(detail, [Fault(path="limits", code="limiter_unknown", detail=detail)])


def put_pool(tx: Tx, spec: PoolSpec, resources: tuple[ResourceSpec, ...], actor: str) -> list[Change]:
    """Make or change a pool by hand, and add the resources given; others that it has stay."""
    changes = _put_pool(tx, spec, None, actor)
    for resource in resources:
        changes += _put_resource(tx, spec.name, resource, None, actor)
    _check_limiters(tx, spec)
    _prepare_ahead(tx, spec.name)
    _tend(tx, spec)
    demand.stir_all(tx)
    matching.match(tx, {spec.name})
    return changes


def put_resource(tx: Tx, pool: str, spec: ResourceSpec, actor: str) -> list[Change]:
    """Make or change a resource by hand; raise `Conflict` where its pool makes its resources itself."""
    _check_pool(tx, pool)
    if specs.in_force(tx.connection, pool)[1].dynamic:
        raise Conflict(f"{pool} makes its resources itself: none is registered there")
    changes = _put_resource(tx, pool, spec, None, actor)
    _prepare_ahead(tx, pool)
    matching.match(tx, {pool})
    return changes


def delete_pool(tx: Tx, pool: str, actor: str) -> list[Change]:
    """Let a pool that somebody made by hand lend nothing more, and delete it with its last resource."""
    row = _check_pool(tx, pool)
    if row.file is not None:
        raise OwnedElsewhere(f"pool {pool} comes from the pools file {row.file}: take it out there")
    changes = _drain_pool(tx, pool, None, actor)
    matching.match(tx, {pool})
    return changes


def delete_resource(tx: Tx, pool: str, name: str, actor: str) -> list[Change]:
    """Take a resource that somebody made by hand out of its pool, once it is free."""
    row = _resource(tx, pool, name)
    if row.file is not None:
        raise OwnedElsewhere(f"{pool}/{name} comes from the pools file {row.file}: take it out there")
    changes = [_retire_one(tx, row, actor)]
    # What was promised of it is promised of another; and of what is left a larger share may be free.
    matching.match(tx, {pool})
    return changes


def offline(tx: Tx, pool: str, name: str, reason: str, actor: str) -> None:
    """Mark a resource offline: its holder keeps it, and nobody gets it after."""
    _resource(tx, pool, name)
    moves.take_offline(tx, pool, name, reason, actor)
    # What was promised of it is promised of another.
    matching.match(tx, {pool})


def online(tx: Tx, pool: str, name: str, actor: str) -> None:
    """Take the mark back; who waits for the resource gets it at once."""
    if _resource(tx, pool, name).offline_since is None:
        return
    _mark(tx, pool, name, {"offline_reason": None, "offline_by": None, "offline_since": None})
    events.record(tx, "resource_online", pool=pool, resource=name, actor=actor)
    outbox.tend(tx, pool)
    matching.match(tx, {pool})


def pause(tx: Tx, pool: str, reason: str, actor: str, *, drain: bool = False) -> None:
    """Let a pool lend nothing for now: its holders keep what they have, and who names it waits.

    With `drain` what the pool has made is deleted as soon as nobody has it.
    """
    _check_pool(tx, pool)
    _mark_pool(tx, pool, {"paused_reason": reason, "paused_by": actor, "paused_since": tx.now, "emptied": drain})
    events.record(tx, "pool_paused", pool=pool, actor=actor, reason=reason, data={"drain": drain})
    # What it would have made another pool may make.
    demand.stir_all(tx)


def resume(tx: Tx, pool: str, actor: str) -> None:
    """Let a pool lend again; who waits for it is served at once."""
    if _check_pool(tx, pool).paused_since is None:
        return
    _mark_pool(tx, pool, {"paused_reason": None, "paused_by": None, "paused_since": None, "emptied": False})
    events.record(tx, "pool_resumed", pool=pool, actor=actor)
    demand.stir_all(tx)
    matching.match(tx, {pool})


def force_self_service(tx: Tx, pool: str | None, opening: Opening, reason: str, actor: str) -> None:
    """Open self-service of a pool or of the lab, close it, or leave it to its rules; who waited for it is served."""
    rules.force(tx, pool, opening, reason, actor)
    demand.stir_all(tx)
    matching.match(tx, {ANY_POOL})


def _check_pool(tx: Tx, pool: str) -> Row[Any]:
    row: Row[Any] | None = tx.execute(select(t.pools).where(t.pools.c.name == pool)).one_or_none()
    if row is None:
        raise PoolUnknown(f"there is no pool {pool}")
    return row


def _mark_pool(tx: Tx, pool: str, values: Mapping[str, Any]) -> None:
    tx.execute(update(t.pools).where(t.pools.c.name == pool).values(**values))
    catalogue.changed(tx)


def repair(tx: Tx, pool: str, name: str, actor: str) -> None:
    """Bring a resource back from quarantine, through the stages that its pool runs after a lease."""
    row = _resource(tx, pool, name)
    if row.state == ResourceState.DELETING:
        # Its deletion waits for its next try.
        events.record(tx, "deletion_hurried", pool=pool, resource=name, actor=actor)
        outbox.signal(tx, delete_id(pool, name, row.epoch))
        return
    if row.state != ResourceState.BROKEN:
        raise Conflict(f"{pool}/{name} is {row.state}, not broken: there is nothing to repair")
    grants = select(t.grants).where(t.grants.c.pool == pool, t.grants.c.resource == name)
    last = tx.execute(grants.order_by(t.grants.c.id.desc()).limit(1)).one_or_none()
    lease = last.lease if last else None
    events.record(tx, "resource_repaired", lease=lease, pool=pool, resource=name, actor=actor)
    if last is not None and last.closed_at is None:
        _give_to_waiting(tx, row, last)
        return
    spec_id, spec = specs.in_force(tx.connection, pool)
    reuse.recycle(tx, row, spec_id, spec, lease=lease)
    matching.match(tx, {pool})


def _give_to_waiting(tx: Tx, resource: Row[Any], grant: Row[Any]) -> None:
    """Give a repaired resource to the lease that has waited for it, which prepares it from the start."""
    epoch = moves.set_state(tx, resource, ResourceState.LEASED, lease=grant.lease)
    # As if nothing had been prepared ahead; what the holder does not want stays left out.
    lease = tx.execute(select(t.leases.c.wanted).where(t.leases.c.id == grant.lease)).scalar_one()
    skipped = set(specs.items_from_json(lease)[grant.item].skip) - {StageName.WIPE}
    due = [stage for stage in PREPARE if stage not in skipped]
    again = {"due": due, "epoch": epoch, "stage": None, "attempt": None, "ready_at": None, "data": None}
    tx.execute(update(t.grants).where(t.grants.c.id == grant.id).values(again))
    tx.execute(update(t.leases).where(t.leases.c.id == grant.lease).values(blocked=None))
    outbox.signal(tx, grant.lease)


def _prepare_ahead(tx: Tx, pool: str) -> None:
    """Send what is free and not prepared as the pool's settings say through its stages, where it prepares ahead."""
    spec_id, spec = specs.in_force(tx.connection, pool)
    if not spec.policy.prepares_ahead:
        return
    mark = specs.prepared_digest(spec)
    stale = select(t.resources).where(
        t.resources.c.pool == pool,
        t.resources.c.state == ResourceState.FREE,
        t.resources.c.offline_since.is_(None),
        t.resources.c.share_key.is_(None),
        ~t.resources.c.suspect,
        t.resources.c.prepared.is_distinct_from(mark),
    )
    for row in tx.execute(stale).all():
        reuse.recycle(tx, row, spec_id, spec, lease=None, stages=PREPARE_AHEAD)


def _tend(tx: Tx, spec: PoolSpec) -> None:
    """Have a pool looked after that makes, checks or keeps its resources, or did so once."""
    tended = select(t.resources.c.name).where(t.resources.c.pool == spec.name, demand.IS_TENDED)
    if spec.is_tended or tx.execute(tended.limit(1)).first() is not None:
        outbox.tend(tx, spec.name)


def _resource(tx: Tx, pool: str, name: str) -> Row[Any]:
    row = moves.row_of(tx, pool, name)
    if row is None:
        raise ResourceUnknown(f"there is no resource {pool}/{name}")
    return row


def _mark(tx: Tx, pool: str, name: str, values: Mapping[str, Any]) -> None:
    tx.execute(update(t.resources).where(t.resources.c.pool == pool, t.resources.c.name == name).values(**values))


def _owned(kind: str, name: str, mine: str | None, theirs: str | None) -> None:
    if mine != theirs:
        owner = f"the pools file {theirs}" if theirs else "a PUT"
        raise OwnedElsewhere(f"{kind} {name} was made by {owner}")


def _put_pool(tx: Tx, spec: PoolSpec, file: str | None, actor: str) -> list[Change]:
    row = tx.execute(select(t.pools).where(t.pools.c.name == spec.name)).one_or_none()
    spec_id = specs.keep(tx, spec)
    if row is None:
        tx.execute(
            insert(t.pools).values(name=spec.name, file=file, spec=spec_id, priority=spec.priority, draining=False)
        )
        return [_change(tx, "add", "pool", spec.name, spec.name, {}, actor)]
    _owned("pool", spec.name, file, row.file)
    if row.spec == spec_id and not row.draining:
        return []
    before = specs.to_json(specs.load(tx.connection, {row.spec})[row.spec])
    if row.draining:
        _drain_made(tx, spec.name, draining=False)
    tx.execute(
        update(t.pools).where(t.pools.c.name == spec.name).values(spec=spec_id, priority=spec.priority, draining=False)
    )
    return [_change(tx, "change", "pool", spec.name, spec.name, _diff(before, specs.to_json(spec)), actor)]


def _put_resource(tx: Tx, pool: str, spec: ResourceSpec, file: str | None, actor: str) -> list[Change]:
    row = moves.row_of(tx, pool, spec.name)
    described = {"tags": list(spec.tags), "properties": dict(spec.properties)}
    kind = catalogue.kind_of(pool, spec.tags, spec.properties)
    if row is None:
        tx.execute(
            insert(t.resources).values(
                pool=pool,
                name=spec.name,
                file=file,
                state=ResourceState.FREE,
                epoch=moves.epoch(tx, moves.last_epoch(tx, pool, spec.name)),
                draining=False,
                kind=kind,
                **described,
            )
        )
        return [_change(tx, "add", "resource", pool, spec.name, {}, actor)]
    _owned("resource", f"{pool}/{spec.name}", file, row.file)
    before = {"tags": row.tags, "properties": row.properties}
    if before == described and not row.draining:
        return []
    _mark(tx, pool, spec.name, {**described, "kind": kind, "draining": False})
    return [_change(tx, "change", "resource", pool, spec.name, _diff(before, described), actor)]


def _retire(tx: Tx, pool: str, file: str | None, kept: set[str], actor: str) -> list[Change]:
    """Drain or delete the resources of this file that it has no more."""
    rows = tx.execute(
        select(t.resources)
        .where(t.resources.c.pool == pool, t.resources.c.file == file, ~t.resources.c.draining)
        .order_by(t.resources.c.name)
    ).all()
    return [_retire_one(tx, row, actor) for row in rows if row.name not in kept]


def _retire_one(tx: Tx, row: Row[Any], actor: str) -> Change:
    if row.state in _IDLE and not _is_awaited(tx, row) and row.spec is not None:
        moves.delete(tx, row, lease=None, reason="somebody asked for it", actor=actor)
        return Change(action="delete", kind="resource", pool=row.pool, name=row.name, diff={})
    if row.state in _IDLE and not _is_awaited(tx, row):
        moves.remove(tx, row.pool, row.name, actor=actor)
        return Change(action="remove", kind="resource", pool=row.pool, name=row.name, diff={})
    _mark(tx, row.pool, row.name, {"draining": True})
    return _change(tx, "drain", "resource", row.pool, row.name, {}, actor)


def _is_awaited(tx: Tx, resource: Row[Any]) -> bool:
    """Whether a lease waits for the resource's repair."""
    open_grant = select(t.grants.c.id).where(
        t.grants.c.pool == resource.pool, t.grants.c.resource == resource.name, t.grants.c.closed_at.is_(None)
    )
    return tx.execute(open_grant).first() is not None


def _drain_made(tx: Tx, pool: str, *, draining: bool) -> None:
    """Let nobody have any more what a pool has made, or let it be lent again."""
    made = (t.resources.c.pool == pool, t.resources.c.spec.is_not(None))
    tx.execute(update(t.resources).where(*made).values(draining=draining))


def _drain_pool(tx: Tx, pool: str, file: str | None, actor: str) -> list[Change]:
    tx.execute(update(t.pools).where(t.pools.c.name == pool).values(draining=True))
    _drain_made(tx, pool, draining=True)
    changes = _retire(tx, pool, file, set(), actor)
    outbox.tend(tx, pool)
    moves.remove_if_empty(tx, pool)
    if not specs.has_pool(tx.connection, pool):
        return [*changes, Change(action="remove", kind="pool", pool=pool, name=pool, diff={})]
    return [*changes, _change(tx, "drain", "pool", pool, pool, {}, actor)]


_PAST = {"add": "added", "change": "changed", "drain": "draining"}


def _change(tx: Tx, action: str, kind: str, pool: str, name: str, diff: dict[str, Any], actor: str) -> Change:
    """Leave the event of a change, and return the change."""
    catalogue.changed(tx)
    resource = name if kind == "resource" else None
    events.record(tx, f"{kind}_{_PAST[action]}", pool=pool, resource=resource, actor=actor, data=diff)
    return Change(action=action, kind=kind, pool=pool, name=name, diff=diff)


def _diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What differs, as `{key: [before, after]}`."""
    keys = sorted({*before, *after})
    return {k: [before.get(k), after.get(k)] for k in keys if before.get(k) != after.get(k)}
