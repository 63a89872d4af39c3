"""Matching: who waits, in the order of service, and what is free. What it grants, it tells through the outbox."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, insert, select

from leasehold import allocation, model
from leasehold.allocation import ANY_POOL, Award, Candidate, Waiter, Want
from leasehold.errors import NotReservable
from leasehold.forecast import Forecast
from leasehold.model import Item, LeaseState, ResourceState
from leasehold.ports import Promise
from leasehold.store import (
    catalogue,
    demand,
    events,
    facts,
    granting,
    holding,
    lanes,
    order,
    outbox,
    reservations,
    stock,
)
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting
from leasehold.store.reservations import Promises
from leasehold.store.rules import Rules
from leasehold.store.shares import Excess, Shares
from leasehold.store.stock import FreeStock

_WAIT = insert(t.waits).inline()
_LEAVE = delete(t.waits).where(t.waits.c.lease == bindparam("lease_"))


def match(tx: Tx, pools: set[str], freed: Collection[int] | None = None) -> None:
    """Serve those who wait for these pools, in their order, with what is free now; nobody while that is suspended.

    `freed` are the kinds of which something became free, where nothing else has changed.
    """
    known = catalogue.current(tx.connection)
    if known.has_quotas:
        # An owner who gave something back may have something else.
        freed = None
    if known.has_shares:
        # Self-service may be open again.
        pools, freed = {ANY_POOL}, None
    again = facts.suspended(tx.connection) is None
    while again and (heads := lanes.heads(tx.connection, freed, known)):
        round_ = _Round(tx, heads, pools)
        round_.serve()
        round_.mend()
        # What was promised to one that got something else is free for others.
        again, freed = round_.keeps_promises, None


class Spare:
    """What is free for a new request now: read, and nothing written."""

    def __init__(self, connection: Connection, now: datetime, pools: set[str]) -> None:
        heads = lanes.heads(connection, None, catalogue.current(connection))
        self._round = _Round(Tx(connection, now), heads, pools)
        self._held = self._round.held_back()

    def choose(self, one: Waiting) -> Sequence[Sequence[Candidate]] | None:
        """What a request could have, beside what is held for others and what is promised."""
        return self._round.choose(one, self._held)

    @property
    def holds_back(self) -> bool:
        """Whether anything is held for others."""
        return bool(self._held)

    def promised(self, duration: timedelta | None) -> list[Promise]:
        """What is promised before one who took it now would have given it back."""
        return self._round.promises.before(duration)

    def left(self, free: Sequence[Candidate], promised: Collection[allocation.Key]) -> Sequence[Candidate]:
        """What of this is left beside what is held for others, to one who may not have what is promised."""
        if not self._held:
            return [candidate for candidate in free if candidate.key not in promised]
        wish = Want(item=Item(count=len(free)), barred=promised)
        return allocation.most([*self._held, wish], free)[-1]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a request gets, or why it gets nothing now: a quota, or a shortage in words.

    `promise` is what a reservation will get. `loosened` are the pools of which something may be held no more, once it
    has its award, for those who lack something of another pool then.
    """

    award: Award | None = None
    loosened: frozenset[str] = frozenset()
    promise: Forecast | None = None
    excess: Excess | None = None
    shortage: str = ""


def offer(tx: Tx, newcomer: Waiting) -> Offer:
    """What a request gets that is not in the queue yet, besides those who are: nothing has become free for them."""
    if facts.suspended(tx.connection) is not None:
        return Offer(shortage="nothing is granted now")
    known, pools = catalogue.current(tx.connection), wanted_pools(newcomer.wishes)
    kinds = known.kinds_of(newcomer.wishes)
    heads = lanes.heads(tx.connection, kinds, known)
    if any(one.start_at is not None and not order.is_upcoming(one, tx.now) for one in heads):
        # For a reservation whose time has come nobody may have looked yet.
        match(tx, pools)
        heads = lanes.heads(tx.connection, kinds, known)
    return _Round(tx, heads, pools, newcomer).offer(newcomer)


