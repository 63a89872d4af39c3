"""The catalogue: which kinds of resources there are, and which of them a request could be served from.

Resources of one pool with the same tags and properties are of one kind, so that a filter is evaluated once for all of
them. A catalogue is good for as long as the inventory has its stamp; each process keeps the last ones.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, func, select

from leasehold import allocation, selector
from leasehold.allocation import Candidate
from leasehold.errors import OwnedElsewhere
from leasehold.model import Item, Lab, PoolSpec
from leasehold.store import facts, specs
from leasehold.store import tables as t
from leasehold.store.engine import MEMO, Tx

STAMP = "inventory"
"""The fact that is another one after each change of what there is."""

_LAB = "lab"
"""The fact that keeps what holds for all pools together, and which pools file says it."""
_AS_LAB = TypeAdapter(Lab)

IDENTIFIERS = frozenset(
    "asset_tag bmc bmc_address fqdn hostname ip ip_address mac mac_address serial serial_number service_tag"
    " switch_port uuid".split()
)
"""Properties that tell one resource from all others like it; a filter on one is evaluated for each resource."""

_KEPT, _SERVING_KEPT = 8, 10_000
_STAMPED = "stamped"
"""In a transaction's memo: the inventory has a stamp by which nobody has read it yet."""

Shape = tuple[tuple[str | None, int, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...]


def shape(items: Iterable[Item]) -> Shape:
    """What allocation looks at of a request: two of one shape can be served by the same resources."""
    return tuple((item.pool, item.count, item.match, item.tags, item.names) for item in items)


def digest(plain: object) -> int:
    """A number for some plain data, the same in every process and every copy of a database."""
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) >> 1


def kind_of(pool: str, tags: Collection[str], properties: Mapping[str, Any]) -> int:
    """The kind of a resource."""
    return digest([pool, sorted(tags), alike(properties)])


def alike(value: Any) -> Any:
    """Properties without identifiers, at any depth."""
    if isinstance(value, Mapping):
        return {key: alike(below) for key, below in value.items() if str(key).lower() not in IDENTIFIERS}
    return [alike(below) for below in value] if isinstance(value, list | tuple) else value


