"""The lab of the benchmark: its rows are copied, and have to be such as the store would have written."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

from leasehold.ports import LeaseFilter
from leasehold.store import tables as t
from tests.bench.lab import ANY_BOARD, FREE, LARGE_BOARD, OWNERS, POOL, SHAPES, BenchLab, Size
from tests.conftest import NewDatabase
from tests.contract import ledger

SIZE = Size(170, 30)


@pytest.fixture
async def lab(new_database: NewDatabase) -> AsyncIterator[BenchLab]:
    lab = BenchLab(new_database("main"), SIZE)
    try:
        await lab.build()
        yield lab
        assert await ledger.faults(lab.store) == []
    finally:
        lab.store.close()


async def test_as_many_wait_as_were_asked_for_and_what_they_want_is_lent(lab: BenchLab) -> None:
    (pool,) = await lab.store.pools(POOL)
    assert (pool.total, pool.waiting, pool.states) == (170, 30, {"free": 102, "leased": 68})
    lanes = select(func.count(t.queue.c.lane.distinct()))
    assert await lab.store.database.read(lambda c: c.execute(lanes).scalar()) == len(OWNERS) * len(SHAPES)


async def test_a_newcomer_is_served_and_the_first_in_the_queue_gets_what_is_given_back(lab: BenchLab) -> None:
    await lab.release(await lab.admit(FREE))
    for board, item in zip(lab.boards, (ANY_BOARD, LARGE_BOARD), strict=True):
        newcomer = await lab.wait(item, OWNERS[0])
        before = await lab.holder(board)
        await lab.release(before)
        assert await lab.holder(board) not in {before, newcomer}
    assert len(await lab.store.leases(LeaseFilter(states=("queued",)))) == SIZE.waiting
