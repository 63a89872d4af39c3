"""What pools need that make their resources: the steps of their workflows, and the hooks that look at what there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from temporalio import activity

from activities.allocate import as_failure
from activities.heartbeat import heartbeats
from activities.looking import look
from leasehold.errors import LeaseholdError
from leasehold.messages import (
    Checked,
    CheckRound,
    Created,
    Deleted,
    HeldResource,
    ListPool,
    Tended,
    TendPool,
)
from leasehold.model import StageName
from leasehold.ports import Driver, LogStore, Store

_MOST_NAMES = 10_000
_TOLD_AFTER_S = 0.2
"""How long the result of a livecheck waits for others, to be written down together."""


class Tending:
    """The short database steps: local activities, one transaction each."""

    def __init__(self, store: Store) -> None:
        self._tending = store.tending

    @activity.defn(name="tend")
    async def tend(self, order: TendPool) -> Tended:
        """Begin what is due in a pool."""
        return await self._tending.tend(order)

    @activity.defn(name="finish_creating")
    async def finish_creating(self, done: Created) -> None:
        """Let a resource be granted that was created, or delete what is left of one that was not."""
        await self._tending.created(done)

    @activity.defn(name="finish_deleting")
    async def finish_deleting(self, done: Deleted) -> bool:
        """Forget a resource that is gone; whether nothing is left to delete."""
        return await self._tending.deleted(done)


class Checks:
    """Runs hooks that look, and change nothing: they are fenced by nothing, and recorded by their results alone."""

    def __init__(self, store: Store, logs: LogStore, drivers: Mapping[str, Driver]) -> None:
        self._tending = store.tending
        self._logs = logs
        self._drivers = drivers

    @property
    def all(self) -> list[Callable[..., Awaitable[Any]]]:
        """The activities."""
        return [self.check, self.list]

    @activity.defn(name="livecheck")
    async def check(self, order: CheckRound) -> int:
        """Check resources, many at once, and return how many failed."""
        free = asyncio.Semaphore(order.parallel)

        async def one(held: HeldResource) -> Checked:
            async with free:
                return await self._check(order, held)

        failed = 0
        try:
            async with heartbeats():
                left = {asyncio.create_task(one(held)) for held in order.resources}
                try:
                    while left:
                        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                        # Soon: one that hangs holds up what is known of no other. And some at once.
                        more, left = await asyncio.wait(left, timeout=_TOLD_AFTER_S) if left else (set(), left)
                        results = [task.result() for task in done | more]
                        await self._tending.checked(results)
                        failed += sum(result.failed is not None for result in results)
                finally:
                    for task in left:
                        task.cancel()
                    await asyncio.gather(*left, return_exceptions=True)
        except LeaseholdError as error:
            raise as_failure(error) from None
        return failed

    async def _check(self, order: CheckRound, held: HeldResource) -> Checked:
        unknown = Checked(pool=held.pool, resource=held.resource, epoch=held.epoch)

        async def is_still_there() -> bool:
            return await self._tending.brief_check(order.spec, held) is not None

        briefing = await self._tending.brief_check(order.spec, held)
        if briefing is None:
            return unknown
        result = await look(
            briefing,
            self._drivers,
            self._logs,
            lock=f"{held.pool}/{held.resource}/{StageName.LIVECHECK}",
            stage=StageName.LIVECHECK,
            pool=held.pool,
            resource=held.resource,
            epoch=held.epoch,
            begin=is_still_there,
        )
        return unknown if result is None or result.ok else replace(unknown, failed=result.detail)

    @activity.defn(name="list")
    async def list(self, order: ListPool) -> int:
        """List what there is in a pool, and return how many that are; that it fails is no error."""
        try:
            async with heartbeats():
                briefing = await self._tending.brief_listing(order)
                lock = f"{order.pool}//{StageName.LIST}"
                result = await look(
                    briefing, self._drivers, self._logs, lock=lock, stage=StageName.LIST, pool=order.pool
                )
                assert result is not None
                names = _names(result.stdout) if result.ok else []
                await self._tending.listed(order, names, None if result.ok else result.detail)
        except LeaseholdError as error:
            raise as_failure(error) from None
        return len(names)


def _names(printed: bytes) -> list[str]:
    """The names that a listing printed, apart by white space; what is no text is no name of ours."""
    found = dict.fromkeys(printed.decode(errors="replace").split())
    return [name for name in found if "\0" not in name][:_MOST_NAMES]
