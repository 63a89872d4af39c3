"""Pools that make their resources, or check them: one workflow for each pool decides what is due, others do it.

A pool's workflow never runs a hook and never grants: it has the record looked at whenever something has changed, and
when something is due. What is begun so, a creation or a deletion, is a workflow of its own, which neither the pool's
end nor a stuck neighbour touches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.tending import Checks, Tending
    from leasehold.messages import (
        CheckRound,
        Created,
        CreateResource,
        Deleted,
        DeleteResource,
        ListPool,
        TendPool,
    )
    from workflows.hooks import Hooks, as_hook
    from workflows.steps import step

_LOOK_AT_LEAST = timedelta(minutes=5)
"""How long a pool goes without being looked at, whatever is due in it."""
_SHORTEST_WAIT_S = 0.05
_LONG = 500
"""Events of a run."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 600.0


@workflow.defn(name="pool")
class PoolWorkflow:
    """Tends one pool for as long as it needs tending."""

    @workflow.init
    def __init__(self, order: TendPool) -> None:
        self._stirred = False

    @workflow.run
    async def run(self, order: TendPool) -> str:
        """Return once nothing in the pool needs tending any more."""
        while True:
            self._stirred = False
            tended = await step(Tending.tend, order)
            workflow.set_current_details(tended.summary)
            if tended.over and not self._stirred:
                return "over"
            left = _LOOK_AT_LEAST
            if tended.left_s is not None:
                left = min(left, timedelta(seconds=max(tended.left_s, _SHORTEST_WAIT_S)))
            try:
                await workflow.wait_condition(lambda: self._stirred, timeout=left)
            except TimeoutError:
                pass
            if _is_long():
                workflow.continue_as_new(order)

    @workflow.signal(name="stir")
    def on_stir(self) -> None:
        """Something in the pool has changed."""
        self._stirred = True


def _is_long() -> bool:
    """Whether to go on in a new run: long before Temporal suggests it, for much happens in a pool.

    A worker that has lost a run reads all of it again, and with many such runs would come to nothing else.
    """
    info = workflow.info()
    # Those that have begun with an earlier version go on as they did.
    early = info.get_current_history_length() > _LONG and workflow.patched("pools go on early")
    return early or info.is_continue_as_new_suggested()


async def _to_its_end(work: Callable[[], Awaitable[str]]) -> str:
    """Do a piece of work that Temporal's own cancellation does not stop: what is half made can only be finished."""
    working = asyncio.ensure_future(work())
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        return await working


def _show(stage: str, attempt: int) -> None:
    workflow.set_current_details(f"{stage}, attempt {attempt}")


@workflow.defn(name="create")
class CreateWorkflow:
    """Makes one resource, and prepares it where its pool does that ahead."""

    @workflow.init
    def __init__(self, order: CreateResource) -> None:
        self._hooks = Hooks("")

    @workflow.run
    async def run(self, order: CreateResource) -> str:
        """Return `created`, or why it was not."""
        return await _to_its_end(lambda: self._create(order))

    async def _create(self, order: CreateResource) -> str:
        broken = await self._hooks.for_resource(order.claim, order.claim.stages, _show)
        done = Created(claim=order.claim)
        if broken is not None:
            done = replace(done, failed=broken.reason, lost=broken.lost)
        await step(Tending.finish_creating, done)
        return done.failed or "created"

    @workflow.signal(name="granted")
    def on_granted(self) -> None:
        """Look at the limiters again."""
        self._hooks.signalled()


@workflow.defn(name="delete")
class DeleteWorkflow:
    """Deletes one resource, again and again until it is gone."""

    @workflow.init
    def __init__(self, order: DeleteResource) -> None:
        self._hooks = Hooks("")
        self._at_once = False

    @workflow.run
    async def run(self, order: DeleteResource) -> str:
        """Return once it is gone."""
        return await _to_its_end(lambda: self._delete(order))

    async def _delete(self, order: DeleteResource) -> str:
        while True:
            broken = await self._hooks.for_resource(order.claim, order.claim.stages, _show, tries=order.tries)
            many = max((hook.attempts for planned in order.claim.stages for hook in planned.hooks), default=1)
            pause_s = min(order.pause_s * 2 or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            order = replace(order, tries=order.tries + many, pause_s=pause_s)
            done = Deleted(claim=order.claim, tries=order.tries, failed=broken.reason if broken else None)
            if await step(Tending.finish_deleting, done):
                return "deleted"
            workflow.set_current_details(f"try {order.tries}: {done.failed}")
            self._at_once = False
            try:
                await workflow.wait_condition(lambda: self._at_once, timeout=timedelta(seconds=pause_s))
            except TimeoutError:
                pass
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(order)

    @workflow.signal(name="granted")
    def on_granted(self) -> None:
        """Look at the limiters again, or try again at once."""
        self._at_once = True
        self._hooks.signalled()


@workflow.defn(name="checks")
class CheckWorkflow:
    """Livechecks of some resources of a pool."""

    @workflow.run
    async def run(self, order: CheckRound) -> int:
        """Return how many of them failed."""
        return await workflow.execute_activity_method(
            Checks.check, order, **as_hook(_rounds(order) * order.timeout_s, order.site)
        )


def _rounds(order: CheckRound) -> int:
    """How many livechecks follow one another at most."""
    return -(-len(order.resources) // order.parallel)


@workflow.defn(name="list")
class ListWorkflow:
    """What there is in a pool, whether anybody knows it or not."""

    @workflow.run
    async def run(self, order: ListPool) -> int:
        """Return how many were listed."""
        return await workflow.execute_activity_method(Checks.list, order, **as_hook(order.timeout_s, order.site))
