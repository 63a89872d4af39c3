"""What the sweep reads and writes: passes with their marks, what depends on a workflow, and what disagrees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select, update

from leasehold import healing
from leasehold.healing import AlertKey, ClosePass, DeadRecycling, Identity, Mark, Opened, PassReport
from leasehold.holdings import RECYCLE, Holding
from leasehold.messages import Errand, recycle_id
from leasehold.model import OVER, PREPARE_AHEAD, Alert, LeaseState, ResourceState
from leasehold.ports import OpenLease
from leasehold.rebuilding import Books, Census, Rebuilt, Suspension
from leasehold.store import (
    alerts,
    catalogue,
    demand,
    events,
    facts,
    instances,
    limiters,
    matching,
    moves,
    outbox,
    rebuilding,
    reuse,
    runs,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.engine import Database, Tx, Undone

TEMPORAL, SWEEP, HOUR = "temporal", "sweep", "hour"
_SKIPPED_NUMBERS = 1000
"""How many numbers of leases are left out after a restore: those that people were told since the copy was made."""
_MOST_RECYCLINGS = 4
"""How often a resource's recycling begins after one lease before it is taken to be broken."""

Write = Callable[..., Awaitable[Any]]


class SqlHealing:
    """The part of the store that heals; see `leasehold.ports.Healing` for what each call means."""

    def __init__(self, database: Database, write: Write) -> None:
        self._database = database
        self._write = write

    async def open_pass(self, now: Identity, previous: Mark | None) -> Opened:
        opened: Opened = await self._write(open_pass, now, previous)
        return opened

    async def close_pass(self, order: ClosePass) -> tuple[PassReport, list[Alert]]:
        closed: tuple[PassReport, list[Alert]] = await self._write(close_pass, order)
        return closed

    async def open_leases(self, after: int, limit: int) -> list[OpenLease]:
        return await self._database.read(open_leases, after, limit)

    async def known(self, leases: Collection[str]) -> dict[str, OpenLease | None]:
        return await self._database.read(known, leases)

    async def holdings(self, lease: str) -> set[Holding]:
        return await self._database.read(holdings, lease)

    async def recyclings(self) -> list[Holding]:
        return await self._database.read(recyclings)

    async def epochs(self, of: Collection[Holding]) -> dict[tuple[str, str], int]:
        return await self._database.read(epochs, of)

    async def recycle_again(self, dead: DeadRecycling) -> None:
        await self._write(recycle_again, dead)

    async def alerts(self) -> list[Alert]:
        return await self._database.read(alerts.standing)

    async def suspension(self) -> Suspension | None:
        return await self._database.read(rebuilding.suspension)

    async def check_temporal(self, now: Identity, *, accept: bool) -> str | None:
        said: str | None = await self._write(check_temporal, now, accept=accept)
        return said

    async def books(self, leases: Collection[str]) -> tuple[Books, datetime]:
        return await self._database.read(lambda c: (rebuilding.books(c, leases), self._database.now(c)))

    async def rebuild(self, census: Census, seen: Books, *, actor: str, accept_lost: bool, dry_run: bool) -> Rebuilt:
        def work(tx: Tx) -> Rebuilt:
            rebuilt = rebuilding.rebuild(tx, census, seen, actor=actor, accept_lost=accept_lost)
            if dry_run:
                raise Undone(rebuilt)
            return rebuilt

        try:
            rebuilt: Rebuilt = await self._write(work)
        except Undone as undone:
            rebuilt = undone.result
        return rebuilt


# Passes


def check_temporal(tx: Tx, now: Identity, *, accept: bool) -> str | None:
    """Say how this Temporal differs from the one that was known, if it does; the first one is noted down."""
    plain = facts.get(tx.connection, TEMPORAL)
    if plain is None or accept:
        if plain != asdict(now):
            facts.put(tx, TEMPORAL, asdict(now))
            events.record(tx, "temporal_accepted", data={"before": plain, "now": asdict(now)})
        if accept:
            alerts.settle(tx, AlertKey.TEMPORAL_CHANGED, None)
        return None
    known_one = Identity(**plain)
    return healing.changed(now, known_one) if now.differs(known_one) else None


def open_pass(tx: Tx, now: Identity, previous: Mark | None) -> Opened:
    """Begin a pass: which Temporal is it, and is the database as new as what Temporal remembers?"""
    changed = check_temporal(tx, now, accept=False)
    mine = mark(tx.connection)
    suspended = facts.suspended(tx.connection)
    if suspended is None and changed is None and previous is not None:
        suspended = healing.behind(mine, previous)
        if suspended is not None:
            suspend(tx, suspended, previous)
    return Opened(
        passes=max(mine.passes if mine else 0, previous.passes if previous and not changed else 0),
        hourly=facts.get(tx.connection, HOUR) != _hour(tx),
        changed=changed,
        suspended=suspended,
    )


def mark(connection: Connection) -> Mark | None:
    """How far the sweep had come when this database was written last."""
    plain = facts.get(connection, SWEEP)
    return None if plain is None else Mark(passes=plain["passes"], number=plain["number"])


