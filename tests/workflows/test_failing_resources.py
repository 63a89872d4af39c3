"""A resource that fails its stages goes into quarantine; its lease goes on as the pool's policy says."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from leasehold.messages import Steer
from leasehold.model import LeaseState, OnFailure, Outcome, Policy
from leasehold.ports import HookCall
from tests.workflows.lab import Lab, Script
from workflows.lease import LeaseWorkflow

HOLD = Policy(on_failure=OnFailure.HOLD)


def fails(*resources: str, stage: str = "wipe") -> Script:
    """A script by which a stage fails on these resources."""

    def script(call: HookCall) -> int:
        return int(call.env["LEASEHOLD_RESOURCE"] in resources and call.env["LEASEHOLD_STAGE"] == stage)

    return script


async def test_it_is_replaced_and_the_others_go_on(lab: Lab) -> None:
    await lab.pool(3, wipe=1, validate=1)
    lab.driver.script = fails("r1")

    handle = await lab.submit(count=2)
    lease = await lab.until(handle, LeaseState.ACTIVE)

    assert await lab.holds(handle) == ["r0", "r2"]
    assert [(r.name, r.state) for r in lease.resources] == [("r0", "ready"), ("r1", "released"), ("r2", "ready")]
    assert (await lab.states())["r1"] == "broken"
    assert lab.driver.started.count(("wipe", "r0")) == 1, "what is well prepared stays so"


async def test_one_that_fails_to_be_delivered_is_replaced_too(lab: Lab) -> None:
    await lab.pool(3, validate=1, deliver=1)
    lab.driver.script = fails("r0", stage="deliver")

    handle = await lab.submit(count=2)
    await lab.until(handle, LeaseState.ACTIVE)

    assert await lab.holds(handle) == ["r1", "r2"]
    assert lab.driver.started.count(("deliver", "r1")) == 1


async def test_its_replacement_is_waited_for_at_the_place_in_the_queue_that_the_lease_had(lab: Lab) -> None:
    await lab.pool(2, wipe=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_RESOURCE"] == "r0" else 0
    lab.driver.may_stop.set()
    first = await lab.submit()
    await lab.driver.until_started("wipe")
    holder = await lab.submit()
    await lab.until(holder, LeaseState.ACTIVE)
    later = await lab.submit()

    # When the first lease's resource fails, which it does as soon as it is told to.
    await lab.fail_hanging("r0", "wipe")
    await lab.until_queued(first)
    queue = (await lab.record(first)).queue
    assert queue is not None
    assert queue.position == 1
    await holder.execute_update(LeaseWorkflow.release, Steer(actor="me"))

    await lab.until(first, LeaseState.ACTIVE)
    assert await lab.holds(first) == ["r1"]
    assert (await lab.record(later)).state is LeaseState.QUEUED


async def test_where_no_other_could_ever_take_its_place_the_lease_fails(lab: Lab) -> None:
    await lab.pool(2, wipe=1)
    lab.driver.script = fails("r1")

    handle = await lab.submit(count=2)

    await lab.until(handle, LeaseState.ENDED)
    lease = await lab.record(handle)
    assert lease.error is not None
    assert (lease.outcome, lease.error.code) == (Outcome.FAILED, "stage_failed")
    assert lease.error.detail == "p/r1: wipe: exit status 1; there is no other resource to take its place"


async def test_a_lease_replaces_only_so_many_and_spares_the_rest_of_the_pool(lab: Lab) -> None:
    await lab.pool(6, policy=Policy(replacements=2), wipe=1)
    lab.driver.script = lambda call: 1

    handle = await lab.submit()

    await lab.until(handle, LeaseState.ENDED)
    assert sorted((await lab.states()).values()) == ["broken"] * 3 + ["free"] * 3
    error = (await lab.record(handle)).error
    assert error is not None
    assert "2 were replaced before, and no more than 2 are" in error.detail


async def test_by_policy_the_lease_fails_at_the_first(lab: Lab) -> None:
    await lab.pool(3, policy=Policy(on_failure=OnFailure.FAIL), wipe=1)
    lab.driver.script = fails("r0")

    handle = await lab.submit()

    assert await handle.result() == Outcome.FAILED
    assert await lab.states() == {"r0": "broken", "r1": "free", "r2": "free"}


async def test_by_policy_the_lease_waits_for_an_operator_who_repairs_it(lab: Lab) -> None:
    await lab.pool(2, policy=HOLD, wipe=1)
    lab.driver.script = fails("r0")
    handle = await lab.submit(count=2)
    await lab.until_state("r0", "broken")
    await lab.until_ready(handle, "r1")
    lease = await lab.record(handle)
    assert (lease.state, [r.state for r in lease.resources]) == (LeaseState.PREPARING, ["broken", "ready"])
    assert lease.queue is not None
    assert lease.queue.reason == "p/r0 waits for its repair: wipe: exit status 1"

    lab.driver.script = lambda call: 0
    await lab.store.repair("p", "r0", "operator")

    active = await lab.until(handle, LeaseState.ACTIVE)
    assert [r.state for r in active.resources] == ["ready", "ready"]
    assert active.queue is None
    assert lab.driver.started.count(("wipe", "r0")) == 2
    assert lab.driver.started.count(("wipe", "r1")) == 1


async def test_a_lease_that_is_cancelled_while_it_waits_for_a_repair_leaves_the_resource_in_quarantine(
    lab: Lab,
) -> None:
    await lab.pool(1, policy=HOLD, wipe=1)
    lab.driver.script = fails("r0")
    handle = await lab.submit()
    await lab.until_state("r0", "broken")

    await handle.execute_update(LeaseWorkflow.cancel, Steer(actor="me"))

    await lab.until(handle, LeaseState.ENDED)
    assert await lab.states() == {"r0": "broken"}
    await lab.store.repair("p", "r0", "operator")
    assert await lab.states() == {"r0": "free"}


async def test_what_is_not_ready_in_time_is_given_back(skipping_lab: Lab) -> None:
    lab = skipping_lab
    await lab.pool(2, policy=Policy(on_failure=OnFailure.HOLD, prepare_timeout=timedelta(hours=3)), wipe=1)
    lab.driver.script = fails("r0")
    handle = await lab.submit(count=2)
    await lab.until_state("r0", "broken")

    assert await handle.result() == Outcome.FAILED

    lease = await lab.record(handle)
    assert lease.error is not None
    assert lease.error.code == "prepare_timeout"
    assert lease.ended_at is not None
    assert abs(lease.ended_at - lease.created_at - timedelta(hours=3)) < timedelta(minutes=1)
    while await lab.states() != {"r0": "broken", "r1": "free"}:
        await asyncio.sleep(0.02)
