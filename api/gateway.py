"""The API's only way to Temporal: starting leases and steering them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from tenacity import AsyncRetrying, retry_if_exception, stop_never, wait_exponential

from leasehold.errors import NotFound, Unavailable, from_code
from leasehold.healing import Reconciled, ReconcileOrder
from leasehold.messages import (
    AddResources,
    Admitted,
    ExtendLease,
    GiveBack,
    Held,
    Steer,
    SubmitLease,
    Transfer,
    Transferred,
)
from leasehold.temporal import submitted
from workflows.lease import LEASE_OWNER, LEASE_POOL, LEASE_STATE, LeaseWorkflow
from workflows.sweep import ReconcileWorkflow

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ANSWER_WITHIN_S = 5.0
"""How long a worker may take before the caller is told that there is none."""

TEMPORAL_WITHIN = timedelta(seconds=5)
"""How long Temporal itself may take, with nobody to wait for but itself."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A lease whose workflow exists, and that no worker has admitted yet."""

    request: SubmitLease
    run_id: str
    started_at: datetime


class Gateway:
    """Starts lease workflows, and passes on what callers ask of them."""

    def __init__(self, client: Client, task_queue: str, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self._client = client
        self._task_queue = task_queue
        self.answer_within_s = answer_within_s

    async def submit(self, request: SubmitLease) -> Admitted | None:
        """Start a lease, or find the one that was started, and return what its admission decided.

        None means that no worker has admitted it yet, or that it is over already: the record tells. Starting the
        workflow is the only commit.
        """
        try:
            async with asyncio.timeout(self.answer_within_s):
                return await _repeated(lambda: self._start_and_admit(request))
        except WorkflowAlreadyStartedError:
            return None
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            _check_not_cancelled()
            # The call may have been lost before it started anything: make sure.
            await self._start(request)
            return None
        except RPCError as error:
            raise _unavailable(error) from None

    async def _start_and_admit(self, request: SubmitLease) -> Admitted:
        start = WithStartWorkflowOperation(LeaseWorkflow.run, request, **self._options(request))
        # The handle is not needed; its failure, the same as the call's, must not be reported as forgotten.
        asyncio.ensure_future(start.workflow_handle()).add_done_callback(lambda f: f.cancelled() or f.exception())
        admitted: Admitted = await self._client.execute_update_with_start_workflow(
            LeaseWorkflow.admit, id="admit", start_workflow_operation=start
        )
        return admitted

    def _options(self, request: SubmitLease) -> Any:
        return {
            "id": request.lease,
            "task_queue": self._task_queue,
            "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
            "id_reuse_policy": WorkflowIDReusePolicy.REJECT_DUPLICATE,
            "search_attributes": _search_attributes(request),
            "static_summary": _summary(request),
        }

    async def _start(self, request: SubmitLease) -> None:
        start = self._client.start_workflow
        try:
            await start(LeaseWorkflow.run, request, rpc_timeout=TEMPORAL_WITHIN, **self._options(request))
        except WorkflowAlreadyStartedError:
            return
        except RPCError as error:
            raise _unavailable(error) from None

    async def extend(self, lease: str, extension: ExtendLease) -> Held | None:
        """Extend a lease; None if its workflow is over. Raises `Unavailable` if no worker answers."""
        handle = self._handle(lease)

        async def extend(update_id: str) -> Held:
            held: Held = await _repeated(lambda: handle.execute_update(LeaseWorkflow.extend, extension, id=update_id))
            if held.refusal is not None and held.refusal.code == Unavailable.code and update_id == extension.request:
                # Temporal repeats for ever what it once answered to an id, and this may have been long ago.
                return await extend(f"{extension.request}.{uuid.uuid4().hex}")
            return held

        return await self._answered(lambda: extend(extension.request))

    async def add(self, lease: str, addition: AddResources) -> Admitted | None:
        """Give a lease more; None if its workflow is over. Raises `Unavailable` if no worker answers."""
        handle = self._handle(lease)

        async def add() -> Admitted:
            return await handle.execute_update(LeaseWorkflow.add, addition, id=addition.request or None)

        return await self._answered(lambda: _repeated(add))

    async def give_back(self, lease: str, part: GiveBack) -> Admitted | None:
        """Take one resource out of a lease; None if its workflow is over. Raises `Unavailable` if no worker answers."""
        handle = self._handle(lease)

        async def give_back() -> Admitted:
            return await handle.execute_update(LeaseWorkflow.give_back, part)

        return await self._answered(lambda: _repeated(give_back))

    async def transfer(self, order: Transfer) -> Transferred | None:
        """Give a lease to another owner; None if its workflow is over. Raises `Unavailable` if no worker answers."""
        handle = self._handle(order.lease)

        async def transfer() -> Transferred:
            return await handle.execute_update(LeaseWorkflow.transfer, order)

        return await self._answered(lambda: _repeated(transfer))

    async def _answered(self, update: Callable[[], Awaitable[Answer]]) -> Answer | None:
        """The answer of an update that may be repeated; None if the workflow is over."""
        try:
            async with asyncio.timeout(self.answer_within_s):
                return await update()
        except WorkflowUpdateFailedError as error:
            raise _translated(error) from None
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            _check_not_cancelled()
            raise Unavailable("no worker answers; it may still be done: ask for the lease") from None
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise _unavailable(error) from None

    async def release(self, lease: str, steer: Steer) -> bool:
        """Give a lease back; see `cancel`."""
        handle = self._handle(lease)
        return await self._end(
            lambda: handle.execute_update(LeaseWorkflow.release, steer),
            lambda: handle.signal(LeaseWorkflow.on_release_signal, steer),
        )

    async def cancel(self, lease: str, steer: Steer) -> bool:
        """End a lease, and return whether that is done; False means that it will be, by the next worker.

        An update that no worker has accepted lives in memory alone, so one that is not answered is followed by a
        signal, which cannot be lost.
        """
        handle = self._handle(lease)
        return await self._end(
            lambda: handle.execute_update(LeaseWorkflow.cancel, steer),
            lambda: handle.signal(LeaseWorkflow.on_cancel_signal, steer),
        )

    async def _end(self, update: Callable[[], Awaitable[object]], signal: Callable[[], Awaitable[None]]) -> bool:
        try:
            try:
                async with asyncio.timeout(self.answer_within_s):
                    await _repeated(update)
                return True
            except WorkflowUpdateFailedError as error:
                raise _translated(error) from None
            except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
                await signal()
                return False
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return True
            raise _unavailable(error) from None

    async def submission(self, lease: str) -> Submission | None:
        """What was submitted under this id, if its workflow runs."""
        handle = self._handle(lease)
        try:
            described = await handle.describe(rpc_timeout=TEMPORAL_WITHIN)
            if described.status is not WorkflowExecutionStatus.RUNNING:
                return None
            request = await submitted(self._client, lease)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise _unavailable(error) from None
        return Submission(request=request, run_id=described.run_id, started_at=described.start_time)

    async def reconcile(self, order: ReconcileOrder) -> str:
        """Start a reconciliation, and return what it is called."""
        run = uuid.uuid4().hex
        try:
            await self._client.start_workflow(
                ReconcileWorkflow.run,
                order,
                id=self._reconcile_id(run),
                task_queue=self._task_queue,
                static_summary=f"Rebuild the records from what runs, for {order.actor}"[:200],
            )
        except RPCError as error:
            raise _unavailable(error) from None
        return run

    async def reconciled(self, run: str, within_s: float) -> Reconciled | None:
        """What a reconciliation did; None if it is not done within this time. Raises what it failed with."""
        handle = self._client.get_workflow_handle_for(ReconcileWorkflow.run, self._reconcile_id(run))
        try:
            async with asyncio.timeout(within_s):
                return await handle.result()
        except TimeoutError:
            return None
        except WorkflowFailureError as error:
            cause = error.cause.cause if isinstance(error.cause, ActivityError) else error.cause
            if isinstance(cause, ApplicationError) and cause.type:
                raise from_code(cause.type, cause.message) from None
            raise
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise NotFound("there is no such reconciliation") from None
            raise _unavailable(error) from None

    def _reconcile_id(self, run: str) -> str:
        return f"{self._task_queue}-reconcile-{run}"

    async def ping(self) -> None:
        """Raise `RPCError` unless Temporal answers."""
        await self._client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=timedelta(seconds=2))

    async def has_worker(self) -> bool:
        """Whether any worker has asked for work in the last minutes."""
        answer = await self._client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=self._client.namespace,
                task_queue=TaskQueue(name=self._task_queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            ),
            timeout=timedelta(seconds=2),
        )
        return bool(answer.pollers)

    def _handle(self, lease: str) -> WorkflowHandle[LeaseWorkflow, str]:
        return self._client.get_workflow_handle_for(LeaseWorkflow.run, lease)


