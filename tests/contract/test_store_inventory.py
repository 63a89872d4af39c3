"""The inventory: applying pools files as a whole, changing it by hand, and what operators do to a resource."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from leasehold.errors import Conflict, OwnedElsewhere, PoolUnknown, ResourceUnknown
from leasehold.model import Change, Inventory, Item, LeaseState, Policy, ResourceSpec
from leasehold.ports import ResourceFilter
from tests.contract.store_lab import Lab, file, hosts, spec

TWO_HOSTS = file((spec("r640"), hosts(2)))


def said(changes: list[Change]) -> list[str]:
    """Changes in a line each."""
    return [f"{c.action} {c.kind} {c.name}" for c in changes]


async def apply(lab: Lab, *pools: Any, name: str = "default", dry_run: bool = False) -> list[str]:
    return said(await lab.store.apply(file(*pools, name=name), "operator", dry_run=dry_run))


async def everything(lab: Lab) -> Any:
    """All that a reader can see of the inventory and its history."""
    return await lab.store.pools(), await lab.store.resources(ResourceFilter()), await lab.store.events()


class TestApplying:
    """A pools file is the truth about what it made."""

    async def test_all_of_it_is_made(self, lab: Lab) -> None:
        assert await apply(lab, (spec("r640"), hosts(2)), (spec("vm"), ())) == [
            "add pool r640",
            "add resource host01",
            "add resource host02",
            "add pool vm",
        ]
        assert await lab.states() == {"host01": "free", "host02": "free"}

    async def test_applied_again_it_changes_nothing(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        before = await everything(lab)
        assert await lab.store.apply(TWO_HOSTS, "operator") == []
        assert await everything(lab) == before

    async def test_a_dry_run_says_the_same_and_changes_nothing(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        before = await everything(lab), await lab.store.applied_digest("default")
        wanted = file((spec("r640", "wipe"), hosts(2, first=2)), (spec("vm"), hosts(1)))
        planned = await lab.store.apply(wanted, "operator", dry_run=True)
        assert (await everything(lab), await lab.store.applied_digest("default")) == before
        assert await lab.store.apply(wanted, "operator") == planned

    async def test_a_change_says_old_and_new(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        policy = Policy(default_duration=timedelta(hours=2))
        other = ResourceSpec(name="host01", tags=("metal",), properties={"model": "R640"})
        changes = await lab.store.apply(file((spec("r640", policy=policy), [other, *hosts(1, first=2)])), "operator")
        assert said(changes) == ["change pool r640", "change resource host01"]
        assert changes[0].diff["policy"][1]["default_duration"] == 7200
        assert changes[1].diff == {"tags": [[], ["metal"]], "properties": [{}, {"model": "R640"}]}

    @pytest.mark.parametrize(
        "properties",
        [
            {"a": [1, 1.0, -0.0, 1e-300, True, None, "", {"b": {}}]},
            {"ünï": "\U0001f600", "quote": "\"'\\", "newline": "a\nb", "percent": "%s %(x)s"},
            {"large": 2**70, "small": -(2**70), "exact": 0.1, "order": {"b": 1, "a": 2}},
            {"huge": 1e300},
        ],
    )
    async def test_properties_are_kept_as_they_are(self, lab: Lab, properties: dict[str, Any]) -> None:
        wanted = file((spec("r640"), [ResourceSpec(name="host01", properties=properties)]))
        await lab.store.apply(wanted, "operator")
        assert (await lab.store.resource("r640", "host01")).properties == properties
        assert await lab.store.apply(wanted, "operator") == []

    async def test_what_is_free_and_left_the_file_is_removed(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        assert await apply(lab, (spec("r640"), hosts(1))) == ["remove resource host02"]
        assert await apply(lab) == ["remove resource host01", "remove pool r640"]
        with pytest.raises(PoolUnknown):
            await lab.store.pools("r640")

    async def test_what_is_leased_and_left_the_file_stays_until_it_is_released(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        await lab.take("a")
        assert await apply(lab, (spec("r640"), hosts(1, first=2))) == ["drain resource host01"]
        assert await apply(lab, (spec("r640"), hosts(1, first=2))) == []
        assert (await lab.state("a"), await lab.states()) == ("active", {"host01": "leased", "host02": "free"})
        await lab.close("a")
        assert await lab.states() == {"host02": "free"}

    async def test_a_pool_that_left_the_file_goes_with_its_last_resource(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        await lab.take("a")
        assert await apply(lab) == ["drain resource host01", "remove resource host02", "drain pool r640"]
        await lab.close("a")
        assert await lab.store.pools() == []

    async def test_nobody_gets_what_is_on_its_way_out(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        await lab.take("a", Item(pool="r640", count=2))
        await lab.submit("b")
        await apply(lab, (spec("r640"), hosts(1, first=2)))
        await lab.close("a")
        assert (await lab.held("b"), await lab.states()) == (["host02"], {"host02": "leased"})

    async def test_what_comes_back_into_the_file_while_leased_stays_for_good(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        await lab.take("a")
        await apply(lab)
        assert await apply(lab, (spec("r640"), hosts(1))) == ["change pool r640", "change resource host01"]
        await lab.close("a")
        assert await lab.states() == {"host01": "free"}

    async def test_who_waits_is_served_by_what_is_added(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("r640"), hosts(1))), "operator")
        await lab.take("a")
        await lab.submit("b")
        await lab.store.apply(TWO_HOSTS, "operator")
        assert await lab.held("b") == ["host02"]

    async def test_who_waits_is_served_by_what_is_changed(self, lab: Lab) -> None:
        fast = ResourceSpec(name="host01", tags=("fast",))
        await lab.store.apply(file((spec("r640"), [fast, *hosts(1, first=2)])), "operator")
        await lab.take("a", Item(pool="r640", tags=("fast",)))
        await lab.submit("b", Item(pool="r640", tags=("fast",)))
        await apply(lab, (spec("r640"), [fast, ResourceSpec(name="host02", tags=("fast",))]))
        assert await lab.held("b") == ["host02"]

    async def test_files_of_other_names_are_left_alone(self, lab: Lab) -> None:
        await apply(lab, (spec("r640"), hosts(1)), name="mine")
        await apply(lab, (spec("vm"), hosts(1)), name="yours")
        assert await apply(lab, name="mine") == ["remove resource host01", "remove pool r640"]
        assert [pool.file for pool in await lab.store.pools()] == ["yours"]

    async def test_a_pool_of_another_file_cannot_be_taken_over(self, lab: Lab) -> None:
        await apply(lab, (spec("r640"), hosts(1)), name="mine")
        before = await everything(lab)
        # The whole file is refused, and with it the pool that would have been fine.
        with pytest.raises(OwnedElsewhere):
            await apply(lab, (spec("vm"), hosts(1)), (spec("r640"), hosts(1)), name="yours")
        assert await everything(lab) == before

    async def test_the_file_that_was_applied_last_is_known(self, lab: Lab) -> None:
        assert await lab.store.applied_digest("default") is None
        await lab.store.apply(TWO_HOSTS, "operator")
        first = await lab.store.applied_digest("default")
        await lab.store.apply(Inventory(name="default", pools=()), "operator")
        assert first is not None
        assert await lab.store.applied_digest("default") not in {None, first}


class TestByHand:
    """PUT and DELETE of single pools and resources."""

    async def test_a_pool_and_its_resources_are_made(self, lab: Lab) -> None:
        changes = await lab.store.put_pool(spec("r640"), hosts(1), "operator")
        assert said(changes) == ["add pool r640", "add resource host01"]
        assert said(await lab.store.put_pool(spec("r640"), hosts(1, first=2), "operator")) == ["add resource host02"]
        assert await lab.states() == {"host01": "free", "host02": "free"}
        assert (await lab.store.pools("r640"))[0].file is None

    async def test_a_resource_is_made_and_changed(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("r640"), (), "operator")
        assert said(await lab.store.put_resource("r640", hosts(1)[0], "operator")) == ["add resource host01"]
        assert said(await lab.store.put_resource("r640", hosts(1)[0], "operator")) == []
        tagged = ResourceSpec(name="host01", tags=("metal",))
        assert said(await lab.store.put_resource("r640", tagged, "operator")) == ["change resource host01"]

    async def test_a_resource_needs_a_pool(self, lab: Lab) -> None:
        with pytest.raises(PoolUnknown):
            await lab.store.put_resource("r640", hosts(1)[0], "operator")

    async def test_who_waits_is_served_by_what_is_put(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("r640"), hosts(1), "operator")
        await lab.take("a")
        await lab.submit("b")
        await lab.store.put_resource("r640", ResourceSpec(name="host02"), "operator")
        assert await lab.held("b") == ["host02"]

    async def test_a_put_does_not_take_over_what_a_file_made(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        with pytest.raises(OwnedElsewhere):
            await lab.store.put_pool(spec("r640", "wipe"), (), "operator")
        with pytest.raises(OwnedElsewhere):
            await lab.store.put_resource("r640", ResourceSpec(name="host01", tags=("x",)), "operator")
        with pytest.raises(OwnedElsewhere):
            await lab.store.delete_resource("r640", "host01", "operator")

    async def test_a_file_does_not_take_over_what_was_put(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("vm"), hosts(1), "operator")
        with pytest.raises(OwnedElsewhere):
            await apply(lab, (spec("vm"), hosts(1)))
        assert await apply(lab, (spec("r640"), hosts(1))) == ["add pool r640", "add resource host01"]
        assert await apply(lab) == ["remove resource host01", "remove pool r640"]
        assert [pool.spec.name for pool in await lab.store.pools()] == ["vm"]

    async def test_a_resource_put_into_a_files_pool_outlives_the_next_file(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        await lab.store.put_resource("r640", ResourceSpec(name="mine"), "operator")
        assert await apply(lab, (spec("r640"), hosts(1))) == ["remove resource host02"]
        assert await lab.states() == {"host01": "free", "mine": "free"}

    async def test_a_free_resource_is_deleted_at_once(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("r640"), hosts(2), "operator")
        assert said(await lab.store.delete_resource("r640", "host01", "operator")) == ["remove resource host01"]
        with pytest.raises(ResourceUnknown):
            await lab.store.delete_resource("r640", "host01", "operator")
        assert await lab.states() == {"host02": "free"}

    async def test_a_leased_resource_is_deleted_once_it_is_free(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("r640"), hosts(1), "operator")
        await lab.take("a")
        assert said(await lab.store.delete_resource("r640", "host01", "operator")) == ["drain resource host01"]
        assert await lab.state("a") == "active"
        await lab.close("a")
        assert await lab.states() == {}


class TestOffline:
    """An operator's mark, beside whatever the resource does."""

    async def test_nobody_gets_it_and_the_reason_is_shown(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.store.offline("r640", "host01", "PSU replaced", "bob")
        assert (await lab.submit("a")).state is LeaseState.QUEUED
        mark = (await lab.store.resource("r640", "host01")).offline
        assert mark is not None
        assert (mark.reason, mark.by, mark.since) == ("PSU replaced", "bob", lab.clock.now)

    async def test_its_holder_keeps_it_and_nobody_gets_it_after(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        await lab.submit("b")
        await lab.store.offline("r640", "host01", "moved", "operator")
        assert await lab.state("a") == "active"
        await lab.close("a")
        assert (await lab.states(), await lab.state("b")) == ({"host01": "free"}, "queued")

    async def test_back_online_it_goes_to_who_waits(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.store.offline("r640", "host01", "moved", "operator")
        await lab.submit("a")
        await lab.store.online("r640", "host01", "operator")
        assert await lab.held("a") == ["host01"]
        assert (await lab.store.resource("r640", "host01")).offline is None

    async def test_online_twice_leaves_one_event(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.store.offline("r640", "host01", "moved", "operator")
        for _ in range(2):
            await lab.store.online("r640", "host01", "operator")
        kinds = [e.kind for e in await lab.store.events(pool="r640", resource="host01")]
        assert kinds == ["resource_added", "resource_offline", "resource_online"]

    async def test_the_mark_outlives_a_new_file(self, lab: Lab) -> None:
        await lab.store.apply(TWO_HOSTS, "operator")
        await lab.store.offline("r640", "host01", "moved", "operator")
        await apply(lab, (spec("r640", "wipe"), [ResourceSpec(name="host01", tags=("new",))]))
        assert (await lab.store.resource("r640", "host01")).offline is not None

    async def test_only_what_is_there_can_be_marked(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        with pytest.raises(ResourceUnknown):
            await lab.store.offline("r640", "host02", "moved", "operator")
        with pytest.raises(ResourceUnknown):
            await lab.store.online("vm", "host01", "operator")


class TestRepair:
    """Bringing a quarantined resource back."""

    async def test_without_stages_it_is_free_at_once_and_serves_who_waits(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        await lab.submit("b")
        await lab.close("a", broken="no power")
        await lab.store.repair("r640", "host01", "operator")
        assert await lab.held("b") == ["host01"]
        assert (await lab.store.resource("r640", "host01")).broken is None

    async def test_it_goes_through_the_stages_of_its_pool(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        await lab.submit("b")
        await lab.close("a", broken="no power")
        await lab.store.repair("r640", "host01", "operator")
        assert (await lab.states(), await lab.state("b")) == ({"host01": "recycling"}, "queued")
        await lab.recycled("a")
        assert await lab.held("b") == ["host01"]

    async def test_it_may_break_again(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        await lab.close("a", broken="no power")
        await lab.store.repair("r640", "host01", "operator")
        await lab.recycled("a", broken="still no power")
        found = await lab.store.resource("r640", "host01")
        assert found.broken is not None
        assert (found.state, found.broken.reason) == ("broken", "still no power")

    @pytest.mark.parametrize("state", ["free", "leased"])
    async def test_what_is_not_broken_cannot_be_repaired(self, lab: Lab, state: str) -> None:
        await lab.pool("r640", 1)
        if state == "leased":
            await lab.take("a")
        with pytest.raises(Conflict):
            await lab.store.repair("r640", "host01", "operator")
        assert await lab.states() == {"host01": state}

    async def test_what_is_not_there_cannot_be_repaired(self, lab: Lab) -> None:
        with pytest.raises(ResourceUnknown):
            await lab.store.repair("r640", "host01", "operator")
