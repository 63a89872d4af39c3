"""Making: resources that their pool creates, from their first row to their last.

What is to be made is written down before anything is; what is deleted stays until it is gone.
"""

from __future__ import annotations

from sqlalchemy import insert

from leasehold import sizing
from leasehold.messages import Claim, Created, CreateResource, Deleted, create_id, delete_id
from leasehold.model import PREPARE_AHEAD, PoolSpec, ResourceState, StageName
from leasehold.store import (
    catalogue,
    demand,
    events,
    growth,
    instances,
    limiters,
    matching,
    moves,
    outbox,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.engine import Tx


def create(tx: Tx, spec_id: int, spec: PoolSpec, many: int) -> None:
    """Begin to create so many: written down first, so that whatever happens then it is known."""
    stages = (StageName.CREATE, *(PREPARE_AHEAD if spec.policy.prepares_ahead else ()))
    planned = specs.plan(spec, stages)
    for name in instances.begin(tx, spec, many):
        epoch = add(tx, spec, spec_id, name, ResourceState.CREATING)
        claim = Claim(pool=spec.name, resource=name, epoch=epoch, spec=spec_id, site=spec.site, stages=planned)
        outbox.create(tx, CreateResource(claim=claim))
    growth.begun(tx, spec.name)


def add(tx: Tx, spec: PoolSpec, spec_id: int, name: str, state: ResourceState, *, why: str | None = None) -> int:
    """Write down a resource that a pool makes, or that was found in it, and return its epoch."""
    epoch = moves.epoch(tx, moves.last_epoch(tx, spec.name, name))
    described = {"tags": list(spec.all_tags), "properties": dict(spec.properties)}
    tx.execute(
        insert(t.resources).values(
            pool=spec.name,
            name=name,
            file=None,
            state=state,
            epoch=epoch,
            draining=False,
            kind=catalogue.made_kind(spec),
            spec=spec_id,
            **described,
        )
    )
    events.record(tx, f"resource_{state}", pool=spec.name, resource=name, reason=why, data={"epoch": epoch})
    return epoch


def created(tx: Tx, done: Created) -> None:
    """Let a resource be granted that was created, or delete what may be left of one that was not."""
    claim = done.claim
    resource = moves.mine(tx, claim, "creation")
    if resource is None or resource.state != ResourceState.CREATING:
        return
    instance = instances.of(tx.connection, claim.pool, claim.resource)
    assert instance is not None
    limiters.give_all(tx, create_id(claim.pool, claim.resource, claim.epoch))
    if not done.lost:
        before = growth.attempts(growth.of_pool(tx.connection, claim.pool))
        growth.ended(tx, claim.pool, (tx.now - instance.created_at).total_seconds(), done.failed)
        if before.is_open or done.failed is not None:
            # It is counted on again, or no more.
            demand.stir_all(tx)
    else:
        # A moment to breathe: whatever kills workers may do so again.
        growth.change(tx, claim.pool, retry_at=tx.now + sizing.pause_after(1))
    if done.failed is not None:
        events.record(
            tx,
            "creation_failed",
            pool=claim.pool,
            resource=claim.resource,
            reason=done.failed,
            data={"lost": done.lost},
        )
        if done.failed.startswith(f"{StageName.CREATE}:"):
            moves.delete(tx, resource, lease=None, reason="it could not be created")
        else:
            moves.quarantine(tx, resource, done.failed, lease=None)
        return
    spec = specs.load(tx.connection, {claim.spec})[claim.spec]
    instances.ready(tx, claim.pool, claim.resource)
    prepared = specs.prepared_digest(spec) if spec.policy.prepares_ahead else None
    moves.free(tx, resource, lease=None, prepared=prepared)
    matching.match(tx, {claim.pool}, {resource.kind})


def deleted(tx: Tx, done: Deleted) -> bool:
    """Forget a resource that is gone, or say why it is not; whether there is nothing left to delete."""
    claim = done.claim
    resource = moves.mine(tx, claim, "deletion")
    if resource is None or resource.state != ResourceState.DELETING:
        return True
    if done.failed is None:
        limiters.give_all(tx, delete_id(claim.pool, claim.resource, claim.epoch))
        moves.remove(tx, claim.pool, claim.resource, actor=None)
        return True
    known = instances.of(tx.connection, claim.pool, claim.resource)
    instances.in_trouble(tx, claim.pool, claim.resource, f"try {done.tries}: {done.failed}")
    if known is not None and known.trouble is None:
        events.record(tx, "deletion_failed", pool=claim.pool, resource=claim.resource, reason=done.failed)
    return False
