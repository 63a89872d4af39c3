"""Builds a worker: the real store, log store and drivers, injected into the activities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import (
    Interceptor,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkerDeploymentConfig,
    WorkflowRunner,
)

from activities.admitting import Admitting
from activities.allocate import Allocation
from activities.heartbeat import HEARTBEAT
from activities.notify import Notices, Post
from activities.placing import Placing
from activities.reconcile import Reconcile
from activities.stages import Stages
from activities.sweep import Sweep
from activities.tending import Checks, Tending
from leasehold.ports import Driver, LogStore, Place, Sender, Store
from leasehold.temporal import DEPLOYMENT, TASK_QUEUE, notice_queue, site_queue
from worker.census import TemporalWorkflows
from workflows.lease import LeaseWorkflow
from workflows.notice import NoticeWorkflow
from workflows.pool import CheckWorkflow, CreateWorkflow, DeleteWorkflow, ListWorkflow, PoolWorkflow
from workflows.recycle import RecycleWorkflow
from workflows.sweep import ReconcileWorkflow, SweepWorkflow

GRACEFUL_SHUTDOWN = timedelta(seconds=3)
WORKFLOWS = (
    LeaseWorkflow,
    RecycleWorkflow,
    PoolWorkflow,
    CreateWorkflow,
    DeleteWorkflow,
    CheckWorkflow,
    ListWorkflow,
    NoticeWorkflow,
    SweepWorkflow,
    ReconcileWorkflow,
)
"""All kinds that there are."""

MOST_HOOKS = 200
MOST_LETTERS = 20
"""How many letters are on their way at once: channels that hang cost no more than this."""
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
    place: Place | None = None,
    build: str | None = None,
    task_queue: str = TASK_QUEUE,
    interceptors: Sequence[Interceptor] = (),
    workflow_runner: WorkflowRunner | None = None,
) -> Worker:
    """A worker for leases, recyclings, and what heals them; `place` tells where its drivers lock, `build` its version.

    Workflows run outside of the SDK's sandbox, which costs several milliseconds for each of them; the import contracts
    and the replay of saved histories hold what it would (docs/decisions).
    """
    allocation, stages = Allocation(store), Stages(store, logs, drivers, place)
    known = TemporalWorkflows(client, task_queue)
    admitting = Admitting(store, logs, drivers)
    notices = Notices(store)
    placing = Placing(store)
    tending, checks = Tending(store), Checks(store, logs, drivers)
    sweep, reconcile = Sweep(store, logs, known), Reconcile(store, known)
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=[
            allocation.admit,
            allocation.read_grants,
            allocation.report_broken,
            allocation.show_blocked,
            allocation.activate,
            allocation.tick,
            allocation.wake,
            allocation.extend,
            allocation.add,
            allocation.give_back,
            allocation.give_up,
            allocation.take_slot,
            allocation.give_slot,
            allocation.transfer,
            allocation.close_lease,
            allocation.end_lease,
            allocation.finish_recycling,
            *stages.all,
            placing.place_command,
            placing.is_runner_gone,
            placing.lose_command,
            tending.tend,
            tending.finish_creating,
            tending.finish_deleting,
            *checks.all,
            admitting.ask,
            notices.address_notice,
            notices.give_up_letter,
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
        deployment_config=_deployment(build),
    )


def _deployment(build: str | None) -> WorkerDeploymentConfig | None:
    """Have Temporal tell workers of several builds apart; every lease goes to the current one (decision 0011)."""
    if build is None:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=DEPLOYMENT, build_id=build),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
    )


def build_notice_worker(
    client: Client,
    store: Store,
    sender: Sender,
    *,
    task_queue: str = TASK_QUEUE,
    interceptors: Sequence[Interceptor] = (),
) -> Worker:
    """A worker that sends letters, and does nothing else: a channel that hangs is in no hook's way.

    It has no build: whatever version a notice is at, a letter is a letter.
    """
    return Worker(
        client,
        task_queue=notice_queue(task_queue),
        activities=[Post(store, sender).send_letter],
        interceptors=interceptors,
        max_concurrent_activities=MOST_LETTERS,
        max_concurrent_activity_task_polls=1,
        max_heartbeat_throttle_interval=HEARTBEAT,
        default_heartbeat_throttle_interval=HEARTBEAT,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )


def build_site_worker(
    client: Client,
    store: Store,
    logs: LogStore,
    drivers: Mapping[str, Driver],
    site: str,
    *,
    place: Place | None = None,
) -> Worker:
    """A worker that runs only the hooks of the pools of one site; `place` tells where its drivers lock.

    It has no build: whatever version a lease is at, its site has just these.
    """
    return Worker(
        client,
        task_queue=site_queue(site),
        activities=[
            *Stages(store, logs, drivers, place).all,
            *Checks(store, logs, drivers).all,
            Admitting(store, logs, drivers).ask,
        ],
        max_concurrent_activity_task_polls=POLLS,
        max_concurrent_activities=MOST_HOOKS,
        max_heartbeat_throttle_interval=HEARTBEAT,
        default_heartbeat_throttle_interval=HEARTBEAT,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )
