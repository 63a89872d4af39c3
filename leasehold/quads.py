"""Taking a lab over from QUADS: what its API says of hosts, environments and VLANs, as a pools file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leasehold.errors import Fault, Invalid
from leasehold.model import NAME_PATTERN, NOT_FOR_SELF_SERVICE
from leasehold.yaml_text import quoted

PARTS: Mapping[str, tuple[str, ...]] = {
    "interfaces": (
        "name", "bios_id", "mac_address", "switch_ip", "switch_port", "speed", "vendor", "pxe_boot", "maintenance",
    ),
    "disks": ("disk_type", "size_gb", "count"),
    "memory": ("handle", "size_gb"),
    "processors": ("handle", "vendor", "product", "cores", "threads", "processor_type"),
}  # fmt: skip
"""What a host is made of, and what QUADS knows of each part."""
DESCRIBED = ("model", "host_type", "rack", "uloc", "blade", "bootmode")
"""What else it knows of a host."""
VLAN = ("gateway", "ip_free", "ip_range", "netmask")
"""What it knows of a VLAN."""

CLOUDS, VLANS, SPARE = "cloud", "vlan", "cloud01"
"""The pool of environments, that of VLANs, and the environment in which QUADS shows a host that nobody has."""
LISTS = ("hosts", "clouds", "vlans")
"""What is taken over, each the answer of the call of this name."""

FILE = "quads"
"""The name of the pools file: applied again, it changes what it made, and nothing else."""

# What a host is doing in QUADS, and by which numbers it is known there; all else is what the host is.
_NOT_PROPERTIES = frozenset(
    {
        "id", "name", "cloud", "cloud_id", "default_cloud", "default_cloud_id", "build", "validated", "broken",
        "retired", "switch_config_applied", "last_build", "created_at", "can_self_schedule", "overcloud", *PARTS,
    }
)  # fmt: skip
_NUMBERS = frozenset({"id", "host_id"})

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Pools as a pools file has them; what was left out, and why; and the hosts, by pool, that are broken."""

    pools: list[Json] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)


def read(answers: object, spare: str = SPARE) -> Imported:
    """Take over what QUADS answered: an object with `hosts`, `clouds` and `vlans`, or the list of hosts alone.

    Hosts of one model become a pool. Raises `Invalid` where this is no answer of QUADS.
    """
    if isinstance(answers, list):
        answers = {"hosts": answers}
    if not isinstance(answers, Mapping) or not any(isinstance(answers.get(name), list) for name in LISTS):
        detail = "this is no answer of QUADS: a list of hosts, or an object with hosts, clouds and vlans"
        raise Invalid(detail, [Fault(path="", code="not_of_quads", detail=detail)])
    made = Imported()
    for host in _records(answers, "hosts", made):
        _take_host(host, made)
    _take_names(CLOUDS, "environments", _clouds(answers, spare, made), made)
    _take_names(VLANS, "VLANs", _vlans(answers, made), made)
    return made


def _records(answers: Mapping[str, Any], kind: str, made: Imported) -> Iterator[Json]:
    """The records of one list, without those that are none."""
    listed = answers.get(kind)
    for place, one in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(one, dict):
            yield one
        else:
            made.left_out.append(f"{kind}[{place}]: it is no record")


def _take_host(host: Json, made: Imported) -> None:
    name = str(host.get("name"))
    if host.get("retired") is True:
        made.left_out.append(f"host {name}: it is retired")
        return
    pool = _pool_of(host)
    if not _may_be_named(f"host {name}", name, [one for p in made.pools for one in p["resources"]], made):
        return
    _pool(pool, f"Hosts of model {host.get('model')}", made)["resources"].append(
        {"name": name, "properties": _properties(host)}
    )
    if host.get("broken") is True:
        made.broken.append((pool, name))


def _pool_of(host: Json) -> str:
    """The pool of a host's model."""
    word = re.sub(r"[^a-z0-9._-]+", "-", str(host.get("model") or "hosts").lower()).strip("-._")[:100]
    return f"hosts-{word}" if word in {CLOUDS, VLANS, ""} else word


def _properties(host: Json) -> Json:
    """What a host is; what QUADS does not know of it is left out."""
    told = {key: value for key, value in host.items() if key not in _NOT_PROPERTIES and value is not None}
    home = host.get("default_cloud")
    if isinstance(home, Mapping) and home.get("name"):
        told["default_cloud"] = home["name"]
    for part in PARTS:
        described = [_plain(one) for one in host.get(part) or () if isinstance(one, Mapping)]
        if described:
            told[part] = described
    return {**told, **NOT_FOR_SELF_SERVICE} if host.get("can_self_schedule") is False else told


def _plain(part: Mapping[str, Any]) -> Json:
    return {key: value for key, value in part.items() if key not in _NUMBERS and value is not None}


def _clouds(answers: Mapping[str, Any], spare: str, made: Imported) -> Iterator[Json]:
    for cloud in _records(answers, "clouds", made):
        if cloud.get("name") == spare:
            made.left_out.append(f"cloud {spare}: it is where QUADS keeps hosts that nobody has")
        else:
            yield {"name": str(cloud.get("name"))}


def _vlans(answers: Mapping[str, Any], made: Imported) -> Iterator[Json]:
    for vlan in _records(answers, "vlans", made):
        known = {key: vlan[key] for key in VLAN if vlan.get(key) is not None}
        yield {"name": str(vlan.get("vlan_id")), **({"properties": known} if known else {})}


def _take_names(pool: str, what: str, resources: Iterator[Json], made: Imported) -> None:
    for one in resources:
        there: list[Json] = next((p["resources"] for p in made.pools if p["name"] == pool), [])
        if _may_be_named(f"{pool} {one['name']}", one["name"], there, made):
            _pool(pool, f"Names of {what}", made)["resources"].append(one)


def _may_be_named(what: str, name: str, there: Sequence[Json], made: Imported) -> bool:
    """Whether a resource may have this name; otherwise it is left out."""
    reason = None
    if not re.fullmatch(NAME_PATTERN, name) or name == str(None):
        reason = "it has no name that can be used"
    elif any(one["name"] == name for one in there):
        reason = "there is another of this name"
    if reason is not None:
        made.left_out.append(f"{what}: {reason}")
    return reason is None


def _pool(name: str, description: str, made: Imported) -> Json:
    """The pool of this name, made if it was not there."""
    for pool in made.pools:
        if pool["name"] == name:
            return pool
    made.pools.append({"name": name, "description": description, "resources": []})
    return made.pools[-1]


def to_yaml(pools: Sequence[Json]) -> str:
    """A pools file, a line for each property, so that people can go on with it."""
    lines = [f"name: {FILE}", "pools:"]
    for pool in pools:
        lines += [f"- name: {quoted(pool['name'])}", f"  description: {quoted(pool['description'])}", "  resources:"]
        for resource in pool["resources"]:
            lines.append(f"  - name: {quoted(resource['name'])}")
            if resource.get("properties"):
                lines.append("    properties:")
                lines += [f"      {quoted(key)}: {quoted(value)}" for key, value in resource["properties"].items()]
    return "\n".join([*lines, ""]) if pools else f"name: {FILE}\npools: []\n"