def follow(tx: Tx, offered: Offer) -> None:
    """Serve those who may have what is held for others no more, once a request has its award."""
    if offered.loosened:
        match(tx, set(offered.loosened))


def reserve(tx: Tx, newcomer: Waiting, *, again: bool) -> Offer:
    """What a reservation is promised; raise `NotReservable`.

    `again`: it was admitted before, and stays whatever can be promised now.
    """
    known = catalogue.current(tx.connection)
    excess = Shares(tx.connection, known.policies).excess(newcomer)
    if excess is not None and excess.never:
        return Offer(excess=excess)
    shortage = f"reserved from {newcomer.start_at:%Y-%m-%dT%H:%M:%SZ}"
    try:
        return Offer(promise=reservations.promise(tx, newcomer, known), shortage=shortage)
    except NotReservable:
        if not again:
            raise
        return Offer(shortage=shortage)


@dataclass(frozen=True)
class _Place:
    """A lease's place in the line, and the pools that it may be served from.

    `shorter_than` where it stands for those of its lane who want it for less time.
    """

    rank: order.Rank
    one: Waiting
    pools: Collection[str]
    shorter_than: timedelta | None = None

    def __lt__(self, other: _Place) -> bool:
        return self.rank < other.rank


class _Round:
    """One look at the queue: the first of each lane, the next where one was served."""

    def __init__(self, tx: Tx, heads: Sequence[Waiting], pools: set[str], newcomer: Waiting | None = None) -> None:
        self._tx = tx
        self._newcomer = newcomer
        self._catalogue = catalogue.current(tx.connection)
        self._shares = Shares(tx.connection, self._catalogue.policies)
        self._rules = Rules(tx.connection, self._catalogue)
        self._stock = FreeStock(tx.connection, self._catalogue, is_scarce=bool(heads))
        self._seen: dict[str, tuple[Waiting, Waiter, int]] = {}
        self.keeps_promises = False
        """Whether a reservation was granted."""
        self.upcoming = [one for one in heads if order.is_upcoming(one, tx.now)]
        self.promises = Promises(tx, self._catalogue, heads)
        if newcomer is not None:
            heads = [*heads, newcomer]
        now = [one for one in heads if not order.is_upcoming(one, tx.now)]
        self._line = [self._place(one) for one in order.concerned(self._catalogue, now, pools)]
        heapq.heapify(self._line)

    def mend(self) -> None:
        """See to it that what is promised can be kept."""
        reservations.mend(self._tx, self.upcoming, self._catalogue)

    def serve(self) -> Award | None:
        """Grant what can be granted, and return what the newcomer gets, which is not granted yet."""
        mine: Award | None = None
        for award in allocation.serve(self._waiters(), self._stock):
            one, *_ = self._seen[award.lease]
            if one is self._newcomer:
                mine = award
            else:
                _hand_over(self._tx, award, one)
                self._shares.granted(one.owner)
                # Less is free by now.
                self._rules = Rules(self._tx.connection, self._catalogue)
                self.keeps_promises |= one.start_at is not None
        self._note_passes()
        return mine

    def held_back(self) -> list[Want]:
        """What is held for those who wait."""
        return allocation.held_back(self._waiters(), self._stock)

    def choose(self, one: Waiting, held: Sequence[Want]) -> Sequence[Sequence[Candidate]] | None:
        """What a request could have beside what is held, if nobody else were served."""
        if self._is_held_up(one):
            return None
        waiter = self._waiter(one, self._catalogue.pools(one.wishes))
        return allocation.choose(waiter, held, self._stock)

    def offer(self, newcomer: Waiting) -> Offer:
        """What the newcomer gets."""
        award = self.serve()
        if award is not None:
            return Offer(award=award, loosened=self._loosened())
        excess = self._shares.excess(newcomer)
        if excess is not None:
            return Offer(excess=excess, shortage=f"over its quota: {excess.detail}")
        obstacle = order.paused(newcomer, self._catalogue) or self._rules.closed(newcomer)
        if obstacle is not None:
            return Offer(shortage=obstacle)
        free = self._stock.free_for([Want(item=item) for item in newcomer.wishes])
        promised = self.promises.barring(newcomer)
        kept = f"; {len(promised)} promised to reservations before its end" if promised else ""
        return Offer(shortage=allocation.shortage(newcomer.wishes, free) + kept)

    def _loosened(self) -> frozenset[str]:
        waiting = [one for one, waiter, _ in self._seen.values() if waiter.award is None]
        waiting += [place.one for place in self._line]
        found: set[str] = set()
        for one in waiting:
            pools = wanted_pools(one.wishes)
            if len(pools) > 1 and self._passes(one, self._catalogue.pools(one.wishes)) <= 0:
                found |= pools
        return frozenset(found)

    def _waiters(self) -> Iterator[Waiter]:
        while self._line:
            place = heapq.heappop(self._line)
            one = place.one
            if self._shares.rank(one.owner, place.pools) > place.rank[2]:
                # Its owner was given something since.
                heapq.heappush(self._line, self._place(one, place.shorter_than))
                continue
            if self._is_held_up(one):
                # As it is for all of its owner's behind it, who want the same.
                continue
            waiter = self._waiter(one, place.pools)
            yield waiter
            if one is self._newcomer:
                return
            self._follow(place, waiter)

    def _is_held_up(self, one: Waiting) -> bool:
        """Whether something else than what is free keeps it waiting."""
        return (
            self._shares.excess(one) is not None
            or order.paused(one, self._catalogue) is not None
            or self._rules.closed(one) is not None
        )

    def _follow(self, place: _Place, waiter: Waiter) -> None:
        """Let the next of a lane into the line: the next of all, or one who may give back in time what is promised."""
        shorter_than = place.shorter_than
        if waiter.award is None:
            if waiter.is_blocked or not waiter.promised:
                return
            shorter_than = place.one.duration
        following = lanes.first_of(self._tx.connection, place.one.lane, shorter_than=shorter_than)
        if following is not None:
            heapq.heappush(self._line, self._place(following, shorter_than))

    def _waiter(self, one: Waiting, pools: Collection[str]) -> Waiter:
        passes = self._passes(one, pools)
        waiter = Waiter(
            lease=one.lease,
            items=self._rules.wishes(one),
            passes=passes,
            is_blocked=self._newcomer is not None and one is not self._newcomer,
            barred=self._shares.barred(one, pools) | self._rules.barred(one, pools),
            promised=self.promises.barring(one),
            share=one.share,
        )
        self._seen[one.lease] = (one, waiter, passes)
        return waiter

    def _passes(self, one: Waiting, pools: Collection[str]) -> int:
        """How many may yet be served before it that come behind it."""
        policies = [self._catalogue.policies[pool] for pool in pools if pool in self._catalogue.policies]
        waited = self._tx.now - one.since
        if one.start_at is not None or any(waited >= policy.starve_after for policy in policies):
            return 0
        return max(0, min((policy.overtakes for policy in policies), default=0) - one.passed)

    def _note_passes(self) -> None:
        passed: dict[str, int] = {}
        for one, waiter, passes in self._seen.values():
            overtaken = passes - waiter.passes
            if overtaken and one is not self._newcomer:
                passed[one.lease] = one.passed + overtaken
        lanes.note_passed(self._tx, passed)

    def _place(self, one: Waiting, shorter_than: timedelta | None = None) -> _Place:
        pools = self._catalogue.pools(one.wishes)
        return _Place(order.rank(one, pools, self._shares), one, pools, shorter_than)


