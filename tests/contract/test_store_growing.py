"""An active lease gets more, or gives a part back: at once or not at all, and once however often it is asked."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from leasehold.messages import AddResources, Admitted, Claim, HeldResource
from leasehold.model import Extend, Item, LeaseState, Outcome, Policy, StageName
from tests.contract.store_lab import FAILED, NINE, Lab, run_of


def code(admitted: Admitted) -> str | None:
    return admitted.refusal.code if admitted.refusal else None


class TestAdding:
    """More resources."""

    async def test_what_needs_no_stage_is_ready_at_once(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.pool("vm", 1, "release")
        await lab.take("a")

        standing = await lab.add("a", Item(pool="vm", role="worker"))

        assert (standing.state, standing.refusal) == (LeaseState.ACTIVE, None)
        lease = await lab.lease("a")
        assert [(r.pool, r.item, r.role, r.state) for r in lease.resources] == [
            ("r640", 0, None, "ready"),
            ("vm", 1, "worker", "ready"),
        ]
        assert [item.pool for item in lease.items] == ["r640", "vm"]
        assert (await lab.kinds("a"))[-3:] == ["lease_grown", "resource_leased", "lease_resource_ready"]

    async def test_what_has_stages_is_delivered_when_its_workflow_says_so(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", "deliver")
        await lab.take("a")

        standing = await lab.add("a")

        new = next(c for c in standing.claims if not c.ready)
        assert [s.stage for s in new.stages] == ["wipe", "deliver"]
        assert [d.name for d in await lab.store.delivery("a")] == ["host01"], "not before it is ready"
        await lab.run("a", new, stage=1, secret=b"key")
        assert (await lab.lease("a")).resources[1].state == "preparing", "all that came with it must be"
        for _ in range(2):
            await lab.store.activate("a", tuple(c.held for c in standing.claims))
        assert [(d.name, d.data) for d in await lab.store.delivery("a")] == [("host01", b""), ("host02", b"key")]
        assert (await lab.kinds("a")).count("lease_resource_ready") == 1

    async def test_the_same_addition_counts_once(self, lab: Lab) -> None:
        await lab.pool("r640", 4)
        await lab.take("a")

        first = await lab.add("a", request="key.body")

        assert await lab.add("a", request="key.body") == first
        assert await lab.held("a") == ["host01", "host02"]
        await lab.add("a", request="other.body")
        assert len(await lab.held("a")) == 3

    async def test_the_same_key_with_another_addition_is_refused(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        await lab.take("a")
        await lab.add("a", request="key.body")

        refused = await lab.add("a", Item(pool="r640", count=2), request="key.other")

        assert refused.refusal is not None
        assert refused.refusal.code == "idempotency_key_reused"
        assert [fault.path for fault in refused.refusal.faults] == ["Idempotency-Key"]
        assert len(await lab.held("a")) == 2

    async def test_the_key_of_an_extension_is_no_key_of_an_addition(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a")
        await lab.extend("a", "1h", request="key.extension")

        assert code(await lab.add("a", request="key.addition")) == "idempotency_key_reused"

    async def test_a_refusal_is_repeated_though_it_would_be_granted_now(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a")
        await lab.take("b")
        refused = await lab.add("a", request="key.body")
        assert code(refused) == "not_free"

        await lab.close("b")

        assert await lab.add("a", request="key.body") == refused
        assert code(await lab.add("a", request="new.body")) is None

    async def test_a_repetition_after_the_lease_is_over_is_answered_with_how_it_stands(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a")
        await lab.add("a", request="key.body")
        await lab.close("a")

        assert (await lab.add("a", request="key.body")).state is LeaseState.ENDED
        assert code(await lab.add("a", request="new.body")) == "lease_not_active"

    async def test_all_items_at_once_or_none(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        await lab.pool("vm", 1)
        await lab.take("a")
        await lab.submit("b", pool="vm")
        before = await lab.lease("a"), await lab.kinds("a")

        refused = await lab.add("a", Item(pool="r640"), Item(pool="vm"))

        assert code(refused) == "not_free"
        assert (await lab.lease("a"), await lab.kinds("a")) == before
        assert (await lab.states())["host02"] == "free"

    @pytest.mark.parametrize(
        ("item", "path", "fault"),
        [
            (Item(pool="nope"), "items[0].pool", "pool_unknown"),
            (Item(pool="r640", count=3), "items[0]", "too_many"),
            (Item(pool="r640", names=("host09",)), "items[0]", "too_many"),
        ],
    )
    async def test_what_could_never_be_is_told_with_its_place(
        self, lab: Lab, item: Item, path: str, fault: str
    ) -> None:
        await lab.pool("r640", 3)
        await lab.take("a")

        refused = await lab.add("a", item)

        assert refused.refusal is not None
        assert refused.refusal.code == "unsatisfiable"
        assert [(f.path, f.code) for f in refused.refusal.faults] == [(path, fault)]

    async def test_what_the_lease_has_already_is_none_of_what_it_could_get(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a", Item(pool="r640", count=2))

        assert code(await lab.add("a")) == "unsatisfiable"

    async def test_it_takes_nothing_from_those_who_wait(self, lab: Lab) -> None:
        # Given a resource that is free only because who waits for it needs two.
        await lab.pool("r640", 3)
        await lab.take("a", Item(pool="r640", count=2))
        await lab.submit("b", Item(pool="r640", count=2))

        # When the lease takes it, then who waits is served as soon as both are back.
        standing = await lab.add("a")
        await lab.store.activate("a", tuple(c.held for c in standing.claims))
        assert await lab.positions("b") == [1]
        await lab.give_back("a", "host01")
        await lab.give_back("a", "host02")

        assert await lab.held("b") == ["host01", "host02"]

    @pytest.mark.parametrize("state", ["queued", "preparing", "ended"])
    async def test_only_an_active_lease_grows(self, lab: Lab, state: str) -> None:
        await lab.pool("r640", 2)
        await lab.submit("other", Item(pool="r640", count=2 if state == "queued" else 1))
        await lab.submit("a")
        if state == "ended":
            await lab.close("a", Outcome.CANCELLED)
        assert await lab.state("a") == state

        assert code(await lab.add("a")) == "lease_not_active"

    async def test_none_in_its_grace_grows(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(grace=timedelta(hours=1)))
        await lab.take("a", duration="1h")
        lab.clock.forward(minutes=61)
        await lab.tick()
        assert (await lab.lease("a")).in_grace

        refused = await lab.add("a")

        assert refused.refusal is not None
        assert refused.refusal.detail == "lease 1 is in its grace: only an active lease can be given more"

    async def test_skipped_stages_are_left_out(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", "provision")
        await lab.take("a")

        standing = await lab.add("a", Item(pool="r640", skip=(StageName.PROVISION, StageName.WIPE)))

        # Nobody had it before, so what is on it is not known to be the holder's own.
        assert [s.stage for s in standing.claims[1].stages] == ["wipe"]


class TestPolicies:
    """What is added brings its pool's policy with it."""

    @pytest.mark.parametrize(
        ("policy", "hours"),
        [(Policy(max_duration=timedelta(hours=2)), 3), (Policy(max_total=timedelta(hours=5)), 0)],
    )
    async def test_nothing_is_lent_by_it_for_longer_than_its_pool_lends(
        self, lab: Lab, policy: Policy, hours: float
    ) -> None:
        await lab.pool("r640", 1)
        await lab.pool("scarce", 1, policy=policy)
        await lab.take("a", duration="5h")
        await lab.extend("a", "1s")
        assert code(await lab.add("a", pool="scarce")) == "duration_refused"

        lab.clock.forward(hours=hours)
        await lab.extend("a", until=NINE + timedelta(hours=5))

        assert code(await lab.add("a", pool="scarce")) is None

    async def test_from_then_on_the_strictest_decides(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.pool("fixed", 1, policy=Policy(extend=Extend.NEVER))
        await lab.take("a", duration="1h")
        assert (await lab.extend("a", "1h")).refusal is None
        await lab.add("a", pool="fixed")

        held = await lab.extend("a", "1h")
        assert held.refusal is not None
        assert held.refusal.code == "extension_refused"

        # When it is given back, its policy goes with it.
        await lab.give_back("a", "host01", pool="fixed")
        assert (await lab.extend("a", "1h")).refusal is None


class TestFailing:
    """What was added and fails."""

    async def test_it_is_quarantined_and_dropped_and_the_lease_goes_on(self, lab: Lab) -> None:
        await lab.pool("r640", 3, "wipe", "release")
        await lab.take("a")
        new = (await lab.add("a")).claims[1]
        await lab.run("a", new, report=FAILED)

        now = await lab.report("a", new)

        assert (now.state, [c.resource for c in now.claims], now.missing) == (LeaseState.ACTIVE, ["host01"], 0)
        assert await lab.report("a", new) == now
        assert await lab.states() == {"host01": "leased", "host02": "broken", "host03": "free"}
        assert [r.state for r in (await lab.lease("a")).resources] == ["ready", "released"]

    async def test_those_that_came_with_it_stay(self, lab: Lab) -> None:
        await lab.pool("r640", 3, "wipe")
        await lab.take("a")
        _, broken, sound = (await lab.add("a", Item(pool="r640", count=2))).claims

        await lab.report("a", broken)
        await lab.store.activate("a", (sound.held,))

        assert [r.state for r in (await lab.lease("a")).resources] == ["ready", "released", "ready"]


class TestLasting:
    """More that makes a lease last as long as it is lent by default."""

    async def names(self, lab: Lab, **policy: Any) -> None:
        await lab.pool("cloud", 1, policy=Policy(default_duration=timedelta(hours=1), **policy))
        await lab.take("a", pool="cloud")

    async def end(self, lab: Lab) -> timedelta:
        ends = (await lab.lease("a")).expires_at
        assert ends is not None
        return ends - NINE

    async def test_it_lasts_from_its_delivery_as_long_as_the_pool_lends_by_default(self, lab: Lab) -> None:
        await self.names(lab)
        await lab.pool("r640", 3, policy=Policy(default_duration=timedelta(days=5)))
        lab.clock.forward(minutes=30)
        for number in range(3):
            standing = await lab.add("a", lasting=True, request=f"{number}.")
            assert standing.held is not None
            assert standing.held.left_s == (timedelta(days=5) - timedelta(minutes=30)).total_seconds()
        assert await self.end(lab) == timedelta(days=5), "each time anew it would never end"
        assert (await lab.kinds("a")).count("lease_extended") == 1

    async def test_it_never_becomes_shorter(self, lab: Lab) -> None:
        await self.names(lab)
        await lab.pool("r640", 1, policy=Policy(default_duration=timedelta(minutes=5)))
        await lab.add("a", lasting=True)
        assert await self.end(lab) == timedelta(hours=1)

    async def test_the_limits_of_all_its_pools_hold(self, lab: Lab) -> None:
        await self.names(lab, max_total=timedelta(days=2))
        await lab.pool("r640", 1, policy=Policy(default_duration=timedelta(days=5)))
        await lab.add("a", lasting=True)
        assert await self.end(lab) == timedelta(days=2)

    async def test_it_ends_before_what_is_promised_to_others(self, lab: Lab) -> None:
        await self.names(lab)
        await lab.pool("r640", 1, policy=Policy(default_duration=timedelta(days=5)))
        await lab.submit("later", pool="cloud", start_at=NINE + timedelta(hours=3), owner="bob")
        await lab.add("a", lasting=True)
        assert await self.end(lab) <= timedelta(hours=3)

    async def test_what_is_refused_leaves_the_end_where_it_is(self, lab: Lab) -> None:
        await self.names(lab)
        await lab.pool("r640", 1, policy=Policy(default_duration=timedelta(days=5)))
        await lab.take("b")
        assert code(await lab.add("a", lasting=True)) == "not_free"
        assert await self.end(lab) == timedelta(hours=1)

    async def test_it_is_warned_of_its_new_end(self, lab: Lab) -> None:
        await self.names(lab, warn_before=(timedelta(minutes=30),))
        await lab.pool("r640", 1, policy=Policy(default_duration=timedelta(days=5), warn_before=(timedelta(hours=1),)))
        lab.clock.forward(minutes=40)
        await lab.tick()
        await lab.add("a", lasting=True)
        lab.clock.forward(days=5, minutes=-100)
        await lab.tick()
        assert (await lab.kinds("a")).count("lease_expiring") == 2


async def test_what_one_lease_may_have_counts_what_it_has(lab: Lab) -> None:
    await lab.pool("r640", 4, policy=Policy(per_lease=2))
    await lab.take("a")
    standing = await lab.add("a", request="1.")
    assert code(await lab.add("a", request="2.")) == "over_quota"
    await lab.store.activate("a", tuple(claim.held for claim in standing.claims))
    await lab.give_back("a", "host01")
    assert code(await lab.add("a", request="3.")) is None
    assert len(await lab.held("a")) == 2


class TestGivingBack:
    """A part of what a lease has."""

    async def test_it_goes_through_the_stages_after_a_lease_and_the_lease_goes_on(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "release")
        await lab.take("a", Item(pool="r640", count=2))

        standing = await lab.give_back("a", "host01")

        assert (standing.state, [c.resource for c in standing.claims]) == (LeaseState.ACTIVE, ["host02"])
        assert await lab.states() == {"host01": "recycling", "host02": "leased"}
        assert [d.name for d in await lab.store.delivery("a")] == ["host02"]
        kinds = await lab.kinds("a")
        assert "lease_shrunk" in kinds

    async def test_twice_it_is_given_back_once(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "release")
        await lab.take("a", Item(pool="r640", count=2))

        first = await lab.give_back("a", "host01")

        assert await lab.give_back("a", "host01") == first
        assert len(await lab.recycling_of("host01")) == 1
        assert (await lab.kinds("a")).count("lease_shrunk") == 1

    async def test_a_repetition_does_not_take_it_from_its_next_holder(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a", Item(pool="r640", count=2))
        await lab.submit("b")
        await lab.give_back("a", "host01")
        assert await lab.held("b") == ["host01"]

        assert code(await lab.give_back("a", "host01")) is None
        assert await lab.held("b") == ["host01"]

    async def test_the_last_one_is_refused(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")

        assert code(await lab.give_back("a", "host01")) == "last_resource"
        assert await lab.held("a") == ["host01"]

    async def test_the_last_one_that_is_ready_is_refused(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe")
        await lab.take("a")
        new = (await lab.add("a")).claims[1]

        assert code(await lab.give_back("a", "host01")) == "last_resource"

        # Then it still has that when the other fails.
        await lab.report("a", new)
        assert await lab.held("a") == ["host01"]

    async def test_what_is_still_being_prepared_can_be_given_back(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", "release")
        await lab.take("a")
        new = (await lab.add("a")).claims[1]
        await lab.begin("a", new)

        assert code(await lab.give_back("a", "host02")) is None
        assert await lab.states() == {"host01": "leased", "host02": "recycling"}
        assert code(await lab.give_back("a", "host02")) is None

    async def test_what_it_never_had_is_unknown(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a")

        assert code(await lab.give_back("a", "host02")) == "resource_unknown"
        assert code(await lab.give_back("a", "host01", pool="vm")) == "resource_unknown"

    async def test_of_a_lease_that_is_not_active_nothing_is_given_back(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.submit("a", Item(pool="r640", count=2))
        assert code(await lab.give_back("a", "host01")) == "lease_not_active"
        await lab.store.activate("a")
        await lab.close("a")
        assert code(await lab.give_back("a", "host01")) == "lease_not_active"

    async def test_what_was_given_back_can_be_added_again(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a", Item(pool="r640", count=2))
        await lab.give_back("a", "host01")

        standing = await lab.add("a", Item(pool="r640", names=("host01",)))

        assert sorted(c.resource for c in standing.claims) == ["host01", "host02"]
        assert [r.state for r in (await lab.lease("a")).resources] == ["released", "ready", "preparing"]

    async def test_hooks_are_told_of_what_the_lease_has_and_of_their_own(self, lab: Lab) -> None:
        await lab.pool("r640", 3, "wipe", "release")
        await lab.take("a", Item(pool="r640", count=2))
        await lab.give_back("a", "host01")
        new = (await lab.add("a")).claims[1]
        gone = await lab.recycling("host01")

        async def told(claim: Claim) -> list[str]:
            brief = await lab.store.brief(run_of("a", claim, claim.stages[0]))
            return [resource["name"] for resource in json.loads(brief.lease_file)["resources"]]

        assert await told(new) == ["host02", "host03"]
        assert await told(gone) == ["host01", "host02", "host03"]
        await lab.store.activate("a", (new.held,))
        await lab.close("a")
        assert await told(await lab.recycling("host02")) == ["host01", "host02", "host03"]


async def test_an_addition_that_says_nothing_to_tell_it_by_counts_each_time(lab: Lab) -> None:
    await lab.pool("r640", 3)
    await lab.take("a")
    for _ in range(2):
        await lab.store.add("a", AddResources(items=(Item(pool="r640"),), actor="temporal"))
    assert len(await lab.held("a")) == 3


async def test_delivery_of_more_names_only_what_the_lease_has_at_that_epoch(lab: Lab) -> None:
    await lab.pool("r640", 2, "wipe")
    await lab.take("a")
    new = (await lab.add("a")).claims[1]

    await lab.store.activate("a", (HeldResource(pool="r640", resource="host02", epoch=new.epoch - 1),))

    assert (await lab.lease("a")).resources[1].state == "preparing"
