"""Healing, as workflows: a pass of the sweep, and the rebuilding of records that somebody asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.reconcile import Reconcile
    from activities.sweep import Sweep
    from leasehold import healing
    from leasehold.healing import (
        ClosePass,
        Findings,
        Opened,
        OpenPass,
        PassReport,
        Reconciled,
        ReconcileOrder,
        Survey,
        SweepOrder,
    )

In = TypeVar("In")
Out = TypeVar("Out")

_GIVE_UP = timedelta(minutes=10)
_HEARTBEAT = timedelta(seconds=60)
_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


async def _run(what: Callable[[Any, In], Awaitable[Out]], message: In, give_up: timedelta = _GIVE_UP) -> Out:
    return await workflow.execute_activity_method(
        what, message, schedule_to_close_timeout=give_up, heartbeat_timeout=_HEARTBEAT, retry_policy=_RETRY
    )


@workflow.defn(name="sweep")
class SweepWorkflow:
    """One pass: survey everything, judge it as a whole, then put right what may be put right."""

    @workflow.run
    async def run(self, order: SweepOrder) -> PassReport:
        """Return the pass in figures; its mark comes back to the next one, through Temporal."""
        previous = workflow.get_last_completion_result(PassReport) if workflow.has_last_completion_result() else None
        opened = await _run(Sweep.open, OpenPass(previous=previous.mark if previous else None))
        found: Findings | None = None
        if opened.changed is None and opened.suspended is None:
            survey = Survey(now=workflow.now(), turn=opened.passes, order=order)
            found = await _run(Sweep.survey, survey)
        verdict = healing.judge(opened, found)
        healed = 0
        if verdict.heal and found is not None:
            for part in healing.parts(found):
                healed += await _run(Sweep.heal, part)
        report = await _run(Sweep.close, _closing(opened, order, verdict))
        leases, calls = (found.leases, found.calls) if found else (0, 0)
        return PassReport(mark=report.mark, leases=leases, calls=calls, healed=healed, alerts=report.alerts)


def _closing(opened: Opened, order: SweepOrder, verdict: healing.Verdict) -> ClosePass:
    return ClosePass(
        passes=opened.passes,
        patience_s=order.patience_s,
        hourly=opened.hourly,
        suspend=verdict.suspend,
        alerts=verdict.alerts,
    )


@workflow.defn(name="reconcile")
class ReconcileWorkflow:
    """Rebuilds the records from what runs; asked for twice, it writes nothing the second time."""

    @workflow.run
    async def run(self, order: ReconcileOrder) -> Reconciled:
        """Return what was done."""
        return await _run(Reconcile.reconcile, order, timedelta(hours=1))
