"""Matching: who waits, in the order of service, and what is free. What it grants, it tells through the outbox."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select, update

from leasehold import allocation, model
from leasehold.allocation import ANY_POOL, Award, Candidate, Waiter
from leasehold.model import Item, LeaseState, ResourceState
from leasehold.store import catalogue, events, facts, granting, holding, lanes, outbox, stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting
from leasehold.store.shares import Excess, Shares
from leasehold.store.stock import FreeStock

Key = tuple[int, tuple[int, int], int]
"""By what the order of service is: priority, share, number."""


def match(tx: Tx, pools: set[str]) -> None:
    """Serve those who wait for these pools, in their order, with what is free now; nobody while that is suspended."""
    if facts.suspended(tx.connection) is None:
        heads = lanes.heads(tx.connection)
        if heads:
            _Round(tx, heads, pools).serve()


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a request gets, or why it gets nothing now: a quota, or a shortage in words."""

    award: Award | None = None
    excess: Excess | None = None
    shortage: str = ""


def offer(tx: Tx, newcomer: Waiting) -> Offer:
    """What a request gets that is not in the queue yet, besides those who are: nothing has become free for them."""
    if facts.suspended(tx.connection) is not None:
        return Offer(shortage="nothing is granted now")
    return _Round(tx, lanes.heads(tx.connection), wanted_pools(newcomer.wishes), newcomer).offer(newcomer)


class _Round:
    """One look at the queue: the first of each lane, the next where one was served."""

    def __init__(self, tx: Tx, heads: Sequence[Waiting], pools: set[str], newcomer: Waiting | None = None) -> None:
        self._tx = tx
        self._newcomer = newcomer
        self._catalogue = catalogue.current(tx.connection)
        self._shares = Shares(tx.connection, self._catalogue.policies)
        self._stock = FreeStock(tx.connection, self._catalogue)
        self._seen: dict[str, tuple[Waiting, Waiter]] = {}
        if newcomer is not None:
            heads = [*heads, newcomer]
        self._line = [(self._key(one), one) for one in _concerned(self._catalogue, heads, pools)]
        heapq.heapify(self._line)

    def serve(self) -> Award | None:
        """Grant what can be granted, and return what the newcomer gets, which is not granted yet."""
        mine: Award | None = None
        for award in allocation.serve(self._waiters(), self._stock):
            one, _ = self._seen[award.lease]
            if one is self._newcomer:
                mine = award
            else:
                _hand_over(self._tx, award, one)
                self._shares.granted(one.owner)
        self._note_passes()
        return mine

    def offer(self, newcomer: Waiting) -> Offer:
        """What the newcomer gets."""
        award = self.serve()
        if award is not None:
            return Offer(award=award)
        excess = self._shares.excess(newcomer)
        if excess is not None:
            return Offer(excess=excess, shortage=f"over its quota: {excess.detail}")
        free = self._stock.free_for(newcomer.wishes)
        return Offer(shortage=allocation.shortage(newcomer.wishes, free))

    def _waiters(self) -> Iterator[Waiter]:
        while self._line:
            key, one = heapq.heappop(self._line)
            if (now := self._key(one)) > key:
                # Its owner was given something since.
                heapq.heappush(self._line, (now, one))
                continue
            if self._shares.excess(one) is not None:
                # As it is for all of its owner's behind it, who want the same.
                continue
            waiter = self._waiter(one)
            yield waiter
            if one is self._newcomer:
                return
            if waiter.award is not None and (following := lanes.first_of(self._tx.connection, one.lane)):
                heapq.heappush(self._line, (self._key(following), following))

    def _waiter(self, one: Waiting) -> Waiter:
        barred = self._shares.barred(one, self._catalogue.pools(one.wishes))
        is_blocked = self._newcomer is not None and one is not self._newcomer
        waiter = Waiter(
            lease=one.lease, items=one.wishes, passes=self._passes(one), is_blocked=is_blocked, barred=barred
        )
        self._seen[one.lease] = (one, waiter)
        return waiter

    def _passes(self, one: Waiting) -> int:
        """How many may yet be served before it that come behind it."""
        policies = [
            self._catalogue.policies[p] for p in self._catalogue.pools(one.wishes) if p in self._catalogue.policies
        ]
        waited = self._tx.now - one.since
        if any(waited >= policy.starve_after for policy in policies):
            return 0
        return max(0, min((policy.overtakes for policy in policies), default=0) - one.passed)

    def _note_passes(self) -> None:
        passed: dict[str, int] = {}
        for one, waiter in self._seen.values():
            overtaken = self._passes(one) - waiter.passes
            if overtaken and one is not self._newcomer:
                passed[one.lease] = one.passed + overtaken
        lanes.note_passed(self._tx, passed)

    def _key(self, one: Waiting) -> Key:
        return (-one.priority, self._shares.rank(one.owner, self._catalogue.pools(one.wishes)), one.number)


def _concerned(known: Catalogue, heads: Iterable[Waiting], pools: set[str]) -> list[Waiting]:
    """Those who could be served from these pools, or compete with one of these for others."""
    wanted = [(one, known.pools(one.wishes)) for one in heads]
    reached = set(known.policies) if ANY_POOL in pools else set(pools)
    while True:
        more = set().union(*(of for _, of in wanted if not reached.isdisjoint(of))) | reached
        if more == reached:
            return [one for one, of in wanted if not reached.isdisjoint(of)]
        reached = more


def wanted_pools(items: Iterable[Item]) -> set[str]:
    """The pools that a request may take from; `ANY_POOL` where an item names none."""
    return {item.pool or ANY_POOL for item in items}


def waits_for(pools: set[str]) -> ColumnElement[bool]:
    """Whether a lease wants, or wanted until it was cancelled, of any of these pools."""
    return exists().where(t.waits.c.lease == t.leases.c.id, t.waits.c.pool.in_({*pools, ANY_POOL}))


def wait(tx: Tx, one: Waiting) -> None:
    """Let a lease wait that does not wait yet, for all that it wants or for what is missing."""
    tx.execute(insert(t.waits), [{"lease": one.lease, "pool": pool} for pool in sorted(wanted_pools(one.wishes))])
    lanes.enter(tx, one)


def leave(tx: Tx, lease: str) -> None:
    """Let a lease wait no more."""
    tx.execute(delete(t.waits).where(t.waits.c.lease == lease))
    lanes.leave(tx, lease)


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
    return [stock.as_candidate(row) for row in rows]


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
        events.record(tx, "lease_preparing", lease=award.lease, data=granted_data(award))
    else:
        events.record(tx, "lease_replaced", lease=award.lease, data=granted_data(award))
    leave(tx, award.lease)
    served = update(t.leases).where(t.leases.c.id == award.lease).values(values).returning(t.leases.c.duration_s)
    duration_s: int = tx.execute(served).scalar_one()
    granted = granting.grant(tx, to, award)
    if to.state is LeaseState.QUEUED:
        holding.activate_at_once(tx, award.lease, granted, duration_s)
    outbox.signal(tx, award.lease)


def granted_data(award: Award) -> dict[str, list[str]]:
    """What an event says of a grant."""
    return {"resources": [f"{c.pool}/{c.name}" for group in award.resources for c in group]}
