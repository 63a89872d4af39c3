"""The words of the domain: leases, items, pools, resources, stages, and which state may follow which.

Standard library only; nothing here knows of databases, HTTP or Temporal. Records are frozen: a change is a new
record, made by the store in one transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from leasehold.channels import Channel
from leasehold.commands import Command, CommandPolicy, OnEnd
from leasehold.errors import IllegalTransition
from leasehold.weekly import Weekly

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Names of pools and resources."""

LONGEST = timedelta(days=365)
"""No duration anywhere is longer."""

KEEP_LOGS = timedelta(days=30)
"""How long the output of hooks is kept where no pool says otherwise, that of pools that are gone too."""


class LeaseState(StrEnum):
    """Where a lease is in its life."""

    QUEUED = "queued"
    PREPARING = "preparing"
    ACTIVE = "active"
    RELEASING = "releasing"
    ENDED = "ended"


OVER = frozenset({LeaseState.RELEASING, LeaseState.ENDED})
"""States in which a lease holds nothing any more."""


class Outcome(StrEnum):
    """How a lease ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    LOST = "lost"


class ResourceState(StrEnum):
    """Where a resource is in its life; being offline is marked apart from it."""

    CREATING = "creating"
    FREE = "free"
    LEASED = "leased"
    RECYCLING = "recycling"
    BROKEN = "broken"
    DELETING = "deleting"


class StageName(StrEnum):
    """The named steps of a resource's life."""

    CREATE = "create"
    WIPE = "wipe"
    PROVISION = "provision"
    CONFIGURE = "configure"
    VALIDATE = "validate"
    DELIVER = "deliver"
    RELEASE = "release"
    LIVECHECK = "livecheck"
    DELETE = "delete"
    LIST = "list"


ADMIT = "admit"
"""What a pool's hooks that are asked about requests are called: no stage of a resource's."""

PREPARE = (StageName.WIPE, StageName.PROVISION, StageName.CONFIGURE, StageName.VALIDATE, StageName.DELIVER)
"""The stages between a grant and its delivery, in their order."""

PREPARE_AHEAD = (StageName.WIPE, StageName.PROVISION, StageName.CONFIGURE, StageName.VALIDATE)
"""The stages that can be run before anybody has asked for the resource."""

SECRET_STAGES = frozenset({StageName.CREATE, StageName.DELIVER})
"""Stages whose standard output is for the holder's eyes alone: kept in the database, never logged."""

_LEASE_TRANSITIONS: Mapping[LeaseState | None, frozenset[LeaseState]] = {
    None: frozenset({LeaseState.QUEUED, LeaseState.PREPARING}),
    LeaseState.QUEUED: frozenset({LeaseState.PREPARING, LeaseState.ENDED}),
    LeaseState.PREPARING: frozenset({LeaseState.ACTIVE, LeaseState.RELEASING}),
    LeaseState.ACTIVE: frozenset({LeaseState.RELEASING}),
    LeaseState.RELEASING: frozenset({LeaseState.ENDED}),
    LeaseState.ENDED: frozenset(),
}

_RESOURCE_TRANSITIONS: Mapping[ResourceState | None, frozenset[ResourceState]] = {
    # Deleting: it was found by a listing, and nobody knows it.
    None: frozenset({ResourceState.FREE, ResourceState.CREATING, ResourceState.DELETING}),
    ResourceState.CREATING: frozenset({ResourceState.FREE, ResourceState.BROKEN, ResourceState.DELETING}),
    ResourceState.FREE: frozenset(
        {ResourceState.LEASED, ResourceState.RECYCLING, ResourceState.BROKEN, ResourceState.DELETING}
    ),
    ResourceState.LEASED: frozenset(
        {ResourceState.FREE, ResourceState.RECYCLING, ResourceState.BROKEN, ResourceState.DELETING}
    ),
    # Again, where the workflow of the first recycling is gone.
    ResourceState.RECYCLING: frozenset(
        {ResourceState.FREE, ResourceState.BROKEN, ResourceState.RECYCLING, ResourceState.DELETING}
    ),
    # Leased again: its lease has waited for the repair.
    ResourceState.BROKEN: frozenset(
        {ResourceState.FREE, ResourceState.RECYCLING, ResourceState.LEASED, ResourceState.DELETING}
    ),
    # Again, where the workflow of the first deletion is gone. After it there is nothing any more.
    ResourceState.DELETING: frozenset({ResourceState.DELETING}),
}


def check_lease_transition(before: LeaseState | None, after: LeaseState) -> None:
    """Raise `IllegalTransition` unless a lease may go from `before` (None: it does not exist yet) to `after`."""
    if after not in _LEASE_TRANSITIONS[before]:
        raise IllegalTransition("lease", before, after)


def check_resource_transition(before: ResourceState | None, after: ResourceState) -> None:
    """Raise `IllegalTransition` unless a resource may go from `before` to `after`."""
    if after not in _RESOURCE_TRANSITIONS[before]:
        raise IllegalTransition("resource", before, after)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line of a request: `count` resources of `pool` (any pool if None) that satisfy all of the rest."""

    pool: str | None = None
    count: int = 1
    match: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    role: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    skip: tuple[StageName, ...] = ()
    """Stages not wanted for it; `wipe` is skipped only where the last holder was the same."""


class Scope(StrEnum):
    """What one run of a hook is for."""

    RESOURCE = "resource"
    LEASE = "lease"


class OnFailure(StrEnum):
    """What becomes of a lease when one of its resources fails its stages."""

    REPLACE = "replace"
    HOLD = "hold"
    FAIL = "fail"


class Prepare(StrEnum):
    """When a resource goes through its stages: once somebody has asked for it, or as soon as it is free."""

    ON_DEMAND = "on_demand"
    AHEAD = "ahead"


class Reuse(StrEnum):
    """Who may have a resource after its holder that a pool has made: nobody but who has the same key, or anyone."""

    SAME_KEY = "same_key"
    ANYONE = "anyone"


class OnDegraded(StrEnum):
    """What becomes of a lease when one of its resources is found dead: its holder is told, or more than that."""

    TELL = "tell"
    REPLACE = "replace"
    END = "end"


class Extend(StrEnum):
    """When a holder may extend a lease."""

    ALWAYS = "always"
    WHILE_UNCLAIMED = "while_unclaimed"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Hook:
    """One configured call that does a stage's work, or a part of it, through a driver.

    `run` is for the driver `command`: a line for `/bin/sh -c`, or a list of arguments that no shell sees. Every other
    driver has its `settings`, plain JSON. `attempts` counts results of the hook; a worker that dies in the middle
    consumes none. `limit` names the limiter of which each run needs a slot.
    """

    run: str | tuple[str, ...] = ""
    driver: str = "command"
    settings: Mapping[str, Any] = field(default_factory=dict)
    timeout: timedelta = timedelta(minutes=30)
    attempts: int = 1
    scope: Scope = Scope.RESOURCE
    limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """How often a hook is run again, and how many of these runs may fail in a row; `parallel` for so many at once."""

    every: timedelta
    attempts: int = 1
    parallel: int = 10


class OverQuota(StrEnum):
    """What becomes of a request while its owner's quota, or the pool's, is used up."""

    QUEUE = "queue"
    REFUSE = "refuse"


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many leases, and how many resources of one pool, there may be at once; None is no limit."""

    leases: int | None = None
    resources: int | None = None


