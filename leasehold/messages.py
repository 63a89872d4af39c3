"""What travels through Temporal: one dataclass for each workflow, activity, update or signal.

All of it is readable in Temporal's UI, so nothing here ever carries a secret. Durations that people wrote stay as
they wrote them; computed ones are seconds, in fields that end in `_s`.
"""

from dataclasses import dataclass, field
from datetime import datetime

from leasehold.errors import Fault
from leasehold.model import Item, LeaseState, Outcome


@dataclass(frozen=True, kw_only=True)
class SubmitLease:
    """A validated request. `lease` is the workflow's id; `digest` that of the request's body."""

    lease: str
    principal: str
    owner: str
    digest: str
    items: tuple[Item, ...]
    duration: str | None = None
    priority: int = 0
    description: str | None = None
    cc: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A `LeaseholdError` on its way through Temporal; built again by `errors.from_code`."""

    code: str
    detail: str
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlannedHook:
    """What a workflow must know to schedule a hook."""

    timeout_s: float
    attempts: int


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage that a resource has to go through."""

    stage: str
    hooks: tuple[PlannedHook, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A resource in the hands of one actor, the lease's or the recycling's, at one epoch, with the stages due."""

    pool: str
    resource: str
    epoch: int
    spec: int
    stages: tuple[PlannedStage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LeaseRef:
    """Names a lease."""

    lease: str


@dataclass(frozen=True, kw_only=True)
class RunHook:
    """Run one hook of one stage once. `hook` counts from 0 within the stage, `attempt` from 1.

    `last`: with its success the resource is ready.
    """

    lease: str
    pool: str
    resource: str
    epoch: int
    spec: int
    stage: str
    hook: int
    attempt: int
    timeout_s: float
    last: bool


@dataclass(frozen=True, kw_only=True)
class HookReport:
    """How a run of a hook ended, without what it printed."""

    ending: str
    code: int | None
    detail: str
    ok: bool


@dataclass(frozen=True, kw_only=True)
class Held:
    """An active lease and the time it has left by the database's clock; `refusal` where an extension was refused.

    `state` is another one where the record is ahead of its workflow.
    """

    state: LeaseState = LeaseState.ACTIVE
    expires_at: datetime | None = None
    left_s: float = 0.0
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What admission decided, and after it, how the lease stands.

    `refusal`, or `state` with what is granted; `held` where the lease is active, at once if no stage was due.
    """

    state: LeaseState | None = None
    digest: str = ""
    refusal: Refusal | None = None
    claims: tuple[Claim, ...] = ()
    held: Held | None = None


@dataclass(frozen=True, kw_only=True)
class ExtendLease:
    """Extend by a duration or until a time. `request` tells one extension from its repetition."""

    by: str | None = None
    until: datetime | None = None
    actor: str = "temporal"
    request: str = ""


@dataclass(frozen=True, kw_only=True)
class ExtendRecord:
    """An extension on its way into the record of a lease."""

    lease: str
    extension: ExtendLease


@dataclass(frozen=True, kw_only=True)
class Steer:
    """Release or cancel: who asks, and why."""

    actor: str = "temporal"
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class BrokenResource:
    """A resource to put into quarantine."""

    pool: str
    resource: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CloseLease:
    """Close a lease's grants or withdraw it from the queue. `stopped`: none of its hooks is running any more."""

    lease: str
    outcome: Outcome
    actor: str
    stopped: bool
    reason: str | None = None
    error: Refusal | None = None
    broken: tuple[BrokenResource, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Closed:
    """How the record stands after it: `left_s` is set where the lease has not expired yet after all."""

    state: LeaseState
    outcome: Outcome | None
    left_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class RecycleResource:
    """What a resource must go through after `lease`, before it is free again."""

    lease: str
    claim: Claim


@dataclass(frozen=True, kw_only=True)
class Recycled:
    """The recycling of a claim is over; `broken` says why the resource cannot be lent."""

    lease: str
    claim: Claim
    broken: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResourceView:
    """One resource in a lease's `view`."""

    pool: str
    resource: str
    epoch: int
    stage: str | None = None
    attempt: int | None = None
    ready: bool = False


@dataclass(frozen=True, kw_only=True)
class LeaseView:
    """What the `view` query answers: where the workflow itself believes the lease to be."""

    state: str
    expires_at: datetime | None = None
    resources: tuple[ResourceView, ...] = field(default_factory=tuple)
