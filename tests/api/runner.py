"""The local runner in this process: the real activity, driver and HTTP client, over a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from fastapi import FastAPI
from temporalio.client import Client
from temporalio.worker import Worker

from activities.commands import Commands
from activities.drivers.accounts import own
from activities.drivers.command import CommandDriver
from activities.drivers.workplace import Workplaces
from leasehold.access import LOCAL_RUNNER
from leasehold.commands import RunnerHost
from leasehold.runner_client import RunnerClient
from leasehold.runner_policy import RunnerPolicy
from leasehold.temporal import runner_queue
from tests.api.port import served
from worker.runner import keep_registered

RUNNER = "runner-token-of-the-tests"
SLOTS = 8
_SOON = timedelta(seconds=0.2)


@asynccontextmanager
async def local_runner(app: FastAPI, temporal: Client, folder: Path, kill_grace: timedelta) -> AsyncIterator[None]:
    """The runner of the embedded stack, until the block ends."""
    async with served(app) as url, CommandDriver(folder / "locks", kill_grace, alone=True) as driver:
        desk = RunnerClient(url, RUNNER)
        workplaces = Workplaces(folder / "spool", desk)
        host = RunnerHost(instance="tests", labels=("here",), slots=SLOTS, host="h", locks="l", boot="b", processes="p")
        commands = Commands(desk, driver, workplaces, RunnerPolicy(), instance=host.instance, own=own())
        worker = Worker(
            temporal,
            task_queue=runner_queue(LOCAL_RUNNER),
            activities=[commands.run_command],
            max_concurrent_activities=SLOTS,
            max_heartbeat_throttle_interval=_SOON,
            default_heartbeat_throttle_interval=_SOON,
        )
        known, stopped = asyncio.Event(), asyncio.Event()
        registering = asyncio.create_task(keep_registered(desk, LOCAL_RUNNER, host, known, stopped))
        await known.wait()
        try:
            async with worker:
                yield
                commands.close(kill_grace)
        finally:
            stopped.set()
            await registering
            await workplaces.drain(_SOON)
            desk.close()
