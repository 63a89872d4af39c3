"""The Temporal Schedule that starts the sweep, and what a worker checks before it takes on work."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.service import RPCError, RPCStatusCode

from leasehold.healing import Mark, PassReport, SweepOrder
from leasehold.ports import Store
from worker.census import identity
from workflows.sweep import SweepWorkflow

log = logging.getLogger(__name__)

_CATCH_UP = timedelta(seconds=10)
"""A pass that could not be started in time is not made up for: the next one looks at everything."""
_LONGEST_PASS = timedelta(minutes=15)
_LOOK_EVERY_S, _TRY_AGAIN_S = 300.0, 5.0


def schedule_id(task_queue: str) -> str:
    """The schedule's id: `leasehold-sweep`."""
    return f"{task_queue}-sweep"


async def check_database(client: Client, store: Store, task_queue: str) -> None:
    """Before any work: is this the Temporal that the database belongs to, and is the database as new as it?

    The first start notes down which Temporal it is. A database that is older than the last pass of the sweep grants
    nothing from the beginning.
    """
    previous = await _last_mark(client.get_schedule_handle(schedule_id(task_queue)), client)
    opened = await store.healing.open_pass(await identity(client), previous)
    for trouble in (opened.changed, opened.suspended):
        if trouble is not None:
            log.error("%s", trouble)


async def _last_mark(handle: ScheduleHandle, client: Client) -> Mark | None:
    """The mark of the last pass that Temporal remembers, if there was one lately."""
    try:
        recent = (await handle.describe()).info.recent_actions
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return None
    for action in reversed(recent):
        started = action.action
        assert isinstance(started, ScheduleActionExecutionStartWorkflow)
        one = client.get_workflow_handle(
            started.workflow_id, run_id=started.first_execution_run_id, result_type=PassReport
        )
        try:
            if (await one.describe()).status is WorkflowExecutionStatus.COMPLETED:
                report: PassReport = await one.result()
                return report.mark
        except (RPCError, WorkflowFailureError):
            # Forgotten, or closed by somebody: the one before it will do.
            continue
    return None


async def keep(client: Client, task_queue: str, every: timedelta, order: SweepOrder) -> None:
    """Have the schedule be there, as it should be, for as long as this runs; begin with a pass at once."""
    begun = False
    while True:
        try:
            await _ensure(client, task_queue, every, order)
            if not begun:
                handle = client.get_schedule_handle(schedule_id(task_queue))
                await handle.trigger(overlap=ScheduleOverlapPolicy.SKIP)
                begun = True
            await asyncio.sleep(_LOOK_EVERY_S)
        except Exception:
            log.exception("the sweep could not be scheduled; trying again")
            await asyncio.sleep(_TRY_AGAIN_S)


async def _ensure(client: Client, task_queue: str, every: timedelta, order: SweepOrder) -> None:
    note = f"set up by the workers: {every} apart, {order}"
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(
            SweepWorkflow.run,
            order,
            id=schedule_id(task_queue),
            task_queue=task_queue,
            execution_timeout=_LONGEST_PASS,
            static_summary="Compare records with workflows",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=max(_CATCH_UP, every)),
        state=ScheduleState(note=note),
    )

    def update(found: ScheduleUpdateInput) -> ScheduleUpdate | None:
        state = found.description.schedule.state
        if state.note == note:
            return None
        # What people did to it, a pause say, stays.
        return ScheduleUpdate(schedule=replace(wanted, state=replace(state, note=note)))

    try:
        await client.create_schedule(schedule_id(task_queue), wanted)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(schedule_id(task_queue)).update(update)
