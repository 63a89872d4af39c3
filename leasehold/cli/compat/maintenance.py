"""The commands of resalloc's maintenance tool: resources and open tickets, each in a line as it writes them."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leasehold.answers import Run
from leasehold.cli.compat import placeholders
from leasehold.cli.compat.connection import connected
from leasehold.cli.exits import Exit, of_error
from leasehold.cli.output import note, one_line, print_bytes, print_error, print_json, say
from leasehold.cli.words import held, name_of
from leasehold.errors import Invalid, LeaseholdError, NotDelivered, NotFound
from leasehold.model import LeaseState

if TYPE_CHECKING:
    from leasehold.client import Client

_NOT_ENDED = ",".join(state for state in LeaseState if state is not LeaseState.ENDED)
_STATUS: Mapping[str, str] = {
    "creating": "STARTING",
    "free": "UP",
    "leased": "UP",
    "recycling": "RELEASING",
    "deleting": "DELETING",
}
"""resalloc's words for states; it has none for BROKEN and OFFLINE."""

_MOST_RUNS = 200
LOOK_AGAIN_S = 2.0

Resources = Annotated[
    list[str], typer.Argument(metavar="R", help="Ids, names, or POOL/NAME where a name is not enough.")
]


@dataclass(frozen=True)
class Known:
    """A resource of the API, and the number of the lease that has it."""

    resource: Mapping[str, Any]
    ticket: str | None

    @property
    def id(self) -> str:
        """The number of a resource that its pool has made; all others have none."""
        return str(self._instance.get("id", "-"))

    @property
    def releases(self) -> int:
        """How many leases it has served."""
        return int(self._instance.get("uses") or 0)

    @property
    def status(self) -> str:
        """Its state in resalloc's words; what an operator has put aside is not UP."""
        state = self.resource["state"]
        if state == "free" and self.resource["offline"]:
            return "OFFLINE"
        return _STATUS.get(state, state.upper())

    @property
    def place(self) -> tuple[str, str]:
        """Pool and name."""
        return self.resource["pool"], self.resource["name"]

    @property
    def _instance(self) -> Mapping[str, Any]:
        return self.resource.get("instance") or {}

    def is_called(self, ref: str) -> bool:
        """Whether somebody means this one."""
        return ref in {self.id, self.resource["name"], "/".join(self.place)} - {"-"}

    def line(self) -> str:
        """What `resource-list` prints."""
        pool, name = self.place
        tags = ",".join(self.resource["tags"])
        return (
            f"{self.id} - {name} pool={pool} tags={tags} status={self.status}"
            f" releases={self.releases} ticket={self.ticket or 'NULL'}"
        )


def resource_list(
    ctx: typer.Context, up: Annotated[bool, typer.Option("--up", help="Only those that are UP.")] = False
) -> None:
    """List resources, a line for each."""
    with connected(ctx) as client:
        for one in _known(client):
            if not up or one.status == "UP":
                say(one_line(one.line()))


def resource_info(
    ctx: typer.Context, resource: Annotated[str, typer.Argument(metavar="R", help="Its id or name.")]
) -> None:
    """Print all that is known of a resource, as JSON."""
    with connected(ctx) as client:
        (one,) = _chosen(_known(client), [resource])
    known = {"id": one.id, "status": one.status, "releases": one.releases, "ticket": one.ticket}
    print_json({**known, **one.resource})


def resource_delete(
    ctx: typer.Context,
    resource: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids or names.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are UP, with their tickets.")] = False,
    unused: Annotated[bool, typer.Option("--unused", help="All that are UP, and have no ticket.")] = False,
) -> None:
    """Delete resources; the ticket of one that is leased fails."""
    if [bool(resource), everything, unused].count(True) != 1:
        raise typer.BadParameter("give one of ID, --all and --unused")
    status = Exit.DONE
    with connected(ctx) as client:
        known = _known(client)
        up = [one for one in known if one.status == "UP" and (everything or one.resource["lease"] is None)]
        for one in _chosen(known, resource) if resource else up:
            try:
                _delete(client, one)
            except LeaseholdError as error:
                note(one_line(f"{'/'.join(one.place)}:"))
                print_error(error, as_json=False)
                status = status or of_error(error)
    raise typer.Exit(status)


def _delete(client: Client, one: Known) -> None:
    # In this order: a lease that ended first would leave it to the next.
    client.delete_resource(*one.place)
    if one.resource["lease"] is not None:
        client.cancel(one.resource["lease"], "its resource is deleted")


