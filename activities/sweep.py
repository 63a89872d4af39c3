"""The sweep: compares what is recorded with the workflows that should stand behind it, and puts right what it finds."""

from __future__ import annotations

import logging
import zlib
from datetime import datetime, timedelta

from temporalio import activity

from activities.asking import COMPLETED, Fate, RunningLease, Workflows, bounded
from leasehold import healing
from leasehold.errors import LeaseUnknown
from leasehold.healing import (
    ClosePass,
    DeadLease,
    DeadRecycling,
    Findings,
    Heal,
    Opened,
    OpenPass,
    PassReport,
    Survey,
)
from leasehold.holdings import RECYCLE, Holding
from leasehold.messages import BrokenResource, CloseLease, Refusal, Steer
from leasehold.model import LeaseState, Outcome
from leasehold.ports import LogStore, OpenLease, Store
from leasehold.pruning import prune

log = logging.getLogger(__name__)

SLICE = 500
"""How many records are looked at together."""

_MOST_ASKED = 20
"""How many workflows without a record are asked for their view in a pass: one that answers is proof enough."""

_ADMITTED = frozenset(LeaseState) - {LeaseState.ENDED}
_IN_ORDER = [str(state) for state in LeaseState]


class Sweep:
    """The activities of a pass."""

    def __init__(self, store: Store, logs: LogStore, workflows: Workflows) -> None:
        self._store = store
        self._logs = logs
        self._healing = store.healing
        self._workflows = workflows

    @activity.defn(name="sweep_open")
    async def open(self, order: OpenPass) -> Opened:
        """Make sure that this is the right Temporal, and the database as new as what runs there."""
        return await self._healing.open_pass(await self._workflows.identity(), order.previous)

    @activity.defn(name="sweep_survey")
    async def survey(self, order: Survey) -> Findings:
        """Look at all that depends on a workflow, and change nothing."""
        return await _Survey(self._store, self._workflows, order).run()

    @activity.defn(name="sweep_heal")
    async def heal(self, part: Heal) -> int:
        """Put a part of what was found right, and return how many things that were."""
        for lease in part.dead:
            await self._end(lease)
            activity.heartbeat()
        for recycling in part.recyclings:
            await self._healing.recycle_again(recycling)
            activity.heartbeat()
        for lease_id in part.unaware:
            await self._workflows.tell(lease_id, "granted")
        over = Steer(actor="leasehold", reason="the lease is over in the record")
        for lease_id in part.lingering:
            await self._workflows.tell(lease_id, "cancel", over)
        return len(part.dead) + len(part.recyclings) + len(part.unaware) + len(part.lingering)

    @activity.defn(name="sweep_close")
    async def close(self, order: ClosePass) -> PassReport:
        """Write down how the pass went, raise what is to be raised, clear what is over."""
        report, told = await self._healing.close_pass(order)
        for alert in told:
            log.error("alert %s since %s: %s", alert.key, alert.since.isoformat(timespec="seconds"), alert.detail)
        if order.hourly:
            pruned = await prune(self._store, self._logs)
            log.info("pruned %d pieces of logs and %d delivered messages", pruned.logs, pruned.outbox)
        return report

    async def _end(self, dead: DeadLease) -> None:
        """End a lease that has no workflow any more."""
        if dead.how is None:
            code, reason = "workflow_lost", "Temporal does not know its workflow"
        else:
            code, reason = "workflow_gone", f"its workflow was {dead.how}"
        try:
            held = (await self._store.standing(dead.lease)).claims if dead.how is None else ()
            closed = await self._store.close_lease(
                CloseLease(
                    lease=dead.lease,
                    outcome=Outcome.FAILED,
                    actor="leasehold",
                    stopped=True,
                    reason=reason,
                    error=Refusal(code=code, detail=reason),
                    # Nobody knows what runs on them.
                    broken=tuple(
                        BrokenResource(pool=c.pool, resource=c.resource, epoch=c.epoch, reason=reason) for c in held
                    ),
                )
            )
            if closed.state is LeaseState.RELEASING:
                await self._store.end_lease(dead.lease)
        except LeaseUnknown:
            return


