"""Heartbeats: expected from submission on, touched in one row, and lost for good when one was missed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from leasehold.errors import LeaseNotActive
from leasehold.model import LeaseState, Outcome
from leasehold.store import tables as t
from leasehold.store.store import SqlStore
from tests.contract.store_lab import NINE, Lab

MINUTE = timedelta(minutes=1)


async def rows(lab: Lab) -> int:
    """How many heartbeats are expected in all."""
    count: int = await lab.store.database.read(
        lambda c: c.execute(select(func.count()).select_from(t.heartbeats)).scalar_one()
    )
    return count


async def test_the_first_counts_from_submission_not_from_admission(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.submit("a", heartbeat="1m", age_s=50)
    assert (await lab.lease("a")).heartbeat_by == NINE + timedelta(seconds=10)


async def test_each_moves_the_deadline_and_leaves_no_event(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a", heartbeat="1m")
    before = await lab.kinds("a")
    for _ in range(2):
        lab.clock.forward(seconds=30)
        for _ in range(2):
            assert await lab.store.heartbeat("a") == lab.clock.now + MINUTE
    assert (await lab.lease("a")).heartbeat_by == lab.clock.now + MINUTE
    assert await lab.kinds("a") == before


async def test_a_lease_without_is_never_overdue(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    assert await lab.store.heartbeat("a") is None
    assert (await lab.lease("a")).heartbeat_by is None
    lab.clock.forward(days=300)
    assert await lab.store.overdue() == []
    assert not await lab.store.give_up("a")


@pytest.mark.parametrize("state", ["queued", "preparing", "active"])
async def test_in_every_state_it_is_overdue_when_none_came_in_time(lab: Lab, state: str) -> None:
    await lab.pool("r640", 1)
    if state == "queued":
        await lab.take("holder")
    await lab.submit("a", heartbeat="1m")
    if state == "active":
        await lab.store.activate("a")
    assert await lab.state("a") == state
    lab.clock.forward(seconds=60)
    assert await lab.store.overdue() == []

    lab.clock.forward(seconds=1)

    assert await lab.store.overdue() == ["a"]


async def test_its_workflow_is_told_once_and_again_after_a_while_until_it_has_ended(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a", heartbeat="1m")
    lab.clock.forward(minutes=2)
    assert [await lab.store.overdue(), await lab.store.overdue()] == [["a"], []]
    lab.clock.forward(seconds=31)
    assert await lab.store.overdue() == ["a"]
    await lab.close("a", Outcome.LOST)
    lab.clock.forward(minutes=5)
    assert await lab.store.overdue() == []


async def test_the_longest_overdue_are_told_first_a_batch_at_a_time(lab: Lab) -> None:
    await lab.pool("r640", 1)
    for n, every in enumerate(("3m", "1m", "2m")):
        await lab.submit(f"lease{n}", heartbeat=every)
    lab.clock.forward(minutes=5)
    assert await lab.store.overdue(2) == ["lease1", "lease2"]
    assert await lab.store.overdue(2) == ["lease0"]


async def test_one_in_the_last_moment_keeps_it(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a", heartbeat="1m")
    lab.clock.forward(minutes=2)
    assert await lab.store.overdue() == ["a"]

    await lab.store.heartbeat("a")

    assert not await lab.store.give_up("a")
    lab.clock.forward(minutes=2)
    assert await lab.store.overdue() == ["a"], "it is told again at once when the next one is missed"


async def test_once_it_is_lost_no_heartbeat_revives_it(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a", heartbeat="1m")
    lab.clock.forward(minutes=2)
    for _ in range(2):
        assert await lab.store.give_up("a")
    for _ in range(2):
        with pytest.raises(LeaseNotActive, match="no heartbeat came in time"):
            await lab.store.heartbeat("a")
    assert await lab.store.give_up("a")
    assert (await lab.close("a", Outcome.LOST)).outcome is Outcome.LOST
    assert await lab.store.heartbeat("a") is None


@pytest.mark.parametrize("stopped", [False, True])
async def test_one_that_was_closed_as_lost_stays_lost_when_it_is_asked_again(lab: Lab, stopped: bool) -> None:
    await lab.pool("r640", 1)
    for lease, outcome in (("a", Outcome.LOST), ("b", Outcome.CANCELLED)):
        await lab.submit(lease, heartbeat="1m")
        lab.clock.forward(minutes=2)
        assert await lab.store.give_up(lease)
        await lab.close(lease, outcome, stopped=stopped)
    assert [await lab.store.give_up(lease) for lease in ("a", "b")] == [True, False]


async def test_who_is_heard_is_not_given_up_and_who_is_given_up_is_not_heard(lab: Lab) -> None:
    await lab.pool("r640", 1)
    leases = [f"lease{n}" for n in range(6)]
    for lease in leases:
        await lab.submit(lease, heartbeat="1m")
    lab.clock.forward(minutes=2)
    other = SqlStore(lab.url, lab.clock)

    answers = await asyncio.gather(
        *(asyncio.gather(lab.store.give_up(lease), other.heartbeat(lease), return_exceptions=True) for lease in leases)
    )
    other.close()

    assert all(gone is isinstance(heard, LeaseNotActive) for gone, heard in answers)


class TestBeforeAdmission:
    """While no worker is there nobody has admitted the lease; its caller is heard all the same."""

    async def test_what_came_meanwhile_counts(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        for _ in range(2):
            assert await lab.store.heartbeat("a", MINUTE) == NINE + MINUTE
        lab.clock.forward(seconds=30)
        await lab.store.heartbeat("a", MINUTE)

        admitted = await lab.submit("a", heartbeat="1m", age_s=300)

        assert admitted.state is LeaseState.PREPARING
        assert (await lab.lease("a")).heartbeat_by == lab.clock.now + MINUTE

    async def test_who_went_away_gets_nothing_and_is_lost(self, lab: Lab) -> None:
        await lab.pool("r640", 1)

        admitted = await lab.submit("a", heartbeat="1m", age_s=61)

        assert (admitted.state, admitted.claims) == (LeaseState.QUEUED, ())
        assert await lab.states() == {"host01": "free"}
        assert await lab.store.queue("r640") == []
        assert await lab.submit("a", heartbeat="1m", age_s=62) == admitted
        assert await lab.store.overdue() == ["a"]
        assert await lab.store.give_up("a")
        assert (await lab.close("a", Outcome.LOST)).state is LeaseState.ENDED

    async def test_nobody_is_told_of_one_that_is_not_admitted(self, lab: Lab) -> None:
        await lab.store.heartbeat("a", MINUTE)
        lab.clock.forward(minutes=5)
        assert await lab.store.overdue() == []

    async def test_of_a_request_that_is_refused_none_is_expected_any_more(self, lab: Lab) -> None:
        await lab.store.heartbeat("a", MINUTE)

        assert (await lab.submit("a", heartbeat="1m")).refusal is not None

        assert await rows(lab) == 0
        # One that was on its way leaves nothing behind either.
        assert await lab.store.heartbeat("a", MINUTE) is None
        assert await rows(lab) == 0

    async def test_one_that_comes_after_the_end_leaves_nothing_behind(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", heartbeat="1m")
        await lab.close("a")
        assert await lab.store.heartbeat("a", MINUTE) is None
        assert await rows(lab) == 0
