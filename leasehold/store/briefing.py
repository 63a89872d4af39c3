"""What a hook is told of its lease and its resource."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, null, select

from leasehold.errors import LeaseUnknown
from leasehold.messages import AskHook, HeldResource, ListPool, RunHook
from leasehold.model import ADMIT, PREPARE_AHEAD, PoolSpec, StageName
from leasehold.ports import Briefing
from leasehold.store import commands, envelopes, instances, specs
from leasehold.store import tables as t

_LEASE = select(t.leases).where(t.leases.c.id == bindparam("lease"))
_GRANTS = (
    select(t.grants, t.resources.c.tags, t.resources.c.properties)
    .outerjoin(t.resources, (t.resources.c.pool == t.grants.c.pool) & (t.resources.c.name == t.grants.c.resource))
    .where(t.grants.c.lease == bindparam("lease"))
    .order_by(t.grants.c.id)
)


_NEVER_LENT = select(null().label("item"), null().label("role"), null().label("data"), t.resources.c.properties).where(
    t.resources.c.pool == bindparam("pool"), t.resources.c.name == bindparam("resource")
)


def of(connection: Connection, order: RunHook) -> Briefing:
    """Put together what the hook that `order` names is told."""
    lease = connection.execute(_LEASE, {"lease": order.lease}).one_or_none() if order.lease else None
    grants = connection.execute(_GRANTS, {"lease": order.lease}).all()
    touched = {(held.pool, held.resource) for held in order.holds} or {(order.pool, order.resource)}
    if order.lease and (lease is None or not touched <= {(row.pool, row.resource) for row in grants}):
        raise LeaseUnknown(f"the database knows no lease {order.lease} of {order.pool}/{order.resource}")
    spec = specs.load(connection, {order.spec})[order.spec]
    if _is_ahead(spec, grants, order):
        # For whoever comes next: what the last holder wanted, and has told us, is no business of theirs.
        lease, grants = None, []
    about = _about(connection, grants, order)
    instance = instances.of(connection, order.pool, order.resource) if order.resource else None
    return Briefing(
        hook=spec.stages[StageName(order.stage)][order.hook],
        folder=spec.folder,
        env={
            **_environment(lease, about, order),
            **_numbers(instance, about),
            "LEASEHOLD_SECRETS": _json(_secrets(connection, lease, order)),
        },
        lease_file=_json(_document(lease, _still_its_own(grants, about)) if lease else {}).encode(),
    )


def _is_ahead(spec: PoolSpec, grants: Sequence[Row[Any]], order: RunHook) -> bool:
    """Whether a resource that nobody has any more is prepared for the next one."""
    if not order.resource or not spec.policy.prepares_ahead or order.stage not in PREPARE_AHEAD:
        return False
    return not any((row.pool, row.resource, row.closed_at) == (order.pool, order.resource, None) for row in grants)


def _secrets(connection: Connection, lease: Row[Any] | None, order: RunHook) -> dict[str, str]:
    """Those of the lease; a livecheck, which needs none, may still run when somebody else has the resource."""
    if lease is None or order.stage == StageName.LIVECHECK:
        return {}
    return dict(envelopes.of(connection, lease.id).secrets)


def of_check(connection: Connection, spec_id: int, held: HeldResource) -> Briefing | None:
    """Put together what a livecheck is told; None if the resource has gone to other hands meanwhile."""
    epoch = select(t.resources.c.epoch).where(t.resources.c.pool == held.pool, t.resources.c.name == held.resource)
    if connection.execute(epoch).scalar() != held.epoch:
        return None
    holder = select(t.grants.c.lease).where(
        t.grants.c.pool == held.pool, t.grants.c.resource == held.resource, t.grants.c.closed_at.is_(None)
    )
    order = RunHook(
        lease=connection.execute(holder).scalar() or "",
        pool=held.pool,
        resource=held.resource,
        epoch=held.epoch,
        spec=spec_id,
        stage=StageName.LIVECHECK,
        hook=0,
        attempt=1,
        timeout_s=0,
        last=False,
    )
    return of(connection, order)


def of_listing(connection: Connection, order: ListPool) -> Briefing:
    """Put together what a listing is told: it is about no resource."""
    spec = specs.load(connection, {order.spec})[order.spec]
    env = {
        **dict.fromkeys(("LEASE", "NUMBER", "OWNER", "RESOURCE", "ROLE", "EPOCH", "RESOURCE_DATA"), ""),
        "POOL": order.pool,
        "STAGE": str(StageName.LIST),
        "ATTEMPT": "1",
        "PROPERTIES": "{}",
        "PARAMS": "{}",
        "SECRETS": "{}",
    }
    return Briefing(
        hook=spec.stages[StageName.LIST][0],
        folder=spec.folder,
        env={**{f"LEASEHOLD_{name}": value for name, value in env.items()}, "RESALLOC_POOL_ID": order.pool},
        lease_file=b"{}",
    )


def of_request(connection: Connection, question: AskHook) -> Briefing:
    """Put together what an `admit` hook is told of a request: its file says all of it."""
    request, spec = question.request, specs.load(connection, {question.spec})[question.spec]
    document: dict[str, Any] = {
        "id": request.lease,
        "number": None,
        "owner": request.owner,
        "cc": list(request.cc),
        "description": request.description,
        "items": specs.items_to_json(request.items),
        "duration": request.duration,
        "start_at": request.start_at.isoformat() if request.start_at else None,
        "self_service": request.self_service,
        "unverified": request.unverified,
        "resources": [],
    }
    if request.command is not None:
        document |= {
            "priority": request.priority,
            "command": {
                "run": request.command.argv[0] if request.command.shell else list(request.command.argv),
                "line": request.command.line,
                "folder": request.command.folder,
            },
            "queued": commands.queued(connection, question.pool),
        }
    nothing = dict.fromkeys(("NUMBER", "RESOURCE", "ROLE", "EPOCH", "RESOURCE_DATA"), "")
    env = {
        **nothing,
        "LEASE": request.lease,
        "OWNER": request.owner,
        "POOL": question.pool,
        "STAGE": ADMIT,
        "ATTEMPT": str(question.attempt),
        "PROPERTIES": "{}",
        "PARAMS": "{}",
        "SECRETS": "{}",
    }
    return Briefing(
        hook=spec.admit[question.hook],
        folder=spec.folder,
        env={f"LEASEHOLD_{name}": value for name, value in env.items()},
        lease_file=_json(document).encode(),
    )


def _still_its_own(grants: Sequence[Row[Any]], about: Row[Any] | None) -> list[Row[Any]]:
    """What a lease holds, or held at last, with what the hook is about.

    What failed and was replaced is not the lease's any more, nor is what it gave back: nobody may touch it.
    """
    held = [row for row in grants if row.closed_at is None] or [row for row in grants if row.ready_at is not None]
    return [row for row in grants if row in held or row is about]


def _about(connection: Connection, grants: Sequence[Row[Any]], order: RunHook) -> Row[Any] | None:
    """The grant of the hook's resource, or, in the recycling after it, the last that the lease had of it.

    The resource alone where it was never lent, None where the hook is for a whole lease.
    """
    if not order.resource:
        return None
    mine = [row for row in grants if (row.pool, row.resource) == (order.pool, order.resource)]
    if mine:
        return mine[-1]
    return connection.execute(_NEVER_LENT, {"pool": order.pool, "resource": order.resource}).one_or_none()


def _environment(lease: Row[Any] | None, about: Row[Any] | None, order: RunHook) -> dict[str, str]:
    """The hook's environment, without a lease where there was none yet, without a resource for a whole lease."""
    params = (
        specs.items_from_json(lease.wanted)[about.item].params if lease and about and about.item is not None else {}
    )
    data = about.data if about else None
    return {
        "LEASEHOLD_LEASE": lease.id if lease else "",
        "LEASEHOLD_NUMBER": str(lease.number) if lease else "",
        "LEASEHOLD_OWNER": lease.owner if lease else "",
        "LEASEHOLD_POOL": order.pool,
        "LEASEHOLD_RESOURCE": order.resource,
        "LEASEHOLD_ROLE": (about.role or "") if about else "",
        "LEASEHOLD_EPOCH": str(order.epoch),
        "LEASEHOLD_STAGE": order.stage,
        "LEASEHOLD_ATTEMPT": str(order.attempt),
        "LEASEHOLD_PROPERTIES": _json((about.properties if about else None) or {}),
        "LEASEHOLD_PARAMS": _json(dict(params)),
        "LEASEHOLD_RESOURCE_DATA": _base64(data),
        "RESALLOC_NAME": order.resource,
        "RESALLOC_POOL_ID": order.pool,
        "RESALLOC_RESOURCE_DATA": _base64(data),
    }