def _hour(tx: Tx) -> str:
    return tx.now.replace(minute=0, second=0, microsecond=0).isoformat()


def suspend(tx: Tx, reason: str, previous: Mark | None = None) -> None:
    """Grant nothing any more, until the records are rebuilt."""
    copied = facts.get(tx.connection, SWEEP)
    fact = {
        "reason": reason,
        "since": tx.now.isoformat(),
        "copied_at": copied["at"] if copied else None,
        "passes": previous.passes if previous else None,
    }
    facts.put(tx, facts.SUSPENSION, fact)
    number = max(rebuilding.last_number(tx.connection), previous.number if previous else 0) + _SKIPPED_NUMBERS
    tx.execute(update(t.counters).where(t.counters.c.name == "lease").values(value=number))
    instances.skip(tx, _SKIPPED_NUMBERS)
    events.record(tx, "matching_suspended", reason=reason, data={"numbers_go_on_after": number})


def close_pass(tx: Tx, order: ClosePass) -> tuple[PassReport, list[Alert]]:
    """Write down how a pass went; return the alerts that were raised by it, or once an hour, all that stand."""
    if order.suspend is not None and facts.suspended(tx.connection) is None:
        suspend(tx, order.suspend)
    suspended = facts.suspended(tx.connection)
    told = suspended and f"nothing is granted: {suspended}. Rebuild the records: leasehold reconcile"
    settled = {
        **order.alerts,
        AlertKey.DATABASE_OLDER: told,
        AlertKey.OUTBOX_STUCK: _stuck(tx, timedelta(seconds=order.patience_s)),
        AlertKey.RECORDS_DISAGREE: _disagreement(tx.connection),
    }
    raised = {key for key, detail in settled.items() if alerts.settle(tx, key, detail)}
    passes, number = order.passes, rebuilding.last_number(tx.connection)
    if suspended is None and settled.get(AlertKey.TEMPORAL_CHANGED) is None:
        passes += 1
        facts.put(tx, SWEEP, {"passes": passes, "number": number, "at": tx.now.isoformat()})
        runs.close_abandoned(tx)
    if suspended is None:
        _tend_all(tx)
    if order.hourly:
        facts.put(tx, HOUR, _hour(tx))
    standing = alerts.standing(tx.connection)
    report = PassReport(mark=Mark(passes=passes, number=number), alerts=tuple(a.key for a in standing))
    return report, [one for one in standing if order.hourly or one.key in raised]


def _tend_all(tx: Tx) -> None:
    """Have all pools looked after that need it, whatever became of their workflows."""
    made = select(t.resources.c.pool).where(demand.IS_TENDED).distinct()
    tended = {pool for pool, spec in catalogue.current(tx.connection).specs.items() if spec.is_tended}
    for pool in sorted(tended.union(tx.execute(made).scalars())):
        outbox.tend(tx, pool)


# What depends on a workflow

_OPEN = [state for state in LeaseState if state is not LeaseState.ENDED]
_LEASE = select(t.leases.c.id, t.leases.c.number, t.leases.c.state, t.leases.c.granted_at, t.leases.c.ended_at)


def open_leases(connection: Connection, after: int, limit: int) -> list[OpenLease]:
    """The leases that have not ended, after one of them, in order of their numbers."""
    query = _LEASE.where(t.leases.c.state.in_(_OPEN), t.leases.c.number > after)
    return [_lease(row) for row in connection.execute(query.order_by(t.leases.c.number).limit(limit))]


def known(connection: Connection, leases: Collection[str]) -> dict[str, OpenLease | None]:
    """What the record says of these leases; None of one that was refused. What it does not know is left out."""
    refused = select(t.requests.c.lease).where(t.requests.c.lease.in_(leases), t.requests.c.refusal.is_not(None))
    found: dict[str, OpenLease | None] = dict.fromkeys(connection.execute(refused).scalars())
    found.update({row.id: _lease(row) for row in connection.execute(_LEASE.where(t.leases.c.id.in_(leases)))})
    return found


def _lease(row: Any) -> OpenLease:
    return OpenLease(
        id=row.id,
        number=row.number,
        state=LeaseState(row.state),
        granted_at=row.granted_at,
        ended_at=row.ended_at,
    )


def holdings(connection: Connection, lease: str) -> set[Holding]:
    """What a lease holds by the record."""
    query = select(t.grants).where(t.grants.c.lease == lease, t.grants.c.closed_at.is_(None))
    return {Holding(pool=row.pool, resource=row.resource, epoch=row.epoch) for row in connection.execute(query)}


def recyclings(connection: Connection) -> list[Holding]:
    """The resources in recycling, or being created or deleted, whose workflow must have been started."""
    waiting = {
        (posted.start.claim.pool, posted.start.claim.resource, posted.start.claim.epoch)
        for posted in outbox.due(connection, limit=100_000)
        if isinstance(posted.start, Errand)
    }
    query = select(t.resources).where(t.resources.c.state.in_(_ERRANDS))
    rows = connection.execute(query.order_by(t.resources.c.pool, t.resources.c.name))
    return [
        Holding(pool=row.pool, resource=row.name, epoch=row.epoch, errand=_ERRANDS[row.state])
        for row in rows
        if (row.pool, row.name, row.epoch) not in waiting
    ]


