"""Why a lease waits, until when, what it could have instead; and what a request would get, without making it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from leasehold.errors import PoolUnknown
from leasehold.messages import Admitted
from leasehold.model import Item, Lease, LeaseState, Outcome, Policy, QueuePlace, Quota, ResourceSpec
from leasehold.ports import LeaseFilter, ResourceFilter
from tests.contract.store_lab import HOST, NINE, OK, Lab, admission, file, hosts, request, run_of, spec

TEN = NINE + timedelta(hours=1)
NVME = Item(pool="r640", count=3, match=("disks.disk_type=nvme",))


async def place(lab: Lab, lease: str, *, alternatives: bool = False) -> QueuePlace:
    """Where a lease stands."""
    found = (await lab.store.lease(lease, alternatives=alternatives)).queue
    assert found is not None
    return found


class TestReason:
    async def test_it_names_what_is_wanted_what_is_free_and_who_has_the_rest_until_when(self, lab: Lab) -> None:
        disks = {"disks": [{"disk_type": "nvme"}]}
        nvme = [ResourceSpec(name=f"nvme{n}", properties=disks) for n in range(3)]
        await lab.store.apply(file((spec("r640", "validate"), [*nvme, *hosts(2)])), "operator")
        for name in ("a", "b"):
            await lab.take(name, Item(pool="r640", match=NVME.match), duration="5h")
        for name in ("c", "d"):
            await lab.submit(name, NVME)
        assert await lab.reason("d") == (
            "needs 3 of r640 with disks.disk_type=nvme; 1 free; 2 held by leases 1 and 2 until 14:00 UTC;"
            " 1 lease before it"
        )

    async def test_it_names_those_who_end_first(self, lab: Lab) -> None:
        await lab.pool("r640", 5)
        for n in range(5):
            await lab.take(f"holder{n}", duration=f"{5 - n}h")
        await lab.submit("waiting", Item(pool="r640", count=2))
        assert await lab.reason("waiting") == (
            "needs 2 of r640; 0 free; 5 held, first to end leases 5 and 4 at 11:00 UTC"
        )

    async def test_another_day_is_told_with_its_date(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder", duration="2d")
        await lab.submit("waiting")
        assert "until 2026-01-07 09:00 UTC" in await lab.reason("waiting")

    async def test_items_are_told_one_by_one(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("a", "validate"), hosts(1)), (spec("b", "validate"), hosts(2))), "operator")
        await lab.take("holder", Item(pool="a"))
        await lab.submit("waiting", Item(pool="a", names=("host01",)), Item(pool="b", count=2))
        assert await lab.reason("waiting") == (
            "needs 1 of a named host01; 0 free; 1 held by lease 1 until 10:00 UTC; needs 2 of b; 2 free"
        )

    async def test_what_is_kept_for_others_is_told(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(overtakes=0))
        await lab.take("holder")
        await lab.submit("large", Item(pool="r640", count=2))
        await lab.submit("small")
        said = await lab.reason("small")
        assert "1 free" in said
        assert "what is free is kept for those who have waited longer; 1 lease before it" in said

    async def test_owners_who_hold_less_stand_before_others_in_a_fair_pool(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(fair_share=True))
        await lab.take("first", owner="alice")
        for n in range(3):
            await lab.submit(f"alice{n}", owner="alice")
        await lab.submit("bobs", owner="bob")
        assert await lab.positions("bobs", "alice0", "alice1", "alice2") == [1, 2, 3, 4]
        assert [lease.id for lease in await lab.store.queue("r640")] == ["bobs", "alice0", "alice1", "alice2"]


class TestEta:
    async def test_it_comes_from_the_holders_deadlines_and_those_before_it(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a", duration="1h")
        await lab.take("b", duration="3h")
        for name, lasts in (("c", "1h"), ("d", "2h"), ("e", "1h")):
            await lab.submit(name, duration=lasts)
        etas = [(await place(lab, name)).eta for name in ("c", "d", "e")]
        assert etas == [NINE + timedelta(hours=n) for n in (1, 2, 3)]

    async def test_it_counts_the_time_that_stages_take(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "provision", "release")
        (claim,) = (await lab.submit("a", duration="1h")).claims
        for stage in (0, 1):
            order = run_of("a", claim, claim.stages[stage])
            begun = await lab.store.begin_run(order, HOST)
            lab.clock.forward(minutes=10)
            await lab.store.finish_run(order, begun.run, OK, None)
        await lab.store.activate("a")
        await lab.submit("b")
        # Delivered at 9:20, held for an hour, wiped and provisioned for the next.
        assert (await place(lab, "b")).eta == NINE + timedelta(minutes=100)

    async def test_a_large_one_waits_for_the_last_it_needs(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        for n in range(3):
            await lab.take(f"holder{n}", duration=f"{n + 1}h")
        await lab.submit("large", Item(pool="r640", count=3))
        assert (await place(lab, "large")).eta == NINE + timedelta(hours=3)

    async def test_one_that_is_being_prepared_may_be_the_first_to_give_back(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("long", duration="10h")
        await lab.submit("short", duration="10m")
        await lab.submit("waiting")
        assert (await place(lab, "waiting")).eta == NINE + timedelta(minutes=10)

    async def test_of_several_pools_the_one_that_is_free_first_counts_with_its_grace(self, lab: Lab) -> None:
        patient = spec("patient", "validate", policy=Policy(grace=timedelta(hours=2)))
        await lab.store.apply(file((patient, hosts(1)), (spec("strict", "validate"), hosts(1))), "operator")
        await lab.take("first", Item(pool="patient"), duration="1h")
        await lab.take("second", Item(pool="strict"), duration="2h")
        await lab.submit("waiting", Item())
        assert (await place(lab, "waiting")).eta == NINE + timedelta(hours=2)

    async def test_nobody_can_tell_while_a_quota_or_an_operator_is_in_the_way(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(per_owner=Quota(leases=1)))
        await lab.take("one", owner="alice")
        await lab.submit("two", owner="alice")
        assert (await place(lab, "two")).eta is None
        await lab.store.pause("r640", "new switch", "operator")
        await lab.submit("bobs", owner="bob")
        assert (await place(lab, "bobs")).eta is None

    async def test_a_grace_is_waited_for(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(grace=timedelta(minutes=30)))
        await lab.take("a", duration="1h")
        await lab.submit("b")
        assert (await place(lab, "b")).eta == NINE + timedelta(minutes=90)


class TestAlternatives:
    async def told(self, lab: Lab, lease: str) -> list[str]:
        """What could be had instead, in words."""
        others = (await place(lab, lease, alternatives=True)).alternatives
        assert others is not None
        return [one.detail for one in others]

    async def test_without_a_filter_of_another_pool_or_fewer(self, lab: Lab) -> None:
        nvme = ResourceSpec(name="nvme", properties={"disk": "nvme"})
        await lab.store.apply(
            file((spec("r640", "validate"), [nvme, *hosts(2)]), (spec("vm", "validate"), hosts(1))), "operator"
        )
        await lab.take("holder", Item(pool="r640", match=("disk=nvme",)))
        await lab.submit("one", Item(pool="r640", match=("disk=nvme",)))
        assert await self.told(lab, "one") == ["1 of r640, without disk=nvme"]
        await lab.submit("plain", Item(pool="r640", count=3))
        assert await self.told(lab, "plain") == ["2 of r640, not 3"]
        await lab.take("rest", Item(pool="r640", count=2))
        assert await self.told(lab, "plain") == []
        await lab.submit("single")
        assert await self.told(lab, "single") == ["1 of vm, not of r640"]

    async def test_one_of_them_asked_for_is_granted_at_once(self, lab: Lab) -> None:
        await lab.pool("r640", 30)
        await lab.take("holder", Item(pool="r640", count=13))
        await lab.submit("large", Item(pool="r640", count=25))
        (other,) = (await place(lab, "large", alternatives=True)).alternatives or ()
        assert other.items == (Item(pool="r640", count=17),)
        assert (await lab.submit("fewer", *other.items)).state is LeaseState.PREPARING

    async def test_what_is_kept_or_promised_is_no_alternative(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("a", "validate"), hosts(1)), (spec("b", "validate"), hosts(1))), "operator")
        await lab.take("holder", Item(pool="a"))
        await lab.submit("later", Item(pool="b"), start_at=NINE + timedelta(minutes=30))
        await lab.submit("waiting", Item(pool="a"))
        assert await self.told(lab, "waiting") == []

    async def test_nobody_is_told_without_asking(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder")
        await lab.submit("waiting")
        (listed, _) = await lab.store.leases(LeaseFilter())
        assert listed.queue is not None
        assert listed.queue.alternatives is None


class TestPatience:
    async def test_who_has_waited_long_enough_fails_and_says_so(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder")
        assert (await lab.submit("patient", queue_timeout="10m")).wait_s == 600
        lab.clock.forward(minutes=9)
        assert (await lab.store.wake("patient")).wait_s == 60
        lab.clock.forward(minutes=1)
        assert (await lab.store.wake("patient")).state is LeaseState.ENDED
        lease = await lab.lease("patient")
        assert lease.error is not None
        assert (lease.outcome, lease.error.code) == (Outcome.FAILED, "queue_timeout")
        assert lease.error.detail == "not granted by 2026-01-05T09:10:00Z, as long as it was to wait"
        assert (await lab.store.wake("patient")).state is LeaseState.ENDED

    async def test_who_was_granted_something_in_time_has_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder")
        await lab.submit("patient", queue_timeout="10m")
        await lab.close("holder")
        lab.clock.forward(minutes=20)
        assert (await lab.store.wake("patient")).state is LeaseState.PREPARING

    async def test_it_counts_from_the_submission(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder")
        assert (await lab.submit("patient", queue_timeout="10m", age_s=60)).wait_s == 540

    async def test_a_reservation_waits_from_its_beginning_on(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        assert (await lab.submit("later", start_at=TEN, queue_timeout="10m")).wait_s == 3600
        lab.clock.forward(hours=1, minutes=10)
        assert (await lab.store.wake("later")).state is LeaseState.ENDED

    async def test_what_it_held_up_goes_on(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(overtakes=0))
        await lab.take("holder")
        await lab.submit("large", Item(pool="r640", count=2), queue_timeout="10m")
        await lab.submit("small")
        lab.clock.forward(minutes=10)
        await lab.store.wake("large")
        assert await lab.state("small") == "preparing"


class TestPause:
    async def test_a_paused_pool_lends_nothing_and_its_holders_keep_what_they_have(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        await lab.take("holder")
        await lab.store.pause("r640", "new switch", "op")
        assert (await lab.submit("waiting")).state is LeaseState.QUEUED
        assert await lab.reason("waiting") == (
            "r640 is paused: new switch; needs 1 of r640; 0 free; 1 held by lease 1 until 10:00 UTC; 2 paused"
        )
        assert (await lab.extend("holder", "1h")).refusal is None
        await lab.store.resume("r640", "op")
        assert await lab.state("waiting") == "preparing"

    async def test_it_shows_who_paused_it_and_why(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.store.pause("r640", "new switch", "op")
        (pool,) = await lab.store.pools("r640")
        assert pool.paused is not None
        assert (pool.paused.reason, pool.paused.by, pool.paused.since) == ("new switch", "op", NINE)
        available = await lab.store.available(ResourceFilter(pool="r640"))
        assert (available.free, available.paused) == (0, {"r640": "new switch"})
        await lab.store.resume("r640", "op")
        await lab.store.resume("r640", "op")
        happened = await lab.store.events(pool="r640")
        assert [(e.kind, e.actor, e.reason) for e in happened if "pool_" in e.kind and e.kind != "pool_added"] == [
            ("pool_paused", "op", "new switch"),
            ("pool_resumed", "op", None),
        ]

    async def test_who_waits_for_it_holds_up_nobody_elsewhere(self, lab: Lab) -> None:
        pools = [(spec(name, "validate", policy=Policy(overtakes=0)), hosts(1)) for name in ("a", "b")]
        await lab.store.apply(file(*pools), "op")
        await lab.store.pause("a", "new switch", "op")
        await lab.submit("both", Item(pool="a"), Item(pool="b"))
        assert (await lab.submit("one", Item(pool="b"))).state is LeaseState.PREPARING

    async def test_of_any_pool_one_is_given_what_is_not_paused(self, lab: Lab) -> None:
        await lab.store.apply(file(*((spec(name, "validate"), hosts(1)) for name in ("a", "b"))), "op")
        await lab.store.pause("a", "new switch", "op")
        (claim,) = (await lab.submit("any", Item())).claims
        assert claim.pool == "b"

    async def test_one_that_wants_of_any_pool_is_foretold_of_those_that_lend(self, lab: Lab) -> None:
        await lab.store.apply(file(*((spec(name, "validate"), hosts(1)) for name in ("a", "b"))), "op")
        await lab.take("holder", Item(pool="b"), duration="2h")
        await lab.store.pause("a", "new switch", "op")
        await lab.submit("any", Item())
        assert (await place(lab, "any")).eta == NINE + timedelta(hours=2)

    async def test_it_stays_paused_when_its_file_is_applied_again(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.store.pause("r640", "new switch", "op")
        await lab.pool("r640", 2)
        assert (await lab.submit("waiting")).state is LeaseState.QUEUED

    async def test_there_must_be_such_a_pool(self, lab: Lab) -> None:
        with pytest.raises(PoolUnknown):
            await lab.store.pause("nope", "why", "op")
        with pytest.raises(PoolUnknown):
            await lab.store.resume("nope", "op")


class TestSupply:
    async def refusal(self, lab: Lab, *items: Item) -> str:
        """Why a request is refused."""
        refused = (await lab.submit("asked", *items)).refusal
        assert refused is not None
        assert refused.code == "unsatisfiable"
        return refused.detail

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            (
                Item(pool="r640", count=25),
                "25 wanted, and the most that exist in pool r640 is 3",
            ),
            (Item(pool="r640", match=("model=R999",)), "no model=R999 in pool r640 (there is R640 or R740)"),
            (Item(pool="r640", tags=("gpu",)), "no tag gpu in pool r640 (there is metal)"),
            (Item(names=("host09",)), "no resource host09 in any pool"),
            (
                Item(pool="r640", match=("model=R740", "cores__lt=16")),
                "no resource in pool r640 is all that at once: 1 of r640 with model=R740 and cores__lt=16",
            ),
        ],
    )
    async def test_what_can_never_be_is_refused_and_says_why(self, lab: Lab, item: Item, said: str) -> None:
        made = [
            ResourceSpec(name=f"host{n:02}", tags=("metal",), properties={"model": model, "cores": cores})
            for n, (model, cores) in enumerate((("R640", 8), ("R640", 16), ("R740", 32)))
        ]
        await lab.store.apply(file((spec("r640", "validate"), made)), "op")
        assert await self.refusal(lab, item) == said

    async def test_who_says_so_waits_until_there_is_enough(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        admitted = await lab.submit("hopeful", Item(pool="r640", count=2), wait_for_supply=True)
        assert admitted.state is LeaseState.QUEUED
        assert await lab.reason("hopeful") == "needs 2 of r640; there is just 1; 1 free"
        await lab.store.put_resource("r640", ResourceSpec(name="host02"), "op")
        assert await lab.state("hopeful") == "preparing"


class TestTrying:
    async def tried(self, lab: Lab, *items: Item, **asked: Any) -> tuple[Admitted, Lease | None]:
        """What would come of a request."""
        return await lab.store.try_admission(admission(request("tried", *(items or (Item(pool="r640"),)), **asked)))

    async def test_it_says_what_would_be_granted_and_leaves_nothing(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        before = await lab.store.resource("r640", "host01")
        admitted, lease = await self.tried(lab)
        assert lease is not None
        assert (admitted.state, [r.name for r in lease.resources]) == (LeaseState.PREPARING, ["host01"])
        assert await lab.store.resource("r640", "host01") == before
        assert await lab.store.leases(LeaseFilter()) == []
        assert (await lab.store.request("tried"), await lab.store.outbox_due()) == (None, [])
        await lab.submit("next")
        assert (await lab.lease("next")).number == 1

    async def test_it_says_when_where_it_would_wait(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder")
        _, lease = await self.tried(lab)
        assert lease is not None
        assert lease.queue is not None
        assert (lease.queue.position, lease.queue.eta) == (1, TEN)
        assert lease.queue.alternatives == ()

    async def test_it_says_what_would_refuse_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        admitted, lease = await self.tried(lab, Item(pool="r640", count=2))
        assert lease is None
        assert admitted.refusal is not None
        assert admitted.refusal.code == "unsatisfiable"

    async def test_it_says_whether_a_reservation_would_be_kept(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        _, lease = await self.tried(lab, start_at=TEN)
        assert lease is not None
        assert lease.queue is not None
        assert lease.queue.reason == "reserved from 10:00 UTC: r640/host01"