def resource_logs(ctx: typer.Context, resource: Resources) -> None:
    """Print what hooks print on resources, until there are none of them any more, or you stop it."""
    with connected(ctx) as client:
        chosen = _chosen(_known(client), resource)
        tails = [_Tail(client, one.place, headed=len(chosen) > 1) for one in chosen]
        while True:
            there = [tail.is_there() for tail in tails]
            for tail in tails:
                tail.print_more()
            if not any(there):
                return
            time.sleep(LOOK_AGAIN_S)


class _Tail:
    """What is printed on one resource."""

    def __init__(self, client: Client, place: tuple[str, str], *, headed: bool) -> None:
        self._client = client
        self._place = place
        self._headed = headed
        self._printed: dict[int, int] = {}
        self._done: set[int] = set()

    def is_there(self) -> bool:
        """Whether more may come."""
        try:
            self._client.resource(*self._place)
        except NotFound:
            return False
        return True

    def print_more(self) -> None:
        """Print what has come since the last time."""
        for run in self._client.resource_runs(*self._place, last=_MOST_RUNS):
            if run["id"] not in self._done:
                self._print(run)

    def _print(self, run: Run) -> None:
        if run["ended_at"] is not None:
            self._done.add(run["id"])
        # What no lease is involved in is the resource's own.
        own = partial(self._client.resource_log, *self._place)
        log = partial(self._client.log, run["lease"]) if run["lease"] else own
        try:
            text = b"".join(log(run=run["id"]))
        except NotFound:
            # What it printed went with the resource, or with time.
            self._done.add(run["id"])
            return
        new = text[self._printed.get(run["id"], 0) :]
        self._printed[run["id"]] = len(text)
        if new and self._headed:
            say(one_line(f"==> {'/'.join(self._place)} <=="))
        print_bytes(new)


def ticket_list(ctx: typer.Context) -> None:
    """List open tickets, a line for each; all leases that have not ended are some."""
    with connected(ctx) as client:
        leases = sorted(client.leases(state=_NOT_ENDED), key=lambda lease: lease["number"] or 0)
    for lease in leases:
        tags = dict.fromkeys(tag for item in lease["items"] for tag in item.get("tags", ()))
        names = ",".join(resource["name"] for resource in held(lease))
        line = f"{name_of(lease)} - state=OPEN tags={','.join(tags)}"
        say(one_line(f"{line} resource={names}" if names else line))


def foreach_resource(
    ctx: typer.Context,
    command: Annotated[
        str, typer.Option("--command", metavar="CMD", help="For a shell; may have {name}, {state} and {data_utf8}.")
    ] = "echo {name}",
) -> None:
    """Run a command for each resource, one after the other; its status is not looked at."""
    try:
        script = placeholders.script(command)
    except ValueError as error:
        raise typer.BadParameter(f"--command {error}") from error
    with connected(ctx) as client:
        for one in _known(client):
            data = _data(client, one) if placeholders.DATA in script else ""
            values = placeholders.values(name=one.resource["name"], state=one.status, data_utf8=data)
            try:
                subprocess.run(["/bin/sh", "-c", script], env={**os.environ, **values}, check=False)
            except OSError as error:
                note(one_line(f"{'/'.join(one.place)}: {error.strerror}"))


def _data(client: Client, one: Known) -> str:
    """What was delivered of a resource to the lease that has it, as text, whatever it is."""
    lease = one.resource["lease"]
    if lease is None:
        return ""
    try:
        delivered = client.delivery(lease)["resources"]
    except (NotDelivered, NotFound):
        return ""
    except LeaseholdError as error:
        note(one_line(f"{'/'.join(one.place)}: {error.detail} ({error.code})"))
        return ""
    mine = [base64.b64decode(d["data_base64"]) for d in delivered if (d["pool"], d["name"]) == one.place]
    return b"".join(mine).decode(errors="replace")


def _known(client: Client) -> list[Known]:
    """All resources, in the order of their ids, those without one last."""
    numbers = {lease["id"]: name_of(lease) for lease in client.leases(state=_NOT_ENDED)}
    # One that was leased meanwhile is called by what there is of it.
    known = [Known(one, one["lease"] and numbers.get(one["lease"], one["lease"])) for one in client.resources()]
    return sorted(known, key=lambda one: (not one.id.isdecimal(), int(one.id) if one.id.isdecimal() else 0))


def _chosen(known: Sequence[Known], refs: Iterable[str]) -> list[Known]:
    """The resources that somebody named; raise `NotFound`, or `Invalid` where a name could be several."""
    chosen = []
    for ref in refs:
        meant = [one for one in known if one.is_called(ref)]
        if not meant:
            raise NotFound(f"there is no resource {ref}")
        if len(meant) > 1:
            raise Invalid(f"{ref} may be any of {', '.join('/'.join(one.place) for one in meant)}")
        chosen += meant
    return chosen
