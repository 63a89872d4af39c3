"""Limiters: at most so many at once, the oldest lease first, none idle while somebody waits, none kept by the dead."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select

from leasehold.errors import Invalid, OwnedElsewhere
from leasehold.messages import TakeSlot, recycle_id
from leasehold.model import Hook, Inventory, Outcome, PoolSpec, StageName
from leasehold.store import tables as t
from leasehold.store.store import SqlStore
from tests.contract.store_lab import Lab, hosts, spec


def slot(workflow: str, key: str = "run", limiter: str = "foreman") -> TakeSlot:
    return TakeSlot(workflow=workflow, key=key, limiter=limiter)


async def limit(lab: Lab, *, name: str = "limits", **sizes: int) -> None:
    """Apply a file that makes just these limiters."""
    await lab.store.apply(Inventory(name=name, limits=sizes, pools=()), "operator")


async def take(lab: Lab, *workflows: str) -> list[bool]:
    return [(await lab.store.take_slot(slot(workflow))).taken for workflow in workflows]


async def holders(lab: Lab) -> list[str]:
    query = select(t.slots.c.workflow).where(t.slots.c.taken_at.is_not(None)).order_by(t.slots.c.workflow)
    return list(await lab.store.database.read(lambda c: c.execute(query).scalars().all()))


async def test_so_many_at_once_and_the_others_wait(lab: Lab) -> None:
    await limit(lab, foreman=2)
    assert await take(lab, "a", "b", "c", "d") == [True, True, False, False]
    assert await take(lab, "a", "b", "c", "d") == [True, True, False, False], "asked again, nothing has changed"


async def test_who_waits_longest_is_next_and_is_told(lab: Lab) -> None:
    await limit(lab, foreman=1)
    await take(lab, "a", "b", "c")
    for _ in range(2):
        await lab.store.give_slot(slot("a"))
        assert await holders(lab) == ["b"]
    assert await lab.signalled() == ["b"]
    assert await take(lab, "b", "c") == [True, False]


async def test_the_lease_that_was_granted_first_is_next_however_late_it_asks(lab: Lab) -> None:
    await lab.pool("r640", 2)
    await limit(lab, foreman=1)
    await lab.submit("early")
    lab.clock.forward(minutes=1)
    await lab.submit("late")
    await take(lab, "somebody", "late")
    # As after a failure: it has had its slot before, and wants another one.
    lab.clock.forward(minutes=1)
    await take(lab, "early")

    await lab.store.give_slot(slot("somebody"))

    assert await holders(lab) == ["early"]


async def test_of_two_that_were_granted_at_once_the_first_to_be_admitted_is_next(lab: Lab) -> None:
    await lab.pool("r640", 2)
    await limit(lab, foreman=1)
    await lab.submit("first")
    await lab.submit("second")
    await take(lab, "somebody", "second", "first")

    await lab.store.give_slot(slot("somebody"))

    assert await holders(lab) == ["first"]


async def test_what_is_no_new_lease_is_next_by_when_it_asked_and_passed_by_none_that_came_later(lab: Lab) -> None:
    await lab.pool("r640", 3)
    await limit(lab, foreman=1)
    await lab.take("active")
    await lab.submit("before")
    lab.clock.forward(minutes=1)
    await take(lab, "somebody", "recycling", "active")
    lab.clock.forward(minutes=1)
    await lab.submit("after")
    await take(lab, "after", "before")

    served = []
    for last in ("somebody", "before", "recycling", "active"):
        await lab.store.give_slot(slot(last))
        served += await holders(lab)

    assert served == ["before", "recycling", "active", "after"]


async def test_who_asks_is_answered_and_not_signalled(lab: Lab) -> None:
    await limit(lab, foreman=1)
    await take(lab, "a")
    assert await lab.signalled() == []


async def test_the_runs_of_one_workflow_each_need_a_slot(lab: Lab) -> None:
    await limit(lab, foreman=1)
    assert (await lab.store.take_slot(slot("a", "host01/1"))).taken
    assert not (await lab.store.take_slot(slot("a", "host02/1"))).taken
    await lab.store.give_slot(slot("a", "host01/1"))
    assert (await lab.store.take_slot(slot("a", "host02/1"))).taken


async def test_limiters_do_not_know_of_each_other(lab: Lab) -> None:
    await limit(lab, foreman=1, bmc=1)
    await lab.store.take_slot(slot("a"))
    assert (await lab.store.take_slot(slot("b", limiter="bmc"))).taken


async def test_who_stops_waiting_makes_no_room_and_takes_none(lab: Lab) -> None:
    await limit(lab, foreman=1)
    await take(lab, "a", "b", "c")
    await lab.store.give_slot(slot("b"))
    assert await holders(lab) == ["a"]
    await lab.store.give_slot(slot("a"))
    assert await holders(lab) == ["c"]


async def test_giving_back_what_one_never_had_changes_nothing(lab: Lab) -> None:
    await limit(lab, foreman=1)
    await take(lab, "a", "b")
    await lab.store.give_slot(slot("nobody"))
    assert await holders(lab) == ["a"]


async def test_a_lease_that_has_ended_has_none_and_the_next_is_told(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await limit(lab, foreman=1)
    await lab.submit("a")
    await take(lab, "a", "b")
    await lab.close("a", Outcome.CANCELLED, stopped=False)
    assert await holders(lab) == ["a"], "its hook may still be stopping"

    await lab.store.end_lease("a")

    assert await holders(lab) == ["b"]
    assert "b" in await lab.signalled()


async def test_a_recycling_that_is_over_has_none(lab: Lab) -> None:
    await lab.pool("r640", 1, "release")
    await limit(lab, foreman=1)
    await lab.take("a")
    await lab.close("a")
    claim = await lab.recycling()
    await take(lab, recycle_id(claim.pool, claim.resource, claim.epoch), "b")

    await lab.recycled("a")

    assert await holders(lab) == ["b"]


class TestSizes:
    """What a pools file says of them."""

    async def test_more_let_those_who_wait_go_on(self, lab: Lab) -> None:
        await limit(lab, foreman=1)
        await take(lab, "a", "b", "c")
        await limit(lab, foreman=2)
        assert await holders(lab) == ["a", "b"]
        assert await lab.signalled() == ["b"]

    async def test_fewer_take_nothing_from_those_who_have_it(self, lab: Lab) -> None:
        await limit(lab, foreman=2)
        await take(lab, "a", "b", "c")
        await limit(lab, foreman=1)
        await lab.store.give_slot(slot("a"))
        assert await holders(lab) == ["b"]
        await lab.store.give_slot(slot("b"))
        assert await holders(lab) == ["c"]

    async def test_one_that_is_gone_limits_nothing(self, lab: Lab) -> None:
        await limit(lab, foreman=1)
        await take(lab, "a", "b")
        await limit(lab)
        assert await holders(lab) == ["a", "b"]
        assert await take(lab, "c") == [True]

    async def test_one_that_comes_back_counts_those_who_have_it(self, lab: Lab) -> None:
        await limit(lab)
        await take(lab, "a", "b")
        await limit(lab, foreman=1)
        assert await take(lab, "c") == [False]

    async def test_one_belongs_to_the_file_that_made_it(self, lab: Lab) -> None:
        await limit(lab, name="mine", foreman=1)
        with pytest.raises(OwnedElsewhere, match="the limiter foreman was made by the pools file mine"):
            await limit(lab, name="theirs", foreman=9)
        await limit(lab, name="theirs", bmc=1)
        await take(lab, "a", "b")
        assert await holders(lab) == ["a"]

    async def test_a_hook_names_one_that_there_is(self, lab: Lab) -> None:
        def limited(name: str) -> PoolSpec:
            hook = Hook(run="true", limit="foreman")
            return replace(spec(name), stages={StageName.PROVISION: (hook,)})

        file = Inventory(name="pools", pools=((limited("r640"), hosts(1)),))
        with pytest.raises(Invalid) as refused:
            await lab.store.apply(file, "operator")
        assert [(f.path, f.code) for f in refused.value.faults] == [("limits", "limiter_unknown")]
        assert await lab.store.pools() == []
        with pytest.raises(Invalid):
            await lab.store.put_pool(limited("r640"), hosts(1), "operator")

        await lab.store.apply(replace(file, limits={"foreman": 3}), "operator")
        await lab.store.put_pool(limited("vm"), hosts(1), "operator")
        assert [pool.spec.name for pool in await lab.store.pools()] == ["r640", "vm"]


async def test_many_at_once_over_two_stores_never_exceed_it_and_leave_nobody_waiting(lab: Lab) -> None:
    await limit(lab, foreman=3)
    stores = (lab.store, SqlStore(lab.url, lab.clock))
    has, most = set(), 0

    async def live(n: int) -> None:
        nonlocal most
        store, me = stores[n % 2], f"workflow{n:02}"
        while not (await store.take_slot(slot(me))).taken:
            await asyncio.sleep(0.01)
        has.add(me)
        most = max(most, len(has))
        while most < 3:
            # Until as many have it as may, however slow this machine is.
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.005)
        has.discard(me)
        await store.give_slot(slot(me))

    async with asyncio.timeout(60):
        await asyncio.gather(*(live(n) for n in range(24)))
    stores[1].close()

    assert most == 3
    assert await holders(lab) == []
