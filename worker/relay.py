"""The relay: takes what transactions wrote to the outbox to the workflows, and tells them of missed heartbeats.

It wakes at once for what its own process wrote and looks every second for the rest. Delivering something twice does
no harm, so any number of relays may run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from leasehold.errors import LeaseholdError, LeaseUnknown
from leasehold.messages import (
    CheckRound,
    CloseLease,
    CreateResource,
    DeleteResource,
    Errand,
    ListPool,
    Notice,
    RecycleResource,
    Refusal,
    TendPool,
    errand_id,
    pool_id,
)
from leasehold.model import OVER, Outcome
from leasehold.ports import Posted, Store
from workflows.lease import LEASE_POOL, LeaseWorkflow
from workflows.notice import NoticeWorkflow
from workflows.pool import CheckWorkflow, CreateWorkflow, DeleteWorkflow, ListWorkflow, PoolWorkflow
from workflows.recycle import RecycleWorkflow

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
TEND_AFTER_S = 0.05
"""How long a pool that is to look after itself waits: those who caused it have their answers by then."""
_BATCH = 100


class Relay:
    """Delivers the outbox for as long as it runs."""

    def __init__(self, store: Store, client: Client, task_queue: str) -> None:
        self._store = store
        self._client = client
        self._task_queue = task_queue
        self._trouble: dict[int, str] = {}
        self._waiting: dict[str, set[int]] = {}
        """Pools that are to be told soon to look after themselves, with the messages that say so."""
        self._told: set[int] = set()
        """Such messages that are being delivered."""
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver until cancelled; whatever fails stays in the outbox and is tried again."""
        try:
            while True:
                await self._store.outbox_posted(INTERVAL_S)
                try:
                    while await self._deliver_some():
                        pass
                    await self._tell_overdue()
                except Exception:
                    log.exception("the outbox could not be read; trying again")
                    await asyncio.sleep(INTERVAL_S)
        finally:
            for task in self._telling:
                task.cancel()
            await asyncio.gather(*self._telling, return_exceptions=True)

    async def _deliver_some(self) -> bool:
        """Deliver a batch; return whether there may be more that can be delivered now."""
        found = await self._store.outbox_due(_BATCH)
        due = self._without_tending(found)
        done = await asyncio.gather(*(self._deliver(posted) for posted in due))
        await self._note_trouble(due, done)
        delivered = [posted.id for posted, trouble in zip(due, done, strict=True) if trouble is None]
        if delivered:
            await self._store.outbox_delivered(delivered)
        return len(found) == _BATCH and len(delivered) == len(due) > 0

    def _without_tending(self, due: list[Posted]) -> list[Posted]:
        """What is to be delivered now: whoever has asked for something is served before pools look after themselves.

        A pool that is to be told often is told once.
        """
        rest = []
        for posted in due:
            if not isinstance(posted.start, TendPool):
                rest.append(posted)
            elif posted.start.pool in self._waiting:
                self._waiting[posted.start.pool].add(posted.id)
            elif posted.id not in self._told:
                self._waiting[posted.start.pool] = {posted.id}
                telling = asyncio.create_task(self._tend(posted.start))
                self._telling.add(telling)
                telling.add_done_callback(self._telling.discard)
        return rest

    async def _tend(self, message: TendPool) -> None:
        """Tell a pool to look after itself, soon, for all messages that have come by then."""
        await asyncio.sleep(TEND_AFTER_S)
        told = self._waiting.pop(message.pool)
        self._told |= told
        try:
            await self._start(message)
            await self._store.outbox_delivered(sorted(told))
        except (RPCError, LeaseholdError) as error:
            log.warning("pool %s is not told yet: %s", message.pool, error)
            with suppress(LeaseholdError):
                await self._store.outbox_failed(min(told), f"pool {message.pool} is not told yet: {error}")
        finally:
            self._told -= told

    async def _tell_overdue(self) -> None:
        """Tell the workflows of leases that nobody was heard of for too long."""
        for lease in await self._store.overdue(_BATCH):
            handle = self._client.get_workflow_handle_for(LeaseWorkflow.run, lease)
            try:
                await handle.signal(LeaseWorkflow.on_overdue)
            except RPCError as error:
                gone = error.status is RPCStatusCode.NOT_FOUND and await self._store.state(lease) is not None
                if not gone or not await self._is_closed(handle):
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

    async def _note_trouble(self, due: list[Posted], done: list[str | None]) -> None:
        """Write down what is in the way of a message, once for each thing."""
        trouble = {posted.id: why for posted, why in zip(due, done, strict=True) if why is not None}
        for message, why in trouble.items():
            if self._trouble.get(message) != why:
                await self._store.outbox_failed(message, why)
        self._trouble = trouble

    async def _deliver(self, posted: Posted) -> str | None:
        """Deliver a message; return why it could not be."""
        try:
            if posted.start is None:
                return await self._signal(posted.lease)
            await self._start(posted.start)
        except RPCError as error:
            log.warning("lease %s: not delivered yet: %s", posted.lease, error)
            return f"Temporal does not answer ({error.status.name.lower()}: {error.message})"
        return None

    async def _signal(self, lease: str) -> str | None:
        handle = self._client.get_workflow_handle_for(LeaseWorkflow.run, lease)
        try:
            await handle.signal(LeaseWorkflow.on_granted)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            if not await self._is_closed(handle):
                # It may be the wrong Temporal: what becomes of the lease is for the sweep to say.
                over = await self._store.state(lease) in {None, *OVER}
                return None if over else f"Temporal does not know the workflow of lease {lease}"
            # The lease's workflow is closed: nobody would ever give back what was granted.
            gone = Refusal(code="workflow_gone", detail="the lease's workflow was closed before it was granted")
            order = CloseLease(
                lease=lease, outcome=Outcome.FAILED, actor="leasehold", stopped=True, reason=gone.detail, error=gone
            )
            await self._close(order)
        return None

    async def _is_closed(self, handle: WorkflowHandle[LeaseWorkflow, str]) -> bool:
        """Whether Temporal knows a workflow that cannot be signalled."""
        try:
            await handle.describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False
        return True

    async def _close(self, order: CloseLease) -> None:
        """End what a closed workflow left; one that is no lease's must not hold up the others.

        A command that may be running yet the sweep ends, once its runner has surely noticed.
        """
        try:
            await self._store.close_forgotten(order)
        except LeaseUnknown:
            await self._store.forget(order.lease)

    async def _start(self, message: Errand | CheckRound | ListPool | TendPool | Notice) -> None:
        """Start a workflow, unless it was started before; a pool's is told to look, and started if it is over."""
        begins = _begins(message)
        options: dict[str, Any] = {
            "id": begins.id,
            "task_queue": self._task_queue,
            "static_summary": begins.summary[:200],
            "search_attributes": TypedSearchAttributes([SearchAttributePair(LEASE_POOL, begins.pool)]),
        }
        if isinstance(message, TendPool):
            await self._client.start_workflow(begins.workflow, message, start_signal="stir", **options)
            return
        with suppress(WorkflowAlreadyStartedError):
            await self._client.start_workflow(
                begins.workflow, message, id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE, **options
            )


