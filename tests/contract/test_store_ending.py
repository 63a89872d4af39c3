"""Ending a lease: in every state, twice, on time, and what becomes of what it had."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leasehold.errors import IllegalTransition, LeaseUnknown
from leasehold.messages import BrokenResource, CloseLease, Refusal, Tick
from leasehold.model import OVER, Item, LeaseState, Outcome, Policy, StageName
from leasehold.ports import Answer
from leasehold.store import answers
from tests.contract.store_lab import FAILED, Lab, file, hosts, spec


async def test_a_queued_lease_ends_at_once_and_leaves_the_queue(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    await lab.submit("b")
    closed = await lab.close("b", Outcome.CANCELLED, stopped=False)
    assert (closed.state, closed.outcome) == (LeaseState.ENDED, Outcome.CANCELLED)
    lease = await lab.lease("b")
    assert (lease.outcome, lease.ended_at, lease.resources) == (Outcome.CANCELLED, lab.clock.now, ())
    assert await lab.store.queue("r640") == []


async def test_a_preparing_lease_is_rid_of_its_resources_before_its_hooks_have_stopped(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "release")
    (claim,) = (await lab.submit("a")).claims
    await lab.begin("a", claim)
    closed = await lab.close("a", Outcome.CANCELLED, stopped=False)
    assert closed.state is LeaseState.RELEASING
    lease = await lab.lease("a")
    assert (lease.outcome, lease.ended_at, lease.resources[0].state) == (None, None, "released")
    assert await lab.states() == {"host01": "recycling"}
    ended = await lab.store.end_lease("a")
    assert (ended.state, ended.outcome) == (LeaseState.ENDED, Outcome.CANCELLED)
    assert (await lab.lease("a")).ended_at == lab.clock.now


async def test_an_active_lease_ends_in_one_step(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    closed = await lab.close("a")
    assert (closed.state, closed.outcome) == (LeaseState.ENDED, Outcome.RELEASED)
    assert await lab.states() == {"host01": "free"}


@pytest.mark.parametrize("stopped", [True, False])
async def test_ending_twice_changes_nothing_and_the_first_reason_stays(lab: Lab, stopped: bool) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    await lab.close("a", Outcome.RELEASED, stopped=stopped)
    before = await lab.lease("a"), await lab.kinds("a")
    lab.clock.forward(minutes=1)
    again = await lab.close("a", Outcome.CANCELLED, stopped=True)
    assert again.outcome is Outcome.RELEASED
    assert (await lab.lease("a"), await lab.kinds("a")) == before


async def test_ending_a_lease_that_has_ended_changes_nothing(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    await lab.close("a")
    before = await lab.lease("a"), await lab.kinds("a")
    lab.clock.forward(minutes=1)
    assert (await lab.store.end_lease("a")).outcome is Outcome.RELEASED
    assert (await lab.lease("a"), await lab.kinds("a")) == before


async def test_a_lease_that_holds_its_resources_cannot_just_end(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    with pytest.raises(IllegalTransition):
        await lab.store.end_lease("a")
    assert await lab.state("a") == "active"


async def test_nobody_ends_what_is_not_there(lab: Lab) -> None:
    with pytest.raises(LeaseUnknown):
        await lab.close("nobody")
    with pytest.raises(LeaseUnknown):
        await lab.store.end_lease("nobody")


async def test_a_cancel_that_races_with_a_grant_closes_the_grant(lab: Lab) -> None:
    # Given a lease that was granted a moment ago, whose workflow, not knowing it yet, cancels it in the queue.
    await lab.pool("r640", 1, "wipe", "release")
    await lab.take("a")
    await lab.submit("b")
    await lab.submit("c")
    await lab.close("a")
    await lab.recycled("a")
    assert await lab.state("b") == "preparing"
    # When it is cancelled, then nothing is left of the grant, and the next one has it.
    await lab.close("b", Outcome.CANCELLED)
    assert (await lab.state("b"), await lab.held("b"), await lab.held("c")) == ("ended", [], ["host01"])


async def test_the_error_of_a_failed_lease_stays_in_its_record(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.submit("a")
    error = Refusal(code="stage_failed", detail="wipe: exit status 3")
    order = CloseLease(lease="a", outcome=Outcome.FAILED, actor="leasehold", stopped=True, error=error)
    await lab.store.close_lease(order)
    lease = await lab.lease("a")
    assert lease.error is not None
    assert (lease.outcome, lease.error.code, lease.error.detail) == (Outcome.FAILED, error.code, error.detail)


class TestExpiry:
    """The database's clock decides when a lease's time is over."""

    async def expire(self, lab: Lab) -> float | None:
        held = await lab.store.tick(Tick(lease="a", stopped=True))
        return None if held.state in OVER else held.left_s

    async def test_before_its_time_it_is_refused_with_what_is_left(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        lab.clock.forward(minutes=9, seconds=59.5)
        assert await self.expire(lab) == 0.5
        assert await lab.state("a") == "active"

    async def test_on_time_it_ends_the_lease(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        lab.clock.forward(minutes=10)
        assert await self.expire(lab) is None
        assert (await lab.lease("a")).outcome is Outcome.EXPIRED

    async def test_an_extension_that_came_first_wins(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        await lab.extend("a", "5m")
        lab.clock.forward(minutes=10)
        assert await self.expire(lab) == 300


class TestAfterwards:
    """What becomes of a resource once its lease is over."""

    async def test_a_pool_without_stages_after_a_lease_has_it_back_at_once(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        await lab.take("a")
        await lab.close("a")
        assert await lab.states() == {"host01": "free"}

    async def test_a_used_resource_goes_through_the_stages_that_the_pool_wants(self, lab: Lab) -> None:
        policy = Policy(on_release=(StageName.RELEASE, StageName.WIPE))
        await lab.pool("r640", 1, "wipe", "release", policy=policy)
        await lab.take("a")
        await lab.close("a")
        assert await lab.states() == {"host01": "recycling"}
        assert [s.stage for s in (await lab.recycling()).stages] == ["release", "wipe"]
        await lab.recycled("a")
        assert await lab.states() == {"host01": "free"}

    async def test_the_stages_are_those_of_the_grant_whatever_the_pool_says_since(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        await lab.pool("r640", 1)
        await lab.close("a")
        assert await lab.states() == {"host01": "recycling"}

    async def test_ended_twice_it_is_recycled_once(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        await lab.close("a")
        await lab.close("a")
        assert len(await lab.recycling_of()) == 1

    async def test_recycling_that_ends_twice_does_not_free_the_next_holders_resource(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        await lab.submit("b")
        await lab.close("a")
        await lab.recycled("a")
        await lab.recycled("a")
        await lab.recycled("a", broken="late news")
        assert (await lab.states(), await lab.held("b")) == ({"host01": "leased"}, ["host01"])

    async def test_what_failed_to_recycle_is_quarantined_with_the_reason(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        await lab.submit("b")
        await lab.close("a")
        await lab.recycled("a", broken="release: exit status 1")
        resource = await lab.store.resource("r640", "host01")
        assert (resource.state, await lab.state("b")) == ("broken", "queued")
        assert resource.broken is not None
        assert (resource.broken.reason, resource.broken.since) == ("release: exit status 1", lab.clock.now)

    async def test_what_failed_to_be_prepared_is_quarantined_and_the_rest_goes_back(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", "release")
        first, second = (await lab.submit("a", Item(pool="r640", count=2))).claims
        await lab.run("a", first, report=FAILED)
        await lab.run("a", second)
        broken = (BrokenResource(pool="r640", resource="host01", epoch=first.epoch, reason="wipe: exit status 3"),)
        order = CloseLease(lease="a", outcome=Outcome.FAILED, actor="leasehold", stopped=True, broken=broken)
        await lab.store.close_lease(order)
        assert await lab.states() == {"host01": "broken", "host02": "recycling"}

    async def test_what_left_its_file_meanwhile_is_gone_with_its_pool(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "release")
        await lab.take("a")
        await lab.store.apply(file(name="r640"), "operator")
        assert (await lab.states(), (await lab.store.pools("r640"))[0].draining) == ({"host01": "leased"}, True)
        await lab.close("a")
        await lab.recycled("a")
        assert await lab.store.pools() == []
        assert (await lab.lease("a")).resources[0].name == "host01"

    async def test_what_breaks_after_it_left_its_file_is_gone_too(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("r640", "release"), hosts(2))), "operator")
        await lab.take("a")
        await lab.store.apply(file((spec("r640", "release"), hosts(1, first=2))), "operator")
        await lab.close("a")
        await lab.recycled("a", broken="release: exit status 1")
        assert await lab.states() == {"host02": "free"}


class TestExtending:
    """More time, as far as the policy of every pool allows."""

    async def ends(self, lab: Lab) -> timedelta:
        """How long the lease is from its delivery."""
        lease = await lab.lease("a")
        assert lease.expires_at is not None
        assert lease.active_at is not None
        return lease.expires_at - lease.active_at

    async def refused(self, lab: Lab, by: str) -> str:
        held = await lab.extend("a", by)
        assert held.refusal is not None
        return held.refusal.code

    async def test_by_a_duration_adds_to_the_end(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        lab.clock.forward(minutes=4)
        held = await lab.extend("a", "5m")
        assert (await self.ends(lab), held.left_s) == (timedelta(minutes=15), 660.0)

    async def test_until_a_time_may_also_bring_the_end_nearer(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        for minutes in (30, 2):
            held = await lab.extend("a", until=lab.clock.now + timedelta(minutes=minutes))
            assert held.left_s == 60 * minutes

    async def test_not_into_the_past(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        held = await lab.extend("a", until=lab.clock.now)
        assert held.refusal is not None
        assert held.refusal.code == "invalid"

    async def test_run_twice_it_counts_once(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        first = await lab.extend("a", "5m", request="one")
        assert await lab.extend("a", "5m", request="one") == first
        assert await self.ends(lab) == timedelta(minutes=15)
        await lab.extend("a", "5m", request="two")
        assert await self.ends(lab) == timedelta(minutes=20)

    async def test_a_repetition_counts_once_however_many_came_in_between(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        for request in ("one", "two", "three", "two", "one"):
            held = await lab.extend("a", "5m", request=request)
            assert held.refusal is None
        assert held.left_s == 25 * 60
        assert await self.ends(lab) == timedelta(minutes=25)

    async def test_a_refusal_is_repeated_even_when_it_would_be_allowed_by_now(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(max_duration=timedelta(hours=2)))
        await lab.take("a", duration="2h")
        first = await lab.extend("a", "30m", request="one")
        lab.clock.forward(hours=1)
        assert await lab.extend("a", "30m", request="one") == first
        assert first.refusal is not None
        assert (await lab.extend("a", "30m", request="two")).refusal is None

    async def test_a_key_of_another_call_is_refused_however_long_ago_it_was(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        for request in ("key.5m", "other.5m"):
            await lab.extend("a", "5m", request=request)
        held = await lab.extend("a", "7m", request="key.7m")
        assert held.refusal is not None
        assert held.refusal.code == "idempotency_key_reused"
        assert await self.ends(lab) == timedelta(minutes=20)

    async def test_a_key_is_for_one_lease(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        for lease in ("a", "b"):
            await lab.take(lease, duration="10m")
            assert (await lab.extend(lease, "5m", request="one")).left_s == 15 * 60

    async def test_what_was_answered_is_known_when_the_lease_is_over(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        await lab.extend("a", "5m", request="one")
        await lab.close("a")
        assert await lab.store.answered("a", "one") == Answer(refusal=None)
        assert await lab.store.answered("a", "two") is None
        assert (await lab.extend("a", "5m", request="one")).refusal is not None

    async def test_what_cannot_be_done_for_now_may_be_tried_again(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        refusal = Refusal(code="unavailable", detail="not now")
        await lab.store.database.write(answers.keep, "a", "one", refusal)
        assert await lab.store.answered("a", "one") is None
        assert (await lab.extend("a", "5m", request="one")).refusal is None

    @pytest.mark.parametrize("request_", ["x" * 100_000, "a\0b", "\ud800", ".", "..", "🔑.🔑"])
    async def test_a_signal_may_bring_any_text_as_its_key(self, lab: Lab, request_: str) -> None:
        await lab.pool("r640", 1)
        await lab.take("a", duration="10m")
        for _ in range(2):
            assert (await lab.extend("a", "5m", request=request_)).left_s == 15 * 60

    async def test_no_more_may_be_left_than_max_duration(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(max_duration=timedelta(hours=2)))
        await lab.take("a", duration="2h")
        assert await self.refused(lab, "1s") == "duration_refused"
        lab.clock.forward(minutes=30)
        assert (await lab.extend("a", "30m")).refusal is None
        assert await self.ends(lab) == timedelta(hours=2, minutes=30)

    async def test_no_longer_in_all_than_max_total(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(max_total=timedelta(hours=2)))
        await lab.take("a", duration="1h")
        lab.clock.forward(minutes=50)
        assert await self.refused(lab, "61m") == "duration_refused"
        assert (await lab.extend("a", "1h")).refusal is None

    async def test_the_strictest_pool_decides(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(max_total=timedelta(hours=5)))
        await lab.pool("vm", 1, policy=Policy(max_total=timedelta(hours=2)))
        await lab.take("a", Item(pool="r640"), Item(pool="vm"), duration="1h")
        assert await self.refused(lab, "2h") == "duration_refused"

    async def test_a_refused_extension_changes_nothing(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(max_total=timedelta(hours=2)))
        await lab.take("a", duration="1h")
        before = await lab.lease("a"), await lab.kinds("a")
        await self.refused(lab, "3h")
        assert (await lab.lease("a"), await lab.kinds("a")) == before

    async def test_only_an_active_lease_can_be_extended(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.submit("a")
        assert await self.refused(lab, "1h") == "lease_not_active"
        await lab.store.activate("a")
        await lab.close("a")
        assert await self.refused(lab, "1h") == "lease_not_active"


async def test_delivery_twice_does_not_give_more_time(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a", duration="10m")
    lab.clock.forward(minutes=3)
    held = await lab.store.activate("a")
    assert held.left_s == 420
    assert await lab.kinds("a") == ["lease_preparing", "resource_leased", "lease_active"]


@pytest.mark.parametrize("stopped", [True, False])
async def test_a_lease_that_was_ended_meanwhile_is_not_delivered(lab: Lab, stopped: bool) -> None:
    await lab.pool("r640", 1, "wipe", "release")
    (claim,) = (await lab.submit("a")).claims
    await lab.run("a", claim)
    await lab.close("a", Outcome.CANCELLED, stopped=stopped)
    before = await lab.lease("a")
    held = await lab.store.activate("a")
    assert (held.state, held.expires_at) == (before.state, None)
    assert await lab.lease("a") == before


async def test_a_lease_that_waits_cannot_be_delivered(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")
    await lab.submit("b")
    with pytest.raises(IllegalTransition):
        await lab.store.activate("b")
