"""Checks a database against what must hold at any time, whoever did what to it.

Worth its name only because it finds the faults when the allocation lock is taken out (`test_store_races`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, Row, select

from leasehold import allocation
from leasehold.allocation import Waiter
from leasehold.model import Item
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
    grants = connection.execute(select(t.grants)).all()
    open_grants = [grant for grant in grants if grant.closed_at is None]
    return [
        *_of_grants(open_grants, leases, resources),
        *_of_leases(grants, leases, suspended=_was_suspended(connection)),
        *_of_waiters(connection),
        *_of_heartbeats(connection, leases),
        *_of_slots(connection, leases),
    ]


def _of_grants(grants: Any, leases: dict[str, Row[Any]], resources: dict[tuple[str, str], Row[Any]]) -> list[str]:
    found = []
    holders = Counter((grant.pool, grant.resource) for grant in grants)
    found += [f"{key} is granted {many} times" for key, many in holders.items() if many > 1]
    for grant in grants:
        lease, resource = leases[grant.lease], resources.get((grant.pool, grant.resource))
        leased = resource is not None and (resource.state, resource.epoch) == ("leased", grant.epoch)
        awaited = resource is not None and resource.state == "broken" and lease.state == "preparing"
        if not leased and not awaited:
            found.append(f"{grant.lease} holds {grant.pool}/{grant.resource}, which does not know of it")
        if lease.state not in {"preparing", "active"}:
            found.append(f"{grant.lease} is {lease.state} and holds {grant.resource}")
    for key, resource in resources.items():
        if resource.state == "leased" and key not in holders:
            found.append(f"{key} is leased, and nobody holds it")
    return found


def _was_suspended(connection: Connection) -> bool:
    """Whether numbers were left out, because people may have been told them."""
    suspensions = select(t.events.c.id).where(t.events.c.kind == "matching_suspended")
    return connection.execute(suspensions.limit(1)).first() is not None


def _of_leases(grants: Any, leases: dict[str, Row[Any]], *, suspended: bool) -> list[str]:
    held = Counter(grant.lease for grant in grants if grant.closed_at is None)
    ever = Counter(grant.lease for grant in grants)
    ready = Counter(grant.lease for grant in grants if grant.closed_at is None and grant.ready_at is not None)
    found = []
    for lease in leases.values():
        wanted = sum(item.count for item in specs.items_from_json(lease.wanted))
        missing = len(lease.missing or ())
        where = f"{lease.id} is {lease.state} and holds {held[lease.id]} of {wanted}"
        if lease.state not in {"preparing", "active"} and held[lease.id]:
            found.append(where)
        if lease.state == "preparing" and held[lease.id] + missing != wanted:
            found.append(f"{where}, with {missing} to come")
        if lease.state == "active" and (missing or not ready[lease.id]):
            found.append(f"{where}, {ready[lease.id]} of them ready, with {missing} to come")
        if lease.state in {"preparing", "active"} and ever[lease.id] != wanted + lease.replaced - missing:
            found.append(f"{where}, had {ever[lease.id]} in all, and {lease.replaced} were replaced")
        if lease.waiting and not (lease.state == "queued" or missing):
            found.append(f"{where} and waits for nothing")
    numbers = sorted(lease.number for lease in leases.values())
    if numbers != list(range(1, len(numbers) + 1)) and not suspended:
        found.append(f"the numbers have gaps: {numbers}")
    return found


def _of_waiters(connection: Connection) -> list[str]:
    """Nobody waits who could be served, and whoever waits is found by the matcher."""
    rows = connection.execute(select(t.leases).where(t.leases.c.waiting)).all()
    waiting = [Waiter(lease=row.id, items=_awaited(row)) for row in rows]
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


def _awaited(lease: Row[Any]) -> tuple[Item, ...]:
    wanted = specs.items_from_json(lease.wanted)
    return wanted if lease.missing is None else tuple(matching.missing(wanted, lease.missing).values())


def _of_heartbeats(connection: Connection, leases: dict[str, Row[Any]]) -> list[str]:
    """None is expected of a lease that is over, or of a request that was refused."""
    expected = set(connection.execute(select(t.heartbeats.c.lease)).scalars())
    answered = set(connection.execute(select(t.requests.c.lease)).scalars())
    over = {lease for lease in expected & set(leases) if leases[lease].state in {"releasing", "ended"}}
    refused = expected & answered - set(leases)
    return [f"{lease} is over, and expects heartbeats" for lease in sorted(over | refused)]


def _of_slots(connection: Connection, leases: dict[str, Row[Any]]) -> list[str]:
    """No limiter is idle while somebody waits for it, and what has ended has no slot."""
    sizes = {row.name: row.size for row in connection.execute(select(t.limiters))}
    slots = connection.execute(select(t.slots)).all()
    taken = Counter(slot.limiter for slot in slots if slot.taken_at is not None)
    found = []
    for limiter in {slot.limiter for slot in slots if slot.taken_at is None}:
        if limiter not in sizes or taken[limiter] < sizes[limiter]:
            found.append(f"somebody waits for {limiter}, of which {taken[limiter]} are taken")
    found += [
        f"{slot.workflow} has ended, and has a slot of {slot.limiter}"
        for slot in slots
        if slot.workflow in leases and leases[slot.workflow].state == "ended"
    ]
    return found
