"""Fencing: epochs that only grow, one holder at a time, and no hook of an earlier holder after a newer grant."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from leasehold.errors import StaleEpoch, Unavailable
from leasehold.messages import Claim
from leasehold.model import Outcome, ResourceSpec
from leasehold.ports import Place
from leasehold.store import tables as t
from tests.contract.store_lab import FAILED, HOST, OK, Lab, file, hosts, run_of, spec

ELSEWHERE = Place(host="worker2")


async def epoch(lab: Lab) -> int:
    return (await lab.store.resource("r640", "host01")).epoch


class TestEpochs:
    """Each change of actor takes a larger number than any before."""

    async def test_an_epoch_is_the_time_in_milliseconds(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        lab.clock.forward(seconds=1)
        (claim,) = (await lab.submit("a")).claims
        assert claim.epoch == await epoch(lab) == int(lab.clock.now.timestamp() * 1000)

    @pytest.mark.parametrize("step", [timedelta(0), timedelta(days=-400), timedelta(milliseconds=1), timedelta(days=1)])
    async def test_they_grow_whatever_the_clock_does(self, lab: Lab, step: timedelta) -> None:
        await lab.pool("r640", 1, "release")
        seen = [await epoch(lab)]
        for name in ("a", "b"):
            lab.clock.now += step
            await lab.take(name)
            seen.append(await epoch(lab))
            lab.clock.now += step
            await lab.close(name)
            seen.append(await epoch(lab))
            lab.clock.now += step
            await lab.recycled(name)
            seen.append(await epoch(lab))
        assert seen == sorted(set(seen))

    async def test_they_grow_over_a_quarantine_and_a_repair(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        seen = [await epoch(lab)]
        await lab.close("a", broken="no power")
        seen.append(await epoch(lab))
        await lab.store.repair("r640", "host01", "operator")
        seen.append(await epoch(lab))
        assert seen == sorted(set(seen))

    async def test_they_grow_over_a_removal_and_a_clock_that_went_back(self, lab: Lab) -> None:
        # Given a resource that was leased, and is taken out of its file while the clock is ahead.
        await lab.pool("r640", 2)
        (claim,) = (await lab.take("a")).claims
        await lab.close("a")
        await lab.store.apply(file((spec("r640"), hosts(1, first=2)), name="r640"), "operator")
        # When it comes back after the clock was set right, then an old hook cannot pass for the new holder's.
        lab.clock.back(days=1)
        await lab.pool("r640", 2)
        assert await epoch(lab) > claim.epoch

    async def test_what_does_not_change_the_actor_keeps_the_epoch(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        before = await epoch(lab)
        lab.clock.forward(minutes=1)
        await lab.store.offline("r640", "host01", "moved", "operator")
        await lab.extend("a", "1h")
        assert await epoch(lab) == before


async def test_the_database_itself_allows_one_holder_only(lab: Lab) -> None:
    await lab.pool("r640", 1)
    (claim,) = (await lab.take("a")).claims

    values = {"lease": "a", "pool": "r640", "resource": "host01", "epoch": claim.epoch + 1, "spec": claim.spec}
    again = insert(t.grants).values(**values, item=0, granted_at=lab.clock.now)
    with lab.store.database.writer.begin() as connection, pytest.raises(IntegrityError):
        connection.execute(again)
    await lab.close("a")
    await lab.take("b")


class TestBeforeAHook:
    """Whether a hook may start."""

    async def test_it_starts_for_the_holder(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        assert (await lab.begin("a", claim)).finished is None
        lease = (await lab.lease("a")).resources[0]
        resource = await lab.store.resource("r640", "host01")
        assert (lease.stage, lease.attempt, resource.stage) == ("wipe", 1, "wipe")

    async def test_a_late_wipe_cannot_touch_the_next_holder(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (mine,) = (await lab.submit("a")).claims
        await lab.close("a", Outcome.CANCELLED)
        (theirs,) = (await lab.submit("b")).claims
        with pytest.raises(StaleEpoch):
            await lab.begin("a", mine)
        assert (await lab.begin("b", theirs)).finished is None

    async def test_a_closed_lease_starts_nothing_more_even_before_there_is_a_next_one(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (mine,) = (await lab.submit("a")).claims
        await lab.close("a", Outcome.CANCELLED, stopped=False)
        with pytest.raises(StaleEpoch):
            await lab.begin("a", mine)

    async def test_nothing_starts_on_what_is_gone(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (mine,) = (await lab.submit("a")).claims
        await lab.close("a", Outcome.CANCELLED)
        await lab.store.apply(file(name="r640"), "operator")
        with pytest.raises(StaleEpoch):
            await lab.begin("a", mine)

    async def test_a_finished_run_is_not_run_again(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        await lab.run("a", claim, report=FAILED)
        assert (await lab.begin("a", claim)).finished == FAILED
        assert (await lab.begin("a", claim, attempt=2)).finished is None

    async def test_it_waits_for_a_run_that_may_be_alive_on_another_host(self, lab: Lab) -> None:
        # Given a run of at most 10 minutes whose worker was lost.
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        await lab.begin("a", claim, host=ELSEWHERE)
        # When another worker tries, then it is told to try later, until no process of it can be alive.
        for order in (run_of("a", claim, claim.stages[0]), run_of("a", claim, claim.stages[1])):
            with pytest.raises(Unavailable):
                await lab.store.begin_run(order, HOST)
        lab.clock.forward(minutes=10, seconds=29)
        with pytest.raises(Unavailable):
            await lab.begin("a", claim)
        lab.clock.forward(seconds=1)
        assert (await lab.begin("a", claim)).finished is None

    async def test_a_run_left_over_on_the_same_host_is_closed(self, lab: Lab) -> None:
        # The driver has made sure that nothing of it is alive there.
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        first = await lab.begin("a", claim)
        again = await lab.begin("a", claim)
        # Under a number of its own: what the first says too late closes nothing of the second.
        assert again.finished is None
        assert again.run != first.run

    async def test_a_run_that_was_stopped_begins_anew_at_once_wherever(self, lab: Lab) -> None:
        # Given a run that was stopped, and nothing of it lives.
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        order = run_of("a", claim, claim.stages[0])
        first = await lab.begin("a", claim, host=ELSEWHERE)
        await lab.store.stop_run(order, first.run)
        # When another host tries the same attempt, then it neither waits nor takes the attempt for finished.
        again = await lab.begin("a", claim)
        assert again.finished is None
        # And what the stopped one says too late changes nothing.
        await lab.store.finish_run(order, first.run, FAILED, None)
        await lab.store.stop_run(order, first.run)
        await lab.store.finish_run(order, again.run, OK, None)
        assert (await lab.begin("a", claim)).finished == OK
        kinds = [kind for kind in await lab.kinds("a") if kind.startswith("stage_")]
        assert kinds == ["stage_started", "stage_stopped", "stage_started", "stage_ended"]

    async def test_a_finished_run_cannot_be_stopped(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        begun = await lab.begin("a", claim)
        order = run_of("a", claim, claim.stages[0])
        await lab.store.finish_run(order, begun.run, FAILED, None)
        await lab.store.stop_run(order, begun.run)
        assert (await lab.begin("a", claim)).finished == FAILED

    async def test_two_workers_of_one_host_name_wait_for_each_others_runs(self, lab: Lab) -> None:
        # Given a run of a worker whose locks nobody else sees.
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        mine = Place(host="worker", locks="1", boot="a", processes="pid:[1]")
        await lab.begin("a", claim, host=mine)
        # When one of the same name with another lock folder tries, then it waits; the same one need not.
        with pytest.raises(Unavailable, match="wipe on worker may run until"):
            await lab.begin("a", claim, host=replace(mine, locks="2"))
        assert (await lab.begin("a", claim, host=mine)).finished is None

    async def test_a_holder_waits_for_the_run_of_the_one_before(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "release")
        (claim,) = (await lab.submit("a")).claims
        await lab.begin("a", claim, host=ELSEWHERE)
        await lab.close("a", Outcome.CANCELLED, stopped=False)
        recycling = await lab.recycling()
        with pytest.raises(Unavailable):
            await lab.begin("a", recycling)
        lab.clock.forward(minutes=11)
        assert (await lab.begin("a", recycling)).finished is None


class TestAfterAHook:
    """What the end of a run leaves."""

    async def finish_late(self, lab: Lab, claim: Claim) -> None:
        """A wipe of lease a that ends only after the lease."""
        order = run_of("a", claim, claim.stages[0])
        begun = await lab.store.begin_run(order, HOST)
        await lab.close("a", Outcome.CANCELLED, stopped=False)
        await lab.store.finish_run(order, begun.run, OK, b"late secret")

    async def test_its_stage_is_shown_no_more(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        await lab.run("a", claim)
        lease = (await lab.lease("a")).resources[0]
        resource = await lab.store.resource("r640", "host01")
        assert (lease.stage, lease.attempt, lease.state, resource.stage) == (None, None, "preparing", None)

    async def test_the_last_success_makes_the_resource_ready(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "validate")
        (claim,) = (await lab.submit("a")).claims
        await lab.run("a", claim)
        await lab.run("a", claim, stage=1, report=FAILED)
        assert (await lab.lease("a")).resources[0].state == "preparing"
        await lab.run("a", claim, stage=1, attempt=2)
        assert (await lab.lease("a")).resources[0].state == "ready"

    async def test_a_late_end_changes_nothing_for_the_next_holder(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "deliver", "release")
        (claim,) = (await lab.submit("a")).claims
        await self.finish_late(lab, claim)
        assert [d.data for d in await lab.grants_data()] == [None]
        assert await lab.states() == {"host01": "recycling"}
        # The run is closed all the same, so that the recycling need not wait for it.
        assert (await lab.begin("a", await lab.recycling(), host=ELSEWHERE)).finished is None

    async def test_ended_twice_it_counts_once(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "deliver")
        (claim,) = (await lab.submit("a")).claims
        order = run_of("a", claim, claim.stages[0])
        begun = await lab.store.begin_run(order, HOST)
        await lab.store.finish_run(order, begun.run, OK, b"the first")
        await lab.store.finish_run(order, begun.run, FAILED, b"the second")
        assert [d.data for d in await lab.grants_data()] == [b"the first"]
        assert (await lab.begin("a", claim)).finished == OK
        assert (await lab.kinds("a")).count("stage_ended") == 1


async def test_a_resource_put_by_hand_has_an_epoch_too(lab: Lab) -> None:
    await lab.pool("r640", 0)
    await lab.store.put_resource("r640", ResourceSpec(name="host01"), "operator")
    assert await epoch(lab) == int(lab.clock.now.timestamp() * 1000)
