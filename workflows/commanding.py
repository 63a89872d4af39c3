"""A lease's command: given to a runner, followed to its end, and given to another one only where that is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, CancelledError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from activities.placing import Placing
    from leasehold.commands import SILENCE, CommandEnding
    from leasehold.messages import (
        AfterLoss,
        CommandLost,
        CommandReport,
        PlaceCommand,
        Placement,
        RunCommand,
    )
    from leasehold.temporal_names import runner_queue
    from workflows.steps import step

TAKEN_UP_WITHIN = timedelta(seconds=15)
"""A runner that has not begun a command by then does not get it: another one may have room."""

_SLACK = timedelta(minutes=10)
"""What a command's activity may take beyond the command's own timeout: killing it, and handing over its output."""
_ASKED_TO_BE_STOPPED = "a command is asked for even to be stopped"
_ONCE = RetryPolicy(maximum_attempts=1)
_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)

_Run = workflow.ActivityHandle[CommandReport]


class Commanding:
    """Has the command of a lease run; `doing` says where it is, for people, who are `shown` what has changed."""

    def __init__(self, lease: str, shown: Callable[[], None]) -> None:
        self.doing: str | None = None
        self._shown = shown
        self._lease = lease
        self._signals = 0
        self._stopping = False
        self._run: _Run | None = None
        self._life: asyncio.Task[CommandReport | None] | None = None

    def start(self) -> None:
        """Begin, once."""
        if self._life is None:
            self._life = asyncio.create_task(self._live())

    def signalled(self) -> None:
        """There may be a runner now, or one may be gone."""
        self._signals += 1

    @property
    def busy(self) -> bool:
        """Whether it was begun and has not ended: it may be running."""
        return self._life is not None and not self._life.done()

    @property
    def is_over(self) -> bool:
        """Whether it was begun and has ended."""
        return self._life is not None and self._life.done()

    def result(self) -> CommandReport | None:
        """How it ended; None where it was not begun, or the record has it that it is over."""
        return self._life.result() if self._life is not None and self._life.done() else None

    async def stop(self, *, active: bool) -> CommandReport | None:
        """Have it end now, if it has not yet, and return how it ended: nothing of it lives any more then.

        Of an `active` lease it may have begun in an earlier run of the workflow.
        """
        self._stopping = True
        if self._life is None and active and workflow.patched(_ASKED_TO_BE_STOPPED):
            self.start()
        if self._run is not None and not self._run.done():
            self._run.cancel()
        return None if self._life is None else await self._life

    async def _live(self) -> CommandReport | None:
        attempt, missed, misses = 1, None, 0
        while True:
            placement = await self._placed(attempt, missed)
            if placement is None or placement.runner is None:
                return None
            after = await self._attempt(placement)
            if isinstance(after, CommandReport):
                return after
            if not after.again:
                return after.report
            attempt, missed = after.attempt, placement.runner
            misses = misses + 1 if after.missed else 0
            if misses > 1:
                # Nobody takes it up: a runner that is there and takes nothing must not fill the workflow's history.
                await self._pause(min(_PAUSE * 2**misses, _LONGEST_PAUSE))

    async def _placed(self, attempt: int, missed: str | None) -> Placement | None:
        """Wait for a runner; None where the command is not to begin any more."""
        order = PlaceCommand(lease=self._lease, attempt=attempt, missed=missed)
        asked = False
        # Once even where it is to end: an earlier run of this workflow may have had it begun.
        while not self._stopping or (not asked and workflow.patched(_ASKED_TO_BE_STOPPED)):
            seen, asked = self._signals, True
            placement = await step(Placing.place_command, order)
            if placement.attempt > attempt:
                # The record knows more than a workflow that was reset.
                attempt, asked = placement.attempt, False
                order = PlaceCommand(lease=self._lease, attempt=attempt)
                continue
            if placement.over or placement.runner is not None:
                return placement
            self._say("waits for a runner")
            await workflow.wait_condition(lambda seen=seen: self._stopping or self._signals != seen)  # type: ignore[misc]
        return None

    async def _after_reset(self, attempt: int, runner: str) -> AfterLoss:
        """Learn what follows after an earlier run of this workflow had a command begun, of which this one has no end.

        What may still be running is ended by its runner meanwhile: Temporal does not know of it any more.
        """
        self._say(f"attempt {attempt} on {runner} was begun before this workflow was reset")
        await workflow.sleep(SILENCE)
        return await self._lost(attempt, "its lease's workflow was reset after it had begun")

    async def _called_off(self, attempt: int) -> AfterLoss:
        """Take a command from the runner that was to have it; one that has begun it just now ends it meanwhile."""
        if not workflow.patched(_ASKED_TO_BE_STOPPED):
            return AfterLoss(again=False)
        after = await self._lost(attempt, "its lease ended while it was being begun")
        if after.report is not None:
            await workflow.sleep(SILENCE)
        return after

    async def _attempt(self, placement: Placement) -> CommandReport | AfterLoss:
        """Have a runner run it once, and return how it ended, or what follows after the runner was lost."""
        attempt, runner = placement.attempt, placement.runner
        assert runner is not None
        if placement.begun:
            return await self._after_reset(attempt, runner)
        if self._stopping:
            return await self._called_off(attempt)
        longest = timedelta(seconds=placement.timeout_s)
        self._say(f"attempt {attempt} on {runner}")
        order = RunCommand(lease=self._lease, attempt=attempt, runner=runner)
        run: _Run = workflow.start_activity(
            "run_command",
            order,
            task_queue=runner_queue(runner),
            result_type=CommandReport,
            start_to_close_timeout=longest + _SLACK,
            schedule_to_start_timeout=TAKEN_UP_WITHIN,
            heartbeat_timeout=SILENCE,
            retry_policy=_ONCE,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"on {runner}, attempt {attempt}",
        )
        # One that is given up is not waited for, and its failure is no news.
        run.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._run = run
        told = await self._told(run, order)
        if isinstance(told, CommandReport) and told.ending != CommandEnding.LOST:
            return told
        why = told.detail if isinstance(told, CommandReport) else told
        after = await self._lost(attempt, why)
        # A runner that has told of it knows how much it printed.
        return told if isinstance(told, CommandReport) and after.report is not None else after

    async def _lost(self, attempt: int, why: str) -> AfterLoss:
        """Learn what follows after the loss of an attempt; it ends for good where the lease does."""
        lost = CommandLost(lease=self._lease, attempt=attempt, detail=why, final=self._stopping)
        return await step(Placing.lose_command, lost)

    async def _told(self, run: _Run, order: RunCommand) -> CommandReport | str:
        """Wait until a run is over, and return how it ended, or why nobody will tell."""
        gone = await self._until_over(run, order)
        if gone is not None:
            return gone
        try:
            return run.result()
        except ActivityError as error:
            if isinstance(error.cause, CancelledError):
                # What a runner has begun it tells of: this one was never taken up.
                return CommandReport(ending=CommandEnding.CANCELLED, detail="cancelled", started=False)
            if not isinstance(error.cause, TimeoutError):
                await self._pause(_PAUSE)
            elif error.cause.type is TimeoutType.START_TO_CLOSE and workflow.patched("a late command is waited for"):
                # Its runner is heard of, and learns now that its command has to end.
                await workflow.sleep(SILENCE)
            return _why_lost(error, order.runner)

    def _say(self, doing: str) -> None:
        self.doing = doing
        self._shown()

    async def _pause(self, span: timedelta) -> None:
        """Wait a while, unless it is to end: a runner that fails at once must not be asked again and again."""
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(lambda: self._stopping, timeout=span)

    async def _until_over(self, run: _Run, order: RunCommand) -> str | None:
        """Wait until a run is over; return why it never will be where its runner is known to be no more."""
        seen = self._signals
        while not run.done():
            await workflow.wait_condition(lambda seen=seen: run.done() or self._signals != seen)  # type: ignore[misc]
            if not run.done():
                # What is signalled from now on is not surely in what the record says next.
                seen = self._signals
                gone = await step(Placing.is_runner_gone, order)
                if gone is not None and not run.done():
                    return gone
        return None


def _why_lost(error: ActivityError, runner: str) -> str:
    if isinstance(error.cause, TimeoutError):
        if error.cause.type is TimeoutType.SCHEDULE_TO_START:
            return f"runner {runner} did not take it up within {TAKEN_UP_WITHIN.seconds} s"
        if error.cause.type is TimeoutType.START_TO_CLOSE:
            return f"runner {runner} has not ended it long after its time"
        return f"nothing was heard of runner {runner} for {SILENCE.seconds} s"
    return f"runner {runner} failed: {error.cause or error}"
