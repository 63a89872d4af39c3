"""The bodies of requests, and the shapes of answers as the OpenAPI document shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from leasehold import durations, selector
from leasehold.access import USER_PATTERN, Role, Scopes
from leasehold.commands import RESERVED, CommandSpec, OnEnd
from leasehold.config import Duration, Json, Name, Strict, Tag, Text, storable
from leasehold.errors import BadFilter, Fault
from leasehold.model import PREPARE, Item, Opening, StageName

Count = Annotated[int, Field(strict=True, ge=1, le=1000)]
Plain = Annotated[str, AfterValidator(storable)]
Match = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(storable)]

UserName = Annotated[str, Field(pattern=USER_PATTERN)]

LEASE_ID = "lq3kx0v5n2m7w8r4t6y1z9b0ca"
EXAMPLE_REQUEST: JsonDict = {
    "items": [{"pool": "r640", "count": 2, "match": ["disks.disk_type=nvme"]}],
    "duration": "4h",
    "description": "nightly upgrade test",
}
EXAMPLE_LEASE: JsonDict = {
    "id": LEASE_ID,
    "number": 41,
    "state": "active",
    "outcome": None,
    "error": None,
    "owner": "admin",
    "cc": [],
    "description": "nightly upgrade test",
    "items": [
        {
            "pool": "r640",
            "count": 2,
            "match": ["disks.disk_type=nvme"],
            "tags": [],
            "names": [],
            "role": None,
            "params": {},
            "skip": [],
        }
    ],
    "resources": [
        {
            "pool": "r640",
            "name": "host01",
            "item": 0,
            "role": None,
            "state": "ready",
            "stage": None,
            "attempt": None,
            "epoch": 1795181748226,
            "tags": ["metal"],
            "properties": {"disks": [{"disk_type": "nvme"}]},
        }
    ],
    "queue": None,
    "priority": 0,
    "ticket": None,
    "created_at": "2026-01-05T09:00:00.000000Z",
    "start_at": None,
    "active_at": "2026-01-05T09:12:30.000000Z",
    "expires_at": "2026-01-05T13:12:30.000000Z",
    "in_grace": False,
    "heartbeat_by": None,
    "ended_at": None,
    "command": None,
    "on_end": "free",
    "on_end_reason": None,
    "unverified": False,
    "share_key": None,
    "degraded": [],
    "temporal_url": f"http://127.0.0.1:8233/namespaces/default/workflows/{LEASE_ID}/0198c2e4/history",
}


class ItemBody(Strict):
    """One line of a request."""

    pool: Name | None = Field(default=None, description="None: any pool whose resources suit")
    count: Count = 1
    match: list[Match] = Field(default=[], max_length=50, description="Filters that must all hold")
    tags: list[Tag] = Field(default=[], max_length=50, description="Tags that must all be there")
    names: list[Name] = Field(default=[], max_length=1000, description="Only these resources")
    role: Annotated[Text, Field(max_length=128)] | None = None
    params: Json = Field(default={}, description="For the hooks; public")
    skip: list[StageName] = Field(
        default=[],
        max_length=10,
        description="Stages not wanted; wipe is skipped only where the last holder was the same",
    )

    @field_validator("skip")
    @classmethod
    def _skippable(cls, value: list[StageName]) -> list[StageName]:
        for stage in value:
            if stage not in PREPARE:
                raise PydanticCustomError("not_skippable", "{stage} cannot be skipped", {"stage": str(stage)})
        return value

    def item(self) -> Item:
        """The item it describes."""
        return Item(
            pool=self.pool,
            count=self.count,
            match=tuple(self.match),
            tags=tuple(self.tags),
            names=tuple(self.names),
            role=self.role,
            params=self.params,
            skip=tuple(self.skip),
        )


Argument = Annotated[str, Field(max_length=100_000), AfterValidator(storable)]
Arguments = Annotated[list[Argument], Field(min_length=1, max_length=10_000)]
Line = Annotated[str, Field(min_length=1, max_length=100_000), AfterValidator(storable)]
_MOST_ENV = _MOST_PARAMS = 512 * 1024


def _variable(value: str) -> str:
    if not value or "=" in value or "\0" in value or len(value) > 1024:
        raise PydanticCustomError("variable", "must be the name of a variable, without = and NUL")
    if value.startswith(RESERVED):
        raise PydanticCustomError("reserved", "must not begin like those that tell a command what it has")
    return value


_MOST_SECRETS = 64 * 1024
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def _secret_name(value: str) -> str:
    if not _SECRET.fullmatch(value):
        raise PydanticCustomError("variable", "must be a name of letters, digits and _, of 128 characters at most")
    return value


SecretName = Annotated[str, AfterValidator(_secret_name)]
Variable = Annotated[str, AfterValidator(_variable)]
Folder = Annotated[str, Field(pattern="^/", max_length=4096), AfterValidator(storable)]


class CommandBody(Strict):
    """A command that is run once the lease is active; the lease ends with it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"run": ["make", "test", "HOST=@RESOURCE"], "folder": "/home/joe/src"}]}
    )

    run: Arguments | Line = Field(
        description="Its arguments, which no shell sees, or a line for /bin/sh -c. @RESOURCE stands for what the first"
        " item was granted, @RESOURCE:POOL for what was of that pool"
    )
    folder: Folder | None = Field(default=None, description="Where it starts; null: in a fresh one")
    env: dict[Variable, Argument] = Field(
        default={}, max_length=10_000, description="All of its environment beside what every command has; secret"
    )
    runner: Name | None = Field(default=None, description="Which runner runs it; null: as the pool says")
    labels: list[Tag] = Field(default=[], max_length=50, description="What its runner must have")
    timeout: Duration | None = Field(default=None, description="Then it is killed; null: as long as its lease lasts")
    retry: Annotated[int, Field(strict=True, ge=0, le=100)] = Field(
        default=0, description="How often it is run again where its runner is lost: it may safely run twice"
    )
    duplicates: Literal["allow", "drop"] = Field(
        default="allow", description="drop: where the owner's same command waits or runs, that one is the answer"
    )

    @field_validator("run")
    @classmethod
    def _short(cls, value: list[str] | str) -> list[str] | str:
        if not isinstance(value, str) and (not value[0] or sum(map(len, value)) > 100_000):
            raise PydanticCustomError("too_long", "must name a program, and have 100,000 characters at most")
        return value

    @field_validator("env")
    @classmethod
    def _few(cls, value: dict[str, str]) -> dict[str, str]:
        if sum(len(name) + len(text.encode()) for name, text in value.items()) > _MOST_ENV:
            raise PydanticCustomError("too_long", "must have 512 KiB at most")
        return value

    def spec(self, role: str, *, labels: Sequence[str] = (), secrets: bool = False) -> CommandSpec:
        """The command it describes, submitted by one of this role, with secrets or without, and with more labels."""
        return CommandSpec(
            argv=(self.run,) if isinstance(self.run, str) else tuple(self.run),
            shell=isinstance(self.run, str),
            folder=self.folder,
            variables=tuple(self.env),
            secrets=secrets,
            runner=self.runner,
            labels=tuple(dict.fromkeys((*self.labels, *labels))),
            timeout=durations.render(self.timeout) if self.timeout else None,
            retry=self.retry,
            unique=self.duplicates == "drop",
            role=role,
        )


