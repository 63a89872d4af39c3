"""What travels through Temporal: one dataclass for each workflow, activity, update or signal.

All of it is readable in Temporal's UI, so nothing here ever carries a secret. Durations that people wrote stay as
they wrote them; computed ones are seconds, in fields that end in `_s`.
"""

from dataclasses import dataclass, field
from datetime import datetime

from leasehold.channels import NoticeKind
from leasehold.commands import CommandSpec, OnEnd
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
    heartbeat: str | None = None
    start_at: datetime | None = None
    queue_timeout: str | None = None
    wait_for_supply: bool = False
    self_service: bool = False
    """Requested by one who is no operator where it asks for something."""
    unverified: bool = False
    """Requested without a token: the owner is what somebody said."""
    ticket: str | None = None
    notify: tuple[str, ...] | None = ()
    """Who is told of it beside owner and `cc`; None: no person is."""
    share_key: str | None = None
    """Who may have again what was given back under the same key, see `Policy.reuse_window`."""
    command: CommandSpec | None = None
    """What is run once it is active; the lease ends with it. Its environment is kept elsewhere, under the digest."""
    on_end: OnEnd = OnEnd.FREE
    on_end_reason: str | None = None
    call: str = ""
    """Tells the call that started the lease from those that repeat it."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A `LeaseholdError` on its way through Temporal; built again by `errors.from_code`."""

    code: str
    detail: str
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What the `admit` hooks of a request's pools answered: the URL of a ticket, or why they refuse it.

    Of a command also another `priority`, or into which lease with one it is merged, by id or number.
    """

    ticket: str | None = None
    refusal: Refusal | None = None
    priority: int | None = None
    merge_into: str | None = None


@dataclass(frozen=True, kw_only=True)
class AdmitLease:
    """Admit a request that was submitted `age_s` ago; `consent` where `admit` hooks were asked about it."""

    request: SubmitLease
    age_s: float
    consent: Consent | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedHook:
    """What a workflow must know to schedule a hook."""

    index: int
    timeout_s: float
    attempts: int
    limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedQuestion:
    """The `admit` hooks of one pool, which are asked about a request."""

    pool: str
    spec: int
    site: str | None
    hooks: tuple[PlannedHook, ...]


@dataclass(frozen=True, kw_only=True)
class AskHook:
    """Ask one `admit` hook about a request. `hook` counts from 0, `attempt` from 1."""

    request: SubmitLease
    pool: str
    spec: int
    hook: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class HookConsent:
    """What one `admit` hook answered; `trouble` where it gave no answer."""

    consent: Consent = Consent()
    trouble: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage that a resource, or a lease as a whole, has to go through. A hook's `index` counts within its stage."""

    stage: str
    hooks: tuple[PlannedHook, ...]


@dataclass(frozen=True, kw_only=True)
class WidePlan:
    """The stages of one pool that are run once for a whole lease."""

    pool: str
    spec: int
    site: str | None
    stages: tuple[PlannedStage, ...]


@dataclass(frozen=True, kw_only=True)
class HeldResource:
    """A resource at the epoch at which a lease holds it."""

    pool: str
    resource: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A resource in the hands of one actor, the lease's or the recycling's, at one epoch, with the stages due."""

    pool: str
    resource: str
    epoch: int
    spec: int
    site: str | None = None
    ready: bool = False
    stages: tuple[PlannedStage, ...] = ()

    @property
    def held(self) -> HeldResource:
        """What is held."""
        return HeldResource(pool=self.pool, resource=self.resource, epoch=self.epoch)


@dataclass(frozen=True, kw_only=True)
class LeaseRef:
    """Names a lease."""

    lease: str


@dataclass(frozen=True, kw_only=True)
class RunHook:
    """Run one hook of one stage once. `hook` counts from 0 within the stage, `attempt` from 1.

    `last`: with its success the resource is ready. A lease-wide run has no `resource`: it is for all that it `holds`.
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
    holds: tuple[HeldResource, ...] = ()


LOST = "lost"
"""How a run ended that went with its worker."""


@dataclass(frozen=True, kw_only=True)
class HookReport:
    """How a run of a hook ended, without what it printed."""

    ending: str
    code: int | None
    detail: str
    ok: bool


