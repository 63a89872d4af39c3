"""What drivers share whose hooks are no processes: locks, leave to begin, the timeout, and how a hook ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from activities.drivers.holding import hold
from activities.drivers.outlast import unbroken
from activities.drivers.output import Output
from leasehold import durations
from leasehold.model import Hook
from leasehold.ports import Ending, HookCall, HookResult, LogSink

Note = Callable[[str], None]
"""Takes a line for the hook's log."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; `code` is the status that was not expected, `body` what it has as its result."""

    ending: Ending
    code: int | None = None
    detail: str
    body: bytes = b""


class Work(Protocol):
    """What one run does. `doing` says what it is at now, `last_body` is its result if it must end there."""

    doing: str

    @property
    def last_body(self) -> bytes: ...

    async def perform(self) -> Outcome:
        """Do it. Cancelled, nothing of it goes on once this has returned."""
        ...


class Remote:
    """Runs hooks as work that is done on other machines.

    All drivers on one machine that may meet the same lock names must be given the same `lock_folder`, those of other
    kinds too: a hook of any driver waits until an earlier one of any other is gone. `kill_grace` is for commands that
    dead workers left behind.
    """

    def __init__(self, lock_folder: Path, kill_grace: timedelta) -> None:
        self._lock_folder = lock_folder.resolve()
        self._kill_grace = kill_grace

    async def run(self, call: HookCall, log: LogSink, work: Callable[[Note], Work]) -> HookResult | None:
        """Run a hook and return how it ended, None if `call.begin` said not to; its own failures are results.

        Its timeout counts from `call.begin` on. `work` is made then, and given where its log goes. Raises `Unavailable`
        where there can be no locks, and whatever `call.begin` and `work` raise.
        """
        output = Output(log, log_stdout=call.log_stdout)
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            return await self._run(call, output, work)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                stop.set_result(None)
            # Its work has ended: nothing of it lives that is ours.
            await unbroken(call.stopped())
            raise
        finally:
            await output.finish(stop)

    async def _run(self, call: HookCall, output: Output, work: Callable[[Note], Work]) -> HookResult | None:
        async with hold(self._lock_folder, call.locks, self._kill_grace, output.note):
            # Cancelled, it must still be known to have begun or not before somebody else gets the locks.
            if not await unbroken(call.begin()):
                return None
            outcome = await _within(call.hook, work(output.note))
        output.stdout(outcome.body)
        stdout, cut = output.result
        return HookResult(ending=outcome.ending, code=outcome.code, detail=outcome.detail, stdout=stdout, cut=cut)


async def _within(hook: Hook, work: Work) -> Outcome:
    try:
        async with asyncio.timeout(hook.timeout.total_seconds()) as clock:
            return await work.perform()
    except TimeoutError:
        if not clock.expired():
            raise
        detail = f"given up at its timeout of {durations.render(hook.timeout)}: {work.doing}"
        return Outcome(ending=Ending.TIMED_OUT, detail=detail, body=work.last_body)
