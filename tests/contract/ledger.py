"""Checks a database against what must hold at any time, whoever did what to it.

Worth its name only because it finds the faults when the allocation lock is taken out (`test_store_races`).
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from leasehold import allocation, selfservice
from leasehold.allocation import Candidate, Key, Want
from leasehold.model import Item, Policy
from leasehold.store import catalogue, lanes, matching, rules, specs, stock
from leasehold.store import tables as t
from leasehold.store.history import History
from leasehold.store.store import SqlStore


async def faults(store: SqlStore) -> list[str]:
    """Everything in the store's database that must not be."""
    return await store.database.read(lambda c: of(c, store.database.now(c)))


def of(connection: Connection, now: datetime) -> list[str]:
    """The same, of a database that one is connected to."""
    leases = {row.id: row for row in connection.execute(select(t.leases))}
    resources = {(row.pool, row.name): row for row in connection.execute(select(t.resources))}
    grants = connection.execute(select(t.grants)).all()
    open_grants = [grant for grant in grants if grant.closed_at is None]
    return [
        *_of_grants(open_grants, leases, resources),
        *_of_leases(grants, leases, suspended=_was_suspended(connection)),
        *_of_waiters(connection, now),
        *_of_promises(connection),
        *_of_heartbeats(connection, leases),
        *_of_slots(connection, leases),
        *_of_kinds(connection),
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


def _of_waiters(connection: Connection, now: datetime) -> list[str]:
    """Nobody waits who could be served, looked at one after the other; and whoever waits is found by the matcher."""
    rows = connection.execute(
        select(t.leases, t.queue.c.passed, t.queue.c.since, t.queue.c.lane, t.queue.c.start_at.label("reserved_from"))
        .outerjoin(t.queue, t.queue.c.lease == t.leases.c.id)
        .where(t.leases.c.waiting)
        .order_by(t.queue.c.start_at.is_(None), t.leases.c.priority.desc(), t.leases.c.number)
    ).all()
    queued = set(connection.execute(select(t.queue.c.lease)).scalars())
    found = [f"in the queue or not: {lease}" for lease in queued ^ {row.id for row in rows}]
    free, held = _free(connection), list[Want]()
    policies, paused = _policies(connection), catalogue.current(connection).paused
    free = [candidate for candidate in free if candidate.pool not in paused]
    for row in rows:
        items = _awaited(row)
        owner = selfservice.counted_for(row.owner, unverified=row.unverified)
        promised = lanes.is_promised(row.state, self_service=row.self_service)
        if row.lane != lanes.lane(owner, items, row.id if row.reserved_from else None, promised=promised):
            found.append(f"{row.id} is in the wrong lane")
        if row.reserved_from is not None and row.reserved_from > now:
            continue
        named = {item.pool for item in items}
        mine = list(policies.values()) if None in named else [p for pool, p in policies.items() if pool in named]
        if not named.isdisjoint(paused):
            continue
        if row.self_service and (rules.forced(connection) or catalogue.current(connection).rules):
            # Whether it is open to it is not looked at here.
            continue
        # One whose reservation is due could begin a moment ago: its workflow wakes now.
        due = row.reserved_from is not None
        wants = [Want(item=item, barred=_promised_before(connection, row, named, now)) for item in items]
        if any(policy.has_quota or policy.fair_share for policy in mine):
            # Whether it could be served is not looked at here; something may be held for it.
            held += allocation.hold(wants, held, free)
            continue
        if allocation.assign([*wants, *held], free) is not None and not due:
            found.append(f"{row.id} waits and could be served")
        if due or (row.passed is not None and row.passed >= min((policy.overtakes for policy in mine), default=2**31)):
            held += allocation.hold(wants, held, free)
    # Whoever was cancelled in the queue is still known as one who wanted of those pools.
    still = select(t.waits).join(t.leases).where(t.leases.c.state != "ended")
    noted = {(row.lease, row.pool) for row in connection.execute(still)}
    wanted = {(row.id, pool) for row in rows for pool in matching.wanted_pools(_awaited(row))}
    if not wanted <= noted:
        found.append(f"nobody would look for {wanted - noted} when something is freed")
    return found


def _promised_before(connection: Connection, lease: Row[Any], pools: set[str | None], now: datetime) -> set[Key]:
    """What is promised to others before a lease would have given it back, were it granted now."""
    known = catalogue.current(connection)
    named = set(known.specs) if None in pools else {pool for pool in pools if pool is not None}
    lasts = History(connection, known.specs, max).occupying(named, timedelta(seconds=lease.duration_s))
    mine = _promises_of(connection, lease.id)
    others = connection.execute(select(t.promises).where(t.promises.c.lease != lease.id))
    return {(row.pool, row.resource) for row in others if row.begins < now + lasts} - mine


def _promises_of(connection: Connection, lease: str) -> set[Key]:
    rows = connection.execute(select(t.promises).where(t.promises.c.lease == lease))
    return {(row.pool, row.resource) for row in rows}


def _of_promises(connection: Connection) -> list[str]:
    """Nothing is promised twice for the same time, and only what a reservation wants that waits."""
    rows = connection.execute(select(t.promises).order_by(t.promises.c.begins)).all()
    found = []
    last: dict[Key, Row[Any]] = {}
    for row in rows:
        key = (row.pool, row.resource)
        if key in last and last[key].ends > row.begins:
            found.append(f"{key} is promised to {last[key].lease} and {row.lease} at the same time")
        last[key] = row
    waiting = {row.id: row for row in connection.execute(select(t.leases).where(t.leases.c.waiting))}
    for lease, many in Counter(row.lease for row in rows).items():
        wanted = sum(item.count for item in _awaited(waiting[lease])) if lease in waiting else 0
        if many != wanted:
            found.append(f"{lease} is promised {many}, and waits for {wanted}")
    return found


def _free(connection: Connection) -> list[Candidate]:
    """All that is free, each resource by itself."""
    rows = connection.execute(select(t.resources).where(*stock.GRANTABLE)).all()
    return [stock.as_candidate(row) for row in rows]


def _policies(connection: Connection) -> dict[str, Policy]:
    pools = connection.execute(select(t.pools.c.name, t.pools.c.spec)).all()
    return {pool.name: specs.load(connection, {pool.spec})[pool.spec].policy for pool in pools}


def _of_kinds(connection: Connection) -> list[str]:
    """Whoever looks for a kind finds all of it, and a grant is counted for its owner."""
    rows = connection.execute(select(t.resources)).all()
    found = [
        f"{row.pool}/{row.name} is of another kind"
        for row in rows
        if row.kind != catalogue.kind_of(row.pool, row.tags, row.properties)
    ]
    theirs = select(t.grants.c.id).join(t.leases, t.leases.c.id == t.grants.c.lease)
    wrong = connection.execute(theirs.where(t.grants.c.owner != t.leases.c.owner, ~t.leases.c.unverified)).all()
    return found + [f"grant {row.id} is counted for somebody else" for row in wrong]


def _awaited(lease: Row[Any]) -> tuple[Item, ...]:
    wanted = specs.items_from_json(lease.wanted)
    awaited = wanted if lease.missing is None else tuple(lanes.missing(wanted, lease.missing).values())
    return selfservice.narrowed(awaited) if lease.self_service else awaited


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
