"""The allocation step alone: the store in this process, without HTTP and Temporal, each database as a service has it.

SQLite is a file with `synchronous=FULL`, PostgreSQL one that waits for its disk. Each time has all of a call in it: the
way to the store's threads and back, and the commit. What is done in turn:

- a newcomer is admitted to a free resource, which nobody wants of those who wait before it (`tests.bench.lab`);
- another is put into the queue;
- a board is given back and goes to the first in the queue who can use it, so that as many wait as before;
- where the pool is not too small for that, a newcomer is admitted to 25 resources.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeVar

from leasehold.store import events, migrate
from leasehold.store.engine import Tx
from tests import postgres
from tests.bench import naive
from tests.bench.lab import ANY_BOARD, FREE, LARGE_BOARD, OWNERS, BenchLab, Size
from tests.bench.load import median
from tests.bench.table import Row, absent, numbers

R = TypeVar("R")
NewDatabase = Callable[[], str]
Times = tuple[float, ...]
"""Milliseconds: admit with a free resource, admit that queues, release with hand-over, and mostly a lease of 25."""

Round = Mapping[Size, Times]

SIZES = [Size(resources, waiting) for resources in (10, 1_000, 10_000) for waiting in (0, 1_000, 5_000)]
SMALLEST, SMALLEST_WITH_25, LARGEST = Size(10, 0), Size(1_000, 0), Size(10_000, 5_000)
ROUNDS = 3
SAMPLES, WARM_UP = 30, 4
CLIENTS, EACH = 20, 6
MANY = replace(FREE, count=25)
SCANNED = [size for size in SIZES if size.waiting == 1_000]
"""Where a naive scan takes no longer than half a minute. On PostgreSQL it takes as long: it is Python that is slow."""


@dataclass(frozen=True)
class Goals:
    """What is to be reached at the largest size, in milliseconds."""

    alone: Times
    crowd: float
    flat: float = 1.25


def sqlite() -> Iterable[Row]:
    """The allocation step on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        made = (f"sqlite:///{folder}/{n}.db" for n in range(len(SIZES)))

        def new() -> str:
            url = next(made)
            migrate.upgrade(url, "main")
            return url

        goals = Goals(alone=(0.45, 0.4, 0.55, 0.55), crowd=8)
        yield from asyncio.run(_rows("SQLite", new, goals, scanned=SCANNED))


def postgresql() -> Iterable[Row]:
    """The allocation step on PostgreSQL."""
    try:
        with postgres.running(durable=True) as server:
            goals = Goals(alone=(2.0, 1.3, 2.5, 2.4), crowd=45)
            yield from asyncio.run(_rows("PostgreSQL", lambda: server.migrated("main"), goals))
    except postgres.Missing as error:
        yield absent("PostgreSQL: the allocation step", f"not installed here: {error}")


async def _rows(database: str, new: NewDatabase, goals: Goals, scanned: Collection[Size] = ()) -> list[Row]:
    labs = {size: BenchLab(new(), size) for size in SIZES}
    try:
        for lab in labs.values():
            await lab.build()
        # One after the other, so that all have their share of what else the machine does.
        rounds = [{size: await _alone(lab) for size, lab in labs.items()} for _ in range(ROUNDS)]
        crowds = [(await _crowd(labs[LARGEST]), await _crowd(labs[SMALLEST_WITH_25])) for _ in range(ROUNDS)]
        scans = {size: await _scan(lab) for size, lab in labs.items() if size in scanned}
        least = await _one_row(labs[SMALLEST])
    finally:
        for lab in labs.values():
            lab.store.close()
    return [
        Row(f"{database}: one row written and committed", least, None, "ms"),
        *(_size_row(database, size, rounds, goals, scans.get(size)) for size in SIZES),
        _flatness_row(database, rounds, goals),
        _crowd_row(database, crowds, goals),
    ]


