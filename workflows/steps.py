"""Steps: how workflows write to the record, and until when they try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy

In = TypeVar("In")
Out = TypeVar("Out")

FOR_EVER = RetryPolicy(initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=10))
_STEP_TIMEOUT = timedelta(seconds=30)


async def step(what: Callable[[Any, In], Awaitable[Out]], message: In, *, give_up: timedelta | None = None) -> Out:
    """Run a short database step as a local activity, until it has run.

    With `give_up`, try for so long at most; raises `ActivityError` then.
    """
    return await workflow.execute_local_activity_method(
        what,
        message,
        start_to_close_timeout=_STEP_TIMEOUT,
        schedule_to_close_timeout=give_up,
        retry_policy=FOR_EVER,
    )
