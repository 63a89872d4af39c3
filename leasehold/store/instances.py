"""What is known of resources that pools make: their numbers and names, their data, how often they were used."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, delete, insert, select, tuple_, update

from leasehold import naming
from leasehold.model import PoolSpec
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_I = t.instances.c
_COUNTER = "instance"
"""Counts all resources that were ever made."""

_THIS = (_I.pool == bindparam("pool_"), _I.name == bindparam("name_"))
_ROW = select(t.instances).where(*_THIS)
_DATA = update(t.instances).where(*_THIS).values(data=bindparam("data_"))
_FREED = update(t.instances).where(*_THIS).values(free_since=bindparam("at"))
_GRANTED = update(t.instances).where(*_THIS).values(free_since=None, uses=_I.uses + 1)
_FIRST = update(t.instances).where(*_THIS, _I.first_granted_at.is_(None)).values(first_granted_at=bindparam("at"))
_UNGRANTED = (
    update(t.instances)
    .where(*_THIS)
    .values(uses=_I.uses - 1, first_granted_at=case((_I.uses > 1, _I.first_granted_at), else_=None))
)
_TROUBLE = update(t.instances).where(*_THIS).values(trouble=bindparam("why"))


def _keys(pool: str, name: str) -> dict[str, Any]:
    return {"pool_": pool, "name_": name}


def of(connection: Connection, pool: str, name: str) -> Row[Any] | None:
    """What is known of a resource that its pool has made; None of any other."""
    return connection.execute(_ROW, _keys(pool, name)).one_or_none()


def of_all(connection: Connection, those: Collection[tuple[str, str]]) -> dict[tuple[str, str], Row[Any]]:
    """What is known of these, by pool and name."""
    if not those:
        return {}
    rows = connection.execute(select(t.instances).where(tuple_(_I.pool, _I.name).in_(those)))
    return {(row.pool, row.name): row for row in rows}


def begin(tx: Tx, spec: PoolSpec, many: int) -> list[str]:
    """Give so many new resources of a pool their numbers and names, which are written down before anything is made."""
    counters = {counter: _taken(tx, counter, many) for counter in spec.named_counters}
    made = []
    for index, (number, place, name) in enumerate(_names(tx, spec, many)):
        mine = {counter: values[index] for counter, values in counters.items()}
        add(tx, spec.name, name, number=number, place=place, counters=mine)
        for counter, value in mine.items():
            tx.execute(insert(t.counted).values(counter=counter, value=value, pool=spec.name, name=name))
        made.append(name)
    return made


def _names(tx: Tx, spec: PoolSpec, many: int) -> list[tuple[int, int, str]]:
    """Numbers, the lowest free places and names that nothing in the pool has, whatever its place is."""
    taken = set(tx.execute(select(_I.place).where(_I.pool == spec.name)).scalars())
    names = set(tx.execute(select(t.resources.c.name).where(t.resources.c.pool == spec.name)).scalars())
    number, place = last_number(tx), -1
    found: list[tuple[int, int, str]] = []
    while len(found) < many:
        number, place = number + 1, place + 1
        while place in taken:
            place += 1
        name = naming.name(spec.name_pattern, pool=spec.name, number=number, place=place, now=tx.now)
        if name not in names:
            found.append((number, place, name))
        elif not naming.has_place(spec.name_pattern):
            # Another number makes another name, at the same place.
            place -= 1
    _count_to(tx, number)
    return found


def last_number(tx: Tx) -> int:
    """The number of the resource that was made last."""
    number: int = tx.execute(select(t.counters.c.value).where(t.counters.c.name == _COUNTER)).scalar_one()
    return number


def skip(tx: Tx, many: int) -> None:
    """Leave out so many numbers, which may have been given since a copy of the database was made."""
    _count_to(tx, last_number(tx) + many)


def _count_to(tx: Tx, number: int) -> None:
    tx.execute(update(t.counters).where(t.counters.c.name == _COUNTER).values(value=number))


def add(
    tx: Tx,
    pool: str,
    name: str,
    *,
    number: int | None = None,
    place: int | None = None,
    counters: Mapping[str, int] | None = None,
) -> None:
    """Begin to know of a resource; one that was found has no numbers."""
    known = {"number": number, "place": place, "counters": dict(counters or {}), "created_at": tx.now, "uses": 0}
    tx.execute(insert(t.instances).values(pool=pool, name=name, **known))


def _taken(tx: Tx, counter: str, many: int) -> list[int]:
    """The lowest numbers of a counter that no pool has taken."""
    values = tx.execute(select(t.counted.c.value).where(t.counted.c.counter == counter)).scalars()
    return _lowest(values, many)


def _lowest(taken: Iterable[int | None], many: int) -> list[int]:
    known, found, number = set(taken), list[int](), 0
    while len(found) < many:
        if number not in known:
            found.append(number)
        number += 1
    return found


def ready(tx: Tx, pool: str, name: str) -> None:
    """Note that a resource can be granted for the first time."""
    tx.execute(update(t.instances).where(_I.pool == pool, _I.name == name).values(ready_at=tx.now))


def keep_data(tx: Tx, pool: str, name: str, data: bytes) -> None:
    """Keep what `create` printed, to the byte."""
    tx.execute(_DATA, {**_keys(pool, name), "data_": data})


def freed(tx: Tx, those: Sequence[tuple[str, str]]) -> None:
    """Note that resources are free from now on."""
    if those:
        tx.write(_FREED, [{**_keys(pool, name), "at": tx.now} for pool, name in those])


def granted(tx: Tx, those: Sequence[tuple[str, str]]) -> None:
    """Note that resources are granted once more."""
    if those:
        tx.write(_GRANTED, [_keys(pool, name) for pool, name in those])
        tx.write(_FIRST, [{**_keys(pool, name), "at": tx.now} for pool, name in those])


def ungranted(tx: Tx, those: Sequence[tuple[str, str]]) -> None:
    """Take a grant back of which no use was made."""
    if those:
        tx.write(_UNGRANTED, [_keys(pool, name) for pool, name in those])


def in_trouble(tx: Tx, pool: str, name: str, why: str | None) -> None:
    """Note why a resource is not deleted yet."""
    tx.execute(_TROUBLE, {**_keys(pool, name), "why": why})


def forget(tx: Tx, pool: str, name: str) -> None:
    """Know nothing of a resource any more: its numbers are free again."""
    tx.execute(delete(t.counted).where(t.counted.c.pool == pool, t.counted.c.name == name))
    tx.execute(delete(t.instances).where(_I.pool == pool, _I.name == name))
