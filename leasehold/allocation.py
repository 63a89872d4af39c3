"""Who gets what next: pure, and the only place that decides it.

The order is priority, then arrival (the number). A request is served whole or not at all; one that cannot be served
yet lets those behind it pass.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from leasehold import selector
from leasehold.model import Item
from leasehold.selector import Condition

Kind = tuple[int, ...]
"""The numbers of the items that a resource suits."""

ANY_POOL = "*"
"""Stands for the pool of an item that names none."""

_FEW = 100
"""So many free resources are counted to say what is missing."""


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


def suits(item: Item, candidate: Candidate, conditions: Sequence[Condition] | None = None) -> bool:
    """Whether a resource is one that the item asks for; `conditions` are the item's filters, parsed before."""
    if conditions is None:
        conditions = [selector.parse(text) for text in item.match]
    return (
        (item.pool is None or item.pool == candidate.pool)
        and (not item.names or candidate.name in item.names)
        and candidate.tags.issuperset(item.tags)
        and selector.satisfies(conditions, candidate.properties)
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


def shortage(items: Sequence[Item], free: Sequence[Candidate]) -> str:
    """Why a request is not served at once, in words: what it wants, and how much of that is free."""
    # Among many it is not worth the time to count again.
    said = [str(sum(suits(item, c) for c in free)) if len(free) <= _FEW else "too few" for item in items]
    return "; ".join(f"{i.count} of {i.pool or 'any pool'} wanted, {n} free" for i, n in zip(items, said, strict=True))


def assign(items: Sequence[Item], free: Sequence[Candidate]) -> list[list[Candidate]] | None:
    """Choose distinct resources for all items together, or None if there is no such choice.

    Items may overlap, so a greedy choice could miss one that exists. Resources that suit the same items are alike, so
    it is a small flow problem, from items to kinds of resources, solved by shortest augmenting paths (Edmonds and
    Karp 1972).
    """
    kinds = _kinds(items, free)
    given: Counter[tuple[Kind, int]] = Counter()
    for index, item in enumerate(items):
        for _ in range(item.count):
            if not _place(index, kinds, given):
                return None
    chosen: list[list[Candidate]] = [[] for _ in items]
    for kind, candidates in kinds.items():
        left = iter(candidates)
        for index in kind:
            chosen[index] += islice(left, given[kind, index])
    return chosen


def _kinds(items: Sequence[Item], free: Sequence[Candidate]) -> dict[Kind, list[Candidate]]:
    """The resources by the items that they suit; those that suit few come first, so that they are taken first."""
    conditions = [[selector.parse(text) for text in item.match] for item in items]
    kinds: dict[Kind, list[Candidate]] = {}
    for candidate in free:
        kind = tuple(i for i, item in enumerate(items) if suits(item, candidate, conditions[i]))
        if kind:
            kinds.setdefault(kind, []).append(candidate)
    return dict(sorted(kinds.items(), key=lambda pair: len(pair[0])))


def _place(index: int, kinds: Mapping[Kind, Sequence[Candidate]], given: Counter[tuple[Kind, int]]) -> bool:
    """Give one more resource to an item, moving other items to other kinds where that makes room."""
    # From whom each item reached would take one, and of which kind.
    taker: dict[int, tuple[Kind, int]] = {}
    reached, waiting = {index}, deque([index])
    while waiting:
        here = waiting.popleft()
        for kind, candidates in kinds.items():
            if here not in kind:
                continue
            if sum(given[kind, other] for other in kind) < len(candidates):
                given[kind, here] += 1
                while here != index:
                    of, here_before = taker[here]
                    given[of, here] -= 1
                    given[of, here_before] += 1
                    here = here_before
                return True
            for other in kind:
                if other not in reached and given[kind, other]:
                    reached.add(other)
                    taker[other] = (kind, here)
                    waiting.append(other)
    return False
