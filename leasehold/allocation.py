"""Who gets what next: pure, and the only place that decides it.

The order is priority, then arrival (the number). A request is served whole or not at all; one that cannot be served
yet lets those behind it pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leasehold import selector
from leasehold.model import Item

ANY_POOL = "*"
"""Stands for the pool of an item that names none."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A free resource."""

    pool: str
    name: str
    tags: frozenset[str]
    properties: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return (self.pool, self.name)


@dataclass(frozen=True, kw_only=True)
class Waiter:
    """A lease that waits, or asks for the first time."""

    lease: str
    items: Sequence[Item]


@dataclass(frozen=True, kw_only=True)
class Award:
    """What a lease gets: for each of its items, in their order, the resources."""

    lease: str
    resources: Sequence[Sequence[Candidate]]


def suits(item: Item, candidate: Candidate) -> bool:
    """Whether a resource is one that the item asks for."""
    return (
        (item.pool is None or item.pool == candidate.pool)
        and (not item.names or candidate.name in item.names)
        and candidate.tags.issuperset(item.tags)
        and selector.satisfies([selector.parse(m) for m in item.match], candidate.properties)
    )


def serve(waiting: Iterable[Waiter], free: Sequence[Candidate]) -> Iterator[Award]:
    """Yield what each waiter gets, in the order in which they wait, until nothing is left.

    `free` is in order of preference: the first that suits is taken, unless another item of the same request needs it
    more.
    """
    left = {candidate.key: candidate for candidate in free}
    for waiter in waiting:
        if not left:
            return
        chosen = assign(waiter.items, list(left.values()))
        if chosen is not None:
            for candidate in (c for group in chosen for c in group):
                del left[candidate.key]
            yield Award(lease=waiter.lease, resources=chosen)


def assign(items: Sequence[Item], free: Sequence[Candidate]) -> list[list[Candidate]] | None:
    """Choose distinct resources for all items together, or None if there is no such choice.

    Items may overlap, so a greedy choice could miss one that exists: augmenting paths of bipartite matching (Kuhn
    1955) between the wanted places and the resources find it.
    """
    suitable = [[c for c in free if suits(item, c)] for item in items]
    if any(len(group) < item.count for group, item in zip(suitable, items, strict=True)):
        return None
    taken: dict[tuple[str, str], tuple[int, Candidate]] = {}

    def place(index: int, tried: set[tuple[str, str]]) -> bool:
        for candidate in suitable[index]:
            if candidate.key not in taken:
                taken[candidate.key] = (index, candidate)
                return True
        for candidate in suitable[index]:
            holder = taken[candidate.key][0]
            if candidate.key not in tried and holder != index:
                tried.add(candidate.key)
                if place(holder, tried):
                    taken[candidate.key] = (index, candidate)
                    return True
        return False

    for index, item in enumerate(items):
        if not all(place(index, set()) for _ in range(item.count)):
            return None
    return [[c for i, c in taken.values() if i == index] for index in range(len(items))]
