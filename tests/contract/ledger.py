"""Checks a database against what must hold at any time, whoever did what to it.

Worth its name only because it finds the faults when the allocation lock is taken out (`test_store_races`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, Row, select

from leasehold import allocation
from leasehold.allocation import Waiter
from leasehold.store import matching, specs
from leasehold.store import tables as t
from leasehold.store.store import SqlStore


async def faults(store: SqlStore) -> list[str]:
    """Everything in the store's database that must not be."""
    return await store.database.read(of)


def of(connection: Connection) -> list[str]:
    """The same, of a database that one is connected to."""
    leases = {row.id: row for row in connection.execute(select(t.leases))}
    resources = {(row.pool, row.name): row for row in connection.execute(select(t.resources))}
    open_grants = connection.execute(select(t.grants).where(t.grants.c.closed_at.is_(None))).all()
    return [
        *_of_grants(open_grants, leases, resources),
        *_of_leases(connection, leases),
        *_of_waiters(connection),
    ]


def _of_grants(grants: Any, leases: dict[str, Row[Any]], resources: dict[tuple[str, str], Row[Any]]) -> list[str]:
    found = []
    holders = Counter((grant.pool, grant.resource) for grant in grants)
    found += [f"{key} is granted {many} times" for key, many in holders.items() if many > 1]
    for grant in grants:
        resource = resources.get((grant.pool, grant.resource))
        # What waits for its repair has a grant as well.
        if resource is not None and resource.state in {"broken", "recycling"} and resource.epoch > grant.epoch:
            continue
        if resource is None or (resource.state, resource.epoch) != ("leased", grant.epoch):
            found.append(f"{grant.lease} holds {grant.pool}/{grant.resource}, which does not know of it")
        if leases[grant.lease].state not in {"preparing", "active"}:
            found.append(f"{grant.lease} is {leases[grant.lease].state} and holds {grant.resource}")
    for key, resource in resources.items():
        if resource.state == "leased" and key not in holders:
            found.append(f"{key} is leased, and nobody holds it")
    return found


def _was_suspended(connection: Connection) -> bool:
    """Whether numbers were left out, because people may have been told them."""
    suspensions = select(t.events.c.id).where(t.events.c.kind == "matching_suspended")
    return connection.execute(suspensions.limit(1)).first() is not None


def _of_leases(connection: Connection, leases: dict[str, Row[Any]]) -> list[str]:
    """Each holds what it wants, but for what it lacks a replacement of, was refused or gave back."""
    grants = connection.execute(select(t.grants.c.lease, t.grants.c.closed_at)).all()
    held = Counter(grant.lease for grant in grants if grant.closed_at is None)
    closed = Counter(grant.lease for grant in grants if grant.closed_at is not None)
    found = []
    for lease in leases.values():
        wanted = sum(item.count for item in specs.items_from_json(lease.wanted))
        lacking = closed[lease.id] - lease.replaced + len(lease.missing or ())
        due = wanted - lacking if lease.state in {"preparing", "active"} else 0
        if lease.state == "active" and due == 0:
            found.append(f"{lease.id} is active and holds nothing")
        if held[lease.id] != due:
            found.append(f"{lease.id} is {lease.state} and holds {held[lease.id]} of {wanted}")
    numbers = sorted(lease.number for lease in leases.values())
    if numbers != list(range(1, len(numbers) + 1)) and not _was_suspended(connection):
        found.append(f"the numbers have gaps: {numbers}")
    return found


def _of_waiters(connection: Connection) -> list[str]:
    """Nobody waits who could be served, and whoever waits is found by the matcher."""
    query = select(t.leases.c.id, t.leases.c.wanted).where(t.leases.c.state == "queued")
    waiting = [Waiter(lease=row.id, items=specs.items_from_json(row.wanted)) for row in connection.execute(query)]
    found = [
        f"{waiter.lease} waits and could be served"
        for waiter in waiting
        if allocation.assign(waiter.items, matching.candidates(connection, [waiter])) is not None
    ]
    # Whoever was cancelled in the queue is still known as one who wanted of those pools.
    still = select(t.waits).join(t.leases).where(t.leases.c.state != "ended")
    noted = {(row.lease, row.pool) for row in connection.execute(still)}
    wanted = {(waiter.lease, pool) for waiter in waiting for pool in matching.wanted_pools(waiter.items)}
    if not wanted <= noted:
        found.append(f"nobody would look for {wanted - noted} when something is freed")
    return found
