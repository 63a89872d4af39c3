"""Shares: what owners hold of pools, for quotas and for fairness. Counted from the open grants, so it cannot drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, distinct, func, select

from leasehold.model import Item, LeaseState, OverQuota, Policy, Quota
from leasehold.store import tables as t
from leasehold.store.lanes import Waiting

_G = t.grants.c


@dataclass(frozen=True, kw_only=True)
class Held:
    """What is held of a pool."""

    leases: int = 0
    resources: int = 0


@dataclass(frozen=True, kw_only=True)
class Excess:
    """A quota that a request would exceed: of which pool, in words, and whether the request is refused for it.

    `never`: whatever is given back, it would exceed it.
    """

    pool: str
    detail: str
    refused: bool
    never: bool = False


_NOTHING = Held()


class Shares:
    """What is held while one transaction grants; `granted` says that somebody has more by now."""

    def __init__(self, connection: Connection, policies: Mapping[str, Policy]) -> None:
        self._connection = connection
        self._policies = policies
        self._is_bounded = any(policy.has_quota or policy.per_lease is not None for policy in policies.values())
        self._limited = {pool for pool, policy in policies.items() if policy.has_quota}
        self._fair = {pool for pool, policy in policies.items() if policy.fair_share}
        self._of_owner: dict[str, dict[str, Held]] = {}
        self._of_all: dict[str, Held] | None = None
        self._served: dict[str, dict[str, int]] = {}

    def granted(self, owner: str) -> None:
        """Count anew what an owner has."""
        self._of_owner.pop(owner, None)
        self._served.pop(owner, None)
        self._of_all = None

    def rank(self, owner: str, pools: Iterable[str]) -> tuple[int, int]:
        """What an owner has of the pools that are fair, and when it was given something there last: less goes first."""
        fair = self._fair.intersection(pools) if self._fair else ()
        if not fair:
            return (0, 0)
        held, served = self._held_by(owner), self._served_of(owner)
        return max(((held.get(pool, _NOTHING).resources, served.get(pool, 0)) for pool in fair), default=(0, 0))

    def excess(self, one: Waiting) -> Excess | None:
        """The first quota of a pool that it names which a lease would exceed, if it does."""
        if not self._is_bounded:
            return None
        needs, _ = _needs(one.items.values())
        for pool, need in sorted(needs.items()):
            found = self._exceeds(one, pool, need)
            if found is not None:
                return found
        return None

    def barred(self, one: Waiting, pools: Iterable[str]) -> frozenset[str]:
        """The pools from which what a lease wants of any pool cannot come: all of it must fit the quota there."""
        if not self._is_bounded:
            return frozenset()
        needs, any_pool = _needs(one.items.values())
        if not any_pool:
            return frozenset()
        return frozenset(pool for pool in pools if self._exceeds(one, pool, needs[pool] + any_pool) is not None)

    def left(self, one: Waiting, pool: str, item: Item) -> int | None:
        """How many more resources of a pool quotas leave those who want this item; None is as many as there are."""
        policy = self._policies.get(pool)
        if policy is None or pool not in self._limited:
            return None
        mine, all_ = self._held_by(one.owner).get(pool, _NOTHING), self._held_by_all().get(pool, _NOTHING)
        found = [
            left
            for quota, held in ((policy.per_owner, mine), (policy.at_once, all_))
            for left in (
                None if quota.resources is None else quota.resources - held.resources,
                None if quota.leases is None else (quota.leases - held.leases) * item.count,
            )
            if left is not None
        ]
        return max(0, min(found)) if found else None

    def _exceeds(self, one: Waiting, pool: str, need: int) -> Excess | None:
        policy = self._policies.get(pool)
        if policy is None:
            return None
        refuse = policy.over_quota is OverQuota.REFUSE
        if policy.per_lease is not None:
            # Only an active lease grows; one that is being prepared gets what it was granted, or another in its stead.
            has = self._has(one.lease, pool) if one.state is LeaseState.ACTIVE else 0
            if has + need > policy.per_lease:
                detail = f"at most {policy.per_lease} of {pool} in one lease"
                return Excess(pool=pool, detail=detail, refused=True, never=need > policy.per_lease)
        if pool not in self._limited:
            return None
        # One that has something of the pool already is no lease more.
        leases = 0 if one.state is not LeaseState.QUEUED and self._has(one.lease, pool) else 1
        mine = (policy.per_owner, self._held_by(one.owner).get(pool, _NOTHING), f"{one.owner} may have")
        all_ = (policy.at_once, self._held_by_all().get(pool, _NOTHING), "all together may have")
        for quota, held, who in (mine, all_):
            too_much = _too_much(quota, held, leases, need)
            if too_much:
                never = bool(_too_much(quota, _NOTHING, leases, need))
                detail = f"{who} {too_much} of {pool} at once"
                return Excess(pool=pool, detail=detail, refused=refuse or never, never=never)
        return None

    def _has(self, lease: str, pool: str) -> int:
        query = select(func.count()).where(_G.lease == lease, _G.pool == pool, _G.closed_at.is_(None))
        return self._connection.execute(query).scalar_one()

    def _held_by(self, owner: str) -> dict[str, Held]:
        counted = self._limited | self._fair
        if owner not in self._of_owner and counted:
            self._of_owner[owner] = self._count(counted, owner)
        return self._of_owner.get(owner, {})

    def _held_by_all(self) -> dict[str, Held]:
        if self._of_all is None:
            counted = {pool for pool in self._limited if self._policies[pool].at_once != Quota()}
            self._of_all = self._count(counted, None) if counted else {}
        return self._of_all

    def _count(self, pools: set[str], owner: str | None) -> dict[str, Held]:
        query = select(_G.pool, func.count().label("resources"), func.count(distinct(_G.lease)).label("leases"))
        query = query.where(_G.closed_at.is_(None), _G.pool.in_(pools)).group_by(_G.pool)
        if owner is not None:
            query = query.where(_G.owner == owner)
        rows = self._connection.execute(query)
        return {row.pool: Held(leases=row.leases, resources=row.resources) for row in rows}

    def _served_of(self, owner: str) -> dict[str, int]:
        if owner not in self._served:
            query = select(_G.pool, func.max(_G.id).label("last")).where(_G.owner == owner, _G.pool.in_(self._fair))
            rows = self._connection.execute(query.group_by(_G.pool))
            self._served[owner] = {row.pool: row.last for row in rows}
        return self._served[owner]


def _needs(items: Iterable[Item]) -> tuple[Counter[str], int]:
    """How many resources of each pool that is named, and how many of any."""
    needs: Counter[str] = Counter()
    for item in items:
        needs[item.pool or ""] += item.count
    return needs, needs.pop("", 0)


def _too_much(quota: Quota, held: Held, leases: int, resources: int) -> str:
    if quota.leases is not None and held.leases + leases > quota.leases:
        return f"{quota.leases} {'lease' if quota.leases == 1 else 'leases'}"
    if quota.resources is not None and held.resources + resources > quota.resources:
        return f"{quota.resources} {'resource' if quota.resources == 1 else 'resources'}"
    return ""
