"""Deleting what nobody reads any more, a little at a time: whoever writes waits for one slice at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, delete, func, select

from leasehold.model import KEEP_LOGS, LONGEST
from leasehold.store import envelopes as kept
from leasehold.store import specs
from leasehold.store import tables as t
from leasehold.store.engine import Database, Tx

KEEP_DELIVERED = timedelta(days=1)
"""How long a message stays in the outbox after its delivery, for those who look for what went wrong."""

UNCLAIMED = timedelta(days=30)
"""How long the secrets of a request are kept while no worker admits it."""

MOST = 20_000
"""How many rows one call deletes, about; the next call goes on."""

OUTBOX_SLICE, LOG_SLICE = 500, 64
"""Rows that one transaction deletes; one of a log has up to 32 KiB."""

_SHORTEST_PAUSE_S = 0.005

P = ParamSpec("P")
R = TypeVar("R")


def keep_logs(connection: Connection) -> dict[str, timedelta]:
    """How long each pool keeps what its hooks printed."""
    query = select(t.pools.c.name, specs.SPEC_TEXT.label("text")).join(t.specs, t.specs.c.id == t.pools.c.spec)
    return {row.name: specs.from_text(row.text).policy.keep_logs for row in connection.execute(query)}


async def outbox(database: Database, now: datetime | None, most: int) -> int:
    """Delete messages that were delivered longer ago than `KEEP_DELIVERED`, and return how many."""
    deleted, after = 0, 0
    while deleted < most:
        gone, last = await _slice(database, _outbox, now, after)
        deleted += gone
        if last is None:
            break
        after = last
    return deleted


async def envelopes(database: Database, now: datetime | None) -> None:
    """Delete what was kept for requests that need it no more."""

    def forget(tx: Tx) -> int:
        return kept.forget(tx, (now or tx.now) - UNCLAIMED)

    await _slice(database, forget)


def _outbox(tx: Tx, now: datetime | None, after: int) -> tuple[int, int | None]:
    """Look at one slice, and return how many were deleted and where to go on, if there can be more."""
    too_old = (now or tx.now) - KEEP_DELIVERED
    query = select(t.outbox.c.id, t.outbox.c.at, t.outbox.c.delivered_at).where(t.outbox.c.id > after)
    rows = tx.execute(query.order_by(t.outbox.c.id).limit(OUTBOX_SLICE)).all()
    gone = [row.id for row in rows if row.delivered_at is not None and row.delivered_at < too_old]
    if gone:
        tx.execute(delete(t.outbox).where(t.outbox.c.id.in_(gone)))
    # In the order of their numbers messages become younger, so those after a young one need no look.
    more = len(rows) == OUTBOX_SLICE and rows[-1].at < too_old
    return len(gone), rows[-1].id if more else None


async def logs(database: Database, keep: Mapping[str, timedelta], now: datetime | None, most: int) -> int:
    """Delete output that is older than `keep` says for its pool, `KEEP_LOGS` for others, and return how many pieces."""
    deleted = 0
    for pool in await database.read(_pools_with_logs):
        gone = LOG_SLICE
        while gone == LOG_SLICE and deleted < most:
            gone = await _slice(database, _log, pool, keep.get(pool, KEEP_LOGS), now)
            deleted += gone
    await _slice(database, _outputs, now)
    return deleted


def _pools_with_logs(connection: Connection) -> list[str]:
    """Each found by one look into the index, however much there is of it."""
    found: list[str] = []
    while True:
        after = found[-1] if found else ""
        pool = connection.execute(select(func.min(t.logs.c.pool)).where(t.logs.c.pool > after)).scalar()
        if pool is None:
            return found
        found.append(pool)


def _log(tx: Tx, pool: str, keep: timedelta, now: datetime | None) -> int:
    old = select(t.logs.c.id).where(t.logs.c.pool == pool, t.logs.c.at < (now or tx.now) - keep)
    ids = tx.execute(old.order_by(t.logs.c.at).limit(LOG_SLICE)).scalars().all()
    if ids:
        tx.execute(delete(t.logs).where(t.logs.c.id.in_(ids)))
    return len(ids)


def _outputs(tx: Tx, now: datetime | None) -> int:
    """How far output has come is known for as long as any may be kept."""
    old = (now or tx.now) - LONGEST
    gone: int = tx.execute(delete(t.outputs).where(t.outputs.c.at < old)).rowcount
    return gone


async def _slice(database: Database, what: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run one transaction, then leave the database alone for as long as it took, so that others get their turn."""
    begun = time.monotonic()
    done, _ = await database.write(what, *args, **kwargs)
    await asyncio.sleep(max(_SHORTEST_PAUSE_S, time.monotonic() - begun))
    return done