class Opening(StrEnum):
    """Whether self-service is open: while there is enough free, or whatever is free, or not at all."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class SelfService:
    """What those who are no operators may take by themselves, of a pool or of the whole lab.

    With `AUTO` it is open while at least the share `free` (0 to 1) of all there is is free; of resources that have a
    property in `free_by` in common, `model` say, only while that share of them is. `deadline`: no such lease lasts past
    the first one after its delivery. `show`: so many resources are listed at most of what is available.
    """

    enabled: Opening = Opening.AUTO
    free: float = 0.0
    free_by: Mapping[str, float] = field(default_factory=dict)
    per_owner: Quota = Quota()
    per_lease: int | None = None
    default_duration: timedelta | None = None
    max_duration: timedelta | None = None
    max_total: timedelta | None = None
    deadline: Weekly | None = None
    show: int | None = None
    open_requests: bool = False
    """Whether nobody need say who they are to request a lease."""

    @property
    def has_limits(self) -> bool:
        """Whether what a user has must be counted."""
        return self.per_lease is not None or self.per_owner != Quota()

    @property
    def has_shares(self) -> bool:
        """Whether what is free must be counted."""
        return self.enabled is Opening.AUTO and (self.free > 0 or bool(self.free_by))


class HolderMay(StrEnum):
    """What a holder who is no operator may do with what was leased."""

    OFFLINE = "offline"


class CcMay(StrEnum):
    """What somebody in the cc of a lease may do with it."""

    EXTEND = "extend"
    RELEASE = "release"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a pool allows. A limit of None is no limit but `LONGEST`.

    `on_release` None is the usual: `release`, and all that can be prepared ahead where the pool does that.
    """

    default_duration: timedelta = timedelta(hours=1)
    max_duration: timedelta | None = None
    max_total: timedelta | None = None
    extend: Extend = Extend.ALWAYS
    auto_extend: timedelta | None = None
    warn_before: tuple[timedelta, ...] = ()
    grace: timedelta | None = None
    on_failure: OnFailure = OnFailure.REPLACE
    replacements: int = 3
    on_degraded: OnDegraded = OnDegraded.TELL
    reuse: Reuse = Reuse.SAME_KEY
    reuse_window: timedelta | None = None
    """How long what is given back is kept for the next lease with the same key; None is not at all."""
    reuse_count: int | None = None
    """How many more leases a resource that the pool has made may serve after its first."""
    reuse_time: timedelta | None = timedelta(hours=1)
    """How long after its first grant a resource that the pool has made may still be granted again."""
    prepare: Prepare = Prepare.ON_DEMAND
    prepare_timeout: timedelta = timedelta(hours=2)
    on_release: tuple[StageName, ...] | None = None
    keep_logs: timedelta = KEEP_LOGS
    fair_share: bool = False
    """Whether, at the same priority, who holds least goes first, and then who was served longest ago."""
    overtakes: int = 16
    """How many later requests may be served before one that is blocked, of what it could have used."""
    starve_after: timedelta = timedelta(hours=1)
    """Who has waited so long is overtaken no more."""
    per_owner: Quota = Quota()
    at_once: Quota = Quota()
    per_lease: int | None = None
    over_quota: OverQuota = OverQuota.QUEUE
    auto_extend_free: float = 0.0
    """The share of the pool that must be free for a lease to be extended by itself."""
    cc_may: tuple[CcMay, ...] = ()
    holder_may: tuple[HolderMay, ...] = ()
    """`OFFLINE`: have it kept out of the pool when the lease ends."""
    self_service: SelfService | None = None
    deadlines: tuple[Weekly, ...] = ()
    """A lease ends at the first of these after its delivery; of the rules for self-service alone."""

    @property
    def has_quota(self) -> bool:
        """Whether any grant has to be counted."""
        return self.per_owner != Quota() or self.at_once != Quota()

    @property
    def after_release(self) -> tuple[StageName, ...]:
        """The stages that a resource goes through after a lease."""
        if self.on_release is not None:
            return self.on_release
        return (StageName.RELEASE, *(PREPARE_AHEAD if self.prepare is Prepare.AHEAD else ()))

    @property
    def prepares_ahead(self) -> bool:
        """Whether a resource that is free has gone through its stages: an `on_release` may leave some out."""
        return self.prepare is Prepare.AHEAD and set(PREPARE_AHEAD) <= {*self.after_release}


DEFAULT_NAME_PATTERN = "{pool_name}_{id}_{datetime}"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many resources a dynamic pool has.

    Never more than `max` exist, never more than `max_creating` are being created, and a creation begins `create_delay`
    after the last one at the soonest. `min_free` are kept free; what is free beyond that is deleted once it was so for
    `idle` (None: at once), and whatever is free once it is older than `age`. At most `keep_broken` that failed are kept
    for whoever wants to look at them, for `keep_broken_for`.
    """

    max: int = 4
    max_creating: int = 1
    min_free: int = 0
    create_delay: timedelta | None = None
    idle: timedelta | None = None
    age: timedelta | None = None
    keep_broken: int = 0
    keep_broken_for: timedelta = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """A pool as its file describes it, without its resources. A lease keeps the spec of its grant."""

    name: str
    description: str = ""
    priority: int = 0
    folder: str | None = None
    site: str | None = None
    """Where its hooks run: on the workers of this site, or on any worker."""
    stages: Mapping[StageName, tuple[Hook, ...]] = field(default_factory=dict)
    policy: Policy = Policy()
    admit: tuple[Hook, ...] = ()
    """Asked about each request that may be served from it, before it is admitted."""
    notices: Mapping[str, Channel] = field(default_factory=dict)
    """Over what people are told of leases of it, by the names of the channels."""
    tags: Mapping[str, int] = field(default_factory=dict)
    """The tags that all of its resources have, with their priorities: who asks for tags gets the highest sum first."""
    tags_on_demand: Mapping[str, int] = field(default_factory=dict)
    """More such tags, of a dynamic pool: it creates nothing but for requests that ask for one of them."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Of all resources that a dynamic pool makes."""
    size: Size = Size()
    name_pattern: str = DEFAULT_NAME_PATTERN
    named_counters: tuple[str, ...] = ()
    """Counters, shared with all pools that name them, of which each resource has the lowest free number."""
    livecheck: Cadence | None = None
    listing: Cadence | None = None
    cost_per_hour: float | None = None
    commands: CommandPolicy | None = None
    """What runs on behalf of its leases; None: what admins say."""

    @property
    def dynamic(self) -> bool:
        """Whether the pool makes its resources itself."""
        return StageName.CREATE in self.stages

    @property
    def is_tended(self) -> bool:
        """Whether there is something to be done in it that no lease asks for."""
        return self.dynamic or self.livecheck is not None or self.policy.reuse_window is not None

    @property
    def all_tags(self) -> Mapping[str, int]:
        """The tags of what the pool makes, with their priorities."""
        return {**self.tags, **self.tags_on_demand}


