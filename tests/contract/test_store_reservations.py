"""Reservations: promised or refused, kept whatever comes between, and others served before them if they end in time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from leasehold.messages import Admitted
from leasehold.model import Item, LeaseState, Outcome, Policy, Quota, ResourceSpec
from leasehold.ports import ResourceFilter
from tests.contract.store_lab import HOST, NINE, OK, Lab, file, hosts, run_of, spec

TEN, ELEVEN, NOON = (NINE + timedelta(hours=n) for n in (1, 2, 3))
ONE, TWO, THREE = (Item(pool="r640", count=n) for n in (1, 2, 3))


async def reserve(lab: Lab, lease: str, *items: Item, at: datetime = TEN, lasts: str = "1h", **asked: Any) -> Admitted:
    """Reserve one host, or what else is said, from ten to eleven if not said otherwise."""
    return await lab.submit(lease, *items, start_at=at, duration=lasts, **asked)


async def refused(lab: Lab, lease: str, *items: Item, at: datetime = TEN, lasts: str = "1h") -> str:
    """Why a reservation is refused."""
    refusal = (await reserve(lab, lease, *items, at=at, lasts=lasts)).refusal
    assert refusal is not None
    return f"{refusal.code}: {refusal.detail}"


async def begin(lab: Lab, lease: str, at: datetime = TEN) -> Admitted:
    """Let the time of a reservation come, and its workflow wake."""
    lab.clock.now = at
    return await lab.store.wake(lease)


class TestPromising:
    async def test_it_waits_for_its_time_and_is_granted_then(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        admitted = await reserve(lab, "later", TWO)
        assert (admitted.state, admitted.wait_s) == (LeaseState.QUEUED, 3600)
        place = (await lab.lease("later")).queue
        assert place is not None
        assert (place.position, place.eta) == (0, TEN)
        assert place.reason == "reserved from 10:00 UTC: r640/host01 and r640/host02"

        granted = await begin(lab, "later")

        assert (granted.state, len(granted.claims)) == (LeaseState.PREPARING, 2)

    async def test_before_its_time_nobody_wakes_it_for_nothing(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await reserve(lab, "later")
        lab.clock.forward(minutes=59)
        still = await lab.store.wake("later")
        assert (still.state, still.wait_s) == (LeaseState.QUEUED, 60)

    async def test_what_cannot_be_promised_is_refused_with_the_earliest_time(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        await reserve(lab, "first", TWO)
        why = await refused(lab, "second", TWO, at=TEN + timedelta(minutes=30))
        assert why == (
            "not_reservable: 2 of r640 cannot be promised from 2026-01-05T10:30:00Z to 2026-01-05T11:30:00Z;"
            " the earliest is 2026-01-05T11:00:00Z"
        )
        assert (await reserve(lab, "third", TWO, at=ELEVEN)).refusal is None
        assert (await reserve(lab, "fourth", ONE, lasts="2h")).refusal is None

    async def test_a_holder_whose_time_is_over_by_then_is_no_obstacle(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder", duration="90m")
        assert "not_reservable" in await refused(lab, "too early")
        assert (await reserve(lab, "later", at=ELEVEN)).refusal is None

    async def test_neither_is_one_that_is_still_being_prepared(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("long", duration="10h")
        await lab.submit("short", duration="10m")
        assert (await reserve(lab, "later")).refusal is None

    async def test_who_waits_already_is_not_passed_by_reserving(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder", duration="1h")
        await lab.submit("waiting", duration="2h")
        assert "the earliest is 2026-01-05T12:00:00Z" in await refused(lab, "sly", at=TEN)
        assert (await reserve(lab, "fair", at=NOON)).refusal is None

    async def test_what_is_broken_or_offline_is_not_promised(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.store.offline("r640", "host01", "moved", "operator")
        assert "not_reservable" in await refused(lab, "two", TWO)
        await reserve(lab, "one")
        assert "host02" in await lab.reason("one")

    async def test_more_than_there_is_is_an_error_of_its_own(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        assert "unsatisfiable" in await refused(lab, "three", THREE)

    async def test_more_than_a_quota_will_ever_allow_is_refused(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(per_owner=Quota(resources=1)))
        assert "over_quota" in await refused(lab, "two", TWO)

    @pytest.mark.parametrize("at", [NINE - timedelta(minutes=6), NINE + timedelta(days=366)])
    async def test_a_time_that_is_past_or_too_far_away_is_refused(self, lab: Lab, at: datetime) -> None:
        await lab.pool("r640", 1)
        refusal = (await reserve(lab, "never", at=at)).refusal
        assert refusal is not None
        assert [(fault.path, fault.code) for fault in refusal.faults] == [("start_at", "out_of_range")]

    async def test_one_that_comes_a_little_late_begins_at_once(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        assert (await reserve(lab, "late", at=NINE - timedelta(minutes=1))).state is LeaseState.PREPARING

    async def test_asked_again_it_is_answered_alike(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        first = await reserve(lab, "later")
        assert await reserve(lab, "later") == first
        assert "not_reservable" in await refused(lab, "other")
        assert "not_reservable" in await refused(lab, "other")


class TestBackfill:
    async def test_others_may_use_it_before_if_they_end_in_time(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await reserve(lab, "later")
        assert (await lab.submit("too long", duration="61m")).state is LeaseState.QUEUED
        assert "1 promised to lease 1 from 10:00 UTC" in await lab.reason("too long")
        assert (await lab.submit("short", duration="1h")).state is LeaseState.PREPARING

    async def test_a_short_one_passes_a_long_one_of_the_same_owner(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder", duration="10m")
        await reserve(lab, "later")
        await lab.submit("long", duration="2h")
        await lab.submit("longer", duration="3h")
        await lab.submit("short", duration="20m")
        await lab.submit("shorter", duration="10m")
        await lab.close("holder")
        assert [await lab.state(x) for x in ("long", "longer", "short", "shorter")] == [
            "queued",
            "queued",
            "preparing",
            "queued",
        ]

    async def test_the_time_that_stages_have_taken_is_counted(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "release")
        (claim,) = (await lab.submit("first")).claims
        order = run_of("first", claim, claim.stages[0])
        begun = await lab.store.begin_run(order, HOST)
        lab.clock.forward(minutes=20)
        await lab.store.finish_run(order, begun.run, OK, None)
        await lab.close("first")
        await lab.recycled("first")
        await reserve(lab, "later", at=lab.clock.now + timedelta(hours=1))
        assert (await lab.submit("45 minutes", duration="45m")).state is LeaseState.QUEUED
        assert (await lab.submit("40 minutes", duration="40m")).state is LeaseState.PREPARING

    async def test_an_extension_stops_at_a_promise(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("holder", duration="30m")
        await reserve(lab, "later")
        refusal = (await lab.extend("holder", "31m")).refusal
        assert refusal is not None
        assert (refusal.code, refusal.detail) == (
            "extension_refused",
            "r640/host01 is promised to lease 2 from 2026-01-05T10:00:00Z",
        )
        assert (await lab.extend("holder", "30m")).expires_at == TEN

    async def test_an_automatic_extension_stops_at_a_promise(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(auto_extend=timedelta(hours=1), grace=None))
        await lab.take("holder", duration="30m")
        await reserve(lab, "later")
        lab.clock.forward(minutes=30)
        assert (await lab.tick("holder")).expires_at == TEN

    async def test_a_reservation_for_later_is_no_claim_on_what_is_held_now(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(extend="while_unclaimed"))  # type: ignore[arg-type]
        await lab.take("holder", duration="30m")
        await reserve(lab, "later", at=NOON)
        assert (await lab.extend("holder", "30m")).refusal is None

    async def test_an_active_lease_is_not_given_what_is_promised(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("holder", duration="2h")
        await reserve(lab, "later")
        refusal = (await lab.add("holder")).refusal
        assert refusal is not None
        assert refusal.code == "not_free"


class TestKeeping:
    async def test_when_its_time_has_come_it_goes_before_everybody(self, lab: Lab) -> None:
        await lab.pool("r640", 1, policy=Policy(starve_after=timedelta(minutes=1)))
        await reserve(lab, "later")
        await lab.submit("urgent", duration="2h", priority=9)
        assert (await begin(lab, "later")).state is LeaseState.PREPARING
        assert await lab.state("urgent") == "queued"

    async def test_a_newcomer_at_that_very_moment_comes_after_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await reserve(lab, "later")
        lab.clock.now = TEN
        assert (await lab.submit("newcomer", duration="1h")).state is LeaseState.QUEUED
        assert await lab.state("later") == "preparing"
        assert await lab.signalled() == ["later"]

    async def test_what_breaks_before_its_time_is_replaced(self, lab: Lab) -> None:
        await lab.pool("r640", 3, policy=Policy(on_failure="fail"))  # type: ignore[arg-type]
        await lab.submit("long", Item(pool="r640", names=("host03",)), duration="5h")
        (claim,) = (await lab.submit("first", Item(pool="r640", names=("host01",)), duration="10m")).claims
        await reserve(lab, "later", TWO)
        await lab.close("long", Outcome.CANCELLED)
        assert "host01 and r640/host02" in await lab.reason("later")
        await lab.report("first", claim)
        assert "host02 and r640/host03" in await lab.reason("later")
        assert "lease_promised" in await lab.kinds("later")
        assert (await begin(lab, "later")).claims

    async def test_what_goes_offline_before_its_time_is_replaced(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await reserve(lab, "later")
        await lab.store.offline("r640", "host01", "moved", "operator")
        assert "host02" in await lab.reason("later")

    async def test_where_a_holder_is_late_it_takes_another(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", "release")
        only = Item(pool="r640", names=("host01",))
        await lab.take("holder", only, duration="1h")
        await lab.take("other", duration="3h")
        await reserve(lab, "later")
        lab.clock.now = TEN
        await lab.close("holder")
        assert (await lab.store.wake("later")).state is LeaseState.QUEUED
        await lab.close("other")
        await lab.recycled("other", "host02")
        assert await lab.held("later") == ["host02"]

    async def test_what_was_promised_to_one_that_took_another_is_free_for_others(self, lab: Lab) -> None:
        special = ResourceSpec(name="special", tags=("gpu",))
        await lab.store.apply(file((spec("r640", "validate"), [special, *hosts(1)])), "operator")
        await lab.take("holder", Item(pool="r640", names=("host01",)), duration="2h")
        await reserve(lab, "later")
        assert "special" in await lab.reason("later")
        await lab.submit("long", duration="3h")
        await lab.store.pause("r640", "new switch", "operator")
        lab.clock.now = TEN
        await lab.close("holder")
        await lab.store.resume("r640", "operator")
        assert [await lab.held(lease) for lease in ("later", "long")] == [["host01"], ["special"]]

    async def test_cancelled_it_promises_nothing_any_more(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await reserve(lab, "later")
        await lab.submit("long", duration="5h")
        await lab.close("later", Outcome.CANCELLED)
        assert await lab.state("long") == "preparing"

    async def test_reservations_one_after_another_share_a_host(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        for n, at in enumerate((TEN, ELEVEN, NOON)):
            assert (await reserve(lab, f"later{n}", at=at)).refusal is None
        for n, at in enumerate((TEN, ELEVEN, NOON)):
            assert (await begin(lab, f"later{n}", at)).state is LeaseState.PREPARING
            await lab.store.activate(f"later{n}")
            await lab.close(f"later{n}")

    async def test_its_hosts_come_from_several_pools(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("a", "validate"), hosts(1)), (spec("b", "validate"), hosts(2))), "operator")
        await reserve(lab, "later", Item(pool="a"), Item(count=2))
        assert (await lab.submit("long", Item(), duration="2h")).state is LeaseState.QUEUED
        assert len((await begin(lab, "later")).claims) == 3


class TestSeeing:
    async def test_what_is_promised_soon_is_not_available(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await reserve(lab, "later", at=NINE + timedelta(minutes=30))
        usual = await lab.store.available(ResourceFilter(pool="r640"))
        assert (usual.free, [r.name for r in usual.resources], usual.total) == (1, ["host02"], 2)
        (promise,) = usual.promised
        assert (promise.lease, promise.name, promise.begins_at) == (1, "host01", NINE + timedelta(minutes=30))
        assert promise.ends_at == NINE + timedelta(minutes=90)
        short = await lab.store.available(ResourceFilter(pool="r640"), timedelta(minutes=20))
        assert (short.free, short.promised) == (2, ())

    async def test_it_stands_in_the_queue_behind_those_who_wait(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await reserve(lab, "noon", at=NOON)
        await reserve(lab, "ten")
        await lab.submit("long", duration="5h")
        assert [lease.id for lease in await lab.store.queue("r640")] == ["long", "ten", "noon"]
        assert [lease.id for lease in await lab.store.queue("r640", 1, 1)] == ["ten"]
        assert (await lab.lease("ten")).start_at == TEN

    async def test_its_events_tell_what_was_promised(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await reserve(lab, "later")
        (event,) = await lab.events("later")
        assert (event.kind, event.reason) == ("lease_reserved", "reserved from 2026-01-05T10:00:00Z")
        assert event.data == {"number": 1, "resources": ["r640/host01"]}
