"""Reading: leases, resources, pools and what is available, as the records of `leasehold.model`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Text, bindparam, cast, func, select

from leasehold import selector
from leasehold.allocation import Candidate
from leasehold.commands import Command, OnEnd
from leasehold.errors import LeaseUnknown, NotDelivered, PoolUnknown, ResourceUnknown
from leasehold.model import (
    FOR_SELF_SERVICE,
    OVER,
    Broken,
    Degraded,
    Delivery,
    Instance,
    Lease,
    LeasedResource,
    LeaseState,
    Offline,
    Outcome,
    Paused,
    Pool,
    Problem,
    QueuePlace,
    Resource,
    ResourceState,
)
from leasehold.ports import Availability, KnownRequest, LeaseFilter, Promise, ResourceFilter
from leasehold.store import catalogue, commands, facts, growth, lanes, matching, refused, specs, supplies
from leasehold.store import tables as t
from leasehold.store.explain import Explanations
from leasehold.store.rules import Rules
from leasehold.store.tables import LEASE_WIDE

_LEASES = select(t.leases, t.heartbeats.c.by.label("heartbeat_by")).outerjoin(
    t.heartbeats, t.heartbeats.c.lease == t.leases.c.id
)


def lease(
    connection: Connection, ref: str, now: datetime, *, explained: bool = True, alternatives: bool = False
) -> Lease:
    """A lease, or a request that was refused, by its id, or by its number in decimal; raise `LeaseUnknown`.

    One that waits says why, unless it need not be `explained`; asked for, what could be had now instead as well.
    """
    numbered = ref.isascii() and ref.isdecimal()
    row = found = None
    if len(ref) <= (18 if numbered else 64):
        this = t.leases.c.number == int(ref) if numbered else t.leases.c.id == ref
        row = connection.execute(_LEASES.where(this)).one_or_none()
        if row is None and not numbered:
            found = refused.lease(connection, ref)
    if row is not None:
        found = _leases(connection, [row], now, explained=explained, alternatives=alternatives)[0]
    if found is None:
        raise LeaseUnknown(f"there is no lease {ref[:64]}")
    return found


_STATE = select(t.leases.c.state).where(t.leases.c.id == bindparam("id"))


def state(connection: Connection, lease_id: str) -> LeaseState | None:
    """Just a lease's state, for those who wait for it; None if there is no record yet."""
    found = connection.execute(_STATE, {"id": lease_id}).scalar_one_or_none()
    if found is None:
        return LeaseState.ENDED if refused.is_refused(connection, lease_id) else None
    return LeaseState(found)


def lease_counts(connection: Connection) -> dict[LeaseState, int]:
    """How many leases there are in each state."""
    query = select(t.leases.c.state, func.count().label("many")).group_by(t.leases.c.state)
    counted = {row.state: row.many for row in connection.execute(query)}
    return {state: counted.get(state, 0) for state in LeaseState}


def leases(connection: Connection, wanted: LeaseFilter, now: datetime) -> list[Lease]:
    """Leases that satisfy a filter, newest first."""
    query = _LEASES.order_by(t.leases.c.number.desc()).limit(wanted.limit)
    if wanted.states:
        query = query.where(t.leases.c.state.in_(wanted.states))
    if wanted.owner is not None:
        query = query.where(t.leases.c.owner == wanted.owner)
    if wanted.resource is not None:
        mine = (t.grants.c.pool == wanted.pool, t.grants.c.resource == wanted.resource)
        query = query.where(t.leases.c.id.in_(select(t.grants.c.lease).where(*mine)))
    elif wanted.pool is not None:
        held = select(t.grants.c.lease).where(t.grants.c.pool == wanted.pool)
        awaited = select(t.waits.c.lease).where(t.waits.c.pool == wanted.pool)
        query = query.where(t.leases.c.id.in_(held.union(awaited)))
    if wanted.command is not None:
        query = query.where(t.leases.c.id.in_(commands.found(wanted.command)))
    if wanted.before is not None:
        query = query.where(t.leases.c.number < wanted.before)
    return _leases(connection, connection.execute(query).all(), now)


def _leases(
    connection: Connection,
    rows: Sequence[Row[Any]],
    now: datetime,
    *,
    explained: bool = True,
    alternatives: bool = False,
) -> list[Lease]:
    held: dict[str, list[LeasedResource]] = {row.id: [] for row in rows}
    query = (
        select(t.grants, t.resources.c.tags, t.resources.c.properties, t.resources.c.state.label("resource_state"))
        .outerjoin(t.resources, (t.resources.c.pool == t.grants.c.pool) & (t.resources.c.name == t.grants.c.resource))
        .where(t.grants.c.lease.in_(held))
        .order_by(t.grants.c.id)
    )
    for row in connection.execute(query):
        held[row.lease].append(_leased(row))
    explanations = Explanations(connection, now, rows if explained else ())
    commanded = commands.of(connection, [row.id for row in rows if row.commanded])
    return [
        _lease(
            row,
            tuple(held[row.id]),
            explanations.place(row, with_alternatives=alternatives) if explained else None,
            commanded.get(row.id),
        )
        for row in rows
    ]


def _leased(row: Row[Any]) -> LeasedResource:
    broken = row.closed_at is None and row.resource_state == ResourceState.BROKEN
    state = "released" if row.closed_at else "broken" if broken else "ready" if row.ready_at else "preparing"
    return LeasedResource(
        pool=row.pool,
        name=row.resource,
        item=row.item,
        role=row.role,
        state=state,
        stage=row.stage,
        attempt=row.attempt,
        epoch=row.epoch,
        tags=tuple(row.tags or ()),
        properties=row.properties or {},
    )


def _lease(
    row: Row[Any], resources: tuple[LeasedResource, ...], place: QueuePlace | None, command: Command | None
) -> Lease:
    state = LeaseState(row.state)
    return Lease(
        id=row.id,
        number=row.number,
        state=state,
        outcome=Outcome(row.outcome) if state is LeaseState.ENDED else None,
        error=Problem(**row.error) if row.error else None,
        principal=row.principal,
        owner=row.owner,
        cc=tuple(row.cc),
        description=row.description,
        items=specs.items_from_json(row.wanted),
        resources=resources,
        queue=place,
        priority=row.priority,
        created_at=row.created_at,
        start_at=row.start_at,
        active_at=row.active_at,
        expires_at=row.expires_at,
        in_grace=row.grace_until is not None and state is LeaseState.ACTIVE,
        heartbeat_by=row.heartbeat_by,
        ended_at=row.ended_at,
        run_id=row.run_id,
        ticket=row.ticket,
        unverified=row.unverified,
        self_service=row.self_service,
        transfers=row.transfers,
        share_key=row.share_key,
        degraded=tuple(
            Degraded(**{**one, "since": datetime.fromisoformat(one["since"])}) for one in row.degraded or ()
        ),
        command=command,
        on_end=OnEnd(row.on_end),
        on_end_reason=row.on_end_reason,
    )


def _states(connection: Connection, pool: str | None) -> dict[str, int]:
    """How many resources of a pool, or of all, are in which state.

    What is free and offline counts as that, and so does what is kept for a key, and what fails its livechecks.
    """
    query = (
        select(
            t.resources.c.state,
            t.resources.c.offline_since.is_not(None).label("off"),
            t.resources.c.share_key.is_not(None).label("kept"),
            t.resources.c.suspect,
            func.count().label("many"),
        )
        .group_by(t.resources.c.state, "off", "kept", t.resources.c.suspect)
        .order_by(t.resources.c.state)
    )
    if pool is not None:
        query = query.where(t.resources.c.pool == pool)
    counted: dict[str, int] = {}
    for row in connection.execute(query):
        state = supplies.standing(row) if row.state == ResourceState.FREE else row.state
        counted[state] = counted.get(state, 0) + row.many
    return counted


_HELD = t.grants.alias("held")
_OF_INSTANCE = tuple(field.name for field in fields(Instance))
_RESOURCES = (
    select(
        *(column for column in t.resources.c if column.name not in {"tags", "properties"}),
        _HELD.c.lease.label("holder"),
        cast(t.resources.c.tags, Text).label("tags_text"),
        cast(t.resources.c.properties, Text).label("properties_text"),
        *(t.instances.c[name].label(f"instance_{name}") for name in _OF_INSTANCE),
    )
    .outerjoin(
        _HELD,
        (_HELD.c.pool == t.resources.c.pool) & (_HELD.c.resource == t.resources.c.name) & _HELD.c.closed_at.is_(None),
    )
    .outerjoin(t.instances, (t.instances.c.pool == t.resources.c.pool) & (t.instances.c.name == t.resources.c.name))
)
_LISTED = _RESOURCES.order_by(t.resources.c.pool, t.resources.c.name)


class _Suits:
    """Whether a resource satisfies a filter; asked once for all resources that are described alike."""

    def __init__(self, wanted: ResourceFilter) -> None:
        self._wanted = wanted
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, row: Any) -> bool:
        alike = (row.tags_text, row.properties_text)
        if alike not in self._known:
            wanted = self._wanted
            self._known[alike] = set(wanted.tags) <= set(json.loads(row.tags_text)) and selector.satisfies(
                wanted.conditions, json.loads(row.properties_text)
            )
        return self._known[alike]


