"""The pools file: its schema, and reading it as a whole or not at all.

A bad file is refused with every place that is wrong: the path, and in YAML the line. Unknown keys are errors, so that a
typo never goes unnoticed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import time, timedelta
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from leasehold import naming
from leasehold.command_file import CommandsFile
from leasehold.errors import Fault, Invalid, Malformed
from leasehold.fields import Duration as Duration
from leasehold.fields import Json as Json
from leasehold.fields import Name as Name
from leasehold.fields import Strict as Strict
from leasehold.fields import Tag as Tag
from leasehold.fields import Text as Text
from leasehold.fields import Word
from leasehold.fields import storable as storable
from leasehold.hook_file import HookFile, ListFile, LivecheckFile, Stage
from leasehold.model import (
    ADMIT,
    DEFAULT_NAME_PATTERN,
    KEEP_LOGS,
    NOT_FOR_SELF_SERVICE,
    PREPARE,
    CcMay,
    Extend,
    HolderMay,
    Inventory,
    Lab,
    OnDegraded,
    OnFailure,
    Opening,
    OverQuota,
    Policy,
    PoolSpec,
    Prepare,
    Quota,
    ResourceSpec,
    Reuse,
    Scope,
    SelfService,
    Size,
    StageName,
)
from leasehold.notice_file import ChannelFile, ChannelName
from leasehold.weekly import Weekly

T = TypeVar("T")

_MOST_VALUES, _DEEPEST = 2_000_000, 100
_LONGEST_REASON = 500
_NO_FOLDER = "a relative path needs the key folder"


_LEASE_WIDE = frozenset(PREPARE) - {StageName.WIPE}
"""Stages that can be run once for a whole lease."""


CounterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
"""A part of the name of an environment variable."""


class QuotaFile(Strict):
    """How much there may be at once."""

    leases: int | None = Field(default=None, ge=1, le=1_000_000)
    resources: int | None = Field(default=None, ge=1, le=1_000_000)


def _share(value: object) -> float:
    """A share as people write it: `20%`."""
    text = value if isinstance(value, str) else ""
    digits = text.removesuffix("%")
    if not (text.endswith("%") and digits.isascii() and digits.isdecimal() and int(digits) <= 100):
        raise PydanticCustomError("share", "must be a share of 0% to 100%, like 20%")
    return int(digits) / 100


Share = Annotated[
    float, BeforeValidator(_share, json_schema_input_type=Annotated[str, Field(pattern=r"^(100|[0-9]{1,2})%$")])
]


class WeeklyFile(Strict):
    """A moment of each week, as the clock on the wall shows it."""

    day: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    at: str = Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")
    zone: str = Field(default="UTC", max_length=64, description="An IANA time zone, like Europe/Berlin")

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in available_timezones():
            raise PydanticCustomError("zone_unknown", "there is no time zone {zone}", {"zone": value})
        return value

    def weekly(self) -> Weekly:
        """The moment it describes."""
        return Weekly(day=self.day, at=time.fromisoformat(self.at), zone=self.zone)


class OpenWhenFile(Strict):
    """How much must be free for self-service to be open."""

    free: Share = Field(default=0.0, description="Of all resources that there are")
    free_by: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")], Share] = Field(
        default={}, max_length=10, description="Of those that have the same value of a property, model for example"
    )


class SelfServiceFile(Strict):
    """What those who are no operators may take by themselves."""

    enabled: bool | Literal["auto"] = Field(default="auto", description="auto: while open_when holds")
    open_when: OpenWhenFile = OpenWhenFile()
    per_owner: QuotaFile = Field(default=QuotaFile(), description="What a user may have at once, what waits included")
    per_lease: int | None = Field(default=None, ge=1, le=1_000_000, description="The most resources in one lease")
    default_duration: Duration | None = Field(default=None, description="Of a request that says none")
    max_duration: Duration | None = Field(default=None, description="The most that may be left at any time")
    max_total: Duration | None = Field(default=None, description="The most from delivery to end, extensions included")
    deadline: WeeklyFile | None = Field(
        default=None, description="No lease lasts past the first one after its delivery"
    )
    show: int | None = Field(default=None, ge=0, le=1000, description="How many resources `available` lists at most")
    open_requests: bool = Field(default=False, description="Who requests need not say who they are")

    def self_service(self) -> SelfService:
        """The rule it describes."""
        forced = Opening.ON if self.enabled else Opening.OFF
        return SelfService(
            enabled=Opening.AUTO if self.enabled == "auto" else forced,
            free=self.open_when.free,
            free_by=self.open_when.free_by,
            per_owner=Quota(**self.per_owner.model_dump()),
            per_lease=self.per_lease,
            default_duration=self.default_duration,
            max_duration=self.max_duration,
            max_total=self.max_total,
            deadline=self.deadline.weekly() if self.deadline else None,
            show=self.show,
            open_requests=self.open_requests,
        )


class LabFile(Strict):
    """What holds for all pools together."""

    self_service: SelfServiceFile = SelfServiceFile()
    open_reading: bool = Field(default=False, description="Who does not say who they are may look around")
    open_requests_per_minute: int = Field(
        default=10, ge=1, le=10_000, description="How many open requests one address may make"
    )

    def lab(self) -> Lab:
        """What it describes."""
        return Lab(
            self_service=self.self_service.self_service(),
            open_reading=self.open_reading,
            open_requests_per_minute=self.open_requests_per_minute,
        )


class PolicyFile(Strict):
    """What the pool allows."""

    default_duration: Duration = Field(default=timedelta(hours=1), description="Of a request that says none")
    max_duration: Duration | None = Field(default=None, description="The most that may be left at any time")
    max_total: Duration | None = Field(default=None, description="The most from delivery to end, extensions included")
    extend: Extend = Field(default=Extend.ALWAYS, description="When a holder may extend")
    auto_extend: Duration | None = Field(
        default=None, description="At its end a lease is extended by this, while nobody waits and max_total allows it"
    )
    warn_before: list[Duration] = Field(default=[], max_length=20, description="How long before its end to warn")
    grace: Duration | None = Field(default=None, description="How long an expired lease can still be revived")
    on_failure: OnFailure = Field(default=OnFailure.REPLACE, description="When a resource fails its stages")
    replacements: int = Field(default=3, ge=0, le=1000, description="How many failed resources a lease has replaced")
    on_degraded: OnDegraded = Field(
        default=OnDegraded.TELL,
        description="Where a leased resource fails its livechecks",
    )
    reuse: Reuse = Field(
        default=Reuse.SAME_KEY, description="Who may have what the pool has made after its first holder"
    )
    reuse_window: Duration | None = Field(
        default=None, description="How long what is given back is kept for a lease with the same share_key"
    )
    reuse_count: int | None = Field(
        default=None, ge=0, le=1_000_000, description="How many more leases what the pool has made may serve"
    )
    reuse_time: Duration | None = Field(
        default=timedelta(hours=1), description="How long after its first grant it may be granted again; null: for ever"
    )
    prepare: Prepare = Field(default=Prepare.ON_DEMAND, description="When resources go through their stages")
    prepare_timeout: Duration = Field(
        default=timedelta(hours=2), description="From the first grant to delivery; then everything is given back"
    )
    on_release: list[StageName] | None = Field(
        default=None,
        description="The stages that a resource goes through after a lease: release, and with prepare: ahead all but"
        " deliver",
    )
    keep_logs: Duration = Field(default=KEEP_LOGS, description="Then what its hooks printed is deleted")
    fair_share: bool = Field(
        default=False, description="At the same priority who holds least goes first, then who was served longest ago"
    )
    overtakes: int = Field(
        default=16, ge=0, le=1_000_000, description="How many later requests may be served before a blocked one"
    )
    starve_after: Duration = Field(
        default=timedelta(hours=1),
        description="Who has waited so long is overtaken no more: what it needs is held for it",
    )
    per_owner: QuotaFile = Field(default=QuotaFile(), description="What each owner may have of the pool at once")
    at_once: QuotaFile = Field(default=QuotaFile(), description="What all owners together may have of it at once")
    per_lease: int | None = Field(default=None, ge=1, le=1_000_000, description="The most resources of it in one lease")
    over_quota: OverQuota = Field(default=OverQuota.QUEUE, description="A request beyond a quota waits, or is refused")
    auto_extend_free: Share = Field(
        default=0.0, description="The share of the pool that must be free for auto_extend to extend a lease"
    )
    cc_may: list[CcMay] = Field(default=[], max_length=10, description="What those in a lease's cc may do with it")
    holder_may: list[HolderMay] = Field(
        default=[],
        max_length=10,
        description="What holders who are no operators may do: offline, keep it out afterwards",
    )
    self_service: SelfServiceFile | None = Field(
        default=None, description="What those who are no operators may take by themselves"
    )

    @field_validator("on_release")
    @classmethod
    def _after_lease(cls, value: list[StageName] | None) -> list[StageName] | None:
        for stage in value or ():
            if stage not in PREPARE and stage is not StageName.RELEASE:
                raise PydanticCustomError("stage", "{stage} is no stage after a lease", {"stage": str(stage)})
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for limit, name in ((self.max_duration, "max_duration"), (self.max_total, "max_total")):
            if limit is not None and self.default_duration > limit:
                raise PydanticCustomError("too_long", "default_duration is longer than {name}", {"name": name})
        return self

    def policy(self) -> Policy:
        """The policy it describes."""
        plain = {name: getattr(self, name) for name in type(self).model_fields}
        plain["warn_before"] = tuple(sorted(self.warn_before, reverse=True))
        plain |= {name: Quota(**getattr(self, name).model_dump()) for name in ("per_owner", "at_once")}
        plain["on_release"] = None if self.on_release is None else tuple(self.on_release)
        plain["cc_may"] = tuple(self.cc_may)
        plain["holder_may"] = tuple(self.holder_may)
        plain["self_service"] = self.self_service.self_service() if self.self_service else None
        return Policy(**plain)


class TagFile(Strict):
    """A tag with its priority."""

    name: Tag
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000, description="Higher is preferred")


def _tags(value: object) -> object:
    """Tags as people write them, each with its priority."""
    return [{"name": tag} if isinstance(tag, str) else tag for tag in value] if isinstance(value, list) else value


PoolTags = Annotated[
    list[TagFile], Field(max_length=100), BeforeValidator(_tags, json_schema_input_type=list[Tag | TagFile])
]


def _name_pattern(value: str, pool: str = "p") -> str:
    """A pattern whose names are names; any other raises pydantic's error."""
    try:
        naming.check(value, pool)
    except ValueError as error:
        raise PydanticCustomError("name_pattern", "{reason}", {"reason": str(error)}) from None
    return value


