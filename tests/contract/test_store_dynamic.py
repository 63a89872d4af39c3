"""Pools that make their resources: how many there are, what they are called, who gets them again, when they go."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from leasehold.errors import Conflict, StaleEpoch, Unavailable
from leasehold.messages import LOST, Checked, CheckRound, Created, CreateResource, DeleteResource, ListPool, pool_id
from leasehold.model import (
    Cadence,
    Circuit,
    Hook,
    Item,
    OnDegraded,
    OnFailure,
    Outcome,
    Policy,
    Prepare,
    Quota,
    ResourceSpec,
    Reuse,
    SelfService,
    Size,
    StageName,
)
from leasehold.ports import Place
from leasehold.store import healing
from tests.contract.dynamic_lab import LISTING, LIVECHECK, Cloud, planned, vm
from tests.contract.store_lab import HOST, Lab, file, run_of, spec

ANYWHERE = Item(tags=("x86_64",))
KEPT = Policy(reuse_window=timedelta(minutes=5))


@pytest.fixture
def cloud(lab: Lab) -> Cloud:
    return Cloud(lab)


async def names(cloud: Cloud, state: str = "free") -> list[str]:
    return [one.name for one in await cloud.resources() if one.state == state]


class TestGrowing:
    """How many there are."""

    async def test_a_pool_keeps_as_many_free_as_it_is_told(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=5, max_creating=2, min_free=3)))
        await cloud.settle()
        assert await cloud.states() == ["free"] * 3
        assert (cloud.most, cloud.most_creating) == (3, 2)

    async def test_what_is_taken_is_made_up_for_up_to_the_limit(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=5, max_creating=9, min_free=3)))
        await cloud.settle()
        for lease in ("a", "b", "c"):
            await cloud.lab.take(lease, pool="vm")
            await cloud.settle()
        assert await cloud.states() == ["free", "free", "leased", "leased", "leased"]
        assert cloud.most == 5

    async def test_who_waits_gets_something_made(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=2, max_creating=1)))
        await cloud.settle()
        assert await cloud.states() == []
        for lease in ("a", "b", "c"):
            await cloud.lab.submit(lease, pool="vm")
        await cloud.settle()
        assert [await cloud.lab.state(lease) for lease in "abc"] == ["active", "active", "queued"]
        await cloud.lab.close("a")
        await cloud.settle()
        assert await cloud.lab.state("c") == "active"
        assert await cloud.states() == ["leased", "leased"]
        assert cloud.most == 2

    async def test_what_nobody_wants_any_more_is_deleted(self, cloud: Cloud) -> None:
        await cloud.apply(vm())
        await cloud.lab.submit("a", pool="vm")
        await cloud.tend()
        await cloud.lab.close("a", Outcome.CANCELLED)
        await cloud.settle()
        assert (await cloud.states(), cloud.there) == ([], set())

    async def test_what_is_free_for_long_goes_and_before_that_it_stays(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=4, idle=timedelta(hours=1)), policy=Policy(reuse=Reuse.ANYONE)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        await cloud.lab.close("a")
        await cloud.settle()
        tended = await cloud.tend()
        assert await cloud.states() == ["free"]
        assert tended.left_s == pytest.approx(3600)
        await cloud.goes_on(minutes=61)
        assert await cloud.states() == []

    async def test_the_cheapest_pool_makes_it_and_the_next_one_where_that_is_full(self, cloud: Cloud) -> None:
        tags = {"x86_64": 0}
        await cloud.apply(
            vm("dear", tags=tags, priority=20, size=Size(max=5)),
            vm("cheap", tags=tags, priority=10, size=Size(max=1)),
        )
        for lease in ("a", "b"):
            await cloud.lab.submit(lease, ANYWHERE)
            await cloud.settle()
        assert (await cloud.states("cheap"), await cloud.states("dear")) == (["leased"], ["leased"])

    async def test_a_pool_that_keeps_failing_is_passed_over(self, cloud: Cloud) -> None:
        tags = {"x86_64": 0}
        await cloud.apply(vm("broken", tags=tags, priority=1), vm("sound", tags=tags, priority=2))
        cloud.creates = lambda claim: claim.pool != "broken"
        await cloud.lab.submit("a", ANYWHERE)
        for _ in range(3):
            await cloud.settle()
            cloud.lab.clock.forward(seconds=10)
            for pool in ("broken", "sound"):
                await cloud.tend(pool)
        await cloud.settle()
        assert await cloud.lab.state("a") == "active"
        broken = (await cloud.lab.store.pools("broken"))[0].growth
        assert broken is not None
        assert (broken.circuit, broken.failures, broken.successes) == (Circuit.OPEN, 3, 0)
        assert broken.trouble == "create: exited with status 1"

    async def test_a_pool_that_works_again_is_counted_on_again(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=3, max_creating=3, min_free=3)))
        cloud.creates = lambda _: False
        await cloud.settle()
        growth = (await cloud.lab.store.pools("vm"))[0].growth
        assert growth is not None
        assert growth.circuit is Circuit.OPEN
        cloud.creates = lambda _: True
        cloud.lab.clock.forward(minutes=10)
        await cloud.tend()
        assert [type(one) for one in await cloud.due()] == [CreateResource], "one tries"
        await cloud.settle()
        assert await cloud.states() == ["free"] * 3

    async def test_an_on_demand_pool_makes_something_only_for_those_who_ask_for_it(self, cloud: Cloud) -> None:
        await cloud.apply(
            vm("plain", tags={"x86_64": 0}, size=Size(max=1)),
            vm("beefy", tags={"x86_64": 0}, tags_on_demand={"beefy": 0}, size=Size(max=3, min_free=2)),
        )
        for lease in ("a", "b"):
            await cloud.lab.submit(lease, ANYWHERE)
        await cloud.settle()
        assert (await cloud.states("plain"), await cloud.states("beefy")) == (["leased"], [])
        await cloud.lab.submit("c", Item(tags=("beefy",)))
        await cloud.settle()
        # It is there now, for anybody whom it suits: the first in the line.
        assert await cloud.states("beefy") == ["leased", "leased"]
        assert [await cloud.lab.state(lease) for lease in "abc"] == ["active", "active", "active"]

    async def test_tags_with_priorities_say_which_pool_is_preferred(self, cloud: Cloud) -> None:
        await cloud.apply(
            vm("slow", tags={"x86_64": 0, "fast": 1}, size=Size(max=1, min_free=1), priority=1),
            vm("swift", tags={"x86_64": 0, "fast": 10}, size=Size(max=1, min_free=1), priority=2),
        )
        await cloud.settle()
        await cloud.lab.take("a", Item(tags=("fast",)))
        await cloud.lab.take("b", ANYWHERE)
        assert [(await cloud.lab.lease(lease)).resources[0].pool for lease in "ab"] == ["swift", "slow"]

    async def test_one_after_the_other_where_each_start_is_to_wait_for_the_last(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=3, max_creating=3, min_free=3, create_delay=timedelta(seconds=30))))
        await cloud.settle()
        assert await cloud.states() == ["free"]
        tended = await cloud.tend()
        assert tended.left_s == pytest.approx(30)
        await cloud.goes_on(seconds=30)
        assert await cloud.states() == ["free", "free"]

    async def test_a_smaller_pool_shrinks_to_what_it_is_told(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=6, max_creating=6, min_free=5)))
        await cloud.settle()
        await cloud.lab.take("a", pool="vm")
        await cloud.apply(vm(size=Size(max=3, max_creating=6, min_free=1)))
        await cloud.settle()
        assert await cloud.states() == ["free", "leased"]

    async def test_one_that_is_offline_is_made_up_for(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=3, min_free=1)))
        await cloud.settle()
        (resource,) = await cloud.resources()
        await cloud.lab.store.offline("vm", resource.name, "I look at it", "bob")
        await cloud.settle()
        assert await cloud.states() == ["free", "free"]
        await cloud.lab.store.online("vm", resource.name, "bob")
        await cloud.settle()
        assert await cloud.states() == ["free"]

    async def test_more_than_are_begun_at_once_are_begun_soon(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=250, max_creating=250, min_free=230)))
        await cloud.settle()
        assert await cloud.states() == ["free"] * 230

    async def test_a_paused_pool_makes_nothing_and_keeps_what_it_has(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=4, min_free=2)))
        await cloud.settle()
        await cloud.lab.store.pause("vm", "the cloud is being moved", "bob")
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        assert (await cloud.states(), await cloud.lab.state("a")) == (["free", "free"], "queued")
        await cloud.lab.store.resume("vm", "bob")
        await cloud.settle()
        assert await cloud.states() == ["free", "free", "leased"]

    async def test_a_paused_pool_is_not_looked_after_for_whoever_waits(self, cloud: Cloud) -> None:
        await cloud.apply(vm(), vm("other"))
        await cloud.lab.store.pause("vm", "the cloud is being moved", "bob")
        await cloud.settle()
        await cloud.lab.submit("a", Item())
        assert [posted.lease for posted in await cloud.lab.store.outbox_due()] == [pool_id("other")]

    async def test_a_drained_pool_has_nothing_once_its_holders_have_gone(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=4, min_free=2)))
        await cloud.settle()
        await cloud.lab.take("a", pool="vm")
        await cloud.lab.store.pause("vm", "no more of it", "bob", drain=True)
        await cloud.settle()
        assert await cloud.states() == ["leased"]
        await cloud.lab.close("a")
        await cloud.settle()
        assert (await cloud.states(), cloud.there) == ([], set())

    async def test_a_pool_that_leaves_its_file_goes_with_the_last_of_what_it_made(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=4, min_free=2)))
        await cloud.settle()
        await cloud.lab.take("a", pool="vm")
        await cloud.apply(vm("renamed", size=Size(max=4, min_free=1)))
        await cloud.settle()
        assert (await cloud.states("vm"), await cloud.states("renamed")) == (["leased"], ["free"])
        await cloud.lab.close("a")
        await cloud.settle()
        assert [pool.spec.name for pool in await cloud.lab.store.pools()] == ["renamed"]
        assert await cloud.states() == ["free"]
        assert cloud.there == {one.name for one in await cloud.resources()}

    async def test_what_was_made_goes_where_its_pool_makes_nothing_any_more(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(min_free=2)))
        await cloud.settle()
        await cloud.apply(spec("vm", "validate"))
        await cloud.settle()
        assert (await cloud.states(), cloud.there) == ([], set())
        assert (await cloud.tend()).over

    async def test_what_is_described_otherwise_by_now_is_made_anew(self, cloud: Cloud) -> None:
        await cloud.apply(vm(tags={"old": 0}, size=Size(max=4, max_creating=4, min_free=2)))
        await cloud.settle()
        await cloud.lab.take("a", pool="vm")
        await cloud.apply(vm(tags={"new": 0}, size=Size(max=4, max_creating=4, min_free=2)))
        await cloud.settle()
        there = [(one.tags, str(one.state)) for one in await cloud.resources()]
        assert sorted(there) == [(("new",), "free"), (("new",), "free"), (("old",), "leased")]

    async def test_nothing_is_registered_where_a_pool_makes_its_own(self, cloud: Cloud) -> None:
        await cloud.apply(vm())
        with pytest.raises(Conflict):
            await cloud.lab.store.put_resource("vm", ResourceSpec(name="by-hand"), "bob")

    async def test_a_request_for_more_than_a_pool_may_make_is_refused(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=3)))
        refused = await cloud.lab.submit("a", Item(pool="vm", count=4))
        assert refused.refusal is not None
        assert refused.refusal.code == "unsatisfiable"
        assert (await cloud.lab.submit("b", Item(pool="vm", count=3))).refusal is None

    async def test_nothing_is_made_or_deleted_while_the_records_are_not_to_be_trusted(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=4, min_free=2)))
        await cloud.settle()
        await cloud.lab.submit("a", Item(pool="vm", count=2))
        await suspend(cloud)
        await cloud.tend()
        assert [one for one in await cloud.due() if isinstance(one, CreateResource | DeleteResource)] == []


class TestWaiting:
    """Why somebody waits, and how long yet."""

    async def test_it_is_told_how_long_it_takes_to_make_one(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=2)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.tend()
        cloud.lab.clock.forward(seconds=40)
        await cloud.settle()
        await cloud.lab.submit("b", pool="vm")
        place = (await cloud.lab.lease("b")).queue
        assert place is not None
        assert place.eta == cloud.lab.clock.now + timedelta(seconds=40)
        await cloud.tend()
        assert "1 creating" in await cloud.lab.reason("b")

    async def test_it_is_told_that_the_pool_has_all_it_may_have(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1)))
        for lease in ("a", "b"):
            await cloud.lab.submit(lease, pool="vm")
        await cloud.settle()
        assert "1 held by lease 1" in await cloud.lab.reason("b")
        assert "vm has the 1 that it may have" in await cloud.lab.reason("b")

    async def test_it_is_told_why_nothing_can_be_made(self, cloud: Cloud) -> None:
        await cloud.apply(vm())
        cloud.creates = lambda _: False
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        assert "vm fails to make any: create: exited with status 1, tried again at 09:00 UTC" in await cloud.lab.reason(
            "a"
        )

    async def test_it_is_told_that_a_pool_makes_some_only_for_others(self, cloud: Cloud) -> None:
        await cloud.apply(vm("beefy", tags={"x86_64": 0}, tags_on_demand={"big": 0}))
        await cloud.lab.submit("a", ANYWHERE)
        assert "beefy makes some only for requests tagged big" in await cloud.lab.reason("a")


async def suspend(cloud: Cloud) -> None:
    await cloud.lab.store.database.write(healing.suspend, "the database is older than Temporal")


class TestNamesAndNumbers:
    """What they are called, and that it is known before anything is made."""

    async def test_a_name_is_written_down_before_anything_is_made(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, min_free=1), name_pattern="ci-{pool_name}-{id_in_pool}-{id}"))
        await cloud.tend()
        (resource,) = await cloud.resources()
        assert (resource.name, str(resource.state)) == ("ci-vm-0-00000001", "creating")
        assert cloud.there == set()

    async def test_ids_in_a_pool_are_the_lowest_free_ones(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=9, max_creating=9)))
        for lease in ("a", "b", "c"):
            await cloud.lab.submit(lease, pool="vm")
        await cloud.settle()
        assert await cloud.places() == [0, 1, 2]
        taken = (await cloud.lab.lease("b")).resources[0].name
        place = next(one.instance.place for one in await cloud.resources() if one.name == taken and one.instance)
        await cloud.lab.close("b")
        await cloud.settle()
        await cloud.lab.submit("d", pool="vm")
        await cloud.settle()
        assert await cloud.places() == [0, 1, 2]
        again = (await cloud.lab.lease("d")).resources[0].name
        new = next(one.instance for one in await cloud.resources() if one.name == again)
        assert new is not None
        assert (new.place, new.number) == (place, 4), "its own number is nobody else's ever"

    async def test_counters_are_shared_between_pools_and_freed_on_every_path(self, cloud: Cloud) -> None:
        await cloud.apply(
            vm("a", size=Size(max=2, max_creating=2, min_free=2), named_counters=("port", "rack")),
            vm("b", size=Size(max=1, min_free=1), named_counters=("port",)),
        )
        await cloud.settle()
        assert await cloud.counted() == [("port", 0), ("port", 1), ("port", 2), ("rack", 0), ("rack", 1)]
        cloud.creates = lambda _: False
        await cloud.apply(vm("a", size=Size(max=2, min_free=0)), vm("b", size=Size(max=1, min_free=0)))
        await cloud.settle()
        assert await cloud.counted() == []

    async def test_a_name_that_a_listing_has_found_is_not_given_again(self, cloud: Cloud) -> None:
        pattern = "{pool_name}_{id_in_pool}"
        await cloud.apply(vm(listing=LISTING, size=Size(max=3, max_creating=3), name_pattern=pattern))
        cloud.there.add("vm_0")
        cloud.deletes = lambda _: False
        for _ in range(2):
            await cloud.tend()
            await cloud.settle()
            cloud.lab.clock.forward(minutes=31)
        for lease in ("a", "b"):
            await cloud.lab.submit(lease, pool="vm")
        await cloud.settle()
        assert [(one.name, str(one.state)) for one in await cloud.resources()] == [
            ("vm_0", "deleting"),
            ("vm_1", "leased"),
            ("vm_2", "leased"),
        ]

    async def test_a_failed_creation_frees_its_numbers(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=2, min_free=1), named_counters=("port",)))
        cloud.creates = lambda _: False
        await cloud.settle()
        assert (await cloud.counted(), await cloud.states()) == ([], [])
        assert cloud.there == set(), "what it left half made was deleted"

    async def test_what_create_printed_is_the_holders_to_the_byte(self, cloud: Cloud) -> None:
        cloud.data = bytes(range(256)) + b"\r\n\n"
        await cloud.apply(vm())
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        assert [one.data for one in await cloud.lab.store.delivery("a")] == [cloud.data]
        await cloud.lab.close("a")
        await cloud.settle()
        assert await cloud.states() == []
        assert [one.data for one in await cloud.lab.store.delivery("a")] == [cloud.data], "when it is gone, too"

    async def test_hooks_are_told_their_numbers_by_the_names_of_resalloc(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, min_free=1), named_counters=("port",)))
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CreateResource)]
        env = (await cloud.lab.store.brief(run_of("", order.claim, order.claim.stages[0]))).env
        name = order.claim.resource
        assert {key: value for key, value in env.items() if key.startswith("RESALLOC_")} == {
            "RESALLOC_ID": "1",
            "RESALLOC_NAME": name,
            "RESALLOC_POOL_ID": "vm",
            "RESALLOC_ID_IN_POOL": "0",
            "RESALLOC_RESOURCE_DATA": "",
            "RESALLOC_NAMED_COUNTER_port": "0",
        }
        assert (env["LEASEHOLD_RESOURCE"], env["LEASEHOLD_LEASE"]) == (name, "")


class TestCreating:
    """What becomes of a creation."""

    async def test_said_twice_it_counts_once(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, min_free=1)))
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CreateResource)]
        for _ in range(2):
            await cloud.lab.store.tending.created(Created(claim=order.claim))
        growth = (await cloud.lab.store.pools("vm"))[0].growth
        assert growth is not None
        assert (growth.starts, growth.successes, await cloud.states()) == (1, 1, ["free"])

    async def test_a_hook_whose_worker_died_is_not_run_again(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, min_free=1)))
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CreateResource)]
        run = run_of("", order.claim, order.claim.stages[0])
        assert (await cloud.lab.store.begin_run(run, HOST)).finished is None
        again = await cloud.lab.store.begin_run(run, HOST)
        assert again.finished is not None
        assert (again.finished.ending, again.finished.ok) == (LOST, False)

    async def test_while_it_may_live_elsewhere_nothing_is_decided(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, min_free=1)))
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CreateResource)]
        run = run_of("", order.claim, order.claim.stages[0])
        await cloud.lab.store.begin_run(run, HOST)
        with pytest.raises(Unavailable):
            await cloud.lab.store.begin_run(run, Place(host="worker2"))

    async def test_one_that_was_lost_is_deleted_and_another_is_made(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, min_free=1)))
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CreateResource)]
        cloud.there.add(order.claim.resource)
        await cloud.lab.store.outbox_delivered([posted.id for posted in await cloud.lab.store.outbox_due()])
        await cloud.lab.store.tending.created(
            Created(claim=order.claim, failed="create: its worker went away", lost=True)
        )
        assert await cloud.states() == ["deleting"]
        await cloud.settle()
        await cloud.goes_on(seconds=2)
        (resource,) = await cloud.resources()
        assert (resource.name != order.claim.resource, str(resource.state)) == (True, "free")
        assert cloud.there == {resource.name}
        growth = (await cloud.lab.store.pools("vm"))[0].growth
        assert growth is not None
        assert (growth.failures, growth.starts) == (0, 1), "which says nothing of the pool"

    async def test_one_that_is_prepared_ahead_is_free_only_then(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "validate", size=Size(max=1, min_free=1), policy=Policy(prepare=Prepare.AHEAD)))
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CreateResource)]
        assert planned(order.claim) == ["create", "validate"]
        await cloud.settle()
        admitted = await cloud.lab.submit("a", pool="vm")
        assert [claim.stages for claim in admitted.claims] == [()]

    async def test_one_that_fails_its_validation_is_no_use(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "validate", size=Size(max=1, min_free=1), policy=Policy(prepare=Prepare.AHEAD)))
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CreateResource)]
        await cloud.lab.store.tending.created(Created(claim=order.claim, failed="validate: exited with status 1"))
        await cloud.tend()
        assert await cloud.states() == ["deleting"]

    async def test_one_that_is_asked_to_go_while_it_is_made_goes_afterwards(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, min_free=1)))
        await cloud.tend()
        (resource,) = await cloud.resources()
        await cloud.lab.store.delete_resource("vm", resource.name, "bob")
        assert await cloud.states() == ["creating"]
        await cloud.settle()
        (new,) = await cloud.resources()
        assert (new.name != resource.name, str(new.state)) == (True, "free")


class TestDeleting:
    """It is tried until it works, and seen meanwhile."""

    async def test_what_cannot_be_deleted_is_there_with_why(self, cloud: Cloud) -> None:
        await cloud.apply(vm())
        cloud.deletes = lambda _: False
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        await cloud.lab.close("a")
        (order,) = [one for one in await cloud.due() if isinstance(one, DeleteResource)]
        assert not await cloud.delete(order.claim, tries=7)
        (resource,) = await cloud.resources()
        assert resource.instance is not None
        assert (str(resource.state), resource.instance.trouble) == ("deleting", "try 7: delete: exited with status 1")
        cloud.deletes = lambda _: True
        assert await cloud.delete(order.claim)
        assert await cloud.delete(order.claim), "and told again it is gone still"
        assert await cloud.resources() == []

    async def test_it_counts_as_long_as_it_is_there(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1)))
        cloud.deletes = lambda _: False
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        await cloud.lab.close("a")
        await cloud.lab.submit("b", pool="vm")
        await cloud.settle()
        assert (await cloud.states(), await cloud.lab.state("b")) == (["deleting"], "queued")

    async def test_its_hook_is_the_one_that_it_was_made_with(self, cloud: Cloud) -> None:
        await cloud.apply(vm())
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        made_with = (await cloud.lab.store.standing("a")).claims[0].spec
        await cloud.apply(vm(description="another one by now"))
        await cloud.lab.close("a")
        (order,) = [one for one in await cloud.due() if isinstance(one, DeleteResource)]
        assert order.claim.spec == made_with

    async def test_no_hook_of_an_older_epoch_runs_once_it_is_being_deleted(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "deliver"))
        admitted = await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        claims = (await cloud.lab.store.standing("a")).claims
        await cloud.lab.store.activate("a")
        await cloud.lab.close("a")
        with pytest.raises(StaleEpoch):
            await cloud.lab.store.begin_run(run_of("a", claims[0], claims[0].stages[0]), HOST)
        assert admitted.refusal is None


class TestReuse:
    """Who may have it again."""

    async def test_by_default_nobody(self, cloud: Cloud) -> None:
        await cloud.apply(vm())
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        first = (await cloud.lab.lease("a")).resources[0].name
        await cloud.lab.close("a")
        await cloud.lab.submit("b", pool="vm", share_key="k")
        await cloud.settle()
        assert (await cloud.lab.lease("b")).resources[0].name != first

    async def test_who_comes_with_the_same_key_gets_the_same_again(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "release", policy=KEPT, size=Size(max=4, min_free=2)))
        await cloud.settle()
        await cloud.lab.take("a", pool="vm", share_key="k")
        first = (await cloud.lab.lease("a")).resources[0].name
        await cloud.lab.close("a")
        await cloud.settle()
        await cloud.lab.take("b", pool="vm", share_key="k")
        assert (await cloud.lab.lease("b")).resources[0].name == first

    @pytest.mark.parametrize("asked", [{}, {"share_key": "other"}, {"share_key": "k", "owner": "mallory"}])
    async def test_nobody_else_gets_it(self, cloud: Cloud, asked: dict[str, Any]) -> None:
        await cloud.apply(vm(policy=KEPT, size=Size(max=2)))
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        first = (await cloud.lab.lease("a")).resources[0].name
        await cloud.lab.close("a")
        await cloud.settle()
        await cloud.lab.submit("b", pool="vm", **asked)
        await cloud.settle()
        assert (await cloud.lab.lease("b")).resources[0].name != first

    async def test_who_waits_with_its_key_gets_it_though_others_came_before(self, cloud: Cloud) -> None:
        await cloud.apply(vm(policy=KEPT, size=Size(max=1)))
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        await cloud.lab.submit("other", pool="vm")
        await cloud.lab.submit("mine", pool="vm", share_key="k")
        await cloud.lab.close("a")
        await cloud.settle()
        assert [await cloud.lab.state(lease) for lease in ("other", "mine")] == ["queued", "active"]

    async def test_one_that_nobody_comes_for_goes_after_its_window(self, cloud: Cloud) -> None:
        await cloud.apply(vm(policy=KEPT))
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        await cloud.lab.close("a")
        await cloud.settle()
        assert await cloud.states() == ["free"]
        assert (await cloud.tend()).left_s == pytest.approx(300)
        await cloud.goes_on(seconds=301)
        assert await cloud.states() == []

    async def test_only_so_many_times(self, cloud: Cloud) -> None:
        await cloud.apply(vm(policy=Policy(reuse_window=timedelta(minutes=5), reuse_count=1)))
        had = []
        for lease in ("a", "b", "c"):
            await cloud.lab.submit(lease, pool="vm", share_key="k")
            await cloud.settle()
            had.append((await cloud.lab.lease(lease)).resources[0].name)
            await cloud.lab.close(lease)
            await cloud.settle()
        assert (had[0] == had[1], had[1] == had[2]) == (True, False)

    async def test_only_for_so_long(self, cloud: Cloud) -> None:
        await cloud.apply(vm(policy=Policy(reuse_window=timedelta(minutes=5), reuse_time=timedelta(minutes=30))))
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        cloud.lab.clock.forward(minutes=31)
        await cloud.lab.close("a")
        await cloud.settle()
        assert await cloud.states() == []

    async def test_a_failing_release_hook_means_no_reuse(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "release", policy=KEPT))
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        cloud.releases = lambda _: False
        await cloud.lab.close("a")
        await cloud.settle()
        assert (await cloud.states(), cloud.there) == ([], set())

    async def test_what_was_never_touched_is_as_new(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "deliver", size=Size(max=1, min_free=1)))
        await cloud.settle()
        await cloud.lab.submit("a", pool="vm")
        (resource,) = await cloud.resources()
        await cloud.lab.close("a", Outcome.CANCELLED)
        await cloud.settle()
        assert [(one.name, str(one.state)) for one in await cloud.resources()] == [(resource.name, "free")]

    async def test_a_registered_one_is_anybodys_again_after_the_window(self, cloud: Cloud) -> None:
        await cloud.lab.pool("r640", 1, policy=KEPT)
        await cloud.lab.take("a", share_key="k")
        await cloud.lab.close("a")
        await cloud.lab.submit("b", owner="bob")
        assert await cloud.lab.state("b") == "queued"
        cloud.lab.clock.forward(seconds=301)
        await cloud.tend("r640")
        assert await cloud.lab.state("b") == "preparing"


class TestLivechecks:
    """Whether they live."""

    async def test_all_that_is_free_or_delivered_is_checked_again_and_again(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK, size=Size(max=3, max_creating=3, min_free=2)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        cloud.checks.clear()
        assert (await cloud.tend()).left_s == pytest.approx(300)
        await cloud.goes_on(minutes=5)
        (checked,) = cloud.checks
        assert len(checked.resources) == 3

    async def test_one_that_failed_once_is_granted_to_nobody_until_it_is_well(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK, size=Size(max=1, min_free=1)))
        await cloud.settle()
        cloud.lives = lambda _: False
        await cloud.goes_on(minutes=5)
        await cloud.lab.submit("a", pool="vm")
        assert await cloud.lab.state("a") == "queued"
        cloud.lives = lambda _: True
        await cloud.goes_on(minutes=5)
        assert await cloud.lab.state("a") == "active"

    async def test_a_free_one_that_keeps_failing_is_replaced(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK, size=Size(max=1, min_free=1)))
        await cloud.settle()
        (dead,) = await names(cloud)
        cloud.lives = lambda name: name != dead
        await cloud.goes_on(minutes=5, times=2)
        (new,) = await names(cloud)
        assert (new != dead, cloud.there) == (True, {new})

    async def test_quarantine_keeps_as_many_as_it_is_told_for_as_long(self, cloud: Cloud) -> None:
        size = Size(max=4, max_creating=4, min_free=1, keep_broken=1, keep_broken_for=timedelta(hours=1))
        await cloud.apply(vm(livecheck=LIVECHECK, size=size))
        await cloud.settle()
        cloud.lives = lambda _: False
        await cloud.goes_on(minutes=5, times=4)
        assert (await cloud.states()).count("broken") == 1
        cloud.lives = lambda _: True
        await cloud.goes_on(hours=2)
        assert await cloud.states() == ["free"]

    async def test_a_registered_one_goes_into_quarantine(self, cloud: Cloud) -> None:
        made = vm("r640", livecheck=LIVECHECK)
        static = spec("r640", "livecheck")
        static = replace(static, livecheck=made.livecheck)
        await cloud.lab.store.apply(file((static, (ResourceSpec(name="host01"),))), "operator")
        cloud.lives = lambda _: False
        for _ in range(2):
            await cloud.tend("r640")
            await cloud.settle()
            cloud.lab.clock.forward(minutes=5)
        (resource,) = await cloud.resources()
        assert resource.broken is not None
        assert resource.broken.reason == "livecheck: exited with status 1, 2 times in a row"

    async def test_the_holder_of_a_dead_one_is_told_once(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK))
        await cloud.lab.submit("a", pool="vm", duration="10h")
        await cloud.settle()
        cloud.lives = lambda _: False
        await cloud.goes_on(minutes=5, times=4)
        lease = await cloud.lab.lease("a")
        assert (str(lease.state), [one.name for one in lease.degraded]) == ("active", [lease.resources[0].name])
        assert (await cloud.lab.kinds("a")).count("lease_degraded") == 1
        cloud.lives = lambda _: True
        await cloud.goes_on(minutes=5)
        assert (await cloud.lab.lease("a")).degraded == ()

    async def test_a_dead_one_is_replaced_where_the_policy_says_so(self, cloud: Cloud) -> None:
        policy = Policy(on_degraded=OnDegraded.REPLACE)
        await cloud.apply(vm(livecheck=LIVECHECK, policy=policy, size=Size(max=3, max_creating=3, min_free=1)))
        await cloud.settle()
        await cloud.lab.take("a", pool="vm", duration="10h")
        await cloud.settle()
        dead = (await cloud.lab.lease("a")).resources[0].name
        cloud.lives = lambda name: name != dead
        await cloud.goes_on(minutes=5, times=2)
        lease = await cloud.lab.lease("a")
        assert (str(lease.state), lease.degraded) == ("active", ())
        assert [(one.name == dead, one.state) for one in lease.resources] == [(True, "released"), (False, "ready")]
        assert dead not in cloud.there
        assert await cloud.states() == ["free", "leased"]

    async def test_it_stays_with_its_holder_where_there_is_no_other(self, cloud: Cloud) -> None:
        policy = Policy(on_degraded=OnDegraded.REPLACE)
        await cloud.apply(vm(livecheck=LIVECHECK, policy=policy, size=Size(max=1)))
        await cloud.lab.submit("a", pool="vm", duration="10h")
        await cloud.settle()
        cloud.lives = lambda _: False
        await cloud.goes_on(minutes=5, times=3)
        lease = await cloud.lab.lease("a")
        assert (str(lease.state), len(lease.degraded), await cloud.states()) == ("active", 1, ["leased"])

    async def test_the_lease_ends_where_the_policy_says_so(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK, policy=Policy(on_degraded=OnDegraded.END)))
        await cloud.lab.submit("a", pool="vm", duration="10h")
        await cloud.settle()
        cloud.lives = lambda _: False
        await cloud.goes_on(minutes=5, times=2)
        lease = await cloud.lab.lease("a")
        assert lease.error is not None
        assert (str(lease.state), lease.error.code) == ("releasing", "resource_lost")
        assert await cloud.states() == []

    async def test_what_a_check_says_of_a_pool_that_is_gone_counts_for_nothing(self, cloud: Cloud) -> None:
        late = Checked(pool="vm", resource="vm_1", epoch=1, failed="exited with status 1")
        await cloud.lab.store.tending.checked([late])
        assert await cloud.resources() == []

    async def test_what_a_check_says_of_other_hands_counts_for_nothing(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK, size=Size(max=1, min_free=1)))
        await cloud.tend()
        await cloud.settle()
        cloud.lab.clock.forward(minutes=5)
        await cloud.tend()
        (order,) = [one for one in await cloud.due() if isinstance(one, CheckRound)]
        await cloud.lab.submit("a", pool="vm")
        held = order.resources[0]
        late = Checked(pool=held.pool, resource=held.resource, epoch=held.epoch, failed="exited with status 1")
        for _ in range(5):
            await cloud.lab.store.tending.checked([late])
        assert (await cloud.lab.lease("a")).degraded == ()
        assert await cloud.lab.store.tending.brief_check(order.spec, held) is None


class TestListings:
    """What is there and nobody knows."""

    async def listing(self, cloud: Cloud) -> ListPool:
        await cloud.tend()
        return [one for one in await cloud.due() if isinstance(one, ListPool)][-1]

    async def listed(self, cloud: Cloud, order: ListPool, names: list[str], trouble: str | None = None) -> None:
        """A listing of its own."""
        self.number = getattr(self, "number", 0) + 1
        await cloud.lab.store.tending.listed(replace(order, id=f"{order.id}.{self.number}"), names, trouble)

    async def test_one_that_is_told_twice_is_one(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING))
        order = await self.listing(cloud)
        for _ in range(3):
            await cloud.lab.store.tending.listed(order, ["vm_00000999_20260101_000000"])
        assert await cloud.resources() == []

    async def begun(self, cloud: Cloud) -> int:
        await cloud.tend()
        return sum(isinstance(one, ListPool) for one in await cloud.due())

    async def test_one_that_takes_longer_than_it_is_frequent_is_the_only_one(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=Cadence(every=timedelta(seconds=1))))
        order = await self.listing(cloud)
        for _ in range(30):
            cloud.lab.clock.forward(seconds=1)
            assert await self.begun(cloud) == 1
        await self.listed(cloud, order, [])
        assert await self.begun(cloud) == 1
        cloud.lab.clock.forward(seconds=1)
        assert await self.begun(cloud) == 2

    async def test_one_whose_worker_is_gone_is_begun_anew(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING))
        order = await self.listing(cloud)
        cloud.lab.clock.forward(seconds=order.timeout_s + 59)
        assert await self.begun(cloud) == 1
        cloud.lab.clock.forward(seconds=1)
        assert await self.begun(cloud) == 2

    async def test_what_nobody_knew_twice_running_is_deleted(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING, size=Size(max=2, min_free=1)))
        await cloud.settle()
        stray = "vm_00000999_20260101_000000"
        cloud.there |= {stray, "somebody-elses", "vm2_00000001_20260101_000000"}
        for found in (True, True, False):
            assert (stray in cloud.there) == found
            cloud.lab.clock.forward(minutes=31)
            await cloud.tend()
            await cloud.settle()
        assert {"somebody-elses", "vm2_00000001_20260101_000000"} < cloud.there
        assert await cloud.states() == ["free"]

    async def test_one_that_was_gone_in_between_is_given_another_chance(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING))
        order = await self.listing(cloud)
        stray = "vm_00000999_20260101_000000"
        for listed in ([stray], [], [stray]):
            await self.listed(cloud, order, listed)
        assert await cloud.resources() == []

    async def test_what_is_being_made_is_never_a_stray(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING, size=Size(max=2, max_creating=2, min_free=2)))
        order = await self.listing(cloud)
        making = [one.name for one in await cloud.resources()]
        for _ in range(3):
            await self.listed(cloud, order, making)
        assert await cloud.states() == ["creating", "creating"]

    async def test_a_listing_that_fails_says_so_and_means_nothing(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING))
        order = await self.listing(cloud)
        stray = "vm_00000999_20260101_000000"
        await self.listed(cloud, order, [stray])
        await self.listed(cloud, order, [], "exited with status 1")
        growth = (await cloud.lab.store.pools("vm"))[0].growth
        assert growth is not None
        assert (growth.list_trouble, growth.strays) == ("exited with status 1", 1)
        await self.listed(cloud, order, [stray])
        assert await cloud.states() == ["deleting"]

    async def test_nothing_is_a_stray_while_the_records_are_not_to_be_trusted(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING))
        order = await self.listing(cloud)
        await suspend(cloud)
        for _ in range(3):
            await self.listed(cloud, order, ["vm_00000999_20260101_000000"])
        assert await cloud.resources() == []

    async def test_its_hook_is_told_no_numbers(self, cloud: Cloud) -> None:
        await cloud.apply(vm(listing=LISTING))
        order = await self.listing(cloud)
        for _ in range(2):
            await self.listed(cloud, order, ["vm_00000999_20260101_000000"])
        (delete,) = [one for one in await cloud.due() if isinstance(one, DeleteResource)]
        env = (await cloud.lab.store.brief(run_of("", delete.claim, delete.claim.stages[0]))).env
        assert (env["RESALLOC_ID"], env["RESALLOC_NAME"]) == ("0", "vm_00000999_20260101_000000")


class TestReplacing:
    """A resource that fails its stages while a lease is being prepared."""

    async def test_one_whose_repair_is_waited_for_stays(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "validate", policy=Policy(on_failure=OnFailure.HOLD), size=Size(max=2)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        (claim,) = (await cloud.lab.store.standing("a")).claims
        await cloud.lab.run("a", claim)
        await cloud.lab.report("a", claim)
        await cloud.tend()
        await cloud.settle()
        assert await cloud.states() == ["broken"]
        await cloud.lab.store.repair("vm", claim.resource, "bob")
        assert await cloud.states() == ["leased"]

    async def test_another_one_is_made_for_a_lease_whose_resource_failed(self, cloud: Cloud) -> None:
        await cloud.apply(vm("vm", "validate", size=Size(max=2)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        standing = await cloud.lab.store.standing("a")
        first = standing.claims[0]
        await cloud.lab.run("a", first)
        again = await cloud.lab.report("a", first)
        assert (again.refusal, again.missing) == (None, 1)
        await cloud.settle()
        standing = await cloud.lab.store.standing("a")
        assert [claim.resource != first.resource for claim in standing.claims] == [True]
        assert first.resource not in cloud.there


class TestOthersResources:
    """What somebody used is nobody else's, whichever way it comes back."""

    async def test_not_after_a_repair(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=2, keep_broken=1)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        (used,) = await cloud.resources()
        await cloud.lab.close("a", broken="it smokes")
        await cloud.settle()
        await cloud.lab.store.repair("vm", used.name, "bob")
        await cloud.settle()
        assert await cloud.resources() == []

    async def test_not_after_it_was_prepared_anew(self, cloud: Cloud) -> None:
        ahead = Policy(prepare=Prepare.AHEAD, reuse_window=timedelta(hours=1))
        await cloud.apply(vm("vm", "wipe", policy=ahead, size=Size(max=2)))
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        used = (await cloud.lab.lease("a")).resources[0].name
        await cloud.lab.close("a")
        await cloud.settle()
        other = replace(vm("vm", "wipe", policy=ahead, size=Size(max=2)), folder="/elsewhere")
        wipe = Hook(run="./another.sh")
        await cloud.apply(replace(other, stages={**other.stages, StageName.WIPE: (wipe,)}))
        await cloud.lab.submit("b", pool="vm", owner="bob")
        await cloud.settle()
        assert (await cloud.lab.lease("b")).resources[0].name != used

    async def test_not_after_it_was_offline(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        (used,) = await cloud.resources()
        await cloud.lab.store.offline("vm", used.name, "I look at it", "bob")
        await cloud.lab.close("a")
        await cloud.settle()
        assert await cloud.states() == ["free"], "whoever looks at it finds it there"
        await cloud.lab.submit("b", pool="vm", owner="bob")
        await cloud.lab.store.online("vm", used.name, "bob")
        await cloud.settle()
        assert (await cloud.lab.lease("b")).resources[0].name != used.name

    async def test_no_longer_than_it_may_be_used_again(self, cloud: Cloud) -> None:
        hour = timedelta(hours=1)
        await cloud.apply(vm(policy=Policy(reuse=Reuse.ANYONE, reuse_time=hour), size=Size(max=2, idle=9 * hour)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        await cloud.lab.close("a")
        await cloud.settle()
        assert (await cloud.tend()).left_s == pytest.approx(3600)
        await cloud.goes_on(minutes=61)
        assert await cloud.resources() == []

    async def test_nor_is_it_kept_for_its_key_any_longer(self, cloud: Cloud) -> None:
        hour = timedelta(hours=1)
        await cloud.apply(vm(policy=Policy(reuse_window=hour, reuse_time=hour)))
        await cloud.lab.submit("a", pool="vm", share_key="k")
        await cloud.settle()
        cloud.lab.clock.forward(minutes=40)
        await cloud.lab.close("a")
        await cloud.settle()
        (kept,) = await cloud.resources()
        assert kept.kept_until is not None
        assert kept.kept_until - cloud.lab.clock.now == timedelta(minutes=20)


class TestSettingsThatChange:
    """What an earlier file has left is not for ever."""

    async def test_what_failed_a_check_is_lent_again_where_nothing_is_checked(self, cloud: Cloud) -> None:
        static = replace(spec("r640", "livecheck"), livecheck=LIVECHECK)
        await cloud.lab.store.apply(file((static, (ResourceSpec(name="host01"),))), "operator")
        cloud.lives = lambda _: False
        await cloud.settle()
        assert (await cloud.resources())[0].suspect
        await cloud.lab.store.apply(file((spec("r640", "release"), (ResourceSpec(name="host01"),))), "operator")
        await cloud.settle()
        assert (await cloud.lab.submit("a")).claims

    async def test_what_is_kept_is_lent_again_where_nothing_is_kept(self, cloud: Cloud) -> None:
        await cloud.lab.pool("r640", 1, policy=KEPT)
        await cloud.lab.take("a", share_key="k")
        await cloud.lab.close("a")
        await cloud.settle()
        await cloud.lab.pool("r640", 1)
        await cloud.settle()
        assert (await cloud.lab.submit("b", owner="bob")).claims

    async def test_a_pool_that_leaves_its_file_lends_nothing_more(self, cloud: Cloud) -> None:
        await cloud.apply(vm(policy=Policy(reuse=Reuse.ANYONE), size=Size(max=1)))
        for lease in ("a", "b"):
            await cloud.lab.submit(lease, pool="vm")
        await cloud.settle()
        await cloud.apply()
        await cloud.lab.close("a")
        await cloud.settle()
        assert (await cloud.resources(), await cloud.lab.state("b")) == ([], "queued")


class TestQuotas:
    """Nothing is made that those who wait may not have."""

    async def test_another_pool_makes_what_one_may_not_give(self, cloud: Cloud) -> None:
        tags = {"x86_64": 0}
        one = Policy(per_owner=Quota(resources=1))
        await cloud.apply(vm("cheap", tags=tags, priority=1, policy=one), vm("dear", tags=tags, priority=2))
        for lease in ("a", "b"):
            await cloud.lab.submit(lease, ANYWHERE)
            await cloud.settle()
        assert [(await cloud.lab.lease(lease)).resources[0].pool for lease in "ab"] == ["cheap", "dear"]

    async def test_no_more_is_made_than_the_quota_leaves(self, cloud: Cloud) -> None:
        policy = Policy(per_owner=Quota(resources=2))
        await cloud.apply(vm(policy=policy, size=Size(max=10, max_creating=10)))
        leases = [f"l{number}" for number in range(6)]
        for lease in leases:
            await cloud.lab.submit(lease, pool="vm")
        await cloud.settle()
        for lease in leases:
            assert await cloud.lab.state(lease) == "active"
            await cloud.lab.close(lease)
            await cloud.settle()
        growth = (await cloud.lab.store.pools("vm"))[0].growth
        assert growth is not None
        assert growth.starts == 6
        assert cloud.most <= 3

    async def test_self_service_counts_what_a_pool_could_make(self, cloud: Cloud) -> None:
        open_ = Policy(self_service=SelfService(free=0.3))
        await cloud.apply(vm(policy=open_, size=Size(max=10)))
        assert (await cloud.lab.submit("a", pool="vm", self_service=True)).refusal is None

    async def test_what_is_promised_is_nobody_elses_supply(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=4, min_free=1, idle=timedelta(days=2))))
        await cloud.settle()
        start = cloud.lab.clock.now + timedelta(hours=2)
        await cloud.lab.submit("reserved", pool="vm", start_at=start, duration="1h")
        await cloud.lab.submit("long", pool="vm", duration="20h")
        await cloud.settle()
        assert await cloud.lab.state("long") == "active"
        cloud.lab.clock.forward(hours=2)
        await cloud.lab.store.wake("reserved")
        await cloud.settle()
        assert await cloud.lab.state("reserved") == "active"

    async def test_for_one_with_a_certain_name_nothing_is_made(self, cloud: Cloud) -> None:
        await cloud.apply(vm())
        await cloud.lab.submit("a", Item(names=("host07",)), wait_for_supply=True)
        await cloud.settle()
        assert await cloud.resources() == []


class TestWhatIsDead:
    """Replacements, and what is kept to be looked at."""

    async def test_another_is_made_in_the_stead_of_a_dead_one(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK, policy=Policy(on_degraded=OnDegraded.REPLACE), size=Size(max=2)))
        await cloud.lab.submit("a", pool="vm", duration="10h")
        await cloud.settle()
        (dead,) = await cloud.lab.held("a")
        cloud.lives = lambda name: name != dead
        await cloud.goes_on(minutes=5, times=4)
        assert await cloud.lab.held("a") != [dead]
        assert (await cloud.lab.kinds("a")).count("not_replaced") == 1

    async def test_what_is_given_back_is_no_concern_any_more(self, cloud: Cloud) -> None:
        await cloud.apply(vm(livecheck=LIVECHECK, size=Size(max=2, max_creating=2)))
        await cloud.lab.submit("a", Item(pool="vm", count=2), duration="10h")
        await cloud.settle()
        dead, _ = await cloud.lab.held("a")
        cloud.lives = lambda name: name != dead
        await cloud.goes_on(minutes=5, times=2)
        assert [one.name for one in (await cloud.lab.lease("a")).degraded] == [dead]
        await cloud.lab.give_back("a", dead, pool="vm")
        assert (await cloud.lab.lease("a")).degraded == ()

    async def test_nobody_waits_for_what_is_just_looked_at(self, cloud: Cloud) -> None:
        await cloud.apply(vm(size=Size(max=1, keep_broken=1)))
        await cloud.lab.submit("a", pool="vm")
        await cloud.settle()
        await cloud.lab.close("a", broken="it smokes")
        await cloud.settle()
        assert await cloud.states() == ["broken"]
        await cloud.lab.submit("b", pool="vm")
        await cloud.settle()
        assert (await cloud.lab.state("b"), await cloud.states()) == ("active", ["leased"])

    async def test_checks_never_pile_up(self, cloud: Cloud) -> None:
        slow = replace(LIVECHECK, parallel=2)
        await cloud.apply(vm(livecheck=slow, size=Size(max=40, max_creating=40, min_free=40)))
        await cloud.settle()
        cloud.checks.clear()
        cloud.lab.clock.forward(minutes=5)
        for _ in range(5):
            # None of those that are under way comes to an end.
            await cloud.tend()
            cloud.lab.clock.forward(minutes=1)
        orders = [one for one in await cloud.due() if isinstance(one, CheckRound)]
        assert [(one.parallel, len(one.resources)) for one in orders] == [(2, 10)]