def _resource(row: Any) -> Resource:
    offline = broken = None
    if row.offline_since is not None:
        offline = Offline(reason=row.offline_reason, by=row.offline_by, since=row.offline_since)
    if row.broken_since is not None:
        broken = Broken(reason=row.broken_reason, since=row.broken_since)
    return Resource(
        pool=row.pool,
        name=row.name,
        state=ResourceState(row.state),
        stage=row.stage,
        offline=offline,
        broken=broken,
        lease=row.holder,
        epoch=row.epoch,
        tags=tuple(json.loads(row.tags_text)),
        properties=json.loads(row.properties_text),
        suspect=row.suspect,
        kept_until=row.kept_until,
        instance=None
        if row.spec is None
        else Instance(**{name: getattr(row, f"instance_{name}") for name in _OF_INSTANCE}),
    )


def resource(connection: Connection, pool: str, name: str) -> Resource:
    """One resource; raise `ResourceUnknown`."""
    query = _RESOURCES.where(t.resources.c.pool == pool, t.resources.c.name == name)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise ResourceUnknown(f"there is no resource {pool}/{name}")
    return _resource(row)


def resources(connection: Connection, wanted: ResourceFilter) -> list[Resource]:
    """Resources that satisfy a filter, in order of pool and name."""
    query, suits = _LISTED, _Suits(wanted)
    if wanted.pool is not None:
        query = query.where(t.resources.c.pool == wanted.pool)
    if wanted.name is not None:
        query = query.where(t.resources.c.name == wanted.name)
    if wanted.state is not None:
        query = query.where(t.resources.c.state == wanted.state)
    if wanted.after is not None:
        pool, name = wanted.after
        query = query.where((t.resources.c.pool > pool) | ((t.resources.c.pool == pool) & (t.resources.c.name > name)))
    found: list[Resource] = []
    for row in connection.execute(query):
        if suits(row):
            found.append(_resource(row))
            if len(found) == wanted.limit:
                break
    return found


def available(
    connection: Connection,
    wanted: ResourceFilter,
    now: datetime,
    duration: timedelta | None = None,
    *,
    self_service: bool = False,
) -> Availability:
    """What a request could have now of the resources that satisfy a filter, and when the next holder's time is over.

    What is promised before such a request would have given it back, as long as pools lend by default or for a
    `duration`, is left out, and so is what is held for others. With `self_service` it is what the rules leave to those
    who are no operators.
    """
    there = catalogue.current(connection)
    rules = Rules(connection, there) if self_service else None
    if rules is not None:
        wanted = replace(wanted, conditions=(*wanted.conditions, selector.parse(FOR_SELF_SERVICE)))
    query, suits = _LISTED.where(~t.resources.c.draining), _Suits(wanted)
    if wanted.pool is not None:
        known(connection, wanted.pool)
        query = query.where(t.resources.c.pool == wanted.pool)
    suitable = [row for row in connection.execute(query) if suits(row)]
    free = [row for row in suitable if _is_open(row)]
    if paused := there.paused:
        paused = {row.pool: paused[row.pool] for row in suitable if row.pool in paused}
        free = [row for row in free if row.pool not in paused]
    closed: tuple[str, ...] = ()
    if rules is not None:
        free, closed = _left_to_users(free, rules)
        wanted = replace(wanted, limit=rules.shown(wanted.pool, wanted.limit))
    free, promised = _spare(connection, free, now, duration)
    holders = {row.holder for row in suitable if row.holder and row.offline_since is None}
    next_free_at = None
    if holders:
        ends = select(func.min(t.leases.c.expires_at)).where(t.leases.c.id.in_(holders))
        next_free_at = connection.execute(ends).scalar_one()
    return Availability(
        free=len(free),
        total=len(suitable),
        next_free_at=next_free_at,
        suspended=facts.suspended(connection),
        paused=paused,
        resources=tuple(_resource(row) for row in free[: wanted.limit]),
        promised=promised[: wanted.limit],
        closed=closed,
    )


def _is_open(row: Any) -> bool:
    """Whether a resource is free for anybody, by its row."""
    mine = row.offline_since is not None or row.suspect or row.share_key is not None
    return row.state == ResourceState.FREE and not mine


def _left_to_users(free: list[Any], rules: Rules) -> tuple[list[Any], tuple[str, ...]]:
    """What of this is open to those who are no operators, and why the rest is not."""
    shut = {pool: rules.of(None) or rules.of(pool) for pool in sorted({row.pool for row in free})}
    left = [row for row in free if shut[row.pool] is None]
    said = dict.fromkeys(why for why in shut.values() if why is not None)
    for few in rules.scarce:
        suits = _Suits(ResourceFilter(conditions=(selector.parse(few.without),)))
        open_ = [row for row in left if not few.concerns(row.pool) or suits(row)]
        if len(open_) < len(left):
            left, said[few.why] = open_, None
    return left, tuple(said)


