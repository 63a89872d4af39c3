"""The store: every transaction and every read that Leasehold makes, behind `leasehold.ports.Store`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import select, text

from leasehold.messages import (
    Admitted,
    Closed,
    CloseLease,
    ExtendLease,
    Held,
    HookReport,
    Recycled,
    RunHook,
    SubmitLease,
)
from leasehold.model import (
    Change,
    Delivery,
    Event,
    Inventory,
    Lease,
    LeaseState,
    Pool,
    PoolSpec,
    Resource,
    ResourceSpec,
)
from leasehold.ports import Availability, Begun, Briefing, Clock, KnownRequest, LeaseFilter, Posted, ResourceFilter
from leasehold.store import admission, briefing, closing, events, holding, inventory, outbox, records, runs, watching
from leasehold.store import tables as t
from leasehold.store.engine import Database, Tx, Undone
from leasehold.store.healing import SqlHealing

P = ParamSpec("P")
R = TypeVar("R")


class SqlStore:
    """The store on SQLite or PostgreSQL, which behave alike; see `leasehold.ports.Store` for what each call means."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self.database = Database(url, clock)
        self._posted = asyncio.Event()
        self.healing = SqlHealing(self.database, self._write)

    async def _write(self, what: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        result, tx = await self.database.write(what, *args, **kwargs)
        if tx.posted:
            self._posted.set()
        return result

    # The lease's life

    async def admit(self, request: SubmitLease, run_id: str) -> Admitted:
        return await self._write(admission.admit, request, run_id)

    async def standing(self, lease: str) -> Admitted:
        return await self.database.read(lambda c: holding.standing(c, lease, self.database.now(c)))

    async def activate(self, lease: str) -> Held:
        return await self._write(holding.activate, lease)

    async def extend(self, lease: str, extension: ExtendLease) -> Held:
        return await self._write(holding.extend, lease, extension)

    async def close_lease(self, order: CloseLease) -> Closed:
        return await self._write(closing.close, order)

    async def end_lease(self, lease: str) -> Closed:
        return await self._write(closing.end, lease)

    # Hooks

    async def brief(self, order: RunHook) -> Briefing:
        return await self.database.read(briefing.of, order)

    async def begin_run(self, order: RunHook, host: str) -> Begun:
        return await self._write(runs.begin, order, host)

    async def finish_run(self, order: RunHook, run: int, report: HookReport, secret: bytes | None) -> None:
        await self._write(runs.finish, order, run, report, secret)

    async def recycled(self, done: Recycled) -> None:
        await self._write(runs.recycled, done)

    # The outbox

    async def outbox_due(self, limit: int = 100) -> list[Posted]:
        return await self.database.read(outbox.due, limit)

    async def outbox_failed(self, message: int, why: str) -> None:
        await self._write(outbox.failed, message, why)

    async def outbox_delivered(self, ids: list[int]) -> None:
        await self._write(outbox.delivered, ids)

    async def outbox_posted(self, timeout_s: float) -> None:
        """Return when a transaction of this process has written to the outbox, or after the timeout."""
        try:
            await asyncio.wait_for(self._posted.wait(), timeout_s)
        except TimeoutError:
            return
        self._posted.clear()

    # Inventory

    async def apply(self, file: Inventory, actor: str, *, dry_run: bool = False) -> list[Change]:
        def work(tx: Tx) -> list[Change]:
            changes = inventory.apply(tx, file, actor)
            if dry_run:
                raise Undone(changes)
            return changes

        try:
            return await self._write(work)
        except Undone as undone:
            changes: list[Change] = undone.result
            return changes

    async def applied_digest(self, name: str) -> str | None:
        """The digest of the pools file of this name that was applied last."""
        query = select(t.files.c.digest).where(t.files.c.name == name)
        return await self.database.read(lambda c: c.execute(query).scalar_one_or_none())

    async def put_pool(self, spec: PoolSpec, resources: tuple[ResourceSpec, ...], actor: str) -> list[Change]:
        return await self._write(inventory.put_pool, spec, resources, actor)

    async def put_resource(self, pool: str, spec: ResourceSpec, actor: str) -> list[Change]:
        return await self._write(inventory.put_resource, pool, spec, actor)

    async def delete_resource(self, pool: str, name: str, actor: str) -> list[Change]:
        return await self._write(inventory.delete_resource, pool, name, actor)

    async def offline(self, pool: str, name: str, reason: str, actor: str) -> None:
        await self._write(inventory.offline, pool, name, reason, actor)

    async def online(self, pool: str, name: str, actor: str) -> None:
        await self._write(inventory.online, pool, name, actor)

    async def repair(self, pool: str, name: str, actor: str) -> None:
        await self._write(inventory.repair, pool, name, actor)

    # Reading

    async def request(self, lease: str) -> KnownRequest | None:
        return await self.database.read(records.request, lease)

    async def lease(self, ref: str) -> Lease:
        return await self.database.read(records.lease, ref)

    async def state(self, lease: str) -> LeaseState | None:
        return await self.database.read(records.state, lease)

    async def leases(self, wanted: LeaseFilter) -> list[Lease]:
        return await self.database.read(records.leases, wanted)

    async def resource(self, pool: str, name: str) -> Resource:
        return await self.database.read(records.resource, pool, name)

    async def resources(self, wanted: ResourceFilter) -> list[Resource]:
        return await self.database.read(records.resources, wanted)

    async def available(self, wanted: ResourceFilter) -> Availability:
        return await self.database.read(records.available, wanted)

    async def pools(self, name: str | None = None) -> list[Pool]:
        return await self.database.read(records.pools, name)

    async def queue(self, pool: str) -> list[Lease]:
        return await self.database.read(records.queue, pool)

    async def delivery(self, lease: str) -> list[Delivery]:
        return await self.database.read(records.delivery, lease)

    async def events(
        self,
        *,
        lease: str | None = None,
        pool: str | None = None,
        resource: str | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[Event]:
        return await self.database.read(events.of, lease=lease, pool=pool, resource=resource, after=after, limit=limit)

    def changes(self) -> AsyncGenerator[list[str], None]:
        """Yield the leases that moved on, soon after each commit, by whatever process."""
        return watching.changes(self.database)

    async def ping(self) -> None:
        """Raise unless the database answers."""
        await self.database.read(lambda c: c.execute(text("SELECT 1")))

    def close(self) -> None:
        """Finish what runs, and close the connections."""
        self.database.close()
