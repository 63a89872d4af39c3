"""What stays to be told: runs of hooks, those that went with their workers, and requests that were refused."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from leasehold.errors import Unsatisfiable
from leasehold.model import Item, LeaseState, Outcome, Run
from leasehold.ports import LeaseFilter, Place, RunFilter
from tests.contract.store_lab import FAILED, HOST, OK, Lab, run_of

PATIENCE_S = 30


async def runs(lab: Lab, **wanted: Any) -> list[Run]:
    return await lab.store.runs(RunFilter(**wanted))


def told(run: Run) -> tuple[str, int, str | None, bool | None]:
    """What a reader sees first."""
    return (run.stage, run.attempt, run.ending, run.ok)


class TestRuns:
    async def test_each_says_when_where_how_long_and_how_it_ended(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        begun = await lab.begin("a", claim)
        began = lab.clock.now
        lab.clock.forward(seconds=90)
        await lab.store.finish_run(run_of("a", claim, claim.stages[0]), begun.run, FAILED, None)
        (run,) = await runs(lab, lease="a")
        assert (run.id, run.lease, run.pool, run.resource, run.host) == (begun.run, "a", "r640", "host01", HOST.host)
        assert (run.epoch, run.stage, run.hook, run.attempt) == (claim.epoch, "wipe", 0, 1)
        assert (run.started_at, run.ended_at, run.seconds) == (began, lab.clock.now, 90.0)
        assert (run.ending, run.code, run.detail, run.ok) == ("exited", 3, "exit status 3", False)

    async def test_one_that_goes_on_has_no_end_yet(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        await lab.begin("a", claim)
        (run,) = await runs(lab, lease="a")
        assert (run.ended_at, run.seconds, run.ending, run.code, run.ok) == (None, None, None, None, None)

    async def test_they_come_in_their_order_and_in_pages(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        await lab.run("a", claim, report=FAILED)
        await lab.run("a", claim, attempt=2)
        await lab.run("a", claim, stage=1)
        whole = await runs(lab, lease="a")
        assert [told(run) for run in whole] == [
            ("wipe", 1, "exited", False),
            ("wipe", 2, "exited", True),
            ("validate", 1, "exited", True),
        ]
        assert await runs(lab, lease="a", limit=2) == whole[:2]
        assert await runs(lab, lease="a", after=whole[1].id) == whole[2:]
        assert await runs(lab, lease="a", before=whole[2].id) == whole[1::-1]

    async def test_a_resource_keeps_those_of_all_its_leases_and_recyclings(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", "release")
        for lease in ("a", "b"):
            (claim,) = (await lab.submit(lease, Item(pool="r640", names=("host01",)))).claims
            await lab.run(lease, claim)
            await lab.close(lease, Outcome.CANCELLED)
            await lab.run(lease, await lab.recycling())
            await lab.recycled(lease)
        found = await runs(lab, pool="r640", resource="host01", before=2**62, limit=3)
        assert [(run.lease, run.stage) for run in found] == [("b", "release"), ("b", "wipe"), ("a", "release")]
        assert await runs(lab, pool="r640", resource="host02") == []

    async def test_one_is_found_by_its_number_among_its_leases_alone(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe")
        (mine,) = (await lab.submit("a")).claims
        (theirs,) = (await lab.submit("b")).claims
        await lab.begin("a", mine)
        other = await lab.begin("b", theirs)
        assert [run.resource for run in await runs(lab, id=other.run, lease="b")] == ["host02"]
        assert await runs(lab, id=other.run, lease="a") == []


class TestAWorkerThatDied:
    async def test_its_run_stays_beside_the_one_that_replaced_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        for _ in range(2):
            await lab.begin("a", claim)
            lab.clock.forward(seconds=20)
        await lab.run("a", claim)
        assert [(told(run), run.seconds) for run in await runs(lab, lease="a")] == [
            (("wipe", 1, "lost", False), 20.0),
            (("wipe", 1, "lost", False), 20.0),
            (("wipe", 1, "exited", True), 0.0),
        ]

    async def test_an_event_says_so(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        first = await lab.begin("a", claim, host=Place(host="worker7"))
        lab.clock.forward(minutes=11)
        await lab.run("a", claim)
        events = await lab.events("a")
        kinds = [event.kind for event in events]
        assert kinds[-4:] == ["stage_started", "stage_lost", "stage_started", "stage_ended"]
        lost = events[kinds.index("stage_lost")]
        assert (lost.pool, lost.resource, lost.reason) == ("r640", "host01", "its worker went away")
        about = {"stage": "wipe", "attempt": 1, "hook": 0, "host": "worker7", "run": first.run, "seconds": 660.0}
        assert lost.data == about

    async def test_what_it_says_too_late_changes_neither_run(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        order = run_of("a", claim, claim.stages[0])
        first = await lab.begin("a", claim)
        second = await lab.begin("a", claim)
        await lab.store.finish_run(order, first.run, FAILED, None)
        assert [told(run) for run in await runs(lab, lease="a")] == [
            ("wipe", 1, "lost", False),
            ("wipe", 1, None, None),
        ]
        await lab.store.finish_run(order, second.run, OK, None)
        assert (await lab.begin("a", claim)).finished == OK

    async def test_a_run_found_lost_by_its_successor_is_run_again(self, lab: Lab) -> None:
        # Given a wipe whose worker died, which the first hook of the next stage found.
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        await lab.begin("a", claim)
        await lab.begin("a", claim, stage=1)
        # When the wipe is asked for once more, then it is no result of the hook that counts as an attempt.
        assert (await lab.begin("a", claim)).finished is None


class TestRefused:
    async def test_it_is_over_from_the_beginning(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        assert await lab.store.state("a") is None
        await lab.submit("a", Item(pool="r640", count=7))
        assert await lab.store.state("a") is LeaseState.ENDED
        lease = await lab.lease("a")
        assert (lease.created_at, lease.ended_at, lease.run_id) == (lab.clock.now, lab.clock.now, "run of a")

    async def test_asked_again_it_is_told_once(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        first = await lab.submit("a", Item(pool="r640", count=7))
        again = await lab.submit("a", Item(pool="r640", count=7))
        assert first.refusal == again.refusal
        assert await lab.kinds("a") == ["lease_refused"]
        assert (await lab.events("a"))[0].data == {"code": Unsatisfiable.code}

    async def test_it_is_no_lease_of_any_list(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.submit("a", Item(pool="r640", count=7))
        await lab.submit("b")
        assert [lease.id for lease in await lab.store.leases(LeaseFilter())] == ["b"]
        assert (await lab.lease("1")).id == "b"


class TestTheQueue:
    async def test_why_a_lease_had_to_wait_stays_after_it_was_served(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a")
        await lab.submit("b", Item(pool="r640", count=2))
        await lab.close("a")
        queued, granted, *_ = await lab.events("b")
        assert (queued.kind, queued.reason) == ("lease_queued", "2 of r640 wanted, 1 free")
        assert (granted.kind, granted.reason) == ("lease_preparing", None)


class TestWhoHadAResource:
    async def test_its_leases_newest_first(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        for lease in ("a", "b", "c"):
            await lab.take(lease, Item(pool="r640", names=("host01",)))
            await lab.close(lease)
        await lab.take("other", Item(pool="r640", names=("host02",)))
        await lab.take("d", Item(pool="r640", names=("host01",)))
        await lab.submit("waits", Item(pool="r640", names=("host01",)))
        found = await lab.store.leases(LeaseFilter(pool="r640", resource="host01", limit=3))
        assert [lease.id for lease in found] == ["d", "c", "b"]


class TestEvents:
    async def test_the_latest_come_first_if_asked(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        whole = await lab.events("a")
        assert await lab.store.events(lease="a", before=2**62, limit=2) == whole[:-3:-1]
        assert await lab.store.events(lease="a", before=whole[1].id) == [whole[0]]

    async def test_whoever_follows_a_lease_is_woken_by_each_step_of_its_hooks(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        async with aclosing(lab.store.changes()) as news, asyncio.timeout(PATIENCE_S):
            assert await anext(news) == []
            begun = await lab.begin("a", claim)
            assert await anext(news) == ["a"]
            await lab.store.finish_run(run_of("a", claim, claim.stages[0]), begun.run, OK, None)
            assert await anext(news) == ["a"]
