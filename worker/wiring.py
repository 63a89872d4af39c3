"""Builds a worker: the real store, log store and drivers, injected into the activities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from activities.allocate import Allocation
from activities.reconcile import Reconcile
from activities.stages import HEARTBEAT, Stages
from activities.sweep import Sweep
from leasehold.ports import Driver, LogStore, Store
from leasehold.temporal import TASK_QUEUE
from worker.census import TemporalWorkflows
from workflows.lease import LeaseWorkflow
from workflows.recycle import RecycleWorkflow
from workflows.sweep import ReconcileWorkflow, SweepWorkflow

GRACEFUL_SHUTDOWN = timedelta(seconds=3)
MOST_HOOKS = 200
POLLS = 20
"""Requests for tasks of each kind that wait at the server, half of those for workflows for new leases.

A task that finds none waiting goes into a backlog, from which it comes only once nothing newer does: in a burst of new
leases some would wait for seconds.
"""
MOST_CACHED_WORKFLOWS = 2000


def build_worker(
    client: Client,
    store: Store,
    logs: LogStore,
    drivers: Mapping[str, Driver],
    *,
    task_queue: str = TASK_QUEUE,
    interceptors: Sequence[Interceptor] = (),
    workflow_runner: WorkflowRunner | None = None,
) -> Worker:
    """A worker for leases, recyclings, and what heals them.

    Workflows run outside of the SDK's sandbox, which costs several milliseconds for each of them; the import contracts
    and the replay of saved histories hold what it would (docs/decisions).
    """
    allocation, stages = Allocation(store), Stages(store, logs, drivers)
    known = TemporalWorkflows(client, task_queue)
    sweep, reconcile = Sweep(store, known), Reconcile(store, known)
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[LeaseWorkflow, RecycleWorkflow, SweepWorkflow, ReconcileWorkflow],
        activities=[
            allocation.admit,
            allocation.read_grants,
            allocation.activate,
            allocation.extend,
            allocation.close_lease,
            allocation.end_lease,
            allocation.finish_recycling,
            stages.wipe,
            stages.provision,
            stages.configure,
            stages.validate,
            stages.deliver,
            stages.release,
            sweep.open,
            sweep.survey,
            sweep.heal,
            sweep.close,
            reconcile.reconcile,
        ],
        workflow_runner=workflow_runner or UnsandboxedWorkflowRunner(),
        interceptors=interceptors,
        max_cached_workflows=MOST_CACHED_WORKFLOWS,
        max_concurrent_workflow_task_polls=POLLS,
        nonsticky_to_sticky_poll_ratio=0.5,
        max_concurrent_activity_task_polls=POLLS,
        max_concurrent_activities=MOST_HOOKS,
        max_concurrent_local_activities=MOST_HOOKS,
        max_heartbeat_throttle_interval=HEARTBEAT,
        default_heartbeat_throttle_interval=HEARTBEAT,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )
