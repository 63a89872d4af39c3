"""While a lease is held: warnings, grace, extensions by policy, heartbeats, more resources and fewer."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from leasehold.messages import AddResources, ExtendLease, GiveBack, Steer
from leasehold.model import Extend, Item, LeaseState, Outcome, Policy
from tests.workflows.lab import Lab
from workflows.lease import LeaseWorkflow

HOUR = timedelta(hours=1)
ME = Steer(actor="me")


def more(*items: Item, request: str = "one") -> AddResources:
    return AddResources(items=items or (Item(pool="p"),), actor="me", request=request)


async def test_the_holder_is_warned_as_often_and_as_early_as_the_policy_says(skipping_lab: Lab) -> None:
    lab = skipping_lab
    await lab.pool(1, policy=Policy(warn_before=(2 * HOUR, HOUR, timedelta(minutes=5)), max_duration=24 * HOUR))
    handle = await lab.submit(duration="90m")

    assert await handle.result() == Outcome.EXPIRED

    # Then not two hours before, because it never had so long.
    warned = [e.data["left_s"] for e in await lab.store.events(lease=handle.id) if e.kind == "lease_expiring"]
    assert [round(left, -1) for left in warned] == [3600, 300]


async def test_an_extension_brings_new_warnings(skipping_lab: Lab) -> None:
    lab = skipping_lab
    await lab.pool(1, policy=Policy(warn_before=(HOUR,)))
    handle = await lab.submit(duration="2h")
    await lab.until(handle, LeaseState.ACTIVE)
    await lab.env.sleep(timedelta(minutes=90))

    await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="2h", actor="me", request="one"))

    assert await handle.result() == Outcome.EXPIRED
    assert (await lab.kinds(handle)).count("lease_expiring") == 2


async def test_in_grace_a_lease_can_be_revived(skipping_lab: Lab) -> None:
    lab = skipping_lab
    await lab.pool(1, policy=Policy(grace=2 * HOUR))
    handle = await lab.submit(duration="1h")
    await lab.until(handle, LeaseState.ACTIVE)
    await lab.env.sleep(2 * HOUR)
    lease = await lab.record(handle)
    assert (lease.state, lease.in_grace) == (LeaseState.ACTIVE, True)

    held = await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="4h", actor="me", request="one"))

    assert held.refusal is None
    lease = await lab.record(handle)
    assert (lease.in_grace, lease.expires_at) == (False, held.expires_at)
    assert await handle.result() == Outcome.EXPIRED


async def test_after_its_grace_a_lease_has_expired(skipping_lab: Lab) -> None:
    lab = skipping_lab
    await lab.pool(1, policy=Policy(grace=2 * HOUR))
    handle = await lab.submit(duration="1h")

    assert await handle.result() == Outcome.EXPIRED

    lease = await lab.record(handle)
    assert lease.ended_at is not None
    assert lease.active_at is not None
    assert 3 * HOUR <= lease.ended_at - lease.active_at < 3 * HOUR + timedelta(minutes=1)


async def test_a_lease_goes_on_by_itself_while_nobody_waits_for_what_it_has(skipping_lab: Lab) -> None:
    lab = skipping_lab
    await lab.pool(2, policy=Policy(auto_extend=HOUR))
    handle, other = await lab.submit(duration="1h"), await lab.submit(duration="365d")
    await lab.until(handle, LeaseState.ACTIVE)
    await lab.until(other, LeaseState.ACTIVE)
    await lab.env.sleep(3 * HOUR + HOUR / 2)
    assert (await lab.record(handle)).state is LeaseState.ACTIVE

    waiter = await lab.submit(duration="1h")

    assert await handle.result() == Outcome.EXPIRED
    await lab.until(waiter, LeaseState.ACTIVE)
    assert (await lab.kinds(handle)).count("lease_extended") == 3


async def test_by_itself_it_goes_on_no_longer_than_allowed_in_total(skipping_lab: Lab) -> None:
    lab = skipping_lab
    await lab.pool(1, policy=Policy(auto_extend=HOUR, max_total=timedelta(minutes=150)))
    handle = await lab.submit(duration="1h")

    assert await handle.result() == Outcome.EXPIRED

    lease = await lab.record(handle)
    assert lease.ended_at is not None
    assert lease.active_at is not None
    assert timedelta(0) <= lease.ended_at - lease.active_at - timedelta(minutes=150) < timedelta(minutes=1)


async def test_extending_is_refused_while_somebody_waits_where_the_policy_says_so(lab: Lab) -> None:
    await lab.pool(1, policy=Policy(extend=Extend.WHILE_UNCLAIMED))
    handle = await lab.submit(duration="1h")
    extension = ExtendLease(by="1h", actor="me", request="one")
    await lab.until(handle, LeaseState.ACTIVE)
    unclaimed = await handle.execute_update(LeaseWorkflow.extend, extension)
    await lab.submit()

    extension = ExtendLease(by="1h", actor="me", request="two")
    claimed = await handle.execute_update(LeaseWorkflow.extend, extension)

    assert unclaimed.refusal is None
    assert claimed.refusal is not None
    assert (claimed.refusal.code, claimed.refusal.detail) == (
        "extension_refused",
        "somebody waits for what the lease has",
    )


async def test_a_lease_whose_holder_is_not_heard_of_is_lost(lab: Lab) -> None:
    await lab.pool(1, release=1)
    handle = await lab.submit(heartbeat="1s")
    waiter = await lab.submit()

    lease = await lab.until(handle, LeaseState.ENDED)

    assert lease.outcome is Outcome.LOST
    await lab.until(waiter, LeaseState.ACTIVE)


async def test_heartbeats_keep_a_lease(lab: Lab) -> None:
    await lab.pool(1)
    handle = await lab.submit(heartbeat="2s")
    for _ in range(8):
        await asyncio.sleep(0.5)
        await lab.store.heartbeat(handle.id)

    assert (await lab.record(handle)).state is LeaseState.ACTIVE


async def test_a_waiting_lease_whose_holder_is_not_heard_of_leaves_the_queue(lab: Lab) -> None:
    await lab.pool(1)
    await lab.submit()
    waiter = await lab.submit(heartbeat="1s")

    assert (await lab.until(waiter, LeaseState.ENDED)).outcome is Outcome.LOST


async def test_in_a_running_hook_a_lost_lease_stops_it(lab: Lab) -> None:
    await lab.pool(1, wipe=1, release=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
    handle = await lab.submit(heartbeat="1s")

    assert (await lab.until(handle, LeaseState.ENDED)).outcome is Outcome.LOST
    assert lab.driver.stopped == [("wipe", "r0")]
    await lab.until_all_free()


async def test_more_resources_are_prepared_while_the_lease_goes_on(lab: Lab) -> None:
    await lab.pool(3, wipe=1, deliver=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    lab.driver.script = lambda call: None

    standing = await handle.execute_update(LeaseWorkflow.add, more(Item(pool="p", count=2, role="worker")))

    assert standing.refusal is None
    await lab.driver.until_started("wipe", "r2")
    lease = await lab.record(handle)
    assert lease.state is LeaseState.ACTIVE
    assert [(r.name, r.state, r.item, r.role) for r in lease.resources] == [
        ("r0", "ready", 0, None),
        ("r1", "preparing", 1, "worker"),
        ("r2", "preparing", 1, "worker"),
    ]


async def test_what_was_added_is_delivered_when_all_of_it_is_ready(lab: Lab) -> None:
    await lab.pool(3, wipe=1, deliver=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)

    await handle.execute_update(LeaseWorkflow.add, more(Item(pool="p", count=2)))
    again = await handle.execute_update(LeaseWorkflow.add, more(Item(pool="p", count=2)))

    assert again.refusal is None, "the same addition counts once"
    await lab.until_event(handle, "lease_resource_ready", 2)
    assert {r.state for r in (await lab.record(handle)).resources} == {"ready"}
    assert len(await lab.store.delivery(handle.id)) == 3


async def test_what_is_not_free_now_is_refused_and_not_waited_for(lab: Lab) -> None:
    await lab.pool(2)
    handle, _ = await lab.submit(), await lab.submit()

    standing = await handle.execute_update(LeaseWorkflow.add, more())

    assert standing.refusal is not None
    assert standing.refusal.code == "not_free"
    assert await lab.holds(handle) == ["r0"]


async def test_what_is_added_and_fails_is_quarantined_and_the_lease_goes_on(lab: Lab) -> None:
    await lab.pool(2, wipe=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    lab.driver.script = lambda call: 1

    await handle.execute_update(LeaseWorkflow.add, more())

    await lab.until_state("r1", "broken")
    assert await lab.holds(handle) == ["r0"]
    assert (await lab.record(handle)).state is LeaseState.ACTIVE


async def test_a_part_is_given_back_to_who_waits_for_it(lab: Lab) -> None:
    await lab.pool(2, release=1)
    handle = await lab.submit(count=2)
    await lab.until(handle, LeaseState.ACTIVE)
    waiter = await lab.submit()

    standing = await handle.execute_update(LeaseWorkflow.give_back, GiveBack(pool="p", resource="r0", actor="me"))

    assert standing.refusal is None
    await lab.until(waiter, LeaseState.ACTIVE)
    assert (await lab.holds(handle), await lab.holds(waiter)) == (["r1"], ["r0"])
    last = await handle.execute_update(LeaseWorkflow.give_back, GiveBack(pool="p", resource="r1", actor="me"))
    assert last.refusal is not None
    assert last.refusal.code == "last_resource"


async def test_what_is_given_back_while_it_is_prepared_is_stopped(lab: Lab) -> None:
    await lab.pool(2, wipe=1, release=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
    await handle.execute_update(LeaseWorkflow.add, more())
    await lab.driver.until_started("wipe", "r1")

    await handle.execute_update(LeaseWorkflow.give_back, GiveBack(pool="p", resource="r1", actor="me"))

    while lab.driver.stopped != [("wipe", "r1")]:
        await asyncio.sleep(0.02)
    await lab.until_state("r1", "free")
    await handle.execute_update(LeaseWorkflow.release, ME)
    assert await handle.result() == Outcome.RELEASED


async def test_a_lease_that_ends_while_more_is_prepared_stops_that_and_gives_all_back(lab: Lab) -> None:
    await lab.pool(2, wipe=1, release=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
    await handle.execute_update(LeaseWorkflow.add, more())
    await lab.driver.until_started("wipe", "r1")

    await handle.execute_update(LeaseWorkflow.release, ME)

    assert await handle.result() == Outcome.RELEASED
    await lab.until_all_free()
