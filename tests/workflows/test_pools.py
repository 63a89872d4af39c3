"""A pool's workflow sees to it that what is due is begun, and each creation and deletion goes to its end by itself."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest

from leasehold.healing import SweepOrder
from leasehold.messages import Steer, pool_id
from leasehold.model import Cadence, Hook, Inventory, LeaseState, Policy, Prepare, Size
from leasehold.ports import HookCall, ResourceFilter
from tests.workflows.lab import Lab
from tests.workflows.test_sweep import listed, sweep
from workflows.lease import LeaseWorkflow
from workflows.pool import PoolWorkflow


@pytest.fixture
def pool() -> str:
    """The name of a pool, and so of its workflow, that no other test has."""
    return f"vm{uuid.uuid4().hex[:8]}"


def failing(*stages: str, times: int) -> tuple[list[str], object]:
    """A script by which hooks of these stages fail so often; and what it was asked."""
    asked: list[str] = []

    def script(call: HookCall) -> int:
        stage = call.env["LEASEHOLD_STAGE"]
        asked.append(stage)
        return int(stage in stages and asked.count(stage) <= times)

    return asked, script


async def stirred_into_a_new_run(lab: Lab, pool: str) -> int:
    """Stir a pool until its workflow goes on in a new run, and return how many events the last one had."""
    handle = lab.env.client.get_workflow_handle_for(PoolWorkflow.run, pool_id(pool))
    first = now = await handle.describe()
    events = 0
    while now.run_id == first.run_id:
        events = now.history_length
        await handle.signal(PoolWorkflow.on_stir)
        now = await handle.describe()
    return events


async def test_who_comes_gets_something_made_and_it_is_deleted_afterwards(lab: Lab, pool: str) -> None:
    await lab.dynamic_pool(pool, Size(max=2), "deliver")
    handle = await lab.submit(pool=pool)
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, Steer(actor="me"))
    await lab.until_there(pool)
    assert [stage for stage, _ in lab.driver.started] == ["create", "deliver", "delete"]


async def test_where_much_happens_it_goes_on_in_a_new_run_soon(lab: Lab, pool: str) -> None:
    await lab.dynamic_pool(pool, Size(max=1, min_free=1))
    await lab.until_there(pool, free=1)
    async with asyncio.timeout(90):
        assert await stirred_into_a_new_run(lab, pool) < 600
    await lab.store.apply(Inventory(name=pool, pools=()), "test")
    await lab.until_there(pool)


async def test_a_deletion_is_tried_again_ever_more_seldom_until_it_works(skipping_lab: Lab, pool: str) -> None:
    lab = skipping_lab
    asked, lab.driver.script = failing("delete", times=14)  # type: ignore[assignment]
    await lab.dynamic_pool(pool, Size(max=1, min_free=1))
    await lab.until_there(pool, free=1)
    begun = await lab.env.get_current_time()
    await lab.store.apply(Inventory(name=pool, pools=()), "test")
    while await lab.store.resources(ResourceFilter(pool=pool)):
        # Some of it in real time: for the relay, and for hooks.
        await asyncio.sleep(0.05)
        await lab.env.sleep(10)
    assert asked.count("delete") == 15
    took = await lab.env.get_current_time() - begun
    # 1 + 2 + 4 + … + 512 s, and then every ten minutes.
    assert timedelta(minutes=55) < took < timedelta(minutes=80)


async def test_an_operator_can_have_it_tried_again_at_once(lab: Lab, pool: str) -> None:
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_STAGE"] == "delete")
    await lab.dynamic_pool(pool, Size(max=1, min_free=1))
    await lab.until_there(pool, free=1)
    (resource,) = await lab.store.resources(ResourceFilter(pool=pool))
    await lab.store.delete_resource(pool, resource.name, "operator")
    while (await lab.store.resource(pool, resource.name)).instance.trouble is None:  # type: ignore[union-attr]
        await asyncio.sleep(0.02)
    lab.driver.script = lambda call: 0
    for _ in range(3):
        await lab.store.repair(pool, resource.name, "operator")
    await lab.until_there(pool, free=1)


async def test_failed_creations_are_paused_after_and_one_that_works_ends_that(lab: Lab, pool: str) -> None:
    asked, lab.driver.script = failing("create", times=2)  # type: ignore[assignment]
    await lab.dynamic_pool(pool, Size(max=1, min_free=1))
    await lab.until_there(pool, free=1)
    assert asked.count("create") == 3
    growth = (await lab.store.pools(pool))[0].growth
    assert growth is not None
    assert (growth.starts, growth.successes, growth.failures) == (3, 1, 0)


async def test_temporals_own_cancellation_leaves_nothing_half_made(lab: Lab, pool: str) -> None:
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "create" else 0
    await lab.dynamic_pool(pool, Size(max=1, min_free=1))
    (resource,) = await _creating(lab, pool)
    await lab.driver.until_started("create", resource)
    (creation,) = await lab.started("create")
    await lab.env.client.get_workflow_handle(creation).cancel()
    await asyncio.sleep(0.5)
    lab.driver.hanging["create", resource].set_result(0)
    await lab.until_there(pool, free=1)


async def _creating(lab: Lab, pool: str) -> list[str]:
    while not (there := await lab.store.resources(ResourceFilter(pool=pool, state="creating"))):
        await asyncio.sleep(0.02)
    return [one.name for one in there]


async def test_a_pool_goes_on_in_a_new_run_before_its_history_gets_too_long(impatient_lab: Lab, pool: str) -> None:
    lab = impatient_lab
    await lab.dynamic_pool(pool, Size(max=2, min_free=1))
    await lab.until_there(pool, free=1)
    await stirred_into_a_new_run(lab, pool)
    lease = await lab.submit(pool=pool)
    await lab.until(lease, LeaseState.ACTIVE)
    await lab.until_there(pool, free=1, leased=1)


async def test_a_pool_whose_workflow_was_terminated_is_looked_after_again(lab: Lab, pool: str) -> None:
    await lab.dynamic_pool(pool, Size(max=2, min_free=1))
    await lab.until_there(pool, free=1)
    handle = lab.env.client.get_workflow_handle_for(PoolWorkflow.run, pool_id(pool))
    await handle.terminate()
    await sweep(lab)
    lease = await lab.submit(pool=pool)
    await lab.until(lease, LeaseState.ACTIVE)
    await lab.until_there(pool, free=1, leased=1)


@pytest.mark.parametrize("stage", ["create", "delete"])
async def test_what_was_terminated_half_way_is_deleted_by_the_sweep(lab: Lab, pool: str, stage: str) -> None:
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == stage else 0
    await lab.dynamic_pool(pool, Size(max=2, min_free=1))
    if stage == "delete":
        await lab.until_there(pool, free=1)
        (there,) = await lab.store.resources(ResourceFilter(pool=pool))
        await lab.store.delete_resource(pool, there.name, "operator")
        resource = there.name
    else:
        (resource,) = await _creating(lab, pool)
    await lab.driver.until_started(stage, resource)
    (errand,) = await lab.started(stage)
    await lab.env.client.get_workflow_handle(errand).terminate()
    await listed(lab, f"WorkflowId = '{errand}' AND ExecutionStatus = 'Terminated'", 1)
    lab.driver.script = lambda call: 0
    await sweep(lab, SweepOrder(grace_s=0))
    await lab.until_there(pool, free=1)
    assert resource not in {one.name for one in await lab.store.resources(ResourceFilter(pool=pool))}


async def test_livechecks_of_one_pool_run_side_by_side(lab: Lab, pool: str) -> None:
    every = Cadence(every=timedelta(seconds=1), attempts=1, parallel=3)
    hanging = {"on": True}
    lab.driver.script = lambda call: (
        None if hanging["on"] and call.env["LEASEHOLD_STAGE"] == "livecheck" and first(call) else 0
    )
    names: list[str] = []

    def first(call: HookCall) -> bool:
        name = call.env["LEASEHOLD_RESOURCE"]
        if not names:
            names.append(name)
        return name == names[0]

    await lab.dynamic_pool(pool, Size(max=3, max_creating=3, min_free=3), livecheck=every)
    await lab.until_there(pool, free=3)
    # One hangs, and the others are checked again and again.
    while len([one for one in lab.driver.started if one[0] == "livecheck" and [one[1]] != names]) < 4:
        await asyncio.sleep(0.05)
    hanging["on"] = False
    lab.driver.hanging["livecheck", names[0]].set_result(1)
    while names[0] in {one.name for one in await lab.store.resources(ResourceFilter(pool=pool))}:
        await asyncio.sleep(0.05)
    await lab.until_there(pool, free=3)


async def test_what_is_prepared_ahead_is_delivered_at_once(lab: Lab, pool: str) -> None:
    await lab.dynamic_pool(
        pool, Size(max=2, min_free=1), "wipe", policy=Policy(prepare=Prepare.AHEAD), wipe=Hook(run="true", attempts=2)
    )
    await lab.until_there(pool, free=1)
    assert [stage for stage, _ in lab.driver.started] == ["create", "wipe"]
    handle = await lab.submit(pool=pool)
    await lab.until(handle, LeaseState.ACTIVE)
    (mine,) = await lab.holds(handle)
    assert [stage for stage, name in lab.driver.started if name == mine] == ["create", "wipe"]


async def test_the_hooks_of_a_site_run_there(lab: Lab, pool: str) -> None:
    site, often = f"site-{pool}", Cadence(every=timedelta(seconds=1))
    await lab.dynamic_pool(pool, Size(max=1, min_free=1), livecheck=often, listing=often, site=site)
    await lab.until_there(pool, creating=1)
    await asyncio.sleep(1)
    assert lab.driver.started == [], "nobody is there"
    async with lab.site_worker(site):
        await lab.until_there(pool, free=1)
        while not {"livecheck", "list"} <= {stage for stage, _ in lab.driver.started}:
            await asyncio.sleep(0.05)
        await lab.store.apply(Inventory(name=pool, pools=()), "test")
        await lab.until_there(pool)
