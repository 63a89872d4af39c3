"""The seams: what the activities and the API need of the outside, as Protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from leasehold.access import Credential, NewToken, Role, Token, TokenPage, User, UserPage
from leasehold.channels import Channel
from leasehold.commands import Begun as BegunCommand
from leasehold.commands import Frame, RunnerHost
from leasehold.healing import ClosePass, DeadRecycling, Identity, Mark, Opened, PassReport
from leasehold.holdings import Holding
from leasehold.messages import (
    AddResources,
    AdmitLease,
    Admitted,
    AfterLoss,
    AskHook,
    Blocked,
    BrokenInLease,
    Checked,
    CheckRound,
    Closed,
    CloseLease,
    CommandLost,
    Created,
    Deleted,
    Errand,
    ExtendLease,
    GiveBack,
    Held,
    HeldResource,
    HookReport,
    Letter,
    LetterLost,
    ListPool,
    Notice,
    PlaceCommand,
    Placement,
    Recycled,
    Refusal,
    RunHook,
    SendLetter,
    Slot,
    TakeSlot,
    Tended,
    TendPool,
    Tick,
    Transfer,
    Transferred,
)
from leasehold.model import (
    Alert,
    Change,
    Delivery,
    Event,
    Forced,
    Hook,
    Inventory,
    Item,
    Lab,
    Lease,
    LeaseState,
    LogChunk,
    Opening,
    Policy,
    Pool,
    PoolSpec,
    Resource,
    ResourceSpec,
    Run,
    Runner,
)
from leasehold.rebuilding import Books, Census, Rebuilt, Suspension
from leasehold.selector import Condition

Clock = Callable[[], datetime]
"""The time now, aware and in UTC."""

LogSink = Callable[[str, bytes], Awaitable[None]]
"""Takes what a hook printed, piece by piece, in order: the stream (`stdout`, `stderr` or `service`) and the bytes."""


class Ending(StrEnum):
    """How a hook ended; each is told apart everywhere.

    What is no process has EXITED with status 0 where it succeeded, and FAILED where it ran and did not.
    """

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    NOT_STARTED = "not_started"
    FAILED = "failed"


async def _nothing() -> None:
    """What nobody needs to know."""


@dataclass(frozen=True, kw_only=True)
class HookCall:
    """One run of one hook: all that a driver is told.

    `env` is the hook's whole environment but for `PATH` and such; `folder` where it starts. Of two calls that share one
    of their `locks`, at least one, only one runs on this machine at a time: a driver waits until an earlier one, even
    one that a dead worker left behind, is gone with its whole process tree. `log_stdout` is off where the result is a
    secret.

    `begin` is called once all locks are held and before anything starts. It says whether to start at all, and raises
    where the resource has gone to somebody else meanwhile. `stopped` is called where the hook ends without a result,
    cancelled for instance, once the driver knows that nothing of it lives, and not at all where it cannot know.

    What runs as a process may have an `account` of its own, and its own `kill_grace` from SIGTERM to SIGKILL. Nothing
    of a `thorough` one lives on, not even what calls `setsid`. Without a `lease_file` it gets none.
    """

    hook: Hook
    env: Mapping[str, str]
    folder: str | None
    locks: tuple[str, ...]
    lease_file: bytes
    log_stdout: bool
    begin: Callable[[], Awaitable[bool]]
    stopped: Callable[[], Awaitable[None]] = _nothing
    account: str | None = None
    thorough: bool = False
    kill_grace: timedelta | None = None

    def __post_init__(self) -> None:
        if not self.locks:
            raise ValueError("a hook needs a lock: what it leaves behind could not be found otherwise")


@dataclass(frozen=True, kw_only=True)
class HookResult:
    """What a hook did. `code` is the exit status, the signal's number, or the HTTP status that was not expected;
    `detail` says it in words, without a secret.
    """

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


class Stop:
    """Has a run end, once it is `asked`; whoever asks again can give it less time from SIGTERM to SIGKILL."""

    def __init__(self) -> None:
        self.asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._grace: timedelta | None = None
        self._heard: list[Callable[[timedelta | None], None]] = []

    def ask(self, grace: timedelta | None = None) -> None:
        """Have it end, within this grace at most; None is as usual."""
        self._grace = grace if self._grace is None else self._grace if grace is None else min(grace, self._grace)
        if not self.asked.done():
            self.asked.set_result(None)
        for hear in self._heard:
            hear(self._grace)

    def tell(self, hear: Callable[[timedelta | None], None]) -> None:
        """Have it heard each time that it is asked, and now if it was."""
        self._heard.append(hear)
        if self.asked.done():
            hear(self._grace)


class OutputSink(Protocol):
    """Takes what a run prints, and passes it on."""

    def stdout(self, data: bytes) -> asyncio.Future[None] | None:
        """Take in a part of stdout; no more of it is read until what is returned is done."""
        ...

    def stderr(self, data: bytes) -> asyncio.Future[None] | None:
        """Take in a part of stderr, alike."""
        ...

    def note(self, text: str) -> None:
        """Take in a line of the service's own."""
        ...

    async def finish(self, stop: asyncio.Future[None]) -> None:
        """Take note that nothing more comes; once `stop` is done, without much delay."""
        ...


