"""What readers see: lists and their filters, what is available, deliveries, and the events that stay."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest

from leasehold import selector
from leasehold.errors import LeaseUnknown, NotDelivered, PoolUnknown, ResourceUnknown
from leasehold.messages import AddResources, BrokenInLease, BrokenResource, GiveBack
from leasehold.model import Event, Hook, Item, Outcome, Policy, PoolSpec, Prepare, ResourceSpec, StageName
from leasehold.ports import LeaseFilter, ResourceFilter
from tests.contract.store_lab import FAILED, Lab, file, hosts, run_of, spec


class TestLeases:
    async def listed(self, lab: Lab, **wanted: Any) -> list[str]:
        return [lease.id for lease in await lab.store.leases(LeaseFilter(**wanted))]

    async def test_newest_come_first_and_a_page_goes_on_where_the_last_ended(self, lab: Lab) -> None:
        await lab.pool("r640", 5)
        for name in "abcde":
            await lab.submit(name)
        assert await self.listed(lab) == ["e", "d", "c", "b", "a"]
        assert await self.listed(lab, limit=2) == ["e", "d"]
        assert await self.listed(lab, limit=2, before=4) == ["c", "b"]

    async def test_by_state_owner_and_pool(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.pool("vm", 1)
        await lab.take("ended")
        await lab.close("ended")
        await lab.take("active")
        await lab.submit("queued")
        await lab.submit("vms", pool="vm")
        assert await self.listed(lab, states=("queued", "active")) == ["queued", "active"]
        assert await self.listed(lab, pool="r640") == ["queued", "active", "ended"]
        assert await self.listed(lab, owner="alice", pool="vm") == ["vms"]
        assert await self.listed(lab, owner="bob") == []

    async def test_a_lease_that_was_cancelled_in_the_queue_is_still_one_of_its_pool(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        await lab.submit("b")
        await lab.close("b", Outcome.CANCELLED)
        assert await self.listed(lab, pool="r640") == ["b", "a"]


class TestResources:
    async def listed(self, lab: Lab, *conditions: str, **wanted: Any) -> list[str]:
        parsed = tuple(selector.parse(condition) for condition in conditions)
        found = await lab.store.resources(ResourceFilter(conditions=parsed, **wanted))
        return [f"{r.pool}/{r.name}" for r in found]

    async def test_pages_are_in_order_of_pool_and_name(self, lab: Lab) -> None:
        await lab.pool("vm", 2)
        await lab.pool("r640", 2)
        whole = ["r640/host01", "r640/host02", "vm/host01", "vm/host02"]
        assert await self.listed(lab) == whole
        assert await self.listed(lab, after=("r640", "host02"), limit=1) == ["vm/host01"]
        assert await self.listed(lab, after=("r640", "zzz")) == whole[2:]

    async def test_filters_on_properties_tags_state_and_pool_all_hold(self, lab: Lab) -> None:
        made = [
            ResourceSpec(name="a", tags=("metal", "x86"), properties={"model": "R640"}),
            ResourceSpec(name="b", tags=("metal",), properties={"model": "R640"}),
            ResourceSpec(name="c", tags=("metal", "x86"), properties={"model": "R650"}),
        ]
        await lab.store.apply(file((spec("r640"), made)), "operator")
        await lab.submit("lease", Item(pool="r640", names=("b",)))
        assert await self.listed(lab, "model=R640") == ["r640/a", "r640/b"]
        assert await self.listed(lab, "model=R640", tags=("x86",)) == ["r640/a"]
        assert await self.listed(lab, state="leased") == ["r640/b"]
        assert await self.listed(lab, pool="vm") == []

    async def test_the_limit_counts_what_is_found(self, lab: Lab) -> None:
        made = [ResourceSpec(name=f"r{n}", properties={"odd": n % 2}) for n in range(6)]
        await lab.store.apply(file((spec("r640"), made)), "operator")
        assert await self.listed(lab, "odd=1", limit=2) == ["r640/r1", "r640/r3"]

    async def test_the_holder_is_shown_while_it_holds(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "release")
        await lab.take("a")
        assert (await lab.store.resource("r640", "host01")).lease == "a"
        await lab.close("a")
        assert (await lab.store.resource("r640", "host01")).lease is None
        with pytest.raises(ResourceUnknown):
            await lab.store.resource("r640", "host02")


class TestAvailable:
    async def test_what_is_free_counts_and_what_is_offline_or_leaving_does_not(self, lab: Lab) -> None:
        await lab.pool("r640", 5)
        await lab.take("a", Item(pool="r640", names=("host01",)))
        await lab.take("b", Item(pool="r640", names=("host02",)))
        await lab.store.offline("r640", "host03", "moved", "operator")
        kept = [host for host in hosts(5) if host.name != "host01"]
        await lab.store.apply(file((spec("r640"), kept), name="r640"), "operator")
        found = await lab.store.available(ResourceFilter(pool="r640"))
        assert [r.name for r in found.resources] == ["host04", "host05"]
        assert (found.free, found.total) == (2, 4)

    async def test_the_next_one_is_free_when_the_first_lease_is_over(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.take("a", duration="2h")
        await lab.take("b", duration="1h")
        found = await lab.store.available(ResourceFilter(pool="r640"))
        assert found.next_free_at == lab.clock.now + timedelta(hours=1)

    async def test_no_more_are_shown_than_asked_for(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        found = await lab.store.available(ResourceFilter(pool="r640", limit=2))
        assert (found.free, len(found.resources)) == (3, 2)

    async def test_a_pool_that_is_not_there(self, lab: Lab) -> None:
        with pytest.raises(PoolUnknown):
            await lab.store.available(ResourceFilter(pool="r64O"))
        with pytest.raises(PoolUnknown):
            await lab.store.queue("r64O")


class TestPools:
    async def test_how_many_are_in_which_state(self, lab: Lab) -> None:
        await lab.pool("r640", 4, "release")
        for name in ("a", "b", "c"):
            await lab.take(name)
        await lab.close("a")
        await lab.close("b", broken="no power")
        (pool,) = await lab.store.pools("r640")
        assert dict(pool.states) == {"recycling": 1, "broken": 1, "leased": 1, "free": 1}
        assert (pool.total, pool.free, pool.waiting, pool.file, pool.draining) == (4, 1, 0, "r640", False)

    async def test_a_pool_is_as_its_file_says(self, lab: Lab) -> None:
        wanted = spec("r640", "wipe", "deliver", priority=7)
        await lab.store.apply(file((wanted, ())), "operator")
        assert (await lab.store.pools("r640"))[0].spec == wanted


class TestDelivery:
    async def test_nothing_is_delivered_before_the_lease_is_active(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "deliver")
        (claim,) = (await lab.submit("a")).claims
        await lab.run("a", claim, secret=b"password")
        with pytest.raises(NotDelivered):
            await lab.store.delivery("a")
        await lab.store.activate("a")
        (delivered,) = await lab.store.delivery("a")
        assert (delivered.pool, delivered.name, delivered.data) == ("r640", "host01", b"password")

    async def test_what_failed_and_was_replaced_is_not_delivered(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "deliver")
        (failed,) = (await lab.submit("a")).claims
        await lab.run("a", failed, report=FAILED)
        broken = BrokenResource(pool="r640", resource="host01", epoch=failed.epoch, reason="deliver failed")
        (instead,) = (await lab.store.report_broken(BrokenInLease(lease="a", broken=(broken,)))).claims
        await lab.run("a", instead, secret=b"password")
        await lab.store.activate("a")
        assert [(d.name, d.data) for d in await lab.store.delivery("a")] == [("host02", b"password")]

    async def test_what_was_given_back_or_is_not_ready_yet_is_not_delivered(self, lab: Lab) -> None:
        await lab.pool("r640", 3, "deliver")
        claims = (await lab.submit("a", Item(pool="r640", count=2))).claims
        for claim in claims:
            await lab.run("a", claim, secret=b"password")
        await lab.store.activate("a")
        await lab.store.add("a", AddResources(items=(Item(pool="r640"),), request="more"))
        await lab.store.give_back("a", GiveBack(pool="r640", resource="host01"))
        assert [d.name for d in await lab.store.delivery("a")] == ["host02"]

    async def test_the_bytes_are_kept_exactly(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "deliver")
        (claim,) = (await lab.submit("a")).claims
        secret = bytes(range(256)) * 256
        await lab.run("a", claim, secret=secret)
        await lab.store.activate("a")
        assert (await lab.store.delivery("a"))[0].data == secret

    async def test_a_lease_that_never_was_active_delivers_nothing_even_after_its_end(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "deliver", "release")
        (claim,) = (await lab.submit("a")).claims
        await lab.run("a", claim, secret=b"password")
        await lab.close("a", Outcome.CANCELLED)
        with pytest.raises(NotDelivered):
            await lab.store.delivery("a")

    async def test_the_secret_is_in_no_event_and_in_no_record(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "deliver", "release")
        (claim,) = (await lab.submit("a")).claims
        await lab.run("a", claim, secret=b"correct-horse")
        await lab.store.activate("a")
        await lab.close("a")
        shown = [await lab.lease("a"), await lab.store.outbox_due(), await lab.store.events()]
        assert "correct-horse" not in str(shown)


class TestBriefing:
    async def test_a_hook_is_told_of_its_lease_and_its_resource(self, lab: Lab) -> None:
        made = ResourceSpec(name="host01", tags=("metal",), properties={"nics": [1]})
        await lab.store.apply(file((spec("r640", "wipe", "deliver"), [made, *hosts(1, first=2)])), "operator")
        items = (Item(pool="r640", tags=("metal",), role="bastion", params={"os": "rhel9"}), Item(pool="r640"))
        first, second = (await lab.submit("a", *items)).claims
        await lab.run("a", first, stage=1, secret=b"\xffpassword")
        brief = await lab.store.brief(run_of("a", first, first.stages[0], attempt=2))
        assert (brief.hook.run, brief.folder) == ("./wipe.sh", "/srv/pools")
        assert {k: v for k, v in brief.env.items() if k.startswith("LEASEHOLD_")} == {
            "LEASEHOLD_LEASE": "a",
            "LEASEHOLD_NUMBER": "1",
            "LEASEHOLD_OWNER": "alice",
            "LEASEHOLD_POOL": "r640",
            "LEASEHOLD_RESOURCE": "host01",
            "LEASEHOLD_ROLE": "bastion",
            "LEASEHOLD_EPOCH": str(first.epoch),
            "LEASEHOLD_STAGE": "wipe",
            "LEASEHOLD_ATTEMPT": "2",
            "LEASEHOLD_PROPERTIES": '{"nics": [1]}',
            "LEASEHOLD_PARAMS": '{"os": "rhel9"}',
            "LEASEHOLD_RESOURCE_DATA": "/3Bhc3N3b3Jk",
            "LEASEHOLD_SECRETS": "{}",
        }
        other = (await lab.store.brief(run_of("a", second, second.stages[0]))).env
        assert (other["LEASEHOLD_ROLE"], other["LEASEHOLD_PARAMS"]) == ("", "{}")

    async def test_a_lease_keeps_the_settings_of_an_http_hook_as_they_were_at_its_grant(self, lab: Lab) -> None:
        settings = {"url": "http://h/{{ lease.id }}", "json": {"b": [1, None, "ä"], "a": 0.5}, "files": {"t": "/t"}}
        hook = Hook(driver="http", settings=settings, timeout=timedelta(minutes=1), attempts=2)
        made = PoolSpec(name="r640", stages={StageName.WIPE: (hook,)})
        await lab.store.apply(file((made, hosts(1))), "operator")
        (claim,) = (await lab.submit("a")).claims
        later = replace(hook, settings={"url": "http://later"})
        await lab.store.apply(file((replace(made, stages={StageName.WIPE: (later,)}), hosts(1))), "operator")
        assert (await lab.store.brief(run_of("a", claim, claim.stages[0]))).hook == hook

    async def test_the_lease_file_has_all_of_the_lease(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe")
        first, _ = (await lab.submit("a", Item(pool="r640", count=2, role="worker"))).claims
        document = json.loads((await lab.store.brief(run_of("a", first, first.stages[0]))).lease_file)
        assert (document["id"], document["number"], document["owner"]) == ("a", 1, "alice")
        assert [(r["name"], r["role"], b64decode(r["data"])) for r in document["resources"]] == [
            ("host01", "worker", b""),
            ("host02", "worker", b""),
        ]

    async def test_the_lease_file_tells_of_each_resource_of_every_pool_what_was_asked_of_it(self, lab: Lab) -> None:
        await lab.pool("cloud", 1)
        await lab.pool("r640", 2, "wipe", "provision")
        asked = (
            Item(pool="r640", role="bastion", params={"qinq": True}),
            Item(pool="r640", role="worker", skip=(StageName.PROVISION,)),
            Item(pool="cloud"),
        )
        first, *_ = (await lab.submit("a", *asked)).claims
        document = json.loads((await lab.store.brief(run_of("a", first, first.stages[0]))).lease_file)
        assert [(r["pool"], r["role"], r["params"], r["skip"]) for r in document["resources"]] == [
            ("r640", "bastion", {"qinq": True}, []),
            ("r640", "worker", {}, ["provision"]),
            ("cloud", None, {}, []),
        ]

    async def test_the_lease_file_leaves_out_what_failed_and_was_replaced(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe")
        (failed,) = (await lab.submit("a")).claims
        await lab.run("a", failed, report=FAILED)
        broken = BrokenResource(pool="r640", resource="host01", epoch=failed.epoch, reason="wipe failed")
        (instead,) = (await lab.store.report_broken(BrokenInLease(lease="a", broken=(broken,)))).claims
        document = json.loads((await lab.store.brief(run_of("a", instead, instead.stages[0]))).lease_file)
        assert [r["name"] for r in document["resources"]] == ["host02"]

    async def test_a_recycling_after_the_lease_is_told_the_same(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "deliver", "release")
        (claim,) = (await lab.take("a", Item(pool="r640", role="bastion"))).claims
        await lab.run("a", claim, secret=b"password")
        await lab.close("a")
        recycling = await lab.recycling()
        env = (await lab.store.brief(run_of("a", recycling, recycling.stages[0]))).env
        assert (env["LEASEHOLD_STAGE"], env["LEASEHOLD_EPOCH"]) == ("release", str(recycling.epoch))
        assert (env["LEASEHOLD_ROLE"], b64decode(env["LEASEHOLD_RESOURCE_DATA"])) == ("bastion", b"password")


class TestEvents:
    """Every transition leaves one, and it stays after the lease is gone."""

    async def test_the_story_of_a_lease(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "release")
        await lab.take("before")
        await lab.submit("a")
        await lab.close("before")
        await lab.recycled("before")
        (claim,) = (await lab.store.standing("a")).claims
        await lab.run("a", claim, report=FAILED)
        await lab.run("a", claim, attempt=2)
        await lab.store.activate("a")
        await lab.extend("a", "1h")
        await lab.close("a", stopped=False)
        await lab.store.end_lease("a")
        await lab.recycled("a")
        assert await lab.kinds("a") == [
            "lease_queued",
            "lease_preparing",
            "resource_leased",
            "stage_started",
            "stage_ended",
            "stage_started",
            "stage_ended",
            "lease_active",
            "lease_extended",
            "lease_releasing",
            "resource_recycling",
            "lease_ended",
            "resource_free",
        ]

    async def test_they_say_when_what_who_and_why(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        lab.clock.forward(seconds=3)
        await lab.run("a", claim, report=FAILED)
        await lab.close("a", Outcome.CANCELLED, stopped=False)
        by_kind: dict[str, Event] = {event.kind: event for event in await lab.events("a")}
        asked, ran, closed = by_kind["lease_preparing"], by_kind["stage_ended"], by_kind["lease_releasing"]
        assert (asked.actor, asked.data["resources"], asked.data["number"]) == ("alice", ["r640/host01"], 1)
        assert (ran.at, ran.pool, ran.resource, ran.reason) == (lab.clock.now, "r640", "host01", "exit status 3")
        assert (ran.data["stage"], ran.data["attempt"], ran.data["ok"]) == ("wipe", 1, False)
        assert (closed.actor, closed.reason, closed.data["outcome"]) == ("alice", "enough", "cancelled")

    async def test_the_story_of_a_resource_outlives_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.store.offline("r640", "host01", "moved", "bob")
        await lab.store.online("r640", "host01", "bob")
        await lab.take("a")
        await lab.close("a", broken="no power")
        await lab.store.repair("r640", "host01", "bob")
        await lab.store.apply(file(name="r640"), "carol")
        story = await lab.store.events(pool="r640", resource="host01")
        assert [(e.kind, e.actor) for e in story if e.actor or e.kind == "resource_removed"] == [
            ("resource_added", "operator"),
            ("resource_offline", "bob"),
            ("resource_online", "bob"),
            ("resource_repaired", "bob"),
            ("resource_removed", "carol"),
        ]
        assert [e.reason for e in story if e.kind == "resource_broken"] == ["no power"]

    async def test_they_are_read_on_from_the_last_one(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        whole = await lab.events("a")
        first = await lab.store.events(lease="a", limit=1)
        assert first + await lab.store.events(lease="a", after=first[0].id) == whole
        assert [asdict(e)["id"] for e in whole] == sorted(e.id for e in whole)

    async def test_a_hook_for_a_whole_lease_is_told_of_the_lease_alone(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe")
        claims = (await lab.submit("a", Item(pool="r640", count=2))).claims
        order = replace(run_of("a", claims[0], claims[0].stages[0]), resource="", holds=tuple(c.held for c in claims))
        brief = await lab.store.brief(order)
        assert (brief.env["LEASEHOLD_LEASE"], brief.env["LEASEHOLD_RESOURCE"]) == ("a", "")
        assert [r["name"] for r in json.loads(brief.lease_file)["resources"]] == ["host01", "host02"]

    async def test_a_resource_that_is_prepared_ahead_is_told_of_no_lease(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", policy=Policy(prepare=Prepare.AHEAD))
        ahead = await lab.recycling()
        brief = await lab.store.brief(run_of("", ahead, ahead.stages[0]))
        assert (brief.env["LEASEHOLD_LEASE"], brief.env["LEASEHOLD_RESOURCE"]) == ("", "host01")
        assert brief.lease_file == b"{}"

    async def test_a_hook_of_a_lease_that_the_database_has_forgotten_waits(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe")
        claims = (await lab.submit("a", Item(pool="r640", count=2))).claims
        order = run_of("a", claims[0], claims[0].stages[0])
        held = tuple(c.held for c in claims)
        forgotten = replace(held[1], resource="host09")
        for lost in (replace(order, lease="b"), replace(order, resource="", holds=(held[0], forgotten))):
            with pytest.raises(LeaseUnknown):
                await lab.store.brief(lost)
