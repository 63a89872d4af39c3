"""Self-service: what those who are no operators may take by themselves. Pure.

There is a rule for the whole lab, and each pool may have one of its own; both must allow what is asked. What an
operator forced at run time goes before what a rule says of being open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from leasehold.errors import Fault, LimitReached
from leasehold.model import FOR_SELF_SERVICE, Forced, Item, Opening, Policy, SelfService

FREE_TO_ALL = SelfService(enabled=Opening.ON)
"""The rule where none is written down."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many of some resources are free to be lent, of how many there are."""

    free: int = 0
    total: int = 0

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(free=self.free + other.free, total=self.total + other.total)

    def is_below(self, share: float) -> bool:
        """Whether less than this share is free."""
        return self.free < share * self.total

    def __str__(self) -> str:
        return f"{self.free} of {self.total} free"


def closed(rule: SelfService, forced: Forced | None, capacity: Capacity, where: str) -> str | None:
    """Why self-service is closed `where` a rule holds, or None."""
    if forced is not None and forced.opening is not Opening.AUTO:
        return (
            None if forced.opening is Opening.ON else f"self-service {where} is closed by {forced.by}: {forced.reason}"
        )
    if rule.enabled is Opening.OFF:
        return f"self-service {where} is closed"
    if rule.enabled is Opening.AUTO and capacity.is_below(rule.free):
        return f"self-service {where} is closed while less than {rule.free:.0%} is free: {capacity}"
    return None


@dataclass(frozen=True, kw_only=True)
class Scarce:
    """Resources of a pool, or of all (None), that have a property in common and of which too little is free: `why`."""

    pool: str | None
    path: str
    value: str
    why: str

    @property
    def without(self) -> str:
        """The filter that leaves them out."""
        return f"{self.path}__ne={self.value}"

    def concerns(self, pool: str | None) -> bool:
        """Whether something of a pool, or of any pool (None), may be one of them."""
        return self.pool is None or pool is None or self.pool == pool


def scarce(
    rule: SelfService, forced: Forced | None, pool: str | None, by_value: Mapping[str, Mapping[str, Capacity]]
) -> list[Scarce]:
    """Of which values of which properties too little is free, of a pool or of all."""
    if rule.enabled is not Opening.AUTO or (forced is not None and forced.opening is Opening.ON):
        return []
    return [
        Scarce(pool=pool, path=path, value=value, why=f"of {path}={value} less than {share:.0%} is free: {capacity}")
        for path, share in rule.free_by.items()
        for value, capacity in sorted(by_value.get(path, {}).items())
        if capacity.is_below(share)
    ]


def narrowed(items: Iterable[Item], scarce: Sequence[Scarce] = ()) -> tuple[Item, ...]:
    """Items as those may have them who are no operators: nothing that is not for them, nothing of what is scarce."""

    def one(item: Item) -> Item:
        filters = (FOR_SELF_SERVICE, *(few.without for few in scarce if few.concerns(item.pool)))
        return replace(item, match=(*item.match, *(text for text in filters if text not in item.match)))

    return tuple(map(one, items))


_ONLY_SAID = "?"
"""Begins no name of a user."""


def counted_for(owner: str, *, unverified: bool) -> str:
    """For whom what a lease has counts, for quotas and fairness: who only says a name uses up nobody else's."""
    return f"{_ONLY_SAID}{owner}"[:128] if unverified else owner


def owner_of(counted_for: str) -> tuple[str, bool]:
    """The owner for whom something counts, and whether that is only what somebody said."""
    return counted_for.removeprefix(_ONLY_SAID), counted_for.startswith(_ONLY_SAID)


def terms(policy: Policy, rules: Iterable[SelfService]) -> Policy:
    """A pool's policy as it is for those who are no operators: the strictest of it and of these rules."""
    for rule in rules:
        policy = replace(
            policy,
            default_duration=rule.default_duration or policy.default_duration,
            max_duration=_shorter(policy.max_duration, rule.max_duration),
            max_total=_shorter(policy.max_total, rule.max_total),
            deadlines=(*policy.deadlines, *([rule.deadline] if rule.deadline else [])),
        )
    limits = [limit for limit in (policy.max_duration, policy.max_total) if limit is not None]
    return replace(policy, default_duration=min(policy.default_duration, *limits)) if limits else policy


def _shorter(one: timedelta | None, other: timedelta | None) -> timedelta | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def check_limits(
    rule: SelfService, where: str, *, who: str, leases: int, resources: int, in_lease: int, asked: int, is_new: bool
) -> None:
    """Raise `LimitReached` where a user who has so many leases and resources may not have `asked` resources more.

    `in_lease` are those that the lease has already that wants more.
    """
    wanted = in_lease + asked
    if rule.per_lease is not None and wanted > rule.per_lease:
        raise _reached("per_lease", f"at most {rule.per_lease} resources {where} in one lease, and {wanted} are wanted")
    most = rule.per_owner
    if most.leases is not None and is_new and leases + 1 > most.leases:
        raise _reached("leases", f"{who} has {leases} of {most.leases} leases {where}")
    if most.resources is not None and resources + asked > most.resources:
        detail = f"{who} has {resources} of {most.resources} resources {where}, and {asked} more are wanted"
        raise _reached("resources", detail)


def _reached(code: str, detail: str) -> LimitReached:
    return LimitReached(detail, [Fault(path="items", code=code, detail=detail)])
