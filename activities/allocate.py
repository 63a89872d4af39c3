"""The short database steps of leases and recyclings: local activities, one transaction each."""

from __future__ import annotations

from temporalio import activity
from temporalio.exceptions import ApplicationError

from leasehold.errors import LeaseholdError
from leasehold.messages import (
    AddToRecord,
    AdmitLease,
    Admitted,
    Blocked,
    BrokenInLease,
    Closed,
    CloseLease,
    ExtendRecord,
    GiveBackRecord,
    Held,
    LeaseRef,
    Prepared,
    Recycled,
    Slot,
    TakeSlot,
    Tick,
    Transfer,
    Transferred,
)
from leasehold.ports import Store

_PASSING = {"unavailable", "lease_unknown"}


def as_failure(error: LeaseholdError) -> ApplicationError:
    """An error of ours as Temporal carries it: the code is the type.

    Worth another try are `unavailable`, and `lease_unknown`: a lease that runs has a record, unless the database was
    restored from an older copy, and is missing it only until that is put right.
    """
    return ApplicationError(error.detail, type=error.code, non_retryable=error.code not in _PASSING)


class Allocation:
    """What a lease's workflow asks of the record."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @activity.defn
    async def admit(self, order: AdmitLease) -> Admitted:
        """Refuse a request, grant it at once, or let it wait."""
        return await self._store.admit(order, activity.info().workflow_run_id or "")

    @activity.defn
    async def read_grants(self, ref: LeaseRef) -> Admitted:
        """Look whether a waiting lease was granted what it waits for."""
        return await self._store.standing(ref.lease)

    @activity.defn
    async def report_broken(self, order: BrokenInLease) -> Admitted:
        """Quarantine resources that failed their stages, and learn how the lease goes on without them."""
        return await self._store.report_broken(order)

    @activity.defn
    async def show_blocked(self, order: Blocked) -> None:
        """Let a lease show why its preparation does not go on."""
        await self._store.show_blocked(order)

    @activity.defn
    async def activate(self, prepared: Prepared) -> Held:
        """Deliver a lease whose resources are all ready."""
        try:
            return await self._store.activate(prepared.lease, prepared.holds)
        except LeaseholdError as error:
            raise as_failure(error) from None

    @activity.defn
    async def wake(self, ref: LeaseRef) -> Admitted:
        """Do what is due for a waiting lease: let its reservation begin, or end its patience."""
        return await self._store.wake(ref.lease)

    @activity.defn
    async def tick(self, order: Tick) -> Held:
        """Do what is due for an active lease: warn, extend it, begin its grace, end it."""
        return await self._store.tick(order)

    @activity.defn
    async def add(self, order: AddToRecord) -> Admitted:
        """Grant an active lease more, at once or not at all."""
        return await self._store.add(order.lease, order.addition)

    @activity.defn
    async def give_back(self, order: GiveBackRecord) -> Admitted:
        """Take one resource out of an active lease."""
        return await self._store.give_back(order.lease, order.part)

    @activity.defn
    async def give_up(self, ref: LeaseRef) -> bool:
        """Whether a lease's heartbeat is overdue."""
        return await self._store.give_up(ref.lease)

    @activity.defn
    async def take_slot(self, order: TakeSlot) -> Slot:
        """Take a slot of a limiter, or wait for one."""
        return await self._store.take_slot(order)

    @activity.defn
    async def give_slot(self, order: TakeSlot) -> None:
        """Give a slot back, or wait for it no more."""
        await self._store.give_slot(order)

    @activity.defn
    async def extend(self, record: ExtendRecord) -> Held:
        """Move the end of an active lease, as far as the policy allows."""
        return await self._store.extend(record.lease, record.extension)

    @activity.defn
    async def transfer(self, order: Transfer) -> Transferred:
        """Give a lease to another owner."""
        return await self._store.transfer(order)

    @activity.defn
    async def close_lease(self, order: CloseLease) -> Closed:
        """Close a lease's grants or withdraw it from the queue."""
        return await self._store.close_lease(order)

    @activity.defn
    async def end_lease(self, ref: LeaseRef) -> Closed:
        """End a closed lease once its hooks have stopped."""
        return await self._store.end_lease(ref.lease)

    @activity.defn
    async def finish_recycling(self, done: Recycled) -> None:
        """Free a resource after its recycling, or put it into quarantine."""
        await self._store.recycled(done)
