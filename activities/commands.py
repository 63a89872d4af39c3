"""Commands of leases: each is one activity on the runner that has it.

Nothing here reaches the network, a disk or a process by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from temporalio import activity

from activities.heartbeat import heartbeats
from leasehold.commands import SILENCE, Begun, CommandEnding
from leasehold.errors import CommandBegun, CommandOver, Conflict, LeaseholdError
from leasehold.messages import CommandReport, RunCommand
from leasehold.model import Hook
from leasehold.ports import CommandDesk, CommandDriver, Ending, HookCall, HookResult, OutputSink, Stop
from leasehold.runner_policy import RunnerPolicy

T = TypeVar("T")

ASK_AGAIN = timedelta(seconds=1)
"""Between two tries to begin while the service is away."""

AWAY_FOR = timedelta(minutes=5)
"""For so long it tries; it must have begun long before its activity has no time any more."""

REFUSED_FOR = timedelta(minutes=1)
"""How long an answer that is no verdict of the service's own, that of a proxy say, is not taken for one."""

REMEMBERED = 10_000
"""So many attempts are known to have been begun here: one that Temporal gives out again soon comes after far fewer."""

GIVEN_UP = timedelta(seconds=1)
"""From SIGTERM to SIGKILL for a command that Temporal has given up."""

STOPPED = "its runner was stopped"
STOOD_STILL = "its runner stood still for too long"

log = logging.getLogger(__name__)

_ENDINGS = {
    Ending.EXITED: CommandEnding.EXITED,
    Ending.SIGNALLED: CommandEnding.SIGNALLED,
    Ending.TIMED_OUT: CommandEnding.TIMED_OUT,
    Ending.NOT_STARTED: CommandEnding.NOT_STARTED,
}


class Workplace(Protocol):
    """What one command has on its runner's machine."""

    @property
    def folder(self) -> str:
        """Where it starts."""
        ...

    @property
    def sink(self) -> OutputSink:
        """Where its output goes."""
        ...

    @property
    def printed(self) -> tuple[int, int]:
        """How many bytes it has printed, and how many of them were dropped."""
        ...

    async def clear_up(self, stop: asyncio.Future[None]) -> None:
        """Remove what was made for it, now that nothing of it lives; in the background where that takes long."""
        ...

    async def handed_over(self, stop: asyncio.Future[None]) -> None:
        """Wait a while until the service has its output; less than that once `stop` is done."""
        ...


class Workplaces(Protocol):
    """The runner's machine, as commands need it."""

    async def open(self, order: RunCommand, begun: Begun) -> Workplace:
        """Make ready for a command. Raises `Conflict` if that was done before, `Refused` if it cannot be done."""
        ...


class _Away(Exception):
    """The service has not said whether a command may begin; in words."""


class _Job:
    """A command in the runner's hands; `stop` has it end, and `why` says how that is reported."""

    def __init__(self, order: RunCommand) -> None:
        self.lease, self.attempt = order.lease, order.attempt
        self.over = asyncio.Event()
        self.stop = Stop()
        self.why = CommandReport(ending=CommandEnding.LOST, detail=STOOD_STILL)
        self.started = False

    def end(self, ending: CommandEnding, detail: str, grace: timedelta | None = None) -> None:
        """Have it end; the first reason counts, and the shortest grace."""
        if not self.stop.asked.done():
            self.why = CommandReport(ending=ending, detail=detail)
        self.stop.ask(grace)


