"""A runner in one process for tests: the real driver, files and activity, before a service in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.testing import ActivityEnvironment

from activities.commands import Commands
from activities.drivers.accounts import own
from activities.drivers.command import CommandDriver
from activities.drivers.workplace import Workplaces
from leasehold.commands import Begun
from leasehold.messages import CommandReport, RunCommand
from leasehold.runner_policy import RunnerPolicy
from tests.contract.command_desk import Desk
from tests.contract.command_hooks import GRACE, PATIENCE

ANYBODY = RunnerPolicy(accounts=(own(), "nobody", "daemon", "nobody-at-all"))


@dataclass
class Runner:
    """One runner."""

    desk: Desk
    driver: CommandDriver
    workplaces: Workplaces
    commands: Commands
    environment: ActivityEnvironment
    spool: Path

    async def run(self, begun: Begun, attempt: int = 1) -> CommandReport:
        """Run a command to its end."""
        self.desk.with_command(begun)
        order = RunCommand(lease=begun.lease, attempt=attempt, runner="build01")
        return await self.environment.run(self.commands.run_command, order)

    def start(self, begun: Begun, attempt: int = 1) -> asyncio.Task[CommandReport]:
        """The same in the background."""
        return asyncio.create_task(self.run(begun, attempt))


@asynccontextmanager
async def runner(data: Path, desk: Desk, policy: RunnerPolicy = ANYBODY) -> AsyncIterator[Runner]:
    """A runner with a folder for its data."""
    async with asyncio.timeout(2 * PATIENCE), CommandDriver(data / "locks", GRACE, alone=True) as driver:
        spool = data / "spool"
        workplaces = Workplaces(spool, desk)
        await driver.swept()
        await workplaces.recover()
        commands = Commands(desk, driver, workplaces, policy, instance="this-one", own=own())
        yield Runner(desk, driver, workplaces, commands, ActivityEnvironment(), spool)
        commands.close(GRACE)
