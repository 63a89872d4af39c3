"""Waiting: who is served when something is freed, in which order, and what a waiting lease is told."""

from __future__ import annotations

from datetime import timedelta

from leasehold.messages import RecycleResource
from leasehold.model import Item, LeaseState, Outcome
from leasehold.ports import ResourceFilter
from tests.contract.store_lab import HOST, Lab, run_of


async def test_whoever_frees_a_resource_hands_it_over_in_the_same_transaction(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    await lab.submit("b")
    await lab.close("a")
    assert (await lab.state("b"), await lab.held("b")) == ("preparing", ["host01"])
    assert await lab.signalled() == ["b"]


async def test_the_first_to_wait_is_the_first_to_be_served(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    for name in ("b", "c", "d"):
        await lab.submit(name)
    served = []
    for holder in ("a", "b", "c"):
        await lab.close(holder)
        served += [name for name in ("b", "c", "d") if await lab.state(name) == "preparing"]
    assert served == ["b", "c", "d"]


async def test_priority_goes_before_arrival(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    for name, priority in (("low", -1), ("normal", 0), ("high", 5), ("as high", 5)):
        await lab.submit(name, priority=priority)
    assert [lease.id for lease in await lab.store.queue("r640")] == ["high", "as high", "normal", "low"]
    await lab.close("a")
    assert await lab.state("high") == "preparing"


async def test_one_release_serves_as_many_as_it_can(lab: Lab) -> None:
    await lab.pool("r640", 3)
    await lab.take("all", Item(pool="r640", count=3))
    await lab.submit("two", Item(pool="r640", count=2))
    await lab.submit("one")
    await lab.submit("none left")
    await lab.close("all")
    assert [await lab.state(x) for x in ("two", "one", "none left")] == ["preparing", "preparing", "queued"]
    assert sorted(await lab.signalled()) == ["one", "two"]


async def test_a_smaller_lease_passes_a_blocked_one(lab: Lab) -> None:
    await lab.pool("r640", 2)
    await lab.take("a")
    await lab.submit("blocked", Item(pool="r640", count=2))
    assert (await lab.submit("small")).state is LeaseState.PREPARING
    await lab.close("a")
    assert await lab.state("blocked") == "queued"
    await lab.close("small")
    assert await lab.state("blocked") == "preparing"


async def test_a_lease_over_two_pools_is_served_once_both_are_free(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.pool("vm", 1)
    await lab.take("one")
    await lab.take("two", pool="vm")
    await lab.submit("both", Item(pool="r640"), Item(pool="vm"))
    await lab.close("one")
    assert await lab.state("both") == "queued"
    await lab.close("two")
    assert await lab.held("both") == ["host01", "host01"]


async def test_who_wants_of_any_pool_is_served_by_whichever_is_freed(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.pool("vm", 1)
    await lab.take("a")
    await lab.take("b", pool="vm")
    await lab.submit("any", Item())
    await lab.close("b")
    assert [c.pool for c in (await lab.store.standing("any")).claims] == ["vm"]


async def test_long_queues_are_served_in_their_order_too(lab: Lab) -> None:
    # More waiters that cannot be served than the matcher looks at together stand before one that can.
    await lab.pool("r640", 2)
    await lab.take("a", Item(pool="r640", count=2))
    for n in range(60):
        await lab.submit(f"both{n}", Item(pool="r640", count=2))
    await lab.submit("single", Item(pool="r640", names=("host02",)))
    await lab.store.offline("r640", "host01", "moved", "operator")
    await lab.close("a")
    assert await lab.held("single") == ["host02"]


async def test_what_was_only_touched_by_nobody_is_free_at_once(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "release")
    await lab.submit("a")
    await lab.submit("b")
    await lab.close("a", Outcome.CANCELLED)
    assert await lab.held("b") == ["host01"]
    assert await lab.recycling_of() == []


async def test_a_lease_whose_stages_are_still_running_hands_over_after_recycling(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "release")
    (claim,) = (await lab.submit("a")).claims
    await lab.submit("b")
    await lab.begin("a", claim)
    await lab.close("a", Outcome.CANCELLED, stopped=False)
    assert (await lab.states(), await lab.state("b")) == ({"host01": "recycling"}, "queued")
    await lab.recycled("a")
    assert await lab.held("b") == ["host01"]


async def test_a_message_stays_due_until_it_is_delivered(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    await lab.submit("b")
    await lab.close("a")
    (posted,) = await lab.store.outbox_due()
    assert await lab.store.outbox_due() == [posted]
    await lab.store.outbox_delivered([posted.id])
    await lab.store.outbox_delivered([posted.id])
    assert await lab.store.outbox_due() == []


async def test_messages_come_oldest_first_and_so_many_at_a_time(lab: Lab) -> None:
    await lab.pool("r640", 3)
    await lab.take("a", Item(pool="r640", count=3))
    for name in ("b", "c", "d"):
        await lab.submit(name)
    await lab.close("a")
    assert [posted.lease for posted in await lab.store.outbox_due(2)] == ["b", "c"]


async def test_a_message_to_recycle_carries_all_that_the_workflow_needs(lab: Lab) -> None:
    await lab.pool("r640", 1, "release")
    await lab.take("a")
    await lab.close("a")
    (posted,) = await lab.store.outbox_due()
    assert isinstance(posted.start, RecycleResource)
    claim = posted.start.claim
    assert (posted.start.lease, claim.pool, claim.resource) == ("a", "r640", "host01")
    assert [(s.stage, s.hooks[0].timeout_s, s.hooks[0].attempts) for s in claim.stages] == [("release", 600.0, 1)]
    # Its epoch is that of the resource: the recycling may run hooks.
    assert (await lab.store.begin_run(run_of("a", claim, claim.stages[0]), HOST)).finished is None


class TestPlace:
    """A waiting lease says where it stands and why it waits."""

    async def test_position_and_reason(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a")
        await lab.store.offline("r640", "host02", "moved", "operator")
        await lab.submit("b")
        await lab.submit("c", Item(pool="r640", count=2))
        first, second = (await lab.lease("b")).queue, (await lab.lease("c")).queue
        assert first is not None
        assert second is not None
        assert (first.position, second.position) == (1, 2)
        # The same words each time, on both databases.
        assert first.reason == "needs 1 of r640; 0 free; 1 held by lease 1 until 10:00 UTC; 1 offline"
        held = "needs 2 of r640; 0 free; 1 held by lease 1 until 10:00 UTC; 1 offline"
        assert second.reason == f"{held}; 1 lease before it"

    async def test_the_place_changes_with_what_comes_and_goes(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        for name in ("b", "c"):
            await lab.submit(name)
        assert await lab.positions("b", "c") == [1, 2]
        await lab.submit("high", priority=1)
        assert await lab.positions("high", "b", "c") == [1, 2, 3]
        await lab.close("b", Outcome.CANCELLED)
        assert await lab.positions("high", "c") == [1, 2]

    async def test_only_rivals_for_the_same_pools_count(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.pool("vm", 1)
        await lab.take("a", Item(pool="r640"), Item(pool="vm"))
        await lab.submit("hosts")
        await lab.submit("vms", pool="vm")
        await lab.submit("any", Item())
        await lab.submit("more vms", pool="vm")
        assert await lab.positions("hosts", "vms", "any", "more vms") == [1, 1, 3, 3]

    async def test_who_is_granted_has_no_place(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        assert (await lab.lease("a")).queue is None

    async def test_the_queue_of_a_pool_is_everyone_who_wants_of_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.pool("vm", 1)
        await lab.take("a", Item(pool="r640"), Item(pool="vm"))
        await lab.submit("any", Item())
        await lab.submit("vms", pool="vm", priority=1)
        assert [lease.id for lease in await lab.store.queue("r640")] == ["any"]
        assert [lease.id for lease in await lab.store.queue("vm")] == ["vms", "any"]
        (pool,) = await lab.store.pools("vm")
        assert pool.waiting == 2

    async def test_when_the_next_holder_is_due_is_known(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="30m")
        found = await lab.store.available(ResourceFilter(pool="r640"))
        assert (found.free, found.total, found.next_free_at) == (0, 1, lab.clock.now + timedelta(minutes=30))
