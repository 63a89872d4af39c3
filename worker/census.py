"""Asks Temporal about workflows, for the sweep and for `reconcile`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetClusterInfoRequest
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.asking import Fate, RunningLease
from leasehold.healing import Identity
from leasehold.holdings import RECYCLE, Holding
from leasehold.messages import LeaseView, Steer, SubmitLease
from leasehold.temporal import submitted
from workflows.lease import LEASE_STATE, LeaseWorkflow

T = TypeVar("T")

PAGE = 500
_WITHIN = timedelta(seconds=10)
_VIEW_WITHIN = timedelta(seconds=4)
_VIEW_TRIES = 3
_ERRANDS = (RECYCLE, "create", "delete")


async def identity(client: Client) -> Identity:
    """Which Temporal a client talks to."""
    service = client.workflow_service
    cluster = await _told(service.get_cluster_info(GetClusterInfoRequest(), timeout=_WITHIN))
    described = await _told(
        service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace), timeout=_WITHIN)
    )
    return Identity(
        cluster=cluster.cluster_id if cluster else "", namespace=described.namespace_info.id if described else ""
    )


async def _told(answer: Awaitable[T]) -> T | None:
    """An answer that a hosted Temporal does not give to everybody."""
    try:
        return await answer
    except RPCError as error:
        if error.status not in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}:
            raise
        return None


class TemporalWorkflows:
    """The workflows of one task queue; see `activities.asking.Workflows` for what each call means."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self.calls = 0

    async def identity(self) -> Identity:
        self.calls += 2
        return await identity(self._client)

    async def running_leases(self) -> AsyncIterator[list[RunningLease]]:
        async for page in self._list("lease", "ExecutionStatus = 'Running'"):
            yield [
                RunningLease(lease=one.id, state=one.typed_search_attributes.get(LEASE_STATE, default=None))
                for one in page
            ]

    async def running_recyclings(self) -> AsyncIterator[list[Holding]]:
        for errand in _ERRANDS:
            async for page in self._list(errand, "ExecutionStatus = 'Running'"):
                yield [_holding(one.id) for one in page]

    async def closed_leases(self, since: datetime | None) -> AsyncIterator[list[str]]:
        closed = "ExecutionStatus != 'Running'"
        if since is not None:
            closed += f" AND CloseTime > '{since.isoformat(timespec='seconds')}'"
        async for page in self._list("lease", closed):
            yield [one.id for one in page]

    async def lease(self, lease: str) -> Fate | None:
        return await self._fate(lease)

    async def recycling(self, holding: Holding) -> Fate | None:
        return await self._fate(holding.id)

    async def view(self, lease: str) -> LeaseView | None:
        handle = self._client.get_workflow_handle_for(LeaseWorkflow.run, lease)
        for _ in range(_VIEW_TRIES):
            self.calls += 1
            try:
                # A query can get lost with the task that carries it: ask again rather than wait long.
                return await handle.query(LeaseWorkflow.view, rpc_timeout=_VIEW_WITHIN)
            except (WorkflowQueryFailedError, WorkflowQueryRejectedError):
                return None
            except RPCError as error:
                if error.status not in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
                    return None
        return None

    async def request(self, lease: str) -> SubmitLease | None:
        self.calls += 1
        return await _known(lambda: submitted(self._client, lease))

    async def outcome(self, lease: str) -> str | None:
        self.calls += 1
        handle = self._client.get_workflow_handle_for(LeaseWorkflow.run, lease)
        try:
            return await _known(lambda: handle.result(rpc_timeout=_WITHIN))
        except WorkflowFailureError:
            return None

    async def tell(self, lease: str, signal: str, steer: Steer | None = None) -> None:
        self.calls += 1
        handle = self._client.get_workflow_handle(lease)
        arguments = [] if steer is None else [steer]
        await _known(lambda: handle.signal(signal, args=arguments, rpc_timeout=_WITHIN))

    async def _list(self, kind: str, which: str) -> AsyncIterator[list[WorkflowExecution]]:
        query = f"WorkflowType = '{kind}' AND TaskQueue = '{self._task_queue}' AND {which}"
        found = self._client.list_workflows(query, page_size=PAGE, rpc_timeout=_WITHIN)
        while True:
            self.calls += 1
            await found.fetch_next_page()
            if found.current_page:
                yield list(found.current_page)
            if not found.next_page_token:
                return

    async def _fate(self, workflow: str) -> Fate | None:
        self.calls += 1
        described = await _known(lambda: self._client.get_workflow_handle(workflow).describe(rpc_timeout=_WITHIN))
        if described is None:
            return None
        runs = described.status is WorkflowExecutionStatus.RUNNING
        return Fate(
            run_id=described.run_id,
            started_at=described.start_time,
            how=None if runs or described.status is None else described.status.name.lower(),
            closed_at=described.close_time,
        )


def _holding(workflow: str) -> Holding:
    """Whose recycling, creation or deletion a workflow is; names of pools and resources have no colon."""
    errand, pool, resource, epoch = workflow.split(":")
    return Holding(pool=pool, resource=resource, epoch=int(epoch), errand=errand)


async def _known(call: Callable[[], Awaitable[T]]) -> T | None:
    """What a call answers; None if Temporal does not know, or no more, what it is about."""
    try:
        return await call()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return None