@dataclass(frozen=True, kw_only=True)
class Held:
    """An active lease, and in how long, by the database's clock, something is due: a warning, or its end.

    `refusal` where what was asked is refused. `state` is another one where the record is ahead of its workflow, or
    the lease has ended.
    """

    state: LeaseState = LeaseState.ACTIVE
    outcome: Outcome | None = None
    expires_at: datetime | None = None
    left_s: float = 0.0
    refusal: Refusal | None = None
    is_due: bool = False
    """Its time is up, and it can end once its command is stopped."""


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """What admission decided, and after it, how the lease stands.

    `questions` where hooks must be asked before anything is decided. `refusal`, or `state` with what is granted and
    what is still `missing`, to be replaced or repaired; `wide` are the stages that follow once all is ready; `left_s`
    is what is left for that. `held` where the lease is active, at once if no stage was due. `wait_s` is in how long
    something is due for a lease that waits: its reservation begins, or its patience ends.
    """

    state: LeaseState | None = None
    digest: str = ""
    call: str = ""
    refusal: Refusal | None = None
    claims: tuple[Claim, ...] = ()
    missing: int = 0
    wide: tuple[WidePlan, ...] = ()
    left_s: float = 0.0
    held: Held | None = None
    wait_s: float | None = None
    questions: tuple[PlannedQuestion, ...] = ()
    doomed: Refusal | None = None
    """Why it must end, though it is active yet: its command is to be stopped first."""


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
class AddResources:
    """More resources for an active lease, at once or not at all. `request` tells one addition from its repetition.

    `lasting`: the lease then lasts, from its delivery, at least as long as the pools of these lend by default.
    `self_service`: asked for by one who is no operator, whoever requested the lease.
    """

    items: tuple[Item, ...]
    actor: str = "temporal"
    request: str = ""
    lasting: bool = False
    self_service: bool = False


@dataclass(frozen=True, kw_only=True)
class AddToRecord:
    """An addition on its way into the record of a lease."""

    lease: str
    addition: AddResources


@dataclass(frozen=True, kw_only=True)
class GiveBack:
    """Give one of a lease's resources back."""

    pool: str
    resource: str
    actor: str = "temporal"


@dataclass(frozen=True, kw_only=True)
class GiveBackRecord:
    """A resource on its way back from a lease."""

    lease: str
    part: GiveBack


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The resources of a lease that have gone through all their stages."""

    lease: str
    holds: tuple[HeldResource, ...]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Do what is due for an active lease. `stopped`: none of its hooks is running, so it can end at once.

    `commanded`: its command may be running, and must be stopped before anybody else can have its resources.
    """

    lease: str
    stopped: bool
    commanded: bool = False


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Give a lease to another owner."""

    lease: str
    owner: str
    actor: str


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """How often the lease was given to another owner by now, or why it was not."""

    transfers: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True)
class TakeSlot:
    """One slot of a limiter for one run of a hook; `key` tells the runs of a workflow apart."""

    workflow: str
    key: str
    limiter: str


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Whether the slot is taken; otherwise it is waited for, and the workflow is signalled."""

    taken: bool


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """Why a lease's preparation does not go on; `reason` None: it does."""

    lease: str
    pool: str
    resource: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Steer:
    """Release or cancel: who asks, and why; `forced` says that this is somebody else than the holder."""

    actor: str = "temporal"
    reason: str | None = None
    forced: bool = False


@dataclass(frozen=True, kw_only=True)
class BrokenResource:
    """A resource to put into quarantine, with why."""

    pool: str
    resource: str
    epoch: int
    reason: str
    lost: bool = False
    """Nothing failed: the worker that ran a hook for it went away, and that hook is not run again."""


