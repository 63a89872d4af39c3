"""Filters in a query string of QUADS: each field with its own operator, on fields that there are, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.compat.quads.records import Record
from leasehold import selector
from leasehold.errors import BadFilter
from leasehold.quads import DESCRIBED, PARTS
from leasehold.selector import Condition

_OPERATORS = ("ne", "lt", "lte", "gt", "gte", "like", "ilike", "in")
_TRUE = frozenset({"true", "y", "yes", "1"})
NULL = "null"


@dataclass(frozen=True)
class Fields:
    """The fields of a record: those that are plain, those that are yes or no, and those of its parts."""

    plain: frozenset[str]
    flags: frozenset[str]
    parts: Mapping[str, Sequence[str]]

    def has(self, path: Sequence[str]) -> bool:
        """Whether there is such a field."""
        if len(path) == 1:
            return path[0] in self.plain or path[0] in self.flags
        return path[1] in self.parts.get(path[0], ())


HOST = Fields(
    plain=frozenset({*DESCRIBED, "name", "id", "cloud", "cloud_id", "default_cloud", "default_cloud_id", "created_at",
                     "last_build"}),
    flags=frozenset({"broken", "build", "can_self_schedule", "overcloud", "retired", "switch_config_applied",
                     "validated"}),
    parts=PARTS,
)  # fmt: skip
CLOUD = Fields(plain=frozenset({"id", "name", "last_redefined"}), flags=frozenset(), parts={})
ASSIGNMENT = Fields(
    plain=frozenset({"id", "description", "owner", "ticket", "qinq", "ccuser", "ostype", "boot_order", "cloud",
                     "cloud_id", "vlan", "vlan_id", "created_at"}),
    flags=frozenset({"active", "provisioned", "validated", "wipe", "is_self_schedule"}),
    parts={},
)  # fmt: skip


def conditions(query: Iterable[tuple[str, str]], fields: Fields) -> tuple[Condition, ...]:
    """The conditions of a query string; raise `BadFilter` in QUADS's words."""
    return tuple(_condition(key, value, fields) for key, value in query)


def _condition(key: str, value: str, fields: Fields) -> Condition:
    name, operator, op = key.rpartition("__")
    if not operator:
        name, op = key, "eq"
    elif op not in _OPERATORS:
        raise BadFilter(f"__{op} is not a valid operator.")
    path = name.split(".")
    if len(path) > 2:
        raise BadFilter(f"Too many arguments: {path}")
    if not fields.has(path):
        raise BadFilter(f"{key} is not a valid field.")
    if path[0] in fields.flags and value != NULL:
        value = "true" if value.lower() in _TRUE else "false"
    return selector.parse(f"{name}{operator}{op if operator else ''}={value}")


def satisfies(wanted: Sequence[Condition], record: Record) -> bool:
    """Whether a record satisfies all conditions. What a record has of clouds and VLANs is compared by name."""
    named: dict[str, Any] = {**record}
    for key in ("cloud", "default_cloud"):
        if isinstance(record.get(key), Mapping):
            named[key] = record[key]["name"]
    if isinstance(record.get("vlan"), Mapping):
        named["vlan"] = record["vlan"]["vlan_id"]
    nulls = [one for one in wanted if one.value == NULL and one.op in {"eq", "ne"}]
    if any(bool(selector.values(one.path, named)) is (one.op == "eq") for one in nulls):
        return False
    return selector.satisfies([one for one in wanted if one not in nulls], named)
