"""Self-service: what those who are no operators may take by themselves, while it is open to them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from leasehold.errors import OwnedElsewhere, PoolUnknown
from leasehold.messages import AddResources, Admitted
from leasehold.model import (
    NOT_FOR_SELF_SERVICE,
    Inventory,
    Item,
    Lab,
    Opening,
    Policy,
    Quota,
    ResourceSpec,
    SelfService,
)
from leasehold.ports import ResourceFilter
from leasehold.weekly import Weekly
from tests.contract.store_lab import NINE, spec
from tests.contract.store_lab import Lab as StoreLab

ON = SelfService(enabled=Opening.ON)
SOON: dict[str, Any] = {"start_at": NINE + timedelta(seconds=5), "duration": "1h"}
SUNDAY = Weekly(day="sunday", at=time(21), zone="Europe/Berlin")


def host(name: str, model: str = "R640", **properties: Any) -> ResourceSpec:
    return ResourceSpec(name=name, properties={"model": model, **properties})


async def apply(
    lab: StoreLab,
    *hosts: ResourceSpec,
    pool: SelfService | None = None,
    all_pools: SelfService | None = None,
    policy: Policy | None = None,
) -> None:
    """One pool of these hosts, without stages, and what holds for it and for the lab."""
    made = spec("r640", policy=Policy(self_service=pool) if policy is None else policy)
    described = None if all_pools is None else Lab(self_service=all_pools)
    await lab.store.apply(Inventory(name="lab", lab=described, pools=((made, hosts),)), "operator")


async def ask(lab: StoreLab, lease: str, *items: Item, **asked: Any) -> Admitted:
    """A user asks, who is no operator."""
    return await lab.submit(lease, *items, self_service=True, **asked)


async def ask_while_open(lab: StoreLab, lease: str, *items: Item) -> None:
    """A user asks for what is not free while an operator keeps self-service open, and waits when it is closed."""
    await lab.store.force_self_service("r640", Opening.ON, "while it is asked", "olga")
    assert (await ask(lab, lease, *items)).state == "queued"
    await lab.store.force_self_service("r640", Opening.AUTO, "as always", "olga")


def refused(admitted: Admitted) -> tuple[str, str]:
    assert admitted.refusal is not None, admitted
    return admitted.refusal.code, admitted.refusal.detail


TEN = tuple(host(f"host{n:02}") for n in range(10))


class TestWhileEnoughIsFree:
    async def test_it_is_open(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(free=0.5))
        assert (await ask(lab, "a")).claims

    async def test_it_closes_below_the_share_of_the_lab_and_says_why(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(free=0.5))
        await lab.take("big", Item(pool="r640", count=6))
        assert refused(await ask(lab, "a")) == (
            "self_service_closed",
            "self-service in the lab is closed while less than 50% is free: 4 of 10 free",
        )

    async def test_it_opens_again_when_something_is_given_back(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(free=0.5))
        await lab.take("big", Item(pool="r640", count=6))
        assert refused(await ask(lab, "a"))[1].startswith("self-service of r640 is closed")
        await lab.close("big")
        assert (await ask(lab, "b")).claims

    async def test_operators_are_not_concerned(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(free=0.5))
        await lab.take("big", Item(pool="r640", count=6))
        assert (await lab.submit("theirs")).claims

    async def test_one_who_waits_is_served_only_while_it_is_open(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(free=0.3))
        await lab.take("big", Item(pool="r640", count=5))
        assert (await ask(lab, "a", Item(pool="r640", count=6))).state == "queued"
        await lab.take("more", Item(pool="r640", count=3))
        reason = await lab.reason("a")
        assert "self-service of r640 is closed while less than 30% is free: 2 of 10 free" in reason
        await lab.close("big")
        assert len(await lab.held("a")) == 6

    async def test_one_that_is_served_counts_against_the_next_in_the_same_round(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(free=0.5))
        await lab.take("big", Item(pool="r640", count=5))
        for lease in ("a", "b"):
            assert (await ask(lab, lease, Item(pool="r640", count=6), owner=lease)).state == "queued"
        await lab.close("big")
        assert [len(await lab.held("a")), len(await lab.held("b"))] == [6, 0]

    async def test_of_what_has_a_property_in_common_the_share_is_its_own(self, lab: StoreLab) -> None:
        old, new = [host(f"old{n}") for n in range(4)], [host(f"new{n}", "R750") for n in range(4)]
        await apply(lab, *old, *new, pool=SelfService(free_by={"model": 0.5}))
        await lab.take("big", Item(pool="r640", count=3, match=("model=R640",)))
        assert refused(await ask(lab, "a", Item(pool="r640", match=("model=R640",)))) == (
            "self_service_closed",
            "of model=R640 less than 50% is free: 1 of 4 free",
        )
        assert (await ask(lab, "b")).claims[0].resource.startswith("new")

    async def test_the_share_of_one_pool_closes_nothing_of_another(self, lab: StoreLab) -> None:
        await apply(lab, host("a"), host("b"), pool=SelfService(free_by={"model": 0.6}))
        await lab.store.put_pool(spec("other"), (host("c"),), "operator")
        await lab.take("one", Item(pool="r640"))
        assert refused(await ask(lab, "x"))[0] == "self_service_closed"
        assert (await ask(lab, "y", pool="other")).claims
        seen = await lab.store.available(ResourceFilter(), self_service=True)
        assert seen.free == 0

    async def test_a_host_that_is_named_is_waited_for_until_enough_of_its_like_is_free(self, lab: StoreLab) -> None:
        await apply(lab, host("a"), host("b"), host("c"), pool=SelfService(free_by={"model": 0.6}))
        await lab.take("two", Item(pool="r640", count=2))
        assert (await ask(lab, "x", Item(pool="r640", names=("c",)))).state == "queued"
        assert "of model=R640 less than 60% is free: 1 of 3 free" in await lab.reason("x")
        await lab.close("two")
        assert await lab.held("x") == ["c"]

    async def test_what_is_offline_or_paused_is_not_free(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(free=0.95))
        await lab.store.offline("r640", "host00", "fan", "operator")
        assert refused(await ask(lab, "a"))[0] == "self_service_closed"
        await lab.store.online("r640", "host00", "operator")
        await lab.store.pause("r640", "move", "operator")
        assert "0 of 10 free" in refused(await ask(lab, "b"))[1]

    async def test_what_somebody_else_is_served_in_the_same_round_is_counted_once(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(free=0.3))
        await lab.take("all", Item(pool="r640", count=10))
        await lab.submit("theirs", Item(pool="r640", count=4), priority=1)
        await ask_while_open(lab, "mine", Item(pool="r640", count=4))
        await lab.close("all")
        assert [len(await lab.held("theirs")), len(await lab.held("mine"))] == [4, 4]

    async def test_it_opens_when_what_is_broken_is_taken_out(self, lab: StoreLab) -> None:
        await apply(lab, pool=SelfService(free=0.6))
        for name in ("a", "b"):
            await lab.store.put_resource("r640", host(name), "operator")
            await lab.take(f"has {name}", Item(pool="r640", names=(name,)))
        await ask_while_open(lab, "mine")
        await lab.close("has a", broken="fan")
        await lab.close("has b")
        assert await lab.state("mine") == "queued"
        await lab.store.delete_resource("r640", "a", "olga")
        assert await lab.held("mine") == ["b"]


class TestReservations:
    async def test_none_is_promised_while_it_is_closed(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(free=0.5))
        await lab.store.force_self_service(None, Opening.OFF, "audit", "olga")
        assert refused(await ask(lab, "a", **SOON))[0] == "self_service_closed"
        await lab.store.force_self_service(None, Opening.AUTO, "done", "olga")
        await lab.take("big", Item(pool="r640", count=6))
        assert refused(await ask(lab, "b", **SOON))[0] == "self_service_closed"

    async def test_one_that_was_promised_is_granted_though_it_is_closed_by_then(self, lab: StoreLab) -> None:
        await apply(lab, *TEN)
        assert (await ask(lab, "a", **SOON)).state == "queued"
        await lab.store.force_self_service(None, Opening.OFF, "audit", "olga")
        lab.clock.forward(seconds=5)
        assert (await lab.store.wake("a")).state == "active"


class TestSwitchedByHand:
    async def test_an_operator_closes_the_lab_and_leaves_it_to_its_rules_again(self, lab: StoreLab) -> None:
        await apply(lab, *TEN)
        await lab.store.force_self_service(None, Opening.OFF, "audit", "olga")
        assert refused(await ask(lab, "a")) == (
            "self_service_closed",
            "self-service in the lab is closed by olga: audit",
        )
        await lab.store.force_self_service(None, Opening.AUTO, "done", "olga")
        assert (await ask(lab, "b")).claims

    async def test_an_operator_opens_a_pool_whatever_is_free(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(free=0.5, free_by={"model": 0.9}))
        await lab.take("big", Item(pool="r640", count=6))
        await lab.store.force_self_service("r640", Opening.ON, "hackathon", "olga")
        assert (await ask(lab, "a")).claims

    async def test_closing_lets_holders_keep_what_they_have(self, lab: StoreLab) -> None:
        await apply(lab, *TEN)
        await ask(lab, "a")
        await lab.store.force_self_service(None, Opening.OFF, "audit", "olga")
        assert await lab.state("a") == "active"
        assert (await lab.extend("a", "1h")).refusal is None

    async def test_a_host_that_fails_is_replaced_whoever_heads_its_line(self, lab: StoreLab) -> None:
        made = spec("r640", "wipe")
        await lab.store.apply(Inventory(name="lab", pools=((made, TEN[:3]),)), "operator")
        admitted = await ask(lab, "l2", Item(pool="r640", count=2))
        await lab.take("other", Item(pool="r640"), owner="bob")
        assert (await ask(lab, "l1", Item(pool="r640"), priority=9)).state == "queued"
        await lab.store.force_self_service(None, Opening.OFF, "audit", "olga")
        await lab.report("l2", admitted.claims[0])
        await lab.close("other")
        assert len(await lab.held("l2")) == 2
        assert await lab.state("l1") == "queued"

    async def test_who_waits_is_served_as_soon_as_it_opens(self, lab: StoreLab) -> None:
        await apply(lab, *TEN)
        await lab.take("all", Item(pool="r640", count=10))
        await ask(lab, "a")
        await lab.store.force_self_service("r640", Opening.OFF, "audit", "olga")
        await lab.close("all")
        assert await lab.state("a") == "queued"
        assert "closed by olga: audit" in await lab.reason("a")
        await lab.store.force_self_service("r640", Opening.AUTO, "", "olga")
        assert await lab.state("a") == "active"

    async def test_it_is_seen_who_did_it_when_and_why(self, lab: StoreLab) -> None:
        await apply(lab, *TEN)
        await lab.store.force_self_service("r640", Opening.OFF, "audit", "olga")
        whole, pool = await lab.store.self_service()
        assert (whole.pool, whole.closed, whole.forced) == (None, None, None)
        assert pool.forced is not None
        assert (pool.closed, pool.forced.by, pool.forced.reason, pool.forced.since) == (
            "self-service of r640 is closed by olga: audit",
            "olga",
            "audit",
            lab.clock.now,
        )
        told = (await lab.store.events(pool="r640", alone=True))[-1]
        assert (told.kind, told.actor, told.reason) == ("self_service_off", "olga", "audit")

    async def test_a_pool_that_is_not_there_cannot_be_switched(self, lab: StoreLab) -> None:
        with pytest.raises(PoolUnknown):
            await lab.store.force_self_service("r999", Opening.ON, "", "olga")

    async def test_a_pool_may_be_closed_to_users_for_good(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(enabled=Opening.OFF))
        assert refused(await ask(lab, "a")) == ("self_service_closed", "self-service of r640 is closed")

    async def test_a_request_for_any_pool_leaves_out_those_that_are_closed(self, lab: StoreLab) -> None:
        await apply(lab, *TEN)
        await lab.pool("vm", 1, priority=5)
        await lab.store.force_self_service("r640", Opening.OFF, "audit", "olga")
        assert [(c.pool, c.resource) for c in (await ask(lab, "a", Item())).claims] == [("vm", "host01")]


class TestForOperatorsAlone:
    async def test_a_resource_that_is_not_for_self_service_is_left_out(self, lab: StoreLab) -> None:
        await apply(lab, host("a", **NOT_FOR_SELF_SERVICE), host("b"))
        assert (await ask(lab, "one")).claims[0].resource == "b"
        assert (await ask(lab, "two", wait_for_supply=True)).state == "queued"
        assert (await lab.submit("theirs")).claims[0].resource == "a"

    async def test_wanting_it_all_the_same_says_whom_to_ask(self, lab: StoreLab) -> None:
        await apply(lab, host("a", **NOT_FOR_SELF_SERVICE))
        assert refused(await ask(lab, "one")) == (
            "unsatisfiable",
            "nothing in pool r640 is for self-service: ask an operator",
        )

    async def test_no_reason_speaks_of_how_it_is_left_out(self, lab: StoreLab) -> None:
        await apply(lab, host("a"))
        await lab.take("theirs")
        await ask(lab, "one")
        shown = await lab.store.lease("one", alternatives=True)
        assert shown.queue is not None
        assert "self_service" not in shown.queue.reason
        assert shown.items == (Item(pool="r640"),)


class TestLimitsForEachUser:
    async def test_of_leases_what_waits_included(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(per_owner=Quota(leases=2)))
        await ask(lab, "a")
        assert (await ask(lab, "b", Item(pool="r640", count=10))).state == "queued"
        code, detail = refused(await ask(lab, "c"))
        assert (code, detail) == ("limit_reached", "alice has 2 of 2 leases in the lab")
        assert (await ask(lab, "d", owner="bob")).claims

    async def test_one_more_is_given_once_one_is_over(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(per_owner=Quota(leases=1)))
        await ask(lab, "a")
        assert refused(await ask(lab, "b"))[1] == "alice has 1 of 1 leases of r640"
        await lab.close("a")
        assert (await ask(lab, "c")).claims

    async def test_of_resources_at_once_added_ones_too(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(per_owner=Quota(resources=3)))
        await ask(lab, "a", Item(pool="r640", count=2))
        admitted = await lab.submit("b", Item(pool="r640", count=2), self_service=True)
        assert refused(admitted)[1] == "alice has 2 of 3 resources in the lab, and 2 more are wanted"
        assert (await lab.add("a")).refusal is None
        assert refused(await lab.add("a"))[0] == "limit_reached"
        await lab.give_back("a", "host00")
        assert (await lab.add("a")).refusal is None

    async def test_of_resources_in_one_lease(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(per_lease=3))
        admitted = await ask(lab, "a", Item(pool="r640", count=2), Item(pool="r640", count=2))
        assert refused(admitted)[1] == "at most 3 resources of r640 in one lease, and 4 are wanted"
        assert admitted.refusal is not None
        assert [fault.code for fault in admitted.refusal.faults] == ["per_lease"]

    async def test_operators_leases_are_not_counted(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(per_owner=Quota(leases=1)))
        await lab.submit("theirs")
        assert (await ask(lab, "a")).claims

    async def test_who_only_says_who_they_are_uses_up_nobody_elses(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(per_owner=Quota(leases=1)))
        await ask(lab, "a", unverified=True)
        assert (await ask(lab, "b")).claims
        assert refused(await ask(lab, "c", unverified=True))[0] == "limit_reached"

    async def test_naming_no_pool_is_no_way_around_them(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(per_lease=2, per_owner=Quota(leases=1)))
        assert refused(await ask(lab, "a", Item(count=5)))[0] == "limit_reached"
        assert (await ask(lab, "b", Item(count=2))).claims
        assert refused(await ask(lab, "c", Item(count=1)))[1] == "alice has 1 of 1 leases of r640"
        await lab.store.put_pool(spec("other"), (host("x"),), "operator")
        assert [claim.pool for claim in (await ask(lab, "d", Item(count=1))).claims] == ["other"]

    async def test_what_a_user_adds_to_an_operators_lease_is_bound_by_them(self, lab: StoreLab) -> None:
        await apply(lab, host("mine", **NOT_FOR_SELF_SERVICE), host("b"), pool=SelfService(per_lease=1))
        await lab.take("a", Item(pool="r640", names=("b",)))
        theirs = AddResources(items=(Item(pool="r640"),), actor="alice", request="1", self_service=True)
        assert refused(await lab.store.add("a", theirs))[0] in {"limit_reached", "unsatisfiable", "not_free"}
        assert (await lab.add("a")).refusal is None

    async def test_of_many_at_once_exactly_as_many_as_allowed(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(per_owner=Quota(leases=2)))
        admitted = await asyncio.gather(*(ask(lab, f"n{n}") for n in range(8)))
        assert sum(bool(one.claims) for one in admitted) == 2
        assert {refused(one)[0] for one in admitted if not one.claims} == {"limit_reached"}


class TestHowLong:
    async def test_the_strictest_of_lab_pool_and_policy_counts(self, lab: StoreLab) -> None:
        policy = Policy(
            default_duration=timedelta(hours=9),
            max_duration=timedelta(days=9),
            self_service=SelfService(max_duration=timedelta(days=3)),
        )
        await apply(lab, *TEN, policy=policy, all_pools=SelfService(max_duration=timedelta(days=5)))
        assert refused(await ask(lab, "a", duration="4d"))[0] == "duration_refused"
        assert (await ask(lab, "b", duration="3d")).claims
        assert (await lab.submit("theirs", duration="9d")).claims

    async def test_there_is_a_default_of_its_own(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(default_duration=timedelta(days=5)))
        await ask(lab, "a")
        assert (await lab.lease("a")).expires_at == lab.clock.now + timedelta(days=5)

    async def test_an_extension_is_bounded_too(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, pool=SelfService(max_total=timedelta(hours=2)))
        await ask(lab, "a", duration="1h")
        assert (await lab.extend("a", "1h")).refusal is None
        held = await lab.extend("a", "1h")
        assert held.refusal is not None
        assert held.refusal.code == "duration_refused"

    async def test_no_lease_lasts_past_the_weekly_deadline(self, lab: StoreLab) -> None:
        # The clock stands at Monday.
        await apply(lab, *TEN, all_pools=SelfService(deadline=SUNDAY), policy=Policy(max_duration=None))
        await ask(lab, "a", duration="10d")
        await ask(lab, "b", duration="1d")
        end = datetime(2026, 1, 11, 20, tzinfo=UTC)
        assert (await lab.lease("a")).expires_at == end
        assert (await lab.lease("b")).expires_at == lab.clock.now + timedelta(days=1)
        assert (await lab.extend("b", until=end)).refusal is None
        held = await lab.extend("b", "1h")
        assert held.refusal is not None
        assert held.refusal.detail == "self-service of it ends each week, and this lease at 2026-01-11T20:00:00Z"

    async def test_the_deadline_is_that_of_the_wall_when_the_clocks_change(self, lab: StoreLab) -> None:
        lab.clock.now = datetime(2026, 3, 27, 12, tzinfo=UTC)
        await apply(lab, *TEN, all_pools=SelfService(deadline=SUNDAY))
        await ask(lab, "a", duration="10d")
        assert (await lab.lease("a")).expires_at == datetime(2026, 3, 29, 19, tzinfo=UTC)

    async def test_it_is_not_extended_by_itself_past_the_deadline(self, lab: StoreLab) -> None:
        policy = Policy(auto_extend=timedelta(days=1))
        await apply(lab, *TEN, all_pools=SelfService(deadline=SUNDAY), policy=policy)
        await ask(lab, "a", duration="10d")
        lab.clock.now = datetime(2026, 1, 11, 20, tzinfo=UTC)
        assert (await lab.tick("a")).outcome == "expired"


class TestExtendedByItselfWhileEnoughIsFree:
    async def test_it_goes_on_until_less_is_free(self, lab: StoreLab) -> None:
        policy = Policy(auto_extend=timedelta(hours=1), auto_extend_free=0.5)
        await apply(lab, *TEN, policy=policy)
        await lab.submit("a", duration="1h")
        lab.clock.forward(hours=1)
        assert (await lab.tick("a")).state == "active"
        await lab.submit("big", Item(pool="r640", count=6), duration="9h")
        lab.clock.forward(hours=1)
        assert (await lab.tick("a")).outcome == "expired"


class TestAvailable:
    async def test_a_user_sees_what_the_rules_leave(self, lab: StoreLab) -> None:
        await apply(lab, host("mine", **NOT_FOR_SELF_SERVICE), host("a"), host("b"), pool=SelfService(show=1))
        seen = await lab.store.available(ResourceFilter(pool="r640"), self_service=True)
        assert (seen.free, seen.total, [r.name for r in seen.resources], seen.closed) == (2, 2, ["a"], ())
        all_ = await lab.store.available(ResourceFilter(pool="r640"))
        assert (all_.free, len(all_.resources)) == (3, 3)

    async def test_it_says_that_it_is_closed_and_why(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(free=0.5))
        await lab.take("big", Item(pool="r640", count=6))
        seen = await lab.store.available(ResourceFilter(pool="r640"), self_service=True)
        assert (seen.free, seen.resources) == (0, ())
        assert seen.closed == ("self-service in the lab is closed while less than 50% is free: 4 of 10 free",)

    async def test_it_leaves_out_what_is_scarce(self, lab: StoreLab) -> None:
        await apply(lab, host("a"), host("b"), host("c", "R750"), pool=SelfService(free_by={"model": 0.6}))
        await lab.take("one", Item(pool="r640", match=("model=R640",)))
        seen = await lab.store.available(ResourceFilter(pool="r640"), self_service=True)
        assert [r.name for r in seen.resources] == ["c"]
        assert seen.closed == ("of model=R640 less than 60% is free: 1 of 2 free",)


class TestWhoDescribesTheLab:
    async def test_another_file_may_not(self, lab: StoreLab) -> None:
        await apply(lab, all_pools=ON)
        with pytest.raises(OwnedElsewhere):
            await lab.store.apply(Inventory(name="other", lab=Lab(), pools=()), "operator")

    async def test_the_rules_are_gone_with_the_words(self, lab: StoreLab) -> None:
        await apply(lab, *TEN, all_pools=SelfService(enabled=Opening.OFF))
        assert refused(await ask(lab, "a"))[0] == "self_service_closed"
        await apply(lab, *TEN)
        assert (await ask(lab, "b")).claims
