"""Commands and their runners: which one gets it, that it begins once, what follows a loss, and how it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from leasehold.commands import (
    OUTPUT_LIMIT,
    SILENCE,
    Begun,
    CommandEnding,
    CommandPolicy,
    CommandRule,
    CommandState,
)
from leasehold.errors import CommandOver, LeaseholdError, LeaseUnknown
from leasehold.messages import (
    AfterLoss,
    BrokenInLease,
    Checked,
    Closed,
    CloseLease,
    CommandReport,
    PlaceCommand,
    Placement,
    Refusal,
    TendPool,
    Tick,
)
from leasehold.model import (
    Cadence,
    Hook,
    Item,
    LeaseState,
    OnDegraded,
    Outcome,
    Policy,
    StageName,
)
from leasehold.ports import Place, Sealed
from leasehold.store import commands
from leasehold.store import tables as t
from leasehold.store.envelopes import of as envelopes_of
from tests.contract.command_lab import (
    ANYBODY,
    EXITED,
    HERE,
    MAKE,
    active,
    begin,
    close,
    command,
    command_of,
    envelopes,
    host,
    lose,
    place,
    place_and_begin,
    places,
    refusal,
    running,
    submit,
    up,
    why,
)
from tests.contract.store_lab import NINE, Lab, file, hosts, spec


class TestRunners:
    """A command whose lease is active gets the runner that has most room of those that suit."""

    async def test_without_any_it_waits_and_says_so(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await active(lab, "a")
        assert await place(lab, "a") is None
        assert await why(lab, "a") == "waits for a runner: none is up"

    async def test_it_says_what_it_waits_for(self, lab: Lab) -> None:
        await lab.pool("r640", 3, commands=replace(ANYBODY, labels=("arm",)))
        await up(lab, "build01", "x86")
        await active(lab, "pool")
        await active(lab, "own", command=command(labels=("gpu",)))
        await active(lab, "named", command=command(runner="build09"))
        assert await places(lab, "pool", "own", "named") == [None, None, None]
        assert [await why(lab, lease) for lease in ("pool", "own", "named")] == [
            "waits for a runner with arm: build01 alone is up",
            "waits for a runner with arm, gpu: build01 alone is up",
            "waits for runner build09 with arm: build01 alone is up",
        ]

    async def test_one_that_suits_and_comes_later_gets_it_and_its_lease_is_told(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=replace(ANYBODY, labels=("arm",)))
        await active(lab, "a")
        await place(lab, "a")
        await up(lab, "build01", "x86")
        assert await lab.signalled() == []

        await up(lab, "build02", "arm", "gpu")

        assert await lab.signalled() == ["a"]
        assert await place(lab, "a") == "build02"
        shown = await command_of(lab)
        assert (shown.state, shown.on, shown.reason) == (CommandState.STARTING, "build02", None)

    async def test_the_request_says_where_as_far_as_the_pool_does_not(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=replace(ANYBODY, runner="build02"))
        await lab.pool("vm", 2, commands=replace(ANYBODY, labels=("x86",)))
        for runner, label in (("build01", "x86"), ("build02", "arm"), ("build03", "x86")):
            await up(lab, runner, label, slots=2)
        await active(lab, "a")
        await active(lab, "b", pool="vm", command=command(runner="build03"))
        assert await places(lab, "a", "b") == ["build02", "build03"]
        # What the pool says holds.
        refused = await refusal(lab, "c", command=command("other", runner="build03"))
        assert (refused.code, refused.faults[0].path) == ("command_refused", "command.runner")
        await active(lab, "d", pool="vm", command=command("other", runner="build02"))
        assert await place(lab, "d") is None
        assert (await why(lab, "d") or "").startswith("waits for runner build02 with x86: ")

    async def test_when_all_are_busy_the_first_by_priority_and_number_is_next(self, lab: Lab) -> None:
        await lab.pool("r640", 5, commands=ANYBODY)
        await up(lab, slots=1)
        await active(lab, "running", "first", "second")
        await active(lab, "urgent", priority=5)
        order = ["urgent", "first", "second"]
        assert await places(lab, "running", "second", "first", "urgent") == ["build01", None, None, None]
        assert await why(lab, "first") == "a runner has no room: 1 of 1 commands are running"

        served = []
        for last in ("running", *order):
            await close(lab, last, report=EXITED)
            taken = [lease for lease in order if (await command_of(lab, lease)).state == CommandState.STARTING]
            served += taken

        assert served == order
        assert await lab.signalled() == order

    async def test_one_that_nobody_suits_is_passed_by_others(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await up(lab)
        await active(lab, "picky", command=command(labels=("gpu",)), priority=9)
        await active(lab, "plain")
        assert await places(lab, "picky", "plain") == [None, "build01"]

    async def test_the_one_with_most_room_gets_it(self, lab: Lab) -> None:
        await lab.pool("r640", 5, commands=ANYBODY)
        await up(lab, "small", slots=1)
        await up(lab, "large", slots=3)
        await active(lab, *"abcde")
        assert await places(lab, *"abcde") == ["large", "large", "small", "large", None]

    async def test_two_processes_with_one_name_add_up(self, lab: Lab) -> None:
        await lab.pool("r640", 4, commands=ANYBODY)
        await up(lab, "build", "x86", "one", slots=1, instance="one")
        await up(lab, "build", "x86", "two", slots=2, instance="two")
        await active(lab, *"abcd")
        assert await places(lab, *"abcd") == ["build", "build", "build", None]
        (runner,) = await lab.store.commands.runners()
        assert (runner.name, runner.labels, runner.slots, runner.used, runner.up) == ("build", ("x86",), 3, 3, True)
        assert [(one.instance, one.slots) for one in runner.hosts] == [("one", 1), ("two", 2)]

    async def test_a_label_that_only_one_of_two_processes_has_counts_for_none(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=replace(ANYBODY, labels=("gpu",)))
        await up(lab, "build", "gpu", instance="one")
        await up(lab, "build", instance="two")
        await active(lab, "a")
        assert await place(lab, "a") is None

    async def test_more_room_is_used_at_once(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await up(lab, slots=1)
        await active(lab, "a", "b")
        assert await places(lab, "a", "b") == ["build01", None]
        await up(lab, slots=2)
        assert (await command_of(lab, "b")).on == "build01"

    async def test_the_one_that_did_not_take_it_up_is_avoided_where_there_is_another(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await up(lab, "mute", slots=9)
        await active(lab, "a", "b")
        assert await places(lab, "a", "b") == ["mute", "mute"]

        assert await lose(lab, "a") == AfterLoss(again=True, attempt=2, missed=True)
        assert await place(lab, "a", 2, "mute") == "mute", "there is no other"
        await up(lab, "other")
        assert await lose(lab, "b") == AfterLoss(again=True, attempt=2, missed=True)
        assert await place(lab, "b", 2, "mute") == "other"

    async def test_asked_again_the_answer_is_the_same(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await up(lab, "build01")
        await active(lab, "a", "b")
        asked = [PlaceCommand(lease=lease, attempt=1) for lease in ("a", "b")]
        first = [await lab.store.commands.place(order) for order in asked]
        assert [await lab.store.commands.place(order) for order in asked] == first
        await begin(lab, "a")
        await up(lab, "build02", slots=8)
        assert (await lab.store.commands.place(asked[0])).runner == "build01"
        assert first[0] == Placement(runner="build01", attempt=1, timeout_s=timedelta(days=365).total_seconds())

    async def test_of_one_that_has_ended_it_is_told(self, lab: Lab) -> None:
        await running(lab, "a")
        await close(lab, report=EXITED)
        assert await lab.store.commands.place(PlaceCommand(lease="a", attempt=1)) == Placement(over=True)

    async def test_a_database_that_was_restored_without_it_is_waited_for(self, lab: Lab) -> None:
        with pytest.raises(LeaseUnknown):
            await place(lab, "unknown")
        with pytest.raises(LeaseUnknown):
            await lose(lab, "unknown")

    async def test_a_database_that_was_restored_from_before_an_attempt_goes_on_with_that(self, lab: Lab) -> None:
        await running(lab, "a", command=command(retry=3))
        assert await place(lab, "a", 3) == "build01"
        assert (await command_of(lab)).attempt == 3
        assert (await begin(lab, "a", 3)).env["LEASEHOLD_ATTEMPT"] == "3"

    async def test_after_a_restore_who_has_given_it_to_nobody_asks_again(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await active(lab, "waits", "given")
        await place(lab, "waits")
        await up(lab, slots=1)
        assert await places(lab, "waits", "given") == ["build01", None]

        await lab.store.database.write(commands.distrust)

        assert set(await lab.signalled()) == {"waits", "given"}
        # Nobody knows whether what was given to a runner has begun; a workflow that asks knows that it has not.
        with pytest.raises(CommandOver):
            await begin(lab, "waits")
        await up(lab, "build02")
        assert await place(lab, "given") == "build02"
        await begin(lab, "given", runner="build02")

    async def test_one_that_is_not_heard_of_any_more_gets_nothing(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        lab.clock.forward(seconds=SILENCE.total_seconds())
        await active(lab, "a")
        assert await place(lab, "a") is None
        (runner,) = await lab.store.commands.runners()
        assert (runner.up, runner.slots) == (False, 0)
        await up(lab)
        assert (await command_of(lab)).on == "build01"

    async def test_one_that_leaves_gets_nothing_more_and_is_shown_no_more(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await lab.store.commands.leave("build01", "one")
        await active(lab, "a")
        assert (await place(lab, "a"), await lab.store.commands.runners()) == (None, [])

    async def test_one_that_was_gone_for_long_is_forgotten_when_another_comes(self, lab: Lab) -> None:
        await up(lab, "old")
        lab.clock.forward(hours=1)
        await up(lab, "new")
        assert [runner.name for runner in await lab.store.commands.runners()] == ["new"]


class TestWhatIsNotReadyYet:
    """No command begins on a resource that is still being prepared."""

    async def start(self, lab: Lab, resources: int = 3) -> None:
        """A lease whose command waits for a runner, as one that works on another."""
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.pool("vm", resources, "wipe")
        await active(lab, "a")
        assert await place(lab, "a") is None

    async def test_it_waits_for_what_was_added_and_says_so(self, lab: Lab) -> None:
        await self.start(lab)
        (new,) = [c for c in (await lab.add("a", Item(pool="vm"))).claims if not c.ready]
        await up(lab)
        assert await place(lab, "a") is None
        assert (await command_of(lab)).reason == "waits until all resources of its lease are ready"

        await lab.store.activate("a", (new.held,))

        assert "a" in await lab.signalled()
        assert await place(lab, "a") == "build01"
        assert json.loads((await begin(lab, "a")).env["LEASEHOLD_RESOURCES"])[1]["name"] == new.resource

    @pytest.mark.parametrize("how", ["it failed", "it was dropped", "it was given back"])
    async def test_or_no_longer_for_what_does_not_come(self, lab: Lab, how: str) -> None:
        await self.start(lab)
        (new,) = [c for c in (await lab.add("a", Item(pool="vm"))).claims if not c.ready]
        await up(lab)
        assert await place(lab, "a") is None

        if how == "it failed":
            await lab.report("a", new)
        elif how == "it was dropped":
            await lab.store.report_broken(BrokenInLease(lease="a", broken=(), dropped=(new.held,), reason="too late"))
        else:
            assert (await lab.give_back("a", new.resource, pool="vm")).refusal is None

        assert "a" in await lab.signalled()
        assert await place(lab, "a") == "build01"
        assert len(json.loads((await begin(lab, "a")).env["LEASEHOLD_RESOURCES"])) == 1

    async def test_what_was_added_while_a_runner_took_it_up_it_is_not_told_of(self, lab: Lab) -> None:
        await self.start(lab)
        await up(lab)
        assert await place(lab, "a") == "build01"
        assert (await lab.add("a", Item(pool="vm"))).refusal is None

        assert len(json.loads((await begin(lab, "a")).env["LEASEHOLD_RESOURCES"])) == 1

    async def test_it_waits_for_what_comes_in_the_place_of_a_dead_one(self, lab: Lab) -> None:
        made = spec("r640", "livecheck", "wipe", policy=Policy(on_degraded=OnDegraded.REPLACE), commands=ANYBODY)
        made = replace(
            made,
            stages={StageName.LIVECHECK: (Hook(run="true"),), StageName.WIPE: (Hook(run="true"),)},
            livecheck=Cadence(every=timedelta(minutes=1), attempts=1),
        )
        await lab.store.apply(file((made, hosts(2)), name="r640"), "operator")
        await lab.submit("a", command=MAKE)
        (claim,) = (await lab.store.standing("a")).claims
        await lab.store.activate("a")
        assert await place(lab, "a") is None
        await lab.store.tending.tend(TendPool(pool="r640"))
        failed = Checked(pool="r640", resource=claim.resource, epoch=claim.epoch, failed="no answer")
        await lab.store.tending.checked([failed])
        (new,) = (await lab.store.standing("a")).claims
        await up(lab)
        assert await place(lab, "a") is None

        await lab.store.activate("a", (new.held,))

        assert await place(lab, "a") == "build01"
        assert (await begin(lab, "a")).env["LEASEHOLD_RESOURCE"] == new.resource != claim.resource


class TestBeginning:
    """It begins at most once."""

    async def test_once_it_runs_and_says_since_when(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await active(lab, "a")
        await place(lab, "a")
        lab.clock.forward(seconds=3)

        await begin(lab, "a")

        shown = await command_of(lab)
        assert (shown.state, shown.on, shown.started) == (CommandState.RUNNING, "build01", True)
        assert shown.started_at == NINE + timedelta(seconds=3)
        (event,) = [event for event in await lab.events("a") if event.kind == "command_started"]
        assert (event.actor, event.data) == ("runner build01", {"runner": "build01", "attempt": 1})

    async def test_the_same_process_that_asks_again_is_told_the_same(self, lab: Lab) -> None:
        await running(lab, "a")
        first = await begin(lab, "a")
        lab.clock.forward(seconds=3)
        assert await begin(lab, "a") == first
        assert (await lab.kinds("a")).count("command_started") == 1
        assert (await command_of(lab)).started_at == NINE

    @pytest.mark.parametrize(
        ("who", "why"),
        [
            ({"instance": "two"}, "another process"),
            ({"attempt": 2}, "another runner"),
            ({"runner": "build02"}, "another runner"),
        ],
    )
    async def test_nobody_else_may(self, lab: Lab, who: dict[str, Any], why: str) -> None:
        await running(lab, "a")
        with pytest.raises(CommandOver, match=why):
            await begin(lab, "a", **who)

    async def test_not_before_it_was_given_to_that_runner(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await active(lab, "a")
        with pytest.raises(CommandOver):
            await begin(lab, "a")

    async def test_not_after_its_lease_has_ended(self, lab: Lab) -> None:
        await running(lab, "a")
        await close(lab, report=EXITED)
        for lease in ("a", "unknown"):
            with pytest.raises(CommandOver, match="over"):
                await begin(lab, lease)

    async def test_not_once_its_workflow_has_given_it_up(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await active(lab, "a")
        await place(lab, "a")
        assert await lose(lab, "a", final=True) == AfterLoss(again=False)
        with pytest.raises(CommandOver):
            await begin(lab, "a")
        assert await lose(lab, "a", final=True) == AfterLoss(again=False)

    async def test_not_where_the_pool_does_not_let_it_run_any_more(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await up(lab, slots=2)
        await active(lab, "a", "b")
        await places(lab, "a", "b")
        await lab.pool("r640", 2, commands=CommandPolicy(rules=(CommandRule(users=("joe",)),)))
        with pytest.raises(CommandOver, match="no rule of pool r640 lets alice"):
            await begin(lab, "a")

        await lab.pool("r640", 2, commands=CommandPolicy(rules=(CommandRule(account="ci"),)))

        with pytest.raises(CommandOver, match="it would run as ci now"):
            await begin(lab, "b")
        assert (await command_of(lab, "b")).started is False

    async def test_names_take_the_place_of_resource_in_its_arguments(self, lab: Lab) -> None:
        await lab.pool("board", 2, commands=ANYBODY)
        await lab.pool("licence", 1)
        await up(lab)
        asked = command("flash", "@RESOURCE", "-l@RESOURCE:licence", "@RESOURCE:8080", "$HOME")
        items = (Item(pool="board", count=2), Item(pool="licence"))
        await lab.take("a", *items, command=asked)
        await place(lab, "a")
        assert (await begin(lab, "a")).argv == (
            "flash",
            "host01,host02",
            "-lhost01",
            "host01,host02:8080",
            "$HOME",
        )

    async def test_what_it_is_told(self, lab: Lab) -> None:
        policy = CommandPolicy(rules=(CommandRule(account="{owner}"),), output=999, grace=timedelta(seconds=7))
        await lab.pool("board", 1, commands=policy)
        await lab.pool("licence", 1)
        await up(lab)
        await lab.submit("other", pool="board", command=replace(MAKE, labels=("none",)))
        await lab.close("other", Outcome.CANCELLED)
        items = (Item(pool="board", role="dut"), Item(pool="licence"))
        await lab.take("a", *items, command=replace(MAKE, timeout="2h"))
        await place(lab, "a")

        begun = await begin(lab, "a")

        env = dict(begun.env)
        resources = json.loads(env.pop("LEASEHOLD_RESOURCES"))
        delivery = json.loads(env.pop("LEASEHOLD_DELIVERY"))
        assert replace(begun, env={}) == Begun(
            lease="a",
            number=2,
            owner="alice",
            pool="board",
            argv=("make", "test"),
            shell=False,
            env={},
            folder="/src",
            account="alice",
            timeout_s=7200.0,
            grace_s=7.0,
            output_limit=999,
        )
        assert env == {
            "LEASEHOLD_LEASE": "a",
            "LEASEHOLD_NUMBER": "2",
            "LEASEHOLD_OWNER": "alice",
            "LEASEHOLD_POOL": "board",
            "LEASEHOLD_RESOURCE": "host01",
            "LEASEHOLD_ATTEMPT": "1",
            "DCI_QUEUE": "board",
            "DCI_QUEUE_RES": "host01",
            "DCI_QUEUE_ID": "2",
            "DCI_QUEUE_JOBID": "board.2",
            "DCI_QUEUE1": "board",
            "DCI_QUEUE_RES1": "host01",
            "DCI_QUEUE2": "licence",
            "DCI_QUEUE_RES2": "host01",
        }
        assert [(one["pool"], one["name"], one["role"], one["item"]) for one in resources] == [
            ("board", "host01", "dut", 0),
            ("licence", "host01", None, 1),
        ]
        assert (delivery["lease"], len(delivery["resources"])) == ("a", 2)

    async def test_without_a_bound_there_is_none(self, lab: Lab) -> None:
        await running(lab, "a")
        begun = await begin(lab, "a")
        assert (begun.timeout_s, begun.output_limit, begun.account) == (None, OUTPUT_LIMIT, None)


class TestSecrets:
    """The environment of a command is kept for it alone."""

    async def begun(self, lab: Lab) -> Begun:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await active(lab, "a", digest="mine")
        await place(lab, "a")
        return await begin(lab, "a")

    async def test_what_came_with_the_request_is_in_it(self, lab: Lab) -> None:
        for _ in range(2):
            await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret", "LEASEHOLD_OWNER": "root"}))
        begun = await self.begun(lab)
        assert (begun.env["TOKEN"], begun.env["LEASEHOLD_OWNER"]) == ("s3cret", "alice")

    async def test_what_came_with_another_request_under_the_same_id_is_not(self, lab: Lab) -> None:
        await lab.store.seal("a", "somebody else's", Sealed(env={"TOKEN": "canary"}))
        assert "TOKEN" not in (await self.begun(lab)).env

    async def test_it_is_deleted_with_the_end_of_the_command(self, lab: Lab) -> None:
        await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret"}))
        await lab.store.seal("a", "somebody else's", Sealed(env={"TOKEN": "canary"}))
        await lab.store.seal("b", "theirs", Sealed(env={"TOKEN": "other"}))
        await self.begun(lab)
        await close(lab, report=EXITED)
        assert await envelopes(lab) == ["b"]

    async def test_what_its_hooks_need_too_stays_until_those_have_had_it(self, lab: Lab) -> None:
        secret = {"SITE_KEY": "s3cret"}
        await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret"}, secrets=secret))
        begun = await self.begun(lab)
        assert begun.env["LEASEHOLD_SECRETS"] == '{"SITE_KEY": "s3cret"}'
        await close(lab, report=EXITED)
        assert await lab.store.database.read(envelopes_of, "a") == Sealed(secrets=secret)
        await lab.store.prune()
        assert await envelopes(lab) == []

    async def test_also_of_one_that_never_began(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.take("other")
        await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret"}))
        await submit(lab, "a", digest="mine")
        await close(lab, outcome=Outcome.CANCELLED)
        assert await envelopes(lab) == []

    async def test_what_no_worker_admits_goes_after_a_month(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.store.seal("never", "digest", Sealed(env={"TOKEN": "s3cret"}))
        await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret"}))
        await active(lab, "a", digest="mine")
        lab.clock.forward(days=30)
        await lab.store.prune()
        assert await envelopes(lab) == ["a", "never"]
        lab.clock.forward(seconds=1)
        await lab.store.prune()
        assert await envelopes(lab) == ["a"]

    async def test_what_comes_again_after_the_end_goes_too(self, lab: Lab) -> None:
        await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret"}))
        await self.begun(lab)
        await close(lab, report=EXITED)
        await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret"}))
        lab.clock.forward(days=1, seconds=1)
        await lab.store.prune()
        assert await envelopes(lab) == []

    async def test_readers_see_none_of_it(self, lab: Lab) -> None:
        await lab.store.seal("a", "mine", Sealed(env={"TOKEN": "s3cret"}))
        await self.begun(lab)
        await close(lab, report=EXITED)
        seen = [await lab.lease("a"), await lab.events("a"), await lab.store.outbox_due()]
        assert "s3cret" not in repr(seen)


class TestAWorkflowThatHasForgotten:
    """It was reset, and asks anew for what it has had."""

    async def test_is_told_that_its_command_was_begun(self, lab: Lab) -> None:
        await running(lab, "a")
        found = await lab.store.commands.place(PlaceCommand(lease="a", attempt=1))
        assert found == Placement(runner="build01", attempt=1, begun=True)
        assert (await lose(lab)).report == CommandReport(ending=CommandEnding.LOST, detail="nothing was heard of it")

    async def test_goes_on_with_the_attempt_that_the_record_has(self, lab: Lab) -> None:
        await running(lab, "a", command=command(retry=1))
        assert (await lose(lab)).again
        found = await lab.store.commands.place(PlaceCommand(lease="a", attempt=1))
        assert (found.runner, found.attempt, found.begun) == (None, 2, False)


class TestWhatItUses:
    """What a command may be using nobody else gets before it has ended."""

    async def test_no_part_of_the_lease_is_given_back_meanwhile(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await up(lab)
        await lab.take("a", Item(pool="r640", count=2), command=MAKE)
        assert not (await lab.give_back("a", "host01")).refusal, "nothing runs yet"
        await close(lab, "a")
        await lab.take("b", Item(pool="r640", count=2), command=command("make", "b"))
        await place(lab, "b")
        for _ in range(2):
            refusal = (await lab.give_back("b", "host01")).refusal
            assert refusal is not None
            assert refusal.code == "command_runs"
            await begin(lab, "b")
        assert await lab.held("b") == ["host01", "host02"]

    @pytest.mark.parametrize("missing", [{"variables": ("DRY_RUN",)}, {"secrets": True}])
    async def test_without_its_environment_it_does_not_begin(self, lab: Lab, missing: dict[str, Any]) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await active(lab, "a", command=command(**missing))
        await place(lab, "a")
        with pytest.raises(CommandOver, match="environment is not known"):
            await begin(lab, "a")

    async def test_what_an_outer_command_was_told_it_is_not_told(self, lab: Lab) -> None:
        outer = {"DCI_QUEUE_RES2": "elsewhere", "LEASEHOLD_LEASE": "another", "MINE": "1"}
        await lab.store.seal("a", "mine", Sealed(env=outer))
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await active(lab, "a", digest="mine", command=command(variables=tuple(outer)))
        await place(lab, "a")
        begun = await begin(lab, "a")
        assert begun.given == ("MINE",)
        assert "DCI_QUEUE_RES2" not in begun.env
        assert (begun.env["MINE"], begun.env["LEASEHOLD_LEASE"]) == ("1", "a")

    async def test_the_same_command_is_not_a_duplicate_of_one_whose_lease_has_ended(self, lab: Lab) -> None:
        await running(lab, "a", command=command(unique=True))
        await close(lab, "a", outcome=Outcome.LOST)
        # As a restored database may have it.
        await lab.store.database.write(
            lambda tx: tx.execute(update(t.commands).values(ended_at=None, state="waiting", ending=None))
        )
        assert (await lab.submit("b", command=command(unique=True))).refusal is None


class TestARunnerThatComesBack:
    """One that is started anew where an earlier one was knows that nothing of that lives."""

    async def test_what_the_earlier_one_ran_is_known_to_be_gone_at_once(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await lab.store.commands.register("build01", host("one", slots=2))
        await active(lab, "begun", "given")
        await places(lab, "begun", "given")
        await begin(lab, "begun")

        for _ in range(2):
            await lab.store.commands.register("build01", host("two", slots=2))

        why = "runner build01 on build01.lab was started anew"
        assert [await lab.store.commands.gone(lease, 1) for lease in ("begun", "given")] == [why, None]
        assert await lab.signalled() == ["begun"]
        (runner,) = await lab.store.commands.runners()
        assert [one.instance for one in runner.hosts] == ["two"]

    @pytest.mark.parametrize(
        ("name", "place"),
        [
            ("build01", replace(HERE, locks="others")),
            ("build01", replace(HERE, processes="a container's")),
            ("build01", replace(HERE, host="build02.lab", boot="others")),
            ("build02", HERE),
        ],
    )
    async def test_of_another_place_or_name_it_knows_nothing(self, lab: Lab, name: str, place: Place) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.store.commands.register("build01", host("one"))
        await active(lab, "a", command=command(runner="build01"))
        await place_and_begin(lab, "a")
        await lab.store.commands.register(name, host("two", place=place))
        assert (await lab.store.commands.gone("a", 1), await lab.signalled()) == (None, [])

    async def test_after_a_restart_of_the_machine_nothing_of_before_lives(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.store.commands.register("build01", host("one"))
        await active(lab, "a")
        await place_and_begin(lab, "a")
        await lab.store.commands.register("build01", host("two", place=replace(HERE, boot="next", processes="others")))
        assert await lab.store.commands.gone("a", 1) is not None

    async def test_the_next_attempt_is_not_taken_for_gone(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.store.commands.register("build01", host("one"))
        await active(lab, "a", command=command(retry=1))
        await place_and_begin(lab, "a")
        await lab.store.commands.register("build01", host("two"))
        await lose(lab, "a")
        gone = [await lab.store.commands.gone("a", attempt) for attempt in (1, 2)]
        assert gone == ["it was lost", None], "as long as somebody asks: whoever has noted the loss may have died"
        assert await place(lab, "a", 2) == "build01"
        assert (await begin(lab, "a", 2, instance="two")).env["LEASEHOLD_ATTEMPT"] == "2"


class TestLosses:
    """After a runner is lost a command is run again only where nothing can be run twice, or that was declared safe."""

    async def test_one_that_was_not_taken_up_is_tried_again_however_often(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab)
        await active(lab, "a")
        for attempt in range(1, 5):
            assert await place(lab, "a", attempt) == "build01"
            assert await lose(lab, "a", attempt) == AfterLoss(again=True, attempt=attempt + 1, missed=True)
            with pytest.raises(CommandOver):
                await begin(lab, "a", attempt)
        shown = await command_of(lab)
        assert (shown.state, shown.attempt, shown.started) == (CommandState.WAITING, 5, False)

    async def test_one_that_was_ends_as_lost(self, lab: Lab) -> None:
        await running(lab, "a")
        after = await lose(lab)
        report = CommandReport(ending=CommandEnding.LOST, detail="nothing was heard of it")
        assert after == AfterLoss(again=False, report=report)

    async def test_or_is_run_again_as_often_as_was_declared_safe(self, lab: Lab) -> None:
        await running(lab, "a", command=command(retry=2))
        again = []
        for attempt in (1, 2, 3):
            again.append((await lose(lab, "a", attempt)).again)
            if again[-1]:
                assert await place(lab, "a", attempt + 1) == "build01"
                lab.clock.forward(seconds=5)
                await begin(lab, "a", attempt + 1)
        assert again == [True, True, False]
        shown = await command_of(lab)
        assert (shown.attempt, shown.started_at) == (3, NINE), "since it was begun first"
        events = [event for event in await lab.events("a") if event.kind == "command_lost"]
        assert [(event.data["attempt"], event.reason) for event in events] == [
            (1, "nothing was heard of it"),
            (2, "nothing was heard of it"),
        ]

    async def test_attempts_that_were_not_taken_up_do_not_count(self, lab: Lab) -> None:
        await running(lab, "a", command=command(retry=1))
        assert (await lose(lab, "a", 1)).again
        assert (await lose(lab, "a", 2)).again, "nobody had begun it"
        await place(lab, "a", 3)
        await begin(lab, "a", 3)
        assert not (await lose(lab, "a", 3)).again

    async def test_not_while_its_lease_ends(self, lab: Lab) -> None:
        await running(lab, "a", command=command(retry=9))
        after = await lose(lab, final=True)
        assert (after.again, after.report and after.report.ending) == (False, CommandEnding.LOST)

    async def test_asked_again_the_answer_is_the_same_and_nothing_is_done_twice(self, lab: Lab) -> None:
        await running(lab, "again", "over", command=command(retry=1))
        assert await lose(lab, "again") == await lose(lab, "again") == AfterLoss(again=True, attempt=2)
        assert await lose(lab, "over", final=True) == await lose(lab, "over", final=True)
        assert (await lab.kinds("again")).count("command_lost") == 1
        await close(lab, "over", Outcome.LOST, (await lose(lab, "over", final=True)).report)
        assert (await lose(lab, "over")).report == CommandReport(
            ending=CommandEnding.LOST, detail="nothing was heard of it"
        )

    async def test_in_a_database_from_before_an_attempt_that_may_have_begun_it(self, lab: Lab) -> None:
        await running(lab, "a", command=command(retry=9))
        after = await lose(lab, "a", 2)
        assert (after.again, after.report and after.report.ending) == (False, CommandEnding.LOST)

    async def test_what_it_had_of_its_runner_the_next_one_gets(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await up(lab)
        await active(lab, "a", "b", command=command(retry=1))
        assert await places(lab, "a", "b") == ["build01", None]
        await lose(lab, "a")
        assert (await command_of(lab, "b")).on == "build01"


class TestOutput:
    """What a command printed is taken from the runner that has it, or had it, and from nobody else."""

    async def takes(self, lab: Lab, runner: str, attempt: int) -> bool:
        try:
            about = await lab.store.commands.output_of(runner, "a", attempt)
        except (CommandOver, LeaseUnknown):
            return False
        assert (about.lease, about.attempt, about.pool, about.resource) == ("a", attempt, "r640", "host01")
        return True

    async def test_each_attempt_is_its_own_runners(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await up(lab, "build01")
        await active(lab, "a", command=command(retry=1))
        await place_and_begin(lab, "a")
        await up(lab, "build02")
        await lab.store.commands.leave("build01", "one")
        assert (await lose(lab)).again
        assert await place(lab, "a", 2) == "build02"
        await begin(lab, "a", 2, runner="build02")

        taken = {(runner, n): await self.takes(lab, runner, n) for runner in ("build01", "build02") for n in (1, 2, 3)}

        assert [who for who, is_taken in taken.items() if is_taken] == [("build01", 1), ("build02", 2)]

    async def test_it_comes_also_after_the_end(self, lab: Lab) -> None:
        await running(lab, "a")
        await close(lab, report=EXITED)
        assert await self.takes(lab, "build01", 1)
        assert not await self.takes(lab, "build02", 1)

    async def test_a_record_that_is_older_than_it_does_not_refuse_it_for_ever(self, lab: Lab) -> None:
        async def asked(attempt: int = 1) -> str:
            with pytest.raises(LeaseholdError) as refused:
                await lab.store.commands.output_of("build01", "a", attempt)
            return refused.value.code

        assert await asked() == "lease_unknown", "the copy has nothing of it"
        await lab.pool("r640", 1, commands=ANYBODY)
        await active(lab, "a")
        assert await asked() == "lease_unknown", "it was given to nobody"
        await lab.store.database.write(commands.distrust)
        assert await self.takes(lab, "build01", 1)
        assert await asked(2) == "lease_unknown", "it was not lost yet"
        await close(lab, report=EXITED)
        assert await self.takes(lab, "build01", 1)
        assert await asked(2) == "command_over"

    async def test_what_somebody_else_has_is_refused_for_ever(self, lab: Lab) -> None:
        await running(lab, "a")
        with pytest.raises(CommandOver):
            await lab.store.commands.output_of("build02", "a", 1)


class TestEnding:
    """It ends with its lease, and says how."""

    async def test_as_its_runner_told(self, lab: Lab) -> None:
        await running(lab, "a")
        lab.clock.forward(minutes=3)

        closed = await close(lab, report=replace(EXITED, code=3, detail="exit status 3", dropped=2))

        assert (closed.outcome, await lab.state("a")) == (Outcome.RELEASED, "ended")
        shown = await command_of(lab)
        assert (shown.state, shown.ending, shown.code) == (CommandState.ENDED, CommandEnding.EXITED, 3)
        assert (shown.detail, shown.output_bytes, shown.dropped) == ("exit status 3", 7, 2)
        assert (shown.started, shown.ended_at) == (True, NINE + timedelta(minutes=3))
        (event,) = [event for event in await lab.events("a") if event.kind == "command_ended"]
        assert (event.reason, event.data) == ("exit status 3", {"result": "exited", "code": 3, "started": True})

    async def test_what_its_runner_could_not_start_has_not_started(self, lab: Lab) -> None:
        await running(lab, "a")
        report = CommandReport(ending=CommandEnding.NOT_STARTED, detail="there is no account ci", started=False)
        error = Refusal(code="command_not_started", detail=report.detail)
        await close(lab, outcome=Outcome.FAILED, report=report, error=error)
        shown = await command_of(lab)
        assert (shown.ending, shown.started, shown.started_at) == (CommandEnding.NOT_STARTED, False, None)

    @pytest.mark.parametrize(
        ("outcome", "ending"),
        [
            (Outcome.EXPIRED, CommandEnding.TIMED_OUT),
            (Outcome.CANCELLED, CommandEnding.CANCELLED),
            (Outcome.RELEASED, CommandEnding.CANCELLED),
            (Outcome.LOST, CommandEnding.CANCELLED),
            (Outcome.FAILED, CommandEnding.NOT_STARTED),
        ],
    )
    async def test_one_that_never_began_by_how_its_lease_did(
        self, lab: Lab, outcome: Outcome, ending: CommandEnding
    ) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await active(lab, "a")
        await place(lab, "a")
        await close(lab, outcome=outcome, reason="enough")
        shown = await command_of(lab)
        assert (shown.ending, shown.started, shown.reason) == (ending, False, None)
        assert shown.detail is not None
        assert shown.detail.endswith(": enough")

    @pytest.mark.parametrize("outcome", list(Outcome))
    async def test_one_that_began_and_of_which_nobody_told_is_lost(self, lab: Lab, outcome: Outcome) -> None:
        await running(lab, "a")
        await close(lab, outcome=outcome)
        shown = await command_of(lab)
        assert (shown.ending, shown.started) == (CommandEnding.LOST, True)
        assert shown.detail == "its lease ended, and its runner has not told of it"

    async def test_one_that_was_lost_before_and_then_cancelled_had_started(self, lab: Lab) -> None:
        await running(lab, "a", command=command(retry=1))
        await lose(lab)
        await close(lab, outcome=Outcome.CANCELLED)
        shown = await command_of(lab)
        assert (shown.ending, shown.started) == (CommandEnding.CANCELLED, True)

    async def test_it_is_not_closed_over_a_command_that_may_be_running(self, lab: Lab) -> None:
        async def close_forgotten(lease: str) -> Closed | None:
            order = CloseLease(lease=lease, outcome=Outcome.FAILED, actor="leasehold", stopped=True)
            return await lab.store.close_forgotten(order)

        await running(lab, "a")
        for _ in range(2):
            assert await close_forgotten("a") is None
        assert await lab.state("a") == "active"
        await close(lab)
        await active(lab, "b")
        assert await place(lab, "b") == "build01"
        assert await close_forgotten("b") == Closed(state=LeaseState.ENDED, outcome=Outcome.FAILED)
        with pytest.raises(CommandOver):
            await begin(lab, "b")

    async def test_closed_again_nothing_changes(self, lab: Lab) -> None:
        await running(lab, "a")
        first = await close(lab, report=EXITED)
        ended = await command_of(lab), await lab.events("a")
        lab.clock.forward(minutes=1)
        assert await close(lab, outcome=Outcome.CANCELLED) == first
        assert (await command_of(lab), await lab.events("a")) == ended

    async def test_in_the_queue_it_ends_with_its_place_there(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.take("other")
        await submit(lab, "a")
        await close(lab, outcome=Outcome.CANCELLED)
        assert (await command_of(lab)).ending is CommandEnding.CANCELLED

    async def test_what_is_due_is_told_while_it_may_run_and_nobody_gets_its_resource_yet(self, lab: Lab) -> None:
        await running(lab, "a", duration="1h")
        await lab.submit("waiter")
        lab.clock.forward(hours=1)

        due = Tick(lease="a", stopped=True, commanded=True)
        held = [await lab.store.tick(due) for _ in range(2)]

        assert [one.is_due for one in held] == [True, True]
        assert (await lab.state("a"), await lab.state("waiter")) == ("active", "queued")
        assert (await lab.store.tick(replace(due, commanded=False))).outcome is Outcome.EXPIRED
        assert await lab.state("waiter") == "preparing"

    async def test_before_that_warnings_and_grace_are_as_of_others(self, lab: Lab) -> None:
        policy = Policy(warn_before=(timedelta(minutes=10),), grace=timedelta(hours=1))
        await lab.pool("r640", 1, policy=policy, commands=ANYBODY)
        await active(lab, "a", duration="1h")
        due = Tick(lease="a", stopped=True, commanded=True)
        lab.clock.forward(minutes=50)
        assert not (await lab.store.tick(due)).is_due
        lab.clock.forward(minutes=10)
        assert not (await lab.store.tick(due)).is_due
        assert (await lab.lease("a")).in_grace
        lab.clock.forward(hours=1)
        assert (await lab.store.tick(due)).is_due

    async def test_of_a_dead_resource_its_workflow_is_told_and_nobody_gets_it_yet(self, lab: Lab) -> None:
        made = spec("r640", "livecheck", policy=Policy(on_degraded=OnDegraded.END), commands=ANYBODY)
        made = replace(
            made,
            stages={StageName.LIVECHECK: (Hook(run="true"),)},
            livecheck=Cadence(every=timedelta(minutes=1), attempts=1),
        )
        await lab.store.apply(file((made, hosts(1)), name="r640"), "operator")
        await lab.submit("a", command=MAKE)
        (claim,) = (await lab.store.standing("a")).claims
        await lab.store.tending.tend(TendPool(pool="r640"))
        failed = Checked(pool="r640", resource="host01", epoch=claim.epoch, failed="no answer")

        await lab.store.tending.checked([failed])

        standing = await lab.store.standing("a")
        assert (standing.state, len(standing.claims)) == (LeaseState.ACTIVE, 1)
        doomed = Refusal(code="resource_lost", detail="r640/host01: livecheck: no answer")
        assert standing.doomed == doomed
        assert "a" in await lab.signalled()
        await lab.store.tending.checked([failed])
        assert await lab.state("a") == "active"
        await close(lab, outcome=Outcome.FAILED, error=doomed)
        error = (await lab.lease("a")).error
        assert error is not None
        assert error.code == "resource_lost"
