"""Whatever state a lease is in, cancel, release, expiry and a failing stage end it as documented, and leave nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from leasehold.messages import ExtendLease, Steer
from leasehold.model import LeaseState, Outcome
from tests.workflows.lab import Lab
from workflows.lease import LeaseWorkflow

Handle = WorkflowHandle[LeaseWorkflow, str]
Way = Callable[[Handle], Awaitable[object]]

CANCELS: dict[str, Way] = {
    "cancel, an update": lambda h: h.execute_update(LeaseWorkflow.cancel, Steer(actor="me")),
    "cancel, a signal": lambda h: h.signal("cancel"),
    "Temporal's own cancel": lambda h: h.cancel(),
}
RELEASES: dict[str, Way] = {
    "release, an update": lambda h: h.execute_update(LeaseWorkflow.release, Steer(actor="me")),
    "release, a signal": lambda h: h.signal("release"),
}
WAYS = {**CANCELS, **RELEASES}


async def ends(lab: Lab, handle: Handle, outcome: Outcome) -> None:
    """Check that a lease ends with this outcome, holding and awaiting nothing."""
    if outcome is not Outcome.EXPIRED:
        # Asking for the result lets time skip, for other leases too, as soon as no activity runs.
        await lab.until(handle, LeaseState.ENDED)
    assert await handle.result() == outcome
    lease = await lab.record(handle)
    assert (lease.state, lease.outcome, lease.queue) == (LeaseState.ENDED, outcome, None)
    assert {r.state for r in lease.resources} <= {"released"}


async def all_free(lab: Lab) -> None:
    """Wait until every resource is free again."""
    while set((await lab.states()).values()) != {"free"}:
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("way", WAYS)
async def test_a_queued_lease_is_withdrawn(lab: Lab, way: str) -> None:
    await lab.pool(1)
    holder = await lab.submit()
    waiter = await lab.submit()

    await WAYS[way](waiter)

    await ends(lab, waiter, Outcome.CANCELLED)
    assert (await lab.record(holder)).state is LeaseState.ACTIVE
    assert (await lab.store.pools("p"))[0].waiting == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_lease_in_a_running_hook_stops_the_hook_and_gives_the_resource_back(lab: Lab, way: str) -> None:
    await lab.pool(1, wipe=1, release=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
    handle = await lab.submit()
    await lab.driver.until_started("wipe")

    await WAYS[way](handle)

    await ends(lab, handle, Outcome.CANCELLED)
    assert lab.driver.stopped == [("wipe", "r0")]
    await all_free(lab)
    assert ("release", "r0") in lab.driver.started, "what the wipe began is taken back"


@pytest.mark.parametrize("way", WAYS)
async def test_an_active_lease_is_given_back(lab: Lab, way: str) -> None:
    await lab.pool(1, wipe=1, release=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)

    await WAYS[way](handle)

    await ends(lab, handle, Outcome.CANCELLED if way in CANCELS else Outcome.RELEASED)
    await all_free(lab)


@pytest.mark.parametrize("way", WAYS)
async def test_an_ended_lease_stays_as_it_ended(skipping_lab: Lab, way: str) -> None:
    await skipping_lab.pool(1)
    handle = await skipping_lab.submit(duration="1h")
    await ends(skipping_lab, handle, Outcome.EXPIRED)

    if way == "Temporal's own cancel":
        await WAYS[way](handle)
    else:
        with pytest.raises(RPCError):
            await WAYS[way](handle)

    await ends(skipping_lab, handle, Outcome.EXPIRED)


async def test_while_hooks_are_still_stopping_the_lease_is_releasing_and_a_second_cancel_changes_nothing(
    lab: Lab,
) -> None:
    await lab.pool(1, wipe=1)
    lab.driver.script = lambda call: None
    lab.driver.may_stop.clear()
    handle = await lab.submit()
    waiter = await lab.submit()
    await lab.driver.until_started("wipe")

    view = await handle.execute_update(LeaseWorkflow.cancel, Steer(actor="me"))
    again = await handle.execute_update(LeaseWorkflow.release, Steer(actor="you"))

    assert (view.state, again.state) == ("releasing", "releasing")
    assert (await lab.record(handle)).state is LeaseState.RELEASING
    assert (await lab.record(waiter)).state is LeaseState.PREPARING, "the grant is closed before the hook has stopped"
    lab.driver.script = lambda call: 0
    lab.driver.may_stop.set()
    await ends(lab, handle, Outcome.CANCELLED)
    await lab.until(waiter, LeaseState.ACTIVE)


async def test_time_does_not_run_out_for_a_lease_that_waits(skipping_lab: Lab) -> None:
    await skipping_lab.pool(1)
    holder = await skipping_lab.submit(duration="1h")
    waiter = await skipping_lab.submit(duration="1m")
    await skipping_lab.env.sleep(timedelta(minutes=30))
    assert (await skipping_lab.record(waiter)).state is LeaseState.QUEUED

    await holder.execute_update(LeaseWorkflow.release, Steer(actor="me"))

    lease = await skipping_lab.until(waiter, LeaseState.ACTIVE)
    assert lease.active_at is not None
    assert lease.expires_at == lease.active_at + timedelta(minutes=1)


async def test_an_expired_lease_hands_its_resource_to_the_next(skipping_lab: Lab) -> None:
    await skipping_lab.pool(1, release=1)
    first = await skipping_lab.submit(duration="1h")
    second = await skipping_lab.submit(duration="1d")

    await ends(skipping_lab, first, Outcome.EXPIRED)

    await skipping_lab.until(second, LeaseState.ACTIVE)


@pytest.mark.parametrize("stage", ["wipe", "provision", "configure", "validate", "deliver"])
async def test_a_failing_stage_fails_the_lease_and_frees_its_other_resources(lab: Lab, stage: str) -> None:
    await lab.pool(2, stages={stage: 1})
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "r0")
    handle = await lab.submit(count=2)

    await ends(lab, handle, Outcome.FAILED)

    assert (await lab.record(handle)).error is not None
    assert await lab.states() == {"r0": "broken", "r1": "free"}


async def test_after_a_failure_no_stage_starts_on_the_others(lab: Lab) -> None:
    # Given a hook that ends by itself after another resource has failed, before it learns that it is not wanted.
    await lab.pool(2, wipe=1, provision=1, release=1)
    lab.driver.pause_s = lambda call: 0.7 if call.env["LEASEHOLD_RESOURCE"] == "r1" else 0.0
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "r0")

    handle = await lab.submit(count=2)

    await ends(lab, handle, Outcome.FAILED)
    assert ("provision", "r1") not in lab.driver.started
    while await lab.states() != {"r0": "broken", "r1": "free"}:
        await asyncio.sleep(0.02)


async def test_a_failing_release_stage_quarantines_the_resource_and_not_the_lease(lab: Lab) -> None:
    await lab.pool(1, release=2)
    lab.driver.script = lambda call: 1
    handle = await lab.submit()

    await handle.execute_update(LeaseWorkflow.release, Steer(actor="me"))

    await ends(lab, handle, Outcome.RELEASED)
    while (await lab.states())["r0"] != "broken":
        await asyncio.sleep(0.02)
    broken = (await lab.store.resource("p", "r0")).broken
    assert broken is not None
    assert "release" in broken.reason


async def test_a_recycling_that_somebody_cancels_in_temporal_goes_on(lab: Lab) -> None:
    # Given a recycling whose first attempt fails, so that there is one more after the cancel.
    await lab.pool(1, release=2)
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_ATTEMPT"] == "1")
    handle = await lab.submit()
    await handle.execute_update(LeaseWorkflow.release, Steer(actor="me"))
    (recycling,) = await lab.recyclings

    await lab.driver.until_started("release")
    await lab.env.client.get_workflow_handle(recycling).cancel()

    await all_free(lab)


@pytest.mark.parametrize("state", ["queued", "preparing"])
async def test_only_an_active_lease_can_be_extended(lab: Lab, state: str) -> None:
    await lab.pool(1, wipe=1)
    lab.driver.script = lambda call: None
    handle = await lab.submit()
    if state == "queued":
        handle = await lab.submit()

    held = await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1h", actor="me", request="one"))

    assert held.refusal is not None
    assert held.refusal.code == "lease_not_active"
