"""Stages: for one resource and for a whole lease, ahead of any lease, limited, skipped, and at a site."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from leasehold.messages import AddResources, Steer
from leasehold.model import Hook, Item, LeaseState, Outcome, Policy, Prepare, Scope, StageName
from leasehold.ports import HookCall
from tests.workflows.lab import Lab
from workflows import hooks
from workflows.lease import LeaseWorkflow

ONCE = Hook(run="true", scope=Scope.LEASE)
EACH = Hook(run="true")
AHEAD = Policy(prepare=Prepare.AHEAD)
ME = Steer(actor="me")


async def test_a_stage_for_the_lease_runs_once_when_all_are_ready_and_before_any_is_delivered(lab: Lab) -> None:
    await lab.pool(2, hooks={"validate": [EACH, ONCE], "deliver": [EACH, ONCE]})

    handle = await lab.submit(count=2)
    await lab.until(handle, LeaseState.ACTIVE)

    assert sorted(lab.driver.started[:2]) == [("validate", "r0"), ("validate", "r1")]
    assert lab.driver.started[2] == ("validate", "")
    assert sorted(lab.driver.started[3:5]) == [("deliver", "r0"), ("deliver", "r1")]
    assert lab.driver.started[5:] == [("deliver", "")]


async def test_a_lease_whose_own_stage_fails_fails_and_no_resource_is_to_blame(lab: Lab) -> None:
    await lab.pool(2, hooks={"validate": [EACH, ONCE]}, release=1)
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "")

    handle = await lab.submit(count=2)

    await lab.until(handle, LeaseState.ENDED)
    error = (await lab.record(handle)).error
    assert error is not None
    assert (error.code, error.detail) == ("stage_failed", "p, for the whole lease: validate: exit status 1")
    await lab.until_all_free()


async def test_an_active_lease_whose_own_stage_fails_goes_on_without_what_was_added(lab: Lab) -> None:
    await lab.pool(2, hooks={"configure": [ONCE]}, release=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "")

    await handle.execute_update(LeaseWorkflow.add, AddResources(items=(Item(pool="p"),), actor="me", request="more"))
    await lab.until_event(handle, "lease_shrunk")
    await lab.driver.until_started("release", "r1")
    await lab.until_state("r1", "free")

    assert (await lab.record(handle)).state is LeaseState.ACTIVE


async def test_a_running_stage_for_the_lease_is_stopped_by_a_cancel(lab: Lab) -> None:
    await lab.pool(2, hooks={"configure": [ONCE]}, release=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_RESOURCE"] == "" else 0
    handle = await lab.submit(count=2)
    await lab.driver.until_started("configure", "")

    await handle.execute_update(LeaseWorkflow.cancel, ME)

    await lab.until(handle, LeaseState.ENDED)
    assert lab.driver.stopped == [("configure", "")]
    await lab.until_all_free()
    assert ("release", "r0") in lab.driver.started, "what it touched is taken back"


async def test_what_was_prepared_ahead_is_delivered_at_once(lab: Lab) -> None:
    await lab.pool(1, policy=AHEAD, wipe=1, validate=1, deliver=1, release=1)
    await lab.until_all_free()
    assert [stage for stage, _ in lab.driver.started] == ["wipe", "validate"], "before anybody has asked for it"

    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    assert [stage for stage, _ in lab.driver.started[2:]] == ["deliver"]
    await handle.execute_update(LeaseWorkflow.release, ME)
    await lab.until_all_free()

    assert [stage for stage, _ in lab.driver.started[3:]] == ["release", "wipe", "validate"]


async def test_new_settings_of_its_stages_prepare_a_free_resource_again(lab: Lab) -> None:
    await lab.pool(1, policy=AHEAD, wipe=1)
    await lab.until_all_free()

    await lab.pool(1, policy=AHEAD, wipe=2)
    await lab.until_all_free()
    await lab.pool(1, policy=Policy(prepare=Prepare.AHEAD, default_duration=timedelta(hours=2)), wipe=2)

    assert await lab.states() == {"r0": "free"}, "other settings do not"
    assert lab.driver.started == [("wipe", "r0")] * 2


async def test_at_most_as_many_run_at_once_as_their_limiter_says(lab: Lab) -> None:
    limited = Hook(run="true", limit="foreman")
    await lab.pool(5, hooks={"provision": [limited], "release": [limited]}, limits={"foreman": 2})
    running, most = 0, 0

    def pause(call: HookCall) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        return 0.2

    def ended(call: HookCall) -> int:
        nonlocal running
        running -= 1
        return 0

    lab.driver.pause_s, lab.driver.script = pause, ended
    handle = await lab.submit(count=5)
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, ME)
    await lab.until_all_free()

    assert most == 2
    assert len(lab.driver.started) == 10


async def test_who_is_cancelled_while_waiting_for_a_limiter_leaves_its_place_to_others(lab: Lab) -> None:
    limited = Hook(run="true", limit="foreman")
    await lab.pool(3, hooks={"provision": [limited]}, limits={"foreman": 1})
    lab.driver.script = lambda call: None
    first, second, third = [await lab.submit() for _ in range(3)]
    while not lab.driver.started:
        await asyncio.sleep(0.02)
    lab.driver.script = lambda call: 0

    await second.execute_update(LeaseWorkflow.cancel, ME)
    await first.execute_update(LeaseWorkflow.cancel, ME)

    await lab.until(third, LeaseState.ACTIVE)
    await lab.until_all_free(besides=1)
    assert await lab.slots() == 0


async def test_a_skipped_stage_is_left_out(lab: Lab) -> None:
    await lab.pool(1, wipe=1, provision=1, validate=1)

    handle = await lab.submit(skip=(StageName.PROVISION, StageName.VALIDATE))
    await lab.until(handle, LeaseState.ACTIVE)

    assert lab.driver.started == [("wipe", "r0")]


async def test_wipe_is_skipped_only_where_the_last_holder_was_the_same(lab: Lab) -> None:
    await lab.pool(1, wipe=1)
    for holder in ("alice", "alice", "bob", "alice"):
        handle = await lab.submit(skip=(StageName.WIPE,), principal=holder)
        await lab.until(handle, LeaseState.ACTIVE)
        await handle.execute_update(LeaseWorkflow.release, ME)
        await handle.result()

    # Then it was wiped for alice at first, for bob, and for alice after bob.
    assert len(lab.driver.started) == 3


async def test_where_no_worker_serves_a_site_the_lease_says_so_and_is_served_once_one_does(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "TAKEN_UP_WITHIN", timedelta(seconds=1))
    site = f"site-{lab.task_queue}"
    await lab.pool(1, site=site, wipe=1)
    handle = await lab.submit()
    while (place := (await lab.record(handle)).queue) is None:
        await asyncio.sleep(0.05)
    assert place.reason == f"p/r0: no worker has begun wipe for a minute: is one running for site {site}?"
    assert "lease_blocked" in await lab.kinds(handle)

    async with lab.site_worker(site):
        active = await lab.until(handle, LeaseState.ACTIVE)

    assert active.queue is None


async def test_a_cancel_reaches_a_lease_whose_site_has_no_worker(lab: Lab) -> None:
    await lab.pool(1, site="nowhere", wipe=1)
    handle = await lab.submit()

    await handle.execute_update(LeaseWorkflow.cancel, ME)

    assert await handle.result() == Outcome.CANCELLED
    await lab.until_all_free()