def is_particular(item: Item) -> bool:
    """Whether resources of one kind may differ in whether they suit an item."""
    return bool(item.names) or any(
        not IDENTIFIERS.isdisjoint(map(str.lower, selector.parse(text).path)) for text in item.match
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ResourceKind:
    """Resources that are alike, and how many there are that are not to be removed."""

    id: int
    pool: str
    cost: int
    tags: frozenset[str]
    properties: Mapping[str, Any]
    total: int

    def candidate(self, name: str, record: Any = None) -> Candidate:
        """One of them."""
        return Candidate(pool=self.pool, name=name, tags=self.tags, properties=self.properties, record=record)


class Catalogue:
    """All kinds, in order of preference: cheap pools first, then what is good for little else."""

    def __init__(
        self,
        kinds: Iterable[ResourceKind],
        in_force: Mapping[str, tuple[int, PoolSpec]],
        paused: Mapping[str, str],
        lab: Lab | None = None,
        draining: Collection[str] = (),
    ) -> None:
        self.in_force = in_force
        """The settings of each pool, with their id."""
        self.specs = {pool: spec for pool, (_, spec) in in_force.items()}
        self.policies = {pool: spec.policy for pool, spec in self.specs.items()}
        self.told = frozenset(
            kind for spec in self.specs.values() for channel in spec.notices.values() for kind in channel.about
        )
        """What anybody is told of in any pool."""
        self.has_quotas = any(policy.has_quota for policy in self.policies.values())
        self.paused = paused
        """Pools that lend nothing for now, with why."""
        self.lab = lab
        """What holds for all pools together."""
        of_pools = (policy.self_service for policy in self.policies.values())
        self.rules = [rule for rule in (lab.self_service if lab else None, *of_pools) if rule is not None]
        """All rules for self-service."""
        self.has_shares = any(rule.has_shares for rule in self.rules)
        self.making = {pool: spec for pool, spec in self.specs.items() if spec.dynamic and pool not in draining}
        """The pools that make their resources."""
        self.made = {pool: made_kind(spec) for pool, spec in self.making.items()}
        """The kinds of what they make."""
        self._has_priorities = any(any(spec.all_tags.values()) for spec in self.specs.values())
        kinds = _with_made(kinds, self.making.values())
        self.kinds = sorted(kinds, key=lambda k: (k.cost, allocation.capability(k.candidate("")), k.pool, k.id))
        self._serving: OrderedDict[Shape, tuple[ResourceKind, ...]] = OrderedDict()
        self._numbers: OrderedDict[Shape, frozenset[int]] = OrderedDict()

    def serving(self, items: Sequence[Item]) -> tuple[ResourceKind, ...]:
        """The kinds of which something may suit an item."""
        wanted = shape(items)
        found = self._serving.get(wanted)
        if found is None:
            # A name, or an identifier, says nothing of a kind.
            general = [_general(item) for item in items]
            kinds = [k for k in self.kinds if any(allocation.suits(i, k.candidate("")) for i in general)]
            if self._has_priorities:
                # What the tags that are asked for make dear goes before what is cheap.
                kinds.sort(key=lambda k: -max(self.score(i, k.pool) for i in items))
            found = self._serving[wanted] = tuple(kinds)
            if len(self._serving) > _SERVING_KEPT:
                self._serving.popitem(last=False)
        return found

    def score(self, item: Item, pool: str) -> int:
        """How much a pool is preferred for an item: the priorities there of the tags that it asks for, together."""
        priorities = self.specs[pool].all_tags if pool in self.specs else {}
        return sum(priorities.get(tag, 0) for tag in item.tags)

    def making_for(self, items: Sequence[Item]) -> set[str]:
        """The pools that could make something that suits one of these."""
        return {kind.pool for kind in self.serving(items) if kind.pool in self.making} if self.making else set()

    def kinds_of(self, items: Sequence[Item]) -> frozenset[int]:
        """The numbers of the kinds of which something may suit an item."""
        wanted = shape(items)
        found = self._numbers.get(wanted)
        if found is None:
            found = self._numbers[wanted] = frozenset(kind.id for kind in self.serving(items))
            if len(self._numbers) > _SERVING_KEPT:
                self._numbers.popitem(last=False)
        return found

    @cached_property
    def all_kinds(self) -> frozenset[int]:
        """The numbers of all kinds."""
        return frozenset(kind.id for kind in self.kinds)

    def lending(self, items: Sequence[Item]) -> Sequence[ResourceKind]:
        """The same, without pools that are paused."""
        kinds = self.serving(items)
        return [kind for kind in kinds if kind.pool not in self.paused] if self.paused else kinds

    def pools(self, items: Sequence[Item]) -> set[str]:
        """The pools that a request may be served from."""
        named = {item.pool for item in items if item.pool is not None}
        return named if all(item.pool is not None for item in items) else set(self.policies)

    def suitable_pools(self, items: Sequence[Item]) -> set[str]:
        """Those of them that have something which suits it, whoever has that now; all of them where none has."""
        return {kind.pool for kind in self.serving(items)} | {i.pool for i in items if i.pool} or self.pools(items)


def _general(item: Item) -> Item:
    """An item without what tells resources of one kind apart."""
    kept = tuple(text for text in item.match if IDENTIFIERS.isdisjoint(map(str.lower, selector.parse(text).path)))
    return Item(pool=item.pool, count=item.count, match=kept, tags=item.tags)


def made_kind(spec: PoolSpec) -> int:
    """The kind of what a pool makes."""
    return kind_of(spec.name, spec.all_tags, spec.properties)


def _with_made(kinds: Iterable[ResourceKind], making: Iterable[PoolSpec]) -> list[ResourceKind]:
    """These kinds, and as many of what pools make as they may make, whether they are there or not."""
    known = {kind.id: kind for kind in kinds}
    for spec in making:
        number = made_kind(spec)
        known[number] = ResourceKind(
            id=number,
            pool=spec.name,
            cost=spec.priority,
            tags=frozenset(spec.all_tags),
            properties=alike(spec.properties),
            total=spec.size.max,
        )
    return list(known.values())


_catalogues: OrderedDict[str, Catalogue] = OrderedDict()


def current(connection: Connection) -> Catalogue:
    """The catalogue of the inventory as it is."""
    connection.info.get(MEMO, {}).pop(_STAMPED, None)
    stamp = facts.get(connection, STAMP)
    found = _catalogues.get(stamp) if stamp is not None else None
    if found is None:
        found = Catalogue(
            _kinds(connection),
            specs.all_in_force(connection),
            _paused(connection),
            _lab(connection),
            _draining(connection),
        )
        if stamp is not None:
            _catalogues[stamp] = found
            while len(_catalogues) > _KEPT:
                _catalogues.popitem(last=False)
    return found


def made_kinds(connection: Connection, pool: str) -> Collection[int]:
    """The kind of what a pool makes, if it makes anything."""
    made = current(connection).made
    return {made[pool]} if pool in made else set()


def changed(tx: Tx) -> None:
    """Have every process read the inventory anew: it is not what it was."""
    memo = tx.connection.info[MEMO]
    if _STAMPED not in memo:
        facts.put(tx, STAMP, uuid.uuid4().hex)
        memo[_STAMPED] = True


def set_lab(tx: Tx, lab: Lab | None, file: str) -> bool:
    """Make what holds for all pools what a pools file says, and return whether that changed anything.

    Raises `OwnedElsewhere` where another file says it.
    """
    known = facts.get(tx.connection, _LAB)
    if known is not None and known["file"] != file:
        if lab is None:
            return False
        raise OwnedElsewhere(f"the lab is described by the pools file {known['file']}")
    fact = None if lab is None else {"file": file, "lab": lab_to_json(lab)}
    if fact == known:
        return False
    if fact is None:
        facts.drop(tx, _LAB)
    else:
        facts.put(tx, _LAB, fact)
    changed(tx)
    return True


def lab_to_json(lab: Lab) -> dict[str, Any]:
    """What holds for all pools as plain JSON."""
    plain: dict[str, Any] = _AS_LAB.dump_python(lab, mode="json")
    return plain


def _lab(connection: Connection) -> Lab | None:
    known = facts.get(connection, _LAB)
    return None if known is None else _AS_LAB.validate_python(known["lab"])


def _kinds(connection: Connection) -> list[ResourceKind]:
    r = t.resources.c
    counted = (
        select(r.kind, r.pool, func.min(r.name).label("name"), func.count().label("total"))
        .where(~r.draining)
        .group_by(r.kind, r.pool)
        .subquery()
    )
    query = (
        select(t.pools.c.priority, counted.c.total, r.kind, r.pool, r.tags, r.properties)
        .join(counted, (counted.c.pool == r.pool) & (counted.c.name == r.name))
        .join(t.pools, t.pools.c.name == r.pool)
    )
    return [
        ResourceKind(
            id=row.kind,
            pool=row.pool,
            cost=row.priority,
            tags=frozenset(row.tags),
            properties=alike(row.properties),
            total=row.total,
        )
        for row in connection.execute(query)
    ]


def _draining(connection: Connection) -> set[str]:
    return set(connection.execute(select(t.pools.c.name).where(t.pools.c.draining)).scalars())


def _paused(connection: Connection) -> dict[str, str]:
    query = select(t.pools.c.name, t.pools.c.paused_reason).where(t.pools.c.paused_since.is_not(None))
    return {row.name: row.paused_reason for row in connection.execute(query)}
