"""The outlook: when those who wait will be served, foretold from holders' deadlines, promises and history."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import cached_property

from sqlalchemy import Connection

from leasehold.allocation import Want
from leasehold.forecast import Claimant, Forecast, Outlook
from leasehold.model import LONGEST, Item
from leasehold.store import catalogue, diaries, lanes, order
from leasehold.store.catalogue import Catalogue
from leasehold.store.history import History
from leasehold.store.lanes import Waiting
from leasehold.store.rules import Rules
from leasehold.store.shares import Shares

FORESEEN = LONGEST / 2
"""What will last longer ends nobody knows when: the lease of a command without a timeout, which ends with that."""

FARTHEST = 100
"""So many that wait are foretold: beyond them it is guessing."""


class Line:
    """All who wait, in the order of service, and what of them can be foretold.

    `of` says which of the last durations of a pool's hooks counts, see `History`.
    """

    def __init__(
        self, connection: Connection, now: datetime, of: Callable[[Sequence[float]], float], known: Catalogue
    ) -> None:
        self.now = now
        self.known = known
        self.shares = Shares(connection, self.known.policies)
        self.rules = Rules(connection, self.known)
        self.history = History(connection, self.known.specs, of)
        self._connection = connection

    def claimant(self, one: Waiting) -> Claimant:
        """A lease as it is foretold: how long it will keep what it is given from others."""
        pools = self.known.pools(one.wishes)
        # Nobody knows when a paused pool lends again.
        barred = {*self.shares.barred(one, pools), *self.known.paused, *self.rules.barred(one, pools)}
        return Claimant(
            lease=one.lease,
            shape=catalogue.shape(one.wishes),
            wants=[Want(item=item, barred=() if item.pool else barred) for item in one.wishes],
            lasts=self.history.occupying(pools, one.duration),
            not_before=one.start_at,
        )

    @cached_property
    def _reservations(self) -> list[Waiting]:
        return lanes.reservations(self._connection)

    def reserved(self, pools: set[str], *, due: bool) -> list[Waiting]:
        """The reservations of these pools whose time has come, or those whose time has not, the first of them first."""
        return [
            one
            for one in self._reservations
            if order.is_upcoming(one, self.now) is not due and not pools.isdisjoint(self.known.pools(one.wishes))
        ]

    def waiting(self, pools: set[str], most: int = FARTHEST) -> list[Waiting]:
        """Who waits to be served from these pools, so many of the first, in the order of service."""
        first = lanes.first(self._connection, pools, most)
        return sorted([*self.reserved(pools, due=True), *first], key=self.rank)

    def rank(self, one: Waiting) -> order.Rank:
        """Where it stands in the line."""
        return order.rank(one, self.known.pools(one.wishes), self.shares)

    def is_held_up(self, one: Waiting) -> bool:
        """Whether something else than what is free keeps it waiting: nobody can foretell until when."""
        return (
            self.shares.excess(one) is not None
            or order.paused(one, self.known) is not None
            or self.rules.closed(one) is not None
        )

    def foretell(
        self, waiting: Sequence[Waiting], also: Sequence[Item] = (), *, without: Collection[str] = ()
    ) -> tuple[Outlook, dict[str, Forecast]]:
        """Foretell these, in this order; what is left after them, for `also` too, is in the outlook."""
        foretold = [one for one in waiting[:FARTHEST] if not self.is_held_up(one)]
        wanted = [*(item for one in foretold for item in one.wishes), *also]
        books = diaries.read(self._connection, self.known, wanted, self.history, self.now, without=without)
        outlook = Outlook(books, self.now)
        found = {}
        for one in foretold:
            # What a reservation that is due has been promised is in the diaries.
            forecast = outlook.settle(self.claimant(one)) if one.start_at is None else None
            if forecast is not None:
                found[one.lease] = forecast
        return outlook, found