def _spare(
    connection: Connection, free: list[Any], now: datetime, duration: timedelta | None
) -> tuple[list[Any], tuple[Promise, ...]]:
    """What is left of what is free beside what is held for others and what is promised; and those promises."""
    if connection.execute(select(t.queue.c.lease).limit(1)).first() is None:
        return free, ()
    rows = {(row.pool, row.name): row for row in free}
    spare = matching.Spare(connection, now, {row.pool for row in free})
    promised = [promise for promise in spare.promised(duration) if (promise.pool, promise.name) in rows]
    if not promised and not spare.holds_back:
        return free, ()
    candidates = [
        Candidate(
            pool=row.pool,
            name=row.name,
            tags=frozenset(json.loads(row.tags_text)),
            properties=json.loads(row.properties_text),
        )
        for row in free
    ]
    left = spare.left(candidates, {(promise.pool, promise.name) for promise in promised})
    return [rows[candidate.key] for candidate in left], tuple(promised)


def known(connection: Connection, pool: str) -> None:
    """Raise `PoolUnknown` unless there is such a pool."""
    if not specs.has_pool(connection, pool):
        raise PoolUnknown(f"there is no pool {pool}")


def pools(connection: Connection, name: str | None = None) -> list[Pool]:
    """All pools by name, or the one named; raise `PoolUnknown`."""
    query = (
        select(t.pools, specs.SPEC_TEXT.label("text"))
        .join(t.specs, t.specs.c.id == t.pools.c.spec)
        .order_by(t.pools.c.name)
    )
    if name is not None:
        known(connection, name)
        query = query.where(t.pools.c.name == name)
    found = []
    rows = connection.execute(query).all()
    known_specs = {row.name: specs.from_text(row.text) for row in rows}
    growing = growth.shown(connection, [pool for pool, spec in known_specs.items() if spec.dynamic])
    for row in rows:
        states = _states(connection, row.name)
        waiting = select(func.count()).select_from(t.queue).where(lanes.wants_of({row.name}))
        found.append(
            Pool(
                spec=known_specs[row.name],
                emptied=row.emptied,
                growth=growing.get(row.name),
                file=row.file,
                draining=row.draining,
                paused=_paused(row),
                total=sum(states.values()),
                free=states.get(ResourceState.FREE, 0),
                states=states,
                waiting=connection.execute(waiting).scalar_one(),
            )
        )
    return found


def _paused(row: Row[Any]) -> Paused | None:
    if row.paused_since is None:
        return None
    return Paused(reason=row.paused_reason, by=row.paused_by, since=row.paused_since)


def queue(connection: Connection, pool: str, now: datetime, after: int = 0, limit: int = 100) -> list[Lease]:
    """The leases that wait for a pool, in the order of service, but for so many of the first; last the reservations."""
    known(connection, pool)
    wanted = Explanations(connection, now).queue(pool)[after : after + limit]
    rows = {row.id: row for row in connection.execute(_LEASES.where(t.leases.c.id.in_(wanted)))}
    return _leases(connection, [rows[lease] for lease in wanted], now)


def delivery(connection: Connection, lease_id: str, now: datetime) -> list[Delivery]:
    """What a lease's holder needs to connect to what the lease has, or had when it was over; last what all share.

    Raises `NotDelivered` before the lease was active.
    """
    found = lease(connection, lease_id, now, explained=False)
    if found.active_at is None:
        raise NotDelivered(f"lease {found.number} is {found.state}: nothing is delivered before all of it is ready")
    mine = [t.grants.c.lease == found.id, t.grants.c.ready_at.is_not(None)]
    if found.state not in OVER:
        mine.append(t.grants.c.closed_at.is_(None))
    rows = connection.execute(select(t.grants).where(*mine).order_by(t.grants.c.id))
    own = [Delivery(pool=row.pool, name=row.resource, role=row.role, data=row.data or b"") for row in rows]
    rows = connection.execute(select(t.shared).where(t.shared.c.lease == found.id).order_by(t.shared.c.pool))
    return own + [Delivery(pool=row.pool, name=LEASE_WIDE, role=None, data=row.data) for row in rows]


def request(connection: Connection, lease_id: str) -> KnownRequest | None:
    """The request behind a lease's id, if it came before."""
    row = connection.execute(select(t.requests).where(t.requests.c.lease == lease_id)).one_or_none()
    return KnownRequest(digest=row.digest, refusal=row.refusal) if row else None
