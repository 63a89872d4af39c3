"""Leaving out the wipe: only where nobody else can have left anything on the resource."""

from __future__ import annotations

from typing import Any

from leasehold.messages import Transfer
from leasehold.model import Item, Outcome, StageName
from tests.contract.store_lab import Lab

AGAIN = Item(pool="r640", skip=(StageName.WIPE,))


async def is_wiped(lab: Lab, lease: str, principal: str = "alice-token", **asked: Any) -> bool:
    """Whether a new lease, which wants no wipe, gets one all the same."""
    (claim,) = (await lab.submit(lease, AGAIN, principal=principal, **asked)).claims
    return "wipe" in [planned.stage for planned in claim.stages]


async def test_who_had_it_last_finds_it_as_it_was_left(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "validate")
    await lab.take("a")
    await lab.close("a")

    assert not await is_wiped(lab, "b")


async def test_the_first_to_have_it_has_it_wiped(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "validate")

    assert await is_wiped(lab, "a")


async def test_who_comes_after_somebody_else_has_it_wiped(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "validate")
    for lease, principal in (("a", "alice-token"), ("b", "bob-token")):
        await lab.take(lease, principal=principal)
        await lab.close(lease)

    assert await is_wiped(lab, "c")


async def test_who_gave_up_before_the_wipe_was_through_has_not_got_rid_of_what_was_there(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "validate")
    await lab.take("a", principal="bob-token")
    await lab.close("a")
    await lab.submit("b")
    await lab.close("b", Outcome.CANCELLED)

    assert await is_wiped(lab, "c")


async def test_who_handed_it_on_has_it_wiped_of_what_the_next_one_left(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "validate")
    await lab.take("a")
    await lab.store.transfer(Transfer(lease="a", owner="bob", actor="operator"))
    await lab.close("a")

    assert await is_wiped(lab, "b")


async def test_who_says_no_more_than_a_name_has_it_wiped(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "validate")
    await lab.take("a", principal="anonymous:alice", unverified=True)
    await lab.close("a")

    assert await is_wiped(lab, "b", "anonymous:alice", unverified=True)


async def test_who_is_given_a_lease_that_waits_gets_nothing_that_its_giver_left(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe", "validate")
    await lab.take("a")
    await lab.submit("b", AGAIN)
    await lab.store.transfer(Transfer(lease="b", owner="bob", actor="operator"))
    await lab.close("a")

    (claim,) = (await lab.store.standing("b")).claims
    assert "wipe" in [planned.stage for planned in claim.stages]


async def test_who_only_said_a_name_and_is_confirmed_gets_another_token(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a", unverified=True)
    confirmed = await lab.store.transfer(Transfer(lease="a", owner="alice", actor="operator"))
    assert confirmed.transfers == 1
    assert not (await lab.lease("a")).unverified
