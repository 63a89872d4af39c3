"""The seams: what the activities and the API need of the outside, as Protocols."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from leasehold.messages import (
    AddResources,
    AdmitLease,
    Admitted,
    Blocked,
    BrokenInLease,
    Closed,
    CloseLease,
    ExtendLease,
    GiveBack,
    Held,
    HeldResource,
    HookReport,
    Recycled,
    RecycleResource,
    RunHook,
    Slot,
    TakeSlot,
    Tick,
)
from leasehold.model import (
    Change,
    Delivery,
    Event,
    Hook,
    Inventory,
    Lease,
    LeaseState,
    LogChunk,
    Pool,
    PoolSpec,
    Resource,
    ResourceSpec,
)
from leasehold.selector import Condition

Clock = Callable[[], datetime]
"""The time now, aware and in UTC."""

LogSink = Callable[[str, bytes], Awaitable[None]]
"""Takes what a hook printed, piece by piece, in order: the stream (`stdout`, `stderr` or `service`) and the bytes."""


class Ending(StrEnum):
    """How a hook ended; each is told apart everywhere."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    NOT_STARTED = "not_started"


@dataclass(frozen=True, kw_only=True)
class HookCall:
    """One run of one hook: all that a driver is told.

    `env` is the hook's whole environment but for `PATH` and such; `folder` where it starts. Only one call with the
    same `lock` runs on this machine at a time: a driver waits until an earlier one, even one that a dead worker left
    behind, is gone with its whole process tree. `log_stdout` is off where the result is a secret.

    `begin` is called once the lock is held and before anything starts. It says whether to start at all, and raises
    where the resource has gone to somebody else meanwhile.
    """

    hook: Hook
    env: Mapping[str, str]
    folder: str | None
    lock: str
    lease_file: bytes
    log_stdout: bool
    begin: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True)
class HookResult:
    """What a hook did. `code` is the exit status or the signal's number; `detail` says it in words."""

    ending: Ending
    code: int | None
    detail: str
    stdout: bytes
    cut: bool

    @property
    def ok(self) -> bool:
        """Whether the hook succeeded: it exited by itself, with status 0."""
        return self.ending is Ending.EXITED and self.code == 0


class Driver(Protocol):
    """Does a hook's work."""

    async def run(self, call: HookCall, log: LogSink) -> HookResult | None:
        """Run a hook to its end; None if `call.begin` said not to.

        Cancelling this stops the hook's whole process tree before it returns.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LeaseFilter:
    """Which leases to list: newest first, those before the number `before`."""

    states: tuple[str, ...] = ()
    owner: str | None = None
    pool: str | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class ResourceFilter:
    """Which resources to list, after the one that `after` names, in order of pool and name."""

    pool: str | None = None
    state: str | None = None
    tags: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    after: tuple[str, str] | None = None
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What a new request could get now: `resources` is at most `limit` of the `free` ones."""

    free: int
    total: int
    next_free_at: datetime | None
    resources: tuple[Resource, ...]