class LeaseBody(Strict):
    """A request for a lease: all items are granted together or not at all."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_REQUEST]})

    items: list[ItemBody] = Field(min_length=1, max_length=50)
    duration: Duration | None = Field(default=None, description="From delivery; the pool's default if absent")
    priority: Annotated[int, Field(strict=True, ge=-1_000_000, le=1_000_000)] = 0
    description: Text | None = None
    cc: list[Tag] = Field(default=[], max_length=50)
    heartbeat: Duration | None = Field(
        default=None, description="The lease is lost when no heartbeat comes for so long, from now on"
    )
    start_at: AwareDatetime | None = Field(
        default=None, description="A reservation: granted then, and promised now, or refused"
    )
    queue_timeout: Duration | None = Field(
        default=None, description="The lease fails if it has waited so long, from now on or from start_at"
    )
    wait_for_supply: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="Wait for more than there is, until somebody registers it"
    )
    share_key: Tag | None = Field(
        default=None, description="What was given back under this key is kept for its owner's next lease with it"
    )
    owner: UserName | None = Field(
        default=None, description="Only without a token, where that is allowed: who it is for. A token says it itself"
    )
    notify: Literal[False] | Annotated[list[Tag], Field(max_length=50)] = Field(
        default=[], description="Who else is told of it, as in cc; false: no person is"
    )
    params: Json = Field(default={}, description="Of every item that does not say its own; public")
    command: CommandBody | None = Field(default=None, description="What is run once it is active")
    labels: list[Tag] = Field(default=[], max_length=50, description="What the runner of its command must have, too")
    secrets: dict[SecretName, Argument] = Field(
        default={}, max_length=100, description="For the hooks and its command alone; never shown again. 64 KiB at most"
    )
    on_end: OnEnd = Field(default=OnEnd.FREE, description="offline: what its first item had is kept out of the pool")
    on_end_reason: Annotated[Text, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Why it is kept out"
    )

    @field_validator("params")
    @classmethod
    def _small(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        # Each item will have them.
        if len(json.dumps(value).encode()) * len(info.data.get("items", ())) > _MOST_PARAMS:
            raise PydanticCustomError("too_long", "must have 512 KiB at most, counted for each item")
        return value

    @field_validator("labels")
    @classmethod
    def _of_a_command(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if value and info.data.get("command", ...) is None:
            raise PydanticCustomError("without_command", "goes with a command")
        return value

    @field_validator("on_end_reason")
    @classmethod
    def _kept_out(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("on_end", ...) is OnEnd.FREE:
            raise PydanticCustomError("without_offline", "goes with on_end: offline")
        return value

    @field_validator("secrets")
    @classmethod
    def _few(cls, value: dict[str, str]) -> dict[str, str]:
        # So that one variable can have all of it, as JSON.
        if len(json.dumps(value, ensure_ascii=False).encode()) > _MOST_SECRETS:
            raise PydanticCustomError("too_long", "must have 64 KiB at most")
        return value

    def check_filters(self) -> None:
        """Raise `BadFilter` with the place of each filter that cannot be understood."""
        _check_filters(self.items)

    @property
    def wanted(self) -> tuple[Item, ...]:
        """Its items, each with all of its params."""
        return tuple(replace(item.item(), params={**self.params, **item.params}) for item in self.items)

    @property
    def heartbeat_text(self) -> str | None:
        """How often a heartbeat must come, as people write it."""
        return durations.render(self.heartbeat) if self.heartbeat else None

    @property
    def queue_timeout_text(self) -> str | None:
        """How long it waits, as people write it."""
        return durations.render(self.queue_timeout) if self.queue_timeout else None

    @property
    def duration_text(self) -> str | None:
        """The duration as people write it."""
        return durations.render(self.duration) if self.duration else None


def _check_filters(items: list[ItemBody]) -> None:
    faults = []
    for i, item in enumerate(items):
        for j, text in enumerate(item.match):
            try:
                selector.parse(text)
            except BadFilter as error:
                faults.append(Fault(path=f"items[{i}].match[{j}]", code=error.code, detail=error.detail))
    if faults:
        raise BadFilter(faults[0].detail, faults)


class AddBody(Strict):
    """More resources for an active lease, at once or not at all."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [{"pool": "r640"}]}]})

    items: list[ItemBody] = Field(min_length=1, max_length=50)

    def check_filters(self) -> None:
        """Raise `BadFilter` with the place of each filter that cannot be understood."""
        _check_filters(self.items)


