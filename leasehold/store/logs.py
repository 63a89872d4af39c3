"""What hooks printed, in capped pieces, in a database of its own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select

from leasehold.model import LogChunk
from leasehold.ports import Clock
from leasehold.store import tables as t
from leasehold.store.engine import LOG_LOCK, Database, Tx


class SqlLogStore:
    """The log store on SQLite or PostgreSQL; any process can read while others write."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        # Who follows a log goes by its numbers: they must become visible in their order.
        self._database = Database(url, clock, LOG_LOCK)

    async def append(
        self, *, lease: str, pool: str, resource: str, epoch: int, stage: str, attempt: int, stream: str, data: bytes
    ) -> None:
        """Add a piece of output."""
        values = {
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

    async def read(self, lease: str, after: int = 0, limit: int = 200) -> list[LogChunk]:
        """The pieces of a lease's log after one of them, oldest first."""

        def find(connection: Connection) -> list[LogChunk]:
            query = select(t.logs).where(t.logs.c.lease == lease, t.logs.c.id > after)
            rows: Any = connection.execute(query.order_by(t.logs.c.id).limit(limit))
            return [LogChunk(**row._mapping) for row in rows]

        return await self._database.read(find)

    def close(self) -> None:
        """Finish what is being written."""
        self._database.close()
