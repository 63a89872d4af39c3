"""A lease with a command: it ends with it, and nobody else gets its resources while anything of it may run."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from leasehold.commands import Command, CommandEnding, CommandPolicy, CommandState, OnEnd
from leasehold.messages import CommandReport, ExtendLease, Steer
from leasehold.model import Cadence, Hook, Item, LeaseState, OnDegraded, Outcome, Policy, Size
from leasehold.ports import HookCall, ResourceFilter
from tests.workflows.lab import Lab
from tests.workflows.runners import ANYBODY, EXITED, MAKE, FakeRunner, runner
from tests.workflows.test_sweep import sweep, terminate
from workflows import commanding
from workflows.lease import LeaseWorkflow

ME = Steer(actor="me")
A_WHILE_S = 0.5
SOON_S = 10
"""Far less than it takes to miss a runner."""

Handle = WorkflowHandle[LeaseWorkflow, str]


async def run(lab: Lab, **asked: Any) -> Handle:
    """Submit a lease with a command."""
    return await lab.submit(**{"command": MAKE, **asked})


async def running(lab: Lab, on: FakeRunner, **asked: Any) -> Handle:
    """A lease whose command runs."""
    handle = await run(lab, **asked)
    await on.until_begun(handle.id)
    return handle


async def command_of(lab: Lab, handle: Handle) -> Command:
    found = (await lab.record(handle)).command
    assert found is not None
    return found


async def ended(lab: Lab, handle: Handle) -> tuple[str, str | None, Command]:
    """Wait for the end of a lease, and return its outcome, the code of its error, and its command."""
    outcome = await handle.result()
    error = (await lab.record(handle)).error
    return outcome, error.code if error else None, await command_of(lab, handle)


async def until_waiting(lab: Lab, handle: Handle, why: str = "") -> None:
    """Wait until a command waits for a runner, for this reason."""
    while why not in ((await command_of(lab, handle)).reason or "\0"):
        await asyncio.sleep(0.02)


async def kept_from(lab: Lab, waiter: Handle) -> None:
    """Make sure that somebody goes on waiting for a while."""
    await asyncio.sleep(A_WHILE_S)
    assert (await lab.record(waiter)).state is LeaseState.QUEUED


class TestItsEnd:
    @pytest.mark.parametrize(
        ("report", "outcome", "error"),
        [
            (EXITED, Outcome.RELEASED, None),
            (replace(EXITED, code=3, detail="exit status 3"), Outcome.RELEASED, None),
            (CommandReport(ending=CommandEnding.SIGNALLED, code=9, detail="killed"), Outcome.RELEASED, None),
            (
                CommandReport(ending=CommandEnding.NOT_STARTED, detail="no account ci", started=False),
                Outcome.FAILED,
                "command_not_started",
            ),
            (CommandReport(ending=CommandEnding.TIMED_OUT, detail="2h"), Outcome.FAILED, "command_timed_out"),
            (CommandReport(ending=CommandEnding.CANCELLED, detail="by hand"), Outcome.CANCELLED, None),
            (
                CommandReport(ending=CommandEnding.LOST, detail="its runner was stopped", output_bytes=5, dropped=1),
                Outcome.LOST,
                "command_lost",
            ),
        ],
        ids=lambda value: str(getattr(value, "ending", "")) or None,
    )
    async def test_is_that_of_the_lease(
        self, lab: Lab, report: CommandReport, outcome: Outcome, error: str | None
    ) -> None:
        await lab.pool(1, release=1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there)
            there.end(handle.id, report)

            assert (await ended(lab, handle))[:2] == (outcome, error)

        command = await command_of(lab, handle)
        assert (command.state, command.on, command.ending) == (CommandState.ENDED, there.name, report.ending)
        assert (command.code, command.detail, command.started) == (report.code, report.detail, report.started)
        assert (command.output_bytes, command.dropped) == (report.output_bytes, report.dropped)
        assert (await command_of(lab, handle)).attempt == 1

    async def test_may_come_at_once(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there:
            there.ends = [EXITED] * 5
            handles = [await run(lab) for _ in range(5)]
            assert [await handle.result() for handle in handles] == [Outcome.RELEASED] * 5
        assert [lease for lease, _ in there.began] == [handle.id for handle in handles]

    async def test_lets_the_next_one_have_its_resource_and_its_place_on_the_runner(self, lab: Lab) -> None:
        await lab.pool(2, commands=ANYBODY)
        async with runner(lab) as there:
            first = await running(lab, there)
            second, third = await run(lab), await run(lab)
            await until_waiting(lab, second, "has no room: 1 of 1 commands are running")
            assert (await lab.record(third)).state is LeaseState.QUEUED

            there.end(first.id)

            await there.until_begun(second.id)
            await lab.until(third, LeaseState.ACTIVE)
            there.end(second.id)
            await there.until_begun(third.id)

    async def test_comes_after_its_preparation_and_before_its_cleaning(self, lab: Lab) -> None:
        await lab.pool(1, wipe=1, release=1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there)
            assert lab.driver.started == [("wipe", "r0")]
            there.end(handle.id)
            await handle.result()
        await lab.until_all_free()
        assert lab.driver.started == [("wipe", "r0"), ("release", "r0")]

    async def test_keeps_its_resource_out_of_the_pool_where_that_was_asked_for(self, lab: Lab) -> None:
        await lab.pool(2, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there, on_end=OnEnd.OFFLINE, on_end_reason="look at it")
            await lab.submit()
            waiter = await lab.submit()
            there.end(handle.id)
            await handle.result()
            await kept_from(lab, waiter)
        offline = [one.offline for one in await lab.store.resources(ResourceFilter()) if one.offline]
        assert [one.reason for one in offline] == ["look at it"]

    async def test_is_told_of_one_whose_preparation_failed(self, lab: Lab) -> None:
        await lab.pool(1, wipe=1, commands=ANYBODY)
        lab.driver.script = lambda call: 1
        handle = await run(lab)
        outcome, _, command = await ended(lab, handle)
        assert (outcome, command.ending, command.started) == (Outcome.FAILED, CommandEnding.NOT_STARTED, False)


class TestStopping:
    """Whatever ends its lease stops the command first, and waits until nothing of it lives."""

    async def test_the_next_one_gets_the_resource_only_after_it_has_died(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there)
            waiter = await lab.submit()
            there.may_kill.clear()

            cancelling = asyncio.create_task(handle.execute_update(LeaseWorkflow.cancel, ME))

            await there.until_stopping(handle.id)
            await kept_from(lab, waiter)
            assert (await lab.record(handle)).state is LeaseState.ACTIVE
            assert there.stopped == []
            there.may_kill.set()
            assert (await cancelling).state == "ended"
            await lab.until(waiter, LeaseState.ACTIVE)
            assert there.stopped == [handle.id]
        outcome, error, command = await ended(lab, handle)
        assert (outcome, error, command.ending) == (Outcome.CANCELLED, None, CommandEnding.CANCELLED)
        assert (command.output_bytes, command.started) == (7, True)

    @pytest.mark.parametrize(
        ("how", "outcome"),
        [("release", Outcome.RELEASED), ("cancel", Outcome.CANCELLED), ("temporal", Outcome.CANCELLED)],
    )
    async def test_in_the_middle(self, lab: Lab, how: str, outcome: Outcome) -> None:
        await lab.pool(1, release=1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there)
            if how == "temporal":
                await handle.cancel()
            else:
                await handle.signal(how, ME)
            assert await handle.result() == outcome
        assert there.stopped == [handle.id]
        assert (await command_of(lab, handle)).ending is CommandEnding.CANCELLED

    async def test_one_that_ends_by_itself_meanwhile_has_ended_so(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there)
            there.end(handle.id)
            await handle.signal("cancel", ME)
            _, _, command = await ended(lab, handle)
        assert (command.ending, command.code) == (CommandEnding.EXITED, 0)

    async def test_when_the_time_of_the_lease_is_up(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there, duration="1s")
            waiter = await lab.submit()
            there.may_kill.clear()
            await there.until_stopping(handle.id)
            await kept_from(lab, waiter)
            there.may_kill.set()
            outcome, error, command = await ended(lab, handle)
            await lab.until(waiter, LeaseState.ACTIVE)
        assert (outcome, error) == (Outcome.EXPIRED, None)
        assert (command.ending, command.detail) == (CommandEnding.TIMED_OUT, "its lease's time was up")

    async def test_when_its_holder_is_not_heard_of_any_more(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there, heartbeat="1s")
            outcome, _, command = await ended(lab, handle)
        assert (outcome, command.ending, there.stopped) == (Outcome.LOST, CommandEnding.CANCELLED, [handle.id])

    async def test_when_what_it_works_on_is_dead(self, lab: Lab) -> None:
        dead = False

        def script(call: HookCall) -> int:
            return int(dead and call.env["LEASEHOLD_STAGE"] == "livecheck")

        lab.driver.script = script
        every = Cadence(every=timedelta(seconds=1), attempts=1)
        policy = Policy(on_degraded=OnDegraded.END)
        await lab.dynamic_pool("p", Size(max=1, min_free=1), policy=policy, livecheck=every, commands=ANYBODY)
        await lab.until_there("p", free=1)
        async with runner(lab) as there:
            handle = await running(lab, there)
            there.may_kill.clear()
            dead = True
            await there.until_stopping(handle.id)
            await asyncio.sleep(A_WHILE_S)
            assert (await lab.record(handle)).state is LeaseState.ACTIVE
            there.may_kill.set()
            outcome, error, command = await ended(lab, handle)
        assert (outcome, error, command.ending) == (Outcome.FAILED, "resource_lost", CommandEnding.CANCELLED)
        assert there.stopped == [handle.id]

    async def test_a_runner_that_is_dead_is_not_waited_for_any_longer_than_for_a_sign_of_it(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commanding, "SILENCE", timedelta(seconds=1))
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there, asyncio.timeout(SOON_S):
            handle = await running(lab, there, command=replace(MAKE, retry=5))
            there.mute = True
            await handle.signal("cancel", ME)
            outcome, _, command = await ended(lab, handle)
        assert (outcome, command.ending) == (Outcome.CANCELLED, CommandEnding.LOST)
        assert command.detail == f"nothing was heard of runner {there.name} for 1 s"


class TestWaitingForARunner:
    async def test_it_gets_one_that_appears_later(self, lab: Lab) -> None:
        await lab.pool(1, commands=CommandPolicy(rules=ANYBODY.rules, labels=(f"label-{lab.task_queue}",)))
        handle = await run(lab)
        await until_waiting(lab, handle, "waits for a runner with label-")
        assert "waits for a runner" in str(await handle.query("__temporal_workflow_metadata"))

        async with runner(lab, f"label-{lab.task_queue}") as there, asyncio.timeout(SOON_S):
            await there.until_begun(handle.id)
            there.end(handle.id)
            assert await handle.result() == Outcome.RELEASED

    @pytest.mark.parametrize(("how", "outcome"), [("cancel", Outcome.CANCELLED), ("release", Outcome.RELEASED)])
    async def test_it_is_called_off(self, lab: Lab, how: str, outcome: Outcome) -> None:
        await lab.pool(1, commands=ANYBODY)
        handle = await run(lab)
        await until_waiting(lab, handle)

        await handle.signal(how, ME)

        ended_as, _, command = await ended(lab, handle)
        assert (ended_as, command.ending, command.started) == (outcome, CommandEnding.CANCELLED, False)
        async with runner(lab) as there:
            await asyncio.sleep(A_WHILE_S)
        assert there.began == []

    async def test_it_is_called_off_while_a_runner_has_not_taken_it_up(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        absent = FakeRunner(lab.store, f"runner-{uuid.uuid4().hex}")
        await absent.register()
        handle = await run(lab)
        while (await command_of(lab, handle)).state is not CommandState.STARTING:
            await asyncio.sleep(0.02)

        async with asyncio.timeout(SOON_S):
            await handle.execute_update(LeaseWorkflow.cancel, ME)

        outcome, _, command = await ended(lab, handle)
        assert (outcome, command.ending, command.started) == (Outcome.CANCELLED, CommandEnding.CANCELLED, False)

    async def test_its_lease_expires_meanwhile(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        outcome, _, command = await ended(lab, await run(lab, duration="1s"))
        assert (outcome, command.ending, command.started) == (Outcome.EXPIRED, CommandEnding.TIMED_OUT, False)

    async def test_one_that_does_not_take_it_up_is_passed_for_another(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commanding, "TAKEN_UP_WITHIN", timedelta(seconds=1))
        await lab.pool(1, commands=ANYBODY)
        absent = FakeRunner(lab.store, f"runner-{uuid.uuid4().hex}")
        await absent.register(slots=9)
        async with runner(lab) as there, asyncio.timeout(SOON_S):
            handle = await run(lab)
            await there.until_begun(handle.id, 2)
            there.end(handle.id, attempt=2)
            outcome, _, command = await ended(lab, handle)
        assert (outcome, command.on, command.attempt) == (Outcome.RELEASED, there.name, 2)
        (missed,) = [event for event in await lab.store.events(lease=handle.id) if event.kind == "command_lost"]
        assert missed.reason == f"runner {absent.name} did not take it up within 1 s"

    async def test_one_that_fails_at_once_is_not_asked_again_and_again(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commanding, "_PAUSE", timedelta(seconds=1))
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there, asyncio.timeout(SOON_S):
            there.ends = [RuntimeError("no disk"), RuntimeError("no disk")]
            begun_at = asyncio.get_running_loop().time()
            handle = await run(lab)
            await there.until_begun(handle.id, 3)
            assert asyncio.get_running_loop().time() - begun_at > 2
            there.end(handle.id, attempt=3)
            assert await handle.result() == Outcome.RELEASED


class TestLosses:
    async def test_of_one_that_was_started_anew_it_is_known_at_once(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there, asyncio.timeout(SOON_S):
            handle = await running(lab, there)
            waiter = await lab.submit()
            there.mute = True

            await there.start_anew()

            outcome, error, command = await ended(lab, handle)
            await lab.until(waiter, LeaseState.ACTIVE)
        assert (outcome, error, command.ending) == (Outcome.LOST, "command_lost", CommandEnding.LOST)
        assert command.detail == f"runner {there.name} on {there.name} was started anew"
        assert command.started

    async def test_what_was_declared_safe_is_run_again_on_the_new_one(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there, asyncio.timeout(SOON_S):
            handle = await running(lab, there, command=replace(MAKE, retry=1))
            there.mute = True
            await there.start_anew()
            await there.until_begun(handle.id, 2)
            there.mute = False
            there.end(handle.id, attempt=2)
            outcome, error, command = await ended(lab, handle)
        assert (outcome, error, command.ending) == (Outcome.RELEASED, None, CommandEnding.EXITED)
        assert (command.attempt, there.began) == (2, [(handle.id, 1), (handle.id, 2)])

    @pytest.mark.parametrize("retry", [0, 1])
    async def test_of_one_that_is_not_heard_of_any_more_it_is_known_after_a_while(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, retry: int
    ) -> None:
        monkeypatch.setattr(commanding, "SILENCE", timedelta(seconds=1))
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there, asyncio.timeout(SOON_S):
            handle = await running(lab, there, command=replace(MAKE, retry=retry))
            there.mute = True
            if retry:
                await there.until_begun(handle.id, 2)
            outcome, _, command = await ended(lab, handle)
        assert (outcome, command.ending, command.attempt) == (Outcome.LOST, CommandEnding.LOST, 1 + retry)
        assert command.detail == f"nothing was heard of runner {there.name} for 1 s"

    async def test_what_was_declared_safe_is_run_again_after_its_runner_was_stopped(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        stopped = CommandReport(ending=CommandEnding.LOST, detail="its runner was stopped")
        async with runner(lab) as there, asyncio.timeout(SOON_S):
            handle = await running(lab, there, command=replace(MAKE, retry=1))
            there.end(handle.id, stopped)
            await there.until_begun(handle.id, 2)
            there.end(handle.id, stopped, attempt=2)
            outcome, error, command = await ended(lab, handle)
        assert (outcome, error, command.attempt) == (Outcome.LOST, "command_lost", 2)

    async def test_other_news_are_no_loss(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there)
            for _ in range(3):
                await handle.signal(LeaseWorkflow.on_granted)
                await there.register()
            there.end(handle.id)
            outcome, _, command = await ended(lab, handle)
        assert (outcome, command.attempt) == (Outcome.RELEASED, 1)

    async def test_of_a_lease_whose_workflow_was_terminated_the_command_is_lost(self, lab: Lab) -> None:
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there:
            handle = await running(lab, there)
            await terminate(lab, handle)
            # What runs for nobody is ended.
            await there.until_stopping(handle.id)

            await sweep(lab)

            lease, command = await lab.record(handle), await command_of(lab, handle)
        assert (lease.state, lease.outcome) == (LeaseState.ENDED, Outcome.FAILED)
        assert (command.ending, command.started) == (CommandEnding.LOST, True)


class TestAdmitHooks:
    """What decides of a request decides of commands too."""

    async def asked(self, lab: Lab, answer: dict[str, Any]) -> Handle:
        lab.driver.consent = json.dumps(answer).encode()
        return await run(lab)

    async def test_it_is_refused(self, lab: Lab) -> None:
        await lab.pool(1, admit=(Hook(run="true"),), commands=ANYBODY)
        handle = await self.asked(lab, {"refuse": "not today"})
        assert await handle.result() == "request_refused"

    async def test_also_where_its_pool_is_empty_yet(self, lab: Lab) -> None:
        await lab.pool(0, admit=(Hook(run="true"),), commands=ANYBODY)
        lab.driver.consent = b'{"refuse": "not today"}'
        handle = await run(lab, wait_for_supply=True)
        assert await handle.result() == "request_refused"

    async def test_it_is_merged_into_another(self, lab: Lab) -> None:
        await lab.pool(2, admit=(Hook(run="true"),), commands=ANYBODY)
        async with runner(lab) as there:
            first = await running(lab, there)
            number = (await lab.record(first)).number
            handle = await self.asked(lab, {"merge_into": str(number)})
            assert await handle.result() == "duplicate"
            known = await lab.store.request(handle.id)
        assert known is not None
        assert known.refusal is not None
        assert known.refusal["faults"][0]["detail"] == first.id

    async def test_it_cannot_be_merged_into_what_is_over(self, lab: Lab) -> None:
        await lab.pool(2, admit=(Hook(run="true"),), commands=ANYBODY)
        async with runner(lab) as there:
            there.ends = [EXITED]
            first = await run(lab)
            await first.result()
            handle = await self.asked(lab, {"merge_into": first.id})
            assert await handle.result() == "request_refused"

    async def test_its_priority_is_another(self, lab: Lab) -> None:
        await lab.pool(1, admit=(Hook(run="true"),), commands=ANYBODY)
        async with runner(lab) as there:
            first = await running(lab, there)
            plain, urgent = await run(lab), await self.asked(lab, {"priority": 5})
            held = await self.asked(lab, {"priority": -1})
            assert [(await lab.record(one)).priority for one in (urgent, held)] == [5, -1]
            for current, following in ((first, urgent), (urgent, plain)):
                there.end(current.id)
                await there.until_begun(following.id)
            there.end(plain.id)
            await plain.result()
            await kept_from(lab, held)
            assert await self.withdrawn(held) == Outcome.CANCELLED

    async def withdrawn(self, held: Handle) -> str:
        await held.execute_update(LeaseWorkflow.cancel, ME)
        return await held.result()


class TestAWorkflowThatWasReset:
    """It knows of nothing that was done, and the record does."""

    @pytest.mark.parametrize("attempt", [1, 2])
    @pytest.mark.parametrize("cancelled", [None, "by a signal", "in Temporal"])
    async def test_takes_its_command_for_lost_once_nothing_of_it_can_live(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, cancelled: str | None, attempt: int
    ) -> None:
        monkeypatch.setattr(commanding, "SILENCE", timedelta(seconds=2))
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there, asyncio.timeout(3 * SOON_S):
            handle = await running(lab, there, command=replace(MAKE, retry=attempt - 1))
            if attempt == 2:
                there.end(handle.id, CommandReport(ending=CommandEnding.LOST, detail="its runner was stopped"))
                await there.until_begun(handle.id, 2)
            waiter = await lab.submit()
            there.may_kill.clear()
            again = await lab.begin_anew(handle)
            if cancelled == "by a signal":
                await again.signal("cancel", ME)
            elif cancelled is not None:
                await again.cancel()
            await there.until_stopping(handle.id)
            assert (await lab.record(waiter)).state is LeaseState.QUEUED
            there.may_kill.set()
            await lab.until(waiter, LeaseState.ACTIVE)
            lease, command = await lab.record(handle), await command_of(lab, handle)
        assert (lease.outcome, command.ending, command.started) == (
            Outcome.CANCELLED if cancelled else Outcome.LOST,
            CommandEnding.LOST,
            True,
        )
        assert command.detail == "its lease's workflow was reset after it had begun"
        assert there.began == [(handle.id, number) for number in range(1, attempt + 1)]

    async def test_runs_what_was_declared_safe_again(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commanding, "SILENCE", timedelta(seconds=1))
        await lab.pool(1, commands=ANYBODY)
        async with runner(lab) as there, asyncio.timeout(3 * SOON_S):
            handle = await running(lab, there, command=replace(MAKE, retry=1))
            again = await lab.begin_anew(handle)
            await there.until_begun(handle.id, 2)
            there.end(handle.id, attempt=2)
            assert await again.result() == Outcome.RELEASED


async def test_one_that_takes_too_long_to_end_is_waited_for_until_nothing_of_it_can_live(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commanding, "_SLACK", timedelta(seconds=1))
    monkeypatch.setattr(commanding, "SILENCE", timedelta(seconds=3))
    await lab.pool(1, commands=ANYBODY)
    async with runner(lab) as there, asyncio.timeout(3 * SOON_S):
        there.may_kill.clear()
        handle = await running(lab, there, command=replace(MAKE, timeout="1s"))
        waiter = await lab.submit()
        await there.until_stopping(handle.id)
        assert (await lab.record(waiter)).state is LeaseState.QUEUED
        there.may_kill.set()
        outcome, _, command = await ended(lab, handle)
        await lab.until(waiter, LeaseState.ACTIVE)
    assert (outcome, command.ending) == (Outcome.LOST, CommandEnding.LOST)
    assert command.detail == f"runner {there.name} has not ended it long after its time"


async def test_what_is_held_with_it_is_given_back_with_it(lab: Lab) -> None:
    await lab.pool(2, commands=ANYBODY)
    await lab.pool(1, name="licence")
    async with runner(lab) as there:
        other = await lab.submit(pool="licence")
        handle = await lab.submit(count=1, command=MAKE, items=(Item(pool="p"), Item(pool="licence")))
        behind = await running(lab, there)
        assert (await lab.record(handle)).state is LeaseState.QUEUED
        there.end(behind.id)
        await other.execute_update(LeaseWorkflow.release, ME)
        await there.until_begun(handle.id)
        there.end(handle.id)
        assert await handle.result() == Outcome.RELEASED
    await lab.until_all_free()


async def test_a_lease_goes_on_in_no_new_run_while_its_command_runs(impatient_lab: Lab) -> None:
    lab = impatient_lab
    await lab.pool(1, policy=Policy(max_duration=timedelta(days=2)), commands=ANYBODY)
    async with runner(lab) as there:
        handle = await running(lab, there, duration="1h")
        for number in range(15):
            extension = ExtendLease(by="1m", actor="me", request=f"request {number}")
            await handle.execute_update(LeaseWorkflow.extend, extension)
        there.end(handle.id)
        assert await handle.result() == Outcome.RELEASED
    assert (await lab.record(handle)).run_id == handle.first_execution_run_id
    assert there.began == [(handle.id, 1)]
