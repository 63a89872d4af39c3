"""`python -m tests.workflows.record`: save a history of every kind of lease and recycling for `test_replay`.

Histories are never replaced, only added: a lease that began with an old version must go on with the new one. Give a
changed scenario a new name.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from leasehold.healing import ReconcileOrder, SweepOrder
from leasehold.messages import ExtendLease, Steer
from leasehold.model import LeaseState, Policy
from tests import temporal
from tests.workflows.lab import Lab, open_lab, start_skipping_server
from tests.workflows.restoring import Copy
from workflows.lease import LeaseWorkflow
from workflows.sweep import ReconcileWorkflow, SweepWorkflow

FOLDER = Path(__file__).parents[1] / "histories"
STAGES = {"wipe": 1, "provision": 1, "configure": 1, "validate": 1, "deliver": 1, "release": 1}
ME = Steer(actor="me")

Handle = WorkflowHandle[LeaseWorkflow, str]
Scenario = Callable[[Lab], Awaitable[Handle]]


async def granted_at_once_and_released(lab: Lab) -> Handle:
    await lab.pool(1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def prepared_extended_and_expired(lab: Lab) -> Handle:
    await lab.pool(2, policy=Policy(max_duration=timedelta(days=2)), stages=STAGES)
    handle = await lab.submit(count=2, duration="1d")
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1h", actor="me", request="one"))
    await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="30d", actor="me", request="two"))
    return handle


async def queued_granted_and_released_by_signal(lab: Lab) -> Handle:
    await lab.pool(1, release=1)
    first, second = await lab.submit(), await lab.submit()
    await first.execute_update(LeaseWorkflow.release, ME)
    await lab.until(second, LeaseState.ACTIVE)
    await second.signal("release")
    return second


async def queued_and_cancelled(lab: Lab) -> Handle:
    await lab.pool(1)
    await lab.submit()
    waiter = await lab.submit()
    await waiter.execute_update(LeaseWorkflow.cancel, ME)
    return waiter


async def cancelled_in_a_hook(lab: Lab) -> Handle:
    await lab.pool(1, wipe=1)
    lab.driver.script = lambda call: None
    handle = await lab.submit()
    await lab.driver.until_started("wipe")
    await handle.execute_update(LeaseWorkflow.cancel, ME)
    return handle


async def cancelled_in_temporal(lab: Lab) -> Handle:
    await lab.pool(1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.cancel()
    return handle


async def failed_in_a_second_attempt(lab: Lab) -> Handle:
    await lab.pool(2, wipe=2)
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "r1")
    return await lab.submit(count=2)


async def refused(lab: Lab) -> Handle:
    await lab.pool(1)
    return await lab.submit(count=9)


async def forgotten_and_recorded_again(lab: Lab) -> list[tuple[Any, str]]:
    """A lease that is released while the database, restored from an older copy, does not know it."""
    await lab.pool(1, release=1)
    copy = Copy(lab)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    copy.restore()
    await handle.signal("release")
    while "leasehold reconcile" not in str(await handle.query("__temporal_workflow_metadata")):
        await asyncio.sleep(0.05)
    reconciling = await lab.env.client.start_workflow(
        ReconcileWorkflow.run, ReconcileOrder(actor="me"), id="reconcile", task_queue=lab.task_queue
    )
    return [(handle, "lease"), (reconciling, "reconcile")]


async def terminated_and_swept(lab: Lab) -> list[tuple[Any, str]]:
    await lab.pool(1, release=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.terminate()
    sweeping = await lab.env.client.start_workflow(
        SweepWorkflow.run, SweepOrder(grace_s=0), id="sweep", task_queue=lab.task_queue
    )
    return [(sweeping, "sweep")]


HEALED = (forgotten_and_recorded_again, terminated_and_swept)
"""On Temporal's own server: the one whose clock skips lists no workflows."""

SCENARIOS: tuple[Scenario, ...] = (
    granted_at_once_and_released,
    prepared_extended_and_expired,
    queued_granted_and_released_by_signal,
    queued_and_cancelled,
    cancelled_in_a_hook,
    cancelled_in_temporal,
    failed_in_a_second_attempt,
    refused,
)


async def record(scenario: Scenario, name: str) -> None:
    """Play a scenario and save its lease's history, and those of the recyclings that it started."""
    async with start_skipping_server() as env:
        with tempfile.TemporaryDirectory() as folder:
            async with open_lab(env, Path(folder), "record") as lab:
                handle = await scenario(lab)
                await handle.result()
                await _save(handle, f"lease-{name}")
                for recycling_id in await lab.recyclings:
                    recycling: WorkflowHandle[Any, str] = env.client.get_workflow_handle(recycling_id)
                    await recycling.result()
                    await _save(recycling, f"recycle-{name}")


async def record_healing(address: str) -> None:
    """Play what is healed, and save the histories of all that took part in it."""
    for scenario in HEALED:
        name = scenario.__name__.replace("_", "-")
        if any(FOLDER.glob(f"*-{name}.json")):
            continue
        env = WorkflowEnvironment.from_client(await Client.connect(address))
        with tempfile.TemporaryDirectory() as folder:
            async with open_lab(env, Path(folder), f"record-{name}") as lab:
                for handle, kind in await scenario(lab):
                    await handle.result()
                    await _save(handle, f"{kind}-{name}")


async def _save(handle: WorkflowHandle[Any, str], name: str) -> None:
    path = FOLDER / f"{name}.json"
    if not path.exists():
        history = (await handle.fetch_history()).to_json()
        # Where a failure came from is of this machine, and of no interest to a replay.
        path.write_text(re.sub(r'"stackTrace": "(\\.|[^"\\])*"', '"stackTrace": ""', history) + "\n")


async def main() -> None:
    """Record what is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    for scenario in SCENARIOS:
        name = scenario.__name__.replace("_", "-")
        if not (FOLDER / f"lease-{name}.json").exists():
            await record(scenario, name)


if __name__ == "__main__":
    asyncio.run(main())
    with temporal.server() as address:
        asyncio.run(record_healing(address))
    sys.stdout.flush()
    os._exit(0)
