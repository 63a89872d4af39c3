"""Transfers: a lease goes to another owner, with its place in the queue and all that it holds."""

from __future__ import annotations

from sqlalchemy import bindparam, update

from leasehold.allocation import ANY_POOL
from leasehold.errors import LeaseNotActive
from leasehold.messages import Transfer, Transferred
from leasehold.model import OVER
from leasehold.store import events, holding, lanes, matching
from leasehold.store import tables as t
from leasehold.store.answers import as_refusal
from leasehold.store.engine import Tx

_GRANTS = update(t.grants).where(t.grants.c.lease == bindparam("lease_")).values(owner=bindparam("to"))


def transfer(tx: Tx, order: Transfer) -> Transferred:
    """Give a lease that is not over to another owner; one that has it already keeps it.

    What the owners have counts from now on for fairness and quotas. The token that the lease had is good no more.
    """
    row = holding.lease_row(tx.connection, order.lease)
    if row.owner == order.owner and not row.unverified:
        return Transferred(transfers=row.transfers)
    if row.state in OVER:
        return Transferred(refusal=as_refusal(LeaseNotActive(f"lease {row.number} is over")))
    waiting = lanes.of(tx.connection, [order.lease]).get(order.lease)
    holding.change(
        tx,
        order.lease,
        {
            "owner": order.owner,
            # Nobody who had a host before is the one who has this lease now: nothing is left unwiped for it.
            "principal": f"transferred:{order.lease}",
            "unverified": False,
            "transfers": row.transfers + 1,
        },
    )
    tx.write(_GRANTS, {"lease_": order.lease, "to": order.owner})
    if waiting is not None:
        lanes.move(tx, waiting, order.owner)
    events.record(
        tx, "lease_transferred", lease=order.lease, actor=order.actor, data={"before": row.owner, "owner": order.owner}
    )
    # Whose quota was used up may have more, or the new owner may be over it.
    matching.match(tx, {ANY_POOL})
    return Transferred(transfers=row.transfers + 1)
