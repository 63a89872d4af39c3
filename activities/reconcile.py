"""Reconciling: asks all that runs what it has, and has the records say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from temporalio import activity

from activities.allocate import as_failure
from activities.asking import COMPLETED, Fate, Workflows, bounded
from leasehold import rebuilding
from leasehold.errors import TemporalChanged
from leasehold.healing import DeadRecycling, Reconciled, ReconcileOrder, ReportedStep
from leasehold.holdings import RECYCLE, Holding
from leasehold.messages import Steer
from leasehold.model import LeaseState, Outcome
from leasehold.ports import Store
from leasehold.rebuilding import Action, Books, Census, Rebuilt, Step, Told

MOST_REPORTED = 1000
"""How many steps a report names."""

_ROUNDS = 5
_SECOND_LOOK_S = 2.0
"""What a workflow and its record say must not have changed for so long before anything is made of it."""
_GRACE = timedelta(seconds=40)
_REBUILT = "rebuilt"


class Reconcile:
    """The activity of a reconciliation."""

    def __init__(self, store: Store, workflows: Workflows) -> None:
        self._healing = store.healing
        self._workflows = workflows

    @activity.defn
    async def reconcile(self, order: ReconcileOrder) -> Reconciled:
        """Rebuild the records from what runs; fails with `temporal_changed` where that is another Temporal."""
        accept = order.accept_identity and not order.dry_run
        changed = await self._healing.check_temporal(await self._workflows.identity(), accept=accept)
        if changed is not None and not order.accept_identity:
            raise as_failure(TemporalChanged(changed))
        first, rebuilt = await self._round(order, None)
        rounds = [rebuilt]
        while rebuilt.unsettled and not rebuilt.problems and not order.dry_run and len(rounds) < _ROUNDS:
            _, rebuilt = await self._round(order, rebuilt.unsettled)
            rounds.append(rebuilt)
        return _report(order, first, rounds)

    async def _round(self, order: ReconcileOrder, only: Collection[str] | None) -> tuple[Census, Rebuilt]:
        """Ask and write once: for all leases, or only for those that were on the move the last time."""
        seen, census = await self._take_census(only)
        census = await self._look_again(census, seen, order)
        rebuilt = await self._healing.rebuild(
            census, seen, actor=order.actor, accept_lost=order.accept_lost, dry_run=order.dry_run
        )
        if not order.dry_run:
            await self._tell(rebuilt, census, order)
        return census, rebuilt

    # Asking

    async def _take_census(self, only: Collection[str] | None) -> tuple[Books, Census]:
        """What the database has, and after it, what Temporal tells of all that."""
        running = {one.lease async for page in self._workflows.running_leases() for one in page}
        closed: set[str] = set()
        suspension = await self._healing.suspension()
        if suspension is not None:
            # What ended after the copy was made is recorded as it was before, or not at all.
            closed = {lease async for page in self._workflows.closed_leases(suspension.copied_at) for lease in page}
        running_errands = {one async for page in self._workflows.running_recyclings() for one in page}
        recyclings = {one for one in running_errands if one.errand == RECYCLE}
        seen, now = await self._healing.books(running | closed)
        recorded = {lease for lease, record in seen.records.items() if record.state is not LeaseState.ENDED}
        wanted = running | closed | recorded
        if only is not None:
            wanted &= set(only)
        fates = await bounded(sorted(wanted), self._workflows.lease)
        # Whoever came after the suspension was recorded by this very database.
        newest = suspension.since if suspension else None
        known = [(one, fate) for one, fate in fates if fate and (newest is None or fate.started_at < newest)]
        told = await bounded(known, lambda one: self._ask(*one, seen))
        return seen, Census(
            taken_at=now,
            leases={lease: what for (lease, _), what in told if not _may_have_hooks(lease, what, seen)},
            lost=frozenset(lease for lease, fate in fates if fate is None and lease in recorded),
            recyclings=frozenset(recyclings),
            dead_recyclings=await self._dead_recyclings(recyclings),
        )

    async def _ask(self, lease: str, fate: Fate, seen: Books) -> Told:
        record = seen.records.get(lease)
        request = await self._workflows.request(lease) if record is None else None
        outcome = None
        if fate.how == COMPLETED and (record is None or record.state is not LeaseState.ENDED):
            outcome = await self._workflows.outcome(lease)
        return Told(
            run_id=fate.run_id,
            started_at=fate.started_at,
            how=fate.how,
            closed_at=fate.closed_at,
            outcome=Outcome(outcome) if outcome in list(Outcome) else None,
            view=await self._workflows.view(lease),
            request=request,
        )

    async def _dead_recyclings(self, running: Collection[Holding]) -> tuple[DeadRecycling, ...]:
        # What is being created or deleted the sweep sees to.
        recorded = [one for one in await self._healing.recyclings() if one.errand == RECYCLE and one not in running]
        fates = await bounded(recorded, self._workflows.recycling)
        still = set(await self._healing.recyclings())
        return tuple(
            DeadRecycling(pool=one.pool, resource=one.resource, epoch=one.epoch, how=fate.how if fate else None)
            for one, fate in fates
            if (fate is None or fate.how is not None) and one in still
        )

    async def _look_again(self, census: Census, seen: Books, order: ReconcileOrder) -> Census:
        """Ask those again that something would be done for: what is on the move must not be mistaken for a loss."""
        plan = rebuilding.plan(census, seen, accept_lost=order.accept_lost)
        concerned = [lease for lease in plan.leases if lease in census.leases and census.leases[lease].how is None]
        if not concerned:
            return census
        await asyncio.sleep(_SECOND_LOOK_S)
        views = await bounded(concerned, self._workflows.view)
        return census.without({lease for lease, view in views if view != census.leases[lease].view})

    # Telling

    async def _tell(self, rebuilt: Rebuilt, census: Census, order: ReconcileOrder) -> None:
        """Wake the workflows that wait for their records, and end those that are over in theirs."""
        for step in rebuilt.steps:
            if step.action is Action.CANCEL and step.lease is not None:
                await self._workflows.tell(step.lease, "cancel", Steer(actor=order.actor, reason=step.detail))
        concerned = {step.lease for step in rebuilt.steps if step.lease is not None}
        for lease in sorted(concerned):
            if lease in census.leases and census.leases[lease].how is None:
                await self._workflows.tell(lease, _REBUILT)


def _may_have_hooks(lease: str, told: Told, seen: Books) -> bool:
    """Whether hooks of a workflow that was just closed may still be stopping: the sweep ends its lease soon."""
    if told.how is None or told.how == COMPLETED or lease not in seen.records or told.closed_at is None:
        return False
    return datetime.now(UTC) - told.closed_at < _GRACE


def _report(order: ReconcileOrder, census: Census, rounds: Sequence[Rebuilt]) -> Reconciled:
    steps = [step for rebuilt in rounds for step in rebuilt.steps]
    problems = [problem for rebuilt in rounds for problem in (*rebuilt.problems, rebuilt.lost) if problem]
    if rounds[-1].unsettled and not order.dry_run:
        problems.append(f"{len(rounds[-1].unsettled)} leases were on the move: run it again")
    return Reconciled(
        dry_run=order.dry_run,
        leases=len(census.leases),
        recyclings=len(census.recyclings),
        steps=tuple(_reported(step) for step in steps[:MOST_REPORTED]),
        more=max(0, len(steps) - MOST_REPORTED),
        problems=tuple(dict.fromkeys(problems)),
        suspended=rounds[-1].suspended,
    )


def _reported(step: Step) -> ReportedStep:
    held = step.holding
    return ReportedStep(
        action=step.action,
        detail=step.detail,
        lease=step.lease,
        pool=held.pool if held else None,
        resource=held.resource if held else None,
        epoch=held.epoch if held else None,
    )
