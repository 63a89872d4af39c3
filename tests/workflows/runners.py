"""A runner for workflow tests: takes commands up as the real one does, and ends them as the test says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.worker import Worker

from leasehold.commands import CommandEnding, CommandPolicy, CommandRule, CommandSpec, RunnerHost
from leasehold.errors import CommandBegun, CommandOver
from leasehold.messages import CommandReport, RunCommand
from leasehold.store.store import SqlStore
from leasehold.temporal_names import runner_queue
from tests.workflows.lab import Lab

ANYBODY = CommandPolicy(rules=(CommandRule(),))
MAKE = CommandSpec(argv=("make", "test"), folder="/src")
EXITED = CommandReport(ending=CommandEnding.EXITED, code=0, detail="exit status 0", output_bytes=7, dropped=0)
CANCELLED = CommandReport(ending=CommandEnding.CANCELLED, detail="cancelled", output_bytes=7, dropped=0)
_BEAT_S, _THROTTLE = 0.1, timedelta(seconds=0.2)


class FakeRunner:
    """Plays a runner. What it `began` are leases with their attempts, `stopped` those whose commands it has killed.

    It needs `may_kill` for that. `ends` says how the next commands end, at once; without it a test ends each. One that
    is `mute` says no more of what it began, whoever wants it to end.
    """

    def __init__(self, store: SqlStore, name: str) -> None:
        self.name = name
        self.instance = uuid.uuid4().hex
        self.began: list[tuple[str, int]] = []
        self.stopping: list[str] = []
        self.stopped: list[str] = []
        self.may_kill = asyncio.Event()
        self.may_kill.set()
        self.mute = False
        self.ends: list[CommandReport | Exception] = []
        self._store = store
        self._running: dict[tuple[str, int], asyncio.Future[CommandReport]] = {}
        self._closed = asyncio.Event()
        self._news = asyncio.Condition()

    async def register(self, *labels: str, slots: int = 1) -> None:
        """Say that it is there, or anew what it has; with a new `instance` what it ran before is known to be dead."""
        where = {"host": self.name, "locks": self.name, "boot": "boot", "processes": "processes"}
        await self._store.commands.register(
            self.name, RunnerHost(instance=self.instance, labels=labels, slots=slots, **where)
        )

    async def start_anew(self) -> None:
        """Be a new process where the old one was, which has died with all that it ran."""
        self.instance = uuid.uuid4().hex
        await self.register()

    @activity.defn
    async def run_command(self, order: RunCommand) -> CommandReport:
        """Run one command to its end."""
        if self.ends and isinstance(self.ends[0], Exception):
            raise self.ends.pop(0)  # type: ignore[misc]
        try:
            await self._store.commands.begin(self.name, order.lease, self.instance, order.attempt)
        except CommandBegun as error:
            return CommandReport(ending=CommandEnding.LOST, detail=error.detail)
        except CommandOver as error:
            return CommandReport(ending=CommandEnding.NOT_STARTED, detail=error.detail, started=False)
        beating = asyncio.create_task(self._beat())
        key = (order.lease, order.attempt)
        ending = self._running[key] = asyncio.get_running_loop().create_future()
        async with self._news:
            self.began.append(key)
            self._news.notify_all()
        try:
            if self.ends:
                return self.ends.pop(0)  # type: ignore[return-value]
            return await asyncio.shield(ending)
        except asyncio.CancelledError:
            if self.mute:
                await self._closed.wait()
            self.stopping.append(order.lease)
            await self.may_kill.wait()
            self.stopped.append(order.lease)
            return CANCELLED
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            if not self.mute:
                activity.heartbeat()
            await asyncio.sleep(_BEAT_S)

    async def until_begun(self, lease: str, attempt: int = 1) -> None:
        """Wait until it has begun this attempt of a lease's command."""
        async with self._news:
            await self._news.wait_for(lambda: (lease, attempt) in self.began)

    async def until_stopping(self, lease: str) -> None:
        """Wait until it was told to kill a lease's command."""
        while lease not in self.stopping:
            await asyncio.sleep(0.02)

    def end(self, lease: str, report: CommandReport = EXITED, *, attempt: int = 1) -> None:
        """Let a command that runs end."""
        self._running[lease, attempt].set_result(report)

    def close(self) -> None:
        """Keep nothing waiting any more."""
        self.mute = False
        self._closed.set()
        self.may_kill.set()


@asynccontextmanager
async def runner(lab: Lab, *labels: str, name: str | None = None, slots: int = 1) -> AsyncIterator[FakeRunner]:
    """A runner that is up, by default with a name of its own, until the block ends."""
    fake = FakeRunner(lab.store, name or f"runner-{uuid.uuid4().hex}")
    worker = Worker(
        lab.env.client,
        task_queue=runner_queue(fake.name),
        activities=[fake.run_command],
        max_heartbeat_throttle_interval=_THROTTLE,
        default_heartbeat_throttle_interval=_THROTTLE,
    )
    async with worker:
        await fake.register(*labels, slots=slots)
        try:
            yield fake
        finally:
            await lab.finish()
            fake.close()
