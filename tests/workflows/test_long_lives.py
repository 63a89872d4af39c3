"""A lease that lasts goes on in a new run before its history gets too long, and nobody notices."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from leasehold.messages import AddResources, ExtendLease, Steer
from leasehold.model import Item, LeaseState, Outcome, Policy
from tests.workflows.lab import Lab
from workflows.lease import LeaseWorkflow

ME = Steer(actor="me")


async def extended(lab: Lab, times: int = 12) -> str:
    """Take a lease of an hour, extend it by a minute so often, and return its id."""
    handle = await lab.submit(duration="1h")
    await lab.until(handle, LeaseState.ACTIVE)
    for number in range(times):
        held = await handle.execute_update(
            LeaseWorkflow.extend, ExtendLease(by="1m", actor="me", request=f"request {number}")
        )
        assert held.refusal is None
    return handle.id


async def until_in_a_new_run(lab: Lab, lease: str) -> None:
    """Wait until a lease has gone on in a new run, and its record says so."""
    handle = lab.env.client.get_workflow_handle(lease)
    first = lab.handles[0].first_execution_run_id
    while (run := (await handle.describe()).run_id) == first or (await lab.store.lease(lease)).run_id != run:
        await asyncio.sleep(0.05)


async def test_it_keeps_its_time_and_what_it_has(impatient_lab: Lab) -> None:
    lab = impatient_lab
    await lab.pool(1, policy=Policy(max_duration=timedelta(days=2)), wipe=1, release=1)
    lease = await extended(lab)
    await until_in_a_new_run(lab, lease)

    record = await lab.store.lease(lease)
    assert record.active_at is not None
    assert record.expires_at == record.active_at + timedelta(minutes=72)
    assert lab.driver.started == [("wipe", "r0")], "nothing is prepared a second time"


async def test_it_is_steered_as_before(impatient_lab: Lab) -> None:
    lab = impatient_lab
    await lab.pool(2, policy=Policy(max_duration=timedelta(days=2)), wipe=1)
    lease = await extended(lab)
    await until_in_a_new_run(lab, lease)
    handle = lab.env.client.get_workflow_handle_for(LeaseWorkflow.run, lease)

    again = await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1m", actor="me", request="request 11"))
    added = await handle.execute_update(LeaseWorkflow.add, AddResources(items=(Item(pool="p"),), actor="me"))
    assert again.expires_at == (await lab.store.lease(lease)).expires_at
    assert added.refusal is None
    await lab.until_event(lab.handles[0], "lease_resource_ready")

    await handle.execute_update(LeaseWorkflow.release, ME)
    assert await handle.result() == Outcome.RELEASED
    assert (await lab.kinds(lab.handles[0])).count("lease_extended") == 12


async def test_it_does_not_go_on_in_a_new_run_while_more_is_being_prepared(impatient_lab: Lab) -> None:
    lab = impatient_lab
    await lab.pool(2, policy=Policy(max_duration=timedelta(days=2)), wipe=1)
    handle = await lab.submit(duration="1h")
    await lab.until(handle, LeaseState.ACTIVE)
    lab.driver.script = lambda call: None
    await handle.execute_update(LeaseWorkflow.add, AddResources(items=(Item(pool="p"),), actor="me"))
    await lab.driver.until_started("wipe", "r1")
    for number in range(12):
        extension = ExtendLease(by="1m", actor="me", request=f"request {number}")
        await handle.execute_update(LeaseWorkflow.extend, extension)
    assert (await handle.describe()).run_id == handle.first_execution_run_id

    lab.driver.hanging["wipe", "r1"].set_result(0)

    await until_in_a_new_run(lab, handle.id)
    assert {r.state for r in (await lab.record(handle)).resources} == {"ready"}
    assert lab.driver.started.count(("wipe", "r1")) == 1
