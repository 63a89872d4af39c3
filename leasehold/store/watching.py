"""Knowing at once what other processes committed, without asking for each lease."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing

from leasehold.store import events
from leasehold.store.engine import Database

SQLITE_INTERVAL_S = 0.005
"""How often SQLite's `data_version` is looked at while somebody waits: a few microseconds each."""


async def changes(database: Database) -> AsyncGenerator[list[str], None]:
    """Yield lists of leases that something happened to, for as long as somebody asks.

    The first list is empty: it says that from then on no change is missed.
    """
    source = _postgres(database) if database.url.get_backend_name() == "postgresql" else _sqlite(database)
    async with aclosing(source):
        async for leases in source:
            yield leases


async def _sqlite(database: Database) -> AsyncGenerator[list[str], None]:
    assert database.url.database is not None
    connection = sqlite3.connect(database.url.database, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        seen = await database.read(events.last_id)
        yield []
        while True:
            latest = connection.execute("PRAGMA data_version").fetchone()[0]
            if latest != version:
                version = latest
                seen, leases = await database.read(events.changed_since, seen)
                if leases:
                    yield leases
            await asyncio.sleep(SQLITE_INTERVAL_S)
    finally:
        connection.close()


async def _postgres(database: Database) -> AsyncGenerator[list[str], None]:
    import psycopg  # which those on SQLite need not wait for

    dsn = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with connection:
        await connection.execute(f"LISTEN {events.CHANNEL}")
        yield []
        async for note in connection.notifies():
            yield [note.payload]
