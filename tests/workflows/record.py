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
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from leasehold.channels import Channel, People
from leasehold.commands import CommandEnding, OnEnd
from leasehold.healing import ReconcileOrder, SweepOrder
from leasehold.messages import AddResources, CommandReport, ExtendLease, GiveBack, Steer, Transfer
from leasehold.model import (
    Cadence,
    Hook,
    Inventory,
    Item,
    LeaseState,
    OnFailure,
    Policy,
    Prepare,
    Scope,
    Size,
)
from leasehold.ports import HookCall
from tests import temporal
from tests.mail import mail_server
from tests.workflows.lab import SHORT_HISTORIES, Lab, open_lab, start_skipping_server
from tests.workflows.restoring import Copy
from tests.workflows.runners import ANYBODY, MAKE, FakeRunner, runner
from workflows import commanding
from workflows.lease import LeaseWorkflow
from workflows.sweep import ReconcileWorkflow, SweepWorkflow

FOLDER = Path(__file__).parents[1] / "histories"
STAGES = {"wipe": 1, "provision": 1, "configure": 1, "validate": 1, "deliver": 1, "release": 1}
ME = Steer(actor="me")
HOUR = timedelta(hours=1)

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


async def warned_extended_by_policy_and_expired_after_its_grace(lab: Lab) -> Handle:
    policy = Policy(warn_before=(HOUR / 2,), grace=HOUR, auto_extend=HOUR, max_total=2 * HOUR, default_duration=HOUR)
    await lab.pool(1, policy=policy)
    return await lab.submit()


async def not_ready_in_time(lab: Lab) -> Handle:
    await lab.pool(2, policy=Policy(on_failure=OnFailure.HOLD, prepare_timeout=HOUR), wipe=1)
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "r0")
    handle = await lab.submit(count=2)
    await lab.until_state("r0", "broken")
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
    await lab.pool(1, wipe=1, release=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
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
    await lab.pool(2, wipe=2, release=1)
    lab.driver.script = lambda call: int(
        call.env["LEASEHOLD_RESOURCE"] == "r1" or call.env["LEASEHOLD_STAGE"] == "release"
    )
    return await lab.submit(count=2)


async def replaced_and_released(lab: Lab) -> Handle:
    await lab.pool(3, wipe=1, deliver=1, release=1)
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "r0")
    handle = await lab.submit(count=2)
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def repaired_and_released(lab: Lab) -> Handle:
    await lab.pool(1, policy=Policy(on_failure=OnFailure.HOLD), wipe=1)
    lab.driver.script = lambda call: 1
    handle = await lab.submit()
    await lab.until_state("r0", "broken")
    lab.driver.script = lambda call: 0
    await lab.store.repair("p", "r0", "operator")
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def limited_with_stages_for_the_whole_lease(lab: Lab) -> Handle:
    limited, once = Hook(run="true", limit="foreman"), Hook(run="true", scope=Scope.LEASE)
    hooks = {"provision": [limited], "validate": [once], "deliver": [Hook(run="true"), once], "release": [limited]}
    await lab.pool(3, hooks=hooks, limits={"foreman": 1})
    handle = await lab.submit(count=3)
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def failed_in_a_stage_for_the_whole_lease(lab: Lab) -> Handle:
    await lab.pool(1, hooks={"validate": [Hook(run="true", scope=Scope.LEASE)]})
    lab.driver.script = lambda call: 1
    return await lab.submit()


async def grown_shrunk_and_released(lab: Lab) -> Handle:
    await lab.pool(4, wipe=1, release=1)
    lab.driver.script = lambda call: int(call.env["LEASEHOLD_RESOURCE"] == "r2")
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    for request in ("one", "two"):
        addition = AddResources(items=(Item(pool="p"),), actor="me", request=request)
        await handle.execute_update(LeaseWorkflow.add, addition)
        await lab.until_event(handle, "lease_resource_ready" if request == "one" else "resource_broken")
    await handle.execute_update(LeaseWorkflow.give_back, GiveBack(pool="p", resource="r0", actor="me"))
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def grown_to_last_and_released(lab: Lab) -> Handle:
    await lab.pool(2)
    handle = await lab.submit(duration="1m")
    await lab.until(handle, LeaseState.ACTIVE)
    addition = AddResources(items=(Item(pool="p"),), actor="me", request="one", lasting=True)
    await handle.execute_update(LeaseWorkflow.add, addition)
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def reserved_and_released(lab: Lab) -> Handle:
    await lab.pool(1, wipe=1, release=1)
    handle = await lab.submit(start_at=lab.soon(seconds=1))
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def out_of_patience(lab: Lab) -> Handle:
    await lab.pool(1)
    await lab.submit()
    return await lab.submit(queue_timeout="1s")


