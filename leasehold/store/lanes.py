"""The queue: leases that wait, in lanes of those that are of one owner and want the same.

Who is first in its lane stands for all behind it: they could be served no sooner. So the matcher looks at as many as
there are lanes, however many wait. What those of a lane want each process remembers, for the number of a lane is a hash
of it: so lanes that want something else than what is asked for now are not even read.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    true,
    union_all,
    update,
)

from leasehold import selfservice, sharing
from leasehold.allocation import ANY_POOL
from leasehold.model import Item, LeaseState
from leasehold.store import catalogue, specs
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue
from leasehold.store.engine import Tx

_Q = t.queue.c

LAST = 2**62
"""Stands for the number of a lease that has none yet."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A lease in the queue, with what it still wants, by its place in the request, and for how long.

    One with `start_at` is a reservation, which is not served before.
    """

    lease: str
    principal: str
    owner: str
    state: LeaseState
    items: Mapping[int, Item]
    priority: int
    number: int
    since: datetime
    duration: timedelta
    start_at: datetime | None = None
    passed: int = 0
    self_service: bool = False
    share_key: str | None = None
    """With it comes who may have again what was given back under the same one."""

    @property
    def lane(self) -> int:
        """In which lane it waits; a reservation has one to itself."""
        alone = self.lease if self.start_at else None
        promised = is_promised(self.state, self_service=self.self_service)
        return lane(self.owner, self.wishes, alone, promised=promised, share=self.share)

    @property
    def share(self) -> str | None:
        """The key for which something may be kept for it."""
        return sharing.key_of(self.owner, self.share_key)

    @cached_property
    def wishes(self) -> tuple[Item, ...]:
        """What it still wants, in order; of self-service nothing that is not for that."""
        wishes = tuple(self.items.values())
        return selfservice.narrowed(wishes) if self.self_service else wishes


def is_promised(state: str, *, self_service: bool) -> bool:
    """Whether a lease waits for a replacement that it gets though self-service is closed by now."""
    return self_service and state == LeaseState.PREPARING


def lane(
    owner: str,
    wishes: Iterable[Item],
    alone: str | None = None,
    *,
    promised: bool = False,
    share: str | None = None,
) -> int:
    """The lane of those who are of one owner and want the same; a negative one of a reservation `alone`.

    What is `promised` to one does not wait for what the others of the lane must wait for, nor does who may `share`.
    """
    apart = [*([alone] if alone else []), *([True] if promised else []), *([{"share": share}] if share else [])]
    number = catalogue.digest([owner, catalogue.shape(wishes), *apart])
    return -1 - number if alone else number


def missing(wanted: Sequence[Item], places: Iterable[int]) -> dict[int, Item]:
    """One more resource for each of these places in a request."""
    return {place: replace(wanted[place], count=many) for place, many in sorted(Counter(places).items())}


_ENTER = insert(t.queue).inline()
_LEAVE = delete(t.queue).where(_Q.lease == bindparam("lease_"))
_PASSED = update(t.queue).where(_Q.lease == bindparam("lease_")).values(passed=bindparam("passed"))


def enter(tx: Tx, one: Waiting) -> None:
    """Put a lease into the queue, or back to its place with other wishes."""
    tx.write(
        _ENTER,
        {
            "lease": one.lease,
            "lane": one.lane,
            "owner": one.owner,
            "priority": one.priority,
            "number": one.number,
            "since": one.since,
            "passed": one.passed,
            "start_at": one.start_at,
        },
    )


def leave(tx: Tx, lease: str) -> None:
    """Take a lease out of the queue."""
    tx.write(_LEAVE, {"lease_": lease})


def move(tx: Tx, one: Waiting, owner: str) -> None:
    """Let a lease wait on, at its place, for another owner."""
    leave(tx, one.lease)
    enter(tx, replace(one, owner=owner))


def note_passed(tx: Tx, passed: Mapping[str, int]) -> None:
    """Note how often leases were overtaken."""
    if passed:
        tx.write(_PASSED, [{"lease_": lease, "passed": many} for lease, many in passed.items()])


_WAITING: Any = select(
    _Q.lease,
    _Q.lane,
    _Q.owner,
    _Q.priority,
    _Q.number,
    _Q.since,
    _Q.passed,
    _Q.start_at,
    t.leases.c.duration_s,
    t.leases.c.principal,
    t.leases.c.state,
    t.leases.c.missing,
    t.leases.c.self_service,
    t.leases.c.share_key,
    specs.ITEMS_TEXT.label("wanted"),
).join(t.leases, t.leases.c.id == _Q.lease)


def _lanes() -> Any:
    """The lanes that there are, found by leaping from one to the next in their index."""
    lanes = select(func.min(_Q.lane).label("lane")).cte("lanes", recursive=True)
    following = select(func.min(_Q.lane)).where(_Q.lane > lanes.c.lane).correlate(lanes).scalar_subquery()
    return lanes.union_all(select(following).where(lanes.c.lane.is_not(None)))


_IN_ORDER = (_Q.priority.desc(), _Q.number)


def _heads() -> Any:
    """The first of each lane."""
    lanes = _lanes()
    other = t.queue.alias("other")
    first = (
        select(other.c.lease)
        .where(other.c.lane == lanes.c.lane)
        .order_by(other.c.priority.desc(), other.c.number)
        .limit(1)
        .correlate(lanes)
        .scalar_subquery()
    )
    return _WAITING.join(lanes, _Q.lease == first)


def _firsts(lanes: FromClause) -> Any:
    """The first of each of these lanes, in words that keep PostgreSQL from reading all of the queue."""
    first = _WAITING.where(_Q.lane == lanes.c.lane).order_by(*_IN_ORDER).limit(1).correlate(lanes).lateral()
    return select(first).select_from(lanes.join(first, true()))


@lru_cache
def _firsts_one_by_one(count: int) -> Any:
    """The same for SQLite, of so many lanes, `lane0` and so on."""
    numbers: Iterator[BindParameter[int]] = (bindparam(f"lane{n}") for n in range(count))
    firsts = [_WAITING.where(_Q.lane == lane).order_by(*_IN_ORDER).limit(1).subquery().select() for lane in numbers]
    return firsts[0] if count == 1 else union_all(*firsts)


_LANES = select(_lanes().c.lane)
_HEADS = {"sqlite": _heads(), "postgresql": _firsts(_lanes())}
_GIVEN = func.unnest(bindparam("lanes", type_=ARRAY(BigInteger))).table_valued("lane", name="given").render_derived()
_FIRSTS = _firsts(_GIVEN)
_FIRST = _WAITING.where(_Q.lane == bindparam("lane_")).order_by(*_IN_ORDER).limit(1)
_FIRST_SHORTER = _FIRST.where(t.leases.c.duration_s < bindparam("duration_s_"))


_MANY = 24
"""So many lanes SQLite does not look up one by one."""

_KEPT = 20_000
_wishes: OrderedDict[int, tuple[Item, ...]] = OrderedDict()
"""What those of a lane want, as far as allocation looks at it."""


def heads(connection: Connection, kinds: Collection[int] | None, known: Catalogue) -> list[Waiting]:
    """The first of each lane.

    With `kinds` only of those that may be served from one of them, or compete for others with one that may; and all
    reservations.
    """
    dialect = connection.dialect.name
    if kinds is None:
        return _remembered(connection.execute(_HEADS[dialect]))
    numbers = [number for number in connection.execute(_LANES).scalars() if number is not None]
    reached = _reached(numbers, kinds, known)
    if not reached:
        return []
    if dialect == "postgresql":
        return _remembered(connection.execute(_FIRSTS, {"lanes": reached}))
    if len(reached) > _MANY:
        wanted = set(reached)
        return _remembered(row for row in connection.execute(_HEADS[dialect]) if row.lane in wanted)
    lanes = {f"lane{n}": number for n, number in enumerate(reached)}
    return _remembered(connection.execute(_firsts_one_by_one(len(reached)), lanes))


def _reached(numbers: Sequence[int], kinds: Collection[int], known: Catalogue) -> list[int]:
    """The lanes to look at; one of which it is not known what they want is one of them."""
    far: dict[int, frozenset[int]] = {}
    near, reached = list[int](), set(kinds)
    for number in numbers:
        wishes = _wishes.get(number)
        theirs = known.all_kinds if wishes is None else known.kinds_of(wishes)
        if number < 0 or wishes is None:
            near.append(number)
            reached |= theirs
        else:
            far[number] = theirs
    while found := [number for number, theirs in far.items() if not reached.isdisjoint(theirs)]:
        near += found
        reached = reached.union(*(far.pop(number) for number in found))
    return near


def _remembered(rows: Iterable[Row[Any]]) -> list[Waiting]:
    found = []
    for row in rows:
        one = _waiting(row)
        _wishes.setdefault(row.lane, one.wishes)
        found.append(one)
    while len(_wishes) > _KEPT:
        _wishes.popitem(last=False)
    return found


def first(connection: Connection, pools: Collection[str], most: int) -> list[Waiting]:
    """Of those who want of these pools the first by priority and number, but no more than so many; no reservations."""
    query = _WAITING.where(_Q.start_at.is_(None), wants_of(pools))
    return [_waiting(row) for row in connection.execute(query.order_by(_Q.priority.desc(), _Q.number).limit(most))]


def wants_of(pools: Collection[str]) -> ColumnElement[bool]:
    """Whether one in the queue may be served from any of these pools."""
    return exists().where(t.waits.c.lease == _Q.lease, t.waits.c.pool.in_({*pools, ANY_POOL}))


def reservations(connection: Connection) -> list[Waiting]:
    """The reservations that have not been granted, those that begin first before others."""
    query = _WAITING.where(_Q.start_at.is_not(None)).order_by(_Q.start_at, _Q.number)
    return [_waiting(row) for row in connection.execute(query)]


def of(connection: Connection, leases: Collection[str]) -> dict[str, Waiting]:
    """Leases as they wait, those that do."""
    rows = connection.execute(_WAITING.where(_Q.lease.in_(leases))) if leases else ()
    return {row.lease: _waiting(row) for row in rows}


def line(connection: Connection, pools: Collection[str]) -> list[tuple[int, str, int]]:
    """Priority, owner and number of all who want of these pools; no reservations."""
    query = select(_Q.priority, _Q.owner, _Q.number).where(_Q.start_at.is_(None), wants_of(pools))
    return [(row.priority, row.owner, row.number) for row in connection.execute(query)]


def first_of(connection: Connection, lane: int, *, shorter_than: timedelta | None = None) -> Waiting | None:
    """Who is first in a lane by now, of all, or of those who want it for less time."""
    if shorter_than is None:
        found = connection.execute(_FIRST, {"lane_": lane})
    else:
        found = connection.execute(_FIRST_SHORTER, {"lane_": lane, "duration_s_": shorter_than.total_seconds()})
    row = found.one_or_none()
    return None if row is None else _waiting(row)


def _waiting(row: Row[Any]) -> Waiting:
    wanted = specs.items_from_text(row.wanted)
    return Waiting(
        lease=row.lease,
        principal=row.principal,
        owner=row.owner,
        state=LeaseState(row.state),
        items=dict(enumerate(wanted)) if row.missing is None else missing(wanted, row.missing),
        priority=row.priority,
        number=row.number,
        since=row.since,
        duration=timedelta(seconds=row.duration_s),
        start_at=row.start_at,
        passed=row.passed,
        self_service=row.self_service,
        share_key=row.share_key,
    )
