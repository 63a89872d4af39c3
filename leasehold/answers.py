"""The shapes of the API's answers, as the JSON has them: times are RFC 3339 text, an unknown value is null."""

from __future__ import annotations

from typing import Any, Generic, NotRequired, TypedDict, TypeVar

T = TypeVar("T")


class Problem(TypedDict):
    """Why a lease failed, with a stable code."""

    code: str
    detail: str


class Alternative(TypedDict):
    """A request that could be granted at once instead: in words, and as items to ask for."""

    detail: str
    items: list[ItemRequest]


class QueuePlace(TypedDict):
    """Where a waiting lease stands: the first has position 1; 0 is one that waits in no queue, for a repair, say.

    `eta` is when it will be active, as far as can be foreseen; `alternatives` come where one lease is asked for.
    """

    position: int
    reason: str
    eta: str | None
    alternatives: list[Alternative] | None


class LeasedResource(TypedDict):
    """One resource of a lease; `stage` and `attempt` while it is being prepared."""

    pool: str
    name: str
    item: int
    role: str | None
    state: str
    stage: str | None
    attempt: int | None
    epoch: int
    tags: list[str]
    properties: dict[str, Any]


class Degraded(TypedDict):
    """A resource of a lease that fails its livechecks."""

    pool: str
    name: str
    reason: str
    since: str


class ItemRequest(TypedDict, total=False):
    """One line of a request: `count` resources of `pool` that satisfy all of the rest."""

    pool: str | None
    count: int
    match: list[str]
    tags: list[str]
    names: list[str]
    role: str | None
    params: dict[str, Any]
    skip: list[str]


class Kept(TypedDict):
    """How much of a command's output there may be, how much there was, and what of it is gone."""

    limit: int
    bytes: int | None
    dropped: int | None


class Command(TypedDict):
    """A lease's command: a list that runs without a shell, or a line for one.

    `reason` is why it waits for a runner, `on` the runner that has it, `account` as whom it runs there, null being as
    the runner itself. `result` is null until it has ended.
    """

    run: list[str] | str
    folder: str | None
    timeout: str | None
    retry: int
    runner: str | None
    labels: list[str]
    account: str | None
    state: str
    reason: str | None
    on: str | None
    attempt: int
    started: bool
    started_at: str | None
    ended_at: str | None
    result: str | None
    exit_code: int | None
    signal: int | None
    detail: str | None
    output: Kept


class Output(TypedDict):
    """A piece of what a command printed; `data` is null where the bytes are not UTF-8.

    The stream `service` is what Leasehold itself says of the output.
    """

    at: str
    stream: str
    attempt: int
    data: str | None
    data_base64: str


class RunnerHost(TypedDict):
    """One process that takes commands."""

    instance: str
    host: str
    slots: int
    seen_at: str
    started_at: str


class Runner(TypedDict):
    """Where commands run: so many at once, of which so many are taken."""

    name: str
    labels: list[str]
    slots: int
    used: int
    up: bool
    hosts: list[RunnerHost]


class Lease(TypedDict):
    """A lease. `number` is null as long as no worker has admitted it; `token` comes with the answer to POST alone.

    `heartbeat_by` is when the next heartbeat must have come, null where none is expected; `in_grace` says that the
    lease has expired and can be revived by an extension. `duplicate` says that this one was there before, and the same
    was asked for again.
    """

    id: str
    number: int | None
    state: str
    outcome: str | None
    error: Problem | None
    owner: str
    cc: list[str]
    description: str | None
    items: list[ItemRequest]
    resources: list[LeasedResource]
    queue: QueuePlace | None
    priority: int
    ticket: str | None
    created_at: str | None
    start_at: str | None
    active_at: str | None
    expires_at: str | None
    in_grace: bool
    heartbeat_by: str | None
    ended_at: str | None
    command: Command | None
    on_end: str
    on_end_reason: str | None
    share_key: str | None
    degraded: list[Degraded]
    temporal_url: str | None
    token: NotRequired[str | None]
    duplicate: NotRequired[bool]


def reached(lease: Lease, state: str) -> bool:
    """Whether waiting for `state` ("active" or "ended") is over."""
    return lease["state"] in (state, "ended")


