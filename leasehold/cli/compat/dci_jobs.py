"""dci-queue's commands about what is scheduled: each is the command of a lease, and is called by its number."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leasehold.answers import Lease
from leasehold.cli import queued
from leasehold.cli.compat.dci_pools import Pool
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit
from leasehold.cli.output import note, one_line, print_bytes, say
from leasehold.cli.queue import Words, cancelled, searched
from leasehold.cli.queuelist import is_of
from leasehold.cli.request import LeaseRequest
from leasehold.cli.signals import Signals
from leasehold.cli.words import name_of
from leasehold.errors import LeaseUnknown, NotFound

if TYPE_CHECKING:
    from leasehold.client import Client

_PASSED_ON = ("HOME", "LANG", "PATH", "USER")
"""A job of dci-queue sees what its crontab sees, and not all that is set where it is scheduled."""
_TICK = timedelta(seconds=1)

_PIPELINE = re.compile(r"^\d{4}-.* running jobdef: (?P<name>[\w.-]+) with.*/(?P<id>[0-9a-f-]+) ")
_CHECK_CHANGE = re.compile(r'^changed: \[[\w-]+\] => (?P<said>\{"changed": true, "job":.+\})\s*$')

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the command.", show_default=False)]


def schedule(
    pool: Pool,
    command: Words = None,
    block: Annotated[
        bool, typer.Option("--block", "-b", help="Wait until the command has ended, and exit with its status.")
    ] = False,
    command_output: Annotated[
        bool, typer.Option("--command-output", "-C", help="With -b, show what it prints.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Schedule it even if it is a duplicate.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove-resource", "-r", help="Take the resource out of the pool with the job.")
    ] = False,
    priority: Annotated[int, typer.Option("--priority", "-p", help="Higher goes first; below 0 it waits.")] = 0,
    extra: Annotated[
        list[str] | None, typer.Option("--extra-pool", "-e", metavar="POOL", help="A resource of this pool too.")
    ] = None,
) -> None:
    """Schedule a command on a pool, and print its id, or that of the same command which is there already."""
    argv = command or []
    if not any("@RESOURCE" in word for word in argv):
        note(one_line(f"no @RESOURCE in command: {' '.join(argv)}"))
        raise typer.Exit(Exit.ERROR)
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    request = LeaseRequest(
        items=queued.items(pool, extra or ()),
        priority=priority,
        # Its resources may come later.
        wait_for_supply=True,
        command=queued.spec(argv, folder=os.getcwd(), env=env, unique=not force),
        on_end="offline" if remove else None,
    )
    with Signals(), connect() as client:
        lease = queued.submitted(client, request, connect)
        queued.say_queued(lease)
        if block:
            with queued.told_apart():
                raise typer.Exit(queued.tell_end(queued.awaited(client, lease, request, output=command_output)))


def log(
    pool: Pool,
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the command has ended.")] = False,
    lines: Annotated[
        str | None, typer.Option("--lines", "-n", metavar="N", help="The last N lines, or with +N from the Nth on.")
    ] = None,
) -> None:
    """Print the output of a command, as soon as it has started."""
    tail, first = _lines(lines)
    with connect() as client:
        lease = _job(client, pool, job)
        if not follow:
            _until_started(client, lease)
        for piece in _from_line(first, queued.logged(client, lease["id"], follow=follow, tail=tail)):
            print_bytes(piece)


def _lines(text: str | None) -> tuple[int | None, int]:
    """How many of the last lines, and from which one on."""
    if text is None:
        return None, 1
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise typer.BadParameter(f"-n: {text!r} is no number of lines")
    return (None, max(1, int(text))) if text.startswith("+") else (abs(int(text)), 1)


def _from_line(first: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        while first > 1 and piece:
            _, end, piece = piece.partition(b"\n")
            first -= bool(end)
        if piece:
            yield piece


def _until_started(client: Client, lease: Lease) -> None:
    command = queued.command_of(lease)
    if command["started"] or command["state"] == "ended":
        return
    note(f"Waiting for command {name_of(lease)} to start...")
    while not command["started"] and command["state"] != "ended":
        command = queued.command_of(client.lease(lease["id"], wait="ended", timeout=_TICK))


def search(pool: Pool, command: Words = None) -> None:
    """Print the ids of the scheduled and running commands that are this one."""
    with connect() as client:
        client.pool(pool)
        for lease in searched(client, pool, command=shlex.join(command or [])):
            if is_of(lease, pool):
                say(name_of(lease))


def search_dir(
    pool: Pool,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Directory to search.", show_default=False)],
) -> None:
    """Print the id of a command that was scheduled from a directory; 1 where there is none."""
    with connect() as client:
        client.pool(pool)
        found = [lease for lease in searched(client, pool, folder=folder) if is_of(lease, pool)]
    if not found:
        raise typer.Exit(Exit.ERROR)
    say(name_of(found[0]))


def unschedule(pool: Pool, job: JobId) -> None:
    """Cancel a command, scheduled or running, and wait until it has ended; an unknown one is no error."""
    with Signals(), connect() as client, suppress(LeaseUnknown):
        cancelled(client, _job(client, pool, job)["id"])


def dci_job(pool: Pool, job: JobId) -> None:
    """Print the names and ids of the DCI jobs that a command's output tells of."""
    with connect() as client:
        lease = _job(client, pool, job)
        text = b"".join(client.output(lease["id"])).decode(errors="replace")
    jobs = dict(_dci_jobs(text.splitlines()))
    if not jobs:
        note(one_line(f"No DCI job IDs found in (pool/id): {pool}/{job}"))
        raise typer.Exit(Exit.ERROR)
    for ident, name in jobs.items():
        say(one_line(f"{name}:{ident}"))


def _dci_jobs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The jobs' ids and names, as dci-pipeline and dci-check-change print them."""
    for line in lines:
        if started := _PIPELINE.search(line):
            yield started["id"], started["name"]
        elif changed := _CHECK_CHANGE.search(line):
            with suppress(ValueError, LookupError, TypeError):
                told: Any = json.loads(changed["said"])["job"]
                yield str(told["id"]), str(told["name"])


def _job(client: Client, pool: str, job: str) -> Lease:
    """A command of a pool, which may be removed by now; raise `LeaseUnknown` where it has none of this id."""
    with suppress(NotFound):
        lease = client.lease(job)
        if lease["command"] is not None and is_of(lease, pool):
            return lease
    client.pool(pool)
    raise LeaseUnknown(f"there is no command {job} in pool {pool}")
