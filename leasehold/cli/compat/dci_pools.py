"""dci-queue's commands about pools and their resources, and those that have nothing to do here."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Annotated

import typer

from leasehold import dciqueue
from leasehold.cli import queuelist
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit
from leasehold.cli.output import note, one_line, say
from leasehold.errors import Conflict, NotFound

_PROGRAM = "leasehold compat dci-queue"
_LONGEST_REASON = 1000

Pool = Annotated[str, typer.Argument(metavar="POOL", help="Name of the pool.", show_default=False)]
Resource = Annotated[str, typer.Argument(metavar="NAME", help="Name of the resource.", show_default=False)]
File = Annotated[str, typer.Argument(metavar="FILE", help="Left as it is.", show_default=False)]
NoInstall = Annotated[bool, typer.Option("--no-install", "-n", help="Nothing is ever installed.")]
NoUninstall = Annotated[bool, typer.Option("--no-uninstall", "-n", help="Nothing is ever installed.")]


def add_pool(pool: Pool, no_install: NoInstall = False) -> None:
    """Create a pool of resources, for commands of every user; one that there is stays as it is."""
    with connect() as client:
        with suppress(NotFound):
            client.pool(pool)
            return
        client.put_pool(pool, dciqueue.pool(pool))


def remove_pool(pool: Pool, no_uninstall: NoUninstall = False) -> None:
    """Remove a pool; what runs there goes on to its end."""
    with connect() as client, suppress(NotFound):
        client.delete_pool(pool)


def add_resource(pool: Pool, name: Resource) -> None:
    """Create a resource in a pool, or give one back that was removed."""
    with connect() as client:
        client.pool(pool)
        try:
            found = client.resource(pool, name)
        except NotFound:
            client.put_resource(pool, name)
            return
        # One that is to go with its job stays then; what a pools file lists stays anyway.
        with suppress(Conflict):
            client.put_resource(pool, name, tags=found["tags"], properties=found["properties"])
        if found["offline"] is not None:
            client.online(pool, name)


def remove_resource(
    pool: Pool,
    name: Resource,
    reason: Annotated[str, typer.Argument(metavar="REASON", help="Reason of the removal.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", "-f", help="Forget the resource, and the reason.")] = False,
) -> None:
    """Remove a resource from a pool; a command that has it keeps it until its end."""
    with connect() as client:
        client.pool(pool)
        if force:
            with suppress(NotFound):
                client.delete_resource(pool, name)
            return
        try:
            client.offline(pool, name, reason[:_LONGEST_REASON])
        except NotFound as error:
            note(one_line(f"Trying to remove resource {name} that does not exist."))
            raise typer.Exit(Exit.ERROR) from error


def list_pool(
    pool: Annotated[str | None, typer.Argument(metavar="POOL", help="Name of the pool.", show_default=False)] = None,
) -> None:
    """List the commands scheduled on a pool of resources, or the pools."""
    with connect() as client:
        if pool is not None:
            found = queuelist.read(client, pool)
            mine = [lease for lease in found.leases if queuelist.is_of(lease, pool)]
            queuelist.print_list(replace(found, leases=mine), " ".join)
            return
        names = sorted(one["name"] for one in client.pools())
    if not names:
        say("No pool was found on the host.")
        return
    say("The following pools were found:")
    for name in names:
        say(one_line(f"  {name}"))
    say("Run the command below for the list of commands scheduled on your target pool:")
    say(f"  {_PROGRAM} list <pool>")


def run(
    pool: Pool,
    command_output: Annotated[
        bool, typer.Option("--command-output", "-C", help="Nothing runs here: schedule -b -C shows it.")
    ] = False,
) -> None:
    """Do nothing: runners take commands as soon as there are resources for them."""
    _idle(pool, "Runners run what is scheduled: there is nothing to do")


def clean(pool: Pool) -> None:
    """Do nothing: what a dead command had is free already."""
    _idle(pool, "There is nothing to clean")


def install(pool: Pool) -> None:
    """Do nothing: no crontab is needed."""
    _idle(pool, "There is nothing to install")


def uninstall(pool: Pool) -> None:
    """Do nothing: no crontab was needed."""
    _idle(pool, "There is nothing to uninstall")


def add_crontab(pool: Pool, file: File) -> None:
    """Do nothing: no crontab is needed."""
    _idle(pool, "There is nothing to install")


def remove_crontab(pool: Pool, file: File) -> None:
    """Do nothing: no crontab was needed. Lines of dci-queue's own are for you to remove."""
    _idle(pool, "There is nothing to uninstall")


def _idle(pool: str, why: str) -> None:
    with connect() as client:
        client.pool(pool)
    note(why)