class _Survey:
    """One look at everything. A rule for more that depends on a workflow is one more method of `run`."""

    def __init__(self, store: Store, workflows: Workflows, order: Survey) -> None:
        self._healing = store.healing
        self._workflows = workflows
        self._now, self._turn, self._order = order.now, order.turn, order.order
        self._running: dict[str, RunningLease] = {}
        self._leases = 0
        self._dead: list[DeadLease] = []
        self._recyclings: list[DeadRecycling] = []
        self._unaware: list[str] = []
        self._lingering: list[str] = []
        self._unending: list[str] = []
        self._older: list[str] = []

    async def run(self) -> Findings:
        before = self._workflows.calls
        await self._look_at_running()
        await self._look_at_leases()
        await self._look_at_recyclings()
        return Findings(
            leases=self._leases,
            calls=self._workflows.calls - before,
            dead=tuple(self._dead),
            recyclings=tuple(self._recyclings),
            unaware=tuple(self._unaware),
            lingering=tuple(self._lingering),
            unending=tuple(self._unending),
            older=tuple(self._older[:_MOST_ASKED]),
        )

    # Workflows, and what is known of them

    async def _look_at_running(self) -> None:
        strays: list[str] = []
        async for page in self._workflows.running_leases():
            activity.heartbeat()
            self._running |= {one.lease: one for one in page}
            known = await self._healing.known([one.lease for one in page])
            for one in page:
                if one.lease not in known:
                    strays.append(one.lease)
                elif (record := known[one.lease]) is not None:
                    await self._compare(one, record)
        # A workflow that nobody has admitted yet has no record.
        told = await bounded(strays[:_MOST_ASKED], self._workflows.view)
        admitted = [lease for lease, view in told if view is not None and view.state in _ADMITTED]
        known = await self._healing.known(admitted)
        self._older += [f"lease {lease} runs, and is not recorded" for lease in admitted if lease not in known]

    async def _compare(self, running: RunningLease, record: OpenLease) -> None:
        """Compare what a workflow shows, which may be late, with its record, which was read after it."""
        name = f"lease {record.number}"
        if record.state is LeaseState.ENDED:
            await self._look_at_lingering(running.lease, name, record)
        elif running.state in _IN_ORDER and _IN_ORDER.index(running.state) > _IN_ORDER.index(record.state):
            self._older.append(f"{name} is recorded as {record.state}, and its workflow is {running.state}")
        elif running.state == LeaseState.QUEUED and record.state is not LeaseState.QUEUED:
            if record.granted_at is not None and self._is_past(record.granted_at, self._order.patience_s):
                self._unaware.append(running.lease)

    async def _look_at_lingering(self, lease: str, name: str, record: OpenLease) -> None:
        assert record.ended_at is not None
        if not self._is_past(record.ended_at, self._order.lingers_s):
            return
        fate = await self._workflows.lease(lease)
        if fate is None or fate.how is not None:
            return
        if self._is_past(record.ended_at, self._order.lingers_s * healing.LOOK_AFTER):
            self._unending.append(name)
        if self._turn % healing.TELL_EVERY == 0:
            self._lingering.append(lease)

    # Records, and what stands behind them

    async def _look_at_leases(self) -> None:
        after = 0
        while part := await self._healing.open_leases(after, SLICE):
            activity.heartbeat()
            after = part[-1].number
            self._leases += len(part)
            doubtful = [one for one in part if one.id not in self._running or self._is_sample(one.id)]
            fates = await bounded(doubtful, lambda one: self._workflows.lease(one.id))
            closed = [(one, fate) for one, fate in fates if fate is None or fate.how is not None]
            # What has ended since, properly, is nobody's business.
            still = await self._healing.known([one.id for one, _ in closed]) if closed else {}
            for one, fate in closed:
                record = still.get(one.id)
                if record is not None and record.state is not LeaseState.ENDED:
                    self._note_dead(one, fate)

    def _note_dead(self, lease: OpenLease, fate: Fate | None) -> None:
        if fate is None:
            self._dead.append(DeadLease(lease=lease.id, number=lease.number))
        elif fate.how == COMPLETED:
            self._older.append(f"lease {lease.number} is recorded as {lease.state}, and its workflow has completed")
        elif fate.closed_at is None or self._is_past(fate.closed_at, self._order.grace_s):
            self._dead.append(DeadLease(lease=lease.id, number=lease.number, how=fate.how))

    async def _look_at_recyclings(self) -> None:
        running: set[Holding] = set()
        async for page in self._workflows.running_recyclings():
            activity.heartbeat()
            running |= set(page)
            epochs = await self._healing.epochs(page)
            self._older += [
                f"{one} is recorded at epoch {epochs[one.key]}, and its recycling at {one.epoch} runs"
                for one in page
                if one.key in epochs and epochs[one.key] < one.epoch
            ]
        recorded = await self._healing.recyclings()
        doubtful = [one for one in recorded if one not in running or self._is_sample(str(one))]
        fates = await bounded(doubtful, self._workflows.recycling)
        closed = [(one, fate) for one, fate in fates if fate is None or fate.how is not None]
        still = set(await self._healing.recyclings()) if closed else set()
        for one, fate in closed:
            if one in still:
                self._note_dead_recycling(one, fate)

    def _note_dead_recycling(self, one: Holding, fate: Fate | None) -> None:
        if fate is not None and fate.how == COMPLETED and one.errand == RECYCLE:
            self._older.append(f"{one} is recorded as recycling, and its recycling has completed")
        elif fate is None or fate.closed_at is None or self._is_past(fate.closed_at, self._order.grace_s):
            how = fate.how if fate else None
            self._recyclings.append(
                DeadRecycling(pool=one.pool, resource=one.resource, epoch=one.epoch, how=how, errand=one.errand)
            )

    def _is_past(self, since: datetime, span_s: float) -> bool:
        return self._now - since >= timedelta(seconds=span_s)

    def _is_sample(self, name: str) -> bool:
        """Whether it is this one's turn to be asked for, although Temporal lists it as running."""
        return zlib.crc32(name.encode()) % healing.SAMPLE == self._turn % healing.SAMPLE