def _numbers(instance: Row[Any] | None, about: Row[Any] | None) -> dict[str, str]:
    """What a hook is told of a resource that its pool has made; by the names of resalloc, whose hooks run unchanged."""
    if instance is None:
        return {}
    data = instance.data if about is None or about.data is None else about.data
    counters = {f"RESALLOC_NAMED_COUNTER_{name}": str(value) for name, value in instance.counters.items()}
    return {
        "LEASEHOLD_RESOURCE_DATA": _base64(data),
        "RESALLOC_RESOURCE_DATA": _base64(instance.data),
        # One that was found by a listing has none, and resalloc says so in these words.
        "RESALLOC_ID": str(instance.number or 0),
        "RESALLOC_ID_IN_POOL": str(instance.place),
        **counters,
    }


def _document(lease: Row[Any], grants: Sequence[Row[Any]]) -> dict[str, Any]:
    items = specs.items_from_json(lease.wanted)
    return {
        "id": lease.id,
        "number": lease.number,
        "owner": lease.owner,
        "description": lease.description,
        "items": lease.wanted,
        "resources": [
            {
                "pool": row.pool,
                "name": row.resource,
                "role": row.role,
                "item": row.item,
                "params": dict(items[row.item].params),
                "skip": list(items[row.item].skip),
                "epoch": row.epoch,
                "tags": row.tags or [],
                "properties": row.properties or {},
                "data": _base64(row.data),
            }
            for row in grants
        ],
    }


def _base64(data: bytes | None) -> str:
    return b64encode(data or b"").decode()


def _json(value: object) -> str:
    # Escapes would make a text of many scripts longer than an environment variable may be.
    return json.dumps(value, ensure_ascii=False)