@dataclass(frozen=True, kw_only=True)
class _Begins:
    """How a workflow is started; of which pool it is, if of one."""

    workflow: Callable[..., Awaitable[Any]]
    id: str
    summary: str
    pool: str = ""


def _begins(message: Errand | CheckRound | ListPool | TendPool | Notice) -> _Begins:
    match message:
        case Notice():
            summary = f"Tell that lease {message.lease} is {message.kind}"
            return _Begins(workflow=NoticeWorkflow.run, id=message.id, summary=summary)
        case TendPool():
            summary = f"Keep {message.pool} as large as it is wanted, and alive"
            return _Begins(workflow=PoolWorkflow.run, id=pool_id(message.pool), summary=summary, pool=message.pool)
        case CheckRound():
            summary = f"Check {len(message.resources)} of {message.pool}"
            return _Begins(workflow=CheckWorkflow.run, id=message.id, summary=summary, pool=message.pool)
        case ListPool():
            summary = f"List what there is in {message.pool}"
            return _Begins(workflow=ListWorkflow.run, id=message.id, summary=summary, pool=message.pool)
        case _:
            return _errand(message)


def _errand(errand: Errand) -> _Begins:
    held, about = errand.claim, f"{errand.claim.pool}/{errand.claim.resource}"
    run: Callable[..., Awaitable[Any]]
    match errand:
        case CreateResource():
            run, summary = CreateWorkflow.run, f"Create {about}"
        case DeleteResource():
            run, summary = DeleteWorkflow.run, f"Delete {about}"
        case RecycleResource():
            run, summary = RecycleWorkflow.run, f"Recycle {about} after lease {errand.lease}"
    return _Begins(workflow=run, id=errand_id(errand), summary=summary, pool=held.pool)