class ExtendBody(Strict):
    """By how long, or until when: exactly one of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"by": "2h"}]})

    by: Duration | None = None
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.by is None) == (self.until is None):
            raise PydanticCustomError("one_of", "say exactly one of by and until")
        return self


class OfflineBody(Strict):
    """Why a resource goes offline."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "PSU replaced on Monday"}]})

    reason: Annotated[Text, Field(min_length=1)]


class PauseBody(Strict):
    """Why a pool is paused."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the cloud is upgraded", "drain": True}]})

    reason: Annotated[Text, Field(min_length=1)]
    drain: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="What the pool has made is deleted as soon as nobody has it"
    )


class EndBody(Strict):
    """Why a lease ends."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the rack is moved tonight"}]})

    reason: Annotated[Text, Field(min_length=1, max_length=1000)] | None = None


class TransferBody(Strict):
    """To whom a lease goes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"owner": "bob"}]})

    owner: UserName


PlaceText = Annotated[str, Field(max_length=64), AfterValidator(storable)]


class RunnerBody(Strict):
    """A process of a runner: where it is, and how many commands it takes at once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"instance": "5f3a", "labels": ["x86_64"], "slots": 4, "host": "build01"}]}
    )

    instance: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(storable)]
    labels: list[Tag] = Field(default=[], max_length=100)
    slots: Annotated[int, Field(strict=True, ge=1, le=1000)]
    host: Annotated[str, Field(max_length=255), AfterValidator(storable)]
    locks: PlaceText = ""
    boot: PlaceText = ""
    processes: PlaceText = ""


class RegisteredAnswer(BaseModel):
    """How often a runner is to say that it is there, and how long it may be without Temporal."""

    name: str
    every_s: float
    silence_s: float


