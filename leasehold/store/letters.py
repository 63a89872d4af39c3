"""Letters: to whom a notice goes, what it is written from, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from leasehold import notices
from leasehold.channels import Channel
from leasehold.errors import LeaseUnknown
from leasehold.messages import Letter, LetterLost, Notice, SendLetter
from leasehold.model import Item, Lease
from leasehold.ports import Writing
from leasehold.store import alerts, catalogue, events, records, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.notices import in_force

ALERT = "notices:"
"""With the name of a channel after it: the alert that nothing comes through it."""

_NOTIFY = select(t.leases.c.notify).where(t.leases.c.id == bindparam("lease"))
_GRANTED = (
    select(t.grants.c.pool, t.grants.c.spec).where(t.grants.c.lease == bindparam("lease")).order_by(t.grants.c.id)
)


def letters(connection: Connection, notice: Notice, now: datetime) -> tuple[Letter, ...]:
    """To whom a notice goes over which channel, by the settings that are in force."""
    lease = _lease(connection, notice, now)
    if lease is None:
        return ()
    asked = connection.execute(_NOTIFY, {"lease": lease.id}).scalar_one()
    notify = None if asked is False else asked or ()
    return tuple(notices.letters(notice, lease, notify, _channels(connection, lease.id, lease.items)))


def writing(connection: Connection, order: SendLetter, now: datetime) -> Writing | None:
    """What a letter is written from; None where there is no use in it any more."""
    lease = _lease(connection, order.notice, now)
    if lease is None or notices.is_stale(order.notice, lease):
        return None
    channel = _channels(connection, lease.id, lease.items).get(order.letter.channel)
    if channel is None:
        return None
    return Writing(notice=order.notice, letter=order.letter, channel=channel, lease=lease, now=now)


def _lease(connection: Connection, notice: Notice, now: datetime) -> Lease | None:
    """The lease that a notice is about; None where the database, an older copy, does not know it."""
    try:
        return records.lease(connection, notice.lease, now, explained=False)
    except LeaseUnknown:
        return None


def lost(tx: Tx, order: LetterLost) -> None:
    """Record that somebody could not be told."""
    letter = order.letter
    data = {"channel": letter.channel, "to": letter.to, "about": order.notice.kind}
    events.record(tx, "notice_failed", lease=order.notice.lease, actor="leasehold", reason=order.reason, data=data)


def trouble(tx: Tx, channel: str, reason: str | None) -> None:
    """Have an alert stand while nothing comes through a channel; None: something has."""
    alerts.settle(tx, f"{ALERT}{channel}", None if reason is None else f"notices over {channel} wait: {reason}")


def in_trouble(connection: Connection, channel: str) -> bool:
    """Whether that alert stands."""
    known = select(t.alerts.c.key).where(t.alerts.c.key == f"{ALERT}{channel}")
    return connection.execute(known).first() is not None


def _channels(connection: Connection, lease: str, items: Sequence[Item]) -> Mapping[str, Channel]:
    """The channels of the pools of which a lease was granted anything, or else of those that it wants to have of."""
    known = catalogue.current(connection)
    granted = connection.execute(_GRANTED, {"lease": lease}).all()
    if not granted:
        return in_force(known, known.pools(items))
    # A pool that is gone tells as it did when it was granted.
    old = specs.load(connection, {row.spec for row in granted if row.pool not in known.specs})
    found: dict[str, Channel] = {}
    for row in granted:
        spec = known.specs.get(row.pool) or old[row.spec]
        found = {**spec.notices, **found}
    return found
