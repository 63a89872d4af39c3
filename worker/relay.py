"""The relay: takes what transactions wrote to the outbox to the workflows, and tells them of missed heartbeats.

It wakes at once for what its own process wrote and looks every second for the rest. Delivering something twice does
no harm, so any number of relays may run.
"""

from __future__ import annotations

import asyncio
import logging

from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from leasehold.errors import LeaseUnknown
from leasehold.messages import CloseLease, Refusal, recycle_id
from leasehold.model import Outcome
from leasehold.ports import Posted, Store
from workflows.lease import LEASE_POOL, LeaseWorkflow
from workflows.recycle import RecycleWorkflow

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
_BATCH = 100


class Relay:
    """Delivers the outbox for as long as it runs."""

    def __init__(self, store: Store, client: Client, task_queue: str) -> None:
        self._store = store
        self._client = client
        self._task_queue = task_queue

    async def run(self) -> None:
        """Deliver until cancelled; whatever fails stays in the outbox and is tried again."""
        while True:
            await self._store.outbox_posted(INTERVAL_S)
            try:
                while await self._deliver_some():
                    pass
                await self._tell_overdue()
            except Exception:
                log.exception("the outbox could not be read; trying again")
                await asyncio.sleep(INTERVAL_S)

    async def _deliver_some(self) -> bool:
        """Deliver a batch; return whether there may be more that can be delivered now."""
        due = await self._store.outbox_due(_BATCH)
        done = await asyncio.gather(*(self._deliver(posted) for posted in due))
        delivered = [posted.id for posted, ok in zip(due, done, strict=True) if ok]
        if delivered:
            await self._store.outbox_delivered(delivered)
        return len(delivered) == _BATCH

    async def _tell_overdue(self) -> None:
        """Tell the workflows of leases that nobody was heard of for too long."""
        for lease in await self._store.overdue(_BATCH):
            try:
                await self._client.get_workflow_handle_for(LeaseWorkflow.run, lease).signal(LeaseWorkflow.on_overdue)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    log.warning("lease %s: not told yet that it is overdue: %s", lease, error)
                    continue
                order = CloseLease(
                    lease=lease,
                    outcome=Outcome.LOST,
                    actor="leasehold",
                    stopped=True,
                    reason="no heartbeat came in time, and its workflow was closed",
                )
                await self._close(order)

    async def _deliver(self, posted: Posted) -> bool:
        try:
            if posted.recycle is None:
                await self._signal(posted.lease)
            else:
                await self._start(posted)
        except RPCError as error:
            log.warning("lease %s: not delivered yet: %s", posted.lease, error)
            return False
        return True

    async def _signal(self, lease: str) -> None:
        try:
            await self._client.get_workflow_handle_for(LeaseWorkflow.run, lease).signal(LeaseWorkflow.on_granted)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            # The lease's workflow is closed: nobody would ever give back what was granted.
            gone = Refusal(code="workflow_gone", detail="the lease's workflow was closed before it was granted")
            order = CloseLease(
                lease=lease, outcome=Outcome.FAILED, actor="leasehold", stopped=True, reason=gone.detail, error=gone
            )
            await self._close(order)

    async def _close(self, order: CloseLease) -> None:
        """End what a closed workflow left; one that is no lease's must not hold up the others."""
        try:
            await self._store.close_lease(order)
        except LeaseUnknown:
            await self._store.forget(order.lease)

    async def _start(self, posted: Posted) -> None:
        order = posted.recycle
        assert order is not None
        claim = order.claim
        try:
            await self._client.start_workflow(
                RecycleWorkflow.run,
                order,
                id=recycle_id(claim.pool, claim.resource, claim.epoch),
                task_queue=self._task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                search_attributes=TypedSearchAttributes([SearchAttributePair(LEASE_POOL, claim.pool)]),
                static_summary=f"Recycle {claim.pool}/{claim.resource} after lease {posted.lease}",
            )
        except WorkflowAlreadyStartedError:
            return