class OfflineMark(TypedDict):
    """An operator's mark on a resource."""

    reason: str
    by: str
    since: str


class BrokenMark(TypedDict):
    """The service's own quarantine of a resource."""

    reason: str
    since: str


class Instance(TypedDict):
    """What is known of a resource that its pool has made: `trouble` is why it is not deleted yet.

    `id` is its own for ever, `id_in_pool` the lowest that was free; one that a listing found has neither.
    """

    id: int | None
    id_in_pool: int | None
    counters: dict[str, int]
    created_at: str
    ready_at: str | None
    uses: int
    trouble: str | None


class Resource(TypedDict):
    """A resource as the inventory has it now.

    One that is `suspect` failed its last livecheck; one with `kept_until` is free for who comes with its key alone.
    """

    pool: str
    name: str
    state: str
    stage: str | None
    offline: OfflineMark | None
    broken: BrokenMark | None
    lease: str | None
    epoch: int
    tags: list[str]
    properties: dict[str, Any]
    suspect: bool
    kept_until: str | None
    instance: Instance | None


class Delivered(TypedDict):
    """What the holder needs to connect to one resource: `data` is null where the bytes are not UTF-8."""

    pool: str
    name: str
    role: str | None
    data: str | None
    data_base64: str


class Shared(TypedDict):
    """What the holder needs to connect that is no single resource's, as a pool's hook for the whole lease says."""

    pool: str
    data: str | None
    data_base64: str


class Delivery(TypedDict):
    """The access data of a lease. A secret."""

    lease: str
    resources: list[Delivered]
    shared: list[Shared]


class Event(TypedDict):
    """Something that happened."""

    id: int
    at: str
    kind: str
    lease: str | None
    pool: str | None
    resource: str | None
    actor: str | None
    reason: str | None
    data: dict[str, Any]


class Run(TypedDict):
    """One run of one hook; what is null is not known before its end. `ending` is `lost` where its worker went away."""

    id: int
    lease: str
    pool: str
    resource: str
    epoch: int
    stage: str
    hook: int
    attempt: int
    host: str
    started_at: str
    ended_at: str | None
    seconds: float | None
    ending: str | None
    code: int | None
    detail: str | None
    ok: bool | None


class Promise(TypedDict):
    """A resource that is free, and promised to a reservation, by its number, until about `ends_at`."""

    lease: int
    pool: str
    name: str
    begins_at: str
    ends_at: str


class Available(TypedDict):
    """What a new request could get now, or why not; `promised` is free too, but not for long enough."""

    open: bool
    reason: str | None
    free: int
    total: int
    next_free_at: str | None
    resources: list[Resource]
    promised: list[Promise]


class Change(TypedDict):
    """One thing that applying a file changes: `diff` has old and new of each key."""

    action: str
    kind: str
    pool: str
    name: str
    diff: dict[str, list[Any]]


class Applied(TypedDict):
    """What applying a file changed, or would change."""

    changes: list[Change]


class Scopes(TypedDict):
    """What narrows a token: null are all pools; with `read` it changes nothing."""

    pools: list[str] | None
    read: bool


class Token(TypedDict):
    """A user's token; `token`, its string and a secret, comes with the answer to its making alone."""

    id: str
    user: str
    role: str
    scopes: Scopes
    label: str | None
    created_at: str
    created_by: str
    made_with: str | None
    expires_at: str
    revoked_at: str | None
    revoked_by: str | None
    last_used_at: str | None
    token: NotRequired[str]


class User(TypedDict):
    """Somebody who logs in with a password."""

    name: str
    role: str
    created_at: str
    created_by: str
    password_at: str
    disabled_at: str | None
    disabled_by: str | None


class Whoami(TypedDict):
    """Who a token belongs to: `token` is the id of a user's, `lease` that of the lease whose own it is."""

    user: str
    role: str | None
    scopes: Scopes
    expires_at: str | None
    token: str | None
    lease: str | None


class Page(TypedDict, Generic[T]):
    """A part of a list; `next_cursor` asks for the part after it."""

    items: list[T]
    next_cursor: str | None
