"""Commands of leases: who may run what, how often, when it is held back, and how it is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from leasehold.access import Role
from leasehold.commands import (
    Command,
    CommandEnding,
    CommandPolicy,
    CommandRule,
    CommandSpec,
    CommandState,
    OnEnd,
)
from leasehold.errors import CommandOver, OwnedElsewhere, PoolUnknown
from leasehold.messages import (
    AdmitLease,
    Admitted,
    Consent,
    PlaceCommand,
    SubmitLease,
    Tick,
)
from leasehold.model import (
    HolderMay,
    Item,
    LeaseState,
    Outcome,
    Policy,
)
from leasehold.ports import CommandFilter, LeaseFilter
from leasehold.store import admission
from leasehold.store.engine import Tx
from tests.contract.command_lab import (
    ANYBODY,
    EXITED,
    MAKE,
    active,
    begin,
    close,
    command,
    command_of,
    lose,
    offline,
    place,
    place_and_begin,
    refusal,
    submit,
    up,
)
from tests.contract.store_lab import NINE, Lab, hosts, request, spec

KEEP: Mapping[str, Any] = {"on_end": OnEnd.OFFLINE, "on_end_reason": "to be looked at"}


class TestRequests:
    async def test_a_lease_with_a_command_lasts_as_long_as_the_policy_allows(self, lab: Lab) -> None:
        policy = Policy(default_duration=timedelta(hours=1), max_duration=timedelta(hours=8))
        await lab.pool("r640", 3, policy=policy, commands=ANYBODY)

        await active(lab, "usual")
        await active(lab, "bounded", command=command(timeout="2h"))
        await active(lab, "chosen", duration="3h")

        ends = [(await lab.lease(lease)).expires_at for lease in ("usual", "bounded", "chosen")]
        # What a command may take, and a little to find a runner and to stop it.
        spans = (timedelta(hours=8), timedelta(hours=2, minutes=10), timedelta(hours=3))
        assert ends == [NINE + span for span in spans]

    async def test_however_late_it_begins_it_has_its_whole_time(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await active(lab, "a", command=command(timeout="30m", retry=1))
        due = Tick(lease="a", stopped=True, commanded=True)

        async def end_after(minutes: int) -> timedelta:
            lab.clock.forward(minutes=minutes)
            assert not (await lab.store.tick(due)).is_due
            end = (await lab.lease("a")).expires_at
            assert end is not None
            return end - NINE

        # Nobody is there to run it for 35 minutes, nor for the next 40.
        assert await end_after(35) == timedelta(minutes=40)
        assert await end_after(5) == timedelta(minutes=40 + 40)
        lab.clock.forward(minutes=39)
        await up(lab)
        await place_and_begin(lab, "a")
        assert await end_after(1) == timedelta(minutes=79 + 40)
        # Its runner is lost with it 25 minutes later, and it begins anew.
        lab.clock.forward(minutes=24)
        assert (await lose(lab)).again
        await up(lab)
        await place(lab, "a", 2)
        await begin(lab, "a", 2)
        assert await end_after(15) == timedelta(minutes=104 + 40)
        # That is all.
        lab.clock.forward(minutes=25)
        assert (await lab.store.tick(due)).is_due

    async def test_not_beyond_what_was_asked_for_or_is_allowed(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(max_total=timedelta(minutes=60)), commands=ANYBODY)
        await active(lab, "chosen", command=command(timeout="30m"), duration="35m")
        await active(lab, "bounded", command=command("make", "more", timeout="30m"))
        lab.clock.forward(minutes=40)
        held = [await lab.store.tick(Tick(lease=one, stopped=True, commanded=True)) for one in ("chosen", "bounded")]
        assert [one.is_due for one in held] == [True, False]
        assert (await lab.lease("bounded")).expires_at == NINE + timedelta(minutes=60)

    async def test_it_is_shown_as_it_was_asked_for(self, lab: Lab) -> None:
        policy = replace(ANYBODY, rules=(CommandRule(account="ci"),), output=1024, timeout=timedelta(hours=6))
        await lab.pool(commands=policy)
        wanted = command("make", "a b", folder="/src", variables=("CI",), timeout="2h", retry=2)

        await submit(lab, "a", command=wanted)

        assert await command_of(lab) == Command(
            spec=wanted,
            account="ci",
            state=CommandState.WAITING,
            reason=None,
            on=None,
            attempt=1,
            started=False,
            started_at=None,
            ended_at=None,
            ending=None,
            code=None,
            detail=None,
            output_limit=1024,
            output_bytes=None,
            dropped=None,
        )
        assert (await lab.lease("a")).on_end is OnEnd.FREE

    async def test_a_lease_without_a_command_has_none(self, lab: Lab) -> None:
        await lab.pool()
        await lab.submit("a")
        assert (await lab.lease("a")).command is None

    async def test_the_first_item_names_its_pool(self, lab: Lab) -> None:
        await lab.pool(commands=ANYBODY)
        refused = await refusal(lab, "a", Item())
        assert refused.code == "invalid"
        assert [(fault.path, fault.code) for fault in refused.faults] == [("items[0].pool", "missing")]

    async def test_it_may_take_no_longer_than_the_pools_commands_do(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=replace(ANYBODY, timeout=timedelta(hours=6)))
        refused = await refusal(lab, "a", command=command(timeout="7h"))
        assert (refused.code, refused.faults[0].path) == ("duration_refused", "command.timeout")

        await active(lab, "b")

        assert (await lab.store.commands.place(PlaceCommand(lease="b", attempt=1))).timeout_s == 6 * 3600

    async def test_the_same_request_twice_is_one_lease(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        first = await submit(lab, "a", command=command(unique=True))
        assert await submit(lab, "a", command=command(unique=True)) == first


class TestWhoMayRunWhat:
    """The first rule that fits says as whom."""

    async def test_of_a_pool_that_says_nothing_admins_alone(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        for role in (Role.USER, Role.OPERATOR):
            refused = await refusal(lab, role, command=command(role=role))
            assert refused.code == "command_refused"
            assert refused.detail == f"no rule of pool r640 lets alice, as {role}, run make test"
        assert (await submit(lab, "admin", command=command(role=Role.ADMIN))).claims

    async def test_what_does_not_fit_is_named(self, lab: Lab) -> None:
        rules = (CommandRule(run=("ninja",)), CommandRule(run=("make *",), folders=("/srv/*",), env=("LANG",)))
        await lab.pool(commands=CommandPolicy(rules=rules))
        base = "no rule of pool r640 lets alice, as user, run make test"
        asked = {
            "folder": command(folder="/tmp"),
            "fresh": command(),
            "variables": command(folder="/srv/a", variables=("HOME", "LANG")),
        }
        refused = [(await refusal(lab, lease, command=wanted)).detail for lease, wanted in asked.items()]
        assert refused == [f"{base} in /tmp", f"{base} in a fresh folder", f"{base} with HOME, LANG set"]

    async def test_of_one_that_names_nobody_operators_alone(self, lab: Lab) -> None:
        await lab.pool(commands=CommandPolicy())
        assert (await refusal(lab, "a")).code == "command_refused"
        assert (await submit(lab, "b", command=command(role=Role.OPERATOR))).claims

    async def test_nobody_may_where_there_is_no_rule_at_all(self, lab: Lab) -> None:
        await lab.pool(commands=CommandPolicy(rules=()))
        assert (await refusal(lab, "a", command=command(role=Role.ADMIN))).code == "command_refused"

    @pytest.mark.parametrize(
        ("owner", "asked", "account"),
        [
            ("ci-7", command("make", "test"), "ci"),
            ("ci-7", command("make"), "ci"),
            ("ci-7", command("make", "test", variables=("CI_JOB",)), "ci"),
            ("ci-7", command("make", "test", variables=("LD_PRELOAD",)), "refused"),
            ("ci-7", command("make test", shell=True), "refused"),
            ("ci-7", command("rm", "-r", "/"), "refused"),
            ("joe", command("./run"), "joe"),
            ("joe", command("make", variables=("ANYTHING",)), "joe"),
            ("joe", command("a | b", shell=True), "joe"),
            ("tom", command("make"), "refused"),
            ("tom", command("make", role=Role.ADMIN), None),
        ],
    )
    async def test_the_first_rule_that_fits_holds(
        self, lab: Lab, owner: str, asked: CommandSpec, account: str | None
    ) -> None:
        rules = (
            CommandRule(users=("ci-*",), run=("make *",), env=("CI_*",), account="ci"),
            CommandRule(users=("joe", "ann"), account="{owner}"),
            CommandRule(users=("ci-*", "joe"), role=Role.OPERATOR, account="never"),
            CommandRule(role=Role.ADMIN),
        )
        await lab.pool(commands=CommandPolicy(rules=rules))

        admitted = await submit(lab, "a", command=asked, owner=owner)

        if account == "refused":
            assert admitted.refusal is not None
            assert admitted.refusal.code == "command_refused"
        else:
            assert (await command_of(lab)).account == account

    async def test_variables_are_refused_where_only_certain_commands_may_run(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=CommandPolicy(rules=(CommandRule(run=("make *",)),)))
        assert (await refusal(lab, "a", command=command(variables=("PATH",)))).code == "command_refused"
        assert (await submit(lab, "b")).claims

    async def test_a_line_for_a_shell_needs_to_be_allowed_by_name(self, lab: Lab) -> None:
        line = command("make test", shell=True)
        await lab.pool(commands=CommandPolicy(rules=(CommandRule(run=("make *",), shell=True),)))
        assert (await submit(lab, "a", command=line)).claims

    async def test_another_pool_of_the_same_lease_has_no_say(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.pool("licence", 1)
        assert (await submit(lab, "a", Item(pool="r640"), Item(pool="licence"))).claims
        assert (await refusal(lab, "b", Item(pool="licence"), Item(pool="r640"))).code == "command_refused"


class TestDuplicates:
    """Where one is enough the second is answered with the first."""

    ONE = command("make", folder="/src", unique=True)

    async def test_the_same_again_is_refused_with_the_first_leases_id_while_it_waits_and_runs(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.take("other")
        await submit(lab, "a", command=self.ONE)
        queued = await refusal(lab, "b", command=self.ONE)
        await close(lab, "other")
        await lab.store.activate("a")
        active = await refusal(lab, "c", command=self.ONE)

        for refused in (queued, active):
            assert refused.code == "duplicate"
            assert [(fault.code, fault.detail) for fault in refused.faults] == [("duplicate_of", "a")]
        assert queued.detail == "the same command is there already, as lease 2"

    async def test_the_answer_is_the_same_when_it_comes_again_later(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await active(lab, "a", command=self.ONE)
        first = await refusal(lab, "b", command=self.ONE)
        await close(lab, "a", report=EXITED)
        assert await refusal(lab, "b", command=self.ONE) == first

    async def test_after_its_end_it_may_come_again(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await active(lab, "a", command=self.ONE)
        await close(lab, "a", report=EXITED)
        assert (await submit(lab, "b", command=self.ONE)).claims

    async def test_without_being_asked_nobody_looks(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await submit(lab, "a", command=self.ONE)
        assert (await submit(lab, "b", command=replace(self.ONE, unique=False))).claims

    async def test_one_that_did_not_ask_for_it_is_the_first_all_the_same(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await submit(lab, "a", command=replace(self.ONE, unique=False))
        assert (await refusal(lab, "b", command=self.ONE)).faults[0].detail == "a"

    @pytest.mark.parametrize(
        ("asked", "items", "owner"),
        [
            (replace(ONE, folder="/other"), ("r640",), "alice"),
            (replace(ONE, folder=None), ("r640",), "alice"),
            (replace(ONE, argv=("make", "all")), ("r640",), "alice"),
            (replace(ONE, shell=True), ("r640",), "alice"),
            (ONE, ("r640",), "bob"),
            (ONE, ("vm", "r640"), "alice"),
        ],
    )
    async def test_another_folder_command_owner_or_pool_is_another_command(
        self, lab: Lab, asked: CommandSpec, items: Sequence[str], owner: str
    ) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await lab.pool("vm", 1, commands=ANYBODY)
        await submit(lab, "a", command=self.ONE)
        wanted = [Item(pool=pool) for pool in items]
        assert (await submit(lab, "b", *wanted, command=asked, owner=owner)).claims

    async def test_with_something_of_another_pool_it_is_the_same_all_the_same(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await lab.pool("vm", 1)
        await submit(lab, "a", command=self.ONE)
        both = (Item(pool="r640"), Item(pool="vm"))
        assert (await refusal(lab, "b", *both, command=self.ONE)).faults[0].detail == "a"


class TestHeldBack:
    """One with a negative priority waits until it is withdrawn."""

    async def test_it_is_never_granted_even_when_all_is_free(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        assert (await submit(lab, "held", priority=-1)).state is LeaseState.QUEUED

        await lab.take("a")
        await lab.close("a")
        await lab.pool("r640", 3, commands=ANYBODY)
        lab.clock.forward(days=30)
        await lab.store.wake("held")

        lease = await lab.lease("held")
        assert (lease.state, lease.resources) == (LeaseState.QUEUED, ())
        assert lease.queue is not None
        assert lease.queue.reason == "held: its priority is negative, so it waits until it is withdrawn"
        (event,) = await lab.events("held")
        assert (event.kind, event.reason) == ("lease_queued", lease.queue.reason)

    async def test_others_go_on_as_if_it_were_not_there(self, lab: Lab) -> None:
        await lab.pool("r640", 2, policy=Policy(overtakes=0), commands=ANYBODY)
        await submit(lab, "held", Item(pool="r640", count=2), priority=-1)
        assert (await submit(lab, "a")).claims
        assert (await lab.submit("b", priority=-5)).claims, "that of a lease without a command is a mere rank"
        await submit(lab, "c")
        assert await lab.positions("held", "c") == [0, 1]

    async def test_it_is_found_by_its_pool_and_can_be_withdrawn(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await submit(lab, "held", priority=-1)
        assert [lease.id for lease in await lab.store.leases(LeaseFilter(pool="r640"))] == ["held"]

        await close(lab, "held", Outcome.CANCELLED)

        lease = await lab.lease("held")
        assert (lease.state, lease.outcome, lease.queue) == (LeaseState.ENDED, Outcome.CANCELLED, None)
        assert (await command_of(lab, "held")).ending is CommandEnding.CANCELLED

    async def test_its_patience_ends_as_that_of_others(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        admitted = await submit(lab, "held", priority=-1, queue_timeout="1h")
        assert admitted.wait_s == 3600
        lab.clock.forward(hours=1)
        assert (await lab.store.wake("held")).state is LeaseState.ENDED
        ended = await command_of(lab, "held")
        assert (ended.ending, ended.started) == (CommandEnding.NOT_STARTED, False)

    async def test_what_could_never_be_served_is_refused_all_the_same(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        refused = await refusal(lab, "held", Item(pool="r640", count=2), priority=-1)
        assert refused.code == "unsatisfiable"


class TestExtraPools:
    async def test_all_or_nothing_and_nobody_behind_is_held_up(self, lab: Lab) -> None:
        await lab.pool("board", 2, commands=ANYBODY)
        await lab.pool("licence", 1)
        await lab.take("user", pool="licence")

        both = await submit(lab, "both", Item(pool="board"), Item(pool="licence"))
        behind = await submit(lab, "behind", Item(pool="board"))

        assert (both.state, both.claims) == (LeaseState.QUEUED, ())
        assert [claim.resource for claim in behind.claims] == ["host01"]
        assert await lab.states("board") == {"host01": "leased", "host02": "free"}
        await lab.close("user")
        assert await lab.held("both") == ["host02", "host01"]

    async def test_however_many_pass_and_however_long_it_waits(self, lab: Lab) -> None:
        await lab.pool("board", 1, commands=ANYBODY, policy=Policy(overtakes=2, starve_after=timedelta(hours=1)))
        await lab.pool("licence", 1)
        await lab.take("user", pool="licence")
        await submit(lab, "both", Item(pool="board"), Item(pool="licence"))
        for number in range(5):
            lab.clock.forward(minutes=30)
            assert (await submit(lab, f"behind{number}", command=command(f"{number}"), pool="board")).claims
            await close(lab, f"behind{number}")
        # Now it has the licence to wait for a board with, and is the next.
        await submit(lab, "holder", command=command("holder"), pool="board")
        await lab.close("user")
        assert (await lab.submit("licensed", pool="licence")).state is LeaseState.QUEUED
        await submit(lab, "later", command=command("later"), pool="board")
        await close(lab, "holder")
        assert await lab.held("both") == ["host01", "host01"]

    @pytest.mark.parametrize("grown", [False, True], ids=["a request", "an active lease"])
    async def test_what_is_held_no_more_is_granted_at_once(self, lab: Lab, grown: bool) -> None:
        strict = Policy(overtakes=0)
        await lab.pool("board", 2, commands=ANYBODY, policy=strict)
        await lab.pool("licence", 1, policy=strict)
        await lab.pool("desk", 1)
        await lab.take("user", pool="board")
        await lab.take("seated", pool="desk", priority=9)
        # The licence and the free board are held for who is first, whom a board is missing.
        await submit(lab, "first", Item(pool="board", count=2), Item(pool="licence"))
        await submit(lab, "second", Item(pool="board"))
        assert await lab.held("second") == []
        if grown:
            assert (await lab.add("seated", Item(pool="licence"))).refusal is None
        else:
            await lab.take("urgent", pool="licence", priority=9)
        assert await lab.held("second") == ["host02"]

    async def test_the_same_pool_twice_is_never_half_granted(self, lab: Lab) -> None:
        await lab.pool("board", 1, commands=ANYBODY)
        await lab.pool("licence", 2)
        await lab.take("user", pool="licence")
        items = (Item(pool="board"), Item(pool="licence"), Item(pool="licence"))
        await submit(lab, "greedy", *items)
        assert await lab.states("licence") == {"host01": "leased", "host02": "free"}
        assert (await lab.submit("modest", pool="licence")).claims


class TestKeptOut:
    """With `on_end: offline` nobody gets what a lease had of its first item."""

    async def test_it_is_offline_before_anybody_else_can_have_it(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await active(lab, "a", **KEEP)
        await lab.submit("waiter")

        await close(lab, "a", report=EXITED)

        assert await lab.state("waiter") == "queued"
        assert await offline(lab) == {"host01": "to be looked at"}
        events = await lab.store.events(pool="r640", resource="host01")
        (kept,) = [event for event in events if event.kind == "resource_offline"]
        assert (kept.actor, kept.reason) == ("alice", "to be looked at")
        await lab.store.online("r640", "host01", "operator")
        assert await lab.state("waiter") == "preparing"

    async def test_nor_after_its_cleaning(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "validate", "release", commands=ANYBODY)
        await active(lab, "a", **KEEP)
        await lab.submit("waiter")
        await close(lab, "a", report=EXITED)
        await lab.recycled("a")
        assert (await lab.states(), await lab.state("waiter")) == ({"host01": "free"}, "queued")

    async def test_however_the_lease_ends(self, lab: Lab) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await active(lab, "expired", "cancelled", on_end=OnEnd.OFFLINE)
        await lab.close("cancelled", Outcome.CANCELLED)
        lab.clock.forward(days=366)
        await lab.tick("expired")
        assert await offline(lab) == {
            "host01": "kept out after lease 1",
            "host02": "kept out after lease 2",
        }

    async def test_what_it_had_of_an_extra_pool_others_get(self, lab: Lab) -> None:
        await lab.pool("board", 3, commands=ANYBODY)
        await lab.pool("licence", 1)
        await lab.take("a", Item(pool="board", count=2), Item(pool="licence"), command=MAKE, **KEEP)
        await lab.submit("waiter", pool="licence")
        await close(lab, "a", report=EXITED)
        assert await lab.state("waiter") == "preparing"
        assert [sorted(await offline(lab, pool)) for pool in ("board", "licence")] == [["host01", "host02"], []]

    async def test_what_was_never_delivered_others_get(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await submit(lab, "a", **KEEP)
        await lab.submit("waiter")
        await close(lab, "a", Outcome.CANCELLED)
        assert (await offline(lab), await lab.state("waiter")) == ({}, "preparing")

    async def test_a_lease_without_a_command_can_ask_for_it_too(self, lab: Lab) -> None:
        await lab.pool()
        await lab.take("a", **KEEP)
        await lab.close("a")
        assert await offline(lab) == {"host01": "to be looked at"}

    async def test_plain_users_ask_in_vain_where_the_pool_does_not_let_them(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.pool("open", 1, policy=Policy(holder_may=(HolderMay.OFFLINE,)), commands=ANYBODY)
        refused = await refusal(lab, "a", self_service=True, **KEEP)
        assert (refused.code, refused.faults[0].path) == ("forbidden", "on_end")
        assert (await submit(lab, "b", pool="open", self_service=True, **KEEP)).claims
        assert (await submit(lab, "operator", **KEEP)).claims


class TestHooksThatDecide:
    """What an `admit` hook may say of a command."""

    async def admit(self, lab: Lab, asked: SubmitLease, **consent: Any) -> Admitted:
        return await lab.store.admit(AdmitLease(request=asked, age_s=0, consent=Consent(**consent)), "run")

    async def test_its_priority_is_another(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.take("other")
        await submit(lab, "first")
        await self.admit(lab, request("b", Item(pool="r640"), command=MAKE), priority=7)
        assert ((await lab.lease("b")).priority, await lab.positions("b", "first")) == (7, [1, 2])
        await self.admit(lab, request("c", Item(pool="r640"), command=MAKE), priority=-7)
        assert await lab.reason("c") == "held: its priority is negative, so it waits until it is withdrawn"

    @pytest.mark.parametrize("ref", ["a", "1"])
    async def test_it_is_merged_into_one_that_is_there(self, lab: Lab, ref: str) -> None:
        await lab.pool("r640", 2, commands=ANYBODY)
        await submit(lab, "a")
        asked = request("b", Item(pool="r640"), command=command("other"))
        merged = (await self.admit(lab, asked, merge_into=ref)).refusal
        assert merged is not None
        assert (merged.code, merged.faults[0].detail) == ("duplicate", "a")

    @pytest.mark.parametrize("ref", ["ended", "plain", "elsewhere", "99", "", "1" * 40])
    async def test_into_what_is_no_command_of_the_pool_it_cannot_be(self, lab: Lab, ref: str) -> None:
        await lab.pool("r640", 3, commands=ANYBODY)
        await lab.pool("vm", 1, commands=ANYBODY)
        await active(lab, "ended")
        await close(lab, "ended", report=EXITED)
        await lab.take("plain")
        await active(lab, "elsewhere", pool="vm")
        asked = request("b", Item(pool="r640"), command=MAKE)
        refused = (await self.admit(lab, asked, merge_into=ref)).refusal
        assert refused is not None
        assert refused.code == "request_refused"


async def test_admitted_again_after_its_record_was_lost_no_rule_of_today_refuses_it(lab: Lab) -> None:
    await lab.pool("r640", 3, commands=CommandPolicy(rules=()))
    asked = request("a", Item(pool="r640"), command=command(unique=True, timeout="9h"))

    def admit(tx: Tx) -> Admitted:
        return admission.admit(tx, AdmitLease(request=asked, age_s=0), "run", again=True)

    admitted, _ = await lab.store.database.write(admit)
    assert admitted.refusal is None
    await lab.store.activate("a")
    await up(lab)
    await place(lab, "a")
    with pytest.raises(CommandOver, match="no rule"):
        await begin(lab, "a")


class TestSearching:
    """Leases are found by what they run."""

    async def found(self, lab: Lab, pool: str | None = None, **wanted: Any) -> list[str]:
        only = LeaseFilter(pool=pool, command=CommandFilter(**wanted))
        return [lease.id for lease in await lab.store.leases(only)]

    async def test_by_the_whole_line_or_a_part_of_it(self, lab: Lab) -> None:
        await lab.pool("r640", 9, commands=ANYBODY)
        lines = {
            "test": ("make", "test"),
            "spaced": ("make", "a b"),
            "percent": ("echo", "100%"),
            "score": ("echo", "a_b"),
            "other": ("echo", "axb", "1000"),
            "loud": ("MAKE",),
        }
        for lease, argv in lines.items():
            await submit(lab, lease, command=command(*argv))
        await submit(lab, "shell", command=command("make test | tee log", shell=True))
        await lab.submit("none")

        assert await self.found(lab) == ["shell", *reversed(lines)]
        assert await self.found(lab, line="make test") == ["test"]
        assert await self.found(lab, line="make 'a b'") == ["spaced"]
        assert await self.found(lab, line="make test | tee log") == ["shell"]
        assert await self.found(lab, line="make") == []
        assert await self.found(lab, like="make") == ["shell", "spaced", "test"]
        assert await self.found(lab, like="MAKE") == ["loud"]
        assert await self.found(lab, like="100%") == ["percent"]
        assert await self.found(lab, like="a_b") == ["score"]
        assert await self.found(lab, like="\\") == []
        assert await self.found(lab, like="") == await self.found(lab)

    async def test_by_the_folder_and_the_pool_running_queued_and_ended(self, lab: Lab) -> None:
        await lab.pool("r640", 1, commands=ANYBODY)
        await lab.pool("vm", 1, commands=ANYBODY)
        await active(lab, "ended")
        await close(lab, "ended", report=EXITED)
        await active(lab, "active")
        await submit(lab, "queued")
        await submit(lab, "elsewhere", pool="vm")
        await submit(lab, "nowhere", command=command())
        assert await self.found(lab, folder="/src") == ["elsewhere", "queued", "active", "ended"]
        assert await self.found(lab, folder="/src", pool="r640") == ["queued", "active", "ended"]
        assert await self.found(lab, folder="/src/") == []


class TestDeletingAPool:
    async def test_it_lends_nothing_more_and_goes_with_its_last_resource(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("r640", "validate", commands=ANYBODY), hosts(2), "operator")
        await active(lab, "a")

        await lab.store.delete_pool("r640", "operator")

        assert await lab.states() == {"host01": "leased"}
        assert [pool.spec.name for pool in await lab.store.pools()] == ["r640"]
        assert (await refusal(lab, "b")).code == "unsatisfiable"
        await close(lab, "a", report=EXITED)
        assert await lab.store.pools() == []

    async def test_an_empty_or_idle_one_is_gone_at_once(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("empty"), (), "operator")
        await lab.store.put_pool(spec("idle"), hosts(2), "operator")
        for pool in ("empty", "idle"):
            await lab.store.delete_pool(pool, "operator")
        assert await lab.store.pools() == []

    async def test_who_waits_for_it_goes_on_waiting(self, lab: Lab) -> None:
        await lab.store.put_pool(spec("r640", "validate", commands=ANYBODY), hosts(1), "operator")
        await active(lab, "a")
        await submit(lab, "b")
        await lab.store.delete_pool("r640", "operator")
        await close(lab, "a", report=EXITED)
        assert await lab.state("b") == "queued"
        await lab.store.put_pool(spec("r640", "validate", commands=ANYBODY), hosts(1), "operator")
        assert await lab.state("b") == "preparing"

    async def test_one_from_a_pools_file_is_taken_out_there(self, lab: Lab) -> None:
        await lab.pool("r640")
        with pytest.raises(OwnedElsewhere, match="comes from the pools file r640"):
            await lab.store.delete_pool("r640", "operator")

    async def test_one_that_is_not_there_cannot_be(self, lab: Lab) -> None:
        with pytest.raises(PoolUnknown):
            await lab.store.delete_pool("r640", "operator")
