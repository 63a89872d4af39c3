"""Being woken by what any process commits, and the log that any process can follow."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from sqlalchemy import insert

from leasehold.model import LogChunk
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from tests.conftest import NewDatabase
from tests.contract.store_lab import Clock, Lab, file, hosts, spec

PATIENCE_S = 30

_ANOTHER_PROCESS = """
import asyncio, sys
from leasehold.store.store import SqlStore
from tests.contract.store_lab import admission, request
from leasehold.model import Item
store = SqlStore(sys.argv[1])
asyncio.run(store.admit(admission(request("theirs", Item(pool="r640"))), "run"))
store.close()
"""


async def told_of(news: AsyncIterator[list[str]], lease: str) -> None:
    """Return once the news name a lease."""
    async with asyncio.timeout(PATIENCE_S):
        async for leases in news:
            if lease in leases:
                return


class TestNews:
    """Whoever watches learns of every commit, whichever process made it."""

    @pytest.fixture
    async def news(self, lab: Lab) -> AsyncIterator[AsyncIterator[list[str]]]:
        await lab.pool("r640", 2)
        watcher = SqlStore(lab.url)
        async with aclosing(watcher.changes()) as changes:
            # From the first, empty news on, nothing is missed.
            assert await anext(changes) == []
            yield changes
        watcher.close()

    async def test_another_store_of_this_process(self, lab: Lab, news: AsyncIterator[list[str]]) -> None:
        await lab.submit("mine")
        await told_of(news, "mine")

    async def test_another_process(self, lab: Lab, news: AsyncIterator[list[str]]) -> None:
        command = [sys.executable, "-c", _ANOTHER_PROCESS, lab.url]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=PATIENCE_S)
        await told_of(news, "theirs")

    async def test_every_step_of_a_lease_is_told(self, lab: Lab, news: AsyncIterator[list[str]]) -> None:
        await lab.submit("a")
        await told_of(news, "a")
        await lab.store.activate("a")
        await told_of(news, "a")
        await lab.extend("a", "1h")
        await told_of(news, "a")
        await lab.close("a")
        await told_of(news, "a")

    async def test_a_waiter_is_told_of_the_grant_that_anothers_release_brings(
        self, lab: Lab, news: AsyncIterator[list[str]]
    ) -> None:
        for name in ("a", "b", "c"):
            await lab.submit(name)
        await told_of(news, "c")
        await lab.close("a")
        await told_of(news, "c")

    async def test_what_was_undone_is_not_told(self, lab: Lab, news: AsyncIterator[list[str]]) -> None:
        await lab.store.apply(file((spec("vm"), hosts(1))), "operator", dry_run=True)
        await lab.submit("a")
        await told_of(news, "a")
        assert [pool.spec.name for pool in await lab.store.pools()] == ["r640"]


async def test_the_outbox_wakes_who_waits_for_it(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    await lab.submit("b")
    waiting = asyncio.create_task(lab.store.outbox_posted(PATIENCE_S))
    await lab.close("a")
    async with asyncio.timeout(PATIENCE_S / 2):
        await waiting


class TestLog:
    """Pieces of output, kept in order, readable while they are written."""

    @pytest.fixture
    async def logs(self, new_database: NewDatabase) -> AsyncIterator[SqlLogStore]:
        self.url = new_database("logs")
        logs = SqlLogStore(self.url, Clock())
        yield logs
        logs.close()

    async def add(self, logs: SqlLogStore, data: bytes, lease: str = "a", resource: str = "host01") -> None:
        await logs.append(
            run=1,
            lease=lease,
            pool="r640",
            resource=resource,
            epoch=7,
            stage="wipe",
            attempt=1,
            stream="stdout",
            data=data,
        )

    async def test_pieces_come_back_in_their_order_and_byte_for_byte(self, logs: SqlLogStore) -> None:
        pieces = [bytes([n]) * 10 for n in range(256)]
        for piece in pieces:
            await self.add(logs, piece)
        assert [chunk.data for chunk in await logs.read("a", limit=1000)] == pieces

    async def test_a_piece_says_where_it_comes_from(self, logs: SqlLogStore) -> None:
        await self.add(logs, b"hello")
        (chunk,) = await logs.read("a")
        assert chunk == LogChunk(
            id=chunk.id,
            at=Clock().now,
            run=1,
            lease="a",
            pool="r640",
            resource="host01",
            epoch=7,
            stage="wipe",
            attempt=1,
            stream="stdout",
            data=b"hello",
        )

    async def test_a_lease_sees_its_own_log_only(self, logs: SqlLogStore) -> None:
        await self.add(logs, b"mine")
        await self.add(logs, b"theirs", lease="b")
        assert [chunk.data for chunk in await logs.read("a")] == [b"mine"]
        assert await logs.read("c") == []

    async def test_a_reader_goes_on_where_it_was(self, logs: SqlLogStore) -> None:
        for n in range(5):
            await self.add(logs, b"%d" % n)
        seen, after = b"", 0
        while chunks := await logs.read("a", after, limit=2):
            seen += b"".join(chunk.data for chunk in chunks)
            after = chunks[-1].id
        assert seen == b"01234"

    async def test_another_process_reads_while_this_one_writes(self, logs: SqlLogStore) -> None:
        reader = SqlLogStore(self.url)
        try:
            for n in range(3):
                await self.add(logs, b"%d" % n)
                assert [chunk.data for chunk in await reader.read("a")] == [b"%d" % m for m in range(n + 1)]
        finally:
            reader.close()

    async def test_a_follower_misses_nothing_of_two_hooks_that_write_at_once(self, logs: SqlLogStore) -> None:
        if self.url.startswith("sqlite"):
            pytest.skip("SQLite has one writer at a time")
        # Given a hook whose piece has its number, but is not committed yet.
        other, numbered, go_on = SqlLogStore(self.url, Clock()), threading.Event(), threading.Event()

        def slowly(tx: Tx) -> None:
            place = {"lease": "a", "pool": "r640", "resource": "host02", "epoch": 8, "stage": "wipe", "attempt": 1}
            tx.execute(insert(t.logs).values(at=tx.now, stream="stdout", data=b"slow", **place))
            numbered.set()
            go_on.wait(PATIENCE_S)

        slow = asyncio.create_task(other._database.write(slowly))
        await asyncio.to_thread(numbered.wait, PATIENCE_S)
        # When another one writes, at once or as soon as it may, and somebody follows both.
        quick = asyncio.create_task(self.add(logs, b"quick"))
        await asyncio.wait([quick], timeout=0.3)
        first = await logs.read("a")
        go_on.set()
        await asyncio.gather(slow, quick)
        rest = await logs.read("a", first[-1].id if first else 0)
        other.close()
        # Then the follower sees both.
        assert sorted(chunk.data for chunk in (*first, *rest)) == [b"quick", b"slow"]