@dataclass(frozen=True, kw_only=True)
class KnownRequest:
    """A request that was answered before: `refusal` is the error that answered it, if it was refused."""

    digest: str
    refusal: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """A hook, where it starts, its environment, and the JSON document about the whole lease."""

    hook: Hook
    folder: str | None
    env: Mapping[str, str]
    lease_file: bytes


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that may start now, or the report of one that was finished before."""

    run: int
    finished: HookReport | None = None


@dataclass(frozen=True, kw_only=True)
class Posted:
    """One undelivered message: `recycle` is set where it starts a recycling; otherwise it signals the lease."""

    id: int
    lease: str
    recycle: RecycleResource | None


class Store(Protocol):
    """What the database remembers. Each call is one transaction, and can be made twice."""

    async def admit(self, order: AdmitLease, run_id: str) -> Admitted:
        """Refuse a request, grant it at once, or let it wait."""
        ...

    async def standing(self, lease: str) -> Admitted:
        """How a lease stands, and what it holds; raises `LeaseUnknown`."""
        ...

    async def report_broken(self, order: BrokenInLease) -> Admitted:
        """Quarantine resources that failed their stages, and say how the lease goes on without them."""
        ...

    async def show_blocked(self, order: Blocked) -> None:
        """Let a lease show why its preparation does not go on."""
        ...

    async def activate(self, lease: str, ready: tuple[HeldResource, ...] = ()) -> Held:
        """Deliver a lease whose resources are all ready, or those of an active lease that became `ready` since."""
        ...

    async def tick(self, order: Tick) -> Held:
        """Do what is due for an active lease: warn, extend it, begin its grace, end it."""
        ...

    async def extend(self, lease: str, extension: ExtendLease) -> Held:
        """Move the end of an active lease, as far as the policy allows."""
        ...

    async def add(self, lease: str, addition: AddResources) -> Admitted:
        """Grant an active lease more, at once or not at all."""
        ...

    async def give_back(self, lease: str, part: GiveBack) -> Admitted:
        """Take one resource out of an active lease."""
        ...

    async def heartbeat(self, lease: str, every: timedelta | None = None) -> datetime | None:
        """Note that a lease's holder is there, and return until when it must be heard of again."""
        ...

    async def give_up(self, lease: str) -> bool:
        """Whether a lease's heartbeat is overdue; from then on none revives it."""
        ...

    async def overdue(self, limit: int = 100) -> list[str]:
        """The leases whose heartbeats are overdue, and whose workflows are to be told now."""
        ...

    async def take_slot(self, order: TakeSlot) -> Slot:
        """Take a slot of a limiter, or wait for one."""
        ...

    async def give_slot(self, order: TakeSlot) -> None:
        """Give a slot back, or wait for it no more."""
        ...

    async def close_lease(self, order: CloseLease) -> Closed:
        """Close a lease's grants or withdraw it from the queue, and serve those who wait for what it had."""
        ...

    async def end_lease(self, lease: str) -> Closed:
        """End a closed lease once its hooks have stopped."""
        ...

    async def forget(self, workflow: str) -> None:
        """Expect nothing more of a closed workflow without a lease: a recycling, or a request that was refused."""
        ...

    async def brief(self, order: RunHook) -> Briefing:
        """Put together what a hook is told."""
        ...

    async def begin_run(self, order: RunHook, host: str) -> Begun:
        """Let a hook start; raises `StaleEpoch` or, while an earlier run may be alive elsewhere, `Unavailable`."""
        ...

    async def finish_run(self, order: RunHook, run: int, report: HookReport, secret: bytes | None) -> None:
        """Record how a run ended, and what of it is for the holder alone."""
        ...

    async def recycled(self, done: Recycled) -> None:
        """Free a resource after its recycling, or put it into quarantine."""
        ...

    async def outbox_due(self, limit: int = 100) -> list[Posted]:
        """Undelivered messages to workflows, oldest first."""
        ...

    async def outbox_delivered(self, ids: list[int]) -> None:
        """Mark messages as delivered."""
        ...

    async def outbox_posted(self, timeout_s: float) -> None:
        """Return when this process has written to the outbox, or after the timeout."""
        ...

    async def apply(self, file: Inventory, actor: str, *, dry_run: bool = False) -> list[Change]:
        """Make the inventory what a pools file says; raises `OwnedElsewhere`."""
        ...

    async def applied_digest(self, name: str) -> str | None:
        """The digest of the pools file of this name that was applied last."""
        ...

    async def put_pool(self, spec: PoolSpec, resources: tuple[ResourceSpec, ...], actor: str) -> list[Change]:
        """Make or change a pool by hand."""
        ...

    async def put_resource(self, pool: str, spec: ResourceSpec, actor: str) -> list[Change]:
        """Make or change a resource by hand."""
        ...

    async def delete_resource(self, pool: str, name: str, actor: str) -> list[Change]:
        """Take a resource that was made by hand out of its pool, once it is free."""
        ...

    async def offline(self, pool: str, name: str, reason: str, actor: str) -> None:
        """Mark a resource offline: its holder keeps it, and nobody gets it after."""
        ...

    async def online(self, pool: str, name: str, actor: str) -> None:
        """Take the mark back."""
        ...

    async def repair(self, pool: str, name: str, actor: str) -> None:
        """Bring a resource back from quarantine."""
        ...

    async def request(self, lease: str) -> KnownRequest | None:
        """The request behind a lease's id, if it came before."""
        ...

    async def lease(self, ref: str) -> Lease:
        """A lease by its id or number; raises `LeaseUnknown`."""
        ...

    async def state(self, lease: str) -> LeaseState | None:
        """Just a lease's state, by its id; None if there is no record yet."""
        ...

    async def leases(self, wanted: LeaseFilter) -> list[Lease]:
        """Leases, newest first."""
        ...

    async def resource(self, pool: str, name: str) -> Resource:
        """One resource; raises `ResourceUnknown`."""
        ...

    async def resources(self, wanted: ResourceFilter) -> list[Resource]:
        """Resources, in order of pool and name."""
        ...

    async def available(self, wanted: ResourceFilter) -> Availability:
        """What a new request could get now; raises `PoolUnknown`."""
        ...

    async def pools(self, name: str | None = None) -> list[Pool]:
        """All pools, or the one named; raises `PoolUnknown`."""
        ...

    async def queue(self, pool: str) -> list[Lease]:
        """Who waits for a pool, in the order of service; raises `PoolUnknown`."""
        ...

    async def delivery(self, lease: str) -> list[Delivery]:
        """What the holder needs to connect; raises `NotDelivered`."""
        ...

    async def events(
        self,
        *,
        lease: str | None = None,
        pool: str | None = None,
        resource: str | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[Event]:
        """Events after one of them, oldest first."""
        ...

    def changes(self) -> AsyncGenerator[list[str], None]:
        """Yield the leases that moved on to another state; the first, empty list says: none is missed from then on."""
        ...

    async def ping(self) -> None:
        """Raise unless the database answers."""
        ...


class LogStore(Protocol):
    """What hooks printed."""

    async def append(
        self, *, lease: str, pool: str, resource: str, epoch: int, stage: str, attempt: int, stream: str, data: bytes
    ) -> None:
        """Add a piece of output."""
        ...

    async def read(self, lease: str, after: int = 0, limit: int = 200) -> list[LogChunk]:
        """The pieces of a lease's log after one of them, oldest first."""
        ...
