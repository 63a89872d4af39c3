"""resalloc's commands: those of its client, about tickets, and those of its maintenance tool.

A ticket is a lease of one resource that has certain tags, and is called by the lease's number.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from leasehold import durations
from leasehold.answers import ItemRequest, Lease
from leasehold.cli.compat import maintenance
from leasehold.cli.compat.connection import Connection, connected, remember
from leasehold.cli.exits import Exit
from leasehold.cli.output import note, print_bytes, say
from leasehold.cli.signals import Interrupted, Signals
from leasehold.cli.words import name_of
from leasehold.errors import DurationRefused, LeaseholdError, NotFound, from_code
from leasehold.model import LONGEST, OVER

if TYPE_CHECKING:
    from leasehold.client import Client

_TICK = timedelta(seconds=2)
_LAST_PATIENCE = timedelta(seconds=30)

TicketId = Annotated[str, typer.Argument(metavar="ID", help="A ticket's number.", show_default=False)]


def ticket(
    ctx: typer.Context,
    tag: Annotated[
        list[str], typer.Option("--tag", metavar="T", help="A tag that it must have; repeatable.", show_default=False)
    ],
    sandbox: Annotated[
        str | None,
        typer.Option("--sandbox", metavar="S", help="Whoever says the same may be given the same resource again."),
    ] = None,
) -> None:
    """Ask for a resource and print the ticket's number; it waits for tags that no pool has yet."""
    with Signals(), connected(ctx) as client:
        taken = _Taking(client, tag, sandbox)
        with taken.called_off_if_interrupted(ctx):
            lease = taken.numbered()
    say(name_of(lease))


def ticket_check(ctx: typer.Context, ticket: TicketId) -> None:
    """Print what was delivered for a ticket; the status is 0 while it has its resource, and 1 otherwise."""
    with connected(ctx) as client:
        lease = _found(client, ticket)
        if lease is None:
            note(f"warning: there is no ticket {ticket}")
        elif lease["state"] in OVER:
            note(f"warning: ticket {ticket} {'was closed' if _was_closed(lease) else 'has failed'}")
        if lease is None or lease["active_at"] is None:
            note("nothing is assigned to it")
            raise typer.Exit(Exit.ERROR)
        print_bytes(_data(client, lease))
    raise typer.Exit(Exit.ERROR if lease["state"] in OVER else Exit.DONE)


def ticket_wait(ctx: typer.Context, ticket: TicketId) -> None:
    """Wait until a ticket has its resource, and print what was delivered, every byte as it is."""
    with connected(ctx) as client:
        lease = client.wait_for(ticket, "active")
        if lease["active_at"] is None:
            note(f"warning: ticket {ticket} ended before anything was assigned to it")
            raise typer.Exit(Exit.LEASE_FAILED)
        print_bytes(_data(client, lease))


def ticket_close(ctx: typer.Context, ticket: TicketId) -> None:
    """Give a ticket's resource back, or call the ticket off; again, or of an unknown one, this does nothing."""
    with connected(ctx) as client:
        try:
            client.release(ticket)
        except NotFound:
            note(f"warning: there is no ticket {ticket}")


class _Taking:
    """A ticket on its way: until its number is printed nobody knows of it."""

    def __init__(self, client: Client, tags: list[str], sandbox: str | None) -> None:
        self._client = client
        self._items: list[ItemRequest] = [{"count": 1, "tags": tags}]
        self._asked: dict[str, Any] = {"wait_for_supply": True, "share_key": sandbox or None}
        self._asked["idempotency_key"] = uuid4().hex
        self._may_exist = False

    def numbered(self) -> Lease:
        """The lease once it has a number; raise what refused it."""
        self._asked["duration"] = _longest(self._client)
        try:
            lease = self._submit(self._client)
        except DurationRefused:
            # By a rule that the pools do not show: as long as it gives by itself.
            self._asked |= {"duration": None, "idempotency_key": uuid4().hex}
            lease = self._submit(self._client)
        while lease["number"] is None:
            if lease["state"] == "ended":
                why = lease["error"]
                raise from_code(*(why["code"], why["detail"]) if why else ("internal", "the ticket ended at once"))
            lease = self._client.lease(lease["id"], wait="active", timeout=_TICK)
        return lease

    def _submit(self, client: Client) -> Lease:
        self._may_exist = True
        return client.submit(self._items, **self._asked)

    @contextmanager
    def called_off_if_interrupted(self, ctx: typer.Context) -> Iterator[None]:
        """Leave nothing behind where a signal comes first. On a connection of its own: it may break into anything."""
        try:
            yield
        except Interrupted:
            if self._may_exist:
                with suppress(LeaseholdError), connected(ctx, _LAST_PATIENCE) as another:
                    another.cancel(self._submit(another)["id"])
            raise


def _longest(client: Client) -> str:
    """As long as all pools allow: a ticket has no end of its own."""
    policies = [pool["policy"] for pool in client.pools()]
    limits = [durations.parse(policy["max_duration"]) for policy in policies if policy["max_duration"] is not None]
    return durations.render(min([LONGEST, *limits]))


def _found(client: Client, ticket: str) -> Lease | None:
    try:
        return client.lease(ticket)
    except NotFound:
        return None


def _was_closed(lease: Lease) -> bool:
    return lease["error"] is None and lease["outcome"] in ("released", "cancelled", None)


def _data(client: Client, lease: Lease) -> bytes:
    """What was delivered of a ticket's resource, the last one that it had, and by the pool for the whole lease."""
    delivered = client.delivery(lease["id"])
    mine = delivered["resources"][-1:]
    shared = [one for one in delivered["shared"] if one["pool"] in {own["pool"] for own in mine}]
    return b"".join(base64.b64decode(one["data_base64"]) for one in (*mine, *shared))


app = typer.Typer(help="The commands of resalloc's client and of its maintenance tool.", no_args_is_help=True)


@app.callback()
def _common(ctx: typer.Context, connection: Connection = None) -> None:
    remember(ctx, connection)


for _name, _command in (
    ("ticket", ticket),
    ("ticket-check", ticket_check),
    ("ticket-wait", ticket_wait),
    ("ticket-close", ticket_close),
    ("ticket-list", maintenance.ticket_list),
    ("resource-list", maintenance.resource_list),
    ("resource-info", maintenance.resource_info),
    ("resource-delete", maintenance.resource_delete),
    ("resource-logs", maintenance.resource_logs),
    ("foreach-resource", maintenance.foreach_resource),
):
    app.command(_name)(_command)
