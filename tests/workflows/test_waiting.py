"""A lease that waits wakes by itself when its time has come, or its patience is over, and not before."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from leasehold.messages import Steer
from leasehold.model import LeaseState, Outcome
from tests.workflows.lab import Lab
from workflows.lease import LeaseWorkflow

ME = Steer(actor="me")
PATIENCE_S = 1.0


async def timers(handle_id: str, lab: Lab) -> int:
    """How many timers a lease's workflow has started."""
    history = await lab.env.client.get_workflow_handle(handle_id).fetch_history()
    return sum(event.HasField("timer_started_event_attributes") for event in history.events)


class TestReservations:
    async def test_one_begins_by_itself(self, lab: Lab) -> None:
        await lab.pool(1, wipe=1)
        start = lab.soon(seconds=1)
        handle = await lab.submit(start_at=start)
        assert (await lab.record(handle)).state is LeaseState.QUEUED

        lease = await lab.until(handle, LeaseState.ACTIVE)

        assert lease.active_at is not None
        assert lease.active_at >= start
        assert [r.name for r in lease.resources] == ["r0"]
        assert lab.driver.started == [("wipe", "r0")]

    async def test_days_ahead_it_begins_on_time_and_has_polled_nothing(self, skipping_lab: Lab) -> None:
        await skipping_lab.pool(1)
        start = skipping_lab.soon(days=3)
        handle = await skipping_lab.submit(start_at=start, duration="1h")

        assert await handle.result() == Outcome.EXPIRED

        lease = await skipping_lab.record(handle)
        assert lease.active_at is not None
        assert timedelta(0) <= lease.active_at - start < timedelta(seconds=10)
        # One until it begins, one until it is over, and perhaps each once more where the clocks differ a little.
        assert await timers(handle.id, skipping_lab) <= 4

    async def test_others_are_served_before_it_and_it_is_on_time(self, lab: Lab) -> None:
        await lab.pool(1)
        reserved = await lab.submit(start_at=lab.soon(seconds=4), duration="1h")
        short = await lab.submit(duration="1s")
        long = await lab.submit(duration="1h")
        assert "lease_active" in await lab.kinds(short)
        assert (await lab.record(long)).state is LeaseState.QUEUED

        await lab.until(reserved, LeaseState.ACTIVE)

        assert await short.result() == Outcome.EXPIRED
        assert (await lab.record(long)).state is LeaseState.QUEUED
        await reserved.execute_update(LeaseWorkflow.release, ME)
        await lab.until(long, LeaseState.ACTIVE)

    async def test_where_a_holder_is_late_it_waits_for_it(self, lab: Lab) -> None:
        await lab.pool(1, release=1)
        lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "release" else 0
        holder = await lab.submit(duration="1h")
        await lab.until(holder, LeaseState.ACTIVE)
        await holder.execute_update(LeaseWorkflow.release, ME)
        # Nothing is known of how long the release takes, and it hangs.
        reserved = await lab.submit(start_at=lab.soon(seconds=1.5))
        await lab.driver.until_started("release")
        await asyncio.sleep(2)
        assert (await lab.record(reserved)).state is LeaseState.QUEUED

        lab.driver.hanging["release", "r0"].set_result(0)

        await lab.until(reserved, LeaseState.ACTIVE)

    async def test_it_can_be_cancelled_before_its_time(self, lab: Lab) -> None:
        await lab.pool(1)
        handle = await lab.submit(start_at=lab.soon(hours=1))
        other = await lab.submit(duration="2h")

        await handle.execute_update(LeaseWorkflow.cancel, ME)

        assert await handle.result() == Outcome.CANCELLED
        await lab.until(other, LeaseState.ACTIVE)


class TestPatience:
    async def test_a_lease_fails_when_it_has_waited_long_enough(self, lab: Lab) -> None:
        await lab.pool(1)
        await lab.submit()
        handle = await lab.submit(queue_timeout="1s")

        assert await handle.result() == Outcome.FAILED

        lease = await lab.record(handle)
        assert lease.error is not None
        assert lease.error.code == "queue_timeout"
        assert lease.ended_at is not None
        assert lease.ended_at - lease.created_at >= timedelta(seconds=1)

    async def test_one_that_is_granted_while_its_timer_runs_goes_on(self, lab: Lab) -> None:
        await lab.pool(1)
        holder = await lab.submit()
        handle = await lab.submit(queue_timeout="1s")
        await holder.execute_update(LeaseWorkflow.release, ME)
        await lab.until(handle, LeaseState.ACTIVE)

        await asyncio.sleep(PATIENCE_S + 0.5)

        assert (await lab.record(handle)).state is LeaseState.ACTIVE
        assert (await handle.query(LeaseWorkflow.view)).state == "active"

    async def test_one_that_was_granted_just_before_keeps_it_though_it_did_not_hear_of_it(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await lab.pool(1)
        holder = await lab.submit()
        handle = await lab.submit(queue_timeout="1s")
        # The grant is in the record, and its signal has not come.
        monkeypatch.setattr(lab.store, "outbox_due", nothing)
        await holder.execute_update(LeaseWorkflow.release, ME)

        lease = await lab.until(handle, LeaseState.ACTIVE)
        await asyncio.sleep(PATIENCE_S + 0.5)

        assert lease.error is None
        assert (await handle.query(LeaseWorkflow.view)).state == "active"

    async def test_a_stage_is_not_hurried_by_it(self, lab: Lab) -> None:
        await lab.pool(1, wipe=1)
        lab.driver.pause_s = lambda call: PATIENCE_S + 0.5
        handle = await lab.submit(queue_timeout="1s")

        assert (await lab.until(handle, LeaseState.ACTIVE)).error is None

    async def test_it_counts_from_the_beginning_of_a_reservation(self, lab: Lab) -> None:
        await lab.pool(1)
        await lab.submit(duration="2s")
        start = lab.soon(seconds=2.5)
        handle = await lab.submit(start_at=start, queue_timeout="1s")
        await lab.until(handle, LeaseState.ACTIVE)
        assert (await lab.record(handle)).start_at == start


async def nothing(*_: object, **__: object) -> list[object]:
    """An outbox that holds back what is in it."""
    return []
