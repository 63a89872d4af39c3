"""What the sweep and `reconcile` find in the database, and write there; alike on both."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from leasehold.errors import LeaseUnknown, Unavailable
from leasehold.healing import AlertKey, ClosePass, DeadRecycling, Identity, Mark, Opened
from leasehold.holdings import Holding
from leasehold.messages import LeaseView, ResourceView
from leasehold.model import Item, LeaseState, Outcome
from leasehold.ports import OpenLease, RunFilter
from leasehold.rebuilding import Books, Census, Rebuilt, Told
from leasehold.store import tables as t
from tests.contract.store_lab import NINE, OK, Lab, request, run_of

HERE = Identity(cluster="c", namespace="n")


async def make_pass(lab: Lab, previous: Mark | None = None, **alerts: str | None) -> Mark:
    """A pass that finds nothing but these alerts."""
    opened = await lab.store.healing.open_pass(HERE, previous)
    report, _ = await lab.store.healing.close_pass(closing(opened, **alerts))
    return report.mark


def closing(opened: Opened, suspend: str | None = None, **alerts: str | None) -> ClosePass:
    found = {AlertKey.TEMPORAL_CHANGED: opened.changed, **alerts}
    return ClosePass(passes=opened.passes, patience_s=60, hourly=opened.hourly, suspend=suspend, alerts=found)


async def suspend(lab: Lab, reason: str = "it is older") -> None:
    opened = await lab.store.healing.open_pass(HERE, None)
    await lab.store.healing.close_pass(closing(opened, suspend=reason))


async def standing(lab: Lab) -> list[str]:
    return [alert.key for alert in await lab.store.healing.alerts()]


async def rebuild(lab: Lab, told: dict[str, Told], *, seen: Books | None = None, **more: Any) -> Rebuilt:
    books, now = await lab.store.healing.books(told)
    options = {"actor": "op", "accept_lost": False, "dry_run": False}
    census = Census(taken_at=now, leases=told, **more.pop("census", {}))
    return await lab.store.healing.rebuild(census, seen or books, **{**options, **more})


def running(lab: Lab, lease: str, state: str, *held: Holding, **more: Any) -> Told:
    """A workflow of a request for a resource of r640, started an hour ago."""
    resources = tuple(ResourceView(pool=h.pool, resource=h.resource, epoch=h.epoch) for h in held)
    view = LeaseView(state=state, expires_at=more.pop("expires_at", None), resources=resources)
    items = more.pop("items", (Item(pool="r640"),))
    asked = request(lease, *items)
    return Told(run_id="run", started_at=lab.clock.now - timedelta(hours=1), view=view, request=asked, **more)


class TestPasses:
    """Each leaves a mark, here and in Temporal."""

    async def test_the_marks_of_passes_grow(self, lab: Lab) -> None:
        first = await make_pass(lab)
        second = await make_pass(lab, first)
        assert (first, second) == (Mark(passes=1, number=0), Mark(passes=2, number=0))

    async def test_a_database_behind_the_mark_is_suspended_before_anything_else(self, lab: Lab) -> None:
        await make_pass(lab)
        opened = await lab.store.healing.open_pass(HERE, Mark(passes=5, number=40))
        assert opened.suspended is not None
        assert (await lab.store.healing.suspension()) is not None
        # The mark is not lost meanwhile.
        report, raised = await lab.store.healing.close_pass(closing(opened))
        assert report.mark.passes == 5
        assert [alert.key for alert in raised] == [AlertKey.DATABASE_OLDER]

    async def test_a_database_that_is_ahead_is_well(self, lab: Lab) -> None:
        await make_pass(lab)
        await make_pass(lab)
        assert (await lab.store.healing.open_pass(HERE, Mark(passes=1, number=0))).suspended is None

    async def test_the_first_temporal_is_known_from_then_on(self, lab: Lab) -> None:
        assert (await lab.store.healing.open_pass(HERE, None)).changed is None
        other = Identity(cluster="c", namespace="other")
        opened = await lab.store.healing.open_pass(other, Mark(passes=99, number=0))
        assert opened.changed is not None
        assert "namespace other; it was cluster c, namespace n" in opened.changed
        # What another Temporal remembers says nothing about this database.
        assert opened.suspended is None
        report, _ = await lab.store.healing.close_pass(closing(opened))
        assert (report.mark.passes, await standing(lab)) == (0, [AlertKey.TEMPORAL_CHANGED])
        assert await lab.store.healing.check_temporal(other, accept=True) is None
        assert await standing(lab) == []
        assert (await lab.store.healing.open_pass(other, None)).changed is None

    async def test_a_run_of_which_nobody_ever_told_how_it_ended_is_closed(self, lab: Lab) -> None:
        # Given a hook whose worker died, and a resource that no hook ever runs on again.
        await lab.pool("r640", 1, "wipe")
        (claim,) = (await lab.submit("a")).claims
        await lab.begin("a", claim)
        await lab.close("a", Outcome.CANCELLED)
        await make_pass(lab)
        assert [run.ending for run in await lab.store.runs(RunFilter(lease="a"))] == [None], "it may be alive"

        lab.clock.forward(hours=1)
        await make_pass(lab)

        assert [run.ending for run in await lab.store.runs(RunFilter(lease="a"))] == ["lost"]
        assert "stage_lost" in [event.kind for event in await lab.store.events(lease="a")]

    async def test_an_alert_is_logged_when_it_is_raised_and_then_once_an_hour(self, lab: Lab) -> None:
        told = []
        for _ in range(3):
            opened = await lab.store.healing.open_pass(HERE, None)
            _, raised = await lab.store.healing.close_pass(closing(opened, workflows_lost="look"))
            told.append([alert.key for alert in raised])
            lab.clock.forward(minutes=25)
        assert told == [["workflows_lost"], [], []]
        lab.clock.forward(minutes=25)
        opened = await lab.store.healing.open_pass(HERE, None)
        _, raised = await lab.store.healing.close_pass(closing(opened, workflows_lost="look"))
        assert [(alert.key, alert.since) for alert in raised] == [("workflows_lost", NINE)]
        events = [event.kind for event in await lab.store.events() if event.kind.startswith("alert")]
        assert events == ["alert_raised"]

    async def test_a_message_that_is_late_is_told_with_its_trouble(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", "release")
        await lab.take("a")
        await lab.close("a")
        await make_pass(lab)
        assert await standing(lab) == []
        lab.clock.forward(seconds=61)
        await make_pass(lab)
        (alert,) = await lab.store.healing.alerts()
        assert "1 messages to workflows are not delivered, the first since 2026-01-05T09:00:00Z" in alert.detail
        assert "no worker has tried to" in alert.detail
        (posted,) = await lab.store.outbox_due()
        await lab.store.outbox_failed(posted.id, "Temporal is away")
        await make_pass(lab)
        (alert,) = await lab.store.healing.alerts()
        assert "Temporal is away" in alert.detail
        await lab.store.outbox_delivered([posted.id])
        await make_pass(lab)
        assert await standing(lab) == []

    async def test_a_message_in_trouble_is_not_in_the_way_of_others(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "validate", "release")
        for lease in ("a", "b"):
            await lab.take(lease)
            await lab.close(lease)
        first, second = await lab.store.outbox_due()
        await lab.store.outbox_failed(first.id, "no")
        assert [posted.id for posted in await lab.store.outbox_due()] == [second.id, first.id]


class TestSuspension:
    """While it stands nothing is granted, by whatever way."""

    async def test_a_request_waits_and_is_served_after_it(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await suspend(lab, "it is older")
        assert (await lab.submit("a")).state is LeaseState.QUEUED
        queue = (await lab.lease("a")).queue
        assert queue is not None
        assert "leasehold reconcile: it is older" in queue.reason
        await lab.store.online("r640", "host01", "op")
        await lab.pool("r640", 3)
        assert await lab.state("a") == "queued"
        done = await rebuild(lab, {})
        assert (done.suspended, done.problems) == (None, ())
        assert await lab.state("a") == "preparing"
        assert await lab.signalled() == ["a"]

    async def test_what_is_given_back_meanwhile_is_lent_after_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        await lab.submit("b")
        await suspend(lab)
        await lab.close("a")
        assert (await lab.states(), await lab.state("b")) == ({"host01": "free"}, "queued")
        await rebuild(lab, {})
        assert await lab.held("b") == ["host01"]

    async def test_what_can_never_be_served_is_refused_all_the_same(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await suspend(lab)
        refused = (await lab.submit("a", Item(pool="r640", count=2))).refusal
        assert refused is not None
        assert refused.code == "unsatisfiable"

    async def test_numbers_that_were_told_are_told_to_nobody_else(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        await lab.submit("a")
        await lab.store.healing.open_pass(HERE, Mark(passes=5, number=40))
        await lab.submit("b")
        assert ((await lab.lease("b")).number or 0) > 1040
        await rebuild(lab, {})


class TestWhatDependsOnAWorkflow:
    async def test_open_leases_come_in_slices(self, lab: Lab) -> None:
        await lab.pool("r640", 5)
        for lease in "abcde":
            await lab.submit(lease)
        await lab.close("b")
        slices, after = [], 0
        while found := await lab.store.healing.open_leases(after, 2):
            slices.append([one.id for one in found])
            after = found[-1].number
        assert slices == [["a", "c"], ["d", "e"]]

    async def test_what_is_known_of_leases(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.submit("a")
        await lab.submit("refused", Item(pool="r640", count=2))
        known = await lab.store.healing.known(["a", "refused", "stranger"])
        assert known == {
            "a": OpenLease(id="a", number=1, state=LeaseState.PREPARING, granted_at=NINE, ended_at=None),
            "refused": None,
        }

    async def test_a_recycling_is_looked_for_once_its_message_is_delivered(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", "release")
        await lab.take("a")
        await lab.close("a")
        claim = await lab.recycling()
        assert await lab.store.healing.recyclings() == []
        await lab.store.outbox_delivered([posted.id for posted in await lab.store.outbox_due()])
        held = Holding(pool="r640", resource="host01", epoch=claim.epoch)
        assert await lab.store.healing.recyclings() == [held]
        assert await lab.store.healing.epochs([held, replace(held, resource="gone")]) == {held.key: claim.epoch}

    async def test_a_recycling_begins_again_for_the_same_lease_and_settings(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", "release")
        await lab.take("a")
        await lab.close("a")
        first = await lab.recycling()
        dead = DeadRecycling(pool="r640", resource="host01", epoch=first.epoch, how="terminated")
        await lab.store.healing.recycle_again(dead)
        second = await lab.recycling()
        assert (second.epoch > first.epoch, second.stages) == (True, first.stages)
        assert (await lab.begin("a", second)).finished is None
        # Asked for twice, it begins once.
        await lab.store.healing.recycle_again(dead)
        assert await lab.recycling() == second


class TestRebuilding:
    """A database that has forgotten; what the workflows tell is written into it."""

    async def test_a_forgotten_lease_has_all_it_had(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", "release")
        await suspend(lab)
        held = await self.far_ahead(lab, "host02")
        end = lab.clock.now + timedelta(hours=3)
        done = await rebuild(lab, {"a": running(lab, "a", "active", held, expires_at=end)})
        lease = await lab.lease("a")
        assert (lease.state, lease.expires_at, lease.run_id) == (LeaseState.ACTIVE, end, "run")
        assert lease.created_at == lab.clock.now - timedelta(hours=1)
        assert [(r.name, r.epoch, r.state) for r in lease.resources] == [("host02", held.epoch, "ready")]
        assert (await lab.store.resource("r640", "host02")).epoch == held.epoch
        assert (done.suspended, done.problems) == (None, ())
        assert (await lab.store.request("a")) is not None
        # The next actor has a later epoch than any that was ever given out.
        await lab.close("a")
        assert (await lab.recycling("host02")).epoch > held.epoch

    async def test_its_hooks_go_on(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "validate", "release")
        (claim,) = (await lab.submit("b")).claims
        await lab.close("b", Outcome.CANCELLED)
        held = await self.far_ahead(lab, "host01")
        mine = replace(claim, epoch=held.epoch)
        await suspend(lab)
        with pytest.raises(LeaseUnknown):
            await lab.store.brief(run_of("a", mine, mine.stages[1]))
        with pytest.raises(Unavailable, match="leasehold reconcile"):
            await lab.begin("a", mine, stage=1)
        # What a run of before the restore says is of no run that is known.
        await lab.store.finish_run(run_of("a", mine, mine.stages[0]), 1, OK, b"secret")
        await rebuild(lab, {"a": running(lab, "a", "preparing", held)})
        await lab.run("a", mine, stage=1)
        await lab.store.activate("a")
        assert await lab.state("a") == "active"

    async def test_a_late_report_closes_no_run_of_another_hook(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe")
        (claim,) = (await lab.submit("a")).claims
        begun = await lab.begin("a", claim)
        other = replace(claim, resource="host02")
        await lab.store.finish_run(run_of("b", other, other.stages[0]), begun.run, OK, None)
        assert (await lab.begin("a", claim)).finished is None

    async def test_what_was_only_prepared_is_cleaned_after_a_cancel(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "release")
        held = await self.far_ahead(lab, "host01")
        await suspend(lab)
        await rebuild(lab, {"a": running(lab, "a", "preparing", held)})
        await lab.close("a", Outcome.CANCELLED)
        assert await lab.states() == {"host01": "recycling"}

    async def test_a_dry_run_writes_nothing(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        held = await self.far_ahead(lab, "host01")
        await suspend(lab)
        told = {"a": running(lab, "a", "preparing", held)}
        dry = await rebuild(lab, told, dry_run=True)
        assert [step.action for step in dry.steps] == ["record", "grant", "move"]
        with pytest.raises(LeaseUnknown):
            await lab.lease("a")
        assert await lab.store.healing.suspension() is not None
        assert [step.action for step in (await rebuild(lab, told)).steps] == ["record", "grant", "move"]
        assert (await rebuild(lab, told)).steps == ()

    async def test_a_record_that_moved_meanwhile_is_left_for_another_time(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.take("a")
        seen, _ = await lab.store.healing.books([])
        await suspend(lab)
        await lab.close("a")
        end = lab.clock.now + timedelta(hours=9)
        (held,) = [grant.holding for grant in seen.grants]
        done = await rebuild(lab, {"a": running(lab, "a", "active", held, expires_at=end)}, seen=seen)
        assert (done.steps, done.unsettled) == ((), ("a",))
        assert done.suspended is not None
        assert await lab.state("a") == "ended"
        await rebuild(lab, {})

    async def test_what_its_policy_would_refuse_now_is_a_problem(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await suspend(lab)
        items = (Item(pool="gone"),)
        held = Holding(pool="r640", resource="host01", epoch=1)
        done = await rebuild(lab, {"a": running(lab, "a", "queued", items=items)})
        assert done.problems == ("lease a cannot be recorded again: there is no pool gone",)
        assert done.suspended is not None
        assert await lab.store.request("a") is None, "it was not refused: it can be recorded later"
        assert held.key not in {grant.holding.key for grant in (await lab.store.healing.books([]))[0].grants}
        await lab.pool("gone", 1)
        assert (await rebuild(lab, {"a": running(lab, "a", "queued", items=items)})).problems == ()
        assert await lab.state("a") == "preparing"

    async def test_whoever_is_over_loses_nothing_to_whoever_has_it_now(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", "release")
        await lab.take("a")
        held = await self.far_ahead(lab, "host01")
        await suspend(lab)
        over = Told(started_at=NINE, how="completed", outcome=Outcome.EXPIRED, view=LeaseView(state="ended"))
        end = lab.clock.now + timedelta(hours=3)
        await rebuild(lab, {"a": over, "b": running(lab, "b", "active", held, expires_at=end)})
        assert ((await lab.lease("a")).outcome, await lab.held("b")) == (Outcome.EXPIRED, ["host01"])
        assert await lab.recycling_of() == []
        assert await lab.states() == {"host01": "leased"}

    async def test_what_is_lost_is_quarantined(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "validate", "release")
        await lab.take("a")
        await lab.take("b")
        done = await rebuild(lab, {}, census={"lost": frozenset({"a"})})
        assert [step.action for step in done.steps] == ["end"]
        lease = await lab.lease("a")
        assert lease.error is not None
        assert (lease.state, lease.error.code) == (LeaseState.ENDED, "workflow_lost")
        assert await lab.states() == {"host01": "broken", "host02": "leased"}

    async def test_a_resource_that_was_used_since_is_cleaned_for_the_lease_that_used_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", "release")
        held = await self.far_ahead(lab, "host01")
        await suspend(lab)
        told = running(lab, "a", "ended", held, how="completed", outcome=Outcome.RELEASED, closed_at=lab.clock.now)
        await rebuild(lab, {"a": told})
        recycling = await lab.recycling()
        assert recycling.epoch > held.epoch
        lease = await lab.lease("a")
        assert (lease.outcome, [r.name for r in lease.resources]) == (Outcome.RELEASED, ["host01"])
        assert (await lab.begin("a", recycling)).finished is None
        await lab.store.brief(run_of("a", recycling, recycling.stages[0]))

    async def test_a_recycling_that_runs_frees_its_resource(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", "release")
        held = await self.far_ahead(lab, "host01")
        await rebuild(lab, {}, census={"recyclings": frozenset({held})})
        resource = await lab.store.resource("r640", "host01")
        assert (resource.state, resource.epoch) == ("recycling", held.epoch)

    async def test_a_workflow_that_is_told_finds_its_message(self, lab: Lab) -> None:
        await lab.pool("r640", 1)
        await lab.submit("a")
        await rebuild(lab, {"a": running(lab, "a", "queued")})
        assert await lab.signalled() == ["a"]

    async def far_ahead(self, lab: Lab, resource: str) -> Holding:
        """An epoch that this database has not given out; its clock goes on past it."""
        epoch = (await lab.store.resource("r640", resource)).epoch + 1800_000
        lab.clock.forward(hours=1)
        return Holding(pool="r640", resource=resource, epoch=epoch)


async def test_what_was_kept_for_the_holder_is_not_read_by_it(lab: Lab) -> None:
    """Books hold no secrets: they are compared, and parts of them are told."""
    await lab.pool("r640", 1, "deliver")
    (claim,) = (await lab.submit("a")).claims
    await lab.run("a", claim, secret=b"the key")
    assert "the key" not in repr(await lab.store.healing.books(["a"]))


async def test_what_the_database_itself_should_make_impossible_is_told(lab: Lab) -> None:
    await lab.pool("r640", 1)
    await lab.take("a")

    async def close(at: Any) -> None:
        await lab.store.database.write(lambda tx: tx.execute(update(t.grants).values(closed_at=at)).rowcount)

    await close(lab.clock.now)
    await make_pass(lab)
    (alert,) = await lab.store.healing.alerts()
    assert "r640/host01 is leased, and nobody holds it" in alert.detail
    await close(None)
    await make_pass(lab)
    assert await standing(lab) == []
    rows = await lab.store.database.read(lambda c: c.execute(select(t.alerts)).all())
    assert rows == []
