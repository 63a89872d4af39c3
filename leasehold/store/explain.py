"""Explaining: where a lease stands that waits, what for, until when, and what it could have instead."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row, select

from leasehold import reasons
from leasehold.forecast import Forecast
from leasehold.model import OVER, Alternative, QueuePlace
from leasehold.store import alternatives, catalogue, facts, lanes, matching, order
from leasehold.store import tables as t
from leasehold.store.lanes import Waiting
from leasehold.store.outlook import FARTHEST, FORESEEN, Line
from leasehold.store.supplies import Supplies

_P = t.promises.c
_MOST_LISTED = 100_000


class Explanations:
    """What one reader asks about leases (rows of `leases`): what is the same for several is read once."""

    def __init__(self, connection: Connection, now: datetime, leases: Sequence[Row[Any]] = ()) -> None:
        self._connection = connection
        self._now = now
        self._queued = lanes.of(connection, [lease.id for lease in leases if lease.waiting])
        self._lines: dict[frozenset[str], list[tuple[int, tuple[int, int], int]]] = {}
        self._foretold: dict[frozenset[str], dict[str, Forecast]] = {}

    def place(self, lease: Row[Any], *, with_alternatives: bool = False) -> QueuePlace | None:
        """Where one of these leases stands that waits; None for one that goes on.

        The position is that among those that want of the same pools, 0 where it waits for none of them. Only where they
        are asked for, alternatives say what could be had now instead.
        """
        if lease.state in OVER:
            return None
        if not lease.waiting:
            return QueuePlace(position=0, reason=lease.blocked) if lease.blocked else None
        one = self._queued.get(lease.id)
        if one is None:
            return None
        if order.is_upcoming(one, self._now):
            return self._reserved(one)
        ahead = self._ahead(one)
        obstacles = [*self._obstacles(one), *self._line.rules.scarce_for(one)]
        parts = [lease.blocked, *obstacles, *self._shortages(one), reasons.before(ahead) if ahead else None]
        return QueuePlace(
            position=ahead + 1,
            reason="; ".join(part for part in parts if part),
            eta=self._eta(one, ahead) if ahead < FARTHEST else None,
            alternatives=self._alternatives(one) if with_alternatives else None,
        )

    def queue(self, pool: str) -> list[str]:
        """Who waits for a pool, in the order of service; then who has reserved of it."""
        waiting, reserved = self._line.waiting({pool}, _MOST_LISTED), self._line.reserved({pool}, due=False)
        return [one.lease for one in (*waiting, *reserved)]

    @cached_property
    def _suspended(self) -> str | None:
        return facts.suspended(self._connection)

    @cached_property
    def _supplies(self) -> Supplies:
        return Supplies(self._connection, self._line)

    @cached_property
    def _line(self) -> Line:
        return Line(self._connection, self._now, statistics.median, catalogue.current(self._connection))

    def _ahead(self, one: Waiting) -> int:
        """How many go before a lease that want of the same pools."""
        pools, mine = self._line.known.pools(one.wishes), self._line.rank(one)
        due = [other for other in self._line.reserved(pools, due=True) if self._line.rank(other) < mine]
        if one.start_at is not None:
            return len(due)
        return len(due) + bisect_left(self._standing_in_line(frozenset(pools)), mine[1:])

    def _standing_in_line(self, pools: frozenset[str]) -> list[tuple[int, tuple[int, int], int]]:
        """The ranks of all who want of these pools, in order."""
        if pools not in self._lines:
            line = lanes.line(self._connection, pools)
            shares = {owner: self._line.shares.rank(owner, pools) for owner in {owner for _, owner, _ in line}}
            self._lines[pools] = sorted((-priority, shares[owner], number) for priority, owner, number in line)
        return self._lines[pools]

    def _obstacles(self, one: Waiting) -> list[str]:
        """What keeps a lease waiting whatever is free."""
        found = []
        if self._suspended is not None:
            found.append(f"nothing is granted until an operator has run leasehold reconcile: {self._suspended}")
        excess = self._line.shares.excess(one)
        if excess is not None:
            found.append(f"over its quota: {excess.detail}")
        others = (order.paused(one, self._line.known), self._line.rules.closed(one))
        return [*found, *(why for why in others if why)]

    def _shortages(self, one: Waiting) -> list[str]:
        """What of each item there is, and why that is not given to it."""
        supplies = self._supplies.of(one)
        said = [reasons.shortage(item, has, self._now) for item, has in zip(one.wishes, supplies, strict=True)]
        enough = all(has.free >= item.count for item, has in zip(one.wishes, supplies, strict=True))
        if enough and not any(has.promised for has in supplies) and not self._line.is_held_up(one):
            said.append("what is free is kept for those who have waited longer")
        return said

    # What is to be expected

    def _reserved(self, one: Waiting) -> QueuePlace:
        """A reservation waits in no queue."""
        assert one.start_at is not None
        rows = self._connection.execute(select(t.promises).where(_P.lease == one.lease).order_by(_P.pool, _P.resource))
        promised = [f"{row.pool}/{row.resource}" for row in rows]
        what = reasons.listed(promised) if promised else "nothing can be promised by now"
        start = reasons.clock(one.start_at, self._now)
        return QueuePlace(position=0, reason=f"reserved from {start}: {what}", eta=self._ready(one, one.start_at))

    def _eta(self, one: Waiting, ahead: int) -> datetime | None:
        """When a lease will be active, as far as can be foreseen: not while an operator or a quota holds it up."""
        if self._suspended is not None or self._line.is_held_up(one):
            return None
        if one.start_at is not None:
            outlook, _ = self._line.foretell([], one.wishes, without={one.lease})
            found = outlook.earliest(self._line.claimant(one))
        else:
            found = self._forecasts(one, ahead).get(one.lease)
        starts = [at for at in (found.start if found else None, self._supplies.made_at(one)) if at is not None]
        if not starts or min(starts) > self._now + FORESEEN:
            return None
        return self._ready(one, min(starts))

    def _forecasts(self, one: Waiting, ahead: int) -> dict[str, Forecast]:
        """What is foretold of a lease, and of those before it; of all who are asked for together, for several."""
        pools = frozenset(self._line.known.pools(one.wishes))
        if pools not in self._foretold:
            many = FARTHEST if len(self._queued) > 1 else ahead + 1
            _, self._foretold[pools] = self._line.foretell(self._line.waiting(set(pools), FARTHEST)[:many])
        return self._foretold[pools]

    def _ready(self, one: Waiting, granted_at: datetime) -> datetime:
        pools = self._line.known.pools(one.wishes)
        return granted_at + max(map(self._line.history.preparing, pools), default=granted_at - granted_at)

    def _alternatives(self, one: Waiting) -> tuple[Alternative, ...]:
        """What could be had now instead; nothing while something else than what is free is in the way."""
        if self._obstacles(one):
            return ()
        pools = sorted(self._line.known.policies)
        return alternatives.of(one, matching.Spare(self._connection, self._now, set(pools)), pools)
