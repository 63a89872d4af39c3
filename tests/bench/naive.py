"""The naive scan, which kinds and lanes are there to spare: everybody who waits is tried with everything free."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from leasehold import allocation
from leasehold.allocation import Candidate
from leasehold.model import Item
from leasehold.store import specs, stock
from leasehold.store import tables as t

_FREE = select(t.resources).where(*stock.GRANTABLE).order_by(t.resources.c.name)
_WAITING = (
    select(specs.ITEMS_TEXT.label("wanted"))
    .where(t.leases.c.waiting)
    .order_by(t.leases.c.priority.desc(), t.leases.c.number)
)


def offer(connection: Connection, items: Sequence[Item]) -> list[list[Candidate]] | None:
    """What a newcomer gets once each who waits has got what there is for it; nothing is written."""
    free = [stock.as_candidate(row) for row in connection.execute(_FREE)]
    for row in connection.execute(_WAITING):
        chosen = allocation.assign(specs.items_from_text(row.wanted), free)
        if chosen is not None:
            gone = {candidate.key for group in chosen for candidate in group}
            free = [candidate for candidate in free if candidate.key not in gone]
    return allocation.assign(items, free)