def wanted_pools(items: Iterable[Item]) -> set[str]:
    """The pools that a request may take from; `ANY_POOL` where an item names none."""
    return {item.pool or ANY_POOL for item in items}


def wait(tx: Tx, one: Waiting, promise: Forecast | None = None) -> None:
    """Let a lease wait that does not wait yet, for all that it wants or for what is missing.

    To a reservation keep what is promised.
    """
    demand.stir(tx, one.wishes)
    name_pools(tx, one)
    lanes.enter(tx, one)
    if promise is not None:
        reservations.keep(tx, one, promise, catalogue.current(tx.connection))


def name_pools(tx: Tx, one: Waiting) -> None:
    """Let a lease be found by the pools that it wants of."""
    tx.write(_WAIT, [{"lease": one.lease, "pool": pool} for pool in sorted(wanted_pools(one.wishes))])


def leave(tx: Tx, lease: str, *, reserved: bool) -> None:
    """Let a lease wait no more; one that was `reserved` is promised nothing any more."""
    tx.write(_LEAVE, {"lease_": lease})
    lanes.leave(tx, lease)
    if reserved:
        reservations.drop(tx, lease)


def everything(connection: Connection, items: Sequence[Item], *, besides: str | None = None) -> list[Candidate]:
    """All that could ever serve a request, whoever has it now: of each kind as much as it can use.

    `besides` names a lease, without what is its own, or broken.
    """
    if besides is None:
        known, need = catalogue.current(connection), sum(item.count for item in items)
        kinds = known.serving(items)
        if not any(catalogue.is_particular(item) for item in items):
            return [kind.candidate(f"{n}") for kind in kinds for n in range(min(need, kind.total))]
    query = select(t.resources).join(t.pools, t.pools.c.name == t.resources.c.pool).where(*_at_all(besides))
    pools = wanted_pools(items)
    if ANY_POOL not in pools:
        query = query.where(t.resources.c.pool.in_(pools))
    rows = connection.execute(query.order_by(t.pools.c.priority, t.resources.c.pool, t.resources.c.name))
    return [*(stock.as_candidate(row) for row in rows), *_makeable(catalogue.current(connection), items)]


