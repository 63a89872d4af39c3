"""What is free, read no further than it matters: a few of each kind, whatever the size of the pool."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Integer,
    Row,
    Select,
    bindparam,
    func,
    select,
    text,
    true,
    union_all,
)

from leasehold.allocation import Candidate, Want
from leasehold.model import Item, ResourceState
from leasehold.store import moves
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue, ResourceKind, is_particular

# Word by word the condition of `ix_resources_grantable` and `ix_resources_free`: no database uses such an index for one
# whose values it does not know when it plans.
GRANTABLE = (text(t.GRANTABLE),)

_KEPT = (
    t.resources.c.state == ResourceState.FREE,
    t.resources.c.offline_since.is_(None),
    ~t.resources.c.draining,
    ~t.resources.c.suspect,
)

_MANY = 24
"""So many kinds are no longer looked up one by one."""

_BESIDES = 8
"""So many more are read than are needed: mostly that is all there is, and nobody has to look again."""


class FreeStock:
    """Free resources, without those that were taken since it was made."""

    def __init__(self, connection: Connection, catalogue: Catalogue, *, is_scarce: bool) -> None:
        """`is_scarce`: others want the same, so that there may be little of any kind."""
        self._connection = connection
        self._catalogue = catalogue
        self._is_scarce = is_scarce
        self._rows_of: dict[int, list[Any]] = {}
        self._complete: set[int] = set()
        self._gone: set[tuple[str, str]] = set()

    def free_for(self, wants: Sequence[Want]) -> Sequence[Candidate]:
        """See `leasehold.allocation.Stock`."""
        items = [want.item for want in wants]
        kinds = self._catalogue.lending(items)
        kept = self._kept({want.share for want in wants if want.share is not None}, kinds)
        return [*kept, *self._open(wants, items, kinds)]

    def _kept(self, shares: Collection[str], kinds: Sequence[ResourceKind]) -> list[Candidate]:
        """What is kept for these keys: it is granted before anything else, for nobody else may have it."""
        if not shares:
            return []
        query = select(t.resources).where(t.resources.c.share_key.in_(shares), *_KEPT)
        wanted = {kind.id for kind in kinds}
        rows = self._connection.execute(query.order_by(t.resources.c.pool, t.resources.c.name)).all()
        found = [replace(as_candidate(row), kept_for=row.share_key) for row in rows if row.kind in wanted]
        return [candidate for candidate in found if candidate.key not in self._gone]

    def _open(self, wants: Sequence[Want], items: Sequence[Item], kinds: Sequence[ResourceKind]) -> Sequence[Candidate]:
        """What is free for anyone."""
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
        start, step = 0, (_MANY if self._is_scarce else 1) if any_kind else len(kinds)
        while start < len(kinds):
            some = kinds[start : start + step]
            start, step = start + step, _MANY
            self._read(some, need)
            for kind in some:
                found += [kind.candidate(row.name, row) for row in islice(self._left(kind), need)]
            if any_kind and len(found) >= need:
                break
        return found

    def _read(self, kinds: Sequence[ResourceKind], need: int) -> None:
        """Know at least `need` of each kind that are not gone, or all there are."""
        short = [k for k in kinds if k.id not in self._complete and sum(1 for _ in self._left(k)) < need]
        if len(short) > _MANY:
            self._read_whole(short)
        elif short:
            self._read_some(short, need)

    def _left(self, kind: ResourceKind) -> Iterator[Any]:
        return (row for row in self._rows_of.get(kind.id, ()) if (kind.pool, row.name) not in self._gone)

    def _read_some(self, kinds: Sequence[ResourceKind], need: int) -> None:
        limit = need + max(len(self._rows_of.get(kind.id, ())) for kind in kinds) + _BESIDES
        rows: dict[int, list[Any]] = {kind.id: [] for kind in kinds}
        for row in _first_of(self._connection, list(rows), limit):
            rows[row.kind].append(row)
        for kind, found in rows.items():
            self._rows_of[kind] = sorted(found, key=attrgetter("name"))
            if len(found) < limit:
                self._complete.add(kind)

    def _read_whole(self, kinds: Sequence[ResourceKind]) -> None:
        query = select(*moves.STANDING).where(t.resources.c.pool.in_({kind.pool for kind in kinds}), *GRANTABLE)
        wanted = {kind.id for kind in kinds}
        self._rows_of.update({kind: [] for kind in wanted})
        for row in self._connection.execute(query.order_by(t.resources.c.name)):
            if row.kind in wanted:
                self._rows_of[row.kind].append(row)
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


def _first_of(connection: Connection, kinds: Sequence[int], limit: int) -> Iterable[Row[Any]]:
    """The first free ones of each of these kinds."""
    if connection.dialect.name == "postgresql":
        return connection.execute(_FIRST_OF, {"kinds": kinds, "limit": limit})
    asked = {f"kind{n}": kind for n, kind in enumerate(kinds)}
    return connection.execute(_first_one_by_one(len(kinds)), {**asked, "limit": limit})


def _free(kind: ColumnElement[int]) -> Select[Any]:
    few = bindparam("limit", type_=Integer)
    return select(*moves.STANDING).where(t.resources.c.kind == kind, *GRANTABLE).order_by(t.resources.c.name).limit(few)


_KINDS = func.unnest(bindparam("kinds", type_=ARRAY(BigInteger))).table_valued("kind", name="given").render_derived()
_EACH = _free(_KINDS.c.kind).correlate(_KINDS).lateral()
_FIRST_OF = select(_EACH).select_from(_KINDS.join(_EACH, true()))
"""What PostgreSQL plans once, however many kinds."""


@lru_cache
def _first_one_by_one(many: int) -> CompoundSelect[Any]:
    """The same for SQLite, of so many kinds, `kind0` and so on."""
    return union_all(*(_free(bindparam(f"kind{n}")).subquery().select() for n in range(many)))


def as_candidate(row: Row[Any]) -> Candidate:
    """A row of `resources` as allocation sees it."""
    return Candidate(pool=row.pool, name=row.name, tags=frozenset(row.tags), properties=row.properties, record=row)