async def lost(lab: Lab) -> Handle:
    await lab.pool(1, release=1)
    return await lab.submit(heartbeat="1s")


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


async def made_checked_listed_and_deleted(lab: Lab) -> list[tuple[Any, str]]:
    """A pool that makes two resources, the first of them in vain, and leaves its file with them."""
    failed: list[str] = []

    def script(call: HookCall) -> int:
        stage, name = call.env["LEASEHOLD_STAGE"], call.env["LEASEHOLD_RESOURCE"]
        first = stage in {"create", "delete"} and stage not in failed
        failed.extend([stage] if first else [])
        return int(first and bool(name))

    lab.driver.script = script
    every = Cadence(every=timedelta(seconds=1))
    await lab.dynamic_pool("made", Size(max=3, min_free=2), livecheck=every, listing=every)
    await lab.until_there("made", free=2)
    await asyncio.sleep(2)
    await lab.store.apply(Inventory(name="made", pools=()), "test")
    while await lab.store.pools():
        await asyncio.sleep(0.05)
    found = [("pool:made", "pool")]
    for kind in ("create", "delete", "checks", "list"):
        found += [(one, f"{kind}-{number}") for number, one in enumerate((await lab.started(kind))[:3], start=1)]
    return [(lab.env.client.get_workflow_handle(one), kind) for one, kind in found]


HEALED = (forgotten_and_recorded_again, terminated_and_swept, made_checked_listed_and_deleted)
"""On Temporal's own server: the one whose clock skips lists no workflows."""