def _makeable(known: catalogue.Catalogue, items: Sequence[Item]) -> Iterator[Candidate]:
    """What pools could make of what a request wants, as much as it can use."""
    need = sum(item.count for item in items)
    for kind in known.serving(items):
        if kind.id == known.made.get(kind.pool):
            most = min(need, known.making[kind.pool].size.max)
            yield from (kind.candidate(f"new {number}") for number in range(most))


def _at_all(besides: str | None) -> Sequence[ColumnElement[bool]]:
    if besides is None:
        return (~t.resources.c.draining,)
    mine = exists().where(
        t.grants.c.lease == besides,
        t.grants.c.closed_at.is_(None),
        t.grants.c.pool == t.resources.c.pool,
        t.grants.c.resource == t.resources.c.name,
    )
    return (~t.resources.c.draining, t.resources.c.state != ResourceState.BROKEN, ~mine)


def _hand_over(tx: Tx, award: Award, to: Waiting) -> None:
    """Grant a lease what it waits for, and tell its workflow."""
    values: dict[str, Any] = {"waiting": False, "missing": None, "blocked": None}
    if to.state is LeaseState.QUEUED:
        model.check_lease_transition(to.state, LeaseState.PREPARING)
        values |= {"state": LeaseState.PREPARING, "granted_at": tx.now}
        events.record(tx, "lease_preparing", lease=award.lease, data=granting.granted_data(award.resources))
    else:
        events.record(tx, "lease_replaced", lease=award.lease, data=granting.granted_data(award.resources))
    leave(tx, award.lease, reserved=to.start_at is not None)
    demand.stir(tx, to.wishes)
    grant = granting.grant(tx, to, award)
    activation = None
    if to.state is LeaseState.QUEUED:
        activation = holding.activation_at_once(tx, grant.claims, to.duration, self_service=to.self_service)
    holding.change(tx, award.lease, {**values, **(activation.values if activation else {})})
    granting.record(tx, grant, ready=activation is not None)
    if activation is not None:
        holding.tell_active(tx, award.lease, activation)
    outbox.signal(tx, award.lease)
