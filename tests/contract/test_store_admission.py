"""Asking for resources: granted at once and whole, queued, or refused, and always the same when asked again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from leasehold.errors import BadFilter, DurationRefused, LeaseUnknown, Unsatisfiable
from leasehold.model import Item, LeaseState, Outcome, Policy, Problem, ResourceSpec
from tests.contract.store_lab import Lab, admission, file, hosts, request, spec


async def test_a_free_resource_is_granted_at_once(lab: Lab) -> None:
    await lab.pool("r640", 2)
    admitted = await lab.submit("a")
    assert admitted.state is LeaseState.PREPARING
    assert [(c.pool, c.resource) for c in admitted.claims] == [("r640", "host01")]
    assert await lab.states() == {"host01": "leased", "host02": "free"}


async def test_a_lease_gets_all_that_it_asked_for_or_nothing(lab: Lab) -> None:
    await lab.pool("r640", 3)
    await lab.submit("two", Item(pool="r640", count=2))
    admitted = await lab.submit("two more", Item(pool="r640", count=2))
    assert (admitted.state, admitted.claims) == (LeaseState.QUEUED, ())
    assert await lab.states() == {"host01": "leased", "host02": "leased", "host03": "free"}


async def test_a_lease_over_two_pools_of_which_one_is_taken_holds_nothing(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.pool("vm", 1)
    await lab.submit("blocker", pool="vm")
    await lab.submit("both", Item(pool="r640"), Item(pool="vm"))
    assert await lab.held("both") == []
    assert (await lab.submit("passes")).state is LeaseState.PREPARING


async def test_items_that_overlap_get_what_serves_them_together(lab: Lab) -> None:
    # Given one resource that both items suit, and one that only the first does.
    nvme = ResourceSpec(name="host01", properties={"disk": "nvme"}, tags=("metal",))
    await lab.store.apply(file((spec("r640"), [nvme, ResourceSpec(name="host02", tags=("metal",))])), "operator")
    # When the first item could greedily take what the second needs.
    await lab.submit("a", Item(pool="r640", tags=("metal",)), Item(pool="r640", match=("disk=nvme",)))
    # Then both are served.
    lease = await lab.lease("a")
    assert [(r.item, r.name) for r in lease.resources] == [(0, "host02"), (1, "host01")]


async def test_an_item_without_a_pool_goes_to_the_cheapest_that_suits(lab: Lab) -> None:
    await lab.pool("dear", 1, priority=20)
    await lab.pool("cheap", 1, priority=10)
    first, second = await lab.submit("a", Item()), await lab.submit("b", Item())
    assert [c.pool for c in (*first.claims, *second.claims)] == ["cheap", "dear"]


async def test_names_tags_and_filters_must_all_hold(lab: Lab) -> None:
    resources = [
        ResourceSpec(name="plain", tags=("metal",)),
        ResourceSpec(name="fast", tags=("metal", "x86"), properties={"disks": [{"type": "nvme", "size": 2000}]}),
        ResourceSpec(name="small", tags=("metal", "x86"), properties={"disks": [{"type": "nvme", "size": 100}]}),
    ]
    await lab.store.apply(file((spec("r640"), resources)), "operator")
    wanted = Item(
        pool="r640",
        tags=("x86", "metal"),
        match=("disks.type=nvme", "disks.size__gte=1000"),
        names=("plain", "fast", "small"),
    )
    assert [c.resource for c in (await lab.submit("a", wanted)).claims] == ["fast"]


async def test_numbers_grow_by_one_from_one(lab: Lab) -> None:
    await lab.pool("r640", 1)
    for name in ("a", "b", "c"):
        await lab.submit(name)
    assert [(await lab.lease(name)).number for name in ("a", "b", "c")] == [1, 2, 3]


async def test_a_lease_is_found_by_its_number_too(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.submit("a")
    assert (await lab.lease("1")).id == "a"
    with pytest.raises(LeaseUnknown):
        await lab.lease("2")
    with pytest.raises(LeaseUnknown):
        await lab.lease("nobody")


@pytest.mark.parametrize("number", ["0", "9223372036854775808", "9" * 63])
async def test_an_absurd_number_names_no_lease(lab: Lab, number: str) -> None:
    with pytest.raises(LeaseUnknown):
        await lab.lease(number)


async def test_the_record_says_what_was_asked_and_when(lab: Lab) -> None:
    await lab.pool("r640", 1)
    item = Item(pool="r640", role="bastion", params={"os": "rhel9", "ünï": [1, None]})
    asked = replace(request("a", item, priority=3), description="nightly", cc=("bob",))
    await lab.store.admit(admission(asked), "the run")
    lease = await lab.lease("a")
    assert (lease.owner, lease.principal, lease.run_id) == ("alice", "alice-token", "the run")
    assert (lease.items, lease.priority, lease.description, lease.cc) == ((item,), 3, "nightly", ("bob",))
    assert (lease.created_at, lease.active_at, lease.expires_at) == (lab.clock.now, None, None)
    assert lease.resources[0].role == "bastion"


class TestNothingToPrepare:
    """Where no resource has a stage to go through, a grant is a delivery."""

    async def bare_pool(self, lab: Lab, count: int) -> None:
        await lab.store.apply(file((spec("names"), hosts(count))), "operator")

    async def test_a_free_resource_is_delivered_at_once(self, lab: Lab) -> None:
        await self.bare_pool(lab, 1)
        admitted = await lab.submit("a", pool="names", duration="10m")
        assert admitted.state is LeaseState.ACTIVE
        assert admitted.held is not None
        assert admitted.held.left_s == 600
        lease = await lab.lease("a")
        assert (lease.active_at, lease.expires_at) == (lab.clock.now, lab.clock.now + timedelta(minutes=10))
        assert (lease.resources[0].state, (await lab.store.delivery("a"))[0].data) == ("ready", b"")

    async def test_asked_again_it_says_what_is_left_now(self, lab: Lab) -> None:
        await self.bare_pool(lab, 1)
        first = await lab.submit("a", pool="names", duration="10m")
        lab.clock.forward(minutes=4)
        again = await lab.submit("a", pool="names", duration="10m")
        assert (again.state, again.claims) == (first.state, first.claims)
        assert again.held is not None
        assert again.held.left_s == 360

    async def test_who_waited_has_its_time_from_the_hand_over(self, lab: Lab) -> None:
        await self.bare_pool(lab, 1)
        await lab.submit("a", pool="names")
        await lab.submit("b", pool="names", duration="10m")
        lab.clock.forward(minutes=5)
        await lab.close("a")
        lab.clock.forward(seconds=1)
        standing = await lab.store.standing("b")
        assert standing.held is not None
        assert (standing.state, standing.held.left_s) == (LeaseState.ACTIVE, 599)
        assert await lab.signalled() == ["b"]

    async def test_one_resource_with_a_stage_makes_the_whole_lease_wait_for_it(self, lab: Lab) -> None:
        await self.bare_pool(lab, 1)
        await lab.pool("r640", 1, "wipe")
        admitted = await lab.submit("a", Item(pool="names"), Item(pool="r640"))
        assert (admitted.state, admitted.held) == (LeaseState.PREPARING, None)


class TestAskedAgain:
    """Admission runs again after a crash, and must answer as before."""

    async def test_a_granted_lease_keeps_what_it_has(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        first = await lab.submit("a")
        assert await lab.submit("a") == first
        assert await lab.states() == {"host01": "leased", "host02": "free"}
        assert await lab.kinds("a") == ["lease_preparing", "resource_leased"]

    async def test_a_queued_lease_keeps_its_place(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.submit("a")
        first = await lab.submit("b")
        await lab.submit("c")
        assert await lab.submit("b") == first
        assert [lease.id for lease in await lab.store.queue("r640")] == ["b", "c"]

    async def test_a_refusal_stays_even_when_the_pool_has_grown(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        refused = await lab.submit("a", Item(pool="r640", count=2))
        await lab.pool("r640", 2)
        assert refused.refusal is not None
        assert await lab.submit("a", Item(pool="r640", count=2)) == refused

    async def test_an_ended_lease_is_not_granted_a_second_time(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        await lab.close("a")
        again = await lab.submit("a")
        assert (again.state, again.claims) == (LeaseState.ENDED, ())
        assert await lab.states() == {"host01": "free"}

    async def test_the_request_is_known_by_its_digest(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        assert await lab.store.request("a") is None
        await lab.submit("a")
        known = await lab.store.request("a")
        assert known is not None
        assert (known.digest, known.refusal) == ("digest of a", None)


class TestRefused:
    """A refusal has a code, names the place, and leaves nothing but itself."""

    async def refused(self, lab: Lab, *items: Item, duration: str | None = None) -> tuple[str, list[str]]:
        """The code of a refusal, and the places with their codes."""
        admitted = await lab.submit("refused", *items, duration=duration)
        assert admitted.refusal is not None
        assert (admitted.state, admitted.claims) == (None, ())
        known = await lab.store.request("refused")
        assert known is not None
        assert known.refusal is not None
        assert known.refusal["code"] == admitted.refusal.code
        lease = await lab.lease("refused")
        assert (lease.number, lease.state, lease.outcome) == (None, LeaseState.ENDED, Outcome.FAILED)
        assert lease.error == Problem(code=admitted.refusal.code, detail=admitted.refusal.detail)
        assert (lease.owner, lease.items, lease.resources) == ("alice", items or (Item(pool="r640"),), ())
        assert [(e.kind, e.actor, e.reason) for e in await lab.events("refused")] == [
            ("lease_refused", "alice", admitted.refusal.detail)
        ]
        return admitted.refusal.code, [f"{f.path} {f.code}" for f in admitted.refusal.faults]

    async def test_a_pool_that_is_not_there(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        said = await self.refused(lab, Item(pool="r640"), Item(pool="r64O"))
        assert said == (Unsatisfiable.code, ["items[1].pool pool_unknown"])

    async def test_no_pool_at_all(self, lab: Lab) -> None:
        assert (await self.refused(lab, Item()))[0] == Unsatisfiable.code

    async def test_more_than_the_pool_has(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        said = await self.refused(lab, Item(pool="r640"), Item(pool="r640", count=3))
        assert said == (Unsatisfiable.code, ["items[1] too_many"])

    async def test_more_in_all_items_together_than_there_is(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        said = await self.refused(lab, Item(pool="r640"), Item(pool="r640", count=2))
        assert said == (Unsatisfiable.code, ["items too_many"])

    async def test_what_no_resource_is_like(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        said = await self.refused(lab, Item(pool="r640", tags=("gpu",)))
        assert said == (Unsatisfiable.code, ["items[0] too_many"])

    async def test_a_filter_that_cannot_be_understood_names_its_place(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        code, _ = await self.refused(lab, Item(pool="r640", match=("model__zz=1",)))
        assert code == BadFilter.code

    async def test_longer_than_the_policy_allows(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(max_duration=timedelta(hours=2)))
        said = await self.refused(lab, duration="3h")
        assert said == (DurationRefused.code, ["duration too_long"])

    async def test_longer_than_the_strictest_of_several_pools_allows(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(max_duration=timedelta(hours=4)))
        await lab.pool("vm", 1, policy=Policy(max_duration=timedelta(hours=2)))
        said = await self.refused(lab, Item(pool="r640"), Item(pool="vm"), duration="3h")
        assert said == (DurationRefused.code, ["duration too_long"])

    async def test_what_is_only_busy_or_broken_or_offline_is_waited_for(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        await lab.take("a")
        await lab.close("a", broken="dead fan")
        await lab.store.offline("r640", "host02", "moved", "operator")
        await lab.take("b")
        assert (await lab.submit("c", Item(pool="r640", count=3))).state is LeaseState.QUEUED

    async def test_a_resource_that_is_on_its_way_out_is_not_waited_for(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        await lab.store.apply(file((spec("r640"), hosts(0)), name="r640"), "operator")
        assert (await self.refused(lab, Item(pool="r640")))[0] == Unsatisfiable.code


async def test_without_a_duration_the_strictest_default_holds(lab: Lab) -> None:
    await lab.pool("r640", 1, policy=Policy(default_duration=timedelta(hours=5)))
    await lab.pool("vm", 1, policy=Policy(default_duration=timedelta(hours=2)))
    await lab.take("a", Item(pool="r640"), Item(pool="vm"))
    lease = await lab.lease("a")
    assert lease.active_at is not None
    assert lease.expires_at == lease.active_at + timedelta(hours=2)
