"""The seams: what the activities and the API need of the outside, as Protocols."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from leasehold.healing import ClosePass, DeadRecycling, Identity, Mark, Opened, PassReport
from leasehold.messages import (
    Admitted,
    Closed,
    CloseLease,
    ExtendLease,
    Held,
    HookReport,
    Recycled,
    RecycleResource,
    RunHook,
    SubmitLease,
)
from leasehold.model import (
    Alert,
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
from leasehold.rebuilding import Books, Census, Holding, Rebuilt, Suspension
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
    """What a new request could get now: `resources` is at most `limit` of the `free` ones.

    `suspended` is why nothing at all is granted, if that is so.
    """

    free: int
    total: int
    next_free_at: datetime | None
    resources: tuple[Resource, ...]
    suspended: str | None = None


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


@dataclass(frozen=True, kw_only=True)
class OpenLease:
    """What the sweep must know of a lease's record."""

    id: str
    number: int
    state: LeaseState
    granted_at: datetime | None
    ended_at: datetime | None


class Healing(Protocol):
    """What the sweep and `reconcile` ask of the database. Each call is one transaction, and can be made twice."""

    async def open_pass(self, now: Identity, previous: Mark | None) -> Opened:
        """Begin a pass: suspend matching where the database is behind the mark that Temporal kept."""
        ...

    async def close_pass(self, order: ClosePass) -> tuple[PassReport, list[Alert]]:
        """Write down how a pass went, and return the alerts to log."""
        ...

    async def open_leases(self, after: int, limit: int) -> list[OpenLease]:
        """The leases that have not ended, after the number of one of them."""
        ...

    async def known(self, leases: Collection[str]) -> dict[str, OpenLease | None]:
        """What the record says of these leases; None of one that was refused. What it does not know is left out."""
        ...

    async def holdings(self, lease: str) -> set[Holding]:
        """What a lease holds by the record."""
        ...

    async def recyclings(self) -> list[Holding]:
        """The resources in recycling whose workflow must have been started."""
        ...

    async def epochs(self, of: Collection[Holding]) -> dict[tuple[str, str], int]:
        """The epochs at which the record has these resources, as far as it knows them."""
        ...

    async def recycle_again(self, dead: DeadRecycling) -> None:
        """Begin a recycling again under a new epoch; quarantine where Temporal does not know the first one."""
        ...

    async def alerts(self) -> list[Alert]:
        """What stands until somebody has seen to it, oldest first."""
        ...

    async def suspension(self) -> Suspension | None:
        """Why nothing is granted, if that is so."""
        ...

    async def check_temporal(self, now: Identity, *, accept: bool) -> str | None:
        """Say how this Temporal differs from the one that was known, unless it is to be accepted."""
        ...

    async def books(self, leases: Collection[str]) -> tuple[Books, datetime]:
        """What the database has, of these leases also if they have ended, and its time."""
        ...

    async def rebuild(self, census: Census, seen: Books, *, actor: str, accept_lost: bool, dry_run: bool) -> Rebuilt:
        """Write what the workflows know, and lift the suspension.

        Only for leases whose records are as they were `seen` before the workflows were asked.
        """
        ...


class Store(Protocol):
    """What the database remembers. Each call is one transaction, and can be made twice."""

    @property
    def healing(self) -> Healing:
        """The part of it that heals."""
        ...

    async def admit(self, request: SubmitLease, run_id: str) -> Admitted:
        """Refuse a request, grant it at once, or let it wait."""
        ...

    async def standing(self, lease: str) -> Admitted:
        """How a lease stands, and what it holds; raises `LeaseUnknown`."""
        ...

    async def activate(self, lease: str) -> Held:
        """Deliver a lease whose resources are all ready: its time counts from now."""
        ...

    async def extend(self, lease: str, extension: ExtendLease) -> Held:
        """Move the end of an active lease, as far as the policy allows."""
        ...

    async def close_lease(self, order: CloseLease) -> Closed:
        """Close a lease's grants or withdraw it from the queue, and serve those who wait for what it had."""
        ...

    async def end_lease(self, lease: str) -> Closed:
        """End a closed lease once its hooks have stopped."""
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

    async def outbox_failed(self, message: int, why: str) -> None:
        """Note why a message could not be delivered yet."""
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
