"""What is free, read no further than it matters: a few of each kind, whatever the size of the pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import CompoundSelect, Connection, Integer, Row, bindparam, select, text, union_all

from leasehold.allocation import Candidate, Want
from leasehold.model import Item
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue, ResourceKind, is_particular

# Word by word the condition of `ix_resources_grantable` and `ix_resources_free`: no database uses such an index for one
# whose values it does not know when it plans.
GRANTABLE = (text(t.GRANTABLE),)

_MANY = 24
"""So many kinds are no longer looked up one by one."""


class FreeStock:
    """Free resources, without those that were taken since it was made."""

    def __init__(self, connection: Connection, catalogue: Catalogue) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._names: dict[int, list[str]] = {}
        self._complete: set[int] = set()
        self._gone: set[tuple[str, str]] = set()

    def free_for(self, wants: Sequence[Want]) -> Sequence[Candidate]:
        """See `leasehold.allocation.Stock`."""
        items = [want.item for want in wants]
        kinds = self._catalogue.lending(items)
        barred = {one for want in wants for one in want.barred}
        # What one of them may not have is read beside what they need.
        need = sum(item.count for item in items) + sum(isinstance(one, tuple) for one in barred)
        particular = [item for item in items if is_particular(item)]
        if particular:
            return self._with_particulars(particular, kinds, need)
        return self._some(kinds, need, any_kind=len(items) == 1 and not barred)

    def take(self, candidates: Iterable[Candidate]) -> None:
        """See `leasehold.allocation.Stock`."""
        self._gone.update(candidate.key for candidate in candidates)

    def _some(self, kinds: Sequence[ResourceKind], need: int, *, any_kind: bool = False) -> list[Candidate]:
        """As many of each kind as can be needed; of `any_kind`, as many of all together."""
        found: list[Candidate] = []
        # Mostly the first kind has enough; where it has not, many are looked at together.
        start, step = 0, 1 if any_kind else len(kinds)
        while start < len(kinds):
            some = kinds[start : start + step]
            start, step = start + step, _MANY
            self._read(some, need)
            for kind in some:
                if names := self._names[kind.id]:
                    left = [name for name in names if (kind.pool, name) not in self._gone]
                    found += map(kind.candidate, left[:need])
            if any_kind and len(found) >= need:
                break
        return found

    def _read(self, kinds: Sequence[ResourceKind], need: int) -> None:
        """Know at least `need` names of each kind that are not gone, or all there are."""
        short = [kind for kind in kinds if kind.id not in self._complete and self._left(kind) < need]
        if len(short) > _MANY:
            self._read_whole(short)
        elif short:
            self._read_some(short, need)

    def _left(self, kind: ResourceKind) -> int:
        names = self._names.get(kind.id, ())
        return sum((kind.pool, name) not in self._gone for name in names)

    def _read_some(self, kinds: Sequence[ResourceKind], need: int) -> None:
        wanted = {kind.id: need + len(self._names.get(kind.id, ())) for kind in kinds}
        asked = {f"{what}{n}": v for n, pair in enumerate(wanted.items()) for what, v in zip(_ASKED, pair, strict=True)}
        names: dict[int, list[str]] = {kind: [] for kind in wanted}
        for row in self._connection.execute(_first_of(len(wanted)), asked):
            names[row.kind].append(row.name)
        for kind, found in names.items():
            self._names[kind] = sorted(found)
            if len(found) < wanted[kind]:
                self._complete.add(kind)

    def _read_whole(self, kinds: Sequence[ResourceKind]) -> None:
        query = select(t.resources.c.kind, t.resources.c.name).where(
            t.resources.c.pool.in_({kind.pool for kind in kinds}), *GRANTABLE
        )
        wanted = {kind.id for kind in kinds}
        self._names.update({kind: [] for kind in wanted})
        for row in self._connection.execute(query.order_by(t.resources.c.name)):
            if row.kind in wanted:
                self._names[row.kind].append(row.name)
        self._complete |= wanted

    def _with_particulars(
        self, particular: Sequence[Item], kinds: Sequence[ResourceKind], need: int
    ) -> list[Candidate]:
        """What items name, or tell by an identifier, as it is; of the rest, some of each kind."""
        alone = [c for c in map(as_candidate, self._rows(particular, kinds)) if c.key not in self._gone]
        known = {candidate.key for candidate in alone}
        # Some of these may be known already as what they are.
        rest = self._some(kinds, need + len(known))
        return [*(c for c in rest if c.key not in known), *alone]

    def _rows(self, particular: Sequence[Item], kinds: Sequence[ResourceKind]) -> Iterable[Row[Any]]:
        query = select(t.resources).where(t.resources.c.pool.in_({kind.pool for kind in kinds}), *GRANTABLE)
        if all(item.names for item in particular):
            query = query.where(t.resources.c.name.in_({name for item in particular for name in item.names}))
        wanted = {kind.id for kind in kinds}
        rows = self._connection.execute(query.order_by(t.resources.c.pool, t.resources.c.name)).all()
        return [row for row in rows if row.kind in wanted]


_ASKED = ("kind", "limit")


@lru_cache
def _first_of(many: int) -> CompoundSelect[Any]:
    """The first free ones of each of so many kinds, `kind0` and so on, up to `limit0` and so on."""
    r = t.resources.c
    one_by_one = [
        select(r.kind, r.name)
        .where(r.kind == bindparam(f"kind{n}"), *GRANTABLE)
        .order_by(r.name)
        .limit(bindparam(f"limit{n}", type_=Integer))
        .subquery()
        .select()
        for n in range(many)
    ]
    return union_all(*one_by_one)


def as_candidate(row: Row[Any]) -> Candidate:
    """A row of `resources` as allocation sees it."""
    return Candidate(pool=row.pool, name=row.name, tags=frozenset(row.tags), properties=row.properties)
