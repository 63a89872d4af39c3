"""How workflows call activities: the one place for their timeouts and retries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from leasehold.messages import BrokenResource, Claim, HookReport, PlannedHook, RunHook

In = TypeVar("In")
Out = TypeVar("Out")

_FOR_EVER = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=10))
_BEHIND = ("lease_unknown", "LeaseUnknown", "illegal_transition", "IllegalTransition")
"""What a step meets only in a database that was restored from an older copy than its workflow."""
_STEP = RetryPolicy(
    initial_interval=_FOR_EVER.initial_interval,
    maximum_interval=_FOR_EVER.maximum_interval,
    non_retryable_error_types=_BEHIND,
)
_LOOK_AGAIN, _LOOK_AGAIN_AT_MOST = timedelta(seconds=10), timedelta(minutes=5)
_STEP_TIMEOUT = timedelta(seconds=30)
_HEARTBEAT_TIMEOUT = timedelta(seconds=10)
_HOOK_SLACK = timedelta(minutes=10)
"""What a hook's activity may take beyond the hook's own timeout: waiting for an earlier run's end, and killing."""

OnAttempt = Callable[[str, int], None]


async def step(what: Callable[[Any, In], Awaitable[Out]], message: In, *, give_up: timedelta | None = None) -> Out:
    """Run a short database step as a local activity, until it has run.

    With `give_up`, try for so long at most; raises `ActivityError` then. A step that finds a record older than its
    workflow waits until that is put right.
    """
    pause = _LOOK_AGAIN
    while True:
        try:
            return await workflow.execute_local_activity_method(
                what,
                message,
                start_to_close_timeout=_STEP_TIMEOUT,
                schedule_to_close_timeout=give_up,
                retry_policy=_STEP,
            )
        except (ActivityError, ApplicationError) as error:
            # What a local activity fails with comes bare where its kind is not to be tried again.
            cause = error.cause if isinstance(error, ActivityError) else error
            behind = isinstance(cause, ApplicationError) and cause.type in _BEHIND
            if give_up is not None or not behind:
                raise
            await _until_rebuilt(str(cause), pause)
            pause = min(pause * 2, _LOOK_AGAIN_AT_MOST)


async def _until_rebuilt(why: str, pause: timedelta) -> None:
    """Wait until the records were rebuilt, or for a while; meanwhile say so in Temporal's UI, and answer queries."""
    shown = workflow.get_current_details()
    workflow.set_current_details(
        f"**waiting**: {why}. The database is older than this workflow: run `leasehold reconcile`"
    )
    again = asyncio.Event()
    workflow.set_signal_handler("rebuilt", again.set)
    try:
        await workflow.wait_condition(again.is_set, timeout=pause)
    except TimeoutError:
        pass
    workflow.set_current_details(shown)


async def run_stages(
    lease: str, claim: Claim, on_attempt: OnAttempt, stopping: Callable[[], bool] = lambda: False
) -> BrokenResource | None:
    """Take a resource through its stages in order; return why it is broken if one fails all its attempts.

    No hook starts any more once `stopping()` holds.
    """
    for planned in claim.stages:
        for index, hook in enumerate(planned.hooks):
            last = planned is claim.stages[-1] and index == len(planned.hooks) - 1
            report = await _run_hook(lease, claim, planned.stage, index, hook, last, on_attempt, stopping)
            if stopping():
                return None
            if not report.ok:
                reason = f"{planned.stage}: {report.detail}"
                return BrokenResource(pool=claim.pool, resource=claim.resource, reason=reason)
    return None


async def _run_hook(
    lease: str,
    claim: Claim,
    stage: str,
    index: int,
    hook: PlannedHook,
    last: bool,
    on_attempt: OnAttempt,
    stopping: Callable[[], bool],
) -> HookReport:
    """Run a hook up to its attempts. An attempt is a result of the hook: a dead worker consumes none."""
    report = HookReport(ending="not_started", code=None, detail="no attempt is allowed", ok=False)
    for attempt in range(1, hook.attempts + 1):
        on_attempt(stage, attempt)
        order = RunHook(
            lease=lease,
            pool=claim.pool,
            resource=claim.resource,
            epoch=claim.epoch,
            spec=claim.spec,
            stage=stage,
            hook=index,
            attempt=attempt,
            timeout_s=hook.timeout_s,
            last=last,
        )
        report = await workflow.execute_activity(
            stage,
            order,
            result_type=HookReport,
            start_to_close_timeout=timedelta(seconds=hook.timeout_s) + _HOOK_SLACK,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT,
            retry_policy=_FOR_EVER,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"{claim.pool}/{claim.resource} attempt {attempt} of {hook.attempts}",
        )
        if report.ok or stopping():
            break
    return report