@dataclass(frozen=True, kw_only=True)
class BrokenInLease:
    """Resources that failed their stages while a lease was being prepared.

    `dropped` were added to an active lease that goes on without them, for this `reason`, which is none of their faults.
    """

    lease: str
    broken: tuple[BrokenResource, ...] = ()
    dropped: tuple[HeldResource, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class PlaceCommand:
    """Find a runner for the nth attempt of a lease's command; `missed` did not take it up in time."""

    lease: str
    attempt: int
    missed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The runner that is to run a command for the nth time; without one it is waited for, and a signal comes.

    `over`: the command has ended by the record. `begun`: that runner has begun it before, for a workflow that has
    forgotten it. `timeout_s` is how long it may run.
    """

    runner: str | None = None
    attempt: int = 0
    over: bool = False
    begun: bool = False
    timeout_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """Run the command of a lease for the nth time."""

    lease: str
    attempt: int
    runner: str


@dataclass(frozen=True, kw_only=True)
class CommandReport:
    """How a command ended, by a value of `CommandEnding`, without what it printed.

    `code` is the exit status or the signal's number, `started` whether it may have begun to run. Of its output there
    are so many bytes, of which so many were dropped.
    """

    ending: str
    code: int | None = None
    detail: str = ""
    started: bool = True
    output_bytes: int | None = None
    dropped: int | None = None


@dataclass(frozen=True, kw_only=True)
class CommandLost:
    """The runner of a command's nth attempt is not heard of any more; `final`: it is not to be run again."""

    lease: str
    attempt: int
    detail: str
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class AfterLoss:
    """What follows: the command is run again, with a number of its own, or ends so. `missed`: nobody took it up."""

    again: bool
    attempt: int = 1
    missed: bool = False
    report: CommandReport | None = None


@dataclass(frozen=True, kw_only=True)
class CloseLease:
    """Close a lease's grants or withdraw it from the queue. `stopped`: none of its hooks is running any more.

    `command` tells how its command ended, if it has one that was to run.
    """

    lease: str
    outcome: Outcome
    actor: str
    stopped: bool
    reason: str | None = None
    error: Refusal | None = None
    broken: tuple[BrokenResource, ...] = ()
    command: CommandReport | None = None


@dataclass(frozen=True, kw_only=True)
class Closed:
    """How the record stands after it."""

    state: LeaseState
    outcome: Outcome | None


@dataclass(frozen=True, kw_only=True)
class RecycleResource:
    """What a resource must go through, after `lease` if there was one, before it is free."""

    lease: str
    claim: Claim


def recycle_id(pool: str, resource: str, epoch: int) -> str:
    """The id of a recycling's workflow: one for each claim."""
    return f"recycle:{pool}:{resource}:{epoch}"


@dataclass(frozen=True, kw_only=True)
class Recycled:
    """The recycling of a claim is over; `broken` says why the resource cannot be lent."""

    lease: str
    claim: Claim
    broken: str | None = None


@dataclass(frozen=True, kw_only=True)
class CreateResource:
    """A resource that its pool makes: the stages of the claim make it, and prepare it ahead where the pool does."""

    claim: Claim


def create_id(pool: str, resource: str, epoch: int) -> str:
    """The id of a creation's workflow: one for each claim."""
    return f"create:{pool}:{resource}:{epoch}"


@dataclass(frozen=True, kw_only=True)
class Created:
    """The creation of a claim is over; `failed` says why there is nothing that could be lent.

    `lost`: the worker that ran its hook went away, which says nothing of the pool.
    """

    claim: Claim
    failed: str | None = None
    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class DeleteResource:
    """A resource to be deleted, which was tried `tries` times, the last time `pause_s` before the next."""

    claim: Claim
    tries: int = 0
    pause_s: float = 0.0


def delete_id(pool: str, resource: str, epoch: int) -> str:
    """The id of a deletion's workflow: one for each claim."""
    return f"delete:{pool}:{resource}:{epoch}"


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """One more try to delete a claim's resource is over; `failed` says why it is still there."""

    claim: Claim
    tries: int
    failed: str | None = None


@dataclass(frozen=True, kw_only=True)
class TendPool:
    """A pool to be tended: how many resources it has, whether they live, what was forgotten in it."""

    pool: str


@dataclass(frozen=True, kw_only=True)
class Tended:
    """What was decided for a pool; in how long something is due, if it is. `over`: nothing in it needs tending."""

    over: bool = False
    left_s: float | None = None
    summary: str = ""


def pool_id(pool: str) -> str:
    """The id of a pool's workflow."""
    return f"pool:{pool}"


@dataclass(frozen=True, kw_only=True)
class CheckRound:
    """Livechecks of some resources of a pool, `parallel` of them at once; each has `timeout_s`."""

    id: str
    pool: str
    spec: int
    site: str | None
    timeout_s: float
    parallel: int
    resources: tuple[HeldResource, ...]


@dataclass(frozen=True, kw_only=True)
class ListPool:
    """Have a pool listed: what is there, whether anybody knows it or not."""

    id: str
    pool: str
    spec: int
    site: str | None
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How a livecheck ended; `failed` says why the resource is taken to be dead."""

    pool: str
    resource: str
    epoch: int
    failed: str | None = None


Errand = RecycleResource | CreateResource | DeleteResource
"""What a resource goes through while nobody has it, in a workflow of its own."""


def errand_id(errand: Errand) -> str:
    """The id of an errand's workflow."""
    held = errand.claim
    named = {RecycleResource: recycle_id, CreateResource: create_id, DeleteResource: delete_id}[type(errand)]
    return named(held.pool, held.resource, held.epoch)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that happened to a lease of which people are told; `id` is its workflow's.

    `actor` and `reason` are those of its event; `expires_at` is the end of which a warning warns.
    """

    id: str
    lease: str
    kind: NoticeKind
    at: datetime
    actor: str | None = None
    reason: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A notice over one channel to one address; `to` is None where the channel itself says to whom."""

    channel: str
    to: str | None


@dataclass(frozen=True, kw_only=True)
class SendLetter:
    """A letter on its way, for the nth time."""

    notice: Notice
    letter: Letter
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class LetterLost:
    """A letter that could not be sent, and is not tried again."""

    notice: Notice
    letter: Letter
    reason: str


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
