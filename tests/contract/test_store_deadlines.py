"""What is due while a lease is held: warnings, extension by policy, grace, and its end; by the database's clock."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leasehold.messages import Held
from leasehold.model import Extend, Item, LeaseState, Outcome, Policy
from tests.contract.store_lab import Lab

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


async def again(lab: Lab) -> Held:
    """Do what is due, twice: as where a worker died before it could note the answer."""
    held = await lab.tick()
    assert await lab.tick() == held
    return held


def code(held: Held) -> str | None:
    return held.refusal.code if held.refusal else None


class TestWarnings:
    """Once for each time that the policy names."""

    async def test_each_is_given_once_when_it_is_due(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(warn_before=(HOUR, 10 * MINUTE)))
        await lab.take("a", duration="2h")
        first = await again(lab)
        assert first.left_s == 3600, "then the first warning is due"
        assert "lease_expiring" not in await lab.kinds("a")

        lab.clock.forward(hours=1)
        assert (await again(lab)).left_s == 50 * 60
        lab.clock.forward(minutes=50)
        assert (await again(lab)).left_s == 10 * 60

        told = [e.data for e in await lab.events("a") if e.kind == "lease_expiring"]
        assert [about["left_s"] for about in told] == [3600, 600]
        assert {about["expires_at"] for about in told} == {"2026-01-05T11:00:00+00:00"}

    async def test_several_that_were_missed_are_one(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(warn_before=(HOUR, 10 * MINUTE)))
        await lab.take("a", duration="2h")
        lab.clock.forward(minutes=115)

        await again(lab)

        assert [e.data["left_s"] for e in await lab.events("a") if e.kind == "lease_expiring"] == [300]

    async def test_what_was_due_before_delivery_is_not_given(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(warn_before=(HOUR,)))
        await lab.take("a", duration="30m")

        assert (await again(lab)).left_s == 1800
        assert "lease_expiring" not in await lab.kinds("a")

    async def test_an_end_that_comes_nearer_is_warned_of_no_more_than_is_true(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(warn_before=(HOUR, 10 * MINUTE)))
        await lab.take("a", duration="5h")
        held = await lab.extend("a", until=lab.clock.now + 30 * MINUTE)
        assert held.left_s == 20 * 60, "the warning ten minutes before"

        lab.clock.forward(minutes=20)
        await again(lab)
        await lab.extend("a", "3h")

        lab.clock.forward(hours=2, minutes=10)
        await again(lab)
        assert [e.data["left_s"] for e in await lab.events("a") if e.kind == "lease_expiring"] == [600, 3600]

    async def test_all_pools_warn(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(warn_before=(HOUR,)))
        await lab.pool("vm", 1, policy=Policy(warn_before=(2 * HOUR, HOUR)))
        await lab.take("a", Item(pool="r640"), Item(pool="vm"), duration="3h")

        for _ in range(2):
            lab.clock.forward(hours=1)
            await again(lab)

        assert (await lab.kinds("a")).count("lease_expiring") == 2


class TestGrace:
    """Expired, and revived or not."""

    async def test_it_begins_once_and_ends_the_lease_when_it_is_over(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release", policy=Policy(grace=2 * HOUR))
        await lab.take("a", duration="1h")
        lab.clock.forward(hours=1)

        held = await again(lab)

        assert (held.state, held.left_s) == (LeaseState.ACTIVE, 7200)
        assert (await lab.kinds("a")).count("lease_grace") == 1
        lease = await lab.lease("a")
        assert (lease.in_grace, lease.state) == (True, LeaseState.ACTIVE)
        assert await lab.states() == {"host01": "leased"}
        lab.clock.forward(hours=2)
        over = await again(lab)
        assert (over.state, over.outcome) == (LeaseState.ENDED, Outcome.EXPIRED)
        assert (await lab.lease("a")).in_grace is False
        assert await lab.states() == {"host01": "recycling"}

    async def test_it_counts_from_the_end_even_if_nobody_looked_for_a_while(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(grace=2 * HOUR))
        await lab.take("a", duration="1h")
        lab.clock.forward(hours=2)
        assert (await again(lab)).left_s == 3600

    async def test_one_that_nobody_looked_at_until_after_its_grace_has_expired(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(grace=2 * HOUR))
        await lab.take("a", duration="1h")
        lab.clock.forward(hours=3)
        assert (await again(lab)).outcome is Outcome.EXPIRED

    async def test_an_extension_revives_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(grace=2 * HOUR, warn_before=(HOUR,)))
        await lab.take("a", duration="1h")
        lab.clock.forward(hours=2)
        await again(lab)
        assert code(await lab.extend("a", "30m")) == "invalid", "that would not even reach to now"

        held = await lab.extend("a", "4h")

        lease = await lab.lease("a")
        assert (code(held), lease.in_grace) == (None, False)
        assert held.left_s == 2 * 3600, "then it is warned again"

    async def test_the_shortest_of_its_pools_counts_and_none_where_one_gives_none(self, lab: Lab) -> None:
        await lab.pool("long", 2, policy=Policy(grace=2 * HOUR))
        await lab.pool("short", 1, policy=Policy(grace=HOUR))
        await lab.pool("none", 1)
        await lab.take("a", Item(pool="long"), Item(pool="short"), duration="1h")
        await lab.take("b", Item(pool="long"), Item(pool="none"), duration="1h")
        lab.clock.forward(hours=1)

        assert (await lab.tick("a")).left_s == 3600
        assert (await lab.tick("b")).outcome is Outcome.EXPIRED


class TestAutomaticExtension:
    """A lease goes on by itself while nobody waits for what it has."""

    async def test_each_time_by_the_step_and_once(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(auto_extend=HOUR))
        await lab.take("a", duration="2h")

        for minutes in (119, 59):
            lab.clock.forward(minutes=minutes)
            assert (await again(lab)).left_s == 60
            lab.clock.forward(minutes=1)
            assert (await again(lab)).left_s == 3600

        assert [e.actor for e in await lab.events("a") if e.kind == "lease_extended"] == ["policy"] * 2

    @pytest.mark.parametrize("limit", ["max_duration", "max_total"])
    async def test_no_further_than_the_limits_allow(self, lab: Lab, limit: str) -> None:
        policy = {
            "max_duration": Policy(auto_extend=2 * HOUR, max_duration=HOUR),
            "max_total": Policy(auto_extend=2 * HOUR, max_total=2 * HOUR),
        }[limit]
        await lab.pool("r640", 1, policy=policy)
        await lab.take("a", duration="1h")
        lab.clock.forward(hours=1)

        assert (await again(lab)).left_s == 3600

    async def test_not_while_somebody_waits_for_what_it_has(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(auto_extend=HOUR))
        await lab.take("a", duration="1h")
        await lab.submit("b", Item(pool="r640", count=2))
        lab.clock.forward(hours=1)

        assert (await again(lab)).outcome is Outcome.EXPIRED
        assert await lab.state("b") == "preparing"

    async def test_others_that_wait_for_something_else_are_no_reason(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(auto_extend=HOUR))
        await lab.take("a", duration="1h")
        await lab.submit("b")
        await lab.submit("c", Item(pool="r640", names=("host02",)))
        lab.clock.forward(hours=1)

        assert (await again(lab)).state is LeaseState.ACTIVE

    async def test_not_where_one_of_its_pools_does_not(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(auto_extend=HOUR))
        await lab.pool("vm", 1)
        await lab.take("a", Item(pool="r640"), Item(pool="vm"), duration="1h")
        lab.clock.forward(hours=1)

        assert (await again(lab)).outcome is Outcome.EXPIRED

    async def test_grace_comes_after_the_last_extension(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(auto_extend=HOUR, max_total=2 * HOUR, grace=HOUR))
        await lab.take("a", duration="1h")
        lab.clock.forward(hours=1)
        await again(lab)
        lab.clock.forward(hours=1)

        assert (await again(lab)).left_s == 3600
        assert (await lab.lease("a")).in_grace


class TestWillsOfThePools:
    """Who may extend."""

    async def test_never_means_no_longer_but_shorter_is_allowed(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(extend=Extend.NEVER))
        await lab.take("a", duration="2h")

        assert code(await lab.extend("a", "1h")) == "extension_refused"
        assert code(await lab.extend("a", until=lab.clock.now + HOUR)) is None

    async def test_while_unclaimed_only_as_long_as_nobody_waits(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(extend=Extend.WHILE_UNCLAIMED))
        await lab.take("a", duration="1h")
        assert code(await lab.extend("a", "1h")) is None
        await lab.submit("b")

        assert code(await lab.extend("a", "1h")) == "extension_refused"
        await lab.close("b", Outcome.CANCELLED)
        assert code(await lab.extend("a", "1h")) is None

    async def test_who_waits_for_a_replacement_claims_too(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(extend=Extend.WHILE_UNCLAIMED))
        await lab.take("a", duration="1h")
        (broken,) = (await lab.submit("b")).claims
        await lab.report("b", broken)

        assert code(await lab.extend("a", "1h")) == "extension_refused"

    async def test_the_strictest_pool_decides(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.pool("vm", 1, policy=Policy(extend=Extend.NEVER))
        await lab.take("a", Item(pool="r640"), Item(pool="vm"), duration="1h")

        assert code(await lab.extend("a", "1h")) == "extension_refused"


async def test_nothing_is_due_for_a_lease_that_is_not_active(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.submit("a")
    assert (await again(lab)).state is LeaseState.PREPARING
    await lab.store.activate("a")
    await lab.close("a", Outcome.CANCELLED)
    held = await again(lab)
    assert (held.state, held.outcome) == (LeaseState.ENDED, Outcome.CANCELLED)
