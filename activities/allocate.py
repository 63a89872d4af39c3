"""The short database steps of leases and recyclings: local activities, one transaction each."""

from __future__ import annotations

from temporalio import activity
from temporalio.exceptions import ApplicationError

from leasehold.errors import LeaseholdError
from leasehold.messages import (
    Admitted,
    Closed,
    CloseLease,
    ExtendRecord,
    Held,
    LeaseRef,
    Recycled,
    SubmitLease,
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
    async def admit(self, request: SubmitLease) -> Admitted:
        """Refuse a request, grant it at once, or let it wait."""
        return await self._store.admit(request, activity.info().workflow_run_id or "")

    @activity.defn
    async def read_grants(self, ref: LeaseRef) -> Admitted:
        """Look whether a waiting lease was granted what it waits for."""
        return await self._store.standing(ref.lease)

    @activity.defn
    async def activate(self, ref: LeaseRef) -> Held:
        """Deliver a lease whose resources are all ready."""
        try:
            return await self._store.activate(ref.lease)
        except LeaseholdError as error:
            raise as_failure(error) from None

    @activity.defn
    async def extend(self, record: ExtendRecord) -> Held:
        """Move the end of an active lease, as far as the policy allows."""
        return await self._store.extend(record.lease, record.extension)

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
