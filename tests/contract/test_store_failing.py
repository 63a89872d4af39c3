"""What becomes of a lease whose resources fail, when the step that reports it runs twice."""

from __future__ import annotations

import pytest

from leasehold.messages import Admitted, Blocked, BrokenInLease, BrokenResource, Claim
from leasehold.model import LeaseState, OnFailure, Policy
from tests.contract.store_lab import FAILED, Lab


async def reported(lab: Lab, claim: Claim) -> Admitted:
    broken = BrokenResource(pool=claim.pool, resource=claim.resource, epoch=claim.epoch, reason="wipe failed")
    return await lab.store.report_broken(BrokenInLease(lease="a", broken=(broken,)))


async def failed(lab: Lab, count: int, policy: Policy) -> Claim:
    await lab.pool("r640", count, "wipe", policy=policy)
    (claim,) = (await lab.submit("a")).claims
    await lab.run("a", claim, report=FAILED)
    return claim


@pytest.mark.parametrize("policy", [Policy(), Policy(on_failure=OnFailure.FAIL), Policy(replacements=0)])
async def test_a_lease_that_cannot_go_on_is_told_so_twice(lab: Lab, policy: Policy) -> None:
    claim = await failed(lab, 1, policy)
    first = await reported(lab, claim)
    assert first.refusal is not None
    assert (first.refusal.code, "r640/host01: wipe failed" in first.refusal.detail) == ("stage_failed", True)
    assert await reported(lab, claim) == first


async def test_a_resource_that_waits_for_its_repair_is_put_into_quarantine_once(lab: Lab) -> None:
    claim = await failed(lab, 1, Policy(on_failure=OnFailure.HOLD))
    first = await reported(lab, claim)
    events = await lab.kinds("a")
    assert (await reported(lab, claim)).missing == first.missing == 1
    assert (await lab.states(), await lab.kinds("a")) == ({"host01": "broken"}, events)


async def test_a_resource_is_replaced_once(lab: Lab) -> None:
    claim = await failed(lab, 2, Policy())
    first, again = await reported(lab, claim), await reported(lab, claim)
    assert [c.resource for c in first.claims] == [c.resource for c in again.claims] == ["host02"]
    assert (again.state, again.missing) == (LeaseState.PREPARING, 0)


async def test_what_is_prepared_ahead_has_no_lease_to_show_what_it_waits_for(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe")
    await lab.store.show_blocked(Blocked(lease="", pool="r640", resource="host01", reason="no worker"))
    assert await lab.store.events() == [e for e in await lab.store.events() if e.kind != "lease_blocked"]
