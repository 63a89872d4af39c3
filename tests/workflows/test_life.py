"""A lease from request to end, over days that pass in no time."""

from __future__ import annotations

from datetime import timedelta

from leasehold.messages import ExtendLease, Steer
from leasehold.model import LeaseState, Outcome, Policy
from tests.workflows.lab import SECRET, Lab
from workflows.lease import LeaseWorkflow


async def test_a_lease_of_seven_days_with_an_extension_ends_when_it_should(skipping_lab: Lab) -> None:
    await skipping_lab.pool(policy=Policy(max_duration=timedelta(days=8)))
    handle = await skipping_lab.submit(duration="7d")
    active = await skipping_lab.until(handle, LeaseState.ACTIVE)
    assert active.active_at is not None
    await skipping_lab.env.sleep(timedelta(days=6))

    held = await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="2d", actor="me", request="one"))

    assert held.expires_at == active.active_at + timedelta(days=9)
    assert await handle.result() == Outcome.EXPIRED
    ended = await skipping_lab.record(handle)
    assert ended.outcome is Outcome.EXPIRED
    assert ended.ended_at is not None
    assert timedelta(days=9) <= ended.ended_at - active.active_at < timedelta(days=9, minutes=1)


async def test_the_stages_run_in_order_and_delivery_comes_after_all_of_them(lab: Lab) -> None:
    await lab.pool(1, wipe=1, provision=1, configure=1, validate=1, deliver=1, release=1)

    handle = await lab.submit()
    lease = await lab.until(handle, LeaseState.ACTIVE)

    assert [stage for stage, _ in lab.driver.started] == ["wipe", "provision", "configure", "validate", "deliver"]
    assert [r.state for r in lease.resources] == ["ready"]
    assert [d.data for d in await lab.store.delivery(handle.id)] == [SECRET]


async def test_what_is_delivered_is_nowhere_in_the_history(lab: Lab) -> None:
    await lab.pool(1, deliver=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, Steer(actor="me"))

    history = (await handle.fetch_history()).to_json()

    assert "correct-horse" not in history
    assert "Y29ycmVjdC1ob3JzZ" not in history  # the same in base64


async def test_a_waiting_lease_is_served_when_the_first_is_released(lab: Lab) -> None:
    await lab.pool(1)
    first = await lab.submit()
    second = await lab.submit()
    third = await lab.submit(priority=5)
    assert (await lab.record(second)).state is LeaseState.QUEUED

    await first.execute_update(LeaseWorkflow.release, Steer(actor="me"))

    assert (await lab.until(third, LeaseState.ACTIVE)).resources[0].name == "r0"
    assert (await lab.record(second)).state is LeaseState.QUEUED
    await third.execute_update(LeaseWorkflow.release, Steer(actor="me"))
    await lab.until(second, LeaseState.ACTIVE)


async def test_a_released_resource_goes_through_its_release_stage_before_the_next_holder(lab: Lab) -> None:
    await lab.pool(1, wipe=1, release=1)
    first = await lab.submit()
    await lab.until(first, LeaseState.ACTIVE)
    second = await lab.submit()

    await first.execute_update(LeaseWorkflow.release, Steer(actor="me"))
    await lab.until(second, LeaseState.ACTIVE)

    assert [stage for stage, _ in lab.driver.started] == ["wipe", "release", "wipe"]


async def test_a_failing_stage_is_tried_as_often_as_its_attempts_say(lab: Lab) -> None:
    await lab.pool(1, wipe=3)
    lab.driver.script = lambda call: 0 if call.env["LEASEHOLD_ATTEMPT"] == "3" else 1

    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)

    assert lab.driver.started == [("wipe", "r0")] * 3


async def test_a_resource_that_fails_its_attempts_is_quarantined_and_the_lease_fails(lab: Lab) -> None:
    await lab.pool(2, wipe=2, release=1)
    lab.driver.script = lambda call: int(
        call.env["LEASEHOLD_RESOURCE"] == "r1" and call.env["LEASEHOLD_STAGE"] == "wipe"
    )

    handle = await lab.submit(count=2)

    assert await handle.result() == Outcome.FAILED
    lease = await lab.record(handle)
    assert lease.error is not None
    assert lease.error.code == "stage_failed"
    assert "r1" in lease.error.detail
    assert (await lab.states())["r1"] == "broken"


async def test_one_slow_resource_holds_back_the_delivery_of_all(lab: Lab) -> None:
    await lab.pool(2, validate=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_RESOURCE"] == "r1" else 0

    handle = await lab.submit(count=2)
    await lab.driver.until_started("validate", "r1")
    await lab.until_ready(handle, "r0")

    assert (await lab.record(handle)).state is LeaseState.PREPARING


async def test_the_view_shows_what_the_workflow_believes(lab: Lab) -> None:
    await lab.pool(1, wipe=1)
    lab.driver.script = lambda call: None
    handle = await lab.submit()
    await lab.driver.until_started("wipe")

    view = await handle.query(LeaseWorkflow.view)

    assert view.state == "preparing"
    assert [(r.resource, r.stage, r.attempt) for r in view.resources] == [("r0", "wipe", 1)]


async def test_a_refused_request_says_why_and_its_workflow_ends(lab: Lab) -> None:
    await lab.pool(1)
    handle = await lab.submit(count=2)

    assert await handle.result() == "unsatisfiable"


async def test_the_same_extension_sent_twice_counts_once(lab: Lab) -> None:
    await lab.pool(policy=Policy(max_duration=timedelta(days=8)))
    handle = await lab.submit(duration="1d")
    await lab.until(handle, LeaseState.ACTIVE)
    extension = ExtendLease(by="1d", actor="me", request="one")

    first = await handle.execute_update(LeaseWorkflow.extend, extension, id="a")
    again = await handle.execute_update(LeaseWorkflow.extend, extension, id="b")

    assert again.expires_at == first.expires_at
