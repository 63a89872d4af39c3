"""Steps: how workflows write to the record, and until when they try."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

In = TypeVar("In")
Out = TypeVar("Out")

FOR_EVER = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=10))
_BEHIND = ("lease_unknown", "LeaseUnknown", "illegal_transition", "IllegalTransition")
"""What a step meets only in a database that was restored from an older copy than its workflow."""
_STEP = RetryPolicy(
    initial_interval=FOR_EVER.initial_interval,
    maximum_interval=FOR_EVER.maximum_interval,
    non_retryable_error_types=_BEHIND,
)
_LOOK_AGAIN, _LOOK_AGAIN_AT_MOST = timedelta(seconds=10), timedelta(minutes=5)
_STEP_TIMEOUT = timedelta(seconds=30)


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
