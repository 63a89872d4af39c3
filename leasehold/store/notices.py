"""Notices: what happened to a lease goes to the outbox, in the transaction that did it, where anybody is told of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from leasehold import notices
from leasehold.channels import Channel, NoticeKind
from leasehold.errors import Fault, Invalid
from leasehold.messages import Notice, SubmitLease
from leasehold.model import Outcome
from leasehold.store import catalogue, outbox, specs
from leasehold.store import tables as t
from leasehold.store.catalogue import Catalogue
from leasehold.store.engine import Tx

_WANTED = select(specs.ITEMS_TEXT).where(t.leases.c.id == bindparam("lease"))


def tell(
    tx: Tx,
    kind: NoticeKind,
    lease: str,
    *,
    actor: str | None = None,
    reason: str | None = None,
    expires_at: datetime | None = None,
) -> None:
    """Have people told of what happens to a lease, if anybody is told of such things in any of its pools.

    Where no pool has a channel, this asks the database nothing that others do not.
    """
    known = catalogue.current(tx.connection)
    if kind not in known.told:
        return
    wanted = specs.items_from_text(tx.execute(_WANTED, {"lease": lease}).scalar_one())
    if not any(kind in channel.about for channel in in_force(known, known.pools(wanted)).values()):
        return
    outbox.notice(
        tx,
        Notice(
            id=f"notice:{lease}:{kind}:{uuid.uuid4().hex[:12]}",
            lease=lease,
            kind=kind,
            at=tx.now,
            actor=actor,
            reason=reason,
            expires_at=expires_at,
        ),
    )


def tell_end(tx: Tx, lease: str, owner: str, outcome: Outcome, actor: str, reason: str | None) -> None:
    """Have people told that a lease is over, unless its owner has ended it."""
    kind = notices.of_end(outcome, owner, actor)
    if kind is not None:
        tell(tx, kind, lease, actor=actor, reason=reason)


def check(connection: Connection, request: SubmitLease) -> None:
    """Raise `Invalid` where a request wants somebody told whom no channel of its pools can write to."""
    if not request.notify:
        return
    known = catalogue.current(connection)
    channels = in_force(known, known.pools(request.items)).values()
    faults = [
        Fault(
            path=f"notify[{i}]", code="not_reachable", detail=f"notify[{i}]: no channel of its pools writes to {name}"
        )
        for i, name in enumerate(request.notify)
        if not notices.reaches(channels, name)
    ]
    if faults:
        raise Invalid(faults[0].detail, faults)


def plain(notify: Sequence[str] | None) -> list[str] | bool | None:
    """Whom a request wants told, as its column has it."""
    return False if notify is None else list(notify) or None


def in_force(known: Catalogue, pools: set[str]) -> dict[str, Channel]:
    """The channels of pools; of two with one name that of the first pool."""
    found: dict[str, Channel] = {}
    for pool in sorted(pools):
        if pool in known.specs:
            found = {**known.specs[pool].notices, **found}
    return found
