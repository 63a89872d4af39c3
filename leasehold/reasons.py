"""Why a lease waits, in words: pure, so that every sentence can be tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from leasehold.model import FOR_SELF_SERVICE, Item

_MOST_NAMED = 3
"""So many holders are named."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A lease that has some of what is waited for, until when as far as that is known."""

    number: int
    count: int
    until: datetime | None


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What is free, and promised to a reservation."""

    number: int
    count: int
    begins: datetime


@dataclass(frozen=True, kw_only=True)
class Making:
    """A pool that could make what is waited for: `room` for so many more than the `existing` ones it has.

    `trouble` is why its last creations failed, after which it tries again at a time. One that makes something only for
    those who ask for certain tags, of which this is none, says so.
    """

    pool: str
    most: int
    existing: int
    room: int
    trouble: str | None = None
    again_at: datetime | None = None
    only_for: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Supply:
    """How much there is of what an item wants; `holders` are those who give back first, the first of them first.

    `others` counts what is neither free nor held, by what it is: broken, offline, recycling.
    """

    free: int = 0
    held: int = 0
    holders: Sequence[Holder] = ()
    promised: Sequence[Promised] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    making: Sequence[Making] = ()

    @property
    def total(self) -> int:
        """How much there is at all, and can be."""
        possible = sum(max(0, one.most - one.existing) for one in self.making if not one.only_for)
        return self.free + self.held + sum(self.others.values()) + possible


def wish(item: Item) -> str:
    """What an item wants: `3 of r640 with disks.disk_type=nvme`."""
    parts = [f"{item.count} of {item.pool or 'any pool'}"]
    said = [text for text in item.match if text != FOR_SELF_SERVICE]
    if said:
        parts.append(f"with {' and '.join(said)}")
    if item.tags:
        parts.append(f"tagged {', '.join(item.tags)}")
    if item.names:
        parts.append(f"named {listed(item.names, 'or')}")
    return " ".join(parts)


def shortage(item: Item, supply: Supply, now: datetime) -> str:
    """What an item waits for: `needs 3 of r640; 1 free; 2 held by leases 41 and 43 until 14:05 UTC`."""
    parts = [f"needs {wish(item)}"]
    if supply.total < item.count:
        parts.append(f"there {'is' if supply.total == 1 else 'are'} just {supply.total}")
    parts.append(f"{supply.free} free")
    parts += [f"{p.count} promised to lease {p.number} from {clock(p.begins, now)}" for p in supply.promised]
    if supply.held:
        parts.append(_held(item.count - supply.free, supply, now))
    parts += [f"{count} {what}" for what, count in sorted(supply.others.items())]
    parts += [said for one in supply.making if (said := _making(one, now))]
    return "; ".join(parts)


def _making(one: Making, now: datetime) -> str | None:
    """Why a pool does not make what is waited for, if it does not."""
    if one.only_for:
        return f"{one.pool} makes some only for requests tagged {listed(one.only_for, 'or')}"
    if one.trouble is not None:
        again = f", tried again at {clock(one.again_at, now)}" if one.again_at and one.again_at > now else ""
        return f"{one.pool} fails to make any: {one.trouble}{again}"
    return f"{one.pool} has the {one.most} that it may have" if one.existing >= one.most else None


def _held(missing: int, supply: Supply, now: datetime) -> str:
    """By whom, as many as it takes to have enough, and those who end at the same time."""
    first, found = list[Holder](), 0
    for holder in supply.holders[:_MOST_NAMED]:
        if first and found >= missing and holder.until != first[-1].until:
            break
        first.append(holder)
        found += holder.count
    if not first:
        return f"{supply.held} held"
    named = f"{'lease' if len(first) == 1 else 'leases'} {listed([str(holder.number) for holder in first])}"
    ends = [holder.until for holder in first if holder.until is not None]
    until = clock(max(ends), now) if len(ends) == len(first) else None
    if found == supply.held:
        return f"{supply.held} held by {named}" + (f" until {until}" if until else "")
    return f"{supply.held} held, first to end {named}" + (f" at {until}" if until else "")


def before(count: int) -> str:
    """How many go before it."""
    return f"{count} {'lease' if count == 1 else 'leases'} before it"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def clock(at: datetime, now: datetime) -> str:
    """A time that is easily read: that of today without its date."""
    return f"{at:%H:%M} UTC" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M} UTC"


def no_such(item: Item, most: int, unknown: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Why an item can never be served: `unknown` are wishes that nothing satisfies, with what there is instead."""
    where = f"pool {item.pool}" if item.pool else "any pool"
    if most:
        return f"{item.count} wanted, and the most that exist in {where} is {most}"
    if not unknown:
        return f"no resource in {where} is all that at once: {wish(item)}"
    if any(text == FOR_SELF_SERVICE for text, _ in unknown):
        return f"nothing in {where} is for self-service: ask an operator"
    said = [
        f"no {text} in {where}" + (f" (there is {listed([*there], 'or')})" if there else "") for text, there in unknown
    ]
    return "; ".join(said)
