"""The driver `redfish`: a hook is what a BMC does with its machine, power and the next start above all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from activities.drivers.remote import Remote
from leasehold.ports import HookCall, HookResult, LogSink

EVERY = timedelta(seconds=2)
"""From one look at the power to the next."""

ANSWER_LIMIT = timedelta(seconds=60)
"""So long may an answer take. BMCs are slow, and some never answer."""

_THREADS = 256
"""So many answers are waited for at once. A hook that only waits for the power needs none in between."""


class RedfishDriver:
    """Runs hooks over Redfish (`leasehold.ports.Driver`), with locks and `kill_grace` as `Remote` has them."""

    def __init__(
        self,
        lock_folder: Path,
        kill_grace: timedelta,
        *,
        every: timedelta = EVERY,
        answer_limit: timedelta = ANSWER_LIMIT,
    ) -> None:
        self._remote = Remote(lock_folder, kill_grace)
        self._every, self._limit = every, answer_limit
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="redfish")

    async def run(self, call: HookCall, log: LogSink) -> HookResult | None:
        """Run a hook as `Remote.run` does. Cancelled, it asks nothing more of the BMC."""
        from activities.drivers.steps import Steps  # and sushy, which only those with BMCs need wait for

        return await self._remote.run(
            call, log, lambda note: Steps(call, note, self._threads, every=self._every, limit=self._limit)
        )
