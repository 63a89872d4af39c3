"""Who gets what next: pure, and the only place that decides it.

Who waits comes in an order: priority, fair share where a pool asks for it, arrival. A request is served whole or not at
all. One that cannot be served yet lets those behind it pass, but only so many of them, and only for so long: then what
becomes free is held for it until it is complete, beginning with the pool that it names last: one that waits for an
extra licence holds up no host.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

from leasehold import selector
from leasehold.model import Item
from leasehold.selector import Condition

Kind = tuple[int, ...]
"""The numbers of the items that a resource suits."""

Key = tuple[str, str]
"""A resource: its pool and its name."""

Barred = Collection[str | Key]
"""What may not serve an item: whole pools, and single resources."""

ANY_POOL = "*"
"""Stands for the pool of an item that names none."""

_SOME = 5
"""So much of what there is is told."""

_FEW = 100
"""So many free resources are counted to say what is missing."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A free resource."""

    pool: str
    name: str
    tags: frozenset[str]
    properties: Mapping[str, Any]
    record: Any = field(default=None, compare=False, repr=False)
    """What the store has read of it, for itself."""
    kept_for: str | None = None
    """The key of those for whom alone it is kept."""

    @property
    def key(self) -> Key:
        return (self.pool, self.name)


@dataclass(kw_only=True, eq=False)
class Waiter:
    """A lease that waits, or asks for the first time.

    `passes` is how many that are behind it may yet be served before it; `serve` counts them down, and tells by `award`
    what it gets. `is_blocked` says that nothing has become free since it was looked at in vain.
    """

    lease: str
    items: Sequence[Item]
    passes: int = 0
    is_blocked: bool = False
    barred: Collection[str] = ()
    """Pools from which nothing may come that it wants of any pool."""
    promised: Collection[Key] = ()
    """Resources that are promised to others before it would have given them back."""
    share: str | None = None
    """The key for which something may be kept for it."""
    award: Award | None = None

    @cached_property
    def wants(self) -> list[Want]:
        """Its items, each with what may not serve it."""
        return [
            Want(item=item, barred=self.promised if item.pool else {*self.barred, *self.promised}, share=self.share)
            for item in self.items
        ]


@dataclass(frozen=True, kw_only=True)
class Want:
    """An item, and what may not serve it though it suits."""

    item: Item
    barred: Barred = ()
    share: str | None = None
    """The key for which something may be kept for it."""

    @property
    def by_name(self) -> bool:
        """Whether of two resources that are alike one may serve it and the other may not."""
        return bool(self.item.names or self.barred)


class Stock(Protocol):
    """What is free, as much of it as matters, without what is taken."""

    def free_for(self, wants: Sequence[Want]) -> Sequence[Candidate]:
        """What suits any of these, in order of preference: as much as they can use."""
        ...

    def take(self, candidates: Iterable[Candidate]) -> None:
        """Leave these out from now on."""
        ...


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


def unknown(item: Item, candidates: Sequence[Candidate], names: Collection[str]) -> list[tuple[str, list[str]]]:
    """What of an item's wishes none of these satisfies at all, each with some of what there is instead."""
    found: list[tuple[str, list[str]]] = []
    for text in item.match:
        condition = selector.parse(text)
        if not any(selector.satisfies([condition], candidate.properties) for candidate in candidates):
            there = {value for c in candidates for value in selector.values(condition.path, c.properties)}
            found.append((text, sorted(there)[:_SOME]))
    tags = {tag for candidate in candidates for tag in candidate.tags}
    found += [(f"tag {tag}", sorted(tags)[:_SOME]) for tag in item.tags if tag not in tags]
    found += [(f"resource {name}", []) for name in item.names if name not in names]
    return found


def serve(waiting: Iterable[Waiter], stock: Stock) -> Iterator[Award]:
    """Yield what each waiter gets, in the order in which they wait.

    One that cannot be served lets others pass as often as its `passes` say. Then what it could use is held for it: who
    comes behind it is served only if as much of that is left.
    """
    blocked: list[Waiter] = []
    held: list[Want] = []
    for waiter in waiting:
        chosen = None if waiter.is_blocked else choose(waiter, held, stock)
        if chosen is not None:
            taken = [candidate for group in chosen for candidate in group]
            stock.take(taken)
            waiter.award = Award(lease=waiter.lease, resources=chosen)
            for other in _passed(blocked, taken):
                held += _hold(other, held, stock)
            yield waiter.award
        elif waiter.passes > 0:
            blocked.append(waiter)
        else:
            held += _hold(waiter, held, stock)


def held_back(waiting: Iterable[Waiter], stock: Stock) -> list[Want]:
    """What is held for those who wait, of what is free, while nobody is served."""
    held: list[Want] = []
    for waiter in waiting:
        if waiter.passes <= 0:
            held += _hold(waiter, held, stock)
    return held


def choose(waiter: Waiter, held: Sequence[Want], stock: Stock) -> list[list[Candidate]] | None:
    """What serves a waiter, and leaves what is held for others."""
    wants = [*waiter.wants, *held]
    chosen = assign(wants, stock.free_for(wants))
    return None if chosen is None else chosen[: len(waiter.items)]


