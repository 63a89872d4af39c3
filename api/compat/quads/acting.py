"""What QUADS's users do: get an environment, add hosts to it one by one. Each is a call of the core, and no more."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from api import errors
from api.access import STEER, FoundLease, check_pools
from api.auth import Principal
from api.compat.quads.lab import Lab
from api.compat.quads.records import Assignment
from api.requesting import is_self_service
from api.routes.leases import lease_id, repetition, submit
from api.services import Services
from leasehold.errors import (
    Conflict,
    Invalid,
    LeaseholdError,
    LeaseUnknown,
    NotFree,
    QuotaExceeded,
    Unavailable,
    Unsatisfiable,
    from_code,
)
from leasehold.fields import Tag, Text
from leasehold.messages import AddResources, AdmitLease, Steer, SubmitLease
from leasehold.model import NOT_FOR_SELF_SERVICE, Item, Lease, LeaseState, Resource, ResourceState, StageName

DECIDED_WITHIN_S = 30.0
"""How long an `admit` hook, or a worker that is about to come, may take."""

_WORDS = {"true": True, "y": True, "yes": True, "false": False, "n": False, "no": False, "": None, "none": None}
"""What QUADS takes for yes, no and nothing said, beside 1 and 0."""


class _Body(BaseModel):
    """QUADS takes fields that it does not know, and leaves them alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class SelfAssignment(_Body):
    """What somebody asks for; the owner is who asks."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"description": "upgrade test", "qinq": 0, "wipe": True}]}
    )

    description: Text | None = None
    cloud: Text | None = None
    vlan: Text | int | bool | None = Field(default=None, description="The VLAN's number, or true for any that is free")
    qinq: int | None = Field(default=None, description="0 or 1; hooks see it")
    wipe: bool | None = Field(default=None, description="false: wiped only where somebody else had the host before")
    cc_user: list[Tag] = Field(default=[], max_length=50)
    ostype: Text | None = None
    boot_order: Text | None = None
    ticket: Text | None = None

    @field_validator("vlan", "qinq", "wipe", mode="before")
    @classmethod
    def _loose(cls, value: object) -> object:
        return _WORDS.get(value.strip().lower(), value) if isinstance(value, str) else value

    @field_validator("cc_user", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        if isinstance(value, str):
            return [word for word in re.split(r"[, ]+", value) if word]
        return [] if value is None else value

    @field_validator("ticket", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value

    @property
    def params(self) -> dict[str, Any]:
        """What hooks are told of it."""
        given = {"ostype": self.ostype, "boot_order": self.boot_order, "ticket": self.ticket}
        wipe = True if self.wipe is None else self.wipe
        return {"qinq": self.qinq or 0, "wipe": wipe, **{key: value for key, value in given.items() if value}}


class NewSchedule(_Body):
    """A host for an environment."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"cloud": "cloud02", "hostname": "host01.example.com"}]})

    cloud: Text | None = None
    hostname: Text | None = None


async def request(body: SelfAssignment, caller: Principal, services: Services, key: str | None) -> Assignment:
    """Lend an environment, and a VLAN if one is wanted, at once or not at all."""
    lab = Lab(services.store, services.quads)
    if not body.description:
        raise Invalid("Missing argument: description")
    items = await _wanted(body, lab)
    check_pools(caller, [item.pool for item in items])
    wanted = SubmitLease(
        lease=lease_id(caller.id, key or uuid.uuid4().hex),
        principal=caller.id,
        owner=caller.name,
        digest=hashlib.sha256(body.model_dump_json().encode()).hexdigest(),
        items=items,
        description=body.description,
        cc=tuple(dict.fromkeys(body.cc_user)),
        self_service=is_self_service(caller, [item.pool for item in items]),
    )
    try:
        if await services.store.request(wanted.lease) is None:
            await _try(wanted, body, lab)
        await submit(wanted, services, repeatable=key is not None)
        lease = await _granted(wanted, caller, services)
    except LeaseholdError as error:
        raise _in_their_words(error) from None
    found = Assignment.of(lease, lab.naming)
    if found is None:
        raise await _not_free(body, lab, lease)
    return found


async def _wanted(body: SelfAssignment, lab: Lab) -> tuple[Item, ...]:
    """The items of a request; raise `ResourceUnknown` where it names what there is not."""
    naming = lab.naming
    if body.cloud == naming.spare:
        raise Invalid(f"Cloud {body.cloud} is not allowed to be used for self scheduling")
    cloud = (await lab.cloud(body.cloud)).name if body.cloud else None
    items = [Item(pool=naming.clouds, names=(cloud,) if cloud else (), params=body.params)]
    if body.vlan is True:
        items.append(Item(pool=naming.vlans, params=body.params))
    elif body.vlan:
        items.append(Item(pool=naming.vlans, names=((await lab.vlan(str(body.vlan))).name,), params=body.params))
    return tuple(items)


