"""What happens to a resource after a lease, apart from the lease: a stuck host never keeps a lease alive."""

from __future__ import annotations

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.allocate import Allocation
    from leasehold.messages import Recycled, RecycleResource
    from workflows import steps
    from workflows.hooks import Hooks


@workflow.defn(name="recycle")
class RecycleWorkflow:
    """Takes a resource through the stages that its pool wants after a lease, then frees it or quarantines it."""

    @workflow.init
    def __init__(self, order: RecycleResource) -> None:
        self._hooks = Hooks(order.lease)

    @workflow.run
    async def run(self, order: RecycleResource) -> str:
        """Return `free`, or why the resource is broken.

        Temporal's own cancellation changes nothing: a host that is half clean can neither be lent nor forgotten.
        """
        recycling = asyncio.create_task(self._recycle(order))
        try:
            return await asyncio.shield(recycling)
        except asyncio.CancelledError:
            return await recycling

    async def _recycle(self, order: RecycleResource) -> str:
        def show(stage: str, attempt: int) -> None:
            workflow.set_current_details(f"{stage}, attempt {attempt}")

        broken = await self._hooks.for_resource(order.claim, order.claim.stages, show)
        reason = broken.reason if broken else None
        done = Recycled(lease=order.lease, claim=order.claim, broken=reason)
        await steps.step(Allocation.finish_recycling, done)
        return reason or "free"

    @workflow.signal(name="granted")
    def on_granted(self) -> None:
        """Look at the limiters again."""
        self._hooks.signalled()
