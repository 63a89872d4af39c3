"""Keeping and pruning: leases, runs and events stay; what hooks printed and what was delivered goes after its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from leasehold.ports import LogStore, Store


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How many pieces of logs, and how many delivered messages, were deleted."""

    logs: int
    outbox: int


async def prune(store: Store, logs: LogStore, now: datetime | None = None) -> Pruned:
    """Delete what is older than it is kept for, a bounded part of it; call it again and again.

    `now` is the database's own time unless given. Run twice, or by several processes at once, it does no harm.
    """
    return Pruned(logs=await logs.prune(await store.keep_logs(), now), outbox=await store.prune(now))
