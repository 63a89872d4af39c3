"""Growth: how creations in dynamic pools go, for the circuit breaker and for whoever asks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from leasehold import sizing
from leasehold.model import Circuit, Growth
from leasehold.sizing import Attempts
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_G = t.growth.c
_NEW = {"starts": 0, "successes": 0, "seconds": 0.0, "failures": 0, "first_grants": 0, "first_grant_seconds": 0.0}
_TIMES = ("retry_at", "last_start_at", "last_success_at", "trouble", "list_trouble")
_FIRST_GRANT = (
    update(t.growth)
    .where(_G.pool == bindparam("pool_"))
    .values(first_grants=_G.first_grants + 1, first_grant_seconds=_G.first_grant_seconds + bindparam("waited"))
)


def of(connection: Connection, pools: Collection[str]) -> dict[str, Row[Any]]:
    """How creations go in these pools; a pool in which there was none is left out."""
    rows = connection.execute(select(t.growth).where(_G.pool.in_(pools)))
    return {row.pool: row for row in rows}


def of_pool(connection: Connection, pool: str) -> Row[Any] | None:
    """How creations go in this pool; None where there was none."""
    return of(connection, [pool]).get(pool)


def shown(connection: Connection, pools: Collection[str]) -> dict[str, Growth]:
    """How creations go in these pools, as people are told it."""
    known = of(connection, pools)
    strays = select(t.strays.c.pool, func.count().label("many")).where(t.strays.c.pool.in_(pools))
    found = {row.pool: row.many for row in connection.execute(strays.group_by(t.strays.c.pool))}
    return {pool: _shown(known.get(pool), found.get(pool, 0)) for pool in pools}


def _shown(row: Row[Any] | None, strays: int) -> Growth:
    if row is None:
        values: dict[str, Any] = {**_NEW, **dict.fromkeys(_TIMES)}
        row = cast(Row[Any], SimpleNamespace(**values))
    circuit = Circuit.OPEN if attempts(row).is_open else Circuit.PAUSING if row.failures else Circuit.CLOSED
    return Growth(
        starts=row.starts,
        successes=row.successes,
        seconds=row.seconds,
        failures=row.failures,
        circuit=circuit,
        retry_at=row.retry_at,
        trouble=row.trouble,
        last_attempt_at=row.last_start_at,
        last_success_at=row.last_success_at,
        first_grants=row.first_grants,
        first_grant_seconds=row.first_grant_seconds,
        list_trouble=row.list_trouble,
        strays=strays,
    )


def attempts(row: Row[Any] | None) -> Attempts:
    """What of it decides whether more is created."""
    if row is None:
        return Attempts()
    return Attempts(last_start_at=row.last_start_at, failures=row.failures, retry_at=row.retry_at)


def begun(tx: Tx, pool: str) -> None:
    """Note that a creation begins."""
    change(tx, pool, last_start_at=tx.now)


def ended(tx: Tx, pool: str, seconds: float, failed: str | None) -> None:
    """Note how a creation ended."""
    row = of_pool(tx.connection, pool)
    starts, failures = (row.starts, row.failures) if row else (0, 0)
    if failed is None:
        successes, total = (row.successes, row.seconds) if row else (0, 0.0)
        more: dict[str, Any] = {
            "successes": successes + 1,
            "seconds": total + seconds,
            "failures": 0,
            "retry_at": None,
            "last_success_at": tx.now,
            "trouble": None,
        }
    else:
        more = {
            "failures": failures + 1,
            "retry_at": tx.now + sizing.pause_after(failures + 1),
            "trouble": failed,
        }
    change(tx, pool, starts=starts + 1, last_end_at=tx.now, **more)


def granted(tx: Tx, instances: Iterable[Row[Any]]) -> None:
    """Note how long those waited for a holder that are granted for the first time."""
    first = [one for one in instances if one.first_granted_at is None and one.ready_at is not None]
    if first:
        waited = [{"pool_": one.pool, "waited": (tx.now - one.ready_at).total_seconds()} for one in first]
        tx.write(_FIRST_GRANT, waited)


def change(tx: Tx, pool: str, **values: Any) -> None:
    """Change what is known of a pool."""
    done = tx.execute(update(t.growth).where(_G.pool == pool).values(**values))
    if not done.rowcount:
        tx.execute(insert(t.growth).values(pool=pool, **{**_NEW, **values}))
