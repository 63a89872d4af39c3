"""Failing resources in the record: quarantine, replacement and repair, whatever else comes between, and twice over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leasehold.errors import ResourceUnknown
from leasehold.messages import AddResources, Admitted, BrokenInLease, BrokenResource, Claim
from leasehold.model import Item, OnFailure, Outcome, Policy, Prepare, StageName
from tests.contract.store_lab import Lab, file, hosts, spec

HOLD = Policy(on_failure=OnFailure.HOLD)
FAIL = Policy(on_failure=OnFailure.FAIL)


async def report(lab: Lab, lease: str, *claims: Claim, reason: str = "wipe: exit status 1") -> Admitted:
    """Report these of a lease's resources as broken."""
    broken = tuple(BrokenResource(pool=c.pool, resource=c.resource, epoch=c.epoch, reason=reason) for c in claims)
    return await lab.store.report_broken(BrokenInLease(lease=lease, broken=broken))


def over(standing: Admitted) -> bool:
    """Whether a lease does not go on."""
    return standing.refusal is not None or standing.state in {"releasing", "ended"}


@pytest.mark.parametrize("policy", [FAIL, Policy(replacements=0), Policy()], ids=["fail", "too many", "no other"])
async def test_a_lease_that_cannot_go_on_cannot_go_on_when_told_twice(lab: Lab, policy: Policy) -> None:
    # Given a report that is committed, and whose answer is lost with the worker.
    await lab.pool("r640", 2, "wipe", policy=policy)
    admitted = await lab.submit("one", Item(pool="r640", count=2))
    first = await report(lab, "one", admitted.claims[0])
    assert over(first)

    again = await report(lab, "one", admitted.claims[0])

    assert over(again), "it would be delivered with fewer resources than were asked for"
    await lab.close("one", Outcome.FAILED)


async def test_what_waits_for_its_repair_waits_when_told_twice(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", policy=HOLD)
    admitted = await lab.submit("one")
    first = await report(lab, "one", *admitted.claims)

    again = await report(lab, "one", *admitted.claims)

    assert (again.state, again.missing) == (first.state, first.missing) == ("preparing", 1)
    await lab.close("one", Outcome.CANCELLED)


async def test_a_resource_that_left_its_pools_file_and_fails_does_not_hold_its_lease_for_ever(lab: Lab) -> None:
    await lab.pool("r640", 2, "wipe", policy=HOLD)
    admitted = await lab.submit("one", Item(pool="r640", names=("host02",)))
    await lab.pool("r640", 1, "wipe", policy=HOLD)
    await report(lab, "one", *admitted.claims)

    await lab.close("one", Outcome.CANCELLED)

    assert (await lab.store.end_lease("one")).state == "ended"


async def test_one_that_left_its_pools_file_while_its_repair_was_awaited_goes_with_its_lease(lab: Lab) -> None:
    await lab.pool("r640", 2, "wipe", policy=HOLD)
    admitted = await lab.submit("one", Item(pool="r640", names=("host02",)))
    await report(lab, "one", *admitted.claims)
    await lab.pool("r640", 1, "wipe", policy=HOLD)

    await lab.close("one", Outcome.CANCELLED)

    with pytest.raises(ResourceUnknown):
        await lab.store.resource("r640", "host02")


async def test_what_a_lease_used_before_its_repair_is_taken_back_after_it(lab: Lab) -> None:
    # Given a resource that failed in a lease's hands, was repaired for it, and was not touched since.
    await lab.pool("r640", 1, "wipe", "release", policy=HOLD)
    admitted = await lab.submit("one")
    await lab.run("one", admitted.claims[0])
    await report(lab, "one", *admitted.claims)
    await lab.store.repair("r640", "host01", "operator")

    await lab.close("one", Outcome.CANCELLED)

    assert await lab.states() == {"host01": "recycling"}


async def test_a_repaired_resource_is_prepared_from_the_start_where_it_was_prepared_ahead(lab: Lab) -> None:
    policy = Policy(on_failure=OnFailure.HOLD, prepare=Prepare.AHEAD)
    await lab.pool("r640", 1, "wipe", "validate", "deliver", policy=policy)
    await lab.recycled("")
    admitted = await lab.submit("one")
    assert [stage.stage for stage in admitted.claims[0].stages] == ["deliver"]
    await report(lab, "one", *admitted.claims)

    await lab.store.repair("r640", "host01", "operator")

    (claim,) = (await lab.store.standing("one")).claims
    assert [stage.stage for stage in claim.stages] == ["wipe", "validate", "deliver"]
    await lab.close("one", Outcome.CANCELLED)


async def test_an_offline_resource_is_not_prepared_ahead(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe")
    await lab.store.offline("r640", "host01", "being debugged", "operator")

    await lab.pool("r640", 1, "wipe", policy=Policy(prepare=Prepare.AHEAD))

    assert await lab.states() == {"host01": "free"}, "nobody wipes what an operator has put aside"


async def test_a_pool_whose_leases_end_without_all_stages_prepares_nothing_ahead(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "provision", policy=Policy(prepare=Prepare.AHEAD, on_release=(StageName.WIPE,)))

    assert await lab.states() == {"host01": "free"}
    admitted = await lab.submit("one")

    assert [stage.stage for stage in admitted.claims[0].stages] == ["wipe", "provision"]


async def test_a_replacement_from_any_pool_is_found_behind_others_that_wait_for_something_else(lab: Lab) -> None:
    # Given five leases that wait for a kind of resource that is taken, and one behind them that gets another kind.
    await lab.store.apply(file((spec("r640", "wipe"), hosts(1)), (spec("r740", "wipe"), hosts(2, 2))), "operator")
    await lab.submit("holder", Item(pool="r640"))
    for number in range(5):
        await lab.submit(f"waits {number}", Item(names=("host01",)))
    admitted = await lab.submit("one", Item(names=("host02", "host03")))

    standing = await report(lab, "one", *admitted.claims)

    assert [claim.resource for claim in standing.claims] == ["host03"]


async def test_a_lease_gets_nothing_of_a_pool_for_longer_than_that_pool_allows(lab: Lab) -> None:
    await lab.pool("cheap", 1, policy=Policy(max_duration=timedelta(days=5)))
    await lab.pool("dear", 1, policy=Policy(max_duration=timedelta(hours=1), max_total=timedelta(hours=2)))
    await lab.take("one", pool="cheap", duration="5d")

    standing = await lab.store.add("one", AddResources(items=(Item(pool="dear"),), actor="alice", request="more"))

    assert standing.refusal is not None
    assert standing.refusal.code == "duration_refused"


async def test_heartbeats_of_a_refused_request_are_not_expected_for_ever(lab: Lab) -> None:
    # Given a heartbeat that came before any worker admitted the request, which is then refused.
    await lab.pool("r640", 1)
    await lab.store.heartbeat("one", timedelta(seconds=30))
    refused = await lab.submit("one", Item(pool="r640", count=2))
    assert refused.refusal is not None

    lab.clock.forward(minutes=1)

    assert await lab.store.overdue() == []
