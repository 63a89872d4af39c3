"""The rules for self-service as they are now: what an operator forced, and what of what there is is free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, func, select

from leasehold import allocation, selector, selfservice
from leasehold.allocation import ANY_POOL, Candidate
from leasehold.errors import LimitReached, PoolUnknown, SelfServiceClosed
from leasehold.model import Forced, Item, LeaseState, Opening, Policy, SelfService
from leasehold.ports import SelfServiceState
from leasehold.selfservice import FREE_TO_ALL, Capacity, Scarce
from leasehold.store import catalogue, events, facts, specs, stock
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue
from leasehold.store.engine import Tx
from leasehold.store.lanes import Waiting

_FORCED = "self_service"
"""The fact that keeps what operators forced: by pool, and under no name for the lab."""
_LAB = ""

_L, _G = t.leases.c, t.grants.c


class Rules:
    """What holds for those who are no operators, as one reader sees it until something is granted."""

    def __init__(self, connection: Connection, known: Catalogue) -> None:
        self._connection = connection
        self._known = known
        self._had: dict[str, dict[str, Counter[str]]] = {}

    def closed(self, one: Waiting) -> str | None:
        """Why a lease is given nothing for now."""
        if not _applies(one):
            return None
        return next((why for pool in (None, *_named(one)) if (why := self.of(pool)) is not None), None)

    def of(self, pool: str | None) -> str | None:
        """Why self-service of a pool, or of the lab, is closed."""
        rule, forced = self._rule(pool), self._forced.get(pool)
        if rule is None and forced is None:
            return None
        where = f"of {pool}" if pool else "in the lab"
        capacity = self.capacity(pool) if rule is not None and rule.has_shares else Capacity()
        return selfservice.closed(rule or FREE_TO_ALL, forced, capacity, where)

    def shown(self, pool: str | None, limit: int) -> int:
        """How many resources are listed at most, of a pool or of all."""
        rules = (self._rule(None), self._rule(pool) if pool else None)
        return min([limit, *(rule.show for rule in rules if rule is not None and rule.show is not None)])

    def barred(self, one: Waiting, pools: Iterable[str]) -> set[str]:
        """The pools from which nothing may come that it wants of any pool."""
        if not (_applies(one) and _of_any(one)):
            return set()
        return {pool for pool in pools if self.of(pool) is not None or self._reached(one, pool) is not None}

    def wishes(self, one: Waiting) -> tuple[Item, ...]:
        """What a lease may be given for what it wants: nothing of which too little is free."""
        if not _applies(one) or not self._known.has_shares:
            return one.wishes
        return selfservice.narrowed(one.wishes, self.scarce)

    @cached_property
    def _forced(self) -> Mapping[str | None, Forced]:
        return {one.pool: one for one in forced(self._connection)}

    def _rule(self, pool: str | None) -> SelfService | None:
        if pool is None:
            return self._known.lab.self_service if self._known.lab else None
        policy = self._known.policies.get(pool)
        return policy.self_service if policy else None

    # What is free

    @cached_property
    def scarce(self) -> list[Scarce]:
        """Of what that has a property in common too little is free."""
        found = []
        for pool in (None, *self._known.policies):
            rule = self._rule(pool)
            if rule is not None and rule.free_by and rule.has_shares:
                values = {path: self._by_value(path, pool) for path in rule.free_by}
                found += selfservice.scarce(rule, self._forced.get(pool), pool, values)
        return found

    @cached_property
    def _free(self) -> Mapping[int, int]:
        """How many are free of each kind."""
        query = select(t.resources.c.kind, func.count().label("many")).where(*stock.GRANTABLE)
        return {row.kind: row.many for row in self._connection.execute(query.group_by(t.resources.c.kind))}

    def _capacities(self, pool: str | None) -> Iterable[tuple[catalogue.ResourceKind, Capacity]]:
        for kind in self._known.kinds:
            if pool is None or kind.pool == pool:
                free = 0 if kind.pool in self._known.paused else self._free.get(kind.id, 0) + self._possible(kind)
                yield kind, Capacity(free=free, total=kind.total)

    def _possible(self, kind: catalogue.ResourceKind) -> int:
        """How many more of a kind its pool could make."""
        if self._known.made.get(kind.pool) != kind.id:
            return 0
        return max(0, kind.total - self._existing.get(kind.pool, 0))

    @cached_property
    def _existing(self) -> Mapping[str, int]:
        """How many there are of what each pool has made."""
        made = select(t.resources.c.pool, func.count().label("many")).where(t.resources.c.spec.is_not(None))
        return {row.pool: row.many for row in self._connection.execute(made.group_by(t.resources.c.pool))}

    def capacity(self, pool: str | None) -> Capacity:
        """How much is free of a pool, or of the lab."""
        return sum((capacity for _, capacity in self._capacities(pool)), Capacity())

    def _by_value(self, path: str, pool: str | None) -> Mapping[str, Capacity]:
        found: dict[str, Capacity] = {}
        for kind, capacity in self._capacities(pool):
            for value in set(selector.values(tuple(path.split(".")), kind.properties)):
                found[value] = found.get(value, Capacity()) + capacity
        return found

    # What is asked for

    def check_open(self, one: Waiting) -> None:
        """Raise `SelfServiceClosed` where a request cannot be served for it now, and there is more than is free."""
        # A reservation is promised only while a request would be served, and then keeps what it was promised.
        one = replace(one, start_at=None)
        why = self.closed(one)
        if why is not None:
            raise SelfServiceClosed(why)
        few, wishes = self.scarce_for(one), self.wishes(one)
        # One that is named, or told by its serial number, waits until enough of its like is free.
        if few and not any(map(catalogue.is_particular, wishes)):
            if allocation.assign(wishes, self._all(wishes)) is None:
                raise SelfServiceClosed("; ".join(few))

    def _all(self, wishes: Sequence[Item]) -> list[Candidate]:
        """All that there is of what suits, as much as can be used."""
        need = sum(item.count for item in wishes)
        kinds = self._known.serving(wishes)
        return [kind.candidate(f"{n}") for kind in kinds for n in range(min(need, kind.total))]

    def scarce_for(self, one: Waiting) -> list[str]:
        """Why some of what a lease wants is kept from self-service, if it is."""
        if self.wishes(one) == one.wishes:
            return []
        kinds = self._known.serving(one.wishes)
        return [
            few.why
            for few in self.scarce
            if any(
                few.concerns(kind.pool) and few.value in selector.values(tuple(few.path.split(".")), kind.properties)
                for kind in kinds
            )
        ]

    def check_limits(self, one: Waiting, *, is_new: bool = True) -> None:
        """Raise `LimitReached` where a user would have more than one user may, what waits for it included."""
        named = _named(one)
        for pool in (None, *named):
            if (reached := self._reached(one, pool, is_new=is_new)) is not None:
                raise reached
        if _of_any(one):
            pools = sorted({kind.pool for kind in self._known.serving(one.wishes)} - set(named))
            found = [self._reached(one, pool, is_new=is_new) for pool in pools]
            if found and found[0] is not None and all(found):
                raise found[0]

    def _reached(self, one: Waiting, pool: str | None, *, is_new: bool = True) -> LimitReached | None:
        """What one would have too much of, if all that it wants of any pool came of this one; None is the lab."""
        rule = self._rule(pool)
        if rule is None or not rule.has_limits:
            return None
        mine = {lease: sum(of.values()) if pool is None else of[pool] for lease, of in self._mine(one.owner).items()}
        in_lease = mine.get(one.lease, 0)
        if is_new:
            mine.pop(one.lease, None)
        try:
            selfservice.check_limits(
                rule,
                f"of {pool}" if pool else "in the lab",
                who=selfservice.owner_of(one.owner)[0],
                leases=sum(many > 0 for many in mine.values()),
                resources=sum(mine.values()),
                in_lease=0 if is_new else in_lease,
                asked=sum(i.count for i in one.items.values() if pool is None or i.pool in {None, pool}),
                is_new=is_new,
            )
        except LimitReached as reached:
            return reached
        return None

    def _mine(self, owner: str) -> dict[str, Counter[str]]:
        """What each self-service lease of an owner has of each pool, or waits for."""
        if owner not in self._had:
            self._had[owner] = self._read(*selfservice.owner_of(owner))
        return self._had[owner]

    def _read(self, owner: str, unverified: bool) -> dict[str, Counter[str]]:
        query = select(_L.id, _L.state, _L.missing, specs.ITEMS_TEXT.label("wanted")).where(
            _L.owner == owner, _L.self_service, _L.ended_at.is_(None), _L.unverified == unverified
        )
        found: dict[str, Counter[str]] = {}
        for row in self._connection.execute(query):
            items = specs.items_from_text(row.wanted)
            if row.state == LeaseState.QUEUED:
                found[row.id] = Counter({item.pool or ANY_POOL: 0 for item in items})
                for item in items:
                    found[row.id][item.pool or ANY_POOL] += item.count
            elif row.state != LeaseState.RELEASING:
                found[row.id] = Counter(items[place].pool or ANY_POOL for place in row.missing or ())
        held = select(_G.lease, _G.pool, func.count().label("many")).where(_G.lease.in_(found), _G.closed_at.is_(None))
        for row in self._connection.execute(held.group_by(_G.lease, _G.pool)):
            found[row.lease][row.pool] += row.many
        return found


def check(connection: Connection, one: Waiting, *, is_new: bool = True) -> None:
    """Raise `SelfServiceClosed` or `LimitReached` where the rules do not let a lease have what it asks for."""
    known = catalogue.current(connection)
    if one.self_service:
        rules = Rules(connection, known)
        rules.check_open(one)
        rules.check_limits(one, is_new=is_new)


def _named(one: Waiting) -> list[str]:
    """The pools that it names."""
    return sorted({item.pool for item in one.items.values() if item.pool is not None})


def _of_any(one: Waiting) -> bool:
    """Whether it wants something of any pool."""
    return any(item.pool is None for item in one.items.values())


def _applies(one: Waiting) -> bool:
    """Whether what it wants depends on self-service being open: a reservation, and a replacement, were promised."""
    return one.self_service and one.start_at is None and one.state is not LeaseState.PREPARING


def terms(policies: Iterable[Policy], known: Catalogue, *, self_service: bool) -> list[Policy]:
    """Policies as they are for a lease: stricter for one of self-service."""
    if not self_service:
        return list(policies)
    lab = [known.lab.self_service] if known.lab else []
    return [selfservice.terms(p, [*lab, *([p.self_service] if p.self_service else [])]) for p in policies]


# What operators do


def forced(connection: Connection) -> list[Forced]:
    """What operators have opened and closed, the lab first."""
    kept: Mapping[str, Mapping[str, Any]] = facts.get(connection, _FORCED) or {}
    return [
        Forced(
            pool=pool or None,
            opening=Opening(one["opening"]),
            reason=one["reason"],
            by=one["by"],
            since=datetime.fromisoformat(one["since"]),
        )
        for pool, one in sorted(kept.items())
    ]


def force(tx: Tx, pool: str | None, opening: Opening, reason: str, actor: str) -> None:
    """Open self-service of a pool or of the lab, close it, or leave it to the rules (`AUTO`)."""
    if pool is not None and pool not in catalogue.current(tx.connection).policies:
        raise PoolUnknown(f"there is no pool {pool}")
    kept = {one.pool or _LAB: one for one in forced(tx.connection)}
    if opening is Opening.AUTO:
        kept.pop(pool or _LAB, None)
    else:
        kept[pool or _LAB] = Forced(pool=pool, opening=opening, reason=reason, by=actor, since=tx.now)
    plain = {where: {**asdict(one), "since": one.since.isoformat()} for where, one in kept.items()}
    facts.put(tx, _FORCED, plain)
    events.record(tx, f"self_service_{opening}", pool=pool, actor=actor, reason=reason)


def states(connection: Connection) -> list[SelfServiceState]:
    """How self-service stands, of the lab first, then of each pool."""
    known = catalogue.current(connection)
    rules, by_pool = Rules(connection, known), {one.pool: one for one in forced(connection)}
    return [
        SelfServiceState(pool=pool, closed=rules.of(pool), forced=by_pool.get(pool))
        for pool in (None, *sorted(known.policies))
    ]
