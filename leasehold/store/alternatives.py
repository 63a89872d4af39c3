"""Alternatives: what a lease that waits could have now instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from leasehold import reasons
from leasehold.model import Alternative, Item
from leasehold.store import catalogue
from leasehold.store.catalogue import Shape
from leasehold.store.lanes import Waiting
from leasehold.store.matching import Spare

_MOST = 5
_STEPS = 50
"""In so many steps less and less is tried."""

_Variation = tuple[str, tuple[Item, ...]]


def of(one: Waiting, spare: Spare, pools: Sequence[str]) -> tuple[Alternative, ...]:
    """Requests that could be granted at once: with a condition less, for less, or of another of these pools."""
    found: dict[Shape, Alternative] = {}
    for variations in _variations(tuple(one.items.values()), pools):
        for detail, items in variations:
            shape = catalogue.shape(items)
            if shape in found:
                break
            if spare.choose(replace(one, items=dict(enumerate(items)))) is not None:
                found[shape] = Alternative(detail=detail, items=items)
                break
        if len(found) == _MOST:
            break
    return tuple(found.values())


def _variations(wishes: Sequence[Item], pools: Sequence[str]) -> Iterator[list[_Variation]]:
    """Requests that differ in one respect, each with the words for it; of each list only one is worth telling."""

    def instead(place: int, item: Item, how: str) -> _Variation:
        return f"{reasons.wish(item)}{how}", (*wishes[:place], item, *wishes[place + 1 :])

    for place, item in enumerate(wishes):
        for text in item.match:
            less = replace(item, match=tuple(one for one in item.match if one != text))
            yield [instead(place, less, f", without {text}")]
        for tag in item.tags:
            less = replace(item, tags=tuple(one for one in item.tags if one != tag))
            yield [instead(place, less, f", not tagged {tag}")]
        if item.names:
            yield [instead(place, replace(item, names=()), ", whatever it is called")]
    for place, item in enumerate(wishes):
        fewer = [n for n in (*range(item.count - 1, 0, -max(1, item.count // _STEPS)), 1) if n < item.count]
        yield [instead(place, replace(item, count=n), f", not {item.count}") for n in fewer]
    for place, item in enumerate(wishes):
        for pool in pools if item.pool and not item.names else ():
            if pool != item.pool:
                yield [instead(place, replace(item, pool=pool), f", not of {item.pool}")]
