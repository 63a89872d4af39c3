"""The driver `http`: a hook is a request to a server, and perhaps the wait for what it has set going."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

from activities.drivers.exchange import POLL_LIMIT, Exchange, Outcome
from activities.drivers.holding import hold
from activities.drivers.outlast import unbroken
from activities.drivers.output import Output
from leasehold import durations
from leasehold.model import Hook
from leasehold.ports import Ending, HookCall, HookResult, LogSink


class HttpDriver:
    """Runs hooks as requests over HTTP (`leasehold.ports.Driver`).

    All drivers on one machine that may meet the same lock names must be given the same `lock_folder`, those of other
    kinds too: a hook of any driver waits until an earlier one of any other is gone. `kill_grace` is for commands that
    dead workers left behind; after `poll_limit` without an answer a poll is given up and the next one made.
    """

    def __init__(self, lock_folder: Path, kill_grace: timedelta, poll_limit: timedelta = POLL_LIMIT) -> None:
        self._lock_folder = lock_folder.resolve()
        self._kill_grace, self._poll_limit = kill_grace, poll_limit
        for name in ("httpx", "httpcore"):
            # They would log whole URLs and headers, tokens among them.
            logging.getLogger(name).setLevel(logging.WARNING)

    async def run(self, call: HookCall, log: LogSink) -> HookResult | None:
        """Run a hook and return how it ended, None if `call.begin` said not to; its own failures are results.

        Its timeout counts from `call.begin` on. Cancelled, it closes its connection at once. Raises `Unavailable` where
        there can be no locks, and whatever `call.begin` raises.
        """
        output = Output(log, log_stdout=call.log_stdout)
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            return await self._run(call, output)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                stop.set_result(None)
            # Its connection is closed: nothing of it lives that is ours.
            await unbroken(call.stopped())
            raise
        finally:
            await output.finish(stop)

    async def _run(self, call: HookCall, output: Output) -> HookResult | None:
        async with hold(self._lock_folder, call.locks, self._kill_grace, output.note):
            # Cancelled, it must still be known to have begun or not before somebody else gets the locks.
            if not await unbroken(call.begin()):
                return None
            outcome = await _within(call.hook, Exchange(call, output.note, self._poll_limit))
        output.stdout(outcome.body)
        stdout, cut = output.result
        return HookResult(ending=outcome.ending, code=outcome.code, detail=outcome.detail, stdout=stdout, cut=cut)


async def _within(hook: Hook, exchange: Exchange) -> Outcome:
    try:
        async with asyncio.timeout(hook.timeout.total_seconds()) as clock:
            return await exchange.perform()
    except TimeoutError:
        if not clock.expired():
            raise
        detail = f"given up at its timeout of {durations.render(hook.timeout)}: {exchange.doing}"
        return Outcome(ending=Ending.TIMED_OUT, detail=detail, body=exchange.last_body)
