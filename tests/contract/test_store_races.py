"""Many at once, over two stores as over two processes: one winner, nobody lost, nothing granted twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest
from sqlalchemy import Connection

from leasehold.errors import Conflict
from leasehold.messages import Admitted, Closed
from leasehold.model import Item, LeaseState, Outcome
from leasehold.ports import LeaseFilter
from leasehold.store.engine import Database
from leasehold.store.store import SqlStore
from tests.conftest import NewDatabase
from tests.contract import ledger
from tests.contract.store_lab import Lab, admission, request

TASKS = 50


class Rivals:
    """Two stores on one database, used in turn."""

    def __init__(self, lab: Lab) -> None:
        self.stores = (lab.store, SqlStore(lab.url, lab.clock))

    def close(self) -> None:
        self.stores[1].close()

    async def admit(self, n: int, count: int = 1) -> Admitted:
        asked = request(f"lease{n}", Item(pool="r640", count=count))
        return await self.stores[n % 2].admit(admission(asked), "run")

    async def all_admitted(self, numbers: Iterable[int], count: int = 1) -> Counter[LeaseState | None]:
        """Ask for all at once, and count what became of them."""
        answers = await asyncio.gather(*(self.admit(n, count) for n in numbers))
        return Counter(answer.state for answer in answers)


@pytest.fixture
def rivals(lab: Lab) -> Iterator[Rivals]:
    rivals = Rivals(lab)
    yield rivals
    rivals.close()


async def test_one_of_fifty_gets_the_only_resource(lab: Lab, rivals: Rivals) -> None:
    await lab.pool("r640", 1)
    assert await rivals.all_admitted(range(TASKS)) == {LeaseState.PREPARING: 1, LeaseState.QUEUED: TASKS - 1}
    # When each holder gives it back, then all have had it once, in the order of their numbers.
    served = []
    for _ in range(TASKS):
        holder = (await lab.store.resource("r640", "host01")).lease
        assert holder is not None
        served.append((await lab.lease(holder)).number)
        await lab.close(holder, Outcome.CANCELLED)
    assert served == list(range(1, TASKS + 1))


async def test_three_of_ten_leases_of_twenty_five_fit_into_seventy_five(lab: Lab, rivals: Rivals) -> None:
    await lab.pool("r640", 75)
    assert await rivals.all_admitted(range(10), count=25) == {LeaseState.PREPARING: 3, LeaseState.QUEUED: 7}
    assert await lab.states() == {f"host{n:02}": "leased" for n in range(1, 76)}
    holders = await preparing(lab)
    await asyncio.gather(*(lab.close(holder, Outcome.CANCELLED) for holder in holders))
    assert len(await preparing(lab)) == 3
    assert set(await preparing(lab)).isdisjoint(holders)


async def preparing(lab: Lab) -> list[str]:
    """The leases that have just been granted what they asked for."""
    return [lease.id for lease in await lab.store.leases(LeaseFilter(states=("preparing",)))]


async def test_the_same_request_from_two_sides_is_one_lease(lab: Lab, rivals: Rivals) -> None:
    await lab.pool("r640", 4)
    asked = request("same", Item(pool="r640", count=2))
    answers = await asyncio.gather(*(rivals.stores[n % 2].admit(admission(asked), "run") for n in range(20)))
    assert len({str(answer) for answer in answers}) == 1
    assert len(await lab.held("same")) == 2


async def test_a_cancel_and_a_grant_at_the_same_time_leave_one_holder(lab: Lab, rivals: Rivals) -> None:
    await lab.pool("r640", 1)
    await rivals.all_admitted(range(20))
    # When the holder gives back while half of the others leave the queue.
    leaving = [f"lease{n}" for n in range(0, 20, 2)]
    await asyncio.gather(*(lab.close(lease, Outcome.CANCELLED) for lease in leaving))
    assert await lab.states() == {"host01": "leased"}
    assert (await lab.store.resource("r640", "host01")).lease not in leaving


async def test_a_lease_closed_from_all_sides_is_closed_once(lab: Lab, rivals: Rivals) -> None:
    await lab.pool("r640", 1, "wipe", "release")
    await lab.take("a")
    outcomes = (Outcome.RELEASED, Outcome.CANCELLED, Outcome.FAILED)
    closed: list[Closed] = await asyncio.gather(*(lab.close("a", outcomes[n % 3]) for n in range(12)))
    assert len({answer.outcome for answer in closed}) == 1
    assert (await lab.kinds("a")).count("lease_ended") == 1
    assert len(await lab.recycling_of()) == 1


async def test_a_busy_lab_stays_sound(lab: Lab, rivals: Rivals) -> None:
    """Every kind of transaction at once, for a while; the ledger is checked in between, and after the test."""
    await lab.pool("r640", 6)

    async def live(n: int) -> None:
        admitted = await rivals.admit(n, count=n % 3 + 1)
        if n % 4 == 0:
            await lab.close(f"lease{n}", Outcome.CANCELLED)
        elif admitted.claims:
            await rivals.stores[n % 2].activate(f"lease{n}")
            await lab.extend(f"lease{n}", "1h")
            await lab.close(f"lease{n}", broken="worn out" if n % 5 == 0 else None)

    async def operate(n: int) -> None:
        name = f"host{n % 6 + 1:02}"
        await lab.store.offline("r640", name, "moved", "operator")
        await lab.store.online("r640", name, "operator")
        with suppress(Conflict):
            await lab.store.repair("r640", name, "operator")

    for start in range(0, 60, 20):
        await asyncio.gather(*(live(n) for n in range(start, start + 20)), *(operate(n) for n in range(12)))
        assert await ledger.faults(lab.store) == []


async def test_without_the_allocation_lock_the_tests_notice(
    new_postgres: NewDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A test of the tests: what they check is not true by itself."""

    def no_lock(_database: Database, _connection: Connection) -> None:
        return

    monkeypatch.setattr(Database, "lock", no_lock)
    noticed = 0
    for _ in range(20):
        lab = Lab(new_postgres("main"))
        rivals = Rivals(lab)
        try:
            await lab.pool("r640", 1)
            await asyncio.gather(*(rivals.admit(n) for n in range(TASKS)), return_exceptions=True)
            noticed += caplog.text.count("IntegrityError") + len(await ledger.faults(lab.store))
        finally:
            rivals.close()
            lab.store.close()
        if noticed:
            return
    pytest.fail("without the lock, fifty at once did no harm that the tests would see")