def _size_row(database: str, size: Size, rounds: Sequence[Round], goals: Goals, scan: float | None) -> Row:
    times = _medians([one[size] for one in rounds])
    what = f"{database}, {size}: admit / queue / hand over" + (" / 25" if len(times) > 3 else "")
    beside = "" if scan is None else f"a naive scan, to admit: {numbers(scan)} ms"
    return Row(what, times, goals.alone if size == LARGEST else None, "ms", beside=beside)


def _flatness_row(database: str, rounds: Sequence[Round], goals: Goals) -> Row:
    ratios = []
    for one in rounds:
        small = (*one[SMALLEST], one[SMALLEST_WITH_25][-1])
        ratios.append(tuple(large / little for large, little in zip(one[LARGEST], small, strict=True)))
    beside = f"a lease of 25 against {SMALLEST_WITH_25}"
    what = f"{database}, the same against {SMALLEST}"
    return Row(what, _medians(ratios), (goals.flat,) * len(ratios[0]), "x", beside=beside)


def _crowd_row(database: str, crowds: Sequence[Times], goals: Goals) -> Row:
    large, small = _medians(crowds)
    what = f"{database}, {LARGEST}: {CLIENTS} clients at once, p50"
    return Row(what, large, goals.crowd, "ms", beside=f"{SMALLEST_WITH_25}: {numbers(small)} ms")


async def _alone(lab: BenchLab) -> Times:
    """What each operation takes one client, p50."""
    times: list[list[float]] = [[], [], [], []]
    for turn in range(WARM_UP + SAMPLES):
        owner = OWNERS[turn % len(OWNERS)]
        lease, admitted = await _timed(lab.admit(FREE, owner))
        await lab.release(lease)
        # A small board for those who want any, a large one for those who want that: with nobody else there, too.
        which = turn % len(lab.boards)
        before = await lab.holder(lab.boards[which])
        _, queued = await _timed(lab.wait((ANY_BOARD, LARGE_BOARD)[which], owner))
        _, handed_over = await _timed(lab.release(before))
        assert await lab.holder(lab.boards[which]) != before
        for each, took in zip(times, (admitted, queued, handed_over), strict=False):
            each.append(took)
        if lab.size.resources >= SMALLEST_WITH_25.resources:
            lease, took = await _timed(lab.admit(MANY, owner))
            await lab.release(lease)
            times[3].append(took)
    return tuple(median(each[WARM_UP:]) for each in times if each)


async def _crowd(lab: BenchLab) -> float:
    """What many clients at once, who each take a free resource and give it back, wait for an answer, p50."""

    async def client(owner: str) -> list[float]:
        times = []
        for _ in range(EACH):
            lease, admitted = await _timed(lab.admit(FREE, owner))
            _, released = await _timed(lab.release(lease))
            times += [admitted, released]
        return times

    clients = [client(OWNERS[n % len(OWNERS)]) for n in range(CLIENTS)]
    return median([took for times in await asyncio.gather(*clients) for took in times])


async def _scan(lab: BenchLab) -> float:
    """What a naive scan takes to find what a newcomer gets; nothing is written."""
    chosen, took = await _timed(lab.store.database.read(naive.offer, [FREE]))
    assert chosen is not None
    return took


async def _one_row(lab: BenchLab) -> float:
    """What any transaction of the store takes at least, p50: by which machines can be compared."""

    def write(tx: Tx) -> None:
        events.record(tx, "bench", actor="bench")

    return median([(await _timed(lab.store.database.write(write)))[1] for _ in range(WARM_UP + SAMPLES)][WARM_UP:])


async def _timed(call: Awaitable[R]) -> tuple[R, float]:
    """The result of a call, and how long it took, in milliseconds."""
    begun = perf_counter()
    result = await call
    return result, (perf_counter() - begun) * 1000


def _medians(rounds: Sequence[Times]) -> Times:
    return tuple(map(median, zip(*rounds, strict=True)))
