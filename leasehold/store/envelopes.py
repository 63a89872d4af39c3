"""What of a request is secret: kept beside its record, under its digest, until those have had it whom it is for."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from leasehold.model import ResourceState
from leasehold.ports import Sealed
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_E = t.envelopes.c


def seal(tx: Tx, lease: str, digest: str, sealed: Sealed) -> None:
    """Keep it; the same request does so once."""
    known = select(_E.at).where(_E.lease == lease, _E.digest == digest)
    if tx.execute(known).first() is None:
        secrets = dict(sealed.secrets) or None
        row = {"lease": lease, "digest": digest, "env": dict(sealed.env), "secrets": secrets, "at": tx.now}
        tx.execute(insert(t.envelopes), row)


_OF = (
    select(_E.env, _E.secrets)
    .join(t.requests, (t.requests.c.lease == _E.lease) & (t.requests.c.digest == _E.digest))
    .where(_E.lease == bindparam("lease"))
)


def of(connection: Connection, lease: str) -> Sealed:
    """What came with the request that was answered; nothing of one without secrets, or whose are not known any more."""
    row = connection.execute(_OF, {"lease": lease}).one_or_none()
    return Sealed() if row is None else Sealed(env=row.env, secrets=row.secrets or {})


_FORGET = delete(t.envelopes).where(_E.lease == bindparam("lease_"), _E.secrets.is_(None))
_FORGET_ENV = update(t.envelopes).where(_E.lease == bindparam("lease_")).values(env={})


def command_ended(tx: Tx, lease: str) -> None:
    """Forget the environment of a lease's command; its hooks may need the rest."""
    tx.write(_FORGET, {"lease_": lease})
    tx.write(_FORGET_ENV, {"lease_": lease})


def forget(tx: Tx, unanswered: datetime) -> int:
    """Delete what nobody needs any more: of leases that are over, and what they had is recycled, and of refusals.

    What is broken may be repaired yet, for the same lease. A request that no worker has answered yet needs what came
    with it, unless that was before `unanswered`; of two under one id the one that was not answered never does.
    """
    gone: int = tx.execute(_DELETE, {"unanswered": unanswered}).rowcount
    return gone


_G, _R = t.grants.c, t.resources.c
_NOT_DONE = (ResourceState.RECYCLING, ResourceState.BROKEN)
_LATER = t.grants.alias("later")
_LAST = select(func.max(_LATER.c.id)).where(_LATER.c.pool == _R.pool, _LATER.c.resource == _R.name)
_RECYCLED = (
    select(_G.id)
    .join(t.resources, (_R.pool == _G.pool) & (_R.name == _G.resource))
    .where(_G.lease == _E.lease, _R.state.in_(_NOT_DONE), _G.id == _LAST.scalar_subquery())
)
_LASTS = select(t.leases.c.id).where(t.leases.c.id == _E.lease, t.leases.c.ended_at.is_(None))
_ANSWERED = select(t.requests.c.lease).where(t.requests.c.lease == _E.lease)
_ANOTHERS = _ANSWERED.where(t.requests.c.digest != _E.digest)
_OVER = ~_LASTS.exists() & ~_RECYCLED.exists() & (_ANSWERED.exists() | (_E.at < bindparam("unanswered")))
_DELETE = delete(t.envelopes).where(_ANOTHERS.exists() | _OVER)
