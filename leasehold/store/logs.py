"""What hooks printed, in capped pieces, in a database of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, text, update

from leasehold.commands import STAGE, Frame, Stream
from leasehold.model import LogChunk
from leasehold.ports import Clock, LogFilter, OutputOf
from leasehold.store import pruning
from leasehold.store import tables as t
from leasehold.store.engine import LOG_LOCK, Database, Tx

WATCH_INTERVAL_S = 0.1
"""How often one process looks for new output while anybody in it follows a log, however many do."""

_EVERYTHING = LogFilter()


class SqlLogStore:
    """The log store on SQLite or PostgreSQL; any process can read while others write."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        # Who follows a log goes by its numbers: they must become visible in their order.
        self._database = Database(url, clock, LOG_LOCK)

    async def append(
        self,
        *,
        run: int | None,
        lease: str,
        pool: str,
        resource: str,
        epoch: int,
        stage: str,
        attempt: int,
        stream: str,
        data: bytes,
    ) -> None:
        """Add a piece of output."""
        values = {
            "run": run,
            "lease": lease,
            "pool": pool,
            "resource": resource,
            "epoch": epoch,
            "stage": stage,
            "attempt": attempt,
            "stream": stream,
            "data": data,
        }

        def add(tx: Tx) -> None:
            tx.execute(insert(t.logs).values(at=tx.now, **values))

        await self._database.write(add)

    async def put_output(self, about: OutputOf, offset: int, pieces: Sequence[Frame]) -> int:
        """Add output of a command that begins at `offset`; return how far it has come; see `ports.LogStore`."""

        def put(tx: Tx) -> int:
            this = (t.outputs.c.lease == about.lease, t.outputs.c.attempt == about.attempt)
            known = tx.execute(select(t.outputs).where(*this)).one_or_none()
            here: int = known.offset if known else 0
            if here != offset or (known is not None and known.closed):
                # Come before, or before what is still missing, or after the end.
                return here
            rows = [
                {
                    "at": datetime.fromtimestamp(one.at_us / 1e6, UTC),
                    "run": None,
                    "lease": about.lease,
                    "pool": about.pool,
                    "resource": about.resource,
                    "epoch": about.epoch,
                    "stage": STAGE,
                    "attempt": about.attempt,
                    "stream": Stream.NAMES[one.stream],
                    "data": one.data,
                }
                for one in pieces
                if one.stream != Stream.END
            ]
            if rows:
                tx.execute(insert(t.logs), rows)
            after = offset + sum(one.size for one in pieces)
            closed = any(one.stream == Stream.END for one in pieces)
            values = {"offset": after, "closed": closed, "at": tx.now}
            if known is None:
                tx.execute(insert(t.outputs), {"lease": about.lease, "attempt": about.attempt, **values})
            else:
                tx.execute(update(t.outputs).where(*this).values(values))
            return after

        after, _ = await self._database.write(put)
        return after

    async def outputs(self, lease: str) -> dict[int, bool]:
        """The attempts of a lease's command of which output has come, each with whether it is all of it."""
        query = select(t.outputs.c.attempt, t.outputs.c.closed).where(t.outputs.c.lease == lease)
        return await self._database.read(lambda c: {row.attempt: row.closed for row in c.execute(query)})

    async def read(self, lease: str, after: int = 0, limit: int = 50, only: LogFilter = _EVERYTHING) -> list[LogChunk]:
        """The pieces of a lease's log, or of a part of it, after one of them, oldest first."""

        def find(connection: Connection) -> list[LogChunk]:
            # Where there is none, word by word the condition of the index for that.
            mine = t.logs.c.lease == lease if lease else text(t.NO_LEASE)
            query = select(t.logs).where(mine, t.logs.c.id > after)
            for column, value in (
                (t.logs.c.run, only.run),
                (t.logs.c.pool, only.pool),
                (t.logs.c.resource, only.resource),
                (t.logs.c.stage, only.stage),
                (t.logs.c.attempt, only.attempt),
                (t.logs.c.stream, only.stream),
            ):
                if value is not None:
                    query = query.where(column == value)
            rows: Any = connection.execute(query.order_by(t.logs.c.id).limit(limit))
            return [LogChunk(**row._mapping) for row in rows]

        return await self._database.read(find)

    async def changes(self) -> AsyncGenerator[list[str], None]:
        """Yield the leases whose logs grew, by whatever process; the first, empty list says: none is missed now."""
        seen = await self._database.read(_last_id)
        yield []
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            seen, leases = await self._database.read(_grown_since, seen)
            if leases:
                yield leases

    async def prune(self, keep: Mapping[str, timedelta], now: datetime | None = None, most: int = pruning.MOST) -> int:
        """Delete what is older than `keep` says for its pool, and return how many pieces; see `ports.LogStore`."""
        return await pruning.logs(self._database, keep, now, most)

    def close(self) -> None:
        """Finish what is being written."""
        self._database.close()


def _last_id(connection: Connection) -> int:
    return connection.execute(select(func.max(t.logs.c.id))).scalar() or 0


def _grown_since(connection: Connection, after: int) -> tuple[int, list[str]]:
    """The last piece's number, and the leases with pieces after `after`."""
    query = select(t.logs.c.lease, func.max(t.logs.c.id).label("last")).where(t.logs.c.id > after)
    rows = connection.execute(query.group_by(t.logs.c.lease)).all()
    return max((row.last for row in rows), default=after), [row.lease for row in rows]