class Commands:
    """Runs commands through a driver, each as often as the service says and no more."""

    def __init__(
        self,
        desk: CommandDesk,
        driver: CommandDriver,
        workplaces: Workplaces,
        policy: RunnerPolicy,
        *,
        instance: str,
        own: str,
    ) -> None:
        """`instance` tells this process from all others, `own` is its account."""
        self._desk, self._driver, self._workplaces, self._policy = desk, driver, workplaces, policy
        self._instance, self._own = instance, own
        self._jobs: set[_Job] = set()
        self._begun: deque[tuple[str, int]] = deque(maxlen=REMEMBERED)
        self._clearing: set[asyncio.Task[None]] = set()
        self._closed = False
        self.is_fenced: Callable[[], bool] = lambda: False
        """Whether nothing may begin, because this runner may be taken for dead."""

    @activity.defn
    async def run_command(self, order: RunCommand) -> CommandReport:
        """Run the command of a lease once; however it ends, that is a result."""
        if self._closed:
            return CommandReport(ending=CommandEnding.LOST, detail=STOPPED, started=False)
        job = _Job(order)
        self._jobs.add(job)
        # A task of its own, that no cancellation reaches: its end must be waited for, however often we are cancelled.
        task = asyncio.create_task(self._run(order, job))
        try:
            async with heartbeats():
                while not task.done():
                    try:
                        await asyncio.wait({task})
                    except asyncio.CancelledError:
                        ending, detail = _why_cancelled()
                        # Whose loss is decided has no time: somebody else may have its resources by now.
                        has_time = ending is CommandEnding.CANCELLED or detail == STOPPED
                        job.end(ending, detail, None if has_time else GIVEN_UP)
            return task.result()
        finally:
            self._jobs.discard(job)
            job.over.set()

    def lose(self, detail: str, grace: timedelta) -> int:
        """Kill all commands, which are lost thereby, within this grace; return how many there were."""
        for job in self._jobs:
            job.end(CommandEnding.LOST, detail, grace)
        return len(self._jobs)

    def close(self, grace: timedelta) -> int:
        """The same, because the runner stops: it begins no others."""
        self._closed = True
        return self.lose(STOPPED, grace)

    @property
    def lease(self) -> str | None:
        """A lease whose command is in its hands, if there is any."""
        return next((job.lease for job in self._jobs), None)

    async def _run(self, order: RunCommand, job: _Job) -> CommandReport:
        begun: Begun | None = None
        try:
            begun = await unless(job.stop.asked, self._begin(order))
            if begun is None:
                return replace(job.why, started=False)
            await self._check_first(job)
            if refusal := self._policy.refusal(begun, self._own):
                return _not_started(refusal)
            return await self._run_begun(order, begun, job)
        except CommandBegun as error:
            # Whoever has it ends it within this time, now that Temporal has given it to somebody else.
            await asyncio.sleep(SILENCE.total_seconds())
            return CommandReport(ending=CommandEnding.LOST, detail=error.detail)
        except LeaseholdError as error:
            if begun is not None and isinstance(error, Conflict):
                # It was begun before, and nobody knows what it did.
                return CommandReport(ending=CommandEnding.LOST, detail=error.detail)
            return _not_started(error.detail)
        except _Away as error:
            return CommandReport(ending=CommandEnding.LOST, detail=str(error), started=False)
        except Exception as error:
            log.exception("the command of lease %s is lost", order.lease)
            detail = f"its runner failed: {type(error).__name__}"
            return CommandReport(ending=CommandEnding.LOST, detail=detail, started=begun is not None)

    async def _begin(self, order: RunCommand) -> Begun:
        """Ask for the command until there is an answer; raises what the service says, `CommandOver` for instance.

        A refusal of another kind may be a proxy's, or of a token that is being renewed, and has to last a while.
        """
        began = asyncio.get_running_loop().time()
        while True:
            try:
                return await self._desk.begin(order.runner, order.lease, self._instance, order.attempt)
            except CommandOver:
                raise
            except LeaseholdError as error:
                tried = timedelta(seconds=asyncio.get_running_loop().time() - began)
                if error.status < 500 and tried > REFUSED_FOR:
                    raise
                if tried > AWAY_FOR:
                    raise _Away(f"its runner did not reach the service to begin it: {error.detail}") from error
                log.warning("the command of lease %s waits for the service: %s", order.lease, error)
            await asyncio.sleep(ASK_AGAIN.total_seconds())

    async def _check_first(self, job: _Job) -> None:
        """Raise `Conflict` where an activity of this process has begun the same before, once that is over."""
        key = (job.lease, job.attempt)
        if key not in self._begun:
            self._begun.append(key)
            return
        for other in [one for one in self._jobs if one is not job and (one.lease, one.attempt) == key]:
            await other.over.wait()
        raise Conflict(f"attempt {job.attempt} was begun on this runner before")

    async def _opened(self, order: RunCommand, begun: Begun, job: _Job) -> Workplace | None:
        """A place for a command; None where it is to end before its disk has made one."""
        opening = asyncio.ensure_future(self._workplaces.open(order, begun))
        place = await unless(job.stop.asked, asyncio.shield(opening))
        if place is None:
            clearing = asyncio.create_task(self._clear_up_late(opening, job.stop.asked))
            self._clearing.add(clearing)
            clearing.add_done_callback(self._clearing.discard)
        return place

    async def _clear_up_late(self, opening: asyncio.Future[Workplace], stop: asyncio.Future[None]) -> None:
        with suppress(LeaseholdError):
            place = await opening
            await place.sink.finish(stop)
            await place.clear_up(stop)

    async def _run_begun(self, order: RunCommand, begun: Begun, job: _Job) -> CommandReport:
        async def begin() -> bool:
            if self.is_fenced():
                # It has stood still since the service let it begin.
                job.end(CommandEnding.LOST, STOOD_STILL, GIVEN_UP)
            job.started = not job.stop.asked.done()
            return job.started

        place = await self._opened(order, begun, job)
        if place is None:
            return replace(job.why, started=False)
        call = HookCall(
            hook=Hook(run=begun.argv[0] if begun.shell else begun.argv, timeout=_timeout(begun)),
            env=begun.env,
            folder=place.folder,
            locks=(f"command/{order.lease}",),
            lease_file=b"",
            log_stdout=True,
            begin=begin,
            account=begun.account,
            thorough=True,
            kill_grace=timedelta(seconds=begun.grace_s),
        )
        try:
            result = await self._driver.run_into(call, place.sink, job.stop)
            report = replace(job.why, started=job.started) if result is None else _ended(result)
        except LeaseholdError as error:
            detail = f"its runner could not run it to its end: {error.detail}"
            report = CommandReport(ending=CommandEnding.LOST, detail=detail, started=job.started)
        finally:
            await place.clear_up(job.stop.asked)
        await place.handed_over(job.stop.asked)
        printed, dropped = place.printed
        return replace(report, output_bytes=printed, dropped=dropped)


