"""Hooks: how workflows have them run, with their attempts, timeouts, limiters and sites."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from activities.allocate import Allocation
    from leasehold.messages import (
        LOST,
        Blocked,
        BrokenResource,
        Claim,
        HeldResource,
        HookReport,
        PlannedHook,
        PlannedStage,
        RunHook,
        TakeSlot,
        WidePlan,
    )
    from leasehold.temporal_names import site_queue
    from workflows.steps import FOR_EVER, step

TAKEN_UP_WITHIN = timedelta(minutes=1)
"""A hook that no worker has begun by then says so, and goes on waiting."""
_HEARTBEAT_TIMEOUT = timedelta(seconds=10)
_HOOK_SLACK = timedelta(minutes=10)
"""What a hook's activity may take beyond the hook's own timeout: waiting for an earlier run's end, and killing."""


def as_hook(timeout_s: float, site: str | None) -> dict[str, Any]:
    """How the activity that runs a hook is run: where, for how long, and until it has run."""
    return {
        "task_queue": site_queue(site) if site else None,
        "start_to_close_timeout": timedelta(seconds=timeout_s) + _HOOK_SLACK,
        "heartbeat_timeout": _HEARTBEAT_TIMEOUT,
        "retry_policy": FOR_EVER,
        "cancellation_type": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    }


OnAttempt = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a hook is run for: one resource, or all that a lease `holds`."""

    pool: str
    resource: str
    epoch: int
    spec: int
    site: str | None
    holds: tuple[HeldResource, ...] = ()

    @property
    def name(self) -> str:
        """As people name it."""
        return f"{self.pool}/{self.resource}" if self.resource else f"{self.pool}, for the whole lease"


class Hooks:
    """Runs the hooks of one workflow; `lease` is empty where there is none.

    Once `stopping` is set no hook starts any more: one that is being cancelled may end by itself before it learns it.
    """

    def __init__(self, lease: str) -> None:
        self.stopping = False
        self._lease = lease
        self._signals = 0

    def signalled(self) -> None:
        """Somebody gave a slot back, perhaps."""
        self._signals += 1

    async def for_resource(
        self, claim: Claim, stages: Iterable[PlannedStage], on_attempt: OnAttempt, *, tries: int = 0
    ) -> BrokenResource | None:
        """Take a resource through stages in order; return why it is broken if one fails all its attempts.

        Attempts are counted on from `tries`.
        """
        target = _Target(pool=claim.pool, resource=claim.resource, epoch=claim.epoch, spec=claim.spec, site=claim.site)
        final = claim.stages[-1] if claim.stages else None
        for planned in stages:
            for hook in planned.hooks:
                last = planned == final and hook == planned.hooks[-1]
                report = await self._run(target, planned.stage, hook, last, on_attempt, tries)
                if self.stopping:
                    return None
                if not report.ok:
                    return BrokenResource(
                        pool=claim.pool,
                        resource=claim.resource,
                        epoch=claim.epoch,
                        reason=f"{planned.stage}: {report.detail}",
                        lost=report.ending == LOST,
                    )
        return None

    async def for_lease(
        self, plan: WidePlan, stages: Iterable[PlannedStage], holds: tuple[HeldResource, ...], on_attempt: OnAttempt
    ) -> str | None:
        """Take a whole lease through stages in order; return what failed."""
        target = _Target(
            pool=plan.pool,
            resource="",
            epoch=max(held.epoch for held in holds),
            spec=plan.spec,
            site=plan.site,
            holds=holds,
        )
        for planned in stages:
            for hook in planned.hooks:
                report = await self._run(target, planned.stage, hook, False, on_attempt)
                if self.stopping:
                    return None
                if not report.ok:
                    return f"{target.name}: {planned.stage}: {report.detail}"
        return None

    async def _run(
        self, target: _Target, stage: str, hook: PlannedHook, last: bool, on_attempt: OnAttempt, tries: int = 0
    ) -> HookReport:
        """Run a hook up to its attempts. An attempt is a result of the hook: a dead worker consumes none.

        But what must not be run again after its worker went away is lost with it.
        """
        report = HookReport(ending="not_started", code=None, detail="no attempt is allowed", ok=False)
        for attempt in range(tries + 1, tries + hook.attempts + 1):
            on_attempt(stage, attempt)
            order = RunHook(
                lease=self._lease,
                pool=target.pool,
                resource=target.resource,
                epoch=target.epoch,
                spec=target.spec,
                stage=stage,
                hook=hook.index,
                attempt=attempt,
                timeout_s=hook.timeout_s,
                last=last,
                holds=target.holds,
            )
            run = f"{target.pool}/{target.resource}/{target.epoch}/{stage}/{hook.index}/{attempt}"
            async with self._slot(hook.limit, run):
                if self.stopping:
                    break
                report = await self._execute(
                    order, target, f"{target.name} attempt {attempt} of {tries + hook.attempts}"
                )
            if report.ok or self.stopping or report.ending == LOST:
                break
        return report

    async def _execute(self, order: RunHook, target: _Target, summary: str) -> HookReport:
        """Have a worker run a hook once, however long it takes until one is there."""
        told = False
        while True:
            try:
                report: HookReport = await workflow.execute_activity(
                    order.stage,
                    order,
                    **as_hook(order.timeout_s, target.site),
                    result_type=HookReport,
                    # Once it is said nothing more is learned from waiting in pieces, each of which takes its events.
                    schedule_to_start_timeout=None if told else TAKEN_UP_WITHIN,
                    summary=summary,
                )
            except ActivityError as error:
                if self.stopping or not _nobody_came(error):
                    raise
                where = f"site {target.site}" if target.site else "this task queue"
                reason = f"{target.name}: no worker has begun {order.stage} for a minute: is one running for {where}?"
                await self._tell(order, reason)
                told = True
                continue
            if told:
                await self._tell(order, None)
            return report

    async def _tell(self, order: RunHook, reason: str | None) -> None:
        await step(
            Allocation.show_blocked,
            Blocked(lease=self._lease, pool=order.pool, resource=order.resource, reason=reason),
        )

    @asynccontextmanager
    async def _slot(self, limiter: str | None, key: str) -> AsyncIterator[None]:
        """A slot of a limiter for as long as the block runs, once it is there."""
        if limiter is None:
            yield
            return
        order = TakeSlot(workflow=workflow.info().workflow_id, key=key, limiter=limiter)
        try:
            while True:
                seen = self._signals
                if (await step(Allocation.take_slot, order)).taken:
                    break
                await workflow.wait_condition(lambda seen=seen: self._signals != seen)  # type: ignore[misc]
            yield
        finally:
            # The coroutines of a terminated workflow are thrown away, outside of it.
            if workflow.in_workflow():
                await step(Allocation.give_slot, order)


def _nobody_came(error: ActivityError) -> bool:
    """Whether an activity failed because no worker has begun it in time."""
    return isinstance(error.cause, TimeoutError) and error.cause.type is TimeoutType.SCHEDULE_TO_START
