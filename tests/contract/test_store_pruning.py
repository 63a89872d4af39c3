"""What is deleted after its time, what stays, and who has to wait meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select

from leasehold.model import Outcome, Policy
from leasehold.ports import LogFilter
from leasehold.pruning import Pruned, prune
from leasehold.store import pruning
from leasehold.store import tables as t
from leasehold.store.logs import SqlLogStore
from tests.conftest import NewDatabase
from tests.contract.store_lab import Lab

PATIENCE_S = 30


@pytest.fixture
async def logs(new_database: NewDatabase, lab: Lab) -> AsyncIterator[SqlLogStore]:
    """Logs by the clock of the lab."""
    logs = SqlLogStore(new_database("logs"), lab.clock)
    yield logs
    logs.close()


async def printed(
    logs: SqlLogStore, *texts: str, lease: str = "a", pool: str = "r640", run: int | None = 1, stage: str = "wipe"
) -> None:
    for text in texts:
        place = {"lease": lease, "pool": pool, "resource": "host01", "stage": stage, "stream": "stdout"}
        await logs.append(run=run, epoch=7, attempt=1, data=text.encode(), **place)


async def left(logs: SqlLogStore, lease: str = "a", after: int = 0, only: LogFilter | None = None) -> list[str]:
    return [chunk.data.decode() for chunk in await logs.read(lease, after, 100_000, only or LogFilter())]


async def posted(lab: Lab) -> int:
    """How many messages the outbox has, delivered ones too."""
    query = select(func.count()).select_from(t.outbox)
    return await lab.store.database.read(lambda c: c.execute(query).scalar_one())


class TestLogs:
    async def test_each_pool_keeps_its_own_as_long_as_it_says(self, lab: Lab, logs: SqlLogStore) -> None:
        await lab.pool("r640", policy=Policy(keep_logs=timedelta(days=2)))
        await lab.pool("vm", policy=Policy(keep_logs=timedelta(days=90)))
        for pool in ("r640", "vm", "gone"):
            await printed(logs, "old", pool=pool, lease=pool)
        lab.clock.forward(days=2)
        await printed(logs, "new", lease="r640")
        assert (await prune(lab.store, logs)).logs == 0
        lab.clock.forward(seconds=1)
        assert (await prune(lab.store, logs)).logs == 1
        assert [await left(logs, pool) for pool in ("r640", "vm", "gone")] == [["new"], ["old"], ["old"]]
        # What is left of a pool that is gone goes after 30 days.
        lab.clock.forward(days=28)
        assert (await prune(lab.store, logs)).logs == 2
        assert [await left(logs, pool) for pool in ("r640", "vm", "gone")] == [[], ["old"], []]

    async def test_the_time_can_be_given(self, lab: Lab, logs: SqlLogStore) -> None:
        await printed(logs, "old")
        later: datetime = lab.clock.now + timedelta(days=31)
        assert (await prune(lab.store, logs, later)).logs == 1

    async def test_a_reader_whose_place_is_gone_goes_on(self, lab: Lab, logs: SqlLogStore) -> None:
        await printed(logs, "one", "two", "three")
        after = (await logs.read("a"))[1].id
        lab.clock.forward(days=31)
        await printed(logs, "four")
        await prune(lab.store, logs)
        assert await left(logs, after=after) == ["four"]

    async def test_much_of_it_goes_in_slices_between_which_others_write(self, lab: Lab, logs: SqlLogStore) -> None:
        await printed(logs, *(["old"] * (3 * pruning.LOG_SLICE + 1)))
        lab.clock.forward(days=31)
        going = asyncio.create_task(logs.prune({}))
        written = 0
        while not going.done():
            await printed(logs, "new")
            written += 1
        assert await going == 3 * pruning.LOG_SLICE + 1
        assert written >= 3
        assert await left(logs) == ["new"] * written

    async def test_one_call_deletes_a_bounded_part_and_the_next_goes_on(self, lab: Lab, logs: SqlLogStore) -> None:
        await printed(logs, *(["old"] * (2 * pruning.LOG_SLICE)))
        lab.clock.forward(days=31)
        assert [await logs.prune({}, most=1) for _ in range(3)] == [pruning.LOG_SLICE, pruning.LOG_SLICE, 0]


class TestParts:
    async def test_of_one_run_one_stage_or_one_resource(self, logs: SqlLogStore) -> None:
        await printed(logs, "waiting", run=None)
        await printed(logs, "one", run=1)
        await printed(logs, "two", run=2)
        await printed(logs, "three", run=3, stage="validate")
        await printed(logs, "four", run=4, pool="vm")
        assert await left(logs, only=LogFilter(run=2)) == ["two"]
        assert await left(logs, only=LogFilter(stage="wipe")) == ["waiting", "one", "two", "four"]
        assert await left(logs, only=LogFilter(pool="r640", resource="host01", attempt=1, stage="validate")) == [
            "three"
        ]
        assert await left(logs, only=LogFilter(attempt=2)) == []

    async def test_who_follows_is_told_which_logs_grew(self, logs: SqlLogStore) -> None:
        await printed(logs, "before")
        async with aclosing(logs.changes()) as news, asyncio.timeout(PATIENCE_S):
            assert await anext(news) == []
            await printed(logs, "x", "y", lease="a")
            await printed(logs, "z", lease="b")
            seen: set[str] = set()
            while seen != {"a", "b"}:
                seen |= set(await anext(news))


class TestOutbox:
    async def served(self, lab: Lab, lease: str) -> None:
        """A lease that waits and is granted, which posts a message to its workflow."""
        await lab.take(f"before {lease}")
        await lab.submit(lease)
        await lab.close(f"before {lease}")
        await lab.close(lease, Outcome.CANCELLED)

    async def test_what_was_delivered_goes_after_a_day(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await self.served(lab, "a")
        await self.served(lab, "b")
        first, _ = await lab.store.outbox_due()
        await lab.store.outbox_delivered([first.id])
        lab.clock.forward(days=1)
        assert await lab.store.prune() == 0
        lab.clock.forward(seconds=1)
        assert await lab.store.prune() == 1
        # What nobody delivered stays, however old it is.
        lab.clock.forward(days=30)
        assert await lab.store.prune() == 0
        assert [message.lease for message in await lab.store.outbox_due()] == ["b"]

    async def test_much_of_it_goes_in_slices(
        self, lab: Lab, logs: SqlLogStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pruning, "OUTBOX_SLICE", 2)
        await lab.pool("r640", 1)
        for n in range(5):
            await self.served(lab, f"old{n}")
        due = await lab.store.outbox_due()
        await lab.store.outbox_delivered([message.id for message in due if message.lease != "old1"])
        lab.clock.forward(days=2)
        await self.served(lab, "new")
        assert await lab.store.prune(most=1) == 1
        assert await prune(lab.store, logs) == Pruned(logs=0, outbox=3)
        assert await posted(lab) == 2


async def test_leases_runs_and_events_stay(lab: Lab, logs: SqlLogStore) -> None:
    await lab.pool("r640", 1, "wipe")
    (claim,) = (await lab.submit("a")).claims
    await lab.run("a", claim)
    await lab.close("a", Outcome.CANCELLED)
    before = [await lab.lease("a"), await lab.events("a"), await lab.store.keep_logs()]
    lab.clock.forward(days=300)
    await prune(lab.store, logs)
    assert [await lab.lease("a"), await lab.events("a"), await lab.store.keep_logs()] == before
