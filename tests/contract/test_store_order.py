"""Who is served next, and who is not yet: overtaking and its end, fair shares, quotas, what a plain request gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from leasehold.model import Item, LeaseState, Outcome, OverQuota, Policy, Quota, ResourceSpec
from tests.contract.store_lab import Lab, file, hosts, spec

ALL = Item(pool="r640", count=3)


class TestOvertaking:
    async def fill(self, lab: Lab, policy: Policy) -> None:
        """Three hosts, one of them taken, and one who wants all of them."""
        await lab.pool("r640", 3, policy=policy)
        await lab.take("holder")
        await lab.submit("large", ALL)

    async def test_as_many_pass_a_blocked_lease_as_the_policy_says(self, lab: Lab) -> None:
        await self.fill(lab, Policy(overtakes=2))
        states = []
        for n in range(3):
            states.append((await lab.submit(f"small{n}")).state)
            if states[-1] is LeaseState.PREPARING:
                await lab.close(f"small{n}")
        assert states == [LeaseState.PREPARING, LeaseState.PREPARING, LeaseState.QUEUED]
        # What it needs is held for it, until it is complete.
        await lab.close("holder")
        assert (await lab.state("large"), await lab.state("small2")) == ("preparing", "queued")
        await lab.close("large")
        assert await lab.state("small2") == "preparing"

    async def test_who_has_waited_long_enough_is_passed_no_more(self, lab: Lab) -> None:
        await self.fill(lab, Policy(starve_after=timedelta(minutes=30)))
        assert (await lab.submit("early")).state is LeaseState.PREPARING
        lab.clock.forward(minutes=31)
        assert (await lab.submit("late")).state is LeaseState.QUEUED
        await lab.close("early")
        assert await lab.state("late") == "queued"
        await lab.close("holder")
        assert await lab.state("large") == "preparing"

    async def test_what_was_held_for_one_who_gives_up_goes_to_who_waits(self, lab: Lab) -> None:
        await self.fill(lab, Policy(overtakes=0))
        assert (await lab.submit("small")).state is LeaseState.QUEUED
        await lab.close("large", Outcome.CANCELLED)
        assert await lab.state("small") == "preparing"

    async def test_what_was_held_in_the_stead_of_what_failed_goes_to_who_waits(self, lab: Lab) -> None:
        for name, count in (("a", 1), ("b", 4)):
            await lab.pool(name, count, policy=Policy(overtakes=0))
        await lab.take("holder", pool="b")
        _, *failing = (await lab.submit("large", Item(pool="a"), Item(pool="b", count=2))).claims
        # One of b is left, and held until the holder's comes back too.
        await lab.report("large", *failing)
        assert (await lab.submit("small", pool="b")).state is LeaseState.QUEUED
        await lab.close("large", Outcome.CANCELLED)
        assert await lab.state("small") == "preparing"

    async def test_many_lanes_that_want_something_else_change_nothing(self, lab: Lab) -> None:
        models = [ResourceSpec(name=f"{m}{n}", properties={"model": m}) for m in "xyz" for n in range(2)]
        await lab.store.apply(file((spec("r640", "validate", policy=Policy(overtakes=0)), models)), "operator")
        wish = {m: Item(pool="r640", match=(f"model={m}",)) for m in "xyz"}
        for m in "xyz":
            await lab.take(f"holder of {m}", replace(wish[m], count=2))
        for m in "xyz":
            for owner in ("alice", "bob"):
                await lab.submit(f"{owner} wants {m}", wish[m], owner=owner)
        await lab.submit("any two", Item(pool="r640", count=2), owner="carol")
        await lab.close("holder of y")
        assert [await lab.state(f"{o} wants {m}") for m in "xyz" for o in ("alice", "bob")] == [
            *("queued", "queued"),
            *("preparing", "preparing"),
            *("queued", "queued"),
        ]
        await lab.close("alice wants y", Outcome.CANCELLED)
        # As much as there is of any kind is held for the one who wants two.
        assert (await lab.submit("late", wish["y"], owner="dave")).state is LeaseState.QUEUED
        await lab.close("bob wants y", Outcome.CANCELLED)
        assert [await lab.state(x) for x in ("any two", "late")] == ["preparing", "queued"]

    async def test_no_more_is_held_than_is_needed(self, lab: Lab) -> None:
        fast = [ResourceSpec(name=f"fast{n}", tags=("fast",)) for n in range(2)]
        made = spec("r640", policy=Policy(overtakes=0))
        await lab.store.apply(file((made, [*fast, *hosts(2)])), "operator")
        await lab.take("holder", Item(pool="r640", names=("host01",)))
        await lab.submit("large", Item(pool="r640", tags=("fast",)), Item(pool="r640", names=("host01",)))
        one, other = await lab.submit("one", Item(pool="r640", tags=("fast",))), await lab.submit("other")
        assert [c.resource for c in (*one.claims, *other.claims)] == ["fast0", "host02"]
        assert (await lab.submit("third", Item(pool="r640", tags=("fast",)))).state is LeaseState.QUEUED

    async def test_who_wants_something_else_is_not_held_up(self, lab: Lab) -> None:
        await lab.pool("vm", 1)
        await self.fill(lab, Policy(overtakes=0))
        assert (await lab.submit("vm", pool="vm")).state is LeaseState.PREPARING

    async def test_a_higher_priority_is_no_overtaking(self, lab: Lab) -> None:
        await self.fill(lab, Policy(overtakes=0))
        assert (await lab.submit("urgent", priority=1)).state is LeaseState.PREPARING

    async def test_a_large_lease_comes_though_small_ones_never_stop(self, lab: Lab) -> None:
        await lab.pool("r640", 5, policy=Policy(overtakes=4))
        for n in range(5):
            await lab.take(f"small{n}")
        await lab.submit("large", Item(pool="r640", count=5))
        for n in range(5, 40):
            await lab.submit(f"small{n}")
        releases = 0
        while await lab.state("large") == "queued":
            active = [f"small{n}" for n in range(40) if await lab.state(f"small{n}") == "preparing" or n < 5]
            open_ones = [name for name in active if await lab.state(name) in {"preparing", "active"}]
            await lab.close(open_ones[0])
            releases += 1
            assert releases < 40, "it never comes"
        assert releases == 4 + 5


class TestSharing:
    async def test_owners_take_turns_where_the_pool_is_fair(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(fair_share=True))
        await lab.take("first", owner="alice")
        for n in range(3):
            await lab.submit(f"alice{n}", owner="alice")
        await lab.submit("bob0", owner="bob")
        served, holder = [], "first"
        for _ in range(4):
            await lab.close(holder)
            (holder,) = [x for x in ("alice0", "alice1", "alice2", "bob0") if await lab.state(x) == "preparing"]
            served.append(holder)
        assert served == ["bob0", "alice0", "alice1", "alice2"]

    async def test_who_holds_less_goes_first(self, lab: Lab) -> None:
        await lab.pool("r640", 4, policy=Policy(fair_share=True))
        await lab.take("held", Item(pool="r640", count=2), owner="alice")
        await lab.take("bobs", owner="bob")
        await lab.take("carols", owner="carol")
        await lab.submit("more for alice", owner="alice")
        await lab.submit("more for bob", owner="bob")
        await lab.close("carols")
        assert (await lab.state("more for bob"), await lab.state("more for alice")) == ("preparing", "queued")

    async def test_elsewhere_it_is_first_come_first_served(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("first", owner="alice")
        await lab.submit("alices", owner="alice")
        await lab.submit("bobs", owner="bob")
        await lab.close("first")
        assert await lab.state("alices") == "preparing"


class TestQuotas:
    async def test_who_is_over_the_quota_waits_and_nobody_else(self, lab: Lab) -> None:
        await lab.pool("r640", 4, policy=Policy(per_owner=Quota(leases=1)))
        await lab.take("one", owner="alice")
        assert (await lab.submit("two", owner="alice")).state is LeaseState.QUEUED
        assert (await lab.submit("bobs", owner="bob")).state is LeaseState.PREPARING
        place = (await lab.lease("two")).queue
        assert place is not None
        assert (
            place.reason == "over its quota: alice may have 1 lease of r640 at once; needs 1 of r640; 2 free;"
            " 2 held by leases 1 and 3 until 10:00 UTC"
        )
        await lab.close("one")
        assert await lab.state("two") == "preparing"

    async def test_resources_are_counted_too(self, lab: Lab) -> None:
        await lab.pool("r640", 4, policy=Policy(per_owner=Quota(resources=2)))
        await lab.take("one", owner="alice")
        assert (await lab.submit("two", Item(pool="r640", count=2), owner="alice")).state is LeaseState.QUEUED
        assert (await lab.submit("three", owner="alice")).state is LeaseState.PREPARING

    async def test_a_pool_lends_no_more_at_once_than_it_shall(self, lab: Lab) -> None:
        await lab.pool("r640", 3, policy=Policy(at_once=Quota(resources=2)))
        await lab.take("one", owner="alice")
        await lab.take("two", owner="bob")
        assert (await lab.submit("three", owner="carol")).state is LeaseState.QUEUED
        await lab.close("one")
        assert await lab.state("three") == "preparing"

    @pytest.mark.parametrize(
        "policy",
        [
            Policy(per_owner=Quota(leases=1), over_quota=OverQuota.REFUSE),
            Policy(per_owner=Quota(resources=1), over_quota=OverQuota.REFUSE),
        ],
    )
    async def test_a_pool_may_refuse_instead(self, lab: Lab, policy: Policy) -> None:
        await lab.pool("r640", 3, policy=policy)
        await lab.take("one", owner="alice")
        refused = (await lab.submit("two", owner="alice")).refusal
        assert refused is not None
        assert refused.code == "over_quota"
        assert "alice may have 1" in refused.detail

    @pytest.mark.parametrize("policy", [Policy(per_owner=Quota(resources=2)), Policy(per_lease=2)])
    async def test_what_can_never_be_granted_is_refused_at_once(self, lab: Lab, policy: Policy) -> None:
        await lab.pool("r640", 3, policy=policy)
        refused = (await lab.submit("two", Item(pool="r640", count=3), owner="alice")).refusal
        assert refused is not None
        assert refused.code == "over_quota"

    async def test_of_any_pool_one_gets_from_where_the_quota_allows(self, lab: Lab) -> None:
        await lab.store.apply(
            file((spec("a", policy=Policy(per_owner=Quota(leases=1))), hosts(2)), (spec("b"), hosts(2))), "op"
        )
        (first,) = (await lab.submit("one", Item(), owner="alice")).claims
        (second,) = (await lab.submit("two", Item(), owner="alice")).claims
        assert (first.pool, second.pool) == ("a", "b")


class TestPreference:
    async def test_a_plain_request_takes_what_is_good_for_least(self, lab: Lab) -> None:
        special = ResourceSpec(name="a", tags=("gpu",))
        large = ResourceSpec(name="b", properties={"cores": 64})
        small = ResourceSpec(name="c", properties={"cores": 8})
        await lab.store.apply(file((spec("r640"), [special, large, small])), "operator")
        taken = [(await lab.submit(f"{n}")).claims[0].resource for n in range(3)]
        assert taken == ["c", "b", "a"]

    async def test_cheap_pools_go_first_where_none_is_named(self, lab: Lab) -> None:
        pools = [(spec(name, priority=cost), hosts(1)) for name, cost in (("dear", 5), ("cheap", -1), ("usual", 0))]
        await lab.store.apply(file(*pools), "operator")
        assert [(await lab.submit(f"{n}", Item())).claims[0].pool for n in range(3)] == ["cheap", "usual", "dear"]

    async def test_one_can_be_told_by_what_no_other_has(self, lab: Lab) -> None:
        made = [ResourceSpec(name=f"h{n}", properties={"serial": f"S{n}", "model": "x"}) for n in range(3)]
        await lab.store.apply(file((spec("r640"), made)), "operator")
        wanted = Item(pool="r640", match=("serial=S1", "model=x"))
        plain = Item(pool="r640", count=2)
        claims = (await lab.submit("one", wanted, plain)).claims
        assert sorted((c.resource) for c in claims) == ["h0", "h1", "h2"]
        assert claims[0].resource == "h1"
        assert (await lab.submit("two", wanted)).state is LeaseState.QUEUED
        assert (await lab.submit("three", Item(pool="r640", match=("serial=S9",)))).refusal is not None
