"""Facts: what the service remembers of itself, and the suspension of matching among it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from leasehold.store import tables as t
from leasehold.store.engine import MEMO, Tx

SUSPENSION = "matching_suspended"
"""While this fact stands nothing is granted: the database does not know all that is lent."""

_GET = select(t.facts.c.value).where(t.facts.c.key == bindparam("key"))
_ALL = select(t.facts.c.key, t.facts.c.value)
_READ = "facts"


def get(connection: Connection, key: str) -> Any:
    """A fact, or None. A writing transaction reads the few that there are together, once."""
    memo = connection.info.get(MEMO)
    if memo is None:
        return connection.execute(_GET, {"key": key}).scalar_one_or_none()
    if _READ not in memo:
        memo[_READ] = {row.key: row.value for row in connection.execute(_ALL)}
    return memo[_READ].get(key)


def put(tx: Tx, key: str, value: Any) -> None:
    """Write a fact down, in place of what was known."""
    done = tx.execute(update(t.facts).where(t.facts.c.key == key).values(value=value))
    if not done.rowcount:
        tx.execute(insert(t.facts).values(key=key, value=value))
    _forget(tx)


def drop(tx: Tx, key: str) -> None:
    """Forget a fact."""
    tx.execute(delete(t.facts).where(t.facts.c.key == key))
    _forget(tx)


def _forget(tx: Tx) -> None:
    tx.connection.info[MEMO].pop(_READ, None)


def suspended(connection: Connection) -> str | None:
    """Why nothing is granted, or None."""
    fact = get(connection, SUSPENSION)
    return None if fact is None else str(fact["reason"])