class BeginBody(Strict):
    """Which process takes a command up, for the how manieth time."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"instance": "5f3a", "attempt": 1}]})

    instance: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(storable)]
    attempt: Annotated[int, Field(strict=True, ge=1, le=2**31)]


class BegunAnswer(BaseModel):
    """What a runner is to run, with all that the command is told."""

    lease: str
    number: int
    owner: str
    pool: str
    argv: list[str]
    shell: bool
    env: dict[str, str]
    folder: str | None
    account: str | None
    timeout_s: float | None
    grace_s: float
    output_limit: int
    given: list[str]


class OffsetAnswer(BaseModel):
    """How far output has come, in bytes of frames."""

    offset: int


class SelfServiceBody(Strict):
    """Self-service is opened, closed, or left to its rules."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"opening": "off", "reason": "audit until Friday"}]})

    opening: Opening = Field(description="on, off, or auto: as the rules say")
    reason: Annotated[Text, Field(min_length=1, max_length=1000)]


class SelfServiceAnswer(BaseModel):
    """How self-service of a pool stands, or of the lab (`pool` null): why it is closed, and who forced it."""

    pool: str | None
    open: bool
    reason: str | None
    forced: dict[str, Any] | None


class ResourceBody(Strict):
    """What a resource is."""

    tags: list[Tag] = Field(default=[], max_length=100)
    properties: Json = Field(default={})


Label = Annotated[str, Field(max_length=200), AfterValidator(storable)]


class ScopesBody(Strict):
    """What narrows a token: outside of `pools` it can what a viewer can; with `read` it changes nothing."""

    pools: list[Name] | None = Field(default=None, min_length=1, max_length=100, description="None: all pools")
    read: Annotated[bool, Field(strict=True)] = False

    def scopes(self) -> Scopes:
        """The scopes it describes."""
        return Scopes(pools=None if self.pools is None else tuple(dict.fromkeys(self.pools)), read=self.read)


class TokenBody(Strict):
    """A token to make; without `expires` it is good for 90 days, or as long as the token that it is made with."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"user": "ci", "role": "user", "expires": "30d", "scopes": {"pools": ["r640"]}}]
        }
    )

    user: UserName | None = Field(default=None, description="Who owns what is made with it; by default the caller")
    role: Role = Role.USER
    expires: Duration | None = Field(default=None, description="At most 365d")
    scopes: ScopesBody = ScopesBody()
    label: Label | None = Field(default=None, description="What it is for")


Password = Annotated[SecretStr, Field(min_length=8, max_length=1024)]


class UserBody(Strict):
    """A user who logs in with a password."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "joe@example.com", "role": "user", "password": "correct horse"}]}
    )

    name: UserName
    role: Role = Role.USER
    password: Password


class PasswordBody(Strict):
    """A new password."""

    password: Password


class ReconcileBody(Strict):
    """What an operator answers for."""

    accept_identity: bool = Field(
        default=False, description="This Temporal is the right one, although another is known"
    )
    accept_lost: bool = Field(default=False, description="Leases that Temporal does not know are lost, however many")


class ProblemAnswer(BaseModel):
    """Any error (RFC 9457). `code` never changes; `errors` names the places."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]]


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "What is wrong, and where",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
    }
}
"""How any call may fail."""


class LeasedResourceAnswer(BaseModel):
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


class DegradedAnswer(BaseModel):
    """A resource of a lease that fails its livechecks."""

    pool: str
    name: str
    reason: str
    since: datetime


class LeaseAnswer(BaseModel):
    """A lease. An unknown value is null, never absent."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_LEASE]})

    id: str
    number: int | None
    state: str
    outcome: str | None
    error: dict[str, str] | None
    owner: str
    cc: list[str]
    description: str | None
    items: list[dict[str, Any]]
    resources: list[LeasedResourceAnswer]
    queue: dict[str, Any] | None
    priority: int
    ticket: str | None
    created_at: datetime | None
    start_at: datetime | None
    active_at: datetime | None
    expires_at: datetime | None
    in_grace: bool
    heartbeat_by: datetime | None
    ended_at: datetime | None
    command: dict[str, Any] | None
    on_end: str
    on_end_reason: str | None
    unverified: bool
    share_key: str | None
    degraded: list[DegradedAnswer]
    temporal_url: str | None


