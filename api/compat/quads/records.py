"""Leases and resources as QUADS shows them: assignments, schedules, hosts, clouds, VLANs, moves.

An assignment is a lease that has an environment. QUADS numbers everything: an assignment has the number of its lease, a
schedule is the nth resource of one, and a host or a cloud has a number made of its name.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from api.compat.quads.naming import Naming
from leasehold.model import NOT_FOR_SELF_SERVICE, OVER, Lease, LeasedResource, LeaseState, Resource, StageName
from leasehold.quads import DESCRIBED, PARTS, VLAN

Record = dict[str, Any]

_MOST_SCHEDULES = 100_000
_PROVISIONED = frozenset({StageName.VALIDATE, StageName.DELIVER})
_MOVES: Mapping[str | None, str] = {
    None: "pending",
    StageName.WIPE: "hardware_prep",
    StageName.PROVISION: "provisioning",
    StageName.CONFIGURE: "switch_config",
    StageName.VALIDATE: "validation",
    StageName.DELIVER: "post_install",
}


def time(at: datetime | None) -> str | None:
    """A time as QUADS writes it: `Tue, 30 Apr 2024 12:07:05 GMT`."""
    return None if at is None else format_datetime(at.astimezone(UTC), usegmt=True)


def since(epoch: int) -> datetime:
    """When a resource got this epoch, which counts milliseconds unless the clock went back."""
    return datetime.fromtimestamp(epoch / 1000, UTC)


def number(kind: str, name: str) -> int:
    """A number for a name, always the same. Nothing is found by it."""
    return zlib.crc32(f"{kind}/{name}".encode()) or 1


def short(user: str) -> str:
    """A user as QUADS names owners: a mail address without its domain."""
    return user.partition("@")[0]


@dataclass(frozen=True)
class Assignment:
    """A lease that has an environment. `hosts` are all that it has, or, once it is over, had."""

    lease: Lease
    cloud: LeasedResource
    vlan: LeasedResource | None
    hosts: tuple[tuple[int, LeasedResource], ...]

    @classmethod
    def of(cls, lease: Lease, naming: Naming) -> Assignment | None:
        """The assignment that a lease is, if it is one."""
        over = lease.state in OVER
        there = [(place, one) for place, one in enumerate(lease.resources, 1) if over or one.state != "released"]
        clouds = [one for _, one in there if one.pool == naming.clouds]
        vlans = [one for _, one in there if one.pool == naming.vlans]
        hosts = tuple((place, one) for place, one in there if naming.is_host(one.pool))
        if lease.number is None or not clouds:
            return None
        return cls(lease, clouds[0], vlans[0] if vlans else None, hosts)

    @property
    def number(self) -> int:
        """What QUADS calls its id."""
        assert self.lease.number is not None
        return self.lease.number

    @property
    def active(self) -> bool:
        return self.lease.state not in OVER

    @property
    def validated(self) -> bool:
        """Whether all of its hosts are ready, and there are some."""
        ready = bool(self.hosts) and all(host.state == "ready" for _, host in self.hosts)
        return ready and self.lease.state is LeaseState.ACTIVE

    @property
    def provisioned(self) -> bool:
        """Whether all of its hosts have come as far as their validation."""
        return bool(self.hosts) and all(_is_provisioned(host) for _, host in self.hosts)

    @property
    def options(self) -> Mapping[str, Any]:
        """What it was asked for with."""
        return self.lease.items[self.cloud.item].params

    @property
    def ticket(self) -> str | None:
        """The URL that an `admit` hook gave it, or what it was asked for with."""
        named: str | None = self.options.get("ticket")
        return self.lease.ticket or named


def _is_provisioned(host: LeasedResource) -> bool:
    return host.state == "ready" or (host.state == "preparing" and host.stage in _PROVISIONED)


def assignment(one: Assignment) -> Record:
    """An assignment."""
    options = one.options
    shown: Record = {
        "active": one.active,
        "boot_order": options.get("boot_order"),
        "ccuser": list(one.lease.cc),
        "cloud": cloud(one.cloud.name, one.cloud.epoch),
        "cloud_id": number("cloud", one.cloud.name),
        "created_at": time(one.lease.created_at),
        "description": one.lease.description,
        "id": one.number,
        "is_self_schedule": one.lease.self_service,
        "notification": _notification(one),
        "ostype": options.get("ostype"),
        "owner": short(one.lease.owner),
        "provisioned": one.provisioned,
        "qinq": options.get("qinq", 0),
        "ticket": one.ticket,
        "validated": one.validated,
        "vlan_id": None,
        "wipe": options.get("wipe", True),
    }
    if one.vlan is not None:
        shown["vlan"] = vlan(one.vlan.name, one.vlan.properties)
        shown["vlan_id"] = shown["vlan"]["id"]
    return shown


def _notification(one: Assignment) -> Record:
    failed = any(host.state == "broken" for _, host in one.hosts)
    unsent = dict.fromkeys(("initial", "one_day", "pre", "pre_initial", "three_days", "five_days", "seven_days"), False)
    return {**unsent, "id": one.number, "assignment_id": one.number, "fail": failed, "success": one.validated}


def cloud(name: str, epoch: int | None) -> Record:
    """An environment, and since when it has been as it is."""
    redefined = None if epoch is None else time(since(epoch))
    return {"id": number("cloud", name), "last_redefined": redefined, "name": name}


def vlan(name: str, properties: Mapping[str, Any]) -> Record:
    """A VLAN, which is named by its number."""
    tag = int(name) if name.isascii() and name.isdecimal() else number("vlan", name)
    return {"id": tag, "vlan_id": tag, **{key: properties.get(key) for key in VLAN}}


def host(resource: Resource, holder: Assignment | None, naming: Naming) -> Record:
    """A host, and the environment that it is in."""
    properties, name = resource.properties, resource.name
    held = (
        next((one for _, one in holder.hosts if (one.pool, one.name) == (resource.pool, name)), None)
        if holder
        else None
    )
    ready = held is not None and held.state == "ready"
    home = str(properties.get("default_cloud") or naming.spare)
    place = cloud(holder.cloud.name, holder.cloud.epoch) if holder and held else cloud(home, None)
    mine = number("host", name)
    return {
        **{key: properties.get(key) for key in DESCRIBED},
        **{part: _parts(part, properties.get(part), mine) for part in PARTS},
        "broken": resource.broken is not None or resource.offline is not None,
        "build": ready,
        "can_self_schedule": not NOT_FOR_SELF_SERVICE.items() <= properties.items(),
        "cloud": place,
        "cloud_id": place["id"],
        "created_at": None,
        "default_cloud": cloud(home, None),
        "default_cloud_id": number("cloud", home),
        "id": mine,
        "last_build": None,
        "name": name,
        "overcloud": False,
        "retired": False,
        "switch_config_applied": ready,
        "validated": ready,
    }


def _parts(kind: str, described: Any, of: int) -> list[Record]:
    found = [one for one in described if isinstance(one, Mapping)] if isinstance(described, Sequence) else []
    return [
        {**{key: one.get(key) for key in PARTS[kind]}, "id": place, "host_id": of} for place, one in enumerate(found, 1)
    ]


def schedule(of: Assignment, place: int, held: LeasedResource, shown: Record) -> Record:
    """The time for which an assignment has a host, whose record is `shown`."""
    lease = of.lease
    return {
        "assignment": assignment(of),
        "assignment_id": of.number,
        "build_end": None,
        "build_start": time(since(held.epoch)),
        "created_at": time(since(held.epoch)),
        "end": time(lease.ended_at or lease.expires_at),
        "host": shown,
        "host_id": shown["id"],
        "id": of.number * _MOST_SCHEDULES + place,
        "start": time(since(held.epoch)),
    }


def parts_of_schedule(schedule: int) -> tuple[int, int]:
    """The assignment of a schedule, and its place there."""
    return divmod(schedule, _MOST_SCHEDULES)


def move(of: Assignment, place: int, held: LeasedResource, naming: Naming) -> Record:
    """How far a host is on its way into an environment."""
    failed = held.state == "broken"
    return {
        "completed_at": None,
        "error_message": "the host failed, and waits for its repair" if failed else None,
        "host": held.name,
        "host_id": number("host", held.name),
        "id": of.number * _MOST_SCHEDULES + place,
        "message": f"{held.stage}, attempt {held.attempt}" if held.stage else None,
        "source_cloud": str(held.properties.get("default_cloud") or naming.spare),
        "stage_timestamps": {},
        "started_at": since(held.epoch).isoformat(timespec="seconds"),
        "status": "failed" if failed else _MOVES[held.stage],
        "target_cloud": of.cloud.name,
    }


def summary(name: str, holder: Assignment | None, count: int) -> Record:
    """An environment, who has it, and how many hosts are in it."""
    return {
        "ccuser": list(holder.lease.cc) if holder else "",
        "count": count,
        "description": holder.lease.description if holder else "Available",
        "name": name,
        "owner": short(holder.lease.owner) if holder else "",
        "provisioned": holder is not None and holder.provisioned,
        "ticket": (holder.ticket or "") if holder else "",
        "validated": holder is not None and holder.validated,
    }