_ERRANDS = {
    ResourceState.RECYCLING: RECYCLE,
    ResourceState.CREATING: "create",
    ResourceState.DELETING: "delete",
}
"""What workflow a resource in each of these states is in."""


def epochs(connection: Connection, of: Collection[Holding]) -> dict[tuple[str, str], int]:
    """The epochs at which the record has these resources, as far as it knows them."""
    wanted = {(one.pool, one.resource) for one in of}
    query = select(t.resources.c.pool, t.resources.c.name, t.resources.c.epoch).where(
        t.resources.c.pool.in_({pool for pool, _ in wanted}), t.resources.c.name.in_({name for _, name in wanted})
    )
    return {(row.pool, row.name): row.epoch for row in connection.execute(query) if (row.pool, row.name) in wanted}


# Putting right


def recycle_again(tx: Tx, dead: DeadRecycling) -> None:
    """Begin the recycling of a resource again under a new epoch.

    One that never comes to an end, or that Temporal does not know, is quarantined.
    """
    resource = moves.row_of(tx, dead.pool, dead.resource)
    if resource is None or resource.epoch != dead.epoch:
        return
    if resource.state in (ResourceState.CREATING, ResourceState.DELETING):
        # What it may have made goes, by its name; another is made where one is wanted.
        limiters.give_all(tx, dead.holding.id)
        moves.delete(tx, resource, lease=None, reason=f"its workflow was {dead.how or 'lost'}")
        return
    if resource.state != ResourceState.RECYCLING:
        return
    if dead.how is None:
        moves.quarantine(tx, resource, "Temporal does not know its recycling", lease=None)
        return
    limiters.give_all(tx, recycle_id(dead.pool, dead.resource, dead.epoch))
    held = (t.grants.c.pool == dead.pool, t.grants.c.resource == dead.resource)
    last = tx.execute(select(t.grants).where(*held).order_by(t.grants.c.id.desc()).limit(1)).one_or_none()
    lease: str | None = last.lease if last else None
    reason = f"its recycling was {dead.how} before it had come to an end"
    if _begun(tx.connection, dead, last.granted_at if last else None) >= _MOST_RECYCLINGS:
        moves.quarantine(tx, resource, f"{reason}, again and again", lease=lease)
        return
    events.record(
        tx, "recycling_again", lease=lease, pool=dead.pool, resource=dead.resource, actor="leasehold", reason=reason
    )
    if last is not None:
        reuse.recycle(tx, resource, last.spec, specs.load(tx.connection, {last.spec})[last.spec], lease=lease)
    else:
        # It was being prepared ahead of its first lease.
        spec_id, spec = specs.in_force(tx.connection, dead.pool)
        reuse.recycle(tx, resource, spec_id, spec, lease=None, stages=PREPARE_AHEAD)
    matching.match(tx, {dead.pool})


def _begun(connection: Connection, dead: DeadRecycling, since: datetime | None) -> int:
    """How often the resource's recycling has begun since its last grant, if it had one."""
    query = (
        select(func.count())
        .select_from(t.events)
        .where(
            t.events.c.pool == dead.pool,
            t.events.c.resource == dead.resource,
            t.events.c.kind == "resource_recycling",
        )
    )
    if since is not None:
        query = query.where(t.events.c.at >= since)
    many: int = connection.execute(query).scalar_one()
    return many


# What the database tells by itself


def _stuck(tx: Tx, patience: timedelta) -> str | None:
    """What has not been delivered for too long, and why."""
    late = (t.outbox.c.delivered_at.is_(None), t.outbox.c.at < tx.now - patience)
    rows = tx.execute(select(t.outbox).where(*late).order_by(t.outbox.c.id)).all()
    if not rows:
        return None
    why = next((row.trouble for row in rows if row.trouble), None) or "no worker has tried to"
    since = rows[0].at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{len(rows)} messages to workflows are not delivered, the first since {since}: {why}"


def _disagreement(connection: Connection) -> str | None:
    """What the database itself should make impossible."""
    granted = (
        select(t.grants.c.id)
        .where(
            t.grants.c.pool == t.resources.c.pool,
            t.grants.c.resource == t.resources.c.name,
            t.grants.c.closed_at.is_(None),
        )
        .exists()
    )
    orphans = select(t.resources).where(t.resources.c.state == ResourceState.LEASED, ~granted)
    late = (
        select(t.grants, t.leases.c.number)
        .join(t.leases, t.leases.c.id == t.grants.c.lease)
        .where(t.grants.c.closed_at.is_(None), t.leases.c.state.in_(OVER))
    )
    found = [f"{row.pool}/{row.name} is leased, and nobody holds it" for row in connection.execute(orphans)]
    found += [
        f"{row.pool}/{row.resource} is held by lease {row.number}, which is over" for row in connection.execute(late)
    ]
    return f"{healing.some(found)}. Nothing of it is lent meanwhile" if found else None