async def _try(wanted: SubmitLease, body: SelfAssignment, lab: Lab) -> None:
    """Raise what would refuse a request, or why it would wait: whoever asks QUADS for an environment does not wait."""
    if not await lab.clouds():
        raise NotFree("No free clouds available")
    admitted, lease = await lab.store.try_admission(AdmitLease(request=wanted, age_s=0))
    if admitted.refusal is not None:
        raise from_code(admitted.refusal.code, admitted.refusal.detail, admitted.refusal.faults)
    assert lease is not None
    if lease.state is LeaseState.QUEUED:
        raise await _not_free(body, lab, lease)


async def _granted(wanted: SubmitLease, caller: Principal, services: Services) -> Lease:
    """The lease of a request, once that is decided; one that waits, because another was faster, is ended."""

    async def decided() -> bool:
        return await services.store.state(wanted.lease) is not None

    await services.news.until(wanted.lease, decided, DECIDED_WITHIN_S)
    known = await services.store.request(wanted.lease)
    if known is None:
        await services.gateway.cancel(wanted.lease, Steer(actor=caller.name, reason="not decided in time"))
        raise Unavailable("no worker answers: try again")
    if known.refusal is not None:
        raise errors.refusal(known.refusal)
    lease = await services.store.lease(wanted.lease)
    if lease.state is LeaseState.QUEUED:
        await services.gateway.cancel(wanted.lease, Steer(actor=caller.name, reason="nothing was free at once"))
    return lease


async def _not_free(body: SelfAssignment, lab: Lab, lease: Lease) -> NotFree:
    """Why a request would wait, in QUADS's words and then in ours."""
    if body.cloud and (await lab.cloud(body.cloud)).state is not ResourceState.FREE:
        return NotFree(f"There is an already active assignment for {body.cloud}")
    why = f": {lease.queue.reason}" if lease.queue is not None else ""
    return NotFree(f"No free clouds available{why}")


def _in_their_words(error: LeaseholdError) -> LeaseholdError:
    """A refusal with what QUADS says before what we say."""
    said = {"self_service_closed": "Service not enabled", "limit_reached": "Self scheduling limit reached"}
    said[QuotaExceeded.code] = said["limit_reached"]
    if error.code not in said:
        return error
    return from_code(error.code, f"{said[error.code]}: {error.detail}", error.faults)


async def add_host(
    body: NewSchedule, caller: Principal, services: Services, key: str | None
) -> tuple[Assignment, Resource]:
    """Give an assignment a host, at once or not at all; the first makes it last as long as hosts are lent."""
    lab = Lab(services.store, services.quads)
    for name in ("cloud", "hostname"):
        if not getattr(body, name):
            raise Invalid(f"Missing argument: {name}")
    cloud = await lab.cloud(str(body.cloud))
    mine = await lab.holder(cloud)
    if mine is None:
        raise LeaseUnknown(f"No active assignment for cloud: {cloud.name}")
    found = FoundLease(mine.lease)
    await STEER.check_found(found, caller, services)
    host = await lab.host(str(body.hostname))
    check_pools(caller, [host.pool], "hostname", lease=found)
    if mine.lease.self_service and NOT_FOR_SELF_SERVICE.items() <= host.properties.items():
        raise NotFree(f"Host {host.name} is not allowed to self-schedule")
    addition = AddResources(
        self_service=is_self_service(caller, [host.pool]),
        items=(_item(host, mine),),
        actor=caller.name,
        request=repetition(caller.id, key or uuid.uuid4().hex, body),
        lasting=True,
    )
    answer = await services.gateway.add(mine.lease.id, addition)
    if answer is not None and answer.refusal is not None:
        refusal = answer.refusal
        raise _of_a_host(from_code(refusal.code, refusal.detail, refusal.faults), cloud.name)
    grown = await lab.assignment(mine.lease.id)
    if answer is None or grown is None:
        raise LeaseUnknown(f"No active assignment for cloud: {cloud.name}")
    return grown, await lab.host(host.name)


def _item(host: Resource, of: Assignment) -> Item:
    """A host, with what its assignment was asked for with; whether its wipe may be left out the core decides."""
    skip = () if of.options.get("wipe", True) else (StageName.WIPE,)
    return Item(pool=host.pool, names=(host.name,), params=of.options, skip=skip)


def _of_a_host(error: LeaseholdError, cloud: str) -> LeaseholdError:
    """Why an assignment does not get a host, in QUADS's words and then in ours."""
    if isinstance(error, NotFree | Unsatisfiable):
        # What it has itself is not to be had at all.
        return NotFree(f"Host is not available for the specified date range: {error.detail}")
    if error.code in {QuotaExceeded.code, "limit_reached"}:
        # A limit of hosts is 400 to QUADS's client, that of assignments 403.
        return Conflict(f"Cloud {cloud} has reached the maximum number of hosts: {error.detail}")
    return _in_their_words(error)