async def gone_on_in_a_new_run(lab: Lab) -> Handle:
    await lab.pool(1, policy=Policy(max_duration=timedelta(days=2)), wipe=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    for number in range(12):
        extension = ExtendLease(by="1m", actor="me", request=f"request {number}")
        await handle.execute_update(LeaseWorkflow.extend, extension)
    running = lab.env.client.get_workflow_handle_for(LeaseWorkflow.run, handle.id)
    while (await running.describe()).run_id == handle.first_execution_run_id:
        await asyncio.sleep(0.05)
    await running.execute_update(LeaseWorkflow.release, ME)
    return handle


async def prepared_ahead(lab: Lab) -> Handle:
    await lab.pool(1, policy=Policy(prepare=Prepare.AHEAD), wipe=1, deliver=1, release=1)
    await lab.until_all_free()
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def asked_first_transferred_and_released(lab: Lab) -> Handle:
    await lab.pool(1, admit=(Hook(run="true", attempts=2), Hook(run="true")), wipe=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.transfer, Transfer(lease=handle.id, owner="tom", actor="me"))
    await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def told(lab: Lab) -> Handle:
    """By mail that is refused once for now, and to somebody whose address is refused for good."""
    with mail_server() as server:
        os.environ["LAB_MAIL"] = server.url
        answers = {"bob@example.com": ["550 no such user"], "alice@example.com": ["451 later"]}
        server.recipient = lambda address: answers[address].pop() if answers[address] else None
        await lab.pool(1, notices={"mail": Channel(url_env="LAB_MAIL", people=People(domain="example.com"))})
        handle = await lab.submit(owner="alice", cc=("bob",))
        for notice in await lab.notices("delivered"):
            await notice.result()
        await handle.execute_update(LeaseWorkflow.release, ME)
    return handle


async def ran_its_command_to_the_end(lab: Lab) -> Handle:
    await lab.pool(1, wipe=1, release=1, commands=ANYBODY)
    async with runner(lab, name="build01") as there:
        handle = await lab.submit(command=MAKE, on_end=OnEnd.OFFLINE)
        await there.until_begun(handle.id)
        await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1h", actor="me", request="one"))
        there.end(handle.id)
        await handle.result()
    return handle


async def cancelled_in_its_command(lab: Lab) -> Handle:
    await lab.pool(1, commands=ANYBODY)
    async with runner(lab, name="build01") as there:
        handle = await lab.submit(command=MAKE)
        await there.until_begun(handle.id)
        await handle.execute_update(LeaseWorkflow.cancel, ME)
        await handle.result()
    return handle


async def expired_in_its_command(lab: Lab) -> Handle:
    await lab.pool(1, commands=ANYBODY)
    async with runner(lab, name="build01") as there:
        handle = await lab.submit(command=MAKE, duration="1s")
        await there.until_begun(handle.id)
        await handle.result()
    return handle


async def lost_its_runner_and_ran_again(lab: Lab) -> Handle:
    """First it is started anew, then it tells that it is stopped, then it fails before it takes the command up."""
    await lab.pool(1, commands=ANYBODY)
    async with runner(lab, name="build01") as there:
        handle = await lab.submit(command=replace(MAKE, retry=3))
        await there.until_begun(handle.id)
        there.mute = True
        await there.start_anew()
        await there.until_begun(handle.id, 2)
        there.mute = False
        there.ends = [RuntimeError("no disk")]
        there.end(handle.id, CommandReport(ending=CommandEnding.LOST, detail="stopped"), attempt=2)
        await there.until_begun(handle.id, 4)
        there.end(handle.id, attempt=4)
        await handle.result()
    return handle


async def lost_its_command(lab: Lab) -> Handle:
    await lab.pool(1, commands=ANYBODY)
    async with runner(lab, name="build01") as there:
        handle = await lab.submit(command=MAKE)
        await there.until_begun(handle.id)
        there.mute = True
        await there.start_anew()
        await handle.result()
    return handle


async def reset_while_its_command_ran(lab: Lab) -> Handle:
    """Begun anew without its history, as a reset does."""
    await lab.pool(1, commands=ANYBODY)
    async with runner(lab, name="build01") as there:
        handle = await lab.submit(command=MAKE)
        await there.until_begun(handle.id)
        again = await lab.begin_anew(handle)
        await again.result()
    return again


async def reset_while_its_command_ran_and_cancelled_in_temporal(lab: Lab) -> Handle:
    await lab.pool(1, commands=ANYBODY)
    async with runner(lab, name="build01") as there:
        handle = await lab.submit(command=MAKE)
        await there.until_begun(handle.id)
        again = await lab.begin_anew(handle, start_delay=timedelta(seconds=1))
        await again.cancel()
        await again.result()
    return again


async def ended_its_command_too_late(lab: Lab) -> Handle:
    await lab.pool(1, commands=ANYBODY)
    with patch.object(commanding, "_SLACK", timedelta(seconds=1)):
        async with runner(lab, name="build01") as there:
            handle = await lab.submit(command=replace(MAKE, timeout="1s"))
            await there.until_begun(handle.id)
            await handle.result()
    return handle


async def waited_for_a_runner(lab: Lab) -> Handle:
    """First there is none, then one that does not take the command up."""
    await lab.pool(1, commands=ANYBODY)
    handle = await lab.submit(command=MAKE)
    while (command := (await lab.record(handle)).command) is None or command.reason is None:
        await asyncio.sleep(0.05)
    await FakeRunner(lab.store, "build00").register(slots=9)
    async with runner(lab, name="build01") as there:
        await there.until_begun(handle.id, 2)
        there.end(handle.id, attempt=2)
        await handle.result()
    return handle


async def called_off_while_it_waited_for_a_runner(lab: Lab) -> Handle:
    await lab.pool(1, commands=ANYBODY)
    handle = await lab.submit(command=MAKE)
    while (command := (await lab.record(handle)).command) is None or command.reason is None:
        await asyncio.sleep(0.05)
    await handle.execute_update(LeaseWorkflow.cancel, ME)
    return handle


async def held_back_by_a_hook_and_withdrawn(lab: Lab) -> Handle:
    lab.driver.consent = b'{"priority": -1}'
    await lab.pool(1, admit=(Hook(run="true"),), commands=ANYBODY)
    handle = await lab.submit(command=MAKE)
    await handle.execute_update(LeaseWorkflow.cancel, ME)
    return handle


PLAIN: tuple[Scenario, ...] = (
    granted_at_once_and_released,
    queued_granted_and_released_by_signal,
    queued_and_cancelled,
    cancelled_in_a_hook,
    cancelled_in_temporal,
    failed_in_a_second_attempt,
    replaced_and_released,
    repaired_and_released,
    limited_with_stages_for_the_whole_lease,
    failed_in_a_stage_for_the_whole_lease,
    grown_shrunk_and_released,
    grown_to_last_and_released,
    reserved_and_released,
    out_of_patience,
    lost,
    refused,
    prepared_ahead,
    asked_first_transferred_and_released,
    told,
    ran_its_command_to_the_end,
    cancelled_in_its_command,
    expired_in_its_command,
    lost_its_runner_and_ran_again,
    lost_its_command,
    reset_while_its_command_ran,
    reset_while_its_command_ran_and_cancelled_in_temporal,
    ended_its_command_too_late,
    waited_for_a_runner,
    called_off_while_it_waited_for_a_runner,
    held_back_by_a_hook_and_withdrawn,
)
LONG: tuple[Scenario, ...] = (gone_on_in_a_new_run,)
"""On a server that soon wants a new run."""
TIMED: tuple[Scenario, ...] = (
    prepared_extended_and_expired,
    warned_extended_by_policy_and_expired_after_its_grace,
    not_ready_in_time,
)
"""On the server whose clock skips."""


async def record(scenario: Scenario, env: WorkflowEnvironment) -> None:
    """Play a scenario and save its lease's history, of each run, and those of the recyclings that it started."""
    name = _name(scenario)
    with tempfile.TemporaryDirectory() as folder:
        async with open_lab(env, Path(folder), f"record-{name}") as lab:
            handle = await scenario(lab)
            await handle.result()
            first = env.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
            await _save(first, f"lease-{name}")
            last = await env.client.get_workflow_handle(handle.id).describe()
            if last.run_id != handle.first_execution_run_id:
                await _save(env.client.get_workflow_handle(handle.id, run_id=last.run_id), f"lease-{name}-last")
            for number, notice_id in enumerate(await lab.told, start=1):
                notice: WorkflowHandle[Any, list[str]] = env.client.get_workflow_handle(notice_id)
                await notice.result()
                await _save(notice, f"notice-{name}-{number}")
            for number, recycling_id in enumerate(await lab.recyclings, start=1):
                recycling: WorkflowHandle[Any, str] = env.client.get_workflow_handle(recycling_id)
                await recycling.result()
                await _save(recycling, f"recycle-{name}-{number}")


def _name(scenario: Callable[..., Any]) -> str:
    return scenario.__name__.replace("_", "-")


def _missing(scenarios: tuple[Scenario, ...]) -> list[Scenario]:
    return [s for s in scenarios if not (FOLDER / f"lease-{_name(s)}.json").exists()]


async def record_healing(address: str) -> None:
    """Play what is healed, and save the histories of all that took part in it."""
    for scenario in HEALED:
        name = _name(scenario)
        if any(FOLDER.glob(f"*-{name}.json")):
            continue
        env = WorkflowEnvironment.from_client(await Client.connect(address))
        with tempfile.TemporaryDirectory() as folder:
            async with open_lab(env, Path(folder), f"record-{name}") as lab:
                for handle, kind in await scenario(lab):
                    await handle.result()
                    await _save(handle, f"{kind}-{name}")


async def _save(handle: WorkflowHandle[Any, Any], name: str) -> None:
    path = FOLDER / f"{name}.json"
    if not path.exists():
        history = (await handle.fetch_history()).to_json()
        # Where a failure came from is of this machine, and of no interest to a replay.
        path.write_text(re.sub(r'"stackTrace": "(\\.|[^"\\])*"', '"stackTrace": ""', history) + "\n")


async def _on_real_server(scenarios: list[Scenario], address: str) -> None:
    for scenario in scenarios:
        await record(scenario, WorkflowEnvironment.from_client(await Client.connect(address)))


async def _on_skipping_server(scenarios: list[Scenario]) -> None:
    for scenario in scenarios:
        async with start_skipping_server() as env:
            await record(scenario, env)


def main() -> None:
    """Record what is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    for scenarios, settings in ((_missing(PLAIN), {}), (_missing(LONG), SHORT_HISTORIES)):
        if scenarios:
            with temporal.server(**settings) as address:
                asyncio.run(_on_real_server(scenarios, address))
    asyncio.run(_on_skipping_server(_missing(TIMED)))
    if any(not any(FOLDER.glob(f"*-{_name(s)}.json")) for s in HEALED):
        with temporal.server() as address:
            asyncio.run(record_healing(address))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
