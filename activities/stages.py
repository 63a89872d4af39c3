"""The stages of a resource's life: each run of a hook is one activity, named by its stage."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from temporalio import activity

from activities.allocate import as_failure
from activities.heartbeat import heartbeats
from leasehold.errors import LeaseholdError, Unavailable
from leasehold.messages import HookReport, RunHook
from leasehold.model import SECRET_STAGES, StageName
from leasehold.ports import Begun, Driver, HookCall, LogStore, Place, Store

RECORD_WITHIN = timedelta(seconds=5)
"""How long a hook that was stopped waits for the database: whoever stopped it waits too."""

log = logging.getLogger(__name__)


class Stages:
    """Runs hooks through their drivers, fenced and recorded."""

    def __init__(self, store: Store, logs: LogStore, drivers: Mapping[str, Driver], place: Place | None = None) -> None:
        """`place` tells where the drivers lock; without one it is this machine, by its name."""
        self._store = store
        self._logs = logs
        self._drivers = drivers
        self._place = place or Place(host=socket.gethostname())

    @property
    def all(self) -> list[Callable[[RunHook], Awaitable[HookReport]]]:
        """The activities."""
        return [
            self.create,
            self.wipe,
            self.provision,
            self.configure,
            self.validate,
            self.deliver,
            self.release,
            self.delete,
        ]

    @activity.defn
    async def create(self, order: RunHook) -> HookReport:
        """Make a resource, and print what its holder needs to connect."""
        return await self._run(order)

    @activity.defn
    async def delete(self, order: RunHook) -> HookReport:
        """Delete a resource that the pool has made."""
        return await self._run(order)

    @activity.defn
    async def wipe(self, order: RunHook) -> HookReport:
        """Remove what an earlier holder left."""
        return await self._run(order)

    @activity.defn
    async def provision(self, order: RunHook) -> HookReport:
        """Install what the holder is promised."""
        return await self._run(order)

    @activity.defn
    async def configure(self, order: RunHook) -> HookReport:
        """Set up what this lease in particular needs."""
        return await self._run(order)

    @activity.defn
    async def validate(self, order: RunHook) -> HookReport:
        """Prove that the resource is fit to be lent."""
        return await self._run(order)

    @activity.defn
    async def deliver(self, order: RunHook) -> HookReport:
        """Print what the holder needs to connect."""
        return await self._run(order)

    @activity.defn
    async def release(self, order: RunHook) -> HookReport:
        """Take the resource back."""
        return await self._run(order)

    async def _run(self, order: RunHook) -> HookReport:
        """Run one hook once; its failure is a result, not an error."""
        try:
            async with heartbeats():
                return await self._run_fenced(order)
        except LeaseholdError as error:
            raise as_failure(error) from None

    async def _run_fenced(self, order: RunHook) -> HookReport:
        briefing = await self._store.brief(order)
        begun: list[Begun] = []

        async def begin() -> bool:
            begun.append(await self._store.begin_run(order, self._place))
            return begun[-1].finished is None

        async def stopped() -> None:
            if begun:
                await self._record_stop(order, begun[-1].run)

        sink = _Log(self._logs, order, begun)
        secret_stage = StageName(order.stage) in SECRET_STAGES
        call = HookCall(
            hook=briefing.hook,
            env=briefing.env,
            folder=briefing.folder,
            locks=tuple(f"{h.pool}/{h.resource}" for h in order.holds) or (f"{order.pool}/{order.resource}",),
            lease_file=briefing.lease_file,
            log_stdout=not secret_stage,
            begin=begin,
            stopped=stopped,
        )
        driver = self._drivers.get(briefing.hook.driver)
        if driver is None:
            raise Unavailable(f"the worker on {self._place.host} has no driver {briefing.hook.driver}")
        result = await driver.run(call, sink)
        if result is None:
            finished = begun[-1].finished
            assert finished is not None
            return finished
        # A secret is what was printed; how it went is everybody's business.
        report = HookReport(ending=result.ending, code=result.code, detail=result.detail, ok=result.ok)
        secret = result.stdout if secret_stage and result.ok else None
        await self._store.finish_run(order, begun[-1].run, report, secret)
        if result.cut:
            # The hook has run: a log that cannot be written is no reason to run it again.
            with suppress(Exception):
                await sink("service", b"the hook's result was cut at 64 KiB\n")
        return report

    async def _record_stop(self, order: RunHook, run: int) -> None:
        """Let the next run begin at once, wherever that is; unrecorded, it waits for this one's deadline elsewhere."""
        try:
            async with asyncio.timeout(RECORD_WITHIN.total_seconds()):
                await self._store.stop_run(order, run)
        except (LeaseholdError, TimeoutError) as error:
            log.warning("that run %d was stopped is not recorded: %s", run, error or "the database is slow")


class _Log:
    """Takes what one run of a hook prints into the log store."""

    def __init__(self, logs: LogStore, order: RunHook, begun: Sequence[Begun]) -> None:
        self._logs = logs
        self._order = order
        self._begun = begun

    async def __call__(self, stream: str, data: bytes) -> None:
        order = self._order
        await self._logs.append(
            run=self._begun[-1].run if self._begun else None,
            lease=order.lease,
            pool=order.pool,
            resource=order.resource,
            epoch=order.epoch,
            stage=order.stage,
            attempt=order.attempt,
            stream=stream,
            data=data,
        )