class CommandDriver(Protocol):
    """Runs commands, which print without end."""

    async def run_into(self, call: HookCall, sink: OutputSink, stop: Stop) -> HookResult | None:
        """Run a command to its end; None if `call.begin` said not to, or it was stopped. It has no `stdout` in it.

        Raises `Unavailable` where it, or what is left of it, was not waited for by whoever could tell how it ended.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CommandFilter:
    """Which commands are wanted: with this line exactly, with this text in it, in this folder; by default all."""

    line: str | None = None
    like: str | None = None
    folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class LeaseFilter:
    """Which leases to list: newest first, those before the number `before`.

    Of a `pool` are those that had, have or wait for resources of it; with `resource`, those that had or have that one;
    with `command`, those that have such a command.
    """

    states: tuple[str, ...] = ()
    owner: str | None = None
    pool: str | None = None
    resource: str | None = None
    command: CommandFilter | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs to list: oldest first, those after the id `after`; with `before`, the latest before it first."""

    id: int | None = None
    lease: str | None = None
    pool: str | None = None
    resource: str | None = None
    after: int = 0
    before: int | None = None
    limit: int = 1000


@dataclass(frozen=True, kw_only=True)
class OutputOf:
    """Of which attempt of which lease's command output is, and of which resource it is shown."""

    lease: str
    attempt: int
    pool: str
    resource: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """Which part of a lease's log to read; None is all of it."""

    run: int | None = None
    pool: str | None = None
    resource: str | None = None
    stage: str | None = None
    attempt: int | None = None
    stream: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResourceFilter:
    """Which resources to list, after the one that `after` names, in order of pool and name."""

    pool: str | None = None
    name: str | None = None
    state: str | None = None
    tags: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    after: tuple[str, str] | None = None
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A resource that a reservation will get, by the reservation's number, until when as far as can be foreseen."""

    lease: int
    pool: str
    name: str
    begins_at: datetime
    ends_at: datetime


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What a new request could get now: `resources` is at most `limit` of the `free` ones.

    `promised` are free, but not for long enough. `suspended` is why nothing at all is granted, if that is so, `paused`
    why nothing is of certain pools, and `closed` why some or all of it is kept from those who are no operators.
    """

    free: int
    total: int
    next_free_at: datetime | None
    resources: tuple[Resource, ...]
    suspended: str | None = None
    paused: Mapping[str, str] = field(default_factory=dict)
    promised: tuple[Promise, ...] = ()
    closed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SelfServiceState:
    """How self-service of a pool stands, or of the lab (`pool` None): `closed` is why it is, where it is."""

    pool: str | None
    closed: str | None
    forced: Forced | None


@dataclass(frozen=True, kw_only=True)
class KnownRequest:
    """A request that was answered before: `refusal` is the error that answered it, if it was refused."""

    digest: str
    refusal: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a call that steers a lease was answered before: it was done, or refused."""

    refusal: Refusal | None


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What of a request must be seen neither in Temporal nor in an answer: its secrets, and its command's environment.

    Both are names with their values.
    """

    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """A hook, where it starts, its environment, and the JSON document about the whole lease."""

    hook: Hook
    folder: str | None
    env: Mapping[str, str]
    lease_file: bytes


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run has its processes and its lock.

    `host` is the machine's name, for people: two can have the same. `locks` tells the lock folder, `boot` the start of
    the machine's kernel, `processes` which processes can be seen; all are "" where runs have none of it.
    """

    host: str
    locks: str = ""
    boot: str = ""
    processes: str = ""

    def clears(self, earlier: Place) -> bool:
        """Whether whoever holds the lock here knows that nothing lives of an `earlier` run of the same lock."""
        if self.locks != earlier.locks:
            return False
        if self.boot != earlier.boot:
            # After a restart of the machine nothing of before lives. Another machine can have the same folder.
            return self.host == earlier.host
        return self.processes == earlier.processes and (self.locks != "" or self.host == earlier.host)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that may start now, or the report of one that was finished before."""

    run: int
    finished: HookReport | None = None


@dataclass(frozen=True, kw_only=True)
class Posted:
    """One undelivered message: it starts what is set, a pool's tending anew if it is over; or signals the lease."""

    id: int
    lease: str
    start: Errand | CheckRound | ListPool | TendPool | Notice | None = None


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What a letter is written from, and the channel that it is sent over; all as it is `now`."""

    notice: Notice
    letter: Letter
    channel: Channel
    lease: Lease
    now: datetime


class NotSent(Exception):
    """A letter was not sent, for this reason, which quotes no secret; `is_final` where trying again is for nothing."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Sender(Protocol):
    """Sends letters."""

    async def send(self, writing: Writing) -> None:
        """Write a letter and send it; raises `NotSent`."""
        ...


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


class Tending(Protocol):
    """What pools ask of the database whose resources need tending. Each call is one transaction, safe to repeat."""

    async def tend(self, order: TendPool) -> Tended:
        """Begin what is due in a pool: creations, deletions, livechecks, a listing."""
        ...

    async def created(self, done: Created) -> None:
        """Let a resource be granted that was created, or delete what is left of one that was not."""
        ...

    async def deleted(self, done: Deleted) -> bool:
        """Forget a resource that is gone, or say why it is not; whether that is all, and nothing is left to delete."""
        ...

    async def brief_check(self, spec: int, held: HeldResource) -> Briefing | None:
        """What a livecheck is told; None if the resource has gone to other hands."""
        ...

    async def checked(self, results: Sequence[Checked]) -> None:
        """Record how livechecks ended, and do what is due for what is dead."""
        ...

    async def brief_listing(self, order: ListPool) -> Briefing:
        """What a listing is told."""
        ...

    async def listed(self, order: ListPool, names: Sequence[str], trouble: str | None = None) -> None:
        """Take note of what a listing has found, and delete what nobody knew twice running."""
        ...


class Commands(Protocol):
    """What commands and their runners ask of the database. Each call is one transaction, and can be made twice."""

    async def place(self, order: PlaceCommand) -> Placement:
        """Find a runner for a command, or have it wait for one."""
        ...

    async def gone(self, lease: str, attempt: int) -> str | None:
        """Why the process that has an attempt of a lease's command is known to be no more, if it is."""
        ...

    async def lost(self, order: CommandLost) -> AfterLoss:
        """What follows after nothing is heard of a command's runner any more."""
        ...

    async def begin(self, runner: str, lease: str, instance: str, attempt: int) -> BegunCommand:
        """Let a runner take a command up, at most once; raises `CommandOver`."""
        ...

    async def output_of(self, runner: str, lease: str, attempt: int) -> OutputOf:
        """Of what the output is that a runner has of a lease's command; raises `CommandOver` where it never had it.

        `LeaseUnknown` where the record may only be older than that.
        """
        ...

    async def register(self, runner: str, host: RunnerHost) -> None:
        """Take note that a process takes commands."""
        ...

    async def leave(self, runner: str, instance: str) -> None:
        """Take note that a process takes no commands any more."""
        ...

    async def runners(self) -> list[Runner]:
        """The runners that are known."""
        ...


class Store(Protocol):
    """What the database remembers. Each call is one transaction, and can be made twice."""

    @property
    def tending(self) -> Tending:
        """The part of it for pools that make their resources, or check them."""
        ...

    @property
    def commands(self) -> Commands:
        """The part of it for commands that run on leased resources."""
        ...

    @property
    def healing(self) -> Healing:
        """The part of it that heals."""
        ...

    async def seal(self, lease: str, digest: str, sealed: Sealed) -> None:
        """Keep what of a request is secret, under the digest of the request, before there is anything else of it."""
        ...

    async def admit(self, order: AdmitLease, run_id: str) -> Admitted:
        """Refuse a request, grant it at once, or let it wait."""
        ...

    async def try_admission(self, order: AdmitLease) -> tuple[Admitted, Lease | None]:
        """What admission would decide, and the lease that would come of it, without making it."""
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

    async def wake(self, lease: str) -> Admitted:
        """Do what is due for a lease that waits: let its reservation begin, or end its patience."""
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

    async def answered(self, lease: str, request: str) -> Answer | None:
        """What was answered before to a call that steers a lease, if anything; raises `KeyReused`."""
        ...

    async def close_lease(self, order: CloseLease) -> Closed:
        """Close a lease's grants or withdraw it from the queue, and serve those who wait for what it had."""
        ...

    async def close_forgotten(self, order: CloseLease) -> Closed | None:
        """The same for a lease whose workflow is over, unless its command may be running yet."""
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

    async def brief_question(self, question: AskHook) -> Briefing:
        """What an `admit` hook is told of a request."""
        ...

    async def begin_run(self, order: RunHook, place: Place) -> Begun:
        """Let a hook start; raises `StaleEpoch` or, while an earlier run may be alive elsewhere, `Unavailable`."""
        ...

    async def stop_run(self, order: RunHook, run: int) -> None:
        """Record that a run was stopped and that nothing of it lives: the same attempt can begin anew, anywhere."""
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

    async def letters(self, notice: Notice) -> tuple[Letter, ...]:
        """To whom a notice goes over which channel."""
        ...

    async def writing(self, order: SendLetter) -> Writing | None:
        """What a letter is written from; None where there is no use in it any more."""
        ...

    async def letter_lost(self, order: LetterLost) -> None:
        """Record that somebody could not be told."""
        ...

    async def channel_trouble(self, channel: str, reason: str | None) -> None:
        """Have an alert stand while nothing comes through a channel; None: something has."""
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

    async def delete_pool(self, pool: str, actor: str) -> list[Change]:
        """Let a pool that was made by hand lend nothing more, and delete it with its last resource."""
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

    async def pause(self, pool: str, reason: str, actor: str, *, drain: bool = False) -> None:
        """Let a pool lend nothing for now, and have what it has made deleted to `drain` it; raises `PoolUnknown`."""
        ...

    async def resume(self, pool: str, actor: str) -> None:
        """Let a pool lend again; raises `PoolUnknown`."""
        ...

    async def repair(self, pool: str, name: str, actor: str) -> None:
        """Bring a resource back from quarantine."""
        ...

    async def request(self, lease: str) -> KnownRequest | None:
        """The request behind a lease's id, if it came before."""
        ...

    async def lease(self, ref: str, *, explained: bool = True, alternatives: bool = False) -> Lease:
        """A lease by its id or number; raises `LeaseUnknown`.

        One that waits says why, unless it need not be `explained`; asked for, what could be had now instead as well.
        """
        ...

    async def state(self, lease: str) -> LeaseState | None:
        """Just a lease's state, by its id; None if there is no record yet."""
        ...

    async def leases(self, wanted: LeaseFilter) -> list[Lease]:
        """Leases, newest first."""
        ...

    async def lease_counts(self) -> Mapping[LeaseState, int]:
        """How many leases are in each state, those that have ended too."""
        ...

    async def resource(self, pool: str, name: str) -> Resource:
        """One resource; raises `ResourceUnknown`."""
        ...

    async def resources(self, wanted: ResourceFilter) -> list[Resource]:
        """Resources, in order of pool and name."""
        ...

    async def force_self_service(self, pool: str | None, opening: Opening, reason: str, actor: str) -> None:
        """Open self-service of a pool or of the lab (None), close it, or leave it to its rules (`AUTO`)."""
        ...

    async def self_service(self) -> list[SelfServiceState]:
        """How self-service stands, of the lab first, then of each pool."""
        ...

    async def lab(self) -> Lab:
        """What holds for all pools together."""
        ...

    async def policies(self, items: Sequence[Item] = ()) -> Mapping[str, Policy]:
        """The policies in force, by pool; of those that may serve these items, if there are some."""
        ...

    async def transfer(self, order: Transfer) -> Transferred:
        """Give a lease to another owner."""
        ...

    async def available(
        self, wanted: ResourceFilter, duration: timedelta | None = None, *, self_service: bool = False
    ) -> Availability:
        """What a new request could get now, for a duration or for as long as is usual; raises `PoolUnknown`."""
        ...

    async def pools(self, name: str | None = None) -> list[Pool]:
        """All pools, or the one named; raises `PoolUnknown`."""
        ...

    async def queue(self, pool: str, after: int = 0, limit: int = 100) -> list[Lease]:
        """Who waits for a pool, in the order of service, but for so many of the first; raises `PoolUnknown`.

        Last those who have reserved of it.
        """
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
        before: int | None = None,
        limit: int = 1000,
        alone: bool = False,
    ) -> list[Event]:
        """Events after one of them, oldest first; with `before` those before one of them, latest first.

        `alone`: of a pool itself, not of what is in it.
        """
        ...

    async def runs(self, wanted: RunFilter) -> list[Run]:
        """Runs of hooks."""
        ...

    def changes(self) -> AsyncGenerator[list[str], None]:
        """Yield the leases that something happened to; the first, empty list says: none is missed from then on."""
        ...

    async def keep_logs(self) -> dict[str, timedelta]:
        """How long each pool keeps what its hooks printed."""
        ...

    async def prune(self, now: datetime | None = None, most: int = ...) -> int:
        """Delete messages that were delivered long ago, at most about `most`, and return how many."""
        ...

    async def ping(self) -> None:
        """Raise unless the database answers."""
        ...


class LogStore(Protocol):
    """What hooks printed, and commands."""

    async def put_output(self, about: OutputOf, offset: int, pieces: Sequence[Frame]) -> int:
        """Add output of a command that begins at `offset`; return how far it has come, unchanged where it is not there.

        Their times are those of the service's clock.
        """
        ...

    async def outputs(self, lease: str) -> Mapping[int, bool]:
        """The attempts of a lease's command of which output has come, each with whether it is all of it."""
        ...

    async def append(
        self,
        *,
        run: int | None,
        lease: str,
        pool: str,
        resource: str,
        epoch: int,
        stage: str,
        attempt: int,
        stream: str,
        data: bytes,
    ) -> None:
        """Add a piece of output."""
        ...

    async def read(self, lease: str, after: int = 0, limit: int = 50, only: LogFilter = ...) -> list[LogChunk]:
        """The pieces of a lease's log, or of a part of it, after one of them, oldest first."""
        ...

    def changes(self) -> AsyncGenerator[list[str], None]:
        """Yield the leases whose logs grew; the first, empty list says: none is missed from then on."""
        ...

    async def prune(self, keep: Mapping[str, timedelta], now: datetime | None = None, most: int = ...) -> int:
        """Delete what is older than `keep` says for its pool, at most about `most` pieces, and return how many.

        Of pools that `keep` does not name, because they are gone, what is older than `model.KEEP_LOGS`.
        """
        ...


class TokenStore(Protocol):
    """Users' tokens. Their strings are kept nowhere, only what they are checked against."""

    async def create(self, new: NewToken) -> Token:
        """Keep a new token; raises `Refused` or `Unauthenticated` where the one it is made with forbids it."""
        ...

    async def credential(self, token: str) -> Credential | None:
        """What is needed to check a token, by its id; None if there is none."""
        ...

    async def token(self, token: str) -> Token:
        """A token by its id; raises `TokenUnknown`."""
        ...

    async def tokens(self, *, user: str | None, before: int | None, limit: int) -> TokenPage:
        """Tokens of a user, or of all, newest first."""
        ...

    async def revoke(self, token: str, *, actor: str, by: str) -> list[str]:
        """Make a token good for nothing, with those that end with it; the ids of all that are revoked now."""
        ...

    async def used(self, tokens: list[str]) -> None:
        """Note that tokens are in use; a note younger than a minute stays."""
        ...


class CommandDesk(Protocol):
    """What a runner asks of the service, which alone has a database. Raises as the tree of `leasehold.errors`."""

    async def register(self, runner: str, host: RunnerHost) -> None:
        """Say that this process takes commands; again and again, while it does."""
        ...

    async def leave(self, runner: str, instance: str) -> None:
        """Say that it takes none any more."""
        ...

    async def begin(self, runner: str, lease: str, instance: str, attempt: int) -> BegunCommand:
        """Take a command up, from now on at most once; raises `CommandOver` where it must not begin any more."""
        ...

    async def put_output(self, runner: str, lease: str, attempt: int, offset: int, packed: bytes) -> int:
        """Hand over frames of output that begin at `offset`; return the offset that the service has now."""
        ...


class UserStore(Protocol):
    """Users with passwords. The passwords are kept nowhere, only their hashes."""

    async def create(self, name: str, role: Role, password: str, *, actor: str) -> User:
        """Keep a new user with the hash of a password; raises `UserExists`."""
        ...

    async def user(self, name: str) -> User:
        """A user by name; raises `UserUnknown`."""
        ...

    async def users(self, *, after: str, limit: int) -> UserPage:
        """Users by name, those after one of them."""
        ...

    async def password(self, name: str) -> str | None:
        """The hash that a password is checked against; None if nobody of this name can log in."""
        ...

    async def login(self, name: str, password: str, new: NewToken) -> Token | None:
        """Keep the token of a login whose password was checked against this hash; None if that is not good any more.

        `new.role` gives way to the user's.
        """
        ...

    async def set_password(self, name: str, password: str, *, actor: str) -> list[str]:
        """Change the hash, and end what the old password opened; the ids of the tokens that are revoked now."""
        ...

    async def disable(self, name: str, *, actor: str) -> list[str]:
        """Let a user log in no more, and end all tokens of this user; their ids. Again, nothing changes."""
        ...

    async def enable(self, name: str, *, actor: str) -> None:
        """Let a user log in again; the tokens stay revoked."""
        ...

    async def remove(self, name: str, *, actor: str) -> list[str]:
        """Forget a user, and end all tokens of this user; their ids."""
        ...
