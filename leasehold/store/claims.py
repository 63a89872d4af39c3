"""Claims: what a lease holds, at which epochs, and the stages due for it."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from leasehold import model
from leasehold.messages import Claim
from leasehold.store import specs
from leasehold.store import tables as t

_OPEN = (
    select(t.grants)
    .where(t.grants.c.lease == bindparam("lease"), t.grants.c.closed_at.is_(None))
    .order_by(t.grants.c.id)
)


def of(connection: Connection, lease: str) -> tuple[Claim, ...]:
    """The open grants of a lease with the stages due for each."""
    rows = connection.execute(_OPEN, {"lease": lease}).all()
    loaded = specs.load(connection, {row.spec for row in rows})
    return tuple(
        Claim(
            pool=row.pool,
            resource=row.resource,
            epoch=row.epoch,
            spec=row.spec,
            stages=specs.plan(loaded[row.spec], model.PREPARE),
        )
        for row in rows
    )