def _passed(blocked: list[Waiter], taken: Sequence[Candidate]) -> list[Waiter]:
    """Count for those who are blocked that somebody behind them got what they could have used.

    Return those who let nobody pass any more.
    """
    # Those that are alike share their properties: one of them tells it for all, unless it is asked for by its name.
    unlike = list({(one.pool, id(one.properties), one.kept_for): one for one in taken}.values())
    for waiter in blocked:
        waiter.passes -= any(
            _serves(candidate, want) for want in waiter.wants for candidate in (taken if want.by_name else unlike)
        )
    patient = [waiter for waiter in blocked if waiter.passes > 0]
    others = [waiter for waiter in blocked if waiter.passes <= 0]
    blocked[:] = patient
    return others


def _serves(candidate: Candidate, want: Want, conditions: Sequence[Condition] | None = None) -> bool:
    return (
        candidate.kept_for in {None, want.share}
        and candidate.pool not in want.barred
        and candidate.key not in want.barred
        and suits(want.item, candidate, conditions)
    )


def _hold(waiter: Waiter, held: Sequence[Want], stock: Stock) -> list[Want]:
    """As much of what a waiter wants as can be held for it, beside what is held for others.

    Of several pools nothing is held of one that it names earlier while something is missing of one that it names later:
    who waits for a licence as well as a host keeps no hosts from those who need no licence.
    """
    mine: list[Want] = []
    for wants in reversed(_by_pool(waiter.wants)):
        more = hold(wants, [*held, *mine], stock.free_for([*held, *mine, *wants]))
        mine += more
        if sum(want.item.count for want in more) < sum(want.item.count for want in wants):
            break
    return mine


def _by_pool(wants: Sequence[Want]) -> list[list[Want]]:
    found: dict[str, list[Want]] = {}
    for want in wants:
        found.setdefault(want.item.pool or ANY_POOL, []).append(want)
    return list(found.values())


def hold(wants: Sequence[Want], held: Sequence[Want], free: Sequence[Candidate]) -> list[Want]:
    """As much of these as there is of what is free, beside what is held: each item with another count."""
    groups = most([*held, *wants], free)[len(held) :]
    return [
        replace(want, item=replace(want.item, count=len(group)))
        for want, group in zip(wants, groups, strict=True)
        if group
    ]


def shortage(items: Sequence[Item], free: Sequence[Candidate]) -> str:
    """Why a request is not served at once, in words: what it wants, and how much of that is free."""
    # Among many it is not worth the time to count again.
    said = [str(sum(suits(item, c) for c in free)) if len(free) <= _FEW else "too few" for item in items]
    return "; ".join(f"{i.count} of {i.pool or 'any pool'} wanted, {n} free" for i, n in zip(items, said, strict=True))


def assign(wants: Sequence[Want | Item], free: Sequence[Candidate]) -> list[list[Candidate]] | None:
    """Choose distinct resources for all items together, or None if there is no such choice.

    `free` is in order of preference: the first that suits is taken, unless another item of the same request needs it
    more.
    """
    wanted = [_as_want(want) for want in wants]
    if sum(want.item.count for want in wanted) > len(free):
        return None
    chosen = most(wanted, free)
    complete = all(len(group) == want.item.count for group, want in zip(chosen, wanted, strict=True))
    return chosen if complete else None


def _as_want(want: Want | Item) -> Want:
    return Want(item=want) if isinstance(want, Item) else want


def most(wants: Sequence[Want | Item], free: Sequence[Candidate]) -> list[list[Candidate]]:
    """Choose distinct resources for all items together, as many as there can be.

    Items may overlap, so a greedy choice could miss one that exists. Resources that suit the same items are alike, so
    it is a small flow problem, from items to kinds of resources, solved by shortest augmenting paths (Edmonds and
    Karp 1972).
    """
    wanted = [_as_want(want) for want in wants]
    kinds = _kinds(wanted, free)
    given: Counter[tuple[Kind, int]] = Counter()
    for index, want in enumerate(wanted):
        for _ in range(want.item.count):
            if not _place(index, kinds, given):
                break
    chosen: list[list[Candidate]] = [[] for _ in wanted]
    for kind, candidates in kinds.items():
        left = iter(candidates)
        for index in kind:
            chosen[index] += islice(left, given[kind, index])
    return chosen


def capability(candidate: Candidate) -> tuple[int, int, list[int | float]]:
    """How much a resource is good for, to be compared: its tags, its properties, and how large those are."""
    leaves = sorted(_leaves(candidate.properties, ""), key=lambda leaf: leaf[0])
    sizes = [value for _, value in leaves if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(candidate.tags), len(leaves), sizes


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _leaves(below, path)
    else:
        yield path, value


def _kinds(wants: Sequence[Want], free: Sequence[Candidate]) -> dict[Kind, list[Candidate]]:
    """The resources by the items that they suit; those that suit few come first, so that they are taken first."""
    conditions = [[selector.parse(text) for text in want.item.match] for want in wants]
    kinds: dict[Kind, list[Candidate]] = {}
    for candidate in free:
        kind = tuple(i for i, want in enumerate(wants) if _serves(candidate, want, conditions[i]))
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