class SizeFile(Strict):
    """How many resources a dynamic pool has."""

    max: int = Field(default=4, ge=0, le=100_000, description="So many exist at most, whatever their state")
    max_creating: int = Field(default=1, ge=1, le=10_000, description="So many are being created at once")
    min_free: int = Field(default=0, ge=0, le=100_000, description="So many are kept free for whoever comes")
    create_delay: Duration | None = Field(default=None, description="At least so long from one creation to the next")
    idle: Duration | None = Field(
        default=None, description="How long one beyond min_free may stay free; then, or at once, it is deleted"
    )
    age: Duration | None = Field(default=None, description="One that is older is granted no more, and deleted")
    keep_broken: int = Field(default=0, ge=0, le=100_000, description="So many that failed are kept to be looked at")
    keep_broken_for: Duration = Field(default=timedelta(days=1), description="And for so long")

    def size(self) -> Size:
        """The size it describes."""
        return Size(**{name: getattr(self, name) for name in type(self).model_fields})


class ResourceFile(Strict):
    """A static resource."""

    name: Name
    tags: list[Tag] = Field(default=[], max_length=100)
    properties: Json = Field(default={})
    self_service: bool = Field(default=True, description="Whether those who are no operators may lend it")

    def spec(self) -> ResourceSpec:
        """The resource it describes."""
        properties = self.properties if self.self_service else {**self.properties, **NOT_FOR_SELF_SERVICE}
        return ResourceSpec(name=self.name, tags=tuple(self.tags), properties=properties)