class NewLeaseAnswer(LeaseAnswer):
    """The answer to a request: `token` is good for this lease alone, and shown nowhere else.

    `duplicate`: this is the lease that was there before, with the same command.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**EXAMPLE_LEASE, "token": f"{LEASE_ID}.6f1e…", "duplicate": False}]}
    )

    token: str | None
    duplicate: bool = False


class ListAnswer(BaseModel):
    """A page; `next_cursor` asks for the next one."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class ChangesAnswer(BaseModel):
    """What applying does, or would do."""

    changes: list[dict[str, Any]]


class InstanceAnswer(BaseModel):
    """What is known of a resource that its pool has made: `trouble` is why it is not deleted yet.

    One that a listing found has no `id` and no `id_in_pool`.
    """

    id: int | None
    id_in_pool: int | None
    counters: dict[str, int]
    created_at: datetime
    ready_at: datetime | None
    uses: int
    trouble: str | None


class ResourceAnswer(BaseModel):
    pool: str
    name: str
    state: str
    stage: str | None
    offline: dict[str, Any] | None
    broken: dict[str, Any] | None
    lease: str | None
    epoch: int
    tags: list[str]
    properties: dict[str, Any]
    suspect: bool
    kept_until: datetime | None
    instance: InstanceAnswer | None


class PromiseAnswer(BaseModel):
    """A resource that is free, and promised to a reservation, by its number."""

    lease: int
    pool: str
    name: str
    begins_at: datetime
    ends_at: datetime


class AvailableAnswer(BaseModel):
    """What a new request could get now; `promised` is free too, but not for long enough."""

    open: bool
    reason: str | None
    free: int
    total: int
    next_free_at: datetime | None
    resources: list[ResourceAnswer]
    promised: list[PromiseAnswer]


class ReconcileAnswer(BaseModel):
    """What was written, or would be: the first 1,000 steps, and how many more there were.

    `problems` are what it could not put right; `suspended` is why nothing is granted after it, if that is so.
    """

    run: str
    done: bool
    dry_run: bool | None
    leases: int | None
    recyclings: int | None
    steps: list[dict[str, Any]]
    more: int | None
    problems: list[str]
    suspended: str | None


class DeliveryAnswer(BaseModel):
    """What the holder needs to connect: `data` is the text, or null where the bytes are none.

    `shared` is what hooks for the whole lease delivered, one for each pool that has such a hook.
    """

    lease: str
    resources: list[dict[str, Any]]
    shared: list[dict[str, Any]]


class ScopesAnswer(BaseModel):
    pools: list[str] | None
    read: bool


EXAMPLE_TOKEN: JsonDict = {
    "id": "k3xq7mvd2a5c",
    "user": "ci",
    "role": "user",
    "scopes": {"pools": ["r640"], "read": False},
    "label": "nightly pipeline",
    "created_at": "2026-01-05T09:00:00.000000Z",
    "created_by": "admin",
    "made_with": None,
    "expires_at": "2026-02-04T09:00:00.000000Z",
    "revoked_at": None,
    "revoked_by": None,
    "last_used_at": "2026-01-06T02:00:13.000000Z",
}


class TokenAnswer(BaseModel):
    """A token, without its secret. `made_with` is the id of the token that it was made with, if that has one."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_TOKEN]})

    id: str
    user: str
    role: str
    scopes: ScopesAnswer
    label: str | None
    created_at: datetime
    created_by: str
    made_with: str | None
    expires_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None


class NewTokenAnswer(TokenAnswer):
    """The answer to making a token: `token` is shown nowhere else, and never again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE_TOKEN, "token": "lh_k3xq7mvd2a5c_…"}]})

    token: str


class UserAnswer(BaseModel):
    """A user who logs in with a password, without that."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "joe@example.com",
                    "role": "user",
                    "created_at": "2026-01-05T09:00:00.000000Z",
                    "created_by": "admin",
                    "password_at": "2026-01-05T09:00:00.000000Z",
                    "disabled_at": None,
                    "disabled_by": None,
                }
            ]
        }
    )

    name: str
    role: str
    created_at: datetime
    created_by: str
    password_at: datetime
    disabled_at: datetime | None
    disabled_by: str | None


class WhoamiAnswer(BaseModel):
    """The caller: `token` is the id of a user's token, `lease` that of the lease whose own token was sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user": "ci",
                    "role": "user",
                    "scopes": {"pools": ["r640"], "read": False},
                    "expires_at": "2026-02-04T09:00:00.000000Z",
                    "token": "k3xq7mvd2a5c",
                    "lease": None,
                }
            ]
        }
    )

    user: str
    role: str | None
    scopes: ScopesAnswer
    expires_at: datetime | None
    token: str | None
    lease: str | None
