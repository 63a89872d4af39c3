"""What must not keep a lease, a resource or the relay for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest
from temporalio.service import RPCError

from leasehold.messages import AddResources, ExtendLease, GiveBack, Steer
from leasehold.model import Hook, Item, LeaseState, OnFailure, Outcome, Policy, Prepare, Scope
from leasehold.ports import HookCall
from tests.workflows.lab import Lab
from workflows import hooks
from workflows.lease import LeaseWorkflow

ME = Steer(actor="me")
ONCE = Hook(run="true", scope=Scope.LEASE)
PATIENCE_S = 30
"""What is stuck would be so for ever, or for minutes at least."""


async def test_a_recycling_that_was_terminated_holds_up_no_message_to_others(lab: Lab) -> None:
    # Given a recycling that waits for a limiter, and is terminated before it is its turn.
    limited = Hook(run="true", limit="foreman")
    await lab.pool(2, hooks={"release": [limited]}, limits={"foreman": 1})
    lab.driver.script = lambda call: None
    for handle in [await lab.submit(), await lab.submit()]:
        await handle.execute_update(LeaseWorkflow.release, ME)
    while await lab.slots() < 2 or not lab.driver.started:
        await asyncio.sleep(0.02)
    (_, running), *_ = lab.driver.started
    (waiting,) = [r for r in await lab.recyclings if f":{running}:" not in r]
    await lab.env.client.get_workflow_handle(waiting).terminate()

    lab.driver.hanging["release", running].set_result(0)
    await lab.until_state(running, "free")

    async with asyncio.timeout(PATIENCE_S):
        while await lab.store.outbox_due():
            await asyncio.sleep(0.1)


async def test_heartbeats_of_a_request_that_was_refused_keep_no_lost_lease_alive(lab: Lab) -> None:
    await lab.pool(1)
    await lab.store.heartbeat("l-refused-meanwhile", timedelta(seconds=1))
    handle = await lab.submit(heartbeat="1s")

    async with asyncio.timeout(PATIENCE_S):
        lease = await lab.until(handle, LeaseState.ENDED)

    assert lease.outcome is Outcome.LOST


async def test_a_resource_that_is_prepared_ahead_waits_for_a_worker_of_its_site(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "TAKEN_UP_WITHIN", timedelta(seconds=1))
    site = f"site-{lab.task_queue}"
    await lab.pool(1, policy=Policy(prepare=Prepare.AHEAD), site=site, wipe=1)
    await asyncio.sleep(3)

    async with lab.site_worker(site), asyncio.timeout(PATIENCE_S):
        await lab.until_all_free()


async def test_a_lease_that_had_to_wait_for_a_limiter_expires_when_its_time_is_up(lab: Lab) -> None:
    # Given a lease whose last stage had to wait for a slot, and another that takes the slot after it and keeps it.
    limited = Hook(run="true", scope=Scope.LEASE, limit="foreman")
    await lab.pool(3, hooks={"configure": [limited]}, limits={"foreman": 1})
    hang = True
    lab.driver.script = lambda call: None if hang else 0
    first = await lab.submit()
    await lab.driver.until_started("configure", "")
    second = await lab.submit(duration="2s")
    while await lab.slots() < 2:
        await asyncio.sleep(0.02)
    third = await lab.submit()
    while await lab.slots() < 3:
        await asyncio.sleep(0.02)
    hang = False
    blocker, lab.driver.script = lab.driver.hanging.pop(("configure", "")), lambda call: 0
    seen = len(lab.driver.started)

    def script(call: HookCall) -> int | None:
        return 0 if call.env["LEASEHOLD_LEASE"] == second.id else None

    lab.driver.script = script
    blocker.set_result(0)
    await lab.until(first, LeaseState.ACTIVE)
    while len(lab.driver.started) < seen + 2:
        await asyncio.sleep(0.02)

    async with asyncio.timeout(PATIENCE_S):
        assert await second.result() == Outcome.EXPIRED
    for handle in (first, third):
        await handle.execute_update(LeaseWorkflow.cancel, ME)
        await handle.result()


@pytest.mark.parametrize("stage", ["validate", "deliver"])
async def test_what_is_not_delivered_in_time_is_given_back_whatever_stage_it_is_in(lab: Lab, stage: str) -> None:
    await lab.pool(1, policy=Policy(prepare_timeout=timedelta(seconds=2)), stages={stage: 1})
    lab.driver.script = lambda call: None
    handle = await lab.submit()

    async with asyncio.timeout(PATIENCE_S):
        assert await handle.result() == Outcome.FAILED

    error = (await lab.record(handle)).error
    assert error is not None
    assert error.code == "prepare_timeout"


async def test_a_lease_expires_even_while_it_waits_to_go_on_in_a_new_run(impatient_lab: Lab) -> None:
    # Given a lease with a long history, to which something is added that is never ready.
    lab = impatient_lab
    await lab.pool(2, policy=Policy(max_duration=timedelta(days=2)), wipe=1)
    handle = await lab.submit(duration="1h")
    await lab.until(handle, LeaseState.ACTIVE)
    lab.driver.script = lambda call: None
    await handle.execute_update(LeaseWorkflow.add, AddResources(items=(Item(pool="p"),), actor="me"))
    await lab.driver.until_started("wipe", "r1")
    for number in range(12):
        await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1m", actor="me", request=f"request {number}"))
    now = lab.clock()
    soon = ExtendLease(until=now + timedelta(seconds=3), actor="me", request="soon")
    assert (await handle.execute_update(LeaseWorkflow.extend, soon)).refusal is None

    async with asyncio.timeout(PATIENCE_S):
        assert await handle.result() == Outcome.EXPIRED


async def test_what_is_given_back_while_a_stage_for_the_lease_runs_harms_no_other_resource(lab: Lab) -> None:
    await lab.pool(3, hooks={"configure": [ONCE, ONCE]})
    handle = await lab.submit(count=2)
    await lab.until(handle, LeaseState.ACTIVE)
    # Given one that is added, and a stage for the whole lease that runs because of it.
    lab.driver.started.clear()
    lab.driver.script = lambda call: None
    await handle.execute_update(LeaseWorkflow.add, AddResources(items=(Item(pool="p"),), actor="me", request="more"))
    while ("configure", "") not in lab.driver.hanging:
        await asyncio.sleep(0.02)
    lab.driver.script = lambda call: 0

    await handle.execute_update(LeaseWorkflow.give_back, GiveBack(pool="p", resource="r0", actor="me"))
    lab.driver.hanging["configure", ""].set_result(0)

    async with asyncio.timeout(PATIENCE_S):
        await lab.until_event(handle, "lease_resource_ready")
    assert (await lab.states())["r2"] == "leased"


async def test_what_was_added_is_prepared_though_the_update_that_asked_for_it_was_lost(lab: Lab) -> None:
    # Given an addition that is in the record, and a worker that died before its workflow knew of it.
    await lab.pool(2, wipe=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await lab.store.add(handle.id, AddResources(items=(Item(pool="p"),), actor="me", request="more"))

    async with asyncio.timeout(PATIENCE_S):
        await lab.until_event(handle, "lease_resource_ready")


async def test_a_resource_that_left_its_pools_file_and_fails_lets_its_lease_be_cancelled(lab: Lab) -> None:
    policy = Policy(on_failure=OnFailure.HOLD)
    await lab.pool(2, policy=policy, wipe=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_RESOURCE"] == "r1" else 0
    handle = await lab.submit(count=2)
    await lab.driver.until_started("wipe", "r1")
    await lab.pool(1, policy=policy, wipe=1)
    await lab.fail_hanging("r1", "wipe")
    while "r1" in await lab.states():
        await asyncio.sleep(0.02)

    async with asyncio.timeout(PATIENCE_S):
        with suppress(RPCError):
            # It may be over already.
            await handle.execute_update(LeaseWorkflow.cancel, ME)
        await lab.until(handle, LeaseState.ENDED)
