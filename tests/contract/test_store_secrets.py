"""Secrets of requests in the record: which hooks are told them, and until when they are kept."""

from __future__ import annotations

import json
from dataclasses import replace

from leasehold.messages import Claim
from leasehold.model import Policy, Prepare, StageName
from leasehold.ports import Sealed
from tests.contract.command_lab import envelopes
from tests.contract.store_lab import Lab, run_of

SECRETS = {"SITE_KEY": "correct-horse"}


async def told(lab: Lab, lease: str, claim: Claim, stage: StageName) -> dict[str, str]:
    """The secrets that a hook of a stage is told."""
    brief = await lab.store.brief(run_of(lease, claim, next(one for one in claim.stages if one.stage == stage)))
    found: dict[str, str] = json.loads(brief.env["LEASEHOLD_SECRETS"])
    return found


async def taken(lab: Lab, lease: str = "a", digest: str = "mine") -> Claim:
    """What a lease got whose request came with secrets."""
    await lab.store.seal(lease, digest, Sealed(secrets=SECRETS))
    (claim,) = (await lab.submit(lease, digest=digest)).claims
    return claim


async def test_the_hooks_of_its_lease_are_told_before_and_after(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "release")
    claim = await taken(lab)
    assert await told(lab, "a", claim, StageName.WIPE) == SECRETS
    await lab.run("a", claim)
    await lab.close("a")
    assert await told(lab, "a", await lab.recycling(), StageName.RELEASE) == SECRETS


async def test_what_prepares_a_resource_for_the_next_holder_is_told_nothing_of_the_last_one(lab: Lab) -> None:
    await lab.pool("r640", 1, "provision", "release", policy=Policy(prepare=Prepare.AHEAD))
    await lab.recycled_claim(await lab.recycling())
    await taken(lab)
    await lab.close("a")
    after = await lab.recycling()
    assert await told(lab, "a", after, StageName.RELEASE) == SECRETS
    assert await told(lab, "a", after, StageName.PROVISION) == {}
    provision = next(one for one in after.stages if one.stage == StageName.PROVISION)
    brief = await lab.store.brief(run_of("a", after, provision))
    assert (brief.env["LEASEHOLD_LEASE"], brief.env["LEASEHOLD_OWNER"], brief.lease_file) == ("", "", b"{}")
    assert brief.env["LEASEHOLD_RESOURCE"] == "host01"


async def test_what_its_lease_needs_of_one_that_was_prepared_ahead_is_told(lab: Lab) -> None:
    await lab.pool("r640", 1, "configure", policy=Policy(prepare=Prepare.AHEAD))
    ahead = await lab.recycling()
    configure = next(one for one in ahead.stages if one.stage == StageName.CONFIGURE)
    await lab.recycled_claim(ahead)
    claim = await taken(lab)
    of_the_resource = run_of("a", replace(ahead, epoch=claim.epoch), configure)
    # Where its hooks have changed since, and for the whole lease.
    for order in (of_the_resource, replace(of_the_resource, resource="")):
        brief = await lab.store.brief(replace(order, holds=(claim.held,)))
        assert (brief.env["LEASEHOLD_LEASE"], json.loads(brief.env["LEASEHOLD_SECRETS"])) == ("a", SECRETS)


async def test_they_are_kept_while_what_it_had_is_recycled_or_broken(lab: Lab) -> None:
    await lab.pool("r640", 1, "release")
    await taken(lab)
    await lab.close("a")
    await lab.store.prune()
    assert await envelopes(lab) == ["a"]
    await lab.recycled("a", broken="release: exit status 1")
    await lab.store.prune()
    assert await envelopes(lab) == ["a"]
    await lab.store.repair("r640", "host01", "operator")
    assert await told(lab, "a", await lab.recycling(), StageName.RELEASE) == SECRETS
    await lab.recycled("a")
    await lab.store.prune()
    assert await envelopes(lab) == []


async def test_they_are_not_kept_for_what_somebody_else_had_meanwhile(lab: Lab) -> None:
    await lab.pool("r640", 1, "release")
    await taken(lab)
    await lab.close("a")
    await lab.recycled("a")
    await lab.submit("b")
    await lab.close("b")
    await lab.store.prune()
    assert await envelopes(lab) == []


async def test_those_that_came_with_another_request_under_its_id_are_told_nobody_and_not_kept(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe")
    claim = await taken(lab)
    await lab.store.seal("a", "another", Sealed(secrets={"SITE_KEY": "battery"}))
    assert await told(lab, "a", claim, StageName.WIPE) == SECRETS
    assert len(await envelopes(lab)) == 2
    await lab.store.prune()
    assert await envelopes(lab) == ["a"]
    assert await told(lab, "a", claim, StageName.WIPE) == SECRETS