class PoolFile(Strict):
    """A pool and its resources."""

    name: Name
    description: Text = ""
    site: Name | None = Field(default=None, description="Only workers of this site run its hooks")
    admit: Stage | None = Field(
        default=None,
        description="Asked about each request before it is admitted: it may refuse it, or give it a ticket",
    )
    resources: list[ResourceFile] = Field(default=[])
    wipe: Stage | None = None
    provision: Stage | None = None
    configure: Stage | None = None
    validate_: Stage | None = Field(default=None, alias="validate")
    deliver: Stage | None = None
    release: Stage | None = None
    create: Stage | None = Field(default=None, description="Makes a resource: the pool is a dynamic one")
    delete: Stage | None = Field(default=None, description="Deletes one; tried again until it works")
    livecheck: LivecheckFile | None = None
    list_: ListFile | None = Field(default=None, alias="list")
    size: SizeFile | None = Field(default=None, description="Of a dynamic pool")
    tags: PoolTags = Field(default=[], description="Of all of its resources, with priorities")
    tags_on_demand: PoolTags = Field(
        default=[], description="Of a dynamic pool that creates only for requests with one of these tags"
    )
    properties: Json = Field(default={}, description="Of all resources of a dynamic pool")
    name_pattern: Annotated[str, Field(max_length=200), AfterValidator(lambda value: _name_pattern(value))] = Field(
        default=DEFAULT_NAME_PATTERN, description="Of resources that the pool makes"
    )
    named_counters: list[CounterName] = Field(
        default=[], max_length=20, description="Of which each resource gets the lowest free number, across pools"
    )
    cost_per_hour: float | None = Field(default=None, ge=0, le=1e9, description="Of one resource, in any currency")
    priority: int = Field(default=0, ge=-(2**31), lt=2**31, description="Lower is cheaper, and goes first")
    policy: PolicyFile = PolicyFile()
    commands: CommandsFile | None = Field(
        default=None, description="What leases of it may run; without it admins' commands alone"
    )
    notices: dict[ChannelName, ChannelFile | None] = Field(
        default={}, max_length=100, description="Channels beside the file's, or in the place of one; null: not this one"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _check_distinct([r.name for r in self.resources], "resource")
        for stage, hooks in self.stages().items():
            if stage not in _LEASE_WIDE and any(hook.scope is Scope.LEASE for hook in hooks):
                raise PydanticCustomError("scope", "{stage} has no scope lease", {"stage": str(stage)})
        if any(hook.scope is Scope.LEASE or hook.limit for hook in self.admit or ()):
            raise PydanticCustomError("scope", "admit has neither scope nor limit: it is asked once for each request")
        _check_distinct([tag.name for tag in (*self.tags, *self.tags_on_demand)], "tag")
        _check_distinct(list(self.named_counters), "counter")
        return self

    @model_validator(mode="after")
    def _of_one_sort(self) -> Self:
        """A pool makes its resources, or it is told them."""
        if self.create is None:
            for name, key in _DYNAMIC.items():
                if name in self.model_fields_set:
                    raise PydanticCustomError("not_dynamic", "{key} needs create", {"key": key})
        elif self.resources:
            raise PydanticCustomError("dynamic", "a pool with create has no resources of its own")
        else:
            _name_pattern(self.name_pattern, self.name)
        return self

    def stages(self) -> Mapping[StageName, tuple[HookFile, ...]]:
        """The hooks of each stage that the pool has."""
        found: dict[StageName, tuple[HookFile, ...]] = {}
        for name in StageName:
            hooks: list[HookFile] | HookFile | None = getattr(self, _FIELDS.get(name, name))
            if hooks is not None:
                found[name] = (hooks,) if isinstance(hooks, HookFile) else tuple(hooks)
        return found

    def spec(self, folder: str | None, notices: Mapping[str, ChannelFile]) -> PoolSpec:
        """The pool it describes, its hooks starting in `folder`, with the channels of its file."""
        channels = {**notices, **self.notices}
        return PoolSpec(
            name=self.name,
            description=self.description,
            priority=self.priority,
            folder=folder,
            site=self.site,
            stages={name: tuple(h.hook() for h in hooks) for name, hooks in self.stages().items()},
            policy=self.policy.policy(),
            admit=tuple(h.hook() for h in self.admit or ()),
            notices={name: one.channel(folder) for name, one in channels.items() if one is not None},
            tags={tag.name: tag.priority for tag in self.tags},
            tags_on_demand={tag.name: tag.priority for tag in self.tags_on_demand},
            properties=self.properties,
            size=(self.size or SizeFile()).size(),
            name_pattern=self.name_pattern,
            named_counters=tuple(self.named_counters),
            livecheck=self.livecheck.cadence() if self.livecheck else None,
            listing=self.list_.cadence() if self.list_ else None,
            cost_per_hour=self.cost_per_hour,
            commands=self.commands.policy() if self.commands else None,
        )

    def resource_specs(self) -> tuple[ResourceSpec, ...]:
        """The resources that it has of its own, with the tags of all."""
        own = [resource.spec() for resource in self.resources]
        common = [tag.name for tag in self.tags]
        return tuple(replace(one, tags=tuple(dict.fromkeys((*common, *one.tags)))) for one in own)


_FIELDS = {StageName.VALIDATE: "validate_", StageName.LIST: "list_"}
"""Of stages whose own names would hide something."""

_DYNAMIC = {
    "delete": "delete",
    "list_": "list",
    "size": "size",
    "tags_on_demand": "tags_on_demand",
    "properties": "properties",
    "name_pattern": "name_pattern",
    "named_counters": "named_counters",
    "cost_per_hour": "cost_per_hour",
}
"""What only a dynamic pool has, by its fields."""


class PoolsFile(Strict):
    """A pools file."""

    name: Name = Field(default="default", description="Tells files apart: each owns what it made")
    folder: Word | None = Field(default=None, pattern="^/", description="Where hooks start; absolute, on the workers")
    limits: dict[Name, Annotated[int, Field(ge=1, le=100_000)]] = Field(
        default={}, max_length=1000, description="Named limiters, shared by all pools, with how many slots each has"
    )
    lab: LabFile | None = Field(default=None, description="What holds for all pools together; one file says it")
    notices: dict[ChannelName, ChannelFile] = Field(
        default={}, max_length=100, description="Over what people are told of their leases, in each of its pools"
    )
    pools: list[PoolFile]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _check_distinct([p.name for p in self.pools], "pool")
        return self


def _check_distinct(names: list[str], kind: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PydanticCustomError("duplicate", "the {kind} {name} is there twice", {"kind": kind, "name": name})
        seen.add(name)


def load_yaml(text: bytes, folder: str | None = None) -> Inventory:
    """Read a pools file; raise `Malformed` if it is no YAML, `Invalid` with all faults and their lines otherwise."""
    return read_yaml(text, lambda plain: load(plain, folder))


def read_yaml(text: bytes, read: Callable[[object], T]) -> T:
    """Read a file in YAML; raise `Malformed` if it is none, `Invalid` as `read` does, with the lines of its faults."""
    try:
        if b"<<" in text:
            # Merging is done while the file is built, and can take longer than anybody waits.
            _check_merged(YAML(typ="safe").compose(io.BytesIO(text)))
        plain = YAML(typ="safe").load(io.BytesIO(text))
    except (YAMLError, ValueError, RecursionError) as error:
        # ValueError: bytes that are no text, and words that look like a date or number and are none.
        raise Malformed(_yaml_reason(error)) from None
    _check_size(plain)
    try:
        return read(plain)
    except Invalid as error:
        # Only a bad file is read again with its lines, which takes much longer.
        marked = YAML(typ="rt").load(io.BytesIO(text))
        faults = [_with_line(fault, marked) for fault in error.faults]
        raise Invalid(faults[0].detail if faults else error.detail, faults) from None


def load_json(text: bytes, folder: str | None = None) -> Inventory:
    """Read a pools file in JSON; raise like `load_yaml`, without lines."""
    try:
        plain = json.loads(text, object_pairs_hook=_distinct_keys)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is no JSON: {error}"[:_LONGEST_REASON]) from None
    _check_size(plain)
    return load(plain, folder)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def load(plain: object, folder: str | None = None) -> Inventory:
    """Validate what a pools file says; `folder` is used where the file names none."""
    try:
        file = PoolsFile.model_validate(plain)
    except ValidationError as error:
        raise as_invalid(error.errors(include_url=False, include_context=False, include_input=False)) from None
    return inventory(file, folder)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a pools file, for editors."""
    return PoolsFile.model_json_schema(by_alias=True)


def inventory(file: PoolsFile, folder: str | None = None) -> Inventory:
    """What a validated file describes; raise `Invalid` where a relative hook has no folder to start in."""
    folder = file.folder or folder
    if folder is None:
        _check_no_relative(file)
    pools = tuple((p.spec(folder, file.notices), p.resource_specs()) for p in file.pools)
    lab = file.lab.lab() if file.lab else None
    return Inventory(name=file.name, limits=file.limits, lab=lab, pools=pools)


_TOO_LARGE = f"the file has more than {_MOST_VALUES} values, or nests them over {_DEEPEST} deep"


def _check_merged(root: Any) -> None:
    """Raise `Malformed` where a file is too large with all that its aliases stand for; of composed nodes."""
    sizes: dict[int, int] = {}

    def size(node: Any, depth: int) -> int:
        if depth > _DEEPEST:
            raise Malformed(_TOO_LARGE)
        below = getattr(node, "value", None)
        if not isinstance(below, list):
            return 1
        if id(node) not in sizes:
            # One that contains itself has no size.
            sizes[id(node)] = _MOST_VALUES + 1
            parts = [part for one in below for part in (one if isinstance(one, tuple) else (one,))]
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(node)]

    if size(root, 0) > _MOST_VALUES:
        raise Malformed(_TOO_LARGE)


def _check_size(plain: object) -> None:
    """Raise `Malformed` where aliases make a small file into an endless one, or nesting goes too deep."""
    left = _MOST_VALUES
    unseen: list[tuple[object, int]] = [(plain, 0)]
    while unseen:
        value, depth = unseen.pop()
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise Malformed(_TOO_LARGE)
        if isinstance(value, dict):
            unseen.extend((below, depth + 1) for below in value.values())
        elif isinstance(value, list):
            unseen.extend((below, depth + 1) for below in value)


def _check_no_relative(file: PoolsFile) -> None:
    faults = [
        Fault(path=f"pools[{i}].{stage}", code="folder_missing", detail=_NO_FOLDER)
        for i, pool in enumerate(file.pools)
        for stage, hooks in [*pool.stages().items(), (ADMIT, pool.admit or ())]
        if any(hook.relative for hook in hooks)
    ]
    channels: list[tuple[str, ChannelFile | None]] = [(f"notices.{name}", one) for name, one in file.notices.items()]
    for i, pool in enumerate(file.pools):
        channels += [(f"pools[{i}].notices.{name}", one) for name, one in pool.notices.items()]
    faults += [
        Fault(path=f"{place}.url_file", code="folder_missing", detail=_NO_FOLDER)
        for place, channel in channels
        if channel is not None and channel.relative
    ]
    if faults:
        raise Invalid(faults[0].detail, faults)


def as_invalid(errors: Sequence[Mapping[str, Any]], skip: int = 0) -> Invalid:
    """Pydantic's errors as ours; `skip` leading parts of each path are left out."""
    faults = []
    for one in errors:
        path = path_of(one["loc"][skip:])
        code, detail = _PLAINER.get(one["type"], (one["type"], one["msg"]))
        faults.append(Fault(path=path, code=code, detail=f"{path}: {detail}" if path else detail))
    return Invalid(faults[0].detail, faults)


_PLAINER = {
    "extra_forbidden": ("unknown_field", "there is no such field"),
    "missing": ("missing", "this field is needed"),
    "model_type": ("not_an_object", "must be an object with fields"),
    "model_attributes_type": ("not_an_object", "must be an object with fields"),
    "list_type": ("not_a_list", "must be a list"),
}
"""Pydantic's types of errors whose words are about Python, in words about the request."""


def path_of(location: tuple[int | str, ...]) -> str:
    """`("pools", 0, "wipe")` as `pools[0].wipe`; the names of pydantic's own alternatives are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in {"line", "arguments"}:
            path += f".{part}" if path else part
    return path


def _with_line(fault: Fault, marked: Any) -> Fault:
    """Add the line of the deepest part of the fault's path that the file has."""
    line, here = 1, marked
    for part in fault.path.replace("[", ".[").split("."):
        key: Any = int(part[1:-1]) if part.startswith("[") else part
        if key == 0 and isinstance(here, Mapping):
            # A single hook, written without its list.
            continue
        try:
            line = here.lc.data[key][0] + 1
            here = here[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return Fault(path=fault.path, code=fault.code, detail=f"line {line}: {fault.detail}")


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"[:_LONGEST_REASON]
    return f"the file is no YAML: {error}"[:_LONGEST_REASON]