def _check_not_cancelled() -> None:
    """Raise `CancelledError` where the caller went away: Temporal's client tells of it with an error of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _repeated(update: Callable[[], Awaitable[Answer]]) -> Answer:
    """Send an update again that was dropped because its workflow task failed: each is good for that.

    It happens when a workflow is about to end while a signal arrives: Temporal repeats the task without the update.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_was_dropped), wait=wait_exponential(0.02, max=0.5), stop=stop_never, reraise=True
    ):
        with attempt:
            return await update()
    raise AssertionError("it is repeated until it is answered or out of time")


def _was_dropped(error: BaseException) -> bool:
    return isinstance(error, RPCError) and error.status is RPCStatusCode.FAILED_PRECONDITION


def _search_attributes(request: SubmitLease) -> TypedSearchAttributes:
    pools = ",".join(sorted({item.pool or "*" for item in request.items}))
    return TypedSearchAttributes(
        [
            SearchAttributePair(LEASE_STATE, "submitted"),
            SearchAttributePair(LEASE_OWNER, request.owner),
            SearchAttributePair(LEASE_POOL, pools),
        ]
    )


def _summary(request: SubmitLease) -> str:
    wanted = ", ".join(f"{item.count} of {item.pool or 'any pool'}" for item in request.items)
    return f"{request.owner}: {wanted}"[:200]


def _translated(error: WorkflowUpdateFailedError) -> Exception:
    """The error of ours that an update failed with."""
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type:
        return from_code(cause.type, cause.message)
    return error


def _unavailable(error: RPCError) -> Unavailable:
    log.warning("Temporal does not answer: %s: %s", error.status.name, error.message)
    return Unavailable(f"Temporal does not answer ({error.status.name.lower()})")