@dataclass(frozen=True, kw_only=True)
class ResourceSpec:
    """A static resource as a pools file or a PUT describes it.

    One that only operators may lend says so among its properties, see `NOT_FOR_SELF_SERVICE`.
    """

    name: str
    tags: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What holds for all pools together, whoever describes them.

    `open_reading`: who does not say who they are may look, as a viewer may. `open_requests_per_minute` is how many
    requests one address may make without saying so.
    """

    self_service: SelfService = SelfService(enabled=Opening.ON)
    open_reading: bool = False
    open_requests_per_minute: int = 10


NOT_FOR_SELF_SERVICE: Mapping[str, Any] = {"self_service": False}
"""The property of a resource that only operators may lend."""

FOR_SELF_SERVICE = "self_service__ne=false"
"""The filter that leaves those out."""


@dataclass(frozen=True, kw_only=True)
class Forced:
    """An operator has opened self-service, or closed it, of a pool or of the whole lab (`pool` None)."""

    pool: str | None
    opening: Opening
    reason: str
    by: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a pools file describes. `name` tells files apart: applying one never touches what another made.

    `limits` are named limiters with how many slots each has; `lab` is what holds for all pools together.
    """

    name: str
    limits: Mapping[str, int] = field(default_factory=dict)
    lab: Lab | None = None
    pools: tuple[tuple[PoolSpec, tuple[ResourceSpec, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that applying a pools file does: `action` is add, change, drain or remove; `diff` is old and new."""

    action: str
    kind: str
    pool: str
    name: str
    diff: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Offline:
    """An operator's mark: no new grant until the resource is online again."""

    reason: str
    by: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Paused:
    """An operator's mark on a pool: nothing of it is granted until it is resumed."""

    reason: str
    by: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The service's own quarantine of a resource that failed."""

    reason: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What is known of a resource that its pool has made; one that a listing found has no numbers.

    `number` is its own for ever, `place` the lowest that was free in its pool. `trouble` is why it is not deleted yet.
    """

    number: int | None
    place: int | None
    counters: Mapping[str, int]
    created_at: datetime
    ready_at: datetime | None
    uses: int
    trouble: str | None


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One thing that can be leased, as the inventory has it now."""

    pool: str
    name: str
    state: ResourceState
    stage: str | None
    offline: Offline | None
    broken: Broken | None
    lease: str | None
    epoch: int
    tags: tuple[str, ...]
    properties: Mapping[str, Any]
    suspect: bool = False
    """Its last livecheck failed: it is granted to nobody."""
    kept_until: datetime | None = None
    """It is free, and kept until then for who comes with the key under which it was given back."""
    instance: Instance | None = None


@dataclass(frozen=True, kw_only=True)
class Degraded:
    """A resource of a lease that fails its livechecks."""

    pool: str
    name: str
    reason: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class LeasedResource:
    """One resource of a lease, while it has it and after."""

    pool: str
    name: str
    item: int
    role: str | None
    state: str
    stage: str | None
    attempt: int | None
    epoch: int
    tags: tuple[str, ...]
    properties: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A request that could be granted at once, in words, and as items to ask for."""

    detail: str
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class QueuePlace:
    """Where a waiting lease stands: the first has position 1.

    `eta` is when it will be active, as far as that can be foreseen; `alternatives`, where they were asked for, are what
    could be had at once instead.
    """

    position: int
    reason: str
    eta: datetime | None = None
    alternatives: tuple[Alternative, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why something went wrong, with a stable code."""

    code: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A claim by an owner on one or more resources, for a time; one that was refused never got a number."""

    id: str
    number: int | None
    state: LeaseState
    outcome: Outcome | None
    error: Problem | None
    principal: str
    owner: str
    cc: tuple[str, ...]
    description: str | None
    items: tuple[Item, ...]
    resources: tuple[LeasedResource, ...]
    queue: QueuePlace | None
    priority: int
    created_at: datetime
    start_at: datetime | None
    active_at: datetime | None
    expires_at: datetime | None
    in_grace: bool
    heartbeat_by: datetime | None
    ended_at: datetime | None
    run_id: str
    ticket: str | None = None
    unverified: bool = False
    """Whether its owner is only what somebody said who requested it without a token."""
    self_service: bool = False
    transfers: int = 0
    """How often it was given to another owner."""
    share_key: str | None = None
    degraded: tuple[Degraded, ...] = ()
    command: Command | None = None
    on_end: OnEnd = OnEnd.FREE
    on_end_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunnerProcess:
    """One process of a runner: on which host it takes how many commands at once, and when it was heard of last."""

    instance: str
    host: str
    slots: int
    seen_at: datetime
    started_at: datetime


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A runner: what all of its processes have in common, how many commands they take, and how many they have."""

    name: str
    labels: tuple[str, ...]
    slots: int
    used: int
    up: bool
    hosts: tuple[RunnerProcess, ...]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What the holder needs to connect to one resource: the bytes that its `deliver` hook printed.

    Without a name it is for all resources of the lease: what a hook for the whole lease printed.
    """

    pool: str
    name: str
    role: str | None
    data: bytes


class Circuit(StrEnum):
    """Whether a dynamic pool is counted on: it works, it pauses after a failure, or it keeps failing.

    One that is open tries a single creation now and then; with its success it is closed again.
    """

    CLOSED = "closed"
    PAUSING = "pausing"
    OPEN = "open"


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How creations in a dynamic pool go: how many have ended, how many of them well, and the `seconds` of these.

    `failures` have failed in a row since the last success, the last one for this `trouble`; none begins before
    `retry_at`. `first_grants` of what was made had a first holder, for whom they waited `first_grant_seconds`. Seconds
    are those of all together.
    """

    starts: int
    successes: int
    seconds: float
    failures: int
    circuit: Circuit
    retry_at: datetime | None
    trouble: str | None
    last_attempt_at: datetime | None
    last_success_at: datetime | None
    first_grants: int
    first_grant_seconds: float
    list_trouble: str | None
    strays: int

    @property
    def start_s(self) -> float | None:
        """How long a creation takes on average, in seconds."""
        return round(self.seconds / self.successes, 3) if self.successes else None

    @property
    def first_grant_s(self) -> float | None:
        """How long what is ready waits for its first holder on average, in seconds."""
        return round(self.first_grant_seconds / self.first_grants, 3) if self.first_grants else None

    @property
    def success_rate(self) -> float | None:
        """The share of creations that went well, 0 to 1."""
        return round(self.successes / self.starts, 3) if self.starts else None


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool with how many of its resources are in which state.

    One that is `emptied` is paused, and what it has made is deleted once nobody has it. `growth` is that of a dynamic
    pool.
    """

    spec: PoolSpec
    file: str | None
    draining: bool
    paused: Paused | None
    total: int
    free: int
    states: Mapping[str, int]
    waiting: int
    emptied: bool = False
    growth: Growth | None = None


@dataclass(frozen=True, kw_only=True)
class LogChunk:
    """A piece of what a stage printed, in order of `id`. `run` is None for what came before the hook began."""

    id: int
    at: datetime
    run: int | None
    lease: str
    pool: str
    resource: str
    epoch: int
    stage: str
    attempt: int
    stream: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one hook, in order of `id`; `ending` is `lost` where its worker went away in the middle."""

    id: int
    lease: str
    pool: str
    resource: str
    epoch: int
    stage: str
    hook: int
    attempt: int
    host: str
    started_at: datetime
    deadline: datetime
    ended_at: datetime | None
    ending: str | None
    code: int | None
    detail: str | None

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs."""
        return None if self.ended_at is None else round((self.ended_at - self.started_at).total_seconds(), 3)

    @property
    def ok(self) -> bool | None:
        """Whether the hook succeeded; None while it runs."""
        return None if self.ended_at is None else self.ending == "exited" and self.code == 0


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, kept after its lease is gone."""

    id: int
    at: datetime
    kind: str
    lease: str | None
    pool: str | None
    resource: str | None
    actor: str | None
    reason: str | None
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something that stands until somebody has seen to it; `detail` says what to do."""

    key: str
    since: datetime
    detail: str
