"""The store: every transaction and every read that Leasehold makes, behind `leasehold.ports.Store`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, select, text

from leasehold.messages import (
    AddResources,
    AdmitLease,
    Admitted,
    AskHook,
    Blocked,
    BrokenInLease,
    Closed,
    CloseLease,
    Consent,
    ExtendLease,
    GiveBack,
    Held,
    HeldResource,
    HookReport,
    Letter,
    LetterLost,
    Notice,
    Recycled,
    RunHook,
    SendLetter,
    Slot,
    TakeSlot,
    Tick,
    Transfer,
    Transferred,
)
from leasehold.model import (
    Change,
    Delivery,
    Event,
    Inventory,
    Item,
    Lab,
    Lease,
    LeaseState,
    Opening,
    Policy,
    Pool,
    PoolSpec,
    Resource,
    ResourceSpec,
    Run,
)
from leasehold.ports import (
    Answer,
    Availability,
    Begun,
    Briefing,
    Clock,
    KnownRequest,
    LeaseFilter,
    Place,
    Posted,
    ResourceFilter,
    RunFilter,
    Sealed,
    SelfServiceState,
    Writing,
)
from leasehold.store import (
    admission,
    answers,
    briefing,
    catalogue,
    closing,
    deadlines,
    envelopes,
    events,
    failing,
    growing,
    heartbeats,
    holding,
    inventory,
    letters,
    limiters,
    outbox,
    pruning,
    records,
    rules,
    runs,
    transfers,
    watching,
)
from leasehold.store import tables as t
from leasehold.store.caring import SqlTending
from leasehold.store.engine import Database, Tx, Undone
from leasehold.store.healing import SqlHealing
from leasehold.store.running import SqlCommands

P = ParamSpec("P")
R = TypeVar("R")


def _policies(connection: Connection, items: Sequence[Item]) -> Mapping[str, Policy]:
    known = catalogue.current(connection)
    wanted = known.suitable_pools(items) if items else set(known.policies)
    return {pool: policy for pool, policy in known.policies.items() if pool in wanted}


class SqlStore:
    """The store on SQLite or PostgreSQL, which behave alike; see `leasehold.ports.Store` for what each call means."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self.database = Database(url, clock)
        self._posted = asyncio.Event()
        self.healing = SqlHealing(self.database, self._write)
        self.tending = SqlTending(self.database, self._write)
        self.commands = SqlCommands(self.database, self._write)

    async def _write(self, what: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        result, tx = await self.database.write(what, *args, **kwargs)
        if tx.posted:
            self._posted.set()
        return result

    async def _read_now(self, what: Callable[..., R], of: object, **more: Any) -> R:
        """Read what depends on the time: `what(connection, of, now=…)`."""
        return await self.database.read(lambda c: what(c, of, now=self.database.now(c), **more))

    # The lease's life

    async def seal(self, lease: str, digest: str, sealed: Sealed) -> None:
        await self._write(envelopes.seal, lease, digest, sealed)

    async def admit(self, order: AdmitLease, run_id: str) -> Admitted:
        return await self._write(admission.admit, order, run_id)

    async def try_admission(self, order: AdmitLease) -> tuple[Admitted, Lease | None]:
        def work(tx: Tx) -> None:
            # Hooks are not asked: they might open a ticket for what nobody requested.
            admitted = admission.admit(tx, replace(order, consent=Consent()), "")
            lease = order.request.lease
            found = None
            if admitted.refusal is None:
                found = records.lease(tx.connection, lease, tx.now, alternatives=True)
            raise Undone((admitted, found))

        try:
            await self._write(work)
        except Undone as undone:
            result: tuple[Admitted, Lease | None] = undone.result
            return result
        raise AssertionError("it is always undone")

    async def standing(self, lease: str) -> Admitted:
        return await self.database.read(lambda c: holding.standing(c, lease, self.database.now(c)))

    async def report_broken(self, order: BrokenInLease) -> Admitted:
        return await self._write(failing.report, order)

    async def show_blocked(self, order: Blocked) -> None:
        await self._write(failing.blocked, order)

    async def activate(self, lease: str, ready: tuple[HeldResource, ...] = ()) -> Held:
        return await self._write(holding.activate, lease, ready)

    async def wake(self, lease: str) -> Admitted:
        return await self._write(deadlines.wake, lease)

    async def tick(self, order: Tick) -> Held:
        return await self._write(deadlines.tick, order)

    async def extend(self, lease: str, extension: ExtendLease) -> Held:
        return await self._write(deadlines.extend, lease, extension)

    async def add(self, lease: str, addition: AddResources) -> Admitted:
        return await self._write(growing.add, lease, addition)

    async def give_back(self, lease: str, part: GiveBack) -> Admitted:
        return await self._write(growing.give_back, lease, part)

    async def heartbeat(self, lease: str, every: timedelta | None = None) -> datetime | None:
        return await self._write(heartbeats.beat, lease, every)

    async def give_up(self, lease: str) -> bool:
        return await self._write(heartbeats.give_up, lease)

    async def overdue(self, limit: int = 100) -> list[str]:
        if not await self.database.read(lambda c: heartbeats.any_overdue(c, self.database.now(c))):
            return []
        return await self._write(heartbeats.overdue, limit)

    async def take_slot(self, order: TakeSlot) -> Slot:
        return await self._write(limiters.take, order)

    async def give_slot(self, order: TakeSlot) -> None:
        await self._write(limiters.give, order)

    async def answered(self, lease: str, request: str) -> Answer | None:
        return await self.database.read(answers.find, lease, request)

    async def close_lease(self, order: CloseLease) -> Closed:
        return await self._write(closing.close, order)

    async def close_forgotten(self, order: CloseLease) -> Closed | None:
        return await self._write(closing.close_forgotten, order)

    async def end_lease(self, lease: str) -> Closed:
        return await self._write(closing.end, lease)

    async def forget(self, workflow: str) -> None:
        await self._write(closing.forget, workflow)

    # Hooks

    async def brief_question(self, question: AskHook) -> Briefing:
        return await self.database.read(briefing.of_request, question)

    async def brief(self, order: RunHook) -> Briefing:
        return await self.database.read(briefing.of, order)

    async def begin_run(self, order: RunHook, place: Place) -> Begun:
        return await self._write(runs.begin, order, place)

    async def stop_run(self, order: RunHook, run: int) -> None:
        await self._write(runs.stop, order, run)

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

    # Notices

    async def letters(self, notice: Notice) -> tuple[Letter, ...]:
        return await self.database.read(lambda c: letters.letters(c, notice, self.database.now(c)))

    async def writing(self, order: SendLetter) -> Writing | None:
        return await self.database.read(lambda c: letters.writing(c, order, self.database.now(c)))

    async def letter_lost(self, order: LetterLost) -> None:
        await self._write(letters.lost, order)

    async def channel_trouble(self, channel: str, reason: str | None) -> None:
        if reason is not None or await self.database.read(letters.in_trouble, channel):
            await self._write(letters.trouble, channel, reason)

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

    async def delete_pool(self, pool: str, actor: str) -> list[Change]:
        return await self._write(inventory.delete_pool, pool, actor)

    async def delete_resource(self, pool: str, name: str, actor: str) -> list[Change]:
        return await self._write(inventory.delete_resource, pool, name, actor)

    async def offline(self, pool: str, name: str, reason: str, actor: str) -> None:
        await self._write(inventory.offline, pool, name, reason, actor)

    async def online(self, pool: str, name: str, actor: str) -> None:
        await self._write(inventory.online, pool, name, actor)

    async def pause(self, pool: str, reason: str, actor: str, *, drain: bool = False) -> None:
        await self._write(inventory.pause, pool, reason, actor, drain=drain)

    async def resume(self, pool: str, actor: str) -> None:
        await self._write(inventory.resume, pool, actor)

    async def force_self_service(self, pool: str | None, opening: Opening, reason: str, actor: str) -> None:
        await self._write(inventory.force_self_service, pool, opening, reason, actor)

    async def transfer(self, order: Transfer) -> Transferred:
        return await self._write(transfers.transfer, order)

    async def repair(self, pool: str, name: str, actor: str) -> None:
        await self._write(inventory.repair, pool, name, actor)

    # Reading

    async def request(self, lease: str) -> KnownRequest | None:
        return await self.database.read(records.request, lease)

    async def lease(self, ref: str, *, explained: bool = True, alternatives: bool = False) -> Lease:
        return await self._read_now(records.lease, ref, explained=explained, alternatives=alternatives)

    async def state(self, lease: str) -> LeaseState | None:
        return await self.database.read(records.state, lease)

    async def leases(self, wanted: LeaseFilter) -> list[Lease]:
        return await self._read_now(records.leases, wanted)

    async def lease_counts(self) -> Mapping[LeaseState, int]:
        return await self.database.read(records.lease_counts)

    async def resource(self, pool: str, name: str) -> Resource:
        return await self.database.read(records.resource, pool, name)

    async def resources(self, wanted: ResourceFilter) -> list[Resource]:
        return await self.database.read(records.resources, wanted)

    async def available(
        self, wanted: ResourceFilter, duration: timedelta | None = None, *, self_service: bool = False
    ) -> Availability:
        return await self._read_now(records.available, wanted, duration=duration, self_service=self_service)

    async def self_service(self) -> list[SelfServiceState]:
        return await self.database.read(rules.states)

    async def lab(self) -> Lab:
        return await self.database.read(lambda c: catalogue.current(c).lab or Lab())

    async def policies(self, items: Sequence[Item] = ()) -> Mapping[str, Policy]:
        return await self.database.read(_policies, items)

    async def pools(self, name: str | None = None) -> list[Pool]:
        return await self.database.read(records.pools, name)

    async def queue(self, pool: str, after: int = 0, limit: int = 100) -> list[Lease]:
        return await self._read_now(records.queue, pool, after=after, limit=limit)

    async def delivery(self, lease: str) -> list[Delivery]:
        return await self._read_now(records.delivery, lease)

    async def events(
        self,
        *,
        lease: str | None = None,
        pool: str | None = None,
        resource: str | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int = 1000,
        alone: bool = False,
    ) -> list[Event]:
        return await self.database.read(
            events.of, lease=lease, pool=pool, resource=resource, after=after, before=before, limit=limit, alone=alone
        )

    async def runs(self, wanted: RunFilter) -> list[Run]:
        return await self.database.read(runs.of, wanted)

    async def keep_logs(self) -> dict[str, timedelta]:
        return await self.database.read(pruning.keep_logs)

    async def prune(self, now: datetime | None = None, most: int = pruning.MOST) -> int:
        await pruning.envelopes(self.database, now)
        return await pruning.outbox(self.database, now, most)

    def changes(self) -> AsyncGenerator[list[str], None]:
        """Yield the leases that something happened to, soon after each commit, by whatever process."""
        return watching.changes(self.database)

    async def ping(self) -> None:
        """Raise unless the database answers."""
        await self.database.read(lambda c: c.execute(text("SELECT 1")))

    def close(self) -> None:
        """Finish what runs, and close the connections."""
        self.database.close()