def _why_cancelled() -> tuple[CommandEnding, str]:
    """Why Temporal has an activity end. It says so once: a command that was not ended then could never be."""
    details = activity.cancellation_details()
    if details is None:
        return CommandEnding.LOST, "its runner could not tell Temporal that it runs"
    if details.cancel_requested:
        return CommandEnding.CANCELLED, "killed, because its lease ended"
    if details.worker_shutdown:
        return CommandEnding.LOST, STOPPED
    if details.paused or details.reset:
        return CommandEnding.LOST, "its activity was paused or reset in Temporal"
    return CommandEnding.LOST, "Temporal does not know of it any more"


async def unless(stop: asyncio.Future[Any], work: Awaitable[T]) -> T | None:
    """What comes of some work; None if it was to end before."""
    task = asyncio.ensure_future(work)
    either: set[asyncio.Future[Any]] = {task, stop}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    return None


def _timeout(begun: Begun) -> timedelta:
    return timedelta.max if begun.timeout_s is None else timedelta(seconds=begun.timeout_s)


def _not_started(detail: str) -> CommandReport:
    return CommandReport(ending=CommandEnding.NOT_STARTED, detail=detail, started=False)


def _ended(result: HookResult) -> CommandReport:
    started = result.ending is not Ending.NOT_STARTED
    return CommandReport(ending=_ENDINGS[result.ending], code=result.code, detail=result.detail, started=started)
