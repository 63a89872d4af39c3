"""The order of service: who goes before whom, and who is looked at together."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from leasehold.allocation import ANY_POOL
from leasehold.store.catalogue import Catalogue
from leasehold.store.lanes import Waiting
from leasehold.store.shares import Shares

Rank = tuple[bool, int, tuple[int, int], int]
"""By what the order of service is: reservations that are due, priority, share, number."""


def is_upcoming(one: Waiting, now: datetime) -> bool:
    """Whether it is a reservation that begins later: until then it is not served."""
    return one.start_at is not None and one.start_at > now


def rank(one: Waiting, pools: Iterable[str], shares: Shares) -> Rank:
    """Where a lease stands that may be served from these pools: less goes first."""
    return (one.start_at is None, -one.priority, shares.rank(one.owner, pools), one.number)


def concerned(known: Catalogue, heads: Iterable[Waiting], pools: set[str]) -> list[Waiting]:
    """Those who could be served from these pools, or compete with one of these for others."""
    wanted = [(one, known.pools(one.wishes)) for one in heads]
    reached = set(known.policies) if ANY_POOL in pools else set(pools)
    while True:
        more = set().union(*(of for _, of in wanted if not reached.isdisjoint(of))) | reached
        if more == reached:
            return [one for one, of in wanted if not reached.isdisjoint(of)]
        reached = more


def paused(one: Waiting, known: Catalogue) -> str | None:
    """Why a lease cannot be served for now: a pool that it names is paused."""
    for item in one.wishes if known.paused else ():
        if item.pool is not None and item.pool in known.paused:
            return f"{item.pool} is paused: {known.paused[item.pool]}"
    return None
